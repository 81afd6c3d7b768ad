/* tile_mma.h - products of bf16 and f16 tiles on tensor cores: 128 x 128 of a result by a block of
 * 256 threads.
 *
 * A block goes through the summed axis in slices of 32, which it copies into shared memory ahead of
 * their use (fill them with copy_16, close each with copies_end, wait with copies_wait). A warp
 * owns 32 x 64 of the result, as tiles of 16 x 16 whose sums lie in its threads' registers the way
 * mma.m16n8k16 leaves them. Sums are in f32, in one fixed order. The instructions come first; the
 * host, which plays the device for tests, has them from tests/cuda_host/warp.cpp. */
#ifndef DLV3_CUDA_TILE_MMA_H
#define DLV3_CUDA_TILE_MMA_H

#include "cuda/support/common.h"

enum { MMA_SIDE = 128, MMA_SLICE = 32, MMA_STAGES = 3, MMA_THREADS = 256, MMA_TILE = 16, MMA_CHUNK = 8 };
enum { MMA_WARP_ROWS = 32, MMA_WARP_COLUMNS = 64, MMA_OPERAND = MMA_SIDE * MMA_SLICE };

/* -- Instructions ------------------------------------------------------------------------------ */

/* 16 bytes to shared memory, both on such a boundary, that arrive later; zeros where there is
 * nothing (from must be memory of the device even so). */
DEVICE void copy_16(void *to, const void *from, bool there) {
#ifdef __CUDACC__
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
#else
  cuda_host_copy_16(to, from, there);
#endif
}
/* The copies since the last one of these belong together. */
DEVICE void copies_end() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  cuda_host_copies_end();
#endif
}
/* All have arrived but those of the last `pending` ends; the thread's own: a barrier makes it so
 * for the block. */
template <int pending> DEVICE void copies_wait() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#else
  cuda_host_copies_wait(pending);
#endif
}

/* The rest is for whole warps. d += a b: 16 x 8 sums of 16 products. */
#ifdef __CUDACC__
#define MMA_16X8X16(type) \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type \
      ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
DEVICE void mma_16x8x16(float *d, const uint32_t *a, const uint32_t *b, bf16) { MMA_16X8X16("bf16"); }
DEVICE void mma_16x8x16(float *d, const uint32_t *a, const uint32_t *b, f16) { MMA_16X8X16("f16"); }
#else
template <class T> static float mma_element(uint16_t bits) { return wide(T{bits}); }
template <class T> DEVICE void mma_16x8x16(float *d, const uint32_t *a, const uint32_t *b, T) {
  cuda_host_mma(d, a, b, mma_element<T>);
}
#endif

/* Four 8 x 8 matrices of 2-byte elements; each lane names the row of one, 16 bytes on such a
 * boundary. */
template <bool transposed> DEVICE void load_matrices(uint32_t *r, const void *row) {
#ifdef __CUDACC__
  const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
  if (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
#else
  cuda_host_load_matrices(r, row, transposed);
#endif
}

/* -- Slices in shared memory ------------------------------------------------------------------- */

/* Where element (i, l) of an operand's slice lies; i: row or column of the result, l: along the
 * sum. Chunks of 8 elements stay together, and which chunk is where depends on the row, so that the
 * eight rows that ldmatrix reads at once and the rows that neighbouring threads write lie in
 * different banks.
 *   along   elements along l are neighbours in memory: rows of 32
 *   else    elements along i are: rows of 128 */
template <bool along> BOTH int mma_place(int i, int l) {
  return along ? i * MMA_SLICE + ((l / MMA_CHUNK) ^ (i / 2 & 3)) * MMA_CHUNK + l % MMA_CHUNK
               : l * MMA_SIDE + ((i / MMA_CHUNK) ^ (l & 7)) * MMA_CHUNK + i % MMA_CHUNK;
}

/* The thread's q-th chunk of a slice, q = 0, 1: its first element. */
typedef struct {
  int i, l;
} mma_spot;
template <bool along> DEVICE mma_spot mma_chunk(int q) {
  const int e = ((int)threadIdx.x + q * MMA_THREADS) * MMA_CHUNK;
  return along ? mma_spot{e / MMA_SLICE, e % MMA_SLICE} : mma_spot{e % MMA_SIDE, e / MMA_SIDE};
}

/* -- A tile: 16 x 16 of the result, 16 along the sum ------------------------------------------- */

/* load and multiply are for whole warps. A thread's 8 sums of a tile: row(e), column(e) say which. */
template <class T, bool along> struct tile_mma {
  DEVICE static int row(int e) { return (int)threadIdx.x % 32 / 4 + e / 2 % 2 * 8; }
  DEVICE static int column(int e) { return e / 4 * 8 + (int)threadIdx.x % 4 * 2 + e % 2; }
  typedef struct {
    uint32_t r[4];
  } fragment;
  /* Each lane names one row of the four 8 x 8 matrices that are read: for the left operand these
   * are (i, l) = (0, 0), (8, 0), (0, 8), (8, 8), for the right one (0, 0), (0, 8), (8, 0), (8, 8):
   * two columns of mma.m16n8k16. Tiles begin at multiples of 16, where mma_place's order of chunks
   * begins anew: a lane's place in one tile holds for all. */
  DEVICE static fragment left(const T *slice, int i, int l) {
    const int lane = (int)threadIdx.x % 32, in = lane % 8, first = lane / 8 % 2 * 8, second = lane / 16 * 8;
    fragment f;
    load_matrices<!along>(f.r, slice
                                   + (along ? i * MMA_SLICE + mma_place<along>(first + in, l + second)
                                            : mma_place<along>(i + first, l + second + in)));
    return f;
  }
  DEVICE static fragment right(const T *slice, int j, int l) {
    const int lane = (int)threadIdx.x % 32, in = lane % 8, first = lane / 8 % 2 * 8, second = lane / 16 * 8;
    fragment f;
    load_matrices<!along>(f.r, slice
                                   + (along ? j * MMA_SLICE + mma_place<along>(second + in, l + first)
                                            : mma_place<along>(j + second, l + first + in)));
    return f;
  }
  DEVICE static void multiply(float *sum, const fragment &a, const fragment &b) {
    mma_16x8x16(sum, a.r, b.r, T());
    mma_16x8x16(sum + 4, a.r, b.r + 2, T());
  }
};

/* -- A warp's part of the block's 128 x 128 ---------------------------------------------------- */

template <class T, bool along> struct warp_product {
  typedef tile_mma<T, along> tile;
  enum { ROWS = MMA_WARP_ROWS / MMA_TILE, COLUMNS = MMA_WARP_COLUMNS / MMA_TILE };
  float sum[ROWS][COLUMNS][8];
  /* The first row and column that the warp owns. */
  DEVICE static int first_row() { return (int)threadIdx.x / 32 % (MMA_SIDE / MMA_WARP_ROWS) * MMA_WARP_ROWS; }
  DEVICE static int first_column() { return (int)threadIdx.x / 32 / (MMA_SIDE / MMA_WARP_ROWS) * MMA_WARP_COLUMNS; }
  DEVICE void clear() {
    UNROLL
    for (int i = 0; i < ROWS * COLUMNS * 8; i++) sum[i / 8 / COLUMNS][i / 8 % COLUMNS][i % 8] = 0;
  }
  /* Adds the product of two slices. */
  DEVICE void add(const T *left, const T *right) {
    UNROLL
    for (int l = 0; l < MMA_SLICE; l += MMA_TILE) {
      typename tile::fragment a[ROWS];
      UNROLL
      for (int i = 0; i < ROWS; i++) a[i] = tile::left(left, first_row() + i * MMA_TILE, l);
      UNROLL
      for (int j = 0; j < COLUMNS; j++) {
        const typename tile::fragment b = tile::right(right, first_column() + j * MMA_TILE, l);
        UNROLL
        for (int i = 0; i < ROWS; i++) tile::multiply(sum[i][j], a[i], b);
      }
    }
  }
};

/* Shared memory of a block: the stages while it sums, then the sums on their way out. */
enum { MMA_MEMORY = MMA_STAGES * 2 * MMA_OPERAND * 2, MMA_PITCH = MMA_WARP_COLUMNS + 8 };
static_assert((int)MMA_THREADS / 32 * (int)MMA_TILE * (int)MMA_PITCH * 4 <= (int)MMA_MEMORY,
              "the sums of a row of tiles fit too");

/* The block's sum over `steps` slices. source.fill(left, right) copies the next slice; busy:
 * whether the warp has anything to add. With three stages a slice is asked for two steps before it
 * is used, and one barrier a step is enough: what a stage held was read by all before the barrier
 * of the step that fills it anew. */
template <class T, bool along, class Source>
DEVICE void mma_sum(warp_product<T, along> *product, char *memory, Source *source, int steps, bool busy) {
  enum { AHEAD = MMA_STAGES - 1 };
  T *stages = (T *)memory;
  product->clear();
  int now = 0, next = 0; /* stages: to be multiplied, to be filled */
  for (int s = -AHEAD; s < steps; s++) {
    if (s >= 0) copies_wait<AHEAD - 1>();
    __syncthreads();
    if (s + AHEAD < steps) source->fill(stages + next * 2 * MMA_OPERAND, stages + (next * 2 + 1) * MMA_OPERAND);
    copies_end();
    next = next + 1 == MMA_STAGES ? 0 : next + 1;
    if (s < 0) continue;
    if (busy) product->add(stages + now * 2 * MMA_OPERAND, stages + (now * 2 + 1) * MMA_OPERAND);
    now = now + 1 == MMA_STAGES ? 0 : now + 1;
  }
}

/* Hands the sums out, by way of shared memory so that neighbours get neighbouring columns:
 * sink.rows(i) announces the 16 rows from i, sink.store(r, j, sum) gets the sum of row i + r and
 * column j. */
template <class T, bool along, class Sink>
DEVICE void mma_results(const warp_product<T, along> &product, char *memory, Sink *sink, bool busy) {
  typedef warp_product<T, along> warp;
  float *part = (float *)memory + threadIdx.x / 32 * (MMA_TILE * MMA_PITCH);
  UNROLL
  for (int i = 0; i < warp::ROWS; i++) {
    __syncthreads();
    UNROLL
    for (int e = 0; e < warp::COLUMNS * 8; e++)
      part[warp::tile::row(e % 8) * MMA_PITCH + e / 8 * MMA_TILE + warp::tile::column(e % 8)] =
          product.sum[i][e / 8][e % 8];
    __syncthreads();
    if (!busy) continue;
    sink->rows(warp::first_row() + i * MMA_TILE);
    for (int r = 0; r < MMA_TILE; r++)
      for (int j = (int)threadIdx.x % 32; j < MMA_WARP_COLUMNS; j += 32)
        sink->store(r, warp::first_column() + j, part[r * MMA_PITCH + j]);
  }
}

#endif

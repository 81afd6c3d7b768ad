/* pixels.h - what the kernels over maps share: packs of channels, the pixels of a thread, ways back
 * through a stride, sums.
 *
 * Memory is channels-last: a thread takes a pack of channels, neighbours take neighbouring packs,
 * and what there is to find out about a pixel is found out once for the whole pack. Coordinates
 * have 32 bits, offsets 64. */
#ifndef DLV3_CUDA_PIXELS_H
#define DLV3_CUDA_PIXELS_H

#include "common.h"

/* -- Packs of channels ------------------------------------------------------------------------- */

/* Whether every pixel of the maps at a, b, other starts on a boundary of 16 bytes, the size of a
 * pack. */
template <class T>
static inline bool in_packs(int64_t channels, const void *a, const void *b, const void *other = NULL) {
  return channels % (16 / (int64_t)sizeof(T)) == 0 && ((uintptr_t)a | (uintptr_t)b | (uintptr_t)other) % 16 == 0;
}
/* Runs the statement with V the elements that are read at once: a pack of T, or one. */
#define BY_PACK(T, packs, ...) \
  do { \
    if (packs) { \
      enum { V = 16 / sizeof(T) }; \
      __VA_ARGS__; \
    } else { \
      enum { V = 1 }; \
      __VA_ARGS__; \
    } \
  } while (0)

/* A pack in the computing type; two elements of 16 bits are taken from their word with an
 * instruction each. */
template <class C, class T, int V> DEVICE void widen(C (&to)[V], const pack<T, V> &p) {
  UNROLL
  for (int i = 0; i < V; i++) to[i] = wide(p.v[i]);
}
template <class T> DEVICE void widen(float (&to)[8], const pack<T, 8> &p) {
  uint32_t words[4];
  memcpy(words, &p, sizeof words);
  UNROLL
  for (int i = 0; i < 4; i++)
    to[2 * i] = wide(T{(uint16_t)words[i]}), to[2 * i + 1] = wide(T{(uint16_t)(words[i] >> 16)});
}

DEVICE bool inside(int32_t at, int32_t size) { return (uint32_t)at < (uint32_t)size; }

/* -- The pixels of a thread -------------------------------------------------------------------- */

/* A pack of channels from k on, at N pixels of row y of image n: x, x + step, ... Those past the
 * row's end do not exist. */
typedef struct {
  int64_t n;
  int32_t k, y, x;
} spot;
template <int N> BOTH int64_t spots_in_row(int64_t width, int64_t step) { return ceil_div(width, N * step) * step; }
template <int V, int N> DEVICE spot spot_of(int64_t i, int64_t channels, int64_t height, int64_t width, int32_t step) {
  const int64_t packs = channels / V, of_row = spots_in_row<N>(width, step), rest = i / packs, row = rest / of_row,
                n = row / height;
  const int32_t at = (int32_t)(rest - row * of_row), run = at / step;
  return spot{n, (int32_t)(i - rest * packs) * V, (int32_t)(row - n * height), run * (N * step) + (at - run * step)};
}

/* -- From an input coordinate to the outputs that meet it -------------------------------------- */

/* Tap t meets (in + padding - t dilation) / stride, if nothing is left. Counted from tap to tap,
 * which saves divisions. */
typedef struct {
  int32_t out, left, stride, out_step, left_step;
} way_back;
DEVICE way_back way_from(int32_t in, int64_t stride, int64_t padding, int64_t dilation) {
  const int32_t s = (int32_t)stride, d = (int32_t)dilation, from = in + (int32_t)padding;
  return way_back{from / s, from % s, s, d / s, d % s};
}
DEVICE void next_tap(way_back *b) {
  b->out -= b->out_step, b->left -= b->left_step;
  if (b->left < 0) b->left += b->stride, b->out--;
}

/* -- Sums over pixels -------------------------------------------------------------------------- */

/* A block of them: packs of channels along x, pixels along y; as few idle threads as can be, since
 * maps have 9 packs or 28. */
static inline dim3 sums_block(int64_t packs) {
  const unsigned x = (unsigned)ceil_div(packs, ceil_div(packs, 32));
  return dim3(x, BLOCK / x);
}
/* Parts of so many pixels that are summed apart, so that all blocks together are about a thousand. */
static inline int64_t parts_for(int64_t blocks, int64_t pixels) {
  const int64_t parts = least(blocks < 1024 ? 1024 / blocks : 1, ceil_div(pixels, 64));
  return parts < 1 ? 1 : parts;
}

/* v[V] summed over the rows of threads, in their order: thread i, counted along x first, has the
 * sum of the block's channel i; those behind the last have 0. buf: shared, one a thread. All
 * threads call it. */
template <class S, int V> DEVICE S sum_of_channel(const S *v, pack<S, V> *buf) {
  static_assert(BLOCK / 32 >= V, "there are as many threads as channels");
  const unsigned i = threadIdx.y * blockDim.x + threadIdx.x, channels = blockDim.x * V;
  const S *column = (const S *)buf + i;
  S sum = 0;
  __syncthreads();
  UNROLL
  for (int c = 0; c < V; c++) buf[i].v[c] = v[c];
  __syncthreads();
  if (i < channels)
    for (unsigned y = 0; y < blockDim.y; y++) sum += column[y * channels];
  return sum;
}

#endif

/* atrous.cu - 3x3 convolution of large dilation on tensor cores, in bf16 and f16: taps that fall on padding are not computed.
 *
 * The output is cut into tiles of 4 x 4 pixels. At a tap a tile reads 4 x 4 pixels of the input, shifted by the dilation;
 * where all of them lie outside, the tap adds nothing and is left out for the tile. Which taps are left depends on the
 * tile's row and column alone, so the map falls into at most 7 x 7 regions of tiles that need the same ones, and a block
 * takes its 8 tiles from one region: all of its warps leave out the same taps. The work, as a share of nine taps a pixel:
 *
 *   map, dilation    12     24     36
 *   60 x 60         .751   .538   .360    these are the useful products, no more: map and dilation are multiples of 4
 *   64 x 64         .766   .563   .391    the same
 *   65 x 65         .852   .640   .458    tiles on the edge are a quarter full, some pairs are partly on padding
 *
 * to which the last block of a region adds the tiles it lacks. Backward by input is the same convolution of grad_y with
 * the weights turned round. Backward by weight is a matrix product a tap, over just the pixels whose tap lies inside.
 * The weights are f32; a copy in the activations' dtype is kept with them. Every sum has one fixed order. */
#include "conv.h"

#include "tile_mma.h"

enum { SIDE = 4, TILE = SIDE * SIDE, BLOCK_TILES = MMA_SIDE / TILE, TAPS = 9, MOST_BANDS = 7 };
static_assert((int)TILE == (int)MMA_TILE, "a tile of pixels is the rows of one tile of sums");

/* -- Regions ----------------------------------------------------------------------------------------------- */

/* Rows (or columns) of tiles that need the same taps; tap r: bit r. */
typedef struct { int32_t begin, end, taps; } band;

/* A tap is needed by consecutive rows of tiles, so three of them make at most seven bands. */
static int bands_of(band *out, int64_t n_out, int64_t n_in, int64_t padding, int64_t dilation) {
  int n = 0;
  for (int64_t tile = 0; tile < ceil_div(n_out, SIDE); tile++) {
    const int64_t first = input_at(tile * SIDE, 0, 1, padding, dilation), last = input_at(least(tile * SIDE + SIDE, n_out) - 1, 0, 1, padding, dilation);
    int32_t taps = 0;
    for (int r = 0; r < 3; r++)
      if (first + r * dilation < n_in && last + r * dilation >= 0) taps |= 1 << r;
    if (!n || out[n - 1].taps != taps) out[n++] = band{(int32_t)tile, (int32_t)tile, taps};
    out[n - 1].end = (int32_t)tile + 1;
  }
  return n;
}

/* Tiles of all images that need the same taps, and the first of the blocks that compute them. */
typedef struct { int32_t first_block, taps, n_taps, y, x, height, width; } region;
typedef struct {
  int32_t n;
  int64_t blocks, pairs;             /* pairs: of a tile and a tap that it needs              */
  region of[MOST_BANDS * MOST_BANDS];
} region_list;

/* Those with the most taps come first, so that the last blocks to start are short ones. */
static region_list regions_of(const conv &v) {
  band rows[MOST_BANDS], columns[MOST_BANDS];
  const int n_rows = bands_of(rows, v.oh, v.h, v.padding.h, v.dilation.h), n_columns = bands_of(columns, v.ow, v.w, v.padding.w, v.dilation.w);
  region_list list = {};
  for (int i = 0; i < n_rows; i++)
    for (int j = 0; j < n_columns; j++) {
      region r = {0, 0, 0, rows[i].begin, columns[j].begin, rows[i].end - rows[i].begin, columns[j].end - columns[j].begin};
      for (int tap = 0; tap < TAPS; tap++)
        if (rows[i].taps >> tap / 3 & 1 && columns[j].taps >> tap % 3 & 1) r.taps |= 1 << tap, r.n_taps++;
      int at = list.n++;
      for (; at > 0 && list.of[at - 1].n_taps < r.n_taps; at--) list.of[at] = list.of[at - 1];
      list.of[at] = r;
      list.pairs += (int64_t)r.height * r.width * r.n_taps;
    }
  for (int i = 0; i < list.n; i++) {
    list.of[i].first_block = (int32_t)list.blocks;
    list.blocks += ceil_div(v.n * list.of[i].height * list.of[i].width, BLOCK_TILES);
  }
  return list;
}

/* -- Weights ----------------------------------------------------------------------------------------------- */

/* to[row][tap][l], rows of `padded` elements with zeros behind the last. As it lies: row is the output channel, l the
 * input channel; turned: the other way round, with the taps in reverse. A block: 32 rows by 32 elements of a tap. */
template <class T> static __global__ void copy_weights(const float *w, T *to, int64_t k, int64_t c, int64_t padded, bool turned) {
  __shared__ float part[32][33];
  const int64_t tap = blockIdx.z, l0 = (int64_t)blockIdx.x * 32, row0 = (int64_t)blockIdx.y * 32;
  const int64_t k0 = turned ? l0 : row0, c0 = turned ? row0 : l0, rows = turned ? c : k;
  for (int64_t i = threadIdx.y; i < 32; i += blockDim.y)
    part[i][threadIdx.x] = k0 + i < k && c0 + threadIdx.x < c ? w[((k0 + i) * TAPS + (turned ? TAPS - 1 - tap : tap)) * c + c0 + threadIdx.x] : 0.0f;
  __syncthreads();
  for (int64_t i = threadIdx.y; i < 32; i += blockDim.y) {
    const int64_t row = row0 + i, l = l0 + threadIdx.x;
    if (row < rows && l < padded) to[(row * TAPS + tap) * padded + l] = narrow<T>(turned ? part[threadIdx.x][i] : part[i][threadIdx.x]);
  }
}

static int64_t padded_depth(int64_t depth) { return ceil_div(depth, MMA_CHUNK) * MMA_CHUNK; }

/* The copy of w that a convolution by v (turned or not) reads. */
template <class T> static status weights_of(const T **out, const op_call *c, tensor *w, const conv &v, bool turned) {
  const int64_t padded = padded_depth(v.c);
  const uint64_t key = (uint64_t)0xa720 << 48 ^ (uint64_t)v.k << 28 ^ (uint64_t)v.c << 8 ^ (uint64_t)c->in[0]->dtype << 1 ^ turned;
  weight_copy *kept;
  TRY(weight_copy_of(&kept, c, w, key, v.k * TAPS * padded * (int64_t)sizeof(T)));
  *out = (const T *)kept->st->data;
  if (kept->base.version == storage_version(w->st)) return DLV3_OK;
  const dim3 grid((unsigned)ceil_div(padded, 32), (unsigned)ceil_div(v.k, 32), TAPS);
  const cudaStream_t stream = stream_of(c);
  LAUNCH(copy_weights<T>, grid, dim3(32, 8), stream, data_as<float>(w), (T *)kept->st->data, w->size[0], w->size[1], padded, turned);
  TRY(LAUNCHED(c));
  return kept->base.version = storage_version(w->st), DLV3_OK;
}

/* -- The product: rows are the pixels of 8 tiles, columns output channels ---------------------------------- */

/* Where row i of the block's result is; n = -1: nowhere. */
typedef struct { int64_t n, y, x; } pixel;
DEVICE pixel pixel_of(const conv &v, const region &r, int64_t first_tile, int i) {
  const int64_t tile = first_tile + i / TILE, a_row = r.width, an_image = a_row * r.height;
  const pixel p = {tile / an_image, (r.y + tile / a_row % r.height) * SIDE + i % TILE / SIDE, (r.x + tile % a_row) * SIDE + i % SIDE};
  return p.n < v.n && p.y < v.oh && p.x < v.ow ? p : pixel{-1, 0, 0};
}

/* 8 elements, of which `there` exist, from memory that begins anywhere. */
template <class T> DEVICE void gather_chunk(T *to, const T *from, int64_t there) {
  pack<T, MMA_CHUNK> p;
  UNROLL
  for (int i = 0; i < MMA_CHUNK; i++) p.v[i] = i < there ? from[i] : narrow<T>(0.0f);
  *(pack<T, MMA_CHUNK> *)to = p;
}

/* What mma_sum reads: input channels in slices, tap by tap of those that the region needs. */
template <class T> struct tap_source {
  conv v;
  const T *x, *w;
  int64_t padded, column;            /* column: the block's first                             */
  bool whole;                        /* rows of x lie on boundaries of 16 bytes               */
  int taps;                          /* those to come                                         */
  int64_t at, l0;                    /* the tap and the channel of the next slice             */
  pixel out[2];
  const T *row[2];
  DEVICE void start_tap() {
    at = 0, l0 = 0;
    while (!(taps >> at & 1)) at++;
    taps &= ~(1 << at);
    UNROLL
    for (int q = 0; q < 2; q++) {
      const int64_t iy = input_at(out[q].y, at / 3, 1, v.padding.h, v.dilation.h), ix = input_at(out[q].x, at % 3, 1, v.padding.w, v.dilation.w);
      const bool inside = out[q].n >= 0 && iy >= 0 && iy < v.h && ix >= 0 && ix < v.w;
      row[q] = inside ? x + ((out[q].n * v.h + iy) * v.w + ix) * v.c : NULL;
    }
  }
  DEVICE void fill(T *left, T *right) {
    if (l0 >= v.c) start_tap();
    UNROLL
    for (int q = 0; q < 2; q++) {
      const mma_spot to = mma_chunk<true>(q);
      const int64_t l = l0 + to.l, j = column + to.i;
      const bool pixels = row[q] && l < v.c, weights = j < v.k && l < padded;
      if (whole) copy_16(left + mma_place<true>(to.i, to.l), pixels ? row[q] + l : x, pixels);
      else gather_chunk(left + mma_place<true>(to.i, to.l), pixels ? row[q] + l : x, pixels ? v.c - l : 0);
      copy_16(right + mma_place<true>(to.i, to.l), weights ? w + (j * TAPS + at) * padded + l : w, weights);
    }
    l0 += MMA_SLICE;
  }
};

template <class T> static __global__ void __launch_bounds__(MMA_THREADS, 2)
tap_product(conv v, region_list regions, const T *x, bool whole, const T *w, int64_t padded, T *y, epilogue<T, float> end) {
  int which = regions.n - 1;
  while (regions.of[which].first_block > (int64_t)blockIdx.x) which--;
  const region here = regions.of[which];
  const int64_t first_tile = ((int64_t)blockIdx.x - here.first_block) * BLOCK_TILES, tiles = v.n * here.height * here.width;
  const int64_t column = (int64_t)blockIdx.y * MMA_SIDE;
  typedef warp_product<T, true> product;
  tap_source<T> source = {v, x, w, padded, column, whole, here.taps, 0, v.c, {}, {}};
  UNROLL
  for (int q = 0; q < 2; q++) source.out[q] = pixel_of(v, here, first_tile, mma_chunk<true>(q).i);
  product sums;
  const bool busy = first_tile + product::first_row() / TILE < tiles && column + product::first_column() < v.k;
  mma_sum(&sums, &source, here.n_taps * (int)ceil_div(v.c, MMA_SLICE), busy);
  if (!busy) return;
  UNROLL
  for (int i = 0; i < product::ROWS; i++)
    UNROLL
    for (int half = 0; half < 2; half++) {
      const pixel p = pixel_of(v, here, first_tile, product::first_row() + i * TILE + product::tile::row(half * 2));
      UNROLL
      for (int j = 0; j < product::COLUMNS; j++)
        UNROLL
        for (int e = 0; e < 4; e++) {
          const int own = half * 2 + e / 2 * 4 + e % 2;
          const int64_t k = column + product::first_column() + j * MMA_TILE + product::tile::column(own), to = ((p.n * v.oh + p.y) * v.ow + p.x) * v.k + k;
          if (p.n >= 0 && k < v.k) y[to] = end(sums.sum[i][j][own], to, k);
        }
    }
}

static bool on_chunks(const void *p, int64_t channels) { return (uintptr_t)p % 16 == 0 && channels % MMA_CHUNK == 0; }

template <class T> static status convolve(const op_call *c, const conv &v, const region_list &regions, bool turned, const epilogue<T, float> &end) {
  const T *w, *x = data_as<T>(c->in[0]);
  TRY(weights_of<T>(&w, c, c->in[1], v, turned));
  const dim3 grid((unsigned)regions.blocks, (unsigned)ceil_div(v.k, MMA_SIDE));
  const cudaStream_t stream = stream_of(c);
  LAUNCH(tap_product<T>, grid, MMA_THREADS, stream, v, regions, x, on_chunks(x, v.c), w, padded_depth(v.c), data_as<T>(c->out[0]), end);
  return LAUNCHED(c);
}

/* -- The three passes -------------------------------------------------------------------------------------- */

/* What all passes need; cheap, and before anything else. */
static status suits(const conv &v, int32_t dtype) {
  if (v.r != 3 || v.s != 3 || v.stride.h != 1 || v.stride.w != 1 || v.groups != 1) return DECLINED("not 3x3 of stride 1 in one group");
  if (dtype != DLV3_BF16 && dtype != DLV3_F16) return DECLINED("not bf16 or f16");
  if (!(v.n && v.c && v.h && v.w && v.k && v.oh && v.ow)) return DECLINED("nothing to do");
  return DLV3_OK;
}
/* Also that an eighth of the pairs of tile and tap, or more, is left out. */
static status plan(region_list *out, const conv &v) {
  *out = regions_of(v);
  if (8 * out->pairs > 7 * TAPS * ceil_div(v.oh, SIDE) * ceil_div(v.ow, SIDE)) return DECLINED("too few taps fall on padding");
  return out->blocks > INT32_MAX ? DECLINED("more pixels than one grid takes") : DLV3_OK;
}

status atrous_conv2d(op_call *c) {
  const conv v = conv_of(c);
  region_list regions;
  TRY(suits(v, c->in[0]->dtype));
  TRY(plan(&regions, v));
  if (c->in[0]->dtype == DLV3_BF16) return convolve<bf16>(c, v, regions, false, epilogue_of<bf16, float>(c));
  return convolve<f16>(c, v, regions, false, epilogue_of<f16, float>(c));
}

/* The convolution of grad_y that gives grad_x: tap r is v's tap 2 - r. */
static conv turned_conv(const conv &v) {
  conv t = v;
  t.c = v.k, t.h = v.oh, t.w = v.ow, t.k = v.c, t.oh = v.h, t.ow = v.w;
  t.padding.h = 2 * v.dilation.h - v.padding.h, t.padding.w = 2 * v.dilation.w - v.padding.w; /* may be less than 0 */
  return t;
}

status atrous_conv2d_backward_input(op_call *c) {
  const conv v = conv_of(c), t = turned_conv(v);
  region_list regions;
  TRY(suits(v, c->in[0]->dtype));
  TRY(plan(&regions, t));
  if (c->in[0]->dtype == DLV3_BF16) return convolve<bf16>(c, t, regions, true, epilogue<bf16, float>{NULL, NULL, ACT_NONE});
  return convolve<f16>(c, t, regions, true, epilogue<f16, float>{NULL, NULL, ACT_NONE});
}

/* atrous.cu - 3x3 convolution of large dilation on tensor cores, in bf16 and f16: taps that fall on
 * padding are not computed.
 *
 * The output is cut into tiles of 4 x 4 pixels. At a tap a tile reads 4 x 4 pixels of the input,
 * shifted by the dilation; where all of them lie outside, the tap adds nothing and is left out for
 * the tile. Which taps are left depends on the tile's row and column alone, so the map falls into
 * at most 7 x 7 regions of tiles that need the same ones, and a block takes its 8 tiles from one
 * region: all of its warps leave out the same taps. The work, as a share of nine taps a pixel:
 *
 *   map, dilation    12     24     36
 *   60 x 60         .751   .538   .360    these are the useful products, no more: map and dilation are multiples of 4
 *   64 x 64         .766   .563   .391    the same
 *   65 x 65         .852   .640   .458    tiles on the edge are a quarter full, some pairs are partly on padding
 *
 * to which the last block of a region adds the tiles it lacks. Backward by input is the same
 * convolution of grad_y with the weights turned round. Backward by weight is a matrix product a
 * tap, over just the pixels whose tap lies inside. The weights are f32; a copy in the activations'
 * dtype is kept with them. Every sum has one fixed order. */
#include "conv.h"

#include "tile_mma.h"

enum {
  SIDE = 4,
  TILE = SIDE * SIDE,
  BLOCK_TILES = MMA_SIDE / TILE,
  TAPS = 9,
  MOST_BANDS = 7,
  MOST_CHANNELS = 65535 * 32
};
static_assert((int)TILE == (int)MMA_TILE, "a tile of pixels is the rows of one tile of sums");

/* -- Regions ----------------------------------------------------------------------------------- */

/* Rows (or columns) of tiles that need the same taps; tap r: bit r. */
typedef struct {
  int32_t begin, end, taps;
} band;

/* A tap is needed by consecutive rows of tiles, so three of them make at most seven bands. */
static int bands_of(band *out, int64_t n_out, int64_t n_in, int64_t padding, int64_t dilation) {
  int n = 0;
  for (int64_t tile = 0; tile < ceil_div(n_out, SIDE); tile++) {
    const int64_t first = input_at(tile * SIDE, 0, 1, padding, dilation),
                  last = input_at(least(tile * SIDE + SIDE, n_out) - 1, 0, 1, padding, dilation);
    int32_t taps = 0;
    for (int r = 0; r < 3; r++)
      if (first + r * dilation < n_in && last + r * dilation >= 0) taps |= 1 << r;
    if (!n || out[n - 1].taps != taps) out[n++] = band{(int32_t)tile, (int32_t)tile, taps};
    out[n - 1].end = (int32_t)tile + 1;
  }
  return n;
}

/* Tiles of all images that need the same taps, and the first of the blocks that compute them. */
typedef struct {
  int32_t first_block, taps, n_taps, y, x, height, width;
} region;
typedef struct {
  int32_t n;
  int64_t blocks, pairs; /* pairs: of a tile and a tap that it needs              */
  region of[MOST_BANDS * MOST_BANDS];
} region_list;

/* Those with the most taps come first, so that the last blocks to start are short ones. */
static region_list regions_of(const conv &v) {
  band rows[MOST_BANDS], columns[MOST_BANDS];
  const int n_rows = bands_of(rows, v.oh, v.h, v.padding.h, v.dilation.h),
            n_columns = bands_of(columns, v.ow, v.w, v.padding.w, v.dilation.w);
  region_list list = {};
  for (int i = 0; i < n_rows; i++)
    for (int j = 0; j < n_columns; j++) {
      region r = {
          0, 0, 0, rows[i].begin, columns[j].begin, rows[i].end - rows[i].begin, columns[j].end - columns[j].begin};
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

/* -- Weights ----------------------------------------------------------------------------------- */

/* to[row][tap][l], rows of `padded` elements with zeros behind the last. As it lies: row is the
 * output channel, l the input channel; turned: the other way round, with the taps in reverse. A
 * block: 32 rows by 32 elements of a tap. */
template <class T>
static __global__ void copy_weights(const float *w, T *to, int64_t k, int64_t c, int64_t padded, bool turned) {
  __shared__ float part[32][33];
  const int64_t tap = blockIdx.z, l0 = (int64_t)blockIdx.x * 32, row0 = (int64_t)blockIdx.y * 32;
  const int64_t k0 = turned ? l0 : row0, c0 = turned ? row0 : l0, rows = turned ? c : k;
  for (int64_t i = threadIdx.y; i < 32; i += blockDim.y)
    part[i][threadIdx.x] = k0 + i < k && c0 + threadIdx.x < c
                               ? w[((k0 + i) * TAPS + (turned ? TAPS - 1 - tap : tap)) * c + c0 + threadIdx.x]
                               : 0.0f;
  __syncthreads();
  for (int64_t i = threadIdx.y; i < 32; i += blockDim.y) {
    const int64_t row = row0 + i, l = l0 + threadIdx.x;
    if (row < rows && l < padded)
      to[(row * TAPS + tap) * padded + l] = narrow<T>(turned ? part[threadIdx.x][i] : part[i][threadIdx.x]);
  }
}

static int64_t padded_depth(int64_t depth) { return ceil_div(depth, MMA_CHUNK) * MMA_CHUNK; }

/* The copy of w that a convolution by v (turned or not) reads. */
template <class T> static status weights_of(const T **out, const op_call *c, tensor *w, const conv &v, bool turned) {
  const int64_t padded = padded_depth(v.c);
  const uint64_t key =
      (uint64_t)0xa720 << 48 ^ (uint64_t)v.k << 28 ^ (uint64_t)v.c << 8 ^ (uint64_t)c->in[0]->dtype << 1 ^ turned;
  weight_copy *kept;
  TRY(weight_copy_of(&kept, c, w, key, v.k * TAPS * padded * (int64_t)sizeof(T)));
  *out = (const T *)kept->st->data;
  if (kept->base.version == storage_version(w->st)) return DLV3_OK;
  const dim3 grid((unsigned)ceil_div(padded, 32), (unsigned)ceil_div(v.k, 32), TAPS);
  const cudaStream_t stream = stream_of(c);
  LAUNCH(copy_weights<T>, grid, dim3(32, 8), stream, data_as<float>(w), (T *)kept->st->data, w->size[0], w->size[1],
         padded, turned);
  TRY(LAUNCHED(c));
  return kept->base.version = storage_version(w->st), DLV3_OK;
}

/* -- The product: rows are the pixels of 8 tiles, columns output channels ---------------------- */

/* A pixel of the output; n = -1: none. */
typedef struct {
  int32_t n, y, x;
} pixel;

/* The first pixel of a tile of a region, counted over all images. */
DEVICE pixel corner_of(const conv &v, const region &r, int32_t tile) {
  const pixel p = {tile / (r.width * r.height), (r.y + tile / r.width % r.height) * SIDE,
                   (r.x + tile % r.width) * SIDE};
  return p.n < v.n ? p : pixel{-1, 0, 0};
}
DEVICE pixel pixel_of(const conv &v, const pixel &corner, int i) {
  const pixel p = {corner.n, corner.y + i / SIDE, corner.x + i % SIDE};
  return p.n >= 0 && p.y < v.oh && p.x < v.ow ? p : pixel{-1, 0, 0};
}

/* A chunk of 8 elements into a slice, of which `there` exist. whole: chunks lie on boundaries of 16
 * bytes and exist as a whole or not at all; any: memory of the device. */
template <bool whole, class T> DEVICE void fill_chunk(T *to, const T *from, int32_t there, const T *any) {
  if (whole)
    copy_16(to, there > 0 ? from : any, there > 0);
  else {
    pack<T, MMA_CHUNK> p;
    UNROLL
    for (int i = 0; i < MMA_CHUNK; i++) p.v[i] = i < there ? from[i] : T{0};
    pack_at<MMA_CHUNK>(to) = p;
  }
}

/* What mma_sum reads: channels of the input in slices, tap by tap of those that the region needs. */
template <class T, bool whole> struct tap_source {
  conv v;
  const T *x, *w;
  int64_t padded;
  int32_t column;            /* the block's first                                     */
  int32_t taps, l0;          /* taps to come; the first channel of the next slice     */
  pixel out[2];              /* that the thread's chunks are for                      */
  const T *row[2], *weights; /* weights: of the thread's first column                 */
  DEVICE void start_tap() {
    int32_t tap = 0;
    l0 = 0;
    while (!(taps >> tap & 1)) tap++;
    taps &= ~(1 << tap);
    UNROLL
    for (int q = 0; q < 2; q++) {
      const pixel p = out[q];
      const int64_t iy = input_at(p.y, tap / 3, 1, v.padding.h, v.dilation.h),
                    ix = input_at(p.x, tap % 3, 1, v.padding.w, v.dilation.w);
      const bool inside = p.n >= 0 && iy >= 0 && iy < v.h && ix >= 0 && ix < v.w;
      row[q] = inside ? x + ((p.n * v.h + iy) * v.w + ix) * v.c : NULL;
    }
    weights = w + ((int64_t)(column + mma_chunk<true>(0).i) * TAPS + tap) * padded;
  }
  DEVICE void fill(T *left, T *right) {
    if (l0 >= v.c) start_tap();
    UNROLL
    for (int q = 0; q < 2; q++) {
      const mma_spot to = mma_chunk<true>(q);
      const int at = mma_place<true>(to.i, to.l);
      const int32_t l = l0 + to.l;
      const bool copied = column + to.i < v.k && l < padded;
      fill_chunk<whole>(left + at, row[q] ? row[q] + l : x, row[q] ? (int32_t)v.c - l : 0, x);
      copy_16(right + at, copied ? weights + (to.i - mma_chunk<true>(0).i) * TAPS * padded + l : w, copied);
    }
    l0 += MMA_SLICE;
  }
};

template <class T> struct tap_sink {
  conv v;
  region here;
  int32_t first_tile, column;
  T *y;
  epilogue<T, float> end;
  pixel corner;
  DEVICE void rows(int i) { corner = corner_of(v, here, first_tile + i / TILE); }
  DEVICE void store(int r, int j, float sum) const {
    const pixel p = pixel_of(v, corner, r);
    const int64_t k = column + j, at = ((p.n * v.oh + p.y) * v.ow + p.x) * v.k + k;
    if (p.n >= 0 && k < v.k) y[at] = end(sum, at, k);
  }
};

template <class T, bool whole>
static __global__ void __launch_bounds__(MMA_THREADS, 2)
    tap_product(conv v, region_list regions, const T *x, const T *w, int64_t padded, T *y, epilogue<T, float> end) {
  typedef warp_product<T, true> warp;
  alignas(16) __shared__ char memory[MMA_MEMORY];
  int which = regions.n - 1;
  while (regions.of[which].first_block > (int32_t)blockIdx.x) which--;
  const region here = regions.of[which];
  const int32_t first_tile = ((int32_t)blockIdx.x - here.first_block) * BLOCK_TILES,
                column = (int32_t)blockIdx.y * MMA_SIDE;
  const bool busy =
      first_tile + warp::first_row() / TILE < v.n * here.height * here.width && column + warp::first_column() < v.k;
  tap_source<T, whole> source = {v, x, w, padded, column, here.taps, (int32_t)v.c, {}, {}, w};
  UNROLL
  for (int q = 0; q < 2; q++) {
    const int i = mma_chunk<true>(q).i;
    source.out[q] = pixel_of(v, corner_of(v, here, first_tile + i / TILE), i % TILE);
  }
  warp sums;
  mma_sum(&sums, memory, &source, here.n_taps * (int32_t)ceil_div(v.c, MMA_SLICE), busy);
  tap_sink<T> sink = {v, here, first_tile, column, y, end, {}};
  mma_results(sums, memory, &sink, busy);
}

static bool on_chunks(const void *p, int64_t channels) { return aligned(p) && channels % MMA_CHUNK == 0; }

template <class T> static status convolve(const op_call *c, const conv &v, const region_list &regions, bool turned) {
  const epilogue<T, float> end = epilogue_of<T, float>(c);
  const T *w, *x = data_as<T>(c->in[0]);
  T *y = data_as<T>(turned ? grad_x_of(c) : c->out[0]);
  TRY(weights_of<T>(&w, c, c->in[1], v, turned));
  const dim3 grid((unsigned)regions.blocks, (unsigned)ceil_div(v.k, MMA_SIDE));
  const cudaStream_t stream = stream_of(c);
  if (on_chunks(x, v.c))
    LAUNCH((tap_product<T, true>), grid, MMA_THREADS, stream, v, regions, x, w, padded_depth(v.c), y, end);
  else
    LAUNCH((tap_product<T, false>), grid, MMA_THREADS, stream, v, regions, x, w, padded_depth(v.c), y, end);
  return LAUNCHED(c);
}

/* -- The gradient of the weights: rows are output channels, columns input channels ------------- */

/* The outputs of one image whose tap lies inside; over all images, in splits of `part` pixels that
 * are summed apart. */
typedef struct {
  int32_t y, x, height, width, pixels, splits;
} window;
typedef struct {
  int32_t part, splits; /* splits: the most that a tap has                       */
  window of[TAPS];
} window_list;

static window_list windows_of(const conv &v) {
  enum { BLOCKS = 512, LEAST = 256 }; /* blocks for a large GPU; pixels that a block is worth starting for */
  window_list list = {};
  int64_t total = 0;
  for (int tap = 0; tap < TAPS; tap++) {
    int64_t y0, y1, x0, x1;
    outputs_inside(tap / 3, 1, v.padding.h, v.dilation.h, v.h, v.oh, &y0, &y1);
    outputs_inside(tap % 3, 1, v.padding.w, v.dilation.w, v.w, v.ow, &x0, &x1);
    list.of[tap] = window{
        (int32_t)y0, (int32_t)x0, (int32_t)(y1 - y0), (int32_t)(x1 - x0), (int32_t)(v.n * (y1 - y0) * (x1 - x0)), 0};
    total += list.of[tap].pixels;
  }
  const int64_t part =
      ceil_div(ceil_div(total * ceil_div(v.k, MMA_SIDE) * ceil_div(v.c, MMA_SIDE), BLOCKS), MMA_SLICE) * MMA_SLICE;
  list.part = part < LEAST ? (int32_t)LEAST : (int32_t)least(part, INT32_MAX / 2);
  for (int tap = 0; tap < TAPS; tap++) {
    list.of[tap].splits = (int32_t)ceil_div(list.of[tap].pixels, list.part);
    if (list.splits < list.of[tap].splits) list.splits = list.of[tap].splits;
  }
  return list;
}

/* What mma_sum reads: pixels of a window in slices; channels of grad_y to the left, of x to the
 * right. */
template <class T, bool whole> struct window_source {
  conv v;
  const T *x, *grad_y;
  int32_t row, column; /* the block's first                                     */
  window here;
  int64_t dy, dx; /* from a pixel of the window to the input's             */
  int32_t to_go;  /* pixels from the next slice's first                    */
  pixel at[2];    /* of the thread's chunks, within the window             */
  DEVICE void start(int32_t first) {
    UNROLL
    for (int q = 0; q < 2; q++) {
      const int32_t p = first + mma_chunk<false>(q).l;
      at[q] = pixel{p / (here.height * here.width), p / here.width % here.height, p % here.width};
    }
  }
  DEVICE void fill(T *left, T *right) {
    UNROLL
    for (int q = 0; q < 2; q++) {
      const mma_spot to = mma_chunk<false>(q);
      const int place = mma_place<false>(to.i, to.l);
      const int64_t k = row + to.i, c = column + to.i, n = at[q].n, y = here.y + at[q].y, xx = here.x + at[q].x;
      const bool there = to.l < to_go;
      fill_chunk<whole>(left + place, grad_y + ((n * v.oh + y) * v.ow + xx) * v.k + k, there ? (int32_t)(v.k - k) : 0,
                        grad_y);
      fill_chunk<whole>(right + place, x + ((n * v.h + y + dy) * v.w + xx + dx) * v.c + c,
                        there ? (int32_t)(v.c - c) : 0, x);
      for (at[q].x += MMA_SLICE; at[q].x >= here.width; at[q].x -= here.width)
        if (++at[q].y == here.height) at[q].y = 0, at[q].n++;
    }
    to_go -= MMA_SLICE;
  }
};

template <class T> struct window_sink {
  conv v;
  float *partial; /* [k][tap][c], at the split and tap                     */
  int32_t row, column, i0;
  DEVICE void rows(int i) { i0 = row + i; }
  DEVICE void store(int r, int j, float sum) const {
    const int64_t k = i0 + r, c = column + j;
    if (k < v.k && c < v.c) partial[k * TAPS * v.c + c] = sum;
  }
};

/* A layer of the grid is a tap of a split. */
template <class T, bool whole>
static __global__ void __launch_bounds__(MMA_THREADS, 2)
    window_product(conv v, window_list windows, const T *x, const T *grad_y, float *partial) {
  typedef warp_product<T, false> warp;
  alignas(16) __shared__ char memory[MMA_MEMORY];
  const int32_t tap = (int32_t)blockIdx.z % TAPS, split = (int32_t)blockIdx.z / TAPS,
                row = (int32_t)blockIdx.x * MMA_SIDE, column = (int32_t)blockIdx.y * MMA_SIDE;
  const window here = windows.of[tap];
  if (split >= here.splits) return;
  const int32_t first = split * windows.part, pixels = (int32_t)least(windows.part, here.pixels - first);
  const bool busy = row + warp::first_row() < v.k && column + warp::first_column() < v.c;
  window_source<T, whole> source = {v,
                                    x,
                                    grad_y,
                                    row,
                                    column,
                                    here,
                                    input_at(0, tap / 3, 1, v.padding.h, v.dilation.h),
                                    input_at(0, tap % 3, 1, v.padding.w, v.dilation.w),
                                    pixels,
                                    {}};
  window_sink<T> sink = {v, partial + split * v.k * TAPS * v.c + tap * v.c, row, column, 0};
  source.start(first);
  warp sums;
  mma_sum(&sums, memory, &source, (int32_t)ceil_div(pixels, MMA_SLICE), busy);
  mma_results(sums, memory, &sink, busy);
}

/* grad_w += the splits of each tap, in their order. */
static __global__ void add_windows(const float *partial, window_list windows, int64_t c, int64_t n, float *grad_w) {
  FOR_ITEMS(i, n) {
    float sum = grad_w[i];
    for (int32_t s = 0; s < windows.of[i / c % TAPS].splits; s++) sum += partial[s * n + i];
    grad_w[i] = sum;
  }
}

template <class T> static status weight_gradient(const op_call *c, const conv &v) {
  const T *x = data_as<T>(c->in[0]), *grad_y = data_as<T>(c->in[1]);
  const window_list windows = windows_of(v);
  const int64_t n = v.k * TAPS * v.c;
  const dim3 grid((unsigned)ceil_div(v.k, MMA_SIDE), (unsigned)ceil_div(v.c, MMA_SIDE),
                  (unsigned)(windows.splits * TAPS));
  const cudaStream_t stream = stream_of(c);
  storage *scratch;
  if (windows.splits * TAPS > 65535) return DECLINED("too many pixels for one grid");
  if (windows.splits) {
    TRY(scratch_new(&scratch, c, windows.splits * n * (int64_t)sizeof(float)));
    if (on_chunks(x, v.c) && on_chunks(grad_y, v.k))
      LAUNCH((window_product<T, true>), grid, MMA_THREADS, stream, v, windows, x, grad_y, (float *)scratch->data);
    else
      LAUNCH((window_product<T, false>), grid, MMA_THREADS, stream, v, windows, x, grad_y, (float *)scratch->data);
    LAUNCH(add_windows, blocks_for(n), BLOCK, stream, (const float *)scratch->data, windows, v.c, n,
           data_as<float>(c->in[2]));
    storage_drop(scratch);
  }
  TRY(LAUNCHED(c));
  return c->in[3] ? add_bias_gradient(c, c->in[3], c->in[1]) : DLV3_OK;
}

/* -- The three passes -------------------------------------------------------------------------- */

/* What all passes need; cheap, and before anything else. */
static status suits(const conv &v, int32_t dtype) {
  if (v.r != 3 || v.s != 3 || v.stride.h != 1 || v.stride.w != 1 || v.groups != 1)
    return DECLINED("not 3x3 of stride 1 in one group");
  if (dtype != DLV3_BF16 && dtype != DLV3_F16) return DECLINED("not bf16 or f16");
  if (!(v.n && v.c && v.h && v.w && v.k && v.oh && v.ow)) return DECLINED("nothing to do");
  if (v.n * v.h * v.w > INT32_MAX / 2 || v.n * v.oh * v.ow > INT32_MAX / 2 || v.c > MOST_CHANNELS
      || v.k > MOST_CHANNELS)
    return DECLINED("more pixels or channels than it counts");
  return DLV3_OK;
}
/* Also that the dilation leaves out two fifths of the pairs of tile and tap, or more; an eighth of
 * them where it was asked for by name. That is a prediction: for large dilations cuDNN 9.19 names
 * engines for an H100 that multiply all nine taps, and by mma too as it seems. */
static status plan(region_list *out, const op_call *c, const conv &v) {
  *out = regions_of(v);
  const int64_t all = TAPS * ceil_div(v.oh, SIDE) * ceil_div(v.ow, SIDE);
  const bool worth =
      c->asked ? 8 * out->pairs <= 7 * all : v.dilation.h >= SIDE && v.dilation.w >= SIDE && 5 * out->pairs <= 3 * all;
  if (!worth) return DECLINED("too few taps fall on padding");
  return DLV3_OK;
}

status atrous_conv2d(op_call *c) {
  const conv v = conv_of(c);
  region_list regions;
  if (c->in[4]) return DECLINED("a scale");
  TRY(suits(v, c->in[0]->dtype));
  TRY(plan(&regions, c, v));
  return c->in[0]->dtype == DLV3_BF16 ? convolve<bf16>(c, v, regions, false) : convolve<f16>(c, v, regions, false);
}

status atrous_conv2d_backward_input(op_call *c) {
  const conv v = conv_of(c), t = turned_conv(v);
  region_list regions;
  TRY(suits(v, c->in[0]->dtype));
  TRY(plan(&regions, c, t));
  return c->in[0]->dtype == DLV3_BF16 ? convolve<bf16>(c, t, regions, true) : convolve<f16>(c, t, regions, true);
}

status atrous_conv2d_backward_weight(op_call *c) {
  const conv v = conv_of(c);
  region_list regions;
  TRY(suits(v, c->in[0]->dtype));
  TRY(plan(&regions, c, v));
  return c->in[0]->dtype == DLV3_BF16 ? weight_gradient<bf16>(c, v) : weight_gradient<f16>(c, v);
}

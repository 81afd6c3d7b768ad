/* pool.cu - max_pool2d and adaptive_avg_pool2d: bound by memory.
 *
 * Gradients gather: every input element asks which outputs took it, so nothing is written twice. */
#include "cuda/support/pixels.h"

typedef struct {
  int64_t n, channels, h, w, oh, ow;
  attr_pair kernel_size, stride, padding, dilation;
} pool;

static pool pool_of(const tensor *x, const tensor *y) {
  return pool{x->size[0], x->size[1], x->size[2], x->size[3], y->size[2], y->size[3], {}, {}, {}, {}};
}

/* -- max_pool2d -------------------------------------------------------------------------------- */

enum { PIXELS = 4 }; /* of a thread, backward */

/* index = r width + s of the first maximum, nan wins. */
template <class T, int V> static __global__ void max_pool(pool p, const T *x, T *y, uint8_t *index, int64_t spots) {
  typedef typename computing<T>::type C;
  FOR_ITEMS(item, spots) {
    const spot o = spot_of<V, 1>(item, p.channels, p.oh, p.ow, 1);
    const int32_t y0 = (int32_t)(o.y * p.stride.h - p.padding.h), x0 = (int32_t)(o.x * p.stride.w - p.padding.w);
    C best[V];
    int32_t where[V];
    bool first = true;
    UNROLL
    for (int i = 0; i < V; i++) best[i] = -(C)INFINITY, where[i] = 0;
    for (int32_t r = 0; r < p.kernel_size.h; r++) {
      const int32_t iy = y0 + r * (int32_t)p.dilation.h;
      if (!inside(iy, (int32_t)p.h)) continue;
      const T *row = x + (o.n * p.h + iy) * p.w * p.channels + o.k;
      for (int32_t s = 0; s < p.kernel_size.w; s++) {
        const int32_t ix = x0 + s * (int32_t)p.dilation.w, tap = r * (int32_t)p.kernel_size.w + s;
        if (!inside(ix, (int32_t)p.w)) continue;
        const pack<T, V> from = pack_at<V>(row + ix * p.channels);
        C v[V];
        widen(v, from);
        UNROLL
        for (int i = 0; i < V; i++)
          if (first || v[i] > best[i] || v[i] != v[i]) best[i] = v[i], where[i] = tap;
        first = false;
      }
    }
    const int64_t at = ((o.n * p.oh + o.y) * p.ow + o.x) * p.channels + o.k;
    pack<T, V> out;
    pack<uint8_t, V> taken;
    UNROLL
    for (int i = 0; i < V; i++) out.v[i] = narrow<T>(best[i]), taken.v[i] = (uint8_t)where[i];
    pack_at<V>(y + at) = out, pack_at<V>(index + at) = taken;
  }
}

/* grad_x[p] = sum of grad_y over the outputs whose maximum p was. The pixels of a thread are a
 * stride apart, so that the same taps meet them; in a map narrower than that there is one. */
static int64_t step_of(const pool &p) { return least(p.stride.w, p.w); }

template <class T, int V>
static __global__ void max_pool_backward(pool p, int32_t step, const T *grad_y, const uint8_t *index, T *grad_x,
                                         int64_t spots) {
  typedef typename computing<T>::type C;
  const int32_t width = (int32_t)p.ow, channels = (int32_t)p.channels;
  FOR_ITEMS(item, spots) {
    const spot o = spot_of<V, PIXELS>(item, p.channels, p.h, p.w, step);
    const way_back x0 = way_from(o.x, p.stride.w, p.padding.w, p.dilation.w);
    way_back oy = way_from(o.y, p.stride.h, p.padding.h, p.dilation.h);
    C sum[PIXELS][V];
    UNROLL
    for (int q = 0; q < PIXELS; q++) UNROLL
    for (int i = 0; i < V; i++) sum[q][i] = 0;
    for (int32_t r = 0; r < p.kernel_size.h; r++, next_tap(&oy)) {
      if (oy.left || !inside(oy.out, (int32_t)p.oh)) continue;
      const int64_t row = (o.n * p.oh + oy.out) * p.ow * p.channels + o.k;
      way_back ox = x0;
      for (int32_t s = 0; s < p.kernel_size.w; s++, next_tap(&ox)) {
        if (ox.left) continue;
        const int32_t tap = r * (int32_t)p.kernel_size.w + s;
        pack<T, V> g[PIXELS];
        pack<uint8_t, V> taken[PIXELS];
        bool there[PIXELS];
        int64_t at = row + (int64_t)ox.out * channels;
        UNROLL
        for (int q = 0; q < PIXELS; q++, at += channels) {
          there[q] = inside(ox.out + q, width);
          if (there[q]) g[q] = pack_at<V>(grad_y + at), taken[q] = pack_at<V>(index + at);
        }
        UNROLL
        for (int q = 0; q < PIXELS; q++) {
          if (!there[q]) continue;
          C v[V];
          widen(v, g[q]);
          UNROLL
          for (int i = 0; i < V; i++)
            if (taken[q].v[i] == tap) sum[q][i] += v[i];
        }
      }
    }
    UNROLL
    for (int q = 0; q < PIXELS; q++) {
      if (o.x + q * step >= p.w) break;
      pack_at<V>(grad_x + ((o.n * p.h + o.y) * p.w + o.x + q * step) * p.channels + o.k) = narrowed<T>(sum[q]);
    }
  }
}

/* Coordinates go a few strides beyond the map. */
static bool beyond_32_bits(const pool &p) {
  const int64_t most = INT32_MAX / 8;
  return p.h > most || p.w > most || p.stride.w > most || p.channels > most;
}

static status cuda_max_pool2d(op_call *c) {
  const max_pool2d_attr *a = (const max_pool2d_attr *)c->attr;
  const tensor *x = c->in[0], *y = c->out[0], *index = c->out[1];
  pool p = pool_of(x, y);
  const int64_t n = numel(y);
  const cudaStream_t stream = stream_of(c);
  p.kernel_size = a->kernel_size, p.stride = a->stride, p.padding = a->padding, p.dilation = a->dilation;
  if (beyond_32_bits(p)) return DECLINED("coordinates of more than 32 bits");
  if (n)
    BY_FLOAT(x->dtype, BY_PACK(T, in_packs<T>(p.channels, data_of(x), data_of(y), data_of(index)),
                               LAUNCH((max_pool<T, V>), blocks_for(n / V), BLOCK, stream, p, data_as<T>(x),
                                      data_as<T>(y), data_as<uint8_t>(index), n / V)));
  return LAUNCHED(c);
}
OWN(max_pool2d);

static status cuda_max_pool2d_backward(op_call *c) {
  const max_pool2d_backward_attr *a = (const max_pool2d_backward_attr *)c->attr;
  const tensor *grad_y = c->in[0], *index = c->in[1], *grad_x = c->out[0];
  pool p = pool_of(grad_x, grad_y);
  const cudaStream_t stream = stream_of(c);
  p.kernel_size = a->kernel_size, p.stride = a->stride, p.padding = a->padding, p.dilation = a->dilation;
  if (beyond_32_bits(p)) return DECLINED("coordinates of more than 32 bits");
  if (!numel(grad_x)) return DLV3_OK;
  const int32_t step = (int32_t)step_of(p);
  const int64_t spots = p.n * p.h * spots_in_row<PIXELS>(p.w, step) * p.channels; /* of one channel */
  BY_FLOAT(grad_x->dtype, BY_PACK(T, in_packs<T>(p.channels, data_of(grad_y), data_of(grad_x), data_of(index)),
                                  LAUNCH((max_pool_backward<T, V>), blocks_for(spots / V), BLOCK, stream, p, step,
                                         data_as<T>(grad_y), data_as<uint8_t>(index), data_as<T>(grad_x), spots / V)));
  return LAUNCHED(c);
}
OWN(max_pool2d_backward);

/* -- adaptive_avg_pool2d ----------------------------------------------------------------------- */

/* Output i of `out` is the mean of inputs [floor(i in / out), ceil((i + 1) in / out)). */
BOTH int64_t bin_begin(int64_t i, int64_t in, int64_t out) { return i * in / out; }
BOTH int64_t bin_end(int64_t i, int64_t in, int64_t out) { return ((i + 1) * in + out - 1) / out; }

/* What output pixel i, counted over all images, is the mean of. */
typedef struct {
  int64_t n, y, x, height, width;
} bin;
DEVICE bin bin_of(const pool &p, int64_t i) {
  const int64_t ox = i % p.ow, oy = i / p.ow % p.oh, y = bin_begin(oy, p.h, p.oh), x = bin_begin(ox, p.w, p.ow);
  return bin{i / p.ow / p.oh, y, x, bin_end(oy, p.h, p.oh) - y, bin_end(ox, p.w, p.ow) - x};
}

/* Sums over a part of a bin: partial[part][output pixel][channel]. A block: one output pixel, packs
 * of channels along x, pixels of the bin along y. Runs of four in the computing type, the runs in
 * f64, since a bin may be a whole map. */
enum { RUN = 4 };
template <class T, int V> static __global__ void avg_pool_sums(pool p, const T *x, double *partial) {
  typedef typename computing<T>::type C;
  __shared__ pack<double, V> buf[BLOCK];
  const int64_t tiles = ceil_div(p.channels, blockDim.x * V), pixel = blockIdx.x / tiles,
                first_k = blockIdx.x % tiles * blockDim.x * V, k = first_k + threadIdx.x * V;
  const bin b = bin_of(p, pixel);
  const int64_t pixels = b.height * b.width, width = b.width == p.w ? pixels : b.width; /* whole rows are one */
  const int64_t part = ceil_div(pixels, gridDim.y), end = k < p.channels ? least((blockIdx.y + 1) * part, pixels) : 0;
  int64_t i = blockIdx.y * part + threadIdx.y, ix = i % width;
  const int64_t step = blockDim.y * p.channels, skip = (p.w - width) * p.channels; /* where a row of the bin ends */
  const T *from = x + ((b.n * p.h + b.y + i / width) * p.w + b.x + ix) * p.channels + k;
  double sum[V];
  UNROLL
  for (int v = 0; v < V; v++) sum[v] = 0;
  while (i < end) {
    pack<T, V> read[RUN];
    bool there[RUN];
    C run[V];
    UNROLL
    for (int r = 0; r < RUN; r++) {
      there[r] = i < end;
      if (there[r]) read[r] = pack_at<V>(from);
      i += blockDim.y, from += step;
      for (ix += blockDim.y; ix >= width; ix -= width) from += skip;
    }
    widen(run, read[0]);
    UNROLL
    for (int r = 1; r < RUN; r++) {
      if (!there[r]) break;
      C more[V];
      widen(more, read[r]);
      UNROLL
      for (int v = 0; v < V; v++) run[v] += more[v];
    }
    UNROLL
    for (int v = 0; v < V; v++) sum[v] += (double)run[v];
  }
  const double all = sum_of_channel<double, V>(sum, buf);
  const unsigned mine = threadIdx.y * blockDim.x + threadIdx.x;
  if (mine < blockDim.x * V && first_k + mine < p.channels)
    partial[(blockIdx.y * p.n * p.oh * p.ow + pixel) * p.channels + first_k + mine] = all;
}

/* y = the parts, in a tree, divided by the pixels of the bin. A block: 32 elements of y, 8 threads
 * each. */
template <class T>
static __global__ void avg_pool_finish(pool p, const double *partial, int64_t parts, int64_t n, T *y) {
  __shared__ double buf[BLOCK];
  const int64_t i = (int64_t)blockIdx.x * 32 + threadIdx.x;
  double sum = 0;
  for (int64_t s = threadIdx.y; i < n && s < parts; s += blockDim.y) sum += partial[s * n + i];
  sum = sum_over_y(sum, buf);
  if (i < n && threadIdx.y == 0) {
    const bin b = bin_of(p, i / p.channels);
    y[i] = narrow<T>(sum / (double)(b.height * b.width));
  }
}

/* grad_x[p] = sum over the bins that p lies in of grad_y / (pixels of the bin). */
template <class T, int V> static __global__ void avg_pool_backward(pool p, const T *grad_y, T *grad_x, int64_t spots) {
  typedef typename computing<T>::type C;
  FOR_ITEMS(item, spots) {
    const spot o = spot_of<V, 1>(item, p.channels, p.h, p.w, 1);
    C sum[V];
    UNROLL
    for (int i = 0; i < V; i++) sum[i] = 0;
    for (int64_t oy = o.y * p.oh / p.h; oy < p.oh && bin_begin(oy, p.h, p.oh) <= o.y; oy++) {
      if (bin_end(oy, p.h, p.oh) <= o.y) continue;
      for (int64_t ox = o.x * p.ow / p.w; ox < p.ow && bin_begin(ox, p.w, p.ow) <= o.x; ox++) {
        if (bin_end(ox, p.w, p.ow) <= o.x) continue;
        const int64_t area =
            (bin_end(oy, p.h, p.oh) - bin_begin(oy, p.h, p.oh)) * (bin_end(ox, p.w, p.ow) - bin_begin(ox, p.w, p.ow));
        const pack<T, V> g = pack_at<V>(grad_y + ((o.n * p.oh + oy) * p.ow + ox) * p.channels + o.k);
        UNROLL
        for (int i = 0; i < V; i++) sum[i] += wide(g.v[i]) / (C)area;
      }
    }
    pack_at<V>(grad_x + item * V) = narrowed<T>(sum);
  }
}

/* The same for one bin that is the whole map. A block: an image, packs of channels along x, pixels
 * along y. */
template <class T, int V> static __global__ void avg_pool_spread(pool p, const T *grad_y, T *grad_x) {
  typedef typename computing<T>::type C;
  const int64_t tiles = ceil_div(p.channels, blockDim.x * V), n = blockIdx.x / tiles,
                k = (blockIdx.x % tiles * blockDim.x + threadIdx.x) * V;
  const int64_t pixels = p.h * p.w, part = ceil_div(pixels, gridDim.y), end = least((blockIdx.y + 1) * part, pixels);
  if (k >= p.channels) return;
  pack<T, V> g = pack_at<V>(grad_y + n * p.channels + k);
  UNROLL
  for (int i = 0; i < V; i++) g.v[i] = narrow<T>(wide(g.v[i]) / (C)pixels);
  for (int64_t i = blockIdx.y * part + threadIdx.y; i < end; i += blockDim.y)
    pack_at<V>(grad_x + (n * pixels + i) * p.channels + k) = g;
}

/* Blocks for so many bins: along x bins and tiles of channels, along y parts of a bin. */
static dim3 bins_grid(const pool &p, int64_t bins, int64_t packs, dim3 block) {
  const int64_t blocks = bins * ceil_div(packs, block.x);
  return dim3((unsigned)blocks, (unsigned)parts_for(blocks, ceil_div(p.h, p.oh) * ceil_div(p.w, p.ow)));
}

template <class T, int V> static status mean(const op_call *c, const pool &p, const tensor *x, const tensor *y) {
  const int64_t n = numel(y);
  const dim3 block = sums_block(p.channels / V), grid = bins_grid(p, p.n * p.oh * p.ow, p.channels / V, block);
  const cudaStream_t stream = stream_of(c);
  storage *scratch;
  TRY(scratch_new(&scratch, c, grid.y * n * (int64_t)sizeof(double)));
  double *partial = (double *)scratch->data;
  LAUNCH((avg_pool_sums<T, V>), grid, block, stream, p, data_as<T>(x), partial);
  LAUNCH(avg_pool_finish<T>, (unsigned)ceil_div(n, 32), dim3(32, BLOCK / 32), stream, p, (const double *)partial,
         (int64_t)grid.y, n, data_as<T>(y));
  storage_drop(scratch);
  return LAUNCHED(c);
}

static status cuda_adaptive_avg_pool2d(op_call *c) {
  const tensor *x = c->in[0], *y = c->out[0];
  const pool p = pool_of(x, y);
  if (numel(y))
    BY_FLOAT(x->dtype, BY_PACK(T, in_packs<T>(p.channels, data_of(x), data_of(y)), return (mean<T, V>(c, p, x, y))));
  return DLV3_OK;
}
OWN(adaptive_avg_pool2d);

template <class T, int V>
static status mean_backward(const op_call *c, const pool &p, const tensor *grad_y, const tensor *grad_x) {
  const int64_t packs = numel(grad_x) / V;
  const dim3 block = sums_block(p.channels / V);
  const cudaStream_t stream = stream_of(c);
  if (p.oh == 1 && p.ow == 1)
    LAUNCH((avg_pool_spread<T, V>), bins_grid(p, p.n, p.channels / V, block), block, stream, p, data_as<T>(grad_y),
           data_as<T>(grad_x));
  else
    LAUNCH((avg_pool_backward<T, V>), blocks_for(packs), BLOCK, stream, p, data_as<T>(grad_y), data_as<T>(grad_x),
           packs);
  return LAUNCHED(c);
}

static status cuda_adaptive_avg_pool2d_backward(op_call *c) {
  const tensor *grad_y = c->in[0], *grad_x = c->out[0];
  const pool p = pool_of(grad_x, grad_y);
  if (beyond_32_bits(p)) return DECLINED("coordinates of more than 32 bits");
  if (numel(grad_x))
    BY_FLOAT(grad_x->dtype, BY_PACK(T, in_packs<T>(p.channels, data_of(grad_y), data_of(grad_x)),
                                    return (mean_backward<T, V>(c, p, grad_y, grad_x))));
  return DLV3_OK;
}
OWN(adaptive_avg_pool2d_backward);

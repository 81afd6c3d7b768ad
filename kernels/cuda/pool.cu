/* pool.cu - max_pool2d and adaptive_avg_pool2d.
 *
 * Channels-last: neighbouring threads take neighbouring channels. Gradients gather: every input element asks which outputs
 * took it, so nothing is written twice. */
#include "common.h"

typedef struct {
  int64_t n, channels, h, w, oh, ow;
  attr_pair kernel_size, stride, padding, dilation;
} pool;

static pool pool_of(const tensor *x, const tensor *y) { return pool{x->size[0], x->size[1], x->size[2], x->size[3], y->size[2], y->size[3], {}, {}, {}, {}}; }

/* -- max_pool2d ------------------------------------------------------------------------------------------- */

/* One thread an output element; index = r width + s of the first maximum, nan wins. */
template <class T> static __global__ void max_pool(pool p, const T *x, T *y, uint8_t *index) {
  typedef typename computing<T>::type C;
  FOR_ITEMS(i, p.n * p.oh * p.ow * p.channels) {
    const int64_t k = i % p.channels, pixel = i / p.channels, ox = pixel % p.ow, oy = pixel / p.ow % p.oh, n = pixel / p.ow / p.oh;
    C best = -(C)INFINITY;
    int64_t where = -1;
    for (int64_t r = 0; r < p.kernel_size.h; r++)
      for (int64_t s = 0; s < p.kernel_size.w; s++) {
        const int64_t iy = oy * p.stride.h - p.padding.h + r * p.dilation.h, ix = ox * p.stride.w - p.padding.w + s * p.dilation.w;
        if (iy < 0 || iy >= p.h || ix < 0 || ix >= p.w) continue;
        const C v = wide(x[((n * p.h + iy) * p.w + ix) * p.channels + k]);
        if (where < 0 || v > best || v != v) best = v, where = r * p.kernel_size.w + s;
      }
    y[i] = narrow<T>(best);
    index[i] = (uint8_t)(where < 0 ? 0 : where);
  }
}

/* The output whose tap r meets input position `in`, or -1. */
BOTH int64_t output_at(int64_t in, int64_t r, int64_t stride, int64_t padding, int64_t dilation, int64_t n_out) {
  const int64_t at = in + padding - r * dilation;
  return at >= 0 && at % stride == 0 && at / stride < n_out ? at / stride : -1;
}

/* grad_x[p] = sum of grad_y over the outputs whose maximum p was. */
template <class T> static __global__ void max_pool_backward(pool p, const T *grad_y, const uint8_t *index, T *grad_x) {
  typedef typename computing<T>::type C;
  FOR_ITEMS(i, p.n * p.h * p.w * p.channels) {
    const int64_t k = i % p.channels, pixel = i / p.channels, ix = pixel % p.w, iy = pixel / p.w % p.h, n = pixel / p.w / p.h;
    C sum = 0;
    for (int64_t r = 0; r < p.kernel_size.h; r++) {
      const int64_t oy = output_at(iy, r, p.stride.h, p.padding.h, p.dilation.h, p.oh);
      for (int64_t s = 0; oy >= 0 && s < p.kernel_size.w; s++) {
        const int64_t ox = output_at(ix, s, p.stride.w, p.padding.w, p.dilation.w, p.ow);
        if (ox < 0) continue;
        const int64_t at = ((n * p.oh + oy) * p.ow + ox) * p.channels + k;
        if (index[at] == r * p.kernel_size.w + s) sum += wide(grad_y[at]);
      }
    }
    grad_x[i] = narrow<T>(sum);
  }
}

static status cuda_max_pool2d(op_call *c) {
  const max_pool2d_attr *a = (const max_pool2d_attr *)c->attr;
  const tensor *x = c->in[0], *y = c->out[0];
  pool p = pool_of(x, y);
  const int64_t n = numel(y);
  const cudaStream_t stream = stream_of(c);
  p.kernel_size = a->kernel_size, p.stride = a->stride, p.padding = a->padding, p.dilation = a->dilation;
  if (n) BY_FLOAT(x->dtype, LAUNCH(max_pool<T>, blocks_for(n), BLOCK, stream, p, data_as<T>(x), data_as<T>(y), data_as<uint8_t>(c->out[1])));
  return LAUNCHED(c);
}
OWN(max_pool2d);

static status cuda_max_pool2d_backward(op_call *c) {
  const max_pool2d_backward_attr *a = (const max_pool2d_backward_attr *)c->attr;
  const tensor *grad_y = c->in[0], *grad_x = c->out[0];
  pool p = pool_of(grad_x, grad_y);
  const int64_t n = numel(grad_x);
  const cudaStream_t stream = stream_of(c);
  p.kernel_size = a->kernel_size, p.stride = a->stride, p.padding = a->padding, p.dilation = a->dilation;
  if (n) BY_FLOAT(grad_x->dtype, LAUNCH(max_pool_backward<T>, blocks_for(n), BLOCK, stream, p, data_as<T>(grad_y), data_as<uint8_t>(c->in[1]), data_as<T>(grad_x)));
  return LAUNCHED(c);
}
OWN(max_pool2d_backward);

/* -- adaptive_avg_pool2d ---------------------------------------------------------------------------------- */

/* Output i of `out` is the mean of inputs [floor(i in / out), ceil((i + 1) in / out)). */
BOTH int64_t bin_begin(int64_t i, int64_t in, int64_t out) { return i * in / out; }
BOTH int64_t bin_end(int64_t i, int64_t in, int64_t out) { return ((i + 1) * in + out - 1) / out; }

/* A block an output pixel and 32 channels; its rows of threads share the pixels of the bin. Sums in f64, since a bin may be
 * a whole map. */
template <class T> static __global__ void avg_pool(pool p, const T *x, T *y) {
  __shared__ double buf[BLOCK];
  const int64_t tiles = ceil_div(p.channels, 32), k = blockIdx.x % tiles * 32 + threadIdx.x, pixel = blockIdx.x / tiles;
  const int64_t ox = pixel % p.ow, oy = pixel / p.ow % p.oh, n = pixel / p.ow / p.oh;
  const int64_t y0 = bin_begin(oy, p.h, p.oh), y1 = bin_end(oy, p.h, p.oh), x0 = bin_begin(ox, p.w, p.ow), width = bin_end(ox, p.w, p.ow) - x0;
  double sum = 0;
  for (int64_t i = threadIdx.y; k < p.channels && i < (y1 - y0) * width; i += blockDim.y)
    sum += (double)wide(x[((n * p.h + y0 + i / width) * p.w + x0 + i % width) * p.channels + k]);
  sum = sum_over_y(sum, buf);
  if (threadIdx.y == 0 && k < p.channels) y[pixel * p.channels + k] = narrow<T>(sum / (double)((y1 - y0) * width));
}

/* grad_x[p] = sum over the bins that p lies in of grad_y / (pixels of the bin). */
template <class T> static __global__ void avg_pool_backward(pool p, const T *grad_y, T *grad_x) {
  typedef typename computing<T>::type C;
  FOR_ITEMS(i, p.n * p.h * p.w * p.channels) {
    const int64_t k = i % p.channels, pixel = i / p.channels, ix = pixel % p.w, iy = pixel / p.w % p.h, n = pixel / p.w / p.h;
    C sum = 0;
    for (int64_t oy = iy * p.oh / p.h; oy < p.oh && bin_begin(oy, p.h, p.oh) <= iy; oy++) {
      if (bin_end(oy, p.h, p.oh) <= iy) continue;
      for (int64_t ox = ix * p.ow / p.w; ox < p.ow && bin_begin(ox, p.w, p.ow) <= ix; ox++) {
        if (bin_end(ox, p.w, p.ow) <= ix) continue;
        const int64_t area = (bin_end(oy, p.h, p.oh) - bin_begin(oy, p.h, p.oh)) * (bin_end(ox, p.w, p.ow) - bin_begin(ox, p.w, p.ow));
        sum += wide(grad_y[((n * p.oh + oy) * p.ow + ox) * p.channels + k]) / (C)area;
      }
    }
    grad_x[i] = narrow<T>(sum);
  }
}

static status cuda_adaptive_avg_pool2d(op_call *c) {
  const tensor *x = c->in[0], *y = c->out[0];
  const pool p = pool_of(x, y);
  const int64_t blocks = p.n * p.oh * p.ow * ceil_div(p.channels, 32);
  const cudaStream_t stream = stream_of(c);
  if (blocks) BY_FLOAT(x->dtype, LAUNCH(avg_pool<T>, (unsigned)blocks, dim3(32, BLOCK / 32), stream, p, data_as<T>(x), data_as<T>(y)));
  return LAUNCHED(c);
}
OWN(adaptive_avg_pool2d);

static status cuda_adaptive_avg_pool2d_backward(op_call *c) {
  const tensor *grad_y = c->in[0], *grad_x = c->out[0];
  const pool p = pool_of(grad_x, grad_y);
  const int64_t n = numel(grad_x);
  const cudaStream_t stream = stream_of(c);
  if (n) BY_FLOAT(grad_x->dtype, LAUNCH(avg_pool_backward<T>, blocks_for(n), BLOCK, stream, p, data_as<T>(grad_y), data_as<T>(grad_x)));
  return LAUNCHED(c);
}
OWN(adaptive_avg_pool2d_backward);

/* resample.cu - bilinear interpolation: forward, gathering gradient, and fused with argmax. */
#include "cuda/support/interpolate.h"

typedef struct {
  axis_map rows, columns;
  int64_t n, channels;
} resample;

static resample resample_of(const tensor *x, attr_pair from, attr_pair to, bool align_corners) {
  return resample{axis_map_of(from.h, to.h, align_corners, x->dtype),
                  axis_map_of(from.w, to.w, align_corners, x->dtype), x->size[0], x->size[1]};
}

/* x's channel at p blended for the destination whose taps are v (rows) and u (columns). x: that
 * channel of the image. */
template <class T, class C> DEVICE C blend(const T *x, int64_t w, int64_t channels, const taps &v, const taps &u) {
  const T *top = x + v.i0 * w * channels, *bottom = x + v.i1 * w * channels;
  const int64_t left = u.i0 * channels, right = u.i1 * channels;
  return (C)v.w0 * ((C)u.w0 * (C)wide(top[left]) + (C)u.w1 * (C)wide(top[right]))
         + (C)v.w1 * ((C)u.w0 * (C)wide(bottom[left]) + (C)u.w1 * (C)wide(bottom[right]));
}

/* One thread an element of y. */
template <class T> static __global__ void upsample(resample r, const T *x, T *y) {
  typedef typename computing<T>::type C;
  FOR_ITEMS(i, r.n * r.rows.out * r.columns.out * r.channels) {
    const int64_t k = i % r.channels, pixel = i / r.channels, n = pixel / r.columns.out / r.rows.out;
    const taps v = taps_of(r.rows, pixel / r.columns.out % r.rows.out), u = taps_of(r.columns, pixel % r.columns.out);
    y[i] = narrow<T>(blend<T, C>(x + n * r.rows.in * r.columns.in * r.channels + k, r.columns.in, r.channels, v, u));
  }
}

/* The weight of source pixel i in what t makes. */
DEVICE double tap_weight(const taps &t, int64_t i) { return (t.i0 == i ? t.w0 : 0) + (t.i1 == i ? t.w1 : 0); }

/* grad_x[n, iy, ix, k] = sum over the destinations that the pixel takes part in of its weight there
 * times grad_y. A block a source pixel and 32 channels; its rows of threads share the destinations. */
template <class T> static __global__ void gather_cells(resample r, const T *grad_y, T *grad_x) {
  typedef typename computing<T>::type C;
  __shared__ C buf[BLOCK];
  const int64_t tiles = ceil_div(r.channels, 32), k = blockIdx.x % tiles * 32 + threadIdx.x, pixel = blockIdx.x / tiles;
  const int64_t ix = pixel % r.columns.in, iy = pixel / r.columns.in % r.rows.in, n = pixel / r.columns.in / r.rows.in;
  const int64_t y0 = first_from(r.rows, iy - 1), y1 = first_from(r.rows, iy + 1), x0 = first_from(r.columns, ix - 1),
                x1 = first_from(r.columns, ix + 1);
  C sum = 0;
  for (int64_t i = threadIdx.y; k < r.channels && i < (y1 - y0) * (x1 - x0); i += blockDim.y) {
    const int64_t oy = y0 + i / (x1 - x0), ox = x0 + i % (x1 - x0);
    sum += (C)(tap_weight(taps_of(r.rows, oy), iy) * tap_weight(taps_of(r.columns, ox), ix))
           * wide(grad_y[((n * r.rows.out + oy) * r.columns.out + ox) * r.channels + k]);
  }
  sum = sum_over_y(sum, buf);
  if (threadIdx.y == 0 && k < r.channels) grad_x[pixel * r.channels + k] = narrow<T>(sum);
}

/* One thread a pixel of y: the first maximum; nan wins. */
template <class T> static __global__ void upsample_argmax(resample r, const T *x, uint8_t *y) {
  typedef typename computing<T>::type C;
  FOR_ITEMS(pixel, r.n * r.rows.out * r.columns.out) {
    const taps v = taps_of(r.rows, pixel / r.columns.out % r.rows.out), u = taps_of(r.columns, pixel % r.columns.out);
    const T *image = x + pixel / r.columns.out / r.rows.out * r.rows.in * r.columns.in * r.channels;
    C best = blend<T, C>(image, r.columns.in, r.channels, v, u);
    int64_t where = 0;
    for (int64_t k = 1; k < r.channels; k++) {
      const C z = blend<T, C>(image + k, r.columns.in, r.channels, v, u);
      if (z > best || (z != z && best == best)) best = z, where = k;
    }
    y[pixel] = (uint8_t)where;
  }
}

static attr_pair map_size(const tensor *x) { return attr_pair{x->size[2], x->size[3]}; }

static status cuda_upsample_bilinear2d(op_call *c) {
  const upsample_bilinear2d_attr *a = (const upsample_bilinear2d_attr *)c->attr;
  const tensor *x = c->in[0], *y = c->out[0];
  const resample r = resample_of(x, map_size(x), a->size, a->align_corners);
  const int64_t n = numel(y);
  const cudaStream_t stream = stream_of(c);
  if (n) BY_FLOAT(x->dtype, LAUNCH(upsample<T>, blocks_for(n), BLOCK, stream, r, data_as<T>(x), data_as<T>(y)));
  return LAUNCHED(c);
}
OWN(upsample_bilinear2d);

static status cuda_upsample_bilinear2d_backward(op_call *c) {
  const upsample_bilinear2d_backward_attr *a = (const upsample_bilinear2d_backward_attr *)c->attr;
  const tensor *g = c->in[0], *grad_x = c->out[0];
  const resample r = resample_of(g, a->size, map_size(g), a->align_corners);
  const cudaStream_t stream = stream_of(c);
  const int64_t blocks = r.n * r.rows.in * r.columns.in * ceil_div(r.channels, 32);
  if (blocks)
    BY_FLOAT(g->dtype, LAUNCH(gather_cells<T>, (unsigned)blocks, dim3(32, BLOCK / 32), stream, r, data_as<T>(g),
                              data_as<T>(grad_x)));
  return LAUNCHED(c);
}
OWN(upsample_bilinear2d_backward);

static status cuda_upsample_argmax(op_call *c) {
  const tensor *x = c->in[0], *y = c->out[0];
  const resample r = resample_of(x, map_size(x), ((const upsample_argmax_attr *)c->attr)->size, false);
  const int64_t n = numel(y);
  const cudaStream_t stream = stream_of(c);
  if (n)
    BY_FLOAT(x->dtype, LAUNCH(upsample_argmax<T>, blocks_for(n), BLOCK, stream, r, data_as<T>(x), data_as<uint8_t>(y)));
  return LAUNCHED(c);
}
OWN(upsample_argmax);

/* resample.cu - bilinear interpolation: forward, gathering gradient, and fused with argmax. */
#include "interpolate.h"

typedef struct {
  axis_map rows, columns;
  int64_t n, channels;
} resample;

static resample resample_of(const tensor *x, attr_pair from, attr_pair to, bool align_corners) {
  return resample{axis_map_of(from.h, to.h, align_corners, x->dtype), axis_map_of(from.w, to.w, align_corners, x->dtype), x->size[0], x->size[1]};
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

template <class T> struct gradient_value {
  const T *grad_y;
  int64_t h, w, channels;
  DEVICE typename computing<T>::type operator()(int64_t n, int64_t oy, int64_t ox, int64_t k, const taps &, const taps &) const {
    return wide(grad_y[((n * h + oy) * w + ox) * channels + k]);
  }
};

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

template <class T> static gradient_value<T> value_of(const tensor *g) { return gradient_value<T>{data_as<T>(g), g->size[2], g->size[3], g->size[1]}; }

static status cuda_upsample_bilinear2d_backward(op_call *c) {
  const upsample_bilinear2d_backward_attr *a = (const upsample_bilinear2d_backward_attr *)c->attr;
  const tensor *g = c->in[0], *grad_x = c->out[0];
  const resample r = resample_of(g, a->size, map_size(g), a->align_corners);
  const cudaStream_t stream = stream_of(c);
  if (numel(grad_x))
    BY_FLOAT(g->dtype, LAUNCH((gather_cells<T, gradient_value<T>>), cells(grad_x), dim3(32, BLOCK / 32), stream, r.rows, r.columns, r.channels, data_as<T>(grad_x), value_of<T>(g)));
  return LAUNCHED(c);
}
OWN(upsample_bilinear2d_backward);

static status cuda_upsample_argmax(op_call *c) {
  const tensor *x = c->in[0], *y = c->out[0];
  const resample r = resample_of(x, map_size(x), ((const upsample_argmax_attr *)c->attr)->size, false);
  const int64_t n = numel(y);
  const cudaStream_t stream = stream_of(c);
  if (n) BY_FLOAT(x->dtype, LAUNCH(upsample_argmax<T>, blocks_for(n), BLOCK, stream, r, data_as<T>(x), data_as<uint8_t>(y)));
  return LAUNCHED(c);
}
OWN(upsample_argmax);

/* interpolate.h - which source pixels and weights make a destination pixel of a bilinear interpolation, and the gathering
 * of its gradient; shared by resample.cu and the fused losses in loss.cu. The arithmetic is kernels/cpu/interpolate.h's,
 * in f64 and to the same bits. */
#ifndef DLV3_CUDA_INTERPOLATE_H
#define DLV3_CUDA_INTERPOLATE_H

#include "common.h"

typedef struct {
  int64_t in, out;
  bool align_corners;
  double ratio;
} axis_map;

typedef struct { int64_t i0, i1; double w0, w1; } taps;

/* The ratio is rounded to f32 unless the data are f64, as PyTorch does. */
static inline axis_map axis_map_of(int64_t in, int64_t out, bool align_corners, int32_t dtype) {
  const int64_t over = align_corners ? in - 1 : in, under = align_corners ? out - 1 : out;
  axis_map m = {in, out, align_corners, under > 0 ? (double)over / (double)under : 0};
  if (dtype != DLV3_F64) m.ratio = under > 0 ? (double)((float)over / (float)under) : 0;
  return m;
}

BOTH taps taps_of(const axis_map &m, int64_t dst) {
  const double src = m.align_corners ? m.ratio * (double)dst : m.ratio * ((double)dst + 0.5) - 0.5, at = src > 0 ? src : 0;
  taps t;
  t.i0 = (int64_t)at < m.in - 1 ? (int64_t)at : m.in - 1;
  t.i1 = t.i0 < m.in - 1 ? t.i0 + 1 : t.i0;
  const double w = at - (double)t.i0;
  t.w1 = t.i1 == t.i0 ? 0 : w > 1 ? 1 : w;
  t.w0 = 1 - t.w1;
  return t;
}

/* The weight of source pixel i in what t makes. */
BOTH double tap_weight(const taps &t, int64_t i) { return (t.i0 == i ? t.w0 : 0) + (t.i1 == i ? t.w1 : 0); }

/* The destinations that source pixel i takes part in: [*begin, *end). Positions grow with dst, so bisection finds them. */
BOTH void reached(const axis_map &m, int64_t i, int64_t *begin, int64_t *end) {
  int64_t low = 0, high = m.out;
  while (low < high) { /* the first whose i0 is at least i - 1 */
    const int64_t mid = (low + high) / 2;
    if (taps_of(m, mid).i0 >= i - 1) high = mid;
    else low = mid + 1;
  }
  *begin = low;
  high = m.out;
  while (low < high) { /* the first whose i0 is above i */
    const int64_t mid = (low + high) / 2;
    if (taps_of(m, mid).i0 > i) high = mid;
    else low = mid + 1;
  }
  *end = low;
}

/* x's channel at p blended for the destination whose taps are v (rows) and u (columns). x: that channel of the image. */
template <class T, class C> DEVICE C blend(const T *x, int64_t w, int64_t channels, const taps &v, const taps &u) {
  const T *top = x + v.i0 * w * channels, *bottom = x + v.i1 * w * channels;
  const int64_t left = u.i0 * channels, right = u.i1 * channels;
  return (C)v.w0 * ((C)u.w0 * (C)wide(top[left]) + (C)u.w1 * (C)wide(top[right])) +
         (C)v.w1 * ((C)u.w0 * (C)wide(bottom[left]) + (C)u.w1 * (C)wide(bottom[right]));
}

/* grad[n, iy, ix, k] = sum over the destinations that the pixel takes part in of its weight there times value(n, oy, ox, k).
 * A block a source pixel and 32 channels; its rows of threads share the destinations. */
template <class T, class Value> static __global__ void gather_cells(axis_map rows, axis_map columns, int64_t channels, T *grad, Value value) {
  typedef typename computing<T>::type C;
  __shared__ C buf[BLOCK];
  const int64_t tiles = ceil_div(channels, 32), k = blockIdx.x % tiles * 32 + threadIdx.x, pixel = blockIdx.x / tiles;
  const int64_t ix = pixel % columns.in, iy = pixel / columns.in % rows.in, n = pixel / columns.in / rows.in;
  int64_t y0, y1, x0, x1;
  reached(rows, iy, &y0, &y1);
  reached(columns, ix, &x0, &x1);
  C sum = 0;
  for (int64_t i = threadIdx.y; k < channels && i < (y1 - y0) * (x1 - x0); i += blockDim.y) {
    const int64_t oy = y0 + i / (x1 - x0), ox = x0 + i % (x1 - x0);
    const taps v = taps_of(rows, oy), u = taps_of(columns, ox);
    sum += (C)(tap_weight(v, iy) * tap_weight(u, ix)) * value(n, oy, ox, k, v, u);
  }
  sum = sum_over_y(sum, buf);
  if (threadIdx.y == 0 && k < channels) grad[pixel * channels + k] = narrow<T>(sum);
}

static inline unsigned cells(const tensor *x) { return (unsigned)(x->size[0] * x->size[2] * x->size[3] * ceil_div(x->size[1], 32)); }

#endif

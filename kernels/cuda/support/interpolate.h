/* interpolate.h - which source pixels and weights make a destination pixel of a bilinear
 * interpolation; shared by resample.cu and the fused losses in loss.cu. The arithmetic is
 * kernels/cpu/support/interpolate.h's, in f64 and to the same bits. */
#ifndef DLV3_CUDA_INTERPOLATE_H
#define DLV3_CUDA_INTERPOLATE_H

#include "common.h"

typedef struct {
  int64_t in, out;
  bool align_corners;
  double ratio;
} axis_map;

typedef struct {
  int64_t i0, i1;
  double w0, w1;
} taps;

/* The ratio is rounded to f32 unless the data are f64, as PyTorch does. */
static inline axis_map axis_map_of(int64_t in, int64_t out, bool align_corners, int32_t dtype) {
  const int64_t over = align_corners ? in - 1 : in, under = align_corners ? out - 1 : out;
  axis_map m = {in, out, align_corners, under > 0 ? (double)over / (double)under : 0};
  if (dtype != DLV3_F64) m.ratio = under > 0 ? (double)((float)over / (float)under) : 0;
  return m;
}

BOTH taps taps_of(const axis_map &m, int64_t dst) {
  const double src = product_alone(m.ratio, (double)dst + (m.align_corners ? 0 : 0.5)) - (m.align_corners ? 0 : 0.5),
               at = src > 0 ? src : 0;
  taps t;
  t.i0 = (int64_t)at < m.in - 1 ? (int64_t)at : m.in - 1;
  t.i1 = t.i0 < m.in - 1 ? t.i0 + 1 : t.i0;
  const double w = at - (double)t.i0;
  t.w1 = t.i1 == t.i0 ? 0 : w > 1 ? 1 : w;
  t.w0 = 1 - t.w1;
  return t;
}

/* The first destination whose i0 is at least i; out where there is none. Positions grow with dst,
 * so bisection finds it. */
BOTH int64_t first_from(const axis_map &m, int64_t i) {
  int64_t low = 0, high = m.out;
  while (low < high) {
    const int64_t mid = (low + high) / 2;
    if (taps_of(m, mid).i0 >= i)
      high = mid;
    else
      low = mid + 1;
  }
  return low;
}

#endif

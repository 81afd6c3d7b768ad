/* interpolate.h - which source pixels and weights make a destination pixel of a bilinear
 * interpolation; shared by resample.c and the fused losses in loss.c.
 *
 * Along one axis: src = max(0, (dst + 0.5) in / out - 0.5), or dst (in - 1) / (out - 1) with
 * align_corners; the two pixels are i0 = floor(src) and i1 = min(i0 + 1, in - 1), weighted 1 - (src
 * - i0) and src - i0. The ratio is rounded to f32 unless the data are f64, as PyTorch does (at
 * large sizes it shows); all else is computed in f64. Where i0 = i1 the weights are 1 and 0, so
 * that a map of 1x1 is copied exactly. */
#ifndef DLV3_INTERPOLATE_H
#define DLV3_INTERPOLATE_H

#include "ref.h"

typedef struct {
  int64_t in, out;
  bool align_corners;
  double ratio;
} axis_map;

typedef struct {
  int64_t i0, i1;
  double w0, w1;
} taps;

static inline axis_map axis_map_of(int64_t in, int64_t out, bool align_corners, int32_t dtype) {
  int64_t over = align_corners ? in - 1 : in, under = align_corners ? out - 1 : out;
  axis_map m = {in, out, align_corners, under > 0 ? (double)over / (double)under : 0};
  if (dtype != DLV3_F64) m.ratio = under > 0 ? (double)((float)over / (float)under) : 0;
  return m;
}

static inline double source_of(const axis_map *m, int64_t dst) {
  double src = m->align_corners ? m->ratio * (double)dst : m->ratio * ((double)dst + 0.5) - 0.5;
  return src > 0 ? src : 0;
}

static inline taps taps_of(const axis_map *m, int64_t dst) {
  double src = source_of(m, dst);
  taps t;
  t.i0 = (int64_t)src < m->in - 1 ? (int64_t)src : m->in - 1;
  t.i1 = t.i0 < m->in - 1 ? t.i0 + 1 : t.i0;
  double w = src - (double)t.i0;
  t.w1 = t.i1 == t.i0 ? 0 : w > 1 ? 1 : w;
  t.w0 = 1 - t.w1;
  return t;
}

/* The weight of source pixel i in what t makes. */
static inline double tap_weight(const taps *t, int64_t i) {
  return (t->i0 == i ? t->w0 : 0) + (t->i1 == i ? t->w1 : 0);
}

/* The destinations that source pixel i takes part in: [*begin, *end). Positions grow with dst, so
 * bisection finds them. */
static inline void reached(const axis_map *m, int64_t i, int64_t *begin, int64_t *end) {
  int64_t low = 0, high = m->out;
  while (low < high) { /* the first whose i0 is at least i - 1 */
    int64_t mid = (low + high) / 2;
    if (taps_of(m, mid).i0 >= i - 1)
      high = mid;
    else
      low = mid + 1;
  }
  *begin = low;
  high = m->out;
  while (low < high) { /* the first whose i0 is above i */
    int64_t mid = (low + high) / 2;
    if (taps_of(m, mid).i0 > i)
      high = mid;
    else
      low = mid + 1;
  }
  *end = low;
}

/* x at (n, k) blended for the destination whose taps are v (rows) and u (columns). */
static inline double blend(const tensor *x, int64_t n, int64_t k, const taps *v, const taps *u) {
  return v->w0 * (u->w0 * at(x, at4(x, n, k, v->i0, u->i0)) + u->w1 * at(x, at4(x, n, k, v->i0, u->i1)))
         + v->w1 * (u->w0 * at(x, at4(x, n, k, v->i1, u->i0)) + u->w1 * at(x, at4(x, n, k, v->i1, u->i1)));
}

/* -- Blocks of pixels, for kernels that need all channels of a pixel and never the whole map --- */

/* The fast fused kernels take PIXELS destinations of a row at a time, channel by channel: z[k *
 * PIXELS + i]. Everything per pixel then vectorises over i, however few the channels are. Only for
 * out >= in: a block's sources span SPAN. */
enum { PIXELS = 64, SPAN = PIXELS + 2 + 8 /* read beyond */, MAX_CHANNELS = 256, RUN_OF = 8 };

typedef struct {
  int64_t base;                        /* the leftmost source pixel                         */
  int32_t n, span;                     /* destinations; sources from base                   */
  int32_t left[PIXELS], right[PIXELS]; /* sources, from base                                */
  float w0[PIXELS], w1[PIXELS];
  int32_t near_left[PIXELS], near_right[PIXELS]; /* sources, from the first left one of each eight */
  bool near;                                     /* eight sources from there are all of them          */
} pixel_block;

static inline int64_t blocks_of(int64_t width) { return (width + PIXELS - 1) / PIXELS; }

static inline void pixel_block_of(pixel_block *b, const axis_map *columns, int64_t index) {
  int64_t first = index * PIXELS;
  b->n = (int32_t)(columns->out - first < PIXELS ? columns->out - first : PIXELS);
  b->base = taps_of(columns, first).i0;
  b->span = (int32_t)(taps_of(columns, first + b->n - 1).i1 - b->base + 1);
  for (int32_t i = 0; i < PIXELS; i++) { /* past the end: the last pixel again, so that loops have one length */
    taps t = taps_of(columns, first + (i < b->n ? i : b->n - 1));
    b->left[i] = (int32_t)(t.i0 - b->base), b->right[i] = (int32_t)(t.i1 - b->base);
    b->w0[i] = (float)t.w0, b->w1[i] = (float)t.w1;
  }
  b->near = true;
  for (int32_t i = 0; i < PIXELS; i++) {
    const int32_t start = b->left[i / RUN_OF * RUN_OF];
    b->near_left[i] = b->left[i] - start, b->near_right[i] = b->right[i] - start;
    b->near &= b->near_right[i] < RUN_OF;
  }
}

typedef float eight_floats __attribute__((vector_size(4 * RUN_OF), aligned(4), may_alias));
typedef int32_t eight_places __attribute__((vector_size(4 * RUN_OF), aligned(4), may_alias));

/* z[i] = w0[i] v[left[i]] + w1[i] v[right[i]] of one channel. Where eight destinations have their
 * sources among eight neighbours, those are picked from a register: a gather takes several times as
 * long. */
INLINE void blend_row(float *restrict z, const float *restrict v, const pixel_block *b) {
#ifndef __clang__ /* which has no shuffle by places that are not constant */
  for (int64_t i = 0; b->near && i < PIXELS; i += RUN_OF) {
    const eight_floats from = *(const eight_floats *)(v + b->left[i]), w0 = *(const eight_floats *)(b->w0 + i),
                       w1 = *(const eight_floats *)(b->w1 + i);
    const eight_places left = *(const eight_places *)(b->near_left + i),
                       right = *(const eight_places *)(b->near_right + i);
    *(eight_floats *)(z + i) = w0 * __builtin_shuffle(from, left) + w1 * __builtin_shuffle(from, right);
  }
  if (b->near) return;
#endif
  for (int64_t i = 0; i < PIXELS; i++) z[i] = b->w0[i] * v[b->left[i]] + b->w1[i] * v[b->right[i]];
}

/* z = the blended channels of a block; top and bottom: the two source rows, weighted v0 and v1. */
#define BLEND_BLOCK(T, name, LOAD) \
  INLINE void name(float *restrict z, const T *restrict top, const T *restrict bottom, float v0, float v1, \
                   const pixel_block *b, int64_t channels) { \
    float v[MAX_CHANNELS * SPAN]; \
    for (int64_t j = 0; j < b->span; j++) \
      for (int64_t k = 0, p = (b->base + j) * channels; k < channels; k++) \
        v[k * SPAN + j] = v0 * LOAD(top[p + k]) + v1 * LOAD(bottom[p + k]); \
    for (int64_t k = 0; k < channels; k++) blend_row(z + k * PIXELS, v + k * SPAN, b); \
  }
#define AS_IS(v) (v)
BLEND_BLOCK(float, blend_block_f32, AS_IS)
BLEND_BLOCK(bf16, blend_block_bf16, bf16_to_f32)

#endif

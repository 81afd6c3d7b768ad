/* resize.c - resizing 8-bit pictures exactly as Pillow does.
 *
 * The published weights were trained on Pillow's BILINEAR, which differs from a tensor library's: it is antialiased when
 * shrinking (a triangle as wide as the reduction), separable with the horizontal pass first, in fixed point with 22
 * fractional bits, and what lies between the passes is rounded to 8 bits. NEAREST samples at pixel centres, summed up in
 * double. Each output pixel depends on its own taps only, so a window of the result can be computed alone. */
#include "image.h"

#include <math.h>
#include <stdlib.h>

#if defined(__x86_64__) && !defined(DLV3_SANITIZE) /* ifunc resolvers run before a sanitizer is ready */
#define CLONES __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default"), optimize("O3")))
#else
#define CLONES
#endif

enum { FRACTION_BITS = 22 };

void resize_space_free(resize_space *s) {
  picture_free(&s->rows);
  bytes_free(&s->x);
  bytes_free(&s->y);
}

void resize_shorter(int64_t *h, int64_t *w, int64_t size) {
  int64_t *shorter = *w <= *h ? w : h, *longer = *w <= *h ? h : w;
  *longer = (int64_t)((double)(size * *longer) / (double)*shorter);
  *shorter = size;
}

/* -- Taps -------------------------------------------------------------------------------------------------- */

/* Which input pixels make output pixel i (counted from the window's start), with what weight. */
typedef struct { int32_t first, count; } span;
typedef struct {
  int32_t width;                    /* weights a pixel has room for */
  span *spans;
  int32_t *weights;                 /* [n, width] */
} taps;

static status taps_make(taps *t, byte_buffer *space, int64_t in, int64_t out, int64_t from, int64_t to) {
  double scale = (double)in / (double)out, filter = scale < 1 ? 1 : scale, inverse = 1.0 / filter;
  int64_t n = to - from, width = (int64_t)ceil(filter) * 2 + 1;
  int64_t span_bytes = n * (int64_t)sizeof(span), weight_bytes = n * width * 4, double_at = (span_bytes + weight_bytes + 7) & ~7ll;
  TRY(bytes_reserve(space, double_at + width * 8));
  t->width = (int32_t)width;
  t->spans = (span *)space->data;
  t->weights = (int32_t *)(space->data + span_bytes);
  double *real = (double *)(space->data + double_at);
  for (int64_t i = 0; i < n; i++) {
    double center = ((double)(from + i) + 0.5) * scale, sum = 0;
    int64_t first = (int64_t)(center - filter + 0.5), end = (int64_t)(center + filter + 0.5);
    if (first < 0) first = 0;
    if (end > in) end = in;
    for (int64_t k = 0; k < end - first; k++) {
      double distance = fabs(((double)(k + first) - center + 0.5) * inverse);
      real[k] = distance < 1 ? 1 - distance : 0;
      sum += real[k];
    }
    t->spans[i] = (span){(int32_t)first, (int32_t)(end - first)};
    for (int64_t k = 0; k < end - first; k++) {
      double weight = sum != 0 ? real[k] / sum : real[k];
      t->weights[i * width + k] = (int32_t)(0.5 + weight * (1 << FRACTION_BITS));
    }
  }
  return DLV3_OK;
}

static inline uint8_t to_byte(int32_t sum) {
  int32_t v = sum >> FRACTION_BITS;
  return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* -- The two passes ---------------------------------------------------------------------------------------- */

static void row_of_rgb(uint8_t *dst, const uint8_t *src, int64_t n, const taps *t) {
  for (int64_t x = 0; x < n; x++, dst += 3) {
    const uint8_t *p = src + t->spans[x].first * 3;
    const int32_t *k = t->weights + x * t->width;
    int32_t r = 1 << (FRACTION_BITS - 1), g = r, b = r;
    for (int32_t i = 0; i < t->spans[x].count; i++, p += 3) r += p[0] * k[i], g += p[1] * k[i], b += p[2] * k[i];
    dst[0] = to_byte(r), dst[1] = to_byte(g), dst[2] = to_byte(b);
  }
}

static void row_of_any(uint8_t *dst, const uint8_t *src, int64_t n, int32_t channels, const taps *t) {
  for (int64_t x = 0; x < n; x++)
    for (int32_t c = 0; c < channels; c++) {
      int32_t sum = 1 << (FRACTION_BITS - 1);
      for (int32_t i = 0; i < t->spans[x].count; i++) sum += src[(t->spans[x].first + i) * channels + c] * t->weights[x * t->width + i];
      *dst++ = to_byte(sum);
    }
}

/* One output row from `count` rows, `bytes` wide, `stride` bytes apart. */
CLONES static void column_pass(uint8_t *dst, const uint8_t *src, int64_t stride, int64_t bytes, const int32_t *k, int32_t count) {
  enum { BLOCK = 512 };
  int32_t sum[BLOCK];
  for (int64_t from = 0; from < bytes; from += BLOCK) {
    int64_t n = bytes - from < BLOCK ? bytes - from : BLOCK;
    for (int64_t x = 0; x < n; x++) sum[x] = 1 << (FRACTION_BITS - 1);
    for (int32_t i = 0; i < count; i++) {
      const uint8_t *row = src + i * stride + from;
      int32_t weight = k[i];
      for (int64_t x = 0; x < n; x++) sum[x] += row[x] * weight;
    }
    for (int64_t x = 0; x < n; x++) dst[from + x] = to_byte(sum[x]);
  }
}

status resize_bilinear(picture *out, const picture *in, int64_t h, int64_t w, window part, resize_space *space) {
  int64_t nh = part.y1 - part.y0, nw = part.x1 - part.x0, c = in->channels;
  TRY(picture_reserve(out, h, w, 0)); /* the whole result must be of a sane size too */
  TRY(picture_reserve(out, nh, nw, in->channels));
  taps horizontal, vertical;
  int64_t top = part.y0, bottom = part.y1; /* the input rows that are needed */
  if (h != in->h) {
    TRY(taps_make(&vertical, &space->y, in->h, h, part.y0, part.y1));
    top = vertical.spans[0].first;
    bottom = vertical.spans[nh - 1].first + vertical.spans[nh - 1].count;
  }
  const uint8_t *rows = in->data + (top * in->w + part.x0) * c;
  int64_t stride = in->w * c;
  if (w != in->w) {
    TRY(taps_make(&horizontal, &space->x, in->w, w, part.x0, part.x1));
    TRY(picture_reserve(&space->rows, bottom - top, nw, in->channels));
    for (int64_t y = top; y < bottom; y++) {
      uint8_t *to = space->rows.data + (y - top) * nw * c;
      if (c == 3) row_of_rgb(to, in->data + y * stride, nw, &horizontal);
      else row_of_any(to, in->data + y * stride, nw, in->channels, &horizontal);
    }
    rows = space->rows.data;
    stride = nw * c;
  }
  for (int64_t y = 0; y < nh; y++) {
    uint8_t *to = out->data + y * nw * c;
    if (h == in->h) memcpy(to, rows + y * stride, (size_t)(nw * c));
    else column_pass(to, rows + (vertical.spans[y].first - top) * stride, stride, nw * c, vertical.weights + y * vertical.width, vertical.spans[y].count);
  }
  return DLV3_OK;
}

/* -- Nearest ----------------------------------------------------------------------------------------------- */

/* The input position of outputs 0..to-1; the sum is Pillow's, rounding errors and all. */
static status positions(int32_t **table, byte_buffer *space, int64_t in, int64_t out, int64_t to) {
  TRY(bytes_reserve(space, to * 4));
  *table = (int32_t *)space->data;
  double scale = (double)in / (double)out, at = scale * 0.5;
  for (int64_t i = 0; i < to; i++, at += scale) {
    int64_t p = (int64_t)at;
    (*table)[i] = (int32_t)(p < in ? p : in - 1);
  }
  return DLV3_OK;
}

status resize_nearest(picture *out, const picture *in, int64_t h, int64_t w, window part, resize_space *space) {
  int64_t nh = part.y1 - part.y0, nw = part.x1 - part.x0, c = in->channels;
  int32_t *xs, *ys;
  TRY(picture_reserve(out, h, w, 0));
  TRY(picture_reserve(out, nh, nw, in->channels));
  TRY(positions(&xs, &space->x, in->w, w, part.x1));
  TRY(positions(&ys, &space->y, in->h, h, part.y1));
  uint8_t *to = out->data;
  for (int64_t y = 0; y < nh; y++) {
    const uint8_t *row = in->data + ys[part.y0 + y] * in->w * c;
    if (c == 1)
      for (int64_t x = 0; x < nw; x++) *to++ = row[xs[part.x0 + x]];
    else
      for (int64_t x = 0; x < nw; x++, to += c) memcpy(to, row + xs[part.x0 + x] * c, (size_t)c);
  }
  return DLV3_OK;
}

/* resize.c - resizing 8-bit pictures exactly as Pillow does.
 *
 * The published weights were trained on Pillow's BILINEAR, which differs from a tensor library's:
 * it is antialiased when shrinking (a triangle as wide as the reduction), separable with the
 * horizontal pass first, in fixed point with 22 fractional bits, and the result of the
 * first pass is rounded to 8 bits. NEAREST samples at pixel centres, whose positions are summed in
 * double. Each output pixel
 * depends on its own taps only, so a window of the result can be computed alone. */
#include "core/isa_clones.h"
#include "resize.h"

#include <math.h>
#include <stdlib.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

enum { FRACTION_BITS = 22 };

void resize_space_free(resize_space *s) {
  picture_free(&s->rows);
  bytes_free(&s->x);
  bytes_free(&s->y);
  bytes_free(&s->pairs);
}

void resize_shorter(int64_t *h, int64_t *w, int64_t size) {
  int64_t *shorter = *w <= *h ? w : h, *longer = *w <= *h ? h : w;
  *longer = (int64_t)((double)(size * *longer) / (double)*shorter);
  *shorter = size;
}

/* -- Taps -------------------------------------------------------------------------------------- */

/* The input pixels of output pixel i (counted from the start of the window) and their weights. */
typedef struct {
  int32_t first, count;
} span;
typedef struct {
  int32_t width; /* weights per pixel */
  span *spans;
  int32_t *weights; /* [n, width] */
} taps;

/* mirror: in reverse order. */
static status taps_make(taps *t, byte_buffer *space, int64_t in, int64_t out, int64_t from, int64_t to, bool mirror) {
  double scale = (double)in / (double)out, filter = scale < 1 ? 1 : scale, inverse = 1.0 / filter;
  int64_t n = to - from, width = (int64_t)ceil(filter) * 2 + 1;
  int64_t span_bytes = n * (int64_t)sizeof(span), weight_bytes = n * width * 4,
          double_at = (span_bytes + weight_bytes + 7) & ~7ll;
  TRY(bytes_reserve(space, double_at + width * 8));
  t->width = (int32_t)width;
  t->spans = (span *)space->data;
  t->weights = (int32_t *)(space->data + span_bytes);
  double *real = (double *)(space->data + double_at);
  for (int64_t i = 0; i < n; i++) {
    double center = ((double)(mirror ? to - 1 - i : from + i) + 0.5) * scale, sum = 0;
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

static inline __attribute__((always_inline)) uint8_t to_byte(int32_t sum) {
  int32_t v = sum >> FRACTION_BITS;
  if (v < 0) return 0;
  return (uint8_t)(v > 255 ? 255 : v);
}

/* -- Horizontal pass
 * ---------------------------------------------------------------------------- */

static void row_of_any(uint8_t *dst, const uint8_t *src, int64_t n, int32_t channels, const taps *t) {
  for (int64_t x = 0; x < n; x++)
    for (int32_t c = 0; c < channels; c++) {
      int32_t sum = 1 << (FRACTION_BITS - 1);
      for (int32_t i = 0; i < t->spans[x].count; i++)
        sum += src[(t->spans[x].first + i) * channels + c] * t->weights[x * t->width + i];
      *dst++ = to_byte(sum);
    }
}

#ifdef __x86_64__
/* RGB rows with AVX2's sums of two 16-bit products, for two taps at a time. A weight of 22 bits is
 * split in a high part times 2^11 and a low part, so that every product and sum is exact and the
 * result equals that of the function above. */
enum { LOW_BITS = 11 };

typedef struct {
  int64_t n;           /* output pixels, a multiple of 4 */
  int32_t pairs;       /* of taps, of every pixel */
  int32_t *offset;     /* [n] bytes from the start of the row */
  int32_t *low, *high; /* [pairs, n] two 16-bit weights each */
} tap_pairs;

/* All pixels get the same number of taps; where that would read past the end of the row, the taps
 * begin earlier, with weights of 0. False: the rows are too short. */
static status pairs_make(tap_pairs *p, bool *possible, byte_buffer *space, const taps *t, int64_t n, int64_t in) {
  int32_t most = 0;
  for (int64_t x = 0; x < n; x++) most = t->spans[x].count > most ? t->spans[x].count : most;
  p->pairs = (most + 1) / 2;
  p->n = (n + 3) & ~3ll;
  *possible = in >= 2 * p->pairs;
  if (!*possible) return DLV3_OK;
  int64_t bytes = p->n * (1 + 2 * p->pairs) * 4;
  TRY(bytes_reserve(space, bytes));
  memset(space->data, 0, (size_t)bytes);
  p->offset = (int32_t *)space->data;
  p->low = p->offset + p->n;
  p->high = p->low + p->n * p->pairs;
  for (int64_t x = 0; x < n; x++) {
    int32_t last = (int32_t)in - 2 * p->pairs, first = t->spans[x].first < last ? t->spans[x].first : last,
            shift = t->spans[x].first - first;
    p->offset[x] = first * 3;
    for (int32_t k = 0; k < t->spans[x].count; k++) {
      int32_t weight = t->weights[x * t->width + k], at = (k + shift) / 2, half = (k + shift) % 2 * 16;
      p->low[at * p->n + x] |= (weight & ((1 << LOW_BITS) - 1)) << half;
      p->high[at * p->n + x] |= weight >> LOW_BITS << half;
    }
  }
  return DLV3_OK;
}

/* Output pixel x of two rows, one in each half. */
static inline __attribute__((always_inline, target("avx2"))) __m256i pixel_of_two(const uint8_t *a, const uint8_t *b,
                                                                                  const tap_pairs *p, int32_t pairs,
                                                                                  int64_t x) {
  const __m256i interleave =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
  __m256i low = _mm256_set1_epi32(1 << (FRACTION_BITS - 1)), high = _mm256_setzero_si256();
  a += p->offset[x];
  b += p->offset[x];
  for (int32_t k = 0; k < pairs; k++) {
    __m256i v = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadl_epi64((const __m128i *)(a + 6 * k))),
                                        _mm_loadl_epi64((const __m128i *)(b + 6 * k)), 1);
    v = _mm256_shuffle_epi8(v, interleave);
    low = _mm256_add_epi32(low, _mm256_madd_epi16(v, _mm256_set1_epi32(p->low[k * p->n + x])));
    high = _mm256_add_epi32(high, _mm256_madd_epi16(v, _mm256_set1_epi32(p->high[k * p->n + x])));
  }
  return _mm256_srai_epi32(_mm256_add_epi32(low, _mm256_slli_epi32(high, LOW_BITS)), FRACTION_BITS);
}

static inline __attribute__((always_inline, target("avx2"))) void two_rows(uint8_t *to_a, uint8_t *to_b,
                                                                           const uint8_t *a, const uint8_t *b,
                                                                           int64_t n, const tap_pairs *p,
                                                                           int32_t pairs) {
  const __m256i drop_fourth =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
  for (int64_t x = 0; x < n; x += 4) {
    __m256i v01 = _mm256_packs_epi32(pixel_of_two(a, b, p, pairs, x), pixel_of_two(a, b, p, pairs, x + 1));
    __m256i v23 = _mm256_packs_epi32(pixel_of_two(a, b, p, pairs, x + 2), pixel_of_two(a, b, p, pairs, x + 3));
    __m256i v = _mm256_shuffle_epi8(_mm256_packus_epi16(v01, v23), drop_fourth);
    if (x + 6 <= n) { /* writes 4 bytes too many, which the next pixels overwrite */
      _mm_storeu_si128((__m128i *)(to_a + 3 * x), _mm256_castsi256_si128(v));
      _mm_storeu_si128((__m128i *)(to_b + 3 * x), _mm256_extracti128_si256(v, 1));
    } else {
      uint8_t last[32];
      size_t bytes = (size_t)(n - x < 4 ? n - x : 4) * 3;
      _mm256_storeu_si256((__m256i *)last, v);
      memcpy(to_a + 3 * x, last, bytes);
      memcpy(to_b + 3 * x, last + 16, bytes);
    }
  }
}

__attribute__((target("avx2"))) static void rows_avx2(uint8_t *dst, int64_t dst_stride, const uint8_t *src,
                                                      int64_t src_stride, int64_t rows, int64_t n, const tap_pairs *p) {
  for (int64_t y = 0; y < rows; y += 2) {
    int64_t z = y + 1 < rows ? y + 1 : y;
    uint8_t *to_a = dst + y * dst_stride, *to_b = dst + z * dst_stride;
    const uint8_t *a = src + y * src_stride, *b = src + z * src_stride;
    if (p->pairs == 1)
      two_rows(to_a, to_b, a, b, n, p, 1);
    else if (p->pairs == 2)
      two_rows(to_a, to_b, a, b, n, p, 2);
    else
      two_rows(to_a, to_b, a, b, n, p, p->pairs);
  }
}
#endif

static status resize_rows(uint8_t *dst, int64_t dst_stride, const picture *in, int64_t top, int64_t rows, int64_t n,
                          const taps *t, resize_space *space) {
  int64_t stride = in->w * in->channels;
  const uint8_t *src = in->data + top * stride;
#ifdef __x86_64__
  tap_pairs pairs;
  bool possible = false;
  if (in->channels == 3 && __builtin_cpu_supports("avx2"))
    TRY(pairs_make(&pairs, &possible, &space->pairs, t, n, in->w));
  if (possible) {
    rows_avx2(dst, dst_stride, src, stride, rows, n, &pairs);
    return DLV3_OK;
  }
#endif
  (void)space;
  for (int64_t y = 0; y < rows; y++) row_of_any(dst + y * dst_stride, src + y * stride, n, in->channels, t);
  return DLV3_OK;
}

/* -- Vertical pass -------------------------------------------------------------------------- */

/* One output row of `bytes` from `count` rows, `stride` bytes apart. */
static inline __attribute__((always_inline)) void blend(uint8_t *dst, const uint8_t *src, int64_t stride, int64_t bytes,
                                                        const int32_t *k, int32_t count) {
  for (int64_t x = 0; x < bytes; x++) {
    int32_t sum = 1 << (FRACTION_BITS - 1);
    for (int32_t i = 0; i < count; i++) sum += src[i * stride + x] * k[i];
    dst[x] = to_byte(sum);
  }
}

static inline __attribute__((always_inline)) void blend_many(uint8_t *dst, const uint8_t *src, int64_t stride,
                                                             int64_t bytes, const int32_t *k, int32_t count) {
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

CLONES static void column_pass(uint8_t *restrict dst, const uint8_t *restrict src,
                                                               int64_t stride, int64_t bytes, const int32_t *k,
                                                               int32_t count) {
  switch (count) { /* the usual counts need no buffer for sums */
  case 1: blend(dst, src, stride, bytes, (int32_t[]){k[0]}, 1); break;
  case 2: blend(dst, src, stride, bytes, (int32_t[]){k[0], k[1]}, 2); break;
  case 3: blend(dst, src, stride, bytes, (int32_t[]){k[0], k[1], k[2]}, 3); break;
  case 4: blend(dst, src, stride, bytes, (int32_t[]){k[0], k[1], k[2], k[3]}, 4); break;
  default: blend_many(dst, src, stride, bytes, k, count);
  }
}

/* -- Bilinear ---------------------------------------------------------------------------------- */

status resize_bilinear_into(const picture *out, const picture *in, int64_t h, int64_t w, window part, bool mirror,
                            resize_space *space) {
  int64_t nh = part.y1 - part.y0, nw = part.x1 - part.x0, c = in->channels, out_stride = out->w * c;
  bool across = w != in->w || mirror, down = h != in->h;
  taps horizontal, vertical;
  int64_t top = part.y0, bottom = part.y1; /* the input rows that are needed */
  if (down) {
    TRY(taps_make(&vertical, &space->y, in->h, h, part.y0, part.y1, false));
    top = vertical.spans[0].first;
    bottom = vertical.spans[nh - 1].first + vertical.spans[nh - 1].count;
  }
  const uint8_t *rows = in->data + (top * in->w + part.x0) * c;
  int64_t stride = in->w * c;
  if (across) {
    TRY(taps_make(&horizontal, &space->x, in->w, w, part.x0, part.x1, mirror));
    if (!down) return resize_rows(out->data, out_stride, in, top, nh, nw, &horizontal, space);
    TRY(picture_reserve(&space->rows, bottom - top, nw, in->channels));
    stride = nw * c;
    TRY(resize_rows(space->rows.data, stride, in, top, bottom - top, nw, &horizontal, space));
    rows = space->rows.data;
  }
  for (int64_t y = 0; y < nh; y++) {
    uint8_t *to = out->data + y * out_stride;
    if (!down)
      memcpy(to, rows + y * stride, (size_t)(nw * c));
    else
      column_pass(to, rows + (vertical.spans[y].first - top) * stride, stride, nw * c,
                  vertical.weights + y * vertical.width, vertical.spans[y].count);
  }
  return DLV3_OK;
}

/* The whole result must be within the pixel limit too. */
static status reserve_window(picture *out, int64_t h, int64_t w, window part, int32_t channels) {
  TRY(picture_reserve(out, h, w, 0));
  return picture_reserve(out, part.y1 - part.y0, part.x1 - part.x0, channels);
}

status resize_bilinear(picture *out, const picture *in, int64_t h, int64_t w, window part, resize_space *space) {
  TRY(reserve_window(out, h, w, part, in->channels));
  return resize_bilinear_into(out, in, h, w, part, false, space);
}

/* -- Nearest ----------------------------------------------------------------------------------- */

/* The input positions of outputs 0..to-1, summed as in Pillow, with the same rounding errors. */
static status nearest_positions(int32_t **table, byte_buffer *space, int64_t in, int64_t out, int64_t to) {
  TRY(bytes_reserve(space, to * 4));
  *table = (int32_t *)space->data;
  double scale = (double)in / (double)out, at = scale * 0.5;
  for (int64_t i = 0; i < to; i++, at += scale) {
    int64_t p = (int64_t)at;
    (*table)[i] = (int32_t)(p < in ? p : in - 1);
  }
  return DLV3_OK;
}

static void reverse_positions(int32_t *p, int64_t n) {
  for (int64_t i = 0; i < n / 2; i++) {
    int32_t v = p[i];
    p[i] = p[n - 1 - i];
    p[n - 1 - i] = v;
  }
}

status resize_nearest_into(const picture *out, const picture *in, int64_t h, int64_t w, window part, bool mirror,
                           resize_space *space) {
  int64_t nh = part.y1 - part.y0, nw = part.x1 - part.x0, c = in->channels;
  int32_t *xs, *ys;
  TRY(nearest_positions(&xs, &space->x, in->w, w, part.x1));
  TRY(nearest_positions(&ys, &space->y, in->h, h, part.y1));
  xs += part.x0;
  ys += part.y0;
  if (mirror) reverse_positions(xs, nw);
  for (int64_t y = 0; y < nh; y++) {
    uint8_t *to = out->data + y * out->w * c;
    const uint8_t *row = in->data + ys[y] * in->w * c;
    if (y && ys[y] == ys[y - 1])
      memcpy(to, to - out->w * c, (size_t)(nw * c)); /* enlarging: repeat the row */
    else if (c == 1)
      for (int64_t x = 0; x < nw; x++) to[x] = row[xs[x]];
    else
      for (int64_t x = 0; x < nw; x++, to += c) memcpy(to, row + xs[x] * c, (size_t)c);
  }
  return DLV3_OK;
}

status resize_nearest(picture *out, const picture *in, int64_t h, int64_t w, window part, resize_space *space) {
  TRY(reserve_window(out, h, w, part, in->channels));
  return resize_nearest_into(out, in, h, w, part, false, space);
}

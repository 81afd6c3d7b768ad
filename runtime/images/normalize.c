/* normalize.c - 8-bit pixels to normalized floats: (v / 255 - mean) / std in f32, as torchvision's
 * ToTensor and Normalize.
 *
 * A channel has 256 values, so a table holds all results. On processors with fused multiply-add
 * computing is faster than the table; a division is then a product with the reciprocal and one
 * correction, which is not always the correctly rounded quotient. normalize_table_make compares all
 * 768 results and uses the table where one differs. */
#include "core/isa_clones.h"
#include "normalize.h"

/* -- Computed ---------------------------------------------------------------------------------- */

enum { BLOCK = 48 }; /* values: whole pixels, and whole vectors of 16 */

typedef struct {
  float mean[BLOCK], std[BLOCK], inverse[BLOCK];
} block_constants;

static inline __attribute__((always_inline)) uint32_t compute(uint8_t v, const block_constants *b, int32_t i) {
  const float all = 255.0f, part = 1.0f / 255.0f;
  float f = (float)v, q = f * part;
  q = __builtin_fmaf(__builtin_fmaf(-q, all, f), part, q);
  f = q - b->mean[i];
  q = f * b->inverse[i];
  q = __builtin_fmaf(__builtin_fmaf(-q, b->std[i], f), b->inverse[i], q);
  uint32_t bits;
  memcpy(&bits, &q, 4);
  return bits;
}

static inline __attribute__((always_inline)) uint16_t round_to_bf16(uint32_t bits) {
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* n values; what is left after whole blocks too, since channels go round from the start of each
 * block. */
CLONES static void compute_f32(uint32_t *restrict dst, const uint8_t *restrict src,
                                                               int64_t n, const block_constants *restrict b) {
  int64_t at = 0;
  for (; at + BLOCK <= n; at += BLOCK)
    for (int32_t i = 0; i < BLOCK; i++) dst[at + i] = compute(src[at + i], b, i);
  for (int32_t i = 0; at + i < n; i++) dst[at + i] = compute(src[at + i], b, i);
}

CLONES static void compute_bf16(uint16_t *restrict dst, const uint8_t *restrict src,
                                                                int64_t n, const block_constants *restrict b) {
  int64_t at = 0;
  for (; at + BLOCK <= n; at += BLOCK)
    for (int32_t i = 0; i < BLOCK; i++) dst[at + i] = round_to_bf16(compute(src[at + i], b, i));
  for (int32_t i = 0; at + i < n; i++) dst[at + i] = round_to_bf16(compute(src[at + i], b, i));
}

static void compute_pixels(void *dst, const uint8_t *src, int64_t n, const normalize_table *t, int32_t width) {
  block_constants b;
  for (int32_t i = 0; i < BLOCK; i++) {
    b.mean[i] = t->mean[i % 3];
    b.std[i] = t->std[i % 3];
    b.inverse[i] = 1.0f / t->std[i % 3];
  }
  if (width == 4)
    compute_f32(dst, src, n * 3, &b);
  else
    compute_bf16(dst, src, n * 3, &b);
}

static bool computes_the_same(const normalize_table *t, int32_t width) {
#ifdef __x86_64__
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
    return false; /* otherwise fma() is a function call */
  uint8_t pixels[256 * 3];
  union {
    uint32_t wide[256 * 3];
    uint16_t narrow[256 * 3];
  } result;
  for (int32_t i = 0; i < 256 * 3; i++) pixels[i] = (uint8_t)(i / 3);
  compute_pixels(&result, pixels, 256, t, width);
  for (int32_t i = 0; i < 256 * 3; i++)
    if ((width == 4 ? result.wide[i] : result.narrow[i]) != t->value[i % 3][i / 3]) return false;
  return true;
#else
  (void)t;
  (void)width;
  return false;
#endif
}

/* -- Looked up --------------------------------------------------------------------------------- */

static uint64_t bits_of_f16(float f) { /* f: zero or a normal number; rounds to nearest even */
  uint32_t bits;
  memcpy(&bits, &f, 4);
  uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) { /* below f16's normal numbers: round to a multiple of 2^-24 */
    float a;
    memcpy(&a, &magnitude, 4);
    a += 0.5f;
    memcpy(&magnitude, &a, 4);
    return sign | (magnitude - 0x3f000000);
  }
  return sign | (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
}

status normalize_table_make(normalize_table *t, const float *mean, const float *std, int32_t dtype) {
  if (!is_float(dtype))
    return fail(DLV3_ERR_DTYPE, "normalize: expected dtype f32, bf16, f16 or f64, got %s", dtype_name(dtype));
  memset(t, 0, sizeof *t);
  for (int32_t c = 0; c < 3; c++) {
    if (!(std[c] > 0))
      return fail(DLV3_ERR_ARG, "normalize: std must be above 0, got %g for channel %d", (double)std[c], (int)c + 1);
    for (int32_t v = 0; v < 256; v++) {
      float f = (float)v / 255.0f;
      f -= mean[c];
      f /= std[c];
      uint32_t bits;
      memcpy(&bits, &f, 4);
      double wide = f;
      if (dtype == DLV3_F32)
        t->value[c][v] = bits;
      else if (dtype == DLV3_BF16)
        t->value[c][v] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
      else if (dtype == DLV3_F16)
        t->value[c][v] = bits_of_f16(f);
      else
        memcpy(&t->value[c][v], &wide, 8);
    }
  }
  memcpy(t->mean, mean, sizeof t->mean);
  memcpy(t->std, std, sizeof t->std);
  t->computed = (dtype == DLV3_F32 || dtype == DLV3_BF16) && computes_the_same(t, dtype_bytes(dtype));
  return DLV3_OK;
}

#define NORMALIZE(T) \
  for (int64_t i = 0; i < n * 3; i += 3) { \
    ((T *)dst)[i] = (T)t->value[0][src[i]]; \
    ((T *)dst)[i + 1] = (T)t->value[1][src[i + 1]]; \
    ((T *)dst)[i + 2] = (T)t->value[2][src[i + 2]]; \
  }
void normalize_pixels(void *dst, const uint8_t *src, int64_t n, const normalize_table *t, int32_t width) {
  if (t->computed)
    compute_pixels(dst, src, n, t, width);
  else if (width == 4) {
    NORMALIZE(uint32_t)
  } else if (width == 2) {
    NORMALIZE(uint16_t)
  } else {
    NORMALIZE(uint64_t)
  }
}

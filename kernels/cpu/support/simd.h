/* simd.h - what the cpu kernels share: instruction sets, element conversion, access to dense
 * tensors.
 *
 * Loops are plain C that the compiler vectorises. CLONES (runtime/core/isa_clones.h) before a function
 * compiles it for AVX-512, AVX2 and the base instruction set. Floats are never reassociated by the
 * compiler: a reduction that is to vectorise keeps LANES partial sums itself. */
#ifndef DLV3_SIMD_H
#define DLV3_SIMD_H

#include <math.h>

#include "core/backend.h"
#include "core/isa_clones.h"

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16 }; /* f32 lanes of the widest vector */

typedef uint16_t bf16, f16; /* storage only; arithmetic is in float */

INLINE float bf16_to_f32(bf16 v) {
  uint32_t bits = (uint32_t)v << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
/* Rounds to nearest even; nan stays a quiet nan. */
INLINE bf16 f32_to_bf16(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1), quiet = bits | 0x400000;
  return (bf16)((f != f ? quiet : rounded) >> 16); /* chosen before it is narrowed: half the instructions of a vector */
}
INLINE float f16_to_f32(f16 h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3ff, bits;
  if (exponent == 31)
    bits = sign | 0x7f800000 | fraction << 13;
  else if (exponent)
    bits = sign | (exponent + 112) << 23 | fraction << 13;
  else { /* zero and subnormals: fraction * 2^-24 is exact in f32 */
    float f = (float)fraction * 0x1p-24f;
    memcpy(&bits, &f, 4);
    bits |= sign;
  }
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
/* Rounds to nearest even; overflow gives infinity. */
INLINE f16 f32_to_f16(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  uint32_t sign = bits >> 16 & 0x8000, a = bits & 0x7fffffff;
  if (a > 0x7f800000) return (f16)(sign | 0x7e00);
  if (a >= 0x477ff000) return (f16)(sign | 0x7c00); /* rounds to 65536 or more */
  if (a < 0x38800000) {                             /* subnormal: let the float unit round at 2^-24 */
    float magnitude;
    memcpy(&magnitude, &a, 4);
    magnitude += 0.5f;
    uint32_t m;
    memcpy(&m, &magnitude, 4);
    return (f16)(sign | (m - 0x3f000000));
  }
  return (f16)(sign | ((a + 0xfff + ((a >> 13) & 1) - 0x38000000) >> 13));
}

/* n elements at p of any dtype, converted to or from the computing type. */
void load_f32(float *dst, const void *p, int32_t dtype, int64_t n);
void load_f64(double *dst, const void *p, int32_t dtype, int64_t n);
void load_i64(int64_t *dst, const void *p, int32_t dtype, int64_t n); /* integers and bool only */
void store_f32(void *p, int32_t dtype, const float *src, int64_t n);
void store_f64(void *p, int32_t dtype, const double *src, int64_t n);
void store_i64(void *p, int32_t dtype, const int64_t *src, int64_t n); /* integers and bool only */

/* Towards zero, saturating; nan gives 0. low and high are whole. */
INLINE int64_t saturate(double v, double low, double high) {
  return v != v ? 0 : v <= low ? (int64_t)low : v >= high ? (high >= 0x1p63 ? INT64_MAX : (int64_t)high) : (int64_t)v;
}

#endif

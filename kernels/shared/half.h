/* half.h - bf16 and f16 as they lie in memory, to and from f32. For C: the cpu kernels and the MPI
 * libraries; CUDA's are in kernels/cuda/support/common.h. */
#ifndef DLV3_HALF_H
#define DLV3_HALF_H

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

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

#endif

/* simd.c - conversion of runs of elements between dtypes and the computing types f32, f64 and i64.
 *
 * Float to integer truncates towards zero and saturates (nan gives 0), so that no input is
 * undefined behaviour. Integers into smaller ones keep their low bits, as in C and PyTorch. */
#include "simd.h"

#define T float
#define F(name) name##_f32
#include "simd.inc"
#undef T
#undef F
#define T double
#define F(name) name##_f64
#include "simd.inc"
#undef T
#undef F

CLONES void load_i64(int64_t *dst, const void *p, int32_t dtype, int64_t n) {
  switch (dtype) {
  case DLV3_BOOL:
  case DLV3_U8:
    for (int64_t i = 0; i < n; i++) dst[i] = ((const uint8_t *)p)[i];
    break;
  case DLV3_I32:
    for (int64_t i = 0; i < n; i++) dst[i] = ((const int32_t *)p)[i];
    break;
  case DLV3_I64: memcpy(dst, p, (size_t)n * sizeof *dst); break;
  default: break;
  }
}

CLONES void store_i64(void *p, int32_t dtype, const int64_t *src, int64_t n) {
  switch (dtype) {
  case DLV3_BOOL:
    for (int64_t i = 0; i < n; i++) ((uint8_t *)p)[i] = src[i] != 0;
    break;
  case DLV3_U8:
    for (int64_t i = 0; i < n; i++) ((uint8_t *)p)[i] = (uint8_t)src[i];
    break;
  case DLV3_I32:
    for (int64_t i = 0; i < n; i++) ((int32_t *)p)[i] = (int32_t)src[i];
    break;
  case DLV3_I64: memcpy(p, src, (size_t)n * sizeof *src); break;
  default: break;
  }
}

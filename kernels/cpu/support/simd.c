/* simd.c - conversion of runs of elements between dtypes and the computing types f32, f64 and i64.
 *
 * Float to integer truncates towards zero and saturates (nan gives 0), so that no input is
 * undefined behaviour. Integers into smaller ones keep their low bits, as in C and PyTorch. */
#include "simd.h"

#define LOADER(name, T) \
  CLONES void name(T *dst, const void *p, int32_t dtype, int64_t n) { \
    switch (dtype) { \
    case DLV3_BOOL: \
    case DLV3_U8: \
      for (int64_t i = 0; i < n; i++) dst[i] = (T)((const uint8_t *)p)[i]; \
      break; \
    case DLV3_I32: \
      for (int64_t i = 0; i < n; i++) dst[i] = (T)((const int32_t *)p)[i]; \
      break; \
    case DLV3_I64: \
      for (int64_t i = 0; i < n; i++) dst[i] = (T)((const int64_t *)p)[i]; \
      break; \
    case DLV3_F16: \
      for (int64_t i = 0; i < n; i++) dst[i] = (T)f16_to_f32(((const f16 *)p)[i]); \
      break; \
    case DLV3_BF16: \
      for (int64_t i = 0; i < n; i++) dst[i] = (T)bf16_to_f32(((const bf16 *)p)[i]); \
      break; \
    case DLV3_F32: \
      for (int64_t i = 0; i < n; i++) dst[i] = (T)((const float *)p)[i]; \
      break; \
    case DLV3_F64: \
      for (int64_t i = 0; i < n; i++) dst[i] = (T)((const double *)p)[i]; \
      break; \
    default: break; \
    } \
  }

LOADER(load_f32, float)
LOADER(load_f64, double)

#define STORER(name, T) \
  CLONES void name(void *p, int32_t dtype, const T *src, int64_t n) { \
    switch (dtype) { \
    case DLV3_BOOL: \
      for (int64_t i = 0; i < n; i++) ((uint8_t *)p)[i] = src[i] != 0; \
      break; \
    case DLV3_U8: \
      for (int64_t i = 0; i < n; i++) ((uint8_t *)p)[i] = (uint8_t)saturate(src[i], 0, 255); \
      break; \
    case DLV3_I32: \
      for (int64_t i = 0; i < n; i++) ((int32_t *)p)[i] = (int32_t)saturate(src[i], INT32_MIN, INT32_MAX); \
      break; \
    case DLV3_I64: \
      for (int64_t i = 0; i < n; i++) ((int64_t *)p)[i] = saturate(src[i], -0x1p63, 0x1p63); \
      break; \
    case DLV3_F16: \
      for (int64_t i = 0; i < n; i++) ((f16 *)p)[i] = f32_to_f16((float)src[i]); \
      break; \
    case DLV3_BF16: \
      for (int64_t i = 0; i < n; i++) ((bf16 *)p)[i] = f32_to_bf16((float)src[i]); \
      break; \
    case DLV3_F32: \
      for (int64_t i = 0; i < n; i++) ((float *)p)[i] = (float)src[i]; \
      break; \
    case DLV3_F64: \
      for (int64_t i = 0; i < n; i++) ((double *)p)[i] = (double)src[i]; \
      break; \
    default: break; \
    } \
  }

STORER(store_f32, float)
STORER(store_f64, double)

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

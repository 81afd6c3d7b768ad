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
#include "shared/half.h"

enum { LANES = 16 }; /* f32 lanes of the widest vector */

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

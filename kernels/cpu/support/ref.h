/* ref.h - what reference kernels read and write with: one element of any dtype as f64.
 *
 * A ref_* kernel computes in f64 for every dtype and rounds once, when it stores: it is the oracle
 * for the fast ones. */
#ifndef DLV3_REF_H
#define DLV3_REF_H

#include "simd.h"

static inline double get(const void *p, int32_t dtype, int64_t i) {
  switch (dtype) {
  case DLV3_F64: return ((const double *)p)[i];
  case DLV3_F32: return (double)((const float *)p)[i];
  case DLV3_BF16: return (double)bf16_to_f32(((const bf16 *)p)[i]);
  case DLV3_F16: return (double)f16_to_f32(((const f16 *)p)[i]);
  case DLV3_I64: return (double)((const int64_t *)p)[i];
  case DLV3_I32: return (double)((const int32_t *)p)[i];
  default: return (double)((const uint8_t *)p)[i];
  }
}

static inline void put(void *p, int32_t dtype, int64_t i, double v) {
  switch (dtype) {
  case DLV3_F64: ((double *)p)[i] = v; break;
  case DLV3_F32: ((float *)p)[i] = (float)v; break;
  default: store_f64((char *)p + i * dtype_bytes(dtype), dtype, &v, 1); break;
  }
}

/* The same of a dense tensor; an absent one gives `otherwise`. */
static inline double at(const tensor *t, int64_t i) { return get(data_of(t), t->dtype, i); }
static inline double at_or(const tensor *t, int64_t i, double otherwise) { return t ? at(t, i) : otherwise; }
static inline void set(tensor *t, int64_t i, double v) { put(data_of(t), t->dtype, i, v); }

/* Position of element (n, c, y, x) in a dense 4-d tensor, which is channels-last. */
static inline int64_t at4(const tensor *t, int64_t n, int64_t c, int64_t y, int64_t x) {
  return ((n * t->size[2] + y) * t->size[3] + x) * t->size[1] + c;
}

#endif

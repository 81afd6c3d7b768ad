/* normalize.h - 8-bit pixels to normalized floats (normalize.c). */
#ifndef DLV3_NORMALIZE_H
#define DLV3_NORMALIZE_H

#include "core/core.h"

typedef struct {
  uint64_t value[3][256]; /* elements of the dtype, in the low bytes */
  float mean[3], std[3];
  bool computed; /* computing gives the same bits as the table, and is faster here */
} normalize_table;
/* (v / 255 - mean[c]) / std[c] in f32, as torchvision's ToTensor and Normalize; then rounded to
 * dtype. */
status normalize_table_make(normalize_table *t, const float *mean, const float *std, int32_t dtype);
/* n RGB pixels to n*3 elements of the table's dtype, dtype_bytes(dtype) each. */
void normalize_pixels(void *dst, const uint8_t *src, int64_t n, const normalize_table *t, int32_t width);

#endif

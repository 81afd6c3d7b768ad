/* elements.h - walking several tensors element by element, in the order the first one lies in
 * memory.
 *
 * Operands are broadcast to the sizes of operand 0. Axes are sorted by operand 0's strides and
 * merged where all operands allow it, so that most calls become one long row. */
#ifndef DLV3_CUDA_ELEMENTS_H
#define DLV3_CUDA_ELEMENTS_H

#include "common.h"

enum { MAX_OPERANDS = 4 };

typedef struct {
  int32_t n_op, ndim; /* ndim >= 1; axis 0 is the innermost       */
  int64_t size[DLV3_MAX_DIMS], stride[MAX_OPERANDS][DLV3_MAX_DIMS], total;
  char *data[MAX_OPERANDS];
  int32_t dtype[MAX_OPERANDS];
} elements;

/* t[0] gives the sizes; the others are broadcast to them (their trailing axes are aligned). */
elements elements_of(tensor *const *t, int32_t n);

/* Element offsets of all operands at position i, whose unit along axis 0 is `unit` elements; absent
 * ones have strides of 0, so that the loops have a constant length and `at` stays in registers. I:
 * uint32_t where it holds the total, since division is much dearer in 64 bits. */
template <class I> DEVICE void offsets_at(const elements &e, I i, int64_t unit, int64_t *at) {
  UNROLL
  for (int32_t o = 0; o < MAX_OPERANDS; o++) at[o] = 0;
  for (int32_t k = 0; k < e.ndim; k++) {
    const I size = (I)(k ? e.size[k] : e.size[0] / unit), rest = k + 1 < e.ndim ? i / size : 0;
    const int64_t x = (int64_t)(i - rest * size) * (k ? 1 : unit);
    UNROLL
    for (int32_t o = 0; o < MAX_OPERANDS; o++) at[o] += x * e.stride[o][k];
    i = rest;
  }
}

/* Copies src into dst (broadcast, cast): the engine of copies, casts, views made dense. */
status elements_copy(const op_call *c, tensor *dst, tensor *src);
/* Every element of t (any strides) becomes value. */
status elements_fill(const op_call *c, tensor *t, double value);

#endif

/* elements.h - walking several tensors element by element, in the order the first one lies in
 * memory.
 *
 * Operands are broadcast to the sizes of operand 0. Axes are sorted by operand 0's strides and
 * merged where all operands allow it, so that most calls become one long row. The elements are cut
 * into chunks for parallel_for. */
#ifndef DLV3_ELEMENTS_H
#define DLV3_ELEMENTS_H

#include "simd.h"

enum { MAX_OPERANDS = 4, RUN = 512, GRAIN = 16384 };

typedef struct {
  int32_t n_op, ndim; /* ndim >= 1; axis 0 is the innermost       */
  int64_t size[DLV3_MAX_DIMS], stride[MAX_OPERANDS][DLV3_MAX_DIMS];
  char *data[MAX_OPERANDS];
  int32_t dtype[MAX_OPERANDS];
  int64_t total;
} elements;

/* t[0] gives the sizes; the others are broadcast to them (their trailing axes are aligned). */
elements elements_of(tensor *const *t, int32_t n);

/* One run: rows of n elements of every operand. p[k] is its first; within a row they are stride[k]
 * apart, from row to row jump[k], both in elements. */
typedef void (*elements_run)(void *ctx, char *const *p, const int64_t *stride, const int64_t *jump, int64_t n,
                             int64_t rows);

/* Calls run on pieces: several whole rows where rows are short, or a part of one. In parallel. */
void elements_walk(const elements *e, elements_run run, void *ctx);

/* Copies src into dst (broadcast, cast): the engine of copies, casts, views made dense. */
void elements_copy(tensor *dst, tensor *src);

#endif

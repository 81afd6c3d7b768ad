/* elements.h - walking several tensors element by element, in the order the first one lies in memory.
 *
 * Operands are broadcast to the sizes of operand 0. Axes are sorted by operand 0's strides and merged where all
 * operands allow it, so that most calls become one long row. The rows are cut into chunks for parallel_for. */
#ifndef DLV3_ELEMENTS_H
#define DLV3_ELEMENTS_H

#include "simd.h"

enum { MAX_OPERANDS = 4, RUN = 512, GRAIN = 16384 };

typedef struct {
  int32_t n_op, ndim;                                    /* ndim >= 1; axis 0 is the innermost       */
  int64_t size[DLV3_MAX_DIMS], stride[MAX_OPERANDS][DLV3_MAX_DIMS];
  char *data[MAX_OPERANDS];
  int32_t dtype[MAX_OPERANDS];
  int64_t total;
} elements;

/* t[0] gives the sizes; the others are broadcast to them (their trailing axes are aligned). */
elements elements_of(tensor *const *t, int32_t n);

/* One run: n elements of every operand, p[k] its first, stride[k] apart in elements. position: of the first element. */
typedef void (*elements_run)(void *ctx, char *const *p, const int64_t *stride, int64_t n);

/* Calls run on pieces of rows, in parallel. */
void elements_walk(const elements *e, elements_run run, void *ctx);

/* Copies src into dst (broadcast, cast): the engine of copies, casts, views made dense. */
void elements_copy(tensor *dst, tensor *src);

#endif

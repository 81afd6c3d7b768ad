/* rules.h - what the shape and backward rules of several op families share. */
#ifndef DLV3_RULES_H
#define DLV3_RULES_H

#include "core/core.h"

/* spec[0] = the broadcast sizes of inputs [first, n_in), dtype as given. */
status broadcast_infer(op_call *c, int32_t first, int32_t dtype);
/* Sums g to the sizes of input i before broadcasting and stores it as the gradient of i; takes over
 * the reference g. */
status reduce_to_input(backward_call *b, int32_t i, tensor *g);
/* A new 0-d tensor of value on the device and of the dtype of `like`. */
status scalar_like(tensor **out, const tensor *like, double value);
/* spec[0] is like input 0. */
status same_infer(op_call *c);
/* The gradient of input 0 is op(grad_y, other). */
status unary_rule(backward_call *b, int32_t op, tensor *other);

static inline void sizes_attr(attr_dims *a, const spec *s) {
  a->n = s->ndim;
  memcpy(a->v, s->size, sizeof a->v);
}

#endif

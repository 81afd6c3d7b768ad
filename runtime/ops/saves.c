/* saves.c - what the tape saves for backward: less than the op's signature marks, where the wanted
 * gradients need less.
 *
 * The output of a batch norm is cheap to recompute from the input, which its backward reads
 * anyway: no node saves it, and backward recomputes it where it is needed (core/backward.c). This
 * holds only where input and residual are themselves saved, so that no recomputation depends on
 * another: of consecutive norms, and of a chain of residual blocks, every other output is
 * recomputed. */
#include "rules.h"

enum { X, WEIGHT, BIAS, RESIDUAL = 5 }; /* of batch_norm */

bool can_recompute(const op_call *c) {
  return c->op == OP_batch_norm && !is_recomputable(c->in[X]) && !(c->in[RESIDUAL] && is_recomputable(c->in[RESIDUAL]));
}

status recompute(const node *n, tensor **y) {
  const void *attr = n->attr;
  batch_norm_elemt_attr again = {((const batch_norm_attr *)attr)->activation};
  return op_run(OP_batch_norm_elemt,
                IN(n->in[X].t, n->in[WEIGHT].t, n->in[BIAS].t, n->out[1].t, n->out[2].t, n->in[RESIDUAL].t), &again, y);
}

/* The derivative of the activation follows from x and residual, or from y; hardswish's not from y.
 * Where y can be recomputed, x and residual are saved: the residual takes the place of y, and most
 * often some convolution saves it too. */
static void unused_of_norm(const op_call *c, const node *n, uint32_t *in, uint32_t *out) {
  const int64_t act = ((const batch_norm_attr *)c->attr)->activation;
  const bool by_x = act == ACT_HARDSWISH || n->can_recompute;
  if (!by_x) *in = 1u << RESIDUAL;
  if (by_x || act == ACT_NONE) *out = 1;
}

void unused_saves(const op_call *c, const node *n, uint32_t *in, uint32_t *out) {
  *in = *out = 0;
  switch (c->op) {
  case OP_conv2d:
  case OP_mul:
  case OP_matmul: /* the gradient of each factor needs only the other one */
    for (int32_t i = 0; i < 2; i++)
      if (!needs_grad(n, 1 - i)) *in |= 1u << i;
    break;
  case OP_div:
    if (!needs_grad(n, 1)) *in = 1;
    break;
  case OP_batch_norm: unused_of_norm(c, n, in, out); break;
  default: break;
  }
}

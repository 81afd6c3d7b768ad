/* saves.c - what the tape keeps of a call: less than the op's signature marks, where the gradients
 * that are wanted need less.
 *
 * The output of a batch norm is cheap to make again from what backward of it reads anyway, its
 * input: so no node keeps it, but has it made again (autograd.c). This only where input and
 * residual are themselves kept, so that making one again never waits for another: of norms in a
 * row, and of the outputs of a chain of residual blocks, that is every other one. */
#include "rules.h"

enum { X, WEIGHT, BIAS, RESIDUAL = 5 }; /* of batch_norm */

bool can_be_remade(const op_call *c) {
  return c->op == OP_batch_norm && !is_remade(c->in[X]) && !(c->in[RESIDUAL] && is_remade(c->in[RESIDUAL]));
}

status remake(const node *n, tensor **y) {
  const void *attr = n->attr;
  batch_norm_elemt_attr again = {((const batch_norm_attr *)attr)->activation};
  return op_run(OP_batch_norm_elemt,
                IN(n->in[X].t, n->in[WEIGHT].t, n->in[BIAS].t, n->out[1].t, n->out[2].t, n->in[RESIDUAL].t), &again, y);
}

/* The slope of the activation is told by x and residual, or by y; hardswish's not by y. Where y can
 * be made again the former are kept: the residual is one map for another, and mostly some
 * convolution keeps it too. */
static void unused_of_norm(const op_call *c, const node *n, uint32_t *in, uint32_t *out) {
  const int64_t act = ((const batch_norm_attr *)c->attr)->activation;
  const bool by_x = act == ACT_HARDSWISH || n->can_be_remade;
  if (!by_x) *in = 1u << RESIDUAL;
  if (by_x || act == ACT_NONE) *out = 1;
}

void unused_saves(const op_call *c, const node *n, uint32_t *in, uint32_t *out) {
  *in = *out = 0;
  switch (c->op) {
  case OP_conv2d:
  case OP_mul:
  case OP_matmul: /* the gradient of either factor is a product with the other one */
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

/* optim.c - shape rules of the optimiser's ops; nothing here is differentiable. */
#include "rules.h"

status sgd__infer(op_call *c) {
  const sgd__attr *a = c->attr;
  const tensor *p = c->in[0];
  TRY(check_float(c, 0));
  for (int32_t i = 1; i <= 2; i++) {
    if (!c->in[i]) continue;
    TRY(check_sizes(c, i, p->ndim, p->size));
    TRY(check_dtype(c, i, p->dtype));
  }
  TRY(check_dtype(c, 3, DLV3_F64));
  if (numel(c->in[3]) != 1) return fail_call(c, DLV3_ERR_SHAPE, "lr must have one element");
  if (a->momentum != 0 && !c->in[2]) return fail_call(c, DLV3_ERR_ARG, "momentum %g needs momentum_buffer", a->momentum);
  if (a->nesterov && a->momentum == 0) return fail_call(c, DLV3_ERR_ARG, "nesterov needs momentum");
  return DLV3_OK;
}

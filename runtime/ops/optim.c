/* optim.c - shape rules of the optimiser's ops; nothing here is differentiable. */
#include "rules.h"

static status check_one(const op_call *c, int32_t i, int32_t dtype) {
  TRY(check_dtype(c, i, dtype));
  return numel(c->in[i]) == 1 ? DLV3_OK : fail_call(c, DLV3_ERR_SHAPE, "%s must have one element", c->info->in_name[i]);
}

status sgd__infer(op_call *c) {
  const sgd__attr *a = c->attr;
  const tensor *p = c->in[0];
  TRY(check_float(c, 0));
  for (int32_t i = 1; i <= 2; i++) {
    if (!c->in[i]) continue;
    TRY(check_sizes(c, i, p->ndim, p->size));
    TRY(check_dtype(c, i, p->dtype));
  }
  TRY(check_one(c, 3, DLV3_F64));
  for (int32_t i = 4; i <= 5; i++)
    if (c->in[i]) TRY(check_one(c, i, DLV3_F32));
  if (a->momentum != 0 && !c->in[2])
    return fail_call(c, DLV3_ERR_ARG, "momentum %g needs momentum_buffer", a->momentum);
  if (a->nesterov && a->momentum == 0) return fail_call(c, DLV3_ERR_ARG, "nesterov needs momentum");
  return DLV3_OK;
}

status amp_non_finite_check__infer(op_call *c) {
  TRY(check_one(c, 0, DLV3_F32));
  return check_float(c, 1);
}

status amp_update_scale__infer(op_call *c) {
  const amp_update_scale__attr *a = c->attr;
  TRY(check_one(c, 0, DLV3_F32));
  TRY(check_one(c, 1, DLV3_I32));
  TRY(check_one(c, 2, DLV3_F32));
  return a->growth_interval >= 1 ? DLV3_OK : fail_call(c, DLV3_ERR_ARG, "growth_interval must be 1 or more");
}

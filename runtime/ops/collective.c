/* collective.c - shapes of the ops over all ranks; nothing here is differentiable. */
#include "collectives/world.h"
#include "rules.h"

static status check_summable(const op_call *c) {
  TRY(world_open());
  if (c->in[0]->dtype != DLV3_BOOL) return DLV3_OK;
  return fail_call(c, DLV3_ERR_DTYPE, "x is bool, which has no sum: cast it to u8 or i64 first");
}

status all_reduce__infer(op_call *c) { return check_summable(c); }
status all_reduce_start__infer(op_call *c) { return check_summable(c); }
status all_reduce_finish__infer(op_call *c) { return check_summable(c); }

status all_gather_infer(op_call *c) {
  TRY(world_open());
  if (c->in[0]->ndim < 1)
    return fail_call(c, DLV3_ERR_SHAPE,
                     "x must have an axis to be joined along; it has 0 dimensions: use x:reshape(1)");
  spec_like(&c->spec[0], c->in[0]);
  c->spec[0].size[0] *= world_size();
  return DLV3_OK;
}

status broadcast__infer(op_call *c) {
  const broadcast__attr *a = c->attr;
  TRY(world_open());
  if (a->root >= 0 && a->root < world_size()) return DLV3_OK;
  return fail_call(c, DLV3_ERR_ARG, "root %lld: expected a rank from 0 to %d", (long long)a->root, world_size() - 1);
}

status barrier_infer(op_call *c) {
  (void)c;
  return world_open();
}

/* loss.c - shapes and gradients of the losses, of softmax, and of the confusion matrix.
 *
 * Losses and what they save are f32 for every logit dtype but f64. Label values are checked by the
 * kernels. */
#include "core/core.h"

static int32_t loss_dtype(const tensor *x) { return x->dtype == DLV3_F64 ? DLV3_F64 : DLV3_F32; }

/* -- cross_entropy, alone and fused with upsampling -------------------------------------------- */

typedef struct {
  attr_int ignore_index;
  attr_real label_smoothing;
} entropy_attr; /* of all four ops */

_Static_assert(sizeof(entropy_attr) == sizeof(cross_entropy_attr)
                   && sizeof(entropy_attr) == sizeof(cross_entropy_backward_attr)
                   && sizeof(entropy_attr) == sizeof(upsample_cross_entropy_attr)
                   && sizeof(entropy_attr) == sizeof(upsample_cross_entropy_backward_attr),
               "one layout");

static status check_target_dtype(const op_call *c, int32_t i) {
  int32_t dtype = c->in[i]->dtype;
  if (dtype == DLV3_U8 || dtype == DLV3_I64) return DLV3_OK;
  return fail_call(c, DLV3_ERR_DTYPE, "target must hold class ids as u8 or i64, it is %s", dtype_name(dtype));
}

/* x, target, weight are inputs at, at + 1, at + 2. The target of the fused loss may have
 * another size than x. */
static status check_entropy(const op_call *c, int32_t at, bool fused) {
  const entropy_attr *a = c->attr;
  const tensor *x = c->in[at], *target = c->in[at + 1], *weight = c->in[at + 2];
  TRY(check_float(c, at));
  if (x->ndim != 4 && (fused || x->ndim != 2))
    return fail_call(c, DLV3_ERR_SHAPE, "x must be [n,c,h,w]%s, it has %d dimensions", fused ? "" : " or [n,c]",
                     (int)x->ndim);
  if (x->size[1] < 1) return fail_call(c, DLV3_ERR_SHAPE, "x must have at least one channel");
  TRY(check_target_dtype(c, at + 1));
  if (!fused) {
    int64_t want[3] = {x->size[0], x->size[2], x->size[3]};
    TRY(check_sizes(c, at + 1, x->ndim - 1, want));
  } else {
    if (target->ndim != 3 || target->size[0] != x->size[0])
      return fail_call(c, DLV3_ERR_SHAPE, "target must be [%lld,h,w]", (long long)x->size[0]);
    if (target->size[1] < 1 || target->size[2] < 1 || x->size[2] < 1 || x->size[3] < 1)
      return fail_call(c, DLV3_ERR_SHAPE, "x and target must have pixels");
  }
  if (weight) {
    TRY(check_sizes(c, at + 2, 1, &x->size[1]));
    TRY(check_dtype(c, at + 2, loss_dtype(x)));
  }
  if (!(a->label_smoothing >= 0 && a->label_smoothing <= 1))
    return fail_call(c, DLV3_ERR_ARG, "label_smoothing must be from 0 to 1, got %g", a->label_smoothing);
  return DLV3_OK;
}

static status entropy_infer(op_call *c, bool fused) {
  TRY(check_entropy(c, 0, fused));
  spec_set(&c->spec[0], loss_dtype(c->in[0]), 0, NULL);
  spec_set(&c->spec[1], loss_dtype(c->in[0]), c->in[1]->ndim, c->in[1]->size);
  spec_set(&c->spec[2], DLV3_F64, 0, NULL);
  return DLV3_OK;
}

static status entropy_backward_infer(op_call *c, bool fused) {
  TRY(check_entropy(c, 1, fused));
  int32_t dtype = loss_dtype(c->in[1]);
  TRY(check_dtype(c, 0, dtype));
  if (numel(c->in[0]) != 1) return fail_call(c, DLV3_ERR_SHAPE, "grad_loss must have one element");
  TRY(check_sizes(c, 4, c->in[2]->ndim, c->in[2]->size));
  TRY(check_dtype(c, 4, dtype));
  TRY(check_dtype(c, 5, DLV3_F64));
  if (numel(c->in[5]) != 1) return fail_call(c, DLV3_ERR_SHAPE, "total must have one element");
  spec_like(&c->spec[0], c->in[1]);
  return DLV3_OK;
}

static status entropy_rule(backward_call *b, int32_t backward_op) {
  if (b->needs[2])
    return fail(DLV3_ERR_AUTOGRAD, "%s: there is no gradient by weight; detach() it", op_table[b->n->op].name);
  if (!b->needs[0] || !b->grad_y[0]) return DLV3_OK;
  return op_run(backward_op, IN(b->grad_y[0], b->in[0], b->in[1], b->in[2], b->out[1], b->out[2]), b->attr,
                &b->grad_x[0]);
}

status cross_entropy_infer(op_call *c) { return entropy_infer(c, false); }
status cross_entropy_backward_infer(op_call *c) { return entropy_backward_infer(c, false); }
status cross_entropy_backward_rule(backward_call *b) { return entropy_rule(b, OP_cross_entropy_backward); }
status upsample_cross_entropy_infer(op_call *c) { return entropy_infer(c, true); }
status upsample_cross_entropy_backward_infer(op_call *c) { return entropy_backward_infer(c, true); }
status upsample_cross_entropy_backward_rule(backward_call *b) {
  return entropy_rule(b, OP_upsample_cross_entropy_backward);
}

/* -- confusion_matrix -------------------------------------------------------------------------- */

status confusion_matrix_infer(op_call *c) {
  const tensor *hist = c->in[2];
  for (int32_t i = 0; i < 2; i++) {
    int32_t dtype = c->in[i]->dtype;
    if (dtype != DLV3_U8 && dtype != DLV3_I32 && dtype != DLV3_I64)
      return fail_call(c, DLV3_ERR_DTYPE, "%s must hold class ids as u8, i32 or i64, it is %s", c->info->in_name[i],
                       dtype_name(dtype));
  }
  TRY(check_sizes(c, 0, c->in[1]->ndim, c->in[1]->size));
  TRY(check_dtype(c, 2, DLV3_I64));
  if (hist->ndim != 2 || hist->size[0] != hist->size[1])
    return fail_call(c, DLV3_ERR_SHAPE, "hist must be square, [classes,classes]");
  return DLV3_OK;
}

/* -- softmax ----------------------------------------------------------------------------------- */

static status softmax_like(op_call *c, int64_t *axis) {
  TRY(check_float(c, 0));
  TRY(normalize_axis(c, axis, c->in[0]->ndim));
  for (int32_t i = 1; i < c->n_in; i++) {
    TRY(check_sizes(c, i, c->in[0]->ndim, c->in[0]->size));
    TRY(check_dtype(c, i, c->in[0]->dtype));
  }
  spec_like(&c->spec[0], c->in[0]);
  return DLV3_OK;
}

status softmax_infer(op_call *c) { return softmax_like(c, &((softmax_attr *)c->attr)->axis); }
status softmax_backward_infer(op_call *c) { return softmax_like(c, &((softmax_backward_attr *)c->attr)->axis); }
status log_softmax_infer(op_call *c) { return softmax_like(c, &((log_softmax_attr *)c->attr)->axis); }
status log_softmax_backward_infer(op_call *c) { return softmax_like(c, &((log_softmax_backward_attr *)c->attr)->axis); }

status softmax_backward_rule(backward_call *b) {
  softmax_backward_attr back = {((const softmax_attr *)b->attr)->axis};
  return op_run(OP_softmax_backward, IN(b->grad_y[0], b->out[0]), &back, &b->grad_x[0]);
}

status log_softmax_backward_rule(backward_call *b) {
  log_softmax_backward_attr back = {((const log_softmax_attr *)b->attr)->axis};
  return op_run(OP_log_softmax_backward, IN(b->grad_y[0], b->out[0]), &back, &b->grad_x[0]);
}

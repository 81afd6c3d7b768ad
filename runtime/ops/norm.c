/* norm.c - shapes and gradients of batch_norm.
 *
 * weight, bias and the statistics are f32 for every activation dtype but f64, whose whole model is
 * f64. The gradients of weight and bias are added in place by the kernel that makes them. */
#include "rules.h"

enum { X, WEIGHT, BIAS, MEAN, VAR, RESIDUAL, SUMS };

static int32_t parameter_dtype(const tensor *x) { return x->dtype == DLV3_F64 ? DLV3_F64 : DLV3_F32; }

static status check_x(const op_call *c, int32_t i) {
  const tensor *x = c->in[i];
  TRY(check_float(c, i));
  if (x->ndim == 4 || x->ndim == 2) return DLV3_OK;
  return fail_call(c, DLV3_ERR_SHAPE, "%s must be [n,c,h,w] or [n,c], it has %d dimensions", c->info->in_name[i],
                   (int)x->ndim);
}

/* Input i, where it is given, is one number a channel of x in the dtype of parameters. */
static status check_channels(const op_call *c, int32_t i, const tensor *x) {
  if (!c->in[i]) return DLV3_OK;
  TRY(check_sizes(c, i, 1, &x->size[1]));
  if (c->in[i]->dtype == parameter_dtype(x)) return DLV3_OK;
  return fail_call(c, DLV3_ERR_DTYPE, "%s must be %s where x is %s, it is %s", c->info->in_name[i],
                   dtype_name(parameter_dtype(x)), dtype_name(x->dtype), dtype_name(c->in[i]->dtype));
}

static status check_like(const op_call *c, int32_t i, const tensor *x) {
  TRY(check_sizes(c, i, x->ndim, x->size));
  return check_dtype(c, i, x->dtype);
}

/* The sizes of sums over channels: two kinds of them, and the number of values. */
static void sums_spec(spec *s, const tensor *x) {
  const int64_t size = 2 * x->size[1] + 1;
  spec_set(s, DLV3_F64, 1, &size);
}

static status check_sums(const op_call *c, int32_t i, const tensor *x) {
  const int64_t size = 2 * x->size[1] + 1;
  if (!c->in[i]) return DLV3_OK;
  TRY(check_sizes(c, i, 1, &size));
  return check_dtype(c, i, DLV3_F64);
}

static status check_training(const op_call *c) {
  const tensor *x = c->in[X];
  if (c->in[SUMS]) return DLV3_OK; /* other parts of the batch have values too */
  int64_t values = x->size[1] ? numel(x) / x->size[1] : 2;
  if (values > 1) return DLV3_OK;
  return fail_call(c, DLV3_ERR_SHAPE,
                   "training needs more than one value a channel for a variance; batch size %lld%s gives %lld. "
                   "Use a batch of at least 2 (and drop a last batch of 1), or eval()",
                   (long long)x->size[0], x->ndim == 4 ? " at this height and width" : "", (long long)values);
}

static status check_activation(const op_call *c, int64_t act) {
  if (act >= ACT_NONE && act <= ACT_HARDSIGMOID) return DLV3_OK;
  return fail_call(c, DLV3_ERR_ARG, "no activation has the number %lld", (long long)act);
}

status batch_norm_infer(op_call *c) {
  const batch_norm_attr *a = c->attr;
  const tensor *x = c->in[X];
  TRY(check_x(c, X));
  for (int32_t i = WEIGHT; i <= VAR; i++) TRY(check_channels(c, i, x));
  if (c->in[RESIDUAL]) TRY(check_like(c, RESIDUAL, x));
  if (!c->in[MEAN] != !c->in[VAR])
    return fail_call(c, DLV3_ERR_ARG, "expected both of running_mean and running_var or neither, got one");
  TRY(check_sums(c, SUMS, x));
  if (c->in[SUMS] && !a->training)
    return fail_call(c, DLV3_ERR_ARG, "sums are of a batch, which counts in training only: leave them out");
  if (a->training)
    TRY(check_training(c));
  else if (!c->in[MEAN])
    return fail_call(c, DLV3_ERR_ARG, "expected running_mean and running_var where training is false");
  if (!(a->eps >= 0)) return fail_call(c, DLV3_ERR_ARG, "eps must not be negative");
  TRY(check_activation(c, a->activation));
  spec_like(&c->spec[0], x);
  spec_set(&c->spec[1], parameter_dtype(x), 1, &x->size[1]);
  c->spec[2] = c->spec[1];
  return DLV3_OK;
}

status batch_norm_stats_infer(op_call *c) {
  TRY(check_x(c, X));
  sums_spec(&c->spec[0], c->in[X]);
  return DLV3_OK;
}

status batch_norm_elemt_infer(op_call *c) {
  const batch_norm_elemt_attr *a = c->attr;
  const tensor *x = c->in[X];
  TRY(check_x(c, X));
  for (int32_t i = WEIGHT; i < RESIDUAL; i++) TRY(check_channels(c, i, x));
  if (c->in[RESIDUAL]) TRY(check_like(c, RESIDUAL, x));
  TRY(check_activation(c, a->activation));
  spec_like(&c->spec[0], x);
  return DLV3_OK;
}

/* The sums of the backward pass over all ranks; the gradients of weight and bias are this rank's,
 * and are summed with all others. */
static status reduce_over_ranks(const backward_call *b, tensor *grad_weight, tensor *grad_bias, tensor **sums) {
  batch_norm_backward_reduce_attr at = {((const batch_norm_attr *)b->attr)->activation};
  TRY(op_run(OP_batch_norm_backward_reduce,
             IN(b->grad_y[0], b->in[X], b->out[0], b->in[WEIGHT], b->in[BIAS], b->in[RESIDUAL], b->out[1], b->out[2],
                grad_weight, grad_bias),
             &at, sums));
  status st = op_run(OP_all_reduce_, IN(*sums), NULL, NULL);
  if (st != DLV3_OK) tensor_drop(*sums);
  return st;
}

status batch_norm_backward_rule(backward_call *b) {
  const batch_norm_attr *a = b->attr;
  tensor *grad_weight = NULL, *grad_bias = NULL, *grads[2] = {0}, *sums = NULL;
  if (b->needs[WEIGHT]) TRY(grad_into(b, WEIGHT, &grad_weight));
  if (b->needs[BIAS]) TRY(grad_into(b, BIAS, &grad_bias));
  batch_norm_backward_attr back = {a->training, a->activation, b->needs[RESIDUAL]};
  if (b->in[SUMS]) {
    TRY(reduce_over_ranks(b, grad_weight, grad_bias, &sums));
    grad_weight = grad_bias = NULL;
  }
  status st = op_run(OP_batch_norm_backward,
                     IN(b->grad_y[0], b->in[X], b->out[0], b->in[WEIGHT], b->in[BIAS], b->in[RESIDUAL], b->out[1],
                        b->out[2], grad_weight, grad_bias, sums),
                     &back, grads);
  tensor_drop(sums);
  TRY(st);
  if (b->needs[X])
    b->grad_x[X] = grads[0];
  else
    tensor_drop(grads[0]);
  b->grad_x[RESIDUAL] = grads[1];
  return DLV3_OK;
}

enum { GRAD_Y, BX, BY, BWEIGHT, BBIAS, BRESIDUAL, GRAD_BIAS = 9, BSUMS };

/* What both backward ops take. */
static status check_backward(const op_call *c, int64_t activation) {
  const tensor *x = c->in[BX];
  TRY(check_x(c, BX));
  TRY(check_like(c, GRAD_Y, x));
  if (c->in[BY]) TRY(check_like(c, BY, x));
  if (c->in[BRESIDUAL]) TRY(check_like(c, BRESIDUAL, x));
  for (int32_t i = BWEIGHT; i <= GRAD_BIAS; i++)
    if (i != BRESIDUAL) TRY(check_channels(c, i, x));
  return check_activation(c, activation);
}

status batch_norm_backward_reduce_infer(op_call *c) {
  TRY(check_backward(c, ((const batch_norm_backward_reduce_attr *)c->attr)->activation));
  sums_spec(&c->spec[0], c->in[BX]);
  return DLV3_OK;
}

status batch_norm_backward_infer(op_call *c) {
  const batch_norm_backward_attr *a = c->attr;
  const tensor *x = c->in[BX];
  TRY(check_backward(c, a->activation));
  TRY(check_sums(c, BSUMS, x));
  spec_like(&c->spec[0], x);
  spec_like(&c->spec[1], x);
  c->spec[1].none = !a->need_residual;
  return DLV3_OK;
}

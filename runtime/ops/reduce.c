/* reduce.c - shape and backward rules of the reductions. */
#include "rules.h"

/* Normalizes axes (none: all axes) into a mask of the reduced axes. */
static status axes_mask(op_call *c, attr_axes *axes, uint32_t *mask) {
  const tensor *x = c->in[0];
  *mask = 0;
  if (axes->n == 0) return *mask = (1u << x->ndim) - 1, DLV3_OK;
  for (int64_t i = 0; i < axes->n; i++) {
    TRY(normalize_axis(c, &axes->v[i], x->ndim));
    if (*mask >> axes->v[i] & 1)
      return fail_call(c, DLV3_ERR_ARG, "axis %lld is given twice", (long long)axes->v[i] + 1);
    *mask |= 1u << axes->v[i];
  }
  return DLV3_OK;
}

static void reduced_spec(spec *s, const tensor *x, uint32_t mask, bool keepdim, int32_t dtype) {
  s->none = false;
  s->dtype = dtype;
  s->ndim = 0;
  for (int32_t i = 0; i < x->ndim; i++) {
    if (!(mask >> i & 1))
      s->size[s->ndim++] = x->size[i];
    else if (keepdim)
      s->size[s->ndim++] = 1;
  }
}

/* The sizes of input 0 with 1 for reduced axes: grad_y is reshaped to them before it is
 * expanded. */
static void kept_sizes(attr_dims *d, const spec *x, uint32_t mask) {
  d->n = x->ndim;
  for (int32_t i = 0; i < x->ndim; i++) d->v[i] = mask >> i & 1 ? 1 : x->size[i];
}

static uint32_t mask_of(const attr_axes *axes, int32_t ndim) { /* as normalised by infer */
  uint32_t mask = axes->n ? 0 : (1u << ndim) - 1;
  for (int64_t i = 0; i < axes->n; i++) mask |= 1u << axes->v[i];
  return mask;
}

static int64_t reduced_count(const spec *x, uint32_t mask) {
  int64_t n = 1;
  for (int32_t i = 0; i < x->ndim; i++)
    if (mask >> i & 1) n *= x->size[i];
  return n;
}

/* grad_y as a view of the input's sizes, times factor where that is not 1. */
static status spread(backward_call *b, uint32_t mask, double factor, tensor **out) {
  reshape_attr kept;
  expand_attr full;
  tensor *narrow = NULL, *wide = NULL, *f = NULL;
  memset(&kept, 0, sizeof kept);
  memset(&full, 0, sizeof full);
  kept_sizes(&kept.size, &b->in_spec[0], mask);
  sizes_attr(&full.size, &b->in_spec[0]);
  status st = op_run(OP_reshape, IN(b->grad_y[0]), &kept, &narrow);
  if (st == DLV3_OK && factor != 1) { /* scaled while it is small */
    tensor *scaled = NULL;
    st = scalar_like(&f, narrow, factor);
    if (st == DLV3_OK) st = op_run(OP_mul, IN(narrow, f), NULL, &scaled);
    tensor_drop(narrow);
    narrow = scaled;
  }
  if (st == DLV3_OK) st = op_run(OP_expand, IN(narrow), &full, &wide);
  tensor_drop(narrow);
  tensor_drop(f);
  *out = wide;
  return st;
}

/* -- Sums -------------------------------------------------------------------------------------- */

status sum_infer(op_call *c) {
  sum_attr *a = c->attr;
  uint32_t mask;
  TRY(axes_mask(c, &a->axes, &mask));
  reduced_spec(&c->spec[0], c->in[0], mask, a->keepdim, is_float(c->in[0]->dtype) ? c->in[0]->dtype : DLV3_I64);
  return DLV3_OK;
}

status sum_backward_rule(backward_call *b) {
  const sum_attr *a = b->attr;
  return spread(b, mask_of(&a->axes, b->in_spec[0].ndim), 1, &b->grad_x[0]);
}

status mean_infer(op_call *c) {
  mean_attr *a = c->attr;
  uint32_t mask;
  TRY(check_float(c, 0));
  TRY(axes_mask(c, &a->axes, &mask));
  reduced_spec(&c->spec[0], c->in[0], mask, a->keepdim, c->in[0]->dtype);
  return DLV3_OK;
}

status mean_backward_rule(backward_call *b) {
  const mean_attr *a = b->attr;
  uint32_t mask = mask_of(&a->axes, b->in_spec[0].ndim);
  return spread(b, mask, 1 / (double)reduced_count(&b->in_spec[0], mask), &b->grad_x[0]);
}

status var_infer(op_call *c) {
  var_attr *a = c->attr;
  uint32_t mask;
  TRY(check_float(c, 0));
  TRY(axes_mask(c, &a->axes, &mask));
  reduced_spec(&c->spec[0], c->in[0], mask, a->keepdim, c->in[0]->dtype);
  return DLV3_OK;
}

status var_backward_rule(
    backward_call *b) { /* y = sum (x - mean)^2 / (n - correction): y' = 2 (x - mean) / (n - correction) */
  const var_attr *a = b->attr;
  uint32_t mask = mask_of(&a->axes, b->in_spec[0].ndim);
  double n = (double)reduced_count(&b->in_spec[0], mask) - (double)a->correction;
  mean_attr over;
  memset(&over, 0, sizeof over);
  over.axes = a->axes;
  over.keepdim = 1;
  tensor *mean = NULL, *off = NULL, *wide = NULL;
  status st = op_run(OP_mean, IN(b->in[0]), &over, &mean);
  if (st == DLV3_OK) st = op_run(OP_sub, IN(b->in[0], mean), NULL, &off);
  if (st == DLV3_OK) st = spread(b, mask, 2 / n, &wide);
  if (st == DLV3_OK) st = op_run(OP_mul, IN(wide, off), NULL, &b->grad_x[0]);
  tensor_drop(mean);
  tensor_drop(off);
  tensor_drop(wide);
  return st;
}

status sum_to_infer(op_call *c) {
  const sum_to_attr *a = c->attr;
  const tensor *x = c->in[0];
  bool fits = a->size.n >= 0 && a->size.n <= x->ndim;
  for (int64_t i = 0; fits && i < a->size.n; i++) {
    int64_t have = x->size[x->ndim - a->size.n + i];
    fits = a->size.v[i] == have || a->size.v[i] == 1;
  }
  if (!fits) return fail_call(c, DLV3_ERR_SHAPE, "size does not broadcast to x's sizes");
  spec_set(&c->spec[0], x->dtype, (int32_t)a->size.n, a->size.v);
  return DLV3_OK;
}

/* -- Extremes ---------------------------------------------------------------------------------- */

static status extreme_infer(op_call *c, int64_t *axis, bool keepdim) {
  const tensor *x = c->in[0];
  TRY(normalize_axis(c, axis, x->ndim));
  if (x->size[*axis] == 0) return fail_call(c, DLV3_ERR_SHAPE, "axis %lld is empty", (long long)*axis + 1);
  reduced_spec(&c->spec[0], x, 1u << *axis, keepdim, x->dtype);
  reduced_spec(&c->spec[1], x, 1u << *axis, keepdim, DLV3_I64);
  return DLV3_OK;
}

status max_dim_infer(op_call *c) {
  max_dim_attr *a = c->attr;
  return extreme_infer(c, &a->axis, a->keepdim);
}

status min_dim_infer(op_call *c) {
  min_dim_attr *a = c->attr;
  return extreme_infer(c, &a->axis, a->keepdim);
}

status max_dim_backward_rule(backward_call *b) { /* grad_y goes to the position of the extreme */
  const max_dim_attr *a = b->attr;               /* min_dim's is the same struct */
  reshape_attr kept;
  gather_backward_attr back = {.axis = a->axis};
  tensor *g = NULL, *index = NULL;
  memset(&kept, 0, sizeof kept);
  kept_sizes(&kept.size, &b->in_spec[0], 1u << a->axis);
  sizes_attr(&back.size, &b->in_spec[0]);
  status st = op_run(OP_reshape, IN(b->grad_y[0]), &kept, &g);
  if (st == DLV3_OK) st = op_run(OP_reshape, IN(b->out[1]), &kept, &index);
  if (st == DLV3_OK) st = op_run(OP_gather_backward, IN(g, index), &back, &b->grad_x[0]);
  tensor_drop(g);
  tensor_drop(index);
  return st;
}

status min_dim_backward_rule(backward_call *b) { return max_dim_backward_rule(b); }

status allclose_infer(op_call *c) {
  TRY(broadcast_infer(c, 0, DLV3_BOOL));
  c->spec[0].ndim = 0;
  return DLV3_OK;
}

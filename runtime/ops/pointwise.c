/* pointwise.c - shape and backward rules of the elementwise ops. Backward rules are made of other
 * ops. */
#include "rules.h"

#include <math.h>

/* -- Shared with other families ---------------------------------------------------------------- */

status same_infer(op_call *c) {
  spec_like(&c->spec[0], c->in[0]);
  return DLV3_OK;
}

status broadcast_infer(op_call *c, int32_t first, int32_t dtype) {
  spec *s = &c->spec[0];
  s->dtype = dtype;
  s->ndim = 0;
  for (int32_t i = first; i < c->n_in; i++)
    if (c->in[i]->ndim > s->ndim) s->ndim = c->in[i]->ndim;
  for (int32_t d = 0; d < s->ndim; d++) {
    s->size[d] = 1;
    for (int32_t i = first; i < c->n_in; i++) {
      int32_t axis = d - (s->ndim - c->in[i]->ndim);
      int64_t n = axis < 0 ? 1 : c->in[i]->size[axis];
      if (n == 1 || n == s->size[d]) continue;
      if (s->size[d] != 1)
        return fail_call(c, DLV3_ERR_SHAPE,
                         "the sizes do not broadcast: %lld against %lld in axis %d (from the end: %d)",
                         (long long)s->size[d], (long long)n, (int)d + 1, (int)(d - s->ndim));
      s->size[d] = n;
    }
  }
  return DLV3_OK;
}

status reduce_to_input(backward_call *b, int32_t i, tensor *g) {
  const spec *want = &b->in_spec[i];
  if (g->ndim == want->ndim && !memcmp(g->size, want->size, (size_t)want->ndim * sizeof *want->size)) {
    b->grad_x[i] = g;
    return DLV3_OK;
  }
  sum_to_attr to;
  memset(&to, 0, sizeof to);
  sizes_attr(&to.size, want);
  status st = op_run(OP_sum_to, IN(g), &to, &b->grad_x[i]);
  tensor_drop(g);
  return st;
}

status scalar_like(tensor **out, const tensor *like, double value) {
  fill__attr fill = {value};
  TRY(tensor_new(out, like->dtype, 0, NULL, like->st->device));
  return op_run(OP_fill_, IN(*out), &fill, NULL);
}

status unary_rule(backward_call *b, int32_t op, tensor *other) {
  return op_run(op, IN(b->grad_y[0], other), NULL, &b->grad_x[0]);
}

/* -- One operand ------------------------------------------------------------------------------- */

static status float_infer(op_call *c) {
  TRY(check_float(c, 0));
  return same_infer(c);
}

static status bool_infer(op_call *c) {
  spec_like(&c->spec[0], c->in[0]);
  c->spec[0].dtype = DLV3_BOOL;
  return DLV3_OK;
}

/* grad_y and the saved tensor have one shape and dtype. */
static status backward_infer(op_call *c) {
  TRY(check_float(c, 0));
  TRY(check_dtype(c, 1, c->in[0]->dtype));
  TRY(check_sizes(c, 1, c->in[0]->ndim, c->in[0]->size));
  return same_infer(c);
}

/* An activation whose gradient is an op of grad_y and of y (saved: out) or x (saved: in). */
#define ACTIVATION(op, kept) \
  status op##_infer(op_call *c) { return float_infer(c); } \
  status op##_backward_infer(op_call *c) { return backward_infer(c); } \
  status op##_backward_rule(backward_call *b) { return unary_rule(b, OP_##op##_backward, b->kept[0]); }
ACTIVATION(relu, out)
ACTIVATION(relu6, out)
ACTIVATION(hardswish, in)
ACTIVATION(hardsigmoid, in)
ACTIVATION(sigmoid, out)
ACTIVATION(tanh, out)

status neg_infer(op_call *c) { return same_infer(c); }
status abs_infer(op_call *c) { return same_infer(c); }
status sign_infer(op_call *c) { return same_infer(c); }
status square_infer(op_call *c) { return same_infer(c); }
status floor_infer(op_call *c) { return same_infer(c); }
status ceil_infer(op_call *c) { return same_infer(c); }
status round_infer(op_call *c) { return same_infer(c); }
status exp_infer(op_call *c) { return float_infer(c); }
status log_infer(op_call *c) { return float_infer(c); }
status sqrt_infer(op_call *c) { return float_infer(c); }
status sin_infer(op_call *c) { return float_infer(c); }
status cos_infer(op_call *c) { return float_infer(c); }
status isfinite_infer(op_call *c) { return bool_infer(c); }
status logical_not_infer(op_call *c) { return bool_infer(c); }

status neg_backward_rule(backward_call *b) { return op_run(OP_neg, IN(b->grad_y[0]), NULL, &b->grad_x[0]); }
status exp_backward_rule(backward_call *b) { return unary_rule(b, OP_mul, b->out[0]); }
status log_backward_rule(backward_call *b) { return unary_rule(b, OP_div, b->in[0]); }

/* grad_x = grad_y f; takes over the reference f. */
static status times(backward_call *b, status st, tensor *f) {
  if (st == DLV3_OK) st = unary_rule(b, OP_mul, f);
  tensor_drop(f);
  return st;
}

status abs_backward_rule(backward_call *b) { /* |x|' = sign(x), 0 at 0 */
  tensor *f = NULL;
  status st = op_run(OP_sign, IN(b->in[0]), NULL, &f);
  return times(b, st, f);
}

status sqrt_backward_rule(backward_call *b) { /* y = x^1/2: y' = 1 / (2 y) */
  tensor *twice = NULL;
  status st = op_run(OP_add, IN(b->out[0], b->out[0]), NULL, &twice);
  if (st == DLV3_OK) st = unary_rule(b, OP_div, twice);
  tensor_drop(twice);
  return st;
}

status square_backward_rule(backward_call *b) { /* y = x x: y' = 2 x */
  tensor *twice = NULL;
  status st = op_run(OP_add, IN(b->in[0], b->in[0]), NULL, &twice);
  return times(b, st, twice);
}

status sin_backward_rule(backward_call *b) {
  tensor *f = NULL;
  status st = op_run(OP_cos, IN(b->in[0]), NULL, &f);
  return times(b, st, f);
}

status cos_backward_rule(backward_call *b) {
  tensor *s = NULL, *f = NULL;
  status st = op_run(OP_sin, IN(b->in[0]), NULL, &s);
  if (st == DLV3_OK) st = op_run(OP_neg, IN(s), NULL, &f);
  tensor_drop(s);
  return times(b, st, f);
}

status clamp_infer(op_call *c) {
  const clamp_attr *a = c->attr;
  if (!(a->min <= a->max)) return fail_call(c, DLV3_ERR_ARG, "min %g is above max %g", a->min, a->max);
  return same_infer(c);
}

status clamp_backward_rule(backward_call *b) { /* 1 where min <= x <= max */
  const clamp_attr *a = b->attr;
  tensor *low = NULL, *high = NULL, *above = NULL, *below = NULL, *inside = NULL, *f = NULL;
  cast_attr to = {b->in_spec[0].dtype};
  status st;
  TRY_GOTO(st, scalar_like(&low, b->in[0], a->min), done);
  TRY_GOTO(st, scalar_like(&high, b->in[0], a->max), done);
  TRY_GOTO(st, op_run(OP_ge, IN(b->in[0], low), NULL, &above), done);
  TRY_GOTO(st, op_run(OP_le, IN(b->in[0], high), NULL, &below), done);
  TRY_GOTO(st, op_run(OP_logical_and, IN(above, below), NULL, &inside), done);
  TRY_GOTO(st, op_run(OP_cast, IN(inside), &to, &f), done);
  st = unary_rule(b, OP_mul, f);
done:
  tensor_drop(low);
  tensor_drop(high);
  tensor_drop(above);
  tensor_drop(below);
  tensor_drop(inside);
  tensor_drop(f);
  return st;
}

status cast_infer(op_call *c) {
  const cast_attr *a = c->attr;
  if (a->dtype < 0 || a->dtype >= DLV3_DTYPES)
    return fail_call(c, DLV3_ERR_DTYPE, "no dtype has the number %lld", (long long)a->dtype);
  spec_like(&c->spec[0], c->in[0]);
  c->spec[0].dtype = (int32_t)a->dtype;
  return DLV3_OK;
}

status cast_backward_rule(backward_call *b) {
  cast_attr back = {b->in_spec[0].dtype};
  return op_run(OP_cast, IN(b->grad_y[0]), &back, &b->grad_x[0]);
}

/* -- Two operands, broadcast ------------------------------------------------------------------- */

static status binary_infer(op_call *c) { return broadcast_infer(c, 0, c->in[0]->dtype); } /* promoted: one dtype */
static status compare_infer(op_call *c) { return broadcast_infer(c, 0, DLV3_BOOL); }

status add_infer(op_call *c) { return binary_infer(c); }
status sub_infer(op_call *c) { return binary_infer(c); }
status mul_infer(op_call *c) { return binary_infer(c); }
status maximum_infer(op_call *c) { return binary_infer(c); }
status minimum_infer(op_call *c) { return binary_infer(c); }
status pow_infer(op_call *c) { return binary_infer(c); }
status div_infer(op_call *c) { return broadcast_infer(c, 0, is_float(c->in[0]->dtype) ? c->in[0]->dtype : DLV3_F32); }
status eq_infer(op_call *c) { return compare_infer(c); }
status ne_infer(op_call *c) { return compare_infer(c); }
status lt_infer(op_call *c) { return compare_infer(c); }
status le_infer(op_call *c) { return compare_infer(c); }
status gt_infer(op_call *c) { return compare_infer(c); }
status ge_infer(op_call *c) { return compare_infer(c); }
status logical_and_infer(op_call *c) { return compare_infer(c); }
status logical_or_infer(op_call *c) { return compare_infer(c); }

/* The gradient of input i is op(x, z), summed to its sizes. */
static status binary_gradient(backward_call *b, int32_t i, int32_t op, tensor *x, tensor *z) {
  tensor *g = NULL;
  if (!b->needs[i]) return DLV3_OK;
  TRY(op_run(op, IN(x, z), NULL, &g));
  return reduce_to_input(b, i, g);
}

status add_backward_rule(backward_call *b) {
  for (int32_t i = 0; i < 2; i++)
    if (b->needs[i]) TRY(reduce_to_input(b, i, tensor_retain(b->grad_y[0])));
  return DLV3_OK;
}

status sub_backward_rule(backward_call *b) {
  tensor *g;
  if (b->needs[0]) TRY(reduce_to_input(b, 0, tensor_retain(b->grad_y[0])));
  if (!b->needs[1]) return DLV3_OK;
  TRY(op_run(OP_neg, IN(b->grad_y[0]), NULL, &g));
  return reduce_to_input(b, 1, g);
}

status mul_backward_rule(backward_call *b) {
  TRY(binary_gradient(b, 0, OP_mul, b->grad_y[0], b->in[1]));
  return binary_gradient(b, 1, OP_mul, b->grad_y[0], b->in[0]);
}

status div_backward_rule(backward_call *b) { /* y = a / b: a' = 1 / b, b' = -(a / b) / b, which b^2 could overflow */
  tensor *y = NULL, *ratio = NULL, *negative = NULL;
  TRY(binary_gradient(b, 0, OP_div, b->grad_y[0], b->in[1]));
  if (!b->needs[1]) return DLV3_OK;
  status st = op_run(OP_div, IN(b->in[0], b->in[1]), NULL, &y);
  if (st == DLV3_OK) st = op_run(OP_div, IN(y, b->in[1]), NULL, &ratio);
  if (st == DLV3_OK) st = op_run(OP_neg, IN(ratio), NULL, &negative);
  if (st == DLV3_OK) st = binary_gradient(b, 1, OP_mul, b->grad_y[0], negative);
  tensor_drop(y);
  tensor_drop(ratio);
  tensor_drop(negative);
  return st;
}

/* y = a^b by a: b a^(b-1), and 0 where b is 0, whatever a. */
static status pow_by_base(backward_call *b) {
  tensor *zero = NULL, *one = NULL, *less = NULL, *power = NULL, *product = NULL, *f = NULL;
  status st;
  TRY_GOTO(st, scalar_like(&zero, b->in[1], 0), done);
  TRY_GOTO(st, scalar_like(&one, b->in[1], 1), done);
  TRY_GOTO(st, op_run(OP_sub, IN(b->in[1], one), NULL, &less), done);
  TRY_GOTO(st, op_run(OP_pow, IN(b->in[0], less), NULL, &power), done);
  TRY_GOTO(st, op_run(OP_mul, IN(b->in[1], power), NULL, &product), done);
  TRY_GOTO(st, op_run(OP_where, IN(b->in[1], product, zero), NULL, &f), done);
  st = binary_gradient(b, 0, OP_mul, b->grad_y[0], f);
done:
  tensor_drop(zero);
  tensor_drop(one);
  tensor_drop(less);
  tensor_drop(power);
  tensor_drop(product);
  tensor_drop(f);
  return st;
}

/* y = a^b by b: y log(a), and 0 where a is 0. */
static status pow_by_exponent(backward_call *b) {
  tensor *zero = NULL, *logarithm = NULL, *product = NULL, *f = NULL;
  status st;
  TRY_GOTO(st, scalar_like(&zero, b->in[0], 0), done);
  TRY_GOTO(st, op_run(OP_log, IN(b->in[0]), NULL, &logarithm), done);
  TRY_GOTO(st, op_run(OP_mul, IN(b->out[0], logarithm), NULL, &product), done);
  TRY_GOTO(st, op_run(OP_where, IN(b->in[0], product, zero), NULL, &f), done);
  st = binary_gradient(b, 1, OP_mul, b->grad_y[0], f);
done:
  tensor_drop(zero);
  tensor_drop(logarithm);
  tensor_drop(product);
  tensor_drop(f);
  return st;
}

status pow_backward_rule(backward_call *b) {
  if (b->needs[0]) TRY(pow_by_base(b));
  return b->needs[1] ? pow_by_exponent(b) : DLV3_OK;
}

/* The larger (smaller) one gets the gradient, equal ones half each: mask = (x wins) + (a == b) /
 * 2. */
static status extreme_gradient(backward_call *b, int32_t i, int32_t wins) {
  tensor *win = NULL, *equal = NULL, *winf = NULL, *equalf = NULL, *half = NULL, *share = NULL, *mask = NULL;
  cast_attr to = {b->in_spec[i].dtype};
  status st;
  TRY_GOTO(st, op_run(wins, IN(b->in[i], b->in[1 - i]), NULL, &win), done);
  TRY_GOTO(st, op_run(OP_eq, IN(b->in[0], b->in[1]), NULL, &equal), done);
  TRY_GOTO(st, op_run(OP_cast, IN(win), &to, &winf), done);
  TRY_GOTO(st, op_run(OP_cast, IN(equal), &to, &equalf), done);
  TRY_GOTO(st, scalar_like(&half, winf, 0.5), done);
  TRY_GOTO(st, op_run(OP_mul, IN(equalf, half), NULL, &share), done);
  TRY_GOTO(st, op_run(OP_add, IN(winf, share), NULL, &mask), done);
  st = binary_gradient(b, i, OP_mul, b->grad_y[0], mask);
done:
  tensor_drop(win);
  tensor_drop(equal);
  tensor_drop(winf);
  tensor_drop(equalf);
  tensor_drop(half);
  tensor_drop(share);
  tensor_drop(mask);
  return st;
}

static status extreme_rule(backward_call *b, int32_t wins) {
  for (int32_t i = 0; i < 2; i++)
    if (b->needs[i]) TRY(extreme_gradient(b, i, wins));
  return DLV3_OK;
}

status maximum_backward_rule(backward_call *b) { return extreme_rule(b, OP_gt); }
status minimum_backward_rule(backward_call *b) { return extreme_rule(b, OP_lt); }

status where_infer(op_call *c) {
  TRY(check_dtype(c, 2, c->in[1]->dtype));
  return broadcast_infer(c, 0, c->in[1]->dtype);
}

status where_backward_rule(backward_call *b) {
  tensor *zero = NULL, *g = NULL;
  status st = scalar_like(&zero, b->grad_y[0], 0);
  if (st == DLV3_OK && b->needs[1]) {
    st = op_run(OP_where, IN(b->in[0], b->grad_y[0], zero), NULL, &g);
    if (st == DLV3_OK) st = reduce_to_input(b, 1, g);
  }
  if (st == DLV3_OK && b->needs[2]) {
    st = op_run(OP_where, IN(b->in[0], zero, b->grad_y[0]), NULL, &g);
    if (st == DLV3_OK) st = reduce_to_input(b, 2, g);
  }
  tensor_drop(zero);
  return st;
}

/* -- In place ---------------------------------------------------------------------------------- */

/* y must broadcast to x without making it larger. */
static status in_place_infer(op_call *c) {
  const tensor *x = c->in[0], *y = c->in[1];
  bool fits = y->ndim <= x->ndim;
  for (int32_t i = 0; fits && i < y->ndim; i++) fits = y->size[i] == 1 || y->size[i] == x->size[x->ndim - y->ndim + i];
  if (!fits) return fail_call(c, DLV3_ERR_SHAPE, "y does not broadcast to x, which keeps its sizes");
  return DLV3_OK;
}

/* A float operand would be truncated element by element, so integers accept integers only. */
static status arithmetic_infer(op_call *c) {
  if (is_float(c->in[1]->dtype) && !is_float(c->in[0]->dtype))
    return fail_call(c, DLV3_ERR_DTYPE,
                     "x holds integers (%s) and keeps its dtype, y is %s; use the op without '_', or x:to('f32')",
                     dtype_name(c->in[0]->dtype), dtype_name(c->in[1]->dtype));
  return in_place_infer(c);
}

status add__infer(op_call *c) { return arithmetic_infer(c); }
status sub__infer(op_call *c) { return arithmetic_infer(c); }
status mul__infer(op_call *c) { return arithmetic_infer(c); }
status div__infer(op_call *c) { return arithmetic_infer(c); }
status copy__infer(op_call *c) { return in_place_infer(c); }

static status check_number(const op_call *c, double v, const char *name) {
  return isnan(v) ? fail_call(c, DLV3_ERR_ARG, "%s is not a number", name) : DLV3_OK;
}

status fill__infer(op_call *c) {
  (void)c; /* any value, nan too */
  return DLV3_OK;
}

status arange__infer(op_call *c) {
  const arange__attr *a = c->attr;
  TRY(check_number(c, a->start, "start"));
  return check_number(c, a->step, "step");
}

/* -- Random numbers ---------------------------------------------------------------------------- */

static status rng_infer(op_call *c, int32_t i) {
  const int64_t two = 2;
  TRY(check_dtype(c, i, DLV3_I64));
  return check_sizes(c, i, 1, &two);
}

status uniform__infer(op_call *c) {
  const uniform__attr *a = c->attr;
  TRY(check_float(c, 0));
  if (!(a->low <= a->high) || !isfinite(a->high - a->low))
    return fail_call(c, DLV3_ERR_ARG, "low %g is above high %g", a->low, a->high);
  return rng_infer(c, 1);
}

status normal__infer(op_call *c) {
  const normal__attr *a = c->attr;
  TRY(check_float(c, 0));
  if (!(a->std >= 0)) return fail_call(c, DLV3_ERR_ARG, "std %g is negative", a->std);
  return rng_infer(c, 1);
}

status randint__infer(op_call *c) {
  const randint__attr *a = c->attr;
  int64_t range;
  if (a->low >= a->high || __builtin_sub_overflow(a->high, a->low, &range) || range > 1ll << 32)
    return fail_call(c, DLV3_ERR_ARG, "[%lld, %lld) must hold 1 to 2^32 integers", (long long)a->low,
                     (long long)a->high);
  return rng_infer(c, 1);
}

static status check_probability(const op_call *c, double p) {
  if (p >= 0 && p <= 1) return DLV3_OK;
  return fail_call(c, DLV3_ERR_ARG, "p must be a probability, 0 to 1, it is %g", p);
}

status dropout_infer(op_call *c) {
  const dropout_attr *a = c->attr;
  const int64_t two = 2;
  TRY(check_float(c, 0));
  TRY(check_probability(c, a->p));
  TRY(rng_infer(c, 1));
  spec_like(&c->spec[0], c->in[0]);
  spec_set(&c->spec[1], DLV3_I64, 1, &two);
  return DLV3_OK;
}

status dropout_backward_infer(op_call *c) {
  const dropout_backward_attr *a = c->attr;
  TRY(check_float(c, 0));
  TRY(check_probability(c, a->p));
  TRY(rng_infer(c, 1));
  return same_infer(c);
}

status dropout_backward_rule(backward_call *b) {
  const dropout_attr *a = b->attr;
  if (!a->training || a->p == 0) {
    b->grad_x[0] = tensor_retain(b->grad_y[0]);
    return DLV3_OK;
  }
  dropout_backward_attr attr = {a->p};
  return op_run(OP_dropout_backward, IN(b->grad_y[0], b->out[1]), &attr, &b->grad_x[0]);
}

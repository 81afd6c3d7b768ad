/* conv.c - shapes and gradients of conv2d and matmul.
 *
 * x and y share a dtype. Parameters are f32 for every activation dtype but f64, whose whole model
 * is f64; the kernel that computes their gradients adds them in place. */
#include "rules.h"

typedef struct {
  attr_pair stride, padding, dilation;
  attr_int groups;
} window;

enum { LARGEST = 1 << 30 }; /* value of an attribute: a product of two can not overflow */

static int32_t parameter_dtype(int32_t activation) { return activation == DLV3_F64 ? DLV3_F64 : DLV3_F32; }

static status check_parameter(const op_call *c, int32_t i, int32_t activation) {
  const tensor *t = c->in[i];
  if (!t || t->dtype == parameter_dtype(activation)) return DLV3_OK;
  return fail_call(c, DLV3_ERR_DTYPE, "%s must be %s where the activations are %s, it is %s", c->info->in_name[i],
                   dtype_name(parameter_dtype(activation)), dtype_name(activation), dtype_name(t->dtype));
}

static status check_pair(const op_call *c, const char *name, attr_pair p, int64_t least) {
  if (p.h >= least && p.w >= least && p.h <= LARGEST && p.w <= LARGEST) return DLV3_OK;
  return fail_call(c, DLV3_ERR_ARG, "%s must be at least %d, it is %lld,%lld", name, (int)least, (long long)p.h,
                   (long long)p.w);
}

static status check_window(const op_call *c, const window *a) {
  TRY(check_pair(c, "stride", a->stride, 1));
  TRY(check_pair(c, "padding", a->padding, 0));
  TRY(check_pair(c, "dilation", a->dilation, 1));
  if (a->groups >= 1 && a->groups <= LARGEST) return DLV3_OK;
  return fail_call(c, DLV3_ERR_ARG, "groups must be at least 1, it is %lld", (long long)a->groups);
}

/* (in + 2 padding - dilation (k - 1) - 1) / stride + 1; 0 or less where the window does not fit. */
static int64_t output_size(int64_t in, int64_t k, int64_t stride, int64_t padding, int64_t dilation) {
  int64_t room = in + 2 * padding - dilation * (k - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

/* Checks that input w is a weight for `channels` channels of input x (its name), and sets the size
 * of the output map. */
static status check_weight(const op_call *c, int32_t w_at, const char *x, int64_t channels, int64_t h, int64_t w_,
                           const window *a, attr_pair *out) {
  const tensor *w = c->in[w_at];
  const char *name = c->info->in_name[w_at];
  TRY(check_ndim(c, w_at, 4));
  int64_t k = w->size[0], r = w->size[2], s = w->size[3];
  if (k < 1 || w->size[1] < 1 || r < 1 || s < 1) return fail_call(c, DLV3_ERR_SHAPE, "%s has a size of 0", name);
  if (w->size[1] > LARGEST || r > LARGEST || s > LARGEST) return fail_call(c, DLV3_ERR_SHAPE, "%s is too large", name);
  if (w->size[1] * a->groups != channels) {
    if (channels % a->groups)
      return fail_call(c, DLV3_ERR_SHAPE, "%s has %lld channels, which %lld groups do not divide", x,
                       (long long)channels, (long long)a->groups);
    return fail_call(c, DLV3_ERR_SHAPE, "%s has %lld channels but %s expects %lld (groups %lld)", x,
                     (long long)channels, name, (long long)(w->size[1] * a->groups), (long long)a->groups);
  }
  if (k % a->groups)
    return fail_call(c, DLV3_ERR_SHAPE, "%s has %lld output channels, which %lld groups do not divide", name,
                     (long long)k, (long long)a->groups);
  out->h = output_size(h, r, a->stride.h, a->padding.h, a->dilation.h);
  out->w = output_size(w_, s, a->stride.w, a->padding.w, a->dilation.w);
  if (out->h > 0 && out->w > 0) return DLV3_OK;
  return fail_call(c, DLV3_ERR_SHAPE,
                   "the window, %lld x %lld with dilation, is larger than the padded map, %lld x %lld",
                   (long long)(a->dilation.h * (r - 1) + 1), (long long)(a->dilation.w * (s - 1) + 1),
                   (long long)(h + 2 * a->padding.h), (long long)(w_ + 2 * a->padding.w));
}

/* -- conv2d ------------------------------------------------------------------------------------ */

enum { X, W, B, RESIDUAL, SCALE };

status conv2d_infer(op_call *c) {
  const conv2d_attr *a = c->attr;
  const window win = {a->stride, a->padding, a->dilation, a->groups};
  const tensor *x = c->in[X], *w = c->in[W];
  attr_pair out;
  TRY(check_float(c, X));
  TRY(check_ndim(c, X, 4));
  TRY(check_window(c, &win));
  TRY(check_weight(c, W, "x", x->size[1], x->size[2], x->size[3], &win, &out));
  TRY(check_parameter(c, W, x->dtype));
  if (c->in[B]) TRY(check_sizes(c, B, 1, &w->size[0]));
  TRY(check_parameter(c, B, x->dtype));
  spec_set(&c->spec[0], x->dtype, 4, (int64_t[]){x->size[0], w->size[0], out.h, out.w});
  if (a->activation < ACT_NONE || a->activation > ACT_HARDSIGMOID)
    return fail_call(c, DLV3_ERR_ARG, "no activation has the number %lld", (long long)a->activation);
  if (c->in[RESIDUAL]) {
    TRY(check_sizes(c, RESIDUAL, 4, c->spec[0].size));
    TRY(check_dtype(c, RESIDUAL, x->dtype));
  }
  if (!c->in[SCALE]) return DLV3_OK;
  TRY(check_sizes(c, SCALE, 4, (int64_t[]){x->size[0], x->size[1], 1, 1}));
  return check_dtype(c, SCALE, x->dtype);
}

/* grad_b = sum of grad_y over images and pixels, where w is frozen; else the kernel of grad_w also
 * computes it. */
static status bias_gradient(backward_call *b) {
  sum_attr sum = {.axes = {3, {0, 2, 3}}};
  cast_attr to = {parameter_dtype(b->grad_y[0]->dtype)};
  tensor *wide;
  TRY(op_run(OP_cast, IN(b->grad_y[0]), &to, &wide));
  status st = op_run(OP_sum, IN(wide), &sum, &b->grad_x[B]);
  tensor_drop(wide);
  return st;
}

status conv2d_backward_rule(backward_call *b) {
  const conv2d_attr *a = b->attr;
  const int64_t *size = b->in_spec[X].size;
  if (a->activation != ACT_NONE)
    return fail(DLV3_ERR_AUTOGRAD, "conv2d: with an activation it is for inference and has no gradient; in training "
                                   "the activation is an op of its own or batch_norm's");
  if (b->in_spec[SCALE].ndim)
    return fail(DLV3_ERR_AUTOGRAD, "conv2d: with a scale it is for inference and has no gradient; in training write "
                                   "(x * scale):conv2d(...)");
  if (b->needs[RESIDUAL]) b->grad_x[RESIDUAL] = tensor_retain(b->grad_y[0]);
  if (b->needs[X]) {
    conv2d_backward_input_attr back = {{size[2], size[3]}, a->stride, a->padding, a->dilation, a->groups};
    TRY(op_run(OP_conv2d_backward_input, IN(b->grad_y[0], b->in[W], grad_so_far(b, X)), &back, &b->grad_x[X]));
  }
  if (b->needs[W]) {
    tensor *grad_w, *grad_b = NULL;
    conv2d_backward_weight_attr back = {a->stride, a->padding, a->dilation, a->groups};
    TRY(grad_into(b, W, &grad_w));
    if (b->needs[B]) TRY(grad_into(b, B, &grad_b));
    return op_run(OP_conv2d_backward_weight, IN(b->in[X], b->grad_y[0], grad_w, grad_b), &back, NULL);
  }
  return b->needs[B] ? bias_gradient(b) : DLV3_OK;
}

/* grad_y must have the size of the output for a map of h x w. */
static status check_grad_y(const op_call *c, int32_t i, int64_t n, int64_t k, attr_pair out) {
  return check_sizes(c, i, 4, (int64_t[]){n, k, out.h, out.w});
}

status conv2d_backward_input_infer(op_call *c) {
  const conv2d_backward_input_attr *a = c->attr;
  const window win = {a->stride, a->padding, a->dilation, a->groups};
  const tensor *grad_y = c->in[0], *w = c->in[1];
  attr_pair out;
  TRY(check_float(c, 0));
  TRY(check_ndim(c, 0, 4));
  TRY(check_window(c, &win));
  TRY(check_pair(c, "size", a->size, 0));
  TRY(check_ndim(c, 1, 4));
  int64_t channels = w->size[1] <= LARGEST ? w->size[1] * a->groups : 0;
  TRY(check_weight(c, 1, "x", channels, a->size.h, a->size.w, &win, &out));
  TRY(check_grad_y(c, 0, grad_y->size[0], w->size[0], out));
  TRY(check_parameter(c, 1, grad_y->dtype));
  spec_set(&c->spec[0], grad_y->dtype, 4, (int64_t[]){grad_y->size[0], channels, a->size.h, a->size.w});
  if (!c->in[2]) return DLV3_OK;
  c->spec[0].none = true;
  TRY(check_sizes(c, 2, 4, c->spec[0].size));
  return check_dtype(c, 2, grad_y->dtype);
}

status conv2d_backward_weight_infer(op_call *c) {
  const conv2d_backward_weight_attr *a = c->attr;
  const window win = {a->stride, a->padding, a->dilation, a->groups};
  const tensor *x = c->in[0], *grad_w = c->in[2];
  attr_pair out;
  TRY(check_float(c, 0));
  TRY(check_ndim(c, 0, 4));
  TRY(check_dtype(c, 1, x->dtype));
  TRY(check_window(c, &win));
  TRY(check_weight(c, 2, "x", x->size[1], x->size[2], x->size[3], &win, &out));
  TRY(check_grad_y(c, 1, x->size[0], grad_w->size[0], out));
  TRY(check_parameter(c, 2, x->dtype));
  if (c->in[3]) TRY(check_sizes(c, 3, 1, &grad_w->size[0]));
  return check_parameter(c, 3, x->dtype);
}

/* -- matmul ------------------------------------------------------------------------------------ */

status matmul_infer(op_call *c) {
  const matmul_attr *at = c->attr;
  const tensor *a = c->in[0], *b = c->in[1];
  TRY(check_float(c, 0));
  for (int32_t i = 0; i < 2; i++)
    if (c->in[i]->ndim != 2 && c->in[i]->ndim != 3)
      return fail_call(c, DLV3_ERR_SHAPE, "%s must be a matrix or a batch of them (2 or 3 dimensions), it has %d",
                       c->info->in_name[i], (int)c->in[i]->ndim);
  const int64_t *sa = a->size + a->ndim - 2, *sb = b->size + b->ndim - 2;
  int64_t m = sa[at->trans_a ? 1 : 0], k = sa[at->trans_a ? 0 : 1], kb = sb[at->trans_b ? 1 : 0],
          n = sb[at->trans_b ? 0 : 1];
  if (k != kb)
    return fail_call(c, DLV3_ERR_SHAPE, "a has %lld columns but b has %lld rows", (long long)k, (long long)kb);
  if (a->ndim == 3 && b->ndim == 3 && a->size[0] != b->size[0])
    return fail_call(c, DLV3_ERR_SHAPE, "a has %lld matrices but b has %lld", (long long)a->size[0],
                     (long long)b->size[0]);
  if (a->ndim == 2 && b->ndim == 2)
    spec_set(&c->spec[0], a->dtype, 2, (int64_t[]){m, n});
  else
    spec_set(&c->spec[0], a->dtype, 3, (int64_t[]){a->ndim == 3 ? a->size[0] : b->size[0], m, n});
  return DLV3_OK;
}

/* The gradient of operand i as a product; of a matrix that was broadcast over a batch, summed over
 * it. */
static status matmul_gradient(backward_call *b, int32_t i, tensor *left, tensor *right, bool trans_left,
                              bool trans_right) {
  matmul_attr product = {trans_left, trans_right};
  sum_attr batch = {.axes = {1, {0}}};
  tensor *g;
  TRY(op_run(OP_matmul, IN(left, right), &product, &g));
  if (g->ndim == b->in_spec[i].ndim) {
    b->grad_x[i] = g;
    return DLV3_OK;
  }
  status st = op_run(OP_sum, IN(g), &batch, &b->grad_x[i]);
  tensor_drop(g);
  return st;
}

/* y = a b: grad_a = grad_y b^T, grad_b = a^T grad_y; of an operand given transposed, the transposes
 * of these. */
status matmul_backward_rule(backward_call *b) {
  const matmul_attr *at = b->attr;
  bool ta = at->trans_a, tb = at->trans_b;
  tensor *g = b->grad_y[0], *x = b->in[0], *y = b->in[1];
  if (b->needs[0]) TRY(ta ? matmul_gradient(b, 0, y, g, tb, true) : matmul_gradient(b, 0, g, y, false, !tb));
  if (b->needs[1]) TRY(tb ? matmul_gradient(b, 1, g, x, true, ta) : matmul_gradient(b, 1, x, g, !ta, false));
  return DLV3_OK;
}

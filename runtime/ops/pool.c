/* pool.c - shapes and gradients of the pooling ops.
 *
 * max_pool2d saves the position of each maximum in its window as u8 for the gradient; neither x
 * nor y is saved. */
#include "core/core.h"

/* -- max_pool2d -------------------------------------------------------------------------------- */

typedef struct {
  attr_pair kernel_size, stride, padding, dilation;
} window;

static bool in_range(attr_pair p, int64_t low) {
  return p.h >= low && p.w >= low && p.h < INT32_MAX && p.w < INT32_MAX;
}

static status check_window(const op_call *c, window *w) {
  if (!in_range(w->kernel_size, 1)) return fail_call(c, DLV3_ERR_ARG, "kernel_size must be at least 1");
  if (w->stride.h == 0) w->stride.h = w->kernel_size.h;
  if (w->stride.w == 0) w->stride.w = w->kernel_size.w;
  if (!in_range(w->stride, 1)) return fail_call(c, DLV3_ERR_ARG, "stride must be at least 1 (or 0 for kernel_size)");
  if (!in_range(w->dilation, 1)) return fail_call(c, DLV3_ERR_ARG, "dilation must be at least 1, which is none");
  if (w->kernel_size.h > 256 || w->kernel_size.w > 256 || w->kernel_size.h * w->kernel_size.w > 256)
    return fail_call(c, DLV3_ERR_ARG, "a window has at most 256 elements, %lldx%lld has more",
                     (long long)w->kernel_size.h, (long long)w->kernel_size.w);
  if (!in_range(w->padding, 0) || 2 * w->padding.h > w->kernel_size.h || 2 * w->padding.w > w->kernel_size.w)
    return fail_call(c, DLV3_ERR_ARG,
                     "padding must be from 0 to half of kernel_size, so that no window lies wholly in it");
  return DLV3_OK;
}

static status pooled(const op_call *c, int64_t *out, int64_t in, int64_t k, int64_t stride, int64_t padding,
                     int64_t dilation) {
  int64_t reach = dilation * (k - 1) + 1;
  if (in + 2 * padding < reach)
    return fail_call(c, DLV3_ERR_SHAPE, "the window covers %lld elements, x with its padding only %lld",
                     (long long)reach, (long long)(in + 2 * padding));
  *out = (in + 2 * padding - reach) / stride + 1;
  return DLV3_OK;
}

static status pooled_size(const op_call *c, int64_t *out, int64_t h, int64_t w, const window *a) {
  TRY(pooled(c, &out[0], h, a->kernel_size.h, a->stride.h, a->padding.h, a->dilation.h));
  return pooled(c, &out[1], w, a->kernel_size.w, a->stride.w, a->padding.w, a->dilation.w);
}

status max_pool2d_infer(op_call *c) {
  max_pool2d_attr *a = c->attr;
  window w = {a->kernel_size, a->stride, a->padding, a->dilation};
  TRY(check_ndim(c, 0, 4));
  TRY(check_float(c, 0));
  TRY(check_window(c, &w));
  a->stride = w.stride;
  spec_like(&c->spec[0], c->in[0]);
  TRY(pooled_size(c, &c->spec[0].size[2], c->in[0]->size[2], c->in[0]->size[3], &w));
  c->spec[1] = c->spec[0];
  c->spec[1].dtype = DLV3_U8;
  return DLV3_OK;
}

status max_pool2d_backward_rule(backward_call *b) {
  const max_pool2d_attr *a = b->attr;
  const int64_t *size = b->in_spec[0].size;
  max_pool2d_backward_attr back = {{size[2], size[3]}, a->kernel_size, a->stride, a->padding, a->dilation};
  return op_run(OP_max_pool2d_backward, IN(b->grad_y[0], b->out[1]), &back, &b->grad_x[0]);
}

status max_pool2d_backward_infer(op_call *c) {
  max_pool2d_backward_attr *a = c->attr;
  window w = {a->kernel_size, a->stride, a->padding, a->dilation};
  const tensor *grad_y = c->in[0];
  TRY(check_ndim(c, 0, 4));
  TRY(check_float(c, 0));
  TRY(check_dtype(c, 1, DLV3_U8));
  TRY(check_sizes(c, 1, 4, grad_y->size));
  TRY(check_window(c, &w));
  a->stride = w.stride;
  if (!in_range(a->size, 0)) return fail_call(c, DLV3_ERR_ARG, "size must be x's height and width");
  int64_t expected[2];
  TRY(pooled_size(c, expected, a->size.h, a->size.w, &w));
  if (grad_y->size[2] != expected[0] || grad_y->size[3] != expected[1])
    return fail_call(c, DLV3_ERR_SHAPE, "grad_y must be %lldx%lld for x of %lldx%lld", (long long)expected[0],
                     (long long)expected[1], (long long)a->size.h, (long long)a->size.w);
  spec_like(&c->spec[0], grad_y);
  c->spec[0].size[2] = a->size.h;
  c->spec[0].size[3] = a->size.w;
  return DLV3_OK;
}

/* -- adaptive_avg_pool2d ----------------------------------------------------------------------- */

static status resized(op_call *c, attr_pair size, const char *what) {
  TRY(check_ndim(c, 0, 4));
  TRY(check_float(c, 0));
  if (!in_range(size, 1)) return fail_call(c, DLV3_ERR_ARG, "%s must be at least 1x1", what);
  if (c->in[0]->size[2] < 1 || c->in[0]->size[3] < 1)
    return fail_call(c, DLV3_ERR_SHAPE, "%s has no pixels", c->info->in_name[0]);
  spec_like(&c->spec[0], c->in[0]);
  c->spec[0].size[2] = size.h;
  c->spec[0].size[3] = size.w;
  return DLV3_OK;
}

status adaptive_avg_pool2d_infer(op_call *c) { return resized(c, ((adaptive_avg_pool2d_attr *)c->attr)->size, "size"); }

status adaptive_avg_pool2d_backward_infer(op_call *c) {
  return resized(c, ((adaptive_avg_pool2d_backward_attr *)c->attr)->size, "size, which is x's (h, w),");
}

status adaptive_avg_pool2d_backward_rule(backward_call *b) {
  adaptive_avg_pool2d_backward_attr back = {{b->in_spec[0].size[2], b->in_spec[0].size[3]}};
  return op_run(OP_adaptive_avg_pool2d_backward, IN(b->grad_y[0]), &back, &b->grad_x[0]);
}

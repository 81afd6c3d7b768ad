/* resample.c - shapes and gradients of bilinear interpolation. */
#include "core/core.h"

static status resized(op_call *c, attr_pair size, const char *what) {
  const tensor *x = c->in[0];
  TRY(check_ndim(c, 0, 4));
  TRY(check_float(c, 0));
  if (size.h < 1 || size.w < 1 || size.h > INT32_MAX || size.w > INT32_MAX)
    return fail_call(c, DLV3_ERR_ARG, "%s must be at least 1x1, got %lldx%lld", what, (long long)size.h,
                     (long long)size.w);
  if (x->size[2] < 1 || x->size[3] < 1)
    return fail_call(c, DLV3_ERR_SHAPE, "%s has no pixels to interpolate", c->info->in_name[0]);
  spec_like(&c->spec[0], x);
  c->spec[0].size[2] = size.h;
  c->spec[0].size[3] = size.w;
  return DLV3_OK;
}

status upsample_bilinear2d_infer(op_call *c) { return resized(c, ((upsample_bilinear2d_attr *)c->attr)->size, "size"); }

status upsample_bilinear2d_backward_infer(op_call *c) {
  return resized(c, ((upsample_bilinear2d_backward_attr *)c->attr)->size, "size, which is x's (h, w),");
}

status upsample_bilinear2d_backward_rule(backward_call *b) {
  const upsample_bilinear2d_attr *a = b->attr;
  upsample_bilinear2d_backward_attr back = {{b->in_spec[0].size[2], b->in_spec[0].size[3]}, a->align_corners};
  return op_run(OP_upsample_bilinear2d_backward, IN(b->grad_y[0]), &back, &b->grad_x[0]);
}

status upsample_argmax_infer(op_call *c) {
  const tensor *x = c->in[0];
  attr_pair size = ((upsample_argmax_attr *)c->attr)->size;
  TRY(resized(c, size, "size"));
  if (x->size[1] < 1 || x->size[1] > 256)
    return fail_call(c, DLV3_ERR_SHAPE, "x must have 1 to 256 channels for u8 class ids, it has %lld",
                     (long long)x->size[1]);
  spec_set(&c->spec[0], DLV3_U8, 3, (int64_t[]){x->size[0], size.h, size.w});
  return DLV3_OK;
}

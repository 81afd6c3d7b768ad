/* convolution.h - the geometry of a convolution's call, for the cpu and the cuda kernels.
 *
 * Memory is channels-last: x [n,h,w,c], w [k,r,s,c/groups], y [n,oh,ow,k]. Output pixel (oy, ox)
 * and tap (r, s) meet at input pixel (oy stride - padding + r dilation, ...). CUDA's files include
 * cuda/support/common.h first, whose BOTH is for functions of the host and the device. */
#ifndef DLV3_CONVOLUTION_H
#define DLV3_CONVOLUTION_H

#include "core/core.h"

#ifndef BOTH
#define BOTH static inline
#endif

typedef struct {
  int64_t n, c, h, w, k, r, s, oh, ow, groups;
  attr_pair stride, padding, dilation;
} conv;

/* What a call of conv2d_backward_input writes: a new tensor, or the sum that it adds to. */
static inline tensor *grad_x_of(const op_call *c) { return c->in[2] ? c->in[2] : c->out[0]; }

/* Of a call of conv2d, conv2d_backward_input or conv2d_backward_weight. */
static inline conv conv_of(const op_call *c) {
#define TAKE_ATTRIBUTES(op) \
  do { \
    const op##_attr *a = (const op##_attr *)c->attr; \
    v.stride = a->stride; \
    v.padding = a->padding; \
    v.dilation = a->dilation; \
    v.groups = a->groups; \
  } while (0)
  const bool forward = c->op == OP_conv2d, by_input = c->op == OP_conv2d_backward_input;
  const tensor *x = by_input ? grad_x_of(c) : c->in[0], *w = forward || by_input ? c->in[1] : c->in[2];
  const tensor *y = by_input ? c->in[0] : c->in[1];
  if (forward) y = c->out[0];
  conv v;
  v.n = x->size[0], v.c = x->size[1], v.h = x->size[2], v.w = x->size[3];
  v.k = w->size[0], v.r = w->size[2], v.s = w->size[3];
  v.oh = y->size[2], v.ow = y->size[3];
  if (forward)
    TAKE_ATTRIBUTES(conv2d);
  else if (by_input)
    TAKE_ATTRIBUTES(conv2d_backward_input);
  else
    TAKE_ATTRIBUTES(conv2d_backward_weight);
  return v;
#undef TAKE_ATTRIBUTES
}

static inline bool is_depthwise(const conv *v) { return v->groups == v->c && v->groups == v->k && v->groups > 1; }

/* The input coordinate that an output coordinate meets at a tap; it may lie outside. */
BOTH int64_t input_at(int64_t out, int64_t tap, int64_t stride, int64_t padding, int64_t dilation) {
  return out * stride - padding + tap * dilation;
}

/* The output coordinate whose tap meets input coordinate `in`, or -1. */
BOTH int64_t output_at(int64_t in, int64_t tap, int64_t stride, int64_t padding, int64_t dilation, int64_t n_out) {
  const int64_t at = in + padding - tap * dilation;
  return at >= 0 && at % stride == 0 && at / stride < n_out ? at / stride : -1;
}

#endif

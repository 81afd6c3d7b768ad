/* conv.h - what the convolution kernels share: the geometry of a call.
 *
 * Memory is channels-last: x [n,h,w,c], w [k,r,s,c/groups], y [n,oh,ow,k]. Output pixel (oy, ox) and tap (r, s) meet
 * at input pixel (oy stride - padding + r dilation, ...). */
#ifndef DLV3_CONV_H
#define DLV3_CONV_H

#include "ref.h"

typedef struct {
  int64_t n, c, h, w, k, r, s, oh, ow, groups;
  attr_pair stride, padding, dilation;
} conv;

/* Of a call of conv2d, conv2d_backward_input or conv2d_backward_weight. */
conv conv_of(const op_call *c);

static inline bool is_depthwise(const conv *v) { return v->groups == v->c && v->groups == v->k && v->groups > 1; }

/* grad_b[k] += sum of grad_y over pixels. */
void add_bias_gradient(tensor *grad_b, const tensor *grad_y);

#endif

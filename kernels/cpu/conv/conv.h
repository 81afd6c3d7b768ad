/* conv.h - what the cpu's convolution kernels share, beside the geometry of a call
 * (shared/convolution.h): weights and operands in other forms, the implementations. */
#ifndef DLV3_CONV_H
#define DLV3_CONV_H

#include "cpu/support/ref.h"
#include "shared/convolution.h"

/* The form `key` of w, in `bytes` bytes, made by build(destination, w, arg) when w's content has
 * changed since. */
status prepared_weight(void **out, tensor *w, uint64_t key, int64_t bytes,
                       status (*build)(void *dst, const tensor *w, const void *arg), const void *arg);
enum {
  FORM_FORWARD = 1,
  FORM_BACKWARD = 2,
  FORM_DEPTHWISE = 3,
  FORM_ONEDNN = 4,
  FORM_DEPTHWISE_PAIRS = 5,
  FORM_DEPTHWISE_PAIRS_BACKWARD = 6
};

/* A dense tensor's elements as f32 (wide: f64): its own, or a copy in *owned (loaded if load) that
 * the caller frees. NULL: out of memory. */
void *conv_operand(const tensor *t, bool wide, void **owned, bool load);

/* The implementations: winograd.c, direct.c, matmul.c, depthwise.c, onednn.c. */
status onednn_conv2d(op_call *c);
status onednn_conv2d_backward_input(op_call *c);
status onednn_conv2d_backward_weight(op_call *c);
status onednn_matmul(op_call *c);
status winograd_conv2d(op_call *c);
status winograd_conv2d_backward_input(op_call *c);
status winograd_conv2d_backward_weight(op_call *c);
status direct_conv2d(op_call *c);
status direct_conv2d_backward_input(op_call *c);
status direct_conv2d_backward_weight(op_call *c);
status pairs_conv2d(op_call *c);
status pairs_conv2d_backward_input(op_call *c);
status pairs_conv2d_backward_weight(op_call *c);
status direct_matmul(op_call *c);
status depthwise_conv2d(op_call *c);
status depthwise_pairs_conv2d(op_call *c);
status depthwise_conv2d_backward_input(op_call *c);
status depthwise_conv2d_backward_weight(op_call *c);

/* y = act(y + residual) where the call of conv2d asks for it: for implementations that do not do so
 * as they store. */
void conv_epilogue(const op_call *c);

/* A call of conv2d_backward_input by an implementation that can not add: to memory of its own,
 * which is added. */
status add_apart(op_call *c, status (*run)(op_call *c));

/* grad_b[k] += sum of grad_y over pixels. */
void add_bias_gradient(tensor *grad_b, const tensor *grad_y);

#endif

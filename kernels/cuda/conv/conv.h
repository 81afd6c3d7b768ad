/* conv.h - what the CUDA convolution kernels share, beside the geometry of a call
 * (shared/convolution.h): the epilogue, copies of weights. */
#ifndef DLV3_CUDA_CONV_H
#define DLV3_CUDA_CONV_H

#include "cuda/support/common.h"
#include "shared/convolution.h"

/* The convolution of grad_y that gives grad_x where v has no stride: its tap r is v's r from the
 * end. */
static inline conv turned_conv(const conv &v) {
  conv t = v;
  t.c = v.k, t.h = v.oh, t.w = v.ow, t.k = v.c, t.oh = v.h, t.ow = v.w;
  t.padding.h = (v.r - 1) * v.dilation.h - v.padding.h,
  t.padding.w = (v.s - 1) * v.dilation.w - v.padding.w; /* may be less than 0 */
  return t;
}

/* What is left to do with a sum of products before it is stored: y = act(sum + bias[k] + residual).
 * Backward by input: the residual is what is added to, which is also where the result goes. */
template <class T, class P> struct epilogue {
  const P *bias;
  const T *residual;
  int64_t act;
  DEVICE T operator()(P sum, int64_t at, int64_t k) const {
    if (bias) sum += bias[k];
    if (residual) sum += wide(residual[at]);
    return narrow<T>(activate<P>(act, sum));
  }
  /* Of V channels from k on. */
  template <int V> DEVICE pack<T, V> of_pack(P (&sum)[V], int64_t at, int64_t k) const {
    if (bias) UNROLL
    for (int i = 0; i < V; i++) sum[i] += bias[k + i];
    if (residual) {
      const pack<T, V> r = pack_at<V>(residual + at);
      UNROLL
      for (int i = 0; i < V; i++) sum[i] += wide(r.v[i]);
    }
    BY_ACT(act, UNROLL for (int i = 0; i < V; i++) sum[i] = activate<P>(ACT, sum[i]));
    return narrowed<T>(sum);
  }
};
template <class T, class P> static inline epilogue<T, P> epilogue_of(const op_call *c) {
  if (c->op == OP_conv2d_backward_input) return epilogue<T, P>{NULL, data_as<T>(c->in[2]), ACT_NONE};
  return epilogue<T, P>{data_as<P>(c->in[2]), data_as<T>(c->in[3]), ((const conv2d_attr *)c->attr)->activation};
}

/* The outputs [*begin, *end) whose tap lies inside of the input. */
BOTH void outputs_inside(int64_t tap, int64_t stride, int64_t padding, int64_t dilation, int64_t n_in, int64_t n_out,
                         int64_t *begin, int64_t *end) {
  const int64_t first = padding - tap * dilation, last = n_in - 1 + first; /* out stride in [first, last] */
  *begin = first > 0 ? (first + stride - 1) / stride : 0;
  *end = last < 0 ? 0 : last / stride + 1;
  if (*end > n_out) *end = n_out;
  if (*begin > *end) *begin = *end;
}

/* grad_b[k] += sum of grad_y over pixels. */
status add_bias_gradient(const op_call *c, tensor *grad_b, const tensor *grad_y);

/* A form of a weight that is kept with it. Whoever finds base.version behind storage_version(w->st)
 * fills it anew, and then sets it. */
typedef struct {
  prepared base;
  storage *st;
} weight_copy;
/* The one that key names, with memory of so many bytes; made the first time. */
status weight_copy_of(weight_copy **out, const op_call *c, tensor *w, uint64_t key, int64_t bytes);

/* A copy of all parameters of an arena in bf16 or f16 that is right; NULL: there is none. Who
 * changes the arena may write it too, and says so by its version. */
weight_copy *arena_copy(const storage *all, int32_t *dtype);

/* Where a parameter lies in dtype, on such a boundary: itself, or a copy that is kept with it (of a
 * slice of an arena, with the arena) and made anew when it has changed. */
status weight_in(const void **out, const op_call *c, tensor *w, int32_t dtype);

/* The implementations: cudnn.cu, cublaslt.cu, atrous.cu, direct.cu, depthwise.cu. */
status cudnn_conv2d(op_call *c);
status cudnn_conv2d_backward_input(op_call *c);
status cudnn_conv2d_backward_weight(op_call *c);
status cublaslt_conv2d(op_call *c);
status cublaslt_conv2d_backward_input(op_call *c);
status cublaslt_conv2d_backward_weight(op_call *c);
status cublaslt_matmul(op_call *c);
status atrous_conv2d(op_call *c);
status atrous_conv2d_backward_input(op_call *c);
status atrous_conv2d_backward_weight(op_call *c);
status direct_conv2d(op_call *c);
status direct_conv2d_backward_input(op_call *c);
status direct_conv2d_backward_weight(op_call *c);
status direct_matmul(op_call *c);
status depthwise_conv2d(op_call *c);
status depthwise_conv2d_backward_input(op_call *c);
status depthwise_conv2d_backward_weight(op_call *c);

/* Runs the statement with T the type of the activations and P that of the parameters. */
#define BY_ACTIVATION(dtype, ...) \
  do { \
    switch (dtype) { \
    case DLV3_F64: { \
      typedef double T; \
      typedef double P; \
      __VA_ARGS__; \
    } break; \
    case DLV3_F32: { \
      typedef float T; \
      typedef float P; \
      __VA_ARGS__; \
    } break; \
    case DLV3_BF16: { \
      typedef bf16 T; \
      typedef float P; \
      __VA_ARGS__; \
    } break; \
    default: { \
      typedef f16 T; \
      typedef float P; \
      __VA_ARGS__; \
    } break; \
    } \
  } while (0)

#endif

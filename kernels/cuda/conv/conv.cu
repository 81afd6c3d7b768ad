/* conv.cu - convolution and matrix product: copies of weights, the bias
 * gradient, the lists of implementations. */
#include "conv.h"

#include <stdlib.h>

#include "cuda/support/elements.h"

/* -- Copies of weights ------------------------------------------------------------------------- */

static void destroy_copy(prepared *p) {
  storage_drop(((weight_copy *)p)->st);
  free(p);
}

status weight_copy_of(weight_copy **out, const op_call *c, tensor *w, uint64_t key, int64_t bytes) {
  for (prepared *p = w->st->prepared; p; p = p->next)
    if (p->key == key && p->offset == w->offset && ((weight_copy *)p)->st->bytes == bytes)
      return *out = (weight_copy *)p, DLV3_OK;
  weight_copy *made = (weight_copy *)calloc(1, sizeof *made);
  if (!made) return fail_call(c, DLV3_ERR_OOM, "out of memory for a weight");
  const status st = scratch_new(&made->st, c, bytes);
  if (st != DLV3_OK) return free(made), st;
  made->st->scope = 0; /* it lives as long as w */
  made->base.key = key, made->base.offset = w->offset, made->base.version = storage_version(w->st) - 1,
  made->base.destroy = destroy_copy;
  made->base.next = w->st->prepared, w->st->prepared = &made->base;
  return *out = made, DLV3_OK;
}

/* Of all parameters of an arena together: one cast until sgd_ writes it. */
enum { ARENA = 0xa4e4a };
static uint64_t arena_key(int32_t dtype) { return (uint64_t)ARENA << 8 | (uint64_t)dtype; }

static status slice_in(const void **out, const op_call *c, tensor *w, int32_t dtype) {
  storage *all = w->st->parent;
  const int64_t width = dtype_bytes(dtype), n = all->bytes / dtype_bytes(w->dtype);
  tensor from = *w, to;
  from.st = all, from.offset = 0, from.ndim = 1, from.size[0] = n, from.stride[0] = 1;
  weight_copy *kept;
  TRY(weight_copy_of(&kept, c, &from, arena_key(dtype), n * width));
  kept->base.renewed = true;
  if (kept->base.version != arena_version(all)) {
    to = from, to.dtype = dtype, to.st = kept->st;
    TRY(elements_copy(c, &to, &from));
    kept->base.version = arena_version(all);
  }
  return *out = kept->st->data + ((char *)data_of(w) - all->data) / dtype_bytes(w->dtype) * width, DLV3_OK;
}

weight_copy *arena_copy(const storage *all, int32_t *dtype) {
  for (prepared *p = all->prepared; p; p = p->next) {
    if (p->key >> 8 != ARENA || p->version != arena_version(all)) continue;
    return *dtype = (int32_t)(p->key & 255), (weight_copy *)p;
  }
  return NULL;
}

status weight_in(const void **out, const op_call *c, tensor *w, int32_t dtype) {
  if (w->dtype == dtype && aligned(data_of(w))) return *out = data_of(w), DLV3_OK;
  if (w->st->parent && w->dtype == DLV3_F32 && dtype_bytes(dtype) == 2) return slice_in(out, c, w, dtype);
  weight_copy *kept;
  TRY(weight_copy_of(&kept, c, w, 0xc0de0000u + (uint64_t)dtype, numel(w) * dtype_bytes(dtype)));
  if (kept->base.version != storage_version(w->st)) {
    tensor cast = *w;
    cast.dtype = dtype, cast.st = kept->st, cast.offset = 0;
    TRY(elements_copy(c, &cast, w));
    kept->base.version = storage_version(w->st);
  }
  return *out = kept->st->data, DLV3_OK;
}

/* -- The bias gradient ------------------------------------------------------------------------- */

/* partial[segment][k] = sum of grad_y over every segments-th row of pixels. A block: 32 channels, 8
 * rows. */
template <class T>
static __global__ void bias_sums(const T *grad_y, int64_t pixels, int64_t channels, double *partial) {
  __shared__ double buf[BLOCK];
  const int64_t k = (int64_t)blockIdx.x * 32 + threadIdx.x;
  double sum = 0;
  for (int64_t p = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; k < channels && p < pixels;
       p += (int64_t)gridDim.y * blockDim.y)
    sum += (double)wide(grad_y[p * channels + k]);
  sum = sum_over_y(sum, buf);
  if (threadIdx.y == 0 && k < channels) partial[blockIdx.y * channels + k] = sum;
}

template <class P>
static __global__ void bias_finish(const double *partial, int64_t segments, int64_t channels, P *grad_b) {
  FOR_ITEMS(k, channels) {
    double sum = (double)grad_b[k];
    for (int64_t s = 0; s < segments; s++) sum += partial[s * channels + k];
    grad_b[k] = (P)sum;
  }
}

status add_bias_gradient(const op_call *c, tensor *grad_b, const tensor *grad_y) {
  const int64_t channels = grad_y->size[1], pixels = grad_y->size[0] * grad_y->size[2] * grad_y->size[3],
                tiles = ceil_div(channels, 32);
  const int64_t segments = least(tiles < 256 ? 256 / tiles : 1, ceil_div(pixels, 64));
  const cudaStream_t stream = stream_of(c);
  storage *scratch;
  if (!pixels || !channels) return DLV3_OK;
  TRY(scratch_new(&scratch, c, segments * channels * (int64_t)sizeof(double)));
  double *partial = (double *)scratch->data;
  BY_FLOAT(grad_y->dtype, LAUNCH(bias_sums<T>, dim3((unsigned)tiles, (unsigned)segments), dim3(32, BLOCK / 32), stream,
                                 data_as<T>(grad_y), pixels, channels, partial));
  if (grad_b->dtype == DLV3_F64)
    LAUNCH(bias_finish<double>, blocks_for(channels), BLOCK, stream, (const double *)partial, segments, channels,
           data_as<double>(grad_b));
  else
    LAUNCH(bias_finish<float>, blocks_for(channels), BLOCK, stream, (const double *)partial, segments, channels,
           data_as<float>(grad_b));
  storage_drop(scratch);
  return LAUNCHED(c);
}

/* -- Lists ------------------------------------------------------------------------------------- */

CUDA_IMPLS(conv2d, {"depthwise", depthwise_conv2d}, {"atrous", atrous_conv2d}, {"cudnn", cudnn_conv2d},
           {"cublaslt", cublaslt_conv2d}, {"direct", direct_conv2d});
CUDA_IMPLS(conv2d_backward_input, {"depthwise", depthwise_conv2d_backward_input},
           {"atrous", atrous_conv2d_backward_input}, {"cudnn", cudnn_conv2d_backward_input},
           {"cublaslt", cublaslt_conv2d_backward_input}, {"direct", direct_conv2d_backward_input});
CUDA_IMPLS(conv2d_backward_weight, {"depthwise", depthwise_conv2d_backward_weight},
           {"atrous", atrous_conv2d_backward_weight}, {"cudnn", cudnn_conv2d_backward_weight},
           {"cublaslt", cublaslt_conv2d_backward_weight}, {"direct", direct_conv2d_backward_weight});
CUDA_IMPLS(matmul, {"cublaslt", cublaslt_matmul}, {"direct", direct_matmul});

/* cudnn.cu - convolution by cuDNN's graph API: forward, backward by input, backward by weight,
 * channels-last.
 *
 * A problem (pass, shapes, dtype, what is added) becomes a graph of operations; cudnn_plan.cu finds
 * the engine for it. Sums are in f32; f32 convolutions may use TF32, as PyTorch's do, where the
 * runtime allows it. */
#include "cudnn_plan.h"

#include <stdio.h>
#include <stdlib.h>

#include "cuda/support/vendor.h"

enum { DIMS = 4 };

static cudnnHandle_t handles[MOST_DEVICES];

void cudnn_version(char *text, size_t n) {
  const size_t v = cudnnGetVersion();
  snprintf(text, n, ", cudnn %d.%d.%d", (int)(v / 10000), (int)(v / 100 % 100), (int)(v % 100));
}

static status cudnn_failed(const op_call *c, const char *what, cudnnStatus_t e) {
  return fail_call(c, short_of_memory(e) ? DLV3_ERR_OOM : DLV3_ERR_DEVICE, "cudnn: %s: %s", what,
                   cudnnGetErrorString(e));
}

static status handle_of(cudnnHandle_t *out, const op_call *c, int32_t device) {
  const cudaStream_t stream = stream_of(c); /* makes the device the current one */
  cudnnStatus_t e = CUDNN_STATUS_SUCCESS;
  if (!handles[device]) {
    cudnnHandle_t made = NULL;
    e = cudnnCreate(&made);
    if (e == CUDNN_STATUS_SUCCESS) e = cudnnSetStream(made, stream);
    if (e == CUDNN_STATUS_SUCCESS)
      handles[device] = made;
    else if (made)
      cudnnDestroy(made);
  }
  if (e != CUDNN_STATUS_SUCCESS) return cudnn_failed(c, "it can not be started", e);
  return *out = handles[device], DLV3_OK;
}

/* -- Descriptors ------------------------------------------------------------------------------- */

static cudnnDataType_t type_of(int32_t dtype) {
  return dtype == DLV3_BF16 ? CUDNN_DATA_BFLOAT16 : dtype == DLV3_F16 ? CUDNN_DATA_HALF : CUDNN_DATA_FLOAT;
}

/* A part of the graph, which keeps it; NULL where cuDNN refuses it. */
static descriptor part(graph_of *g, builder b) {
  descriptor d = finish(&b);
  if (d) g->part[g->n++] = d;
  return d;
}

/* Channels-last. Ids of operands and, behind them, of what only lies between two operations: those
 * are f32. */
static descriptor map_part(graph_of *g, int64_t which, const problem *p, int64_t n, int64_t c, int64_t h, int64_t w) {
  const int64_t size[DIMS] = {n, c, h, w}, stride[DIMS] = {h * w * c, 1, w * c, c}, alignment = ALIGNMENT,
                id = which + 1;
  const bool between = which >= OPERANDS;
  const cudnnDataType_t type = between ? CUDNN_DATA_FLOAT : type_of(p->dtype);
  builder b = build(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  set(&b, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  set(&b, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, DIMS, size);
  set(&b, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, DIMS, stride);
  set(&b, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
  set(&b, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
  set(&b, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &between);
  return part(g, b);
}

static descriptor convolution_part(graph_of *g, const conv *v) {
  const int64_t dims = 2, padding[2] = {v->padding.h, v->padding.w}, stride[2] = {v->stride.h, v->stride.w},
                dilation[2] = {v->dilation.h, v->dilation.w};
  const cudnnDataType_t type = CUDNN_DATA_FLOAT;
  const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  builder b = build(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  set(&b, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &dims);
  set(&b, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  set(&b, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
  set(&b, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, padding);
  set(&b, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, padding);
  set(&b, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, dilation);
  set(&b, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, stride);
  return part(g, b);
}

/* The names of one pass's attributes. */
typedef struct {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t x, w, y, convolution, alpha, beta;
} pass_names;
static const pass_names passes[] = {
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
};

/* to = from + more, or relu(from) where there is no more. */
static descriptor pointwise_part(graph_of *g, const descriptor *from, const descriptor *more, const descriptor *to) {
  const cudnnPointwiseMode_t mode = more ? CUDNN_POINTWISE_ADD : CUDNN_POINTWISE_RELU_FWD;
  const cudnnDataType_t type = CUDNN_DATA_FLOAT;
  builder what = build(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  set(&what, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  set(&what, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type);
  const descriptor is = part(g, what);
  builder b = build(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  set_part(&b, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &is);
  set_part(&b, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, from);
  if (more) set_part(&b, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, more);
  set_part(&b, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, to);
  return part(g, b);
}

/* The convolution, then what is added to its sums in the order for which cuDNN has kernels:
 * residual, bias, relu. All but the last write what lies between two operations. */
void cudnn_graph_make(graph_of *g, const problem *p, cudnnHandle_t handle) {
  const conv *v = &p->v;
  const pass_names *names = &passes[p->pass];
  const float one = 1, zero = 0;
  int64_t after = p->residual + p->bias + p->relu, n = 0;
  descriptor operations[4];
  memset(g, 0, sizeof *g);
  const descriptor x = map_part(g, X, p, v->n, v->c, v->h, v->w),
                   w = map_part(g, W, p, v->k, v->c / v->groups, v->r, v->s), convolution = convolution_part(g, v);
  descriptor now = map_part(g, after ? OPERANDS : Y, p, v->n, v->k, v->oh, v->ow);
  builder b = build(names->type);
  set_part(&b, names->x, &x), set_part(&b, names->w, &w), set_part(&b, names->y, &now),
      set_part(&b, names->convolution, &convolution);
  set(&b, names->alpha, CUDNN_TYPE_FLOAT, 1, &one);
  set(&b, names->beta, CUDNN_TYPE_FLOAT, 1, p->add ? &one : &zero);
  operations[n++] = part(g, b);
  const int32_t wanted[3] = {p->residual, p->bias, p->relu};
  for (int i = 0; i < 3; i++) {
    if (!wanted[i]) continue;
    const descriptor more = i == 0   ? map_part(g, RESIDUAL, p, v->n, v->k, v->oh, v->ow)
                            : i == 1 ? map_part(g, BIAS, p, 1, v->k, 1, 1)
                                     : NULL;
    const descriptor next = map_part(g, --after ? OPERANDS + n : (int64_t)Y, p, v->n, v->k, v->oh, v->ow);
    operations[n++] = pointwise_part(g, &now, i < 2 ? &more : NULL, &next);
    now = next;
  }
  for (int64_t i = 0; i < n; i++)
    if (!operations[i]) return;
  b = build(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  set(&b, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, n, operations);
  set(&b, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  g->graph = finish(&b);
}

void cudnn_graph_drop(graph_of *g) {
  drop(g->graph);
  while (g->n > 0) drop(g->part[--g->n]);
}

/* -- Problems and their runs ------------------------------------------------------------------- */

static problem problem_of(const op_call *c, int32_t pass, int32_t dtype) {
  problem p;
  memset(&p, 0, sizeof p); /* compared as bytes, gaps too */
  const conv v = conv_of(c);
  p.v.n = v.n, p.v.c = v.c, p.v.h = v.h, p.v.w = v.w, p.v.k = v.k, p.v.r = v.r, p.v.s = v.s, p.v.oh = v.oh,
  p.v.ow = v.ow, p.v.groups = v.groups;
  p.v.stride = v.stride, p.v.padding = v.padding, p.v.dilation = v.dilation;
  p.pass = pass, p.dtype = dtype, p.device = device_tensor(c)->st->device;
  p.tf32 = dtype == DLV3_F32 && tf32_allowed(), p.benchmark = cudnn_benchmark();
  return p;
}

/* A plan may turn out not to run: it is not asked again. */
static bool refused(cudnnStatus_t e) {
  return e >= CUDNN_STATUS_NOT_SUPPORTED && e < CUDNN_STATUS_NOT_SUPPORTED + 1000;
}

bool stream_captured(cudaStream_t stream) {
  cudaStreamCaptureStatus is = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &is) != cudaSuccess || is != cudaStreamCaptureStatusNone;
}

cudnnStatus_t cudnn_queue(plan *p, cudnnHandle_t handle, const void *const *operands, void *workspace) {
  int64_t ids[OPERANDS], n = 0;
  const void *pointers[OPERANDS];
  for (int64_t i = 0; i < OPERANDS; i++)
    if (operands[i]) ids[n] = i + 1, pointers[n++] = operands[i];
  builder b = build(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  set(&b, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, pointers);
  set(&b, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, ids);
  set(&b, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  descriptor pack = finish(&b);
  const cudnnStatus_t e = pack ? cudnnBackendExecute(handle, p->descriptor, pack) : b.e;
  drop(pack);
  return e;
}

/* What a stream that is captured refuses may well run outside of it: then the capture fails, and
 * the plan stays. */
status cudnn_run(const op_call *c, plan *p, cudnnHandle_t handle, const void *const *operands) {
  storage *scratch = NULL;
  if (p->workspace) TRY(scratch_new(&scratch, c, p->workspace));
  const bool captured = stream_captured(stream_of(c));
  const cudnnStatus_t e = cudnn_queue(p, handle, operands, scratch ? scratch->data : NULL);
  if (scratch) storage_drop(scratch);
  p->captured |= captured;
  ran_by(p->engine);
  if (e == CUDNN_STATUS_SUCCESS) return LAUNCHED(c);
  cudaGetLastError(); /* or the next launch would be taken for the failed one */
  if (!refused(e) || captured) return cudnn_failed(c, "the convolution failed", e);
  p->refused = true;
  return DECLINED("cudnn's engine does not run it");
}

/* -- The three passes -------------------------------------------------------------------------- */

/* y = act(y + bias + residual), where cuDNN left the plain sums: V channels of a pixel. */
template <class T, int V>
static __global__ void finish_packs(T *y, int64_t packs, int64_t channels, epilogue<T, float> end) {
  const int64_t of_pixel = channels / V;
  const bool small = packs <= UINT32_MAX; /* division is much dearer in 64 bits */
  FOR_ITEMS(i, packs) {
    const pack<T, V> z = pack_at<V>(y + i * V);
    float sum[V];
    UNROLL
    for (int k = 0; k < V; k++) sum[k] = wide(z.v[k]);
    pack_at<V>(y + i * V) = end.of_pack(sum, i * V, (small ? (uint32_t)i % (uint32_t)of_pixel : i % of_pixel) * V);
  }
}

template <class T, int V> static void launch_finish(const op_call *c, cudaStream_t stream) {
  const tensor *y = c->out[0];
  const int64_t packs = numel(y) / V;
  LAUNCH((finish_packs<T, V>), blocks_for(packs), BLOCK, stream, data_as<T>(y), packs, y->size[1],
         (epilogue_of<T, float>(c)));
}

static status finish_output(op_call *c) {
  const tensor *y = c->out[0];
  const cudaStream_t stream = stream_of(c);
  const bool packs = y->size[1] % 4 == 0 && (!c->in[3] || aligned(data_of(c->in[3])));
  switch (y->dtype) {
  case DLV3_F32: packs ? launch_finish<float, 4>(c, stream) : launch_finish<float, 1>(c, stream); break;
  case DLV3_BF16: packs ? launch_finish<bf16, 4>(c, stream) : launch_finish<bf16, 1>(c, stream); break;
  default: packs ? launch_finish<f16, 4>(c, stream) : launch_finish<f16, 1>(c, stream); break;
  }
  return LAUNCHED(c);
}

/* The plan for a call, or why not. */
static status prepare(plan **out, cudnnHandle_t *handle, const op_call *c, const problem *p, const tensor *a,
                      const tensor *b) {
  if (p->dtype == DLV3_F64) return DECLINED("f64");
  if (!numel(a) || !numel(b)) return DECLINED("nothing to do");
  if (!aligned(data_of(a)) || !aligned(data_of(b))) return DECLINED("not on a boundary of 16 bytes");
  TRY(handle_of(handle, c, p->device));
  TRY(cudnn_plan_of(out, c, p, *handle));
  return (*out)->descriptor && !(*out)->refused ? DLV3_OK : DECLINED("cudnn has no engine for it");
}

/* cuDNN has kernels that add a bias, with a residual before it and a relu after it; all else is
 * left to finish_output. */
status cudnn_conv2d(op_call *c) {
  const tensor *x = c->in[0], *residual = c->in[3], *y = c->out[0];
  const int64_t act = ((const conv2d_attr *)c->attr)->activation;
  problem p = problem_of(c, FORWARD, x->dtype);
  plan *plan_ = NULL;
  if (c->in[4]) return DECLINED("a scale");
  cudnnHandle_t handle;
  const void *at[OPERANDS] = {data_of(x), NULL, data_of(y)};
  status st = DLV3_DECLINED;
  if (c->in[2] && (act == ACT_NONE || act == ACT_RELU) && (!residual || aligned(data_of(residual)))) {
    p.bias = 1, p.residual = residual != NULL, p.relu = act == ACT_RELU;
    st = prepare(&plan_, &handle, c, &p, x, y);
    if (st == DLV3_DECLINED) p.bias = p.residual = p.relu = 0;
  }
  if (st == DLV3_DECLINED) st = prepare(&plan_, &handle, c, &p, x, y);
  TRY(st);
  TRY(weight_in(&at[W], c, c->in[1], x->dtype));
  if (p.bias) TRY(weight_in(&at[BIAS], c, c->in[2], x->dtype));
  if (p.residual) at[RESIDUAL] = data_of(residual);
  st = cudnn_run(c, plan_, handle, at);
  if (st == DLV3_DECLINED && p.bias) return cudnn_conv2d(c); /* without a plan for all of it */
  TRY(st);
  return p.bias || (!c->in[2] && !residual && act == ACT_NONE) ? DLV3_OK : finish_output(c);
}

status cudnn_conv2d_backward_input(op_call *c) {
  const tensor *grad_y = c->in[0], *grad_x = grad_x_of(c);
  problem p = problem_of(c, BACKWARD_INPUT, grad_y->dtype);
  p.add = c->in[2] != NULL;
  plan *plan_;
  cudnnHandle_t handle;
  const void *at[OPERANDS] = {data_of(grad_x), NULL, data_of(grad_y)};
  TRY(prepare(&plan_, &handle, c, &p, grad_y, grad_x));
  TRY(weight_in(&at[W], c, c->in[1], grad_y->dtype));
  return cudnn_run(c, plan_, handle, at);
}

template <class T> static __global__ void add_gradient(float *grad_w, const T *more, int64_t n) {
  FOR_ITEMS(i, n) grad_w[i] += wide(more[i]);
}

/* The gradient comes in the activations' dtype, as in PyTorch, and is added: cuDNN 9.19 names no
 * engine that sums maps of 16 bits and writes f32. */
status cudnn_conv2d_backward_weight(op_call *c) {
  const tensor *x = c->in[0], *grad_y = c->in[1], *grad_w = c->in[2];
  const int64_t n = numel(grad_w);
  const problem p = problem_of(c, BACKWARD_WEIGHT, x->dtype);
  plan *plan_;
  cudnnHandle_t handle;
  storage *scratch;
  TRY(prepare(&plan_, &handle, c, &p, x, grad_y));
  TRY(scratch_new(&scratch, c, n * dtype_bytes(p.dtype)));
  const void *at[OPERANDS] = {data_of(x), scratch->data, data_of(grad_y)};
  status st = cudnn_run(c, plan_, handle, at);
  const cudaStream_t stream = stream_of(c);
  if (st == DLV3_OK) {
    switch (p.dtype) {
    case DLV3_F32:
      LAUNCH(add_gradient<float>, blocks_for(n), BLOCK, stream, data_as<float>(grad_w), (const float *)scratch->data,
             n);
      break;
    case DLV3_BF16:
      LAUNCH(add_gradient<bf16>, blocks_for(n), BLOCK, stream, data_as<float>(grad_w), (const bf16 *)scratch->data, n);
      break;
    default:
      LAUNCH(add_gradient<f16>, blocks_for(n), BLOCK, stream, data_as<float>(grad_w), (const f16 *)scratch->data, n);
      break;
    }
    st = LAUNCHED(c);
  }
  storage_drop(scratch);
  return st == DLV3_OK && c->in[3] ? add_bias_gradient(c, c->in[3], grad_y) : st;
}

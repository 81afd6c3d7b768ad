/* cudnn.cu - convolution by cuDNN's graph API: forward, backward by input, backward by weight, channels-last.
 *
 * A problem (pass, shapes, dtype) becomes a graph of one operation; cudnn_plan.cu finds the engine for it. Sums are in f32;
 * f32 convolutions may use TF32, as PyTorch's do, where the runtime allows it. */
#include "cudnn_plan.h"

#include <stdio.h>
#include <stdlib.h>

#include "vendor.h"

enum { DIMS = 4 };

static cudnnHandle_t handles[MOST_DEVICES];

void cudnn_version(char *text, size_t n) {
  const size_t v = cudnnGetVersion();
  snprintf(text, n, ", cudnn %d.%d.%d", (int)(v / 10000), (int)(v / 100 % 100), (int)(v % 100));
}

static status cudnn_failed(const op_call *c, const char *what, cudnnStatus_t e) {
  return fail_call(c, e == CUDNN_STATUS_ALLOC_FAILED ? DLV3_ERR_OOM : DLV3_ERR_DEVICE, "cudnn: %s: %s", what, cudnnGetErrorString(e));
}

static status handle_of(cudnnHandle_t *out, const op_call *c, int32_t device) {
  const cudaStream_t stream = stream_of(c); /* makes the device the current one */
  cudnnStatus_t e = CUDNN_STATUS_SUCCESS;
  if (!handles[device]) {
    e = cudnnCreate(&handles[device]);
    if (e == CUDNN_STATUS_SUCCESS) e = cudnnSetStream(handles[device], stream);
  }
  if (e != CUDNN_STATUS_SUCCESS) return cudnn_failed(c, "it can not be started", e);
  return *out = handles[device], DLV3_OK;
}

/* -- Descriptors ------------------------------------------------------------------------------------------- */

static cudnnDataType_t type_of(int32_t dtype) { return dtype == DLV3_BF16 ? CUDNN_DATA_BFLOAT16 : dtype == DLV3_F16 ? CUDNN_DATA_HALF : CUDNN_DATA_FLOAT; }

static descriptor tensor_descriptor(int64_t id, int32_t dtype, int64_t n, int64_t c, int64_t h, int64_t w) {
  const int64_t size[DIMS] = {n, c, h, w}, stride[DIMS] = {h * w * c, 1, w * c, c}, alignment = ALIGNMENT;
  const cudnnDataType_t type = type_of(dtype);
  builder b = build(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  set(&b, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  set(&b, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, DIMS, size);
  set(&b, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, DIMS, stride);
  set(&b, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
  set(&b, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
  return finish(&b);
}

static descriptor convolution_descriptor(const conv *v) {
  const int64_t dims = 2, padding[2] = {v->padding.h, v->padding.w}, stride[2] = {v->stride.h, v->stride.w}, dilation[2] = {v->dilation.h, v->dilation.w};
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
  return finish(&b);
}

enum { ID_X = 'x', ID_W = 'w', ID_Y = 'y' };

/* The names of one pass's attributes. */
typedef struct {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t x, w, y, convolution, alpha, beta;
} pass_names;
static const pass_names passes[] = {
  {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
   CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
   CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
  {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
  {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
};

/* What the graph is made of may go afterwards. */
descriptor cudnn_graph_of(const problem *p, cudnnHandle_t handle) {
  const conv *v = &p->v;
  const pass_names *names = &passes[p->pass];
  const float one = 1, zero = 0;
  descriptor x = tensor_descriptor(ID_X, p->dtype, v->n, v->c, v->h, v->w), w = tensor_descriptor(ID_W, p->weight_dtype, v->k, v->c / v->groups, v->r, v->s);
  descriptor y = tensor_descriptor(ID_Y, p->dtype, v->n, v->k, v->oh, v->ow), convolution = convolution_descriptor(v), operation = NULL, graph = NULL;
  if (x && w && y && convolution) {
    builder b = build(names->type);
    set(&b, names->x, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &x);
    set(&b, names->w, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &w);
    set(&b, names->y, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &y);
    set(&b, names->convolution, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &convolution);
    set(&b, names->alpha, CUDNN_TYPE_FLOAT, 1, &one);
    set(&b, names->beta, CUDNN_TYPE_FLOAT, 1, &zero);
    operation = finish(&b);
  }
  if (operation) {
    builder b = build(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(&b, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &operation);
    set(&b, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    graph = finish(&b);
  }
  drop(operation), drop(x), drop(w), drop(y), drop(convolution);
  return graph;
}

/* -- Problems and their runs ------------------------------------------------------------------------------- */

static problem problem_of(const op_call *c, int32_t pass, int32_t dtype, int32_t weight_dtype) {
  problem p;
  memset(&p, 0, sizeof p); /* compared as bytes, gaps too */
  const conv v = conv_of(c);
  p.v.n = v.n, p.v.c = v.c, p.v.h = v.h, p.v.w = v.w, p.v.k = v.k, p.v.r = v.r, p.v.s = v.s, p.v.oh = v.oh, p.v.ow = v.ow, p.v.groups = v.groups;
  p.v.stride = v.stride, p.v.padding = v.padding, p.v.dilation = v.dilation;
  p.pass = pass, p.dtype = dtype, p.weight_dtype = weight_dtype, p.device = device_tensor(c)->st->device;
  p.tf32 = dtype == DLV3_F32 && tf32_allowed(), p.benchmark = cudnn_benchmark();
  return p;
}

status cudnn_run(const op_call *c, const plan *p, cudnnHandle_t handle, const void *x, const void *w, const void *y) {
  const int64_t ids[3] = {ID_X, ID_W, ID_Y};
  const void *pointers[3] = {x, w, y};
  storage *scratch = NULL;
  void *workspace = NULL;
  if (p->workspace) {
    TRY(scratch_new(&scratch, c, p->workspace));
    workspace = scratch->data;
  }
  builder b = build(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  set(&b, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 3, pointers);
  set(&b, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 3, ids);
  set(&b, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  descriptor pack = finish(&b);
  const cudnnStatus_t e = pack ? cudnnBackendExecute(handle, p->descriptor, pack) : b.e;
  drop(pack);
  if (scratch) storage_drop(scratch);
  return e == CUDNN_STATUS_SUCCESS ? LAUNCHED(c) : cudnn_failed(c, "the convolution failed", e);
}

/* -- The three passes -------------------------------------------------------------------------------------- */

/* y = act(y + bias + residual), where cuDNN left the plain sums. */
template <class T> static __global__ void finish_elements(T *y, int64_t n, int64_t channels, epilogue<T, float> end) {
  FOR_ITEMS(i, n) y[i] = end(wide(y[i]), i, i % channels);
}

static status finish_output(op_call *c) {
  const tensor *y = c->out[0];
  const int64_t n = numel(y);
  const cudaStream_t stream = stream_of(c);
  if (!c->in[2] && !c->in[3] && ((const conv2d_attr *)c->attr)->activation == ACT_NONE) return DLV3_OK;
  switch (y->dtype) {
  case DLV3_F32: LAUNCH(finish_elements<float>, blocks_for(n), BLOCK, stream, data_as<float>(y), n, y->size[1], (epilogue_of<float, float>(c))); break;
  case DLV3_BF16: LAUNCH(finish_elements<bf16>, blocks_for(n), BLOCK, stream, data_as<bf16>(y), n, y->size[1], (epilogue_of<bf16, float>(c))); break;
  default: LAUNCH(finish_elements<f16>, blocks_for(n), BLOCK, stream, data_as<f16>(y), n, y->size[1], (epilogue_of<f16, float>(c))); break;
  }
  return LAUNCHED(c);
}

/* The plan for a call, or why not. */
static status prepare(plan **out, cudnnHandle_t *handle, const op_call *c, const problem *p, const tensor *a, const tensor *b) {
  if (p->dtype == DLV3_F64) return DECLINED("f64");
  if (!numel(a) || !numel(b)) return DECLINED("nothing to do");
  if (!aligned(data_of(a)) || !aligned(data_of(b))) return DECLINED("not on a boundary of 16 bytes");
  TRY(handle_of(handle, c, p->device));
  TRY(cudnn_plan_of(out, c, p, *handle));
  return (*out)->descriptor ? DLV3_OK : DECLINED("cudnn has no engine for it");
}

status cudnn_conv2d(op_call *c) {
  const tensor *x = c->in[0], *y = c->out[0];
  const problem p = problem_of(c, FORWARD, x->dtype, x->dtype);
  plan *plan_;
  cudnnHandle_t handle;
  const void *w;
  TRY(prepare(&plan_, &handle, c, &p, x, y));
  TRY(weight_in(&w, c, c->in[1], x->dtype));
  TRY(cudnn_run(c, plan_, handle, data_of(x), w, data_of(y)));
  return finish_output(c);
}

status cudnn_conv2d_backward_input(op_call *c) {
  const tensor *grad_y = c->in[0], *grad_x = c->out[0];
  const problem p = problem_of(c, BACKWARD_INPUT, grad_y->dtype, grad_y->dtype);
  plan *plan_;
  cudnnHandle_t handle;
  const void *w;
  TRY(prepare(&plan_, &handle, c, &p, grad_y, grad_x));
  TRY(weight_in(&w, c, c->in[1], grad_y->dtype));
  return cudnn_run(c, plan_, handle, data_of(grad_x), w, data_of(grad_y));
}

template <class T> static __global__ void add_gradient(float *grad_w, const T *more, int64_t n) { FOR_ITEMS(i, n) grad_w[i] += wide(more[i]); }

/* The gradient comes in f32 where an engine makes it so, else in the activations' dtype, and is added. */
status cudnn_conv2d_backward_weight(op_call *c) {
  const tensor *x = c->in[0], *grad_y = c->in[1], *grad_w = c->in[2];
  const int64_t n = numel(grad_w);
  problem p = problem_of(c, BACKWARD_WEIGHT, x->dtype, DLV3_F32);
  plan *plan_;
  cudnnHandle_t handle;
  storage *scratch;
  status st = prepare(&plan_, &handle, c, &p, x, grad_y);
  if (st == DLV3_DECLINED && x->dtype != DLV3_F32 && x->dtype != DLV3_F64) {
    p.weight_dtype = x->dtype;
    st = prepare(&plan_, &handle, c, &p, x, grad_y);
  }
  TRY(st);
  TRY(scratch_new(&scratch, c, n * dtype_bytes(p.weight_dtype)));
  st = cudnn_run(c, plan_, handle, data_of(x), scratch->data, data_of(grad_y));
  const cudaStream_t stream = stream_of(c);
  if (st == DLV3_OK) {
    switch (p.weight_dtype) {
    case DLV3_F32: LAUNCH(add_gradient<float>, blocks_for(n), BLOCK, stream, data_as<float>(grad_w), (const float *)scratch->data, n); break;
    case DLV3_BF16: LAUNCH(add_gradient<bf16>, blocks_for(n), BLOCK, stream, data_as<float>(grad_w), (const bf16 *)scratch->data, n); break;
    default: LAUNCH(add_gradient<f16>, blocks_for(n), BLOCK, stream, data_as<float>(grad_w), (const f16 *)scratch->data, n); break;
    }
    st = LAUNCHED(c);
  }
  storage_drop(scratch);
  return st == DLV3_OK && c->in[3] ? add_bias_gradient(c, c->in[3], grad_y) : st;
}

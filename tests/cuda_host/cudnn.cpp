/* cudnn.cpp - cuDNN's graph API on the host, for tests: descriptors that check how they are filled,
 * and a convolution in plain loops over any strides.
 *
 * It names five engines for every problem: the first is not deterministic and gives wrong results,
 * so that a test fails when it is taken; the second rounds f32 inputs to TF32 (those of other
 * dtypes stay); the third is exact; the fourth too, and faster by the clock that events show; the
 * fifth has a plan and does not run. For maps of 16 bits the second and third change places: there
 * the one on tensor cores is not the first that is right. All need a workspace, which they fill
 * with rubbish. */
#include <cudnn.h>

#include "host.h"

#include <memory>
#include <stdlib.h>
#include <string.h>
#include <vector>

struct cuda_host_cudnn {
  cudaStream_t stream;
};

/* What a finalised descriptor keeps: copies of descriptors that it was given are shared, since
 * those may be destroyed. */
struct content {
  cudnnBackendDescriptorType_t type;
  bool finished = false;
  int engine = 0;
  std::vector<char> value[CUDA_HOST_ATTRIBUTES];
  std::shared_ptr<content> child[CUDA_HOST_ATTRIBUTES];
  std::vector<std::shared_ptr<content>> operations; /* of a graph, in order */
};
struct cuda_host_descriptor {
  std::shared_ptr<content> c;
};

size_t cudnnGetVersion() { return 90000; }
const char *cudnnGetErrorString(cudnnStatus_t e) {
  return e == CUDNN_STATUS_BAD_PARAM ? "bad parameter" : e == CUDNN_STATUS_NOT_SUPPORTED ? "not supported" : "an error";
}
cudnnStatus_t cudnnCreate(cudnnHandle_t *h) { return *h = new cuda_host_cudnn{NULL}, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroy(cudnnHandle_t h) { return delete h, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t s) { return h->stream = s, CUDNN_STATUS_SUCCESS; }

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *d) {
  *d = new cuda_host_descriptor{std::make_shared<content>()};
  (*d)->c->type = type;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d) { return delete d, CUDNN_STATUS_SUCCESS; }

static size_t size_of(cudnnBackendAttributeType_t type) {
  switch (type) {
  case CUDNN_TYPE_HANDLE:
  case CUDNN_TYPE_INT64:
  case CUDNN_TYPE_VOID_PTR:
  case CUDNN_TYPE_BACKEND_DESCRIPTOR: return 8;
  case CUDNN_TYPE_BOOLEAN: return 1;
  default: return 4;
  }
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t n, const void *values) {
  if (d->c->finished || n < 1 || !values) return CUDNN_STATUS_BAD_PARAM;
  for (int64_t i = 0; i < n && type == CUDNN_TYPE_BACKEND_DESCRIPTOR; i++) {
    const cudnnBackendDescriptor_t child = ((const cudnnBackendDescriptor_t *)values)[i];
    if (!child || !child->c->finished) return CUDNN_STATUS_BAD_PARAM;
    if (name == CUDNN_ATTR_OPERATIONGRAPH_OPS) d->c->operations.push_back(child->c);
    d->c->child[name] = child->c;
  }
  d->c->value[name].assign((const char *)values, (const char *)values + n * size_of(type));
  return CUDNN_STATUS_SUCCESS;
}

static const int64_t *numbers(const content &c, cudnnBackendAttributeName_t name) {
  return (const int64_t *)c.value[name].data();
}

/* The attributes that a descriptor of each type must have. */
static std::vector<int> needed(cudnnBackendDescriptorType_t type) {
  switch (type) {
  case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
    return {CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_ATTR_TENSOR_STRIDES,
            CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT};
  case CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR:
    return {CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS,  CUDNN_ATTR_CONVOLUTION_COMP_TYPE,
            CUDNN_ATTR_CONVOLUTION_CONV_MODE,     CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS,
            CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_ATTR_CONVOLUTION_DILATIONS,
            CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES};
  case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
    return {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
            CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
            CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
  case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
    return {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA};
  case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
    return {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA};
  case CUDNN_BACKEND_POINTWISE_DESCRIPTOR: return {CUDNN_ATTR_POINTWISE_MODE, CUDNN_ATTR_POINTWISE_MATH_PREC};
  case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
    return {CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
            CUDNN_ATTR_OPERATION_POINTWISE_YDESC};
  case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
    return {CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_ATTR_OPERATIONGRAPH_HANDLE};
  case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR: return {CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_ATTR_ENGINEHEUR_MODE};
  case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
    return {CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_ATTR_EXECUTION_PLAN_HANDLE};
  case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
    return {CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS,
            CUDNN_ATTR_VARIANT_PACK_WORKSPACE};
  default: return {};
  }
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t d) {
  if (d->c->finished) return CUDNN_STATUS_BAD_PARAM;
  for (int name : needed(d->c->type))
    if (d->c->value[name].empty()) return CUDNN_STATUS_BAD_PARAM;
  d->c->finished = true;
  return CUDNN_STATUS_SUCCESS;
}

enum { WRONG, TF32, EXACT, FAST, REFUSING, ENGINES };
static const float engine_ms[ENGINES] = {1, 3, 4, 2, 0};
enum { FIRST_NUMBER = 40 }; /* of an engine, as cuDNN counts them */
static int64_t runs[ENGINES];

/* How often engine i ran, or was to. For tests. */
extern "C" __attribute__((visibility("default"))) int64_t cuda_host_cudnn_runs(int i) {
  return i >= 0 && i < ENGINES ? runs[i] : 0;
}

enum { WORKSPACE = 256 };

/* Where the first operand of an operation of type lies, as a part of it; three more follow. */
static int first_part(cudnnBackendDescriptorType_t type) {
  return type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR ? CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X
         : type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR
             ? CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX
             : CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X;
}
static bool in_16_bits(const content &graph) {
  const content &op = *graph.operations[0], &x = *op.child[first_part(op.type)];
  return *(const cudnnDataType_t *)x.value[CUDNN_ATTR_TENSOR_DATA_TYPE].data() != CUDNN_DATA_FLOAT;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t, int64_t most, int64_t *n, void *values) {
  content &c = *d->c;
  cudnnBackendDescriptor_t *children = (cudnnBackendDescriptor_t *)values;
  if (!c.finished) return CUDNN_STATUS_BAD_PARAM;
  switch (name) {
  case CUDNN_ATTR_ENGINEHEUR_RESULTS:
    *n = ENGINES;
    for (int i = 0; i < ENGINES && i < most; i++) {
      content &named = *children[i]->c;
      named.child[CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH] = c.child[CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH],
      named.finished = true;
      named.engine = in_16_bits(*c.child[CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH]) && (i == TF32 || i == EXACT)
                         ? TF32 + EXACT - i
                         : i;
    }
    return CUDNN_STATUS_SUCCESS;
  case CUDNN_ATTR_ENGINECFG_ENGINE:
    *n = 1, children[0]->c->engine = c.engine, children[0]->c->finished = true;
    return CUDNN_STATUS_SUCCESS;
  case CUDNN_ATTR_ENGINE_GLOBAL_INDEX:
    *n = 1, *(int64_t *)values = FIRST_NUMBER + c.engine;
    return CUDNN_STATUS_SUCCESS;
  case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
    *n = 1;
    *(cudnnBackendNumericalNote_t *)values = c.engine == WRONG  ? CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC
                                             : c.engine == TF32 ? CUDNN_NUMERICAL_NOTE_TENSOR_CORE
                                                                : CUDNN_NUMERICAL_NOTE_WINOGRAD;
    return CUDNN_STATUS_SUCCESS;
  case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE: *n = 1, *(int64_t *)values = WORKSPACE; return CUDNN_STATUS_SUCCESS;
  default: return CUDNN_STATUS_BAD_PARAM;
  }
}

/* -- The convolution --------------------------------------------------------------------------- */

struct view {
  cudnnDataType_t type;
  const int64_t *size, *stride;
  char *data;
  float get(int64_t at) const {
    if (type == CUDNN_DATA_FLOAT) return ((const float *)data)[at];
    if (type == CUDNN_DATA_HALF) return (float)((const _Float16 *)data)[at];
    const uint32_t bits = (uint32_t)((const uint16_t *)data)[at] << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
  }
  void put(int64_t at, float f) const {
    if (type == CUDNN_DATA_FLOAT)
      ((float *)data)[at] = f;
    else if (type == CUDNN_DATA_HALF)
      ((_Float16 *)data)[at] = (_Float16)f;
    else {
      uint32_t bits;
      memcpy(&bits, &f, 4);
      ((uint16_t *)data)[at] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
  }
};

static bool is_virtual(const content &tensor) {
  const std::vector<char> &v = tensor.value[CUDNN_ATTR_TENSOR_IS_VIRTUAL];
  return !v.empty() && v[0];
}

/* What lies between two operations has no memory. */
static bool view_of(view *v, const content &tensor, const content &pack) {
  const int64_t id = *numbers(tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID),
                *ids = numbers(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
  const size_t n = pack.value[CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS].size() / 8;
  v->type = *(const cudnnDataType_t *)tensor.value[CUDNN_ATTR_TENSOR_DATA_TYPE].data();
  v->size = numbers(tensor, CUDNN_ATTR_TENSOR_DIMENSIONS), v->stride = numbers(tensor, CUDNN_ATTR_TENSOR_STRIDES),
  v->data = NULL;
  if (is_virtual(tensor)) return v->type == CUDNN_DATA_FLOAT;
  for (size_t i = 0; i < n; i++)
    if (ids[i] == id) v->data = ((char *const *)pack.value[CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS].data())[i];
  return v->data && (uintptr_t)v->data % (uintptr_t)*numbers(tensor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT) == 0;
}

/* Calls f(position in x, in w, in y) for every product of the convolution, those of one result not
 * in a row. */
template <class F>
static void products(const view &x, const view &w, const view &y, const int64_t *stride, const int64_t *padding,
                     const int64_t *dilation, F f) {
  const int64_t groups = x.size[1] / w.size[1], kg = w.size[0] / groups;
  for (int64_t n = 0; n < y.size[0]; n++)
    for (int64_t oy = 0; oy < y.size[2]; oy++)
      for (int64_t ox = 0; ox < y.size[3]; ox++)
        for (int64_t r = 0; r < w.size[2]; r++)
          for (int64_t s = 0; s < w.size[3]; s++) {
            const int64_t iy = oy * stride[0] - padding[0] + r * dilation[0],
                          ix = ox * stride[1] - padding[1] + s * dilation[1];
            if (iy < 0 || iy >= x.size[2] || ix < 0 || ix >= x.size[3]) continue;
            for (int64_t k = 0; k < w.size[0]; k++) {
              const int64_t px =
                  n * x.stride[0] + k / kg * w.size[1] * x.stride[1] + iy * x.stride[2] + ix * x.stride[3];
              const int64_t pw = k * w.stride[0] + r * w.stride[2] + s * w.stride[3],
                            py = n * y.stride[0] + k * y.stride[1] + oy * y.stride[2] + ox * y.stride[3];
              for (int64_t c = 0; c < w.size[1]; c++) f(px + c * x.stride[1], pw + c * w.stride[1], py);
            }
          }
}

/* 10 bits of fraction, to nearest even. */
static float rounded_to_tf32(float v) {
  uint32_t bits;
  memcpy(&bits, &v, 4);
  bits = (bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu;
  memcpy(&v, &bits, 4);
  return v;
}

static std::vector<float> load(const view &v, bool tf32) {
  std::vector<float> out((size_t)(v.size[0] * v.size[1] * v.size[2] * v.size[3]));
  for (size_t i = 0; i < out.size(); i++) out[i] = tf32 ? rounded_to_tf32(v.get((int64_t)i)) : v.get((int64_t)i);
  return out;
}

/* The operations behind the convolution, on its sums: add a map or a value a channel, relu. Each
 * takes what the one before it gives; *out becomes what the last one writes. */
static bool finish(std::vector<double> &sum, view *out, const content &graph, const content *given,
                   const content &pack) {
  for (size_t i = 1; i < graph.operations.size(); i++) {
    const content &op = *graph.operations[i], &what = *op.child[CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR];
    const cudnnPointwiseMode_t mode = *(const cudnnPointwiseMode_t *)what.value[CUDNN_ATTR_POINTWISE_MODE].data();
    if (op.type != CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR
        || op.child[CUDNN_ATTR_OPERATION_POINTWISE_XDESC].get() != given || !is_virtual(*given))
      return false;
    view more;
    if (mode == CUDNN_POINTWISE_ADD
        && (!op.child[CUDNN_ATTR_OPERATION_POINTWISE_BDESC]
            || !view_of(&more, *op.child[CUDNN_ATTR_OPERATION_POINTWISE_BDESC], pack)))
      return false;
    const bool map = mode == CUDNN_POINTWISE_ADD && !memcmp(more.size, out->size, 4 * sizeof *more.size);
    for (size_t at = 0; at < sum.size(); at++) {
      if (mode == CUDNN_POINTWISE_ADD)
        sum[at] += (double)more.get(map ? (int64_t)at : (int64_t)at % out->size[1]);
      else
        sum[at] = sum[at] < 0 ? 0 : sum[at];
    }
    given = op.child[CUDNN_ATTR_OPERATION_POINTWISE_YDESC].get();
  }
  return view_of(out, *given, pack) && !is_virtual(*given);
}

static cudnnStatus_t execute(const content &plan, const content &pack) {
  const content &config = *plan.child[CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG],
                &graph = *config.child[CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH];
  const content &op = *graph.operations[0];
  runs[config.engine]++;
  if (config.engine == REFUSING) return CUDNN_STATUS_NOT_SUPPORTED;
  cuda_host_clock += engine_ms[config.engine];
  const bool forward = op.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
             by_input = op.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR;
  const int first = first_part(op.type);
  const content &convolution = *op.child[first + 3];
  view x, w, y;
  if (!view_of(&x, *op.child[first], pack) || !view_of(&w, *op.child[first + 1], pack)
      || !view_of(&y, *op.child[first + 2], pack))
    return CUDNN_STATUS_BAD_PARAM;
  char *workspace = *(char *const *)pack.value[CUDNN_ATTR_VARIANT_PACK_WORKSPACE].data();
  if (!workspace) return CUDNN_STATUS_BAD_PARAM;
  memset(workspace, 0x5a, WORKSPACE);
  const bool tf32 = config.engine == TF32 && x.type == CUDNN_DATA_FLOAT;
  view out = forward ? y : by_input ? x : w;
  const std::vector<float> a = load(forward ? x : y, tf32), b = load(by_input || forward ? w : x, tf32);
  std::vector<double> sum((size_t)(out.size[0] * out.size[1] * out.size[2] * out.size[3]),
                          config.engine == WRONG ? 1 : 0);
  const float beta = *(const float *)op.value[first + 5].data();
  for (size_t i = 0; beta != 0 && i < sum.size(); i++) sum[i] += (double)(beta * out.get((int64_t)i));
  const int64_t *stride = numbers(convolution, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES),
                *padding = numbers(convolution, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS);
  const int64_t *dilation = numbers(convolution, CUDNN_ATTR_CONVOLUTION_DILATIONS);
  if (forward)
    products(x, w, y, stride, padding, dilation, [&](int64_t px, int64_t pw, int64_t py) {
      sum[(size_t)py] += (double)a[(size_t)px] * (double)b[(size_t)pw];
    });
  else if (by_input)
    products(x, w, y, stride, padding, dilation, [&](int64_t px, int64_t pw, int64_t py) {
      sum[(size_t)px] += (double)a[(size_t)py] * (double)b[(size_t)pw];
    });
  else
    products(x, w, y, stride, padding, dilation, [&](int64_t px, int64_t pw, int64_t py) {
      sum[(size_t)pw] += (double)a[(size_t)py] * (double)b[(size_t)px];
    });
  if (!finish(sum, &out, graph, op.child[forward ? first + 2 : by_input ? first : first + 1].get(), pack))
    return CUDNN_STATUS_BAD_PARAM;
  for (size_t i = 0; i < sum.size(); i++) out.put((int64_t)i, (float)sum[i]);
  return CUDNN_STATUS_SUCCESS;
}

/* CUDA_HOST_CUDNN_WAITS: engines that wait for their work, which no graph can hold. */
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t h, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
  if (!h->stream || (getenv("CUDA_HOST_CUDNN_WAITS") && cudaStreamSynchronize(h->stream) != cudaSuccess))
    return CUDNN_STATUS_BAD_PARAM;
  const std::shared_ptr<content> p = plan->c, with = pack->c; /* descriptors may be destroyed meanwhile */
  const std::vector<char> &data = with->value[CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS];
  char *used[6] = {};
  if (data.size() > 5 * sizeof *used) return CUDNN_STATUS_BAD_PARAM;
  memcpy(used, data.data(), data.size());
  memcpy(used + 5, with->value[CUDNN_ATTR_VARIANT_PACK_WORKSPACE].data(), sizeof *used);
  cudnnStatus_t done = CUDNN_STATUS_SUCCESS, *said = h->stream->captured ? NULL : &done;
  const cudaError_t e = cuda_host_do(h->stream, used, sizeof used, [=] {
    const cudnnStatus_t was = execute(*p, *with);
    if (said) *said = was;
  });
  return e == cudaSuccess ? done : CUDNN_STATUS_BAD_PARAM;
}

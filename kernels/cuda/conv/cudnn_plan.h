/* cudnn_plan.h - what cudnn.cu (convolutions as cuDNN's graphs, and their runs) and cudnn_plan.cu
 * (which engine a run is by) share. */
#ifndef DLV3_CUDA_CUDNN_PLAN_H
#define DLV3_CUDA_CUDNN_PLAN_H

#include <cudnn.h>

#include "conv.h"

enum { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT };
enum { X, W, Y, BIAS, RESIDUAL, OPERANDS }; /* what a run reads and writes */

/* All that decides a plan; compared as bytes. */
typedef struct {
  conv v;
  int32_t pass, dtype, device, tf32; /* dtype: of all operands; tf32: the inputs may be rounded to it */
  int32_t bias, residual, relu;      /* forward: y = relu(sums + residual + bias) as far as these are set   */
  int32_t add;                       /* backward by input: to what is there                                 */
  int32_t benchmark;                 /* the engine is chosen by timing                                      */
} problem;

typedef struct plan {
  struct plan *next;
  problem of;
  cudnnBackendDescriptor_t descriptor; /* NULL: cuDNN has nothing for it                          */
  int64_t workspace, engine;           /* engine: cuDNN's number of it                            */
  bool starved;                        /* an engine was passed over for want of memory            */
  bool refused;                        /* it was made, and does not run                           */
  bool captured;                       /* a graph has kernels of it                               */
} plan;

/* The plan of a problem, made the first time. Its descriptor is NULL where there is none. */
status cudnn_plan_of(plan **out, const op_call *c, const problem *p, cudnnHandle_t handle);
/* Queues the convolution. The operands that the problem has not are NULL. Declines, and marks the
 * plan, where cuDNN does not run it. */
status cudnn_run(const op_call *c, plan *p, cudnnHandle_t handle, const void *const *operands);
/* Its part that cuDNN does, with memory for p->workspace. */
cudnnStatus_t cudnn_queue(plan *p, cudnnHandle_t handle, const void *const *operands, void *workspace);
bool stream_captured(cudaStream_t stream);

/* A graph and what it is made of. */
enum { MOST_PARTS = 20 };
typedef struct {
  cudnnBackendDescriptor_t graph, part[MOST_PARTS]; /* graph: NULL where cuDNN refuses it */
  int32_t n;
} graph_of;
void cudnn_graph_make(graph_of *g, const problem *p, cudnnHandle_t handle);
void cudnn_graph_drop(graph_of *g);
/* Whether the device's or the host's memory ran out. */
static inline bool short_of_memory(cudnnStatus_t e) {
  return e == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED
         || e == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
}

/* -- Descriptors ------------------------------------------------------------------------------- */

typedef cudnnBackendDescriptor_t descriptor;

/* A descriptor being filled: the first error stays. */
typedef struct {
  descriptor d;
  cudnnStatus_t e;
} builder;

static inline builder build(cudnnBackendDescriptorType_t type) {
  builder b = {NULL, CUDNN_STATUS_SUCCESS};
  b.e = cudnnBackendCreateDescriptor(type, &b.d);
  return b;
}
static inline void set(builder *b, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t n,
                       const void *values) {
  if (b->e == CUDNN_STATUS_SUCCESS) b->e = cudnnBackendSetAttribute(b->d, name, type, n, values);
}
/* A part that cuDNN refused is refused here too. */
static inline void set_part(builder *b, cudnnBackendAttributeName_t name, const descriptor *d) {
  if (!*d && b->e == CUDNN_STATUS_SUCCESS) b->e = CUDNN_STATUS_BAD_PARAM;
  set(b, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, d);
}
static inline void drop(descriptor d) {
  if (d) cudnnBackendDestroyDescriptor(d);
}
/* The finished descriptor, or NULL. */
static inline descriptor finish(builder *b) {
  if (b->e == CUDNN_STATUS_SUCCESS) b->e = cudnnBackendFinalize(b->d);
  if (b->e == CUDNN_STATUS_SUCCESS) return b->d;
  drop(b->d);
  return NULL;
}

#endif

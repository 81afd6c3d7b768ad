/* cudnn_plan.h - what cudnn.cu (convolutions as cuDNN's graphs, and their runs) and cudnn_plan.cu (which engine a run is by) share. */
#ifndef DLV3_CUDA_CUDNN_PLAN_H
#define DLV3_CUDA_CUDNN_PLAN_H

#include <cudnn.h>

#include "conv.h"

enum { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT };

/* All that decides a plan; compared as bytes. */
typedef struct {
  conv v;
  int32_t pass, dtype, weight_dtype, device, tf32; /* tf32: the inputs may be rounded to it              */
  int32_t benchmark;                               /* the engine is chosen by timing                     */
} problem;

typedef struct plan {
  struct plan *next;
  problem of;
  cudnnBackendDescriptor_t descriptor; /* NULL: cuDNN has nothing for it                          */
  int64_t workspace;
} plan;

/* The plan of a problem, made the first time. Its descriptor is NULL where there is none. */
status cudnn_plan_of(plan **out, const op_call *c, const problem *p, cudnnHandle_t handle);
/* Queues the convolution; what it writes is among x, w, y too. */
status cudnn_run(const op_call *c, const plan *p, cudnnHandle_t handle, const void *x, const void *w, const void *y);
/* The graph of one convolution; NULL where cuDNN refuses it. */
cudnnBackendDescriptor_t cudnn_graph_of(const problem *p, cudnnHandle_t handle);

/* -- Descriptors ------------------------------------------------------------------------------------------- */

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
static inline void set(builder *b, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t n, const void *values) {
  if (b->e == CUDNN_STATUS_SUCCESS) b->e = cudnnBackendSetAttribute(b->d, name, type, n, values);
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

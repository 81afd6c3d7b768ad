/* collective.cu - collectives on GPUs: by NCCL, or through host memory and MPI where NCCL is not available.
 *
 * NCCL is opened on first use, like cuBLASLt. Rank 0 makes an id, MPI carries it to the others.
 * Each device has two communicators: one on the device's stream, and one on a stream of its own for
 * asynchronous sums. At the start of a sum that stream waits, by an event, for what the device's stream
 * was given before; finish makes the device's stream wait for it. The host waits for none of this, so
 * that all of it can be captured in a graph. Without NCCL (or without its header at build time) data
 * goes through host memory and MPI, which can not be captured. */
#include "cuda/support/common.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "collectives/world.h"
#include "cuda/support/vendor.h"

/* -- Through host memory ------------------------------------------------------------------------ */

/* A synchronous copy between host and device. */
static status copy(const op_call *c, void *dst, const void *src, int64_t bytes, cudaMemcpyKind kind) {
  const cudaStream_t stream = stream_of(c);
  CHECK(cudaMemcpyAsync(dst, src, (size_t)bytes, kind, stream), c->info->name);
  CHECK(cudaStreamSynchronize(stream), c->info->name);
  return DLV3_OK;
}

/* Copies x to the host, calls fn on the copy, and copies the result into y. */
template <class F> static status on_host(op_call *c, const tensor *x, const tensor *y, F fn) {
  const int64_t bytes = tensor_bytes(y);
  char *host = (char *)malloc((size_t)bytes + 1);
  if (!host) return fail_call(c, DLV3_ERR_OOM, "out of memory on the host: %lld bytes", (long long)bytes);
  status st = copy(c, host, data_of(x), tensor_bytes(x), cudaMemcpyDeviceToHost);
  if (st == DLV3_OK) st = fn(host);
  if (st == DLV3_OK) st = copy(c, data_of(y), host, bytes, cudaMemcpyHostToDevice);
  free(host);
  return st;
}

static status host_sum(op_call *c) {
  const tensor *x = c->in[0];
  return on_host(c, x, x, [=](char *host) { return world_sum(host, numel(x), x->dtype); });
}

static status host_gather(op_call *c) {
  const tensor *x = c->in[0];
  const int64_t bytes = tensor_bytes(x);
  char *own = (char *)malloc((size_t)bytes + 1);
  if (!own) return fail_call(c, DLV3_ERR_OOM, "out of memory on the host: %lld bytes", (long long)bytes);
  status st = on_host(c, x, c->out[0], [=](char *host) {
    memcpy(own, host, (size_t)bytes);
    return world_gather(own, host, bytes);
  });
  free(own);
  return st;
}

static status host_broadcast(op_call *c) {
  const broadcast__attr *a = (const broadcast__attr *)c->attr;
  const tensor *x = c->in[0];
  return on_host(c, x, x, [=](char *host) { return world_broadcast(host, tensor_bytes(x), (int32_t)a->root); });
}

static status host_nothing(op_call *c) {
  (void)c;
  return DLV3_OK;
}
static status host_barrier(op_call *c) {
  CHECK(cudaStreamSynchronize(stream_of(c)), c->info->name);
  return world_barrier();
}

/* -- NCCL --------------------------------------------------------------------------------------- */

#if __has_include(<nccl.h>)
#include <nccl.h>

#define FUNCTIONS(F) F(GetErrorString) F(GetUniqueId) F(CommInitRank) F(AllReduce) F(AllGather) F(Broadcast)

static struct {
#define F(name) decltype(&nccl##name) name;
  FUNCTIONS(F)
#undef F
} nccl;

enum { IN_ORDER, ASYNCHRONOUS, COMMUNICATORS };

typedef struct {
  bool open;
  ncclComm_t comm[COMMUNICATORS];
  cudaStream_t own_stream;
  cudaEvent_t given, summed; /* what a sum waits for; what finish waits for */
} device_comms;
static device_comms comms[MOST_DEVICES];

static bool open_library() {
  static bool tried, found;
  if (tried) return found;
  tried = true;
  void *library = switched("DLV3_NCCL", true) ? LIBRARY("libnccl.so.2") : NULL;
  found = library != NULL;
#define F(name) found = found && (nccl.name = FUNCTION_OF(library, nccl##name)) != NULL;
  FUNCTIONS(F)
#undef F
  return found;
}

static status nccl_status(const op_call *c, ncclResult_t e) {
  if (e == ncclSuccess) return DLV3_OK;
  return fail_call(c, DLV3_ERR_DEVICE, "nccl: %s (NCCL_DEBUG=WARN shows more; DLV3_NCCL=0 uses MPI instead)",
                   nccl.GetErrorString(e));
}

static status join(const op_call *c, ncclComm_t *comm) {
  ncclUniqueId id;
  memset(&id, 0, sizeof id);
  if (world_rank() == 0) TRY(nccl_status(c, nccl.GetUniqueId(&id)));
  TRY(world_broadcast(&id, sizeof id, 0));
  return nccl_status(c, nccl.CommInitRank(comm, world_size(), id, world_rank()));
}

/* The communicators of the device that c runs on, made on first use: by all ranks at the same op. */
static status open_comms(const op_call *c, device_comms **out) {
  device_comms *d = &comms[device_tensor(c)->st->device];
  *out = d;
  if (d->open) return DLV3_OK;
  if (!open_library()) return declined("libnccl.so.2 was not found");
  for (int i = 0; i < COMMUNICATORS; i++) TRY(join(c, &d->comm[i]));
  CHECK(cudaStreamCreateWithFlags(&d->own_stream, cudaStreamNonBlocking), c->info->name);
  CHECK(cudaEventCreateWithFlags(&d->given, cudaEventDisableTiming), c->info->name);
  CHECK(cudaEventCreateWithFlags(&d->summed, cudaEventDisableTiming), c->info->name);
  d->open = true;
  return DLV3_OK;
}

static ncclDataType_t type_of(int32_t dtype) {
  switch (dtype) {
  case DLV3_U8: return ncclUint8;
  case DLV3_I32: return ncclInt32;
  case DLV3_I64: return ncclInt64;
  case DLV3_F16: return ncclFloat16;
  case DLV3_BF16: return ncclBfloat16;
  case DLV3_F32: return ncclFloat32;
  default: return ncclFloat64;
  }
}

static status sum_on(op_call *c, ncclComm_t comm, cudaStream_t stream) {
  const tensor *x = c->in[0];
  return nccl_status(
      c, nccl.AllReduce(data_of(x), data_of(x), (size_t)numel(x), type_of(x->dtype), ncclSum, comm, stream));
}

static status nccl_sum(op_call *c) {
  device_comms *d;
  TRY(open_comms(c, &d));
  return sum_on(c, d->comm[IN_ORDER], stream_of(c));
}

/* One stream waits for what another has been given so far. */
static status wait_for(op_call *c, cudaStream_t waiting, cudaEvent_t event, cudaStream_t other) {
  CHECK(cudaEventRecord(event, other), c->info->name);
  CHECK(cudaStreamWaitEvent(waiting, event, 0), c->info->name);
  return DLV3_OK;
}

static status nccl_sum_start(op_call *c) {
  device_comms *d;
  TRY(open_comms(c, &d));
  TRY(wait_for(c, d->own_stream, d->given, stream_of(c)));
  return sum_on(c, d->comm[ASYNCHRONOUS], d->own_stream);
}

static status nccl_sum_finish(op_call *c) {
  device_comms *d;
  TRY(open_comms(c, &d));
  return wait_for(c, stream_of(c), d->summed, d->own_stream);
}

static status nccl_gather(op_call *c) {
  device_comms *d;
  TRY(open_comms(c, &d));
  const tensor *x = c->in[0];
  return nccl_status(c, nccl.AllGather(data_of(x), data_of(c->out[0]), (size_t)tensor_bytes(x), ncclUint8,
                                       d->comm[IN_ORDER], stream_of(c)));
}

static status nccl_broadcast(op_call *c) {
  const broadcast__attr *a = (const broadcast__attr *)c->attr;
  device_comms *d;
  TRY(open_comms(c, &d));
  const tensor *x = c->in[0];
  return nccl_status(c, nccl.Broadcast(data_of(x), data_of(x), (size_t)tensor_bytes(x), ncclUint8, (int)a->root,
                                       d->comm[IN_ORDER], stream_of(c)));
}
#define NCCL(fn) {"nccl", fn},
#else
#define NCCL(fn)
#endif

CUDA_IMPLS(all_reduce_, NCCL(nccl_sum){"mpi", host_sum});
CUDA_IMPLS(all_reduce_start_, NCCL(nccl_sum_start){"mpi", host_sum});
CUDA_IMPLS(all_reduce_finish_, NCCL(nccl_sum_finish){"mpi", host_nothing});
CUDA_IMPLS(all_gather, NCCL(nccl_gather){"mpi", host_gather});
CUDA_IMPLS(broadcast_, NCCL(nccl_broadcast){"mpi", host_broadcast});
CUDA_IMPLS(barrier, {"mpi", host_barrier});

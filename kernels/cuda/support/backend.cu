/* backend.cu - the cuda backend: devices, memory, copies, faults, the table of kernel lists, the
 * way into the runtime.
 *
 * Each device has one stream for all its work. So memory that is given back may be handed out again
 * at once, and nothing waits but copies to the host and whoever asks to. Errors of kernels come out
 * at the next call or wait. */
#include "common.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "collectives/world.h"
#include "vendor.h"

static const runtime_api *host;

/* -- The runtime's functions that kernels call, on this side of the library -------------------- */

extern "C" {

status fail(status code, const char *format, ...) {
  char text[1600];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  return host->fail(code, "%s", text);
}

status fail_call(const op_call *c, status code, const char *format, ...) {
  char text[600];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  return host->fail_call(c, code, "%s", text);
}

status declined(const char *why) { return host->declined(why); }
status storage_new(storage **out, int64_t bytes, int32_t device) { return host->storage_new(out, bytes, device); }
void storage_drop(storage *s) { host->storage_drop(s); }
bool tf32_allowed(void) { return host->tf32_allowed(); }
void ran_by(int64_t number) { host->ran_by(number); }
int32_t world_rank(void) { return host->world->rank(); }
int32_t world_size(void) { return host->world->size(); }
status world_sum(void *x, int64_t n, int32_t dtype) { return host->world->sum(x, n, dtype); }
status world_gather(const void *x, void *all, int64_t bytes) { return host->world->gather(x, all, bytes); }
status world_broadcast(void *x, int64_t bytes, int32_t root) { return host->world->broadcast(x, bytes, root); }
status world_barrier(void) { return host->world->barrier(); }
bool cudnn_benchmark(void) { return host->cudnn_benchmark(); }
bool tuning_find(char *value, size_t n, const char *file, const char *key) {
  return host->tuning_find(value, n, file, key);
}
void tuning_keep(const char *file, const char *key, const char *value) { host->tuning_keep(file, key, value); }

int32_t dtype_bytes(int32_t dtype) {
  static const int32_t bytes[DLV3_DTYPES] = {1, 1, 4, 8, 2, 2, 4, 8};
  return bytes[dtype];
}

bool is_dense(const tensor *t) {
  static const int32_t channels_last[4] = {1, 3, 2, 0}; /* fastest first */
  int64_t step = 1;
  for (int32_t k = 0; k < t->ndim; k++) {
    const int32_t axis = t->ndim == 4 ? channels_last[k] : t->ndim - 1 - k;
    if (t->size[axis] > 1 && t->stride[axis] != step) return false;
    step *= t->size[axis] > 0 ? t->size[axis] : 1;
  }
  return true;
}

} /* extern "C" */

/* -- Devices ----------------------------------------------------------------------------------- */

enum { STAGES = 32 };

/* Pinned memory of the host that a copy to the device starts from; free again once its event has
 * passed. */
typedef struct {
  char *data;
  int64_t bytes;
  cudaEvent_t passed;
} stage;

/* A number on its way to the host. Those that nobody waits for are kept for the next. */
typedef struct late_read {
  double *data; /* pinned */
  cudaEvent_t there;
  struct late_read *next;
} late_read;

typedef struct {
  bool open, capturing;
  cudaStream_t stream;
  fault_slot faults;
  stage stages[STAGES];
  late_read *reads;
  int64_t memory;
} device_state;

static device_state devices[MOST_DEVICES];
static int32_t current = -1;

status cuda_failed(cudaError_t e, const char *what) {
  /* reported now: the next launch is not to report it again (a fault of a kernel stays all the same) */
  cudaGetLastError();
  const bool memory = e == cudaErrorMemoryAllocation;
  return fail(memory ? DLV3_ERR_OOM : DLV3_ERR_DEVICE, "cuda: %s: %s (%s, %d)", what, cudaGetErrorString(e),
              cudaGetErrorName(e), (int)e);
}

static status make_current(int32_t device) {
  if (current == device) return DLV3_OK;
  CHECK(cudaSetDevice(device - 1), "the device can not be used");
  current = device;
  return DLV3_OK;
}

/* The device with its stream and what belongs to it, made on first use. What was made before
 * something failed is kept for the next try. */
static status open_device(device_state **out, int32_t device) {
  device_state *d = &devices[device];
  TRY(make_current(device));
  *out = d;
  if (d->open) return DLV3_OK;
  fault_slot *f = &d->faults;
  if (!d->stream) CHECK(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking), "no stream");
  if (!f->shared)
    CHECK(cudaHostAlloc((void **)&f->shared, sizeof *f->shared, cudaHostAllocDefault), "no pinned memory");
  if (!f->taken) CHECK(cudaMalloc((void **)&f->taken, sizeof *f->taken), "no memory");
  CHECK(cudaMemsetAsync(d->faults.taken, 0, sizeof *d->faults.taken, d->stream), "no memory");
  memset(d->faults.shared, 0, sizeof *d->faults.shared);
  d->open = true;
  return DLV3_OK;
}

/* The device was opened when its tensors were allocated. Where it can not be made the current one any
 * more its stream belongs to another device, and the launch fails: it does not go to the default
 * stream, beside the work of the others. */
cudaStream_t stream_on(int32_t device) {
  device_state *d = &devices[device];
  const status st = open_device(&d, device);
  (void)st;
  return d->stream;
}
cudaStream_t stream_of(const op_call *c) { return stream_on(device_tensor(c)->st->device); }
fault_slot faults_of(const op_call *c) { return devices[device_tensor(c)->st->device].faults; }

status scratch_new(storage **out, const op_call *c, int64_t bytes) {
  return storage_new(out, bytes, device_tensor(c)->st->device);
}

/* What a kernel did while it ran (an illegal address, 700, or an assertion, 710, to a launch
 * failure, 719): it stays, and comes out of whatever is called next. */
static bool is_crash(cudaError_t e) { return (int)e == 700 || ((int)e >= 710 && (int)e < 720); }

status launched(const op_call *c) {
  cudaError_t e = cudaGetLastError();
  if (e == cudaSuccess) return DLV3_OK;
  return fail_call(
      c, e == cudaErrorMemoryAllocation ? DLV3_ERR_OOM : DLV3_ERR_DEVICE, "cuda: %s: %s (%s, %d)",
      is_crash(e) ? "an earlier kernel failed (DLV3_SYNC=1 finds out which), and the process has to be started anew"
                  : "the kernel was not started",
      cudaGetErrorString(e), cudaGetErrorName(e), (int)e);
}

static status cuda_probe(int32_t *n) {
  int count = 0;
  cudaError_t e = cudaGetDeviceCount(&count);
  *n = 0;
  if (e == cudaErrorInsufficientDriver) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    if (!driver) return fail(DLV3_ERR_DEVICE, "there is no NVIDIA driver (libcuda.so.1) on this machine");
    return fail(DLV3_ERR_DEVICE,
                "the NVIDIA driver is for CUDA %d.%d and too old for CUDA %d.%d, which dlv3 was built with",
                driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  }
  if (e == cudaErrorNoDevice || (e == cudaSuccess && !count))
    return fail(DLV3_ERR_DEVICE, "the driver finds no NVIDIA GPU (is CUDA_VISIBLE_DEVICES set?)");
  if (e != cudaSuccess) return cuda_failed(e, "the devices can not be counted");
  return *n = count < (int)MOST_DEVICES ? count : (int)MOST_DEVICES - 1, DLV3_OK;
}

static int64_t cuda_memory(int32_t device) {
  size_t free_bytes = 0, total = 0;
  device_state *d = &devices[device];
  if (!d->memory && make_current(device) == DLV3_OK && cudaMemGetInfo(&free_bytes, &total) == cudaSuccess)
    d->memory = (int64_t)total;
  return d->memory ? d->memory : (int64_t)1 << 30;
}

static const char *cuda_describe(int32_t device) {
  static char text[400];
  cudaDeviceProp p;
  if (cudaGetDeviceProperties(&p, device - 1) != cudaSuccess) return "?";
  snprintf(text, sizeof text, "%s, sm_%d%d, %.1f GiB", p.name, p.major, p.minor, (double)p.totalGlobalMem / (1 << 30));
  return text;
}

/* -- Faults ------------------------------------------------------------------------------------ */

extern "C" const char *const cuda_op_names[] = {
#define OP(name, signature, attrs, flags, doc) #name,
#include "ops.def"
#undef OP
};

static status cuda_check(int32_t device) {
  const device_state *d = &devices[device];
  volatile fault *shared = d->faults.shared;
  if (!shared || shared->kind == FAULT_NONE) return DLV3_OK;
  __atomic_thread_fence(__ATOMIC_ACQUIRE); /* the kind is written last */
  const fault f = *d->faults.shared;
  shared->kind = FAULT_NONE;
  TRY(make_current(device));
  CHECK(cudaMemsetAsync(d->faults.taken, 0, sizeof *d->faults.taken, d->stream), "memory");
  const char *op = f.op >= 0 && f.op < OP_COUNT ? cuda_op_names[f.op] : "?",
             *when = "(found while it ran on the device, reported now)";
  if (f.kind == FAULT_INDEX)
    return fail(DLV3_ERR_ARG, "%s: index holds %lld, the axis has the positions 0 to %lld %s", op, (long long)f.value,
                (long long)f.limit - 1, when);
  if (f.kind == FAULT_CLASS)
    return fail(DLV3_ERR_ARG, "%s: pred has the class %lld at element %lld, hist has the classes 0 to %lld %s", op,
                (long long)f.value, (long long)f.x, (long long)f.limit - 1, when);
  char where[80];
  if (f.y)
    snprintf(where, sizeof where, "n %lld, y %lld, x %lld", (long long)f.n, (long long)f.y, (long long)f.x);
  else
    snprintf(where, sizeof where, "n %lld", (long long)f.n);
  return fail(DLV3_ERR_ARG,
              "%s: target has the label %lld at %s (counted from 1); labels must be 0 to %lld, or %lld for pixels that "
              "do not count %s",
              op, (long long)f.value, where, (long long)f.limit - 1, (long long)f.other, when);
}

/* -- Memory ------------------------------------------------------------------------------------ */

static status cuda_alloc(void **out, int64_t bytes, int32_t device) {
  device_state *d;
  TRY(open_device(&d, device));
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed; /* a capture takes no notice of it */
  if (d->capturing) CHECK(cudaThreadExchangeStreamCaptureMode(&mode), "memory");
  cudaError_t e = cudaMalloc(out, (size_t)bytes);
  if (d->capturing) CHECK(cudaThreadExchangeStreamCaptureMode(&mode), "memory");
  if (e == cudaSuccess) return DLV3_OK;
  cudaGetLastError(); /* it does not stay */
  if (e != cudaErrorMemoryAllocation) return cuda_failed(e, "memory");
  return fail(DLV3_ERR_OOM, "out of memory on cuda:%d: %.1f MiB asked for", (int)device - 1, (double)bytes / 1048576);
}

static void cuda_free(void *p, int64_t bytes, int32_t device) {
  (void)bytes;
  if (make_current(device) == DLV3_OK) cudaFree(p); /* waits for the work that uses it */
}

static status cuda_sync(int32_t device) {
  if (!devices[device].open) return DLV3_OK;
  if (devices[device].capturing)
    return fail(DLV3_ERR_DEVICE, "cuda: the device is waited for, which a graph can not do");
  TRY(make_current(device));
  CHECK(cudaStreamSynchronize(devices[device].stream), "an earlier kernel failed (DLV3_SYNC=1 finds out which)");
  return cuda_check(device);
}

/* A stage of n bytes: a free one that is large enough and not four times too large, a new one, or
 * (when all are taken) the smallest, waited for and made anew. Sizes are powers of two, so that few
 * are needed. */
static status stage_of(stage **out, device_state *d, int64_t n) {
  stage *s = NULL, *smallest = d->stages;
  int64_t bytes = 64 << 10;
  while (bytes < n) bytes *= 2;
  for (int32_t i = 0; i < STAGES; i++) {
    stage *at = &d->stages[i];
    if (!at->data) {
      if (!s) s = at;
      continue;
    }
    if (at->bytes < smallest->bytes) smallest = at;
    if (at->bytes < n || at->bytes / 4 > bytes) continue;
    if (cudaEventQuery(at->passed) == cudaSuccess) return *out = at, DLV3_OK;
    cudaGetLastError(); /* "not ready" would stay, and be taken for the next launch's error */
  }
  if (!s) {
    s = smallest;
    CHECK(cudaEventSynchronize(s->passed), "a copy to the device");
    cudaFreeHost(s->data);
    s->data = NULL;
  }
  if (!s->passed) CHECK(cudaEventCreateWithFlags(&s->passed, cudaEventDisableTiming), "no event");
  CHECK(cudaHostAlloc((void **)&s->data, (size_t)bytes, cudaHostAllocDefault), "no pinned memory");
  return s->bytes = bytes, *out = s, DLV3_OK;
}

/* From the host by way of pinned memory: the copy runs while the host goes on, and the source may
 * change at once. */
static status upload(device_state *d, char *dst, const char *src, int64_t bytes) {
  const int64_t PIECE = 64 << 20;
  for (int64_t done = 0; done < bytes; done += PIECE) {
    const int64_t n = bytes - done < PIECE ? bytes - done : PIECE;
    stage *s = NULL;
    TRY(stage_of(&s, d, n));
    memcpy(s->data, src + done, (size_t)n);
    CHECK(cudaMemcpyAsync(dst + done, s->data, (size_t)n, cudaMemcpyHostToDevice, d->stream), "a copy to the device");
    CHECK(cudaEventRecord(s->passed, d->stream), "a copy to the device");
  }
  return DLV3_OK;
}

/* Between devices: the one that reads has to wait for the one that wrote, and keep it from writing
 * on. */
static status copy_across(device_state *to, char *dst, const char *src, int64_t bytes, int32_t dst_device,
                          int32_t src_device) {
  TRY(cuda_sync(src_device));
  TRY(make_current(dst_device));
  CHECK(cudaMemcpyPeerAsync(dst, dst_device - 1, src, src_device - 1, (size_t)bytes, to->stream),
        "a copy between devices");
  return cuda_sync(dst_device);
}

static status cuda_copy(void *dst, const void *src, int64_t bytes, int32_t dst_device, int32_t src_device) {
  device_state *d;
  TRY(open_device(&d, dst_device ? dst_device : src_device));
  if (d->capturing && (!src_device || dst_device != src_device))
    return fail(DLV3_ERR_DEVICE, "cuda: a copy from or to the host, or another device, can not be part of a graph");
  if (!src_device) return upload(d, (char *)dst, (const char *)src, bytes);
  if (dst_device && dst_device != src_device)
    return copy_across(d, (char *)dst, (const char *)src, bytes, dst_device, src_device);
  CHECK(cudaMemcpyAsync(dst, src, (size_t)bytes, dst_device ? cudaMemcpyDeviceToDevice : cudaMemcpyDeviceToHost,
                        d->stream),
        "a copy to the host");
  return dst_device ? DLV3_OK : cuda_sync(src_device);
}

/* An idle read, or a new one. */
static status read_of(late_read **out, device_state *d) {
  late_read *r = d->reads;
  if (r) return d->reads = r->next, *out = r, DLV3_OK;
  r = (late_read *)calloc(1, sizeof *r);
  cudaError_t e = r ? cudaEventCreateWithFlags(&r->there, cudaEventDisableTiming) : cudaErrorMemoryAllocation;
  if (e == cudaSuccess) e = cudaHostAlloc((void **)&r->data, sizeof *r->data, cudaHostAllocDefault);
  if (e == cudaSuccess) return *out = r, DLV3_OK;
  if (r && r->there) cudaEventDestroy(r->there);
  free(r);
  return cuda_failed(e, "no pinned memory");
}

static status cuda_read_begin(void **out, const void *src, int64_t bytes, int32_t device) {
  device_state *d;
  late_read *r;
  TRY(open_device(&d, device));
  if (d->capturing) return fail(DLV3_ERR_DEVICE, "cuda: a copy to the host can not be part of a graph");
  TRY(read_of(&r, d));
  cudaError_t e = cudaMemcpyAsync(r->data, src, (size_t)bytes, cudaMemcpyDeviceToHost, d->stream);
  if (e == cudaSuccess) e = cudaEventRecord(r->there, d->stream);
  if (e == cudaSuccess) return *out = r, DLV3_OK;
  r->next = d->reads, d->reads = r;
  return cuda_failed(e, "a copy to the host");
}

static status cuda_read_end(void *read, void *dst, int64_t bytes, int32_t device) {
  device_state *d = &devices[device];
  late_read *r = (late_read *)read;
  if (!dst)
    return r->next = d->reads, d->reads = r, DLV3_OK; /* what reads next with it comes behind it on the stream */
  TRY(make_current(device));
  const cudaError_t e = cudaEventSynchronize(r->there);
  memcpy(dst, r->data, (size_t)bytes);
  r->next = d->reads, d->reads = r;
  if (e != cudaSuccess) return cuda_failed(e, "an earlier kernel failed (DLV3_SYNC=1 finds out which)");
  return cuda_check(device);
}

/* -- Graphs ------------------------------------------------------------------------------------ */

/* Thread-local mode: a call of this thread that could not be part of a graph (a wait, memory by
 * another way than cuda_alloc's) ends the capture with an error, so that no graph lacks something;
 * other threads' calls do no harm. */
static status cuda_graph_begin(int32_t device) {
  device_state *d;
  TRY(open_device(&d, device));
  CHECK(cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal), "no graph");
  return d->capturing = true, DLV3_OK;
}

static status cuda_graph_end(int32_t device, void **out) {
  device_state *d = &devices[device];
  cudaGraph_t graph = NULL;
  cudaGraphExec_t executable = NULL;
  TRY(make_current(device));
  d->capturing = false;
  cudaError_t e = cudaStreamEndCapture(d->stream, &graph);
  if (e == cudaSuccess && out) e = cudaGraphInstantiateWithFlags(&executable, graph, 0);
  if (graph) cudaGraphDestroy(graph);
  cudaGetLastError(); /* it does not stay */
  if (e != cudaSuccess) return cuda_failed(e, "no graph");
  if (out) *out = executable;
  return DLV3_OK;
}

static status cuda_graph_launch(int32_t device, void *graph) {
  TRY(make_current(device));
  CHECK(cudaGraphLaunch((cudaGraphExec_t)graph, devices[device].stream), "the graph was not started");
  return DLV3_OK;
}

static void cuda_graph_free(int32_t device, void *graph) {
  if (make_current(device) != DLV3_OK) return;
  cudaStreamSynchronize(devices[device].stream); /* it may be running */
  cudaGraphExecDestroy((cudaGraphExec_t)graph);
}

/* -- The table --------------------------------------------------------------------------------- */

static const impl *const kernels[] = {
#define OP(name, signature, attrs, flags, doc) cuda_##name##_impls,
#include "ops.def"
#undef OP
};
static_assert(sizeof kernels / sizeof *kernels == OP_COUNT, "one list an op");

static char libraries[160];
static backend table = {"cuda",           cuda_alloc,     cuda_free,         cuda_copy,       cuda_sync,
                        kernels,          cuda_probe,     cuda_check,        cuda_read_begin, cuda_read_end,
                        cuda_memory,      cuda_describe,  libraries,         nvrtc_find,      nvrtc_run,
                        cuda_graph_begin, cuda_graph_end, cuda_graph_launch, cuda_graph_free};

#define EXPORTED extern "C" __attribute__((visibility("default")))
EXPORTED const char dlv3_contract[sizeof DLV3_BACKEND_CONTRACT];
const char dlv3_contract[] = DLV3_BACKEND_CONTRACT;

EXPORTED const backend *dlv3_backend_open(const runtime_api *api) {
  int runtime = 0;
  host = api;
  cudaRuntimeGetVersion(&runtime);
  int used = snprintf(libraries, sizeof libraries, "cudart %d.%d", runtime / 1000, runtime % 1000 / 10);
  cudnn_version(libraries + used, sizeof libraries - (size_t)used);
  used = (int)strlen(libraries);
  cublaslt_version(libraries + used, sizeof libraries - (size_t)used);
  return &table;
}

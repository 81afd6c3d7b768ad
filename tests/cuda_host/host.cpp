/* host.cpp - the CUDA runtime on the host, for tests: threads of a block as fibers, and the calls
 * that the backend makes.
 *
 * A worker fiber runs the threads of a block one after the other as plain calls. When one has to
 * wait at a barrier its worker stays behind with it, and another worker takes the threads that have
 * not run yet: a kernel without barriers needs a single fiber. A barrier that some thread of the
 * block never reaches is a launch failure, as racecheck would say. Some launches run their blocks
 * and threads backwards: a kernel that lacks a barrier gives another result there.
 *
 * It plays two devices. Device memory is handed out at exactly the size asked for, between red
 * zones that are checked when it is freed, and is filled with rubbish, so that what hardware would
 * silently allow is seen here. */
#include "host.h"

#ifndef DLV3_SANITIZE
#include <setjmp.h>
#else
#include <sanitizer/common_interface_defs.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

dim3 threadIdx, blockIdx, blockDim, gridDim;

cudaError_t last_error = cudaSuccess;
static int device_now;

/* -- Fibers ------------------------------------------------------------------------------------ */

enum { MOST_THREADS = 1024, STACK = 128 << 10 };

/* Switching: by setjmp, which makes no system call; under a sanitizer, which has to be told, by
 * swapcontext. */
#ifndef DLV3_SANITIZE
typedef jmp_buf place;
#else
typedef ucontext_t place;
#endif

enum { READY, AT_BLOCK, AT_WARP }; /* what a fiber waits for                                  */
typedef struct {
  ucontext_t start;
  place at;
  char *stack;
  bool started;
  int waits;
  unsigned thread; /* the one it is running                                   */
} fiber;

static fiber fibers[MOST_THREADS];
static place scheduler;
static int running;
static unsigned next_thread, n_threads, n_waiting, n_done, vote, vote_result;
static unsigned at_warp[MOST_THREADS / 32]; /* threads of each warp that wait for the others */
static bool backwards;
static void (*block_body)(void *);
static void *block_context;

unsigned cuda_host_thread() { return fibers[running].thread; }
bool cuda_host_backwards() { return backwards; }
static dim3 thread_of(unsigned i) {
  return dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
}

#ifndef DLV3_SANITIZE
static void to_scheduler() {
  if (!_setjmp(fibers[running].at)) _longjmp(scheduler, 1);
}
#else
static const void *scheduler_stack;
static size_t scheduler_size;
static void arrived(void *fake) { __sanitizer_finish_switch_fiber(fake, &scheduler_stack, &scheduler_size); }
static void to_scheduler() {
  void *fake = NULL;
  const int self = running;
  __sanitizer_start_switch_fiber(&fake, scheduler_stack, scheduler_size);
  swapcontext(&fibers[self].at, &scheduler);
  arrived(fake);
}
#endif

static void worker() {
#ifdef DLV3_SANITIZE
  arrived(NULL);
#endif
  for (;;) {
    while (next_thread < n_threads) {
      fibers[running].thread = backwards ? n_threads - 1 - next_thread : next_thread;
      next_thread++;
      threadIdx = thread_of(fibers[running].thread);
      block_body(block_context);
      n_done++;
    }
    to_scheduler();
  }
}

/* Goes on with fiber i until it waits or has nothing to do. */
static void resume(int i) {
  fiber *f = &fibers[i];
  const bool started = f->started;
  f->waits = READY, running = i;
  if (!started) {
    f->started = true;
    if (!f->stack) f->stack = (char *)malloc(STACK);
    getcontext(&f->start);
    f->start.uc_stack.ss_sp = f->stack, f->start.uc_stack.ss_size = STACK, f->start.uc_link = NULL;
    makecontext(&f->start, worker, 0);
  }
  threadIdx = thread_of(f->thread);
#ifndef DLV3_SANITIZE
  if (_setjmp(scheduler)) return;
  if (started) _longjmp(f->at, 1);
  setcontext(&f->start);
#else
  void *fake = NULL;
  __sanitizer_start_switch_fiber(&fake, f->stack, STACK);
  swapcontext(&scheduler, started ? &f->at : &f->start);
  __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#endif
}

void __syncthreads() {
  fibers[running].waits = AT_BLOCK, n_waiting++;
  to_scheduler();
}
void cuda_host_sync_warp() {
  fibers[running].waits = AT_WARP, at_warp[fibers[running].thread / 32]++;
  to_scheduler();
}

int __syncthreads_or(int predicate) {
  vote |= predicate != 0;
  __syncthreads();
  const int result = (int)vote_result;
  return result;
}

/* Goes on with the warps that are complete: false when there is none. */
static bool resume_warps(int used) {
  bool complete[MOST_THREADS / 32], any = false;
  for (unsigned w = 0; w < MOST_THREADS / 32; w++) {
    complete[w] = at_warp[w] == 32;
    if (complete[w]) at_warp[w] = 0, any = true;
  }
  for (int i = 0; any && i < used; i++)
    if (fibers[i].waits == AT_WARP && complete[fibers[i].thread / 32]) resume(i);
  return any;
}

/* One block: false when a thread ended while others wait for it. */
static bool run_block() {
  next_thread = n_waiting = n_done = vote = 0, n_threads = blockDim.x * blockDim.y * blockDim.z;
  int used = 0;
  cuda_host_new_block(n_threads);
  while (next_thread < n_threads) resume(used++);
  while (n_done < n_threads) {
    if (resume_warps(used)) continue;
    if (n_waiting != n_threads) return false; /* some are done, others wait */
    vote_result = vote, vote = 0, n_waiting = 0;
    for (int i = 0; i < used; i++)
      if (fibers[i].waits == AT_BLOCK) resume(i);
  }
  return true;
}

void cuda_host_run(dim3 grid, dim3 block, void (*body)(void *), void *context) {
  static uint32_t launches;
  block_body = body, block_context = context;
  gridDim = grid, blockDim = block;
  backwards = ++launches * 0x9e3779b1u >> 31; /* without a rhythm that a test could have too */
  const unsigned long blocks = (unsigned long)grid.x * grid.y * grid.z;
  for (unsigned long i = 0; i < blocks; i++) {
    const unsigned long at = backwards ? blocks - 1 - i : i;
    blockIdx = dim3((unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y), (unsigned)(at / grid.x / grid.y));
    if (run_block()) continue;
    for (int f = 0; f < MOST_THREADS; f++) fibers[f].started = false, fibers[f].waits = READY;
    memset(at_warp, 0, sizeof at_warp);
    last_error = cudaErrorLaunchFailure;
    return;
  }
}

/* -- Streams and events: everything is done at once -------------------------------------------- */

struct cuda_host_event {
  int device;
  bool timed;
  float at;
  cuda_host_stream *stream; /* that it was recorded on */
  cudaGraph_t captured;     /* in this capture          */
};
float cuda_host_clock;

bool cuda_host_launchable(dim3 grid, dim3 block, cudaStream_t stream) {
  const unsigned long threads = (unsigned long)block.x * block.y * block.z;
  if (!threads || threads > MOST_THREADS || !grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535
      || grid.z > 65535)
    last_error = cudaErrorInvalidConfiguration;
  else if (!stream || stream->device != device_now)
    last_error = cudaErrorInvalidValue;
  return last_error == cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
  *s = new cuda_host_stream();
  (*s)->device = device_now;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  return cuda_host_waits++, !s ? cudaErrorInvalidValue : cuda_host_unsafe() ? last_error : cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) {
  *e = new cuda_host_event{device_now, flags != cudaEventDisableTiming, -1, NULL, NULL};
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  if (!e || !s || e->device != s->device) return cudaErrorInvalidValue;
  e->stream = s, e->captured = s->captured;
  return e->at = cuda_host_clock, cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
  if (!e || !s || !e->stream) return last_error = cudaErrorInvalidValue;
  return cuda_host_join(s, e->stream, e->captured);
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  return !e ? cudaErrorInvalidValue : cuda_host_unsafe() ? last_error : cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) { return delete e, cudaSuccess; }
/* Not over every other time, which stays the last error, as on a GPU, until somebody asks for it. */
cudaError_t cudaEventQuery(cudaEvent_t e) {
  static bool over;
  over = !over;
  return over ? cudaEventSynchronize(e) : last_error = cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
  if (!from || !to || !from->timed || !to->timed || from->at < 0 || to->at < 0)
    return last_error = cudaErrorInvalidValue;
  return *ms = to->at - from->at, cudaSuccess;
}

/* -- Memory ------------------------------------------------------------------------------------ */

enum { ZONE = 64, RUBBISH = 0xc7 };
typedef struct {
  size_t bytes;
  char pad[ZONE - sizeof(size_t)];
} zone; /* before the block; as many bytes of rubbish behind it */

static size_t limit() { /* of one device, in MiB */
  const char *text = getenv("CUDA_HOST_MEMORY");
  return (size_t)(text ? atoi(text) : 4096) << 20;
}
static size_t in_use;

cudaError_t cudaMalloc(void **p, size_t n) {
  if (cuda_host_unsafe()) return last_error;
  if (in_use + n > limit()) return last_error = cudaErrorMemoryAllocation;
  char *block = (char *)aligned_alloc(ZONE, (sizeof(zone) + n + 2 * ZONE - 1) / ZONE * ZONE);
  if (!block) return last_error = cudaErrorMemoryAllocation;
  memset(block, RUBBISH, sizeof(zone) + n + ZONE);
  ((zone *)block)->bytes = n;
  in_use += n;
  *p = block + sizeof(zone);
  cuda_host_block(*p, n);
  return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
  if (!p) return cudaSuccess;
  if (cuda_host_unsafe()) return last_error;
  cuda_host_block_gone(p);
  zone *z = (zone *)p - 1;
  const unsigned char *after = (const unsigned char *)p + z->bytes;
  in_use -= z->bytes;
  for (size_t i = 0; i < sizeof z->pad; i++)
    if ((unsigned char)z->pad[i] != RUBBISH)
      fprintf(stderr, "cuda_host: something was written before a block of %zu bytes\n", z->bytes), abort();
  for (size_t i = 0; i < ZONE; i++)
    if (after[i] != RUBBISH)
      fprintf(stderr, "cuda_host: something was written behind a block of %zu bytes\n", z->bytes), abort();
  free(z);
  return cudaSuccess;
}

void cuda_host_misaligned(const void *p, size_t bytes) {
  fprintf(stderr, "cuda_host: %zu bytes at the address %p, which is no multiple of that\n", bytes, p), abort();
}

cudaError_t cudaHostAlloc(void **p, size_t n, unsigned) {
  if (cuda_host_unsafe()) return last_error;
  return (*p = malloc(n ? n : 1)) ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void *p) { return cuda_host_unsafe() ? last_error : (free(p), cudaSuccess); }

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, cudaMemcpyKind, cudaStream_t s) {
  if (!s || s->device != device_now) return last_error = cudaErrorInvalidValue;
  const void *ends[2] = {dst, src};
  return cuda_host_do(s, ends, sizeof ends, [=] { memcpy(dst, src, n); });
}
cudaError_t cudaMemcpyPeerAsync(void *dst, int, const void *src, int, size_t n, cudaStream_t) {
  return memcpy(dst, src, n), cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t s) {
  if (!s || s->device != device_now) return last_error = cudaErrorInvalidValue;
  return cuda_host_do(s, &p, sizeof p, [=] { memset(p, value, n); });
}

/* -- Devices and errors ------------------------------------------------------------------------ */

enum { DEVICES = 2 };

cudaError_t cudaGetDeviceCount(int *n) { /* CUDA_HOST_FAILS: a machine that lacks something */
  const char *fails = getenv("CUDA_HOST_FAILS");
  *n = 0;
  if (fails) return (cudaError_t)atoi(fails);
  *n = DEVICES;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= DEVICES) return cudaErrorInvalidDevice;
  device_now = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "the host, playing a GPU");
  p->totalGlobalMem = limit(), p->multiProcessorCount = 4;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *v) {
  const char *text = getenv("CUDA_HOST_DRIVER");
  return *v = text ? atoi(text) : 0, cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *v) { return *v = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
  *total = limit(), *free_bytes = limit() - in_use;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t e = last_error;
  last_error = cudaSuccess;
  return e;
}
const char *cudaGetErrorName(cudaError_t e) {
  switch (e) {
  case cudaSuccess: return "cudaSuccess";
  case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
  case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
  case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
  case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
  case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
  default: return "cudaErrorOther";
  }
}
const char *cudaGetErrorString(cudaError_t e) {
  switch (e) {
  case cudaErrorMemoryAllocation: return "out of memory";
  case cudaErrorInvalidConfiguration: return "invalid grid or block";
  case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
  case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
  case cudaErrorLaunchFailure: return "a barrier that not all threads of the block reach";
  default: return "an error";
  }
}

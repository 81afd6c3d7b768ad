/* cuda_runtime.h - stands in for NVIDIA's header where the CUDA kernels are compiled for the host:
 * just what they use.
 *
 * A launch runs the blocks one after the other. The threads of a block run as fibers: one runs
 * until it meets a barrier, then the next, in ascending order in some launches and in descending
 * order in others. Memory of the "device" is memory of the host; a stream does its work at once,
 * unless it is captured. host.cpp has the rest, graph.cpp the graphs. */
#ifndef CUDA_HOST_RUNTIME_H
#define CUDA_HOST_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

/* -- Language ---------------------------------------------------------------------------------- */

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __shared__ static
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
typedef dim3 uint3;
#define CUDA_HOST_SEEN __attribute__((visibility("default"))) /* by kernels that are compiled while the tests run */
CUDA_HOST_SEEN extern dim3 threadIdx, blockIdx, blockDim, gridDim;

/* Ends the program where hardware would say that an address is misaligned. */
void cuda_host_misaligned(const void *p, size_t bytes);
static inline void cuda_host_boundary(const void *p, size_t bytes) {
  if ((uintptr_t)p % bytes) cuda_host_misaligned(p, bytes);
}

CUDA_HOST_SEEN void __syncthreads();
CUDA_HOST_SEEN int __syncthreads_or(int predicate);

/* Instructions for copies that arrive late and for tensor cores (warp.cpp). A thread's copies into
 * shared memory belong to the group that the next end closes; a wait leaves `pending` groups on
 * their way. mma and load_matrices are for the 32 threads of a warp together, with the registers
 * that PTX says: of mma.m16n8k16 and ldmatrix.x4. */
void cuda_host_copy_16(void *to, const void *from, bool there);
void cuda_host_copies_end();
void cuda_host_copies_wait(unsigned pending);
void cuda_host_mma(float *d, const uint32_t *a, const uint32_t *b, float (*element)(uint16_t bits));
void cuda_host_load_matrices(uint32_t *r, const void *row, bool transposed);

/* Runs body(context) for every thread of every block. */
void cuda_host_run(dim3 grid, dim3 block, void (*body)(void *), void *context);

template <class... A> struct cuda_host_call;
template <> struct cuda_host_call<> {
  template <class K, class... B> void operator()(K kernel, B... b) { kernel(b...); }
};
template <class F, class... R> struct cuda_host_call<F, R...> {
  F first;
  cuda_host_call<R...> rest;
  template <class K, class... B> void operator()(K kernel, B... b) { rest(kernel, b..., first); }
};
template <class K, class... A> struct cuda_host_job {
  K kernel;
  cuda_host_call<A...> arguments;
  static void run(void *self) { ((cuda_host_job *)self)->arguments(((cuda_host_job *)self)->kernel); }
};
static inline void cuda_host_fill(cuda_host_call<> *) {}
template <class F, class... R> void cuda_host_fill(cuda_host_call<F, R...> *to, F first, R... rest) {
  to->first = first;
  cuda_host_fill(&to->rest, rest...);
}

/* -- Errors, devices, streams, memory ---------------------------------------------------------- */

typedef enum {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNotReady = 600,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901
} cudaError_t;
typedef struct cuda_host_stream *cudaStream_t;
typedef struct cuda_host_event *cudaEvent_t;
typedef enum {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice
} cudaMemcpyKind;
typedef struct {
  char name[256];
  size_t totalGlobalMem;
  int major, minor, multiProcessorCount;
} cudaDeviceProp;

enum {
  CUDART_VERSION = 13000,
  cudaStreamNonBlocking = 1,
  cudaHostAllocDefault = 0,
  cudaEventDefault = 0,
  cudaEventDisableTiming = 2
};

cudaError_t cudaGetLastError();
const char *cudaGetErrorString(cudaError_t e);
const char *cudaGetErrorName(cudaError_t e);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device);
cudaError_t cudaDriverGetVersion(int *v);
cudaError_t cudaRuntimeGetVersion(int *v);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaMalloc(void **p, size_t n);
cudaError_t cudaFree(void *p);
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemcpyPeerAsync(void *dst, int dst_device, const void *src, int src_device, size_t n, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t s);

/* -- Graphs (graph.cpp) ------------------------------------------------------------------------ */

typedef struct cuda_host_graph *cudaGraph_t, *cudaGraphExec_t;
typedef enum {
  cudaStreamCaptureModeGlobal,
  cudaStreamCaptureModeThreadLocal,
  cudaStreamCaptureModeRelaxed
} cudaStreamCaptureMode;
typedef enum { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive } cudaStreamCaptureStatus;

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph);
cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus *status);
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *mode);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t s);

/* Checks what a launch on hardware would: a grid, a block of at most 1024, a stream of the current
 * device. */
bool cuda_host_launchable(dim3 grid, dim3 block, cudaStream_t stream);
/* Runs a job that can be copied as its bytes, or takes it down where the stream is captured. */
void cuda_host_submit(dim3 grid, dim3 block, cudaStream_t stream, void (*body)(void *), const void *job, size_t bytes);

template <class K, class... A>
void cuda_host_launch(dim3 grid, dim3 block, cudaStream_t stream, K kernel, A... arguments) {
  if (!cuda_host_launchable(grid, block, stream)) return;
  cuda_host_job<K, A...> job;
  job.kernel = kernel;
  cuda_host_fill(&job.arguments, arguments...);
  cuda_host_submit(grid, block, stream, job.run, &job, sizeof job);
}

/* -- Kernels compiled at run time (nvrtc.cpp) -------------------------------------------------- */

typedef struct cuda_host_library *cudaLibrary_t;
typedef struct cuda_host_kernel *cudaKernel_t;
typedef enum { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 } cudaFuncAttribute;
typedef struct {
  size_t sharedSizeBytes;
  int maxThreadsPerBlock;
} cudaFuncAttributes;

cudaError_t cudaLibraryLoadData(cudaLibrary_t *library, const void *code, void *, void **, unsigned, void *, void **,
                                unsigned);
cudaError_t cudaLibraryGetKernel(cudaKernel_t *kernel, cudaLibrary_t library, const char *name);
cudaError_t cudaLibraryUnload(cudaLibrary_t library);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, const void *kernel);
cudaError_t cudaFuncGetParamInfo(const void *kernel, size_t i, size_t *offset, size_t *bytes);
cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t kernel, cudaFuncAttribute attribute, int value, int device);
cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                             cudaStream_t stream);
/* What `extern __shared__ T name[]` is: the dynamic shared memory of the launch. */
CUDA_HOST_SEEN void *cuda_host_shared();

/* -- Atomics ----------------------------------------------------------------------------------- */

static inline int atomicExch(int *p, int v) {
  int before = *p;
  *p = v;
  return before;
}
static inline void __threadfence_system() {}
template <class T> static inline T atomicAdd(T *p, T v) {
  T before = *p;
  *p = before + v;
  return before;
}

#endif

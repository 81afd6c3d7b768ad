/* nvrtc.h - stands in for NVIDIA's header in the tests on the host: just what kernels/cuda/nvrtc.cu
 * uses. nvrtc.cpp has the rest.
 *
 * The library is the one that plays CUDA itself: what opens libnvrtc gets it, unless
 * CUDA_HOST_NVRTC=none plays a machine that has no NVRTC. */
#ifndef CUDA_HOST_NVRTC_H
#define CUDA_HOST_NVRTC_H

#include <cuda_runtime.h>

typedef enum {
  NVRTC_SUCCESS,
  NVRTC_ERROR_OUT_OF_MEMORY,
  NVRTC_ERROR_INVALID_INPUT = 3,
  NVRTC_ERROR_INVALID_OPTION = 5,
  NVRTC_ERROR_COMPILATION = 6
} nvrtcResult;
typedef struct cuda_host_program *nvrtcProgram;

void *cuda_host_dlopen(const char *name, int flags);
#define dlopen cuda_host_dlopen

extern "C" {
CUDA_HOST_SEEN nvrtcResult nvrtcCreateProgram(nvrtcProgram *p, const char *source, const char *name, int n_headers,
                                              const char *const *headers, const char *const *names);
CUDA_HOST_SEEN nvrtcResult nvrtcDestroyProgram(nvrtcProgram *p);
CUDA_HOST_SEEN nvrtcResult nvrtcAddNameExpression(nvrtcProgram p, const char *name);
CUDA_HOST_SEEN nvrtcResult nvrtcCompileProgram(nvrtcProgram p, int n_options, const char *const *options);
CUDA_HOST_SEEN nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram p, size_t *n);
CUDA_HOST_SEEN nvrtcResult nvrtcGetProgramLog(nvrtcProgram p, char *log);
CUDA_HOST_SEEN nvrtcResult nvrtcGetLoweredName(nvrtcProgram p, const char *name, const char **lowered);
CUDA_HOST_SEEN nvrtcResult nvrtcGetCUBINSize(nvrtcProgram p, size_t *n);
CUDA_HOST_SEEN nvrtcResult nvrtcGetCUBIN(nvrtcProgram p, char *code);
CUDA_HOST_SEEN nvrtcResult nvrtcVersion(int *major, int *minor);
CUDA_HOST_SEEN const char *nvrtcGetErrorString(nvrtcResult e);
}

#endif

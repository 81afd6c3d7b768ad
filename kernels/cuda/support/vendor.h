/* vendor.h - the libraries behind convolution and matrix product, and the compiler: what the other
 * files see of cuDNN, cuBLASLt and NVRTC. */
#ifndef DLV3_CUDA_VENDOR_H
#define DLV3_CUDA_VENDOR_H

#include <stdlib.h>

#include "common.h"

/* ", cudnn 9.19.0" at text. */
void cudnn_version(char *text, size_t n);
/* ", cublaslt 13.1.0" likewise. */
void cublaslt_version(char *text, size_t n);

/* Of what is compared as bytes, FNV-1a. */
static inline uint64_t hash_of(const void *p, size_t n) {
  uint64_t h = 14695981039346656037ull;
  for (size_t i = 0; i < n; i++) h = (h ^ ((const unsigned char *)p)[i]) * 1099511628211ull;
  return h;
}

/* A switch of the environment: "0" is off, anything else on. */
static inline bool switched(const char *name, bool otherwise) {
  const char *text = getenv(name);
  return text && *text ? strcmp(text, "0") != 0 : otherwise;
}

/* Kernels from source text, as backend.h has them. */
status nvrtc_find(dlv3_kernel **out, const char *source, const char *name, int32_t device);
status nvrtc_run(const op_call *c, const kernel_launch *l);

#endif

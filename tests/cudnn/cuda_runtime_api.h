/* cuda_runtime_api.h - what NVIDIA's cudnn.h includes: the stand-in. */
#include <cuda_runtime.h>

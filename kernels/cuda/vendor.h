/* vendor.h - the libraries behind convolution and matrix product: what the other files see of cuDNN and cuBLASLt. */
#ifndef DLV3_CUDA_VENDOR_H
#define DLV3_CUDA_VENDOR_H

#include "common.h"

/* ", cudnn 9.19.0" at text. */
void cudnn_version(char *text, size_t n);

#endif

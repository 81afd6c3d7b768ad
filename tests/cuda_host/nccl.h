/* nccl.h - NCCL's calls in use, on the emulated device: nccl.cpp. */
#pragma once
#include <cuda_runtime.h>

typedef enum {
  ncclSuccess,
  ncclUnhandledCudaError,
  ncclSystemError,
  ncclInternalError,
  ncclInvalidArgument
} ncclResult_t;
typedef enum {
  ncclInt8,
  ncclUint8,
  ncclInt32,
  ncclUint32,
  ncclInt64,
  ncclUint64,
  ncclFloat16,
  ncclFloat32,
  ncclFloat64,
  ncclBfloat16
} ncclDataType_t;
typedef enum { ncclSum } ncclRedOp_t;
typedef struct {
  char internal[128];
} ncclUniqueId;
typedef struct cuda_host_comm *ncclComm_t;

const char *ncclGetErrorString(ncclResult_t e);
ncclResult_t ncclGetUniqueId(ncclUniqueId *id);
ncclResult_t ncclCommInitRank(ncclComm_t *comm, int size, ncclUniqueId id, int rank);
ncclResult_t ncclAllReduce(const void *x, void *y, size_t n, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream);
ncclResult_t ncclAllGather(const void *x, void *all, size_t n, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream);
ncclResult_t ncclBroadcast(const void *x, void *y, size_t n, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream);

/* nccl.cpp - NCCL on the emulated device, for tests: the ranks' memory is the host's, so MPI sums
 * it. An id must be the one that rank 0 made, and each communicator has its own. */
#include <nccl.h>

#include <stdio.h>
#include <string.h>

#include "host.h"
#include "collectives/world.h"

struct cuda_host_comm {
  int size, rank;
};

const char *ncclGetErrorString(ncclResult_t e) { return e == ncclInvalidArgument ? "invalid argument" : "an error"; }

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  static int made;
  snprintf(id->internal, sizeof id->internal, "id %d", ++made);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int size, ncclUniqueId id, int rank) {
  static int joined;
  char expected[32];
  snprintf(expected, sizeof expected, "id %d", ++joined);
  if (strcmp(id.internal, expected) || rank < 0 || rank >= size) return ncclInvalidArgument;
  *comm = new cuda_host_comm{size, rank};
  return ncclSuccess;
}

static const struct {
  int32_t dtype;
  size_t bytes;
} types[] = {{DLV3_U8, 1}, {DLV3_U8, 1},  {DLV3_I32, 4}, {DLV3_I32, 4}, {DLV3_I64, 8},
             {DLV3_I64, 8}, {DLV3_F16, 2}, {DLV3_F32, 4}, {DLV3_F64, 8}, {DLV3_BF16, 2}};

/* Work on a stream; what went wrong in it is an error of the process here, as it is there. */
static ncclResult_t put(cudaStream_t stream, void *x, std::function<status()> work) {
  cudaError_t e = cuda_host_do(stream, &x, sizeof x, [=] { last_error = work() ? (cudaError_t)719 : last_error; });
  return e == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t ncclAllReduce(const void *x, void *y, size_t n, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
  if (!comm || op != ncclSum) return ncclInvalidArgument;
  return put(stream, y, [=] {
    if (x != y) memcpy(y, x, n * types[type].bytes);
    return world_sum(y, (int64_t)n, types[type].dtype);
  });
}

ncclResult_t ncclAllGather(const void *x, void *all, size_t n, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  if (!comm) return ncclInvalidArgument;
  return put(stream, all, [=] { return world_gather(x, all, (int64_t)(n * types[type].bytes)); });
}

ncclResult_t ncclBroadcast(const void *x, void *y, size_t n, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  if (!comm || root < 0 || root >= comm->size || x != y) return ncclInvalidArgument;
  return put(stream, y, [=] { return world_broadcast(y, (int64_t)(n * types[type].bytes), root); });
}

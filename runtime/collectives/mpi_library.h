/* mpi_library.h - the contract between the runtime and an MPI library: a table of functions.
 *
 * kernels/mpi/mpi.c fills it, compiled once against every MPI that is installed (their binary
 * interfaces differ), as libdlv3_openmpi.so and libdlv3_mpich.so. world.c opens one of them where a
 * launcher has started this process. Functions return NULL, or what went wrong. */
#ifndef DLV3_MPI_LIBRARY_H
#define DLV3_MPI_LIBRARY_H

#include <stdbool.h>
#include <stdint.h>

enum { MPI_LIBRARY_ABI = 1 };

typedef struct {
  int32_t rank, size, local_rank, local_size; /* local: among the ranks of this host */
  bool threads;                               /* two threads may call at a time, on channels of their own */
} mpi_place;

/* Collectives that do not depend on each other's order go over channels of their own. */
enum { CHANNEL_BLOCKING, CHANNEL_ASYNCHRONOUS, CHANNELS };

/* A collective that was started. */
typedef struct {
  int64_t request[2];
} mpi_request;

typedef struct {
  int32_t abi;
  const char *(*open)(mpi_place *place);
  void (*close)(void);
  void (*abort)(int32_t code); /* ends all ranks */
  /* These start a collective, `test` completes it. All ranks start the same ones of a channel in
   * the same order. dtype: DLV3_* of dlv3.h; n: elements; at most INT32_MAX of them or bytes at a
   * time. */
  const char *(*sum)(mpi_request *r, int32_t channel, void *x, int64_t n, int32_t dtype);
  const char *(*gather)(mpi_request *r, int32_t channel, const void *x, void *all, int64_t bytes);
  const char *(*broadcast)(mpi_request *r, int32_t channel, void *x, int64_t bytes, int32_t root);
  const char *(*barrier)(mpi_request *r, int32_t channel);
  const char *(*test)(mpi_request *r, bool *done);
  /* sum, and waits for its result: faster for many bytes. */
  const char *(*sum_and_wait)(int32_t channel, void *x, int64_t n, int32_t dtype);
} mpi_library;

/* The one symbol of such a library. */
typedef const mpi_library *dlv3_mpi_library_fn(void);

#endif

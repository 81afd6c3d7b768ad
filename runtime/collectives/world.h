/* world.h - the processes that one launcher started, as ops and kernels see them. */
#ifndef DLV3_WORLD_H
#define DLV3_WORLD_H

#include "core/core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rank and number of ranks: 0 and 1 where no launcher started several. Opens MPI on first use. */
status world_open(void);
int32_t world_rank(void);
int32_t world_size(void);
bool world_threads(void); /* the MPI library allows calls from two threads */

/* Collectives on host memory; they return when the result is there. */
status world_sum(void *x, int64_t n, int32_t dtype);
status world_gather(const void *x, void *all, int64_t bytes);
status world_broadcast(void *x, int64_t bytes, int32_t root);
status world_barrier(void);

/* world_sum that runs while the caller computes (asynchronous.c): x must not be read or written
 * until finish, which waits for every sum that overlaps [x, x + bytes). */
status world_sum_start(void *x, int64_t n, int32_t dtype);
status world_sum_finish(const void *x, int64_t bytes);

#ifdef __cplusplus
}
#endif

#endif

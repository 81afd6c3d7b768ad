/* mpi_wait.h - what world.c and asynchronous.c share: the open MPI library, and waiting for its
 * requests. */
#ifndef DLV3_MPI_WAIT_H
#define DLV3_MPI_WAIT_H

#include "mpi_library.h"
#include "world.h"

extern const mpi_library *mpi; /* NULL: a single process */

/* MPI counts elements with an int: n of them as pieces [at, at + m). */
enum { PIECE = 1 << 28 };
#define PIECES(n, at, m) for (int64_t at = 0, m; m = (n)-at < PIECE ? (n)-at : PIECE, m > 0; at += m)

/* Waits for a request of the op `what`. sleeping: sleeps between two polls. An error after
 * DLV3_COLLECTIVE_TIMEOUT seconds. */
status world_wait(mpi_request *r, const char *what, bool sleeping);
status world_failed(const char *what, const char *wrong);

/* Ends the thread of asynchronous.c, if it was started. */
void asynchronous_stop(void);

#endif

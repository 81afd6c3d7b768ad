/* waiting.h - what world.c and behind.c share: the open library, and waiting for it. */
#ifndef DLV3_WAITING_H
#define DLV3_WAITING_H

#include "mpi_library.h"
#include "world.h"

extern const mpi_library *mpi; /* NULL: a single process */

/* MPI counts elements with an int: n of them as pieces [at, at + m). */
enum { PIECE = 1 << 28 };
#define PIECES(n, at, m) for (int64_t at = 0, m; m = (n) - at < PIECE ? (n) - at : PIECE, m > 0; at += m)

/* Waits for a request. patiently: the processor is left to others between two looks. */
status world_wait(mpi_request *r, const char *what, bool patiently);
status world_failed(const char *what, const char *wrong);

/* Ends the thread of behind.c, where there is one. */
void behind_stop(void);

#endif

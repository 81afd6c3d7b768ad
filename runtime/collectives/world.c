/* world.c - the ranks that a launcher started: how many, which one this is, and collectives
 * between them.
 *
 * A launcher (mpirun, srun) sets variables in the environment of the processes that it starts.
 * Only then is an MPI library opened, and only on first use: a single process pays nothing, and
 * the same program runs without MPI. */
#define _GNU_SOURCE
#include "world.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "core/backend.h"
#include "mpi_wait.h"

static mpi_place place = {.size = 1, .local_size = 1};
static bool opened;
static double timeout = 600; /* DLV3_COLLECTIVE_TIMEOUT, seconds */
const mpi_library *mpi;

int32_t world_rank(void) { return place.rank; }
int32_t world_size(void) { return place.size; }
bool world_threads(void) { return place.threads; }

/* -- The launcher's variables
 * ------------------------------------------------------------------- */

enum { HOST_NAME = 64 };

static void get_host_name(char name[HOST_NAME]) {
  memset(name, 0, HOST_NAME);
  gethostname(name, HOST_NAME - 1);
}

static const char *variable(const char *name) {
  const char *value = getenv(name);
  return value && *value ? value : NULL;
}

static int32_t number_of(const char *name) {
  const char *value = variable(name);
  return value ? (int32_t)strtol(value, NULL, 10) : -1;
}

/* The environment's rank, or -1: no launcher that MPI knows. */
static int32_t launched_rank(void) {
  static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (number_of(names[i]) >= 0) return number_of(names[i]);
  return -1;
}

/* srun without an MPI plug-in starts many processes that do not know of each other. */
static status check_slurm(void) {
  if (number_of("SLURM_STEP_NUM_TASKS") < 2) return DLV3_OK;
  return fail(DLV3_ERR_ARG,
              "srun started %s processes without MPI, each of which would do all of the work: start them with "
              "srun --mpi=pmix (Open MPI) or srun --mpi=pmi2 (MPICH); srun --mpi=list shows which are available",
              variable("SLURM_STEP_NUM_TASKS"));
}

/* Open MPI's mpirun names itself; PMI_RANK alone is MPICH's hydra or srun --mpi=pmi2. */
static const char *library_name(void) {
  const char *wanted = variable("DLV3_MPI");
  if (wanted) return wanted;
  return variable("OMPI_COMM_WORLD_RANK") || !variable("PMI_RANK") ? "openmpi" : "mpich";
}

/* -- Opening
 * ------------------------------------------------------------------------------------ */

/* libdlv3_<name>.so, of the other MPI where that is all there is; it would not start. */
static status open_library(void) {
  char path[512], file[80];
  const char *name = library_name();
  snprintf(file, sizeof file, "libdlv3_%.40s.so", name);
  if (!find_part(path, sizeof path, file))
    return fail(DLV3_ERR_DEVICE,
                "this process was started by an MPI launcher (rank %d), but this build of dlv3 has no %s: install "
                "%s, then `make features` and `make`; or start one process without the launcher",
                (int)launched_rank(), file, strcmp(name, "mpich") ? "libopenmpi-dev" : "libmpich-dev");
  /* Open MPI opens parts of its own, which look for its symbols among the global ones. */
  void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (!library) return fail(DLV3_ERR_DEVICE, "%s can not be opened: %s", path, dlerror());
  dlv3_mpi_library_fn *table;
  *(void **)&table = dlsym(library, "dlv3_mpi_library");
  if (!table || table()->abi != MPI_LIBRARY_ABI)
    return fail(DLV3_ERR_DEVICE, "%s belongs to another version of dlv3: run `make` again", path);
  mpi = table();
  return DLV3_OK;
}

/* Runs when the process exits: finalizes MPI, or, if this rank failed, aborts all ranks. */
static void at_end(int code, void *unused) {
  (void)unused;
  asynchronous_stop();
  if (code)
    mpi->abort(code);
  else
    mpi->close();
}

/* How many ranks of this host share processors with this one: all of them, unless the launcher
 * bound each rank to its own. */
static status sharing(int32_t *n) {
  cpu_set_t own, *all = calloc((size_t)place.size, sizeof *all);
  char name[HOST_NAME], *names = calloc((size_t)place.size, sizeof name);
  *n = 0;
  status st = all && names ? DLV3_OK : fail(DLV3_ERR_OOM, "out of memory for the world");
  CPU_ZERO(&own);
  sched_getaffinity(0, sizeof own, &own);
  get_host_name(name);
  if (st == DLV3_OK) st = world_gather(&own, all, sizeof own);
  if (st == DLV3_OK) st = world_gather(name, names, sizeof name);
  for (int32_t i = 0; i < place.size && st == DLV3_OK; i++) {
    cpu_set_t both;
    CPU_AND(&both, &own, &all[i]);
    *n += CPU_COUNT(&both) > 0 && !strcmp(names + (size_t)i * sizeof name, name);
  }
  free(all);
  free(names);
  return st;
}

/* Divides the processors of a host among its ranks, unless a variable sets the number of
 * threads. */
static status divide_threads(void) {
  int32_t n;
  TRY(sharing(&n));
  if (variable("DLV3_NUM_THREADS") || variable("OMP_NUM_THREADS")) return DLV3_OK;
  return dlv3_set_num_threads(processors_shared(n, place.local_size));
}

status world_open(void) {
  if (opened) return DLV3_OK;
  if (launched_rank() < 0) {
    opened = true;
    return check_slurm();
  }
  if (variable("DLV3_COLLECTIVE_TIMEOUT")) timeout = strtod(variable("DLV3_COLLECTIVE_TIMEOUT"), NULL);
  TRY(open_library());
  const char *wrong = mpi->open(&place);
  if (wrong) return fail(DLV3_ERR_DEVICE, "MPI did not start: %s", wrong);
  opened = true;
  on_exit(at_end, NULL);
  return place.size > 1 ? divide_threads() : DLV3_OK;
}

/* -- For the host program
 * ------------------------------------------------------------------------ */

DLV3_API dlv3_status dlv3_world_open(dlv3_world *out) {
  TRY(world_open());
  *out = (dlv3_world){place.rank, place.size, place.local_rank, place.local_size, ""};
  get_host_name(out->host);
  return DLV3_OK;
}

DLV3_API const char *dlv3_world_label(void) {
  static char text[120];
  char host[HOST_NAME];
  int32_t rank = launched_rank();
  if (rank < 0 || (opened && place.size == 1)) return "";
  get_host_name(host);
  snprintf(text, sizeof text, "rank %d on %s: ", (int)rank, host);
  return text;
}

DLV3_API void dlv3_world_take_turn(void) {
  int32_t rank = launched_rank();
  double seconds = rank < 8 ? 0.3 * rank : 2.4;
  if (rank <= 0) seconds = 0;
  struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
  if (seconds > 0) nanosleep(&t, NULL);
}

DLV3_API const char *dlv3_mpi_state(void) {
  static char text[160];
  static const char *const names[][3] = {{"libdlv3_openmpi.so", "Open MPI", OPENMPI_VERSION},
                                         {"libdlv3_mpich.so", "MPICH", MPICH_VERSION}};
  char path[512];
  int used = 0;
  text[0] = 0;
  for (int i = 0; i < 2; i++)
    if (find_part(path, sizeof path, names[i][0]))
      used += snprintf(text + used, sizeof text - (size_t)used, "%s%s%s%s", used ? ", " : "", names[i][1],
                       *names[i][2] ? " " : "", names[i][2]);
  return used ? text : "not available: libopenmpi-dev or libmpich-dev was not installed when dlv3 was built";
}

/* -- Collectives
 * --------------------------------------------------------------------------------- */

status world_failed(const char *what, const char *wrong) {
  return fail(DLV3_ERR_DEVICE, "%s over all ranks: %s", what, wrong);
}

/* A pause between two polls of a request: none at first, then a yield, then a short sleep. */
static void pause_after(int64_t polls) {
  struct timespec short_time = {0, 20000};
  if (polls > 20000)
    nanosleep(&short_time, NULL);
  else if (polls > 100)
    sched_yield();
}

status world_wait(mpi_request *r, const char *what, bool sleeping) {
  const double begin = dlv3_now();
  for (int64_t polls = 0;; polls++) {
    bool done = false;
    const char *wrong = mpi->test(r, &done);
    if (wrong) return world_failed(what, wrong);
    if (done) return DLV3_OK;
    pause_after(sleeping ? 1 << 20 : polls);
    if (polls % 64 == 0 && dlv3_now() - begin > timeout)
      return fail(DLV3_ERR_DEVICE,
                  "%s: the other ranks did not answer for %.0f s: one of them was killed, hangs or can not be reached. "
                  "DLV3_COLLECTIVE_TIMEOUT=SECONDS allows more",
                  what, timeout);
  }
}

status world_sum(void *x, int64_t n, int32_t dtype) {
  if (place.size == 1) return DLV3_OK;
  mpi_request r;
  PIECES(n, at, m) {
    const char *wrong = mpi->sum(&r, CHANNEL_BLOCKING, (char *)x + at * dtype_bytes(dtype), m, dtype);
    if (wrong) return world_failed("all_reduce_", wrong);
    TRY(world_wait(&r, "all_reduce_", false));
  }
  return DLV3_OK;
}

status world_gather(const void *x, void *all, int64_t bytes) {
  if (place.size == 1) {
    memcpy(all, x, (size_t)bytes);
    return DLV3_OK;
  }
  if (bytes > PIECE) return fail(DLV3_ERR_ARG, "all_gather: %lld bytes a rank, at most %d", (long long)bytes, PIECE);
  mpi_request r;
  const char *wrong = mpi->gather(&r, CHANNEL_BLOCKING, x, all, bytes);
  return wrong ? world_failed("all_gather", wrong) : world_wait(&r, "all_gather", false);
}

status world_broadcast(void *x, int64_t bytes, int32_t root) {
  if (place.size == 1) return DLV3_OK;
  mpi_request r;
  PIECES(bytes, at, m) {
    const char *wrong = mpi->broadcast(&r, CHANNEL_BLOCKING, (char *)x + at, m, root);
    if (wrong) return world_failed("broadcast_", wrong);
    TRY(world_wait(&r, "broadcast_", false));
  }
  return DLV3_OK;
}

status world_barrier(void) {
  if (place.size == 1) return DLV3_OK;
  mpi_request r;
  const char *wrong = mpi->barrier(&r, CHANNEL_BLOCKING);
  return wrong ? world_failed("barrier", wrong) : world_wait(&r, "barrier", false);
}

const world_api world_functions = {world_rank, world_size, world_sum, world_gather, world_broadcast, world_barrier};

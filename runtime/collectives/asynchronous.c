/* asynchronous.c - sums over all ranks that run while the caller computes: gradients during the
 * backward pass.
 *
 * One thread runs them in the order in which they were started, which is the same on all ranks.
 * Before each sum it waits in a barrier until every rank has reached it, and sleeps between two
 * polls, so that a rank that waits takes no processor time from one that computes; then the sum
 * itself runs at full speed. */
#include <pthread.h>
#include <stdlib.h>

#include "mpi_wait.h"

enum { ROOM = 1024 };

typedef struct {
  char *x;
  int64_t n;
  int32_t dtype;
} sum_job;

static struct {
  pthread_mutex_t lock;
  pthread_cond_t moved;
  pthread_t thread;
  bool running, stopping;
  sum_job jobs[ROOM];
  int64_t first, end; /* jobs [first, end) are not done; modulo ROOM */
  char failure[600];  /* message of the first that failed; later ones are not started */
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};

static status sum_job_run(const sum_job *job) {
  mpi_request r;
  const char *wrong = mpi->barrier(&r, CHANNEL_ASYNCHRONOUS);
  if (wrong) return world_failed("all_reduce_start_", wrong);
  TRY(world_wait(&r, "all_reduce_start_", true));
  PIECES(job->n, at, m) {
    wrong = mpi->sum_and_wait(CHANNEL_ASYNCHRONOUS, job->x + at * dtype_bytes(job->dtype), m, job->dtype);
    if (wrong) return world_failed("all_reduce_start_", wrong);
  }
  return DLV3_OK;
}

static void *work(void *unused) {
  (void)unused;
  pthread_mutex_lock(&queue.lock);
  while (!queue.stopping) {
    if (queue.first == queue.end || queue.failure[0]) {
      pthread_cond_wait(&queue.moved, &queue.lock);
      continue;
    }
    sum_job job = queue.jobs[queue.first % ROOM];
    pthread_mutex_unlock(&queue.lock);
    status st = sum_job_run(&job);
    pthread_mutex_lock(&queue.lock);
    if (st == DLV3_OK)
      queue.first++;
    else
      strncpy(queue.failure, dlv3_last_error(), sizeof queue.failure - 1);
    pthread_cond_broadcast(&queue.moved);
  }
  pthread_mutex_unlock(&queue.lock);
  return NULL;
}

/* Waits until no job is left that touches [x, x + bytes), or for room in the queue. */
static status wait_while(bool (*busy)(const char *x, int64_t bytes), const char *x, int64_t bytes) {
  pthread_mutex_lock(&queue.lock);
  while (!queue.failure[0] && busy(x, bytes)) pthread_cond_wait(&queue.moved, &queue.lock);
  status st = queue.failure[0] ? fail(DLV3_ERR_DEVICE, "%s", queue.failure) : DLV3_OK;
  pthread_mutex_unlock(&queue.lock);
  return st;
}

static bool full(const char *x, int64_t bytes) {
  (void)x;
  (void)bytes;
  return queue.end - queue.first == ROOM;
}

static bool touched(const char *x, int64_t bytes) {
  for (int64_t i = queue.first; i < queue.end; i++) {
    const sum_job *job = &queue.jobs[i % ROOM];
    if (job->x < x + bytes && x < job->x + job->n * dtype_bytes(job->dtype)) return true;
  }
  return false;
}

status world_sum_start(void *x, int64_t n, int32_t dtype) {
  if (world_size() == 1 || !n) return DLV3_OK;
  if (!world_threads()) return world_sum(x, n, dtype);
  if (!queue.running && pthread_create(&queue.thread, NULL, work, NULL))
    return fail(DLV3_ERR_OOM, "all_reduce_start_: a thread could not be created");
  queue.running = true;
  TRY(wait_while(full, NULL, 0));
  pthread_mutex_lock(&queue.lock);
  queue.jobs[queue.end++ % ROOM] = (sum_job){x, n, dtype};
  pthread_cond_broadcast(&queue.moved);
  pthread_mutex_unlock(&queue.lock);
  return DLV3_OK;
}

status world_sum_finish(const void *x, int64_t bytes) {
  return queue.running ? wait_while(touched, x, bytes) : DLV3_OK;
}

/* Does not wait for a sum that is still running: the process is ending, and so do all ranks. */
void asynchronous_stop(void) {
  pthread_mutex_lock(&queue.lock);
  bool idle = queue.running && queue.first == queue.end;
  queue.stopping = true;
  pthread_cond_broadcast(&queue.moved);
  pthread_mutex_unlock(&queue.lock);
  if (idle) pthread_join(queue.thread, NULL);
}

/* parallel.c - the threads of the cpu backend: one OpenMP pool, which Debian's oneDNN shares.
 *
 * Work is cut into chunks by its size and grain alone. Which thread runs a chunk varies, what a
 * chunk computes does not, so results do not depend on the number of threads. */
#include <omp.h>
#include <stdlib.h>

#include "core/core.h"

static int32_t threads;

__attribute__((constructor)) static void read_environment(void) {
  const char *text = getenv("DLV3_NUM_THREADS"), *others = getenv("OMP_NUM_THREADS");
  long wanted = text ? strtol(text, NULL, 10) : 0; /* its spelling is checked by lua/dlv3/cli/environment.lua */
  if (wanted < 1) wanted = others && *others ? omp_get_max_threads() : processors_allowed();
  threads = wanted < dlv3_processors() ? (int32_t)wanted : dlv3_processors();
  omp_set_num_threads(threads);
}

int32_t parallel_threads(void) { return threads; }
DLV3_API int32_t dlv3_num_threads(void) { return threads; }

DLV3_API dlv3_status dlv3_set_num_threads(int32_t n) {
  if (n < 1 || n > 1024) return fail(DLV3_ERR_ARG, "num_threads: 1 to 1024 are possible, %d came", (int)n);
  threads = n;
  omp_set_num_threads(n);
  return DLV3_OK;
}

/* A thread takes the chunks of its share first, then what is left of the others': what one loop wrote
 * mostly lies in the cache of the thread that reads it in the next. */
enum { MOST_SHARES = 64 };
typedef struct {
  int64_t next;
} __attribute__((aligned(64))) share;

typedef void loop_body(void *ctx, int64_t begin, int64_t end);

static void run_chunk(int64_t i, int64_t n, int64_t grain, loop_body *body, void *ctx) {
  body(ctx, i * grain, i * grain + grain < n ? i * grain + grain : n);
}

void parallel_for(int64_t n, int64_t grain, loop_body *body, void *ctx) {
  if (grain < 1) grain = 1;
  int64_t chunks = (n + grain - 1) / grain;
  if (chunks <= 1 || threads == 1 || omp_in_parallel()) {
    for (int64_t i = 0; i < chunks; i++) run_chunk(i, n, grain, body, ctx);
    return;
  }
  share shares[MOST_SHARES];
  const int64_t count = threads < MOST_SHARES ? threads : MOST_SHARES;
  for (int64_t t = 0; t < count; t++) shares[t].next = chunks * t / count;
#pragma omp parallel
  for (int64_t t = 0; t < count; t++) {
    const int64_t at = (omp_get_thread_num() + t) % count, end = chunks * (at + 1) / count;
    for (int64_t i; (i = __atomic_fetch_add(&shares[at].next, 1, __ATOMIC_RELAXED)) < end;)
      run_chunk(i, n, grain, body, ctx);
  }
}

void *kernel_scratch(int64_t bytes) {
  static _Thread_local struct {
    void *data;
    int64_t bytes;
  } own;
  if (bytes <= own.bytes) return own.data;
  free(own.data);
  own.bytes = 0;
  if (posix_memalign(&own.data, 64, (size_t)bytes)) return own.data = NULL;
  own.bytes = bytes;
  return own.data;
}

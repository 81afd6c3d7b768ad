/* program.h - what a recorded program is: record.c makes, plans and replays it, graph.c makes one
 * graph of it. */
#ifndef DLV3_PROGRAM_H
#define DLV3_PROGRAM_H

#include "core/backend.h"

typedef struct {
  int32_t op, n_in;
  tensor **in, *out[DLV3_MAX_OUTPUTS]; /* headers of the program's own */
  dlv3_attr *attr;
  kernel_launch *launch; /* not NULL: of a kernel from source text, and no op's */
} step;

typedef struct promise {
  storage *st, *lent;          /* lent: memory of a result, during a run */
  storage *fixed;              /* where a graph leaves a result; NULL: none */
  const char *address;         /* while recording: rising, so that a promise is found by it */
  int64_t first, last, offset; /* steps of its life, -1 if no step knows it; place in the arena */
  struct promise *over;        /* the one in whose place it lies, written over it; NULL: in a place of its own */
  int32_t headers;             /* of the program, that lie on it */
  bool result;
} promise;

typedef struct {
  tensor *header;
  int32_t arg;
  int64_t delta;
} binding;
typedef struct {
  tensor *t;
  storage *st;
  bool requires_grad;
} outside; /* a leaf, where it lay, and whether it learned */
typedef struct graph graph;

struct dlv3_program {
  step *steps;
  promise *promises;
  binding *bindings;
  outside *outsides;
  tensor **args, **results;
  int64_t n_steps, step_room, n_promises, promise_room, n_bindings, binding_room, n_outsides, outside_room;
  int32_t n_args, n_results;
  bool spoilt; /* memory ran out while a step was taken down */
  int64_t arena_bytes;
  storage *nothing; /* what headers of arguments lie on between runs */
  tensor **given;   /* arguments of the run at hand, the caller's */
  graph *graph;     /* graph.c's; NULL before the first run */
};

/* Elements from t's first to behind its last. */
static inline int64_t reach(const tensor *t) {
  int64_t last = 0;
  for (int32_t i = 0; i < t->ndim; i++) last += (t->size[i] - 1) * t->stride[i];
  return numel(t) ? last + 1 : 0;
}

/* record.c. Appends a launch of a kernel from source text, on n tensors or NULLs, to the program that
 * is being recorded. kernel.c: runs it. */
bool recording(void);
status record_launch(const kernel_launch *l, tensor *const *in);
status kernel_execute(const kernel_launch *l, tensor *const *in);

/* record.c. The headers of arguments on args, or on nothing; the promises' storages on their
 * memory, results on what is lent to them or (fixed) where the graph leaves them; every step's
 * kernel. */
void bind_headers(dlv3_program *p, tensor *const *args);
void bind_promises(dlv3_program *p, bool fixed);
status run_steps(dlv3_program *p);
const char *arena_address(void);

/* graph.c. A run as one launch; DLV3_DECLINED: not this time, the steps are to be run. */
status graph_run(dlv3_program *p);
void graph_drop(dlv3_program *p);

#endif

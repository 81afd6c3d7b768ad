/* program.h - a recorded program: record.c records, plans and replays it, graph.c captures it as
 * one graph. */
#ifndef DLV3_PROGRAM_H
#define DLV3_PROGRAM_H

#include "core/backend.h"

typedef struct {
  int32_t op, n_in;
  tensor **in, *out[DLV3_MAX_OUTPUTS]; /* the program's own headers */
  dlv3_attr *attr;
  kernel_launch *launch; /* not NULL: the step is a kernel from source text, not an op */
} step;

typedef struct placeholder {
  storage *st, *memory;        /* memory: of a result, during a run */
  storage *fixed;              /* where a graph writes a result; NULL: none */
  const char *address;         /* while recording; increasing, so that a search by address works */
  int64_t first, last, offset; /* first and last step that use it, -1: none; offset in the arena */
  struct placeholder *over;    /* the one that it is written over; NULL: has memory of its own */
  int32_t headers;             /* of the program's headers, how many are on it */
  bool result;
} placeholder;

typedef struct {
  tensor *header;
  int32_t arg;
  int64_t delta;
} binding;
typedef struct {
  tensor *t;
  storage *st;
  bool requires_grad;
} outside; /* a leaf, its storage and requires_grad when recorded */
typedef struct graph graph;

struct dlv3_program {
  step *steps;
  placeholder *placeholders;
  binding *bindings;
  outside *outsides;
  tensor **args, **results;
  int64_t n_steps, step_room, n_placeholders, placeholder_room, n_bindings, binding_room, n_outsides, outside_room;
  int32_t n_args, n_results;
  bool incomplete; /* memory ran out while a step was recorded */
  int64_t arena_bytes;
  storage *unbound;  /* the storage of argument headers between runs */
  tensor **run_args; /* the caller's arguments, during a run */
  graph *graph;      /* graph.c's; NULL before the first run */
};

/* The number of elements from the first of t to the last, with those between them. */
static inline int64_t reach(const tensor *t) {
  int64_t last = 0;
  for (int32_t i = 0; i < t->ndim; i++) last += (t->size[i] - 1) * t->stride[i];
  return numel(t) ? last + 1 : 0;
}

/* record.c. Appends a launch of a kernel from source text, on n tensors or NULLs, to the program
 * that is being recorded. kernel.c: runs it. */
bool recording(void);
status record_launch(const kernel_launch *l, tensor *const *in);
status kernel_execute(const kernel_launch *l, tensor *const *in);

/* record.c. bind_headers: points the headers of arguments at args, NULL: at p->unbound.
 * bind_placeholders: points the storages of placeholders at their memory; results at that of the
 * run or (fixed) where the graph writes them. run_steps: calls the kernel of every step. */
void bind_headers(dlv3_program *p, tensor *const *args);
void bind_placeholders(dlv3_program *p, bool fixed);
status run_steps(dlv3_program *p);
const char *arena_address(void);

/* graph.c. Runs the program as one launch; DLV3_DECLINED: the steps must be run one by one. */
status graph_run(dlv3_program *p);
void graph_drop(dlv3_program *p);

#endif

/* graph.c - a recorded program as one graph of its device: captured while a run calls the kernels,
 * launched from then on.
 *
 * The first run of a program calls its kernels one by one, so that their plans and prepared
 * weights exist. The next run is captured: the kernels are called the same way, but the device
 * captures them instead of running them. Then the graph is launched, as in every later run. A
 * launch does what the calls did, to the last bit, at the addresses of the capture. Hence:
 *   - Arguments are copied to buffers of the program before a launch, results from buffers of the
 *     program to new memory after it.
 *   - The arena, the outside storages and the scratch memory of kernels (which memory.c keeps
 *     apart) must have the same addresses as in the capture; otherwise the program is captured
 *     again.
 *   - Versions increase as the calls would have increased them.
 * Kernels decide by versions whether to rewrite a prepared weight. Where the program changes a
 * weight (or its version once differed) the prepared forms are outdated before the capture, so
 * that rewriting them is part of the graph. Otherwise they are not, and the graph is valid while
 * the version stays the same. The same holds for forms that the step itself renews: they are up to
 * date when a launch begins and when it ends.
 *
 * A program that can not be captured, since a kernel waits for the device or an argument is
 * changed in place, runs call by call, which is always correct. DLV3_GRAPH=0 chooses that,
 * DLV3_SYNC and DLV3_VERBOSE imply it. */
#include <stdio.h>
#include <stdlib.h>

#include "core/dispatch.h"
#include "core/executor.h"
#include "core/memory.h"
#include "core/verbose.h"
#include "program.h"

enum { ALIGN = 64, MOST_FAILURES = 2 }; /* the second attempt finds what kernels cached in the first */

typedef struct {
  storage *st;                                 /* the program's headers reference it                      */
  const char *data;                            /* its address in the capture                              */
  int64_t own_version, slice_changes, version; /* before the capture; after it                 */
  int64_t bumps;                               /* by how much a run increases own_version                 */
  bool changed, always_rewritten;              /* a step writes it; the graph rewrites its prepared forms */
  prepared *form;                              /* up to date when a launch begins; NULL: the graph uses none */
  bool renewed;                                /* the form is up to date when a launch ends, too          */
} watched;

struct graph {
  void *handle; /* the backend's; NULL: not captured                       */
  int32_t device, captures, wait, failures;
  bool ready, reported;
  watched *watched;
  int64_t n_watched, room;
  tensor **args;  /* buffers that the graph reads; NULL: it does not         */
  int64_t *bytes; /* of each buffer                                          */
  const char *arena;
  int64_t generation, preference; /* memory_generation, implementation_preference            */
};

static bool graphs_enabled = true; /* DLV3_GRAPH                                              */
static int32_t n_handles;
static int64_t captures, launches;
static char refusal[1000];

__attribute__((constructor)) static void read_environment(void) {
  const char *text = getenv("DLV3_GRAPH");
  graphs_enabled = !text || strcmp(text, "0");
}

DLV3_API int64_t dlv3_graph_captures(void) { return captures; }
DLV3_API int64_t dlv3_graph_launches(void) { return launches; }
DLV3_API const char *dlv3_graph_refused(void) { return refusal; }

/* Stores why there is no graph: later failures say less. */
static status keep_reason(status st) {
  snprintf(refusal, sizeof refusal, "%s", dlv3_last_error());
  return st;
}

static status no_memory(void) { return fail(DLV3_ERR_OOM, "compile: out of memory for a graph"); }

/* -- What a graph depends on ------------------------------------------------------------------- */

static status watch_storage(graph *g, storage *st, bool changed) {
  for (; st; st = st->parent, changed = false) {
    int64_t i = 0;
    while (i < g->n_watched && g->watched[i].st != st) i++;
    if (i == g->n_watched) {
      if (i == g->room) {
        int64_t more = 2 * g->room + 64;
        watched *grown = realloc(g->watched, (size_t)more * sizeof *grown);
        if (!grown) return no_memory();
        g->watched = grown;
        g->room = more;
      }
      g->watched[g->n_watched++] = (watched){.st = st};
    }
    g->watched[i].changed |= changed;
  }
  return DLV3_OK;
}

/* Watches all outside storages that steps read or write. Headers of arguments are on p->unbound
 * meanwhile, which distinguishes them from outside tensors. */
static status watch_steps(dlv3_program *p, graph *g) {
  for (int64_t k = 0; k < p->n_steps; k++) {
    const step *s = &p->steps[k];
    for (int32_t i = 0; i < s->n_in; i++) {
      const bool changed = s->launch ? s->launch->kind[i] != 0 : (op_table[s->op].in_place >> i & 1) != 0;
      storage *st = s->in[i] ? s->in[i]->st : NULL;
      if (!st || st->borrowed) continue;
      if (st == p->unbound && changed)
        return fail(DLV3_ERR_ARG, "%s changes an argument in place",
                    s->launch ? s->launch->kernel->name : op_table[s->op].name);
      if (st != p->unbound) TRY(watch_storage(g, st, changed));
    }
  }
  for (int64_t i = 0; i < g->n_watched; i++)
    for (int64_t k = 0; k < g->n_watched; k++)
      if (g->watched[k].changed && (i == k || g->watched[i].st->parent == g->watched[k].st))
        g->watched[i].always_rewritten = true;
  return DLV3_OK;
}

static int64_t lead_of(const tensor *t) { return (int64_t)((uintptr_t)data_of(t) % ALIGN); }

/* A buffer for argument i, with the alignment of the argument: kernels choose by that. */
static status place_argument(dlv3_program *p, graph *g, int32_t i) {
  const tensor *given = p->run_args[i];
  const int64_t lead = lead_of(given), width = dtype_bytes(given->dtype);
  if (g->args[i]) return DLV3_OK;
  if (given->st->device != g->device) return fail(DLV3_ERR_DEVICE, "argument %d is on another device", (int)i + 1);
  if (lead % width) return fail(DLV3_ERR_ARG, "argument %d is not aligned to its elements", (int)i + 1);
  tensor *t;
  TRY(tensor_alias(&t, given));
  storage_drop(t->st);
  t->st = NULL;
  g->bytes[i] = reach(given) * width;
  status st = storage_new(&t->st, lead + g->bytes[i], g->device);
  if (st != DLV3_OK) {
    t->st = storage_retain(p->unbound);
    tensor_drop(t);
    return st;
  }
  t->st->scope = 0;
  t->offset = lead / width;
  g->args[i] = t;
  return DLV3_OK;
}

/* Allocates the buffers and finds the outside storages, once. */
static status prepare_capture(dlv3_program *p, graph *g) {
  if (g->ready) return DLV3_OK;
  g->args = g->args ? g->args : calloc((size_t)p->n_args + 1, sizeof *g->args);
  g->bytes = g->bytes ? g->bytes : calloc((size_t)p->n_args + 1, sizeof *g->bytes);
  if (!g->args || !g->bytes) return no_memory();
  for (int64_t i = 0; i < p->n_bindings; i++) {
    const binding *b = &p->bindings[i];
    TRY(place_argument(p, g, b->arg));
    const int64_t from = b->delta * dtype_bytes(b->header->dtype);
    if (from < 0 || from + reach(b->header) * dtype_bytes(b->header->dtype) > g->bytes[b->arg])
      return fail(DLV3_ERR_ARG, "argument %d is read outside of its elements: it shares memory with another argument",
                  (int)b->arg + 1);
  }
  for (int64_t i = 0; i < p->n_placeholders; i++) {
    placeholder *a = &p->placeholders[i];
    if (!a->result || a->fixed) continue;
    TRY(storage_new(&a->fixed, a->st->bytes, g->device));
    a->fixed->scope = 0;
  }
  g->n_watched = 0;
  bind_headers(p, NULL);
  status st = watch_steps(p, g);
  bind_headers(p, p->run_args);
  g->ready = st == DLV3_OK;
  return st;
}

static void outdate_forms(storage *st, const prepared *but) {
  for (prepared *q = st->prepared; q; q = q->next)
    if (q != but) q->version = -1;
}
/* The form that an op which changes the storage also writes, where it is up to date. NULL where
 * there are several (bf16 and f16): only one of them is written. */
static prepared *renewed_form(const storage *st) {
  prepared *found = NULL;
  for (prepared *q = st->prepared; q; q = q->next) {
    if (q->renewed && found) return NULL;
    if (q->renewed) found = q;
  }
  return found && found->version == arena_version(st) ? found : NULL;
}

/* -- Capture ----------------------------------------------------------------------------------- */

static void discard_graph(graph *g) {
  if (!g->handle) return;
  backend_of(g->device)->graph_free(g->device, g->handle);
  g->handle = NULL;
  if (--n_handles == 0)
    for (int32_t d = 1; device_known(d); d++) memory_capture_forget(d);
}

void graph_drop(dlv3_program *p) {
  graph *g = p->graph;
  if (!g) return;
  discard_graph(g);
  for (int32_t i = 0; i < p->n_args && g->args; i++) tensor_drop(g->args[i]);
  for (int64_t i = 0; i < p->n_placeholders; i++)
    if (p->placeholders[i].fixed) storage_drop(p->placeholders[i].fixed);
  free(g->watched);
  free(g->args);
  free(g->bytes);
  free(g);
  p->graph = NULL;
}

/* Restores the versions from before the capture and outdates the prepared forms, which were not
 * written. */
static void undo_capture(dlv3_program *p, graph *g) {
  for (int64_t i = 0; i < g->n_watched; i++) {
    g->watched[i].st->own_version = g->watched[i].own_version;
    g->watched[i].st->slice_changes = g->watched[i].slice_changes;
    outdate_forms(g->watched[i].st, NULL);
  }
  for (int32_t i = 0; i < p->n_args; i++)
    if (g->args[i]) outdate_forms(g->args[i]->st, NULL);
  for (int64_t i = 0; i < p->n_placeholders; i++) outdate_forms(p->placeholders[i].st, NULL);
}

/* Captures the steps: their kernels are called, and none runs. */
static status capture_steps(dlv3_program *p, graph *g) {
  const backend *b = backend_of(g->device);
  for (int64_t i = 0; i < g->n_watched; i++) {
    watched *w = &g->watched[i];
    w->data = w->st->data;
    w->own_version = w->st->own_version;
    w->slice_changes = w->st->slice_changes;
    w->form = renewed_form(w->st);
    if (w->always_rewritten) outdate_forms(w->st, w->form);
  }
  for (int32_t i = 0; i < p->n_args; i++)
    if (g->args[i]) outdate_forms(g->args[i]->st, NULL);
  status st = b->graph_begin(g->device);
  if (st != DLV3_OK) return keep_reason(st);
  bind_headers(p, g->args);
  bind_placeholders(p, true);
  memory_capture_begin(g->device);
  const executor *before = current_executor;
  executor capturing = eager_executor;
  capturing.synchronizes = false;
  current_executor = &capturing;
  st = run_steps(p);
  current_executor = before;
  if (!memory_capture_end() && st == DLV3_OK) st = fail(DLV3_ERR_INTERNAL, "a kernel kept memory that it allocated");
  bind_headers(p, p->run_args);
  bind_placeholders(p, false);
  if (st != DLV3_OK) keep_reason(st);
  status ended = b->graph_end(g->device, st == DLV3_OK ? &g->handle : NULL);
  if (st == DLV3_OK && ended != DLV3_OK) st = keep_reason(ended);
  if (st != DLV3_OK) {
    undo_capture(p, g);
    return st;
  }
  for (int64_t i = 0; i < g->n_watched; i++) {
    watched *w = &g->watched[i];
    w->bumps = w->st->own_version - w->own_version;
    w->version = arena_version(w->st);
    prepared *form = renewed_form(w->st);
    w->renewed = form && w->changed;
    if (w->renewed) w->form = form;
  }
  g->arena = arena_address();
  g->generation = memory_generation(g->device);
  g->preference = implementation_preference();
  n_handles++;
  g->captures++;
  captures++;
  return DLV3_OK;
}

static status try_capture(dlv3_program *p, graph *g) {
  status st = prepare_capture(p, g);
  st = st == DLV3_OK ? capture_steps(p, g) : keep_reason(st);
  if (st == DLV3_OK || st == DLV3_ERR_INTERRUPTED) return st;
  g->failures++;
  return DLV3_DECLINED;
}

/* For DLV3_VERBOSE: reports whether the program can be captured; the graph is discarded. */
static status report_graph(dlv3_program *p, graph *g) {
  g->reported = true;
  status st = try_capture(p, g);
  if (st == DLV3_OK) {
    undo_capture(p, g);
    discard_graph(g);
  }
  if (st == DLV3_ERR_INTERRUPTED) return st;
  verbose_graph(p->n_steps, st == DLV3_OK ? NULL : refusal);
  return DLV3_DECLINED;
}

/* -- Launch ------------------------------------------------------------------------------------ */

/* Whether addresses and versions are those of the capture. The prepared forms of a weight whose
 * version differs are rewritten by every later graph. */
static bool graph_is_valid(const dlv3_program *p, graph *g) {
  bool same = g->generation == memory_generation(g->device) && g->preference == implementation_preference()
              && (!p->arena_bytes || g->arena == arena_address());
  for (int64_t i = 0; i < g->n_watched; i++) {
    watched *w = &g->watched[i];
    same &= w->st->data == w->data && (!w->form || w->form->version == arena_version(w->st));
    if (!w->st->prepared || w->always_rewritten || w->version == arena_version(w->st)) continue;
    w->always_rewritten = true;
    same = false;
  }
  return same;
}

/* Whether arguments and outside tensors are alive, and the arguments have the alignment of the
 * capture. */
static bool arguments_fit(const dlv3_program *p, const graph *g) {
  for (int64_t i = 0; i < g->n_watched; i++)
    if (!g->watched[i].st->data) return false;
  for (int32_t i = 0; i < p->n_args; i++)
    if (g->args && g->args[i] && (!p->run_args[i]->st->data || lead_of(p->run_args[i]) != lead_of(g->args[i])))
      return false;
  return true;
}

static status launch_graph(dlv3_program *p, graph *g) {
  for (int32_t i = 0; i < p->n_args; i++)
    if (g->args[i]) TRY(device_copy(data_of(g->args[i]), data_of(p->run_args[i]), g->bytes[i], g->device, g->device));
  TRY(backend_of(g->device)->graph_launch(g->device, g->handle));
  launches++;
  for (int64_t i = 0; i < p->n_placeholders; i++) {
    const placeholder *a = &p->placeholders[i];
    if (a->result) TRY(device_copy(a->memory->data, a->fixed->data, a->st->bytes, g->device, g->device));
  }
  return DLV3_OK;
}

/* Increases versions as the calls would have. */
static void increase_versions(graph *g) {
  for (int64_t i = 0; i < g->n_watched; i++) storage_changed(g->watched[i].st, g->watched[i].bumps);
  for (int64_t i = 0; i < g->n_watched; i++)
    if (g->watched[i].renewed) g->watched[i].form->version = arena_version(g->watched[i].st);
}

status graph_run(dlv3_program *p) {
  const int32_t device = p->n_placeholders ? p->placeholders[0].st->device : 0;
  const backend *b = backend_of(device);
  if (!graphs_enabled || !b->graph_begin) return DLV3_DECLINED;
  if (!p->graph) { /* the first run */
    p->graph = calloc(1, sizeof *p->graph);
    if (p->graph) p->graph->device = device;
    return DLV3_DECLINED;
  }
  graph *g = p->graph;
  if (!g->handle && g->failures >= MOST_FAILURES) return DLV3_DECLINED;
  if (ops_synchronized()) return verbose_level && !g->handle && !g->reported ? report_graph(p, g) : DLV3_DECLINED;
  if (!arguments_fit(p, g)) return DLV3_DECLINED;
  if (g->handle && !graph_is_valid(p, g)) {
    discard_graph(g);
    g->wait = g->captures;
  } /* wait longer after each capture */
  if (!g->handle && g->wait > 0) {
    g->wait--;
    return DLV3_DECLINED;
  }
  if (b->check) TRY(b->check(device));
  if (interrupt_wanted()) return fail(DLV3_ERR_INTERRUPTED, "interrupted");
  if (!g->handle) {
    TRY(try_capture(p, g));
    return launch_graph(p, g);
  }
  TRY(launch_graph(p, g));
  increase_versions(g);
  return DLV3_OK;
}

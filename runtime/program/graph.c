/* graph.c - a recorded program as one graph of its device: captured while a run calls the kernels,
 * launched from then on.
 *
 * The first run of a program calls its kernels one by one, so that their plans and prepared weights
 * are there. The next is captured: the kernels are called the same way, but the device takes them
 * down; then the graph is launched, as by every later run. A launch does what the calls did, to the
 * last bit, at the addresses they had. Hence:
 *   - arguments are copied to a place of the program's own before a launch, results from one to fresh memory after it;
 *   - the arena, what lies outside and the kernels' scratch memory (memory.c keeps it apart) must be where they were,
 *     else the program is captured anew;
 *   - versions move as the calls would have moved them.
 * Kernels decide by versions whether a prepared weight is to be made anew. Of a weight that the
 * program changes (or whose version was once found moved) the prepared forms are outdated before
 * the capture, so that making them is part of the graph; of others they are not, and the graph
 * holds as long as the version does. So it is with forms that the step renews: a launch begins and
 * ends with them as they are to be.
 *
 * What can not be captured - a kernel that waits for the device, an argument that is changed in
 * place - leaves the program with call after call, which is always right. DLV3_GRAPH=0 asks for
 * that, DLV3_SYNC and DLV3_VERBOSE imply it. */
#include <stdio.h>
#include <stdlib.h>

#include "core/dispatch.h"
#include "core/executor.h"
#include "core/memory.h"
#include "core/verbose.h"
#include "program.h"

enum { ALIGN = 64, MOST_FAILURES = 2 }; /* what a kernel made and kept in the first attempt is there in the second */

typedef struct {
  storage *st;                                 /* held by the program's headers                           */
  const char *data;                            /* where it lay                                            */
  int64_t own_version, slice_changes, version; /* before the capture; after it                 */
  int64_t bumps;                               /* how far a run moves own_version                         */
  bool changed, outdated;                      /* a step writes it; its prepared forms are always made    */
  prepared *form;                              /* of an arena, right when a launch begins; NULL: not counted on */
  bool renewed;                                /* and when it ends                                        */
} watched;

struct graph {
  void *handle; /* the backend's; NULL: none now                           */
  int32_t device, captures, wait, failures;
  bool ready, told;
  watched *watched;
  int64_t n_watched, room;
  tensor **args;  /* where the graph reads them; NULL: it does not           */
  int64_t *bytes; /* from an argument's first element to behind its last     */
  const char *arena;
  int64_t generation, preference; /* of the memory; of the kernels that are tried first      */
};

static bool wanted = true; /* DLV3_GRAPH                                              */
static int32_t n_handles;
static int64_t captures, launches;
static char refused[1000];

__attribute__((constructor)) static void read_environment(void) {
  const char *text = getenv("DLV3_GRAPH");
  wanted = !text || strcmp(text, "0");
}

DLV3_API int64_t dlv3_graph_captures(void) { return captures; }
DLV3_API int64_t dlv3_graph_launches(void) { return launches; }
DLV3_API const char *dlv3_graph_refused(void) { return refused; }

/* Why there is no graph; what fails after it on the way out says less. */
static status keep_reason(status st) {
  snprintf(refused, sizeof refused, "%s", dlv3_last_error());
  return st;
}

static status no_memory(void) { return fail(DLV3_ERR_OOM, "compile: out of memory for a graph"); }

/* -- What a graph stands on -------------------------------------------------------------------- */

static status watch(graph *g, storage *st, bool changed) {
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

/* All storages that steps read or write and the program does not bring itself. Headers of arguments
 * lie on p->nothing meanwhile, which tells them from outside tensors. */
static status watch_steps(dlv3_program *p, graph *g) {
  for (int64_t k = 0; k < p->n_steps; k++) {
    const step *s = &p->steps[k];
    for (int32_t i = 0; i < s->n_in; i++) {
      const bool changed = s->launch ? s->launch->kind[i] != 0 : (op_table[s->op].in_place >> i & 1) != 0;
      storage *st = s->in[i] ? s->in[i]->st : NULL;
      if (!st || st->borrowed) continue;
      if (st == p->nothing && changed)
        return fail(DLV3_ERR_ARG, "%s changes an argument in place",
                    s->launch ? s->launch->kernel->name : op_table[s->op].name);
      if (st != p->nothing) TRY(watch(g, st, changed));
    }
  }
  for (int64_t i = 0; i < g->n_watched; i++)
    for (int64_t k = 0; k < g->n_watched; k++)
      if (g->watched[k].changed && (i == k || g->watched[i].st->parent == g->watched[k].st))
        g->watched[i].outdated = true;
  return DLV3_OK;
}

static int64_t lead_of(const tensor *t) { return (int64_t)((uintptr_t)data_of(t) % ALIGN); }

/* A place for argument i, as far from a boundary as the argument itself: kernels choose by that. */
static status place_argument(dlv3_program *p, graph *g, int32_t i) {
  const tensor *given = p->given[i];
  const int64_t lead = lead_of(given), width = dtype_bytes(given->dtype);
  if (g->args[i]) return DLV3_OK;
  if (given->st->device != g->device) return fail(DLV3_ERR_DEVICE, "argument %d is on another device", (int)i + 1);
  if (lead % width) return fail(DLV3_ERR_ARG, "argument %d lies between two elements", (int)i + 1);
  tensor *t;
  TRY(tensor_alias(&t, given));
  storage_drop(t->st);
  t->st = NULL;
  g->bytes[i] = reach(given) * width;
  status st = storage_new(&t->st, lead + g->bytes[i], g->device);
  if (st != DLV3_OK) {
    t->st = storage_retain(p->nothing);
    tensor_drop(t);
    return st;
  }
  t->st->scope = 0;
  t->offset = lead / width;
  g->args[i] = t;
  return DLV3_OK;
}

/* Finds or makes all of it, once. */
static status make_ready(dlv3_program *p, graph *g) {
  if (g->ready) return DLV3_OK;
  g->args = g->args ? g->args : calloc((size_t)p->n_args + 1, sizeof *g->args);
  g->bytes = g->bytes ? g->bytes : calloc((size_t)p->n_args + 1, sizeof *g->bytes);
  if (!g->args || !g->bytes) return no_memory();
  for (int64_t i = 0; i < p->n_bindings; i++) {
    const binding *b = &p->bindings[i];
    TRY(place_argument(p, g, b->arg));
    const int64_t from = b->delta * dtype_bytes(b->header->dtype);
    if (from < 0 || from + reach(b->header) * dtype_bytes(b->header->dtype) > g->bytes[b->arg])
      return fail(DLV3_ERR_ARG, "argument %d is read outside of its elements: it shares memory with another",
                  (int)b->arg + 1);
  }
  for (int64_t i = 0; i < p->n_promises; i++) {
    promise *a = &p->promises[i];
    if (!a->result || a->fixed) continue;
    TRY(storage_new(&a->fixed, a->st->bytes, g->device));
    a->fixed->scope = 0;
  }
  g->n_watched = 0;
  bind_headers(p, NULL);
  status st = watch_steps(p, g);
  bind_headers(p, p->given);
  g->ready = st == DLV3_OK;
  return st;
}

static void outdate(storage *st, const prepared *but) {
  for (prepared *q = st->prepared; q; q = q->next)
    if (q != but) q->version = -1;
}
/* The form that whoever changes the storage writes too, while it is right. Of several, bf16 and
 * f16, only one is written, and none is counted on. */
static prepared *renewed_form(const storage *st) {
  prepared *found = NULL;
  for (prepared *q = st->prepared; q; q = q->next) {
    if (q->renewed && found) return NULL;
    if (q->renewed) found = q;
  }
  return found && found->version == arena_version(st) ? found : NULL;
}

/* -- Capture ----------------------------------------------------------------------------------- */

static void discard(graph *g) {
  if (!g->handle) return;
  backend_of(g->device)->graph_free(g->device, g->handle);
  g->handle = NULL;
  if (--n_handles == 0)
    for (int32_t d = 1; device_known(d); d++) memory_capture_forget(d);
}

void graph_drop(dlv3_program *p) {
  graph *g = p->graph;
  if (!g) return;
  discard(g);
  for (int32_t i = 0; i < p->n_args && g->args; i++) tensor_drop(g->args[i]);
  for (int64_t i = 0; i < p->n_promises; i++)
    if (p->promises[i].fixed) storage_drop(p->promises[i].fixed);
  free(g->watched);
  free(g->args);
  free(g->bytes);
  free(g);
  p->graph = NULL;
}

/* As if nothing had been called: what kernels prepared meanwhile was never written. */
static void undo(dlv3_program *p, graph *g) {
  for (int64_t i = 0; i < g->n_watched; i++) {
    g->watched[i].st->own_version = g->watched[i].own_version;
    g->watched[i].st->slice_changes = g->watched[i].slice_changes;
    outdate(g->watched[i].st, NULL);
  }
  for (int32_t i = 0; i < p->n_args; i++)
    if (g->args[i]) outdate(g->args[i]->st, NULL);
  for (int64_t i = 0; i < p->n_promises; i++) outdate(p->promises[i].st, NULL);
}

/* The kernels are called, nothing runs. */
static status capture(dlv3_program *p, graph *g) {
  const backend *b = backend_of(g->device);
  for (int64_t i = 0; i < g->n_watched; i++) {
    watched *w = &g->watched[i];
    w->data = w->st->data;
    w->own_version = w->st->own_version;
    w->slice_changes = w->st->slice_changes;
    w->form = renewed_form(w->st);
    if (w->outdated) outdate(w->st, w->form);
  }
  for (int32_t i = 0; i < p->n_args; i++)
    if (g->args[i]) outdate(g->args[i]->st, NULL);
  status st = b->graph_begin(g->device);
  if (st != DLV3_OK) return keep_reason(st);
  bind_headers(p, g->args);
  bind_promises(p, true);
  memory_capture_begin(g->device);
  const executor *before = current_executor;
  executor capturing = eager_executor;
  capturing.synchronizes = false;
  current_executor = &capturing;
  st = run_steps(p);
  current_executor = before;
  if (!memory_capture_end() && st == DLV3_OK) st = fail(DLV3_ERR_INTERNAL, "a kernel kept memory");
  bind_headers(p, p->given);
  bind_promises(p, false);
  if (st != DLV3_OK) keep_reason(st);
  status ended = b->graph_end(g->device, st == DLV3_OK ? &g->handle : NULL);
  if (st == DLV3_OK && ended != DLV3_OK) st = keep_reason(ended);
  if (st != DLV3_OK) {
    undo(p, g);
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
  status st = make_ready(p, g);
  st = st == DLV3_OK ? capture(p, g) : keep_reason(st);
  if (st == DLV3_OK || st == DLV3_ERR_INTERRUPTED) return st;
  g->failures++;
  return DLV3_DECLINED;
}

/* Says whether the calls can be one graph, and leaves them as they are. */
static status tell(dlv3_program *p, graph *g) {
  g->told = true;
  status st = try_capture(p, g);
  if (st == DLV3_OK) {
    undo(p, g);
    discard(g);
  }
  if (st == DLV3_ERR_INTERRUPTED) return st;
  verbose_graph(p->n_steps, st == DLV3_OK ? NULL : refused);
  return DLV3_DECLINED;
}

/* -- Launch ------------------------------------------------------------------------------------ */

/* Whether everything is where the graph has it. A weight whose version moved is outdated by every
 * later capture. */
static bool holds(const dlv3_program *p, graph *g) {
  bool same = g->generation == memory_generation(g->device) && g->preference == implementation_preference()
              && (!p->arena_bytes || g->arena == arena_address());
  for (int64_t i = 0; i < g->n_watched; i++) {
    watched *w = &g->watched[i];
    same &= w->st->data == w->data && (!w->form || w->form->version == arena_version(w->st));
    if (!w->st->prepared || w->outdated || w->version == arena_version(w->st)) continue;
    w->outdated = true;
    same = false;
  }
  return same;
}

/* Whether arguments and outside tensors are alive, and the arguments lie as the captured ones did. */
static bool fits(const dlv3_program *p, const graph *g) {
  for (int64_t i = 0; i < g->n_watched; i++)
    if (!g->watched[i].st->data) return false;
  for (int32_t i = 0; i < p->n_args; i++)
    if (g->args && g->args[i] && (!p->given[i]->st->data || lead_of(p->given[i]) != lead_of(g->args[i]))) return false;
  return true;
}

static status launch(dlv3_program *p, graph *g) {
  for (int32_t i = 0; i < p->n_args; i++)
    if (g->args[i]) TRY(device_copy(data_of(g->args[i]), data_of(p->given[i]), g->bytes[i], g->device, g->device));
  TRY(backend_of(g->device)->graph_launch(g->device, g->handle));
  launches++;
  for (int64_t i = 0; i < p->n_promises; i++) {
    const promise *a = &p->promises[i];
    if (a->result) TRY(device_copy(a->lent->data, a->fixed->data, a->st->bytes, g->device, g->device));
  }
  return DLV3_OK;
}

/* As the calls would have. */
static void move_versions(graph *g) {
  for (int64_t i = 0; i < g->n_watched; i++) storage_changed(g->watched[i].st, g->watched[i].bumps);
  for (int64_t i = 0; i < g->n_watched; i++)
    if (g->watched[i].renewed) g->watched[i].form->version = arena_version(g->watched[i].st);
}

status graph_run(dlv3_program *p) {
  const int32_t device = p->n_promises ? p->promises[0].st->device : 0;
  const backend *b = backend_of(device);
  if (!wanted || !b->graph_begin) return DLV3_DECLINED;
  if (!p->graph) { /* the first run */
    p->graph = calloc(1, sizeof *p->graph);
    if (p->graph) p->graph->device = device;
    return DLV3_DECLINED;
  }
  graph *g = p->graph;
  if (!g->handle && g->failures >= MOST_FAILURES) return DLV3_DECLINED;
  if (ops_synchronized()) return verbose_level && !g->handle && !g->told ? tell(p, g) : DLV3_DECLINED;
  if (!fits(p, g)) return DLV3_DECLINED;
  if (g->handle && !holds(p, g)) {
    discard(g);
    g->wait = g->captures;
  } /* what moves often is not captured as often */
  if (!g->handle && g->wait > 0) {
    g->wait--;
    return DLV3_DECLINED;
  }
  if (b->check) TRY(b->check(device));
  if (interrupt_wanted()) return fail(DLV3_ERR_INTERRUPTED, "interrupted");
  if (!g->handle) {
    TRY(try_capture(p, g));
    return launch(p, g);
  }
  TRY(launch(p, g));
  move_versions(g);
  return DLV3_OK;
}

/* record.c - record and replay: a function's op calls as a program that runs without Lua and
 * without allocating.
 *
 * Recording computes nothing. dlv3_record_begin installs an executor (core/executor.h) and
 * dlv3_record_end removes it. Between them every call passes dispatch.c as usual - shapes, dtypes,
 * the tape, backward rules - but the executor appends it to the program instead of running its
 * kernel. Its outputs are placeholders: storages with a unique address and no memory. Recording
 * therefore takes no memory for tensors, and no value can be read meanwhile.
 *
 * A program has four kinds of storages: arguments, which every run provides; outside storages
 * (parameters, running statistics, random state), which the program references; results, which
 * every run allocates, so that a run does not overwrite the results of the last; and
 * intermediates. Intermediates get an offset in one arena when the recording ends. Two of them
 * share memory where their lifetimes do not overlap, or where the later one is written over the
 * earlier one; the largest are placed first. All programs share the arena, since nothing in it
 * outlives a run.
 *
 * A run binds addresses and calls the kernels in order: the same kernels on the same shapes as
 * without a program, hence the same bits. On a device with graphs, graph.c captures the second run
 * of a program and launches the graph from then on. */
#include <stdlib.h>

#include "core/dispatch.h"
#include "core/executor.h"
#include "program.h"

enum { ALIGN = 64 };

static dlv3_program *current;
static const uintptr_t ADDRESS_BASE = (uintptr_t)1 << 62; /* above all addresses of a process */
static uintptr_t next_address;
static storage *arena;
static int32_t n_programs;

bool recording(void) { return current != NULL; }
DLV3_API int32_t dlv3_recording(void) { return current != NULL; }

/* Whether st is a placeholder of the program that is being recorded. */
static bool is_placeholder(const storage *st) { return (uintptr_t)st->data >= ADDRESS_BASE; }

/* Grows an array of n elements that has room for *room, where another one does not fit. */
static status grow_array(void *array, int64_t n, int64_t *room, size_t width) {
  if (n < *room) return DLV3_OK;
  int64_t more = *room ? 2 * *room : 64;
  void *grown = realloc(*(void **)array, (size_t)more * width);
  if (!grown) return fail(DLV3_ERR_OOM, "compile: out of memory for the program");
  *(void **)array = grown;
  *room = more;
  return DLV3_OK;
}

/* -- Recording --------------------------------------------------------------------------------- */

static status record_storage(storage *s) {
  TRY(grow_array(&current->placeholders, current->n_placeholders, &current->placeholder_room,
                 sizeof *current->placeholders));
  if ((uintptr_t)s->bytes > ADDRESS_BASE / 2 || next_address > ADDRESS_BASE + ADDRESS_BASE / 2)
    return fail(DLV3_ERR_OOM, "out of memory: compile: a tensor of %lld bytes", (long long)s->bytes);
  s->data = (char *)next_address;
  s->borrowed = true;
  next_address += ((uintptr_t)s->bytes + 2 * ALIGN - 1) & ~(uintptr_t)(ALIGN - 1);
  current->placeholders[current->n_placeholders++] =
      (placeholder){.st = storage_retain(s), .address = s->data, .first = -1, .last = -1};
  return DLV3_OK;
}

static placeholder *placeholder_of(dlv3_program *p, const char *address) {
  int64_t low = 0, high = p->n_placeholders - 1;
  while (low < high) {
    int64_t middle = (low + high + 1) / 2;
    if (p->placeholders[middle].address <= address)
      low = middle;
    else
      high = middle - 1;
  }
  return &p->placeholders[low];
}

/* The argument that t is a window on; -1: none, such as a tensor elsewhere in an argument's
 * storage. A tensor that is both an argument and an outside tensor counts as the argument. */
static int32_t argument_of(const dlv3_program *p, const tensor *t) {
  for (int32_t i = 0; i < p->n_args; i++) {
    const tensor *a = p->args[i];
    if (a->st == t->st && (!numel(t) || (t->offset >= a->offset && t->offset + reach(t) <= a->offset + reach(a))))
      return i;
  }
  return -1;
}

/* A header of t for the current step. One of an argument is bound by every run; an outside leaf is
 * stored with its storage. */
static status record_tensor(tensor **out, tensor *t) {
  dlv3_program *p = current;
  *out = NULL;
  if (!t) return DLV3_OK;
  TRY(tensor_alias(out, t));
  if (is_placeholder(t->st)) {
    placeholder *a = placeholder_of(p, t->st->data);
    if (a->first < 0) a->first = p->n_steps - 1;
    a->last = p->n_steps - 1;
    a->headers++;
    return DLV3_OK;
  }
  const int32_t arg = argument_of(p, t);
  if (arg >= 0) {
    TRY(grow_array(&p->bindings, p->n_bindings, &p->binding_room, sizeof *p->bindings));
    p->bindings[p->n_bindings++] = (binding){*out, arg, t->offset - p->args[arg]->offset};
    return DLV3_OK;
  }
  if (t->node) return DLV3_OK;
  for (int64_t i = 0; i < p->n_outsides; i++)
    if (p->outsides[i].t == t) return DLV3_OK;
  TRY(grow_array(&p->outsides, p->n_outsides, &p->outside_room, sizeof *p->outsides));
  p->outsides[p->n_outsides++] = (outside){tensor_retain(t), storage_retain(t->st), t->requires_grad};
  return DLV3_OK;
}

/* A step that failed for lack of memory leaves the program incomplete: the call may be repeated,
 * but the program can not be used. */
static status recorded_step(status st) {
  current->incomplete |= st != DLV3_OK;
  return st;
}

static status append_call(const op_call *c) {
  dlv3_program *p = current;
  TRY(grow_array(&p->steps, p->n_steps, &p->step_room, sizeof *p->steps));
  step *s = &p->steps[p->n_steps++];
  *s = (step){.op = c->op, .n_in = c->n_in};
  s->in = calloc((size_t)c->n_in + 1, sizeof *s->in);
  s->attr = calloc((size_t)c->info->attr_slots + 1, sizeof *s->attr);
  if (!s->in || !s->attr) return fail(DLV3_ERR_OOM, "compile: out of memory for the program");
  if (c->info->attr_slots) memcpy(s->attr, c->attr, (size_t)c->info->attr_slots * sizeof *s->attr);
  for (int32_t i = 0; i < c->n_in; i++) TRY(record_tensor(&s->in[i], c->in[i]));
  for (int32_t i = 0; i < c->n_out; i++) TRY(record_tensor(&s->out[i], c->out[i]));
  return DLV3_OK;
}
static status record_call(op_call *c) { return recorded_step(append_call(c)); }

static status append_launch(const kernel_launch *l, tensor *const *in) {
  dlv3_program *p = current;
  TRY(grow_array(&p->steps, p->n_steps, &p->step_room, sizeof *p->steps));
  step *s = &p->steps[p->n_steps++];
  *s = (step){.op = OP_COUNT, .n_in = l->n};
  s->in = calloc((size_t)l->n + 1, sizeof *s->in);
  s->launch = malloc(sizeof *s->launch);
  if (!s->in || !s->launch) return fail(DLV3_ERR_OOM, "compile: out of memory for the program");
  *s->launch = *l;
  for (int32_t i = 0; i < l->n; i++) TRY(record_tensor(&s->in[i], in[i]));
  return DLV3_OK;
}
status record_launch(const kernel_launch *l, tensor *const *in) { return recorded_step(append_launch(l, in)); }

/* -- The executor while a function is recorded
 * --------------------------------------------------- */

static status refuse_host_access(const char *what) {
  return fail(DLV3_ERR_ARG,
              "%s: no value can be read or written on the host while dlv3.compile records the function; give it as an "
              "argument, or return the tensor and read it outside",
              what);
}

/* A node of another executor was made before the recording began: a program with it would go back
 * through the first call's node in every run. */
static status refuse_foreign_node(const node *n, const char *op) {
  if (n->executor == current_executor) return DLV3_OK;
  return fail(DLV3_ERR_AUTOGRAD,
              "backward: dlv3.compile records the function, but the result of %s, which the loss was computed from, "
              "was made before: make it inside of the function too, or detach() it",
              op);
}

/* References that placeholders and steps of the program hold. */
static int32_t recorded_references(const storage *st) {
  if (!is_placeholder(st)) return 0;
  return 1 + placeholder_of(current, st->data)->headers;
}

static const executor recorder = {
    .allocate = record_storage,
    .execute = record_call,
    .host_access = refuse_host_access,
    .backward_through = refuse_foreign_node,
    .references = recorded_references,
    .synchronizes = true,
};

DLV3_API void dlv3_program_free(dlv3_program *p) {
  if (!p) return;
  for (int64_t k = 0; k < p->n_steps; k++) {
    step *s = &p->steps[k];
    for (int32_t i = 0; i < s->n_in && s->in; i++) tensor_drop(s->in[i]);
    for (int32_t i = 0; i < DLV3_MAX_OUTPUTS; i++) tensor_drop(s->out[i]);
    free(s->in);
    free(s->attr);
    free(s->launch);
  }
  for (int32_t i = 0; i < p->n_args; i++) tensor_drop(p->args[i]);
  for (int32_t i = 0; i < p->n_results; i++) tensor_drop(p->results[i]);
  graph_drop(p);
  for (int64_t i = 0; i < p->n_outsides; i++) {
    tensor_drop(p->outsides[i].t);
    storage_drop(p->outsides[i].st);
  }
  for (int64_t i = 0; i < p->n_placeholders; i++) {
    p->placeholders[i].st->data = NULL;
    storage_drop(p->placeholders[i].st);
  }
  if (p->unbound) storage_drop(p->unbound);
  free(p->steps);
  free(p->placeholders);
  free(p->bindings);
  free(p->outsides);
  free(p->args);
  free(p->run_args);
  free(p->results);
  free(p);
  if (--n_programs == 0 && arena) {
    storage_drop(arena);
    arena = NULL;
  }
}

DLV3_API dlv3_status dlv3_record_begin(dlv3_tensor *const *args, int32_t n_args) {
  if (current) return fail(DLV3_ERR_INTERNAL, "compile: a function is being recorded already");
  dlv3_program *p = calloc(1, sizeof *p);
  if (!p) return fail(DLV3_ERR_OOM, "compile: out of memory for the program");
  n_programs++;
  status st = storage_new(&p->unbound, 0, 0);
  if (st == DLV3_OK) {
    storage_release(p->unbound);
    p->unbound->scope = 0;
  }
  p->args = calloc((size_t)n_args + 1, sizeof *p->args);
  p->run_args = calloc((size_t)n_args + 1, sizeof *p->run_args);
  if (st == DLV3_OK && (!p->args || !p->run_args)) st = fail(DLV3_ERR_OOM, "compile: out of memory for the program");
  for (; st == DLV3_OK && p->n_args < n_args; p->n_args++)
    if ((st = tensor_alias(&p->args[p->n_args], args[p->n_args])) != DLV3_OK) break;
  if (st == DLV3_OK) {
    current = p;
    next_address = ADDRESS_BASE;
    current_executor = &recorder;
  } else
    dlv3_program_free(p);
  return st;
}

/* Placeholders have no memory until a run binds them; handles that the function kept are stale. */
static void withdraw_placeholders(dlv3_program *p) {
  for (int64_t i = 0; i < p->n_placeholders; i++) {
    p->placeholders[i].st->data = NULL;
    p->placeholders[i].st->scope = 0;
  }
}

void bind_headers(dlv3_program *p, tensor *const *args) {
  for (int64_t i = 0; i < p->n_bindings; i++) {
    binding *b = &p->bindings[i];
    storage *st = storage_retain(args ? args[b->arg]->st : p->unbound);
    storage_drop(b->header->st);
    b->header->st = st;
    if (args) b->header->offset = args[b->arg]->offset + b->delta;
  }
}

DLV3_API void dlv3_record_abort(void) {
  if (!current) return;
  withdraw_placeholders(current);
  dlv3_program_free(current);
  current = NULL;
  current_executor = &eager_executor;
}

/* -- The plan ---------------------------------------------------------------------------------- */

/* Outputs that may be written over an input of the same size: every kernel of the op reads an
 * element before it writes there, and does not read it again. */
static const struct {
  int32_t op, out, in;
} over_input[] = {{OP_batch_norm_backward, 0, 1}, {OP_batch_norm_backward, 1, 0}};

static bool fills_storage(const tensor *t) { return !t->offset && tensor_bytes(t) == t->st->bytes; }

/* Puts output `out` of step k in the memory of its input `in`, if that is an intermediate that no
 * later step reads. */
static void write_over_input(dlv3_program *p, int64_t k, int32_t out, int32_t in) {
  const step *s = &p->steps[k];
  const tensor *x = s->in[in], *y = s->out[out];
  if (!x || !y || !is_placeholder(x->st) || !fills_storage(x) || !fills_storage(y) || x->st->bytes != y->st->bytes)
    return;
  for (int32_t i = 0; i < s->n_in; i++)
    if (i != in && s->in[i] && s->in[i]->st == x->st) return;
  placeholder *from = placeholder_of(p, x->st->data), *to = placeholder_of(p, y->st->data);
  if (from->result || to->result || from->last != k || to->first != k) return;
  to->over = from->over ? from->over : from;
  if (to->over->last < to->last) to->over->last = to->last;
}

static void write_over_inputs(dlv3_program *p) {
  for (int64_t k = 0; k < p->n_steps; k++)
    for (size_t i = 0; i < sizeof over_input / sizeof *over_input; i++)
      if (p->steps[k].op == over_input[i].op) write_over_input(p, k, over_input[i].out, over_input[i].in);
}

static const dlv3_program *sorting;
static int larger_first(const void *a, const void *b) {
  const placeholder *x = &sorting->placeholders[*(const int64_t *)a], *y = &sorting->placeholders[*(const int64_t *)b];
  if (x->st->bytes != y->st->bytes) return x->st->bytes < y->st->bytes ? 1 : -1;
  return *(const int64_t *)a < *(const int64_t *)b ? -1 : 1;
}

/* An empty tensor has room too: without an address it would count as released. */
static int64_t padded_bytes(const placeholder *a) {
  return a->st->bytes ? (a->st->bytes + ALIGN - 1) / ALIGN * ALIGN : ALIGN;
}

/* Gives every intermediate, the largest first, the lowest offset that is free during its lifetime.
 * placed: those placed so far, by offset. */
static void place_intermediates(dlv3_program *p, int64_t *order, int64_t *placed) {
  int64_t n = 0, m = 0;
  for (int64_t i = 0; i < p->n_placeholders; i++)
    if (p->placeholders[i].first >= 0 && !p->placeholders[i].result && !p->placeholders[i].over) order[n++] = i;
  sorting = p;
  qsort(order, (size_t)n, sizeof *order, larger_first);
  for (int64_t k = 0; k < n; k++) {
    placeholder *a = &p->placeholders[order[k]];
    int64_t offset = 0, at;
    for (int64_t i = 0; i < m; i++) {
      const placeholder *b = &p->placeholders[placed[i]];
      if (b->last < a->first || a->last < b->first) continue;
      if (b->offset >= offset + padded_bytes(a)) break;
      if (b->offset + padded_bytes(b) > offset) offset = b->offset + padded_bytes(b);
    }
    a->offset = offset;
    for (at = m++; at > 0 && p->placeholders[placed[at - 1]].offset > offset; at--) placed[at] = placed[at - 1];
    placed[at] = order[k];
    if (offset + padded_bytes(a) > p->arena_bytes) p->arena_bytes = offset + padded_bytes(a);
  }
  for (int64_t i = 0; i < p->n_placeholders; i++)
    if (p->placeholders[i].over) p->placeholders[i].offset = p->placeholders[i].over->offset;
}

DLV3_API dlv3_status dlv3_record_end(dlv3_program **out, dlv3_tensor *const *results, int32_t n_results) {
  dlv3_program *p = current;
  status st = DLV3_OK;
  if (!p) return fail(DLV3_ERR_INTERNAL, "compile: nothing is being recorded");
  p->results = calloc((size_t)n_results + 1, sizeof *p->results);
  int64_t *order = malloc((size_t)(2 * p->n_placeholders + 1) * sizeof *order);
  if (!p->results || !order || p->incomplete) st = fail(DLV3_ERR_OOM, "compile: out of memory for the program");
  for (int32_t i = 0; i < n_results && st == DLV3_OK; i++) {
    if (!storage_alive(results[i]->st))
      st = fail(DLV3_ERR_RELEASED, "compile: result %d was released, by release() or when its scope ended", (int)i + 1);
    else if (results[i]->node && !results[i]->node->done)
      st = fail(DLV3_ERR_AUTOGRAD,
                "compile: result %d needs its tape for a backward pass, which a program does not keep: call backward "
                "inside the function, or the compiled function under dlv3.no_grad",
                (int)i + 1);
    if (st == DLV3_OK) st = record_tensor(&p->results[i], results[i]);
    p->n_results += p->results[i] != NULL;
    if (st == DLV3_OK && is_placeholder(results[i]->st)) placeholder_of(p, results[i]->st->data)->result = true;
  }
  if (st == DLV3_OK) write_over_inputs(p);
  if (st == DLV3_OK) place_intermediates(p, order, order + p->n_placeholders);
  free(order);
  if (st != DLV3_OK) {
    dlv3_record_abort();
    return st;
  }
  withdraw_placeholders(p);
  bind_headers(p, NULL);
  current = NULL;
  current_executor = &eager_executor;
  *out = p;
  return DLV3_OK;
}

static const tensor *header_on(const dlv3_program *p, const storage *st) {
  for (int64_t k = 0; k < p->n_steps; k++) {
    const step *s = &p->steps[k];
    for (int32_t i = 0; i < DLV3_MAX_OUTPUTS; i++)
      if (s->out[i] && s->out[i]->st == st) return s->out[i];
    for (int32_t i = 0; i < s->n_in; i++)
      if (s->in[i] && s->in[i]->st == st) return s->in[i];
  }
  return NULL;
}

DLV3_API const char *dlv3_program_escaped(const dlv3_program *p) {
  static char text[TEXT];
  for (int64_t i = 0; i < p->n_placeholders; i++) {
    const placeholder *a = &p->placeholders[i];
    const tensor *t = a->st->refs > 1 + a->headers ? header_on(p, a->st) : NULL;
    if (t) return tensor_text(text, "", t);
  }
  return "";
}

DLV3_API int64_t dlv3_program_arena(const dlv3_program *p) { return p->arena_bytes; }
DLV3_API int64_t dlv3_program_steps(const dlv3_program *p) { return p->n_steps; }

/* -- Replay ------------------------------------------------------------------------------------ */

DLV3_API int32_t dlv3_program_current(const dlv3_program *p) {
  for (int64_t i = 0; i < p->n_outsides; i++)
    if (p->outsides[i].t->st != p->outsides[i].st || p->outsides[i].t->requires_grad != p->outsides[i].requires_grad)
      return 0;
  return 1;
}

/* Ends a run, complete or not. */
static void unbind_program(dlv3_program *p) {
  for (int64_t i = 0; i < p->n_placeholders; i++) {
    placeholder *a = &p->placeholders[i];
    a->st->data = NULL;
    if (a->memory) {
      storage_drop(a->memory);
      a->memory = NULL;
    }
  }
  for (int32_t i = 0; i < p->n_args; i++) {
    tensor_drop(p->run_args[i]);
    p->run_args[i] = NULL;
  }
  bind_headers(p, NULL);
}

void bind_placeholders(dlv3_program *p, bool fixed) {
  for (int64_t i = 0; i < p->n_placeholders; i++) {
    placeholder *a = &p->placeholders[i];
    if (a->result)
      a->st->data = (fixed ? a->fixed : a->memory)->data;
    else
      a->st->data = a->first >= 0 && arena ? arena->data + a->offset : NULL;
  }
}

const char *arena_address(void) { return arena ? arena->data : NULL; }

/* Allocates the arena and the results of a run, and binds all placeholders. */
static status bind_memory(dlv3_program *p) {
  if (!p->n_placeholders) return DLV3_OK;
  int32_t device = p->placeholders[0].st->device;
  if (p->arena_bytes && (!arena || arena->bytes < p->arena_bytes || arena->device != device)) {
    if (arena) {
      storage_drop(arena);
      arena = NULL;
    }
    dlv3_memory_flush(device); /* cached blocks of the steps before compiling */
    TRY(storage_new(&arena, p->arena_bytes, device));
    arena->scope = 0; /* it outlives the scope of the run */
  }
  for (int64_t i = 0; i < p->n_placeholders; i++) {
    placeholder *a = &p->placeholders[i];
    if (a->st->device != device)
      return fail(DLV3_ERR_DEVICE, "compile: the function uses several devices; move its tensors to one device");
    if (a->result) TRY(storage_new(&a->memory, a->st->bytes, device));
    storage_changed(a->st, 1); /* outdates prepared forms of the last run's content */
  }
  bind_placeholders(p, false);
  return DLV3_OK;
}

status run_steps(dlv3_program *p) {
  for (int64_t k = 0; k < p->n_steps; k++) {
    step *s = &p->steps[k];
    op_call c;
    if (s->launch) {
      TRY(kernel_execute(s->launch, s->in));
      continue;
    }
    memset(&c, 0, sizeof c);
    c.op = s->op;
    c.info = &op_table[s->op];
    c.n_in = s->n_in;
    c.in = s->in;
    c.attr = s->attr;
    c.n_out = c.info->n_out;
    memcpy(c.out, s->out, sizeof s->out);
    if (interrupt_wanted()) return fail(DLV3_ERR_INTERRUPTED, "interrupted");
    for (int32_t i = 0; i < s->n_in; i++) {
      if (!s->in[i]) continue;
      if (!storage_alive(s->in[i]->st))
        return fail_call(&c, DLV3_ERR_RELEASED, "%s was released since dlv3.compile recorded the call",
                         c.info->variadic ? c.info->in_name[0] : c.info->in_name[i]);
      if (!(c.info->flags & PACKED && i == 1)) TRY(storage_restore(s->in[i]->st));
    }
    TRY(op_execute(&c));
  }
  return DLV3_OK;
}

/* A result for the caller: on its own memory of this run, or on that of an argument or an outside
 * tensor. */
static status make_result(tensor **out, dlv3_program *p, const tensor *header) {
  TRY(tensor_alias(out, header));
  for (int64_t i = 0; i < p->n_placeholders; i++) {
    if (p->placeholders[i].st != header->st) continue;
    storage_drop((*out)->st);
    (*out)->st = storage_retain(p->placeholders[i].memory);
  }
  return DLV3_OK;
}

DLV3_API dlv3_status dlv3_program_prepare(dlv3_program *p, dlv3_tensor *const *args) {
  bind_headers(p, args);
  for (int32_t i = 0; i < p->n_args; i++) p->run_args[i] = tensor_retain(args[i]);
  status st = bind_memory(p);
  if (st != DLV3_OK) unbind_program(p);
  return st;
}

DLV3_API dlv3_status dlv3_program_run(dlv3_program *p, dlv3_tensor **results) {
  int32_t made = 0;
  status st = graph_run(p);
  if (st == DLV3_DECLINED) st = run_steps(p);
  for (; made < p->n_results && st == DLV3_OK; made++) st = make_result(&results[made], p, p->results[made]);
  for (; st != DLV3_OK && made > 0; made--) tensor_drop(results[made - 1]);
  unbind_program(p);
  return st;
}

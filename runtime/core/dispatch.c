/* dispatch.c - dlv3_call: the only way from a caller to a kernel.
 *
 *   check handles and devices -> promote dtypes -> infer -> make inputs dense -> allocate outputs
 *     -> first implementation that does not decline -> versions -> tape
 *
 * Backward rules and optimizers use it too (op_run), so that checking, timing and recording have
 * one place. */
#include "dispatch.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "backend.h"
#include "executor.h"
#include "verbose.h"

static _Thread_local const char *declined_reason;
static bool sync_each; /* DLV3_SYNC=1: errors of a kernel are reported at its op */
static char forced_impl[32];
static int64_t preference;
static const char *chosen[OP_COUNT];
static int64_t engines[OP_COUNT];    /* of the implementations in chosen */
static _Thread_local int64_t engine; /* of the implementation that runs */

DLV3_API dlv3_status dlv3_set_impl(const char *name) {
  if (strlen(name) >= sizeof forced_impl) return fail(DLV3_ERR_ARG, "no implementation is called '%.40s'", name);
  if (strcmp(forced_impl, name)) preference++;
  strcpy(forced_impl, name);
  return DLV3_OK;
}

int64_t implementation_preference(void) { return preference; }

__attribute__((constructor)) static void read_environment(void) {
  const char *name = getenv("DLV3_IMPL");
  if (name && strlen(name) < sizeof forced_impl) strcpy(forced_impl, name);
  const char *sync = getenv("DLV3_SYNC");
  sync_each = sync && *sync && strcmp(sync, "0");
}

bool ops_synchronized(void) { return sync_each || verbose_level; }

status before_kernel(int32_t device) {
  const backend *b = backend_of(device);
  return b->check && current_executor->synchronizes ? b->check(device) : DLV3_OK;
}
status after_kernel(int32_t device) {
  return device && ops_synchronized() && current_executor->synchronizes ? backend_of(device)->sync(device) : DLV3_OK;
}

status declined(const char *why) {
  declined_reason = why;
  return DLV3_DECLINED;
}

void ran_by(int64_t number) { engine = number; }

DLV3_API int64_t dlv3_op_engine(int32_t op) { return op >= 0 && op < OP_COUNT && chosen[op] ? engines[op] : -1; }
DLV3_API const char *dlv3_op_chosen(int32_t op) { return op >= 0 && op < OP_COUNT && chosen[op] ? chosen[op] : ""; }

static const impl *impls_of(int32_t op, int32_t device) { return backend_of(device)->kernels[op]; }

DLV3_API const char *dlv3_op_impls(int32_t op, int32_t device) {
  static char text[200];
  int used = 0;
  text[0] = 0;
  if (op < 0 || op >= OP_COUNT || !device_known(device)) return text;
  const impl *list = impls_of(op, device);
  for (; list && list->run; list++)
    used += snprintf(text + used, sizeof text - (size_t)used, "%s%s", used ? " " : "", list->name);
  return text;
}

/* -- The steps --------------------------------------------------------------------------------- */

static bool wants_grad(const tensor *t) { return t && (t->requires_grad || t->node); }

static status check_inputs(const op_call *c) {
  const op_info *info = c->info;
  if (info->variadic ? c->n_in < 1 || c->n_in > DLV3_MAX_INPUTS : c->n_in != info->n_in)
    return fail(DLV3_ERR_ARG, "%s: expected %s, got %d tensors", info->name, info->signature, (int)c->n_in);
  int32_t device = -1;
  for (int32_t i = 0; i < c->n_in; i++) {
    const tensor *t = c->in[i];
    const char *name = info->variadic ? info->in_name[0] : info->in_name[i];
    if (!t) {
      if (!info->variadic && (info->in_optional >> i & 1)) continue;
      return fail(DLV3_ERR_ARG, "%s: the tensor %s is missing", info->name, name);
    }
    if (!storage_alive(t->st))
      return fail_call(c, DLV3_ERR_RELEASED, "%s was released, by release() or when its scope ended", name);
    if (device < 0) device = t->st->device;
    if (t->st->device != device)
      return fail_call(c, DLV3_ERR_DEVICE, "expected all tensors on one device; move them with x:to(device)");
    if (!(info->flags & PACKED && i == 1)) TRY(storage_restore(t->st));
    if (!info->variadic && (info->in_place >> i & 1) && dlv3_grad_enabled() && wants_grad(t))
      return fail_call(
          c, DLV3_ERR_AUTOGRAD,
          "%s requires grad and can not be changed in place; use the op without '_', detach(), or dlv3.no_grad", name);
    if (info->in_place && !info->n_out && dlv3_grad_enabled() && wants_grad(t)) /* its gradient would be lost */
      return fail_call(c, DLV3_ERR_AUTOGRAD,
                       "%s requires grad, and what is written into another tensor leaves the tape; use the op without "
                       "'_', detach(), or dlv3.no_grad",
                       name);
  }
  return DLV3_OK;
}

/* Casts the inputs of a PROMOTE op to their common dtype; the casts are on the tape. owned: what to
 * drop afterwards. */
static status promote_inputs(op_call *c, tensor **owned) {
  int32_t dtype = -1;
  for (int32_t i = 0; i < c->n_in; i++)
    if (c->in[i]) dtype = dtype < 0 ? c->in[i]->dtype : dtype_promote(dtype, c->in[i]->dtype);
  for (int32_t i = 0; i < c->n_in; i++) {
    if (!c->in[i] || c->in[i]->dtype == dtype) continue;
    cast_attr to = {dtype};
    TRY(op_run(OP_cast, IN(c->in[i]), &to, &owned[i]));
    c->in[i] = owned[i];
  }
  return DLV3_OK;
}

/* Dense copies for kernels that need them; not on the tape, since only the layout differs. */
static status make_inputs_dense(op_call *c, tensor **owned) {
  for (int32_t i = 0; i < c->n_in; i++) {
    if (!c->in[i] || is_dense(c->in[i])) continue;
    if (c->info->in_place >> i & 1)
      return fail_call(c, DLV3_ERR_ARG, "%s is changed in place and must be dense; it is a strided view",
                       c->info->in_name[i]);
    tensor *dense;
    TRY(op_run_untracked(OP_contiguous, IN(c->in[i]), NULL, &dense));
    c->in[i] = owned[i] = dense;
  }
  return DLV3_OK;
}

/* True where two positions of t may be one element: axes from the smallest stride on must step over
 * all before them. */
static bool overlaps_itself(const tensor *t) {
  int64_t reach = 0;
  if (numel(t) < 2) return false;
  for (uint32_t seen = 0, all = (1u << t->ndim) - 1; seen != all;) {
    int32_t least = -1;
    for (int32_t i = 0; i < t->ndim; i++)
      if (!(seen >> i & 1) && (least < 0 || t->stride[i] < t->stride[least])) least = i;
    seen |= 1u << least;
    if (t->size[least] == 1) continue;
    if (t->stride[least] <= reach) return true;
    reach += (t->size[least] - 1) * t->stride[least];
  }
  return false;
}

/* Whether x and y have memory in common, unless they are the same window on it. */
static bool overlap(const tensor *x, const tensor *y) {
  const tensor *t[2] = {x, y};
  const char *low[2], *high[2];
  if (!numel(x) || !numel(y)) return false;
  for (int k = 0; k < 2; k++) {
    int64_t reach = 0;
    for (int32_t i = 0; i < t[k]->ndim; i++) reach += (t[k]->size[i] - 1) * t[k]->stride[i];
    low[k] = data_of(t[k]);
    high[k] = low[k] + (reach + 1) * dtype_bytes(t[k]->dtype);
  }
  if (low[0] >= high[1] || low[1] >= high[0]) return false;
  bool same = low[0] == low[1] && x->dtype == y->dtype && same_sizes(x, y);
  for (int32_t i = 0; same && i < x->ndim; i++) same = x->size[i] == 1 || x->stride[i] == y->stride[i];
  return !same;
}

/* An input that overlaps another one which is changed in place is copied first. */
static status copy_overlapping_inputs(op_call *c, tensor **owned) {
  for (int32_t i = 0; i < c->n_in; i++) {
    const tensor *x = c->in[i];
    if (!x || !(c->info->in_place >> i & 1)) continue;
    if (overlaps_itself(x))
      return fail_call(
          c, DLV3_ERR_ARG,
          "%s is changed in place, but some of its elements are the same memory (an expanded view); clone() it first",
          c->info->in_name[i]);
    for (int32_t k = 0; k < c->n_in; k++) {
      if (k == i || !c->in[k] || c->info->in_place >> k & 1 || !overlap(x, c->in[k])) continue;
      tensor *copy;
      TRY(op_run_untracked(OP_contiguous, IN(c->in[k]), NULL, &copy));
      tensor_drop(owned[k]);
      c->in[k] = owned[k] = copy;
    }
  }
  return DLV3_OK;
}

static int32_t device_of(const op_call *c) {
  for (int32_t i = 0; i < c->n_in; i++)
    if (c->in[i]) return c->in[i]->st->device;
  return 0;
}

static status make_outputs(op_call *c) {
  int32_t device = device_of(c);
  if (c->is_view) {
    TRY(tensor_alias(&c->out[0], c->in[0]));
    tensor *y = c->out[0];
    y->ndim = c->spec[0].ndim;
    y->offset = c->view_offset;
    memcpy(y->size, c->spec[0].size, sizeof y->size);
    memcpy(y->stride, c->view_stride, sizeof y->stride);
    return DLV3_OK;
  }
  for (int32_t i = 0; i < c->n_out; i++)
    if (!c->spec[i].none) TRY(tensor_new(&c->out[i], c->spec[i].dtype, c->spec[i].ndim, c->spec[i].size, device));
  return DLV3_OK;
}

/* Runs one implementation, which may decline. */
static status run_impl(op_call *c, const impl *i, int32_t device) {
  double begin = verbose_level ? dlv3_now() : 0;
  engine = -1;
  status st = i->run(c);
  if (st == DLV3_DECLINED) {
    if (verbose_level > 1) verbose_declined(c, i->name, declined_reason);
    return st;
  }
  chosen[c->op] = i->name;
  engines[c->op] = engine;
  if (st == DLV3_OK) st = after_kernel(device);
  if (verbose_level && st == DLV3_OK && current_executor->synchronizes)
    verbose_call(c, i->name, engine, dlv3_now() - begin);
  return st;
}

/* The implementations in their order, a forced one first. */
status run_implementations(op_call *c) {
  const int32_t device = device_of(c);
  const impl *list = impls_of(c->op, device), *forced = NULL;
  TRY(before_kernel(device));
  if (!list || !list->run) return fail_call(c, DLV3_ERR_INTERNAL, "no kernel is linked in");
  status st = DLV3_DECLINED;
  for (const impl *i = list; i->run && !forced && forced_impl[0]; i++)
    if (!strcmp(i->name, forced_impl)) forced = i;
  if (forced) {
    c->asked = true;
    st = run_impl(c, forced, device);
    c->asked = false;
  }
  for (const impl *i = list; i->run && st == DLV3_DECLINED; i++)
    if (i != forced) st = run_impl(c, i, device);
  return st == DLV3_DECLINED ? fail_call(
             c, DLV3_ERR_DTYPE, "no implementation takes these tensors (the last declined: %s)", declined_reason)
                             : st;
}

status op_execute(op_call *c) {
  TRY(current_executor->execute(c));
  for (int32_t i = 0; i < c->n_in && c->info->in_place; i++)
    if (c->in[i] && (c->info->in_place >> i & 1)) storage_changed(c->in[i]->st, 1);
  return DLV3_OK;
}

static status run_call(op_call *c, tensor **owned) {
  tensor *original[DLV3_MAX_INPUTS];
  TRY(check_inputs(c));
  if (interrupt_wanted()) return fail(DLV3_ERR_INTERRUPTED, "interrupted");
  if (c->info->flags & PROMOTE) TRY(promote_inputs(c, owned));
  TRY(c->info->infer(c));
  memcpy(original, c->in, (size_t)c->n_in * sizeof *original);
  tensor *dense[DLV3_MAX_INPUTS] = {0};
  status st = DLV3_OK;
  if (!(c->info->flags & (STRIDED | VIEW))) st = make_inputs_dense(c, dense);
  if (st == DLV3_OK && c->info->in_place) st = copy_overlapping_inputs(c, dense);
  if (st == DLV3_OK) st = make_outputs(c);
  if (st == DLV3_OK && !c->is_view) st = op_execute(c);
  if (st == DLV3_OK) {
    bool grad = false;
    if ((c->info->flags & GRAD) && dlv3_grad_enabled())
      for (int32_t i = 0; i < c->n_in; i++) grad |= wants_grad(original[i]) && is_float(original[i]->dtype);
    if (grad) st = node_record(c, original);
  }
  for (int32_t i = 0; i < c->n_in; i++) tensor_drop(dense[i]);
  return st;
}

status op_run(int32_t op, tensor *const *in, int32_t n_in, const void *attr, tensor **out) {
  tensor *inputs[DLV3_MAX_INPUTS], *owned[DLV3_MAX_INPUTS];
  dlv3_attr slots[DLV3_MAX_SLOTS];
  op_info *info = &op_table[op];
  if (n_in < 0 || n_in > DLV3_MAX_INPUTS)
    return fail(DLV3_ERR_ARG, "%s: %d tensors at once, at most %d", info->name, (int)n_in, DLV3_MAX_INPUTS);
  if (info->attr_slots && !attr) return fail(DLV3_ERR_INTERNAL, "%s: called without its attributes", info->name);
  memcpy(inputs, in, (size_t)n_in * sizeof *in);
  memset(owned, 0, (size_t)n_in * sizeof *owned);
  if (info->attr_slots) memcpy(slots, attr, (size_t)info->attr_slots * sizeof *slots);
  op_call c;
  memset(&c, 0, sizeof c);
  c.op = op;
  c.info = info;
  c.n_in = n_in;
  c.in = inputs;
  c.attr = slots;
  c.n_out = info->n_out;
  status st = run_call(&c, owned);
  for (int32_t i = 0; i < n_in; i++) tensor_drop(owned[i]);
  for (int32_t i = 0; i < c.n_out; i++) {
    if (st == DLV3_OK && out)
      out[i] = c.out[i];
    else
      tensor_drop(c.out[i]);
  }
  return st;
}

status op_run_untracked(int32_t op, tensor *const *in, int32_t n_in, const void *attr, tensor **out) {
  bool grad = dlv3_grad_enabled();
  dlv3_set_grad_enabled(false);
  status st = op_run(op, in, n_in, attr, out);
  dlv3_set_grad_enabled(grad);
  return st;
}

DLV3_API dlv3_status dlv3_call(int32_t op, dlv3_tensor *const *in, int32_t n_in, const dlv3_attr *attr,
                               dlv3_tensor **out) {
  if (op < 0 || op >= OP_COUNT) return fail(DLV3_ERR_ARG, "no op has the number %d", (int)op);
  return op_run(op, in, n_in, attr, out);
}

/* tape.c - the tape: the nodes that dispatch records, what they save, and the leaves.
 *
 * A node holds what the op's signature marks with '*' (detached aliases, with the version of their
 * storage), the shapes of its inputs, and edges to the nodes that made them. It never holds its own
 * output tensor, so there is no reference cycle. backward.c walks the nodes.
 *
 * An output that can_recompute (ops/saves.c) names is not saved by the nodes that need it: during
 * backward the node that made it recomputes it. */
#include <stdlib.h>

#include "executor.h"
#include "tape.h"

static bool grad_enabled = true;
static int64_t next_seq;

DLV3_API int32_t dlv3_grad_enabled(void) { return grad_enabled; }
DLV3_API void dlv3_set_grad_enabled(int32_t on) { grad_enabled = on != 0; }

/* -- Freed nodes of Lua functions -------------------------------------------------------------- */

static int64_t *freed_ids;
static int32_t n_freed, freed_room;

static void note_freed(int64_t id) {
  if (n_freed == freed_room) {
    int32_t room = freed_room ? 2 * freed_room : 64;
    int64_t *grown = realloc(freed_ids, (size_t)room * sizeof *grown);
    if (!grown) return; /* Lua then keeps this closure for ever: harmless */
    freed_ids = grown;
    freed_room = room;
  }
  freed_ids[n_freed++] = id;
}

DLV3_API int32_t dlv3_custom_freed(int64_t *ids, int32_t max) {
  int32_t n = n_freed < max ? n_freed : max;
  if (n > 0) memcpy(ids, freed_ids + n_freed - n, (size_t)n * sizeof *ids);
  n_freed -= n;
  return n;
}

/* -- Nodes ------------------------------------------------------------------------------------- */

void node_finish(node *n) {
  if (n->done) return;
  n->done = true;
  for (int32_t i = 0; i < n->n_in && n->in; i++) {
    tensor_drop(n->in[i].t);
    n->in[i].t = NULL;
  }
  for (int32_t i = 0; i < DLV3_MAX_OUTPUTS; i++) {
    tensor_drop(n->out[i].t);
    n->out[i].t = NULL;
    tensor_drop(n->grad_out[i]);
    n->grad_out[i] = NULL;
  }
  tensor_drop(n->recomputed);
  n->recomputed = NULL;
  if (n->op == OP_COUNT) note_freed(n->custom_id);
}

/* Iterative: recursion would be as deep as the longest chain of ops. */
void node_drop(node *n) {
  if (--n->refs > 0) return;
  n->visit = NULL;
  for (node *todo = n; todo;) {
    node *dead = todo;
    todo = dead->visit;
    node_finish(dead);
    for (int32_t i = 0; i < dead->n_in; i++) {
      edge *e = &dead->edges[i];
      tensor_drop(e->leaf);
      if (e->node && --e->node->refs == 0) {
        e->node->visit = todo;
        todo = e->node;
      }
    }
    free(dead->edges);
    free(dead->in_spec);
    free(dead->in);
    free(dead);
  }
}

static node *node_new(int32_t op, tensor *const *in, int32_t n_in, int32_t n_out) {
  node *n = calloc(1, sizeof *n);
  if (!n) return NULL;
  n->refs = 1;
  n->op = op;
  n->n_in = n_in;
  n->n_out = n_out;
  n->seq = ++next_seq;
  n->executor = current_executor;
  n->edges = calloc((size_t)n_in + 1, sizeof *n->edges);
  n->in_spec = calloc((size_t)n_in + 1, sizeof *n->in_spec);
  n->in = calloc((size_t)n_in + 1, sizeof *n->in);
  if (!n->edges || !n->in_spec || !n->in) {
    n->n_in = 0;
    node_drop(n);
    return NULL;
  }
  for (int32_t i = 0; i < n_in; i++) {
    tensor *t = in[i];
    if (!t) continue;
    spec_like(&n->in_spec[i], t);
    n->device = t->st->device;
    if (!is_float(t->dtype)) continue;
    if (t->node) {
      n->edges[i] = (edge){t->node, t->node_out, NULL};
      t->node->refs++;
    } else if (t->requires_grad)
      n->edges[i].leaf = tensor_retain(t);
  }
  return n;
}

static void attach_outputs(node *n, tensor *const *out) {
  for (int32_t i = 0; i < n->n_out; i++) {
    if (!out[i]) continue;
    spec_like(&n->out_spec[i], out[i]);
    if (!is_float(out[i]->dtype)) continue;
    out[i]->node = n;
    out[i]->node_out = i;
    n->refs++;
  }
}

bool is_recomputable(const tensor *t) {
  return t->node && t->node->can_recompute && !t->node->done && t->node_out == 0
         && t->node->out[0].version == storage_version(t->st);
}

static status save_tensor(saved *s, const tensor *t) {
  if (!t) return DLV3_OK;
  s->recomputed = is_recomputable(t);
  s->version = storage_version(t->st);
  return s->recomputed ? DLV3_OK : tensor_alias(&s->t, t);
}

status node_record(op_call *c, tensor *const *original_in) {
  const op_info *info = c->info;
  node *n = node_new(c->op, original_in, c->n_in, c->n_out);
  if (!n) return fail(DLV3_ERR_OOM, "%s: out of memory for the tape", info->name);
  memcpy(n->attr, c->attr, (size_t)info->attr_slots * sizeof *n->attr);
  status st = DLV3_OK;
  uint32_t unused_in, unused_out;
  n->can_recompute = can_recompute(c);
  unused_saves(c, n, &unused_in, &unused_out);
  for (int32_t i = 0; i < c->n_in && st == DLV3_OK; i++)
    if ((info->in_saved & ~unused_in) >> i & 1) st = save_tensor(&n->in[i], c->in[i]);
  for (int32_t i = 0; i < c->n_out && st == DLV3_OK; i++)
    if ((info->out_saved & ~unused_out) >> i & 1) st = save_tensor(&n->out[i], c->out[i]);
  if (n->can_recompute) n->out[0].version = storage_version(c->out[0]->st);
  if (st == DLV3_OK) attach_outputs(n, c->out);
  node_drop(n); /* the outputs hold it now */
  return st;
}

DLV3_API dlv3_status dlv3_custom_node(int64_t custom_id, dlv3_tensor *const *in, int32_t n_in, dlv3_tensor *const *out,
                                      int32_t n_out) {
  if (n_in < 0 || n_in > DLV3_MAX_INPUTS || n_out < 1 || n_out > DLV3_MAX_OUTPUTS)
    return fail(DLV3_ERR_ARG, "Function: expected at most %d inputs and %d outputs, got %d and %d", DLV3_MAX_INPUTS,
                DLV3_MAX_OUTPUTS, (int)n_in, (int)n_out);
  for (int32_t i = 0; i < n_out; i++) {
    if (out[i]->node || out[i]->requires_grad)
      return fail(DLV3_ERR_AUTOGRAD,
                  "Function: forward must return new tensors; result %d is an input or already on the tape (clone it)",
                  (int)i + 1);
    for (int32_t k = 0; k < i; k++)
      if (out[k] == out[i])
        return fail(DLV3_ERR_AUTOGRAD,
                    "Function: forward must return new tensors; results %d and %d are the same tensor (clone it)",
                    (int)i + 1, (int)k + 1);
  }
  node *n = node_new(OP_COUNT, in, n_in, n_out);
  if (!n) return fail(DLV3_ERR_OOM, "Function: out of memory for the tape");
  n->custom_id = custom_id;
  attach_outputs(n, out);
  node_drop(n);
  return DLV3_OK;
}

/* -- Leaves ------------------------------------------------------------------------------------ */

DLV3_API int32_t dlv3_requires_grad(const dlv3_tensor *t) { return t->node ? 2 : t->requires_grad; }

DLV3_API dlv3_status dlv3_set_requires_grad(dlv3_tensor *t, int32_t on) {
  if (on && !is_float(t->dtype))
    return fail(DLV3_ERR_DTYPE, "requires_grad: expected a float tensor, got %s; cast it first", dtype_name(t->dtype));
  if (t->node) return fail(DLV3_ERR_AUTOGRAD, "requires_grad: this tensor was computed from others; detach() it first");
  t->requires_grad = on != 0;
  return DLV3_OK;
}

DLV3_API dlv3_tensor *dlv3_tensor_grad(dlv3_tensor *t) { return t->grad ? tensor_retain(t->grad) : NULL; }

DLV3_API dlv3_status dlv3_tensor_set_grad(dlv3_tensor *t, dlv3_tensor *grad) {
  char a[TEXT], b[TEXT];
  if (grad && (!same_sizes(t, grad) || t->dtype != grad->dtype))
    return fail(DLV3_ERR_SHAPE, "grad: must have the tensor's sizes and dtype\n  %s   %s", tensor_text(a, "tensor", t),
                tensor_text(b, "grad", grad));
  if (grad) tensor_retain(grad);
  if (grad) scope_inherit(grad->st, t->st);
  tensor_drop(t->grad);
  t->grad = grad;
  return DLV3_OK;
}

DLV3_API dlv3_status dlv3_tensor_detach(dlv3_tensor **out, dlv3_tensor *t) { return tensor_alias(out, t); }

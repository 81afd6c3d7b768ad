/* backward.c - the backward pass: walks the tape in reverse and accumulates gradients.
 *
 * Nodes are numbered in the order they were made, so walking by falling numbers visits every
 * consumer before its producer. After its rule has run a node drops what it saved.
 *
 * A Lua function is a node too (op == OP_COUNT). The runtime never calls Lua: backward_next returns
 * DLV3_PENDING and is resumed when the caller has run the function. */
#include <stdlib.h>

#include "executor.h"
#include "tape.h"

static int64_t next_mark;

/* -- Accumulation ------------------------------------------------------------------------------ */

/* Whether t has the only reference to its elements and covers them without overlap. */
static bool owned_alone(const tensor *t) {
  return t->refs == 1 && t->st->refs - current_executor->references(t->st) == 1 && !t->st->parent && is_dense(t);
}

/* Adds g to *slot; takes over the reference g. */
static status add_to(tensor **slot, tensor *g) {
  if (!*slot) return *slot = g, DLV3_OK;
  status st;
  if (owned_alone(*slot))
    st = op_run(OP_add_, IN(*slot, g), NULL, NULL);
  else {
    tensor *total = NULL;
    st = op_run(OP_add, IN(*slot, g), NULL, &total);
    if (st == DLV3_OK) {
      tensor_drop(*slot);
      *slot = total;
    }
  }
  tensor_drop(g);
  return st;
}

/* The gradient of a leaf lives as long as the leaf: it leaves the scope of this step. */
static void set_leaf_grad(tensor *leaf, tensor *g) {
  g->st->scope = leaf->st->scope;
  leaf->grad = g;
}

static status add_to_leaf(tensor *leaf, tensor *g) {
  if (leaf->grad) {
    status st = op_run(OP_add_, IN(leaf->grad, g), NULL, NULL);
    tensor_drop(g);
    return st;
  }
  if (!owned_alone(g)) {
    tensor *copy = NULL;
    status st = op_run(OP_contiguous, IN(g), NULL, &copy);
    tensor_drop(g);
    TRY(st);
    g = copy;
  }
  set_leaf_grad(leaf, g);
  return DLV3_OK;
}

static status zeros_of(tensor **out, const spec *s, int32_t device) {
  fill__attr zero = {0};
  TRY(tensor_new(out, s->dtype, s->ndim, s->size, device));
  status st = op_run(OP_fill_, IN(*out), &zero, NULL);
  if (st != DLV3_OK) {
    tensor_drop(*out);
    *out = NULL;
  }
  return st;
}

status grad_into(backward_call *b, int32_t i, tensor **out) {
  edge *e = &b->n->edges[i];
  if (e->leaf) {
    if (!e->leaf->grad) {
      tensor *g;
      TRY(zeros_of(&g, &b->in_spec[i], b->n->device));
      set_leaf_grad(e->leaf, g);
    }
    *out = e->leaf->grad;
    return DLV3_OK;
  }
  tensor **slot = &e->node->grad_out[e->out];
  if (!*slot)
    TRY(zeros_of(slot, &b->in_spec[i], b->n->device));
  else if (!owned_alone(*slot)) {
    tensor *copy;
    TRY(op_run(OP_contiguous, IN(*slot), NULL, &copy));
    tensor_drop(*slot);
    *slot = copy;
  }
  *out = *slot;
  return DLV3_OK;
}

static const storage *whole_of(const tensor *t) { return t->st->parent ? t->st->parent : t->st; }

tensor *grad_so_far(const backward_call *b, int32_t i) {
  const edge *e = &b->n->edges[i];
  if (e->leaf) { /* not after y:backward(x.grad), which reads the tensor that would be added to */
    tensor *g = e->leaf->grad;
    return g && is_dense(g) && whole_of(g) != whole_of(b->grad_y[0]) ? g : NULL;
  }
  tensor *sum = e->node->grad_out[e->out];
  return sum && owned_alone(sum) ? sum : NULL;
}

/* -- Backward ---------------------------------------------------------------------------------- */

struct dlv3_backward_run {
  node **nodes; /* every reachable node, consumers first, one reference each */
  int64_t n, at;
  bool waiting; /* nodes[at] is a Lua function whose gradients are awaited */
};

static int by_falling_seq(const void *a, const void *b) {
  int64_t x = (*(node *const *)a)->seq, y = (*(node *const *)b)->seq;
  return (x < y) - (x > y);
}

/* Collects the nodes reachable from root. */
static status collect_nodes(dlv3_backward_run *run, node *root) {
  int64_t room = 256, mark = ++next_mark;
  if (!(run->nodes = malloc((size_t)room * sizeof *run->nodes))) return fail(DLV3_ERR_OOM, "backward: out of memory");
  run->nodes[run->n++] = root;
  root->mark = mark;
  root->refs++;
  for (int64_t i = 0; i < run->n; i++) {
    node *n = run->nodes[i];
    const char *name = n->op == OP_COUNT ? "a Function" : op_table[n->op].name;
    if (n->done)
      return fail(
          DLV3_ERR_AUTOGRAD,
          "backward: the graph was already used; what %s saved is freed after one backward. Compute the loss again "
          "(double backward is not supported)",
          name);
    TRY(current_executor->backward_through(n, name));
    for (int32_t k = 0; k < n->n_in; k++) {
      node *p = n->edges[k].node;
      if (!p || p->mark == mark) continue;
      if (run->n == room) {
        node **grown = realloc(run->nodes, (size_t)(room *= 2) * sizeof *grown);
        if (!grown) return fail(DLV3_ERR_OOM, "backward: out of memory");
        run->nodes = grown;
      }
      p->mark = mark;
      p->refs++;
      run->nodes[run->n++] = p;
    }
  }
  qsort(run->nodes, (size_t)run->n, sizeof *run->nodes, by_falling_seq);
  return DLV3_OK;
}

static status first_gradient(tensor **g, tensor *loss, tensor *grad) {
  char a[TEXT], b[TEXT];
  if (grad) {
    if (!same_sizes(loss, grad) || loss->dtype != grad->dtype)
      return fail(DLV3_ERR_SHAPE, "backward: the gradient must have the sizes and dtype of the tensor\n  %s   %s",
                  tensor_text(a, "tensor", loss), tensor_text(b, "gradient", grad));
    *g = tensor_retain(grad);
    return DLV3_OK;
  }
  if (numel(loss) != 1)
    return fail(DLV3_ERR_AUTOGRAD, "backward: the tensor must have one element, or a gradient must be given\n  %s",
                tensor_text(a, "tensor", loss));
  fill__attr one = {1};
  TRY(tensor_new(g, loss->dtype, loss->ndim, loss->size, loss->st->device));
  return op_run(OP_fill_, IN(*g), &one, NULL);
}

DLV3_API dlv3_status dlv3_backward_begin(dlv3_backward_run **out, dlv3_tensor *loss, dlv3_tensor *grad) {
  char text[TEXT];
  if (!loss->node && !loss->requires_grad)
    return fail(DLV3_ERR_AUTOGRAD,
                "backward: nothing it was computed from requires grad, or it was computed under no_grad\n  %s",
                tensor_text(text, "tensor", loss));
  tensor *g = NULL;
  dlv3_backward_run *run = calloc(1, sizeof *run);
  if (!run) return fail(DLV3_ERR_OOM, "backward: out of memory");
  status st = first_gradient(&g, loss, grad);
  if (st == DLV3_OK && loss->node) st = collect_nodes(run, loss->node);
  if (st == DLV3_OK && loss->node) {
    node *n = loss->node;
    for (int64_t i = 0; i < run->n; i++)
      for (int32_t k = 0; k < DLV3_MAX_OUTPUTS; k++) {
        tensor_drop(run->nodes[i]->grad_out[k]);
        run->nodes[i]->grad_out[k] = NULL;
      }
    n->grad_out[loss->node_out] = g;
  } else if (st == DLV3_OK)
    st = add_to_leaf(loss, g);
  else
    tensor_drop(g);
  if (st == DLV3_OK)
    *out = run;
  else
    dlv3_backward_end(run);
  return st;
}

static status check_saved(const node *n, const saved *s, const char *name) {
  const char *op = n->op == OP_COUNT ? "Function" : op_table[n->op].name;
  if (!s->t) return DLV3_OK;
  if (!storage_alive(s->t->st))
    return fail(DLV3_ERR_RELEASED, "backward of %s: %s, which it saved, was released or its scope ended", op, name);
  int64_t now = storage_version(s->t->st);
  if (now == s->version) return DLV3_OK;
  return fail(DLV3_ERR_AUTOGRAD,
              "backward of %s: %s was changed in place after it was saved (version %lld, saved at %lld); clone it "
              "before the change",
              op, name, (long long)now, (long long)s->version);
}

/* Adds the gradients of a node's inputs to those of the nodes and leaves that they belong to; takes
 * over the references. */
static status deliver_gradients(node *n, tensor **grad_x) {
  status st = DLV3_OK;
  for (int32_t i = 0; i < n->n_in; i++) {
    tensor *g = grad_x[i];
    edge *e = &n->edges[i];
    if (!g) continue;
    grad_x[i] = NULL;
    if (st != DLV3_OK || !needs_grad(n, i)) {
      tensor_drop(g);
      continue;
    }
    const spec *s = &n->in_spec[i];
    if (g->dtype != s->dtype || g->ndim != s->ndim || memcmp(g->size, s->size, (size_t)s->ndim * sizeof *s->size)) {
      char have[TEXT], want[TEXT];
      st = fail(DLV3_ERR_AUTOGRAD, "backward of %s: the gradient of input %d is %s, the input is %s %s",
                n->op == OP_COUNT ? "a Function" : op_table[n->op].name, (int)i + 1, tensor_text(have, "", g),
                sizes_text(want, s->ndim, s->size), dtype_name(s->dtype));
      tensor_drop(g);
    } else
      st = e->leaf ? add_to_leaf(e->leaf, g) : add_to(&e->node->grad_out[e->out], g);
  }
  return st;
}

/* Fails where a tensor that a node saved was changed or released. */
static status check_all_saved(const node *n) {
  const op_info *info = &op_table[n->op];
  for (int32_t i = 0; i < n->n_in; i++) TRY(check_saved(n, &n->in[i], info->variadic ? "an input" : info->in_name[i]));
  for (int32_t i = 0; i < n->n_out; i++) TRY(check_saved(n, &n->out[i], info->out_name[i]));
  return DLV3_OK;
}

/* Input i as it was saved, or recomputed. The reference is borrowed. */
static status saved_input(const node *n, int32_t i, tensor **out) {
  node *maker = n->in[i].recomputed ? n->edges[i].node : NULL;
  *out = n->in[i].t;
  if (!maker) return DLV3_OK;
  if (maker->done)
    return fail(DLV3_ERR_AUTOGRAD,
                "backward: a backward pass inside this one freed what %s saved; run only one of them on these tensors",
                op_table[n->op].name);
  if (!maker->recomputed) {
    TRY(check_all_saved(maker));
    status st = recompute(maker, &maker->recomputed);
    if (st != DLV3_OK) return fail_more(st, "\n  recomputed for the backward pass of %s", op_table[n->op].name);
  }
  *out = maker->recomputed;
  return DLV3_OK;
}

static status run_rule(node *n) {
  const op_info *info = &op_table[n->op];
  tensor *in[DLV3_MAX_INPUTS], *grad_x[DLV3_MAX_INPUTS] = {0};
  bool needs[DLV3_MAX_INPUTS];
  backward_call b = {
      .n = n, .attr = n->attr, .n_in = n->n_in, .in = in, .in_spec = n->in_spec, .grad_x = grad_x, .needs = needs};
  tensor_drop(n->recomputed);
  n->recomputed = NULL; /* all nodes that need it have run */
  TRY(check_all_saved(n));
  for (int32_t i = 0; i < n->n_in; i++) {
    TRY(saved_input(n, i, &in[i]));
    needs[i] = needs_grad(n, i);
  }
  for (int32_t i = 0; i < n->n_out; i++) {
    b.out[i] = n->out[i].t;
    b.grad_y[i] = n->grad_out[i];
  }
  status st = info->backward(&b);
  if (st == DLV3_OK) return deliver_gradients(n, grad_x);
  for (int32_t i = 0; i < n->n_in; i++) tensor_drop(grad_x[i]);
  return fail_more(st, "\n  in the backward pass of %s", info->name);
}

DLV3_API dlv3_status dlv3_backward_next(dlv3_backward_run *run, int64_t *custom_id, dlv3_tensor **grads,
                                        int32_t *n_grads) {
  if (run->waiting) return fail(DLV3_ERR_INTERNAL, "backward: the gradients of a Function are missing");
  for (; run->at < run->n; run->at++) {
    node *n = run->nodes[run->at];
    bool any = false;
    for (int32_t i = 0; i < n->n_out; i++) any |= n->grad_out[i] != NULL;
    if (any && n->op == OP_COUNT) {
      *custom_id = n->custom_id;
      *n_grads = n->n_out;
      for (int32_t i = 0; i < n->n_out; i++) grads[i] = n->grad_out[i] ? tensor_retain(n->grad_out[i]) : NULL;
      run->waiting = true;
      return DLV3_PENDING;
    }
    if (any) {
      const bool before = dlv3_grad_enabled();
      dlv3_set_grad_enabled(false);
      status st = run_rule(n);
      dlv3_set_grad_enabled(before);
      TRY(st);
    }
    node_finish(n);
  }
  return DLV3_OK;
}

DLV3_API dlv3_status dlv3_backward_give(dlv3_backward_run *run, dlv3_tensor *const *grads, int32_t n_grads) {
  if (!run->waiting) return fail(DLV3_ERR_INTERNAL, "backward: no Function is waiting for gradients");
  node *n = run->nodes[run->at];
  if (n_grads != n->n_in)
    return fail(DLV3_ERR_AUTOGRAD,
                "Function: backward must return one gradient (or nil) for each input: expected %d, got %d",
                (int)n->n_in, (int)n_grads);
  tensor *owned[DLV3_MAX_INPUTS];
  for (int32_t i = 0; i < n_grads; i++) owned[i] = grads[i] ? tensor_retain(grads[i]) : NULL;
  const bool before = dlv3_grad_enabled();
  dlv3_set_grad_enabled(false);
  status st = deliver_gradients(n, owned);
  dlv3_set_grad_enabled(before);
  run->waiting = false;
  node_finish(n);
  run->at++;
  return st;
}

DLV3_API int32_t dlv3_backward_inputs(const dlv3_backward_run *run) {
  return run->waiting ? run->nodes[run->at]->n_in : 0;
}

DLV3_API void dlv3_backward_end(dlv3_backward_run *run) {
  if (!run) return;
  for (int64_t i = 0; i < run->n; i++) {
    node *n = run->nodes[i];
    for (int32_t k = 0; k < DLV3_MAX_OUTPUTS; k++) {
      tensor_drop(n->grad_out[k]);
      n->grad_out[k] = NULL;
    }
    tensor_drop(n->recomputed);
    n->recomputed = NULL;
    node_drop(n);
  }
  free(run->nodes);
  free(run);
}

/* shape.c - ops that move elements: copies through elements.h, picking by index. Views have no
 * kernel. */
#include "cpu/support/elements.h"

#define VIEW_IMPLS(op) const impl cpu_##op##_impls[] = {{0, 0}}
VIEW_IMPLS(permute);
VIEW_IMPLS(narrow);
VIEW_IMPLS(unsqueeze);
VIEW_IMPLS(squeeze);
VIEW_IMPLS(expand);

/* A window on t for use as an operand: other sizes and strides, a moved start. */
static tensor window(const tensor *t) {
  tensor w = *t;
  return w;
}

/* Element by element: row-major position i of x becomes that of y. */
static void reshape_range(void *ctx, int64_t begin, int64_t end) {
  tensor *const *t = ctx;
  const tensor *y = t[0], *x = t[1];
  int32_t width = dtype_bytes(x->dtype);
  for (int64_t i = begin; i < end; i++) {
    int64_t rest = i, from = x->offset, to = y->offset;
    for (int32_t k = x->ndim - 1; k >= 0; k--) from += rest % x->size[k] * x->stride[k], rest /= x->size[k];
    rest = i;
    for (int32_t k = y->ndim - 1; k >= 0; k--) to += rest % y->size[k] * y->stride[k], rest /= y->size[k];
    memcpy(y->st->data + to * width, x->st->data + from * width, (size_t)width);
  }
}

static void row_major(tensor *t) {
  int64_t at = 1;
  for (int32_t i = t->ndim - 1; i >= 0; i--) t->stride[i] = at, at *= t->size[i];
}

/* Whether t's elements lie in row-major order, nothing between them. */
static bool is_row_major(const tensor *t) {
  int64_t at = 1;
  for (int32_t i = t->ndim - 1; i >= 0; i--) {
    if (t->size[i] != 1 && t->stride[i] != at) return false;
    at *= t->size[i];
  }
  return true;
}

/* Where one side lies in row-major order it has the other's sizes too, and the copy is a plain one. */
static status ref_reshape(op_call *c) {
  tensor x = window(c->in[0]), y = window(c->out[0]);
  if (is_row_major(&y)) {
    y.ndim = x.ndim;
    memcpy(y.size, x.size, sizeof y.size);
    row_major(&y);
    elements_copy(&y, &x);
  } else if (is_row_major(&x)) {
    x.ndim = y.ndim;
    memcpy(x.size, y.size, sizeof x.size);
    row_major(&x);
    elements_copy(&y, &x);
  } else {
    tensor *t[2] = {c->out[0], c->in[0]};
    parallel_for(numel(c->in[0]), GRAIN, reshape_range, t);
  }
  return DLV3_OK;
}
IMPLS(reshape, {"ref", ref_reshape});

static status ref_contiguous(op_call *c) { return elements_copy(c->out[0], c->in[0]), DLV3_OK; }
IMPLS(contiguous, {"ref", ref_contiguous});

static void zero(tensor *t) { memset(data_of(t), 0, (size_t)tensor_bytes(t)); }

static status ref_narrow_backward(op_call *c) {
  const narrow_backward_attr *a = c->attr;
  tensor part = window(c->out[0]);
  zero(c->out[0]);
  part.size[a->axis] = c->in[0]->size[a->axis];
  part.offset += a->start * part.stride[a->axis];
  part.stride[a->axis] *= a->step;
  elements_copy(&part, c->in[0]);
  return DLV3_OK;
}
IMPLS(narrow_backward, {"ref", ref_narrow_backward});

static status ref_cat(op_call *c) {
  const cat_attr *a = c->attr;
  tensor part = window(c->out[0]);
  for (int32_t i = 0; i < c->n_in; i++) {
    part.size[a->axis] = c->in[i]->size[a->axis];
    elements_copy(&part, c->in[i]);
    part.offset += part.size[a->axis] * part.stride[a->axis];
  }
  return DLV3_OK;
}
IMPLS(cat, {"ref", ref_cat});

static void fill_all(tensor *t, double value) {
  int64_t n = numel(t);
  char *p = data_of(t);
  int64_t width = dtype_bytes(t->dtype);
  if (!n) return;
  store_f64(p, t->dtype, &value, 1);
  for (int64_t done = 1; done < n; done *= 2)
    memcpy(p + done * width, p, (size_t)((n - done < done ? n - done : done) * width));
}

/* The part of x that stays is copied into the part of y it goes to; both are windows. */
static status ref_pad(op_call *c) {
  const pad_attr *a = c->attr;
  tensor x = window(c->in[0]), y = window(c->out[0]);
  fill_all(c->out[0], a->value);
  for (int32_t i = 0; i < x.ndim; i++) {
    int64_t before = a->before.v[i], after = a->after.v[i], cut = before < 0 ? -before : 0;
    int64_t n = x.size[i] - cut - (after < 0 ? -after : 0);
    if (n <= 0) return DLV3_OK;
    x.offset += cut * x.stride[i];
    y.offset += (before > 0 ? before : 0) * y.stride[i];
    x.size[i] = y.size[i] = n;
  }
  elements_copy(&y, &x);
  return DLV3_OK;
}
IMPLS(pad, {"ref", ref_pad});

static status ref_flip(op_call *c) { /* x read backwards along the axes */
  const flip_attr *a = c->attr;
  tensor x = window(c->in[0]);
  uint32_t seen = 0;
  for (int64_t i = 0; i < a->axes.n; i++) {
    int64_t axis = a->axes.v[i];
    if (seen >> axis & 1 || !x.size[axis]) continue;
    seen |= 1u << axis;
    x.offset += (x.size[axis] - 1) * x.stride[axis];
    x.stride[axis] = -x.stride[axis];
  }
  elements_copy(c->out[0], &x);
  return DLV3_OK;
}
IMPLS(flip, {"ref", ref_flip});

/* -- Picking by index -------------------------------------------------------------------------- */

static status check_index(const op_call *c, int64_t index, int64_t n) {
  if (index >= 0 && index < n) return DLV3_OK;
  return fail_call(c, DLV3_ERR_ARG, "index holds %lld, the axis has the positions 0 to %lld", (long long)index,
                   (long long)n - 1);
}

/* Offset of logical position i in t, and (axis >= 0) the offset without that axis. */
static int64_t offset_at(const tensor *t, const int64_t *size, int64_t i, int64_t skip, int64_t *coordinate) {
  int64_t at = t->offset;
  int32_t ndim = t->ndim;
  for (int32_t k = ndim - 1; k >= 0; k--) {
    int64_t x = i % size[k];
    i /= size[k];
    if (k == skip)
      *coordinate = x;
    else
      at += x * t->stride[k];
  }
  return at;
}

static status ref_gather(op_call *c) {
  const gather_attr *a = c->attr;
  tensor *x = c->in[0], *index = c->in[1], *y = c->out[0];
  int32_t width = dtype_bytes(x->dtype);
  int64_t unused;
  for (int64_t i = 0, n = numel(y); i < n; i++) {
    int64_t k = ((int64_t *)index->st->data)[offset_at(index, y->size, i, -1, &unused)];
    TRY(check_index(c, k, x->size[a->axis]));
    int64_t from = offset_at(x, y->size, i, a->axis, &unused) + k * x->stride[a->axis];
    memcpy(y->st->data + offset_at(y, y->size, i, -1, &unused) * width, x->st->data + from * width, (size_t)width);
  }
  return DLV3_OK;
}
IMPLS(gather, {"ref", ref_gather});

/* Adds v to an element of any float dtype. */
static void add_element(char *p, int32_t dtype, double v) {
  double sum;
  load_f64(&sum, p, dtype, 1);
  sum += v;
  store_f64(p, dtype, &sum, 1);
}

/* grad_x[index[i]] += grad_y[i], one after the other: equal indices add up in a fixed order. */
static status ref_gather_backward(op_call *c) {
  const gather_backward_attr *a = c->attr;
  tensor *g = c->in[0], *index = c->in[1], *x = c->out[0];
  int32_t width = dtype_bytes(g->dtype);
  int64_t unused;
  zero(x);
  for (int64_t i = 0, n = numel(g); i < n; i++) {
    double v;
    int64_t k = ((int64_t *)index->st->data)[offset_at(index, g->size, i, -1, &unused)];
    TRY(check_index(c, k, x->size[a->axis]));
    load_f64(&v, g->st->data + offset_at(g, g->size, i, -1, &unused) * width, g->dtype, 1);
    add_element(x->st->data + (offset_at(x, g->size, i, a->axis, &unused) + k * x->stride[a->axis]) * width, x->dtype,
                v);
  }
  return DLV3_OK;
}
IMPLS(gather_backward, {"ref", ref_gather_backward});

static status ref_index_select(op_call *c) {
  const index_select_attr *a = c->attr;
  tensor x = window(c->in[0]), y = window(c->out[0]);
  const tensor *index = c->in[1];
  x.size[a->axis] = y.size[a->axis] = 1;
  for (int64_t i = 0; i < index->size[0]; i++) {
    int64_t k = ((int64_t *)index->st->data)[index->offset + i * index->stride[0]];
    TRY(check_index(c, k, c->in[0]->size[a->axis]));
    x.offset = c->in[0]->offset + k * x.stride[a->axis];
    y.offset = c->out[0]->offset + i * y.stride[a->axis];
    elements_copy(&y, &x);
  }
  return DLV3_OK;
}
IMPLS(index_select, {"ref", ref_index_select});

static status ref_index_select_backward(op_call *c) {
  const index_select_backward_attr *a = c->attr;
  tensor *g = c->in[0], *index = c->in[1], *x = c->out[0];
  int32_t width = dtype_bytes(g->dtype);
  zero(x);
  for (int64_t i = 0, n = numel(g); i < n; i++) {
    double v;
    int64_t along = 0, unused;
    int64_t to = offset_at(x, g->size, i, a->axis, &along);
    int64_t k = ((int64_t *)index->st->data)[index->offset + along * index->stride[0]];
    TRY(check_index(c, k, x->size[a->axis]));
    load_f64(&v, g->st->data + offset_at(g, g->size, i, -1, &unused) * width, g->dtype, 1);
    add_element(x->st->data + (to + k * x->stride[a->axis]) * width, x->dtype, v);
  }
  return DLV3_OK;
}
IMPLS(index_select_backward, {"ref", ref_index_select_backward});

static status ref_one_hot(op_call *c) {
  const one_hot_attr *a = c->attr;
  tensor *x = c->in[0], *y = c->out[0];
  int64_t unused;
  zero(y);
  for (int64_t i = 0, n = numel(x); i < n; i++) {
    double v;
    load_f64(&v, x->st->data + offset_at(x, x->size, i, -1, &unused) * dtype_bytes(x->dtype), x->dtype, 1);
    TRY(check_index(c, (int64_t)v, a->num_classes));
    ((uint8_t *)y->st->data)[offset_at(y, y->size, i * a->num_classes + (int64_t)v, -1, &unused)] = 1;
  }
  return DLV3_OK;
}
IMPLS(one_hot, {"ref", ref_one_hot});

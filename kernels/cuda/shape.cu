/* shape.cu - ops that move elements: copies through elements.h, picking by index. Views have no
 * kernel. */
#include "cuda/support/elements.h"

#define VIEW_IMPLS(op) const impl cuda_##op##_impls[] = {{0, 0}}
VIEW_IMPLS(permute);
VIEW_IMPLS(narrow);
VIEW_IMPLS(unsqueeze);
VIEW_IMPLS(squeeze);
VIEW_IMPLS(expand);

/* Sizes and strides of a tensor for a kernel; row-major positions. */
typedef struct {
  char *data;
  int32_t ndim, dtype, width;
  int64_t size[DLV3_MAX_DIMS], stride[DLV3_MAX_DIMS];
} window;

static window window_of(const tensor *t) {
  window w;
  memset(&w, 0, sizeof w);
  w.data = (char *)data_of(t), w.ndim = t->ndim, w.dtype = t->dtype, w.width = dtype_bytes(t->dtype);
  memcpy(w.size, t->size, sizeof w.size), memcpy(w.stride, t->stride, sizeof w.stride);
  return w;
}

/* Offset of row-major position i of `size` in w; without axis `skip`, whose coordinate goes to
 * *along. */
DEVICE int64_t offset_at(const window &w, const int64_t *size, int64_t i, int32_t skip, int64_t *along) {
  int64_t at = 0;
  for (int32_t k = w.ndim - 1; k >= 0; k--) {
    const int64_t x = i % size[k];
    i /= size[k];
    if (k == skip)
      *along = x;
    else
      at += x * w.stride[k];
  }
  return at;
}

DEVICE void move_element(const window &to, int64_t at, const window &from, int64_t source) {
  switch (to.width) {
  case 8: ((uint64_t *)to.data)[at] = ((const uint64_t *)from.data)[source]; break;
  case 4: ((uint32_t *)to.data)[at] = ((const uint32_t *)from.data)[source]; break;
  case 2: ((uint16_t *)to.data)[at] = ((const uint16_t *)from.data)[source]; break;
  default: ((uint8_t *)to.data)[at] = ((const uint8_t *)from.data)[source]; break;
  }
}

/* -- Copies ------------------------------------------------------------------------------------ */

/* Row-major position i of x becomes that of y. */
static __global__ void move_positions(window y, window x, int64_t n) {
  int64_t unused;
  FOR_ITEMS(i, n) move_element(y, offset_at(y, y.size, i, -1, &unused), x, offset_at(x, x.size, i, -1, &unused));
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
static status cuda_reshape(op_call *c) {
  tensor x = *c->in[0], y = *c->out[0];
  const int64_t n = numel(&x);
  tensor *flat = is_row_major(&y) ? &y : is_row_major(&x) ? &x : NULL;
  if (flat) {
    const tensor *other = flat == &y ? &x : &y;
    flat->ndim = other->ndim;
    memcpy(flat->size, other->size, sizeof flat->size);
    row_major(flat);
    return elements_copy(c, &y, &x);
  }
  const cudaStream_t stream = stream_of(c);
  if (n) LAUNCH(move_positions, blocks_for(n), BLOCK, stream, window_of(&y), window_of(&x), n);
  return LAUNCHED(c);
}
OWN(reshape);

static status cuda_contiguous(op_call *c) { return elements_copy(c, c->out[0], c->in[0]); }
OWN(contiguous);

static status cuda_narrow_backward(op_call *c) {
  const narrow_backward_attr *a = (const narrow_backward_attr *)c->attr;
  tensor part = *c->out[0];
  TRY(elements_fill(c, c->out[0], 0));
  part.size[a->axis] = c->in[0]->size[a->axis];
  part.offset += a->start * part.stride[a->axis];
  part.stride[a->axis] *= a->step;
  return elements_copy(c, &part, c->in[0]);
}
OWN(narrow_backward);

static status cuda_cat(op_call *c) {
  const cat_attr *a = (const cat_attr *)c->attr;
  tensor part = *c->out[0];
  for (int32_t i = 0; i < c->n_in; i++) {
    part.size[a->axis] = c->in[i]->size[a->axis];
    TRY(elements_copy(c, &part, c->in[i]));
    part.offset += part.size[a->axis] * part.stride[a->axis];
  }
  return DLV3_OK;
}
OWN(cat);

/* The part of x that stays is copied into the part of y it goes to; both are windows. */
static status cuda_pad(op_call *c) {
  const pad_attr *a = (const pad_attr *)c->attr;
  tensor x = *c->in[0], y = *c->out[0];
  TRY(elements_fill(c, c->out[0], a->value));
  for (int32_t i = 0; i < x.ndim; i++) {
    const int64_t before = a->before.v[i], after = a->after.v[i], cut = before < 0 ? -before : 0,
                  n = x.size[i] - cut - (after < 0 ? -after : 0);
    if (n <= 0) return DLV3_OK;
    x.offset += cut * x.stride[i];
    y.offset += (before > 0 ? before : 0) * y.stride[i];
    x.size[i] = y.size[i] = n;
  }
  return elements_copy(c, &y, &x);
}
OWN(pad);

static status cuda_flip(op_call *c) { /* x read backwards along the axes */
  const flip_attr *a = (const flip_attr *)c->attr;
  tensor x = *c->in[0];
  uint32_t seen = 0;
  for (int64_t i = 0; i < a->axes.n; i++) {
    const int64_t axis = a->axes.v[i];
    if (seen >> axis & 1 || !x.size[axis]) continue;
    seen |= 1u << axis;
    x.offset += (x.size[axis] - 1) * x.stride[axis];
    x.stride[axis] = -x.stride[axis];
  }
  return elements_copy(c, c->out[0], &x);
}
OWN(flip);

/* -- Picking by index -------------------------------------------------------------------------- */

typedef struct {
  int32_t op, axis;
  int64_t n; /* items                                                   */
  fault_slot faults;
} pick;

/* y[i] = x at index[i] along the axis; an index outside is reported, and that element stays what it
 * is. */
static __global__ void gather(pick p, window y, window x, window index) {
  FOR_ITEMS(i, p.n) {
    int64_t unused;
    const int64_t k = ((const int64_t *)index.data)[offset_at(index, y.size, i, -1, &unused)];
    if (k < 0 || k >= x.size[p.axis])
      raise_index(p.faults, p.op, k, x.size[p.axis]);
    else
      move_element(y, offset_at(y, y.size, i, -1, &unused), x,
                   offset_at(x, y.size, i, p.axis, &unused) + k * x.stride[p.axis]);
  }
}

/* The same with one index for all lines. */
static __global__ void index_select(pick p, window y, window x, window index) {
  FOR_ITEMS(i, p.n) {
    int64_t along = 0, unused;
    const int64_t from = offset_at(x, y.size, i, p.axis, &along),
                  k = ((const int64_t *)index.data)[along * index.stride[0]];
    if (k < 0 || k >= x.size[p.axis])
      raise_index(p.faults, p.op, k, x.size[p.axis]);
    else
      move_element(y, offset_at(y, y.size, i, -1, &unused), x, from + k * x.stride[p.axis]);
  }
}

/* grad_x[index[i]] += grad_y[i], a thread a line along the axis: equal indices add up in a fixed
 * order. index has one dimension (index_select) or grad_y's. */
static __global__ void add_back(pick p, window grad_x, window grad_y, window index) {
  int64_t size[DLV3_MAX_DIMS], unused;
  for (int32_t k = 0; k < grad_y.ndim; k++) size[k] = k == p.axis ? 1 : grad_y.size[k];
  const bool one = p.op == OP_index_select_backward;
  const int64_t index_step = one ? index.stride[0] : index.stride[p.axis];
  FOR_ITEMS(line, p.n) {
    const int64_t to = offset_at(grad_x, size, line, p.axis, &unused),
                  from = offset_at(grad_y, size, line, p.axis, &unused);
    const int64_t first = one ? 0 : offset_at(index, size, line, p.axis, &unused);
    for (int64_t i = 0; i < grad_y.size[p.axis]; i++) {
      const int64_t k = ((const int64_t *)index.data)[first + i * index_step], at = to + k * grad_x.stride[p.axis];
      if (k < 0 || k >= grad_x.size[p.axis])
        raise_index(p.faults, p.op, k, grad_x.size[p.axis]);
      else
        store_as<double>(grad_x.data, grad_x.dtype, at,
                         load_as<double>(grad_x.data, grad_x.dtype, at)
                             + load_as<double>(grad_y.data, grad_y.dtype, from + i * grad_y.stride[p.axis]));
    }
  }
}

static __global__ void one_hot(pick p, window y, window x, int64_t classes) {
  FOR_ITEMS(i, p.n) {
    int64_t unused;
    const int64_t k = load_as<int64_t>(x.data, x.dtype, offset_at(x, x.size, i, -1, &unused));
    if (k < 0 || k >= classes)
      raise_index(p.faults, p.op, k, classes);
    else
      ((uint8_t *)y.data)[offset_at(y, y.size, i * classes + k, -1, &unused)] = 1;
  }
}

static pick pick_of(const op_call *c, int64_t axis, int64_t n) { return pick{c->op, (int32_t)axis, n, faults_of(c)}; }

static status cuda_gather(op_call *c) {
  const pick p = pick_of(c, ((const gather_attr *)c->attr)->axis, numel(c->out[0]));
  const cudaStream_t stream = stream_of(c);
  if (p.n)
    LAUNCH(gather, blocks_for(p.n), BLOCK, stream, p, window_of(c->out[0]), window_of(c->in[0]), window_of(c->in[1]));
  return LAUNCHED(c);
}
OWN(gather);

static status cuda_index_select(op_call *c) {
  const pick p = pick_of(c, ((const index_select_attr *)c->attr)->axis, numel(c->out[0]));
  const cudaStream_t stream = stream_of(c);
  if (p.n)
    LAUNCH(index_select, blocks_for(p.n), BLOCK, stream, p, window_of(c->out[0]), window_of(c->in[0]),
           window_of(c->in[1]));
  return LAUNCHED(c);
}
OWN(index_select);

static status run_add_back(op_call *c, int64_t axis) {
  const tensor *grad_y = c->in[0];
  const int64_t along = grad_y->size[axis];
  const pick p = pick_of(c, axis, along ? numel(grad_y) / along : 0);
  const cudaStream_t stream = stream_of(c);
  TRY(elements_fill(c, c->out[0], 0));
  if (p.n)
    LAUNCH(add_back, blocks_for(p.n), BLOCK, stream, p, window_of(c->out[0]), window_of(grad_y), window_of(c->in[1]));
  return LAUNCHED(c);
}
static status cuda_gather_backward(op_call *c) {
  return run_add_back(c, ((const gather_backward_attr *)c->attr)->axis);
}
OWN(gather_backward);
static status cuda_index_select_backward(op_call *c) {
  return run_add_back(c, ((const index_select_backward_attr *)c->attr)->axis);
}
OWN(index_select_backward);

static status cuda_one_hot(op_call *c) {
  const pick p = pick_of(c, 0, numel(c->in[0]));
  const cudaStream_t stream = stream_of(c);
  TRY(elements_fill(c, c->out[0], 0));
  if (p.n)
    LAUNCH(one_hot, blocks_for(p.n), BLOCK, stream, p, window_of(c->out[0]), window_of(c->in[0]),
           ((const one_hot_attr *)c->attr)->num_classes);
  return LAUNCHED(c);
}
OWN(one_hot);

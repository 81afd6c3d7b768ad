/* shape.c - shape and backward rules of the ops that move elements without changing them.
 *
 * Views give strides into the storage of their input; the dispatcher makes the header and no kernel
 * runs. */
#include "rules.h"

/* Starts a view: the window of input 0, which the rule then changes. */
static spec *view(op_call *c) {
  const tensor *x = c->in[0];
  spec_like(&c->spec[0], x);
  memcpy(c->view_stride, x->stride, sizeof c->view_stride);
  c->view_offset = x->offset;
  c->is_view = true;
  return &c->spec[0];
}

static void remove_axis(spec *s, int64_t *stride, int64_t axis) {
  for (int64_t i = axis; i + 1 < s->ndim; i++) {
    s->size[i] = s->size[i + 1];
    stride[i] = stride[i + 1];
  }
  s->ndim--;
}

/* -- reshape ----------------------------------------------------------------------------------- */

/* The strides of x under new sizes; false where a view is impossible. Both sizes are divided into
 * groups of axes with the same number of elements; the axes of a group of x must form one axis of
 * constant stride. */
static bool view_strides(const tensor *x, const spec *y, int64_t *stride) {
  int32_t i = 0, k = 0;
  int64_t size[DLV3_MAX_DIMS], step[DLV3_MAX_DIMS];
  int32_t n = 0;
  for (int32_t a = 0; a < x->ndim; a++)
    if (x->size[a] != 1) {
      size[n] = x->size[a];
      step[n++] = x->stride[a];
    }
  for (k = 0; k < y->ndim; k++) stride[k] = 1;
  for (k = 0; i < n;) {
    int32_t first_k = k;
    int64_t have = size[i++], want = 1;
    while (k < y->ndim && (want *= y->size[k++], want != have)) {
      while (want > have && i < n) {
        if (step[i - 1] != step[i] * size[i]) return false;
        have *= size[i++];
      }
      if (want == have) break;
    }
    if (want != have) return false;
    int64_t at = step[i - 1];
    for (int32_t a = k - 1; a >= first_k; a--) {
      stride[a] = at;
      at *= y->size[a];
    }
  }
  return true;
}

status reshape_infer(op_call *c) {
  reshape_attr *a = c->attr;
  const tensor *x = c->in[0];
  int64_t n = numel(x), known = 1, free_axis = -1;
  char text[TEXT];
  if (a->size.n < 0 || a->size.n > DLV3_MAX_DIMS)
    return fail_call(c, DLV3_ERR_ARG, "a tensor has at most %d dimensions", DLV3_MAX_DIMS);
  for (int64_t i = 0; i < a->size.n; i++) {
    if (a->size.v[i] == -1 && free_axis < 0)
      free_axis = i;
    else if (a->size.v[i] < 0 || __builtin_mul_overflow(known, a->size.v[i], &known))
      known = -1;
    if (known < 0) break;
  }
  if (known > 0 && free_axis >= 0 && n % known == 0) {
    a->size.v[free_axis] = n / known;
    known = n;
  }
  if (known != n || (free_axis >= 0 && a->size.v[free_axis] < 0))
    return fail_call(c, DLV3_ERR_SHAPE, "%lld elements do not make %s", (long long)n,
                     sizes_text(text, (int32_t)a->size.n, a->size.v));
  spec *s = view(c);
  spec_set(s, x->dtype, (int32_t)a->size.n, a->size.v);
  c->is_view = n == 0 || view_strides(x, s, c->view_stride);
  if (n == 0) dense_strides(s->ndim, s->size, c->view_stride);
  return DLV3_OK;
}

status reshape_backward_rule(backward_call *b) {
  reshape_attr a;
  memset(&a, 0, sizeof a);
  sizes_attr(&a.size, &b->in_spec[0]);
  return op_run(OP_reshape, IN(b->grad_y[0]), &a, &b->grad_x[0]);
}

/* -- Other views ------------------------------------------------------------------------------- */

status permute_infer(op_call *c) {
  permute_attr *a = c->attr;
  const tensor *x = c->in[0];
  uint32_t seen = 0;
  if (a->axes.n != x->ndim) return fail_call(c, DLV3_ERR_ARG, "expected %d axes, one for each dimension", (int)x->ndim);
  spec *s = view(c);
  for (int32_t i = 0; i < x->ndim; i++) {
    TRY(normalize_axis(c, &a->axes.v[i], x->ndim));
    s->size[i] = x->size[a->axes.v[i]];
    c->view_stride[i] = x->stride[a->axes.v[i]];
    seen |= 1u << a->axes.v[i];
  }
  if (seen != (1u << x->ndim) - 1) return fail_call(c, DLV3_ERR_ARG, "every axis must be named once");
  return DLV3_OK;
}

status permute_backward_rule(backward_call *b) { /* y axis i is x axis axes[i]: back by the inverse */
  const permute_attr *a = b->attr;
  permute_attr inverse = {.axes = {.n = a->axes.n}};
  for (int64_t i = 0; i < a->axes.n; i++) inverse.axes.v[a->axes.v[i]] = i;
  return op_run(OP_permute, IN(b->grad_y[0]), &inverse, &b->grad_x[0]);
}

status narrow_infer(op_call *c) {
  narrow_attr *a = c->attr;
  TRY(normalize_axis(c, &a->axis, c->in[0]->ndim));
  int64_t n = c->in[0]->size[a->axis];
  if (a->start < 0) a->start += n;
  if (a->step < 1 || a->length < 0 || a->length > n || a->start < 0 || a->start > n || (a->length > 0 && a->start == n)
      || (a->length > 1 && a->step > (n - 1 - a->start) / (a->length - 1)))
    return fail_call(
        c, DLV3_ERR_ARG, "%lld elements from position %lld by %lld do not lie within axis %lld, which has %lld",
        (long long)a->length, (long long)a->start + 1, (long long)a->step, (long long)a->axis + 1, (long long)n);
  spec *s = view(c);
  s->size[a->axis] = a->length;
  c->view_offset += a->start * c->in[0]->stride[a->axis];
  if (a->length > 1) c->view_stride[a->axis] *= a->step;
  return DLV3_OK;
}

status narrow_backward_rule(backward_call *b) {
  const narrow_attr *a = b->attr;
  narrow_backward_attr back = {.axis = a->axis, .start = a->start, .step = a->step};
  sizes_attr(&back.size, &b->in_spec[0]);
  return op_run(OP_narrow_backward, IN(b->grad_y[0]), &back, &b->grad_x[0]);
}

static status dims_spec(op_call *c, const attr_dims *d) {
  if (d->n < 0 || d->n > DLV3_MAX_DIMS)
    return fail_call(c, DLV3_ERR_ARG, "a tensor has at most %d dimensions", DLV3_MAX_DIMS);
  spec_set(&c->spec[0], c->in[0]->dtype, (int32_t)d->n, d->v);
  return DLV3_OK;
}

status narrow_backward_infer(op_call *c) {
  narrow_backward_attr *a = c->attr;
  const tensor *g = c->in[0];
  TRY(dims_spec(c, &a->size));
  TRY(normalize_axis(c, &a->axis, (int32_t)a->size.n));
  bool fits = g->ndim == a->size.n && a->step >= 1 && a->start >= 0;
  if (fits) {
    int64_t last = a->size.v[a->axis] - 1 - a->start, steps = g->size[a->axis] - 1;
    if (steps < 0)
      fits = last >= -1;
    else
      fits = last >= 0 && (steps == 0 || a->step <= last / steps);
  }
  for (int32_t i = 0; fits && i < g->ndim; i++) fits = i == a->axis || g->size[i] == a->size.v[i];
  return fits ? DLV3_OK : fail_call(c, DLV3_ERR_SHAPE, "grad_y does not lie within size");
}

status unsqueeze_infer(op_call *c) {
  unsqueeze_attr *a = c->attr;
  const tensor *x = c->in[0];
  if (x->ndim == DLV3_MAX_DIMS)
    return fail_call(c, DLV3_ERR_SHAPE, "a tensor has at most %d dimensions", DLV3_MAX_DIMS);
  TRY(normalize_axis(c, &a->axis, x->ndim + 1));
  spec *s = view(c);
  for (int64_t i = s->ndim++; i > a->axis; i--) {
    s->size[i] = s->size[i - 1];
    c->view_stride[i] = c->view_stride[i - 1];
  }
  s->size[a->axis] = 1;
  c->view_stride[a->axis] = 1;
  return DLV3_OK;
}

status unsqueeze_backward_rule(backward_call *b) {
  squeeze_attr a = {((const unsqueeze_attr *)b->attr)->axis};
  return op_run(OP_squeeze, IN(b->grad_y[0]), &a, &b->grad_x[0]);
}

status squeeze_infer(op_call *c) {
  squeeze_attr *a = c->attr;
  TRY(normalize_axis(c, &a->axis, c->in[0]->ndim));
  if (c->in[0]->size[a->axis] != 1)
    return fail_call(c, DLV3_ERR_SHAPE, "axis %lld has size %lld, not 1", (long long)a->axis + 1,
                     (long long)c->in[0]->size[a->axis]);
  remove_axis(view(c), c->view_stride, a->axis);
  return DLV3_OK;
}

status squeeze_backward_rule(backward_call *b) {
  unsqueeze_attr a = {((const squeeze_attr *)b->attr)->axis};
  return op_run(OP_unsqueeze, IN(b->grad_y[0]), &a, &b->grad_x[0]);
}

status expand_infer(op_call *c) {
  expand_attr *a = c->attr;
  const tensor *x = c->in[0];
  if (a->size.n < x->ndim || a->size.n > DLV3_MAX_DIMS)
    return fail_call(c, DLV3_ERR_SHAPE, "size must have %d to %d numbers", (int)x->ndim, DLV3_MAX_DIMS);
  spec *s = view(c);
  int32_t lead = (int32_t)a->size.n - x->ndim;
  int64_t count = 1;
  s->ndim = (int32_t)a->size.n;
  for (int32_t i = 0; i < s->ndim; i++) {
    int64_t have = i < lead ? 1 : x->size[i - lead], want = a->size.v[i];
    if (want == -1 && i >= lead) want = have;
    if (want < 0 || (have != 1 && have != want))
      return fail_call(c, DLV3_ERR_SHAPE, "axis %d of size %lld can not become %lld", (int)i + 1, (long long)have,
                       (long long)want);
    if (want > 0
        && (__builtin_mul_overflow(count, want, &count)
            || count > 1ll << 48)) /* sizes are multiplied and added later */
      return fail_call(c, DLV3_ERR_SHAPE, "the result has too many elements (more than 2^48)");
    s->size[i] = want;
    c->view_stride[i] = i < lead ? 1 : x->stride[i - lead];
    if (have == 1 && want != 1) c->view_stride[i] = 0;
  }
  return DLV3_OK;
}

status expand_backward_rule(backward_call *b) { return reduce_to_input(b, 0, tensor_retain(b->grad_y[0])); }

/* -- Copies ------------------------------------------------------------------------------------ */

status contiguous_infer(op_call *c) { return same_infer(c); }
status contiguous_backward_rule(backward_call *b) {
  b->grad_x[0] = tensor_retain(b->grad_y[0]);
  return DLV3_OK;
}

status cat_infer(op_call *c) {
  cat_attr *a = c->attr;
  const tensor *x = c->in[0];
  TRY(normalize_axis(c, &a->axis, x->ndim));
  spec_like(&c->spec[0], x);
  for (int32_t i = 1; i < c->n_in; i++) {
    const tensor *t = c->in[i];
    bool fits = t->ndim == x->ndim && t->dtype == x->dtype;
    for (int32_t d = 0; fits && d < x->ndim; d++) fits = d == a->axis || t->size[d] == x->size[d];
    if (!fits)
      return fail_call(c, DLV3_ERR_SHAPE, "tensor %d must agree with the first in dtype and in all axes but %lld",
                       (int)i + 1, (long long)a->axis + 1);
    c->spec[0].size[a->axis] += t->size[a->axis];
  }
  return DLV3_OK;
}

status cat_backward_rule(backward_call *b) {
  const cat_attr *a = b->attr;
  int64_t start = 0;
  for (int32_t i = 0; i < b->n_in; i++) {
    int64_t length = b->in_spec[i].size[a->axis];
    narrow_attr part = {a->axis, start, length, 1};
    if (b->needs[i]) TRY(op_run(OP_narrow, IN(b->grad_y[0]), &part, &b->grad_x[i]));
    start += length;
  }
  return DLV3_OK;
}

status pad_infer(op_call *c) {
  const pad_attr *a = c->attr;
  const tensor *x = c->in[0];
  if (a->before.n != x->ndim || a->after.n != x->ndim)
    return fail_call(c, DLV3_ERR_ARG, "before and after need %d numbers each, one an axis", (int)x->ndim);
  spec_like(&c->spec[0], x);
  for (int32_t i = 0; i < x->ndim; i++) {
    int64_t limit = 1ll << 40, low = a->before.v[i], high = a->after.v[i];
    if (low > limit || high > limit || low < -limit || high < -limit || x->size[i] + low + high < 0)
      return fail_call(c, DLV3_ERR_ARG, "axis %d of size %lld can not be padded by %lld and %lld", (int)i + 1,
                       (long long)x->size[i], (long long)low, (long long)high);
    c->spec[0].size[i] = x->size[i] + low + high;
  }
  return DLV3_OK;
}

status pad_backward_rule(backward_call *b) { /* padding is cropped, cropping is padded with zeros */
  const pad_attr *a = b->attr;
  pad_attr back = {.before = {.n = a->before.n}, .after = {.n = a->after.n}};
  for (int64_t i = 0; i < a->before.n; i++) {
    back.before.v[i] = -a->before.v[i];
    back.after.v[i] = -a->after.v[i];
  }
  return op_run(OP_pad, IN(b->grad_y[0]), &back, &b->grad_x[0]);
}

status flip_infer(op_call *c) {
  flip_attr *a = c->attr;
  for (int64_t i = 0; i < a->axes.n; i++) TRY(normalize_axis(c, &a->axes.v[i], c->in[0]->ndim));
  return same_infer(c);
}

status flip_backward_rule(backward_call *b) { return op_run(OP_flip, IN(b->grad_y[0]), b->attr, &b->grad_x[0]); }

/* -- Picking by index -------------------------------------------------------------------------- */

status gather_infer(op_call *c) {
  gather_attr *a = c->attr;
  const tensor *x = c->in[0], *index = c->in[1];
  TRY(check_dtype(c, 1, DLV3_I64));
  TRY(normalize_axis(c, &a->axis, x->ndim));
  bool fits = index->ndim == x->ndim;
  for (int32_t i = 0; fits && i < x->ndim; i++) fits = i == a->axis || index->size[i] <= x->size[i];
  if (!fits)
    return fail_call(c, DLV3_ERR_SHAPE, "index must have x's dimensions and be no larger than x but in axis %lld",
                     (long long)a->axis + 1);
  spec_like(&c->spec[0], index);
  c->spec[0].dtype = x->dtype;
  return DLV3_OK;
}

status gather_backward_rule(backward_call *b) {
  gather_backward_attr a = {.axis = ((const gather_attr *)b->attr)->axis};
  sizes_attr(&a.size, &b->in_spec[0]);
  return op_run(OP_gather_backward, IN(b->grad_y[0], b->in[1]), &a, &b->grad_x[0]);
}

status gather_backward_infer(op_call *c) {
  gather_backward_attr *a = c->attr;
  TRY(check_float(c, 0));
  TRY(check_dtype(c, 1, DLV3_I64));
  TRY(check_sizes(c, 1, c->in[0]->ndim, c->in[0]->size));
  TRY(dims_spec(c, &a->size));
  TRY(normalize_axis(c, &a->axis, (int32_t)a->size.n));
  bool fits = a->size.n == c->in[0]->ndim;
  for (int32_t i = 0; fits && i < c->in[0]->ndim; i++) fits = i == a->axis || c->in[0]->size[i] <= a->size.v[i];
  if (!fits)
    return fail_call(c, DLV3_ERR_SHAPE, "grad_y must have the dimensions of size and be no larger but in axis %lld",
                     (long long)a->axis + 1);
  return DLV3_OK;
}

status index_select_infer(op_call *c) {
  index_select_attr *a = c->attr;
  TRY(check_dtype(c, 1, DLV3_I64));
  TRY(check_ndim(c, 1, 1));
  TRY(normalize_axis(c, &a->axis, c->in[0]->ndim));
  spec_like(&c->spec[0], c->in[0]);
  c->spec[0].size[a->axis] = c->in[1]->size[0];
  return DLV3_OK;
}

status index_select_backward_rule(backward_call *b) {
  index_select_backward_attr a = {.axis = ((const index_select_attr *)b->attr)->axis};
  sizes_attr(&a.size, &b->in_spec[0]);
  return op_run(OP_index_select_backward, IN(b->grad_y[0], b->in[1]), &a, &b->grad_x[0]);
}

status index_select_backward_infer(op_call *c) {
  index_select_backward_attr *a = c->attr;
  TRY(check_float(c, 0));
  TRY(check_dtype(c, 1, DLV3_I64));
  TRY(check_ndim(c, 1, 1));
  TRY(dims_spec(c, &a->size));
  TRY(normalize_axis(c, &a->axis, (int32_t)a->size.n));
  bool fits = c->in[0]->ndim == a->size.n;
  for (int32_t i = 0; fits && i < c->in[0]->ndim; i++)
    fits = c->in[0]->size[i] == (i == a->axis ? c->in[1]->size[0] : a->size.v[i]);
  return fits ? DLV3_OK : fail_call(c, DLV3_ERR_SHAPE, "grad_y, index and size do not agree");
}

status one_hot_infer(op_call *c) {
  const one_hot_attr *a = c->attr;
  const tensor *x = c->in[0];
  if (is_float(x->dtype)) return fail_call(c, DLV3_ERR_DTYPE, "x must hold integers, it is %s", dtype_name(x->dtype));
  if (x->ndim == DLV3_MAX_DIMS || a->num_classes < 1)
    return fail_call(c, DLV3_ERR_ARG, "num_classes must be at least 1 and x have at most %d dimensions",
                     DLV3_MAX_DIMS - 1);
  spec_like(&c->spec[0], x);
  c->spec[0].dtype = DLV3_U8;
  c->spec[0].size[c->spec[0].ndim++] = a->num_classes;
  return DLV3_OK;
}

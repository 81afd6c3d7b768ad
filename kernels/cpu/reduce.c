/* reduce.c - sums, means, variances, extremes over any axes of tensors of any strides.
 *
 * Sums accumulate in f64 (of integers in i64), whatever the dtype. The reduced elements are cut
 * into segments by shape alone; segments and blocks of outputs are the parallel tasks, and the
 * segments' sums are added in their order: no dependence on threads. */
#include "cpu/support/elements.h"

#include <stdlib.h>

enum { BLOCK = 256, SEGMENT = 1 << 15 };

typedef struct {
  const tensor *x;
  bool whole;                /* integers                                                     */
  int32_t n_kept, n_reduced; /* axes, the innermost in memory first                          */
  int64_t kept_size[DLV3_MAX_DIMS], kept_stride[DLV3_MAX_DIMS], kept_out[DLV3_MAX_DIMS];
  int64_t size[DLV3_MAX_DIMS], stride[DLV3_MAX_DIMS];
  int64_t outputs, count, segment, segments, block, blocks;
  const double *mean;     /* var: sum of (x - mean)^2 instead of x                        */
  double *partial;        /* [segments][outputs], outputs in the order of the kept axes   */
  int64_t *partial_whole; /* the same of integers                                         */
} reduction;

static void add_axis(int32_t *n, int64_t *size, int64_t *stride, int64_t *out, int64_t s, int64_t st, int64_t o) {
  int32_t at = (*n)++;
  for (; at > 0 && stride[at - 1] > st; at--) {
    size[at] = size[at - 1], stride[at] = stride[at - 1];
    if (out) out[at] = out[at - 1];
  }
  size[at] = s, stride[at] = st;
  if (out) out[at] = o;
}

/* Neighbours that are walked as one axis become one. */
static void merge(int32_t *n, int64_t *size, int64_t *stride, int64_t *out) {
  int32_t last = 0;
  for (int32_t i = 1; i < *n; i++) {
    if (stride[i] == stride[last] * size[last] && (!out || out[i] == out[last] * size[last]))
      size[last] *= size[i];
    else {
      last++;
      size[last] = size[i], stride[last] = stride[i];
      if (out) out[last] = out[i];
    }
  }
  *n = last + 1;
}

/* out: strides of the result along x's axes; 0 where an axis is reduced (or has size 1). */
static reduction reduction_of(const tensor *x, uint32_t mask, const int64_t *out) {
  reduction r = {.x = x, .whole = !is_float(x->dtype), .outputs = 1, .count = 1};
  for (int32_t i = 0; i < x->ndim; i++) {
    if (x->size[i] == 1) continue;
    if (mask >> i & 1)
      add_axis(&r.n_reduced, r.size, r.stride, NULL, x->size[i], x->stride[i], 0), r.count *= x->size[i];
    else
      add_axis(&r.n_kept, r.kept_size, r.kept_stride, r.kept_out, x->size[i], x->stride[i], out[i]),
          r.outputs *= x->size[i];
  }
  if (!r.n_kept) r.kept_size[0] = 1, r.kept_stride[0] = 0, r.n_kept = 1;
  if (!r.n_reduced) r.size[0] = 1, r.stride[0] = 0, r.n_reduced = 1;
  if (!r.outputs || !r.count) return r;
  merge(&r.n_kept, r.kept_size, r.kept_stride, r.kept_out);
  merge(&r.n_reduced, r.size, r.stride, NULL);
  int64_t row = r.kept_size[0];
  bool along_outputs = r.kept_stride[0] == 1 || r.stride[0] != 1; /* the contiguous axis is kept: add rows of outputs */
  r.block = along_outputs ? (row < BLOCK ? row : BLOCK) : 1;
  r.blocks = along_outputs ? (row + r.block - 1) / r.block * (r.outputs / row) : r.outputs;
  r.segment = SEGMENT / r.block;
  r.segments = (r.count + r.segment - 1) / r.segment;
  return r;
}

static int64_t offset_of(int64_t i, int32_t n, const int64_t *size, const int64_t *stride) {
  int64_t at = 0;
  for (int32_t k = 0; k < n; k++) at += i % size[k] * stride[k], i /= size[k];
  return at;
}

/* What one task adds: m outputs `step` apart from base on, reduced elements [from, to). */
typedef struct {
  int64_t base, step, m, from, to;
} task;

/* The elements from `from` on that lie stride[0] apart: their number, at most most. p: the first. */
static int64_t next_run(const reduction *r, const task *t, int64_t from, int64_t most, const char **p) {
  int64_t n = r->size[0] - from % r->size[0];
  if (n > t->to - from) n = t->to - from;
  *p = r->x->st->data + (t->base + offset_of(from, r->n_reduced, r->size, r->stride)) * dtype_bytes(r->x->dtype);
  return n < most ? n : most;
}

/* acc[0..m) += n rows of f32, `stride` apart; four at a time, since acc is read and written for
 * each. */
INLINE void add_rows_f32(const float *p, int64_t stride, int64_t n, int64_t m, double *acc) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4, p += 4 * stride) {
    const float *p1 = p + stride, *p2 = p1 + stride, *p3 = p2 + stride;
    for (int64_t k = 0; k < m; k++) acc[k] += ((double)p[k] + (double)p1[k]) + ((double)p2[k] + (double)p3[k]);
  }
  for (; i < n; i++, p += stride)
    for (int64_t k = 0; k < m; k++) acc[k] += p[k];
}

/* acc[0..m) += x (or its squared distance from mean). */
CLONES static void add_rows(const reduction *r, const task *t, const double *mean, double *acc) {
  int64_t width = dtype_bytes(r->x->dtype), n;
  double buf[BLOCK];
  const char *p;
  for (int64_t from = t->from; from < t->to; from += n) {
    n = next_run(r, t, from, INT64_MAX, &p);
    if (r->x->dtype == DLV3_F32 && t->step == 1 && !mean) {
      add_rows_f32((const float *)p, r->stride[0], n, t->m, acc);
      continue;
    }
    for (int64_t i = 0; i < n; i++, p += r->stride[0] * width) {
      if (t->step == 1)
        load_f64(buf, p, r->x->dtype, t->m);
      else
        for (int64_t k = 0; k < t->m; k++) load_f64(buf + k, p + k * t->step * width, r->x->dtype, 1);
      if (mean)
        for (int64_t k = 0; k < t->m; k++) acc[k] += (buf[k] - mean[k]) * (buf[k] - mean[k]);
      else
        for (int64_t k = 0; k < t->m; k++) acc[k] += buf[k];
    }
  }
}

#define ADD_LANES(T, q) \
  do { \
    int64_t k = 0; \
    for (; k + LANES <= n; k += LANES) \
      for (int32_t l = 0; l < LANES; l++) lanes[l] += (T)(q)[k + l]; \
    for (; k < n; k++) lanes[k % LANES] += (T)(q)[k]; \
  } while (0)

/* One output, whose contiguous axis is reduced: runs of elements, LANES partial sums. */
CLONES static void add_runs(const reduction *r, const task *t, const double *mean, double *acc) {
  double buf[RUN], lanes[LANES] = {0};
  bool direct = r->x->dtype == DLV3_F32 && !mean;
  const char *p;
  int64_t n;
  for (int64_t from = t->from; from < t->to; from += n) {
    n = next_run(r, t, from, direct ? INT64_MAX : RUN, &p);
    if (direct) {
      const float *q = (const float *)p;
      ADD_LANES(double, q);
      continue;
    }
    load_f64(buf, p, r->x->dtype, n);
    if (mean)
      for (int64_t k = 0; k < n; k++) buf[k] = (buf[k] - *mean) * (buf[k] - *mean);
    ADD_LANES(double, buf);
  }
  for (int32_t l = 0; l < LANES; l++) *acc += lanes[l];
}

/* The same of integers, of any strides; beyond i64 it wraps. */
static void add_whole(const reduction *r, const task *t, int64_t *acc) {
  int64_t width = dtype_bytes(r->x->dtype), buf[RUN], n;
  const char *p;
  for (int64_t from = t->from; from < t->to; from += n) {
    n = next_run(r, t, from, RUN, &p);
    for (int64_t k = 0; k < t->m; k++) {
      const char *q = p + k * t->step * width;
      uint64_t sum = (uint64_t)acc[k];
      if (r->stride[0] == 1)
        load_i64(buf, q, r->x->dtype, n);
      else
        for (int64_t i = 0; i < n; i++) load_i64(buf + i, q + i * r->stride[0] * width, r->x->dtype, 1);
      for (int64_t i = 0; i < n; i++) sum += (uint64_t)buf[i];
      acc[k] = (int64_t)sum;
    }
  }
}

static void reduce_tasks(void *ctx, int64_t begin, int64_t end) {
  const reduction *r = ctx;
  int64_t row = r->kept_size[0], per_row = r->block == 1 ? row : (row + r->block - 1) / r->block;
  for (int64_t i = begin; i < end; i++) {
    int64_t block = i % r->blocks, segment = i / r->blocks, inside = block % per_row * r->block,
            first = block / per_row * row + inside;
    task t = {.step = r->kept_stride[0], .m = r->block, .from = segment * r->segment};
    if (t.m > row - inside) t.m = row - inside;
    t.to = t.from + r->segment < r->count ? t.from + r->segment : r->count;
    t.base = r->x->offset + offset_of(first, r->n_kept, r->kept_size, r->kept_stride);
    const double *mean = r->mean ? r->mean + first : NULL;
    if (r->whole)
      add_whole(r, &t, r->partial_whole + segment * r->outputs + first);
    else if (r->block == 1 && r->stride[0] == 1)
      add_runs(r, &t, mean, r->partial + segment * r->outputs + first);
    else
      add_rows(r, &t, mean, r->partial + segment * r->outputs + first);
  }
}

/* Sums into r->partial (integers: partial_whole), a new array of r->outputs numbers, which the
 * caller frees. */
static status run_reduction(const op_call *c, reduction *r, const double *mean) {
  int64_t n = r->segments > 1 ? r->segments * r->outputs : r->outputs;
  r->mean = mean;
  void *partial = calloc((size_t)n + 1, sizeof(double));
  if (!partial) return fail_call(c, DLV3_ERR_OOM, "out of memory for partial sums");
  if (r->whole)
    r->partial_whole = partial;
  else
    r->partial = partial;
  if (!r->blocks) return DLV3_OK;
  int64_t size =
      r->block * (r->count < r->segment ? r->count : r->segment); /* elements of a task; small ones share a chunk */
  parallel_for(r->blocks * r->segments, SEGMENT / size, reduce_tasks, r);
  for (int64_t s = 1; s < r->segments; s++)
    for (int64_t i = 0; i < r->outputs; i++) {
      if (r->whole)
        r->partial_whole[i] = (int64_t)((uint64_t)r->partial_whole[i] + (uint64_t)r->partial_whole[s * r->outputs + i]);
      else
        r->partial[i] += r->partial[s * r->outputs + i];
    }
  return DLV3_OK;
}

/* Strides of y along x's axes, from the sizes x has where y keeps them: y's axes are aligned by the
 * mask. */
static void out_strides(const tensor *x, const tensor *y, uint32_t mask, bool keepdim, int64_t *out) {
  for (int32_t i = 0, k = 0; i < x->ndim; i++) {
    out[i] = mask >> i & 1 ? 0 : y->stride[k];
    if (keepdim || !(mask >> i & 1)) k++;
  }
}

/* y = sums / divisor; frees the sums. */
static void store_sums(reduction *r, tensor *y, double divisor) {
  int64_t width = dtype_bytes(y->dtype);
  for (int64_t i = 0; i < r->outputs; i++) {
    char *p = y->st->data + (y->offset + offset_of(i, r->n_kept, r->kept_size, r->kept_out)) * width;
    double v = r->whole ? 0 : r->partial[i] / divisor;
    if (r->whole)
      store_i64(p, y->dtype, &r->partial_whole[i], 1);
    else
      store_f64(p, y->dtype, &v, 1);
  }
  free(r->partial), free(r->partial_whole);
}

static uint32_t mask_of(const attr_axes *axes, int32_t ndim) {
  uint32_t mask = axes->n ? 0 : (1u << ndim) - 1;
  for (int64_t i = 0; i < axes->n; i++) mask |= 1u << axes->v[i];
  return mask;
}

enum { SUM, MEAN, VAR };

static status reduce(op_call *c, const attr_axes *axes, bool keepdim, int kind, double correction) {
  const tensor *x = c->in[0];
  uint32_t mask = mask_of(axes, x->ndim);
  int64_t out[DLV3_MAX_DIMS];
  out_strides(x, c->out[0], mask, keepdim, out);
  reduction r = reduction_of(x, mask, out);
  TRY(run_reduction(c, &r, NULL));
  double n = (double)r.count;
  if (kind == VAR) {
    double *mean = r.partial;
    for (int64_t i = 0; i < r.outputs; i++) mean[i] /= n;
    status st = run_reduction(c, &r, mean);
    free(mean);
    TRY(st);
  }
  store_sums(&r, c->out[0], kind == SUM ? 1 : kind == MEAN ? n : fmax(0, n - correction));
  return DLV3_OK;
}

/* Moves *offset by position i along the axes of t that the mask has, row-major, at these strides. */
static void move_along(const tensor *t, uint32_t mask, const int64_t *stride, int64_t i, int64_t *offset) {
  for (int32_t axis = t->ndim - 1; axis >= 0; axis--) {
    if (!(mask >> axis & 1)) continue;
    *offset += i % t->size[axis] * stride[axis];
    i /= t->size[axis];
  }
}

/* The sum over the reduced elements from `from` on: of x, or of its squared distance from mean. */
static double ref_total(const tensor *x, uint32_t mask, int64_t from, int64_t count, const double *mean) {
  double sum = 0;
  for (int64_t i = 0; i < count; i++) {
    int64_t p = from;
    double v;
    move_along(x, mask, x->stride, i, &p);
    load_f64(&v, x->st->data + p * dtype_bytes(x->dtype), x->dtype, 1);
    sum += mean ? (v - *mean) * (v - *mean) : v;
  }
  return sum;
}

/* The same of integers. */
static int64_t ref_total_whole(const tensor *x, uint32_t mask, int64_t from, int64_t count) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < count; i++) {
    int64_t p = from, v;
    move_along(x, mask, x->stride, i, &p);
    load_i64(&v, x->st->data + p * dtype_bytes(x->dtype), x->dtype, 1);
    sum += (uint64_t)v;
  }
  return (int64_t)sum;
}

/* The reference of all of them: one result after the other, its elements in their order. out: the
 * strides of y along x's axes. */
static status ref_reduce(const tensor *x, tensor *y, uint32_t mask, const int64_t *out, int kind, double correction) {
  int64_t results = 1, count = 1;
  for (int32_t i = 0; i < x->ndim; i++) {
    if (mask >> i & 1)
      count *= x->size[i];
    else
      results *= x->size[i];
  }
  const double divisor = kind == SUM ? 1 : kind == MEAN ? (double)count : fmax(0, (double)count - correction);
  for (int64_t k = 0; k < results; k++) {
    int64_t from = x->offset, to = y->offset;
    move_along(x, ~mask, x->stride, k, &from);
    move_along(x, ~mask, out, k, &to);
    char *p = y->st->data + to * dtype_bytes(y->dtype);
    if (!is_float(x->dtype)) {
      const int64_t sum = ref_total_whole(x, mask, from, count);
      store_i64(p, y->dtype, &sum, 1);
      continue;
    }
    double v = ref_total(x, mask, from, count, NULL);
    if (kind == VAR) {
      const double mean = v / (double)count;
      v = ref_total(x, mask, from, count, &mean);
    }
    v /= divisor;
    store_f64(p, y->dtype, &v, 1);
  }
  return DLV3_OK;
}

static status ref_reduce_axes(op_call *c, const attr_axes *axes, bool keepdim, int kind, double correction) {
  const uint32_t mask = mask_of(axes, c->in[0]->ndim);
  int64_t out[DLV3_MAX_DIMS];
  out_strides(c->in[0], c->out[0], mask, keepdim, out);
  return ref_reduce(c->in[0], c->out[0], mask, out, kind, correction);
}

static status vec_sum(op_call *c) {
  const sum_attr *a = c->attr;
  return reduce(c, &a->axes, a->keepdim, SUM, 0);
}
static status ref_sum(op_call *c) {
  const sum_attr *a = c->attr;
  return ref_reduce_axes(c, &a->axes, a->keepdim, SUM, 0);
}
IMPLS(sum, {"vec", vec_sum}, {"ref", ref_sum});

static status vec_mean(op_call *c) {
  const mean_attr *a = c->attr;
  return reduce(c, &a->axes, a->keepdim, MEAN, 0);
}
static status ref_mean(op_call *c) {
  const mean_attr *a = c->attr;
  return ref_reduce_axes(c, &a->axes, a->keepdim, MEAN, 0);
}
IMPLS(mean, {"vec", vec_mean}, {"ref", ref_mean});

static status vec_var(op_call *c) {
  const var_attr *a = c->attr;
  return reduce(c, &a->axes, a->keepdim, VAR, (double)a->correction);
}
static status ref_var(op_call *c) {
  const var_attr *a = c->attr;
  return ref_reduce_axes(c, &a->axes, a->keepdim, VAR, (double)a->correction);
}
IMPLS(var, {"vec", vec_var}, {"ref", ref_var});

/* The axes of x that y has not, or as 1; out: the strides of y along x's axes. */
static uint32_t sum_to_axes(const tensor *x, const tensor *y, int64_t *out) {
  uint32_t mask = 0;
  int32_t lead = x->ndim - y->ndim;
  for (int32_t i = 0; i < x->ndim; i++) {
    bool gone = i < lead || (y->size[i - lead] == 1 && x->size[i] != 1);
    mask |= (uint32_t)gone << i;
    out[i] = gone ? 0 : y->stride[i - lead];
  }
  return mask;
}

static status vec_sum_to(op_call *c) {
  int64_t out[DLV3_MAX_DIMS];
  const uint32_t mask = sum_to_axes(c->in[0], c->out[0], out);
  reduction r = reduction_of(c->in[0], mask, out);
  TRY(run_reduction(c, &r, NULL));
  store_sums(&r, c->out[0], 1);
  return DLV3_OK;
}
static status ref_sum_to(op_call *c) {
  int64_t out[DLV3_MAX_DIMS];
  const uint32_t mask = sum_to_axes(c->in[0], c->out[0], out);
  return ref_reduce(c->in[0], c->out[0], mask, out, SUM, 0);
}
IMPLS(sum_to, {"vec", vec_sum_to}, {"ref", ref_sum_to});

/* -- Extremes ---------------------------------------------------------------------------------- */

typedef struct {
  const op_call *c;
  int64_t axis;
  bool smallest, whole; /* the minimum; integers */
} extreme_job;

/* Positions of the extreme of a line of elements along the axis from p on. */
static int64_t best_float(const extreme_job *job, const char *p) {
  const tensor *x = job->c->in[0];
  int64_t step = x->stride[job->axis] * dtype_bytes(x->dtype), at = 0;
  double best = 0, v;
  for (int64_t k = 0; k < x->size[job->axis]; k++, p += step) {
    load_f64(&v, p, x->dtype, 1);
    if (k == 0 || (job->smallest ? v < best : v > best) || (v != v && best == best)) best = v, at = k;
  }
  return at;
}
static int64_t best_whole(const extreme_job *job, const char *p) {
  const tensor *x = job->c->in[0];
  int64_t step = x->stride[job->axis] * dtype_bytes(x->dtype), at = 0, best = 0, v;
  for (int64_t k = 0; k < x->size[job->axis]; k++, p += step) {
    load_i64(&v, p, x->dtype, 1);
    if (k == 0 || (job->smallest ? v < best : v > best)) best = v, at = k;
  }
  return at;
}

static void extreme_range(void *ctx, int64_t begin, int64_t end) {
  const extreme_job *job = ctx;
  const tensor *x = job->c->in[0];
  tensor *y = job->c->out[0], *index = job->c->out[1];
  int32_t width = dtype_bytes(x->dtype);
  for (int64_t i = begin; i < end; i++) {
    int64_t rest = i, from = x->offset, to = y->offset;
    for (int32_t k = x->ndim - 1, m = y->ndim - 1; k >= 0; k--) {
      bool gone = k == job->axis;
      if (gone && y->ndim == x->ndim) m--;
      if (gone) continue;
      from += rest % x->size[k] * x->stride[k], to += rest % x->size[k] * y->stride[m];
      rest /= x->size[k], m--;
    }
    const char *p = x->st->data + from * width;
    int64_t at = job->whole ? best_whole(job, p) : best_float(job, p);
    memcpy(y->st->data + to * width, p + at * x->stride[job->axis] * width, (size_t)width);
    ((int64_t *)index->st->data)[to] = at;
  }
}

static status extreme(op_call *c, int64_t axis, bool smallest) {
  extreme_job job = {c, axis, smallest, !is_float(c->in[0]->dtype)};
  parallel_for(numel(c->out[0]), 1024, extreme_range, &job);
  return DLV3_OK;
}

static status ref_max_dim(op_call *c) { return extreme(c, ((const max_dim_attr *)c->attr)->axis, false); }
static status ref_min_dim(op_call *c) { return extreme(c, ((const min_dim_attr *)c->attr)->axis, true); }

/* The same for dense f32 and bf16 as memory [outer][n][inner] to [outer][inner]: SIDE outputs at a
 * time, so that the comparisons of one candidate each are a vector's. */
enum { SIDE = 512 };

typedef struct {
  const char *x;
  char *y;
  int64_t *index, n, inner, outputs;
  int32_t dtype;
  float sign; /* -1: the minimum */
} extreme_rows;

INLINE bool beats(float v, float best) { return v > best || (v != v && best == best); }

CLONES static void better_of_rows(float *restrict best, int32_t *restrict at, const float *restrict v, int64_t count,
                                  int32_t k, float sign) {
  for (int64_t i = 0; i < count; i++) {
    bool take = beats(v[i] * sign, best[i]);
    best[i] = take ? v[i] * sign : best[i], at[i] = take ? k : at[i];
  }
}

/* Candidates k of `count` outputs as a row: neighbours, or, where inner is 1, n apart. */
static const float *row_of(float *space, const extreme_rows *job, const char *x, int64_t k, int64_t count) {
  int32_t width = dtype_bytes(job->dtype);
  if (job->inner > 1) {
    const char *p = x + k * job->inner * width;
    if (job->dtype == DLV3_F32) return (const float *)p;
    load_f32(space, p, job->dtype, count);
  } else if (job->dtype == DLV3_F32)
    for (int64_t i = 0; i < count; i++) space[i] = ((const float *)x)[i * job->n + k];
  else
    for (int64_t i = 0; i < count; i++) space[i] = bf16_to_f32(((const bf16 *)x)[i * job->n + k]);
  return space;
}

/* `count` (at most SIDE) outputs from `to` on, whose candidates begin at x and lie `apart` elements
 * apart. */
static void extreme_side(const extreme_rows *job, const char *x, int64_t to, int64_t count) {
  float best[SIDE], space[SIDE];
  int32_t at[SIDE] = {0}, width = dtype_bytes(job->dtype);
  int64_t apart = job->inner > 1 ? 1 : job->n;
  const float *first = row_of(space, job, x, 0, count);
  for (int64_t i = 0; i < count; i++) best[i] = first[i] * job->sign;
  for (int64_t k = 1; k < job->n; k++)
    better_of_rows(best, at, row_of(space, job, x, k, count), count, (int32_t)k, job->sign);
  for (int64_t i = 0; i < count; i++) {
    memcpy(job->y + (to + i) * width, x + (at[i] * job->inner + i * apart) * width, (size_t)width);
    job->index[to + i] = at[i];
  }
}

static void extreme_rows_range(void *ctx, int64_t begin, int64_t end) {
  const extreme_rows *job = ctx;
  int64_t line = job->inner > 1 ? job->inner : job->outputs, sides = (line + SIDE - 1) / SIDE,
          width = dtype_bytes(job->dtype);
  for (int64_t i = begin; i < end; i++) {
    int64_t outer = i / sides, from = i % sides * SIDE, apart = job->inner > 1 ? 1 : job->n;
    extreme_side(job, job->x + (outer * job->n * job->inner + from * apart) * width, outer * line + from,
                 line - from < SIDE ? line - from : SIDE);
  }
}

/* Do the outputs lie in memory as the inputs do, without the axis? */
static bool same_order(const tensor *x, const tensor *y, int64_t axis) {
  for (int32_t k = 0, m = 0; k < x->ndim; k++) {
    if (k == axis) {
      m += y->ndim == x->ndim;
      continue;
    }
    int64_t expected = x->stride[k] > x->stride[axis] ? x->stride[k] / x->size[axis] : x->stride[k];
    if (x->size[k] > 1 && y->stride[m] != expected) return false;
    m++;
  }
  return true;
}

static status extreme_by_rows(op_call *c, int64_t axis, bool smallest) {
  const tensor *x = c->in[0], *y = c->out[0];
  if (x->dtype != DLV3_F32 && x->dtype != DLV3_BF16) return DECLINED("only f32 and bf16");
  int64_t n = x->size[axis], inner = x->stride[axis];
  if (!is_dense(x) || n < 2) return DECLINED("not dense, or a single one to choose from");
  if (!same_order(x, y, axis)) return DECLINED("the result has another order in memory");
  if (n > INT32_MAX) return DECLINED("too many to choose from");
  if (!numel(y)) return DLV3_OK;
  extreme_rows job = {data_of(x), data_of(y), data_of(c->out[1]), n,
                      inner,      numel(y),   x->dtype,           smallest ? -1.0f : 1.0f};
  int64_t line = inner > 1 ? inner : numel(y), sides = (line + SIDE - 1) / SIDE;
  parallel_for(numel(y) / line * sides, 1 + 16384 / (n * (line < SIDE ? line : SIDE)), extreme_rows_range, &job);
  return DLV3_OK;
}

static status vec_max_dim(op_call *c) { return extreme_by_rows(c, ((const max_dim_attr *)c->attr)->axis, false); }
static status vec_min_dim(op_call *c) { return extreme_by_rows(c, ((const min_dim_attr *)c->attr)->axis, true); }
IMPLS(max_dim, {"vec", vec_max_dim}, {"ref", ref_max_dim});
IMPLS(min_dim, {"vec", vec_min_dim}, {"ref", ref_min_dim});

/* -- allclose ---------------------------------------------------------------------------------- */

/* The broadcast of a and b is walked with a stand-in for the result's sizes; one unclose element
 * settles it. */
static status ref_allclose(op_call *c) {
  const allclose_attr *at = c->attr;
  const tensor *a = c->in[0], *b = c->in[1];
  int32_t ndim = a->ndim > b->ndim ? a->ndim : b->ndim, width = dtype_bytes(a->dtype);
  int64_t size[DLV3_MAX_DIMS], sa[DLV3_MAX_DIMS], sb[DLV3_MAX_DIMS], total = 1;
  for (int32_t i = 0; i < ndim; i++) {
    int32_t ia = i - (ndim - a->ndim), ib = i - (ndim - b->ndim);
    int64_t na = ia < 0 ? 1 : a->size[ia], nb = ib < 0 ? 1 : b->size[ib];
    size[i] = na == 1 ? nb : na;
    sa[i] = na == 1 ? 0 : a->stride[ia], sb[i] = nb == 1 ? 0 : b->stride[ib];
    total *= size[i];
  }
  bool close = true;
  for (int64_t i = 0; i < total && close; i++) {
    int64_t rest = i, pa = a->offset, pb = b->offset;
    for (int32_t k = ndim - 1; k >= 0; k--) pa += rest % size[k] * sa[k], pb += rest % size[k] * sb[k], rest /= size[k];
    double x, y;
    load_f64(&x, a->st->data + pa * width, a->dtype, 1);
    load_f64(&y, b->st->data + pb * width, b->dtype, 1);
    close = x == y || fabs(x - y) <= at->atol + at->rtol * fabs(y) || (at->equal_nan && x != x && y != y);
    if (isinf(x) || isinf(y)) close = x == y;
  }
  *(uint8_t *)data_of(c->out[0]) = close;
  return DLV3_OK;
}
IMPLS(allclose, {"ref", ref_allclose});

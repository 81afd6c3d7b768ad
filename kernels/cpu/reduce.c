/* reduce.c - sums, means, variances, extremes over any axes of tensors of any strides.
 *
 * Sums accumulate in f64, whatever the dtype. The reduced elements are cut into segments by shape alone; segments and
 * blocks of outputs are the parallel tasks, and the segments' sums are added in their order: no dependence on threads. */
#include "elements.h"

#include <stdlib.h>

enum { BLOCK = 256, SEGMENT = 1 << 15 };

typedef struct {
  const tensor *x;
  int32_t n_kept, n_reduced;                     /* axes, the innermost in memory first                          */
  int64_t kept_size[DLV3_MAX_DIMS], kept_stride[DLV3_MAX_DIMS], kept_out[DLV3_MAX_DIMS];
  int64_t size[DLV3_MAX_DIMS], stride[DLV3_MAX_DIMS];
  int64_t outputs, count, segment, segments, block, blocks;
  const double *mean;                            /* var: sum of (x - mean)^2 instead of x                        */
  double *partial;                               /* [segments][outputs], outputs in the order of the kept axes   */
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

/* out: strides of the result along x's axes; 0 where an axis is reduced (or has size 1). */
static reduction reduction_of(const tensor *x, uint32_t mask, const int64_t *out) {
  reduction r = {.x = x, .outputs = 1, .count = 1};
  for (int32_t i = 0; i < x->ndim; i++) {
    if (x->size[i] == 1) continue;
    if (mask >> i & 1) add_axis(&r.n_reduced, r.size, r.stride, NULL, x->size[i], x->stride[i], 0), r.count *= x->size[i];
    else add_axis(&r.n_kept, r.kept_size, r.kept_stride, r.kept_out, x->size[i], x->stride[i], out[i]), r.outputs *= x->size[i];
  }
  if (!r.n_kept) r.kept_size[0] = 1, r.kept_stride[0] = 0, r.n_kept = 1;
  if (!r.n_reduced) r.size[0] = 1, r.stride[0] = 0, r.n_reduced = 1;
  int64_t row = r.kept_size[0];
  bool along_outputs = r.kept_stride[0] == 1 || r.stride[0] != 1; /* the contiguous axis is kept: add rows of outputs */
  r.block = along_outputs ? (row < BLOCK ? row : BLOCK) : 1;
  r.blocks = along_outputs ? (row + r.block - 1) / r.block * (r.outputs / row) : r.outputs;
  r.segment = SEGMENT / r.block;
  r.segments = r.count ? (r.count + r.segment - 1) / r.segment : 1;
  return r;
}

static int64_t offset_of(int64_t i, int32_t n, const int64_t *size, const int64_t *stride) {
  int64_t at = 0;
  for (int32_t k = 0; k < n; k++) at += i % size[k] * stride[k], i /= size[k];
  return at;
}

/* acc[0..m) += x (or its squared distance from mean), outputs `step` apart, reduced elements [from, to). */
CLONES static void add_rows(const reduction *r, int64_t base, int64_t step, int64_t m, int64_t from, int64_t to, const double *mean, double *acc) {
  int32_t width = dtype_bytes(r->x->dtype);
  double buf[BLOCK];
  for (int64_t i = from; i < to; i++) {
    const char *p = r->x->st->data + (base + offset_of(i, r->n_reduced, r->size, r->stride)) * width;
    if (step == 1) load_f64(buf, p, r->x->dtype, m);
    else for (int64_t k = 0; k < m; k++) load_f64(buf + k, p + k * step * width, r->x->dtype, 1);
    if (mean) for (int64_t k = 0; k < m; k++) acc[k] += (buf[k] - mean[k]) * (buf[k] - mean[k]);
    else for (int64_t k = 0; k < m; k++) acc[k] += buf[k];
  }
}

/* One output, whose contiguous axis is reduced: runs of elements, LANES partial sums. */
CLONES static void add_runs(const reduction *r, int64_t base, int64_t from, int64_t to, const double *mean, double *acc) {
  int32_t width = dtype_bytes(r->x->dtype);
  double buf[RUN], lanes[LANES] = {0};
  while (from < to) {
    int64_t n = r->size[0] - from % r->size[0];
    if (n > to - from) n = to - from;
    if (n > RUN) n = RUN;
    load_f64(buf, r->x->st->data + (base + offset_of(from, r->n_reduced, r->size, r->stride)) * width, r->x->dtype, n);
    if (mean) for (int64_t k = 0; k < n; k++) buf[k] = (buf[k] - *mean) * (buf[k] - *mean);
    int64_t k = 0;
    for (; k + LANES <= n; k += LANES)
      for (int32_t l = 0; l < LANES; l++) lanes[l] += buf[k + l];
    for (; k < n; k++) lanes[k % LANES] += buf[k];
    from += n;
  }
  for (int32_t l = 0; l < LANES; l++) *acc += lanes[l];
}

static void reduce_tasks(void *ctx, int64_t begin, int64_t end) {
  const reduction *r = ctx;
  for (int64_t task = begin; task < end; task++) {
    int64_t block = task % r->blocks, segment = task / r->blocks;
    int64_t from = segment * r->segment, to = from + r->segment < r->count ? from + r->segment : r->count;
    int64_t row = r->kept_size[0], per_row = r->block == 1 ? row : (row + r->block - 1) / r->block;
    int64_t first = block / per_row * row + block % per_row * r->block;
    int64_t m = r->block == 1 ? 1 : row - block % per_row * r->block;
    if (m > r->block) m = r->block;
    int64_t base = r->x->offset + offset_of(first, r->n_kept, r->kept_size, r->kept_stride);
    double *acc = r->partial + segment * r->outputs + first;
    const double *mean = r->mean ? r->mean + first : NULL;
    if (r->block == 1 && r->stride[0] == 1) add_runs(r, base, from, to, mean, acc);
    else add_rows(r, base, r->kept_stride[0], m, from, to, mean, acc);
  }
}

/* Sums into a new array of r->outputs doubles, which the caller frees. */
static status run_reduction(const op_call *c, reduction *r, const double *mean, double **sums) {
  r->mean = mean;
  r->partial = calloc((size_t)(r->segments * r->outputs) + 1, sizeof(double));
  if (!r->partial) return fail_call(c, DLV3_ERR_OOM, "out of memory for partial sums");
  int64_t task = r->block * (r->count < r->segment ? r->count : r->segment); /* elements; small ones share a chunk */
  if (task) parallel_for(r->blocks * r->segments, SEGMENT / task, reduce_tasks, r);
  for (int64_t s = 1; s < r->segments; s++)
    for (int64_t i = 0; i < r->outputs; i++) r->partial[i] += r->partial[s * r->outputs + i];
  *sums = r->partial;
  return DLV3_OK;
}

/* Strides of y along x's axes, from the sizes x has where y keeps them: y's axes are aligned by the mask. */
static void out_strides(const tensor *x, const tensor *y, uint32_t mask, bool keepdim, int64_t *out) {
  for (int32_t i = 0, k = 0; i < x->ndim; i++) {
    out[i] = mask >> i & 1 ? 0 : y->stride[k];
    if (keepdim || !(mask >> i & 1)) k++;
  }
}

static void store_sums(const reduction *r, tensor *y, const double *sums, double factor) {
  int32_t width = dtype_bytes(y->dtype);
  for (int64_t i = 0; i < r->outputs; i++) {
    double v = sums[i] * factor;
    store_f64(y->st->data + (y->offset + offset_of(i, r->n_kept, r->kept_size, r->kept_out)) * width, y->dtype, &v, 1);
  }
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
  double *sums, *squares;
  out_strides(x, c->out[0], mask, keepdim, out);
  reduction r = reduction_of(x, mask, out);
  TRY(run_reduction(c, &r, NULL, &sums));
  double n = (double)r.count;
  if (kind == VAR) {
    for (int64_t i = 0; i < r.outputs; i++) sums[i] /= n;
    status st = run_reduction(c, &r, sums, &squares);
    if (st == DLV3_OK) store_sums(&r, c->out[0], squares, 1 / (n - correction)), free(squares);
    free(sums);
    return st;
  }
  store_sums(&r, c->out[0], sums, kind == MEAN ? 1 / n : 1);
  free(sums);
  return DLV3_OK;
}

static status ref_sum(op_call *c) {
  const sum_attr *a = c->attr;
  return reduce(c, &a->axes, a->keepdim, SUM, 0);
}
static status ref_mean(op_call *c) {
  const mean_attr *a = c->attr;
  return reduce(c, &a->axes, a->keepdim, MEAN, 0);
}
static status ref_var(op_call *c) {
  const var_attr *a = c->attr;
  return reduce(c, &a->axes, a->keepdim, VAR, (double)a->correction);
}
IMPLS(sum, {"ref", ref_sum});
IMPLS(mean, {"ref", ref_mean});
IMPLS(var, {"ref", ref_var});

static status ref_sum_to(op_call *c) {
  const tensor *x = c->in[0], *y = c->out[0];
  int64_t out[DLV3_MAX_DIMS];
  double *sums;
  uint32_t mask = 0;
  int32_t lead = x->ndim - y->ndim;
  for (int32_t i = 0; i < x->ndim; i++) {
    bool gone = i < lead || (y->size[i - lead] == 1 && x->size[i] != 1);
    mask |= (uint32_t)gone << i;
    out[i] = gone ? 0 : y->stride[i - lead];
  }
  reduction r = reduction_of(x, mask, out);
  TRY(run_reduction(c, &r, NULL, &sums));
  store_sums(&r, c->out[0], sums, 1);
  free(sums);
  return DLV3_OK;
}
IMPLS(sum_to, {"ref", ref_sum_to});

/* -- Extremes ---------------------------------------------------------------------------------------------- */

typedef struct {
  const op_call *c;
  int64_t axis;
  double sign; /* 1 for the maximum, -1 for the minimum */
} extreme_job;

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
    double best = 0, v;
    int64_t at = 0;
    for (int64_t k = 0; k < x->size[job->axis]; k++) {
      load_f64(&v, x->st->data + (from + k * x->stride[job->axis]) * width, x->dtype, 1);
      if (k == 0 || v * job->sign > best * job->sign || (v != v && best == best)) best = v, at = k;
    }
    store_f64(y->st->data + to * width, y->dtype, &best, 1);
    ((int64_t *)index->st->data)[to] = at;
  }
}

static status extreme(op_call *c, int64_t axis, double sign) {
  extreme_job job = {c, axis, sign};
  parallel_for(numel(c->out[0]), 1024, extreme_range, &job);
  return DLV3_OK;
}

static status ref_max_dim(op_call *c) { return extreme(c, ((const max_dim_attr *)c->attr)->axis, 1); }
static status ref_min_dim(op_call *c) { return extreme(c, ((const min_dim_attr *)c->attr)->axis, -1); }
IMPLS(max_dim, {"ref", ref_max_dim});
IMPLS(min_dim, {"ref", ref_min_dim});

/* -- allclose ---------------------------------------------------------------------------------------------- */

/* The broadcast of a and b is walked with a stand-in for the result's sizes; one unclose element settles it. */
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

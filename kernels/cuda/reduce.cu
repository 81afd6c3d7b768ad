/* reduce.cu - sums, means, variances, extremes over any axes of tensors of any strides.
 *
 * Sums accumulate in f64 (of integers in i64), whatever the dtype. Threads of a block stand along
 * the outputs (x) and the reduced elements (y), so that neighbours read neighbours in memory either
 * way. The reduced elements are cut into segments by shape alone, whose sums are added in their
 * order by a second kernel. */
#include "cuda/support/elements.h"

typedef struct {
  const char *x;
  char *y;
  int32_t dtype, y_dtype;
  int32_t n_kept, n_reduced; /* axes, the innermost in memory first                          */
  int64_t kept_size[DLV3_MAX_DIMS], kept_stride[DLV3_MAX_DIMS], kept_out[DLV3_MAX_DIMS];
  int64_t size[DLV3_MAX_DIMS], stride[DLV3_MAX_DIMS];
  int64_t outputs, count, segment, segments;
} reduction;

BOTH int64_t offset_of(int64_t i, int32_t n, const int64_t *size, const int64_t *stride) {
  int64_t at = 0;
  for (int32_t k = 0; k < n - 1; k++) at += i % size[k] * stride[k], i /= size[k];
  return at + i * stride[n - 1];
}

template <class T> DEVICE double number(T v) { return (double)wide(v); }
DEVICE int64_t number(int64_t v) { return v; }
DEVICE int64_t number(int32_t v) { return v; }
DEVICE int64_t number(uint8_t v) { return v; }

/* partial[segment][output] = sum of x, or of its squared distance from mean[output]. Four elements
 * are on their way before the first is used. */
template <class S, class T> static __global__ void sum_segments(reduction r, const double *mean, S *partial) {
  enum { N = 4 };
  __shared__ S buf[BLOCK];
  const int64_t output = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, from = (int64_t)blockIdx.y * r.segment;
  const int64_t to = from + r.segment < r.count ? from + r.segment : r.count;
  S sum = 0;
  if (output < r.outputs) {
    const T *x = (const T *)r.x + offset_of(output, r.n_kept, r.kept_size, r.kept_stride);
    const S center = mean ? (S)mean[output] : 0;
    const int64_t step = blockDim.y;
    for (int64_t i = from + threadIdx.y; i < to; i += N * step) {
      T read[N];
      UNROLL
      for (int k = 0; k < N; k++)
        if (i + k * step < to) read[k] = x[offset_of(i + k * step, r.n_reduced, r.size, r.stride)];
      UNROLL
      for (int k = 0; k < N; k++) {
        if (i + k * step >= to) break;
        const S v = (S)number(read[k]);
        sum += mean ? (v - center) * (v - center) : v;
      }
    }
  }
  sum = sum_over_y(sum, buf);
  if (threadIdx.y == 0 && output < r.outputs) partial[blockIdx.y * r.outputs + output] = sum;
}

DEVICE void store_sum(const reduction &r, int64_t at, double sum, double divisor) {
  store_as<double>(r.y, r.y_dtype, at, sum / divisor);
}
DEVICE void store_sum(const reduction &r, int64_t at, int64_t sum, double) {
  store_as<int64_t>(r.y, r.y_dtype, at, sum);
}

/* y = (sum of the segments) / divisor; into mean instead, if it is given. */
template <class S> static __global__ void finish_sums(reduction r, const S *partial, double divisor, double *mean) {
  __shared__ S buf[BLOCK];
  const int64_t output = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  S sum = 0;
  for (int64_t s = threadIdx.y; output < r.outputs && s < r.segments; s += blockDim.y)
    sum += partial[s * r.outputs + output];
  sum = sum_over_y(sum, buf);
  if (threadIdx.y || output >= r.outputs) return;
  if (mean)
    mean[output] = (double)sum / divisor;
  else
    store_sum(r, offset_of(output, r.n_kept, r.kept_size, r.kept_out), sum, divisor);
}

/* -- Launchers --------------------------------------------------------------------------------- */

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
      size[++last] = size[i], stride[last] = stride[i];
      if (out) out[last] = out[i];
    }
  }
  *n = last + 1;
}

/* out: strides of the result along x's axes; 0 where an axis is reduced (or has size 1). */
static reduction reduction_of(const tensor *x, tensor *y, uint32_t mask, const int64_t *out) {
  reduction r;
  memset(&r, 0, sizeof r);
  r.x = (const char *)data_of(x), r.y = (char *)data_of(y), r.dtype = x->dtype, r.y_dtype = y->dtype,
  r.outputs = r.count = 1;
  for (int32_t i = 0; i < x->ndim; i++) {
    if (x->size[i] == 1) continue;
    if (mask >> i & 1)
      add_axis(&r.n_reduced, r.size, r.stride, NULL, x->size[i], x->stride[i], 0), r.count *= x->size[i];
    else
      add_axis(&r.n_kept, r.kept_size, r.kept_stride, r.kept_out, x->size[i], x->stride[i], out[i]),
          r.outputs *= x->size[i];
  }
  if (!r.n_kept) r.kept_size[0] = 1, r.n_kept = 1;
  if (!r.n_reduced) r.size[0] = 1, r.n_reduced = 1;
  if (!r.outputs || !r.count) return r;
  merge(&r.n_kept, r.kept_size, r.kept_stride, r.kept_out);
  merge(&r.n_reduced, r.size, r.stride, NULL);
  return r;
}

static void launch_sums(const reduction &r, dim3 grid, dim3 block, cudaStream_t stream, const double *mean,
                        double *partial) {
  BY_FLOAT(r.dtype, LAUNCH((sum_segments<double, T>), grid, block, stream, r, mean, partial));
}
static void launch_sums(const reduction &r, dim3 grid, dim3 block, cudaStream_t stream, const double *mean,
                        int64_t *partial) {
  switch (r.dtype) {
  case DLV3_I64: LAUNCH((sum_segments<int64_t, int64_t>), grid, block, stream, r, mean, partial); break;
  case DLV3_I32: LAUNCH((sum_segments<int64_t, int32_t>), grid, block, stream, r, mean, partial); break;
  default: LAUNCH((sum_segments<int64_t, uint8_t>), grid, block, stream, r, mean, partial); break;
  }
}

template <class S> static status run_passes(const op_call *c, reduction *r, double divisor, bool variance) {
  const bool along_outputs = r->kept_stride[0] == 1 || r->stride[0] != 1; /* the contiguous axis is kept */
  const dim3 block = along_outputs ? dim3(32, BLOCK / 32) : dim3(1, BLOCK);
  const int64_t blocks = ceil_div(r->outputs, block.x), wanted = blocks < 1024 ? 1024 / blocks : 1;
  const cudaStream_t stream = stream_of(c);
  r->segments = least(ceil_div(r->count, block.y * 16), wanted);
  if (r->segments < 1) r->segments = 1;
  r->segment = ceil_div(r->count, r->segments);
  storage *scratch;
  TRY(scratch_new(&scratch, c, (r->segments + 1) * r->outputs * (int64_t)sizeof(S)));
  S *partial = (S *)scratch->data;
  double *mean = (double *)(partial + r->segments * r->outputs);
  const dim3 grid((unsigned)blocks, (unsigned)r->segments);
  launch_sums(*r, grid, block, stream, NULL, partial);
  if (variance) {
    LAUNCH(finish_sums<S>, (unsigned)ceil_div(r->outputs, 8), dim3(8, BLOCK / 8), stream, *r, (const S *)partial,
           (double)r->count, mean);
    launch_sums(*r, grid, block, stream, mean, partial);
  }
  LAUNCH(finish_sums<S>, (unsigned)ceil_div(r->outputs, 8), dim3(8, BLOCK / 8), stream, *r, (const S *)partial, divisor,
         (double *)NULL);
  storage_drop(scratch);
  return LAUNCHED(c);
}

static status run_reduction(const op_call *c, reduction *r, double divisor, bool variance) {
  if (!r->outputs) return DLV3_OK;
  return is_float(r->dtype) ? run_passes<double>(c, r, divisor, variance)
                            : run_passes<int64_t>(c, r, divisor, variance);
}

static uint32_t mask_of(const attr_axes *axes, int32_t ndim) {
  uint32_t mask = axes->n ? 0 : (1u << ndim) - 1;
  for (int64_t i = 0; i < axes->n; i++) mask |= 1u << axes->v[i];
  return mask;
}

enum { SUM, MEAN, VAR };

static status reduce(op_call *c, const attr_axes *axes, bool keepdim, int kind, double correction) {
  const tensor *x = c->in[0], *y = c->out[0];
  const uint32_t mask = mask_of(axes, x->ndim);
  int64_t out[DLV3_MAX_DIMS];
  for (int32_t i = 0, k = 0; i < x->ndim; i++) {
    out[i] = mask >> i & 1 ? 0 : y->stride[k];
    if (keepdim || !(mask >> i & 1)) k++;
  }
  reduction r = reduction_of(x, c->out[0], mask, out);
  const double n = (double)r.count;
  return run_reduction(c, &r, kind == SUM ? 1 : kind == MEAN ? n : n > correction ? n - correction : 0, kind == VAR);
}

static status cuda_sum(op_call *c) {
  const sum_attr *a = (const sum_attr *)c->attr;
  return reduce(c, &a->axes, a->keepdim, SUM, 0);
}
OWN(sum);
static status cuda_mean(op_call *c) {
  const mean_attr *a = (const mean_attr *)c->attr;
  return reduce(c, &a->axes, a->keepdim, MEAN, 0);
}
OWN(mean);
static status cuda_var(op_call *c) {
  const var_attr *a = (const var_attr *)c->attr;
  return reduce(c, &a->axes, a->keepdim, VAR, (double)a->correction);
}
OWN(var);

static status cuda_sum_to(op_call *c) {
  const tensor *x = c->in[0], *y = c->out[0];
  int64_t out[DLV3_MAX_DIMS];
  uint32_t mask = 0;
  const int32_t lead = x->ndim - y->ndim;
  for (int32_t i = 0; i < x->ndim; i++) {
    const bool gone = i < lead || (y->size[i - lead] == 1 && x->size[i] != 1);
    mask |= (uint32_t)gone << i;
    out[i] = gone ? 0 : y->stride[i - lead];
  }
  reduction r = reduction_of(x, c->out[0], mask, out);
  return run_reduction(c, &r, 1, false);
}
OWN(sum_to);

/* -- Extremes ---------------------------------------------------------------------------------- */

typedef struct {
  reduction r; /* of one axis                                             */
  int64_t *index;
  bool smallest;
} extreme;

/* One thread a line along the axis: the extreme and its position, the first of equals; nan wins. */
template <class C> static __global__ void find_extremes(extreme e) {
  const reduction &r = e.r;
  FOR_ITEMS(output, r.outputs) {
    const int64_t base = offset_of(output, r.n_kept, r.kept_size, r.kept_stride),
                  to = offset_of(output, r.n_kept, r.kept_size, r.kept_out);
    C best = load_as<C>(r.x, r.dtype, base);
    int64_t where = 0;
    for (int64_t k = 1; k < r.count; k++) {
      const C v = load_as<C>(r.x, r.dtype, base + k * r.stride[0]);
      if ((e.smallest ? v < best : v > best) || (v != v && best == best)) best = v, where = k;
    }
    store_as<C>(r.y, r.dtype, to, best);
    e.index[to] = where;
  }
}

static status find(op_call *c, int64_t axis, bool smallest) {
  const tensor *x = c->in[0], *y = c->out[0];
  int64_t out[DLV3_MAX_DIMS];
  for (int32_t i = 0; i < x->ndim; i++) out[i] = i == axis ? 0 : y->stride[y->ndim == x->ndim || i < axis ? i : i - 1];
  const extreme e = {reduction_of(x, c->out[0], 1u << axis, out), data_as<int64_t>(c->out[1]), smallest};
  const cudaStream_t stream = stream_of(c);
  if (!e.r.outputs) return DLV3_OK;
  if (!is_float(x->dtype))
    LAUNCH(find_extremes<int64_t>, blocks_for(e.r.outputs), BLOCK, stream, e);
  else if (x->dtype == DLV3_F64)
    LAUNCH(find_extremes<double>, blocks_for(e.r.outputs), BLOCK, stream, e);
  else
    LAUNCH(find_extremes<float>, blocks_for(e.r.outputs), BLOCK, stream, e);
  return LAUNCHED(c);
}

static status cuda_max_dim(op_call *c) { return find(c, ((const max_dim_attr *)c->attr)->axis, false); }
OWN(max_dim);
static status cuda_min_dim(op_call *c) { return find(c, ((const min_dim_attr *)c->attr)->axis, true); }
OWN(min_dim);

/* -- allclose ---------------------------------------------------------------------------------- */

/* One block; it is for tests and the REPL. */
static __global__ void all_close(elements e, allclose_attr a, uint8_t *result) {
  bool far_off = false;
  for (int64_t i = threadIdx.x; i < e.total; i += blockDim.x) {
    int64_t at[MAX_OPERANDS];
    offsets_at<uint64_t>(e, (uint64_t)i, 1, at);
    const double x = load_as<double>(e.data[1], e.dtype[1], at[1]), y = load_as<double>(e.data[2], e.dtype[2], at[2]);
    const bool finite = x - x == 0 && y - y == 0;
    const bool close = finite ? fabs(x - y) <= a.atol + a.rtol * fabs(y) : x == y || (a.equal_nan && x != x && y != y);
    far_off |= !close;
  }
  const int any = __syncthreads_or(far_off);
  if (threadIdx.x == 0) *result = !any;
}

/* The broadcast of a and b is walked with a stand-in for the result's sizes. */
static status cuda_allclose(op_call *c) {
  const tensor *a = c->in[0], *b = c->in[1];
  const cudaStream_t stream = stream_of(c);
  tensor whole = a->ndim >= b->ndim ? *a : *b;
  for (int32_t i = 0; i < whole.ndim; i++) {
    const int32_t ia = i - (whole.ndim - a->ndim), ib = i - (whole.ndim - b->ndim);
    const int64_t na = ia < 0 ? 1 : a->size[ia], nb = ib < 0 ? 1 : b->size[ib];
    whole.size[i] = na == 1 ? nb : na, whole.stride[i] = i;
  }
  tensor *t[3] = {&whole, c->in[0], c->in[1]};
  LAUNCH(all_close, 1, BLOCK, stream, elements_of(t, 3), *(const allclose_attr *)c->attr, data_as<uint8_t>(c->out[0]));
  return LAUNCHED(c);
}
OWN(allclose);

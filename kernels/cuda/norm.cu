/* norm.cu - batch_norm forward and backward, with optional residual input and activation.
 *
 * x is rows of channels (channels-last). Three steps: sums a channel over segments of rows; blocks
 * of eight channels that combine them in their order into statistics (backward: into what grad_x
 * owes to them); one pass that applies those. Sums: runs of eight rows in the computing type about
 * a value near the mean, the runs in f64. The segments depend on the shape alone.
 *
 * The passes over x are bound by memory. A thread keeps to V neighbouring channels, whose
 * coefficients lie in its registers, and goes down the rows; it asks for several rows before it
 * uses the first, so that enough is on its way. grad_residual is dz: where it is wanted the sums
 * write it, and the pass reads it in place of all that dz is made of. */
#include "cuda/support/common.h"

enum { X, WEIGHT, BIAS, MEAN, VAR, RESIDUAL, SUMS };                                                     /* forward  */
enum { RSTD = VAR };                                                                                     /* elemt    */
enum { GRAD_Y, BX, BY, BWEIGHT, BBIAS, BRESIDUAL, SAVE_MEAN, SAVE_RSTD, GRAD_WEIGHT, GRAD_BIAS, BSUMS }; /* backward */
enum { ROWS = 8, COMBINED = 8 };                /* a run; channels of a block that combines */
enum { SUM_BLOCKS = 396, APPLY_BLOCKS = 1056 }; /* three, eight a multiprocessor of an H100 */

/* y = act((x - center) scale + shift + residual); grad_x = scale dz + tilt (x - center) + level.
 * The center is subtracted first, since an offset of both would lose digits. */
enum { TILT, LEVEL, COEFFICIENTS };

/* P: the type of parameters, f32 or f64 with f64 activations; also what is computed in. */
template <class T> using parameter = decltype(wide(T()));
template <class T, class P> struct norm_job {
  const T *x, *grad_y, *residual;
  const T *told; /* what tells the slope of the activation: y or, beside x, the residual; or NULL */
  T *out, *grad_residual;
  const P *weight, *bias;
  P *running_mean, *running_var, *save_mean, *save_rstd, *grad_weight, *grad_bias;
  double *sums;        /* [segments][2][channels]                                 */
  const double *given; /* [2][channels], and the number of values: of the whole batch; NULL: x is all of it */
  double *kept;        /* the same of this part, where that is what is wanted */
  P *coefficients;     /* [COEFFICIENTS][channels], backward                      */
  int64_t rows, channels;
  int32_t segments, act;
  double momentum, eps;
  bool training, from_y; /* from_y: told is y */
};

template <class P> DEVICE P or_else(const P *p, int64_t i, P otherwise) { return p ? p[i] : otherwise; }

/* -- Down the rows ----------------------------------------------------------------------------- */

/* A thread's channels k .. k + V, and where they are in x: at, at + step ... below end, which is 0
 * where there are none. */
typedef struct {
  int64_t k, at, step, end;
} walk;
template <int V, class T, class P> DEVICE walk walk_of(const norm_job<T, P> &j) {
  const int64_t k = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V,
                row = (int64_t)blockIdx.y * blockDim.y + threadIdx.y;
  return walk{k, row * j.channels + k, (int64_t)gridDim.y * blockDim.y * j.channels,
              k < j.channels ? j.rows * j.channels : 0};
}

/* The next N packs from `at` on, all of them on their way before the first is used; behind the end
 * it is row 0 again. */
template <int N, class T, int V> DEVICE void load_rows(pack<T, V> *to, const T *from, int64_t at, const walk &w) {
  UNROLL
  for (int r = 0; r < N; r++) to[r] = pack_at<V>(from + (at + r * w.step < w.end ? at + r * w.step : w.k));
}
/* How many, where there are two or three streams to be loaded. */
template <class T, int V> BOTH constexpr int ahead() { return sizeof(pack<T, V>) > 8 ? 2 : 4; }

template <int V, class T, class P> DEVICE pack<P, V> coefficient(const norm_job<T, P> &j, int which, int64_t k) {
  return pack_at<V>(j.coefficients + which * j.channels + k);
}
/* Of V channels, from their statistics. */
template <class P, int V> struct affine { pack<P, V> center, scale, shift; };
template <int V, class T, class P> DEVICE affine<P, V> affine_of(const norm_job<T, P> &j, int64_t k) {
  affine<P, V> a;
  UNROLL
  for (int v = 0; v < V; v++) {
    a.center.v[v] = j.save_mean[k + v], a.scale.v[v] = or_else(j.weight, k + v, (P)1) * j.save_rstd[k + v];
    a.shift.v[v] = or_else(j.bias, k + v, (P)0);
  }
  return a;
}

/* N sums a thread. They lie in shared memory, where registers are short: the thread's are
 * sum[n][place()]. */
DEVICE unsigned place() { return threadIdx.y * blockDim.x + threadIdx.x; }
template <int N> DEVICE void start_sums(double (*sum)[BLOCK]) {
  UNROLL
  for (int n = 0; n < N; n++) sum[n][place()] = 0;
}
template <int N, class P>
DEVICE void add_run(volatile double (*sum)[BLOCK], const P *run) { /* volatile, or they become registers */
  double v[N];
  UNROLL
  for (int n = 0; n < N; n++) v[n] = sum[n][place()];
  UNROLL
  for (int n = 0; n < N; n++) sum[n][place()] = v[n] + (double)run[n];
}
/* Over the threads that share threadIdx.x, for y = 0; a tree, so that the order is fixed. */
template <int N> DEVICE void sums_over_y(double (*sum)[BLOCK]) {
  for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y >= half) continue;
    UNROLL
    for (int n = 0; n < N; n++) sum[n][place()] += sum[n][place() + half * blockDim.x];
  }
}

/* The block's sums: V of the one kind, V of the other. */
template <int V, class T, class P> DEVICE void store_sums(const norm_job<T, P> &j, int64_t k, double (*sum)[BLOCK]) {
  sums_over_y<2 * V>(sum);
  if (k >= j.channels || threadIdx.y) return;
  UNROLL
  for (int n = 0; n < 2 * V; n++) j.sums[(blockIdx.y * 2 + n / V) * j.channels + k + n % V] = sum[n][place()];
}

/* The two sums of channel k over the segments, for the threads with y = 0. */
template <class T, class P> DEVICE void combine(const norm_job<T, P> &j, int64_t k, double *a, double *b) {
  __shared__ double sum[2][BLOCK];
  *a = *b = 0;
  UNROLL_4
  for (int32_t s = (int32_t)threadIdx.y; s < (k < j.channels ? j.segments : 0); s += BLOCK / COMBINED) {
    const double *of = j.sums + s * 2 * j.channels + k;
    *a += of[0], *b += of[j.channels];
  }
  sum[0][place()] = *a, sum[1][place()] = *b;
  sums_over_y<2>(sum);
  *a = sum[0][place()], *b = sum[1][place()];
}
static dim3 combine_grid(int64_t channels) { return dim3((unsigned)ceil_div(channels, COMBINED)); }
static dim3 combine_block() { return dim3(COMBINED, BLOCK / COMBINED); }

/* -- Forward ----------------------------------------------------------------------------------- */

/* Sums of x - x[row 0] and of its square; row 0 itself, once or often, adds nothing. */
template <class T, class P, int V> static __global__ void __launch_bounds__(BLOCK, 3) norm_sums(norm_job<T, P> j) {
  __shared__ double sum[2 * V][BLOCK];
  const walk w = walk_of<V>(j);
  pack<T, V> first = {};
  if (w.end) first = pack_at<V>(j.x + w.k);
  start_sums<2 * V>(sum);
  for (int64_t at = w.at; at < w.end; at += ROWS * w.step) {
    pack<T, V> x[ROWS];
    P s[2 * V] = {};
    load_rows<ROWS>(x, j.x, at, w);
    UNROLL
    for (int i = 0; i < ROWS * V; i++) {
      const int r = i / V, v = i % V;
      const P d = wide(x[r].v[v]) - wide(first.v[v]);
      s[v] += d, s[V + v] += d * d;
    }
    add_run<2 * V>(sum, s);
  }
  store_sums<V>(j, w.k, sum);
}

/* The statistics of each channel. */
template <class T, class P> static __global__ void norm_statistics(norm_job<T, P> j) {
  const int64_t k = (int64_t)blockIdx.x * COMBINED + threadIdx.x;
  double sum, other;
  combine(j, k, &sum, &other);
  if (k < j.channels && threadIdx.y == 0) {
    double mean, var;
    if (j.training) {
      const double n = j.given ? j.given[2 * j.channels] : (double)j.rows, shift = sum / n;
      if (j.given)
        mean = j.given[k] / n, var = j.given[j.channels + k] / n - mean * mean;
      else
        mean = (double)wide(j.x[k]) + shift, var = other / n - shift * shift;
      if (var < 0) var = 0;
      if (j.running_mean) {
        j.running_mean[k] = (P)((1 - j.momentum) * (double)j.running_mean[k] + j.momentum * mean);
        j.running_var[k] = (P)((1 - j.momentum) * (double)j.running_var[k] + j.momentum * var * n / (n - 1));
      }
    } else
      mean = (double)j.running_mean[k], var = (double)j.running_var[k];
    j.save_mean[k] = (P)mean, j.save_rstd[k] = (P)(1 / sqrt(var + j.eps));
  }
}

/* The sums of this part of a batch, about 0. */
template <class T, class P> static __global__ void norm_stats(norm_job<T, P> j) {
  const int64_t k = (int64_t)blockIdx.x * COMBINED + threadIdx.x;
  const double n = (double)j.rows;
  double sum, other;
  combine(j, k, &sum, &other);
  if (k < j.channels && threadIdx.y == 0) {
    const double first = j.rows ? (double)wide(j.x[k]) : 0;
    j.kept[k] = sum + n * first, j.kept[j.channels + k] = other + 2 * first * sum + n * first * first;
    if (k == 0) j.kept[2 * j.channels] = n;
  }
}

template <class T, class P, int V> static __global__ void __launch_bounds__(BLOCK, 4) norm_apply(norm_job<T, P> j) {
  enum { N = ahead<T, V>() };
  const walk w = walk_of<V>(j);
  if (!w.end) return;
  const affine<P, V> a = affine_of<V>(j, w.k);
  for (int64_t at = w.at; at < w.end; at += N * w.step) {
    pack<T, V> x[N], extra[N], y;
    P z[N * V];
    load_rows<N>(x, j.x, at, w);
    if (j.residual) load_rows<N>(extra, j.residual, at, w);
    UNROLL
    for (int i = 0; i < N * V; i++) {
      const int r = i / V, v = i % V;
      z[i] = (wide(x[r].v[v]) - a.center.v[v]) * a.scale.v[v] + a.shift.v[v];
      if (j.residual) z[i] += wide(extra[r].v[v]);
    }
    BY_ACT(j.act, UNROLL for (int i = 0; i < N * V; i++) z[i] = activate<P>(ACT, z[i]));
    UNROLL
    for (int r = 0; r < N; r++) {
      if (at + r * w.step >= w.end) break;
      UNROLL
      for (int v = 0; v < V; v++) y.v[v] = narrow<T>(z[r * V + v]);
      pack_at<V>(j.out + at + r * w.step) = y;
    }
  }
}

/* -- Backward ---------------------------------------------------------------------------------- */

/* Of a pack: d = x - center, dz = grad_y act'(z); told: the pack of j.told, where there is one. */
template <class T, class P, int V>
DEVICE void gradient(const norm_job<T, P> &j, const pack<T, V> &g, const pack<T, V> &x, const pack<T, V> &told,
                     const affine<P, V> &a, P *d, P *dz) {
  P known[V];
  UNROLL
  for (int v = 0; v < V; v++) {
    d[v] = wide(x.v[v]) - a.center.v[v], known[v] = j.told ? wide(told.v[v]) : (P)0;
    if (!j.from_y) known[v] += d[v] * a.scale.v[v] + a.shift.v[v];
  }
  BY_ACT(j.act, UNROLL for (int v = 0; v < V; v++) dz[v] = wide(g.v[v]) * slope<P>(ACT, known[v], j.from_y));
}

/* Sums of dz and of dz (x - center); dz itself where it is wanted. */
template <class T, class P, int V>
static __global__ void __launch_bounds__(BLOCK, 3) norm_backward_sums(norm_job<T, P> j) {
  enum { N = ahead<T, V>() };
  __shared__ double sum[2 * V][BLOCK];
  const walk w = walk_of<V>(j);
  affine<P, V> a = {};
  if (w.end) a = affine_of<V>(j, w.k);
  start_sums<2 * V>(sum);
  for (int64_t at = w.at; at < w.end;) {
    P s[2 * V] = {};
    for (int run = 0; run < ROWS; run += N, at += N * w.step) {
      pack<T, V> g[N], x[N], told[N];
      load_rows<N>(g, j.grad_y, at, w);
      load_rows<N>(x, j.x, at, w);
      if (j.told) load_rows<N>(told, j.told, at, w);
      UNROLL
      for (int r = 0; r < N; r++) {
        if (at + r * w.step >= w.end) break;
        P d[V], dz[V];
        gradient(j, g[r], x[r], told[r], a, d, dz);
        UNROLL
        for (int v = 0; v < V; v++) s[v] += dz[v], s[V + v] += dz[v] * d[v];
        if (j.grad_residual) pack_at<V>(j.grad_residual + at + r * w.step) = narrowed<T>(dz);
      }
    }
    add_run<2 * V>(sum, s);
  }
  store_sums<V>(j, w.k, sum);
}

/* grad_x = weight rstd (dz - mean(dz) - xhat mean(dz xhat)) with xhat = (x - mean) rstd, without
 * training weight rstd dz. */
template <class T, class P> static __global__ void norm_backward_coefficients(norm_job<T, P> j) {
  const int64_t k = (int64_t)blockIdx.x * COMBINED + threadIdx.x;
  double sum, other;
  combine(j, k, &sum, &other);
  if (k < j.channels && threadIdx.y == 0) {
    const P scale = or_else(j.weight, k, (P)1) * j.save_rstd[k];
    if (j.given) sum = j.given[k], other = j.given[j.channels + k];
    const double rstd = (double)j.save_rstd[k], product = other * rstd,
                 rows = j.given ? j.given[2 * j.channels] : (double)j.rows, n = j.training ? rows : (double)INFINITY;
    if (j.grad_weight) j.grad_weight[k] = (P)((double)j.grad_weight[k] + product);
    if (j.grad_bias) j.grad_bias[k] = (P)((double)j.grad_bias[k] + sum);
    if (j.kept) {
      j.kept[k] = sum, j.kept[j.channels + k] = other;
      if (k == 0) j.kept[2 * j.channels] = rows;
      return;
    }
    j.coefficients[TILT * j.channels + k] = (P)(-(double)scale * rstd * product / n);
    j.coefficients[LEVEL * j.channels + k] = (P)(-(double)scale * sum / n);
  }
}

template <class T, class P, int V>
static __global__ void __launch_bounds__(BLOCK, 3) norm_backward_apply(norm_job<T, P> j) {
  enum { N = ahead<T, V>() };
  const walk w = walk_of<V>(j);
  if (!w.end) return;
  const affine<P, V> a = affine_of<V>(j, w.k);
  const pack<P, V> tilt = coefficient<V>(j, TILT, w.k), level = coefficient<V>(j, LEVEL, w.k);
  for (int64_t at = w.at; at < w.end; at += N * w.step) {
    pack<T, V> g[N], x[N], told[N], grad_x;
    load_rows<N>(g, j.grad_y, at, w);
    load_rows<N>(x, j.x, at, w);
    if (j.told) load_rows<N>(told, j.told, at, w);
    UNROLL
    for (int r = 0; r < N; r++) {
      if (at + r * w.step >= w.end) break;
      P d[V], dz[V];
      gradient(j, g[r], x[r], told[r], a, d, dz);
      UNROLL
      for (int v = 0; v < V; v++) grad_x.v[v] = narrow<T>(a.scale.v[v] * dz[v] + (tilt.v[v] * d[v] + level.v[v]));
      pack_at<V>(j.out + at + r * w.step) = grad_x;
    }
  }
}

/* -- Launchers --------------------------------------------------------------------------------- */

/* Elements of a pack: 8 or 16 bytes, for larger ones the coefficients would take too many
 * registers. */
template <class T> constexpr int most_of() { return sizeof(T) == 8 ? 2 : 4; }
template <class T, class P> static bool packable(const norm_job<T, P> &j) {
  return j.channels % most_of<T>() == 0 && aligned(j.x) && aligned(j.grad_y) && aligned(j.residual) && aligned(j.told)
         && aligned(j.out) && aligned(j.grad_residual);
}

typedef struct {
  dim3 grid, block;
} layout;

/* At most 32 threads along the channels, as many in every column of blocks; rows for the rest, a
 * power of two. So many segments of rows that there are `blocks` blocks, where every thread has
 * `rows_each` rows. */
static layout layout_of(int64_t rows, int64_t channels, int v, int64_t blocks, int rows_each) {
  const int64_t packs = ceil_div(channels, v), columns = ceil_div(packs, 32), x = ceil_div(packs, columns);
  int64_t y = 1;
  while (2 * y * x <= BLOCK) y *= 2;
  const int64_t segments = least(ceil_div(rows, y * rows_each), blocks / columns);
  return layout{dim3((unsigned)columns, (unsigned)(segments < 1 ? 1 : segments)), dim3((unsigned)x, (unsigned)y)};
}

template <class T, class P>
static status scratch_of(const op_call *c, norm_job<T, P> *j, unsigned segments, storage **scratch) {
  j->segments = (int32_t)segments;
  const int64_t sums = j->segments * 2 * j->channels * (int64_t)sizeof(double);
  TRY(scratch_new(scratch, c, sums + COEFFICIENTS * j->channels * (int64_t)sizeof(P)));
  j->sums = (double *)(*scratch)->data;
  j->coefficients = (P *)((*scratch)->data + sums);
  return DLV3_OK;
}

template <class T, class P, int V> static status forward(op_call *c, norm_job<T, P> j) {
  const layout l = layout_of(j.rows, j.channels, V, SUM_BLOCKS, ROWS),
               down = layout_of(j.rows, j.channels, V, APPLY_BLOCKS, ahead<T, V>());
  const cudaStream_t stream = stream_of(c);
  storage *scratch;
  TRY(scratch_of(c, &j, l.grid.y, &scratch));
  if (j.training && !j.given)
    LAUNCH((norm_sums<T, P, V>), l.grid, l.block, stream, j);
  else
    j.segments = 0;
  if (j.kept)
    LAUNCH((norm_stats<T, P>), combine_grid(j.channels), combine_block(), stream, j);
  else
    LAUNCH((norm_statistics<T, P>), combine_grid(j.channels), combine_block(), stream, j);
  if (j.rows && !j.kept) LAUNCH((norm_apply<T, P, V>), down.grid, down.block, stream, j);
  storage_drop(scratch);
  return LAUNCHED(c);
}

/* What both forward ops have in the same places. */
template <class T, class P> static norm_job<T, P> forward_job(const op_call *c, int64_t act) {
  norm_job<T, P> j;
  memset(&j, 0, sizeof j);
  j.x = data_as<T>(c->in[X]), j.residual = data_as<T>(c->in[RESIDUAL]), j.out = data_as<T>(c->out[0]);
  j.weight = data_as<P>(c->in[WEIGHT]), j.bias = data_as<P>(c->in[BIAS]);
  j.channels = c->in[X]->size[1], j.rows = j.channels ? numel(c->in[X]) / j.channels : 0;
  j.act = (int32_t)act;
  return j;
}

template <class T> static status batch_norm_of(op_call *c) {
  typedef parameter<T> P;
  const batch_norm_attr *a = (const batch_norm_attr *)c->attr;
  norm_job<T, P> j = forward_job<T, P>(c, a->activation);
  j.running_mean = data_as<P>(c->in[MEAN]), j.running_var = data_as<P>(c->in[VAR]);
  j.save_mean = data_as<P>(c->out[1]), j.save_rstd = data_as<P>(c->out[2]);
  j.momentum = a->momentum, j.eps = a->eps, j.training = a->training != 0, j.given = data_as<double>(c->in[SUMS]);
  if (!j.channels) return DLV3_OK;
  return packable(j) ? forward<T, P, most_of<T>()>(c, j) : forward<T, P, 1>(c, j);
}

static status cuda_batch_norm(op_call *c) {
  status st;
  BY_FLOAT(c->in[X]->dtype, st = batch_norm_of<T>(c));
  return st;
}
OWN(batch_norm);

template <class T> static status batch_norm_stats_of(op_call *c) {
  typedef parameter<T> P;
  norm_job<T, P> j;
  memset(&j, 0, sizeof j);
  j.x = data_as<T>(c->in[X]), j.kept = data_as<double>(c->out[0]), j.training = true;
  j.channels = c->in[X]->size[1], j.rows = j.channels ? numel(c->in[X]) / j.channels : 0;
  if (!j.channels) return cudaMemsetAsync(j.kept, 0, sizeof(double), stream_of(c)), LAUNCHED(c);
  return packable(j) ? forward<T, P, most_of<T>()>(c, j) : forward<T, P, 1>(c, j);
}

static status cuda_batch_norm_stats(op_call *c) {
  status st;
  BY_FLOAT(c->in[X]->dtype, st = batch_norm_stats_of<T>(c));
  return st;
}
OWN(batch_norm_stats);

template <class T, class P, int V> static status forward_again(op_call *c, norm_job<T, P> j) {
  const layout down = layout_of(j.rows, j.channels, V, APPLY_BLOCKS, ahead<T, V>());
  const cudaStream_t stream = stream_of(c);
  LAUNCH((norm_apply<T, P, V>), down.grid, down.block, stream, j);
  return LAUNCHED(c);
}

template <class T> static status batch_norm_elemt_of(op_call *c) {
  typedef parameter<T> P;
  norm_job<T, P> j = forward_job<T, P>(c, ((const batch_norm_elemt_attr *)c->attr)->activation);
  j.save_mean = data_as<P>(c->in[MEAN]), j.save_rstd = data_as<P>(c->in[RSTD]);
  if (!j.rows) return DLV3_OK;
  return packable(j) ? forward_again<T, P, most_of<T>()>(c, j) : forward_again<T, P, 1>(c, j);
}

static status cuda_batch_norm_elemt(op_call *c) {
  status st;
  BY_FLOAT(c->in[X]->dtype, st = batch_norm_elemt_of<T>(c));
  return st;
}
OWN(batch_norm_elemt);

template <class T, class P, int V> static status backward(op_call *c, norm_job<T, P> j) {
  const layout l = layout_of(j.rows, j.channels, V, SUM_BLOCKS, ROWS),
               down = layout_of(j.rows, j.channels, V, APPLY_BLOCKS, ahead<T, V>());
  const cudaStream_t stream = stream_of(c);
  storage *scratch;
  TRY(scratch_of(c, &j, l.grid.y, &scratch));
  if (!j.given || j.grad_residual)
    LAUNCH((norm_backward_sums<T, P, V>), l.grid, l.block, stream, j);
  else
    j.segments = 0;
  LAUNCH((norm_backward_coefficients<T, P>), combine_grid(j.channels), combine_block(), stream, j);
  if (j.grad_residual) j.grad_y = j.grad_residual, j.told = NULL, j.act = ACT_NONE;
  if (j.rows && !j.kept) LAUNCH((norm_backward_apply<T, P, V>), down.grid, down.block, stream, j);
  storage_drop(scratch);
  return LAUNCHED(c);
}

/* What both backward ops have in the same places. */
template <class T, class P> static norm_job<T, P> backward_job(const op_call *c, int64_t act) {
  norm_job<T, P> j;
  memset(&j, 0, sizeof j);
  j.grad_y = data_as<T>(c->in[GRAD_Y]), j.x = data_as<T>(c->in[BX]);
  j.weight = data_as<P>(c->in[BWEIGHT]), j.bias = data_as<P>(c->in[BBIAS]), j.save_mean = data_as<P>(c->in[SAVE_MEAN]),
  j.save_rstd = data_as<P>(c->in[SAVE_RSTD]);
  j.grad_weight = data_as<P>(c->in[GRAD_WEIGHT]), j.grad_bias = data_as<P>(c->in[GRAD_BIAS]);
  j.channels = c->in[BX]->size[1], j.rows = j.channels ? numel(c->in[BX]) / j.channels : 0;
  j.act = (int32_t)act, j.training = true;
  j.from_y = c->in[BY] && j.act != ACT_HARDSWISH;
  if (j.act != ACT_NONE) j.told = data_as<T>(c->in[j.from_y ? BY : BRESIDUAL]);
  return j;
}

template <class T> static status batch_norm_backward_of(op_call *c) {
  typedef parameter<T> P;
  const batch_norm_backward_attr *a = (const batch_norm_backward_attr *)c->attr;
  norm_job<T, P> j = backward_job<T, P>(c, a->activation);
  j.out = data_as<T>(c->out[0]), j.grad_residual = data_as<T>(c->out[1]);
  j.training = a->training != 0, j.given = data_as<double>(c->in[BSUMS]);
  if (!j.channels) return DLV3_OK;
  return packable(j) ? backward<T, P, most_of<T>()>(c, j) : backward<T, P, 1>(c, j);
}

static status cuda_batch_norm_backward(op_call *c) {
  status st;
  BY_FLOAT(c->in[BX]->dtype, st = batch_norm_backward_of<T>(c));
  return st;
}
OWN(batch_norm_backward);

template <class T> static status batch_norm_backward_reduce_of(op_call *c) {
  typedef parameter<T> P;
  norm_job<T, P> j = backward_job<T, P>(c, ((const batch_norm_backward_reduce_attr *)c->attr)->activation);
  j.kept = data_as<double>(c->out[0]);
  if (!j.channels) return cudaMemsetAsync(j.kept, 0, sizeof(double), stream_of(c)), LAUNCHED(c);
  return packable(j) ? backward<T, P, most_of<T>()>(c, j) : backward<T, P, 1>(c, j);
}

static status cuda_batch_norm_backward_reduce(op_call *c) {
  status st;
  BY_FLOAT(c->in[BX]->dtype, st = batch_norm_backward_reduce_of<T>(c));
  return st;
}
OWN(batch_norm_backward_reduce);

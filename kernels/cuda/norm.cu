/* norm.cu - batch_norm forward and backward, with optional residual input and activation.
 *
 * x is rows of channels (channels-last). Three steps: sums a channel over segments of rows, one thread a channel that
 * combines them in their order and makes two or three coefficients of them, one pass that applies those. Sums: runs of
 * eight rows in the computing type about a value near the mean, the runs in f64. The segments depend on the shape alone. */
#include "common.h"

enum { X, WEIGHT, BIAS, MEAN, VAR, RESIDUAL };                                                       /* forward  */
enum { GRAD_Y, BX, BY, BWEIGHT, BBIAS, BRESIDUAL, SAVE_MEAN, SAVE_RSTD, GRAD_WEIGHT, GRAD_BIAS };    /* backward */
enum { ROWS = 8 };                                                                                   /* a run    */

/* P: the type of parameters, f32 or f64 with f64 activations; also what is computed in. */
template <class T, class P> struct norm_job {
  const T *x, *y, *grad_y, *residual;
  T *out, *grad_residual;
  const P *weight, *bias;
  P *running_mean, *running_var, *save_mean, *save_rstd, *grad_weight, *grad_bias;
  double *sums;                     /* [segments][2][channels]                                 */
  P *coefficients;                  /* [3][channels]                                           */
  int64_t rows, channels, segments, act;
  double momentum, eps;
  bool training;
};

template <class P> DEVICE P or_else(const P *p, int64_t i, P otherwise) { return p ? p[i] : otherwise; }

/* -- Forward ----------------------------------------------------------------------------------------------- */

/* Sums of x - x[row 0] and of its square. A block: V channels a thread along x, rows along y. */
template <class T, class P, int V> static __global__ void norm_sums(norm_job<T, P> j) {
  __shared__ double buf[BLOCK];
  const int64_t k = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V, step = (int64_t)gridDim.y * blockDim.y;
  const bool mine = k < j.channels;
  double sum[V], square[V];
  pack<T, V> first;
  UNROLL
  for (int v = 0; v < V; v++) sum[v] = square[v] = 0;
  if (mine) first = *(const pack<T, V> *)(j.x + k);
  for (int64_t row = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; mine && row < j.rows;) {
    P s[V], q[V];
    UNROLL
    for (int v = 0; v < V; v++) s[v] = q[v] = 0;
    for (int r = 0; r < ROWS && row < j.rows; r++, row += step) {
      const pack<T, V> p = *(const pack<T, V> *)(j.x + row * j.channels + k);
      UNROLL
      for (int v = 0; v < V; v++) {
        const P d = wide(p.v[v]) - wide(first.v[v]);
        s[v] += d, q[v] += d * d;
      }
    }
    UNROLL
    for (int v = 0; v < V; v++) sum[v] += s[v], square[v] += q[v];
  }
  for (int v = 0; v < V; v++) {
    const double a = sum_over_y(sum[v], buf), b = sum_over_y(square[v], buf);
    if (mine && threadIdx.y == 0) j.sums[(blockIdx.y * 2 + 0) * j.channels + k + v] = a, j.sums[(blockIdx.y * 2 + 1) * j.channels + k + v] = b;
  }
}

/* The two sums of channel k over the segments, for the threads with y = 0. A block: 32 channels, 8 threads each. */
template <class T, class P> DEVICE void combine(const norm_job<T, P> &j, int64_t k, double *sum, double *other) {
  __shared__ double buf[BLOCK];
  *sum = *other = 0;
  for (int64_t s = threadIdx.y; k < j.channels && s < j.segments; s += blockDim.y) *sum += j.sums[(s * 2 + 0) * j.channels + k], *other += j.sums[(s * 2 + 1) * j.channels + k];
  *sum = sum_over_y(*sum, buf), *other = sum_over_y(*other, buf);
}
static dim3 combine_grid(int64_t channels) { return dim3((unsigned)ceil_div(channels, 32)); }
static dim3 combine_block() { return dim3(32, BLOCK / 32); }

/* y = act((x - mean) scale + bias + residual): the coefficients of each channel, and the statistics. */
template <class T, class P> static __global__ void norm_coefficients(norm_job<T, P> j) {
  const int64_t k = (int64_t)blockIdx.x * 32 + threadIdx.x;
  double sum, square;
  combine(j, k, &sum, &square);
  if (k < j.channels && threadIdx.y == 0) {
    double mean, var;
    if (j.training) {
      const double n = (double)j.rows, shift = sum / n;
      mean = (double)wide(j.x[k]) + shift, var = square / n - shift * shift;
      if (var < 0) var = 0;
      if (j.running_mean) {
        j.running_mean[k] = (P)((1 - j.momentum) * (double)j.running_mean[k] + j.momentum * mean);
        j.running_var[k] = (P)((1 - j.momentum) * (double)j.running_var[k] + j.momentum * var * n / (n - 1));
      }
    } else mean = (double)j.running_mean[k], var = (double)j.running_var[k];
    const double rstd = 1 / sqrt(var + j.eps), scale = rstd * (double)or_else(j.weight, k, (P)1);
    j.save_mean[k] = (P)mean, j.save_rstd[k] = (P)rstd;
    j.coefficients[k] = (P)scale;
    j.coefficients[j.channels + k] = (P)mean; /* subtracted first: an offset of both would lose digits */
    j.coefficients[2 * j.channels + k] = or_else(j.bias, k, (P)0);
  }
}

template <class T, class P, int V> static __global__ void norm_apply(norm_job<T, P> j) {
  const P *scale = j.coefficients, *mean = scale + j.channels, *bias = mean + j.channels;
  FOR_ITEMS(i, j.rows * j.channels / V) {
    const int64_t at = i * V, k = at % j.channels;
    const pack<T, V> x = *(const pack<T, V> *)(j.x + at);
    pack<T, V> y, extra;
    if (j.residual) extra = *(const pack<T, V> *)(j.residual + at);
    UNROLL
    for (int v = 0; v < V; v++) {
      P z = (wide(x.v[v]) - mean[k + v]) * scale[k + v] + bias[k + v];
      if (j.residual) z += wide(extra.v[v]);
      y.v[v] = narrow<T>(activate<P>(j.act, z));
    }
    *(pack<T, V> *)(j.out + at) = y;
  }
}

/* -- Backward ---------------------------------------------------------------------------------------------- */

/* dz = grad_y act'(z) of one element, and xhat = (x - mean) rstd. */
template <class T, class P> DEVICE P gradient_at(const norm_job<T, P> &j, int64_t k, P g, P x, P y, P extra, P *xhat) {
  *xhat = (x - j.save_mean[k]) * j.save_rstd[k];
  if (j.act == ACT_NONE) return g;
  return g * slope<P>(j.act, y, *xhat * or_else(j.weight, k, (P)1) + or_else(j.bias, k, (P)0) + extra);
}

/* Sums of dz and of dz xhat. */
template <class T, class P, int V> static __global__ void norm_backward_sums(norm_job<T, P> j) {
  __shared__ double buf[BLOCK];
  const int64_t k = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V, step = (int64_t)gridDim.y * blockDim.y;
  const bool mine = k < j.channels;
  double sum[V], product[V];
  UNROLL
  for (int v = 0; v < V; v++) sum[v] = product[v] = 0;
  for (int64_t row = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; mine && row < j.rows;) {
    P s[V], q[V];
    UNROLL
    for (int v = 0; v < V; v++) s[v] = q[v] = 0;
    for (int r = 0; r < ROWS && row < j.rows; r++, row += step) {
      const int64_t at = row * j.channels + k;
      const pack<T, V> g = *(const pack<T, V> *)(j.grad_y + at), x = *(const pack<T, V> *)(j.x + at);
      pack<T, V> y, extra;
      if (j.y) y = *(const pack<T, V> *)(j.y + at);
      if (j.residual) extra = *(const pack<T, V> *)(j.residual + at);
      UNROLL
      for (int v = 0; v < V; v++) {
        P xhat;
        const P dz = gradient_at<T, P>(j, k + v, wide(g.v[v]), wide(x.v[v]), j.y ? wide(y.v[v]) : (P)0, j.residual ? wide(extra.v[v]) : (P)0, &xhat);
        s[v] += dz, q[v] += dz * xhat;
      }
    }
    UNROLL
    for (int v = 0; v < V; v++) sum[v] += s[v], product[v] += q[v];
  }
  for (int v = 0; v < V; v++) {
    const double a = sum_over_y(sum[v], buf), b = sum_over_y(product[v], buf);
    if (mine && threadIdx.y == 0) j.sums[(blockIdx.y * 2 + 0) * j.channels + k + v] = a, j.sums[(blockIdx.y * 2 + 1) * j.channels + k + v] = b;
  }
}

/* grad_x = weight rstd (dz - mean(dz) - xhat mean(dz xhat)), without training weight rstd dz. */
template <class T, class P> static __global__ void norm_backward_coefficients(norm_job<T, P> j) {
  const int64_t k = (int64_t)blockIdx.x * 32 + threadIdx.x;
  double sum, product;
  combine(j, k, &sum, &product);
  if (k < j.channels && threadIdx.y == 0) {
    if (j.grad_weight) j.grad_weight[k] = (P)((double)j.grad_weight[k] + product);
    if (j.grad_bias) j.grad_bias[k] = (P)((double)j.grad_bias[k] + sum);
    const double n = j.training ? (double)j.rows : (double)INFINITY;
    j.coefficients[k] = or_else(j.weight, k, (P)1) * j.save_rstd[k];
    j.coefficients[j.channels + k] = (P)(sum / n);
    j.coefficients[2 * j.channels + k] = (P)(product / n);
  }
}

template <class T, class P, int V> static __global__ void norm_backward_apply(norm_job<T, P> j) {
  const P *scale = j.coefficients, *mean = scale + j.channels, *mean_product = mean + j.channels;
  FOR_ITEMS(i, j.rows * j.channels / V) {
    const int64_t at = i * V, k = at % j.channels;
    const pack<T, V> g = *(const pack<T, V> *)(j.grad_y + at), x = *(const pack<T, V> *)(j.x + at);
    pack<T, V> y, extra, grad_x, grad_residual;
    if (j.y) y = *(const pack<T, V> *)(j.y + at);
    if (j.residual) extra = *(const pack<T, V> *)(j.residual + at);
    UNROLL
    for (int v = 0; v < V; v++) {
      P xhat;
      const P dz = gradient_at<T, P>(j, k + v, wide(g.v[v]), wide(x.v[v]), j.y ? wide(y.v[v]) : (P)0, j.residual ? wide(extra.v[v]) : (P)0, &xhat);
      grad_x.v[v] = narrow<T>(scale[k + v] * (dz - mean[k + v] - xhat * mean_product[k + v]));
      grad_residual.v[v] = narrow<T>(dz);
    }
    *(pack<T, V> *)(j.out + at) = grad_x;
    if (j.grad_residual) *(pack<T, V> *)(j.grad_residual + at) = grad_residual;
  }
}

/* -- Launchers --------------------------------------------------------------------------------------------- */

/* Packs along the channels are at most 16 bytes. */
template <class T> static int pack_of(int64_t channels) {
  const int most = sizeof(T) == 2 ? 8 : sizeof(T) == 4 ? 4 : 2;
  return channels % most ? 1 : most;
}

typedef struct { dim3 grid, block; } layout;

/* Threads along the channels as far as there are any, rows for the rest; about five hundred blocks. */
static layout layout_of(int64_t rows, int64_t channels, int v) {
  unsigned x = 1;
  while (x < 32 && x * (unsigned)v < channels) x *= 2;
  const unsigned y = BLOCK / x, columns = (unsigned)ceil_div(channels, x * v);
  int64_t segments = least(ceil_div(rows, y * ROWS), columns < 512 ? 512 / columns : 1);
  return layout{dim3(columns, (unsigned)(segments < 1 ? 1 : segments)), dim3(x, y)};
}

template <class T, class P> static status scratch_of(const op_call *c, norm_job<T, P> *j, const layout &l, storage **scratch) {
  j->segments = l.grid.y;
  const int64_t sums = j->segments * 2 * j->channels * (int64_t)sizeof(double);
  TRY(scratch_new(scratch, c, sums + 3 * j->channels * (int64_t)sizeof(P)));
  j->sums = (double *)(*scratch)->data;
  j->coefficients = (P *)((*scratch)->data + sums);
  return DLV3_OK;
}

template <class T, class P, int V> static status forward(op_call *c, norm_job<T, P> j) {
  const layout l = layout_of(j.rows, j.channels, V);
  const cudaStream_t stream = stream_of(c);
  storage *scratch;
  TRY(scratch_of(c, &j, l, &scratch));
  if (j.training) LAUNCH((norm_sums<T, P, V>), l.grid, l.block, stream, j);
  else j.segments = 0;
  LAUNCH((norm_coefficients<T, P>), combine_grid(j.channels), combine_block(), stream, j);
  if (j.rows) LAUNCH((norm_apply<T, P, V>), blocks_for(j.rows * j.channels / V), BLOCK, stream, j);
  storage_drop(scratch);
  return LAUNCHED(c);
}

template <class T, class P> static status batch_norm_of(op_call *c) {
  const batch_norm_attr *a = (const batch_norm_attr *)c->attr;
  norm_job<T, P> j;
  memset(&j, 0, sizeof j);
  j.x = data_as<T>(c->in[X]), j.residual = data_as<T>(c->in[RESIDUAL]), j.out = data_as<T>(c->out[0]);
  j.weight = data_as<P>(c->in[WEIGHT]), j.bias = data_as<P>(c->in[BIAS]), j.running_mean = data_as<P>(c->in[MEAN]), j.running_var = data_as<P>(c->in[VAR]);
  j.save_mean = data_as<P>(c->out[1]), j.save_rstd = data_as<P>(c->out[2]);
  j.channels = c->in[X]->size[1], j.rows = j.channels ? numel(c->in[X]) / j.channels : 0;
  j.act = a->activation, j.momentum = a->momentum, j.eps = a->eps, j.training = a->training != 0;
  if (!j.channels) return DLV3_OK;
  enum { MOST = 16 / sizeof(T) };
  return pack_of<T>(j.channels) == 1 ? forward<T, P, 1>(c, j) : forward<T, P, MOST>(c, j);
}

static status cuda_batch_norm(op_call *c) {
  switch (c->in[X]->dtype) {
  case DLV3_F64: return batch_norm_of<double, double>(c);
  case DLV3_F32: return batch_norm_of<float, float>(c);
  case DLV3_BF16: return batch_norm_of<bf16, float>(c);
  default: return batch_norm_of<f16, float>(c);
  }
}
OWN(batch_norm);

template <class T, class P, int V> static status backward(op_call *c, norm_job<T, P> j) {
  const layout l = layout_of(j.rows, j.channels, V);
  const cudaStream_t stream = stream_of(c);
  storage *scratch;
  TRY(scratch_of(c, &j, l, &scratch));
  LAUNCH((norm_backward_sums<T, P, V>), l.grid, l.block, stream, j);
  LAUNCH((norm_backward_coefficients<T, P>), combine_grid(j.channels), combine_block(), stream, j);
  if (j.rows) LAUNCH((norm_backward_apply<T, P, V>), blocks_for(j.rows * j.channels / V), BLOCK, stream, j);
  storage_drop(scratch);
  return LAUNCHED(c);
}

template <class T, class P> static status batch_norm_backward_of(op_call *c) {
  const batch_norm_backward_attr *a = (const batch_norm_backward_attr *)c->attr;
  norm_job<T, P> j;
  memset(&j, 0, sizeof j);
  j.grad_y = data_as<T>(c->in[GRAD_Y]), j.x = data_as<T>(c->in[BX]), j.y = data_as<T>(c->in[BY]), j.residual = data_as<T>(c->in[BRESIDUAL]);
  j.weight = data_as<P>(c->in[BWEIGHT]), j.bias = data_as<P>(c->in[BBIAS]), j.save_mean = data_as<P>(c->in[SAVE_MEAN]), j.save_rstd = data_as<P>(c->in[SAVE_RSTD]);
  j.grad_weight = data_as<P>(c->in[GRAD_WEIGHT]), j.grad_bias = data_as<P>(c->in[GRAD_BIAS]);
  j.out = data_as<T>(c->out[0]), j.grad_residual = data_as<T>(c->out[1]);
  j.channels = c->in[BX]->size[1], j.rows = j.channels ? numel(c->in[BX]) / j.channels : 0;
  j.act = a->activation, j.training = a->training != 0;
  if (!j.channels) return DLV3_OK;
  enum { MOST = 16 / sizeof(T) };
  return pack_of<T>(j.channels) == 1 ? backward<T, P, 1>(c, j) : backward<T, P, MOST>(c, j);
}

static status cuda_batch_norm_backward(op_call *c) {
  switch (c->in[BX]->dtype) {
  case DLV3_F64: return batch_norm_backward_of<double, double>(c);
  case DLV3_F32: return batch_norm_backward_of<float, float>(c);
  case DLV3_BF16: return batch_norm_backward_of<bf16, float>(c);
  default: return batch_norm_backward_of<f16, float>(c);
  }
}
OWN(batch_norm_backward);

/* norm.c - batch_norm forward and backward on the cpu, with optional residual input and activation.
 *
 * x is seen as rows of channels (channels-last). A row of few channels is too short to vectorise
 * well, so parameters are repeated until they fill a period of about 512 elements, and the kernels
 * run over flat pieces of such periods. Statistics: runs of eight rows are summed in f32 about a
 * value near the mean, the runs in f64, blocks of rows (their number depends on the shape alone)
 * are combined in their order. So results are accurate and do not depend on threads. */
#include <stdlib.h>

#include "cpu/support/activation.h"
#include "cpu/support/ref.h"

enum { X, WEIGHT, BIAS, MEAN, VAR, RESIDUAL, SUMS };                                                     /* forward  */
enum { RSTD = VAR };                                                                                     /* elemt    */
enum { GRAD_Y, BX, BY, BWEIGHT, BBIAS, BRESIDUAL, SAVE_MEAN, SAVE_RSTD, GRAD_WEIGHT, GRAD_BIAS, BSUMS }; /* backward */

/* d act(z) / d z, from the result y where that says enough. */
static double slope(int64_t act, double y, double z) {
  switch (act) {
  case ACT_RELU: return y > 0;
  case ACT_RELU6: return y > 0 && y < 6;
  case ACT_HARDSWISH: return z <= -3 ? 0 : z >= 3 ? 1 : (2 * z + 3) / 6;
  case ACT_HARDSIGMOID: return y > 0 && y < 1 ? 1.0 / 6 : 0;
  default: return 1;
  }
}

/* -- Reference --------------------------------------------------------------------------------- */

/* Running statistics take the batch's in: unbiased variance, momentum is the weight of the new
 * value. */
static void update_running(const op_call *c, int64_t k, double mean, double var, double count) {
  double m = ((const batch_norm_attr *)c->attr)->momentum;
  if (!c->in[MEAN]) return;
  set(c->in[MEAN], k, (1 - m) * at(c->in[MEAN], k) + m * mean);
  set(c->in[VAR], k, (1 - m) * at(c->in[VAR], k) + m * var * count / (count - 1));
}

/* Of a batch that is known by its sums: mean and biased variance of channel k; returns how many values it has. */
static double moments_of(const tensor *sums, int64_t channels, int64_t k, double *mean, double *var) {
  const double *s = data_of(sums), n = s[2 * channels];
  *mean = s[k] / n;
  const double v = s[channels + k] / n - *mean * *mean;
  *var = v > 0 || v != v ? v : 0;
  return n;
}

/* Channel k of y = act((x - mean) rstd weight + bias + residual). */
static void ref_normalize(op_call *c, int64_t k, double mean, double rstd, int64_t act) {
  const tensor *x = c->in[X];
  const double w = at_or(c->in[WEIGHT], k, 1), b = at_or(c->in[BIAS], k, 0);
  for (int64_t i = k; i < numel(x); i += x->size[1])
    set(c->out[0], i, activate(act, (at(x, i) - mean) * rstd * w + b + at_or(c->in[RESIDUAL], i, 0)));
}

/* rstd = 1 / sqrt(var + eps), of the batch or the running ones. */
static status ref_batch_norm(op_call *c) {
  const batch_norm_attr *a = c->attr;
  const tensor *x = c->in[X];
  const int64_t channels = x->size[1], rows = channels ? numel(x) / channels : 0;
  for (int64_t k = 0; k < channels; k++) {
    double mean = 0, var = 0;
    if (c->in[SUMS]) {
      const double n = moments_of(c->in[SUMS], channels, k, &mean, &var);
      update_running(c, k, mean, var, n);
    } else if (a->training) {
      for (int64_t r = 0; r < rows; r++) mean += at(x, r * channels + k);
      mean /= (double)rows;
      for (int64_t r = 0; r < rows; r++) var += (at(x, r * channels + k) - mean) * (at(x, r * channels + k) - mean);
      var /= (double)rows;
      update_running(c, k, mean, var, (double)rows);
    } else
      mean = at(c->in[MEAN], k), var = at(c->in[VAR], k);
    const double rstd = 1 / sqrt(var + a->eps);
    set(c->out[1], k, mean);
    set(c->out[2], k, rstd);
    ref_normalize(c, k, mean, rstd, a->activation);
  }
  return DLV3_OK;
}

static status ref_batch_norm_elemt(op_call *c) {
  const batch_norm_elemt_attr *a = c->attr;
  for (int64_t k = 0; k < c->in[X]->size[1]; k++)
    ref_normalize(c, k, at(c->in[MEAN], k), at(c->in[RSTD], k), a->activation);
  return DLV3_OK;
}

static status ref_batch_norm_stats(op_call *c) {
  const tensor *x = c->in[X];
  const int64_t channels = x->size[1], rows = channels ? numel(x) / channels : 0;
  double *sums = data_of(c->out[0]);
  for (int64_t k = 0; k < channels; k++) {
    double sum = 0, sum2 = 0;
    for (int64_t i = k; i < numel(x); i += channels) sum += at(x, i), sum2 += at(x, i) * at(x, i);
    sums[k] = sum, sums[channels + k] = sum2;
  }
  sums[2 * channels] = (double)rows;
  return DLV3_OK;
}

/* dz of channel k = grad_y act'(z), a number a row; sums of it and of dz xhat, xhat = (x - mean) rstd. */
static void ref_gradients(const op_call *c, int64_t k, int64_t act, double *dz, double *sum, double *sum_xhat) {
  const tensor *x = c->in[BX];
  const int64_t channels = x->size[1], rows = numel(x) / channels;
  const double mean = at(c->in[SAVE_MEAN], k), rstd = at(c->in[SAVE_RSTD], k);
  const double w = at_or(c->in[BWEIGHT], k, 1), b = at_or(c->in[BBIAS], k, 0);
  *sum = *sum_xhat = 0;
  for (int64_t r = 0; r < rows; r++) {
    int64_t i = r * channels + k;
    double xhat = (at(x, i) - mean) * rstd, z = xhat * w + b + at_or(c->in[BRESIDUAL], i, 0);
    dz[r] = at(c->in[GRAD_Y], i) * slope(act, at_or(c->in[BY], i, activate(act, z)), z);
    *sum += dz[r], *sum_xhat += dz[r] * xhat;
  }
  if (c->in[GRAD_WEIGHT]) set(c->in[GRAD_WEIGHT], k, at(c->in[GRAD_WEIGHT], k) + *sum_xhat);
  if (c->in[GRAD_BIAS]) set(c->in[GRAD_BIAS], k, at(c->in[GRAD_BIAS], k) + *sum);
}

static status ref_batch_norm_backward_reduce(op_call *c) {
  const batch_norm_backward_reduce_attr *a = c->attr;
  const tensor *x = c->in[BX];
  const int64_t channels = x->size[1], rows = channels ? numel(x) / channels : 0;
  double *dz = malloc((size_t)(rows + 1) * sizeof *dz), *sums = data_of(c->out[0]), sum, sum_xhat;
  if (!dz) return fail(DLV3_ERR_OOM, "batch_norm_backward_reduce: out of memory");
  for (int64_t k = 0; k < channels; k++) {
    ref_gradients(c, k, a->activation, dz, &sum, &sum_xhat);
    sums[k] = sum, sums[channels + k] = sum_xhat / at(c->in[SAVE_RSTD], k);
  }
  sums[2 * channels] = (double)rows;
  free(dz);
  return DLV3_OK;
}

/* grad_bias += sum dz, grad_weight += sum dz xhat, grad_residual = dz
 * grad_x = weight rstd (dz - mean(dz) - xhat mean(dz xhat)), without training weight rstd dz. */
static status ref_batch_norm_backward(op_call *c) {
  const batch_norm_backward_attr *a = c->attr;
  const tensor *x = c->in[BX];
  const int64_t channels = x->size[1], rows = channels ? numel(x) / channels : 0;
  const double *given = c->in[BSUMS] ? data_of(c->in[BSUMS]) : NULL, n = given ? given[2 * channels] : (double)rows;
  double *dz = malloc((size_t)(rows + 1) * sizeof *dz);
  if (!dz) return fail(DLV3_ERR_OOM, "batch_norm_backward: out of memory");
  for (int64_t k = 0; k < channels; k++) {
    const double mean = at(c->in[SAVE_MEAN], k), rstd = at(c->in[SAVE_RSTD], k), w = at_or(c->in[BWEIGHT], k, 1);
    double sum, sum_xhat;
    ref_gradients(c, k, a->activation, dz, &sum, &sum_xhat);
    if (given) sum = given[k], sum_xhat = given[channels + k] * rstd;
    if (!a->training) sum = sum_xhat = 0;
    for (int64_t r = 0; r < rows; r++) {
      int64_t i = r * channels + k;
      double xhat = (at(x, i) - mean) * rstd;
      set(c->out[0], i, w * rstd * (dz[r] - sum / n - xhat * sum_xhat / n));
      if (c->out[1]) set(c->out[1], i, dz[r]);
    }
  }
  free(dz);
  return DLV3_OK;
}

/* -- Vectorised: pieces ------------------------------------------------------------------------ */

enum { PIECE = 512, BLOCKS = 64, SHIFT_ROWS = 16 };

/* How a tensor of rows of channels is cut: flat blocks of whole periods; a period is `repeat` rows. */
typedef struct {
  const op_call *c;
  int64_t channels, rows, total, period, repeat, block, n_blocks; /* period, block: in elements */
  int64_t act;
  bool training;
  const void *x, *y, *grad_y, *residual;
  void *out, *grad_residual;
  float *mean, *scale, *bias, *slope_x, *offset; /* [period] each              */
  double *sums, *totals;                         /* [n_blocks][2][period], [2][channels] */
} norm_job;

static void cut(norm_job *j, const tensor *x) {
  j->channels = x->size[1], j->total = numel(x), j->rows = j->total / j->channels;
  j->repeat = j->channels < PIECE ? PIECE / j->channels : 1;
  j->period = j->repeat * j->channels;
  int64_t periods = (j->total + j->period - 1) / j->period, per_block = (periods + BLOCKS - 1) / BLOCKS;
  if (per_block < 16) per_block = 16;
  j->block = per_block * j->period;
  j->n_blocks = (periods + per_block - 1) / per_block;
}

/* Scratch for five arrays [period] and the sums. */
static status scratch_of(norm_job *j, storage **s) {
  const int64_t sums = j->n_blocks * 2 * j->period + 2 * j->channels;
  TRY(storage_new(s, sums * (int64_t)sizeof(double) + 5 * j->period * (int64_t)sizeof(float), 0));
  j->sums = (double *)(*s)->data;
  j->totals = j->sums + j->n_blocks * 2 * j->period;
  float *p = (float *)(j->sums + sums);
  j->mean = p, j->scale = p + j->period, j->bias = p + 2 * j->period, j->slope_x = p + 3 * j->period,
  j->offset = p + 4 * j->period;
  return DLV3_OK;
}

/* v[0..channels) repeated to fill the period. */
static void repeat_channels(const norm_job *j, float *v) {
  for (int64_t i = j->channels; i < j->period; i++) v[i] = v[i - j->channels];
}

/* totals: the two sums of each channel over all blocks, in their order. */
CLONES static void combine(const norm_job *j) {
  const int64_t channels = j->channels;
  memset(j->totals, 0, (size_t)(2 * channels) * sizeof *j->totals);
  for (int64_t block = 0; block < j->n_blocks; block++)
    for (int64_t row = 0; row < j->repeat; row++) {
      const double *a = j->sums + 2 * block * j->period + row * channels, *b = a + j->period;
      for (int64_t k = 0; k < channels; k++) j->totals[k] += a[k];
      for (int64_t k = 0; k < channels; k++) j->totals[channels + k] += b[k];
    }
}

/* v or 0; v is computed either way, which lets the loop vectorise. */
INLINE float only_if(float v, bool condition) { return condition ? v : 0; }

#define SMALLER(a, b) ((a) < (b) ? (a) : (b))

#define T float
#define F(name) name##_f32
#define LOAD(v) (v)
#define STORE(v) (v)
#include "norm.inc"
#undef T
#undef F
#undef LOAD
#undef STORE
#define T bf16
#define F(name) name##_bf16
#define LOAD bf16_to_f32
#define STORE f32_to_bf16
#include "norm.inc"
#undef T
#undef F
#undef LOAD
#undef STORE

/* What (x - mean) scale + bias takes. */
static void set_channels(norm_job *j, const float *mean, const float *rstd, const tensor *weight, const tensor *bias) {
  for (int64_t k = 0; k < j->channels; k++) {
    j->mean[k] = mean[k];
    j->scale[k] = rstd[k] * (float)at_or(weight, k, 1);
    j->bias[k] = (float)at_or(bias, k, 0);
  }
  repeat_channels(j, j->mean), repeat_channels(j, j->scale), repeat_channels(j, j->bias);
}

/* -- Vectorised: forward ----------------------------------------------------------------------- */

/* totals: the sums of x about a shift, j->mean, which is the mean of a few rows, and of the squares. */
static void sums_about_shift(norm_job *j, const tensor *x) {
  const int64_t rows = j->rows, sampled = SMALLER(SHIFT_ROWS, rows);
  const bool f32 = x->dtype == DLV3_F32;
  memset(j->totals, 0, (size_t)j->channels * sizeof *j->totals);
  for (int64_t r = 0; r < sampled; r++) (f32 ? add_row_f32 : add_row_bf16)(j, r * rows / sampled);
  for (int64_t k = 0; k < j->channels; k++) j->mean[k] = (float)(j->totals[k] / (double)sampled);
  repeat_channels(j, j->mean);
  parallel_for(j->n_blocks, 1, f32 ? moments_f32 : moments_bf16, j);
  combine(j);
}

/* mean[k] and rstd[k] of the batch. */
static void batch_statistics(norm_job *j, const tensor *x, float *save_mean, float *save_rstd, double eps) {
  const int64_t rows = j->rows;
  sums_about_shift(j, x);
  for (int64_t k = 0; k < j->channels; k++) {
    const double off = j->totals[k] / (double)rows, mean = (double)j->mean[k] + off;
    double var = j->totals[j->channels + k] / (double)rows - off * off;
    if (var < 0) var = 0;
    update_running(j->c, k, mean, var, (double)rows);
    save_mean[k] = (float)mean;
    save_rstd[k] = (float)(1 / sqrt(var + eps));
  }
}

/* The same of a batch that is known by its sums. */
static void given_statistics(const norm_job *j, const tensor *sums, float *save_mean, float *save_rstd, double eps) {
  for (int64_t k = 0; k < j->channels; k++) {
    double mean, var, n = moments_of(sums, j->channels, k, &mean, &var);
    update_running(j->c, k, mean, var, n);
    save_mean[k] = (float)mean;
    save_rstd[k] = (float)(1 / sqrt(var + eps));
  }
}

/* Of the forward ops that make a map, whose tensors stand in the same places. */
static status forward_job(norm_job *j, op_call *c, int64_t act, storage **scratch) {
  const tensor *x = c->in[X];
  if (x->dtype != DLV3_F32 && x->dtype != DLV3_BF16) return DECLINED("f32 and bf16 only");
  if (!numel(x)) return DECLINED("nothing to do");
  *j = (norm_job){.c = c,
                  .act = act,
                  .x = data_of(x),
                  .residual = c->in[RESIDUAL] ? data_of(c->in[RESIDUAL]) : NULL,
                  .out = data_of(c->out[0])};
  cut(j, x);
  return scratch_of(j, scratch);
}

static void normalize(norm_job *j, const float *mean, const float *rstd) {
  set_channels(j, mean, rstd, j->c->in[WEIGHT], j->c->in[BIAS]);
  parallel_for(j->n_blocks, 1, j->c->in[X]->dtype == DLV3_F32 ? normalize_f32 : normalize_bf16, j);
}

static status vec_batch_norm(op_call *c) {
  const batch_norm_attr *a = c->attr;
  norm_job j;
  storage *scratch;
  TRY(forward_job(&j, c, a->activation, &scratch));
  float *mean = data_of(c->out[1]), *rstd = data_of(c->out[2]);
  if (c->in[SUMS])
    given_statistics(&j, c->in[SUMS], mean, rstd, a->eps);
  else if (a->training)
    batch_statistics(&j, c->in[X], mean, rstd, a->eps);
  else
    for (int64_t k = 0; k < j.channels; k++)
      mean[k] = (float)at(c->in[MEAN], k), rstd[k] = (float)(1 / sqrt(at(c->in[VAR], k) + a->eps));
  normalize(&j, mean, rstd);
  storage_drop(scratch);
  return DLV3_OK;
}

static status vec_batch_norm_elemt(op_call *c) {
  norm_job j;
  storage *scratch;
  TRY(forward_job(&j, c, ((const batch_norm_elemt_attr *)c->attr)->activation, &scratch));
  normalize(&j, data_of(c->in[MEAN]), data_of(c->in[RSTD]));
  storage_drop(scratch);
  return DLV3_OK;
}

static status vec_batch_norm_stats(op_call *c) {
  const tensor *x = c->in[X];
  if (x->dtype != DLV3_F32 && x->dtype != DLV3_BF16) return DECLINED("f32 and bf16 only");
  if (!numel(x)) return DECLINED("nothing to do");
  norm_job j = {.c = c, .x = data_of(x)};
  storage *scratch;
  double *sums = data_of(c->out[0]);
  cut(&j, x);
  TRY(scratch_of(&j, &scratch));
  sums_about_shift(&j, x);
  for (int64_t k = 0; k < j.channels; k++) {
    const double sum = j.totals[k], sum2 = j.totals[j.channels + k], shift = (double)j.mean[k], n = (double)j.rows;
    sums[k] = n * shift + sum;
    sums[j.channels + k] = sum2 + 2 * shift * sum + n * shift * shift;
  }
  sums[2 * j.channels] = (double)j.rows;
  storage_drop(scratch);
  return DLV3_OK;
}

/* -- Vectorised: backward ---------------------------------------------------------------------- */

/* totals: the sums over x, which are added to the parameters' gradients. */
static void gradient_sums(norm_job *j, bool f32, const float *rstd) {
  const op_call *c = j->c;
  const double *sum = j->totals, *sum_x = sum + j->channels;
  parallel_for(j->n_blocks, 1, f32 ? gradient_sums_f32 : gradient_sums_bf16, j);
  combine(j);
  for (int64_t k = 0; k < j->channels; k++) {
    if (c->in[GRAD_WEIGHT]) set(c->in[GRAD_WEIGHT], k, at(c->in[GRAD_WEIGHT], k) + sum_x[k] * (double)rstd[k]);
    if (c->in[GRAD_BIAS]) set(c->in[GRAD_BIAS], k, at(c->in[GRAD_BIAS], k) + sum[k]);
  }
}

/* Makes of the sums over n values what grad_x needs. */
static void spread_sums(norm_job *j, const float *rstd, const double *sums, double n) {
  for (int64_t k = 0; k < j->channels; k++) {
    const double r = (double)rstd[k], w = at_or(j->c->in[BWEIGHT], k, 1);
    j->slope_x[k] = (float)(-w * r * r * r * sums[j->channels + k] / n);
    j->offset[k] = (float)(-w * r * sums[k] / n);
  }
  repeat_channels(j, j->slope_x), repeat_channels(j, j->offset);
}

/* Of both backward ops, whose inputs stand in the same places; out: of batch_norm_backward. */
static status backward_job(norm_job *j, op_call *c, int64_t act, storage **scratch) {
  const tensor *x = c->in[BX];
  if (x->dtype != DLV3_F32 && x->dtype != DLV3_BF16) return DECLINED("f32 and bf16 only");
  if (!numel(x)) return DECLINED("nothing to do");
  *j = (norm_job){.c = c,
                  .act = act,
                  .x = data_of(x),
                  .y = c->in[BY] ? data_of(c->in[BY]) : NULL,
                  .grad_y = data_of(c->in[GRAD_Y]),
                  .residual = c->in[BRESIDUAL] ? data_of(c->in[BRESIDUAL]) : NULL,
                  .out = data_of(c->out[0]),
                  .grad_residual = c->out[1] ? data_of(c->out[1]) : NULL};
  cut(j, x);
  TRY(scratch_of(j, scratch));
  set_channels(j, data_of(c->in[SAVE_MEAN]), data_of(c->in[SAVE_RSTD]), c->in[BWEIGHT], c->in[BBIAS]);
  return DLV3_OK;
}

static status vec_batch_norm_backward_reduce(op_call *c) {
  norm_job j;
  storage *scratch;
  double *sums = data_of(c->out[0]);
  TRY(backward_job(&j, c, ((const batch_norm_backward_reduce_attr *)c->attr)->activation, &scratch));
  j.totals = sums;
  gradient_sums(&j, c->in[BX]->dtype == DLV3_F32, data_of(c->in[SAVE_RSTD]));
  sums[2 * j.channels] = (double)j.rows;
  storage_drop(scratch);
  return DLV3_OK;
}

static status vec_batch_norm_backward(op_call *c) {
  const batch_norm_backward_attr *a = c->attr;
  const bool f32 = c->in[BX]->dtype == DLV3_F32;
  const float *rstd = data_of(c->in[SAVE_RSTD]);
  norm_job j;
  storage *scratch;
  TRY(backward_job(&j, c, a->activation, &scratch));
  j.training = a->training;
  if (c->in[BSUMS]) {
    const double *sums = data_of(c->in[BSUMS]);
    spread_sums(&j, rstd, sums, sums[2 * j.channels]);
  } else if (a->training || c->in[GRAD_WEIGHT] || c->in[GRAD_BIAS]) {
    gradient_sums(&j, f32, rstd);
    spread_sums(&j, rstd, j.totals, (double)j.rows);
  }
  parallel_for(j.n_blocks, 1, f32 ? gradient_f32 : gradient_bf16, &j);
  storage_drop(scratch);
  return DLV3_OK;
}

IMPLS(batch_norm, {"vec", vec_batch_norm}, {"ref", ref_batch_norm});
IMPLS(batch_norm_elemt, {"vec", vec_batch_norm_elemt}, {"ref", ref_batch_norm_elemt});
IMPLS(batch_norm_stats, {"vec", vec_batch_norm_stats}, {"ref", ref_batch_norm_stats});
IMPLS(batch_norm_backward_reduce, {"vec", vec_batch_norm_backward_reduce}, {"ref", ref_batch_norm_backward_reduce});
IMPLS(batch_norm_backward, {"vec", vec_batch_norm_backward}, {"ref", ref_batch_norm_backward});

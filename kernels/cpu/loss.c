/* loss.c - cross entropy (alone and fused with upsampling), softmax, confusion matrix on the cpu.
 *
 * The forward pass keeps nll = -log softmax(x)[target] of each pixel and the sum of the weights;
 * the gradient computes softmax(x)[k] = exp((x[k] - x[target]) - nll) from them, which loses no
 * digits where p is near 1. Full-size logits are never stored: the fast kernels hold 64 pixels of
 * them at a time, gradients of a row of pixels go to the low-resolution columns at once and are
 * added over the rows afterwards, in their order. */
#include <stdio.h>
#include <stdlib.h>

#include "cpu/support/interpolate.h"

/* -- Labels, and the logits of a pixel --------------------------------------------------------- */

/* What the four ops share. Pixels are those of target, in row-major order. */
typedef struct {
  const op_call *c;
  const tensor *x, *target, *weight, *nll;
  int64_t channels, h, w; /* h, w: target's                                        */
  int64_t ignore_index;
  double smoothing, sum_weights;
  bool fused;
  axis_map rows, columns; /* of the fused ops                                      */
} loss_job;

static loss_job loss_job_of(const op_call *c, int32_t first, bool fused) {
  const cross_entropy_attr *a = c->attr; /* the four ops have the same attributes */
  loss_job j = {.c = c,
                .x = c->in[first],
                .target = c->in[first + 1],
                .weight = c->in[first + 2],
                .fused = fused,
                .ignore_index = a->ignore_index,
                .smoothing = a->label_smoothing};
  j.channels = j.x->size[1];
  j.h = j.target->ndim == 3 ? j.target->size[1] : 1, j.w = j.target->ndim == 3 ? j.target->size[2] : 1;
  for (int64_t k = 0; k < j.channels; k++) j.sum_weights += at_or(j.weight, k, 1);
  if (fused)
    j.rows = axis_map_of(j.x->size[2], j.h, false, j.x->dtype),
    j.columns = axis_map_of(j.x->size[3], j.w, false, j.x->dtype);
  return j;
}

static inline int64_t raw_label(const tensor *target, int64_t i) {
  return target->dtype == DLV3_U8 ? ((const uint8_t *)data_of(target))[i] : ((const int64_t *)data_of(target))[i];
}

/* The class of pixel i, or -1 where it does not count. */
static inline int64_t label(const loss_job *j, int64_t i) {
  int64_t v = raw_label(j->target, i);
  return v == j->ignore_index ? -1 : v;
}

static status bad_label(const loss_job *j, int64_t i) {
  char where[80];
  if (j->target->ndim == 3)
    snprintf(where, sizeof where, "n %lld, y %lld, x %lld", (long long)(i / (j->h * j->w) + 1),
             (long long)(i / j->w % j->h + 1), (long long)(i % j->w + 1));
  else
    snprintf(where, sizeof where, "n %lld", (long long)(i + 1));
  return fail_call(j->c, DLV3_ERR_ARG,
                   "target has the label %lld at %s (counted from 1); labels must be 0 to %lld, or %lld for pixels "
                   "that do not count",
                   (long long)raw_label(j->target, i), where, (long long)j->channels - 1, (long long)j->ignore_index);
}

static status check_labels(const loss_job *j) {
  const int64_t n = numel(j->target);
  if (j->target->dtype == DLV3_U8) { /* a table, so that the common case is quick */
    const uint8_t *p = data_of(j->target);
    uint8_t bad[256], any = 0;
    for (int64_t v = 0; v < 256; v++) bad[v] = v >= j->channels && v != j->ignore_index;
    for (int64_t i = 0; i < n; i++) any |= bad[p[i]];
    if (!any) return DLV3_OK;
  }
  for (int64_t i = 0; i < n; i++) {
    int64_t k = label(j, i), v = raw_label(j->target, i);
    if (k >= j->channels || (k < 0 && v != j->ignore_index)) return bad_label(j, i);
  }
  return DLV3_OK;
}

/* -- Reference --------------------------------------------------------------------------------- */

/* The logits of pixel i of target. */
static void logits(const loss_job *j, int64_t i, double *z) {
  if (j->fused) {
    const taps v = taps_of(&j->rows, i / j->w % j->h), u = taps_of(&j->columns, i % j->w);
    for (int64_t k = 0; k < j->channels; k++) z[k] = blend(j->x, i / (j->h * j->w), k, &v, &u);
  } else
    for (int64_t k = 0; k < j->channels; k++) z[k] = at(j->x, i * j->channels + k);
}

/* log(sum(exp(z))) - z[k], accurate where it is near 0. */
static double negative_log_p(const double *z, int64_t n, int64_t k) {
  double m = z[0], sum = 0;
  for (int64_t i = 1; i < n; i++) m = z[i] > m ? z[i] : m;
  for (int64_t i = 0; i < n; i++) sum += exp(z[i] - m);
  return log(sum) + (m - z[k]);
}

/* loss = sum over pixels that count of (1 - s) w[t] nll[t] + s / classes sum over k of w[k] nll[k],
 * over the sum of w[t]. */
static status ref_entropy(op_call *c, bool fused) {
  const loss_job j = loss_job_of(c, 0, fused);
  TRY(check_labels(&j));
  double *z = malloc((size_t)j.channels * sizeof *z), sum = 0, total = 0;
  if (!z) return fail(DLV3_ERR_OOM, "%s: out of memory", c->info->name);
  for (int64_t i = 0; i < numel(j.target); i++) {
    const int64_t t = label(&j, i);
    set(c->out[1], i, 0);
    if (t < 0) continue;
    logits(&j, i, z);
    const double nll = negative_log_p(z, j.channels, t), w = at_or(j.weight, t, 1);
    sum += (1 - j.smoothing) * w * nll, total += w;
    if (j.smoothing > 0)
      for (int64_t k = 0; k < j.channels; k++)
        sum += j.smoothing / (double)j.channels * at_or(j.weight, k, 1) * (nll + z[t] - z[k]);
    set(c->out[1], i, nll);
  }
  free(z);
  set(c->out[0], 0, total != 0 ? sum / total : 0);
  set(c->out[2], 0, total);
  return DLV3_OK;
}

/* g[k] = d loss / d logit k of pixel i, with `scale` = grad_loss / total:
 * scale ((1 - s) w[t] (p[k] - [k = t]) + s / classes (sum(w) p[k] - w[k])). */
static void logit_gradient(const loss_job *j, int64_t i, double scale, double *g) {
  const int64_t t = label(j, i);
  if (t < 0 || scale == 0) {
    for (int64_t k = 0; k < j->channels; k++) g[k] = 0;
    return;
  }
  logits(j, i, g);
  const double hard = (1 - j->smoothing) * at_or(j->weight, t, 1), soft = j->smoothing / (double)j->channels,
               nll = at(j->c->in[4], i), z = g[t];
  for (int64_t k = 0; k < j->channels; k++) {
    double p = exp(g[k] - z - nll);
    g[k] = scale * (hard * (p - (k == t)) + soft * (j->sum_weights * p - at_or(j->weight, k, 1)));
  }
}

static double gradient_scale(const op_call *c) {
  double total = at(c->in[5], 0);
  return total != 0 ? at(c->in[0], 0) / total : 0;
}

static status ref_cross_entropy(op_call *c) { return ref_entropy(c, false); }
static status ref_upsample_cross_entropy(op_call *c) { return ref_entropy(c, true); }

static status ref_cross_entropy_backward(op_call *c) {
  const loss_job j = loss_job_of(c, 1, false);
  TRY(check_labels(&j));
  double *g = malloc((size_t)j.channels * sizeof *g);
  if (!g) return fail(DLV3_ERR_OOM, "%s: out of memory", c->info->name);
  for (int64_t i = 0; i < numel(j.target); i++) {
    logit_gradient(&j, i, gradient_scale(c), g);
    for (int64_t k = 0; k < j.channels; k++) set(c->out[0], i * j.channels + k, g[k]);
  }
  free(g);
  return DLV3_OK;
}

/* As upsample_bilinear2d_backward of cross_entropy_backward: every cell of x adds up the pixels it
 * takes part in. */
static status ref_upsample_cross_entropy_backward(op_call *c) {
  const loss_job j = loss_job_of(c, 1, true);
  TRY(check_labels(&j));
  double *g = malloc((size_t)j.channels * 2 * sizeof *g), *sum = g + j.channels;
  if (!g) return fail(DLV3_ERR_OOM, "%s: out of memory", c->info->name);
  const int64_t h = j.x->size[2], w = j.x->size[3];
  for (int64_t cell = 0; cell < j.x->size[0] * h * w; cell++) {
    int64_t y0, y1, x0, x1;
    reached(&j.rows, cell / w % h, &y0, &y1);
    reached(&j.columns, cell % w, &x0, &x1);
    for (int64_t k = 0; k < j.channels; k++) sum[k] = 0;
    for (int64_t oy = y0; oy < y1; oy++)
      for (int64_t ox = x0; ox < x1; ox++) {
        const taps v = taps_of(&j.rows, oy), u = taps_of(&j.columns, ox);
        logit_gradient(&j, (cell / (h * w) * j.h + oy) * j.w + ox, gradient_scale(c), g);
        for (int64_t k = 0; k < j.channels; k++)
          sum[k] += tap_weight(&v, cell / w % h) * tap_weight(&u, cell % w) * g[k];
      }
    for (int64_t k = 0; k < j.channels; k++) set(c->out[0], cell * j.channels + k, sum[k]);
  }
  free(g);
  return DLV3_OK;
}

/* -- Vectorised: blocks of 64 pixels, channel by channel --------------------------------------- */

/* e to the x for x <= 88 (above it: anything), to about 1 unit in the last place; 0 below the
 * normal range; nan stays. */
INLINE float exp_f32(float x) {
  const float rounder = 12582912.0f; /* 1.5 2^23: adding it rounds to a whole number, kept in the low bits */
  float shifted = x * 1.44269504f + rounder, n = shifted - rounder;
  float r = (x - n * 0.693359375f) - n * -2.12194440e-4f; /* ln 2 in two parts */
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1;
  uint32_t bits, exponent;
  memcpy(&bits, &p, 4);
  memcpy(&exponent, &shifted, 4);
  bits = (bits + (exponent << 23)) & (x < -87.0f ? 0 : UINT32_MAX); /* a mask, not a branch: it vectorises */
  memcpy(&p, &bits, 4);
  return p;
}

/* v where mask is all ones, 0 where it is 0, whatever v is; without a branch, which would not
 * vectorise. */
INLINE float masked(float v, uint32_t mask) {
  uint32_t bits;
  memcpy(&bits, &v, 4);
  bits &= mask;
  memcpy(&v, &bits, 4);
  return v;
}

typedef struct {
  loss_job j;
  const pixel_block *blocks; /* [blocks of a row], fused                              */
  double *partial;           /* [items][2]: sum and total of each                     */
  float weights[MAX_CHANNELS];
  double scale;    /* of the gradient                                       */
  float *row_grad; /* [rows of target][w of x][channels], of one image      */
  float *grad;     /* the gradient in f32                                   */
  int64_t image;
} fast_job;

/* m = max, s = sum(exp(z - m)), q = sum(weights (z - m)), for each pixel of a block. */
INLINE void block_sums(const float *restrict z, const float *weights, int64_t channels, bool smooth, float *restrict m,
                       float *restrict s, float *restrict q) {
  for (int64_t i = 0; i < PIXELS; i++) m[i] = z[i], s[i] = 0, q[i] = 0;
  for (int64_t k = 1; k < channels; k++)
    for (int64_t i = 0; i < PIXELS; i++) m[i] = z[k * PIXELS + i] > m[i] ? z[k * PIXELS + i] : m[i];
  for (int64_t k = 0; k < channels; k++)
    for (int64_t i = 0; i < PIXELS; i++) s[i] += exp_f32(z[k * PIXELS + i] - m[i]);
  if (smooth)
    for (int64_t k = 0; k < channels; k++)
      for (int64_t i = 0; i < PIXELS; i++) q[i] += weights[k] * (z[k * PIXELS + i] - m[i]);
}

/* Losses of n pixels from pixel `first` on, whose logits are z. Adds to sum[0] and their weights to
 * sum[1]; keeps nll. */
INLINE void block_loss(const fast_job *f, const float *restrict z, int64_t first, int64_t n, double *sum) {
  const loss_job *j = &f->j;
  float m[PIXELS], s[PIXELS], q[PIXELS], *nll = (float *)data_of(j->nll) + first;
  const double soft = j->smoothing / (double)j->channels;
  block_sums(z, f->weights, j->channels, j->smoothing > 0, m, s, q);
  for (int64_t i = 0; i < n; i++) {
    const int64_t t = label(j, first + i);
    nll[i] = 0;
    if (t < 0) continue;
    const float log_s = logf(s[i]);
    const double w = (double)f->weights[t];
    nll[i] = log_s + (m[i] - z[t * PIXELS + i]);
    sum[0] += (1 - j->smoothing) * w * (double)nll[i]
              + (j->smoothing > 0 ? soft * (j->sum_weights * (double)log_s - (double)q[i]) : 0);
    sum[1] += w;
  }
}

/* z becomes the gradient by the logits; pixels that do not count get exact zeros. */
INLINE void block_gradient(const fast_job *f, float *restrict z, int64_t first, int64_t n) {
  const loss_job *j = &f->j;
  const float *nll = (const float *)data_of(j->nll) + first;
  float own[PIXELS], less[PIXELS] = {0}, of_p[PIXELS] = {0}, of_weight[PIXELS] = {0};
  int64_t at_label[PIXELS];
  uint32_t counts[PIXELS];
  const double soft = j->smoothing / (double)j->channels;
  for (int64_t i = 0; i < PIXELS; i++) {
    const int64_t t = i < n ? label(j, first + i) : -1;
    at_label[i] = t, own[i] = 0, counts[i] = 0;
    if (t < 0) continue;
    counts[i] = UINT32_MAX;
    own[i] = z[t * PIXELS + i], less[i] = nll[i];
    of_p[i] = (float)(f->scale * ((1 - j->smoothing) * (double)f->weights[t] + soft * j->sum_weights));
    of_weight[i] = (float)(f->scale * soft);
  }
  const int64_t channels = j->channels;
  for (int64_t k = 0; k < channels; k++) {
    const float weight = f->weights[k];
    for (int64_t i = 0; i < PIXELS; i++) {
      const float p = exp_f32((z[k * PIXELS + i] - own[i]) - less[i]);
      z[k * PIXELS + i] = of_p[i] * masked(p, counts[i]) - of_weight[i] * weight;
    }
  }
  for (int64_t i = 0; i < n; i++)
    if (at_label[i] >= 0)
      z[at_label[i] * PIXELS + i] -= (float)(f->scale * (1 - j->smoothing)) * f->weights[at_label[i]];
}

/* Gradients z of a block, added to the columns of x they came from: out [w of x][channels]. A run
 * of pixels has the same two columns, so four channels at a time are summed in registers. */
INLINE void spread_block(const float *restrict z, const pixel_block *b, int64_t channels, float *restrict out) {
  for (int64_t k = 0; k < channels; k += 4)
    for (int64_t i = 0; i < b->n;) {
      const int64_t left = b->left[i], right = b->right[i];
      float l[4] = {0}, r[4] = {0};
      for (; i < b->n && b->left[i] == left; i++)
        for (int64_t q = 0; q < 4; q++)
          l[q] += b->w0[i] * z[(k + q) * PIXELS + i], r[q] += b->w1[i] * z[(k + q) * PIXELS + i];
      for (int64_t q = 0; q < 4 && k + q < channels; q++) {
        out[(b->base + left) * channels + k + q] += l[q];
        out[(b->base + right) * channels + k + q] += r[q];
      }
    }
}

#define T float
#define F(name) name##_f32
#define LOAD(v) (v)
#define STORE(v) (v)
#include "loss.inc"
#undef T
#undef F
#undef LOAD
#undef STORE
#define T bf16
#define F(name) name##_bf16
#define LOAD bf16_to_f32
#define STORE f32_to_bf16
#include "loss.inc"
#undef T
#undef F
#undef LOAD
#undef STORE

/* Rows [begin, end) of the gradient of one image: the rows of row_grad that reach each, added in
 * their order. */
CLONES static void upsample_entropy_columns(void *ctx, int64_t begin, int64_t end) {
  const fast_job *f = ctx;
  const int64_t stride = f->j.x->size[3] * f->j.channels;
  for (int64_t row = begin; row < end; row++) {
    float *restrict out = f->grad + (f->image * f->j.x->size[2] + row) * stride;
    int64_t first, last;
    reached(&f->j.rows, row, &first, &last);
    memset(out, 0, (size_t)stride * sizeof *out);
    for (int64_t i = first; i < last; i++) {
      const taps v = taps_of(&f->j.rows, i);
      const float w = (float)tap_weight(&v, row), *restrict g = f->row_grad + i * stride;
      for (int64_t k = 0; k < stride; k++) out[k] += w * g[k];
    }
  }
}

/* -- Vectorised: the ops ----------------------------------------------------------------------- */

static status accepts(const loss_job *j) {
  if (j->x->dtype != DLV3_F32 && j->x->dtype != DLV3_BF16) return DECLINED("f32 and bf16 only");
  if (j->channels > MAX_CHANNELS) return DECLINED("more than 256 channels");
  if (j->fused && j->w < j->x->size[3]) return DECLINED("not for a smaller width");
  return DLV3_OK;
}

static fast_job fast_job_of(const loss_job *j) {
  fast_job f = {.j = *j};
  for (int64_t k = 0; k < j->channels; k++) f.weights[k] = (float)at_or(j->weight, k, 1);
  return f;
}

static int64_t block_bytes(const loss_job *j) { return j->fused ? blocks_of(j->w) * (int64_t)sizeof(pixel_block) : 0; }

static void fill_blocks(fast_job *f, char *p) {
  if (!f->j.fused) return;
  for (int64_t b = 0; b < blocks_of(f->j.w); b++) pixel_block_of((pixel_block *)p + b, &f->j.columns, b);
  f->blocks = (const pixel_block *)p;
}

static status vec_entropy(op_call *c, bool fused) {
  loss_job j = loss_job_of(c, 0, fused);
  j.nll = c->out[1];
  TRY(accepts(&j));
  TRY(check_labels(&j));
  fast_job f = fast_job_of(&j);
  const int64_t items = fused ? j.x->size[0] * j.h : blocks_of(numel(j.target));
  storage *scratch;
  TRY(storage_new(&scratch, block_bytes(&j) + (items + 1) * 2 * (int64_t)sizeof(double), 0));
  f.partial = (double *)scratch->data;
  fill_blocks(&f, scratch->data + (items + 1) * 2 * (int64_t)sizeof(double));
  if (fused)
    parallel_for(items, 4, j.x->dtype == DLV3_F32 ? upsample_entropy_f32 : upsample_entropy_bf16, &f);
  else
    parallel_for(items, 32, j.x->dtype == DLV3_F32 ? entropy_f32 : entropy_bf16, &f);
  double sum = 0, total = 0;
  for (int64_t i = 0; i < items; i++) sum += f.partial[2 * i], total += f.partial[2 * i + 1];
  storage_drop(scratch);
  set(c->out[0], 0, total != 0 ? sum / total : 0);
  set(c->out[2], 0, total);
  return DLV3_OK;
}

static status vec_cross_entropy(op_call *c) { return vec_entropy(c, false); }
static status vec_upsample_cross_entropy(op_call *c) { return vec_entropy(c, true); }

static status vec_cross_entropy_backward(op_call *c) {
  loss_job j = loss_job_of(c, 1, false);
  j.nll = c->in[4];
  TRY(accepts(&j));
  TRY(check_labels(&j));
  fast_job f = fast_job_of(&j);
  f.scale = gradient_scale(c);
  parallel_for(blocks_of(numel(j.target)), 32, j.x->dtype == DLV3_F32 ? entropy_gradient_f32 : entropy_gradient_bf16,
               &f);
  return DLV3_OK;
}

static status vec_upsample_cross_entropy_backward(op_call *c) {
  loss_job j = loss_job_of(c, 1, true);
  j.nll = c->in[4];
  TRY(accepts(&j));
  TRY(check_labels(&j));
  fast_job f = fast_job_of(&j);
  f.scale = gradient_scale(c);
  const bool f32 = j.x->dtype == DLV3_F32;
  const int64_t rows_bytes = j.h * j.x->size[3] * j.channels * (int64_t)sizeof(float),
                wide_bytes = f32 ? 0 : numel(j.x) * (int64_t)sizeof(float);
  storage *scratch;
  TRY(storage_new(&scratch, block_bytes(&j) + rows_bytes + wide_bytes, 0));
  fill_blocks(&f, scratch->data);
  f.row_grad = (float *)(scratch->data + block_bytes(&j));
  f.grad = f32 ? data_of(c->out[0]) : (float *)(scratch->data + block_bytes(&j) + rows_bytes);
  for (f.image = 0; f.image < j.x->size[0]; f.image++) {
    parallel_for(j.h, 4, f32 ? upsample_entropy_rows_f32 : upsample_entropy_rows_bf16, &f);
    parallel_for(j.x->size[2], 4, upsample_entropy_columns, &f);
  }
  if (!f32) store_f32(data_of(c->out[0]), DLV3_BF16, f.grad, numel(j.x));
  storage_drop(scratch);
  return DLV3_OK;
}

IMPLS(cross_entropy, {"vec", vec_cross_entropy}, {"ref", ref_cross_entropy});
IMPLS(cross_entropy_backward, {"vec", vec_cross_entropy_backward}, {"ref", ref_cross_entropy_backward});
IMPLS(upsample_cross_entropy, {"vec", vec_upsample_cross_entropy}, {"ref", ref_upsample_cross_entropy});
IMPLS(upsample_cross_entropy_backward, {"vec", vec_upsample_cross_entropy_backward},
      {"ref", ref_upsample_cross_entropy_backward});

/* -- confusion_matrix -------------------------------------------------------------------------- */

/* hist[target, pred] += 1; pixels whose target is no class do not count, a prediction that is none
 * is an error. */
static status bad_prediction(const op_call *c, int64_t i) {
  return fail_call(c, DLV3_ERR_ARG, "pred has the class %lld at element %lld, hist has the classes 0 to %lld",
                   (long long)at(c->in[0], i), (long long)i + 1, (long long)c->in[2]->size[0] - 1);
}

static int64_t class_at(const tensor *t, int64_t i) {
  switch (t->dtype) {
  case DLV3_U8: return ((const uint8_t *)data_of(t))[i];
  case DLV3_I32: return ((const int32_t *)data_of(t))[i];
  default: return ((const int64_t *)data_of(t))[i];
  }
}

static status ref_confusion_matrix(op_call *c) {
  const tensor *pred = c->in[0], *target = c->in[1];
  const int64_t classes = c->in[2]->size[0];
  int64_t *hist = data_of(c->in[2]);
  for (int pass = 0; pass < 2; pass++) /* all are checked before any is counted */
    for (int64_t i = 0; i < numel(target); i++) {
      int64_t t = class_at(target, i), p = class_at(pred, i);
      if (t < 0 || t >= classes) continue;
      if (p < 0 || p >= classes) return bad_prediction(c, i);
      hist[t * classes + p] += pass;
    }
  return DLV3_OK;
}

/* Each of 16 parts of the pixels counts into its own table, with a row and a column more for what
 * is no class. */
enum { PARTS = 16 };
typedef struct {
  const op_call *c;
  int64_t classes, pixels, *tables;
} count_job;

static void count_parts(void *ctx, int64_t begin, int64_t end) {
  const count_job *j = ctx;
  const int64_t side = j->classes + 1;
  for (int64_t part = begin; part < end; part++) {
    int64_t *table = j->tables + part * side * side;
    memset(table, 0, (size_t)(side * side) * sizeof *table);
    for (int64_t i = j->pixels * part / PARTS; i < j->pixels * (part + 1) / PARTS; i++) {
      uint64_t t = (uint64_t)class_at(j->c->in[1], i), p = (uint64_t)class_at(j->c->in[0], i);
      if (t >= (uint64_t)j->classes) t = (uint64_t)j->classes;
      if (p >= (uint64_t)j->classes) p = (uint64_t)j->classes;
      table[t * (uint64_t)side + p]++;
    }
  }
}

static status vec_confusion_matrix(op_call *c) {
  count_job j = {c, c->in[2]->size[0], numel(c->in[1]), NULL};
  if (j.classes > 256) return DECLINED("more than 256 classes");
  const int64_t side = j.classes + 1;
  int64_t *hist = data_of(c->in[2]), bad = 0;
  storage *scratch;
  TRY(storage_new(&scratch, PARTS * side * side * (int64_t)sizeof(int64_t), 0));
  j.tables = (int64_t *)scratch->data;
  parallel_for(PARTS, 1, count_parts, &j);
  for (int64_t part = 0; part < PARTS; part++)
    for (int64_t t = 0; t < j.classes; t++) bad += j.tables[(part * side + t) * side + j.classes];
  for (int64_t part = 0; part < PARTS && !bad; part++)
    for (int64_t t = 0; t < j.classes; t++)
      for (int64_t p = 0; p < j.classes; p++) hist[t * j.classes + p] += j.tables[(part * side + t) * side + p];
  storage_drop(scratch);
  return bad ? ref_confusion_matrix(c) : DLV3_OK; /* which says where */
}

IMPLS(confusion_matrix, {"vec", vec_confusion_matrix}, {"ref", ref_confusion_matrix});

/* -- softmax ----------------------------------------------------------------------------------- */

/* The offset of line l of t, a line being all elements along axis. */
static int64_t line_offset(const tensor *t, int64_t axis, int64_t l) {
  int64_t offset = 0;
  for (int32_t i = t->ndim; i-- > 0;) {
    if (i == axis) continue;
    offset += l % t->size[i] * t->stride[i];
    l /= t->size[i];
  }
  return offset;
}

static void softmax_line(const tensor *x, const tensor *y, int64_t axis, int64_t l, bool logarithm) {
  const int64_t n = x->size[axis], dx = x->stride[axis], dy = y->stride[axis], px = line_offset(x, axis, l),
                py = line_offset(y, axis, l);
  double m = -INFINITY, sum = 0;
  for (int64_t i = 0; i < n; i++) m = at(x, px + i * dx) > m ? at(x, px + i * dx) : m;
  for (int64_t i = 0; i < n; i++) sum += exp(at(x, px + i * dx) - m);
  for (int64_t i = 0; i < n; i++) {
    double z = at(x, px + i * dx) - m;
    put(data_of(y), y->dtype, py + i * dy, logarithm ? z - log(sum) : exp(z) / sum);
  }
}

/* softmax: y (grad_y - sum(grad_y y)); log_softmax: grad_y - exp(y) sum(grad_y). */
static void softmax_gradient_line(const tensor *grad_y, const tensor *y, const tensor *grad_x, int64_t axis, int64_t l,
                                  bool logarithm) {
  const int64_t n = y->size[axis], dg = grad_y->stride[axis], dy = y->stride[axis], dx = grad_x->stride[axis];
  const int64_t pg = line_offset(grad_y, axis, l), py = line_offset(y, axis, l), px = line_offset(grad_x, axis, l);
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += at(grad_y, pg + i * dg) * (logarithm ? 1 : at(y, py + i * dy));
  for (int64_t i = 0; i < n; i++) {
    double g = at(grad_y, pg + i * dg), v = at(y, py + i * dy);
    put(data_of(grad_x), grad_x->dtype, px + i * dx, logarithm ? g - exp(v) * sum : v * (g - sum));
  }
}

typedef struct {
  const op_call *c;
  int64_t axis;
  bool logarithm;
} softmax_job;

static void softmax_lines(void *ctx, int64_t begin, int64_t end) {
  const softmax_job *j = ctx;
  for (int64_t l = begin; l < end; l++) {
    if (j->c->n_in == 1)
      softmax_line(j->c->in[0], j->c->out[0], j->axis, l, j->logarithm);
    else
      softmax_gradient_line(j->c->in[0], j->c->in[1], j->c->out[0], j->axis, l, j->logarithm);
  }
}

static status run_softmax(const op_call *c, int64_t axis, bool logarithm) {
  softmax_job j = {c, axis, logarithm};
  const tensor *x = c->in[0];
  if (numel(x)) parallel_for(numel(x) / x->size[axis], 256, softmax_lines, &j);
  return DLV3_OK;
}

static status ref_softmax(op_call *c) { return run_softmax(c, ((softmax_attr *)c->attr)->axis, false); }
static status ref_softmax_backward(op_call *c) {
  return run_softmax(c, ((softmax_backward_attr *)c->attr)->axis, false);
}
static status ref_log_softmax(op_call *c) { return run_softmax(c, ((log_softmax_attr *)c->attr)->axis, true); }
static status ref_log_softmax_backward(op_call *c) {
  return run_softmax(c, ((log_softmax_backward_attr *)c->attr)->axis, true);
}

IMPLS(softmax, {"ref", ref_softmax});
IMPLS(softmax_backward, {"ref", ref_softmax_backward});
IMPLS(log_softmax, {"ref", ref_log_softmax});
IMPLS(log_softmax_backward, {"ref", ref_log_softmax_backward});

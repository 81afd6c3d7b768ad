/* optim.c - one pass over an arena of parameters, gradients and momenta; the dynamic loss scale of
 * f16. */
#include "cpu/support/ref.h"

enum { CHUNK = 1 << 15 };

typedef struct {
  void *p, *buffer;
  const void *grad;
  double lr, momentum, weight_decay, unscale;
  bool nesterov;
} sgd_job;

/* g = grad / grad_scale + weight_decay p; buffer = momentum buffer + g; p -= lr (nesterov ? g +
 * momentum buffer : buffer) */
#define SGD(T, suffix) \
  CLONES static void sgd_##suffix(void *ctx, int64_t begin, int64_t end) { \
    const sgd_job *job = ctx; \
    T *p = job->p, *buffer = job->buffer; \
    const T *grad = job->grad, lr = (T)job->lr, momentum = (T)job->momentum, decay = (T)job->weight_decay; \
    const T unscale = (T)job->unscale; \
    if (!buffer) { \
      INDEPENDENT \
      for (int64_t i = begin; i < end; i++) p[i] -= lr * (grad[i] * unscale + decay * p[i]); \
    } else if (job->nesterov) { \
      INDEPENDENT \
      for (int64_t i = begin; i < end; i++) { \
        T g = grad[i] * unscale + decay * p[i]; \
        buffer[i] = momentum * buffer[i] + g; \
        p[i] -= lr * (g + momentum * buffer[i]); \
      } \
    } else { \
      INDEPENDENT \
      for (int64_t i = begin; i < end; i++) { \
        buffer[i] = momentum * buffer[i] + (grad[i] * unscale + decay * p[i]); \
        p[i] -= lr * buffer[i]; \
      } \
    } \
  }
SGD(float, f32)
SGD(double, f64)

static status vec_sgd_(op_call *c) {
  const sgd__attr *a = c->attr;
  tensor *p = c->in[0], *buffer = a->momentum != 0 ? c->in[2] : NULL;
  const float *scale = c->in[4] ? data_of(c->in[4]) : NULL, *found_inf = c->in[5] ? data_of(c->in[5]) : NULL;
  sgd_job job = {
      data_of(p),      buffer ? data_of(buffer) : NULL, data_of(c->in[1]), *(double *)data_of(c->in[3]), a->momentum,
      a->weight_decay, scale ? 1 / (double)*scale : 1,  a->nesterov != 0};
  if (p->dtype != DLV3_F32 && p->dtype != DLV3_F64)
    return fail_call(c, DLV3_ERR_DTYPE, "parameters are f32 (or f64), these are %s", dtype_name(p->dtype));
  if (found_inf && *found_inf != 0) return DLV3_OK;
  parallel_for(numel(p), CHUNK, p->dtype == DLV3_F64 ? sgd_f64 : sgd_f32, &job);
  return DLV3_OK;
}

/* The same in f64, one element after the other. */
static status ref_sgd_(op_call *c) {
  const sgd__attr *a = c->attr;
  tensor *p = c->in[0], *buffer = a->momentum != 0 ? c->in[2] : NULL;
  const double lr = at(c->in[3], 0), scale = at_or(c->in[4], 0, 1);
  if (p->dtype != DLV3_F32 && p->dtype != DLV3_F64)
    return fail_call(c, DLV3_ERR_DTYPE, "parameters are f32 (or f64), these are %s", dtype_name(p->dtype));
  if (at_or(c->in[5], 0, 0) != 0) return DLV3_OK;
  for (int64_t i = 0; i < numel(p); i++) {
    const double g = at(c->in[1], i) / scale + a->weight_decay * at(p, i);
    double step = g;
    if (buffer) {
      const double moved = a->momentum * at(buffer, i) + g;
      set(buffer, i, moved);
      step = a->nesterov ? g + a->momentum * moved : moved;
    }
    set(p, i, at(p, i) - lr * step);
  }
  return DLV3_OK;
}
IMPLS(sgd_, {"vec", vec_sgd_}, {"ref", ref_sgd_});

/* -- The loss scale ---------------------------------------------------------------------------- */

typedef struct {
  const void *grad;
  bool found;
} check_job;

/* An exponent of all ones is infinite or nan; in bits, the loop is a vector's. */
#define CHECK(suffix, bits, exponent) \
  CLONES static void check_##suffix(void *ctx, int64_t begin, int64_t end) { \
    check_job *job = ctx; \
    const bits *grad = job->grad; \
    bits found = 0; \
    for (int64_t i = begin; i < end; i++) found |= (grad[i] & (exponent)) == (exponent); \
    if (found) __atomic_store_n(&job->found, true, __ATOMIC_RELAXED); \
  }
CHECK(f16, uint16_t, 0x7c00)
CHECK(bf16, uint16_t, 0x7f80)
CHECK(f32, uint32_t, 0x7f800000)
CHECK(f64, uint64_t, 0x7ff0000000000000)

static status vec_amp_non_finite_check_(op_call *c) {
  const tensor *grad = c->in[1];
  check_job job = {data_of(grad), false};
  parallel_for(numel(grad), CHUNK,
               grad->dtype == DLV3_F64    ? check_f64
               : grad->dtype == DLV3_F32  ? check_f32
               : grad->dtype == DLV3_BF16 ? check_bf16
                                          : check_f16,
               &job);
  if (job.found) *(float *)data_of(c->in[0]) = 1;
  return DLV3_OK;
}
static status ref_amp_non_finite_check_(op_call *c) {
  for (int64_t i = 0; i < numel(c->in[1]); i++)
    if (!isfinite(at(c->in[1], i))) set(c->in[0], 0, 1);
  return DLV3_OK;
}
IMPLS(amp_non_finite_check_, {"vec", vec_amp_non_finite_check_}, {"ref", ref_amp_non_finite_check_});

static status ref_amp_update_scale_(op_call *c) {
  const amp_update_scale__attr *a = c->attr;
  float *scale = data_of(c->in[0]);
  int32_t *tracker = data_of(c->in[1]);
  if (*(const float *)data_of(c->in[2]) != 0) {
    *scale = (float)(*scale * a->backoff_factor), *tracker = 0;
  } else if (++*tracker >= a->growth_interval) {
    const float grown = (float)(*scale * a->growth_factor);
    if (isfinite(grown)) *scale = grown;
    *tracker = 0;
  }
  return DLV3_OK;
}
IMPLS(amp_update_scale_, {"ref", ref_amp_update_scale_});

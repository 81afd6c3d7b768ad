/* optim.c - one pass over an arena of parameters, gradients and momenta. */
#include "simd.h"

enum { CHUNK = 1 << 15 };

typedef struct {
  void *p, *buffer;
  const void *grad;
  double lr, momentum, weight_decay;
  bool nesterov;
} sgd_job;

/* g = grad + weight_decay p; buffer = momentum buffer + g; p -= lr (nesterov ? g + momentum buffer : buffer) */
#define SGD(T, suffix)                                                                                       \
  CLONES static void sgd_##suffix(void *ctx, int64_t begin, int64_t end) {                                   \
    const sgd_job *job = ctx;                                                                                \
    T *p = job->p, *buffer = job->buffer;                                                                    \
    const T *grad = job->grad, lr = (T)job->lr, momentum = (T)job->momentum, decay = (T)job->weight_decay;   \
    if (!buffer) {                                                                                           \
      _Pragma("GCC ivdep") for (int64_t i = begin; i < end; i++) p[i] -= lr * (grad[i] + decay * p[i]);      \
    } else if (job->nesterov) {                                                                              \
      _Pragma("GCC ivdep") for (int64_t i = begin; i < end; i++) {                                           \
        T g = grad[i] + decay * p[i];                                                                        \
        buffer[i] = momentum * buffer[i] + g;                                                                \
        p[i] -= lr * (g + momentum * buffer[i]);                                                             \
      }                                                                                                      \
    } else {                                                                                                 \
      _Pragma("GCC ivdep") for (int64_t i = begin; i < end; i++) {                                           \
        buffer[i] = momentum * buffer[i] + (grad[i] + decay * p[i]);                                         \
        p[i] -= lr * buffer[i];                                                                              \
      }                                                                                                      \
    }                                                                                                        \
  }
SGD(float, f32)
SGD(double, f64)

static status ref_sgd_(op_call *c) {
  const sgd__attr *a = c->attr;
  tensor *p = c->in[0], *buffer = a->momentum != 0 ? c->in[2] : NULL;
  sgd_job job = {data_of(p), buffer ? data_of(buffer) : NULL, data_of(c->in[1]), *(double *)data_of(c->in[3]), a->momentum, a->weight_decay, a->nesterov != 0};
  if (p->dtype != DLV3_F32 && p->dtype != DLV3_F64) return fail_call(c, DLV3_ERR_DTYPE, "parameters are f32 (or f64), these are %s", dtype_name(p->dtype));
  parallel_for(numel(p), CHUNK, p->dtype == DLV3_F64 ? sgd_f64 : sgd_f32, &job);
  return DLV3_OK;
}
IMPLS(sgd_, {"ref", ref_sgd_});

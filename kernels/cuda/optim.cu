/* optim.cu - one pass over an arena of parameters, gradients and momenta. */
#include "common.h"

typedef struct {
  const double *lr;
  double momentum, weight_decay;
  bool nesterov;
  int64_t n;
} sgd;

/* g = grad + weight_decay p; buffer = momentum buffer + g; p -= lr (nesterov ? g + momentum buffer : buffer) */
template <class T> static __global__ void sgd_step(sgd s, T *p, const T *grad, T *buffer) {
  const T lr = (T)*s.lr, momentum = (T)s.momentum, decay = (T)s.weight_decay;
  FOR_ITEMS(i, s.n) {
    const T g = grad[i] + decay * p[i];
    T step = g;
    if (buffer) {
      step = momentum * buffer[i] + g;
      buffer[i] = step;
      if (s.nesterov) step = g + momentum * step;
    }
    p[i] -= lr * step;
  }
}

static status cuda_sgd_(op_call *c) {
  const sgd__attr *a = (const sgd__attr *)c->attr;
  tensor *p = c->in[0], *buffer = a->momentum != 0 ? c->in[2] : NULL;
  const sgd s = {data_as<double>(c->in[3]), a->momentum, a->weight_decay, a->nesterov != 0, numel(p)};
  const cudaStream_t stream = stream_of(c);
  if (p->dtype != DLV3_F32 && p->dtype != DLV3_F64) return fail_call(c, DLV3_ERR_DTYPE, "parameters are f32 (or f64), these are of another dtype");
  if (!s.n) return DLV3_OK;
  if (p->dtype == DLV3_F64) LAUNCH(sgd_step<double>, blocks_for(s.n), BLOCK, stream, s, data_as<double>(p), data_as<double>(c->in[1]), data_as<double>(buffer));
  else LAUNCH(sgd_step<float>, blocks_for(s.n), BLOCK, stream, s, data_as<float>(p), data_as<float>(c->in[1]), data_as<float>(buffer));
  return LAUNCHED(c);
}
OWN(sgd_);

/* optim.cu - one pass over an arena of parameters, gradients and momenta; the dynamic loss scale of
 * f16.
 *
 * The scale and whether a step is skipped are read on the device, so that a recorded step holds for
 * all of them. Where the forward pass reads the weights in bf16 or f16, that copy of the arena is
 * written in the same pass. */
#include "cuda/conv/conv.h"
#include "cuda/support/pixels.h"

typedef struct {
  const double *lr;
  const float *grad_scale, *found_inf; /* NULL: none */
  double momentum, weight_decay;
  bool nesterov;
  int64_t n;
} sgd;

/* g = grad / grad_scale + weight_decay p; buffer = momentum buffer + g; p -= lr (nesterov ? g +
 * momentum buffer : buffer) */
template <class T, class H, int V> static __global__ void sgd_step(sgd s, T *p, const T *grad, T *buffer, H *copy) {
  if (s.found_inf && *s.found_inf != 0) return;
  const T unscale = s.grad_scale ? (T)(1 / (double)*s.grad_scale) : (T)1;
  const T lr = (T)*s.lr, momentum = (T)s.momentum, decay = (T)s.weight_decay;
  FOR_ITEMS(i, s.n / V) {
    const pack<T, V> raw = pack_at<V>(grad + i * V);
    pack<T, V> now = pack_at<V>(p + i * V), kept = {};
    if (buffer) kept = pack_at<V>(buffer + i * V);
    UNROLL
    for (int v = 0; v < V; v++) {
      const T g = raw.v[v] * unscale + decay * now.v[v];
      T step = g;
      if (buffer) {
        step = kept.v[v] = momentum * kept.v[v] + g;
        if (s.nesterov) step = g + momentum * step;
      }
      now.v[v] -= lr * step;
    }
    if (buffer) pack_at<V>(buffer + i * V) = kept;
    pack_at<V>(p + i * V) = now;
    if (copy) pack_at<V>(copy + i * V) = narrowed<H>(now.v);
  }
}

template <class T, class H>
static void launch_sgd(const sgd &s, cudaStream_t stream, T *p, const T *grad, T *buffer, H *copy) {
  const int64_t pack = ALIGNMENT / sizeof(T);
  const bool on_packs =
      s.n % pack == 0 && aligned(p) && aligned(grad) && aligned(buffer) && (uintptr_t)copy % (pack * sizeof(H)) == 0;
  BY_PACK(T, on_packs, LAUNCH((sgd_step<T, H, V>), blocks_for(s.n / V), BLOCK, stream, s, p, grad, buffer, copy));
}

/* Both, where there is one: p may be a part of the arena. */
static void step_and_copy(const sgd &s, cudaStream_t stream, tensor *p, const float *grad, float *buffer) {
  int32_t dtype;
  weight_copy *copy = arena_copy(p->st, &dtype);
  if (!copy)
    launch_sgd(s, stream, data_as<float>(p), grad, buffer, (bf16 *)NULL);
  else if (dtype == DLV3_BF16)
    launch_sgd(s, stream, data_as<float>(p), grad, buffer, (bf16 *)copy->st->data + p->offset);
  else
    launch_sgd(s, stream, data_as<float>(p), grad, buffer, (f16 *)copy->st->data + p->offset);
  if (copy) copy->base.version = arena_version(p->st) + 1; /* what it will be after this call */
}

static status cuda_sgd_(op_call *c) {
  const sgd__attr *a = (const sgd__attr *)c->attr;
  tensor *p = c->in[0], *buffer = a->momentum != 0 ? c->in[2] : NULL;
  const sgd s = {data_as<double>(c->in[3]),
                 data_as<float>(c->in[4]),
                 data_as<float>(c->in[5]),
                 a->momentum,
                 a->weight_decay,
                 a->nesterov != 0,
                 numel(p)};
  const cudaStream_t stream = stream_of(c);
  if (p->dtype != DLV3_F32 && p->dtype != DLV3_F64)
    return fail_call(c, DLV3_ERR_DTYPE, "parameters are f32 (or f64), these are of another dtype");
  if (!s.n) return DLV3_OK;
  if (p->dtype == DLV3_F64)
    launch_sgd(s, stream, data_as<double>(p), data_as<double>(c->in[1]), data_as<double>(buffer), (bf16 *)NULL);
  else
    step_and_copy(s, stream, p, data_as<float>(c->in[1]), data_as<float>(buffer));
  return LAUNCHED(c);
}
OWN(sgd_);

/* -- The loss scale ---------------------------------------------------------------------------- */

/* All that store it store the same. */
template <class T> static __global__ void check_finite(float *found_inf, const T *grad, int64_t n) {
  bool found = false;
  FOR_ITEMS(i, n) {
    const auto v = wide(grad[i]);
    found = found || !(v - v == 0);
  }
  if (found) *found_inf = 1;
}

static status cuda_amp_non_finite_check_(op_call *c) {
  const tensor *grad = c->in[1];
  const int64_t n = numel(grad);
  const cudaStream_t stream = stream_of(c);
  if (!n) return DLV3_OK;
  BY_FLOAT(grad->dtype,
           LAUNCH(check_finite<T>, blocks_for(n), BLOCK, stream, data_as<float>(c->in[0]), data_as<T>(grad), n));
  return LAUNCHED(c);
}
OWN(amp_non_finite_check_);

/* One thread. */
static __global__ void update_scale(float *scale, int32_t *tracker, const float *found_inf, double growth,
                                    double backoff, int64_t interval) {
  if (*found_inf != 0) {
    *scale = (float)(*scale * backoff), *tracker = 0;
  } else if (++*tracker >= interval) {
    const float grown = (float)(*scale * growth);
    if (grown - grown == 0) *scale = grown;
    *tracker = 0;
  }
}

static status cuda_amp_update_scale_(op_call *c) {
  const amp_update_scale__attr *a = (const amp_update_scale__attr *)c->attr;
  const cudaStream_t stream = stream_of(c);
  LAUNCH(update_scale, 1, 1, stream, data_as<float>(c->in[0]), data_as<int32_t>(c->in[1]), data_as<float>(c->in[2]),
         a->growth_factor, a->backoff_factor, a->growth_interval);
  return LAUNCHED(c);
}
OWN(amp_update_scale_);

/* random.cu - random fills, arange, dropout. Numbers come from Philox: a function of seed and
 * counter, the same as on the cpu, so that layout, dtype and device change nothing. The generator's
 * state is a tensor on the device. */
#include "cuda/support/elements.h"

/* Philox 4x32-10: see runtime/core/rng.c. */
DEVICE void philox_words(uint32_t out[4], uint64_t key, uint64_t counter) {
  uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = 0, c3 = 0, k0 = (uint32_t)key,
           k1 = (uint32_t)(key >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = (uint64_t)0xD2511F53 * c0, p1 = (uint64_t)0xCD9E8D57 * c2;
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, c1 = (uint32_t)p1;
    c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1, c3 = (uint32_t)p0;
    k0 += 0x9E3779B9, k1 += 0xBB67AE85;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}
DEVICE float uniform_of(uint32_t word) { return (float)(word >> 8) * 0x1p-24f; }

/* -- Fills by position ------------------------------------------------------------------------- */

/* x in logical row-major order, whatever the layout: element i takes word i % 4 of counter block i
 * / 4. */
typedef struct {
  char *data;
  int64_t size[DLV3_MAX_DIMS], stride[DLV3_MAX_DIMS], total;
  int32_t ndim, dtype, op;
  double a, b; /* low, high; mean, std; start, step                       */
  int64_t low;
  uint64_t range;
  const int64_t *rng; /* seed, counter                                           */
} positions;

/* v as it will be read back from a tensor. */
DEVICE double as_stored(double v, int32_t dtype) {
  switch (dtype) {
  case DLV3_F16: return wide(narrow<f16>((float)v));
  case DLV3_BF16: return wide(narrow<bf16>((float)v));
  case DLV3_F32: return (float)v;
  default: return v;
  }
}

/* The largest number of the dtype below v, which is one. */
DEVICE double below(double v, int32_t dtype) {
  if (dtype == DLV3_F64) return nextafter(v, -(double)INFINITY);
  if (dtype == DLV3_F32) return nextafterf((float)v, -INFINITY);
  const uint16_t bits = dtype == DLV3_F16 ? narrow<f16>((float)v).bits : narrow<bf16>((float)v).bits;
  const uint16_t less = (uint16_t)(v > 0 ? bits - 1 : v < 0 ? bits + 1 : 0x8001);
  return dtype == DLV3_F16 ? wide(f16{less}) : wide(bf16{less});
}

/* As many random bits as the dtype's significand has, and never rounded up to high. */
DEVICE double uniform_value(const positions &p, uint32_t word) {
  const int32_t drop = p.dtype == DLV3_BF16 ? 24 : p.dtype == DLV3_F16 ? 21 : 8;
  const double v = p.a + product_alone(p.b - p.a, (double)(word >> drop) / (double)((uint64_t)1 << (32 - drop)));
  if (as_stored(v, p.dtype) < p.b) return v;
  const double last = below(as_stored(p.b, p.dtype), p.dtype);
  return last < p.a ? p.a : last;
}

/* Box-Muller in f32 on two pairs of words: a pair gives a cosine and a sine. */
DEVICE double normal_value(const positions &p, const uint32_t *w, int k) {
  const float radius = sqrtf(-2 * logf(((float)w[k & 2] + 0.5f) * 0x1p-32f)),
              angle = 6.2831853071795864f * uniform_of(w[(k & 2) + 1]);
  return p.a + product_alone(p.b, (double)(radius * (k & 1 ? sinf(angle) : cosf(angle))));
}

static __global__ void fill_positions(positions p) {
  FOR_ITEMS(i, p.total) {
    uint32_t w[4];
    double v = 0;
    int64_t at = 0, rest = i;
    for (int32_t k = p.ndim - 1; k >= 0; k--) at += rest % p.size[k] * p.stride[k], rest /= p.size[k];
    if (p.rng) philox_words(w, (uint64_t)p.rng[0], (uint64_t)p.rng[1] + (uint64_t)(i / 4));
    switch (p.op) {
    case OP_uniform_: v = uniform_value(p, w[i % 4]); break;
    case OP_normal_: v = normal_value(p, w, (int)(i % 4)); break;
    case OP_randint_: v = (double)(p.low + (int64_t)((uint64_t)w[i % 4] * p.range >> 32)); break;
    default: v = p.a + product_alone((double)i, p.b); break; /* arange_ */
    }
    store_as<double>(p.data, p.dtype, at, v);
  }
}

/* state = rng; rng moves on by the blocks of n elements. One thread. */
static __global__ void advance(int64_t *rng, int64_t *state, int64_t blocks) {
  if (state) state[0] = rng[0], state[1] = rng[1];
  rng[1] += blocks;
}

static status run_positions(op_call *c, positions p) {
  const tensor *x = c->in[0];
  const cudaStream_t stream = stream_of(c);
  p.data = (char *)data_of(x), p.ndim = x->ndim, p.dtype = x->dtype, p.op = c->op, p.total = numel(x);
  memcpy(p.size, x->size, sizeof p.size), memcpy(p.stride, x->stride, sizeof p.stride);
  if (c->op != OP_arange_) p.rng = data_as<int64_t>(c->in[1]);
  if (p.total) LAUNCH(fill_positions, blocks_for(p.total), BLOCK, stream, p);
  if (c->op != OP_arange_)
    LAUNCH(advance, 1, 1, stream, data_as<int64_t>(c->in[1]), (int64_t *)NULL, (p.total + 3) / 4);
  return LAUNCHED(c);
}

static positions with(double a, double b, int64_t low, int64_t high) {
  positions p;
  memset(&p, 0, sizeof p);
  p.a = a, p.b = b, p.low = low, p.range = (uint64_t)(high - low);
  return p;
}
static status cuda_arange_(op_call *c) {
  const arange__attr *a = (const arange__attr *)c->attr;
  return run_positions(c, with(a->start, a->step, 0, 0));
}
OWN(arange_);
static status cuda_uniform_(op_call *c) {
  const uniform__attr *a = (const uniform__attr *)c->attr;
  return run_positions(c, with(a->low, a->high, 0, 0));
}
OWN(uniform_);
static status cuda_normal_(op_call *c) {
  const normal__attr *a = (const normal__attr *)c->attr;
  return run_positions(c, with(a->mean, a->std, 0, 0));
}
OWN(normal_);
static status cuda_randint_(op_call *c) {
  const randint__attr *a = (const randint__attr *)c->attr;
  return run_positions(c, with(0, 0, a->low, a->high));
}
OWN(randint_);

/* -- Dropout: element i in memory order is kept where its uniform number is not below p -------- */

/* Four elements a thread, which is what a block of random words is for; in packs of V, or with a
 * rest in single ones. */
template <class T, class C, int V>
static __global__ void drop(const T *x, T *y, const int64_t *state, float p, C scale, int64_t n) {
  FOR_ITEMS(block, (n + 3) / 4) {
    uint32_t w[4];
    philox_words(w, (uint64_t)state[0], (uint64_t)state[1] + (uint64_t)block);
    UNROLL
    for (int k = 0; k < 4; k += V) {
      const int64_t at = 4 * block + k;
      if (at >= n) break;
      const pack<T, V> from = pack_at<V>(x + at);
      C to[V];
      UNROLL
      for (int v = 0; v < V; v++) to[v] = uniform_of(w[k + v]) >= p ? wide(from.v[v]) * scale : (C)0;
      pack_at<V>(y + at) = narrowed<T>(to);
    }
  }
}

template <class T>
static void launch_drop(const T *x, T *y, const int64_t *state, double p, int64_t n, cudaStream_t stream) {
  typedef typename computing<T>::type C;
  enum { V = sizeof(T) == 8 ? 2 : 4 };
  const C scale = (C)(p < 1 ? 1 / (1 - p) : 0);
  if (n % V == 0 && aligned(x) && aligned(y))
    LAUNCH((drop<T, C, V>), blocks_for((n + 3) / 4), BLOCK, stream, x, y, state, (float)p, scale, n);
  else
    LAUNCH((drop<T, C, 1>), blocks_for((n + 3) / 4), BLOCK, stream, x, y, state, (float)p, scale, n);
}

static status run_drop(op_call *c, const tensor *state, double p) {
  const int64_t n = numel(c->in[0]);
  const cudaStream_t stream = stream_of(c);
  if (n)
    BY_FLOAT(c->in[0]->dtype,
             launch_drop(data_as<T>(c->in[0]), data_as<T>(c->out[0]), data_as<int64_t>(state), p, n, stream));
  return LAUNCHED(c);
}

static status cuda_dropout(op_call *c) {
  const dropout_attr *a = (const dropout_attr *)c->attr;
  const bool draws = a->training && a->p != 0;
  const cudaStream_t stream = stream_of(c);
  LAUNCH(advance, 1, 1, stream, data_as<int64_t>(c->in[1]), data_as<int64_t>(c->out[1]),
         draws ? (numel(c->in[0]) + 3) / 4 : (int64_t)0);
  return draws ? run_drop(c, c->out[1], a->p) : elements_copy(c, c->out[0], c->in[0]);
}
OWN(dropout);
static status cuda_dropout_backward(op_call *c) {
  return run_drop(c, c->in[1], ((const dropout_backward_attr *)c->attr)->p);
}
OWN(dropout_backward);

/* pointwise.c - elementwise ops: activations, arithmetic, comparisons, fills, random numbers, casts.
 *
 * One engine: runs of elements come as arrays of the computing type (f32 for f16, bf16, f32; f64 for f64 and integers,
 * so integers are exact to 2^53), a kernel computes a run, the engine stores it. Operands that already are contiguous
 * and of the computing type are used where they lie. Any strides and broadcasting; outputs are dense. */
#include "elements.h"

/* -- The engine -------------------------------------------------------------------------------------------- */

typedef void (*run_f32)(float *y, const float *a, const float *b, const float *c, int64_t n, const void *attr);
typedef void (*run_f64)(double *y, const double *a, const double *b, const double *c, int64_t n, const void *attr);

typedef struct {
  const elements *e;
  run_f32 f32;
  run_f64 f64;
  const void *attr;
} map_job;

/* n elements `stride` apart as an array: where they lie, or converted into buf. */
#define GATHER(T, load, own)                                                                                            \
  static inline const T *gather_##T(T *buf, const char *p, int32_t dtype, int64_t stride, int64_t n) {                 \
    if (stride == 1 && dtype == (own)) return (const T *)p;                                                             \
    if (stride == 1) return load(buf, p, dtype, n), buf;                                                                \
    if (stride == 0) {                                                                                                  \
      load(buf, p, dtype, 1);                                                                                           \
      for (int64_t i = 1; i < n; i++) buf[i] = buf[0];                                                                  \
      return buf;                                                                                                       \
    }                                                                                                                   \
    for (int64_t i = 0; i < n; i++) load(buf + i, p + i * stride * dtype_bytes(dtype), dtype, 1);                       \
    return buf;                                                                                                         \
  }
GATHER(float, load_f32, DLV3_F32)
GATHER(double, load_f64, DLV3_F64)

#define MAP_RUN(T, suffix, store, own)                                                                                  \
  static void map_##suffix(void *ctx, char *const *p, const int64_t *stride, int64_t n) {                              \
    const map_job *job = ctx;                                                                                           \
    const elements *e = job->e;                                                                                         \
    T buf[MAX_OPERANDS][RUN];                                                                                           \
    const T *in[MAX_OPERANDS] = {0};                                                                                    \
    bool in_place = stride[0] == 1 && e->dtype[0] == (own), direct = in_place;                                          \
    for (int32_t o = 1; o < e->n_op; o++) direct &= stride[o] == 1 && e->dtype[o] == (own);                             \
    int64_t step = direct ? n : RUN;                                                                                    \
    for (int64_t at = 0; at < n; at += step) {                                                                          \
      int64_t m = n - at < step ? n - at : step;                                                                        \
      for (int32_t o = 1; o < e->n_op; o++)                                                                             \
        in[o] = gather_##T(buf[o], p[o] + at * stride[o] * dtype_bytes(e->dtype[o]), e->dtype[o], stride[o], m);        \
      char *out = p[0] + at * stride[0] * dtype_bytes(e->dtype[0]);                                                     \
      T *y = in_place ? (T *)out : buf[0];                                                                              \
      job->suffix(y, in[1], in[2], in[3], m, job->attr);                                                                \
      if (in_place) continue;                                                                                           \
      if (stride[0] == 1) store(out, e->dtype[0], y, m);                                                                \
      else for (int64_t i = 0; i < m; i++) store(out + i * stride[0] * dtype_bytes(e->dtype[0]), e->dtype[0], y + i, 1);\
    }                                                                                                                   \
  }
MAP_RUN(float, f32, store_f32, DLV3_F32)
MAP_RUN(double, f64, store_f64, DLV3_F64)

/* y = f(a, b, c); computes in f64 if any operand is f64 or an integer wider than u8. */
static status map(tensor *y, tensor *a, tensor *b, tensor *c, run_f32 f32, run_f64 f64, const void *attr) {
  tensor *t[MAX_OPERANDS] = {y, a, b, c};
  int32_t n = c ? 4 : b ? 3 : a ? 2 : 1;
  elements e = elements_of(t, n);
  bool wide = false;
  for (int32_t o = 0; o < n; o++) wide |= e.dtype[o] == DLV3_F64 || e.dtype[o] == DLV3_I64 || e.dtype[o] == DLV3_I32;
  map_job job = {&e, f32, f64, attr};
  elements_walk(&e, wide ? map_f64 : map_f32, &job);
  return DLV3_OK;
}

/* The two kernels of an op from one expression in a, b, c of type T; y may be a's array itself. */
#define KERNELS(op, expression)                                                                                         \
  CLONES static void op##_f32(float *y, const float *pa, const float *pb, const float *pc, int64_t n, const void *attr) { \
    typedef float T;                                                                                                    \
    (void)pa, (void)pb, (void)pc, (void)attr;                                                                           \
    _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) y[i] = (T)(expression);                                        \
  }                                                                                                                     \
  CLONES static void op##_f64(double *y, const double *pa, const double *pb, const double *pc, int64_t n, const void *attr) { \
    typedef double T;                                                                                                   \
    (void)pa, (void)pb, (void)pc, (void)attr;                                                                           \
    _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) y[i] = (T)(expression);                                        \
  }
#define a pa[i]
#define b pb[i]
#define c pc[i]

#define UNARY(op, expression)                                                                                           \
  KERNELS(op, expression)                                                                                               \
  static status ref_##op(op_call *call) { return map(call->out[0], call->in[0], NULL, NULL, op##_f32, op##_f64, call->attr); } \
  IMPLS(op, {"ref", ref_##op});
#define BINARY(op, expression)                                                                                          \
  KERNELS(op, expression)                                                                                               \
  static status ref_##op(op_call *call) { return map(call->out[0], call->in[0], call->in[1], NULL, op##_f32, op##_f64, call->attr); } \
  IMPLS(op, {"ref", ref_##op});
/* x = f(x, y) */
#define IN_PLACE(op, expression)                                                                                        \
  KERNELS(op, expression)                                                                                               \
  static status ref_##op(op_call *call) { return map(call->in[0], call->in[0], call->in[1], NULL, op##_f32, op##_f64, call->attr); } \
  IMPLS(op, {"ref", ref_##op});

/* -- Activations; nan stays nan ---------------------------------------------------------------------------- */

#define LIMIT6(v) ((v) < 0 ? 0 : (v) > 6 ? 6 : (v))

UNARY(relu, a < 0 ? 0 : a)
BINARY(relu_backward, b > 0 ? a : 0)
UNARY(relu6, LIMIT6(a))
BINARY(relu6_backward, b > 0 && b < 6 ? a : 0)
UNARY(hardswish, a * LIMIT6(a + 3) / 6)
BINARY(hardswish_backward, b <= -3 ? 0 : b >= 3 ? a : a * (2 * b + 3) / 6)
UNARY(hardsigmoid, LIMIT6(a + 3) / 6)
/* PyTorch multiplies by 1/6 rounded to f32 in every dtype; trained models and f64 comparisons see the same numbers. */
BINARY(hardsigmoid_backward, b > -3 && b < 3 ? a * (T)(1.0f / 6.0f) : 0)
UNARY(sigmoid, 1 / (1 + (sizeof(T) == 4 ? (T)expf(-(float)a) : (T)exp(-(double)a))))
BINARY(sigmoid_backward, a * b * (1 - b))
UNARY(tanh, sizeof(T) == 4 ? (T)tanhf((float)a) : (T)tanh((double)a))
BINARY(tanh_backward, a * (1 - b * b))

/* -- Arithmetic -------------------------------------------------------------------------------------------- */

#define BY_TYPE(fn) (sizeof(T) == 4 ? (T)fn##f((float)a) : (T)fn((double)a))

UNARY(neg, -a)
UNARY(abs, a < 0 ? -a : a == 0 ? 0 : a)
UNARY(sign, a > 0 ? 1 : a < 0 ? -1 : a)
UNARY(exp, BY_TYPE(exp))
UNARY(log, BY_TYPE(log))
UNARY(sqrt, BY_TYPE(sqrt))
UNARY(square, a * a)
UNARY(sin, BY_TYPE(sin))
UNARY(cos, BY_TYPE(cos))
UNARY(floor, BY_TYPE(floor))
UNARY(ceil, BY_TYPE(ceil))
UNARY(round, BY_TYPE(rint))
UNARY(isfinite, a - a == 0)
UNARY(logical_not, a == 0)
UNARY(clamp, a < ((const clamp_attr *)attr)->min ? (T)((const clamp_attr *)attr)->min
             : a > ((const clamp_attr *)attr)->max ? (T)((const clamp_attr *)attr)->max : a)

BINARY(add, a + b)
BINARY(sub, a - b)
BINARY(mul, a * b)
BINARY(div, a / b)
BINARY(pow, sizeof(T) == 4 ? (T)powf((float)a, (float)b) : (T)pow((double)a, (double)b))
BINARY(maximum, a != a || a > b ? a : b)
BINARY(minimum, a != a || a < b ? a : b)
BINARY(eq, a == b)
BINARY(ne, a != b)
BINARY(lt, a < b)
BINARY(le, a <= b)
BINARY(gt, a > b)
BINARY(ge, a >= b)
BINARY(logical_and, a != 0 && b != 0)
BINARY(logical_or, a != 0 || b != 0)
IN_PLACE(add_, a + b)
IN_PLACE(sub_, a - b)
IN_PLACE(mul_, a * b)
IN_PLACE(div_, a / b)

KERNELS(where, a != 0 ? b : c)
static status ref_where(op_call *call) {
  return map(call->out[0], call->in[0], call->in[1], call->in[2], where_f32, where_f64, NULL);
}
IMPLS(where, {"ref", ref_where});

#undef a
#undef b
#undef c

/* -- Fills and copies -------------------------------------------------------------------------------------- */

KERNELS(fill_, ((const fill__attr *)attr)->value)
static status ref_fill_(op_call *c) {
  const fill__attr *a = c->attr;
  tensor *x = c->in[0];
  if (a->value == 0 && is_dense(x)) { /* all bits zero in every dtype */
    memset(data_of(x), 0, (size_t)(numel(x) * dtype_bytes(x->dtype)));
    return DLV3_OK;
  }
  return map(x, NULL, NULL, NULL, fill__f32, fill__f64, a);
}
IMPLS(fill_, {"ref", ref_fill_});

static status ref_copy_(op_call *c) { return elements_copy(c->in[0], c->in[1]), DLV3_OK; }
IMPLS(copy_, {"ref", ref_copy_});
static status ref_cast(op_call *c) { return elements_copy(c->out[0], c->in[0]), DLV3_OK; }
IMPLS(cast, {"ref", ref_cast});

INLINE void store_one(char *p, int32_t dtype, double v) {
  if (dtype == DLV3_F32) *(float *)p = (float)v;
  else store_f64(p, dtype, &v, 1);
}

/* Fills in logical row-major order, whatever the layout: four elements a call, since a block of random words makes four. */
typedef struct {
  tensor *x;
  const op_call *call;
  void (*values)(const op_call *c, int64_t block, double v[4]);
} positions_job;

static void positions_range(void *ctx, int64_t begin, int64_t end) { /* begin is a multiple of 4 */
  const positions_job *job = ctx;
  tensor *x = job->x;
  int32_t width = dtype_bytes(x->dtype), last = x->ndim - 1;
  int64_t index[DLV3_MAX_DIMS] = {0}, at = x->offset, rest = begin;
  double v[4];
  for (int32_t k = last; k >= 0; k--) index[k] = rest % x->size[k], rest /= x->size[k], at += index[k] * x->stride[k];
  for (int64_t i = begin; i < end; i++) {
    if (i % 4 == 0) job->values(job->call, i / 4, v);
    store_one(x->st->data + at * width, x->dtype, v[i % 4]);
    for (int32_t k = last; k >= 0; k--) { /* on to the next position */
      at += x->stride[k];
      if (++index[k] < x->size[k]) break;
      at -= x->stride[k] * x->size[k], index[k] = 0;
    }
  }
}

static status fill_positions(op_call *c, void (*values)(const op_call *, int64_t, double[4])) {
  positions_job job = {c->in[0], c, values};
  parallel_for(numel(c->in[0]), GRAIN, positions_range, &job);
  return DLV3_OK;
}

static void arange_values(const op_call *c, int64_t block, double v[4]) {
  const arange__attr *at = c->attr;
  for (int64_t i = 0; i < 4; i++) v[i] = at->start + (double)(block * 4 + i) * at->step;
}
static status ref_arange_(op_call *c) { return fill_positions(c, arange_values); }
IMPLS(arange_, {"ref", ref_arange_});

/* -- Random numbers: element i takes word i % 4 of counter block i / 4 --------------------------------------- */

/* rng is i64 [2]: seed, counter. A call of n elements moves the counter on by its blocks. */
static status advance(status st, tensor *rng, int64_t n) {
  ((int64_t *)data_of(rng))[1] += (n + 3) / 4;
  return st;
}

static void draw(uint32_t words[4], const tensor *rng, int64_t block) {
  const int64_t *state = data_of(rng);
  philox(words, (uint64_t)state[0], (uint64_t)state[1] + (uint64_t)block, 0);
}

static void uniform_values(const op_call *c, int64_t block, double v[4]) {
  const uniform__attr *at = c->attr;
  uint32_t w[4];
  draw(w, c->in[1], block);
  for (int i = 0; i < 4; i++) {
    v[i] = at->low + (at->high - at->low) * (double)philox_uniform(w[i]);
    if (v[i] >= at->high) v[i] = at->low; /* rounding must not reach high */
  }
}
static status ref_uniform_(op_call *c) { return advance(fill_positions(c, uniform_values), c->in[1], numel(c->in[0])); }
IMPLS(uniform_, {"ref", ref_uniform_});

/* Box-Muller in f32 on two pairs of words: a pair gives a cosine and a sine. */
static void normal_values(const op_call *c, int64_t block, double v[4]) {
  const normal__attr *at = c->attr;
  uint32_t w[4];
  draw(w, c->in[1], block);
  for (int i = 0; i < 4; i += 2) {
    float radius = sqrtf(-2 * logf(((float)w[i] + 0.5f) * 0x1p-32f)), angle = (float)(2 * M_PI) * philox_uniform(w[i + 1]);
    v[i] = at->mean + at->std * (double)(radius * cosf(angle));
    v[i + 1] = at->mean + at->std * (double)(radius * sinf(angle));
  }
}
static status ref_normal_(op_call *c) { return advance(fill_positions(c, normal_values), c->in[1], numel(c->in[0])); }
IMPLS(normal_, {"ref", ref_normal_});

static void randint_values(const op_call *c, int64_t block, double v[4]) {
  const randint__attr *at = c->attr;
  uint32_t w[4];
  draw(w, c->in[1], block);
  for (int i = 0; i < 4; i++) v[i] = (double)(at->low + (int64_t)((uint64_t)w[i] * (uint64_t)(at->high - at->low) >> 32));
}
static status ref_randint_(op_call *c) { return advance(fill_positions(c, randint_values), c->in[1], numel(c->in[0])); }
IMPLS(randint_, {"ref", ref_randint_});

/* -- Dropout: element i in memory order is kept where its uniform number is not below p ---------------------- */

typedef struct {
  const tensor *x, *state;
  tensor *y;
  double p;
} dropout_job;

enum { DROP = 4096 }; /* elements a chunk, a multiple of 4 */

CLONES static void dropout_range(void *ctx, int64_t begin, int64_t end) {
  const dropout_job *job = ctx;
  int32_t dtype = job->x->dtype, width = dtype_bytes(dtype);
  bool wide = dtype == DLV3_F64;
  double scale = job->p < 1 ? 1 / (1 - job->p) : 0, v64[4];
  float limit = (float)job->p, v32[4];
  for (int64_t i = begin; i < end; i += 4) {
    uint32_t w[4];
    int64_t n = end - i < 4 ? end - i : 4;
    draw(w, job->state, i / 4);
    const char *x = (const char *)data_of(job->x) + i * width;
    char *y = (char *)data_of(job->y) + i * width;
    if (wide) {
      load_f64(v64, x, dtype, n);
      for (int64_t k = 0; k < n; k++) v64[k] = philox_uniform(w[k]) >= limit ? v64[k] * scale : 0;
      store_f64(y, dtype, v64, n);
    } else {
      load_f32(v32, x, dtype, n);
      for (int64_t k = 0; k < n; k++) v32[k] = philox_uniform(w[k]) >= limit ? v32[k] * (float)scale : 0;
      store_f32(y, dtype, v32, n);
    }
  }
}

static void drop(const tensor *x, const tensor *state, tensor *y, double p) {
  dropout_job job = {x, state, y, p};
  parallel_for(numel(x), DROP, dropout_range, &job);
}

static status ref_dropout(op_call *c) {
  const dropout_attr *at = c->attr;
  tensor *x = c->in[0], *rng = c->in[1];
  memcpy(data_of(c->out[1]), data_of(rng), 2 * sizeof(int64_t));
  if (!at->training || at->p == 0) return elements_copy(c->out[0], x), DLV3_OK;
  drop(x, rng, c->out[0], at->p);
  return advance(DLV3_OK, rng, numel(x));
}
IMPLS(dropout, {"ref", ref_dropout});

static status ref_dropout_backward(op_call *c) {
  const dropout_backward_attr *at = c->attr;
  return drop(c->in[0], c->in[1], c->out[0], at->p), DLV3_OK;
}
IMPLS(dropout_backward, {"ref", ref_dropout_backward});

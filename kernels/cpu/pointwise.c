/* pointwise.c - elementwise ops: activations, arithmetic, comparisons, fills, casts. Random numbers
 * are in random.c.
 *
 * One engine: runs of elements come as arrays of the computing type, a kernel computes a run, the
 * engine stores it. The type is f32 for f16, bf16, f32 and u8; f64 for f64 and integers; i64 where
 * all are integers and the op has a kernel for it, so that they are exact (and wrap where a result
 * does not fit, as PyTorch's do). Operands that already are contiguous and of the computing type
 * are used where they lie. Any strides and broadcasting; outputs are dense. */
#include "cpu/support/elements.h"

/* -- The engine -------------------------------------------------------------------------------- */

typedef void (*run_f32)(float *y, const float *a, const float *b, const float *c, int64_t n, const void *attr);
typedef void (*run_f64)(double *y, const double *a, const double *b, const double *c, int64_t n, const void *attr);
typedef void (*run_i64)(int64_t *y, const int64_t *a, const int64_t *b, const int64_t *c, int64_t n, const void *attr);

typedef struct {
  run_f32 f32;
  run_f64 f64;
  run_i64 i64; /* or NULL: f64 does */
} kernels_of;

typedef struct {
  const elements *e;
  kernels_of k;
  const void *attr;
} map_job;

#define T float
#define F(name) name##_f32
#define SUFFIX f32
#define OWN DLV3_F32
#include "pointwise.inc"
#undef T
#undef F
#undef SUFFIX
#undef OWN
#define T double
#define F(name) name##_f64
#define SUFFIX f64
#define OWN DLV3_F64
#include "pointwise.inc"
#undef T
#undef F
#undef SUFFIX
#undef OWN
#define T int64_t
#define F(name) name##_i64
#define SUFFIX i64
#define OWN DLV3_I64
#include "pointwise.inc"
#undef T
#undef F
#undef SUFFIX
#undef OWN

/* y = f(a, b, c), in the type that holds all of them. */
static status map(tensor *y, tensor *a, tensor *b, tensor *c, kernels_of k, const void *attr) {
  tensor *t[MAX_OPERANDS] = {y, a, b, c};
  int32_t n = c ? 4 : b ? 3 : a ? 2 : 1;
  elements e = elements_of(t, n);
  bool wide = false, whole = k.i64;
  for (int32_t o = 0; o < n; o++) {
    whole &= !is_float(e.dtype[o]);
    wide |= e.dtype[o] == DLV3_F64 || e.dtype[o] == DLV3_I64 || e.dtype[o] == DLV3_I32;
  }
  map_job job = {&e, k, attr};
  elements_walk(&e, whole ? map_i64 : wide ? map_f64 : map_f32, &job);
  return DLV3_OK;
}

/* -- The reference ----------------------------------------------------------------------------- */

/* Position, in elements, of index (of y) in t, which is broadcast to y. */
static int64_t broadcast_offset(const tensor *t, const tensor *y, const int64_t *index) {
  int64_t offset = 0;
  for (int32_t axis = 0; axis < t->ndim; axis++)
    if (t->size[axis] != 1) offset += index[axis + y->ndim - t->ndim] * t->stride[axis];
  return offset;
}

/* map by plain loops: one element after the other, in f64, or in i64 where all are integers and the
 * op has a kernel for it. Only the op's expression is shared with the engine. */
static status ref_map(tensor *y, tensor *a, tensor *b, tensor *c, kernels_of k, const void *attr) {
  const tensor *t[MAX_OPERANDS] = {y, a, b, c};
  int32_t n = 0;
  bool whole = k.i64;
  while (n < MAX_OPERANDS && t[n]) whole &= !is_float(t[n++]->dtype);
  for (int64_t i = 0; i < numel(y); i++) {
    int64_t index[DLV3_MAX_DIMS], exact[MAX_OPERANDS] = {0}, left = i;
    double value[MAX_OPERANDS] = {0};
    char *p[MAX_OPERANDS] = {0};
    for (int32_t axis = y->ndim - 1; axis >= 0; axis--) index[axis] = left % y->size[axis], left /= y->size[axis];
    for (int32_t o = 0; o < n; o++) {
      p[o] = (char *)data_of(t[o]) + broadcast_offset(t[o], y, index) * dtype_bytes(t[o]->dtype);
      if (whole)
        load_i64(&exact[o], p[o], t[o]->dtype, 1);
      else
        load_f64(&value[o], p[o], t[o]->dtype, 1);
    }
    if (whole) {
      k.i64(&exact[0], &exact[1], &exact[2], &exact[3], 1, attr);
      store_i64(p[0], y->dtype, &exact[0], 1);
    } else {
      k.f64(&value[0], &value[1], &value[2], &value[3], 1, attr);
      store_f64(p[0], y->dtype, &value[0], 1);
    }
  }
  return DLV3_OK;
}

/* -- Ops from expressions ---------------------------------------------------------------------- */

/* The kernels of an op from one expression in a, b, c of type T; y may be a's array itself. */
#define KERNEL(op, type, suffix, expression) \
  CLONES static void op##_##suffix(type *y, const type *pa, const type *pb, const type *pc, int64_t n, \
                                   const void *attr) { \
    typedef type T; \
    (void)pa, (void)pb, (void)pc, (void)attr; \
    INDEPENDENT \
    for (int64_t i = 0; i < n; i++) y[i] = (T)(expression); \
  }
#define FLOATS(op, expression) KERNEL(op, float, f32, expression) KERNEL(op, double, f64, expression)
#define NUMBERS(op, expression, whole) FLOATS(op, expression) KERNEL(op, int64_t, i64, whole)
#define a pa[i]
#define b pb[i]
#define c pc[i]

#define OF_FLOATS(op) ((kernels_of){op##_f32, op##_f64, NULL})
#define OF_NUMBERS(op) ((kernels_of){op##_f32, op##_f64, op##_i64})
#define RUNS(op, y, x, z, of) \
  static status vec_##op(op_call *call) { return map(call->y, call->in[0], x, z, of, call->attr); } \
  static status ref_##op(op_call *call) { return ref_map(call->y, call->in[0], x, z, of, call->attr); } \
  IMPLS(op, {"vec", vec_##op}, {"ref", ref_##op});

#define UNARY(op, expression) FLOATS(op, expression) RUNS(op, out[0], NULL, NULL, OF_FLOATS(op))
#define BINARY(op, expression) FLOATS(op, expression) RUNS(op, out[0], call->in[1], NULL, OF_FLOATS(op))
/* whole: the expression in i64 */
#define UNARY_WHOLE(op, expression, whole) NUMBERS(op, expression, whole) RUNS(op, out[0], NULL, NULL, OF_NUMBERS(op))
#define BINARY_WHOLE(op, expression, whole) \
  NUMBERS(op, expression, whole) RUNS(op, out[0], call->in[1], NULL, OF_NUMBERS(op))
/* x = f(x, y) */
#define IN_PLACE(op, expression, whole) \
  NUMBERS(op, expression, whole) RUNS(op, in[0], call->in[1], NULL, OF_NUMBERS(op))

/* -- Activations; nan stays nan ---------------------------------------------------------------- */

/* e to the x to about 1 unit in the last place, subnormals, infinities and nan included; loops over
 * it vectorise. */
INLINE float exponential(float x) {
  const float rounder = 12582912.0f; /* 1.5 2^23: adding it rounds to a whole number, kept in the low bits */
  x = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x;
  float shifted = x * 1.44269504f + rounder, n = shifted - rounder;
  float r = (x - n * 0.693359375f) - n * -2.12194440e-4f; /* ln 2 in two parts */
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1;
  uint32_t bits, first, second; /* 2^n in two factors: one alone has no room for -150 or 128 */
  memcpy(&bits, &shifted, 4);
  int32_t whole = (int32_t)(bits - 0x4B400000u);
  first = (uint32_t)(whole / 2 + 127) << 23, second = (uint32_t)(whole - whole / 2 + 127) << 23;
  float f, g;
  memcpy(&f, &first, 4), memcpy(&g, &second, 4);
  return p * f * g;
}

#define LIMIT6(v) ((v) < 0 ? 0 : (v) > 6 ? 6 : (v))

UNARY(relu, a < 0 ? 0 : a)
BINARY(relu_backward, b > 0 ? a : 0)
UNARY(relu6, LIMIT6(a))
BINARY(relu6_backward, b > 0 && b < 6 ? a : 0)
UNARY(hardswish, a *LIMIT6(a + 3) / 6)
BINARY(hardswish_backward, b <= -3 ? 0 : b >= 3 ? a : a * (2 * b + 3) / 6)
UNARY(hardsigmoid, LIMIT6(a + 3) / 6)
/* PyTorch multiplies by 1/6 rounded to f32 in every dtype; trained models and f64 comparisons see
 * the same numbers. */
BINARY(hardsigmoid_backward, b > -3 && b < 3 ? a * (T)(1.0f / 6.0f) : 0)
UNARY(sigmoid, 1 / (1 + (sizeof(T) == 4 ? (T)exponential(-(float)a) : (T)exp(-(double)a))))
BINARY(sigmoid_backward, a *b *(1 - b))
UNARY(tanh, sizeof(T) == 4 ? (T)tanhf((float)a) : (T)tanh((double)a))
BINARY(tanh_backward, a *(1 - b * b))

/* -- Arithmetic -------------------------------------------------------------------------------- */

/* Integers wrap. */
INLINE int64_t add_whole(int64_t x, int64_t z) { return (int64_t)((uint64_t)x + (uint64_t)z); }
INLINE int64_t sub_whole(int64_t x, int64_t z) { return (int64_t)((uint64_t)x - (uint64_t)z); }
INLINE int64_t mul_whole(int64_t x, int64_t z) { return (int64_t)((uint64_t)x * (uint64_t)z); }
INLINE int64_t div_whole(int64_t x, int64_t z) { /* towards zero; by 0: the end on x's side */
  if (z == 0) return x > 0 ? INT64_MAX : x < 0 ? INT64_MIN : 0;
  return z == -1 ? sub_whole(0, x) : x / z;
}

#define BY_TYPE(fn) (sizeof(T) == 4 ? (T)fn##f((float)a) : (T)fn((double)a))

UNARY_WHOLE(neg, -a, sub_whole(0, a))
UNARY_WHOLE(abs, a < 0 ? -a : a == 0 ? 0 : a, a < 0 ? sub_whole(0, a) : a)
UNARY_WHOLE(sign, a > 0 ? 1 : a < 0 ? -1 : a, (a > 0) - (a < 0))
UNARY(exp, sizeof(T) == 4 ? (T)exponential((float)a) : (T)exp((double)a))
UNARY(log, BY_TYPE(log))
UNARY(sqrt, BY_TYPE(sqrt))
UNARY_WHOLE(square, a *a, mul_whole(a, a))
UNARY(sin, BY_TYPE(sin))
UNARY(cos, BY_TYPE(cos))
UNARY_WHOLE(floor, BY_TYPE(floor), a)
UNARY_WHOLE(ceil, BY_TYPE(ceil), a)
UNARY_WHOLE(round, BY_TYPE(rint), a)
UNARY(isfinite, a - a == 0)
UNARY_WHOLE(logical_not, a == 0, a == 0)
#define LOW (((const clamp_attr *)attr)->min)
#define HIGH (((const clamp_attr *)attr)->max)
UNARY_WHOLE(clamp, a<(T)LOW ? (T)LOW : a>(T) HIGH ? (T)HIGH : a,
            (double)a<LOW ? saturate(LOW, -0x1p63, 0x1p63) : (double)a> HIGH ? saturate(HIGH, -0x1p63, 0x1p63) : a)

BINARY_WHOLE(add, a + b, add_whole(a, b))
BINARY_WHOLE(sub, a - b, sub_whole(a, b))
BINARY_WHOLE(mul, a *b, mul_whole(a, b))
BINARY(div, a / b)
BINARY(pow, sizeof(T) == 4 ? (T)powf((float)a, (float)b) : (T)pow((double)a, (double)b))
BINARY_WHOLE(maximum, a != a || a > b ? a : b, a > b ? a : b)
BINARY_WHOLE(minimum, a != a || a < b ? a : b, a < b ? a : b)
BINARY_WHOLE(eq, a == b, a == b)
BINARY_WHOLE(ne, a != b, a != b)
BINARY_WHOLE(lt, a < b, a < b)
BINARY_WHOLE(le, a <= b, a <= b)
BINARY_WHOLE(gt, a > b, a > b)
BINARY_WHOLE(ge, a >= b, a >= b)
BINARY_WHOLE(logical_and, a != 0 && b != 0, a != 0 && b != 0)
BINARY_WHOLE(logical_or, a != 0 || b != 0, a != 0 || b != 0)
IN_PLACE(add_, a + b, add_whole(a, b))
IN_PLACE(sub_, a - b, sub_whole(a, b))
IN_PLACE(mul_, a *b, mul_whole(a, b))
IN_PLACE(div_, a / b, div_whole(a, b))

NUMBERS(where, a != 0 ? b : c, a != 0 ? b : c)
RUNS(where, out[0], call->in[1], call->in[2], OF_NUMBERS(where))
NUMBERS(cast, a, a)

#undef a
#undef b
#undef c

/* -- Fills and copies -------------------------------------------------------------------------- */

FLOATS(fill_, ((const fill__attr *)attr)->value)
static status vec_fill_(op_call *c) {
  const fill__attr *a = c->attr;
  tensor *x = c->in[0];
  if (a->value == 0 && is_dense(x)) { /* all bits zero in every dtype */
    memset(data_of(x), 0, (size_t)tensor_bytes(x));
    return DLV3_OK;
  }
  return map(x, NULL, NULL, NULL, OF_FLOATS(fill_), a);
}
static status ref_fill_(op_call *c) { return ref_map(c->in[0], NULL, NULL, NULL, OF_FLOATS(fill_), c->attr); }
IMPLS(fill_, {"vec", vec_fill_}, {"ref", ref_fill_});

static status vec_copy_(op_call *c) { return elements_copy(c->in[0], c->in[1]), DLV3_OK; }
static status ref_copy_(op_call *c) { return ref_map(c->in[0], c->in[1], NULL, NULL, OF_NUMBERS(cast), NULL); }
IMPLS(copy_, {"vec", vec_copy_}, {"ref", ref_copy_});

static status vec_cast(op_call *c) { return elements_copy(c->out[0], c->in[0]), DLV3_OK; }
static status ref_cast(op_call *c) { return ref_map(c->out[0], c->in[0], NULL, NULL, OF_NUMBERS(cast), NULL); }
IMPLS(cast, {"vec", vec_cast}, {"ref", ref_cast});

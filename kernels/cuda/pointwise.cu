/* pointwise.cu - elementwise ops: activations, arithmetic, comparisons, fills, casts, copies.
 *
 * One table says what each op computes (apply, apply_whole), three kernels run it: map_packs where
 * all operands are of one float type and lie so that 16 bytes can be read at once, cast_packs for
 * rounding one dense row of such a type to another, map_any for everything else. map_packs is
 * compiled for copies, sums and products, which a training step is full of; for the other ops it
 * looks up for each element which one it is, so that one kernel instead of fifty is compiled. The
 * computing type is f32 for f16, bf16 and f32; f64 for f64, and for integers beside floats; i64
 * where all are integers, so that they are exact (and wrap where a result does not fit, as
 * PyTorch's do). */
#include "cuda/support/elements.h"

/* -- What the ops compute ---------------------------------------------------------------------- */

enum { COPY = OP_COUNT }; /* y = a */

typedef struct {
  double a, b;
} numbers; /* of clamp: min, max; of fill_: value */

template <class C> BOTH C limit6(C v) { return v < 0 ? (C)0 : v > 6 ? (C)6 : v; }

template <class C> BOTH C apply(int32_t op, C a, C b, C c, numbers n) {
  switch (op) {
  case COPY: return a;
  case OP_relu: return a < 0 ? (C)0 : a;
  case OP_relu_backward: return b > 0 ? a : (C)0;
  case OP_relu6: return limit6(a);
  case OP_relu6_backward: return b > 0 && b < 6 ? a : (C)0;
  case OP_hardswish: return a * limit6(a + 3) / 6;
  case OP_hardswish_backward: return b <= -3 ? (C)0 : b >= 3 ? a : a * (2 * b + 3) / 6;
  case OP_hardsigmoid: return limit6(a + 3) / 6;
  case OP_hardsigmoid_backward: return b > -3 && b < 3 ? a * (C)(1.0f / 6.0f) : (C)0; /* as PyTorch: 1/6 in f32 */
  case OP_sigmoid: return 1 / (1 + exp(-a));
  case OP_sigmoid_backward: return a * b * (1 - b);
  case OP_tanh: return tanh(a);
  case OP_tanh_backward: return a * (1 - b * b);
  case OP_neg: return -a;
  case OP_abs: return a < 0 ? -a : a == 0 ? (C)0 : a;
  case OP_sign: return a > 0 ? (C)1 : a < 0 ? (C)-1 : a;
  case OP_exp: return exp(a);
  case OP_log: return log(a);
  case OP_sqrt: return sqrt(a);
  case OP_square: return a * a;
  case OP_sin: return sin(a);
  case OP_cos: return cos(a);
  case OP_floor: return floor(a);
  case OP_ceil: return ceil(a);
  case OP_round: return rint(a);
  case OP_isfinite: return a - a == 0;
  case OP_logical_not: return a == 0;
  case OP_clamp: return a < (C)n.a ? (C)n.a : a > (C)n.b ? (C)n.b : a;
  case OP_add:
  case OP_add_: return a + b;
  case OP_sub:
  case OP_sub_: return a - b;
  case OP_mul:
  case OP_mul_: return a * b;
  case OP_div:
  case OP_div_: return a / b;
  case OP_pow: return pow(a, b);
  case OP_maximum: return a != a || a > b ? a : b;
  case OP_minimum: return a != a || a < b ? a : b;
  case OP_eq: return a == b;
  case OP_ne: return a != b;
  case OP_lt: return a < b;
  case OP_le: return a <= b;
  case OP_gt: return a > b;
  case OP_ge: return a >= b;
  case OP_logical_and: return a != 0 && b != 0;
  case OP_logical_or: return a != 0 || b != 0;
  case OP_where: return a != 0 ? b : c;
  default: return (C)n.a; /* fill_ */
  }
}

/* Integers wrap. */
BOTH int64_t add_whole(int64_t x, int64_t z) { return (int64_t)((uint64_t)x + (uint64_t)z); }
BOTH int64_t sub_whole(int64_t x, int64_t z) { return (int64_t)((uint64_t)x - (uint64_t)z); }
BOTH int64_t mul_whole(int64_t x, int64_t z) { return (int64_t)((uint64_t)x * (uint64_t)z); }
BOTH int64_t div_whole(int64_t x, int64_t z) { /* towards zero; by 0: the end on x's side */
  if (z == 0) return x > 0 ? INT64_MAX : x < 0 ? INT64_MIN : 0;
  return z == -1 ? sub_whole(0, x) : x / z;
}

BOTH bool has_whole(int32_t op) {
  switch (op) {
  case OP_neg:
  case OP_abs:
  case OP_sign:
  case OP_square:
  case OP_floor:
  case OP_ceil:
  case OP_round:
  case OP_logical_not:
  case OP_clamp:
  case OP_add:
  case OP_sub:
  case OP_mul:
  case OP_maximum:
  case OP_minimum:
  case OP_eq:
  case OP_ne:
  case OP_lt:
  case OP_le:
  case OP_gt:
  case OP_ge:
  case OP_logical_and:
  case OP_logical_or:
  case OP_add_:
  case OP_sub_:
  case OP_mul_:
  case OP_div_:
  case OP_where:
  case COPY: return true;
  default: return false;
  }
}

BOTH int64_t apply_whole(int32_t op, int64_t a, int64_t b, int64_t c, numbers n) {
  switch (op) {
  case OP_neg: return sub_whole(0, a);
  case OP_abs: return a < 0 ? sub_whole(0, a) : a;
  case OP_sign: return (a > 0) - (a < 0);
  case OP_square: return mul_whole(a, a);
  case OP_logical_not: return a == 0;
  case OP_clamp:
    return (double)a < n.a ? saturate(n.a, -0x1p63, 0x1p63) : (double)a > n.b ? saturate(n.b, -0x1p63, 0x1p63) : a;
  case OP_add:
  case OP_add_: return add_whole(a, b);
  case OP_sub:
  case OP_sub_: return sub_whole(a, b);
  case OP_mul:
  case OP_mul_: return mul_whole(a, b);
  case OP_div_: return div_whole(a, b);
  case OP_maximum: return a > b ? a : b;
  case OP_minimum: return a < b ? a : b;
  case OP_eq: return a == b;
  case OP_ne: return a != b;
  case OP_lt: return a < b;
  case OP_le: return a <= b;
  case OP_gt: return a > b;
  case OP_ge: return a >= b;
  case OP_logical_and: return a != 0 && b != 0;
  case OP_logical_or: return a != 0 || b != 0;
  case OP_where: return a != 0 ? b : c;
  default: return a; /* floor, ceil, round, copy */
  }
}
BOTH float evaluate(int32_t op, float a, float b, float c, numbers n) { return apply<float>(op, a, b, c, n); }
BOTH double evaluate(int32_t op, double a, double b, double c, numbers n) { return apply<double>(op, a, b, c, n); }
BOTH int64_t evaluate(int32_t op, int64_t a, int64_t b, int64_t c, numbers n) { return apply_whole(op, a, b, c, n); }

/* -- The kernels ------------------------------------------------------------------------------- */

/* Operand 0 is the result, 1 to 3 are a, b, c. */
template <class C, class I> static __global__ void map_any(elements e, int32_t op, numbers n) {
  FOR_ITEMS(i, e.total) {
    int64_t at[MAX_OPERANDS];
    C v[MAX_OPERANDS] = {0, 0, 0, 0};
    offsets_at<I>(e, (I)i, 1, at);
    for (int32_t o = 1; o < e.n_op; o++) v[o] = load_as<C>(e.data[o], e.dtype[o], at[o]);
    store_as<C>(e.data[0], e.dtype[0], at[0], evaluate(op, v[1], v[2], v[3], n));
  }
}

enum { ANY_OP = -1 }; /* the op is known when the kernel runs */

/* Packs of V elements along axis 0. An operand that is the same along it is read once for the pack. */
template <class T, int V, int32_t OP> static __global__ void map_packs(elements e, int32_t op, numbers n) {
  typedef typename computing<T>::type C;
  const int32_t n_op = OP == ANY_OP ? e.n_op : OP == COPY ? 2 : 3;
  FOR_ITEMS(i, e.total / V) {
    int64_t at[MAX_OPERANDS];
    C v[MAX_OPERANDS][V];
    offsets_at<uint32_t>(e, (uint32_t)i, V, at);
    UNROLL
    for (int32_t o = 1; o < MAX_OPERANDS; o++) {
      if (o >= n_op) {
        for (int k = 0; k < V; k++) v[o][k] = 0;
      } else if (e.stride[o][0]) {
        const pack<T, V> p = pack_at<V>((const T *)e.data[o] + at[o]);
        UNROLL
        for (int k = 0; k < V; k++) v[o][k] = wide(p.v[k]);
      } else {
        const C one = wide(((const T *)e.data[o])[at[o]]);
        UNROLL
        for (int k = 0; k < V; k++) v[o][k] = one;
      }
    }
    pack<T, V> y;
    UNROLL
    for (int k = 0; k < V; k++) y.v[k] = narrow<T>(evaluate(OP == ANY_OP ? op : OP, v[1][k], v[2][k], v[3][k], n));
    pack_at<V>((T *)e.data[0] + at[0]) = y;
  }
}

/* y = x, V elements at a time: both dense, of different float types. */
template <class T, class S, int V> static __global__ void cast_packs(T *y, const S *x, int64_t packs) {
  FOR_ITEMS(i, packs) {
    const pack<S, V> from = pack_at<V>(x + i * V);
    pack<T, V> to;
    UNROLL
    for (int k = 0; k < V; k++) to.v[k] = narrow<T>(wide(from.v[k]));
    pack_at<V>(y + i * V) = to;
  }
}

/* -- Launchers --------------------------------------------------------------------------------- */

static void sort_axes(elements *e) {
  for (int32_t i = 1; i < e->ndim; i++)
    for (int32_t k = i; k > 0 && e->stride[0][k] < e->stride[0][k - 1]; k--) {
      int64_t s = e->size[k];
      e->size[k] = e->size[k - 1], e->size[k - 1] = s;
      for (int32_t o = 0; o < e->n_op; o++)
        s = e->stride[o][k], e->stride[o][k] = e->stride[o][k - 1], e->stride[o][k - 1] = s;
    }
}

static void merge_axes(elements *e) {
  int32_t last = 0;
  for (int32_t i = 1; i < e->ndim; i++) {
    bool joined = true;
    for (int32_t o = 0; o < e->n_op; o++) joined &= e->stride[o][i] == e->stride[o][last] * e->size[last];
    if (joined)
      e->size[last] *= e->size[i];
    else {
      e->size[++last] = e->size[i];
      for (int32_t o = 0; o < e->n_op; o++) e->stride[o][last] = e->stride[o][i];
    }
  }
  e->ndim = last + 1;
}

elements elements_of(tensor *const *t, int32_t n) {
  elements e;
  memset(&e, 0, sizeof e);
  e.n_op = n, e.total = numel(t[0]);
  for (int32_t o = 0; o < n; o++) e.data[o] = (char *)data_of(t[o]), e.dtype[o] = t[o]->dtype;
  for (int32_t i = 0; i < t[0]->ndim; i++) {
    if (t[0]->size[i] == 1) continue;
    e.size[e.ndim] = t[0]->size[i];
    for (int32_t o = 0; o < n; o++) {
      const int32_t axis = i - (t[0]->ndim - t[o]->ndim);
      e.stride[o][e.ndim] = axis < 0 || t[o]->size[axis] == 1 ? 0 : t[o]->stride[axis];
    }
    e.ndim++;
  }
  if (!e.ndim) e.size[0] = 1, e.ndim = 1;
  sort_axes(&e);
  merge_axes(&e);
  return e;
}

/* Whether packs of 16 bytes, v elements, can be moved: one float type, axis 0 a multiple of v,
 * everything on a boundary, and no more packs than 32 bits count. */
static bool packable(const elements *e, int64_t v) {
  if (e->dtype[0] < DLV3_F16 || e->size[0] % v || e->total / v > UINT32_MAX) return false;
  for (int32_t o = 0; o < e->n_op; o++) {
    const bool constant = o && !e->stride[o][0];
    if (e->dtype[o] != e->dtype[0] || (e->stride[o][0] != 1 && !constant)) return false;
    if (!constant && !aligned(e->data[o])) return false;
    for (int32_t k = 1; k < e->ndim; k++)
      if (!constant && e->stride[o][k] % v) return false;
  }
  return true;
}

template <class T, int V>
static void launch_packs(const elements *e, int32_t op, numbers n, unsigned grid, cudaStream_t stream) {
  switch (op) {
  case COPY: LAUNCH((map_packs<T, V, COPY>), grid, BLOCK, stream, *e, op, n); break;
  case OP_add:
  case OP_add_: LAUNCH((map_packs<T, V, OP_add>), grid, BLOCK, stream, *e, op, n); break;
  case OP_mul:
  case OP_mul_: LAUNCH((map_packs<T, V, OP_mul>), grid, BLOCK, stream, *e, op, n); break;
  default: LAUNCH((map_packs<T, V, ANY_OP>), grid, BLOCK, stream, *e, op, n); break;
  }
}

enum { CAST = 4 }; /* elements of a pack that changes type: at most 16 bytes on its wider side */

/* Whether a copy is one dense row of f32 that becomes bf16 or f16, or the other way round. */
static bool castable(const elements *e, int32_t op) {
  const int32_t to = e->dtype[0], from = e->dtype[1], half = to == DLV3_F32 ? from : to;
  if (op != COPY || (to == DLV3_F32) == (from == DLV3_F32) || (half != DLV3_BF16 && half != DLV3_F16)) return false;
  if (e->ndim > 1 || e->stride[0][0] != 1 || e->stride[1][0] != 1 || e->total % CAST) return false;
  return (uintptr_t)e->data[0] % (uintptr_t)(CAST * dtype_bytes(to)) == 0
         && (uintptr_t)e->data[1] % (uintptr_t)(CAST * dtype_bytes(from)) == 0;
}

template <class T, class S> static void launch_cast(const elements *e, cudaStream_t stream) {
  const int64_t packs = e->total / CAST;
  LAUNCH((cast_packs<T, S, CAST>), blocks_for(packs), BLOCK, stream, (T *)e->data[0], (const S *)e->data[1], packs);
}

static status map(const op_call *c, int32_t op, tensor *y, tensor *a, tensor *b, tensor *x, numbers n) {
  tensor *t[MAX_OPERANDS] = {y, a, b, x};
  const elements e = elements_of(t, x ? 4 : b ? 3 : a ? 2 : 1);
  const cudaStream_t stream = stream_of(c);
  bool as_f64 = false, whole = has_whole(op);
  if (!e.total) return DLV3_OK;
  for (int32_t o = 0; o < e.n_op; o++) {
    whole &= !is_float(e.dtype[o]);
    as_f64 |= e.dtype[o] == DLV3_F64 || e.dtype[o] == DLV3_I64 || e.dtype[o] == DLV3_I32;
  }
  const int64_t width = dtype_bytes(e.dtype[0]);
  if (packable(&e, 16 / width)) {
    const unsigned grid = blocks_for(e.total * width / 16);
    switch (e.dtype[0]) {
    case DLV3_F64: launch_packs<double, 2>(&e, op, n, grid, stream); break;
    case DLV3_F32: launch_packs<float, 4>(&e, op, n, grid, stream); break;
    case DLV3_BF16: launch_packs<bf16, 8>(&e, op, n, grid, stream); break;
    default: launch_packs<f16, 8>(&e, op, n, grid, stream); break;
    }
    return LAUNCHED(c);
  }
  if (castable(&e, op)) {
    if (e.dtype[0] == DLV3_BF16)
      launch_cast<bf16, float>(&e, stream);
    else if (e.dtype[0] == DLV3_F16)
      launch_cast<f16, float>(&e, stream);
    else if (e.dtype[1] == DLV3_BF16)
      launch_cast<float, bf16>(&e, stream);
    else
      launch_cast<float, f16>(&e, stream);
    return LAUNCHED(c);
  }
  const bool small = e.total < (int64_t)1 << 31;
  const unsigned grid = blocks_for(e.total);
  if (whole)
    LAUNCH((map_any<int64_t, uint64_t>), grid, BLOCK, stream, e, op, n);
  else if (as_f64)
    LAUNCH((map_any<double, uint64_t>), grid, BLOCK, stream, e, op, n);
  else if (small)
    LAUNCH((map_any<float, uint32_t>), grid, BLOCK, stream, e, op, n);
  else
    LAUNCH((map_any<float, uint64_t>), grid, BLOCK, stream, e, op, n);
  return LAUNCHED(c);
}

status elements_copy(const op_call *c, tensor *dst, tensor *src) { return map(c, COPY, dst, src, NULL, NULL, {0, 0}); }

status elements_fill(const op_call *c, tensor *t, double value) {
  if (value == 0 && is_dense(t)) { /* all bits zero in every dtype */
    const cudaStream_t stream = stream_of(c);
    if (numel(t) && cudaMemsetAsync(data_of(t), 0, (size_t)tensor_bytes(t), stream) != cudaSuccess)
      return LAUNCHED(c);
    return DLV3_OK;
  }
  return map(c, OP_fill_, t, NULL, NULL, NULL, {value, 0});
}

#define UNARY(op) \
  static status cuda_##op(op_call *c) { return map(c, OP_##op, c->out[0], c->in[0], NULL, NULL, {0, 0}); } \
  OWN(op);
#define BINARY(op) \
  static status cuda_##op(op_call *c) { return map(c, OP_##op, c->out[0], c->in[0], c->in[1], NULL, {0, 0}); } \
  OWN(op);
#define IN_PLACE(op) \
  static status cuda_##op(op_call *c) { return map(c, OP_##op, c->in[0], c->in[0], c->in[1], NULL, {0, 0}); } \
  OWN(op);

UNARY(relu)
BINARY(relu_backward) UNARY(relu6) BINARY(relu6_backward) UNARY(hardswish) BINARY(hardswish_backward) UNARY(hardsigmoid)
    BINARY(hardsigmoid_backward) UNARY(sigmoid) BINARY(sigmoid_backward) UNARY(tanh) BINARY(tanh_backward) UNARY(neg)
        UNARY(abs) UNARY(sign) UNARY(exp) UNARY(log) UNARY(sqrt) UNARY(square) UNARY(sin) UNARY(cos) UNARY(floor)
            UNARY(ceil) UNARY(round) UNARY(isfinite) UNARY(logical_not) BINARY(add) BINARY(sub) BINARY(mul) BINARY(div)
                BINARY(pow) BINARY(maximum) BINARY(minimum) BINARY(eq) BINARY(ne) BINARY(lt) BINARY(le) BINARY(gt)
                    BINARY(ge) BINARY(logical_and) BINARY(logical_or) IN_PLACE(add_) IN_PLACE(sub_) IN_PLACE(mul_)
                        IN_PLACE(div_)

                            static status cuda_clamp(op_call *c) {
  const clamp_attr *a = (const clamp_attr *)c->attr;
  return map(c, OP_clamp, c->out[0], c->in[0], NULL, NULL, {a->min, a->max});
}
OWN(clamp);
static status cuda_where(op_call *c) { return map(c, OP_where, c->out[0], c->in[0], c->in[1], c->in[2], {0, 0}); }
OWN(where);
static status cuda_fill_(op_call *c) { return elements_fill(c, c->in[0], ((const fill__attr *)c->attr)->value); }
OWN(fill_);
static status cuda_copy_(op_call *c) { return elements_copy(c, c->in[0], c->in[1]); }
OWN(copy_);
static status cuda_cast(op_call *c) { return elements_copy(c, c->out[0], c->in[0]); }
OWN(cast);

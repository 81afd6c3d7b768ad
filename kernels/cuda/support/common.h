/* common.h - what the CUDA kernels share: the runtime, launches, element types, scratch memory,
 * faults.
 *
 * The .cu files are C++ of a plain kind: templates over element types, no classes with behaviour,
 * no exceptions. They also compile for the host, where tests/cuda_host/ stands in for
 * cuda_runtime.h and runs the blocks one after the other; the few lines where the two differ are in
 * this header. Kernels are deterministic: no sum depends on the order in which blocks run. Memory
 * is channels-last. */
#ifndef DLV3_CUDA_COMMON_H
#define DLV3_CUDA_COMMON_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <cuda_runtime.h>

extern "C" {
#include "core/backend.h"
}

/* -- Launches ---------------------------------------------------------------------------------- */

#ifdef __CUDACC__
#define LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)
#define UNROLL _Pragma("unroll")
#define UNROLL_4 _Pragma("unroll 4")
#else
#define LAUNCH(kernel, grid, block, stream, ...) cuda_host_launch(grid, block, stream, kernel, __VA_ARGS__)
#define UNROLL
#define UNROLL_4
#endif
/* A library that is opened on first use, and a function of it; on the host it is linked in. Ask for
 * <dlfcn.h>. */
#ifdef __CUDACC__
#define LIBRARY(file) dlopen(file, RTLD_NOW | RTLD_LOCAL)
#define FUNCTION_OF(library, name) ((decltype(&name))dlsym(library, #name))
#else
#define LIBRARY(file) dlopen(NULL, RTLD_NOW)
#define FUNCTION_OF(library, name) (&name)
#endif
/* Where hardware wants an address to be a multiple of so many bytes. */
#ifdef __CUDACC__
#define BOUNDARY(p, bytes) ((void)0)
#else
#define BOUNDARY(p, bytes) cuda_host_boundary(p, bytes)
#endif
#define DEVICE __device__ __forceinline__
#define BOTH __host__ __device__ __forceinline__
/* A launcher ends with it: what the launch itself did wrong. A template's name in brackets keeps
 * its commas together. */
#define LAUNCHED(c) launched(c)
status launched(const op_call *c);
/* Returns from a function with the error of a call of CUDA's runtime; what was to be done begins the message. */
status cuda_failed(cudaError_t e, const char *what);
#define CHECK(call, what) \
  do { \
    cudaError_t check_error_ = (call); \
    if (check_error_ != cudaSuccess) return cuda_failed(check_error_, what); \
  } while (0)

enum { BLOCK = 256, MOST_DEVICES = 17 /* numbered from 1 */ };
BOTH int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
BOTH int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
/* Blocks for n items, one a thread; kernels step by the grid where there are more. */
static inline unsigned blocks_for(int64_t n) { return (unsigned)least(ceil_div(n, BLOCK), 1 << 20); }
#define FOR_ITEMS(i, n) \
  for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (int64_t)gridDim.x * blockDim.x)

/* The stream that all work of a device goes to, one after the other; makes the device the current
 * one. */
cudaStream_t stream_of(const op_call *c);
cudaStream_t stream_on(int32_t device); /* NULL: the device can not be used, and fail() has said why */
/* Scratch memory of a call, given back with drop() after the launches: what reuses it runs after
 * them on the stream. */
status scratch_new(storage **out, const op_call *c, int64_t bytes);
static inline tensor *device_tensor(const op_call *c) {
  for (int32_t i = 0; i < c->n_in; i++)
    if (c->in[i]) return c->in[i];
  return NULL;
}

/* -- Faults: what a kernel finds wrong with the values it was given ---------------------------- */

/* Kernels leave it in memory that the host can read; the next call on the device, or a wait, turns
 * it into an error. The first one stays until then. */
enum { FAULT_NONE, FAULT_LABEL, FAULT_INDEX, FAULT_CLASS };
typedef struct {
  int32_t kind, op;
  int64_t value, n, y, x, limit,
      other; /* label: where (from 1), classes, ignore_index; index: limit; class: element x, limit */
} fault;
typedef struct {
  fault *shared;  /* the host's                                              */
  int32_t *taken; /* the device's: who sets it may write                     */
} fault_slot;
fault_slot faults_of(const op_call *c);
DEVICE void raise_fault(fault_slot to, fault f) {
  if (atomicExch(to.taken, 1)) return;
  const int32_t kind = f.kind;
  f.kind = FAULT_NONE;
  *to.shared = f;
  __threadfence_system();
  to.shared->kind = kind;
}
DEVICE void raise_index(fault_slot to, int32_t op, int64_t value, int64_t limit) {
  raise_fault(to, fault{FAULT_INDEX, op, value, 0, 0, 0, limit, 0});
}

/* -- Element types ----------------------------------------------------------------------------- */

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

BOTH float as_float(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
BOTH uint32_t as_bits(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return bits;
}

/* On the device conversions are hardware's own; the bits are the same but for the payload of a nan. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "the kernels are for GPUs from sm_80 on: CUDA_ARCHS names an older one"
#endif

BOTH float wide(float v) { return v; }
BOTH double wide(double v) { return v; }
BOTH float wide(bf16 v) { return as_float((uint32_t)v.bits << 16); }
BOTH float wide(f16 v) {
#ifdef __CUDA_ARCH__
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
  return f;
#else
  uint32_t h = v.bits, sign = (h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3ff;
  if (exponent == 31) return as_float(sign | 0x7f800000 | fraction << 13);
  if (exponent) return as_float(sign | (exponent + 112) << 23 | fraction << 13);
  float f = (float)fraction * 0x1p-24f;
  return sign ? -f : f;
#endif
}

/* Rounds to nearest even; nan stays a quiet nan, overflow gives infinity. */
template <class T> BOTH T narrow(double v);
template <> BOTH float narrow<float>(double v) { return (float)v; }
template <> BOTH double narrow<double>(double v) { return v; }
template <class T> BOTH T narrow(float v);
template <> BOTH float narrow<float>(float v) { return v; }
template <> BOTH double narrow<double>(float v) { return v; }
template <> BOTH bf16 narrow<bf16>(float f) {
#ifdef __CUDA_ARCH__
  bf16 v;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(v.bits) : "f"(f));
  return v;
#else
  uint32_t bits = as_bits(f), rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return bf16{(uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : rounded >> 16)};
#endif
}
template <> BOTH f16 narrow<f16>(float f) {
#ifdef __CUDA_ARCH__
  f16 v;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(v.bits) : "f"(f));
  return v;
#else
  uint32_t bits = as_bits(f), sign = bits >> 16 & 0x8000, a = bits & 0x7fffffff;
  if (a > 0x7f800000) return f16{(uint16_t)(sign | 0x7e00)};
  if (a >= 0x477ff000) return f16{(uint16_t)(sign | 0x7c00)};
  if (a < 0x38800000) return f16{(uint16_t)(sign | (as_bits(as_float(a) + 0.5f) - 0x3f000000))};
  return f16{(uint16_t)(sign | ((a + 0xfff + ((a >> 13) & 1) - 0x38000000) >> 13))};
#endif
}
template <> BOTH bf16 narrow<bf16>(double v) { return narrow<bf16>((float)v); }
template <> BOTH f16 narrow<f16>(double v) { return narrow<f16>((float)v); }

/* What a type is computed in. */
template <class T> struct computing { typedef float type; };
template <> struct computing<double> { typedef double type; };

/* V elements that are read and written at once, at an address that is a multiple of their size:
 * hardware ends the program for another one, and the host looks. */
template <class T, int V> struct alignas(sizeof(T) * V) pack { T v[V]; };
template <int V, class T> DEVICE pack<T, V> &pack_at(T *p) { return BOUNDARY(p, sizeof(pack<T, V>)), *(pack<T, V> *)p; }
template <int V, class T> DEVICE const pack<T, V> &pack_at(const T *p) {
  return BOUNDARY(p, sizeof(pack<T, V>)), *(const pack<T, V> *)p;
}
/* A pack of T from its elements in the computing type. */
template <class T, class C, int V> DEVICE pack<T, V> narrowed(const C (&from)[V]) {
  pack<T, V> to;
  UNROLL
  for (int i = 0; i < V; i++) to.v[i] = narrow<T>(from[i]);
  return to;
}
/* What packs and the libraries' kernels ask of every pointer. */
enum { ALIGNMENT = 16 };
static inline bool aligned(const void *p) { return (uintptr_t)p % ALIGNMENT == 0; }

/* a b, which the compiler does not join with a sum into one rounding: all who ask must get the
 * same. */
BOTH double product_alone(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

/* Towards zero, saturating; nan gives 0. low and high are whole. */
BOTH int64_t saturate(double v, double low, double high) {
  return v != v ? 0 : v <= low ? (int64_t)low : v >= high ? (high >= 0x1p63 ? INT64_MAX : (int64_t)high) : (int64_t)v;
}

/* Element i at p of any dtype, as C: float, double, or int64_t (integers only). */
template <class C> BOTH C load_as(const void *p, int32_t dtype, int64_t i) {
  switch (dtype) {
  case DLV3_F64: return (C)((const double *)p)[i];
  case DLV3_F32: return (C)((const float *)p)[i];
  case DLV3_BF16: return (C)wide(((const bf16 *)p)[i]);
  case DLV3_F16: return (C)wide(((const f16 *)p)[i]);
  case DLV3_I64: return (C)((const int64_t *)p)[i];
  case DLV3_I32: return (C)((const int32_t *)p)[i];
  default: return (C)((const uint8_t *)p)[i];
  }
}
template <class C> BOTH void store_as(void *p, int32_t dtype, int64_t i, C v) {
  switch (dtype) {
  case DLV3_F64: ((double *)p)[i] = (double)v; break;
  case DLV3_F32: ((float *)p)[i] = (float)v; break;
  case DLV3_BF16: ((bf16 *)p)[i] = narrow<bf16>((float)v); break;
  case DLV3_F16: ((f16 *)p)[i] = narrow<f16>((float)v); break;
  case DLV3_I64: ((int64_t *)p)[i] = saturate((double)v, -0x1p63, 0x1p63); break;
  case DLV3_I32: ((int32_t *)p)[i] = (int32_t)saturate((double)v, INT32_MIN, INT32_MAX); break;
  case DLV3_U8: ((uint8_t *)p)[i] = (uint8_t)saturate((double)v, 0, 255); break;
  default: ((uint8_t *)p)[i] = v != 0; break;
  }
}
template <> BOTH void store_as<int64_t>(void *p, int32_t dtype, int64_t i, int64_t v) {
  switch (dtype) {
  case DLV3_I64: ((int64_t *)p)[i] = v; break;
  case DLV3_I32: ((int32_t *)p)[i] = (int32_t)v; break;
  case DLV3_U8: ((uint8_t *)p)[i] = (uint8_t)v; break;
  default: ((uint8_t *)p)[i] = v != 0; break;
  }
}

/* Runs the statement with T an element type: BY_FLOAT(dtype, launch<T>(...)). */
#define BY_FLOAT(dtype, ...) \
  do { \
    switch (dtype) { \
    case DLV3_F64: { \
      typedef double T; \
      __VA_ARGS__; \
    } break; \
    case DLV3_F32: { \
      typedef float T; \
      __VA_ARGS__; \
    } break; \
    case DLV3_BF16: { \
      typedef bf16 T; \
      __VA_ARGS__; \
    } break; \
    default: { \
      typedef f16 T; \
      __VA_ARGS__; \
    } break; \
    } \
  } while (0)

/* A typed pointer to a dense tensor's elements; NULL for an absent one. */
template <class T> static inline T *data_as(const tensor *t) { return t ? (T *)data_of(t) : NULL; }

/* -- Activations ------------------------------------------------------------------------------- */

template <class C> BOTH C activate(int64_t act, C z) {
  const C six = z < -3 ? (C)0 : z > 3 ? (C)6 : z + 3; /* relu6(z + 3); a nan stays */
  switch (act) {
  case ACT_RELU: return z < 0 ? (C)0 : z;
  case ACT_RELU6: return z < 0 ? (C)0 : z > 6 ? (C)6 : z;
  case ACT_HARDSWISH: return z * six * ((C)1 / 6);
  case ACT_HARDSIGMOID: return six * ((C)1 / 6);
  default: return z;
  }
}
/* d act(z) / d z, from z or (from_y) the result y, which of hardswish does not say enough. */
template <class C> BOTH C slope(int64_t act, C v, bool from_y) {
  switch (act) {
  case ACT_RELU: return v > 0;
  case ACT_RELU6: return v > 0 && v < 6;
  case ACT_HARDSWISH: return v <= -3 ? (C)0 : v >= 3 ? (C)1 : (2 * v + 3) * ((C)1 / 6);
  case ACT_HARDSIGMOID: return v > (from_y ? 0 : -3) && v < (from_y ? 1 : 3) ? (C)1 / 6 : (C)0;
  default: return 1;
  }
}

/* Runs the statement with ACT the activation as a constant: where it is for several elements, they
 * share one look at which it is. */
#define BY_ACT(act, ...) \
  do { \
    switch (act) { \
    case ACT_RELU: { \
      enum { ACT = ACT_RELU }; \
      __VA_ARGS__; \
    } break; \
    case ACT_RELU6: { \
      enum { ACT = ACT_RELU6 }; \
      __VA_ARGS__; \
    } break; \
    case ACT_HARDSWISH: { \
      enum { ACT = ACT_HARDSWISH }; \
      __VA_ARGS__; \
    } break; \
    case ACT_HARDSIGMOID: { \
      enum { ACT = ACT_HARDSIGMOID }; \
      __VA_ARGS__; \
    } break; \
    default: { \
      enum { ACT = ACT_NONE }; \
      __VA_ARGS__; \
    } break; \
    } \
  } while (0)

/* -- Sums over a block ------------------------------------------------------------------------- */

/* The sum of v over the threads of a block of (x, y) that share threadIdx.x, for y = 0; a tree, so
 * that the order is fixed. buf: shared, one S a thread. All threads call it. */
template <class S> DEVICE S sum_over_y(S v, S *buf) {
  const unsigned at = threadIdx.y * blockDim.x + threadIdx.x;
  __syncthreads();
  buf[at] = v;
  for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y < half) buf[at] += buf[at + half * blockDim.x];
  }
  __syncthreads();
  return buf[threadIdx.x];
}

/* Of a block of BLOCK threads along x, for all of them. */
DEVICE double sum_over_block(double v, double *buf) {
  __syncthreads();
  buf[threadIdx.x] = v;
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) buf[threadIdx.x] += buf[threadIdx.x + half];
  }
  __syncthreads();
  return buf[0];
}
DEVICE double least_of_block(double v, double *buf) {
  __syncthreads();
  buf[threadIdx.x] = v;
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half && buf[threadIdx.x + half] < buf[threadIdx.x]) buf[threadIdx.x] = buf[threadIdx.x + half];
  }
  __syncthreads();
  return buf[0];
}

/* -- The lists --------------------------------------------------------------------------------- */

/* One an op, as on the cpu: CUDA_IMPLS(relu, {"own", cuda_relu}) */
#define OP(name, signature, attrs, flags, doc) extern const impl cuda_##name##_impls[];
#include "ops.def"
#undef OP
#define CUDA_IMPLS(op, ...) const impl cuda_##op##_impls[] = {__VA_ARGS__, {0, 0}}
#define OWN(op) CUDA_IMPLS(op, {"own", cuda_##op})

#endif

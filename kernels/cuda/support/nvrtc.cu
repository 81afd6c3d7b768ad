/* nvrtc.cu - kernels from source text: compiled by NVRTC for the device at hand, loaded, launched
 * on its stream.
 *
 * libnvrtc is opened when the first source comes, so that a machine without it lacks nothing else.
 * The kernel's name is a C++ one, as NVRTC's name expressions are; so templates have their
 * instances and nobody writes extern "C". What was compiled stays for good, by source, name and
 * device. What types the arguments have is not known here, but how many there are and how wide, and
 * a launch that does not fit is refused: the driver would read beyond the list of arguments. */
#include "common.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include <nvrtc.h>

#include "vendor.h"

/* -- The library ------------------------------------------------------------------------------- */

#define NVRTC_FUNCTIONS(F) \
  F(CreateProgram) \
  F(DestroyProgram) F(AddNameExpression) F(CompileProgram) F(GetProgramLogSize) F(GetProgramLog) F(GetLoweredName) \
      F(GetCUBINSize) F(GetCUBIN) F(GetErrorString) F(Version)

static struct {
#define FIELD(name) decltype(&nvrtc##name) name;
  NVRTC_FUNCTIONS(FIELD)
#undef FIELD
} rtc;
static bool rtc_open;
static char include_options[2][PATH_MAX + 40]; /* the toolkit's headers beside the library; "" where there are none */

/* LIB/../include, as the toolkit lies on the disk, and libcu++ in it. The library's own part, which
 * it opens by name when it compiles, lies beside it; opened here it is found also where the loader
 * does not look in that folder. */
static void find_parts(void *symbol) {
  static const char *const folders[2] = {"/../include", "/../include/cccl"};
  Dl_info info;
  char real[PATH_MAX], folder[PATH_MAX + 60];
  int major = 0, minor = 0;
  if (!dladdr(symbol, &info) || !info.dli_fname || !realpath(info.dli_fname, real)) return;
  char *slash = strrchr(real, '/');
  if (slash) *slash = 0;
  if (rtc.Version(&major, &minor) == NVRTC_SUCCESS) {
    snprintf(folder, sizeof folder, "%s/libnvrtc-builtins.so.%d.%d", real, major, minor);
    dlopen(folder, RTLD_NOW | RTLD_LOCAL);
  }
  for (int32_t i = 0; i < 2; i++) {
    char there[PATH_MAX];
    snprintf(folder, sizeof folder, "%s%s", real, folders[i]);
    if (realpath(folder, there)) snprintf(include_options[i], sizeof include_options[i], "--include-path=%s", there);
  }
}

static status open_nvrtc(void) {
  static const char *const names[] = {"libnvrtc.so.13", "libnvrtc.so.12"};
  void *library = NULL;
  if (rtc_open) return DLV3_OK;
  for (const char *name : names)
    if (!library) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!library)
    return fail(DLV3_ERR_DEVICE,
                "cuda_kernel: the compiler NVRTC is missing: neither libnvrtc.so.13 nor libnvrtc.so.12 can be opened; "
                "install CUDA's NVRTC (cuda-nvrtc-13-0) or add its folder to LD_LIBRARY_PATH");
#define FIND(name) \
  if (!(rtc.name = (decltype(rtc.name))dlsym(library, "nvrtc" #name))) \
    return fail(DLV3_ERR_DEVICE, "cuda_kernel: libnvrtc has no function nvrtc" #name ", it is too old");
  NVRTC_FUNCTIONS(FIND)
#undef FIND
  find_parts((void *)rtc.CompileProgram);
  rtc_open = true;
  return DLV3_OK;
}

/* -- Compiling --------------------------------------------------------------------------------- */

enum { MOST_ARGUMENTS = DLV3_MAX_SLOTS, MOST_LOG = 1200, MOST_SHARED = 48 << 10 /* without being asked */ };

typedef struct compiled {
  dlv3_kernel base; /* device, name                                            */
  struct compiled *next;
  char *source;
  cudaKernel_t kernel;
  int32_t n_arguments, most_threads;
  int64_t width[MOST_ARGUMENTS], shared; /* shared: dynamic bytes allowed so far               */
} compiled;

static compiled *known;

/* NVRTC has no C headers: the fixed-width types, whether a source includes <stdint.h> or not. As
 * libcu++ defines them, so that a source may include that as well. */
static const char *const stdint_name = "stdint.h",
                         *const stdint_text = "#pragma once\n"
                                              "typedef signed char int8_t;\ntypedef unsigned char uint8_t;\ntypedef "
                                              "short int16_t;\ntypedef unsigned short uint16_t;\n"
                                              "typedef int int32_t;\ntypedef unsigned int uint32_t;\ntypedef long long "
                                              "int64_t;\ntypedef unsigned long long uint64_t;\n";

static status rtc_failed(const char *what, nvrtcResult e) {
  return fail(e == NVRTC_ERROR_OUT_OF_MEMORY ? DLV3_ERR_OOM : DLV3_ERR_DEVICE, "cuda_kernel: NVRTC: %s: %s", what,
              rtc.GetErrorString(e));
}
#define RTC(call, what) \
  do { \
    nvrtcResult rtc_error_ = (call); \
    if (rtc_error_ != NVRTC_SUCCESS) return rtc_failed(what, rtc_error_); \
  } while (0)

/* The log's first lines, which are about the user's source: "source(3): error: ...". */
static status with_log(nvrtcProgram program, const char *name, nvrtcResult e) {
  size_t n = 0;
  char *log = NULL;
  if (rtc.GetProgramLogSize(program, &n) == NVRTC_SUCCESS && n > 1) log = (char *)calloc(n + 1, 1);
  if (!log || rtc.GetProgramLog(program, log) != NVRTC_SUCCESS) {
    free(log);
    return rtc_failed("the source does not compile", e);
  }
  while (n && (!log[n - 1] || log[n - 1] == '\n')) log[--n] = 0;
  if (n > MOST_LOG) {
    log[MOST_LOG] = 0;
    char *line = strrchr(log, '\n');
    if (line) *line = 0;
  }
  const status st = fail(DLV3_ERR_ARG, "cuda_kernel: the source of '%s' does not compile\n%s%s", name, log,
                         n > MOST_LOG ? "\n..." : "");
  free(log);
  return st;
}

static status compile(nvrtcProgram program, const char *name, int32_t device) {
  cudaDeviceProp p;
  char arch[40];
  if (cudaGetDeviceProperties(&p, device - 1) != cudaSuccess)
    return fail(DLV3_ERR_DEVICE, "cuda_kernel: the device does not say what it is");
  snprintf(arch, sizeof arch, "--gpu-architecture=sm_%d%d", p.major, p.minor);
  const char *options[6] = {arch, "--std=c++17", "-lineinfo", "--pre-include=stdint.h"};
  int n = 4;
  for (const char *o : include_options)
    if (*o) options[n++] = o;
  RTC(rtc.AddNameExpression(program, name), "the kernel's name");
  const nvrtcResult e = rtc.CompileProgram(program, n, options);
  if (e == NVRTC_ERROR_INVALID_OPTION)
    return fail(DLV3_ERR_DEVICE,
                "cuda_kernel: this libnvrtc does not compile for the device (sm_%d%d); a newer one is needed", p.major,
                p.minor);
  return e == NVRTC_SUCCESS ? DLV3_OK : with_log(program, name, e);
}

static status load_failed(const char *name, const char *what, cudaError_t e) {
  cudaGetLastError(); /* it does not stay */
  return fail(DLV3_ERR_DEVICE, "cuda_kernel: '%s': %s: %s (%s, %d)", name, what, cudaGetErrorString(e),
              cudaGetErrorName(e), (int)e);
}

/* Loads the machine code and asks it what it takes. */
static status load(compiled *k, nvrtcProgram program) {
  const char *lowered = NULL;
  size_t n = 0;
  cudaLibrary_t library = NULL;
  RTC(rtc.GetLoweredName(program, k->base.name, &lowered), "the kernel's name");
  RTC(rtc.GetCUBINSize(program, &n), "no machine code");
  char *code = (char *)malloc(n + 1);
  if (!code) return fail(DLV3_ERR_OOM, "cuda_kernel: out of memory for the machine code");
  const nvrtcResult e = rtc.GetCUBIN(program, code);
  cudaError_t error =
      e == NVRTC_SUCCESS ? cudaLibraryLoadData(&library, code, NULL, NULL, 0, NULL, NULL, 0) : cudaSuccess;
  free(code);
  if (e != NVRTC_SUCCESS) return rtc_failed("no machine code", e);
  if (error != cudaSuccess) return load_failed(k->base.name, "the machine code can not be loaded", error);
  error = cudaLibraryGetKernel(&k->kernel, library, lowered);
  if (error != cudaSuccess) {
    cudaLibraryUnload(library);
    return load_failed(k->base.name, "it is no __global__ function of the source", error);
  }
  cudaFuncAttributes a;
  error = cudaFuncGetAttributes(&a, (const void *)k->kernel);
  if (error != cudaSuccess) {
    cudaLibraryUnload(library);
    return load_failed(k->base.name, "what it needs is not known", error);
  }
  size_t offset = 0, width = 0;
  while (k->n_arguments < MOST_ARGUMENTS
         && cudaFuncGetParamInfo((const void *)k->kernel, (size_t)k->n_arguments, &offset, &width) == cudaSuccess)
    k->width[k->n_arguments++] = (int64_t)width;
  cudaGetLastError(); /* beyond the last one is no error */
  k->most_threads = a.maxThreadsPerBlock, k->shared = MOST_SHARED - (int64_t)a.sharedSizeBytes;
  return DLV3_OK;
}

static status compile_and_load(compiled *k) {
  nvrtcProgram program = NULL;
  RTC(rtc.CreateProgram(&program, k->source, "source", 1, &stdint_text, &stdint_name), "no program");
  status st = compile(program, k->base.name, k->base.device);
  if (st == DLV3_OK) st = load(k, program);
  rtc.DestroyProgram(&program);
  return st;
}

status nvrtc_find(dlv3_kernel **out, const char *source, const char *name, int32_t device) {
  for (compiled *k = known; k; k = k->next)
    if (k->base.device == device && !strcmp(k->base.name, name) && !strcmp(k->source, source))
      return *out = &k->base, DLV3_OK;
  if (!stream_on(device)) return DLV3_ERR_DEVICE;
  TRY(open_nvrtc());
  compiled *k = (compiled *)calloc(1, sizeof *k);
  char *own_name = strdup(name);
  if (k) k->source = strdup(source), k->base.name = own_name, k->base.device = device;
  status st = k && k->source && own_name ? compile_and_load(k) : fail(DLV3_ERR_OOM, "cuda_kernel: out of memory");
  if (st == DLV3_OK) {
    k->next = known, known = k;
    return *out = &k->base, DLV3_OK;
  }
  if (k) free(k->source);
  free(own_name), free(k);
  return st;
}

/* -- Launching --------------------------------------------------------------------------------- */

static bool within(const int64_t *size, int64_t x, int64_t y, int64_t z) {
  return size[0] <= x && size[1] <= y && size[2] <= z;
}

static status check_sizes_of(const op_call *c, const compiled *k, const kernel_launch *l) {
  const int64_t *g = l->grid, *b = l->block;
  for (int32_t i = 0; i < 3; i++)
    if (g[i] < 0 || b[i] < 1) return fail_call(c, DLV3_ERR_ARG, "a grid has from 0, a block from 1 of each size");
  if (!within(b, 1024, 1024, 64) || b[0] * b[1] * b[2] > k->most_threads)
    return fail_call(c, DLV3_ERR_ARG,
                     "the block of %lld x %lld x %lld threads is too large: at most %d in all, 64 along z",
                     (long long)b[0], (long long)b[1], (long long)b[2], (int)k->most_threads);
  if (!within(g, INT32_MAX, 65535, 65535))
    return fail_call(c, DLV3_ERR_ARG,
                     "the grid of %lld x %lld x %lld blocks is too large: at most 2147483647 x 65535 x 65535",
                     (long long)g[0], (long long)g[1], (long long)g[2]);
  return DLV3_OK;
}

/* The arguments as the kernel reads them: value[i] has the bytes, at[i] points to them. */
static status place_arguments(const op_call *c, const compiled *k, const kernel_launch *l, uint64_t *value, void **at) {
  if (l->n != k->n_arguments)
    return fail_call(c, DLV3_ERR_ARG, "it takes %d arguments, %d came", (int)k->n_arguments, (int)l->n);
  for (int32_t i = 0; i < l->n; i++) {
    const int64_t width = c->in[i] ? (int64_t)sizeof(void *) : dtype_bytes(l->kind[i]);
    const float single = (float)l->number[i].f;
    if (width != k->width[i])
      return fail_call(c, DLV3_ERR_ARG, "argument %d is of %lld bytes, %lld came", (int)i + 1, (long long)k->width[i],
                       (long long)width);
    value[i] = 0, at[i] = &value[i];
    if (c->in[i]) {
      const void *p = data_of(c->in[i]);
      memcpy(&value[i], &p, sizeof p);
    } else if (l->kind[i] == DLV3_F32)
      memcpy(&value[i], &single, sizeof single);
    else if (is_float(l->kind[i]) && l->kind[i] != DLV3_F64)
      return fail_call(c, DLV3_ERR_DTYPE, "argument %d: numbers are handed over as bool, u8, i32, i64, f32 or f64",
                       (int)i + 1);
    else
      memcpy(&value[i], &l->number[i], (size_t)width); /* the low bytes come first */
  }
  return DLV3_OK;
}

/* More dynamic shared memory than a kernel gets without asking. */
static status allow_shared(const op_call *c, compiled *k, int64_t bytes) {
  if (bytes < 0) return fail_call(c, DLV3_ERR_ARG, "shared is a number of bytes, %lld came", (long long)bytes);
  if (bytes <= k->shared) return DLV3_OK;
  const cudaError_t e = bytes > INT32_MAX
                            ? cudaErrorInvalidValue
                            : cudaKernelSetAttributeForDevice(k->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                              (int)bytes, k->base.device - 1);
  if (e != cudaSuccess) {
    cudaGetLastError();
    return fail_call(c, DLV3_ERR_ARG, "the device has no %lld bytes of shared memory for a block", (long long)bytes);
  }
  return k->shared = bytes, DLV3_OK;
}

static dim3 dim3_of(const int64_t *size) { return dim3((unsigned)size[0], (unsigned)size[1], (unsigned)size[2]); }

status nvrtc_run(const op_call *c, const kernel_launch *l) {
  compiled *k = (compiled *)l->kernel;
  uint64_t value[MOST_ARGUMENTS];
  void *at[MOST_ARGUMENTS + 1] = {0};
  const cudaStream_t stream = stream_on(k->base.device);
  if (!stream) return DLV3_ERR_DEVICE;
  TRY(check_sizes_of(c, k, l));
  TRY(place_arguments(c, k, l, value, at));
  TRY(allow_shared(c, k, l->shared));
  if (!l->grid[0] || !l->grid[1] || !l->grid[2]) return DLV3_OK; /* no elements, no blocks */
  const cudaError_t e =
      cudaLaunchKernel((const void *)k->kernel, dim3_of(l->grid), dim3_of(l->block), at, (size_t)l->shared, stream);
  const status st = launched(c);
  return st == DLV3_OK && e != cudaSuccess ? load_failed(k->base.name, "it was not started", e) : st;
}

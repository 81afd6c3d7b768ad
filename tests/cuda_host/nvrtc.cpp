/* nvrtc.cpp - NVRTC on the host, for tests: the source is compiled by the host's C++ compiler into
 * a shared object, which is loaded and launched as fibers (host.cpp).
 *
 * "Machine code" is the object's size and its bytes. The object is linked against this library,
 * whose threadIdx and barriers it uses; it has an entry that unpacks the arguments, and the list of
 * their sizes. */
#include <nvrtc.h>
#include "host.h"
#undef dlopen

#include <dlfcn.h>
#include <limits.h>
#include <regex>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <string.h>
#include <unistd.h>
#include <vector>

typedef std::string text;

static text own_path() {
  Dl_info info;
  char real[PATH_MAX];
  return dladdr((void *)cuda_host_dlopen, &info) && realpath(info.dli_fname, real) ? real : "";
}

void *cuda_host_dlopen(const char *, int) {
  const char *plays = getenv("CUDA_HOST_NVRTC");
  return plays && !strcmp(plays, "none") ? NULL : dlopen(own_path().c_str(), RTLD_NOW | RTLD_LOCAL);
}

static text read_file(const text &path) {
  text all;
  char piece[4096];
  FILE *f = fopen(path.c_str(), "rb");
  for (size_t n; f && (n = fread(piece, 1, sizeof piece, f)) > 0;) all.append(piece, n);
  if (f) fclose(f);
  return all;
}
static bool write_file(const text &path, const text &content) {
  FILE *f = fopen(path.c_str(), "wb");
  if (!f) return false;
  const bool whole = fwrite(content.data(), 1, content.size(), f) == content.size();
  return !fclose(f) && whole;
}

/* -- Programs ---------------------------------------------------------------------------------- */

struct cuda_host_program {
  text source, name, log, code;
};

nvrtcResult nvrtcCreateProgram(nvrtcProgram *p, const char *source, const char *, int, const char *const *,
                               const char *const *) {
  return *p = new cuda_host_program{source, "", "", ""}, NVRTC_SUCCESS;
}
nvrtcResult nvrtcVersion(int *major, int *minor) { return *major = 13, *minor = 0, NVRTC_SUCCESS; }
nvrtcResult nvrtcDestroyProgram(nvrtcProgram *p) { return delete *p, *p = NULL, NVRTC_SUCCESS; }
nvrtcResult nvrtcAddNameExpression(nvrtcProgram p, const char *name) { return p->name = name, NVRTC_SUCCESS; }
nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram p, size_t *n) { return *n = p->log.size() + 1, NVRTC_SUCCESS; }
nvrtcResult nvrtcGetProgramLog(nvrtcProgram p, char *log) {
  return memcpy(log, p->log.c_str(), p->log.size() + 1), NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetLoweredName(nvrtcProgram p, const char *name, const char **lowered) {
  return *lowered = "cuda_host_entry", p->name == name && !p->code.empty() ? NVRTC_SUCCESS : NVRTC_ERROR_INVALID_INPUT;
}
nvrtcResult nvrtcGetCUBINSize(nvrtcProgram p, size_t *n) { return *n = p->code.size(), NVRTC_SUCCESS; }
nvrtcResult nvrtcGetCUBIN(nvrtcProgram p, char *code) {
  return memcpy(code, p->code.data(), p->code.size()), NVRTC_SUCCESS;
}
const char *nvrtcGetErrorString(nvrtcResult e) {
  return e == NVRTC_ERROR_COMPILATION ? "NVRTC_ERROR_COMPILATION" : "an error";
}

/* Behind the source, whose lines so stay its own. */
static const char *const entry = R"(
#include "source"
#include <utility>
template <class... A, size_t... I>
static void cuda_host_unpack(void (*kernel)(A...), void **p, std::index_sequence<I...>) { kernel(*(A *)p[I]...); }
template <class... A>
static void cuda_host_pass(void (*kernel)(A...), void **p) {
  cuda_host_unpack(kernel, p, std::index_sequence_for<A...>());
}
template <class... A> static const size_t *cuda_host_widths(void (*)(A...)) {
  static const size_t widths[] = {sizeof(A)..., 0};
  return widths;
}
)";

/* The folder of this stand-in's headers, found upwards from the library, which is somewhere in the
 * build. */
static text header_folder(text from) {
  for (size_t slash; (slash = from.rfind('/')) != text::npos && slash;) {
    from.resize(slash);
    if (!access((from + "/tests/cuda_host/cuda_runtime.h").c_str(), R_OK)) return from + "/tests/cuda_host";
  }
  return ".";
}

/* The log as NVRTC writes it: "source(3): error: ...". */
static text as_nvrtc(const text &log) {
  const text lines = std::regex_replace(log, std::regex("(In file included from|source: In )[^\n]*\n"), "");
  return std::regex_replace(lines, std::regex("source:([0-9]+):[0-9]+:"), "source($1):");
}

static nvrtcResult compile_in(nvrtcProgram p, const text &folder) {
  const char *compiler = getenv("CXX");
  const text library = own_path();
  const text source =
      std::regex_replace(p->source, std::regex("extern\\s+__shared__\\s+([^;\\[]+?)\\s+(\\w+)\\s*\\[\\s*\\]\\s*;"),
                         "$1 *$2 = ($1 *)cuda_host_shared();");
  const text call = "extern \"C\" void cuda_host_entry(void **p) { cuda_host_pass(&" + p->name + ", p); }\n"
                    + "extern \"C\" const size_t *cuda_host_entry_widths() { return cuda_host_widths(&" + p->name
                    + "); }\n";
  const text command = "cd '" + folder + "' && LC_ALL=C " + (compiler && *compiler ? compiler : "c++")
                       + " -std=c++17 -O1 -w -fPIC -shared -I'" + header_folder(library)
                       + "' -include math.h -include cuda_runtime.h -o code entry.cpp '" + library + "' > log 2>&1";
  if (!write_file(folder + "/source", source) || !write_file(folder + "/entry.cpp", entry + call))
    return NVRTC_ERROR_INVALID_INPUT;
  const bool good = system(command.c_str()) == 0;
  p->log = as_nvrtc(read_file(folder + "/log"));
  if (!good) return NVRTC_ERROR_COMPILATION;
  const text bytes = read_file(folder + "/code");
  const size_t n = bytes.size();
  p->code = text((const char *)&n, sizeof n) + bytes;
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcCompileProgram(nvrtcProgram p, int, const char *const *) {
  char folder[] = "/tmp/cuda_host_XXXXXX";
  if (!mkdtemp(folder)) return NVRTC_ERROR_INVALID_INPUT;
  const nvrtcResult e = compile_in(p, folder);
  for (const char *file : {"/source", "/entry.cpp", "/log", "/code"}) unlink((text(folder) + file).c_str());
  rmdir(folder);
  return e;
}

/* -- Libraries and kernels --------------------------------------------------------------------- */

struct cuda_host_kernel {
  void (*entry)(void **);
  const size_t *widths;
  size_t dynamic; /* shared memory that was asked for */
};
struct cuda_host_library {
  void *object;
  cuda_host_kernel kernel;
};

enum { UNASKED = 48 << 10, MOST_SHARED = 227 << 10 };

cudaError_t cudaLibraryLoadData(cudaLibrary_t *library, const void *code, void *, void **, unsigned, void *, void **,
                                unsigned) {
  char path[] = "/tmp/cuda_host_XXXXXX";
  size_t n;
  memcpy(&n, code, sizeof n);
  const int file = mkstemp(path);
  if (file < 0) return cudaErrorInvalidValue;
  close(file);
  void *object = write_file(path, text((const char *)code + sizeof n, n)) ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
  unlink(path);
  if (!object) return cudaErrorInvalidValue;
  return *library = new cuda_host_library{object, {NULL, NULL, UNASKED}}, cudaSuccess;
}
cudaError_t cudaLibraryGetKernel(cudaKernel_t *kernel, cudaLibrary_t library, const char *name) {
  cuda_host_kernel *k = &library->kernel;
  k->entry = (void (*)(void **))dlsym(library->object, name);
  const auto widths = (const size_t *(*)())dlsym(library->object, (text(name) + "_widths").c_str());
  if (!k->entry || !widths) return cudaErrorInvalidValue;
  return k->widths = widths(), *kernel = k, cudaSuccess;
}
cudaError_t cudaLibraryUnload(cudaLibrary_t library) { return dlclose(library->object), delete library, cudaSuccess; }

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, const void *) { return *a = {0, 1024}, cudaSuccess; }
cudaError_t cudaFuncGetParamInfo(const void *kernel, size_t i, size_t *offset, size_t *bytes) {
  const size_t *widths = ((const cuda_host_kernel *)kernel)->widths;
  for (size_t k = 0; k <= i; k++)
    if (!widths[k]) return cudaErrorInvalidValue;
  return *offset = 8 * i, *bytes = widths[i], cudaSuccess;
}
cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t kernel, cudaFuncAttribute, int value, int) {
  if (value > MOST_SHARED) return cudaErrorInvalidValue;
  return kernel->dynamic = (size_t)value, cudaSuccess;
}

/* -- Launches ---------------------------------------------------------------------------------- */

static std::vector<uint64_t> shared_memory;
void *cuda_host_shared() { return shared_memory.data(); }

typedef struct {
  const cuda_host_kernel *kernel;
  std::vector<uint64_t> values; /* of the arguments, as they were when it was launched */
  size_t shared;
} launch;

static void run(void *self) {
  launch *l = (launch *)self;
  std::vector<void *> arguments;
  for (uint64_t &value : l->values) arguments.push_back(&value);
  l->kernel->entry(arguments.data());
}

cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                             cudaStream_t stream) {
  launch l = {(const cuda_host_kernel *)kernel, {}, shared};
  if (shared > l.kernel->dynamic) return cudaErrorInvalidValue;
  if (!cuda_host_launchable(grid, block, stream)) return cudaErrorInvalidConfiguration;
  for (size_t i = 0; l.kernel->widths[i]; i++) {
    l.values.push_back(0);
    memcpy(&l.values.back(), arguments[i], l.kernel->widths[i]);
  }
  return cuda_host_do(stream, l.values.data(), l.values.size() * sizeof(uint64_t), [=]() mutable {
    shared_memory.assign(l.shared / 8 + 1, 0xc7c7c7c7c7c7c7c7);
    cuda_host_run(grid, block, run, &l);
  });
}

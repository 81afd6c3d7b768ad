/* device.c - the devices there are, by number and by name: 0 is the cpu, 1 is cuda:0, 2 is cuda:1,
 * ...
 *
 * The cuda devices come from libdlv3_cuda.so, which is opened the first time somebody asks for one.
 * One program runs with and without it; what is missing (the library, one of those it needs, the
 * driver, a device) is kept as a sentence. */
#include "backend.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { MOST_CUDA = 16 };

static const backend *cuda;
static int32_t n_cuda;
static bool tried;
static char reason[700], chosen_library[512];

/* -- TF32, the timing of engines --------------------------------------------------------------- */

/* Wishes about kernels that may be opened later, or never; the environment's until somebody says
 * otherwise. */
static int32_t tf32 = -1, benchmark = -1;

static bool wished(int32_t *wish, const char *variable, bool otherwise) {
  const char *text = getenv(variable);
  if (*wish < 0) *wish = text && *text ? strcmp(text, "0") != 0 : otherwise;
  return *wish;
}

bool tf32_allowed(void) { return wished(&tf32, "DLV3_TF32", true); }
DLV3_API int32_t dlv3_tf32_allowed(void) { return tf32_allowed(); }
DLV3_API void dlv3_allow_tf32(int32_t allow) { tf32 = allow != 0; }

bool cudnn_benchmark(void) { return wished(&benchmark, "DLV3_CUDNN_BENCHMARK", false); }
DLV3_API int32_t dlv3_cudnn_benchmark(void) { return cudnn_benchmark(); }
DLV3_API void dlv3_set_cudnn_benchmark(int32_t on) { benchmark = on != 0; }

/* -- The library ------------------------------------------------------------------------------- */

/* The folder of the program, without a slash at its end. */
static void program_folder(char *folder, size_t n) {
  ssize_t length = readlink("/proc/self/exe", folder, n - 1);
  folder[length < 0 ? 0 : length] = 0;
  char *slash = strrchr(folder, '/');
  if (slash) *slash = 0;
}

const char *find_part(char *path, size_t n, const char *name) {
  static const char *const places[] = {"", "/build", "/../lib/dlv3"};
  char folder[400];
  program_folder(folder, sizeof folder);
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    snprintf(path, n, "%s%s/%s", folder, places[i], name);
    if (!access(path, R_OK)) return path;
  }
  return NULL;
}

/* Where it was asked for, beside the program, in the build, or where `make install` puts it. NULL:
 * nowhere. */
static const char *find_library(char *path, size_t n) {
  const char *asked = chosen_library[0] ? chosen_library : getenv("DLV3_CUDA_LIBRARY");
  if (asked && *asked) return snprintf(path, n, "%s", asked), path;
  return find_part(path, n, "libdlv3_cuda.so");
}

static const runtime_api api = {DLV3_BACKEND_ABI, fail,         fail_call,       declined,    storage_new, storage_drop,
                                tensor_text,      tf32_allowed, cudnn_benchmark, tuning_find, tuning_keep, ran_by,
                                &world_functions};

static status open_library(void) {
  char path[512];
  if (!find_library(path, sizeof path))
    return fail(
        DLV3_ERR_DEVICE,
        "this build of dlv3 has no CUDA part (libdlv3_cuda.so is not there: nvcc was not found, or make CUDA=0)");
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return fail(DLV3_ERR_DEVICE, "%s can not be opened: %s", path, dlerror());
  dlv3_backend_open_fn *open_backend;
  *(void **)&open_backend = dlsym(library, "dlv3_backend_open"); /* an object pointer, by POSIX, holds a function's */
  const backend *b = open_backend ? open_backend(&api, DLV3_BACKEND_ABI) : NULL;
  if (!b || b->abi != DLV3_BACKEND_ABI)
    return fail(DLV3_ERR_DEVICE, "%s belongs to another version of dlv3; build both anew", path);
  cuda = b;
  int32_t n = 0;
  TRY(b->probe(&n));
  n_cuda = n < MOST_CUDA ? n : MOST_CUDA;
  return DLV3_OK;
}

/* Opens the library once; afterwards n_cuda and reason say how it went. */
static void open_cuda(void) {
  if (tried) return;
  tried = true;
  if (open_library() != DLV3_OK) snprintf(reason, sizeof reason, "%s", dlv3_last_error());
}

DLV3_API dlv3_status dlv3_cuda_library(const char *path) {
  if (n_cuda) return fail(DLV3_ERR_ARG, "cuda_library: the cuda devices are already in use");
  if (strlen(path) >= sizeof chosen_library) return fail(DLV3_ERR_ARG, "cuda_library: the path is too long");
  strcpy(chosen_library, path);
  tried = false, cuda = NULL;
  return DLV3_OK;
}

DLV3_API const char *dlv3_cuda_state(void) {
  static char text[1400];
  int used = 0;
  open_cuda();
  if (cuda) used = snprintf(text, sizeof text, "%s; ", cuda->libraries);
  if (!n_cuda) snprintf(text + used, sizeof text - (size_t)used, "not available: %s", reason);
  for (int32_t i = 0; i < n_cuda && (size_t)used + 100 < sizeof text; i++)
    used += snprintf(text + used, sizeof text - (size_t)used, "%s%s", i ? ", " : "", cuda->describe(i + 1));
  return text;
}

/* -- Devices ----------------------------------------------------------------------------------- */

bool device_known(int32_t device) { return device >= 0 && device <= n_cuda; }
const backend *backend_of(int32_t device) { return device == 0 ? &cpu_backend : cuda; }

DLV3_API int32_t dlv3_device_count(void) { return open_cuda(), 1 + n_cuda; }
DLV3_API int32_t dlv3_device_open_count(void) { return 1 + n_cuda; }

DLV3_API const char *dlv3_device_name(int32_t device) {
  static char names[MOST_CUDA][16];
  if (device == 0) return "cpu";
  if (!device_known(device)) return "?";
  snprintf(names[device - 1], sizeof *names, "cuda:%d", (int)device - 1);
  return names[device - 1];
}

DLV3_API dlv3_status dlv3_device_find(int32_t *device, const char *name) {
  if (!strcmp(name, "cpu")) return *device = 0, DLV3_OK;
  if (!strcmp(name, "auto")) return open_cuda(), *device = n_cuda ? 1 : 0, DLV3_OK;
  bool plain = !strcmp(name, "cuda");
  char *end = NULL;
  long index = plain                                                            ? 0
               : !strncmp(name, "cuda:", 5) && name[5] >= '0' && name[5] <= '9' ? strtol(name + 5, &end, 10)
                                                                                : -1;
  if (index < 0 || (!plain && *end))
    return fail(
        DLV3_ERR_DEVICE,
        "no device is called '%.40s' (there are: cpu, cuda, cuda:0, cuda:1, ..., and auto: a GPU where there is one)",
        name);
  open_cuda();
  if (!n_cuda) return fail(DLV3_ERR_DEVICE, "device '%.40s' is not available: %s; use 'cpu'", name, reason);
  if (index >= n_cuda)
    return fail(DLV3_ERR_DEVICE, "device '%.40s' does not exist: there %s %d, %s", name, n_cuda == 1 ? "is" : "are",
                (int)n_cuda, n_cuda == 1 ? "cuda:0" : "counted from cuda:0");
  *device = (int32_t)index + 1;
  return DLV3_OK;
}

status device_copy(void *dst, const void *src, int64_t bytes, int32_t dst_device, int32_t src_device) {
  if (!bytes) return DLV3_OK;
  return backend_of(dst_device ? dst_device : src_device)->copy(dst, src, bytes, dst_device, src_device);
}

DLV3_API dlv3_status dlv3_device_sync(int32_t device) {
  if (!device_known(device)) return fail(DLV3_ERR_DEVICE, "no device has the number %d", (int)device);
  return backend_of(device)->sync(device);
}

DLV3_API double dlv3_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* plugin.c - the cuda devices: opens libdlv3_cuda.so the first time that a cuda device is asked
 * for, and finds devices by name.
 *
 * One program runs with and without it. What is missing (the library, one of the libraries it
 * needs, the driver, a device) is kept as a sentence for later messages. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/backend.h"

static const backend *cuda;
static int32_t n_cuda;
static bool tried;
static char reason[700], chosen_library[512];

/* -- Options of the kernels
 * --------------------------------------------------------------------- */

/* They hold for kernels that may be opened later, or never. -1: as the environment variable
 * says. */
static int32_t tf32_option = -1, benchmark_option = -1;

static bool option_value(int32_t *option, const char *variable, bool otherwise) {
  const char *text = getenv(variable);
  if (*option < 0) *option = text && *text ? strcmp(text, "0") != 0 : otherwise;
  return *option;
}

bool tf32_allowed(void) { return option_value(&tf32_option, "DLV3_TF32", true); }
DLV3_API int32_t dlv3_tf32_allowed(void) { return tf32_allowed(); }
DLV3_API void dlv3_allow_tf32(int32_t allow) { tf32_option = allow != 0; }

bool cudnn_benchmark(void) { return option_value(&benchmark_option, "DLV3_CUDNN_BENCHMARK", false); }
DLV3_API int32_t dlv3_cudnn_benchmark(void) { return cudnn_benchmark(); }
DLV3_API void dlv3_set_cudnn_benchmark(int32_t on) { benchmark_option = on != 0; }

/* -- The library ------------------------------------------------------------------------------- */

/* The path of the library: the chosen one, else where find_part looks. NULL: none. */
static const char *find_library(char *path, size_t n) {
  const char *chosen = chosen_library[0] ? chosen_library : getenv("DLV3_CUDA_LIBRARY");
  if (!chosen || !*chosen) return find_part(path, n, "libdlv3_cuda.so");
  snprintf(path, n, "%s", chosen);
  return path;
}

static const runtime_api api = {DLV3_BACKEND_ABI, fail,        fail_call,       declined,        storage_new,
                                storage_drop,     tensor_text, tf32_allowed,    cudnn_benchmark, tuning_find,
                                tuning_keep,      ran_by,      &world_functions};

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
    return fail(DLV3_ERR_DEVICE, "%s belongs to another version of dlv3: run `make` again", path);
  cuda = b;
  int32_t n = 0;
  TRY(b->probe(&n));
  n_cuda = n < MOST_PLUGIN_DEVICES ? n : MOST_PLUGIN_DEVICES;
  devices_install(cuda, n_cuda);
  return DLV3_OK;
}

/* Opens the library once. Sets n_cuda, or the reason why there are no cuda devices. */
static void open_cuda(void) {
  if (tried) return;
  tried = true;
  if (open_library() != DLV3_OK) snprintf(reason, sizeof reason, "%s", dlv3_last_error());
}

DLV3_API dlv3_status dlv3_cuda_library(const char *path) {
  if (n_cuda) return fail(DLV3_ERR_ARG, "cuda_library: the cuda devices are already in use");
  if (strlen(path) >= sizeof chosen_library) return fail(DLV3_ERR_ARG, "cuda_library: the path is too long");
  strcpy(chosen_library, path);
  tried = false;
  cuda = NULL;
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

/* -- Devices by name --------------------------------------------------------------------------- */

DLV3_API int32_t dlv3_device_count(void) {
  open_cuda();
  return 1 + n_cuda;
}

DLV3_API dlv3_status dlv3_device_find(int32_t *device, const char *name) {
  *device = 0;
  if (!strcmp(name, "cpu")) return DLV3_OK;
  if (!strcmp(name, "auto")) {
    open_cuda();
    *device = n_cuda ? 1 : 0;
    return DLV3_OK;
  }
  const bool numbered = !strncmp(name, "cuda:", 5) && name[5] >= '0' && name[5] <= '9';
  char *end = "";
  const long index = numbered ? strtol(name + 5, &end, 10) : 0;
  if ((!numbered && strcmp(name, "cuda")) || *end)
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

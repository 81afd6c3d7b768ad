/* backend.h - the contract between the runtime and the kernels of a device.
 *
 * A backend is one constant table. kernels[op] is a list of implementations, best first, ending in
 * {0}; on the cpu the last is always "ref". An implementation may return DECLINED("why") before it
 * touches an output; the next is tried.
 *
 * The cpu's is linked in. That of cuda is a library opened on first use (plugin/plugin.c): it
 * exports dlv3_backend_open alone and reaches the runtime through runtime_api, so that neither
 * needs the other to be linked. C++ reads this file too. */
#ifndef DLV3_BACKEND_H
#define DLV3_BACKEND_H

#include "core.h"

enum { DLV3_BACKEND_ABI = 8 };

typedef struct {
  const char *name;
  status (*run)(op_call *c);
} impl;

/* A kernel compiled from source text for one device. A backend's own struct begins with it. Never
 * freed. */
struct dlv3_kernel {
  int32_t device;
  const char *name;
};

/* A launch of one. kind: for a tensor 1 where the kernel may write it, else 0; for a number its
 * dtype. */
typedef struct kernel_launch {
  dlv3_kernel *kernel;
  int64_t grid[3], block[3], shared;
  int32_t n, kind[DLV3_MAX_SLOTS];
  dlv3_attr number[DLV3_MAX_SLOTS];
} kernel_launch;

/* device: as in storage.device; those of a plug-in are numbered from 1. */
typedef struct {
  int32_t abi;
  const char *name; /* "cpu", "cuda"                                    */
  status (*alloc)(void **out, int64_t bytes, int32_t device);
  void (*free)(void *p, int64_t bytes, int32_t device);
  status (*copy)(void *dst, const void *src, int64_t bytes, int32_t dst_device, int32_t src_device);
  status (*sync)(int32_t device); /* waits for all work and reports its errors        */
  const impl *const *kernels;     /* [OP_COUNT]; NULL for views                       */
  /* of plug-ins only */
  status (*probe)(int32_t *n_devices); /* the number of devices, or why there are none     */
  status (*check)(int32_t device);     /* errors found so far, without waiting             */
  status (*read_begin)(void **read, const void *src, int64_t bytes,
                       int32_t device); /* starts copying at most 8 bytes to the host */
  status (*read_end)(void *read, void *dst, int64_t bytes,
                     int32_t device);      /* waits for them, once per read; dst NULL: drops them */
  int64_t (*memory)(int32_t device);       /* bytes the device has                             */
  const char *(*describe)(int32_t device); /* "NVIDIA H200, sm_90, 139.8 GiB"                  */
  const char *libraries;                   /* "cudart 13.0  cudnn 9.19.0"                      */
  status (*kernel_find)(dlv3_kernel **out, const char *source, const char *name, int32_t device); /* compiled once */
  status (*kernel_run)(const op_call *c, const kernel_launch *l); /* c->in: the tensors, NULL for numbers */
  /* Kernels called between begin and end are captured instead of run, as one graph that can be
   * launched any number of times. graph NULL: the capture is discarded. A backend without graphs
   * has NULL for all four. */
  status (*graph_begin)(int32_t device);
  status (*graph_end)(int32_t device, void **graph);
  status (*graph_launch)(int32_t device, void *graph);
  void (*graph_free)(int32_t device, void *graph);
} backend;

enum { MOST_PLUGIN_DEVICES = 16 };

extern const backend cpu_backend;

/* device.c. The backend of a device that is known to be there; copying bytes between devices. */
const backend *backend_of(int32_t device);
bool device_known(int32_t device);
/* Sets the backend of devices 1 to n_devices. */
void devices_install(const backend *b, int32_t n_devices);
bool tf32_allowed(void);    /* whether f32 convolutions may round their inputs to TF32 */
bool cudnn_benchmark(void); /* whether cuDNN's engines are chosen by timing */
status device_copy(void *dst, const void *src, int64_t bytes, int32_t dst_device, int32_t src_device);

/* files/tuning_cache.c. Results of timing, in a file for later runs. find: the value of a key;
 * false where there is none or it does not fit n bytes. keep: adds one. Keys and values have no
 * tab and no line end. */
bool tuning_find(char *value, size_t n, const char *file, const char *key);
void tuning_keep(const char *file, const char *key, const char *value);

/* Called by an implementation that has several engines, with the number of the one it runs. */
void ran_by(int64_t number);

/* Collectives on host memory for a plug-in: collectives/world.h says what they do. The table is
 * defined in runtime/collectives/world.c. */
typedef struct world_api {
  int32_t (*rank)(void), (*size)(void);
  status (*sum)(void *x, int64_t n, int32_t dtype);
  status (*gather)(const void *x, void *all, int64_t bytes);
  status (*broadcast)(void *x, int64_t bytes, int32_t root);
  status (*barrier)(void);
} world_api;
extern const world_api world_functions;

/* What a plug-in may call. */
typedef struct {
  int32_t abi;
  status (*fail)(status code, const char *format, ...);
  status (*fail_call)(const op_call *c, status code, const char *format, ...);
  status (*declined)(const char *why);
  status (*storage_new)(storage **out, int64_t bytes, int32_t device);
  void (*storage_drop)(storage *s);
  const char *(*tensor_text)(char *buf, const char *name, const tensor *t);
  bool (*tf32_allowed)(void);
  bool (*cudnn_benchmark)(void);
  bool (*tuning_find)(char *value, size_t n, const char *file, const char *key);
  void (*tuning_keep)(const char *file, const char *key, const char *value);
  void (*ran_by)(int64_t number);
  const world_api *world;
} runtime_api;

/* The one symbol of a plug-in; NULL where abi is not the one it was built for. */
typedef const backend *dlv3_backend_open_fn(const runtime_api *host, int32_t abi);

/* Stores why an implementation declines, a static string that DLV3_VERBOSE=2 prints. Returns
 * DLV3_DECLINED. */
status declined(const char *why);
#define DECLINED(why) declined(why)

/* kernels/cpu files define one list an op: IMPLS(conv2d, {"onednn", onednn_conv2d}, {"ref",
 * ref_conv2d}) */
#define IMPLS(op, ...) const impl cpu_##op##_impls[] = {__VA_ARGS__, {0, 0}}

#endif

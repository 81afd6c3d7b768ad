/* backend.h - the contract between the runtime and the kernels of a device.
 *
 * A backend is one constant table. kernels[op] is a list of implementations, best first, ending in {0}; on the cpu the
 * last is always "ref". An implementation may return DECLINED("why") before it touches an output; the next is tried. */
#ifndef DLV3_BACKEND_H
#define DLV3_BACKEND_H

#include "core.h"

enum { DLV3_BACKEND_ABI = 1 };

typedef struct {
  const char *name;
  status (*run)(op_call *c);
} impl;

typedef struct {
  int32_t abi;
  const char *name;                                     /* "cpu", "cuda"                                    */
  status (*alloc)(void **out, int64_t bytes, int32_t device);
  void (*free)(void *p, int64_t bytes, int32_t device);
  status (*copy)(void *dst, const void *src, int64_t bytes, int32_t dst_device, int32_t src_device);
  status (*sync)(int32_t device);
  const impl *const *kernels;                           /* [OP_COUNT]; NULL for views                       */
} backend;

extern const backend cpu_backend;

/* Why an implementation passes; a static string, shown by DLV3_VERBOSE=2. */
extern _Thread_local const char *declined_reason;
#define DECLINED(why) (declined_reason = (why), DLV3_DECLINED)

/* kernels/cpu files define one list an op: IMPLS(conv2d, {"onednn", onednn_conv2d}, {"ref", ref_conv2d}) */
#define IMPLS(op, ...) const impl cpu_##op##_impls[] = {__VA_ARGS__, {0, 0}}

#endif

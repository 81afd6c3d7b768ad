/* backend.c - the cpu backend: plain aligned memory and the table of kernel lists, in the order of ops.def. */
#include "../../runtime/backend.h"

#include <stdlib.h>

#define OP(name, signature, attrs, flags, doc) extern const impl cpu_##name##_impls[];
#include "../../runtime/ops.def"
#undef OP

static const impl *const kernels[OP_COUNT] = {
#define OP(name, signature, attrs, flags, doc) [OP_##name] = cpu_##name##_impls,
#include "../../runtime/ops.def"
#undef OP
};

static status cpu_alloc(void **out, int64_t bytes, int32_t device) {
  (void)device;
  if (posix_memalign(out, 64, (size_t)bytes)) return fail(DLV3_ERR_OOM, "out of memory on cpu: %.1f MiB asked for", (double)bytes / 1048576);
  return DLV3_OK;
}

static void cpu_free(void *p, int64_t bytes, int32_t device) {
  (void)bytes, (void)device;
  free(p);
}

static status cpu_copy(void *dst, const void *src, int64_t bytes, int32_t dst_device, int32_t src_device) {
  (void)dst_device, (void)src_device;
  memcpy(dst, src, (size_t)bytes);
  return DLV3_OK;
}

static status cpu_sync(int32_t device) {
  (void)device;
  return DLV3_OK;
}

const backend cpu_backend = {.abi = DLV3_BACKEND_ABI, .name = "cpu", .alloc = cpu_alloc, .free = cpu_free, .copy = cpu_copy, .sync = cpu_sync, .kernels = kernels};

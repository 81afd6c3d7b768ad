/* backend.c - the cpu backend: plain aligned memory and the table of kernel lists, in the order of
 * ops.def. */
#include "core/backend.h"

#include <stdlib.h>
#include <sys/mman.h>

#define OP(name, signature, attrs, flags, doc) extern const impl cpu_##name##_impls[];
#include "ops.def"
#undef OP

static const impl *const kernels[OP_COUNT] = {
#define OP(name, signature, attrs, flags, doc) [OP_##name] = cpu_##name##_impls,
#include "ops.def"
#undef OP
};

/* Large blocks are mapped by themselves: given back, they are the system's again, whatever malloc
 * keeps. Those of several huge pages begin at one and ask for them: first touches of small pages
 * cost more than reading a weight file. */
#ifdef DLV3_SANITIZE
static bool is_large(int64_t bytes) { return (void)bytes, false; }
#else
static bool is_large(int64_t bytes) { return bytes >= 1 << 20; }
#endif
enum { HUGE_PAGE = 2 << 20 };

/* `bytes` at a multiple of HUGE_PAGE: a larger mapping, cut off before and behind. The last part of
 * a page stays small pages. */
static void *map_huge(size_t bytes) {
  bytes = (bytes + 4095) & ~(size_t)4095;
  char *p = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return MAP_FAILED;
  const size_t before = (size_t)(-(uintptr_t)p & (HUGE_PAGE - 1));
  if (before) munmap(p, before);
  munmap(p + before + bytes, HUGE_PAGE - before);
  madvise(p + before, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE); /* where there are none, small pages do */
  return p + before;
}

static status cpu_alloc(void **out, int64_t bytes, int32_t device) {
  (void)device;
  if (is_large(bytes)) {
    void *p = bytes >= 2 * HUGE_PAGE
                  ? map_huge((size_t)bytes)
                  : mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p != MAP_FAILED) return *out = p, DLV3_OK;
    return fail(DLV3_ERR_OOM, "out of memory on cpu: %.1f MiB asked for", (double)bytes / 1048576);
  }
  if (posix_memalign(out, 64, (size_t)bytes))
    return fail(DLV3_ERR_OOM, "out of memory on cpu: %.1f MiB asked for", (double)bytes / 1048576);
  return DLV3_OK;
}

static void cpu_free(void *p, int64_t bytes, int32_t device) {
  (void)device;
  if (is_large(bytes))
    munmap(p, (size_t)bytes);
  else
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

const backend cpu_backend = {
    .name = "cpu", .alloc = cpu_alloc, .free = cpu_free, .copy = cpu_copy, .sync = cpu_sync, .kernels = kernels};

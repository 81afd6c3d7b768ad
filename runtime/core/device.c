/* device.c - the devices by number: 0 is the cpu, 1 is cuda:0, 2 is cuda:1, ... The backend of the
 * cuda devices is installed by runtime/plugin. */
#include <stdio.h>
#include <time.h>

#include "backend.h"

static const backend *cuda; /* NULL: not opened, or not available */
static int32_t n_cuda;

void devices_install(const backend *b, int32_t n_devices) {
  cuda = b;
  n_cuda = n_devices < MOST_PLUGIN_DEVICES ? n_devices : MOST_PLUGIN_DEVICES;
}

bool device_known(int32_t device) { return device >= 0 && device <= n_cuda; }
const backend *backend_of(int32_t device) { return device == 0 ? &cpu_backend : cuda; }

DLV3_API int32_t dlv3_device_open_count(void) { return 1 + n_cuda; }

DLV3_API const char *dlv3_device_name(int32_t device) {
  static char names[MOST_PLUGIN_DEVICES][16];
  if (device == 0) return "cpu";
  if (!device_known(device)) return "?";
  snprintf(names[device - 1], sizeof *names, "cuda:%d", (int)device - 1);
  return names[device - 1];
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

/* device.c - the devices there are, by number and by name. 0 is the cpu. */
#include "core.h"

#include <time.h>

DLV3_API int32_t dlv3_device_count(void) { return 1; }
DLV3_API const char *dlv3_device_name(int32_t device) { return device == 0 ? "cpu" : "?"; }

DLV3_API dlv3_status dlv3_device_find(int32_t *device, const char *name) {
  if (!strcmp(name, "cpu")) return *device = 0, DLV3_OK;
  if (!strncmp(name, "cuda", 4)) return fail(DLV3_ERR_DEVICE, "device '%.40s' is not available: this build of dlv3 has no CUDA part; use 'cpu'", name);
  return fail(DLV3_ERR_DEVICE, "no device is called '%.40s' (there is: cpu)", name);
}

DLV3_API double dlv3_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* build_info.c - the libraries that the cpu kernels were built with, for dlv3_build_info. */
#include <dnnl_version.h>

#define TEXT_OF(x) TEXT_OF_(x)
#define TEXT_OF_(x) #x

const char *kernels_build_info(void);
const char *kernels_build_info(void) {
  return "onednn   " TEXT_OF(DNNL_VERSION_MAJOR) "." TEXT_OF(DNNL_VERSION_MINOR) "." TEXT_OF(DNNL_VERSION_PATCH) "\n";
}

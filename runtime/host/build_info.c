/* build_info.c - the version, and what this binary was built with. Kernels add the lines of their
 * own libraries. */
#include "core/core.h"

#include <stdio.h>

#include <jpeglib.h>
#include <luajit.h>
#include <png.h>
#include <zlib.h>

#define TEXT_OF(x) TEXT_OF_(x)
#define TEXT_OF_(x) #x

/* kernels/cpu/support/build_info.c: "onednn 2.6.3\n" */
const char *kernels_build_info(void);

DLV3_API const char *dlv3_version(void) { return "0.1.0"; }

static const char *cpu_features(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
    return __builtin_cpu_supports("avx512vnni") ? "avx512 vnni" : "avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2 fma";
  return "sse2: dlv3 is slow here";
#else
  return "generic";
#endif
}

DLV3_API const char *dlv3_build_info(void) {
  static char text[2400];
  snprintf(text, sizeof text,
           "luajit   %s\nlibpng   %s\nlibjpeg  %s (api %d)\nzlib     %s\n%scompiler %s%s\ncpu      %s\ncuda     %s\n",
           LUAJIT_VERSION, PNG_LIBPNG_VER_STRING,
#ifdef LIBJPEG_TURBO_VERSION
           "turbo " TEXT_OF(LIBJPEG_TURBO_VERSION),
#else
           "classic",
#endif
           JPEG_LIB_VERSION, ZLIB_VERSION, kernels_build_info(),
#ifdef __clang__
           "clang " __clang_version__,
#else
           "gcc " __VERSION__,
#endif
#ifdef DLV3_SANITIZE
           ", address and undefined-behaviour sanitizers",
#else
           "",
#endif
           cpu_features(), dlv3_cuda_state());
  return text;
}

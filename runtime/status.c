/* status.c - the last error of a thread, and how tensors are named in messages.
 *
 * Messages are data: they are formatted once here and never used as a format again. */
#include "core.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char last_error[2048];

DLV3_API const char *dlv3_last_error(void) { return last_error; }

status fail(status code, const char *format, ...) {
  char text[sizeof last_error]; /* an argument may be the last error itself */
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  memcpy(last_error, text, sizeof text);
  return code;
}

status fail_more(status code, const char *format, ...) {
  size_t used = strlen(last_error);
  va_list args;
  va_start(args, format);
  vsnprintf(last_error + used, sizeof last_error - used, format, args);
  va_end(args);
  return code;
}

/* -- Dtypes ------------------------------------------------------------------------------------------------ */

static const char *const dtype_names[DLV3_DTYPES] = {"bool", "u8", "i32", "i64", "f16", "bf16", "f32", "f64"};
static const int32_t dtype_sizes[DLV3_DTYPES] = {1, 1, 4, 8, 2, 2, 4, 8};

const char *dtype_name(int32_t dtype) { return dtype >= 0 && dtype < DLV3_DTYPES ? dtype_names[dtype] : "?"; }
int32_t dtype_bytes(int32_t dtype) { return dtype_sizes[dtype]; }

int32_t dtype_promote(int32_t a, int32_t b) {
  if ((a == DLV3_F16 && b == DLV3_BF16) || (a == DLV3_BF16 && b == DLV3_F16)) return DLV3_F32;
  return a > b ? a : b;
}

/* -- Text -------------------------------------------------------------------------------------------------- */

const char *sizes_text(char *buf, int32_t ndim, const int64_t *size) {
  int used = snprintf(buf, TEXT, "[");
  for (int32_t i = 0; i < ndim; i++) used += snprintf(buf + used, (size_t)(TEXT - used), i ? ", %lld" : "%lld", (long long)size[i]);
  snprintf(buf + used, (size_t)(TEXT - used), "]");
  return buf;
}

const char *tensor_text(char *buf, const char *name, const tensor *t) {
  char sizes[TEXT];
  if (!t) snprintf(buf, TEXT, "%s none", name);
  else
    snprintf(buf, TEXT, "%s%s%.100s %s %s", name, *name ? " " : "", sizes_text(sizes, t->ndim, t->size), dtype_name(t->dtype),
             dlv3_device_name(t->st->device));
  return buf;
}

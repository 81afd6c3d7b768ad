/* status.c - the last error of a thread, and names of dtypes and sizes for messages.
 *
 * A message is formatted once and never used as a format. It may contain names from files: bytes
 * that a terminal would interpret are written as \xNN. */
#include "core.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char last_error[2048];

/* -- Unprintable bytes ------------------------------------------------------------------------- */

/* The length of the character at s where it is printable UTF-8; 0: a control character or no
 * UTF-8. */
static size_t shown_bytes(const unsigned char *s, size_t n) {
  static const unsigned smallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (*s < 0x80) return (*s >= ' ' && *s != 0x7f) || *s == '\n' || *s == '\t';
  const size_t length = (size_t)(2 + (*s >= 0xe0) + (*s >= 0xf0));
  if (*s < 0xc0 || *s >= 0xf8 || n < length) return 0;
  unsigned code = *s & (0xff >> (length + 1));
  for (size_t i = 1; i < length; i++) {
    if ((s[i] & 0xc0) != 0x80) return 0;
    code = code << 6 | (s[i] & 0x3f);
  }
  bool control = code < 0xa0 || (code >= 0x202a && code <= 0x202e)
                 || (code >= 0x2066 && code <= 0x2069); /* C1, and changes of text direction */
  bool wrong = code < smallest[length] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000);
  return control || wrong ? 0 : length;
}

DLV3_API int64_t dlv3_printable(char *out, int64_t room, const char *s, int64_t n) {
  int64_t used = 0;
  for (int64_t i = 0; i < n;) {
    size_t length = shown_bytes((const unsigned char *)s + i, (size_t)(n - i));
    int64_t put = length ? (int64_t)length : 4;
    if (used + put >= room) break;
    if (length)
      memcpy(out + used, s + i, length);
    else
      snprintf(out + used, 5, "\\x%02x", (unsigned char)s[i]);
    used += put;
    i += length ? (int64_t)length : 1;
  }
  out[used] = 0;
  return used;
}

/* -- The last error ---------------------------------------------------------------------------- */

DLV3_API const char *dlv3_last_error(void) { return last_error; }

/* Writes the message after the first `used` bytes of the last error, which may be among the
 * arguments. */
static void append_message(size_t used, const char *format, va_list args) {
  char text[sizeof last_error];
  int n = vsnprintf(text, sizeof text, format, args);
  if (n < 0) n = 0;
  if (n > (int)sizeof text - 1) n = (int)sizeof text - 1;
  dlv3_printable(last_error + used, (int64_t)(sizeof last_error - used), text, n);
}

status fail(status code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  append_message(0, format, args);
  va_end(args);
  return code;
}

status fail_more(status code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  append_message(strlen(last_error), format, args);
  va_end(args);
  return code;
}

/* -- Dtypes ------------------------------------------------------------------------------------ */

static const char *const dtype_names[DLV3_DTYPES] = {"bool", "u8", "i32", "i64", "f16", "bf16", "f32", "f64"};
static const int32_t dtype_sizes[DLV3_DTYPES] = {1, 1, 4, 8, 2, 2, 4, 8};

const char *dtype_name(int32_t dtype) { return dtype >= 0 && dtype < DLV3_DTYPES ? dtype_names[dtype] : "?"; }
int32_t dtype_bytes(int32_t dtype) { return dtype_sizes[dtype]; }

int32_t dtype_promote(int32_t a, int32_t b) {
  if ((a == DLV3_F16 && b == DLV3_BF16) || (a == DLV3_BF16 && b == DLV3_F16)) return DLV3_F32;
  return a > b ? a : b;
}

/* -- Text -------------------------------------------------------------------------------------- */

const char *sizes_text(char *buf, int32_t ndim, const int64_t *size) {
  int used = snprintf(buf, TEXT, "[");
  for (int32_t i = 0; i < ndim; i++)
    used += snprintf(buf + used, (size_t)(TEXT - used), i ? ", %lld" : "%lld", (long long)size[i]);
  snprintf(buf + used, (size_t)(TEXT - used), "]");
  return buf;
}

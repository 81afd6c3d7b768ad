/* call.c - a call as text for messages, and the checks that shape rules share. */
#include <stdarg.h>
#include <stdio.h>

#include "core.h"

/* -- Text -------------------------------------------------------------------------------------- */

/* "   stride 2,2  padding 0,0", appended at buf. Reads "stride:pair=1 padding:pair=0 " beside the
 * slots. */
static void attrs_text(char *buf, size_t n, const op_info *info, const void *attr) {
  const dlv3_attr *slot = attr;
  const char *p = info->attrs;
  int used = 0;
  buf[0] = 0;
  if (!attr) return;
  char name[32], type[16];
  int eaten;
  while (sscanf(p, "%31[^:]:%15[^=]=%*[^ ] %n", name, type, &eaten) == 2 && (size_t)used + 120 < n) {
    used += snprintf(buf + used, n - (size_t)used, "%s%s ", used ? "  " : "   ", name);
    if (!strcmp(type, "pair")) {
      used += snprintf(buf + used, n - (size_t)used, "%lld,%lld", (long long)slot[0].i, (long long)slot[1].i);
      slot += 2;
    } else if (!strcmp(type, "real")) {
      used += snprintf(buf + used, n - (size_t)used, "%g", slot->f);
      slot++;
    } else if (!strcmp(type, "dtype")) {
      used += snprintf(buf + used, n - (size_t)used, "%s", dtype_name((int32_t)slot->i));
      slot++;
    } else if (!strcmp(type, "axis") || !strcmp(type, "position")) {
      used += snprintf(buf + used, n - (size_t)used, "%lld", (long long)(slot->i < 0 ? slot->i : slot->i + 1));
      slot++;
    } else if (!strcmp(type, "dims") || !strcmp(type, "axes")) {
      char list[TEXT];
      int64_t v[DLV3_MAX_DIMS], count = slot[0].i < 0 || slot[0].i > DLV3_MAX_DIMS ? 0 : slot[0].i;
      for (int64_t i = 0; i < count; i++) v[i] = slot[1 + i].i + (!strcmp(type, "axes") && slot[1 + i].i >= 0);
      used += snprintf(buf + used, n - (size_t)used, "%s", sizes_text(list, (int32_t)count, v));
      slot += 1 + DLV3_MAX_DIMS;
    } else {
      used += snprintf(buf + used, n - (size_t)used, "%lld", (long long)slot->i);
      slot++;
    }
    p += eaten;
  }
}

const char *call_text(char *buf, size_t n, const op_call *c) {
  char one[TEXT];
  int used = 0;
  buf[0] = 0;
  for (int32_t i = 0; i < c->n_in && i < 12; i++) {
    char name[24];
    if (!c->in[i]) continue;
    if (c->info->variadic)
      snprintf(name, sizeof name, "%d:", (int)i + 1);
    else
      snprintf(name, sizeof name, "%s", c->info->in_name[i]);
    used += snprintf(buf + used, n - (size_t)used, "%s%s", used ? "   " : "", tensor_text(one, name, c->in[i]));
    if ((size_t)used + 200 > n) return buf;
  }
  attrs_text(buf + used, n - (size_t)used, c->info, c->attr);
  return buf;
}

status fail_call(const op_call *c, status code, const char *format, ...) {
  char message[600], tensors[1200];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  return fail(code, "%s: %s\n  %s", c->info->name, message, call_text(tensors, sizeof tensors, c));
}

/* -- Checks ------------------------------------------------------------------------------------ */

status check_ndim(const op_call *c, int32_t i, int32_t ndim) {
  if (c->in[i]->ndim == ndim) return DLV3_OK;
  return fail_call(c, DLV3_ERR_SHAPE, "%s must have %d dimensions, it has %d", c->info->in_name[i], (int)ndim,
                   (int)c->in[i]->ndim);
}

status check_float(const op_call *c, int32_t i) {
  if (is_float(c->in[i]->dtype)) return DLV3_OK;
  return fail_call(c, DLV3_ERR_DTYPE, "%s must be a float tensor (f16, bf16, f32, f64), it is %s", c->info->in_name[i],
                   dtype_name(c->in[i]->dtype));
}

status check_dtype(const op_call *c, int32_t i, int32_t dtype) {
  if (c->in[i]->dtype == dtype) return DLV3_OK;
  return fail_call(c, DLV3_ERR_DTYPE, "%s must be %s, it is %s", c->info->in_name[i], dtype_name(dtype),
                   dtype_name(c->in[i]->dtype));
}

status check_sizes(const op_call *c, int32_t i, int32_t ndim, const int64_t *size) {
  char want[TEXT];
  const tensor *t = c->in[i];
  if (t->ndim == ndim && (!ndim || !memcmp(t->size, size, (size_t)ndim * sizeof *size))) return DLV3_OK;
  return fail_call(c, DLV3_ERR_SHAPE, "%s must be %s", c->info->in_name[i], sizes_text(want, ndim, size));
}

status normalize_axis(const op_call *c, int64_t *axis, int32_t ndim) {
  int64_t a = *axis < 0 ? *axis + ndim : *axis;
  if (a < 0 || a >= ndim)
    return fail_call(c, DLV3_ERR_ARG, "no axis %lld in a tensor of %d dimensions",
                     (long long)(*axis < 0 ? *axis : *axis + 1), (int)ndim);
  *axis = a;
  return DLV3_OK;
}

/* call.c - a call as text for messages, and the checks that shape rules share. */
#include <stdarg.h>
#include <stdio.h>

#include "core.h"

/* -- Text -------------------------------------------------------------------------------------- */

/* "[2, 3]", of axes counted from 1. */
static const char *list_text(char *buf, const dlv3_attr *slot, bool axes) {
  int64_t v[DLV3_MAX_DIMS], count = slot[0].i < 0 || slot[0].i > DLV3_MAX_DIMS ? 0 : slot[0].i;
  for (int64_t i = 0; i < count; i++) v[i] = slot[1 + i].i + (axes && slot[1 + i].i >= 0);
  return sizes_text(buf, (int32_t)count, v);
}

/* The value of an attribute as Lua would write it. */
static const char *value_text(char *buf, int32_t type, const dlv3_attr *slot) {
  const long long value = (long long)slot->i;
  switch (type) {
  case ATTR_pair: snprintf(buf, TEXT, "%lld,%lld", value, (long long)slot[1].i); break;
  case ATTR_real: snprintf(buf, TEXT, "%g", slot->f); break;
  case ATTR_bool: snprintf(buf, TEXT, "%s", value ? "true" : "false"); break;
  case ATTR_dtype: snprintf(buf, TEXT, "%s", dtype_name((int32_t)slot->i)); break;
  case ATTR_act: {
    const char *name = dlv3_activation_name((int32_t)slot->i);
    snprintf(buf, TEXT, "%s", name ? name : "?");
    break;
  }
  case ATTR_axis:
  case ATTR_position: snprintf(buf, TEXT, "%lld", value < 0 ? value : value + 1); break;
  case ATTR_dims: return list_text(buf, slot, false);
  case ATTR_axes: return list_text(buf, slot, true);
  default: snprintf(buf, TEXT, "%lld", value); break;
  }
  return buf;
}

/* "   stride 2,2  padding 0,0  activation relu", appended at buf. */
static void attrs_text(char *buf, size_t n, const op_info *info, const void *attr) {
  const dlv3_attr *slot = attr;
  char value[TEXT];
  int used = 0;
  buf[0] = 0;
  if (!attr) return;
  for (int32_t i = 0; i < info->n_attributes && (size_t)used + 200 < n; i++) {
    const op_attribute *a = &info->attributes[i];
    used += snprintf(buf + used, n - (size_t)used, "%s%s %s", used ? "  " : "   ", a->name,
                     value_text(value, a->type, slot));
    slot += attribute_slots(a->type);
  }
}

const char *call_text(char *buf, size_t n, const op_call *c) {
  char one[TEXT];
  int used = 0;
  buf[0] = 0;
  for (int32_t i = 0; i < c->n_in && i < MOST_NAMED_INPUTS; i++) {
    char number[24];
    if (!c->in[i]) continue;
    snprintf(number, sizeof number, "%d:", (int)i + 1);
    const char *name = c->info->variadic ? number : c->info->in_name[i];
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

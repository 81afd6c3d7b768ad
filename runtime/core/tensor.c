/* tensor.c - tensor headers: layout, lifetime, views.
 *
 * A tensor is a window (dtype, sizes, strides, offset) on a storage. Nothing here computes or
 * reads elements: arithmetic, layout changes and casts are ops, and host_access.c reads and writes
 * values. */
#include <stdio.h>
#include <stdlib.h>

#include "backend.h"

/* -- Layout ------------------------------------------------------------------------------------ */

void dense_strides(int32_t ndim, const int64_t *size, int64_t *stride) {
  static const int32_t channels_last[4] = {1, 3, 2, 0}; /* fastest first */
  int64_t step = 1;
  for (int32_t k = 0; k < ndim; k++) {
    int32_t axis = ndim == 4 ? channels_last[k] : ndim - 1 - k;
    stride[axis] = step;
    step *= size[axis] > 0 ? size[axis] : 1;
  }
}

bool is_dense(const tensor *t) {
  int64_t want[DLV3_MAX_DIMS];
  dense_strides(t->ndim, t->size, want);
  for (int32_t i = 0; i < t->ndim; i++)
    if (t->size[i] > 1 && t->stride[i] != want[i]) return false;
  return true;
}

bool same_sizes(const tensor *a, const tensor *b) {
  return a->ndim == b->ndim && !memcmp(a->size, b->size, (size_t)a->ndim * sizeof *a->size);
}

/* -- Headers ----------------------------------------------------------------------------------- */

static status header_new(tensor **out, int32_t dtype, int32_t ndim, const int64_t *size) {
  tensor *t = calloc(1, sizeof *t);
  if (!t) return fail(DLV3_ERR_OOM, "out of memory for a tensor header");
  t->refs = 1;
  t->dtype = dtype;
  t->ndim = ndim;
  if (ndim) memcpy(t->size, size, (size_t)ndim * sizeof *size);
  *out = t;
  return DLV3_OK;
}

/* The bytes of a tensor; an error where they exceed 2^62. */
static status byte_count(int64_t *bytes, int32_t dtype, int32_t ndim, const int64_t *size) {
  char text[TEXT];
  *bytes = dtype_bytes(dtype);
  bool empty = false, overflow = false;
  for (int32_t i = 0; i < ndim; i++) {
    if (size[i] < 0) return fail(DLV3_ERR_SHAPE, "expected sizes of 0 or more, got %s", sizes_text(text, ndim, size));
    if (size[i] == 0)
      empty = true;
    else if (*bytes > (1ll << 62) / size[i])
      overflow = true;
    else
      *bytes *= size[i];
  }
  if (empty)
    *bytes = 0;
  else if (overflow)
    return fail(DLV3_ERR_SHAPE, "a tensor of %s %s is too large: a tensor may have at most 2^62 bytes",
                sizes_text(text, ndim, size), dtype_name(dtype));
  return DLV3_OK;
}

status tensor_new(tensor **out, int32_t dtype, int32_t ndim, const int64_t *size, int32_t device) {
  int64_t bytes;
  char text[TEXT];
  tensor *t;
  TRY(byte_count(&bytes, dtype, ndim, size));
  TRY(header_new(&t, dtype, ndim, size));
  dense_strides(ndim, size, t->stride);
  status st = storage_new(&t->st, bytes, device);
  if (st != DLV3_OK) {
    free(t);
    return fail_more(st, "\n  for a tensor of %s %s", sizes_text(text, ndim, size), dtype_name(dtype));
  }
  *out = t;
  return DLV3_OK;
}

status tensor_alias(tensor **out, const tensor *t) {
  tensor *a;
  TRY(header_new(&a, t->dtype, t->ndim, t->size));
  memcpy(a->stride, t->stride, sizeof a->stride);
  a->offset = t->offset;
  a->st = storage_retain(t->st);
  *out = a;
  return DLV3_OK;
}

tensor *tensor_retain(tensor *t) {
  t->refs++;
  return t;
}

void tensor_drop(tensor *t) {
  if (!t || --t->refs > 0) return;
  tensor_drop(t->grad);
  if (t->node) node_drop(t->node);
  storage_drop(t->st);
  free(t);
}

DLV3_API dlv3_status dlv3_tensor_new(dlv3_tensor **out, int32_t dtype, int32_t ndim, const int64_t *size,
                                     int32_t device) {
  if (dtype < 0 || dtype >= DLV3_DTYPES) return fail(DLV3_ERR_DTYPE, "no dtype has the number %d", (int)dtype);
  if (ndim < 0 || ndim > DLV3_MAX_DIMS)
    return fail(DLV3_ERR_SHAPE, "expected 0 to %d dimensions, got %d", DLV3_MAX_DIMS, (int)ndim);
  if (!device_known(device)) return fail(DLV3_ERR_DEVICE, "no device has the number %d", (int)device);
  return tensor_new(out, dtype, ndim, size, device);
}

DLV3_API void dlv3_tensor_free(dlv3_tensor *t) { tensor_drop(t); }
DLV3_API void dlv3_tensor_release(dlv3_tensor *t) { storage_release(t->st); }
DLV3_API int32_t dlv3_tensor_released(const dlv3_tensor *t) { return !storage_alive(t->st); }
DLV3_API int32_t dlv3_tensor_dtype(const dlv3_tensor *t) { return t->dtype; }
DLV3_API int32_t dlv3_tensor_device(const dlv3_tensor *t) { return t->st->device; }
DLV3_API int32_t dlv3_tensor_ndim(const dlv3_tensor *t) { return t->ndim; }
DLV3_API int64_t dlv3_tensor_size(const dlv3_tensor *t, int32_t axis) {
  return axis >= 0 && axis < t->ndim ? t->size[axis] : -1;
}
DLV3_API int64_t dlv3_tensor_stride(const dlv3_tensor *t, int32_t axis) {
  return axis >= 0 && axis < t->ndim ? t->stride[axis] : -1;
}
DLV3_API int64_t dlv3_tensor_numel(const dlv3_tensor *t) { return numel(t); }
DLV3_API int32_t dlv3_tensor_is_dense(const dlv3_tensor *t) { return is_dense(t); }
DLV3_API void dlv3_tensor_freeze(dlv3_tensor *t) { t->st->frozen = true; }
DLV3_API int64_t dlv3_tensor_version(const dlv3_tensor *t) { return storage_version(t->st); }

status check_alive(const tensor *t, const char *what) {
  char text[TEXT];
  if (storage_alive(t->st)) return storage_restore(t->st);
  return fail(DLV3_ERR_RELEASED, "%s: the tensor was released, by release() or when its scope ended\n %s", what,
              tensor_text(text, "", t));
}

const char *tensor_text(char *buf, const char *name, const tensor *t) {
  char sizes[TEXT];
  if (!t)
    snprintf(buf, TEXT, "%s none", name);
  else
    snprintf(buf, TEXT, "%s%s%.100s %s %s", name, *name ? " " : "", sizes_text(sizes, t->ndim, t->size),
             dtype_name(t->dtype), dlv3_device_name(t->st->device));
  return buf;
}

/* -- Views ------------------------------------------------------------------------------------- */

DLV3_API dlv3_status dlv3_tensor_window(dlv3_tensor **out, const dlv3_tensor *t, int32_t ndim, const int64_t *size,
                                        const int64_t *stride, int64_t offset) {
  char a[TEXT], b[TEXT];
  TRY(check_alive(t, "window"));
  if (ndim < 0 || ndim > DLV3_MAX_DIMS)
    return fail(DLV3_ERR_SHAPE, "expected 0 to %d dimensions, got %d", DLV3_MAX_DIMS, (int)ndim);
  if (t->ndim != 1 || !is_dense(t))
    return fail(DLV3_ERR_ARG, "window: expected a dense 1-d tensor, got %s", tensor_text(a, "", t));
  int64_t last = offset, count = 1;
  bool empty = false, outside = offset < 0 || offset > t->size[0];
  for (int32_t i = 0; i < ndim; i++) {
    if (size[i] < 0 || stride[i] < 0)
      return fail(DLV3_ERR_SHAPE, "window: expected sizes and strides of 0 or more, got sizes %s",
                  sizes_text(a, ndim, size));
    if (size[i] == 0)
      empty = true;
    else if (__builtin_mul_overflow(count, size[i], &count) || count > 1ll << 58)
      return fail(DLV3_ERR_SHAPE, "window: %s has too many elements", sizes_text(a, ndim, size));
  }
  for (int32_t i = 0; i < ndim && !empty && !outside; i++) {
    int64_t reach;
    outside = __builtin_mul_overflow(size[i] - 1, stride[i], &reach) || __builtin_add_overflow(last, reach, &last);
  }
  if (outside || (!empty && last >= t->size[0]))
    return fail(DLV3_ERR_SHAPE, "window: %s at %lld with strides %s reaches past %lld elements",
                sizes_text(a, ndim, size), (long long)offset, sizes_text(b, ndim, stride), (long long)t->size[0]);
  TRY(tensor_alias(out, t));
  (*out)->ndim = ndim;
  (*out)->offset = t->offset + offset;
  if (ndim) memcpy((*out)->size, size, (size_t)ndim * sizeof *size);
  dense_strides(ndim, (*out)->size, (*out)->stride); /* for axes of size 1, whose stride has no meaning */
  for (int32_t i = 0; i < ndim && !empty; i++)
    if (size[i] > 1) (*out)->stride[i] = stride[i];
  return DLV3_OK;
}

DLV3_API int64_t dlv3_tensor_address(const dlv3_tensor *t) {
  return t->st->data ? (int64_t)(uintptr_t)(t->st->data + t->offset * dtype_bytes(t->dtype)) : 0;
}

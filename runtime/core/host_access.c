/* host_access.c - the values of tensors read and written from the host, copies between devices,
 * and tensors that change their storage.
 *
 * The element loops here serve printing, tables and files. Casts and layout changes are ops, so
 * that rounding is the kernels' own. */
#include <math.h>
#include <stdlib.h>

#include "backend.h"
#include "executor.h"
#include "row_iterator.h"

/* -- Elements ---------------------------------------------------------------------------------- */

static double read_element(const char *p, int32_t dtype) {
  float f;
  uint32_t bits;
  uint16_t h;
  switch (dtype) {
  case DLV3_BOOL:
  case DLV3_U8: return *(const uint8_t *)p;
  case DLV3_I32: return *(const int32_t *)p;
  case DLV3_I64: return (double)*(const int64_t *)p;
  case DLV3_BF16:
    memcpy(&h, p, 2);
    bits = (uint32_t)h << 16;
    memcpy(&f, &bits, 4);
    return f;
  case DLV3_F16: {
    memcpy(&h, p, 2);
    int32_t exponent = h >> 10 & 31, fraction = h & 1023;
    double magnitude = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    if (exponent == 31) magnitude = fraction ? NAN : INFINITY;
    return h & 0x8000 ? -magnitude : magnitude;
  }
  case DLV3_F32: return *(const float *)p;
  default: return *(const double *)p;
  }
}

/* Replaces every nan by the canonical one: LuaJIT tags its values in the other bits of nans, so a
 * nan from a file could be taken for an object at any address. */
static double get_element(const char *p, int32_t dtype) {
  double v = read_element(p, dtype);
  return v != v ? __builtin_nan("") : v;
}

DLV3_API dlv3_status dlv3_tensor_to_f64(double *dst, const dlv3_tensor *t) {
  TRY(check_host_access("totable"));
  TRY(check_alive(t, "totable"));
  if (numel(t) == 0) return DLV3_OK;
  if (t->st->device) {
    tensor *here;
    TRY(tensor_to_device(&here, t, 0));
    status st = dlv3_tensor_to_f64(dst, here);
    tensor_drop(here);
    return st;
  }
  int64_t width = dtype_bytes(t->dtype);
  row_iterator w = row_iterator_of(t);
  do {
    const char *p = t->st->data + w.offset * width;
    for (int64_t i = 0; i < w.size[w.ndim - 1]; i++)
      *dst++ = get_element(p + i * w.stride[w.ndim - 1] * width, t->dtype);
  } while (row_iterator_next(&w));
  return DLV3_OK;
}

DLV3_API dlv3_status dlv3_tensor_at(double *value, const dlv3_tensor *t, int64_t position) {
  TRY(check_host_access("item"));
  TRY(check_alive(t, "element"));
  if (position < 0 || position >= numel(t))
    return fail(DLV3_ERR_ARG, "no element %lld among %lld", (long long)position, (long long)numel(t));
  int64_t at = t->offset;
  for (int32_t i = t->ndim - 1; i >= 0; i--) {
    at += position % t->size[i] * t->stride[i];
    position /= t->size[i];
  }
  const char *p = t->st->data + at * dtype_bytes(t->dtype);
  char here[8];
  if (t->st->device) {
    TRY(device_copy(here, p, dtype_bytes(t->dtype), 0, t->st->device));
    p = here;
  }
  *value = get_element(p, t->dtype);
  return DLV3_OK;
}

struct dlv3_later {
  void *read; /* the backend's read in progress; NULL: none */
  int32_t device, dtype;
  double value;
};

DLV3_API dlv3_status dlv3_later_begin(dlv3_later **out, const dlv3_tensor *t) {
  TRY(check_host_access("item_later"));
  TRY(check_alive(t, "item_later"));
  if (numel(t) != 1)
    return fail(DLV3_ERR_ARG, "item_later: the tensor must have one element, it has %lld", (long long)numel(t));
  const int32_t device = t->st->device;
  dlv3_later *l = malloc(sizeof *l);
  if (!l) return fail(DLV3_ERR_OOM, "item_later: out of memory");
  *l = (dlv3_later){.device = device, .dtype = t->dtype};
  const status st = device ? backend_of(device)->read_begin(&l->read, t->st->data + t->offset * dtype_bytes(t->dtype),
                                                            dtype_bytes(t->dtype), device)
                           : dlv3_tensor_at(&l->value, t, 0);
  if (st != DLV3_OK) {
    free(l);
    return st;
  }
  return *out = l, DLV3_OK;
}

DLV3_API dlv3_status dlv3_later_value(double *value, dlv3_later *l) {
  if (l->read) {
    char here[8];
    void *read = l->read;
    l->read = NULL;
    l->value = __builtin_nan("");
    TRY(backend_of(l->device)->read_end(read, here, dtype_bytes(l->dtype), l->device));
    l->value = get_element(here, l->dtype);
  }
  return *value = l->value, DLV3_OK;
}

DLV3_API void dlv3_later_free(dlv3_later *l) {
  const status st = l && l->read ? backend_of(l->device)->read_end(l->read, NULL, 0, l->device)
                                 : DLV3_OK; /* the value is not needed */
  (void)st;
  free(l);
}

/* Copies `from`, a cpu tensor of t's sizes, into t, with a cast. */
static status write_tensor(tensor *t, tensor *from) {
  tensor *there;
  TRY(tensor_to_device(&there, from, t->st->device));
  status st = op_run_untracked(OP_copy_, IN(t, there), NULL, NULL);
  tensor_drop(there);
  return st;
}

/* Through an f64 tensor and copy_, so that rounding is the kernels' own. */
DLV3_API dlv3_status dlv3_tensor_from_f64(dlv3_tensor *t, const double *src) {
  tensor *f64;
  TRY(check_host_access("tensor"));
  TRY(check_alive(t, "tensor"));
  TRY(tensor_new(&f64, DLV3_F64, t->ndim, t->size, 0));
  status st = dlv3_tensor_from_bytes(f64, src, numel(t) * 8);
  if (st == DLV3_OK) st = write_tensor(t, f64);
  tensor_drop(f64);
  return st;
}

static status copy_bytes(const tensor *t, char *flat, int64_t n_bytes, bool to_tensor) {
  char text[TEXT];
  int64_t width = dtype_bytes(t->dtype);
  TRY(check_host_access("bytes"));
  TRY(check_alive(t, "bytes"));
  if (n_bytes != numel(t) * width)
    return fail(DLV3_ERR_ARG, "%lld bytes do not fill %s, which has %lld", (long long)n_bytes, tensor_text(text, "", t),
                (long long)(numel(t) * width));
  if (!n_bytes) return DLV3_OK;
  row_iterator w = row_iterator_of(t);
  int64_t row = w.size[w.ndim - 1];
  do {
    copy_row(t->st->data + w.offset * width, flat, row, w.stride[w.ndim - 1], width, to_tensor);
    flat += row * width;
  } while (row_iterator_next(&w));
  return DLV3_OK;
}

DLV3_API dlv3_status dlv3_tensor_to_bytes(void *dst, const dlv3_tensor *t, int64_t n_bytes) {
  TRY(check_alive(t, "bytes"));
  tensor *here;
  TRY(tensor_to_device(&here, t, 0));
  status st = copy_bytes(here, dst, n_bytes, false);
  tensor_drop(here);
  return st;
}

DLV3_API dlv3_status dlv3_tensor_from_bytes(dlv3_tensor *t, const void *src, int64_t n_bytes) {
  if (t->st->device) {
    TRY(check_alive(t, "bytes"));
    tensor *here;
    TRY(tensor_new(&here, t->dtype, t->ndim, t->size, 0));
    status st = dlv3_tensor_from_bytes(here, src, n_bytes);
    if (st == DLV3_OK) st = write_tensor(t, here);
    tensor_drop(here);
    return st;
  }
  TRY(copy_bytes(t, (char *)(uintptr_t)src, n_bytes, true)); /* src is only read */
  storage_changed(t->st, 1);
  return DLV3_OK;
}

/* -- Devices and storages ---------------------------------------------------------------------- */

/* A dense tensor has the same layout on every device: one copy of its bytes is enough. */
status tensor_to_device(tensor **out, const tensor *t, int32_t device) {
  tensor *self = (tensor *)(uintptr_t)t, *dense = NULL; /* only its reference count changes */
  if (device == t->st->device) return *out = tensor_retain(self), DLV3_OK;
  TRY(check_host_access("to"));
  if (!is_dense(t)) {
    TRY(op_run_untracked(OP_contiguous, IN(self), NULL, &dense));
    t = dense;
  }
  status st = tensor_new(out, t->dtype, t->ndim, t->size, device);
  if (st == DLV3_OK) {
    st = device_copy(data_of(*out), data_of(t), tensor_bytes(t), device, t->st->device);
    if (st != DLV3_OK) tensor_drop(*out);
  }
  tensor_drop(dense);
  return st;
}

DLV3_API dlv3_status dlv3_tensor_to_device(dlv3_tensor **out, const dlv3_tensor *t, int32_t device) {
  TRY(check_alive(t, "to"));
  if (!device_known(device)) return fail(DLV3_ERR_DEVICE, "to: no device has the number %d", (int)device);
  return tensor_to_device(out, t, device);
}

DLV3_API dlv3_status dlv3_tensor_rebase(dlv3_tensor *t, dlv3_tensor *arena, int64_t offset) {
  char a[TEXT], b[TEXT];
  int64_t n = numel(t), width = dtype_bytes(t->dtype);
  TRY(check_host_access("rebase"));
  TRY(check_alive(t, "rebase"));
  TRY(check_alive(arena, "rebase"));
  if (t->dtype != arena->dtype || t->st->device != arena->st->device || arena->ndim != 1 || !is_dense(arena) || t->node)
    return fail(DLV3_ERR_ARG, "rebase: a leaf and a dense 1-d arena of its dtype and device are needed\n  %s   %s",
                tensor_text(a, "t", t), tensor_text(b, "arena", arena));
  if (offset < 0 || offset > arena->size[0] - n)
    return fail(DLV3_ERR_ARG, "rebase: %lld elements at %lld do not fit %s", (long long)n, (long long)offset,
                tensor_text(b, "arena", arena));
  int64_t at = arena->offset + offset;
  storage *slice;
  TRY(storage_slice(&slice, arena->st, at * width, n * width));
  tensor moved = *t;
  moved.st = slice;
  moved.offset = 0;
  dense_strides(t->ndim, t->size, moved.stride);
  tensor *target = &moved;
  if (n) { /* copies the content; the layouts may differ */
    moved.requires_grad = false;
    moved.grad = NULL;
    status st = op_run_untracked(OP_copy_, IN(target, t), NULL, NULL);
    if (st != DLV3_OK) {
      storage_drop(slice);
      return st;
    }
  }
  scope_inherit(slice, t->st);
  storage_drop(t->st);
  t->st = slice;
  t->offset = 0;
  memcpy(t->stride, moved.stride, sizeof t->stride);
  return DLV3_OK;
}

DLV3_API dlv3_status dlv3_tensor_assign(dlv3_tensor *t, dlv3_tensor *from) {
  char a[TEXT], b[TEXT];
  TRY(check_host_access("assign"));
  TRY(check_alive(from, "assign"));
  if (!same_sizes(t, from) || t->node)
    return fail(DLV3_ERR_SHAPE, "assign: a leaf and a tensor of its sizes are needed\n  %s   %s",
                tensor_text(a, "t", t), tensor_text(b, "from", from));
  storage_retain(from->st);
  scope_inherit(from->st, t->st);
  storage_drop(t->st);
  t->st = from->st;
  t->offset = from->offset;
  t->dtype = from->dtype;
  memcpy(t->stride, from->stride, sizeof t->stride);
  tensor_drop(t->grad);
  t->grad = NULL;
  return DLV3_OK;
}

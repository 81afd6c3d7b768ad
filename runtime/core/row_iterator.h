/* row_iterator.h - the rows of a tensor in logical row-major order: for bytes, tables and files,
 * not for kernels. */
#ifndef DLV3_ROW_ITERATOR_H
#define DLV3_ROW_ITERATOR_H

#include "core.h"

/* The rows of a tensor in logical row-major order: sizes of 1 dropped, neighbours merged where
 * strides allow. */
typedef struct {
  int32_t ndim;
  int64_t size[DLV3_MAX_DIMS], stride[DLV3_MAX_DIMS], index[DLV3_MAX_DIMS], offset;
} row_iterator;

static inline row_iterator row_iterator_of(const tensor *t) {
  row_iterator w = {.ndim = 0, .offset = t->offset};
  for (int32_t i = 0; i < t->ndim; i++) {
    if (t->size[i] == 1) continue;
    int32_t last = w.ndim - 1;
    if (w.ndim && w.stride[last] == t->stride[i] * t->size[i]) {
      w.size[last] *= t->size[i];
      w.stride[last] = t->stride[i];
    } else {
      w.size[w.ndim] = t->size[i];
      w.stride[w.ndim++] = t->stride[i];
    }
  }
  if (!w.ndim) {
    w.size[0] = 1;
    w.stride[0] = 1;
    w.ndim = 1;
  }
  return w;
}

/* Moves to the next row; false after the last. */
static inline bool row_iterator_next(row_iterator *w) {
  for (int32_t i = w->ndim - 2; i >= 0; i--) {
    w->offset += w->stride[i];
    if (++w->index[i] < w->size[i]) return true;
    w->offset -= w->stride[i] * w->size[i];
    w->index[i] = 0;
  }
  return false;
}

/* One row: n elements of `width` bytes, `stride` elements apart at p, packed at flat. */
#define COPY_ROW(T) \
  for (int64_t i = 0; i < n; i++) { \
    if (to_tensor) \
      ((T *)p)[i * stride] = ((const T *)flat)[i]; \
    else \
      ((T *)flat)[i] = ((const T *)p)[i * stride]; \
  }
static inline void copy_row(char *p, char *flat, int64_t n, int64_t stride, int64_t width, bool to_tensor) {
  if (stride == 1 || n == 1) {
    if (to_tensor)
      memcpy(p, flat, (size_t)(n * width));
    else
      memcpy(flat, p, (size_t)(n * width));
  } else if (width == 8) {
    COPY_ROW(uint64_t)
  } else if (width == 4) {
    COPY_ROW(uint32_t)
  } else if (width == 2) {
    COPY_ROW(uint16_t)
  } else {
    COPY_ROW(uint8_t)
  }
}
#undef COPY_ROW

#endif

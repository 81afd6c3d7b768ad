/* elements.c - see elements.h. */
#include "elements.h"

/* Axis order: operand 0's smallest stride first. */
static void sort_axes(elements *e) {
  for (int32_t i = 1; i < e->ndim; i++)
    for (int32_t k = i; k > 0 && e->stride[0][k] < e->stride[0][k - 1]; k--) {
      int64_t s = e->size[k];
      e->size[k] = e->size[k - 1], e->size[k - 1] = s;
      for (int32_t o = 0; o < e->n_op; o++) {
        s = e->stride[o][k];
        e->stride[o][k] = e->stride[o][k - 1], e->stride[o][k - 1] = s;
      }
    }
}

static void merge_axes(elements *e) {
  int32_t last = 0;
  for (int32_t i = 1; i < e->ndim; i++) {
    bool joined = true;
    for (int32_t o = 0; o < e->n_op; o++) joined &= e->stride[o][i] == e->stride[o][last] * e->size[last];
    if (joined)
      e->size[last] *= e->size[i];
    else {
      last++;
      e->size[last] = e->size[i];
      for (int32_t o = 0; o < e->n_op; o++) e->stride[o][last] = e->stride[o][i];
    }
  }
  e->ndim = last + 1;
}

elements elements_of(tensor *const *t, int32_t n) {
  elements e = {.n_op = n, .total = numel(t[0])};
  for (int32_t o = 0; o < n; o++) e.data[o] = data_of(t[o]), e.dtype[o] = t[o]->dtype;
  for (int32_t i = 0; i < t[0]->ndim; i++) {
    if (t[0]->size[i] == 1) continue;
    e.size[e.ndim] = t[0]->size[i];
    for (int32_t o = 0; o < n; o++) {
      int32_t axis = i - (t[0]->ndim - t[o]->ndim);
      e.stride[o][e.ndim] = axis < 0 || t[o]->size[axis] == 1 ? 0 : t[o]->stride[axis];
    }
    e.ndim++;
  }
  if (!e.ndim) e.size[0] = 1, e.ndim = 1;
  sort_axes(&e);
  merge_axes(&e);
  return e;
}

typedef struct {
  const elements *e;
  elements_run run;
  void *ctx;
} walk_job;

/* Elements [begin, end) in walking order. */
static void walk_range(void *ctx, int64_t begin, int64_t end) {
  const walk_job *job = ctx;
  const elements *e = job->e;
  int64_t index[DLV3_MAX_DIMS], at = begin, strides[MAX_OPERANDS] = {0}, jumps[MAX_OPERANDS] = {0};
  for (int32_t i = 0; i < e->ndim; i++) index[i] = at % e->size[i], at /= e->size[i];
  for (int32_t o = 0; o < e->n_op; o++) strides[o] = e->stride[o][0], jumps[o] = e->ndim > 1 ? e->stride[o][1] : 0;
  while (begin < end) {
    char *p[MAX_OPERANDS] = {0};
    for (int32_t o = 0; o < e->n_op; o++) {
      int64_t offset = 0;
      for (int32_t i = 0; i < e->ndim; i++) offset += index[i] * e->stride[o][i];
      p[o] = e->data[o] + offset * dtype_bytes(e->dtype[o]);
    }
    int64_t n = e->size[0] - index[0], rows = 1;
    if (n > end - begin) n = end - begin;
    bool whole = n == e->size[0] && e->ndim > 1;
    if (whole) {
      rows = (end - begin) / n;
      if (rows > e->size[1] - index[1]) rows = e->size[1] - index[1];
      index[1] += rows;
    } else
      index[0] += n;
    job->run(job->ctx, p, strides, jumps, n, rows);
    begin += n * rows;
    for (int32_t i = whole; i + 1 < e->ndim && index[i] == e->size[i]; i++) index[i] = 0, index[i + 1]++;
  }
}

void elements_walk(const elements *e, elements_run run, void *ctx) {
  walk_job job = {e, run, ctx};
  if (e->total) parallel_for(e->total, GRAIN, walk_range, &job);
}

/* -- Copies ------------------------------------------------------------------------------------ */

typedef struct {
  int32_t to, from;
} copy_job;

#define COPY(T) \
  do { \
    T *y = (T *)p[0]; \
    const T *x = (const T *)p[1]; \
    int64_t sy = stride[0], sx = stride[1]; \
    for (int64_t r = 0; r < rows; r++, y += jump[0], x += jump[1]) \
      for (int64_t i = 0; i < n; i++) y[i * sy] = x[i * sx]; \
  } while (0)

static void copy_same(void *ctx, char *const *p, const int64_t *stride, const int64_t *jump, int64_t n, int64_t rows) {
  int32_t width = dtype_bytes(((const copy_job *)ctx)->to);
  if (stride[0] == 1 && stride[1] == 1 && (rows == 1 || n >= 16)) {
    for (int64_t r = 0; r < rows; r++)
      memcpy(p[0] + r * jump[0] * width, p[1] + r * jump[1] * width, (size_t)(n * width));
  } else if (width == 8)
    COPY(uint64_t);
  else if (width == 4)
    COPY(uint32_t);
  else if (width == 2)
    COPY(uint16_t);
  else
    COPY(uint8_t);
}

/* m <= RUN elements: integers through i64, others through f64 where either side needs more than f32
 * holds, else through f32. */
static void cast_piece(const copy_job *job, char *y, const char *x, int64_t sy, int64_t sx, int64_t m) {
  bool half = job->to >= DLV3_F16 && job->to <= DLV3_F32 && job->from >= DLV3_F16 && job->from <= DLV3_F32;
  bool whole = !is_float(job->to) && !is_float(job->from);
  int64_t piece = sy == 1 && sx == 1 ? m : 1, wy = sy * dtype_bytes(job->to), wx = sx * dtype_bytes(job->from);
  double wide[RUN];
  float narrow[RUN];
  int64_t exact[RUN];
  for (int64_t i = 0; i < m; i += piece) {
    if (half)
      load_f32(narrow, x + i * wx, job->from, piece), store_f32(y + i * wy, job->to, narrow, piece);
    else if (whole)
      load_i64(exact, x + i * wx, job->from, piece), store_i64(y + i * wy, job->to, exact, piece);
    else
      load_f64(wide, x + i * wx, job->from, piece), store_f64(y + i * wy, job->to, wide, piece);
  }
}

static void copy_cast(void *ctx, char *const *p, const int64_t *stride, const int64_t *jump, int64_t n, int64_t rows) {
  const copy_job *job = ctx;
  int64_t wy = dtype_bytes(job->to), wx = dtype_bytes(job->from);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t at = 0; at < n; at += RUN)
      cast_piece(job, p[0] + (r * jump[0] + at * stride[0]) * wy, p[1] + (r * jump[1] + at * stride[1]) * wx, stride[0],
                 stride[1], n - at < RUN ? n - at : RUN);
}

void elements_copy(tensor *dst, tensor *src) {
  elements e = elements_of((tensor *[]){dst, src}, 2);
  copy_job job = {dst->dtype, src->dtype};
  elements_walk(&e, dst->dtype == src->dtype ? copy_same : copy_cast, &job);
}

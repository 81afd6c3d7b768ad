/* resample.c - bilinear interpolation on the cpu: forward, gradient, and fused with argmax.
 *
 * interpolate.h says which pixels are blended. The gradient gathers: each row of grad_x adds up the
 * rows of grad_y that reach it, in their order, so nothing is written by two threads. */
#include "cpu/support/interpolate.h"

/* -- Reference --------------------------------------------------------------------------------- */

static status ref_upsample_bilinear2d(op_call *c) {
  const upsample_bilinear2d_attr *a = c->attr;
  const tensor *x = c->in[0];
  tensor *y = c->out[0];
  const axis_map rows = axis_map_of(x->size[2], a->size.h, a->align_corners, x->dtype);
  const axis_map columns = axis_map_of(x->size[3], a->size.w, a->align_corners, x->dtype);
  for (int64_t n = 0; n < y->size[0]; n++)
    for (int64_t i = 0; i < a->size.h; i++)
      for (int64_t j = 0; j < a->size.w; j++) {
        const taps v = taps_of(&rows, i), u = taps_of(&columns, j);
        for (int64_t k = 0; k < y->size[1]; k++) set(y, at4(y, n, k, i, j), blend(x, n, k, &v, &u));
      }
  return DLV3_OK;
}

/* grad_x[p] = sum over the destinations that p takes part in of its weight there times grad_y. */
static status ref_upsample_bilinear2d_backward(op_call *c) {
  const upsample_bilinear2d_backward_attr *a = c->attr;
  const tensor *grad_y = c->in[0];
  tensor *grad_x = c->out[0];
  const axis_map rows = axis_map_of(a->size.h, grad_y->size[2], a->align_corners, grad_y->dtype);
  const axis_map columns = axis_map_of(a->size.w, grad_y->size[3], a->align_corners, grad_y->dtype);
  for (int64_t n = 0; n < grad_x->size[0]; n++)
    for (int64_t iy = 0; iy < a->size.h; iy++)
      for (int64_t ix = 0; ix < a->size.w; ix++) {
        int64_t y0, y1, x0, x1;
        reached(&rows, iy, &y0, &y1);
        reached(&columns, ix, &x0, &x1);
        for (int64_t k = 0; k < grad_x->size[1]; k++) {
          double sum = 0;
          for (int64_t i = y0; i < y1; i++)
            for (int64_t j = x0; j < x1; j++) {
              const taps v = taps_of(&rows, i), u = taps_of(&columns, j);
              sum += tap_weight(&v, iy) * tap_weight(&u, ix) * at(grad_y, at4(grad_y, n, k, i, j));
            }
          set(grad_x, at4(grad_x, n, k, iy, ix), sum);
        }
      }
  return DLV3_OK;
}

static status ref_upsample_argmax(op_call *c) {
  const upsample_argmax_attr *a = c->attr;
  const tensor *x = c->in[0];
  const axis_map rows = axis_map_of(x->size[2], a->size.h, false, x->dtype),
                 columns = axis_map_of(x->size[3], a->size.w, false, x->dtype);
  for (int64_t n = 0; n < x->size[0]; n++)
    for (int64_t i = 0; i < a->size.h; i++)
      for (int64_t j = 0; j < a->size.w; j++) {
        const taps v = taps_of(&rows, i), u = taps_of(&columns, j);
        double best = blend(x, n, 0, &v, &u);
        int64_t where = 0;
        for (int64_t k = 1; k < x->size[1]; k++) {
          double z = blend(x, n, k, &v, &u);
          if (z > best || (z != z && best == best)) best = z, where = k; /* the first maximum; nan wins */
        }
        set(c->out[0], (n * a->size.h + i) * a->size.w + j, (double)where);
      }
  return DLV3_OK;
}

/* -- Vectorised over channels ------------------------------------------------------------------ */

typedef struct {
  const op_call *c;
  axis_map rows, columns;
  float *grad; /* the gradient in f32, if grad_x is not */
} resample_job;

/* Rows [begin, end) of y over all images. */
#define UPSAMPLE_ROWS(T, name, LOAD, STORE) \
  CLONES static void name(void *ctx, int64_t begin, int64_t end) { \
    const resample_job *job = ctx; \
    const tensor *x = job->c->in[0], *y = job->c->out[0]; \
    const int64_t channels = x->size[1], w = x->size[3], oh = y->size[2], ow = y->size[3]; \
    for (int64_t row = begin; row < end; row++) { \
      const taps v = taps_of(&job->rows, row % oh); \
      const T *top = (const T *)data_of(x) + (row / oh * x->size[2] + v.i0) * w * channels; \
      const T *bottom = (const T *)data_of(x) + (row / oh * x->size[2] + v.i1) * w * channels; \
      T *out = (T *)data_of(y) + row * ow * channels; \
      for (int64_t j = 0; j < ow; j++, out += channels) { \
        const taps u = taps_of(&job->columns, j); \
        const T *a = top + u.i0 * channels, *b = top + u.i1 * channels; \
        const T *e = bottom + u.i0 * channels, *f = bottom + u.i1 * channels; \
        const float v0 = (float)v.w0, v1 = (float)v.w1, u0 = (float)u.w0, u1 = (float)u.w1; \
        for (int64_t k = 0; k < channels; k++) \
          out[k] = STORE(v0 * (u0 * LOAD(a[k]) + u1 * LOAD(b[k])) + v1 * (u0 * LOAD(e[k]) + u1 * LOAD(f[k]))); \
      } \
    } \
  }

/* Rows [begin, end) of grad_x over all images, in f32: all rows of grad_y that reach one are spread
 * along it. */
#define UPSAMPLE_BACKWARD_ROWS(T, name, LOAD) \
  CLONES static void name(void *ctx, int64_t begin, int64_t end) { \
    const resample_job *job = ctx; \
    const tensor *grad_y = job->c->in[0], *grad_x = job->c->out[0]; \
    const int64_t channels = grad_x->size[1], h = grad_x->size[2], w = grad_x->size[3], oh = grad_y->size[2], \
                  ow = grad_y->size[3]; \
    for (int64_t row = begin; row < end; row++) { \
      float *out = job->grad + row * w * channels; \
      int64_t first, last; \
      reached(&job->rows, row % h, &first, &last); \
      memset(out, 0, (size_t)(w * channels) * sizeof *out); \
      for (int64_t i = first; i < last; i++) { \
        const taps v = taps_of(&job->rows, i); \
        const double weight = tap_weight(&v, row % h); \
        const T *g = (const T *)data_of(grad_y) + (row / h * oh + i) * ow * channels; \
        for (int64_t j = 0; j < ow; j++, g += channels) { \
          const taps u = taps_of(&job->columns, j); \
          float *left = out + u.i0 * channels, *right = out + u.i1 * channels; \
          const float w0 = (float)(weight * u.w0), w1 = (float)(weight * u.w1); \
          if (u.i0 == u.i1) \
            for (int64_t k = 0; k < channels; k++) left[k] += w0 * LOAD(g[k]); \
          else \
            spread_##T(left, right, g, w0, w1, channels); \
        } \
      } \
    } \
  }

INLINE void spread_float(float *restrict left, float *restrict right, const float *restrict g, float w0, float w1,
                         int64_t n) {
  for (int64_t k = 0; k < n; k++) left[k] += w0 * g[k], right[k] += w1 * g[k];
}
INLINE void spread_bf16(float *restrict left, float *restrict right, const bf16 *restrict g, float w0, float w1,
                        int64_t n) {
  for (int64_t k = 0; k < n; k++) left[k] += w0 * bf16_to_f32(g[k]), right[k] += w1 * bf16_to_f32(g[k]);
}

UPSAMPLE_ROWS(float, upsample_rows_f32, AS_IS, AS_IS)
UPSAMPLE_ROWS(bf16, upsample_rows_bf16, bf16_to_f32, f32_to_bf16)
UPSAMPLE_BACKWARD_ROWS(float, upsample_backward_rows_f32, AS_IS)
UPSAMPLE_BACKWARD_ROWS(bf16, upsample_backward_rows_bf16, bf16_to_f32)

static status vec_upsample_bilinear2d(op_call *c) {
  const upsample_bilinear2d_attr *a = c->attr;
  const tensor *x = c->in[0];
  resample_job job = {c, axis_map_of(x->size[2], a->size.h, a->align_corners, x->dtype),
                      axis_map_of(x->size[3], a->size.w, a->align_corners, x->dtype), NULL};
  if (x->dtype == DLV3_F32)
    parallel_for(x->size[0] * a->size.h, 8, upsample_rows_f32, &job);
  else if (x->dtype == DLV3_BF16)
    parallel_for(x->size[0] * a->size.h, 8, upsample_rows_bf16, &job);
  else
    return DECLINED("f32 and bf16 only");
  return DLV3_OK;
}

static status vec_upsample_bilinear2d_backward(op_call *c) {
  const upsample_bilinear2d_backward_attr *a = c->attr;
  const tensor *grad_y = c->in[0];
  tensor *grad_x = c->out[0];
  const int32_t dtype = grad_y->dtype;
  if (dtype != DLV3_F32 && dtype != DLV3_BF16) return DECLINED("f32 and bf16 only");
  resample_job job = {c, axis_map_of(a->size.h, grad_y->size[2], a->align_corners, dtype),
                      axis_map_of(a->size.w, grad_y->size[3], a->align_corners, dtype), data_of(grad_x)};
  storage *wide = NULL;
  if (dtype != DLV3_F32) {
    TRY(storage_new(&wide, numel(grad_x) * (int64_t)sizeof(float), 0));
    job.grad = (float *)wide->data;
  }
  parallel_for(grad_x->size[0] * a->size.h, 1,
               dtype == DLV3_F32 ? upsample_backward_rows_f32 : upsample_backward_rows_bf16, &job);
  if (!wide) return DLV3_OK;
  store_f32(data_of(grad_x), dtype, job.grad, numel(grad_x));
  storage_drop(wide);
  return DLV3_OK;
}

/* -- argmax of the upsampled map --------------------------------------------------------------- */

typedef struct {
  const op_call *c;
  axis_map rows;
  const pixel_block *blocks;
  int16_t *classes; /* of the source pixels; MIXED where a value is not finite */
} argmax_job;

enum { MIXED = -1 };

/* Classes of source pixels [begin, end): the first maximum. */
#define SOURCE_CLASSES(T, name, LOAD) \
  static void name(void *ctx, int64_t begin, int64_t end) { \
    const argmax_job *job = ctx; \
    const int64_t channels = job->c->in[0]->size[1]; \
    for (int64_t p = begin; p < end; p++) { \
      const T *x = (const T *)data_of(job->c->in[0]) + p * channels; \
      int64_t where = 0; \
      float zero = 0; \
      for (int64_t k = 0; k < channels; k++) { \
        zero += 0 * LOAD(x[k]); \
        if (LOAD(x[k]) > LOAD(x[where])) where = k; \
      } \
      job->classes[p] = (int16_t)(zero == 0 ? where : MIXED); \
    } \
  }
SOURCE_CLASSES(float, source_classes_f32, AS_IS)
SOURCE_CLASSES(bf16, source_classes_bf16, bf16_to_f32)

/* The class of all sources of a block, or MIXED. It is then that of all its pixels: blending with
 * weights of which none is negative keeps the order. */
static int16_t class_of_block(const int16_t *top, const int16_t *bottom, const pixel_block *b) {
  const int16_t class = top[b->base];
  for (int64_t j = b->base; j < b->base + b->span; j++)
    if (top[j] != class || bottom[j] != class) return MIXED;
  return class;
}

/* Rows [begin, end) of the result over all images. */
#define ARGMAX_ROWS(T, name, BLEND) \
  CLONES static void name(void *ctx, int64_t begin, int64_t end) { \
    const argmax_job *job = ctx; \
    const tensor *x = job->c->in[0]; \
    const int64_t channels = x->size[1], oh = job->c->out[0]->size[1], ow = job->c->out[0]->size[2]; \
    float z[MAX_CHANNELS * PIXELS]; \
    for (int64_t row = begin; row < end; row++) { \
      const taps v = taps_of(&job->rows, row % oh); \
      const T *image = (const T *)data_of(x) + row / oh * x->size[2] * x->size[3] * channels; \
      const int16_t *classes = job->classes + row / oh * x->size[2] * x->size[3]; \
      uint8_t *out = (uint8_t *)data_of(job->c->out[0]) + row * ow; \
      for (int64_t j = 0; j < blocks_of(ow); j++) { \
        const pixel_block *b = &job->blocks[j]; \
        const int16_t class = class_of_block(classes + v.i0 * x->size[3], classes + v.i1 * x->size[3], b); \
        if (class != MIXED) { \
          memset(out + j * PIXELS, class, (size_t)b->n); \
          continue; \
        } \
        float best[PIXELS]; \
        int32_t where[PIXELS] = {0}; \
        BLEND(z, image + v.i0 * x->size[3] * channels, image + v.i1 * x->size[3] * channels, (float)v.w0, (float)v.w1, \
              b, channels); \
        memcpy(best, z, sizeof best); \
        for (int64_t k = 1; k < channels; k++) \
          for (int64_t i = 0; i < PIXELS; i++) { \
            const float value = z[k * PIXELS + i]; \
            const bool take = (value > best[i]) | ((value != value) & (best[i] == best[i])); \
            best[i] = take ? value : best[i]; \
            where[i] = take ? (int32_t)k : where[i]; \
          } \
        for (int64_t i = 0; i < b->n; i++) out[j * PIXELS + i] = (uint8_t)where[i]; \
      } \
    } \
  }
ARGMAX_ROWS(float, argmax_rows_f32, blend_block_f32)
ARGMAX_ROWS(bf16, argmax_rows_bf16, blend_block_bf16)

static status vec_upsample_argmax(op_call *c) {
  const upsample_argmax_attr *a = c->attr;
  const tensor *x = c->in[0];
  if (x->dtype != DLV3_F32 && x->dtype != DLV3_BF16) return DECLINED("f32 and bf16 only");
  if (a->size.w < x->size[3]) return DECLINED("not for a smaller width");
  const axis_map columns = axis_map_of(x->size[3], a->size.w, false, x->dtype);
  argmax_job job = {c, axis_map_of(x->size[2], a->size.h, false, x->dtype), NULL, NULL};
  const int64_t pixels = x->size[0] * x->size[2] * x->size[3],
                block_bytes = blocks_of(a->size.w) * (int64_t)sizeof(pixel_block);
  storage *scratch;
  TRY(storage_new(&scratch, block_bytes + pixels * (int64_t)sizeof *job.classes, 0));
  pixel_block *blocks = (pixel_block *)scratch->data;
  job.classes = (int16_t *)((char *)scratch->data + block_bytes);
  parallel_for(pixels, 4096, x->dtype == DLV3_F32 ? source_classes_f32 : source_classes_bf16, &job);
  for (int64_t j = 0; j < blocks_of(a->size.w); j++) pixel_block_of(&blocks[j], &columns, j);
  job.blocks = blocks;
  parallel_for(x->size[0] * a->size.h, 8, x->dtype == DLV3_F32 ? argmax_rows_f32 : argmax_rows_bf16, &job);
  storage_drop(scratch);
  return DLV3_OK;
}

IMPLS(upsample_bilinear2d, {"vec", vec_upsample_bilinear2d}, {"ref", ref_upsample_bilinear2d});
IMPLS(upsample_bilinear2d_backward, {"vec", vec_upsample_bilinear2d_backward},
      {"ref", ref_upsample_bilinear2d_backward});
IMPLS(upsample_argmax, {"vec", vec_upsample_argmax}, {"ref", ref_upsample_argmax});

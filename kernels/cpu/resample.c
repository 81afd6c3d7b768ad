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

INLINE void spread_f32(float *restrict left, float *restrict right, const float *restrict g, float w0, float w1,
                         int64_t n) {
  for (int64_t k = 0; k < n; k++) left[k] += w0 * g[k], right[k] += w1 * g[k];
}
INLINE void spread_bf16(float *restrict left, float *restrict right, const bf16 *restrict g, float w0, float w1,
                        int64_t n) {
  for (int64_t k = 0; k < n; k++) left[k] += w0 * bf16_to_f32(g[k]), right[k] += w1 * bf16_to_f32(g[k]);
}

#define T float
#define F(name) name##_f32
#define LOAD(v) (v)
#define STORE(v) (v)
#include "upsample.inc"
#undef T
#undef F
#undef LOAD
#undef STORE
#define T bf16
#define F(name) name##_bf16
#define LOAD bf16_to_f32
#define STORE f32_to_bf16
#include "upsample.inc"
#undef T
#undef F
#undef LOAD
#undef STORE

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

/* The class of all sources of a block, or MIXED. It is then that of all its pixels: blending with
 * weights of which none is negative keeps the order. */
static int16_t class_of_block(const int16_t *top, const int16_t *bottom, const pixel_block *b) {
  const int16_t class = top[b->base];
  for (int64_t j = b->base; j < b->base + b->span; j++)
    if (top[j] != class || bottom[j] != class) return MIXED;
  return class;
}

#define T float
#define F(name) name##_f32
#define LOAD(v) (v)
#include "argmax.inc"
#undef T
#undef F
#undef LOAD
#define T bf16
#define F(name) name##_bf16
#define LOAD bf16_to_f32
#include "argmax.inc"
#undef T
#undef F
#undef LOAD

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

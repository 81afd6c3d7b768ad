/* pool.c - max_pool2d and adaptive_avg_pool2d on the cpu.
 *
 * Channels-last: the fast forms walk output pixels and keep a tile of channels in registers.
 * Gradients gather: every input pixel asks which outputs took it, so nothing is written twice. */
#include "cpu/support/ref.h"

typedef struct {
  attr_pair kernel_size, stride, padding, dilation;
} window;

/* -- max_pool2d: reference --------------------------------------------------------------------- */

/* y[n,c,i,j] = max over (r, s) of x[n, c, i stride - padding + r dilation, ...]; index = r width +
 * s of the first maximum. */
static status ref_max_pool2d(op_call *c) {
  const max_pool2d_attr *a = c->attr;
  const tensor *x = c->in[0];
  tensor *y = c->out[0], *index = c->out[1];
  for (int64_t n = 0; n < y->size[0]; n++)
    for (int64_t i = 0; i < y->size[2]; i++)
      for (int64_t j = 0; j < y->size[3]; j++)
        for (int64_t k = 0; k < y->size[1]; k++) {
          double best = -INFINITY;
          int64_t where = -1;
          for (int64_t r = 0; r < a->kernel_size.h; r++)
            for (int64_t s = 0; s < a->kernel_size.w; s++) {
              int64_t iy = i * a->stride.h - a->padding.h + r * a->dilation.h,
                      ix = j * a->stride.w - a->padding.w + s * a->dilation.w;
              if (iy < 0 || iy >= x->size[2] || ix < 0 || ix >= x->size[3]) continue;
              double v = at(x, at4(x, n, k, iy, ix));
              if (where < 0 || v > best || v != v) best = v, where = r * a->kernel_size.w + s;
            }
          set(y, at4(y, n, k, i, j), best);
          set(index, at4(index, n, k, i, j), where < 0 ? 0 : (double)where);
        }
  return DLV3_OK;
}

/* The outputs (and the tap r of each) that input position `in` belongs to: calls of the macro's
 * body with o and r. */
#define FOR_OUTPUTS(o, r, in, k, stride, padding, dilation, n_out) \
  for (int64_t r = 0; r < (k); r++) \
    for (int64_t at_##o = (in) + (padding)-r * (dilation), o = at_##o / (stride); \
         at_##o >= 0 && at_##o % (stride) == 0 && o < (n_out); at_##o = -1)

/* grad_x[p] = sum of grad_y over the outputs whose maximum p was. */
static status ref_max_pool2d_backward(op_call *c) {
  const max_pool2d_backward_attr *a = c->attr;
  const tensor *grad_y = c->in[0], *index = c->in[1];
  tensor *grad_x = c->out[0];
  for (int64_t n = 0; n < grad_x->size[0]; n++)
    for (int64_t i = 0; i < grad_x->size[2]; i++)
      for (int64_t j = 0; j < grad_x->size[3]; j++)
        for (int64_t k = 0; k < grad_x->size[1]; k++) {
          double sum = 0;
          FOR_OUTPUTS(oy, r, i, a->kernel_size.h, a->stride.h, a->padding.h, a->dilation.h, grad_y->size[2])
          FOR_OUTPUTS(ox, s, j, a->kernel_size.w, a->stride.w, a->padding.w, a->dilation.w, grad_y->size[3]) {
            int64_t p = at4(grad_y, n, k, oy, ox);
            if (at(index, p) == (double)(r * a->kernel_size.w + s)) sum += at(grad_y, p);
          }
          set(grad_x, at4(grad_x, n, k, i, j), sum);
        }
  return DLV3_OK;
}

/* -- max_pool2d: vectorised over channels ------------------------------------------------------ */

enum { TILE = 64 };

typedef struct {
  const op_call *c;
  window w;
} pool_job;

#define T float
#define F(name) name##_f32
#define LOAD(v) (v)
#define STORE(v) (v)
#include "pool.inc"
#undef T
#undef F
#undef LOAD
#undef STORE
#define T bf16
#define F(name) name##_bf16
#define LOAD bf16_to_f32
#define STORE f32_to_bf16
#include "pool.inc"
#undef T
#undef F
#undef LOAD
#undef STORE
#define AS_IS(v) (v)

static status vec_max_pool2d(op_call *c) {
  const max_pool2d_attr *a = c->attr;
  pool_job job = {c, {a->kernel_size, a->stride, a->padding, a->dilation}};
  const tensor *y = c->out[0];
  if (y->dtype == DLV3_F32)
    parallel_for(y->size[0] * y->size[2], 4, max_pool_rows_f32, &job);
  else if (y->dtype == DLV3_BF16)
    parallel_for(y->size[0] * y->size[2], 4, max_pool_rows_bf16, &job);
  else
    return DECLINED("f32 and bf16 only");
  return DLV3_OK;
}

static status vec_max_pool2d_backward(op_call *c) {
  const max_pool2d_backward_attr *a = c->attr;
  pool_job job = {c, {a->kernel_size, a->stride, a->padding, a->dilation}};
  const tensor *x = c->out[0];
  if (x->dtype == DLV3_F32)
    parallel_for(x->size[0] * x->size[2], 4, max_pool_backward_rows_f32, &job);
  else if (x->dtype == DLV3_BF16)
    parallel_for(x->size[0] * x->size[2], 4, max_pool_backward_rows_bf16, &job);
  else
    return DECLINED("f32 and bf16 only");
  return DLV3_OK;
}

/* -- adaptive_avg_pool2d ----------------------------------------------------------------------- */

/* Output i of `out` is the mean of inputs [floor(i in / out), ceil((i + 1) in / out)). */
static int64_t bin_begin(int64_t i, int64_t in, int64_t out) { return i * in / out; }
static int64_t bin_end(int64_t i, int64_t in, int64_t out) { return ((i + 1) * in + out - 1) / out; }

static status ref_adaptive_avg_pool2d(op_call *c) {
  const tensor *x = c->in[0];
  tensor *y = c->out[0];
  const int64_t h = x->size[2], w = x->size[3], oh = y->size[2], ow = y->size[3];
  for (int64_t n = 0; n < y->size[0]; n++)
    for (int64_t i = 0; i < oh; i++)
      for (int64_t j = 0; j < ow; j++)
        for (int64_t k = 0; k < y->size[1]; k++) {
          double sum = 0;
          int64_t y0 = bin_begin(i, h, oh), y1 = bin_end(i, h, oh), x0 = bin_begin(j, w, ow), x1 = bin_end(j, w, ow);
          for (int64_t iy = y0; iy < y1; iy++)
            for (int64_t ix = x0; ix < x1; ix++) sum += at(x, at4(x, n, k, iy, ix));
          set(y, at4(y, n, k, i, j), sum / (double)((y1 - y0) * (x1 - x0)));
        }
  return DLV3_OK;
}

/* grad_x[p] = sum over the bins that p lies in of grad_y / (pixels of the bin). */
static status ref_adaptive_avg_pool2d_backward(op_call *c) {
  const tensor *grad_y = c->in[0];
  tensor *grad_x = c->out[0];
  const int64_t h = grad_x->size[2], w = grad_x->size[3], oh = grad_y->size[2], ow = grad_y->size[3];
  for (int64_t n = 0; n < grad_x->size[0]; n++)
    for (int64_t iy = 0; iy < h; iy++)
      for (int64_t ix = 0; ix < w; ix++)
        for (int64_t k = 0; k < grad_x->size[1]; k++) {
          double sum = 0;
          for (int64_t i = iy * oh / h; i < oh && bin_begin(i, h, oh) <= iy; i++) {
            if (bin_end(i, h, oh) <= iy) continue;
            for (int64_t j = ix * ow / w; j < ow && bin_begin(j, w, ow) <= ix; j++)
              if (bin_end(j, w, ow) > ix)
                sum +=
                    at(grad_y, at4(grad_y, n, k, i, j))
                    / (double)((bin_end(i, h, oh) - bin_begin(i, h, oh)) * (bin_end(j, w, ow) - bin_begin(j, w, ow)));
          }
          set(grad_x, at4(grad_x, n, k, iy, ix), sum);
        }
  return DLV3_OK;
}

/* The mean over a whole map: items are tiles of channels of one image. Runs of 16 pixels are summed
 * in f32, the runs in f64, so that large maps lose nothing. */
#define GLOBAL_MEAN(T, name, LOAD, STORE) \
  CLONES static void name(void *ctx, int64_t begin, int64_t end) { \
    const op_call *c = ctx; \
    const tensor *x = c->in[0]; \
    const int64_t channels = x->size[1], pixels = x->size[2] * x->size[3], tiles = (channels + TILE - 1) / TILE; \
    for (int64_t item = begin; item < end; item++) { \
      const int64_t k = item % tiles * TILE, m = channels - k < TILE ? channels - k : TILE, n = item / tiles; \
      const T *in = (const T *)data_of(x) + n * pixels * channels + k; \
      T *out = (T *)data_of(c->out[0]) + n * channels + k; \
      double sum[TILE] = {0}; \
      for (int64_t p = 0; p < pixels; p += 16) { \
        float run[TILE] = {0}; \
        for (int64_t q = p; q < pixels && q < p + 16; q++) \
          for (int64_t i = 0; i < m; i++) run[i] += LOAD(in[q * channels + i]); \
        for (int64_t i = 0; i < m; i++) sum[i] += (double)run[i]; \
      } \
      for (int64_t i = 0; i < m; i++) out[i] = STORE((float)(sum[i] / (double)pixels)); \
    } \
  }

/* Its gradient: items are rows of grad_x. */
#define GLOBAL_MEAN_BACKWARD(T, name, LOAD, STORE) \
  CLONES static void name(void *ctx, int64_t begin, int64_t end) { \
    const op_call *c = ctx; \
    const tensor *grad_x = c->out[0]; \
    const int64_t channels = grad_x->size[1], h = grad_x->size[2], w = grad_x->size[3]; \
    const float share = (float)(1 / ((double)h * (double)w)); \
    for (int64_t row = begin; row < end; row++) { \
      const T *in = (const T *)data_of(c->in[0]) + row / h * channels; \
      T *out = (T *)data_of(grad_x) + row * w * channels; \
      for (int64_t k = 0; k < channels; k++) out[k] = STORE(LOAD(in[k]) * share); \
      for (int64_t j = 1; j < w; j++) memcpy(out + j * channels, out, (size_t)channels * sizeof(T)); \
    } \
  }

GLOBAL_MEAN(float, global_mean_f32, AS_IS, AS_IS)
GLOBAL_MEAN(bf16, global_mean_bf16, bf16_to_f32, f32_to_bf16)
GLOBAL_MEAN_BACKWARD(float, global_mean_backward_f32, AS_IS, AS_IS)
GLOBAL_MEAN_BACKWARD(bf16, global_mean_backward_bf16, bf16_to_f32, f32_to_bf16)

static status vec_adaptive_avg_pool2d(op_call *c) {
  const tensor *x = c->in[0], *y = c->out[0];
  if (y->size[2] != 1 || y->size[3] != 1) return DECLINED("size 1x1 only");
  int64_t items = x->size[0] * ((x->size[1] + TILE - 1) / TILE);
  if (x->dtype == DLV3_F32)
    parallel_for(items, 1, global_mean_f32, c);
  else if (x->dtype == DLV3_BF16)
    parallel_for(items, 1, global_mean_bf16, c);
  else
    return DECLINED("f32 and bf16 only");
  return DLV3_OK;
}

static status vec_adaptive_avg_pool2d_backward(op_call *c) {
  const tensor *grad_y = c->in[0], *grad_x = c->out[0];
  if (grad_y->size[2] != 1 || grad_y->size[3] != 1) return DECLINED("size 1x1 only");
  int64_t rows = grad_x->size[0] * grad_x->size[2];
  if (grad_x->dtype == DLV3_F32)
    parallel_for(rows, 8, global_mean_backward_f32, c);
  else if (grad_x->dtype == DLV3_BF16)
    parallel_for(rows, 8, global_mean_backward_bf16, c);
  else
    return DECLINED("f32 and bf16 only");
  return DLV3_OK;
}

IMPLS(max_pool2d, {"vec", vec_max_pool2d}, {"ref", ref_max_pool2d});
IMPLS(max_pool2d_backward, {"vec", vec_max_pool2d_backward}, {"ref", ref_max_pool2d_backward});
IMPLS(adaptive_avg_pool2d, {"vec", vec_adaptive_avg_pool2d}, {"ref", ref_adaptive_avg_pool2d});
IMPLS(adaptive_avg_pool2d_backward, {"vec", vec_adaptive_avg_pool2d_backward},
      {"ref", ref_adaptive_avg_pool2d_backward});

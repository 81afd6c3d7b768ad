/* direct.c - convolution and matrix product as tiles in registers, in f32 and f64; f16 and bf16 go through f32.
 *
 * A convolution is a sum over its taps of a shifted map times a matrix. Nothing is unrolled into columns; taps, rows and
 * pixels that fall on padding are skipped. Weights are packed once for each version of them. Work is cut by shape alone.
 * Not here: groups (oneDNN or the reference take them). */
#include "conv.h"

#include <stdlib.h>

enum { MR = 12, PIXELS = 240, MAX_TAPS = 225 };

/* Output pixels [from, to) of a row of `out` whose input pixel o * step + d lies within [0, in). */
static void live_range(int64_t out, int64_t in, int64_t step, int64_t d, int64_t *from, int64_t *to) {
  int64_t last = in - 1 - d; /* o * step <= last */
  *from = d >= 0 ? 0 : (-d + step - 1) / step;
  *to = last < 0 ? 0 : last / step + 1;
  if (*to > out) *to = out;
}

/* Input pixel = output pixel * step + (dh, dw); index: which matrix; from, to: the live output pixels of a row. */
typedef struct { int64_t dh, dw, index, from, to; } tap;

/* out[o] = bias + sum over taps of in[o * step + d] matrix[tap]. Strides of out are in elements: for backward-data of a
 * strided convolution the output is one of stride x stride interleaved grids. */
typedef struct {
  const void *in, *panels, *bias;
  void *out;
  int64_t n, in_h, in_w, inner, columns;
  int64_t out_h, out_w, out_image, out_row, out_column, out_first;
  int64_t step_h, step_w, rows;
  int32_t n_taps;
  tap taps[MAX_TAPS];
  bool wide;
} shift_conv;

typedef struct {
  conv shape;
  const void *x, *y;
  void *grad_w;
  int64_t kb, cb, k_blocks, c_blocks;
  bool wide;
  status *results;
} weight_conv;

typedef struct {
  const void *a, *b;
  void *y;
  int64_t n, k;
} matmul_job;

/* -- The micro-kernel for each instruction set, chosen once by cpuid ------------------------------------------ */

typedef struct {
  void (*rows_f32)(int64_t m, float *y, int64_t ldy, const float *a, int64_t row, const float *b, int64_t depth);
  void (*rows_f64)(int64_t m, double *y, int64_t ldy, const double *a, int64_t row, const double *b, int64_t depth);
  void (*columns_f32)(float *y, int64_t ldy, const float *a, const float *b, int64_t ldb, int64_t depth);
  void (*columns_f64)(double *y, int64_t ldy, const double *a, const double *b, int64_t ldb, int64_t depth);
} tile_set;

#define TILE_SET(isa) {rows_f32_##isa, rows_f64_##isa, columns_f32_##isa, columns_f64_##isa}

#define TARGET
#define WIDTH 16
#define TALL 6
#define T float
#define F(name) name##_f32_base
#include "tile.inc"
#undef T
#undef F
#define T double
#define F(name) name##_f64_base
#include "tile.inc"
#undef T
#undef F
#undef TARGET
#undef WIDTH

static tile_set tiles = TILE_SET(base);

#ifdef __x86_64__
#define TARGET __attribute__((target("avx2,fma")))
#define WIDTH 32
#define T float
#define F(name) name##_f32_avx2
#include "tile.inc"
#undef T
#undef F
#define T double
#define F(name) name##_f64_avx2
#include "tile.inc"
#undef T
#undef F
#undef TARGET
#undef WIDTH
#undef TALL

#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,fma")))
#define WIDTH 64
#define TALL 12
#define T float
#define F(name) name##_f32_avx512
#include "tile.inc"
#undef T
#undef F
#define T double
#define F(name) name##_f64_avx512
#include "tile.inc"
#undef T
#undef F

__attribute__((constructor)) static void choose_tiles(void) {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) tiles = (tile_set)TILE_SET(avx512);
  else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) tiles = (tile_set)TILE_SET(avx2);
}
#endif

#define T float
#define F(name) name##_f32
#include "direct.inc"
#undef T
#undef F
#define T double
#define F(name) name##_f64
#include "direct.inc"
#undef T
#undef F

static status no_memory(const op_call *c) { return fail_call(c, DLV3_ERR_OOM, "out of memory"); }

/* -- Forward and backward-data ----------------------------------------------------------------------------- */

static void shift_rows(void *ctx, int64_t begin, int64_t end) {
  const shift_conv *s = ctx;
  int64_t groups = (s->out_h + s->rows - 1) / s->rows;
  for (int64_t i = begin; i < end; i++) {
    int64_t image = i / groups, row = i % groups * s->rows, rows = s->out_h - row < s->rows ? s->out_h - row : s->rows;
    if (s->wide) shift_task_f64(s, image, row, rows);
    else shift_task_f32(s, image, row, rows);
  }
}

static void run_shift(shift_conv *s) {
  if (s->out_h < 1 || s->out_w < 1) return;
  s->rows = 8;
  while (s->rows > 1 && s->n * ((s->out_h + s->rows - 1) / s->rows) < 16) s->rows /= 2;
  parallel_for(s->n * ((s->out_h + s->rows - 1) / s->rows), 1, shift_rows, s);
}

static void add_tap(shift_conv *s, int64_t dh, int64_t dw, int64_t index) {
  tap t = {dh, dw, index, 0, 0};
  int64_t first_row, last_row;
  live_range(s->out_w, s->in_w, s->step_w, dw, &t.from, &t.to);
  live_range(s->out_h, s->in_h, s->step_h, dh, &first_row, &last_row);
  if (t.from < t.to && first_row < last_row) s->taps[s->n_taps++] = t;
}

static const char *not_for_direct(const conv *g) {
  if (g->groups != 1) return "groups";
  if (g->r * g->s > MAX_TAPS) return "a window of more than 225 taps";
  return NULL;
}

status direct_conv2d(op_call *c) {
  conv g = conv_of(c);
  tensor *x = c->in[0], *w = c->in[1], *y = c->out[0];
  bool wide = x->dtype == DLV3_F64;
  void *own_x, *own_y, *panels;
  if (not_for_direct(&g)) return DECLINED(not_for_direct(&g));
  int64_t bytes = wide ? panel_elements_f64(g.r * g.s, g.c, g.k) * 8 : panel_elements_f32(g.r * g.s, g.c, g.k) * 4;
  TRY(prepared_weight(&panels, w, FORM_FORWARD, bytes, wide ? pack_forward_f64 : pack_forward_f32, NULL));
  shift_conv s = {.panels = panels, .bias = c->in[2] ? data_of(c->in[2]) : NULL, .n = g.n, .in_h = g.h, .in_w = g.w, .inner = g.c, .columns = g.k,
                  .out_h = g.oh, .out_w = g.ow, .out_image = g.oh * g.ow * g.k, .out_row = g.ow * g.k, .out_column = g.k,
                  .step_h = g.stride.h, .step_w = g.stride.w, .wide = wide};
  for (int64_t t = 0; t < g.r * g.s; t++) add_tap(&s, t / g.s * g.dilation.h - g.padding.h, t % g.s * g.dilation.w - g.padding.w, t);
  s.in = conv_operand(x, wide, &own_x, true);
  s.out = conv_operand(y, wide, &own_y, false);
  status st = s.in && s.out ? DLV3_OK : no_memory(c);
  if (st == DLV3_OK) run_shift(&s);
  if (st == DLV3_OK && own_y) store_f32(data_of(y), y->dtype, own_y, numel(y));
  if (st == DLV3_OK) conv_epilogue(c);
  free(own_x), free(own_y);
  return st;
}

/* grad_x[h] = sum over r of grad_y[(h + padding - r dilation) / stride] w[r]^T, where that divides. For each residue of
 * h by the stride the taps are fixed, and h = residue + i stride reads grad_y[i + (residue + padding - r dilation) / stride]. */
status direct_conv2d_backward_input(op_call *c) {
  conv g = conv_of(c);
  tensor *gy = c->in[0], *w = c->in[1], *gx = c->out[0];
  bool wide = gy->dtype == DLV3_F64;
  void *own_y, *own_x, *panels;
  if (not_for_direct(&g)) return DECLINED(not_for_direct(&g));
  int64_t bytes = wide ? panel_elements_f64(g.r * g.s, g.k, g.c) * 8 : panel_elements_f32(g.r * g.s, g.k, g.c) * 4;
  TRY(prepared_weight(&panels, w, FORM_BACKWARD, bytes, wide ? pack_backward_f64 : pack_backward_f32, NULL));
  const void *in = conv_operand(gy, wide, &own_y, true);
  void *out = conv_operand(gx, wide, &own_x, false);
  status st = in && out ? DLV3_OK : no_memory(c);
  for (int64_t a = 0; a < g.stride.h && st == DLV3_OK; a++)
    for (int64_t b = 0; b < g.stride.w; b++) {
      shift_conv s = {.in = in, .out = out, .panels = panels, .n = g.n, .in_h = g.oh, .in_w = g.ow, .inner = g.k, .columns = g.c,
                      .out_h = (g.h - a + g.stride.h - 1) / g.stride.h, .out_w = (g.w - b + g.stride.w - 1) / g.stride.w,
                      .out_image = g.h * g.w * g.c, .out_row = g.stride.h * g.w * g.c, .out_column = g.stride.w * g.c,
                      .out_first = (a * g.w + b) * g.c, .step_h = 1, .step_w = 1, .wide = wide};
      for (int64_t t = 0; t < g.r * g.s; t++) {
        int64_t h = a + g.padding.h - t / g.s * g.dilation.h, v = b + g.padding.w - t % g.s * g.dilation.w;
        if (h % g.stride.h == 0 && v % g.stride.w == 0) add_tap(&s, h / g.stride.h, v / g.stride.w, t);
      }
      run_shift(&s);
    }
  if (st == DLV3_OK && own_x) store_f32(data_of(gx), gx->dtype, own_x, numel(gx));
  free(own_y), free(own_x);
  return st;
}

/* -- Backward-weights -------------------------------------------------------------------------------------- */

static void weight_blocks(void *ctx, int64_t begin, int64_t end) {
  const weight_conv *g = ctx;
  for (int64_t i = begin; i < end; i++) {
    int64_t cb = i % g->c_blocks, kb = i / g->c_blocks % g->k_blocks, t = i / g->c_blocks / g->k_blocks;
    int64_t k1 = (kb + 1) * g->kb < g->shape.k ? (kb + 1) * g->kb : g->shape.k, c1 = (cb + 1) * g->cb < g->shape.c ? (cb + 1) * g->cb : g->shape.c;
    g->results[i] = (g->wide ? weight_task_f64 : weight_task_f32)(g, t, kb * g->kb, k1, cb * g->cb, c1);
  }
}

status direct_conv2d_backward_weight(op_call *c) {
  weight_conv g = {.shape = conv_of(c), .grad_w = data_of(c->in[2]), .kb = 192, .cb = 128};
  void *own_x, *own_y;
  if (not_for_direct(&g.shape)) return DECLINED(not_for_direct(&g.shape));
  g.wide = c->in[0]->dtype == DLV3_F64;
  g.x = conv_operand(c->in[0], g.wide, &own_x, true);
  g.y = conv_operand(c->in[1], g.wide, &own_y, true);
  int64_t tasks;
  for (;;) { /* blocks small enough for 16 tasks where the shape has them */
    g.k_blocks = (g.shape.k + g.kb - 1) / g.kb, g.c_blocks = (g.shape.c + g.cb - 1) / g.cb;
    tasks = g.k_blocks * g.c_blocks * g.shape.r * g.shape.s;
    if (tasks >= 16 || (g.kb <= 48 && g.cb <= 32)) break;
    if (g.kb > 48) g.kb /= 2;
    else g.cb /= 2;
  }
  g.results = calloc((size_t)tasks, sizeof *g.results);
  status st = g.x && g.y && g.results ? DLV3_OK : no_memory(c);
  if (st == DLV3_OK) parallel_for(tasks, 1, weight_blocks, &g);
  for (int64_t i = 0; st == DLV3_OK && i < tasks; i++)
    if (g.results[i] != DLV3_OK) st = no_memory(c);
  if (st == DLV3_OK && c->in[3]) add_bias_gradient(c->in[3], c->in[1]);
  free(own_x), free(own_y), free(g.results);
  return st;
}

/* -- matmul ------------------------------------------------------------------------------------------------ */

status direct_matmul(op_call *c) {
  bool wide = c->in[0]->dtype == DLV3_F64;
  void *own[3];
  const void *a = conv_operand(c->in[0], wide, &own[0], true), *b = conv_operand(c->in[1], wide, &own[1], true);
  void *y = conv_operand(c->out[0], wide, &own[2], false);
  status st = !a || !b || !y ? no_memory(c) : wide ? matmul_f64(c, a, b, y) : matmul_f32(c, a, b, y);
  if (st == DLV3_OK && own[2]) store_f32(data_of(c->out[0]), c->out[0]->dtype, own[2], numel(c->out[0]));
  for (int i = 0; i < 3; i++) free(own[i]);
  return st;
}

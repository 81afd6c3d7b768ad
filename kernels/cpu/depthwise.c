/* depthwise.c - convolution with one filter a channel (groups = c = k), in f32 and f64; f16 and bf16 go through f32.
 *
 * Bandwidth-bound: rows of pixels are the parallel tasks, channels are the vector. */
#include "conv.h"

#include <stdlib.h>

enum { BLOCK = 32 };

typedef struct {
  conv g;
  void *x, *y;
  const void *w, *b;
  bool wide;
  double *sums; /* [image][block][tap][BLOCK] */
} depthwise;

#define T float
#define F(name) name##_f32
#include "depthwise.inc"
#undef T
#undef F
#define T double
#define F(name) name##_f64
#include "depthwise.inc"
#undef T
#undef F

static const char *not_depthwise(const conv *g) { return g->groups == g->c && g->k == g->c && g->groups > 1 ? NULL : "not depthwise"; }

static status packed(void **out, tensor *w, bool wide) {
  return prepared_weight(out, w, FORM_DEPTHWISE, numel(w) * (wide ? 8 : 4), wide ? pack_f64 : pack_f32, NULL);
}

static void forward_rows(void *ctx, int64_t begin, int64_t end) {
  const depthwise *d = ctx;
  for (int64_t i = begin; i < end; i++) (d->wide ? forward_row_f64 : forward_row_f32)(d, i);
}

static void input_rows(void *ctx, int64_t begin, int64_t end) {
  const depthwise *d = ctx;
  for (int64_t i = begin; i < end; i++) (d->wide ? input_row_f64 : input_row_f32)(d, i);
}

/* out is stored from its f32 copy where it has one; copies are freed. */
static status finish(const op_call *c, status st, tensor *out, void *own_out, void *own_in) {
  if (st == DLV3_OK && own_out) store_f32(data_of(out), out->dtype, own_out, numel(out));
  free(own_out), free(own_in);
  return st == DLV3_OK ? st : fail_call(c, DLV3_ERR_OOM, "out of memory");
}

status depthwise_conv2d(op_call *c) {
  depthwise d = {.g = conv_of(c), .wide = c->in[0]->dtype == DLV3_F64, .b = c->in[2] ? data_of(c->in[2]) : NULL};
  void *w, *own_x, *own_y;
  if (not_depthwise(&d.g)) return DECLINED(not_depthwise(&d.g));
  TRY(packed(&w, c->in[1], d.wide));
  d.w = w;
  d.x = conv_operand(c->in[0], d.wide, &own_x, true);
  d.y = conv_operand(c->out[0], d.wide, &own_y, false);
  status st = d.x && d.y ? DLV3_OK : DLV3_ERR_OOM;
  if (st == DLV3_OK) parallel_for(d.g.n * d.g.oh, 2, forward_rows, &d);
  st = finish(c, st, c->out[0], own_y, own_x);
  if (st == DLV3_OK) conv_epilogue(c);
  return st;
}

status depthwise_conv2d_backward_input(op_call *c) {
  depthwise d = {.g = conv_of(c), .wide = c->in[0]->dtype == DLV3_F64};
  void *w, *own_x, *own_y;
  if (not_depthwise(&d.g)) return DECLINED(not_depthwise(&d.g));
  TRY(packed(&w, c->in[1], d.wide));
  d.w = w;
  d.y = conv_operand(c->in[0], d.wide, &own_y, true);
  d.x = conv_operand(c->out[0], d.wide, &own_x, false);
  status st = d.x && d.y ? DLV3_OK : DLV3_ERR_OOM;
  if (st == DLV3_OK) parallel_for(d.g.n * d.g.h, 2, input_rows, &d);
  return finish(c, st, c->out[0], own_x, own_y);
}

static void weight_blocks(void *ctx, int64_t begin, int64_t end) {
  const depthwise *d = ctx;
  int64_t blocks = (d->g.c + BLOCK - 1) / BLOCK, taps = d->g.r * d->g.s;
  for (int64_t i = begin; i < end; i++) {
    int64_t c0 = i % blocks * BLOCK, m = d->g.c - c0 < BLOCK ? d->g.c - c0 : BLOCK;
    (d->wide ? weight_block_f64 : weight_block_f32)(d, i / blocks, c0, m, d->sums + i * taps * BLOCK);
  }
}

/* grad_w[c][tap] += the images' sums, in their order. */
static void add_sums(const depthwise *d, tensor *grad_w) {
  int64_t blocks = (d->g.c + BLOCK - 1) / BLOCK, taps = d->g.r * d->g.s, width = dtype_bytes(grad_w->dtype);
  for (int64_t c = 0; c < d->g.c; c++)
    for (int64_t t = 0; t < taps; t++) {
      char *p = (char *)data_of(grad_w) + (c * taps + t) * width;
      double sum;
      load_f64(&sum, p, grad_w->dtype, 1);
      for (int64_t n = 0; n < d->g.n; n++) sum += d->sums[((n * blocks + c / BLOCK) * taps + t) * BLOCK + c % BLOCK];
      store_f64(p, grad_w->dtype, &sum, 1);
    }
}

status depthwise_conv2d_backward_weight(op_call *c) {
  depthwise d = {.g = conv_of(c), .wide = c->in[0]->dtype == DLV3_F64};
  void *own_x, *own_y;
  if (not_depthwise(&d.g)) return DECLINED(not_depthwise(&d.g));
  int64_t tasks = d.g.n * ((d.g.c + BLOCK - 1) / BLOCK);
  d.x = conv_operand(c->in[0], d.wide, &own_x, true);
  d.y = conv_operand(c->in[1], d.wide, &own_y, true);
  d.sums = calloc((size_t)(tasks * d.g.r * d.g.s * BLOCK) + 1, sizeof(double));
  status st = d.x && d.y && d.sums ? DLV3_OK : DLV3_ERR_OOM;
  if (st == DLV3_OK) {
    parallel_for(tasks, 1, weight_blocks, &d);
    add_sums(&d, c->in[2]);
    if (c->in[3]) add_bias_gradient(c->in[3], c->in[1]);
  }
  free(d.sums);
  return finish(c, st, NULL, NULL, (free(own_x), own_y));
}

/* depthwise.c - convolution with one filter a channel (groups = c = k), in f64, f32 and bf16; f16 goes through f32.
 *
 * Bandwidth-bound: rows of pixels are the parallel tasks, a lane of channels is the vector (tiles.h). Forward and
 * backward-data are the sums of shifted maps of direct.h, with a vector a tap in place of a matrix. */
#include "direct.h"

#include <stdlib.h>

typedef struct {
  conv g;
  const void *x, *y;
  const int64_t *from, *to;        /* output columns that tap column s reaches */
  double *sums;                    /* [image][lane][tap][channel of it]        */
  int64_t lanes, lane;             /* lanes; channels of one                   */
  int32_t dtype;
} depthwise;

#define AS_IS(v) (v)
#define C double
#define X double
#define LOAD AS_IS
#define STORE AS_IS
#define IN_PLACE true
#define F(name) name##_f64
#include "depthwise.inc"
#undef C
#undef X
#undef F
#define C float
#define X float
#define F(name) name##_f32
#include "depthwise.inc"
#undef X
#undef LOAD
#undef STORE
#undef IN_PLACE
#undef F
#define X bf16
#define LOAD bf16_to_f32
#define STORE f32_to_bf16
#define IN_PLACE false
#define F(name) name##_bf16
#include "depthwise.inc"

static const char *not_depthwise(const conv *g) {
  if (!is_depthwise(g)) return "not depthwise";
  return g->r * g->s > MAX_TAPS ? "a window of more than 225 taps" : NULL;
}

/* [c,1,r,s] is c,r,s in memory; packed [tap][c]. */
static void pack_f32(void *to, const tensor *w, const void *arg) {
  (void)arg;
  const int64_t c = w->size[0], taps = w->size[2] * w->size[3];
  for (int64_t i = 0; i < taps * c; i++) ((float *)to)[i] = ((const float *)data_of(w))[i % c * taps + i / c];
}
static void pack_f64(void *to, const tensor *w, const void *arg) {
  (void)arg;
  const int64_t c = w->size[0], taps = w->size[2] * w->size[3];
  for (int64_t i = 0; i < taps * c; i++) ((double *)to)[i] = ((const double *)data_of(w))[i % c * taps + i / c];
}

typedef struct {
  const shift_conv *s;
  int32_t dtype;
} row_job;

static void rows(void *ctx, int64_t begin, int64_t end) {
  const row_job *j = ctx;
  for (int64_t i = begin; i < end; i++) (j->dtype == DLV3_F64 ? row_f64 : j->dtype == DLV3_F32 ? row_f32 : row_bf16)(j->s, i);
}

/* dtype: of the operands, which may be copies. */
static status run_rows(const op_call *c, shift_conv *s, int32_t dtype) {
  void *w;
  const bool wide = dtype == DLV3_F64;
  TRY(prepared_weight(&w, c->in[1], FORM_DEPTHWISE, numel(c->in[1]) * (wide ? 8 : 4), wide ? pack_f64 : pack_f32, NULL));
  s->panels = w;
  if (dtype == DLV3_BF16 && !kernel_scratch(s->out_w * s->inner * 4)) return fail_call(c, DLV3_ERR_OOM, "out of memory");
  row_job j = {s, dtype};
  parallel_for(s->n * s->out_h, 2, rows, &j);
  return DLV3_OK;
}

/* Runs all sums of the call; f16 through f32 copies. */
static status run(op_call *c, const conv *g, bool forward) {
  const int32_t dtype = c->in[0]->dtype, inner = dtype == DLV3_F16 ? DLV3_F32 : dtype;
  tensor *residual = forward ? c->in[3] : NULL;
  void *own[3] = {NULL, NULL, NULL};
  void *in = data_of(c->in[0]), *out = data_of(c->out[0]), *added = residual ? data_of(residual) : NULL;
  status st = DLV3_OK;
  if (inner != dtype) {
    in = conv_operand(c->in[0], false, &own[0], true), out = conv_operand(c->out[0], false, &own[1], false);
    if (residual) added = conv_operand(residual, false, &own[2], true);
    if (!in || !out || (residual && !added)) st = fail_call(c, DLV3_ERR_OOM, "out of memory");
  }
  for (int64_t i = 0; st == DLV3_OK && i < (forward ? 1 : g->stride.h * g->stride.w); i++) {
    shift_conv s;
    if (forward) shift_of_forward(c, g, &s);
    else shift_of_backward(c, g, i, &s);
    s.in = in, s.out = out, s.residual = added;
    st = run_rows(c, &s, inner);
  }
  if (st == DLV3_OK && own[1]) store_f32(data_of(c->out[0]), dtype, own[1], numel(c->out[0]));
  for (int i = 0; i < 3; i++) free(own[i]);
  return st;
}

status depthwise_conv2d(op_call *c) {
  const conv g = conv_of(c);
  if (not_depthwise(&g)) return DECLINED(not_depthwise(&g));
  return run(c, &g, true);
}

status depthwise_conv2d_backward_input(op_call *c) {
  const conv g = conv_of(c);
  if (not_depthwise(&g)) return DECLINED(not_depthwise(&g));
  return run(c, &g, false);
}

/* -- Backward-weights -------------------------------------------------------------------------------------- */

static void weight_lanes(void *ctx, int64_t begin, int64_t end) {
  const depthwise *d = ctx;
  for (int64_t i = begin; i < end; i++) {
    const int64_t lane = i % d->lanes * d->lane, c = lane + d->lane <= d->g.c ? lane : d->g.c - d->lane;
    (d->dtype == DLV3_F64 ? weight_lane_f64 : d->dtype == DLV3_F32 ? weight_lane_f32 : weight_lane_bf16)(d, i / d->lanes, c, d->sums + i * d->g.r * d->g.s * d->lane);
  }
}

/* grad_w[c][tap] += the images' sums, in their order. */
static void add_sums(const depthwise *d, tensor *grad_w) {
  const int64_t taps = d->g.r * d->g.s, last = (d->lanes - 1) * d->lane, overlap = d->g.c - d->lane; /* the last lane begins there */
  for (int64_t c = 0; c < d->g.c; c++) {
    const int64_t lane = c / d->lane, i = c >= last ? c - overlap : c % d->lane;
    for (int64_t t = 0; t < taps; t++) {
      double sum = at(grad_w, c * taps + t);
      for (int64_t n = 0; n < d->g.n; n++) sum += d->sums[((n * d->lanes + lane) * taps + t) * d->lane + i];
      set(grad_w, c * taps + t, sum);
    }
  }
}

status depthwise_conv2d_backward_weight(op_call *c) {
  const int32_t dtype = c->in[0]->dtype;
  depthwise d = {.g = conv_of(c), .dtype = dtype == DLV3_F16 ? DLV3_F32 : dtype};
  const conv *g = &d.g;
  if (not_depthwise(g)) return DECLINED(not_depthwise(g));
  d.lane = d.dtype == DLV3_F64 ? 8 : 16;
  if (g->c < d.lane) return DECLINED("few channels");
  d.lanes = blocks_of(g->c, d.lane);
  int64_t from[MAX_TAPS], to[MAX_TAPS];
  for (int64_t s = 0; s < g->s; s++) {
    live_range(g->ow, g->w, g->stride.w, s * g->dilation.w - g->padding.w, &from[s], &to[s]);
    if (from[s] > to[s]) from[s] = to[s];
  }
  d.from = from, d.to = to;
  void *own_x = NULL, *own_y = NULL;
  d.x = dtype == DLV3_F16 ? conv_operand(c->in[0], false, &own_x, true) : data_of(c->in[0]);
  d.y = dtype == DLV3_F16 ? conv_operand(c->in[1], false, &own_y, true) : data_of(c->in[1]);
  d.sums = calloc((size_t)(g->n * d.lanes * g->r * g->s * d.lane) + 1, sizeof(double));
  status st = d.x && d.y && d.sums ? DLV3_OK : fail_call(c, DLV3_ERR_OOM, "out of memory");
  if (st == DLV3_OK) {
    parallel_for(g->n * d.lanes, 1, weight_lanes, &d);
    add_sums(&d, c->in[2]);
    if (c->in[3]) add_bias_gradient(c->in[3], c->in[1]);
  }
  free(d.sums), free(own_x), free(own_y);
  return st;
}

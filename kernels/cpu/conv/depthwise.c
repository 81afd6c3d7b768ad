/* depthwise.c - convolution with one filter a channel (groups = c = k), in f64, f32 and bf16; f16
 * goes through f32.
 *
 * Bandwidth-bound: a lane of channels is the vector (tiles.h), a few lanes side by side over many
 * rows are the task, so that rows stay in cache until the last tap has read them and memory is read
 * in runs of some cache lines. Forward and backward-data are the sums of shifted maps of direct.h,
 * with a vector a tap in place of a matrix. */
#include "direct.h"

#include <stdlib.h>

enum {
  TASKS = 16,         /* that a call is cut into, where it can be               */
  CACHED = 192 << 10, /* bytes of the rows that a task reads at once            */
  FEWEST = 256,
  MOST = 512,                      /* bytes of a pixel that a task takes                     */
  MOST_CHANNELS = MOST_COLUMNS / 2 /* a last group may have nearly twice as many       */
};

typedef struct {
  int64_t image, row, last_row, first, last;
} row_task;

typedef struct {
  conv g;
  const void *x, *y;
  double *sums;                 /* [image and chunk][lane][tap][channel of it] */
  int64_t lanes, lane, group;   /* lanes; channels of one; lanes of a task      */
  int64_t groups, chunks, rows; /* groups of lanes; chunks of rows; rows of one */
  int32_t dtype;
  bool out_of_memory;
} depthwise;

/* The last lane may overlap the one before. */
static int64_t first_channel(int64_t channels, int64_t lane, int64_t i) {
  return (i + 1) * lane <= channels ? i * lane : channels > lane ? channels - lane : 0;
}

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
#define lane_products_bf16 lane_products_f32
#define F(name) name##_bf16
#include "depthwise.inc"

static const char *not_depthwise(const conv *g) {
  if (!is_depthwise(g)) return "not depthwise";
  return g->r * g->s > MAX_TAPS ? "a window of more than 225 taps" : NULL;
}

/* [c,1,r,s] is c,r,s in memory; packed [lane][tap][channel of it], a lane of few channels with
 * zeros. */
#define PACK(T, name) \
  static status name(void *to, const tensor *w, const void *arg) { \
    (void)arg; \
    const int64_t channels = w->size[0], taps = w->size[2] * w->size[3], lane = 64 / (int64_t)sizeof(T); \
    for (int64_t i = 0; i < blocks_of(channels, lane) * taps * lane; i++) { \
      const int64_t c = first_channel(channels, lane, i / lane / taps) + i % lane; \
      ((T *)to)[i] = c < channels ? ((const T *)data_of(w))[c * taps + i / lane % taps] : 0; \
    } \
    return DLV3_OK; \
  }
PACK(float, pack_f32)
PACK(double, pack_f64)

/* -- bf16 by pairs of taps --------------------------------------------------------------------- */

typedef struct {
  int64_t dh, dw, spacing, side, tap_of[5][5];
} tap_grid;

/* The taps as a grid that tiles.lane_pairs can take: 3 or 5 columns, a stride of 1, or of 2 without
 * dilation. */
static bool pair_grid(const shift_conv *s, tap_grid *g) {
  int64_t last_h = INT64_MIN, last_w = INT64_MIN;
  g->dh = g->dw = INT64_MAX;
  for (int32_t t = 0; t < s->n_taps; t++) {
    const tap *at = &s->taps[t];
    if (at->dh < g->dh) g->dh = at->dh;
    if (at->dw < g->dw) g->dw = at->dw;
    if (at->dh > last_h) last_h = at->dh;
    if (at->dw > last_w) last_w = at->dw;
  }
  g->side = s->n_taps == 9 ? 3 : s->n_taps == 25 ? 5 : 0;
  if (!g->side || s->n_taps != s->matrices || s->step_h != s->step_w || s->step_h > 2) return false;
  g->spacing = (last_w - g->dw) / (g->side - 1);
  if (g->spacing < 1 || last_w - g->dw != last_h - g->dh || (s->step_w > 1 && g->spacing > 1)) return false;
  for (int32_t t = 0; t < s->n_taps; t++) {
    const int64_t h = s->taps[t].dh - g->dh, w = s->taps[t].dw - g->dw;
    if (h % g->spacing || w % g->spacing || h / g->spacing >= g->side || w / g->spacing >= g->side) return false;
    g->tap_of[h / g->spacing][w / g->spacing] = s->taps[t].index;
  }
  return true;
}

/* [group of channels][pair of kernel rows][tap][channel of lane_pairs]: a bf16 of either row. */
static status pack_pairs(void *to, const tensor *w, const void *arg) {
  const tap_grid *g = arg;
  const int64_t channels = w->size[0], taps = g->side * g->side, width = tiles.vector_bytes / 2,
                pairs = blocks_of(g->side, 2);
  uint32_t *out = to;
  for (int64_t first = 0; first < channels; first += width)
    for (int64_t p = 0; p < pairs; p++)
      for (int64_t s = 0; s < g->side; s++)
        for (int64_t i = 0; i < width; i++) {
          const int64_t c = first + pair_channel(i, tiles.vector_bytes);
          const float *of = (const float *)data_of(w) + c * taps;
          const bf16 high = c < channels ? f32_to_bf16(of[g->tap_of[2 * p][s]]) : 0,
                     low = c < channels && 2 * p + 1 < g->side ? f32_to_bf16(of[g->tap_of[2 * p + 1][s]]) : 0;
          *out++ = high | (uint32_t)low << 16;
        }
  return DLV3_OK;
}

enum { MOST_COLUMNS_OF_PAIRS = (PAIR_OUTPUTS - 1) * 2 + 5 };
static const bf16 zeros[2 * MOST];

/* Where the inputs of PAIR_OUTPUTS pixels of row o from p on lie, `spacing` apart: x[kernel
 * row][column], zeros outside of the map. */
static void pair_inputs(const bf16 **x, const shift_conv *s, const tap_grid *g, const bf16 *map, int64_t o, int64_t p) {
  const int64_t columns = (PAIR_OUTPUTS - 1) * s->step_w + g->side, first = p * s->step_w + g->dw;
  int64_t from, to; /* columns inside of the map */
  live_range(columns, s->in_w, g->spacing, first, &from, &to);
  for (int64_t r = 0; r < blocks_of(g->side, 2) * 2; r++, x += columns) {
    const int64_t h = o * s->step_h + g->dh + r * g->spacing;
    const bool inside = r < g->side && h >= 0 && h < s->in_h;
    for (int64_t i = 0; i < columns; i++) x[i] = zeros;
    for (int64_t i = from; i < to && inside; i++) x[i] = map + (h * s->in_w + first + i * g->spacing) * s->inner;
  }
}

/* Output rows [k->row, k->last_row) of an image, channels [k->first, k->last). */
static status rows_pairs(const shift_conv *s, const row_task *k, const tap_grid *g) {
  const int64_t width = tiles.vector_bytes / 2, pairs = blocks_of(g->side, 2), n = k->last - k->first,
                lds = g->spacing * s->out_column;
  const bf16 *map = (const bf16 *)s->in + k->image * s->in_h * s->in_w * s->inner + k->first,
             *x[6 * MOST_COLUMNS_OF_PAIRS];
  float bias[2 * MOST + 64] __attribute__((aligned(64))) = {0};
  for (int64_t i = 0; s->bias && i < blocks_of(n, width) * width; i++) {
    const int64_t c = i / width * width + pair_channel(i % width, tiles.vector_bytes);
    bias[i] = c < n ? ((const float *)s->bias)[k->first + c] : 0;
  }
  for (int64_t o = k->row; o < k->last_row; o++)
    for (int64_t phase = 0; phase < g->spacing; phase++)
      for (int64_t p = phase; p < s->out_w; p += PAIR_OUTPUTS * g->spacing) {
        const int64_t live = blocks_of(s->out_w - p, g->spacing),
                      at = k->image * s->out_image + s->out_first + o * s->out_row + p * s->out_column + k->first;
        pair_inputs(x, s, g, map, o, p);
        for (int64_t c = 0; c < n; c += width) {
          const uint32_t *w = (const uint32_t *)s->panels + (k->first + c) * pairs * g->side;
          const int64_t channels = n - c < width ? n - c : width;
          bf16 *y = (bf16 *)s->out + at + c, some[PAIR_OUTPUTS * 32], added[PAIR_OUTPUTS * 32];
          const bf16 *residual = s->residual ? (const bf16 *)s->residual + at + c : NULL;
          if (live >= PAIR_OUTPUTS) {
            tiles.lane_pairs(g->side, s->step_w, pairs, x, c, channels, w, bias + c, y, lds, residual, s->activation);
            continue;
          }
          for (int64_t q = 0; q < live && residual; q++)
            memcpy(added + q * 32, residual + q * lds, (size_t)channels * sizeof *y);
          tiles.lane_pairs(g->side, s->step_w, pairs, x, c, channels, w, bias + c, some, 32, residual ? added : NULL,
                           s->activation);
          for (int64_t q = 0; q < live; q++) memcpy(y + q * lds, some + q * 32, (size_t)channels * sizeof *y);
        }
      }
  return DLV3_OK;
}

/* -- Forward and backward-data ----------------------------------------------------------------- */

typedef struct {
  const shift_conv *s;
  const tap_grid *grid;                /* of pairs, or NULL                                                 */
  int64_t group, groups, rows, chunks; /* channels and output rows of a task; how many of each there are */
  int32_t dtype;
  bool out_of_memory;
} row_job;

/* Item: image, group of channels, rows. The last group takes the channels that are left. */
static void row_tasks(void *ctx, int64_t begin, int64_t end) {
  row_job *j = ctx;
  const shift_conv *s = j->s;
  for (int64_t i = begin; i < end; i++) {
    const int64_t group = i / j->chunks % j->groups, row = i % j->chunks * j->rows,
                  last_row = row + j->rows < s->out_h ? row + j->rows : s->out_h;
    const row_task k = {i / j->chunks / j->groups, row, last_row, group * j->group,
                        group + 1 < j->groups ? (group + 1) * j->group : s->inner};
    if (j->grid)
      rows_pairs(s, &k, j->grid);
    else if ((j->dtype == DLV3_F64 ? rows_f64 : j->dtype == DLV3_F32 ? rows_f32 : rows_bf16)(s, &k) != DLV3_OK)
      __atomic_store_n(&j->out_of_memory, true, __ATOMIC_RELAXED);
  }
}

static void cut_rows(row_job *j) {
  const shift_conv *s = j->s;
  const int64_t bytes = dtype_bytes(j->dtype);
  int64_t lowest = 0, highest = 0;
  for (int32_t t = 0; t < s->n_taps; t++) {
    if (s->taps[t].dh < lowest) lowest = s->taps[t].dh;
    if (s->taps[t].dh > highest) highest = s->taps[t].dh;
  }
  int64_t pixel = CACHED / ((highest - lowest + 1) * (s->in_w > 0 ? s->in_w : 1));
  pixel = pixel < FEWEST ? FEWEST : pixel > MOST ? MOST : pixel / 64 * 64;
  j->group = pixel / bytes < MOST_CHANNELS ? pixel / bytes : MOST_CHANNELS;
  j->groups = s->inner / j->group > 1 ? s->inner / j->group : 1;
  j->chunks = blocks_of(TASKS, s->n * j->groups);
  j->rows = blocks_of(s->out_h, j->chunks);
  j->chunks = blocks_of(s->out_h, j->rows);
}

/* dtype: of the operands, which may be copies. */
static status run_rows(const op_call *c, shift_conv *s, int32_t dtype, bool pairs) {
  void *w;
  const bool wide = dtype == DLV3_F64;
  tap_grid grid;
  row_job j = {.s = s, .dtype = dtype};
  if (!s->n || s->out_h < 1 || s->out_w < 1 || !s->inner) return DLV3_OK;
  if (pairs && pair_grid(s, &grid)) {
    const int64_t width = tiles.vector_bytes / 2,
                  bytes = blocks_of(s->inner, width) * width * blocks_of(grid.side, 2) * grid.side * 4;
    TRY(prepared_weight(&w, c->in[1], c->op == OP_conv2d ? FORM_DEPTHWISE_PAIRS : FORM_DEPTHWISE_PAIRS_BACKWARD, bytes,
                        pack_pairs, &grid));
    j.grid = &grid;
  } else {
    TRY(prepared_weight(&w, c->in[1], FORM_DEPTHWISE, blocks_of(s->inner, wide ? 8 : 16) * s->matrices * 64,
                        wide ? pack_f64 : pack_f32, NULL));
  }
  s->panels = w;
  cut_rows(&j);
  parallel_for(s->n * j.groups * j.chunks, 1, row_tasks, &j);
  return j.out_of_memory ? fail_call(c, DLV3_ERR_OOM, "out of memory") : DLV3_OK;
}

/* Runs all sums of the call; f16 through f32 copies. pairs: of bf16 even where this processor is
 * slow at it. */
static status run(op_call *c, const conv *g, bool forward, bool pairs) {
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
  for (int64_t i = 0; st == DLV3_OK && i < (forward ? 1 : residues_of(g)); i++) {
    shift_conv s;
    if (forward)
      shift_of_forward(c, g, &s);
    else
      shift_of_backward(c, g, i, &s);
    s.in = in, s.out = out, s.residual = added;
    st = run_rows(c, &s, inner, dtype == DLV3_BF16 && (pairs || tiles.pair_is_fast));
  }
  if (st == DLV3_OK && own[1]) store_f32(data_of(c->out[0]), dtype, own[1], numel(c->out[0]));
  for (int i = 0; i < 3; i++) free(own[i]);
  return st;
}

static status convolve(op_call *c, bool pairs) {
  const conv g = conv_of(c);
  if (not_depthwise(&g)) return DECLINED(not_depthwise(&g));
  if (c->in[4]) return DECLINED("a scale");
  return run(c, &g, true, pairs);
}
status depthwise_conv2d(op_call *c) { return convolve(c, false); }
status depthwise_pairs_conv2d(op_call *c) { return convolve(c, true); }

static status backward_input(op_call *c) {
  const conv g = conv_of(c);
  if (not_depthwise(&g)) return DECLINED(not_depthwise(&g));
  return run(c, &g, false, false);
}
status depthwise_conv2d_backward_input(op_call *c) { return add_apart(c, backward_input); }

/* -- Backward-weights -------------------------------------------------------------------------- */

/* Item: an image, some of its rows, a group of lanes. */
static void weight_tasks(void *ctx, int64_t begin, int64_t end) {
  depthwise *d = ctx;
  for (int64_t i = begin; i < end; i++) {
    const int64_t part = i / d->groups, first = i % d->groups * d->group,
                  last = first + d->group < d->lanes ? first + d->group : d->lanes;
    const int64_t row = part % d->chunks * d->rows, last_row = row + d->rows < d->g.oh ? row + d->rows : d->g.oh;
    double *sums = d->sums + (part * d->lanes + first) * d->g.r * d->g.s * d->lane;
    const status st =
        (d->dtype == DLV3_F64   ? weight_rows_f64
         : d->dtype == DLV3_F32 ? weight_rows_f32
                                : weight_rows_bf16)(d, part / d->chunks, row, last_row, first, last, sums);
    if (st != DLV3_OK) __atomic_store_n(&d->out_of_memory, true, __ATOMIC_RELAXED);
  }
}

/* Four lanes, or one where a task would then have few rows and read most of them twice. */
static void cut_weight_tasks(depthwise *d) {
  const conv *g = &d->g;
  const int64_t row = 64 * (g->stride.h * (g->w + 2 * g->padding.w) + g->ow),
                halo = (g->r - 1) * g->dilation.h / g->stride.h;
  d->group = CACHED / (4 * row) >= 4 * halo ? 4 : 1;
  d->groups = blocks_of(d->lanes, d->group);
  const int64_t most = CACHED / (d->group * row) - halo, chunks = blocks_of(TASKS, g->n * d->groups);
  d->rows = blocks_of(g->oh, chunks);
  if (d->rows > most) d->rows = most > halo + 1 ? most : halo + 1;
  d->chunks = blocks_of(g->oh, d->rows);
}

/* grad_w[c][tap] += the sums of all chunks, in their order. */
static void add_sums(const depthwise *d, tensor *grad_w) {
  const int64_t taps = d->g.r * d->g.s, last = (d->lanes - 1) * d->lane,
                overlap = d->g.c - d->lane; /* the last lane begins there */
  for (int64_t c = 0; c < d->g.c; c++) {
    const int64_t lane = c / d->lane, i = c >= last ? c - overlap : c % d->lane;
    for (int64_t t = 0; t < taps; t++) {
      double sum = at(grad_w, c * taps + t);
      for (int64_t part = 0; part < d->g.n * d->chunks; part++)
        sum += d->sums[((part * d->lanes + lane) * taps + t) * d->lane + i];
      set(grad_w, c * taps + t, sum);
    }
  }
}

status depthwise_conv2d_backward_weight(op_call *c) {
  const int32_t dtype = c->in[0]->dtype;
  depthwise d = {.g = conv_of(c), .dtype = dtype == DLV3_F16 ? DLV3_F32 : dtype};
  const conv *g = &d.g;
  if (not_depthwise(g)) return DECLINED(not_depthwise(g));
  /* padding is copied too: a lot of it around a small map would be all of the work */
  if ((double)(g->h + 2 * g->padding.h) * (double)(g->w + 2 * g->padding.w) > 64 * (double)(g->h * g->w + 1024))
    return DECLINED("a map that is nearly all padding");
  d.lane = d.dtype == DLV3_F64 ? 8 : 16;
  if (g->c < d.lane) return DECLINED("few channels");
  d.lanes = blocks_of(g->c, d.lane);
  if (!numel(c->in[1])) return DLV3_OK;
  cut_weight_tasks(&d);
  void *own_x = NULL, *own_y = NULL;
  d.x = dtype == DLV3_F16 ? conv_operand(c->in[0], false, &own_x, true) : data_of(c->in[0]);
  d.y = dtype == DLV3_F16 ? conv_operand(c->in[1], false, &own_y, true) : data_of(c->in[1]);
  d.sums = calloc((size_t)(g->n * d.chunks * d.lanes * g->r * g->s * d.lane) + 1, sizeof(double));
  status st = d.x && d.y && d.sums ? DLV3_OK : fail_call(c, DLV3_ERR_OOM, "out of memory");
  if (st == DLV3_OK) {
    parallel_for(g->n * d.chunks * d.groups, 1, weight_tasks, &d);
    if (d.out_of_memory) st = fail_call(c, DLV3_ERR_OOM, "out of memory");
  }
  if (st == DLV3_OK) {
    add_sums(&d, c->in[2]);
    if (c->in[3]) add_bias_gradient(c->in[3], c->in[1]);
  }
  free(d.sums), free(own_x), free(own_y);
  return st;
}

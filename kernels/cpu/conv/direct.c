/* direct.c - convolution as tiles in registers (tiles.h): f64, f32, f16 and bf16, sums in f32 (f64
 * in f64).
 *
 * A convolution is a sum over its taps of a shifted map times a matrix. Nothing is unrolled into
 * columns but windows of a few channels; taps, rows and pixels that fall on padding are skipped.
 * Weights are packed once for each version of them. Work is cut by shape alone, and every sum is
 * made in one order, so results do not depend on the number of threads. Not here: groups
 * (depthwise.c, oneDNN or the reference take them). */
#include "direct.h"
#include "weights.h"

#include "cpu/support/transpose.h"

#include <stdlib.h>

enum {
  MAX_WINDOW = 512, /* elements of a window of few channels that is multiplied as one */
  FEW_CHANNELS = 8,
  TASK_PIXELS = 240,
  AT_ONCE = 48 << 10, /* bytes of input that pass a panel at once */
  PIXELS = 240,       /* of backward-weights' inner axis at once */
  MOST_OUT = 264,
  MOST_IN = 256, /* channels of a task of backward-weights */
  TASKS = 16,    /* that a call is cut into, where it can be */
  MOST_DEAD = 48 /* taps of a weight whose dead ones are not packed: bits of a form's key */
};

typedef struct {
  int64_t image, row, rows, pixel, pixels, block, blocks;
} shift_task;

typedef struct {
  conv shape;
  const void *x, *y;
  void *grad_w, *partial; /* [parts][elements] where there are more than one */
  int64_t kb, cb, k_blocks, c_blocks, taps, parts, elements, part_rows;
  bool windows;
} weight_conv;

typedef struct {
  int64_t part, tap, k0, k1, c0, c1, row, last_row;
} weight_task;

typedef struct {
  void *to;
  const void *w;
  int64_t taps, inner, columns;
  uint64_t dead; /* bit t: no product needs tap t */
} packing;

static bool is_dead(const packing *p, int64_t t) { return t < MOST_DEAD && p->dead >> t & 1; }

typedef struct {
  void *to;
  const void *from, *factors;
  int64_t panels, inner, channels; /* panels of an image */
} scaling;

/* Of `most` columns from `first` on, those that there are. */
static int64_t live_columns(const shift_conv *s, int64_t first, int64_t most) {
  return s->columns - first < most ? s->columns - first : most;
}

static int64_t output_position(const shift_conv *s, int64_t image, int64_t row, int64_t pixel, int64_t column) {
  return image * s->out_image + s->out_first + row * s->out_row + pixel * s->out_column + column;
}

#define AS_IS(v) (v)

#define IN_PLACE true
#define STORED 1
#define X double
#define C double
#define U double
#define PAIR 1
#define LOAD AS_IS
#define STORE AS_IS
#define F(name) name##_f64
#include "direct.inc"
#undef X
#undef C
#undef U
#undef LOAD
#undef STORE
#undef F

#define C float
#define U float
#define X float
#define LOAD AS_IS
#define STORE AS_IS
#define F(name) name##_f32
#include "direct.inc"
#undef X
#undef LOAD
#undef STORE
#undef F

#undef IN_PLACE
#undef STORED
#define IN_PLACE false
#define STORED 0
#define transpose_f16 transpose_f32
#define rows_f16 rows_f32
#define columns_f16 columns_f32
#define X f16
#define LOAD f16_to_f32
#define STORE f32_to_f16
#define F(name) name##_f16
#include "direct.inc"
#undef X
#undef LOAD
#undef STORE
#undef F

#define transpose_bf16 transpose_f32
#define rows_bf16 rows_f32
#define columns_bf16 columns_f32
#define X bf16
#define LOAD bf16_to_f32
#define STORE f32_to_bf16
#define F(name) name##_bf16
#include "direct.inc"
#undef F
#undef U
#undef PAIR

#undef STORED
#define STORED 1
#define U uint32_t
#define PAIR 2
#define transpose_pair transpose_f32
#define F(name) name##_pair
#include "direct.inc"

typedef struct {
  int64_t pair, unit_bytes, columns; /* elements a unit, bytes of it, columns of a tile */
  uint64_t form;                     /* panels of equal form are shared */
  int64_t (*panel_bytes)(int64_t taps, int64_t inner, int64_t columns);
  void (*pack_forward)(void *ctx, int64_t begin, int64_t end), (*pack_backward)(void *ctx, int64_t begin, int64_t end);
  void (*scale_panels)(void *ctx, int64_t begin, int64_t end);
  status (*shift_run)(const shift_conv *s, const shift_task *k);
  status (*weight_run)(const weight_conv *g, const weight_task *k);
} variant;

#define VARIANT(name, pair, unit, sum, form) \
  { \
    pair, sizeof(unit), NR(sum), form, panel_bytes_##name, pack_forward_##name, pack_backward_##name, \
        scale_panels_##name, shift_run_##name, weight_run_##name \
  }
static const variant f64_variant = VARIANT(f64, 1, double, double, 0),
                     f32_variant = VARIANT(f32, 1, float, float, 1 << 8),
                     f16_variant = VARIANT(f16, 1, float, float, 1 << 8),
                     bf16_variant = VARIANT(bf16, 1, float, float, 1 << 8),
                     pair_variant = VARIANT(pair, 2, uint32_t, float, 2 << 8);

/* pairs: of bf16 even where this processor is slow at it. */
static const variant *variant_of(int32_t dtype, bool pairs) {
  switch (dtype) {
  case DLV3_F64: return &f64_variant;
  case DLV3_F32: return &f32_variant;
  case DLV3_F16: return &f16_variant;
  default: return pairs || tiles.pair_is_fast ? &pair_variant : &bf16_variant;
  }
}

static status no_memory(const op_call *c) { return fail_call(c, DLV3_ERR_OOM, "out of memory"); }

static const char *not_for_direct(const conv *g) {
  if (g->groups != 1) return "groups";
  if (g->r * g->s > MAX_TAPS) return "a window of more than 225 taps";
  return NULL;
}

static bool is_window(const conv *g) {
  return g->c <= FEW_CHANNELS && g->r * g->s > 1 && g->r * g->s * g->c <= MAX_WINDOW;
}

/* -- Forward and backward-data ----------------------------------------------------------------- */

typedef struct {
  const shift_conv *s;
  const variant *v;
  int64_t row_groups, chunks, groups, blocks;
  bool out_of_memory;
} shift_job;

/* Item: column group, image, rows, pixels of the rows; tasks that share panels are neighbours. */
static void shift_tasks(void *ctx, int64_t begin, int64_t end) {
  shift_job *j = ctx;
  const shift_conv *s = j->s;
  for (int64_t i = begin; i < end; i++) {
    int64_t chunk = i % j->chunks, rows = i / j->chunks % j->row_groups, image = i / j->chunks / j->row_groups % s->n,
            group = i / j->chunks / j->row_groups / s->n;
    shift_task k = {image, rows * s->rows, s->rows, chunk * s->pixels, s->pixels, group * s->group, s->group};
    if (k.row + k.rows > s->out_h) k.rows = s->out_h - k.row;
    if (k.pixel + k.pixels > s->out_w) k.pixels = s->out_w - k.pixel;
    if (k.block + k.blocks > j->blocks) k.blocks = j->blocks - k.block;
    if (j->v->shift_run(s, &k) != DLV3_OK) __atomic_store_n(&j->out_of_memory, true, __ATOMIC_RELAXED);
  }
}

/* A 1x1 convolution without gaps is a product of all pixels as one row, or of those of an image
 * where each has panels of its own. */
static void flatten(shift_conv *s) {
  const tap *t = &s->taps[0];
  if (s->window || s->n_taps != 1 || t->dh || t->dw || s->step_h != 1 || s->step_w != 1 || s->in_h != s->out_h
      || s->in_w != s->out_w)
    return;
  if (s->out_row != s->out_w * s->out_column || s->out_image != s->out_h * s->out_row) return;
  const int64_t images = s->of_image ? 1 : s->n;
  s->out_w = s->in_w = images * s->out_h * s->out_w;
  s->n /= images, s->out_h = s->in_h = 1;
  s->taps[0].to = s->out_w;
}

/* Tasks of about TASK_PIXELS by GROUP blocks; smaller ones where that would be few. Every group of
 * columns reads the map again and every piece of the map all its weights: what is less is read more
 * often. */
static void cut(shift_conv *s, const variant *v) {
  int64_t chunks = blocks_of(s->out_w, TASK_PIXELS), blocks = blocks_of(s->columns, v->columns),
          groups = blocks_of(blocks, GROUP);
  s->pixels = blocks_of(blocks_of(s->out_w, chunks), MR) * MR;
  s->rows = TASK_PIXELS / s->pixels > 1 ? TASK_PIXELS / s->pixels : 1;
  if (s->rows > s->out_h) s->rows = s->out_h;
  s->group = blocks_of(blocks, groups);
  const int64_t map = s->n * s->in_h * s->in_w * s->inner,
                weights = (s->window ? 1 : s->n_taps) * s->inner * s->columns;
  for (;;) {
    const int64_t pieces = s->n * blocks_of(s->out_h, s->rows) * blocks_of(s->out_w, s->pixels);
    groups = blocks_of(blocks, s->group);
    if (pieces * groups >= TASKS) break;
    if (s->rows > 1 && s->rows * s->pixels > TASK_PIXELS / 2)
      s->rows = (s->rows + 1) / 2;
    else if (s->group > 1 && map * groups < weights * pieces)
      s->group = (s->group + 1) / 2;
    else if (s->rows > 1)
      s->rows = (s->rows + 1) / 2;
    else if (s->pixels > 4 * MR)
      s->pixels = blocks_of(s->pixels, 2 * MR) * MR;
    else if (s->group > 1)
      s->group = (s->group + 1) / 2;
    else
      break;
  }
}

/* Units of the inner axis at once. Those of the taps of a kernel's row pass through the first cache
 * one after the other. */
static int64_t depth_of(const shift_conv *s, const variant *v) {
  const int64_t units = blocks_of(s->inner, v->pair);
  int64_t taps = 1;
  for (int32_t t = 1; t < s->n_taps && s->taps[t].dh == s->taps[0].dh; t++) taps++;
  if (s->window) return units;
  const int64_t most = tiles.depth_bytes / v->unit_bytes / (taps < 3 ? taps : 3);
  return blocks_of(blocks_of(units, blocks_of(units, most)), 4) * 4;
}

static status run_shift(const op_call *c, shift_conv *s, const variant *v) {
  if (s->out_h < 1 || s->out_w < 1 || s->n < 1) return DLV3_OK;
  flatten(s);
  cut(s, v);
  s->depth = depth_of(s, v);
  const tap *one = &s->taps[0];
  s->covered = s->window
               || (s->n_taps == 1 && one->from == 0 && one->to == s->out_w && one->dh == 0
                   && (s->out_h - 1) * s->step_h < s->in_h);
  shift_job j = {
      s, v, blocks_of(s->out_h, s->rows), blocks_of(s->out_w, s->pixels), 0, blocks_of(s->columns, v->columns), false};
  parallel_for(s->n * j.row_groups * j.chunks * blocks_of(j.blocks, s->group), 1, shift_tasks, &j);
  return j.out_of_memory ? no_memory(c) : DLV3_OK;
}

static void add_tap(shift_conv *s, int64_t dh, int64_t dw, int64_t index) {
  tap t = {dh, dw, index, 0, 0};
  int64_t first_row, last_row;
  live_range(s->out_w, s->in_w, s->step_w, dw, &t.from, &t.to);
  live_range(s->out_h, s->in_h, s->step_h, dh, &first_row, &last_row);
  if (t.from < t.to && first_row < last_row) s->taps[s->n_taps++] = t;
}

typedef struct {
  const variant *v;
  uint64_t dead;
} panel_form;

static status build_forward(void *to, const tensor *w, const void *arg) {
  const panel_form *form = arg;
  const variant *v = form->v;
  bool whole = is_window(&(conv){.c = w->size[1], .r = w->size[2], .s = w->size[3]});
  int64_t taps = w->size[2] * w->size[3];
  packing p = {to, data_of(w), whole ? 1 : taps, whole ? taps * w->size[1] : w->size[1], w->size[0], form->dead};
  parallel_for(p.taps * blocks_of(p.columns, v->columns), 1, v->pack_forward, &p);
  return DLV3_OK;
}

/* The plain weight again, of panels whose units are its elements. */
static void unpack_forward(void *dst, const void *panels, const int64_t *size, int64_t columns, int64_t width) {
  bool whole = is_window(&(conv){.c = size[1], .r = size[2], .s = size[3]});
  int64_t taps = whole ? 1 : size[2] * size[3], inner = size[1] * size[2] * size[3] / taps,
          blocks = blocks_of(size[0], columns);
  for (int64_t k = 0; k < size[0]; k++)
    for (int64_t t = 0; t < taps; t++)
      for (int64_t i = 0; i < inner; i++)
        memcpy((char *)dst + ((k * taps + t) * inner + i) * width,
               (const char *)panels + (((t * blocks + k / columns) * inner + i) * columns + k % columns) * width,
               (size_t)width);
}
static void unpack_forward_f32(void *dst, const void *panels, const int64_t *size) {
  unpack_forward(dst, panels, size, f32_variant.columns, 4);
}
static void unpack_forward_f64(void *dst, const void *panels, const int64_t *size) {
  unpack_forward(dst, panels, size, f64_variant.columns, 8);
}

static status build_backward(void *to, const tensor *w, const void *arg) {
  const panel_form *form = arg;
  const variant *v = form->v;
  packing p = {to, data_of(w), w->size[2] * w->size[3], w->size[0], w->size[1], form->dead};
  parallel_for(p.taps * blocks_of(p.columns, v->columns), 1, v->pack_backward, &p);
  return DLV3_OK;
}

void shift_of_conv(const conv *g, const void *x, void *y, shift_conv *s) {
  const int64_t taps = g->r * g->s;
  *s = (shift_conv){.in = x,
                    .out = y,
                    .n = g->n,
                    .in_h = g->h,
                    .in_w = g->w,
                    .inner = g->c,
                    .columns = g->k,
                    .matrices = taps,
                    .out_h = g->oh,
                    .out_w = g->ow,
                    .out_image = g->oh * g->ow * g->k,
                    .out_row = g->ow * g->k,
                    .out_column = g->k,
                    .step_h = g->stride.h,
                    .step_w = g->stride.w};
  for (int64_t t = 0; t < taps; t++)
    add_tap(s, t / g->s * g->dilation.h - g->padding.h, t % g->s * g->dilation.w - g->padding.w, t);
}

void shift_of_forward(const op_call *c, const conv *g, shift_conv *s) {
  shift_of_conv(g, data_of(c->in[0]), data_of(c->out[0]), s);
  s->bias = c->in[2] ? data_of(c->in[2]) : NULL;
  s->residual = c->in[3] ? data_of(c->in[3]) : NULL;
  s->activation = ((const conv2d_attr *)c->attr)->activation;
}

static int64_t residues(int64_t stride, int64_t size) { return stride < size ? stride : size; }
int64_t residues_of(const conv *g) { return residues(g->stride.h, g->h) * residues(g->stride.w, g->w); }

/* grad_x[h] = sum over r of grad_y[(h + padding - r dilation) / stride] w[r]^T, where that divides.
 * For each residue of h by the stride the taps are fixed, and h = residue + i stride reads grad_y[i
 * + (residue + padding - r dilation) / stride]. */
void shift_of_backward(const op_call *c, const conv *g, int64_t residue, shift_conv *s) {
  const int64_t of_row = residues(g->stride.w, g->w > 0 ? g->w : 1), a = residue / of_row, b = residue % of_row;
  *s = (shift_conv){.in = data_of(c->in[0]),
                    .out = data_of(grad_x_of(c)),
                    .residual = c->in[2] ? data_of(c->in[2]) : NULL,
                    .n = g->n,
                    .in_h = g->oh,
                    .in_w = g->ow,
                    .inner = g->k,
                    .columns = g->c,
                    .matrices = g->r * g->s,
                    .out_h = (g->h - a + g->stride.h - 1) / g->stride.h,
                    .out_w = (g->w - b + g->stride.w - 1) / g->stride.w,
                    .out_image = g->h * g->w * g->c,
                    .out_row = g->stride.h * g->w * g->c,
                    .out_column = g->stride.w * g->c,
                    .out_first = (a * g->w + b) * g->c,
                    .step_h = 1,
                    .step_w = 1};
  for (int64_t t = 0; t < g->r * g->s; t++) {
    int64_t h = a + g->padding.h - t / g->s * g->dilation.h, u = b + g->padding.w - t % g->s * g->dilation.w;
    if (h % g->stride.h == 0 && u % g->stride.w == 0) add_tap(s, h / g->stride.h, u / g->stride.w, t);
  }
}

/* Taps that only ever fall on padding, of a weight that changes (a frozen one is kept whole). */
static uint64_t dead_taps(const tensor *w, const shift_conv *s) {
  if (w->st->frozen || s->window || s->matrices > MOST_DEAD) return 0;
  uint64_t live = 0;
  for (int32_t t = 0; t < s->n_taps; t++) live |= (uint64_t)1 << s->taps[t].index;
  return ~live & (~(uint64_t)0 >> (64 - s->matrices));
}

/* dead: a set of taps whose panels are left unwritten. */
static status panels_of(const op_call *c, const conv *g, const variant *v, uint64_t dead, shift_conv *s) {
  const bool forward = c->op == OP_conv2d, whole = forward && is_window(g);
  const int64_t taps = g->r * g->s, bytes = forward ? v->panel_bytes(whole ? 1 : taps, whole ? taps * g->c : g->c, g->k)
                                                    : v->panel_bytes(taps, g->k, g->c);
  void *panels;
  const panel_form form = {v, dead};
  const uint64_t key = ((forward ? FORM_FORWARD : FORM_BACKWARD) | v->form) ^ dead << 16;
  TRY(prepared_weight(&panels, c->in[1], key, bytes, forward ? build_forward : build_backward, &form));
  if (forward && v->pair == 1)
    packed_only(c->in[1], panels, v == &f64_variant ? unpack_forward_f64 : unpack_forward_f32);
  s->panels = panels;
  return DLV3_OK;
}

/* Panels for each image, times the factors of its input channels: there are fewer weights than pixels. */
static status scale_panels(storage **out, const tensor *scale, const variant *v, shift_conv *s) {
  const int64_t panels = (s->window ? 1 : s->matrices) * blocks_of(s->columns, v->columns),
                units = blocks_of(s->inner, v->pair);
  s->of_image = panels * units * v->columns;
  TRY(storage_new(out, s->n * s->of_image * v->unit_bytes, 0));
  scaling job = {(*out)->data, s->panels, data_of(scale), panels, s->inner, scale->size[1]};
  parallel_for(s->n * panels, 1, v->scale_panels, &job);
  s->panels = job.to;
  return DLV3_OK;
}

status shift_panels(const op_call *c, const conv *g, shift_conv *s) { return panels_of(c, g, &f32_variant, 0, s); }

static status convolve(op_call *c, bool pairs) {
  conv g = conv_of(c);
  if (not_for_direct(&g)) return DECLINED(not_for_direct(&g));
  const variant *v = variant_of(c->in[0]->dtype, pairs);
  shift_conv s;
  shift_of_forward(c, &g, &s);
  if (is_window(&g)) s.window = &g, s.inner = g.r * g.s * g.c, s.n_taps = 0;
  TRY(panels_of(c, &g, v, dead_taps(c->in[1], &s), &s));
  storage *scaled = NULL;
  if (c->in[4]) TRY(scale_panels(&scaled, c->in[4], v, &s));
  const status st = run_shift(c, &s, v);
  if (scaled) storage_drop(scaled);
  return st;
}

static status backward_input(op_call *c, bool pairs) {
  conv g = conv_of(c);
  if (not_for_direct(&g)) return DECLINED(not_for_direct(&g));
  const variant *v = variant_of(c->in[0]->dtype, pairs);
  shift_conv panels;
  shift_of_backward(c, &g, 0, &panels);
  TRY(panels_of(c, &g, v, residues_of(&g) == 1 ? dead_taps(c->in[1], &panels) : 0, &panels));
  for (int64_t i = 0; i < residues_of(&g); i++) {
    shift_conv s;
    shift_of_backward(c, &g, i, &s);
    s.panels = panels.panels;
    TRY(run_shift(c, &s, v));
  }
  return DLV3_OK;
}

status direct_conv2d(op_call *c) { return convolve(c, false); }
status direct_conv2d_backward_input(op_call *c) { return backward_input(c, false); }
status pairs_conv2d(op_call *c) {
  const conv g = conv_of(c);
  if (c->in[0]->dtype != DLV3_BF16) return DECLINED("only bf16 comes in pairs");
  return is_depthwise(&g) ? depthwise_pairs_conv2d(c) : convolve(c, true);
}
status pairs_conv2d_backward_input(op_call *c) {
  return c->in[0]->dtype == DLV3_BF16 ? backward_input(c, true) : DECLINED("only bf16 comes in pairs");
}

/* -- Backward-weights -------------------------------------------------------------------------- */

typedef struct {
  weight_conv *g;
  const variant *v;
  bool out_of_memory;
} weight_job;

static void weight_tasks(void *ctx, int64_t begin, int64_t end) {
  weight_job *j = ctx;
  const weight_conv *g = j->g;
  const int64_t channels = g->windows ? g->elements / g->shape.k : g->shape.c, rows = g->shape.n * g->shape.oh;
  for (int64_t i = begin; i < end; i++) {
    int64_t cb = i % g->c_blocks * g->cb, kb = i / g->c_blocks % g->k_blocks * g->kb,
            t = i / g->c_blocks / g->k_blocks % g->taps, part = i / g->c_blocks / g->k_blocks / g->taps;
    weight_task k = {part, t, kb, kb + g->kb, cb, cb + g->cb, part * g->part_rows, (part + 1) * g->part_rows};
    if (k.k1 > g->shape.k) k.k1 = g->shape.k;
    if (k.c1 > channels) k.c1 = channels;
    if (k.last_row > rows) k.last_row = rows;
    if (j->v->weight_run(g, &k) != DLV3_OK) __atomic_store_n(&j->out_of_memory, true, __ATOMIC_RELAXED);
  }
}

/* Blocks of at most MOST_OUT output by MOST_IN input channels; where they are few, the pixels are
 * cut into parts too, whose sums are added in their order. */
static void cut_weights(weight_conv *g, const variant *v) {
  const conv *q = &g->shape;
  const int64_t channels = g->windows ? q->r * q->s * q->c : q->c, rows = q->n * q->oh;
  g->taps = g->windows ? 1 : q->r * q->s;
  g->elements = q->k * q->r * q->s * q->c;
  g->kb = blocks_of(blocks_of(q->k, blocks_of(q->k, MOST_OUT)), MR) * MR;
  g->cb = blocks_of(blocks_of(channels, blocks_of(channels, MOST_IN)), v->columns) * v->columns;
  g->k_blocks = blocks_of(q->k, g->kb), g->c_blocks = blocks_of(channels, g->cb);
  const int64_t tasks = g->taps * g->k_blocks * g->c_blocks, enough = rows * q->ow / (2 * PIXELS);
  g->parts = tasks >= TASKS ? 1 : blocks_of(TASKS, tasks);
  if (g->parts > enough) g->parts = enough > 1 ? enough : 1;
  g->part_rows = blocks_of(rows, g->parts);
  g->parts = blocks_of(rows, g->part_rows);
}

static void add_parts_f32(void *ctx, int64_t begin, int64_t end) {
  const weight_conv *g = ctx;
  for (int64_t p = 0; p < g->parts; p++)
    for (int64_t i = begin; i < end; i++) ((float *)g->grad_w)[i] += ((const float *)g->partial)[p * g->elements + i];
}
static void add_parts_f64(void *ctx, int64_t begin, int64_t end) {
  const weight_conv *g = ctx;
  for (int64_t p = 0; p < g->parts; p++)
    for (int64_t i = begin; i < end; i++) ((double *)g->grad_w)[i] += ((const double *)g->partial)[p * g->elements + i];
}

static status backward_weight(op_call *c, bool pairs) {
  weight_conv g = {.shape = conv_of(c), .x = data_of(c->in[0]), .y = data_of(c->in[1]), .grad_w = data_of(c->in[2])};
  if (not_for_direct(&g.shape)) return DECLINED(not_for_direct(&g.shape));
  const variant *v = variant_of(c->in[0]->dtype, pairs);
  const int64_t sum_bytes = 128 / v->columns;
  if (!numel(c->in[1]) || !numel(c->in[0])) return DLV3_OK;
  g.windows = is_window(&g.shape);
  cut_weights(&g, v);
  void *own = NULL;
  if (g.parts > 1 && !(own = calloc((size_t)(g.parts * g.elements), (size_t)sum_bytes))) return no_memory(c);
  g.partial = own;
  weight_job j = {&g, v, false};
  parallel_for(g.parts * g.taps * g.k_blocks * g.c_blocks, 1, weight_tasks, &j);
  if (own && !j.out_of_memory) parallel_for(g.elements, 4096, sum_bytes == 8 ? add_parts_f64 : add_parts_f32, &g);
  free(own);
  if (j.out_of_memory) return no_memory(c);
  if (c->in[3]) add_bias_gradient(c->in[3], c->in[1]);
  return DLV3_OK;
}

status direct_conv2d_backward_weight(op_call *c) { return backward_weight(c, false); }
status pairs_conv2d_backward_weight(op_call *c) {
  return c->in[0]->dtype == DLV3_BF16 ? backward_weight(c, true) : DECLINED("only bf16 comes in pairs");
}

/* winograd.c - 3x3 convolutions of stride 1, in all three directions, with a half to a quarter of the
 * multiplications.
 *
 * A tile of outputs y is made of a tile of inputs d and the 3x3 taps g: y = A^T [ (G g G^T) . (B^T d B) ]
 * A, where the dot is a product at each position, summed over input channels: as many matrix
 * products of tiles by channels as there are positions, 36 for 4x4 outputs (Lavin and Gray, "Fast
 * Algorithms for Convolutional Neural Networks"). The transforms of either side of a tile are in
 * winograd_sides.h.
 *
 * A dilation of d is d x d convolutions of dilation 1 on the grids of every d-th pixel. They have two
 * lengths in each direction, which differ by one, and each length its side: rate 12 on a map of
 * 60 x 60 (the ASPP's with crops of 480) has grids of 5x5, 49 products in place of the 169 of the
 * direct sum, which skips padding; rate 24 there, like rate 12 on 30 x 30, has grids of 2 and 3, 64
 * products for each four grids in place of 121.
 *
 * G g G^T is made from the direct kernel's panels for each product: for some dozens of tiles that is
 * cheap, and nothing is kept. The gradient of g is the same read backwards: G^T [ sum over tiles of
 * (A grad_y A^T) . (B^T d B) ] G, products of output channels by tiles by input channels. Sums and
 * transforms are f32. */
#include "direct.h"
#include "winograd_sides.h"

enum {
  DEPTH = 128,
  MOST_GROUP = 2 /* blocks of columns that a task multiplies by */,
  MOST_INNER = 512,
  MOST_OUTER = 512 /* channels transformed at once */,
  BYTES = 8 << 20 /* of scratch, about */
};

/* The grids of one length in one direction: `grids` of them from the residue `first` on, each covered
 * by `tiles` tiles of that side. */
typedef struct {
  const side *side;
  int64_t first, grids, tiles;
} span;

/* What a type has of its own; works on the tiles [begin, end). */
typedef struct {
  void (*input)(void *ctx, int64_t begin, int64_t end), (*gradient)(void *ctx, int64_t begin, int64_t end),
      (*output)(void *ctx, int64_t begin, int64_t end);
} transforms;

typedef struct {
  const shift_conv *s;
  const transforms *transform;
  int64_t spacing, tap_of[3][3];        /* of taps; which panel is tap (r, s)                                       */
  int64_t first_h, first_w;             /* input pixel of tap (0, 0) of output pixel (0, 0)                         */
  span spans_h[2], spans_w[2];          /* all grids                                                                */
  int32_t n_h, n_w;                     /* how many spans of them                                                   */
  span h, w;                            /* at work now                                                              */
  int64_t positions;                    /* of a tile                                                                */
  int64_t all_tiles, first_tile, tiles; /* of the spans at work; those at work now                                  */
  int64_t first_inner, inner;           /* input channels at work now                                               */
  int64_t first_block, blocks;          /* of columns, output channels, at work now                                 */
  float *data, *products;               /* [position][inner / ldd][tiles][ldd], [position][tiles][ldp]              */
  int64_t ldd, ldp;                     /* distances of tiles                                                       */
  int64_t group, groups, parts;         /* blocks of columns of a task, how many such; parts of the rows            */
  float *gradients, *grad_w;            /* backward-weights: A grad_y A^T, [position][columns / MR][tiles][MR]      */
  int64_t kb, cb, c_blocks;             /* output and input channels of a task, and how many of the latter          */
  bool taps_once;                       /* the order of tasks, see multiply                                         */
  bool out_of_memory;
} winograd;

typedef struct {
  int64_t image, out_h, out_w, in_h, in_w;
} place;

/* A side with as many inputs as outputs has no neighbours: its first input is that of the middle tap. */
static int64_t skipped_taps(const side *s) { return s->inputs == s->outputs ? 1 : 0; }

/* Where tile t begins: images, rows and columns of grids, rows and columns of tiles. */
static place place_of(const winograd *g, int64_t t) {
  const span *h = &g->h, *w = &g->w;
  const int64_t column = t % w->tiles, row = t / w->tiles % h->tiles, grid = t / w->tiles / h->tiles;
  const int64_t out_h = h->first + grid / w->grids % h->grids + row * h->side->outputs * g->spacing,
                out_w = w->first + grid % w->grids + column * w->side->outputs * g->spacing;
  return (place){grid / w->grids / h->grids, out_h, out_w, out_h + g->first_h + skipped_taps(h->side) * g->spacing,
                 out_w + g->first_w + skipped_taps(w->side) * g->spacing};
}

#define C float
#define X float
#define LOAD(v) (v)
#define STORE(v) (v)
#define F(name) name##_f32
#include "epilogue.inc"
#include "winograd.inc"
#undef X
#undef LOAD
#undef STORE
#undef F
#define X bf16
#define LOAD bf16_to_f32
#define STORE f32_to_bf16
#define F(name) name##_bf16
#include "epilogue.inc"
#include "winograd.inc"
#undef X
#undef LOAD
#undef STORE
#undef F
#undef C

/* -- The products ------------------------------------------------------------------------------ */

/* to[row][j] = sum over r, s of G[row][r] G'[j][s] taps[r][s], n values each, for `rows` rows of the
 * side h from its first row on, and all `columns` rows of the other side. */
INLINE void transform_rows(const int columns, float (*to)[DEPTH * NR(float)], const float *const taps[3][3],
                           const float (*h)[3], int64_t rows, const float (*w)[3], int64_t n) {
  for (int64_t at = 0; at < n; at += LANES) {
    float t[9][LANES], u[3][LANES];
    for (int64_t r = 0; r < 9; r++) {
      __builtin_prefetch(taps[r / 3][r % 3] + at + 32 * LANES);
      for (int l = 0; l < LANES; l++) t[r][l] = taps[r / 3][r % 3][at + l];
    }
    for (int64_t i = 0; i < rows; i++) {
      const float *g = h[i];
      for (int64_t s = 0; s < 3; s++)
        for (int l = 0; l < LANES; l++) u[s][l] = g[0] * t[s][l] + g[1] * t[3 + s][l] + g[2] * t[6 + s][l];
#pragma GCC unroll 7
      for (int j = 0; j < columns; j++)
        for (int l = 0; l < LANES; l++)
          to[i * columns + j][at + l] = w[j][0] * u[0][l] + w[j][1] * u[1][l] + w[j][2] * u[2][l];
    }
  }
}

/* The same for tiles whose width is the side w. */
CLONES static void transform_taps(float (*to)[DEPTH * NR(float)], const float *const taps[3][3], const float (*h)[3],
                                  int64_t rows, const side *w, int64_t n) {
  switch (w->outputs) {
  case 1: transform_rows(1, to, taps, h, rows, sides[1].taps, n); break;
  case 2: transform_rows(3, to, taps, h, rows, sides[2].taps, n); break;
  case 3: transform_rows(5, to, taps, h, rows, sides[3].taps, n); break;
  case 4: transform_rows(6, to, taps, h, rows, sides[4].taps, n); break;
  default: transform_rows(7, to, taps, h, rows, sides[5].taps, n); break;
  }
}

/* Depth [l, l + depth) of (G g G^T) at `rows` rows of positions from `row` on, for a block of columns, as panels. */
static void tap_panels(const winograd *g, float (*to)[DEPTH * NR(float)], int64_t row, int64_t rows, int64_t block,
                       int64_t l, int64_t depth) {
  const shift_conv *s = g->s;
  const float *taps[3][3];
  for (int64_t i = 0; i < 9; i++)
    taps[i / 3][i % 3] =
        (const float *)s->panels
        + ((g->tap_of[i / 3][i % 3] * blocks_of(s->columns, NR(float)) + block) * s->inner + l) * (int64_t)NR(float);
  transform_taps(to, (const float *const(*)[3])taps, g->h.side->taps + row, rows, g->w.side,
                 depth * (int64_t)NR(float));
}

/* The tiles at work times `blocks` panels of a position: a few tiles pass all panels while they
 * stay in the first cache. from: whether the products have sums already. */
static void multiply_position(const winograd *g, int64_t position, int64_t l, int64_t depth, int64_t first,
                              int64_t blocks, const float *panels, int64_t apart, bool from) {
  const float *data = g->data + position * g->tiles * g->ldd + l;
  float *products = g->products + position * g->tiles * g->ldp + first * (int64_t)NR(float);
  for (int64_t t = 0; t < g->tiles; t += MR) {
    const float *a = data + t * g->ldd, *b = panels;
    const int64_t m = g->tiles - t < MR ? g->tiles - t : MR;
    for (int64_t i = m; i < 2 * m && t + i < g->tiles; i++) /* the next tiles come while these are multiplied */
      for (int64_t c = 0; c < depth; c += 16) __builtin_prefetch(a + i * g->ldd + c, 0, 2);
    for (int64_t n = 0; n < blocks; n++, b += apart) {
      float *to = products + t * g->ldp + n * (int64_t)NR(float),
            *next = n + 1 < blocks ? to + NR(float) : to + MR * g->ldp - n * (int64_t)NR(float);
      for (int64_t i = 0; i < m; i++)
        for (int64_t c = 0; c < (int64_t)NR(float); c += 16) __builtin_prefetch(next + i * g->ldp + c, 1);
      tiles.rows_f32(m, NR(float), to, g->ldp, from ? to : NULL, g->ldp, 1, &a, g->ldd, &b, depth);
    }
  }
}

/* Rows of positions [first_row, last_row) of a group of blocks of columns. */
static void multiply_group(const winograd *g, int64_t first, int64_t first_row, int64_t last_row,
                           float (*panels)[DEPTH * NR(float)]) {
  const int64_t columns = g->w.side->positions, blocks = g->blocks - first < g->group ? g->blocks - first : g->group;
  const int64_t positions = (last_row - first_row) * columns;
  for (int64_t l = 0; l < g->inner; l += DEPTH) {
    const int64_t depth = g->inner - l < DEPTH ? g->inner - l : DEPTH;
    for (int64_t b = 0; b < blocks; b++)
      tap_panels(g, panels + b * positions, first_row, last_row - first_row, g->first_block + first + b,
                 g->first_inner + l, depth);
    for (int64_t p = 0; p < positions; p++)
      multiply_position(g, first_row * columns + p, l, depth, first, blocks, panels[p],
                        positions * DEPTH * (int64_t)NR(float), g->first_inner + l > 0);
  }
}

/* Item: a group of blocks of columns and a part of the rows of positions. What there is more of, taps
 * or transformed inputs, is read from memory once, and the other again for each of its pieces. */
static void multiply(void *ctx, int64_t begin, int64_t end) {
  const winograd *g = ctx;
  const int64_t rows = g->h.side->positions, most = blocks_of(rows, g->parts) * g->w.side->positions;
  float(*panels)[DEPTH * NR(float)] = kernel_scratch(g->group * most * (int64_t)sizeof *panels);
  if (!panels) __atomic_store_n(&((winograd *)ctx)->out_of_memory, true, __ATOMIC_RELAXED);
  for (int64_t item = begin; panels && item < end; item++) {
    const int64_t part = g->taps_once ? item % g->parts : item / g->groups,
                  group = g->taps_once ? item / g->parts : item % g->groups;
    multiply_group(g, group * g->group, rows * part / g->parts, rows * (part + 1) / g->parts, panels);
  }
}

/* -- The call ---------------------------------------------------------------------------------- */

/* Nine taps on a square grid: fills its geometry. */
static bool square_taps(winograd *g) {
  const shift_conv *s = g->s;
  if (s->n_taps != 9) return false;
  g->first_h = g->first_w = INT64_MAX;
  int64_t last = INT64_MIN;
  for (int32_t t = 0; t < 9; t++) {
    if (s->taps[t].dh < g->first_h) g->first_h = s->taps[t].dh;
    if (s->taps[t].dw < g->first_w) g->first_w = s->taps[t].dw;
    if (s->taps[t].dh > last) last = s->taps[t].dh;
  }
  g->spacing = (last - g->first_h) / 2;
  if (g->spacing < 1) return false;
  for (int32_t t = 0; t < 9; t++) {
    const int64_t r = s->taps[t].dh - g->first_h, c = s->taps[t].dw - g->first_w;
    if (r % g->spacing || c % g->spacing || r / g->spacing > 2 || c / g->spacing > 2) return false;
    g->tap_of[r / g->spacing][c / g->spacing] = s->taps[t].index;
  }
  return true;
}

/* Multiplications a channel pair: of the direct kernel, which skips padding. */
static int64_t direct_products(const shift_conv *s) {
  int64_t sum = 0;
  for (int32_t t = 0; t < s->n_taps; t++) {
    int64_t live = 0;
    for (int64_t o = 0; o < s->out_h; o++) live += o + s->taps[t].dh >= 0 && o + s->taps[t].dh < s->in_h;
    sum += live * (s->taps[t].to - s->taps[t].from);
  }
  return sum * s->n;
}

/* Tiles of a pass: scratch of about BYTES where a tile takes `floats` at each position, but LEAST
 * of them to make the products pay. */
static int64_t tiles_of_pass(const winograd *g, int64_t floats) {
  enum { LEAST = 264 };
  const int64_t most = BYTES / (g->positions * 4 * floats);
  return blocks_of(g->all_tiles, blocks_of(g->all_tiles, most > LEAST ? most : LEAST));
}

/* The columns at work: from a block on, as many as are transformed at once, about the same number
 * each time. */
static void take_columns(winograd *g, int64_t first_block) {
  const int64_t all = blocks_of(g->s->columns, NR(float)), left = all - first_block,
                most = blocks_of(all, blocks_of(all, MOST_OUTER / (int64_t)NR(float)));
  g->first_block = first_block;
  g->blocks = left < most ? left : most;
  g->taps_once = 9 * g->blocks * (int64_t)NR(float) > g->positions * g->tiles;
  g->group = g->taps_once ? 1 : g->blocks < 2 * MOST_GROUP ? blocks_of(g->blocks, 2) : MOST_GROUP;
  g->groups = blocks_of(g->blocks, g->group);
  const int64_t rows = g->h.side->positions, fewest = blocks_of(4 * parallel_threads(), g->groups);
  g->parts = g->taps_once && fewest < rows ? fewest : rows;
}

static void cut(winograd *g) {
  take_columns(g, 0);
  g->ldd = blocks_of(g->inner, LANES) * LANES + LANES;
  g->ldp = g->blocks * (int64_t)NR(float) + LANES;
  g->tiles = blocks_of(tiles_of_pass(g, g->ldd + g->ldp), MR) * MR;
}

static const char *unfit(const conv *g, int32_t dtype) {
  if (dtype != DLV3_F32 && dtype != DLV3_BF16) return "f32 and bf16 only";
  if (g->r != 3 || g->s != 3 || g->groups != 1) return "not 3x3 in one group";
  if (g->stride.h != 1 || g->stride.w != 1) return "a stride";
  if (g->c < 32 || g->k < 32) return "few channels";
  return NULL;
}

/* -- Backward-weights -------------------------------------------------------------------------- */

/* w[r][s] += (G^T m G)[r][s] for n channels; positions m are `step` apart, taps of w `ldw`. */
CLONES static void add_taps(const side *h, const side *v, float *w, int64_t ldw, const float *m, int64_t step,
                            int64_t n) {
  for (int64_t c = 0; c < n; c += LANES) {
    float t[3][MOST_SIDE][LANES] = {0}, sum[9][LANES] = {0};
    for (int64_t i = 0; i < h->positions; i++)
      for (int64_t j = 0; j < v->positions; j++)
        for (int64_t r = 0; r < 3; r++)
          for (int l = 0; l < LANES; l++) t[r][j][l] += h->taps[i][r] * m[(i * v->positions + j) * step + c + l];
    for (int64_t j = 0; j < v->positions; j++)
      for (int64_t i = 0; i < 9; i++)
        for (int l = 0; l < LANES; l++) sum[i][l] += v->taps[j][i % 3] * t[i / 3][j][l];
    const int64_t live = n - c < LANES ? n - c : LANES;
    for (int64_t i = 0; i < 9; i++)
      for (int64_t l = 0; l < live; l++) w[i * ldw + c + l] += sum[i][l];
  }
}

static const transforms f32_transforms = {transform_input_f32, transform_gradient_f32, transform_output_f32},
                        bf16_transforms = {transform_input_bf16, transform_gradient_bf16, transform_output_bf16};

/* Item: a block of output channels by a block of input channels. */
static void multiply_weights(void *ctx, int64_t begin, int64_t end) {
  const winograd *g = ctx;
  const shift_conv *s = g->s;
  const int64_t of_gradients = blocks_of(s->columns, MR) * g->tiles * MR,
                of_data = blocks_of(g->inner, g->ldd) * g->tiles * g->ldd, step = g->kb * g->cb + LANES;
  float *sums = kernel_scratch(g->positions * step * 4);
  if (!sums) __atomic_store_n(&((winograd *)ctx)->out_of_memory, true, __ATOMIC_RELAXED);
  for (int64_t item = begin; sums && item < end; item++) {
    const int64_t k0 = item / g->c_blocks * g->kb, c0 = item % g->c_blocks * g->cb;
    const int64_t kn = s->columns - k0 < g->kb ? s->columns - k0 : g->kb,
                  cn = g->inner - c0 < g->cb ? g->inner - c0 : g->cb;
    for (int64_t p = 0; p < g->positions; p++)
      for (int64_t c = 0; c < cn; c += g->ldd)
        for (int64_t k = 0; k < kn; k += MR)
          tiles.columns_f32(kn - k < MR ? kn - k : MR, cn - c < g->ldd ? cn - c : g->ldd,
                            sums + p * step + k * g->cb + c, g->cb, NULL, 0,
                            g->gradients + p * of_gradients + (k0 + k) * g->tiles, MR,
                            g->data + p * of_data + (c0 + c) * g->tiles, g->ldd, g->tiles);
    for (int64_t k = 0; k < kn; k++)
      add_taps(g->h.side, g->w.side, g->grad_w + (k0 + k) * 9 * s->inner + g->first_inner + c0, s->inner,
               sums + k * g->cb, step, cn);
  }
}

/* Blocks of at most MOST channels, of which there are TASKS where they can be. */
static void cut_weights(winograd *g) {
  enum { MOST = 132, TASKS = 16 };
  const shift_conv *s = g->s;
  int64_t k_blocks = blocks_of(s->columns, MOST), c_blocks = blocks_of(g->inner, MOST);
  g->ldd = NR(float);
  g->tiles = tiles_of_pass(g, g->inner + s->columns);
  while (k_blocks * c_blocks < TASKS) {
    const bool k_left = k_blocks * MR < s->columns, c_left = c_blocks * g->ldd < g->inner;
    if (!k_left && !c_left) break;
    if (k_left && (!c_left || s->columns * c_blocks >= g->inner * k_blocks))
      k_blocks++;
    else
      c_blocks++;
  }
  g->kb = blocks_of(blocks_of(s->columns, k_blocks), MR) * MR;
  g->cb = blocks_of(blocks_of(g->inner, c_blocks), g->ldd) * g->ldd;
  g->c_blocks = blocks_of(g->inner, g->cb);
}

/* -- The calls --------------------------------------------------------------------------------- */

/* Grids of `length` pixels. padded: what lies around a map is padding on both sides, a pixel of each grid. */
static span span_of(int64_t first, int64_t grids, int64_t length, bool padded) {
  const side *s = &sides[length == 5 || (padded && length <= 3) ? length : 4];
  return (span){s, first, grids, blocks_of(length, s->outputs)};
}

/* The grids of a direction with n outputs; returns how many spans there are. */
static int32_t spans_of(span *spans, int64_t n, int64_t spacing, bool padded) {
  const int64_t length = n / spacing, longer = n % spacing;
  int32_t count = 0;
  if (longer) spans[count++] = span_of(0, longer, length + 1, padded);
  if (length) spans[count++] = span_of(longer, spacing - longer, length, padded);
  return count;
}

/* Puts the grids of one length in either direction to work. */
static void take_spans(winograd *g, int32_t h, int32_t w) {
  g->h = g->spans_h[h], g->w = g->spans_w[w];
  g->positions = g->h.side->positions * g->w.side->positions;
  g->all_tiles = g->s->n * g->h.grids * g->w.grids * g->h.tiles * g->w.tiles;
}

/* Multiplications a channel pair, of tiles and for G g G^T. */
static int64_t products_of(winograd *g) {
  int64_t sum = 0;
  for (int32_t i = 0; i < g->n_h * g->n_w; i++) {
    take_spans(g, i / g->n_w, i % g->n_w);
    sum += g->positions * g->all_tiles + 9 * g->h.side->positions + 3 * g->positions;
  }
  return sum;
}

/* Fills g's geometry, or says why this is not for here. */
static const char *lay_tiles(winograd *g, const shift_conv *s, int32_t dtype) {
  g->s = s;
  if (!square_taps(g)) return "taps on padding alone, or not on a square grid";
  g->n_h = spans_of(g->spans_h, s->out_h, g->spacing, s->in_h == s->out_h && g->first_h == -g->spacing);
  g->n_w = spans_of(g->spans_w, s->out_w, g->spacing, s->in_w == s->out_w && g->first_w == -g->spacing);
  const int64_t products = products_of(g), direct = direct_products(s);
  /* the direct kernel multiplies pairs of bf16 */
  if (dtype == DLV3_F32 ? 3 * products <= 2 * direct : 2 * products <= direct) return NULL;
  return dtype == DLV3_F32 ? "more than two thirds of the multiplications of the direct sum"
                           : "more than half of the multiplications of the direct sum";
}

/* Transforms the inputs of the tiles at work, from channel `first` on. */
static void take_inputs(winograd *g, int64_t first) {
  g->first_inner = first;
  g->inner = g->s->inner - first < MOST_INNER ? g->s->inner - first : MOST_INNER;
  parallel_for(g->tiles, 4, g->transform->input, g);
}

/* The outputs of the tiles at work: inputs are transformed, multiplied by taps and transformed to
 * outputs. */
static void outputs_pass(winograd *g) {
  const int64_t inner = g->s->inner;
  for (int64_t block = 0; block < blocks_of(g->s->columns, NR(float)); block += g->blocks) {
    take_columns(g, block);
    for (int64_t first = 0; first < inner; first += MOST_INNER) {
      if (block == 0 || inner > MOST_INNER) take_inputs(g, first);
      parallel_for(g->groups * g->parts, 1, multiply, g);
    }
    parallel_for(g->tiles, 4, g->transform->output, g);
  }
}

/* What the tiles at work add to grad_w: inputs are transformed and multiplied by grad_y's
 * transforms. */
static void weights_pass(winograd *g) {
  parallel_for(g->tiles, 4, g->transform->gradient, g);
  for (int64_t first = 0; first < g->s->inner; first += MOST_INNER) {
    take_inputs(g, first);
    parallel_for(blocks_of(g->s->columns, g->kb) * g->c_blocks, 1, multiply_weights, g);
  }
}

/* The grids at work. */
static status run_spans(winograd *g) {
  const shift_conv *s = g->s;
  const bool weights = g->grad_w;
  storage *scratch;
  g->inner = s->inner < MOST_INNER ? s->inner : MOST_INNER;
  if (weights)
    cut_weights(g);
  else
    cut(g);
  const int64_t most = g->tiles, data = g->positions * most * blocks_of(g->inner, g->ldd) * g->ldd,
                beside = g->positions * most * (weights ? blocks_of(s->columns, MR) * MR : g->ldp);
  int64_t bytes = BYTES; /* few sizes, so that layers share a block; what of it is not touched takes no memory */
  while (bytes < (data + beside) * 4) bytes *= 8;
  TRY(storage_new(&scratch, bytes, 0));
  g->data = (float *)(void *)scratch->data;
  g->products = g->gradients = g->data + data;
  for (g->first_tile = 0; g->first_tile < g->all_tiles; g->first_tile += most) {
    g->tiles = g->all_tiles - g->first_tile < most ? g->all_tiles - g->first_tile : most;
    if (weights)
      weights_pass(g);
    else
      outputs_pass(g);
  }
  storage_drop(scratch);
  return g->out_of_memory ? fail(DLV3_ERR_OOM, "winograd: out of memory for scratch") : DLV3_OK;
}

static status run(winograd *g, int32_t dtype) {
  g->transform = dtype == DLV3_F32 ? &f32_transforms : &bf16_transforms;
  for (int32_t i = 0; i < g->n_h * g->n_w; i++) {
    take_spans(g, i / g->n_w, i % g->n_w);
    TRY(run_spans(g));
  }
  return DLV3_OK;
}

static status convolve(op_call *c) {
  const conv v = conv_of(c);
  const char *why = unfit(&v, c->in[0]->dtype);
  if (why) return DECLINED(why);
  shift_conv s;
  if (c->op == OP_conv2d)
    shift_of_forward(c, &v, &s);
  else
    shift_of_backward(c, &v, 0, &s);
  winograd g = {0};
  if ((why = lay_tiles(&g, &s, c->in[0]->dtype))) return DECLINED(why);
  TRY(shift_panels(c, &v, &s));
  return run(&g, c->in[0]->dtype);
}

status winograd_conv2d(op_call *c) { return c->in[4] ? DECLINED("a scale") : convolve(c); }
status winograd_conv2d_backward_input(op_call *c) { return convolve(c); }

status winograd_conv2d_backward_weight(op_call *c) {
  const conv v = conv_of(c);
  const char *why = unfit(&v, c->in[0]->dtype);
  if (why) return DECLINED(why);
  shift_conv s;
  shift_of_conv(&v, data_of(c->in[0]), data_of(c->in[1]), &s);
  winograd g = {.grad_w = data_of(c->in[2])};
  if ((why = lay_tiles(&g, &s, c->in[0]->dtype))) return DECLINED(why);
  TRY(run(&g, c->in[0]->dtype));
  if (c->in[3]) add_bias_gradient(c->in[3], c->in[1]);
  return DLV3_OK;
}

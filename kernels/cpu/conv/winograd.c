/* winograd.c - 3x3 convolutions of stride 1, in all three directions, with a quarter of the
 * multiplications: F(4x4, 3x3), and F(5x5, 3x3) where that alone pays.
 *
 * A tile of 4x4 outputs needs 6x6 inputs d. With g the 3x3 taps, y = A^T [ (G g G^T) . (B^T d B) ]
 * A, where the dot is a product at each of 36 positions, summed over input channels: 36 matrix
 * products of tiles by channels (Lavin and Gray, "Fast Algorithms for Convolutional Neural
 * Networks"). A dilation of d is d x d convolutions of dilation 1 on the grids of every d-th pixel.
 * The points of interpolation are 0, +-2/3, +-3/2 and infinity: with those the error is about twice
 * that of the direct sum in f32, half of what the usual 0, +-1, +-2 give.
 *
 * Rate 12 on a map of 60 x 60, the ASPP's in training with crops of 480, has grids of 5x5: one tile
 * of 5x5 outputs, 49 products, where the direct sum has 169. Its points are +-0.35, +-0.82, +-2 and
 * infinity, of those tried the best; the error is four times the direct sum's.
 *
 * G g G^T is made from the direct kernel's panels for each product: for some hundred tiles that is
 * cheap, and nothing is kept. The gradient of g is the same read backwards: G^T [ sum over tiles of
 * (A grad_y A^T) . (B^T d B) ] G, 36 products of output channels by tiles by input channels. Sums
 * and transforms are f32. */
#include "direct.h"

enum {
  DEPTH = 256,
  MOST_GROUP = 2 /* blocks of columns that a task multiplies by */,
  MOST_INNER = 512,
  MOST_OUTER = 512 /* channels transformed at once */,
  MOST_T = 7,
  BYTES = 8 << 20 /* of scratch, about */
};

/* What a type and a size of tiles have of their own; those of maps work on the tiles [begin, end). */
typedef struct {
  void (*input)(void *ctx, int64_t begin, int64_t end), (*gradient)(void *ctx, int64_t begin, int64_t end),
      (*output)(void *ctx, int64_t begin, int64_t end);
  void (*taps)(float (*to)[DEPTH * NR(float)], const float *const taps[3][3], int64_t i, int64_t n),
      (*add_taps)(float *w, int64_t ldw, const float *m, int64_t step, int64_t n);
} transforms;

typedef struct {
  const shift_conv *s;
  const transforms *transform;
  int64_t spacing, tap_of[3][3];        /* of taps; which panel is tap (r, s)                                       */
  int64_t first_h, first_w;             /* input pixel of tap (0, 0) of output pixel (0, 0)                         */
  int64_t t;                            /* inputs along a side of a tile, two more than outputs                     */
  int64_t rows, columns;                /* of tiles on a grid                                                       */
  int64_t all_tiles, first_tile, tiles; /* of the call; those at work now                                       */
  int64_t first_inner, inner;           /* input channels at work now                                               */
  int64_t first_block, blocks;          /* of columns, output channels, at work now                                 */
  float *data, *products;               /* [t t][inner / ldd][tiles][ldd], [t t][tiles][ldp]                        */
  int64_t ldd, ldp, group, groups;      /* distances of tiles; blocks of columns of a task, and how many such       */
  float *gradients, *grad_w;            /* backward-weights: A grad_y A^T, [t t][columns / MR][tiles][MR]           */
  int64_t kb, cb, c_blocks;             /* output and input channels of a task, and how many of the latter          */
  bool out_of_memory;
} winograd;

typedef struct {
  int64_t image, out_h, out_w, in_h, in_w;
} place;

/* Where tile t begins: images, rows and columns of grids, rows and columns of tiles. */
static place place_of(const winograd *g, int64_t t) {
  const int64_t d = g->spacing, column = t % g->columns, row = t / g->columns % g->rows,
                grid = t / g->columns / g->rows % (d * d);
  const int64_t h = grid / d + (g->t - 2) * row * d, w = grid % d + (g->t - 2) * column * d;
  return (place){t / g->columns / g->rows / (d * d), h, w, h + g->first_h, w + g->first_w};
}

/* -- The transforms in one direction, of LANES channels at once -------------------------------- */

#define A (2.0f / 3)
#define B (3.0f / 2) /* A B = 1 */

/* B^T d. Rows are the coefficients of the products of all (x - point) but one's own. */
INLINE void input_transform_6(float *restrict v0, float *restrict v1, float *restrict v2, float *restrict v3,
                              float *restrict v4, float *restrict v5, const float *d0, const float *d1, const float *d2,
                              const float *d3, const float *d4, const float *d5) {
  const float aa = A * A, bb = B * B, sum = 97.0f / 36; /* aa + bb */
  for (int l = 0; l < LANES; l++) {
    const float even_a = d4[l] - bb * d2[l], odd_a = A * d3[l] - B * d1[l], even_b = d4[l] - aa * d2[l],
                odd_b = B * d3[l] - A * d1[l];
    v0[l] = d0[l] - sum * d2[l] + d4[l];
    v1[l] = even_a + odd_a;
    v2[l] = even_a - odd_a;
    v3[l] = even_b + odd_b;
    v4[l] = even_b - odd_b;
    v5[l] = d1[l] - sum * d3[l] + d5[l];
  }
}

/* A^T m: powers of the points. */
INLINE void output_transform_6(float *restrict y0, float *restrict y1, float *restrict y2, float *restrict y3,
                               const float *m0, const float *m1, const float *m2, const float *m3, const float *m4,
                               const float *m5) {
  for (int l = 0; l < LANES; l++) {
    const float even_a = m1[l] + m2[l], odd_a = m1[l] - m2[l], even_b = m3[l] + m4[l], odd_b = m3[l] - m4[l];
    y0[l] = m0[l] + even_a + even_b;
    y1[l] = A * odd_a + B * odd_b;
    y2[l] = A * A * even_a + B * B * even_b;
    y3[l] = A * A * A * odd_a + B * B * B * odd_b + m5[l];
  }
}

/* A dy, of MR channels. */
INLINE void gradient_transform_6(float *restrict m0, float *restrict m1, float *restrict m2, float *restrict m3,
                                 float *restrict m4, float *restrict m5, const float *y0, const float *y1,
                                 const float *y2, const float *y3) {
  for (int l = 0; l < MR; l++) {
    const float even_a = y0[l] + A * A * y2[l], odd_a = A * y1[l] + A * A * A * y3[l], even_b = y0[l] + B * B * y2[l],
                odd_b = B * y1[l] + B * B * B * y3[l];
    m0[l] = y0[l];
    m1[l] = even_a + odd_a;
    m2[l] = even_a - odd_a;
    m3[l] = even_b + odd_b;
    m4[l] = even_b - odd_b;
    m5[l] = y3[l];
  }
}

/* G: powers of the points over the products of their distances. */
static const float taps_6[6][3] = {{1, 0, 0},
                                   {-81.0f / 130, -54.0f / 130, -36.0f / 130},
                                   {-81.0f / 130, 54.0f / 130, -36.0f / 130},
                                   {16.0f / 130, 24.0f / 130, 36.0f / 130},
                                   {16.0f / 130, -24.0f / 130, 36.0f / 130},
                                   {0, 0, 1}};

#undef A
#undef B

/* The same of 7 inputs and 5 outputs, with points in pairs +-x: a product of all (z - point) but
 * one's own is (z +- x) times an even one. */
#define P 0.35f
#define Q 0.82f
#define R 2.0f

INLINE void input_transform_7(float *restrict v0, float *restrict v1, float *restrict v2, float *restrict v3,
                              float *restrict v4, float *restrict v5, float *restrict v6, const float *d0,
                              const float *d1, const float *d2, const float *d3, const float *d4, const float *d5,
                              const float *d6) {
  const float pp = P * P, qq = Q * Q, rr = R * R;
#define PAIR_OF(plus, minus, x, bb, cc) /* (z^2 - bb) (z^2 - cc) (z +- x) */ \
  { \
    const float odd = d5[l] - (bb + cc) * d3[l] + bb * cc * d1[l], \
                even = x * (d4[l] - (bb + cc) * d2[l] + bb * cc * d0[l]); \
    plus[l] = odd + even; \
    minus[l] = odd - even; \
  }
  for (int l = 0; l < LANES; l++) {
    PAIR_OF(v0, v1, P, qq, rr)
    PAIR_OF(v2, v3, Q, pp, rr)
    PAIR_OF(v4, v5, R, pp, qq)
    v6[l] = d6[l] - (pp + qq + rr) * d4[l] + (pp * qq + pp * rr + qq * rr) * d2[l] - pp * qq * rr * d0[l];
  }
#undef PAIR_OF
}

INLINE void output_transform_7(float *restrict y0, float *restrict y1, float *restrict y2, float *restrict y3,
                               float *restrict y4, const float *m0, const float *m1, const float *m2, const float *m3,
                               const float *m4, const float *m5, const float *m6) {
  for (int l = 0; l < LANES; l++) {
    const float even_p = m0[l] + m1[l], odd_p = P * (m0[l] - m1[l]), even_q = m2[l] + m3[l],
                odd_q = Q * (m2[l] - m3[l]), even_r = m4[l] + m5[l], odd_r = R * (m4[l] - m5[l]);
    y0[l] = even_p + even_q + even_r;
    y1[l] = odd_p + odd_q + odd_r;
    y2[l] = P * P * even_p + Q * Q * even_q + R * R * even_r;
    y3[l] = P * P * odd_p + Q * Q * odd_q + R * R * odd_r;
    y4[l] = P * P * P * P * even_p + Q * Q * Q * Q * even_q + R * R * R * R * even_r + m6[l];
  }
}

INLINE void gradient_transform_7(float *restrict m0, float *restrict m1, float *restrict m2, float *restrict m3,
                                 float *restrict m4, float *restrict m5, float *restrict m6, const float *y0,
                                 const float *y1, const float *y2, const float *y3, const float *y4) {
#define PAIR_OF(plus, minus, x) \
  { \
    const float even = y0[l] + x * x * (y2[l] + x * x * y4[l]), odd = x * (y1[l] + x * x * y3[l]); \
    plus[l] = even + odd; \
    minus[l] = even - odd; \
  }
  for (int l = 0; l < MR; l++) {
    PAIR_OF(m0, m1, P)
    PAIR_OF(m2, m3, Q)
    PAIR_OF(m4, m5, R)
    m6[l] = y4[l];
  }
#undef PAIR_OF
}

#define DISTANCES(x, b, c) (2 * (x) * ((x) * (x) - (b) * (b)) * ((x) * (x) - (c) * (c)))
#define PAIR_OF(x, b, c) \
  {1 / DISTANCES(x, b, c), x / DISTANCES(x, b, c), x * x / DISTANCES(x, b, c)}, { \
    -1 / DISTANCES(x, b, c), x / DISTANCES(x, b, c), -x *x / DISTANCES(x, b, c) \
  }
static const float taps_7[7][3] = {PAIR_OF(P, Q, R), PAIR_OF(Q, P, R), PAIR_OF(R, P, Q), {0, 0, 1}};
#undef PAIR_OF
#undef DISTANCES
#undef P
#undef Q
#undef R

#define EACH_4(of) of(0), of(1), of(2), of(3)
#define EACH_5(of) EACH_4(of), of(4)
#define EACH_6(of) EACH_5(of), of(5)
#define EACH_7(of) EACH_6(of), of(6)
#define GLUED(a, b) a##b
#define GLUE(a, b) GLUED(a, b)

#define C float
#define X float
#define LOAD(v) (v)
#define STORE(v) (v)
#define F(name) name##_f32
#include "epilogue.inc"
#define M 4
#define T 6
#include "winograd.inc"
#define M 5
#define T 7
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
#define M 4
#define T 6
#include "winograd.inc"
#define M 5
#define T 7
#include "winograd.inc"
#undef X
#undef LOAD
#undef STORE
#undef F
#undef C

/* -- The products ------------------------------------------------------------------------------ */

/* to[j] = sum over r, s of G[i][r] G[j][s] taps[r][s], n values each, for the row i of t positions. */
INLINE void transform_taps(const int t, const float (*g)[3], float (*to)[DEPTH * NR(float)],
                           const float *const taps[3][3], int64_t i, int64_t n) {
  for (int64_t at = 0; at < n; at += LANES) {
    float h[3][LANES];
    for (int64_t r = 0; r < 9; r++) __builtin_prefetch(taps[r / 3][r % 3] + at + 32 * LANES);
    for (int64_t s = 0; s < 3; s++)
      for (int l = 0; l < LANES; l++)
        h[s][l] = g[i][0] * taps[0][s][at + l] + g[i][1] * taps[1][s][at + l] + g[i][2] * taps[2][s][at + l];
#pragma GCC unroll 7
    for (int j = 0; j < t; j++)
      for (int l = 0; l < LANES; l++) to[j][at + l] = g[j][0] * h[0][l] + g[j][1] * h[1][l] + g[j][2] * h[2][l];
  }
}

CLONES static void transform_taps_6(float (*to)[DEPTH * NR(float)], const float *const taps[3][3], int64_t i,
                                    int64_t n) {
  transform_taps(6, taps_6, to, taps, i, n);
}
CLONES static void transform_taps_7(float (*to)[DEPTH * NR(float)], const float *const taps[3][3], int64_t i,
                                    int64_t n) {
  transform_taps(7, taps_7, to, taps, i, n);
}

/* Depth [l, l + depth) of (G g G^T) at a row of positions, for a block of columns, as panels. */
static void tap_panels(const winograd *g, float (*to)[DEPTH * NR(float)], int64_t row, int64_t block, int64_t l,
                       int64_t depth) {
  const shift_conv *s = g->s;
  const float *taps[3][3];
  for (int64_t i = 0; i < 9; i++)
    taps[i / 3][i % 3] =
        (const float *)s->panels
        + ((g->tap_of[i / 3][i % 3] * blocks_of(s->columns, NR(float)) + block) * s->inner + l) * (int64_t)NR(float);
  g->transform->taps(to, (const float *const(*)[3])taps, row, depth * (int64_t)NR(float));
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

/* Item: a row of positions and a group of blocks of columns. */
static void multiply(void *ctx, int64_t begin, int64_t end) {
  const winograd *g = ctx;
  float(*panels)[DEPTH * NR(float)] = kernel_scratch(MOST_GROUP * g->t * (int64_t)sizeof *panels);
  if (!panels) __atomic_store_n(&((winograd *)ctx)->out_of_memory, true, __ATOMIC_RELAXED);
  for (int64_t item = begin; panels && item < end; item++) {
    const int64_t row = item / g->groups, first = item % g->groups * g->group,
                  blocks = g->blocks - first < g->group ? g->blocks - first : g->group;
    for (int64_t l = 0; l < g->inner; l += DEPTH) {
      const int64_t depth = g->inner - l < DEPTH ? g->inner - l : DEPTH;
      for (int64_t b = 0; b < blocks; b++)
        tap_panels(g, panels + b * g->t, row, g->first_block + first + b, g->first_inner + l, depth);
      for (int64_t j = 0; j < g->t; j++)
        multiply_position(g, row * g->t + j, l, depth, first, blocks, panels[j], g->t * DEPTH * (int64_t)NR(float),
                          g->first_inner + l > 0);
    }
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
  const int64_t most = BYTES / (g->t * g->t * 4 * floats);
  return blocks_of(g->all_tiles, blocks_of(g->all_tiles, most > LEAST ? most : LEAST));
}

/* The columns at work: from a block on, as many as are transformed at once, about the same number
 * each time. */
static void take_columns(winograd *g, int64_t first_block) {
  const int64_t all = blocks_of(g->s->columns, NR(float)), left = all - first_block,
                most = blocks_of(all, blocks_of(all, MOST_OUTER / (int64_t)NR(float)));
  g->first_block = first_block;
  g->blocks = left < most ? left : most;
  g->group = g->blocks < 2 * MOST_GROUP ? blocks_of(g->blocks, 2) : MOST_GROUP;
  g->groups = blocks_of(g->blocks, g->group);
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
INLINE void add_taps(const int side, const float (*g)[3], float *w, int64_t ldw, const float *m, int64_t step,
                     int64_t n) {
  for (int64_t c = 0; c < n; c += LANES) {
    float t[3][MOST_T][LANES], sum[LANES];
    for (int64_t j = 0; j < side; j++)
      for (int64_t r = 0; r < 3; r++)
        for (int l = 0; l < LANES; l++) {
          float v = 0;
#pragma GCC unroll 7
          for (int i = 0; i < side; i++) v += g[i][r] * m[(i * side + j) * step + c + l];
          t[r][j][l] = v;
        }
    for (int64_t i = 0; i < 9; i++) {
      const int64_t r = i / 3, s = i % 3, live = n - c < LANES ? n - c : LANES;
      for (int l = 0; l < LANES; l++) {
        float v = 0;
#pragma GCC unroll 7
        for (int j = 0; j < side; j++) v += g[j][s] * t[r][j][l];
        sum[l] = v;
      }
      for (int64_t l = 0; l < live; l++) w[i * ldw + c + l] += sum[l];
    }
  }
}
CLONES static void add_taps_6(float *w, int64_t ldw, const float *m, int64_t step, int64_t n) {
  add_taps(6, taps_6, w, ldw, m, step, n);
}
CLONES static void add_taps_7(float *w, int64_t ldw, const float *m, int64_t step, int64_t n) {
  add_taps(7, taps_7, w, ldw, m, step, n);
}

#define TRANSFORMS(type, t) \
  { \
    transform_input_##type##_##t, transform_gradient_##type##_##t, transform_output_##type##_##t, transform_taps_##t, \
        add_taps_##t \
  }
static const transforms f32_transforms[] = {TRANSFORMS(f32, 6), TRANSFORMS(f32, 7)},
                        bf16_transforms[] = {TRANSFORMS(bf16, 6), TRANSFORMS(bf16, 7)};

/* Item: a block of output channels by a block of input channels. */
static void multiply_weights(void *ctx, int64_t begin, int64_t end) {
  const winograd *g = ctx;
  const shift_conv *s = g->s;
  const int64_t of_gradients = blocks_of(s->columns, MR) * g->tiles * MR,
                of_data = blocks_of(g->inner, g->ldd) * g->tiles * g->ldd, step = g->kb * g->cb + LANES;
  float *sums = kernel_scratch(g->t * g->t * step * 4);
  if (!sums) __atomic_store_n(&((winograd *)ctx)->out_of_memory, true, __ATOMIC_RELAXED);
  for (int64_t item = begin; sums && item < end; item++) {
    const int64_t k0 = item / g->c_blocks * g->kb, c0 = item % g->c_blocks * g->cb;
    const int64_t kn = s->columns - k0 < g->kb ? s->columns - k0 : g->kb,
                  cn = g->inner - c0 < g->cb ? g->inner - c0 : g->cb;
    for (int64_t p = 0; p < g->t * g->t; p++)
      for (int64_t c = 0; c < cn; c += g->ldd)
        for (int64_t k = 0; k < kn; k += MR)
          tiles.columns_f32(kn - k < MR ? kn - k : MR, cn - c < g->ldd ? cn - c : g->ldd,
                            sums + p * step + k * g->cb + c, g->cb, NULL, 0,
                            g->gradients + p * of_gradients + (k0 + k) * g->tiles, MR,
                            g->data + p * of_data + (c0 + c) * g->tiles, g->ldd, g->tiles);
    for (int64_t k = 0; k < kn; k++)
      g->transform->add_taps(g->grad_w + (k0 + k) * 9 * s->inner + g->first_inner + c0, s->inner, sums + k * g->cb,
                             step, cn);
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

/* Tiles of m x m outputs on the grids. */
static void lay(winograd *g, int64_t m) {
  const shift_conv *s = g->s;
  g->t = m + 2;
  g->rows = blocks_of(blocks_of(s->out_h, g->spacing), m), g->columns = blocks_of(blocks_of(s->out_w, g->spacing), m);
  g->all_tiles = s->n * g->spacing * g->spacing * g->rows * g->columns;
}

/* Fills g's geometry, or says why this is not for here. */
static const char *lay_tiles(winograd *g, const shift_conv *s) {
  g->s = s;
  if (!square_taps(g)) return "taps on padding alone, or not on a square grid";
  const int64_t direct = direct_products(s);
  for (int64_t m = 4; m <= 5; m++) {
    lay(g, m);
    const int64_t products = g->t * g->t * g->all_tiles, of_taps = 9 * g->t + 3 * g->t * g->t; /* G g G^T */
    if (2 * (products + of_taps) <= direct) return NULL;
  }
  return "not half the multiplications of the direct sum";
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
      parallel_for(g->t * g->groups, 1, multiply, g);
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

static status run(winograd *g, int32_t dtype) {
  const shift_conv *s = g->s;
  const bool weights = g->grad_w;
  g->transform = &(dtype == DLV3_F32 ? f32_transforms : bf16_transforms)[g->t - 6];
  storage *scratch;
  g->inner = s->inner < MOST_INNER ? s->inner : MOST_INNER;
  if (weights)
    cut_weights(g);
  else
    cut(g);
  const int64_t most = g->tiles, data = g->t * g->t * most * blocks_of(g->inner, g->ldd) * g->ldd,
                beside = g->t * g->t * most * (weights ? blocks_of(s->columns, MR) * MR : g->ldp);
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
  if ((why = lay_tiles(&g, &s))) return DECLINED(why);
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
  if ((why = lay_tiles(&g, &s))) return DECLINED(why);
  TRY(run(&g, c->in[0]->dtype));
  if (c->in[3]) add_bias_gradient(c->in[3], c->in[1]);
  return DLV3_OK;
}

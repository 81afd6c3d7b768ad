/* winograd_sides.h - convolution by three taps in one direction with few multiplications: what
 * winograd.c transforms each side of its tiles by. Relies on simd.h for LANES; a file that includes
 * it defines MR, the channels of a gradient's vector.
 *
 * With the taps g, the inputs d and the outputs y of a side: y = A^T [ (G g) . (B^T d) ], where the
 * dot is a product at each position.
 *
 *   outputs  inputs  positions
 *      1       1         1      a grid of one pixel: the neighbours are padding
 *      2       2         3      a grid of two
 *      3       3         5      a grid of three
 *      4       6         6      points of interpolation 0, +-2/3, +-3/2 and infinity: an error of about twice the
 *                               direct sum's in f32, half of what the usual 0, +-1, +-2 give
 *      5       7         7      points +-0.35, +-0.82, +-2 and infinity, of those tried the best; four times
 *
 * The first three are of sums and differences alone, with an error like the direct sum's. A grid of
 * two: a(x0 + x1), (b - a) x1 and (c - a) x0 for the taps c, a, b. A grid of three: its matrix is
 * a I + (b + c) / 2 (N + N^T) + (b - c) / 2 (N - N^T) with N the shift by one pixel. The symmetric
 * part has the eigenvectors (1, +-sqrt 2, 1) and (1, 0, -1) whatever the taps are; the other part has rank
 * two. */
#ifndef DLV3_WINOGRAD_SIDES_H
#define DLV3_WINOGRAD_SIDES_H

#include "cpu/support/simd.h"

typedef struct {
  int64_t outputs, positions, inputs;
  float taps[7][3]; /* G */
} side;

enum { MOST_SIDE = 7, LINE = MOST_SIDE * LANES /* of a tile of LANES channels */ };

#define V(i) v[(i)*ldv + l]
#define D(i) d[(i)*ldd + l]
#define M(i) m[(i)*ldm + l]
#define Y(i) y[(i)*ldy + l]
#define ROOT 1.41421356f

/* -- v = B^T d, of LANES channels -------------------------------------------------------------- */

INLINE void inputs_1(float *restrict v, int64_t ldv, const float *restrict d, int64_t ldd) {
  for (int l = 0; l < LANES; l++) V(0) = D(0);
}

INLINE void inputs_2(float *restrict v, int64_t ldv, const float *restrict d, int64_t ldd) {
  for (int l = 0; l < LANES; l++) {
    V(0) = D(1);
    V(1) = D(0) + D(1);
    V(2) = D(0);
  }
}

INLINE void inputs_3(float *restrict v, int64_t ldv, const float *restrict d, int64_t ldd) {
  for (int l = 0; l < LANES; l++) {
    const float ends = D(0) + D(2), middle = ROOT * D(1), across = D(0) - D(2);
    V(0) = ends + middle;
    V(1) = ends - middle;
    V(2) = across;
    V(3) = D(1);
    V(4) = across;
  }
}

#define A (2.0f / 3)
#define B (3.0f / 2) /* A B = 1 */

/* Rows are the coefficients of the products of all (x - point) but one's own. */
INLINE void inputs_4(float *restrict v, int64_t ldv, const float *restrict d, int64_t ldd) {
  const float aa = A * A, bb = B * B, sum = 97.0f / 36; /* aa + bb */
  for (int l = 0; l < LANES; l++) {
    const float even_a = D(4) - bb * D(2), odd_a = A * D(3) - B * D(1), even_b = D(4) - aa * D(2),
                odd_b = B * D(3) - A * D(1);
    V(0) = D(0) - sum * D(2) + D(4);
    V(1) = even_a + odd_a;
    V(2) = even_a - odd_a;
    V(3) = even_b + odd_b;
    V(4) = even_b - odd_b;
    V(5) = D(1) - sum * D(3) + D(5);
  }
}

#define P 0.35f
#define Q 0.82f
#define R 2.0f

/* Points in pairs +-x: a product of all (z - point) but one's own is (z +- x) times an even one. */
INLINE void inputs_5(float *restrict v, int64_t ldv, const float *restrict d, int64_t ldd) {
  const float pp = P * P, qq = Q * Q, rr = R * R;
#define PAIR_OF(i, x, bb, cc) /* (z^2 - bb) (z^2 - cc) (z +- x) */ \
  { \
    const float odd = D(5) - (bb + cc) * D(3) + bb * cc * D(1), even = x * (D(4) - (bb + cc) * D(2) + bb * cc * D(0)); \
    V(i) = odd + even; \
    V(i + 1) = odd - even; \
  }
  for (int l = 0; l < LANES; l++) {
    PAIR_OF(0, P, qq, rr)
    PAIR_OF(2, Q, pp, rr)
    PAIR_OF(4, R, pp, qq)
    V(6) = D(6) - (pp + qq + rr) * D(4) + (pp * qq + pp * rr + qq * rr) * D(2) - pp * qq * rr * D(0);
  }
#undef PAIR_OF
}

INLINE void side_inputs(const side *s, float *restrict v, int64_t ldv, const float *restrict d, int64_t ldd) {
  switch (s->outputs) {
  case 1: inputs_1(v, ldv, d, ldd); break;
  case 2: inputs_2(v, ldv, d, ldd); break;
  case 3: inputs_3(v, ldv, d, ldd); break;
  case 4: inputs_4(v, ldv, d, ldd); break;
  default: inputs_5(v, ldv, d, ldd); break;
  }
}

/* -- y = A^T m, of LANES channels -------------------------------------------------------------- */

INLINE void outputs_1(float *restrict y, int64_t ldy, const float *restrict m, int64_t ldm) {
  for (int l = 0; l < LANES; l++) Y(0) = M(0);
}

INLINE void outputs_2(float *restrict y, int64_t ldy, const float *restrict m, int64_t ldm) {
  for (int l = 0; l < LANES; l++) {
    Y(0) = M(1) + M(0);
    Y(1) = M(1) + M(2);
  }
}

INLINE void outputs_3(float *restrict y, int64_t ldy, const float *restrict m, int64_t ldm) {
  for (int l = 0; l < LANES; l++) {
    const float even = M(0) + M(1), odd = M(2) + M(3);
    Y(0) = even + odd;
    Y(1) = ROOT * (M(0) - M(1)) + M(4);
    Y(2) = even - odd;
  }
}

/* Powers of the points. */
INLINE void outputs_4(float *restrict y, int64_t ldy, const float *restrict m, int64_t ldm) {
  for (int l = 0; l < LANES; l++) {
    const float even_a = M(1) + M(2), odd_a = M(1) - M(2), even_b = M(3) + M(4), odd_b = M(3) - M(4);
    Y(0) = M(0) + even_a + even_b;
    Y(1) = A * odd_a + B * odd_b;
    Y(2) = A * A * even_a + B * B * even_b;
    Y(3) = A * A * A * odd_a + B * B * B * odd_b + M(5);
  }
}

INLINE void outputs_5(float *restrict y, int64_t ldy, const float *restrict m, int64_t ldm) {
  for (int l = 0; l < LANES; l++) {
    const float even_p = M(0) + M(1), odd_p = P * (M(0) - M(1)), even_q = M(2) + M(3), odd_q = Q * (M(2) - M(3)),
                even_r = M(4) + M(5), odd_r = R * (M(4) - M(5));
    Y(0) = even_p + even_q + even_r;
    Y(1) = odd_p + odd_q + odd_r;
    Y(2) = P * P * even_p + Q * Q * even_q + R * R * even_r;
    Y(3) = P * P * odd_p + Q * Q * odd_q + R * R * odd_r;
    Y(4) = P * P * P * P * even_p + Q * Q * Q * Q * even_q + R * R * R * R * even_r + M(6);
  }
}

INLINE void side_outputs(const side *s, float *restrict y, int64_t ldy, const float *restrict m, int64_t ldm) {
  switch (s->outputs) {
  case 1: outputs_1(y, ldy, m, ldm); break;
  case 2: outputs_2(y, ldy, m, ldm); break;
  case 3: outputs_3(y, ldy, m, ldm); break;
  case 4: outputs_4(y, ldy, m, ldm); break;
  default: outputs_5(y, ldy, m, ldm); break;
  }
}

/* -- m = A grad_y, of MR channels -------------------------------------------------------------- */

INLINE void gradients_1(float *restrict m, int64_t ldm, const float *restrict y, int64_t ldy) {
  for (int l = 0; l < MR; l++) M(0) = Y(0);
}

INLINE void gradients_2(float *restrict m, int64_t ldm, const float *restrict y, int64_t ldy) {
  for (int l = 0; l < MR; l++) {
    M(0) = Y(0);
    M(1) = Y(0) + Y(1);
    M(2) = Y(1);
  }
}

INLINE void gradients_3(float *restrict m, int64_t ldm, const float *restrict y, int64_t ldy) {
  for (int l = 0; l < MR; l++) {
    const float ends = Y(0) + Y(2), middle = ROOT * Y(1), across = Y(0) - Y(2);
    M(0) = ends + middle;
    M(1) = ends - middle;
    M(2) = across;
    M(3) = across;
    M(4) = Y(1);
  }
}

INLINE void gradients_4(float *restrict m, int64_t ldm, const float *restrict y, int64_t ldy) {
  for (int l = 0; l < MR; l++) {
    const float even_a = Y(0) + A * A * Y(2), odd_a = A * Y(1) + A * A * A * Y(3), even_b = Y(0) + B * B * Y(2),
                odd_b = B * Y(1) + B * B * B * Y(3);
    M(0) = Y(0);
    M(1) = even_a + odd_a;
    M(2) = even_a - odd_a;
    M(3) = even_b + odd_b;
    M(4) = even_b - odd_b;
    M(5) = Y(3);
  }
}

INLINE void gradients_5(float *restrict m, int64_t ldm, const float *restrict y, int64_t ldy) {
#define PAIR_OF(i, x) \
  { \
    const float even = Y(0) + x * x * (Y(2) + x * x * Y(4)), odd = x * (Y(1) + x * x * Y(3)); \
    M(i) = even + odd; \
    M(i + 1) = even - odd; \
  }
  for (int l = 0; l < MR; l++) {
    PAIR_OF(0, P)
    PAIR_OF(2, Q)
    PAIR_OF(4, R)
    M(6) = Y(4);
  }
#undef PAIR_OF
}

INLINE void side_gradients(const side *s, float *restrict m, int64_t ldm, const float *restrict y, int64_t ldy) {
  switch (s->outputs) {
  case 1: gradients_1(m, ldm, y, ldy); break;
  case 2: gradients_2(m, ldm, y, ldy); break;
  case 3: gradients_3(m, ldm, y, ldy); break;
  case 4: gradients_4(m, ldm, y, ldy); break;
  default: gradients_5(m, ldm, y, ldy); break;
  }
}

/* -- G: with points of interpolation, their powers over the products of their distances --------- */

#define DISTANCES(x, b, c) (2 * (x) * ((x) * (x) - (b) * (b)) * ((x) * (x) - (c) * (c)))
#define PAIR_OF(x, b, c) \
  {1 / DISTANCES(x, b, c), x / DISTANCES(x, b, c), x * x / DISTANCES(x, b, c)}, { \
    -1 / DISTANCES(x, b, c), x / DISTANCES(x, b, c), -x *x / DISTANCES(x, b, c) \
  }
static const side sides[] =
    {/* by the number of outputs */
     {0, 0, 0, {{0}}},
     {1, 1, 1, {{0, 1, 0}}},
     {2, 3, 2, {{0, -1, 1}, {0, 1, 0}, {1, -1, 0}}},
     {3,
      5,
      3,
      {{ROOT / 8, 0.25f, ROOT / 8}, {-ROOT / 8, 0.25f, -ROOT / 8}, {0, 0.5f, 0}, {-0.5f, 0, 0.5f}, {0.5f, 0, -0.5f}}},
     {4,
      6,
      6,
      {{1, 0, 0},
       {-81.0f / 130, -54.0f / 130, -36.0f / 130},
       {-81.0f / 130, 54.0f / 130, -36.0f / 130},
       {16.0f / 130, 24.0f / 130, 36.0f / 130},
       {16.0f / 130, -24.0f / 130, 36.0f / 130},
       {0, 0, 1}}},
     {5, 7, 7, {PAIR_OF(P, Q, R), PAIR_OF(Q, P, R), PAIR_OF(R, P, Q), {0, 0, 1}}}};

#undef PAIR_OF
#undef DISTANCES
#undef A
#undef B
#undef P
#undef Q
#undef R
#undef V
#undef D
#undef M
#undef Y
#undef ROOT

#endif

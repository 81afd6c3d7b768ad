/* tiles.h - the micro-kernel that convolution and matrix product are made of: a tile of m <= MR
 * rows by n <= NR columns, summed along an inner axis in registers.
 *
 *   rows:      y[i][j] = from[i][j] + sum over parts t, l < depth of a[t][i row + l] b[t][l NR + j]
 *              b[t] are packed panels
 *   last_rows: y[i][j] = act(the same + bias[j] + residual[i][j])
 *              y and residual as the map has them, whole vectors of columns or one half less, any
 *              number of rows
 *   columns:   y[i][j] = from[i][j] + sum over l < depth of a[i + l column] b[l ldb + j]
 *              a and b as they lie along the inner axis
 *
 * For depthwise convolution, a lane of channels (64 bytes of sums) at once:
 *
 *   lane_taps:     y[p] = sum over taps t of x[t][at + p step] w[index[t]]                   p < n <= lane_pixels
 *   lane_products: sums[s] += sum over pixels p of y[p] x[p xstep + s tapstep]               s < taps
 *
 *   lane_pairs:    y[q] = act(bias + residual + sum over pairs p and taps s of two rows of weights
 *                  with the inputs x[2 p][q stride + s] and x[2 p + 1][q stride + s]), q < PAIR_OUTPUTS,
 *                  of bf16 channels [at, at + live), live <= vector_bytes / 2
 *
 * Rows of y and from are ldy and ldf apart; from may be y, or NULL for zeros. `pair`: a unit of a
 * and b is two bf16, inner element 2 l in its low half, and sums are f32. */
#ifndef DLV3_TILES_H
#define DLV3_TILES_H

#include "cpu/support/ref.h"

enum { MR = 12, MOST_PARTS = 15, PAIR_OUTPUTS = 8 };

/* Which channel of a group of vector_bytes / 2 the i-th weight of lane_pairs belongs to: four of
 * the low and of the high halves in turns. */
static inline int64_t pair_channel(int64_t i, int64_t vector_bytes) {
  return i % (vector_bytes / 4) / 4 * 8 + i / (vector_bytes / 4) * 4 + i % 4;
}
#define NR(type) (128 / sizeof(type)) /* columns of a tile of sums of that type */

typedef struct {
  void (*rows_f32)(int64_t m, int64_t n, float *y, int64_t ldy, const float *from, int64_t ldf, int64_t parts,
                   const float *const *a, int64_t row, const float *const *b, int64_t depth);
  void (*last_rows_f32)(int64_t m, int64_t n, float *y, int64_t ldy, const float *from, int64_t ldf, int64_t parts,
                        const float *const *a, int64_t row, const float *const *b, int64_t depth, const float *bias,
                        const float *residual, int64_t activation);
  void (*columns_f32)(int64_t m, int64_t n, float *y, int64_t ldy, const float *from, int64_t ldf, const float *a,
                      int64_t column, const float *b, int64_t ldb, int64_t depth);
  void (*rows_f64)(int64_t m, int64_t n, double *y, int64_t ldy, const double *from, int64_t ldf, int64_t parts,
                   const double *const *a, int64_t row, const double *const *b, int64_t depth);
  void (*last_rows_f64)(int64_t m, int64_t n, double *y, int64_t ldy, const double *from, int64_t ldf, int64_t parts,
                        const double *const *a, int64_t row, const double *const *b, int64_t depth, const double *bias,
                        const double *residual, int64_t activation);
  void (*columns_f64)(int64_t m, int64_t n, double *y, int64_t ldy, const double *from, int64_t ldf, const double *a,
                      int64_t column, const double *b, int64_t ldb, int64_t depth);
  void (*lane_taps_f32)(int64_t n, float *y, int64_t ldy, const float *const *x, int64_t at, int64_t step,
                        const float *w, const int32_t *index, int64_t taps);
  void (*lane_taps_f64)(int64_t n, double *y, int64_t ldy, const double *const *x, int64_t at, int64_t step,
                        const double *w, const int32_t *index, int64_t taps);
  void (*lane_taps_bf16)(int64_t n, float *y, int64_t ldy, const bf16 *const *x, int64_t at, int64_t step,
                         const float *w, const int32_t *index, int64_t taps);
  void (*lane_products_f32)(int64_t taps, float *sums, int64_t n, const float *y, const float *x, int64_t xstep,
                            int64_t tapstep);
  void (*lane_products_f64)(int64_t taps, double *sums, int64_t n, const double *y, const double *x, int64_t xstep,
                            int64_t tapstep);
  void (*rows_pair)(int64_t m, int64_t n, float *y, int64_t ldy, const float *from, int64_t ldf, int64_t parts,
                    const uint32_t *const *a, int64_t row, const uint32_t *const *b, int64_t depth);
  void (*last_rows_pair)(int64_t m, int64_t n, bf16 *y, int64_t ldy, const float *from, int64_t ldf, int64_t parts,
                         const uint32_t *const *a, int64_t row, const uint32_t *const *b, int64_t depth,
                         const float *bias, const bf16 *residual, int64_t activation);
  void (*columns_pair)(int64_t m, int64_t n, float *y, int64_t ldy, const float *from, int64_t ldf, const uint32_t *a,
                       int64_t column, const uint32_t *b, int64_t ldb, int64_t depth);
  void (*lane_pairs)(int64_t taps, int64_t stride, int64_t pairs, const bf16 *const *x, int64_t at, int64_t live,
                     const uint32_t *w, const float *bias, bf16 *y, int64_t ldy, const bf16 *residual,
                     int64_t activation);
  int64_t lane_pixels;  /* at once                                                                        */
  bool pair_is_fast;    /* faster than widening to f32                                                   */
  int64_t vector_bytes; /* y is written in whole vectors: up to one less column than a vector has beyond n  */
  int64_t depth_bytes;  /* of the inner axis that one call is best given                                 */
  int64_t aliased;      /* rows a multiple of so many bytes apart are copied: they share sets of the first cache */
} tile_set;

extern tile_set tiles;

#endif

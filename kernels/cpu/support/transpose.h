/* transpose.h - a matrix's rows as columns, for weights that are packed and maps that change their
 * layout. Relies on vectors of 16 bytes, which every processor has. */
#ifndef DLV3_TRANSPOSE_H
#define DLV3_TRANSPOSE_H

#include "core/core.h"

typedef float float4 __attribute__((vector_size(16), aligned(4), may_alias));

/* to[i][j] = from[j][i] for i < 4, j < 4. */
static inline void transpose_4x4(float *to, int64_t ldt, const float *from, int64_t ldf) {
  const float4 a = *(const float4 *)from, b = *(const float4 *)(from + ldf), c = *(const float4 *)(from + 2 * ldf),
               d = *(const float4 *)(from + 3 * ldf);
  const float4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5),
               ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  *(float4 *)to = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
  *(float4 *)(to + ldt) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
  *(float4 *)(to + 2 * ldt) = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
  *(float4 *)(to + 3 * ldt) = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

/* to[i][j] = from[j][i] for i < m, j < n; rows are ldt and ldf elements apart. */
static inline void transpose_f32(float *to, int64_t ldt, const float *from, int64_t ldf, int64_t m, int64_t n) {
  const int64_t whole_m = m / 4 * 4, whole_n = n / 4 * 4;
  for (int64_t j = 0; j < whole_n; j += 4)
    for (int64_t i = 0; i < whole_m; i += 4) transpose_4x4(to + i * ldt + j, ldt, from + j * ldf + i, ldf);
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = i < whole_m ? whole_n : 0; j < n; j++) to[i * ldt + j] = from[j * ldf + i];
}

static inline void transpose_f64(double *to, int64_t ldt, const double *from, int64_t ldf, int64_t m, int64_t n) {
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) to[i * ldt + j] = from[j * ldf + i];
}

#endif

/* tiles.c - the register tiles of tiles.h, compiled for each instruction set and chosen once by cpuid.
 *
 * vdpbf16ps does twice the work of an f32 FMA. On AMD's Zen 4 it comes at the same rate, and pairs of bf16 are worth it;
 * on an Intel Xeon of model 207 it was measured at a quarter of the rate, so there bf16 is widened and multiplied as f32.
 *
 * Tall tiles want a panel of 128 f32 to stay in the first cache, and their twelve rows apart in it. The low ones of AVX2 read
 * a panel front to back, as fast from the second cache, and three rows never meet: depths up to 1024 f32 were measured best. */
#include "tiles.h"

#define TILE_SET(isa, width, depth, aliased) {rows_f32_##isa, last_rows_f32_##isa, columns_f32_##isa, rows_f64_##isa, last_rows_f64_##isa, columns_f64_##isa, lane_taps_f32_##isa, lane_taps_f64_##isa, lane_taps_bf16_##isa, \
                       lane_products_f32_##isa, lane_products_f64_##isa, rows_pair_##isa, last_rows_pair_##isa, columns_pair_##isa, MANY_f32_##isa, false, width, depth, aliased}

INLINE float bits_f32(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

/* Of two vectors; the second one where either is nan. */
#ifdef __x86_64__
#include <immintrin.h>
#define MAX_F32(a, b) (F(vector)) _mm_max_ps((__m128)(a), (__m128)(b))
#define MIN_F32(a, b) (F(vector)) _mm_min_ps((__m128)(a), (__m128)(b))
#define MAX_F64(a, b) (F(vector)) _mm_max_pd((__m128d)(a), (__m128d)(b))
#define MIN_F64(a, b) (F(vector)) _mm_min_pd((__m128d)(a), (__m128d)(b))
#else
#define SELECT(mask, a, b) (F(vector))(((mask) & (__typeof__(mask))(a)) | (~(mask) & (__typeof__(mask))(b)))
#define MAX_F32(a, b) SELECT((a) > (b), a, b)
#define MIN_F32(a, b) SELECT((a) < (b), a, b)
#define MAX_F64 MAX_F32
#define MIN_F64 MIN_F32
#endif

#define ISA(name) name##_base
#define TARGET
#define WIDTH 16
#define SUMS 12
#define VECTORS 2
#include "isa.inc"
#undef ISA
#undef TARGET
#undef WIDTH
#undef SUMS
#undef VECTORS

tile_set tiles = TILE_SET(base, 16, 2048, 2048);

#undef MAX_F32
#undef MIN_F32
#undef MAX_F64
#undef MIN_F64

#ifdef __x86_64__
#define MAX_F32(a, b) (F(vector)) _mm256_max_ps((__m256)(a), (__m256)(b))
#define MIN_F32(a, b) (F(vector)) _mm256_min_ps((__m256)(a), (__m256)(b))
#define MAX_F64(a, b) (F(vector)) _mm256_max_pd((__m256d)(a), (__m256d)(b))
#define MIN_F64(a, b) (F(vector)) _mm256_min_pd((__m256d)(a), (__m256d)(b))
#define ISA(name) name##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define WIDTH 32
#define SUMS 12
#define VECTORS 4
#include "isa.inc"
#undef ISA
#undef TARGET
#undef WIDTH
#undef SUMS
#undef VECTORS
#undef MAX_F32
#undef MIN_F32
#undef MAX_F64
#undef MIN_F64

#define MAX_F32(a, b) (F(vector)) _mm512_max_ps((__m512)(a), (__m512)(b))
#define MIN_F32(a, b) (F(vector)) _mm512_min_ps((__m512)(a), (__m512)(b))
#define MAX_F64(a, b) (F(vector)) _mm512_max_pd((__m512d)(a), (__m512d)(b))
#define MIN_F64(a, b) (F(vector)) _mm512_min_pd((__m512d)(a), (__m512d)(b))
#define ISA(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,fma")))
#define WIDTH 64
#define SUMS 24
#define VECTORS 2
#include "isa.inc"
#undef TARGET

#define U uint32_t
#define C float
#define X bf16
#define F(name) name##_pair_avx512bf16
#define MAX MAX_F32
#define MIN MIN_F32
#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,fma")))
#define DOT(acc, v, b) (vector_pair_avx512bf16) _mm512_dpbf16_ps((__m512)(acc), (__m512bh)_mm512_set1_epi32((int)(v)), (__m512bh)(b))
#define WIDE(p) (F(vector)) _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p))), 16)
#define NARROW(p, z) _mm256_storeu_si256((__m256i *)(void *)(p), (__m256i)_mm512_cvtneps_pbh((__m512)(z)))
#include "tile.inc"

__attribute__((constructor)) static void choose_tiles(void) {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    tiles = (tile_set) TILE_SET(avx512, 64, 2048, 2048);
  else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    tiles = (tile_set) TILE_SET(avx2, 32, 4096, INT64_MAX);
  if (!__builtin_cpu_supports("avx512bf16")) return;
  tiles.rows_pair = rows_pair_avx512bf16, tiles.last_rows_pair = last_rows_pair_avx512bf16, tiles.columns_pair = columns_pair_avx512bf16;
  tiles.pair_is_fast = __builtin_cpu_is("amd");
}
#endif

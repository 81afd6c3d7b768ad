/* tiles.c - the register tiles of tiles.h, compiled for each instruction set and chosen once by
 * cpuid.
 *
 * vdpbf16ps does twice the work of an f32 FMA. On AMD's Zen 4 it comes at the same rate, and pairs
 * of bf16 are worth it; on an Intel Xeon of model 207 it was measured at a quarter of the rate, so
 * there bf16 is widened and multiplied as f32.
 *
 * Tall tiles want a panel of 128 f32 to stay in the first cache, and their twelve rows apart in it.
 * The low ones of AVX2 read a panel front to back, as fast from the second cache, and three rows
 * never meet: depths up to 1024 f32 were measured best. */
#include "tiles.h"

#define TILE_SET(isa, width, depth, aliased) \
  { \
    rows_f32_##isa, last_rows_f32_##isa, columns_f32_##isa, rows_f64_##isa, last_rows_f64_##isa, columns_f64_##isa, \
        lane_taps_f32_##isa, lane_taps_f64_##isa, lane_taps_bf16_##isa, lane_products_f32_##isa, \
        lane_products_f64_##isa, rows_pair_##isa, last_rows_pair_##isa, columns_pair_##isa, lane_pairs_pair_##isa, \
        MANY_f32_##isa, false, width, depth, aliased \
  }

INLINE float bits_f32(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

/* z = act(z) of every vector of sums that EACH(value) visits as z; the same formulas as activation.h's. */
#define ALL(x) ((F(vector)){0} + (C)(x))
#define GATE MIN(ALL(1), MAX(ALL(0), (z + 3) * (C)(1.0 / 6)))
#define ACTIVATE(activation) \
  if (activation == ACT_RELU) \
    EACH(MAX(ALL(0), z)) \
  else if (activation == ACT_RELU6) \
    EACH(MIN(ALL(6), MAX(ALL(0), z))) \
  else if (activation == ACT_HARDSWISH) \
    EACH(z * GATE) \
  else if (activation == ACT_HARDSIGMOID) \
    EACH(GATE)

/* Of two vectors; the second one where either is nan. */
#ifdef __x86_64__
#include <immintrin.h>
#define MAX_F32(a, b) (F(vector)) _mm_max_ps((__m128)(a), (__m128)(b))
#define MIN_F32(a, b) (F(vector)) _mm_min_ps((__m128)(a), (__m128)(b))
#define MAX_F64(a, b) (F(vector)) _mm_max_pd((__m128d)(a), (__m128d)(b))
#define MIN_F64(a, b) (F(vector)) _mm_min_pd((__m128d)(a), (__m128d)(b))
#define LOW_16(a, b) (F(wide_row)) _mm_unpacklo_epi16((__m128i)(a), (__m128i)(b))
#define HIGH_16(a, b) (F(wide_row)) _mm_unpackhi_epi16((__m128i)(a), (__m128i)(b))
#else
#define SELECT(mask, a, b) (F(vector))(((mask) & (__typeof__(mask))(a)) | (~(mask) & (__typeof__(mask))(b)))
#define MAX_F32(a, b) SELECT((a) > (b), a, b)
#define MIN_F32(a, b) SELECT((a) < (b), a, b)
#define MAX_F64 MAX_F32
#define MIN_F64 MIN_F32
#define LOW_16(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH_16(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#endif
/* The low 16 bits of two vectors of 32, in the order that LOW_16 and HIGH_16 take apart. */
#define PACK_32(low, high) \
  __builtin_shufflevector((F(wide_row))(low), (F(wide_row))(high), 0, 2, 4, 6, 8, 10, 12, 14)

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
#undef LOW_16
#undef HIGH_16
#undef PACK_32

#ifdef __x86_64__
#define MAX_F32(a, b) (F(vector)) _mm256_max_ps((__m256)(a), (__m256)(b))
#define MIN_F32(a, b) (F(vector)) _mm256_min_ps((__m256)(a), (__m256)(b))
#define MAX_F64(a, b) (F(vector)) _mm256_max_pd((__m256d)(a), (__m256d)(b))
#define MIN_F64(a, b) (F(vector)) _mm256_min_pd((__m256d)(a), (__m256d)(b))
#define LOW_16(a, b) (F(wide_row)) _mm256_unpacklo_epi16((__m256i)(a), (__m256i)(b))
#define HIGH_16(a, b) (F(wide_row)) _mm256_unpackhi_epi16((__m256i)(a), (__m256i)(b))
#define PACK_32(low, high) (F(wide_row)) _mm256_packus_epi32((__m256i)(low), (__m256i)(high))
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
#undef LOW_16
#undef HIGH_16
#undef PACK_32

#define MAX_F32(a, b) (F(vector)) _mm512_max_ps((__m512)(a), (__m512)(b))
#define MIN_F32(a, b) (F(vector)) _mm512_min_ps((__m512)(a), (__m512)(b))
#define MAX_F64(a, b) (F(vector)) _mm512_max_pd((__m512d)(a), (__m512d)(b))
#define MIN_F64(a, b) (F(vector)) _mm512_min_pd((__m512d)(a), (__m512d)(b))
#define LOW_16(a, b) (F(wide_row)) _mm512_unpacklo_epi16((__m512i)(a), (__m512i)(b))
#define HIGH_16(a, b) (F(wide_row)) _mm512_unpackhi_epi16((__m512i)(a), (__m512i)(b))
#define PACK_32(low, high) (F(wide_row)) _mm512_packus_epi32((__m512i)(low), (__m512i)(high))
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
#define DOT(acc, v, b) \
  (vector_pair_avx512bf16) _mm512_dpbf16_ps((__m512)(acc), (__m512bh)_mm512_set1_epi32((int)(v)), (__m512bh)(b))
#define WIDE(p) \
  (F(vector)) _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p))), 16)
#define NARROW(p, z) _mm256_storeu_si256((__m256i *)(void *)(p), (__m256i)_mm512_cvtneps_pbh((__m512)(z)))
#include "tile.inc"
typedef uint32_t F(words) __attribute__((vector_size(WIDTH)));
typedef uint16_t F(wide_row) __attribute__((vector_size(WIDTH), aligned(2), may_alias));
#define PAIR_DOT(acc, a, b) (F(vector)) _mm512_dpbf16_ps((__m512)(acc), (__m512bh)(a), (__m512bh)(b))
#define LOAD_SOME(p, n) (F(wide_row)) _mm512_maskz_loadu_epi16((__mmask32)((1ull << (n)) - 1), p)
#define STORE_SOME(p, v, n) _mm512_mask_storeu_epi16(p, (__mmask32)((1ull << (n)) - 1), (__m512i)(v))
#define LOW LOW_16
#define HIGH HIGH_16
/* The conversion puts the low sums before the high ones: four of each are taken in turns. */
#define IN_TURNS \
  _mm512_set_epi64(0x001f001e001d001c, 0x000f000e000d000c, 0x001b001a00190018, 0x000b000a00090008, 0x0017001600150014, \
                   0x0007000600050004, 0x0013001200110010, 0x0003000200010000)
#define PACK(low, high) \
  (F(wide_row)) _mm512_permutexvar_epi16(IN_TURNS, (__m512i)_mm512_cvtne2ps_pbh((__m512)(high), (__m512)(low)))
#include "lane_pair.inc"

__attribute__((constructor)) static void choose_tiles(void) {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    tiles = (tile_set)TILE_SET(avx512, 64, 4096, 2048);
  else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    tiles = (tile_set)TILE_SET(avx2, 32, 4096, INT64_MAX);
  if (!__builtin_cpu_supports("avx512bf16")) return;
  tiles.rows_pair = rows_pair_avx512bf16, tiles.last_rows_pair = last_rows_pair_avx512bf16,
  tiles.columns_pair = columns_pair_avx512bf16, tiles.lane_pairs = lane_pairs_pair_avx512bf16;
  tiles.pair_is_fast = __builtin_cpu_is("amd");
}
#endif

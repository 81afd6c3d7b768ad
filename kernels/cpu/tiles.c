/* tiles.c - the register tiles of tiles.h, compiled for each instruction set and chosen once by cpuid.
 *
 * vdpbf16ps does twice the work of an f32 FMA. On AMD's Zen 4 it comes at the same rate, and pairs of bf16 are worth it;
 * on an Intel Xeon of model 207 it was measured at a quarter of the rate, so there bf16 is widened and multiplied as f32.
 *
 * Tall tiles want a panel of 128 f32 to stay in the first cache, and their twelve rows apart in it. The low ones of AVX2 read
 * a panel front to back, as fast from the second cache, and three rows never meet: depths up to 1024 f32 were measured best. */
#include "tiles.h"

#define TILE_SET(isa, width, depth, aliased) {rows_f32_##isa, columns_f32_##isa, rows_f64_##isa, columns_f64_##isa, lane_taps_f32_##isa, lane_taps_f64_##isa, lane_taps_bf16_##isa, \
                       lane_products_f32_##isa, lane_products_f64_##isa, rows_pair_##isa, columns_pair_##isa, MANY_f32_##isa, false, width, depth, aliased}

INLINE float bits_f32(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

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

tile_set tiles = TILE_SET(base, 16, 512, 2048);

#ifdef __x86_64__
#include <immintrin.h>

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

#define ISA(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,fma")))
#define WIDTH 64
#define SUMS 24
#define VECTORS 2
#include "isa.inc"
#undef TARGET

#define U uint32_t
#define C float
#define F(name) name##_pair_avx512bf16
#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,fma")))
#define DOT(acc, v, b) (vector_pair_avx512bf16) _mm512_dpbf16_ps((__m512)(acc), (__m512bh)_mm512_set1_epi32((int)(v)), (__m512bh)(b))
#include "tile.inc"

__attribute__((constructor)) static void choose_tiles(void) {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    tiles = (tile_set) TILE_SET(avx512, 64, 512, 2048);
  else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    tiles = (tile_set) TILE_SET(avx2, 32, 4096, INT64_MAX);
  if (!__builtin_cpu_supports("avx512bf16")) return;
  tiles.rows_pair = rows_pair_avx512bf16, tiles.columns_pair = columns_pair_avx512bf16;
  tiles.pair_is_fast = __builtin_cpu_is("amd");
}
#endif

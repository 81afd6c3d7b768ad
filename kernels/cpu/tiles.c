/* tiles.c - the register tiles of tiles.h, compiled for each instruction set and chosen once by cpuid.
 *
 * vdpbf16ps does twice the work of an f32 FMA. On AMD's Zen 4 it comes at the same rate, and pairs of bf16 are worth it;
 * on an Intel Xeon of model 207 it was measured at a quarter of the rate, so there bf16 is widened and multiplied as f32.
 *
 * Tall tiles want a panel of 128 f32 to stay in the first cache, and their twelve rows apart in it. The low ones of AVX2 read
 * a panel front to back, as fast from the second cache, and three rows never meet: depths up to 1024 f32 were measured best. */
#include "tiles.h"

#define TILE_SET(isa, depth, aliased) {rows_f32_##isa, columns_f32_##isa, rows_f64_##isa, columns_f64_##isa, lane_taps_f32_##isa, lane_taps_f64_##isa, lane_taps_bf16_##isa, \
                       lane_products_f32_##isa, lane_products_f64_##isa, rows_pair_##isa, columns_pair_##isa, MANY_f32_##isa, false, depth, aliased}

/* Where no instruction multiplies pairs, each half becomes an f32: the high one as it stands but for the low bits. */
#define HALVES(acc, v, b, F) (acc) + bits_f32((v) << 16) * (F(vector))((b) << 16) + bits_f32((v) & 0xffff0000u) * (F(vector))((b) & 0xffff0000u)
INLINE float bits_f32(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

#define U float
#define C float
#define F(name) name##_f32_base
#define TARGET
#define WIDTH 16
#define TALL 6
#define VECTORS 2
#include "tile.inc"
#define X float
#include "lane.inc"
#undef X
#undef U
#undef C
#undef F
#define U double
#define C double
#define F(name) name##_f64_base
#include "tile.inc"
#define X double
#include "lane.inc"
#undef X
#undef U
#undef C
#undef F
#define X bf16
#define C float
#define BF16
#define F(name) name##_bf16_base
#include "lane.inc"
#undef X
#undef C
#undef BF16
#undef F
#define U uint32_t
#define C float
#define F(name) name##_pair_base
#define DOT(acc, v, b) HALVES(acc, v, b, F)
#include "tile.inc"
#undef U
#undef C
#undef F
#undef DOT
#undef TARGET
#undef WIDTH
#undef TALL
#undef VECTORS

tile_set tiles = TILE_SET(base, 512, 2048);

#ifdef __x86_64__
#include <immintrin.h>

#define U float
#define C float
#define F(name) name##_f32_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define WIDTH 32
#define TALL 3
#define VECTORS 4
#include "tile.inc"
#define X float
#include "lane.inc"
#undef X
#undef U
#undef C
#undef F
#define U double
#define C double
#define F(name) name##_f64_avx2
#include "tile.inc"
#define X double
#include "lane.inc"
#undef X
#undef U
#undef C
#undef F
#define X bf16
#define C float
#define BF16
#define F(name) name##_bf16_avx2
#include "lane.inc"
#undef X
#undef C
#undef BF16
#undef F
#define U uint32_t
#define C float
#define F(name) name##_pair_avx2
#define DOT(acc, v, b) HALVES(acc, v, b, F)
#include "tile.inc"
#undef U
#undef C
#undef F
#undef DOT
#undef TARGET
#undef WIDTH
#undef TALL
#undef VECTORS

#define U float
#define C float
#define F(name) name##_f32_avx512
#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,fma")))
#define WIDTH 64
#define TALL 12
#define VECTORS 2
#include "tile.inc"
#define X float
#include "lane.inc"
#undef X
#undef U
#undef C
#undef F
#define U double
#define C double
#define F(name) name##_f64_avx512
#include "tile.inc"
#define X double
#include "lane.inc"
#undef X
#undef U
#undef C
#undef F
#define X bf16
#define C float
#define BF16
#define F(name) name##_bf16_avx512
#include "lane.inc"
#undef X
#undef C
#undef BF16
#undef F
#define U uint32_t
#define C float
#define F(name) name##_pair_avx512
#define DOT(acc, v, b) HALVES(acc, v, b, F)
#include "tile.inc"
#undef U
#undef C
#undef F
#undef DOT
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
    tiles = (tile_set) TILE_SET(avx512, 512, 2048);
  else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    tiles = (tile_set) TILE_SET(avx2, 4096, INT64_MAX);
  if (!__builtin_cpu_supports("avx512bf16")) return;
  tiles.rows_pair = rows_pair_avx512bf16, tiles.columns_pair = columns_pair_avx512bf16;
  tiles.pair_is_fast = __builtin_cpu_is("amd");
}
#endif

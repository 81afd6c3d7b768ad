/* crc.c - CRC-32 as zip has it: zlib's, or several times as fast by carry-less multiplication
 * where the processor has it.
 *
 * Gopal et al., "Fast CRC computation for generic polynomials using PCLMULQDQ instruction", Intel
 * 2009: eight lanes of 128 bits are folded by 1024 bits per step, then into one lane, which a
 * Barrett reduction brings to 32 bits. The constants for a distance of d bits are x^(d+32) and
 * x^(d-32) modulo the polynomial, bit-reflected and shifted by one. */
#include "crc.h"

#include "core/core.h"

#include <zlib.h>

#if defined(__x86_64__)
#include <immintrin.h>

#define CLMUL __attribute__((target("pclmul,sse4.1")))
#define VCLMUL __attribute__((target("vpclmulqdq,avx2,pclmul,sse4.1")))

enum { LANES = 8, STEP = 16 * LANES };
#define BY_1024 0x014a7fe880, 0x01e88ef372
#define BY_128 0x00ccaa009e, 0x01751997d0

CLMUL static inline __m128i load(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }

/* lane shifted by the distance that the powers in k stand for, plus next. */
CLMUL static inline __m128i fold(__m128i lane, __m128i k, __m128i next) {
  return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(lane, k, 0x00), _mm_clmulepi64_si128(lane, k, 0x11)), next);
}

/* Folds n bytes, a multiple of STEP, into the lanes. */
CLMUL static void fold_steps(__m128i lane[LANES], const uint8_t *p, size_t n) {
  const __m128i k = _mm_set_epi64x(BY_1024);
  for (; n; p += STEP, n -= STEP) {
#pragma GCC unroll 8 /* keeps the lanes in registers */
    for (int i = 0; i < LANES; i++) lane[i] = fold(lane[i], k, load(p + 16 * i));
  }
}

/* The same, two lanes at a time. */
VCLMUL static void fold_steps_wide(__m128i lane[LANES], const uint8_t *p, size_t n) {
  const __m256i k = _mm256_set_epi64x(BY_1024, BY_1024);
  __m256i pair[LANES / 2];
  memcpy(pair, lane, sizeof pair);
  for (; n; p += STEP, n -= STEP) {
#pragma GCC unroll 8
    for (int i = 0; i < LANES / 2; i++) {
      __m256i next = _mm256_loadu_si256((const __m256i *)(const void *)(p + 32 * i));
      next = _mm256_xor_si256(next, _mm256_clmulepi64_epi128(pair[i], k, 0x00));
      pair[i] = _mm256_xor_si256(next, _mm256_clmulepi64_epi128(pair[i], k, 0x11));
    }
  }
  memcpy(lane, pair, sizeof pair);
}

/* n: a multiple of STEP, not 0; crc is neither inverted at the start nor at the end. */
CLMUL static uint32_t crc_by_folding(uint32_t crc, const uint8_t *p, size_t n) {
  const __m128i by_128 = _mm_set_epi64x(BY_128), by_64 = _mm_set_epi64x(0, 0x0163cd6124);
  const __m128i barrett = _mm_set_epi64x(0x01f7011641, 0x01db710641), low = _mm_setr_epi32(~0, 0, ~0, 0);
  __m128i lane[LANES];
  for (int i = 0; i < LANES; i++) lane[i] = load(p + 16 * i);
  lane[0] = _mm_xor_si128(lane[0], _mm_cvtsi32_si128((int)crc));
  (__builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("avx2") ? fold_steps_wide
                                                                          : fold_steps)(lane, p + STEP, n - STEP);
  __m128i a = lane[0], b;
  for (int i = 1; i < LANES; i++) a = fold(a, by_128, lane[i]);
  a = _mm_xor_si128(_mm_srli_si128(a, 8), _mm_clmulepi64_si128(a, by_128, 0x10));
  a = _mm_xor_si128(_mm_srli_si128(a, 4), _mm_clmulepi64_si128(_mm_and_si128(a, low), by_64, 0x00));
  b = _mm_and_si128(_mm_clmulepi64_si128(_mm_and_si128(a, low), barrett, 0x10), low);
  a = _mm_xor_si128(a, _mm_clmulepi64_si128(b, barrett, 0x00));
  return (uint32_t)_mm_extract_epi32(a, 1);
}

static bool folds(void) { return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1"); }
#else
enum { STEP = 128 };
static uint32_t crc_by_folding(uint32_t crc, const uint8_t *p, size_t n) {
  (void)p;
  (void)n;
  return crc;
}
static bool folds(void) { return false; }
#endif

uint32_t crc_of(uint32_t crc, const void *bytes, int64_t n_bytes) {
  const uint8_t *p = bytes;
  size_t n = (size_t)n_bytes, folded = n - n % STEP;
  if (folded && folds()) {
    crc = ~crc_by_folding(~crc, p, folded);
    p += folded;
    n -= folded;
  }
  return (uint32_t)crc32_z(crc, p, n);
}

uint32_t crc_joined(uint32_t first, uint32_t second, int64_t second_bytes) {
  return (uint32_t)crc32_combine(first, second, (z_off_t)second_bytes);
}

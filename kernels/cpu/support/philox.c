/* philox.c - Philox of consecutive counters, as vectors: each 64-bit lane holds one 32-bit word of
 * one counter, so that the wide product is one instruction. What a product leaves in the upper half
 * of a lane is never looked at. */
#include "philox.h"

#ifdef __x86_64__
#include <immintrin.h>

enum { ROUNDS = 10 };
static const uint32_t MULTIPLY_0 = 0xD2511F53, MULTIPLY_1 = 0xCD9E8D57, KEY_STEP_0 = 0x9E3779B9,
                      KEY_STEP_1 = 0xBB67AE85;

__attribute__((target("avx512f"))) static void blocks_512(uint32_t *words, int64_t blocks, uint64_t key,
                                                          uint64_t counter) {
  const __m512i m0 = _mm512_set1_epi64(MULTIPLY_0), m1 = _mm512_set1_epi64(MULTIPLY_1),
                low = _mm512_set1_epi64(0xffffffff);
  const __m512i first = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11),
                second = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
  for (int64_t b = 0; b < blocks; b += 8) {
    __m512i at = _mm512_add_epi64(_mm512_set1_epi64((long long)(counter + (uint64_t)b)),
                                  _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
    __m512i c0 = at, c1 = _mm512_srli_epi64(at, 32), c2 = _mm512_setzero_si512(), c3 = c2;
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int32_t round = 0; round < ROUNDS; round++, k0 += KEY_STEP_0, k1 += KEY_STEP_1) {
      __m512i p0 = _mm512_mul_epu32(c0, m0), p1 = _mm512_mul_epu32(c2, m1);
      c0 = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(p1, 32), c1), _mm512_set1_epi64(k0));
      c2 = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(p0, 32), c3), _mm512_set1_epi64(k1));
      c1 = p1, c3 = p0;
    }
    __m512i c01 = _mm512_or_si512(_mm512_and_si512(c0, low), _mm512_slli_epi64(c1, 32));
    __m512i c23 = _mm512_or_si512(_mm512_and_si512(c2, low), _mm512_slli_epi64(c3, 32));
    _mm512_storeu_si512(words + 4 * b, _mm512_permutex2var_epi64(c01, first, c23));
    _mm512_storeu_si512(words + 4 * b + 16, _mm512_permutex2var_epi64(c01, second, c23));
  }
}

__attribute__((target("avx2"))) static void blocks_256(uint32_t *words, int64_t blocks, uint64_t key,
                                                       uint64_t counter) {
  const __m256i m0 = _mm256_set1_epi64x(MULTIPLY_0), m1 = _mm256_set1_epi64x(MULTIPLY_1),
                low = _mm256_set1_epi64x(0xffffffff);
  for (int64_t b = 0; b < blocks; b += 4) {
    __m256i at =
        _mm256_add_epi64(_mm256_set1_epi64x((long long)(counter + (uint64_t)b)), _mm256_setr_epi64x(0, 1, 2, 3));
    __m256i c0 = at, c1 = _mm256_srli_epi64(at, 32), c2 = _mm256_setzero_si256(), c3 = c2;
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int32_t round = 0; round < ROUNDS; round++, k0 += KEY_STEP_0, k1 += KEY_STEP_1) {
      __m256i p0 = _mm256_mul_epu32(c0, m0), p1 = _mm256_mul_epu32(c2, m1);
      c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1), _mm256_set1_epi64x(k0));
      c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3), _mm256_set1_epi64x(k1));
      c1 = p1, c3 = p0;
    }
    __m256i c01 = _mm256_or_si256(_mm256_and_si256(c0, low), _mm256_slli_epi64(c1, 32));
    __m256i c23 = _mm256_or_si256(_mm256_and_si256(c2, low), _mm256_slli_epi64(c3, 32));
    __m256i even = _mm256_unpacklo_epi64(c01, c23), odd = _mm256_unpackhi_epi64(c01, c23);
    _mm256_storeu_si256((__m256i *)(words + 4 * b), _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256((__m256i *)(words + 4 * b + 8), _mm256_permute2x128_si256(even, odd, 0x31));
  }
}
#endif

void philox_blocks(uint32_t *words, int64_t blocks, uint64_t key, uint64_t counter) {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f")) {
    blocks_512(words, blocks, key, counter);
    return;
  }
  if (__builtin_cpu_supports("avx2")) {
    blocks_256(words, blocks, key, counter);
    return;
  }
#endif
  for (int64_t b = 0; b < blocks; b++) philox(words + 4 * b, key, counter + (uint64_t)b, 0);
}

/* rng.c - counter-based random numbers: Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel
 * random numbers: as easy as 1, 2, 3", SC 2011). A number is a function of key and counter, so any
 * part of a stream can be drawn by anybody. */
#include "core.h"

#include <stdlib.h>

void philox(uint32_t out[4], uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  uint32_t c0 = (uint32_t)counter_low, c1 = (uint32_t)(counter_low >> 32);
  uint32_t c2 = (uint32_t)counter_high, c3 = (uint32_t)(counter_high >> 32);
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
    c1 = (uint32_t)p1;
    c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c3 = (uint32_t)p0;
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

DLV3_API void dlv3_random(double *out, int32_t n, uint64_t seed, uint64_t stream, uint64_t counter) {
  uint32_t words[4];
  for (int32_t i = 0; i < n; i++) { /* 53 bits from two words */
    philox(words, seed, counter + (uint64_t)i, stream);
    out[i] = (double)(((uint64_t)words[0] << 21) ^ (words[1] >> 11)) * 0x1p-53;
  }
}

/* Fisher-Yates; the modulo bias of a 64-bit draw is below 2^-40 for any list that fits memory. */
DLV3_API void dlv3_permutation(int64_t *out, int64_t n, uint64_t seed, uint64_t stream) {
  uint32_t w[4];
  for (int64_t i = 0; i < n; i++) out[i] = i;
  for (int64_t i = n - 1; i > 0; i--) {
    philox(w, seed, (uint64_t)i, stream);
    int64_t k = (int64_t)(((uint64_t)w[0] << 32 | w[1]) % (uint64_t)(i + 1)), kept = out[i];
    out[i] = out[k];
    out[k] = kept;
  }
}

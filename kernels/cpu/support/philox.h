/* philox.h - Philox of consecutive counters, several at once: the same words as philox() in
 * runtime/core/rng.c gives one by one. */
#ifndef DLV3_PHILOX_H
#define DLV3_PHILOX_H

#include "simd.h"

/* Words 0..3 of counter, of counter + 1, ...: 4 * blocks words. blocks is a multiple of 8. */
void philox_blocks(uint32_t *words, int64_t blocks, uint64_t key, uint64_t counter);

#endif

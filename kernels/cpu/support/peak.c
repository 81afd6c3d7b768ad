/* peak.c - the machine's measured peak: multiply-adds on registers alone, on all threads. For the
 * benchmark, which gives the speed of kernels as a share of it.
 *
 * Each thread keeps so many sums that none waits for another's latency. bf16 is the dot product
 * instruction of AVX-512, two multiply-adds a lane. Where the processor has no such instruction the
 * answer is 0. */
#include "core/core.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

typedef struct {
  int64_t rounds;
  void (*loop)(int64_t rounds);
} peak_work;

#ifdef __x86_64__
enum { SUMS = 12 }; /* more than latency times units, and AVX2's 16 registers hold them */

/* Variables by name, since an array of them would be kept in memory. The empty asm keeps each in
 * its register, and the loop from being computed in advance. */
#define ALL_SUMS(X) X(s0) X(s1) X(s2) X(s3) X(s4) X(s5) X(s6) X(s7) X(s8) X(s9) X(s10) X(s11)
#define DECLARE(s) __typeof__(zero) s = zero;
#define HOLD(s) __asm__ volatile("" : "+v"(s));

#define F32_512(s) s = _mm512_fmadd_ps(half, half, s);
__attribute__((target("avx512f"))) static void loop_f32_512(int64_t rounds) {
  __m512 zero = _mm512_setzero_ps(), half = _mm512_set1_ps(0.5f);
  ALL_SUMS(DECLARE)
  for (int64_t r = 0; r < rounds; r++) { ALL_SUMS(F32_512) ALL_SUMS(HOLD) }
}

#define F32_256(s) s = _mm256_fmadd_ps(half, half, s);
__attribute__((target("avx2,fma"))) static void loop_f32_256(int64_t rounds) {
  __m256 zero = _mm256_setzero_ps(), half = _mm256_set1_ps(0.5f);
  ALL_SUMS(DECLARE)
  for (int64_t r = 0; r < rounds; r++) { ALL_SUMS(F32_256) ALL_SUMS(HOLD) }
}

#define BF16_512(s) s = _mm512_dpbf16_ps(s, half, half);
__attribute__((target("avx512f,avx512bf16"))) static void loop_bf16_512(int64_t rounds) {
  __m512 zero = _mm512_setzero_ps();
  __m512bh half = (__m512bh)_mm512_set1_epi16(0x3f00);
  ALL_SUMS(DECLARE)
  for (int64_t r = 0; r < rounds; r++) { ALL_SUMS(BF16_512) ALL_SUMS(HOLD) }
}
#endif

static void run(void *context, int64_t begin, int64_t end) {
  const peak_work *w = context;
  for (int64_t i = begin; i < end; i++) w->loop(w->rounds);
}

/* Floating-point operations a round of a loop does; NULL: no loop for this processor. */
static void (*choose(int32_t dtype, double *flops))(int64_t) {
#ifdef __x86_64__
  __builtin_cpu_init();
  if (dtype == DLV3_BF16) {
    *flops = SUMS * 64;
    return __builtin_cpu_supports("avx512bf16") ? loop_bf16_512 : NULL;
  }
  *flops = SUMS * 32;
  if (__builtin_cpu_supports("avx512f")) return loop_f32_512;
  *flops = SUMS * 16;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return loop_f32_256;
#else
  (void)dtype, (void)flops;
#endif
  return NULL;
}

DLV3_API double dlv3_measure_peak(int32_t dtype) {
  double flops = 0, best = 0;
  int32_t threads = dlv3_num_threads();
  peak_work w = {.rounds = 1000, .loop = choose(dtype, &flops)};
  if (!w.loop) return 0;
  for (int32_t tries = 0; tries < 40;) { /* rounds grow until a try takes 20 ms; the best of 40 such counts */
    double begin = dlv3_now();
    parallel_for(threads, 1, run, &w);
    double seconds = dlv3_now() - begin, rate = flops * (double)w.rounds * threads / seconds;
    if (seconds < 0.02)
      w.rounds *= 2;
    else
      tries++, best = rate > best ? rate : best;
  }
  return best;
}

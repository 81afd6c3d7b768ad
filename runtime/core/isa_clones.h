/* isa_clones.h - CLONES before a function compiles it for AVX-512, AVX2 and the base instruction
 * set; which one runs is chosen once, at load, by cpuid. Helpers called in such a function must be
 * static inline. */
#ifndef DLV3_ISA_CLONES_H
#define DLV3_ISA_CLONES_H

/* Not with sanitizers, which are not ready when the choice is made, nor by clang, whose clones
 * other files do not find by name (version 14): there the base instruction set has to do. */
#if defined(__x86_64__) && !defined(DLV3_SANITIZE) && !defined(__clang__)
#if __GNUC__ >= 12 /* a level is chosen by feature; a processor's name would match that alone */
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#else
#define CLONES
#endif

/* Before a loop whose iterations are independent, though the compiler can not know it. */
#ifdef __clang__
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

#endif

/* isa_clones.h - CLONES before a function compiles it for AVX-512, AVX2 and the base instruction
 * set; which one runs is chosen once, at load, by cpuid. Helpers called in such a function must be
 * static inline. */
#ifndef DLV3_ISA_CLONES_H
#define DLV3_ISA_CLONES_H

#ifndef __has_attribute
#define __has_attribute(attribute) 1
#endif
#if defined(__x86_64__) && __has_attribute(target_clones) \
    && !defined(DLV3_SANITIZE) /* ifunc resolvers run before a sanitizer is ready */
#if defined(__clang__) \
    || __GNUC__ >= 12 /* levels are chosen by feature; a processor's name would match that one only */
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#else
#define CLONES
#endif

/* Before a loop whose iterations do not depend on each other, though the compiler can not know it. */
#ifdef __clang__
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

#endif

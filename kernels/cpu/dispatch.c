/* kernels/cpu/dispatch.c: which kernels this processor runs.
 * Every file kernels/cpu/simd/<family>.c is compiled once per instruction set (KAVA_ISA = avx2, avx512, avx512bf16,
 * neon) and defines `void KAVA_SIMD(<family>)(kava_kernels *table)`, which puts its kernels into the table.
 * families.def lists them. */
#include "kernels/cpu/reference.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static kava_kernels reference_table = {
#define KAVA_KERNEL(result, name, signature) .name = kava_ref_##name,
#include "kernels/kernels.def"
#undef KAVA_KERNEL
};
static kava_kernels chosen_table;
static const char *chosen_isa = "reference";
static pthread_once_t once = PTHREAD_ONCE_INIT;

#define FAMILY(name)                                                                                                   \
  void kava_avx2_register_##name(kava_kernels *table);                                                                 \
  void kava_avx512_register_##name(kava_kernels *table);                                                               \
  void kava_avx512bf16_register_##name(kava_kernels *table);                                                           \
  void kava_neon_register_##name(kava_kernels *table);
#include "kernels/cpu/simd/families.def"
#undef FAMILY

static void choose(void) {
  chosen_table = reference_table;
#if defined(__x86_64__)
  const char *limit = getenv("KAVA_ISA"); /* for tests and for doubts: never more than the processor has */
  if (limit && strcmp(limit, "reference") == 0) return;
  int most = !limit || strcmp(limit, "avx512bf16") == 0 ? 3
             : strcmp(limit, "avx512") == 0             ? 2
             : strcmp(limit, "avx2") == 0               ? 1
                                                        : 3;
  __builtin_cpu_init();
  if (most >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
#define FAMILY(name) kava_avx2_register_##name(&chosen_table);
#include "kernels/cpu/simd/families.def"
#undef FAMILY
    chosen_isa = "avx2";
  }
  if (most >= 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
#define FAMILY(name) kava_avx512_register_##name(&chosen_table);
#include "kernels/cpu/simd/families.def"
#undef FAMILY
    chosen_isa = "avx512";
    if (most >= 3 && __builtin_cpu_supports("avx512bf16")) {
#define FAMILY(name) kava_avx512bf16_register_##name(&chosen_table);
#include "kernels/cpu/simd/families.def"
#undef FAMILY
      chosen_isa = "avx512bf16";
    }
  }
#elif defined(__aarch64__)
#define FAMILY(name) kava_neon_register_##name(&chosen_table);
#include "kernels/cpu/simd/families.def"
#undef FAMILY
  chosen_isa = "neon";
#endif
}

const kava_kernels *kava_kernels_cpu(void) {
  pthread_once(&once, choose);
  return &chosen_table;
}
const kava_kernels *kava_kernels_reference(void) { return &reference_table; }
const char *kava_kernels_isa(void) {
  pthread_once(&once, choose);
  return chosen_isa;
}

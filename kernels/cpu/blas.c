/* kernels/cpu/blas.c: finds OpenBLAS, makes it use this processor, and calls it.
 *
 * OpenBLAS chooses its kernels when it is loaded, and 0.3.21 (Debian 12) misjudges processors newer than itself: a
 * missing `break` gives an unknown Intel model of family 6 the kernels of a Prescott, a tenth of the speed. An
 * OPENBLAS_CORETYPE=Haswell inherited from a shell halves the speed on AVX-512. So the core is chosen here from CPUID,
 * and set in the environment before dlopen; KAVA_BLAS_CORE overrules ("auto": leave it to the library). Only names that
 * 0.3.21 knows are used (it does not accept Cooperlake or SapphireRapids). The library runs on one thread; gemm.c
 * slices the work for KAVA's own pool. */
#include "kernels/cpu/blas.h"
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 };
typedef void (*sgemm_fn)(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                         const float *b, int ldb, float beta, float *c, int ldc);
typedef void (*dgemm_fn)(int order, int ta, int tb, int m, int n, int k, double alpha, const double *a, int lda,
                         const double *b, int ldb, double beta, double *c, int ldc);

static struct {
  sgemm_fn sgemm;
  dgemm_fn dgemm;
  kava_blas_facts facts;
} blas;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The OpenBLAS core this processor and operating system can run; NULL: let the library judge. */
static const char *core_name(void) {
#if defined(__x86_64__)
  __builtin_cpu_init(); /* reads CPUID and, for the wide registers, XGETBV */
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd"))
    return "SkylakeX";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return __builtin_cpu_is("amd") ? "Zen" : "Haswell";
#endif
  return NULL;
}

/* A pointer to a function from dlsym's pointer to an object: the two are alike on POSIX, and ISO C has no cast for it.
 */
static bool find(void *library, const char *name, void *function) {
  void *symbol = dlsym(library, name);
  if (symbol) memcpy(function, &symbol, sizeof symbol);
  return symbol != NULL;
}

static void open_library(void) {
  const char *wish = getenv("KAVA_BLAS_CORE"), *core = wish && *wish ? wish : core_name();
  if (wish && strcmp(wish, "none") == 0) return; /* KAVA's own kernels: for tests and for doubts */
  if (core && strcmp(core, "auto") != 0) setenv("OPENBLAS_CORETYPE", core, 1);
  static const char *const names[] = {"libopenblas.so.0", "libopenblas.so", "libcblas.so.3", "libblas.so.3"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!library) continue;
    if (!find(library, "cblas_sgemm", &blas.sgemm) || !find(library, "cblas_dgemm", &blas.dgemm)) {
      blas.sgemm = NULL;
      dlclose(library);
      continue;
    }
    void (*set_threads)(int);
    const char *(*text)(void);
    if (find(library, "openblas_set_num_threads", &set_threads)) set_threads(1);
    if (find(library, "openblas_get_config", &text)) blas.facts.config = text();
    if (find(library, "openblas_get_corename", &text)) blas.facts.core = text();
    blas.facts.library = names[i];
    return;
  }
}

static bool fits(int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f) {
  return a <= INT_MAX && b <= INT_MAX && c <= INT_MAX && d <= INT_MAX && e <= INT_MAX && f <= INT_MAX;
}

bool kava_blas_sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                     int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
  pthread_once(&once, open_library);
  if (!blas.sgemm || !fits(m, n, k, lda, ldb, ldc)) return false;
  blas.sgemm(ROW_MAJOR, trans_a ? TRANSPOSED : PLAIN, trans_b ? TRANSPOSED : PLAIN, (int)m, (int)n, (int)k, alpha, a,
             (int)lda, b, (int)ldb, beta, c, (int)ldc);
  return true;
}

bool kava_blas_dgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, double alpha, const double *a,
                     int64_t lda, const double *b, int64_t ldb, double beta, double *c, int64_t ldc) {
  pthread_once(&once, open_library);
  if (!blas.dgemm || !fits(m, n, k, lda, ldb, ldc)) return false;
  blas.dgemm(ROW_MAJOR, trans_a ? TRANSPOSED : PLAIN, trans_b ? TRANSPOSED : PLAIN, (int)m, (int)n, (int)k, alpha, a,
             (int)lda, b, (int)ldb, beta, c, (int)ldc);
  return true;
}

kava_blas_facts kava_blas_info(void) {
  pthread_once(&once, open_library);
  return blas.facts;
}

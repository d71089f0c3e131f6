/* kernels/cpu/blas.h: OpenBLAS (or another CBLAS), opened with dlopen when the first product is asked for. */
#ifndef KAVA_KERNELS_CPU_BLAS_H
#define KAVA_KERNELS_CPU_BLAS_H
#include <stdbool.h>
#include <stdint.h>

/* C = alpha op(A) op(B) + beta C, row-major, on the calling thread alone. False, and nothing done, when there is no
 * BLAS or a size is beyond what it takes: the caller has its own loops. Thread-safe. */
bool kava_blas_sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                     int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
bool kava_blas_dgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, double alpha, const double *a,
                     int64_t lda, const double *b, int64_t ldb, double beta, double *c, int64_t ldc);

/* What products run on. Opens the library. */
typedef struct kava_blas_facts {
  const char *library; /* file name; NULL: none found, KAVA's own kernels */
  const char *config;  /* the library's own words about itself; NULL: it has none */
  const char *core;    /* the kernels it chose; NULL: it does not say */
} kava_blas_facts;
kava_blas_facts kava_blas_info(void);
#endif

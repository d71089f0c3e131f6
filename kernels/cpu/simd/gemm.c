/* kernels/cpu/simd/gemm.c: gemm on BLAS, sliced for KAVA's own pool: one pool, no second set of threads that spins.
 * Slices depend on the shape alone, so that a result does not depend on the number of threads. Each slice packs its
 * operands again: large ones where there are enough of them. Measured on Emerald Rapids with OpenBLAS 0.3.21, 1024 x
 * 576 x 576, GFLOP/s: one core whole 156, 512 rows 153, 256 rows 146, 256 x 256 137, 128 rows 131; two cores 512 rows
 * 303, 256 rows 288, 256 x 256 238, 128 rows 261. Linear layers go by panels.h but for a long k. Without a BLAS the
 * plain reference does it. */
#include "base/threads.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/reference.h"
#include "kernels/cpu/simd/vec.h"

#define SLICE 512
#define ENOUGH 24 /* slices */

typedef struct gemm_job {
  const kava_gemm_args *a;
  int64_t slice_m, slices_m, slices_n;
} gemm_job;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void slices(void *ctx, int64_t begin, int64_t end) {
  const gemm_job *job = ctx;
  const kava_gemm_args *g = job->a;
  for (int64_t at = begin; at < end; at++) {
    int64_t batch = at / (job->slices_m * job->slices_n), rest = at % (job->slices_m * job->slices_n);
    int64_t i = rest / job->slices_n * job->slice_m, j = rest % job->slices_n * SLICE;
    int64_t m = least(g->m - i, job->slice_m), n = least(g->n - j, SLICE);
    int64_t a = batch * g->stride_a + (g->trans_a ? i : i * g->lda),
            b = batch * g->stride_b + (g->trans_b ? j * g->ldb : j);
    int64_t c = batch * g->stride_c + i * g->ldc + j;
    if (g->dtype == KAVA_F64)
      kava_blas_dgemm(g->trans_a, g->trans_b, m, n, g->k, g->alpha, (const double *)g->a + a, g->lda,
                      (const double *)g->b + b, g->ldb, g->beta, (double *)g->c + c, g->ldc);
    else
      kava_blas_sgemm(g->trans_a, g->trans_b, m, n, g->k, (float)g->alpha, (const float *)g->a + a, g->lda,
                      (const float *)g->b + b, g->ldb, (float)g->beta, (float *)g->c + c, g->ldc);
  }
}

static void gemm(const kava_gemm_args *a) {
  if (!kava_blas_info().library || a->lda > INT32_MAX || a->ldb > INT32_MAX || a->ldc > INT32_MAX || a->k > INT32_MAX) {
    kava_ref_gemm(a);
    return;
  }
  gemm_job job = {.a = a, .slices_n = ceil_div(a->n, SLICE)};
  job.slice_m = a->batch * ceil_div(a->m, SLICE) * job.slices_n < ENOUGH ? SLICE / 2 : SLICE;
  job.slices_m = ceil_div(a->m, job.slice_m);
  kava_parallel(a->batch * job.slices_m * job.slices_n, 1, slices, &job);
}

void KAVA_SIMD(gemm)(kava_kernels *table);
void KAVA_SIMD(gemm)(kava_kernels *table) { table->gemm = gemm; }

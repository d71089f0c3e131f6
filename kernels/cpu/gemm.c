/* kernels/cpu/gemm.c: the plain reference of `gemm`: C = alpha op(A) op(B) + beta C, summed in double over k in order,
 * in tiles of C that threads share. Also what finite differences in f64 stand on. */
#include "base/threads.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"
#include <string.h>

#define TILE 48 /* of m, n and k: three tiles of doubles fit a core's nearer caches */

typedef struct gemm_job {
  const kava_gemm_args *a;
  int64_t tiles_m, tiles_n;
} gemm_job;

/* into[i][j] = op(X)[i0+i][j0+j] for i < rows, j < cols */
static void read_tile(kava_dtype dtype, const void *x, int64_t at, int64_t ld, bool transposed, int64_t i0,
                      int64_t rows, int64_t j0, int64_t cols, double into[TILE][TILE]) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < cols; j++) {
      int64_t place = transposed ? (j0 + j) * ld + i0 + i : (i0 + i) * ld + j0 + j;
      into[i][j] = element_get(dtype, x, at + place);
    }
}

static void gemm_tiles(void *ctx, int64_t begin, int64_t end) {
  const gemm_job *job = ctx;
  const kava_gemm_args *g = job->a;
  double sum[TILE][TILE], a[TILE][TILE], b[TILE][TILE];
  for (int64_t at = begin; at < end; at++) {
    int64_t batch = at / (job->tiles_m * job->tiles_n), rest = at % (job->tiles_m * job->tiles_n);
    int64_t i0 = rest / job->tiles_n * TILE, j0 = rest % job->tiles_n * TILE;
    int64_t rows = g->m - i0 < TILE ? g->m - i0 : TILE, cols = g->n - j0 < TILE ? g->n - j0 : TILE;
    memset(sum, 0, sizeof sum);
    for (int64_t k0 = 0; k0 < g->k; k0 += TILE) {
      int64_t depth = g->k - k0 < TILE ? g->k - k0 : TILE;
      read_tile(g->dtype, g->a, batch * g->stride_a, g->lda, g->trans_a, i0, rows, k0, depth, a);
      read_tile(g->dtype, g->b, batch * g->stride_b, g->ldb, g->trans_b, k0, depth, j0, cols, b);
      for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < depth; k++)
          for (int64_t j = 0; j < cols; j++) sum[i][j] += a[i][k] * b[k][j];
    }
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < cols; j++) {
        int64_t place = batch * g->stride_c + (i0 + i) * g->ldc + j0 + j;
        double c = g->alpha * sum[i][j];
        if (g->beta != 0) c += g->beta * element_get(g->dtype, g->c, place);
        element_put(g->dtype, g->c, place, c, false);
      }
  }
}

void kava_ref_gemm(const kava_gemm_args *a) {
  gemm_job job = {a, (a->m + TILE - 1) / TILE, (a->n + TILE - 1) / TILE};
  kava_parallel(a->batch * job.tiles_m * job.tiles_n, 1, gemm_tiles, &job);
}

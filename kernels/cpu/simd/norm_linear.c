/* kernels/cpu/simd/norm_linear.c: see kernels/cpu/norm_linear.c. Threads share the columns: every sum runs down a
 * column in order, whatever the number of threads. */
#include "kernels/cpu/reference.h"
#include "kernels/cpu/simd/vec.h"
#include "base/threads.h"

static void columns(void *ctx, int64_t begin, int64_t end) {
  const kava_norm_linear_args *a = ctx;
  const float *gamma = a->gamma, *beta = a->beta, *sums = a->sums;
  begin *= VF_LANES;
  end = end * VF_LANES < a->width ? end * VF_LANES : a->width;
  for (int64_t i = 0; i < a->rows; i++) {
    const float *g = (const float *)a->g + i * a->width, *w = (const float *)a->w + i * a->width;
    float *dw = a->dw ? (float *)a->dw + i * a->width : NULL, *dgamma = a->dgamma, *dbeta = a->dbeta;
    vf sum = vf_set(sums[i]);
    for (int64_t j = begin; j < end; j += VF_LANES) {
      int64_t n = end - j < VF_LANES ? end - j : VF_LANES;
      vf gv = vf_load_n(g + j, n), wv = vf_load_n(w + j, n);
      if (dgamma) vf_store_n(dgamma + j, vf_fma(wv, gv, vf_load_n(dgamma + j, n)), n);
      if (dbeta) vf_store_n(dbeta + j, vf_fma(wv, sum, vf_load_n(dbeta + j, n)), n);
      if (!dw) continue;
      vf d = vf_fma(gv, vf_load_n(gamma + j, n), vf_mul(sum, vf_load_n(beta + j, n)));
      vf_store_n(dw + j, a->add_w ? vf_add(vf_load_n(dw + j, n), d) : d, n);
    }
  }
}

static kava_status norm_linear_finish(const kava_norm_linear_args *a) {
  if (a->dtype != KAVA_F32) return kava_ref_norm_linear_finish(a);
  kava_parallel((a->width + VF_LANES - 1) / VF_LANES, 32, columns, (void *)(uintptr_t)a);
  return KAVA_OK;
}

void KAVA_SIMD(norm_linear)(kava_kernels *table);
void KAVA_SIMD(norm_linear)(kava_kernels *table) { table->norm_linear_finish = norm_linear_finish; }

/* kernels/cpu/simd/embedding.c: the gradient of a row gather: one thread a row of the table, its positions in order. */
#include "kernels/cpu/simd/tail.h"
#include "base/threads.h"
#include "kernels/cpu/reference.h"

static void add_rows(void *ctx, int64_t begin, int64_t end) {
  const kava_embedding_args *a = ctx;
  for (int64_t u = begin; u < end; u++)
    for (int64_t j = a->first[u]; j < a->first[u + 1]; j++) {
      const float *from = (const float *)a->grad + a->order[j] * a->width;
      float *to = (float *)a->dw + a->ids[a->order[j]] * a->width;
      for (int64_t i = 0; i < a->width; i += VF_LANES) {
        int64_t n = a->width - i;
        vf_store_to(to + i, vf_add(vf_load_to(to + i, n), vf_load_to(from + i, n)), n);
      }
    }
}

static void embedding_grad(const kava_embedding_args *a) {
  if (a->dtype == KAVA_F64)
    kava_ref_embedding_grad(a);
  else
    kava_parallel(a->unique, 16, add_rows, (void *)a);
}

void KAVA_SIMD(embedding)(kava_kernels *table);
void KAVA_SIMD(embedding)(kava_kernels *table) { table->embedding_grad = embedding_grad; }

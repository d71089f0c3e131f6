/* kernels/cpu/embedding.c: the plain reference of an embedding's gradient. */
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"

void kava_ref_embedding_grad(const kava_embedding_args *a) {
  for (int64_t u = 0; u < a->unique; u++)
    for (int64_t j = a->first[u]; j < a->first[u + 1]; j++) {
      int64_t from = a->order[j] * a->width, to = a->ids[a->order[j]] * a->width;
      for (int64_t i = 0; i < a->width; i++)
        element_put(a->dtype, a->dw, to + i, element_get(a->dtype, a->grad, from + i), true);
    }
}

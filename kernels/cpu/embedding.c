/* kernels/cpu/embedding.c: the plain reference of gathering rows, and of its gradient. */
#include "kernels/cpu/element.h"
#include "kernels/cpu/quant.h"
#include "kernels/cpu/reference.h"
#include <string.h>

void kava_ref_gather(const kava_gather_args *a) {
  size_t row = kava_gather_row_bytes(a);
  for (int64_t o = 0; o < a->outer; o++)
    for (int64_t j = 0; j < a->count; j++) {
      const char *from = (const char *)a->x + (size_t)(o * a->rows + a->ids[j]) * row;
      int64_t to = (o * a->count + j) * a->inner;
      if (a->from == a->dtype)
        memcpy((char *)a->y + (size_t)(o * a->count + j) * row, from, row);
      else if (a->scaling)
        kava_ref_widen_scaled(a->from, from, a->scaling, a->first + a->ids[j], 0, (float *)a->y + to, a->inner);
      else
        kava_ref_widen(a->from, from, (float *)a->y + to, a->inner);
    }
}

kava_status kava_ref_gather_grad(const kava_gather_args *a) {
  for (int64_t o = 0; o < a->outer; o++)
    for (int64_t j = 0; j < a->count; j++) {
      int64_t from = (o * a->count + j) * a->inner, to = (o * a->rows + a->ids[j]) * a->inner;
      for (int64_t i = 0; i < a->inner && a->ids[j] != a->pad; i++)
        element_put(a->dtype, a->dx, to + i, element_get(a->dtype, a->grad, from + i), true);
    }
  return KAVA_OK;
}

/* kernels/cpu/rope.c: the plain reference of rotary position embedding. */
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"

void kava_ref_rope(const kava_rope_args *a) {
  int64_t half = a->rotated / 2;
  for (int64_t row = 0; row < a->tokens * a->heads; row++) {
    int64_t table = row / a->heads % a->period * half, at = row * a->dim;
    for (int64_t j = 0; j < half; j++) {
      double c = element_get(a->dtype, a->cosine, table + j), s = element_get(a->dtype, a->sine, table + j);
      double x = element_get(a->dtype, a->x, at + j), z = element_get(a->dtype, a->x, at + j + half);
      if (a->inverse) s = -s;
      element_put(a->dtype, a->y, at + j, x * c - z * s, a->add);
      element_put(a->dtype, a->y, at + j + half, z * c + x * s, a->add);
    }
    for (int64_t j = 2 * half; j < a->dim; j++)
      element_put(a->dtype, a->y, at + j, element_get(a->dtype, a->x, at + j), a->add);
  }
}

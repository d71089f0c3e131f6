/* kernels/cpu/rope.c: the plain reference of rotary position embedding. */
#include "base/threads.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"
#include <math.h>

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

void kava_ref_rope_two(const kava_rope_args *a, const kava_rope_args *b) {
  kava_ref_rope(a);
  kava_ref_rope(b);
}

static void table_rows(void *ctx, int64_t begin, int64_t end) {
  const kava_rope_table_args *a = ctx;
  for (int64_t row = begin; row < end; row++) {
    double position = (double)(a->positions ? a->positions[row] : row);
    for (int64_t j = 0; j < a->half; j++) {
      double angle = position * a->inv_freq[j];
      element_put(a->dtype, a->cosine, row * a->half + j, cos(angle) * a->scale, false);
      element_put(a->dtype, a->sine, row * a->half + j, sin(angle) * a->scale, false);
    }
  }
}

void kava_ref_rope_table(const kava_rope_table_args *a) { kava_parallel(a->rows, 64, table_rows, (void *)a); }

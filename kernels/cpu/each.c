/* kernels/cpu/each.c: the plain reference of what goes over many tensors of one shape at once (kernels/args.h). */
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"
#include <math.h>

void kava_ref_cosines(const kava_cosines_args *a) {
  double sum = 0;
  for (int i = 0; i < a->count; i++)
    for (int64_t r = 0; r < a->rows; r++) {
      double ss = 0, tt = 0, st = 0, own = 0, other = 0;
      if (!a->keep || a->keep[r]) {
        for (int64_t c = 0; c < a->width; c++) {
          double s = element_get(a->dtype, a->s[i], r * a->s_row[i] + c),
                 t = element_get(a->dtype, a->t[i], r * a->t_row[i] + c);
          ss += s * s;
          tt += t * t;
          st += s * t;
        }
        double ns = fmax(sqrt(ss), KAVA_UNIT_EPS), nt = fmax(sqrt(tt), KAVA_UNIT_EPS);
        sum += st / (ns * nt);
        other = 1 / (ns * nt);
        own = sqrt(ss) > KAVA_UNIT_EPS ? -st / (ns * ns * ns * nt) : 0;
      }
      element_put(a->dtype, a->slopes, 2 * (i * a->rows + r), own, false);
      element_put(a->dtype, a->slopes, 2 * (i * a->rows + r) + 1, other, false);
    }
  element_put(a->dtype, a->loss, 0, 1 - sum / (*a->counted * a->count), false);
}

void kava_ref_cosines_grad(const kava_cosines_args *a) {
  double scale = -element_get(a->dtype, a->grad, 0) / (*a->counted * a->count);
  for (int i = 0; i < a->count; i++)
    for (int64_t r = 0; r < a->rows && a->ds[i]; r++)
      for (int64_t c = 0; c < a->width; c++) {
        double slope = 0;
        if (!a->keep || a->keep[r])
          slope = element_get(a->dtype, a->slopes, 2 * (i * a->rows + r)) *
                      element_get(a->dtype, a->s[i], r * a->s_row[i] + c) +
                  element_get(a->dtype, a->slopes, 2 * (i * a->rows + r) + 1) *
                      element_get(a->dtype, a->t[i], r * a->t_row[i] + c);
        element_put(a->dtype, a->ds[i], r * a->ds_row[i] + c, scale * slope, a->add[i]);
      }
}

void kava_ref_join(const kava_join_args *a) {
  int64_t at = 0, size_x = kava_dtype_block_bytes(a->from), size_y = kava_dtype_block_bytes(a->to);
  for (int i = 0; i < a->count; at += a->width[i++])
    for (int64_t r = 0; r < a->rows; r++)
      kava_ref_convert(a->from, (const char *)a->x[i] + r * a->x_row[i] * size_x, a->to,
                       (char *)a->y + (r * a->y_row + at) * size_y, a->width[i]);
}

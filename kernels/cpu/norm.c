/* kernels/cpu/norm.c: the plain reference of RMS norm and layer norm.
 * With s = 1/sqrt(var + eps), n = (x - mean) s and g = grad * w, over a row of `width`:
 *   dx = s (g - mean(g) - n mean(g n))      (RMS norm: mean is 0, and the mean(g) term is absent)
 *   dw = sum over rows of grad * n,  db = sum over rows of grad */
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"
#include <math.h>

static void statistics(const kava_norm_args *a, int64_t row, double *mean, double *scale) {
  double sum = 0, square = 0;
  for (int64_t i = 0; i < a->width && a->centre; i++) sum += element_get(a->dtype, a->x, row * a->width + i);
  *mean = sum / (double)a->width;
  for (int64_t i = 0; i < a->width; i++) {
    double d = element_get(a->dtype, a->x, row * a->width + i) - *mean;
    square += d * d;
  }
  *scale = 1.0 / sqrt(square / (double)a->width + a->eps);
}

static void put_row(const kava_norm_args *a, int64_t row, double mean, double scale) {
  for (int64_t i = 0; i < a->width; i++) {
    double y = (element_get(a->dtype, a->x, row * a->width + i) - mean) * scale;
    if (a->w) y *= element_get(a->dtype, a->w, i);
    if (a->b) y += element_get(a->dtype, a->b, i);
    element_put(a->dtype, a->y, row * a->width + i, y, false);
  }
}

void kava_ref_norm(const kava_norm_args *a) {
  for (int64_t row = 0; row < a->rows; row++) {
    double mean, scale;
    statistics(a, row, &mean, &scale);
    put_row(a, row, mean, scale);
  }
}

void kava_ref_norm_grad(const kava_norm_args *a) {
  for (int64_t row = 0; row < a->rows; row++) {
    double mean, scale, sum = 0, dot = 0;
    statistics(a, row, &mean, &scale);
    int64_t at = row * a->width;
    for (int64_t i = 0; i < a->width; i++) {
      double grad = element_get(a->dtype, a->grad, at + i), n = (element_get(a->dtype, a->x, at + i) - mean) * scale;
      double g = a->w ? grad * element_get(a->dtype, a->w, i) : grad;
      sum += g;
      dot += g * n;
      if (a->dw) element_put(a->dtype, a->dw, i, grad * n, true);
      if (a->db) element_put(a->dtype, a->db, i, grad, true);
    }
    sum = a->centre ? sum / (double)a->width : 0;
    dot /= (double)a->width;
    for (int64_t i = 0; i < a->width && a->dx; i++) {
      double g = element_get(a->dtype, a->grad, at + i), n = (element_get(a->dtype, a->x, at + i) - mean) * scale;
      if (a->w) g *= element_get(a->dtype, a->w, i);
      element_put(a->dtype, a->dx, at + i, scale * (g - sum - n * dot), a->add_x);
    }
    if (a->y) put_row(a, row, mean, scale);
  }
}

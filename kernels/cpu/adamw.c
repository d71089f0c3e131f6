/* kernels/cpu/adamw.c: the plain reference of AdamW's step and of gradient clipping. Formulas: kernels/args.h. */
#include "kernels/cpu/element.h"
#include "kernels/cpu/half.h"
#include "kernels/cpu/reference.h"
#include <math.h>

static void adamw_element(const kava_adamw_span *a, int64_t i) {
  kava_dtype wide = a->dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32;
  bool small = a->state_dtype == KAVA_BF16;
  uint16_t *small_m = a->m, *small_v = a->v;
  void *values = a->master ? a->master : a->p;
  double p = element_get(wide, values, i), g = element_get(wide, a->g, i);
  double m = small ? kava_bf16_to_f32(small_m[i]) : element_get(wide, a->m, i);
  double v = small ? kava_bf16_to_f32(small_v[i]) : element_get(wide, a->v, i);
  p *= 1 - a->lr * a->decay;
  m += (1 - a->beta1) * (g - m);
  v = a->beta2 * v + (1 - a->beta2) * g * g;
  p -= a->lr * a->correction1 * m / (sqrt(v) * a->correction2 + a->eps);
  element_put(wide, values, i, p, false);
  if (small) {
    small_m[i] = kava_f32_to_bf16((float)m);
    float rounded = (float)v;
    small_v[i] = isfinite(rounded)
                     ? (uint16_t)((kava_bits_of_float(rounded) + kava_adamw_noise(a->noise, (uint32_t)i)) >> 16)
                     : kava_f32_to_bf16(rounded);
  } else {
    element_put(wide, a->m, i, m, false);
    element_put(wide, a->v, i, v, false);
  }
  if (a->dtype == KAVA_BF16) ((uint16_t *)a->p)[i] = kava_f32_to_bf16((float)p);
  if (a->dtype == KAVA_F16) ((uint16_t *)a->p)[i] = kava_f32_to_f16((float)p);
}

void kava_ref_adamw(const kava_adamw_span *spans, int64_t count) {
  for (int64_t s = 0; s < count; s++)
    for (int64_t i = 0; i < spans[s].count; i++) adamw_element(&spans[s], i);
}

double kava_ref_square_sum(kava_dtype dtype, const void *x, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; i++) {
    double value = element_get(dtype, x, i);
    sum += value * value;
  }
  return sum;
}

void kava_ref_rescale(kava_dtype dtype, void *x, int64_t count, double factor) {
  for (int64_t i = 0; i < count; i++) element_put(dtype, x, i, element_get(dtype, x, i) * factor, false);
}

/* kernels/cpu/activation.c: the plain reference of elementwise nonlinearities, of gated pairs and of dropout.
 * f and f' of each kind stand in value_of and slope_of. */
#include "base/rng.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"
#include <math.h>

#define SQRT_HALF 0.70710678118654752440
#define SQRT_2_OVER_PI 0.79788456080286535588
#define INV_SQRT_2PI 0.39894228040143267794

static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

static double value_of(kava_activation kind, double x) {
  switch (kind) {
  case KAVA_SILU: return x * sigmoid(x);
  case KAVA_GELU: return 0.5 * x * erfc(-x * SQRT_HALF);
  case KAVA_GELU_TANH: return 0.5 * x * (1.0 + tanh(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)));
  default: return x > 0 ? x : x <= 0 ? 0 : x; /* a NaN stays one */
  }
}

static double slope_of(kava_activation kind, double x) {
  switch (kind) {
  case KAVA_SILU: {
    double s = sigmoid(x);
    return s * (1.0 + x * (1.0 - s));
  }
  case KAVA_GELU: return 0.5 * erfc(-x * SQRT_HALF) + x * INV_SQRT_2PI * exp(-0.5 * x * x);
  case KAVA_GELU_TANH: {
    double t = tanh(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x));
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044715 * x * x);
  }
  default: return x > 0 ? 1 : 0;
  }
}

static double rounded(kava_dtype dtype, double x) { return dtype == KAVA_F64 ? x : (double)(float)x; }

static double masked(const kava_dropout_mask *mask, int64_t i, double x) {
  uint32_t bits[4];
  if (mask->p == 0) return x;
  kava_philox(mask->seed, mask->stream + (mask->later ? *mask->later : 0),
              (uint64_t)(8 * (i / KAVA_DROPOUT_GROUP) + i % 8), bits);
  return bits[i / 8 % 4] < kava_dropout_limit(mask->p) ? 0 : x / (1 - mask->p);
}

void kava_ref_activation(const kava_activation_args *a) {
  for (int64_t i = 0; i < a->count; i++) {
    double f = rounded(a->dtype, value_of(a->kind, element_get(a->dtype, a->x, i)));
    element_put(a->dtype, a->y, i, masked(&a->mask, i, f), false);
  }
}

void kava_ref_activation_grad(const kava_activation_args *a) {
  for (int64_t i = 0; i < a->count; i++) {
    double x = element_get(a->dtype, a->x, i), f = rounded(a->dtype, value_of(a->kind, x)),
           grad = rounded(a->dtype, masked(&a->mask, i, element_get(a->dtype, a->grad, i)));
    if (a->y) element_put(a->dtype, a->y, i, masked(&a->mask, i, f), false);
    element_put(a->dtype, a->dx, i, grad * slope_of(a->kind, x), a->add);
  }
}

void kava_ref_gated(const kava_gated_args *a) {
  for (int64_t i = 0; i < a->count; i++)
    element_put(a->dtype, a->y, i,
                value_of(a->kind, element_get(a->dtype, a->gate, i)) * element_get(a->dtype, a->up, i), false);
}

void kava_ref_gated_grad(const kava_gated_args *a) {
  for (int64_t i = 0; i < a->count; i++) {
    double gate = element_get(a->dtype, a->gate, i), up = element_get(a->dtype, a->up, i),
           grad = element_get(a->dtype, a->grad, i);
    if (a->dgate) element_put(a->dtype, a->dgate, i, grad * up * slope_of(a->kind, gate), a->add_gate);
    if (a->dup) element_put(a->dtype, a->dup, i, grad * value_of(a->kind, gate), a->add_up);
    if (a->y) element_put(a->dtype, a->y, i, value_of(a->kind, gate) * up, false);
  }
}

void kava_ref_softcap(kava_dtype dtype, double c, const void *x, void *y, int64_t count) {
  for (int64_t i = 0; i < count; i++) element_put(dtype, y, i, c * tanh(element_get(dtype, x, i) / c), false);
}

void kava_ref_softcap_grad(kava_dtype dtype, double c, const void *y, const void *grad, void *dx, int64_t count,
                           bool add) {
  for (int64_t i = 0; i < count; i++) {
    double t = element_get(dtype, y, i) / c;
    element_put(dtype, dx, i, element_get(dtype, grad, i) * (1 - t * t), add);
  }
}

void kava_ref_dropout(const kava_dropout_args *a) {
  for (int64_t i = 0; i < a->count; i++)
    element_put(a->dtype, a->y, i, masked(&a->mask, i, element_get(a->dtype, a->x, i)), a->add);
}

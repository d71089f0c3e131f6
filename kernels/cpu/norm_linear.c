/* kernels/cpu/norm_linear.c: the pass over G = dz^T xhat that finishes the gradients of linear(layer_norm(x)):
 *   dw (+)= G*gamma + sums beta^T,  dgamma += column sums of W*G,  dbeta += W^T sums       (ops/norm_linear.h)
 * W, G, dw [rows, width]; sums [rows]; gamma, beta and their gradients [width]. dw, dgamma, dbeta may be NULL.
 * And several layers of one norm. */
#include "base/memory.h"
#include "kernels/cpu/reference.h"

#define FINISH(REAL)                                                                                                   \
  const REAL *g = a->g, *w = a->w, *gamma = a->gamma, *beta = a->beta, *sums = a->sums;                                \
  REAL *dw = a->dw, *dgamma = a->dgamma, *dbeta = a->dbeta;                                                            \
  for (int64_t i = 0; i < a->rows; i++) {                                                                              \
    for (int64_t j = 0; j < a->width; j++) {                                                                           \
      int64_t at = i * a->width + j;                                                                                   \
      REAL d = g[at] * gamma[j] + sums[i] * beta[j];                                                                   \
      if (dgamma) dgamma[j] += w[at] * g[at];                                                                          \
      if (dbeta) dbeta[j] += w[at] * sums[i];                                                                          \
      if (dw) dw[at] = a->add_w ? dw[at] + d : d;                                                                      \
    }                                                                                                                  \
  }

kava_status kava_ref_norm_linear_finish(const kava_norm_linear_args *a) {
  if (a->dtype == KAVA_F64) {
    FINISH(double)
  } else {
    FINISH(float)
  }
  return KAVA_OK;
}

kava_status kava_ref_linear_normed(const kava_norm_args *norm, int count, const kava_linear_args *a,
                                   const void *const *bias, void *const *y) {
  kava_norm_args into = *norm;
  into.y = kava_alloc((size_t)(norm->rows * norm->width) * (norm->dtype == KAVA_F64 ? 8 : 4));
  if (!into.y) return KAVA_MEMORY;
  kava_ref_norm(&into);
  kava_status st = KAVA_OK;
  for (int i = 0; i < count && st == KAVA_OK; i++) st = kava_ref_linear_forward(&a[i], into.y, bias[i], y[i]);
  kava_free(into.y);
  return st;
}

kava_status kava_ref_gated_mlp(const kava_norm_args *norm, kava_activation kind, const kava_linear_args *layers,
                               const void *bias, void *act, void *y) {
  int64_t count = norm->rows * layers[0].out, size = norm->dtype == KAVA_F64 ? 8 : 4;
  char *gate = kava_alloc((size_t)(2 * count * size));
  if (!gate) return KAVA_MEMORY;
  char *up = gate + count * size;
  kava_status st =
      kava_ref_linear_normed(norm, 2, layers, (const void *const[]){NULL, NULL}, (void *const[]){gate, up});
  kava_ref_gated(
      &(kava_gated_args){.kind = kind, .dtype = norm->dtype, .count = count, .gate = gate, .up = up, .y = act});
  if (st == KAVA_OK) st = kava_ref_linear_forward(&layers[2], act, bias, y);
  kava_free(gate);
  return st;
}

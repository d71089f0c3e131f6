/* kernels/cpu/norm_linear.c: the pass over G = dz^T xhat that finishes the gradients of linear(layer_norm(x)):
 *   dw (+)= G*gamma + sums beta^T,  dgamma += column sums of W*G,  dbeta += W^T sums       (ops/norm_linear.h)
 * W, G, dw [rows, width]; sums [rows]; gamma, beta and their gradients [width]. dw, dgamma, dbeta may be NULL. */
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

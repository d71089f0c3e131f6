/* ops/norm_linear: linear(layer_norm(x)): the first half of the projector, whose input is a frozen teacher's KV.
 * When x needs no gradient, gamma's and beta's are had without the product dz W, a third of the layer's backward work:
 *   z = (xhat*gamma + beta) W^T + b,  s = column sums of dz,  G = dz^T xhat
 *   dW = G*gamma + s beta^T,  dgamma_j = sum_i W_ij G_ij,  dbeta = W^T s,  db = s
 * since dgamma_j = sum_n (dz W)_nj xhat_nj, and dbeta_j = sum_n (dz W)_nj.
 * And what reads a norm in codes, of models that are not trained. */
#ifndef KAVA_OPS_NORM_LINEAR_H
#define KAVA_OPS_NORM_LINEAR_H
#include "tensor/tensor.h"

/* x [..., in]; gamma, beta [in]; w [out, in]; b [out] -> [..., out] */
kava_status kava_op_norm_linear(kava_tensor *x, kava_tensor *gamma, kava_tensor *beta, kava_tensor *w, kava_tensor *b,
                                double eps, kava_tensor **out);

/* outs[i] = norm(x) w[i]^T + bias[i] (biases may be NULL) where the device has that in one and nothing is recorded: of
 * fp8 codes on a GPU the norm writes the codes that the products read. Elsewhere outs are NULL, and the caller takes
 * norm and linear. norm: layer_norm or rms_norm with gamma and beta (either NULL). */
#define KAVA_NORMED_MOST 4
kava_status kava_linear_normed(bool layer_norm, kava_tensor *x, kava_tensor *gamma, kava_tensor *beta, double eps,
                               int count, kava_tensor *const *w, kava_tensor *const *bias, kava_tensor **outs);
/* *out = (f(n gate^T) (n up^T)) down^T + bias + residual (either NULL: none) of n = norm(x), where the device has that
 * in one and nothing is recorded; elsewhere *out is NULL. w: gate, up, down. */
kava_status kava_gated_mlp(bool layer_norm, kava_tensor *x, kava_tensor *gamma, kava_tensor *beta, double eps,
                           kava_activation kind, kava_tensor *const *w, kava_tensor *bias, kava_tensor *residual,
                           kava_tensor **out);
#endif

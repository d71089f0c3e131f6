/* ops/norm_linear: linear(layer_norm(x)): the first half of the projector, whose input is a frozen teacher's KV.
 * When x needs no gradient, gamma's and beta's are had without the product dz W, a third of the layer's backward work:
 *   z = (xhat*gamma + beta) W^T + b,  s = column sums of dz,  G = dz^T xhat
 *   dW = G*gamma + s beta^T,  dgamma_j = sum_i W_ij G_ij,  dbeta = W^T s,  db = s
 * since dgamma_j = sum_n (dz W)_nj xhat_nj, and dbeta_j = sum_n (dz W)_nj. */
#ifndef KAVA_OPS_NORM_LINEAR_H
#define KAVA_OPS_NORM_LINEAR_H
#include "tensor/tensor.h"

/* x [..., in]; gamma, beta [in]; w [out, in]; b [out] -> [..., out] */
kava_status kava_op_norm_linear(kava_tensor *x, kava_tensor *gamma, kava_tensor *beta, kava_tensor *w, kava_tensor *b,
                                double eps, kava_tensor **out);
#endif

/* ops/norm: RMS norm and layer norm over the last dimension. x [.., D]; weight, bias [D] or NULL, of any plain float
 * type. y has x's shape, in f32 (f64 when all are f64). */
#ifndef KAVA_OPS_NORM_H
#define KAVA_OPS_NORM_H
#include "tensor/tensor.h"

/* y = x / sqrt(mean(x^2) + eps) * weight */
kava_status kava_op_rms_norm(kava_tensor *x, kava_tensor *weight, double eps, kava_tensor **out);
/* y = (x - mean) / sqrt(var + eps) * weight + bias, var with the divisor D */
kava_status kava_op_layer_norm(kava_tensor *x, kava_tensor *weight, kava_tensor *bias, double eps, kava_tensor **out);
#endif

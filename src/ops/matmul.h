/* ops/matmul: matrix products, batched with broadcasting. */
#ifndef KAVA_OPS_MATMUL_H
#define KAVA_OPS_MATMUL_H
#include "tensor/tensor.h"

/* a [..., M, K] times b [..., K, N] -> [..., M, N]; the leading dimensions broadcast. A vector is a row on the left and
 * a column on the right, and its dimension goes from the result. Floats only; f64 when either is, else f32. */
kava_status kava_op_matmul(kava_tensor *a, kava_tensor *b, kava_tensor **out);
#endif

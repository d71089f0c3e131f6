/* ops/each: the same op on many tensors of one shape. On a GPU they go together, in a few launches for all; elsewhere,
 * and where they are not alike, one by one. */
#ifndef KAVA_OPS_EACH_H
#define KAVA_OPS_EACH_H
#include "tensor/tensor.h"

/* outs[i] = xs[i] ws[i]^T: kava_op_linear of each, without biases. */
kava_status kava_op_linear_each(int count, kava_tensor *const *xs, kava_tensor *const *ws, kava_tensor **outs);
/* The mean over the pairs of kava_op_cosine_loss, all by one mask. */
kava_status kava_op_cosine_each(int count, kava_tensor *const *students, kava_tensor *const *teachers,
                                kava_tensor *mask, kava_tensor **loss);
#endif

/* ops/shape: views that share their source's storage, and joining. Dimensions count from 0, negative ones from the end.
 * A quantised tensor may be reshaped while its innermost dimension stays, and narrowed along its first of several. */
#ifndef KAVA_OPS_SHAPE_H
#define KAVA_OPS_SHAPE_H
#include "tensor/tensor.h"

/* A dimension's index in [0, dims) from one that may count from the end; KAVA_MISUSE naming the op. */
kava_status kava_check_dim(const char *op, const kava_tensor *x, int64_t dim, int *out);
/* The shape that a and b broadcast to; KAVA_MISUSE naming the op and both shapes. */
kava_status kava_broadcast_shape(const char *op, const kava_tensor *a, const kava_tensor *b, int *dims, int64_t *shape);
/* Adds grad (contiguous), shaped like a broadcast of x, to x's gradient: summed over the dimensions x was broadcast
 * along. */
kava_status kava_grad_add_summed(kava_tensor *x, kava_tensor *grad);

/* One size may be -1: it is worked out. Non-contiguous sources are copied when no strides can express the new shape. */
kava_status kava_op_reshape(kava_tensor *x, int dims, const int64_t *shape, kava_tensor **out);
kava_status kava_op_permute(kava_tensor *x, const int *order, kava_tensor **out); /* out.shape[i] = x.shape[order[i]] */
kava_status kava_op_transpose(kava_tensor *x, int64_t dim0, int64_t dim1, kava_tensor **out);
kava_status kava_op_narrow(kava_tensor *x, int64_t dim, int64_t start, int64_t length, kava_tensor **out);
kava_status kava_op_select(kava_tensor *x, int64_t dim, int64_t index, kava_tensor **out); /* drops the dimension */
kava_status kava_op_expand(kava_tensor *x, int dims, const int64_t *shape,
                           kava_tensor **out); /* strides 0 where size 1 grows */
/* Joins along `dim`: all other sizes equal. The types must be equal. stack joins along a new dimension. */
kava_status kava_op_cat(int count, kava_tensor *const *xs, int64_t dim, kava_tensor **out);
kava_status kava_op_stack(int count, kava_tensor *const *xs, int64_t dim, kava_tensor **out);
#endif

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

/* Gives each of xs its slice along `dim` of grad, the gradient of them joined. Columns are left where they are, if
 * nobody else sees grad and a piece's record can read them so: the caller only lets go of grad then. */
kava_status kava_grad_give_slices(int count, kava_tensor *const *xs, const kava_tensor *grad, int dim);
/* The pieces, which fit each other, joined along `dim` as `dtype`; no record. A view of pieces that lie side by side,
 * if their storage was made for it or *out may be `shared` with them; else a copy, on a GPU by one launch. */
kava_status kava_beside(int count, kava_tensor *const *xs, int dim, kava_dtype dtype, bool shared, kava_tensor **out);

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

/* ops/reduce: sums, means, extremes and norms over dimensions (count 0: over all of them), softmax over one dimension.
 * Dimensions count from 0, negative ones from the end; keepdim leaves them with size 1. Integers sum to i64, and
 * their extremes are of their own type; mean, norm and softmax want floats. f16 and bf16 give f32. */
#ifndef KAVA_OPS_REDUCE_H
#define KAVA_OPS_REDUCE_H
#include "tensor/tensor.h"

kava_status kava_op_sum(kava_tensor *x, int count, const int *dims, bool keepdim, kava_tensor **out);
kava_status kava_op_mean(kava_tensor *x, int count, const int *dims, bool keepdim, kava_tensor **out);
/* The gradient goes to the first extreme element of each reduced group. A NaN is handed on. */
kava_status kava_op_max(kava_tensor *x, int count, const int *dims, bool keepdim, kava_tensor **out);
kava_status kava_op_min(kava_tensor *x, int count, const int *dims, bool keepdim, kava_tensor **out);
kava_status kava_op_norm(kava_tensor *x, int count, const int *dims, bool keepdim,
                         kava_tensor **out); /* L2; gradient 0 at 0 */
kava_status kava_op_argmax(kava_tensor *x, int64_t dim, bool keepdim,
                           kava_tensor **out); /* i64, from 0; never recorded */
kava_status kava_op_softmax(kava_tensor *x, int64_t dim, kava_tensor **out);
kava_status kava_op_log_softmax(kava_tensor *x, int64_t dim, kava_tensor **out);

/* Not recorded: the sum of a contiguous f32, f64 or i64 tensor over `dims` (which go), times scale (floats). */
kava_status kava_sum_plain(const kava_tensor *x, int count, const int *dims, double scale, kava_tensor **out);
#endif

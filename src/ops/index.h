/* ops/index: picking slices by number. */
#ifndef KAVA_OPS_INDEX_H
#define KAVA_OPS_INDEX_H
#include "tensor/tensor.h"

/* The slices `ids` (i64 or i32, one dimension, counted from 0) of x along `dim`, in their order; a number may come more
 * than once, and then collects its gradients. KAVA_MISUSE for a number outside the dimension. */
kava_status kava_op_index_select(kava_tensor *x, int64_t dim, kava_tensor *ids, kava_tensor **out);
#endif

/* ops/compare: how far two tensors are apart. No op: it records nothing and returns numbers. */
#ifndef KAVA_OPS_COMPARE_H
#define KAVA_OPS_COMPARE_H
#include "kernels/args.h"
#include "tensor/tensor.h"

/* Compares in double: close when every |a - b| <= atol + rtol |b|. A NaN is far from everything, itself included; equal
 * infinities are 0 apart. Plain types of any kind and strides; the shapes must be equal. */
kava_status kava_compare_close(const kava_tensor *a, const kava_tensor *b, double rtol, double atol,
                               kava_difference *out);
#endif

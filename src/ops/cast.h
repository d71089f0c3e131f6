/* ops/cast: copies and conversions, which the other ops stand on. */
#ifndef KAVA_OPS_CAST_H
#define KAVA_OPS_CAST_H
#include "tensor/tensor.h"

/* dst = src, any strides and plain types; src is broadcast to dst's shape; a quantised src is widened. Not recorded;
 * raises dst's version. The two must not overlap; they may be on two devices. */
kava_status kava_copy_into(kava_tensor *dst, const kava_tensor *src);
/* dst += src for a view `dst` of a float type and src of the same type and shape; used by backward passes. */
kava_status kava_add_into(kava_tensor *dst, const kava_tensor *src);
/* x itself (one more reference) when it is contiguous and of `dtype`, else a contiguous copy. Not recorded. */
kava_status kava_contiguous_as(const kava_tensor *x, kava_dtype dtype, kava_tensor **out);
/* The type an op computes in: f64 for f64, f32 for the other floats (on a GPU their own), i64 for integers and bool;
 * KAVA_MISUSE, naming the op and the argument, for quantised types, and for integers where `floats` only are allowed.
 */
kava_status kava_compute_dtype(const char *op, const char *argument, const kava_tensor *x, bool floats,
                               kava_dtype *out);

/* Recorded. x itself when nothing is to be done. Conversions to integers carry no gradient. */
kava_status kava_op_cast(kava_tensor *x, kava_dtype dtype, kava_tensor **out);
kava_status kava_op_contiguous(kava_tensor *x, kava_tensor **out);
kava_status kava_op_clone(kava_tensor *x, kava_tensor **out); /* a contiguous copy in storage of its own */
/* To another device, contiguous; KAVA_UNSUPPORTED where that is not here. */
kava_status kava_op_move(kava_tensor *x, kava_device device, kava_tensor **out);
#endif

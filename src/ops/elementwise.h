/* ops/elementwise: arithmetic. Binary ops broadcast (sizes of 1 and missing leading dimensions stretch).
 * Types: f64 with any float gives f64; other floats (f16 and bf16 included), and a float with an integer, give f32;
 * equal integer types give their own, mixed ones and bool give i64. */
#ifndef KAVA_OPS_ELEMENTWISE_H
#define KAVA_OPS_ELEMENTWISE_H
#include "kernels/args.h"
#include "tensor/tensor.h"

kava_status kava_op_add(kava_tensor *a, kava_tensor *b, kava_tensor **out);
kava_status kava_op_sub(kava_tensor *a, kava_tensor *b, kava_tensor **out);
kava_status kava_op_mul(kava_tensor *a, kava_tensor *b, kava_tensor **out);
kava_status kava_op_div(kava_tensor *a, kava_tensor *b, kava_tensor **out);   /* floats only */
kava_status kava_op_power(kava_tensor *a, kava_tensor *b, kava_tensor **out); /* a^b, elementwise */
/* KAVA_EQ … KAVA_GE -> bool; never recorded */
kava_status kava_op_compare(kava_binary op, kava_tensor *a, kava_tensor *b, kava_tensor **out);
/* condition (bool) ? a : b, all three broadcast; a and b of one type */
kava_status kava_op_where(kava_tensor *condition, kava_tensor *a, kava_tensor *b, kava_tensor **out);

/* scale*x + shift; an integer tensor wants whole numbers */
kava_status kava_op_affine(kava_tensor *x, double scale, double shift, kava_tensor **out);
kava_status kava_op_scale(kava_tensor *x, double scale, kava_tensor **out);
kava_status kava_op_neg(kava_tensor *x, kava_tensor **out);
kava_status kava_op_abs(kava_tensor *x, kava_tensor **out);                            /* derivative 0 at 0 */
kava_status kava_op_clamp(kava_tensor *x, double low, double high, kava_tensor **out); /* no gradient outside */
kava_status kava_op_pow(kava_tensor *x, double exponent, kava_tensor **out);
/* floats only */
kava_status kava_op_exp(kava_tensor *x, kava_tensor **out);
kava_status kava_op_log(kava_tensor *x, kava_tensor **out);
kava_status kava_op_sqrt(kava_tensor *x, kava_tensor **out);
kava_status kava_op_tanh(kava_tensor *x, kava_tensor **out);
kava_status kava_op_sigmoid(kava_tensor *x, kava_tensor **out);
kava_status kava_op_reciprocal(kava_tensor *x, double numerator, kava_tensor **out); /* numerator / x */
#endif

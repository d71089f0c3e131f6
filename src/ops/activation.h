/* ops/activation: elementwise nonlinearities, alone, before a dropout and as the gate of an MLP. f32 (f64 for f64);
 * shapes kept. */
#ifndef KAVA_OPS_ACTIVATION_H
#define KAVA_OPS_ACTIVATION_H
#include "kernels/kernels.h"
#include "tape/node.h"
#include "tensor/tensor.h"

kava_status kava_op_silu(kava_tensor *x, kava_tensor **out);      /* x * sigmoid(x) */
kava_status kava_op_gelu(kava_tensor *x, kava_tensor **out);      /* x * Phi(x), Phi the normal distribution function */
kava_status kava_op_gelu_tanh(kava_tensor *x, kava_tensor **out); /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
kava_status kava_op_relu(kava_tensor *x, kava_tensor **out);      /* max(x, 0) */
/* kava_op_dropout of that with probability p, in one pass: the same numbers, and the same random numbers drawn. */
kava_status kava_activation_dropped(kava_activation kind, kava_tensor *x, double p, kava_tensor **out);
kava_status kava_op_softcap(kava_tensor *x, double c, kava_tensor **out);              /* c tanh(x/c), c > 0 */
kava_status kava_op_swiglu(kava_tensor *gate, kava_tensor *up, kava_tensor **out);     /* silu(gate) * up */
kava_status kava_op_geglu(kava_tensor *gate, kava_tensor *up, kava_tensor **out);      /* gelu(gate) * up */
kava_status kava_op_geglu_tanh(kava_tensor *gate, kava_tensor *up, kava_tensor **out); /* gelu_tanh(gate) * up */
/* Records y as f(gate) * up, for who made it together with the two: of one type, rows alike. */
kava_status kava_gated_record(kava_activation kind, kava_tensor *gate, kava_tensor *up, kava_tensor *y);
/* For who goes back over such a record and what reads its output at once (kava_tape_alone): gated_grad's arguments, all
 * but grad, with the gradients in the place of gate and up; *y, made once more, is the caller's. NULL: it is another
 * record, or its inputs have gradients elsewhere; nothing was done. */
kava_status kava_gated_in_place(kava_node *node, kava_gated_args *a, kava_tensor **y);
#endif

/* ops/activation: elementwise nonlinearities, alone and as the gate of an MLP. f32 (f64 for f64); shapes kept. */
#ifndef KAVA_OPS_ACTIVATION_H
#define KAVA_OPS_ACTIVATION_H
#include "kernels/kernels.h"
#include "tensor/tensor.h"

kava_status kava_op_silu(kava_tensor *x, kava_tensor **out);      /* x * sigmoid(x) */
kava_status kava_op_gelu(kava_tensor *x, kava_tensor **out);      /* x * Phi(x), Phi the normal distribution function */
kava_status kava_op_gelu_tanh(kava_tensor *x, kava_tensor **out); /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
kava_status kava_op_relu(kava_tensor *x, kava_tensor **out);      /* max(x, 0) */
kava_status kava_op_softcap(kava_tensor *x, double c, kava_tensor **out);              /* c tanh(x/c), c > 0 */
kava_status kava_op_swiglu(kava_tensor *gate, kava_tensor *up, kava_tensor **out);     /* silu(gate) * up */
kava_status kava_op_geglu(kava_tensor *gate, kava_tensor *up, kava_tensor **out);      /* gelu(gate) * up */
kava_status kava_op_geglu_tanh(kava_tensor *gate, kava_tensor *up, kava_tensor **out); /* gelu_tanh(gate) * up */
/* Records y as f(gate) * up, for who made it together with the two: of one type, rows alike. */
kava_status kava_gated_record(kava_activation kind, kava_tensor *gate, kava_tensor *up, kava_tensor *y);
#endif

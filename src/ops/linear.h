/* ops/linear: linear layers. */
#ifndef KAVA_OPS_LINEAR_H
#define KAVA_OPS_LINEAR_H
#include "kernels/kernels.h"
#include "tape/tape.h"

/* y[..., out] = x[..., in] W^T + bias. w: [out, in] of any float or quantised dtype; bias: [out] or NULL. x, w and bias
 * are all f64 or none is; y is f64 then, else f32. A quantised w gets no gradient. KAVA_MISUSE names shapes and types.
 */
kava_status kava_op_linear(kava_tensor *x, kava_tensor *w, kava_tensor *bias, kava_tensor **out);

/* residual + y, of y's shape. On a GPU in one, where types and layouts allow: the sum is rounded once, not twice. */
kava_status kava_op_linear_added(kava_tensor *x, kava_tensor *w, kava_tensor *bias, kava_tensor *residual,
                                 kava_tensor **out);
/* Whether a kernel can add `residual` to a product of x and w before it is rounded. */
bool kava_linear_adds(const kava_tensor *x, const kava_tensor *w, const kava_tensor *residual);

/* *out = (f(gate) up) W^T + bias + residual (NULL: none) where the device has that in one and nothing is recorded: fp8
 * codes on a GPU; elsewhere *out is NULL, and the caller takes swiglu or its like, and linear. */
kava_status kava_linear_gated(kava_activation kind, kava_tensor *gate, kava_tensor *up, kava_tensor *w,
                              kava_tensor *bias, kava_tensor *residual, kava_tensor **out);

/* Several linear layers of one x as one product: `count` weights [out_i, in] that lie behind one another in a storage
 * (rows of one matrix), and as many biases (or NULL) that do. y's rows are cut into `parts` parts, which need not be
 * the weights' own: outs[0 .. parts), views of one buffer. KAVA_MISUSE unless kava_linear_joins. */
#define KAVA_LINEAR_PARTS 4
bool kava_linear_joins(int count, kava_tensor *const *w, kava_tensor *const *bias);
kava_status kava_op_linear_joined(kava_tensor *x, int count, kava_tensor *const *w, kava_tensor *const *bias, int parts,
                                  const kava_part *part, kava_tensor **outs);
/* The same of a gate's and an up's weights, cut into these two parts: where the device has it in one, *act = f(outs[0])
 * outs[1] as well, recorded as swiglu or its like is; where nothing is recorded, outs are NULL then. Else *act is NULL.
 */
kava_status kava_op_linear_gate_up(kava_activation kind, kava_tensor *x, int count, kava_tensor *const *w,
                                   kava_tensor *const *bias, const kava_part *part, kava_tensor **outs,
                                   kava_tensor **act);

/* How linear layers multiply from now on: KAVA_F32, or KAVA_BF16 = operands rounded to bf16, summed in f32. A backward
 * pass uses what its forward pass used. KAVA_MISUSE for any other type. */
kava_status kava_set_matmul_precision(kava_dtype precision);
kava_dtype kava_matmul_precision(void);
#endif

/* ops/quantise: a float tensor in one of the quantised types that KAVA can make. Not recorded: no gradient. */
#ifndef KAVA_OPS_QUANTISE_H
#define KAVA_OPS_QUANTISE_H
#include "tensor/tensor.h"

/* x: any float type, its innermost dimension whole blocks; dtype: q4_0, q4_1 or q8_0. Rounds to nearest as GGUF's
 * reference quantisers do. KAVA_MISUSE where a value is not finite; KAVA_UNSUPPORTED for other types. */
kava_status kava_op_quantise(kava_tensor *x, kava_dtype dtype, kava_tensor **out);
#endif

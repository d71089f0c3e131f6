/* ops/quantise: a float tensor in one of the quantised types that KAVA can make: GGUF's blocks, or codes with scales
 * beside them. Not recorded: no gradient. */
#ifndef KAVA_OPS_QUANTISE_H
#define KAVA_OPS_QUANTISE_H
#include "tensor/tensor.h"

/* x: any float type, its innermost dimension whole blocks; dtype: q4_0, q4_1 or q8_0. Rounds to nearest as GGUF's
 * reference quantisers do. KAVA_MISUSE where a value is not finite; KAVA_UNSUPPORTED for other types. */
kava_status kava_op_quantise(kava_tensor *x, kava_dtype dtype, kava_tensor **out);

typedef enum kava_encoding {
  KAVA_ENCODE_NF4,
  KAVA_ENCODE_NF4_DQ,
  KAVA_ENCODE_INT8,
  KAVA_ENCODE_FP8,
  KAVA_ENCODE_FP8_ROWS
} kava_encoding;
bool kava_encoding_parse(const char *name, kava_encoding *out); /* "nf4", "nf4-dq", "int8", "fp8", "fp8-rows" */
/* A float matrix as codes and scales, rounded to nearest, on the device where it is; the codes are the same on each:
 *   nf4, nf4-dq  as bitsandbytes does: a scale for 64 elements, over rows' ends; dq: the scales, less their mean, in 8
 *                bits. Values are rounded to x's type
 *   int8         as bitsandbytes' LLM.int8: a scale a row
 *   fp8          e4m3, a scale for 128 x 128
 *   fp8-rows     e4m3, a scale a row: the form in which a GPU multiplies without widening (kernels/cuda/fp8.cu)
 * KAVA_MISUSE where x is no float matrix or a value is not finite; KAVA_UNSUPPORTED for nf4 of rows of odd length. */
kava_status kava_op_encode(kava_tensor *x, kava_encoding encoding, kava_tensor **out);
#endif

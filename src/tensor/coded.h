/* tensor/coded: matrices of codes whose scales lie in other tensors: how bitsandbytes, GPTQ, AWQ, compressed-tensors
 * and fp8 checkpoints hold a weight. Nothing is copied: the parts are used as they are, mapped files included. */
#ifndef KAVA_TENSOR_CODED_H
#define KAVA_TENSOR_CODED_H
#include "tensor/tensor.h"

typedef struct kava_coded {
  kava_dtype dtype; /* nf4 ... fp8 */
  int64_t rows, columns;
  kava_tensor *codes; /* as many bytes as that takes, in any shape */
  int64_t group,
      group_rows; /* a scale serves so many columns of so many rows; flat: so many elements, over rows' ends */
  bool flat;
  kava_tensor *scales;   /* f32, f16 or bf16, or u8 with map, outer, outer_group and offset (kava_scaling) */
  kava_tensor *zeros;    /* NULL: `zero`. u8, of int8 codes i8; as many as scales */
  kava_tensor *group_of; /* NULL, or i32 [columns]: each column's group; then scales are [.., groups] */
  kava_tensor *map, *outer;
  int64_t outer_group;
  double offset, zero;
  kava_dtype round; /* of values: f32, f16 or bf16 */
} kava_coded;

/* Retains the parts. KAVA_FORMAT names the part that does not fit and what would. */
kava_status kava_coded_new(const kava_coded *parts, kava_tensor **out);
#endif

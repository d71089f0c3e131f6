#include "ops/quantise.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "ops/cast.h"
#include <math.h>

typedef struct quantising {
  kava_dtype type;
  const float *from;
  uint8_t *to;
} quantising;

static void quantise_blocks(void *ctx, int64_t begin, int64_t end) {
  const quantising *q = ctx;
  int block = kava_dtype_block(q->type), bytes = kava_dtype_block_bytes(q->type);
  kava_kernels_cpu()->narrow(q->type, q->from + begin * block, q->to + begin * bytes, (end - begin) * block);
}

kava_status kava_op_quantise(kava_tensor *x, kava_dtype dtype, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *plain = NULL, *y = NULL;
  if (dtype != KAVA_Q4_0 && dtype != KAVA_Q4_1 && dtype != KAVA_Q8_0)
    KAVA_FAIL(KAVA_UNSUPPORTED, "quantise: to %s; q4_0, q4_1 and q8_0 are known", kava_dtype_name(dtype));
  if (!kava_dtype_is_float(x->dtype))
    KAVA_FAIL(KAVA_MISUSE, "quantise: a float tensor expected, got %s", kava_dtype_name(x->dtype));
  KAVA_TRY(kava_contiguous_as(x, KAVA_F32, &plain));
  int64_t count = kava_tensor_numel(plain);
  const float *from = kava_f32(plain);
  for (int64_t i = 0; i < count; i++)
    if (!isfinite(from[i])) KAVA_FAIL(KAVA_MISUSE, "quantise: element %lld is %g", (long long)i + 1, (double)from[i]);
  KAVA_TRY(kava_tensor_empty_like(plain, dtype, &y));
  quantising q = {dtype, from, kava_tensor_data(y)};
  kava_parallel(count / kava_dtype_block(dtype), 1024, quantise_blocks, &q);
  *out = y;
out:
  kava_tensor_release(&plain);
  return st;
}

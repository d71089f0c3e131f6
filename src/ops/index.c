/* ops/index: index_select. x is [outer, n, inner]; y[o, j, :] = x[o, ids[j], :]; backward: gx[o, ids[j], :] += gy[o, j,
 * :]. */
#include "ops/index.h"
#include "ops/cast.h"
#include "ops/shape.h"
#include "tape/tape.h"
#include <string.h>

static void extents(const kava_tensor *x, int dim, int64_t *outer, int64_t *inner) {
  *outer = *inner = 1;
  for (int d = 0; d < dim; d++) *outer *= x->shape[d];
  for (int d = dim + 1; d < x->dims; d++) *inner *= x->shape[d];
}

/* saved[0]: ids (i64, contiguous); integers[0]: dim. In the order of j, so that repeated numbers always sum alike. */
static kava_status index_select_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor *x = node->inputs[0], *into;
  int dim = (int)node->integers[0];
  kava_status st = kava_grad_into_zeroed(x, &into);
  if (st != KAVA_OK || !into) return st;
  int64_t outer, inner, n = x->shape[dim], count = grad->shape[dim];
  const int64_t *ids = kava_i64(node->saved[0]);
  extents(x, dim, &outer, &inner);
  for (int64_t o = 0; o < outer; o++) {
    for (int64_t j = 0; j < count; j++) {
      int64_t to = (o * n + ids[j]) * inner, from = (o * count + j) * inner;
      if (grad->dtype == KAVA_F64)
        for (int64_t i = 0; i < inner; i++) kava_f64(into)[to + i] += kava_f64(grad)[from + i];
      else
        for (int64_t i = 0; i < inner; i++) kava_f32(into)[to + i] += kava_f32(grad)[from + i];
    }
  }
  return KAVA_OK;
}

kava_status kava_op_index_select(kava_tensor *x, int64_t dim, kava_tensor *ids, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *whole = NULL, *numbers = NULL, *y = NULL;
  kava_node *node;
  int at;
  int64_t outer, inner, shape[KAVA_MAX_DIMS];
  KAVA_TRY(kava_check_dim("index_select", x, dim, &at));
  if (ids->dims != 1 || (ids->dtype != KAVA_I64 && ids->dtype != KAVA_I32))
    KAVA_FAIL(KAVA_MISUSE, "index_select: the numbers are %s with %d dimensions, i64 or i32 with one is expected",
              kava_dtype_name(ids->dtype), ids->dims);
  if (kava_dtype_is_quantised(x->dtype))
    KAVA_FAIL(KAVA_MISUSE, "index_select: the tensor is %s, a plain type is expected", kava_dtype_name(x->dtype));
  KAVA_TRY(kava_contiguous_as(x, x->dtype, &whole));
  KAVA_TRY(kava_contiguous_as(ids, KAVA_I64, &numbers));
  int64_t count = ids->shape[0];
  for (int64_t j = 0; j < count; j++)
    if (kava_i64(numbers)[j] < 0 || kava_i64(numbers)[j] >= x->shape[at])
      KAVA_FAIL(KAVA_MISUSE, "index_select: element %lld of the numbers is %lld, dimension %d has %lld",
                (long long)j + 1, (long long)kava_i64(numbers)[j], at + 1, (long long)x->shape[at]);
  memcpy(shape, x->shape, sizeof shape);
  shape[at] = count;
  KAVA_TRY(kava_tensor_new(x->dtype, x->dims, shape, &y));
  extents(x, at, &outer, &inner);
  size_t bytes = (size_t)inner * (size_t)kava_dtype_block_bytes(x->dtype);
  char *to = kava_tensor_data(y);
  const char *from = kava_tensor_data(whole);
  for (int64_t o = 0; o < outer && bytes > 0; o++)
    for (int64_t j = 0; j < count; j++, to += bytes)
      memcpy(to, from + (size_t)(o * x->shape[at] + kava_i64(numbers)[j]) * bytes, bytes);
  if (kava_dtype_is_float(x->dtype) && kava_tape_wanted(&x, 1)) {
    KAVA_TRY(kava_tape_record("index_select", index_select_backward, 1, &x, y, &node));
    node->integers[0] = at;
    if (numbers == ids) { /* the caller's own numbers may change before the backward pass */
      kava_tensor_release(&numbers);
      KAVA_TRY(kava_op_clone(ids, &numbers));
    }
    KAVA_TRY(kava_tape_save(node, 0, numbers));
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&whole);
  kava_tensor_release(&numbers);
  kava_tensor_release(&y);
  return st;
}

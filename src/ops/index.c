/* ops/index: index_select. x is [outer, n, inner]; y[o, j, :] = x[o, ids[j], :]; backward: gx[o, ids[j], :] += gy[o, j,
 * :]. */
#include "ops/index.h"
#include "kernels/kernels.h"
#include "ops/cast.h"
#include "ops/shape.h"
#include "tape/tape.h"
#include <string.h>

static void extents(const kava_tensor *x, int dim, int64_t *outer, int64_t *inner) {
  *outer = *inner = 1;
  for (int d = 0; d < dim; d++) *outer *= x->shape[d];
  for (int d = dim + 1; d < x->dims; d++) *inner *= x->shape[d];
}

static kava_gather_args arguments(const kava_tensor *x, int dim, const kava_tensor *ids, kava_dtype dtype) {
  kava_gather_args a = {.dtype = dtype,
                        .from = dtype,
                        .rows = x->shape[dim],
                        .count = kava_tensor_numel(ids),
                        .ids = kava_i64(ids),
                        .pad = -1};
  extents(x, dim, &a.outer, &a.inner);
  return a;
}

/* saved[0]: ids (i64, contiguous); integers[0]: dim. In the order of j, so that repeated numbers always sum alike. */
static kava_status index_select_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *into;
  KAVA_TRY(kava_grad_into_zeroed(node->inputs[0], &into));
  if (!into) return st;
  kava_gather_args a = arguments(into, (int)node->integers[0], node->saved[0], grad->dtype);
  a.grad = kava_tensor_data(grad);
  a.dx = kava_tensor_data(into);
  KAVA_RUN_TRY(grad->device, gather_grad, &a);
out:
  return st;
}

kava_status kava_op_index_select(kava_tensor *x, int64_t dim, kava_tensor *ids, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *whole = NULL, *given = NULL, *numbers = NULL, *y = NULL;
  kava_node *node;
  int at;
  int64_t shape[KAVA_MAX_DIMS];
  KAVA_TRY(kava_check_dim("index_select", x, dim, &at));
  if (ids->dims != 1 || (ids->dtype != KAVA_I64 && ids->dtype != KAVA_I32))
    KAVA_FAIL(KAVA_MISUSE, "index_select: the numbers are %s with %d dimensions, i64 or i32 with one is expected",
              kava_dtype_name(ids->dtype), ids->dims);
  if (kava_dtype_is_quantised(x->dtype))
    KAVA_FAIL(KAVA_MISUSE, "index_select: the tensor is %s, a plain type is expected", kava_dtype_name(x->dtype));
  KAVA_TRY(kava_contiguous_as(x, x->dtype, &whole));
  KAVA_TRY(kava_contiguous_as(ids, KAVA_I64, &given));
  int64_t count = ids->shape[0];
  for (int64_t j = 0; j < count && ids->device == KAVA_CPU; j++)
    if (kava_i64(given)[j] < 0 || kava_i64(given)[j] >= x->shape[at])
      KAVA_FAIL(KAVA_MISUSE, "index_select: element %lld of the numbers is %lld, dimension %d has %lld",
                (long long)j + 1, (long long)kava_i64(given)[j], at + 1, (long long)x->shape[at]);
  KAVA_TRY(kava_tensor_on(given, x->device, &numbers));
  memcpy(shape, x->shape, sizeof shape);
  shape[at] = count;
  KAVA_TRY(kava_tensor_new_on(x->device, x->dtype, x->dims, shape, &y));
  kava_gather_args a = arguments(whole, at, numbers, x->dtype);
  a.x = kava_tensor_data(whole);
  a.y = kava_tensor_data(y);
  if (kava_tensor_numel(y)) KAVA_RUN(x->device, gather, &a);
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
  kava_tensor_release(&given);
  kava_tensor_release(&whole);
  kava_tensor_release(&numbers);
  kava_tensor_release(&y);
  return st;
}

#include "ops/embedding.h"
#include "kernels/kernels.h"
#include "ops/linear.h"
#include "ops/operand.h"
#include "tape/tape.h"
#include "tensor/rows.h"
#include <string.h>

/* Whether w's gradient need not have all its rows: fewer were looked up than there are, and nothing else (a tied head)
 * has given one to all. */
static bool few_rows(const kava_tensor *w, int64_t count, const kava_tensor *grad) {
  int64_t used = w->grad_rows ? w->grad_rows->used : 0;
  return w->device != KAVA_CPU && w->requires_grad && !w->node && !w->grad && grad->dtype != KAVA_F64 && count > 0 &&
         used + count < w->shape[0] && used + count < INT32_MAX &&
         (kava_grad_dtype(w) == grad->dtype || kava_grad_dtype(w) == KAVA_F32);
}

/* node: input w; saved[0] ids, i64 contiguous; integers[0] pad */
static kava_status embedding_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *ids = node->saved[0], *w = node->inputs[0], *dw;
  int64_t count = kava_tensor_numel(ids);
  bool add;
  if (few_rows(w, count, grad)) {
    KAVA_TRY(kava_rows_room(w, kava_grad_dtype(w), count));
    struct kava_rows *r = w->grad_rows;
    KAVA_TRY(kava_device_copy(w->device, kava_i64(r->ids) + r->used, ids->device, kava_i64(ids),
                              (size_t)count * sizeof(int64_t)));
    kava_gather_args a = {.dtype = grad->dtype,
                          .from = grad->dtype,
                          .outer = 1,
                          .rows = w->shape[0],
                          .inner = w->shape[1],
                          .count = count,
                          .ids = kava_i64(ids),
                          .grad = kava_tensor_data(grad),
                          .dx = kava_tensor_data(r->values),
                          .dx_half = r->values->dtype != KAVA_F32,
                          .pad = node->integers[0],
                          .slots = kava_i32(r->slots),
                          .base = r->used};
    KAVA_RUN_TRY(grad->device, gather_grad, &a);
    r->used += count;
    goto out;
  }
  KAVA_TRY(kava_grad_into_half(node->inputs[0], grad->dtype, &dw, &add));
  if (!dw) return st;
  if (!add) KAVA_TRY(kava_tensor_clear(dw));
  kava_gather_args a = {.dtype = grad->dtype,
                        .from = grad->dtype,
                        .outer = 1,
                        .rows = dw->shape[0],
                        .inner = dw->shape[1],
                        .count = count,
                        .ids = kava_i64(ids),
                        .grad = kava_tensor_data(grad),
                        .dx = kava_tensor_data(dw),
                        .dx_half = dw->dtype != kava_dtype_wide(grad->dtype),
                        .pad = node->integers[0]};
  if (a.count) KAVA_RUN_TRY(grad->device, gather_grad, &a);
out:
  return st;
}

kava_status kava_check_ids(const char *op, const char *what, const kava_tensor *ids, int64_t most) {
  int64_t count = kava_tensor_numel(ids);
  for (int64_t i = 0; i < count && ids->device == KAVA_CPU; i++)
    if (kava_i64(ids)[i] < 0 || kava_i64(ids)[i] >= most)
      return kava_fail(KAVA_MISUSE, "%s: id %lld at position %lld is outside %s of %lld", op,
                       (long long)kava_i64(ids)[i], (long long)i + 1, what, (long long)most);
  return KAVA_OK;
}

kava_status kava_op_embedding(kava_tensor *ids, kava_tensor *w, int64_t pad, kava_tensor **out) {
  static const char op[] = "embedding";
  kava_status st = KAVA_OK;
  kava_tensor *given = NULL, *where = NULL, *table = NULL, *y = NULL;
  kava_node *node;
  int64_t shape[KAVA_MAX_DIMS];
  char came[96];
  if (w->dims != 2 || (!kava_dtype_is_float(w->dtype) && !kava_dtype_is_quantised(w->dtype))) {
    kava_shape_format(w->dims, w->shape, came, sizeof came);
    KAVA_FAIL(KAVA_MISUSE, "embedding: the table is %s %s; [V, D] of a float or quantised type expected",
              kava_dtype_name(w->dtype), came);
  }
  if (ids->dims >= KAVA_MAX_DIMS)
    KAVA_FAIL(KAVA_MISUSE, "embedding: ids have %d dimensions; at most %d expected", ids->dims, KAVA_MAX_DIMS - 1);
  KAVA_TRY(kava_operand_ids(op, "ids", ids, ids->device, &given));
  KAVA_TRY(kava_check_ids(op, "the vocabulary", given, w->shape[0]));
  KAVA_TRY(kava_tensor_on(given, w->device, &where));
  if (kava_tensor_is_contiguous(w))
    table = kava_tensor_retain(w);
  else
    KAVA_TRY(kava_operand(op, "w", w, w->dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32, &table));
  int64_t count = kava_tensor_numel(where), width = w->shape[1];
  kava_dtype dtype =
      w->device == KAVA_CPU || w->dtype == KAVA_F64 ? kava_dtype_wide(w->dtype) : kava_matmul_precision();
  memcpy(shape, ids->shape, sizeof shape);
  shape[ids->dims] = width;
  KAVA_TRY(kava_tensor_new_on(w->device, dtype, ids->dims + 1, shape, &y));
  kava_gather_args a = {.dtype = dtype,
                        .from = table->dtype,
                        .outer = 1,
                        .rows = w->shape[0],
                        .inner = width,
                        .count = count,
                        .ids = kava_i64(where),
                        .x = kava_tensor_data(table),
                        .scaling = kava_tensor_scaling(table),
                        .first = kava_tensor_first_row(table),
                        .y = kava_tensor_data(y)};
  if (count) KAVA_RUN(w->device, gather, &a);
  if (kava_tape_wanted(&w, 1)) {
    KAVA_TRY(kava_tape_record(op, embedding_backward, 1, &w, y, &node));
    KAVA_TRY(kava_tape_save(node, 0, where));
    node->integers[0] = pad < 0 ? -1 : pad;
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&given);
  kava_tensor_release(&where);
  kava_tensor_release(&table);
  kava_tensor_release(&y);
  return st;
}

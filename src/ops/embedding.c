#include "ops/embedding.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "ops/operand.h"
#include "tape/tape.h"
#include <stdlib.h>
#include <string.h>

typedef struct place {
  int64_t id, position;
} place;

static int by_id_then_position(const void *a, const void *b) {
  const place *x = a, *y = b;
  if (x->id != y->id) return x->id < y->id ? -1 : 1;
  return x->position < y->position ? -1 : x->position > y->position;
}

/* node: inputs NULL (ids), w; saved[0] ids, i64 contiguous; integers[0] pad */
static kava_status embedding_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *ids = node->saved[0], *dw;
  int64_t count = kava_tensor_numel(ids), *order = NULL, *first = NULL;
  place *places = NULL;
  KAVA_TRY(kava_grad_into_zeroed(node->inputs[0], &dw));
  if (!dw || count == 0) return st;
  places = kava_alloc((size_t)count * sizeof *places);
  order = kava_alloc((size_t)count * sizeof *order);
  first = kava_alloc(((size_t)count + 1) * sizeof *first);
  if (!places || !order || !first) {
    st = KAVA_MEMORY;
    goto out;
  }
  int64_t all = count;
  count = 0;
  for (int64_t i = 0; i < all; i++)
    if (kava_i64(ids)[i] != node->integers[0]) places[count++] = (place){kava_i64(ids)[i], i};
  qsort(places, (size_t)count, sizeof *places, by_id_then_position);
  int64_t unique = 0;
  for (int64_t i = 0; i < count; i++) {
    order[i] = places[i].position;
    if (i == 0 || places[i].id != places[i - 1].id) first[unique++] = i;
  }
  first[unique] = count;
  kava_embedding_args a = {.dtype = grad->dtype,
                           .unique = unique,
                           .width = dw->shape[1],
                           .ids = kava_i64(ids),
                           .order = order,
                           .first = first,
                           .grad = kava_tensor_data(grad),
                           .dw = kava_tensor_data(dw)};
  kava_kernels_cpu()->embedding_grad(&a);
out:
  kava_free(places);
  kava_free(order);
  kava_free(first);
  return st;
}

typedef struct gather_job {
  kava_dtype dtype;
  const char *w;
  const kava_scaling *scaling;
  int64_t first;
  size_t row_bytes;
  int64_t width;
  const int64_t *ids;
  float *y;
} gather_job;

static void gather(void *ctx, int64_t begin, int64_t end) {
  const gather_job *job = ctx;
  for (int64_t i = begin; i < end; i++) {
    const char *row = job->w + (size_t)job->ids[i] * job->row_bytes;
    if (job->dtype == KAVA_F32)
      memcpy(job->y + i * job->width, row, job->row_bytes);
    else if (job->dtype == KAVA_F64)
      memcpy((double *)job->y + i * job->width, row, job->row_bytes);
    else if (job->scaling)
      kava_kernels_cpu()->widen_scaled(job->dtype, row, job->scaling, job->first + job->ids[i], 0,
                                       job->y + i * job->width, job->width);
    else
      kava_kernels_cpu()->widen(job->dtype, row, job->y + i * job->width, job->width);
  }
}

kava_status kava_op_embedding(kava_tensor *ids, kava_tensor *w, int64_t pad, kava_tensor **out) {
  static const char op[] = "embedding";
  kava_status st = KAVA_OK;
  kava_tensor *where = NULL, *table = NULL, *y = NULL;
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
  KAVA_TRY(kava_operand_ids(op, "ids", ids, &where));
  if (kava_tensor_is_contiguous(w))
    table = kava_tensor_retain(w);
  else
    KAVA_TRY(kava_operand(op, "w", w, w->dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32, &table));
  int64_t count = kava_tensor_numel(where), vocabulary = w->shape[0], width = w->shape[1];
  for (int64_t i = 0; i < count; i++)
    if (kava_i64(where)[i] < 0 || kava_i64(where)[i] >= vocabulary)
      KAVA_FAIL(KAVA_MISUSE, "embedding: id %lld at position %lld is outside the vocabulary of %lld",
                (long long)kava_i64(where)[i], (long long)i + 1, (long long)vocabulary);
  memcpy(shape, ids->shape, sizeof shape);
  shape[ids->dims] = width;
  KAVA_TRY(kava_tensor_new(w->dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32, ids->dims + 1, shape, &y));
  gather_job job = {.dtype = table->dtype,
                    .w = kava_tensor_data(table),
                    .scaling = kava_tensor_scaling(table),
                    .first = kava_tensor_first_row(table),
                    .row_bytes =
                        (size_t)(width / kava_dtype_block(table->dtype)) * (size_t)kava_dtype_block_bytes(table->dtype),
                    .width = width,
                    .ids = kava_i64(where),
                    .y = kava_tensor_data(y)};
  kava_parallel(count, 64, gather, &job);
  if (kava_tape_wanted(&w, 1)) {
    KAVA_TRY(kava_tape_record(op, embedding_backward, 1, &w, y, &node));
    KAVA_TRY(kava_tape_save(node, 0, where));
    node->integers[0] = pad < 0 ? -1 : pad;
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&where);
  kava_tensor_release(&table);
  kava_tensor_release(&y);
  return st;
}

#include "tensor/rows.h"
#include "kernels/kernels.h"

void kava_rows_release(struct kava_rows **at) {
  struct kava_rows *r = *at;
  *at = NULL;
  if (!r) return;
  kava_tensor_release(&r->values);
  kava_tensor_release(&r->ids);
  kava_tensor_release(&r->slots);
  kava_free(r);
}

/* A tensor of `room` rows that begins as *t does. */
static kava_status grow(kava_tensor **t, int64_t room, int64_t used) {
  kava_status st = KAVA_OK;
  kava_tensor *more = NULL, *old = *t;
  int64_t shape[2] = {room, old->shape[1]};
  KAVA_TRY(kava_tensor_new_on(old->device, old->dtype, old->dims, shape, &more));
  size_t bytes = (size_t)(used * (old->dims == 2 ? old->shape[1] : 1) * kava_dtype_block_bytes(old->dtype));
  KAVA_TRY(kava_device_copy(more->device, kava_tensor_data(more), old->device, kava_tensor_data(old), bytes));
  *t = more;
  more = old;
out:
  kava_tensor_release(&more);
  return st;
}

kava_status kava_rows_room(kava_tensor *t, kava_dtype dtype, int64_t count) {
  kava_status st = KAVA_OK;
  struct kava_rows *r = t->grad_rows, *made = NULL;
  if (r) {
    int64_t room = r->values->shape[0];
    if (r->used + count <= room) return KAVA_OK;
    room = 2 * room > r->used + count ? 2 * room : r->used + count;
    KAVA_TRY(grow(&r->ids, room, r->used)); /* first: the room is what values have */
    return grow(&r->values, room, r->used);
  }
  made = kava_calloc(1, sizeof *made);
  if (!made) return KAVA_MEMORY;
  KAVA_TRY(kava_tensor_new_on(t->device, dtype, 2, (int64_t[]){count, t->shape[1]}, &made->values));
  KAVA_TRY(kava_tensor_new_on(t->device, KAVA_I64, 1, &count, &made->ids));
  KAVA_TRY(kava_tensor_full_on(t->device, KAVA_I32, 1, t->shape, 0, -1, &made->slots));
  t->grad_rows = made;
  made = NULL;
out:
  kava_rows_release(&made);
  return st;
}

kava_status kava_rows_spread(kava_tensor *t) {
  kava_status st = KAVA_OK;
  struct kava_rows *r = t->grad_rows;
  kava_tensor *grad = NULL;
  KAVA_TRY(kava_tensor_zeros_on(t->device, r->values->dtype, 2, t->shape, &grad));
  kava_dtype dtype = r->values->dtype;
  kava_gather_args a = {.dtype = dtype,
                        .from = dtype,
                        .outer = 1,
                        .rows = t->shape[0],
                        .inner = t->shape[1],
                        .count = r->used,
                        .ids = kava_i64(r->ids),
                        .grad = kava_tensor_data(r->values),
                        .dx = kava_tensor_data(grad),
                        .dx_half = dtype != KAVA_F32,
                        .pad = -1};
  if (a.count) KAVA_RUN_TRY(t->device, gather_grad, &a);
  t->grad = grad;
  grad = NULL;
  kava_rows_release(&t->grad_rows);
out:
  kava_tensor_release(&grad);
  return st;
}

#include "ops/dropout.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "ops/operand.h"
#include "tape/tape.h"

/* What a step that was recorded and runs again adds to the stream. */
static const uint64_t *later(kava_device device) { return device == KAVA_CPU ? NULL : kava_device_later(); }

kava_status kava_dropout_draw(const char *op, const char *name, kava_device device, double p, kava_dropout_mask *mask) {
  if (!(p >= 0 && p < 1)) return kava_fail(KAVA_MISUSE, "%s: %s is %g; 0 <= %s < 1 expected", op, name, p, name);
  *mask = (kava_dropout_mask){.p = 0};
  if (p == 0 || !kava_training()) return KAVA_OK;
  mask->p = p;
  mask->stream = kava_rng_take(&mask->seed);
  mask->later = later(device);
  return KAVA_OK;
}

void kava_dropout_keep(kava_node *node, const kava_dropout_mask *mask) {
  node->integers[1] = (int64_t)mask->seed;
  node->integers[2] = (int64_t)mask->stream;
  node->numbers[0] = mask->p;
}

kava_dropout_mask kava_dropout_kept(const kava_node *node, kava_device device) {
  return (kava_dropout_mask){.seed = (uint64_t)node->integers[1],
                             .stream = (uint64_t)node->integers[2],
                             .later = later(device),
                             .p = node->numbers[0]};
}

/* node: input x, the mask */
static kava_status dropout_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor *dx;
  bool add;
  kava_status st = kava_grad_into_same(node, 0, &dx, &add);
  if (st != KAVA_OK || !dx) return st;
  kava_dropout_args a = {.dtype = grad->dtype,
                         .count = kava_tensor_numel(grad),
                         .mask = kava_dropout_kept(node, grad->device),
                         .x = kava_tensor_data(grad),
                         .y = kava_tensor_data(dx),
                         .add = add};
  KAVA_RUN(grad->device, dropout, &a);
out:
  return st;
}

/* only where x can itself be made again: else y costs no more memory than x */
static kava_status dropout_again(kava_node *node, kava_tensor **out) {
  kava_tensor *x, *y = NULL;
  kava_status st = KAVA_OK;
  KAVA_TRY(kava_tape_kept(node, 0, 0, &x));
  y = kava_tape_take(node, 0, 0);
  if (!y) KAVA_TRY(kava_tensor_empty_like(x, x->dtype, &y));
  kava_dropout_args a = {.dtype = x->dtype,
                         .count = kava_tensor_numel(x),
                         .mask = kava_dropout_kept(node, x->device),
                         .x = kava_tensor_data(x),
                         .y = kava_tensor_data(y)};
  KAVA_RUN(x->device, dropout, &a);
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

static kava_status dropout(kava_tensor *x, double p, bool in_place, kava_tensor **out) {
  static const char op[] = "dropout";
  kava_status st = KAVA_OK;
  kava_tensor *cx = NULL, *y = NULL;
  kava_dtype dtype;
  kava_node *node;
  kava_dropout_mask mask;
  KAVA_TRY(kava_operand_dtype(op, 1, &x, (const char *const[]){"x"}, &dtype));
  KAVA_TRY(kava_dropout_draw(op, "p", x->device, p, &mask));
  if (mask.p == 0) {
    *out = kava_tensor_retain(x);
    return KAVA_OK;
  }
  KAVA_TRY(kava_operand(op, "x", x, dtype, &cx));
  if (in_place && cx == x) {
    kava_tensor_touch(x); /* who saved it, finds out */
    KAVA_TRY(kava_tensor_detach(x, &y));
  } else
    KAVA_TRY(kava_tensor_empty_like(x, dtype, &y));
  kava_dropout_args a = {
      .dtype = dtype, .count = kava_tensor_numel(y), .mask = mask, .x = kava_tensor_data(cx), .y = kava_tensor_data(y)};
  KAVA_RUN(x->device, dropout, &a);
  if (kava_tape_wanted(&x, 1)) {
    KAVA_TRY(kava_tape_record(op, dropout_backward, 1, &x, y, &node));
    kava_dropout_keep(node, &mask);
    if (x->node && x->node->again && cx == x) node->again = dropout_again;
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&cx);
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_dropout(kava_tensor *x, double p, kava_tensor **out) { return dropout(x, p, false, out); }
kava_status kava_dropout_in_place(kava_tensor *x, double p, kava_tensor **out) { return dropout(x, p, true, out); }

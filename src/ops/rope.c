#include "ops/rope.h"
#include "kernels/kernels.h"
#include "ops/operand.h"
#include "tape/tape.h"

static kava_rope_args arguments(const kava_tensor *x, const kava_tensor *cosine, const kava_tensor *sine,
                                const kava_tensor *y) {
  return (kava_rope_args){.dtype = y->dtype,
                          .tokens = y->shape[0] * y->shape[1],
                          .period = cosine->shape[0],
                          .heads = y->shape[2],
                          .dim = y->shape[3],
                          .rotated = cosine->shape[1] * 2,
                          .x = kava_tensor_data(x),
                          .cosine = kava_tensor_data(cosine),
                          .sine = kava_tensor_data(sine),
                          .y = kava_tensor_data(y),
                          .x_row = kava_operand_row(x, 2),
                          .y_row = kava_operand_row(y, 2)};
}

/* node: input x; saved[0] cosine, saved[1] sine. The gradient is rotated back: the rotation is orthogonal up to scale,
 * which the tables hold. */
static kava_status rope_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor *dx, *rows = NULL;
  bool add;
  kava_status st = kava_grad_into_rows(node->inputs[0], &dx, &add);
  if (st != KAVA_OK || !dx || kava_tensor_numel(dx) == 0) return st;
  KAVA_TRY(kava_operand_rows("rope", "grad", (kava_tensor *)(uintptr_t)grad, grad->dtype, 2, &rows));
  kava_rope_args a = arguments(rows, node->saved[0], node->saved[1], dx);
  a.inverse = true;
  a.add = add;
  KAVA_RUN(grad->device, rope, &a);
out:
  kava_tensor_release(&rows);
  return st;
}

void kava_angles_release(kava_angles *a) {
  kava_tensor_release(&a->cosine);
  kava_tensor_release(&a->sine);
}

kava_status kava_rope_angles(const char *op, kava_tensor *positions, int64_t length, kava_tensor *inv_freq,
                             double scale, kava_dtype dtype, kava_device device, kava_angles *out) {
  kava_status st = KAVA_OK;
  kava_angles a = {0};
  kava_tensor *where = NULL, *wide = NULL, *frequencies = NULL;
  if (!kava_dtype_is_float(inv_freq->dtype) || inv_freq->dims != 1)
    KAVA_FAIL(KAVA_MISUSE, "%s: inv_freq is %s with %d dimensions; a float vector expected", op,
              kava_dtype_name(inv_freq->dtype), inv_freq->dims);
  KAVA_TRY(kava_operand_ids(op, "positions", positions, device, &where));
  KAVA_TRY(kava_operand(op, "inv_freq", inv_freq, KAVA_F64, &wide));
  KAVA_TRY(kava_tensor_on(wide, device, &frequencies));
  int64_t shape[2] = {positions ? kava_tensor_numel(positions) : length, inv_freq->shape[0]};
  KAVA_TRY(kava_tensor_new_on(device, kava_dtype_wide(dtype), 2, shape, &a.cosine));
  KAVA_TRY(kava_tensor_new_on(device, kava_dtype_wide(dtype), 2, shape, &a.sine));
  kava_rope_table_args table = {.dtype = dtype,
                                .rows = shape[0],
                                .half = shape[1],
                                .positions = where ? kava_i64(where) : NULL,
                                .inv_freq = kava_f64(frequencies),
                                .scale = scale,
                                .cosine = kava_tensor_data(a.cosine),
                                .sine = kava_tensor_data(a.sine)};
  if (shape[0] && shape[1]) KAVA_RUN(device, rope_table, &table);
  *out = a;
  a = (kava_angles){0};
out:
  kava_tensor_release(&where);
  kava_tensor_release(&wide);
  kava_tensor_release(&frequencies);
  kava_angles_release(&a);
  return st;
}

static kava_status check_shape(const kava_tensor *x) {
  char came[96];
  if (x->dims == 4) return KAVA_OK;
  kava_shape_format(x->dims, x->shape, came, sizeof came);
  return kava_fail(KAVA_MISUSE, "rope: x is %s; [B, T, H, D] expected", came);
}

/* in_place: y's elements are x's, which nobody else reads; else `into`, unless NULL, is where they go */
static kava_status rotate(kava_tensor *x, const kava_angles *angles, bool in_place, kava_tensor *into,
                          kava_tensor **out) {
  static const char op[] = "rope";
  kava_status st = KAVA_OK;
  kava_tensor *cx = NULL, *y = NULL;
  kava_dtype dtype;
  kava_node *node;
  KAVA_TRY(kava_operand_dtype(op, 1, &x, (const char *const[]){"x"}, &dtype));
  KAVA_TRY(check_shape(x));
  if (angles->cosine->dtype != kava_dtype_wide(dtype) || angles->cosine->shape[1] * 2 > x->shape[3] ||
      (angles->cosine->shape[0] != x->shape[1] && angles->cosine->shape[0] != x->shape[0] * x->shape[1]))
    KAVA_FAIL(KAVA_MISUSE, "rope: angles for %lld tokens of %lld dimensions, not for x",
              (long long)angles->cosine->shape[0], (long long)angles->cosine->shape[1] * 2);
  KAVA_TRY(kava_operand_rows(op, "x", x, dtype, 2, &cx));
  if (into || (in_place && cx == x))
    KAVA_TRY(kava_tensor_detach(into ? into : x, &y));
  else
    KAVA_TRY(kava_tensor_empty_like(x, dtype, &y));
  kava_rope_args a = arguments(cx, angles->cosine, angles->sine, y);
  if (kava_tensor_numel(y)) KAVA_RUN(x->device, rope, &a);
  if (kava_tape_wanted(&x, 1)) {
    KAVA_TRY(kava_tape_record(op, rope_backward, 1, &x, y, &node));
    KAVA_TRY(kava_tape_save(node, 0, angles->cosine));
    KAVA_TRY(kava_tape_save(node, 1, angles->sine));
    node->rows = true;
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&cx);
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_rotate(kava_tensor *x, const kava_angles *angles, kava_tensor **out) {
  return rotate(x, angles, false, NULL, out);
}
kava_status kava_rotate_in_place(kava_tensor *x, const kava_angles *angles, kava_tensor **out) {
  return rotate(x, angles, true, NULL, out);
}
kava_status kava_rotate_into(kava_tensor *x, const kava_angles *angles, kava_tensor *into, kava_tensor **out) {
  if (x->device == KAVA_CPU || into->dtype != x->dtype || !kava_same_shape(into, x))
    return kava_fail(KAVA_MISUSE, "rope: rows of x's shape and type on a GPU expected to rotate into");
  return rotate(x, angles, false, into, out);
}

kava_status kava_op_rope(kava_tensor *x, kava_tensor *positions, kava_tensor *inv_freq, double scale,
                         kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_angles angles = {0};
  kava_dtype dtype;
  KAVA_TRY(kava_operand_dtype("rope", 1, &x, (const char *const[]){"x"}, &dtype));
  KAVA_TRY(check_shape(x));
  if (!kava_dtype_is_float(inv_freq->dtype) || inv_freq->dims != 1 || inv_freq->shape[0] * 2 > x->shape[3])
    KAVA_FAIL(KAVA_MISUSE, "rope: inv_freq is %s with %lld elements; a float vector of at most D/2 = %lld expected",
              kava_dtype_name(inv_freq->dtype), (long long)kava_tensor_numel(inv_freq), (long long)(x->shape[3] / 2));
  if (positions) KAVA_TRY(kava_operand_shape("rope", "positions", positions, 2, x->shape));
  KAVA_TRY(kava_rope_angles("rope", positions, x->shape[1], inv_freq, scale, dtype, x->device, &angles));
  KAVA_TRY(kava_op_rotate(x, &angles, out));
out:
  kava_angles_release(&angles);
  return st;
}

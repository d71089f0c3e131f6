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

/* What is rotated, and to where: in_place, to where it is, which nobody else reads; else to `into`, unless NULL. */
typedef struct turn {
  kava_tensor *x, *into;
  bool in_place;
  kava_tensor **out;
  kava_tensor *cx, *y; /* as the kernel has them */
  kava_rope_args args;
} turn;

static kava_status turn_open(turn *t, const kava_angles *angles) {
  static const char op[] = "rope";
  kava_status st = KAVA_OK;
  kava_tensor *x = t->x, *into = t->into;
  kava_dtype dtype;
  KAVA_TRY(kava_operand_dtype(op, 1, &x, (const char *const[]){"x"}, &dtype));
  KAVA_TRY(check_shape(x));
  if (angles->cosine->dtype != kava_dtype_wide(dtype) || angles->cosine->shape[1] * 2 > x->shape[3] ||
      (angles->cosine->shape[0] != x->shape[1] && angles->cosine->shape[0] != x->shape[0] * x->shape[1]))
    KAVA_FAIL(KAVA_MISUSE, "rope: angles for %lld tokens of %lld dimensions, not for x",
              (long long)angles->cosine->shape[0], (long long)angles->cosine->shape[1] * 2);
  if (into && (x->device == KAVA_CPU || into->dtype != x->dtype || !kava_same_shape(into, x)))
    KAVA_FAIL(KAVA_MISUSE, "rope: rows of x's shape and type on a GPU expected to rotate into");
  KAVA_TRY(kava_operand_rows(op, "x", x, dtype, 2, &t->cx));
  if (into || (t->in_place && t->cx == x))
    KAVA_TRY(kava_tensor_detach(into ? into : x, &t->y));
  else
    KAVA_TRY(kava_tensor_empty_like(x, dtype, &t->y));
  t->args = arguments(t->cx, angles->cosine, angles->sine, t->y);
out:
  return st;
}

static kava_status turn_record(const turn *t, const kava_angles *angles) {
  kava_status st = KAVA_OK;
  kava_node *node;
  if (!kava_tape_wanted(&t->x, 1)) return KAVA_OK;
  KAVA_TRY(kava_tape_record("rope", rope_backward, 1, &t->x, t->y, &node));
  KAVA_TRY(kava_tape_save(node, 0, angles->cosine));
  KAVA_TRY(kava_tape_save(node, 1, angles->sine));
  node->rows = true;
out:
  return st;
}

/* One, or two by the same angles */
static kava_status rotate(int count, turn *t, const kava_angles *angles) {
  kava_status st = KAVA_OK;
  for (int i = 0; i < count; i++) KAVA_TRY(turn_open(&t[i], angles));
  if (count == 2 && t[0].x->device != KAVA_CPU && t[1].x->dtype == t[0].x->dtype)
    KAVA_RUN(t[0].x->device, rope_two, &t[0].args, &t[1].args);
  else
    for (int i = 0; i < count; i++)
      if (kava_tensor_numel(t[i].y)) KAVA_RUN(t[i].x->device, rope, &t[i].args);
  for (int i = 0; i < count; i++) KAVA_TRY(turn_record(&t[i], angles));
  for (int i = 0; i < count; i++) *t[i].out = kava_tensor_retain(t[i].y);
out:
  for (int i = 0; i < count; i++) {
    kava_tensor_release(&t[i].cx);
    kava_tensor_release(&t[i].y);
  }
  return st;
}

kava_status kava_op_rotate(kava_tensor *x, const kava_angles *angles, kava_tensor **out) {
  return rotate(1, &(turn){.x = x, .out = out}, angles);
}
kava_status kava_rotate_in_place(kava_tensor *x, const kava_angles *angles, kava_tensor **out) {
  return rotate(1, &(turn){.x = x, .in_place = true, .out = out}, angles);
}
kava_status kava_rotate_into(kava_tensor *x, const kava_angles *angles, kava_tensor *into, kava_tensor **out) {
  return rotate(1, &(turn){.x = x, .into = into, .out = out}, angles);
}
kava_status kava_rotate_both(kava_tensor *k, kava_tensor *q, const kava_angles *angles, kava_tensor *into,
                             kava_tensor **out_k, kava_tensor **out_q) {
  turn both[] = {{.x = k, .into = into, .out = out_k}, {.x = q, .in_place = true, .out = out_q}};
  return rotate(2, both, angles);
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

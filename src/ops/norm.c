#include "ops/norm.h"
#include "kernels/kernels.h"
#include "ops/operand.h"
#include "tape/tape.h"

/* The type that weight and bias are read in: as they lie where both are wide beside a narrower x. The CPU's kernels
 * know one type, and its x is never the narrower. */
static kava_dtype parameter_dtype(const kava_tensor *w, const kava_tensor *b, kava_dtype dtype) {
  kava_dtype wide = kava_dtype_wide(dtype);
  return (w || b) && (!w || w->dtype == wide) && (!b || b->dtype == wide) ? wide : dtype;
}
static bool are_wide(const kava_tensor *w, const kava_tensor *b, kava_dtype dtype) {
  return (w ? w->dtype : b ? b->dtype : dtype) != dtype;
}

/* node: inputs x, weight, bias; saved[0] x, saved[1] weight, saved[2] bias (contiguous, x in y's dtype, the
 * others in that of their kernels: parameter_dtype); integers[0] centre; numbers[0] eps */
static kava_norm_args norm_args(const kava_node *node) {
  const kava_tensor *x = node->saved[0], *w = node->saved[1], *b = node->saved[2];
  kava_norm_args a = {.dtype = x->dtype,
                      .centre = node->integers[0],
                      .width = x->shape[x->dims - 1],
                      .eps = node->numbers[0],
                      .x = kava_tensor_data(x),
                      .w = w ? kava_tensor_data(w) : NULL,
                      .b = b ? kava_tensor_data(b) : NULL,
                      .wide = are_wide(w, b, x->dtype)};
  a.rows = a.width ? kava_tensor_numel(x) / a.width : 0;
  return a;
}

/* y NULL, or like grad, for the output once more; in grad's place, maybe */
static kava_status norm_back(kava_node *node, const kava_tensor *grad, kava_tensor *y) {
  kava_status st = KAVA_OK;
  kava_tensor *dx, *dw, *db, *partial = NULL;
  bool add;
  kava_norm_args a = norm_args(node);
  a.grad = kava_tensor_data(grad);
  a.y = y ? kava_tensor_data(y) : NULL;
  KAVA_TRY(kava_grad_into(node->inputs[0], &dx, &add));
  KAVA_TRY(kava_grad_into_zeroed(node->inputs[1], &dw));
  KAVA_TRY(kava_grad_into_zeroed(node->inputs[2], &db));
  if (dx && !add && (dx == dw || dx == db)) { /* x is its own weight: one gradient for both */
    KAVA_TRY(kava_tensor_clear(dx));
    add = true;
  }
  if (dx) {
    a.dx = kava_tensor_data(dx);
    a.add_x = add;
  }
  if (dw) a.dw = kava_tensor_data(dw);
  if (db) a.db = kava_tensor_data(db);
  if ((dw || db) && grad->device == KAVA_CPU) {
    int64_t shape[3] = {kava_norm_blocks(a.rows), 2, a.width};
    KAVA_TRY(kava_tensor_new_on(grad->device, kava_dtype_wide(grad->dtype), 3, shape, &partial));
    a.partial = kava_tensor_data(partial);
  }
  if (a.rows) KAVA_RUN(grad->device, norm_grad, &a);
out:
  kava_tensor_release(&partial);
  return st;
}

static kava_status norm_backward(kava_node *node, const kava_tensor *grad) { return norm_back(node, grad, NULL); }

static kava_status norm_back_again(kava_node *node, const kava_tensor *grad, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  KAVA_TRY(kava_grad_place(grad, &y));
  KAVA_TRY(norm_back(node, grad, y));
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

static kava_status norm_again(kava_node *node, kava_tensor **out) {
  const kava_tensor *x = node->saved[0];
  kava_tensor *y = NULL;
  kava_status st = KAVA_OK;
  kava_norm_args a = norm_args(node);
  KAVA_TRY(kava_tensor_empty_like(x, x->dtype, &y));
  a.y = kava_tensor_data(y);
  if (a.rows) KAVA_RUN(x->device, norm, &a);
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

static kava_status norm(const char *op, bool centre, kava_tensor *x, kava_tensor *w, kava_tensor *b, double eps,
                        kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *inputs[3] = {x, w, b}, *cx = NULL, *cw = NULL, *cb = NULL, *y = NULL;
  static const char *const names[3] = {"x", "weight", "bias"};
  kava_dtype dtype;
  kava_node *node;
  KAVA_TRY(kava_operand_dtype(op, 3, inputs, names, &dtype));
  if (x->dims < 1) KAVA_FAIL(KAVA_MISUSE, "%s: x has no dimensions; at least 1 expected", op);
  if (!(eps >= 0)) KAVA_FAIL(KAVA_MISUSE, "%s: eps is %g; 0 or more expected", op, eps);
  int64_t width = x->shape[x->dims - 1];
  if (w) KAVA_TRY(kava_operand_shape(op, "weight", w, 1, &width));
  if (b) KAVA_TRY(kava_operand_shape(op, "bias", b, 1, &width));
  KAVA_TRY(kava_operand(op, "x", x, dtype, &cx));
  KAVA_TRY(kava_operand(op, "weight", w, parameter_dtype(w, b, dtype), &cw));
  KAVA_TRY(kava_operand(op, "bias", b, parameter_dtype(w, b, dtype), &cb));
  KAVA_TRY(kava_tensor_empty_like(x, dtype, &y));
  kava_norm_args a = {.dtype = dtype,
                      .centre = centre,
                      .rows = width ? kava_tensor_numel(x) / width : 0,
                      .width = width,
                      .eps = eps,
                      .x = kava_tensor_data(cx),
                      .w = cw ? kava_tensor_data(cw) : NULL,
                      .b = cb ? kava_tensor_data(cb) : NULL,
                      .y = kava_tensor_data(y),
                      .wide = are_wide(cw, cb, dtype)};
  if (kava_tensor_numel(x)) KAVA_RUN(x->device, norm, &a);
  if (kava_tape_wanted(inputs, 3)) {
    KAVA_TRY(kava_tape_record(op, norm_backward, 3, inputs, y, &node));
    node->integers[0] = centre;
    node->numbers[0] = eps;
    KAVA_TRY(kava_tape_save(node, 0, cx));
    KAVA_TRY(kava_tape_save(node, 1, cw));
    KAVA_TRY(kava_tape_save(node, 2, cb));
    node->again = norm_again;
    node->back_again = norm_back_again;
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&cx);
  kava_tensor_release(&cw);
  kava_tensor_release(&cb);
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_rms_norm(kava_tensor *x, kava_tensor *weight, double eps, kava_tensor **out) {
  return norm("rms_norm", false, x, weight, NULL, eps, out);
}

kava_status kava_op_layer_norm(kava_tensor *x, kava_tensor *weight, kava_tensor *bias, double eps, kava_tensor **out) {
  return norm("layer_norm", true, x, weight, bias, eps, out);
}

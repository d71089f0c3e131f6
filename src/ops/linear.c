#include "ops/linear.h"
#include "kernels/kernels.h"
#include "ops/operand.h"
#include "tape/tape.h"

static kava_dtype matmul_precision = KAVA_F32;

kava_status kava_set_matmul_precision(kava_dtype precision) {
  if (precision != KAVA_F32 && precision != KAVA_BF16 && precision != KAVA_F16)
    return kava_fail(KAVA_MISUSE, "matmul_precision: %s; f32, bf16 or f16 expected", kava_dtype_name(precision));
  matmul_precision = precision;
  return KAVA_OK;
}
kava_dtype kava_matmul_precision(void) { return matmul_precision; }

/* node: inputs x, w, bias; saved[0] x unless it can be made again, saved[1] w (contiguous); integers[0] precision */
static kava_status linear_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *x, *w = node->saved[1], *dx, *dw, *db;
  bool add_x, add_w = false, add_b = false;
  kava_linear_args a = {.dtype = grad->dtype,
                        .in = w->shape[1],
                        .out = w->shape[0],
                        .w = kava_tensor_data(w),
                        .wtype = w->dtype,
                        .scaling = kava_tensor_scaling(w),
                        .first = kava_tensor_first_row(w),
                        .precision = (kava_dtype)node->integers[0]};
  a.rows = a.out ? kava_tensor_numel(grad) / a.out : 0;
  KAVA_TRY(a.out ? kava_grad_into(node->inputs[0], &dx, &add_x) : kava_grad_into_zeroed(node->inputs[0], &dx));
  if (dx && a.out) KAVA_RUN_TRY(grad->device, linear_dx, &a, kava_tensor_data(grad), kava_tensor_data(dx), add_x);
  KAVA_TRY(kava_grad_into_half(node->inputs[1], a.dtype, &dw, &add_w));
  KAVA_TRY(kava_grad_into_wide(node->inputs[2], &db, &add_b));
  a.dw_half = dw && dw->dtype != kava_dtype_wide(a.dtype);
  if (dw || db) {
    KAVA_TRY(kava_tape_kept(node, 0, 0, &x));
    KAVA_RUN_TRY(grad->device, linear_dw, &a, kava_tensor_data(x), kava_tensor_data(grad),
                 dw ? kava_tensor_data(dw) : NULL, add_w, db ? kava_tensor_data(db) : NULL, add_b);
  }
out:
  return st;
}

static kava_status check(const kava_tensor *x, const kava_tensor *w, const kava_tensor *bias) {
  char x_shape[96], w_shape[96];
  kava_shape_format(x->dims, x->shape, x_shape, sizeof x_shape);
  kava_shape_format(w->dims, w->shape, w_shape, sizeof w_shape);
  if (!kava_dtype_is_float(w->dtype) && !kava_dtype_is_quantised(w->dtype))
    return kava_fail(KAVA_MISUSE, "linear: w is %s; a float or quantised type expected", kava_dtype_name(w->dtype));
  if (w->dims != 2) return kava_fail(KAVA_MISUSE, "linear: w is %s; [out, in] expected", w_shape);
  if (x->dims < 1 || x->shape[x->dims - 1] != w->shape[1])
    return kava_fail(KAVA_MISUSE, "linear: x is %s and w %s; x's last dimension must be w's second", x_shape, w_shape);
  return bias ? kava_operand_shape("linear", "bias", bias, 1, w->shape) : KAVA_OK;
}

kava_status kava_op_linear(kava_tensor *x, kava_tensor *w, kava_tensor *bias, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *inputs[3] = {x, w, bias}, *cx = NULL, *cw = NULL, *cb = NULL, *y = NULL;
  static const char *const names[3] = {"x", "w", "bias"};
  bool quantised = kava_dtype_is_quantised(w->dtype);
  kava_dtype dtype;
  kava_node *node;
  int64_t shape[KAVA_MAX_DIMS];
  KAVA_TRY(check(x, w, bias));
  KAVA_TRY(kava_operand_dtype("linear", 3, (kava_tensor *[]){x, quantised ? NULL : w, bias}, names, &dtype));
  KAVA_TRY(kava_operand_device("linear", "w", w, x->device));
  if (quantised && dtype == KAVA_F64)
    KAVA_FAIL(KAVA_MISUSE, "linear: x is f64 but w is %s; cast x to f32", kava_dtype_name(w->dtype));
  if (quantised && w->requires_grad)
    KAVA_FAIL(KAVA_MISUSE, "linear: w is %s and requires a gradient; a quantised weight cannot be trained",
              kava_dtype_name(w->dtype));
  KAVA_TRY(kava_operand("linear", "x", x, dtype, &cx));
  KAVA_TRY(kava_operand("linear", "bias", bias, dtype, &cb));
  if (quantised || kava_tensor_is_contiguous(w))
    cw = kava_tensor_retain(w);
  else
    KAVA_TRY(kava_operand("linear", "w", w, dtype, &cw));
  for (int i = 0; i < x->dims; i++) shape[i] = x->shape[i];
  shape[x->dims - 1] = w->shape[0];
  KAVA_TRY(kava_tensor_new_on(x->device, dtype, x->dims, shape, &y));
  kava_linear_args a = {.dtype = dtype,
                        .in = w->shape[1],
                        .out = w->shape[0],
                        .w = kava_tensor_data(cw),
                        .wtype = cw->dtype,
                        .scaling = kava_tensor_scaling(cw),
                        .first = kava_tensor_first_row(cw),
                        .precision = matmul_precision};
  a.rows = a.out ? kava_tensor_numel(y) / a.out : 0;
  if (a.rows && a.out)
    KAVA_RUN_TRY(x->device, linear_forward, &a, kava_tensor_data(cx), cb ? kava_tensor_data(cb) : NULL,
                 kava_tensor_data(y));
  if (kava_tape_wanted(inputs, 3)) {
    KAVA_TRY(kava_tape_record("linear", linear_backward, 3, inputs, y, &node));
    node->integers[0] = a.precision;
    KAVA_TRY(kava_tape_keep(node, 0, 0, cx));
    KAVA_TRY(kava_tape_save(node, 1, cw));
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

kava_status kava_linear_gated(kava_activation kind, kava_tensor *gate, kava_tensor *up, kava_tensor *w,
                              kava_tensor *bias, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  kava_dtype dtype = gate->dtype;
  *out = NULL;
  if (gate->device == KAVA_CPU || w->dtype != KAVA_FP8 || w->device != gate->device || up->dtype != dtype ||
      (bias && bias->dtype != dtype) || !kava_same_shape(gate, up) || !kava_tensor_is_contiguous(gate) ||
      !kava_tensor_is_contiguous(up) || kava_tape_wanted((kava_tensor *[]){gate, up, w, bias}, 4) ||
      !kava_kernels_of(gate->device)->linear_gated)
    return KAVA_OK;
  KAVA_TRY(check(gate, w, bias));
  int64_t shape[KAVA_MAX_DIMS];
  for (int i = 0; i < gate->dims; i++) shape[i] = gate->shape[i];
  shape[gate->dims - 1] = w->shape[0];
  KAVA_TRY(kava_tensor_new_on(gate->device, dtype, gate->dims, shape, &y));
  kava_linear_args a = {.dtype = dtype,
                        .rows = kava_tensor_numel(gate) / w->shape[1],
                        .in = w->shape[1],
                        .out = w->shape[0],
                        .w = kava_tensor_data(w),
                        .wtype = w->dtype,
                        .scaling = kava_tensor_scaling(w),
                        .first = kava_tensor_first_row(w),
                        .precision = matmul_precision};
  st = kava_kernels_of(gate->device)
           ->linear_gated(&a, kind, kava_tensor_data(gate), kava_tensor_data(up), bias ? kava_tensor_data(bias) : NULL,
                          kava_tensor_data(y));
  if (st == KAVA_UNSUPPORTED) {
    st = KAVA_OK;
    goto out;
  }
  KAVA_TRY(st);
  KAVA_TRY(kava_device_check(gate->device, "linear_gated"));
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

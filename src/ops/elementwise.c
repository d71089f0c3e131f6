/* ops/elementwise: broadcasting arithmetic and functions of one tensor.
 *
 * Backward, each summed over what was broadcast: add: gy, gy.  sub: gy, -gy.  mul: gy b, gy a.  div: gy/b, -gy y/b.
 * power: gy b a^(b-1), gy y log(a), of which the second is 0 where a is 0. */
#include "ops/elementwise.h"
#include "kernels/kernels.h"
#include "ops/cast.h"
#include "ops/operand.h"
#include "ops/shape.h"
#include "tape/tape.h"
#include <math.h>
#include <string.h>

static void broadcast(kava_strided *args, int operand, const kava_tensor *t) {
  int lead = args->dims - t->dims;
  args->in[operand] = kava_tensor_data(t);
  for (int d = 0; d < args->dims; d++) {
    bool stretched = d < lead || (t->shape[d - lead] == 1 && args->shape[d] != 1);
    args->in_stride[operand][d] = stretched ? 0 : t->stride[d - lead];
  }
}

/* t itself (one more reference) or a copy in the type the op computes in */
static kava_status as_type(const kava_tensor *t, kava_dtype type, kava_tensor **out) {
  if (t->dtype != type) return kava_contiguous_as(t, type, out);
  *out = kava_tensor_retain((kava_tensor *)t);
  return KAVA_OK;
}

/* y = a op b, both of type `compute`, into fresh storage of the broadcast shape; not recorded */
static kava_status binary_plain(const char *name, kava_binary op, kava_dtype compute, const kava_tensor *a,
                                const kava_tensor *b, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_strided args = {0};
  kava_tensor *y = NULL;
  KAVA_TRY(kava_broadcast_shape(name, a, b, &args.dims, args.shape));
  KAVA_TRY(kava_tensor_new_on(a->device, op >= KAVA_EQ ? KAVA_BOOL : compute, args.dims, args.shape, &y));
  broadcast(&args, 0, a);
  broadcast(&args, 1, b);
  memcpy(args.out_stride, y->stride, sizeof args.out_stride);
  args.out = kava_tensor_data(y);
  KAVA_RUN(a->device, binary, op, compute, &args);
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

static kava_status common_type(const char *name, bool floats, const kava_tensor *a, const kava_tensor *b,
                               kava_dtype *compute, kava_dtype *result) {
  kava_dtype of_a, of_b;
  kava_status st = kava_compute_dtype(name, "the first operand", a, false, &of_a);
  if (st == KAVA_OK) st = kava_operand_device(name, "the second operand", b, a->device);
  if (st == KAVA_OK) st = kava_compute_dtype(name, "the second operand", b, false, &of_b);
  if (st != KAVA_OK) return st;
  if (of_a == KAVA_F64 || of_b == KAVA_F64)
    *compute = KAVA_F64;
  else if (of_a == KAVA_I64 || of_b == KAVA_I64)
    *compute = of_a == KAVA_I64 ? of_b : of_a;
  else
    *compute = of_a == of_b ? of_a : KAVA_F32;
  if (floats && *compute == KAVA_I64)
    return kava_fail(KAVA_MISUSE, "%s: %s and %s, a float tensor is expected", name, kava_dtype_name(a->dtype),
                     kava_dtype_name(b->dtype));
  bool own = *compute == KAVA_I64 && a->dtype == b->dtype && a->dtype != KAVA_BOOL;
  *result = own ? a->dtype : *compute;
  return KAVA_OK;
}

static kava_status binary(const char *name, kava_binary op, kava_backward_fn backward, kava_tensor *a, kava_tensor *b,
                          kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *x = NULL, *z = NULL, *y = NULL, *narrow = NULL;
  kava_node *node;
  kava_dtype compute, result;
  KAVA_TRY(common_type(name, op == KAVA_DIV, a, b, &compute, &result));
  KAVA_TRY(as_type(a, compute, &x));
  KAVA_TRY(as_type(b, compute, &z));
  KAVA_TRY(binary_plain(name, op, compute, x, z, &y));
  if (op < KAVA_EQ && result != compute) {
    KAVA_TRY(kava_contiguous_as(y, result, &narrow));
    kava_tensor_release(&y);
    y = narrow;
    narrow = NULL;
  }
  kava_tensor *inputs[] = {a, b};
  if (backward && compute != KAVA_I64 && kava_tape_wanted(inputs, 2)) {
    KAVA_TRY(kava_tape_record(name, backward, 2, inputs, y, &node));
    if (op >= KAVA_MUL) {
      KAVA_TRY(kava_tape_save(node, 0, a));
      KAVA_TRY(kava_tape_save(node, 1, b));
    }
    if (op == KAVA_DIV || op == KAVA_POW) KAVA_TRY(kava_tape_save(node, 2, y));
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&x);
  kava_tensor_release(&z);
  kava_tensor_release(&y);
  return st;
}

/* Adds g (shaped like the op's output) to x's gradient: summed over the broadcast, converted where x's type differs. */
static kava_status give(kava_tensor *x, kava_tensor *g) {
  kava_tensor *converted = NULL;
  if (!kava_needs_grad(x)) return KAVA_OK;
  kava_status st = kava_contiguous_as(g, kava_grad_dtype(x), &converted);
  if (st == KAVA_OK) st = kava_grad_add_summed(x, converted);
  kava_tensor_release(&converted);
  return st;
}

static kava_status scaled(const kava_tensor *x, double factor, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  KAVA_TRY(kava_tensor_empty_like(x, x->dtype, &y));
  KAVA_RUN(x->device, unary, KAVA_AFFINE, x->dtype, kava_tensor_data(x), kava_tensor_data(y), kava_tensor_numel(x),
           factor, 0);
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

/* x's gradient gets g op other; g contiguous, of the compute type */
static kava_status give_binary(kava_tensor *x, kava_binary op, const kava_tensor *g, const kava_tensor *other) {
  kava_tensor *wide = NULL, *product = NULL;
  if (!kava_needs_grad(x)) return KAVA_OK;
  kava_status st = as_type(other, g->dtype, &wide);
  if (st == KAVA_OK) st = binary_plain("gradient", op, g->dtype, g, wide, &product);
  kava_tensor_release(&wide);
  if (st == KAVA_OK) st = give(x, product);
  kava_tensor_release(&product);
  return st;
}

static kava_status add_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = give(node->inputs[0], (kava_tensor *)grad);
  return st == KAVA_OK ? give(node->inputs[1], (kava_tensor *)grad) : st;
}

static kava_status sub_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor *minus = NULL;
  kava_status st = give(node->inputs[0], (kava_tensor *)grad);
  if (st != KAVA_OK || !kava_needs_grad(node->inputs[1])) return st;
  st = scaled(grad, -1, &minus);
  if (st == KAVA_OK) st = give(node->inputs[1], minus);
  kava_tensor_release(&minus);
  return st;
}

/* saved[0], saved[1]: a, b */
static kava_status mul_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = give_binary(node->inputs[0], KAVA_MUL, grad, node->saved[1]);
  return st == KAVA_OK ? give_binary(node->inputs[1], KAVA_MUL, grad, node->saved[0]) : st;
}

/* saved[0..2]: a, b, y */
static kava_status div_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor *ratio = NULL, *minus = NULL, *b = node->saved[1];
  kava_status st = give_binary(node->inputs[0], KAVA_DIV, grad, b);
  if (st != KAVA_OK || !kava_needs_grad(node->inputs[1])) return st;
  st = binary_plain("gradient", KAVA_MUL, grad->dtype, grad, node->saved[2], &ratio);
  if (st == KAVA_OK) st = scaled(ratio, -1, &minus);
  if (st == KAVA_OK) st = give_binary(node->inputs[1], KAVA_DIV, minus, b);
  kava_tensor_release(&ratio);
  kava_tensor_release(&minus);
  return st;
}

/* condition ? a : b, all broadcast to this shape; a and b of one type */
static kava_status where_plain(const kava_tensor *condition, const kava_tensor *a, const kava_tensor *b, int dims,
                               const int64_t *shape, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  kava_strided args = {.dims = dims};
  memcpy(args.shape, shape, (size_t)dims * sizeof *shape);
  KAVA_TRY(kava_tensor_new_on(a->device, a->dtype, dims, shape, &y));
  broadcast(&args, 0, a);
  broadcast(&args, 1, b);
  broadcast(&args, 2, condition);
  memcpy(args.out_stride, y->stride, sizeof args.out_stride);
  args.out = kava_tensor_data(y);
  KAVA_RUN(a->device, where, a->dtype, &args);
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

/* saved[0..2]: a, b, y */
static kava_status power_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *a = NULL, *b = NULL, *one = NULL, *less = NULL, *part = NULL, *whole = NULL, *zero = NULL;
  kava_tensor *constant = NULL;
  KAVA_TRY(kava_contiguous_as(node->saved[0], grad->dtype, &a));
  KAVA_TRY(kava_contiguous_as(node->saved[1], grad->dtype, &b));
  if (kava_needs_grad(node->inputs[0])) {
    KAVA_TRY(kava_tensor_full_on(grad->device, grad->dtype, 0, NULL, 1, 1, &one));
    KAVA_TRY(binary_plain("gradient", KAVA_SUB, grad->dtype, b, one, &less));
    KAVA_TRY(binary_plain("gradient", KAVA_POW, grad->dtype, a, less, &part));
    KAVA_TRY(binary_plain("gradient", KAVA_MUL, grad->dtype, part, b, &whole));
    kava_tensor_release(&part);
    KAVA_TRY(kava_tensor_zeros_on(grad->device, grad->dtype, 0, NULL,
                                  &zero)); /* x^0 is 1 also where x is 0 and x^-1 infinite */
    KAVA_TRY(binary_plain("gradient", KAVA_EQ, grad->dtype, b, zero, &constant));
    KAVA_TRY(where_plain(constant, zero, whole, whole->dims, whole->shape, &part));
    kava_tensor_release(&whole);
    whole = part;
    part = NULL;
    KAVA_TRY(binary_plain("gradient", KAVA_MUL, grad->dtype, whole, grad, &part));
    KAVA_TRY(give(node->inputs[0], part));
    kava_tensor_release(&part);
    kava_tensor_release(&whole);
  }
  if (kava_needs_grad(node->inputs[1])) {
    KAVA_TRY(kava_tensor_empty_like(a, a->dtype, &part));
    int64_t count = kava_tensor_numel(a);
    void *logs = kava_tensor_data(part);
    KAVA_RUN(a->device, unary, KAVA_LOG, a->dtype, kava_tensor_data(a), logs, count, 0, 0);
    KAVA_RUN(a->device, unary, KAVA_CLAMP, a->dtype, logs, logs, count, -1e30, INFINITY); /* 0 * log 0 is to be 0 */
    KAVA_TRY(binary_plain("gradient", KAVA_MUL, grad->dtype, node->saved[2], part, &whole));
    kava_tensor_release(&part);
    KAVA_TRY(binary_plain("gradient", KAVA_MUL, grad->dtype, whole, grad, &part));
    KAVA_TRY(give(node->inputs[1], part));
  }
out:
  kava_tensor_release(&a);
  kava_tensor_release(&b);
  kava_tensor_release(&one);
  kava_tensor_release(&less);
  kava_tensor_release(&part);
  kava_tensor_release(&whole);
  kava_tensor_release(&zero);
  kava_tensor_release(&constant);
  return st;
}

kava_status kava_op_add(kava_tensor *a, kava_tensor *b, kava_tensor **out) {
  return binary("add", KAVA_ADD, add_backward, a, b, out);
}
kava_status kava_op_sub(kava_tensor *a, kava_tensor *b, kava_tensor **out) {
  return binary("sub", KAVA_SUB, sub_backward, a, b, out);
}
kava_status kava_op_mul(kava_tensor *a, kava_tensor *b, kava_tensor **out) {
  return binary("mul", KAVA_MUL, mul_backward, a, b, out);
}
kava_status kava_op_div(kava_tensor *a, kava_tensor *b, kava_tensor **out) {
  return binary("div", KAVA_DIV, div_backward, a, b, out);
}

kava_status kava_op_power(kava_tensor *a, kava_tensor *b, kava_tensor **out) {
  return binary("pow", KAVA_POW, power_backward, a, b, out);
}

kava_status kava_op_compare(kava_binary op, kava_tensor *a, kava_tensor *b, kava_tensor **out) {
  static const char *const names[] = {"eq", "ne", "lt", "le", "gt", "ge"};
  if (op < KAVA_EQ || op > KAVA_GE) return kava_fail(KAVA_MISUSE, "compare: not a comparison");
  return binary(names[op - KAVA_EQ], op, NULL, a, b, out);
}

/* inputs: a, b; saved[0]: condition */
static kava_status where_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *zero = NULL, *part = NULL;
  KAVA_TRY(kava_tensor_zeros_on(grad->device, grad->dtype, 0, NULL, &zero));
  for (int i = 0; i < 2; i++) {
    if (!kava_needs_grad(node->inputs[i])) continue;
    KAVA_TRY(where_plain(node->saved[0], i ? zero : grad, i ? grad : zero, grad->dims, grad->shape, &part));
    KAVA_TRY(give(node->inputs[i], part));
    kava_tensor_release(&part);
  }
out:
  kava_tensor_release(&zero);
  kava_tensor_release(&part);
  return st;
}

kava_status kava_op_where(kava_tensor *condition, kava_tensor *a, kava_tensor *b, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *x = NULL, *z = NULL, *y = NULL, *narrow = NULL;
  kava_node *node;
  kava_dtype compute, result;
  int dims;
  int64_t shape[KAVA_MAX_DIMS];
  if (condition->dtype != KAVA_BOOL)
    return kava_fail(KAVA_MISUSE, "where: the condition is %s, bool is expected", kava_dtype_name(condition->dtype));
  KAVA_TRY(common_type("where", false, a, b, &compute, &result));
  KAVA_TRY(kava_operand_device("where", "the condition", condition, a->device));
  KAVA_TRY(kava_broadcast_shape("where", a, b, &dims, shape));
  kava_tensor outline = {.dims = dims}; /* only its shape is looked at */
  memcpy(outline.shape, shape, sizeof shape);
  KAVA_TRY(kava_broadcast_shape("where", &outline, condition, &dims, shape));
  KAVA_TRY(as_type(a, compute, &x));
  KAVA_TRY(as_type(b, compute, &z));
  KAVA_TRY(where_plain(condition, x, z, dims, shape, &y));
  if (a->dtype == KAVA_BOOL && b->dtype == KAVA_BOOL) result = KAVA_BOOL;
  if (result != compute) {
    KAVA_TRY(kava_contiguous_as(y, result, &narrow));
    kava_tensor_release(&y);
    y = narrow;
    narrow = NULL;
  }
  kava_tensor *inputs[] = {a, b};
  if (compute != KAVA_I64 && kava_tape_wanted(inputs, 2)) {
    KAVA_TRY(kava_tape_record("where", where_backward, 2, inputs, y, &node));
    KAVA_TRY(kava_tape_save(node, 0, condition));
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&x);
  kava_tensor_release(&z);
  kava_tensor_release(&y);
  return st;
}

/* integers[0]: the kernel's op; numbers: its p and q; saved[0]: x; saved[1]: y, where the derivative is told by it */
static kava_status unary_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor *x = node->inputs[0], *into, *wide = NULL, *part = NULL, *converted = NULL;
  bool add;
  kava_status st = kava_grad_into(x, &into, &add);
  if (st != KAVA_OK || !into) return st;
  st = kava_contiguous_as(node->saved[0], grad->dtype, &wide);
  if (st != KAVA_OK) return st;
  kava_tensor *y = node->saved[1] ? node->saved[1] : wide;
  if (into->dtype != grad->dtype) { /* x's own gradient is wider than what was made of it in few bits */
    KAVA_TRY(kava_tensor_empty_like(grad, grad->dtype, &part));
    KAVA_RUN(grad->device, unary_grad, (kava_unary)node->integers[0], grad->dtype, kava_tensor_data(wide),
             kava_tensor_data(y), kava_tensor_data(grad), kava_tensor_data(part), kava_tensor_numel(x),
             node->numbers[0], node->numbers[1], false);
    KAVA_TRY(kava_contiguous_as(part, into->dtype, &converted));
    KAVA_TRY(add ? kava_add_into(into, converted) : kava_copy_into(into, converted));
  } else
    KAVA_RUN(grad->device, unary_grad, (kava_unary)node->integers[0], grad->dtype, kava_tensor_data(wide),
             kava_tensor_data(y), kava_tensor_data(grad), kava_tensor_data(into), kava_tensor_numel(x),
             node->numbers[0], node->numbers[1], add);
out:
  kava_tensor_release(&wide);
  kava_tensor_release(&part);
  kava_tensor_release(&converted);
  return st;
}

static kava_status unary(const char *name, kava_unary op, kava_tensor *x, double p, double q, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *wide = NULL, *y = NULL, *narrow = NULL;
  kava_node *node;
  kava_dtype compute;
  KAVA_TRY(kava_compute_dtype(name, "the tensor", x, op >= KAVA_EXP && op != KAVA_POWER, &compute));
  if (compute == KAVA_I64 && op != KAVA_CLAMP && (p != floor(p) || q != floor(q)))
    KAVA_FAIL(KAVA_MISUSE, "%s: a tensor of %s takes whole numbers, not %g", name, kava_dtype_name(x->dtype),
              p != floor(p) ? p : q);
  KAVA_TRY(kava_contiguous_as(x, compute, &wide));
  KAVA_TRY(kava_tensor_empty_like(x, compute, &y));
  KAVA_RUN(x->device, unary, op, compute, kava_tensor_data(wide), kava_tensor_data(y), kava_tensor_numel(x), p, q);
  if (compute == KAVA_I64 && x->dtype != KAVA_I64 && x->dtype != KAVA_BOOL) {
    KAVA_TRY(kava_contiguous_as(y, x->dtype, &narrow));
    kava_tensor_release(&y);
    y = narrow;
    narrow = NULL;
  }
  if (compute != KAVA_I64 && kava_tape_wanted(&x, 1)) {
    KAVA_TRY(kava_tape_record(name, unary_backward, 1, &x, y, &node));
    node->integers[0] = op;
    node->numbers[0] = p;
    node->numbers[1] = q;
    KAVA_TRY(kava_tape_save(node, 0, x));
    if (op == KAVA_EXP || op == KAVA_SQRT || op == KAVA_TANH || op == KAVA_SIGMOID || op == KAVA_RECIPROCAL)
      KAVA_TRY(kava_tape_save(node, 1, y));
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&wide);
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_affine(kava_tensor *x, double scale, double shift, kava_tensor **out) {
  return unary("affine", KAVA_AFFINE, x, scale, shift, out);
}
kava_status kava_op_scale(kava_tensor *x, double scale, kava_tensor **out) {
  return unary("scale", KAVA_AFFINE, x, scale, 0, out);
}
kava_status kava_op_neg(kava_tensor *x, kava_tensor **out) { return unary("neg", KAVA_AFFINE, x, -1, 0, out); }
kava_status kava_op_abs(kava_tensor *x, kava_tensor **out) { return unary("abs", KAVA_ABS, x, 0, 0, out); }
kava_status kava_op_clamp(kava_tensor *x, double low, double high, kava_tensor **out) {
  if (!(low <= high)) return kava_fail(KAVA_MISUSE, "clamp: the lower bound %g is above the upper bound %g", low, high);
  if (!kava_dtype_is_float(x->dtype)) {
    low = ceil(low);
    high = floor(high);
  }
  return unary("clamp", KAVA_CLAMP, x, low, high, out);
}
kava_status kava_op_pow(kava_tensor *x, double exponent, kava_tensor **out) {
  return unary("pow", KAVA_POWER, x, exponent, 0, out);
}
kava_status kava_op_exp(kava_tensor *x, kava_tensor **out) { return unary("exp", KAVA_EXP, x, 0, 0, out); }
kava_status kava_op_log(kava_tensor *x, kava_tensor **out) { return unary("log", KAVA_LOG, x, 0, 0, out); }
kava_status kava_op_sqrt(kava_tensor *x, kava_tensor **out) { return unary("sqrt", KAVA_SQRT, x, 0, 0, out); }
kava_status kava_op_tanh(kava_tensor *x, kava_tensor **out) { return unary("tanh", KAVA_TANH, x, 0, 0, out); }
kava_status kava_op_sigmoid(kava_tensor *x, kava_tensor **out) { return unary("sigmoid", KAVA_SIGMOID, x, 0, 0, out); }
kava_status kava_op_reciprocal(kava_tensor *x, double numerator, kava_tensor **out) {
  return unary("div", KAVA_RECIPROCAL, x, numerator, 0, out);
}

#include "ops/activation.h"
#include "kernels/kernels.h"
#include "ops/dropout.h"
#include "ops/operand.h"
#include "tape/tape.h"

static const char *const names[KAVA_ACTIVATIONS] = {"silu", "gelu", "gelu_tanh", "relu"};

/* node: input x; saved[0] x, contiguous; integers[0] kind; the mask of what is dropped of f(x) */
static kava_activation_args activation_args(const kava_node *node) {
  const kava_tensor *x = node->saved[0];
  return (kava_activation_args){.kind = (kava_activation)node->integers[0],
                                .dtype = x->dtype,
                                .count = kava_tensor_numel(x),
                                .x = kava_tensor_data(x),
                                .mask = kava_dropout_kept(node, x->device)};
}

static kava_status activation_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor *dx;
  kava_activation_args a = activation_args(node);
  kava_status st = kava_grad_into_same(node, 0, &dx, &a.add);
  if (st != KAVA_OK || !dx) return st;
  a.grad = kava_tensor_data(grad);
  a.dx = kava_tensor_data(dx);
  KAVA_RUN(grad->device, activation_grad, &a);
out:
  return st;
}

static kava_status activation_again(kava_node *node, kava_tensor **out) {
  const kava_tensor *x = node->saved[0];
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  kava_activation_args a = activation_args(node);
  KAVA_TRY(kava_tensor_empty_like(x, x->dtype, &y));
  a.y = kava_tensor_data(y);
  KAVA_RUN(x->device, activation, &a);
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

/* One pass, in place: x's gradient over x, the output over its gradient. */
static kava_status activation_back_again(kava_node *node, const kava_tensor *grad, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL, *dx;
  kava_activation_args a = activation_args(node);
  KAVA_TRY(kava_grad_in_place(node, 1, &dx));
  if (!dx) {
    KAVA_TRY(activation_again(node, out));
    return activation_backward(node, grad);
  }
  KAVA_TRY(kava_grad_place(grad, &y));
  a.grad = kava_tensor_data(grad);
  a.dx = kava_tensor_data(dx);
  a.y = kava_tensor_data(y);
  KAVA_RUN(grad->device, activation_grad, &a);
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

kava_status kava_activation_dropped(kava_activation kind, kava_tensor *x, double p, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *cx = NULL, *y = NULL;
  kava_activation_args a = {.kind = kind};
  kava_node *node;
  KAVA_TRY(kava_operand_dtype(names[kind], 1, &x, (const char *const[]){"x"}, &a.dtype));
  KAVA_TRY(kava_dropout_draw(names[kind], "dropout", x->device, p, &a.mask));
  KAVA_TRY(kava_operand(names[kind], "x", x, a.dtype, &cx));
  KAVA_TRY(kava_tensor_empty_like(x, a.dtype, &y));
  a.count = kava_tensor_numel(y);
  a.x = kava_tensor_data(cx);
  a.y = kava_tensor_data(y);
  KAVA_RUN(x->device, activation, &a);
  if (kava_tape_wanted(&x, 1)) {
    KAVA_TRY(kava_tape_record(names[kind], activation_backward, 1, &x, y, &node));
    node->integers[0] = kind;
    kava_dropout_keep(node, &a.mask);
    KAVA_TRY(kava_tape_save(node, 0, cx));
    node->again = activation_again;
    node->back_again = activation_back_again;
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&cx);
  kava_tensor_release(&y);
  return st;
}

/* node: input x; saved[0] y; numbers[0] c */
static kava_status softcap_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor *dx;
  bool add;
  kava_status st = kava_grad_into_same(node, 0, &dx, &add);
  if (st != KAVA_OK || !dx) return st;
  KAVA_RUN(grad->device, softcap_grad, grad->dtype, node->numbers[0], kava_tensor_data(node->saved[0]),
           kava_tensor_data(grad), kava_tensor_data(dx), kava_tensor_numel(grad), add);
out:
  return st;
}

kava_status kava_op_softcap(kava_tensor *x, double c, kava_tensor **out) {
  static const char op[] = "softcap";
  kava_status st = KAVA_OK;
  kava_tensor *cx = NULL, *y = NULL;
  kava_dtype dtype;
  kava_node *node;
  if (!(c > 0)) KAVA_FAIL(KAVA_MISUSE, "softcap: c is %g; more than 0 expected", c);
  KAVA_TRY(kava_operand_dtype(op, 1, &x, (const char *const[]){"x"}, &dtype));
  KAVA_TRY(kava_operand(op, "x", x, dtype, &cx));
  KAVA_TRY(kava_tensor_empty_like(x, dtype, &y));
  KAVA_RUN(x->device, softcap, dtype, c, kava_tensor_data(cx), kava_tensor_data(y), kava_tensor_numel(y));
  if (kava_tape_wanted(&x, 1)) {
    KAVA_TRY(kava_tape_record(op, softcap_backward, 1, &x, y, &node));
    node->numbers[0] = c;
    KAVA_TRY(kava_tape_save(node, 0, y));
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&cx);
  kava_tensor_release(&y);
  return st;
}

/* Rows of gate and up that lie alike may lie apart, columns of one buffer. */
static void set_rows(kava_gated_args *a, const kava_tensor *gate) {
  a->width = gate->dims ? gate->shape[gate->dims - 1] : 1;
  a->row = kava_operand_row(gate, 1);
}

/* node: inputs gate, up; saved[0], saved[1] the same as the kernel read them; integers[0] kind, integers[1] whether the
 * two are one */
static kava_gated_args gated_args(const kava_node *node) {
  const kava_tensor *gate = node->saved[0];
  kava_gated_args a = {.kind = (kava_activation)node->integers[0],
                       .dtype = gate->dtype,
                       .count = kava_tensor_numel(gate),
                       .gate = kava_tensor_data(gate),
                       .up = kava_tensor_data(node->saved[1])};
  set_rows(&a, gate);
  return a;
}

static kava_status gated_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *dgate, *dup;
  kava_gated_args a = gated_args(node);
  a.grad = kava_tensor_data(grad);
  KAVA_TRY(kava_grad_into_rows(node->inputs[0], &dgate, &a.add_gate));
  if (dgate) {
    a.dgate = kava_tensor_data(dgate);
    a.grad_row = kava_operand_row(dgate, 1);
  }
  /* gate is up, f(x)*x: both contributions go to one gradient, so they are added one after the other */
  if (dgate && node->integers[1]) {
    KAVA_RUN(grad->device, gated_grad, &a);
    a.dgate = NULL;
  }
  KAVA_TRY(kava_grad_into_rows(node->inputs[1], &dup, &a.add_up));
  if (dup) {
    if (a.dgate && kava_operand_row(dup, 1) != a.grad_row) { /* one of them is contiguous */
      KAVA_RUN(grad->device, gated_grad, &a);
      a.dgate = NULL;
    }
    a.dup = kava_tensor_data(dup);
    a.grad_row = kava_operand_row(dup, 1);
  }
  if (a.dgate || a.dup) KAVA_RUN(grad->device, gated_grad, &a);
out:
  return st;
}

static kava_status gated_again(kava_node *node, kava_tensor **out) {
  const kava_tensor *gate = node->saved[0];
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  kava_gated_args a = gated_args(node);
  KAVA_TRY(kava_tensor_empty_like(gate, gate->dtype, &y));
  a.y = kava_tensor_data(y);
  KAVA_RUN(gate->device, gated, &a);
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

/* Arguments for gradients over gate and up; without them where those have to lie elsewhere. */
static kava_status in_place_args(kava_node *node, kava_gated_args *a) {
  kava_tensor *d[2] = {NULL, NULL};
  *a = gated_args(node);
  kava_status st = node->integers[1] ? KAVA_OK : kava_grad_in_place(node, 2, d);
  if (st != KAVA_OK || !d[0]) return st;
  a->dgate = kava_tensor_data(d[0]);
  a->dup = kava_tensor_data(d[1]);
  a->grad_row = a->row;
  return KAVA_OK;
}

/* One pass, in place: the gradients over gate and up, the output over its gradient. */
static kava_status gated_back_again(kava_node *node, const kava_tensor *grad, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  kava_gated_args a;
  KAVA_TRY(in_place_args(node, &a));
  if (!a.dgate) {
    KAVA_TRY(gated_again(node, out));
    return gated_backward(node, grad);
  }
  KAVA_TRY(kava_grad_place(grad, &y));
  a.grad = kava_tensor_data(grad);
  a.y = kava_tensor_data(y);
  KAVA_RUN(grad->device, gated_grad, &a);
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

kava_status kava_gated_in_place(kava_node *node, kava_gated_args *a, kava_tensor **y) {
  *y = NULL;
  if (node->backward != gated_backward) return KAVA_OK;
  kava_status st = in_place_args(node, a);
  if (st != KAVA_OK || !a->dgate) return st;
  st = kava_tensor_empty_like(node->saved[0], a->dtype, y);
  if (st == KAVA_OK) a->y = kava_tensor_data(*y);
  return st;
}

/* gate, up: the inputs as the kernel read them */
static kava_status record_gated(const char *op, kava_activation kind, kava_tensor *const *inputs, kava_tensor *gate,
                                kava_tensor *up, kava_tensor *y) {
  kava_status st = KAVA_OK;
  kava_node *node;
  if (!kava_tape_wanted(inputs, 2)) return KAVA_OK;
  KAVA_TRY(kava_tape_record(op, gated_backward, 2, inputs, y, &node));
  node->integers[0] = kind;
  KAVA_TRY(kava_tape_save(node, 0, gate));
  KAVA_TRY(kava_tape_save(node, 1, up));
  node->integers[1] = inputs[0] == inputs[1];
  node->again = gated_again;
  node->back_again = gated_back_again;
out:
  return st;
}
static const char *const gated_names[KAVA_ACTIVATIONS] = {"swiglu", "geglu", "geglu_tanh", "reglu"};
kava_status kava_gated_record(kava_activation kind, kava_tensor *gate, kava_tensor *up, kava_tensor *y) {
  return record_gated(gated_names[kind], kind, (kava_tensor *[]){gate, up}, gate, up, y);
}

static kava_status gated(const char *op, kava_activation kind, kava_tensor *gate, kava_tensor *up, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *inputs[2] = {gate, up}, *cg = NULL, *cu = NULL, *y = NULL;
  kava_dtype dtype;
  KAVA_TRY(kava_operand_dtype(op, 2, inputs, (const char *const[]){"gate", "up"}, &dtype));
  KAVA_TRY(kava_operand_shape(op, "up", up, gate->dims, gate->shape));
  KAVA_TRY(kava_operand_rows(op, "gate", gate, dtype, 1, &cg));
  KAVA_TRY(kava_operand_rows(op, "up", up, dtype, 1, &cu));
  if (kava_operand_row(cg, 1) != kava_operand_row(cu, 1)) {
    kava_tensor_release(&cg);
    kava_tensor_release(&cu);
    KAVA_TRY(kava_operand(op, "gate", gate, dtype, &cg));
    KAVA_TRY(kava_operand(op, "up", up, dtype, &cu));
  }
  KAVA_TRY(kava_tensor_empty_like(gate, dtype, &y));
  kava_gated_args a = {.kind = kind,
                       .dtype = dtype,
                       .count = kava_tensor_numel(y),
                       .gate = kava_tensor_data(cg),
                       .up = kava_tensor_data(cu),
                       .y = kava_tensor_data(y)};
  set_rows(&a, cg);
  KAVA_RUN(gate->device, gated, &a);
  KAVA_TRY(record_gated(op, kind, inputs, cg, cu, y));
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&cg);
  kava_tensor_release(&cu);
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_silu(kava_tensor *x, kava_tensor **out) { return kava_activation_dropped(KAVA_SILU, x, 0, out); }
kava_status kava_op_gelu(kava_tensor *x, kava_tensor **out) { return kava_activation_dropped(KAVA_GELU, x, 0, out); }
kava_status kava_op_gelu_tanh(kava_tensor *x, kava_tensor **out) {
  return kava_activation_dropped(KAVA_GELU_TANH, x, 0, out);
}
kava_status kava_op_relu(kava_tensor *x, kava_tensor **out) { return kava_activation_dropped(KAVA_RELU, x, 0, out); }
kava_status kava_op_swiglu(kava_tensor *gate, kava_tensor *up, kava_tensor **out) {
  return gated("swiglu", KAVA_SILU, gate, up, out);
}
kava_status kava_op_geglu(kava_tensor *gate, kava_tensor *up, kava_tensor **out) {
  return gated("geglu", KAVA_GELU, gate, up, out);
}
kava_status kava_op_geglu_tanh(kava_tensor *gate, kava_tensor *up, kava_tensor **out) {
  return gated("geglu_tanh", KAVA_GELU_TANH, gate, up, out);
}

#include "ops/linear.h"
#include "kernels/kernels.h"
#include "ops/activation.h"
#include "ops/cast.h"
#include "ops/elementwise.h"
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

static kava_status give_x(const kava_node *node, const kava_linear_args *a, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *dx;
  bool add;
  KAVA_TRY(a->out ? kava_grad_into(node->inputs[0], &dx, &add) : kava_grad_into_zeroed(node->inputs[0], &dx));
  if (dx && a->out) KAVA_RUN_TRY(grad->device, linear_dx, a, kava_tensor_data(grad), kava_tensor_data(dx), add);
out:
  return st;
}

/* Where x is a gate's product with an up, which is made again: x's gradient, what goes back from it, and x, in one
 * kernel or as if it were one. */
static kava_status give_gated(const kava_node *node, const kava_linear_args *a, const kava_tensor *grad, bool *given) {
  kava_status st = KAVA_OK;
  kava_tensor *x = NULL;
  kava_gated_args gated;
  kava_device device = grad->device;
  kava_node *from = kava_tape_alone(node, 0, 0);
  *given = false;
  if (!from || device == KAVA_CPU || a->wtype != a->dtype || !kava_needs_grad(node->inputs[1]) ||
      node->inputs[0]->dtype != a->dtype || !kava_kernels_of(device)->linear_gated_back)
    return KAVA_OK;
  KAVA_TRY(kava_gated_in_place(from, &gated, &x));
  if (!x) return KAVA_OK;
  int span = kava_traced ? kava_span_op("linear_gated_back") : 0;
  st = kava_kernels_of(device)->linear_gated_back(a, kava_tensor_data(grad), &gated);
  if (span) kava_span_end(span);
  if (st == KAVA_UNSUPPORTED) {
    st = KAVA_OK;
    gated.grad = gated.y;
    KAVA_RUN_TRY(device, linear_dx, a, kava_tensor_data(grad), gated.y, false);
    KAVA_RUN(device, gated_grad, &gated);
  }
  KAVA_TRY(st);
  KAVA_TRY(kava_device_check(device, "linear_gated_back"));
  kava_tape_passed(from, x);
  x = NULL;
  *given = true;
out:
  kava_tensor_release(&x);
  return st;
}

static kava_status give_w(kava_node *node, kava_linear_args *a, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *x, *dw, *db, *remade;
  bool add_w = false, add_b = false;
  KAVA_TRY(kava_grad_into_half(node->inputs[1], a->dtype, &dw, &add_w));
  KAVA_TRY(kava_grad_into_wide(node->inputs[2], &db, &add_b));
  a->dw_half = dw && dw->dtype != kava_dtype_wide(a->dtype);
  if (!dw && !db) return st;
  KAVA_TRY(kava_tape_kept(node, 0, 0, &x));
  KAVA_RUN_TRY(grad->device, linear_dw, a, kava_tensor_data(x), kava_tensor_data(grad),
               dw ? kava_tensor_data(dw) : NULL, add_w, db ? kava_tensor_data(db) : NULL, add_b);
  remade = kava_tape_take(node, 0, 0);
  kava_tensor_release(&remade);
out:
  return st;
}

/* node: inputs x, w, bias, and of linear_added the residual; saved[0] x unless it can be made again, saved[1] w
 * (contiguous); integers[0] precision */
static kava_status linear_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  const kava_tensor *w = node->saved[1];
  const kava_node *from = node->saved[0] ? NULL : node->inputs[0]->node;
  kava_linear_args a = {.dtype = grad->dtype,
                        .in = w->shape[1],
                        .out = w->shape[0],
                        .w = kava_tensor_data(w),
                        .wtype = w->dtype,
                        .scaling = kava_tensor_scaling(w),
                        .first = kava_tensor_first_row(w),
                        .precision = (kava_dtype)node->integers[0]};
  a.rows = a.out ? kava_tensor_numel(grad) / a.out : 0;
  if (node->input_count > 3) KAVA_TRY(kava_grad_add(node->inputs[3], (kava_tensor *)grad)); /* as it is, not copied */
  /* An x that is made again goes before dx, which is as large, is made; one that goes back in the same pass wants dx.
   */
  bool w_first = from && !from->back_again, given = false;
  if (from && !w_first && a.rows) KAVA_TRY(give_gated(node, &a, grad, &given));
  if (!w_first && !given) KAVA_TRY(give_x(node, &a, grad));
  KAVA_TRY(give_w(node, &a, grad));
  if (w_first) KAVA_TRY(give_x(node, &a, grad));
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

/* What a product read, for its record: x and w as the kernel had them. */
typedef struct product {
  kava_tensor *x, *w, *y;
} product;

static void product_release(product *p) {
  kava_tensor_release(&p->x);
  kava_tensor_release(&p->w);
  kava_tensor_release(&p->y);
}

/* What may be made beside the product of x and the rows of a gate and an up: act = f(gate) up. */
typedef struct gating {
  kava_activation kind;
  bool keeps; /* the product is wanted, too */
  kava_tensor *act;
} gating;

/* The product and g->act, or that alone, where the device has them in one; else g->act stays NULL. */
static kava_status multiply_gated(const kava_linear_args *a, gating *g, product *p) {
  kava_status st = KAVA_OK;
  kava_tensor *act = NULL;
  int64_t shape[KAVA_MAX_DIMS];
  kava_device device = p->x->device;
  int last = p->x->dims - 1;
  if (device == KAVA_CPU || a->wtype != a->dtype || !kava_kernels_of(device)->linear_gate_up) return KAVA_OK;
  for (int i = 0; i < last; i++) shape[i] = p->x->shape[i];
  shape[last] = a->out / 2;
  KAVA_TRY(kava_tensor_new_on(device, a->dtype, p->x->dims, shape, &act));
  int span = kava_traced ? kava_span_op("linear_gate_up") : 0;
  st = kava_kernels_of(device)->linear_gate_up(a, g->kind, kava_tensor_data(p->x), p->y ? kava_tensor_data(p->y) : NULL,
                                               kava_tensor_data(act));
  if (span) kava_span_end(span);
  if (st == KAVA_UNSUPPORTED) {
    st = KAVA_OK;
    goto out;
  }
  KAVA_TRY(st);
  KAVA_TRY(kava_device_check(device, "linear_gate_up"));
  g->act = act;
  act = NULL;
out:
  kava_tensor_release(&act);
  return st;
}

/* residual: NULL, or as kava_linear_args has it; g NULL: the product alone */
static kava_status multiply(kava_tensor *x, kava_tensor *w, kava_tensor *bias, const kava_tensor *residual, gating *g,
                            product *p) {
  kava_status st = KAVA_OK;
  kava_tensor *cb = NULL;
  static const char *const names[3] = {"x", "w", "bias"};
  bool quantised = kava_dtype_is_quantised(w->dtype);
  kava_dtype dtype;
  int64_t shape[KAVA_MAX_DIMS];
  KAVA_TRY(check(x, w, bias));
  KAVA_TRY(kava_operand_dtype("linear", 3, (kava_tensor *[]){x, quantised ? NULL : w, bias}, names, &dtype));
  KAVA_TRY(kava_operand_device("linear", "w", w, x->device));
  if (quantised && dtype == KAVA_F64)
    KAVA_FAIL(KAVA_MISUSE, "linear: x is f64 but w is %s; cast x to f32", kava_dtype_name(w->dtype));
  if (quantised && w->requires_grad)
    KAVA_FAIL(KAVA_MISUSE, "linear: w is %s and requires a gradient; a quantised weight cannot be trained",
              kava_dtype_name(w->dtype));
  KAVA_TRY(kava_operand("linear", "x", x, dtype, &p->x));
  KAVA_TRY(kava_operand("linear", "bias", bias, dtype, &cb));
  if (quantised || kava_tensor_is_contiguous(w))
    KAVA_TRY(kava_tensor_near(w, &p->w)); /* a product reads it more than once */
  else
    KAVA_TRY(kava_operand("linear", "w", w, dtype, &p->w));
  for (int i = 0; i < x->dims; i++) shape[i] = x->shape[i];
  shape[x->dims - 1] = w->shape[0];
  if (!g || g->keeps) KAVA_TRY(kava_tensor_new_on(x->device, dtype, x->dims, shape, &p->y));
  kava_linear_args a = {.dtype = dtype,
                        .in = w->shape[1],
                        .out = w->shape[0],
                        .w = kava_tensor_data(p->w),
                        .wtype = p->w->dtype,
                        .scaling = kava_tensor_scaling(p->w),
                        .first = kava_tensor_first_row(p->w),
                        .precision = matmul_precision,
                        .residual = residual ? kava_tensor_data(residual) : NULL};
  a.rows = 1;
  for (int i = 0; i + 1 < x->dims; i++) a.rows *= x->shape[i];
  if (g && !bias && a.rows && a.out) KAVA_TRY(multiply_gated(&a, g, p));
  if (g && g->act) goto out;
  if (!p->y) KAVA_TRY(kava_tensor_new_on(x->device, dtype, x->dims, shape, &p->y));
  if (a.rows && a.out)
    KAVA_RUN_TRY(x->device, linear_forward, &a, kava_tensor_data(p->x), cb ? kava_tensor_data(cb) : NULL,
                 kava_tensor_data(p->y));
out:
  kava_tensor_release(&cb);
  return st;
}

static kava_status linear(kava_tensor *x, kava_tensor *w, kava_tensor *bias, kava_tensor *residual, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *inputs[4] = {x, w, bias, residual};
  int count = residual ? 4 : 3;
  product p = {0};
  kava_node *node;
  KAVA_TRY(multiply(x, w, bias, residual, NULL, &p));
  if (kava_tape_wanted(inputs, count)) {
    KAVA_TRY(kava_tape_record(residual ? "linear_added" : "linear", linear_backward, count, inputs, p.y, &node));
    node->integers[0] = matmul_precision;
    KAVA_TRY(kava_tape_keep(node, 0, 0, p.x));
    KAVA_TRY(kava_tape_save(node, 1, p.w));
  }
  *out = kava_tensor_retain(p.y);
out:
  product_release(&p);
  return st;
}

kava_status kava_op_linear(kava_tensor *x, kava_tensor *w, kava_tensor *bias, kava_tensor **out) {
  return linear(x, w, bias, NULL, out);
}

bool kava_linear_adds(const kava_tensor *x, const kava_tensor *w, const kava_tensor *residual) {
  if (x->device == KAVA_CPU || residual->device != x->device || residual->dtype != x->dtype || w->dims != 2 ||
      residual->dims != x->dims || x->dims < 1 || !kava_tensor_is_contiguous(residual) || x->shape[x->dims - 1] == 0)
    return false;
  for (int i = 0; i < x->dims; i++)
    if (residual->shape[i] != (i + 1 < x->dims ? x->shape[i] : w->shape[0])) return false;
  return true;
}

kava_status kava_op_linear_added(kava_tensor *x, kava_tensor *w, kava_tensor *bias, kava_tensor *residual,
                                 kava_tensor **out) {
  kava_tensor *y = NULL;
  if (kava_linear_adds(x, w, residual)) return linear(x, w, bias, residual, out);
  kava_status st = linear(x, w, bias, NULL, &y);
  if (st == KAVA_OK) st = kava_op_add(residual, y, out);
  kava_tensor_release(&y);
  return st;
}

/* ---- several layers of one x as one product ---- */

/* The gradients of one weight and bias of several: dy's columns from `first` on, in rows of their own. */
static kava_status apart_dw(const kava_linear_args *all, const kava_tensor *x, const kava_tensor *dy, int64_t first,
                            kava_tensor *w, kava_tensor *bias) {
  kava_status st = KAVA_OK;
  kava_tensor *columns = NULL, *own = NULL, *dw, *db;
  bool add_w = false, add_b = false;
  kava_linear_args a = *all;
  a.out = w->shape[0];
  KAVA_TRY(kava_grad_into_half(w, a.dtype, &dw, &add_w));
  KAVA_TRY(kava_grad_into_wide(bias, &db, &add_b));
  if (!dw && !db) goto out;
  a.dw_half = dw && dw->dtype != kava_dtype_wide(a.dtype);
  KAVA_TRY(kava_tensor_view(dy, 2, (int64_t[]){a.rows, a.out}, (int64_t[]){all->out, 1}, dy->offset + first, &columns));
  KAVA_TRY(kava_contiguous_as(columns, dy->dtype, &own));
  KAVA_RUN_TRY(dy->device, linear_dw, &a, kava_tensor_data(x), kava_tensor_data(own), dw ? kava_tensor_data(dw) : NULL,
               add_w, db ? kava_tensor_data(db) : NULL, add_b);
out:
  kava_tensor_release(&columns);
  kava_tensor_release(&own);
  return st;
}

/* node: inputs x, the weights, the biases if any; saved[0] x unless it can be made again, saved[1] the joined weight;
 * integers: precision, number of weights, of parts, widths of all parts but the last */
static kava_status joined_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *x, *w = node->saved[1], *dx, *dw = NULL, *db = NULL;
  int count = (int)node->integers[1], parts = (int)node->integers[2];
  kava_tensor **ws = node->inputs + 1, **bs = node->input_count > 1 + count ? ws + count : NULL;
  kava_part part[KAVA_LINEAR_PARTS];
  bool add_x, add_w = false, add_b = false, joined_w = true, joined_b = true;
  kava_linear_args a = {.dtype = grad->dtype,
                        .in = w->shape[1],
                        .out = w->shape[0],
                        .w = kava_tensor_data(w),
                        .wtype = w->dtype,
                        .precision = (kava_dtype)node->integers[0]};
  a.rows = kava_tensor_numel(grad) / a.out;
  int64_t rest = a.out;
  for (int i = 0; i < parts; i++) {
    part[i] = (kava_part){i + 1 < parts ? node->integers[3 + i] : rest, 0};
    rest -= part[i].width;
  }
  KAVA_TRY(kava_tape_parts_done(node, parts, part));
  KAVA_TRY(kava_grad_into(node->inputs[0], &dx, &add_x));
  if (dx) KAVA_RUN_TRY(grad->device, linear_dx, &a, kava_tensor_data(grad), kava_tensor_data(dx), add_x);
  /* a weight whose part nobody used gets no gradient, as if its product had not been */
  bool used = count != parts || node->written == (1u << parts) - 1;
  if (used) KAVA_TRY(kava_grad_into_joined(count, ws, a.dtype, &joined_w, &dw, &add_w));
  if (used && bs) KAVA_TRY(kava_grad_into_joined(count, bs, a.dtype, &joined_b, &db, &add_b));
  if (used && joined_w && joined_b && !dw && !db) goto out;
  KAVA_TRY(kava_tape_kept(node, 0, 0, &x));
  if (used && joined_w && joined_b) {
    a.dw_half = dw && dw->dtype != kava_dtype_wide(a.dtype);
    KAVA_RUN_TRY(grad->device, linear_dw, &a, kava_tensor_data(x), kava_tensor_data(grad),
                 dw ? kava_tensor_data(dw) : NULL, add_w, db ? kava_tensor_data(db) : NULL, add_b);
    goto out;
  }
  /* what was made for all of one kind, and holds nothing yet, goes: each gets its own */
  for (int i = 0; i < count; i++) {
    if (dw && !add_w) kava_tensor_release(&ws[i]->grad);
    if (db && !add_b) kava_tensor_release(&bs[i]->grad);
  }
  int64_t first = 0;
  for (int i = 0; i < count; i++) {
    if (used || node->written >> i & 1) KAVA_TRY(apart_dw(&a, x, grad, first, ws[i], bs ? bs[i] : NULL));
    first += ws[i]->shape[0];
  }
out:
  return st;
}

static bool adjoin(int count, kava_tensor *const *t, int dims) {
  for (int i = 0; i < count; i++) {
    if (!t[i] || t[i]->dims != dims || !kava_dtype_is_float(t[i]->dtype) || t[i]->dtype != t[0]->dtype ||
        !kava_tensor_is_contiguous(t[i]) || kava_tensor_numel(t[i]) == 0)
      return false;
    if (i > 0 && (t[i]->storage != t[0]->storage || t[i]->offset != t[i - 1]->offset + kava_tensor_numel(t[i - 1]) ||
                  (dims == 2 && t[i]->shape[1] != t[0]->shape[1])))
      return false;
  }
  return true;
}

bool kava_linear_joins(int count, kava_tensor *const *w, kava_tensor *const *bias) {
  if (!adjoin(count, w, 2)) return false;
  if (!bias) return true;
  if (!adjoin(count, bias, 1)) return false;
  for (int i = 0; i < count; i++)
    if (bias[i]->shape[0] != w[i]->shape[0]) return false;
  return true;
}

/* t[0 .. count) as one, without a record */
static kava_status joined(int count, kava_tensor *const *t, kava_tensor **out) {
  int64_t shape[2] = {0, t[0]->shape[t[0]->dims - 1]}, stride[2] = {shape[1], 1};
  for (int i = 0; i < count; i++) shape[0] += t[i]->shape[0];
  if (t[0]->dims == 1) stride[0] = 1;
  return kava_tensor_view(t[0], t[0]->dims, shape, stride, t[0]->offset, out);
}

/* g, of two parts: that, too, where it can be; where its product is not kept, outs stay NULL then. */
static kava_status linear_joined(kava_tensor *x, int count, kava_tensor *const *w, kava_tensor *const *bias, int parts,
                                 const kava_part *part, gating *g, kava_tensor **outs) {
  kava_status st = KAVA_OK;
  kava_tensor *inputs[1 + 2 * KAVA_LINEAR_PARTS] = {x}, *whole = NULL, *whole_bias = NULL;
  product p = {0};
  kava_node *node;
  int64_t width = 0, rows = 0;
  if (count < 1 || count > KAVA_LINEAR_PARTS || parts < 1 || parts > KAVA_LINEAR_PARTS ||
      !kava_linear_joins(count, w, bias))
    return kava_fail(KAVA_MISUSE, "linear_joined: the weights or biases do not lie behind one another");
  for (int i = 0; i < count; i++) {
    rows += w[i]->shape[0];
    inputs[1 + i] = w[i];
    if (bias) inputs[1 + count + i] = bias[i];
  }
  for (int i = 0; i < parts; i++) width += part[i].width;
  if (width != rows)
    return kava_fail(KAVA_MISUSE, "linear_joined: parts of %lld elements, but %lld rows of weights", (long long)width,
                     (long long)rows);
  int all = 1 + (bias ? 2 : 1) * count;
  KAVA_TRY(joined(count, w, &whole));
  if (bias) KAVA_TRY(joined(count, bias, &whole_bias));
  bool recorded = kava_tape_wanted(inputs, all);
  if (g) g->keeps = recorded;
  KAVA_TRY(multiply(x, whole, whole_bias, NULL, g, &p));
  if (recorded) {
    KAVA_TRY(kava_tape_record("linear_joined", joined_backward, all, inputs, p.y, &node));
    node->integers[0] = matmul_precision;
    node->integers[1] = count;
    node->integers[2] = parts;
    for (int i = 0; i + 1 < parts; i++) node->integers[3 + i] = part[i].width;
    KAVA_TRY(kava_tape_keep(node, 0, 0, p.x));
    KAVA_TRY(kava_tape_save(node, 1, p.w));
  }
  if (p.y) KAVA_TRY(kava_tape_parts(p.y, parts, part, outs));
out:
  product_release(&p);
  kava_tensor_release(&whole);
  kava_tensor_release(&whole_bias);
  return st;
}

kava_status kava_op_linear_joined(kava_tensor *x, int count, kava_tensor *const *w, kava_tensor *const *bias, int parts,
                                  const kava_part *part, kava_tensor **outs) {
  return linear_joined(x, count, w, bias, parts, part, NULL, outs);
}

kava_status kava_op_linear_gate_up(kava_activation kind, kava_tensor *x, int count, kava_tensor *const *w,
                                   kava_tensor *const *bias, const kava_part *part, kava_tensor **outs,
                                   kava_tensor **act) {
  kava_status st = KAVA_OK;
  gating g = {.kind = kind};
  outs[0] = outs[1] = *act = NULL;
  KAVA_TRY(linear_joined(x, count, w, bias, 2, part, part[0].width == part[1].width ? &g : NULL, outs));
  if (g.act && outs[0]) KAVA_TRY(kava_gated_record(kind, outs[0], outs[1], g.act));
  *act = g.act;
  g.act = NULL;
out:
  if (st != KAVA_OK) {
    kava_tensor_release(&outs[0]);
    kava_tensor_release(&outs[1]);
  }
  kava_tensor_release(&g.act);
  return st;
}

kava_status kava_linear_gated(kava_activation kind, kava_tensor *gate, kava_tensor *up, kava_tensor *w,
                              kava_tensor *bias, kava_tensor *residual, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  kava_dtype dtype = gate->dtype;
  *out = NULL;
  if (gate->device == KAVA_CPU || w->dtype != KAVA_FP8 || w->device != gate->device || up->dtype != dtype ||
      (bias && bias->dtype != dtype) || !kava_same_shape(gate, up) || !kava_tensor_is_contiguous(gate) ||
      !kava_tensor_is_contiguous(up) || kava_tape_wanted((kava_tensor *[]){gate, up, w, bias, residual}, 5) ||
      (residual && !kava_linear_adds(gate, w, residual)) || kava_tensor_offloaded(w) ||
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
                        .precision = matmul_precision,
                        .residual = residual ? kava_tensor_data(residual) : NULL};
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

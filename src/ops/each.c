#include "ops/each.h"
#include "kernels/kernels.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "ops/loss.h"
#include "ops/operand.h"
#include "ops/shape.h"
#include "tape/tape.h"

/* Plain floats of one type and shape, rows of at least one element, on a GPU. */
static bool alike(int count, kava_tensor *const *xs, int dims) {
  for (int i = 0; i < count; i++)
    if (xs[i]->device == KAVA_CPU || !kava_dtype_is_float(xs[i]->dtype) || xs[i]->dims < dims ||
        xs[i]->dtype != xs[0]->dtype || xs[i]->device != xs[0]->device || !kava_same_shape(xs[i], xs[0]) ||
        kava_tensor_numel(xs[i]) == 0)
      return false;
  return true;
}

/* Whether no two of them have their gradient in one place: they are to be written at once. */
static bool apart(int count, kava_tensor *const *xs) {
  for (int i = 0; i < count; i++)
    for (int j = 0; j < i; j++)
      if (xs[i] == xs[j] || (xs[i]->node && xs[i]->node == xs[j]->node)) return false;
  return true;
}

static int64_t row_of(const kava_tensor *t) {
  int64_t row = kava_operand_row(t, 1);
  return row ? row : t->shape[t->dims - 1];
}

/* ---- linear ---- */

#define MOST 32 /* as many parts a record can have */

/* C = alpha op(A) op(B), `batch` times: matrices of many tensors, whose columns or rows lie side by side */
static kava_gemm_args product_of(const kava_tensor *like, int64_t batch) {
  return (kava_gemm_args){.dtype = like->dtype, .alpha = 1, .batch = batch};
}

/* The gradients of xs[i .. i+n), side by side in dx: grad's columns by ws. */
static kava_status each_dx(const kava_tensor *w, const kava_tensor *grad, int i, int n, int64_t out, kava_tensor *dx,
                           bool add) {
  kava_status st = KAVA_OK;
  int64_t in = w->shape[1], size = kava_dtype_block_bytes(grad->dtype);
  kava_gemm_args a = product_of(grad, n);
  a.m = kava_tensor_numel(grad) / row_of(grad);
  a.n = a.ldb = a.stride_c = in;
  a.k = a.stride_a = out;
  a.beta = add;
  a.a = (const char *)kava_tensor_data(grad) + i * out * size;
  a.b = (const char *)kava_tensor_data(w) + i * out * in * size;
  a.c = kava_tensor_data(dx);
  a.lda = row_of(grad);
  a.ldc = in * n;
  a.stride_b = out * in;
  KAVA_RUN(grad->device, gemm, &a);
out:
  return st;
}

/* The gradients of ws[i .. i+n), behind one another from dw on: grad's columns by xs'. */
static kava_status each_dw(const kava_tensor *x, const kava_tensor *grad, int i, int n, int64_t out, int64_t in,
                           kava_tensor *dw, bool add) {
  kava_status st = KAVA_OK;
  int64_t size = kava_dtype_block_bytes(x->dtype);
  kava_gemm_args a = product_of(grad, n);
  a.trans_a = true;
  a.m = out;
  a.n = a.ldc = a.stride_b = in;
  a.k = kava_tensor_numel(grad) / row_of(grad);
  a.beta = add;
  a.a = (const char *)kava_tensor_data(grad) + i * out * size;
  a.b = (const char *)kava_tensor_data(x) + i * in * size;
  a.c = kava_tensor_data(dw);
  a.lda = row_of(grad);
  a.ldb = row_of(x);
  a.stride_a = out;
  a.stride_c = out * in;
  a.wide = dw->dtype != grad->dtype;
  KAVA_RUN(grad->device, gemm, &a);
out:
  return st;
}

/* node: inputs xs, ws; saved[0] the xs side by side, saved[1] the ws below each other, as the products had them. What
 * nobody used gets no gradient, as if its product had not been. */
static kava_status linear_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  int count = node->input_count / 2;
  kava_tensor **xs = node->inputs, **ws = xs + count, *x = node->saved[0], *w = node->saved[1], *dx = NULL, *to = NULL;
  int64_t in = w->shape[1], out = w->shape[0] / count;
  kava_part part[MOST] = {{0}};
  bool any = false, all = true, there = false, add = false;
  for (int i = 0; i < count; i++) {
    part[i] = (kava_part){out, 0};
    any = any || kava_needs_grad(xs[i]);
    all = all && (node->written >> i & 1);
  }
  KAVA_TRY(kava_tape_parts_done(node, count, part));
  if (all && any) {
    KAVA_TRY(kava_tensor_new_on(x->device, x->dtype, x->dims, x->shape, &dx));
    KAVA_TRY(each_dx(w, grad, 0, count, out, dx, false));
    KAVA_TRY(kava_grad_give_slices(count, xs, dx, dx->dims - 1));
  }
  if (all) KAVA_TRY(kava_grad_into_joined(count, ws, grad->dtype, &there, &to, &add));
  if (there && to) KAVA_TRY(each_dw(x, grad, 0, count, out, in, to, add));
  for (int i = 0; i < count; i++) {
    if (!all && (node->written >> i & 1)) {
      KAVA_TRY(kava_grad_into(xs[i], &to, &add));
      if (to) KAVA_TRY(each_dx(w, grad, i, 1, out, to, add));
    }
    if (!there && (node->written >> i & 1)) {
      KAVA_TRY(kava_grad_into_half(ws[i], grad->dtype, &to, &add));
      if (to) KAVA_TRY(each_dw(x, grad, i, 1, out, in, to, add));
    }
  }
out:
  kava_tensor_release(&dx);
  return st;
}

/* count is at most MOST */
static kava_status linear_together(int count, kava_tensor *const *xs, kava_tensor *const *ws, kava_tensor **outs) {
  kava_status st = KAVA_OK;
  kava_tensor *beside = NULL, *x = NULL, *w = NULL, *y = NULL, *inputs[2 * MOST];
  kava_part part[MOST];
  kava_node *node;
  int last = xs[0]->dims - 1;
  int64_t in = ws[0]->shape[1], out = ws[0]->shape[0], shape[KAVA_MAX_DIMS];
  for (int d = 0; d < last; d++) shape[d] = xs[0]->shape[d];
  shape[last] = out * count;
  for (int i = 0; i < count; i++) {
    inputs[i] = xs[i];
    inputs[count + i] = ws[i];
    part[i] = (kava_part){out, 0};
  }
  KAVA_TRY(kava_beside(count, xs, last, xs[0]->dtype, true, &beside));
  KAVA_TRY(kava_operand_rows("linear_each", "x", beside, xs[0]->dtype, 1, &x));
  KAVA_TRY(kava_beside(count, ws, 0, xs[0]->dtype, true, &w));
  KAVA_TRY(kava_tensor_new_on(x->device, x->dtype, x->dims, shape, &y));
  kava_gemm_args a = product_of(x, count);
  a.trans_b = true;
  a.m = kava_tensor_numel(x) / x->shape[last];
  a.n = a.stride_c = out;
  a.k = a.stride_a = a.ldb = in;
  a.a = kava_tensor_data(x);
  a.b = kava_tensor_data(w);
  a.c = kava_tensor_data(y);
  a.lda = row_of(x);
  a.ldc = out * count;
  a.stride_b = out * in;
  KAVA_RUN(x->device, gemm, &a);
  if (kava_tape_wanted(inputs, 2 * count)) {
    KAVA_TRY(kava_tape_record("linear_each", linear_backward, 2 * count, inputs, y, &node));
    KAVA_TRY(kava_tape_save(node, 0, x));
    KAVA_TRY(kava_tape_save(node, 1, w));
  }
  st = kava_tape_parts(y, count, part, outs);
out:
  kava_tensor_release(&beside);
  kava_tensor_release(&x);
  kava_tensor_release(&w);
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_linear_each(int count, kava_tensor *const *xs, kava_tensor *const *ws, kava_tensor **outs) {
  kava_status st = KAVA_OK;
  int made = 0;
  if (count < 1) return kava_fail(KAVA_MISUSE, "linear_each: at least one tensor is expected");
  bool together = alike(count, xs, 2) && alike(count, ws, 2) && ws[0]->dims == 2 && apart(count, ws) &&
                  ws[0]->device == xs[0]->device && ws[0]->shape[1] == xs[0]->shape[xs[0]->dims - 1] &&
                  (ws[0]->dtype == KAVA_F64) == (xs[0]->dtype == KAVA_F64);
  while (made < count) {
    int n = together && count - made > MOST ? MOST : together ? count - made : 1;
    KAVA_TRY(together ? linear_together(n, xs + made, ws + made, outs + made)
                      : kava_op_linear(xs[made], ws[made], NULL, &outs[made]));
    made += n;
  }
  return KAVA_OK;
out:
  while (made > 0) kava_tensor_release(&outs[--made]);
  return st;
}

/* ---- cosine ---- */

/* What a record has more of than it has room for. */
typedef struct pairs {
  int count;
  kava_tensor *s[KAVA_COSINES_MOST], *t[KAVA_COSINES_MOST]; /* detached */
  uint64_t versions[2 * KAVA_COSINES_MOST];
} pairs;

static void pairs_forget(void *context) {
  pairs *p = context;
  for (int i = 0; i < KAVA_COSINES_MOST; i++) {
    kava_tensor_release(&p->s[i]);
    kava_tensor_release(&p->t[i]);
  }
  kava_free(p);
}

/* x's rows, as kernels read them, without its record */
static kava_status keep_rows(kava_tensor *x, kava_tensor **out, uint64_t *version) {
  kava_tensor *rows = NULL;
  kava_status st = kava_operand_rows("cosine_each", "a tensor", x, x->dtype, 1, &rows);
  if (st == KAVA_OK) st = kava_tensor_detach(rows, out);
  if (st == KAVA_OK) *version = (*out)->storage->version;
  kava_tensor_release(&rows);
  return st;
}

static kava_cosines_args arguments(const pairs *p, const kava_tensor *keep, const kava_tensor *counted,
                                   const kava_tensor *slopes) {
  const kava_tensor *s = p->s[0];
  kava_cosines_args a = {.dtype = s->dtype,
                         .count = p->count,
                         .width = s->shape[s->dims - 1],
                         .keep = keep ? kava_tensor_data(keep) : NULL,
                         .counted = kava_f64(counted),
                         .slopes = kava_tensor_data(slopes)};
  a.rows = kava_tensor_numel(s) / a.width;
  for (int i = 0; i < p->count; i++) {
    a.s[i] = kava_tensor_data(p->s[i]);
    a.t[i] = kava_tensor_data(p->t[i]);
    a.s_row[i] = row_of(p->s[i]);
    a.t_row[i] = row_of(p->t[i]);
  }
  return a;
}

/* node: inputs the students; saved: keep, counted, slopes; context: the pairs */
static kava_status cosine_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  pairs *p = node->context;
  for (int i = 0; i < p->count; i++)
    if (p->s[i]->storage->version != p->versions[2 * i] || p->t[i]->storage->version != p->versions[2 * i + 1])
      return kava_fail(KAVA_MISUSE, "backward(): a tensor that %s needs was written to after the forward pass",
                       node->op);
  kava_cosines_args a = arguments(p, node->saved[0], node->saved[1], node->saved[2]);
  a.grad = kava_tensor_data(grad);
  for (int i = 0; i < p->count; i++) {
    kava_tensor *ds;
    KAVA_TRY(kava_grad_into_rows(node->inputs[i], &ds, &a.add[i]));
    a.ds[i] = ds ? kava_tensor_data(ds) : NULL;
    a.ds_row[i] = ds ? row_of(ds) : 0;
  }
  KAVA_RUN(grad->device, cosines_grad, &a);
out:
  return st;
}

/* All at once; count is at most KAVA_COSINES_MOST. */
static kava_status cosine_together(int count, kava_tensor *const *students, kava_tensor *const *teachers,
                                   kava_tensor *mask, kava_tensor **loss) {
  static const char op[] = "cosine_each";
  kava_status st = KAVA_OK;
  const kava_tensor *s = students[0];
  kava_tensor *keep = NULL, *counted = NULL, *slopes = NULL, *y = NULL;
  int64_t rows = kava_tensor_numel(s) / s->shape[s->dims - 1];
  kava_dtype wide = kava_dtype_wide(s->dtype);
  kava_node *node;
  pairs *p = kava_calloc(1, sizeof *p);
  if (!p) return KAVA_MEMORY;
  KAVA_TRY(kava_operand_keep(op, mask, rows, s->device, &keep));
  KAVA_TRY(kava_operand_counted(keep, NULL, rows, s->device, &counted));
  for (p->count = 0; p->count < count; p->count++) {
    int i = p->count;
    KAVA_TRY(keep_rows(students[i], &p->s[i], &p->versions[2 * i]));
    KAVA_TRY(keep_rows(teachers[i], &p->t[i], &p->versions[2 * i + 1]));
  }
  KAVA_TRY(kava_tensor_new_on(s->device, wide, 3, (int64_t[]){count, rows, 2}, &slopes));
  KAVA_TRY(kava_tensor_new_on(s->device, wide, 0, NULL, &y));
  kava_cosines_args a = arguments(p, keep, counted, slopes);
  a.loss = kava_tensor_data(y);
  KAVA_RUN(s->device, cosines, &a);
  if (kava_tape_wanted(students, count)) {
    KAVA_TRY(kava_tape_record(op, cosine_backward, count, students, y, &node));
    node->context = p;
    node->forget = pairs_forget;
    p = NULL;
    KAVA_TRY(kava_tape_save(node, 0, keep));
    KAVA_TRY(kava_tape_save(node, 1, counted));
    KAVA_TRY(kava_tape_save(node, 2, slopes));
  }
  *loss = y;
  y = NULL;
out:
  if (p) pairs_forget(p);
  kava_tensor_release(&keep);
  kava_tensor_release(&counted);
  kava_tensor_release(&slopes);
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_cosine_each(int count, kava_tensor *const *students, kava_tensor *const *teachers,
                                kava_tensor *mask, kava_tensor **loss) {
  kava_status st = KAVA_OK;
  kava_tensor *sum = NULL, *part = NULL, *next = NULL, *whole = NULL;
  if (count < 1) return kava_fail(KAVA_MISUSE, "cosine_each: at least one pair is expected");
  bool together = alike(count, students, 1) && alike(count, teachers, 1) && apart(count, students) &&
                  students[0]->dtype == teachers[0]->dtype && students[0]->device == teachers[0]->device &&
                  kava_same_shape(students[0], teachers[0]) && !kava_tape_wanted(teachers, count);
  if (together && count <= KAVA_COSINES_MOST) return cosine_together(count, students, teachers, mask, loss);
  for (int i = 0, n; i < count; i += n) {
    n = !together ? 1 : count - i < KAVA_COSINES_MOST ? count - i : KAVA_COSINES_MOST;
    if (together) {
      KAVA_TRY(cosine_together(n, students + i, teachers + i, mask, &next));
      KAVA_TRY(kava_op_scale(next, n, &part));
      kava_tensor_release(&next);
    } else
      KAVA_TRY(kava_op_cosine_loss(students[i], teachers[i], mask, &part));
    if (sum) {
      KAVA_TRY(kava_op_add(sum, part, &next));
      kava_tensor_release(&sum);
      kava_tensor_release(&part);
    } else
      next = part;
    sum = next;
    part = next = NULL;
  }
  KAVA_TRY(kava_tensor_full_on(sum->device, sum->dtype, 0, NULL, count, count, &whole));
  KAVA_TRY(kava_op_div(sum, whole, loss));
out:
  kava_tensor_release(&sum);
  kava_tensor_release(&part);
  kava_tensor_release(&next);
  kava_tensor_release(&whole);
  return st;
}

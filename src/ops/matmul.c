/* ops/matmul: y = a b, batched.  Backward: ga = gy b^T, gb = a^T gy, summed over broadcast leading dimensions. */
#include "ops/matmul.h"
#include "kernels/kernels.h"
#include "ops/cast.h"
#include "ops/operand.h"
#include "ops/shape.h"
#include "tape/tape.h"
#include <string.h>

/* How a kernel reads the last two dimensions of t without a copy: row-major, or transposed. */
static bool matrix_layout(const kava_tensor *t, bool *trans, int64_t *ld) {
  int64_t rows = t->shape[t->dims - 2], cols = t->shape[t->dims - 1];
  int64_t down = t->stride[t->dims - 2], across = t->stride[t->dims - 1];
  *trans = false;
  if ((across == 1 || cols == 1) && (rows == 1 || down >= cols)) {
    *ld = rows == 1 ? cols : down;
    return across == 1 || rows == 1 || cols == 1;
  }
  *trans = true;
  *ld = cols == 1 ? rows : across;
  return (down == 1 || rows == 1) && (cols == 1 || across >= rows);
}

/* One stride that steps through the leading dimensions of t broadcast to `shape`, or -1 when there is none. */
static int64_t batch_stride(const kava_tensor *t, int lead, const int64_t *shape) {
  int64_t stride = 0, size = 1;
  bool found = false, still = false;
  int own = t->dims - 2;
  for (int d = lead - 1; d >= 0; d--) {
    int from = d - (lead - own);
    if (shape[d] == 1) continue;
    int64_t step = from < 0 || t->shape[from] == 1 ? 0 : t->stride[from];
    if (!found) {
      stride = step;
      still = step == 0;
      found = true;
    } else if (still ? step != 0 : step != stride * size)
      return -1;
    size *= shape[d];
  }
  return stride;
}

/* Element offset of the matrix that batch entry `index` (of the broadcast leading shape) reads. */
static int64_t batch_offset(const kava_tensor *t, int lead, const int64_t *shape, int64_t index) {
  int64_t offset = 0;
  int own = t->dims - 2;
  for (int d = lead - 1; d >= 0; index /= shape[d--]) {
    int from = d - (lead - own);
    if (from >= 0 && t->shape[from] != 1) offset += index % shape[d] * t->stride[from];
  }
  return offset;
}

/* a, b of one float type with at least two dimensions each, of any strides; not recorded */
static kava_status product(const kava_tensor *a, const kava_tensor *b, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *left = kava_tensor_retain((kava_tensor *)a), *right = kava_tensor_retain((kava_tensor *)b), *y = NULL;
  int64_t m = a->shape[a->dims - 2], k = a->shape[a->dims - 1], n = b->shape[b->dims - 1], shape[KAVA_MAX_DIMS],
          batch = 1;
  int lead;
  kava_tensor lead_a = {.dims = a->dims - 2}, lead_b = {.dims = b->dims - 2}; /* only their shapes are looked at */
  memcpy(lead_a.shape, a->shape, sizeof shape);
  memcpy(lead_b.shape, b->shape, sizeof shape);
  KAVA_TRY(kava_broadcast_shape("matmul", &lead_a, &lead_b, &lead, shape));
  for (int d = 0; d < lead; d++) batch *= shape[d];
  shape[lead] = m;
  shape[lead + 1] = n;
  KAVA_TRY(kava_tensor_new_on(a->device, a->dtype, lead + 2, shape, &y));
  kava_gemm_args g = {
      .dtype = a->dtype, .m = m, .n = n, .k = k, .alpha = 1, .ldc = n, .batch = batch, .stride_c = m * n};
  if (!matrix_layout(left, &g.trans_a, &g.lda)) {
    kava_tensor_release(&left);
    KAVA_TRY(kava_contiguous_as(a, a->dtype, &left));
    matrix_layout(left, &g.trans_a, &g.lda);
  }
  if (!matrix_layout(right, &g.trans_b, &g.ldb)) {
    kava_tensor_release(&right);
    KAVA_TRY(kava_contiguous_as(b, b->dtype, &right));
    matrix_layout(right, &g.trans_b, &g.ldb);
  }
  int64_t size = kava_dtype_block_bytes(a->dtype);
  g.a = kava_tensor_data(left);
  g.b = kava_tensor_data(right);
  g.c = kava_tensor_data(y);
  g.stride_a = batch_stride(left, lead, shape);
  g.stride_b = batch_stride(right, lead, shape);
  if (batch == 0 || m == 0 || n == 0) {
  } else if (k == 0)
    KAVA_TRY(kava_tensor_clear(y));
  else if (batch > 1 && g.stride_b == 0 && !g.trans_a && g.stride_a == m * g.lda) { /* one tall product */
    g.m = m * batch;
    g.batch = 1;
    KAVA_RUN(a->device, gemm, &g);
  } else if (g.stride_a >= 0 && g.stride_b >= 0)
    KAVA_RUN(a->device, gemm, &g);
  else {
    const char *base_a = g.a, *base_b = g.b;
    char *base_c = g.c;
    g.batch = 1;
    for (int64_t i = 0; i < batch; i++) {
      g.a = base_a + batch_offset(left, lead, shape, i) * size;
      g.b = base_b + batch_offset(right, lead, shape, i) * size;
      g.c = base_c + i * m * n * size;
      KAVA_RUN(a->device, gemm, &g);
    }
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&left);
  kava_tensor_release(&right);
  kava_tensor_release(&y);
  return st;
}

static kava_status transposed(const kava_tensor *t, kava_tensor **out) {
  int64_t shape[KAVA_MAX_DIMS], stride[KAVA_MAX_DIMS];
  int last = t->dims - 1;
  memcpy(shape, t->shape, sizeof shape);
  memcpy(stride, t->stride, sizeof stride);
  shape[last] = t->shape[last - 1];
  shape[last - 1] = t->shape[last];
  stride[last] = t->stride[last - 1];
  stride[last - 1] = t->stride[last];
  return kava_tensor_view(t, t->dims, shape, stride, t->offset, out);
}

/* t [..., R, C], contiguous, as one matrix [rows, C] */
static kava_status tall(const kava_tensor *t, kava_tensor **out) {
  int64_t cols = t->shape[t->dims - 1], rows = 1;
  for (int d = 0; d < t->dims - 1; d++) rows *= t->shape[d];
  return kava_tensor_view(t, 2, (int64_t[]){rows, cols}, (int64_t[]){cols, 1}, t->offset, out);
}

/* Adds p, summed over its broadcast leading dimensions and converted, to x's gradient. */
static kava_status give(kava_tensor *x, kava_tensor *p) {
  kava_tensor *converted = NULL;
  kava_status st = kava_contiguous_as(p, kava_grad_dtype(x), &converted);
  if (st == KAVA_OK) st = kava_grad_add_summed(x, converted);
  kava_tensor_release(&converted);
  return st;
}

/* saved[0], saved[1]: a, b */
static kava_status matmul_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *a = node->inputs[0], *b = node->inputs[1];
  kava_tensor *wide = NULL, *turned = NULL, *p = NULL, *flat = NULL, *flat_grad = NULL;
  if (kava_needs_grad(a)) {
    KAVA_TRY(kava_contiguous_as(node->saved[1], grad->dtype, &wide));
    KAVA_TRY(transposed(wide, &turned));
    KAVA_TRY(product(grad, turned, &p));
    KAVA_TRY(give(a, p));
    kava_tensor_release(&wide);
    kava_tensor_release(&turned);
    kava_tensor_release(&p);
  }
  if (kava_needs_grad(b)) {
    KAVA_TRY(kava_contiguous_as(node->saved[0], grad->dtype, &wide));
    if (b->dims == 2 && a->dims == grad->dims) { /* the sum over the batch is part of one product */
      KAVA_TRY(tall(wide, &flat));
      KAVA_TRY(tall(grad, &flat_grad));
      KAVA_TRY(transposed(flat, &turned));
      KAVA_TRY(product(turned, flat_grad, &p));
    } else {
      KAVA_TRY(transposed(wide, &turned));
      KAVA_TRY(product(turned, grad, &p));
    }
    KAVA_TRY(give(b, p));
  }
out:
  kava_tensor_release(&wide);
  kava_tensor_release(&turned);
  kava_tensor_release(&p);
  kava_tensor_release(&flat);
  kava_tensor_release(&flat_grad);
  return st;
}

static kava_status matrices(kava_tensor *a, kava_tensor *b, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *x = NULL, *z = NULL, *y = NULL;
  kava_node *node;
  kava_dtype of_a, of_b;
  KAVA_TRY(kava_compute_dtype("matmul", "the left operand", a, true, &of_a));
  KAVA_TRY(kava_compute_dtype("matmul", "the right operand", b, true, &of_b));
  KAVA_TRY(kava_operand_device("matmul", "the right operand", b, a->device));
  if (a->shape[a->dims - 1] != b->shape[b->dims - 2]) {
    char left[96], right[96];
    kava_shape_format(a->dims, a->shape, left, sizeof left);
    kava_shape_format(b->dims, b->shape, right, sizeof right);
    KAVA_FAIL(KAVA_MISUSE, "matmul: %s times %s: the left's last size must be the right's second to last", left, right);
  }
  if (of_b == KAVA_F64) of_a = KAVA_F64;
  if (a->dtype == of_a)
    x = kava_tensor_retain(a);
  else
    KAVA_TRY(kava_contiguous_as(a, of_a, &x));
  if (b->dtype == of_a)
    z = kava_tensor_retain(b);
  else
    KAVA_TRY(kava_contiguous_as(b, of_a, &z));
  KAVA_TRY(product(x, z, &y));
  kava_tensor *inputs[] = {a, b};
  if (kava_tape_wanted(inputs, 2)) {
    KAVA_TRY(kava_tape_record("matmul", matmul_backward, 2, inputs, y, &node));
    KAVA_TRY(kava_tape_save(node, 0, a));
    KAVA_TRY(kava_tape_save(node, 1, b));
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&x);
  kava_tensor_release(&z);
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_matmul(kava_tensor *a, kava_tensor *b, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *left = NULL, *right = NULL, *y = NULL;
  if (a->dims == 0 || b->dims == 0) return kava_fail(KAVA_MISUSE, "matmul: a scalar has no matrix product");
  if (a->dims >= 2 && b->dims >= 2) return matrices(a, b, out);
  KAVA_TRY(a->dims == 1 ? kava_op_reshape(a, 2, (int64_t[]){1, a->shape[0]}, &left) : kava_op_contiguous(a, &left));
  KAVA_TRY(b->dims == 1 ? kava_op_reshape(b, 2, (int64_t[]){b->shape[0], 1}, &right) : kava_op_contiguous(b, &right));
  KAVA_TRY(matrices(left, right, &y));
  int64_t shape[KAVA_MAX_DIMS];
  int dims = 0;
  for (int d = 0; d < y->dims; d++)
    if (!(a->dims == 1 && d == y->dims - 2) && !(b->dims == 1 && d == y->dims - 1)) shape[dims++] = y->shape[d];
  KAVA_TRY(kava_op_reshape(y, dims, shape, out));
out:
  kava_tensor_release(&left);
  kava_tensor_release(&right);
  kava_tensor_release(&y);
  return st;
}

/* ops/reduce: reductions. x is seen as runs [outer, n, inner] of neighbouring reduced dimensions, one kernel call a
 * run.
 *
 * Backward: sum, mean: gx = scale * gy, broadcast.  norm: gx = x * gy / y.  max, min: gy at the first extreme element.
 */
#include "ops/reduce.h"
#include "kernels/kernels.h"
#include "ops/cast.h"
#include "ops/shape.h"
#include "tape/tape.h"
#include <math.h>
#include <string.h>

typedef struct axes {
  bool reduced[KAVA_MAX_DIMS];
  int64_t n; /* elements in a group */
} axes;

static kava_status parse_axes(const char *op, const kava_tensor *x, int count, const int *dims, axes *out) {
  memset(out, 0, sizeof *out);
  out->n = 1;
  for (int i = 0; i < count; i++) {
    int d;
    kava_status st = kava_check_dim(op, x, dims[i], &d);
    if (st != KAVA_OK) return st;
    if (out->reduced[d]) return kava_fail(KAVA_MISUSE, "%s: dimension %d is named twice", op, d + 1);
    out->reduced[d] = true;
  }
  for (int d = 0; d < x->dims; d++) {
    if (count == 0) out->reduced[d] = true;
    if (out->reduced[d]) out->n *= x->shape[d];
  }
  return KAVA_OK;
}

static int reduced_shape(const kava_tensor *x, const axes *a, bool keepdim, int64_t *shape) {
  int dims = 0;
  for (int d = 0; d < x->dims; d++) {
    if (!a->reduced[d])
      shape[dims++] = x->shape[d];
    else if (keepdim)
      shape[dims++] = 1;
  }
  return dims;
}

/* x contiguous, of a compute type; y gets its own storage, shaped as asked. Runs are reduced from the innermost out. */
static kava_status reduce_plain(kava_reduce op, const kava_tensor *x, const axes *a, bool keepdim, double scale,
                                kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *from = kava_tensor_retain((kava_tensor *)x), *to = NULL;
  int64_t size[KAVA_MAX_DIMS + 1], shape[KAVA_MAX_DIMS];
  for (int d = 0; d < x->dims; d++) size[d] = x->shape[d];
  int runs = 0, done = 0;
  for (int d = 0; d < x->dims; d++) runs += a->reduced[d] && (d == 0 || !a->reduced[d - 1]);
  for (int hi = x->dims - 1; hi >= 0; hi--) {
    if (!a->reduced[hi]) continue;
    int64_t outer = 1, n = 1, inner = 1;
    int lo = hi;
    while (lo > 0 && a->reduced[lo - 1]) lo--;
    for (int d = 0; d < lo; d++) outer *= size[d];
    for (int d = lo; d <= hi; d++) n *= size[d], size[d] = 1;
    for (int d = hi + 1; d < x->dims; d++) inner *= size[d];
    KAVA_TRY(kava_tensor_new_on(x->device, x->dtype, x->dims, size, &to));
    kava_reduce step = op == KAVA_SUM_SQUARES && done ? KAVA_SUM : op;
    double factor = ++done == runs ? scale : 1.0;
    KAVA_RUN(x->device, reduce, step, x->dtype, kava_tensor_data(from), kava_tensor_data(to), outer, n, inner, factor);
    kava_tensor_release(&from);
    from = to;
    to = NULL;
    hi = lo;
  }
  if (runs == 0) { /* a scalar, or nothing to reduce: each element is its own group */
    KAVA_TRY(kava_tensor_empty_like(x, x->dtype, &to));
    KAVA_RUN(x->device, reduce, op, x->dtype, kava_tensor_data(x), kava_tensor_data(to), kava_tensor_numel(x), 1, 1,
             scale);
    kava_tensor_release(&from);
    from = to;
    to = NULL;
  }
  int dims = reduced_shape(x, a, keepdim, shape);
  int64_t stride[KAVA_MAX_DIMS], at = 1;
  for (int d = dims - 1; d >= 0; at *= shape[d--]) stride[d] = at;
  KAVA_TRY(kava_tensor_view(from, dims, shape, stride, 0, out));
out:
  kava_tensor_release(&from);
  kava_tensor_release(&to);
  return st;
}

kava_status kava_sum_plain(const kava_tensor *x, int count, const int *dims, double scale, kava_tensor **out) {
  axes a;
  kava_status st = parse_axes("sum", x, count, dims, &a);
  return st == KAVA_OK ? reduce_plain(KAVA_SUM, x, &a, false, scale, out) : st;
}

/* The record's integers: [0] a bit for each reduced dimension of x; the strides of gy (contiguous) seen with x's shape.
 */
static void broadcast_strides(const kava_node *node, const kava_tensor *x, int64_t *stride) {
  int64_t step = 1;
  for (int d = x->dims - 1; d >= 0; d--) {
    bool gone = node->integers[0] >> d & 1;
    stride[d] = gone ? 0 : step;
    if (!gone) step *= x->shape[d];
  }
}

/* x's gradient (+)= g * factor, both of `type`, which have these strides under x's shape */
static kava_status add_product(kava_tensor *x, kava_dtype type, const void *g, const int64_t *g_stride,
                               const void *factor, const int64_t *factor_stride) {
  kava_status st = KAVA_OK;
  kava_tensor *into, *product = NULL, *converted = NULL;
  bool add;
  KAVA_TRY(kava_grad_into(x, &into, &add));
  if (!into) return st;
  bool direct = !add && into->dtype == type;
  if (!direct) KAVA_TRY(kava_tensor_empty_like(into, type, &product));
  kava_strided args = {.dims = x->dims, .in = {g, factor}, .out = kava_tensor_data(direct ? into : product)};
  memcpy(args.shape, x->shape, sizeof args.shape);
  memcpy(args.in_stride[0], g_stride, sizeof args.out_stride);
  memcpy(args.in_stride[1], factor_stride, sizeof args.out_stride);
  memcpy(args.out_stride, into->stride, sizeof args.out_stride);
  KAVA_RUN(into->device, binary, KAVA_MUL, type, &args);
  if (direct) goto out;
  KAVA_TRY(kava_contiguous_as(product, into->dtype, &converted));
  KAVA_TRY(add ? kava_add_into(into, converted) : kava_copy_into(into, converted));
out:
  kava_tensor_release(&product);
  kava_tensor_release(&converted);
  return st;
}

static kava_status sum_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor *x = node->inputs[0], *scale = NULL;
  int64_t stride[KAVA_MAX_DIMS] = {0}, none[KAVA_MAX_DIMS] = {0};
  if (!kava_needs_grad(x)) return KAVA_OK;
  kava_status st = kava_tensor_full_on(grad->device, grad->dtype, 0, NULL, node->numbers[0], 0, &scale);
  broadcast_strides(node, x, stride);
  if (st == KAVA_OK) st = add_product(x, grad->dtype, kava_tensor_data(grad), stride, kava_tensor_data(scale), none);
  kava_tensor_release(&scale);
  return st;
}

/* saved[0]: x, saved[1]: y. gx = x * (gy / y), and 0 where y is 0 */
static kava_status norm_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *x = node->inputs[0], *wide = NULL, *ratio = NULL, *zero = NULL, *empty = NULL;
  int64_t stride[KAVA_MAX_DIMS] = {0};
  if (!kava_needs_grad(x)) return KAVA_OK;
  KAVA_TRY(kava_contiguous_as(node->saved[0], grad->dtype, &wide));
  KAVA_TRY(kava_tensor_empty_like(grad, grad->dtype, &ratio));
  KAVA_TRY(kava_tensor_zeros_on(grad->device, grad->dtype, 0, NULL, &zero));
  KAVA_TRY(kava_tensor_new_on(grad->device, KAVA_BOOL, grad->dims, grad->shape, &empty));
  const void *y = kava_tensor_data(node->saved[1]);
  kava_strided args = {.dims = 1, .shape = {kava_tensor_numel(grad)}, .in_stride = {{1}, {1}}, .out_stride = {1}};
  args.in[0] = kava_tensor_data(grad);
  args.in[1] = y;
  args.out = kava_tensor_data(ratio);
  KAVA_RUN(grad->device, binary, KAVA_DIV, grad->dtype, &args);
  args.in[0] = y;
  args.in[1] = kava_tensor_data(zero);
  args.in_stride[1][0] = 0;
  args.out = kava_tensor_data(empty);
  KAVA_RUN(grad->device, binary, KAVA_EQ, grad->dtype, &args);
  args.in[0] = kava_tensor_data(zero);
  args.in_stride[0][0] = 0;
  args.in[1] = args.out = kava_tensor_data(ratio);
  args.in_stride[1][0] = 1;
  args.in[2] = kava_tensor_data(empty);
  args.in_stride[2][0] = 1;
  KAVA_RUN(grad->device, where, grad->dtype, &args);
  broadcast_strides(node, x, stride);
  KAVA_TRY(add_product(x, grad->dtype, kava_tensor_data(ratio), stride, kava_tensor_data(wide), wide->stride));
out:
  kava_tensor_release(&wide);
  kava_tensor_release(&ratio);
  kava_tensor_release(&zero);
  kava_tensor_release(&empty);
  return st;
}

/* x with its reduced dimensions moved to the end, contiguous: [groups, n]. *order gets the permutation. */
static kava_status grouped(const kava_tensor *x, const axes *a, kava_dtype dtype, int *order, kava_tensor **out) {
  kava_tensor *view = NULL;
  int64_t shape[KAVA_MAX_DIMS], stride[KAVA_MAX_DIMS];
  int at = 0;
  for (int pass = 0; pass < 2; pass++)
    for (int d = 0; d < x->dims; d++)
      if (a->reduced[d] == (pass == 1)) order[at++] = d;
  for (int d = 0; d < x->dims; d++) {
    shape[d] = x->shape[order[d]];
    stride[d] = x->stride[order[d]];
  }
  kava_status st = kava_tensor_view(x, x->dims, shape, stride, x->offset, &view);
  if (st == KAVA_OK) st = kava_contiguous_as(view, dtype, out);
  kava_tensor_release(&view);
  return st;
}

/* saved[0]: x; integers: [0] reduced bits, [1] KAVA_MAX or KAVA_MIN */
static kava_status extreme_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *x = node->inputs[0], *groups = NULL, *index = NULL, *sparse = NULL, *into, *view = NULL;
  kava_tensor *columns = NULL, *hit = NULL, *zero = NULL, *converted = NULL;
  int64_t *numbers = NULL;
  int order[KAVA_MAX_DIMS];
  axes a = {.n = 1};
  if (!kava_needs_grad(x)) return KAVA_OK;
  for (int d = 0; d < x->dims; d++) {
    a.reduced[d] = node->integers[0] >> d & 1;
    if (a.reduced[d]) a.n *= x->shape[d];
  }
  int64_t count = kava_tensor_numel(grad);
  KAVA_TRY(grouped(node->saved[0], &a, grad->dtype, order, &groups));
  KAVA_TRY(kava_tensor_new_on(grad->device, KAVA_I64, 1, &count, &index));
  KAVA_RUN(grad->device, argreduce, (kava_reduce)node->integers[1], grad->dtype, kava_tensor_data(groups),
           kava_i64(index), count, a.n, 1);
  /* hit[i, j] = j is index[i]; sparse[i, j] = hit[i, j] ? grad[i] : 0 */
  if (!(numbers = kava_alloc((size_t)a.n * sizeof *numbers))) KAVA_TRY(KAVA_MEMORY);
  for (int64_t j = 0; j < a.n; j++) numbers[j] = j;
  KAVA_TRY(kava_tensor_from_on(grad->device, KAVA_I64, 1, &a.n, numbers, &columns));
  KAVA_TRY(kava_tensor_new_on(grad->device, KAVA_BOOL, 2, (int64_t[]){count, a.n}, &hit));
  KAVA_TRY(kava_tensor_zeros_on(grad->device, grad->dtype, 0, NULL, &zero));
  KAVA_TRY(kava_tensor_new_on(grad->device, grad->dtype, groups->dims, groups->shape, &sparse));
  kava_strided args = {.dims = 2,
                       .shape = {count, a.n},
                       .in = {kava_i64(columns), kava_i64(index)},
                       .out = kava_tensor_data(hit),
                       .in_stride = {{0, 1}, {1, 0}},
                       .out_stride = {a.n, 1}};
  KAVA_RUN(grad->device, binary, KAVA_EQ, KAVA_I64, &args);
  kava_strided put = {.dims = 2,
                      .shape = {count, a.n},
                      .in = {kava_tensor_data(grad), kava_tensor_data(zero), kava_tensor_data(hit)},
                      .out = kava_tensor_data(sparse),
                      .in_stride = {{1, 0}, {0, 0}, {a.n, 1}},
                      .out_stride = {a.n, 1}};
  KAVA_RUN(grad->device, where, grad->dtype, &put);
  KAVA_TRY(kava_grad_into_zeroed(x, &into));
  int64_t stride[KAVA_MAX_DIMS];
  for (int d = 0; d < x->dims; d++) stride[d] = into->stride[order[d]];
  KAVA_TRY(kava_tensor_view(into, x->dims, sparse->shape, stride, into->offset, &view));
  KAVA_TRY(kava_contiguous_as(sparse, into->dtype, &converted));
  KAVA_TRY(kava_add_into(view, converted));
out:
  kava_free(numbers);
  kava_tensor_release(&columns);
  kava_tensor_release(&hit);
  kava_tensor_release(&zero);
  kava_tensor_release(&converted);
  kava_tensor_release(&groups);
  kava_tensor_release(&index);
  kava_tensor_release(&sparse);
  kava_tensor_release(&view);
  return st;
}

static kava_status reduced(const char *op, kava_reduce kind, kava_tensor *x, int count, const int *dims, bool keepdim,
                           bool floats, bool mean, kava_backward_fn backward, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *wide = NULL, *y = NULL, *narrow = NULL;
  kava_node *node;
  kava_dtype compute;
  axes a;
  KAVA_TRY(kava_compute_dtype(op, "the tensor", x, floats, &compute));
  KAVA_TRY(parse_axes(op, x, count, dims, &a));
  if (a.n == 0 && kind >= KAVA_MAX) KAVA_FAIL(KAVA_MISUSE, "%s: there is no element to choose from", op);
  double scale = mean ? 1.0 / (double)a.n : 1.0;
  KAVA_TRY(kava_contiguous_as(x, compute, &wide));
  KAVA_TRY(reduce_plain(kind, wide, &a, keepdim, scale, &y));
  if (kind == KAVA_SUM_SQUARES)
    KAVA_RUN(x->device, unary, KAVA_SQRT, compute, kava_tensor_data(y), kava_tensor_data(y), kava_tensor_numel(y), 0,
             0);
  kava_dtype final = compute == KAVA_I64 && kind >= KAVA_MAX ? x->dtype : compute; /* sums of integers are i64 */
  if (final != compute) {
    KAVA_TRY(kava_contiguous_as(y, final, &narrow));
    kava_tensor_release(&y);
    y = narrow;
    narrow = NULL;
  }
  if (compute != KAVA_I64 && kava_tape_wanted(&x, 1)) {
    KAVA_TRY(kava_tape_record(op, backward, 1, &x, y, &node));
    for (int d = 0; d < x->dims; d++) node->integers[0] |= (int64_t)a.reduced[d] << d;
    node->integers[1] = kind;
    node->numbers[0] = scale;
    if (kind != KAVA_SUM) KAVA_TRY(kava_tape_save(node, 0, x));
    if (kind == KAVA_SUM_SQUARES) KAVA_TRY(kava_tape_save(node, 1, y));
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&wide);
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_sum(kava_tensor *x, int count, const int *dims, bool keepdim, kava_tensor **out) {
  return reduced("sum", KAVA_SUM, x, count, dims, keepdim, false, false, sum_backward, out);
}
kava_status kava_op_mean(kava_tensor *x, int count, const int *dims, bool keepdim, kava_tensor **out) {
  return reduced("mean", KAVA_SUM, x, count, dims, keepdim, true, true, sum_backward, out);
}
kava_status kava_op_max(kava_tensor *x, int count, const int *dims, bool keepdim, kava_tensor **out) {
  return reduced("max", KAVA_MAX, x, count, dims, keepdim, false, false, extreme_backward, out);
}
kava_status kava_op_min(kava_tensor *x, int count, const int *dims, bool keepdim, kava_tensor **out) {
  return reduced("min", KAVA_MIN, x, count, dims, keepdim, false, false, extreme_backward, out);
}
kava_status kava_op_norm(kava_tensor *x, int count, const int *dims, bool keepdim, kava_tensor **out) {
  return reduced("norm", KAVA_SUM_SQUARES, x, count, dims, keepdim, true, false, norm_backward, out);
}

kava_status kava_op_argmax(kava_tensor *x, int64_t dim, bool keepdim, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *wide = NULL, *y = NULL;
  kava_dtype compute;
  int at;
  int64_t shape[KAVA_MAX_DIMS], outer = 1, inner = 1;
  KAVA_TRY(kava_compute_dtype("argmax", "the tensor", x, false, &compute));
  KAVA_TRY(kava_check_dim("argmax", x, dim, &at));
  if (x->shape[at] == 0) KAVA_FAIL(KAVA_MISUSE, "argmax: dimension %d is empty", at + 1);
  KAVA_TRY(kava_contiguous_as(x, compute, &wide));
  axes a = {.n = x->shape[at]};
  a.reduced[at] = true;
  for (int d = 0; d < at; d++) outer *= x->shape[d];
  for (int d = at + 1; d < x->dims; d++) inner *= x->shape[d];
  int dims = reduced_shape(x, &a, keepdim, shape);
  KAVA_TRY(kava_tensor_new_on(x->device, KAVA_I64, dims, shape, &y));
  KAVA_RUN(x->device, argreduce, KAVA_MAX, compute, kava_tensor_data(wide), kava_i64(y), outer, a.n, inner);
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  kava_tensor_release(&wide);
  return st;
}

/* saved[0]: y; integers[0]: logarithm */
static kava_status softmax_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor *x = node->inputs[0], *into;
  bool add;
  kava_status st = kava_grad_into(x, &into, &add);
  if (st != KAVA_OK || !into) return st;
  int64_t n = x->shape[x->dims - 1], rows = n ? kava_tensor_numel(x) / n : 0;
  KAVA_RUN(grad->device, softmax_grad, grad->dtype, kava_tensor_data(node->saved[0]), kava_tensor_data(grad),
           kava_tensor_data(into), rows, n, node->integers[0] != 0, add);
out:
  return st;
}

static kava_status softmax_last(const char *op, kava_tensor *x, bool logarithm, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *wide = NULL, *y = NULL;
  kava_node *node;
  kava_dtype compute;
  KAVA_TRY(kava_compute_dtype(op, "the tensor", x, true, &compute));
  KAVA_TRY(kava_contiguous_as(x, compute, &wide));
  KAVA_TRY(kava_tensor_empty_like(x, compute, &y));
  int64_t n = x->shape[x->dims - 1], rows = n ? kava_tensor_numel(x) / n : 0;
  KAVA_RUN(x->device, softmax, compute, kava_tensor_data(wide), kava_tensor_data(y), rows, n, logarithm);
  if (kava_tape_wanted(&x, 1)) {
    KAVA_TRY(kava_tape_record(op, softmax_backward, 1, &x, y, &node));
    node->integers[0] = logarithm;
    KAVA_TRY(kava_tape_save(node, 0, y));
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&wide);
  kava_tensor_release(&y);
  return st;
}

/* The kernels work on rows: another dimension is moved to the end and back. */
static kava_status softmax_over(const char *op, kava_tensor *x, int64_t dim, bool logarithm, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *turned = NULL, *y = NULL;
  int at;
  KAVA_TRY(kava_check_dim(op, x, dim, &at));
  if (at == x->dims - 1) return softmax_last(op, x, logarithm, out);
  KAVA_TRY(kava_op_transpose(x, at, -1, &turned));
  KAVA_TRY(softmax_last(op, turned, logarithm, &y));
  KAVA_TRY(kava_op_transpose(y, at, -1, out));
out:
  kava_tensor_release(&turned);
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_softmax(kava_tensor *x, int64_t dim, kava_tensor **out) {
  return softmax_over("softmax", x, dim, false, out);
}
kava_status kava_op_log_softmax(kava_tensor *x, int64_t dim, kava_tensor **out) {
  return softmax_over("log_softmax", x, dim, true, out);
}

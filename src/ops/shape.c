/* ops/shape: views and joining. A view's gradient goes straight to the part of its source's gradient that it shows. */
#include "ops/shape.h"
#include "kernels/kernels.h"
#include "ops/cast.h"
#include "ops/operand.h"
#include "ops/reduce.h"
#include "tape/tape.h"
#include <string.h>

kava_status kava_check_dim(const char *op, const kava_tensor *x, int64_t dim, int *out) {
  if (dim < -x->dims || dim >= x->dims) {
    char shape[96];
    kava_shape_format(x->dims, x->shape, shape, sizeof shape);
    return kava_fail(KAVA_MISUSE, "%s: dimension %lld is not one of a tensor of shape %s", op,
                     (long long)(dim < 0 ? dim : dim + 1), shape);
  }
  *out = (int)(dim < 0 ? dim + x->dims : dim);
  return KAVA_OK;
}

kava_status kava_broadcast_shape(const char *op, const kava_tensor *a, const kava_tensor *b, int *dims,
                                 int64_t *shape) {
  *dims = a->dims > b->dims ? a->dims : b->dims;
  for (int i = 1; i <= *dims; i++) {
    int64_t m = i <= a->dims ? a->shape[a->dims - i] : 1, n = i <= b->dims ? b->shape[b->dims - i] : 1;
    if (m != n && m != 1 && n != 1) {
      char one[96], other[96];
      kava_shape_format(a->dims, a->shape, one, sizeof one);
      kava_shape_format(b->dims, b->shape, other, sizeof other);
      return kava_fail(KAVA_MISUSE, "%s: shapes %s and %s do not broadcast", op, one, other);
    }
    shape[*dims - i] = m == 1 ? n : m;
  }
  return KAVA_OK;
}

kava_status kava_grad_add_summed(kava_tensor *x, kava_tensor *grad) {
  if (!kava_needs_grad(x)) return KAVA_OK;
  if (kava_same_shape(x, grad)) return kava_grad_add(x, grad);
  kava_status st = KAVA_OK;
  kava_tensor *sum = NULL, *shaped = NULL;
  int lead = grad->dims - x->dims, over[KAVA_MAX_DIMS], count = 0;
  for (int d = 0; d < grad->dims; d++)
    if (d < lead || (x->shape[d - lead] == 1 && grad->shape[d] != 1)) over[count++] = d;
  if (count)
    KAVA_TRY(kava_sum_plain(grad, count, over, 1.0, &sum));
  else
    sum = kava_tensor_retain(grad);
  int64_t stride[KAVA_MAX_DIMS], step = 1;
  for (int d = x->dims - 1; d >= 0; step *= x->shape[d--]) stride[d] = step;
  KAVA_TRY(kava_tensor_view(sum, x->dims, x->shape, stride, sum->offset, &shaped));
  kava_tensor_release(&sum); /* so that the gradient may be kept without a copy */
  KAVA_TRY(kava_grad_add(x, shaped));
out:
  kava_tensor_release(&sum);
  kava_tensor_release(&shaped);
  return st;
}

/* Records y, a view of x made with x's own kind of view; the backward pass makes the same view of x's gradient. */
static kava_status record_view(const char *op, kava_backward_fn backward, kava_tensor *x, kava_tensor *y,
                               kava_node **node) {
  *node = NULL;
  if (!kava_tape_wanted(&x, 1)) return KAVA_OK;
  return kava_tape_record(op, backward, 1, &x, y, node);
}

static void row_major(const kava_tensor *x, int64_t *stride) {
  int64_t step = 1;
  for (int d = x->dims - 1; d >= 0; step *= x->shape[d--]) stride[d] = step;
}

/* Strides that show the rows of grad, which lie apart, as x's, if x does no more than cut them into dimensions. */
static bool cut_rows(const kava_tensor *x, const kava_tensor *grad, int64_t *stride) {
  int lead = grad->dims - 1;
  int64_t width = 1;
  row_major(x, stride);
  for (int d = lead; d < x->dims; d++) width *= x->shape[d];
  if (x->dims <= lead || width != grad->shape[lead] || grad->stride[lead] != 1) return false;
  for (int d = 0; d < lead; d++) {
    if (x->shape[d] != grad->shape[d]) return false;
    stride[d] = grad->stride[d];
  }
  return true;
}

static kava_status reshape_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *x = node->inputs[0], *shaped = NULL, *whole = NULL;
  int64_t stride[KAVA_MAX_DIMS];
  bool kept = false;
  if (!kava_needs_grad(x)) return KAVA_OK;
  if (!kava_tensor_is_contiguous(grad) && cut_rows(x, grad, stride)) {
    KAVA_TRY(kava_tensor_view(grad, x->dims, x->shape, stride, grad->offset, &shaped));
    KAVA_TRY(kava_grad_keep_rows(x, shaped, &kept));
    kava_tensor_release(&shaped);
  }
  if (kept) goto out;
  KAVA_TRY(kava_contiguous_as(grad, grad->dtype, &whole));
  row_major(x, stride);
  KAVA_TRY(kava_tensor_view(whole, x->dims, x->shape, stride, whole->offset, &shaped));
  kava_tensor_release(&whole); /* so that the gradient may be kept without a copy */
  KAVA_TRY(kava_grad_add(x, shaped));
out:
  kava_tensor_release(&shaped);
  kava_tensor_release(&whole);
  return st;
}

/* Strides that show x's elements in the new shape without a copy, if there are any: each run of x's dimensions that is
 * one arithmetic progression may be cut anew. */
static bool restride(const kava_tensor *x, int dims, const int64_t *shape, int64_t *stride) {
  int from[KAVA_MAX_DIMS], kept = 0, d = 0;
  for (int i = 0; i < x->dims; i++)
    if (x->shape[i] != 1) from[kept++] = i;
  for (int i = 0; i < kept;) {
    int64_t size = x->shape[from[i]];
    int last = i;
    while (last + 1 < kept && x->stride[from[last]] == x->stride[from[last + 1]] * x->shape[from[last + 1]])
      size *= x->shape[from[++last]];
    int64_t covered = 1;
    int first = d;
    while (d < dims && covered < size) covered *= shape[d++];
    if (covered != size) return false;
    int64_t step = x->stride[from[last]];
    for (int j = d - 1; j >= first; j--) {
      stride[j] = step;
      step *= shape[j];
    }
    i = last + 1;
  }
  for (; d < dims; d++) stride[d] = 1;
  return true;
}

kava_status kava_op_reshape(kava_tensor *x, int dims, const int64_t *wanted, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL, *base = NULL;
  kava_node *node;
  int64_t shape[KAVA_MAX_DIMS], stride[KAVA_MAX_DIMS] = {0}, count = kava_tensor_numel(x), known = 1;
  int free_dim = -1;
  char was[96], asked[96] = "";
  kava_shape_format(x->dims, x->shape, was, sizeof was);
  if (dims < 0 || dims > KAVA_MAX_DIMS)
    return kava_fail(KAVA_MISUSE, "reshape: a tensor has 0 to %d dimensions, not %d", KAVA_MAX_DIMS, dims);
  kava_shape_format(dims, wanted, asked, sizeof asked);
  for (int d = 0; d < dims; d++) {
    shape[d] = wanted[d];
    if (wanted[d] == -1 && free_dim < 0)
      free_dim = d;
    else if (wanted[d] < 0 || __builtin_mul_overflow(known, wanted[d], &known))
      return kava_fail(KAVA_MISUSE, "reshape: %s is not a shape (one size may be -1)", asked);
  }
  if (free_dim >= 0) {
    if (known == 0 || count % known != 0)
      return kava_fail(KAVA_MISUSE, "reshape: the elements of %s do not fill %s", was, asked);
    shape[free_dim] = count / known;
  } else if (known != count)
    return kava_fail(KAVA_MISUSE, "reshape: %s has not as many elements as %s", was, asked);
  KAVA_TRY(kava_shape_check(dims, shape));
  if (kava_dtype_is_quantised(x->dtype) && (dims == 0 || shape[dims - 1] != x->shape[x->dims - 1]))
    return kava_fail(KAVA_MISUSE, "reshape: a %s tensor keeps its innermost dimension: %s to %s",
                     kava_dtype_name(x->dtype), was, asked);
  if (kava_tensor_is_contiguous(x) || count == 0) {
    int64_t step = 1;
    for (int d = dims - 1; d >= 0; step *= shape[d--]) stride[d] = step;
    KAVA_TRY(kava_tensor_view(x, dims, shape, stride, x->offset, &y));
  } else if (restride(x, dims, shape, stride))
    KAVA_TRY(kava_tensor_view(x, dims, shape, stride, x->offset, &y));
  else {
    int64_t step = 1;
    for (int d = dims - 1; d >= 0; step *= shape[d--]) stride[d] = step;
    KAVA_TRY(kava_contiguous_as(x, x->dtype, &base));
    KAVA_TRY(kava_tensor_view(base, dims, shape, stride, 0, &y));
  }
  KAVA_TRY(record_view("reshape", reshape_backward, x, y, &node));
  if (node) node->rows = true;
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  kava_tensor_release(&base);
  return st;
}

/* Adds grad to the view of x's gradient that has these strides; when the view covers all of a fresh gradient
 * (`whole`), it is written without being zeroed first. */
static kava_status scatter(kava_tensor *x, const kava_tensor *grad, const int64_t *stride, int64_t offset, bool whole) {
  kava_tensor *into, *part = NULL, *converted = NULL;
  bool add = true;
  kava_status st = whole ? kava_grad_into(x, &into, &add) : kava_grad_into_zeroed(x, &into);
  if (st != KAVA_OK || !into) return st;
  st = kava_tensor_view(into, grad->dims, grad->shape, stride, into->offset + offset, &part);
  if (st == KAVA_OK) st = kava_contiguous_as(grad, into->dtype, &converted);
  if (st == KAVA_OK) st = add ? kava_add_into(part, converted) : kava_copy_into(part, converted);
  kava_tensor_release(&part);
  kava_tensor_release(&converted);
  return st;
}

static kava_status permute_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor *x = node->inputs[0];
  int64_t of_x[KAVA_MAX_DIMS], stride[KAVA_MAX_DIMS];
  row_major(x, of_x);
  for (int d = 0; d < grad->dims; d++) stride[d] = of_x[node->integers[d]];
  return scatter(x, grad, stride, 0, true);
}

kava_status kava_op_permute(kava_tensor *x, const int *order, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  kava_node *node;
  int64_t shape[KAVA_MAX_DIMS], stride[KAVA_MAX_DIMS];
  bool seen[KAVA_MAX_DIMS] = {false};
  int of[KAVA_MAX_DIMS];
  for (int d = 0; d < x->dims; d++) {
    if (order[d] < 0 || order[d] >= x->dims || seen[order[d]])
      return kava_fail(KAVA_MISUSE, "permute: the order must name each of the %d dimensions once", x->dims);
    seen[order[d]] = true;
    shape[d] = x->shape[order[d]];
    stride[d] = x->stride[order[d]];
    if (kava_dtype_is_quantised(x->dtype) && order[d] != d)
      return kava_fail(KAVA_MISUSE, "permute: a %s tensor has a fixed order", kava_dtype_name(x->dtype));
  }
  KAVA_TRY(kava_tensor_view(x, x->dims, shape, stride, x->offset, &y));
  /* a permutation of one: its record goes back to what that was of, and one that undoes it needs none */
  bool again = x->node && x->node->backward == permute_backward, undone = again;
  for (int d = 0; d < x->dims; d++) {
    of[d] = again ? (int)x->node->integers[order[d]] : order[d];
    undone = undone && of[d] == d;
  }
  kava_tensor *from = again ? x->node->inputs[0] : x;
  if (undone && from->node && kava_recording()) {
    y->node = from->node;
    y->node->refs++;
    node = NULL;
  } else
    KAVA_TRY(record_view("permute", permute_backward, from, y, &node));
  for (int d = 0; node && d < x->dims; d++) node->integers[d] = of[d];
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_transpose(kava_tensor *x, int64_t dim0, int64_t dim1, kava_tensor **out) {
  int a, b, order[KAVA_MAX_DIMS];
  kava_status st = kava_check_dim("transpose", x, dim0, &a);
  if (st == KAVA_OK) st = kava_check_dim("transpose", x, dim1, &b);
  if (st != KAVA_OK) return st;
  for (int d = 0; d < x->dims; d++) order[d] = d == a ? b : d == b ? a : d;
  return kava_op_permute(x, order, out);
}

/* integers: dim, start; also for select, whose output lacks the dimension */
static kava_status narrow_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor *x = node->inputs[0];
  int64_t of_x[KAVA_MAX_DIMS], stride[KAVA_MAX_DIMS];
  int dim = (int)node->integers[0];
  row_major(x, of_x);
  for (int d = 0; d < grad->dims; d++) stride[d] = of_x[grad->dims < x->dims && d >= dim ? d + 1 : d];
  return scatter(x, grad, stride, node->integers[1] * of_x[dim], kava_tensor_numel(grad) == kava_tensor_numel(x));
}

static kava_status slice(const char *op, kava_tensor *x, int64_t dim, int64_t start, int64_t length, bool drop,
                         kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  kava_node *node;
  int at, dims = 0;
  int64_t shape[KAVA_MAX_DIMS], stride[KAVA_MAX_DIMS];
  KAVA_TRY(kava_check_dim(op, x, dim, &at));
  if (start < 0 || length < 0 || start > x->shape[at] || length > x->shape[at] - start)
    KAVA_FAIL(KAVA_MISUSE, "%s: elements %lld to %lld of dimension %d, which has %lld", op, (long long)start + 1,
              start > INT64_MAX - length ? INT64_MAX : (long long)(start + length), at + 1, (long long)x->shape[at]);
  int64_t step = x->stride[at];
  if (kava_dtype_is_quantised(x->dtype)) {
    if (at != 0 || x->dims < 2)
      KAVA_FAIL(KAVA_MISUSE, "%s: a %s tensor can only be cut along the first of several dimensions", op,
                kava_dtype_name(x->dtype));
    step = 1;
    for (int d = 1; d < x->dims; d++) step *= x->shape[d];
  }
  for (int d = 0; d < x->dims; d++) {
    if (d == at && drop) continue;
    shape[dims] = d == at ? length : x->shape[d];
    stride[dims++] = x->stride[d];
  }
  KAVA_TRY(kava_tensor_view(x, dims, shape, stride, x->offset + start * step, &y));
  KAVA_TRY(record_view(op, narrow_backward, x, y, &node));
  if (node) {
    node->integers[0] = at;
    node->integers[1] = start;
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_narrow(kava_tensor *x, int64_t dim, int64_t start, int64_t length, kava_tensor **out) {
  return slice("narrow", x, dim, start, length, false, out);
}

kava_status kava_op_select(kava_tensor *x, int64_t dim, int64_t index, kava_tensor **out) {
  return slice("select", x, dim, index, 1, true, out);
}

static kava_status expand_backward(kava_node *node, const kava_tensor *grad) {
  return kava_grad_add_summed(node->inputs[0], (kava_tensor *)grad);
}

kava_status kava_op_expand(kava_tensor *x, int dims, const int64_t *wanted, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  kava_node *node;
  int64_t shape[KAVA_MAX_DIMS], stride[KAVA_MAX_DIMS];
  int lead = dims - x->dims;
  char was[96], asked[96] = "too many dimensions";
  kava_shape_format(x->dims, x->shape, was, sizeof was);
  if (dims <= KAVA_MAX_DIMS) kava_shape_format(dims, wanted, asked, sizeof asked);
  if (lead < 0 || dims > KAVA_MAX_DIMS || kava_dtype_is_quantised(x->dtype))
    return kava_fail(KAVA_MISUSE, "expand: %s of shape %s to %s", kava_dtype_name(x->dtype), was, asked);
  for (int d = 0; d < dims; d++) {
    int64_t size = d < lead ? 1 : x->shape[d - lead];
    shape[d] = wanted[d] == -1 ? size : wanted[d];
    if (shape[d] < 0 || (size != shape[d] && size != 1))
      return kava_fail(KAVA_MISUSE, "expand: only dimensions of size 1 grow: %s to %s", was, asked);
    stride[d] = d < lead || (size == 1 && shape[d] != 1) ? 0 : x->stride[d - lead];
  }
  KAVA_TRY(kava_shape_check(dims, shape));
  KAVA_TRY(kava_tensor_view(x, dims, shape, stride, x->offset, &y));
  KAVA_TRY(record_view("expand", expand_backward, x, y, &node));
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

kava_status kava_grad_give_slices(int count, kava_tensor *const *xs, const kava_tensor *grad, int dim) {
  kava_status st = KAVA_OK;
  int64_t at = 0;
  bool columns = dim == grad->dims - 1 && __atomic_load_n(&grad->refs, __ATOMIC_RELAXED) == 1 &&
                 __atomic_load_n(&grad->storage->refs, __ATOMIC_RELAXED) == 1;
  for (int i = 0; i < count && st == KAVA_OK; i++) {
    kava_tensor *x = xs[i], *into, *part = NULL;
    bool add, kept = false;
    int64_t offset = grad->offset + at * grad->stride[dim];
    at += x->shape[dim];
    if (columns) {
      st = kava_tensor_view(grad, x->dims, x->shape, grad->stride, offset, &part);
      if (st == KAVA_OK) st = kava_grad_keep_rows(x, part, &kept);
      kava_tensor_release(&part);
      if (kept || st != KAVA_OK) continue;
    }
    st = kava_grad_into(x, &into, &add);
    if (st != KAVA_OK || !into) continue;
    st = kava_tensor_view(grad, x->dims, x->shape, grad->stride, offset, &part);
    if (st == KAVA_OK && add && into->dtype != part->dtype) {
      kava_tensor *converted = NULL;
      st = kava_contiguous_as(part, into->dtype, &converted);
      if (st == KAVA_OK) st = kava_add_into(into, converted);
      kava_tensor_release(&converted);
    } else if (st == KAVA_OK)
      st = add ? kava_add_into(into, part) : kava_copy_into(into, part);
    kava_tensor_release(&part);
  }
  return st;
}

/* integers: dim */
static kava_status cat_backward(kava_node *node, const kava_tensor *grad) {
  return kava_grad_give_slices(node->input_count, node->inputs, grad, (int)node->integers[0]);
}

/* Whether the pieces lie side by side, as columns of rows. */
static bool side_by_side(int count, kava_tensor *const *xs, int dim) {
  if (dim != xs[0]->dims - 1 || xs[0]->stride[dim] != 1) return false;
  for (int i = 1; i < count; i++) {
    if (xs[i]->storage != xs[0]->storage || xs[i]->offset != xs[i - 1]->offset + xs[i - 1]->shape[dim]) return false;
    for (int d = 0; d < xs[0]->dims; d++)
      if (xs[i]->stride[d] != xs[0]->stride[d]) return false;
  }
  return true;
}

/* y = the pieces, on a GPU, where all pieces are runs of rows: one launch for many of them */
static kava_status copy_joined(int count, kava_tensor *const *xs, int dim, kava_tensor *y) {
  kava_status st = KAVA_OK;
  kava_tensor *own[KAVA_JOIN_MOST] = {NULL};
  int64_t inner = 1, row = y->shape[dim], at = 0;
  kava_join_args a = {.from = xs[0]->dtype, .to = y->dtype, .rows = 1};
  for (int d = 0; d < dim; d++) a.rows *= y->shape[d];
  for (int d = dim + 1; d < y->dims; d++) inner *= y->shape[d];
  a.y_row = row * inner;
  for (int first = 0; first < count; first += a.count) {
    a.count = count - first < KAVA_JOIN_MOST ? count - first : KAVA_JOIN_MOST;
    a.y = (char *)kava_tensor_data(y) + at * inner * kava_dtype_block_bytes(y->dtype);
    for (int i = 0; i < a.count; i++) {
      kava_tensor *x = xs[first + i];
      KAVA_TRY(kava_operand_rows("cat", "a tensor", x, x->dtype, y->dims - dim, &own[i]));
      int64_t apart = kava_operand_row(own[i], y->dims - dim);
      a.x[i] = kava_tensor_data(own[i]);
      a.width[i] = x->shape[dim] * inner;
      a.x_row[i] = apart ? apart : a.width[i];
      at += x->shape[dim];
    }
    KAVA_RUN(y->device, join, &a);
    for (int i = 0; i < a.count; i++) kava_tensor_release(&own[i]);
  }
out:
  for (int i = 0; i < KAVA_JOIN_MOST; i++) kava_tensor_release(&own[i]);
  return st;
}

static kava_status copy_pieces(int count, kava_tensor *const *xs, int dim, kava_tensor *y) {
  kava_status st = KAVA_OK;
  kava_tensor *part = NULL;
  int64_t at = 0;
  for (int i = 0; i < count; i++) {
    KAVA_TRY(kava_tensor_view(y, xs[i]->dims, xs[i]->shape, y->stride, at * y->stride[dim], &part));
    KAVA_TRY(kava_copy_into(part, xs[i]));
    kava_tensor_release(&part);
    at += xs[i]->shape[dim];
  }
out:
  kava_tensor_release(&part);
  return st;
}

kava_status kava_beside(int count, kava_tensor *const *xs, int dim, kava_dtype dtype, bool shared, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  kava_dtype from = xs[0]->dtype;
  int64_t shape[KAVA_MAX_DIMS];
  memcpy(shape, xs[0]->shape, sizeof shape);
  for (int i = 1; i < count; i++) shape[dim] += xs[i]->shape[dim];
  if (dtype == from && (shared || xs[0]->storage->joins) && side_by_side(count, xs, dim))
    return kava_tensor_view(xs[0], xs[0]->dims, shape, xs[0]->stride, xs[0]->offset, out);
  KAVA_TRY(kava_tensor_new_on(xs[0]->device, dtype, xs[0]->dims, shape, &y));
  bool moved = dtype == from || (from == KAVA_F32 && (dtype == KAVA_BF16 || dtype == KAVA_F16));
  bool joined = y->device != KAVA_CPU && count > 1 && moved && !kava_dtype_is_quantised(from);
  KAVA_TRY(joined ? copy_joined(count, xs, dim, y) : copy_pieces(count, xs, dim, y));
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_cat(int count, kava_tensor *const *xs, int64_t dim, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  kava_node *node;
  int at;
  if (count < 1) return kava_fail(KAVA_MISUSE, "cat: at least one tensor is expected");
  KAVA_TRY(kava_check_dim("cat", xs[0], dim, &at));
  for (int i = 0; i < count; i++) {
    bool fits = xs[i]->dims == xs[0]->dims && xs[i]->dtype == xs[0]->dtype;
    for (int d = 0; d < xs[0]->dims && fits; d++) fits = d == at || xs[i]->shape[d] == xs[0]->shape[d];
    if (!fits) {
      char first[96], other[96];
      kava_shape_format(xs[0]->dims, xs[0]->shape, first, sizeof first);
      kava_shape_format(xs[i]->dims, xs[i]->shape, other, sizeof other);
      KAVA_FAIL(KAVA_MISUSE, "cat: tensor %d is %s %s, which does not join %s %s along dimension %d", i + 1,
                kava_dtype_name(xs[i]->dtype), other, kava_dtype_name(xs[0]->dtype), first, at + 1);
    }
    KAVA_TRY(kava_operand_device("cat", "one tensor", xs[i], xs[0]->device));
  }
  KAVA_TRY(kava_beside(count, xs, at, xs[0]->dtype, false, &y));
  if (kava_tape_wanted(xs, count)) {
    KAVA_TRY(kava_tape_record("cat", cat_backward, count, xs, y, &node));
    node->integers[0] = at;
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_stack(int count, kava_tensor *const *xs, int64_t dim, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor **rows = kava_calloc((size_t)(count > 0 ? count : 1), sizeof *rows);
  if (!rows) return KAVA_MEMORY;
  if (count < 1) KAVA_FAIL(KAVA_MISUSE, "stack: at least one tensor is expected");
  int64_t at = dim < 0 ? dim + xs[0]->dims + 1 : dim;
  if (at < 0 || at > xs[0]->dims || xs[0]->dims == KAVA_MAX_DIMS)
    KAVA_FAIL(KAVA_MISUSE, "stack: dimension %lld of tensors with %d dimensions", (long long)(dim < 0 ? dim : dim + 1),
              xs[0]->dims);
  for (int i = 0; i < count; i++) {
    int64_t shape[KAVA_MAX_DIMS];
    if (!kava_same_shape(xs[i], xs[0])) {
      char first[96], other[96];
      kava_shape_format(xs[0]->dims, xs[0]->shape, first, sizeof first);
      kava_shape_format(xs[i]->dims, xs[i]->shape, other, sizeof other);
      KAVA_FAIL(KAVA_MISUSE, "stack: tensor %d has shape %s, the first %s", i + 1, other, first);
    }
    for (int d = 0; d <= xs[i]->dims; d++) shape[d] = d == at ? 1 : xs[i]->shape[d > at ? d - 1 : d];
    KAVA_TRY(kava_op_reshape(xs[i], xs[i]->dims + 1, shape, &rows[i]));
  }
  KAVA_TRY(kava_op_cat(count, rows, at, out));
out:
  for (int i = 0; i < count; i++) kava_tensor_release(&rows[i]);
  kava_free(rows);
  return st;
}

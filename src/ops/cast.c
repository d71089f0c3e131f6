/* ops/cast: conversions between element types, and contiguous copies. The gradient of a copy is the gradient. */
#include "ops/cast.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "tape/tape.h"
#include <string.h>

typedef struct widening {
  kava_dtype type;
  const char *from;
  float *to;
  int64_t count;
  const kava_scaling *scaling;
  int64_t first;
} widening;

enum { WIDEN_PIECE = 1 << 13 }; /* elements; whole blocks of every type */

static void widen_pieces(void *ctx, int64_t begin, int64_t end) {
  const widening *w = ctx;
  int64_t at = begin * WIDEN_PIECE, stop = end * WIDEN_PIECE < w->count ? end * WIDEN_PIECE : w->count;
  const char *from = w->from + at / kava_dtype_block(w->type) * kava_dtype_block_bytes(w->type);
  kava_kernels_cpu()->widen(w->type, from, w->to + at, stop - at);
}

static void widen_rows(void *ctx, int64_t begin, int64_t end) {
  const widening *w = ctx;
  int64_t columns = w->scaling->columns;
  for (int64_t row = begin; row < end; row++) {
    const char *from = w->from + row * columns / kava_dtype_block(w->type) * kava_dtype_block_bytes(w->type);
    kava_kernels_cpu()->widen_scaled(w->type, from, w->scaling, w->first + row, 0, w->to + row * columns, columns);
  }
}

static void widen_on_host(widening *w) {
  if (w->scaling)
    kava_parallel(w->count / w->scaling->columns, WIDEN_PIECE / w->scaling->columns + 1, widen_rows, w);
  else
    kava_parallel((w->count + WIDEN_PIECE - 1) / WIDEN_PIECE, 4, widen_pieces, w);
}

/* The values of a quantised tensor in f32, contiguous. */
static kava_status widened(const kava_tensor *src, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  KAVA_TRY(kava_tensor_empty_like(src, KAVA_F32, &y));
  widening w = {src->dtype,
                kava_tensor_data(src),
                kava_f32(y),
                kava_tensor_numel(src),
                kava_tensor_scaling(src),
                kava_tensor_first_row(src)};
  if (src->device == KAVA_CPU) {
    widen_on_host(&w);
  } else if (w.scaling)
    KAVA_RUN(src->device, widen_scaled, w.type, w.from, w.scaling, w.first, 0, w.to, w.count);
  else
    KAVA_RUN(src->device, widen, w.type, w.from, w.to, w.count);
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

/* From one device to another: whole and in dst's type, then into dst's strides. */
static kava_status copy_across(kava_tensor *dst, const kava_tensor *src) {
  kava_status st = KAVA_OK;
  kava_tensor *whole = NULL, *moved = NULL;
  KAVA_TRY(kava_contiguous_as(src, dst->dtype, &whole));
  if (kava_tensor_is_contiguous(dst) && kava_same_shape(dst, whole)) {
    size_t bytes;
    KAVA_TRY(kava_tensor_bytes_of(whole, &bytes));
    KAVA_TRY(kava_device_copy(dst->device, kava_tensor_data(dst), whole->device, kava_tensor_data(whole), bytes));
    kava_tensor_touch(dst);
  } else {
    KAVA_TRY(kava_tensor_on(whole, dst->device, &moved));
    KAVA_TRY(kava_copy_into(dst, moved));
  }
out:
  kava_tensor_release(&whole);
  kava_tensor_release(&moved);
  return st;
}

kava_status kava_copy_into(kava_tensor *dst, const kava_tensor *src) {
  kava_strided args = {.dims = dst->dims};
  if (kava_dtype_is_quantised(dst->dtype))
    return kava_fail(KAVA_UNSUPPORTED, "copy: to %s; a quantised tensor cannot be written",
                     kava_dtype_name(dst->dtype));
  if (kava_dtype_is_quantised(src->dtype)) {
    kava_tensor *wide = NULL;
    kava_status st = widened(src, &wide);
    if (st == KAVA_OK) st = kava_copy_into(dst, wide);
    kava_tensor_release(&wide);
    return st;
  }
  if (dst->device != src->device) return copy_across(dst, src);
  kava_status st = KAVA_OK;
  int lead = dst->dims - src->dims;
  for (int d = 0; d < dst->dims; d++) {
    int from = d - lead;
    args.shape[d] = dst->shape[d];
    args.out_stride[d] = dst->stride[d];
    if (from >= 0 && src->shape[from] != dst->shape[d] && src->shape[from] != 1) lead = -1;
    args.in_stride[0][d] = from < 0 || src->shape[from] == 1 ? 0 : src->stride[from];
  }
  if (lead < 0) {
    char to[96], came[96];
    kava_shape_format(dst->dims, dst->shape, to, sizeof to);
    kava_shape_format(src->dims, src->shape, came, sizeof came);
    return kava_fail(KAVA_MISUSE, "copy: a source of shape %s does not fit a destination of shape %s", came, to);
  }
  args.in[0] = kava_tensor_data(src);
  args.out = kava_tensor_data(dst);
  KAVA_RUN(dst->device, copy, src->dtype, dst->dtype, &args);
  kava_tensor_touch(dst);
out:
  return st;
}

kava_status kava_add_into(kava_tensor *dst, const kava_tensor *src) {
  kava_status st = KAVA_OK;
  kava_strided args = {.dims = dst->dims};
  if (dst->dtype != src->dtype || !kava_same_shape(dst, src) || !kava_dtype_is_float(dst->dtype))
    return kava_fail(KAVA_MISUSE, "internal: a gradient's shape or type differs from its tensor's");
  memcpy(args.shape, dst->shape, sizeof args.shape);
  memcpy(args.in_stride[0], dst->stride, sizeof args.out_stride);
  memcpy(args.in_stride[1], src->stride, sizeof args.out_stride);
  memcpy(args.out_stride, dst->stride, sizeof args.out_stride);
  args.in[0] = args.out = kava_tensor_data(dst);
  args.in[1] = kava_tensor_data(src);
  KAVA_RUN(dst->device, binary, KAVA_ADD, dst->dtype, &args);
out:
  return st;
}

kava_status kava_contiguous_as(const kava_tensor *x, kava_dtype dtype, kava_tensor **out) {
  if (x->dtype == dtype && kava_tensor_is_contiguous(x)) {
    *out = kava_tensor_retain((kava_tensor *)x);
    return KAVA_OK;
  }
  if (dtype == KAVA_F32 && kava_dtype_is_quantised(x->dtype)) return widened(x, out);
  kava_tensor *y = NULL;
  kava_status st = kava_tensor_empty_like(x, dtype, &y);
  if (st != KAVA_OK) return st;
  st = kava_copy_into(y, x);
  if (st == KAVA_OK)
    *out = y;
  else
    kava_tensor_release(&y);
  return st;
}

kava_status kava_compute_dtype(const char *op, const char *argument, const kava_tensor *x, bool floats,
                               kava_dtype *out) {
  if (kava_dtype_is_quantised(x->dtype))
    return kava_fail(KAVA_MISUSE, "%s: %s is %s; a quantised tensor must be converted first (to{dtype = \"f32\"})", op,
                     argument, kava_dtype_name(x->dtype));
  if (kava_dtype_is_float(x->dtype))
    *out = x->dtype == KAVA_F64 || x->device != KAVA_CPU ? x->dtype : KAVA_F32;
  else if (floats)
    return kava_fail(KAVA_MISUSE, "%s: %s is %s, a float tensor is expected", op, argument, kava_dtype_name(x->dtype));
  else
    *out = KAVA_I64;
  return KAVA_OK;
}

static kava_status copy_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor *x = node->inputs[0], *converted = NULL;
  if (!kava_needs_grad(x)) return KAVA_OK;
  kava_status st = kava_contiguous_as(grad, kava_grad_dtype(x), &converted);
  if (st == KAVA_OK) st = kava_grad_add(x, converted);
  kava_tensor_release(&converted);
  return st;
}

static kava_status copied(const char *op, kava_tensor *x, kava_dtype dtype, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  kava_node *node;
  if (dtype == KAVA_F32 && kava_dtype_is_quantised(x->dtype)) return widened(x, out); /* no gradient to carry */
  KAVA_TRY(kava_tensor_empty_like(x, dtype, &y));
  KAVA_TRY(kava_copy_into(y, x));
  if (kava_dtype_is_float(dtype) && kava_tape_wanted(&x, 1))
    KAVA_TRY(kava_tape_record(op, copy_backward, 1, &x, y, &node));
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_cast(kava_tensor *x, kava_dtype dtype, kava_tensor **out) {
  if (kava_dtype_is_quantised(dtype) && x->dtype != dtype)
    return kava_fail(KAVA_MISUSE, "cast: %s to %s; kava.gguf.quantize makes quantised tensors",
                     kava_dtype_name(x->dtype), kava_dtype_name(dtype));
  if (x->dtype != dtype) return copied("cast", x, dtype, out);
  *out = kava_tensor_retain(x);
  return KAVA_OK;
}

kava_status kava_op_contiguous(kava_tensor *x, kava_tensor **out) {
  if (!kava_tensor_is_contiguous(x)) return copied("contiguous", x, x->dtype, out);
  *out = kava_tensor_retain(x);
  return KAVA_OK;
}

kava_status kava_op_clone(kava_tensor *x, kava_tensor **out) {
  if (!kava_dtype_is_quantised(x->dtype)) return copied("clone", x, x->dtype, out);
  if (x->scales) return kava_tensor_detach(x, out); /* nothing writes to codes */
  kava_tensor *y = NULL;
  size_t bytes;
  kava_status st = kava_tensor_empty_like(x, x->dtype, &y);
  if (st == KAVA_OK) st = kava_tensor_bytes_of(x, &bytes);
  if (st == KAVA_OK) st = kava_device_copy(y->device, y->storage->data, x->device, kava_tensor_data(x), bytes);
  if (st == KAVA_OK)
    *out = y;
  else
    kava_tensor_release(&y);
  return st;
}

/* The gradient goes back to where x is. */
static kava_status moved_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor *x = node->inputs[0], *back = NULL, *converted = NULL;
  if (!kava_needs_grad(x)) return KAVA_OK;
  kava_status st = kava_tensor_on((kava_tensor *)grad, x->device, &back);
  if (st == KAVA_OK) st = kava_contiguous_as(back, kava_grad_dtype(x), &converted);
  if (st == KAVA_OK) st = kava_grad_add(x, converted);
  kava_tensor_release(&back);
  kava_tensor_release(&converted);
  return st;
}

kava_status kava_op_move(kava_tensor *x, kava_device device, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *whole = NULL, *y = NULL;
  kava_node *node;
  if (x->device == device) {
    *out = kava_tensor_retain(x);
    return KAVA_OK;
  }
  KAVA_TRY(kava_device_open(device));
  KAVA_TRY(kava_contiguous_as(x, x->dtype, &whole));
  KAVA_TRY(kava_tensor_on(whole, device, &y));
  if (kava_dtype_is_float(x->dtype) && kava_tape_wanted(&x, 1))
    KAVA_TRY(kava_tape_record("move", moved_backward, 1, &x, y, &node));
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&whole);
  kava_tensor_release(&y);
  return st;
}

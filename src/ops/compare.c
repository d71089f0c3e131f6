#include "ops/compare.h"
#include "kernels/kernels.h"
#include "ops/cast.h"

/* Merges the difference of a later piece, whose first element is number `offset`. */
static void merge(kava_difference *sum, const kava_difference *piece, int64_t offset) {
  sum->close = sum->close && piece->close;
  if (piece->index >= 0 && (sum->index < 0 || piece->most > sum->most)) {
    sum->most = piece->most;
    sum->index = piece->index + offset;
  }
}

static kava_status on_host(const kava_tensor *t, kava_tensor **out) {
  kava_tensor *whole = NULL;
  kava_status st = kava_contiguous_as(t, t->dtype, &whole);
  if (st == KAVA_OK) st = kava_tensor_on(whole, KAVA_CPU, out);
  kava_tensor_release(&whole);
  return st;
}

kava_status kava_compare_close(const kava_tensor *a, const kava_tensor *b, double rtol, double atol,
                               kava_difference *out) {
  enum { PIECE = 4096 };
  kava_status st = KAVA_OK;
  kava_tensor *x = NULL, *y = NULL;
  kava_difference d = {.close = true, .most = 0, .index = -1}, piece;
  if (kava_dtype_is_quantised(a->dtype) || kava_dtype_is_quantised(b->dtype))
    return kava_fail(KAVA_MISUSE, "allclose: %s and %s, plain types are expected (to{dtype = \"f32\"})",
                     kava_dtype_name(a->dtype), kava_dtype_name(b->dtype));
  if (!kava_same_shape(a, b)) {
    char one[96], other[96];
    kava_shape_format(a->dims, a->shape, one, sizeof one);
    kava_shape_format(b->dims, b->shape, other, sizeof other);
    return kava_fail(KAVA_MISUSE, "allclose: shapes %s and %s differ", one, other);
  }
  KAVA_TRY(on_host(a, &x));
  KAVA_TRY(on_host(b, &y));
  int64_t count = kava_tensor_numel(a);
  if (a->dtype == b->dtype && (a->dtype == KAVA_F32 || a->dtype == KAVA_F64)) {
    kava_kernels_cpu()->difference(a->dtype, kava_tensor_data(x), kava_tensor_data(y), count, rtol, atol, &piece);
    merge(&d, &piece, 0);
  } else {
    double left[PIECE], right[PIECE];
    const char *from = kava_tensor_data(x), *to = kava_tensor_data(y);
    for (int64_t i = 0; i < count; i += PIECE) {
      int64_t n = count - i < PIECE ? count - i : PIECE;
      kava_kernels_cpu()->convert(a->dtype, from + i * kava_dtype_block_bytes(a->dtype), KAVA_F64, left, n);
      kava_kernels_cpu()->convert(b->dtype, to + i * kava_dtype_block_bytes(b->dtype), KAVA_F64, right, n);
      kava_kernels_cpu()->difference(KAVA_F64, left, right, n, rtol, atol, &piece);
      merge(&d, &piece, i);
    }
  }
  *out = d;
out:
  kava_tensor_release(&x);
  kava_tensor_release(&y);
  return st;
}

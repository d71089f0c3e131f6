#include "ops/operand.h"
#include "ops/cast.h"
#include <string.h>

kava_status kava_operand_dtype(const char *op, int count, kava_tensor *const *tensors, const char *const *names,
                               kava_dtype *out) {
  const char *wide = NULL, *narrow = NULL, *narrow_type = NULL;
  const kava_tensor *first = NULL;
  for (int i = 0; i < count; i++) {
    const kava_tensor *t = tensors[i];
    if (!t) continue;
    kava_status st = first ? kava_operand_device(op, names[i], t, first->device) : KAVA_OK;
    if (st != KAVA_OK) return st;
    if (!first) first = t;
    if (!kava_dtype_is_float(t->dtype))
      return kava_fail(KAVA_MISUSE, "%s: %s is %s; f32, f16, bf16 or f64 expected", op, names[i],
                       kava_dtype_name(t->dtype));
    if (t->dtype == KAVA_F64)
      wide = names[i];
    else {
      narrow = names[i];
      narrow_type = kava_dtype_name(t->dtype);
    }
  }
  if (wide && narrow)
    return kava_fail(KAVA_MISUSE, "%s: %s is f64 but %s is %s; cast one of them", op, wide, narrow, narrow_type);
  *out = wide ? KAVA_F64 : KAVA_F32;
  if (first && first->device != KAVA_CPU) *out = first->dtype;
  return KAVA_OK;
}

kava_status kava_operand_device(const char *op, const char *name, const kava_tensor *t, kava_device device) {
  if (!t || t->device == device) return KAVA_OK;
  return kava_fail(KAVA_MISUSE, "%s: %s is on %s, the others are on %s; move one of them (to{device = \"%s\"})", op,
                   name, kava_device_name(t->device), kava_device_name(device), kava_device_name(device));
}

kava_status kava_operand(const char *op, const char *name, kava_tensor *t, kava_dtype dtype, kava_tensor **out) {
  if (!t) {
    *out = NULL;
    return KAVA_OK;
  }
  if (kava_dtype_is_quantised(t->dtype))
    return kava_fail(KAVA_MISUSE, "%s: %s is %s; a plain type expected", op, name, kava_dtype_name(t->dtype));
  return kava_contiguous_as(t, dtype, out);
}

/* Whether all but the last `inner` dimensions, which are contiguous, are one run of rows. One row that is shown several
 * times is none: 0 elements apart would say that they are contiguous. */
static bool is_rows(const kava_tensor *t, int inner) {
  int64_t step = 1;
  for (int d = t->dims - 1; d >= 0; d--) {
    if (d == t->dims - 1 - inner) step = t->stride[d];
    if (t->stride[d] != step || step == 0) return false;
    step *= t->shape[d];
  }
  return t->dims > inner;
}

int64_t kava_operand_row(const kava_tensor *t, int inner) {
  return kava_tensor_is_contiguous(t) ? 0 : t->stride[t->dims - 1 - inner];
}

kava_status kava_operand_rows(const char *op, const char *name, kava_tensor *t, kava_dtype dtype, int inner,
                              kava_tensor **out) {
  if (!t || t->device == KAVA_CPU || t->dtype != dtype || !is_rows(t, inner))
    return kava_operand(op, name, t, dtype, out);
  *out = kava_tensor_retain(t);
  return KAVA_OK;
}

kava_status kava_operand_ids(const char *op, const char *name, kava_tensor *t, kava_device device, kava_tensor **out) {
  kava_tensor *whole = NULL;
  if (t && (t->dtype < KAVA_I64 || t->dtype > KAVA_U8))
    return kava_fail(KAVA_MISUSE, "%s: %s is %s; an integer type expected", op, name, kava_dtype_name(t->dtype));
  kava_status st = kava_operand(op, name, t, KAVA_I64, &whole);
  if (st == KAVA_OK && t) st = kava_tensor_on(whole, device, out);
  if (!t) *out = NULL;
  kava_tensor_release(&whole);
  return st;
}

kava_status kava_operand_shape(const char *op, const char *name, const kava_tensor *t, int dims, const int64_t *shape) {
  if (t->dims == dims && memcmp(t->shape, shape, (size_t)dims * sizeof *shape) == 0) return KAVA_OK;
  char came[96], expected[96];
  kava_shape_format(t->dims, t->shape, came, sizeof came);
  kava_shape_format(dims, shape, expected, sizeof expected);
  return kava_fail(KAVA_MISUSE, "%s: %s is %s; %s expected", op, name, came, expected);
}

static kava_status check_mask(const char *op, const kava_tensor *mask, int64_t rows) {
  if (mask && kava_dtype_is_quantised(mask->dtype))
    return kava_fail(KAVA_MISUSE, "%s: mask is %s; a plain type expected", op, kava_dtype_name(mask->dtype));
  if (mask && kava_tensor_numel(mask) != rows) {
    char came[96];
    kava_shape_format(mask->dims, mask->shape, came, sizeof came);
    return kava_fail(KAVA_MISUSE, "%s: mask is %s; one element for each of the %lld rows expected", op, came,
                     (long long)rows);
  }
  return KAVA_OK;
}

kava_status kava_operand_mask(const char *op, kava_tensor *mask, int64_t rows, uint8_t **keep, int64_t *count) {
  kava_status st = check_mask(op, mask, rows);
  if (st != KAVA_OK) return st;
  kava_tensor *bits = NULL;
  uint8_t *k = kava_alloc((size_t)rows);
  if (!k) return KAVA_MEMORY;
  if (mask) {
    st = kava_contiguous_as(mask, KAVA_BOOL, &bits);
    if (st == KAVA_OK) st = kava_tensor_read(bits, k);
    kava_tensor_release(&bits);
    if (st != KAVA_OK) {
      kava_free(k);
      return st;
    }
  } else
    memset(k, 1, (size_t)rows);
  int64_t kept = 0;
  for (int64_t i = 0; i < rows; i++) kept += k[i];
  *keep = k;
  *count = kept;
  return KAVA_OK;
}

kava_status kava_operand_keep(const char *op, kava_tensor *mask, int64_t rows, kava_device device, kava_tensor **out) {
  kava_status st = check_mask(op, mask, rows);
  kava_tensor *bits = NULL;
  int64_t kept = 0;
  *out = NULL;
  if (st == KAVA_OK && rows == 0) st = kava_fail(KAVA_MISUSE, "%s: no row counts (there are no rows)", op);
  if (st != KAVA_OK || !mask) return st;
  KAVA_TRY(kava_contiguous_as(mask, KAVA_BOOL, &bits));
  if (mask->device == KAVA_CPU) {
    const uint8_t *k = kava_tensor_data(bits);
    for (int64_t i = 0; i < rows; i++) kept += k[i];
    if (kept == 0) KAVA_FAIL(KAVA_MISUSE, "%s: no row counts (%lld rows, the mask leaves none)", op, (long long)rows);
  }
  KAVA_TRY(kava_tensor_on(bits, device, out));
out:
  kava_tensor_release(&bits);
  return st;
}

kava_status kava_operand_counted(const kava_tensor *keep, const kava_tensor *targets, int64_t rows, kava_device device,
                                 kava_tensor **out) {
  kava_tensor *counted = NULL;
  kava_status st = kava_tensor_new_on(device, KAVA_F64, 0, NULL, &counted);
  if (st != KAVA_OK) return st;
  KAVA_RUN(device, count_rows, keep ? kava_tensor_data(keep) : NULL, targets ? kava_i64(targets) : NULL, rows,
           kava_f64(counted));
  *out = counted;
  counted = NULL;
out:
  kava_tensor_release(&counted);
  return st;
}

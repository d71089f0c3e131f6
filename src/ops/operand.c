#include "ops/operand.h"
#include <string.h>

kava_status kava_operand_dtype(const char *op, int count, kava_tensor *const *tensors, const char *const *names,
                               kava_dtype *out) {
  const char *wide = NULL, *narrow = NULL, *narrow_type = NULL;
  for (int i = 0; i < count; i++) {
    const kava_tensor *t = tensors[i];
    if (!t) continue;
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
  return KAVA_OK;
}

static float half_to_float(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023, bits;
  if (exponent == 0) {
    float value = (float)fraction * 0x1p-24f; /* zero and subnormals */
    return sign ? -value : value;
  }
  bits = exponent == 31 ? sign | 0x7f800000u | fraction << 13 : sign | (exponent + 112) << 23 | fraction << 13;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static double element(kava_dtype dtype, const void *data, int64_t i) {
  switch (dtype) {
  case KAVA_F64: return ((const double *)data)[i];
  case KAVA_F32: return ((const float *)data)[i];
  case KAVA_F16: return half_to_float(((const uint16_t *)data)[i]);
  case KAVA_BF16: {
    uint32_t bits = (uint32_t)((const uint16_t *)data)[i] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
  case KAVA_I64: return (double)((const int64_t *)data)[i];
  case KAVA_I32: return ((const int32_t *)data)[i];
  case KAVA_I16: return ((const int16_t *)data)[i];
  case KAVA_I8: return ((const int8_t *)data)[i];
  case KAVA_U8:
  case KAVA_BOOL: return ((const uint8_t *)data)[i];
  default: return 0;
  }
}

/* Calls for every element of t in row-major order: put(out, i, its place in the storage). */
typedef void (*put_fn)(void *out, int64_t i, kava_dtype dtype, const void *data, int64_t at);

static void each(const kava_tensor *t, put_fn put, void *out) {
  int64_t count = kava_tensor_numel(t), index[KAVA_MAX_DIMS] = {0}, at = t->offset;
  for (int64_t i = 0; i < count; i++) {
    put(out, i, t->dtype, t->storage->data, at);
    for (int d = t->dims - 1; d >= 0; d--) {
      at += t->stride[d];
      if (++index[d] < t->shape[d]) break;
      at -= t->stride[d] * t->shape[d];
      index[d] = 0;
    }
  }
}

static void put_f32(void *out, int64_t i, kava_dtype dtype, const void *data, int64_t at) {
  ((float *)out)[i] = (float)element(dtype, data, at);
}
static void put_f64(void *out, int64_t i, kava_dtype dtype, const void *data, int64_t at) {
  ((double *)out)[i] = element(dtype, data, at);
}
static void put_keep(void *out, int64_t i, kava_dtype dtype, const void *data, int64_t at) {
  double value = element(dtype, data, at);
  ((uint8_t *)out)[i] = value < 0 || value > 0;
}
static void put_i64(void *out, int64_t i, kava_dtype dtype, const void *data, int64_t at) {
  ((int64_t *)out)[i] = dtype == KAVA_I64 ? ((const int64_t *)data)[at] : (int64_t)element(dtype, data, at);
}

kava_status kava_operand(const char *op, const char *name, kava_tensor *t, kava_dtype dtype, kava_tensor **out) {
  if (!t) {
    *out = NULL;
    return KAVA_OK;
  }
  if (kava_dtype_is_quantised(t->dtype))
    return kava_fail(KAVA_MISUSE, "%s: %s is %s; a plain type expected", op, name, kava_dtype_name(t->dtype));
  if (t->dtype == dtype && kava_tensor_is_contiguous(t)) {
    *out = kava_tensor_retain(t);
    return KAVA_OK;
  }
  kava_tensor *copy = NULL;
  kava_status st = kava_tensor_empty_like(t, dtype, &copy);
  if (st != KAVA_OK) return st;
  each(t, dtype == KAVA_F64 ? put_f64 : dtype == KAVA_I64 ? put_i64 : put_f32, copy->storage->data);
  *out = copy;
  return KAVA_OK;
}

kava_status kava_operand_ids(const char *op, const char *name, kava_tensor *t, kava_tensor **out) {
  if (t && (t->dtype < KAVA_I64 || t->dtype > KAVA_U8))
    return kava_fail(KAVA_MISUSE, "%s: %s is %s; an integer type expected", op, name, kava_dtype_name(t->dtype));
  return kava_operand(op, name, t, KAVA_I64, out);
}

kava_status kava_operand_shape(const char *op, const char *name, const kava_tensor *t, int dims, const int64_t *shape) {
  if (t->dims == dims && memcmp(t->shape, shape, (size_t)dims * sizeof *shape) == 0) return KAVA_OK;
  char came[96], expected[96];
  kava_shape_format(t->dims, t->shape, came, sizeof came);
  kava_shape_format(dims, shape, expected, sizeof expected);
  return kava_fail(KAVA_MISUSE, "%s: %s is %s; %s expected", op, name, came, expected);
}

kava_status kava_operand_mask(const char *op, kava_tensor *mask, int64_t rows, uint8_t **keep, int64_t *count) {
  if (mask && kava_dtype_is_quantised(mask->dtype))
    return kava_fail(KAVA_MISUSE, "%s: mask is %s; a plain type expected", op, kava_dtype_name(mask->dtype));
  if (mask && kava_tensor_numel(mask) != rows) {
    char came[96];
    kava_shape_format(mask->dims, mask->shape, came, sizeof came);
    return kava_fail(KAVA_MISUSE, "%s: mask is %s; one element for each of the %lld rows expected", op, came,
                     (long long)rows);
  }
  uint8_t *k = kava_alloc((size_t)rows);
  if (!k) return KAVA_MEMORY;
  if (mask)
    each(mask, put_keep, k);
  else
    memset(k, 1, (size_t)rows);
  int64_t kept = 0;
  for (int64_t i = 0; i < rows; i++) kept += k[i];
  *keep = k;
  *count = kept;
  return KAVA_OK;
}

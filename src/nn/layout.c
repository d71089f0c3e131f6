#include "nn/layout.h"
#include <string.h>

static bool real_at(const kava_tensor *mask, int64_t b, int64_t t) {
  int64_t at = mask->offset + b * mask->stride[0] + t * mask->stride[1];
  const void *data = mask->storage->data;
  switch (mask->dtype) {
  case KAVA_I64: return ((const int64_t *)data)[at] != 0;
  case KAVA_I32: return ((const int32_t *)data)[at] != 0;
  case KAVA_I16: return ((const int16_t *)data)[at] != 0;
  default: return ((const uint8_t *)data)[at] != 0;
  }
}

kava_status kava_mask_to_start(const kava_tensor *mask, kava_tensor **out) {
  if (mask->dims != 2 || kava_dtype_is_float(mask->dtype) || kava_dtype_is_quantised(mask->dtype))
    return kava_fail(KAVA_MISUSE,
                     "attention_mask: an integer or bool tensor [batch, length] expected, got %s with %d dimensions",
                     kava_dtype_name(mask->dtype), mask->dims);
  int64_t batch = mask->shape[0], length = mask->shape[1];
  kava_tensor *start = NULL;
  if (mask->device != KAVA_CPU)
    return kava_fail(KAVA_MISUSE, "attention_mask: on %s; it is looked at on the cpu (give start instead)",
                     kava_device_name(mask->device));
  kava_status st = kava_tensor_zeros(KAVA_I32, 2, mask->shape, &start);
  if (st != KAVA_OK) return st;
  bool any = false;
  for (int64_t b = 0; b < batch; b++) {
    int64_t first = 0, end;
    while (first < length && !real_at(mask, b, first)) first++;
    end = first;
    while (end < length && real_at(mask, b, end)) end++;
    for (int64_t t = end; t < length; t++) {
      if (!real_at(mask, b, t)) continue;
      kava_tensor_release(&start);
      return kava_fail(
          KAVA_MISUSE,
          "attention_mask: row %lld has a hole before column %lld; only padding at a row's ends is supported",
          (long long)b + 1, (long long)t + 1);
    }
    for (int64_t t = 0; t < length && first > 0; t++) kava_i32(start)[b * length + t] = (int32_t)first;
    any = any || first > 0;
  }
  if (!any) kava_tensor_release(&start);
  *out = start;
  return KAVA_OK;
}

kava_status kava_rope_rows(const kava_tensor *w, int heads, bool inverse, kava_tensor **out) {
  if (w->dims < 1 || w->dims > 2 || heads < 1 || w->shape[0] % (2 * (int64_t)heads) != 0 ||
      !kava_tensor_is_contiguous(w))
    return kava_fail(KAVA_MISUSE,
                     "rope_rows: a contiguous [rows, in] tensor whose rows are divisible by 2 x %d heads expected",
                     heads);
  if (w->device != KAVA_CPU) return kava_fail(KAVA_MISUSE, "rope_rows: a tensor on the cpu expected");
  if (w->scales)
    return kava_fail(KAVA_UNSUPPORTED, "rope_rows: a %s tensor's scales stay where they are",
                     kava_dtype_name(w->dtype));
  size_t bytes;
  kava_tensor *y = NULL;
  kava_status st = kava_tensor_bytes_of(w, &bytes);
  if (st != KAVA_OK || (st = kava_tensor_new(w->dtype, w->dims, w->shape, &y)) != KAVA_OK) return st;
  int64_t rows = w->shape[0], d = rows / heads;
  size_t row_bytes = rows ? bytes / (size_t)rows : 0;
  const char *from = kava_tensor_data(w);
  char *to = kava_tensor_data(y);
  for (int64_t row = 0; row < rows; row++) {
    int64_t r = row % d, split = row - r + (r % 2) * (d / 2) + r / 2;
    int64_t source = inverse ? split : row, target = inverse ? row : split;
    memcpy(to + (size_t)target * row_bytes, from + (size_t)source * row_bytes, row_bytes);
  }
  *out = y;
  return KAVA_OK;
}

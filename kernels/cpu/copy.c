/* kernels/cpu/copy.c: the plain reference of conversions and strided copies between the plain element types. */
#include "kernels/cpu/half.h"
#include "kernels/cpu/reference.h"
#include "kernels/cpu/strided.h"
#include <string.h>

/* Truncates and saturates; NaN becomes 0. The limits of i64 are not doubles: 2^63 is compared with, INT64_MAX given. */
static int64_t to_integer(double x, int64_t low, int64_t high) {
  if (!(x == x)) return 0;
  if (x <= (double)low) return low;
  if (x >= (double)high) return high;
  return (int64_t)x;
}

#define LOOP(T, value)                                                                                                 \
  for (int64_t i = 0; i < count; i++) ((T *)y)[i] = (value);                                                           \
  break;
#define TO_FLOATS(v)                                                                                                   \
  case KAVA_F64: LOOP(double, (double)(v))                                                                             \
  case KAVA_F32: LOOP(float, (float)(v))                                                                               \
  case KAVA_F16: LOOP(uint16_t, kava_f32_to_f16((float)(v)))                                                           \
  case KAVA_BF16: LOOP(uint16_t, kava_f32_to_bf16((float)(v)))                                                         \
  case KAVA_BOOL:                                                                                                      \
    LOOP(uint8_t, (v) != 0)
#define FROM_FLOAT(v)                                                                                                  \
  switch (to) {                                                                                                        \
    TO_FLOATS(v)                                                                                                       \
  case KAVA_I64: LOOP(int64_t, to_integer((double)(v), INT64_MIN, INT64_MAX))                                          \
  case KAVA_I32: LOOP(int32_t, (int32_t)to_integer((double)(v), INT32_MIN, INT32_MAX))                                 \
  case KAVA_I16: LOOP(int16_t, (int16_t)to_integer((double)(v), INT16_MIN, INT16_MAX))                                 \
  case KAVA_I8: LOOP(int8_t, (int8_t)to_integer((double)(v), INT8_MIN, INT8_MAX))                                      \
  case KAVA_U8: LOOP(uint8_t, (uint8_t)to_integer((double)(v), 0, UINT8_MAX))                                          \
  default: break;                                                                                                      \
  }                                                                                                                    \
  break;
#define FROM_INTEGER(v)                                                                                                \
  switch (to) {                                                                                                        \
    TO_FLOATS(v)                                                                                                       \
  case KAVA_I64: LOOP(int64_t, (int64_t)(v))                                                                           \
  case KAVA_I32: LOOP(int32_t, (int32_t)(v))                                                                           \
  case KAVA_I16: LOOP(int16_t, (int16_t)(v))                                                                           \
  case KAVA_I8: LOOP(int8_t, (int8_t)(v))                                                                              \
  case KAVA_U8: LOOP(uint8_t, (uint8_t)(v))                                                                            \
  default: break;                                                                                                      \
  }                                                                                                                    \
  break;

void kava_ref_convert(kava_dtype from, const void *x, kava_dtype to, void *y, int64_t count) {
  if (from == to) {
    if (count) memcpy(y, x, (size_t)count * (size_t)kava_dtype_block_bytes(from));
    return;
  }
  switch (from) {
  case KAVA_F64: FROM_FLOAT(((const double *)x)[i])
  case KAVA_F32: FROM_FLOAT(((const float *)x)[i])
  case KAVA_F16: FROM_FLOAT(kava_f16_to_f32(((const uint16_t *)x)[i]))
  case KAVA_BF16: FROM_FLOAT(kava_bf16_to_f32(((const uint16_t *)x)[i]))
  case KAVA_I64: FROM_INTEGER(((const int64_t *)x)[i])
  case KAVA_I32: FROM_INTEGER(((const int32_t *)x)[i])
  case KAVA_I16: FROM_INTEGER(((const int16_t *)x)[i])
  case KAVA_I8: FROM_INTEGER(((const int8_t *)x)[i])
  case KAVA_U8:
  case KAVA_BOOL: FROM_INTEGER(((const uint8_t *)x)[i])
  default: break;
  }
}

static void move(int bytes, const void *x, int64_t x_stride, void *y, int64_t y_stride, int64_t count) {
#define MOVE(T)                                                                                                        \
  for (int64_t i = 0; i < count; i++) ((T *)y)[i * y_stride] = ((const T *)x)[i * x_stride];
  if (bytes == 8) {
    MOVE(uint64_t)
  } else if (bytes == 4) {
    MOVE(uint32_t)
  } else if (bytes == 2) {
    MOVE(uint16_t)
  } else
    MOVE(uint8_t)
#undef MOVE
}

void kava_ref_copy(kava_dtype from, kava_dtype to, const kava_strided *args) {
  kava_strided s = kava_strided_merge(args);
  int64_t rows = kava_strided_rows(&s), n = s.shape[s.dims - 1];
  int64_t dx = s.in_stride[0][s.dims - 1], dy = s.out_stride[s.dims - 1];
  int size_x = kava_dtype_block_bytes(from), size_y = kava_dtype_block_bytes(to);
  for (int64_t row = 0; row < rows; row++) {
    int64_t at[4];
    kava_strided_seek(&s, row, at);
    const char *x = (const char *)s.in[0] + at[0] * size_x;
    char *y = (char *)s.out + at[3] * size_y;
    if (dx == 1 && dy == 1)
      kava_ref_convert(from, x, to, y, n);
    else if (from == to)
      move(size_x, x, dx, y, dy, n);
    else { /* gathered, converted and scattered in pieces */
      enum { PIECE = 256 };
      uint64_t in[PIECE], out[PIECE];
      for (int64_t i = 0; i < n; i += PIECE) {
        int64_t count = n - i < PIECE ? n - i : PIECE;
        move(size_x, x + i * dx * size_x, dx, in, 1, count);
        kava_ref_convert(from, in, to, out, count);
        move(size_y, out, 1, y + i * dy * size_y, dy, count);
      }
    }
  }
}

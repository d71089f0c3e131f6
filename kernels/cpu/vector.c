/* kernels/cpu/vector.c: the plain reference of the vector family. */
#include "kernels/cpu/element.h"
#include "kernels/cpu/half.h"
#include "kernels/cpu/reference.h"
#include <string.h>

void kava_ref_axpy(float a, const float *x, float *y, int64_t count, bool add) {
  for (int64_t i = 0; i < count; i++) y[i] = add ? y[i] + a * x[i] : a * x[i];
}

void kava_ref_accumulate(kava_dtype dtype, const void *x, void *y, int64_t count) {
  for (int64_t i = 0; i < count; i++) element_put(dtype, y, i, element_get(dtype, x, i), true);
}

void kava_ref_fill(kava_dtype type, void *y, int64_t count, double number, int64_t integer) {
  union {
    double f64;
    float f32;
    uint16_t bits;
    int64_t i64;
    int32_t i32;
    int16_t i16;
    uint8_t byte;
  } one;
  int size = 1;
  switch (type) {
  case KAVA_F64: one.f64 = number, size = 8; break;
  case KAVA_F32: one.f32 = (float)number, size = 4; break;
  case KAVA_F16: one.bits = kava_f32_to_f16((float)number), size = 2; break;
  case KAVA_BF16: one.bits = kava_f32_to_bf16((float)number), size = 2; break;
  case KAVA_I64: one.i64 = integer, size = 8; break;
  case KAVA_I32: one.i32 = (int32_t)integer, size = 4; break;
  case KAVA_I16: one.i16 = (int16_t)integer, size = 2; break;
  case KAVA_BOOL: one.byte = integer != 0; break;
  default: one.byte = (uint8_t)integer;
  }
  for (int64_t i = 0; i < count; i++) memcpy((char *)y + i * size, &one, (size_t)size);
}

/* kernels/cpu/quant.c: the plain reference of `widen`: elements of any float or quantised dtype to f32.
 * Block layouts are GGUF's: q4_0 {f16 d; 16 bytes} = d(q-8); q4_1 {f16 d, m; 16 bytes} = dq+m; q8_0 {f16 d; 32 int8} =
 * dq. In the 4-bit types element i < 16 is the low half of byte i, element i + 16 the high half. */
#include "kernels/cpu/reference.h"
#include <string.h>

static float of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
static float bf16_at(const uint8_t *p) { return of_bits((uint32_t)p[1] << 24 | (uint32_t)p[0] << 16); }
static float f16_at(const uint8_t *p) {
  uint32_t h = (uint32_t)p[1] << 8 | p[0], sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31u, mantissa = h & 0x3ffu;
  if (exponent == 31) return of_bits(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) { /* zero and subnormals: mantissa * 2^-24 is exact */
    float x = (float)mantissa * 0x1p-24f;
    return sign ? -x : x;
  }
  return of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

void kava_ref_widen(kava_dtype type, const void *src, float *dst, int64_t count) {
  const uint8_t *p = src;
  switch (type) {
  case KAVA_F32: memcpy(dst, src, (size_t)count * sizeof *dst); break;
  case KAVA_F16:
    for (int64_t i = 0; i < count; i++) dst[i] = f16_at(p + 2 * i);
    break;
  case KAVA_BF16:
    for (int64_t i = 0; i < count; i++) dst[i] = bf16_at(p + 2 * i);
    break;
  case KAVA_Q4_0:
    for (; count > 0; count -= 32, p += 18, dst += 32) {
      float d = f16_at(p);
      for (int i = 0; i < 16; i++) {
        dst[i] = d * (float)((p[2 + i] & 15) - 8);
        dst[i + 16] = d * (float)((p[2 + i] >> 4) - 8);
      }
    }
    break;
  case KAVA_Q4_1:
    for (; count > 0; count -= 32, p += 20, dst += 32) {
      float d = f16_at(p), m = f16_at(p + 2);
      for (int i = 0; i < 16; i++) {
        dst[i] = d * (float)(p[4 + i] & 15) + m;
        dst[i + 16] = d * (float)(p[4 + i] >> 4) + m;
      }
    }
    break;
  case KAVA_Q8_0:
    for (; count > 0; count -= 32, p += 34, dst += 32) {
      float d = f16_at(p);
      for (int i = 0; i < 32; i++) dst[i] = d * (float)(int8_t)p[2 + i];
    }
    break;
  default: break;
  }
}

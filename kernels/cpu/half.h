/* kernels/cpu/half.h: f16, bf16 and fp8 as bits. Rounding is to nearest even; NaN stays NaN, f16 overflows to infinity.
 */
#ifndef KAVA_KERNELS_CPU_HALF_H
#define KAVA_KERNELS_CPU_HALF_H
#include <stdint.h>
#include <string.h>

static inline float kava_float_of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
static inline uint32_t kava_bits_of_float(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline float kava_bf16_to_f32(uint16_t h) { return kava_float_of_bits((uint32_t)h << 16); }
static inline uint16_t kava_f32_to_bf16(float x) {
  uint32_t bits = kava_bits_of_float(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40); /* quiet */
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

static inline float kava_f16_to_f32(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31u, mantissa = h & 0x3ffu;
  if (exponent == 31) return kava_float_of_bits(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) { /* zero and subnormals: mantissa * 2^-24 is exact */
    float x = (float)mantissa * 0x1p-24f;
    return sign ? -x : x;
  }
  return kava_float_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}
static inline uint16_t kava_f32_to_f16(float x) {
  uint32_t bits = kava_bits_of_float(x), sign = bits >> 16 & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (bits >> 13 & 0x3ffu));
  if (bits >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* >= 65520 rounds to infinity */
  if (bits < 0x38800000u) { /* subnormal: adding 0.5 leaves the rounded multiple of 2^-24 below */
    uint32_t rounded = kava_bits_of_float(kava_float_of_bits(bits) + 0.5f);
    return (uint16_t)(sign | (rounded - 0x3f000000u));
  }
  return (uint16_t)(sign | (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1)) >> 13);
}

static inline float kava_fp8_to_f32(uint8_t x) { /* e4m3: no infinities, S.1111.111 is NaN, subnormals m 2^-9 */
  if ((x & 127) == 127) return kava_float_of_bits(0x7fc00000u | (uint32_t)(x & 128) << 24);
  return kava_f16_to_f32((uint16_t)((x & 128) << 8 | (x & 127) << 7)) * 256.0f;
}

/* e4m3, to nearest: from 2^-6 on a mantissa of 3 bits; below, multiples of 2^-9, which are the units of f32 beside
 * 2^14. 448 at most. */
static inline uint8_t kava_f32_to_fp8(float x) {
  uint32_t bits = kava_bits_of_float(x), size = bits & 0x7fffffffu, code;
  if (size < 0x3c800000u)
    code = kava_bits_of_float(kava_float_of_bits(size) + 0x1p14f) - 0x46800000u;
  else if (size >= 0x43e00000u)
    code = size > 0x7f800000u ? 0x7f : 0x7e;
  else
    code = ((size + 0x7ffffu + (size >> 20 & 1)) >> 20) - (120u << 3);
  return (uint8_t)(code | (bits >> 24 & 128));
}
#endif

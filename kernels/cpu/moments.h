/* kernels/cpu/moments.h: how AdamW keeps its masters and states in few bits; what the bits mean: kava_adamw_span
 * (kernels/args.h). */
#ifndef KAVA_CPU_MOMENTS_H
#define KAVA_CPU_MOMENTS_H
#include "kernels/args.h"
#include "kernels/cpu/half.h"
#include <math.h>

/* An f32 as bf16 and what that lacks, and together again. */
static inline uint16_t adamw_high(float x) {
  uint32_t bits = kava_bits_of_float(x);
  return (bits & 0x7fffffffu) > 0x7f800000u ? (uint16_t)(bits >> 16 | 0x40) : (uint16_t)((bits + 0x8000u) >> 16);
}
static inline int16_t adamw_low(float x) {
  uint32_t bits = kava_bits_of_float(x);
  return (bits & 0x7fffffffu) > 0x7f800000u ? 0 : (int16_t)(uint16_t)bits;
}
static inline float adamw_joined(uint16_t high, int16_t low) {
  return kava_float_of_bits(((uint32_t)high << 16) + (uint32_t)(int32_t)low);
}

/* m in bf16 to nearest, v stochastically */
static inline uint16_t adamw_small_v(float v, uint32_t noise) {
  uint32_t bits = kava_bits_of_float(v);
  bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (uint16_t)((bits + (noise & 0xffff)) >> 16) : kava_f32_to_bf16(v);
}

/* The number that code c stands for, and y >= 0 as a code, up or down at random; noise: 16 bits. */
static inline float adamw_decoded(uint32_t c) {
  return c < 8 ? (float)c : kava_float_of_bits((c << 20) + (129u << 23));
}
static inline uint32_t adamw_coded(float y, uint32_t noise, uint32_t most) {
  uint32_t c =
      y < 8 ? (uint32_t)(y + (float)noise * 0x1p-16f) : (kava_bits_of_float(y) + (noise << 4) - (129u << 23)) >> 20;
  return c < most ? c : most;
}
static inline float adamw_m_of(uint8_t code, float most) {
  float size = adamw_decoded(code & 127u) * (1 / KAVA_MOMENT_TOP_M) * most;
  return code & 128u ? -size : size;
}
static inline float adamw_v_of(uint8_t code, float most) {
  return adamw_decoded(code) * (1 / KAVA_MOMENT_TOP_V) * most;
}
/* inverse: 1 / the block's most; 0 where that is 0 (or too small to have one). Above 1 comes out as the highest code.
 */
static inline float adamw_inverse(float most) { return most < 0x1p-126f ? 0 : 1 / most; }
static inline uint8_t adamw_m_code(float m, float inverse, uint32_t noise) {
  return (uint8_t)(adamw_coded(fabsf(m) * inverse * KAVA_MOMENT_TOP_M, noise >> 16, 127) | (m < 0 ? 128u : 0u));
}
static inline uint8_t adamw_v_code(float v, float inverse, uint32_t noise) {
  uint32_t c = adamw_coded(v * inverse * KAVA_MOMENT_TOP_V, noise & 0xffff, 255);
  return (uint8_t)(c == 0 && v * inverse > 0 ? 1 : c);
}
/* The most of a block: as bits, among which infinities and NaN are the largest. */
static inline float adamw_most(const float *x, int64_t count) {
  uint32_t most = 0;
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits = kava_bits_of_float(x[i]) & 0x7fffffffu;
    most = bits > most ? bits : most;
  }
  return kava_float_of_bits(most);
}

#endif

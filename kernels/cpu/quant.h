/* kernels/cpu/quant.h: how scales are found, in GGUF's blocks and beside bare codes, for the reference and the
 * SIMD kernels alike. */
#ifndef KAVA_KERNELS_CPU_QUANT_H
#define KAVA_KERNELS_CPU_QUANT_H
#include "kernels/args.h"
#include "kernels/cpu/half.h"

static const int8_t kava_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* The tables of bitsandbytes' 4-bit types. */
static const float kava_nf4_values[16] = {-1.0f,
                                          -0.6961928009986877f,
                                          -0.5250730514526367f,
                                          -0.39491748809814453f,
                                          -0.28444138169288635f,
                                          -0.18477343022823334f,
                                          -0.09105003625154495f,
                                          0.0f,
                                          0.07958029955625534f,
                                          0.16093020141124725f,
                                          0.24611230194568634f,
                                          0.33791524171829224f,
                                          0.44070982933044434f,
                                          0.5626170039176941f,
                                          0.7229568362236023f,
                                          1.0f};
static const float kava_fp4_values[16] = {
    0.0f,  0.00520833333f,  0.66666667f,  1.0f,  0.33333333f,  0.5f,  0.16666667f,  0.25f,
    -0.0f, -0.00520833333f, -0.66666667f, -1.0f, -0.33333333f, -0.5f, -0.16666667f, -0.25f};

/* Where bitsandbytes' quantiser passes from one nf4 code to the next: near the middles of the values, as rounded there.
 */
static const float kava_nf4_edges[15] = {
    -0.8480964004993439f,  -0.6106329262256622f,   -0.4599952697753906f, -0.33967943489551544f, -0.23460740596055984f,
    -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f, 0.1202552504837513f,   0.2035212516784668f,
    0.2920137718319893f,   0.3893125355243683f,    0.5016634166240692f,  0.6427869200706482f,   0.8614784181118011f};

/* q4_k, q5_k: eight 6-bit scales and minima in 12 bytes. The first four of each are the low six bits of bytes 0-3 and
 * 4-7; the others have their low four bits in bytes 8-11 and their high two above those six. */
static inline void kava_k_scales(const uint8_t *s, uint8_t scales[8], uint8_t mins[8]) {
  for (int j = 0; j < 4; j++) {
    scales[j] = s[j] & 63;
    mins[j] = s[j + 4] & 63;
    scales[j + 4] = (uint8_t)((s[j + 8] & 15) | (s[j] >> 6) << 4);
    mins[j + 4] = (uint8_t)((s[j + 8] >> 4) | (s[j + 4] >> 6) << 4);
  }
}

/* q3_k: sixteen 6-bit scales less 32 in 12 bytes: low four bits in bytes 0-7 (halves), high two in bytes 8-11. */
static inline void kava_q3_k_scales(const uint8_t *s, int8_t scales[16]) {
  for (int j = 0; j < 16; j++) {
    int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4, high = s[8 + j % 4] >> 2 * (j / 4) & 3;
    scales[j] = (int8_t)((low | high << 4) - 32);
  }
}

/* iq4_xs: the scale of sub-block j of the block at `p`. */
static inline int kava_iq4_xs_scale(const uint8_t *p, int j) {
  int low = p[4 + j / 2] >> 4 * (j & 1) & 15, high = (p[2] | p[3] << 8) >> 2 * j & 3;
  return (low | high << 4) - 32;
}

static inline int64_t kava_scale_number(const kava_scaling *s, int64_t row, int64_t column) {
  if (s->across == 0) return (row * s->columns + column) / s->group;
  return row / s->rows * s->across + (s->group_of ? s->group_of[column] : column / s->group);
}
static inline float kava_scale_at(const kava_scaling *s, int64_t number) {
  switch (s->type) {
  case KAVA_F16: return kava_f16_to_f32(((const uint16_t *)s->scales)[number]);
  case KAVA_BF16: return kava_bf16_to_f32(((const uint16_t *)s->scales)[number]);
  case KAVA_U8: {
    bool small = (number | s->outer_group) <= UINT32_MAX; /* a narrow division is several times as fast */
    int64_t group = small ? (int64_t)((uint32_t)number / (uint32_t)s->outer_group) : number / s->outer_group;
    float scale = s->map[((const uint8_t *)s->scales)[number]] * s->outer[group];
    return scale + s->offset;
  }
  default: return ((const float *)s->scales)[number];
  }
}
static inline float kava_zero_at(const kava_scaling *s, kava_dtype codes, int64_t number) {
  if (!s->zeros) return s->zero;
  return codes == KAVA_INT8 ? (float)(int8_t)s->zeros[number] : (float)s->zeros[number];
}
#endif

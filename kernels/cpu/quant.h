/* kernels/cpu/quant.h: how GGUF packs the scales of its blocks, for the reference and the SIMD kernels alike. */
#ifndef KAVA_KERNELS_CPU_QUANT_H
#define KAVA_KERNELS_CPU_QUANT_H
#include "kava.h"

static const int8_t kava_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* Bytes of a block; kernels include only base, so this repeats what tensor.c knows. */
static inline int kava_quant_bytes(kava_dtype type) {
  switch (type) {
  case KAVA_Q4_0:
  case KAVA_IQ4_NL: return 18;
  case KAVA_Q4_1: return 20;
  case KAVA_Q5_0: return 22;
  case KAVA_Q5_1: return 24;
  case KAVA_Q8_0: return 34;
  case KAVA_Q2_K: return 84;
  case KAVA_Q3_K: return 110;
  case KAVA_Q4_K: return 144;
  case KAVA_Q5_K: return 176;
  case KAVA_Q6_K: return 210;
  case KAVA_IQ4_XS: return 136;
  default: return 0;
  }
}

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
#endif

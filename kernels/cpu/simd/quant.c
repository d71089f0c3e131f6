/* kernels/cpu/simd/quant.c: `widen` sixteen stored integers at a time: they are unpacked in one 128-bit register (the
 * same instructions for AVX2 and AVX-512), widened to floats and scaled. Layouts: kernels/cpu/quant.c. Compiled without
 * contraction (CMakeLists.txt): d q + m rounds twice, as in the reference, so that both give the same bits.
 * NEON: the reference stays. */
#include "kernels/cpu/simd/vec.h"
#include "kernels/cpu/quant.h"
#include <string.h>

void KAVA_SIMD(quant)(kava_kernels *table);

#if defined(__AVX2__)

static inline __m128i load16(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }
static inline float f16_at(const uint8_t *p) {
  uint16_t h;
  memcpy(&h, p, sizeof h);
  return _cvtsh_ss(h);
}
static inline __m128i low_half(__m128i q) { return _mm_and_si128(q, _mm_set1_epi8(15)); }
static inline __m128i high_half(__m128i q) { return _mm_and_si128(_mm_srli_epi16(q, 4), _mm_set1_epi8(15)); }

/* y = q d and y = q d + m, sixteen signed bytes; d and m in every lane */
#if defined(__AVX512F__)
static inline void scale16(float *y, __m128i q, vf d) {
  _mm512_storeu_ps(y, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)), d));
}
static inline void affine16(float *y, __m128i q, vf d, vf m) {
  _mm512_storeu_ps(y, _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)), d), m));
}
#else
static inline void scale16(float *y, __m128i q, vf d) {
  _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)), d));
  _mm256_storeu_ps(y + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(q, 8))), d));
}
static inline void affine16(float *y, __m128i q, vf d, vf m) {
  _mm256_storeu_ps(y, _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)), d), m));
  _mm256_storeu_ps(y + 8,
                   _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(q, 8))), d), m));
}
#endif

/* Sixteen bits, spread: byte i is 16 where bit i of the two bytes at p is set, else 0. */
static inline __m128i fifth_bits(const uint8_t *p) {
  uint16_t h;
  memcpy(&h, p, sizeof h);
  const __m128i bit = _mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, -128, 1, 2, 4, 8, 16, 32, 64, -128);
  const __m128i byte = _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  __m128i spread = _mm_and_si128(_mm_shuffle_epi8(_mm_set1_epi16((short)h), byte), bit);
  return _mm_and_si128(_mm_cmpeq_epi8(spread, bit), _mm_set1_epi8(16));
}

static void widen_q4_0(const uint8_t *p, float *y, int64_t count) {
  for (; count > 0; count -= 32, p += 18, y += 32) {
    __m128i q = load16(p + 2), eight = _mm_set1_epi8(8);
    vf d = vf_set(f16_at(p));
    scale16(y, _mm_sub_epi8(low_half(q), eight), d);
    scale16(y + 16, _mm_sub_epi8(high_half(q), eight), d);
  }
}

static void widen_q4_1(const uint8_t *p, float *y, int64_t count) {
  for (; count > 0; count -= 32, p += 20, y += 32) {
    __m128i q = load16(p + 4);
    vf d = vf_set(f16_at(p)), m = vf_set(f16_at(p + 2));
    affine16(y, low_half(q), d, m);
    affine16(y + 16, high_half(q), d, m);
  }
}

static void widen_q5_0(const uint8_t *p, float *y, int64_t count) {
  for (; count > 0; count -= 32, p += 22, y += 32) {
    __m128i q = load16(p + 6), sixteen = _mm_set1_epi8(16);
    vf d = vf_set(f16_at(p));
    scale16(y, _mm_sub_epi8(_mm_or_si128(low_half(q), fifth_bits(p + 2)), sixteen), d);
    scale16(y + 16, _mm_sub_epi8(_mm_or_si128(high_half(q), fifth_bits(p + 4)), sixteen), d);
  }
}

static void widen_q5_1(const uint8_t *p, float *y, int64_t count) {
  for (; count > 0; count -= 32, p += 24, y += 32) {
    __m128i q = load16(p + 8);
    vf d = vf_set(f16_at(p)), m = vf_set(f16_at(p + 2));
    affine16(y, _mm_or_si128(low_half(q), fifth_bits(p + 4)), d, m);
    affine16(y + 16, _mm_or_si128(high_half(q), fifth_bits(p + 6)), d, m);
  }
}

static void widen_q8_0(const uint8_t *p, float *y, int64_t count) {
  for (; count > 0; count -= 32, p += 34, y += 32) {
    vf d = vf_set(f16_at(p));
    scale16(y, load16(p + 2), d);
    scale16(y + 16, load16(p + 18), d);
  }
}

static void widen_iq4_nl(const uint8_t *p, float *y, int64_t count) {
  __m128i values = load16((const uint8_t *)kava_iq4_values);
  for (; count > 0; count -= 32, p += 18, y += 32) {
    __m128i q = load16(p + 2);
    vf d = vf_set(f16_at(p));
    scale16(y, _mm_shuffle_epi8(values, low_half(q)), d);
    scale16(y + 16, _mm_shuffle_epi8(values, high_half(q)), d);
  }
}

static void widen_q2_k(const uint8_t *p, float *y, int64_t count) {
  for (; count > 0; count -= 256, p += 84) {
    const uint8_t *s = p, *q = p + 16;
    float d = f16_at(p + 80), m = -f16_at(p + 82);
    for (int half = 0; half < 2; half++, q += 32) {
      __m128i a = load16(q), b = load16(q + 16), three = _mm_set1_epi8(3);
      for (int j = 0; j < 4; j++, s += 2, y += 32) {
        affine16(y, _mm_and_si128(a, three), vf_set(d * (float)(s[0] & 15)), vf_set(m * (float)(s[0] >> 4)));
        affine16(y + 16, _mm_and_si128(b, three), vf_set(d * (float)(s[1] & 15)), vf_set(m * (float)(s[1] >> 4)));
        a = _mm_srli_epi16(a, 2);
        b = _mm_srli_epi16(b, 2);
      }
    }
  }
}

static void widen_q3_k(const uint8_t *p, float *y, int64_t count) {
  for (; count > 0; count -= 256, p += 110) {
    __m128i h[2] = {load16(p), load16(p + 16)}, three = _mm_set1_epi8(3), four = _mm_set1_epi8(4);
    float d = f16_at(p + 108);
    int8_t scales[16];
    kava_q3_k_scales(p + 96, scales);
    for (int half = 0; half < 2; half++) {
      __m128i q[2] = {load16(p + 32 + 32 * half), load16(p + 48 + 32 * half)};
      for (int j = 0; j < 4; j++)
        for (int k = 0; k < 2; k++, y += 16) {
          __m128i third = _mm_and_si128(_mm_slli_epi16(h[k], 2), four); /* 4 where the bit is set */
          scale16(y, _mm_sub_epi8(_mm_or_si128(_mm_and_si128(q[k], three), third), four),
                  vf_set(d * (float)scales[8 * half + 2 * j + k]));
          q[k] = _mm_srli_epi16(q[k], 2);
          h[k] = _mm_srli_epi16(h[k], 1);
        }
    }
  }
}

static inline void widen_q45_k(const uint8_t *p, float *y, int64_t count, bool five) {
  for (; count > 0; count -= 256, p += five ? 176 : 144) {
    const uint8_t *q = p + (five ? 48 : 16);
    float d = f16_at(p), m = -f16_at(p + 2);
    uint8_t scales[8], mins[8];
    kava_k_scales(p + 4, scales, mins);
    __m128i h[2] = {_mm_setzero_si128(), _mm_setzero_si128()}, one = _mm_set1_epi8(1);
    if (five) {
      h[0] = load16(p + 16);
      h[1] = load16(p + 32);
    }
    for (int j = 0; j < 8; j++, y += 32) {
      vf scale = vf_set(d * (float)scales[j]), least = vf_set(m * (float)mins[j]);
      for (int k = 0; k < 2; k++) {
        __m128i v = load16(q + 32 * (j / 2) + 16 * k);
        v = j & 1 ? high_half(v) : low_half(v);
        if (five) {
          v = _mm_or_si128(v, _mm_slli_epi16(_mm_and_si128(h[k], one), 4));
          h[k] = _mm_srli_epi16(h[k], 1);
        }
        affine16(y + 16 * k, v, scale, least);
      }
    }
  }
}
static void widen_q4_k(const uint8_t *p, float *y, int64_t count) { widen_q45_k(p, y, count, false); }
static void widen_q5_k(const uint8_t *p, float *y, int64_t count) { widen_q45_k(p, y, count, true); }

static void widen_q6_k(const uint8_t *p, float *y, int64_t count) {
  const __m128i top = _mm_set1_epi8(48), bias = _mm_set1_epi8(32);
  for (; count > 0; count -= 256, p += 210) {
    const uint8_t *q = p, *h = p + 128;
    const int8_t *s = (const int8_t *)p + 192;
    float d = f16_at(p + 208);
    for (int half = 0; half < 2; half++, q += 64, h += 32, s += 8, y += 128)
      for (int k = 0; k < 2; k++) {
        __m128i a = load16(q + 16 * k), b = load16(q + 32 + 16 * k), bits = load16(h + 16 * k);
        __m128i v0 = _mm_or_si128(low_half(a), _mm_and_si128(_mm_slli_epi16(bits, 4), top));
        __m128i v1 = _mm_or_si128(low_half(b), _mm_and_si128(_mm_slli_epi16(bits, 2), top));
        __m128i v2 = _mm_or_si128(high_half(a), _mm_and_si128(bits, top));
        __m128i v3 = _mm_or_si128(high_half(b), _mm_and_si128(_mm_srli_epi16(bits, 2), top));
        scale16(y + 16 * k, _mm_sub_epi8(v0, bias), vf_set(d * (float)s[k]));
        scale16(y + 32 + 16 * k, _mm_sub_epi8(v1, bias), vf_set(d * (float)s[2 + k]));
        scale16(y + 64 + 16 * k, _mm_sub_epi8(v2, bias), vf_set(d * (float)s[4 + k]));
        scale16(y + 96 + 16 * k, _mm_sub_epi8(v3, bias), vf_set(d * (float)s[6 + k]));
      }
  }
}

static void widen_iq4_xs(const uint8_t *p, float *y, int64_t count) {
  __m128i values = load16((const uint8_t *)kava_iq4_values);
  for (; count > 0; count -= 256, p += 136) {
    float d = f16_at(p);
    for (int j = 0; j < 8; j++, y += 32) {
      __m128i q = load16(p + 8 + 16 * j);
      vf scale = vf_set(d * (float)kava_iq4_xs_scale(p, j));
      scale16(y, _mm_shuffle_epi8(values, low_half(q)), scale);
      scale16(y + 16, _mm_shuffle_epi8(values, high_half(q)), scale);
    }
  }
}

static void widen_f16(const uint8_t *p, float *y, int64_t count) {
  int64_t i = 0;
  for (; i + VF_LANES <= count; i += VF_LANES) {
#if defined(__AVX512F__)
    _mm512_storeu_ps(y + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p + 2 * i))));
#else
    _mm256_storeu_ps(y + i, _mm256_cvtph_ps(load16(p + 2 * i)));
#endif
  }
  for (; i < count; i++) y[i] = f16_at(p + 2 * i);
}

static void widen_bf16(const uint8_t *p, float *y, int64_t count) {
  int64_t i = 0;
  for (; i + VF_LANES <= count; i += VF_LANES) {
#if defined(__AVX512F__)
    __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p + 2 * i)));
    _mm512_storeu_ps(y + i, _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)));
#else
    _mm256_storeu_ps(y + i, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load16(p + 2 * i)), 16)));
#endif
  }
  for (; i < count; i++) {
    uint16_t h;
    memcpy(&h, p + 2 * i, sizeof h);
    uint32_t bits = (uint32_t)h << 16;
    memcpy(y + i, &bits, sizeof bits);
  }
}

static void widen(kava_dtype type, const void *src, float *dst, int64_t count) {
  switch (type) {
  case KAVA_F16: widen_f16(src, dst, count); break;
  case KAVA_BF16: widen_bf16(src, dst, count); break;
  case KAVA_Q4_0: widen_q4_0(src, dst, count); break;
  case KAVA_Q4_1: widen_q4_1(src, dst, count); break;
  case KAVA_Q5_0: widen_q5_0(src, dst, count); break;
  case KAVA_Q5_1: widen_q5_1(src, dst, count); break;
  case KAVA_Q8_0: widen_q8_0(src, dst, count); break;
  case KAVA_Q2_K: widen_q2_k(src, dst, count); break;
  case KAVA_Q3_K: widen_q3_k(src, dst, count); break;
  case KAVA_Q4_K: widen_q4_k(src, dst, count); break;
  case KAVA_Q5_K: widen_q5_k(src, dst, count); break;
  case KAVA_Q6_K: widen_q6_k(src, dst, count); break;
  case KAVA_IQ4_NL: widen_iq4_nl(src, dst, count); break;
  case KAVA_IQ4_XS: widen_iq4_xs(src, dst, count); break;
  default: kava_kernels_reference()->widen(type, src, dst, count);
  }
}

void KAVA_SIMD(quant)(kava_kernels *table) { table->widen = widen; }
#else
void KAVA_SIMD(quant)(kava_kernels *table) { (void)table; }
#endif

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

/* ---- bare codes: sixteen at a time; what is left at the end goes to the reference ---- */

/* Sixteen bytes as floats */
static inline void bytes16(float *y, __m128i q, bool is_signed) {
#if defined(__AVX512F__)
  __m512i wide = is_signed ? _mm512_cvtepi8_epi32(q) : _mm512_cvtepu8_epi32(q);
  _mm512_storeu_ps(y, _mm512_cvtepi32_ps(wide));
#else
  __m128i high = _mm_srli_si128(q, 8);
  _mm256_storeu_ps(y, _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(q) : _mm256_cvtepu8_epi32(q)));
  _mm256_storeu_ps(y + 8, _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(high) : _mm256_cvtepu8_epi32(high)));
#endif
}

static inline __m128i load8(const uint8_t *p) { return _mm_loadl_epi64((const __m128i *)(const void *)p); }

/* y = table[q], sixteen bytes below 16 */
static inline void look16(float *y, __m128i q, const float *table) {
#if defined(__AVX512F__)
  _mm512_storeu_ps(y, _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(q), _mm512_loadu_ps(table)));
#else
  __m256 low = _mm256_loadu_ps(table), high = _mm256_loadu_ps(table + 8);
  for (int i = 0; i < 2; i++, q = _mm_srli_si128(q, 8)) {
    __m256i at = _mm256_cvtepu8_epi32(q);
    __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)); /* bit 3 as the sign */
    __m256 value = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, at), _mm256_permutevar8x32_ps(high, at), upper);
    _mm256_storeu_ps(y + 8 * i, value);
  }
#endif
}

static int64_t widen_table(const uint8_t *p, float *y, int64_t count, const float *table) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    __m128i q = load8(p + i / 2);
    look16(y + i, _mm_unpacklo_epi8(high_half(q), low_half(q)), table);
  }
  return i;
}

static int64_t widen_int4(const uint8_t *p, float *y, int64_t count) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    __m128i q = load8(p + i / 2);
    bytes16(y + i, _mm_unpacklo_epi8(low_half(q), high_half(q)), false);
  }
  return i;
}

/* int2 and int3: eight codes from the low bits of one word, eight from those of another */
static inline void words16(float *y, uint32_t a, uint32_t b, __m256i shift_a, __m256i shift_b, int mask) {
  __m256i m = _mm256_set1_epi32(mask);
  __m256i low = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32((int)a), shift_a), m);
  __m256i high = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32((int)b), shift_b), m);
  _mm256_storeu_ps(y, _mm256_cvtepi32_ps(low));
  _mm256_storeu_ps(y + 8, _mm256_cvtepi32_ps(high));
}
static inline uint32_t load4(const uint8_t *p) {
  uint32_t word;
  memcpy(&word, p, sizeof word);
  return word;
}

static int64_t widen_int2(const uint8_t *p, float *y, int64_t count) {
  const __m256i low = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14), high = _mm256_add_epi32(low, _mm256_set1_epi32(16));
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) words16(y + i, load4(p + i / 4), load4(p + i / 4), low, high, 3);
  return i;
}

static int64_t widen_int3(const uint8_t *p, float *y, int64_t count) {
  const __m256i low = _mm256_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21), high = _mm256_add_epi32(low, _mm256_set1_epi32(8));
  int64_t i = 0;
  for (; i + 16 <= count; i += 16, p += 6) words16(y + i, load4(p), load4(p + 2), low, high, 7); /* bits 24 to 47 */
  return i;
}

static int64_t widen_bytes(const uint8_t *p, float *y, int64_t count, bool is_signed) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) bytes16(y + i, load16(p + i), is_signed);
  return i;
}

/* e4m3 is f16 with a shorter exponent and mantissa, 2^8 too small */
static int64_t widen_fp8(const uint8_t *p, float *y, int64_t count) {
  const __m256i magnitude = _mm256_set1_epi16(127), sign = _mm256_set1_epi16(128);
  const vf up = vf_set(256.0f);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    __m256i x = _mm256_cvtepu8_epi16(load16(p + i)), m = _mm256_and_si256(x, magnitude);
    __m256i h = _mm256_or_si256(_mm256_slli_epi16(_mm256_and_si256(x, sign), 8), _mm256_slli_epi16(m, 7));
    __m256i nan = _mm256_and_si256(_mm256_cmpeq_epi16(m, magnitude), _mm256_set1_epi16(0x7e00));
    h = _mm256_or_si256(h, nan);
#if defined(__AVX512F__)
    vf_store(y + i, vf_mul(_mm512_cvtph_ps(h), up));
#else
    vf_store(y + i, vf_mul(_mm256_cvtph_ps(_mm256_castsi256_si128(h)), up));
    vf_store(y + i + 8, vf_mul(_mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)), up));
#endif
  }
  return i;
}

/* Widens whole sixteens of codes and says how many elements that were; 0 for other types. */
static int64_t widen_codes(kava_dtype type, const uint8_t *p, float *y, int64_t count) {
  switch (type) {
  case KAVA_NF4: return widen_table(p, y, count, kava_nf4_values);
  case KAVA_FP4: return widen_table(p, y, count, kava_fp4_values);
  case KAVA_INT2: return widen_int2(p, y, count);
  case KAVA_INT3: return widen_int3(p, y, count);
  case KAVA_INT4: return widen_int4(p, y, count);
  case KAVA_UINT8: return widen_bytes(p, y, count, false);
  case KAVA_INT8: return widen_bytes(p, y, count, true);
  case KAVA_FP8: return widen_fp8(p, y, count);
  default: return 0;
  }
}

static inline vf rounded(kava_dtype type, vf x) {
#if defined(__AVX512F__)
  if (type == KAVA_F16) return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  if (type != KAVA_BF16) return x;
  __m512i bits = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  bits = _mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000u));
  return _mm512_mask_mov_ps(_mm512_castsi512_ps(bits), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
#else
  if (type == KAVA_F16) return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  if (type != KAVA_BF16) return x;
  __m256i bits = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  bits = _mm256_and_si256(bits, _mm256_set1_epi32((int)0xffff0000u));
  return _mm256_blendv_ps(_mm256_castsi256_ps(bits), x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
#endif
}

/* y = (y - zero) scale, rounded, for elements of one scale */
static inline void scale_run(kava_dtype round, float *y, int64_t count, float zero, float scale) {
  vf z = vf_set(zero), s = vf_set(scale);
  int64_t i = 0;
  for (; i + VF_LANES <= count; i += VF_LANES) vf_store(y + i, rounded(round, vf_mul(vf_sub(vf_load(y + i), z), s)));
  if (i < count) {
    int64_t n = count - i;
    vf_store_n(y + i, rounded(round, vf_mul(vf_sub(vf_load_n(y + i, n), z), s)), n);
  }
}

enum { GROUPS_MOST = 1024 }; /* of a row whose columns are grouped out of order */

static void scale_gathered(const kava_scaling *s, kava_dtype type, int64_t row, int64_t column, float *y,
                           int64_t count) {
  float scales[GROUPS_MOST], zeros[GROUPS_MOST];
  int64_t first = row / s->rows * s->across, i = 0;
  for (int64_t g = 0; g < s->across; g++) {
    scales[g] = kava_scale_at(s, first + g);
    zeros[g] = kava_zero_at(s, type, first + g);
  }
  const int32_t *group = s->group_of + column;
  for (; i + VF_LANES <= count; i += VF_LANES) {
#if defined(__AVX512F__)
    __m512i at = _mm512_loadu_si512(group + i);
    vf scale = _mm512_i32gather_ps(at, scales, 4), zero = _mm512_i32gather_ps(at, zeros, 4);
#else
    __m256i at = _mm256_loadu_si256((const __m256i *)(const void *)(group + i));
    vf scale = _mm256_i32gather_ps(scales, at, 4), zero = _mm256_i32gather_ps(zeros, at, 4);
#endif
    vf_store(y + i, rounded(s->round, vf_mul(vf_sub(vf_load(y + i), zero), scale)));
  }
  for (; i < count; i++) scale_run(s->round, y + i, 1, zeros[group[i]], scales[group[i]]);
}

static void widen(kava_dtype type, const void *src, float *dst, int64_t count);

static void widen_scaled(kava_dtype type, const void *src, const kava_scaling *s, int64_t row, int64_t column,
                         float *dst, int64_t count) {
  if (s->group_of && s->across > GROUPS_MOST) {
    kava_kernels_reference()->widen_scaled(type, src, s, row, column, dst, count);
    return;
  }
  widen(type, src, dst, count);
  if (s->group_of) {
    scale_gathered(s, type, row, column, dst, count);
    return;
  }
  int64_t at =
      s->across ? column : row * s->columns + column; /* in its run of groups, whose scales follow each other */
  int64_t number = kava_scale_number(s, row, column), left = s->group - at % s->group;
  for (int64_t i = 0; i < count; number++, left = s->group) {
    int64_t n = left < count - i ? left : count - i;
    scale_run(s->round, dst + i, n, kava_zero_at(s, type, number), kava_scale_at(s, number));
    i += n;
  }
}

static void widen(kava_dtype type, const void *src, float *dst, int64_t count) {
  if (type >= KAVA_NF4) {
    int64_t done = widen_codes(type, src, dst, count), block = kava_dtype_block(type);
    const char *rest = (const char *)src + done / block * kava_dtype_block_bytes(type);
    if (done < count) kava_kernels_reference()->widen(type, rest, dst + done, count - done);
    return;
  }
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

void KAVA_SIMD(quant)(kava_kernels *table) {
  table->widen = widen;
  table->widen_scaled = widen_scaled;
}
#else
void KAVA_SIMD(quant)(kava_kernels *table) { (void)table; }
#endif

/* kernels/cpu/simd/pack.h: makes the operands that panels.h multiplies, from f32: panels of B, rows of A.
 * bf16 rounds to nearest even. Where a processor has no bf16 instructions PANEL_F32 is used on values rounded
 * beforehand (round_bf16): the same products. */
#ifndef KAVA_SIMD_PACK_H
#define KAVA_SIMD_PACK_H
#include "kernels/cpu/simd/panels.h"
#include <string.h>

UNUSED static void round_bf16(const float *x, float *y, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, x + i, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u;
    bits = (bits & 0x7fffffffu) > 0x7f800000u ? bits : rounded; /* NaN as it is */
    memcpy(y + i, &bits, sizeof bits);
  }
}

#if defined(__AVX512F__)
/* 16 x 16 elements of 32 bits */
INLINE void transpose16(__m512i r[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) { /* 128-bit lanes */
    t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    t[8 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
    t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[4 + i], 0x88);
    r[8 + i] = _mm512_shuffle_i32x4(t[i], t[4 + i], 0xdd);
    r[4 + i] = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0x88);
    r[12 + i] = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0xdd);
  }
}
INLINE __mmask16 first_lanes(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }
INLINE __m512i load_lanes(const float *p, int64_t n) {
  return n > 0 ? _mm512_castps_si512(_mm512_maskz_loadu_ps(first_lanes(n), p)) : _mm512_setzero_si512();
}
#endif
#if defined(__AVX512BF16__)
/* {low[i], high[i]} as pairs of bf16 in lane i, i < n */
INLINE __m512i pair_rows(const float *low, const float *high, int64_t n) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  __m512 a = _mm512_castsi512_ps(load_lanes(low, n));
  __m512 b = high ? _mm512_castsi512_ps(load_lanes(high, n)) : _mm512_setzero_ps();
  return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}
/* 32 consecutive floats (n of them there) as 16 pairs of bf16 */
INLINE __m512i pair_row(const float *x, int64_t n) {
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_castsi512_ps(load_lanes(x + 16, n - 16)),
                                      _mm512_castsi512_ps(load_lanes(x, n)));
}
#endif

/* Columns [0, cols) of one panel from the rows of w: B[k][j] = w[j*ld + k], k < count, into steps from `out`.
 * bf16: a count that is no multiple of 32 is padded with zeros to one. */
UNUSED static void pack_transposed(panel_type type, const float *w, int64_t ld, int64_t cols, int64_t count,
                                   char *out) {
#if defined(__AVX512F__)
  int64_t depth = type == PANEL_F32 ? 16 : 32;
  for (int64_t k = 0; k < count; k += depth) {
    int64_t left = count - k, steps = type == PANEL_F32 ? least(left, 16) : 16;
    for (int half = 0; half < 2; half++) {
      __m512i r[16];
#pragma GCC unroll 16
      for (int j = 0; j < 16; j++) {
        const float *from = w + (half * 16 + j) * ld + k;
        if (half * 16 + j >= cols) r[j] = _mm512_setzero_si512();
#if defined(__AVX512BF16__)
        else if (type != PANEL_F32)
          r[j] = pair_row(from, left);
#endif
        else
          r[j] = load_lanes(from, left);
      }
      transpose16(r);
      char *to = out + (type == PANEL_F32 ? k : k / 2) * STEP_BYTES + half * 64;
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++)
        if (i < steps) _mm512_storeu_si512(to + i * STEP_BYTES, r[i]);
    }
  }
#else
  float *to = (float *)out;
  for (int64_t k = 0; k < count; k++)
    for (int64_t j = 0; j < PANEL; j++) to[k * PANEL + j] = j < cols ? w[j * ld + k] : 0.0f;
#endif
}

/* The same from rows that are B's own: B[k][j] = w[k*ld + j]. bf16: `count` is even but at the end of k, where the
 * steps up to the next multiple of 32 are zeroed. */
UNUSED static void pack_plain(panel_type type, const float *w, int64_t ld, int64_t cols, int64_t count, bool last,
                              char *out) {
#if defined(__AVX512BF16__)
  if (type != PANEL_F32) {
    int64_t k = 0;
    for (; k < count; k += 2, out += STEP_BYTES) {
      const float *low = w + k * ld, *high = k + 1 < count ? low + ld : NULL;
      _mm512_storeu_si512(out, pair_rows(low, high, cols));
      _mm512_storeu_si512(out + 64,
                          cols > 16 ? pair_rows(low + 16, high ? high + 16 : NULL, cols - 16) : _mm512_setzero_si512());
    }
    for (; last && k % 32 != 0; k += 2, out += STEP_BYTES) memset(out, 0, STEP_BYTES);
    return;
  }
#endif
  for (int64_t k = 0; k < count; k++, w += ld, out += STEP_BYTES) {
    memcpy(out, w, (size_t)cols * sizeof *w);
    if (cols < PANEL) memset(out + cols * 4, 0, (size_t)(PANEL - cols) * sizeof *w);
  }
}

/* A row of A as bf16: `count` floats, padded with zeros to a multiple of 32. */
#if defined(__AVX512BF16__)
UNUSED static void bf16_row(const float *x, int64_t count, char *out) {
  for (int64_t k = 0; k < count; k += 32) _mm512_storeu_si512(out + k * 2, pair_row(x + k, count - k));
}
#endif

/* Rows of A from columns: out[i][r] = x[r*ld + i] for i < width, r < count; a row of `out` has `pitch` bytes. bf16:
 * rows are padded with zeros to a multiple of 32. */
UNUSED static void transpose_rows(panel_type type, const float *x, int64_t ld, int64_t width, int64_t count, char *out,
                                  int64_t pitch) {
#if defined(__AVX512F__)
  int64_t depth = type == PANEL_F32 ? 16 : 32;
  for (int64_t i = 0; i < width; i += 16) {
    int64_t lanes = least(width - i, 16);
    for (int64_t r = 0; r < count; r += depth) {
      __m512i v[16];
#pragma GCC unroll 16
      for (int j = 0; j < 16; j++) {
        int64_t row = r + (type == PANEL_F32 ? j : 2 * j);
        const float *from = x + row * ld + i;
        if (row >= count) v[j] = _mm512_setzero_si512();
#if defined(__AVX512BF16__)
        else if (type != PANEL_F32)
          v[j] = pair_rows(from, row + 1 < count ? from + ld : NULL, lanes);
#endif
        else
          v[j] = load_lanes(from, lanes);
      }
      transpose16(v);
      __mmask16 kept = type == PANEL_F32 ? first_lanes(count - r) : 0xffff;
      char *to = out + i * pitch + (type == PANEL_F32 ? r * 4 : r * 2);
#pragma GCC unroll 16
      for (int j = 0; j < 16; j++)
        if (j < lanes) _mm512_mask_storeu_epi32(to + j * pitch, kept, v[j]);
    }
  }
#else
  for (int64_t i0 = 0; i0 < width; i0 += 16)
    for (int64_t r = 0; r < count; r++)
      for (int64_t i = i0; i < least(width, i0 + 16); i++) *(float *)(out + i * pitch + r * 4) = x[r * ld + i];
#endif
}
#endif

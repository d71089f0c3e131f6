/* kernels/cpu/simd/vec.h: the few vector operations the SIMD kernels are written in, so that one source serves AVX2,
 * AVX-512 and NEON. `vf` holds VF_LANES floats. Each family's source is compiled once per instruction set. */
#ifndef KAVA_SIMD_VEC_H
#define KAVA_SIMD_VEC_H
#include "kernels/kernels.h"

#define KAVA_PASTE3_(a, b, c) a##b##c
#define KAVA_PASTE3(a, b, c) KAVA_PASTE3_(a, b, c)
#define KAVA_SIMD(name) KAVA_PASTE3(kava_, KAVA_ISA_NAME, _register_##name) /* the family's registration function */

#if defined(__AVX512F__)
#include <immintrin.h>
#define VF_LANES 16
#define VF_EXP_LEAST (-200.0f) /* vf_scale2 takes any n */
#define VF_EXP_MOST 200.0f
typedef __m512 vf;
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
static inline vf vf_set(float x) { return _mm512_set1_ps(x); }
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
static inline float vf_sum(vf a) { return _mm512_reduce_add_ps(a); }
static inline float vf_hmax(vf a) { return _mm512_reduce_max_ps(a); }
static inline vf vf_round(vf a) { return _mm512_roundscale_ps(a, 8); }    /* to nearest even, quiet */
static inline vf vf_scale2(vf a, vf n) { return _mm512_scalef_ps(a, n); } /* a * 2^n, n integral */
/* the first n lanes, n in [0, VF_LANES]; the others are 0 */
static inline vf vf_load_n(const float *p, int64_t n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
static inline void vf_store_n(float *p, vf v, int64_t n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v); }
#elif defined(__AVX2__)
#include <immintrin.h>
#define VF_LANES 8
#define VF_EXP_LEAST (-88.1f) /* n from -127, which is 0 for vf_scale2, */
#define VF_EXP_MOST 88.8f     /* to 128, which is infinite */
typedef __m256 vf;
static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
static inline vf vf_set(float x) { return _mm256_set1_ps(x); }
static inline vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf vf_sqrt(vf a) { return _mm256_sqrt_ps(a); }
static inline float vf_sum(vf a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline float vf_hmax(vf a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
static inline vf vf_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vf vf_scale2(vf a, vf n) {
  __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(a, _mm256_castsi256_ps(bits));
}
static inline __m256i vf_mask_n(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vf vf_load_n(const float *p, int64_t n) { return _mm256_maskload_ps(p, vf_mask_n(n)); }
static inline void vf_store_n(float *p, vf v, int64_t n) { _mm256_maskstore_ps(p, vf_mask_n(n), v); }
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#define VF_LANES 4
#define VF_EXP_LEAST (-88.1f) /* as AVX2 */
#define VF_EXP_MOST 88.8f
typedef float32x4_t vf;
static inline vf vf_load(const float *p) { return vld1q_f32(p); }
static inline void vf_store(float *p, vf v) { vst1q_f32(p, v); }
static inline vf vf_set(float x) { return vdupq_n_f32(x); }
static inline vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
static inline vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
static inline vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
static inline vf vf_div(vf a, vf b) { return vdivq_f32(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
static inline vf vf_max(vf a, vf b) { return vmaxq_f32(a, b); }
static inline vf vf_min(vf a, vf b) { return vminq_f32(a, b); }
static inline vf vf_sqrt(vf a) { return vsqrtq_f32(a); }
static inline float vf_sum(vf a) { return vaddvq_f32(a); }
static inline float vf_hmax(vf a) { return vmaxvq_f32(a); }
static inline vf vf_round(vf a) { return vrndnq_f32(a); }
static inline vf vf_scale2(vf a, vf n) {
  int32x4_t bits = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
  return vmulq_f32(a, vreinterpretq_f32_s32(bits));
}
static inline vf vf_load_n(const float *p, int64_t n) {
  float lanes[4] = {0};
  for (int64_t i = 0; i < n; i++) lanes[i] = p[i];
  return vld1q_f32(lanes);
}
static inline void vf_store_n(float *p, vf v, int64_t n) {
  float lanes[4];
  vst1q_f32(lanes, v);
  for (int64_t i = 0; i < n; i++) p[i] = lanes[i];
}
#endif

/* x = n ln 2 + r, |r| <= ln 2 / 2 -> n, and exp(r) - 1 by a polynomial. Cody-Waite reduction; degree 6. */
static inline vf vf_exp_parts(vf x, vf *exp_r_less_1) {
  vf n = vf_round(vf_mul(x, vf_set(1.44269504f)));
  vf r = vf_fma(n, vf_set(-0.693359375f), x);
  r = vf_fma(n, vf_set(2.12194440e-4f), r);
  vf p = vf_set(1.9875691500e-4f);
  p = vf_fma(p, r, vf_set(1.3981999507e-3f));
  p = vf_fma(p, r, vf_set(8.3334519073e-3f));
  p = vf_fma(p, r, vf_set(4.1665795894e-2f));
  p = vf_fma(p, r, vf_set(1.6666665459e-1f));
  p = vf_fma(p, r, vf_set(5.0000001201e-1f));
  *exp_r_less_1 = vf_fma(p, vf_mul(r, r), r);
  return n;
}

/* x within [low, high]; a NaN stays one, since max and min give their second operand then */
static inline vf vf_within(vf low, vf high, vf x) { return vf_min(high, vf_max(low, x)); }

/* tanh(x) = e/(e+2) with e = exp(2x) - 1, in which nothing cancels for small x: |relative error| < 4e-7 */
static inline vf vf_tanh(vf x) {
  vf less_1, n = vf_exp_parts(vf_within(vf_set(-18.0f), vf_set(18.0f), vf_add(x, x)), &less_1);
  vf power = vf_scale2(vf_set(1.0f), n), e = vf_fma(power, less_1, vf_sub(power, vf_set(1.0f)));
  return vf_div(e, vf_add(e, vf_set(2.0f)));
}

/* exp(x), |relative error| < 2e-7; x is clamped to [-87.3, 88.4] first, so that what comes out is never 0 or infinite
 */
static inline vf vf_exp(vf x) {
  vf less_1, n = vf_exp_parts(vf_within(vf_set(-87.33654f), vf_set(88.37626f), x), &less_1);
  return vf_scale2(vf_add(less_1, vf_set(1.0f)), n);
}

/* exp(x) to both of its ends: 0 below 2^-126.5 and infinite above 2^127.5, or, with AVX-512, as f32 has it */
static inline vf vf_exp_all(vf x) {
  vf less_1, n = vf_exp_parts(vf_within(vf_set(VF_EXP_LEAST), vf_set(VF_EXP_MOST), x), &less_1);
  return vf_scale2(vf_add(less_1, vf_set(1.0f)), n);
}
#endif

/* kernels/cuda/quant.cuh: reading quantised elements on the device, eight neighbours at a time: the same values as
 * kernels/cpu/quant.c to the bit (whose head describes the layouts), so every product and sum is rounded by itself. */
#ifndef KAVA_CUDA_QUANT_CUH
#define KAVA_CUDA_QUANT_CUH
#include "kernels/cuda/element.cuh"
#include "kernels/cpu/quant.h"

/* The values of 4-bit codes: passed by value, read from shared memory, where any 16 of them lie in different banks. */
typedef struct kava_table16 {
  float at[16];
} kava_table16;
static inline kava_table16 kava_table_of(kava_dtype type) {
  kava_table16 table = {};
  for (int i = 0; i < 16; i++)
    table.at[i] = type == KAVA_NF4   ? kava_nf4_values[i]
                  : type == KAVA_FP4 ? kava_fp4_values[i]
                                     : (float)kava_iq4_values[i]; /* iq4_nl and iq4_xs; others have no table */
  return table;
}

static __device__ __forceinline__ float kava_half_at(const uint8_t *p) {
  return __half2float(__ushort_as_half((unsigned short)(p[0] | p[1] << 8)));
}
static __device__ __forceinline__ float kava_fp8_at(unsigned x) {
  if ((x & 127) == 127) return __uint_as_float(0x7fc00000u | (x & 128) << 24);
  return __fmul_rn(__half2float(__ushort_as_half((unsigned short)((x & 128) << 8 | (x & 127) << 7))), 256.0f);
}

/* a / b; narrow divisions take a fraction of the time, and nearly all are */
static __device__ __forceinline__ int64_t kava_quotient(int64_t a, int64_t b) {
  return (a | b) >> 32 ? a / b : (int64_t)((uint32_t)a / (uint32_t)b);
}
/* Four and eight bytes of codes in one load, where they lie so. */
static __device__ __forceinline__ bool kava_lies(const uint8_t *p, int bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

/* d q - m with both products rounded; m 0: d q alone */
static __device__ __forceinline__ float kava_scaled(float d, int q) { return __fmul_rn(d, (float)q); }

/* Elements 8 at, ... 8 at + 7 of a run of blocks of `type`, of which the first n (1 to 8) are there. `table` is shared
 * memory. */
static __device__ __forceinline__ void kava_widen8(kava_dtype type, const uint8_t *src, int64_t at, int n,
                                                   const float *table, float (&v)[8]) {
  switch (type) {
  case KAVA_F64:
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (i < n) v[i] = (float)((const double *)src)[8 * at + i];
    return;
  case KAVA_F32:
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (i < n) v[i] = ((const float *)src)[8 * at + i];
    return;
  case KAVA_F16:
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (i < n) v[i] = kava_half_at(src + 2 * (8 * at + i));
    return;
  case KAVA_BF16:
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (i >= n) continue;
      const uint8_t *p = src + 2 * (8 * at + i);
      v[i] = __uint_as_float((unsigned)(p[0] | p[1] << 8) << 16);
    }
    return;
  case KAVA_Q4_0:
  case KAVA_Q4_1:
  case KAVA_Q5_0:
  case KAVA_Q5_1:
  case KAVA_IQ4_NL: { /* blocks of 32: the first 16 are the low halves of the bytes */
    bool least = type == KAVA_Q4_1 || type == KAVA_Q5_1, five = type == KAVA_Q5_0 || type == KAVA_Q5_1;
    int part = (int)(at % 4);
    const uint8_t *p = src + at / 4 * (18 + 2 * least + 4 * five), *q = p + (least ? 4 : 2);
    float d = kava_half_at(p), m = least ? kava_half_at(p + 2) : 0;
    unsigned high = five ? q[part] : 0; /* the fifth bits of these eight */
    if (five) q += 4;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      int code = (q[part % 2 * 8 + i] >> (part < 2 ? 0 : 4) & 15) | (int)(high >> i & 1) << 4;
      if (type == KAVA_IQ4_NL)
        v[i] = __fmul_rn(d, table[code]);
      else
        v[i] = least ? __fadd_rn(kava_scaled(d, code), m) : kava_scaled(d, code - (five ? 16 : 8));
    }
    return;
  }
  case KAVA_Q8_0: {
    const uint8_t *p = src + at / 4 * 34;
    float d = kava_half_at(p);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = kava_scaled(d, (int8_t)p[2 + at % 4 * 8 + i]);
    return;
  }
  case KAVA_Q2_K: { /* 256: two halves of 128, in each four shifts of 32, two scales a shift */
    int i0 = (int)(at % 32) * 8, half = i0 / 128, shift = i0 % 128 / 32 * 2, k = i0 % 32;
    const uint8_t *p = src + at / 32 * 84, *q = p + 16 + 32 * half + k;
    unsigned s = p[i0 / 16];
    float scale = kava_scaled(kava_half_at(p + 80), (int)(s & 15)),
          least = kava_scaled(kava_half_at(p + 82), (int)(s >> 4));
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = __fsub_rn(kava_scaled(scale, q[i] >> shift & 3), least);
    return;
  }
  case KAVA_Q3_K: {
    int i0 = (int)(at % 32) * 8, half = i0 / 128, j = i0 % 128 / 32, k = i0 % 32, s = i0 / 16;
    const uint8_t *p = src + at / 32 * 110, *h = p + k, *q = p + 32 + 32 * half + k, *scales = p + 96;
    int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4, high = scales[8 + s % 4] >> 2 * (s / 4) & 3;
    float scale = kava_scaled(kava_half_at(p + 108), (low | high << 4) - 32);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = kava_scaled(scale, (q[i] >> 2 * j & 3) - (h[i] >> (4 * half + j) & 1 ? 0 : 4));
    return;
  }
  case KAVA_Q4_K:
  case KAVA_Q5_K: {
    bool five = type == KAVA_Q5_K;
    int i0 = (int)(at % 32) * 8, j = i0 / 32, k = i0 % 32;
    const uint8_t *p = src + at / 32 * (five ? 176 : 144), *s = p + 4, *h = p + 16 + k;
    const uint8_t *q = p + (five ? 48 : 16) + j / 2 * 32 + k;
    int scale6 = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    int least6 = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6) << 4;
    float scale = kava_scaled(kava_half_at(p), scale6), least = kava_scaled(kava_half_at(p + 2), least6);
#pragma unroll
    for (int i = 0; i < 8; i++)
      v[i] = __fsub_rn(kava_scaled(scale, (q[i] >> 4 * (j & 1) & 15) + 16 * (five ? h[i] >> j & 1 : 0)), least);
    return;
  }
  case KAVA_Q6_K: {
    int i0 = (int)(at % 32) * 8, half = i0 / 128, j = i0 % 128 / 32, k = i0 % 32;
    const uint8_t *p = src + at / 32 * 210, *q = p + 64 * half + 32 * (j & 1) + k, *h = p + 128 + 32 * half + k;
    float scale = kava_scaled(kava_half_at(p + 208), (int8_t)p[192 + i0 / 16]);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = kava_scaled(scale, ((q[i] >> 4 * (j / 2) & 15) | (h[i] >> 2 * j & 3) << 4) - 32);
    return;
  }
  case KAVA_IQ4_XS: {
    int i0 = (int)(at % 32) * 8, j = i0 / 32, k = i0 % 32;
    const uint8_t *p = src + at / 32 * 136, *q = p + 8 + 16 * j + k % 16;
    int low = p[4 + j / 2] >> 4 * (j & 1) & 15, high = (p[2] | p[3] << 8) >> 2 * j & 3;
    float scale = kava_scaled(kava_half_at(p), (low | high << 4) - 32);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = __fmul_rn(scale, table[k < 16 ? q[i] & 15 : q[i] >> 4]);
    return;
  }
  case KAVA_NF4:
  case KAVA_FP4: { /* the first of two is the high half */
    if (n == 8 && kava_lies(src + 4 * at, 4)) {
      uint32_t word = *reinterpret_cast<const uint32_t *>(src + 4 * at);
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = table[word >> 4 * (i ^ 1) & 15];
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (i < n) v[i] = table[src[4 * at + i / 2] >> (i & 1 ? 0 : 4) & 15];
    return;
  }
  case KAVA_INT2:
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (i < n) v[i] = (float)(src[2 * at + i / 4] >> 2 * (i % 4) & 3);
    return;
  case KAVA_INT3: {
    unsigned eight = src[3 * at] | (unsigned)src[3 * at + 1] << 8 | (unsigned)src[3 * at + 2] << 16;
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = (float)(eight >> 3 * i & 7);
    return;
  }
  case KAVA_INT4:
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (i < n) v[i] = (float)(src[4 * at + i / 2] >> (i & 1 ? 4 : 0) & 15);
    return;
  default: { /* uint8, int8, fp8 */
    uint2 words = make_uint2(0, 0);
    if (n == 8 && kava_lies(src + 8 * at, 8))
      words = *reinterpret_cast<const uint2 *>(src + 8 * at);
    else
#pragma unroll
      for (int i = 0; i < 8; i++)
        if (i < n) (i < 4 ? words.x : words.y) |= (uint32_t)src[8 * at + i] << 8 * (i % 4);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      unsigned code = (i < 4 ? words.x : words.y) >> 8 * (i % 4) & 255;
      if (i < n) v[i] = type == KAVA_UINT8 ? (float)code : type == KAVA_INT8 ? (float)(int8_t)code : kava_fp8_at(code);
    }
  }
  }
}

/* kava_scaling on the device (kernels/cpu/quant.h) */
static __device__ __forceinline__ int64_t kava_number_of(const kava_scaling &s, int64_t row, int64_t column) {
  if (s.across == 0) return kava_quotient(row * s.columns + column, s.group);
  return kava_quotient(row, s.rows) * s.across + (s.group_of ? s.group_of[column] : kava_quotient(column, s.group));
}
static __device__ __forceinline__ float kava_scale_of(const kava_scaling &s, int64_t number) {
  switch (s.type) {
  case KAVA_F16: return kava_half_at((const uint8_t *)s.scales + 2 * number);
  case KAVA_BF16: return __uint_as_float((unsigned)((const unsigned short *)s.scales)[number] << 16);
  case KAVA_U8:
    return __fadd_rn(
        __fmul_rn(s.map[((const uint8_t *)s.scales)[number]], s.outer[kava_quotient(number, s.outer_group)]), s.offset);
  default: return ((const float *)s.scales)[number];
  }
}
static __device__ __forceinline__ float kava_zero_of(const kava_scaling &s, kava_dtype codes, int64_t number) {
  if (!s.zeros) return s.zero;
  return codes == KAVA_INT8 ? (float)(int8_t)s.zeros[number] : (float)s.zeros[number];
}
/* Whether eight neighbours at a multiple of eight share a scale, wherever they are. */
static inline bool kava_scaling_by_eights(const kava_scaling &s) {
  return !s.group_of && s.group % 8 == 0 && (s.across != 0 || s.columns % 8 == 0);
}
/* The values of eight codes from (row, column) of their scaling on, over the ends of rows. */
static __device__ __forceinline__ void kava_scale8(const kava_scaling &s, bool by_eights, kava_dtype codes, int64_t row,
                                                   int64_t column, int n, float (&v)[8]) {
  float scale = 0, zero = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    if (i >= n) continue;
    if (i == 0 || !by_eights) {
      for (; i > 0 && column + i >= s.columns; row++) column -= s.columns; /* never for the first: no loop by eights */
      int64_t number = kava_number_of(s, row, column + i);
      scale = kava_scale_of(s, number);
      zero = kava_zero_of(s, codes, number);
    }
    float x = __fmul_rn(__fsub_rn(v[i], zero), scale);
    if (s.round == KAVA_BF16) x = __bfloat162float(__float2bfloat16_rn(x));
    if (s.round == KAVA_F16) x = __half2float(__float2half_rn(x));
    v[i] = x;
  }
}
#endif

/* kernels/cpu/quant.c: the plain references of `widen` (any float or quantised dtype to f32) and `narrow` (f32 to the
 * quantised dtypes KAVA can write).
 *
 * Block layouts are GGUF's, little-endian; q is a stored small integer, every product and sum is rounded to f32 in the
 * order written here, so that the values equal those of GGUF's own readers bit for bit.
 *   q4_0   {f16 d; u8 q[16]}                  d (q-8)        element i < 16: low half of byte i, i + 16: high half
 *   q4_1   {f16 d, m; u8 q[16]}               d q + m
 *   q5_0   {f16 d; u32 h; u8 q[16]}           d (q-16)       bit i of h is the fifth bit of element i
 *   q5_1   {f16 d, m; u32 h; u8 q[16]}        d q + m
 *   q8_0   {f16 d; i8 q[32]}                  d q
 *   iq4_nl {f16 d; u8 q[16]}                  d table[q]
 * and 256 elements in sub-blocks, each with a small integer scale (and minimum):
 *   q2_k   {u8 s[16]; u8 q[64]; f16 d, m}     (d s) q - (m s'), 16 x 16, s the low half, s' the high half of its byte
 *   q3_k   {u8 h[32]; u8 q[64]; u8 s[12]; f16 d}          (d (s-32)) (q-4), 16 x 16, third bits in h, 6-bit s
 *   q4_k   {f16 d, m; u8 s[12]; u8 q[128]}    (d s) q - (m s'), 8 x 32, 6-bit s and s'
 *   q5_k   {f16 d, m; u8 s[12]; u8 h[32]; u8 q[128]}      the same with fifth bits in h
 *   q6_k   {u8 q[128]; u8 h[64]; i8 s[16]; f16 d}         (d s) (q-32), 16 x 16
 *   iq4_xs {f16 d; u16 h; u8 l[4]; u8 q[128]} (d (s-32)) table[q], 8 x 32, low and high bits of s in l and h
 * Bare codes (their values: kava_scaling in args.h) are a stream of bits, low bits first, but for nf4 and fp4, whose
 * even elements are the high halves of bytes. */
#include "kernels/cpu/half.h"
#include "kernels/cpu/quant.h"
#include "kernels/cpu/reference.h"
#include <math.h>
#include <string.h>

static float f16_at(const uint8_t *p) { return kava_f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }
static void put_f16(uint8_t *p, float x) {
  uint16_t h = kava_f32_to_f16(x);
  p[0] = (uint8_t)h;
  p[1] = (uint8_t)(h >> 8);
}
static uint32_t u32_at(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void widen_q2_k(const uint8_t *p, float *y) {
  const uint8_t *s = p, *q = p + 16;
  float d = f16_at(p + 80), m = f16_at(p + 82);
  for (int half = 0; half < 2; half++, q += 32)
    for (int shift = 0; shift < 8; shift += 2)
      for (int k = 0; k < 2; k++, s++, y += 16) {
        float scale = d * (float)(*s & 15), least = m * (float)(*s >> 4);
        for (int i = 0; i < 16; i++) y[i] = scale * (float)(q[16 * k + i] >> shift & 3) - least;
      }
}

static void widen_q3_k(const uint8_t *p, float *y) {
  const uint8_t *h = p, *q = p + 32;
  float d = f16_at(p + 108);
  int8_t scales[16];
  kava_q3_k_scales(p + 96, scales);
  const int8_t *s = scales;
  for (int half = 0; half < 2; half++, q += 32)
    for (int j = 0; j < 4; j++)
      for (int k = 0; k < 2; k++, s++, y += 16) {
        float scale = d * (float)*s;
        for (int i = 0; i < 16; i++) {
          int third = h[16 * k + i] >> (4 * half + j) & 1;
          y[i] = scale * (float)((q[16 * k + i] >> 2 * j & 3) - (third ? 0 : 4));
        }
      }
}

static void widen_q45_k(const uint8_t *p, float *y, bool five) {
  const uint8_t *h = p + 16, *q = p + (five ? 48 : 16);
  float d = f16_at(p), m = f16_at(p + 2);
  uint8_t scales[8], mins[8];
  kava_k_scales(p + 4, scales, mins);
  for (int j = 0; j < 8; j++, y += 32) {
    float scale = d * (float)scales[j], least = m * (float)mins[j];
    for (int i = 0; i < 32; i++) {
      int low = q[32 * (j / 2) + i] >> 4 * (j & 1) & 15, fifth = five ? h[i] >> j & 1 : 0;
      y[i] = scale * (float)(low + 16 * fifth) - least;
    }
  }
}

static void widen_q6_k(const uint8_t *p, float *y) {
  const uint8_t *q = p, *h = p + 128;
  const int8_t *s = (const int8_t *)p + 192;
  float d = f16_at(p + 208);
  for (int half = 0; half < 2; half++, q += 64, h += 32)
    for (int j = 0; j < 4; j++)
      for (int k = 0; k < 2; k++, s++, y += 16) {
        float scale = d * (float)*s;
        for (int i = 0; i < 16; i++) {
          int low = q[32 * (j & 1) + 16 * k + i] >> 4 * (j / 2) & 15, high = h[16 * k + i] >> 2 * j & 3;
          y[i] = scale * (float)((low | high << 4) - 32);
        }
      }
}

static void widen_iq4_xs(const uint8_t *p, float *y) {
  float d = f16_at(p);
  for (int j = 0; j < 8; j++, y += 32) {
    const uint8_t *q = p + 8 + 16 * j;
    float scale = d * (float)kava_iq4_xs_scale(p, j);
    for (int i = 0; i < 16; i++) {
      y[i] = scale * (float)kava_iq4_values[q[i] & 15];
      y[i + 16] = scale * (float)kava_iq4_values[q[i] >> 4];
    }
  }
}

/* The types of 32 elements a block. */
static void widen_small(kava_dtype type, const uint8_t *p, float *y) {
  bool with_min = type == KAVA_Q4_1 || type == KAVA_Q5_1, five = type == KAVA_Q5_0 || type == KAVA_Q5_1;
  float d = f16_at(p), m = with_min ? f16_at(p + 2) : 0;
  const uint8_t *q = p + (with_min ? 4 : 2);
  uint32_t h = five ? u32_at(q) : 0;
  if (five) q += 4;
  for (int i = 0; i < 32; i++) {
    int v = (q[i & 15] >> (i < 16 ? 0 : 4) & 15) | (int)(h >> i & 1) << 4;
    if (type == KAVA_IQ4_NL)
      y[i] = d * (float)kava_iq4_values[v];
    else if (with_min)
      y[i] = d * (float)v + m;
    else
      y[i] = d * (float)(v - (five ? 16 : 8));
  }
}

void kava_ref_widen(kava_dtype type, const void *src, float *dst, int64_t count) {
  const uint8_t *p = src;
  switch (type) {
  case KAVA_F64:
    for (int64_t i = 0; i < count; i++) dst[i] = (float)((const double *)src)[i];
    break;
  case KAVA_F32: memcpy(dst, src, (size_t)count * sizeof *dst); break;
  case KAVA_F16:
    for (int64_t i = 0; i < count; i++) dst[i] = f16_at(p + 2 * i);
    break;
  case KAVA_BF16:
    for (int64_t i = 0; i < count; i++) dst[i] = kava_bf16_to_f32((uint16_t)(p[2 * i] | p[2 * i + 1] << 8));
    break;
  case KAVA_Q8_0:
    for (; count > 0; count -= 32, p += 34, dst += 32) {
      float d = f16_at(p);
      for (int i = 0; i < 32; i++) dst[i] = d * (float)(int8_t)p[2 + i];
    }
    break;
  case KAVA_Q4_0:
  case KAVA_Q4_1:
  case KAVA_Q5_0:
  case KAVA_Q5_1:
  case KAVA_IQ4_NL: {
    int bytes = kava_dtype_block_bytes(type);
    for (; count > 0; count -= 32, p += bytes, dst += 32) widen_small(type, p, dst);
    break;
  }
  case KAVA_Q2_K:
    for (; count > 0; count -= 256, p += 84, dst += 256) widen_q2_k(p, dst);
    break;
  case KAVA_Q3_K:
    for (; count > 0; count -= 256, p += 110, dst += 256) widen_q3_k(p, dst);
    break;
  case KAVA_Q4_K:
    for (; count > 0; count -= 256, p += 144, dst += 256) widen_q45_k(p, dst, false);
    break;
  case KAVA_Q5_K:
    for (; count > 0; count -= 256, p += 176, dst += 256) widen_q45_k(p, dst, true);
    break;
  case KAVA_Q6_K:
    for (; count > 0; count -= 256, p += 210, dst += 256) widen_q6_k(p, dst);
    break;
  case KAVA_IQ4_XS:
    for (; count > 0; count -= 256, p += 136, dst += 256) widen_iq4_xs(p, dst);
    break;
  case KAVA_NF4:
  case KAVA_FP4:
    for (int64_t i = 0; i < count; i++)
      dst[i] = (type == KAVA_NF4 ? kava_nf4_values : kava_fp4_values)[p[i / 2] >> (i & 1 ? 0 : 4) & 15];
    break;
  case KAVA_INT2:
    for (int64_t i = 0; i < count; i++) dst[i] = (float)(p[i / 4] >> 2 * (i % 4) & 3);
    break;
  case KAVA_INT3:
    for (; count > 0; count -= 8, p += 3, dst += 8) {
      uint32_t eight = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16;
      for (int i = 0; i < 8; i++) dst[i] = (float)(eight >> 3 * i & 7);
    }
    break;
  case KAVA_INT4:
    for (int64_t i = 0; i < count; i++) dst[i] = (float)(p[i / 2] >> (i & 1 ? 4 : 0) & 15);
    break;
  case KAVA_UINT8:
    for (int64_t i = 0; i < count; i++) dst[i] = (float)p[i];
    break;
  case KAVA_INT8:
    for (int64_t i = 0; i < count; i++) dst[i] = (float)(int8_t)p[i];
    break;
  case KAVA_FP8:
    for (int64_t i = 0; i < count; i++) dst[i] = kava_fp8_to_f32(p[i]);
    break;
  default: break;
  }
}

void kava_ref_widen_scaled(kava_dtype type, const void *src, const kava_scaling *scaling, int64_t row, int64_t column,
                           float *dst, int64_t count) {
  kava_ref_widen(type, src, dst, count);
  for (int64_t i = 0; i < count; i++) {
    int64_t number = kava_scale_number(scaling, row, column + i);
    float value = (dst[i] - kava_zero_at(scaling, type, number)) * kava_scale_at(scaling, number);
    dst[i] = scaling->round == KAVA_BF16  ? kava_bf16_to_f32(kava_f32_to_bf16(value))
             : scaling->round == KAVA_F16 ? kava_f16_to_f32(kava_f32_to_f16(value))
                                          : value;
  }
}

/* x rounded down to an integer in [0, most]; NaN is 0. */
static int floor_to(float x, int most) { return !(x > 0) ? 0 : x >= (float)most ? most : (int)x; }

static void narrow_q4_0(const float *x, uint8_t *p) {
  float most = 0, extreme = 0; /* the element of the greatest magnitude, with its sign: it becomes -8 d */
  for (int i = 0; i < 32; i++)
    if (fabsf(x[i]) > most) {
      most = fabsf(x[i]);
      extreme = x[i];
    }
  float d = extreme / -8, inverse = d != 0 ? 1 / d : 0;
  put_f16(p, d);
  for (int i = 0; i < 16; i++) {
    int low = floor_to(x[i] * inverse + 8.5f, 15), high = floor_to(x[i + 16] * inverse + 8.5f, 15);
    p[2 + i] = (uint8_t)(low | high << 4);
  }
}

static void narrow_q4_1(const float *x, uint8_t *p) {
  float least = x[0], most = x[0];
  for (int i = 1; i < 32; i++) {
    if (x[i] < least) least = x[i];
    if (x[i] > most) most = x[i];
  }
  float d = (most - least) / 15, inverse = d != 0 ? 1 / d : 0;
  put_f16(p, d);
  put_f16(p + 2, least);
  for (int i = 0; i < 16; i++) {
    int low = floor_to((x[i] - least) * inverse + 0.5f, 15), high = floor_to((x[i + 16] - least) * inverse + 0.5f, 15);
    p[4 + i] = (uint8_t)(low | high << 4);
  }
}

static void narrow_q8_0(const float *x, uint8_t *p) {
  float most = 0;
  for (int i = 0; i < 32; i++)
    if (fabsf(x[i]) > most) most = fabsf(x[i]);
  float d = most / 127, inverse = d != 0 ? 1 / d : 0;
  put_f16(p, d);
  for (int i = 0; i < 32; i++) {
    float r = roundf(x[i] * inverse);
    p[2 + i] = (uint8_t)(int8_t)(r >= 127 ? 127 : r >= -127 ? (int)r : r < 0 ? -127 : 0);
  }
}

void kava_ref_narrow(kava_dtype type, const float *src, void *dst, int64_t count) {
  uint8_t *p = dst;
  int bytes = kava_dtype_block_bytes(type);
  for (; count > 0; count -= 32, src += 32, p += bytes) {
    if (type == KAVA_Q4_0)
      narrow_q4_0(src, p);
    else if (type == KAVA_Q4_1)
      narrow_q4_1(src, p);
    else if (type == KAVA_Q8_0)
      narrow_q8_0(src, p);
  }
}

/* Both encoders take MANY elements through the same few steps, for a compiler to vectorise. */
enum { MANY = 64 };

/* A code is the number of edges below the value. */
static void encode_nf4(const float *x, float factor, uint8_t *codes, int64_t count) {
  for (int64_t i = 0; i < count; i += MANY) {
    int64_t n = count - i < MANY ? count - i : MANY;
    float value[MANY] = {0};
    int32_t above[MANY] = {0};
    for (int64_t j = 0; j < n; j++) value[j] = x[i + j] * factor;
    for (int k = 0; k < 15; k++)
      for (int j = 0; j < MANY; j++) above[j] += value[j] > kava_nf4_edges[k];
    for (int64_t j = 0; j < n; j += 2) codes[(i + j) / 2] = (uint8_t)(above[j] << 4 | above[j + 1]);
  }
}

/* kava_f32_to_fp8 without branches */
static void encode_fp8(const float *x, float factor, uint8_t *codes, int64_t count) {
  for (int64_t i = 0; i < count; i += MANY) {
    int64_t n = count - i < MANY ? count - i : MANY;
    float value[MANY] = {0};
    uint32_t bits[MANY], small[MANY];
    for (int64_t j = 0; j < n; j++) value[j] = x[i + j] * factor;
    memcpy(bits, value, sizeof bits);
    for (int j = 0; j < MANY; j++) value[j] = fabsf(value[j]) + 0x1p14f;
    memcpy(small, value, sizeof small);
    for (int j = 0; j < MANY; j++) {
      uint32_t size = bits[j] & 0x7fffffffu, large = size + 0x7ffffu + (size >> 20 & 1);
      uint32_t code = size < 0x3c800000u ? small[j] - 0x46800000u : (large >> 20) - (120u << 3);
      code = size >= 0x43e00000u ? (size > 0x7f800000u ? 0x7fu : 0x7eu) : code;
      bits[j] = code | (bits[j] >> 24 & 128);
    }
    for (int64_t j = 0; j < n; j++) codes[i + j] = (uint8_t)bits[j];
  }
}

static void encode_int8(const float *x, float factor, uint8_t *codes, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    float r = rintf(x[i] * factor);
    codes[i] = (uint8_t)(int8_t)(r >= 127 ? 127 : r >= -127 ? (int)r : r < 0 ? -127 : 0);
  }
}

static float largest(const float *x, int64_t count) {
  float most = 0;
  for (int64_t i = 0; i < count; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
  return most;
}

void kava_ref_encode(const kava_encode_args *a, int64_t begin, int64_t end) {
  void (*encode)(const float *, float, uint8_t *, int64_t) = a->type == KAVA_NF4    ? encode_nf4
                                                             : a->type == KAVA_INT8 ? encode_int8
                                                                                    : encode_fp8;
  int block = kava_dtype_block(a->type);
  for (int64_t g = begin; g < end; g++) {
    int64_t row = g / a->across * a->group_rows, column = g % a->across * a->group;
    int64_t rows = a->rows - row < a->group_rows ? a->rows - row : a->group_rows;
    int64_t columns = a->columns - column < a->group ? a->columns - column : a->group;
    const float *x = (const float *)a->x + row * a->columns + column;
    float most = 0;
    for (int64_t r = 0; r < rows; r++) {
      float here = largest(x + r * a->columns, columns);
      most = here > most ? here : most;
    }
    float inverse = 1 / most; /* of nothing but zeros: infinite; 0 times that is NaN, whose nf4 code is 0 */
    float factor = a->type == KAVA_NF4 ? inverse : a->most * inverse;
    if (a->type != KAVA_NF4 && !isfinite(factor)) factor = 0; /* so small that nothing is lost */
    for (int64_t r = 0; r < rows; r++)
      encode(x + r * a->columns, factor, a->codes + ((row + r) * a->columns + column) / block, columns);
    a->scales[g] = most / a->most;
  }
}

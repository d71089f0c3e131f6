/* kernels/cuda/emulated/cuda_bf16.h: bf16 as bits with its conversions, rounding to nearest even; no arithmetic. A NaN
 * becomes the one that GPUs make. */
#ifndef KAVA_EMULATED_CUDA_BF16_H
#define KAVA_EMULATED_CUDA_BF16_H
#include "kernels/cpu/half.h"

struct __nv_bfloat16 {
  unsigned short bits;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
static inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  return {x == x ? kava_f32_to_bf16(x) : (unsigned short)0x7fff};
}
static inline float __bfloat162float(__nv_bfloat16 x) { return kava_bf16_to_f32(x.bits); }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }
#endif

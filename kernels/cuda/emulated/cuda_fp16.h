/* kernels/cuda/emulated/cuda_fp16.h: f16 as bits with its conversions, rounding to nearest even; no arithmetic. A NaN
 * becomes the one that GPUs make. */
#ifndef KAVA_EMULATED_CUDA_FP16_H
#define KAVA_EMULATED_CUDA_FP16_H
#include "kernels/cpu/half.h"

struct __half {
  unsigned short bits;
};
struct alignas(4) __half2 {
  __half x, y;
};
static inline __half __float2half_rn(float x) { return {x == x ? kava_f32_to_f16(x) : (unsigned short)0x7fff}; }
static inline float __half2float(__half x) {
  float wide = kava_f16_to_f32(x.bits);
  return wide == wide ? wide : kava_float_of_bits(0x7fffffffu);
}
static inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
static inline unsigned short __half_as_ushort(__half x) { return x.bits; }
static inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
#endif

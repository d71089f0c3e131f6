/* kernels/cuda/fp8.cuh: products of e4m3 codes, for linear.cu. */
#ifndef KAVA_CUDA_FP8_CUH
#define KAVA_CUDA_FP8_CUH
#include "kernels/cuda/cuda.cuh"

/* y = x W^T + bias + residual, W as fp8 codes with an f32 scale a row, x (bf16 or f16) quantised likewise on the way.
 * KAVA_UNSUPPORTED, and nothing happened: W is none such, or this GPU or its library has no such product. */
kava_status kava_cuda_linear_fp8(const kava_linear_args *a, const void *x, const void *bias, void *y);
/* y = (f(gate) up) W^T + bias, likewise: to the same bits as with the product of the two written first. */
kava_status kava_cuda_linear_gated_fp8(const kava_linear_args *a, kava_activation kind, const void *gate,
                                       const void *up, const void *bias, void *y);
/* `rows` rows of x (bf16 or f16, at a multiple of 16 bytes; `width` a multiple of 8) as codes, value = code scale. */
void kava_cuda_fp8_rows(kava_dtype dtype, const void *x, int64_t rows, int64_t width, uint8_t *codes, float *scales);
/* The rows of norm's y likewise, which is neither written nor rounded. KAVA_UNSUPPORTED: another type, not aligned, or
 * rows of more than 8192. */
kava_status kava_cuda_fp8_norm_rows(const kava_norm_args *norm, uint8_t *codes, float *scales);

/* silu(gate) up [rows, n], rounded to bf16, as codes, for x as codes, gate and up layers of such codes without a bias:
 * each rounded to bf16 first. powers [ceil(n / KAVA_FP8_TILE), rows]: value = code 64^power in so many columns of a row
 * each. KAVA_UNSUPPORTED: addresses of another kind. product_hopper.cu. */
#define KAVA_FP8_TILE 128
kava_status kava_cuda_gate_up_fp8(const uint8_t *x, const float *scales, const kava_linear_args *gate,
                                  const kava_linear_args *up, uint8_t *codes, int8_t *powers);
/* Such codes with their row's largest power all over, which becomes its scale. n: a multiple of 16. */
void kava_cuda_fp8_one_scale(uint8_t *codes, const int8_t *powers, int64_t rows, int64_t n, float *scales);

/* The least power of 64 by which codes (448 at most) reach `most`, from -20, where next to nothing is left, to 20. With
 * it as a scale at least 8 octaves below `most` keep all of a code's bits, and 3 more some. */
#define KAVA_FP8_OCTAVES 6
static __device__ __forceinline__ int kava_fp8_power(float most) {
  int bits = (int)__float_as_uint(most), octave = (bits >> 23) - 127 - ((bits & 0x7fffff) <= 0x600000 ? 8 : 7);
  int power = (octave + 605) / KAVA_FP8_OCTAVES - 100; /* rounded up */
  return power < -20 ? -20 : power;
}
static __device__ __forceinline__ float kava_fp8_scale(int power) {
  return __uint_as_float((uint32_t)(127 + KAVA_FP8_OCTAVES * power) << 23);
}

/* Whether that is there, and faster than products by themselves, for W of [n, k]. */
bool kava_cuda_gate_up_fp8_pays(int64_t rows, int64_t n, int64_t k);
#endif

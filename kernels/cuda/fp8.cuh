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
/* Likewise of bf16 rows whose largest magnitudes are known, in place of which their scales come. */
void kava_cuda_fp8_known_rows(const void *x, int64_t rows, int64_t width, uint8_t *codes, float *most);
/* The rows of norm's y likewise, which is neither written nor rounded; cleared (or NULL) becomes a zero a row.
 * KAVA_UNSUPPORTED: another type, not aligned, or rows of more than 8192. */
kava_status kava_cuda_fp8_norm_rows(const kava_norm_args *norm, uint8_t *codes, float *scales, float *cleared);

/* act = silu(gate) up, bf16, for x as codes, gate and up layers of such codes without a bias: each rounded to bf16
 * first. most [rows], not negative, is raised to the largest magnitude in act's rows, but for NaNs. KAVA_UNSUPPORTED:
 * addresses of another kind. product_hopper.cu. */
kava_status kava_cuda_gate_up_fp8(const uint8_t *x, const float *scales, const kava_linear_args *gate,
                                  const kava_linear_args *up, void *act, float *most);
/* Whether that is there, and faster than products by themselves, for W of [n, k]. */
bool kava_cuda_gate_up_fp8_pays(int64_t rows, int64_t n, int64_t k);
#endif

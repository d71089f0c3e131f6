/* kernels/cuda/activation.cuh: the nonlinearities of one element, and their slopes; formulas at the reference,
 * kernels/cpu/activation.c. */
#ifndef KAVA_CUDA_ACTIVATION_CUH
#define KAVA_CUDA_ACTIVATION_CUH
#include "kernels/cuda/element.cuh"

#define KAVA_SQRT_HALF 0.70710678118654752440
#define KAVA_SQRT_2_OVER_PI 0.79788456080286535588
#define KAVA_INV_SQRT_2PI 0.39894228040143267794

/* Where e^-x is too small for a normal number, 1 + e^-x is 1. */
static __device__ __forceinline__ float kava_sigmoid(float x) {
  return __fdividef(1.0f, 1.0f + kava_exp2(-1.44269504088896341f * x));
}
static __device__ __forceinline__ double kava_sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

template <class F> static __device__ __forceinline__ F kava_value_of(kava_activation kind, F x) {
  switch (kind) {
  case KAVA_SILU: return x * kava_sigmoid(x);
  case KAVA_GELU: return F(0.5) * x * erfc(-x * F(KAVA_SQRT_HALF));
  case KAVA_GELU_TANH: return F(0.5) * x * (1 + tanh(F(KAVA_SQRT_2_OVER_PI) * (x + F(0.044715) * x * x * x)));
  default: return x > 0 ? x : x <= 0 ? F(0) : x; /* a NaN stays one */
  }
}
template <class F> static __device__ __forceinline__ F kava_slope_of(kava_activation kind, F x) {
  switch (kind) {
  case KAVA_SILU: {
    F s = kava_sigmoid(x);
    return s * (1 + x * (1 - s));
  }
  case KAVA_GELU: return F(0.5) * erfc(-x * F(KAVA_SQRT_HALF)) + x * F(KAVA_INV_SQRT_2PI) * exp(F(-0.5) * x * x);
  case KAVA_GELU_TANH: {
    F t = tanh(F(KAVA_SQRT_2_OVER_PI) * (x + F(0.044715) * x * x * x));
    return F(0.5) * (1 + t) + F(0.5) * x * (1 - t * t) * F(KAVA_SQRT_2_OVER_PI) * (1 + F(3 * 0.044715) * x * x);
  }
  default: return x > 0 ? F(1) : F(0);
  }
}
#endif

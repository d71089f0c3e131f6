/* kernels/cuda/vector.cu: y = a x, y += x, y = a number (kernels/cpu/vector.c). */
#include "kernels/cuda/element.cuh"
#include "kernels/cpu/half.h"

namespace {
enum { THREADS = 256 };

template <class Body> __device__ __forceinline__ void each(int64_t count, Body body) {
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += (int64_t)gridDim.x * THREADS) body(i);
}

__global__ void __launch_bounds__(THREADS) axpy_kernel(float a, const float *x, float *y, int64_t count, bool add) {
  each(count, [&](int64_t i) { y[i] = add ? y[i] + a * x[i] : a * x[i]; });
}
template <class T, int N>
__global__ void __launch_bounds__(THREADS) accumulate_kernel(const T *x, T *y, int64_t count) {
  each(count / N, [&](int64_t i) {
    kava_wide<T> a[N], b[N];
    kava_load<T, N>(x + i * N, a);
    kava_load<T, N>(y + i * N, b);
#pragma unroll
    for (int j = 0; j < N; j++) b[j] += a[j];
    kava_store<T, N>(y + i * N, b);
  });
}
template <class T> __global__ void __launch_bounds__(THREADS) fill_kernel(T *y, int64_t count, T value) {
  each(count, [&](int64_t i) { y[i] = value; });
}
template <class T> void fill(void *y, int64_t count, T value) {
  kava_launch("fill", fill_kernel<T>, kava_cuda_blocks(count, THREADS), THREADS, 0, (T *)y, count, value);
}
} // namespace

extern "C" void kava_cuda_axpy(float a, const float *x, float *y, int64_t count, bool add) {
  if (count) kava_launch("axpy", axpy_kernel, kava_cuda_blocks(count, THREADS), THREADS, 0, a, x, y, count, add);
}

extern "C" void kava_cuda_accumulate(kava_dtype dtype, const void *x, void *y, int64_t count) {
  if (count && !kava_for_float(dtype, [&](auto t) {
        typedef decltype(t) T;
        constexpr int N = kava_vector<T>();
        if (count % N == 0 && kava_aligned(x) && kava_aligned(y))
          kava_launch("accumulate", accumulate_kernel<T, N>, kava_cuda_blocks(count / N, THREADS), THREADS, 0,
                      (const T *)x, (T *)y, count);
        else
          kava_launch("accumulate", accumulate_kernel<T, 1>, kava_cuda_blocks(count, THREADS), THREADS, 0, (const T *)x,
                      (T *)y, count);
      }))
    kava_cuda_unsupported("accumulate", dtype);
}

extern "C" void kava_cuda_fill(kava_dtype type, void *y, int64_t count, double number, int64_t integer) {
  if (count == 0) return;
  switch (type) {
  case KAVA_F64: fill<double>(y, count, number); break;
  case KAVA_F32: fill<float>(y, count, (float)number); break;
  case KAVA_F16: fill<uint16_t>(y, count, kava_f32_to_f16((float)number)); break;
  case KAVA_BF16: fill<uint16_t>(y, count, kava_f32_to_bf16((float)number)); break;
  case KAVA_I64: fill<int64_t>(y, count, integer); break;
  case KAVA_I32: fill<int32_t>(y, count, (int32_t)integer); break;
  case KAVA_I16: fill<int16_t>(y, count, (int16_t)integer); break;
  case KAVA_BOOL: fill<uint8_t>(y, count, integer != 0); break;
  case KAVA_I8:
  case KAVA_U8: fill<uint8_t>(y, count, (uint8_t)integer); break;
  default: kava_cuda_unsupported("fill", type);
  }
}

/* kernels/cuda/vector.cu: y = a x, y += x, y = a number, and dropout (kernels/cpu/vector.c, activation.c). */
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

/* Philox 4x32-10 (base/rng.c) */
__device__ __forceinline__ void philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t (&c)[4]) {
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  c[0] = (uint32_t)index, c[1] = (uint32_t)(index >> 32), c[2] = (uint32_t)stream, c[3] = (uint32_t)(stream >> 32);
#pragma unroll
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
    c[0] = (uint32_t)(p1 >> 32) ^ c[1] ^ k0;
    c[1] = (uint32_t)p1;
    c[2] = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
    c[3] = (uint32_t)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}
/* A thread makes a group's words first, whose comparisons fit into one, so that its elements come and go in whole
 * vectors: at 4 * 2 bytes a thread bf16 took twice its memory's time. N 1: whatever the count and the address. */
template <class T, int N>
__global__ void __launch_bounds__(THREADS) dropout_kernel(kava_dropout_args a, uint32_t limit) {
  typedef kava_wide<T> F;
  uint64_t stream = a.stream + (a.later ? *a.later : 0);
  F keep = F(1 / (1 - a.p));
  each((a.count + KAVA_DROPOUT_GROUP - 1) / KAVA_DROPOUT_GROUP, [&](int64_t group) {
    uint32_t dropped = 0;
#pragma unroll 2
    for (int lane = 0; lane < 8; lane++) {
      uint32_t bits[4];
      philox(a.seed, stream, (uint64_t)(group * 8 + lane), bits);
#pragma unroll
      for (int word = 0; word < 4; word++) dropped |= (uint32_t)(bits[word] < limit) << (8 * word + lane);
    }
#pragma unroll
    for (int v = 0; v < KAVA_DROPOUT_GROUP / N; v++) {
      int64_t i = group * KAVA_DROPOUT_GROUP + v * N;
      F x[N], y[N];
      if (i >= a.count) break;
      kava_load<T, N>((const T *)a.x + i, x);
      if (a.add) kava_load<T, N>((const T *)a.y + i, y);
#pragma unroll
      for (int j = 0; j < N; j++) {
        F kept = dropped >> (v * N + j) & 1 ? F(0) : x[j] * keep;
        y[j] = a.add ? y[j] + kept : kept;
      }
      kava_store<T, N>((T *)a.y + i, y);
    }
  });
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

extern "C" void kava_cuda_dropout(const kava_dropout_args *a) {
  int64_t groups = (a->count + KAVA_DROPOUT_GROUP - 1) / KAVA_DROPOUT_GROUP;
  bool whole = a->count % KAVA_DROPOUT_GROUP == 0 && kava_aligned(a->x) && kava_aligned(a->y);
  if (a->count && !kava_for_float(a->dtype, [&](auto t) {
        typedef decltype(t) T;
        kava_launch("dropout", whole ? dropout_kernel<T, kava_vector<T>()> : dropout_kernel<T, 1>,
                    kava_cuda_blocks(groups, THREADS), THREADS, 0, *a, kava_dropout_limit(a->p));
      }))
    kava_cuda_unsupported("dropout", a->dtype);
}

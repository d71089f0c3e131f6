/* kernels/cuda/element.cuh: reading and writing elements of any float type, one or 16 bytes at a time, and sums over a
 * warp or a block. Arithmetic is in float, or in double for double. */
#ifndef KAVA_CUDA_ELEMENT_CUH
#define KAVA_CUDA_ELEMENT_CUH
#include "kernels/cuda/cuda.cuh"

typedef __nv_bfloat16 kava_bf16;
typedef __half kava_f16;

template <class T> struct kava_wide_of { typedef float type; };
template <> struct kava_wide_of<double> { typedef double type; };
template <class T> using kava_wide = typename kava_wide_of<T>::type;

static __device__ __forceinline__ float kava_widen(float x) { return x; }
static __device__ __forceinline__ double kava_widen(double x) { return x; }
static __device__ __forceinline__ float kava_widen(kava_bf16 x) { return __bfloat162float(x); }
static __device__ __forceinline__ float kava_widen(kava_f16 x) { return __half2float(x); }
template <class T, class F> __device__ __forceinline__ T kava_narrow(F x);
template <> __device__ __forceinline__ float kava_narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ float kava_narrow<float>(double x) { return (float)x; }
template <> __device__ __forceinline__ double kava_narrow<double>(double x) { return x; }
template <> __device__ __forceinline__ double kava_narrow<double>(float x) { return (double)x; }
template <> __device__ __forceinline__ kava_bf16 kava_narrow<kava_bf16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ kava_f16 kava_narrow<kava_f16>(float x) { return __float2half_rn(x); }

/* The rounded product, never part of a fused multiply-add: for products that are formed twice and must then agree, such
 * as one whose difference from its own mean is blown up afterwards. */
static __device__ __forceinline__ float kava_times(float x, float y) { return __fmul_rn(x, y); }
static __device__ __forceinline__ double kava_times(double x, double y) { return __dmul_rn(x, y); }

/* N elements that are moved together: 16 bytes where N is kava_vector<T>. */
template <class T> __host__ __device__ constexpr int kava_vector() { return 16 / (int)sizeof(T); }
template <class T, int N> struct alignas(sizeof(T) * N) kava_pack { T at[N]; };
template <class T, int N> __device__ __forceinline__ void kava_load(const T *from, kava_wide<T> (&into)[N]) {
  kava_pack<T, N> p = *reinterpret_cast<const kava_pack<T, N> *>(from);
#pragma unroll
  for (int i = 0; i < N; i++) into[i] = kava_widen(p.at[i]);
}
template <class T, int N> __device__ __forceinline__ void kava_store(T *to, const kava_wide<T> (&from)[N]) {
  kava_pack<T, N> p;
#pragma unroll
  for (int i = 0; i < N; i++) p.at[i] = kava_narrow<T>(from[i]);
  *reinterpret_cast<kava_pack<T, N> *>(to) = p;
}
/* 16 bytes of T in four registers, which as a pack of halves may become eight. */
template <class T> struct alignas(16) kava_words {
  uint32_t at[4];
  __device__ __forceinline__ kava_wide<T> operator[](int i) const {
    kava_pack<T, kava_vector<T>()> p;
    memcpy(&p, at, sizeof p);
    return kava_widen(p.at[i]);
  }
};
template <> __device__ __forceinline__ float kava_words<kava_bf16>::operator[](int i) const {
  return __uint_as_float(i % 2 ? at[i / 2] & 0xffff0000u : at[i / 2] << 16);
}
static inline bool kava_aligned(const void *p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; } /* NULL is */

template <class F> __device__ __forceinline__ F kava_warp_sum(F x) {
#pragma unroll
  for (int with = 16; with > 0; with /= 2) x += __shfl_xor_sync(0xffffffffu, x, with);
  return x;
}
template <class F> __device__ __forceinline__ F kava_warp_most(F x) {
#pragma unroll
  for (int with = 16; with > 0; with /= 2) {
    F other = __shfl_xor_sync(0xffffffffu, x, with);
    x = other > x ? other : x;
  }
  return x;
}
template <> __device__ __forceinline__ uint32_t kava_warp_most(uint32_t x) { return __reduce_max_sync(0xffffffffu, x); }
/* The sum over a block of whole warps, for every thread; `room` is shared, WARPS elements. The order is fixed. It may
 * be called again at once. */
template <int WARPS, class F> __device__ __forceinline__ F kava_block_sum(F x, F *room) {
  x = kava_warp_sum(x);
  if (WARPS == 1) return x;
  __syncthreads();
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
  __syncthreads();
  F sum = 0;
#pragma unroll
  for (int w = 0; w < WARPS; w++) sum += room[w];
  return sum;
}
template <int WARPS, class F> __device__ __forceinline__ F kava_block_most(F x, F *room) {
  x = kava_warp_most(x);
  if (WARPS == 1) return x;
  __syncthreads();
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
  __syncthreads();
  F most = room[0];
#pragma unroll
  for (int w = 1; w < WARPS; w++) most = room[w] > most ? room[w] : most;
  return most;
}

/* Calls `body(T())` with the C++ type of `dtype`; false where it is not one of the four floats. */
template <class Body> bool kava_for_float(kava_dtype dtype, Body body) {
  switch (dtype) {
  case KAVA_F32: return body(float()), true;
  case KAVA_BF16: return body(kava_bf16()), true;
  case KAVA_F16: return body(kava_f16()), true;
  case KAVA_F64: return body(double()), true;
  default: return false;
  }
}
#endif

/* kernels/cuda/elementwise.cu: elementwise arithmetic (kernels/cpu/elementwise.c) for the four floats and i64.
 * Arithmetic is wide (element.cuh): bf16 and f16 are rounded once, at the end. One pass over memory. */
#include "kernels/cuda/strided.cuh"
#include <stdint.h>

namespace {
enum { THREADS = KAVA_STRIDED_THREADS };

__device__ int64_t power(int64_t base, int64_t exponent) {
  if (exponent < 0) return base == 1 ? 1 : base == -1 ? (exponent & 1 ? -1 : 1) : 0;
  uint64_t result = 1, factor = (uint64_t)base;
  for (; exponent > 0; exponent >>= 1, factor *= factor)
    if (exponent & 1) result *= factor;
  return (int64_t)result;
}
__device__ __forceinline__ float power(float a, float b) { return powf(a, b); }
__device__ __forceinline__ double power(double a, double b) { return pow(a, b); }
__device__ __forceinline__ int64_t divide(int64_t a, int64_t b) {
  return b == 0 ? 0 : b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b;
}
template <class F> __device__ __forceinline__ F divide(F a, F b) { return a / b; }
/* integers wrap */
template <class F> __device__ __forceinline__ F plus(F a, F b) { return a + b; }
template <class F> __device__ __forceinline__ F minus(F a, F b) { return a - b; }
template <class F> __device__ __forceinline__ F times(F a, F b) { return a * b; }
__device__ __forceinline__ int64_t plus(int64_t a, int64_t b) { return (int64_t)((uint64_t)a + (uint64_t)b); }
__device__ __forceinline__ int64_t minus(int64_t a, int64_t b) { return (int64_t)((uint64_t)a - (uint64_t)b); }
__device__ __forceinline__ int64_t times(int64_t a, int64_t b) { return (int64_t)((uint64_t)a * (uint64_t)b); }

/* A maximum or minimum with a NaN is NaN. */
template <class F> __device__ __forceinline__ F arithmetic(kava_binary op, F a, F b) {
  switch (op) {
  case KAVA_ADD: return plus(a, b);
  case KAVA_SUB: return minus(a, b);
  case KAVA_MUL: return times(a, b);
  case KAVA_DIV: return divide(a, b);
  case KAVA_POW: return power(a, b);
  case KAVA_MAXIMUM: return a > b || a != a ? a : b;
  default: return a < b || a != a ? a : b;
  }
}
template <class F> __device__ __forceinline__ bool comparison(kava_binary op, F a, F b) {
  switch (op) {
  case KAVA_EQ: return a == b;
  case KAVA_NE: return a != b;
  case KAVA_LT: return a < b;
  case KAVA_LE: return a <= b;
  case KAVA_GT: return a > b;
  default: return a >= b;
  }
}

/* i64 has the floats' manners */
template <class T> struct wide_of { typedef kava_wide<T> type; };
template <> struct wide_of<int64_t> { typedef int64_t type; };
__device__ __forceinline__ int64_t widened(int64_t x) { return x; }
template <class T> __device__ __forceinline__ kava_wide<T> widened(T x) { return kava_widen(x); }
template <class T> struct narrowed {
  static __device__ __forceinline__ T of(typename wide_of<T>::type x) { return kava_narrow<T>(x); }
};
template <> struct narrowed<int64_t> {
  static __device__ __forceinline__ int64_t of(int64_t x) { return x; }
};

template <class T, int N>
__global__ void __launch_bounds__(THREADS) binary_kernel(kava_binary op, kava_strided s, int64_t total) {
  typedef typename wide_of<T>::type F;
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < total / N; i += (int64_t)gridDim.x * THREADS) {
    int64_t at[4];
    kava_place(s, i * N, at);
    kava_pack<T, N> x = *reinterpret_cast<const kava_pack<T, N> *>((const T *)s.in[0] + at[0]),
                    y = *reinterpret_cast<const kava_pack<T, N> *>((const T *)s.in[1] + at[1]);
    if (op >= KAVA_EQ) {
      kava_pack<uint8_t, N> r;
#pragma unroll
      for (int j = 0; j < N; j++) r.at[j] = comparison<F>(op, widened(x.at[j]), widened(y.at[j]));
      *reinterpret_cast<kava_pack<uint8_t, N> *>((uint8_t *)s.out + at[3]) = r;
    } else {
#pragma unroll
      for (int j = 0; j < N; j++) x.at[j] = narrowed<T>::of(arithmetic<F>(op, widened(x.at[j]), widened(y.at[j])));
      *reinterpret_cast<kava_pack<T, N> *>((T *)s.out + at[3]) = x;
    }
  }
}

template <class T> __global__ void __launch_bounds__(THREADS) where_kernel(kava_strided s, int64_t total) {
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < total; i += (int64_t)gridDim.x * THREADS) {
    int64_t at[4];
    kava_place(s, i, at);
    ((T *)s.out)[at[3]] = ((const uint8_t *)s.in[2])[at[2]] ? ((const T *)s.in[0])[at[0]] : ((const T *)s.in[1])[at[1]];
  }
}

__device__ int64_t function(kava_unary op, int64_t v, int64_t p, int64_t q) {
  switch (op) {
  case KAVA_AFFINE: return plus(times(p, v), q);
  case KAVA_ABS: return v < 0 ? minus((int64_t)0, v) : v;
  case KAVA_CLAMP: return v < p ? p : v > q ? q : v;
  case KAVA_POWER: return power(v, p);
  default: return v; /* floats only: the ops refuse */
  }
}
template <class F> __device__ __forceinline__ F function(kava_unary op, F v, F p, F q) {
  switch (op) {
  case KAVA_AFFINE: return p * v + q;
  case KAVA_ABS: return v < 0 ? -v : v == 0 ? F(0) : v;
  case KAVA_CLAMP: return v < p ? p : v > q ? q : v;
  case KAVA_EXP: return exp(v);
  case KAVA_LOG: return log(v);
  case KAVA_SQRT: return sqrt(v);
  case KAVA_TANH: return tanh(v);
  case KAVA_SIGMOID: return 1 / (1 + exp(-v));
  case KAVA_POWER: return p == 2 ? v * v : power(v, p);
  default: return p / v;
  }
}
/* the derivative at x = v, where the function is r */
template <class F> __device__ __forceinline__ F slope(kava_unary op, F v, F r, F p, F q) {
  switch (op) {
  case KAVA_AFFINE: return p;
  case KAVA_ABS: return F((v > 0) - (v < 0));
  case KAVA_CLAMP: return F(v >= p && v <= q);
  case KAVA_EXP: return r;
  case KAVA_LOG: return 1 / v;
  case KAVA_SQRT: return F(0.5) / r;
  case KAVA_TANH: return 1 - r * r;
  case KAVA_SIGMOID: return r * (1 - r);
  case KAVA_POWER: return p == 0 ? 0 : p == 1 ? 1 : p == 2 ? 2 * v : p * power(v, p - 1);
  default: return -r / v;
  }
}

template <class T>
__global__ void __launch_bounds__(THREADS) unary_kernel(kava_unary op, const T *x, T *y, int64_t count,
                                                        typename wide_of<T>::type p, typename wide_of<T>::type q) {
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += (int64_t)gridDim.x * THREADS)
    y[i] = narrowed<T>::of(function(op, widened(x[i]), p, q));
}
template <class T>
__global__ void __launch_bounds__(THREADS) unary_grad_kernel(kava_unary op, const T *x, const T *y, const T *gy, T *gx,
                                                             int64_t count, kava_wide<T> p, kava_wide<T> q, bool add) {
  typedef kava_wide<T> F;
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += (int64_t)gridDim.x * THREADS) {
    F g = kava_widen(gy[i]) * slope(op, kava_widen(x[i]), kava_widen(y[i]), p, q);
    gx[i] = kava_narrow<T>(add ? kava_widen(gx[i]) + g : g);
  }
}

template <class T> void binary_as(kava_binary op, const kava_strided &s) {
  constexpr int N = kava_vector<T>();
  int64_t total = kava_strided_total(s);
  int sizes[3] = {sizeof(T), sizeof(T), 0}, size = op >= KAVA_EQ ? 1 : (int)sizeof(T);
  if (kava_strided_packs(s, N, sizes, size))
    kava_launch("binary", binary_kernel<T, N>, kava_cuda_blocks(total / N, THREADS), THREADS, 0, op, s, total);
  else
    kava_launch("binary", binary_kernel<T, 1>, kava_cuda_blocks(total, THREADS), THREADS, 0, op, s, total);
}
template <class T> void where_as(const kava_strided &s) {
  int64_t total = kava_strided_total(s);
  kava_launch("where", where_kernel<T>, kava_cuda_blocks(total, THREADS), THREADS, 0, s, total);
}
int64_t whole(double x) { return x >= 0x1p63 ? INT64_MAX : x <= -0x1p63 ? INT64_MIN : (int64_t)x; }
} // namespace

extern "C" void kava_cuda_binary(kava_binary op, kava_dtype type, const kava_strided *args) {
  kava_strided s = *args;
  s.in[2] = NULL;
  s = kava_strided_merge(&s);
  if (kava_strided_total(s) == 0) return;
  if (type == KAVA_I64)
    binary_as<int64_t>(op, s);
  else if (!kava_for_float(type, [&](auto t) { binary_as<decltype(t)>(op, s); }))
    kava_cuda_unsupported("binary", type);
}

extern "C" void kava_cuda_where(kava_dtype type, const kava_strided *args) { /* elements are only moved */
  kava_strided s = kava_strided_merge(args);
  if (kava_strided_total(s) == 0) return;
  if (type == KAVA_F32 || type == KAVA_I32)
    where_as<uint32_t>(s);
  else if (type == KAVA_F64 || type == KAVA_I64)
    where_as<uint64_t>(s);
  else if (type == KAVA_F16 || type == KAVA_BF16)
    where_as<uint16_t>(s);
  else
    kava_cuda_unsupported("where", type);
}

extern "C" void kava_cuda_unary(kava_unary op, kava_dtype type, const void *x, void *y, int64_t count, double p,
                                double q) {
  if (count == 0) return;
  unsigned blocks = kava_cuda_blocks(count, THREADS);
  if (type == KAVA_I64)
    kava_launch("unary", unary_kernel<int64_t>, blocks, THREADS, 0, op, (const int64_t *)x, (int64_t *)y, count,
                whole(p), whole(q));
  else if (!kava_for_float(type, [&](auto t) {
             typedef decltype(t) T;
             kava_launch("unary", unary_kernel<T>, blocks, THREADS, 0, op, (const T *)x, (T *)y, count, p, q);
           }))
    kava_cuda_unsupported("unary", type);
}

extern "C" void kava_cuda_unary_grad(kava_unary op, kava_dtype type, const void *x, const void *y, const void *gy,
                                     void *gx, int64_t count, double p, double q, bool add) {
  if (count && !kava_for_float(type, [&](auto t) {
        typedef decltype(t) T;
        kava_launch("unary_grad", unary_grad_kernel<T>, kava_cuda_blocks(count, THREADS), THREADS, 0, op, (const T *)x,
                    (const T *)y, (const T *)gy, (T *)gx, count, p, q, add);
      }))
    kava_cuda_unsupported("unary_grad", type);
}

/* kernels/cuda/copy.cu: copies between any strides and any two plain types (kernels/cpu/copy.c). 16 bytes a thread
 * where both sides allow it. */
#include "kernels/cuda/strided.cuh"
#include <stdint.h>

namespace {
enum { THREADS = KAVA_STRIDED_THREADS };

template <class T, int N> __global__ void __launch_bounds__(THREADS) move_kernel(kava_strided s, int64_t total) {
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < total / N; i += (int64_t)gridDim.x * THREADS) {
    int64_t at[4];
    kava_place(s, i * N, at);
    *reinterpret_cast<kava_pack<T, N> *>((T *)s.out + at[3]) =
        *reinterpret_cast<const kava_pack<T, N> *>((const T *)s.in[0] + at[0]);
  }
}

/* An element on its way: a float as a double (exact), an integer as an int64. */
typedef struct element {
  bool whole;
  double number;
  int64_t integer;
} element;
__device__ __forceinline__ element read(kava_dtype type, const void *x, int64_t i) {
  switch (type) {
  case KAVA_F64: return {false, ((const double *)x)[i], 0};
  case KAVA_F32: return {false, (double)((const float *)x)[i], 0};
  case KAVA_F16: return {false, (double)kava_widen(((const kava_f16 *)x)[i]), 0};
  case KAVA_BF16: return {false, (double)kava_widen(((const kava_bf16 *)x)[i]), 0};
  case KAVA_I64: return {true, 0, ((const int64_t *)x)[i]};
  case KAVA_I32: return {true, 0, ((const int32_t *)x)[i]};
  case KAVA_I16: return {true, 0, ((const int16_t *)x)[i]};
  case KAVA_I8: return {true, 0, ((const int8_t *)x)[i]};
  default: return {true, 0, ((const uint8_t *)x)[i]};
  }
}
__device__ __forceinline__ int64_t integer_of(element e, int64_t low, int64_t high) {
  if (e.whole) return e.integer; /* wraps where it is stored */
  if (!(e.number == e.number)) return 0;
  if (e.number <= (double)low) return low;
  if (e.number >= (double)high) return high;
  return (int64_t)e.number;
}
/* f64 goes to the small floats by way of f32, as the reference does */
__device__ __forceinline__ float single_of(element e) { return e.whole ? (float)e.integer : (float)e.number; }
__device__ __forceinline__ void write(kava_dtype type, void *y, int64_t i, element e) {
  switch (type) {
  case KAVA_F64: ((double *)y)[i] = e.whole ? (double)e.integer : e.number; break;
  case KAVA_F32: ((float *)y)[i] = single_of(e); break;
  case KAVA_F16: ((kava_f16 *)y)[i] = kava_narrow<kava_f16>(single_of(e)); break;
  case KAVA_BF16: ((kava_bf16 *)y)[i] = kava_narrow<kava_bf16>(single_of(e)); break;
  case KAVA_I64: ((int64_t *)y)[i] = integer_of(e, INT64_MIN, INT64_MAX); break;
  case KAVA_I32: ((int32_t *)y)[i] = (int32_t)integer_of(e, INT32_MIN, INT32_MAX); break;
  case KAVA_I16: ((int16_t *)y)[i] = (int16_t)integer_of(e, INT16_MIN, INT16_MAX); break;
  case KAVA_I8: ((int8_t *)y)[i] = (int8_t)integer_of(e, INT8_MIN, INT8_MAX); break;
  case KAVA_U8: ((uint8_t *)y)[i] = (uint8_t)integer_of(e, 0, UINT8_MAX); break;
  default: ((uint8_t *)y)[i] = e.whole ? e.integer != 0 : e.number != 0;
  }
}
__global__ void __launch_bounds__(THREADS)
    convert_kernel(kava_dtype from, kava_dtype to, kava_strided s, int64_t total) {
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < total; i += (int64_t)gridDim.x * THREADS) {
    int64_t at[4];
    kava_place(s, i, at);
    write(to, s.out, at[3], read(from, s.in[0], at[0]));
  }
}

/* Between the floats that training uses, N at a time. */
template <class X, class Y, int N>
__global__ void __launch_bounds__(THREADS) cast_kernel(kava_strided s, int64_t total) {
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < total / N; i += (int64_t)gridDim.x * THREADS) {
    int64_t at[4];
    float v[N];
    kava_place(s, i * N, at);
    kava_load<X, N>((const X *)s.in[0] + at[0], v);
    kava_store<Y, N>((Y *)s.out + at[3], v);
  }
}
template <class X, class Y> bool cast(const kava_strided &s, int64_t total) {
  constexpr int N = 4;
  int sizes[3] = {sizeof(X), 0, 0};
  if (!kava_strided_packs(s, N, sizes, sizeof(Y))) return false;
  kava_launch("copy", cast_kernel<X, Y, N>, kava_cuda_blocks(total / N, THREADS), THREADS, 0, s, total);
  return true;
}

template <class T> void move(const kava_strided &s, int64_t total) {
  constexpr int N = kava_vector<T>();
  int sizes[3] = {sizeof(T), 0, 0};
  if (kava_strided_packs(s, N, sizes, sizeof(T)))
    kava_launch("copy", move_kernel<T, N>, kava_cuda_blocks(total / N, THREADS), THREADS, 0, s, total);
  else
    kava_launch("copy", move_kernel<T, 1>, kava_cuda_blocks(total, THREADS), THREADS, 0, s, total);
}

int size_of(kava_dtype type) { /* of a plain type; 0: it is none */
  switch (type) {
  case KAVA_F64:
  case KAVA_I64: return 8;
  case KAVA_F32:
  case KAVA_I32: return 4;
  case KAVA_F16:
  case KAVA_BF16:
  case KAVA_I16: return 2;
  case KAVA_I8:
  case KAVA_U8:
  case KAVA_BOOL: return 1;
  default: return 0;
  }
}
} // namespace

extern "C" void kava_cuda_copy(kava_dtype from, kava_dtype to, const kava_strided *args) {
  kava_strided s = *args;
  s.in[1] = s.in[2] = NULL;
  s = kava_strided_merge(&s);
  int64_t total = kava_strided_total(s);
  if (total == 0) return;
  if (!size_of(from) || !size_of(to)) {
    kava_cuda_unsupported("copy", size_of(from) ? to : from);
    return;
  }
  if (from == to) {
    int size = size_of(from);
    if (size == 8)
      move<uint64_t>(s, total);
    else if (size == 4)
      move<uint32_t>(s, total);
    else if (size == 2)
      move<uint16_t>(s, total);
    else
      move<uint8_t>(s, total);
    return;
  }
  bool done = from == KAVA_F32 && to == KAVA_BF16   ? cast<float, kava_bf16>(s, total)
              : from == KAVA_BF16 && to == KAVA_F32 ? cast<kava_bf16, float>(s, total)
              : from == KAVA_F32 && to == KAVA_F16  ? cast<float, kava_f16>(s, total)
              : from == KAVA_F16 && to == KAVA_F32  ? cast<kava_f16, float>(s, total)
                                                    : false;
  if (!done) kava_launch("copy", convert_kernel, kava_cuda_blocks(total, THREADS), THREADS, 0, from, to, s, total);
}

extern "C" void kava_cuda_convert(kava_dtype from, const void *x, kava_dtype to, void *y, int64_t count) {
  kava_strided s = {};
  s.dims = 1;
  s.shape[0] = count;
  s.in[0] = x;
  s.out = y;
  s.in_stride[0][0] = s.out_stride[0] = 1;
  kava_cuda_copy(from, to, &s);
}

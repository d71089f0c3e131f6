/* kernels/cuda/strided.cuh: how elementwise kernels walk a kava_strided: element i of the whole, in row-major order, is
 * at kava_place(i). Where every operand is one run, or runs of a multiple of N elements at multiples of N, N are taken
 * together. */
#ifndef KAVA_CUDA_STRIDED_CUH
#define KAVA_CUDA_STRIDED_CUH
#include "kernels/cuda/element.cuh"
#include "kernels/cpu/strided.h"

enum { KAVA_STRIDED_THREADS = 256 };

static inline int64_t kava_strided_total(const kava_strided &s) {
  int64_t total = 1;
  for (int d = 0; d < s.dims; d++) total *= s.shape[d];
  return total;
}
/* Whether N elements of operands of `size` bytes (output: `size_out`) can be taken together; 0 bytes: is not there. */
static inline bool kava_strided_packs(const kava_strided &s, int n, const int size[3], int size_out) {
  int last = s.dims - 1;
  if (s.shape[last] % n || s.out_stride[last] != 1 || reinterpret_cast<uintptr_t>(s.out) % (size_t)(n * size_out))
    return false;
  for (int d = 0; d < last; d++)
    if (s.out_stride[d] % n) return false;
  for (int i = 0; i < 3; i++) {
    if (!s.in[i]) continue;
    if (s.in_stride[i][last] != 1 || reinterpret_cast<uintptr_t>(s.in[i]) % (size_t)(n * size[i])) return false;
    for (int d = 0; d < last; d++)
      if (s.in_stride[i][d] % n) return false;
  }
  return true;
}

/* Offsets of element i: at[0..2] of the operands, at[3] of the output. */
static __device__ __forceinline__ void kava_place(const kava_strided &s, int64_t i, int64_t at[4]) {
  at[0] = at[1] = at[2] = at[3] = 0;
#pragma unroll
  for (int d = KAVA_MAX_DIMS - 1; d >= 0; d--) {
    if (d >= s.dims) continue;
    int64_t digit, size = s.shape[d];
    if (d == 0)
      digit = i;
    else if ((i | size) >> 32 == 0) { /* a narrow division is several times as fast */
      uint32_t rest = (uint32_t)i / (uint32_t)size;
      digit = (uint32_t)i - rest * (uint32_t)size;
      i = rest;
    } else {
      digit = i % size;
      i /= size;
    }
    at[0] += digit * s.in_stride[0][d];
    at[1] += digit * s.in_stride[1][d];
    at[2] += digit * s.in_stride[2][d];
    at[3] += digit * s.out_stride[d];
  }
}
#endif

/* kernels/cuda/quant.cu: quantised weights widened (quant.cuh), a whole matrix in one launch. A thread takes eight
 * neighbours.
 * Predicted at 3.35 TB/s, 1.5 G elements to bf16: nf4 reads 0.8 GB and writes 3.1 GB, 1.2 ms. */
#include "kernels/cuda/quant.cuh"

namespace {
enum { THREADS = 256 };

template <class T>
__global__ void __launch_bounds__(THREADS)
    widen_kernel(kava_dtype type, const uint8_t *src, const __grid_constant__ kava_table16 values, bool scaled,
                 bool by_eights, kava_scaling scaling, int64_t row, int64_t column, int64_t columns, T *dst,
                 int64_t count) {
  KAVA_SHARED(float, table, 16);
  if (threadIdx.x < 16) table[threadIdx.x] = values.at[threadIdx.x];
  __syncthreads();
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < (count + 7) / 8;
       i += (int64_t)gridDim.x * THREADS) {
    float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    int n = count - 8 * i < 8 ? (int)(count - 8 * i) : 8;
    kava_widen8(type, src, i, n, table, v);
    int64_t at = 8 * i + column;
    if (scaled) kava_scale8(scaling, by_eights, type, row + at / columns, at % columns, n, v);
    if (n == 8) {
      kava_store<T, 8 * sizeof(T) <= 16 ? 8 : 4>(dst + 8 * i,
                                                 reinterpret_cast<float(&)[8 * sizeof(T) <= 16 ? 8 : 4]>(v[0]));
      if (sizeof(T) == 4) kava_store<T, 4>(dst + 8 * i + 4, reinterpret_cast<float(&)[4]>(v[4]));
    } else {
#pragma unroll
      for (int j = 0; j < 8; j++)
        if (j < n) dst[8 * i + j] = kava_narrow<T>(v[j]);
    }
  }
}
} // namespace

kava_status kava_cuda_widen_matrix(kava_dtype type, const void *src, const kava_scaling *scaling, int64_t row,
                                   int64_t column, int64_t columns, int64_t count, kava_dtype to, void *dst) {
  if (count == 0) return KAVA_OK;
  kava_scaling s = {};
  if (scaling) s = *scaling;
  auto run = [&](auto t) {
    typedef decltype(t) T;
    kava_launch("widen", widen_kernel<T>, kava_cuda_blocks(count, 8 * THREADS), THREADS, 0, type, (const uint8_t *)src,
                kava_table_of(type), scaling != NULL,
                scaling && kava_scaling_by_eights(s) && column % 8 == 0 && columns % 8 == 0, s, row, column, columns,
                (T *)dst, count);
    return KAVA_OK;
  };
  if (!kava_aligned(dst)) return kava_cuda_unsupported("widen, not at a multiple of 16 bytes,", to);
  switch (to) {
  case KAVA_F32: return run(float());
  case KAVA_BF16: return run(kava_bf16());
  case KAVA_F16: return run(kava_f16());
  default: return kava_cuda_unsupported("widen", to);
  }
}

extern "C" void kava_cuda_widen(kava_dtype type, const void *src, float *dst, int64_t count) {
  kava_cuda_widen_matrix(type, src, NULL, 0, 0, 8, count, KAVA_F32, dst);
}
extern "C" void kava_cuda_widen_scaled(kava_dtype type, const void *src, const kava_scaling *scaling, int64_t row,
                                       int64_t column, float *dst, int64_t count) {
  kava_cuda_widen_matrix(type, src, scaling, row, column, scaling->columns, count, KAVA_F32, dst);
}

/* kernels/cuda/rope.cu: rotary position embedding, half-split; formulas: kava_rope_args. A thread turns N pairs: N
 * elements of the first half and N of the second, 16 bytes each where the half allows it. Predicted, bf16, 4096 tokens
 * of 14 heads of 64 at 3.35 TB/s: 15 MB, 4.4 us. */
#include "kernels/cuda/element.cuh"

#define THREADS 256

template <class T, int N> static __device__ __forceinline__ void rotate(const kava_rope_args &a) {
  typedef kava_wide<T> F;
  int half = (int)a.rotated / 2, rest = ((int)a.dim - 2 * half) / N, packs = half / N + rest;
  int64_t total = a.tokens * a.heads * packs;
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < total; i += (int64_t)gridDim.x * THREADS) {
    int64_t row = i / packs, token = row / a.heads;
    int j = (int)(i % packs) * N;
    int64_t head = row % a.heads * a.dim;
    const T *x = (const T *)a.x + token * a.x_row + head;
    T *y = (T *)a.y + token * a.y_row + head;
    F low[N], high[N], old[N];
    if (j >= half) { /* behind what is rotated */
      j += half;
      kava_load<T, N>(x + j, low);
      if (a.add) {
        kava_load<T, N>(y + j, old);
#pragma unroll
        for (int k = 0; k < N; k++) low[k] += old[k];
      }
      kava_store<T, N>(y + j, low);
      continue;
    }
    const F *cosine = (const F *)a.cosine + token % a.period * half + j,
            *sine = (const F *)a.sine + token % a.period * half + j;
    kava_load<T, N>(x + j, low);
    kava_load<T, N>(x + j + half, high);
#pragma unroll
    for (int k = 0; k < N; k++) {
      F c = cosine[k], s = a.inverse ? -sine[k] : sine[k], l = low[k], h = high[k];
      low[k] = l * c - h * s;
      high[k] = h * c + l * s;
    }
    if (a.add) {
      kava_load<T, N>(y + j, old);
#pragma unroll
      for (int k = 0; k < N; k++) low[k] += old[k];
      kava_load<T, N>(y + j + half, old);
#pragma unroll
      for (int k = 0; k < N; k++) high[k] += old[k];
    }
    kava_store<T, N>(y + j, low);
    kava_store<T, N>(y + j + half, high);
  }
}

template <class T, int N>
static __global__ void __launch_bounds__(THREADS) rope_kernel(kava_rope_args a, kava_rope_args b) {
  if (blockIdx.y == 0)
    rotate<T, N>(a);
  else
    rotate<T, N>(b);
}

/* Elements of y's that threads turn or copy; 0: there are none. */
static int64_t work_of(const kava_rope_args &a) { return a.tokens * a.heads * (a.dim - a.rotated / 2); }
template <class T> static bool packs(const kava_rope_args &a) {
  constexpr int N = kava_vector<T>();
  return a.rotated / 2 % N == 0 && (a.dim | a.x_row | a.y_row) % N == 0 && kava_aligned(a.x) && kava_aligned(a.y);
}
/* jobs of one type */
static void launch(const char *name, kava_rope_args a, kava_rope_args b, unsigned jobs) {
  int64_t total = work_of(a) > work_of(b) ? work_of(a) : work_of(b);
  if (total == 0) return;
  for (kava_rope_args *job : {&a, &b}) {
    if (!job->x_row) job->x_row = job->heads * job->dim;
    if (!job->y_row) job->y_row = job->heads * job->dim;
  }
  if (!kava_for_float(a.dtype, [&](auto t) {
        typedef decltype(t) T;
        constexpr int N = kava_vector<T>();
        if (packs<T>(a) && packs<T>(b))
          kava_launch(name, rope_kernel<T, N>, dim3(kava_cuda_blocks(total / N, THREADS), jobs), THREADS, 0, a, b);
        else
          kava_launch(name, rope_kernel<T, 1>, dim3(kava_cuda_blocks(total, THREADS), jobs), THREADS, 0, a, b);
      }))
    kava_cuda_unsupported(name, a.dtype);
}
extern "C" void kava_cuda_rope(const kava_rope_args *a) { launch("rope", *a, *a, 1); }
extern "C" void kava_cuda_rope_two(const kava_rope_args *a, const kava_rope_args *b) { launch("rope_two", *a, *b, 2); }

template <class F> static __global__ void __launch_bounds__(THREADS) table_kernel(kava_rope_table_args a) {
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < a.rows * a.half;
       i += (int64_t)gridDim.x * THREADS) {
    int64_t row = i / a.half;
    double angle = (double)(a.positions ? a.positions[row] : row) * a.inv_freq[i % a.half];
    ((F *)a.cosine)[i] = (F)(cos(angle) * a.scale);
    ((F *)a.sine)[i] = (F)(sin(angle) * a.scale);
  }
}
extern "C" void kava_cuda_rope_table(const kava_rope_table_args *a) {
  int64_t count = a->rows * a->half;
  if (count == 0) return;
  if (a->dtype == KAVA_F64)
    kava_launch("rope_table", table_kernel<double>, kava_cuda_blocks(count, THREADS), THREADS, 0, *a);
  else
    kava_launch("rope_table", table_kernel<float>, kava_cuda_blocks(count, THREADS), THREADS, 0, *a);
}

/* kernels/cuda/each.cu: what goes over many tensors of one shape in one launch (kernels/args.h); where they lie is an
 * argument of the kernel. cosines: a warp takes a row, tensors are the grid's second dimension; a block's sum is kept,
 * and one block adds those in order. Predicted, bf16 at 3.35 TB/s, 48 tensors of 4096 rows of 256: the loss 201 MB,
 * 60 us, its gradient 302 MB, 90 us; join of 24 times 4096 x 128 elements 50 MB, 15 us. */
#include "kernels/cuda/element.cuh"

namespace {
enum { THREADS = 256, WARPS = THREADS / 32 };

/* body(i) for the packs of N elements of a row, by a warp */
template <int N, class Body> __device__ __forceinline__ void along(int64_t width, Body body) {
  for (int64_t i = threadIdx.x % 32 * N; i < width; i += 32 * N) body(i);
}

template <class T, int N>
__global__ void __launch_bounds__(THREADS) cosines_kernel(kava_cosines_args a, double *partial) {
  typedef kava_wide<T> F;
  KAVA_SHARED(double, room, WARPS);
  int tensor = blockIdx.y;
  double sum = 0;
  for (int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32; r < a.rows; r += (int64_t)gridDim.x * WARPS) {
    const T *s = (const T *)a.s[tensor] + r * a.s_row[tensor], *t = (const T *)a.t[tensor] + r * a.t_row[tensor];
    F ss = 0, tt = 0, st = 0, own = 0, other = 0;
    bool keep = !a.keep || a.keep[r];
    if (keep)
      along<N>(a.width, [&](int64_t i) {
        F x[N], y[N];
        kava_load<T, N>(s + i, x);
        kava_load<T, N>(t + i, y);
#pragma unroll
        for (int j = 0; j < N; j++) {
          ss += x[j] * x[j];
          tt += y[j] * y[j];
          st += x[j] * y[j];
        }
      });
    ss = kava_warp_sum(ss), tt = kava_warp_sum(tt), st = kava_warp_sum(st);
    if (threadIdx.x % 32) continue;
    if (keep) {
      F least = F(KAVA_UNIT_EPS), ns = fmax(sqrt(ss), least), nt = fmax(sqrt(tt), least);
      other = 1 / (ns * nt);
      sum += (double)(st * other);
      own = ns > least ? -st * other / (ns * ns) : F(0);
    }
    F *slopes = (F *)a.slopes + 2 * (tensor * a.rows + r);
    slopes[0] = own;
    slopes[1] = other;
  }
  sum = kava_block_sum<WARPS>(sum, room);
  if (threadIdx.x == 0) partial[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}
template <class F>
__global__ void __launch_bounds__(1024)
    mean_kernel(const double *partial, int blocks, int count, const double *counted, F *loss) {
  KAVA_SHARED(double, room, 32);
  double sum = 0;
  for (int i = threadIdx.x; i < blocks; i += 1024) sum += partial[i];
  sum = kava_block_sum<32>(sum, room);
  if (threadIdx.x == 0) *loss = (F)(1 - sum / (*counted * count));
}

template <class T, int N> __global__ void __launch_bounds__(THREADS) cosines_grad_kernel(kava_cosines_args a) {
  typedef kava_wide<T> F;
  int tensor = blockIdx.y;
  if (!a.ds[tensor]) return;
  F scale = (F)(-(double)*(const F *)a.grad / (*a.counted * a.count));
  bool add = a.add[tensor];
  for (int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32; r < a.rows; r += (int64_t)gridDim.x * WARPS) {
    const T *s = (const T *)a.s[tensor] + r * a.s_row[tensor], *t = (const T *)a.t[tensor] + r * a.t_row[tensor];
    T *ds = (T *)a.ds[tensor] + r * a.ds_row[tensor];
    const F *slopes = (const F *)a.slopes + 2 * (tensor * a.rows + r);
    F own = scale * slopes[0], other = scale * slopes[1];
    bool keep = !a.keep || a.keep[r];
    along<N>(a.width, [&](int64_t i) {
      F x[N], y[N];
      if (keep) {
        kava_load<T, N>(s + i, x);
        kava_load<T, N>(t + i, y);
      }
#pragma unroll
      for (int j = 0; j < N; j++) x[j] = keep ? own * x[j] + other * y[j] : F(0);
      if (add) {
        kava_load<T, N>(ds + i, y);
#pragma unroll
        for (int j = 0; j < N; j++) x[j] += y[j];
      }
      kava_store<T, N>(ds + i, x);
    });
  }
}

/* Whether all rows are whole packs at multiples of 16 bytes. */
template <class T> bool packs(const kava_cosines_args &a, bool back) {
  constexpr int N = kava_vector<T>();
  bool all = a.width % N == 0;
  for (int i = 0; i < a.count && all; i++)
    all = kava_aligned(a.s[i]) && kava_aligned(a.t[i]) && (a.s_row[i] | a.t_row[i]) % N == 0 &&
          (!back || (kava_aligned(a.ds[i]) && a.ds_row[i] % N == 0));
  return all;
}
dim3 grid_of(const kava_cosines_args &a) {
  int64_t blocks = (a.rows + WARPS - 1) / WARPS, most = (int64_t)kava_cuda_device()->multiprocessors * 16 / a.count;
  blocks = blocks < most ? blocks : most;
  return dim3((unsigned)(blocks > 0 ? blocks : 1), (unsigned)a.count);
}

template <class X, class Y, int N> __global__ void __launch_bounds__(THREADS) join_kernel(kava_join_args a) {
  int matrix = blockIdx.y;
  int64_t column = 0, packs = a.width[matrix] / N;
  for (int i = 0; i < matrix; i++) column += a.width[i];
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < a.rows * packs; i += (int64_t)gridDim.x * THREADS) {
    int64_t r = i / packs, c = i % packs * N;
    kava_pack<X, N> from = *reinterpret_cast<const kava_pack<X, N> *>((const X *)a.x[matrix] + r * a.x_row[matrix] + c);
    kava_pack<Y, N> to;
#pragma unroll
    for (int j = 0; j < N; j++) {
      if constexpr (sizeof(X) == sizeof(Y))
        to.at[j] = from.at[j];
      else
        to.at[j] = kava_narrow<Y>(from.at[j]);
    }
    *reinterpret_cast<kava_pack<Y, N> *>((Y *)a.y + r * a.y_row + column + c) = to;
  }
}
template <class X, class Y> void join(const kava_join_args &a) {
  constexpr int N = 16 / (int)(sizeof(X) > sizeof(Y) ? sizeof(X) : sizeof(Y));
  bool whole = kava_aligned(a.y) && a.y_row % N == 0;
  int64_t most = 0;
  for (int i = 0; i < a.count; i++) {
    whole = whole && kava_aligned(a.x[i]) && (a.x_row[i] | a.width[i]) % N == 0;
    most = a.width[i] > most ? a.width[i] : most;
  }
  if (a.rows * most == 0) return;
  if (whole)
    kava_launch("join", join_kernel<X, Y, N>, dim3(kava_cuda_blocks(a.rows * most / N, THREADS), (unsigned)a.count),
                THREADS, 0, a);
  else
    kava_launch("join", join_kernel<X, Y, 1>, dim3(kava_cuda_blocks(a.rows * most, THREADS), (unsigned)a.count),
                THREADS, 0, a);
}
} // namespace

extern "C" void kava_cuda_cosines(const kava_cosines_args *a) {
  if (!kava_for_float(a->dtype, [&](auto t) {
        typedef decltype(t) T;
        dim3 grid = grid_of(*a);
        double *partial = (double *)kava_cuda_scratch(grid.x * grid.y * sizeof(double));
        if (!partial) return;
        if (packs<T>(*a, false))
          kava_launch("cosines", cosines_kernel<T, kava_vector<T>()>, grid, THREADS, 0, *a, partial);
        else
          kava_launch("cosines", cosines_kernel<T, 1>, grid, THREADS, 0, *a, partial);
        kava_launch("cosines: mean", mean_kernel<kava_wide<T>>, 1, 1024, 0, (const double *)partial,
                    (int)(grid.x * grid.y), a->count, a->counted, (kava_wide<T> *)a->loss);
      }))
    kava_cuda_unsupported("cosines", a->dtype);
}
extern "C" void kava_cuda_cosines_grad(const kava_cosines_args *a) {
  if (!kava_for_float(a->dtype, [&](auto t) {
        typedef decltype(t) T;
        if (packs<T>(*a, true))
          kava_launch("cosines_grad", cosines_grad_kernel<T, kava_vector<T>()>, grid_of(*a), THREADS, 0, *a);
        else
          kava_launch("cosines_grad", cosines_grad_kernel<T, 1>, grid_of(*a), THREADS, 0, *a);
      }))
    kava_cuda_unsupported("cosines_grad", a->dtype);
}

extern "C" void kava_cuda_join(const kava_join_args *a) {
  if (a->from == KAVA_F32 && a->to == KAVA_BF16) return join<float, kava_bf16>(*a);
  if (a->from == KAVA_F32 && a->to == KAVA_F16) return join<float, kava_f16>(*a);
  switch (a->from == a->to ? kava_dtype_block_bytes(a->from) : 0) {
  case 8: return join<uint64_t, uint64_t>(*a);
  case 4: return join<uint32_t, uint32_t>(*a);
  case 2: return join<uint16_t, uint16_t>(*a);
  case 1: return join<uint8_t, uint8_t>(*a);
  default: kava_cuda_unsupported("join", a->from);
  }
}

/* kernels/cuda/reduce.cu: reductions and softmax (kernels/cpu/reduce.c). Sums of floats are kept in double, in a fixed
 * order. A reduction of [outer, n, inner] is cut into `parts` of n where its outputs are too few to fill the chip; the
 * parts' results are put together in order by a second kernel. */
#include "kernels/cuda/element.cuh"
#include <stdint.h>

namespace {
enum { THREADS = 256, COLUMNS = 32, LANES = THREADS / COLUMNS };

/* What is kept on the way: sums in double or uint64 (which wraps), extremes as they are. A is its type. */
template <class T, class A> struct summing {
  typedef A kept;
  bool squares;
  __device__ __forceinline__ A start(const T *) const { return 0; }
  __device__ __forceinline__ A of(A so_far, T x) const {
    A v = (A)kava_widen(x);
    return so_far + (squares ? v * v : v);
  }
  __device__ __forceinline__ A join(A a, A b) const { return a + b; }
};
template <> struct summing<int64_t, uint64_t> {
  typedef uint64_t kept;
  bool squares;
  __device__ __forceinline__ uint64_t start(const int64_t *) const { return 0; }
  __device__ __forceinline__ uint64_t of(uint64_t so_far, int64_t x) const {
    return so_far + (squares ? (uint64_t)x * (uint64_t)x : (uint64_t)x);
  }
  __device__ __forceinline__ uint64_t join(uint64_t a, uint64_t b) const { return a + b; }
};
__device__ __forceinline__ int64_t as_kept(int64_t x) { return x; }
template <class T> __device__ __forceinline__ kava_wide<T> as_kept(T x) { return kava_widen(x); }
template <class T, class A> struct extreme { /* a NaN stays */
  typedef A kept;
  bool least;
  __device__ __forceinline__ A start(const T *any) const { return as_kept(*any); }
  __device__ __forceinline__ A join(A best, A v) const { return (least ? v < best : v > best) || v != v ? v : best; }
  __device__ __forceinline__ A of(A best, T x) const { return join(best, as_kept(x)); }
};

template <class T> struct finish {
  static __device__ __forceinline__ T of(double x, double scale) { return kava_narrow<T>((kava_wide<T>)(x * scale)); }
  static __device__ __forceinline__ T of(float x, double) { return kava_narrow<T>(x); }
};
template <> struct finish<double> {
  static __device__ __forceinline__ double of(double x, double scale) { return x * scale; }
};
template <> struct finish<int64_t> {
  static __device__ __forceinline__ int64_t of(uint64_t x, double) { return (int64_t)x; }
  static __device__ __forceinline__ int64_t of(int64_t x, double) { return x; }
};

/* inner 1: a block for each (output, part). Otherwise 32 columns and 8 lanes of rows. blockIdx.y is the part. */
template <class T, class How>
__global__ void __launch_bounds__(THREADS) reduce_kernel(How how, const T *x, T *y, typename How::kept *partial,
                                                         int64_t outputs, int64_t n, int64_t inner, double scale) {
  typedef typename How::kept A;
  KAVA_SHARED(A, room, THREADS);
  int parts = gridDim.y, part = blockIdx.y;
  int64_t from = n * part / parts, to = n * (part + 1) / parts;
  bool rows = inner == 1;
  int lane = rows ? (int)threadIdx.x : (int)threadIdx.x / COLUMNS, lanes = rows ? (int)THREADS : (int)LANES;
  int64_t output = rows ? blockIdx.x : (int64_t)blockIdx.x * COLUMNS + threadIdx.x % COLUMNS;
  A kept = 0;
  if (output < outputs && n > 0) {
    const T *column = x + output / inner * n * inner + output % inner;
    kept = how.start(column + from * inner);
    for (int64_t k = from + lane; k < to; k += lanes) kept = how.of(kept, column[k * inner]);
  }
  room[threadIdx.x] = kept;
  __syncthreads();
  if (rows) /* the order of a tree */
    for (int half = THREADS / 2; half > 0; half /= 2) {
      if ((int)threadIdx.x < half) room[threadIdx.x] = how.join(room[threadIdx.x], room[threadIdx.x + half]);
      __syncthreads();
    }
  if (lane || output >= outputs) return;
  kept = room[threadIdx.x];
  for (int l = 1; l < LANES && !rows; l++) kept = how.join(kept, room[l * COLUMNS + threadIdx.x]);
  if (parts == 1)
    y[output] = finish<T>::of(kept, scale);
  else
    partial[part * outputs + output] = kept;
}
template <class T, class How>
__global__ void __launch_bounds__(THREADS)
    parts_kernel(How how, T *y, const typename How::kept *partial, int64_t outputs, int parts, double scale) {
  int64_t output = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (output >= outputs) return;
  typename How::kept kept = partial[output];
  for (int p = 1; p < parts; p++) kept = how.join(kept, partial[p * outputs + output]);
  y[output] = finish<T>::of(kept, scale);
}

template <class T, class How>
void reduce_as(How how, const void *x, void *y, int64_t outer, int64_t n, int64_t inner, double scale) {
  typedef typename How::kept A;
  int64_t outputs = outer * inner, blocks = inner == 1 ? outputs : (outputs + COLUMNS - 1) / COLUMNS;
  int64_t wanted = 4 * kava_cuda_device()->multiprocessors, parts = (wanted + blocks - 1) / blocks;
  int64_t most = n / (inner == 1 ? 8 * THREADS : 4 * LANES); /* a part is worth a block */
  parts = parts < most ? parts : most > 1 ? most : 1;
  A *partial = NULL;
  if (parts > 1) {
    partial = (A *)kava_cuda_scratch((size_t)(parts * outputs) * sizeof(A));
    if (!partial) return;
  }
  kava_launch("reduce", reduce_kernel<T, How>, dim3((unsigned)blocks, (unsigned)parts), THREADS, 0, how, (const T *)x,
              (T *)y, partial, outputs, n, inner, scale);
  if (parts > 1)
    kava_launch("reduce: parts", parts_kernel<T, How>, (unsigned)((outputs + THREADS - 1) / THREADS), THREADS, 0, how,
                (T *)y, (const A *)partial, outputs, (int)parts, scale);
}

/* The first place of the extreme, or of a NaN: a block for each output. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    argreduce_kernel(bool least, const T *x, int64_t *index, int64_t n, int64_t inner) {
  KAVA_SHARED(int64_t, room, THREADS);
  const T *column = x + blockIdx.x / inner * n * inner + blockIdx.x % inner;
  auto better = [&](int64_t a, int64_t b) { /* of two places, -1: none */
                                            if (a < 0 || b < 0) return a < 0 ? b : a;
                                            auto va = as_kept(column[a * inner]), vb = as_kept(column[b * inner]);
                                            bool nan_a = va != va, nan_b = vb != vb;
                                            if (nan_a != nan_b) return nan_a ? a : b;
                                            if (nan_a || va == vb) return a < b ? a : b;
                                            return (least ? va < vb : va > vb) ? a : b;
  };
  int64_t best = -1;
  for (int64_t k = threadIdx.x; k < n; k += THREADS) best = better(best, k);
  room[threadIdx.x] = best;
  __syncthreads();
  for (int half = THREADS / 2; half > 0; half /= 2) {
    if ((int)threadIdx.x < half) room[threadIdx.x] = better(room[threadIdx.x], room[threadIdx.x + half]);
    __syncthreads();
  }
  if (threadIdx.x == 0) index[blockIdx.x] = room[0];
}

/* WARPS warps a row */
template <class T, int WARPS>
__global__ void __launch_bounds__(32 * WARPS) softmax_kernel(const T *x, T *y, int64_t n, bool logarithm) {
  typedef kava_wide<T> F;
  KAVA_SHARED(F, room, WARPS);
  x += blockIdx.x * n, y += blockIdx.x * n;
  F top = -INFINITY, sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += 32 * WARPS) {
    F v = kava_widen(x[i]);
    top = v > top ? v : top;
  }
  top = kava_block_most<WARPS>(top, room);
  for (int64_t i = threadIdx.x; i < n; i += 32 * WARPS) sum += exp(kava_widen(x[i]) - top);
  sum = kava_block_sum<WARPS>(sum, room);
  F shift = log(sum), scale = 1 / sum;
  for (int64_t i = threadIdx.x; i < n; i += 32 * WARPS) {
    F v = kava_widen(x[i]) - top;
    y[i] = kava_narrow<T>(logarithm ? v - shift : (F)exp(v) * scale);
  }
}
template <class T, int WARPS>
__global__ void __launch_bounds__(32 * WARPS)
    softmax_grad_kernel(const T *y, const T *gy, T *gx, int64_t n, bool logarithm, bool add) {
  typedef kava_wide<T> F;
  KAVA_SHARED(F, room, WARPS);
  y += blockIdx.x * n, gy += blockIdx.x * n, gx += blockIdx.x * n;
  F dot = 0;
  for (int64_t i = threadIdx.x; i < n; i += 32 * WARPS)
    dot += kava_widen(gy[i]) * (logarithm ? F(1) : kava_widen(y[i]));
  dot = kava_block_sum<WARPS>(dot, room);
  for (int64_t i = threadIdx.x; i < n; i += 32 * WARPS) {
    F v = kava_widen(y[i]), g = kava_widen(gy[i]);
    g = logarithm ? g - (F)exp(v) * dot : v * (g - dot);
    gx[i] = kava_narrow<T>(add ? kava_widen(gx[i]) + g : g);
  }
}
} // namespace

extern "C" void kava_cuda_reduce(kava_reduce op, kava_dtype type, const void *x, void *y, int64_t outer, int64_t n,
                                 int64_t inner, double scale) {
  if (outer * inner == 0) return;
  bool sums = op < KAVA_MAX, second = op == KAVA_SUM_SQUARES || op == KAVA_MIN;
  if (type == KAVA_I64 && sums) return reduce_as<int64_t>(summing<int64_t, uint64_t>{second}, x, y, outer, n, inner, 1);
  if (type == KAVA_I64) return reduce_as<int64_t>(extreme<int64_t, int64_t>{second}, x, y, outer, n, inner, 1);
  if (!kava_for_float(type, [&](auto t) {
        typedef decltype(t) T;
        if (sums)
          reduce_as<T>(summing<T, double>{second}, x, y, outer, n, inner, scale);
        else
          reduce_as<T>(extreme<T, kava_wide<T>>{second}, x, y, outer, n, inner, 1);
      }))
    kava_cuda_unsupported("reduce", type);
}

extern "C" void kava_cuda_argreduce(kava_reduce op, kava_dtype type, const void *x, int64_t *index, int64_t outer,
                                    int64_t n, int64_t inner) {
  if (outer * inner == 0) return;
  auto run = [&](auto t) {
    typedef decltype(t) T;
    kava_launch("argreduce", argreduce_kernel<T>, (unsigned)(outer * inner), THREADS, 0, op == KAVA_MIN, (const T *)x,
                index, n, inner);
  };
  if (type == KAVA_I64)
    run(int64_t());
  else if (!kava_for_float(type, run))
    kava_cuda_unsupported("argreduce", type);
}

extern "C" void kava_cuda_softmax(kava_dtype type, const void *x, void *y, int64_t rows, int64_t n, bool logarithm) {
  if (rows && n && !kava_for_float(type, [&](auto t) {
        typedef decltype(t) T;
        if (n <= 512)
          kava_launch("softmax", softmax_kernel<T, 1>, (unsigned)rows, 32, 0, (const T *)x, (T *)y, n, logarithm);
        else
          kava_launch("softmax", softmax_kernel<T, 8>, (unsigned)rows, 256, 0, (const T *)x, (T *)y, n, logarithm);
      }))
    kava_cuda_unsupported("softmax", type);
}
extern "C" void kava_cuda_softmax_grad(kava_dtype type, const void *y, const void *gy, void *gx, int64_t rows,
                                       int64_t n, bool logarithm, bool add) {
  if (rows && n && !kava_for_float(type, [&](auto t) {
        typedef decltype(t) T;
        if (n <= 512)
          kava_launch("softmax_grad", softmax_grad_kernel<T, 1>, (unsigned)rows, 32, 0, (const T *)y, (const T *)gy,
                      (T *)gx, n, logarithm, add);
        else
          kava_launch("softmax_grad", softmax_grad_kernel<T, 8>, (unsigned)rows, 256, 0, (const T *)y, (const T *)gy,
                      (T *)gx, n, logarithm, add);
      }))
    kava_cuda_unsupported("softmax_grad", type);
}

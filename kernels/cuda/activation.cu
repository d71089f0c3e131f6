/* kernels/cuda/activation.cu: elementwise nonlinearities, alone and gated, softcap and dropout; formulas at the
 * reference, kernels/cpu/activation.c. Each is one pass over memory, 16 bytes a thread and step. Predicted, bf16
 * at 3.35 TB/s (H100), 4096 tokens of Qwen2.5-1.5B's MLP (8960): gated reads 2 and writes 1 x 73.4 MB, 66 us;
 * gated_grad reads 3 and writes 2, 110 us, with y 3, 131 us (y alone would be another 66). */
#include "kernels/cuda/activation.cuh"

#define THREADS 256
/* body(many<N>(), i) for every element i: the first N vectors elements together, the rest one by one. */
template <int N> struct many { static constexpr int count = N; };
template <int N, class Body> static __device__ __forceinline__ void each(int64_t count, int64_t vectors, Body body) {
  int64_t stride = (int64_t)gridDim.x * THREADS, thread = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  for (int64_t i = thread; i < vectors; i += stride) body(many<N>(), i * N);
  for (int64_t i = vectors * N + thread; i < count; i += stride) body(many<1>(), i);
}
/* into[0..N) (+)= value */
template <int N, class T> static __device__ __forceinline__ void put(T *into, kava_wide<T> (&value)[N], bool add) {
  if (add) {
    kava_wide<T> old[N];
    kava_load<T, N>(into, old);
#pragma unroll
    for (int j = 0; j < N; j++) value[j] += old[j];
  }
  kava_store<T, N>(into, value);
}

/* How many vectors of T the kernels may go over: none where a buffer is not at a multiple of 16 bytes. */
template <class T, class... P> static int64_t vectors_of(int64_t count, P... buffers) {
  bool aligned = true;
  for (const void *p : {(const void *)buffers...}) aligned = aligned && kava_aligned(p);
  return aligned ? count / kava_vector<T>() : 0;
}
template <class T> static unsigned blocks_of(int64_t count) {
  return kava_cuda_blocks(count, THREADS * kava_vector<T>());
}

template <class T>
static __global__ void __launch_bounds__(THREADS)
    activation_kernel(kava_activation kind, const T *x, T *y, int64_t count, int64_t vectors) {
  each<kava_vector<T>()>(count, vectors, [&](auto m, int64_t i) {
    constexpr int M = decltype(m)::count;
    kava_wide<T> v[M];
    kava_load<T, M>(x + i, v);
#pragma unroll
    for (int j = 0; j < M; j++) v[j] = kava_value_of(kind, v[j]);
    kava_store<T, M>(y + i, v);
  });
}

template <class T>
static __global__ void __launch_bounds__(THREADS)
    activation_grad_kernel(kava_activation kind, const T *x, const T *grad, T *dx, int64_t count, int64_t vectors,
                           bool add) {
  each<kava_vector<T>()>(count, vectors, [&](auto m, int64_t i) {
    constexpr int M = decltype(m)::count;
    kava_wide<T> v[M], g[M];
    kava_load<T, M>(x + i, v);
    kava_load<T, M>(grad + i, g);
#pragma unroll
    for (int j = 0; j < M; j++) v[j] = g[j] * kava_slope_of(kind, v[j]);
    put<M>(dx + i, v, add);
  });
}

/* where element i of rows `row` apart is */
static __device__ __forceinline__ int64_t apart(int64_t i, int64_t width, int64_t row) {
  if (row == 0) return i;
  int64_t r = (i | width) >> 32 ? i / width : (int64_t)((uint32_t)i / (uint32_t)width);
  return i + r * (row - width);
}

template <class T> static __global__ void __launch_bounds__(THREADS) gated_kernel(kava_gated_args a, int64_t vectors) {
  each<kava_vector<T>()>(a.count, vectors, [&](auto m, int64_t i) {
    constexpr int M = decltype(m)::count;
    kava_wide<T> v[M], u[M];
    int64_t from = apart(i, a.width, a.row);
    kava_load<T, M>((const T *)a.gate + from, v);
    kava_load<T, M>((const T *)a.up + from, u);
#pragma unroll
    for (int j = 0; j < M; j++) v[j] = kava_value_of(a.kind, v[j]) * u[j];
    kava_store<T, M>((T *)a.y + i, v);
  });
}

template <class T>
static __global__ void __launch_bounds__(THREADS) gated_grad_kernel(kava_gated_args a, int64_t vectors) {
  each<kava_vector<T>()>(a.count, vectors, [&](auto m, int64_t i) {
    constexpr int M = decltype(m)::count;
    kava_wide<T> v[M], u[M], g[M], value[M];
    int64_t from = apart(i, a.width, a.row), to = apart(i, a.width, a.grad_row);
    kava_load<T, M>((const T *)a.gate + from, v);
    kava_load<T, M>((const T *)a.up + from, u);
    kava_load<T, M>((const T *)a.grad + i, g);
#pragma unroll
    for (int j = 0; j < M; j++) {
      kava_wide<T> f = kava_value_of(a.kind, v[j]);
      value[j] = g[j] * f;
      v[j] = g[j] * u[j] * kava_slope_of(a.kind, v[j]);
      u[j] *= f;
    }
    if (a.y) kava_store<T, M>((T *)a.y + i, u);
    if (a.dgate) put<M>((T *)a.dgate + to, v, a.add_gate);
    if (a.dup) put<M>((T *)a.dup + to, value, a.add_up);
  });
}

template <class T>
static __global__ void __launch_bounds__(THREADS)
    softcap_kernel(kava_wide<T> c, const T *x, T *y, int64_t count, int64_t vectors) {
  each<kava_vector<T>()>(count, vectors, [&](auto m, int64_t i) {
    constexpr int M = decltype(m)::count;
    kava_wide<T> v[M];
    kava_load<T, M>(x + i, v);
#pragma unroll
    for (int j = 0; j < M; j++) v[j] = c * tanh(v[j] / c);
    kava_store<T, M>(y + i, v);
  });
}

template <class T>
static __global__ void __launch_bounds__(THREADS)
    softcap_grad_kernel(kava_wide<T> c, const T *y, const T *grad, T *dx, int64_t count, int64_t vectors, bool add) {
  each<kava_vector<T>()>(count, vectors, [&](auto m, int64_t i) {
    constexpr int M = decltype(m)::count;
    kava_wide<T> v[M], g[M];
    kava_load<T, M>(y + i, v);
    kava_load<T, M>(grad + i, g);
#pragma unroll
    for (int j = 0; j < M; j++) {
      kava_wide<T> t = v[j] / c;
      v[j] = g[j] * (1 - t * t);
    }
    put<M>(dx + i, v, add);
  });
}

extern "C" void kava_cuda_activation(kava_activation kind, kava_dtype dtype, const void *x, void *y, int64_t count) {
  if (count && !kava_for_float(dtype, [&](auto t) {
        typedef decltype(t) T;
        kava_launch("activation", activation_kernel<T>, blocks_of<T>(count), THREADS, 0, kind, (const T *)x, (T *)y,
                    count, vectors_of<T>(count, x, y));
      }))
    kava_cuda_unsupported("activation", dtype);
}

extern "C" void kava_cuda_activation_grad(kava_activation kind, kava_dtype dtype, const void *x, const void *grad,
                                          void *dx, int64_t count, bool add) {
  if (count && !kava_for_float(dtype, [&](auto t) {
        typedef decltype(t) T;
        kava_launch("activation_grad", activation_grad_kernel<T>, blocks_of<T>(count), THREADS, 0, kind, (const T *)x,
                    (const T *)grad, (T *)dx, count, vectors_of<T>(count, x, grad, dx), add);
      }))
    kava_cuda_unsupported("activation_grad", dtype);
}

/* Rows that lie apart go by vectors where each begins at a multiple of one. */
template <class T> static int64_t gated_vectors(const kava_gated_args *a, const void *grad) {
  int64_t lengths = a->row | a->grad_row, n = kava_vector<T>();
  if (lengths && (lengths | a->width) % n) return 0;
  return vectors_of<T>(a->count, a->gate, a->up, a->y, grad, a->dgate, a->dup);
}

extern "C" void kava_cuda_gated(const kava_gated_args *a) {
  if (a->count && !kava_for_float(a->dtype, [&](auto t) {
        typedef decltype(t) T;
        kava_gated_args own = *a;
        own.dgate = own.dup = NULL;
        kava_launch("gated", gated_kernel<T>, blocks_of<T>(a->count), THREADS, 0, own, gated_vectors<T>(&own, NULL));
      }))
    kava_cuda_unsupported("gated", a->dtype);
}

extern "C" void kava_cuda_gated_grad(const kava_gated_args *a) {
  if (a->count && !kava_for_float(a->dtype, [&](auto t) {
        typedef decltype(t) T;
        kava_launch("gated_grad", gated_grad_kernel<T>, blocks_of<T>(a->count), THREADS, 0, *a,
                    gated_vectors<T>(a, a->grad));
      }))
    kava_cuda_unsupported("gated_grad", a->dtype);
}

extern "C" void kava_cuda_softcap(kava_dtype dtype, double c, const void *x, void *y, int64_t count) {
  if (count && !kava_for_float(dtype, [&](auto t) {
        typedef decltype(t) T;
        kava_launch("softcap", softcap_kernel<T>, blocks_of<T>(count), THREADS, 0, c, (const T *)x, (T *)y, count,
                    vectors_of<T>(count, x, y));
      }))
    kava_cuda_unsupported("softcap", dtype);
}

extern "C" void kava_cuda_softcap_grad(kava_dtype dtype, double c, const void *y, const void *grad, void *dx,
                                       int64_t count, bool add) {
  if (count && !kava_for_float(dtype, [&](auto t) {
        typedef decltype(t) T;
        kava_launch("softcap_grad", softcap_grad_kernel<T>, blocks_of<T>(count), THREADS, 0, c, (const T *)y,
                    (const T *)grad, (T *)dx, count, vectors_of<T>(count, y, grad, dx), add);
      }))
    kava_cuda_unsupported("softcap_grad", dtype);
}

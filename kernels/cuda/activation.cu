/* kernels/cuda/activation.cu: elementwise nonlinearities, alone and gated, softcap and dropout; formulas at the
 * reference, kernels/cpu/activation.c. Each is one pass over memory, 16 bytes a thread and step. Predicted, bf16
 * at 3.35 TB/s (H100), 4096 tokens of Qwen2.5-1.5B's MLP (8960): gated reads 2 and writes 1 x 73.4 MB, 66 us;
 * gated_grad reads 3 and writes 2, 110 us, with y 3, 131 us (y alone would be another 66).
 *
 * What drops makes its mask once for whatever else it does to an element: 10 rounds of 4 instructions for 4 elements.
 */
#include "kernels/cuda/activation.cuh"

#define THREADS 256
/* body(many<N>(), i) for every element i: the first N vectors elements together, the rest one by one. */
template <int N> struct many { static constexpr int count = N; };
template <int N, class Body> static __device__ __forceinline__ void each(int64_t count, int64_t vectors, Body body) {
  int64_t stride = (int64_t)gridDim.x * THREADS, thread = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  for (int64_t i = thread; i < vectors; i += stride) body(many<N>(), i * N);
  for (int64_t i = vectors * N + thread; i < count; i += stride) body(many<1>(), i);
}
template <int N, class T> static __device__ __forceinline__ void add(const T *what, kava_wide<T> (&value)[N]) {
  kava_wide<T> old[N];
  kava_load<T, N>(what, old);
#pragma unroll
  for (int j = 0; j < N; j++) value[j] += old[j];
}
/* into[0..N) (+)= value */
template <int N, class T> static __device__ __forceinline__ void put(T *into, kava_wide<T> (&value)[N], bool added) {
  if (added) add<N>(into, value);
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
static __global__ void __launch_bounds__(THREADS) activation_grad_kernel(kava_activation_args a, int64_t vectors) {
  each<kava_vector<T>()>(a.count, vectors, [&](auto m, int64_t i) {
    constexpr int M = decltype(m)::count;
    kava_wide<T> v[M], g[M], y[M];
    kava_load<T, M>((const T *)a.x + i, v);
    kava_load<T, M>((const T *)a.grad + i, g);
#pragma unroll
    for (int j = 0; j < M; j++) {
      y[j] = kava_value_of(a.kind, v[j]);
      v[j] = g[j] * kava_slope_of(a.kind, v[j]);
    }
    if (a.y) kava_store<T, M>((T *)a.y + i, y);
    put<M>((T *)a.dx + i, v, a.add);
  });
}

/* y (+)= mask(x); y = mask(f(x)); dx (+)= mask(grad) f'(x), with y or without */
enum pass { DROPOUT, VALUE, SLOPE };
#define ROUNDS 10
struct drop_args {
  kava_activation_args a;
  uint32_t keys[ROUNDS][2]; /* Philox's, a constant's place for each: no registers, no sums */
  uint32_t limit;
  double keep; /* 1 / (1-p) */
  bool aligned;
};

/* Philox 4x32-10 (base/rng.c) */
static __device__ __forceinline__ void philox(const uint32_t (&keys)[ROUNDS][2], uint64_t stream, uint64_t index,
                                              uint32_t (&c)[4]) {
  c[0] = (uint32_t)index, c[1] = (uint32_t)(index >> 32), c[2] = (uint32_t)stream, c[3] = (uint32_t)(stream >> 32);
#pragma unroll
  for (int round = 0; round < ROUNDS; round++) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
    c[0] = (uint32_t)(p1 >> 32) ^ c[1] ^ keys[round][0];
    c[1] = (uint32_t)p1;
    c[2] = (uint32_t)(p0 >> 32) ^ c[3] ^ keys[round][1];
    c[3] = (uint32_t)p0;
  }
}
/* Which of a group's elements are dropped, a bit each. */
static __device__ __forceinline__ uint32_t dropped_of(const drop_args &d, uint64_t stream, int64_t group) {
  uint32_t dropped = 0;
#pragma unroll
  for (int block = 0; block < 8; block++) {
    uint32_t bits[4];
    philox(d.keys, stream, (uint64_t)(group * 8 + block), bits);
#pragma unroll
    for (int word = 0; word < 4; word++) dropped |= (uint32_t)(bits[word] < d.limit) << (8 * word + block);
  }
  return dropped;
}

/* N elements as they lie in memory: 16 bytes, or one. */
template <class T, int N> struct lot : kava_words<T> {};
template <class T> struct lot<T, 1> {
  T at;
  __device__ __forceinline__ kava_wide<T> operator[](int) const { return kava_widen(at); }
};
/* v rounded. Halves two at a time: one alone is converted by the unit that has the exponentials. */
template <class T, int N> static __device__ __forceinline__ lot<T, N> lot_of(const kava_wide<T> (&v)[N]) {
  lot<T, N> to;
  if constexpr (N == 1)
    to.at = kava_narrow<T>(v[0]);
  else if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int j = 0; j < N; j += 2) to.at[j / 2] = kava_pair<T>(v[j], v[j + 1]);
  } else
    memcpy(to.at, v, sizeof to.at);
  return to;
}

template <int N, class T> static __device__ __forceinline__ void store(T *to, const kava_wide<T> (&v)[N]) {
  lot<T, N> from = lot_of<T, N>(v);
  if constexpr (N == 1)
    *to = from.at;
  else
    kava_store_words(to, from.at);
}

/* A warp takes a tile, a group for each lane. A lane makes its group's mask, but moves what lies side by side in
 * memory: vector l of each 32, whose bits another lane has. Some loads are under way while the mask is made. */
#define TILE (32 * KAVA_DROPOUT_GROUP)
template <pass PASS, class T, int N>
static __device__ __forceinline__ void drop_tile(const drop_args &d, kava_activation kind, uint64_t stream,
                                                 int64_t tile) {
  typedef kava_wide<T> F;
  constexpr int VECTORS = KAVA_DROPOUT_GROUP / N, STEP = 32 * N, AT_ONCE = PASS == SLOPE ? 2 : 4;
  const kava_activation_args &a = d.a;
  int lane = (int)threadIdx.x % 32;
  uint32_t dropped = 0;
  F keep = F(d.keep);
#pragma unroll 1
  for (int from = 0; from < VECTORS; from += AT_ONCE) {
    int64_t i = tile * TILE + (from * 32 + lane) * N;
    T *y = (T *)a.y + i, *dx = (T *)a.dx + i;
    lot<T, N> x[AT_ONCE], grad[AT_ONCE];
#pragma unroll
    for (int v = 0; v < AT_ONCE; v++) {
      if (N == 1 && i + v * STEP >= a.count) break;
      x[v] = *(const lot<T, N> *)((const T *)a.x + i + v * STEP);
      if (PASS == SLOPE) grad[v] = *(const lot<T, N> *)((const T *)a.grad + i + v * STEP);
    }
    if (from == 0) dropped = dropped_of(d, stream, tile * 32 + lane);
#pragma unroll
    for (int v = 0; v < AT_ONCE; v++) {
      int first = ((from + v) * 32 + lane) * N;
      uint32_t bits = __shfl_sync(0xffffffffu, dropped, first / KAVA_DROPOUT_GROUP) >> first % KAVA_DROPOUT_GROUP;
      if (N == 1 && i + v * STEP >= a.count) continue;
      F value[N];
      if (PASS != DROPOUT)
#pragma unroll
        for (int j = 0; j < N; j++) value[j] = kava_value_of(kind, x[v][j]);
      lot<T, N> f = PASS == DROPOUT ? x[v] : lot_of<T, N>(value);
#pragma unroll
      for (int j = 0; j < N; j++) value[j] = bits >> j & 1 ? F(0) : f[j] * keep;
      if (PASS == DROPOUT && a.add) add<N>(y + v * STEP, value);
      if (PASS != SLOPE || a.y) store<N>(y + v * STEP, value);
      if (PASS != SLOPE) continue;
#pragma unroll
      for (int j = 0; j < N; j++) value[j] = bits >> j & 1 ? F(0) : grad[v][j] * keep;
      lot<T, N> g = lot_of<T, N>(value);
#pragma unroll
      for (int j = 0; j < N; j++) value[j] = g[j] * kava_slope_of(kind, x[v][j]);
      if (a.add) add<N>(dx + v * STEP, value);
      store<N>(dx + v * STEP, value);
    }
  }
}

/* KIND: KAVA_ACTIVATIONS takes whichever d says. SiLU, the projector's, has registers and branches of its own. */
template <pass PASS, int KIND, class T> static __global__ void __launch_bounds__(THREADS, 4) drop_kernel(drop_args d) {
  kava_activation kind = KIND == KAVA_ACTIVATIONS ? d.a.kind : (kava_activation)KIND;
  uint64_t stream = d.a.mask.stream + (d.a.mask.later ? *d.a.mask.later : 0);
  int64_t warps = (int64_t)gridDim.x * (THREADS / 32), tiles = (d.a.count + TILE - 1) / TILE;
  for (int64_t tile = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32; tile < tiles; tile += warps)
    if (d.aligned && (tile + 1) * TILE <= d.a.count)
      drop_tile<PASS, T, kava_vector<T>()>(d, kind, stream, tile);
    else
      drop_tile<PASS, T, 1>(d, kind, stream, tile);
}
template <pass PASS> static void drop(const char *name, const kava_activation_args *a) {
  drop_args d = {};
  d.a = *a;
  for (uint32_t round = 0; round < ROUNDS; round++) {
    d.keys[round][0] = (uint32_t)a->mask.seed + round * 0x9E3779B9u;
    d.keys[round][1] = (uint32_t)(a->mask.seed >> 32) + round * 0xBB67AE85u;
  }
  d.limit = kava_dropout_limit(a->mask.p);
  d.keep = 1 / (1 - a->mask.p);
  d.aligned = kava_aligned(a->x) && kava_aligned(a->grad) && kava_aligned(a->y) && kava_aligned(a->dx);
  if (!kava_for_float(a->dtype, [&](auto t) {
        typedef decltype(t) T;
        constexpr int SILU = PASS == DROPOUT ? KAVA_ACTIVATIONS : KAVA_SILU;
        kava_launch(name, a->kind == KAVA_SILU ? drop_kernel<PASS, SILU, T> : drop_kernel<PASS, KAVA_ACTIVATIONS, T>,
                    kava_cuda_blocks(a->count, THREADS * KAVA_DROPOUT_GROUP), THREADS, 0, d);
      }))
    kava_cuda_unsupported(name, a->dtype);
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

extern "C" void kava_cuda_activation(const kava_activation_args *a) {
  kava_activation_args own = *a;
  own.grad = own.dx = NULL;
  if (a->count == 0) return;
  if (a->mask.p > 0)
    drop<VALUE>("activation", &own);
  else if (!kava_for_float(a->dtype, [&](auto t) {
             typedef decltype(t) T;
             kava_launch("activation", activation_kernel<T>, blocks_of<T>(a->count), THREADS, 0, a->kind,
                         (const T *)a->x, (T *)a->y, a->count, vectors_of<T>(a->count, a->x, a->y));
           }))
    kava_cuda_unsupported("activation", a->dtype);
}

extern "C" void kava_cuda_activation_grad(const kava_activation_args *a) {
  if (a->count == 0) return;
  if (a->mask.p > 0)
    drop<SLOPE>("activation_grad", a);
  else if (!kava_for_float(a->dtype, [&](auto t) {
             typedef decltype(t) T;
             kava_launch("activation_grad", activation_grad_kernel<T>, blocks_of<T>(a->count), THREADS, 0, *a,
                         vectors_of<T>(a->count, a->x, a->grad, a->y, a->dx));
           }))
    kava_cuda_unsupported("activation_grad", a->dtype);
}

extern "C" void kava_cuda_dropout(const kava_dropout_args *a) {
  kava_activation_args args = {};
  args.dtype = a->dtype, args.count = a->count, args.mask = a->mask;
  args.x = a->x, args.y = a->y, args.add = a->add;
  if (a->count) drop<DROPOUT>("dropout", &args);
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

/* kernels/cuda/norm.cu: RMS norm and layer norm over rows (formulas: kernels/cpu/norm.c) and the pass that finishes the
 * gradients of linear(layer_norm(x)) (kernels/cpu/norm_linear.c).
 *
 * A warp holds a row in registers as it came, wider rows a few warps or a block, so that all of a row's loads are under
 * way together and the memory is passed over once. Widths that do not fit the registers are read again. Backward: a
 * block goes over rows in steps of the grid, and each thread adds up the parameters' gradients of its own columns in
 * registers; the blocks' sums are added in order by a second kernel. The statistics come from the same sums in the same
 * order both ways: y is once more what it was. Predicted, bf16, at 3.35 TB/s: 4096 rows of 1536 forward 25 MB, 8 us;
 * 4096 rows of 896 backward, added to what is there, 29 MB, 9 us, with y 37 MB, 11 us, and its sums 0.5 MB, 2 us;
 * norm_linear_finish of 7168 x 7168 f32, 616 MB, 190 us. */
#include "kernels/cuda/parts.cuh"

namespace {
/* A row in registers, as it lies in memory: PACKS packs of N elements a thread, thread i of THREADS owning packs i,
 * i + THREADS, ... */
template <class T, int N, int PACKS, int THREADS> struct row_of {
  typedef kava_wide<T> F;
  kava_words<T> at[PACKS];
  __device__ __forceinline__ static int first(int p, int thread) { return (p * THREADS + thread) * N; }
  __device__ __forceinline__ void load(const T *x, int width, int thread) {
#pragma unroll
    for (int p = 0; p < PACKS; p++)
      at[p] =
          first(p, thread) < width ? *reinterpret_cast<const kava_words<T> *>(x + first(p, thread)) : kava_words<T>{};
  }
  __device__ __forceinline__ F operator()(int p, int j) const { return at[p][j]; }
  /* add(x) of every element */
  template <class Add> __device__ __forceinline__ void each(int width, int thread, Add add) const {
#pragma unroll
    for (int p = 0; p < PACKS; p++)
      if (first(p, thread) < width)
#pragma unroll
        for (int j = 0; j < N; j++) add((*this)(p, j));
  }
};

/* N of the parameters from i on, which are of T or wide; a parameter that is not there is `otherwise` */
template <class T, int N>
__device__ __forceinline__ void parameters(const void *from, bool wide, int i, kava_wide<T> otherwise,
                                           kava_wide<T> (&into)[N]) {
  typedef kava_wide<T> F;
  constexpr int M = N * (int)sizeof(F) > 16 ? 16 / (int)sizeof(F) : N;
  if (!from) {
#pragma unroll
    for (int j = 0; j < N; j++) into[j] = otherwise;
  } else if (wide) {
#pragma unroll
    for (int j = 0; j < N; j += M) {
      F some[M];
      kava_load<F, M>((const F *)from + i + j, some);
#pragma unroll
      for (int k = 0; k < M; k++) into[j + k] = some[k];
    }
  } else
    kava_load<T, N>((const T *)from + i, into);
}
template <class T> __device__ __forceinline__ kava_wide<T> parameter(const void *from, bool wide, int64_t i) {
  return wide ? ((const kava_wide<T> *)from)[i] : kava_widen(((const T *)from)[i]);
}

template <class F> __device__ __forceinline__ F inverse_root(F x) { return 1 / sqrt(x); }
template <> __device__ __forceinline__ float inverse_root(float x) { return rsqrtf(x); }

/* WARPS warps a row; blocks of 4 warps at least. */
template <class T, int N, int PACKS, int WARPS>
__global__ void __launch_bounds__(WARPS > 4 ? 32 * WARPS : 128, WARPS > 1   ? 1
                                                                : PACKS > 4 ? 7
                                                                            : 8) norm_kernel(kava_norm_args a) {
  typedef kava_wide<T> F;
  constexpr int THREADS = 32 * WARPS, ROWS = WARPS > 4 ? 1 : 4 / WARPS;
  KAVA_SHARED(F, rooms, WARPS * ROWS);
  int thread = threadIdx.x % THREADS, width = (int)a.width;
  F *room = rooms + threadIdx.x / THREADS * WARPS;
  int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / THREADS;
  bool there = row < a.rows;
  if (!there) row = a.rows - 1; /* goes along to the barriers */
  auto sum = [&](F v) {
    v = kava_warp_sum(v);
    if (WARPS == 1) return v;
    __syncthreads();
    if (thread % 32 == 0) room[thread / 32] = v;
    __syncthreads();
    v = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) v += room[w];
    return v;
  };
  row_of<T, N, PACKS, THREADS> x;
  x.load((const T *)a.x + row * width, width, thread);
  F mean = 0, square = 0;
  if (a.centre) {
    x.each(width, thread, [&](F v) { mean += v; });
    mean = sum(mean) / (F)width;
  }
  x.each(width, thread, [&](F v) { square += (v - mean) * (v - mean); });
  F scale = inverse_root(sum(square) / (F)width + (F)a.eps);
  T *y = (T *)a.y + row * width;
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    int i = x.first(p, thread);
    if (i >= width || !there) continue;
    F w[N], b[N];
    parameters<T, N>(a.w, a.wide, i, 1, w);
    parameters<T, N>(a.b, a.wide, i, 0, b);
#pragma unroll
    for (int j = 0; j < N; j++) w[j] = (x(p, j) - mean) * scale * w[j] + b[j];
    kava_store<T, N>(y + i, w);
  }
}

/* WARPS warps a row, BLOCK threads. partial: [gridDim.x][2][width], the block's sums of dw and db; CENTRE: the mean
 * is subtracted, or db is wanted. */
__host__ __device__ constexpr int grad_block(int packs, int warps, bool centre) {
  return packs > 4 || warps > 1 || centre ? 256 : 512;
}
template <class T, int N, int PACKS, int WARPS, bool CENTRE>
__global__ void __launch_bounds__(grad_block(PACKS, WARPS, CENTRE), 1)
    norm_grad_kernel(kava_norm_args a, kava_wide<T> *partial) {
  typedef kava_wide<T> F;
  constexpr int BLOCK = grad_block(PACKS, WARPS, CENTRE), THREADS = 32 * WARPS, GROUPS = BLOCK / THREADS;
  KAVA_SHARED(F, room, BLOCK * N > BLOCK / 32 * 3 ? BLOCK * N : BLOCK / 32 * 3);
  int thread = threadIdx.x % THREADS, group = threadIdx.x / THREADS, width = (int)a.width;
  F *own = room + group * WARPS * 3;
  auto sum = [&](F(&v)[3], int from, int to) { /* v[from .. to) over the row */
#pragma unroll
                                               for (int k = 0; k < 3; k++)
                                                 if (k >= from && k < to) v[k] = kava_warp_sum(v[k]);
                                               if (WARPS == 1) return;
                                               __syncthreads();
                                               if (thread % 32 == 0)
#pragma unroll
                                                 for (int k = 0; k < 3; k++) own[thread / 32 * 3 + k] = v[k];
                                               __syncthreads();
#pragma unroll
                                               for (int k = 0; k < 3; k++)
                                                 if (k >= from && k < to) {
                                                   v[k] = 0;
#pragma unroll
                                                   for (int w = 0; w < WARPS; w++) v[k] += own[w * 3 + k];
                                                 }
  };
  F dw[PACKS][N], db[CENTRE ? PACKS : 1][N];
#pragma unroll
  for (int p = 0; p < PACKS; p++)
#pragma unroll
    for (int j = 0; j < N; j++) dw[p][j] = db[CENTRE ? p : 0][j] = 0;
  for (int64_t base = (int64_t)blockIdx.x * GROUPS; base < a.rows; base += (int64_t)gridDim.x * GROUPS) {
    bool there = base + group < a.rows; /* the others go along to the barriers */
    int64_t at = (there ? base + group : a.rows - 1) * width;
    T *dx = (T *)a.dx + at, *y = (T *)a.y + at;
    row_of<T, N, PACKS, THREADS> x, grad, old;
    x.load((const T *)a.x + at, width, thread);
    grad.load((const T *)a.grad + at, width, thread);
    old.load(dx, a.dx && a.add_x ? width : 0, thread);
    F v[3] = {0, 0, 0}, mean = 0; /* the sums of (x - mean)^2, g w (x - mean), g w */
    if (CENTRE && a.centre) {
      x.each(width, thread, [&](F e) { v[0] += e; });
      sum(v, 0, 1);
      mean = v[0] / (F)width;
      v[0] = 0;
    }
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
      int i = x.first(p, thread);
      if (i >= width) continue;
      F w[N];
      parameters<T, N>(a.w, a.wide, i, 1, w);
#pragma unroll
      for (int j = 0; j < N; j++) {
        F d = x(p, j) - mean, g = kava_times(grad(p, j), w[j]);
        v[0] += d * d;
        v[1] += g * d;
        if (CENTRE) v[2] += g;
      }
    }
    sum(v, 0, CENTRE ? 3 : 2);
    F scale = inverse_root(v[0] / (F)width + (F)a.eps), dot = v[1] * scale / (F)width,
      total = CENTRE && a.centre ? v[2] / (F)width : F(0);
    if (!there) continue;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
      int i = x.first(p, thread);
      if (i >= width) continue;
      F w[N], value[N];
      parameters<T, N>(a.w, a.wide, i, 1, w);
#pragma unroll
      for (int j = 0; j < N; j++) {
        F n = (x(p, j) - mean) * scale, g = grad(p, j);
        dw[p][j] += g * n;
        if (CENTRE) db[p][j] += g;
        value[j] = scale * (kava_times(g, w[j]) - total - n * dot);
        if (a.add_x) value[j] += old(p, j);
      }
      if (a.dx) kava_store<T, N>(dx + i, value);
      if (!a.y) continue;
      parameters<T, N>(a.b, a.wide, i, 0, value);
#pragma unroll
      for (int j = 0; j < N; j++) value[j] = (x(p, j) - mean) * scale * w[j] + value[j];
      kava_store<T, N>(y + i, value);
    }
  }
  if (!partial) return;
  for (int part = 0; part < (CENTRE ? 2 : 1); part++)
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
      __syncthreads();
#pragma unroll
      for (int j = 0; j < N; j++) room[threadIdx.x * N + j] = part ? db[CENTRE ? p : 0][j] : dw[p][j];
      __syncthreads();
      for (int i = threadIdx.x; i < THREADS * N && p * THREADS * N + i < width; i += BLOCK) {
        F whole = 0;
#pragma unroll
        for (int g = 0; g < GROUPS; g++) whole += room[g * THREADS * N + i];
        partial[(int64_t)(2 * blockIdx.x + part) * width + p * THREADS * N + i] = whole;
      }
    }
}
/* Any width, any alignment: a block a row, which is read as often as it takes. */
enum { LONG = 256 };
template <class T> __global__ void __launch_bounds__(LONG) long_norm_kernel(kava_norm_args a) {
  typedef kava_wide<T> F;
  KAVA_SHARED(F, room, LONG / 32);
  const T *x = (const T *)a.x + blockIdx.x * a.width;
  F mean = 0, square = 0;
  for (int64_t i = threadIdx.x; i < a.width && a.centre; i += LONG) mean += kava_widen(x[i]);
  if (a.centre) mean = kava_block_sum<LONG / 32>(mean, room) / (F)a.width;
  for (int64_t i = threadIdx.x; i < a.width; i += LONG) {
    F d = kava_widen(x[i]) - mean;
    square += d * d;
  }
  F scale = inverse_root(kava_block_sum<LONG / 32>(square, room) / (F)a.width + (F)a.eps);
  for (int64_t i = threadIdx.x; i < a.width; i += LONG) {
    F y = (kava_widen(x[i]) - mean) * scale;
    if (a.w) y *= parameter<T>(a.w, a.wide, i);
    if (a.b) y += parameter<T>(a.b, a.wide, i);
    ((T *)a.y)[blockIdx.x * a.width + i] = kava_narrow<T>(y);
  }
}
/* dx, and the rows' statistics for the next kernel */
template <class T> __global__ void __launch_bounds__(LONG) long_norm_grad_kernel(kava_norm_args a, kava_wide<T> *rows) {
  typedef kava_wide<T> F;
  KAVA_SHARED(F, room, LONG / 32);
  int64_t at = blockIdx.x * a.width;
  const T *x = (const T *)a.x + at, *grad = (const T *)a.grad + at;
  F mean = 0, square = 0, total = 0, dot = 0;
  for (int64_t i = threadIdx.x; i < a.width && a.centre; i += LONG) mean += kava_widen(x[i]);
  if (a.centre) mean = kava_block_sum<LONG / 32>(mean, room) / (F)a.width;
  for (int64_t i = threadIdx.x; i < a.width; i += LONG) {
    F d = kava_widen(x[i]) - mean, g = kava_times(kava_widen(grad[i]), a.w ? parameter<T>(a.w, a.wide, i) : F(1));
    square += d * d;
    total += g;
    dot += g * d;
  }
  F scale = inverse_root(kava_block_sum<LONG / 32>(square, room) / (F)a.width + (F)a.eps);
  if (threadIdx.x == 0) rows[2 * blockIdx.x] = mean, rows[2 * blockIdx.x + 1] = scale;
  if (!a.dx) return;
  total = a.centre ? kava_block_sum<LONG / 32>(total, room) / (F)a.width : F(0);
  dot = kava_block_sum<LONG / 32>(dot, room) * scale / (F)a.width;
  for (int64_t i = threadIdx.x; i < a.width; i += LONG) {
    T *to = (T *)a.dx + at + i;
    F g = kava_times(kava_widen(grad[i]), a.w ? parameter<T>(a.w, a.wide, i) : F(1)),
      n = (kava_widen(x[i]) - mean) * scale;
    *to = kava_narrow<T>(scale * (g - total - n * dot) + (a.add_x ? kava_widen(*to) : F(0)));
  }
}
/* dw and db: 8 warps take every eighth row of 32 columns */
template <class T> __global__ void __launch_bounds__(256) long_sums_kernel(kava_norm_args a, const kava_wide<T> *rows) {
  typedef kava_wide<T> F;
  KAVA_SHARED(F, room, 512);
  int64_t column = (int64_t)blockIdx.x * 32 + threadIdx.x % 32;
  F dw = 0, db = 0;
  for (int64_t r = threadIdx.x / 32; r < a.rows && column < a.width; r += 8) {
    F g = kava_widen(((const T *)a.grad)[r * a.width + column]);
    dw += g * (kava_widen(((const T *)a.x)[r * a.width + column]) - rows[2 * r]) * rows[2 * r + 1];
    db += g;
  }
  room[threadIdx.x] = dw, room[256 + threadIdx.x] = db;
  __syncthreads();
  if (threadIdx.x >= 32 || column >= a.width) return;
  for (int l = 1; l < 8; l++) dw += room[32 * l + threadIdx.x], db += room[256 + 32 * l + threadIdx.x];
  if (a.dw) ((F *)a.dw)[column] += dw;
  if (a.db) ((F *)a.db)[column] += db;
}

template <class T, int N, int PACKS, int WARPS> void norm_as(const kava_norm_args &a) {
  constexpr int ROWS = WARPS > 4 ? 1 : 4 / WARPS;
  kava_launch("norm", norm_kernel<T, N, PACKS, WARPS>, (unsigned)((a.rows + ROWS - 1) / ROWS), 32 * WARPS * ROWS, 0, a);
}
template <class T, int N, int PACKS, int WARPS, bool CENTRE> void norm_grad_as(const kava_norm_args &a) {
  typedef kava_wide<T> F;
  constexpr int BLOCK = grad_block(PACKS, WARPS, CENTRE), GROUPS = BLOCK / (32 * WARPS);
  int64_t most = kava_cuda_device()->multiprocessors; /* blocks, of as many registers as there are */
  int64_t groups = (a.rows + GROUPS - 1) / GROUPS, blocks = groups < most ? groups : most;
  F *partial = NULL;
  if (a.dw || a.db) {
    partial = (F *)kava_cuda_scratch((size_t)(blocks * 2 * a.width) * sizeof(F));
    if (!partial) return;
  }
  kava_launch("norm_grad", norm_grad_kernel<T, N, PACKS, WARPS, CENTRE>, (unsigned)blocks, BLOCK, 0, a, partial);
  if (partial) kava_add_parts<F>("norm_grad: sums", partial, blocks, 2 * a.width, a.width, a.dw, a.db, true);
}

/* body(constants PACKS, WARPS) by the width of a row, the same for both ways; false: it does not fit the registers. */
template <int P, int W> struct shape { static constexpr int packs = P, warps = W; };
template <class Body> bool by_width(int64_t packs, Body body) {
  if (packs <= 32) return body(shape<1, 1>()), true; /* a head's queries and keys */
  if (packs <= 64) return body(shape<2, 1>()), true;
  if (packs <= 128) return body(shape<4, 1>()), true;
  if (packs <= 192) return body(shape<6, 1>()), true;
  if (packs <= 512) return body(shape<4, 4>()), true;
  if (packs <= 1024) return body(shape<4, 8>()), true;
  return false;
}
template <class T, class... P> int64_t packs_of(int64_t width, P... buffers) {
  bool packs = width % kava_vector<T>() == 0;
  for (const void *p : {(const void *)buffers...}) packs = packs && kava_aligned(p);
  return packs ? width / kava_vector<T>() : INT64_MAX;
}

template <class T> void norm_typed(const kava_norm_args &a) {
  constexpr int N = kava_vector<T>();
  int64_t packs = packs_of<T>(a.width, a.x, a.y, a.w, a.b);
  bool fits = by_width(packs, [&](auto s) {
    typedef decltype(s) S;
    norm_as<T, N, S::packs, S::warps>(a);
  });
  if (fits) return;
  if (packs <= 2048)
    norm_as<T, N, 4, 16>(a);
  else
    kava_launch("norm, long", long_norm_kernel<T>, (unsigned)a.rows, LONG, 0, a);
}
template <class T> void norm_grad_typed(const kava_norm_args &a) {
  constexpr int N = kava_vector<T>();
  bool fits = by_width(packs_of<T>(a.width, a.x, a.grad, a.dx, a.w, a.b, a.y), [&](auto s) {
    typedef decltype(s) S;
    a.centre || a.db ? norm_grad_as<T, N, S::packs, S::warps, true>(a)
                     : norm_grad_as<T, N, S::packs, S::warps, false>(a);
  });
  if (fits) return;
  kava_wide<T> *rows = (kava_wide<T> *)kava_cuda_scratch((size_t)a.rows * 2 * sizeof *rows);
  if (!rows) return;
  kava_launch("norm_grad, long", long_norm_grad_kernel<T>, (unsigned)a.rows, LONG, 0, a, rows);
  if (a.dw || a.db)
    kava_launch("norm_grad: sums, long", long_sums_kernel<T>, (unsigned)((a.width + 31) / 32), 256, 0, a,
                (const kava_wide<T> *)rows);
  if (a.y) norm_typed<T>(a); /* grad, in whose place it may lie, is read */
}

/* The pass over G, V columns a lane: a block has 32 V of them and a share of the rows, a warp every eighth row of that.
 * partial: [gridDim.y][2][width], the shares' dgamma and dbeta. */
template <class W, class D, int V>
__global__ void __launch_bounds__(256) finish_kernel(kava_norm_linear_args a, int64_t share, kava_wide<W> *partial) {
  typedef kava_wide<W> F;
  constexpr int WIDTH = 32 * V;
  const F *sums = (const F *)a.sums;
  KAVA_SHARED(F, room, 2 * 8 * WIDTH);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t column = (int64_t)blockIdx.x * WIDTH + lane * V, begin = blockIdx.y * share;
  int64_t end = begin + share < a.rows ? begin + share : a.rows;
  F dgamma[V], dbeta[V], gamma[V], beta[V];
#pragma unroll
  for (int j = 0; j < V; j++) dgamma[j] = dbeta[j] = gamma[j] = beta[j] = 0;
  if (column < a.width) {
    kava_load<W, V>((const W *)a.gamma + column, gamma);
    kava_load<W, V>((const W *)a.beta + column, beta);
#pragma unroll 2
    for (int64_t r = begin + warp; r < end; r += 8) {
      int64_t at = r * a.width + column;
      F g[V], w[V], d[V], sum = sums[r];
      kava_load<F, V>((const F *)a.g + at, g);
      kava_load<W, V>((const W *)a.w + at, w);
#pragma unroll
      for (int j = 0; j < V; j++) d[j] = 0;
      if (a.dw && a.add_w) kava_load<D, V>((const D *)a.dw + at, d);
#pragma unroll
      for (int j = 0; j < V; j++) {
        d[j] += g[j] * gamma[j] + sum * beta[j];
        dgamma[j] += w[j] * g[j];
        dbeta[j] += w[j] * sum;
      }
      if (a.dw) kava_store<D, V>((D *)a.dw + at, d);
    }
  }
#pragma unroll
  for (int j = 0; j < V; j++) {
    room[warp * WIDTH + lane * V + j] = dgamma[j];
    room[(8 + warp) * WIDTH + lane * V + j] = dbeta[j];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * WIDTH; i += 256) {
    int64_t to = (int64_t)blockIdx.x * WIDTH + i % WIDTH;
    if (to >= a.width) continue;
    F whole = 0;
    for (int w = 0; w < 8; w++) whole += room[(i / WIDTH * 8 + w) * WIDTH + i % WIDTH];
    partial[(int64_t)(2 * blockIdx.y + i / WIDTH) * a.width + to] = whole;
  }
}
template <class W, class D, int V> kava_status finish_as(const kava_norm_linear_args &a) {
  typedef kava_wide<W> F;
  int64_t tiles = (a.width + 32 * V - 1) / (32 * V);
  int64_t shares = 4 * kava_cuda_device()->multiprocessors / tiles, most = (a.rows + 15) / 16;
  if (shares > most) shares = most;
  if (shares < 1) shares = 1;
  int64_t share = (a.rows + shares - 1) / shares;
  shares = (a.rows + share - 1) / share;
  F *partial = (F *)kava_cuda_scratch((size_t)(shares * 2 * a.width) * sizeof(F));
  if (!partial) return KAVA_MEMORY;
  kava_launch("norm_linear_finish", finish_kernel<W, D, V>, dim3((unsigned)tiles, (unsigned)shares), 256, 0, a, share,
              partial);
  kava_add_parts<F>("norm_linear_finish: sums", partial, shares, 2 * a.width, a.width, a.dgamma, a.dbeta, true);
  return KAVA_OK;
}
template <class W, class D> kava_status finish_typed(const kava_norm_linear_args &a) {
  constexpr int V = kava_vector<kava_wide<W>>();
  bool vectors = a.width % V == 0;
  for (const void *p : {a.g, a.w, a.gamma, a.beta, (const void *)a.dw}) vectors = vectors && kava_aligned(p);
  return vectors ? finish_as<W, D, V>(a) : finish_as<W, D, 1>(a);
}
} // namespace

extern "C" void kava_cuda_norm(const kava_norm_args *a) {
  if (a->rows && a->width && !kava_for_float(a->dtype, [&](auto t) { norm_typed<decltype(t)>(*a); }))
    kava_cuda_unsupported("norm", a->dtype);
}
extern "C" void kava_cuda_norm_grad(const kava_norm_args *a) {
  if (a->rows && a->width && !kava_for_float(a->dtype, [&](auto t) { norm_grad_typed<decltype(t)>(*a); }))
    kava_cuda_unsupported("norm_grad", a->dtype);
}
extern "C" kava_status kava_cuda_norm_linear_finish(const kava_norm_linear_args *a) {
  bool half_w = a->wtype == KAVA_BF16, half_dw = a->dw_dtype == KAVA_BF16;
  if (a->rows == 0 || a->width == 0) return KAVA_OK;
  if (a->dtype == KAVA_F64) return finish_typed<double, double>(*a);
  if (a->dtype != KAVA_F32 || (a->wtype != KAVA_F32 && !half_w) || (a->dw_dtype != KAVA_F32 && !half_dw))
    return kava_cuda_unsupported("norm_linear_finish", a->wtype);
  if (half_w) return half_dw ? finish_typed<kava_bf16, kava_bf16>(*a) : finish_typed<kava_bf16, float>(*a);
  return half_dw ? finish_typed<float, kava_bf16>(*a) : finish_typed<float, float>(*a);
}

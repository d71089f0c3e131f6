/* kernels/cuda/adamw.cu: a step of AdamW over all parameters, and gradient clipping (kernels/args.h,
 * kernels/cpu/adamw.c). Parameters are cut into pieces, a block each; a launch takes up to SPANS parameters, whose
 * descriptions are its arguments: nothing is uploaded, so that a step can be captured. A first small kernel counts the
 * steps and works out the rates; all that changes between steps (lr, counts, the gate) is read from device memory.
 * Nothing returns to the host. Predicted at 3.35 TB/s, 494 M parameters, bf16 with an f32 master and f32 states: read
 * p' m v g, write p' m v p: 30 bytes each, 14.8 GB, 4.4 ms a step; bf16 states: 22 bytes, 3.2 ms. */
#include "kernels/cuda/element.cuh"
#include "kernels/cpu/half.h"

namespace {
enum { THREADS = 256, SPANS = 320, PIECE = 16384, NORM_PIECE = 65536 };

typedef struct span {
  int64_t count;
  void *p, *m, *v;
  const void *g;
  float *master;
  int64_t *step;
  double decay;
  uint32_t number, first; /* first: the number of its first piece */
  uint8_t group, dtype, small, packs;
} span;
typedef struct spans {
  span at[SPANS];
} spans;
typedef struct rates { /* lr < 0 cannot be: the gate is closed */
  double lr, correction1, correction2;
  uint32_t noise, closed;
} rates;

__global__ void __launch_bounds__(SPANS)
    count_kernel(const __grid_constant__ spans all, int count, kava_adamw_args a, rates *to) {
  int i = threadIdx.x;
  if (i >= count) return;
  rates now = {};
  now.closed = a.gate && !(fabs(*a.gate) < INFINITY);
  if (!now.closed) {
    int64_t step = ++*all.at[i].step;
    now.lr = a.lr[all.at[i].group];
    now.correction1 = 1 / (1 - pow(a.beta1, (double)step));
    now.correction2 = 1 / sqrt(1 - pow(a.beta2, (double)step));
    now.noise = all.at[i].number * 0x27d4eb2fu + (uint32_t)step; /* kava_adamw_seed */
  }
  to[i] = now;
}

/* kava_adamw_noise */
__device__ __forceinline__ uint32_t noise(uint32_t seed, uint32_t i) {
  uint32_t h = seed ^ (i * 0x9E3779B9u);
  h = (h ^ h >> 16) * 0x85EBCA6Bu;
  h = (h ^ h >> 13) * 0xC2B2AE35u;
  return (h ^ h >> 16) & 0xffff;
}

template <class F> struct rule { /* of one element */
  F keep, rest1, beta2, rest2, rate, correction2, eps;
  __device__ __forceinline__ void operator()(F &p, F &m, F &v, F g) const {
    m += rest1 * (g - m);
    v = beta2 * v + rest2 * g * g;
    p = p * keep - rate * m / ((F)sqrt(v) * correction2 + eps);
  }
};
template <class F>
__device__ __forceinline__ rule<F> rule_of(const kava_adamw_args &a, const span &s, const rates &now) {
  return {(F)(1 - now.lr * s.decay),     (F)(1 - a.beta1),   (F)a.beta2, (F)(1 - a.beta2),
          (F)(now.lr * now.correction1), (F)now.correction2, (F)a.eps};
}

/* N elements from i on */
template <int N>
__device__ __forceinline__ void step(const span &s, const rule<float> &next, uint32_t seed, int64_t i) {
  float p[N], m[N], v[N], g[N];
  kava_load<float, N>((const float *)s.g + i, g);
  if (s.small) {
    kava_load<kava_bf16, N>((const kava_bf16 *)s.m + i, m);
    kava_load<kava_bf16, N>((const kava_bf16 *)s.v + i, v);
  } else {
    kava_load<float, N>((const float *)s.m + i, m);
    kava_load<float, N>((const float *)s.v + i, v);
  }
  float *values = s.master ? s.master : (float *)s.p;
  kava_load<float, N>(values + i, p);
#pragma unroll
  for (int j = 0; j < N; j++) next(p[j], m[j], v[j], g[j]);
  kava_store<float, N>(values + i, p);
  if (s.small) {
    kava_store<kava_bf16, N>((kava_bf16 *)s.m + i, m);
#pragma unroll
    for (int j = 0; j < N; j++) /* what is stored has no low bits left to round */
      if (fabsf(v[j]) < INFINITY)
        v[j] = __uint_as_float((__float_as_uint(v[j]) + noise(seed, (uint32_t)(i + j))) & 0xffff0000u);
    kava_store<kava_bf16, N>((kava_bf16 *)s.v + i, v);
  } else {
    kava_store<float, N>((float *)s.m + i, m);
    kava_store<float, N>((float *)s.v + i, v);
  }
  if (s.dtype == KAVA_BF16) kava_store<kava_bf16, N>((kava_bf16 *)s.p + i, p);
  if (s.dtype == KAVA_F16) kava_store<kava_f16, N>((kava_f16 *)s.p + i, p);
}

__global__ void __launch_bounds__(THREADS)
    adamw_kernel(const __grid_constant__ spans all, int count, kava_adamw_args a, const rates *given) {
  int low = 0, high = count - 1; /* the last span whose first piece is not behind this one */
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (all.at[middle].first <= blockIdx.x)
      low = middle;
    else
      high = middle - 1;
  }
  const span s = all.at[low];
  const rates now = given[low];
  if (now.closed) return;
  int64_t from = (int64_t)(blockIdx.x - s.first) * PIECE, to = from + PIECE < s.count ? from + PIECE : s.count;
  if (s.dtype == KAVA_F64) {
    rule<double> next = rule_of<double>(a, s, now);
    for (int64_t i = from + threadIdx.x; i < to; i += THREADS)
      next(((double *)s.p)[i], ((double *)s.m)[i], ((double *)s.v)[i], ((const double *)s.g)[i]);
    return;
  }
  rule<float> next = rule_of<float>(a, s, now);
  int64_t packs = s.packs ? (to - from) / 4 : 0;
  for (int64_t i = threadIdx.x; i < packs; i += THREADS) step<4>(s, next, now.noise, from + 4 * i);
  for (int64_t i = from + 4 * packs + threadIdx.x; i < to; i += THREADS) step<1>(s, next, now.noise, i);
}

/* Buffers that one kernel goes over, cut into pieces. */
typedef struct buffer {
  void *data;
  int64_t count;
  uint32_t first;
  int dtype;
} buffer;
typedef struct buffers {
  buffer at[SPANS];
} buffers;
__device__ __forceinline__ int buffer_of(const buffers &all, int count) {
  int low = 0, high = count - 1;
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (all.at[middle].first <= blockIdx.x)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}
__device__ __forceinline__ double number_at(const buffer &b, int64_t i) {
  switch (b.dtype) {
  case KAVA_F64: return ((const double *)b.data)[i];
  case KAVA_F32: return (double)((const float *)b.data)[i];
  case KAVA_F16: return (double)kava_widen(((const kava_f16 *)b.data)[i]);
  default: return (double)kava_widen(((const kava_bf16 *)b.data)[i]);
  }
}
__global__ void __launch_bounds__(THREADS)
    squares_kernel(const __grid_constant__ buffers all, int count, double *sums) {
  KAVA_SHARED(double, room, THREADS / 32);
  const buffer b = all.at[buffer_of(all, count)];
  int64_t from = (int64_t)(blockIdx.x - b.first) * NORM_PIECE,
          to = from + NORM_PIECE < b.count ? from + NORM_PIECE : b.count;
  double sum = 0;
  int64_t i = from + threadIdx.x;
  if (b.dtype == KAVA_F32 &&
      (reinterpret_cast<uintptr_t>(b.data) % 16) == 0) { /* pieces begin at multiples of 16 bytes */
    for (int64_t k = from + 4 * threadIdx.x; k + 4 <= to; k += 4 * THREADS) {
      float v[4];
      kava_load<float, 4>((const float *)b.data + k, v);
#pragma unroll
      for (int j = 0; j < 4; j++) sum += (double)v[j] * (double)v[j];
    }
    i = from + (to - from) / 4 * 4 + threadIdx.x;
  }
  for (; i < to; i += THREADS) {
    double v = number_at(b, i);
    sum += v * v;
  }
  sum = kava_block_sum<THREADS / 32>(sum, room);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
__global__ void __launch_bounds__(1024) norm_kernel(const double *sums, int64_t pieces, double max_norm, double *norm) {
  KAVA_SHARED(double, room, 32);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < pieces; i += 1024) sum += sums[i];
  sum = sqrt(kava_block_sum<32>(sum, room));
  if (threadIdx.x) return;
  norm[0] = sum;
  norm[1] = sum < INFINITY && sum > max_norm ? max_norm / (sum + 1e-6) : 1;
}
__global__ void __launch_bounds__(THREADS)
    rescale_kernel(const __grid_constant__ buffers all, int count, kava_dtype type, const void *factor) {
  double by = type == KAVA_F64 ? *(const double *)factor : (double)*(const float *)factor;
  if (by == 1) return;
  const buffer b = all.at[buffer_of(all, count)];
  int64_t from = (int64_t)(blockIdx.x - b.first) * NORM_PIECE,
          to = from + NORM_PIECE < b.count ? from + NORM_PIECE : b.count;
  for (int64_t i = from + threadIdx.x; i < to; i += THREADS) switch (b.dtype) {
    case KAVA_F64: ((double *)b.data)[i] *= by; break;
    case KAVA_F32: ((float *)b.data)[i] *= (float)by; break;
    case KAVA_F16: ((kava_f16 *)b.data)[i] = kava_narrow<kava_f16>((float)(number_at(b, i) * by)); break;
    default: ((kava_bf16 *)b.data)[i] = kava_narrow<kava_bf16>((float)(number_at(b, i) * by));
    }
}
/* body(buffers, how many, pieces) for each lot of arrays that are not empty; false: one is of a type there is no code
 * for */
template <class Body> bool in_lots(const char *name, const kava_array *arrays, int64_t count, Body body) {
  buffers all = {};
  int held = 0;
  uint32_t pieces = 0;
  for (int64_t i = 0; i <= count; i++) {
    if (held == SPANS || (i == count && held)) {
      body(all, held, pieces);
      held = 0, pieces = 0;
    }
    if (i == count || arrays[i].count == 0) continue;
    if (!kava_dtype_is_float(arrays[i].dtype)) {
      kava_cuda_unsupported(name, arrays[i].dtype);
      return false;
    }
    all.at[held++] = {arrays[i].data, arrays[i].count, pieces, (int)arrays[i].dtype};
    pieces += (uint32_t)((arrays[i].count + NORM_PIECE - 1) / NORM_PIECE);
  }
  return true;
}
} // namespace

extern "C" void kava_cuda_adamw(const kava_adamw_args *a) {
  kava_adamw_args bare = *a; /* the spans lie on the host */
  bare.spans = NULL;
  for (int64_t done = 0; done < a->count;) {
    spans all = {};
    int held = 0;
    uint32_t pieces = 0;
    for (; done < a->count && held < SPANS; done++, held++) {
      const kava_adamw_span &s = a->spans[done];
      bool small = s.state_dtype == KAVA_BF16;
      bool packs =
          kava_aligned(s.p) && kava_aligned(s.m) && kava_aligned(s.v) && kava_aligned(s.g) && kava_aligned(s.master);
      if (!kava_dtype_is_float(s.dtype)) {
        kava_cuda_unsupported("adamw", s.dtype);
        return;
      }
      all.at[held] = {
          s.count,          s.p,   s.m,  s.v, s.g, s.master, s.step, s.decay, s.number, pieces, (uint8_t)s.group,
          (uint8_t)s.dtype, small, packs};
      pieces += (uint32_t)((s.count + PIECE - 1) / PIECE);
    }
    rates *now = (rates *)kava_cuda_scratch(sizeof(rates) * SPANS);
    if (!now) return;
    kava_launch("adamw: rates", count_kernel, 1, SPANS, 0, all, held, bare, now);
    if (pieces) kava_launch("adamw", adamw_kernel, pieces, THREADS, 0, all, held, bare, (const rates *)now);
  }
}

extern "C" kava_status kava_cuda_gradient_norm(const kava_array *arrays, int64_t count, double max_norm, double *norm) {
  int64_t pieces = 0, before = 0;
  for (int64_t i = 0; i < count; i++) pieces += (arrays[i].count + NORM_PIECE - 1) / NORM_PIECE;
  double *sums = (double *)kava_cuda_scratch((size_t)(pieces + 1) * sizeof(double));
  if (!sums) return KAVA_MEMORY;
  bool done = in_lots("gradient_norm", arrays, count, [&](const buffers &all, int held, uint32_t blocks) {
    kava_launch("gradient_norm: squares", squares_kernel, blocks, THREADS, 0, all, held, sums + before);
    before += blocks;
  });
  if (!done) return KAVA_UNSUPPORTED;
  kava_launch("gradient_norm", norm_kernel, 1, 1024, 0, (const double *)sums, pieces, max_norm, norm);
  return KAVA_OK;
}

extern "C" void kava_cuda_rescale(const kava_array *arrays, int64_t count, kava_dtype type, const void *factor) {
  in_lots("rescale", arrays, count, [&](const buffers &all, int held, uint32_t blocks) {
    kava_launch("rescale", rescale_kernel, blocks, THREADS, 0, all, held, type, factor);
  });
}

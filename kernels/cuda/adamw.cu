/* kernels/cuda/adamw.cu: a step of AdamW over all parameters, and gradient clipping (kernels/args.h,
 * kernels/cpu/adamw.c). Parameters are cut into pieces, a block each; a launch takes up to SPANS parameters, whose
 * descriptions are its arguments: nothing is uploaded, so that a step can be captured. A first small kernel counts the
 * steps and works out the rates; all that changes between steps (lr, counts, the gate) is read from device memory.
 * Nothing returns to the host. A thread takes EACH elements, so a warp what one block of coded states is.
 *
 * A whole block's loads are all under way before any is taken apart: what may be a part is other code. Beside states of
 * bf16 or codes root and quotient are the machine's own, to two units of the last place; beside f32 they are exact.
 *
 * Bytes an element of a bf16 parameter, read and written: itself and its low half 8, an f32 gradient 4, a bf16 one 2,
 * states in f32 16, in bf16 8, as codes 4. Predicted at 2.8 TB/s (what a step with 30 bytes reached on an H100), 552 M
 * parameters, gradients in bf16: 26 bytes, 5.1 ms; bf16 states 18, 3.5 ms; codes 14, 2.8 ms. */
#include "kernels/cuda/element.cuh"
#include "kernels/cpu/half.h"

namespace {
enum { THREADS = 256, SPANS = 312, PIECE = 16384, NORM_PIECE = 65536, EACH = 8 };
static_assert(32 * EACH == KAVA_MOMENT_BLOCK && PIECE % KAVA_MOMENT_BLOCK == 0, "a warp takes a block of codes");

typedef struct span {
  int64_t count;
  void *p, *m, *v;
  const void *g;
  void *master;
  float *most;
  int64_t *step;
  double decay;
  const int32_t *slots;
  int64_t width;
  uint32_t number, first; /* first: the number of its first piece */
  uint8_t group, dtype, state, grad;
  bool packs; /* EACH elements lie where one access reaches them, those of a gradient in one row */
} span;
typedef struct spans {
  span at[SPANS];
} spans;
typedef struct rates { /* lr < 0 cannot be: the gate is closed */
  double lr, correction1, correction2;
  uint32_t noise, closed;
} rates;

__global__ void __launch_bounds__(SPANS + 31)
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
  return h ^ h >> 16;
}

template <class F> struct rule { /* of one element; ROUGH: beside states of 8 bits a number and less after the point */
  F keep, rest1, beta2, rest2, rate, correction2, eps;
  template <bool ROUGH> __device__ __forceinline__ void take(F &p, F &m, F &v, F g) const {
    m += rest1 * (g - m);
    v = beta2 * v + rest2 * g * g;
    if (ROUGH)
      p = p * keep - rate * kava_ratio(m, kava_root(v) * correction2 + eps);
    else
      p = p * keep - rate * m / ((F)sqrt(v) * correction2 + eps);
  }
};
template <class F>
__device__ __forceinline__ rule<F> rule_of(const kava_adamw_args &a, const span &s, const rates &now) {
  return {(F)(1 - now.lr * s.decay),     (F)(1 - a.beta1),   (F)a.beta2, (F)(1 - a.beta2),
          (F)(now.lr * now.correction1), (F)now.correction2, (F)a.eps};
}

/* EACH elements of T in registers as they lie in memory: taken apart only where they are used, so that all that a
 * thread loads is under way together. */
template <class T> struct alignas(EACH * sizeof(T) < 16 ? EACH * sizeof(T) : 16) eight {
  uint32_t at[EACH * sizeof(T) / 4];
  __device__ __forceinline__ float operator[](int j) const {
    if (sizeof(T) == 4) return __uint_as_float(at[j]); /* f32, or bf16: no other states and gradients are there */
    return __uint_as_float(j % 2 ? at[j / 2] & 0xffff0000u : at[j / 2] << 16);
  }
};

/* WHOLE: all of EACH elements, in one access of 16 bytes or two; else the first n. */
template <class T, bool WHOLE> __device__ __forceinline__ eight<T> take(const void *from, int64_t i, int n) {
  const T *at = (const T *)from + i;
  if (WHOLE) return *reinterpret_cast<const eight<T> *>(at);
  kava_pack<T, EACH> x = {};
#pragma unroll
  for (int j = 0; j < EACH; j++)
    if (j < n) x.at[j] = at[j];
  eight<T> all;
  memcpy(&all, &x, sizeof all);
  return all;
}
template <class T, bool WHOLE> __device__ __forceinline__ void give(void *to, int64_t i, int n, const eight<T> &all) {
  T *at = (T *)to + i;
  if (WHOLE) {
    *reinterpret_cast<eight<T> *>(at) = all;
    return;
  }
  kava_pack<T, EACH> x;
  memcpy(&x, &all, sizeof x);
#pragma unroll
  for (int j = 0; j < EACH; j++)
    if (j < n) at[j] = x.at[j];
}

/* Gradients of which only some rows are there. */
template <class G, bool WHOLE> __device__ __forceinline__ eight<G> take_rows(const span &s, int64_t i, int n) {
  int64_t row = s.count >> 32 ? i / s.width : (int64_t)((uint32_t)i / (uint32_t)s.width), column = i - row * s.width;
  eight<G> all = {};
  if (WHOLE) { /* all of one row */
    int32_t slot = s.slots[row];
    if (slot >= 0) all = take<G, true>(s.g, slot * s.width + column, n);
    return all;
  }
  kava_pack<G, EACH> x = {};
#pragma unroll
  for (int j = 0; j < EACH; j++) {
    if (j >= n) break;
    int32_t slot = s.slots[row];
    if (slot >= 0) x.at[j] = ((const G *)s.g)[slot * s.width + column];
    if (++column == s.width) column = 0, row++;
  }
  memcpy(&all, &x, sizeof all);
  return all;
}

/* The low halves of two words, and the high ones. */
__device__ __forceinline__ uint32_t lows(uint32_t x, uint32_t y) { return (x & 0xffffu) | y << 16; }
__device__ __forceinline__ uint32_t highs(uint32_t x, uint32_t y) { return x >> 16 | (y & 0xffff0000u); }

/* How states are kept: loaded before anything is computed, stored after. kernels/cpu/adamw.h has the same for a CPU. */
template <class T> struct plain_states {
  static constexpr bool rough = sizeof(T) == 2;
  eight<T> m, v;
  template <bool WHOLE> __device__ __forceinline__ void load(const span &s, int64_t i, int n) {
    m = take<T, WHOLE>(s.m, i, n), v = take<T, WHOLE>(s.v, i, n);
  }
  __device__ __forceinline__ void ready() {}
  __device__ __forceinline__ float first(int j) const { return m[j]; }
  __device__ __forceinline__ float second(int j) const { return v[j]; }
  template <bool WHOLE>
  __device__ __forceinline__ void store(const span &s, int64_t i, int n, uint32_t seed, const float (&first)[EACH],
                                        const float (&second)[EACH]) {
    if (sizeof(T) == 4)
#pragma unroll
      for (int j = 0; j < EACH; j++) m.at[j] = __float_as_uint(first[j]), v.at[j] = __float_as_uint(second[j]);
    else
#pragma unroll
      for (int j = 0; j < EACH; j += 2) {
        uint32_t bits[2];
#pragma unroll
        for (int k = 0; k < 2; k++) {
          float x = second[j + k];
          bits[k] = __float_as_uint(x);
          if (x < INFINITY) bits[k] += noise(seed, (uint32_t)(i + j + k)) & 0xffffu;
          if (x != x) bits[k] = 0x7fc00000u;
        }
        m.at[j / 2] = kava_pair<kava_bf16>(first[j], first[j + 1]), v.at[j / 2] = highs(bits[0], bits[1]);
      }
    give<T, WHOLE>(s.m, i, n, m), give<T, WHOLE>(s.v, i, n, v);
  }
};

/* Codes and numbers: with c's bits as those of an f32 from bit 20 on, c = 1 is 2^-129, the least exponent that has all
 * three bits after the point is that of f32's own, and what f32 does below it is what codes below 8 do. So a product
 * with a power of two is all that lies between them, and 20 bits of a fraction of a code are there for rounding. */
#define CODE_DOWN 0x1p-129f
#define CODE_UP 0x1p+126f /* and 8 more: 2^129 is none */
/* y: times CODE_DOWN */
__device__ __forceinline__ uint32_t coded(float y, uint32_t noise20, uint32_t most) {
  uint32_t c = (__float_as_uint(y) + noise20) >> 20;
  return c < most ? c : most;
}
struct coded_states {
  static constexpr bool rough = true;
  eight<uint8_t> m, v;
  float most_m, most_v; /* the warp's */
  float unit_m, unit_v; /* a code's, an eighth */
  float *at;
  int64_t blocks;
  template <bool WHOLE> __device__ __forceinline__ void load(const span &s, int64_t i, int n) {
    m = take<uint8_t, WHOLE>(s.m, i, n), v = take<uint8_t, WHOLE>(s.v, i, n);
    at = s.most + i / KAVA_MOMENT_BLOCK;
    blocks = (s.count + KAVA_MOMENT_BLOCK - 1) / KAVA_MOMENT_BLOCK;
    most_m = most_v = 0;
    if (WHOLE || n > 0) most_m = at[0], most_v = at[blocks];
  }
  __device__ __forceinline__ void ready() {
    unit_m = 8 / KAVA_MOMENT_TOP_M * most_m, unit_v = 8 / KAVA_MOMENT_TOP_V * most_v;
  }
  __device__ __forceinline__ float first(int j) const {
    uint32_t word = m.at[j / 4], code = (j % 4 == 3 ? word >> 4 : word << (20 - j % 4 * 8)) & 0x07f00000u;
    return __uint_as_float(code | (word << (24 - j % 4 * 8) & 0x80000000u)) * CODE_UP * unit_m;
  }
  __device__ __forceinline__ float second(int j) const {
    uint32_t word = v.at[j / 4], code = (j % 4 == 3 ? word >> 4 : word << (20 - j % 4 * 8)) & 0x0ff00000u;
    return __uint_as_float(code) * CODE_UP * unit_v;
  }
  template <bool WHOLE>
  __device__ __forceinline__ void store(const span &s, int64_t i, int n, uint32_t seed, const float (&first)[EACH],
                                        const float (&second)[EACH]) {
    uint32_t bits_m = 0, bits_v = 0; /* infinities and NaN are the largest */
#pragma unroll
    for (int j = 0; j < EACH; j++)
      if (WHOLE || j < n) {
        uint32_t x = __float_as_uint(first[j]) & 0x7fffffffu, y = __float_as_uint(second[j]) & 0x7fffffffu;
        bits_m = x > bits_m ? x : bits_m, bits_v = y > bits_v ? y : bits_v;
      }
    most_m = __uint_as_float(kava_warp_most(bits_m)), most_v = __uint_as_float(kava_warp_most(bits_v));
    float by_m = most_m < 0x1p-126f ? 0 : 1 / most_m, by_v = most_v < 0x1p-126f ? 0 : 1 / most_v;
#pragma unroll
    for (int w = 0; w < EACH / 4; w++) {
      m.at[w] = v.at[w] = 0;
#pragma unroll
      for (int k = 0; k < 4; k++) {
        int j = 4 * w + k;
        uint32_t bits = noise(seed, (uint32_t)(i + j)), c;
        float x = first[j] * by_m, y = second[j] * by_v;
        c = coded(fabsf(x) * (KAVA_MOMENT_TOP_M * CODE_DOWN), bits >> 12 & 0xffff0u, 127);
        m.at[w] |= (c | (__float_as_uint(x) >> 24 & 128u)) << 8 * k;
        c = coded(y * (KAVA_MOMENT_TOP_V * CODE_DOWN), (bits & 0xffffu) << 4, 255);
        v.at[w] |= (c == 0 && y > 0 ? 1 : c) << 8 * k;
      }
    }
    if (!WHOLE && n <= 0) return;
    give<uint8_t, WHOLE>(s.m, i, n, m), give<uint8_t, WHOLE>(s.v, i, n, v);
    if (threadIdx.x % 32 == 0) at[0] = most_m, at[blocks] = most_v;
  }
};

/* How values are kept. */
struct plain_values {
  eight<float> p;
  template <bool WHOLE> __device__ __forceinline__ void load(const span &s, int64_t i, int n) {
    p = take<float, WHOLE>(s.p, i, n);
  }
  __device__ __forceinline__ float value(int j) const { return p[j]; }
  template <bool WHOLE>
  __device__ __forceinline__ void store(const span &s, int64_t i, int n, const float (&value)[EACH]) {
#pragma unroll
    for (int j = 0; j < EACH; j++) p.at[j] = __float_as_uint(value[j]);
    give<float, WHOLE>(s.p, i, n, p);
  }
};
struct f16_values { /* beside a master in f32 */
  eight<float> p;
  template <bool WHOLE> __device__ __forceinline__ void load(const span &s, int64_t i, int n) {
    p = take<float, WHOLE>(s.master, i, n);
  }
  __device__ __forceinline__ float value(int j) const { return p[j]; }
  template <bool WHOLE>
  __device__ __forceinline__ void store(const span &s, int64_t i, int n, const float (&value)[EACH]) {
    eight<kava_f16> half;
#pragma unroll
    for (int j = 0; j < EACH; j += 2) {
      p.at[j] = __float_as_uint(value[j]), p.at[j + 1] = __float_as_uint(value[j + 1]);
      half.at[j / 2] = kava_pair<kava_f16>(value[j], value[j + 1]);
    }
    give<float, WHOLE>(s.master, i, n, p), give<kava_f16, WHOLE>(s.p, i, n, half);
  }
};
struct bf16_values { /* the high half; the low one, signed, beside it */
  eight<uint16_t> high, low;
  template <bool WHOLE> __device__ __forceinline__ void load(const span &s, int64_t i, int n) {
    high = take<uint16_t, WHOLE>(s.p, i, n), low = take<uint16_t, WHOLE>(s.master, i, n);
  }
  __device__ __forceinline__ float value(int j) const {
    uint32_t rest = j % 2 ? (uint32_t)((int32_t)low.at[j / 2] >> 16) : (uint32_t)(int32_t)(int16_t)low.at[j / 2];
    return __uint_as_float(__float_as_uint(high[j]) + rest);
  }
  template <bool WHOLE>
  __device__ __forceinline__ void store(const span &s, int64_t i, int n, const float (&value)[EACH]) {
#pragma unroll
    for (int j = 0; j < EACH; j += 2) {
      uint32_t bits[2];
#pragma unroll
      for (int k = 0; k < 2; k++) {
        bits[k] = __float_as_uint(value[j + k]);
        if ((bits[k] & 0x7fffffffu) > 0x7f800000u) bits[k] = (bits[k] & 0xffff0000u) | 0x400000u;
      }
      high.at[j / 2] = highs(bits[0] + 0x8000u, bits[1] + 0x8000u), low.at[j / 2] = lows(bits[0], bits[1]);
    }
    give<uint16_t, WHOLE>(s.p, i, n, high), give<uint16_t, WHOLE>(s.master, i, n, low);
  }
};

template <class Values, class States, class G, bool WHOLE>
__device__ __forceinline__ void step(const span &s, const rule<float> &next, uint32_t seed, int64_t i, int n) {
  Values values;
  States states;
  values.template load<WHOLE>(s, i, n);
  states.template load<WHOLE>(s, i, n);
  eight<G> g = s.slots ? take_rows<G, WHOLE>(s, i, n) : take<G, WHOLE>(s.g, i, n);
  float value[EACH], first[EACH], second[EACH];
  states.ready();
#pragma unroll
  for (int j = 0; j < EACH; j++) {
    value[j] = values.value(j), first[j] = states.first(j), second[j] = states.second(j);
    next.template take<States::rough>(value[j], first[j], second[j], g[j]);
  }
  values.template store<WHOLE>(s, i, n, value);
  states.template store<WHOLE>(s, i, n, seed, first, second);
}

/* The elements [from, to) of a span: a warp takes 32 EACH of them together, to the end. */
template <class Values, class States, class G>
__device__ __forceinline__ void steps(const span &s, const rule<float> &next, uint32_t seed, int64_t from, int64_t to) {
  for (int64_t base = from + threadIdx.x / 32 * 32 * EACH; base < to; base += THREADS * EACH) {
    int64_t i = base + threadIdx.x % 32 * EACH;
    if (s.packs && base + 32 * EACH <= to)
      step<Values, States, G, true>(s, next, seed, i, EACH);
    else
      step<Values, States, G, false>(s, next, seed, i, to - i < EACH ? to > i ? (int)(to - i) : 0 : EACH);
  }
}
template <class Values, class G>
__device__ __forceinline__ void steps_of(const span &s, const rule<float> &next, uint32_t seed, int64_t from,
                                         int64_t to) {
  if (s.state == KAVA_U8)
    steps<Values, coded_states, G>(s, next, seed, from, to);
  else if (s.state == KAVA_BF16)
    steps<Values, plain_states<kava_bf16>, G>(s, next, seed, from, to);
  else
    steps<Values, plain_states<float>, G>(s, next, seed, from, to);
}
template <class G>
__device__ __forceinline__ void steps_from(const span &s, const rule<float> &next, uint32_t seed, int64_t from,
                                           int64_t to) {
  if (s.dtype == KAVA_BF16)
    steps_of<bf16_values, G>(s, next, seed, from, to);
  else if (s.dtype == KAVA_F16)
    steps_of<f16_values, G>(s, next, seed, from, to);
  else
    steps_of<plain_values, G>(s, next, seed, from, to);
}

__global__ void __launch_bounds__(THREADS, 3)
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
      next.take<false>(((double *)s.p)[i], ((double *)s.m)[i], ((double *)s.v)[i], ((const double *)s.g)[i]);
    return;
  }
  rule<float> next = rule_of<float>(a, s, now);
  if (s.grad == KAVA_BF16)
    steps_from<kava_bf16>(s, next, now.noise, from, to);
  else
    steps_from<float>(s, next, now.noise, from, to);
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
  if (reinterpret_cast<uintptr_t>(b.data) % 16 == 0) { /* pieces begin at multiples of 16 bytes */
    auto packs = [&](auto t) {
      typedef decltype(t) T;
      constexpr int N = kava_vector<T>();
      for (int64_t k = from + N * threadIdx.x; k + N <= to; k += N * THREADS) {
        float v[N];
        kava_load<T, N>((const T *)b.data + k, v);
#pragma unroll
        for (int j = 0; j < N; j++) sum += (double)v[j] * (double)v[j];
      }
      i = from + (to - from) / N * N + threadIdx.x;
    };
    if (b.dtype == KAVA_F32) packs(float());
    if (b.dtype == KAVA_BF16) packs(kava_bf16());
  }
  for (; i < to; i += THREADS) {
    double v = number_at(b, i);
    sum += v * v;
  }
  sum = kava_block_sum<THREADS / 32>(sum, room);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
__global__ void __launch_bounds__(1024)
    norm_kernel(const double *sums, int64_t pieces, double max_norm, const float *scale, double *norm) {
  KAVA_SHARED(double, room, 32);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < pieces; i += 1024) sum += sums[i];
  sum = sqrt(kava_block_sum<32>(sum, room));
  if (threadIdx.x) return;
  double by = scale ? *scale : 1;
  norm[0] = sum = sum / by;
  norm[1] = sum < INFINITY ? (sum > max_norm ? max_norm / (sum + 1e-6) : 1) / by : 1;
}
__global__ void __launch_bounds__(THREADS)
    rescale_kernel(const __grid_constant__ buffers all, int count, kava_dtype type, const void *factor) {
  double by = type == KAVA_F64 ? *(const double *)factor : (double)*(const float *)factor;
  if (by == 1) return;
  const buffer b = all.at[buffer_of(all, count)];
  int64_t from = (int64_t)(blockIdx.x - b.first) * NORM_PIECE,
          to = from + NORM_PIECE < b.count ? from + NORM_PIECE : b.count;
  int64_t i = from + threadIdx.x;
  if (reinterpret_cast<uintptr_t>(b.data) % 16 == 0) {
    auto packs = [&](auto t) {
      typedef decltype(t) T;
      constexpr int N = kava_vector<T>();
      for (int64_t k = from + N * threadIdx.x; k + N <= to; k += N * THREADS) {
        float v[N];
        kava_load<T, N>((const T *)b.data + k, v);
#pragma unroll
        for (int j = 0; j < N; j++) v[j] = sizeof(T) == 2 ? (float)((double)v[j] * by) : v[j] * (float)by;
        kava_store<T, N>((T *)b.data + k, v);
      }
      i = from + (to - from) / N * N + threadIdx.x;
    };
    if (b.dtype == KAVA_F32) packs(float());
    if (b.dtype == KAVA_BF16) packs(kava_bf16());
  }
  for (; i < to; i += THREADS) switch (b.dtype) {
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

/* At a multiple of EACH floats; NULL is. */
static bool in_line(const void *p) { return reinterpret_cast<uintptr_t>(p) % (EACH * sizeof(float)) == 0; }

extern "C" void kava_cuda_adamw(const kava_adamw_args *a) {
  kava_adamw_args bare = *a; /* the spans lie on the host */
  bare.spans = NULL;
  for (int64_t done = 0; done < a->count;) {
    spans all = {};
    int held = 0;
    uint32_t pieces = 0;
    for (; done < a->count && held < SPANS; done++, held++) {
      const kava_adamw_span &s = a->spans[done];
      if (!kava_dtype_is_float(s.dtype)) {
        kava_cuda_unsupported("adamw", s.dtype);
        return;
      }
      bool packs = in_line(s.p) && in_line(s.m) && in_line(s.v) && in_line(s.g) && in_line(s.master) &&
                   (!s.slots || s.width % EACH == 0);
      all.at[held] = {s.count,
                      s.p,
                      s.m,
                      s.v,
                      s.g,
                      s.master,
                      s.most,
                      s.step,
                      s.decay,
                      s.slots,
                      s.width,
                      s.number,
                      pieces,
                      (uint8_t)s.group,
                      (uint8_t)s.dtype,
                      (uint8_t)s.state_dtype,
                      (uint8_t)s.grad_dtype,
                      packs};
      pieces += (uint32_t)((s.count + PIECE - 1) / PIECE);
    }
    rates *now = (rates *)kava_cuda_scratch(sizeof(rates) * SPANS);
    if (!now) return;
    kava_launch("adamw: rates", count_kernel, 1, (SPANS + 31) / 32 * 32, 0, all, held, bare, now);
    if (pieces) kava_launch("adamw", adamw_kernel, pieces, THREADS, 0, all, held, bare, (const rates *)now);
  }
}

extern "C" kava_status kava_cuda_gradient_norm(const kava_array *arrays, int64_t count, double max_norm,
                                               const float *scale, double *norm) {
  int64_t pieces = 0, before = 0;
  for (int64_t i = 0; i < count; i++) pieces += (arrays[i].count + NORM_PIECE - 1) / NORM_PIECE;
  double *sums = (double *)kava_cuda_scratch((size_t)(pieces + 1) * sizeof(double));
  if (!sums) return KAVA_MEMORY;
  bool done = in_lots("gradient_norm", arrays, count, [&](const buffers &all, int held, uint32_t blocks) {
    kava_launch("gradient_norm: squares", squares_kernel, blocks, THREADS, 0, all, held, sums + before);
    before += blocks;
  });
  if (!done) return KAVA_UNSUPPORTED;
  kava_launch("gradient_norm", norm_kernel, 1, 1024, 0, (const double *)sums, pieces, max_norm, scale, norm);
  return KAVA_OK;
}

extern "C" void kava_cuda_rescale(const kava_array *arrays, int64_t count, kava_dtype type, const void *factor) {
  in_lots("rescale", arrays, count, [&](const buffers &all, int held, uint32_t blocks) {
    kava_launch("rescale", rescale_kernel, blocks, THREADS, 0, all, held, type, factor);
  });
}

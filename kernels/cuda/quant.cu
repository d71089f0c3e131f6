/* kernels/cuda/quant.cu: quantised weights widened (quant.cuh), a whole matrix in one launch, and made: the same codes,
 * to the bit, as kernels/cpu/quant.c gives. A thread takes eight neighbours.
 * Predicted at 3.35 TB/s, 1.5 G elements: widened to bf16, nf4 reads 0.8 GB and writes 3.1 GB, 1.2 ms; encoded from
 * bf16, whose second reading comes from L1, 3.9 GB to nf4, 1.2 ms, 4.6 GB to int8 or fp8, 1.4 ms. */
#include "kernels/cuda/quant.cuh"
#include <float.h>
#include <string.h>

namespace {
enum { THREADS = 256 };

/* TYPE: the type where it is a frequent one whose scales go by eights, so that nothing else's code is in its way; -1:
 * any. */
template <class T, int TYPE>
__global__ void __launch_bounds__(THREADS)
    widen_kernel(kava_dtype any, const uint8_t *src, const __grid_constant__ kava_table16 values, bool scaled,
                 bool by_eights, kava_scaling scaling, int64_t row, int64_t column, int64_t columns, T *dst,
                 int64_t count) {
  KAVA_SHARED(float, table, 16);
  const kava_dtype type = TYPE < 0 ? any : (kava_dtype)TYPE;
  if (threadIdx.x < 16) table[threadIdx.x] = values.at[threadIdx.x];
  __syncthreads();
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < (count + 7) / 8;
       i += (int64_t)gridDim.x * THREADS) {
    float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    int n = count - 8 * i < 8 ? (int)(count - 8 * i) : 8;
    kava_widen8(type, src, i, n, table, v);
    int64_t at = 8 * i + column;
    if (scaled)
      kava_scale8(scaling, TYPE >= 0 || by_eights, type, row + kava_quotient(at, columns),
                  at - kava_quotient(at, columns) * columns, n, v);
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
    bool by_eights = scaling && kava_scaling_by_eights(s) && column % 8 == 0 && columns % 8 == 0;
    auto kernel = !by_eights          ? widen_kernel<T, -1>
                  : type == KAVA_NF4  ? widen_kernel<T, KAVA_NF4>
                  : type == KAVA_INT8 ? widen_kernel<T, KAVA_INT8>
                  : type == KAVA_FP8  ? widen_kernel<T, KAVA_FP8>
                                      : widen_kernel<T, -1>;
    kava_launch("widen", kernel, kava_cuda_blocks(count, 8 * THREADS), THREADS, 0, type, (const uint8_t *)src,
                kava_table_of(type), scaling != NULL, by_eights, s, row, column, columns, (T *)dst, count);
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

/* ---- encode: a TEAM of threads has a group: it finds the largest magnitude, then goes over the group again ---- */

namespace {
template <class T, int V> __device__ __forceinline__ void load(const T *from, float (&v)[V]) {
  if constexpr (V * sizeof(T) <= 16) {
    kava_load<T, V>(from, v);
  } else {
    kava_load<T, V / 2>(from, reinterpret_cast<float(&)[V / 2]>(v[0]));
    kava_load<T, V / 2>(from + V / 2, reinterpret_cast<float(&)[V / 2]>(v[V / 2]));
  }
}
struct edges { /* by value: constants are not the device's */
  float at[15];
};
template <int TYPE> __device__ __forceinline__ unsigned code_of(const edges &e, float x) {
  if constexpr (TYPE == KAVA_INT8) {
    float r = rintf(x);
    return (unsigned)(r >= 127 ? 127 : r >= -127 ? (int)r : r < 0 ? -127 : 0) & 255;
  }
  unsigned above = 0; /* edges below the value */
#pragma unroll
  for (int k = 0; k < 15; k++) above += x > e.at[k];
  return above;
}
template <int TYPE, int V>
__device__ __forceinline__ void store_codes(const edges &e, uint8_t *codes, int64_t at, float factor,
                                            const float (&v)[V]) {
  if constexpr (TYPE == KAVA_NF4) {
    unsigned word = 0;
#pragma unroll
    for (int j = 0; j < V; j++) word |= code_of<TYPE>(e, __fmul_rn(v[j], factor)) << 4 * (j ^ 1);
    if (V == 8)
      *(uint32_t *)(codes + at / 2) = word;
    else
      codes[at / 2] = (uint8_t)word;
  } else if constexpr (V == 1) {
    float x = __fmul_rn(v[0], factor);
    codes[at] = (uint8_t)(TYPE == KAVA_FP8 ? kava_fp8_pair(x, x) : code_of<TYPE>(e, x));
  } else {
    uint32_t words[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < V; j += 2) {
      float x = __fmul_rn(v[j], factor), y = __fmul_rn(v[j + 1], factor);
      uint32_t two = TYPE == KAVA_FP8 ? kava_fp8_pair(x, y) : code_of<TYPE>(e, x) | code_of<TYPE>(e, y) << 8;
      words[j / 4] |= two << 8 * (j % 4);
    }
    *(uint2 *)(codes + at) = make_uint2(words[0], words[1]);
  }
}

template <class T, int TYPE, int TEAM, int V>
__global__ void __launch_bounds__(THREADS) encode_kernel(const __grid_constant__ kava_encode_args a,
                                                         const __grid_constant__ edges e, int64_t begin, int64_t end) {
  constexpr int TEAMS = THREADS / TEAM;
  KAVA_SHARED(float, room, THREADS / 32);
  int lane = (int)threadIdx.x % TEAM;
  const T *x = (const T *)a.x;
  for (int64_t first = begin + (int64_t)blockIdx.x * TEAMS; first < end; first += (int64_t)gridDim.x * TEAMS) {
    int64_t g = first + threadIdx.x / TEAM;
    int64_t row = g / a.across * a.group_rows, column = g % a.across * a.group;
    int64_t rows = a.rows - row < a.group_rows ? a.rows - row : a.group_rows;
    int64_t columns = a.columns - column < a.group ? a.columns - column : a.group;
    int wide = (int)(columns / V), count = g < end ? (int)rows * wide : 0; /* vectors in a row, in the group */
    float most = 0, v[V];
    bool bad = false;
    for (int i = lane; i < count; i += TEAM) {
      load<T, V>(x + (row + i / wide) * a.columns + column + i % wide * V, v);
#pragma unroll
      for (int j = 0; j < V; j++) {
        float size = fabsf(v[j]);
        most = size > most ? size : most;
        bad = bad || !(size <= FLT_MAX);
      }
    }
    if (bad) *a.bad = 1;
    if constexpr (TEAM == THREADS) {
      most = kava_block_most<THREADS / 32>(most, room);
    } else {
#pragma unroll
      for (int with = TEAM / 2; with > 0; with /= 2) {
        float other = __shfl_xor_sync(0xffffffffu, most, with);
        most = other > most ? other : most;
      }
    }
    float inverse = 1 / most, factor = TYPE == KAVA_NF4 ? inverse : __fmul_rn(a.most, inverse);
    if (TYPE != KAVA_NF4 && !(factor <= FLT_MAX)) factor = 0;
    for (int i = lane; i < count; i += TEAM) {
      int64_t at = (row + i / wide) * a.columns + column + i % wide * V;
      load<T, V>(x + at, v);
      store_codes<TYPE, V>(e, a.codes, at, factor, v);
    }
    if (lane == 0 && g < end) a.scales[g] = most / a.most;
  }
}

template <class T, int TYPE> void encode_as(const kava_encode_args *a, int64_t begin, int64_t end) {
  constexpr bool nf4 = TYPE == KAVA_NF4;
  constexpr int TEAM = nf4 ? 8 : THREADS;
  bool by_eights = kava_aligned(a->x) && a->columns % 8 == 0 && (a->across == 1 || a->group % 8 == 0);
  unsigned blocks = kava_cuda_blocks(end - begin, THREADS / TEAM);
  edges e;
  memcpy(e.at, kava_nf4_edges, sizeof e.at);
  if (by_eights)
    kava_launch("encode", encode_kernel<T, TYPE, TEAM, 8>, blocks, THREADS, 0, *a, e, begin, end);
  else
    kava_launch("encode", encode_kernel < T, TYPE, TEAM, nf4 ? 2 : 1 >, blocks, THREADS, 0, *a, e, begin, end);
}
} // namespace

extern "C" void kava_cuda_encode(const kava_encode_args *a, int64_t begin, int64_t end) {
  if (begin >= end) return;
  bool known = a->from != KAVA_F64 && kava_for_float(a->from, [&](auto t) {
                 typedef decltype(t) T;
                 if constexpr (sizeof(T) <= 4) {
                   if (a->type == KAVA_NF4) return encode_as<T, KAVA_NF4>(a, begin, end);
                   if (a->type == KAVA_INT8) return encode_as<T, KAVA_INT8>(a, begin, end);
                   encode_as<T, KAVA_FP8>(a, begin, end);
                 }
               });
  if (!known) kava_cuda_unsupported("encode", a->from);
}

/* ---- narrow: a warp has a block of 32, a lane an element ---- */

namespace {
__device__ __forceinline__ int floor_to(float x, int most) { return !(x > 0) ? 0 : x >= (float)most ? most : (int)x; }
/* By way of a word: of a half's own bits nvcc 13.0 makes the low byte by converting the number (F2I.U8.F16). */
__device__ __forceinline__ void put_half(uint8_t *p, float x) {
  uint32_t both = kava_pair<kava_f16>(x, 0.0f);
  p[0] = (uint8_t)(both & 0xff);
  p[1] = (uint8_t)(both >> 8 & 0xff);
}

/* Of the lanes with the largest key the first one's value. */
__device__ __forceinline__ float first_of_most(float key, float value) {
  int from = (int)threadIdx.x % 32;
#pragma unroll
  for (int with = 16; with > 0; with /= 2) {
    float other = __shfl_xor_sync(0xffffffffu, key, with), its = __shfl_xor_sync(0xffffffffu, value, with);
    int lane = __shfl_xor_sync(0xffffffffu, from, with);
    if (other > key || (other == key && lane < from)) key = other, value = its, from = lane;
  }
  return value;
}

__global__ void __launch_bounds__(THREADS)
    narrow_kernel(kava_dtype type, const float *src, uint8_t *dst, int64_t blocks) {
  int lane = (int)threadIdx.x % 32, bytes = type == KAVA_Q8_0 ? 34 : type == KAVA_Q4_1 ? 20 : 18;
  for (int64_t b = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32; b < blocks;
       b += (int64_t)gridDim.x * (THREADS / 32)) {
    float x = src[32 * b + lane], d;
    uint8_t *p = dst + bytes * b;
    if (type == KAVA_Q8_0) {
      d = kava_warp_most(fabsf(x)) / 127;
      float r = roundf(__fmul_rn(x, d != 0 ? 1 / d : 0));
      p[2 + lane] = (uint8_t)(int8_t)(r >= 127 ? 127 : r >= -127 ? (int)r : r < 0 ? -127 : 0);
    } else {
      float shift; /* what is added before rounding down */
      if (type == KAVA_Q4_0) {
        float extreme = first_of_most(fabsf(x), x);
        d = (extreme != 0 ? extreme : 0) / -8;
        shift = 8.5f;
      } else {
        float least = first_of_most(-x, x);
        d = (kava_warp_most(x) - least) / 15;
        if (lane == 0) put_half(p + 2, least);
        x -= least;
        shift = 0.5f;
      }
      int code = floor_to(__fadd_rn(__fmul_rn(x, d != 0 ? 1 / d : 0), shift), 15);
      int high = __shfl_xor_sync(0xffffffffu, code, 16);
      if (lane < 16) p[bytes - 16 + lane] = (uint8_t)(code | high << 4);
    }
    if (lane == 0) put_half(p, d);
  }
}
} // namespace

extern "C" void kava_cuda_narrow(kava_dtype type, const float *src, void *dst, int64_t count) {
  if (count > 0)
    kava_launch("narrow", narrow_kernel, kava_cuda_blocks(count / 32, THREADS / 32), THREADS, 0, type, src,
                (uint8_t *)dst, count / 32);
}

/* kernels/cuda/fp8.cu: a linear layer whose weight is e4m3 codes with a scale a row: the activations are quantised, a
 * scale a row (the largest magnitude becomes 448), the codes are multiplied, and C[i,j] = (sum of codes) scale[i]
 * scale[j]. Both sides' codes are off by at most 2^-4 of themselves, 2.6 % in the mean of squares where they are spread
 * evenly; a sum of many products is off by about 3.7 % of its own root mean square.
 *
 * cuBLASLt multiplies the scales in by itself on Hopper (OUTER_VEC). Where it does not (sm_89, later GPUs), it
 * multiplies the codes alone, and a kernel here brings the scales in: the same numbers, rounded to y's type once more.
 * Where it has no fp8 product at all, the caller widens the weight as any other.
 *
 * Predicted, H100, 4096 tokens of Qwen2.5-1.5B: gate and up, 4096 x 8960 x 1536, 88 us each at 1280 TFLOP/s (bf16:
 * 160), down 95 us (175); quantising rows of 1536 moves 19 MB, 6 us, rows of 8960 110 MB, 33 us;
 * f(gate) up quantised at once 184 MB, 55 us, where writing and then quantising it moves 330 MB. */
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/gemm.cuh"

#define THREADS 256
#define MOST 448.0f

namespace {
/* What a row's values are multiplied with to give codes; rows of nothing (or next to it) give zeros. A row with an
 * infinity gives NaN. */
__device__ __forceinline__ float factor_of(float most) {
  float factor = __fmul_rn(MOST, 1 / most);
  return factor <= 3.0e38f ? factor : 0;
}
/* Eight codes, side by side. */
__device__ __forceinline__ void store_codes(uint8_t *codes, float factor, const float (&v)[8]) {
  uint32_t words[2];
#pragma unroll
  for (int i = 0; i < 2; i++)
    words[i] = kava_fp8_pair(v[4 * i] * factor, v[4 * i + 1] * factor) |
               kava_fp8_pair(v[4 * i + 2] * factor, v[4 * i + 3] * factor) << 16;
  *reinterpret_cast<uint2 *>(codes) = make_uint2(words[0], words[1]);
}
template <int N> __device__ __forceinline__ float largest(float most, const float (&v)[N]) {
#pragma unroll
  for (int j = 0; j < N; j++) most = fabsf(v[j]) > most ? fabsf(v[j]) : most;
  return most;
}

/* A block has a row, whose second reading comes from L1. */
template <class T>
__global__ void __launch_bounds__(THREADS) rows_kernel(const T *x, int64_t width, uint8_t *codes, float *scales) {
  KAVA_SHARED(float, room, THREADS / 32);
  x += blockIdx.x * width;
  codes += blockIdx.x * width;
  float most = 0, v[8];
  for (int64_t i = 8 * threadIdx.x; i < width; i += 8 * THREADS) {
    kava_load<T, 8>(x + i, v);
    most = largest(most, v);
  }
  most = kava_block_most<THREADS / 32>(most, room);
  float factor = factor_of(most);
  for (int64_t i = 8 * threadIdx.x; i < width; i += 8 * THREADS) {
    kava_load<T, 8>(x + i, v);
    store_codes(codes + i, factor, v);
  }
  if (threadIdx.x == 0) scales[blockIdx.x] = most / MOST;
}

/* The same of the rows f(gate) up, rounded to T as they would be in memory; they stay in shared memory meanwhile. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    gated_rows_kernel(kava_activation kind, const T *gate, const T *up, int64_t width, uint8_t *codes, float *scales) {
  KAVA_SHARED(float, room, THREADS / 32);
  T *row = static_cast<T *>(kava_dynamic_shared());
  gate += blockIdx.x * width;
  up += blockIdx.x * width;
  codes += blockIdx.x * width;
  float most = 0, v[8], u[8];
  for (int64_t i = 8 * threadIdx.x; i < width; i += 8 * THREADS) {
    kava_load<T, 8>(gate + i, v);
    kava_load<T, 8>(up + i, u);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      v[j] = kava_value_of(kind, v[j]) * u[j];
      v[j] = kava_widen(kava_narrow<T>(v[j]));
    }
    kava_store<T, 8>(row + i, v);
    most = largest(most, v);
  }
  most = kava_block_most<THREADS / 32>(most, room);
  float factor = factor_of(most);
  for (int64_t i = 8 * threadIdx.x; i < width; i += 8 * THREADS) { /* what this thread wrote */
    kava_load<T, 8>(row + i, v);
    store_codes(codes + i, factor, v);
  }
  if (threadIdx.x == 0) scales[blockIdx.x] = most / MOST;
}

/* y[i,j] = y[i,j] rows[i] columns[j] + bias[j] + residual[i,j] */
template <class T>
__global__ void __launch_bounds__(THREADS)
    scale_kernel(T *y, const float *rows, const float *columns, const T *bias, const T *residual, int64_t width) {
  y += blockIdx.y * width;
  if (residual) residual += blockIdx.y * width;
  float row = rows[blockIdx.y];
  for (int64_t i = 8 * ((int64_t)blockIdx.x * THREADS + threadIdx.x); i < width; i += 8 * THREADS * gridDim.x) {
    float v[8], r[8] = {};
    kava_load<T, 8>(y + i, v);
    if (residual) kava_load<T, 8>(residual + i, r);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      v[j] *= row * columns[i + j];
      if (bias) v[j] += kava_widen(bias[i + j]);
      v[j] += r[j];
    }
    kava_store<T, 8>(y + i, v);
  }
}

bool is_such(const kava_linear_args *a, const void *x, const void *y) {
  const kava_scaling *s = a->scaling;
  const kava_cuda_facts *gpu =
      kava_cuda_device(); /* before 8.9 none has such products: x need not be quantised for it */
  return 10 * gpu->major + gpu->minor >= 89 && a->wtype == KAVA_FP8 && s &&
         (a->dtype == KAVA_BF16 || a->dtype == KAVA_F16) && s->type == KAVA_F32 && s->round == KAVA_F32 &&
         s->rows == 1 && s->across == 1 && !s->zeros && s->zero == 0 && a->in % 16 == 0 && a->out % 16 == 0 &&
         a->first % 4 == 0 && kava_aligned(a->w) && kava_aligned(x) && kava_aligned(y) &&
         (!a->residual || kava_aligned(a->residual));
}

/* The product of codes that are there: with the scales and the residual in it, with the scales alone, or without. */
kava_status multiply(const kava_linear_args *a, const uint8_t *codes, const float *scales, const void *bias, void *y) {
  kava_product p = {};
  p.in = KAVA_FP8, p.out = a->dtype;
  p.trans_b = true;
  p.m = a->rows, p.n = a->out, p.k = a->in;
  p.a = codes, p.lda = a->in;
  p.b = a->w, p.ldb = a->in;
  p.c = y, p.ldc = a->out;
  p.batch = 1, p.alpha = 1;
  p.bias = bias;
  p.scale_a = scales;
  p.scale_b = (const float *)a->scaling->scales + a->first;
  p.added = a->residual, p.beta = a->residual ? 1 : 0;
  kava_status st = kava_cuda_product(&p);
  if (st == KAVA_UNSUPPORTED && a->residual) {
    p.added = NULL, p.beta = 0;
    st = kava_cuda_product(&p);
    if (st == KAVA_OK) kava_cuda_kernels()->accumulate(a->dtype, a->residual, y, a->rows * a->out);
  }
  if (st != KAVA_UNSUPPORTED || a->dtype == KAVA_F16 || a->rows > 65535) return st; /* sums of codes overflow f16 */
  const float *columns = p.scale_b;
  p.scale_a = p.scale_b = NULL;
  p.bias = NULL;
  st = kava_cuda_product(&p);
  if (st != KAVA_OK) return st;
  kava_launch("linear_forward: fp8 scales", scale_kernel<kava_bf16>,
              dim3((unsigned)((a->out + 8 * THREADS - 1) / (8 * THREADS)), (unsigned)a->rows), THREADS, 0,
              (kava_bf16 *)y, scales, columns, (const kava_bf16 *)bias, (const kava_bf16 *)a->residual, a->out);
  return KAVA_OK;
}
} // namespace

void kava_cuda_fp8_rows(kava_dtype dtype, const void *x, int64_t rows, int64_t width, uint8_t *codes, float *scales) {
  auto run = [&](auto t) {
    typedef decltype(t) T;
    kava_launch("linear_forward: fp8 rows", rows_kernel<T>, (unsigned)rows, THREADS, 0, (const T *)x, width, codes,
                scales);
  };
  if (dtype == KAVA_BF16)
    run(kava_bf16());
  else
    run(kava_f16());
}

/* Room for the codes of x and their scales. */
static uint8_t *room_for(const kava_linear_args *a, float **scales) {
  uint8_t *codes = (uint8_t *)kava_cuda_scratch((size_t)a->rows * (size_t)(a->in + 4));
  *scales = (float *)(codes + a->rows * a->in);
  return codes;
}

kava_status kava_cuda_linear_fp8(const kava_linear_args *a, const void *x, const void *bias, void *y) {
  float *scales;
  if (!is_such(a, x, y)) return KAVA_UNSUPPORTED;
  uint8_t *codes = room_for(a, &scales);
  if (!codes) return KAVA_MEMORY;
  kava_cuda_fp8_rows(a->dtype, x, a->rows, a->in, codes, scales);
  return multiply(a, codes, scales, bias, y);
}

kava_status kava_cuda_linear_gated_fp8(const kava_linear_args *a, kava_activation kind, const void *gate,
                                       const void *up, const void *bias, void *y) {
  float *scales;
  size_t shared = (size_t)a->in * 2;
  if (!is_such(a, gate, y) || !kava_aligned(up) || shared > kava_cuda_device()->shared_most - 1024) /* static ones */
    return KAVA_UNSUPPORTED;
  uint8_t *codes = room_for(a, &scales);
  if (!codes) return KAVA_MEMORY;
  auto run = [&](auto t) {
    typedef decltype(t) T;
    kava_launch("linear_gated: fp8 rows", gated_rows_kernel<T>, (unsigned)a->rows, THREADS, shared, kind,
                (const T *)gate, (const T *)up, a->in, codes, scales);
  };
  if (a->dtype == KAVA_BF16)
    run(kava_bf16());
  else
    run(kava_f16());
  return multiply(a, codes, scales, bias, y);
}

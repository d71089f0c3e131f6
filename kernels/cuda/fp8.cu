/* kernels/cuda/fp8.cu: a linear layer whose weight is e4m3 codes with a scale a row: the activations are quantised, a
 * scale a row (the largest magnitude becomes 448), the codes are multiplied, and C[i,j] = (sum of codes) scale[i]
 * scale[j]. Both sides' codes are off by at most 2^-4 of themselves, 2.6 % in the mean of squares where they are spread
 * evenly; a sum of many products is off by about 3.7 % of its own root mean square.
 *
 * cuBLASLt multiplies the scales in by itself on Hopper (OUTER_VEC). Where it does not (sm_89, later GPUs), it
 * multiplies the codes alone, and a kernel here brings the scales in: the same numbers, rounded to y's type once more.
 * Where it has no fp8 product at all, the caller widens the weight as any other.
 *
 * A norm whose rows no one else reads gives them as codes at once, which several layers then multiply.
 *
 * Predicted, H100, 4096 tokens of Qwen2.5-1.5B: gate and up, 4096 x 8960 x 1536, 88 us each at 1280 TFLOP/s (bf16:
 * 160), down 95 us (175); quantising rows of 1536 moves 19 MB, 6 us, rows of 8960 110 MB, 33 us;
 * f(gate) up quantised at once 184 MB, 55 us, where writing and then quantising it moves 330 MB. On Hopper gate and up
 * are one product that gives codes of f(gate) up (product_hopper.cu), with a scale for each row of a tile: bringing
 * them to one scale a row moves 73 MB if all are touched, 19 us; a quarter is of what is spread as a product of normal
 * numbers, more where single ones stand out. A power of 64 as a scale costs nothing there (2.6 % in the mean of squares
 * either way); but a row's largest number is no longer a code exactly, as it is with a scale of its own. */
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

/* Eight parameters of T, or of f32 where they are `wide`, from i on; one that is not there is `otherwise`. */
template <class T>
__device__ __forceinline__ void parameters(const void *from, bool wide, int i, float otherwise, float (&into)[8]) {
  if (!from)
#pragma unroll
    for (int j = 0; j < 8; j++) into[j] = otherwise;
  else if (wide) {
    const float4 *at = reinterpret_cast<const float4 *>((const float *)from + i);
    float4 low = at[0], high = at[1];
    into[0] = low.x, into[1] = low.y, into[2] = low.z, into[3] = low.w;
    into[4] = high.x, into[5] = high.y, into[6] = high.z, into[7] = high.w;
  } else
    kava_load<T, 8>((const T *)from + i, into);
}

/* The rows of a.x as they are, or NORM: normalised, not rounded in between. WARPS warps have a row, which they hold in
 * registers as it lies in memory, PACKS packs of eight a thread: all of its loads are under way together, and where a
 * warp has a row of up to 2048, so are 4096 rows. */
template <class T, int PACKS, int WARPS, bool NORM>
__global__ void __launch_bounds__(128, PACKS > 6 ? 6 : 8)
    held_rows_kernel(kava_norm_args a, uint8_t *codes, float *scales) {
  constexpr int EACH = 32 * WARPS, ROWS = 4 / WARPS;
  KAVA_SHARED(float, room, 4);
  int thread = threadIdx.x % EACH, width = (int)a.width;
  int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / EACH;
  bool there = row < a.rows;
  if (!there) row = a.rows - 1; /* goes along to the barriers */
  const T *x = (const T *)a.x + row * width;
  union {
    kava_pack<T, 8> as;
    uint32_t words[4];
  } held[PACKS];
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    int i = 8 * (p * EACH + thread);
    if (i < width) held[p].as = *reinterpret_cast<const kava_pack<T, 8> *>(x + i);
  }
  auto sum = [&](float v) { return WARPS == 1 ? kava_warp_sum(v) : kava_block_sum<4>(v, room); };
  float mean = 0, scale = 1, most = 0;
  if (NORM) {
    float square = 0;
    if (a.centre) {
#pragma unroll
      for (int p = 0; p < PACKS; p++)
        if (8 * (p * EACH + thread) < width)
#pragma unroll
          for (int j = 0; j < 8; j++) mean += kava_widen(held[p].as.at[j]);
      mean = sum(mean) / (float)width;
    }
#pragma unroll
    for (int p = 0; p < PACKS; p++)
      if (8 * (p * EACH + thread) < width)
#pragma unroll
        for (int j = 0; j < 8; j++) {
          float d = kava_widen(held[p].as.at[j]) - mean;
          square += d * d;
        }
    scale = rsqrtf(sum(square) / (float)width + (float)a.eps);
  }
  auto values = [&](int p, float(&v)[8]) {
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = kava_widen(held[p].as.at[j]);
    if (!NORM) return;
    float w[8], b[8];
    parameters<T>(a.w, a.wide, 8 * (p * EACH + thread), 1, w);
    parameters<T>(a.b, a.wide, 8 * (p * EACH + thread), 0, b);
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = (v[j] - mean) * scale * w[j] + b[j];
  };
#pragma unroll
  for (int p = 0; p < PACKS; p++)
    if (8 * (p * EACH + thread) < width) {
      float v[8];
      values(p, v);
      most = largest(most, v);
    }
  most = WARPS == 1 ? kava_warp_most(most) : kava_block_most<4>(most, room);
  if (!there) return;
#pragma unroll
  for (int p = 0; p < PACKS; p++) /* all that was widened takes more registers than there are */
#pragma unroll
    for (int k = 0; k < 4; k++) kava_forgotten(held[p].words[k]);
  float factor = factor_of(most);
#pragma unroll
  for (int p = 0; p < PACKS; p++) {
    int i = 8 * (p * EACH + thread);
    if (i >= width) continue;
    float v[8];
    values(p, v);
    store_codes(codes + row * width + i, factor, v);
  }
  if (thread == 0) scales[row] = most / MOST;
}
template <class T, int PACKS, int WARPS>
void held_rows(const char *name, const kava_norm_args &a, bool norm, uint8_t *codes, float *scales) {
  constexpr int ROWS = 4 / WARPS;
  unsigned blocks = (unsigned)((a.rows + ROWS - 1) / ROWS);
  if (norm)
    kava_launch(name, held_rows_kernel<T, PACKS, WARPS, true>, blocks, 128, 0, a, codes, scales);
  else
    kava_launch(name, held_rows_kernel<T, PACKS, WARPS, false>, blocks, 128, 0, a, codes, scales);
}
/* False: rows are too long to be held. */
template <class T> bool hold_rows(const char *name, const kava_norm_args &a, bool norm, uint8_t *codes, float *scales) {
  int64_t packs = (a.width / 8 + 31) / 32; /* of a lane, where a warp has a row */
  if (packs <= 2)
    held_rows<T, 2, 1>(name, a, norm, codes, scales);
  else if (packs <= 4)
    held_rows<T, 4, 1>(name, a, norm, codes, scales);
  else if (packs <= 6)
    held_rows<T, 6, 1>(name, a, norm, codes, scales);
  else if (packs <= 8)
    held_rows<T, 8, 1>(name, a, norm, codes, scales);
  else if (packs <= 16)
    held_rows<T, 4, 4>(name, a, norm, codes, scales);
  else if (packs <= 32)
    held_rows<T, 8, 4>(name, a, norm, codes, scales);
  else
    return false;
  return true;
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

/* A warp has a row, whose 32 tiles at a time it looks through, eight lanes a tile: what has the row's scale stays, and
 * is not even read. */
__global__ void __launch_bounds__(THREADS)
    shift_rows_kernel(uint8_t *codes, const int8_t *powers, int64_t rows, int n, int tiles, float *scales) {
  int64_t row = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
  int lane = threadIdx.x % 32, most = -128;
  if (row >= rows) return;
  codes += row * n, powers += row;
  for (int t = lane; t < tiles; t += 32) most = max(most, (int)powers[t * rows]);
#pragma unroll
  for (int other = 16; other > 0; other /= 2) most = max(most, __shfl_xor_sync(0xffffffffu, most, other));
  if (lane == 0) scales[row] = kava_fp8_scale(most);
  for (int from = 0; from < tiles; from += 32) {
    int own = from + lane < tiles ? powers[(from + lane) * rows] : most;
    uint4 held[8];
    int shift[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
      int column = (from + 4 * i + lane / 8) * KAVA_FP8_TILE + lane % 8 * 16;
      shift[i] = KAVA_FP8_OCTAVES * (most - __shfl_sync(0xffffffffu, own, 4 * i + lane / 8));
      if (column >= n) shift[i] = 0;
      if (shift[i]) held[i] = *reinterpret_cast<const uint4 *>(codes + column);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (!shift[i]) continue;
      uint32_t by = kava_fp8_shift(shift[i]);
      held[i].x = kava_fp8_shifted(held[i].x, by), held[i].y = kava_fp8_shifted(held[i].y, by);
      held[i].z = kava_fp8_shifted(held[i].z, by), held[i].w = kava_fp8_shifted(held[i].w, by);
      *reinterpret_cast<uint4 *>(codes + (from + 4 * i + lane / 8) * KAVA_FP8_TILE + lane % 8 * 16) = held[i];
    }
  }
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
    kava_norm_args a = {};
    a.rows = rows, a.width = width, a.x = x;
    if (hold_rows<T>("linear_forward: fp8 rows", a, false, codes, scales)) return;
    kava_launch("linear_forward: fp8 rows", rows_kernel<T>, (unsigned)rows, THREADS, 0, (const T *)x, width, codes,
                scales);
  };
  if (dtype == KAVA_BF16)
    run(kava_bf16());
  else
    run(kava_f16());
}

void kava_cuda_fp8_one_scale(uint8_t *codes, const int8_t *powers, int64_t rows, int64_t n, float *scales) {
  constexpr int EACH = THREADS / 32;
  int tiles = (int)((n + KAVA_FP8_TILE - 1) / KAVA_FP8_TILE);
  kava_launch("gated_mlp: fp8 rows", shift_rows_kernel, (unsigned)((rows + EACH - 1) / EACH), THREADS, 0, codes, powers,
              rows, (int)n, tiles, scales);
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

kava_status kava_cuda_fp8_norm_rows(const kava_norm_args *a, uint8_t *codes, float *scales) {
  bool held = false, apart = a->dtype != KAVA_BF16 && a->dtype != KAVA_F16;
  if (apart || a->width % 8 || !kava_aligned(a->x) || !kava_aligned(a->w) || !kava_aligned(a->b))
    return KAVA_UNSUPPORTED;
  if (a->dtype == KAVA_BF16)
    held = hold_rows<kava_bf16>("linear_normed: fp8 rows", *a, true, codes, scales);
  else
    held = hold_rows<kava_f16>("linear_normed: fp8 rows", *a, true, codes, scales);
  return held ? KAVA_OK : KAVA_UNSUPPORTED;
}

extern "C" kava_status kava_cuda_linear_normed(const kava_norm_args *norm, int count, const kava_linear_args *a,
                                               const void *const *bias, void *const *y) {
  float *scales;
  if (norm->rows == 0) return KAVA_OK;
  for (int i = 0; i < count; i++)
    if (a[i].rows != norm->rows || a[i].in != norm->width || a[i].dtype != norm->dtype ||
        !is_such(&a[i], norm->x, y[i]))
      return KAVA_UNSUPPORTED;
  uint8_t *codes = room_for(&a[0], &scales);
  if (!codes) return KAVA_MEMORY;
  kava_status st = kava_cuda_fp8_norm_rows(norm, codes, scales);
  for (int i = 0; i < count && st == KAVA_OK; i++) st = multiply(&a[i], codes, scales, bias[i], y[i]);
  return st;
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

/* In act: the codes of f(gate) up, and behind them their powers. The norm's scales become theirs in the end. */
extern "C" kava_status kava_cuda_gated_mlp(const kava_norm_args *norm, kava_activation kind,
                                           const kava_linear_args *layers, const void *bias, void *act, void *y) {
  const kava_linear_args *gate = &layers[0], *up = &layers[1], *down = &layers[2];
  int64_t rows = norm->rows;
  if (kind != KAVA_SILU || norm->dtype != KAVA_BF16 || gate->residual || up->residual || rows > 0x7fffffff ||
      gate->in != norm->width || up->in != norm->width || up->out != gate->out || down->in != gate->out ||
      !kava_cuda_gate_up_fp8_pays(rows, gate->out, gate->in))
    return KAVA_UNSUPPORTED;
  for (int i = 0; i < 3; i++)
    if (layers[i].rows != rows || layers[i].dtype != KAVA_BF16 ||
        !is_such(&layers[i], i == 2 ? act : norm->x, i == 2 ? y : act))
      return KAVA_UNSUPPORTED;
  float *scales;
  uint8_t *codes = room_for(gate, &scales), *of_act = (uint8_t *)act;
  int8_t *powers = (int8_t *)of_act + rows * down->in;
  if (!codes) return KAVA_MEMORY;
  kava_status st = kava_cuda_fp8_norm_rows(norm, codes, scales);
  if (st == KAVA_OK) st = kava_cuda_gate_up_fp8(codes, scales, gate, up, of_act, powers);
  if (st != KAVA_OK) return st;
  kava_cuda_fp8_one_scale(of_act, powers, rows, down->in, scales);
  return multiply(down, of_act, scales, bias, y);
}

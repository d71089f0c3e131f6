/* kernels/cuda/attention_tensor.cuh: what attention.cu and attention_hopper.cu do alike with a warp's 16 rows of a
 * product as tensor cores leave it, s[N][4]: s[c][i] is row lane / 4, for i >= 2 eight rows further, and column
 * 8 c + 2 (lane % 4) + i % 2. */
#ifndef KAVA_CUDA_ATTENTION_TENSOR_CUH
#define KAVA_CUDA_ATTENTION_TENSOR_CUH
#include "kernels/cuda/attention.cuh"

/* A lane's two queries, and their first keys. */
typedef struct attention_rows {
  int row0, row1, first0, first1;
} attention_rows;
static __device__ __forceinline__ attention_rows attention_rows_of(const attention_job &a, int b, int row0) {
  return {row0, row0 + 8, attention_first(a, b, row0), attention_first(a, b, row0 + 8)};
}

/* The sum or maximum of a row, whose columns four lanes share. */
static __device__ __forceinline__ float attention_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
static __device__ __forceinline__ float attention_most(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

/* `unseen` where a query does not see a key; column 0 is key j0. */
template <int N>
__device__ __forceinline__ void attention_mask(float (&s)[N][4], const attention_rows &r, int j0, float unseen) {
  if (j0 + 8 * N - 1 <= r.row0 && r.first0 <= j0 && r.first1 <= j0) return;
#pragma unroll
  for (int i = 0; i < 4 * N; i++) {
    int key = j0 + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
    if (key > (i % 4 < 2 ? r.row0 : r.row1) || key < (i % 4 < 2 ? r.first0 : r.first1)) s[i / 4][i % 4] = unseen;
  }
}

/* Going back: a score with its softcap, and what dp becomes: (dp - mean) times the softcap's derivative. */
static __device__ __forceinline__ void attention_capped(const attention_job &a, float &s, float &dp, float mean) {
  s = attention_cap(s * a.scale, a.softcap);
  dp = (dp - mean) * attention_slope(s, a.softcap);
}

/* Softmax over keys that come tile by tile: a row's largest score and sum so far. Scores stay as the product gave them
 * where `factor` (scale, to the base 2) can wait for the exponent: without a softcap, and with a scale that keeps their
 * order. */
struct attention_softmax {
  float factor, most0, most1, sum0, sum1;
  bool waits;
  __device__ __forceinline__ attention_softmax(const attention_job &a)
      : most0(-INFINITY), most1(-INFINITY), sum0(0), sum1(0), waits(a.softcap <= 0 && a.scale > 0) {
    factor = waits ? a.scale * LOG2E : LOG2E;
  }
  /* s, a tile of products at key j0, becomes p; acc, the sums of p v so far, shrinks by what the maximum grew. */
  template <int N, int C>
  __device__ __forceinline__ void step(const attention_job &a, const attention_rows &r, int j0, float (&s)[N][4],
                                       float (&acc)[C][4]) {
    if (!waits)
#pragma unroll
      for (int i = 0; i < 4 * N; i++) {
        float x = s[i / 4][i % 4] * a.scale;
        s[i / 4][i % 4] = a.softcap > 0 ? attention_cap(x, a.softcap) : x;
      }
    attention_mask(s, r, j0, -INFINITY);
    float top0 = most0, top1 = most1;
#pragma unroll
    for (int c = 0; c < N; c++) {
      top0 = fmaxf(top0, fmaxf(s[c][0], s[c][1]));
      top1 = fmaxf(top1, fmaxf(s[c][2], s[c][3]));
    }
    top0 = attention_most(top0), top1 = attention_most(top1);
    float base0 = top0 == -INFINITY ? 0 : top0 * factor, base1 = top1 == -INFINITY ? 0 : top1 * factor;
    float shrink0 = kava_exp2(most0 * factor - base0), shrink1 = kava_exp2(most1 * factor - base1);
    most0 = top0, most1 = top1;
    sum0 *= shrink0, sum1 *= shrink1;
#pragma unroll
    for (int c = 0; c < N; c++) {
#pragma unroll
      for (int i = 0; i < 4; i++) s[c][i] = kava_exp2(s[c][i] * factor - (i < 2 ? base0 : base1));
      sum0 += s[c][0] + s[c][1];
      sum1 += s[c][2] + s[c][3];
    }
#pragma unroll
    for (int i = 0; i < 4 * C; i++) acc[i / 4][i % 4] *= i % 4 < 2 ? shrink0 : shrink1;
  }
  /* The rows' sums; lse is written, where it is asked for. What o is to be multiplied by: low(), high(). */
  __device__ __forceinline__ void finish(const attention_job &a, const attention_rows &r, int b, int h) {
    sum0 = attention_sum(sum0), sum1 = attention_sum(sum1);
    if (threadIdx.x % 4 || !a.lse) return;
    float *lse = a.lse + ((int64_t)b * a.heads + h) * a.length;
    if (r.row0 < a.length) lse[r.row0] = sum0 > 0 ? most0 * factor * LN2 + logf(sum0) : -INFINITY;
    if (r.row1 < a.length) lse[r.row1] = sum1 > 0 ? most1 * factor * LN2 + logf(sum1) : -INFINITY;
  }
  __device__ __forceinline__ float low() const { return sum0 > 0 ? 1 / sum0 : 0; }
  __device__ __forceinline__ float high() const { return sum1 > 0 ? 1 / sum1 : 0; }
};

/* Going back: delta of a warp's 16 rows of o and g (`there` of them exist, `row` elements apart), into sums[16] of
 * shared memory and, where it is given, to `delta`; D / 8 lanes have a row, so that D / 8 has to divide 32, or all 32
 * go over one. */
template <class T, int D>
__device__ __forceinline__ void attention_delta(const T *o, const T *g, int64_t row, int there, float *sums,
                                                float *delta = nullptr) {
  constexpr int LANES = D == 64 ? 8 : D == 128 ? 16 : 32, PASS = 32 / LANES, EACH = 4; /* EACH passes under way */
  int lane = threadIdx.x % 32, column = lane % LANES * 8;
#pragma unroll 1
  for (int r0 = lane / LANES; r0 < 16; r0 += EACH * PASS) {
    float part[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int r = r0 + i * PASS;
      float x[8] = {0, 0, 0, 0, 0, 0, 0, 0}, y[8] = {0, 0, 0, 0, 0, 0, 0, 0};
      if (r < there && column < D) {
        kava_load<T, 8>(o + r * row + column, x);
        kava_load<T, 8>(g + r * row + column, y);
      }
      part[i] = 0;
#pragma unroll
      for (int j = 0; j < 8; j++) part[i] += x[j] * y[j];
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int r = r0 + i * PASS;
#pragma unroll
      for (int with = LANES / 2; with > 0; with /= 2) part[i] += __shfl_xor_sync(0xffffffffu, part[i], with);
      if (lane % LANES == 0) {
        sums[r] = part[i];
        if (delta && r < there) delta[r] = part[i];
      }
    }
  }
  __syncwarp();
}
#endif

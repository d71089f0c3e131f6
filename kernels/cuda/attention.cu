/* kernels/cuda/attention.cu: causal grouped-query flash attention on the tensor cores (mma.sync m16n8k16, sums in f32),
 * for bf16 and f16 and head dimensions of 64, 80, 96, 128 and 256; what it computes: kernels/cpu/attention.c.
 *
 * A warp owns 16 rows of a tile; with s = scale q k^T (capped), everything stays in the registers in which the products
 * leave it: an accumulator's layout is that of the next product's left operand, so P and dS never go through memory.
 *   forward  a block has 16 WARPS queries and goes over the keys that they see, KEYS at a time, with a running maximum
 *   dk, dv   a block has 16 WARPS keys and goes over the queries that see them and over the heads that share them:
 *            S^T = k q^T, P^T, dV += P^T g, dP^T = v g^T, dS^T, dK += dS^T q
 *   dq       as forward: S, P from lse, dP = g v^T, dS, dQ += dS k
 * P is computed twice going back (7 products where 5 would do), and no sum is atomic: the result is the same in every
 * run. Tiles come by cp.async into two stages. Rows in shared memory are 16 bytes longer than they need be, an odd
 * number of 16 bytes, so that ldmatrix finds its 8 rows in different banks.
 *
 * Predicted (H100, mma.sync at about 60 % of 990 TFLOP/s, causal half): Qwen2.5-0.5B, B=8, T=512 a layer: forward 3.8
 * GFLOP, 8-12 us; backward 13 GFLOP, 35-50 us. What to try on the chip: KEYS, WARPS, two tiles of rows a warp. */
#include "kernels/cuda/attention.cuh"

namespace {
/* The tiles of a head dimension: rows a warp owns are 16; `keys` go past in forward and dq, `queries` in dk, dv. */
template <int D> struct tiles {
  static constexpr int warps = D > 128 ? 2 : 4, rows = 16 * warps, row = D + 8;
  static constexpr int keys = D > 128 ? 32 : 64, keys_back = D > 80 ? 32 : 64,
                       queries = D > 128  ? 16
                                 : D > 80 ? 32
                                          : 64;
  static constexpr int slices = D > 128 ? 2 : 1; /* dk, dv: the columns of D are summed in so many blocks */
};

/* `count` rows of D elements, `stride` apart, into shared memory; rows from `limit` on are zeros. */
template <class T, int D, int THREADS>
__device__ __forceinline__ void fetch(T *shared, const T *from, int64_t stride, int count, int limit) {
  constexpr int CHUNKS = D / 8;
  for (int i = threadIdx.x; i < count * CHUNKS; i += THREADS) {
    int r = i / CHUNKS, c = i % CHUNKS * 8;
    bool valid = r < limit;
    kava_copy_async16(shared + r * (D + 8) + c, from + (valid ? r : 0) * stride + c, valid);
  }
}

/* The left operand [16,16] at row 0, column `column` of a tile in shared memory. */
template <class T, int ROW> __device__ __forceinline__ void left(uint32_t out[4], const T *tile, int column, int lane) {
  kava_ldmatrix(out, tile + lane % 16 * ROW + column + lane / 16 * 8);
}
/* acc[N/8][4] = A B^T for A [16,D], of which `operand(k, into)` gives columns k to k + 15, and N rows of B in shared
 * memory. */
template <class T, int D, int N, class Operand>
__device__ __forceinline__ void by_rows(float (&acc)[N / 8][4], Operand operand, const T *b, int lane) {
  constexpr int ROW = D + 8;
#pragma unroll
  for (int n = 0; n < N / 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) acc[n][i] = 0;
#pragma unroll
  for (int k = 0; k < D; k += 16) {
    uint32_t fa[4];
    operand(k, fa);
#pragma unroll
    for (int n = 0; n < N; n += 16) {
      uint32_t fb[4];
      kava_ldmatrix(fb, b + (n + lane % 8 + lane / 16 * 8) * ROW + k + lane / 8 % 2 * 8);
      kava_mma<T>(acc[n / 8], fa, fb[0], fb[1]);
      kava_mma<T>(acc[n / 8 + 1], fa, fb[2], fb[3]);
    }
  }
}
/* The same, with A in shared memory as well. */
template <class T, int D, int N>
__device__ __forceinline__ void rows_by_rows(float (&acc)[N / 8][4], const T *a, const T *b, int lane) {
  by_rows<T, D, N>(
      acc, [&](int k, uint32_t(&fa)[4]) { left<T, D + 8>(fa, a, k, lane); }, b, lane);
}
/* acc[C/8][4] += P B for P [16,N], as accumulators hold it, and N rows of B in shared memory, of which C columns. */
template <class T, int ROW, int N, int C>
__device__ __forceinline__ void held_by_rows(float (&acc)[C / 8][4], const float (&p)[N / 8][4], const T *b, int lane) {
#pragma unroll
  for (int k = 0; k < N; k += 16) {
    uint32_t fa[4] = {kava_pair<T>(p[k / 8][0], p[k / 8][1]), kava_pair<T>(p[k / 8][2], p[k / 8][3]),
                      kava_pair<T>(p[k / 8 + 1][0], p[k / 8 + 1][1]), kava_pair<T>(p[k / 8 + 1][2], p[k / 8 + 1][3])};
#pragma unroll
    for (int c = 0; c < C; c += 16) {
      uint32_t fb[4];
      kava_ldmatrix_transposed(fb, b + (k + lane % 16) * ROW + c + lane / 16 * 8);
      kava_mma<T>(acc[c / 8], fa, fb[0], fb[1]);
      kava_mma<T>(acc[c / 8 + 1], fa, fb[2], fb[3]);
    }
  }
}
/* The sum or maximum of a row, whose columns four lanes share. */
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ __forceinline__ float quad_most(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
/* A warp's 16 rows of accumulators as T, through shared memory (16 rows of its own) to rows of global memory. */
template <class T, int D>
__device__ __forceinline__ void put_rows(T *to, int64_t stride, int limit, const float (&acc)[D / 8][4], float low,
                                         float high, T *shared, int lane, bool add) {
  constexpr int ROW = D + 8, CHUNKS = D / 8;
  __syncwarp();
#pragma unroll
  for (int c = 0; c < D / 8; c++) {
    *reinterpret_cast<uint32_t *>(shared + lane / 4 * ROW + c * 8 + lane % 4 * 2) =
        kava_pair<T>(acc[c][0] * low, acc[c][1] * low);
    *reinterpret_cast<uint32_t *>(shared + (lane / 4 + 8) * ROW + c * 8 + lane % 4 * 2) =
        kava_pair<T>(acc[c][2] * high, acc[c][3] * high);
  }
  __syncwarp();
  for (int i = lane; i < 16 * CHUNKS; i += 32) {
    int r = i / CHUNKS, c = i % CHUNKS * 8;
    if (r >= limit) continue;
    float value[8], old[8];
    kava_load<T, 8>(shared + r * ROW + c, value);
    if (add) {
      kava_load<T, 8>(to + r * stride + c, old);
      for (int j = 0; j < 8; j++) value[j] += old[j];
    }
    kava_store<T, 8>(to + r * stride + c, value);
  }
}

/* The first of `rows` queries' first keys, for every thread of the block. */
template <int WARPS> __device__ __forceinline__ int least_first(const attention_job &a, int b, int t0) {
  KAVA_SHARED(int, room, WARPS);
  int first = threadIdx.x < 16 * WARPS ? attention_first(a, b, t0 + threadIdx.x) : 0x7fffffff;
  return -kava_block_most<WARPS>(-first, room);
}

template <class T, int D> __global__ void __launch_bounds__(32 * tiles<D>::warps) forward_kernel(attention_job a) {
  constexpr int WARPS = tiles<D>::warps, THREADS = 32 * WARPS, KEYS = tiles<D>::keys, ROWS = tiles<D>::rows,
                ROW = tiles<D>::row;
  T *sq = (T *)kava_dynamic_shared(), *sk = sq + ROWS * ROW, *sv = sk + 2 * KEYS * ROW;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int t0 = (gridDim.x - 1 - blockIdx.x) * ROWS, h = blockIdx.y, b = blockIdx.z; /* the longest first */
  int64_t token = (int64_t)b * a.length;
  const T *q = (const T *)a.q + (token + t0) * a.q_row + h * D;
  const T *k = (const T *)a.k + token * a.k_row + h / a.group * D;
  const T *v = (const T *)a.v + token * a.v_row + h / a.group * D;
  int last = min(t0 + ROWS, a.length) - 1;
  int least = least_first<WARPS>(a, b, t0);
  int from = least / KEYS * KEYS, count = least > last ? 0 : (last - from) / KEYS + 1;
  int row0 = t0 + 16 * warp + lane / 4, row1 = row0 + 8;
  int first0 = attention_first(a, b, row0), first1 = attention_first(a, b, row1);

  fetch<T, D, THREADS>(sq, q, a.q_row, ROWS, a.length - t0);
  if (count) {
    fetch<T, D, THREADS>(sk, k + from * a.k_row, a.k_row, KEYS, a.length - from);
    fetch<T, D, THREADS>(sv, v + from * a.v_row, a.v_row, KEYS, a.length - from);
  }
  kava_copy_commit();

  constexpr bool HELD = D <= 128;
  uint32_t held[HELD ? D / 16 : 1][4];
  float acc[D / 8][4], most0 = -INFINITY, most1 = -INFINITY, sum0 = 0, sum1 = 0;
#pragma unroll
  for (int c = 0; c < D / 8; c++)
#pragma unroll
    for (int i = 0; i < 4; i++) acc[c][i] = 0;
  float factor = a.softcap > 0 ? LOG2E : a.scale * LOG2E;
  for (int n = 0; n < count; n++) {
    int j0 = from + n * KEYS, next = j0 + KEYS, stage = n % 2;
    if (n + 1 < count) {
      fetch<T, D, THREADS>(sk + (stage ^ 1) * KEYS * ROW, k + next * a.k_row, a.k_row, KEYS, a.length - next);
      fetch<T, D, THREADS>(sv + (stage ^ 1) * KEYS * ROW, v + next * a.v_row, a.v_row, KEYS, a.length - next);
    }
    kava_copy_commit();
    kava_copy_wait<1>();
    __syncthreads();
    float s[KEYS / 8][4];
    if (HELD) { /* the queries' operands stay in registers */
      if (n == 0)
#pragma unroll
        for (int i = 0; i < D / 16; i++)
          left<T, ROW>(held[i % (HELD ? D / 16 : 1)], sq + 16 * warp * ROW, 16 * i, lane);
      by_rows<T, D, KEYS>(
          s,
          [&](int at, uint32_t(&fa)[4]) {
#pragma unroll
            for (int i = 0; i < 4; i++) fa[i] = held[HELD ? at / 16 : 0][i];
          },
          sk + stage * KEYS * ROW, lane);
    } else {
      rows_by_rows<T, D, KEYS>(s, sq + 16 * warp * ROW, sk + stage * KEYS * ROW, lane);
    }
    bool masked = j0 + KEYS - 1 > row0 || first0 > j0 || first1 > j0;
    float top0 = most0, top1 = most1;
#pragma unroll
    for (int c = 0; c < KEYS / 8; c++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int key = j0 + c * 8 + lane % 4 * 2 + i % 2;
        float x = s[c][i];
        if (a.softcap > 0) x = attention_cap(x * a.scale, a.softcap);
        x *= factor;
        if (masked && (key > (i < 2 ? row0 : row1) || key < (i < 2 ? first0 : first1))) x = -INFINITY;
        s[c][i] = x;
        if (i < 2)
          top0 = fmaxf(top0, x);
        else
          top1 = fmaxf(top1, x);
      }
    top0 = quad_most(top0), top1 = quad_most(top1);
    float base0 = top0 == -INFINITY ? 0 : top0, base1 = top1 == -INFINITY ? 0 : top1;
    float shrink0 = kava_exp2(most0 - base0), shrink1 = kava_exp2(most1 - base1);
    most0 = top0, most1 = top1;
    sum0 *= shrink0, sum1 *= shrink1;
#pragma unroll
    for (int c = 0; c < D / 8; c++) {
      acc[c][0] *= shrink0, acc[c][1] *= shrink0;
      acc[c][2] *= shrink1, acc[c][3] *= shrink1;
    }
#pragma unroll
    for (int c = 0; c < KEYS / 8; c++) {
#pragma unroll
      for (int i = 0; i < 4; i++) s[c][i] = kava_exp2(s[c][i] - (i < 2 ? base0 : base1));
      sum0 += s[c][0] + s[c][1];
      sum1 += s[c][2] + s[c][3];
    }
    held_by_rows<T, ROW, KEYS, D>(acc, s, sv + stage * KEYS * ROW, lane);
    __syncthreads();
  }
  kava_copy_wait<0>();
  __syncthreads();
  sum0 = quad_sum(sum0), sum1 = quad_sum(sum1);
  put_rows<T, D>((T *)a.out + (token + t0 + 16 * warp) * a.row + h * D, a.row, a.length - t0 - 16 * warp, acc,
                 sum0 > 0 ? 1 / sum0 : 0, sum1 > 0 ? 1 / sum1 : 0, sq + 16 * warp * ROW, lane, false);
  if (lane % 4 == 0 && a.lse) {
    float *lse = a.lse + ((int64_t)b * a.heads + h) * a.length;
    if (row0 < a.length) lse[row0] = sum0 > 0 ? most0 * LN2 + logf(sum0) : -INFINITY;
    if (row1 < a.length) lse[row1] = sum1 > 0 ? most1 * LN2 + logf(sum1) : -INFINITY;
  }
}

/* delta, a warp for each (row, head) */
template <class T, int D> __global__ void __launch_bounds__(256) delta_kernel(attention_job a) {
  int lane = threadIdx.x % 32;
  int64_t total = (int64_t)a.batch * a.length * a.heads;
  for (int64_t at = blockIdx.x * 8 + threadIdx.x / 32; at < total; at += gridDim.x * 8) {
    int64_t token = at / a.heads;
    int h = (int)(at % a.heads);
    const T *o = (const T *)a.o + token * a.row + h * D, *g = (const T *)a.g + token * a.row + h * D;
    float sum = 0;
    for (int c = lane * 8; c < D; c += 256) {
      float x[8], y[8];
      kava_load<T, 8>(o + c, x);
      kava_load<T, 8>(g + c, y);
#pragma unroll
      for (int j = 0; j < 8; j++) sum += x[j] * y[j];
    }
    sum = kava_warp_sum(sum);
    if (lane == 0) a.delta[(token / a.length * a.heads + h) * a.length + token % a.length] = sum;
  }
}
/* least, a thread for each 16 queries */
__global__ void __launch_bounds__(128) least_kernel(attention_job a) {
  int groups = (a.length + 15) / 16, at = blockIdx.x * 128 + threadIdx.x;
  if (at >= a.batch * groups) return;
  int least = 0x7fffffff;
  for (int i = 0; i < 16; i++) least = min(least, attention_first(a, at / groups, at % groups * 16 + i));
  a.least[at] = least;
}

/* blockIdx: keys' tile and slice of columns; key head and split; row. */
template <class T, int D> __global__ void __launch_bounds__(32 * tiles<D>::warps) keys_kernel(attention_job a) {
  constexpr int WARPS = tiles<D>::warps, THREADS = 32 * WARPS, QUERIES = tiles<D>::queries, ROWS = tiles<D>::rows,
                ROW = tiles<D>::row, SLICES = tiles<D>::slices, C = D / SLICES;
  T *sk = (T *)kava_dynamic_shared(), *sv = sk + ROWS * ROW, *sq = sv + ROWS * ROW, *sg = sq + 2 * QUERIES * ROW;
  float *slse = (float *)(sg + 2 * QUERIES * ROW), *sdelta = slse + 2 * QUERIES;
  int *sstart = (int *)(sdelta + 2 * QUERIES);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int j0 = blockIdx.x / SLICES * ROWS, slice = blockIdx.x % SLICES * C;
  int hk = blockIdx.y / a.splits, split = blockIdx.y % a.splits, b = blockIdx.z;
  int head = hk * a.group + split * a.group / a.splits, heads_end = hk * a.group + (split + 1) * a.group / a.splits;
  int64_t token = (int64_t)b * a.length;
  int tiles_end = 0, tiles_from = j0 / QUERIES, groups = (a.length + 15) / 16;
  const int *least = a.least + (int64_t)b * groups;
  {
    KAVA_SHARED(int, room, WARPS);
    int seen = 0; /* one behind the last tile of queries of which one sees one of these keys */
    for (int i = tiles_from * (QUERIES / 16) + threadIdx.x; i < groups; i += THREADS)
      if (least[i] < j0 + ROWS) seen = i / (QUERIES / 16) + 1;
    tiles_end = kava_block_most<WARPS>(seen, room);
  }

  /* the next such tile, from `tile` on; tiles_end: none */
  auto seeing = [&](int tile) {
    for (; tile < tiles_end; tile++)
      for (int i = tile * (QUERIES / 16); i < (tile + 1) * (QUERIES / 16) && i < groups; i++)
        if (least[i] < j0 + ROWS) return tile;
    return tile;
  };
  auto fetch_queries = [&](int stage, int h, int tile) {
    int t0 = tile * QUERIES;
    int64_t line = ((int64_t)b * a.heads + h) * a.length + t0;
    const T *q = (const T *)a.q + (token + t0) * a.q_row + h * D, *g = (const T *)a.g + (token + t0) * a.row + h * D;
    fetch<T, D, THREADS>(sq + stage * QUERIES * ROW, q, a.q_row, QUERIES, a.length - t0);
    fetch<T, D, THREADS>(sg + stage * QUERIES * ROW, g, a.row, QUERIES, a.length - t0);
    for (int i = threadIdx.x; i < QUERIES; i += THREADS) {
      bool valid = t0 + i < a.length;
      kava_copy_async4(slse + stage * QUERIES + i, a.lse + line + (valid ? i : 0), valid);
      kava_copy_async4(sdelta + stage * QUERIES + i, a.delta + line + (valid ? i : 0), valid);
      if (a.start) kava_copy_async4(sstart + stage * QUERIES + i, a.start + token + t0 + (valid ? i : 0), valid);
    }
  };

  int tile = seeing(tiles_from), stage = 0;
  if (tile >= tiles_end) head = heads_end;
  fetch<T, D, THREADS>(sk, (const T *)a.k + (token + j0) * a.k_row + hk * D, a.k_row, ROWS, a.length - j0);
  fetch<T, D, THREADS>(sv, (const T *)a.v + (token + j0) * a.v_row + hk * D, a.v_row, ROWS, a.length - j0);
  if (head < heads_end) fetch_queries(0, head, tile);
  kava_copy_commit();

  float dk[C / 8][4], dv[C / 8][4];
#pragma unroll
  for (int c = 0; c < C / 8; c++)
#pragma unroll
    for (int i = 0; i < 4; i++) dk[c][i] = dv[c][i] = 0;
  int key0 = j0 + 16 * warp + lane / 4, key1 = key0 + 8;
  float factor = a.softcap > 0 ? LOG2E : a.scale * LOG2E;
  while (head < heads_end) {
    int t0 = tile * QUERIES;
    tile = seeing(tile + 1);
    if (tile >= tiles_end) {
      head++;
      tile = seeing(tiles_from);
    }
    if (head < heads_end) fetch_queries(stage ^ 1, head, tile);
    kava_copy_commit();
    kava_copy_wait<1>();
    __syncthreads();
    const T *q = sq + stage * QUERIES * ROW, *g = sg + stage * QUERIES * ROW;
    const float *lse = slse + stage * QUERIES, *delta = sdelta + stage * QUERIES;
    const int *start = sstart + stage * QUERIES;
    float p[QUERIES / 8][4], dp[QUERIES / 8][4];
    rows_by_rows<T, D, QUERIES>(p, sk + 16 * warp * ROW, q, lane);
    rows_by_rows<T, D, QUERIES>(dp, sv + 16 * warp * ROW, g, lane);
#pragma unroll
    for (int c = 0; c < QUERIES / 8; c++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        int column = c * 8 + lane % 4 * 2 + half, t = t0 + column;
        int first = attention_from(a, a.start ? start[column] : 0, t);
        float base = lse[column] * LOG2E, mean = delta[column];
#pragma unroll
        for (int i = half; i < 4; i += 2) {
          int key = i < 2 ? key0 : key1;
          float x = p[c][i], slope = 1;
          if (a.softcap > 0) {
            x = attention_cap(x * a.scale, a.softcap);
            slope = attention_slope(x, a.softcap);
          }
          x = key <= t && key >= first ? kava_exp2(x * factor - base) : 0;
          p[c][i] = x;
          dp[c][i] = x * (dp[c][i] - mean) * slope;
        }
      }
    held_by_rows<T, ROW, QUERIES, C>(dv, p, g + slice, lane);
    held_by_rows<T, ROW, QUERIES, C>(dk, dp, q + slice, lane);
    __syncthreads();
    stage ^= 1;
  }
  kava_copy_wait<0>();
  __syncthreads();
  int limit = a.length - j0 - 16 * warp;
  if (a.splits == 1) {
    int64_t row = token + j0 + 16 * warp;
    if (a.dk)
      put_rows<T, C>((T *)a.dk + row * a.dk_row + hk * D + slice, a.dk_row, limit, dk, a.scale, a.scale,
                     sk + 16 * warp * ROW, lane, a.add_k);
    if (a.dv)
      put_rows<T, C>((T *)a.dv + row * a.dv_row + hk * D + slice, a.dv_row, limit, dv, 1, 1, sk + 16 * warp * ROW, lane,
                     a.add_v);
    return;
  }
  int64_t size = (int64_t)a.batch * a.length * a.kv_heads * D;
  float *to = a.partial + split * 2 * size + ((token + j0 + 16 * warp) * a.kv_heads + hk) * D + slice;
#pragma unroll
  for (int c = 0; c < C / 8; c++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int r = lane / 4 + 8 * half;
      if (r >= limit) continue;
      float *at = to + (int64_t)r * a.kv_heads * D + c * 8 + lane % 4 * 2;
      *reinterpret_cast<float2 *>(at) = make_float2(dk[c][2 * half] * a.scale, dk[c][2 * half + 1] * a.scale);
      *reinterpret_cast<float2 *>(at + size) = make_float2(dv[c][2 * half], dv[c][2 * half + 1]);
    }
}
/* dk, dv (+)= the sum of their parts, in order; blockIdx.y: which of the two */
template <class T> __global__ void __launch_bounds__(256) parts_kernel(attention_job a) {
  T *to = (T *)(blockIdx.y ? a.dv : a.dk);
  bool add = blockIdx.y ? a.add_v : a.add_k;
  int width = a.kv_heads * a.dim;
  int64_t size = (int64_t)a.batch * a.length * width;
  for (int64_t i = ((int64_t)blockIdx.x * 256 + threadIdx.x) * 4; to && i < size; i += (int64_t)gridDim.x * 1024) {
    T *at = to + i / width * (blockIdx.y ? a.dv_row : a.dk_row) + i % width;
    float sum[4] = {0, 0, 0, 0}, part[4];
    for (int s = 0; s < a.splits; s++) {
      kava_load<float, 4>(a.partial + (2 * s + blockIdx.y) * size + i, part);
#pragma unroll
      for (int j = 0; j < 4; j++) sum[j] += part[j];
    }
    if (add) {
      kava_load<T, 4>(at, part);
#pragma unroll
      for (int j = 0; j < 4; j++) sum[j] += part[j];
    }
    kava_store<T, 4>(at, sum);
  }
}

template <class T, int D> __global__ void __launch_bounds__(32 * tiles<D>::warps) queries_kernel(attention_job a) {
  constexpr int WARPS = tiles<D>::warps, THREADS = 32 * WARPS, KEYS = tiles<D>::keys_back, ROWS = tiles<D>::rows,
                ROW = tiles<D>::row;
  T *sq = (T *)kava_dynamic_shared(), *sg = sq + ROWS * ROW, *sk = sg + ROWS * ROW, *sv = sk + 2 * KEYS * ROW;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int t0 = (gridDim.x - 1 - blockIdx.x) * ROWS, h = blockIdx.y, b = blockIdx.z;
  int64_t token = (int64_t)b * a.length;
  const T *k = (const T *)a.k + token * a.k_row + h / a.group * D;
  const T *v = (const T *)a.v + token * a.v_row + h / a.group * D;
  int last = min(t0 + ROWS, a.length) - 1, least = 0x7fffffff, groups = (a.length + 15) / 16;
  for (int i = t0 / 16; i < min(groups, t0 / 16 + WARPS); i++) least = min(least, a.least[b * groups + i]);
  int from = least / KEYS * KEYS, count = least > last ? 0 : (last - from) / KEYS + 1;
  int row0 = t0 + 16 * warp + lane / 4, row1 = row0 + 8;
  int first0 = attention_first(a, b, row0), first1 = attention_first(a, b, row1);
  int64_t line = ((int64_t)b * a.heads + h) * a.length;
  float base0 = row0 < a.length ? a.lse[line + row0] * LOG2E : 0,
        base1 = row1 < a.length ? a.lse[line + row1] * LOG2E : 0;
  float mean0 = row0 < a.length ? a.delta[line + row0] : 0, mean1 = row1 < a.length ? a.delta[line + row1] : 0;

  fetch<T, D, THREADS>(sq, (const T *)a.q + (token + t0) * a.q_row + h * D, a.q_row, ROWS, a.length - t0);
  fetch<T, D, THREADS>(sg, (const T *)a.g + (token + t0) * a.row + h * D, a.row, ROWS, a.length - t0);
  if (count) {
    fetch<T, D, THREADS>(sk, k + from * a.k_row, a.k_row, KEYS, a.length - from);
    fetch<T, D, THREADS>(sv, v + from * a.v_row, a.v_row, KEYS, a.length - from);
  }
  kava_copy_commit();
  float acc[D / 8][4];
#pragma unroll
  for (int c = 0; c < D / 8; c++)
#pragma unroll
    for (int i = 0; i < 4; i++) acc[c][i] = 0;
  float factor = a.softcap > 0 ? LOG2E : a.scale * LOG2E;
  for (int n = 0; n < count; n++) {
    int j0 = from + n * KEYS, next = j0 + KEYS, stage = n % 2;
    if (n + 1 < count) {
      fetch<T, D, THREADS>(sk + (stage ^ 1) * KEYS * ROW, k + next * a.k_row, a.k_row, KEYS, a.length - next);
      fetch<T, D, THREADS>(sv + (stage ^ 1) * KEYS * ROW, v + next * a.v_row, a.v_row, KEYS, a.length - next);
    }
    kava_copy_commit();
    kava_copy_wait<1>();
    __syncthreads();
    float s[KEYS / 8][4], dp[KEYS / 8][4];
    rows_by_rows<T, D, KEYS>(s, sq + 16 * warp * ROW, sk + stage * KEYS * ROW, lane);
    rows_by_rows<T, D, KEYS>(dp, sg + 16 * warp * ROW, sv + stage * KEYS * ROW, lane);
#pragma unroll
    for (int c = 0; c < KEYS / 8; c++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int key = j0 + c * 8 + lane % 4 * 2 + i % 2;
        float x = s[c][i], slope = 1;
        if (a.softcap > 0) {
          x = attention_cap(x * a.scale, a.softcap);
          slope = attention_slope(x, a.softcap);
        }
        bool sees = key <= (i < 2 ? row0 : row1) && key >= (i < 2 ? first0 : first1);
        x = sees ? kava_exp2(x * factor - (i < 2 ? base0 : base1)) : 0;
        s[c][i] = x * (dp[c][i] - (i < 2 ? mean0 : mean1)) * slope;
      }
    held_by_rows<T, ROW, KEYS, D>(acc, s, sk + stage * KEYS * ROW, lane);
    __syncthreads();
  }
  kava_copy_wait<0>();
  __syncthreads();
  put_rows<T, D>((T *)a.dq + (token + t0 + 16 * warp) * a.dq_row + h * D, a.dq_row, a.length - t0 - 16 * warp, acc,
                 a.scale, a.scale, sq + 16 * warp * ROW, lane, a.add_q);
}

template <class T> void parts(const attention_job &a) {
  kava_launch("attention_grad: parts", parts_kernel<T>,
              dim3(kava_cuda_blocks((int64_t)a.batch * a.length * a.kv_heads * a.dim, 1024), 2), 256, 0, a);
}
template <class T, int D> void forward(const attention_job &a) {
  typedef tiles<D> t;
  size_t shared = (size_t)(t::rows + 4 * t::keys) * t::row * sizeof(T);
  kava_launch("attention", forward_kernel<T, D>, dim3((a.length + t::rows - 1) / t::rows, a.heads, a.batch),
              32 * t::warps, shared, a);
}
template <class T, int D> void backward(const attention_job &a) {
  typedef tiles<D> t;
  int groups = (a.length + 15) / 16;
  kava_launch("attention_grad: delta", delta_kernel<T, D>, kava_cuda_blocks((int64_t)a.batch * a.length * a.heads, 8),
              256, 0, a);
  kava_launch("attention_grad: least", least_kernel, (a.batch * groups + 127) / 128, 128, 0, a);
  unsigned tile_count = (a.length + t::rows - 1) / t::rows;
  if (a.dk || a.dv) {
    size_t shared = (size_t)(2 * t::rows + 4 * t::queries) * t::row * sizeof(T) + 6 * t::queries * sizeof(float);
    kava_launch("attention_grad: keys", keys_kernel<T, D>, dim3(tile_count * t::slices, a.kv_heads * a.splits, a.batch),
                32 * t::warps, shared, a);
    if (a.splits > 1) parts<T>(a);
  }
  if (a.dq) {
    size_t shared = (size_t)(2 * t::rows + 4 * t::keys_back) * t::row * sizeof(T);
    kava_launch("attention_grad: queries", queries_kernel<T, D>, dim3(tile_count, a.heads, a.batch), 32 * t::warps,
                shared, a);
  }
}
template <class T> bool run(const attention_job &a, bool back) {
  switch (a.dim) {
#define CASE(D)                                                                                                        \
  case D: back ? backward<T, D>(a) : forward<T, D>(a); return true;
    CASE(64)
    CASE(80)
    CASE(96)
    CASE(128)
    CASE(256)
  default: return false;
  }
}
bool run_typed(kava_dtype dtype, const attention_job &a, bool back) {
  if (!kava_attention_aligned(a)) return false;
  if (dtype == KAVA_BF16) return run<kava_bf16>(a, back);
  return dtype == KAVA_F16 && run<kava_f16>(a, back);
}
} // namespace

bool kava_attention_tensor(kava_dtype dtype, const attention_job &job) { return run_typed(dtype, job, false); }
bool kava_attention_tensor_grad(kava_dtype dtype, const attention_job &job) { return run_typed(dtype, job, true); }
void kava_attention_parts(kava_dtype dtype, const attention_job &job) {
  dtype == KAVA_BF16 ? parts<kava_bf16>(job) : parts<kava_f16>(job);
}

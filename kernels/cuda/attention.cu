/* kernels/cuda/attention.cu: causal grouped-query flash attention on the tensor cores (mma.sync m16n8k16, sums in f32),
 * for bf16 and f16 and head dimensions of 64, 80, 96, 128 and 256; what it computes: kernels/cpu/attention.c.
 *
 * A warp owns 16 rows of a tile; with s = scale q k^T (capped), everything stays in the registers in which the products
 * leave it: an accumulator's layout is that of the next product's left operand, so P and dS never go through memory.
 *   forward  a block has 16 WARPS queries and goes over the keys that they see, KEYS at a time, with a running maximum
 *   dk, dv   a block has 16 WARPS keys and goes over the queries that see them and over the heads that share them:
 *            S^T = k q^T, P^T, dV += P^T g, dP^T = v g^T, dS^T, dK += dS^T q
 *   dq       as forward: S, P from lse, dP = g v^T, dS, dQ += dS k
 *            before it, delta and the first key that any of 16 queries sees (`least`), which dk, dv read
 * P is computed twice going back (7 products where 5 would do), and no sum is atomic: the result is the same in every
 * run. Tiles come by cp.async into two stages. Rows in shared memory are 16 bytes longer than they need be, an odd
 * number of 16 bytes, so that ldmatrix finds its 8 rows in different banks.
 *
 * Before the softcap and masks left the inner loops, an H100 took, with B=8, T=512: 12/2 heads of 128 forward 80 us (81
 * TFLOP/s), 14/2 of 64 forward 51 us and back 215 us; 147 and 88 TFLOP/s at T=16384. A warp of 16 rows reads as many
 * bytes from shared memory as it multiplies in registers: that bounds it at about half of what mma.sync could do, and
 * Hopper has attention_hopper.cu. */
#include "kernels/cuda/attention_tensor.cuh"

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

/* Forward and dq: a block's queries of a head, and the tiles of KEYS keys that they see; the longest come first. */
struct queries {
  int lane, warp, b, h, t0, from, count; /* from: the first tile's key */
  attention_rows rows;
};
template <int WARPS, int KEYS> __device__ __forceinline__ queries queries_of(const attention_job &a) {
  KAVA_SHARED(int, room, WARPS);
  queries w;
  w.lane = threadIdx.x % 32, w.warp = threadIdx.x / 32, w.h = blockIdx.x, w.b = blockIdx.y;
  w.t0 = (gridDim.z - 1 - blockIdx.z) * 16 * WARPS;
  w.rows = attention_rows_of(a, w.b, w.t0 + 16 * w.warp + w.lane / 4);
  int least = -kava_block_most<WARPS>(-min(w.rows.first0, w.rows.first1), room);
  int last = min(w.t0 + 16 * WARPS, a.length) - 1;
  w.from = least / KEYS * KEYS, w.count = least > last ? 0 : (last - w.from) / KEYS + 1;
  return w;
}
/* Calls body(j0, k, v) with each tile of keys and values. What was fetched before belongs to the first. At the end
 * nothing in shared memory is in use. A barrier a tile: behind it a tile is there, and the one before it done with. */
template <class T, int D, int WARPS, int KEYS, class Body>
__device__ __forceinline__ void over_keys(const attention_job &a, const queries &w, T *room, Body body) {
  constexpr int ROW = tiles<D>::row;
  int64_t token = (int64_t)w.b * a.length + w.from;
  const T *k = (const T *)a.k + token * a.k_row + w.h / a.group * D;
  const T *v = (const T *)a.v + token * a.v_row + w.h / a.group * D;
  auto fetch_tile = [&](int n) {
    T *to = room + n % 2 * 2 * KEYS * ROW;
    fetch<T, D, 32 * WARPS>(to, k + n * KEYS * a.k_row, a.k_row, KEYS, a.length - w.from - n * KEYS);
    fetch<T, D, 32 * WARPS>(to + KEYS * ROW, v + n * KEYS * a.v_row, a.v_row, KEYS, a.length - w.from - n * KEYS);
  };
  if (w.count) fetch_tile(0);
  kava_copy_commit();
  for (int n = 0; n < w.count; n++) {
    kava_copy_wait<0>();
    __syncthreads();
    if (n + 1 < w.count) fetch_tile(n + 1);
    kava_copy_commit();
    const T *tile = room + n % 2 * 2 * KEYS * ROW;
    body(w.from + n * KEYS, tile, tile + KEYS * ROW);
  }
  kava_copy_wait<0>();
  __syncthreads();
}

template <class T, int D> __global__ void __launch_bounds__(32 * tiles<D>::warps) forward_kernel(attention_job a) {
  constexpr int WARPS = tiles<D>::warps, KEYS = tiles<D>::keys, ROWS = tiles<D>::rows, ROW = tiles<D>::row;
  queries w = queries_of<WARPS, KEYS>(a);
  T *q = (T *)kava_dynamic_shared(), *mine = q + 16 * w.warp * ROW;
  int64_t token = (int64_t)w.b * a.length + w.t0;
  fetch<T, D, 32 * WARPS>(q, (const T *)a.q + token * a.q_row + w.h * D, a.q_row, ROWS, a.length - w.t0);

  constexpr bool HELD = D <= 128; /* the queries' operands stay in registers */
  uint32_t held[HELD ? D / 16 : 1][4];
  bool first = true;
  float acc[D / 8][4];
#pragma unroll
  for (int i = 0; i < D / 2; i++) acc[i / 4][i % 4] = 0;
  attention_softmax softmax(a);
  over_keys<T, D, WARPS, KEYS>(a, w, q + ROWS * ROW, [&](int j0, const T *k, const T *v) {
    float s[KEYS / 8][4];
    if (HELD) {
      if (first)
#pragma unroll
        for (int i = 0; i < D / 16; i++) left<T, ROW>(held[HELD ? i : 0], mine, 16 * i, w.lane);
      first = false;
      by_rows<T, D, KEYS>(
          s,
          [&](int at, uint32_t(&fa)[4]) {
#pragma unroll
            for (int i = 0; i < 4; i++) fa[i] = held[HELD ? at / 16 : 0][i];
          },
          k, w.lane);
    } else {
      rows_by_rows<T, D, KEYS>(s, mine, k, w.lane);
    }
    softmax.step(a, w.rows, j0, s, acc);
    held_by_rows<T, ROW, KEYS, D>(acc, s, v, w.lane);
  });
  softmax.finish(a, w.rows, w.b, w.h);
  put_rows<T, D>((T *)a.out + (token + 16 * w.warp) * a.row + w.h * D, a.row, a.length - w.t0 - 16 * w.warp, acc,
                 softmax.low(), softmax.high(), mine, w.lane, false);
}

/* blockIdx: key head and split; row; keys' tile and slice of columns. */
template <class T, int D> __global__ void __launch_bounds__(32 * tiles<D>::warps) keys_kernel(attention_job a) {
  constexpr int WARPS = tiles<D>::warps, THREADS = 32 * WARPS, QUERIES = tiles<D>::queries, ROWS = tiles<D>::rows,
                ROW = tiles<D>::row, SLICES = tiles<D>::slices, C = D / SLICES;
  T *sk = (T *)kava_dynamic_shared(), *sv = sk + ROWS * ROW, *sq = sv + ROWS * ROW, *sg = sq + 2 * QUERIES * ROW;
  float *slse = (float *)(sg + 2 * QUERIES * ROW), *sdelta = slse + 2 * QUERIES;
  int *sstart = (int *)(sdelta + 2 * QUERIES);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int j0 = blockIdx.z / SLICES * ROWS, slice = blockIdx.z % SLICES * C;
  int hk = blockIdx.x / a.splits, split = blockIdx.x % a.splits, b = blockIdx.y;
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
  float less = a.softcap > 0 ? 0 : 1; /* of delta, what attention_capped leaves to subtract */
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
    auto column = [&](int i) { return i / 4 * 8 + lane % 4 * 2 + i % 2; };
    if (a.softcap > 0)
#pragma unroll
      for (int i = 0; i < QUERIES / 2; i++) attention_capped(a, p[i / 4][i % 4], dp[i / 4][i % 4], delta[column(i)]);
    bool masked = a.start || a.window || t0 < j0 + ROWS; /* queries that are not there have q = g = 0 */
#pragma unroll
    for (int i = 0; i < QUERIES / 2; i++) {
      int t = t0 + column(i), key = i % 4 < 2 ? key0 : key1;
      float x = kava_exp2(p[i / 4][i % 4] * factor - lse[column(i)] * LOG2E);
      if (masked && (key > t || key < attention_from(a, a.start ? start[column(i)] : 0, t))) x = 0;
      p[i / 4][i % 4] = x;
      dp[i / 4][i % 4] = x * (dp[i / 4][i % 4] - less * delta[column(i)]);
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

/* dq; before it delta, and `least`, for the kernel of dk and dv */
template <class T, int D, int KEYS>
__global__ void __launch_bounds__(32 * tiles<D>::warps) queries_kernel(attention_job a) {
  constexpr int WARPS = tiles<D>::warps, ROWS = tiles<D>::rows, ROW = tiles<D>::row;
  KAVA_SHARED(float, sums, ROWS);
  queries w = queries_of<WARPS, KEYS>(a);
  T *q = (T *)kava_dynamic_shared() + 16 * w.warp * ROW, *g = q + ROWS * ROW, *room = (T *)kava_dynamic_shared();
  int64_t token = (int64_t)w.b * a.length + w.t0, line = ((int64_t)w.b * a.heads + w.h) * a.length;
  const T *rows_g = (const T *)a.g + token * a.row + w.h * D, *rows_o = (const T *)a.o + token * a.row + w.h * D;
  fetch<T, D, 32 * WARPS>(room, (const T *)a.q + token * a.q_row + w.h * D, a.q_row, ROWS, a.length - w.t0);
  fetch<T, D, 32 * WARPS>(room + ROWS * ROW, rows_g, a.row, ROWS, a.length - w.t0);
  int first = 16 * w.warp, least = -kava_warp_most(-min(w.rows.first0, w.rows.first1));
  attention_delta<T, D>(rows_o + first * a.row, rows_g + first * a.row, a.row, a.length - w.t0 - first, sums + first,
                        a.delta + line + w.t0 + first);
  if (w.h == 0 && w.lane == 0 && w.t0 + first < a.length)
    a.least[w.b * ((a.length + 15) / 16) + w.t0 / 16 + w.warp] = least;
  if (!a.dq) w.count = 0;
  float base0 = w.rows.row0 < a.length ? a.lse[line + w.rows.row0] * LOG2E : 0,
        base1 = w.rows.row1 < a.length ? a.lse[line + w.rows.row1] * LOG2E : 0;
  float mean0 = sums[w.rows.row0 - w.t0], mean1 = sums[w.rows.row1 - w.t0];

  float acc[D / 8][4];
#pragma unroll
  for (int i = 0; i < D / 2; i++) acc[i / 4][i % 4] = 0;
  float factor = a.softcap > 0 ? LOG2E : a.scale * LOG2E;
  float less0 = a.softcap > 0 ? 0 : mean0, less1 = a.softcap > 0 ? 0 : mean1; /* what attention_capped leaves */
  over_keys<T, D, WARPS, KEYS>(a, w, room + 2 * ROWS * ROW, [&](int j0, const T *k, const T *v) {
    float s[KEYS / 8][4], dp[KEYS / 8][4];
    rows_by_rows<T, D, KEYS>(s, q, k, w.lane);
    rows_by_rows<T, D, KEYS>(dp, g, v, w.lane);
    if (a.softcap > 0)
#pragma unroll
      for (int i = 0; i < KEYS / 2; i++)
        attention_capped(a, s[i / 4][i % 4], dp[i / 4][i % 4], i % 4 < 2 ? mean0 : mean1);
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++)
      s[i / 4][i % 4] = kava_exp2(s[i / 4][i % 4] * factor - (i % 4 < 2 ? base0 : base1));
    attention_mask(s, w.rows, j0, 0);
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) s[i / 4][i % 4] *= dp[i / 4][i % 4] - (i % 4 < 2 ? less0 : less1);
    held_by_rows<T, ROW, KEYS, D>(acc, s, k, w.lane);
  });
  if (a.dq)
    put_rows<T, D>((T *)a.dq + (token + first) * a.dq_row + w.h * D, a.dq_row, a.length - w.t0 - first, acc, a.scale,
                   a.scale, q, w.lane, a.add_q);
}

template <class T> void parts(const attention_job &a) {
  kava_launch("attention_grad: parts", parts_kernel<T>,
              dim3(kava_cuda_blocks((int64_t)a.batch * a.length * a.kv_heads * a.dim, 1024), 2), 256, 0, a);
}
template <class T, int D> void forward(const attention_job &a) {
  typedef tiles<D> t;
  size_t shared = (size_t)(t::rows + 4 * t::keys) * t::row * sizeof(T);
  kava_launch("attention", forward_kernel<T, D>, dim3(a.heads, a.batch, (a.length + t::rows - 1) / t::rows),
              32 * t::warps, shared, a);
}
/* False: a block has not the shared memory for so many keys. */
template <class T, int D, int KEYS> bool backward_queries(const attention_job &a) {
  typedef tiles<D> t;
  size_t shared = (size_t)(2 * t::rows + 4 * KEYS) * t::row * sizeof(T);
  if (shared + 1024 > kava_cuda_device()->shared_most) return false; /* 1024: static, and more than that */
  kava_launch("attention_grad: queries", queries_kernel<T, D, KEYS>,
              dim3(a.heads, a.batch, (a.length + t::rows - 1) / t::rows), 32 * t::warps, shared, a);
  return true;
}
template <class T, int D> void backward(const attention_job &a) {
  typedef tiles<D> t;
  unsigned tile_count = (a.length + t::rows - 1) / t::rows;
  /* 99 KiB a block, as GPUs of 8.6 and 8.9 have, are too few for 256 dimensions and 32 keys */
  if (!backward_queries<T, D, t::keys_back>(a)) backward_queries<T, D, (D > 128 ? 16 : t::keys_back)>(a);
  if (!a.dk && !a.dv) return;
  size_t shared = (size_t)(2 * t::rows + 4 * t::queries) * t::row * sizeof(T) + 6 * t::queries * sizeof(float);
  kava_launch("attention_grad: keys", keys_kernel<T, D>, dim3(a.kv_heads * a.splits, a.batch, tile_count * t::slices),
              32 * t::warps, shared, a);
  if (a.splits > 1) parts<T>(a);
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

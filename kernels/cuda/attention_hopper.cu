/* kernels/cuda/attention_hopper.cu: what attention.cu does, for head dimensions 64 and 128, by Hopper's products of a
 * warpgroup, which take both operands from shared memory: no ldmatrix, twice the rate of mma.sync.
 *
 * A warpgroup (GROUPS to a block) owns 64 rows; keys and queries come 64 at a time, by cp.async into two stages, a
 * barrier a tile: behind it a tile is there, and the one before it is done with. Everything is made of two products:
 *   scores  s [64,64] = A B^T, over the head's dimension, A and B tiles in shared memory
 *   weigh   acc [64,D] += P B, over 64 rows of B; P in registers, as `scores` left it, B the same kind of tile
 *   forward  a warpgroup has 64 queries of a head: scores(q, k), softmax with a running maximum, weigh(p, v)
 *   queries  the same rows: scores(q, k), scores(g, v), dq: weigh(ds, k). Before it: delta, and the first keys
 *            that a tile's queries see (`least`), for the next kernel
 *   keys     a block has 64 keys and goes over the queries that see them, of every head that shares them (or of a part
 *            of these heads); each warpgroup takes other tiles: scores(k, q), scores(v, g), dv: weigh(p^T, g), dk:
 *            weigh(ds^T, q). At the end the warpgroups' sums are added in order.
 * Where the heads that share a key head are a multiple of GROUPS, the warpgroups of a block are heads at the same
 * queries, whose work is the same; else they are successive queries of one head. Blocks start longest first.
 *
 * Predicted for an H100 at 500 of its 990 TFLOP/s in these kernels, B=8, T=512, a layer, and measured there: 12/2 heads
 * of 128 forward 6.4 GFLOP, 13 us and 20 with what starts and ends it, 29; 14/2 of 64 forward 3.8 GFLOP, 16 us, as exp2
 * takes as long as the products, 23; back 13.2 GFLOP (7 products), 27 us, and 50 with starts, ends and partial sums,
 * 85, of which dq 41, dk and dv 40 (mma.sync: 61, 45, 215). */
#include "kernels/cuda/attention_tensor.cuh"

namespace {
enum { PANEL = 64 * 64 }; /* a tile of 64 rows: a panel for each 64 columns */

#ifdef KAVA_WGMMA
/* 64 rows of D elements, `row` apart, as a tile; those from `limit` on are zeros. */
template <class T, int D, int THREADS>
__device__ __forceinline__ void fetch(T *tile, const T *from, int64_t row, int limit, int thread) {
  constexpr int CHUNKS = D / 8, ALL = 64 * CHUNKS;
#pragma unroll
  for (int n = 0; n < (ALL + THREADS - 1) / THREADS; n++) {
    int i = n * THREADS + thread, r = i / CHUNKS, c = i % CHUNKS;
    if (ALL % THREADS && i >= ALL) break;
    bool valid = r < limit;
    kava_copy_async16(tile + c / 8 * PANEL + r * 64 + ((c ^ r) & 7) * 8, from + (valid ? r : 0) * row + c * 8, valid);
  }
}

template <class T, int D> __device__ __forceinline__ void scores(float (&s)[8][4], const T *a, const T *b) {
#pragma unroll
  for (int k = 0; k < D; k += 16)
    kava_wgmma<T>(s, kava_operand_at(a + k / 64 * PANEL + k % 64), kava_operand_at(b + k / 64 * PANEL + k % 64), k > 0);
}
template <class T, int D>
__device__ __forceinline__ void weigh(float (&acc)[D / 64][8][4], const uint32_t (&p)[4][4], const T *b) {
#pragma unroll
  for (int panel = 0; panel < D / 64; panel++)
#pragma unroll
    for (int k = 0; k < 4; k++) kava_wgmma<T>(acc[panel], p[k], kava_operand_at(b + panel * PANEL + k * 16 * 64));
}
/* The left operand made of an accumulator: its layout is the same. */
template <class T> __device__ __forceinline__ void hold(uint32_t (&p)[4][4], const float (&s)[8][4]) {
#pragma unroll
  for (int k = 0; k < 4; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) p[k][i] = kava_pair<T>(s[2 * k + i / 2][i % 2 * 2], s[2 * k + i / 2][i % 2 * 2 + 1]);
}
/* All products are done. */
template <int PANELS> __device__ __forceinline__ void landed(float (&acc)[PANELS][8][4]) {
  kava_wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < PANELS; i++) kava_wgmma_done(acc[i]);
}
template <int PANELS> __device__ __forceinline__ void clear(float (&acc)[PANELS][8][4]) {
#pragma unroll
  for (int i = 0; i < PANELS * 32; i++) acc[i / 32][i / 4 % 8][i % 4] = 0;
}
/* A warp's 16 rows of an accumulator as T, through those rows of its warpgroup's `tile`, to rows of global memory, of
 * which the warpgroup has `limit`. */
template <class T, int D>
__device__ __forceinline__ void put_rows(T *to, int64_t row, int limit, const float (&acc)[D / 64][8][4], float low,
                                         float high, T *tile, int thread, bool add) {
  constexpr int CHUNKS = D / 8;
  int lane = thread % 32, first = thread / 32 * 16;
  __syncwarp();
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
    const float(&x)[4] = acc[c / 8][c % 8];
    int r = first + lane / 4, at = c / 8 * PANEL + r * 64 + ((c ^ r) & 7) * 8 + lane % 4 * 2;
    *reinterpret_cast<uint32_t *>(tile + at) = kava_pair<T>(x[0] * low, x[1] * low);
    *reinterpret_cast<uint32_t *>(tile + at + 8 * 64) = kava_pair<T>(x[2] * high, x[3] * high);
  }
  __syncwarp();
#pragma unroll 4
  for (int i = lane; i < 16 * CHUNKS; i += 32) {
    int r = first + i / CHUNKS, c = i % CHUNKS;
    if (r >= limit) continue;
    float value[8], old[8];
    kava_load<T, 8>(tile + c / 8 * PANEL + r * 64 + ((c ^ r) & 7) * 8, value);
    if (add) {
      kava_load<T, 8>(to + r * row + c * 8, old);
      for (int j = 0; j < 8; j++) value[j] += old[j];
    }
    kava_store<T, 8>(to + r * row + c * 8, value);
  }
}
/* Dynamic shared memory from a multiple of 1024 bytes on; the launchers ask for 1024 more than is used. */
template <class T> __device__ __forceinline__ T *tiles_begin() {
  char *at = (char *)kava_dynamic_shared();
  return (T *)(at + (0u - (unsigned)(uintptr_t)at) % 1024);
}

/* Forward and dq: which queries a warpgroup has, and which tiles of keys they see: its own, and those of the block. */
struct queries {
  int group, thread, b, h, t0, least, from, to, block_from, block_to; /* least: the least of the first keys */
  attention_rows rows;
};
template <int GROUPS> __device__ __forceinline__ queries queries_of(const attention_job &a) {
  KAVA_SHARED(int, firsts, 4 * GROUPS);
  queries w;
  w.group = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0); /* so that the compiler knows a warp agrees on it */
  w.thread = threadIdx.x % 128;
  int lane = w.thread % 32, tile = gridDim.z - 1 - blockIdx.z;
  bool heads = a.group % GROUPS == 0; /* a block has as many heads, or as many tiles */
  w.b = blockIdx.y;
  w.h = heads ? blockIdx.x * GROUPS + w.group : blockIdx.x;
  w.t0 = (heads ? tile : tile * GROUPS + w.group) * 64;
  w.rows = attention_rows_of(a, w.b, w.t0 + w.thread / 32 * 16 + lane / 4);
  int least = -kava_warp_most(-min(w.rows.first0, w.rows.first1));
  if (lane == 0) firsts[threadIdx.x / 32] = least;
  __syncthreads();
  w.block_from = 0x7fffffff, w.block_to = 0;
#pragma unroll
  for (int g = 0; g < GROUPS; g++) {
    int first = min(min(firsts[4 * g], firsts[4 * g + 1]), min(firsts[4 * g + 2], firsts[4 * g + 3]));
    int t0 = heads ? w.t0 : (tile * GROUPS + g) * 64, end = min(t0 + 64, a.length);
    int from = first / 64, to = first < end ? (end + 63) / 64 : 0; /* none: first lies beyond every key, or the rows */
    if (g == w.group) w.least = first, w.from = from, w.to = to;
    if (to) w.block_from = min(w.block_from, from), w.block_to = max(w.block_to, to);
  }
  return w;
}
/* Calls body(n, k, v) with each tile of keys and values that the warpgroup sees. What was fetched before belongs to the
 * first, while which meanwhile() is called. At the end nothing in shared memory is in use. */
template <class T, int D, int GROUPS, class Meanwhile, class Body>
__device__ __forceinline__ void over_keys(const attention_job &a, const queries &w, T *room, Meanwhile meanwhile,
                                          Body body) {
  int64_t token = (int64_t)w.b * a.length, hk = w.h / a.group;
  const T *k = (const T *)a.k + token * a.k_row + hk * D, *v = (const T *)a.v + token * a.v_row + hk * D;
  auto fetch_tile = [&](int n) {
    T *to = room + n % 2 * 2 * 64 * D;
    int j0 = n * 64;
    fetch<T, D, 128 * GROUPS>(to, k + j0 * a.k_row, a.k_row, a.length - j0, threadIdx.x);
    fetch<T, D, 128 * GROUPS>(to + 64 * D, v + j0 * a.v_row, a.v_row, a.length - j0, threadIdx.x);
  };
  if (w.block_from < w.block_to) fetch_tile(w.block_from);
  kava_copy_commit();
  meanwhile();
  for (int n = w.block_from; n < w.block_to; n++) {
    kava_copy_wait<0>();
    kava_shared_fence();
    __syncthreads();
    if (n + 1 < w.block_to) fetch_tile(n + 1);
    kava_copy_commit();
    const T *tile = room + n % 2 * 2 * 64 * D;
    if (n >= w.from && n < w.to) body(n, tile, tile + 64 * D);
  }
  kava_copy_wait<0>();
  __syncthreads();
}
#endif

template <class T, int D, int GROUPS, int BLOCKS>
__global__ void __launch_bounds__(128 * GROUPS, BLOCKS) forward_kernel(attention_job a) {
#ifdef KAVA_WGMMA
  queries w = queries_of<GROUPS>(a);
  T *room = tiles_begin<T>(), *q = room + (4 + w.group) * 64 * D;
  int64_t token = (int64_t)w.b * a.length + w.t0;
  fetch<T, D, 128>(q, (const T *)a.q + token * a.q_row + w.h * D, a.q_row, a.length - w.t0, w.thread);

  float acc[D / 64][8][4];
  clear(acc);
  attention_softmax softmax(a);
  over_keys<T, D, GROUPS>(
      a, w, room, [] {},
      [&](int n, const T *k, const T *v) {
        float s[8][4];
        uint32_t p[4][4];
        kava_wgmma_begin();
        scores<T, D>(s, q, k);
        kava_wgmma_end();
        kava_wgmma_wait<0>();
        kava_wgmma_done(s);
        softmax.step(a, w.rows, n * 64, s, reinterpret_cast<float(&)[D / 8][4]>(acc));
        hold<T>(p, s);
        kava_wgmma_begin();
        weigh<T, D>(acc, p, v);
        kava_wgmma_end();
        landed(acc);
      });
  softmax.finish(a, w.rows, w.b, w.h);
  put_rows<T, D>((T *)a.out + token * a.row + w.h * D, a.row, a.length - w.t0, acc, softmax.low(), softmax.high(), q,
                 w.thread, false);
#endif
}

template <class T, int D, int GROUPS, int BLOCKS>
__global__ void __launch_bounds__(128 * GROUPS, BLOCKS) queries_kernel(attention_job a) {
#ifdef KAVA_WGMMA
  KAVA_SHARED(float, sums, 64 * GROUPS);
  queries w = queries_of<GROUPS>(a);
  T *room = tiles_begin<T>(), *q = room + (4 + 2 * w.group) * 64 * D, *g = q + 64 * D;
  int64_t token = (int64_t)w.b * a.length + w.t0, line = ((int64_t)w.b * a.heads + w.h) * a.length;
  const T *rows_g = (const T *)a.g + token * a.row + w.h * D, *rows_o = (const T *)a.o + token * a.row + w.h * D;
  fetch<T, D, 128>(q, (const T *)a.q + token * a.q_row + w.h * D, a.q_row, a.length - w.t0, w.thread);
  fetch<T, D, 128>(g, rows_g, a.row, a.length - w.t0, w.thread);
  if (!a.dq) w.block_to = 0;
  float base0 = 0, base1 = 0, mean0, mean1, less0, less1; /* less: of delta, what attention_capped leaves */
  float acc[D / 64][8][4];
  clear(acc);
  float factor = a.softcap > 0 ? LOG2E : a.scale * LOG2E;
  auto meanwhile = [&] {
    if (w.rows.row0 < a.length) base0 = a.lse[line + w.rows.row0] * LOG2E;
    if (w.rows.row1 < a.length) base1 = a.lse[line + w.rows.row1] * LOG2E;
    int first = w.thread / 32 * 16;
    attention_delta<T, D>(rows_o + first * a.row, rows_g + first * a.row, a.row, a.length - w.t0 - first,
                          sums + threadIdx.x / 32 * 16, a.delta + line + w.t0 + first);
    if (a.start && w.h == 0 && w.thread == 0 && w.t0 < a.length)
      a.least[w.b * ((a.length + 63) / 64) + w.t0 / 64] = w.least;
    mean0 = sums[w.group * 64 + w.rows.row0 - w.t0], mean1 = sums[w.group * 64 + w.rows.row1 - w.t0];
    less0 = a.softcap > 0 ? 0 : mean0, less1 = a.softcap > 0 ? 0 : mean1;
  };
  over_keys<T, D, GROUPS>(a, w, room, meanwhile, [&](int n, const T *k, const T *v) {
    float s[8][4], dp[8][4];
    uint32_t ds[4][4];
    kava_wgmma_begin();
    scores<T, D>(s, q, k);
    kava_wgmma_end();
    scores<T, D>(dp, g, v);
    kava_wgmma_end();
    kava_wgmma_wait<1>();
    kava_wgmma_done(s);
    if (a.softcap > 0) {
      kava_wgmma_wait<0>();
      kava_wgmma_done(dp);
#pragma unroll
      for (int i = 0; i < 32; i++) attention_capped(a, s[i / 4][i % 4], dp[i / 4][i % 4], i % 4 < 2 ? mean0 : mean1);
    }
#pragma unroll
    for (int i = 0; i < 32; i++) s[i / 4][i % 4] = kava_exp2(s[i / 4][i % 4] * factor - (i % 4 < 2 ? base0 : base1));
    attention_mask(s, w.rows, n * 64, 0);
    kava_wgmma_wait<0>();
    kava_wgmma_done(dp);
#pragma unroll
    for (int i = 0; i < 32; i++) s[i / 4][i % 4] *= dp[i / 4][i % 4] - (i % 4 < 2 ? less0 : less1);
    hold<T>(ds, s);
    kava_wgmma_begin();
    weigh<T, D>(acc, ds, k);
    kava_wgmma_end();
    landed(acc);
  });
  if (a.dq)
    put_rows<T, D>((T *)a.dq + token * a.dq_row + w.h * D, a.dq_row, a.length - w.t0, acc, a.scale, a.scale, q,
                   w.thread, a.add_q);
#endif
}

/* blockIdx: key head and split; row; tile of keys. */
template <class T, int D, int GROUPS, int BLOCKS>
__global__ void __launch_bounds__(128 * GROUPS, BLOCKS) keys_kernel(attention_job a) {
#ifdef KAVA_WGMMA
  KAVA_SHARED(int, room, 4 * GROUPS);
  KAVA_SHARED(float, lines, 2 * GROUPS * 64 * 3); /* for each stage and warpgroup: lse, delta, start */
  int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0), thread = threadIdx.x % 128, lane = thread % 32;
  T *k = tiles_begin<T>(), *v = k + 64 * D, *stages = v + 64 * D;
  int tile = blockIdx.z, j0 = tile * 64, hk = blockIdx.x / a.splits, split = blockIdx.x % a.splits, b = blockIdx.y;
  int head = hk * a.group + split * a.group / a.splits, heads_end = hk * a.group + (split + 1) * a.group / a.splits;
  int tiles = (a.length + 63) / 64, tiles_end = tiles; /* one behind the last tile of queries that sees these keys */
  if (a.start) {
    int seen = 0;
    for (int i = tile + threadIdx.x; i < tiles; i += 128 * GROUPS)
      if (a.least[b * tiles + i] < j0 + 64) seen = i + 1;
    tiles_end = kava_block_most<4 * GROUPS>(seen, room);
  } else if (a.window) {
    tiles_end = min(tiles, (int)(((int64_t)j0 + 63 + a.window - 1) / 64 + 1));
  }
  int each = tiles_end - tile, items = (heads_end - head) * each; /* negative: none */
  int token = b * a.length; /* in 64 bits as a place, but not to be held in so many */

  auto fetch_item = [&](int stage, int item) {
    int h = head + item / each, t0 = (tile + item % each) * 64;
    int64_t line = ((int64_t)b * a.heads + h) * a.length + t0;
    T *to = stages + (stage * GROUPS + group) * 2 * 64 * D;
    float *numbers = lines + (stage * GROUPS + group) * 64 * 3;
    fetch<T, D, 128>(to, (const T *)a.q + (int64_t)(token + t0) * a.q_row + h * D, a.q_row, a.length - t0, thread);
    fetch<T, D, 128>(to + 64 * D, (const T *)a.g + (int64_t)(token + t0) * a.row + h * D, a.row, a.length - t0, thread);
    if (thread < 64) {
      bool valid = t0 + thread < a.length;
      int at = valid ? thread : 0;
      kava_copy_async4(numbers + thread, a.lse + line + at, valid);
      kava_copy_async4(numbers + 64 + thread, a.delta + line + at, valid);
      if (a.start) kava_copy_async4(numbers + 128 + thread, a.start + token + t0 + at, valid);
    }
  };
  for (int i = thread; i < 2 * 64 && !a.start; i += 128)
    *reinterpret_cast<int *>(lines + (i / 64 * GROUPS + group) * 64 * 3 + 128 + i % 64) = 0;
  fetch<T, D, 128 * GROUPS>(k, (const T *)a.k + (int64_t)(token + j0) * a.k_row + hk * D, a.k_row, a.length - j0,
                            threadIdx.x);
  fetch<T, D, 128 * GROUPS>(v, (const T *)a.v + (int64_t)(token + j0) * a.v_row + hk * D, a.v_row, a.length - j0,
                            threadIdx.x);
  if (group < items) fetch_item(0, group);
  kava_copy_commit();

  float dk[D / 64][8][4], dv[D / 64][8][4];
  clear(dk), clear(dv);
  int key0 = j0 + thread / 32 * 16 + lane / 4, key1 = key0 + 8, pair = lane % 4 * 2;
  float factor = a.softcap > 0 ? LOG2E : a.scale * LOG2E;
  int back = a.window ? a.window - 1 : 0x7fffffff;
  float less = a.softcap > 0 ? 0 : 1; /* of delta, what attention_capped leaves to subtract */
  for (int round = 0; round * GROUPS < items; round++) {
    int item = round * GROUPS + group, stage = round % 2;
    kava_copy_wait<0>();
    kava_shared_fence();
    __syncthreads();
    if (item + GROUPS < items) fetch_item(stage ^ 1, item + GROUPS);
    kava_copy_commit();
    if (item >= items) continue;
    const T *q = stages + (stage * GROUPS + group) * 2 * 64 * D, *g = q + 64 * D;
    const float *lse = lines + (stage * GROUPS + group) * 64 * 3, *delta = lse + 64;
    const int *start = (const int *)(lse + 128);
    int t0 = (tile + item % each) * 64;
    float s[8][4], dp[8][4];
    uint32_t p[4][4];
    kava_wgmma_begin();
    scores<T, D>(s, k, q);
    kava_wgmma_end();
    scores<T, D>(dp, v, g);
    kava_wgmma_end();
    kava_wgmma_wait<1>();
    kava_wgmma_done(s);
    if (a.softcap > 0) {
      kava_wgmma_wait<0>();
      kava_wgmma_done(dp);
#pragma unroll
      for (int i = 0; i < 32; i++)
        attention_capped(a, s[i / 4][i % 4], dp[i / 4][i % 4], delta[i / 4 * 8 + pair + i % 2]); /* a lane's columns */
    }
#pragma unroll
    for (int i = 0; i < 32; i++)
      s[i / 4][i % 4] = kava_exp2(s[i / 4][i % 4] * factor - lse[i / 4 * 8 + pair + i % 2] * LOG2E);
    if (a.start || a.window || t0 == j0) { /* queries that are not there have q = g = 0 */
      uint32_t seen = 0;
#pragma unroll 1
      for (int c = 7; c >= 0; c--) {
        int column = c * 8 + pair, t = t0 + column;
        int first = max(start[column], t - back), next = max(start[column + 1], t + 1 - back);
        seen = seen << 4 | (key1 <= t + 1 && key1 >= next) << 3 | (key1 <= t && key1 >= first) << 2 |
               (key0 <= t + 1 && key0 >= next) << 1 | (key0 <= t && key0 >= first);
      }
#pragma unroll
      for (int i = 0; i < 32; i++) s[i / 4][i % 4] = seen >> i & 1 ? s[i / 4][i % 4] : 0;
    }
    kava_wgmma_wait<0>();
    kava_wgmma_done(dp);
#pragma unroll
    for (int i = 0; i < 32; i++)
      dp[i / 4][i % 4] = s[i / 4][i % 4] * (dp[i / 4][i % 4] - less * delta[i / 4 * 8 + pair + i % 2]);
    uint32_t ds[4][4];
    hold<T>(p, s), hold<T>(ds, dp);
    kava_wgmma_begin();
    weigh<T, D>(dv, p, g);
    weigh<T, D>(dk, ds, q);
    kava_wgmma_end();
    landed(dv), landed(dk);
  }
  kava_copy_wait<0>();
  __syncthreads();
  float *theirs = (float *)stages; /* the other warpgroups' sums, one after the other */
#pragma unroll
  for (int other = 1; other < GROUPS; other++) {
    if (group == other)
#pragma unroll
      for (int i = 0; i < D / 2; i++) {
        theirs[(2 * i) * 128 + thread] = dk[i / 32][i / 4 % 8][i % 4];
        theirs[(2 * i + 1) * 128 + thread] = dv[i / 32][i / 4 % 8][i % 4];
      }
    __syncthreads();
    if (group == 0)
#pragma unroll
      for (int i = 0; i < D / 2; i++) {
        dk[i / 32][i / 4 % 8][i % 4] += theirs[(2 * i) * 128 + thread];
        dv[i / 32][i / 4 % 8][i % 4] += theirs[(2 * i + 1) * 128 + thread];
      }
    __syncthreads();
  }
  if (group > 0) return;
  int limit = a.length - j0;
  if (a.splits == 1) {
    if (a.dk)
      put_rows<T, D>((T *)a.dk + (int64_t)(token + j0) * a.dk_row + hk * D, a.dk_row, limit, dk, a.scale, a.scale, k,
                     thread, a.add_k);
    if (a.dv)
      put_rows<T, D>((T *)a.dv + (int64_t)(token + j0) * a.dv_row + hk * D, a.dv_row, limit, dv, 1, 1, v, thread,
                     a.add_v);
    return;
  }
  int64_t size = (int64_t)a.batch * a.length * a.kv_heads * D;
  float *to = a.partial + split * 2 * size + ((int64_t)(token + j0) * a.kv_heads + hk) * D;
#pragma unroll
  for (int i = 0; i < D / 2; i += 2) {
    int r = (i % 4 ? key1 : key0) - j0;
    if (r >= limit) continue;
    float *at = to + (int64_t)r * a.kv_heads * D + i / 4 * 8 + lane % 4 * 2;
    const float(&x)[4] = dk[i / 32][i / 4 % 8], (&y)[4] = dv[i / 32][i / 4 % 8];
    *reinterpret_cast<float2 *>(at) = make_float2(x[i % 4] * a.scale, x[i % 4 + 1] * a.scale);
    *reinterpret_cast<float2 *>(at + size) = make_float2(y[i % 4], y[i % 4 + 1]);
  }
#endif
}

/* blockIdx: heads, rows, tiles, the last of which slowest and longest first */
dim3 query_blocks(const attention_job &a, int groups) {
  bool heads = a.group % groups == 0;
  int rows = heads ? 64 : 64 * groups;
  return dim3(heads ? a.heads / groups : a.heads, a.batch, (a.length + rows - 1) / rows);
}

template <class T, int D, int GROUPS, int BLOCKS> void forward(const attention_job &a) {
  kava_launch("attention", forward_kernel<T, D, GROUPS, BLOCKS>, query_blocks(a, GROUPS), 128 * GROUPS,
              (4 + GROUPS) * 64 * D * sizeof(T) + 1024, a);
}
template <class T, int D, int GROUPS, int BLOCKS> void backward_queries(const attention_job &a) {
  kava_launch("attention_grad: queries", queries_kernel<T, D, GROUPS, BLOCKS>, query_blocks(a, GROUPS), 128 * GROUPS,
              (4 + 2 * GROUPS) * 64 * D * sizeof(T) + 1024, a);
}
template <class T, int D, int GROUPS, int BLOCKS> void backward_keys(const attention_job &a) {
  kava_launch("attention_grad: keys", keys_kernel<T, D, GROUPS, BLOCKS>,
              dim3(a.kv_heads * a.splits, a.batch, (a.length + 63) / 64), 128 * GROUPS,
              (2 + 4 * GROUPS) * 64 * D * sizeof(T) + 1024, a);
}
/* Groups of warps to a block, and blocks to a multiprocessor: what was fastest on an H100 and an H200. */
template <class T, int D> void run(const attention_job &a, bool back) {
  if (!back) return forward < T, D, D == 64 ? 1 : 3, D == 64 ? 4 : 1 > (a);
  backward_queries<T, D, D == 64 ? 1 : 3, D == 64 ? 3 : 1>(a);
  if (a.dk || a.dv) backward_keys<T, D, D == 64 ? 3 : 2, 1>(a);
}
template <class T> void run(const attention_job &a, bool back) {
  a.dim == 64 ? run<T, 64>(a, back) : run<T, 128>(a, back);
}
void run_typed(kava_dtype dtype, const attention_job &a, bool back) {
  dtype == KAVA_BF16 ? run<kava_bf16>(a, back) : run<kava_f16>(a, back);
}
} // namespace

bool kava_attention_old;

bool kava_attention_hopper_takes(kava_dtype dtype, const attention_job &a) {
  if (kava_attention_old || !kava_wgmma_built() || kava_cuda_device()->major != 9) return false;
  return (dtype == KAVA_BF16 || dtype == KAVA_F16) && (a.dim == 64 || a.dim == 128) && kava_attention_aligned(a);
}
void kava_attention_hopper(kava_dtype dtype, const attention_job &job) { run_typed(dtype, job, false); }
void kava_attention_hopper_grad(kava_dtype dtype, const attention_job &job) {
  run_typed(dtype, job, true);
  if (job.splits > 1 && (job.dk || job.dv)) kava_attention_parts(dtype, job);
}

/* kernels/cuda/attention_hopper.cu: what attention.cu does, for head dimensions 64 and 128, by Hopper's products of a
 * warpgroup, which take both operands from shared memory: no ldmatrix, twice the rate of mma.sync.
 *
 * A warpgroup (GROUPS to a block) owns 64 rows; keys and queries come 64 at a time, by the copy engine into a ring of
 * STAGES: a barrier that counts bytes tells of them, and once all warps that read a stage are done with it, it is
 * filled again. The block has no barrier within the loops, so that while one warpgroup is at its exponentials another
 * has the tensor cores. Everything is made of two products:
 *   scores  s [64,64] = A B^T, over the head's dimension, A and B tiles in shared memory
 *   weigh   acc [64,D] += P B, over 64 rows of B; P in registers, as `scores` left it, B the same kind of tile
 *   forward  a warpgroup has 64 queries of a head: scores(q, k), softmax with a running maximum, weigh(p, v)
 *   queries  the same rows: scores(q, k), scores(g, v), dq: weigh(ds, k). Before it, for the next kernel: lse to the
 *            base 2 and delta, tile by tile; with documents or a window also the first key that each query sees, and
 *            with documents the least of a tile's
 *   keys     a block has 64 keys and goes over the queries that see them, of every head that shares them (or of a part
 *            of these heads); each warpgroup takes other tiles, in a ring of its own: scores(k, q), scores(v, g), dv:
 *            weigh(p^T, g), dk: weigh(ds^T, q). At the end the warpgroups' sums are added in order.
 * Where the heads that share a key head are a multiple of GROUPS, the warpgroups of a block are heads at the same
 * queries, whose work is the same; else they are successive queries of one head. Blocks start longest first.
 *
 * Predicted for an H100 at 500 of its 990 TFLOP/s in these kernels, B=8, T=512, a layer: 12/2 heads of 128 forward 6.4
 * GFLOP, 13 us and 20 with what starts and ends it; 14/2 of 64 forward 3.8 GFLOP, 16 us, as exp2 takes as long as the
 * products; back 13.2 GFLOP (7 products), 27 us, and 50 with starts, ends and partial sums. Measured on an H200: 14/2
 * of 64 forward 20, back 63 (by cp.async, with a barrier of the block at each tile: 22 and 75), of B=32 58 and 180 (66
 * and 228); 12/2 of 128 forward, B=32, 79 (100). What gained most after that: that no thread waits for a stage to be
 * free (at 2 x 4096 of dimension 128 a quarter, where one waited for the slowest warpgroup), and as many warpgroups to
 * a multiprocessor as registers allow. What gains nothing: the scores of a tile made ahead, more stages, two tiles of
 * queries to a warpgroup; nor, at dimension 64, warpgroups that share their tiles of keys: what they fetch is not what
 * they wait for. */
#include "kernels/cuda/attention_tensor.cuh"
#include <bulk.cuh>

namespace {
enum { PANEL = 64 * 64 }; /* a tile of 64 rows: a panel for each 64 columns */

/* A job, and where its tensors lie for the copy engine; g: going back. */
struct boxed_job {
  attention_job a;
  kava_box q, k, v, g;
};

#ifdef KAVA_WGMMA
/* 64 rows of a head from row t0 on, as a tile; those behind the last are zeros. */
template <int D, class T>
__device__ __forceinline__ void fetch(T *tile, const kava_box &box, int head, int t0, int b, uint64_t *barrier) {
#pragma unroll
  for (int i = 0; i < D / 64; i++) kava_box_load(tile + i * PANEL, box, head * D + i * 64, t0, b, barrier);
}

template <class T, int D> __device__ __forceinline__ void scores(float (&s)[8][4], const T *a, const T *b) {
  kava_operand left = kava_operand_at(a), right = kava_operand_at(b);
#pragma unroll
  for (int k = 0; k < D; k += 16) {
    int at = k / 64 * PANEL + k % 64;
    kava_wgmma<T>(s, kava_operand_behind(left, at), kava_operand_behind(right, at), k > 0);
  }
}
template <class T, int D>
__device__ __forceinline__ void weigh(float (&acc)[D / 64][8][4], const uint32_t (&p)[4][4], const T *b) {
  kava_operand right = kava_operand_at(b);
#pragma unroll
  for (int panel = 0; panel < D / 64; panel++)
#pragma unroll
    for (int k = 0; k < 4; k++)
      kava_wgmma<T>(acc[panel], p[k], kava_operand_behind(right, panel * PANEL + k * 16 * 64));
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
  if (!w.block_to) w.block_from = 0;
  if (!w.to) w.from = w.to = w.block_to;
  return w;
}
/* The tiles of keys and values that a block goes over, in a ring of STAGES: a warpgroup takes each, and gives it back;
 * the last warp of the block that does has the copy engine fetch the next one into its place. So nobody waits for a
 * stage to be free. */
template <class T, int D, int GROUPS, int STAGES> struct key_ring {
  static constexpr int TILE = 64 * D;
  const boxed_job &job;
  T *room;
  uint64_t *full;
  int *given; /* of a stage: how often a warp gave back what was there */
  int b, hk, from, to;
  __device__ __forceinline__ key_ring(const boxed_job &of, const queries &w, T *at, uint64_t *barriers, int *counts,
                                      int end)
      : job(of), room(at), full(barriers), given(counts), b(w.b), hk(w.h / of.a.group), from(w.block_from), to(end) {}
  __device__ __forceinline__ void fetch_tile(int n) {
    int stage = (n - from) % STAGES;
    T *tile = room + stage * 2 * TILE;
    kava_mbarrier_expect(full + stage, 2 * TILE * (int)sizeof(T));
    fetch<D>(tile, job.k, hk, n * 64, b, full + stage);
    fetch<D>(tile + TILE, job.v, hk, n * 64, b, full + stage);
  }
  __device__ __forceinline__ void begin() { /* by one thread */
    for (int n = from; n < min(from + STAGES, to); n++) fetch_tile(n);
  }
  __device__ __forceinline__ const T *take(int n) { /* its keys; its values lie behind them */
    int turn = n - from;
    kava_mbarrier_wait(full + turn % STAGES, turn / STAGES & 1);
    return room + turn % STAGES * 2 * TILE;
  }
  __device__ __forceinline__ void give(int n) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      __threadfence_block(); /* this warp has read; and behind the count: so have the others */
      if (atomicAdd(given + (n - from) % STAGES, 1) % (4 * GROUPS) == 4 * GROUPS - 1 && n + STAGES < to) {
        __threadfence_block();
        fetch_tile(n + STAGES);
      }
    }
    __syncwarp();
  }
  /* Tiles that only other warpgroups of the block see. */
  __device__ __forceinline__ void pass(int first, int end) {
    for (int n = first; n < end; n++) take(n), give(n);
  }
};
/* Of each stage, and of each warpgroup's own tiles. */
template <int GROUPS, int STAGES> __device__ __forceinline__ void make_barriers(uint64_t *barriers, int *given) {
  if (threadIdx.x) return;
  for (int i = 0; i < STAGES; i++) given[i] = 0;
  for (int i = 0; i < STAGES + GROUPS; i++) kava_mbarrier_init(barriers + i, 1);
  kava_mbarrier_made();
}
#endif

template <class T, int D, int GROUPS, int BLOCKS, int STAGES>
__global__ void __launch_bounds__(128 * GROUPS, BLOCKS) forward_kernel(const __grid_constant__ boxed_job job) {
#ifdef KAVA_WGMMA
  const attention_job &a = job.a;
  KAVA_SHARED(uint64_t, barriers, STAGES + GROUPS);
  KAVA_SHARED(int, given, STAGES);
  make_barriers<GROUPS, STAGES>(barriers, given);
  queries w = queries_of<GROUPS>(a);
  T *room = tiles_begin<T>(), *q = room + (2 * STAGES + w.group) * 64 * D;
  uint64_t *own = barriers + STAGES + w.group;
  int64_t token = (int64_t)w.b * a.length + w.t0;
  key_ring<T, D, GROUPS, STAGES> ring(job, w, room, barriers, given, w.block_to);
  if (w.thread == 0) {
    kava_mbarrier_expect(own, 64 * D * (int)sizeof(T));
    fetch<D>(q, job.q, w.h, w.t0, w.b, own);
  }
  if (threadIdx.x == 0) ring.begin();
  __syncwarp();

  float acc[D / 64][8][4];
  clear(acc);
  attention_softmax softmax(a);
  int from = w.from, to = w.to;
  ring.pass(w.block_from, from);
  kava_mbarrier_wait(own, 0);
  for (int n = from; n < to; n++) {
    const T *tile = ring.take(n);
    float s[8][4];
    uint32_t p[4][4];
    kava_wgmma_begin();
    scores<T, D>(s, q, tile);
    kava_wgmma_end();
    kava_wgmma_wait<0>();
    kava_wgmma_done(s);
    softmax.step(a, w.rows, n * 64, s, reinterpret_cast<float(&)[D / 8][4]>(acc));
    hold<T>(p, s);
    kava_wgmma_begin();
    weigh<T, D>(acc, p, tile + 64 * D);
    kava_wgmma_end();
    landed(acc);
    ring.give(n);
  }
  ring.pass(to, w.block_to);
  softmax.finish(a, w.rows, w.b, w.h);
  put_rows<T, D>((T *)a.out + token * a.row + w.h * D, a.row, a.length - w.t0, acc, softmax.low(), softmax.high(), q,
                 w.thread, false);
#endif
}

template <class T, int D, int GROUPS, int BLOCKS, int STAGES>
__global__ void __launch_bounds__(128 * GROUPS, BLOCKS) queries_kernel(const __grid_constant__ boxed_job job) {
#ifdef KAVA_WGMMA
  const attention_job &a = job.a;
  KAVA_SHARED(float, sums, 64 * GROUPS);
  KAVA_SHARED(uint64_t, barriers, STAGES + GROUPS);
  KAVA_SHARED(int, given, STAGES);
  make_barriers<GROUPS, STAGES>(barriers, given);
  queries w = queries_of<GROUPS>(a);
  T *room = tiles_begin<T>(), *q = room + (2 * STAGES + 2 * w.group) * 64 * D, *g = q + 64 * D;
  uint64_t *own = barriers + STAGES + w.group;
  int64_t token = (int64_t)w.b * a.length + w.t0, line = ((int64_t)w.b * a.heads + w.h) * a.length;
  int tiles = (a.length + 63) / 64, first = w.thread / 32 * 16, lane = w.thread % 32;
  key_ring<T, D, GROUPS, STAGES> ring(job, w, room, barriers, given, a.dq ? w.block_to : w.block_from);
  if (w.thread == 0 && a.dq) {
    kava_mbarrier_expect(own, 2 * 64 * D * (int)sizeof(T));
    fetch<D>(q, job.q, w.h, w.t0, w.b, own);
    fetch<D>(g, job.g, w.h, w.t0, w.b, own);
  }
  if (threadIdx.x == 0) ring.begin();
  __syncwarp();
  if (w.t0 < a.length) { /* what the next kernel needs of a row */
    const T *rows_g = (const T *)a.g + token * a.row + w.h * D, *rows_o = (const T *)a.o + token * a.row + w.h * D;
    int t = w.t0 + first + lane;
    float lse = lane < 16 && t < a.length ? a.lse[line + t] * LOG2E : -INFINITY;
    attention_delta<T, D>(rows_o + first * a.row, rows_g + first * a.row, a.row, a.length - w.t0 - first,
                          sums + threadIdx.x / 32 * 16);
    float *numbers = a.delta + (((int64_t)w.b * a.heads + w.h) * tiles + w.t0 / 64) * 128 + first;
    if (lane < 16) {
      numbers[lane] = lse == -INFINITY ? INFINITY : lse; /* sees nothing: p is 0 */
      numbers[64 + lane] = sums[threadIdx.x / 32 * 16 + lane];
    }
    if (w.h == 0 && (a.start || a.window)) {
      if (lane < 16) a.firsts[(w.b * tiles + w.t0 / 64) * 64 + first + lane] = attention_first(a, w.b, t);
      if (w.thread == 0) a.least[w.b * tiles + w.t0 / 64] = w.least;
    }
  }
  if (!a.dq) return;
  bool capped = a.softcap > 0;
  float base0 = INFINITY, base1 = INFINITY, mean0 = 0, mean1 = 0;
  if (w.rows.row0 < a.length)
    base0 = a.lse[line + w.rows.row0] * LOG2E, mean0 = sums[w.group * 64 + w.rows.row0 - w.t0];
  if (w.rows.row1 < a.length)
    base1 = a.lse[line + w.rows.row1] * LOG2E, mean1 = sums[w.group * 64 + w.rows.row1 - w.t0];
  float less0 = capped ? 0 : mean0, less1 = capped ? 0 : mean1; /* of delta, what attention_capped leaves */
  float acc[D / 64][8][4], factor = capped ? LOG2E : a.scale * LOG2E;
  clear(acc);
  int from = w.from, to = w.to;
  ring.pass(w.block_from, from);
  kava_mbarrier_wait(own, 0);
  for (int n = from; n < to; n++) {
    const T *k = ring.take(n), *v = k + 64 * D;
    float s[8][4], dp[8][4];
    uint32_t ds[4][4];
    kava_wgmma_begin();
    scores<T, D>(s, q, k);
    kava_wgmma_end();
    kava_wgmma_wait<1>(); /* the tile before this one is weighed */
    if (n > from) ring.give(n - 1);
    scores<T, D>(dp, g, v);
    kava_wgmma_end();
    kava_wgmma_wait<1>();
    kava_wgmma_done(s);
    if (capped) {
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
  }
  landed(acc);
  if (from < to) ring.give(to - 1);
  ring.pass(to, w.block_to);
  put_rows<T, D>((T *)a.dq + token * a.dq_row + w.h * D, a.dq_row, a.length - w.t0, acc, a.scale, a.scale, q, w.thread,
                 a.add_q);
#endif
}

/* blockIdx: key head and split; row; tile of keys. */
template <class T, int D, int GROUPS, int BLOCKS, int STAGES>
__global__ void __launch_bounds__(128 * GROUPS, BLOCKS) keys_kernel(const __grid_constant__ boxed_job job) {
#ifdef KAVA_WGMMA
  constexpr int TILE = 64 * D;
  const attention_job &a = job.a;
  KAVA_SHARED(int, room, 4 * GROUPS);
  KAVA_SHARED(uint64_t, barriers, 2 * STAGES * GROUPS + 1);
  int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0), thread = threadIdx.x % 128, lane = thread % 32;
  T *k = tiles_begin<T>(), *v = k + TILE, *stages = v + TILE;
  float *numbers = (float *)(stages + 2 * GROUPS * STAGES * TILE); /* of a stage: lse, delta, and then first keys */
  uint64_t *own = barriers + 2 * STAGES * GROUPS, *full = barriers + group * STAGES, *empty = full + GROUPS * STAGES;
  int tile = blockIdx.z, j0 = tile * 64, hk = blockIdx.x / a.splits, split = blockIdx.x % a.splits, b = blockIdx.y;
  int head = hk * a.group + split * a.group / a.splits, heads_end = hk * a.group + (split + 1) * a.group / a.splits;
  int tiles = (a.length + 63) / 64, tiles_end = tiles; /* one behind the last tile of queries that sees these keys */
  bool bounded = a.start || a.window;
  int token = b * a.length; /* in 64 bits as a place, but not to be held in so many */
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES * GROUPS; i++) {
      kava_mbarrier_init(barriers + i, 1);
      kava_mbarrier_init(barriers + STAGES * GROUPS + i, 4);
    }
    kava_mbarrier_init(own, 1);
    kava_mbarrier_made();
  }
  if (a.start) {
    int seen = 0;
    for (int i = tile + threadIdx.x; i < tiles; i += 128 * GROUPS)
      if (a.least[b * tiles + i] < j0 + 64) seen = i + 1;
    tiles_end = kava_block_most<4 * GROUPS>(seen, room);
  } else if (a.window) {
    tiles_end = min(tiles, (int)(((int64_t)j0 + 63 + a.window - 1) / 64 + 1));
  }
  __syncthreads();
  stages += group * STAGES * 2 * TILE, numbers += group * STAGES * 192; /* a warpgroup's own */
  /* A warpgroup's items: each GROUPSth of the tiles of queries, one head's after another's. */
  struct item {
    int head, tile;
  };
  auto advance = [&](item &at, int by) {
    at.tile += by;
    while (at.tile >= tiles_end && at.head < heads_end) at.tile -= tiles_end - tile, at.head++;
  };
  item coming = {tiles_end > tile ? head : heads_end, tile}, now;
  advance(coming, group);
  now = coming;
  int fetched = 0; /* items; by thread 0 of the warpgroup */
  auto fetch_item = [&] {
    if (coming.head >= heads_end) return;
    int stage = fetched % STAGES, round = fetched / STAGES, t0 = coming.tile * 64;
    T *to = stages + stage * 2 * TILE;
    float *beside = numbers + stage * 192;
    uint64_t *barrier = full + stage;
    if (round) kava_mbarrier_wait(empty + stage, (round - 1) & 1);
    kava_mbarrier_expect(barrier, 2 * TILE * (int)sizeof(T) + 512 + (bounded ? 256 : 0));
    fetch<D>(to, job.q, coming.head, t0, b, barrier);
    fetch<D>(to + TILE, job.g, coming.head, t0, b, barrier);
    kava_bulk_load(beside, a.delta + (((int64_t)b * a.heads + coming.head) * tiles + coming.tile) * 128, 512, barrier);
    if (bounded) kava_bulk_load(beside + 128, a.firsts + (b * tiles + coming.tile) * 64, 256, barrier);
    fetched++;
    advance(coming, GROUPS);
  };
  if (threadIdx.x == 0) {
    kava_mbarrier_expect(own, 2 * TILE * (int)sizeof(T));
    fetch<D>(k, job.k, hk, j0, b, own);
    fetch<D>(v, job.v, hk, j0, b, own);
  }
  if (thread == 0)
    for (int i = 1; i < STAGES; i++) fetch_item();
  __syncwarp();

  float dk[D / 64][8][4], dv[D / 64][8][4];
  clear(dk), clear(dv);
  int key0 = j0 + thread / 32 * 16 + lane / 4, key1 = key0 + 8, pair = lane % 4 * 2;
  float factor = a.softcap > 0 ? LOG2E : a.scale * LOG2E;
  float less = a.softcap > 0 ? 0 : 1; /* of delta, what attention_capped leaves to subtract */
  kava_mbarrier_wait(own, 0);
  for (int n = 0, stage = 0, parity = 0; now.head < heads_end; n++, advance(now, GROUPS)) {
    const T *q = stages + stage * 2 * TILE, *g = q + TILE;
    const float *lse = numbers + stage * 192 + pair, *delta = lse + 64;
    const int *first = (const int *)(lse + 128);
    int t0 = now.tile * 64;
    float s[8][4], dp[8][4];
    uint32_t p[4][4], ds[4][4];
    kava_mbarrier_wait(full + stage, parity);
    kava_wgmma_begin();
    scores<T, D>(s, k, q);
    kava_wgmma_end();
    scores<T, D>(dp, v, g);
    kava_wgmma_end();
    __syncwarp();
    if (n > 0 && lane == 0) kava_mbarrier_arrive(empty + (stage ? stage : STAGES) - 1); /* the one before is read */
    if (thread == 0) fetch_item();
    __syncwarp();
    kava_wgmma_wait<1>();
    kava_wgmma_done(s);
    if (a.softcap > 0) {
      kava_wgmma_wait<0>();
      kava_wgmma_done(dp);
#pragma unroll
      for (int i = 0; i < 32; i++)
        attention_capped(a, s[i / 4][i % 4], dp[i / 4][i % 4], delta[i / 4 * 8 + i % 2]); /* a lane's columns */
    }
#pragma unroll
    for (int i = 0; i < 32; i++) s[i / 4][i % 4] = kava_exp2(s[i / 4][i % 4] * factor - lse[i / 4 * 8 + i % 2]);
    if (bounded || t0 == j0) {
      uint32_t seen = 0;
#pragma unroll 1
      for (int c = 7; c >= 0; c--) {
        int t = t0 + c * 8 + pair, from = bounded ? first[c * 8] : 0, next = bounded ? first[c * 8 + 1] : 0;
        seen = seen << 4 | (key1 <= t + 1 && key1 >= next) << 3 | (key1 <= t && key1 >= from) << 2 |
               (key0 <= t + 1 && key0 >= next) << 1 | (key0 <= t && key0 >= from);
      }
#pragma unroll
      for (int i = 0; i < 32; i++) s[i / 4][i % 4] = seen >> i & 1 ? s[i / 4][i % 4] : 0;
    }
    kava_wgmma_wait<0>();
    kava_wgmma_done(dp);
#pragma unroll
    for (int i = 0; i < 32; i++)
      dp[i / 4][i % 4] = s[i / 4][i % 4] * (dp[i / 4][i % 4] - less * delta[i / 4 * 8 + i % 2]);
    hold<T>(p, s), hold<T>(ds, dp);
    kava_wgmma_begin();
    weigh<T, D>(dv, p, g);
    weigh<T, D>(dk, ds, q);
    kava_wgmma_end();
    landed(dv), landed(dk);
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
  __syncthreads();
  float *theirs = (float *)(v + TILE); /* the other warpgroups' sums, one after the other */
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

template <class T, int D, int GROUPS, int BLOCKS, int STAGES> void forward(const boxed_job &job) {
  kava_launch("attention", forward_kernel<T, D, GROUPS, BLOCKS, STAGES>, query_blocks(job.a, GROUPS), 128 * GROUPS,
              (2 * STAGES + GROUPS) * 64 * D * sizeof(T) + 1024, job);
}
template <class T, int D, int GROUPS, int BLOCKS, int STAGES> void backward_queries(const boxed_job &job) {
  kava_launch("attention_grad: queries", queries_kernel<T, D, GROUPS, BLOCKS, STAGES>, query_blocks(job.a, GROUPS),
              128 * GROUPS, (2 * STAGES + 2 * GROUPS) * 64 * D * sizeof(T) + 1024, job);
}
template <class T, int D, int GROUPS, int BLOCKS, int STAGES> void backward_keys(const boxed_job &job) {
  const attention_job &a = job.a;
  kava_launch("attention_grad: keys", keys_kernel<T, D, GROUPS, BLOCKS, STAGES>,
              dim3(a.kv_heads * a.splits, a.batch, (a.length + 63) / 64), 128 * GROUPS,
              (2 + 2 * STAGES * GROUPS) * 64 * D * sizeof(T) + STAGES * GROUPS * 192 * 4 + 1024, job);
}
/* Groups of warps to a block, blocks to a multiprocessor, stages: what was fastest on an H200. */
template <class T, int D> void run(const boxed_job &job, bool back) {
  constexpr bool SMALL = D == 64;
  if (!back) return forward < T, D, SMALL ? 1 : 2, SMALL ? 5 : 2, 2 > (job);
  backward_queries<T, D, SMALL ? 1 : 3, SMALL ? 4 : 1, SMALL ? 2 : 3>(job);
  if (job.a.dk || job.a.dv) backward_keys<T, D, SMALL ? 3 : 2, 1, 2>(job);
}
template <class T> void run(const boxed_job &job, bool back) {
  job.a.dim == 64 ? run<T, 64>(job, back) : run<T, 128>(job, back);
}
bool box(kava_box *to, const attention_job &a, const void *from, int heads, int64_t row) {
  return kava_box_make(to, from, (int64_t)heads * a.dim, a.length, a.batch, row, a.length * row, 64);
}
/* False: the copy engine does not take these addresses. */
bool run_typed(kava_dtype dtype, const attention_job &a, bool back) {
  boxed_job job = {};
  job.a = a;
  if (!box(&job.q, a, a.q, a.heads, a.q_row) || !box(&job.k, a, a.k, a.kv_heads, a.k_row) ||
      !box(&job.v, a, a.v, a.kv_heads, a.v_row) || !box(&job.g, a, back ? a.g : a.q, a.heads, back ? a.row : a.q_row))
    return false;
  dtype == KAVA_BF16 ? run<kava_bf16>(job, back) : run<kava_f16>(job, back);
  return true;
}
} // namespace

bool kava_attention_old;

bool kava_attention_hopper_takes(kava_dtype dtype, const attention_job &a) {
  if (kava_attention_old || !kava_wgmma_built() || kava_cuda_device()->major != 9) return false;
  return (dtype == KAVA_BF16 || dtype == KAVA_F16) && (a.dim == 64 || a.dim == 128) && kava_attention_aligned(a);
}
void kava_attention_hopper(kava_dtype dtype, const attention_job &job) {
  if (!run_typed(dtype, job, false)) kava_attention_tensor(dtype, job);
}
void kava_attention_hopper_grad(kava_dtype dtype, const attention_job &job) {
  if (!run_typed(dtype, job, true))
    kava_attention_tensor_grad(dtype, job);
  else if (job.splits > 1 && (job.dk || job.dv))
    kava_attention_parts(dtype, job);
}

/* kernels/cuda/product_back_hopper.cu: back over the second half of a gated MLP in one kernel, for Hopper: with dy
 * [M,K] and W [K,N] (a down projection as it lies: K outputs of N inputs), bf16: d = dy W, rounded to bf16, is the
 * gradient of act = f(gate) up, and dgate = d up f'(gate) and dup = d f(gate) are written where gate and up lay, act
 * where it is wanted: what the product and gated_grad (activation.cu) do, but d never is in memory.
 *
 * A block makes tiles of d [128,256] one after another. One thread of a warpgroup of its own has the copy engine fetch
 * 64 columns of dy and 64 rows of W at a time into a ring of stages; two warpgroups multiply 64 rows each. What comes
 * behind the products is as much work as they are, for other parts of the chip, and so it is woven into the next
 * tile's: rounded, d takes half the registers of the sums; a warpgroup hands the tensor cores a step of the next tile,
 * and while they do it joins half a panel (64 columns) of d with gate and up, which it had fetched long before; dgate
 * and dup take their place in shared memory, and a panel goes to memory by the copy engine.
 *
 * Predicted for M=4096, N=4864, K=896 (a student's MLP at 8 rows of 512 tokens): 35.7 GFLOP, 54 us as a product alone;
 * gate, up, and three outputs 199 MB, 48 us at 4.2 TB/s; shared memory is read and written 1.3 times as long as the
 * tensor cores need; in one 60 to 70 us. Measured on an H200: 100 us, and 377 us for M=16384; in two kernels 120 and
 * 467 (108 and 405 in one that does not weave; a lag between the warpgroups or clusters of two gain nothing). */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/product_hopper.cuh"
#include <type_traits>

namespace {
enum { STEP = 64, ROWS = 128, WIDTH = 256, PANELS = WIDTH / 64, THREADS = 384 };
enum { PANEL = 64 * 64, LEFT = ROWS * STEP, RIGHT = WIDTH * STEP, STAGE = LEFT + RIGHT }; /* elements */
enum { SLOTS = 2, ROOM = (2 * SLOTS + 1) * PANEL }; /* a warpgroup's: gate and up of two panels, act of one */
enum { STAGES = 3, SHARED = (STAGES * STAGE + 2 * ROOM) * 2 + 1024 };
enum { STEPS_LEAST = 2 * PANELS }; /* half a panel a step */

struct job : tiling {
  kava_box dy, w, gate, up, act;
  int steps;
};

#ifdef KAVA_WGMMA
struct barriers {
  uint64_t *full, *empty, *came;
};

__device__ __forceinline__ void fetch(const job &a, kava_bf16 *ring, const barriers &b) {
  int stage = 0, round = 0;
  for (int t = blockIdx.x; t < a.m_tiles * a.n_tiles; t += gridDim.x) {
    int m, n;
    place(a, t, &m, &n);
    for (int k = 0; k < a.steps; k++) {
      kava_bf16 *left = ring + stage * STAGE, *right = left + LEFT;
      kava_mbarrier_wait(b.empty + stage, (round & 1) ^ 1);
      kava_mbarrier_expect(b.full + stage, STAGE * 2);
      kava_box_load(left, a.dy, k * STEP, m * ROWS, 0, b.full + stage);
#pragma unroll
      for (int i = 0; i < PANELS; i++)
        kava_box_load(right + i * PANEL, a.w, n * WIDTH + i * 64, k * STEP, 0, b.full + stage);
      if (++stage == STAGES) stage = 0, round++;
    }
  }
}

/* A thread's part of d [64,256], as the products leave it: pairs of 8 columns each, of two rows. */
typedef uint32_t tile_pairs[32][2];

/* d's columns from 8 c on, 16 of them, with gate's and up's, of which the panel's `at` is the lane's row. */
__device__ __forceinline__ void join(const tile_pairs &d, int c, kava_bf16 *gate, kava_bf16 *up, kava_bf16 *act,
                                     int at) {
  uint32_t g[4], u[4], y[4];
  kava_ldmatrix(g, gate + at);
  kava_ldmatrix(u, up + at);
#pragma unroll
  for (int i = 0; i < 4; i++) { /* as gated_grad_kernel (activation.cu) */
    float d0 = low(d[c + i / 2][i % 2]), d1 = high(d[c + i / 2][i % 2]);
    float g0 = low(g[i]), g1 = high(g[i]), u0 = low(u[i]), u1 = high(u[i]);
    float f0 = kava_value_of(KAVA_SILU, g0), f1 = kava_value_of(KAVA_SILU, g1);
    y[i] = kava_pair<kava_bf16>(u0 * f0, u1 * f1);
    u[i] = kava_pair<kava_bf16>(d0 * f0, d1 * f1);
    g[i] = kava_pair<kava_bf16>(d0 * u0 * kava_slope_of(KAVA_SILU, g0), d1 * u1 * kava_slope_of(KAVA_SILU, g1));
  }
  kava_stmatrix(gate + at, g);
  kava_stmatrix(up + at, u);
  kava_stmatrix(act + at, y);
}

__device__ __forceinline__ void multiply(const job &a, kava_bf16 *ring, const barriers &b, int own, int thread) {
  kava_bf16 *room = ring + STAGES * STAGE + own * ROOM, *act = room + 2 * SLOTS * PANEL;
  uint64_t *came = b.came + own * SLOTS;
  int stage = 0, round = 0, before = 0, lane = thread % 32;
  int tiles = a.m_tiles * a.n_tiles, apart = gridDim.x;
  int lane_row = (thread / 32 * 16 + lane % 16) * 64, lane_chunk = (lane % 16 & 7) ^ lane / 16;
  float acc[32][4];
  tile_pairs d;

  /* ---- products ---- */
  auto release = [&](int s) {
    if (lane == 0) kava_mbarrier_arrive(b.empty + s);
  };
  auto step = [&](auto first) {
    const kava_bf16 *left = ring + stage * STAGE + own * PANEL, *right = ring + stage * STAGE + LEFT;
    kava_mbarrier_wait(b.full + stage, round & 1);
    kava_wgmma_begin();
#pragma unroll
    for (int i = 0; i < STEP; i += 16) {
      if (decltype(first)::value && i == 0)
        kava_wgmma_wide_rows_first(acc, kava_operand_at(left), kava_operands_at(right, PANEL * 2));
      else
        kava_wgmma_wide_rows(acc, kava_operand_at(left + i), kava_operands_at(right + i * 64, PANEL * 2));
    }
    kava_wgmma_end();
    if (!decltype(first)::value) {
      kava_wgmma_wait<1>();
      release(before);
    }
    before = stage;
    if (++stage == STAGES) stage = 0, round++;
  };

  /* ---- what is made of them, panel by panel; a panel's second visit to its slot within a tile has parity 1 ---- */
  struct corner {
    int row, column;
  };
  auto corner_of = [&](int t) {
    int m, n;
    place(a, t, &m, &n);
    return corner{m * ROWS + own * 64, n * WIDTH};
  };
  auto ask = [&](corner of, int q) {
    kava_bf16 *slot = room + q % SLOTS * 2 * PANEL;
    kava_mbarrier_expect(came + q % SLOTS, 2 * PANEL * 2);
    kava_box_load(slot, a.gate, of.column + q * 64, of.row, 0, came + q % SLOTS);
    kava_box_load(slot + PANEL, a.up, of.column + q * 64, of.row, 0, came + q % SLOTS);
  };
  auto arrived = [&](int q) { kava_mbarrier_wait(came + q % SLOTS, q / SLOTS); };
  /* Half a panel, of which d's columns from 8 c on are the first. */
  auto join_half = [&](int q, int which, int c) {
    kava_bf16 *slot = room + q % SLOTS * 2 * PANEL;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      int at = lane_row + ((which * 4 + i) ^ lane_chunk) * 8;
      join(d, c + which * 4 + i, slot, slot + PANEL, act, at);
    }
  };
  auto send = [&](corner of, int q) {
    kava_bf16 *slot = room + q % SLOTS * 2 * PANEL;
    kava_shared_fence();
    kava_named_barrier(1 + own, 128);
    if (thread == 0) {
      kava_box_store(a.gate, of.column + q * 64, of.row, 0, slot);
      kava_box_store(a.up, of.column + q * 64, of.row, 0, slot + PANEL);
      kava_box_store(a.act, of.column + q * 64, of.row, 0, act);
      kava_box_commit();
    }
  };
  /* What was sent has been read: the next panel may be made, and that after it fetched, if need be of tile `next`. */
  auto turn = [&](corner of, int q, corner next, bool more) {
    if (thread != 0) return;
    kava_box_wait<0>();
    kava_mbarrier_arrive(came + (q + 1) % SLOTS);
    if (q < PANELS - SLOTS)
      ask(of, q + SLOTS);
    else if (more)
      ask(next, q + SLOTS - PANELS);
  };

  int gap = (a.steps - STEPS_LEAST) / PANELS, rest = a.steps - STEPS_LEAST - gap * PANELS;
  corner done = {0, 0}, here = corner_of(blockIdx.x), next = here;
  if (thread == 0) {
    ask(here, 0);
    ask(here, 1);
    kava_mbarrier_arrive(came);
  }
  for (int t = blockIdx.x; t < tiles; t += apart, done = here, here = next) {
    int left = rest;
    if (t == (int)blockIdx.x) {
      step(std::true_type());
      left = a.steps - 1;
    } else {
#pragma unroll
      for (int q = 0; q < PANELS; q++) {
        if (q == 0)
          step(std::true_type());
        else
          step(std::false_type());
        arrived(q);
        join_half(q, 0, q * 8);
        step(std::false_type());
        join_half(q, 1, q * 8);
        send(done, q);
        for (int i = 0; i < gap; i++) step(std::false_type());
        turn(done, q, here, true);
      }
    }
    for (; left > 0; left--) step(std::false_type());
    if (t + apart < tiles) next = corner_of(t + apart);
    kava_wgmma_wait<0>();
    kava_wgmma_wide_done(acc);
    release(before);
#pragma unroll
    for (int i = 0; i < 64; i++)
      d[i / 2][i % 2] = kava_pair<kava_bf16>(acc[i / 2][i % 2 * 2], acc[i / 2][i % 2 * 2 + 1]);
  }
#pragma unroll 1
  for (int q = 0; q < PANELS; q++) { /* of the last tile */
    arrived(q);
    join_half(q, 0, 0);
    join_half(q, 1, 0);
    send(done, q);
    turn(done, q, done, false);
#pragma unroll
    for (int i = 0; i < 48; i++) d[i / 2][i % 2] = d[i / 2 + 8][i % 2]; /* the next panel comes to the front */
  }
}
#endif

__global__ void __launch_bounds__(THREADS, 1) gated_back_kernel(const __grid_constant__ job a) {
#ifdef KAVA_WGMMA
  KAVA_SHARED(uint64_t, full, STAGES);
  KAVA_SHARED(uint64_t, empty, STAGES);
  KAVA_SHARED(uint64_t, came, 2 * SLOTS);
  barriers b = {full, empty, came};
  kava_bf16 *ring = tiles_begin();
  int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0), thread = threadIdx.x % 128;
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) {
      kava_mbarrier_init(full + s, 1);
      kava_mbarrier_init(empty + s, 8); /* a lane of every warp that multiplies */
    }
    for (int s = 0; s < 2 * SLOTS; s++) kava_mbarrier_init(came + s, 2); /* asked for; act's panel is free */
    kava_mbarrier_made();
  }
  __syncthreads();

  if (group == 0) {
    kava_registers_less<24>();
    if (thread == 0) fetch(a, ring, b);
  } else {
    kava_registers_more<240>();
    multiply(a, ring, b, group - 1, thread);
  }
#endif
}

/* False: addresses that the copy engine takes not. */
bool gated_back(const void *dy, const void *w, const kava_gated_args *g, int64_t rows, int64_t n, int64_t k) {
  job a;
  int64_t row = g->row ? g->row : n;
  a.steps = (int)((k + STEP - 1) / STEP);
  a.m_tiles = (int)((rows + ROWS - 1) / ROWS);
  a.n_tiles = (int)((n + WIDTH - 1) / WIDTH);
  a.m_block = 4096 / ROWS;
  if (!kava_box_make(&a.dy, dy, k, rows, 1, k, rows * k, ROWS) || !kava_box_make(&a.w, w, n, k, 1, n, n * k, 64) ||
      !kava_box_make(&a.gate, g->dgate, n, rows, 1, row, rows * row, 64) ||
      !kava_box_make(&a.up, g->dup, n, rows, 1, row, rows * row, 64) ||
      !kava_box_make(&a.act, g->y, n, rows, 1, n, rows * n, 64))
    return false;
  int most = kava_cuda_device()->multiprocessors, tiles = a.m_tiles * a.n_tiles;
  kava_launch("linear_gated_back", gated_back_kernel, (unsigned)(tiles < most ? tiles : most), THREADS, SHARED, a);
  return true;
}
int enough; /* tiles; 0: one for each multiprocessor */
} // namespace

extern "C" void kava_cuda_gated_back_enough(int tiles) { enough = tiles; }

extern "C" kava_status kava_cuda_linear_gated_back(const kava_linear_args *a, const void *dy,
                                                   const kava_gated_args *g) {
  int64_t n = a->in, k = a->out, most = 0x7fffffff;
  int64_t tiles = (a->rows + ROWS - 1) / ROWS * ((n + WIDTH - 1) / WIDTH);
  const kava_cuda_facts *device = kava_cuda_device();
  if (!kava_wgmma_built() || device->major != 9 || g->kind != KAVA_SILU || a->dtype != KAVA_BF16 ||
      a->wtype != KAVA_BF16 || a->scaling || (a->dy_row && a->dy_row != k) || g->dgate != g->gate || g->dup != g->up ||
      g->row != g->grad_row || g->add_gate || g->add_up || !g->y || (n | k | g->row) % 8 || a->rows > most ||
      n > most || k > most || k <= (STEPS_LEAST - 1) * STEP || tiles < (enough ? enough : device->multiprocessors))
    return KAVA_UNSUPPORTED;
  return gated_back(dy, a->w, g, a->rows, n, k) ? KAVA_OK : KAVA_UNSUPPORTED;
}

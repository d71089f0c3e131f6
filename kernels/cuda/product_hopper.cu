/* kernels/cuda/product_hopper.cu: the first half of a gated MLP in one kernel, for Hopper: with x [M,K] and W [2N,K],
 * rows of a gate and then of an up, bf16: act = f(x gate^T) * (x up^T), [M,N]; where the tape wants it, the product
 * [M,2N] is written as well. act is made of gate and up as rounded to bf16, as by two kernels.
 *
 * A block makes tiles of act [128,128] one after another. One thread of a warpgroup of its own has the copy engine
 * fetch 64 columns of x and of both weights at a time into a ring of stages; two warpgroups multiply 64 rows each,
 * gate's and up's rows of a stage standing behind one another as one right operand of 256 rows: so the thread that has
 * column j of gate has column j of up, and joins the two where they are. What is written goes through shared memory and
 * the copy engine. Two blocks of a cluster have successive rows of x and the same of W, of which each fetches a half
 * for both. The second warpgroup stays LAG steps behind the first, so that while one writes the other multiplies. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/product_hopper.cuh"
#include <type_traits>

namespace {
enum { STEP = 64, ROWS = 128, WIDTH = 128, THREADS = 384 };
enum { PANEL = 64 * 64, LEFT = ROWS * STEP, RIGHT = 2 * WIDTH * STEP, STAGE = LEFT + RIGHT }; /* elements */

struct job : tiling {
  kava_box x, w, act, both; /* both: gate and up, where they are kept */
  int steps;
};

/* What a kernel is made for. SLOTS: how many times two panels a warpgroup writes through. */
template <int CLUSTER_, int STAGES_, int LAG_, int SLOTS_, bool KEEPS_> struct shape {
  [[maybe_unused]] static constexpr int CLUSTER = CLUSTER_, STAGES = STAGES_, LAG = LAG_, SLOTS = SLOTS_;
  static constexpr bool KEEPS = KEEPS_;
  static constexpr int SHARED = (STAGES * STAGE + 4 * SLOTS * PANEL) * 2 + 1024;
};

#ifdef KAVA_WGMMA
typedef uint32_t half_tile[16][2]; /* a thread's part of [64,128], as the products leave it: pairs of 8 columns each */
__device__ __forceinline__ void round_pairs(half_tile &to, const float (&acc)[32][4], int from) {
#pragma unroll
  for (int c = 0; c < 16; c++)
#pragma unroll
    for (int i = 0; i < 2; i++) to[c][i] = kava_pair<kava_bf16>(acc[from + c][2 * i], acc[from + c][2 * i + 1]);
}
__device__ __forceinline__ void gate_pairs(half_tile &gate, const half_tile &up) { /* as gated_kernel (activation.cu) */
#pragma unroll
  for (int i = 0; i < 32; i++) {
    uint32_t g = gate[i / 2][i % 2], u = up[i / 2][i % 2];
    gate[i / 2][i % 2] =
        kava_pair<kava_bf16>(kava_value_of(KAVA_SILU, low(g)) * low(u), kava_value_of(KAVA_SILU, high(g)) * high(u));
  }
}
/* Writes them through `room`, two panels that nobody reads any more once all but PENDING stores have read theirs. */
template <int PENDING>
__device__ __forceinline__ void put(const kava_box &box, int column, int row, int part, const half_tile &tile,
                                    kava_bf16 *room, int thread, int barrier) {
  int lane = thread % 32, r = lane % 16;
  if (thread == 0) kava_box_wait<PENDING>();
  kava_named_barrier(barrier, 128);
#pragma unroll
  for (int c = 0; c < 16; c += 2) {
    uint32_t four[4] = {tile[c][0], tile[c][1], tile[c + 1][0], tile[c + 1][1]};
    int chunk = (c + lane / 16) ^ r;
    kava_stmatrix(room + c / 8 * PANEL + (thread / 32 * 16 + r) * 64 + (chunk & 7) * 8, four);
  }
  kava_shared_fence();
  kava_named_barrier(barrier, 128);
  if (thread == 0) {
    kava_box_store(box, column, row, part, room);
    kava_box_store(box, column + 64, row, part, room + PANEL);
    kava_box_commit();
  }
}

template <class S>
__device__ __forceinline__ void fetch(const job &a, kava_bf16 *ring, uint64_t *full, uint64_t *empty, int rank) {
  int stage = 0, round = 0;
  for (int t = blockIdx.x / S::CLUSTER; t < a.m_tiles * a.n_tiles; t += gridDim.x / S::CLUSTER) {
    int m, n;
    place(a, t, &m, &n);
    for (int k = 0; k < a.steps; k++) {
      kava_bf16 *left = ring + stage * STAGE, *right = left + LEFT;
      kava_mbarrier_wait(empty + stage, (round & 1) ^ 1);
      kava_mbarrier_expect(full + stage, STAGE * 2);
      kava_box_load(left, a.x, k * STEP, (m * S::CLUSTER + rank) * ROWS, 0, full + stage);
      if (S::CLUSTER > 1) {
        kava_box_load_to(right + rank * WIDTH * STEP, a.w, k * STEP, n * WIDTH, rank, full + stage, 3);
      } else {
        kava_box_load(right, a.w, k * STEP, n * WIDTH, 0, full + stage);
        kava_box_load(right + WIDTH * STEP, a.w, k * STEP, n * WIDTH, 1, full + stage);
      }
      if (++stage == S::STAGES) stage = 0, round++;
    }
  }
}

template <class S>
__device__ __forceinline__ void multiply(const job &a, kava_bf16 *ring, uint64_t *full, uint64_t *empty,
                                         uint64_t *ahead, int rank, int own, int thread) {
  kava_bf16 *panels = ring + S::STAGES * STAGE + own * 2 * S::SLOTS * PANEL;
  int stage = 0, round = 0, order = 0, slot = 0, lane = thread % 32;
  auto release = [&](int s) {
    if (S::CLUSTER > 1) {
      if (lane < S::CLUSTER) kava_mbarrier_arrive_at(empty + s, lane);
    } else if (lane == 0) {
      kava_mbarrier_arrive(empty + s);
    }
  };
  auto room = [&] {
    kava_bf16 *at = panels + slot * 2 * PANEL;
    if (++slot == S::SLOTS) slot = 0;
    return at;
  };
  float acc[32][4];
  for (int t = blockIdx.x / S::CLUSTER; t < a.m_tiles * a.n_tiles; t += gridDim.x / S::CLUSTER, order++) {
    int m, n, before = 0;
    place(a, t, &m, &n);
    if (S::LAG && own == 1) kava_mbarrier_wait(ahead, order & 1);
    auto step = [&](auto first, int k) {
      const kava_bf16 *left = ring + stage * STAGE + own * PANEL, *right = ring + stage * STAGE + LEFT;
      kava_mbarrier_wait(full + stage, round & 1);
      kava_wgmma_begin();
      if (decltype(first)::value)
        kava_wgmma_wide_first(acc, kava_operand_at(left), kava_operand_at(right));
      else
        kava_wgmma_wide(acc, kava_operand_at(left), kava_operand_at(right));
#pragma unroll
      for (int i = 16; i < STEP; i += 16) kava_wgmma_wide(acc, kava_operand_at(left + i), kava_operand_at(right + i));
      kava_wgmma_end();
      if (S::LAG && own == 0 && lane == 0 && k + 1 == S::LAG) kava_mbarrier_arrive(ahead);
      if (!decltype(first)::value) {
        kava_wgmma_wait<1>();
        release(before);
      }
      before = stage;
      if (++stage == S::STAGES) stage = 0, round++;
    };
    step(std::true_type(), 0);
    for (int k = 1; k < a.steps; k++) step(std::false_type(), k);
    kava_wgmma_wait<0>();
    kava_wgmma_wide_done(acc);
    release(before);

    int row = (m * S::CLUSTER + rank) * ROWS + own * 64, column = n * WIDTH;
    half_tile gate, up;
    round_pairs(gate, acc, 0);
    round_pairs(up, acc, 16);
#pragma unroll 1 /* unrolled, all is mixed up by the compiler, and more than there are registers for is alive */
    for (int output = S::KEEPS ? 0 : 2; output < 3; output++) {
      if (output == 2) gate_pairs(gate, up);
      half_tile now;
#pragma unroll
      for (int i = 0; i < 32; i++) now[i / 2][i % 2] = output == 1 ? up[i / 2][i % 2] : gate[i / 2][i % 2];
      put<S::SLOTS - 1>(output == 2 ? a.act : a.both, column, row, output == 1, now, room(), thread, 1 + own);
    }
  }
  if (thread == 0) kava_box_wait<0>();
}
#endif

template <class S>
__global__ void KAVA_CLUSTER(S::CLUSTER) __launch_bounds__(THREADS, 1)
    gated_product_kernel(const __grid_constant__ job a) {
#ifdef KAVA_WGMMA
  KAVA_SHARED(uint64_t, full, S::STAGES);
  KAVA_SHARED(uint64_t, empty, S::STAGES);
  KAVA_SHARED(uint64_t, ahead, 1);
  kava_bf16 *ring = tiles_begin();
  int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0), thread = threadIdx.x % 128;
  int rank = blockIdx.x % S::CLUSTER;
  if (threadIdx.x == 0) {
    for (int s = 0; s < S::STAGES; s++) {
      kava_mbarrier_init(full + s, 1);
      kava_mbarrier_init(empty + s, 8 * S::CLUSTER); /* a lane of every warp that multiplies, of every block */
    }
    kava_mbarrier_init(ahead, 4);
    kava_mbarrier_made();
  }
  if (S::CLUSTER > 1)
    kava_cluster_barrier();
  else
    __syncthreads();

  if (group == 0) {
    kava_registers_less<40>();
    if (thread == 0) fetch<S>(a, ring, full, empty, rank);
  } else {
    kava_registers_more<232>();
    multiply<S>(a, ring, full, empty, ahead, rank, group - 1, thread);
  }
  if (S::CLUSTER > 1) kava_cluster_barrier(); /* nobody's shared memory goes while another may write there */
#endif
}

/* both NULL: not kept. False: addresses that the copy engine takes not. */
template <class S>
bool gated_product(const void *x, const void *w, int64_t rows, int64_t n, int64_t k, void *act, void *both) {
  job a;
  a.steps = (int)((k + STEP - 1) / STEP);
  a.m_tiles = (int)((rows + ROWS * S::CLUSTER - 1) / (ROWS * S::CLUSTER));
  a.n_tiles = (int)((n + WIDTH - 1) / WIDTH);
  a.m_block = 4096 / (ROWS * S::CLUSTER);
  if (!kava_box_make(&a.x, x, k, rows, 1, k, rows * k, ROWS) || !kava_box_make(&a.w, w, k, n, 2, k, n * k, WIDTH) ||
      !kava_box_make(&a.act, act, n, rows, 1, n, rows * n, 64) ||
      !kava_box_make(&a.both, S::KEEPS ? both : act, n, rows, S::KEEPS ? 2 : 1, S::KEEPS ? 2 * n : n, n, 64))
    return false;
  int most = kava_cuda_device()->multiprocessors / S::CLUSTER, tiles = a.m_tiles * a.n_tiles;
  kava_launch("linear_gate_up", gated_product_kernel<S>, (unsigned)((tiles < most ? tiles : most) * S::CLUSTER),
              THREADS, S::SHARED, a);
  return true;
}
/* What was fastest on an H200. */
typedef shape<KAVA_CLUSTERS ? 2 : 1, 4, 2, 1, false> alone;
typedef shape<1, 3, 1, 2, true> kept;
enum { STEPS_LEAST = 4 }; /* with fewer than stages one warpgroup could come to be two tiles ahead */
int enough;               /* tiles; 0: two for each multiprocessor */
} // namespace

extern "C" void kava_cuda_gate_up_enough(int tiles) { enough = tiles; }

extern "C" kava_status kava_cuda_linear_gate_up(const kava_linear_args *a, kava_activation kind, const void *x, void *y,
                                                void *act) {
  int64_t n = a->out / 2, tiles = (a->rows + ROWS - 1) / ROWS * ((n + WIDTH - 1) / WIDTH), most = 0x7fffffff;
  const kava_cuda_facts *device = kava_cuda_device();
  if (!kava_wgmma_built() || device->major != 9 || kind != KAVA_SILU || a->dtype != KAVA_BF16 ||
      a->wtype != KAVA_BF16 || a->scaling || a->residual || (n | a->in) % 8 || a->rows > most || n > most ||
      a->in > most || a->in <= (STEPS_LEAST - 1) * STEP || tiles < (enough ? enough : 2 * device->multiprocessors))
    return KAVA_UNSUPPORTED;
  bool took = y ? gated_product<kept>(x, a->w, a->rows, n, a->in, act, y)
                : gated_product<alone>(x, a->w, a->rows, n, a->in, act, NULL);
  return took ? KAVA_OK : KAVA_UNSUPPORTED;
}

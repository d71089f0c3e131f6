/* kernels/cuda/product_hopper.cu: the first half of a gated MLP in one kernel, for Hopper: with x [M,K] and the weights
 * of a gate and an up [N,K] each, act = f(x gate^T) * (x up^T), [M,N]; where the tape wants them, the products [M,2N]
 * are written as well. act is made of gate and up as rounded to bf16, as by two kernels. x and the weights are bf16, or
 * e4m3 codes whose rows have scales; then act is written as such codes, too. A row's scale would be known when all its
 * tiles are there, so each row of a tile has a scale of its own first, a power of 64: those that are not the row's
 * largest are brought to it afterwards (shift_rows_kernel), for which codes lose but what falls off at the low end.
 *
 * A block makes tiles of act [128,128] one after another. One thread of a warpgroup of its own has the copy engine
 * fetch 128 bytes of the rows of x and of both weights at a time into a ring of stages; two warpgroups multiply 64 rows
 * each, gate's and up's rows of a stage standing behind one another as one right operand of 256 rows: so the thread
 * that has column j of gate has column j of up, and joins the two where they are. That is much work for other parts of
 * the chip, and so it is woven into the next tile's products: gate and up, rounded, take half the registers of the
 * sums; a warpgroup hands the tensor cores a step of the next tile, and while they do it joins an eighth of what it
 * holds. What is written goes through shared memory and the copy engine. Two blocks of a cluster have successive rows
 * of x and the same weights, of which each fetches one for both.
 *
 * On an H200, us (in brackets: joined behind the products, not woven; cuBLASLt's products alone): 16384 rows, 1536 to
 * 8960: bf16 1260 (1379; 1330), codes 712 (774; 724); 896 to 4864 and all kept: 469 (499; 441), 4096 rows 125 (142;
 * 113).
 */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/product_hopper.cuh"
#include <type_traits>

namespace {
enum { STEP = 64, ROWS = 128, WIDTH = 128, THREADS = 384 };
enum { PANEL = 64 * 64, LEFT = ROWS * STEP, RIGHT = 2 * WIDTH * STEP, STAGE = LEFT + RIGHT }; /* 2 bytes each */
enum { PARTS = 8 }; /* of a tile, 16 columns each; half of them make a panel */

struct job : tiling {
  kava_box x, gate, up, act, both; /* both: gate and up, where they are kept; of codes: pairs of them */
  int steps;
  /* of codes: what their rows stand multiplied with, and act's scales, powers of 64: for each tile's columns, rows */
  const float *of_x, *of_gate, *of_up;
  int8_t *powers;
  int rows, columns;
};

/* What a kernel is made for. T: bf16, or uint8_t for codes. */
template <class T_, int CLUSTER_, int STAGES_, bool KEEPS_> struct shape {
  typedef T_ T;
  [[maybe_unused]] static constexpr int CLUSTER = CLUSTER_, STAGES = STAGES_;
  [[maybe_unused]] static constexpr bool KEEPS = KEEPS_;
  static constexpr int ROOM = KEEPS ? 3 * PANEL : PANEL; /* what a warpgroup writes through */
  static constexpr int SHARED = (STAGES * STAGE + 2 * ROOM) * 2 + 1024;
};

#ifdef KAVA_WGMMA
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
        kava_box_load_to(right + rank * WIDTH * STEP, rank ? a.up : a.gate, k * STEP, n * WIDTH, 0, full + stage, 3);
      } else {
        kava_box_load(right, a.gate, k * STEP, n * WIDTH, 0, full + stage);
        kava_box_load(right + WIDTH * STEP, a.up, k * STEP, n * WIDTH, 0, full + stage);
      }
      if (++stage == S::STAGES) stage = 0, round++;
    }
  }
}

template <class S>
__device__ __forceinline__ void multiply(const job &a, kava_bf16 *ring, uint64_t *full, uint64_t *empty, int rank,
                                         int own, int thread) {
  constexpr bool CODES = sizeof(typename S::T) == 1;
  kava_bf16 *room = ring + S::STAGES * STAGE + own * S::ROOM;
  int stage = 0, round = 0, before = 0, k = 0, lane = thread % 32;
  int tiles = a.m_tiles * a.n_tiles, gap = (a.steps - PARTS - (CODES ? 2 : 0)) / 2;
  int lane_row = (thread / 32 * 16 + lane % 16) * 64, lane_chunk = (lane % 16 & 7) ^ lane / 16;
  float acc[32][4], most[2], factor[2];
  uint32_t gate[16][2], up[16][2]; /* a thread's part of [64,128] as the products leave it: pairs of 8 columns each */
  bool begun = false;
  int row = 0, column = 0; /* where those are from */

  auto release = [&](int s) {
    if (S::CLUSTER > 1) {
      if (lane < S::CLUSTER) kava_mbarrier_arrive_at(empty + s, lane);
    } else if (lane == 0) {
      kava_mbarrier_arrive(empty + s);
    }
  };
  auto step = [&](auto first) {
    typedef typename S::T T;
    const kava_bf16 *left = ring + stage * STAGE + own * PANEL, *right = ring + stage * STAGE + LEFT;
    kava_mbarrier_wait(full + stage, round & 1);
    kava_wgmma_begin();
    if (decltype(first)::value)
      kava_wgmma_wide_first<T>(acc, kava_operand_at(left), kava_operand_at(right));
    else
      kava_wgmma_wide<T>(acc, kava_operand_at(left), kava_operand_at(right));
#pragma unroll
    for (int i = 16; i < STEP; i += 16) kava_wgmma_wide<T>(acc, kava_operand_at(left + i), kava_operand_at(right + i));
    kava_wgmma_end();
    if (!decltype(first)::value) {
      kava_wgmma_wait<1>();
      release(before);
    }
    before = stage, k++;
    if (++stage == S::STAGES) stage = 0, round++;
  };

  auto room_free = [&] { /* what was sent has been read, long ago */
                         if (thread == 0) kava_box_wait<0>();
                         kava_named_barrier(1 + own, 128);
  };
  auto send = [&](int at) {
    kava_shared_fence();
    kava_named_barrier(1 + own, 128);
    if (thread != 0) return;
    kava_box_store(a.act, at, row, 0, room);
    for (int i = 0; i < 2 && S::KEEPS; i++) kava_box_store(a.both, at, row, i, room + (1 + i) * PANEL);
    kava_box_commit();
  };
  /* As gated_kernel (activation.cu). */
  auto join = [&](int part) {
    if (part == 0) most[0] = most[1] = 0;
    if (!CODES && part % (PARTS / 2) == 0) room_free();
    uint32_t g[4], u[4], y[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      g[i] = gate[2 * part + i / 2][i % 2], u[i] = up[2 * part + i / 2][i % 2];
      float y0 = kava_value_of(KAVA_SILU, low(g[i])) * low(u[i]);
      float y1 = kava_value_of(KAVA_SILU, high(g[i])) * high(u[i]);
      y[i] = kava_pair<kava_bf16>(y0, y1);
      if (CODES) {
        most[i % 2] = fmaxf(most[i % 2], fmaxf(fabsf(y0), fabsf(y1))); /* NaNs are passed over */
        gate[2 * part + i / 2][i % 2] = y[i];
      }
    }
    if (CODES) return;
    kava_bf16 *to = room + lane_row + ((2 * part & 7) ^ lane_chunk) * 8;
    kava_stmatrix(to, y);
    if (S::KEEPS) {
      kava_stmatrix(to + PANEL, g);
      kava_stmatrix(to + 2 * PANEL, u);
    }
    if (part % (PARTS / 2) == PARTS / 2 - 1) send(column + part / (PARTS / 2) * 64);
  };
  /* Half of the joined tile as codes: 64 rows of 128 are a panel. */
  auto code = [&](int half) {
    int in_row = thread / 32 * 16 + lane / 4;
    if (half == 0) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        most[i] = fmaxf(most[i], __shfl_xor_sync(0xffffffffu, most[i], 1));
        most[i] = fmaxf(most[i], __shfl_xor_sync(0xffffffffu, most[i], 2));
        int at = row + in_row + 8 * i, power = kava_fp8_power(kava_widen(kava_narrow<kava_bf16>(most[i])));
        factor[i] = most[i] <= 3.0e38f ? kava_fp8_scale(-power) : 0; /* an infinity becomes NaN */
        if (lane % 4 == 0 && at < a.rows) a.powers[(int64_t)(column / WIDTH) * a.rows + at] = (int8_t)power;
      }
      room_free();
    }
    uint16_t *to = (uint16_t *)room + in_row * 64 + lane % 4;
#pragma unroll
    for (int c = 8 * half; c < 8 * half + 8; c++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float x = low(gate[c][i]) * factor[i], y = high(gate[c][i]) * factor[i];
        to[8 * 64 * i + (c / 2 ^ lane / 4) * 8 + c % 2 * 4] = (uint16_t)kava_fp8_pair(x, y);
      }
    if (half == 1) send(column / 2);
  };

  for (int t = blockIdx.x / S::CLUSTER; t < tiles; t += gridDim.x / S::CLUSTER) {
    int m, n;
    k = 0;
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
      if (part == 0)
        step(std::true_type());
      else
        step(std::false_type());
      if (begun) join(part);
      for (int i = 0; i < gap && part == PARTS / 2 - 1; i++) step(std::false_type());
    }
#pragma unroll
    for (int half = 0; half < 2 && CODES; half++) {
      if (k < a.steps) step(std::false_type());
      if (begun) code(half);
    }
    while (k < a.steps) step(std::false_type());
    place(a, t, &m, &n);
    row = (m * S::CLUSTER + rank) * ROWS + own * 64, column = n * WIDTH;
    float of_rows[2];
    float2 of_columns[32]; /* read while the last products are under way: gate's and up's registers are free */
    if (CODES) {
      const float *of_gate = a.of_gate + column + lane % 4 * 2, *of_up = a.of_up + column + lane % 4 * 2;
#pragma unroll
      for (int c = 0; c < 16; c++) {
        bool there = column + c * 8 < a.columns;
        of_columns[c] = there ? *reinterpret_cast<const float2 *>(of_gate + c * 8) : float2{0, 0};
        of_columns[16 + c] = there ? *reinterpret_cast<const float2 *>(of_up + c * 8) : float2{0, 0};
      }
#pragma unroll
      for (int i = 0; i < 2; i++) {
        int at = row + thread / 32 * 16 + lane / 4 + 8 * i;
        of_rows[i] = at < a.rows ? a.of_x[at] : 0;
      }
    }
    kava_wgmma_wait<0>();
    kava_wgmma_wide_done(acc);
    release(before);
#pragma unroll
    for (int c = 0; c < 32; c++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float x = acc[c][2 * i], y = acc[c][2 * i + 1];
        if (CODES) x *= of_rows[i] * of_columns[c].x, y *= of_rows[i] * of_columns[c].y;
        (c < 16 ? gate : up)[c % 16][i] = kava_pair<kava_bf16>(x, y);
      }
    begun = true;
  }
#pragma unroll
  for (int part = 0; part < PARTS; part++) join(part);
#pragma unroll
  for (int half = 0; half < 2 && CODES; half++) code(half);
  if (thread == 0) kava_box_wait<0>();
}
#endif

template <class S>
__global__ void KAVA_CLUSTER(S::CLUSTER) __launch_bounds__(THREADS, 1)
    gated_product_kernel(const __grid_constant__ job a) {
#ifdef KAVA_WGMMA
  KAVA_SHARED(uint64_t, full, S::STAGES);
  KAVA_SHARED(uint64_t, empty, S::STAGES);
  kava_bf16 *ring = tiles_begin();
  int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0), thread = threadIdx.x % 128;
  int rank = blockIdx.x % S::CLUSTER;
  if (threadIdx.x == 0) {
    for (int s = 0; s < S::STAGES; s++) {
      kava_mbarrier_init(full + s, 1);
      kava_mbarrier_init(empty + s, 8 * S::CLUSTER); /* a lane of every warp that multiplies, of every block */
    }
    kava_mbarrier_made();
  }
  if (S::CLUSTER > 1)
    kava_cluster_barrier();
  else
    __syncthreads();

  if (group == 0) {
    kava_registers_less<24>();
    if (thread == 0) fetch<S>(a, ring, full, empty, rank);
  } else {
    kava_registers_more<240>();
    multiply<S>(a, ring, full, empty, rank, group - 1, thread);
  }
  if (S::CLUSTER > 1) kava_cluster_barrier(); /* nobody's shared memory goes while another may write there */
#endif
}

/* K in elements of 2 bytes or pairs of codes, act likewise. both NULL: not kept. False: addresses that the copy engine
 * takes not. */
template <class S>
bool gated_product(const char *name, job a, const void *x, const void *gate, const void *up, int64_t rows, int64_t n,
                   int64_t k, void *act, void *both) {
  a.steps = (int)((k + STEP - 1) / STEP);
  a.m_tiles = (int)((rows + ROWS * S::CLUSTER - 1) / (ROWS * S::CLUSTER));
  a.n_tiles = (int)((n + WIDTH - 1) / WIDTH);
  a.m_block = 4096 / (ROWS * S::CLUSTER);
  a.rows = (int)rows, a.columns = (int)n;
  int64_t across = sizeof(typename S::T) == 1 ? n / 2 : n;
  if (!kava_box_make(&a.x, x, k, rows, 1, k, rows * k, ROWS) ||
      !kava_box_make(&a.gate, gate, k, n, 1, k, n * k, WIDTH) || !kava_box_make(&a.up, up, k, n, 1, k, n * k, WIDTH) ||
      !kava_box_make(&a.act, act, across, rows, 1, across, rows * across, 64) ||
      (S::KEEPS && !kava_box_make(&a.both, both, n, rows, 2, 2 * n, n, 64)))
    return false;
  int most = kava_cuda_device()->multiprocessors / S::CLUSTER, tiles = a.m_tiles * a.n_tiles;
  kava_launch(name, gated_product_kernel<S>, (unsigned)((tiles < most ? tiles : most) * S::CLUSTER), THREADS, S::SHARED,
              a);
  return true;
}
/* What was fastest on an H200. */
enum { PAIR = KAVA_CLUSTERS ? 2 : 1 };
typedef shape<kava_bf16, PAIR, 4, false> alone;
typedef shape<kava_bf16, 1, 3, true> kept;
typedef shape<uint8_t, PAIR, 4, false> coded;
int enough; /* tiles; 0: two for each multiprocessor */

bool pays(int64_t rows, int64_t n, int64_t k) { /* k as above */
  int64_t tiles = (rows + ROWS - 1) / ROWS * ((n + WIDTH - 1) / WIDTH), most = 0x7fffffff;
  const kava_cuda_facts *device = kava_cuda_device();
  return kava_wgmma_built() && device->major == 9 && (n | k) % 8 == 0 && rows <= most && n <= most && k <= most &&
         k > (PARTS - 1) * STEP && tiles >= (enough ? enough : 2 * device->multiprocessors);
}
} // namespace

extern "C" void kava_cuda_gate_up_enough(int tiles) { enough = tiles; }

extern "C" kava_status kava_cuda_linear_gate_up(const kava_linear_args *a, kava_activation kind, const void *x, void *y,
                                                void *act) {
  int64_t n = a->out / 2;
  const char *name = "linear_gate_up", *up = (const char *)a->w + n * a->in * 2;
  if (kind != KAVA_SILU || a->dtype != KAVA_BF16 || a->wtype != KAVA_BF16 || a->scaling || a->residual ||
      !pays(a->rows, n, a->in))
    return KAVA_UNSUPPORTED;
  bool took = y ? gated_product<kept>(name, {}, x, a->w, up, a->rows, n, a->in, act, y)
                : gated_product<alone>(name, {}, x, a->w, up, a->rows, n, a->in, act, NULL);
  return took ? KAVA_OK : KAVA_UNSUPPORTED;
}

bool kava_cuda_gate_up_fp8_pays(int64_t rows, int64_t n, int64_t k) {
  return n % 16 == 0 && k % 2 == 0 && pays(rows, n, k / 2);
}

kava_status kava_cuda_gate_up_fp8(const uint8_t *x, const float *scales, const kava_linear_args *gate,
                                  const kava_linear_args *up, uint8_t *codes, int8_t *powers) {
  static_assert(WIDTH == KAVA_FP8_TILE, "a scale each");
  job a = {};
  a.of_x = scales, a.powers = powers;
  a.of_gate = (const float *)gate->scaling->scales + gate->first;
  a.of_up = (const float *)up->scaling->scales + up->first;
  bool took = gated_product<coded>("gated_mlp: gate and up", a, x, gate->w, up->w, gate->rows, gate->out, gate->in / 2,
                                   codes, NULL);
  return took ? KAVA_OK : KAVA_UNSUPPORTED;
}

/* kernels/cuda/native/bulk.cuh: Hopper's copy engine (TMA) and what goes with it: barriers in shared memory that count
 * bytes, products 256 columns wide, registers handed from one warpgroup to another. emulated/bulk.cuh says in plain C++
 * what each means. As with KAVA_WGMMA, a kernel's body that names the device's part stands under #ifdef KAVA_WGMMA. */
#ifndef KAVA_BULK_CUH
#define KAVA_BULK_CUH
#include <cuda.h>
#include <machine.cuh>

#define KAVA_CLUSTERS 1 /* blocks of a cluster reach each other's shared memory; 0: there are none */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define KAVA_CLUSTER(blocks) /* there are none before Hopper, whose compilers refuse the word */
#else
#define KAVA_CLUSTER(blocks) __cluster_dims__(blocks, 1, 1)
#endif

/* How a box of a matrix lies in memory: `parts` matrices of [rows, columns] elements of 2 bytes, rows `row` elements
 * apart, matrices `part`; a box is 64 columns of box_rows rows of one, and in shared memory a tile with the 128-byte
 * swizzle (machine.cuh), at a multiple of 1024 bytes. What lies outside is read as zeros, and not written. Handed to
 * kernels by value, as `const __grid_constant__ kava_box`. */
typedef CUtensorMap kava_box;

/* False: it cannot be said: addresses and distances have to be multiples of 16 bytes. */
static inline bool kava_box_make(kava_box *box, const void *base, int64_t columns, int64_t rows, int64_t parts,
                                 int64_t row, int64_t part, int box_rows) {
  static decltype(&cuTensorMapEncodeTiled) encode = NULL; /* asked of the runtime: nothing links the driver */
  if (!encode) {
    cudaDriverEntryPointQueryResult found;
    void *entry = NULL;
#if CUDART_VERSION >= 12050
    cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
#else
    cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &found);
#endif
    if (error != cudaSuccess || found != cudaDriverEntryPointSuccess) return cudaGetLastError(), false;
    encode = (decltype(encode))entry;
  }
  cuuint64_t size[3] = {(cuuint64_t)columns, (cuuint64_t)rows, (cuuint64_t)parts};
  cuuint64_t stride[2] = {(cuuint64_t)row * 2, (cuuint64_t)part * 2};
  cuuint32_t shape[3] = {64, (cuuint32_t)box_rows, 1}, step[3] = {1, 1, 1};
  return encode(box, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void *>(base), size, stride, shape, step,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

#ifdef KAVA_WGMMA
static __device__ __forceinline__ uint32_t kava_shared_at(const void *p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- barriers: 8 bytes of shared memory. A phase ends when `count` threads have arrived and the bytes that were
 * announced have come. ---- */
static __device__ __forceinline__ void kava_mbarrier_init(uint64_t *b, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(kava_shared_at(b)), "r"(count) : "memory");
}
/* By the thread that made them, before the barrier by which the others (and the copy engine) learn of them. */
static __device__ __forceinline__ void kava_mbarrier_made() {
  asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;" ::: "memory");
}
static __device__ __forceinline__ void kava_mbarrier_arrive(uint64_t *b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(kava_shared_at(b)) : "memory");
}
/* At the same place of another block of the cluster. It says that reads are over; with .release.cluster, by which what
 * was written would be seen there, it would wait for all of the thread's memory (a quarter of a product's time). */
static __device__ __forceinline__ void kava_mbarrier_arrive_at(uint64_t *b, int block) {
  asm volatile("{.reg .b32 at; mapa.shared::cluster.u32 at, %0, %1;\n"
               "mbarrier.arrive.shared::cluster.b64 _, [at];}" ::"r"(kava_shared_at(b)),
               "r"(block)
               : "memory");
}
/* Arrives, and announces bytes. */
static __device__ __forceinline__ void kava_mbarrier_expect(uint64_t *b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(kava_shared_at(b)), "r"(bytes)
               : "memory");
}
static __device__ __forceinline__ bool kava_mbarrier_try(uint64_t *b, int parity) {
  uint32_t done;
  asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
               : "=r"(done)
               : "r"(kava_shared_at(b)), "r"(parity)
               : "memory");
  return done;
}
/* Until the phase of this parity has ended; the first has parity 0. */
static __device__ __forceinline__ void kava_mbarrier_wait(uint64_t *b, int parity) {
#ifdef KAVA_WATCHDOG
  uint64_t from, now; /* nanoseconds */
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(from));
  while (!kava_mbarrier_try(b, parity)) {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    if (now - from > KAVA_WATCHDOG) asm volatile("trap;");
  }
#else
  while (!kava_mbarrier_try(b, parity)) {}
#endif
}

/* Bytes, a multiple of 16 at addresses that are, come to shared memory, and are told of at the barrier. */
static __device__ __forceinline__ void kava_bulk_load(void *to, const void *from, int bytes, uint64_t *barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   kava_shared_at(to)),
               "l"(from), "r"(bytes), "r"(kava_shared_at(barrier))
               : "memory");
}

/* ---- boxes ---- */
static __device__ __forceinline__ void kava_box_prefetch(const kava_box &box) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&box) : "memory");
}
/* The box at (column, row) of matrix `part` comes to `tile`, and is told of at the barrier. */
static __device__ __forceinline__ void kava_box_load(void *tile, const kava_box &box, int column, int row, int part,
                                                     uint64_t *barrier) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
               " [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(kava_shared_at(tile)),
               "l"(&box), "r"(column), "r"(row), "r"(part), "r"(kava_shared_at(barrier))
               : "memory");
}
/* To the same place of every block of the cluster whose bit is set, and told of at the same barrier of each. */
static __device__ __forceinline__ void kava_box_load_to(void *tile, const kava_box &box, int column, int row, int part,
                                                        uint64_t *barrier, int blocks) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
               " [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(kava_shared_at(tile)),
               "l"(&box), "r"(column), "r"(row), "r"(part), "r"(kava_shared_at(barrier)), "h"((short)blocks)
               : "memory");
}
static __device__ __forceinline__ void kava_box_store(const kava_box &box, int column, int row, int part,
                                                      const void *tile) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(&box),
               "r"(column), "r"(row), "r"(part), "r"(kava_shared_at(tile))
               : "memory");
}
static __device__ __forceinline__ void kava_box_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/* Until at most N of this thread's groups of stores still read shared memory. */
template <int N> static __device__ __forceinline__ void kava_box_wait() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

/* ---- warps ---- */
/* A barrier of `threads` threads, whole warps, by its number, 1 to 15. */
static __device__ __forceinline__ void kava_named_barrier(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
template <int N> static __device__ __forceinline__ void kava_registers_more() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> static __device__ __forceinline__ void kava_registers_less() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
/* A barrier of the cluster's blocks, for all their threads. */
static __device__ __forceinline__ void kava_cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
/* The mirror of kava_ldmatrix. */
static __device__ __forceinline__ void kava_stmatrix(void *row, const uint32_t (&in)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(kava_shared_at(row)), "r"(in[0]),
               "r"(in[1]), "r"(in[2]), "r"(in[3])
               : "memory");
}

/* ---- d = A B^T, or d += A B^T, for A [64,16] and B [256,16] in shared memory, bf16, or, of uint8_t, for e4m3 codes
 * [64,32] and [256,32], in tiles of 128 codes a row. The first of these does not read d, so that between two sums its
 * registers are free. ---- */
/* clang-format off */
#define KAVA_FOUR(mode, d, i) mode(d[i][0]), mode(d[i][1]), mode(d[i][2]), mode(d[i][3])
#define KAVA_SIXTEEN(mode, d, i) \
  KAVA_FOUR(mode, d, i), KAVA_FOUR(mode, d, i + 1), KAVA_FOUR(mode, d, i + 2), KAVA_FOUR(mode, d, i + 3)
#define KAVA_64_OF(mode, d, i) \
  KAVA_SIXTEEN(mode, d, i), KAVA_SIXTEEN(mode, d, i + 4), KAVA_SIXTEEN(mode, d, i + 8), KAVA_SIXTEEN(mode, d, i + 12)
#define KAVA_WGMMA_256(scale, types, turned) \
  "{.reg .pred p; setp.ne.b32 p, " scale ", 0; wgmma.mma_async.sync.aligned.m64n256" types " {" \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29," \
  "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56," \
  "%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83," \
  "%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108," \
  "%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127" \
  "}, %128, %129, p, 1, 1" turned ";}"
/* clang-format on */
#define KAVA_WRITES(x) "=f"(x)
#define KAVA_ADDS(x) "+f"(x)
template <class T> __device__ void kava_wgmma_wide_first(float (&d)[32][4], kava_operand a, kava_operand b);
template <class T> __device__ void kava_wgmma_wide(float (&d)[32][4], kava_operand a, kava_operand b);
#define KAVA_WGMMA_WIDE_OF(T, types, turned)                                                                           \
  template <>                                                                                                          \
  __device__ __forceinline__ void kava_wgmma_wide_first<T>(float(&d)[32][4], kava_operand a, kava_operand b) {         \
    asm volatile(KAVA_WGMMA_256("0", types, turned)                                                                    \
                 : KAVA_64_OF(KAVA_WRITES, d, 0), KAVA_64_OF(KAVA_WRITES, d, 16)                                       \
                 : "l"(a), "l"(b));                                                                                    \
  }                                                                                                                    \
  template <> __device__ __forceinline__ void kava_wgmma_wide<T>(float(&d)[32][4], kava_operand a, kava_operand b) {   \
    asm volatile(KAVA_WGMMA_256("1", types, turned)                                                                    \
                 : KAVA_64_OF(KAVA_ADDS, d, 0), KAVA_64_OF(KAVA_ADDS, d, 16)                                           \
                 : "l"(a), "l"(b));                                                                                    \
  }
KAVA_WGMMA_WIDE_OF(__nv_bfloat16, "k16.f32.bf16.bf16", ", 0, 0")
KAVA_WGMMA_WIDE_OF(uint8_t, "k32.f32.e4m3.e4m3", "")
/* The same of B itself, [16,256], bf16: 16 rows of four tiles side by side in shared memory, which begin `apart` bytes
 * from one another. */
typedef uint64_t kava_operands;
static __device__ __forceinline__ kava_operands kava_operands_at(const void *rows, int apart) {
  return kava_operand_at(rows, apart);
}
static __device__ __forceinline__ void kava_wgmma_wide_rows_first(float (&d)[32][4], kava_operand a, kava_operands b) {
  asm volatile(KAVA_WGMMA_256("0", "k16.f32.bf16.bf16", ", 0, 1")
               : KAVA_64_OF(KAVA_WRITES, d, 0), KAVA_64_OF(KAVA_WRITES, d, 16)
               : "l"(a), "l"(b));
}
static __device__ __forceinline__ void kava_wgmma_wide_rows(float (&d)[32][4], kava_operand a, kava_operands b) {
  asm volatile(KAVA_WGMMA_256("1", "k16.f32.bf16.bf16", ", 0, 1")
               : KAVA_64_OF(KAVA_ADDS, d, 0), KAVA_64_OF(KAVA_ADDS, d, 16)
               : "l"(a), "l"(b));
}
static __device__ __forceinline__ void kava_wgmma_wide_done(float (&d)[32][4]) {
#pragma unroll
  for (int i = 0; i < 128; i++) asm volatile("" : "+f"(d[i / 4][i % 4])::"memory");
}
#endif
#endif

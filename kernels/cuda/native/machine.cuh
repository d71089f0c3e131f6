/* kernels/cuda/native/machine.cuh: what kernels say to the machine itself: launching, shared memory, and the
 * instructions that have no name in CUDA C++. emulated/machine.cuh says in plain C++ what each means. */
#ifndef KAVA_MACHINE_CUH
#define KAVA_MACHINE_CUH
#include "kernels/cuda/timed.cuh"
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

cudaStream_t kava_cuda_stream(void);
void kava_cuda_launching(const char *name);
void kava_cuda_failed(const char *name, cudaError_t error);

/* Memory is reserved this much at a time, and cut up. */
#define KAVA_MEMORY_CHUNK ((size_t)32 << 20)

/* An array in shared memory whose size is known; what is not comes from kava_dynamic_shared. */
#define KAVA_SHARED(type, name, count) __shared__ type name[count]
static __device__ __forceinline__ void *kava_dynamic_shared() {
  extern __shared__ uint4 kava_shared_bytes[];
  return kava_shared_bytes;
}

/* Launches on KAVA's stream. `shared`: bytes of dynamic shared memory. A failure is kept (kava_cuda_failed) with
 * `name`, and comes to light at the next synchronisation. */
template <class... P, class... A>
void kava_launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A... arguments) {
  if (shared) /* without leave a block has 48 KiB, of which static memory takes its share */
    cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
  kava_timed timed(name);
  kava_cuda_launching(name);
  kernel<<<grid, block, shared, kava_cuda_stream()>>>(static_cast<P>(arguments)...);
  cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) kava_cuda_failed(name, error);
}

static __device__ __forceinline__ float kava_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/* A register whose value the compiler no longer knows: what was made of it is made anew, not kept in registers. */
static __device__ __forceinline__ void kava_forgotten(uint32_t &x) { asm volatile("" : "+r"(x)); }

/* The square root and x / y to within two units of the last place, y from 2^-126 to 2^126; what is below 2^-126 counts
 * as nothing. */
static __device__ __forceinline__ float kava_root(float x) {
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
static __device__ __forceinline__ float kava_ratio(float x, float y) {
  float ratio;
  asm("div.approx.ftz.f32 %0, %1, %2;" : "=f"(ratio) : "f"(x), "f"(y));
  return ratio;
}

/* Two numbers as e4m3, x in the low byte: to nearest, at most 448. */
static __device__ __forceinline__ uint32_t kava_fp8_pair(float x, float y) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  unsigned short both;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(both) : "f"(y), "f"(x));
  return both;
#else
  uint32_t both = 0;
  for (int i = 0; i < 2; i++) { /* as kava_f32_to_fp8 (kernels/cpu/half.h) */
    uint32_t bits = __float_as_uint(i ? y : x), size = bits & 0x7fffffffu, code;
    if (size < 0x3c800000u)
      code = __float_as_uint(__fadd_rn(__uint_as_float(size), 0x1p14f)) - 0x46800000u;
    else if (size >= 0x43e00000u)
      code = size > 0x7f800000u ? 0x7f : 0x7e;
    else
      code = (size + 0x7ffffu + (size >> 20 & 1)) >> 20, code -= 120u << 3;
    both |= (code | (bits >> 24 & 128)) << 8 * i;
  }
  return both;
#endif
}
/* Four codes times 2^-by, rounded where bits fall off: by as kava_fp8_shift makes it. By way of halves, which hold all
 * that does not become zero; what is shifted by more than 18 does. GPUs without fp8 have no such codes to shift. */
static __device__ __forceinline__ uint32_t kava_fp8_shift(int by) {
  uint32_t half = by < 15 ? (uint32_t)(15 - by) << 10 : by < 25 ? 1u << (24 - by) : 0;
  return half | half << 16;
}
static __device__ __forceinline__ uint32_t kava_fp8_shifted(uint32_t codes, uint32_t by) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  asm("{.reg .b16 a, b; .reg .b32 x, y; mov.b32 {a, b}, %0; cvt.rn.f16x2.e4m3x2 x, a; cvt.rn.f16x2.e4m3x2 y, b;"
      " mul.rn.f16x2 x, x, %1; mul.rn.f16x2 y, y, %1; cvt.rn.satfinite.e4m3x2.f16x2 a, x;"
      " cvt.rn.satfinite.e4m3x2.f16x2 b, y; mov.b32 %0, {a, b};}"
      : "+r"(codes)
      : "r"(by));
#endif
  return codes;
}

/* 16 bytes of global to shared memory, behind the thread's back; zeros, and nothing read, when not valid. */
static __device__ __forceinline__ void kava_copy_async16(void *shared, const void *global, bool valid) {
  uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
  int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}
static __device__ __forceinline__ void kava_copy_async4(void *shared, const void *global, bool valid) {
  uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
  int bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}
static __device__ __forceinline__ void kava_copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Until at most N of this thread's groups are under way. Other threads' copies: after a barrier as well. */
template <int N> static __device__ __forceinline__ void kava_copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

static __device__ __forceinline__ void kava_ldmatrix(uint32_t out[4], const void *row) {
  uint32_t from = (uint32_t)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(from)
               : "memory");
}
static __device__ __forceinline__ void kava_ldmatrix_transposed(uint32_t out[4], const void *row) {
  uint32_t from = (uint32_t)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(from)
               : "memory");
}

/* Two numbers as the halves of a word, x in the low one. */
template <class T> __device__ uint32_t kava_pair(float x, float y);
template <> __device__ __forceinline__ uint32_t kava_pair<__nv_bfloat16>(float x, float y) {
  __nv_bfloat162 both = __floats2bfloat162_rn(x, y);
  return *reinterpret_cast<uint32_t *>(&both);
}
template <> __device__ __forceinline__ uint32_t kava_pair<__half>(float x, float y) {
  __half2 both = __floats2half2_rn(x, y);
  return *reinterpret_cast<uint32_t *>(&both);
}

/* 16 bytes in one instruction, whatever the compiler makes of a structure's store (at times one for each word). */
static __device__ __forceinline__ void kava_store_words(void *to, const uint32_t (&words)[4]) {
  asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]),
               "r"(words[3])
               : "memory");
}

/* d += A B, m16n8k16, products of T (bf16 or f16) summed in f32. */
template <class T> __device__ void kava_mma(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void kava_mma<__nv_bfloat16>(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void kava_mma<__half>(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* Hopper's products of a warpgroup (four warps, the first of which is a multiple of four), which read their operands
 * from shared memory while the warps go on. They are there for sm_90a only: the body of a kernel that names them stands
 * under #ifdef KAVA_WGMMA, and its launcher asks kava_wgmma_built and the device.
 *
 * A tile is 64 rows of 64 elements of 2 bytes at a multiple of 1024 bytes, in which the 16 bytes c of row r lie where
 * c ^ r % 8 would (the 128-byte swizzle). An operand is a tile, or columns of one from a multiple of 16 on, or rows. */
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define KAVA_WGMMA
#endif
static inline bool kava_wgmma_built() {
#ifdef KAVA_CUDA_90A
  return true;
#else
  return false;
#endif
}
#ifdef KAVA_WGMMA
typedef uint64_t kava_operand;
static __device__ __forceinline__ kava_operand kava_operand_at(const void *tile, int leading = 16) {
  uint32_t at = (uint32_t)__cvta_generic_to_shared(tile);
  /* 8 rows are 1024 bytes; the leading offset means nothing for 64 columns; 1: the 128-byte swizzle */
  return (uint64_t)((at & 0x3ffff) >> 4 | (uint32_t)(leading >> 4) << 16) | (uint64_t)(1024 >> 4 | 1 << 30) << 32;
}
/* The same, so many elements further (whole 16 bytes). */
static __device__ __forceinline__ kava_operand kava_operand_behind(kava_operand o, int elements) {
  return o + (uint64_t)(elements * 2 / 16);
}
/* What this thread wrote to shared memory, or had copied there and waited for, becomes visible to products that begin
 * after the barrier by which other threads learn of it. */
static __device__ __forceinline__ void kava_shared_fence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/* Before a group of products, which touch registers written otherwise; after it; until at most N groups are under way.
 * Until then nobody touches their accumulators and operands in registers. */
static __device__ __forceinline__ void kava_wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
static __device__ __forceinline__ void kava_wgmma_end() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int N> static __device__ __forceinline__ void kava_wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
/* Behind a wait: nothing is done with these accumulators before it. */
static __device__ __forceinline__ void kava_wgmma_done(float (&d)[8][4]) {
#pragma unroll
  for (int i = 0; i < 32; i++) asm volatile("" : "+f"(d[i / 4][i % 4])::"memory");
}
/* clang-format off */
#define KAVA_ACCUMULATORS(d) \
      "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), \
      "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), \
      "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), \
      "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), \
      "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]), \
      "+f"(d[7][2]), "+f"(d[7][3])
#define KAVA_WGMMA_64(type) \
  "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type \
  " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
/* clang-format on */
/* d = A B^T, with add: +=, for A and B [64,16] in shared memory. */
template <class T> __device__ void kava_wgmma(float (&d)[8][4], kava_operand a, kava_operand b, bool add);
/* d += A B for A [64,16] in registers, a warp's 16 rows as in kava_mma, and B [16,64] in shared memory. */
template <class T> __device__ void kava_wgmma(float (&d)[8][4], const uint32_t (&a)[4], kava_operand b);
#define KAVA_WGMMA_OF(T, type)                                                                                         \
  template <>                                                                                                          \
  __device__ __forceinline__ void kava_wgmma<T>(float(&d)[8][4], kava_operand a, kava_operand b, bool add) {           \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0; " KAVA_WGMMA_64(type) "%32, %33, p, 1, 1, 0, 0;}"              \
                 : KAVA_ACCUMULATORS(d)                                                                                \
                 : "l"(a), "l"(b), "r"((int)add));                                                                     \
  }                                                                                                                    \
  template <> __device__ __forceinline__ void kava_wgmma<T>(float(&d)[8][4], const uint32_t(&a)[4], kava_operand b) {  \
    asm volatile("{.reg .pred p; setp.ne.b32 p, 1, 0; " KAVA_WGMMA_64(type) "{%32, %33, %34, %35}, %36, p, 1, 1, 1;}"  \
                 : KAVA_ACCUMULATORS(d)                                                                                \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                \
  }
KAVA_WGMMA_OF(__nv_bfloat16, "bf16")
KAVA_WGMMA_OF(__half, "f16")
#endif
#endif

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
void kava_cuda_failed(const char *name, cudaError_t error);

/* Memory is reserved this much at a time, and cut up. */
#define KAVA_MEMORY_CHUNK ((size_t)128 << 20)

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
  if (shared > 48 * 1024)
    cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
  kava_timed timed(name);
  kernel<<<grid, block, shared, kava_cuda_stream()>>>(static_cast<P>(arguments)...);
  cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) kava_cuda_failed(name, error);
}

static __device__ __forceinline__ float kava_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
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
#endif

/* kernels/cuda/emulated/cuda_runtime.h: as much of CUDA's runtime and device language as KAVA's sources use, meant for
 * a C++ compiler: the same .cu files become a library that runs them on the CPU, so that their logic is tested where
 * there is no GPU. What it catches, by ending the program with a message:
 *   - the host touching device memory, or a kernel being handed a host pointer (device memory is closed to the host);
 *   - a kernel reading or writing outside of an allocation (guard pages; the last bytes by a canary, when it is freed);
 *   - a barrier, shuffle or matrix product that not every thread of its block or warp comes to;
 *   - memory that nothing wrote: device and shared memory begin as bytes 0xff, which are NaNs;
 *   - asynchronous copies into shared memory that are read before they were waited for;
 *   - two streams at the same memory, one of them writing, where neither waits for the other;
 *   - more shared memory than a block has, and more than 48 KiB where the kernel was not given leave.
 * KAVA_CUDA_TROUBLE in the environment says what is wrong with this GPU, in words KEY=VALUE: driver=11040 (a version;
 * 0: there is none), devices=0, capability=75, busy=1, exclusive=1, image=0 (no code for it), taken=BYTES (by others),
 * shared=BYTES (of shared memory a block may have at most), fail=KERNEL:N (the Nth kernel whose name begins so ends in
 * an illegal access, as the GPU tells only later), nowait=1 (no stream waits for another), idle=1 (nothing is computed
 * or kept: memory alone is counted, of steps as large as memory=BYTES lets them be, taken in chunks of chunk=BYTES).
 * What it cannot show: speed, races between warps that this order of execution hides (KAVA_CUDA_ORDER=backward runs
 * threads the other way round), and the memory model. The names are CUDA's; nothing here is taken from NVIDIA's files.
 */
#ifndef KAVA_EMULATED_CUDA_RUNTIME_H
#define KAVA_EMULATED_CUDA_RUNTIME_H
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define CUDART_CB

struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

/* ---- the host's side ---- */
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorDevicesUnavailable = 46,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorECCUncorrectable = 214,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchTimeout = 702,
  cudaErrorAssert = 710,
  cudaErrorHardwareStackError = 714,
  cudaErrorIllegalInstruction = 715,
  cudaErrorMisalignedAddress = 716,
  cudaErrorInvalidAddressSpace = 717,
  cudaErrorInvalidPc = 718,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureUnjoined = 904,
  cudaErrorStreamCaptureIsolation = 905,
  cudaErrorUnknown = 999
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeMode = 20,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal,
  cudaStreamCaptureModeThreadLocal,
  cudaStreamCaptureModeRelaxed
};
enum cudaStreamCaptureStatus {
  cudaStreamCaptureStatusNone,
  cudaStreamCaptureStatusActive,
  cudaStreamCaptureStatusInvalidated
};
enum cudaComputeMode { cudaComputeModeDefault, cudaComputeModeProhibited = 2, cudaComputeModeExclusiveProcess };
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin, sharedMemPerMultiprocessor;
  int major, minor, multiProcessorCount, l2CacheSize, regsPerMultiprocessor, warpSize, computeMode, pciBusID,
      pciDeviceID, pciDomainID;
};
typedef struct kava_emulated_stream *cudaStream_t;
typedef struct kava_emulated_event *cudaEvent_t;
typedef struct kava_emulated_graph *cudaGraph_t;
typedef struct kava_emulated_graph *cudaGraphExec_t;
typedef struct kava_emulated_node *cudaGraphNode_t; /* each runs behind the one before it */
enum cudaGraphNodeType { cudaGraphNodeTypeKernel, cudaGraphNodeTypeMemcpy, cudaGraphNodeTypeMemset };
struct cudaMemsetParams {
  void *dst;
  size_t pitch, width, height;
  unsigned elementSize, value;
};
typedef void (*cudaHostFn_t)(void *);
#define cudaStreamDefault 0
#define cudaStreamNonBlocking 1
#define cudaEventDefault 0
#define cudaEventBlockingSync 1
#define cudaEventDisableTiming 2
#define cudaHostAllocDefault 0

extern "C" {
const char *cudaGetErrorString(cudaError_t error);
const char *cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemGetInfo(size_t *free, size_t *total);
cudaError_t cudaMallocHost(void **p, size_t bytes);
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaFree(void *p);
cudaError_t cudaFreeAsync(void *p, cudaStream_t stream);
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemset(void *p, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreate(cudaStream_t *stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count);
cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType *type);
cudaError_t cudaGraphMemsetNodeGetParams(cudaGraphNode_t node, cudaMemsetParams *params);
cudaError_t cudaGraphDestroyNode(cudaGraphNode_t node);
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data);
cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to);
}
namespace kava_emulated {
cudaError_t allocate(void **p, size_t bytes);
size_t chunk();
} // namespace kava_emulated
template <class T> cudaError_t cudaMalloc(T **p, size_t bytes) {
  return kava_emulated::allocate(reinterpret_cast<void **>(p), bytes);
}
template <class T> cudaError_t cudaMallocAsync(T **p, size_t bytes, cudaStream_t) {
  return kava_emulated::allocate(reinterpret_cast<void **>(p), bytes);
}
cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value);

/* ---- the device's side ---- */
extern uint3 threadIdx, blockIdx; /* of the thread that runs now */
extern dim3 blockDim, gridDim;
static const int warpSize = 32;

namespace kava_emulated {
/* Runs every thread of every block; called by kava_launch (machine.cuh). `kernel` is what cudaFuncSetAttribute knows it
 * by. */
cudaError_t launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                   std::function<void()> body);
void check_argument(const char *name, const void *argument, size_t bytes); /* holds it a host pointer? */
void *dynamic_shared();
void *static_shared(const void *key, size_t bytes); /* one place per block and key */
[[noreturn]] void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

enum meeting { SHUFFLE = 1, BALLOT, SYNC, LDMATRIX, MMA };
enum { SLOT = 64 };
/* Hands `bytes` of this lane to the others of its warp and returns all lanes' slots, SLOT bytes each, once every lane
 * came. They stay until this lane's next meeting but one. */
const unsigned char *meet(meeting kind, unsigned mask, const void *mine, size_t bytes);
void barrier(const char *file, int line);
int barrier_reduce(const char *file, int line, int value, int kind); /* kind 0: count, 1: and, 2: or */
unsigned lane();

template <class T> T shuffle(unsigned mask, T value, int from, bool inside) {
  static_assert(sizeof(T) <= SLOT, "a shuffle moves at most a slot");
  const unsigned char *slots = meet(SHUFFLE, mask, &value, sizeof value);
  if (inside) std::memcpy(&value, slots + from * SLOT, sizeof value);
  return value;
}
void copy_async(void *to, const void *from, int bytes, bool valid); /* to shared memory; zeros where not valid */
void copy_commit();
void copy_wait(int pending);
/* The copy engine: what is handed to it happens when no thread can go on, or when it is waited for; the last at once.
 */
void bulk_load(std::function<void()> copy);
void bulk_store(std::function<void()> copy);
void bulk_commit();
void bulk_wait(int pending);
/* This thread goes on once *word is no longer `value`. */
void watch(const uint8_t *word, uint8_t value);
void named_barrier(unsigned number, unsigned count);
} // namespace kava_emulated

#define __syncthreads() kava_emulated::barrier(__FILE__, __LINE__)
#define __syncthreads_count(x) kava_emulated::barrier_reduce(__FILE__, __LINE__, (x), 0)
#define __syncthreads_and(x) kava_emulated::barrier_reduce(__FILE__, __LINE__, (x), 1)
#define __syncthreads_or(x) kava_emulated::barrier_reduce(__FILE__, __LINE__, (x), 2)
static inline void __syncwarp(unsigned mask = 0xffffffffu) {
  kava_emulated::meet(kava_emulated::SYNC, mask, nullptr, 0);
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <class T> T __shfl_sync(unsigned mask, T v, int from, int width = 32) {
  int base = (int)kava_emulated::lane() & ~(width - 1);
  return kava_emulated::shuffle(mask, v, base + (from & (width - 1)), true);
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32) {
  int lane = (int)kava_emulated::lane(), from = lane ^ with;
  return kava_emulated::shuffle(mask, v, from, from < ((lane & ~(width - 1)) + width));
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32) {
  int lane = (int)kava_emulated::lane(), from = lane + (int)by;
  return kava_emulated::shuffle(mask, v, from, from < (lane & ~(width - 1)) + width);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32) {
  int lane = (int)kava_emulated::lane(), from = lane - (int)by;
  return kava_emulated::shuffle(mask, v, from, from >= (lane & ~(width - 1)));
}
static inline unsigned __reduce_max_sync(unsigned mask, unsigned x) {
  for (int with = 16; with; with /= 2) {
    unsigned other = __shfl_xor_sync(mask, x, with);
    x = other > x ? other : x;
  }
  return x;
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned char *slots = kava_emulated::meet(kava_emulated::BALLOT, mask, &predicate, sizeof predicate);
  unsigned votes = 0;
  for (int i = 0; i < 32; i++) {
    int vote;
    std::memcpy(&vote, slots + i * kava_emulated::SLOT, sizeof vote);
    votes |= (unsigned)(vote != 0) << i;
  }
  return votes;
}
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == 0xffffffffu; }

template <class T> T __ldg(const T *p) { return *p; }
static inline unsigned __float_as_uint(float x) {
  unsigned u;
  std::memcpy(&u, &x, sizeof u);
  return u;
}
static inline int __float_as_int(float x) { return (int)__float_as_uint(x); }
static inline float __uint_as_float(unsigned u) {
  float x;
  std::memcpy(&x, &u, sizeof x);
  return x;
}
static inline float __int_as_float(int i) { return __uint_as_float((unsigned)i); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
  return (unsigned)(((uint64_t)high << 32 | low) >> (by & 31));
}
#define __expf expf /* functions of these names are the C library's own affair */
#define __logf logf
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline int __float2int_rn(float x) { return (int)lrintf(x); }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline int atomicAdd(int *p, int v) {
  int old = *p;
  *p = old + v;
  return old;
}
static inline unsigned atomicAdd(unsigned *p, unsigned v) {
  unsigned old = *p;
  *p = old + v;
  return old;
}
static inline unsigned atomicMax(unsigned *p, unsigned v) {
  unsigned old = *p;
  *p = old < v ? v : old;
  return old;
}
template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }
#endif

/* kernels/cuda/stream.cu: the streams, the first failure, scratch memory, and the table of kernels. */
#include "kernels/cuda/cuda.cuh"
#include <stdio.h>
#include <string.h>

static cudaStream_t streams[KAVA_CUDA_LANES];
static int lane;
static const char *failed_name;
static cudaError_t failed_error;

enum { RECENT = 32, TOLD = 6 };
static const char *recent[RECENT];
static unsigned launches;
void kava_cuda_launching(const char *name) { recent[launches++ % RECENT] = name; }
void kava_cuda_launched(char *names, size_t size) {
  const char *told[TOLD];
  size_t used = 0;
  int count = 0;
  names[0] = 0;
  for (unsigned back = 1; back <= RECENT && back <= launches && count < TOLD && used < size; back++) {
    const char *name = recent[(launches - back) % RECENT];
    bool known = false;
    for (int i = 0; i < count; i++) known = known || strcmp(told[i], name) == 0;
    if (known) continue;
    used += (size_t)snprintf(names + used, size - used, "%s%s", count ? ", " : "", name);
    told[count++] = name;
  }
}

void kava_cuda_failed(const char *name, cudaError_t error) {
  if (failed_name) return;
  failed_name = name;
  failed_error = error;
}
const char *kava_cuda_failure(cudaError_t *error) {
  const char *name = failed_name;
  *error = failed_error;
  failed_name = NULL;
  failed_error = cudaSuccess;
  return name;
}
static bool succeeded(const char *what, cudaError_t error) {
  if (error == cudaSuccess) return true;
  cudaGetLastError(); /* is kept here: the next launch is not to be blamed for it */
  kava_cuda_failed(what, error);
  return false;
}

cudaStream_t kava_cuda_stream_of(int number) {
  cudaStream_t *stream = &streams[number];
  if (!*stream) succeeded("the stream", cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking));
  return *stream;
}
cudaStream_t kava_cuda_stream(void) { return kava_cuda_stream_of(lane); }
int kava_cuda_lane(void) { return lane; }
void kava_cuda_set_lane(int number) { lane = number; }

static const char *unsupported_kernel;
static kava_dtype unsupported_dtype;
kava_status kava_cuda_unsupported(const char *kernel, kava_dtype dtype) {
  unsupported_kernel = kernel;
  unsupported_dtype = dtype;
  return KAVA_UNSUPPORTED;
}
extern "C" const char *kava_cuda_lacking(kava_dtype *dtype) {
  const char *kernel = unsupported_kernel;
  *dtype = unsupported_dtype;
  unsupported_kernel = NULL;
  return kernel;
}

void *kava_cuda_scratch(size_t bytes) {
  static char *rooms[KAVA_CUDA_LANES];
  static size_t sizes[KAVA_CUDA_LANES];
  char **room = &rooms[lane], *next;
  size_t *size = &sizes[lane];
  if (bytes <= *size) return *room;
  size_t more = *size ? 2 * *size : (size_t)1 << 20;
  while (more < bytes) more *= 2;
  if (!succeeded("scratch memory", cudaMalloc(&next, more))) return NULL;
  *size = more;
  return *room = next;
}

const kava_cuda_facts *kava_cuda_device(void) {
  static kava_cuda_facts facts;
  if (facts.multiprocessors) return &facts;
  int device = 0, shared = 0;
  if (succeeded("the device", cudaGetDevice(&device)) &&
      succeeded("the device", cudaDeviceGetAttribute(&facts.major, cudaDevAttrComputeCapabilityMajor, device)) &&
      succeeded("the device", cudaDeviceGetAttribute(&facts.minor, cudaDevAttrComputeCapabilityMinor, device)) &&
      succeeded("the device", cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)))
    succeeded("the device", cudaDeviceGetAttribute(&facts.multiprocessors, cudaDevAttrMultiProcessorCount, device));
  facts.shared_most = (size_t)shared;
  return &facts;
}

extern "C" {
#define KAVA_KERNEL(result, name, signature) __attribute__((weak)) result kava_cuda_##name signature;
#include "kernels/kernels.def"
#undef KAVA_KERNEL
}
const kava_kernels *kava_cuda_kernels(void) {
  static const kava_kernels table = {
#define KAVA_KERNEL(result, name, signature) kava_cuda_##name,
#include "kernels/kernels.def"
#undef KAVA_KERNEL
  };
  return &table;
}

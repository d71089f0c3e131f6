/* kernels/cuda/emulated/runtime.cpp: the runtime's API on the CPU. Work runs when it is enqueued, or is recorded while
 * its stream is being captured and runs at each launch of the graph.
 *
 * Device memory: every allocation is pages of its own that nobody may touch. While a kernel or a copy runs, the first
 * touch of an allocation traps and opens it (so the cost is that of the allocations used); afterwards it is closed
 * again. A touch from the host finds it closed: the program ends and says so. Allocations end at the end of their
 * pages, up to 16 bytes, which hold a canary.
 *
 * Streams: what is waited for is counted, as a clock a stream (`seen`: how far it knows each stream to have come). An
 * allocation keeps who wrote it last and who has read it since; it opens for reading first, so that a write shows. Work
 * that reads or writes what another stream may still be writing, or writes what one may still be reading, is an error,
 * whatever order it ran in here. Within a graph, whose work all runs in one stream, nothing of that is found. */
#include "kernels/cuda/emulated/emulated.h"
#include "kernels/cuda/emulated/activity.cuh"
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <list>
#include <map>
#include <mutex>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

struct kava_emulated_node {
  std::function<cudaError_t()> work;
  kava_emulated_graph *graph;
  cudaMemsetParams memset = {}; /* dst NULL: it is another kind of work */
};
struct kava_emulated_graph {
  std::list<kava_emulated_node> work;
  std::vector<kava_emulated_stream *> joined; /* streams that wait for an event of the recorded one */
};
enum { STREAMS = 8 };
struct kava_emulated_clock {
  uint64_t of[STREAMS] = {};
  void merge(const kava_emulated_clock &other) {
    for (int i = 0; i < STREAMS; i++)
      if (of[i] < other.of[i]) of[i] = other.of[i];
  }
};
struct kava_emulated_stream {
  kava_emulated_graph *recording = nullptr;
  uint64_t given = 0, awaited = 0; /* pieces of work; how many of them another stream waits for */
  int number = 0;
  kava_emulated_clock seen; /* its own place: what it was given */
};
struct kava_emulated_event {
  std::chrono::steady_clock::time_point at;
  kava_emulated_stream *stream = nullptr;
  kava_emulated_graph *recording = nullptr;
  uint64_t given = 0;
  kava_emulated_clock seen;
};

namespace kava_emulated {
namespace {
const size_t PAGE = 4096, ALIGN = 16, CANARY = 0xa5;

struct allocation {
  char *pages;
  size_t mapped; /* the pages without the guard behind */
  size_t bytes;
  enum { CLOSED, READ, WRITTEN } open;
  int writer; /* the stream that wrote it last, as its `wrote`th piece of work; -1: none */
  uint64_t wrote;
  kava_emulated_clock readers;
};
std::map<uintptr_t, allocation> allocations; /* by the address given out */
std::vector<uintptr_t> opened;
std::recursive_mutex mutex;
size_t used;
volatile bool device_runs;
struct sigaction before_segv, before_bus;
cudaError_t last_error;
const size_t PLAIN = 48 * 1024;
std::map<const void *, size_t> leaves; /* kernels' leave to have more dynamic shared memory than that */
kava_emulated_stream default_stream;
kava_emulated_stream *streams[STREAMS] = {&default_stream};
const kava_emulated_stream *acting; /* whose work runs */
kava_emulated_clock host_seen;      /* what the host waited for: whatever it enqueues now comes later */

/* ---- who watches (activity.cuh) ---- */
std::vector<kava_timespan> *watcher;
std::chrono::steady_clock::time_point watched_since;
double now() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - watched_since).count();
}
auto find(uintptr_t at) { /* the allocation whose pages hold `at` */
  auto next = allocations.upper_bound(at | (PAGE - 1));
  if (next == allocations.begin()) return allocations.end();
  --next;
  uintptr_t pages = reinterpret_cast<uintptr_t>(next->second.pages);
  return at >= pages && at < pages + next->second.mapped ? next : allocations.end();
}

/* The work that runs is about to read `a`, or to write it. */
void check_order(const allocation &a, bool write) {
  const kava_emulated_clock &seen = acting->seen;
  for (int i = 0; i < STREAMS; i++) {
    bool written = i == a.writer && a.wrote > seen.of[i];
    if (written || (write && a.readers.of[i] > seen.of[i]))
      die("stream %d %s an allocation of %zu bytes that stream %d may still be %s: nobody waited for that",
          acting->number, write ? "writes" : "reads", a.bytes, i, written ? "writing" : "reading");
  }
}

void on_fault(int number, siginfo_t *info, void *context) {
  uintptr_t at = reinterpret_cast<uintptr_t>(info->si_addr);
  auto found = find(at);
  if (found != allocations.end()) {
    if (!device_runs)
      die("the host touched device memory, byte %td of an allocation of %zu", (ptrdiff_t)(at - found->first),
          found->second.bytes);
    allocation &a = found->second;
    if (a.open == allocation::WRITTEN) die("a trap in open memory");
    bool write = a.open == allocation::READ;
    check_order(a, write);
    if (write) {
      a.writer = acting->number;
      a.wrote = acting->given;
    } else {
      a.readers.of[acting->number] = acting->given;
      opened.push_back(found->first);
    }
    mprotect(a.pages, a.mapped, write ? PROT_READ | PROT_WRITE : PROT_READ);
    a.open = write ? allocation::WRITTEN : allocation::READ;
    return;
  }
  if (device_runs) {
    auto next = allocations.upper_bound(at);
    if (next != allocations.begin()) {
      --next;
      if (at - next->first < next->second.bytes + PAGE + (1 << 20))
        die("a kernel touched %p, %td bytes behind the end of an allocation of %zu", info->si_addr,
            (ptrdiff_t)(at - next->first - next->second.bytes), next->second.bytes);
    }
    die("a kernel touched %p, which is no device memory", info->si_addr);
  }
  struct sigaction *old = number == SIGSEGV ? &before_segv : &before_bus; /* not ours: as it would have been */
  if (old->sa_flags & SA_SIGINFO)
    old->sa_sigaction(number, info, context);
  else
    sigaction(number, old, nullptr);
}

void install() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, &before_segv);
    sigaction(SIGBUS, &action, &before_bus);
  });
}

void close_all() {
  for (uintptr_t at : opened) {
    auto found = allocations.find(at);
    if (found == allocations.end()) continue;
    mprotect(found->second.pages, found->second.mapped, PROT_NONE);
    found->second.open = allocation::CLOSED;
  }
  opened.clear();
}

bool idle();
cudaError_t run(kava_emulated_stream *stream, const std::function<cudaError_t()> &work) {
  if (idle()) return cudaSuccess;
  std::lock_guard<std::recursive_mutex> lock(mutex);
  acting = stream;
  device_runs = true;
  cudaError_t error = work();
  device_runs = false;
  close_all();
  return error;
}

/* ---- what is wrong with it ---- */
const char *wrong(const char *key) { /* the value, in KAVA_CUDA_TROUBLE; NULL: nothing is said */
  const char *text = getenv("KAVA_CUDA_TROUBLE"), *at = text;
  size_t length = strlen(key);
  while (at && (at = strstr(at, key)) && !((at == text || at[-1] == ' ') && at[length] == '=')) at++;
  return at ? at + length + 1 : nullptr;
}
long long wrong(const char *key, long long fallback) {
  const char *value = wrong(key);
  return value ? strtoll(value, nullptr, 10) : fallback;
}
size_t shared_most() { return (size_t)wrong("shared", 227 * 1024); }
/* Nothing is computed or kept, so that what a step of any size takes can be counted: idle=1. */
bool idle() {
  static const bool asked = wrong("idle", 0) != 0;
  return asked;
}
size_t total() { return (size_t)wrong("memory", 1ll << 33); }
cudaError_t lost = cudaSuccess; /* what every call says from the failure of a kernel on */
bool fails(const char *kernel) {
  static long long count;
  const char *value = wrong("fail"), *end = value ? strchr(value, ':') : nullptr;
  if (!end || strncmp(kernel, value, (size_t)(end - value)) != 0 || ++count != strtoll(end + 1, nullptr, 10))
    return false;
  lost = cudaErrorIllegalAddress;
  return true;
}

cudaError_t note(cudaError_t error) {
  if (lost != cudaSuccess) error = lost;
  if (error != cudaSuccess) last_error = error;
  return error;
}

kava_emulated_stream *stream_of(cudaStream_t stream) { return stream ? stream : &default_stream; }

void check_pointer(const char *what, const void *p, size_t bytes, bool device) {
  if (on_device(p, bytes) != device) die("%s: %p is %s memory", what, p, device ? "the host's" : "device");
}

cudaError_t move(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (!bytes) return cudaSuccess;
  if (kind != cudaMemcpyDefault) {
    check_pointer("a copy's target", to, bytes, kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice);
    check_pointer("a copy's source", from, bytes, kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice);
  }
  bool here = on_device(from, bytes), there = on_device(to, bytes);
  const char *name = here && there ? "memcpy, device to device"
                     : here        ? "memcpy, device to host"
                     : there       ? "memcpy, host to device"
                                   : "memcpy, host to host";
  if (idle() && !stream_of(stream)->recording && !there) memset(to, 0, bytes);
  return note(on_stream(stream, [=] {
    return watched(name, [=] {
      memmove(to, from, bytes);
      return cudaSuccess;
    });
  }));
}
} // namespace

cudaError_t watched(const char *name, const std::function<cudaError_t()> &work) {
  if (!watcher) return work();
  double start = now();
  cudaError_t error = work();
  if (watcher) watcher->push_back({name, start, now() - start});
  return error;
}
void watch(std::vector<kava_timespan> *into) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  watcher = into;
  watched_since = std::chrono::steady_clock::now();
}

/* Pinned host memory, which kernels reach through the bus. */
std::map<uintptr_t, size_t> pinned;
static bool is_pinned(uintptr_t at) {
  auto next = pinned.upper_bound(at);
  if (next == pinned.begin()) return false;
  --next;
  return at < next->first + next->second;
}

bool on_device(const void *p, size_t bytes) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  uintptr_t at = reinterpret_cast<uintptr_t>(p);
  auto found = find(at);
  if (found == allocations.end()) return false;
  if (at < found->first || at + bytes > found->first + found->second.bytes)
    die("%zu bytes at %td of an allocation of %zu", bytes, (ptrdiff_t)(at - found->first), found->second.bytes);
  return true;
}

cudaError_t on_stream(cudaStream_t stream, std::function<cudaError_t()> work) {
  kava_emulated_stream *s = stream_of(stream);
  std::unique_lock<std::recursive_mutex> lock(mutex);
  s->seen.merge(host_seen);
  s->seen.of[s->number] = ++s->given;
  lock.unlock();
  if (!s->recording) return run(s, work);
  s->recording->work.push_back({std::move(work), s->recording});
  return cudaSuccess;
}

cudaError_t allocate(void **p, size_t bytes) {
  install();
  std::lock_guard<std::recursive_mutex> lock(mutex);
  *p = nullptr;
  if (!bytes) return cudaSuccess;
  size_t rounded = (bytes + ALIGN - 1) / ALIGN * ALIGN, mapped = (rounded + PAGE - 1) / PAGE * PAGE;
  if (lost != cudaSuccess) return note(lost);
  if (used + mapped + (size_t)wrong("taken", 0) > total()) return note(cudaErrorMemoryAllocation);
  void *pages =
      mmap(nullptr, mapped + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) return note(cudaErrorMemoryAllocation);
  char *start = static_cast<char *>(pages) + (mapped - rounded);
  if (!idle()) {
    memset(start, 0xff, bytes);
    memset(start + bytes, (int)CANARY, rounded - bytes);
  }
  mprotect(pages, mapped + PAGE, PROT_NONE);
  allocations[reinterpret_cast<uintptr_t>(start)] = {
      static_cast<char *>(pages), mapped, bytes, allocation::CLOSED, -1, 0, {}};
  used += mapped;
  *p = start;
  return cudaSuccess;
}

size_t chunk() { return (size_t)wrong("chunk", 0); }

/* A kernel's argument: any word that is an address of memory the host has mapped, and not of the device, is a pointer
 * that the host forgot to translate. Sizes and seeds are not mapped addresses, but by a rare accident; what is below
 * 2^44 is none either (under a sanitizer much is mapped there, and flags side by side look like it). */
void check_argument(const char *name, const void *argument, size_t bytes) {
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    uint64_t word;
    memcpy(&word, static_cast<const char *>(argument) + i, 8);
    if (word < (uint64_t)1 << 44 || word >= (uint64_t)1 << 47 || find(word) != allocations.end() || is_pinned(word))
      continue;
    unsigned char resident;
    if (mincore(reinterpret_cast<void *>(word & ~(uint64_t)(PAGE - 1)), 1, &resident) == 0)
      die("%s is given the host's address %p (byte %zu of an argument)", name, reinterpret_cast<void *>(word), i);
  }
}

cudaError_t launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                   std::function<void()> body) {
  install();
  auto leave = leaves.find(kernel); /* without one, 48 KiB are the most */
  size_t most = leave != leaves.end() ? shared_most() : PLAIN, dynamic = leave != leaves.end() ? leave->second : PLAIN;
  cudaError_t error = check_grid(name, grid, block, shared);
  if (error == cudaSuccess && shared > dynamic) error = cudaErrorInvalidValue;
  if (error == cudaSuccess && strcmp(name, "nothing") == 0 && wrong("image", 1) == 0)
    error = cudaErrorNoKernelImageForDevice;
  if (error != cudaSuccess || lost != cudaSuccess) return lost != cudaSuccess ? lost : error;
  on_stream(stream, [=] {
    return watched(name, [&] {
      if (lost == cudaSuccess && !fails(name)) run_grid(name, grid, block, shared, most, body);
      return cudaSuccess;
    });
  });
  const char *blocking = getenv("CUDA_LAUNCH_BLOCKING");
  return blocking && strcmp(blocking, "1") == 0 ? lost : cudaSuccess;
}
} // namespace kava_emulated

using namespace kava_emulated;

const char *cudaGetErrorName(cudaError_t error) {
  switch (error) {
  case cudaSuccess: return "cudaSuccess";
  case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
  case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
  case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
  case cudaErrorNoDevice: return "cudaErrorNoDevice";
  case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
  case cudaErrorStreamCaptureUnjoined: return "cudaErrorStreamCaptureUnjoined";
  case cudaErrorStreamCaptureIsolation: return "cudaErrorStreamCaptureIsolation";
  case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
  case cudaErrorDevicesUnavailable: return "cudaErrorDevicesUnavailable";
  case cudaErrorNoKernelImageForDevice: return "cudaErrorNoKernelImageForDevice";
  case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
  default: return "cudaErrorUnknown";
  }
}
const char *cudaGetErrorString(cudaError_t error) {
  switch (error) {
  case cudaSuccess: return "no error";
  case cudaErrorMemoryAllocation: return "out of memory";
  case cudaErrorInvalidConfiguration: return "invalid configuration argument";
  case cudaErrorInvalidValue: return "invalid argument";
  case cudaErrorNoDevice: return "no CUDA-capable device is detected";
  case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
  case cudaErrorStreamCaptureUnjoined: return "capturing stream has unjoined work";
  case cudaErrorStreamCaptureIsolation: return "dependency created on uncaptured work in another stream";
  case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
  case cudaErrorDevicesUnavailable: return "CUDA-capable device(s) is/are busy or unavailable";
  case cudaErrorNoKernelImageForDevice: return "no kernel image is available for execution on the device";
  case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
  default: return "unknown error";
  }
}
cudaError_t cudaPeekAtLastError(void) { return last_error; }
cudaError_t cudaGetLastError(void) {
  cudaError_t error = lost != cudaSuccess ? lost : last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaDriverGetVersion(int *version) { return *version = (int)wrong("driver", 13000), cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *count) {
  const char *mask = getenv("CUDA_VISIBLE_DEVICES");
  *count = 0;
  if (wrong("driver", 13000) < 13000) return note(cudaErrorInsufficientDriver);
  if (wrong("devices", 1) == 0 || (mask && mask[0] != '0')) return note(cudaErrorNoDevice);
  return *count = 1, cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return note(device == 0 ? cudaSuccess : cudaErrorInvalidDevice); }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device) {
  if (device != 0) return note(cudaErrorInvalidDevice);
  *prop = {};
  snprintf(prop->name, sizeof prop->name, "emulated");
  prop->totalGlobalMem = total();
  prop->sharedMemPerBlock = PLAIN;
  prop->sharedMemPerBlockOptin = shared_most();
  prop->sharedMemPerMultiprocessor = shared_most() + 1024;
  prop->major = (int)wrong("capability", 90) / 10;
  prop->minor = (int)wrong("capability", 90) % 10;
  prop->multiProcessorCount = 4; /* few, so that tiny shapes also take the paths of a grid smaller than the work */
  prop->l2CacheSize = 50 << 20;
  prop->regsPerMultiprocessor = 65536;
  prop->warpSize = 32;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp prop;
  cudaError_t error = cudaGetDeviceProperties(&prop, device);
  if (error != cudaSuccess) return error;
  switch (attribute) {
  case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)prop.sharedMemPerBlock; break;
  case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)prop.sharedMemPerBlockOptin; break;
  case cudaDevAttrComputeMode:
    *value = wrong("exclusive", 0) ? cudaComputeModeExclusiveProcess : cudaComputeModeDefault;
    break;
  case cudaDevAttrMultiProcessorCount: *value = prop.multiProcessorCount; break;
  case cudaDevAttrComputeCapabilityMajor: *value = prop.major; break;
  case cudaDevAttrComputeCapabilityMinor: *value = prop.minor; break;
  }
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || (size_t)value > shared_most()) return note(cudaErrorInvalidValue);
  leaves[kernel] = (size_t)value;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
  *free = kava_emulated::total() - used - (size_t)wrong("taken", 0);
  *total = kava_emulated::total();
  return note(wrong("busy", 0) ? cudaErrorDevicesUnavailable : cudaSuccess);
}
cudaError_t cudaMallocHost(void **p, size_t bytes) {
  *p = malloc(bytes ? bytes : 1);
  if (*p) pinned[reinterpret_cast<uintptr_t>(*p)] = bytes;
  return note(*p ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) { return cudaMallocHost(p, bytes); }
cudaError_t cudaFreeHost(void *p) {
  pinned.erase(reinterpret_cast<uintptr_t>(p));
  return free(p), cudaSuccess;
}
cudaError_t cudaFree(void *p) {
  if (!p) return cudaSuccess;
  std::lock_guard<std::recursive_mutex> lock(mutex);
  auto found = allocations.find(reinterpret_cast<uintptr_t>(p));
  if (found == allocations.end()) die("freeing %p, which was not allocated", p);
  allocation a = found->second;
  mprotect(a.pages, a.mapped, PROT_READ);
  for (const unsigned char *end = static_cast<unsigned char *>(p) + a.bytes;
       !idle() && end < reinterpret_cast<unsigned char *>(a.pages + a.mapped); end++)
    if (*end != CANARY) die("something wrote behind the end of an allocation of %zu bytes", a.bytes);
  allocations.erase(found);
  munmap(a.pages, a.mapped + PAGE);
  used -= a.mapped;
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void *p, cudaStream_t) { return cudaFree(p); }
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
  cudaError_t error = move(to, from, bytes, kind, nullptr), waited = cudaStreamSynchronize(nullptr);
  return error == cudaSuccess ? waited : error;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return move(to, from, bytes, kind, stream);
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
  if (!bytes) return cudaSuccess;
  check_pointer("a memset's target", p, bytes, true);
  cudaError_t error = on_stream(stream, [=] {
    return watched("memset", [=] {
      memset(p, value, bytes);
      return cudaSuccess;
    });
  });
  if (kava_emulated_graph *graph = stream_of(stream)->recording)
    graph->work.back().memset = {p, 0, bytes, 1, 1, (unsigned)value};
  return note(error);
}
cudaError_t cudaMemset(void *p, int value, size_t bytes) { return cudaMemsetAsync(p, value, bytes, nullptr); }

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
  static int last;
  if (++last == STREAMS) die("more than %d streams, which are not told apart", STREAMS - 1);
  *stream = streams[last] = new kava_emulated_stream;
  (*stream)->number = last;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  streams[stream->number] = nullptr;
  return delete stream, cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  host_seen.merge(stream_of(stream)->seen);
  return note(stream_of(stream)->recording ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
}
cudaError_t cudaDeviceSynchronize(void) {
  cudaError_t error = cudaSuccess;
  for (kava_emulated_stream *stream : streams) {
    cudaError_t waited = stream ? cudaStreamSynchronize(stream) : cudaSuccess;
    if (error == cudaSuccess) error = waited;
  }
  return error;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (wrong("nowait", 0)) return cudaSuccess;
  kava_emulated_stream *s = stream_of(stream);
  if (s->recording && event->stream && event->recording != s->recording) return note(cudaErrorStreamCaptureIsolation);
  if (event->stream && event->stream != s && event->stream->awaited < event->given)
    event->stream->awaited = event->given;
  if (event->recording && !s->recording) { /* becomes part of what is recorded */
    s->recording = event->recording;
    s->awaited = s->given;
    s->recording->joined.push_back(s);
  }
  std::lock_guard<std::recursive_mutex> lock(mutex);
  s->seen.merge(event->seen);
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream || stream->recording) return note(cudaErrorInvalidValue);
  stream->recording = new kava_emulated_graph;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  if (!stream || !stream->recording) return note(cudaErrorInvalidValue);
  *graph = stream->recording;
  stream->recording = nullptr;
  cudaError_t error = cudaSuccess;
  for (kava_emulated_stream *s : (*graph)->joined) {
    s->recording = nullptr;
    if (s->awaited < s->given) error = cudaErrorStreamCaptureUnjoined;
  }
  return note(error);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
  *status = stream_of(stream)->recording ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
  return *exec = new kava_emulated_graph(*graph), cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const auto &node : exec->work) {
    cudaError_t error = on_stream(stream, node.work);
    if (error != cudaSuccess) return note(error);
  }
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return delete exec, cudaSuccess; }
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) {
  if (nodes)
    for (auto &node : graph->work) *nodes++ = &node;
  return *count = graph->work.size(), cudaSuccess;
}
cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType *type) {
  return *type = node->memset.dst ? cudaGraphNodeTypeMemset : cudaGraphNodeTypeKernel, cudaSuccess;
}
cudaError_t cudaGraphMemsetNodeGetParams(cudaGraphNode_t node, cudaMemsetParams *params) {
  return *params = node->memset, cudaSuccess;
}
cudaError_t cudaGraphDestroyNode(cudaGraphNode_t node) {
  return node->graph->work.remove_if([=](const kava_emulated_node &other) { return &other == node; }), cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
  kava_emulated_stream *s = stream_of(stream);
  if (!s->recording) return function(data), cudaSuccess; /* on the host: device memory stays closed */
  s->recording->work.push_back({[=] {
                                  device_runs = false;
                                  function(data);
                                  return cudaSuccess;
                                },
                                s->recording});
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) { return *event = new kava_emulated_event, cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  kava_emulated_stream *s = stream_of(stream);
  std::lock_guard<std::recursive_mutex> lock(mutex);
  *event = {std::chrono::steady_clock::now(), s, s->recording, s->given, s->seen};
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  host_seen.merge(event->seen);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
  *milliseconds = std::chrono::duration<float, std::milli>(to->at - from->at).count();
  if (idle()) *milliseconds = 1000; /* so that who measures is content with few runs */
  return cudaSuccess;
}

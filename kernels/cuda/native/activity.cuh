/* kernels/cuda/native/activity.cuh: NVIDIA's tools: CUPTI's records of what ran, and NVTX's ranges.
 *
 * CUPTI is opened when a profile is first taken; the toolkit has it, a driver alone has not. Of a record only the first
 * fields are read, which have been the same since CUDA 9. NVTX is headers alone, and nothing where no profiler looks
 * on. */
#ifndef KAVA_ACTIVITY_CUH
#define KAVA_ACTIVITY_CUH
#include <cuda_runtime.h>
#include <cxxabi.h>
#include <dlfcn.h>
#include <mutex>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <vector>
#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#endif
#if __has_include(<cupti.h>)
#include <cupti.h>
#endif
extern "C" {
#include "kernels/device.h"
}
#define KAVA_ACTIVITY "CUPTI"

static inline void kava_activity_range(const char *name) {
#ifdef NVTX_VERSION
  if (name)
    nvtxRangePushA(name);
  else
    nvtxRangePop();
#endif
}

#ifdef CUPTI_API_VERSION
namespace kava_cupti {
#define KAVA_CUPTI_FUNCTIONS(X)                                                                                        \
  X(cuptiActivityRegisterCallbacks)                                                                                    \
  X(cuptiActivityEnable)                                                                                               \
  X(cuptiActivityDisable)                                                                                              \
  X(cuptiActivityFlushAll)                                                                                             \
  X(cuptiActivityGetNextRecord)                                                                                        \
  X(cuptiGetTimestamp)
#define X(name) decltype(&::name) name;
static struct { KAVA_CUPTI_FUNCTIONS(X) } library;
#undef X
static std::mutex mutex; /* buffers come back on a thread of CUPTI's */
static std::vector<kava_timespan> seen;
static uint64_t began;

static const CUpti_ActivityKind kinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
                                           CUPTI_ACTIVITY_KIND_MEMSET};

static void replace(std::string &text, const char *what, const char *with) {
  for (size_t at; (at = text.find(what)) != std::string::npos;) text.replace(at, strlen(what), with);
}
/* A kernel's name without its parameters, and with short names of types. It lasts. */
static const char *readable(const char *mangled) {
  static std::set<std::string> names;
  int status = -1;
  char *whole = abi::__cxa_demangle(mangled, NULL, NULL, &status);
  std::string name = whole && status == 0 ? whole : mangled;
  free(whole);
  replace(name, "(anonymous namespace)::", "");
  replace(name, "__nv_bfloat16", "bf16");
  replace(name, "__half", "f16");
  replace(name, "(int)", "");
  replace(name, "(bool)", "");
  if (name.compare(0, 5, "void ") == 0) name.erase(0, 5);
  if (!name.empty() && name.back() == ')') { /* the bracket that matches the last one */
    size_t at = name.size();
    int depth = 0;
    do {
      at--;
      depth += name[at] == ')' ? 1 : name[at] == '(' ? -1 : 0;
    } while (depth && at);
    if (at) name.resize(at);
  }
  return names.insert(name).first->c_str();
}

static void keep(const char *name, uint64_t start, uint64_t end) {
  if (start < began || end < start) return; /* of before, or without times */
  seen.push_back({name, 1e-3 * (double)(start - began), 1e-3 * (double)(end - start)});
}
static void read(const CUpti_Activity *record) {
  if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL || record->kind == CUPTI_ACTIVITY_KIND_KERNEL) {
    const CUpti_ActivityKernel4 *k = (const CUpti_ActivityKernel4 *)record;
    keep(readable(k->name), k->start, k->end);
  } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
    const CUpti_ActivityMemcpy3 *c = (const CUpti_ActivityMemcpy3 *)record;
    keep(c->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD   ? "memcpy, host to device"
         : c->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_DTOH ? "memcpy, device to host"
                                                          : "memcpy, device to device",
         c->start, c->end);
  } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
    const CUpti_ActivityMemset2 *m = (const CUpti_ActivityMemset2 *)record;
    keep("memset", m->start, m->end);
  }
}

static void CUPTIAPI give_buffer(uint8_t **buffer, size_t *size, size_t *records) {
  *size = (size_t)4 << 20;
  *records = 0;
  *buffer = (uint8_t *)aligned_alloc(8, *size);
  if (!*buffer) *size = 0;
}
static void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t *buffer, size_t, size_t valid) {
  std::lock_guard<std::mutex> lock(mutex);
  CUpti_Activity *record = NULL;
  while (valid && library.cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) read(record);
  free(buffer);
}

static void *open_library() {
  const char *home = getenv("CUDA_HOME");
  std::string toolkit = home ? home : "/usr/local/cuda", version = std::to_string(CUDART_VERSION / 1000);
  for (const std::string &folder : {std::string(), toolkit + "/extras/CUPTI/lib64/", toolkit + "/lib64/"})
    for (const std::string &name : {"libcupti.so." + version, std::string("libcupti.so")})
      if (void *found = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL)) return found;
  return NULL;
}
static bool ready() {
  static bool tried, is;
  if (tried) return is;
  tried = true;
  void *from = open_library();
  if (!from) return false;
  is = true;
#define X(name) is = is && (*(void **)&library.name = dlsym(from, #name)) != NULL;
  KAVA_CUPTI_FUNCTIONS(X)
#undef X
  is = is && library.cuptiActivityRegisterCallbacks(give_buffer, take_buffer) == CUPTI_SUCCESS;
  return is;
}
} // namespace kava_cupti

static inline bool kava_activity_begin() {
  using namespace kava_cupti;
  if (!ready()) return false;
  library.cuptiActivityFlushAll(0);
  {
    std::lock_guard<std::mutex> lock(mutex);
    seen.clear();
    if (library.cuptiGetTimestamp(&began) != CUPTI_SUCCESS) return false;
  }
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (library.cuptiActivityEnable(kinds[i]) != CUPTI_SUCCESS) { /* another profiler is at work */
      while (i-- > 0) library.cuptiActivityDisable(kinds[i]);
      return false;
    }
  return true;
}
static inline void kava_activity_end(std::vector<kava_timespan> *out) {
  using namespace kava_cupti;
  library.cuptiActivityFlushAll(0);
  for (CUpti_ActivityKind kind : kinds) library.cuptiActivityDisable(kind);
  std::lock_guard<std::mutex> lock(mutex);
  out->swap(seen);
}
#else
static inline bool kava_activity_begin() { return false; }
static inline void kava_activity_end(std::vector<kava_timespan> *) {}
#endif
#endif

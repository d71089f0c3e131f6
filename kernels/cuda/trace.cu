/* kernels/cuda/trace.cu: when each kernel and copy ran (kernels/device.h: profile_begin). The GPU's own records are
 * best (activity.cuh): true starts and ends, also of what a recorded step runs. Where there are none, events before and
 * after each launch are taken: they hold the next kernel up a little, and a recorded step is one entry, since nothing
 * is launched by name when it runs. KAVA_CUDA_PROFILE=events asks for these. */
#include "kernels/cuda/timed.cuh"
#include "kernels/cuda/cuda.cuh"
#include <activity.cuh>
#include <algorithm>
#include <stdlib.h>
#include <string.h>
extern "C" {
#include "kernels/device.h"
kava_status kava_cuda_profile_begin(void); /* module.cu */
kava_status kava_cuda_profile_end(const kava_timespan **spans, size_t *count, const char **source);
void kava_cuda_range(const char *name);
}

bool kava_cuda_timing;

namespace {
std::vector<kava_timespan> spans;
bool by_activity;

/* ---- events: so many pairs are under way before they are read ---- */
enum { PAIRS = 2048 };
struct pair {
  const char *name;
  cudaEvent_t from, to;
} pairs[PAIRS];
cudaEvent_t base; /* at `base_at` microseconds */
double base_at;
int begun; /* pairs; the last one may be open */
bool open_pair;

bool worked(cudaError_t error) {
  if (error == cudaSuccess) return true;
  cudaGetLastError();
  kava_cuda_failed("profiling", error);
  return false;
}
bool prepared() {
  if (base) return true;
  for (pair &p : pairs)
    if (!worked(cudaEventCreate(&p.from)) || !worked(cudaEventCreate(&p.to))) return false;
  return worked(cudaEventCreate(&base));
}
/* Waits, keeps what the pairs say, and counts anew from here: elapsed times are floats, exact for short ones only. */
void gather() {
  float from, length;
  if (!worked(cudaDeviceSynchronize())) begun = 0;
  for (int i = 0; i < begun; i++)
    if (worked(cudaEventElapsedTime(&from, base, pairs[i].from)) &&
        worked(cudaEventElapsedTime(&length, pairs[i].from, pairs[i].to)))
      spans.push_back({pairs[i].name, base_at + 1e3 * (double)from, 1e3 * (double)length});
  if (begun == 0) return;
  cudaEvent_t last = pairs[begun - 1].to;
  if (worked(cudaEventElapsedTime(&from, base, last))) base_at += 1e3 * (double)from;
  pairs[begun - 1].to = base;
  base = last;
  begun = 0;
}
bool recording() {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(kava_cuda_stream(), &status) != cudaSuccess || status != cudaStreamCaptureStatusNone;
}
} // namespace

void kava_cuda_timed_begin(const char *name) {
  if (open_pair || recording()) return;
  if (begun == PAIRS) gather();
  pairs[begun].name = name;
  open_pair = worked(cudaEventRecord(pairs[begun].from, kava_cuda_stream()));
}
void kava_cuda_timed_end(void) {
  if (!open_pair || recording()) return;
  open_pair = false;
  if (worked(cudaEventRecord(pairs[begun].to, kava_cuda_stream()))) begun++;
}

extern "C" kava_status kava_cuda_profile_begin(void) {
  const char *wanted = getenv("KAVA_CUDA_PROFILE");
  if (!worked(cudaDeviceSynchronize())) return KAVA_IO;
  spans.clear();
  by_activity = !(wanted && strcmp(wanted, "events") == 0) && kava_activity_begin();
  if (by_activity) return KAVA_OK;
  begun = 0;
  base_at = 0;
  open_pair = false;
  if (!prepared() || !worked(cudaEventRecord(base, kava_cuda_stream()))) return KAVA_IO;
  kava_cuda_timing = true;
  return KAVA_OK;
}

extern "C" kava_status kava_cuda_profile_end(const kava_timespan **out, size_t *count, const char **source) {
  bool waited = worked(cudaDeviceSynchronize());
  if (by_activity)
    kava_activity_end(&spans);
  else
    gather();
  kava_cuda_timing = false;
  std::stable_sort(spans.begin(), spans.end(),
                   [](const kava_timespan &a, const kava_timespan &b) { return a.start < b.start; });
  *out = spans.data();
  *count = spans.size();
  *source = by_activity ? KAVA_ACTIVITY : "events";
  return waited ? KAVA_OK : KAVA_IO;
}

extern "C" void kava_cuda_range(const char *name) { kava_activity_range(name); }

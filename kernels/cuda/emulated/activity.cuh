/* kernels/cuda/emulated/activity.cuh: what native/activity.cuh gives: the emulator keeps a record of what it runs. */
#ifndef KAVA_ACTIVITY_CUH
#define KAVA_ACTIVITY_CUH
#include <vector>
extern "C" {
#include "kernels/device.h"
}
#define KAVA_ACTIVITY "emulated"
namespace kava_emulated {
void watch(std::vector<kava_timespan> *into); /* from now on; NULL: no more */
}
inline std::vector<kava_timespan> kava_activity_seen;
static inline bool kava_activity_begin() {
  kava_activity_seen.clear();
  kava_emulated::watch(&kava_activity_seen);
  return true;
}
static inline void kava_activity_end(std::vector<kava_timespan> *out) {
  kava_emulated::watch(nullptr);
  out->swap(kava_activity_seen);
}
static inline void kava_activity_range(const char *) {}
#endif

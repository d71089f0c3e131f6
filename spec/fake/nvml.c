/* libnvidia-ml.so.1 for spec/gpus_spec.lua: knows no masks, has four GPUs, and a slice of one. GPU i has i + 1 GiB
 * free. */
#include <stdio.h>
#include <string.h>

typedef struct {
  unsigned long long total, free, used;
} memory;

int nvmlInit_v2(void) { return 0; }
int nvmlSystemGetDriverVersion(char *into, unsigned room) {
  snprintf(into, room, "550.54.15");
  return 0;
}
int nvmlDeviceGetCount_v2(unsigned *count) {
  *count = 4;
  return 0;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
  static char handles[8];
  unsigned first;
  int mig = sscanf(uuid, "MIG-%2x", &first) == 1;
  if (!mig && sscanf(uuid, "GPU-%2x", &first) != 1) return 2;
  if (first > 3 || mig != (first == 3)) return 6; /* the fourth of FAKE_CUDA is the slice */
  *handle = &handles[first];
  return 0;
}
int nvmlDeviceGetMemoryInfo(void *handle, memory *into) {
  static char *first;
  void *at;
  if (!first && nvmlDeviceGetHandleByUUID("GPU-00", &at) == 0) first = at;
  memset(into, 0, sizeof *into);
  into->free = (unsigned long long)((char *)handle - first + 1) << 30;
  return 0;
}

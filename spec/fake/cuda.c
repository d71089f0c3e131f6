/* A driver's library as spec/gpus_spec.lua needs it: libcuda.so.1 that has no GPU behind it. FAKE_CUDA says how it
 * behaves: "a100 h100 mig …" lists GPUs, of which CUDA_VISIBLE_DEVICES leaves what CUDA's would; a number is cuInit's
 * status; hang, crash, exit; broken: the second GPU does not answer. Built with -DOLD it is of a time before UUIDs and
 * error texts. */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct gpu {
  const char *key, *name;
  int major, minor;
  size_t memory;
} kinds[] = {{"v100", "Tesla V100-SXM2-16GB", 7, 0, (size_t)16 << 30},
             {"a100", "NVIDIA A100-SXM4-40GB", 8, 0, (size_t)40 << 30},
             {"h100", "NVIDIA H100 80GB HBM3", 9, 0, (size_t)80 << 30},
             {"mig", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", 8, 0, (size_t)5 << 30}};
static struct {
  const struct gpu *gpu;
  int id;
} there[16], shown[16];
static int there_count, shown_count, up, broken;

static void make_list(void) {
  static char text[256];
  const char *asked = getenv("FAKE_CUDA"), *mask = getenv("CUDA_VISIBLE_DEVICES");
  snprintf(text, sizeof text, "%s", asked ? asked : "");
  for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) {
    if (!strcmp(word, "broken")) broken = 1;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
      if (!strcmp(word, kinds[i].key)) {
        there[there_count].gpu = &kinds[i];
        there[there_count].id = there_count;
        there_count++;
      }
  }
  if (!mask) {
    memcpy(shown, there, sizeof there);
    shown_count = there_count;
    return;
  }
  for (const char *at = mask; *at && shown_count < 16;) {
    char *end;
    long index = strtol(at, &end, 10);
    if (!strncmp(at, "GPU-", 4) || !strncmp(at, "MIG-", 4)) { /* ours differ in their first byte */
      index = strtol(at + 4, &end, 16);
      while (*end && *end != ',') end++;
    } else if (end == at)
      return;
    if (index < 0 || index >= there_count) return;
    shown[shown_count++] = there[index];
    at = *end == ',' ? end + 1 : end;
  }
}

int cuDriverGetVersion(int *version) {
#ifdef OLD
  *version = 7050;
#else
  *version = 12040;
#endif
  return 0;
}

int cuInit(unsigned flags) {
  const char *asked = getenv("FAKE_CUDA");
  int code = asked ? atoi(asked) : 100;
  (void)flags;
  puts("a driver that talks");
  fflush(stdout);
  if (asked && !strcmp(asked, "hang"))
    for (;;) pause();
  if (asked && !strcmp(asked, "crash")) abort();
  if (asked && !strcmp(asked, "exit")) exit(3);
  if (code) return code;
  make_list();
  up = 1;
  return shown_count ? 0 : 100;
}

int cuDeviceGetCount(int *count) {
  *count = shown_count;
  return up ? 0 : 3;
}
int cuDeviceGet(int *device, int ordinal) {
  *device = ordinal;
  return broken && ordinal == 1 ? 46 : 0;
}
int cuDeviceGetName(char *name, int room, int device) {
  snprintf(name, (size_t)room, "%s", shown[device].gpu->name);
  return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? shown[device].gpu->major : shown[device].gpu->minor;
  return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  *bytes = shown[device].gpu->memory;
  return 0;
}
#ifndef OLD
int cuDeviceGetUuid_v2(unsigned char *id, int device) {
  for (int i = 0; i < 16; i++) id[i] = (unsigned char)(16 * i);
  id[0] = (unsigned char)shown[device].id;
  return 0;
}
int cuGetErrorString(int code, const char **text) {
  *text = code == 100   ? "no CUDA-capable device is detected"
          : code == 803 ? "system has unsupported display driver / cuda driver combination"
                        : "a status of CUDA's";
  return 0;
}
#endif

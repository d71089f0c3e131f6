/* Apple's libraries for spec/gpus_spec.lua, preloaded: what is opened of theirs is this. FAKE_METAL=none: no device. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void *dlopen(const char *name, int flags) {
  void *(*real)(const char *, int);
  void *symbol = dlsym(RTLD_NEXT, "dlopen");
  memcpy(&real, &symbol, sizeof symbol);
  if (name && (strstr(name, "Metal.framework") || strstr(name, "libobjc"))) name = getenv("LD_PRELOAD");
  return real(name, flags);
}

static char device;
void *MTLCreateSystemDefaultDevice(void) {
  const char *asked = getenv("FAKE_METAL");
  return asked && !strcmp(asked, "none") ? NULL : &device;
}
void *sel_registerName(const char *name) { return (void *)(uintptr_t)name; }
void *objc_msgSend(void *self, void *selector) {
  const char *name = selector;
  if (!strcmp(name, "name")) return "a string";
  if (!strcmp(name, "UTF8String")) return "Apple M3 Max";
  if (!strcmp(name, "recommendedMaxWorkingSetSize")) return (void *)((uintptr_t)96 << 30);
  return self;
}

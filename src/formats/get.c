/* formats/get: a tensor of a safetensors file by its name, for C programs (kava.h). */
#include "formats/safetensors.h"
#include <string.h>

kava_status kava_safetensors_get(const kava_safetensors *file, const char *name, kava_tensor **out) {
  size_t length = strlen(name);
  for (int64_t i = 0; i < file->count; i++) {
    const kava_safetensors_entry *entry = &file->entries[i];
    if (entry->name.length != length || memcmp(entry->name.data, name, length) != 0) continue;
    if (!entry->tensor) return kava_fail(KAVA_UNSUPPORTED, "%s: %s", name, entry->why);
    *out = kava_tensor_retain(entry->tensor);
    return KAVA_OK;
  }
  return kava_fail(KAVA_MISUSE, "no tensor is named %s", name);
}

/* spec/fuzz/safetensors: every byte of every tensor that is handed out may be read. */
#include "formats/safetensors.h"
#include "spec/fuzz/file.h"

static volatile uint8_t sink; /* what is read is not optimised away */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  uint8_t sum = 0;
  const char *path = fuzz_file(data, size);
  kava_safetensors *s = NULL;
  if (kava_safetensors_load(path, &s) == KAVA_OK) {
    for (int64_t i = 0; i < s->count; i++) {
      size_t bytes;
      if (!s->entries[i].tensor) continue;
      if (kava_tensor_bytes_of(s->entries[i].tensor, &bytes) != KAVA_OK) abort();
      const uint8_t *p = kava_tensor_data(s->entries[i].tensor);
      for (size_t k = 0; k < bytes; k++) sum ^= p[k];
    }
    sink = sum;
    kava_safetensors_release(&s);
  }
  return 0;
}

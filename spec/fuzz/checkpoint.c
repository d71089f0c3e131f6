/* spec/fuzz/checkpoint: what is accepted is whole: every byte may be read, and with any one byte changed it is refused.
 * Checksums would stop nearly every input at the door, so each is tried a second time with its checksums put right. */
#include "base/crc32c.h"
#include "formats/checkpoint.h"
#include "spec/fuzz/file.h"
#include <string.h>

static const char prefix[] = "{\"__metadata__\":{\"kava.crc32c\":\"";
#define SUM_AT (8 + sizeof prefix - 1)
#define MOST 65536

static volatile uint8_t sink; /* what is read is not optimised away */

static bool load(const uint8_t *data, size_t size) {
  kava_safetensors *s = NULL;
  kava_text state;
  if (kava_checkpoint_load(fuzz_file(data, size), &s, &state) != KAVA_OK) return false;
  uint8_t sum = 0;
  for (size_t i = 0; i <= state.length; i++) sum ^= (uint8_t)state.data[i];
  for (int64_t i = 0; i < s->count; i++) {
    size_t bytes;
    if (kava_tensor_bytes_of(s->entries[i].tensor, &bytes) != KAVA_OK) abort();
    const uint8_t *p = kava_tensor_data(s->entries[i].tensor);
    for (size_t k = 0; k < bytes; k++) sum ^= p[k];
  }
  sink = sum;
  kava_safetensors_release(&s);
  return true;
}

static void put_hex(uint8_t *to, uint32_t value) {
  for (int i = 0; i < 8; i++) to[i] = (uint8_t) "0123456789abcdef"[value >> (28 - 4 * i) & 15];
}

/* Writes the checksums of tensors and header where they belong, as far as the header can be read. */
static void repair(uint8_t *data, size_t size) {
  uint64_t length = 0;
  if (size < SUM_AT + 8 || memcmp(data + 8, prefix, sizeof prefix - 1) != 0) return;
  for (int i = 7; i >= 0; i--) length = length << 8 | data[i];
  if (length > size - 8 || length < SUM_AT) return;
  kava_safetensors *s = NULL;
  if (kava_safetensors_load(fuzz_file(data, size), &s) == KAVA_OK) {
    for (int64_t i = 0; i < s->count; i++) {
      size_t at = SUM_AT + 8 * (size_t)(i + 1), bytes;
      if (!s->entries[i].tensor || at + 8 > 8 + length || memchr(data + at, '"', 8)) continue;
      if (kava_tensor_bytes_of(s->entries[i].tensor, &bytes) != KAVA_OK) abort();
      put_hex(data + at, kava_crc32c(0, kava_tensor_data(s->entries[i].tensor), bytes));
    }
    kava_safetensors_release(&s);
  }
  memset(data + SUM_AT, '0', 8);
  put_hex(data + SUM_AT, kava_crc32c(0, data, 8 + (size_t)length));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static uint8_t copy[MOST];
  load(data, size);
  if (size == 0 || size > MOST) return 0;
  memcpy(copy, data, size);
  repair(copy, size);
  if (load(copy, size)) {
    copy[kava_crc32c(0, data, size) % size] ^= (uint8_t)(1 + data[size / 2] % 255);
    if (load(copy, size)) abort();
  }
  return 0;
}

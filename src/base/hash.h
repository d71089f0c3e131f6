/* base/hash: hashes for tables in memory. They are seeded anew in every process, so that no file can be made whose keys
 * all fall into one place; never for what is stored, or for an order that shows. */
#ifndef KAVA_BASE_HASH_H
#define KAVA_BASE_HASH_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

extern uint64_t kava_hash_seeds[2];

static inline uint64_t kava_hash_words(uint64_t a, uint64_t b) {
  unsigned __int128 product = (unsigned __int128)(a ^ kava_hash_seeds[0]) * (b ^ kava_hash_seeds[1]);
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Reads up to 16 bytes as two words that, with the length, tell them apart. */
static inline void kava_hash_read(const uint8_t *p, size_t n, uint64_t *a, uint64_t *b) {
  if (n >= 8) {
    memcpy(a, p, 8);
    memcpy(b, p + n - 8, 8);
  } else if (n >= 4) {
    uint32_t x, y;
    memcpy(&x, p, 4);
    memcpy(&y, p + n - 4, 4);
    *a = x;
    *b = y;
  } else {
    *a = n ? (uint64_t)p[0] | (uint64_t)p[n / 2] << 8 | (uint64_t)p[n - 1] << 16 : 0;
    *b = 0;
  }
}

static inline uint64_t kava_hash(const void *data, size_t n) { /* longer strings are folded 8 bytes at a time */
  const uint8_t *p = data;
  uint64_t h = n, a, b;
  for (; n > 16; p += 8, n -= 8) {
    memcpy(&a, p, 8);
    h = kava_hash_words(h, a);
  }
  kava_hash_read(p, n, &a, &b);
  return kava_hash_words(kava_hash_words(h, a), b);
}
#endif

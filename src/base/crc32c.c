/* base/crc32c: eight tables of 256 ("slicing by eight") everywhere; on x86-64 with SSE4.2 the crc32 instruction, on
 * three streams at once because its latency is three times its cost. */
#include "base/crc32c.h"
#include <pthread.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define POLYNOMIAL 0x82f63b78u /* reflected */
#define STREAM ((size_t)4096)  /* bytes of each of the three streams of a round */

static uint32_t table[8][256];
static uint32_t over_stream[4][256]; /* a checksum, moved over STREAM zero bytes, byte by byte of the checksum */
static uint32_t (*update)(uint32_t crc, const unsigned char *p, size_t size);
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint32_t update_table(uint32_t crc, const unsigned char *p, size_t size) {
  for (; size >= 8; size -= 8, p += 8) {
    uint32_t low = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
    crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^ table[4][low >> 24] ^
          table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
  }
  for (; size; size--) crc = crc >> 8 ^ table[0][(crc ^ *p++) & 255];
  return crc;
}

#if defined(__x86_64__)
static inline uint32_t over(uint32_t crc) {
  return over_stream[0][crc & 255] ^ over_stream[1][crc >> 8 & 255] ^ over_stream[2][crc >> 16 & 255] ^
         over_stream[3][crc >> 24];
}
static inline uint64_t word_at(const unsigned char *p) {
  uint64_t word;
  memcpy(&word, p, 8);
  return word;
}
__attribute__((target("sse4.2"))) static uint32_t update_sse42(uint32_t crc, const unsigned char *p, size_t size) {
  uint64_t a = crc;
  for (; size >= 3 * STREAM; size -= 3 * STREAM, p += 3 * STREAM) {
    uint64_t b = 0, c = 0;
    for (size_t i = 0; i < STREAM; i += 8) {
      a = _mm_crc32_u64(a, word_at(p + i));
      b = _mm_crc32_u64(b, word_at(p + i + STREAM));
      c = _mm_crc32_u64(c, word_at(p + i + 2 * STREAM));
    }
    a = over(over((uint32_t)a) ^ (uint32_t)b) ^ (uint32_t)c;
  }
  for (; size >= 8; size -= 8, p += 8) a = _mm_crc32_u64(a, word_at(p));
  for (; size; size--) a = _mm_crc32_u8((uint32_t)a, *p++);
  return (uint32_t)a;
}
#endif

static void make(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t crc = i;
    for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
    table[0][i] = crc;
  }
  for (uint32_t i = 0; i < 256; i++)
    for (int k = 1; k < 8; k++) table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 255];
  /* Linear over GF(2): a bit's image gives every value's. */
  uint32_t image[32];
  static const unsigned char zeros[STREAM];
  for (int bit = 0; bit < 32; bit++) image[bit] = update_table((uint32_t)1 << bit, zeros, STREAM);
  for (int k = 0; k < 4; k++)
    for (uint32_t i = 0; i < 256; i++)
      for (int bit = 0; bit < 8; bit++)
        if (i >> bit & 1) over_stream[k][i] ^= image[8 * k + bit];
  update = update_table;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("sse4.2")) update = update_sse42;
#endif
}

uint32_t kava_crc32c(uint32_t crc, const void *data, size_t size) {
  pthread_once(&once, make);
  return ~update(~crc, data, size);
}

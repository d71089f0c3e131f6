/* text/utf8: reading and writing UTF-8. Functions marked "valid" trust their input; validate first. */
#ifndef KAVA_TEXT_UTF8_H
#define KAVA_TEXT_UTF8_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Length of the longest valid prefix of `text` (== length when all of it is valid): no surrogates, nothing overlong,
 * nothing above U+10FFFF. *bad, where not NULL, gets the length of the ill-formed sequence that follows (its maximal
 * subpart, what one U+FFFD stands for; 0 when there is none). */
size_t kava_utf8_valid(const uint8_t *text, size_t length, size_t *bad);

/* Valid text only: the code point at p, its length into *n. */
static inline uint32_t kava_utf8_read(const uint8_t *p, size_t *n) {
  uint32_t c = p[0];
  if (c < 0x80) {
    *n = 1;
    return c;
  }
  if (c < 0xe0) {
    *n = 2;
    return (c & 0x1f) << 6 | (p[1] & 0x3fu);
  }
  if (c < 0xf0) {
    *n = 3;
    return (c & 0x0f) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
  }
  *n = 4;
  return (c & 0x07) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
}

/* Valid text only: the code point that ends before `end`, its length into *n; `end` is above the text's start. */
static inline uint32_t kava_utf8_read_before(const uint8_t *end, size_t *n) {
  const uint8_t *p = end - 1;
  while ((*p & 0xc0) == 0x80) p--;
  return kava_utf8_read(p, n);
}

static inline size_t kava_utf8_write(uint32_t c, uint8_t out[4]) {
  if (c < 0x80) {
    out[0] = (uint8_t)c;
    return 1;
  }
  if (c < 0x800) {
    out[0] = (uint8_t)(0xc0 | c >> 6);
    out[1] = (uint8_t)(0x80 | (c & 0x3f));
    return 2;
  }
  if (c < 0x10000) {
    out[0] = (uint8_t)(0xe0 | c >> 12);
    out[1] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
    out[2] = (uint8_t)(0x80 | (c & 0x3f));
    return 3;
  }
  out[0] = (uint8_t)(0xf0 | c >> 18);
  out[1] = (uint8_t)(0x80 | (c >> 12 & 0x3f));
  out[2] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
  out[3] = (uint8_t)(0x80 | (c & 0x3f));
  return 4;
}
#endif

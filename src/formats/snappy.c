/* formats/snappy: the block format: a varint of the length, then elements whose tag byte says literal (00) or a copy of
 * what was written before (01: 11 bits of offset, 10: 16, 11: 32). Copies may overlap what they write. */
#include "formats/codec.h"
#include <string.h>

static inline uint32_t load32(const uint8_t *p) {
  uint32_t v;
  memcpy(&v, p, 4);
  return v;
}

static kava_status damaged(const uint8_t *from, const uint8_t *p) {
  return kava_fail(KAVA_FORMAT, "snappy: byte %zu: an element beyond the data", (size_t)(p - from));
}

kava_status kava_snappy(const uint8_t *from, size_t size, uint8_t *to, size_t expected) {
  const uint8_t *p = from, *end = from + size;
  uint8_t *out = to, *stop = to + expected;
  uint64_t length = 0;
  for (int shift = 0;; shift += 7) {
    if (p == end || shift > 28) return damaged(from, p);
    length |= (uint64_t)(*p & 127) << shift;
    if (!(*p++ & 128)) break;
  }
  if (length != expected)
    return kava_fail(KAVA_FORMAT, "snappy: %llu bytes where %zu are expected", (unsigned long long)length, expected);
  while (p < end) {
    uint32_t tag = *p++, count, offset;
    if ((tag & 3) == 0) {
      size_t n = (tag >> 2) + 1;
      if (n <= 16 && end - p >= 16) { /* short: one copy of 16, into the slack where need be */
        if ((size_t)(stop - out) < n) return damaged(from, p);
        memcpy(out, p, 16);
        p += n;
        out += n;
        continue;
      }
      if (n > 60) {
        size_t bytes = n - 60;
        if ((size_t)(end - p) < bytes) return damaged(from, p);
        n = 0;
        for (size_t i = 0; i < bytes; i++) n |= (size_t)p[i] << 8 * i;
        n++;
        p += bytes;
      }
      if ((size_t)(end - p) < n || (size_t)(stop - out) < n) return damaged(from, p);
      memcpy(out, p, n);
      p += n;
      out += n;
      continue;
    }
    if ((tag & 3) == 1) {
      if (end - p < 1) return damaged(from, p);
      count = 4 + (tag >> 2 & 7);
      offset = (tag & 0xe0) << 3 | *p;
      p += 1;
    } else if ((tag & 3) == 2) {
      if (end - p < 2) return damaged(from, p);
      count = 1 + (tag >> 2);
      offset = p[0] | (uint32_t)p[1] << 8;
      p += 2;
    } else {
      if (end - p < 4) return damaged(from, p);
      count = 1 + (tag >> 2);
      offset = load32(p);
      p += 4;
    }
    if (offset == 0 || offset > (size_t)(out - to) || count > (size_t)(stop - out)) return damaged(from, p);
    const uint8_t *back = out - offset;
    if (offset >= 16) { /* in pieces of 16: the last may reach into the slack, never into what is still to be read */
      memcpy(out, back, 16);
      for (uint32_t i = 16; i < count; i += 16) memcpy(out + i, back + i, 16);
    } else if (offset >= 8) {
      for (uint32_t i = 0; i < count; i += 8) memcpy(out + i, back + i, 8);
    } else {
      for (uint32_t i = 0; i < count; i++) out[i] = back[i];
    }
    out += count;
  }
  if (out != stop) return kava_fail(KAVA_FORMAT, "snappy: %zu bytes came of %zu", (size_t)(out - to), expected);
  return KAVA_OK;
}

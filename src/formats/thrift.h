/* formats/thrift: reading Thrift's compact protocol, which Parquet's metadata is written in. What lies beyond the bytes
 * there are reads as 0 and sets `broken`; so do structures nested deeper than any of Parquet's. */
#ifndef KAVA_FORMATS_THRIFT_H
#define KAVA_FORMATS_THRIFT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  KAVA_THRIFT_TRUE = 1,
  KAVA_THRIFT_FALSE,
  KAVA_THRIFT_BYTE,
  KAVA_THRIFT_I16,
  KAVA_THRIFT_I32,
  KAVA_THRIFT_I64,
  KAVA_THRIFT_DOUBLE,
  KAVA_THRIFT_BINARY,
  KAVA_THRIFT_LIST,
  KAVA_THRIFT_SET,
  KAVA_THRIFT_MAP,
  KAVA_THRIFT_STRUCT
};

typedef struct kava_thrift {
  const uint8_t *p, *end;
  bool broken;
} kava_thrift;

static inline uint64_t kava_thrift_varint(kava_thrift *t) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (t->p >= t->end) break;
    uint8_t byte = *t->p++;
    value |= (uint64_t)(byte & 127) << shift;
    if (!(byte & 128)) return value;
  }
  t->broken = true;
  t->p = t->end;
  return 0;
}
static inline int64_t kava_thrift_integer(kava_thrift *t) { /* zigzag */
  uint64_t v = kava_thrift_varint(t);
  return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

/* The fields of a struct, one after the other: *type and *id of the next; false at its end. *id begins as 0. */
static inline bool kava_thrift_field(kava_thrift *t, int *type, int *id) {
  if (t->p >= t->end) {
    t->broken = true;
    return false;
  }
  uint8_t head = *t->p++;
  if (head == 0) return false;
  *type = head & 15;
  *id = head >> 4 ? *id + (head >> 4) : (int)(int16_t)kava_thrift_integer(t);
  return !t->broken;
}
/* A list's number of items, each of which takes a byte or more. */
static inline size_t kava_thrift_list(kava_thrift *t, int *type) {
  *type = 0;
  if (t->p >= t->end) {
    t->broken = true;
    return 0;
  }
  uint8_t head = *t->p++;
  uint64_t count = head >> 4 == 15 ? kava_thrift_varint(t) : head >> 4;
  *type = head & 15;
  if (count > (uint64_t)(t->end - t->p)) {
    t->broken = true;
    return 0;
  }
  return (size_t)count;
}
static inline const uint8_t *kava_thrift_binary(kava_thrift *t, size_t *length) {
  uint64_t size = kava_thrift_varint(t);
  if (size > (uint64_t)(t->end - t->p)) {
    t->broken = true;
    size = 0;
  }
  const uint8_t *at = t->p;
  t->p += size;
  *length = (size_t)size;
  return at;
}
void kava_thrift_skip(kava_thrift *t, int type, int depth); /* a value; depth 0 from outside */
#endif

/* formats/flatbuffer: reading the metadata of Arrow files, which are flatbuffers: tables whose fields are found through
 * a vtable. Every position is checked against the buffer; what is absent or out of bounds reads as absent, and sets
 * `broken` where it is out of bounds. */
#ifndef KAVA_FORMATS_FLATBUFFER_H
#define KAVA_FORMATS_FLATBUFFER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct kava_flat {
  const uint8_t *data;
  size_t size;
  bool broken;
} kava_flat;

/* A vector: `count` items of the asked size lie at `at`. */
typedef struct kava_flat_vector {
  size_t at, count;
} kava_flat_vector;

static inline bool kava_flat_has(kava_flat *f, size_t at, size_t bytes) {
  if (at <= f->size && bytes <= f->size - at) return true;
  f->broken = true;
  return false;
}
static inline uint32_t kava_flat_u32(kava_flat *f, size_t at) {
  uint32_t v = 0;
  if (kava_flat_has(f, at, 4)) memcpy(&v, f->data + at, 4);
  return v;
}
/* Where the u32 at `at` points to, forwards; 0: nowhere. */
static inline size_t kava_flat_follow(kava_flat *f, size_t at) {
  uint32_t offset = kava_flat_u32(f, at);
  if (offset == 0 || !kava_flat_has(f, at, (size_t)offset + 4)) return 0;
  return at + offset;
}
/* Where field `id` of the table lies; 0: absent. */
static inline size_t kava_flat_field(kava_flat *f, size_t table, int id, size_t bytes) {
  int32_t back;
  uint16_t size, offset;
  if (table == 0 || !kava_flat_has(f, table, 4)) return 0;
  memcpy(&back, f->data + table, 4);
  int64_t vtable = (int64_t)table - back;
  if (vtable < 0 || !kava_flat_has(f, (size_t)vtable, 4)) {
    f->broken = true;
    return 0;
  }
  memcpy(&size, f->data + vtable, 2);
  if (!kava_flat_has(f, (size_t)vtable, size) || (size_t)id * 2 + 6 > size) return 0;
  memcpy(&offset, f->data + vtable + 4 + id * 2, 2);
  if (offset == 0 || !kava_flat_has(f, table + offset, bytes)) return 0;
  return table + offset;
}
static inline int64_t kava_flat_integer(kava_flat *f, size_t table, int id, size_t bytes, int64_t absent) {
  size_t at = kava_flat_field(f, table, id, bytes);
  if (!at) return absent;
  int64_t v = 0;
  memcpy(&v, f->data + at, bytes);
  int shift = 64 - 8 * (int)bytes; /* sign-extended */
  return (int64_t)((uint64_t)v << shift) >> shift;
}
static inline size_t kava_flat_table(kava_flat *f, size_t table, int id) {
  size_t at = kava_flat_field(f, table, id, 4);
  return at ? kava_flat_follow(f, at) : 0;
}
static inline kava_flat_vector kava_flat_list(kava_flat *f, size_t table, int id, size_t item_bytes) {
  size_t at = kava_flat_table(f, table, id);
  if (!at) return (kava_flat_vector){0, 0};
  uint32_t count = kava_flat_u32(f, at);
  if (count > (f->size - at - 4) / item_bytes) {
    f->broken = true;
    return (kava_flat_vector){0, 0};
  }
  return (kava_flat_vector){at + 4, count};
}
#endif

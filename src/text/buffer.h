/* text/buffer: growable arrays of bytes and of token ids, through base/memory. Zero-initialised is empty. */
#ifndef KAVA_TEXT_BUFFER_H
#define KAVA_TEXT_BUFFER_H
#include "base/memory.h"
#include <string.h>

typedef struct kava_buffer {
  uint8_t *data;
  size_t size, capacity;
} kava_buffer;

typedef struct kava_ids {
  int32_t *data;
  size_t size, capacity;
} kava_ids;

kava_status kava_buffer_grow(kava_buffer *buffer, size_t more); /* room for `more` bytes behind size */
kava_status kava_ids_grow(kava_ids *ids, size_t more);
kava_status kava_buffer_printf(kava_buffer *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));

static inline kava_status kava_buffer_add(kava_buffer *buffer, const void *data, size_t size) {
  if (buffer->capacity - buffer->size < size) {
    kava_status st = kava_buffer_grow(buffer, size);
    if (st != KAVA_OK) return st;
  }
  if (size) memcpy(buffer->data + buffer->size, data, size);
  buffer->size += size;
  return KAVA_OK;
}
static inline kava_status kava_buffer_text(kava_buffer *buffer, const char *text) {
  return kava_buffer_add(buffer, text, strlen(text));
}
static inline kava_status kava_ids_add(kava_ids *ids, int32_t id) {
  if (ids->size == ids->capacity) {
    kava_status st = kava_ids_grow(ids, 1);
    if (st != KAVA_OK) return st;
  }
  ids->data[ids->size++] = id;
  return KAVA_OK;
}
static inline void kava_buffer_free(kava_buffer *buffer) {
  kava_free(buffer->data);
  *buffer = (kava_buffer){0};
}
static inline void kava_ids_free(kava_ids *ids) {
  kava_free(ids->data);
  *ids = (kava_ids){0};
}
#endif

#include "text/buffer.h"
#include <stdarg.h>
#include <stdio.h>

kava_status kava_buffer_grow(kava_buffer *buffer, size_t more) {
  if (buffer->capacity - buffer->size >= more) return KAVA_OK;
  size_t capacity = buffer->capacity * 2 > buffer->size + more ? buffer->capacity * 2 : buffer->size + more + 64;
  uint8_t *data = kava_realloc(buffer->data, capacity);
  if (!data) return KAVA_MEMORY;
  buffer->data = data;
  buffer->capacity = capacity;
  return KAVA_OK;
}

kava_status kava_ids_grow(kava_ids *ids, size_t more) {
  if (ids->capacity - ids->size >= more) return KAVA_OK;
  size_t capacity = ids->capacity * 2 > ids->size + more ? ids->capacity * 2 : ids->size + more + 16;
  int32_t *data = kava_realloc(ids->data, capacity * sizeof *data);
  if (!data) return KAVA_MEMORY;
  ids->data = data;
  ids->capacity = capacity;
  return KAVA_OK;
}

kava_status kava_buffer_printf(kava_buffer *buffer, const char *format, ...) {
  va_list args;
  va_start(args, format);
  int need = vsnprintf(NULL, 0, format, args);
  va_end(args);
  kava_status st = kava_buffer_grow(buffer, (size_t)need + 1);
  if (st != KAVA_OK) return st;
  va_start(args, format);
  vsnprintf((char *)buffer->data + buffer->size, (size_t)need + 1, format, args);
  va_end(args);
  buffer->size += (size_t)need;
  return KAVA_OK;
}

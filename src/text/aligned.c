#include "text/aligned.h"

kava_status kava_spans_grow(kava_spans *spans, size_t more) {
  if (spans->capacity - spans->size >= more) return KAVA_OK;
  size_t capacity = spans->capacity * 2 > spans->size + more ? spans->capacity * 2 : spans->size + more + 16;
  kava_span *data = kava_realloc(spans->data, capacity * sizeof *data);
  if (!data) return KAVA_MEMORY;
  spans->data = data;
  spans->capacity = capacity;
  return KAVA_OK;
}

void kava_spans_free(kava_spans *spans) {
  kava_free(spans->data);
  *spans = (kava_spans){0};
}

void kava_aligned_clear(kava_aligned *out, bool track) {
  out->text.size = 0;
  out->spans.size = 0;
  out->track = track;
}

void kava_aligned_free(kava_aligned *out) {
  kava_buffer_free(&out->text);
  kava_spans_free(&out->spans);
}

kava_status kava_aligned_put(kava_aligned *out, const void *bytes, size_t size, kava_span span) {
  kava_status st = kava_buffer_add(&out->text, bytes, size);
  if (st != KAVA_OK || !out->track) return st;
  if ((st = kava_spans_grow(&out->spans, size)) != KAVA_OK) return st;
  for (size_t i = 0; i < size; i++) out->spans.data[out->spans.size++] = span;
  return KAVA_OK;
}

kava_status kava_aligned_copy(kava_aligned *out, const kava_view *view, size_t from, size_t to) {
  kava_status st = kava_buffer_add(&out->text, view->text + from, to - from);
  if (st != KAVA_OK || !out->track) return st;
  if ((st = kava_spans_grow(&out->spans, to - from)) != KAVA_OK) return st;
  for (size_t i = from; i < to; i++) out->spans.data[out->spans.size++] = kava_view_span(view, i, i + 1);
  return KAVA_OK;
}

kava_view kava_aligned_view(const kava_aligned *out, uint32_t origin) {
  return (kava_view){out->text.data, out->text.size, out->track ? out->spans.data : NULL, origin};
}

/* text/aligned: text that was rewritten on the way to its tokens, and which bytes of the original each byte came from.
 *
 * A view is a stretch of bytes with their origins: byte i came from [origin + i, origin + i + 1) where `spans` is NULL,
 * else from spans[i]. What was put in (a prefix space) has an empty span at its place; what was rewritten (a composed
 * letter) has the whole of what it stands for. Spans are made only when somebody asks for offsets (`track`): else
 * views carry the bytes alone, their origins mean nothing, and nothing is paid. */
#ifndef KAVA_TEXT_ALIGNED_H
#define KAVA_TEXT_ALIGNED_H
#include "text/buffer.h"
#include <stdbool.h>

typedef struct kava_span {
  uint32_t begin, end; /* bytes of the original text */
} kava_span;

typedef struct kava_spans {
  kava_span *data;
  size_t size, capacity;
} kava_spans;

typedef struct kava_view {
  const uint8_t *text;
  size_t length;
  const kava_span *spans; /* one a byte; NULL: the bytes lie as in the original */
  uint32_t origin;
} kava_view;

/* The origin of bytes [from, to) of a view; of nothing at all (from == to) the place where it would be. */
static inline kava_span kava_view_span(const kava_view *view, size_t from, size_t to) {
  if (!view->spans) return (kava_span){view->origin + (uint32_t)from, view->origin + (uint32_t)to};
  if (from == to) {
    uint32_t at = from < view->length ? view->spans[from].begin : from > 0 ? view->spans[from - 1].end : view->origin;
    return (kava_span){at, at};
  }
  return (kava_span){view->spans[from].begin, view->spans[to - 1].end};
}

static inline kava_view kava_view_part(const kava_view *view, size_t from, size_t to) {
  return (kava_view){view->text + from, to - from, view->spans ? view->spans + from : NULL,
                     view->origin + (view->spans ? 0 : (uint32_t)from)};
}

/* Text being written, with spans where `track` is set. Zero-initialised is empty. */
typedef struct kava_aligned {
  kava_buffer text;
  kava_spans spans; /* as many as text.size where tracked */
  bool track;
} kava_aligned;

kava_status kava_spans_grow(kava_spans *spans, size_t more);
static inline kava_status kava_spans_add(kava_spans *spans, kava_span span) {
  if (spans->size == spans->capacity) {
    kava_status st = kava_spans_grow(spans, 1);
    if (st != KAVA_OK) return st;
  }
  spans->data[spans->size++] = span;
  return KAVA_OK;
}
void kava_spans_free(kava_spans *spans);

void kava_aligned_clear(kava_aligned *out, bool track);
void kava_aligned_free(kava_aligned *out);
/* Appends bytes of which each came from `span`. */
kava_status kava_aligned_put(kava_aligned *out, const void *bytes, size_t size, kava_span span);
/* Appends bytes [from, to) of a view with their own origins. */
kava_status kava_aligned_copy(kava_aligned *out, const kava_view *view, size_t from, size_t to);
kava_view kava_aligned_view(const kava_aligned *out, uint32_t origin);
#endif

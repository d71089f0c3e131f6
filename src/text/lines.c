#include "text/lines.h"
#include <string.h>

#define BLOCK_BYTES ((size_t)4 << 20)

/* Where a block begins. */
typedef struct mark {
  int64_t row, line; /* rows and lines before it */
  uint64_t offset;   /* of the uncompressed text */
} mark;

struct kava_lines {
  const kava_file *file;
  kava_stream *stream;
  uint8_t *data;
  size_t room, filled, used; /* the next block begins at `used` */
  bool at_end;               /* the stream has no more */
  bool array, closed;        /* rows are the items of one; which has ended */
  mark next;
  kava_line *rows;
  int64_t row_count, row_room;
  int64_t first; /* seek: rows of the block that were asked for begin here; -1: the block is not made yet */
  mark *marks;
  int64_t mark_count, mark_room;
};

kava_status kava_lines_open(const kava_file *file, kava_lines **out) {
  kava_lines *l = kava_calloc(1, sizeof *l);
  if (!l) return KAVA_MEMORY;
  l->file = file;
  l->first = -1;
  kava_status st = kava_stream_open(file, &l->stream);
  if (st != KAVA_OK)
    kava_lines_close(&l);
  else
    *out = l;
  return st;
}

void kava_lines_close(kava_lines **at) {
  kava_lines *l = *at;
  *at = NULL;
  if (!l) return;
  kava_stream_close(&l->stream);
  kava_free(l->data);
  kava_free(l->rows);
  kava_free(l->marks);
  kava_free(l);
}

bool kava_lines_is_array(const kava_lines *l) { return l->array; }
int64_t kava_lines_row(const kava_lines *l) { return l->next.row - (l->first >= 0 ? l->row_count - l->first : 0); }

static kava_status add_mark(kava_lines *l) {
  if (l->mark_count > 0 && l->marks[l->mark_count - 1].offset >= l->next.offset) return KAVA_OK; /* been here */
  if (l->mark_count == l->mark_room) {
    int64_t room = l->mark_room * 2 + 64;
    mark *grown = kava_realloc(l->marks, (size_t)room * sizeof *grown);
    if (!grown) return KAVA_MEMORY;
    l->marks = grown;
    l->mark_room = room;
  }
  l->marks[l->mark_count++] = l->next;
  return KAVA_OK;
}

static kava_status add_row(kava_lines *l, kava_line row) {
  if (l->row_count == l->row_room) {
    int64_t room = l->row_room * 2 + 4096;
    kava_line *grown = kava_realloc(l->rows, (size_t)room * sizeof *grown);
    if (!grown) return KAVA_MEMORY;
    l->rows = grown;
    l->row_room = room;
  }
  l->rows[l->row_count++] = row;
  return KAVA_OK;
}

/* Fills the buffer, whose unread rest goes to its front; it grows only where it holds no whole line. */
static kava_status fill(kava_lines *l) {
  if (l->used > 0 && l->filled > l->used) memmove(l->data, l->data + l->used, l->filled - l->used);
  l->filled -= l->used;
  l->used = 0;
  if (l->filled == l->room) {
    if (l->room >= KAVA_LINE_MOST)
      return kava_fail(KAVA_FORMAT, "%s:%lld: a row of more than %zu MiB", l->file->path, (long long)(l->next.line + 1),
                       KAVA_LINE_MOST >> 20);
    size_t room = l->room ? l->room * 2 : BLOCK_BYTES;
    if (!l->room && !kava_stream_packed(l->stream) && l->file->size < room) room = (size_t)l->file->size + 1;
    uint8_t *grown = kava_realloc(l->data, room);
    if (!grown) return KAVA_MEMORY;
    l->data = grown;
    l->room = room;
  }
  size_t got;
  kava_status st = kava_stream_read(l->stream, l->data + l->filled, l->room - l->filled, &got);
  if (st != KAVA_OK) return st;
  l->at_end = got < l->room - l->filled;
  l->filled += got;
  return KAVA_OK;
}

static bool is_space(uint8_t c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* Where the item that begins at `at` ends; NULL where the buffer does not hold its end. Only what brackets and quotes
 * say: whether it is JSON, its reader finds out. */
static const uint8_t *item_end(const uint8_t *at, const uint8_t *end) {
  int64_t depth = 0;
  for (; at < end; at++) {
    switch (*at) {
    case '"':
      for (at++; at < end && *at != '"'; at++)
        if (*at == '\\' && ++at == end) return NULL;
      if (at == end) return NULL;
      break;
    case '{':
    case '[': depth++; break;
    case '}':
    case ']':
      if (depth == 0) return at;
      if (--depth == 0) return at + 1;
      break;
    case ',':
      if (depth == 0) return at;
    }
  }
  return NULL;
}

/* Makes a block of the items that lie whole in the buffer. Between two calls it stands behind an item, or behind the
 * bracket, so that an item takes the comma before it along. */
static kava_status split_array(kava_lines *l) {
  const uint8_t *at = l->data + l->used, *end = l->data + l->filled, *begin = at;
  const char *expected = NULL;
  kava_status st = KAVA_OK;
  int64_t row = l->next.row; /* how many there are before */
  for (;;) {
    const uint8_t *p = at, *stop;
    bool comma = row == 0; /* the first has none before it */
    for (; p < end && (is_space(*p) || (*p == ',' && !comma)); p++) comma |= *p == ',';
    if (p == end) {
      if (l->at_end) expected = "']'";
      break;
    }
    if (*p == ']') {
      if (comma && row > 0) expected = "a row";
      for (p++; p < end && is_space(*p); p++) {}
      if (p < end) expected = "nothing more";
      if (l->at_end) { /* else it is looked at again, with what follows */
        at = p;
        l->closed = true;
      }
      break;
    }
    if (!comma || *p == ',' || *p == '}') {
      expected = comma ? "a row" : "',' or ']'";
      break;
    }
    if (!(stop = item_end(p, end))) {
      if (l->at_end) expected = "the end of a row";
      break;
    }
    if ((st = add_row(l, (kava_line){(const char *)p, (size_t)(stop - p), ++row})) != KAVA_OK) return st;
    at = stop;
  }
  if (expected)
    return kava_fail(KAVA_FORMAT, "%s: a JSON array: behind row %lld %s expected", l->file->path, (long long)row,
                     expected);
  l->used += (size_t)(at - begin);
  l->next.offset += (uint64_t)(at - begin);
  l->next.row = row;
  return KAVA_OK;
}

/* Passes over the byte order mark, and where an array begins, over its bracket. */
static void begin_text(kava_lines *l) {
  const uint8_t *begin = l->data + l->used, *end = l->data + l->filled, *at = begin;
  if (end - at >= 3 && memcmp(at, "\xef\xbb\xbf", 3) == 0) at += 3;
  const uint8_t *p = at;
  while (p < end && is_space(*p)) p++;
  l->array = p < end && *p == '[';
  if (l->array) at = p + 1;
  l->used += (size_t)(at - begin);
  l->next.offset += (uint64_t)(at - begin);
}

/* Makes a block of the lines that lie whole in the buffer. */
static kava_status split(kava_lines *l) {
  if (l->next.offset == 0) begin_text(l);
  if (l->array) return split_array(l);
  const uint8_t *at = l->data + l->used, *end = l->data + l->filled, *begin = at;
  kava_status st;
  while (at < end) {
    const uint8_t *stop = memchr(at, '\n', (size_t)(end - at)), *p = at;
    if (!stop && !l->at_end) break;
    if (!stop) stop = end;
    l->next.line++;
    while (p < stop && (*p == ' ' || *p == '\t' || *p == '\r')) p++;
    if (p < stop) {
      if ((st = add_row(l, (kava_line){(const char *)at, (size_t)(stop - at), l->next.line})) != KAVA_OK) return st;
    }
    at = stop < end ? stop + 1 : end;
  }
  l->used += (size_t)(at - begin);
  l->next.offset += (uint64_t)(at - begin);
  l->next.row += l->row_count;
  return KAVA_OK;
}

static kava_status make_block(kava_lines *l) {
  kava_status st;
  l->row_count = 0;
  if (l->closed) return KAVA_OK;
  do {
    if ((st = add_mark(l)) != KAVA_OK) return st;
    if (!l->at_end && (st = fill(l)) != KAVA_OK) return st;
    if ((st = split(l)) != KAVA_OK) return st;
  } while (l->row_count == 0 && !(l->at_end && l->used == l->filled));
  return KAVA_OK;
}

kava_status kava_lines_next(kava_lines *l, const kava_line **rows, int64_t *count) {
  kava_status st = l->first < 0 ? make_block(l) : KAVA_OK;
  int64_t first = l->first > 0 ? l->first : 0;
  l->first = -1;
  *count = l->row_count - first;
  *rows = first > 0 ? l->rows + first : l->rows;
  return st;
}

static kava_status go_to(kava_lines *l, mark to) {
  l->filled = l->used = 0;
  l->at_end = l->closed = false;
  l->next = to;
  return kava_stream_seek(l->stream, to.offset);
}

kava_status kava_lines_seek(kava_lines *l, int64_t row, bool *found) {
  kava_status st;
  int64_t at = l->mark_count - 1;
  while (at > 0 && l->marks[at].row > row) at--;
  bool packed = kava_stream_packed(l->stream);
  l->first = -1;
  if (at >= 0 && (row < l->next.row || (!packed && l->marks[at].row > l->next.row)))
    if ((st = go_to(l, packed ? (mark){0} : l->marks[at])) != KAVA_OK) return st;
  while (l->next.row <= row) {
    if ((st = make_block(l)) != KAVA_OK) return st;
    if (l->row_count == 0) {
      *found = false;
      l->first = -1;
      return KAVA_OK;
    }
  }
  l->first = l->row_count - (l->next.row - row);
  *found = true;
  return KAVA_OK;
}

#include "formats/parquet_page.h"
#include "formats/thrift.h"
#include <string.h>
#include <zlib.h>

#define AHEAD 4096
#define ITEMS_MOST 2000000 /* of some rows' lists, where the file is small: a run of a few bytes may be any number */
#define SKIP_ROWS 4096
#define WINDOW ((size_t)4 << 10)
#define WINDOW_MOST ((size_t)16 << 20)
#define JOINED_MOST ((size_t)256 << 20) /* of values put together from prefixes, at a time */

enum { PAGE_DATA = 0, PAGE_INDEX = 1, PAGE_DICTIONARY = 2, PAGE_DATA_V2 = 3 };
enum {
  PLAIN = 0,
  PLAIN_DICTIONARY = 2,
  RLE = 3,
  DELTA_BINARY = 5,
  DELTA_LENGTH = 6,
  DELTA_BYTES = 7,
  RLE_DICTIONARY = 8,
  SPLIT = 9
};

static kava_status broken(const kava_leaf *l, const char *what) {
  return kava_fail(KAVA_FORMAT, "%s: Parquet: column '%.60s', page before byte %llu: %s", l->file->path, l->name,
                   (unsigned long long)l->at, what);
}

/* ---- pages */

typedef struct page_header {
  int64_t type, size, packed_size; /* uncompressed, compressed */
  int64_t count, encoding, def_encoding, rep_encoding, def_size, rep_size;
  bool packed, has_crc;
  uint32_t crc;
} page_header;

static void read_inner(kava_thrift *t, page_header *h, int64_t type) {
  int kind, id = 0;
  while (kava_thrift_field(t, &kind, &id)) {
    if (kind == KAVA_THRIFT_I32 && id == 1)
      h->count = kava_thrift_integer(t);
    else if (kind == KAVA_THRIFT_I32 && ((type == PAGE_DATA_V2 && id == 4) || (type != PAGE_DATA_V2 && id == 2)))
      h->encoding = kava_thrift_integer(t);
    else if (kind == KAVA_THRIFT_I32 && type == PAGE_DATA && id == 3)
      h->def_encoding = kava_thrift_integer(t);
    else if (kind == KAVA_THRIFT_I32 && type == PAGE_DATA && id == 4)
      h->rep_encoding = kava_thrift_integer(t);
    else if (kind == KAVA_THRIFT_I32 && type == PAGE_DATA_V2 && id == 5)
      h->def_size = kava_thrift_integer(t);
    else if (kind == KAVA_THRIFT_I32 && type == PAGE_DATA_V2 && id == 6)
      h->rep_size = kava_thrift_integer(t);
    else if (type == PAGE_DATA_V2 && id == 7)
      h->packed = kind == KAVA_THRIFT_TRUE;
    else
      kava_thrift_skip(t, kind, 0);
  }
}

static void read_header(kava_thrift *t, page_header *h) {
  static const int inner[] = {[5] = PAGE_DATA, [7] = PAGE_DICTIONARY, [8] = PAGE_DATA_V2};
  int kind, id = 0;
  *h = (page_header){.type = -1, .count = -1, .encoding = -1, .def_encoding = RLE, .rep_encoding = RLE, .packed = true};
  while (kava_thrift_field(t, &kind, &id)) {
    if (kind == KAVA_THRIFT_I32 && id <= 4) {
      int64_t value = kava_thrift_integer(t);
      if (id == 1) h->type = value;
      if (id == 2) h->size = value;
      if (id == 3) h->packed_size = value;
      if (id == 4) {
        h->has_crc = true;
        h->crc = (uint32_t)value;
      }
    } else if (kind == KAVA_THRIFT_STRUCT && (id == 5 || id == 7 || id == 8) && h->type == inner[id]) {
      read_inner(t, h, h->type);
    } else {
      kava_thrift_skip(t, kind, 0);
    }
  }
}

/* The header at l->at, which then is where the page's body begins. */
static kava_status next_header(kava_leaf *l, page_header *h) {
  for (size_t size = WINDOW;; size *= 4) {
    bool whole = size >= l->end - l->at;
    if (whole) size = (size_t)(l->end - l->at);
    if (!kava_room_take(&l->window, size)) return KAVA_MEMORY;
    kava_status st = kava_file_read(l->file, l->at, l->window.data, size);
    if (st != KAVA_OK) return st;
    kava_thrift t = {l->window.data, l->window.data + size, false};
    read_header(&t, h);
    if (!t.broken) {
      l->at += (uint64_t)(t.p - l->window.data);
      break;
    }
    if (whole || size >= WINDOW_MOST) return broken(l, "a damaged page header");
  }
  if (h->size < 0 || h->packed_size < 0 || (uint64_t)h->packed_size > l->end - l->at)
    return broken(l, "a page that goes beyond its column chunk");
  if (h->type != PAGE_INDEX && (h->count < 0 || h->encoding < 0)) return broken(l, "a page header without its counts");
  return KAVA_OK;
}

/* The body of the page: `plain` bytes of it as they are, the rest decompressed behind them. */
static kava_status read_body(kava_leaf *l, const page_header *h, size_t plain, kava_room *to) {
  size_t packed_size = (size_t)h->packed_size, size = (size_t)h->size;
  bool packed = l->codec != KAVA_CODEC_NONE && h->packed;
  if (plain > packed_size || plain > size) return broken(l, "levels larger than their page");
  if (!packed && packed_size != size) return broken(l, "a page of two sizes");
  kava_room *first = packed ? &l->packed : to;
  if (!kava_room_take(first, packed_size)) return KAVA_MEMORY;
  kava_status st = kava_file_read(l->file, l->at, first->data, packed_size);
  if (st != KAVA_OK) return st;
  l->at += packed_size;
  if (h->has_crc && (uint32_t)crc32_z(crc32_z(0, NULL, 0), first->data, packed_size) != h->crc)
    return broken(l, "the checksum is another");
  if (!packed) {
    to->size = size;
    return KAVA_OK;
  }
  if (plain == 0) {
    st = kava_unpack(l->codec, first->data, packed_size, size, to);
  } else { /* version 2: a page of levels alone may have nothing to decompress */
    kava_room values = {0};
    st = size == plain ? KAVA_OK
                       : kava_unpack(l->codec, first->data + plain, packed_size - plain, size - plain, &values);
    if (st == KAVA_OK && !kava_room_take(to, size)) st = KAVA_MEMORY;
    if (st == KAVA_OK) {
      memcpy(to->data, first->data, plain);
      if (size > plain) memcpy(to->data + plain, values.data, size - plain);
      to->size = size;
    }
    kava_free(values.data);
  }
  return st == KAVA_FORMAT ? kava_fail_in(st, "%s: Parquet: column '%.60s'", l->file->path, l->name) : st;
}

static kava_status read_dictionary(kava_leaf *l, const page_header *h) {
  kava_status st = read_body(l, h, 0, &l->dictionary_page);
  if (st != KAVA_OK) return st;
  if (h->encoding != PLAIN && h->encoding != PLAIN_DICTIONARY) return broken(l, "a dictionary that is not plain");
  if (l->type == KAVA_PARQUET_BOOLEAN || h->count > INT32_MAX) return broken(l, "a dictionary of such values");
  size_t count = (size_t)h->count, least = l->type == KAVA_PARQUET_BYTES ? 4
                                           : l->width                    ? l->width
                                                                         : (size_t)l->type_length;
  const uint8_t *p = l->dictionary_page.data, *end = p + l->dictionary_page.size;
  if (count > l->dictionary_page.size / least) return broken(l, "a dictionary of fewer values than it says");
  if (!kava_room_take(&l->dictionary, count * (l->width ? l->width : sizeof(kava_bytes)))) return KAVA_MEMORY;
  if (l->width) {
    memcpy(l->dictionary.data, p, count * l->width);
  } else {
    kava_bytes *values = (kava_bytes *)(void *)l->dictionary.data;
    for (size_t i = 0; i < count; i++) {
      uint32_t length = (uint32_t)l->type_length;
      if (l->type == KAVA_PARQUET_BYTES) {
        if (end - p < 4) return broken(l, "a value beyond its page");
        memcpy(&length, p, 4);
        p += 4;
      }
      if (length > (size_t)(end - p)) return broken(l, "a value beyond its page");
      values[i] = (kava_bytes){(const char *)p, length};
      p += length;
    }
  }
  l->dictionary_count = (uint32_t)count;
  l->has_dictionary = true;
  return KAVA_OK;
}

static kava_status take_levels(kava_leaf *l, kava_hybrid *h, uint8_t max, int64_t encoding) {
  if (max == 0) return KAVA_OK;
  uint32_t size;
  if (encoding != RLE) return broken(l, "levels that are packed as before 2013");
  if (l->page_end - l->p < 4) return broken(l, "levels beyond their page");
  memcpy(&size, l->p, 4);
  l->p += 4;
  if (size > (size_t)(l->page_end - l->p)) return broken(l, "levels beyond their page");
  kava_hybrid_begin(h, l->p, l->p + size, (uint32_t)(32 - __builtin_clz(max)));
  l->p += size;
  return KAVA_OK;
}

static uint32_t split_width(const kava_leaf *l) { return l->width ? l->width : (uint32_t)l->type_length; }

/* Makes ready for values of the page's encoding, which begin at l->p. */
static kava_status begin_values(kava_leaf *l, const page_header *h) {
  size_t bytes = (size_t)(l->page_end - l->p);
  bool is_integer = l->type == KAVA_PARQUET_INT32 || l->type == KAVA_PARQUET_INT64;
  uint32_t size;
  const uint8_t *rest;
  l->encoding = (int)h->encoding;
  l->bit = 0;
  switch (h->encoding) {
  case PLAIN: return KAVA_OK;
  case PLAIN_DICTIONARY:
  case RLE_DICTIONARY:
    if (!l->has_dictionary) return broken(l, "indices without a dictionary");
    if (bytes > 0 && *l->p > 32) return broken(l, "indices of more than 32 bits");
    kava_hybrid_begin(&l->indices, l->p + (bytes > 0), l->page_end, bytes > 0 ? *l->p : 0);
    l->encoding = RLE_DICTIONARY;
    return KAVA_OK;
  case RLE:
    if (l->type != KAVA_PARQUET_BOOLEAN) break;
    if (bytes == 0) { /* all are null */
      kava_hybrid_begin(&l->indices, l->p, l->p, 1);
      return KAVA_OK;
    }
    if (bytes < 4) return broken(l, "values beyond their page");
    memcpy(&size, l->p, 4);
    if (size > bytes - 4) return broken(l, "values beyond their page");
    kava_hybrid_begin(&l->indices, l->p + 4, l->p + 4 + size, 1);
    return KAVA_OK;
  case DELTA_BINARY:
    if (!is_integer) break;
    return kava_delta_begin(&l->lengths, l->p, l->page_end, h->count) ? KAVA_OK : broken(l, "damaged differences");
  case DELTA_BYTES:
  case DELTA_LENGTH:
    if (l->type != KAVA_PARQUET_BYTES && (l->type != KAVA_PARQUET_FIXED || h->encoding == DELTA_LENGTH || l->width))
      break;
    if (h->encoding == DELTA_BYTES) {
      if (!kava_delta_begin(&l->prefixes, l->p, l->page_end, h->count) || !(rest = kava_delta_end(l->prefixes)))
        return broken(l, "damaged differences");
      l->p = rest;
      l->last_length = 0;
    }
    if (!kava_delta_begin(&l->lengths, l->p, l->page_end, h->count) || !(rest = kava_delta_end(l->lengths)))
      return broken(l, "damaged differences");
    l->p = rest;
    return KAVA_OK;
  case SPLIT:
    if (l->type == KAVA_PARQUET_BYTES || l->type == KAVA_PARQUET_BOOLEAN) break;
    l->split_count = bytes / split_width(l);
    l->split_at = 0;
    return KAVA_OK;
  }
  return kava_fail(KAVA_UNSUPPORTED, "%s: Parquet: column '%.60s': values in encoding %d", l->file->path, l->name,
                   (int)h->encoding);
}

/* Room for one more page beside those that are in use. */
static kava_room *add_page(kava_leaf *l) {
  if (l->page_count == l->page_room) {
    kava_room *pages = kava_realloc(l->pages, (size_t)(l->page_room + 4) * sizeof *pages);
    if (!pages) return NULL;
    memset(pages + l->page_room, 0, 4 * sizeof *pages);
    l->pages = pages;
    l->page_room += 4;
  }
  return &l->pages[l->page_count++];
}

/* Goes on to the next data page that has entries. With `skip`, pages of at most *skip entries are passed over, and
 * counted. */
static kava_status next_page(kava_leaf *l, int64_t *skip) {
  kava_status st;
  for (;;) {
    page_header h;
    if (l->at >= l->end) return broken(l, "fewer values than the row group has rows");
    if ((st = next_header(l, &h)) != KAVA_OK) return st;
    if (h.type == PAGE_DICTIONARY && !l->has_dictionary) {
      if ((st = read_dictionary(l, &h)) != KAVA_OK) return st;
      continue;
    }
    if (h.type != PAGE_DATA && h.type != PAGE_DATA_V2) { /* an index, or what is not known yet */
      l->at += (uint64_t)h.packed_size;
      continue;
    }
    if (h.count > l->entries) return broken(l, "more values than the column chunk says");
    l->entries -= h.count;
    if (h.count == 0 || (skip && h.count <= *skip)) {
      l->at += (uint64_t)h.packed_size;
      if (!skip) continue;
      *skip -= h.count;
      if (*skip == 0) return KAVA_OK;
      continue;
    }
    if (h.def_size < 0 || h.rep_size < 0) return broken(l, "levels of a negative size");
    kava_room *page = add_page(l);
    if (!page) return KAVA_MEMORY;
    if ((st = read_body(l, &h, (size_t)h.def_size + (size_t)h.rep_size, page)) != KAVA_OK) return st;
    l->p = page->data;
    l->page_end = page->data + page->size;
    if (h.type == PAGE_DATA) {
      if ((st = take_levels(l, &l->reps, l->max_rep, h.rep_encoding)) != KAVA_OK) return st;
      if ((st = take_levels(l, &l->defs, l->max_def, h.def_encoding)) != KAVA_OK) return st;
    } else {
      kava_hybrid_begin(&l->reps, l->p, l->p + h.rep_size, l->max_rep);
      l->p += h.rep_size;
      kava_hybrid_begin(&l->defs, l->p, l->p + h.def_size, l->max_def ? (uint32_t)(32 - __builtin_clz(l->max_def)) : 0);
      l->p += h.def_size;
    }
    l->left = h.count;
    return begin_values(l, &h);
  }
}

/* ---- values */

static kava_status plain_bytes(kava_leaf *l, kava_bytes *out, int64_t count) {
  const uint8_t *p = l->p, *end = l->page_end;
  for (int64_t i = 0; i < count; i++) {
    uint32_t length = (uint32_t)l->type_length;
    if (l->type == KAVA_PARQUET_BYTES) {
      if (end - p < 4) return broken(l, "a value beyond its page");
      memcpy(&length, p, 4);
      p += 4;
    }
    if (length > (size_t)(end - p)) return broken(l, "a value beyond its page");
    out[i] = (kava_bytes){(const char *)p, length};
    p += length;
  }
  l->p = p;
  return KAVA_OK;
}

static kava_status from_dictionary(kava_leaf *l, uint8_t *out, int64_t count) {
  uint32_t indices[1024];
  while (count > 0) {
    int64_t n = count < 1024 ? count : 1024;
    if (!kava_hybrid_indices(&l->indices, indices, n)) return broken(l, "fewer indices than values");
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) most = indices[i] > most ? indices[i] : most;
    if (most >= l->dictionary_count) return broken(l, "an index beyond the dictionary");
    if (l->width == 0) {
      const kava_bytes *from = (const kava_bytes *)(const void *)l->dictionary.data;
      kava_bytes *to = (kava_bytes *)(void *)out;
      for (int64_t i = 0; i < n; i++) to[i] = from[indices[i]];
      out += n * (int64_t)sizeof *to;
    } else {
      for (int64_t i = 0; i < n; i++)
        memcpy(out + i * (int64_t)l->width, l->dictionary.data + (size_t)indices[i] * l->width, l->width);
      out += n * (int64_t)l->width;
    }
    count -= n;
  }
  return KAVA_OK;
}

static kava_status joined_bytes(kava_leaf *l, kava_bytes *out, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    int64_t prefix = 0, length;
    if (l->encoding == DELTA_BYTES && !kava_delta_next(&l->prefixes, &prefix))
      return broken(l, "fewer prefixes than values");
    if (!kava_delta_next(&l->lengths, &length)) return broken(l, "fewer lengths than values");
    if (length < 0 || length > l->page_end - l->p) return broken(l, "a value beyond its page");
    if (l->encoding == DELTA_LENGTH) {
      out[i] = (kava_bytes){(const char *)l->p, (uint64_t)length};
    } else {
      if (prefix < 0 || (uint64_t)prefix > l->last_length) return broken(l, "a prefix longer than the value before");
      size_t whole = (size_t)prefix + (size_t)length;
      l->joined_size += whole;
      if (l->joined_size > JOINED_MOST) return broken(l, "values with prefixes too large to be put together");
      char *value = kava_arena_alloc(&l->joined, whole + 1);
      if (!value) return KAVA_MEMORY;
      if (prefix) memcpy(value, l->last.data, (size_t)prefix);
      memcpy(value + prefix, l->p, (size_t)length);
      if (l->last.size < whole + 1) {
        size_t room = whole * 2 + 64;
        if (!kava_room_take(&l->last, room)) return KAVA_MEMORY;
      }
      memcpy(l->last.data, value, whole);
      l->last_length = whole;
      if (l->type == KAVA_PARQUET_FIXED && whole != (size_t)l->type_length)
        return broken(l, "a value of another length");
      out[i] = (kava_bytes){value, whole};
    }
    l->p += length;
  }
  return KAVA_OK;
}

/* Byte b of all values, then byte b + 1 of all. */
static kava_status split_values(kava_leaf *l, uint8_t *out, int64_t count) {
  uint32_t width = split_width(l);
  if ((uint64_t)count > l->split_count - l->split_at) return broken(l, "fewer values than entries");
  if (l->width == 0) { /* put together where they can stay, and shown there */
    kava_bytes *shown = (kava_bytes *)(void *)out;
    l->joined_size += (size_t)count * width; /* no more than the page has */
    if (!(out = kava_arena_alloc(&l->joined, (size_t)count * width))) return KAVA_MEMORY;
    for (int64_t i = 0; i < count; i++) shown[i] = (kava_bytes){(const char *)out + i * (int64_t)width, width};
  }
  for (uint32_t b = 0; b < width; b++) {
    const uint8_t *from = l->p + b * l->split_count + l->split_at;
    for (int64_t i = 0; i < count; i++) out[i * (int64_t)width + b] = from[i];
  }
  l->split_at += (uint64_t)count;
  return KAVA_OK;
}

/* The next `count` values that are there, into `out`. */
static kava_status read_values(kava_leaf *l, uint8_t *out, int64_t count) {
  size_t bytes = (size_t)(l->page_end - l->p);
  if (count == 0) return KAVA_OK;
  switch (l->encoding) {
  case PLAIN:
    if (l->width == 0) return plain_bytes(l, (kava_bytes *)(void *)out, count);
    if (l->type == KAVA_PARQUET_BOOLEAN) {
      if ((l->bit + (uint64_t)count + 7) / 8 > bytes) return broken(l, "values beyond their page");
      for (int64_t i = 0; i < count; i++, l->bit++) out[i] = l->p[l->bit >> 3] >> (l->bit & 7) & 1;
      return KAVA_OK;
    }
    if ((uint64_t)count > bytes / l->width) return broken(l, "values beyond their page");
    memcpy(out, l->p, (size_t)count * l->width);
    l->p += (size_t)count * l->width;
    return KAVA_OK;
  case RLE_DICTIONARY: return from_dictionary(l, out, count);
  case RLE: return kava_hybrid_levels(&l->indices, out, count) ? KAVA_OK : broken(l, "fewer values than entries");
  case DELTA_BINARY:
    for (int64_t i = 0; i < count; i++) {
      int64_t value;
      if (!kava_delta_next(&l->lengths, &value)) return broken(l, "fewer values than entries");
      memcpy(out + i * (int64_t)l->width, &value, l->width); /* little-endian: the low bytes come first */
    }
    return KAVA_OK;
  case SPLIT: return split_values(l, out, count);
  default: return joined_bytes(l, (kava_bytes *)(void *)out, count);
  }
}

static size_t value_size(const kava_leaf *l) { return l->width ? l->width : sizeof(kava_bytes); }

static kava_status grow(uint8_t **at, size_t *room, size_t need, size_t size) {
  if (*room >= need) return KAVA_OK;
  size_t more = *room * 2 > need ? *room * 2 : need;
  uint8_t *grown = kava_realloc(*at, more * size + KAVA_ROOM_SLACK);
  if (!grown) return KAVA_MEMORY;
  *at = grown;
  *room = more;
  return KAVA_OK;
}

/* `count` entries whose levels are l->levels[items ..]: reads those values that are there and lays each at its place.
 */
static kava_status place_values(kava_leaf *l, int64_t count) {
  size_t size = value_size(l);
  uint8_t *out = l->values + (size_t)l->items * size;
  const uint8_t *levels = l->levels + l->items;
  int64_t there = 0;
  if (l->max_def == 0)
    there = count;
  else
    for (int64_t i = 0; i < count; i++) there += levels[i] == l->max_def;
  kava_status st = read_values(l, out, there);
  if (st != KAVA_OK) return st;
  if (there < count) /* from the back: a value never lies behind its place */
    for (int64_t i = count; i-- > 0;) {
      if (levels[i] == l->max_def)
        memmove(out + (size_t)i * size, out + (size_t)--there * size, size);
      else
        memset(out + (size_t)i * size, 0, size);
    }
  l->items += count;
  return KAVA_OK;
}

static kava_status room_for(kava_leaf *l, int64_t items) {
  kava_status st = grow(&l->values, &l->value_room, (size_t)items, value_size(l));
  return st == KAVA_OK ? grow(&l->levels, &l->level_room, (size_t)items, 1) : st;
}

static kava_status flat_rows(kava_leaf *l, int64_t rows) {
  kava_status st = room_for(l, rows);
  while (st == KAVA_OK && rows > 0) {
    if (l->left == 0 && (st = next_page(l, NULL)) != KAVA_OK) break;
    int64_t n = rows < l->left ? rows : l->left;
    if (l->max_def > 0) {
      uint8_t *levels = l->levels + l->items, most = 0;
      if (!kava_hybrid_levels(&l->defs, levels, n)) return broken(l, "fewer levels than entries");
      for (int64_t i = 0; i < n; i++) most = levels[i] > most ? levels[i] : most;
      if (most > l->max_def) return broken(l, "a level too high");
    }
    if ((st = place_values(l, n)) != KAVA_OK) return st;
    l->left -= n;
    rows -= n;
  }
  return st;
}

static kava_status look_ahead(kava_leaf *l) {
  int64_t n = l->left < AHEAD ? l->left : AHEAD;
  if (!l->ahead_reps) {
    l->ahead_reps = kava_alloc(2 * AHEAD);
    if (!l->ahead_reps) return KAVA_MEMORY;
    l->ahead_defs = l->ahead_reps + AHEAD;
  }
  if (!kava_hybrid_levels(&l->reps, l->ahead_reps, n) || !kava_hybrid_levels(&l->defs, l->ahead_defs, n))
    return broken(l, "fewer levels than entries");
  for (int64_t i = 0; i < n; i++)
    if (l->ahead_defs[i] > l->max_def || l->ahead_reps[i] > 1) return broken(l, "a level too high");
  l->ahead = (int)n;
  l->ahead_at = 0;
  l->left -= n;
  return KAVA_OK;
}

/* Rows of a list. A row has ended when the next one begins, or the chunk does: it may go on in the next page. */
static kava_status list_rows(kava_leaf *l, int64_t rows) {
  int64_t done = 0;
  kava_status st;
  if (l->row_room < (size_t)rows + 1) {
    size_t room = (size_t)rows + 1;
    kava_free(l->offsets);
    kava_free(l->row_levels);
    l->row_room = 0;
    l->offsets = kava_alloc(room * sizeof *l->offsets);
    l->row_levels = kava_alloc(room);
    if (!l->offsets || !l->row_levels) return KAVA_MEMORY;
    l->row_room = room;
  }
  for (;;) {
    if (l->ahead_at == l->ahead) {
      if (l->left == 0) {
        if (l->entries == 0 && l->at < l->end) l->at = l->end; /* what is behind the last entry is none of ours */
        if (l->entries == 0) {
          if (done < rows) return broken(l, "fewer values than the row group has rows");
          break;
        }
        if ((st = next_page(l, NULL)) != KAVA_OK) return st;
      }
      if ((st = look_ahead(l)) != KAVA_OK) return st;
    }
    /* the entries of this page that belong to the rows asked for */
    int64_t count = 0;
    int from = l->ahead_at, at = from;
    if ((uint64_t)l->items > l->file->size * 8 + ITEMS_MOST)
      return broken(l, "more items in a few rows than bits in the file");
    if ((st = room_for(l, l->items + (l->ahead - from))) != KAVA_OK) return st;
    for (; at < l->ahead; at++) {
      uint8_t def = l->ahead_defs[at];
      if (l->ahead_reps[at] == 0) {
        if (done == rows) break;
        l->offsets[done] = l->items + count;
        l->row_levels[done++] = def;
      } else if (done == 0) {
        return broken(l, "a column chunk that begins within a row");
      } else if (def < l->item_def) {
        return broken(l, "an item that is none");
      }
      if (def >= l->item_def) l->levels[l->items + count++] = def;
    }
    l->ahead_at = at;
    if ((st = place_values(l, count)) != KAVA_OK) return st;
    if (at < l->ahead) break;
  }
  l->offsets[rows] = l->items;
  return KAVA_OK;
}

/* ---- chunks */

void kava_leaf_begin(kava_leaf *l, uint64_t at, uint64_t end, kava_codec codec, int64_t entries) {
  l->at = at;
  l->end = end;
  l->codec = codec;
  l->entries = entries;
  l->has_dictionary = false;
  l->left = 0;
  l->page_count = 0;
  l->ahead = l->ahead_at = 0;
}

/* What was given last is no longer needed: of its pages only the one at hand stays. */
static void let_go(kava_leaf *l) {
  if (l->page_count > 1) {
    kava_room first = l->pages[0];
    l->pages[0] = l->pages[l->page_count - 1];
    l->pages[l->page_count - 1] = first;
    l->page_count = 1;
  }
  if (l->joined_size > 0) kava_arena_reset(&l->joined);
  l->joined_size = 0;
  l->items = 0;
}

kava_status kava_leaf_rows(kava_leaf *l, int64_t rows) {
  let_go(l);
  return l->max_rep ? list_rows(l, rows) : flat_rows(l, rows);
}

kava_status kava_leaf_skip(kava_leaf *l, int64_t rows) {
  kava_status st = KAVA_OK;
  while (rows > 0 && st == KAVA_OK) {
    if (l->max_rep == 0 && l->left == 0) {
      let_go(l);
      l->page_count = 0;
      st = next_page(l, &rows);
      continue;
    }
    int64_t n = rows < SKIP_ROWS ? rows : SKIP_ROWS;
    if (l->max_rep == 0 && n > l->left) n = l->left;
    st = kava_leaf_rows(l, n);
    rows -= n;
  }
  return st;
}

void kava_leaf_free(kava_leaf *l) {
  for (int i = 0; i < l->page_room; i++) kava_free(l->pages[i].data);
  kava_free(l->pages);
  kava_free(l->packed.data);
  kava_free(l->window.data);
  kava_free(l->dictionary_page.data);
  kava_free(l->dictionary.data);
  kava_free(l->last.data);
  kava_arena_free(&l->joined);
  kava_free(l->ahead_reps);
  kava_free(l->values);
  kava_free(l->levels);
  kava_free(l->row_levels);
  kava_free(l->offsets);
}

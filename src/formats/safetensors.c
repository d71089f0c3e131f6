/* formats/safetensors: see safetensors.h. What a reader must hold to be true before it hands out a tensor:
 *   header     8 + N bytes fit the file, N <= 100 000 000, JSON object, first byte '{', __metadata__ strings only
 *   size       product(shape) x bits is whole bytes, does not overflow, and equals end - begin
 *   coverage   sorted by offset, each tensor begins where the one before ended; the first at 0, the last ends the file
 *   shards     index and shards agree in both directions; shard names are plain file names */
#include "formats/safetensors.h"
#include "base/json.h"
#include "formats/writer.h"
#include <stdlib.h>
#include <string.h>

#define HEADER_MOST 100000000
#define TENSOR_EACH 850 /* bytes a tensor takes until it stands in a Lua table */
#define PAIR_EACH 320   /* and a pair of metadata, or a value of a tensor's line */

/* In the order of the reference's enumeration; saving goes through it backwards. */
static const struct {
  const char *name;
  int bits, dtype; /* dtype -1: not one of ours */
} types[] = {{"BOOL", 8, KAVA_BOOL}, {"F4", 4, -1},          {"F6_E2M3", 6, -1},      {"F6_E3M2", 6, -1},
             {"U8", 8, KAVA_U8},     {"I8", 8, KAVA_I8},     {"F8_E5M2", 8, -1},      {"F8_E4M3", 8, KAVA_FP8},
             {"F8_E8M0", 8, -1},     {"F8_E4M3FNUZ", 8, -1}, {"F8_E5M2FNUZ", 8, -1},  {"I16", 16, KAVA_I16},
             {"U16", 16, -1},        {"F16", 16, KAVA_F16},  {"BF16", 16, KAVA_BF16}, {"I32", 32, KAVA_I32},
             {"U32", 32, -1},        {"F32", 32, KAVA_F32},  {"C64", 64, -1},         {"F64", 64, KAVA_F64},
             {"I64", 64, KAVA_I64},  {"U64", 64, -1}};
#define TYPES ((int)(sizeof types / sizeof types[0]))

/* ---- reading ---- */

typedef struct span {
  kava_text name;
  int type, rank;
  int64_t begin, end, *sizes; /* sizes: in the arena, where rank is no more than KAVA_MAX_DIMS */
} span;

static int by_name(const kava_text *a, const kava_text *b) {
  int order = memcmp(a->data, b->data, a->length < b->length ? a->length : b->length);
  return order ? order : (a->length > b->length) - (a->length < b->length);
}

static int by_offset(const void *a, const void *b) {
  const span *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  if (x->end != y->end) return x->end < y->end ? -1 : 1;
  return by_name(&x->name, &y->name);
}

static kava_status copy_text(kava_arena *arena, const char *data, size_t length, kava_text *out) {
  char *copy = kava_arena_strndup(arena, data, length);
  if (!copy) return KAVA_MEMORY;
  *out = (kava_text){copy, length};
  return KAVA_OK;
}

static kava_status read_metadata(kava_safetensors *s, const kava_json *metadata) {
  if (metadata->kind != KAVA_JSON_OBJECT)
    return kava_fail(KAVA_FORMAT, "__metadata__ must be an object, got %s", kava_json_kind_name(metadata));
  if (!(s->metadata = kava_arena_alloc(&s->arena, metadata->length * sizeof *s->metadata + 1))) return KAVA_MEMORY;
  for (uint32_t i = 0; i < metadata->length; i++) {
    const kava_json_member *m = &metadata->members[i];
    if (m->value.kind != KAVA_JSON_STRING)
      return kava_fail(KAVA_FORMAT, "__metadata__.%s must be a string, got %s", m->key, kava_json_kind_name(&m->value));
    kava_status st = copy_text(&s->arena, m->key, m->key_length, &s->metadata[i][0]);
    if (st == KAVA_OK) st = copy_text(&s->arena, m->value.string, m->value.length, &s->metadata[i][1]);
    if (st != KAVA_OK) return st;
    s->metadata_count = i + 1;
  }
  return KAVA_OK;
}

static int span_by_name(const void *a, const void *b) {
  return by_name(&((const span *)a)->name, &((const span *)b)->name);
}

/* One tensor's line of the header, checked by itself. */
static kava_status read_span(kava_arena *arena, const kava_json_member *m, int64_t data_size, span *out) {
  const kava_json *dtype = kava_json_get(&m->value, "dtype"), *shape = kava_json_get(&m->value, "shape"),
                  *offsets = kava_json_get(&m->value, "data_offsets");
  if (!kava_json_is(dtype, KAVA_JSON_STRING) || !kava_json_is(shape, KAVA_JSON_ARRAY) ||
      !kava_json_is(offsets, KAVA_JSON_ARRAY))
    return kava_fail(KAVA_FORMAT, "tensor '%s': dtype (a string), shape and data_offsets (arrays) expected", m->key);
  *out = (span){.type = -1, .rank = shape->length > KAVA_MAX_DIMS ? KAVA_MAX_DIMS + 1 : (int)shape->length};
  for (int i = 0; i < TYPES; i++)
    if (kava_json_is_text(dtype, types[i].name)) out->type = i;
  if (out->type < 0) return kava_fail(KAVA_FORMAT, "tensor '%s': unknown dtype '%.40s'", m->key, dtype->string);
  if (offsets->length != 2 || offsets->items[0].kind != KAVA_JSON_INTEGER ||
      offsets->items[1].kind != KAVA_JSON_INTEGER)
    return kava_fail(KAVA_FORMAT, "tensor '%s': data_offsets must be two integers", m->key);
  out->begin = offsets->items[0].integer;
  out->end = offsets->items[1].integer;
  if (out->begin < 0 || out->begin > out->end || out->end > data_size)
    return kava_fail(KAVA_FORMAT, "tensor '%s': data_offsets [%lld, %lld] do not lie within the %lld bytes of data",
                     m->key, (long long)out->begin, (long long)out->end, (long long)data_size);
  if (out->rank > 0 && out->rank <= KAVA_MAX_DIMS &&
      !(out->sizes = kava_arena_alloc(arena, (size_t)out->rank * sizeof *out->sizes)))
    return KAVA_MEMORY;
  int64_t bits = types[out->type].bits;
  bool empty = false, overflow = false;
  for (uint32_t i = 0; i < shape->length; i++) {
    const kava_json *size = &shape->items[i];
    if (size->kind != KAVA_JSON_INTEGER || size->integer < 0)
      return kava_fail(KAVA_FORMAT, "tensor '%s': its shape must be whole numbers from 0 on, got %s", m->key,
                       size->kind == KAVA_JSON_INTEGER ? "a negative one" : kava_json_kind_name(size));
    if (out->sizes) out->sizes[i] = size->integer;
    if (size->integer == 0)
      empty = true;
    else
      overflow |= __builtin_mul_overflow(bits, size->integer, &bits);
  }
  if (overflow) return kava_fail(KAVA_FORMAT, "tensor '%s': the size of its shape overflows", m->key);
  if (empty) bits = 0;
  if (bits % 8 != 0)
    return kava_fail(KAVA_FORMAT, "tensor '%s': its shape is not whole bytes of %s", m->key, types[out->type].name);
  if (bits / 8 != out->end - out->begin)
    return kava_fail(KAVA_FORMAT, "tensor '%s': its shape takes %lld bytes, its data_offsets span %lld", m->key,
                     (long long)(bits / 8), (long long)(out->end - out->begin));
  return KAVA_OK;
}

static kava_status make_entry(kava_map *map, const uint8_t *data, const span *at, kava_safetensors_entry *entry) {
  entry->name = at->name;
  entry->dtype = types[at->type].name;
  entry->why = types[at->type].dtype < 0 ? "dtype" : at->rank > KAVA_MAX_DIMS ? "rank" : NULL;
  if (entry->why) return KAVA_OK;
  return kava_tensor_mapped((kava_dtype)types[at->type].dtype, at->rank, at->sizes, map, data + at->begin,
                            &entry->tensor);
}

/* The header's lines, one after the other; names are kept in the arena. */
static kava_status read_header(kava_safetensors *s, const kava_map *map, uint64_t header, bool metadata, span **spans,
                               int64_t *count) {
  kava_status st = KAVA_OK;
  kava_json_walk *walk = NULL;
  const kava_json_member *m;
  int64_t room = 0, size = (int64_t)(map->size - 8 - header);
  bool has_metadata = false;
  int64_t most = (int64_t)kava_map_most(map->size, TENSOR_EACH);
  KAVA_TRY(kava_json_walk_text((const char *)map->data + 8, header, kava_map_most(map->size, PAIR_EACH), &walk));
  for (;;) {
    KAVA_TRY(kava_json_walk_next(walk, &m));
    if (!m) break;
    if (strcmp(m->key, "__metadata__") == 0) {
      if (has_metadata) KAVA_FAIL(KAVA_FORMAT, "an object has the key '__metadata__' twice");
      has_metadata = true;
      if (metadata) KAVA_TRY(read_metadata(s, &m->value));
      continue;
    }
    if (*count == most) KAVA_FAIL(KAVA_FORMAT, "more tensors than such a file ought to have (%lld)", (long long)most);
    if (*count == room) {
      room = room ? 2 * room : 64;
      span *grown = kava_realloc(*spans, (size_t)room * sizeof *grown);
      if (!grown) {
        st = KAVA_MEMORY;
        goto out;
      }
      *spans = grown;
    }
    span *at = &(*spans)[*count];
    KAVA_TRY(read_span(&s->arena, m, size, at));
    KAVA_TRY(copy_text(&s->arena, m->key, m->key_length, &at->name));
    ++*count;
  }
  if (*count) qsort(*spans, (size_t)*count, sizeof **spans, span_by_name);
  for (int64_t i = 1; i < *count; i++)
    if (by_name(&(*spans)[i - 1].name, &(*spans)[i].name) == 0)
      KAVA_FAIL(KAVA_FORMAT, "an object has the key '%.100s' twice", (*spans)[i].name.data);
out:
  kava_json_walk_close(&walk);
  return st;
}

static kava_status load_file(const char *path, kava_safetensors *s, bool metadata) {
  kava_status st = KAVA_OK;
  kava_map *map = NULL;
  span *spans = NULL;
  uint64_t n = 0;
  int64_t count = 0, at = 0;
  if ((st = kava_map_open(path, &map)) != KAVA_OK) return st;
  if (map->size < 8) KAVA_FAIL(KAVA_FORMAT, "%zu bytes are too few for a header", map->size);
  for (int i = 7; i >= 0; i--) n = n << 8 | map->data[i];
  if (n > HEADER_MOST)
    KAVA_FAIL(KAVA_FORMAT, "a header of %llu bytes; at most %d expected", (unsigned long long)n, HEADER_MOST);
  if (n > map->size - 8)
    KAVA_FAIL(KAVA_FORMAT, "a header of %llu bytes in a file of %zu", (unsigned long long)n, map->size);
  if (n == 0 || map->data[8] != '{') KAVA_FAIL(KAVA_FORMAT, "the header does not begin with '{'");
  if ((st = read_header(s, map, n, metadata, &spans, &count)) != KAVA_OK) {
    kava_fail_in(st, "header");
    goto out;
  }
  const uint8_t *data = map->data + 8 + n;
  int64_t size = (int64_t)(map->size - 8 - n);
  if (count) qsort(spans, (size_t)count, sizeof *spans, by_offset);
  for (int64_t i = 0; i < count; i++) {
    if (spans[i].begin != at)
      KAVA_FAIL(KAVA_FORMAT, "tensor '%s' begins at %lld of the data, %s %lld", spans[i].name.data,
                (long long)spans[i].begin,
                spans[i].begin < at ? "inside the one before, which ends at" : "a hole after", (long long)at);
    at = spans[i].end;
  }
  if (at != size)
    KAVA_FAIL(KAVA_FORMAT, "the tensors end at %lld of %lld bytes of data", (long long)at, (long long)size);
  kava_safetensors_entry *entries = kava_arena_alloc(&s->arena, (size_t)(s->count + count) * sizeof *entries + 1);
  if (!entries) {
    st = KAVA_MEMORY;
    goto out;
  }
  if (s->count) memcpy(entries, s->entries, (size_t)s->count * sizeof *entries);
  s->entries = entries;
  for (int64_t i = 0; i < count; i++) {
    KAVA_TRY(make_entry(map, data, &spans[i], &s->entries[s->count]));
    s->count++;
  }
out:
  if (st != KAVA_OK) kava_fail_in(st, "%s", path);
  kava_free(spans);
  kava_map_release(&map);
  return st;
}

static kava_status load_index(const char *path, kava_safetensors *s) {
  kava_status st = KAVA_OK;
  kava_json_doc *doc = NULL;
  const char **shards = NULL; /* their names, in order of appearance */
  int64_t shard_count = 0;
  KAVA_TRY(kava_json_load(path, &doc));
  const kava_json *map = kava_json_get(kava_json_root(doc), "weight_map");
  if (!kava_json_is(map, KAVA_JSON_OBJECT)) KAVA_FAIL(KAVA_FORMAT, "%s: weight_map must be an object", path);
  const char *slash = strrchr(path, '/');
  int folder = slash ? (int)(slash - path) + 1 : 0;
  if (!(shards = kava_calloc(map->length, sizeof *shards))) {
    st = KAVA_MEMORY;
    goto out;
  }
  for (uint32_t i = 0; i < map->length; i++) {
    const kava_json *file = &map->members[i].value;
    if (file->kind != KAVA_JSON_STRING)
      KAVA_FAIL(KAVA_FORMAT, "%s: weight_map.%s must be a string", path, map->members[i].key);
    const char *name = file->string;
    if (!*name || strlen(name) != file->length || strpbrk(name, "/\\") || strstr(name, ".."))
      KAVA_FAIL(KAVA_FORMAT, "%s: '%.200s' is not a shard's name: a file beside the index expected", path, name);
    int64_t k = shard_count;
    while (k > 0 && strcmp(shards[k - 1], name) != 0) k--;
    if (k > 0) continue;
    shards[shard_count++] = name;
    char *full = kava_format("%.*s%s", folder, path, name);
    if (!full) {
      st = KAVA_MEMORY;
      goto out;
    }
    int64_t first = s->count;
    st = load_file(full, s, shard_count == 1);
    for (int64_t e = first; e < s->count && st == KAVA_OK; e++) {
      const kava_safetensors_entry *entry = &s->entries[e];
      const kava_json *listed = kava_json_find(map, entry->name.data, entry->name.length);
      if (!listed)
        st = kava_fail(KAVA_FORMAT, "%s: tensor '%s' is not in the index", full, entry->name.data);
      else if (!kava_json_is_text(listed, name))
        st = kava_fail(KAVA_FORMAT, "%s: tensor '%s' should be in %.200s, says the index", full, entry->name.data,
                       listed->kind == KAVA_JSON_STRING ? listed->string : "?");
    }
    kava_free(full);
    if (st != KAVA_OK) goto out;
  }
  /* Every tensor found is listed once; where fewer were found than listed, one is missing. */
  for (uint32_t i = 0; i < map->length && s->count < map->length; i++) {
    const kava_json_member *m = &map->members[i];
    bool found = false;
    for (int64_t e = 0; e < s->count && !found; e++)
      found = s->entries[e].name.length == m->key_length && memcmp(s->entries[e].name.data, m->key, m->key_length) == 0;
    if (!found)
      KAVA_FAIL(KAVA_FORMAT, "%s: tensor '%s' is not in %.200s, where the index has it", path, m->key, m->value.string);
  }
out:
  kava_free((void *)shards);
  kava_json_release(&doc);
  return st;
}

kava_status kava_safetensors_load(const char *path, kava_safetensors **out) {
  kava_safetensors *s = kava_calloc(1, sizeof *s);
  if (!s) return KAVA_MEMORY;
  size_t length = strlen(path);
  bool index = length > 5 && strcmp(path + length - 5, ".json") == 0;
  kava_status st = index ? load_index(path, s) : load_file(path, s, true);
  if (st == KAVA_OK)
    *out = s;
  else
    kava_safetensors_release(&s);
  return st;
}

void kava_safetensors_release(kava_safetensors **at) {
  kava_safetensors *s = *at;
  *at = NULL;
  if (!s) return;
  for (int64_t i = 0; i < s->count; i++) kava_tensor_release(&s->entries[i].tensor);
  kava_arena_free(&s->arena);
  kava_free(s);
}

/* ---- writing ---- */

static int type_of(kava_dtype dtype) {
  for (int i = 0; i < TYPES; i++)
    if (types[i].dtype == (int)dtype) return i;
  return -1;
}

static int by_type_and_name(const void *a, const void *b) {
  const kava_safetensors_item *x = a, *y = b;
  int order = type_of(y->tensor->dtype) - type_of(x->tensor->dtype);
  return order ? order : by_name(&x->name, &y->name);
}

static void write_metadata(kava_json_writer *json, int64_t count, const kava_text (*metadata)[2]) {
  bool format = false;
  for (int64_t i = 0; i < count; i++) format |= strcmp(metadata[i][0].data, "format") == 0;
  kava_json_key(json, "__metadata__", 12);
  kava_json_open(json, '{');
  if (!format) {
    kava_json_key(json, "format", 6);
    kava_json_string(json, "pt", 2);
  }
  for (int64_t i = 0; i < count; i++) {
    kava_json_key(json, metadata[i][0].data, metadata[i][0].length);
    kava_json_string(json, metadata[i][1].data, metadata[i][1].length);
  }
  kava_json_close(json, '}');
}

static int by_item_name(const void *a, const void *b) {
  return by_name(&((const kava_safetensors_item *)a)->name, &((const kava_safetensors_item *)b)->name);
}

/* Leaves them sorted by name: the sort by type separates equal names. */
static kava_status check_items(int64_t count, kava_safetensors_item *items) {
  for (int64_t i = 0; i < count; i++) {
    if (type_of(items[i].tensor->dtype) < 0)
      return kava_fail(KAVA_MISUSE, "tensor '%s': safetensors has no dtype %s", items[i].name.data,
                       kava_dtype_name(items[i].tensor->dtype));
    if (items[i].tensor->scales)
      return kava_fail(KAVA_MISUSE, "tensor '%s': its %s codes mean nothing without their scales", items[i].name.data,
                       kava_dtype_name(items[i].tensor->dtype));
    if (strcmp(items[i].name.data, "__metadata__") == 0)
      return kava_fail(KAVA_MISUSE, "a tensor cannot be called __metadata__");
  }
  if (count) qsort(items, (size_t)count, sizeof *items, by_item_name);
  for (int64_t i = 1; i < count; i++)
    if (by_item_name(&items[i - 1], &items[i]) == 0)
      return kava_fail(KAVA_MISUSE, "two tensors are called '%s'", items[i].name.data);
  return KAVA_OK;
}

kava_status kava_safetensors_header(int64_t count, kava_safetensors_item *items, int64_t metadata_count,
                                    const kava_text (*metadata)[2], char **header, size_t *size) {
  kava_json_writer json = {0};
  kava_status st = KAVA_OK;
  char *text = NULL;
  int64_t offset = 0;
  KAVA_TRY(check_items(count, items));
  if (count) qsort(items, (size_t)count, sizeof *items, by_type_and_name);
  kava_json_open(&json, '{');
  write_metadata(&json, metadata_count, metadata);
  for (int64_t i = 0; i < count; i++) {
    const kava_tensor *t = items[i].tensor;
    size_t bytes;
    KAVA_TRY(kava_tensor_bytes_of(t, &bytes));
    const char *dtype = types[type_of(t->dtype)].name;
    kava_json_key(&json, items[i].name.data, items[i].name.length);
    kava_json_open(&json, '{');
    kava_json_key(&json, "dtype", 5);
    kava_json_string(&json, dtype, strlen(dtype));
    kava_json_key(&json, "shape", 5);
    kava_json_open(&json, '[');
    for (int d = 0; d < t->dims; d++) kava_json_integer(&json, t->shape[d]);
    kava_json_close(&json, ']');
    kava_json_key(&json, "data_offsets", 12);
    kava_json_open(&json, '[');
    kava_json_integer(&json, offset);
    kava_json_integer(&json, offset += (int64_t)bytes);
    kava_json_close(&json, ']');
    kava_json_close(&json, '}');
  }
  kava_json_close(&json, '}');
  KAVA_TRY(json.status);
  size_t padded = (json.size + 7) & ~(size_t)7;
  if (padded > HEADER_MOST)
    KAVA_FAIL(KAVA_UNSUPPORTED, "a header of %zu bytes; at most %d are allowed", padded, HEADER_MOST);
  if (!(text = kava_alloc(8 + padded))) {
    st = KAVA_MEMORY;
    goto out;
  }
  for (int i = 0; i < 8; i++) text[i] = (char)((uint64_t)padded >> 8 * i);
  memcpy(text + 8, json.data, json.size);
  memset(text + 8 + json.size, ' ', padded - json.size);
  *header = text;
  *size = 8 + padded;
out:
  kava_free(json.data);
  return st;
}

kava_status kava_safetensors_save(const char *path, int64_t count, kava_safetensors_item *items, int64_t metadata_count,
                                  const kava_text (*metadata)[2]) {
  char *header = NULL;
  size_t size;
  kava_writer w;
  kava_status st = kava_safetensors_header(count, items, metadata_count, metadata, &header, &size);
  if (st == KAVA_OK) st = kava_writer_open(&w, path);
  if (st == KAVA_OK) {
    st = kava_writer_put(&w, header, size);
    for (int64_t i = 0; i < count && st == KAVA_OK; i++) st = kava_writer_tensor(&w, items[i].tensor);
    if (st == KAVA_OK)
      st = kava_writer_commit(&w);
    else
      kava_writer_abort(&w);
  }
  kava_free(header);
  return st;
}

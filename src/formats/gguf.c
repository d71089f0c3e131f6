/* formats/gguf: see gguf.h. What a reader must hold to be true before it hands anything out:
 *   counts     every count and length is checked against the bytes that remain before it is used
 *   metadata   keys unique; known types; no arrays of arrays; strings and arrays of at most 2^30; booleans 0 or 1
 *   tensors    names unique, below 64 bytes; at most 4 dimensions, none negative, no overflow; rows of whole blocks
 *   data       alignment a power of two; each tensor begins where the one listed before ended, padded; all inside the
 * file */
#include "formats/gguf.h"
#include "base/hash.h"
#include "formats/writer.h"
#include <string.h>

#define MOST ((uint64_t)1 << 30)
#define NAME_MOST 63
#define KEY_MOST 65535
#define VALUE_EACH 200 /* bytes a value takes here and in a Lua table */
#define NUMBER_EACH 16 /* and an element of an array */
#define STRING_EACH 64
#define TENSOR_EACH 850 /* and a tensor */

static const struct {
  const char *name;
  int bytes;
} value_types[KAVA_GGUF_TYPES] = {
    [KAVA_GGUF_U8] = {"u8", 1},       [KAVA_GGUF_I8] = {"i8", 1},     [KAVA_GGUF_U16] = {"u16", 2},
    [KAVA_GGUF_I16] = {"i16", 2},     [KAVA_GGUF_U32] = {"u32", 4},   [KAVA_GGUF_I32] = {"i32", 4},
    [KAVA_GGUF_F32] = {"f32", 4},     [KAVA_GGUF_BOOL] = {"bool", 1}, [KAVA_GGUF_STRING] = {"string", 0},
    [KAVA_GGUF_ARRAY] = {"array", 0}, [KAVA_GGUF_U64] = {"u64", 8},   [KAVA_GGUF_I64] = {"i64", 8},
    [KAVA_GGUF_F64] = {"f64", 8},
};

/* Every type there is, so that sizes can be checked: elements and bytes of a block, and our dtype or -1. */
static const struct {
  int id;
  const char *name;
  int block, bytes, dtype;
} tensor_types[] = {
    {0, "F32", 1, 4, KAVA_F32},          {1, "F16", 1, 2, KAVA_F16},
    {2, "Q4_0", 32, 18, KAVA_Q4_0},      {3, "Q4_1", 32, 20, KAVA_Q4_1},
    {6, "Q5_0", 32, 22, KAVA_Q5_0},      {7, "Q5_1", 32, 24, KAVA_Q5_1},
    {8, "Q8_0", 32, 34, KAVA_Q8_0},      {9, "Q8_1", 32, 36, -1},
    {10, "Q2_K", 256, 84, KAVA_Q2_K},    {11, "Q3_K", 256, 110, KAVA_Q3_K},
    {12, "Q4_K", 256, 144, KAVA_Q4_K},   {13, "Q5_K", 256, 176, KAVA_Q5_K},
    {14, "Q6_K", 256, 210, KAVA_Q6_K},   {15, "Q8_K", 256, 292, -1},
    {16, "IQ2_XXS", 256, 66, -1},        {17, "IQ2_XS", 256, 74, -1},
    {18, "IQ3_XXS", 256, 98, -1},        {19, "IQ1_S", 256, 50, -1},
    {20, "IQ4_NL", 32, 18, KAVA_IQ4_NL}, {21, "IQ3_S", 256, 110, -1},
    {22, "IQ2_S", 256, 82, -1},          {23, "IQ4_XS", 256, 136, KAVA_IQ4_XS},
    {24, "I8", 1, 1, KAVA_I8},           {25, "I16", 1, 2, KAVA_I16},
    {26, "I32", 1, 4, KAVA_I32},         {27, "I64", 1, 8, KAVA_I64},
    {28, "F64", 1, 8, KAVA_F64},         {29, "IQ1_M", 256, 56, -1},
    {30, "BF16", 1, 2, KAVA_BF16},       {34, "TQ1_0", 256, 54, -1},
    {35, "TQ2_0", 256, 66, -1},          {39, "MXFP4", 32, 17, -1},
};
#define TENSOR_TYPES ((int)(sizeof tensor_types / sizeof tensor_types[0]))

const char *kava_gguf_type_name(kava_gguf_type type) {
  return (unsigned)type < KAVA_GGUF_TYPES ? value_types[type].name : "?";
}
bool kava_gguf_type_parse(const char *name, kava_gguf_type *out) {
  for (int i = 0; i < KAVA_GGUF_TYPES; i++)
    if (strcmp(value_types[i].name, name) == 0) {
      *out = (kava_gguf_type)i;
      return true;
    }
  return false;
}

/* ---- little-endian numbers ---- */

static uint64_t get(const uint8_t *p, int bytes) {
  uint64_t value = 0;
  for (int i = bytes - 1; i >= 0; i--) value = value << 8 | p[i];
  return value;
}
static void put(uint8_t *p, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; i++, value >>= 8) p[i] = (uint8_t)value;
}

/* ---- an index of names: open addressing, slots hold number + 1 ---- */

typedef const char *(*name_at)(const void *list, int64_t i);
static const char *value_name(const void *list, int64_t i) { return ((const kava_gguf_value *)list)[i].key; }
static const char *tensor_name(const void *list, int64_t i) { return ((const kava_gguf_tensor *)list)[i].name; }
static const char *item_name(const void *list, int64_t i) { return ((const kava_gguf_item *)list)[i].name; }

static uint32_t index_size(int64_t count) {
  uint32_t size = 16;
  while (size < 2 * (uint64_t)count) size *= 2;
  return size;
}
/* The slot of `name`: occupied by it, or empty. */
static uint32_t slot_of(const uint32_t *slots, const void *list, int64_t count, name_at at, const char *name) {
  uint32_t mask = index_size(count) - 1, i = (uint32_t)kava_hash(name, strlen(name)) & mask;
  while (slots[i] && strcmp(at(list, slots[i] - 1), name) != 0) i = (i + 1) & mask;
  return i;
}
static kava_status make_index(kava_arena *arena, const void *list, int64_t count, name_at at, kava_status code,
                              uint32_t **out) {
  if (count > INT32_MAX / 4) return kava_fail(KAVA_UNSUPPORTED, "%lld names", (long long)count);
  uint32_t *slots = kava_arena_alloc(arena, index_size(count) * sizeof *slots);
  if (!slots) return KAVA_MEMORY;
  for (int64_t i = 0; i < count; i++) {
    uint32_t slot = slot_of(slots, list, count, at, at(list, i));
    if (slots[slot]) return kava_fail(code, "the name '%.100s' comes twice", at(list, i));
    slots[slot] = (uint32_t)i + 1;
  }
  *out = slots;
  return KAVA_OK;
}

/* ---- reading ---- */

typedef struct cursor {
  const uint8_t *start, *p, *end;
} cursor;

static kava_status cut(const cursor *c, const char *what) {
  return kava_fail(KAVA_FORMAT, "byte %zu: the file ends within %s", (size_t)(c->p - c->start), what);
}
static bool take(cursor *c, int bytes, uint64_t *out) {
  if (c->end - c->p < bytes) return false;
  *out = get(c->p, bytes);
  c->p += bytes;
  return true;
}
/* Skips a string; *text is its first byte. */
static kava_status take_string(cursor *c, const char *what, const uint8_t **text, size_t *length) {
  uint64_t n;
  if (!take(c, 8, &n)) return cut(c, what);
  if (n > MOST || n > (uint64_t)(c->end - c->p))
    return kava_fail(KAVA_FORMAT, "byte %zu: %s of %llu bytes, where %zu remain", (size_t)(c->p - c->start), what,
                     (unsigned long long)n, (size_t)(c->end - c->p));
  *text = c->p;
  *length = (size_t)n;
  c->p += n;
  return KAVA_OK;
}
/* A name: copied, of 1 to `most` bytes, none of them NUL. */
static kava_status take_name(kava_gguf *g, cursor *c, const char *what, size_t most, const char **out, size_t *length) {
  const uint8_t *text = NULL;
  kava_status st = take_string(c, what, &text, length);
  if (st != KAVA_OK) return st;
  if (*length == 0 || *length > most || memchr(text, 0, *length))
    return kava_fail(KAVA_FORMAT, "byte %zu: %s of %zu bytes; 1 to %zu expected, none of them 0",
                     (size_t)(text - c->start), what, *length, most);
  *out = kava_arena_strndup(&g->arena, (const char *)text, *length);
  return *out ? KAVA_OK : KAVA_MEMORY;
}

static kava_status read_value(kava_gguf *g, cursor *c, size_t *elements, kava_gguf_value *v) {
  uint64_t type, count = 1;
  kava_status st = take_name(g, c, "a metadata key", KEY_MOST, &v->key, &v->key_length);
  if (st != KAVA_OK) return st;
  if (!take(c, 4, &type)) return cut(c, v->key);
  if (type == KAVA_GGUF_ARRAY) {
    v->array = true;
    if (!take(c, 4, &type) || !take(c, 8, &count)) return cut(c, v->key);
    if (type == KAVA_GGUF_ARRAY) return kava_fail(KAVA_FORMAT, "%s: an array of arrays", v->key);
  }
  if (type >= KAVA_GGUF_TYPES) return kava_fail(KAVA_FORMAT, "%s: unknown type %llu", v->key, (unsigned long long)type);
  v->type = (kava_gguf_type)type;
  size_t remain = (size_t)(c->end - c->p), each = type == KAVA_GGUF_STRING ? 8 : (size_t)value_types[type].bytes;
  if (count > MOST || count > remain / each)
    return kava_fail(KAVA_FORMAT, "%s: %llu elements of %s do not fit the %zu bytes that remain", v->key,
                     (unsigned long long)count, value_types[type].name, remain);
  *elements += v->array ? count * (type == KAVA_GGUF_STRING ? STRING_EACH : NUMBER_EACH) : 0;
  if (*elements > kava_map_values(g->map->size))
    return kava_fail(KAVA_FORMAT, "%s: more elements of arrays than a file of %zu bytes ought to have", v->key,
                     g->map->size);
  v->count = count;
  v->data = c->p;
  if (type == KAVA_GGUF_STRING) {
    for (uint64_t i = 0; i < count; i++) {
      const uint8_t *text;
      size_t length;
      if ((st = take_string(c, v->key, &text, &length)) != KAVA_OK) return st;
    }
  } else {
    c->p += count * each;
  }
  v->bytes = (size_t)(c->p - v->data);
  for (uint64_t i = 0; type == KAVA_GGUF_BOOL && i < count; i++)
    if (v->data[i] > 1) return kava_fail(KAVA_FORMAT, "%s: a boolean of value %d", v->key, v->data[i]);
  return KAVA_OK;
}

static kava_status read_tensor(kava_gguf *g, cursor *c, kava_gguf_tensor *t, uint64_t *offset) {
  uint64_t dims, size, type;
  size_t length;
  kava_status st = take_name(g, c, "a tensor's name", NAME_MOST, &t->name, &length);
  if (st != KAVA_OK) return st;
  if (!take(c, 4, &dims)) return cut(c, t->name);
  if (dims > 4)
    return kava_fail(KAVA_FORMAT, "tensor '%s': %llu dimensions; at most 4 expected", t->name,
                     (unsigned long long)dims);
  t->dims = (int)dims;
  bool empty = false;
  for (int i = t->dims - 1; i >= 0; i--) {
    if (!take(c, 8, &size)) return cut(c, t->name);
    if (size > INT64_MAX) return kava_fail(KAVA_FORMAT, "tensor '%s': a negative dimension", t->name);
    t->shape[i] = (int64_t)size;
    empty |= size == 0;
  }
  if (!take(c, 4, &type) || !take(c, 8, offset)) return cut(c, t->name);
  int k = 0;
  while (k < TENSOR_TYPES && (uint64_t)tensor_types[k].id != type) k++;
  if (k == TENSOR_TYPES)
    return kava_fail(KAVA_FORMAT, "tensor '%s': unknown type %llu", t->name, (unsigned long long)type);
  t->type = (int)type;
  t->type_name = tensor_types[k].name;
  t->supported = tensor_types[k].dtype >= 0;
  if (t->supported) t->dtype = (kava_dtype)tensor_types[k].dtype;
  int64_t row = t->dims ? t->shape[t->dims - 1] : 1, bytes;
  if (row % tensor_types[k].block != 0)
    return kava_fail(KAVA_FORMAT, "tensor '%s': rows of %lld elements are not whole blocks of %s (%d)", t->name,
                     (long long)row, t->type_name, tensor_types[k].block);
  bool overflow = __builtin_mul_overflow(row / tensor_types[k].block, (int64_t)tensor_types[k].bytes, &bytes);
  for (int i = 0; i < t->dims - 1 && !empty; i++) overflow |= __builtin_mul_overflow(bytes, t->shape[i], &bytes);
  int64_t elements = 1; /* may overflow where the bytes do not: blocks are below a byte an element */
  for (int i = 0; i < t->dims && !empty; i++) overflow |= __builtin_mul_overflow(elements, t->shape[i], &elements);
  if (overflow) return kava_fail(KAVA_FORMAT, "tensor '%s': the size of its shape overflows", t->name);
  t->bytes = empty ? 0 : (size_t)bytes;
  return KAVA_OK;
}

static kava_status read_alignment(kava_gguf *g) {
  const kava_gguf_value *v = kava_gguf_find(g, "general.alignment");
  int64_t alignment = 32;
  if (v && (v->array || v->type != KAVA_GGUF_U32 || !kava_gguf_integer(v, 0, &alignment) || alignment == 0 ||
            (alignment & (alignment - 1))))
    return kava_fail(KAVA_FORMAT, "general.alignment must be a power of two, of type u32");
  g->alignment = (uint32_t)alignment;
  return KAVA_OK;
}

/* Gives every tensor its data; `offsets` is what the file says of each. */
static kava_status place(kava_gguf *g, const cursor *c, const uint64_t *offsets) {
  size_t begin = (size_t)(c->p - c->start), mask = (size_t)g->alignment - 1, expected = 0;
  begin = (begin + mask) & ~mask;
  size_t room = begin < g->map->size ? g->map->size - begin : 0;
  for (int64_t i = 0; i < g->tensor_count; i++) {
    kava_gguf_tensor *t = &g->tensors[i];
    if (offsets[i] != expected)
      return kava_fail(KAVA_FORMAT, "tensor '%s': offset %llu where the one before ends at %zu", t->name,
                       (unsigned long long)offsets[i], expected);
    if (expected > room || t->bytes > room - expected)
      return kava_fail(KAVA_FORMAT, "tensor '%s': %zu bytes at %zu do not lie within the %zu bytes of data", t->name,
                       t->bytes, expected, room);
    t->data = g->map->data + begin + expected;
    expected = (expected + t->bytes + mask) & ~mask; /* both are at most the file's size: no overflow */
  }
  return KAVA_OK;
}

static kava_status read_header(kava_gguf *g, cursor *c, uint64_t *tensors, uint64_t *values) {
  uint64_t magic, version;
  if (!take(c, 4, &magic) || magic != 0x46554747) return kava_fail(KAVA_FORMAT, "does not begin with GGUF");
  if (!take(c, 4, &version)) return cut(c, "the header");
  if (version && (version & 0xffff) == 0) return kava_fail(KAVA_UNSUPPORTED, "a big-endian file");
  if (version != 2 && version != 3)
    return kava_fail(version == 1 ? KAVA_UNSUPPORTED : KAVA_FORMAT, "version %llu; 2 or 3 expected",
                     (unsigned long long)version);
  g->version = (uint32_t)version;
  if (!take(c, 8, tensors) || !take(c, 8, values)) return cut(c, "the header");
  size_t remain = (size_t)(c->end - c->p);
  if (*values > remain / 13 || *tensors > (remain - *values * 13) / 24) /* the least bytes one of each takes */
    return kava_fail(KAVA_FORMAT, "%llu tensors and %llu metadata values do not fit the %zu bytes that remain",
                     (unsigned long long)*tensors, (unsigned long long)*values, remain);
  if (*values * VALUE_EACH + *tensors * TENSOR_EACH >
      kava_map_most(g->map->size, 1)) /* both fit the file: no overflow */
    return kava_fail(KAVA_FORMAT, "%llu tensors and %llu metadata values: more than a file of %zu bytes ought to have",
                     (unsigned long long)*tensors, (unsigned long long)*values, g->map->size);
  return KAVA_OK;
}

static kava_status read_file(kava_gguf *g) {
  kava_status st = KAVA_OK;
  uint64_t tensors = 0, values = 0, *offsets = NULL;
  size_t elements = 0;
  const uint8_t *start = g->map->size ? g->map->data : (const uint8_t *)""; /* an empty file has no mapping */
  cursor c = {start, start, start + g->map->size};
  KAVA_TRY(read_header(g, &c, &tensors, &values));
  g->values = kava_arena_alloc(&g->arena, (size_t)values * sizeof *g->values + 1);
  g->tensors = g->values ? kava_arena_alloc(&g->arena, (size_t)tensors * sizeof *g->tensors + 1) : NULL;
  offsets = g->tensors ? kava_calloc((size_t)tensors, sizeof *offsets) : NULL;
  if (!offsets) {
    st = KAVA_MEMORY;
    goto out;
  }
  for (; g->value_count < (int64_t)values; g->value_count++)
    KAVA_TRY(read_value(g, &c, &elements, &g->values[g->value_count]));
  KAVA_TRY(make_index(&g->arena, g->values, g->value_count, value_name, KAVA_FORMAT, &g->value_index));
  KAVA_TRY(read_alignment(g));
  for (; g->tensor_count < (int64_t)tensors; g->tensor_count++)
    KAVA_TRY(read_tensor(g, &c, &g->tensors[g->tensor_count], &offsets[g->tensor_count]));
  KAVA_TRY(make_index(&g->arena, g->tensors, g->tensor_count, tensor_name, KAVA_FORMAT, &g->tensor_index));
  KAVA_TRY(place(g, &c, offsets));
out:
  kava_free(offsets);
  return st;
}

kava_status kava_gguf_open(const char *path, kava_gguf **out) {
  kava_gguf *g = kava_calloc(1, sizeof *g);
  if (!g) return KAVA_MEMORY;
  kava_live_add(1);
  kava_status st = kava_map_open(path, &g->map);
  if (st == KAVA_OK && (st = read_file(g)) != KAVA_OK) kava_fail_in(st, "%s", path);
  if (st == KAVA_OK)
    *out = g;
  else
    kava_gguf_release(&g);
  return st;
}

void kava_gguf_release(kava_gguf **at) {
  kava_gguf *g = *at;
  *at = NULL;
  if (!g) return;
  kava_map_release(&g->map);
  kava_arena_free(&g->arena);
  kava_free(g);
  kava_live_add(-1);
}

const kava_gguf_value *kava_gguf_find(const kava_gguf *g, const char *key) {
  uint32_t number = g->value_index[slot_of(g->value_index, g->values, g->value_count, value_name, key)];
  return number ? &g->values[number - 1] : NULL;
}

const kava_gguf_tensor *kava_gguf_find_tensor(const kava_gguf *g, const char *name) {
  uint32_t number = g->tensor_index[slot_of(g->tensor_index, g->tensors, g->tensor_count, tensor_name, name)];
  return number ? &g->tensors[number - 1] : NULL;
}

kava_status kava_gguf_tensor_load(const kava_gguf *g, const kava_gguf_tensor *t, kava_tensor **out) {
  if (!t->supported)
    return kava_fail(KAVA_UNSUPPORTED, "%s: tensor '%s': type %s is not supported", g->map->path, t->name,
                     t->type_name);
  return kava_tensor_mapped(t->dtype, t->dims, t->shape, g->map, t->data, out);
}

bool kava_gguf_integer(const kava_gguf_value *v, uint64_t i, int64_t *out) {
  if (!v || i >= v->count) return false;
  int bytes = value_types[v->type].bytes;
  uint64_t raw = get(v->data + i * (uint64_t)bytes, bytes);
  switch (v->type) {
  case KAVA_GGUF_I8: *out = (int8_t)raw; return true;
  case KAVA_GGUF_I16: *out = (int16_t)raw; return true;
  case KAVA_GGUF_I32: *out = (int32_t)raw; return true;
  case KAVA_GGUF_I64: *out = (int64_t)raw; return true;
  case KAVA_GGUF_F32:
  case KAVA_GGUF_F64:
  case KAVA_GGUF_STRING: return false;
  default: *out = (int64_t)raw; return raw <= INT64_MAX;
  }
}

bool kava_gguf_number(const kava_gguf_value *v, uint64_t i, double *out) {
  int64_t whole;
  if (!v || i >= v->count || v->type == KAVA_GGUF_BOOL) return false;
  if (v->type == KAVA_GGUF_F32) {
    uint32_t bits = (uint32_t)get(v->data + 4 * i, 4);
    float x;
    memcpy(&x, &bits, sizeof x);
    *out = x;
    return true;
  }
  if (v->type == KAVA_GGUF_F64) {
    uint64_t bits = get(v->data + 8 * i, 8);
    memcpy(out, &bits, sizeof *out);
    return true;
  }
  if (v->type == KAVA_GGUF_U64) {
    *out = (double)get(v->data + 8 * i, 8);
    return true;
  }
  if (!kava_gguf_integer(v, i, &whole)) return false;
  *out = (double)whole;
  return true;
}

bool kava_gguf_next_string(const kava_gguf_value *v, size_t *at, const char **data, size_t *length) {
  if (!v || v->type != KAVA_GGUF_STRING || *at >= v->bytes) return false;
  *length = (size_t)get(v->data + *at, 8);
  *data = (const char *)v->data + *at + 8;
  *at += 8 + *length;
  return true;
}

bool kava_gguf_string(const kava_gguf_value *v, const char **data, size_t *length) {
  size_t at = 0;
  return kava_gguf_next_string(v, &at, data, length);
}

/* ---- writing ---- */

static kava_status put_number(kava_writer *w, uint64_t value, int bytes) {
  uint8_t raw[8];
  put(raw, value, bytes);
  return kava_writer_put(w, raw, (size_t)bytes);
}

static kava_status put_text(kava_writer *w, const char *text, size_t length) {
  kava_status st = put_number(w, length, 8);
  return st == KAVA_OK ? kava_writer_put(w, text, length) : st;
}

static int tensor_type_of(kava_dtype dtype) {
  for (int k = 0; k < TENSOR_TYPES; k++)
    if (tensor_types[k].dtype == (int)dtype) return k;
  return -1;
}

static kava_status put_value(kava_writer *w, const kava_gguf_value *v) {
  kava_status st = KAVA_OK;
  KAVA_TRY(put_text(w, v->key, v->key_length));
  if (v->array) KAVA_TRY(put_number(w, KAVA_GGUF_ARRAY, 4));
  KAVA_TRY(put_number(w, v->type, 4));
  if (v->array) KAVA_TRY(put_number(w, v->count, 8));
  KAVA_TRY(kava_writer_put(w, v->data, v->bytes));
out:
  return st;
}

static kava_status check_items(int64_t value_count, const kava_gguf_value *values, int64_t tensor_count,
                               const kava_gguf_item *items, size_t *alignment) {
  kava_arena arena = {0};
  kava_status st = KAVA_OK;
  uint32_t *unused;
  KAVA_TRY(make_index(&arena, values, value_count, value_name, KAVA_MISUSE, &unused));
  KAVA_TRY(make_index(&arena, items, tensor_count, item_name, KAVA_MISUSE, &unused));
  *alignment = 32;
  for (int64_t i = 0; i < value_count; i++) {
    if (values[i].key_length == 0 || values[i].key_length > KEY_MOST || strlen(values[i].key) != values[i].key_length)
      KAVA_FAIL(KAVA_MISUSE, "metadata keys have 1 to %d bytes, none of them 0", KEY_MOST);
    if (strcmp(values[i].key, "general.alignment") != 0) continue;
    int64_t given = 0;
    if (values[i].array || values[i].type != KAVA_GGUF_U32 || !kava_gguf_integer(&values[i], 0, &given) || given < 1 ||
        given > 4096 || (given & (given - 1)))
      KAVA_FAIL(KAVA_MISUSE, "general.alignment must be a power of two up to 4096, of type u32");
    *alignment = (size_t)given;
  }
  for (int64_t i = 0; i < tensor_count; i++) {
    const kava_tensor *t = items[i].tensor;
    size_t length = strlen(items[i].name);
    if (length == 0 || length > NAME_MOST)
      KAVA_FAIL(KAVA_MISUSE, "tensor '%s': names have 1 to %d bytes", items[i].name, NAME_MOST);
    if (tensor_type_of(t->dtype) < 0)
      KAVA_FAIL(KAVA_MISUSE, "tensor '%s': GGUF has no dtype %s", items[i].name, kava_dtype_name(t->dtype));
    if (t->dims < 1 || t->dims > 4)
      KAVA_FAIL(KAVA_MISUSE, "tensor '%s': %d dimensions; 1 to 4 expected", items[i].name, t->dims);
  }
out:
  kava_arena_free(&arena);
  return st;
}

kava_status kava_gguf_save(const char *path, int64_t value_count, const kava_gguf_value *values, int64_t tensor_count,
                           const kava_gguf_item *items) {
  kava_writer w;
  size_t alignment, bytes, offset = 0;
  kava_status st = check_items(value_count, values, tensor_count, items, &alignment);
  if (st == KAVA_OK) st = kava_writer_open(&w, path);
  if (st != KAVA_OK) return st;
  KAVA_TRY(kava_writer_put(&w, "GGUF", 4));
  KAVA_TRY(put_number(&w, 3, 4));
  KAVA_TRY(put_number(&w, (uint64_t)tensor_count, 8));
  KAVA_TRY(put_number(&w, (uint64_t)value_count, 8));
  for (int64_t i = 0; i < value_count; i++) KAVA_TRY(put_value(&w, &values[i]));
  for (int64_t i = 0; i < tensor_count; i++) {
    const kava_tensor *t = items[i].tensor;
    KAVA_TRY(kava_tensor_bytes_of(t, &bytes));
    KAVA_TRY(put_text(&w, items[i].name, strlen(items[i].name)));
    KAVA_TRY(put_number(&w, (uint64_t)t->dims, 4));
    for (int d = t->dims - 1; d >= 0; d--) KAVA_TRY(put_number(&w, (uint64_t)t->shape[d], 8));
    KAVA_TRY(put_number(&w, (uint64_t)tensor_types[tensor_type_of(t->dtype)].id, 4));
    KAVA_TRY(put_number(&w, offset, 8));
    offset = (offset + bytes + alignment - 1) & ~(alignment - 1);
  }
  KAVA_TRY(kava_writer_pad(&w, alignment));
  for (int64_t i = 0; i < tensor_count; i++) {
    KAVA_TRY(kava_writer_tensor(&w, items[i].tensor));
    KAVA_TRY(kava_writer_pad(&w, alignment));
  }
  return kava_writer_commit(&w);
out:
  kava_writer_abort(&w);
  return st;
}

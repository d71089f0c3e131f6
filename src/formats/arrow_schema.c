#include "formats/arrow_schema.h"
#include <string.h>

#define FIELDS_MOST ((size_t)100000)
#define FIELD_LEAST 12 /* bytes that one takes */
#define NAME_MOST 4096 /* bytes; many fields may point to one name */

static kava_status broken(const kava_arrow_schema *s, const char *what) {
  return kava_fail(KAVA_FORMAT, "%s: Arrow: %s", s->path, what);
}

static kava_status name_of(kava_arrow_schema *s, kava_flat *f, size_t at, const char **out) {
  uint32_t length = at ? kava_flat_u32(f, at) : 0;
  if (!kava_flat_has(f, at + 4, length)) length = 0;
  if (length > NAME_MOST) return broken(s, "a field's name is longer than 4096 bytes");
  *out = kava_arena_strndup(s->arena, (const char *)f->data + at + 4, length);
  return *out ? KAVA_OK : KAVA_MEMORY;
}

static void set(kava_field *field, kava_arrow_node *n, kava_field_kind kind, kava_layout layout, uint32_t width,
                int buffers, const char *type) {
  field->kind = kind;
  field->type = type;
  n->layout = layout;
  n->width = width;
  n->buffers = buffers;
}

static const char *unit(kava_flat *f, size_t type, int64_t absent, kava_field *field) {
  static const char *const units[] = {"s", "ms", "us", "ns"};
  static const int64_t per_second[] = {1, 1000, 1000000, 1000000000};
  int64_t u = kava_flat_integer(f, type, 0, 2, absent);
  if (u < 0 || u > 3) u = 0;
  field->per_second = per_second[u];
  return units[u];
}

/* The type of a field from its flatbuffer table. */
static kava_status read_type(kava_arrow_schema *s, kava_flat *f, size_t at, kava_field *field, kava_arrow_node *n) {
  int64_t kind = (uint8_t)kava_flat_integer(f, at, 2, 1, 0), width;
  size_t type = kava_flat_table(f, at, 3);
  n->validity = true;
  n->dictionary = -1;
  switch (kind) {
  case 1:
    set(field, n, KAVA_FIELD_NULL, KAVA_LAYOUT_NULL, 0, 0, "null");
    n->validity = false;
    break;
  case 2: {
    width = kava_flat_integer(f, type, 0, 4, 0);
    bool with_sign = kava_flat_integer(f, type, 1, 1, 0) != 0;
    if (width != 8 && width != 16 && width != 32 && width != 64) return broken(s, "an integer type's width");
    set(field, n, with_sign ? KAVA_FIELD_INTEGER : KAVA_FIELD_NATURAL, KAVA_LAYOUT_FIXED, (uint32_t)width / 8, 2,
        kava_arena_format(s->arena, "%sint%d", with_sign ? "" : "u", (int)width));
    break;
  }
  case 3: {
    int64_t precision = kava_flat_integer(f, type, 0, 2, 0);
    if (precision < 0 || precision > 2) return broken(s, "a real type's precision");
    set(field, n, KAVA_FIELD_REAL, KAVA_LAYOUT_FIXED, 2u << precision, 2,
        kava_arena_format(s->arena, "float%d", 16 << precision));
    break;
  }
  case 4: set(field, n, KAVA_FIELD_TEXT, KAVA_LAYOUT_TEXT, 4, 3, "binary"); break;
  case 5: set(field, n, KAVA_FIELD_TEXT, KAVA_LAYOUT_TEXT, 4, 3, "string"); break;
  case 6: set(field, n, KAVA_FIELD_BOOLEAN, KAVA_LAYOUT_BITS, 0, 2, "bool"); break;
  case 7:
    set(field, n, KAVA_FIELD_OTHER, KAVA_LAYOUT_FIXED, 0, 2,
        kava_arena_format(s->arena, "decimal(%d, %d)", (int)kava_flat_integer(f, type, 0, 4, 0),
                          (int)kava_flat_integer(f, type, 1, 4, 0)));
    break;
  case 8: /* in days, or, since version 4 of the format, in milliseconds */
    width = kava_flat_integer(f, type, 0, 2, 1) == 0 ? 32 : 64;
    set(field, n, KAVA_FIELD_DATE, KAVA_LAYOUT_FIXED, (uint32_t)width / 8, 2, "date");
    field->per_second = width == 32 ? 0 : 1000;
    break;
  case 9:
    width = kava_flat_integer(f, type, 1, 4, 32);
    if (width != 32 && width != 64) return broken(s, "a time type's width");
    set(field, n, KAVA_FIELD_TIME, KAVA_LAYOUT_FIXED, (uint32_t)width / 8, 2,
        kava_arena_format(s->arena, "time[%s]", unit(f, type, 1, field)));
    break;
  case 10:
    set(field, n, KAVA_FIELD_MOMENT, KAVA_LAYOUT_FIXED, 8, 2,
        kava_arena_format(s->arena, "timestamp[%s]", unit(f, type, 0, field)));
    field->utc = kava_flat_table(f, type, 1) != 0;
    break;
  case 11: set(field, n, KAVA_FIELD_OTHER, KAVA_LAYOUT_FIXED, 0, 2, "interval"); break;
  case 12: set(field, n, KAVA_FIELD_LIST, KAVA_LAYOUT_LIST, 4, 2, "list"); break;
  case 13: set(field, n, KAVA_FIELD_STRUCT, KAVA_LAYOUT_STRUCT, 0, 1, "struct"); break;
  case 14: { /* dense ones have offsets; neither kind has validity, since version 5 */
    bool dense = kava_flat_integer(f, type, 0, 2, 0) == 1;
    set(field, n, KAVA_FIELD_OTHER, KAVA_LAYOUT_NULL, 0, dense ? 2 : 1, "union");
    n->validity = false;
    break;
  }
  case 15:
    width = kava_flat_integer(f, type, 0, 4, 0);
    if (width < 0) return broken(s, "a fixed-size type's width");
    set(field, n, KAVA_FIELD_TEXT, KAVA_LAYOUT_FIXED, (uint32_t)width, 2,
        kava_arena_format(s->arena, "fixed_size_binary[%d]", (int)width));
    break;
  case 16:
    width = kava_flat_integer(f, type, 0, 4, 0);
    if (width < 0) return broken(s, "a fixed-size list's size");
    set(field, n, KAVA_FIELD_LIST, KAVA_LAYOUT_ARRAY, (uint32_t)width, 1, "list");
    break;
  case 17: set(field, n, KAVA_FIELD_LIST, KAVA_LAYOUT_LIST, 4, 2, "map"); break;
  case 18:
    set(field, n, KAVA_FIELD_OTHER, KAVA_LAYOUT_FIXED, 0, 2,
        kava_arena_format(s->arena, "duration[%s]", unit(f, type, 1, field)));
    break;
  case 19: set(field, n, KAVA_FIELD_TEXT, KAVA_LAYOUT_TEXT, 8, 3, "large_binary"); break;
  case 20: set(field, n, KAVA_FIELD_TEXT, KAVA_LAYOUT_TEXT, 8, 3, "large_string"); break;
  case 21: set(field, n, KAVA_FIELD_LIST, KAVA_LAYOUT_LIST, 8, 2, "large_list"); break;
  case 22:
    set(field, n, KAVA_FIELD_OTHER, KAVA_LAYOUT_NULL, 0, 0, "run_end_encoded");
    n->validity = false;
    break;
  case 23:
  case 24:
    set(field, n, KAVA_FIELD_TEXT, KAVA_LAYOUT_VIEWS, 16, 2, kind == 23 ? "binary_view" : "string_view");
    n->views = true;
    break;
  case 25:
  case 26: set(field, n, KAVA_FIELD_OTHER, KAVA_LAYOUT_NULL, 0, 3, "list_view"); break;
  default:
    return kava_fail(KAVA_UNSUPPORTED, "%s: Arrow: type %d of field '%.60s' is not known", s->path, (int)kind,
                     field->name);
  }
  return KAVA_OK;
}

static kava_status new_node(kava_arrow_schema *s, int *out) {
  if (s->node_count % 64 == 0) {
    kava_arrow_node *grown = kava_realloc(s->nodes, (size_t)(s->node_count + 64) * sizeof *grown);
    if (!grown) return KAVA_MEMORY;
    s->nodes = grown;
  }
  s->nodes[s->node_count] = (kava_arrow_node){.dictionary = -1};
  *out = s->node_count++;
  return KAVA_OK;
}

/* The batches hold indices for this field, and its values come as messages of their own. */
static kava_status add_dictionary(kava_arrow_schema *s, kava_flat *f, size_t encoding, kava_field *field) {
  int64_t id = kava_flat_integer(f, encoding, 0, 8, 0), width = 32;
  size_t index = kava_flat_table(f, encoding, 1);
  bool with_sign = true;
  if (index) {
    width = kava_flat_integer(f, index, 0, 4, 0);
    with_sign = kava_flat_integer(f, index, 1, 1, 0) != 0;
  }
  if (width != 8 && width != 16 && width != 32 && width != 64) return broken(s, "a dictionary index's width");
  for (int i = 0; i < s->encoded_count; i++)
    if (s->encoded[i].id == id)
      return kava_fail(KAVA_UNSUPPORTED, "%s: Arrow: two fields share dictionary %lld", s->path, (long long)id);
  kava_arrow_encoded *grown = kava_realloc(s->encoded, (size_t)(s->encoded_count + 1) * sizeof *grown);
  if (!grown) return KAVA_MEMORY;
  s->encoded = grown;
  kava_arrow_encoded *d = &grown[s->encoded_count];
  *d = (kava_arrow_encoded){.id = id, .values = *field};
  kava_status st = new_node(s, &d->values.index);
  if (st != KAVA_OK) return st;
  s->nodes[d->values.index] = s->nodes[field->index];
  s->nodes[field->index] = (kava_arrow_node){.layout = KAVA_LAYOUT_INDICES,
                                             .width = (uint32_t)width / 8,
                                             .natural = !with_sign,
                                             .buffers = 2,
                                             .validity = true,
                                             .dictionary = s->encoded_count};
  s->encoded_count++;
  return KAVA_OK;
}

/* Room for a field's children. Offsets may point to the same place again and again: what all of them are together is
 * held against what the bytes can hold. */
static kava_status take_children(kava_arrow_schema *s, const kava_flat *f, size_t count, kava_field *field) {
  s->field_count += count;
  if (s->field_count > f->size / FIELD_LEAST || s->field_count > FIELDS_MOST)
    return broken(s, "the schema names more fields than it holds, or than can be read");
  field->children = kava_arena_alloc(s->arena, count * sizeof *field->children + 1);
  field->count = (int)count;
  return field->children ? KAVA_OK : KAVA_MEMORY;
}

static kava_status read_field(kava_arrow_schema *s, kava_flat *f, size_t at, kava_field *field, int depth) {
  kava_status st;
  if (depth > KAVA_TABLE_DEPTH) return broken(s, "fields nested too deep");
  if ((st = new_node(s, &field->index)) != KAVA_OK) return st;
  if ((st = name_of(s, f, kava_flat_table(f, at, 0), &field->name)) != KAVA_OK) return st;
  if ((st = read_type(s, f, at, field, &s->nodes[field->index])) != KAVA_OK) return st;
  if (!field->type) return KAVA_MEMORY;
  kava_flat_vector children = kava_flat_list(f, at, 5, 4);
  bool one = field->kind == KAVA_FIELD_LIST, none = field->kind != KAVA_FIELD_OTHER && field->kind != KAVA_FIELD_STRUCT;
  if (f->broken || (one ? children.count != 1 : none && children.count != 0))
    return kava_fail(KAVA_FORMAT, "%s: Arrow: field '%.60s' has %zu children", s->path, field->name, children.count);
  if ((st = take_children(s, f, children.count, field)) != KAVA_OK) return st;
  for (int i = 0; i < field->count; i++) {
    st = read_field(s, f, kava_flat_follow(f, children.at + 4 * (size_t)i), &field->children[i], depth + 1);
    if (st != KAVA_OK) return st;
  }
  size_t encoding = kava_flat_table(f, at, 4);
  return encoding ? add_dictionary(s, f, encoding, field) : KAVA_OK;
}

kava_status kava_arrow_schema_read(kava_arrow_schema *s, kava_flat *f, size_t header) {
  if (kava_flat_integer(f, header, 0, 2, 0) != 0) return broken(s, "big-endian data");
  kava_field *record = &s->record;
  kava_flat_vector fields = kava_flat_list(f, header, 1, 4);
  record->kind = KAVA_FIELD_STRUCT;
  record->name = "";
  record->type = "struct";
  kava_status st = take_children(s, f, fields.count, record);
  if (st != KAVA_OK) return st;
  for (int i = 0; i < record->count; i++) {
    st = read_field(s, f, kava_flat_follow(f, fields.at + 4 * (size_t)i), &record->children[i], 1);
    if (st != KAVA_OK) return st;
  }
  return f->broken ? broken(s, "the schema points out of its bounds") : KAVA_OK;
}

void kava_arrow_schema_free(kava_arrow_schema *s) {
  kava_free(s->nodes);
  kava_free(s->encoded);
}

/* formats/parquet: Parquet files: the footer's schema and row groups as a table. Columns are read page by page, the
 * wanted ones only, a few thousand rows at a time (formats/parquet_page).
 *
 *   file     "PAR1", column chunks, footer (Thrift), u32 its length, "PAR1"
 *   schema   a tree in preorder; leaves are the columns, in the order of each row group's chunks
 *
 * Lists one level deep, of values or of structs, and structs of any depth are rows like Arrow's; a list within a list
 * is a field that no text is made of. */
#include "formats/parquet_page.h"
#include "formats/thrift.h"
#include <stdio.h>
#include <string.h>

#define SLICE_ROWS 16384
#define SLICE_BYTES 4e6
#define SLICE_ITEMS 262144.0
#define ELEMENT_LEAST 6 /* bytes of an element of the schema: a name and what it is */
#define FOOTER_MOST ((uint64_t)256 << 20)

enum { REQUIRED, OPTIONAL, REPEATED };
enum {
  LOGICAL_STRING = 1,
  LOGICAL_MAP,
  LOGICAL_LIST,
  LOGICAL_ENUM,
  LOGICAL_DECIMAL,
  LOGICAL_DATE,
  LOGICAL_TIME,
  LOGICAL_TIMESTAMP,
  LOGICAL_INTEGER = 10,
  LOGICAL_NULL,
  LOGICAL_JSON,
  LOGICAL_BSON,
  LOGICAL_UUID,
  LOGICAL_FLOAT16
};

typedef struct element { /* of the schema, as the footer has it */
  int64_t type, type_length, repetition, children, converted;
  int logical;
  bool natural, utc;
  int unit; /* of times: 1 ms, 2 us, 3 ns; 0: not said */
  const char *name;
} element;

typedef struct node { /* by kava_field.index */
  uint8_t def, rep;   /* of the field itself: null below def; rep 1: inside a list */
  int leaf;           /* its own; of a list or struct, the first inside */
  int leaves;         /* how many are inside */
} node;

typedef struct chunk {
  uint64_t at, size;
  int64_t entries, bytes;
  int64_t codec;
} chunk;

typedef struct group {
  int64_t first, rows; /* of the file */
  int64_t chunk;       /* its first */
} group;

typedef struct parquet {
  kava_table table;
  kava_arena arena;
  element *elements;
  size_t element_count, element_at;
  node *nodes;
  int node_count, node_room;
  kava_leaf *leaves;
  bool *loaded; /* by leaf: whether it is wanted */
  int leaf_count, leaf_room;
  group *groups;
  chunk *chunks;
  int64_t group_count;
  int64_t at;  /* the group at hand; -1: none is begun */
  int64_t row; /* the next to give */
  kava_column root;
} parquet;

static kava_status broken(const parquet *p, const char *what) {
  return kava_fail(KAVA_FORMAT, "%s: Parquet: %s", p->table.file->path, what);
}

/* ---- the footer */

/* The type's name is the field of a union that is there; an integer's and a time's have fields of their own. */
static int read_logical(kava_thrift *t, element *e) {
  int kind, id = 0, inner_kind, inner = 0, logical = 0;
  while (kava_thrift_field(t, &kind, &id)) {
    logical = id;
    if (kind != KAVA_THRIFT_STRUCT || (id != LOGICAL_INTEGER && id != LOGICAL_TIME && id != LOGICAL_TIMESTAMP)) {
      kava_thrift_skip(t, kind, 0);
      continue;
    }
    inner = 0;
    while (kava_thrift_field(t, &inner_kind, &inner)) {
      if (id == LOGICAL_INTEGER && inner == 2) e->natural = inner_kind == KAVA_THRIFT_FALSE;
      if (id != LOGICAL_INTEGER && inner == 1) e->utc = inner_kind == KAVA_THRIFT_TRUE;
      if (id != LOGICAL_INTEGER && inner == 2 && inner_kind == KAVA_THRIFT_STRUCT) { /* again a union */
        int unit_kind, unit = 0;
        while (kava_thrift_field(t, &unit_kind, &unit)) {
          e->unit = unit;
          kava_thrift_skip(t, unit_kind, 0);
        }
      } else {
        kava_thrift_skip(t, inner_kind, 0);
      }
    }
  }
  return logical;
}

static kava_status read_element(parquet *p, kava_thrift *t, element *e) {
  int kind, id = 0;
  size_t length;
  *e = (element){.type = -1, .converted = -1, .name = ""};
  while (kava_thrift_field(t, &kind, &id)) {
    if (kind == KAVA_THRIFT_I32 && id <= 6) {
      int64_t value = kava_thrift_integer(t);
      if (id == 1) e->type = value;
      if (id == 2) e->type_length = value;
      if (id == 3) e->repetition = value;
      if (id == 5) e->children = value;
      if (id == 6) e->converted = value;
    } else if (kind == KAVA_THRIFT_BINARY && id == 4) {
      const char *name = (const char *)kava_thrift_binary(t, &length);
      if (!(e->name = kava_arena_strndup(&p->arena, name, length))) return KAVA_MEMORY;
    } else if (kind == KAVA_THRIFT_STRUCT && id == 10) {
      e->logical = read_logical(t, e);
    } else {
      kava_thrift_skip(t, kind, 0);
    }
  }
  return KAVA_OK;
}

static void read_chunk(kava_thrift *t, chunk *c, bool *elsewhere) {
  int kind, id = 0, inner_kind, inner;
  int64_t data = -1, dictionary = -1, size = -1;
  *c = (chunk){.entries = -1};
  while (kava_thrift_field(t, &kind, &id)) {
    if (id == 1 || id == 8 || id == 9) *elsewhere = true; /* in another file, or encrypted */
    if (kind != KAVA_THRIFT_STRUCT || id != 3) {
      kava_thrift_skip(t, kind, 0);
      continue;
    }
    inner = 0;
    while (kava_thrift_field(t, &inner_kind, &inner)) {
      if (inner_kind != KAVA_THRIFT_I32 && inner_kind != KAVA_THRIFT_I64) {
        kava_thrift_skip(t, inner_kind, 0);
        continue;
      }
      int64_t value = kava_thrift_integer(t);
      if (inner == 4) c->codec = value;
      if (inner == 5) c->entries = value;
      if (inner == 6) c->bytes = value;
      if (inner == 7) size = value;
      if (inner == 9) data = value;
      if (inner == 11) dictionary = value;
    }
  }
  int64_t at = dictionary > 0 && dictionary < data ? dictionary : data;
  if (at < 0 || size < 0 || c->bytes < 0) {
    c->entries = -1;
    return;
  }
  c->at = (uint64_t)at;
  c->size = (uint64_t)size;
}

static kava_status read_groups(parquet *p, kava_thrift *t) {
  int kind, type, id;
  size_t count = kava_thrift_list(t, &type);
  if (type != KAVA_THRIFT_STRUCT && count > 0) return broken(p, "row groups of another type");
  p->groups = kava_calloc(count + 1, sizeof *p->groups);
  if (!p->groups) return KAVA_MEMORY;
  size_t room = 0, used = 0;
  uint64_t bytes = 0;
  int64_t rows = 0;
  for (size_t i = 0; i < count && !t->broken; i++) {
    group *g = &p->groups[i];
    *g = (group){.first = rows, .rows = -1, .chunk = (int64_t)used};
    id = 0;
    while (kava_thrift_field(t, &kind, &id)) {
      if (kind == KAVA_THRIFT_LIST && id == 1) {
        size_t chunks = kava_thrift_list(t, &type);
        if (type != KAVA_THRIFT_STRUCT || (int64_t)chunks != p->leaf_count)
          return broken(p, "a row group with more or fewer columns than the schema");
        if (used + chunks > room) {
          size_t more = room * 2 > used + chunks ? room * 2 : used + chunks;
          chunk *grown = kava_realloc(p->chunks, more * sizeof *grown);
          if (!grown) return KAVA_MEMORY;
          p->chunks = grown;
          room = more;
        }
        for (size_t c = 0; c < chunks && !t->broken; c++) {
          bool elsewhere = false;
          read_chunk(t, &p->chunks[used], &elsewhere);
          const chunk *new = &p->chunks[used++];
          if (elsewhere)
            return kava_fail(KAVA_UNSUPPORTED, "%s: Parquet: columns that are encrypted, or in another file",
                             p->table.file->path);
          if (new->entries < 0 || new->at > p->table.file->size || new->size > p->table.file->size - new->at)
            return broken(p, "a column chunk beyond the file");
          if ((bytes += new->size) > p->table.file->size) return broken(p, "column chunks that overlap");
        }
      } else if (kind == KAVA_THRIFT_I64 && id == 3) {
        g->rows = kava_thrift_integer(t);
      } else {
        kava_thrift_skip(t, kind, 0);
      }
    }
    if (g->rows < 0 || g->rows > INT64_MAX - rows || (int64_t)used != g->chunk + p->leaf_count)
      return broken(p, "a row group without its rows or columns");
    rows += g->rows;
    p->group_count = (int64_t)i + 1;
  }
  p->table.rows = rows;
  return KAVA_OK;
}

/* ---- the schema */

/* What a leaf's type means; old files say it by the converted type alone. */
static void name_type(parquet *p, const element *e, kava_field *f, kava_leaf *l) {
  static const char *const plain[] = {"bool", "int32", "int64", "int96", "float32", "float64", "binary"};
  static const uint32_t widths[] = {1, 4, 8, 12, 4, 8, 0, 0};
  int64_t c = e->converted;
  int logical = e->logical;
  l->width = widths[e->type];
  f->type = e->type == KAVA_PARQUET_FIXED ? kava_arena_format(&p->arena, "fixed_size_binary[%d]", (int)e->type_length)
                                          : plain[e->type];
  switch (e->type) {
  case KAVA_PARQUET_BOOLEAN: f->kind = KAVA_FIELD_BOOLEAN; break;
  case KAVA_PARQUET_INT32:
  case KAVA_PARQUET_INT64: {
    int bits = e->type == KAVA_PARQUET_INT64 ? 64 : c == 11 || c == 15 ? 8 : c == 12 || c == 16 ? 16 : 32;
    bool natural = e->natural || (c >= 11 && c <= 14);
    f->kind = natural ? KAVA_FIELD_NATURAL : KAVA_FIELD_INTEGER;
    f->type = kava_arena_format(&p->arena, "%sint%d", natural ? "u" : "", bits);
    break;
  }
  case KAVA_PARQUET_FLOAT:
  case KAVA_PARQUET_DOUBLE: f->kind = KAVA_FIELD_REAL; break;
  case KAVA_PARQUET_INT96:
    f->kind = KAVA_FIELD_OTHER;
    f->type = "timestamp[ns]";
    break;
  default: f->kind = KAVA_FIELD_TEXT;
  }
  if (logical == LOGICAL_STRING || logical == LOGICAL_JSON || logical == LOGICAL_ENUM || c == 0 || c == 4 || c == 19)
    f->type = "string";
  bool whole = e->type == KAVA_PARQUET_INT32 || e->type == KAVA_PARQUET_INT64;
  int unit = e->unit ? e->unit : c == 7 || c == 9 ? 1 : c == 8 || c == 10 ? 2 : 0;
  if (e->type == KAVA_PARQUET_INT32 && (logical == LOGICAL_DATE || c == 6)) {
    f->kind = KAVA_FIELD_DATE;
    f->type = "date";
  } else if (whole && unit >= 1 && unit <= 3) {
    static const char *const units[] = {"", "ms", "us", "ns"};
    static const int64_t per_second[] = {0, 1000, 1000000, 1000000000};
    bool time = logical == LOGICAL_TIME || (!logical && c <= 8);
    f->kind = time ? KAVA_FIELD_TIME : KAVA_FIELD_MOMENT;
    f->type = kava_arena_format(&p->arena, "%s[%s]", time ? "time" : "timestamp", units[unit]);
    f->per_second = per_second[unit];
    f->utc = !time && (e->utc || !logical);
  }
  const char *other = logical == LOGICAL_DECIMAL || c == 5 ? "decimal"
                      : logical == LOGICAL_BSON || c == 20 ? "bson"
                      : logical == LOGICAL_UUID            ? "uuid"
                      : c == 21                            ? "interval"
                                                           : NULL;
  if (other) {
    f->kind = KAVA_FIELD_OTHER;
    f->type = other;
  }
  if (logical == LOGICAL_NULL) {
    f->kind = KAVA_FIELD_NULL;
    f->type = "null";
  }
  if (logical == LOGICAL_FLOAT16 && e->type == KAVA_PARQUET_FIXED && e->type_length == 2) {
    f->kind = KAVA_FIELD_REAL;
    f->type = "float16";
    l->width = 2;
  }
}

static kava_status new_node(parquet *p, kava_field *f, int def, int rep) {
  if (p->node_count == p->node_room) {
    node *grown = kava_realloc(p->nodes, (size_t)(p->node_room * 2 + 64) * sizeof *grown);
    if (!grown) return KAVA_MEMORY;
    p->nodes = grown;
    p->node_room = p->node_room * 2 + 64;
  }
  if (def > 200) return broken(p, "fields nested too deep");
  f->index = p->node_count++;
  p->nodes[f->index] = (node){.def = (uint8_t)def, .rep = (uint8_t)(rep > 2 ? 2 : rep), .leaf = p->leaf_count};
  return KAVA_OK;
}

static kava_status add_leaf(parquet *p, const element *e, kava_field *f, int def, int rep, int item_def) {
  if (e->type < 0 || e->type > KAVA_PARQUET_FIXED) return broken(p, "a column of an unknown type");
  if (e->type == KAVA_PARQUET_FIXED && (e->type_length < 1 || e->type_length > INT32_MAX))
    return broken(p, "a column of values without a length");
  if (p->leaf_count == p->leaf_room) {
    int room = p->leaf_room * 2 + 32;
    kava_leaf *grown = kava_realloc(p->leaves, (size_t)room * sizeof *grown);
    if (!grown) return KAVA_MEMORY;
    p->leaves = grown;
    p->leaf_room = room;
  }
  kava_leaf *l = &p->leaves[p->leaf_count++];
  *l = (kava_leaf){.file = p->table.file,
                   .name = f->name,
                   .type = (int)e->type,
                   .type_length = (int)e->type_length,
                   .max_def = (uint8_t)def,
                   .max_rep = (uint8_t)(rep > 1 ? 1 : rep),
                   .item_def = (uint8_t)item_def};
  name_type(p, e, f, l);
  return f->type ? KAVA_OK : KAVA_MEMORY;
}

static bool is_list(const element *e) { return e->logical == LOGICAL_LIST || e->converted == 3; }
static bool is_map(const element *e) { return e->logical == LOGICAL_MAP || e->converted == 1 || e->converted == 2; }

/* The next element as a field, with what is below it. def, rep: the levels above it; item_def: of the list around. With
 * `bare`, a repeated element is read as one item. */
static kava_status read_field(parquet *p, kava_field *f, int def, int rep, int item_def, bool bare, int depth) {
  if (p->element_at >= p->element_count) return broken(p, "a schema that is cut off");
  const element *e = &p->elements[p->element_at++];
  if (depth > KAVA_TABLE_DEPTH) return broken(p, "fields nested too deep");
  if (e->repetition < REQUIRED || e->repetition > REPEATED) return broken(p, "a damaged schema");
  kava_status st;
  f->name = e->name;
  bool leaf = e->type >= 0 && e->children == 0;
  if (e->repetition == REPEATED && !bare) { /* a list without its frame: of required items, itself never null */
    if ((st = new_node(p, f, def, rep)) != KAVA_OK) return st;
    f->kind = KAVA_FIELD_LIST;
    f->type = "list";
    f->count = 1;
    if (!(f->children = kava_arena_alloc(&p->arena, sizeof *f->children))) return KAVA_MEMORY;
    p->element_at--;
    if ((st = read_field(p, &f->children[0], def + 1, rep + 1, def + 1, true, depth + 1)) != KAVA_OK) return st;
  } else {
    if (e->repetition == OPTIONAL) def++;
    if ((st = new_node(p, f, def, rep)) != KAVA_OK) return st;
    const element *inside = p->element_at < p->element_count ? &p->elements[p->element_at] : NULL;
    if (leaf) {
      if ((st = add_leaf(p, e, f, def, rep, item_def)) != KAVA_OK) return st;
    } else if ((is_list(e) || is_map(e)) && e->children == 1 && inside && inside->repetition == REPEATED) {
      f->kind = KAVA_FIELD_LIST;
      f->type = is_list(e) ? "list" : "map";
      f->count = 1;
      if (!(f->children = kava_arena_alloc(&p->arena, sizeof *f->children))) return KAVA_MEMORY;
      size_t length = strlen(inside->name);
      bool framed = is_list(e) && inside->children == 1 && strcmp(inside->name, "array") != 0 &&
                    !(length > 6 && strcmp(inside->name + length - 6, "_tuple") == 0);
      if (framed) p->element_at++;
      st = read_field(p, &f->children[0], def + 1, rep + 1, def + 1, !framed, depth + 1);
      if (st != KAVA_OK) return st;
    } else {
      f->kind = KAVA_FIELD_STRUCT;
      f->type = "struct";
      if ((uint64_t)e->children > p->element_count - p->element_at) return broken(p, "a schema that is cut off");
      f->count = (int)e->children;
      f->children = kava_arena_alloc(&p->arena, (size_t)f->count * sizeof *f->children + 1);
      if (!f->children) return KAVA_MEMORY;
      for (int i = 0; i < f->count; i++)
        if ((st = read_field(p, &f->children[i], def, rep, item_def, false, depth + 1)) != KAVA_OK) return st;
    }
  }
  node *n = &p->nodes[f->index];
  n->leaves = p->leaf_count - n->leaf;
  if ((f->kind == KAVA_FIELD_LIST && rep > 0) || (f->kind == KAVA_FIELD_STRUCT && n->leaves == 0)) {
    f->type = rep > 0 ? "list in a list" : "struct of nothing";
    f->kind = KAVA_FIELD_OTHER;
  }
  return KAVA_OK;
}

static kava_status read_schema(parquet *p, kava_thrift *t) {
  int type;
  kava_status st;
  p->element_count = kava_thrift_list(t, &type);
  if (type != KAVA_THRIFT_STRUCT || p->element_count < 1 || p->elements) return broken(p, "no schema");
  if (p->element_count > (size_t)(t->end - t->p) / ELEMENT_LEAST + 1)
    return broken(p, "a schema of more elements than its bytes can hold");
  p->elements = kava_calloc(p->element_count, sizeof *p->elements);
  if (!p->elements) return KAVA_MEMORY;
  uint64_t children = 0; /* of all elements: each is the child of one, but for the first */
  for (size_t i = 0; i < p->element_count && !t->broken; i++) {
    if ((st = read_element(p, t, &p->elements[i])) != KAVA_OK) return st;
    if (p->elements[i].children < 0 || (children += (uint64_t)p->elements[i].children) >= p->element_count)
      return broken(p, "a damaged schema");
  }
  if (t->broken) return broken(p, "a damaged footer");
  p->elements[0].repetition = REQUIRED;
  p->elements[0].type = -1;
  p->elements[0].converted = -1;
  p->elements[0].logical = 0;
  if ((st = read_field(p, &p->table.record, 0, 0, 0, false, 0)) != KAVA_OK) return st;
  p->table.record.kind = KAVA_FIELD_STRUCT; /* of nothing, too */
  return p->element_at == p->element_count ? KAVA_OK : broken(p, "a schema with elements left over");
}

static kava_status read_footer(parquet *p) {
  const kava_file *file = p->table.file;
  uint8_t tail[8];
  uint32_t size;
  int kind, id = 0;
  kava_status st = KAVA_OK;
  uint8_t *footer = NULL;
  if (file->size < 12) return broken(p, "a file that is cut off");
  if ((st = kava_file_read(file, file->size - 8, tail, 8)) != KAVA_OK) return st;
  memcpy(&size, tail, 4);
  if (memcmp(tail + 4, "PAR1", 4) != 0) return broken(p, "no mark at its end: it is cut off, or encrypted");
  if (size > file->size - 12 || size > FOOTER_MOST) return broken(p, "a footer larger than the file");
  if (!(footer = kava_alloc(size + 1))) return KAVA_MEMORY;
  KAVA_TRY(kava_file_read(file, file->size - 8 - size, footer, size));
  kava_thrift t = {footer, footer + size, false};
  while (kava_thrift_field(&t, &kind, &id)) {
    if (kind == KAVA_THRIFT_LIST && id == 2)
      KAVA_TRY(read_schema(p, &t));
    else if (kind == KAVA_THRIFT_LIST && id == 4 && p->elements && !p->groups)
      KAVA_TRY(read_groups(p, &t));
    else
      kava_thrift_skip(&t, kind, 0);
  }
  if (t.broken || !p->elements || !p->groups) st = broken(p, "a damaged footer");
out:
  kava_free(footer);
  return st;
}

/* ---- the table */

static kava_status make_columns(parquet *p, const kava_field *f, kava_column *c) {
  if (!(c->children = kava_arena_alloc(&p->arena, (size_t)f->count * sizeof *c->children + 1))) return KAVA_MEMORY;
  for (int i = 0; i < f->count; i++) {
    kava_status st = make_columns(p, &f->children[i], &c->children[i]);
    if (st != KAVA_OK) return st;
  }
  return KAVA_OK;
}

/* The leaves below a field give `rows` rows (of the file, or items of the list around) each: columns of what they hold.
 */
static kava_status fill_column(parquet *p, const kava_field *f, kava_column *c, int64_t rows) {
  const node *n = &p->nodes[f->index];
  const kava_leaf *l = &p->leaves[n->leaf];
  kava_column *children = c->children;
  *c = (kava_column){.field = f, .length = rows, .children = children};
  if (n->def > 0) {
    c->level = n->def;
    c->levels = l->max_rep && n->rep == 0 ? l->row_levels : l->levels;
  }
  switch (f->kind) {
  case KAVA_FIELD_STRUCT:
    c->layout = KAVA_LAYOUT_STRUCT;
    for (int i = 0; i < f->count; i++) {
      kava_status st = fill_column(p, &f->children[i], &children[i], rows);
      if (st != KAVA_OK) return st;
    }
    return KAVA_OK;
  case KAVA_FIELD_LIST:
    c->layout = KAVA_LAYOUT_LIST;
    c->width = 8;
    c->offsets = l->offsets;
    for (int i = 1; i < n->leaves; i++)
      if (memcmp(l->offsets, l[i].offsets, (size_t)(rows + 1) * sizeof *l->offsets) != 0)
        return kava_fail(KAVA_FORMAT, "%s: Parquet: field '%.60s': its columns have lists of different lengths",
                         p->table.file->path, f->name);
    return fill_column(p, &f->children[0], &children[0], l->items);
  case KAVA_FIELD_NULL:
  case KAVA_FIELD_OTHER: c->layout = KAVA_LAYOUT_NULL; return KAVA_OK;
  default:
    c->layout = l->width ? KAVA_LAYOUT_FIXED : KAVA_LAYOUT_VIEWS;
    c->width = l->width;
    c->values = l->values;
    return KAVA_OK;
  }
}

static void mark_loaded(parquet *p) {
  for (int i = 0; i < p->table.record.count; i++) {
    const kava_field *f = &p->table.record.children[i];
    const node *n = &p->nodes[f->index];
    for (int k = 0; k < n->leaves; k++) p->loaded[n->leaf + k] = f->wanted;
  }
}

static kava_status begin_group(parquet *p, int64_t at) {
  static const kava_codec codecs[] = {KAVA_CODEC_NONE, KAVA_CODEC_SNAPPY, KAVA_CODEC_GZIP, -1, -1, -1, KAVA_CODEC_ZSTD};
  static const char *const names[] = {"", "", "", "lzo", "brotli", "lz4", "", "lz4_raw"};
  mark_loaded(p);
  p->at = -1;
  for (int i = 0; i < p->leaf_count; i++) {
    if (!p->loaded[i]) continue;
    const chunk *c = &p->chunks[p->groups[at].chunk + i];
    bool known = c->codec >= 0 && c->codec <= 6 && (int)codecs[c->codec] >= 0;
    if (!known)
      return kava_fail(KAVA_UNSUPPORTED,
                       "%s: Parquet: column '%.60s' is compressed with %s; snappy, gzip, zstd, or none, "
                       "can be read",
                       p->table.file->path, p->leaves[i].name,
                       c->codec >= 0 && c->codec <= 7 ? names[c->codec] : "something unknown");
    if (p->leaves[i].max_rep == 0 && c->entries != p->groups[at].rows)
      return broken(p, "a column chunk of more or fewer values than its row group has rows");
    kava_leaf_begin(&p->leaves[i], c->at, c->at + c->size, codecs[c->codec], c->entries);
  }
  p->at = at;
  return KAVA_OK;
}

/* The group at hand becomes the one that the row is in; its rows before that one are skipped. */
static kava_status find_row(parquet *p) {
  int64_t low = 0, high = p->group_count - 1;
  while (low < high) { /* the last group that begins at the row or before it, and has rows */
    int64_t middle = (low + high + 1) / 2;
    if (p->groups[middle].first <= p->row)
      low = middle;
    else
      high = middle - 1;
  }
  kava_status st = begin_group(p, low);
  for (int i = 0; i < p->leaf_count && st == KAVA_OK; i++)
    if (p->loaded[i]) st = kava_leaf_skip(&p->leaves[i], p->row - p->groups[low].first);
  if (st != KAVA_OK) p->at = -1;
  return st;
}

/* Rows that make a slice of about SLICE_BYTES, and of no more items of lists than SLICE_ITEMS: ones of which a run says
 * that they are all alike take no bytes. */
static int64_t slice_rows(const parquet *p) {
  const group *g = &p->groups[p->at];
  int64_t left = g->first + g->rows - p->row, rows = SLICE_ROWS;
  double bytes = 0; /* what the chunks say, which may be anything */
  for (int i = 0; i < p->leaf_count; i++) {
    const chunk *c = &p->chunks[g->chunk + i];
    if (!p->loaded[i]) continue;
    bytes += (double)c->bytes;
    double items = (double)c->entries / (double)g->rows;
    if (p->leaves[i].max_rep && items * (double)rows > SLICE_ITEMS) rows = 1 + (int64_t)(SLICE_ITEMS / items);
  }
  if (bytes / (double)g->rows * (double)rows > SLICE_BYTES)
    rows = 1 + (int64_t)(SLICE_BYTES / (bytes / (double)g->rows));
  return rows < left ? rows : left;
}

static kava_status parquet_next(kava_table *table, const kava_column **columns, int64_t *count) {
  parquet *p = (parquet *)table;
  kava_status st = KAVA_OK;
  *count = 0;
  if (p->row >= table->rows) return KAVA_OK;
  if (p->at < 0 || p->row == p->groups[p->at].first + p->groups[p->at].rows)
    if ((st = find_row(p)) != KAVA_OK) return st;
  int64_t rows = slice_rows(p);
  for (int i = 0; i < p->leaf_count; i++)
    if (p->loaded[i]) KAVA_TRY(kava_leaf_rows(&p->leaves[i], rows));
  for (int i = 0; i < table->record.count; i++)
    if (table->record.children[i].wanted)
      KAVA_TRY(fill_column(p, &table->record.children[i], &p->root.children[i], rows));
  p->root.length = rows;
  p->row += rows;
  *columns = &p->root;
  *count = rows;
out:
  if (st != KAVA_OK) p->at = -1; /* the columns have read on, the row is the same: it is to be found again */
  return st;
}

static kava_status parquet_seek(kava_table *table, int64_t row) {
  parquet *p = (parquet *)table;
  p->row = row;
  p->at = -1;
  return KAVA_OK;
}

static void parquet_close(kava_table *table) {
  parquet *p = (parquet *)table;
  for (int i = 0; i < p->leaf_count; i++) kava_leaf_free(&p->leaves[i]);
  kava_free(p->leaves);
  kava_free(p->loaded);
  kava_free(p->elements);
  kava_free(p->nodes);
  kava_free(p->groups);
  kava_free(p->chunks);
  kava_arena_free(&p->arena);
  kava_free(p);
}

kava_status kava_parquet_open(const kava_file *file, kava_table **out) {
  static const kava_table_class class = {parquet_seek, parquet_next, parquet_close};
  parquet *p = kava_calloc(1, sizeof *p);
  if (!p) return KAVA_MEMORY;
  p->table.class = &class;
  p->table.file = file;
  p->at = -1;
  kava_status st = read_footer(p);
  if (st == KAVA_OK) st = make_columns(p, &p->table.record, &p->root);
  if (st == KAVA_OK && !(p->loaded = kava_calloc((size_t)p->leaf_count + 1, sizeof *p->loaded))) st = KAVA_MEMORY;
  if (st != KAVA_OK) {
    parquet_close(&p->table);
    return st;
  }
  p->root.field = &p->table.record;
  p->root.layout = KAVA_LAYOUT_STRUCT;
  *out = &p->table;
  return KAVA_OK;
}

/* formats/arrow: Arrow IPC streams (what datasets.save_to_disk writes) and IPC files, which name
 * their messages in a footer. The messages are indexed when the file is opened: 24 bytes of memory each. Of a record
 * batch only the wanted columns are read, and of those only a slice of rows at a time, so that memory depends neither
 * on the file nor on its batches; buffers that are compressed are held whole, one batch at a time.
 *
 *   message   0xFFFFFFFF, i32 length, flatbuffer of that length, body   a length of 0 ends the stream
 *   body      buffers at 8-byte boundaries, in the order of the fields, parents before children:
 *             validity bits, then by layout offsets and values
 */
#include "formats/arrow_schema.h"
#include "formats/codec.h"

#define SLICE_BYTES ((int64_t)4 << 20) /* of a record batch's wanted buffers at a time */
#define BYTES_MOST ((int64_t)1 << 48)  /* of a column: no product of a row and a width overflows */
#define METADATA_MOST ((size_t)64 << 20)

enum { MESSAGE_SCHEMA = 1, MESSAGE_DICTIONARY = 2, MESSAGE_BATCH = 3 };
enum { CODEC_NONE = -1, CODEC_LZ4 = 0, CODEC_ZSTD = 1 };

typedef struct message {
  uint64_t offset; /* of the metadata */
  uint32_t size;
  bool batch;  /* else a dictionary */
  int64_t row; /* batch: its first; dictionary: its id */
} message;

/* What columns lie in, in the order of reading. */
typedef struct rooms {
  kava_room *list;
  int count, used;
} rooms;

/* A record batch that is read: where its buffers lie. */
typedef struct batch {
  int64_t message; /* -1: none */
  uint64_t body, body_size;
  int64_t rows;
  int codec;
  kava_room metadata;
  kava_flat flat;
  kava_flat_vector nodes, buffers, variadic;
  kava_room *whole; /* by buffer: decompressed */
  bool *held;
  size_t whole_count;
} batch;

typedef struct dictionary {
  kava_column column;
  rooms rooms;
  batch batch;
  int64_t loaded; /* the message it holds; -1: none */
} dictionary;

typedef struct arrow {
  kava_table table;
  kava_arena arena;
  kava_arrow_schema schema;
  bool has_schema;
  dictionary *dictionaries; /* as many as the schema has */
  message *messages;
  int64_t message_count, message_room;
  batch batch; /* the one at hand */
  rooms rooms;
  kava_column root;
  int64_t row; /* the next to give */
} arrow;

static kava_status broken(const arrow *a, const char *what) {
  return kava_fail(KAVA_FORMAT, "%s: Arrow: %s", a->table.file->path, what);
}

/* ---- messages */

/* The metadata at `offset` into `room`; *header is its table, and *next where the next message begins. */
static kava_status read_metadata(arrow *a, uint64_t offset, uint32_t size, kava_room *room, kava_flat *f,
                                 size_t *header, int *type, uint64_t *body, uint64_t *body_size) {
  if (!kava_room_take(room, size)) return KAVA_MEMORY;
  kava_status st = kava_file_read(a->table.file, offset, room->data, size);
  if (st != KAVA_OK) return st;
  *f = (kava_flat){room->data, size, false};
  size_t root = kava_flat_follow(f, 0);
  int64_t length = kava_flat_integer(f, root, 3, 8, 0);
  *type = (int)kava_flat_integer(f, root, 1, 1, 0);
  *header = kava_flat_table(f, root, 2);
  *body = offset + size;
  if (f->broken || *header == 0 || length < 0 || (uint64_t)length > a->table.file->size - *body)
    return kava_fail(KAVA_FORMAT, "%s: Arrow: the message at byte %llu is damaged, or its body is cut off",
                     a->table.file->path, (unsigned long long)offset);
  *body_size = (uint64_t)length;
  return KAVA_OK;
}

static kava_status add_message(arrow *a, message m) {
  if (a->message_count == a->message_room) {
    int64_t room = a->message_room * 2 + 64;
    message *grown = kava_realloc(a->messages, (size_t)room * sizeof *grown);
    if (!grown) return KAVA_MEMORY;
    a->messages = grown;
    a->message_room = room;
  }
  a->messages[a->message_count++] = m;
  return KAVA_OK;
}

static kava_status take_schema(arrow *a, kava_flat *f, size_t header) {
  kava_status st = kava_arrow_schema_read(&a->schema, f, header);
  a->table.record = a->schema.record;
  return st;
}

/* Takes the message at *at, whose length follows a mark of four bytes (since Arrow 0.15), and goes on to where the next
 * one is; *type is 0 where the stream says that it ends. */
static kava_status index_message(arrow *a, uint64_t *at, int *type) {
  const kava_file *file = a->table.file;
  kava_flat f;
  size_t header;
  uint32_t head[2];
  uint64_t body, body_size;
  kava_status st = kava_file_read(file, *at, head, 8);
  if (st != KAVA_OK) return st;
  if (head[0] != 0xffffffffu)
    return kava_fail(KAVA_FORMAT, "%s: Arrow: no message at byte %llu (made before Arrow 0.15, or damaged)", file->path,
                     (unsigned long long)*at);
  *type = 0;
  if (head[1] == 0) return KAVA_OK;
  *at += 8;
  if (head[1] > METADATA_MOST || head[1] > file->size - *at)
    return kava_fail(KAVA_FORMAT, "%s: Arrow: a message of %u bytes at byte %llu; the file ends at byte %llu",
                     file->path, head[1], (unsigned long long)*at, (unsigned long long)file->size);
  st = read_metadata(a, *at, head[1], &a->batch.metadata, &f, &header, type, &body, &body_size);
  if (st != KAVA_OK) return st;
  bool first = !a->has_schema;
  if ((*type == MESSAGE_SCHEMA) != first) return broken(a, first ? "no schema before the rows" : "a second schema");
  if (*type == MESSAGE_SCHEMA) {
    a->has_schema = true;
    st = take_schema(a, &f, header);
  } else if (*type == MESSAGE_BATCH) {
    int64_t rows = kava_flat_integer(&f, header, 0, 8, 0);
    if (rows < 0 || rows > INT32_MAX || rows > INT64_MAX - a->table.rows) return broken(a, "a batch's number of rows");
    st = add_message(a, (message){*at, head[1], true, a->table.rows});
    a->table.rows += rows;
  } else if (*type == MESSAGE_DICTIONARY) {
    if (kava_flat_integer(&f, header, 2, 1, 0))
      return kava_fail(KAVA_UNSUPPORTED, "%s: Arrow: dictionaries that grow (delta)", file->path);
    st = add_message(a, (message){*at, head[1], false, kava_flat_integer(&f, header, 0, 8, 0)});
  } else {
    st = kava_fail(KAVA_UNSUPPORTED, "%s: Arrow: a message of kind %d", file->path, *type);
  }
  *at = body + body_size;
  return st;
}

static kava_status index_stream(arrow *a) {
  kava_status st = KAVA_OK;
  int type = -1;
  for (uint64_t at = 0; st == KAVA_OK && type != 0;) {
    if (at == a->table.file->size && a->has_schema) break; /* it may end without saying so */
    st = index_message(a, &at, &type);
  }
  return st == KAVA_OK && !a->has_schema ? broken(a, "a stream without a schema") : st;
}

/* A file has its schema and the places of its messages in a footer: "ARROW1", …, footer, i32 its length, "ARROW1". */
static kava_status index_file(arrow *a) {
  const kava_file *file = a->table.file;
  kava_status st = KAVA_OK;
  kava_room footer = {0};
  uint8_t tail[10];
  uint32_t size;
  if (file->size < 18) return broken(a, "a file that is cut off");
  if ((st = kava_file_read(file, file->size - 10, tail, 10)) != KAVA_OK) return st;
  memcpy(&size, tail, 4);
  if (memcmp(tail + 4, "ARROW1", 6) != 0) return broken(a, "no mark at its end: it is cut off");
  if (size > file->size - 18 || size > METADATA_MOST) return broken(a, "a footer larger than the file");
  if (!kava_room_take(&footer, size)) return KAVA_MEMORY;
  if ((st = kava_file_read(file, file->size - 10 - size, footer.data, size)) != KAVA_OK) goto out;
  kava_flat f = {footer.data, size, false};
  size_t root = kava_flat_follow(&f, 0), schema = kava_flat_table(&f, root, 1);
  kava_flat_vector blocks[] = {kava_flat_list(&f, root, 2, 24), kava_flat_list(&f, root, 3, 24)};
  static const int types[] = {MESSAGE_DICTIONARY, MESSAGE_BATCH};
  if (f.broken || schema == 0) {
    st = broken(a, "a damaged footer");
    goto out;
  }
  a->has_schema = true;
  st = take_schema(a, &f, schema);
  for (int k = 0; k < 2; k++) /* dictionaries first: each holds for all batches */
    for (size_t i = 0; i < blocks[k].count && st == KAVA_OK; i++) {
      uint64_t at;
      int type;
      memcpy(&at, f.data + blocks[k].at + i * 24, 8);
      st = index_message(a, &at, &type);
      if (st == KAVA_OK && type != types[k]) st = broken(a, "a footer that names another message");
    }
out:
  kava_free(footer.data);
  return st;
}

static kava_status read_index(arrow *a) {
  char mark[6] = "";
  kava_status st = KAVA_OK;
  if (a->table.file->size >= 6) st = kava_file_read(a->table.file, 0, mark, 6);
  if (st != KAVA_OK) return st;
  return memcmp(mark, "ARROW1", 6) == 0 ? index_file(a) : index_stream(a);
}

/* ---- batches */

/* Whether items of such a column need no bytes: then nothing but the batch's size bounds how many there may be. */
static bool is_weightless(const kava_arrow_node *n, const kava_field *field) {
  if (field->kind == KAVA_FIELD_OTHER) return false; /* none of them is ever read */
  bool sized = n->layout == KAVA_LAYOUT_FIXED || n->layout == KAVA_LAYOUT_ARRAY;
  return n->layout == KAVA_LAYOUT_NULL || (sized && n->width == 0) ||
         (n->layout == KAVA_LAYOUT_STRUCT && field->count == 0);
}

/* Gives a field and those in it their nodes and buffers in this batch. */
static kava_status assign(arrow *a, batch *b, const kava_field *field, size_t *at_node, size_t *at_buffer,
                          size_t *at_view) {
  kava_arrow_node *n = &a->schema.nodes[field->index];
  if (*at_node >= b->nodes.count) return broken(a, "a batch with fewer columns than the schema");
  memcpy(&n->length, b->flat.data + b->nodes.at + *at_node * 16, 8);
  memcpy(&n->nulls, b->flat.data + b->nodes.at + *at_node * 16 + 8, 8);
  ++*at_node;
  if (n->length < 0 || n->nulls < 0 || n->length > BYTES_MOST / (n->width ? n->width : 1))
    return broken(a, "a column's length");
  n->first_buffer = (int)*at_buffer;
  *at_buffer += (size_t)n->buffers;
  if (n->views) {
    int64_t more = -1;
    if (*at_view < b->variadic.count) memcpy(&more, b->flat.data + b->variadic.at + *at_view * 8, 8);
    ++*at_view;
    if (more < 0 || (uint64_t)more > b->buffers.count)
      return broken(a, "a batch with fewer buffers than its columns need");
    *at_buffer += (size_t)more;
    n->more = (int)more;
  }
  if (*at_buffer > b->buffers.count) return broken(a, "a batch with fewer buffers than its columns need");
  if (n->dictionary >= 0) return KAVA_OK;
  for (int i = 0; i < field->count; i++) {
    kava_status st = assign(a, b, &field->children[i], at_node, at_buffer, at_view);
    if (st != KAVA_OK) return st;
    const kava_arrow_node *child = &a->schema.nodes[field->children[i].index];
    bool fits = n->layout == KAVA_LAYOUT_STRUCT  ? child->length == n->length
                : n->layout == KAVA_LAYOUT_ARRAY ? n->width == 0 || child->length / n->width >= n->length
                                                 : true;
    if (!fits) return broken(a, "a column shorter than the one it lies in");
    if (is_weightless(child, &field->children[i]) && (uint64_t)child->length / 8 > b->body_size + (uint64_t)b->rows)
      return broken(a, "a column of more items that hold nothing than there are bytes");
  }
  return KAVA_OK;
}

static kava_status place_of(arrow *a, const batch *b, int which, uint64_t *at, uint64_t *size) {
  int64_t offset, length;
  *at = *size = 0;
  memcpy(&offset, b->flat.data + b->buffers.at + (size_t)which * 16, 8);
  memcpy(&length, b->flat.data + b->buffers.at + (size_t)which * 16 + 8, 8);
  if (offset < 0 || length < 0 || (uint64_t)offset > b->body_size || (uint64_t)length > b->body_size - (uint64_t)offset)
    return broken(a, "a buffer beyond its message");
  *at = b->body + (uint64_t)offset;
  *size = (uint64_t)length;
  return KAVA_OK;
}

static kava_status read_batch(arrow *a, batch *b, int64_t which, const kava_field *fields, int count) {
  const message *m = &a->messages[which];
  size_t header, at_node = 0, at_buffer = 0, at_view = 0;
  int type;
  b->message = -1;
  kava_status st =
      read_metadata(a, m->offset, m->size, &b->metadata, &b->flat, &header, &type, &b->body, &b->body_size);
  if (st != KAVA_OK) return st;
  if (type != (m->batch ? MESSAGE_BATCH : MESSAGE_DICTIONARY))
    return kava_fail(KAVA_IO, "%s: has changed while it was read", a->table.file->path);
  if (!m->batch) header = kava_flat_table(&b->flat, header, 1);
  b->rows = kava_flat_integer(&b->flat, header, 0, 8, 0);
  b->nodes = kava_flat_list(&b->flat, header, 1, 16);
  b->buffers = kava_flat_list(&b->flat, header, 2, 16);
  b->variadic = kava_flat_list(&b->flat, header, 4, 8);
  size_t compression = kava_flat_table(&b->flat, header, 3);
  b->codec = compression ? (int)kava_flat_integer(&b->flat, compression, 0, 1, 0) : CODEC_NONE;
  if (b->flat.broken || b->rows < 0 || b->rows > INT32_MAX) return broken(a, "a damaged batch");
  if (b->codec != CODEC_NONE && b->codec != CODEC_ZSTD)
    return kava_fail(KAVA_UNSUPPORTED, "%s: Arrow: buffers compressed with %s; zstd, or none, can be read",
                     a->table.file->path, b->codec == CODEC_LZ4 ? "lz4" : "something unknown");
  uint64_t total = 0, at_byte, size;
  for (size_t i = 0; i < b->buffers.count; i++) {
    if ((st = place_of(a, b, (int)i, &at_byte, &size)) != KAVA_OK) return st;
    total += size;
    if (total > b->body_size) return broken(a, "buffers that overlap");
  }
  for (size_t i = 0; i < b->whole_count; i++) b->held[i] = false;
  if (b->codec != CODEC_NONE && b->whole_count < b->buffers.count) {
    kava_room *whole = kava_realloc(b->whole, b->buffers.count * sizeof *whole);
    if (!whole) return KAVA_MEMORY;
    b->whole = whole;
    bool *held = kava_realloc(b->held, b->buffers.count * sizeof *held);
    if (!held) return KAVA_MEMORY;
    b->held = held;
    for (; b->whole_count < b->buffers.count; b->whole_count++) {
      whole[b->whole_count] = (kava_room){0};
      held[b->whole_count] = false;
    }
  }
  for (int i = 0; i < count; i++) {
    if ((st = assign(a, b, &fields[i], &at_node, &at_buffer, &at_view)) != KAVA_OK) return st;
    if (a->schema.nodes[fields[i].index].length != b->rows)
      return broken(a, "a column with more or fewer rows than its batch");
  }
  b->message = which;
  return KAVA_OK;
}

/* ---- buffers */

static uint8_t *take(arrow *a, rooms *r, size_t size) {
  if (r->used == r->count) {
    kava_room *grown = kava_realloc(r->list, (size_t)(r->count + 16) * sizeof *grown);
    if (!grown) return NULL;
    memset(grown + r->count, 0, 16 * sizeof *grown);
    r->list = grown;
    r->count += 16;
  }
  return kava_room_take(&r->list[r->used++], size);
}

/* A buffer's uncompressed contents, kept while the batch is the one at hand. */
static kava_status inflate_buffer(arrow *a, batch *b, int which, uint64_t at, uint64_t size) {
  int64_t length;
  if (size < 8) return broken(a, "a compressed buffer without its length");
  kava_status st = kava_file_read(a->table.file, at, &length, 8);
  if (st != KAVA_OK) return st;
  if (length < -1) return broken(a, "a compressed buffer of negative length");
  size -= 8;
  kava_room packed = {0}, *to = &b->whole[which];
  bool plain = length == -1; /* stored as it is */
  if (!kava_room_take(plain ? to : &packed, size)) return KAVA_MEMORY;
  st = kava_file_read(a->table.file, at + 8, (plain ? to : &packed)->data, size);
  if (plain)
    to->size = size;
  else if (st == KAVA_OK)
    st = kava_unpack(KAVA_CODEC_ZSTD, packed.data, size, (size_t)length, to);
  if (st == KAVA_FORMAT) kava_fail_in(st, "%s: Arrow", a->table.file->path);
  kava_free(packed.data);
  b->held[which] = st == KAVA_OK;
  return st;
}

/* `size` bytes of buffer `which` from its byte `from`. */
static kava_status load(arrow *a, rooms *r, batch *b, int which, uint64_t from, uint64_t size, const void **out) {
  uint64_t at, length;
  kava_status st = place_of(a, b, which, &at, &length);
  if (st != KAVA_OK) return st;
  if (b->codec != CODEC_NONE && length > 0) {
    if (!b->held[which] && (st = inflate_buffer(a, b, which, at, length)) != KAVA_OK) return st;
    length = b->whole[which].size;
  }
  if (from > length || size > length - from)
    return kava_fail(KAVA_FORMAT, "%s: Arrow: buffer %d of a batch has %llu bytes, %llu are needed",
                     a->table.file->path, which, (unsigned long long)length, (unsigned long long)(from + size));
  if (b->codec != CODEC_NONE && length > 0) {
    *out = b->whole[which].data + from;
    return KAVA_OK;
  }
  uint8_t *to = take(a, r, (size_t)size);
  if (!to) return KAVA_MEMORY;
  *out = to;
  return size ? kava_file_read(a->table.file, at + from, to, (size_t)size) : KAVA_OK;
}

/* Offsets first .. first + count, which must not fall. */
static kava_status load_offsets(arrow *a, rooms *r, batch *b, int which, uint32_t width, int64_t first, int64_t count,
                                const void **out, int64_t *begin, int64_t *end) {
  static const int64_t nothing[2];
  *begin = *end = 0;
  *out = nothing;
  if (count == 0) return KAVA_OK; /* an empty column may come without any */
  kava_status st = load(a, r, b, which, (uint64_t)first * width, (uint64_t)(count + 1) * width, out);
  if (st != KAVA_OK) return st;
  bool good = true;
  if (width == 4) {
    const int32_t *offsets = *out;
    for (int64_t i = 0; i < count; i++) good &= offsets[i] <= offsets[i + 1];
    *begin = offsets[0];
    *end = offsets[count];
  } else {
    const int64_t *offsets = *out;
    for (int64_t i = 0; i < count; i++) good &= offsets[i] <= offsets[i + 1];
    *begin = offsets[0];
    *end = offsets[count];
  }
  return good && *begin >= 0 ? KAVA_OK : broken(a, "offsets that fall");
}

static kava_status load_column(arrow *a, rooms *r, batch *b, const kava_field *field, int64_t first, int64_t count,
                               kava_column *c);

static kava_status load_child(arrow *a, rooms *r, batch *b, const kava_field *field, int64_t first, int64_t count,
                              kava_column *c) {
  int64_t length = a->schema.nodes[field->index].length;
  if (first < 0 || first > length || count > length - first) return broken(a, "a list beyond its items");
  return load_column(a, r, b, field, first, count, c);
}

/* The dictionary that holds in the batch at hand: the last one before it. */
static kava_status load_dictionary(arrow *a, int which) {
  int64_t at = a->batch.message;
  dictionary *d = &a->dictionaries[which];
  const kava_arrow_encoded *encoded = &a->schema.encoded[which];
  while (at >= 0 && (a->messages[at].batch || a->messages[at].row != encoded->id)) at--;
  if (at < 0) return broken(a, "a batch before its dictionary");
  if (d->loaded == at) return KAVA_OK;
  d->loaded = -1;
  d->rooms.used = 0;
  kava_status st = read_batch(a, &d->batch, at, &encoded->values, 1);
  if (st == KAVA_OK) st = load_column(a, &d->rooms, &d->batch, &encoded->values, 0, d->batch.rows, &d->column);
  if (st == KAVA_OK) d->loaded = at;
  return st;
}

/* Views of 16 bytes: i32 length, then the text itself where it is at most 12, else its beginning (4 bytes), i32 buffer,
 * i32 offset. Of each buffer the stretch is read that the rows point into. */
static kava_status load_views(arrow *a, rooms *r, batch *b, int which, int more, int64_t first, kava_column *c) {
  struct stretch {
    int64_t begin, end;
    const void *data;
  } * stretches;
  const void *raw;
  kava_status st = load(a, r, b, which, (uint64_t)first * 16, (uint64_t)c->length * 16, &raw);
  if (st != KAVA_OK) return st;
  kava_bytes *out = (kava_bytes *)(void *)take(a, r, (size_t)c->length * sizeof *out);
  stretches = (struct stretch *)(void *)take(a, r, (size_t)more * sizeof *stretches);
  if (!out || !stretches) return KAVA_MEMORY;
  for (int k = 0; k < more; k++) stretches[k] = (struct stretch){INT64_MAX, 0, NULL};
  for (int pass = 0; pass < 2; pass++) {
    for (int64_t i = 0; i < c->length; i++) {
      const char *view = (const char *)raw + i * 16;
      int32_t field[4]; /* length, beginning, buffer, offset */
      int64_t bit = c->valid_bit + i;
      memcpy(field, view, 16);
      if (c->valid && !(c->valid[bit >> 3] >> (bit & 7) & 1)) {
        out[i] = (kava_bytes){NULL, 0}; /* of a null the rest means nothing */
      } else if (field[0] >= 0 && field[0] <= 12) {
        out[i] = (kava_bytes){view + 4, (uint64_t)field[0]};
      } else {
        if (field[0] < 0 || field[2] < 0 || field[2] >= more || field[3] < 0) return broken(a, "a view of nothing");
        struct stretch *s = &stretches[field[2]];
        if (pass == 0) {
          if (field[3] < s->begin) s->begin = field[3];
          if ((int64_t)field[3] + field[0] > s->end) s->end = (int64_t)field[3] + field[0];
        } else {
          out[i] = (kava_bytes){(const char *)s->data + (field[3] - s->begin), (uint64_t)field[0]};
        }
      }
    }
    for (int k = 0; k < more && pass == 0; k++) {
      struct stretch *s = &stretches[k];
      if (s->end == 0) continue;
      st = load(a, r, b, which + 1 + k, (uint64_t)s->begin, (uint64_t)(s->end - s->begin), &s->data);
      if (st != KAVA_OK) return st;
    }
  }
  c->values = out;
  return KAVA_OK;
}

static kava_status load_column(arrow *a, rooms *r, batch *b, const kava_field *field, int64_t first, int64_t count,
                               kava_column *c) {
  const kava_arrow_node n = a->schema.nodes[field->index];
  kava_column *children = c->children;
  kava_status st = KAVA_OK;
  int which = n.first_buffer;
  int64_t begin, end;
  *c = (kava_column){.field = field,
                     .layout = n.layout,
                     .width = n.width,
                     .natural = n.natural,
                     .length = count,
                     .children = children};
  if (n.validity) {
    if (n.nulls > 0) {
      st = load(a, r, b, which, (uint64_t)first / 8, (uint64_t)((first + count + 7) / 8 - first / 8),
                (const void **)&c->valid);
      if (st != KAVA_OK) return st;
      c->valid_bit = first % 8;
    }
    which++;
  }
  switch (n.layout) {
  case KAVA_LAYOUT_NULL: break;
  case KAVA_LAYOUT_VIEWS: st = load_views(a, r, b, which, n.more, first, c); break;
  case KAVA_LAYOUT_BITS:
    c->bit = first % 8;
    st = load(a, r, b, which, (uint64_t)first / 8, (uint64_t)((first + count + 7) / 8 - first / 8), &c->values);
    break;
  case KAVA_LAYOUT_INDICES:
  case KAVA_LAYOUT_FIXED:
    st = load(a, r, b, which, (uint64_t)first * n.width, (uint64_t)count * n.width, &c->values);
    break;
  case KAVA_LAYOUT_TEXT:
    st = load_offsets(a, r, b, which, n.width, first, count, &c->offsets, &begin, &end);
    c->base = begin;
    if (st == KAVA_OK) st = load(a, r, b, which + 1, (uint64_t)begin, (uint64_t)(end - begin), &c->values);
    break;
  case KAVA_LAYOUT_LIST:
    st = load_offsets(a, r, b, which, n.width, first, count, &c->offsets, &begin, &end);
    c->base = begin;
    if (st == KAVA_OK) st = load_child(a, r, b, &field->children[0], begin, end - begin, &children[0]);
    break;
  case KAVA_LAYOUT_ARRAY:
    st = load_child(a, r, b, &field->children[0], first * n.width, count * n.width, &children[0]);
    break;
  case KAVA_LAYOUT_STRUCT:
    for (int i = 0; i < field->count && st == KAVA_OK; i++)
      st = load_child(a, r, b, &field->children[i], first, count, &children[i]);
    break;
  }
  if (st == KAVA_OK && n.dictionary >= 0) {
    st = load_dictionary(a, n.dictionary);
    if (st == KAVA_OK) children[0] = a->dictionaries[n.dictionary].column;
  }
  return st;
}

/* ---- the table */

static kava_status make_columns(arrow *a, const kava_field *field, kava_column *c) {
  bool encoded = field->index >= 0 && a->schema.nodes[field->index].dictionary >= 0;
  int count = encoded ? 1 : field->count;
  if (!(c->children = kava_arena_alloc(&a->arena, (size_t)count * sizeof *c->children + 1))) return KAVA_MEMORY;
  for (int i = 0; i < count && !encoded; i++) {
    kava_status st = make_columns(a, &field->children[i], &c->children[i]);
    if (st != KAVA_OK) return st;
  }
  return KAVA_OK;
}

/* Rows of the batch at hand that make a slice of about SLICE_BYTES. */
static int64_t slice_rows(arrow *a, const kava_field *field, int64_t *bytes) {
  const kava_arrow_node *n = &a->schema.nodes[field->index];
  for (int i = 0; i < n->buffers + n->more; i++) {
    uint64_t at, size;
    if (place_of(a, &a->batch, n->first_buffer + i, &at, &size) == KAVA_OK) *bytes += (int64_t)size;
  }
  for (int i = 0; i < field->count && n->dictionary < 0; i++) slice_rows(a, &field->children[i], bytes);
  return *bytes <= SLICE_BYTES ? a->batch.rows : 1 + a->batch.rows / (*bytes / SLICE_BYTES + 1);
}

static kava_status arrow_next(kava_table *table, const kava_column **columns, int64_t *count) {
  arrow *a = (arrow *)table;
  kava_status st;
  *count = 0;
  if (a->row >= table->rows) return KAVA_OK;
  int64_t low = 0, high = a->message_count; /* the last message that begins at the row, or before it */
  if (a->batch.message >= 0 && a->row > a->messages[a->batch.message].row) low = a->batch.message;
  int64_t at = -1;
  for (int64_t i = low; i < high; i++) {
    if (!a->messages[i].batch) continue;
    if (a->messages[i].row > a->row) break;
    at = i;
  }
  if (a->batch.message != at &&
      (st = read_batch(a, &a->batch, at, table->record.children, table->record.count)) != KAVA_OK)
    return st;
  int64_t first = a->row - a->messages[at].row, rows = a->batch.rows, bytes = 0;
  for (int i = 0; i < table->record.count; i++)
    if (table->record.children[i].wanted) rows = slice_rows(a, &table->record.children[i], &bytes);
  if (rows > a->batch.rows - first) rows = a->batch.rows - first;
  if (rows <= 0) return kava_fail(KAVA_IO, "%s: has changed while it was read", table->file->path);
  a->rooms.used = 0;
  for (int i = 0; i < table->record.count; i++) {
    const kava_field *field = &table->record.children[i];
    if (!field->wanted) continue;
    if ((st = load_column(a, &a->rooms, &a->batch, field, first, rows, &a->root.children[i])) != KAVA_OK) return st;
  }
  a->root.length = rows;
  a->row += rows;
  *columns = &a->root;
  *count = rows;
  return KAVA_OK;
}

static kava_status arrow_seek(kava_table *table, int64_t row) {
  ((arrow *)table)->row = row;
  return KAVA_OK;
}

static void free_rooms(rooms *r) {
  for (int i = 0; i < r->count; i++) kava_free(r->list[i].data);
  kava_free(r->list);
}

static void free_batch(batch *b) {
  kava_free(b->metadata.data);
  for (size_t i = 0; i < b->whole_count; i++) kava_free(b->whole[i].data);
  kava_free(b->whole);
  kava_free(b->held);
}

static void arrow_close(kava_table *table) {
  arrow *a = (arrow *)table;
  free_rooms(&a->rooms);
  free_batch(&a->batch);
  for (int i = 0; a->dictionaries && i < a->schema.encoded_count; i++) {
    free_rooms(&a->dictionaries[i].rooms);
    free_batch(&a->dictionaries[i].batch);
  }
  kava_free(a->dictionaries);
  kava_arrow_schema_free(&a->schema);
  kava_free(a->messages);
  kava_arena_free(&a->arena);
  kava_free(a);
}

kava_status kava_arrow_open(const kava_file *file, kava_table **out) {
  static const kava_table_class class = {arrow_seek, arrow_next, arrow_close};
  arrow *a = kava_calloc(1, sizeof *a);
  if (!a) return KAVA_MEMORY;
  a->table.class = &class;
  a->table.file = file;
  a->schema = (kava_arrow_schema){.path = file->path, .arena = &a->arena, .record = {.index = -1}};
  a->table.record = a->schema.record;
  a->batch.message = -1;
  kava_status st = read_index(a);
  if (st == KAVA_OK) {
    a->dictionaries = kava_calloc((size_t)a->schema.encoded_count + 1, sizeof *a->dictionaries);
    if (!a->dictionaries) st = KAVA_MEMORY;
  }
  if (st == KAVA_OK) st = make_columns(a, &a->table.record, &a->root);
  for (int i = 0; i < a->schema.encoded_count && st == KAVA_OK; i++)
    st = make_columns(a, &a->schema.encoded[i].values, &a->dictionaries[i].column);
  for (int i = 0; i < a->schema.encoded_count && st == KAVA_OK; i++) a->dictionaries[i].loaded = -1;
  if (st != KAVA_OK) {
    arrow_close(&a->table);
    return st;
  }
  a->root.field = &a->table.record;
  a->root.layout = KAVA_LAYOUT_STRUCT;
  *out = &a->table;
  return KAVA_OK;
}

/* formats/table: rows held in columns, as Arrow and Parquet files hold them, read a slice at a time.
 *
 * A reader fills a tree of kava_columns, one per field that is wanted; their memory is the reader's and lasts until its
 * next call. Offsets have been checked against the bytes they point into before a column is handed out: whoever reads
 * cells may trust them. Rows count from 0. */
#ifndef KAVA_FORMATS_TABLE_H
#define KAVA_FORMATS_TABLE_H
#include "base/file.h"
#include "base/memory.h"

#define KAVA_TABLE_DEPTH 32 /* fields inside one another, at most */

typedef enum kava_field_kind {
  KAVA_FIELD_NULL,
  KAVA_FIELD_BOOLEAN,
  KAVA_FIELD_INTEGER,
  KAVA_FIELD_NATURAL, /* unsigned */
  KAVA_FIELD_REAL,
  KAVA_FIELD_TEXT, /* bytes: strings, and binary whose UTF-8 nobody has checked */
  KAVA_FIELD_DATE,
  KAVA_FIELD_TIME,   /* of a day */
  KAVA_FIELD_MOMENT, /* a date and a time */
  KAVA_FIELD_LIST,
  KAVA_FIELD_STRUCT,
  KAVA_FIELD_OTHER /* a type that no text is made of: known by name only */
} kava_field_kind;

typedef struct kava_field {
  const char *name;
  const char *type; /* "int64", "timestamp[us]"; of a list or struct, see kava_field_describe */
  kava_field_kind kind;
  int index; /* among all fields, parents before children */
  int count;
  struct kava_field *children;
  int64_t per_second; /* dates, times and moments: their unit; 0: days */
  bool utc;           /* moments: they say that they are */
  bool wanted;
} kava_field;
/* "question string, choices list<string>" of a struct's children; cut with "…" where it does not fit. */
void kava_field_describe(const kava_field *record, char *to, size_t room);
const kava_field *kava_field_find(const kava_field *record, const char *name, size_t length); /* NULL: none */
/* KAVA_UNSUPPORTED, naming the field, where a field of a type that no text is made of lies in this one. */
kava_status kava_field_check(const kava_field *field);

typedef enum kava_layout {
  KAVA_LAYOUT_NULL,
  KAVA_LAYOUT_BITS,
  KAVA_LAYOUT_FIXED,   /* `width` bytes a value; text: all of them */
  KAVA_LAYOUT_TEXT,    /* offsets of `width` bytes into `values` */
  KAVA_LAYOUT_VIEWS,   /* kava_bytes a value */
  KAVA_LAYOUT_LIST,    /* offsets of `width` bytes into children[0] */
  KAVA_LAYOUT_ARRAY,   /* `width` items each in children[0] */
  KAVA_LAYOUT_STRUCT,  /* children side by side */
  KAVA_LAYOUT_INDICES, /* integers of `width` bytes into children[0], a dictionary */
} kava_layout;

typedef struct kava_bytes {
  const char *text;
  uint64_t length;
} kava_bytes;

typedef struct kava_column {
  const kava_field *field;
  kava_layout layout;
  uint32_t width;
  bool natural;         /* KAVA_LAYOUT_INDICES: they are unsigned */
  int64_t length;       /* rows */
  const uint8_t *valid; /* a bit a row, from bit valid_bit; NULL: none is null */
  int64_t valid_bit;
  const uint8_t *levels; /* the other way to be null: levels[row] < level */
  uint8_t level;
  const void *values;
  int64_t bit;         /* KAVA_LAYOUT_BITS: where the first lies */
  const void *offsets; /* length + 1 */
  int64_t base;        /* what offsets count from */
  struct kava_column *children;
} kava_column;

typedef struct kava_cell {
  kava_field_kind kind;     /* KAVA_FIELD_NULL: null */
  bool boolean, single;     /* single: a real number of 32 bits or fewer */
  const kava_field *moment; /* a date, time or moment: its unit */
  union {
    int64_t integer; /* since 1970, or of the day */
    uint64_t natural;
    double real;
    kava_bytes text;
    struct {
      const kava_column *items; /* list: its items; struct: itself */
      int64_t first, count;     /* struct: first is the row */
    };
  };
} kava_cell;
/* KAVA_FORMAT: an index beyond its dictionary */
kava_status kava_column_get(const kava_column *column, int64_t row, kava_cell *out);

/* "2024-05-01", "12:34:56.789", "2024-05-01T12:34:56.789Z": digits of a second as the unit has them, none where they
 * are 0.
 */
void kava_moment_text(const kava_cell *cell, char to[64]);

/* A file of columns. */
typedef struct kava_table kava_table;
typedef struct kava_table_class {
  kava_status (*seek)(kava_table *table, int64_t row); /* the row is there */
  /* The next rows of the fields marked wanted, some at a time: *count is 0 at the end. */
  kava_status (*next)(kava_table *table, const kava_column **columns, int64_t *count);
  void (*close)(kava_table *table);
} kava_table_class;
struct kava_table {
  const kava_table_class *class;
  const kava_file *file; /* not owned */
  kava_field record;     /* the columns are its children; the caller marks the wanted ones */
  int64_t rows;
};
/* They keep `file` open for as long as the table lives; messages name it. */
kava_status kava_arrow_open(const kava_file *file, kava_table **out);
kava_status kava_parquet_open(const kava_file *file, kava_table **out);
static inline void kava_table_close(kava_table **table) {
  if (*table) (*table)->class->close(*table);
  *table = NULL;
}

/* Memory that is used again by each slice; the contents do not survive growth. There are KAVA_ROOM_SLACK bytes behind
 * its size that may be written, for copies by the word. */
#define KAVA_ROOM_SLACK 64
typedef struct kava_room {
  uint8_t *data;
  size_t size;
} kava_room;
static inline uint8_t *kava_room_take(kava_room *room, size_t size) { /* NULL with the message set */
  if (room->size < size || !room->data) {
    kava_free(room->data);
    room->size = 0;
    room->data = kava_alloc(size + KAVA_ROOM_SLACK);
    if (!room->data) return NULL;
    room->size = size;
  }
  return room->data;
}
#endif

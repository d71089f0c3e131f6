/* formats/parquet_page: the values of one column of a Parquet row group, a few rows at a time.
 *
 * A column chunk is pages: at most one dictionary, then data pages of version 1 or 2. A page holds repetition levels (0
 * begins a row), definition levels (how much of the path down to the value is there) and the values that are. Levels
 * and indices are runs ("hybrid": repeated, or packed bits). They are decoded as rows are asked for: memory is a page
 * and a few thousand values, whatever a page says it holds. */
#ifndef KAVA_FORMATS_PARQUET_PAGE_H
#define KAVA_FORMATS_PARQUET_PAGE_H
#include "formats/codec.h"
#include "formats/parquet_runs.h"

enum { /* physical types */
       KAVA_PARQUET_BOOLEAN,
       KAVA_PARQUET_INT32,
       KAVA_PARQUET_INT64,
       KAVA_PARQUET_INT96,
       KAVA_PARQUET_FLOAT,
       KAVA_PARQUET_DOUBLE,
       KAVA_PARQUET_BYTES,
       KAVA_PARQUET_FIXED
};

typedef struct kava_leaf {
  const kava_file *file;
  const char *name; /* for messages */
  int type, type_length;
  uint32_t width;                     /* of a value in `values`; 0: kava_bytes */
  uint8_t max_def, max_rep, item_def; /* item_def: the definition level from which a list has an item */
  /* the chunk */
  uint64_t at, end; /* the next page; where the chunk ends */
  kava_codec codec;
  int64_t entries; /* not yet in pages */
  kava_room dictionary_page, dictionary;
  uint32_t dictionary_count;
  bool has_dictionary;
  /* pages: [0, page_count) are those that the values given last lie in; the last is the one at hand */
  kava_room *pages, packed, window;
  int page_count, page_room;
  int64_t left; /* entries of the page at hand that are not yet given */
  kava_hybrid reps, defs, indices;
  int encoding;
  const uint8_t *p, *page_end; /* plain values */
  uint64_t bit;
  kava_delta lengths, prefixes; /* delta encodings: integers or lengths */
  uint64_t split_count, split_at;
  kava_room last; /* delta byte arrays: the value before */
  size_t last_length;
  kava_arena joined; /* and those given last */
  size_t joined_size;
  /* levels decoded ahead, of a list */
  uint8_t *ahead_reps, *ahead_defs;
  int ahead, ahead_at;
  /* what kava_leaf_rows gives: `items` values with their levels; of a list, each row's offset and first level */
  uint8_t *values;
  uint8_t *levels, *row_levels;
  int64_t *offsets;
  int64_t items;
  size_t value_room, level_room, row_room;
} kava_leaf;

/* Begins a column chunk: bytes [at, end) of the file. */
void kava_leaf_begin(kava_leaf *leaf, uint64_t at, uint64_t end, kava_codec codec, int64_t entries);
/* The next `rows` rows; KAVA_FORMAT where there are fewer. */
kava_status kava_leaf_rows(kava_leaf *leaf, int64_t rows);
kava_status kava_leaf_skip(kava_leaf *leaf,
                           int64_t rows); /* whole pages without reading them, where rows are entries */
void kava_leaf_free(kava_leaf *leaf);
#endif

/* formats/arrow_schema: the schema of an Arrow stream: its fields, and how the batches lay each of them out. */
#ifndef KAVA_FORMATS_ARROW_SCHEMA_H
#define KAVA_FORMATS_ARROW_SCHEMA_H
#include "formats/flatbuffer.h"
#include "formats/table.h"

/* What the schema says of a field, by kava_field.index. */
typedef struct kava_arrow_node {
  kava_layout layout;
  uint32_t width;
  int buffers;            /* of its own */
  bool validity;          /* the first of them is its bits */
  bool views;             /* and there are as many more as the batch says */
  bool natural;           /* indices without a sign */
  int dictionary;         /* -1, or which one its values are in; the node itself holds indices */
  int64_t length, nulls;  /* in the batch at hand */
  int first_buffer, more; /* more: of views, how many buffers there are beside the two */
} kava_arrow_node;

/* A field whose values come as messages of their own, while the batches hold indices into them. */
typedef struct kava_arrow_encoded {
  int64_t id;
  kava_field values;
} kava_arrow_encoded;

typedef struct kava_arrow_schema {
  const char *path;  /* for messages */
  kava_arena *arena; /* names and fields */
  kava_field record;
  size_t field_count; /* promised by the lists of children read so far */
  kava_arrow_node *nodes;
  int node_count;
  kava_arrow_encoded *encoded;
  int encoded_count;
} kava_arrow_schema;
/* `header` is the schema's table in f; path and arena are set. Whatever comes of it, the schema is to be freed. */
kava_status kava_arrow_schema_read(kava_arrow_schema *schema, kava_flat *f, size_t header);
void kava_arrow_schema_free(kava_arrow_schema *schema); /* its arena is the caller's */
#endif

/* formats/gguf: llama.cpp's model files, versions 2 and 3, little-endian: typed metadata, then tensors in blocks.
 * The file is mapped; metadata values point into it, so that opening costs one pass over the metadata and no copies. */
#ifndef KAVA_FORMATS_GGUF_H
#define KAVA_FORMATS_GGUF_H
#include "tensor/tensor.h"

typedef enum kava_gguf_type { /* as files number them */
                              KAVA_GGUF_U8,
                              KAVA_GGUF_I8,
                              KAVA_GGUF_U16,
                              KAVA_GGUF_I16,
                              KAVA_GGUF_U32,
                              KAVA_GGUF_I32,
                              KAVA_GGUF_F32,
                              KAVA_GGUF_BOOL,
                              KAVA_GGUF_STRING,
                              KAVA_GGUF_ARRAY,
                              KAVA_GGUF_U64,
                              KAVA_GGUF_I64,
                              KAVA_GGUF_F64,
                              KAVA_GGUF_TYPES
} kava_gguf_type;
const char *kava_gguf_type_name(kava_gguf_type type); /* "u8", ..., "string", "array" */
bool kava_gguf_type_parse(const char *name, kava_gguf_type *out);

typedef struct kava_gguf_value {
  const char *key; /* NUL-terminated */
  size_t key_length;
  bool array;
  kava_gguf_type type; /* of the value, or of the array's elements; never KAVA_GGUF_ARRAY */
  uint64_t count;      /* elements; 1 where it is no array */
  const uint8_t *data; /* as the file has it: numbers unaligned, strings with a u64 length before each */
  size_t bytes;
} kava_gguf_value;

typedef struct kava_gguf_tensor {
  const char *name; /* NUL-terminated, at most 63 bytes */
  int type;         /* as files number them */
  const char *type_name;
  bool supported; /* there is such a kava_dtype */
  kava_dtype dtype;
  int dims;
  int64_t shape[4]; /* outermost first: a matrix is [out, in] */
  const uint8_t *data;
  size_t bytes;
} kava_gguf_tensor;

typedef struct kava_gguf {
  kava_map *map;
  uint32_t version, alignment;
  int64_t value_count, tensor_count;
  kava_gguf_value *values;
  kava_gguf_tensor *tensors;
  uint32_t *value_index, *tensor_index;
  kava_arena arena;
} kava_gguf;

/* KAVA_IO; KAVA_FORMAT where anything is not as it must be; KAVA_UNSUPPORTED for version 1 and big-endian files. */
kava_status kava_gguf_open(const char *path, kava_gguf **out);
void kava_gguf_release(kava_gguf **at);
const kava_gguf_value *kava_gguf_find(const kava_gguf *g, const char *key);          /* NULL: absent */
const kava_gguf_tensor *kava_gguf_find_tensor(const kava_gguf *g, const char *name); /* NULL: absent */
/* The tensor as the file has it, mapped. KAVA_UNSUPPORTED for a type KAVA lacks. */
kava_status kava_gguf_tensor_load(const kava_gguf *g, const kava_gguf_tensor *info, kava_tensor **out);

/* Element i (0 for a plain value). False where `v` is NULL, has no element i, or is not of that kind: integers and
 * booleans that fit int64; integers and floats; strings. */
bool kava_gguf_integer(const kava_gguf_value *v, uint64_t i, int64_t *out);
bool kava_gguf_number(const kava_gguf_value *v, uint64_t i, double *out);
bool kava_gguf_string(const kava_gguf_value *v, const char **data, size_t *length); /* the first; not NUL-terminated */
/* Walks over strings: *cursor is 0 at first; false at the end. */
bool kava_gguf_next_string(const kava_gguf_value *v, size_t *cursor, const char **data, size_t *length);

typedef struct kava_gguf_item {
  const char *name;
  const kava_tensor *tensor; /* 1 to 4 dimensions; f32 f16 bf16 f64 i8 i16 i32 i64 or quantised */
} kava_gguf_item;
/* Writes version 3, whole or not at all, values and tensors in the given order; general.alignment among the values
 * holds. KAVA_MISUSE for names that come twice or are too long, and for dtypes GGUF lacks. */
kava_status kava_gguf_save(const char *path, int64_t value_count, const kava_gguf_value *values, int64_t tensor_count,
                           const kava_gguf_item *items);
#endif

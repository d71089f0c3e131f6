/* formats/safetensors: Hugging Face's tensor files: 8 bytes of header length, a JSON header, data without a hole.
 * Reading maps the file: a tensor's bytes are read when they are touched. */
#ifndef KAVA_FORMATS_SAFETENSORS_H
#define KAVA_FORMATS_SAFETENSORS_H
#include "tensor/tensor.h"

typedef struct kava_text {
  const char *data; /* NUL-terminated; may hold NULs of its own */
  size_t length;
} kava_text;

typedef struct kava_safetensors_entry {
  kava_text name;
  const char *dtype;   /* as the file spells it: "BF16" */
  kava_tensor *tensor; /* NULL where KAVA has no such tensor */
  const char *why;     /* then: what it is that KAVA has not */
} kava_safetensors_entry;

typedef struct kava_safetensors {
  int64_t count, metadata_count;
  kava_safetensors_entry *entries; /* in the order of their data, shard after shard */
  kava_text (*metadata)[2];        /* keys and values, of the first shard */
  kava_arena arena;                /* owns all of this but the tensors */
} kava_safetensors;

/* `path`: a .safetensors file, or an index of shards (a name that ends in .json), whose shards lie beside it.
 * KAVA_IO; KAVA_FORMAT where anything in the header is not as it must be, naming file and tensor. */
kava_status kava_safetensors_load(const char *path, kava_safetensors **out);
void kava_safetensors_release(kava_safetensors **at);

typedef struct kava_safetensors_item {
  kava_text name;
  const kava_tensor *tensor; /* a plain dtype, any strides */
} kava_safetensors_item;
/* Replaces `path` at once or not at all. Items are sorted here (dtypes by size, then names). Metadata gets
 * format = "pt" unless it has a format. KAVA_MISUSE on quantised tensors and names that come twice. */
kava_status kava_safetensors_save(const char *path, int64_t count, kava_safetensors_item *items, int64_t metadata_count,
                                  const kava_text (*metadata)[2]);
/* What such a file begins with, up to its data: length, JSON, padding. Sorts the items; their data follows in that
 * order. The caller frees *header. */
kava_status kava_safetensors_header(int64_t count, kava_safetensors_item *items, int64_t metadata_count,
                                    const kava_text (*metadata)[2], char **header, size_t *size);
#endif

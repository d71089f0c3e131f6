#include "formats/checkpoint.h"
#include "base/crc32c.h"
#include "formats/writer.h"
#include <string.h>

/* What every checkpoint begins with, behind the eight bytes of length: the header's checksum follows. */
static const char prefix[] = "{\"__metadata__\":{\"kava.crc32c\":\"";
#define SUM_AT (8 + sizeof prefix - 1)

static void put_hex(char *to, uint32_t value) {
  for (int i = 0; i < 8; i++) to[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15];
}
static bool same_hex(const char *from, uint32_t value) {
  char expected[8];
  put_hex(expected, value);
  return memcmp(from, expected, 8) == 0;
}
static uint32_t header_sum(const char *header, size_t size) {
  uint32_t crc = kava_crc32c(0, header, SUM_AT);
  crc = kava_crc32c(crc, "00000000", 8);
  return kava_crc32c(crc, header + SUM_AT + 8, size - SUM_AT - 8);
}

/* The header holds the checksums of the data behind it, so it is written twice: with zeros first, then over them. */
kava_status kava_checkpoint_save(const char *path, int64_t count, kava_safetensors_item *items, kava_text state,
                                 void *beside) {
  kava_status st = KAVA_OK;
  kava_writer w = {.file = -1, .folder = -1};
  char *header = NULL, *sums = NULL;
  size_t size;
  if (!(sums = kava_alloc(8 * (size_t)count + 9))) return KAVA_MEMORY;
  memset(sums, '0', 8 * (size_t)count + 8);
  sums[8 * (size_t)count + 8] = 0;
  const kava_text metadata[3][2] = {
      {{"kava.crc32c", 11}, {sums, 8 * (size_t)count + 8}}, {{"format", 6}, {"pt", 2}}, {{"kava.state", 10}, state}};
  KAVA_TRY(kava_safetensors_header(count, items, 3, metadata, &header, &size));
  kava_writer_sweep(path);
  KAVA_TRY(kava_writer_open(&w, path));
  w.beside = beside;
  KAVA_TRY(kava_writer_put(&w, header, size));
  for (int64_t i = 0; i < count; i++) {
    w.crc = 0;
    KAVA_TRY(kava_writer_tensor(&w, items[i].tensor));
    put_hex(sums + 8 * (i + 1), w.crc);
  }
  memcpy(header + SUM_AT, sums, 8 * (size_t)count + 8);
  put_hex(header + SUM_AT, header_sum(header, size));
  KAVA_TRY(kava_writer_patch(&w, 0, header, size));
  st = kava_writer_commit(&w);
out:
  kava_writer_abort(&w);
  kava_free(header);
  kava_free(sums);
  return st;
}

static kava_status check_header(const char *path) {
  kava_map *map = NULL;
  kava_status st = kava_map_open(path, &map);
  if (st != KAVA_OK) return st;
  const char *header = (const char *)map->data;
  uint64_t length = 0;
  for (int i = 7; i >= 0 && map->size >= 8; i--) length = length << 8 | map->data[i];
  if (map->size < SUM_AT + 8 || memcmp(header + 8, prefix, sizeof prefix - 1) != 0)
    st = kava_fail(KAVA_FORMAT, "%s: not a checkpoint, or its beginning is damaged", path);
  else if (length > map->size - 8 || length < SUM_AT ||
           !same_hex(header + SUM_AT, header_sum(header, 8 + (size_t)length)))
    st = kava_fail(KAVA_FORMAT, "%s: the checkpoint's header is damaged", path);
  kava_map_release(&map);
  return st;
}

static const kava_text *metadata_of(const kava_safetensors *s, const char *key) {
  for (int64_t i = 0; i < s->metadata_count; i++)
    if (strcmp(s->metadata[i][0].data, key) == 0) return &s->metadata[i][1];
  return NULL;
}

kava_status kava_checkpoint_load(const char *path, kava_safetensors **out, kava_text *state) {
  kava_safetensors *s = NULL;
  kava_status st = KAVA_OK;
  KAVA_TRY(check_header(path));
  KAVA_TRY(kava_safetensors_load(path, &s));
  const kava_text *sums = metadata_of(s, "kava.crc32c"), *text = metadata_of(s, "kava.state");
  if (!sums || !text || sums->length != 8 * (size_t)s->count + 8)
    KAVA_FAIL(KAVA_FORMAT, "%s: not a checkpoint: it lacks its checksums or its state", path);
  for (int64_t i = 0; i < s->count; i++) {
    const kava_safetensors_entry *e = &s->entries[i];
    size_t bytes;
    if (!e->tensor)
      KAVA_FAIL(KAVA_FORMAT, "%s: tensor '%s' has a %s that no checkpoint has", path, e->name.data, e->why);
    KAVA_TRY(kava_tensor_bytes_of(e->tensor, &bytes));
    if (!same_hex(sums->data + 8 * (i + 1), kava_crc32c(0, kava_tensor_data(e->tensor), bytes)))
      KAVA_FAIL(KAVA_FORMAT, "%s: tensor '%s' is damaged: its checksum differs", path, e->name.data);
  }
  *state = *text;
  *out = s;
  s = NULL;
out:
  kava_safetensors_release(&s);
  return st;
}

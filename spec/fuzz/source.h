/* spec/fuzz/source.h: the bytes under test as a data file: every row can be made JSON, or says why not; a row that is
 * gone to is the one that was passed on the way. */
#ifndef KAVA_SPEC_FUZZ_SOURCE_H
#define KAVA_SPEC_FUZZ_SOURCE_H
#include "spec/fuzz/file.h"
#include "text/source.h"

#define FUZZ_ROWS 3000 /* a small file may well say that it has 2^60 */

static uint64_t fuzz_hash(const kava_buffer *text) {
  uint64_t h = 1469598103934665603u;
  for (size_t i = 0; i < text->size; i++) h = (h ^ text->data[i]) * 1099511628211u;
  return h;
}

/* The rows from `from` on, at most `most`: their hashes, 1 of those that are broken. Returns how many; -1: an error. */
static int fuzz_rows(kava_source *source, int64_t from, int most, uint64_t *hashes) {
  kava_row_tools tools = {0};
  kava_buffer text = {0};
  int rows = 0;
  int64_t count;
  if (from >= 0 && kava_source_seek(source, from) != KAVA_OK) rows = -1;
  while (rows >= 0 && rows < most) {
    if (kava_source_next(source, &count) != KAVA_OK) rows = -1;
    if (rows < 0 || count == 0) break;
    for (int64_t i = 0; i < count && rows < most; i++) {
      text.size = 0;
      kava_row_result result = kava_source_text(source, i, &tools, &text);
      if (result == KAVA_ROW_MISSING || (result != KAVA_ROW_GOOD && text.size != 0)) abort();
      hashes[rows++] = result == KAVA_ROW_GOOD ? fuzz_hash(&text) : 1;
      char *place = kava_source_place(source, i);
      kava_free(place);
    }
  }
  kava_row_tools_free(&tools);
  kava_buffer_free(&text);
  return rows;
}

static inline void fuzz_source(const uint8_t *data, size_t size) {
  static uint64_t hashes[FUZZ_ROWS], again[8];
  const char *path = fuzz_file(data, size);
  kava_source *source = NULL;
  if (kava_source_open(path, NULL, &source) == KAVA_OK) {
    int rows = fuzz_rows(source, -1, FUZZ_ROWS, hashes);
    for (int i = 0; i < 3 && rows > 0; i++) {
      int from = rows * i / 3 + (i == 2 ? (rows - 1) / 3 : 0), most = rows - from < 8 ? rows - from : 8;
      if (fuzz_rows(source, from, most, again) != most || memcmp(again, hashes + from, (size_t)most * 8) != 0) abort();
    }
    kava_source_close(&source);
  }
  /* the same with a template, which wants only some of the columns */
  if (kava_source_open(path, "{question}{answer.1}{inner.b}", &source) == KAVA_OK) {
    int64_t count;
    kava_row_tools tools = {0};
    kava_buffer text = {0};
    if (kava_source_next(source, &count) == KAVA_OK)
      for (int64_t i = 0; i < count && i < FUZZ_ROWS; i++) kava_source_text(source, i, &tools, &text);
    kava_row_tools_free(&tools);
    kava_buffer_free(&text);
    kava_source_close(&source);
  }
}
#endif

#include "tensor/peak.h"
#include <stdlib.h>
#include <string.h>

typedef struct block {
  size_t size;
  const char *name;
  uint64_t gone; /* the last block given out before this one was freed; 0: it is there */
} block;

/* Not counted by base/memory: the figures of what is watched stay what they are. */
static struct {
  block *at;
  size_t count, room, unnamed; /* unnamed: the first without a name */
  uint64_t first, fullest;     /* numbers of blocks */
  size_t before, before_then;  /* bytes from before: now, and when it was fullest */
  size_t most;
  bool failed;
  kava_peak_row *rows;
} peak;

bool kava_peak_watched;

kava_status kava_peak_begin(void) {
  if (kava_peak_watched) return kava_fail(KAVA_MISUSE, "memory_peak: one is being taken already");
  peak.count = peak.unnamed = peak.before = peak.before_then = peak.most = 0;
  peak.first = peak.fullest = 0;
  peak.failed = false;
  kava_peak_watched = true;
  return KAVA_OK;
}

void kava_peak_given(uint64_t number, size_t size, size_t used) {
  if (peak.failed) return;
  if (!peak.first) {
    peak.first = number;
    peak.before = used;
  }
  if (peak.count == peak.room) {
    size_t room = peak.room ? 2 * peak.room : 4096;
    block *grown = realloc(peak.at, room * sizeof *grown);
    peak.failed = !grown;
    if (!grown) return;
    peak.at = grown;
    peak.room = room;
  }
  peak.at[peak.count++] = (block){.size = size};
  if (used + size <= peak.most) return;
  peak.most = used + size;
  peak.fullest = number;
  peak.before_then = peak.before;
}

void kava_peak_freed(uint64_t number, size_t size, uint64_t last_number) {
  if (!peak.first || peak.failed) return;
  if (number < peak.first)
    peak.before -= size;
  else
    peak.at[number - peak.first].gone = last_number;
}

void kava_peak_named(const char *name) {
  for (; peak.unnamed < peak.count; peak.unnamed++) peak.at[peak.unnamed].name = name;
}

static int by_bytes(const void *a, const void *b) {
  const kava_peak_row *x = a, *y = b;
  size_t p = x->size * (size_t)x->count, q = y->size * (size_t)y->count;
  if (p != q) return p < q ? 1 : -1;
  return strcmp(x->name ? x->name : "", y->name ? y->name : "");
}

kava_status kava_peak_end(const kava_peak_row **rows, size_t *count) {
  size_t used = 0;
  if (!kava_peak_watched) return kava_fail(KAVA_MISUSE, "memory_peak: none is being taken");
  kava_peak_watched = false;
  kava_peak_row *list = realloc(peak.rows, (peak.count + 1) * sizeof *list);
  if (peak.failed || !list) return kava_fail(KAVA_MEMORY, "memory_peak: out of memory");
  peak.rows = list;
  kava_peak_named("(nothing)");
  if (peak.before_then) list[used++] = (kava_peak_row){NULL, peak.before_then, 1};
  for (size_t i = 0; i < peak.count; i++) {
    const block *b = &peak.at[i];
    size_t row = 0;
    if (peak.first + i > peak.fullest || (b->gone && b->gone < peak.fullest)) continue;
    while (row < used && (list[row].size != b->size || !list[row].name || strcmp(list[row].name, b->name) != 0)) row++;
    if (row == used) list[used++] = (kava_peak_row){b->name, b->size, 0};
    list[row].count++;
  }
  qsort(list, used, sizeof *list, by_bytes);
  *rows = list;
  *count = used;
  return KAVA_OK;
}

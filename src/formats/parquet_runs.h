/* formats/parquet_runs: integers as Parquet packs them. Hybrid: runs of one repeated value, or of packed bits: levels,
 * indices, booleans. Delta: blocks of packed differences: integers, lengths. Both are read a few at a time. The words
 * that hold the last bits are loaded whole: KAVA_ROOM_SLACK bytes behind the data must be readable. */
#ifndef KAVA_FORMATS_PARQUET_RUNS_H
#define KAVA_FORMATS_PARQUET_RUNS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kava_hybrid {
  const uint8_t *p, *end;
  uint32_t width;          /* bits a value, at most 32 */
  uint64_t repeat, packed; /* values left of the run at hand */
  uint32_t value;
  const uint8_t *bits;
  uint64_t bit;
} kava_hybrid;

typedef struct kava_delta {
  const uint8_t *p, *end;
  uint64_t per_mini, minis; /* values a miniblock, miniblocks a block */
  uint64_t left;            /* values not yet given */
  uint64_t mini_left, mini_at, bit;
  const uint8_t *widths, *bits;
  int64_t value, least;
  uint32_t width;
  bool first;
} kava_delta;

void kava_hybrid_begin(kava_hybrid *h, const uint8_t *p, const uint8_t *end, uint32_t width);
/* The next `count`; false where there are fewer. Levels have 8 bits at most. */
bool kava_hybrid_levels(kava_hybrid *h, uint8_t *out, int64_t count);
bool kava_hybrid_indices(kava_hybrid *h, uint32_t *out, int64_t count);

/* False where it is damaged, or says to be more than `most`. */
bool kava_delta_begin(kava_delta *d, const uint8_t *p, const uint8_t *end, int64_t most);
bool kava_delta_next(kava_delta *d, int64_t *out); /* false at the end, and where the bytes end before it */
/* Where its bytes end, and what it holds the lengths of begins; NULL where it is damaged. */
const uint8_t *kava_delta_end(kava_delta d);
#endif

/* text/dataset: the rows of data files (text/source) as token ids, in a mapped cache file.
 *
 * The cache's name carries a hash of all that decides the ids: the files' content, the template, the tokenizer, the
 * options. It is written whole or not at all; one that is damaged or cut short (checksums) is made again.
 *
 * File: a header of 256 bytes, i32 ids of all rows, padding to 8 bytes, u64 offsets[rows + 1] (in ids). Little-endian.
 */
#ifndef KAVA_TEXT_DATASET_H
#define KAVA_TEXT_DATASET_H
#include "text/source.h"
#include "text/tokenizer.h"

typedef enum kava_long_rows { KAVA_LONG_TRUNCATE, KAVA_LONG_SKIP, KAVA_LONG_ERROR } kava_long_rows;

typedef struct kava_dataset_options {
  const char *text_template; /* "{question}\n{answer}" */
  int64_t max_length;        /* tokens a row */
  kava_long_rows longer;     /* what happens to longer rows */
  bool eos;                  /* an end-of-text token behind each row */
  int64_t skip;              /* broken rows to tolerate */
  int workers;               /* threads; 0: all */
  const char *cache;         /* folder; NULL: in memory */
} kava_dataset_options;

typedef struct kava_dataset_stats {
  int64_t rows, tokens, longest; /* rows kept, their tokens, the longest of them */
  int64_t truncated, too_long;   /* cut to max_length; left out for being longer */
  int64_t broken, empty;         /* left out: not readable; without a token */
} kava_dataset_stats;

typedef struct kava_dataset kava_dataset;
kava_status kava_dataset_open(const char *path, kava_tokenizer *tok, const kava_dataset_options *options,
                              kava_dataset **out);
kava_dataset *kava_dataset_retain(kava_dataset *data);
void kava_dataset_release(kava_dataset **data);
const kava_dataset_stats *kava_dataset_stats_of(const kava_dataset *data);
const int32_t *kava_dataset_row(const kava_dataset *data, int64_t row, int64_t *length); /* rows from 0 */
int32_t kava_dataset_pad(const kava_dataset *data); /* the id that padding is written with */
int64_t kava_dataset_max_length(const kava_dataset *data);
bool kava_dataset_cached(const kava_dataset *data);            /* it was there and good: nothing was tokenised */
const char *kava_dataset_cache_path(const kava_dataset *data); /* NULL: in memory */
const char *kava_dataset_path(const kava_dataset *data);
#endif

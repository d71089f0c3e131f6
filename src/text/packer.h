/* text/packer: the rows of a dataset as batches, in an order that is a pure function of (seed, epoch).
 *
 * Each row comes once an epoch. Any batch can be gone to: in O(1) where rows are padded, by repacking lengths (no ids
 * are read) where they are packed.
 *
 *   pad      `batch` rows in shuffled order, as long as the longest of them
 *   bucket   in windows of 64 batches rows are sorted by length, cut into batches, and those are shuffled
 *   pack     documents fill rows of `length` tokens, first fit in shuffled order within windows of 1024 documents; one
 *            is split only where it is longer than a row
 *
 * Tensors [B, T], the last batch of an epoch may have fewer rows:
 *   input_ids i64; start i32, the first token (from 0) that attention may see; positions i32, from 0 in each document;
 *   mask u8, 1 for real tokens; targets i64, the document's next token, -100 where there is none and in padding.
 * Padding sees only itself. */
#ifndef KAVA_TEXT_PACKER_H
#define KAVA_TEXT_PACKER_H
#include "tensor/tensor.h"
#include "text/dataset.h"

typedef enum kava_batch_mode { KAVA_BATCH_PAD, KAVA_BATCH_BUCKET, KAVA_BATCH_PACK } kava_batch_mode;

typedef struct kava_sampler_options {
  int64_t batch, length; /* rows a batch; tokens a row at most */
  uint64_t seed;
  int64_t epoch;
  kava_batch_mode mode;
} kava_sampler_options;

/* Tokens [begin, begin + length) of dataset row `row`, which lie in the batch's row `at` from `column` on. */
typedef struct kava_piece {
  int64_t row, begin, length, at, column; /* all from 0 */
} kava_piece;

typedef struct kava_batch {
  kava_tensor *input_ids, *start, *positions, *mask, *targets;
  int64_t tokens; /* real ones */
  kava_piece
      *pieces; /* in the order in which they lie; a row that was cut has several, in one batch or more; kava_free */
  int64_t piece_count;
} kava_batch;
void kava_batch_free(kava_batch *batch);

typedef struct kava_sampler kava_sampler;
kava_status kava_sampler_new(kava_dataset *data, const kava_sampler_options *options,
                             kava_sampler **out); /* retains data */
void kava_sampler_release(kava_sampler **sampler);
const kava_sampler_options *kava_sampler_options_of(const kava_sampler *sampler);
const kava_dataset *kava_sampler_data(const kava_sampler *sampler);
int64_t kava_sampler_position(const kava_sampler *sampler);                            /* batches given of this epoch */
kava_status kava_sampler_seek(kava_sampler *sampler, int64_t epoch, int64_t position); /* KAVA_MISUSE beyond the end */
kava_status kava_sampler_count(const kava_sampler *sampler, int64_t *out);             /* batches in an epoch */
/* *more is false, and the batch empty, at the epoch's end. */
kava_status kava_sampler_next(kava_sampler *sampler, kava_batch *out, bool *more);
#endif

/* text/source: where rows come from: JSON Lines or an array (plain, gzip, zstd), Arrow and Parquet files, told apart by
 * their first bytes; several of them by a pattern ("data/train-*.parquet"), or as the folder that datasets.save_to_disk
 * writes.
 *
 * Rows are read a block at a time into memory whose size does not grow with the file, and made text one by one, by any
 * thread. Files are read by position: one that shrinks or changes meanwhile ends the reading with an error. */
#ifndef KAVA_TEXT_SOURCE_H
#define KAVA_TEXT_SOURCE_H
#include "text/rows.h"

typedef struct kava_source kava_source;
/* `text_template` NULL: each row as JSON. KAVA_MISUSE: the template; KAVA_FORMAT: a table lacks a field of it. */
kava_status kava_source_open(const char *path, const char *text_template, kava_source **out);
bool kava_source_exists(const char *path);    /* whether there is such a file or folder, or a file that matches */
void kava_source_close(kava_source **source); /* accepts NULL, nulls the pointer */
/* The next block; *count is 0 at the end. */
kava_status kava_source_next(kava_source *source, int64_t *count);
/* Row i of the block. A broken row's message has no place; kava_source_place knows it. */
kava_row_result kava_source_text(const kava_source *source, int64_t i, kava_row_tools *tools, kava_buffer *out);
/* "FILE:LINE" or "FILE: row N", from 1; a fresh string, NULL without memory. */
char *kava_source_place(const kava_source *source, int64_t i);
/* The line, or the row among those of all files, from 1. */
int64_t kava_source_number(const kava_source *source, int64_t i);
/* Goes to row `row` (from 0, over all files; blank lines count as none), which the next block begins with. Tables know
 * where it is; in JSON Lines the way to rows not yet seen is read, and what is compressed is read again from its
 * beginning. KAVA_MISUSE beyond the end. */
kava_status kava_source_seek(kava_source *source, int64_t row);
/* "question string, answer string" where the files say so themselves, else NULL. */
const char *kava_source_fields(kava_source *source);

/* All bytes of all files, in order, in pieces of the same size whenever the files are the same. */
kava_status kava_source_scan(const kava_source *source, void (*take)(void *context, const void *bytes, size_t size),
                             void *context);
kava_status kava_source_unchanged(const kava_source *source); /* KAVA_IO: a file has changed since it was opened */
#endif

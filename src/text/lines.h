/* text/lines: the lines of a file that are not blank, a block at a time; gzip and zstd are decompressed on the way. The
 * place of each block is kept (24 bytes), so that rows already passed are found again without reading what is before.
 */
#ifndef KAVA_TEXT_LINES_H
#define KAVA_TEXT_LINES_H
#include "formats/codec.h"

#define KAVA_LINE_MOST ((size_t)64 << 20) /* bytes of a row; more is no row of text */

typedef struct kava_line {
  const char *text;
  size_t length;
  int64_t number; /* of the line, blank ones included, or of the item; from 1 */
} kava_line;

typedef struct kava_lines kava_lines;
kava_status kava_lines_open(const kava_file *file, kava_lines **out); /* `file` stays open as long */
void kava_lines_close(kava_lines **lines);                            /* accepts NULL, nulls the pointer */
/* The next block's rows; *count is 0 at the end. They lie in memory until the next call. */
kava_status kava_lines_next(kava_lines *lines, const kava_line **rows, int64_t *count);
/* The next block begins with row `row` (from 0). *found is false, and the file read to its end, where there is none. */
kava_status kava_lines_seek(kava_lines *lines, int64_t row, bool *found);
bool kava_lines_is_array(const kava_lines *lines); /* once a block was asked for */
int64_t kava_lines_row(const kava_lines *lines);   /* the next block's first row; at the end: how many there are */
#endif

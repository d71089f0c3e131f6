/* base/file: a regular file read by position. Unlike a map, one that shrinks or fails under the reader is an error and
 * no signal: for data, which is read once, from front to back, and may be large. Reading is thread-safe. */
#ifndef KAVA_BASE_FILE_H
#define KAVA_BASE_FILE_H
#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct kava_file {
  int descriptor;
  char *path;
  uint64_t size;     /* when it was opened */
  uint64_t stamp[4]; /* its size, inode and time of writing then */
} kava_file;
/* KAVA_IO with the path and the reason; a directory is an error */
kava_status kava_file_open(const char *path, kava_file **out);
void kava_file_close(kava_file **file); /* accepts NULL, nulls the pointer */
/* Exactly `size` bytes from `offset`; KAVA_FORMAT where that is beyond the size it was opened with, KAVA_IO where it
 * has become shorter since. */
kava_status kava_file_read(const kava_file *file, uint64_t offset, void *to, size_t size);
/* KAVA_IO where the file was written since it was opened. */
kava_status kava_file_unchanged(const kava_file *file);
#endif

/* spec/fuzz/file.h: the bytes under test as a file that lives in memory: one, whose content changes. */
#ifndef KAVA_SPEC_FUZZ_FILE_H
#define KAVA_SPEC_FUZZ_FILE_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* The path of a file that holds these bytes until the next call. */
static inline const char *fuzz_file(const uint8_t *data, size_t size) {
  static char path[64];
  static int file = -1;
  if (file < 0) {
    if ((file = memfd_create("fuzz", 0)) < 0) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  }
  if (ftruncate(file, 0) != 0 || pwrite(file, data, size, 0) != (ssize_t)size) abort();
  return path;
}
#endif

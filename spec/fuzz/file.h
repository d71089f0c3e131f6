/* spec/fuzz/file.h: the bytes under test as a file that lives in memory. */
#ifndef KAVA_SPEC_FUZZ_FILE_H
#define KAVA_SPEC_FUZZ_FILE_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Fills `path` and returns the descriptor to close. */
static inline int fuzz_file(const uint8_t *data, size_t size, char path[64]) {
  int file = memfd_create("fuzz", 0);
  if (file < 0 || write(file, data, size) != (ssize_t)size) abort();
  snprintf(path, 64, "/proc/self/fd/%d", file);
  return file;
}
#endif

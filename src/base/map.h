/* base/map: a file mapped copy-on-write, shared by reference count: nothing is read before it is touched, and a
 * student's weights may be trained in place: pages that are written become private memory, the file never changes. */
#ifndef KAVA_BASE_MAP_H
#define KAVA_BASE_MAP_H
#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct kava_map {
  uint8_t *data;
  size_t size;
  char *path;
  int refs; /* atomic */
} kava_map;
/* KAVA_IO with the path and the reason; a directory is an error */
kava_status kava_map_open(const char *path, kava_map **out);
void kava_map_retain(kava_map *map);
void kava_map_release(kava_map **map); /* accepts NULL, nulls the pointer */
/* Gives the whole pages within [data, data+size) of the map back: they are read from the file again when they are
 * touched. What was written to them is lost. */
void kava_map_forget(kava_map *map, const void *data, size_t size);
/* For programs: from now on, touching what is no longer there because a mapped file has become shorter ends the process
 * with a message that names the file, and exit status 1, instead of a signal (SIGBUS). There is nothing to go on with:
 * the bytes cannot be had any more. Files that are only read through are read by position instead (base/file). */
void kava_map_guard(void);
#endif

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
/* How many things of `each` bytes of memory may be made of a file of `size` bytes: as many as take no more than twice
 * that, and 16 MiB for files that are small. A file that holds more was made to harm, and is refused before they are.
 */
static inline size_t kava_map_most(size_t size, size_t each) { return (2 * size + ((size_t)16 << 20)) / each; }
/* Bytes that the Lua values in a text or a list of a file may take, where somebody wants all of them as a table. */
static inline size_t kava_map_values(size_t size) { return 2 * size + ((size_t)64 << 20); }
/* For programs: from now on, touching what is no longer there because a mapped file has become shorter ends the process
 * with a message that names the file, and exit status 1, instead of a signal (SIGBUS). There is nothing to go on with:
 * the bytes cannot be had any more. Files that are only read through are read by position instead (base/file). */
void kava_map_guard(void);
#endif

/* tensor/pool: a device's memory, reserved in large chunks and cut into blocks. A freed block joins its free neighbours
 * and goes to whoever asks next for something that fits best. Knows no device: chunks come from two functions. */
#ifndef KAVA_TENSOR_POOL_H
#define KAVA_TENSOR_POOL_H
#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

#define KAVA_POOL_ALIGN ((size_t)512) /* of every block and its size */

typedef struct kava_block kava_block;
struct kava_block {
  struct kava_pool *pool;
  char *data;
  size_t size, asked;
  uint64_t number; /* for whoever asked for it */
  bool free;
  kava_block *before, *after;   /* in its chunk, by address */
  kava_block *smaller, *larger; /* among the free blocks */
};

typedef struct kava_pool {
  size_t chunk; /* least size of a chunk; 0: every block is a chunk, given back when it is freed */
  kava_status (*reserve)(size_t bytes, void **out);
  void (*give_back)(void *memory, size_t bytes);
  kava_block *least;     /* of the free blocks, smallest first */
  size_t reserved, used; /* bytes in chunks, and in blocks that are not free */
  int64_t blocks;        /* that are not free */
  void *owner;
} kava_pool;

/* KAVA_MEMORY without a message of its own where neither a block nor a chunk can be had; else what `reserve` says. */
kava_status kava_pool_alloc(kava_pool *pool, size_t bytes, kava_block **out);
void kava_pool_free(kava_block *block);
void kava_pool_trim(kava_pool *pool); /* gives chunks back that hold nothing */
#endif

/* base/blocks: where kava_alloc's large blocks come from: regions of address space that it cuts into blocks by best fit
 * and where neighbouring free blocks become one again.
 *
 * The sizes of a training step come back step after step, but not in the order that would let a cache by size hold no
 * more than what is needed: blocks freed by the forward pass must serve the gradients. A micro-step at SmolLM2-135M's
 * shapes faulted in 26,600 pages with a cache by exact size, and 1,500 so. Pages are huge where the system allows it.
 */
#ifndef KAVA_BASE_BLOCKS_H
#define KAVA_BASE_BLOCKS_H
#include <stddef.h>

/* 64-byte aligned; NULL: the system has no more. Behind its first *stale bytes a block is fresh from the system: zero,
 * and no page of it is there yet. */
void *kava_block_take(size_t bytes, size_t *stale);
void kava_block_give(void *block);
size_t kava_block_room(const void *block); /* bytes that may be used; at least what was asked for */
size_t kava_blocks_free(void);             /* bytes of free blocks, handed out before and not given back since */
void kava_blocks_trim(void);               /* gives the pages of free blocks back to the system */
#endif

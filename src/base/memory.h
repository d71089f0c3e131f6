/* base/memory: every byte KAVA allocates passes here: counted, peak kept, the Nth failure provoked by tests.
 * Blocks of 64 KiB and more come from base/blocks, which keeps what is freed for the next step. All functions are
 * thread-safe. */
#ifndef KAVA_BASE_MEMORY_H
#define KAVA_BASE_MEMORY_H
#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

#define KAVA_ALIGN 64

void *kava_alloc(size_t bytes);                /* 64-byte aligned, uninitialised; NULL with the message set */
void *kava_calloc(size_t count, size_t size);  /* zeroed, overflow-checked; NULL with the message set */
void *kava_realloc(void *block, size_t bytes); /* keeps the contents; NULL leaves the old block alive */
void kava_free(void *block);                   /* accepts NULL */
char *kava_strdup(const char *text);
char *kava_format(const char *format, ...) __attribute__((format(printf, 1, 2))); /* a fresh string, kava_free it */

typedef struct kava_memory_stats {
  size_t current, peak; /* bytes handed out, now and at most since the last reset */
  size_t cached;        /* bytes of free large blocks, kept for the next use */
  size_t limit;         /* what may be handed out together; 0: no limit */
  int64_t blocks;       /* live blocks: what leak checks look at */
} kava_memory_stats;
void kava_memory_get(kava_memory_stats *stats);
void kava_memory_reset_peak(void);
/* From now on an allocation that would take `current` above `bytes` fails; 0: no limit. What is already handed out
 * stays, also when it is more. Threads that allocate at the same moment may together pass it by what they asked for. */
void kava_memory_limit(size_t bytes);
void kava_memory_trim(void);                /* gives the pages of free blocks back to the system */
void kava_memory_fail_after(int64_t count); /* tests: `count` allocations pass, the next fails, once; negative: off */

/* Live objects (tensors, models, tokenizers, …) of the whole program; a spec expects 0 growth. */
void kava_live_add(int delta);
int64_t kava_live(void);

/* A bump allocator: many small blocks with one lifetime. Not thread-safe. */
typedef struct kava_arena {
  struct kava_arena_block *head;
} kava_arena;
void *kava_arena_alloc(kava_arena *arena, size_t bytes); /* 16-byte aligned, zeroed; NULL with the message set */
char *kava_arena_strndup(kava_arena *arena, const char *text, size_t length);
char *kava_arena_format(kava_arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));
void kava_arena_reset(kava_arena *arena); /* empty again, keeping its newest block */
void kava_arena_free(kava_arena *arena);
#endif

#include "base/memory.h"
#include "base/blocks.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A 64-byte header keeps the payload aligned and carries the size for the counters. */
typedef struct block_header {
  size_t bytes; /* asked for */
  size_t room;  /* really there (payload) */
  bool large;   /* from base/blocks */
} block_header;
#define HEADER 64
#ifdef KAVA_SANITIZED /* the sanitizer must see every allocation and every free */
#define LARGE_FROM SIZE_MAX
#else
#define LARGE_FROM ((size_t)64 << 10)
#endif

static atomic_size_t current_bytes, peak_bytes, limit_bytes; /* a limit of 0: none */
static atomic_llong live_blocks, live_objects, fail_in = -1;

static void count_in(size_t bytes) {
  size_t now = atomic_fetch_add(&current_bytes, bytes) + bytes;
  size_t peak = atomic_load(&peak_bytes);
  while (now > peak && !atomic_compare_exchange_weak(&peak_bytes, &peak, now)) {}
  atomic_fetch_add(&live_blocks, 1);
}

/* *stale: bytes of the payload that are not known to be zero. */
static block_header *take(size_t bytes, size_t *stale) {
  bool large = bytes >= LARGE_FROM;
  size_t room = (bytes + HEADER - 1) / HEADER * HEADER, used = HEADER + bytes;
  block_header *block = large ? kava_block_take(HEADER + room, &used) : aligned_alloc(HEADER, HEADER + room);
  *stale = used <= HEADER ? 0 : used - HEADER < bytes ? used - HEADER : bytes;
  if (!block) return NULL;
  block->room = large ? kava_block_room(block) - HEADER : room;
  block->large = large;
  return block;
}

static void *alloc(size_t bytes, size_t *stale) {
  if (atomic_load(&fail_in) >= 0 && atomic_fetch_sub(&fail_in, 1) == 0) {
    kava_fail(KAVA_MEMORY, "out of memory (provoked by a test): %zu bytes asked for", bytes);
    return NULL;
  }
  if (bytes > SIZE_MAX - ((size_t)1 << 20)) {
    kava_fail(KAVA_MEMORY, "out of memory: %zu bytes asked for", bytes);
    return NULL;
  }
  size_t limit = atomic_load(&limit_bytes), used = atomic_load(&current_bytes);
  if (limit && (used > limit || bytes > limit - used)) {
    kava_fail(KAVA_MEMORY, "out of memory: %zu bytes asked for, %zu in use, %zu may be (the limit that was set)", bytes,
              used, limit);
    return NULL;
  }
  block_header *block = take(bytes ? bytes : 1, stale);
  if (!block) {
    kava_memory_trim();
    block = take(bytes ? bytes : 1, stale);
  }
  if (!block) {
    kava_fail(KAVA_MEMORY, "out of memory: %zu bytes asked for, %zu in use", bytes, atomic_load(&current_bytes));
    return NULL;
  }
  block->bytes = bytes;
  count_in(bytes);
  return (char *)block + HEADER;
}

void *kava_alloc(size_t bytes) {
  size_t stale;
  return alloc(bytes, &stale);
}

void *kava_calloc(size_t count, size_t size) {
  size_t bytes, stale;
  if (__builtin_mul_overflow(count, size, &bytes)) {
    kava_fail(KAVA_MEMORY, "out of memory: %zu x %zu bytes asked for", count, size);
    return NULL;
  }
  void *block = alloc(bytes, &stale);
  if (block)
    memset(block, 0, stale); /* pages that are not there yet are zero, and who uses them touches them: all threads */
  return block;
}

void *kava_realloc(void *old, size_t bytes) {
  if (!old) return kava_alloc(bytes);
  block_header *header = (block_header *)((char *)old - HEADER);
  if (bytes <= header->room && bytes >= header->room / 2) {
    atomic_fetch_sub(&current_bytes, header->bytes);
    atomic_fetch_sub(&live_blocks, 1);
    header->bytes = bytes;
    count_in(bytes);
    return old;
  }
  void *fresh = kava_alloc(bytes);
  if (!fresh) return NULL;
  memcpy(fresh, old, header->bytes < bytes ? header->bytes : bytes);
  kava_free(old);
  return fresh;
}

void kava_free(void *payload) {
  if (!payload) return;
  block_header *block = (block_header *)((char *)payload - HEADER);
  atomic_fetch_sub(&current_bytes, block->bytes);
  atomic_fetch_sub(&live_blocks, 1);
  if (block->large)
    kava_block_give(block);
  else
    free(block);
}

char *kava_strdup(const char *text) {
  size_t bytes = strlen(text) + 1;
  char *copy = kava_alloc(bytes);
  if (copy) memcpy(copy, text, bytes);
  return copy;
}

char *kava_format(const char *format, ...) {
  va_list args;
  va_start(args, format);
  int length = vsnprintf(NULL, 0, format, args);
  va_end(args);
  char *text = length < 0 ? NULL : kava_alloc((size_t)length + 1);
  if (!text) return NULL;
  va_start(args, format);
  vsnprintf(text, (size_t)length + 1, format, args);
  va_end(args);
  return text;
}

void kava_memory_get(kava_memory_stats *stats) {
  stats->current = atomic_load(&current_bytes);
  stats->peak = atomic_load(&peak_bytes);
  stats->blocks = atomic_load(&live_blocks);
  stats->cached = kava_blocks_free();
  stats->limit = atomic_load(&limit_bytes);
}
void kava_memory_reset_peak(void) { atomic_store(&peak_bytes, atomic_load(&current_bytes)); }
void kava_memory_limit(size_t bytes) { atomic_store(&limit_bytes, bytes); }
void kava_memory_fail_after(int64_t count) { atomic_store(&fail_in, count); }

void kava_memory_trim(void) { kava_blocks_trim(); }

void kava_live_add(int delta) { atomic_fetch_add(&live_objects, delta); }
int64_t kava_live(void) { return atomic_load(&live_objects); }

struct kava_arena_block {
  struct kava_arena_block *next;
  size_t used, room;
  _Alignas(16) char data[];
};

void *kava_arena_alloc(kava_arena *arena, size_t bytes) {
  if (bytes > SIZE_MAX - 64) {
    kava_fail(KAVA_MEMORY, "out of memory: %zu bytes asked for", bytes);
    return NULL;
  }
  bytes = (bytes + 15) & ~(size_t)15;
  struct kava_arena_block *head = arena->head;
  if (!head || head->room - head->used < bytes) {
    size_t room = head ? head->room * 2 : 4096;
    if (room > ((size_t)1 << 20)) room = (size_t)1 << 20;
    if (room < bytes) room = bytes;
    head = kava_alloc(sizeof *head + room);
    if (!head) return NULL;
    head->next = arena->head;
    head->used = 0;
    head->room = room;
    arena->head = head;
  }
  void *block = head->data + head->used;
  head->used += bytes;
  return memset(block, 0, bytes);
}

char *kava_arena_strndup(kava_arena *arena, const char *text, size_t length) {
  char *copy = kava_arena_alloc(arena, length + 1);
  if (copy) memcpy(copy, text, length);
  return copy;
}

char *kava_arena_format(kava_arena *arena, const char *format, ...) {
  va_list args;
  va_start(args, format);
  int length = vsnprintf(NULL, 0, format, args);
  va_end(args);
  char *text = length < 0 ? NULL : kava_arena_alloc(arena, (size_t)length + 1);
  va_start(args, format);
  if (text) vsnprintf(text, (size_t)length + 1, format, args);
  va_end(args);
  return text;
}

void kava_arena_reset(kava_arena *arena) {
  struct kava_arena_block *head = arena->head;
  if (!head) return;
  kava_arena rest = {head->next};
  kava_arena_free(&rest);
  head->next = NULL;
  head->used = 0;
}

void kava_arena_free(kava_arena *arena) {
  while (arena->head) {
    struct kava_arena_block *next = arena->head->next;
    kava_free(arena->head);
    arena->head = next;
  }
}

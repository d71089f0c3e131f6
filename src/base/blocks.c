#include "base/blocks.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>

typedef struct region region;

/* Precedes every block, used or free; `room` bytes follow it. Blocks of a region lie one after the other. */
typedef struct block {
  size_t room;
  struct block *before, *after; /* neighbours in the region */
  struct block *newer, *older;  /* in the list of free blocks */
  region *home;
  bool used;
} block;

struct region {
  region *next;
  size_t bytes;
  char *touched; /* nothing from here on was ever handed out: but for a header there, all is zero */
};

#define UNIT ((size_t)64)
#define LEAST ((size_t)32 << 10) /* a smaller rest stays with its block */
#define HUGE_PAGE ((size_t)2 << 20)
#define REGION ((size_t)1 << 30) /* address space; pages come when they are used */
_Static_assert(sizeof(block) <= UNIT && sizeof(region) <= UNIT, "headers keep the payload aligned");

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static region *regions;
static block *free_blocks;

static char *payload(const block *b) { return (char *)b + UNIT; }
static block *header(const void *at) { return (block *)((char *)at - UNIT); }
static block *first_of(region *r) { return (block *)((char *)r + UNIT); }

static void list_free(block *b) {
  b->used = false;
  b->newer = NULL;
  b->older = free_blocks;
  if (free_blocks) free_blocks->newer = b;
  free_blocks = b;
}

static void unlist(block *b) {
  b->used = true;
  *(b->newer ? &b->newer->older : &free_blocks) = b->older;
  if (b->older) b->older->newer = b->newer;
}

/* Bytes of a free block that were handed out before: they may be resident. */
static size_t resident(const block *b) {
  const char *end = payload(b) + b->room;
  if (end > b->home->touched) end = b->home->touched;
  return end > payload(b) ? (size_t)(end - payload(b)) : 0;
}

static void give_pages_back(block *b) {
  size_t there = resident(b);
  if (there == 0) return;
  char *begin = payload(b) + (-(uintptr_t)payload(b) & 4095), *end = payload(b) + (b->after ? there : b->room);
  end -= (uintptr_t)end & 4095;
  if (end <= begin || madvise(begin, (size_t)(end - begin), MADV_DONTNEED) != 0) return;
  if (!b->after) b->home->touched = begin;
}

static void trim(void) {
  for (block *b = free_blocks, *next; b; b = next) {
    next = b->older;
    give_pages_back(b);
    if (b->before || b->after) continue;
    unlist(b);
    region **at = &regions, *r = b->home;
    while (*at != r) at = &(*at)->next;
    *at = r->next;
    munmap(r, r->bytes);
  }
}

/* One free block of at least `room` bytes. */
static block *grow(size_t room) {
  trim(); /* what is free here and fits nothing must not stay resident beside the new pages */
  size_t need = (room + 2 * UNIT + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE, bytes = need > REGION ? need : REGION;
  /* What one block alone asks for is reserved: more than the machine has must fail here, not when pages are touched. */
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | (need > REGION ? 0 : MAP_NORESERVE);
  region *r = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (r == MAP_FAILED && bytes > need) /* address space is limited */
    r = mmap(NULL, bytes = need, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (r == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
  madvise(r, bytes, MADV_HUGEPAGE);
#endif
  *r = (region){.next = regions, .bytes = bytes, .touched = (char *)r + 2 * UNIT};
  regions = r;
  block *b = first_of(r);
  *b = (block){.room = bytes - 2 * UNIT, .home = r};
  list_free(b);
  return b;
}

void *kava_block_take(size_t bytes, size_t *stale) {
  if (bytes > SIZE_MAX / 2) return NULL;
  size_t room = (bytes + UNIT - 1) / UNIT * UNIT;
  pthread_mutex_lock(&lock);
  block *best = NULL;
  for (block *b = free_blocks; b; b = b->older)
    if (b->room >= room && (!best || b->room < best->room || (b->room == best->room && b < best))) best = b;
  if (!best) best = grow(room);
  if (best) {
    unlist(best);
    if (best->room - room >= LEAST + UNIT) {
      block *rest = (block *)(payload(best) + room);
      *rest = (block){.room = best->room - room - UNIT, .before = best, .after = best->after, .home = best->home};
      if (rest->after) rest->after->before = rest;
      best->after = rest;
      best->room = room;
      list_free(rest);
    }
    size_t old = resident(best) + UNIT; /* and the header of what was free behind it */
    *stale = old < best->room ? old : best->room;
    if (best->home->touched < payload(best) + best->room) best->home->touched = payload(best) + best->room;
  }
  pthread_mutex_unlock(&lock);
  return best ? payload(best) : NULL;
}

/* `b` and the block after it become one. */
static void join(block *b) {
  b->room += UNIT + b->after->room;
  b->after = b->after->after;
  if (b->after) b->after->before = b;
}

void kava_block_give(void *at) {
  block *b = header(at);
  pthread_mutex_lock(&lock);
  if (b->after && !b->after->used) {
    unlist(b->after);
    join(b);
  }
  if (b->before && !b->before->used) {
    b = b->before;
    unlist(b);
    join(b);
  }
  list_free(b);
  pthread_mutex_unlock(&lock);
}

size_t kava_block_room(const void *at) { return header(at)->room; }

size_t kava_blocks_free(void) {
  size_t sum = 0;
  pthread_mutex_lock(&lock);
  for (const block *b = free_blocks; b; b = b->older) sum += resident(b);
  pthread_mutex_unlock(&lock);
  return sum;
}

void kava_blocks_trim(void) {
  pthread_mutex_lock(&lock);
  trim();
  pthread_mutex_unlock(&lock);
}

#include "tensor/pool.h"
#include "base/memory.h"

static void unlist(kava_pool *p, kava_block *b) {
  if (b->smaller)
    b->smaller->larger = b->larger;
  else
    p->least = b->larger;
  if (b->larger) b->larger->smaller = b->smaller;
  b->smaller = b->larger = NULL;
}

static void list(kava_pool *p, kava_block *b) {
  kava_block *after = p->least, *before = NULL;
  while (after && after->size < b->size) {
    before = after;
    after = after->larger;
  }
  b->smaller = before;
  b->larger = after;
  if (before)
    before->larger = b;
  else
    p->least = b;
  if (after) after->smaller = b;
}

/* Joins b with the block behind it, which is free and not in the list any more. */
static void join(kava_block *b) {
  kava_block *gone = b->after;
  b->size += gone->size;
  b->after = gone->after;
  if (b->after) b->after->before = b;
  kava_free(gone);
}

static kava_status new_chunk(kava_pool *p, size_t size, kava_block **out) {
  kava_block *b = kava_calloc(1, sizeof *b);
  void *data;
  if (!b) return KAVA_MEMORY;
  if (size < p->chunk) size = p->chunk;
  kava_status st = p->reserve(size, &data);
  if (st != KAVA_OK) {
    kava_free(b);
    return st;
  }
  *b = (kava_block){.pool = p, .data = data, .size = size, .free = true};
  p->reserved += size;
  *out = b;
  return KAVA_OK;
}

/* A chunk that holds nothing. */
static void drop_chunk(kava_block *b) {
  b->pool->reserved -= b->size;
  b->pool->give_back(b->data, b->size);
  kava_free(b);
}

kava_status kava_pool_alloc(kava_pool *p, size_t bytes, kava_block **out) {
  kava_status st;
  size_t size = bytes ? (bytes + KAVA_POOL_ALIGN - 1) / KAVA_POOL_ALIGN * KAVA_POOL_ALIGN : KAVA_POOL_ALIGN;
  kava_block *b = p->least, *rest;
  if (size < bytes) return KAVA_MEMORY;
  while (b && b->size < size) b = b->larger;
  if (b)
    unlist(p, b);
  else if ((st = new_chunk(p, size, &b)) != KAVA_OK)
    return st;
  if (b->size > size && p->chunk) {
    rest = kava_calloc(1, sizeof *rest);
    if (rest) { /* else the block is larger than it need be */
      *rest = (kava_block){
          .pool = p, .data = b->data + size, .size = b->size - size, .free = true, .before = b, .after = b->after};
      if (rest->after) rest->after->before = rest;
      b->after = rest;
      b->size = size;
      list(p, rest);
    }
  }
  b->free = false;
  b->asked = bytes;
  p->used += b->size;
  p->blocks++;
  *out = b;
  return KAVA_OK;
}

void kava_pool_free(kava_block *b) {
  kava_pool *p = b->pool;
  p->used -= b->size;
  p->blocks--;
  b->free = true;
  if (b->after && b->after->free) {
    unlist(p, b->after);
    join(b);
  }
  if (b->before && b->before->free) {
    b = b->before;
    unlist(p, b);
    join(b);
  }
  if (!p->chunk)
    drop_chunk(b);
  else
    list(p, b);
}

void kava_pool_trim(kava_pool *p) {
  for (kava_block *b = p->least, *next; b; b = next) {
    next = b->larger;
    if (b->before || b->after) continue;
    unlist(p, b);
    drop_chunk(b);
  }
}

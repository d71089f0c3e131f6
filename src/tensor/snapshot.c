#include "tensor/snapshot.h"
#include "tensor/pool.h"
#include <stdlib.h>
#include <string.h>

#define ALIGN ((uintptr_t)16) /* at least, of every block; no element is larger */

typedef struct part {
  uintptr_t from;
  size_t bytes, at; /* at: of the room */
  kava_block *block;
  int64_t index;
} part;

static int by_address(const void *a, const void *b) {
  const part *x = a, *y = b;
  return x->from < y->from ? -1 : x->from > y->from;
}

/* Places parts in the room, those of a run as far from each other as they are now -> the bytes it takes. With `to` it
 * copies the runs there. */
static kava_status runs(part *parts, int64_t count, char *to, size_t *total) {
  *total = 0;
  for (int64_t i = 0, next; i < count; i = next) {
    uintptr_t start = parts[i].from / ALIGN * ALIGN, end = start;
    for (next = i; next < count; next++) {
      const part *p = &parts[next];
      if (next > i && p->block != p[-1].block && p->block != p[-1].block->after) break;
      if (end < p->from + p->bytes) end = p->from + p->bytes;
    }
    for (int64_t j = i; j < next; j++) parts[j].at = *total + (parts[j].from - start);
    kava_status st = KAVA_OK;
    if (to) st = kava_device_copy(KAVA_CUDA, to + *total, KAVA_CUDA, (const void *)start, end - start);
    if (st != KAVA_OK) return st;
    *total += (end - start + KAVA_POOL_ALIGN - 1) / KAVA_POOL_ALIGN * KAVA_POOL_ALIGN;
  }
  return KAVA_OK;
}

static kava_status make_room(size_t bytes, kava_tensor **room) {
  if (*room && (*room)->device == KAVA_CUDA && (*room)->storage->bytes >= bytes) return KAVA_OK;
  kava_tensor_release(room);
  kava_device_lasting(+1);
  kava_status st = kava_tensor_new_on(KAVA_CUDA, KAVA_U8, 1, (int64_t[]){(int64_t)bytes}, room);
  kava_device_lasting(-1);
  return st;
}

kava_status kava_snapshot(int64_t count, kava_tensor *const *tensors, kava_tensor **room, kava_tensor **copies) {
  kava_status st = KAVA_OK;
  size_t total;
  int64_t made = 0;
  part *parts = kava_alloc(((size_t)count + 1) * sizeof *parts);
  if (!parts) return KAVA_MEMORY;
  for (int64_t i = 0; i < count; i++) {
    const kava_tensor *t = tensors[i];
    if (t->device != KAVA_CUDA || t->scales || !kava_tensor_is_contiguous(t))
      KAVA_FAIL(KAVA_MISUSE, "snapshot: a %s tensor on %s; contiguous ones on cuda, not of codes, expected",
                kava_dtype_name(t->dtype), kava_device_name(t->device));
    parts[i] = (part){.from = (uintptr_t)kava_tensor_data(t), .block = t->storage->block, .index = i};
    KAVA_TRY(kava_tensor_bytes_of(t, &parts[i].bytes));
  }
  qsort(parts, (size_t)count, sizeof *parts, by_address);
  KAVA_TRY(runs(parts, count, NULL, &total));
  KAVA_TRY(make_room(total, room));
  KAVA_TRY(runs(parts, count, (*room)->storage->data, &total));
  for (; made < count; made++) {
    const kava_tensor *t = tensors[parts[made].index];
    KAVA_TRY(kava_tensor_in((*room)->storage, parts[made].at, t->dtype, t->dims, t->shape, &copies[parts[made].index]));
  }
out:
  for (int64_t i = 0; i < made && st != KAVA_OK; i++) kava_tensor_release(&copies[parts[i].index]);
  kava_free(parts);
  return st;
}

/* kernels/cpu/simd/embedding.c: gathering rows, and its gradient: one thread a row of the table, its positions in
 * order. */
#include "kernels/cpu/simd/tail.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/cpu/reference.h"
#include <stdlib.h>
#include <string.h>

typedef struct place {
  int64_t id, position;
} place;

typedef struct scatter_job {
  const kava_gather_args *a;
  const place *places;  /* grouped by id */
  const int64_t *first; /* [unique + 1] of each group */
} scatter_job;

static int by_id_then_position(const void *a, const void *b) {
  const place *x = a, *y = b;
  if (x->id != y->id) return x->id < y->id ? -1 : 1;
  return x->position < y->position ? -1 : x->position > y->position;
}

static void add_row(float *to, const float *from, int64_t width) {
  for (int64_t i = 0; i < width; i += VF_LANES) {
    int64_t n = width - i;
    vf_store_to(to + i, vf_add(vf_load_to(to + i, n), vf_load_to(from + i, n)), n);
  }
}

static void add_groups(void *ctx, int64_t begin, int64_t end) {
  const scatter_job *job = ctx;
  int64_t width = job->a->inner;
  for (int64_t u = begin; u < end; u++)
    for (int64_t j = job->first[u]; j < job->first[u + 1]; j++)
      add_row((float *)job->a->dx + job->places[j].id * width,
              (const float *)job->a->grad + job->places[j].position * width, width);
}

static kava_status gather_grad(const kava_gather_args *a) {
  if (a->dtype == KAVA_F64 || a->outer != 1) return kava_ref_gather_grad(a);
  place *places = kava_alloc((size_t)a->count * sizeof *places);
  int64_t *first = kava_alloc(((size_t)a->count + 1) * sizeof *first), count = 0, unique = 0;
  if (places && first) {
    for (int64_t j = 0; j < a->count; j++)
      if (a->ids[j] != a->pad) places[count++] = (place){a->ids[j], j};
    qsort(places, (size_t)count, sizeof *places, by_id_then_position);
    for (int64_t j = 0; j < count; j++)
      if (j == 0 || places[j].id != places[j - 1].id) first[unique++] = j;
    first[unique] = count;
    kava_parallel(unique, 16, add_groups, &(scatter_job){a, places, first});
  }
  kava_status st = places && first ? KAVA_OK : KAVA_MEMORY;
  kava_free(places);
  kava_free(first);
  return st;
}

static void gather_rows(void *ctx, int64_t begin, int64_t end) {
  const kava_gather_args *a = ctx;
  size_t row = kava_gather_row_bytes(a);
  for (int64_t at = begin; at < end; at++) {
    int64_t id = a->ids[at % a->count];
    const char *from = (const char *)a->x + (size_t)(at / a->count * a->rows + id) * row;
    if (a->from == a->dtype)
      memcpy((char *)a->y + (size_t)at * row, from, row);
    else if (a->scaling)
      kava_kernels_cpu()->widen_scaled(a->from, from, a->scaling, a->first + id, 0, (float *)a->y + at * a->inner,
                                       a->inner);
    else
      kava_kernels_cpu()->widen(a->from, from, (float *)a->y + at * a->inner, a->inner);
  }
}

static void gather(const kava_gather_args *a) {
  kava_parallel(a->outer * a->count, 32768 / (a->inner + 1) + 1, gather_rows, (void *)a);
}

void KAVA_SIMD(embedding)(kava_kernels *table);
void KAVA_SIMD(embedding)(kava_kernels *table) {
  table->gather = gather;
  table->gather_grad = gather_grad;
}

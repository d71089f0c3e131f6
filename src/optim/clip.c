#include "optim/clip.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include <math.h>
#include <stdlib.h>

#define PIECE 65536

typedef struct piece {
  kava_tensor *grad;
  int64_t begin, count;
  double sum;
} piece;

static void sum_pieces(void *ctx, int64_t begin, int64_t end) {
  piece *pieces = ctx;
  for (int64_t i = begin; i < end; i++) {
    const kava_tensor *g = pieces[i].grad;
    const char *data = (const char *)kava_tensor_data(g) + pieces[i].begin * kava_dtype_block_bytes(g->dtype);
    pieces[i].sum = kava_kernels_cpu()->square_sum(g->dtype, data, pieces[i].count);
  }
}

static int by_address(const void *a, const void *b) {
  const kava_tensor *x = *(kava_tensor *const *)a, *y = *(kava_tensor *const *)b;
  return x < y ? -1 : x > y;
}

/* Marks in `again` the gradients that stand earlier in the list: a tied parameter may be given twice. */
static kava_status find_repeats(kava_tensor *const *params, int64_t count, bool *again) {
  kava_tensor **sorted = kava_alloc((size_t)count * sizeof *sorted);
  bool *taken = kava_calloc((size_t)count, sizeof *taken);
  if (!sorted || !taken) {
    kava_free(sorted);
    kava_free(taken);
    return KAVA_MEMORY;
  }
  for (int64_t i = 0; i < count; i++) sorted[i] = params[i];
  qsort(sorted, (size_t)count, sizeof *sorted, by_address);
  for (int64_t i = 0; i < count; i++) {
    int64_t low = 0, high = count - 1;
    while (low < high) { /* the first of equals */
      int64_t middle = (low + high) / 2;
      if (sorted[middle] < params[i])
        low = middle + 1;
      else
        high = middle;
    }
    again[i] = taken[low];
    taken[low] = true;
  }
  kava_free(sorted);
  kava_free(taken);
  return KAVA_OK;
}

kava_status kava_clip_grad_norm(kava_tensor *const *params, int64_t count, double max_norm, double *norm) {
  kava_status st = KAVA_OK;
  piece *pieces = NULL;
  bool *again = NULL;
  int64_t total = 0, next = 0;
  if (!(max_norm > 0)) return kava_fail(KAVA_MISUSE, "clip_grad_norm: max_norm is %g; more than 0 expected", max_norm);
  again = kava_calloc((size_t)count + 1, sizeof *again);
  if (!again) return KAVA_MEMORY;
  KAVA_TRY(find_repeats(params, count, again));
  for (int64_t i = 0; i < count; i++)
    if (params[i]->grad && !again[i]) total += (kava_tensor_numel(params[i]->grad) + PIECE - 1) / PIECE;
  pieces = kava_alloc((size_t)total * sizeof *pieces);
  if (!pieces) KAVA_TRY(KAVA_MEMORY);
  for (int64_t i = 0; i < count; i++) {
    if (!params[i]->grad || again[i]) continue;
    int64_t numel = kava_tensor_numel(params[i]->grad);
    for (int64_t begin = 0; begin < numel; begin += PIECE)
      pieces[next++] = (piece){params[i]->grad, begin, numel - begin < PIECE ? numel - begin : PIECE, 0};
  }
  kava_parallel(total, 1, sum_pieces, pieces);
  double sum = 0;
  for (int64_t i = 0; i < total; i++) sum += pieces[i].sum;
  sum = sqrt(sum);
  if (isfinite(sum) && sum > max_norm)
    for (int64_t i = 0; i < count; i++) {
      kava_tensor *g = params[i]->grad;
      if (g && !again[i])
        kava_kernels_cpu()->rescale(g->dtype, kava_tensor_data(g), kava_tensor_numel(g), max_norm / (sum + 1e-6));
    }
  *norm = sum;
out:
  kava_free(pieces);
  kava_free(again);
  return st;
}

#include "optim/clip.h"
#include "kernels/kernels.h"
#include "tensor/rows.h"
#include <stdlib.h>

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

kava_status kava_clip_grad_norm(kava_tensor *const *params, int64_t count, double max_norm, const kava_tensor *scale,
                                kava_tensor **norm) {
  kava_status st = KAVA_OK;
  kava_array *spans = NULL;
  kava_tensor *y = NULL;
  bool *again = NULL;
  int64_t total = 0;
  kava_device device = KAVA_CPU;
  if (!(max_norm > 0)) return kava_fail(KAVA_MISUSE, "clip_grad_norm: max_norm is %g; more than 0 expected", max_norm);
  again = kava_calloc((size_t)count + 1, sizeof *again);
  spans = kava_alloc(((size_t)count + 1) * sizeof *spans);
  if (!again || !spans) KAVA_TRY(KAVA_MEMORY);
  KAVA_TRY(find_repeats(params, count, again));
  for (int64_t i = 0; i < count; i++) {
    const struct kava_rows *rows = params[i]->grad_rows;
    const kava_tensor *g = rows ? rows->values : params[i]->grad;
    if (!g || again[i]) continue;
    if (total > 0 && g->device != device)
      KAVA_FAIL(KAVA_MISUSE, "clip_grad_norm: parameters on %s and on %s; one device expected",
                kava_device_name(device), kava_device_name(g->device));
    device = g->device;
    spans[total++] =
        (kava_array){g->dtype, rows ? rows->used * g->shape[1] : kava_tensor_numel(g), kava_tensor_data(g)};
  }
  if (scale && (scale->dtype != KAVA_F32 || scale->device != device || kava_tensor_numel(scale) < 1))
    KAVA_FAIL(KAVA_MISUSE, "clip_grad_norm: the scale is %s on %s; f32 on %s expected", kava_dtype_name(scale->dtype),
              kava_device_name(scale->device), kava_device_name(device));
  KAVA_TRY(kava_tensor_new_on(device, KAVA_F64, 1, (int64_t[]){2}, &y));
  KAVA_RUN_TRY(device, gradient_norm, spans, total, max_norm, scale ? kava_f32(scale) : NULL, kava_f64(y));
  KAVA_RUN(device, rescale, spans, total, KAVA_F64, kava_f64(y) + 1);
  *norm = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  kava_free(spans);
  kava_free(again);
  return st;
}

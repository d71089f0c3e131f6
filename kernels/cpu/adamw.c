/* kernels/cpu/adamw.c: the plain reference of AdamW's step and of gradient clipping. Formulas: kernels/args.h. */
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/cpu/adamw.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/half.h"
#include "kernels/cpu/reference.h"

static void adamw_element(const kava_adamw_span *a, const adamw_rates *now, int64_t i) {
  kava_dtype wide = a->dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32;
  bool small = a->state_dtype == KAVA_BF16;
  uint16_t *small_m = a->m, *small_v = a->v;
  void *values = a->master ? a->master : a->p;
  double p = element_get(wide, values, i), g = element_get(wide, a->g, i);
  double m = small ? kava_bf16_to_f32(small_m[i]) : element_get(wide, a->m, i);
  double v = small ? kava_bf16_to_f32(small_v[i]) : element_get(wide, a->v, i);
  p *= 1 - now->lr * a->decay;
  m += (1 - now->beta1) * (g - m);
  v = now->beta2 * v + (1 - now->beta2) * g * g;
  p -= now->lr * now->correction1 * m / (sqrt(v) * now->correction2 + now->eps);
  element_put(wide, values, i, p, false);
  if (small) {
    small_m[i] = kava_f32_to_bf16((float)m);
    float rounded = (float)v;
    small_v[i] = isfinite(rounded)
                     ? (uint16_t)((kava_bits_of_float(rounded) + kava_adamw_noise(now->noise, (uint32_t)i)) >> 16)
                     : kava_f32_to_bf16(rounded);
  } else {
    element_put(wide, a->m, i, m, false);
    element_put(wide, a->v, i, v, false);
  }
  if (a->dtype == KAVA_BF16) ((uint16_t *)a->p)[i] = kava_f32_to_bf16((float)p);
  if (a->dtype == KAVA_F16) ((uint16_t *)a->p)[i] = kava_f32_to_f16((float)p);
}

void kava_adamw_plain(const kava_adamw_args *a, const kava_adamw_span *span) {
  adamw_rates now = adamw_rates_of(a, span);
  for (int64_t i = 0; i < span->count; i++) adamw_element(span, &now, i);
}

void kava_ref_adamw(const kava_adamw_args *a) {
  if (!adamw_begin(a)) return;
  for (int64_t s = 0; s < a->count; s++) kava_adamw_plain(a, &a->spans[s]);
}

#define PIECE 65536
typedef struct norm_job {
  const kava_array *spans;
  int64_t count;
  double *sums; /* a piece each, none across two spans */
} norm_job;

static int64_t pieces_of(const kava_array *s) { return (s->count + PIECE - 1) / PIECE; }

static void sum_pieces(void *ctx, int64_t begin, int64_t end) {
  const norm_job *job = ctx;
  int64_t before = 0; /* pieces of the spans before this one */
  for (int64_t s = 0; s < job->count && before < end; before += pieces_of(&job->spans[s]), s++) {
    const kava_array *span = &job->spans[s];
    int64_t element = span->dtype == KAVA_F64 ? 8 : 4;
    for (int64_t i = begin > before ? begin - before : 0; i < pieces_of(span) && before + i < end; i++) {
      int64_t count = span->count - i * PIECE < PIECE ? span->count - i * PIECE : PIECE;
      job->sums[before + i] =
          kava_kernels_cpu()->square_sum(span->dtype, (const char *)span->data + i * PIECE * element, count);
    }
  }
}

kava_status kava_ref_gradient_norm(const kava_array *spans, int64_t count, double max_norm, double *norm) {
  int64_t pieces = 0;
  double sum = 0;
  for (int64_t s = 0; s < count; s++) pieces += pieces_of(&spans[s]);
  double *sums = kava_alloc((size_t)pieces * sizeof *sums);
  if (!sums) return KAVA_MEMORY;
  kava_parallel(pieces, 1, sum_pieces, &(norm_job){spans, count, sums});
  for (int64_t i = 0; i < pieces; i++) sum += sums[i];
  kava_free(sums);
  norm[0] = sqrt(sum);
  norm[1] = isfinite(norm[0]) && norm[0] > max_norm ? max_norm / (norm[0] + 1e-6) : 1;
  return KAVA_OK;
}

double kava_ref_square_sum(kava_dtype dtype, const void *x, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; i++) {
    double value = element_get(dtype, x, i);
    sum += value * value;
  }
  return sum;
}

void kava_ref_rescale(const kava_array *spans, int64_t count, kava_dtype type, const void *factor) {
  double by = element_get(type, factor, 0);
  for (int64_t s = 0; s < count && by != 1; s++)
    for (int64_t i = 0; i < spans[s].count; i++)
      element_put(spans[s].dtype, spans[s].data, i, element_get(spans[s].dtype, spans[s].data, i) * by, false);
}

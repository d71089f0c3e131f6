/* kernels/cpu/adamw.c: the plain reference of AdamW's step and of gradient clipping. Formulas: kernels/args.h. */
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/cpu/adamw.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/half.h"
#include "kernels/cpu/reference.h"

static double gradient(const kava_adamw_span *a, int64_t i) {
  return a->grad_dtype == KAVA_BF16 ? kava_bf16_to_f32(((const uint16_t *)a->g)[i])
                                    : element_get(a->grad_dtype, a->g, i);
}

static double value(const kava_adamw_span *a, int64_t i) {
  if (a->dtype == KAVA_BF16) return adamw_joined(((const uint16_t *)a->p)[i], ((const int16_t *)a->master)[i]);
  return element_get(a->dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32, a->dtype == KAVA_F16 ? a->master : a->p, i);
}

static void put_value(const kava_adamw_span *a, int64_t i, double p) {
  if (a->dtype == KAVA_BF16) {
    ((uint16_t *)a->p)[i] = adamw_high((float)p);
    ((int16_t *)a->master)[i] = adamw_low((float)p);
  } else {
    element_put(a->dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32, a->dtype == KAVA_F16 ? a->master : a->p, i, p, false);
    if (a->dtype == KAVA_F16) ((uint16_t *)a->p)[i] = kava_f32_to_f16((float)p);
  }
}

/* Elements from `from` to `to` of one block of codes. */
static void adamw_block(const kava_adamw_span *a, const adamw_rates *now, int64_t from, int64_t to) {
  kava_dtype wide = a->dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32;
  uint16_t *small_m = a->m, *small_v = a->v;
  uint8_t *code_m = a->m, *code_v = a->v;
  float first[KAVA_MOMENT_BLOCK], second[KAVA_MOMENT_BLOCK];
  float *most_m = a->most + from / KAVA_MOMENT_BLOCK, *most_v = most_m + kava_moment_blocks(a->count);
  for (int64_t i = from; i < to; i++) {
    double p = value(a, i), g = gradient(a, i), m, v;
    if (a->state_dtype == KAVA_U8) {
      m = adamw_m_of(code_m[i], *most_m);
      v = adamw_v_of(code_v[i], *most_v);
    } else if (a->state_dtype == KAVA_BF16) {
      m = kava_bf16_to_f32(small_m[i]);
      v = kava_bf16_to_f32(small_v[i]);
    } else {
      m = element_get(wide, a->m, i);
      v = element_get(wide, a->v, i);
    }
    p *= 1 - now->lr * a->decay;
    m += (1 - now->beta1) * (g - m);
    v = now->beta2 * v + (1 - now->beta2) * g * g;
    p -= now->lr * now->correction1 * m / (sqrt(v) * now->correction2 + now->eps);
    put_value(a, i, p);
    first[i - from] = (float)m;
    second[i - from] = (float)v;
    if (a->state_dtype == KAVA_BF16) {
      small_m[i] = kava_f32_to_bf16((float)m);
      small_v[i] = adamw_small_v((float)v, kava_adamw_noise(now->noise, (uint32_t)i));
    } else if (a->state_dtype != KAVA_U8) {
      element_put(wide, a->m, i, m, false);
      element_put(wide, a->v, i, v, false);
    }
  }
  if (a->state_dtype != KAVA_U8) return;
  *most_m = adamw_most(first, to - from);
  *most_v = adamw_most(second, to - from);
  for (int64_t i = from; i < to; i++) {
    uint32_t noise = kava_adamw_noise(now->noise, (uint32_t)i);
    code_m[i] = adamw_m_code(first[i - from], adamw_inverse(*most_m), noise);
    code_v[i] = adamw_v_code(second[i - from], adamw_inverse(*most_v), noise);
  }
}

void kava_adamw_plain(const kava_adamw_args *a, const kava_adamw_span *span) {
  adamw_rates now = adamw_rates_of(a, span);
  for (int64_t i = 0; i < span->count; i += KAVA_MOMENT_BLOCK)
    adamw_block(span, &now, i, i + KAVA_MOMENT_BLOCK < span->count ? i + KAVA_MOMENT_BLOCK : span->count);
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

kava_status kava_ref_gradient_norm(const kava_array *spans, int64_t count, double max_norm, const float *scale,
                                   double *norm) {
  int64_t pieces = 0;
  double sum = 0;
  for (int64_t s = 0; s < count; s++) pieces += pieces_of(&spans[s]);
  double *sums = kava_alloc((size_t)pieces * sizeof *sums);
  if (!sums) return KAVA_MEMORY;
  kava_parallel(pieces, 1, sum_pieces, &(norm_job){spans, count, sums});
  for (int64_t i = 0; i < pieces; i++) sum += sums[i];
  kava_free(sums);
  double by = scale ? *scale : 1;
  norm[0] = sqrt(sum) / by;
  norm[1] = isfinite(norm[0]) && norm[0] > max_norm ? max_norm / (norm[0] + 1e-6) : 1;
  if (isfinite(norm[0])) norm[1] /= by;
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

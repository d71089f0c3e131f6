/* kernels/cpu/simd/adamw.c: AdamW's step over the elements of all parameters at once, and gradient clipping.
 * The elements are cut into pieces of PIECE, none across two parameters; the pieces are shared out among the threads.
 * Each piece passes once through p, g, m and v. */
#include "kernels/cpu/simd/tail.h"
#include "base/threads.h"
#include "kernels/cpu/adamw.h"
#include "kernels/cpu/half.h"
#include "kernels/cpu/reference.h"
#include <math.h>

#define PIECE 8192
#define TILE 512

/* `n` elements in f32: p, m, v in place */
static void step(const kava_adamw_span *a, const adamw_rates *now, float *p, const float *g, float *m, float *v,
                 int64_t n) {
  vf keep = vf_set((float)(1 - now->lr * a->decay)), grow1 = vf_set((float)(1 - now->beta1)),
     grow2 = vf_set((float)(1 - now->beta2));
  vf beta2 = vf_set((float)now->beta2), rate = vf_set((float)(-now->lr * now->correction1)),
     root = vf_set((float)now->correction2), eps = vf_set((float)now->eps);
  for (int64_t i = 0; i < n; i += VF_LANES) {
    int64_t count = n - i;
    vf gradient = vf_load_to(g + i, count), first = vf_load_to(m + i, count), second = vf_load_to(v + i, count);
    first = vf_fma(grow1, vf_sub(gradient, first), first);
    second = vf_fma(vf_mul(grow2, gradient), gradient, vf_mul(beta2, second));
    vf_store_to(m + i, first, count);
    vf_store_to(v + i, second, count);
    vf value = vf_mul(vf_load_to(p + i, count), keep), divisor = vf_fma(vf_sqrt(second), root, eps);
    vf_store_to(p + i, vf_fma(rate, vf_div(first, divisor), value), count);
  }
}

/* The pieces of a span from i on as f32: where they lie, or widened into `room`. */
static float *values_at(const kava_adamw_span *a, int64_t i, int64_t n, float *room) {
  if (a->dtype != KAVA_BF16) return (float *)(a->dtype == KAVA_F16 ? a->master : a->p) + i;
  const uint16_t *high = (const uint16_t *)a->p + i;
  const int16_t *low = (const int16_t *)a->master + i;
  for (int64_t j = 0; j < n; j++) room[j] = adamw_joined(high[j], low[j]);
  return room;
}
static void values_back(const kava_adamw_span *a, int64_t i, int64_t n, const float *values) {
  uint16_t *p = (uint16_t *)a->p + i;
  if (a->dtype == KAVA_BF16) {
    int16_t *low = (int16_t *)a->master + i;
    for (int64_t j = 0; j < n; j++) p[j] = adamw_high(values[j]);
    for (int64_t j = 0; j < n; j++) low[j] = adamw_low(values[j]);
  } else if (a->dtype == KAVA_F16)
    for (int64_t j = 0; j < n; j++) p[j] = kava_f32_to_f16(values[j]);
}
static const float *gradient_at(const kava_adamw_span *a, int64_t i, int64_t n, float *room) {
  if (a->grad_dtype != KAVA_BF16) return (const float *)a->g + i;
  for (int64_t j = 0; j < n; j++) room[j] = kava_bf16_to_f32(((const uint16_t *)a->g)[i + j]);
  return room;
}

/* m and v in bf16 */
static void small_step(const kava_adamw_span *a, const adamw_rates *now, float *p, const float *g, int64_t at,
                       int64_t n) {
  uint16_t *m = (uint16_t *)a->m + at, *v = (uint16_t *)a->v + at;
  float first[TILE], second[TILE];
  for (int64_t i = 0; i < n; i++) first[i] = kava_bf16_to_f32(m[i]);
  for (int64_t i = 0; i < n; i++) second[i] = kava_bf16_to_f32(v[i]);
  step(a, now, p, g, first, second, n);
  for (int64_t i = 0; i < n; i++) m[i] = kava_f32_to_bf16(first[i]);
  for (int64_t i = 0; i < n; i++) v[i] = adamw_small_v(second[i], kava_adamw_noise(now->noise, (uint32_t)(at + i)));
}

/* m and v as codes; `at` begins a block */
static void coded_step(const kava_adamw_span *a, const adamw_rates *now, float *p, const float *g, int64_t at,
                       int64_t n) {
  uint8_t *m = (uint8_t *)a->m + at, *v = (uint8_t *)a->v + at;
  float first[TILE], second[TILE];
  float *most_m = a->most + at / KAVA_MOMENT_BLOCK, *most_v = most_m + kava_moment_blocks(a->count);
  for (int64_t i = 0; i < n; i++) first[i] = adamw_m_of(m[i], most_m[i / KAVA_MOMENT_BLOCK]);
  for (int64_t i = 0; i < n; i++) second[i] = adamw_v_of(v[i], most_v[i / KAVA_MOMENT_BLOCK]);
  step(a, now, p, g, first, second, n);
  for (int64_t from = 0; from < n; from += KAVA_MOMENT_BLOCK, most_m++, most_v++) {
    int64_t count = n - from < KAVA_MOMENT_BLOCK ? n - from : KAVA_MOMENT_BLOCK;
    *most_m = adamw_most(first + from, count);
    *most_v = adamw_most(second + from, count);
    float by_m = adamw_inverse(*most_m), by_v = adamw_inverse(*most_v);
    for (int64_t i = from; i < from + count; i++) {
      uint32_t noise = kava_adamw_noise(now->noise, (uint32_t)(at + i));
      m[i] = adamw_m_code(first[i], by_m, noise);
      v[i] = adamw_v_code(second[i], by_v, noise);
    }
  }
}

static void span_range(const kava_adamw_span *a, const adamw_rates *now, int64_t begin, int64_t end) {
  float value_room[TILE], gradient_room[TILE];
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    float *p = values_at(a, at, n, value_room);
    const float *g = gradient_at(a, at, n, gradient_room);
    if (a->state_dtype == KAVA_U8)
      coded_step(a, now, p, g, at, n);
    else if (a->state_dtype == KAVA_BF16)
      small_step(a, now, p, g, at, n);
    else
      step(a, now, p, g, (float *)a->m + at, (float *)a->v + at, n);
    values_back(a, at, n, p);
  }
}

typedef struct step_job {
  const kava_adamw_args *a;
  const kava_adamw_span *spans;
  int64_t count;
} step_job;

static int64_t pieces_of(const kava_adamw_span *a) { return (a->count + PIECE - 1) / PIECE; }

static void step_pieces(void *ctx, int64_t begin, int64_t end) {
  const step_job *job = ctx;
  int64_t before = 0; /* pieces of the spans before this one */
  for (int64_t s = 0; s < job->count && before < end; before += pieces_of(&job->spans[s]), s++) {
    const kava_adamw_span *a = &job->spans[s];
    int64_t from = begin > before ? begin - before : 0, to = end - before < pieces_of(a) ? end - before : pieces_of(a);
    if (from >= to) continue;
    adamw_rates now = adamw_rates_of(job->a, a);
    span_range(a, &now, from * PIECE, to * PIECE < a->count ? to * PIECE : a->count);
  }
}

static void adamw(const kava_adamw_args *a) {
  if (!adamw_begin(a)) return;
  /* runs of f32 and half-width parameters go to the pool together; f64 ones, of tests, go to the plain loops */
  for (int64_t i = 0; i < a->count;) {
    if (a->spans[i].dtype == KAVA_F64) {
      kava_adamw_plain(a, &a->spans[i++]);
      continue;
    }
    step_job job = {a, a->spans + i, 0};
    int64_t pieces = 0;
    for (; i < a->count && a->spans[i].dtype != KAVA_F64; i++, job.count++) pieces += pieces_of(&a->spans[i]);
    kava_parallel(pieces, 4, step_pieces, &job);
  }
}

static double square_sum(kava_dtype dtype, const void *x, int64_t count) {
  const float *at = x;
  double sum = 0;
  if (dtype == KAVA_F64) return kava_ref_square_sum(dtype, x, count);
  for (int64_t from = 0; from < count; from += PIECE / 2) {
    int64_t to = from + PIECE / 2 < count ? from + PIECE / 2 : count;
    vf s[2] = {vf_set(0), vf_set(0)};
    int k = 0;
    for (int64_t i = from; i < to; i += VF_LANES, k ^= 1) {
      vf v = vf_load_to(at + i, to - i);
      s[k] = vf_fma(v, v, s[k]);
    }
    sum += (double)vf_sum(vf_add(s[0], s[1]));
  }
  /* squares that overflow f32 do not in double */
  return isfinite(sum) ? sum : kava_ref_square_sum(dtype, x, count);
}

typedef struct scale_job {
  float *x, factor;
} scale_job;

static void scale_range(void *ctx, int64_t begin, int64_t end) {
  const scale_job *job = ctx;
  vf factor = vf_set(job->factor);
  for (int64_t i = begin; i < end; i += VF_LANES) {
    int64_t n = end - i;
    vf_store_to(job->x + i, vf_mul(factor, vf_load_to(job->x + i, n)), n);
  }
}

static void rescale(const kava_array *spans, int64_t count, kava_dtype type, const void *factor) {
  double by = type == KAVA_F64 ? *(const double *)factor : (double)*(const float *)factor;
  for (int64_t s = 0; s < count && by != 1; s++) {
    scale_job job = {spans[s].data, (float)by};
    if (spans[s].dtype == KAVA_F64)
      kava_ref_rescale(&spans[s], 1, type, factor);
    else
      kava_parallel(spans[s].count, 1 << 15, scale_range, &job);
  }
}

void KAVA_SIMD(adamw)(kava_kernels *table);
void KAVA_SIMD(adamw)(kava_kernels *table) {
  table->adamw = adamw;
  table->square_sum = square_sum;
  table->rescale = rescale;
}

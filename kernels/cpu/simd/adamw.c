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

/* m and v in bf16: widened a tile at a time, m rounded to nearest, v stochastically (kernels/args.h) */
static void small_step(const kava_adamw_span *a, const adamw_rates *now, float *p, int64_t begin, int64_t end) {
  uint16_t *m = a->m, *v = a->v;
  float first[TILE], second[TILE];
  for (int64_t at = begin; at < end; at += TILE) {
    int64_t n = end - at < TILE ? end - at : TILE;
    for (int64_t i = 0; i < n; i++) first[i] = kava_bf16_to_f32(m[at + i]);
    for (int64_t i = 0; i < n; i++) second[i] = kava_bf16_to_f32(v[at + i]);
    step(a, now, p + at, (const float *)a->g + at, first, second, n);
    for (int64_t i = 0; i < n; i++) m[at + i] = kava_f32_to_bf16(first[i]);
    for (int64_t i = 0; i < n; i++) {
      uint32_t bits = kava_bits_of_float(second[i]), noise = kava_adamw_noise(now->noise, (uint32_t)(at + i));
      bool finite = (bits & 0x7f800000u) != 0x7f800000u;
      v[at + i] = finite ? (uint16_t)((bits + noise) >> 16) : kava_f32_to_bf16(second[i]);
    }
  }
}

static void span_range(const kava_adamw_span *a, const adamw_rates *now, int64_t begin, int64_t end) {
  float *p = a->master ? a->master : a->p;
  if (a->state_dtype == KAVA_BF16)
    small_step(a, now, p, begin, end);
  else
    step(a, now, p + begin, (const float *)a->g + begin, (float *)a->m + begin, (float *)a->v + begin, end - begin);
  uint16_t *rounded = a->p;
  if (a->dtype == KAVA_BF16)
    for (int64_t i = begin; i < end; i++) rounded[i] = kava_f32_to_bf16(p[i]);
  if (a->dtype == KAVA_F16)
    for (int64_t i = begin; i < end; i++) rounded[i] = kava_f32_to_f16(p[i]);
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

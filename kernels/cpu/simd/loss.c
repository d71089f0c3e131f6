/* kernels/cpu/simd/loss.c: losses over pairs of rows and over rows of logits. Formulas: kernels/args.h.
 * Sums run in vectors over stretches of STRETCH elements and in double from stretch to stretch. */
#include "kernels/cpu/simd/tail.h"
#include "base/threads.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"
#include <math.h>
#include <string.h>

#define STRETCH 2048
#define INLINE static inline __attribute__((always_inline))

static int64_t grain(int64_t width) { return 8192 / (width + 1) + 1; }

static void dot_rows(void *ctx, int64_t begin, int64_t end) {
  const kava_rows_args *a = ctx;
  for (int64_t r = begin; r < end; r++) {
    double sums[3] = {0};
    const float *s = (const float *)a->s + r * a->width, *t = (const float *)a->t + r * a->width;
    for (int64_t from = 0; from < a->width && (!a->keep || a->keep[r]); from += STRETCH) {
      int64_t to = from + STRETCH < a->width ? from + STRETCH : a->width;
      vf ss[2] = {vf_set(0), vf_set(0)}, tt[2] = {vf_set(0), vf_set(0)}, st[2] = {vf_set(0), vf_set(0)};
      int k = 0;
      for (int64_t i = from; i < to; i += VF_LANES, k ^= 1) {
        int64_t n = to - i;
        vf x = vf_load_to(s + i, n), y = vf_load_to(t + i, n);
        ss[k] = vf_fma(x, x, ss[k]);
        tt[k] = vf_fma(y, y, tt[k]);
        st[k] = vf_fma(x, y, st[k]);
      }
      sums[0] += (double)vf_sum(vf_add(ss[0], ss[1]));
      sums[1] += (double)vf_sum(vf_add(tt[0], tt[1]));
      sums[2] += (double)vf_sum(vf_add(st[0], st[1]));
    }
    memcpy(a->sums + 3 * r, sums, sizeof sums);
  }
}

/* Gradient rows of tokens that are not data. */
static void clear_row(const kava_rows_args *a, int64_t r) {
  if (!a->add) memset((float *)a->out + r * a->width, 0, (size_t)a->width * sizeof(float));
}

static void combine_rows(void *ctx, int64_t begin, int64_t end) {
  const kava_rows_args *a = ctx;
  for (int64_t r = begin; r < end; r++) {
    if (a->keep && !a->keep[r]) {
      clear_row(a, r);
      continue;
    }
    const float *s = (const float *)a->s + r * a->width, *t = (const float *)a->t + r * a->width;
    float *out = (float *)a->out + r * a->width;
    vf p = vf_set((float)a->a[r]), q = vf_set((float)a->b[r]);
    for (int64_t i = 0; i < a->width; i += VF_LANES) {
      int64_t n = a->width - i;
      vf v = vf_fma(p, vf_load_to(s + i, n), vf_mul(q, vf_load_to(t + i, n)));
      vf_store_to(out + i, a->add ? vf_add(vf_load_to(out + i, n), v) : v, n);
    }
  }
}

/* h(d); for Huber m = min(|d|, beta): m (|d| - m/2) / beta */
INLINE vf distance(kava_distance kind, vf d, vf beta, vf inverse) {
  if (kind == KAVA_SQUARE) return vf_mul(d, d);
  vf size = vf_max(d, vf_sub(vf_set(0), d)), m = vf_min(size, beta);
  return vf_mul(vf_mul(m, vf_fma(m, vf_set(-0.5f), size)), inverse);
}

INLINE vf distance_slope(kava_distance kind, vf d, vf beta, vf inverse) {
  if (kind == KAVA_SQUARE) return vf_add(d, d);
  return vf_mul(vf_max(vf_min(d, beta), vf_sub(vf_set(0), beta)), inverse);
}

INLINE void distance_rows(const kava_rows_args *a, kava_distance kind, int64_t begin, int64_t end) {
  vf beta = vf_set((float)a->beta), inverse = vf_set((float)(1 / a->beta));
  for (int64_t r = begin; r < end; r++) {
    double sum = 0;
    const float *s = (const float *)a->s + r * a->width, *t = (const float *)a->t + r * a->width;
    for (int64_t from = 0; from < a->width && (!a->keep || a->keep[r]); from += STRETCH) {
      int64_t to = from + STRETCH < a->width ? from + STRETCH : a->width;
      vf sums[2] = {vf_set(0), vf_set(0)};
      int k = 0;
      for (int64_t i = from; i < to; i += VF_LANES, k ^= 1) {
        int64_t n = to - i;
        sums[k] = vf_add(sums[k], distance(kind, vf_sub(vf_load_to(s + i, n), vf_load_to(t + i, n)), beta, inverse));
      }
      sum += (double)vf_sum(vf_add(sums[0], sums[1]));
    }
    a->sums[r] = sum;
  }
}

INLINE void distance_grad_rows(const kava_rows_args *a, kava_distance kind, int64_t begin, int64_t end) {
  vf beta = vf_set((float)a->beta), inverse = vf_set((float)(1 / a->beta));
  for (int64_t r = begin; r < end; r++) {
    if (a->keep && !a->keep[r]) {
      clear_row(a, r);
      continue;
    }
    const float *s = (const float *)a->s + r * a->width, *t = (const float *)a->t + r * a->width;
    float *out = (float *)a->out + r * a->width;
    vf scale = vf_set((float)a->a[r]);
    for (int64_t i = 0; i < a->width; i += VF_LANES) {
      int64_t n = a->width - i;
      vf v = vf_mul(scale, distance_slope(kind, vf_sub(vf_load_to(s + i, n), vf_load_to(t + i, n)), beta, inverse));
      vf_store_to(out + i, a->add ? vf_add(vf_load_to(out + i, n), v) : v, n);
    }
  }
}

static void square_rows(void *ctx, int64_t begin, int64_t end) { distance_rows(ctx, KAVA_SQUARE, begin, end); }
static void huber_rows(void *ctx, int64_t begin, int64_t end) { distance_rows(ctx, KAVA_HUBER, begin, end); }
static void square_grad_rows(void *ctx, int64_t begin, int64_t end) {
  distance_grad_rows(ctx, KAVA_SQUARE, begin, end);
}
static void huber_grad_rows(void *ctx, int64_t begin, int64_t end) { distance_grad_rows(ctx, KAVA_HUBER, begin, end); }

/* |d| itself, Huber with beta 0, has no slope at 0 that the clamped form could express: the plain loops do it. */
static bool plain(const kava_rows_args *a) {
  return a->dtype == KAVA_F64 || (a->distance == KAVA_HUBER && !(a->beta > 0));
}

static void row_dots(const kava_rows_args *a) {
  if (a->dtype == KAVA_F64)
    kava_ref_row_dots(a);
  else
    kava_parallel(a->rows, grain(a->width), dot_rows, (void *)a);
}

static void row_combine(const kava_rows_args *a) {
  if (a->dtype == KAVA_F64)
    kava_ref_row_combine(a);
  else
    kava_parallel(a->rows, grain(a->width), combine_rows, (void *)a);
}

static void row_distance(const kava_rows_args *a) {
  if (plain(a))
    kava_ref_row_distance(a);
  else
    kava_parallel(a->rows, grain(a->width), a->distance == KAVA_SQUARE ? square_rows : huber_rows, (void *)a);
}

static void row_distance_grad(const kava_rows_args *a) {
  if (plain(a))
    kava_ref_row_distance_grad(a);
  else
    kava_parallel(a->rows, grain(a->width), a->distance == KAVA_SQUARE ? square_grad_rows : huber_grad_rows, (void *)a);
}

/* Logits. A row of some ten thousand floats stays in the second-level cache from its maximum to its gradient. */

/* The maximum and where it first stands: the search goes into one stretch only. */
static float row_max(const float *x, int64_t width, int64_t *first) {
  float most = -INFINITY;
  int64_t at = 0;
  for (int64_t from = 0; from < width; from += STRETCH) {
    int64_t to = from + STRETCH < width ? from + STRETCH : width, i = from;
    vf m[2] = {vf_set(-INFINITY), vf_set(-INFINITY)};
    for (; i + 2 * VF_LANES <= to; i += 2 * VF_LANES) {
      m[0] = vf_max(m[0], vf_load(x + i));
      m[1] = vf_max(m[1], vf_load(x + i + VF_LANES));
    }
    float best = vf_hmax(vf_max(m[0], m[1]));
    for (; i < to; i++) best = x[i] > best ? x[i] : best;
    if (best > most) {
      most = best;
      at = from;
    }
  }
  while (at + 1 < width && x[at] != most) at++;
  *first = at;
  return most;
}

/* exp of x, into whose result an infinity in x finds its way as a NaN (vf_exp clamps them) */
INLINE vf honest_exp(vf x) { return vf_fma(x, vf_set(0), vf_exp(x)); }

/* sum of exp((x - most) scale), in double */
static double exp_sum(const float *x, int64_t width, float most, float scale) {
  double sum = 0;
  vf m = vf_set(most), k = vf_set(scale);
  for (int64_t from = 0; from < width; from += STRETCH) {
    int64_t to = from + STRETCH < width ? from + STRETCH : width, i = from;
    vf s[2] = {vf_set(0), vf_set(0)};
    for (int lane = 0; i + VF_LANES <= to; i += VF_LANES, lane ^= 1)
      s[lane] = vf_add(s[lane], honest_exp(vf_mul(vf_sub(vf_load(x + i), m), k)));
    sum += (double)vf_sum(vf_add(s[0], s[1]));
    for (; i < to; i++) sum += exp((double)((x[i] - most) * scale));
  }
  return sum;
}

/* As exp_sum for the teacher's row t; *cross: sum of exp(t') (t' - s') with t' = (t - most_t) scale and so on. Shifted
 * by their maxima the differences are small where the two models agree, and the divergence loses little to
 * cancellation. */
static double exp_sum_cross(const float *t, const float *s, int64_t width, float most_t, float most_s, float scale,
                            double *cross) {
  double sum = 0, crossed = 0;
  vf mt = vf_set(most_t), ms = vf_set(most_s), k = vf_set(scale);
  for (int64_t from = 0; from < width; from += STRETCH) {
    int64_t to = from + STRETCH < width ? from + STRETCH : width, i = from;
    vf a[2] = {vf_set(0), vf_set(0)}, b[2] = {vf_set(0), vf_set(0)};
    for (int lane = 0; i + VF_LANES <= to; i += VF_LANES, lane ^= 1) {
      vf x = vf_mul(vf_sub(vf_load(t + i), mt), k), y = vf_mul(vf_sub(vf_load(s + i), ms), k), e = honest_exp(x);
      a[lane] = vf_add(a[lane], e);
      b[lane] = vf_fma(e, vf_sub(x, y), b[lane]);
    }
    sum += (double)vf_sum(vf_add(a[0], a[1]));
    crossed += (double)vf_sum(vf_add(b[0], b[1]));
    for (; i < to; i++) {
      double x = (double)((t[i] - most_t) * scale), y = (double)((s[i] - most_s) * scale), e = exp(x);
      sum += e;
      crossed += e * (x - y);
    }
  }
  *cross = crossed;
  return sum;
}

typedef struct row_job {
  const float *s, *t; /* t NULL: no teacher */
  float *ds, *dt;
  bool add_s, add_t, counted; /* counted: the row has a target */
  int64_t width;
  float scale, lse_one, lse_s, lse_t; /* 1/T; log-sums: of s, of s/T, of t/T */
  float ce, kl, pull, divergence;     /* factors of (p - onehot), of (p' - q') and of dt; KL without its T^2 */
} row_job;

INLINE void gradient_at(const row_job *j, int64_t i, int64_t n, bool teacher, bool one) {
  vf s = vf_load_to(j->s + i, n), ds = vf_set(0), soft = vf_sub(vf_mul(s, vf_set(j->scale)), vf_set(j->lse_s));
  vf p = teacher || one ? vf_exp(soft) : vf_set(0);
  if (j->counted) ds = vf_mul(vf_set(j->ce), one ? p : vf_exp(vf_sub(s, vf_set(j->lse_one))));
  if (teacher) {
    vf hard = vf_sub(vf_mul(vf_load_to(j->t + i, n), vf_set(j->scale)), vf_set(j->lse_t)), q = vf_exp(hard);
    ds = vf_fma(vf_set(j->kl), vf_sub(p, q), ds);
    if (j->dt) {
      vf dt = vf_mul(vf_mul(vf_set(j->pull), q), vf_sub(vf_sub(hard, soft), vf_set(j->divergence)));
      vf_store_to(j->dt + i, j->add_t ? vf_add(vf_load_to(j->dt + i, n), dt) : dt, n);
    }
  }
  if (j->ds) vf_store_to(j->ds + i, j->add_s ? vf_add(vf_load_to(j->ds + i, n), ds) : ds, n);
}

INLINE void gradient_row(const row_job *j, bool teacher, bool one) {
  int64_t i = 0;
  for (; i + VF_LANES <= j->width; i += VF_LANES) gradient_at(j, i, VF_LANES, teacher, one);
  if (i < j->width) gradient_at(j, i, j->width - i, teacher, one);
}

/* One row; false when something in it is not finite: the plain loops know what to do then. */
static bool logits_row(const kava_logits_args *a, int64_t r) {
  row_job j = {.s = (const float *)a->s + r * a->width,
               .t = a->t ? (const float *)a->t + r * a->width : NULL,
               .ds = a->ds ? (float *)a->ds + r * a->width : NULL,
               .dt = a->dt ? (float *)a->dt + r * a->width : NULL,
               .add_s = a->add_s,
               .add_t = a->add_t,
               .width = a->width,
               .scale = (float)(1 / a->temperature)};
  int64_t first_s, first_t = -1, target = a->targets ? a->targets[r] : -1;
  float most_s = row_max(j.s, j.width, &first_s), most_t = 0;
  bool one = a->temperature == 1;
  double T = a->temperature, divergence = 0, one_sum = one || target >= 0 ? exp_sum(j.s, j.width, most_s, 1) : 1;
  double soft_sum = one || !j.t ? one_sum : exp_sum(j.s, j.width, most_s, j.scale);
  double lse_one = (double)most_s + log(one_sum), lse_s = (double)most_s / T + log(soft_sum), lse_t = 0;
  if (j.t) {
    double cross, sum;
    most_t = row_max(j.t, j.width, &first_t);
    sum = exp_sum_cross(j.t, j.s, j.width, most_t, most_s, j.scale, &cross);
    lse_t = (double)most_t / T + log(sum);
    divergence = cross / sum - log(sum) + log(soft_sum);
    if (divergence < 0) divergence = 0; /* rounding: it is never less */
  }
  if (!isfinite(lse_one) || !isfinite(lse_s) || !isfinite(lse_t) || !isfinite(divergence)) return false;
  a->stats[3 * r] = target >= 0 ? lse_one - (double)j.s[target] : 0;
  a->stats[3 * r + 1] = T * T * divergence;
  a->stats[3 * r + 2] = first_s == first_t;
  if (!j.ds && !j.dt) return true;
  j.counted = target >= 0;
  j.lse_one = (float)lse_one, j.lse_s = (float)lse_s, j.lse_t = (float)lse_t;
  j.ce = (float)a->ce_scale, j.kl = j.pull = (float)(a->kl_scale * T), j.divergence = (float)divergence;
  if (j.t && one)
    gradient_row(&j, true, true);
  else if (j.t)
    gradient_row(&j, true, false);
  else
    gradient_row(&j, false, false);
  if (j.ds && target >= 0) j.ds[target] -= j.ce;
  return true;
}

static void logits_range(void *ctx, int64_t begin, int64_t end) {
  const kava_logits_args *a = ctx;
  for (int64_t r = begin; r < end; r++) {
    if ((!a->keep || a->keep[r]) && logits_row(a, r)) continue;
    kava_logits_args one = *a;
    size_t at = (size_t)(r * a->width) * sizeof(float);
    one.rows = 1;
    one.s = (const char *)a->s + at;
    one.t = a->t ? (const char *)a->t + at : NULL;
    one.ds = a->ds ? (char *)a->ds + at : NULL;
    one.dt = a->dt ? (char *)a->dt + at : NULL;
    one.targets = a->targets ? a->targets + r : NULL;
    one.keep = a->keep ? a->keep + r : NULL;
    one.stats = a->stats + 3 * r;
    kava_ref_logits_rows(&one);
  }
}

static void logits_rows(const kava_logits_args *a) {
  kava_logits_args scaled = logits_scaled(a);
  if (a->dtype == KAVA_F64)
    kava_ref_logits_rows(a);
  else
    kava_parallel(a->rows, grain(a->width), logits_range, &scaled);
}

void KAVA_SIMD(loss)(kava_kernels *table);
void KAVA_SIMD(loss)(kava_kernels *table) {
  table->row_dots = row_dots;
  table->row_combine = row_combine;
  table->row_distance = row_distance;
  table->row_distance_grad = row_distance_grad;
  table->logits_rows = logits_rows;
}

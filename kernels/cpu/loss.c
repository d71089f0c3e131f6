/* kernels/cpu/loss.c: the plain reference of the losses over rows. Formulas: kernels/args.h. */
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"
#include <math.h>

void kava_ref_row_dots(const kava_rows_args *a) {
  for (int64_t r = 0; r < a->rows; r++) {
    double ss = 0, tt = 0, st = 0;
    for (int64_t i = r * a->width; i < (r + 1) * a->width && (!a->keep || a->keep[r]); i++) {
      double s = element_get(a->dtype, a->s, i), t = element_get(a->dtype, a->t, i);
      ss += s * s;
      tt += t * t;
      st += s * t;
    }
    a->sums[3 * r] = ss, a->sums[3 * r + 1] = tt, a->sums[3 * r + 2] = st;
  }
}

void kava_ref_row_combine(const kava_rows_args *a) {
  for (int64_t r = 0; r < a->rows; r++) {
    bool keep = !a->keep || a->keep[r];
    for (int64_t i = r * a->width; i < (r + 1) * a->width; i++)
      element_put(a->dtype, a->out, i,
                  keep ? a->a[r] * element_get(a->dtype, a->s, i) + a->b[r] * element_get(a->dtype, a->t, i) : 0,
                  a->add);
  }
}

static double distance(const kava_rows_args *a, double d) {
  if (a->distance == KAVA_SQUARE) return d * d;
  return fabs(d) < a->beta ? 0.5 * d * d / a->beta : fabs(d) - 0.5 * a->beta;
}

static double distance_slope(const kava_rows_args *a, double d) {
  if (a->distance == KAVA_SQUARE) return 2 * d;
  return fabs(d) < a->beta ? d / a->beta : d > 0 ? 1 : d < 0 ? -1 : d;
}

void kava_ref_row_distance(const kava_rows_args *a) {
  for (int64_t r = 0; r < a->rows; r++) {
    double sum = 0;
    for (int64_t i = r * a->width; i < (r + 1) * a->width && (!a->keep || a->keep[r]); i++)
      sum += distance(a, element_get(a->dtype, a->s, i) - element_get(a->dtype, a->t, i));
    a->sums[r] = sum;
  }
}

void kava_ref_row_distance_grad(const kava_rows_args *a) {
  for (int64_t r = 0; r < a->rows; r++) {
    bool keep = !a->keep || a->keep[r];
    for (int64_t i = r * a->width; i < (r + 1) * a->width; i++) {
      double d = keep ? element_get(a->dtype, a->s, i) - element_get(a->dtype, a->t, i) : 0;
      element_put(a->dtype, a->out, i, keep ? a->a[r] * distance_slope(a, d) : 0, a->add);
    }
  }
}

/* log of the sum of exp(x * scale), and where the first maximum is */
static double log_sum(kava_dtype dtype, const void *x, int64_t at, int64_t width, double scale, int64_t *first) {
  double most = -INFINITY, sum = 0;
  *first = 0;
  for (int64_t i = 0; i < width; i++) {
    double value = element_get(dtype, x, at + i) * scale;
    if (value > most) {
      most = value;
      *first = i;
    }
  }
  for (int64_t i = 0; i < width; i++) sum += exp(element_get(dtype, x, at + i) * scale - most);
  return most + log(sum);
}

static void logits_row(const kava_logits_args *a, int64_t r) {
  int64_t at = r * a->width, first_s, first_t = -1, target = a->targets ? a->targets[r] : -1;
  double T = a->temperature, scale = 1 / T, kl = 0;
  double plain = log_sum(a->dtype, a->s, at, a->width, 1, &first_s);
  double soft = T == 1 ? plain : log_sum(a->dtype, a->s, at, a->width, scale, &first_s);
  double teacher = a->t ? log_sum(a->dtype, a->t, at, a->width, scale, &first_t) : 0;
  for (int64_t i = 0; i < a->width && a->t; i++) {
    double log_q = element_get(a->dtype, a->t, at + i) * scale - teacher, q = exp(log_q);
    if (q > 0) kl += q * (log_q - (element_get(a->dtype, a->s, at + i) * scale - soft));
  }
  a->stats[3 * r] = target >= 0 ? plain - element_get(a->dtype, a->s, at + target) : 0;
  a->stats[3 * r + 1] = T * T * kl;
  a->stats[3 * r + 2] = first_s == first_t;
  if (!a->ds && !a->dt) return;
  for (int64_t i = 0; i < a->width; i++) {
    double s = element_get(a->dtype, a->s, at + i), ds = 0, dt = 0;
    if (target >= 0) ds += a->ce_scale * (exp(s - plain) - (i == target));
    if (a->t) {
      double log_q = element_get(a->dtype, a->t, at + i) * scale - teacher, q = exp(log_q), log_p = s * scale - soft;
      ds += a->kl_scale * T * (exp(log_p) - q);
      dt = q > 0 ? a->kl_scale * T * q * (log_q - log_p - kl) : 0;
    }
    if (a->ds) element_put(a->dtype, a->ds, at + i, ds, a->add_s);
    if (a->dt) element_put(a->dtype, a->dt, at + i, dt, a->add_t);
  }
}

void kava_ref_logits_rows(const kava_logits_args *given) {
  kava_logits_args scaled = logits_scaled(given), *a = &scaled;
  for (int64_t r = 0; r < a->rows; r++) {
    if (!a->keep || a->keep[r]) {
      logits_row(a, r);
      continue;
    }
    a->stats[3 * r] = a->stats[3 * r + 1] = a->stats[3 * r + 2] = 0;
    for (int64_t i = r * a->width; i < (r + 1) * a->width; i++) {
      if (a->ds && !a->add_s) element_put(a->dtype, a->ds, i, 0, false);
      if (a->dt && !a->add_t) element_put(a->dtype, a->dt, i, 0, false);
    }
  }
}

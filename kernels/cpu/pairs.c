/* kernels/cpu/pairs.c: losses over pairs of rows, and means over rows; what is slow in them is in the row kernels
 * (kernels/cpu/loss.c). Formulas: kernels/args.h. */
#include "base/memory.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"
#include <math.h>

static kava_rows_args rows_of(const kava_pair_loss_args *a) {
  return (kava_rows_args){.dtype = a->dtype,
                          .distance = a->distance,
                          .beta = a->beta,
                          .rows = a->rows,
                          .width = a->width,
                          .s = a->s,
                          .t = a->t,
                          .keep = a->keep,
                          .sums = a->sums};
}

void kava_ref_count_rows(const uint8_t *keep, const int64_t *targets, int64_t rows, double *count) {
  int64_t counted = 0;
  for (int64_t r = 0; r < rows; r++) counted += (!keep || keep[r]) && (!targets || targets[r] >= 0);
  *count = (double)counted;
}

void kava_ref_means(const kava_means_args *a) {
  double loss = 0;
  for (int64_t c = 0; c < a->columns; c++) {
    double sum = 0;
    for (int64_t r = 0; r < a->rows; r++) sum += a->stats[r * a->columns + c];
    a->metrics[c] = sum / *a->counted;
    double weight = a->weight[c] * (a->by[c] ? element_get(a->dtype, a->by[c], 0) : 1);
    if (weight != 0) loss += weight * a->metrics[c];
  }
  a->metrics[a->columns] = *a->counted;
  if (a->loss) element_put(a->dtype, a->loss, 0, loss, false);
}

void kava_ref_mercator(const kava_pair_loss_args *a) {
  kava_rows_args rows = rows_of(a);
  double cosine = 0, magnitude = 0;
  kava_kernels_cpu()->row_dots(&rows);
  for (int64_t r = 0; r < a->rows; r++) {
    if (a->keep && !a->keep[r]) continue;
    double ns = sqrt(a->sums[3 * r]), nt = sqrt(a->sums[3 * r + 1]), gap = log(ns + a->eps) - log(nt + a->eps);
    cosine += a->sums[3 * r + 2] / (fmax(ns, KAVA_UNIT_EPS) * fmax(nt, KAVA_UNIT_EPS));
    magnitude += gap * gap;
  }
  a->metrics[0] = cosine / *a->counted;
  a->metrics[1] = magnitude / *a->counted;
  element_put(a->dtype, a->loss, 0, a->alpha * (1 - a->metrics[0]) + (a->beta != 0 ? a->beta * a->metrics[1] : 0),
              false);
}

/* d cos / ds = a s + b t, for s.s = ss and so on. F.normalize's clamp: below KAVA_UNIT_EPS the norm is a constant. */
static void cosine_slope(double ss, double tt, double st, double *a, double *b) {
  double ns = fmax(sqrt(ss), KAVA_UNIT_EPS), nt = fmax(sqrt(tt), KAVA_UNIT_EPS);
  *b = 1 / (ns * nt);
  *a = sqrt(ss) > KAVA_UNIT_EPS ? -st / (ns * ns * ns * nt) : 0;
}

/* Each side's gradient row is a combination of the two rows. */
kava_status kava_ref_mercator_grad(const kava_pair_loss_args *a) {
  kava_rows_args rows = rows_of(a);
  double *slopes = kava_alloc((size_t)a->rows * 2 * sizeof *slopes), *own = slopes, *other = slopes + a->rows;
  if (!slopes) return KAVA_MEMORY;
  double scale = element_get(a->dtype, a->grad, 0) / *a->counted;
  for (int side = 0; side < 2; side++) {
    rows.out = side == 0 ? a->ds : a->dt;
    if (!rows.out) continue;
    for (int64_t r = 0; r < a->rows; r++) {
      const double *sums = a->sums + 3 * r;
      double mine = sums[side], theirs = sums[1 - side], slope_own, slope_other;
      cosine_slope(mine, theirs, sums[2], &slope_own, &slope_other);
      double norm = sqrt(mine), gap = log(norm + a->eps) - log(sqrt(theirs) + a->eps);
      own[r] = -a->alpha * scale * slope_own;
      if (norm > 0 && a->beta != 0) own[r] += a->beta * scale * 2 * gap / (norm * (norm + a->eps));
      other[r] = -a->alpha * scale * slope_other;
    }
    rows.a = side == 0 ? own : other;
    rows.b = side == 0 ? other : own;
    rows.add = side == 0 ? a->add_s : a->add_t;
    kava_kernels_cpu()->row_combine(&rows);
  }
  kava_free(slopes);
  return KAVA_OK;
}

static double divisor(const kava_pair_loss_args *a, int64_t r) {
  return a->relative ? a->dots[3 * r + 1] + KAVA_RELATIVE_EPS : (double)a->width;
}

void kava_ref_distance(const kava_pair_loss_args *a) {
  kava_rows_args rows = rows_of(a);
  double total = 0;
  kava_kernels_cpu()->row_distance(&rows);
  rows.sums = a->dots;
  if (a->relative) kava_kernels_cpu()->row_dots(&rows);
  for (int64_t r = 0; r < a->rows; r++)
    if (!a->keep || a->keep[r]) total += a->sums[r] / divisor(a, r);
  a->metrics[0] = total / *a->counted;
  element_put(a->dtype, a->loss, 0, a->metrics[0], false);
}

kava_status kava_ref_distance_grad(const kava_pair_loss_args *a) {
  kava_rows_args rows = rows_of(a);
  double *slope = kava_alloc((size_t)a->rows * 2 * sizeof *slope), *zero = slope + a->rows;
  if (!slope) return KAVA_MEMORY;
  double scale = element_get(a->dtype, a->grad, 0) / *a->counted;
  for (int side = 0; side < 2; side++) {
    rows.out = side == 0 ? a->ds : a->dt;
    rows.add = side == 0 ? a->add_s : a->add_t;
    if (!rows.out) continue;
    for (int64_t r = 0; r < a->rows; r++) slope[r] = (side == 1 ? -scale : scale) / divisor(a, r);
    rows.a = slope;
    kava_kernels_cpu()->row_distance_grad(&rows);
    if (side == 0 || !a->relative) continue;
    /* the teacher also stands in the divisor: -|s-t|^2 2t / (|t|^2 + eps)^2 */
    for (int64_t r = 0; r < a->rows; r++) {
      zero[r] = 0;
      slope[r] = -2 * scale * a->sums[r] / (divisor(a, r) * divisor(a, r));
    }
    rows.a = zero;
    rows.b = slope;
    rows.add = true;
    kava_kernels_cpu()->row_combine(&rows);
  }
  kava_free(slope);
  return KAVA_OK;
}

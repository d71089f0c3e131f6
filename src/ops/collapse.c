#include "ops/collapse.h"
#include "ops/operand.h"
#include <math.h>
#include <string.h>

/* The counted rows of x in double, at most `limit` of them, at equal distances. */
static kava_status open_rows(const char *op, kava_tensor *x, kava_tensor *mask, int64_t limit, double **rows,
                             int64_t *count, int64_t *width) {
  kava_status st = KAVA_OK;
  kava_tensor *values = NULL, *wide = NULL;
  uint8_t *keep = NULL;
  int64_t counted;
  if (!kava_dtype_is_float(x->dtype) || x->dims < 1)
    KAVA_FAIL(KAVA_MISUSE, "%s: x is %s with %d dimensions; [.., D] of a plain float type expected", op,
              kava_dtype_name(x->dtype), x->dims);
  *width = x->shape[x->dims - 1];
  int64_t all = *width ? kava_tensor_numel(x) / *width : 0;
  KAVA_TRY(kava_operand_mask(op, mask, all, &keep, &counted));
  if (counted == 0) KAVA_FAIL(KAVA_MISUSE, "%s: no row counts (%lld rows, the mask leaves none)", op, (long long)all);
  KAVA_TRY(kava_operand(op, "x", x, KAVA_F64, &wide));
  KAVA_TRY(kava_tensor_on(wide, KAVA_CPU, &values));
  *count = counted < limit ? counted : limit;
  *rows = kava_alloc((size_t)(*count * *width) * sizeof **rows);
  if (!*rows) KAVA_TRY(KAVA_MEMORY);
  int64_t seen = 0, taken = 0;
  for (int64_t r = 0; r < all && taken < *count; r++) {
    if (!keep[r]) continue;
    if (seen++ == taken * counted / *count)
      memcpy(*rows + taken++ * *width, kava_f64(values) + r * *width, (size_t)*width * sizeof **rows);
  }
out:
  kava_free(keep);
  kava_tensor_release(&values);
  kava_tensor_release(&wide);
  return st;
}

/* Householder reduction of the symmetric n x n matrix `a` to tridiagonal form: diagonal d, subdiagonal e[1..n-1].
 * `a` is destroyed (Golub & Van Loan, Matrix Computations, 8.3.1). */
static void tridiagonalise(double *a, int64_t n, double *d, double *e, double *p) {
  e[0] = 0;
  for (int64_t k = 0; k + 2 < n; k++) {
    double norm = 0, *v = a + k * n; /* row k, right of the diagonal: by symmetry the column below it */
    for (int64_t i = k + 1; i < n; i++) norm = hypot(norm, v[i]);
    d[k] = v[k];
    e[k + 1] = v[k + 1] > 0 ? -norm : norm;
    if (norm == 0) continue;
    v[k + 1] -= e[k + 1];
    double square = 0, dot = 0;
    for (int64_t i = k + 1; i < n; i++) square += v[i] * v[i];
    for (int64_t i = k + 1; i < n; i++) {
      double sum = 0;
      for (int64_t j = k + 1; j < n; j++) sum += a[i * n + j] * v[j];
      p[i] = 2 * sum / square;
      dot += p[i] * v[i];
    }
    for (int64_t i = k + 1; i < n; i++) p[i] -= dot / square * v[i];
    for (int64_t i = k + 1; i < n; i++)
      for (int64_t j = k + 1; j < n; j++) a[i * n + j] -= v[i] * p[j] + p[i] * v[j];
  }
  if (n > 1) {
    d[n - 2] = a[(n - 2) * n + n - 2];
    e[n - 1] = a[(n - 2) * n + n - 1];
  }
  d[n - 1] = a[n * n - 1];
}

/* How many eigenvalues of the tridiagonal matrix are less than x: a Sturm sequence (Golub & Van Loan 8.4.1). */
static int64_t below(const double *d, const double *e, int64_t n, double x, double tiny) {
  int64_t count = 0;
  double q = 1;
  for (int64_t i = 0; i < n; i++) {
    q = d[i] - x - (i ? e[i] * e[i] / q : 0);
    if (fabs(q) < tiny) q = -tiny;
    count += q < 0;
  }
  return count;
}

/* Eigenvalues in ascending order by bisection: slow beside QL, but each is found to the last bit the matrix determines.
 */
static void eigenvalues(const double *d, const double *e, int64_t n, double *out) {
  double low = INFINITY, high = -INFINITY;
  for (int64_t i = 0; i < n; i++) { /* Gershgorin's discs */
    double radius = fabs(e[i]) + (i + 1 < n ? fabs(e[i + 1]) : 0);
    low = fmin(low, d[i] - radius);
    high = fmax(high, d[i] + radius);
  }
  double size = fmax(fabs(low), fabs(high)), tiny = size * 1e-300 + 1e-300;
  for (int64_t k = 0; k < n; k++) {
    double a = k ? out[k - 1] : low, b = high;
    while (b - a > 1e-15 * size) {
      double middle = 0.5 * (a + b);
      if (middle <= a || middle >= b) break;
      if (below(d, e, n, middle, tiny) > k)
        b = middle;
      else
        a = middle;
    }
    out[k] = 0.5 * (a + b);
  }
}

kava_status kava_effective_rank(kava_tensor *x, kava_tensor *mask, double *rank) {
  kava_status st = KAVA_OK;
  double *rows = NULL, *gram = NULL, *d = NULL, sum = 0, entropy = 0, most = 0;
  int64_t n, width;
  KAVA_TRY(open_rows("effective_rank", x, mask, KAVA_COLLAPSE_ROWS, &rows, &n, &width));
  gram = kava_alloc((size_t)(n * n) * sizeof *gram);
  d = kava_alloc((size_t)(4 * n) * sizeof *d);
  if (!gram || !d) KAVA_TRY(KAVA_MEMORY);
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j <= i; j++) {
      double dot = 0;
      for (int64_t c = 0; c < width; c++) dot += rows[i * width + c] * rows[j * width + c];
      gram[i * n + j] = gram[j * n + i] = dot;
    }
  double *e = d + n, *work = d + 2 * n, *values = d + 3 * n;
  for (int64_t i = 0; i < n; i++) {
    if (!isfinite(gram[i * n + i]))
      KAVA_FAIL(KAVA_MISUSE, "effective_rank: row %lld of those looked at is not finite", (long long)i + 1);
    most = fmax(most, gram[i * n + i]);
  }
  *rank = 0;
  if (most == 0) goto out;
  tridiagonalise(gram, n, d, e, work);
  eigenvalues(d, e, n, values);
  /* Singular values are the square roots; what lies below the rounding error of the Gram matrix is no direction. */
  double floor = values[n - 1] * 1e-14 * (double)n;
  for (int64_t i = 0; i < n; i++) {
    values[i] = values[i] > floor ? sqrt(values[i]) : 0;
    sum += values[i];
  }
  for (int64_t i = 0; i < n; i++)
    if (values[i] > 0) entropy -= values[i] / sum * log(values[i] / sum);
  *rank = exp(entropy);
out:
  kava_free(rows);
  kava_free(gram);
  kava_free(d);
  return st;
}

kava_status kava_mean_direction_norm(kava_tensor *x, kava_tensor *mask, double *norm) {
  kava_status st = KAVA_OK;
  double *rows = NULL, *mean = NULL, square = 0;
  int64_t n, width, used = 0;
  KAVA_TRY(open_rows("mean_direction_norm", x, mask, INT64_MAX, &rows, &n, &width));
  mean = kava_calloc((size_t)width, sizeof *mean);
  if (!mean) KAVA_TRY(KAVA_MEMORY);
  for (int64_t i = 0; i < n; i++) {
    double length = 0;
    for (int64_t c = 0; c < width; c++) length += rows[i * width + c] * rows[i * width + c];
    if (length == 0) continue;
    length = sqrt(length);
    for (int64_t c = 0; c < width; c++) mean[c] += rows[i * width + c] / length;
    used++;
  }
  for (int64_t c = 0; c < width; c++) square += mean[c] * mean[c];
  *norm = used ? sqrt(square) / (double)used : 0;
out:
  kava_free(rows);
  kava_free(mean);
  return st;
}

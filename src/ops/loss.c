#include "ops/loss.h"
#include "kernels/kernels.h"
#include "ops/operand.h"
#include "tape/tape.h"
#include <math.h>

#define UNIT_EPS 1e-12     /* F.normalize's */
#define RELATIVE_EPS 1e-12 /* keeps a teacher row of zeros from dividing by 0 */

static double scalar_of(const kava_tensor *grad) {
  return grad->dtype == KAVA_F64 ? *kava_f64(grad) : (double)*kava_f32(grad);
}

static kava_status new_scalar(kava_dtype dtype, double value, kava_tensor **out) {
  kava_status st = kava_tensor_new(dtype, 0, NULL, out);
  if (st != KAVA_OK) return st;
  if (dtype == KAVA_F64)
    *kava_f64(*out) = value;
  else
    *kava_f32(*out) = (float)value;
  return KAVA_OK;
}

/* What every row loss checks and prepares. */
typedef struct pair {
  kava_tensor *s, *t, *keep; /* contiguous in `dtype`; keep: u8 [rows] */
  kava_dtype dtype;
  int64_t rows, width, counted;
} pair;

static void pair_free(pair *p) {
  kava_tensor_release(&p->s);
  kava_tensor_release(&p->t);
  kava_tensor_release(&p->keep);
}

static kava_status pair_open(const char *op, kava_tensor *student, kava_tensor *teacher, kava_tensor *mask, pair *p) {
  kava_status st = KAVA_OK;
  kava_tensor *both[2] = {student, teacher};
  uint8_t *keep = NULL;
  KAVA_TRY(kava_operand_dtype(op, 2, both, (const char *const[]){"student", "teacher"}, &p->dtype));
  KAVA_TRY(kava_operand_shape(op, "teacher", teacher, student->dims, student->shape));
  if (student->dims < 1) KAVA_FAIL(KAVA_MISUSE, "%s: student has no dimensions; [.., D] expected", op);
  p->width = student->shape[student->dims - 1];
  p->rows = p->width ? kava_tensor_numel(student) / p->width : 0;
  KAVA_TRY(kava_operand_mask(op, mask, p->rows, &keep, &p->counted));
  if (p->counted == 0)
    KAVA_FAIL(KAVA_MISUSE, "%s: no row counts (%lld rows, the mask leaves none)", op, (long long)p->rows);
  KAVA_TRY(kava_tensor_from(KAVA_U8, 1, &p->rows, keep, &p->keep));
  KAVA_TRY(kava_operand(op, "student", student, p->dtype, &p->s));
  KAVA_TRY(kava_operand(op, "teacher", teacher, p->dtype, &p->t));
out:
  kava_free(keep);
  return st;
}

static kava_rows_args rows_of(const kava_tensor *s, const kava_tensor *t, const kava_tensor *keep) {
  return (kava_rows_args){.dtype = s->dtype,
                          .rows = keep->shape[0],
                          .width = s->shape[s->dims - 1],
                          .s = kava_tensor_data(s),
                          .t = kava_tensor_data(t),
                          .keep = kava_tensor_data(keep)};
}

/* Saves student, teacher, mask and the rows' sums: what the backward passes of all row losses start from. */
static kava_status pair_record(const char *op, kava_backward_fn backward, kava_tensor *student, kava_tensor *teacher,
                               pair *p, kava_tensor *sums, kava_tensor *loss, kava_node **node) {
  kava_tensor *inputs[2] = {student, teacher};
  kava_status st = kava_tape_record(op, backward, 2, inputs, loss, node);
  if (st == KAVA_OK) st = kava_tape_save(*node, 0, p->s);
  if (st == KAVA_OK) st = kava_tape_save(*node, 1, p->t);
  if (st == KAVA_OK) st = kava_tape_save(*node, 2, p->keep);
  if (st == KAVA_OK) st = kava_tape_save(*node, 3, sums);
  if (st == KAVA_OK) { (*node)->integers[0] = p->counted; }
  return st;
}

/* d cos / ds = a s + b t, for s.s = ss and so on. F.normalize's clamp: below UNIT_EPS the norm is a constant. */
static void cosine_slope(double ss, double tt, double st, double *a, double *b) {
  double ns = fmax(sqrt(ss), UNIT_EPS), nt = fmax(sqrt(tt), UNIT_EPS);
  *b = 1 / (ns * nt);
  *a = sqrt(ss) > UNIT_EPS ? -st / (ns * ns * ns * nt) : 0;
}

/* node: numbers alpha, beta, eps. Each side's gradient row is a combination of the two rows. */
static kava_status mercator_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_rows_args a = rows_of(node->saved[0], node->saved[1], node->saved[2]);
  double *own = kava_alloc((size_t)a.rows * sizeof *own), *other = kava_alloc((size_t)a.rows * sizeof *other);
  if (!own || !other) {
    st = KAVA_MEMORY;
    goto out;
  }
  double alpha = node->numbers[0], beta = node->numbers[1], eps = node->numbers[2];
  double scale = scalar_of(grad) / (double)node->integers[0];
  for (int side = 0; side < 2; side++) {
    kava_tensor *into;
    KAVA_TRY(kava_grad_into(node->inputs[side], &into, &a.add));
    if (!into) continue;
    for (int64_t r = 0; r < a.rows; r++) {
      const double *sums = kava_f64(node->saved[3]) + 3 * r;
      double mine = sums[side], theirs = sums[1 - side], slope_own, slope_other;
      cosine_slope(mine, theirs, sums[2], &slope_own, &slope_other);
      double norm = sqrt(mine), gap = log(norm + eps) - log(sqrt(theirs) + eps);
      own[r] = -alpha * scale * slope_own;
      if (norm > 0 && beta != 0) own[r] += beta * scale * 2 * gap / (norm * (norm + eps));
      other[r] = -alpha * scale * slope_other;
    }
    a.a = side == 0 ? own : other;
    a.b = side == 0 ? other : own;
    a.out = kava_tensor_data(into);
    kava_kernels_cpu()->row_combine(&a);
  }
out:
  kava_free(own);
  kava_free(other);
  return st;
}

static kava_status mercator(const char *op, kava_tensor *student, kava_tensor *teacher, kava_tensor *mask, double alpha,
                            double beta, double eps, kava_tensor **loss, kava_tensor **metrics) {
  kava_status st = KAVA_OK;
  pair p = {0};
  kava_tensor *sums = NULL, *y = NULL, *both[2] = {student, teacher}, *parts = NULL;
  kava_node *node;
  if (!(eps >= 0)) KAVA_FAIL(KAVA_MISUSE, "%s: eps is %g; 0 or more expected", op, eps);
  KAVA_TRY(pair_open(op, student, teacher, mask, &p));
  KAVA_TRY(kava_tensor_new(KAVA_F64, 2, (int64_t[]){p.rows, 3}, &sums));
  kava_rows_args a = rows_of(p.s, p.t, p.keep);
  a.sums = kava_f64(sums);
  kava_kernels_cpu()->row_dots(&a);
  double cosine = 0, magnitude = 0;
  for (int64_t r = 0; r < p.rows; r++) {
    if (!a.keep[r]) continue;
    double ns = sqrt(a.sums[3 * r]), nt = sqrt(a.sums[3 * r + 1]), gap = log(ns + eps) - log(nt + eps);
    cosine += a.sums[3 * r + 2] / (fmax(ns, UNIT_EPS) * fmax(nt, UNIT_EPS));
    magnitude += gap * gap;
  }
  cosine /= (double)p.counted;
  magnitude /= (double)p.counted;
  KAVA_TRY(new_scalar(p.dtype, alpha * (1 - cosine) + (beta != 0 ? beta * magnitude : 0), &y));
  if (metrics) KAVA_TRY(kava_tensor_from(KAVA_F64, 1, (int64_t[]){2}, (double[]){cosine, magnitude}, &parts));
  if (kava_tape_wanted(both, 2)) {
    KAVA_TRY(pair_record(op, mercator_backward, student, teacher, &p, sums, y, &node));
    node->numbers[0] = alpha;
    node->numbers[1] = beta;
    node->numbers[2] = eps;
  }
  *loss = y;
  y = NULL;
  if (metrics) *metrics = parts;
  parts = NULL;
out:
  pair_free(&p);
  kava_tensor_release(&sums);
  kava_tensor_release(&y);
  kava_tensor_release(&parts);
  return st;
}

kava_status kava_op_mercator(kava_tensor *student, kava_tensor *teacher, kava_tensor *mask, double alpha, double beta,
                             double eps, kava_tensor **loss, kava_tensor **metrics) {
  return mercator("mercator", student, teacher, mask, alpha, beta, eps, loss, metrics);
}

kava_status kava_op_cosine_loss(kava_tensor *student, kava_tensor *teacher, kava_tensor *mask, kava_tensor **loss) {
  return mercator("cosine_loss", student, teacher, mask, 1, 0, 0, loss, NULL);
}

/* node: integers[1] distance, integers[2] relative; numbers[0] beta; saved[3] the rows' distances, saved[4] |t|^2
 * (relative) */
static kava_status distance_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_rows_args a = rows_of(node->saved[0], node->saved[1], node->saved[2]);
  bool relative = node->integers[2];
  double *slope = kava_alloc((size_t)a.rows * sizeof *slope), *zero = NULL;
  if (!slope) return KAVA_MEMORY;
  double scale = scalar_of(grad) / (double)node->integers[0];
  a.distance = (kava_distance)node->integers[1];
  a.beta = node->numbers[0];
  a.a = slope;
  for (int side = 0; side < 2; side++) {
    kava_tensor *into;
    KAVA_TRY(kava_grad_into(node->inputs[side], &into, &a.add));
    if (!into) continue;
    a.out = kava_tensor_data(into);
    for (int64_t r = 0; r < a.rows; r++) {
      slope[r] = scale / (relative ? kava_f64(node->saved[4])[3 * r + 1] + RELATIVE_EPS : (double)a.width);
      if (side == 1) slope[r] = -slope[r];
    }
    kava_kernels_cpu()->row_distance_grad(&a);
    if (side == 0 || !relative) continue;
    /* the teacher also stands in the divisor: -|s-t|^2 2t / (|t|^2 + eps)^2 */
    zero = kava_calloc((size_t)a.rows, sizeof *zero);
    if (!zero) KAVA_TRY(KAVA_MEMORY);
    for (int64_t r = 0; r < a.rows; r++) {
      double divisor = kava_f64(node->saved[4])[3 * r + 1] + RELATIVE_EPS;
      slope[r] = -2 * scale * kava_f64(node->saved[3])[r] / (divisor * divisor);
    }
    a.a = zero;
    a.b = slope;
    a.add = true;
    kava_kernels_cpu()->row_combine(&a);
  }
out:
  kava_free(slope);
  kava_free(zero);
  return st;
}

static kava_status distance(const char *op, kava_distance kind, double beta, bool relative, kava_tensor *student,
                            kava_tensor *teacher, kava_tensor *mask, kava_tensor **loss) {
  kava_status st = KAVA_OK;
  pair p = {0};
  kava_tensor *sums = NULL, *dots = NULL, *y = NULL, *both[2] = {student, teacher};
  kava_node *node;
  KAVA_TRY(pair_open(op, student, teacher, mask, &p));
  KAVA_TRY(kava_tensor_new(KAVA_F64, 1, &p.rows, &sums));
  kava_rows_args a = rows_of(p.s, p.t, p.keep);
  if (relative) {
    KAVA_TRY(kava_tensor_new(KAVA_F64, 2, (int64_t[]){p.rows, 3}, &dots));
    a.sums = kava_f64(dots);
    kava_kernels_cpu()->row_dots(&a);
  }
  a.distance = kind;
  a.beta = beta;
  a.sums = kava_f64(sums);
  kava_kernels_cpu()->row_distance(&a);
  double total = 0;
  for (int64_t r = 0; r < p.rows; r++)
    if (a.keep[r]) total += a.sums[r] / (relative ? kava_f64(dots)[3 * r + 1] + RELATIVE_EPS : (double)p.width);
  KAVA_TRY(new_scalar(p.dtype, total / (double)p.counted, &y));
  if (kava_tape_wanted(both, 2)) {
    KAVA_TRY(pair_record(op, distance_backward, student, teacher, &p, sums, y, &node));
    KAVA_TRY(kava_tape_save(node, 4, dots));
    node->integers[1] = kind;
    node->integers[2] = relative;
    node->numbers[0] = beta;
  }
  *loss = y;
  y = NULL;
out:
  pair_free(&p);
  kava_tensor_release(&sums);
  kava_tensor_release(&dots);
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_mse_loss(kava_tensor *student, kava_tensor *teacher, kava_tensor *mask, bool relative,
                             kava_tensor **loss) {
  return distance("mse_loss", KAVA_SQUARE, 0, relative, student, teacher, mask, loss);
}

kava_status kava_op_smooth_l1_loss(kava_tensor *student, kava_tensor *teacher, kava_tensor *mask, double beta,
                                   kava_tensor **loss) {
  if (!(beta >= 0)) return kava_fail(KAVA_MISUSE, "smooth_l1_loss: beta is %g; 0 or more expected", beta);
  return distance("smooth_l1_loss", KAVA_HUBER, beta, false, student, teacher, mask, loss);
}

static kava_status logits_backward(kava_node *node, const kava_tensor *grad);

/* The two losses over logits: cross entropy has targets, KL a teacher. stats are not kept: the backward pass needs the
 * rows anyway, and computes them again while they are in the cache. */
static kava_status logits_loss(const char *op, kava_tensor *s, kava_tensor *t, kava_tensor *keep, kava_tensor *targets,
                               int64_t counted, double temperature, kava_tensor *const *inputs, kava_tensor **loss) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  kava_node *node;
  int64_t width = s->shape[s->dims - 1], rows = kava_tensor_numel(s) / width;
  double *stats = kava_alloc((size_t)rows * 3 * sizeof *stats), total = 0;
  if (!stats) return KAVA_MEMORY;
  kava_logits_args a = {.dtype = s->dtype,
                        .rows = rows,
                        .width = width,
                        .s = kava_tensor_data(s),
                        .t = t ? kava_tensor_data(t) : NULL,
                        .targets = targets ? kava_i64(targets) : NULL,
                        .keep = kava_tensor_data(keep),
                        .temperature = temperature,
                        .stats = stats};
  kava_kernels_cpu()->logits_rows(&a);
  for (int64_t r = 0; r < rows; r++) total += stats[3 * r + (t ? 1 : 0)];
  KAVA_TRY(new_scalar(s->dtype, total / (double)counted, &y));
  if (kava_tape_wanted(inputs, 2)) {
    KAVA_TRY(kava_tape_record(op, logits_backward, 2, inputs, y, &node));
    node->integers[0] = counted;
    node->numbers[0] = temperature;
    KAVA_TRY(kava_tape_save(node, 0, s));
    KAVA_TRY(kava_tape_save(node, 1, t));
    KAVA_TRY(kava_tape_save(node, 2, keep));
    KAVA_TRY(kava_tape_save(node, 3, targets));
  }
  *loss = y;
  y = NULL;
out:
  kava_free(stats);
  kava_tensor_release(&y);
  return st;
}

static kava_status logits_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *s = node->saved[0], *t = node->saved[1], *targets = node->saved[3], *ds, *dt;
  double scale = scalar_of(grad) / (double)node->integers[0];
  kava_logits_args a = {.dtype = s->dtype,
                        .width = s->shape[s->dims - 1],
                        .rows = node->saved[2]->shape[0],
                        .s = kava_tensor_data(s),
                        .t = t ? kava_tensor_data(t) : NULL,
                        .targets = targets ? kava_i64(targets) : NULL,
                        .keep = kava_tensor_data(node->saved[2]),
                        .temperature = node->numbers[0],
                        .ce_scale = scale,
                        .kl_scale = scale};
  a.stats = kava_alloc((size_t)a.rows * 3 * sizeof *a.stats);
  if (!a.stats) return KAVA_MEMORY;
  KAVA_TRY(kava_grad_into(node->inputs[0], &ds, &a.add_s));
  if (ds) {
    a.ds = kava_tensor_data(ds);
    kava_kernels_cpu()->logits_rows(&a);
  }
  KAVA_TRY(kava_grad_into(node->inputs[1], &dt, &a.add_t));
  if (dt) {
    a.ds = NULL;
    a.dt = kava_tensor_data(dt);
    kava_kernels_cpu()->logits_rows(&a);
  }
out:
  kava_free(a.stats);
  return st;
}

kava_status kava_op_cross_entropy(kava_tensor *logits, kava_tensor *targets, kava_tensor **loss) {
  static const char op[] = "cross_entropy";
  kava_status st = KAVA_OK;
  kava_tensor *s = NULL, *ids = NULL, *keep = NULL;
  kava_dtype dtype;
  KAVA_TRY(kava_operand_dtype(op, 1, &logits, (const char *const[]){"logits"}, &dtype));
  if (logits->dims < 1 || logits->shape[logits->dims - 1] < 1)
    KAVA_FAIL(KAVA_MISUSE, "cross_entropy: logits have no vocabulary; [.., V] expected");
  KAVA_TRY(kava_operand_shape(op, "targets", targets, logits->dims - 1, logits->shape));
  KAVA_TRY(kava_operand_ids(op, "targets", targets, &ids));
  int64_t rows = kava_tensor_numel(ids), width = logits->shape[logits->dims - 1], counted = 0;
  KAVA_TRY(kava_tensor_new(KAVA_U8, 1, &rows, &keep));
  for (int64_t r = 0; r < rows; r++) {
    int64_t id = kava_i64(ids)[r];
    if (id >= width)
      KAVA_FAIL(KAVA_MISUSE, "cross_entropy: target %lld at position %lld is outside the vocabulary of %lld",
                (long long)id, (long long)r + 1, (long long)width);
    ((uint8_t *)kava_tensor_data(keep))[r] = id >= 0;
    counted += id >= 0;
  }
  if (counted == 0) KAVA_FAIL(KAVA_MISUSE, "cross_entropy: no target counts (%lld rows, all < 0)", (long long)rows);
  KAVA_TRY(kava_operand(op, "logits", logits, dtype, &s));
  KAVA_TRY(logits_loss(op, s, NULL, keep, ids, counted, 1, (kava_tensor *[]){logits, NULL}, loss));
out:
  kava_tensor_release(&s);
  kava_tensor_release(&ids);
  kava_tensor_release(&keep);
  return st;
}

kava_status kava_op_kl_divergence(kava_tensor *student_logits, kava_tensor *teacher_logits, kava_tensor *mask,
                                  double temperature, kava_tensor **loss) {
  static const char op[] = "kl_divergence";
  kava_status st = KAVA_OK;
  pair p = {0};
  if (!(temperature > 0)) KAVA_FAIL(KAVA_MISUSE, "kl_divergence: temperature is %g; more than 0 expected", temperature);
  KAVA_TRY(pair_open(op, student_logits, teacher_logits, mask, &p));
  KAVA_TRY(logits_loss(op, p.s, p.t, p.keep, NULL, p.counted, temperature,
                       (kava_tensor *[]){student_logits, teacher_logits}, loss));
out:
  pair_free(&p);
  return st;
}

kava_status kava_next_token_targets(kava_tensor *ids, kava_tensor *mask, kava_tensor **out) {
  static const char op[] = "next_token_targets";
  kava_status st = KAVA_OK;
  kava_tensor *from = NULL, *y = NULL;
  uint8_t *keep = NULL;
  int64_t counted;
  char came[96];
  if (ids->dims != 2) {
    kava_shape_format(ids->dims, ids->shape, came, sizeof came);
    KAVA_FAIL(KAVA_MISUSE, "%s: ids are %s; [B, T] expected", op, came);
  }
  if (mask) KAVA_TRY(kava_operand_shape(op, "mask", mask, 2, ids->shape));
  KAVA_TRY(kava_operand_ids(op, "ids", ids, &from));
  KAVA_TRY(kava_operand_mask(op, mask, kava_tensor_numel(ids), &keep, &counted));
  KAVA_TRY(kava_tensor_new(KAVA_I64, 2, ids->shape, &y));
  int64_t length = ids->shape[1];
  for (int64_t i = 0; i < kava_tensor_numel(y); i++)
    kava_i64(y)[i] = i % length + 1 < length && keep[i + 1] ? kava_i64(from)[i + 1] : -1;
  *out = y;
  y = NULL;
out:
  kava_free(keep);
  kava_tensor_release(&from);
  kava_tensor_release(&y);
  return st;
}

#include "ops/loss.h"
#include "kernels/kernels.h"
#include "ops/cast.h"
#include "ops/operand.h"
#include "tape/tape.h"

/* What every row loss checks and prepares. */
typedef struct pair {
  kava_tensor *s, *t;          /* contiguous in `dtype` */
  kava_tensor *keep, *counted; /* keep: bool [rows], or NULL; counted: f64 */
  kava_dtype dtype;
  kava_device device;
  int64_t rows, width;
} pair;

static void pair_free(pair *p) {
  kava_tensor_release(&p->s);
  kava_tensor_release(&p->t);
  kava_tensor_release(&p->keep);
  kava_tensor_release(&p->counted);
}

static kava_status pair_open(const char *op, kava_tensor *student, kava_tensor *teacher, kava_tensor *mask, pair *p) {
  kava_status st = KAVA_OK;
  kava_tensor *both[2] = {student, teacher};
  KAVA_TRY(kava_operand_dtype(op, 2, both, (const char *const[]){"student", "teacher"}, &p->dtype));
  KAVA_TRY(kava_operand_shape(op, "teacher", teacher, student->dims, student->shape));
  if (student->dims < 1) KAVA_FAIL(KAVA_MISUSE, "%s: student has no dimensions; [.., D] expected", op);
  p->device = student->device;
  p->width = student->shape[student->dims - 1];
  p->rows = p->width ? kava_tensor_numel(student) / p->width : 0;
  KAVA_TRY(kava_operand_keep(op, mask, p->rows, p->device, &p->keep));
  KAVA_TRY(kava_operand_counted(p->keep, NULL, p->rows, p->device, &p->counted));
  KAVA_TRY(kava_operand(op, "student", student, p->dtype, &p->s));
  KAVA_TRY(kava_operand(op, "teacher", teacher, p->dtype, &p->t));
out:
  return st;
}

static kava_pair_loss_args arguments(const kava_tensor *s, const kava_tensor *t, const kava_tensor *keep,
                                     const kava_tensor *counted, const kava_tensor *sums) {
  int64_t width = s->shape[s->dims - 1];
  return (kava_pair_loss_args){.dtype = s->dtype,
                               .rows = kava_tensor_numel(s) / width,
                               .width = width,
                               .s = kava_tensor_data(s),
                               .t = kava_tensor_data(t),
                               .keep = keep ? kava_tensor_data(keep) : NULL,
                               .counted = kava_f64(counted),
                               .sums = kava_f64(sums)};
}

/* Saves student, teacher, mask, how many rows count, and the rows' sums: what the backward passes of all row losses
 * start from. */
static kava_status pair_record(const char *op, kava_backward_fn backward, kava_tensor *student, kava_tensor *teacher,
                               pair *p, kava_tensor *sums, kava_tensor *loss, kava_node **node) {
  kava_tensor *inputs[2] = {student, teacher}, *saved[5] = {p->s, p->t, p->keep, p->counted, sums};
  kava_status st = kava_tape_record(op, backward, 2, inputs, loss, node);
  for (int i = 0; i < 5 && st == KAVA_OK; i++) st = kava_tape_save(*node, i, saved[i]);
  return st;
}

/* Where the two sides' gradients go. Both sides may be one tensor: then the two are added one after the other. */
static kava_status gradients(kava_node *node, kava_pair_loss_args *a,
                             kava_status (*run)(kava_device device, const kava_pair_loss_args *a)) {
  kava_status st = KAVA_OK;
  kava_tensor *ds, *dt;
  KAVA_TRY(kava_grad_into(node->inputs[0], &ds, &a->add_s));
  a->ds = ds ? kava_tensor_data(ds) : NULL;
  if (ds) KAVA_TRY(run(ds->device, a));
  a->ds = NULL;
  KAVA_TRY(kava_grad_into(node->inputs[1], &dt, &a->add_t));
  a->dt = dt ? kava_tensor_data(dt) : NULL;
  if (dt) KAVA_TRY(run(dt->device, a));
out:
  return st;
}

static kava_status run_mercator_grad(kava_device device, const kava_pair_loss_args *a) {
  kava_status st = KAVA_OK;
  KAVA_RUN_TRY(device, mercator_grad, a);
out:
  return st;
}

static kava_status run_distance_grad(kava_device device, const kava_pair_loss_args *a) {
  kava_status st = KAVA_OK;
  KAVA_RUN_TRY(device, distance_grad, a);
out:
  return st;
}

/* node: numbers alpha, beta, eps */
static kava_status mercator_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor **saved = node->saved;
  kava_pair_loss_args a = arguments(saved[0], saved[1], saved[2], saved[3], saved[4]);
  a.alpha = node->numbers[0];
  a.beta = node->numbers[1];
  a.eps = node->numbers[2];
  a.grad = kava_tensor_data(grad);
  return gradients(node, &a, run_mercator_grad);
}

static kava_status mercator(const char *op, kava_tensor *student, kava_tensor *teacher, kava_tensor *mask, double alpha,
                            double beta, double eps, kava_tensor **loss, kava_tensor **metrics) {
  kava_status st = KAVA_OK;
  pair p = {0};
  kava_tensor *sums = NULL, *y = NULL, *both[2] = {student, teacher}, *parts = NULL;
  kava_node *node;
  if (!(eps >= 0)) KAVA_FAIL(KAVA_MISUSE, "%s: eps is %g; 0 or more expected", op, eps);
  KAVA_TRY(pair_open(op, student, teacher, mask, &p));
  KAVA_TRY(kava_tensor_new_on(p.device, KAVA_F64, 2, (int64_t[]){p.rows, 3}, &sums));
  KAVA_TRY(kava_tensor_new_on(p.device, kava_dtype_wide(p.dtype), 0, NULL, &y));
  KAVA_TRY(kava_tensor_new_on(p.device, KAVA_F64, 1, (int64_t[]){2}, &parts));
  kava_pair_loss_args a = arguments(p.s, p.t, p.keep, p.counted, sums);
  a.alpha = alpha;
  a.beta = beta;
  a.eps = eps;
  a.loss = kava_tensor_data(y);
  a.metrics = kava_f64(parts);
  KAVA_RUN(p.device, mercator, &a);
  if (kava_tape_wanted(both, 2)) {
    KAVA_TRY(pair_record(op, mercator_backward, student, teacher, &p, sums, y, &node));
    node->numbers[0] = alpha;
    node->numbers[1] = beta;
    node->numbers[2] = eps;
  }
  *loss = y;
  y = NULL;
  if (metrics) {
    *metrics = parts;
    parts = NULL;
  }
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

/* node: integers[0] distance, integers[1] relative; numbers[0] beta; saved[4] the rows' distances, saved[5] their dots
 * (relative) */
static kava_status distance_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor **saved = node->saved;
  kava_pair_loss_args a = arguments(saved[0], saved[1], saved[2], saved[3], saved[4]);
  a.distance = (kava_distance)node->integers[0];
  a.relative = node->integers[1];
  a.dots = saved[5] ? kava_f64(saved[5]) : NULL;
  a.beta = node->numbers[0];
  a.grad = kava_tensor_data(grad);
  return gradients(node, &a, run_distance_grad);
}

static kava_status distance(const char *op, kava_distance kind, double beta, bool relative, kava_tensor *student,
                            kava_tensor *teacher, kava_tensor *mask, kava_tensor **loss) {
  kava_status st = KAVA_OK;
  pair p = {0};
  kava_tensor *sums = NULL, *dots = NULL, *y = NULL, *parts = NULL, *both[2] = {student, teacher};
  kava_node *node;
  KAVA_TRY(pair_open(op, student, teacher, mask, &p));
  KAVA_TRY(kava_tensor_new_on(p.device, KAVA_F64, 1, &p.rows, &sums));
  if (relative) KAVA_TRY(kava_tensor_new_on(p.device, KAVA_F64, 2, (int64_t[]){p.rows, 3}, &dots));
  KAVA_TRY(kava_tensor_new_on(p.device, kava_dtype_wide(p.dtype), 0, NULL, &y));
  KAVA_TRY(kava_tensor_new_on(p.device, KAVA_F64, 1, (int64_t[]){1}, &parts));
  kava_pair_loss_args a = arguments(p.s, p.t, p.keep, p.counted, sums);
  a.distance = kind;
  a.relative = relative;
  a.dots = dots ? kava_f64(dots) : NULL;
  a.beta = beta;
  a.loss = kava_tensor_data(y);
  a.metrics = kava_f64(parts);
  KAVA_RUN(p.device, distance, &a);
  if (kava_tape_wanted(both, 2)) {
    KAVA_TRY(pair_record(op, distance_backward, student, teacher, &p, sums, y, &node));
    node->integers[0] = kind;
    node->integers[1] = relative;
    node->numbers[0] = beta;
    KAVA_TRY(kava_tape_save(node, 5, dots));
  }
  *loss = y;
  y = NULL;
out:
  pair_free(&p);
  kava_tensor_release(&sums);
  kava_tensor_release(&dots);
  kava_tensor_release(&y);
  kava_tensor_release(&parts);
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
                               kava_tensor *counted, double temperature, kava_tensor *const *inputs,
                               kava_tensor **loss) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL, *stats = NULL, *parts = NULL;
  kava_node *node;
  int64_t width = s->shape[s->dims - 1], rows = kava_tensor_numel(s) / width;
  KAVA_TRY(kava_tensor_new_on(s->device, KAVA_F64, 2, (int64_t[]){rows, 3}, &stats));
  KAVA_TRY(kava_tensor_new_on(s->device, KAVA_F64, 1, (int64_t[]){4}, &parts));
  KAVA_TRY(kava_tensor_new_on(s->device, kava_dtype_wide(s->dtype), 0, NULL, &y));
  kava_logits_args a = {.dtype = s->dtype,
                        .rows = rows,
                        .width = width,
                        .s = kava_tensor_data(s),
                        .t = t ? kava_tensor_data(t) : NULL,
                        .targets = targets ? kava_i64(targets) : NULL,
                        .keep = keep ? kava_tensor_data(keep) : NULL,
                        .temperature = temperature,
                        .stats = kava_f64(stats)};
  KAVA_RUN(s->device, logits_rows, &a);
  kava_means_args means = {.rows = rows,
                           .columns = 3,
                           .stats = a.stats,
                           .counted = kava_f64(counted),
                           .weight = {t ? 0 : 1, t ? 1 : 0},
                           .dtype = s->dtype,
                           .loss = kava_tensor_data(y),
                           .metrics = kava_f64(parts)};
  KAVA_RUN(s->device, means, &means);
  if (kava_tape_wanted(inputs, 2)) {
    kava_tensor *saved[5] = {s, t, keep, targets, counted};
    KAVA_TRY(kava_tape_record(op, logits_backward, 2, inputs, y, &node));
    node->numbers[0] = temperature;
    for (int i = 0; i < 5; i++) KAVA_TRY(kava_tape_save(node, i, saved[i]));
  }
  *loss = y;
  y = NULL;
out:
  kava_tensor_release(&stats);
  kava_tensor_release(&parts);
  kava_tensor_release(&y);
  return st;
}

/* saved: student, teacher, keep, targets, counted; numbers[0] temperature */
static kava_status logits_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *s = node->saved[0], *t = node->saved[1], *keep = node->saved[2], *targets = node->saved[3], *ds, *dt;
  kava_tensor *stats = NULL;
  kava_logits_args a = {.dtype = s->dtype,
                        .width = s->shape[s->dims - 1],
                        .s = kava_tensor_data(s),
                        .t = t ? kava_tensor_data(t) : NULL,
                        .targets = targets ? kava_i64(targets) : NULL,
                        .keep = keep ? kava_tensor_data(keep) : NULL,
                        .temperature = node->numbers[0],
                        .ce_scale = 1,
                        .kl_scale = 1,
                        .ce_by = kava_tensor_data(grad),
                        .kl_by = kava_tensor_data(grad),
                        .counted = kava_f64(node->saved[4])};
  a.rows = kava_tensor_numel(s) / a.width;
  KAVA_TRY(kava_tensor_new_on(s->device, KAVA_F64, 2, (int64_t[]){a.rows, 3}, &stats));
  a.stats = kava_f64(stats);
  KAVA_TRY(kava_grad_into(node->inputs[0], &ds, &a.add_s));
  if (ds) {
    a.ds = kava_tensor_data(ds);
    KAVA_RUN(s->device, logits_rows, &a);
  }
  KAVA_TRY(kava_grad_into(node->inputs[1], &dt, &a.add_t));
  if (dt) {
    a.ds = NULL;
    a.dt = kava_tensor_data(dt);
    KAVA_RUN(s->device, logits_rows, &a);
  }
out:
  kava_tensor_release(&stats);
  return st;
}

kava_status kava_open_targets(const char *op, kava_tensor *targets, int64_t width, kava_device device,
                              kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *ids = NULL;
  KAVA_TRY(kava_operand_ids(op, "targets", targets, targets->device, &ids));
  int64_t rows = kava_tensor_numel(ids), counted = 0;
  for (int64_t r = 0; r < rows && ids->device == KAVA_CPU; r++) {
    int64_t id = kava_i64(ids)[r];
    if (id >= width)
      KAVA_FAIL(KAVA_MISUSE, "%s: target %lld at position %lld is outside the vocabulary of %lld", op, (long long)id,
                (long long)r + 1, (long long)width);
    counted += id >= 0;
  }
  if (counted == 0 && (rows == 0 || ids->device == KAVA_CPU))
    KAVA_FAIL(KAVA_MISUSE, "%s: no target counts (%lld rows, all < 0)", op, (long long)rows);
  KAVA_TRY(kava_tensor_on(ids, device, out));
out:
  kava_tensor_release(&ids);
  return st;
}

kava_status kava_op_cross_entropy(kava_tensor *logits, kava_tensor *targets, kava_tensor **loss) {
  static const char op[] = "cross_entropy";
  kava_status st = KAVA_OK;
  kava_tensor *s = NULL, *ids = NULL, *counted = NULL;
  kava_dtype dtype;
  KAVA_TRY(kava_operand_dtype(op, 1, &logits, (const char *const[]){"logits"}, &dtype));
  if (logits->dims < 1 || logits->shape[logits->dims - 1] < 1)
    KAVA_FAIL(KAVA_MISUSE, "cross_entropy: logits have no vocabulary; [.., V] expected");
  KAVA_TRY(kava_operand_shape(op, "targets", targets, logits->dims - 1, logits->shape));
  KAVA_TRY(kava_open_targets(op, targets, logits->shape[logits->dims - 1], logits->device, &ids));
  KAVA_TRY(kava_operand_counted(NULL, ids, kava_tensor_numel(ids), logits->device, &counted));
  KAVA_TRY(kava_operand(op, "logits", logits, dtype, &s));
  KAVA_TRY(logits_loss(op, s, NULL, NULL, ids, counted, 1, (kava_tensor *[]){logits, NULL}, loss));
out:
  kava_tensor_release(&s);
  kava_tensor_release(&ids);
  kava_tensor_release(&counted);
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
  kava_tensor *from = NULL, *keep = NULL, *moved = NULL, *y = NULL, *none = NULL;
  char came[96];
  if (ids->dims != 2) {
    kava_shape_format(ids->dims, ids->shape, came, sizeof came);
    KAVA_FAIL(KAVA_MISUSE, "%s: ids are %s; [B, T] expected", op, came);
  }
  if (mask) KAVA_TRY(kava_operand_shape(op, "mask", mask, 2, ids->shape));
  if (mask && kava_dtype_is_quantised(mask->dtype))
    KAVA_FAIL(KAVA_MISUSE, "%s: mask is %s; a plain type expected", op, kava_dtype_name(mask->dtype));
  KAVA_TRY(kava_operand_ids(op, "ids", ids, ids->device, &from));
  if (mask) {
    KAVA_TRY(kava_contiguous_as(mask, KAVA_BOOL, &moved));
    KAVA_TRY(kava_tensor_on(moved, ids->device, &keep));
  }
  KAVA_TRY(kava_tensor_full_on(ids->device, KAVA_I64, 2, ids->shape, -1, -1, &y));
  int64_t rows = ids->shape[0], length = ids->shape[1];
  if (length > 1) { /* y[:, t] = keep[:, t + 1] ? ids[:, t + 1] : -1 */
    kava_strided args = {.dims = 2,
                         .shape = {rows, length - 1},
                         .in = {kava_i64(from) + 1},
                         .out = kava_i64(y),
                         .in_stride = {{length, 1}, {0, 0}, {length, 1}},
                         .out_stride = {length, 1}};
    if (keep) {
      KAVA_TRY(kava_tensor_full_on(ids->device, KAVA_I64, 0, NULL, -1, -1, &none));
      args.in[1] = kava_i64(none);
      args.in[2] = (const uint8_t *)kava_tensor_data(keep) + 1;
      KAVA_RUN(ids->device, where, KAVA_I64, &args);
    } else
      KAVA_RUN(ids->device, copy, KAVA_I64, KAVA_I64, &args);
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&keep);
  kava_tensor_release(&moved);
  kava_tensor_release(&from);
  kava_tensor_release(&none);
  kava_tensor_release(&y);
  return st;
}

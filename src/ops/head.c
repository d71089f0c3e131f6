#include "ops/head.h"
#include "kernels/kernels.h"
#include "ops/linear.h"
#include "ops/operand.h"
#include "tape/tape.h"
#include <string.h>

/* Logits of one piece and one model take about this much. A larger piece passes over the gradient of the head less
 * often, a smaller one takes less memory: scripts/bench/RESULTS.md. */
#define PIECE_BYTES ((int64_t)64 << 20)
#define PIECE_ROWS_LEAST 128

typedef struct side {
  kava_tensor *hidden, *weight; /* contiguous; hidden in the op's dtype */
  kava_linear_args linear;
  char *rows;   /* the piece's hidden states, [piece, D] */
  char *logits; /* [piece, V] */
  double softcap;
} side;

typedef struct head {
  kava_dtype dtype;
  size_t element;
  int64_t *counted; /* the rows that count */
  int64_t *ids;     /* their targets */
  int64_t count, vocabulary;
  side student, teacher;
  char *d_rows; /* gradient of the piece's hidden states */
  char *capped; /* the student's logits of the piece, where their gradient needs them: [piece, V] */
  double *stats;
  kava_tensor *d_hidden, *d_weight;
} head;

static void side_free(side *s) {
  kava_tensor_release(&s->hidden);
  kava_tensor_release(&s->weight);
  kava_free(s->rows);
  kava_free(s->logits);
}

static void head_free(head *h) {
  kava_free(h->counted);
  kava_free(h->ids);
  side_free(&h->student);
  side_free(&h->teacher);
  kava_free(h->d_rows);
  kava_free(h->capped);
  kava_free(h->stats);
  kava_tensor_release(&h->d_hidden);
  kava_tensor_release(&h->d_weight);
}

static kava_status side_open(const char *who, head *h, kava_tensor *hidden, kava_tensor *weight,
                             const kava_tensor *targets, side *out) {
  char came[96], expected[96];
  kava_status st = KAVA_OK;
  bool quantised = kava_dtype_is_quantised(weight->dtype);
  if (!quantised && !kava_dtype_is_float(weight->dtype))
    KAVA_FAIL(KAVA_MISUSE, "head_loss: %s weight is %s; a float or quantised type expected", who,
              kava_dtype_name(weight->dtype));
  if (hidden->dims < 1 || weight->dims != 2 || weight->shape[1] != hidden->shape[hidden->dims - 1]) {
    kava_shape_format(hidden->dims, hidden->shape, came, sizeof came);
    kava_shape_format(weight->dims, weight->shape, expected, sizeof expected);
    KAVA_FAIL(KAVA_MISUSE, "head_loss: %s hidden is %s and its weight %s; [.., D] and [V, D] expected", who, came,
              expected);
  }
  if (targets->dims != hidden->dims - 1 ||
      memcmp(targets->shape, hidden->shape, (size_t)targets->dims * sizeof(int64_t)) != 0) {
    kava_shape_format(targets->dims, targets->shape, came, sizeof came);
    kava_shape_format(hidden->dims - 1, hidden->shape, expected, sizeof expected);
    KAVA_FAIL(KAVA_MISUSE, "head_loss: targets are %s; the leading shape of %s hidden, %s, expected", came, who,
              expected);
  }
  KAVA_TRY(kava_operand("head_loss", "hidden", hidden, h->dtype, &out->hidden));
  if (quantised || kava_tensor_is_contiguous(weight))
    out->weight = kava_tensor_retain(weight);
  else
    KAVA_TRY(kava_operand("head_loss", "weight", weight, h->dtype, &out->weight));
  out->linear = (kava_linear_args){.dtype = h->dtype,
                                   .in = weight->shape[1],
                                   .out = weight->shape[0],
                                   .w = kava_tensor_data(out->weight),
                                   .wtype = out->weight->dtype,
                                   .scaling = kava_tensor_scaling(out->weight),
                                   .first = kava_tensor_first_row(out->weight),
                                   .precision = kava_matmul_precision()};
out:
  return st;
}

static kava_status side_room(const head *h, side *s, int64_t piece) {
  s->rows = kava_alloc((size_t)(piece * s->linear.in) * h->element);
  s->logits = kava_alloc((size_t)(piece * s->linear.out) * h->element);
  return s->rows && s->logits ? KAVA_OK : KAVA_MEMORY;
}

/* Gathers the piece's rows and multiplies them by the head. */
static kava_status side_logits(const head *h, side *s, int64_t begin, int64_t count) {
  size_t row = (size_t)s->linear.in * h->element;
  const char *from = kava_tensor_data(s->hidden);
  kava_linear_args a = s->linear;
  for (int64_t i = 0; i < count; i++)
    memcpy(s->rows + (size_t)i * row, from + (size_t)h->counted[begin + i] * row, row);
  a.rows = count;
  kava_status st = kava_kernels_cpu()->linear_forward(&a, s->rows, NULL, s->logits);
  if (st == KAVA_OK && s->softcap > 0)
    kava_kernels_cpu()->softcap(h->dtype, s->softcap, s->logits, s->logits, count * a.out);
  return st;
}

/* The student's logits hold the gradient of what the losses read by now. */
static kava_status piece_gradients(head *h, int64_t begin, int64_t count) {
  kava_status st = KAVA_OK;
  kava_linear_args a = h->student.linear;
  a.rows = count;
  if (h->capped)
    kava_kernels_cpu()->softcap_grad(h->dtype, h->student.softcap, h->capped, h->student.logits, h->student.logits,
                                     count * a.out, false);
  if (h->d_hidden) {
    size_t row = (size_t)a.in * h->element;
    char *to = kava_tensor_data(h->d_hidden);
    KAVA_TRY(kava_kernels_cpu()->linear_dx(&a, h->student.logits, h->d_rows, false));
    for (int64_t i = 0; i < count; i++)
      memcpy(to + (size_t)h->counted[begin + i] * row, h->d_rows + (size_t)i * row, row);
  }
  if (h->d_weight)
    KAVA_TRY(kava_kernels_cpu()->linear_dw(&a, h->student.rows, h->student.logits, kava_tensor_data(h->d_weight),
                                           begin > 0, NULL, false));
out:
  return st;
}

/* node: inputs hs, ws; saved[0], saved[1] their gradients for an upstream gradient of 1 */
static kava_status head_backward(kava_node *node, const kava_tensor *grad) {
  double scale = grad->dtype == KAVA_F64 ? *kava_f64(grad) : (double)*kava_f32(grad);
  for (int i = 0; i < 2; i++) {
    kava_tensor *g = node->saved[i];
    if (!g) continue;
    if (scale != 1) kava_kernels_cpu()->rescale(g->dtype, kava_tensor_data(g), kava_tensor_numel(g), scale);
    kava_status st = kava_grad_add(node->inputs[i], g);
    if (st != KAVA_OK) return st;
  }
  return KAVA_OK;
}

static kava_status count_rows(head *h, kava_tensor *targets) {
  kava_status st = KAVA_OK;
  kava_tensor *ids = NULL;
  KAVA_TRY(kava_operand_ids("head_loss", "targets", targets, &ids));
  int64_t rows = kava_tensor_numel(ids);
  h->counted = kava_alloc((size_t)rows * sizeof *h->counted);
  h->ids = kava_alloc((size_t)rows * sizeof *h->ids);
  if (!h->counted || !h->ids) KAVA_TRY(KAVA_MEMORY);
  for (int64_t r = 0; r < rows; r++) {
    int64_t id = kava_i64(ids)[r];
    if (id >= h->vocabulary)
      KAVA_FAIL(KAVA_MISUSE, "head_loss: target %lld at position %lld is outside the vocabulary of %lld", (long long)id,
                (long long)r + 1, (long long)h->vocabulary);
    if (id < 0) continue;
    h->counted[h->count] = r;
    h->ids[h->count++] = id;
  }
  if (h->count == 0) KAVA_FAIL(KAVA_MISUSE, "head_loss: no target counts (%lld rows, all < 0)", (long long)rows);
out:
  kava_tensor_release(&ids);
  return st;
}

static kava_status run(head *h, bool teacher, bool gradients, const kava_head_options *o, double sums[3]) {
  kava_status st = KAVA_OK;
  int64_t piece = PIECE_BYTES / (int64_t)((size_t)h->vocabulary * h->element);
  if (piece < PIECE_ROWS_LEAST) piece = PIECE_ROWS_LEAST;
  int64_t pieces = (h->count + piece - 1) / piece;
  piece = (h->count + pieces - 1) / pieces;
  KAVA_TRY(side_room(h, &h->student, piece));
  if (teacher) KAVA_TRY(side_room(h, &h->teacher, piece));
  h->stats = kava_alloc((size_t)(3 * piece) * sizeof *h->stats);
  h->d_rows = kava_alloc((size_t)(piece * h->student.linear.in) * h->element);
  size_t logits_row = (size_t)h->vocabulary * h->element;
  if (gradients && h->student.softcap > 0 && !(h->capped = kava_alloc((size_t)piece * logits_row))) return KAVA_MEMORY;
  if (!h->stats || !h->d_rows) KAVA_TRY(KAVA_MEMORY);
  for (int64_t begin = 0; begin < h->count; begin += piece) {
    int64_t count = begin + piece < h->count ? piece : h->count - begin;
    KAVA_TRY(side_logits(h, &h->student, begin, count));
    if (teacher) KAVA_TRY(side_logits(h, &h->teacher, begin, count));
    if (h->capped) memcpy(h->capped, h->student.logits, (size_t)count * logits_row);
    kava_logits_args a = {.dtype = h->dtype,
                          .rows = count,
                          .width = h->vocabulary,
                          .s = h->student.logits,
                          .t = h->teacher.logits,
                          .targets = h->ids + begin,
                          .temperature = o->temperature,
                          .ce_scale = o->ce_weight / (double)h->count,
                          .kl_scale = o->kl_weight / (double)h->count,
                          .stats = h->stats,
                          .ds = gradients ? h->student.logits : NULL};
    kava_kernels_cpu()->logits_rows(&a);
    for (int64_t i = 0; i < 3 * count; i++) sums[i % 3] += h->stats[i];
    if (gradients) KAVA_TRY(piece_gradients(h, begin, count));
  }
out:
  return st;
}

kava_status kava_op_head_loss(kava_tensor *hs, kava_tensor *ws, kava_tensor *ht, kava_tensor *wt, kava_tensor *targets,
                              const kava_head_options *o, kava_tensor **loss, kava_tensor **metrics) {
  static const char op[] = "head_loss";
  kava_status st = KAVA_OK;
  head h = {0};
  kava_tensor *inputs[2] = {hs, ws}, *y = NULL, *parts = NULL;
  kava_node *node;
  double sums[3] = {0};
  bool gradients = kava_tape_wanted(inputs, 2);
  if (!(o->temperature > 0))
    KAVA_FAIL(KAVA_MISUSE, "head_loss: temperature is %g; more than 0 expected", o->temperature);
  if (!(o->softcap >= 0) || !(o->teacher_softcap >= 0))
    KAVA_FAIL(KAVA_MISUSE, "head_loss: softcap is %g, the teacher's %g; 0 (none) or more expected", o->softcap,
              o->teacher_softcap);
  h.student.softcap = o->softcap;
  h.teacher.softcap = o->teacher_softcap;
  if (!ht != !wt)
    KAVA_FAIL(KAVA_MISUSE, "head_loss: the teacher's hidden states and its weight come together, only one was given");
  KAVA_TRY(kava_operand_dtype(op, 4,
                              (kava_tensor *[]){hs, kava_dtype_is_quantised(ws->dtype) ? NULL : ws, ht,
                                                wt && kava_dtype_is_quantised(wt->dtype) ? NULL : wt},
                              (const char *const[]){"hidden", "weight", "teacher hidden", "teacher weight"}, &h.dtype));
  h.element = h.dtype == KAVA_F64 ? sizeof(double) : sizeof(float);
  KAVA_TRY(side_open("the student's", &h, hs, ws, targets, &h.student));
  h.vocabulary = ws->shape[0];
  if (ht) {
    KAVA_TRY(side_open("the teacher's", &h, ht, wt, targets, &h.teacher));
    if (wt->shape[0] != h.vocabulary)
      KAVA_FAIL(KAVA_MISUSE,
                "head_loss: the student's vocabulary is %lld, the teacher's %lld; equal ones expected (narrow the "
                "larger weight)",
                (long long)h.vocabulary, (long long)wt->shape[0]);
  }
  KAVA_TRY(count_rows(&h, targets));
  if (gradients && kava_needs_grad(hs)) KAVA_TRY(kava_tensor_zeros(h.dtype, hs->dims, hs->shape, &h.d_hidden));
  if (gradients && kava_needs_grad(ws)) KAVA_TRY(kava_tensor_new(h.dtype, 2, ws->shape, &h.d_weight));
  double count = (double)h.count;
  KAVA_TRY(run(&h, ht != NULL, gradients, o, sums));
  for (int i = 0; i < 3; i++) sums[i] /= count;
  KAVA_TRY(kava_tensor_new(h.dtype, 0, NULL, &y));
  double value = o->ce_weight * sums[0] + o->kl_weight * sums[1];
  if (h.dtype == KAVA_F64)
    *kava_f64(y) = value;
  else
    *kava_f32(y) = (float)value;
  if (metrics)
    KAVA_TRY(kava_tensor_from(KAVA_F64, 1, (int64_t[]){4}, (double[]){sums[0], sums[1], sums[2], count}, &parts));
  if (gradients) {
    KAVA_TRY(kava_tape_record(op, head_backward, 2, inputs, y, &node));
    KAVA_TRY(kava_tape_save(node, 0, h.d_hidden));
    KAVA_TRY(kava_tape_save(node, 1, h.d_weight));
  }
  *loss = y;
  y = NULL;
  if (metrics) *metrics = parts;
  parts = NULL;
out:
  head_free(&h);
  kava_tensor_release(&y);
  kava_tensor_release(&parts);
  return st;
}

#include "ops/head.h"
#include "kernels/kernels.h"
#include "ops/cast.h"
#include "ops/linear.h"
#include "ops/loss.h"
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
  kava_tensor *rows;   /* the piece's hidden states, [piece, D]; NULL: they are read where they are */
  kava_tensor *logits; /* [piece, V] */
  double softcap;
} side;

/* On the CPU only rows that count are gone through; on a GPU all of them, since which they are is known to it alone. */
typedef struct head {
  kava_dtype dtype;
  kava_device device;
  size_t element;
  int64_t *counted; /* the rows that count; NULL: all are gone through */
  kava_tensor *ids; /* the targets of the rows that are gone through, i64 */
  kava_tensor *keep, *how_many;
  int64_t count, vocabulary;
  side student, teacher;
  kava_tensor *d_rows; /* gradient of the piece's hidden states */
  kava_tensor *capped; /* the student's logits of the piece, where their gradient needs them: [piece, V] */
  kava_tensor *stats;  /* [count, 3] */
  kava_tensor *d_hidden, *d_weight;
} head;

static void side_free(side *s) {
  kava_tensor_release(&s->hidden);
  kava_tensor_release(&s->weight);
  kava_tensor_release(&s->rows);
  kava_tensor_release(&s->logits);
}

static void head_free(head *h) {
  kava_tensor **own[] = {&h->ids,    &h->keep,  &h->how_many, &h->d_rows,
                         &h->capped, &h->stats, &h->d_hidden, &h->d_weight};
  kava_free(h->counted);
  side_free(&h->student);
  side_free(&h->teacher);
  for (size_t i = 0; i < sizeof own / sizeof *own; i++) kava_tensor_release(own[i]);
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
  kava_status st = KAVA_OK;
  if (h->counted) KAVA_TRY(kava_tensor_new_on(h->device, h->dtype, 2, (int64_t[]){piece, s->linear.in}, &s->rows));
  KAVA_TRY(kava_tensor_new_on(h->device, h->dtype, 2, (int64_t[]){piece, s->linear.out}, &s->logits));
out:
  return st;
}

static char *row_of(const head *h, const kava_tensor *t, int64_t row, int64_t width) {
  return (char *)kava_tensor_data(t) + (size_t)(row * width) * h->element;
}

/* The piece's hidden states: gathered, or where they are. */
static const void *side_rows(const head *h, const side *s, int64_t begin, int64_t count) {
  int64_t width = s->linear.in;
  if (!h->counted) return row_of(h, s->hidden, begin, width);
  for (int64_t i = 0; i < count; i++)
    memcpy(row_of(h, s->rows, i, width), row_of(h, s->hidden, h->counted[begin + i], width),
           (size_t)width * h->element);
  return kava_tensor_data(s->rows);
}

/* Multiplies the piece's rows by the head. */
static kava_status side_logits(const head *h, side *s, int64_t begin, int64_t count) {
  kava_status st = KAVA_OK;
  kava_linear_args a = s->linear;
  void *logits = kava_tensor_data(s->logits);
  a.rows = count;
  KAVA_RUN_TRY(h->device, linear_forward, &a, side_rows(h, s, begin, count), NULL, logits);
  if (s->softcap > 0) KAVA_RUN(h->device, softcap, h->dtype, s->softcap, logits, logits, count * a.out);
out:
  return st;
}

/* The student's logits hold the gradient of what the losses read by now. */
static kava_status piece_gradients(head *h, int64_t begin, int64_t count) {
  kava_status st = KAVA_OK;
  kava_linear_args a = h->student.linear;
  void *d_logits = kava_tensor_data(h->student.logits);
  a.rows = count;
  if (h->capped)
    KAVA_RUN(h->device, softcap_grad, h->dtype, h->student.softcap, kava_tensor_data(h->capped), d_logits, d_logits,
             count * a.out, false);
  if (h->d_hidden) {
    void *to = h->counted ? kava_tensor_data(h->d_rows) : row_of(h, h->d_hidden, begin, a.in);
    KAVA_RUN_TRY(h->device, linear_dx, &a, d_logits, to, false);
    for (int64_t i = 0; i < count && h->counted; i++)
      memcpy(row_of(h, h->d_hidden, h->counted[begin + i], a.in), row_of(h, h->d_rows, i, a.in),
             (size_t)a.in * h->element);
  }
  if (h->d_weight) {
    const void *rows = h->counted ? kava_tensor_data(h->student.rows) : side_rows(h, &h->student, begin, count);
    KAVA_RUN_TRY(h->device, linear_dw, &a, rows, d_logits, kava_tensor_data(h->d_weight), begin > 0, NULL, false);
  }
out:
  return st;
}

/* node: inputs hs, ws; saved[0], saved[1] their gradients for an upstream gradient of 1 */
static kava_status head_backward(kava_node *node, const kava_tensor *grad) {
  kava_status st = KAVA_OK;
  kava_tensor *own = NULL;
  for (int i = 0; i < 2; i++) {
    kava_tensor *g = node->saved[i];
    if (!g) continue;
    kava_array span = {g->dtype, kava_tensor_numel(g), kava_tensor_data(g)};
    KAVA_RUN(g->device, rescale, &span, 1, grad->dtype, kava_tensor_data(grad));
    KAVA_TRY(kava_contiguous_as(g, kava_grad_dtype(node->inputs[i]), &own));
    kava_tensor_release(&node->saved[i]); /* so that it may be kept without a copy */
    KAVA_TRY(kava_grad_add(node->inputs[i], own));
    kava_tensor_release(&own);
  }
out:
  kava_tensor_release(&own);
  return st;
}

/* Which rows there are to go through, and their targets. */
static kava_status count_rows(head *h, kava_tensor *targets) {
  kava_status st = KAVA_OK;
  kava_tensor *ids = NULL, *zero = NULL;
  KAVA_TRY(kava_open_targets("head_loss", targets, h->vocabulary, h->device, &ids));
  int64_t rows = kava_tensor_numel(ids);
  KAVA_TRY(kava_operand_counted(NULL, ids, rows, h->device, &h->how_many));
  if (h->device != KAVA_CPU) {
    KAVA_TRY(kava_tensor_zeros_on(h->device, KAVA_I64, 0, NULL, &zero));
    KAVA_TRY(kava_tensor_new_on(h->device, KAVA_BOOL, 1, &rows, &h->keep));
    kava_strided args = {.dims = 1,
                         .shape = {rows},
                         .in = {kava_i64(ids), kava_i64(zero)},
                         .out = kava_tensor_data(h->keep),
                         .in_stride = {{1}, {0}},
                         .out_stride = {1}};
    KAVA_RUN(h->device, binary, KAVA_GE, KAVA_I64, &args);
    h->count = rows;
    h->ids = ids;
    ids = NULL;
    goto out;
  }
  h->counted = kava_alloc((size_t)rows * sizeof *h->counted);
  if (!h->counted) KAVA_TRY(KAVA_MEMORY);
  for (int64_t r = 0; r < rows; r++)
    if (kava_i64(ids)[r] >= 0) h->counted[h->count++] = r;
  KAVA_TRY(kava_tensor_new(KAVA_I64, 1, &h->count, &h->ids));
  for (int64_t i = 0; i < h->count; i++) kava_i64(h->ids)[i] = kava_i64(ids)[h->counted[i]];
out:
  kava_tensor_release(&ids);
  kava_tensor_release(&zero);
  return st;
}

static kava_status run(head *h, bool teacher, bool gradients, const kava_head_options *o) {
  kava_status st = KAVA_OK;
  int64_t piece = PIECE_BYTES / (int64_t)((size_t)h->vocabulary * h->element);
  if (piece < PIECE_ROWS_LEAST) piece = PIECE_ROWS_LEAST;
  int64_t pieces = (h->count + piece - 1) / piece;
  piece = (h->count + pieces - 1) / pieces;
  KAVA_TRY(side_room(h, &h->student, piece));
  if (teacher) KAVA_TRY(side_room(h, &h->teacher, piece));
  KAVA_TRY(kava_tensor_new_on(h->device, KAVA_F64, 2, (int64_t[]){h->count, 3}, &h->stats));
  if (h->counted)
    KAVA_TRY(kava_tensor_new_on(h->device, h->dtype, 2, (int64_t[]){piece, h->student.linear.in}, &h->d_rows));
  if (gradients && h->student.softcap > 0)
    KAVA_TRY(kava_tensor_new_on(h->device, h->dtype, 2, (int64_t[]){piece, h->vocabulary}, &h->capped));
  for (int64_t begin = 0; begin < h->count; begin += piece) {
    int64_t count = begin + piece < h->count ? piece : h->count - begin;
    void *s = NULL;
    KAVA_TRY(side_logits(h, &h->student, begin, count));
    if (teacher) KAVA_TRY(side_logits(h, &h->teacher, begin, count));
    s = kava_tensor_data(h->student.logits);
    if (h->capped)
      KAVA_TRY(kava_device_copy(h->device, kava_tensor_data(h->capped), h->device, s,
                                (size_t)(count * h->vocabulary) * h->element));
    kava_logits_args a = {.dtype = h->dtype,
                          .rows = count,
                          .width = h->vocabulary,
                          .s = s,
                          .t = teacher ? kava_tensor_data(h->teacher.logits) : NULL,
                          .targets = kava_i64(h->ids) + begin,
                          .keep = h->keep ? (const uint8_t *)kava_tensor_data(h->keep) + begin : NULL,
                          .temperature = o->temperature,
                          .ce_scale = o->ce_weight,
                          .kl_scale = o->kl_weight,
                          .ce_by = o->ce_by ? kava_tensor_data(o->ce_by) : NULL,
                          .kl_by = o->kl_by ? kava_tensor_data(o->kl_by) : NULL,
                          .counted = kava_f64(h->how_many),
                          .stats = kava_f64(h->stats) + 3 * begin,
                          .ds = gradients ? s : NULL};
    KAVA_RUN(h->device, logits_rows, &a);
    if (gradients) KAVA_TRY(piece_gradients(h, begin, count));
  }
out:
  return st;
}

/* What multiplies a weight: it is read on the device, when the losses are. */
static kava_status check_factor(const char *name, kava_tensor *t, const head *h) {
  if (!t) return KAVA_OK;
  kava_dtype wide = kava_dtype_wide(h->dtype);
  if (t->dtype != wide || t->device != h->device || kava_tensor_numel(t) != 1)
    return kava_fail(KAVA_MISUSE, "head_loss: %s has %lld elements, %s on %s; a number, or one %s on %s expected", name,
                     (long long)kava_tensor_numel(t), kava_dtype_name(t->dtype), kava_device_name(t->device),
                     kava_dtype_name(wide), kava_device_name(h->device));
  if (kava_tape_wanted(&t, 1))
    return kava_fail(KAVA_MISUSE, "head_loss: %s wants a gradient, and gets none: detach() it", name);
  return KAVA_OK;
}

kava_status kava_op_head_loss(kava_tensor *hs, kava_tensor *ws, kava_tensor *ht, kava_tensor *wt, kava_tensor *targets,
                              const kava_head_options *o, kava_tensor **loss, kava_tensor **metrics) {
  static const char op[] = "head_loss";
  kava_status st = KAVA_OK;
  head h = {0};
  kava_tensor *inputs[2] = {hs, ws}, *y = NULL, *parts = NULL;
  kava_node *node;
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
  h.element = (size_t)kava_dtype_block_bytes(h.dtype);
  h.device = hs->device;
  KAVA_TRY(check_factor("ce_weight", o->ce_by, &h));
  KAVA_TRY(check_factor("kl_weight", o->kl_by, &h));
  KAVA_TRY(kava_operand_device(op, "the weight", ws, h.device));
  KAVA_TRY(kava_operand_device(op, "the teacher's weight", wt, h.device));
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
  if (gradients && kava_needs_grad(hs))
    KAVA_TRY(kava_tensor_zeros_on(h.device, h.dtype, hs->dims, hs->shape, &h.d_hidden));
  if (gradients && kava_needs_grad(ws))
    KAVA_TRY(kava_tensor_new_on(h.device, kava_dtype_wide(h.dtype), 2, ws->shape, &h.d_weight));
  KAVA_TRY(run(&h, ht != NULL, gradients, o));
  KAVA_TRY(kava_tensor_new_on(h.device, kava_dtype_wide(h.dtype), 0, NULL, &y));
  KAVA_TRY(kava_tensor_new_on(h.device, KAVA_F64, 1, (int64_t[]){4}, &parts));
  kava_means_args means = {
      .rows = h.count,
      .columns = 3,
      .stats = kava_f64(h.stats),
      .counted = kava_f64(h.how_many),
      .weight = {o->ce_weight, o->kl_weight},
      .by = {o->ce_by ? kava_tensor_data(o->ce_by) : NULL, o->kl_by ? kava_tensor_data(o->kl_by) : NULL},
      .dtype = h.dtype,
      .loss = kava_tensor_data(y),
      .metrics = kava_f64(parts)};
  KAVA_RUN(h.device, means, &means);
  if (gradients) {
    KAVA_TRY(kava_tape_record(op, head_backward, 2, inputs, y, &node));
    KAVA_TRY(kava_tape_save(node, 0, h.d_hidden));
    KAVA_TRY(kava_tape_save(node, 1, h.d_weight));
  }
  *loss = y;
  y = NULL;
  if (metrics) {
    *metrics = parts;
    parts = NULL;
  }
out:
  head_free(&h);
  kava_tensor_release(&y);
  kava_tensor_release(&parts);
  return st;
}

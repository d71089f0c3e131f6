#include "ops/rope.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "ops/operand.h"
#include "tape/tape.h"
#include <math.h>
#include <string.h>

typedef struct table_job {
  kava_dtype dtype;
  int64_t half;
  const int64_t *positions; /* NULL: the row's own index */
  const double *inv_freq;
  double scale;
  void *cosine, *sine;
} table_job;

static void fill_rows(void *ctx, int64_t begin, int64_t end) {
  const table_job *job = ctx;
  for (int64_t row = begin; row < end; row++) {
    double position = (double)(job->positions ? job->positions[row] : row);
    for (int64_t j = 0; j < job->half; j++) {
      double angle = position * job->inv_freq[j], c = cos(angle) * job->scale, s = sin(angle) * job->scale;
      int64_t at = row * job->half + j;
      if (job->dtype == KAVA_F64) {
        ((double *)job->cosine)[at] = c;
        ((double *)job->sine)[at] = s;
      } else {
        ((float *)job->cosine)[at] = (float)c;
        ((float *)job->sine)[at] = (float)s;
      }
    }
  }
}

/* The last tables made: queries and keys of all layers of a step are rotated by the same angles (in some families by
 * two kinds in turn), and sines in double cost as much as the rotation itself. Known again by their contents; only for
 * what is recorded and run on one thread at a time. */
#define LAST_TABLES 2
#define LAST_BYTES_MOST ((size_t)4 << 20)
typedef struct last_table {
  char *bytes; /* positions (rows * 8, when given), inv_freq (half * 8), cosine, sine */
  kava_dtype dtype;
  bool placed;
  int64_t rows, half;
  double scale;
} last_table;
static last_table last[LAST_TABLES];
static int oldest;

static bool is_table(const last_table *t, const table_job *job, int64_t rows) {
  size_t head = job->positions ? (size_t)rows * sizeof(int64_t) : 0;
  return t->bytes && t->dtype == job->dtype && t->placed == (job->positions != NULL) && t->rows == rows &&
         t->half == job->half && t->scale == job->scale && (!head || memcmp(t->bytes, job->positions, head) == 0) &&
         memcmp(t->bytes + head, job->inv_freq, (size_t)job->half * sizeof(double)) == 0;
}

static void fill_tables(const table_job *job, int64_t rows) {
  size_t head = job->positions ? (size_t)rows * sizeof(int64_t) : 0, middle = (size_t)job->half * sizeof(double);
  size_t table = (size_t)(rows * job->half) * (job->dtype == KAVA_F64 ? sizeof(double) : sizeof(float));
  for (int i = 0; i < LAST_TABLES; i++) {
    if (!is_table(&last[i], job, rows)) continue;
    memcpy(job->cosine, last[i].bytes + head + middle, table);
    memcpy(job->sine, last[i].bytes + head + middle + table, table);
    return;
  }
  kava_parallel(rows, 64, fill_rows, (void *)job);
  if (head + middle + 2 * table > LAST_BYTES_MOST) return;
  last_table *t = &last[oldest];
  oldest = (oldest + 1) % LAST_TABLES;
  kava_free(t->bytes);
  t->bytes = kava_alloc(head + middle + 2 * table); /* without memory there is no last table, and nothing is wrong */
  if (!t->bytes) return;
  if (head) memcpy(t->bytes, job->positions, head);
  memcpy(t->bytes + head, job->inv_freq, middle);
  memcpy(t->bytes + head + middle, job->cosine, table);
  memcpy(t->bytes + head + middle + table, job->sine, table);
  t->dtype = job->dtype;
  t->placed = head > 0;
  t->rows = rows;
  t->half = job->half;
  t->scale = job->scale;
}

static kava_rope_args arguments(const kava_tensor *x, const kava_tensor *cosine, const kava_tensor *sine,
                                const kava_tensor *y) {
  return (kava_rope_args){.dtype = y->dtype,
                          .tokens = y->shape[0] * y->shape[1],
                          .period = cosine->shape[0],
                          .heads = y->shape[2],
                          .dim = y->shape[3],
                          .rotated = cosine->shape[1] * 2,
                          .x = kava_tensor_data(x),
                          .cosine = kava_tensor_data(cosine),
                          .sine = kava_tensor_data(sine),
                          .y = kava_tensor_data(y)};
}

/* node: input x; saved[0] cosine, saved[1] sine. The gradient is rotated back: the rotation is orthogonal up to scale,
 * which the tables hold. */
static kava_status rope_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor *dx;
  bool add;
  kava_status st = kava_grad_into(node->inputs[0], &dx, &add);
  if (st != KAVA_OK || !dx || kava_tensor_numel(dx) == 0) return st;
  kava_rope_args a = arguments(grad, node->saved[0], node->saved[1], dx);
  a.inverse = true;
  a.add = add;
  kava_kernels_cpu()->rope(&a);
  return KAVA_OK;
}

kava_status kava_op_rope(kava_tensor *x, kava_tensor *positions, kava_tensor *inv_freq, double scale,
                         kava_tensor **out) {
  static const char op[] = "rope";
  kava_status st = KAVA_OK;
  kava_tensor *cx = NULL, *where = NULL, *frequencies = NULL, *cosine = NULL, *sine = NULL, *y = NULL;
  kava_dtype dtype;
  kava_node *node;
  KAVA_TRY(kava_operand_dtype(op, 1, &x, (const char *const[]){"x"}, &dtype));
  if (x->dims != 4) {
    char came[96];
    kava_shape_format(x->dims, x->shape, came, sizeof came);
    KAVA_FAIL(KAVA_MISUSE, "rope: x is %s; [B, T, H, D] expected", came);
  }
  if (!kava_dtype_is_float(inv_freq->dtype) || inv_freq->dims != 1 || inv_freq->shape[0] * 2 > x->shape[3])
    KAVA_FAIL(KAVA_MISUSE, "rope: inv_freq is %s with %lld elements; a float vector of at most D/2 = %lld expected",
              kava_dtype_name(inv_freq->dtype), (long long)kava_tensor_numel(inv_freq), (long long)(x->shape[3] / 2));
  if (positions) KAVA_TRY(kava_operand_shape(op, "positions", positions, 2, x->shape));
  KAVA_TRY(kava_operand(op, "x", x, dtype, &cx));
  KAVA_TRY(kava_operand_ids(op, "positions", positions, &where));
  KAVA_TRY(kava_operand(op, "inv_freq", inv_freq, KAVA_F64, &frequencies));
  int64_t rows = positions ? x->shape[0] * x->shape[1] : x->shape[1], half = inv_freq->shape[0];
  KAVA_TRY(kava_tensor_new(dtype, 2, (int64_t[]){rows, half}, &cosine));
  KAVA_TRY(kava_tensor_new(dtype, 2, (int64_t[]){rows, half}, &sine));
  table_job job = {dtype,
                   half,
                   where ? kava_i64(where) : NULL,
                   kava_f64(frequencies),
                   scale,
                   kava_tensor_data(cosine),
                   kava_tensor_data(sine)};
  fill_tables(&job, rows);
  KAVA_TRY(kava_tensor_empty_like(x, dtype, &y));
  kava_rope_args a = arguments(cx, cosine, sine, y);
  if (kava_tensor_numel(y)) kava_kernels_cpu()->rope(&a);
  if (kava_tape_wanted(&x, 1)) {
    KAVA_TRY(kava_tape_record(op, rope_backward, 1, &x, y, &node));
    KAVA_TRY(kava_tape_save(node, 0, cosine));
    KAVA_TRY(kava_tape_save(node, 1, sine));
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&cx);
  kava_tensor_release(&where);
  kava_tensor_release(&frequencies);
  kava_tensor_release(&cosine);
  kava_tensor_release(&sine);
  kava_tensor_release(&y);
  return st;
}

/* kernels/cpu/simd/elementwise.c: f32 arithmetic on rows whose operands are contiguous or constant; all else is the
 * reference, cut along its outermost dimension for the threads. Each element is computed alone, so no result depends on
 * where the cuts fall. */
#include "kernels/cpu/simd/tail.h"
#include "kernels/cpu/reference.h"
#include "kernels/cpu/strided.h"
#include "base/threads.h"

enum { GRAIN = 1 << 15 }; /* elements a thread takes at least: 128 KiB of f32, some tens of microseconds */

/* Operands advance by VF_LANES or, when constant along the row, stay. */
#define ROW(name, vector)                                                                                              \
  static void name(const float *x, bool dx, const float *y, bool dy, float *out, int64_t n) {                          \
    vf a = vf_set(*x), b = vf_set(*y);                                                                                 \
    int64_t i = 0;                                                                                                     \
    for (; i + VF_LANES <= n; i += VF_LANES) {                                                                         \
      if (dx) a = vf_load(x + i);                                                                                      \
      if (dy) b = vf_load(y + i);                                                                                      \
      vf_store(out + i, vector(a, b));                                                                                 \
    }                                                                                                                  \
    if (i < n) {                                                                                                       \
      if (dx) a = vf_load_n(x + i, n - i);                                                                             \
      if (dy) b = vf_load_n(y + i, n - i);                                                                             \
      vf_store_n(out + i, vector(a, b), n - i);                                                                        \
    }                                                                                                                  \
  }
ROW(row_add, vf_add)
ROW(row_sub, vf_sub)
ROW(row_mul, vf_mul)
ROW(row_div, vf_div)
typedef void (*row_fn)(const float *x, bool dx, const float *y, bool dy, float *out, int64_t n);

typedef struct job {
  kava_strided s;
  row_fn row;
  kava_binary op;
  kava_dtype type;
  int64_t size_in, size_out; /* bytes an element */
} job;

static void rows_range(void *ctx, int64_t begin, int64_t end) {
  const job *j = ctx;
  int last = j->s.dims - 1;
  bool dx = j->s.in_stride[0][last] == 1, dy = j->s.in_stride[1][last] == 1;
  for (int64_t row = begin; row < end; row++) {
    int64_t at[4];
    kava_strided_seek(&j->s, row, at);
    j->row((const float *)j->s.in[0] + at[0], dx, (const float *)j->s.in[1] + at[1], dy, (float *)j->s.out + at[3],
           j->s.shape[last]);
  }
}

static void run_range(void *ctx, int64_t begin, int64_t end) { /* one row: its elements are shared out */
  const job *j = ctx;
  bool dx = j->s.in_stride[0][0] == 1, dy = j->s.in_stride[1][0] == 1;
  j->row((const float *)j->s.in[0] + (dx ? begin : 0), dx, (const float *)j->s.in[1] + (dy ? begin : 0), dy,
         (float *)j->s.out + begin, end - begin);
}

/* A piece [begin, end) of the outermost dimension. */
static kava_strided cut(const job *j, int64_t begin, int64_t end) {
  kava_strided s = j->s;
  s.shape[0] = end - begin;
  for (int i = 0; i < 2; i++) s.in[i] = (const char *)s.in[i] + begin * s.in_stride[i][0] * j->size_in;
  if (s.in[2]) s.in[2] = (const char *)s.in[2] + begin * s.in_stride[2][0];
  s.out = (char *)s.out + begin * s.out_stride[0] * j->size_out;
  return s;
}

static void binary_range(void *ctx, int64_t begin, int64_t end) {
  const job *j = ctx;
  kava_strided s = cut(j, begin, end);
  kava_ref_binary(j->op, j->type, &s);
}

static void where_range(void *ctx, int64_t begin, int64_t end) {
  const job *j = ctx;
  kava_strided s = cut(j, begin, end);
  kava_ref_where(j->type, &s);
}

static int64_t at_least_one(int64_t n) { return n > 0 ? n : 1; }
static int64_t outer_grain(const kava_strided *s) {
  int64_t inner = 1;
  for (int d = 1; d < s->dims; d++) inner *= s->shape[d];
  return at_least_one(GRAIN / at_least_one(inner));
}

static void binary(kava_binary op, kava_dtype type, const kava_strided *args) {
  static const row_fn rows[] = {[KAVA_ADD] = row_add, [KAVA_SUB] = row_sub, [KAVA_MUL] = row_mul, [KAVA_DIV] = row_div};
  int64_t size = type == KAVA_F32 ? 4 : 8;
  job j = {kava_strided_merge(args), op <= KAVA_DIV ? rows[op] : NULL, op, type, size, op >= KAVA_EQ ? 1 : size};
  int last = j.s.dims - 1;
  for (int d = 0; d <= last; d++)
    if (j.s.shape[d] == 0) return;
  bool fits = j.row && type == KAVA_F32 && j.s.out_stride[last] == 1;
  for (int i = 0; i < 2; i++) fits = fits && (j.s.in_stride[i][last] == 1 || j.s.in_stride[i][last] == 0);
  if (!fits)
    kava_parallel(j.s.shape[0], outer_grain(&j.s), binary_range, &j);
  else if (last == 0)
    kava_parallel(j.s.shape[0], GRAIN, run_range, &j);
  else
    kava_parallel(kava_strided_rows(&j.s), at_least_one(GRAIN / j.s.shape[last]), rows_range, &j);
}

static void where(kava_dtype type, const kava_strided *args) {
  int64_t size = type == KAVA_F32 ? 4 : 8;
  job j = {kava_strided_merge(args), NULL, KAVA_ADD, type, size, size};
  kava_parallel(j.s.shape[0], outer_grain(&j.s), where_range, &j);
}

typedef struct unary_job {
  kava_unary op;
  kava_dtype type;
  const void *x, *y, *gy;
  void *out;
  double p, q;
  bool add;
} unary_job;

#define EACH(expression)                                                                                               \
  for (; i < end; i += VF_LANES) {                                                                                     \
    vf v = vf_load_to(x + i, end - i);                                                                                 \
    vf_store_to(y + i, (expression), end - i);                                                                         \
  }                                                                                                                    \
  return;

static void unary_f32(void *ctx, int64_t i, int64_t end) {
  const unary_job *j = ctx;
  const float *x = j->x;
  float *y = j->out;
  vf p = vf_set((float)j->p), q = vf_set((float)j->q), zero = vf_set(0.0f);
  switch (j->op) {
  case KAVA_AFFINE: EACH(vf_fma(p, v, q))
  case KAVA_ABS: EACH(vf_max(vf_sub(zero, v), v)) /* the second operand is the one that a NaN leaves */
  case KAVA_CLAMP: EACH(vf_min(q, vf_max(p, v)))
  case KAVA_SQRT: EACH(vf_sqrt(v))
  case KAVA_RECIPROCAL: EACH(vf_div(p, v))
  default: kava_ref_unary(j->op, KAVA_F32, x + i, y + i, end - i, j->p, j->q);
  }
}

static void unary_wide(void *ctx, int64_t begin, int64_t end) { /* f64 and i64 */
  const unary_job *j = ctx;
  kava_ref_unary(j->op, j->type, (const char *)j->x + begin * 8, (char *)j->out + begin * 8, end - begin, j->p, j->q);
}

static void unary(kava_unary op, kava_dtype type, const void *x, void *y, int64_t count, double p, double q) {
  unary_job j = {.op = op, .type = type, .x = x, .out = y, .p = p, .q = q};
  /* exp and its kind cost some nanoseconds an element, arithmetic a fraction of one */
  int64_t grain = op >= KAVA_EXP && op != KAVA_SQRT && op != KAVA_RECIPROCAL ? 1 << 12 : GRAIN;
  kava_parallel(count, grain, type == KAVA_F32 ? unary_f32 : unary_wide, &j);
}

static void unary_grad_range(void *ctx, int64_t begin, int64_t end) {
  const unary_job *j = ctx;
  int64_t at = begin * (j->type == KAVA_F64 ? 8 : 4);
  kava_ref_unary_grad(j->op, j->type, (const char *)j->x + at, (const char *)j->y + at, (const char *)j->gy + at,
                      (char *)j->out + at, end - begin, j->p, j->q, j->add);
}

static void unary_grad(kava_unary op, kava_dtype type, const void *x, const void *y, const void *gy, void *gx,
                       int64_t count, double p, double q, bool add) {
  if (op == KAVA_AFFINE && type == KAVA_F32) {
    kava_kernels_cpu()->axpy((float)p, gy, gx, count, add);
    return;
  }
  unary_job j = {op, type, x, y, gy, gx, p, q, add};
  kava_parallel(count, 1 << 13, unary_grad_range, &j);
}

void KAVA_SIMD(elementwise)(kava_kernels *table);
void KAVA_SIMD(elementwise)(kava_kernels *table) {
  table->binary = binary;
  table->where = where;
  table->unary = unary;
  table->unary_grad = unary_grad;
}

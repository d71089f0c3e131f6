/* kernels/cpu/simd/reduce.c: f32 reductions, softmax and comparison. Long rows are cut into blocks of a fixed length
 * whose results are combined in order, in double: what comes out does not depend on the number of threads. */
#include "kernels/cpu/simd/tail.h"
#include "kernels/cpu/reference.h"
#include "base/memory.h"
#include "base/threads.h"
#include <math.h>

enum { BLOCK = 1 << 13, COLUMNS = 128, GRAIN = 1 << 15 };

/* In double, as the reference: f32 lanes would lose some 2^-20 of a long sum of equal terms. Memory is slower still. */
static double block_sum(const float *x, int64_t n, bool squares) {
  double sum[32] = {0};
  int64_t i = 0;
  if (squares) {
    for (; i + 32 <= n; i += 32)
      for (int k = 0; k < 32; k++) sum[k] += (double)x[i + k] * (double)x[i + k];
  } else {
    for (; i + 32 <= n; i += 32)
      for (int k = 0; k < 32; k++) sum[k] += (double)x[i + k];
  }
  for (; i < n; i++) sum[0] += squares ? (double)x[i] * (double)x[i] : (double)x[i];
  for (int k = 1; k < 32; k++) sum[0] += sum[k];
  return sum[0];
}

/* The vector instructions drop a NaN, so it is looked for apart. */
static float block_extreme(const float *x, int64_t n, bool most) {
  vf best = vf_set(x[0]);
  int nan = 0;
  int64_t i = 0;
  for (int64_t k = 0; k < n; k++) nan |= x[k] != x[k];
  if (nan) return NAN;
  for (; i + VF_LANES <= n; i += VF_LANES) best = most ? vf_max(best, vf_load(x + i)) : vf_min(best, vf_load(x + i));
  float lanes[VF_LANES];
  vf_store(lanes, best);
  for (int k = 1; k < VF_LANES; k++)
    lanes[0] = most ? (lanes[k] > lanes[0] ? lanes[k] : lanes[0]) : (lanes[k] < lanes[0] ? lanes[k] : lanes[0]);
  for (; i < n; i++) lanes[0] = most ? (x[i] > lanes[0] ? x[i] : lanes[0]) : (x[i] < lanes[0] ? x[i] : lanes[0]);
  return lanes[0];
}

typedef struct job {
  kava_reduce op;
  const float *x;
  float *y;
  double *parts;
  int64_t n, inner, blocks; /* blocks in a row, or of columns in a slab */
  double scale;
} job;

static double block(const job *j, const float *row, int64_t b) {
  int64_t at = b * BLOCK, n = j->n - at < BLOCK ? j->n - at : BLOCK;
  if (j->op >= KAVA_MAX) return (double)block_extreme(row + at, n, j->op == KAVA_MAX);
  return block_sum(row + at, n, j->op == KAVA_SUM_SQUARES);
}

/* Blocks are joined from the first to the last. */
static double join(const job *j, double all, double part) {
  if (j->op < KAVA_MAX) return all + part;
  return part != part || (j->op == KAVA_MAX ? part > all : part < all) ? part : all;
}
static float finish(const job *j, double all) { return (float)(j->op < KAVA_MAX ? all * j->scale : all); }

static void rows_range(void *ctx, int64_t begin, int64_t end) {
  const job *j = ctx;
  for (int64_t r = begin; r < end; r++) {
    const float *row = j->x + r * j->n;
    double all = block(j, row, 0);
    for (int64_t b = 1; b < j->blocks; b++) all = join(j, all, block(j, row, b));
    j->y[r] = finish(j, all);
  }
}

static void blocks_range(void *ctx, int64_t begin, int64_t end) {
  const job *j = ctx;
  for (int64_t i = begin; i < end; i++) j->parts[i] = block(j, j->x + i / j->blocks * j->n, i % j->blocks);
}

/* A slab [n, inner] of x, COLUMNS of it at a time. */
static void columns_range(void *ctx, int64_t begin, int64_t end) {
  const job *j = ctx;
  for (int64_t i = begin; i < end; i++) {
    int64_t o = i / j->blocks, c = i % j->blocks * COLUMNS, n = j->inner - c < COLUMNS ? j->inner - c : COLUMNS;
    const float *x = j->x + o * j->n * j->inner + c;
    float *y = j->y + o * j->inner + c;
    double sum[COLUMNS] = {0};
    if (j->op == KAVA_SUM)
      for (int64_t k = 0; k < j->n; k++, x += j->inner)
        for (int64_t m = 0; m < n; m++) sum[m] += (double)x[m];
    else if (j->op == KAVA_SUM_SQUARES)
      for (int64_t k = 0; k < j->n; k++, x += j->inner)
        for (int64_t m = 0; m < n; m++) sum[m] += (double)x[m] * (double)x[m];
    else {
      for (int64_t m = 0; m < n; m++) sum[m] = (double)x[m];
      float sign = j->op == KAVA_MAX ? 1.0f : -1.0f;
      for (int64_t k = 1; k < j->n; k++) {
        x += j->inner;
        for (int64_t m = 0; m < n; m++) {
          float v = x[m], best = (float)sum[m];
          sum[m] = (double)(sign * v > sign * best || v != v ? v : best);
        }
      }
    }
    for (int64_t m = 0; m < n; m++) y[m] = (float)(j->op < KAVA_MAX ? sum[m] * j->scale : sum[m]);
  }
}

static void reduce(kava_reduce op, kava_dtype type, const void *x, void *y, int64_t outer, int64_t n, int64_t inner,
                   double scale) {
  if (type != KAVA_F32 || n == 0) {
    kava_ref_reduce(op, type, x, y, outer, n, inner, scale);
    return;
  }
  job j = {op, x, y, NULL, n, inner, 0, scale};
  if (inner > 1) {
    j.blocks = (inner + COLUMNS - 1) / COLUMNS;
    kava_parallel(outer * j.blocks, GRAIN / (n * COLUMNS) > 0 ? GRAIN / (n * COLUMNS) : 1, columns_range, &j);
    return;
  }
  j.blocks = (n + BLOCK - 1) / BLOCK;
  if (outer < 16 && j.blocks >= 8) { /* too few rows to share out: their blocks are */
    j.parts = kava_alloc((size_t)(outer * j.blocks) * sizeof *j.parts);
    if (j.parts) {
      kava_parallel(outer * j.blocks, GRAIN / BLOCK, blocks_range, &j);
      for (int64_t r = 0; r < outer; r++) {
        double all = j.parts[r * j.blocks];
        for (int64_t b = 1; b < j.blocks; b++) all = join(&j, all, j.parts[r * j.blocks + b]);
        j.y[r] = finish(&j, all);
      }
      kava_free(j.parts);
      return;
    }
  }
  kava_parallel(outer, GRAIN / n > 0 ? GRAIN / n : 1, rows_range, &j);
}

typedef struct arg_job {
  kava_reduce op;
  kava_dtype type;
  const char *x;
  int64_t *index, n, inner;
} arg_job;

static void arg_range(void *ctx, int64_t begin, int64_t end) {
  const arg_job *j = ctx;
  int64_t slab = j->n * j->inner * kava_dtype_block_bytes(j->type);
  kava_ref_argreduce(j->op, j->type, j->x + begin * slab, j->index + begin * j->inner, end - begin, j->n, j->inner);
}

static void argreduce(kava_reduce op, kava_dtype type, const void *x, int64_t *index, int64_t outer, int64_t n,
                      int64_t inner) {
  arg_job j = {op, type, x, index, n, inner};
  int64_t slab = n * inner > 0 ? n * inner : 1;
  kava_parallel(outer, GRAIN / slab > 0 ? GRAIN / slab : 1, arg_range, &j);
}

/* --- softmax --- */

typedef struct softmax_job {
  const float *x, *gy;
  float *y;
  int64_t n;
  bool logarithm, add;
} softmax_job;

static void softmax_row(const float *x, float *y, int64_t n, bool logarithm) {
  vf best = vf_set(-INFINITY);
  int nan = 0;
  for (int64_t i = 0; i < n; i++) nan |= x[i] != x[i];
  int64_t whole = n / VF_LANES * VF_LANES;
  for (int64_t i = 0; i < whole; i += VF_LANES) best = vf_max(best, vf_load(x + i));
  float top = vf_hmax(best);
  for (int64_t i = whole; i < n; i++) top = x[i] > top ? x[i] : top;
  if (nan || isinf(top)) { /* the reference's arithmetic ends in NaN; vf_exp's limits would hide it */
    for (int64_t i = 0; i < n; i++) y[i] = NAN;
    return;
  }
  /* vf_exp ends at a smallest value instead of 0: taken off, so that -inf gives an exact 0 */
  vf shift = vf_set(top), least = vf_exp(vf_set(-100.0f)), sum = vf_set(0);
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += BLOCK) {
    int64_t end = n - begin < BLOCK ? n : begin + BLOCK;
    sum = vf_set(0);
    for (int64_t i = begin; i < end; i += VF_LANES) {
      int64_t left = end - i;
      vf e = vf_sub(vf_exp(vf_sub(vf_load_to(x + i, left), shift)), least);
      if (left < VF_LANES) { /* the lanes beyond the row must not count */
        float lanes[VF_LANES];
        vf_store(lanes, e);
        e = vf_load_n(lanes, left);
      }
      sum = vf_add(sum, e);
      if (!logarithm) vf_store_to(y + i, e, left);
    }
    total += (double)vf_sum(sum);
  }
  vf factor = vf_set((float)(1 / total)), offset = vf_set((float)log(total));
  for (int64_t i = 0; i < n; i += VF_LANES) {
    int64_t left = n - i;
    if (logarithm)
      vf_store_to(y + i, vf_sub(vf_sub(vf_load_to(x + i, left), shift), offset), left);
    else
      vf_store_to(y + i, vf_mul(vf_load_to(y + i, left), factor), left);
  }
}

static void softmax_range(void *ctx, int64_t begin, int64_t end) {
  const softmax_job *j = ctx;
  for (int64_t r = begin; r < end; r++) softmax_row(j->x + r * j->n, j->y + r * j->n, j->n, j->logarithm);
}

static void softmax(kava_dtype type, const void *x, void *y, int64_t rows, int64_t n, bool logarithm) {
  if (type != KAVA_F32) {
    kava_ref_softmax(type, x, y, rows, n, logarithm);
    return;
  }
  softmax_job j = {.x = x, .y = y, .n = n, .logarithm = logarithm};
  kava_parallel(rows, n < 8192 ? 8192 / (n > 0 ? n : 1) : 1, softmax_range, &j);
}

/* x holds the op's output, y receives the gradient */
static void softmax_grad_range(void *ctx, int64_t first, int64_t last) {
  const softmax_job *j = ctx;
  for (int64_t r = first; r < last; r++) {
    const float *y = j->x + r * j->n, *gy = j->gy + r * j->n;
    float *gx = j->y + r * j->n;
    double dot = 0;
    for (int64_t begin = 0; begin < j->n; begin += BLOCK) {
      int64_t end = j->n - begin < BLOCK ? j->n : begin + BLOCK;
      vf sum = vf_set(0);
      for (int64_t i = begin; i < end; i += VF_LANES) {
        vf g = vf_load_to(gy + i, end - i);
        sum = j->logarithm ? vf_add(sum, g) : vf_fma(g, vf_load_to(y + i, end - i), sum);
      }
      dot += (double)vf_sum(sum);
    }
    vf d = vf_set((float)dot), least = vf_exp(vf_set(-100.0f));
    for (int64_t i = 0; i < j->n; i += VF_LANES) {
      int64_t left = j->n - i;
      vf v = vf_load_to(y + i, left), g = vf_load_to(gy + i, left);
      g = j->logarithm ? vf_sub(g, vf_mul(vf_sub(vf_exp(v), least), d)) : vf_mul(v, vf_sub(g, d));
      vf_store_to(gx + i, j->add ? vf_add(vf_load_to(gx + i, left), g) : g, left);
    }
  }
}

static void softmax_grad(kava_dtype type, const void *y, const void *gy, void *gx, int64_t rows, int64_t n,
                         bool logarithm, bool add) {
  if (type != KAVA_F32) {
    kava_ref_softmax_grad(type, y, gy, gx, rows, n, logarithm, add);
    return;
  }
  softmax_job j = {y, gy, gx, n, logarithm, add};
  kava_parallel(rows, n < 8192 ? 8192 / (n > 0 ? n : 1) : 1, softmax_grad_range, &j);
}

/* --- comparison --- */

typedef struct difference_job {
  const float *a, *b;
  int64_t count;
  double rtol, atol;
  kava_difference *parts;
} difference_job;

enum { PIECE = 1 << 16 };

static void difference_range(void *ctx, int64_t first, int64_t last) {
  const difference_job *j = ctx;
  for (int64_t p = first; p < last; p++) {
    int64_t at = p * PIECE, n = j->count - at < PIECE ? j->count - at : PIECE, i = 0;
    const float *a = j->a + at, *b = j->b + at;
    double most[8] = {0};
    int far[8] = {0}, odd[8] = {0};
    for (; i + 8 <= n; i += 8) {
      for (int k = 0; k < 8; k++) {
        double x = (double)a[i + k], y = (double)b[i + k], d = fabs(x - y);
        far[k] |= !(d <= j->atol + j->rtol * fabs(y));
        odd[k] |= !(d < INFINITY);
        most[k] = d > most[k] ? d : most[k];
      }
    }
    for (int k = 1; k < 8; k++) {
      far[0] |= far[k];
      odd[0] |= odd[k];
      most[0] = most[k] > most[0] ? most[k] : most[0];
    }
    kava_difference *out = &j->parts[p], rest;
    if (odd[0])
      kava_ref_difference(KAVA_F32, a, b, n, j->rtol, j->atol, out); /* NaN and infinities */
    else {
      kava_ref_difference(KAVA_F32, a + i, b + i, n - i, j->rtol, j->atol, &rest);
      *out = (kava_difference){!far[0] && rest.close, rest.most > most[0] ? rest.most : most[0], -1};
    }
  }
}

static void difference(kava_dtype type, const void *a, const void *b, int64_t count, double rtol, double atol,
                       kava_difference *out) {
  int64_t pieces = (count + PIECE - 1) / PIECE, worst = 0;
  difference_job j = {a, b, count, rtol, atol, NULL};
  if (type == KAVA_F32 && pieces > 0) j.parts = kava_alloc((size_t)pieces * sizeof *j.parts);
  if (!j.parts) {
    kava_ref_difference(type, a, b, count, rtol, atol, out);
    return;
  }
  kava_parallel(pieces, 1, difference_range, &j);
  bool close = true;
  for (int64_t p = 0; p < pieces; p++) {
    close = close && j.parts[p].close;
    if (j.parts[p].most > j.parts[worst].most) worst = p;
  }
  int64_t at = worst * PIECE;
  kava_ref_difference(type, j.a + at, j.b + at, count - at < PIECE ? count - at : PIECE, rtol, atol,
                      out); /* its index */
  out->index += at;
  out->close = close;
  kava_free(j.parts);
}

void KAVA_SIMD(reduce)(kava_kernels *table);
void KAVA_SIMD(reduce)(kava_kernels *table) {
  table->reduce = reduce;
  table->argreduce = argreduce;
  table->softmax = softmax;
  table->softmax_grad = softmax_grad;
  table->difference = difference;
}

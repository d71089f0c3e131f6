/* kernels/cpu/simd/norm.c: RMS norm and layer norm. A row stays in the first-level cache between its passes, so the
 * memory is read once and written once; sums run in four independent vectors. Mathematics: kernels/cpu/norm.c. */
#include "kernels/cpu/simd/vec.h"
#include "base/threads.h"
#include "kernels/cpu/reference.h"
#include <math.h>
#include <string.h>

static float row_sum(const float *x, int64_t n) {
  vf s[4] = {vf_set(0), vf_set(0), vf_set(0), vf_set(0)};
  int64_t i = 0;
  for (; i + 4 * VF_LANES <= n; i += 4 * VF_LANES)
    for (int k = 0; k < 4; k++) s[k] = vf_add(s[k], vf_load(x + i + k * VF_LANES));
  float sum = vf_sum(vf_add(vf_add(s[0], s[1]), vf_add(s[2], s[3])));
  for (; i < n; i++) sum += x[i];
  return sum;
}

static float row_squares(const float *x, int64_t n, float mean) {
  vf s[4] = {vf_set(0), vf_set(0), vf_set(0), vf_set(0)}, m = vf_set(mean);
  int64_t i = 0;
  for (; i + 4 * VF_LANES <= n; i += 4 * VF_LANES)
    for (int k = 0; k < 4; k++) {
      vf d = vf_sub(vf_load(x + i + k * VF_LANES), m);
      s[k] = vf_fma(d, d, s[k]);
    }
  float sum = vf_sum(vf_add(vf_add(s[0], s[1]), vf_add(s[2], s[3])));
  for (; i < n; i++) sum += (x[i] - mean) * (x[i] - mean);
  return sum;
}

static void statistics(const kava_norm_args *a, const float *x, float *mean, float *scale) {
  *mean = a->centre ? row_sum(x, a->width) / (float)a->width : 0;
  *scale = (float)(1.0 / sqrt((double)row_squares(x, a->width, *mean) / (double)a->width + a->eps));
}

static void put_row(const kava_norm_args *a, const float *x, float mean, float scale, float *y) {
  const float *w = a->w, *b = a->b;
  vf m = vf_set(mean), s = vf_set(scale);
  int64_t i = 0;
  for (; i + VF_LANES <= a->width; i += VF_LANES) {
    vf v = vf_mul(vf_sub(vf_load(x + i), m), s);
    if (w) v = vf_mul(v, vf_load(w + i));
    if (b) v = vf_add(v, vf_load(b + i));
    vf_store(y + i, v);
  }
  for (; i < a->width; i++) {
    float v = (x[i] - mean) * scale;
    if (w) v *= w[i];
    y[i] = b ? v + b[i] : v;
  }
}

static void norm_rows(void *ctx, int64_t begin, int64_t end) {
  const kava_norm_args *a = ctx;
  for (int64_t row = begin; row < end; row++) {
    const float *x = (const float *)a->x + row * a->width;
    float mean, scale;
    statistics(a, x, &mean, &scale);
    put_row(a, x, mean, scale, (float *)a->y + row * a->width);
  }
}

static int64_t grain(int64_t width) { return 8192 / (width + 1) + 1; }

static void norm(const kava_norm_args *a) {
  if (a->dtype == KAVA_F64)
    kava_ref_norm(a);
  else
    kava_parallel(a->rows, grain(a->width), norm_rows, (void *)a);
}

/* sum(g) and sum(g n) of a row; the parameters' gradients go to this block's sums on the way. */
static void row_gradient_sums(const kava_norm_args *a, const float *x, const float *grad, float mean, float scale,
                              float *dw, float *db, float *sum, float *dot) {
  const float *w = a->w;
  vf m = vf_set(mean), s = vf_set(scale), sums[2] = {vf_set(0), vf_set(0)}, dots[2] = {vf_set(0), vf_set(0)};
  int64_t i = 0;
  for (int k = 0; i + VF_LANES <= a->width; i += VF_LANES, k ^= 1) {
    vf dy = vf_load(grad + i), n = vf_mul(vf_sub(vf_load(x + i), m), s), g = w ? vf_mul(dy, vf_load(w + i)) : dy;
    sums[k] = vf_add(sums[k], g);
    dots[k] = vf_fma(g, n, dots[k]);
    if (dw) vf_store(dw + i, vf_fma(dy, n, vf_load(dw + i)));
    if (db) vf_store(db + i, vf_add(dy, vf_load(db + i)));
  }
  *sum = vf_sum(vf_add(sums[0], sums[1]));
  *dot = vf_sum(vf_add(dots[0], dots[1]));
  for (; i < a->width; i++) {
    float n = (x[i] - mean) * scale, g = w ? grad[i] * w[i] : grad[i];
    *sum += g;
    *dot += g * n;
    if (dw) dw[i] += grad[i] * n;
    if (db) db[i] += grad[i];
  }
}

static void row_gradient(const kava_norm_args *a, const float *x, const float *grad, float mean, float scale, float sum,
                         float dot, float *dx) {
  const float *w = a->w;
  /* dx = s (g - mean(g) - n mean(g n)), with n = (x - m) s */
  float shift = a->centre ? sum / (float)a->width : 0, slope = dot / (float)a->width * scale;
  vf m = vf_set(mean), s = vf_set(scale), h = vf_set(shift), k = vf_set(-slope);
  int64_t i = 0;
  for (; i + VF_LANES <= a->width; i += VF_LANES) {
    vf g = vf_load(grad + i);
    if (w) g = vf_mul(g, vf_load(w + i));
    vf v = vf_mul(s, vf_fma(k, vf_sub(vf_load(x + i), m), vf_sub(g, h)));
    vf_store(dx + i, a->add_x ? vf_add(vf_load(dx + i), v) : v);
  }
  for (; i < a->width; i++) {
    float g = w ? grad[i] * w[i] : grad[i], v = scale * (g - shift - slope * (x[i] - mean));
    dx[i] = a->add_x ? dx[i] + v : v;
  }
}

static void grad_blocks(void *ctx, int64_t begin, int64_t end) {
  const kava_norm_args *a = ctx;
  int64_t rows = kava_norm_block_rows(a->rows);
  for (int64_t block = begin; block < end; block++) {
    float *dw = a->dw ? (float *)a->partial + 2 * block * a->width : NULL;
    float *db = a->db ? (float *)a->partial + (2 * block + 1) * a->width : NULL;
    if (dw) memset(dw, 0, (size_t)a->width * sizeof *dw);
    if (db) memset(db, 0, (size_t)a->width * sizeof *db);
    for (int64_t row = block * rows; row < (block + 1) * rows && row < a->rows; row++) {
      const float *x = (const float *)a->x + row * a->width, *grad = (const float *)a->grad + row * a->width;
      float mean, scale, sum, dot;
      statistics(a, x, &mean, &scale);
      row_gradient_sums(a, x, grad, mean, scale, dw, db, &sum, &dot);
      if (a->dx) row_gradient(a, x, grad, mean, scale, sum, dot, (float *)a->dx + row * a->width);
      if (a->y) put_row(a, x, mean, scale, (float *)a->y + row * a->width);
    }
  }
}

/* Adds the blocks' sums in order. */
static void grad_columns(void *ctx, int64_t begin, int64_t end) {
  const kava_norm_args *a = ctx;
  float *into[2] = {a->dw, a->db};
  for (int side = 0; side < 2; side++) {
    if (!into[side]) continue;
    for (int64_t block = 0; block < kava_norm_blocks(a->rows); block++) {
      const float *from = (const float *)a->partial + (2 * block + side) * a->width;
      for (int64_t i = begin; i < end; i++) into[side][i] += from[i];
    }
  }
}

static void norm_grad(const kava_norm_args *a) {
  if (a->dtype == KAVA_F64) {
    kava_ref_norm_grad(a);
    return;
  }
  kava_parallel(kava_norm_blocks(a->rows), grain(a->width * kava_norm_block_rows(a->rows)), grad_blocks, (void *)a);
  if (a->dw || a->db) kava_parallel(a->width, 1024, grad_columns, (void *)a);
}

void KAVA_SIMD(norm)(kava_kernels *table);
void KAVA_SIMD(norm)(kava_kernels *table) {
  table->norm = norm;
  table->norm_grad = norm_grad;
}

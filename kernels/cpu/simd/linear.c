/* kernels/cpu/simd/linear.c: a linear layer's products (kava_linear_args) on packed panels (panels.h):
 *   forward  A = x, B = W^T      dx  A = dy, B = W      dw  A = dy^T, B = x
 * W of any type is widened a few rows at a time on its way into the panels. A few rows of x (generating a token) are
 * dot products with W's rows instead, which read W once: that is bound by memory, not arithmetic. Scratch for packed
 * operands is bounded: the sizes below, however large the layer (a vocabulary's head). */
#include "base/memory.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/reference.h"
#include "kernels/cpu/simd/pack.h"

#define FEW_ROWS 8
#define SCRATCH_BYTES ((int64_t)32 << 20)
#define WIDE_COLUMNS 512 /* of W, widened together: a multiple of every block size */

static const kava_kernels *kernels; /* for `widen`, which another family may have replaced */
static panel_type bf16_panels;      /* the best type for precision bf16 here; PANEL_F32: rounded f32 */

static panel_type type_of(const kava_linear_args *a) { return a->precision == KAVA_BF16 ? bf16_panels : PANEL_F32; }
static bool must_round(const kava_linear_args *a) { return a->precision == KAVA_BF16 && bf16_panels == PANEL_F32; }
static const char *weight_at(const kava_linear_args *a, int64_t row, int64_t column) {
  int64_t block = kava_dtype_block(a->wtype);
  return (const char *)a->w + (row * a->in + column) / block * kava_dtype_block_bytes(a->wtype);
}

static void widen(const kava_linear_args *a, int64_t row, int64_t column, int64_t count, float *out) {
  const char *from = weight_at(a, row, column);
  if (a->scaling)
    kernels->widen_scaled(a->wtype, from, a->scaling, a->first + row, column, out, count);
  else
    kernels->widen(a->wtype, from, out, count);
}

/* count elements of W's row from `column` as f32, rounded where the product wants it: in place or in `scratch`. */
static const float *weight(const kava_linear_args *a, int64_t row, int64_t column, int64_t count, float *scratch) {
  if (a->wtype == KAVA_F32 && !must_round(a)) return (const float *)(const void *)weight_at(a, row, column);
  widen(a, row, column, count, scratch);
  if (must_round(a)) round_bf16(scratch, scratch, count);
  return scratch;
}

/* This thread's part of a scratch of `each` floats a thread; NULL where none is needed. */
static float *own(float *scratch, int64_t each) { return scratch ? scratch + kava_thread_index() * each : NULL; }

/* ---- operands ---- */

typedef struct pack_job {
  const kava_linear_args *a;
  panel_type type;
  const float *x; /* an activation */
  int64_t begin, count, width, pitch, rows;
  bool round;
  char *out;
  float *scratch; /* per thread */
  int64_t scratch_each;
} pack_job;

/* Panels [begin, end) of W^T, counted from output job->begin, job->count outputs in all. */
static void pack_weight_transposed(void *ctx, int64_t begin, int64_t end) {
  const pack_job *job = ctx;
  const kava_linear_args *a = job->a;
  float *scratch = own(job->scratch, job->scratch_each);
  bool direct = a->wtype == KAVA_F32 && !must_round(a);
  bool pairs = job->type != PANEL_F32 && a->wtype == KAVA_BF16 && a->in % 32 == 0;
  int64_t steps = panel_steps(job->type, a->in), steps_of_512 = panel_steps(job->type, WIDE_COLUMNS);
  for (int64_t at = begin; at < end; at++) {
    int64_t row = job->begin + at * PANEL, cols = least(job->count - at * PANEL, PANEL);
    char *out = job->out + at * steps * STEP_BYTES;
    if (pairs) { /* a row of bf16 is a row of pairs already: moved like floats */
      pack_transposed(PANEL_F32, (const float *)(const void *)weight_at(a, row, 0), a->in / 2, cols, a->in / 2, out);
      continue;
    }
    for (int64_t k = 0; k < a->in; k += WIDE_COLUMNS, out += steps_of_512 * STEP_BYTES) {
      int64_t count = least(a->in - k, WIDE_COLUMNS);
      for (int64_t j = 0; j < cols && !direct; j++) weight(a, row + j, k, count, scratch + j * WIDE_COLUMNS);
      if (direct)
        pack_transposed(job->type, (const float *)a->w + row * a->in + k, a->in, cols, count, out);
      else
        pack_transposed(job->type, scratch, WIDE_COLUMNS, cols, count, out);
    }
  }
}

/* Rows [32 begin, 32 end) of W, counted from job->begin, into all panels of W; job->count rows in all. */
static void pack_weight_plain(void *ctx, int64_t begin, int64_t end) {
  const pack_job *job = ctx;
  const kava_linear_args *a = job->a;
  float *scratch = own(job->scratch, job->scratch_each);
  bool direct = a->wtype == KAVA_F32 && !must_round(a);
  int64_t steps = panel_steps(job->type, job->count), steps_of_32 = panel_steps(job->type, 32);
  for (int64_t at = begin; at < end; at++) {
    int64_t row = job->begin + at * 32, count = least(job->count - at * 32, 32);
    for (int64_t i = 0; i < a->in; i += WIDE_COLUMNS) {
      int64_t width = least(a->in - i, WIDE_COLUMNS);
      for (int64_t r = 0; r < count && !direct; r++) weight(a, row + r, i, width, scratch + r * WIDE_COLUMNS);
      for (int64_t j = 0; j < width; j += PANEL) {
        const float *from = direct ? (const float *)a->w + row * a->in + i + j : scratch + j;
        pack_plain(job->type, from, direct ? a->in : WIDE_COLUMNS, least(width - j, PANEL), count, true,
                   job->out + ((i + j) / PANEL * steps + at * steps_of_32) * STEP_BYTES);
      }
    }
  }
}

/* Rows of an activation as A: bf16, or f32 rounded to it. Rows from job->rows on are zero. */
static void convert_rows(void *ctx, int64_t begin, int64_t end) {
  const pack_job *job = ctx;
  for (int64_t r = begin; r < end; r++) {
    char *out = job->out + r * job->pitch;
    const float *x = job->x + r * job->width;
    if (r >= job->rows) memset(out, 0, (size_t)job->pitch);
#if defined(__AVX512BF16__)
    else if (job->type != PANEL_F32)
      bf16_row(x, job->width, out);
#endif
    else
      round_bf16(x, (float *)(void *)out, job->width);
  }
}

/* Columns [16 begin, 16 end) of an activation, counted from job->begin, as rows of A. */
static void transpose_columns(void *ctx, int64_t begin, int64_t end) {
  const pack_job *job = ctx;
  for (int64_t at = begin; at < end; at++) {
    int64_t i = at * 16, columns = least(job->count - i, 16);
    char *out = job->out + i * job->pitch;
    if (columns > 0)
      transpose_rows(job->type, job->x + job->begin + i, job->width, columns, job->rows, out, job->pitch);
    if (columns < 16) {
      int64_t from = columns > 0 ? columns : 0;
      memset(out + from * job->pitch, 0, (size_t)((16 - from) * job->pitch));
    }
    for (int64_t r = 0; r < columns && job->round; r++)
      round_bf16((float *)(void *)(out + r * job->pitch), (float *)(void *)(out + r * job->pitch), job->rows);
  }
}

/* Panels [begin, end) of an activation as B: k are its rows. */
static void pack_columns(void *ctx, int64_t begin, int64_t end) {
  const pack_job *job = ctx;
  int64_t steps = panel_steps(job->type, job->rows);
  for (int64_t at = begin; at < end; at++) {
    char *out = job->out + at * steps * STEP_BYTES;
    pack_plain(job->type, job->x + at * PANEL, job->width, least(job->width - at * PANEL, PANEL), job->rows, true, out);
    if (job->round) round_bf16((float *)(void *)out, (float *)(void *)out, steps * PANEL);
  }
}

/* Bytes from row to row of a copy that is read many rows at a time: no multiple of 512, which would put all rows into a
 * few sets of the L1 cache (dw of 1024 rows: 4096 bytes, one set). */
static int64_t row_pitch(int64_t bytes) { return bytes % 512 == 0 ? bytes + 64 : bytes; }

/* A from rows of an activation: x itself for f32; else converted into *scratch (kava_alloc'ed). NULL: out of memory. */
static const char *rows_operand(panel_type type, bool round, const float *x, int64_t rows, int64_t width, int64_t *lda,
                                char **scratch) {
  *scratch = NULL;
  *lda = width * 4;
  if (type == PANEL_F32 && !round) return (const char *)x;
  int64_t padded = type == PANEL_AMX ? ceil_div(rows, 32) * 32 : rows;
  *lda = row_pitch(panel_steps(type, width) * 4);
  *scratch = kava_alloc((size_t)(padded * *lda));
  if (!*scratch) return NULL;
  pack_job job = {.type = type, .x = x, .width = width, .rows = rows, .pitch = *lda, .out = *scratch};
  kava_parallel(padded, 8, convert_rows, &job);
  return *scratch;
}

/* ---- few rows ---- */

typedef struct few_job {
  const kava_linear_args *a;
  const float *x, *bias;
  float *y, *scratch; /* per thread: one row of W */
} few_job;

static float dot(const float *x, const float *y, int64_t count) {
  vf sum[4] = {vf_set(0), vf_set(0), vf_set(0), vf_set(0)};
  int64_t i = 0;
  for (; i + 4 * VF_LANES <= count; i += 4 * VF_LANES)
    for (int j = 0; j < 4; j++) sum[j] = vf_fma(vf_load(x + i + j * VF_LANES), vf_load(y + i + j * VF_LANES), sum[j]);
  for (; i < count; i += VF_LANES) {
    int64_t n = least(count - i, VF_LANES);
    sum[0] = vf_fma(vf_load_n(x + i, n), vf_load_n(y + i, n), sum[0]);
  }
  return vf_sum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
}

static void few_outputs(void *ctx, int64_t begin, int64_t end) {
  const few_job *job = ctx;
  const kava_linear_args *a = job->a;
  float *scratch = own(job->scratch, a->in);
  for (int64_t o = begin; o < end; o++) {
    const float *w = (const float *)(const void *)weight_at(a, o, 0);
    if (a->wtype != KAVA_F32 || a->precision == KAVA_BF16) {
      widen(a, o, 0, a->in, scratch);
      if (a->precision == KAVA_BF16) round_bf16(scratch, scratch, a->in);
      w = scratch;
    }
    for (int64_t r = 0; r < a->rows; r++)
      job->y[r * a->out + o] = dot(job->x + r * a->in, w, a->in) + (job->bias ? job->bias[o] : 0.0f);
  }
}

static kava_status few_rows(const kava_linear_args *a, const float *x, const float *bias, float *y) {
  int64_t rounded = a->precision == KAVA_BF16 ? a->rows : 0;
  float *scratch = kava_alloc((size_t)((kava_threads() + rounded) * a->in) * sizeof *scratch);
  if (!scratch) return KAVA_MEMORY;
  few_job job = {.a = a, .x = x, .bias = bias, .y = y, .scratch = scratch + rounded * a->in};
  if (rounded) {
    round_bf16(x, scratch, rounded * a->in);
    job.x = scratch;
  }
  kava_parallel(a->out, (1 << 14) / (a->in + 1) + 1, few_outputs, &job);
  kava_free(scratch);
  return KAVA_OK;
}

/* ---- products ---- */

static bool empty(const kava_linear_args *a) { return a->rows == 0 || a->in == 0 || a->out == 0; }

/* Packs outputs [begin, begin+count) of W for a product into `out`; false: out of memory. */
static bool pack_weight(const kava_linear_args *a, bool transposed, int64_t begin, int64_t count, char *out) {
  pack_job job = {.a = a, .type = type_of(a), .begin = begin, .count = count, .out = out};
  job.scratch_each = 32 * WIDE_COLUMNS;
  if (a->wtype != KAVA_F32 || must_round(a)) {
    job.scratch = kava_alloc((size_t)(kava_threads() * job.scratch_each) * sizeof(float));
    if (!job.scratch) return false;
  }
  kava_parallel(ceil_div(count, transposed ? PANEL : 32), 1, transposed ? pack_weight_transposed : pack_weight_plain,
                &job);
  kava_free(job.scratch);
  return true;
}

/* Over a long k in f32 BLAS is ahead, packing included (1024 x 5760 x 5760, one core of Emerald Rapids: 152 against 142
 * GFLOP/s; level at 1536); it needs enough rows to pay for the packing of each slice. */
static bool by_blas(const kava_linear_args *a, int64_t k) {
  return k >= 2048 && a->rows >= 256 && a->wtype == KAVA_F32 && a->precision == KAVA_F32 && kava_blas_info().library;
}

typedef struct bias_job {
  const float *bias;
  float *y;
  int64_t width;
} bias_job;

static void bias_rows(void *ctx, int64_t begin, int64_t end) {
  const bias_job *job = ctx;
  for (int64_t r = begin; r < end; r++) memcpy(job->y + r * job->width, job->bias, (size_t)job->width * sizeof(float));
}

static kava_status blas_forward(const kava_linear_args *a, const void *x, const void *bias, void *y) {
  bias_job job = {bias, y, a->out};
  if (bias) kava_parallel(a->rows, 16, bias_rows, &job);
  kava_gemm_args g = {.dtype = KAVA_F32,
                      .trans_b = true,
                      .m = a->rows,
                      .n = a->out,
                      .k = a->in,
                      .alpha = 1,
                      .beta = bias ? 1 : 0,
                      .a = x,
                      .lda = a->in,
                      .b = a->w,
                      .ldb = a->in,
                      .c = y,
                      .ldc = a->out,
                      .batch = 1};
  kernels->gemm(&g);
  return KAVA_OK;
}

static kava_status blas_dx(const kava_linear_args *a, const void *dy, void *out, bool add) {
  kava_gemm_args g = {.dtype = KAVA_F32,
                      .m = a->rows,
                      .n = a->in,
                      .k = a->out,
                      .alpha = 1,
                      .beta = add ? 1 : 0,
                      .a = dy,
                      .lda = a->out,
                      .b = a->w,
                      .ldb = a->in,
                      .c = out,
                      .ldc = a->in,
                      .batch = 1};
  kernels->gemm(&g);
  return KAVA_OK;
}

static kava_status forward(const kava_linear_args *a, const void *x, const void *bias, void *y) {
  if (a->dtype == KAVA_F64 || empty(a)) return kava_ref_linear_forward(a, x, bias, y);
  if (a->rows <= FEW_ROWS) return few_rows(a, x, bias, y);
  if (by_blas(a, a->in)) return blas_forward(a, x, bias, y);
  panel_type type = type_of(a);
  char *converted = NULL, *panels = NULL;
  kava_status st = KAVA_MEMORY;
  int64_t lda, steps = panel_steps(type, a->in), part = SCRATCH_BYTES / (steps * STEP_BYTES + 1) * PANEL + PANEL;
  part = least(part, a->out);
  const char *from = rows_operand(type, must_round(a), x, a->rows, a->in, &lda, &converted);
  if (!from || !(panels = kava_alloc(panel_bytes(type, part, a->in)))) goto out;
  for (int64_t o = 0; o < a->out; o += part) {
    int64_t count = least(a->out - o, part);
    if (!pack_weight(a, true, o, count, panels)) goto out;
    panel_product p = {.type = type,
                       .m = a->rows,
                       .n = count,
                       .steps = steps,
                       .a = from,
                       .lda = lda,
                       .b = panels,
                       .c = (float *)y + o,
                       .ldc = a->out,
                       .bias = bias ? (const float *)bias + o : NULL};
    panel_multiply(&p);
  }
  st = KAVA_OK;
out:
  kava_free(converted);
  kava_free(panels);
  return st;
}

static kava_status dx(const kava_linear_args *a, const void *dy, void *out, bool add) {
  if (a->dtype == KAVA_F64 || empty(a)) return kava_ref_linear_dx(a, dy, out, add);
  if (by_blas(a, a->out)) return blas_dx(a, dy, out, add);
  panel_type type = type_of(a);
  char *converted = NULL, *panels = NULL;
  kava_status st = KAVA_MEMORY;
  int64_t lda, part = SCRATCH_BYTES / (ceil_div(a->in, PANEL) * STEP_BYTES + 1) / 32 * 32 + 32; /* of k */
  part = least(part, a->out);
  const char *from = rows_operand(type, must_round(a), dy, a->rows, a->out, &lda, &converted);
  if (!from || !(panels = kava_alloc(panel_bytes(type, a->in, part)))) goto out;
  for (int64_t o = 0; o < a->out; o += part) {
    int64_t count = least(a->out - o, part);
    if (!pack_weight(a, false, o, count, panels)) goto out;
    panel_product p = {.type = type,
                       .m = a->rows,
                       .n = a->in,
                       .steps = panel_steps(type, count),
                       .a = from + o * (type == PANEL_F32 ? 4 : 2),
                       .lda = lda,
                       .b = panels,
                       .c = out,
                       .ldc = a->in,
                       .add = add || o > 0};
    panel_multiply(&p);
  }
  st = KAVA_OK;
out:
  kava_free(converted);
  kava_free(panels);
  return st;
}

typedef struct sum_job {
  const float *dy;
  float *db;
  int64_t rows, row; /* row: elements from one to the next */
  bool add;
} sum_job;

static void sum_columns(void *ctx, int64_t begin, int64_t end) {
  const sum_job *job = ctx;
  for (int64_t o = begin; o < end; o += 4 * VF_LANES) {
    for (int64_t j = o; j < least(end, o + 4 * VF_LANES); j += VF_LANES) {
      int64_t n = least(end - j, VF_LANES);
      vf sum = vf_set(0);
      for (int64_t r = 0; r < job->rows; r++) sum = vf_add(sum, vf_load_n(job->dy + r * job->row + j, n));
      if (job->add) sum = vf_add(sum, vf_load_n(job->db + j, n));
      vf_store_n(job->db + j, sum, n);
    }
  }
}

static kava_status dw(const kava_linear_args *a, const void *x, const void *dy, void *out, bool add_w, void *db,
                      bool add_b) {
  if (a->dtype == KAVA_F64 || empty(a)) return kava_ref_linear_dw(a, x, dy, out, add_w, db, add_b);
  int64_t dy_row = a->dy_row ? a->dy_row : a->out;
  if (db) {
    sum_job job = {dy, db, a->rows, dy_row, add_b};
    kava_parallel(a->out, 64, sum_columns, &job);
  }
  if (!out) return KAVA_OK;
  panel_type type = type_of(a);
  kava_status st = KAVA_MEMORY;
  int64_t steps = panel_steps(type, a->rows), pitch = row_pitch(steps * 4);
  int64_t part = least(SCRATCH_BYTES / (pitch + 1) / 32 * 32 + 32, ceil_div(a->out, 32) * 32);
  char *panels = kava_alloc(panel_bytes(type, a->in, a->rows)), *columns = kava_alloc((size_t)(part * pitch));
  if (!panels || !columns) goto out;
  pack_job job = {.type = type, .x = x, .width = a->in, .rows = a->rows, .out = panels, .round = must_round(a)};
  kava_parallel(ceil_div(a->in, PANEL), 1, pack_columns, &job);
  for (int64_t o = 0; o < a->out; o += part) {
    int64_t count = least(a->out - o, part);
    job = (pack_job){.type = type,
                     .x = dy,
                     .width = dy_row,
                     .begin = o,
                     .count = count,
                     .rows = a->rows,
                     .pitch = pitch,
                     .out = columns,
                     .round = must_round(a)};
    kava_parallel(ceil_div(count, 32) * 2, 1, transpose_columns, &job);
    panel_product p = {.type = type,
                       .m = count,
                       .n = a->in,
                       .steps = steps,
                       .a = columns,
                       .lda = pitch,
                       .b = panels,
                       .c = (float *)out + o * a->in,
                       .ldc = a->in,
                       .add = add_w};
    panel_multiply(&p);
  }
  st = KAVA_OK;
out:
  kava_free(panels);
  kava_free(columns);
  return st;
}

static const char *bf16_name(void) {
  return bf16_panels == PANEL_AMX ? "amx" : bf16_panels == PANEL_BF16 ? "dot" : "f32";
}

void KAVA_SIMD(linear)(kava_kernels *table);
void KAVA_SIMD(linear)(kava_kernels *table) {
  kernels = table;
#if defined(__AVX512BF16__)
  /* vdpbf16ps: on AMD twice the f32 rate, on Intel half of it (measured on Emerald Rapids: 83 against 150 GFLOP/s a
   * core), so that without AMX rounded f32 is the better choice there. KAVA_BF16 = amx, dot or f32 names another. */
  const char *wish = getenv("KAVA_BF16");
  bf16_panels = __builtin_cpu_is("amd") ? PANEL_BF16 : PANEL_F32;
  if (wish && strcmp(wish, "dot") == 0)
    bf16_panels = PANEL_BF16;
  else if (wish && strcmp(wish, "f32") == 0)
    bf16_panels = PANEL_F32;
  else if (amx_usable())
    bf16_panels = PANEL_AMX;
#endif
  table->linear_forward = forward;
  table->linear_dx = dx;
  table->linear_dw = dw;
  table->linear_bf16 = bf16_name;
}

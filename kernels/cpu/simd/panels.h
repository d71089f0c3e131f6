/* kernels/cpu/simd/panels.h: matrix products C (+)= A B (+ bias) on packed panels of B, in f32 or bf16.
 *
 *   A  [m, k] row-major, k contiguous, any row stride: activations as they lie in memory (bf16: converted copies).
 *   B  packed: panels of 32 columns; a panel is `steps` rows of 128 bytes. f32: a step is one k: 32 floats. bf16: a
 *      step is a pair of k: 32 times {k, k+1}, what vdpbf16ps and tdpbf16ps (AMX) want. Columns beyond n are zero.
 *   C  [m, n] f32, row-major.
 *
 * With 4 bytes of A and 128 bytes of B a step, one micro-kernel shape serves both types: ROWS x 2 vectors of
 * accumulators in registers, B's panel read from L1, A's rows from L2.
 *
 * A is not packed: 14 rows are 14 streams that the prefetcher follows, and linear layers of one input (q, k, v) would
 * pack it again each time. k is cut into chunks whose B panel fits L1; C is summed chunk by chunk. The cut depends on k
 * alone and each element of C is one chain of fused multiply-adds over k, so neither blocking nor threads change a
 * result. */
#ifndef KAVA_SIMD_PANELS_H
#define KAVA_SIMD_PANELS_H
#include "base/threads.h"
#include "kernels/cpu/simd/vec.h"

#define PANEL 32
#define STEP_BYTES 128
#if defined(__AVX512F__)
#define ROWS 14 /* 28 accumulators, 2 of B, 1 of A: of 32 registers */
#elif defined(__AVX2__)
#define ROWS 6 /* 12 + 2 + 1 of 16 */
#else
#define ROWS 8
#endif
#define INLINE static inline __attribute__((always_inline))
#define UNUSED __attribute__((unused))

typedef enum panel_type { PANEL_F32, PANEL_BF16, PANEL_AMX } panel_type;

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Steps of a product over k: bf16 is padded to what an AMX tile holds. */
INLINE int64_t panel_steps(panel_type type, int64_t k) { return type == PANEL_F32 ? k : ceil_div(k, 32) * 16; }
INLINE size_t panel_bytes(panel_type type, int64_t n, int64_t k) {
  return (size_t)(ceil_div(n, PANEL) * panel_steps(type, k)) * STEP_BYTES;
}

INLINE vf multiply_add(panel_type type, vf a, vf b, vf sum) {
#if defined(__AVX512BF16__)
  if (type != PANEL_F32) return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#endif
  return vf_fma(a, b, sum);
}

/* `rows` (a constant <= ROWS) x 2 vectors of C: c = (add ? c : 0) + A B + bias. cols: of C that exist, counted from c.
 */
INLINE void micro_rows(const int rows, const panel_type type, const char *a, int64_t lda, const float *b, int64_t steps,
                       float *c, int64_t ldc, int64_t cols, const float *bias, bool add) {
  vf sum[ROWS][2];
#pragma GCC unroll 16
  for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = vf_set(0);
  const char *at[(ROWS + 2) / 3]; /* every third row: the two after it are reached with one index register */
#pragma GCC unroll 16
  for (int r = 0; r < rows; r += 3) at[r / 3] = a + r * lda;
  for (int64_t s = 0; s < steps; s++, b += PANEL) {
    vf b0 = vf_load(b), b1 = vf_load(b + VF_LANES);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
      vf x = vf_set(*(const float *)(at[r / 3] + r % 3 * lda));
      sum[r][0] = multiply_add(type, x, b0, sum[r][0]);
      sum[r][1] = multiply_add(type, x, b1, sum[r][1]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r += 3) at[r / 3] += 4;
  }
#pragma GCC unroll 2
  for (int v = 0; v < 2; v++) {
    int64_t left = cols - v * VF_LANES;
    if (left <= 0) break;
    bool whole = left >= VF_LANES;
    vf shift = !bias ? vf_set(0) : whole ? vf_load(bias + v * VF_LANES) : vf_load_n(bias + v * VF_LANES, left);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
      float *to = c + r * ldc + v * VF_LANES;
      vf value = sum[r][v];
      if (bias) value = vf_add(value, shift);
      if (whole)
        vf_store(to, add ? vf_add(vf_load(to), value) : value);
      else
        vf_store_n(to, add ? vf_add(vf_load_n(to, left), value) : value, left);
    }
  }
}

INLINE void micro(int rows, const panel_type type, const char *a, int64_t lda, const float *b, int64_t steps, float *c,
                  int64_t ldc, int64_t cols, const float *bias, bool add) {
#define CASE(count)                                                                                                    \
  case count: micro_rows(count, type, a, lda, b, steps, c, ldc, cols, bias, add); return;
  /* clang-format off */
  switch (rows) {
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if ROWS >= 8
    CASE(7) CASE(8)
#endif
#if ROWS >= 14
    CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14)
#endif
  }
  /* clang-format on */
#undef CASE
}

/* One panel of B times `m` rows of A. */
INLINE void panel_rows(const panel_type type, const char *a, int64_t lda, int64_t m, const char *b, int64_t steps,
                       float *c, int64_t ldc, int64_t cols, const float *bias, bool add) {
  for (int64_t i = 0; i < m; i += ROWS)
    for (int64_t j = 0; j < cols; j += 2 * VF_LANES)
      micro((int)least(m - i, ROWS), type, a + i * lda, lda, (const float *)b + j, steps, c + i * ldc + j, ldc,
            cols - j, bias ? bias + j : NULL, add);
}
static void panel_rows_f32(const char *a, int64_t lda, int64_t m, const char *b, int64_t steps, float *c, int64_t ldc,
                           int64_t cols, const float *bias, bool add) {
  panel_rows(PANEL_F32, a, lda, m, b, steps, c, ldc, cols, bias, add);
}
#if defined(__AVX512BF16__)
UNUSED static void panel_rows_bf16(const char *a, int64_t lda, int64_t m, const char *b, int64_t steps, float *c,
                                   int64_t ldc, int64_t cols, const float *bias, bool add) {
  panel_rows(PANEL_BF16, a, lda, m, b, steps, c, ldc, cols, bias, add);
}
#include "kernels/cpu/simd/amx.h"
#endif

typedef struct panel_product {
  panel_type type;
  int64_t m, n, steps;
  const char *a;
  int64_t lda;   /* bytes. PANEL_AMX: rows up to the next multiple of 32 can be read */
  const char *b; /* packed */
  float *c;
  int64_t ldc; /* floats */
  const float *bias;
  bool add;
  /* filled by panel_multiply: */
  int64_t chunk, block_m, block_n, blocks_n;
} panel_product;

/* Products over a long k read each panel from afar: larger blocks and early fetches pay (1024 x 5760 x 2880 in f32, one
 * core: 122 GFLOP/s without, 132 with; for k = 576 they cost 2 %). */
INLINE bool is_long(const panel_product *p) { return p->steps > 1024; }

/* Asks for bytes [from, to) of what is read next; they come into L2 while the multiplication goes on. */
INLINE void fetch(const char *at, int64_t from, int64_t to) {
  for (int64_t i = from; i < to; i += 64) __builtin_prefetch(at + i, 0, 2);
}

static void panel_block(const panel_product *p, int64_t m0, int64_t m, int64_t n0, int64_t n) {
#if defined(__AVX512BF16__)
  if (p->type == PANEL_AMX) amx_begin();
#endif
  int64_t group = is_long(p) ? 2 * (p->type == PANEL_AMX ? 32 : ROWS) : m, groups = ceil_div(m, group);
  for (int64_t s = 0; s < p->steps; s += p->chunk) {
    int64_t steps = least(p->steps - s, p->chunk), share = ceil_div(steps * STEP_BYTES, groups);
    bool add = p->add || s > 0;
    for (int64_t j = n0; j < n0 + n; j += PANEL) {
      const char *b = p->b + (j / PANEL * p->steps + s) * STEP_BYTES;
      int64_t cols = least(p->n - j, PANEL);
      const float *bias = p->bias && s == 0 ? p->bias + j : NULL;
      for (int64_t i = 0; i < m; i += group) {
        const char *a = p->a + (m0 + i) * p->lda + s * 4;
        float *c = p->c + (m0 + i) * p->ldc + j;
        int64_t rows = least(m - i, group);
        if (is_long(p) && j + PANEL < n0 + n)
          fetch(b + p->steps * STEP_BYTES, i / group * share, (i / group + 1) * share);
#if defined(__AVX512BF16__)
        if (p->type == PANEL_AMX)
          amx_panel_rows(a, p->lda, rows, b, steps, c, p->ldc, cols, bias, add);
        else if (p->type == PANEL_BF16)
          panel_rows_bf16(a, p->lda, rows, b, steps, c, p->ldc, cols, bias, add);
        else
#endif
          panel_rows_f32(a, p->lda, rows, b, steps, c, p->ldc, cols, bias, add);
      }
    }
  }
#if defined(__AVX512BF16__)
  if (p->type == PANEL_AMX) amx_end();
#endif
}

static void panel_blocks(void *ctx, int64_t begin, int64_t end) {
  const panel_product *p = ctx;
  for (int64_t at = begin; at < end; at++) {
    int64_t i = at / p->blocks_n * p->block_m, j = at % p->blocks_n * p->block_n;
    panel_block(p, i, least(p->m - i, p->block_m), j, least(p->n - j, p->block_n));
  }
}

/* Runs the product on the pool. Blocks: A's part of a chunk stays in L2 (block_m rows), and there are a few blocks for
 * each thread. */
UNUSED static void panel_multiply(panel_product *p) {
  int64_t unit = p->type == PANEL_AMX ? 32 : ROWS, threads = kava_threads();
  int64_t chunks = ceil_div(p->steps, 384);
  p->chunk = ceil_div(ceil_div(p->steps, chunks), 16) * 16;
  p->block_m = ceil_div(is_long(p) ? 512 : 128, unit) * unit;
  p->block_n = 16 * PANEL;
  while (threads > 1 && ceil_div(p->m, p->block_m) * ceil_div(p->n, p->block_n) < 3 * threads) {
    if (p->block_n > 4 * PANEL || (p->block_m <= 2 * unit && p->block_n > PANEL))
      p->block_n = ceil_div(p->block_n / PANEL, 2) * PANEL;
    else if (p->block_m > 2 * unit)
      p->block_m = ceil_div(p->block_m / unit, 2) * unit;
    else
      break;
  }
  p->blocks_n = ceil_div(p->n, p->block_n);
  kava_parallel(ceil_div(p->m, p->block_m) * p->blocks_n, 1, panel_blocks, p);
}
#endif

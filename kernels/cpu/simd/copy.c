/* kernels/cpu/simd/copy.c: conversions between f32 and the 16-bit floats in vectors, copies and all other conversions
 * shared out to the threads. */
#include "kernels/cpu/simd/vec.h"
#include "kernels/cpu/half.h"
#include "kernels/cpu/reference.h"
#include "kernels/cpu/strided.h"
#include "base/threads.h"
#include <string.h>

enum { GRAIN = 1 << 16 }; /* elements: a copy is bound by memory, and a thread costs some microseconds */

static void f16_to_f32(const uint16_t *x, float *y, int64_t n) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16) _mm512_storeu_ps(y + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(x + i))));
#elif defined(__F16C__)
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + i))));
#elif defined(__ARM_NEON)
  for (; i + 4 <= n; i += 4) vst1q_f32(y + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x + i))));
#endif
  for (; i < n; i++) y[i] = kava_f16_to_f32(x[i]);
}

static void f32_to_f16(const float *x, uint16_t *y, int64_t n) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16) _mm256_storeu_si256((__m256i *)(y + i), _mm512_cvtps_ph(_mm512_loadu_ps(x + i), 8));
#elif defined(__F16C__)
  for (; i + 8 <= n; i += 8) _mm_storeu_si128((__m128i *)(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), 8));
#elif defined(__ARM_NEON)
  for (; i + 4 <= n; i += 4) vst1_u16(y + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
#endif
  for (; i < n; i++) y[i] = kava_f32_to_f16(x[i]);
}

/* These two are loops that the compiler puts into vectors. */
static void bf16_to_f32(const uint16_t *restrict x, float *restrict y, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = kava_bf16_to_f32(x[i]);
}
static void f32_to_bf16(const float *restrict x, uint16_t *restrict y, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = kava_f32_to_bf16(x[i]);
}

static void convert_run(kava_dtype from, const void *x, kava_dtype to, void *y, int64_t n) {
  if (from == KAVA_F16 && to == KAVA_F32)
    f16_to_f32(x, y, n);
  else if (from == KAVA_BF16 && to == KAVA_F32)
    bf16_to_f32(x, y, n);
  else if (from == KAVA_F32 && to == KAVA_F16)
    f32_to_f16(x, y, n);
  else if (from == KAVA_F32 && to == KAVA_BF16)
    f32_to_bf16(x, y, n);
  else
    kava_ref_convert(from, x, to, y, n);
}

typedef struct job {
  kava_dtype from, to;
  int64_t size_from, size_to;
  kava_strided s;
} job;

static void convert_range(void *ctx, int64_t begin, int64_t end) {
  const job *j = ctx;
  convert_run(j->from, (const char *)j->s.in[0] + begin * j->size_from, j->to, (char *)j->s.out + begin * j->size_to,
              end - begin);
}

static void convert(kava_dtype from, const void *x, kava_dtype to, void *y, int64_t count) {
  job j = {from, to, kava_dtype_block_bytes(from), kava_dtype_block_bytes(to), {.in = {x}, .out = y}};
  kava_parallel(count, GRAIN, convert_range, &j);
}

static void rows_range(void *ctx, int64_t begin, int64_t end) { /* rows that are contiguous on both sides */
  const job *j = ctx;
  for (int64_t row = begin; row < end; row++) {
    int64_t at[4];
    kava_strided_seek(&j->s, row, at);
    convert_run(j->from, (const char *)j->s.in[0] + at[0] * j->size_from, j->to, (char *)j->s.out + at[3] * j->size_to,
                j->s.shape[j->s.dims - 1]);
  }
}

static void outer_range(void *ctx, int64_t begin, int64_t end) {
  const job *j = ctx;
  kava_strided s = j->s;
  s.shape[0] = end - begin;
  s.in[0] = (const char *)s.in[0] + begin * s.in_stride[0][0] * j->size_from;
  s.out = (char *)s.out + begin * s.out_stride[0] * j->size_to;
  kava_ref_copy(j->from, j->to, &s);
}

/* One matrix turned: x's rows run along y's columns. In tiles that stay in the first cache on both sides. */
static void turn_range(void *ctx, int64_t begin, int64_t end) {
  enum { TILE = 16 };
  const job *j = ctx;
  int64_t cols = j->s.shape[1], dx = j->s.in_stride[0][1], dy = j->s.out_stride[0];
  const uint32_t *x = j->s.in[0];
  uint32_t *y = j->s.out;
  for (int64_t r = begin * TILE; r < end * TILE && r < j->s.shape[0]; r += TILE) {
    int64_t rows = j->s.shape[0] - r < TILE ? j->s.shape[0] - r : TILE;
    for (int64_t c = 0; c < cols; c += TILE) {
      int64_t stop = cols - c < TILE ? cols : c + TILE;
      for (int64_t i = r; i < r + rows; i++)
        for (int64_t k = c; k < stop; k++) y[i * dy + k] = x[k * dx + i];
    }
  }
}

static void copy(kava_dtype from, kava_dtype to, const kava_strided *args) {
  job j = {from, to, kava_dtype_block_bytes(from), kava_dtype_block_bytes(to), kava_strided_merge(args)};
  int last = j.s.dims - 1;
  int64_t n = j.s.shape[last], inner = 1;
  for (int d = 0; d <= last; d++) {
    if (j.s.shape[d] == 0) return;
    if (d > 0) inner *= j.s.shape[d];
  }
  bool rows = j.s.in_stride[0][last] == 1 && j.s.out_stride[last] == 1;
  bool turned = last == 1 && from == to && j.size_from == 4 && j.s.in_stride[0][0] == 1 && j.s.out_stride[1] == 1;
  if (rows && last == 0)
    kava_parallel(n, GRAIN, convert_range, &j);
  else if (rows)
    kava_parallel(kava_strided_rows(&j.s), GRAIN / n > 0 ? GRAIN / n : 1, rows_range, &j);
  else if (turned)
    kava_parallel((j.s.shape[0] + 15) / 16, GRAIN / (16 * n) > 0 ? GRAIN / (16 * n) : 1, turn_range, &j);
  else
    kava_parallel(j.s.shape[0], GRAIN / inner > 0 ? GRAIN / inner : 1, outer_range, &j);
}

void KAVA_SIMD(copy)(kava_kernels *table);
void KAVA_SIMD(copy)(kava_kernels *table) {
  table->convert = convert;
  table->copy = copy;
}

/* kernels/cpu/strided.h: walking a kava_strided. After kava_strided_merge the last dimension is the longest run that
 * all operands share; the others are counted off row by row. */
#ifndef KAVA_KERNELS_CPU_STRIDED_H
#define KAVA_KERNELS_CPU_STRIDED_H
#include "kernels/args.h"

/* Drops dimensions of one element and joins neighbours that are one run in every operand. At least one dimension stays.
 */
static inline kava_strided kava_strided_merge(const kava_strided *args) {
  kava_strided s = *args;
  int last = -1;
  for (int d = 0; d < args->dims; d++) {
    int64_t size = args->shape[d];
    if (size == 1) continue;
    bool joins = last >= 0 && s.out_stride[last] == args->out_stride[d] * size;
    for (int i = 0; i < 3 && joins; i++) joins = !args->in[i] || s.in_stride[i][last] == args->in_stride[i][d] * size;
    if (joins)
      s.shape[last] *= size;
    else
      s.shape[++last] = size;
    s.out_stride[last] = args->out_stride[d];
    for (int i = 0; i < 3; i++) s.in_stride[i][last] = args->in_stride[i][d];
  }
  if (last < 0) { /* a single element */
    last = 0;
    s.shape[0] = 1;
    s.out_stride[0] = 1;
    for (int i = 0; i < 3; i++) s.in_stride[i][0] = 1;
  }
  s.dims = last + 1;
  return s;
}

static inline int64_t kava_strided_rows(const kava_strided *s) {
  int64_t rows = 1;
  for (int d = 0; d + 1 < s->dims; d++) rows *= s->shape[d];
  return rows;
}

/* Element offsets of row `row`: at[0..2] of the operands, at[3] of the output. */
static inline void kava_strided_seek(const kava_strided *s, int64_t row, int64_t at[4]) {
  at[0] = at[1] = at[2] = at[3] = 0;
  for (int d = s->dims - 2; d >= 0; d--) {
    int64_t i = row % s->shape[d];
    row /= s->shape[d];
    for (int j = 0; j < 3; j++)
      if (s->in[j]) at[j] += i * s->in_stride[j][d];
    at[3] += i * s->out_stride[d];
  }
}
#endif

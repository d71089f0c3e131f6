#include "ops/quantise.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "ops/cast.h"
#include "ops/operand.h"
#include "tensor/coded.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct quantising {
  kava_dtype type;
  const float *from;
  uint8_t *to;
} quantising;

static void quantise_blocks(void *ctx, int64_t begin, int64_t end) {
  const quantising *q = ctx;
  int block = kava_dtype_block(q->type), bytes = kava_dtype_block_bytes(q->type);
  kava_kernels_cpu()->narrow(q->type, q->from + begin * block, q->to + begin * bytes, (end - begin) * block);
}

static kava_status check_finite(const float *x, int64_t count) {
  for (int64_t begin = 0; begin < count; begin += 4096) { /* a search would not be vectorised, this is */
    int64_t end = begin + 4096 < count ? begin + 4096 : count;
    int bad = 0;
    for (int64_t i = begin; i < end; i++) bad |= !(fabsf(x[i]) <= FLT_MAX);
    for (int64_t i = begin; i < end && bad; i++)
      if (!isfinite(x[i]))
        return kava_fail(KAVA_MISUSE, "quantise: element %lld is %g", (long long)i + 1, (double)x[i]);
  }
  return KAVA_OK;
}

kava_status kava_op_quantise(kava_tensor *x, kava_dtype dtype, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *plain = NULL, *y = NULL;
  if (dtype != KAVA_Q4_0 && dtype != KAVA_Q4_1 && dtype != KAVA_Q8_0)
    KAVA_FAIL(KAVA_UNSUPPORTED, "quantise: to %s; q4_0, q4_1 and q8_0 are known", kava_dtype_name(dtype));
  if (!kava_dtype_is_float(x->dtype))
    KAVA_FAIL(KAVA_MISUSE, "quantise: a float tensor expected, got %s", kava_dtype_name(x->dtype));
  KAVA_TRY(kava_operand_device("quantise", "the tensor", x, KAVA_CPU));
  KAVA_TRY(kava_contiguous_as(x, KAVA_F32, &plain));
  int64_t count = kava_tensor_numel(plain);
  const float *from = kava_f32(plain);
  KAVA_TRY(check_finite(from, count));
  KAVA_TRY(kava_tensor_empty_like(plain, dtype, &y));
  quantising q = {dtype, from, kava_tensor_data(y)};
  kava_parallel(count / kava_dtype_block(dtype), 1024, quantise_blocks, &q);
  *out = y;
out:
  kava_tensor_release(&plain);
  return st;
}

/* ---- codes with scales beside them ---- */

bool kava_encoding_parse(const char *name, kava_encoding *out) {
  static const char *const names[] = {"nf4", "nf4-dq", "int8", "fp8"};
  for (int i = 0; i < 4; i++)
    if (strcmp(name, names[i]) == 0) {
      *out = (kava_encoding)i;
      return true;
    }
  return false;
}

/* A matrix cut into `across` groups a row of groups; nf4's is one long row. */
typedef struct encoding {
  kava_dtype dtype;
  const float *x;
  int64_t rows, columns, group, group_rows, across;
  float most; /* what the largest magnitude becomes */
  uint8_t *codes;
  float *scales;
} encoding;

static float largest(const float *x, int64_t count) {
  float most = 0;
  for (int64_t i = 0; i < count; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
  return most;
}

static void encode_groups(void *ctx, int64_t begin, int64_t end) {
  const encoding *e = ctx;
  int block = kava_dtype_block(e->dtype);
  for (int64_t g = begin; g < end; g++) {
    int64_t row = g / e->across * e->group_rows, column = g % e->across * e->group;
    int64_t rows = e->rows - row < e->group_rows ? e->rows - row : e->group_rows;
    int64_t columns = e->columns - column < e->group ? e->columns - column : e->group;
    float most = 0;
    for (int64_t r = 0; r < rows; r++) {
      float here = largest(e->x + (row + r) * e->columns + column, columns);
      most = here > most ? here : most;
    }
    float inverse = 1 / most; /* of nothing but zeros: infinite; 0 times that is NaN, whose nf4 code is 0 */
    float factor = e->dtype == KAVA_NF4 ? inverse : e->most * inverse;
    if (e->dtype != KAVA_NF4 && !isfinite(factor)) factor = 0; /* so small that nothing is lost */
    for (int64_t r = 0; r < rows; r++) {
      int64_t at = (row + r) * e->columns + column;
      kava_kernels_cpu()->encode(e->dtype, e->x + at, factor, e->codes + at / block, columns);
    }
    e->scales[g] = most / e->most;
  }
}

static int by_value(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

/* bitsandbytes' signed dynamic map of 8 bits: seven decades down from 1, decade i of 2^i even steps between its tenth
 * and its end, and 0 and 1. */
static void dynamic_map(float map[256]) {
  int n = 0;
  for (int i = 0; i < 7; i++) {
    int steps = 1 << i;
    float decade = (float)pow(10, i - 6), step = 0.9f / (float)steps, edge[65];
    for (int j = 0; j <= steps; j++) /* rounded as its linspace rounds */
      edge[j] = 2 * j < steps ? fmaf(step, (float)j, 0.1f) : fmaf(-step, (float)(steps - j), 1.0f);
    for (int j = 0; j < steps; j++) {
      float mean = (edge[j] + edge[j + 1]) / 2;
      map[n++] = decade * mean;
      map[n++] = -(decade * mean);
    }
  }
  map[n++] = 0;
  map[n++] = 1;
  qsort(map, 256, sizeof *map, by_value);
}

/* The code nearest to x; the middle between two goes to the lower one where x comes from below. */
static uint8_t nearest(const float map[256], float x) {
  int low = 0, high = 255;
  while (high - low > 1) {
    int middle = (low + high) / 2;
    if (x > map[middle])
      low = middle;
    else
      high = middle;
  }
  return (uint8_t)(x > (map[low] + map[high]) * 0.5f ? high : low);
}

/* Scales become u8 codes of their difference from the mean, with a scale for each 256. */
static kava_status encode_scales(kava_coded *p, kava_tensor **codes, kava_tensor **map, kava_tensor **outer) {
  kava_status st = KAVA_OK;
  int64_t count = p->scales->shape[0];
  float *x = kava_f32(p->scales);
  double sum = 0;
  KAVA_TRY(kava_tensor_new(KAVA_U8, 1, &count, codes));
  KAVA_TRY(kava_tensor_new(KAVA_F32, 1, (int64_t[]){256}, map));
  KAVA_TRY(kava_tensor_new(KAVA_F32, 1, (int64_t[]){(count + 255) / 256}, outer));
  dynamic_map(kava_f32(*map));
  for (int64_t i = 0; i < count; i++) sum += (double)x[i];
  float mean = (float)(sum / (double)count);
  uint8_t *to = kava_tensor_data(*codes);
  for (int64_t i = 0; i < count; i++) x[i] -= mean;
  for (int64_t i = 0; i < count; i += 256) {
    int64_t n = count - i < 256 ? count - i : 256;
    float most = largest(x + i, n), inverse = 1 / most;
    kava_f32(*outer)[i / 256] = most;
    for (int64_t j = 0; j < n; j++) to[i + j] = nearest(kava_f32(*map), most > 0 ? x[i + j] * inverse : 0);
  }
  p->scales = *codes;
  p->map = *map;
  p->outer = *outer;
  p->outer_group = 256;
  p->offset = (double)mean;
out:
  return st;
}

kava_status kava_op_encode(kava_tensor *x, kava_encoding kind, kava_tensor **out) {
  static const kava_dtype dtypes[] = {KAVA_NF4, KAVA_NF4, KAVA_INT8, KAVA_FP8};
  kava_status st = KAVA_OK;
  kava_tensor *plain = NULL, *codes = NULL, *scales = NULL, *inner = NULL, *map = NULL, *outer = NULL;
  char shape[96];
  kava_shape_format(x->dims, x->shape, shape, sizeof shape);
  if (!kava_dtype_is_float(x->dtype) || x->dims != 2 || kava_tensor_numel(x) == 0)
    KAVA_FAIL(KAVA_MISUSE, "quantise: a float matrix expected, got %s %s", kava_dtype_name(x->dtype), shape);
  KAVA_TRY(kava_operand_device("quantise", "the tensor", x, KAVA_CPU));
  bool flat = dtypes[kind] == KAVA_NF4, row = kind == KAVA_ENCODE_INT8;
  int64_t rows = x->shape[0], columns = x->shape[1], count = rows * columns;
  if (flat && columns % 2 != 0)
    KAVA_FAIL(KAVA_UNSUPPORTED, "quantise: rows of %lld elements; an even number expected", (long long)columns);
  KAVA_TRY(kava_contiguous_as(x, KAVA_F32, &plain));
  KAVA_TRY(check_finite(kava_f32(plain), count));
  kava_coded p = {.dtype = dtypes[kind],
                  .rows = rows,
                  .columns = columns,
                  .flat = flat,
                  .group = flat  ? 64
                           : row ? columns
                                 : 128,
                  .group_rows = flat || row ? 1 : 128,
                  .round = flat && x->dtype != KAVA_F64 ? x->dtype : KAVA_F32};
  encoding e = {.dtype = p.dtype,
                .x = kava_f32(plain),
                .rows = flat ? 1 : rows,
                .columns = flat ? count : columns,
                .group = p.group,
                .group_rows = p.group_rows,
                .most = flat  ? 1.0f
                        : row ? 127.0f
                              : 448.0f};
  e.across = (e.columns + e.group - 1) / e.group;
  int64_t groups = (e.rows + e.group_rows - 1) / e.group_rows * e.across, bytes = count / kava_dtype_block(p.dtype);
  KAVA_TRY(kava_tensor_new(KAVA_U8, 1, &bytes, &codes));
  KAVA_TRY(kava_tensor_new(KAVA_F32, 1, &groups, &scales));
  e.codes = kava_tensor_data(codes);
  e.scales = kava_f32(scales);
  kava_parallel(groups, 8192 / (e.group * e.group_rows) + 1, encode_groups, &e);
  p.codes = codes;
  p.scales = scales;
  if (kind == KAVA_ENCODE_NF4_DQ) KAVA_TRY(encode_scales(&p, &inner, &map, &outer));
  KAVA_TRY(kava_coded_new(&p, out));
out:
  kava_tensor_release(&plain);
  kava_tensor_release(&codes);
  kava_tensor_release(&scales);
  kava_tensor_release(&inner);
  kava_tensor_release(&map);
  kava_tensor_release(&outer);
  return st;
}

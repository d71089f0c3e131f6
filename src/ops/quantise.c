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

/* As check_finite, of a contiguous f32 tensor anywhere: on a GPU its ends are asked for, and looked for here what they
 * tell. */
static kava_status check_tensor(const kava_tensor *x) {
  kava_status st = KAVA_OK;
  kava_tensor *ends = NULL, *host = NULL;
  int64_t count = kava_tensor_numel(x), two = 2;
  float is[2];
  if (x->device == KAVA_CPU) return check_finite(kava_f32(x), count);
  if (count == 0) return KAVA_OK;
  KAVA_TRY(kava_tensor_new_on(x->device, KAVA_F32, 1, &two, &ends));
  KAVA_RUN(x->device, reduce, KAVA_MAX, KAVA_F32, kava_f32(x), kava_f32(ends), 1, count, 1, 1);
  KAVA_RUN(x->device, reduce, KAVA_MIN, KAVA_F32, kava_f32(x), kava_f32(ends) + 1, 1, count, 1, 1);
  KAVA_TRY(kava_tensor_read(ends, is));
  if (isfinite(is[0]) && isfinite(is[1])) goto out;
  KAVA_TRY(kava_tensor_on((kava_tensor *)x, KAVA_CPU, &host));
  KAVA_TRY(check_finite(kava_f32(host), count));
out:
  kava_tensor_release(&ends);
  kava_tensor_release(&host);
  return st;
}

kava_status kava_op_quantise(kava_tensor *x, kava_dtype dtype, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *plain = NULL, *y = NULL;
  if (dtype != KAVA_Q4_0 && dtype != KAVA_Q4_1 && dtype != KAVA_Q8_0)
    KAVA_FAIL(KAVA_UNSUPPORTED, "quantise: to %s; q4_0, q4_1 and q8_0 are known", kava_dtype_name(dtype));
  if (!kava_dtype_is_float(x->dtype))
    KAVA_FAIL(KAVA_MISUSE, "quantise: a float tensor expected, got %s", kava_dtype_name(x->dtype));
  KAVA_TRY(kava_contiguous_as(x, KAVA_F32, &plain));
  int64_t count = kava_tensor_numel(plain);
  KAVA_TRY(check_tensor(plain));
  KAVA_TRY(kava_tensor_empty_like(plain, dtype, &y));
  quantising q = {dtype, kava_f32(plain), kava_tensor_data(y)};
  if (x->device == KAVA_CPU)
    kava_parallel(count / kava_dtype_block(dtype), 1024, quantise_blocks, &q);
  else
    KAVA_RUN(x->device, narrow, dtype, q.from, q.to, count);
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&plain);
  kava_tensor_release(&y);
  return st;
}

/* ---- codes with scales beside them ---- */

bool kava_encoding_parse(const char *name, kava_encoding *out) {
  static const char *const names[] = {"nf4", "nf4-dq", "int8", "fp8", "fp8-rows"};
  for (int i = 0; i < 5; i++)
    if (strcmp(name, names[i]) == 0) {
      *out = (kava_encoding)i;
      return true;
    }
  return false;
}

static void encode_groups(void *ctx, int64_t begin, int64_t end) { kava_kernels_cpu()->encode(ctx, begin, end); }

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

/* Scales less their mean, 256 at a time, as u8 codes with a scale of their own. */
typedef struct scale_codes {
  int64_t count;
  float *x, mean, map[256], *outer;
  uint8_t *codes;
} scale_codes;
static void encode_scale_groups(void *ctx, int64_t begin, int64_t end) {
  scale_codes *s = ctx;
  for (int64_t g = begin; g < end; g++) {
    int64_t n = s->count - 256 * g < 256 ? s->count - 256 * g : 256;
    float *x = s->x + 256 * g, most = 0;
    for (int64_t i = 0; i < n; i++) {
      x[i] -= s->mean;
      most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    }
    float inverse = 1 / most;
    s->outer[g] = most;
    for (int64_t i = 0; i < n; i++) s->codes[256 * g + i] = nearest(s->map, most > 0 ? x[i] * inverse : 0);
  }
}

/* A search in a table for every 64 weights: on the CPU, wherever the scales are. */
static kava_status encode_scales(kava_coded *p, kava_tensor **codes, kava_tensor **map, kava_tensor **outer) {
  kava_status st = KAVA_OK;
  kava_device device = p->scales->device;
  kava_tensor *parts[3] = {0};
  scale_codes s = {.count = p->scales->shape[0]};
  double sum = 0;
  if (!(s.x = kava_alloc((size_t)s.count * sizeof *s.x))) KAVA_TRY(KAVA_MEMORY);
  KAVA_TRY(kava_tensor_read(p->scales, s.x));
  for (int64_t i = 0; i < s.count; i++) sum += (double)s.x[i];
  s.mean = (float)(sum / (double)s.count);
  int64_t groups = (s.count + 255) / 256;
  KAVA_TRY(kava_tensor_new(KAVA_U8, 1, &s.count, &parts[0]));
  KAVA_TRY(kava_tensor_new(KAVA_F32, 1, &groups, &parts[1]));
  dynamic_map(s.map);
  s.codes = kava_tensor_data(parts[0]);
  s.outer = kava_f32(parts[1]);
  kava_parallel(groups, 16, encode_scale_groups, &s);
  KAVA_TRY(kava_tensor_from(KAVA_F32, 1, (int64_t[]){256}, s.map, &parts[2]));
  KAVA_TRY(kava_tensor_on(parts[0], device, codes));
  KAVA_TRY(kava_tensor_on(parts[1], device, outer));
  KAVA_TRY(kava_tensor_on(parts[2], device, map));
  p->scales = *codes;
  p->map = *map;
  p->outer = *outer;
  p->outer_group = 256;
  p->offset = (double)s.mean;
out:
  for (int i = 0; i < 3; i++) kava_tensor_release(&parts[i]);
  kava_free(s.x);
  return st;
}

/* Codes and scales of a contiguous matrix, where it is. */
static kava_status encode_matrix(const kava_tensor *x, kava_encode_args *a, int64_t groups) {
  kava_status st = KAVA_OK;
  kava_tensor *bad = NULL, *plain = NULL;
  int64_t one = 1;
  int32_t is_bad = 0;
  if (x->device == KAVA_CPU) {
    KAVA_TRY(check_tensor(x));
    kava_parallel(groups, 8192 / (a->group * a->group_rows) + 1, encode_groups, a);
    goto out;
  }
  KAVA_TRY(kava_tensor_zeros_on(x->device, KAVA_I32, 1, &one, &bad));
  a->bad = kava_i32(bad);
  KAVA_RUN(x->device, encode, a, 0, groups);
  KAVA_TRY(kava_tensor_read(bad, &is_bad));
  if (is_bad) {
    KAVA_TRY(kava_contiguous_as(x, KAVA_F32, &plain));
    KAVA_TRY(check_tensor(plain));
  }
out:
  kava_tensor_release(&bad);
  kava_tensor_release(&plain);
  return st;
}

kava_status kava_op_encode(kava_tensor *x, kava_encoding kind, kava_tensor **out) {
  static const struct {
    kava_dtype dtype;
    int64_t group, group_rows; /* 0: a whole row */
    float most;                /* what the largest magnitude becomes */
  } forms[] = {{KAVA_NF4, 64, 1, 1},
               {KAVA_NF4, 64, 1, 1},
               {KAVA_INT8, 0, 1, 127},
               {KAVA_FP8, 128, 128, 448},
               {KAVA_FP8, 0, 1, 448}};
  kava_status st = KAVA_OK;
  kava_tensor *plain = NULL, *codes = NULL, *scales = NULL, *inner = NULL, *map = NULL, *outer = NULL;
  char shape[96];
  kava_shape_format(x->dims, x->shape, shape, sizeof shape);
  if (!kava_dtype_is_float(x->dtype) || x->dims != 2 || kava_tensor_numel(x) == 0)
    KAVA_FAIL(KAVA_MISUSE, "quantise: a float matrix expected, got %s %s", kava_dtype_name(x->dtype), shape);
  bool flat = forms[kind].dtype == KAVA_NF4, narrow = x->device != KAVA_CPU && x->dtype != KAVA_F64;
  int64_t rows = x->shape[0], columns = x->shape[1], count = rows * columns;
  if (flat && columns % 2 != 0)
    KAVA_FAIL(KAVA_UNSUPPORTED, "quantise: rows of %lld elements; an even number expected", (long long)columns);
  KAVA_TRY(kava_contiguous_as(x, narrow ? x->dtype : KAVA_F32, &plain));
  kava_coded p = {.dtype = forms[kind].dtype,
                  .rows = rows,
                  .columns = columns,
                  .flat = flat,
                  .group = forms[kind].group ? forms[kind].group : columns,
                  .group_rows = forms[kind].group_rows,
                  .round = flat && x->dtype != KAVA_F64 ? x->dtype : KAVA_F32};
  kava_encode_args a = {.type = p.dtype, /* nf4's matrix is one long row */
                        .from = plain->dtype,
                        .rows = flat ? 1 : rows,
                        .columns = flat ? count : columns,
                        .group = p.group,
                        .group_rows = p.group_rows,
                        .most = forms[kind].most,
                        .x = kava_tensor_data(plain)};
  a.across = (a.columns + a.group - 1) / a.group;
  int64_t groups = (a.rows + a.group_rows - 1) / a.group_rows * a.across, bytes = count / kava_dtype_block(p.dtype);
  KAVA_TRY(kava_tensor_new_on(x->device, KAVA_U8, 1, &bytes, &codes));
  KAVA_TRY(kava_tensor_new_on(x->device, KAVA_F32, 1, &groups, &scales));
  a.codes = kava_tensor_data(codes);
  a.scales = kava_f32(scales);
  KAVA_TRY(encode_matrix(plain, &a, groups));
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

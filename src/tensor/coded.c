#include "tensor/coded.h"

static kava_status check_part(const char *name, const kava_tensor *t, int64_t count, const char *types, bool fits) {
  char shape[96];
  kava_shape_format(t->dims, t->shape, shape, sizeof shape);
  if (!fits) return kava_fail(KAVA_FORMAT, "%s: %s expected, got %s", name, types, kava_dtype_name(t->dtype));
  if (kava_tensor_numel(t) != count || !kava_tensor_is_contiguous(t))
    return kava_fail(KAVA_FORMAT, "%s: %lld elements expected, got %s", name, (long long)count, shape);
  return KAVA_OK;
}

static kava_status check_groups(const kava_tensor *group_of, int64_t columns, int64_t groups) {
  kava_status st = check_part("group_of", group_of, columns, "i32", group_of->dtype == KAVA_I32);
  if (st != KAVA_OK) return st;
  const int32_t *g = kava_i32(group_of);
  for (int64_t i = 0; i < columns; i++)
    if (g[i] < 0 || g[i] >= groups)
      return kava_fail(KAVA_FORMAT, "group_of: column %lld is in group %d of %lld", (long long)i + 1, g[i],
                       (long long)groups);
  return KAVA_OK;
}

/* How many scales there must be; fills s->across. */
static kava_status count_scales(const kava_coded *p, kava_scaling *s, int64_t *count) {
  int64_t elements;
  if (p->rows < 1 || p->columns < 1 || p->group < 1 || p->group_rows < 1 ||
      __builtin_mul_overflow(p->rows, p->columns, &elements))
    return kava_fail(KAVA_FORMAT, "%lld x %lld in groups of %lld x %lld is no matrix", (long long)p->rows,
                     (long long)p->columns, (long long)p->group_rows, (long long)p->group);
  if (p->flat) {
    *count = (elements - 1) / p->group + 1;
    return KAVA_OK;
  }
  s->across = (p->columns - 1) / p->group + 1;
  if (p->group_of) s->across = p->scales->dims ? p->scales->shape[p->scales->dims - 1] : 1;
  if (s->across < 1 || s->across > p->columns)
    return kava_fail(KAVA_FORMAT, "scales: %lld groups of %lld columns", (long long)s->across, (long long)p->columns);
  *count = ((p->rows - 1) / p->group_rows + 1) * s->across;
  return KAVA_OK;
}

static bool is_scale(kava_dtype type) { return type == KAVA_F32 || type == KAVA_F16 || type == KAVA_BF16; }

static kava_status fill(const kava_coded *p, kava_scaling *s) {
  kava_status st = KAVA_OK;
  int64_t count = 0;
  KAVA_TRY(count_scales(p, s, &count));
  bool nested = p->scales->dtype == KAVA_U8;
  KAVA_TRY(check_part("scales", p->scales, count, "f32, f16, bf16 or u8", nested || is_scale(p->scales->dtype)));
  if (nested) {
    if (!p->map || !p->outer || p->outer_group < 1)
      KAVA_FAIL(KAVA_FORMAT, "scales: u8 ones need map, outer and outer_group");
    KAVA_TRY(check_part("map", p->map, 256, "f32", p->map->dtype == KAVA_F32));
    KAVA_TRY(check_part("outer", p->outer, (count - 1) / p->outer_group + 1, "f32", p->outer->dtype == KAVA_F32));
    s->map = kava_f32(p->map);
    s->outer = kava_f32(p->outer);
  }
  if (p->zeros) {
    bool is_signed = p->dtype == KAVA_INT8;
    KAVA_TRY(check_part("zeros", p->zeros, count, is_signed ? "i8" : "u8",
                        p->zeros->dtype == (is_signed ? KAVA_I8 : KAVA_U8)));
    s->zeros = kava_tensor_data(p->zeros);
  }
  if (p->group_of) {
    if (p->flat) KAVA_FAIL(KAVA_FORMAT, "group_of: flat groups are in order");
    KAVA_TRY(check_groups(p->group_of, p->columns, s->across));
    s->group_of = kava_i32(p->group_of);
  }
  s->columns = p->columns;
  s->group = p->group;
  s->rows = p->group_rows;
  s->type = p->scales->dtype;
  s->scales = kava_tensor_data(p->scales);
  s->outer_group = p->outer_group;
  s->offset = (float)p->offset;
  s->zero = (float)p->zero;
  s->round = p->round;
out:
  return st;
}

kava_status kava_coded_new(const kava_coded *p, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_scales *s = NULL;
  if (p->dtype < KAVA_NF4 || p->dtype >= KAVA_DTYPES || !p->codes || !p->scales || !is_scale(p->round))
    return kava_fail(KAVA_MISUSE, "coded: codes and scales of a code type expected, rounded to f32, f16 or bf16");
  kava_tensor *parts[] = {p->scales, p->zeros, p->group_of, p->map, p->outer};
  for (int i = 0; i < 5; i++)
    if (parts[i] && parts[i]->device != p->codes->device)
      return kava_fail(KAVA_MISUSE, "coded: parts on one device expected, got %s and %s",
                       kava_device_name(p->codes->device), kava_device_name(parts[i]->device));
  if (p->group_of && p->group_of->device != KAVA_CPU) /* what it says is checked here; the whole can move later */
    return kava_fail(KAVA_MISUSE, "coded: group_of is read here; parts on the cpu expected");
  if (!(s = kava_calloc(1, sizeof *s))) return KAVA_MEMORY;
  s->refs = 1;
  KAVA_TRY(fill(p, &s->scaling));
  for (int i = 0; i < 5; i++) s->held[i] = kava_tensor_retain(parts[i]);
  KAVA_TRY(kava_tensor_coded(p->codes, p->dtype, p->rows, p->columns, s, out));
out:
  kava_scales_release(&s);
  return st;
}

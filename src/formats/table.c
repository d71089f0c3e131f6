#include "formats/table.h"
#include <stdio.h>
#include <string.h>

/* ---- fields */

typedef struct text {
  char *to;
  size_t used, room;
} text;

static void put(text *t, const char *what) {
  size_t length = strlen(what);
  if (t->used + length + 4 > t->room) { /* full for good */
    if (t->used < t->room && t->used + 4 <= t->room) t->used += (size_t)snprintf(t->to + t->used, 4, "…");
    t->room = 0;
    return;
  }
  memcpy(t->to + t->used, what, length + 1);
  t->used += length;
}

static void put_children(text *t, const kava_field *field);

static void put_type(text *t, const kava_field *field) {
  if (field->kind == KAVA_FIELD_LIST && field->count == 1) {
    put(t, "list<");
    put_type(t, &field->children[0]);
    put(t, ">");
  } else if (field->kind == KAVA_FIELD_STRUCT) {
    put(t, "struct<");
    put_children(t, field);
    put(t, ">");
  } else {
    put(t, field->type);
  }
}

static void put_children(text *t, const kava_field *field) {
  for (int i = 0; i < field->count && t->room; i++) {
    if (i) put(t, ", ");
    put(t, field->children[i].name);
    put(t, " ");
    put_type(t, &field->children[i]);
  }
}

void kava_field_describe(const kava_field *record, char *to, size_t room) {
  text t = {to, 0, room};
  *to = 0;
  put_children(&t, record);
}

const kava_field *kava_field_find(const kava_field *record, const char *name, size_t length) {
  for (int i = 0; i < record->count; i++)
    if (strlen(record->children[i].name) == length && memcmp(record->children[i].name, name, length) == 0)
      return &record->children[i];
  return NULL;
}

static const kava_field *other_in(const kava_field *field) {
  const kava_field *found = field->kind == KAVA_FIELD_OTHER ? field : NULL;
  for (int i = 0; i < field->count && !found; i++) found = other_in(&field->children[i]);
  return found;
}

kava_status kava_field_check(const kava_field *field) {
  const kava_field *other = other_in(field);
  if (!other) return KAVA_OK;
  return kava_fail(KAVA_UNSUPPORTED, "field '%.60s' %s %s, which no text is made of", field->name,
                   other == field ? "is of type" : "holds a", other->type);
}

/* ---- cells */

static int64_t read_integer(const uint8_t *p, uint32_t width) {
  switch (width) {
  case 1: return (int8_t)*p;
  case 2: {
    int16_t v;
    memcpy(&v, p, 2);
    return v;
  }
  case 4: {
    int32_t v;
    memcpy(&v, p, 4);
    return v;
  }
  default: {
    int64_t v;
    memcpy(&v, p, 8);
    return v;
  }
  }
}

static double half(uint16_t h) {
  double sign = h >> 15 ? -1.0 : 1.0;
  int exponent = h >> 10 & 31, mantissa = h & 1023;
  if (exponent == 31) return mantissa ? __builtin_nan("") : sign * __builtin_inf();
  if (exponent == 0) return sign * __builtin_ldexp(mantissa, -24);
  return sign * __builtin_ldexp(1024 + mantissa, exponent - 25);
}

static double read_real(const uint8_t *p, uint32_t width) {
  if (width == 8) {
    double v;
    memcpy(&v, p, 8);
    return v;
  }
  if (width == 4) {
    float v;
    memcpy(&v, p, 4);
    return (double)v;
  }
  uint16_t v;
  memcpy(&v, p, 2);
  return half(v);
}

/* From `p` on, two neighbouring offsets of `width` bytes. */
static inline void read_span(const uint8_t *p, uint32_t width, int64_t *begin, int64_t *end) {
  *begin = read_integer(p, width);
  *end = read_integer(p + width, width);
}

kava_status kava_column_get(const kava_column *c, int64_t row, kava_cell *out) {
  if (c->valid) {
    int64_t bit = c->valid_bit + row;
    if (!(c->valid[bit >> 3] >> (bit & 7) & 1)) {
      out->kind = KAVA_FIELD_NULL;
      return KAVA_OK;
    }
  }
  if (c->levels && c->levels[row] < c->level) {
    out->kind = KAVA_FIELD_NULL;
    return KAVA_OK;
  }
  const uint8_t *values = c->values;
  int64_t begin, end;
  out->kind = c->field->kind;
  switch (c->layout) {
  case KAVA_LAYOUT_NULL: out->kind = KAVA_FIELD_NULL; break;
  case KAVA_LAYOUT_BITS: out->boolean = values[(c->bit + row) >> 3] >> ((c->bit + row) & 7) & 1; break;
  case KAVA_LAYOUT_FIXED:
    values += row * (int64_t)c->width;
    if (out->kind == KAVA_FIELD_TEXT) {
      out->text = (kava_bytes){(const char *)values, c->width};
    } else if (out->kind == KAVA_FIELD_REAL) {
      out->real = read_real(values, c->width);
      out->single = c->width < 8;
    } else if (out->kind == KAVA_FIELD_BOOLEAN) {
      out->boolean = *values;
    } else {
      out->integer = read_integer(values, c->width);
      out->moment = c->field;
      if (out->kind == KAVA_FIELD_NATURAL && c->width < 8) out->natural &= ((uint64_t)1 << 8 * c->width) - 1;
    }
    break;
  case KAVA_LAYOUT_TEXT:
    read_span((const uint8_t *)c->offsets + row * (int64_t)c->width, c->width, &begin, &end);
    out->text = (kava_bytes){(const char *)values + (begin - c->base), (uint64_t)(end - begin)};
    break;
  case KAVA_LAYOUT_VIEWS: out->text = ((const kava_bytes *)c->values)[row]; break;
  case KAVA_LAYOUT_LIST:
    read_span((const uint8_t *)c->offsets + row * (int64_t)c->width, c->width, &begin, &end);
    out->items = &c->children[0];
    out->first = begin - c->base;
    out->count = end - begin;
    break;
  case KAVA_LAYOUT_ARRAY:
    out->items = &c->children[0];
    out->first = row * (int64_t)c->width;
    out->count = c->width;
    break;
  case KAVA_LAYOUT_STRUCT:
    out->items = c;
    out->first = row;
    out->count = c->field->count;
    break;
  case KAVA_LAYOUT_INDICES:
    begin = read_integer(values + row * (int64_t)c->width, c->width);
    if (c->natural && c->width < 8) begin &= ((int64_t)1 << 8 * c->width) - 1;
    if (begin < 0 || begin >= c->children[0].length)
      return kava_fail(KAVA_FORMAT, "field '%.60s': index %lld into a dictionary of %lld", c->field->name,
                       (long long)begin, (long long)c->children[0].length);
    return kava_column_get(&c->children[0], begin, out);
  }
  return KAVA_OK;
}

/* ---- dates and times */

static int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

/* A day since 1970 as year, month, day, in the Gregorian calendar throughout: counted from 0000-03-01, so that the leap
 * day is a year's last. */
static int put_date(char *to, size_t room, int64_t days) {
  days += 719468;
  int64_t era = floor_div(days, 146097), day = days - era * 146097; /* 400 years have as many days */
  int64_t year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
  day -= 365 * year + year / 4 - year / 100;
  int64_t month = (5 * day + 2) / 153;
  day -= (153 * month + 2) / 5;
  month = month < 10 ? month + 3 : month - 9;
  return snprintf(to, room, "%04lld-%02d-%02d", (long long)(year + era * 400 + (month <= 2)), (int)month, (int)day + 1);
}

void kava_moment_text(const kava_cell *cell, char to[64]) {
  const size_t room = 64;
  int64_t unit = cell->moment->per_second, value = cell->integer;
  if (unit == 0) {
    put_date(to, room, value);
    return;
  }
  int64_t seconds = floor_div(value, unit), part = value - seconds * unit, days = floor_div(seconds, 86400);
  int used = cell->kind == KAVA_FIELD_TIME ? 0 : put_date(to, room, days);
  if (cell->kind == KAVA_FIELD_DATE) return;
  int second = (int)(seconds - days * 86400), digits = unit == 1000 ? 3 : unit == 1000000 ? 6 : 9;
  used += snprintf(to + used, room - (size_t)used, "%s%02d:%02d:%02d", used ? "T" : "", second / 3600, second / 60 % 60,
                   second % 60);
  if (part) used += snprintf(to + used, room - (size_t)used, ".%0*lld", digits, (long long)part);
  if (cell->moment->utc) snprintf(to + used, room - (size_t)used, "Z");
}

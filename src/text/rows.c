#include "text/rows.h"
#include "text/utf8.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- templates */

static kava_status add_part(kava_template *t, const char *text, size_t length, bool field) {
  if (length == 0 && !field) return KAVA_OK;
  void *parts = kava_realloc(t->parts, (size_t)(t->count + 1) * sizeof *t->parts);
  if (!parts) return KAVA_MEMORY;
  t->parts = parts;
  char *copy = kava_alloc(length + 1);
  if (!copy) return KAVA_MEMORY;
  memcpy(copy, text, length);
  copy[length] = 0;
  t->parts[t->count++] = (struct kava_template_part){copy, length, field};
  return KAVA_OK;
}

kava_status kava_template_parse(const char *text, kava_template *out) {
  kava_status st = KAVA_OK;
  kava_template t = {0};
  kava_buffer literal = {0};
  int fields = 0;
  for (const char *p = text; *p;) {
    if ((p[0] == '{' && p[1] == '{') || (p[0] == '}' && p[1] == '}')) {
      KAVA_TRY(kava_buffer_add(&literal, p, 1));
      p += 2;
    } else if (*p == '{') {
      const char *stop = strchr(p, '}');
      if (!stop || stop == p + 1 || memchr(p + 1, '{', (size_t)(stop - p - 1)))
        KAVA_FAIL(KAVA_MISUSE, "template: '{' at byte %zu opens no {field} (write {{ for a brace)", (size_t)(p - text));
      KAVA_TRY(add_part(&t, (const char *)literal.data, literal.size, false));
      literal.size = 0;
      KAVA_TRY(add_part(&t, p + 1, (size_t)(stop - p - 1), true));
      fields++;
      p = stop + 1;
    } else if (*p == '}') {
      KAVA_FAIL(KAVA_MISUSE, "template: '}' at byte %zu closes nothing (write }} for a brace)", (size_t)(p - text));
    } else {
      KAVA_TRY(kava_buffer_add(&literal, p++, 1));
    }
  }
  KAVA_TRY(add_part(&t, (const char *)literal.data, literal.size, false));
  if (fields == 0) KAVA_FAIL(KAVA_MISUSE, "template: '%.60s' names no {field}", text);
  *out = t;
  t = (kava_template){0};
out:
  kava_template_free(&t);
  kava_buffer_free(&literal);
  return st;
}

void kava_template_free(kava_template *t) {
  for (int i = 0; i < t->count; i++) kava_free(t->parts[i].text);
  kava_free(t->parts);
  *t = (kava_template){0};
}

/* ---- values as text */

void kava_row_tools_free(kava_row_tools *tools) {
  kava_json_release(&tools->doc);
  kava_free(tools->json.data);
  *tools = (kava_row_tools){0};
}

static kava_json_writer *start_json(kava_row_tools *tools) {
  kava_json_writer *w = &tools->json;
  w->status = KAVA_OK;
  w->size = 0;
  w->depth = 0;
  w->filled = w->after_key = false;
  return w;
}

static kava_row_result result_of(kava_status st) {
  return st == KAVA_OK ? KAVA_ROW_GOOD : st == KAVA_MEMORY ? KAVA_ROW_FAILED : KAVA_ROW_BROKEN;
}

static kava_row_result end_json(const kava_json_writer *w, kava_buffer *out) {
  return result_of(w->status == KAVA_OK ? kava_buffer_add(out, w->data, w->size) : w->status);
}

/* The shortest digits that read back as the same number. */
static kava_status add_real(kava_buffer *out, double value, bool single) {
  char text[40];
  for (int digits = single ? 6 : 15; digits <= (single ? 9 : 17); digits++) {
    snprintf(text, sizeof text, "%.*g", digits, value);
    double back = strtod(text, NULL);
    if (single ? (float)back == (float)value : back == value) break;
  }
  char *comma = strchr(text, ','); /* of a locale */
  if (comma) *comma = '.';
  return kava_buffer_text(out, text);
}

static kava_row_result no_text(const char *name, const char *what) {
  kava_fail(KAVA_FORMAT, "field '%.60s': a string or a number expected, got %s", name, what);
  return KAVA_ROW_BROKEN;
}

/* Positions in lists count from 1; 0: `name` is no such number. */
static int64_t item_number(const char *name, size_t length) {
  int64_t number = 0;
  if (length == 0 || length > 9 || *name == '0') return 0;
  for (size_t i = 0; i < length; i++) {
    if (name[i] < '0' || name[i] > '9') return 0;
    number = number * 10 + (name[i] - '0');
  }
  return number;
}

/* ---- rows of JSON */

static const kava_json *find_child(const kava_json *value, const char *name, size_t length, bool *beyond) {
  if (!kava_json_is(value, KAVA_JSON_ARRAY)) return kava_json_find(value, name, length);
  int64_t number = item_number(name, length);
  if (number > (int64_t)value->length) *beyond = true;
  return number >= 1 && number <= (int64_t)value->length ? &value->items[number - 1] : NULL;
}

/* A field by its whole name, else along its dots. *beyond: it would be an item of a list that is too short. */
static const kava_json *find_field(const kava_json *row, const char *name, size_t length, bool *beyond) {
  const kava_json *value = find_child(row, name, length, beyond);
  const char *dot;
  while (!value && row && (dot = memchr(name, '.', length)) != NULL) {
    row = find_child(row, name, (size_t)(dot - name), beyond);
    if (kava_json_is(row, KAVA_JSON_NULL)) return row;
    length -= (size_t)(dot - name) + 1;
    name = dot + 1;
    value = find_child(row, name, length, beyond);
  }
  return value;
}

static kava_row_result missing(const kava_json *row, const char *name) {
  static const char *const kinds[] = {"null", "bool", "integer", "real", "string", "list", "object"};
  char there[400] = "";
  size_t used = 0;
  for (uint32_t i = 0; i < row->length && used < sizeof there - 80; i++)
    used += (size_t)snprintf(there + used, sizeof there - used, "%s%.60s %s", i ? ", " : "", row->members[i].key,
                             kinds[row->members[i].value.kind]);
  kava_fail(KAVA_FORMAT, "there is no field '%.60s'; fields: %s", name, row->length ? there : "none");
  return KAVA_ROW_MISSING;
}

static kava_row_result add_json(const kava_json *value, const char *name, kava_row_tools *tools, kava_buffer *out) {
  switch ((kava_json_kind)value->kind) {
  case KAVA_JSON_NULL: return no_text(name, "null");
  case KAVA_JSON_STRING: return result_of(kava_buffer_add(out, value->string, value->length));
  case KAVA_JSON_INTEGER: return result_of(kava_buffer_printf(out, "%" PRId64, value->integer));
  case KAVA_JSON_REAL: return result_of(add_real(out, value->real, false));
  case KAVA_JSON_BOOLEAN: return result_of(kava_buffer_text(out, value->boolean ? "true" : "false"));
  default: {
    kava_json_writer *w = start_json(tools);
    kava_json_value(w, value);
    return end_json(w, out);
  }
  }
}

kava_row_result kava_row_of_json(const kava_template *t, const char *row, size_t length, kava_row_tools *tools,
                                 kava_buffer *out) {
  size_t before = out->size;
  kava_status st = kava_json_again(row, length, &tools->doc);
  if (st != KAVA_OK) return result_of(st);
  const kava_json *root = kava_json_root(tools->doc);
  if (!kava_json_is(root, KAVA_JSON_OBJECT)) {
    kava_fail(KAVA_FORMAT, "an object expected, got %s", kava_json_kind_name(root));
    return KAVA_ROW_BROKEN;
  }
  if (!t) {
    while (length > 0 && (unsigned char)row[length - 1] <= ' ') length--; /* a carriage return */
    return result_of(kava_buffer_add(out, row, length));
  }
  kava_row_result result = KAVA_ROW_GOOD;
  for (int i = 0; i < t->count && result == KAVA_ROW_GOOD; i++) {
    const struct kava_template_part *part = &t->parts[i];
    if (!part->field) {
      result = result_of(kava_buffer_add(out, part->text, part->length));
      continue;
    }
    bool beyond = false;
    const kava_json *value = find_field(root, part->text, part->length, &beyond);
    result = value    ? add_json(value, part->text, tools, out)
             : beyond ? no_text(part->text, "a list that is shorter")
                      : missing(root, part->text);
  }
  if (result != KAVA_ROW_GOOD) out->size = before;
  return result;
}

/* ---- rows of columns */

static kava_status unresolved(const kava_field *record, const char *name) {
  char there[400];
  kava_field_describe(record, there, sizeof there);
  return kava_fail(KAVA_FORMAT, "there is no field '%.60s'; fields: %s", name, record->count ? there : "none");
}

static kava_status resolve(const kava_field *record, const char *name, size_t length, kava_template_steps *steps) {
  const char *whole = name;
  const kava_field *field = record;
  for (bool dotted = false;; dotted = true) {
    const char *dot = memchr(name, '.', length), *end = dot ? dot : name + length;
    bool is_list = field->kind == KAVA_FIELD_LIST;
    const kava_field *child = is_list ? NULL : kava_field_find(field, name, length); /* its whole name first */
    if (child) {
      end = name + length;
    } else if (is_list && item_number(name, (size_t)(end - name)) > 0) {
      child = &field->children[0];
    } else if (!is_list && dot) {
      child = kava_field_find(field, name, (size_t)(dot - name));
    }
    if (!child) return unresolved(record, whole);
    if (steps->count == KAVA_TEMPLATE_STEPS)
      return kava_fail(KAVA_MISUSE, "template: field '%.60s' names more than %d steps", whole, KAVA_TEMPLATE_STEPS);
    steps->at[steps->count++] = is_list ? item_number(name, (size_t)(end - name)) - 1 : child - field->children;
    if (!dotted) record->children[steps->at[0]].wanted = true;
    field = child;
    if (end == name + length) return kava_field_check(field);
    length -= (size_t)(end - name) + 1;
    name = end + 1;
  }
}

kava_status kava_template_resolve(const kava_template *t, kava_field *record, kava_template_steps **out) {
  for (int i = 0; i < record->count; i++) record->children[i].wanted = !t;
  for (int i = 0; i < record->count && !t; i++) {
    kava_status st = kava_field_check(&record->children[i]);
    if (st != KAVA_OK) return st;
  }
  if (!t) return KAVA_OK;
  kava_template_steps *steps = kava_calloc((size_t)t->count, sizeof *steps);
  if (!steps) return KAVA_MEMORY;
  for (int i = 0; i < t->count; i++) {
    if (!t->parts[i].field) continue;
    kava_status st = resolve(record, t->parts[i].text, t->parts[i].length, &steps[i]);
    if (st != KAVA_OK) {
      kava_free(steps);
      return st;
    }
  }
  *out = steps;
  return KAVA_OK;
}

static kava_status put_cell(kava_json_writer *w, const kava_cell *cell) {
  kava_status st = KAVA_OK;
  kava_cell item;
  char text[64];
  switch (cell->kind) {
  case KAVA_FIELD_BOOLEAN: kava_json_boolean(w, cell->boolean); break;
  case KAVA_FIELD_INTEGER: kava_json_integer(w, cell->integer); break;
  case KAVA_FIELD_NATURAL: kava_json_natural(w, cell->natural); break;
  case KAVA_FIELD_REAL: {
    double value = cell->real;
    if (cell->single && isfinite(value)) { /* the digits of the 32 bits, not those of their 64-bit image */
      for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if ((float)strtod(text, NULL) == (float)value) break;
      }
      value = strtod(text, NULL);
    }
    if (isfinite(value))
      kava_json_real(w, value);
    else
      kava_json_null(w);
    break;
  }
  case KAVA_FIELD_TEXT: kava_json_string(w, cell->text.text, cell->text.length); break;
  case KAVA_FIELD_DATE:
  case KAVA_FIELD_TIME:
  case KAVA_FIELD_MOMENT:
    kava_moment_text(cell, text);
    kava_json_string(w, text, strlen(text));
    break;
  case KAVA_FIELD_LIST:
    kava_json_open(w, '[');
    for (int64_t i = 0; i < cell->count && st == KAVA_OK && w->status == KAVA_OK; i++) {
      st = kava_column_get(cell->items, cell->first + i, &item);
      if (st == KAVA_OK) st = put_cell(w, &item);
    }
    kava_json_close(w, ']');
    break;
  case KAVA_FIELD_STRUCT:
    kava_json_open(w, '{');
    for (int64_t i = 0; i < cell->count && st == KAVA_OK && w->status == KAVA_OK; i++) {
      const kava_column *child = &cell->items->children[i];
      st = kava_column_get(child, cell->first, &item);
      kava_json_key(w, cell->items->field->children[i].name, strlen(cell->items->field->children[i].name));
      if (st == KAVA_OK) st = put_cell(w, &item);
    }
    kava_json_close(w, '}');
    break;
  case KAVA_FIELD_NULL:
  case KAVA_FIELD_OTHER: kava_json_null(w); break;
  }
  return st;
}

static kava_row_result add_cell(const kava_cell *cell, const char *name, kava_row_tools *tools, kava_buffer *out) {
  switch (cell->kind) {
  case KAVA_FIELD_NULL:
  case KAVA_FIELD_OTHER: return no_text(name, "null");
  case KAVA_FIELD_TEXT: {
    const uint8_t *text = (const uint8_t *)cell->text.text;
    size_t good = cell->text.length ? kava_utf8_valid(text, cell->text.length, NULL) : 0;
    if (good < cell->text.length) {
      kava_fail(KAVA_FORMAT, "field '%.60s': byte %zu is not UTF-8 (0x%02x)", name, good, text[good]);
      return KAVA_ROW_BROKEN;
    }
    return result_of(kava_buffer_add(out, text, cell->text.length));
  }
  case KAVA_FIELD_INTEGER: return result_of(kava_buffer_printf(out, "%" PRId64, cell->integer));
  case KAVA_FIELD_NATURAL: return result_of(kava_buffer_printf(out, "%" PRIu64, cell->natural));
  case KAVA_FIELD_REAL: return result_of(add_real(out, cell->real, cell->single));
  case KAVA_FIELD_BOOLEAN: return result_of(kava_buffer_text(out, cell->boolean ? "true" : "false"));
  case KAVA_FIELD_DATE:
  case KAVA_FIELD_TIME:
  case KAVA_FIELD_MOMENT: {
    char text[64];
    kava_moment_text(cell, text);
    return result_of(kava_buffer_text(out, text));
  }
  default: {
    kava_json_writer *w = start_json(tools);
    kava_status st = put_cell(w, cell);
    return st == KAVA_OK ? end_json(w, out) : result_of(st);
  }
  }
}

/* Follows the steps from the row; null where a step is null, or beyond a list's end. */
static kava_status follow(const kava_template_steps *steps, kava_cell *cell) {
  for (int i = 0; i < steps->count; i++) {
    kava_status st = KAVA_OK;
    int64_t at = steps->at[i];
    if (cell->kind == KAVA_FIELD_STRUCT)
      st = kava_column_get(&cell->items->children[at], cell->first, cell);
    else if (cell->kind == KAVA_FIELD_LIST && at < cell->count)
      st = kava_column_get(cell->items, cell->first + at, cell);
    else
      cell->kind = KAVA_FIELD_NULL;
    if (st != KAVA_OK) return st;
  }
  return KAVA_OK;
}

kava_row_result kava_row_of_columns(const kava_template *t, const kava_template_steps *steps,
                                    const kava_column *columns, int64_t row, kava_row_tools *tools, kava_buffer *out) {
  size_t before = out->size;
  kava_row_result result = KAVA_ROW_GOOD;
  kava_cell whole = {.kind = KAVA_FIELD_STRUCT, .items = columns, .first = row, .count = columns->field->count};
  if (!t) return add_cell(&whole, "", tools, out);
  for (int i = 0; i < t->count && result == KAVA_ROW_GOOD; i++) {
    const struct kava_template_part *part = &t->parts[i];
    if (!part->field) {
      result = result_of(kava_buffer_add(out, part->text, part->length));
      continue;
    }
    kava_cell cell = whole;
    kava_status st = follow(&steps[i], &cell);
    result = st == KAVA_OK ? add_cell(&cell, part->text, tools, out) : result_of(st);
  }
  if (result != KAVA_ROW_GOOD) out->size = before;
  return result;
}

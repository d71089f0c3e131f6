#include "text/rows.h"
#include <stdio.h>

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

/* A field by its whole name, else along its dots. */
static const kava_json *find_field(const kava_json *row, const char *name, size_t length) {
  const kava_json *value = kava_json_find(row, name, length);
  const char *dot;
  while (!value && (dot = memchr(name, '.', length)) != NULL) {
    row = kava_json_find(row, name, (size_t)(dot - name));
    length -= (size_t)(dot - name) + 1;
    name = dot + 1;
    value = kava_json_find(row, name, length);
  }
  return value;
}

static kava_row_result missing(const kava_json *row, const char *name) {
  char there[400] = "";
  size_t used = 0;
  for (uint32_t i = 0; i < row->length && used < sizeof there - 80; i++)
    used += (size_t)snprintf(there + used, sizeof there - used, "%s%.60s", i ? ", " : "", row->members[i].key);
  kava_fail(KAVA_FORMAT, "there is no field '%.60s'; the row has %s", name, row->length ? there : "none");
  return KAVA_ROW_MISSING;
}

kava_row_result kava_template_apply(const kava_template *t, const char *row, size_t length, kava_buffer *out) {
  kava_json_doc *doc = NULL;
  size_t before = out->size;
  kava_row_result result = KAVA_ROW_GOOD;
  kava_status st = kava_json_parse(row, length, &doc);
  if (st != KAVA_OK) return st == KAVA_MEMORY ? KAVA_ROW_FAILED : KAVA_ROW_BROKEN;
  const kava_json *root = kava_json_root(doc);
  if (!kava_json_is(root, KAVA_JSON_OBJECT)) {
    kava_fail(KAVA_FORMAT, "an object expected, got %s", kava_json_kind_name(root));
    result = KAVA_ROW_BROKEN;
  }
  for (int i = 0; i < t->count && result == KAVA_ROW_GOOD; i++) {
    const struct kava_template_part *part = &t->parts[i];
    if (!part->field) {
      st = kava_buffer_add(out, part->text, part->length);
    } else {
      const kava_json *value = find_field(root, part->text, part->length);
      if (!value) {
        result = missing(root, part->text);
      } else if (value->kind == KAVA_JSON_STRING) {
        st = kava_buffer_add(out, value->string, value->length);
      } else if (value->kind == KAVA_JSON_INTEGER) {
        st = kava_buffer_printf(out, "%lld", (long long)value->integer);
      } else if (value->kind == KAVA_JSON_REAL) {
        st = kava_buffer_printf(out, "%.14g", value->real);
      } else if (value->kind == KAVA_JSON_BOOLEAN) {
        st = kava_buffer_text(out, value->boolean ? "true" : "false");
      } else {
        kava_fail(KAVA_FORMAT, "field '%.60s': a string or a number expected, got %s", part->text,
                  kava_json_kind_name(value));
        result = KAVA_ROW_BROKEN;
      }
    }
    if (st != KAVA_OK) result = KAVA_ROW_FAILED;
  }
  kava_json_release(&doc);
  if (result != KAVA_ROW_GOOD) out->size = before;
  return result;
}

/* ---- lines */

kava_lines kava_lines_of(const kava_map *map) {
  const uint8_t *at = map->data, *end = at + map->size;
  if (map->size >= 3 && memcmp(at, "\xef\xbb\xbf", 3) == 0) at += 3; /* a byte order mark */
  return (kava_lines){at, end, 0};
}

bool kava_lines_next(kava_lines *lines, const char **row, size_t *length) {
  while (lines->at < lines->end) {
    const uint8_t *start = lines->at, *stop = memchr(start, '\n', (size_t)(lines->end - start));
    if (!stop) stop = lines->end;
    lines->at = stop < lines->end ? stop + 1 : stop;
    lines->number++;
    const uint8_t *p = start;
    while (p < stop && (*p == ' ' || *p == '\t' || *p == '\r')) p++;
    if (p == stop) continue; /* blank */
    *row = (const char *)start;
    *length = (size_t)(stop - start);
    return true;
  }
  return false;
}

/* base/json_write: the writer of json.h. */
#include "base/json.h"
#include "base/memory.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static void append(kava_json_writer *w, const char *text, size_t length) {
  if (w->status != KAVA_OK) return;
  if (w->room - w->size <= length) {
    size_t room = w->room ? 2 * w->room : 256;
    if (room <= w->size + length) room = w->size + length + 1;
    char *grown = kava_realloc(w->data, room);
    if (!grown) {
      w->status = KAVA_MEMORY;
      return;
    }
    w->data = grown;
    w->room = room;
  }
  memcpy(w->data + w->size, text, length);
  w->size += length;
  w->data[w->size] = 0;
}

static void new_line(kava_json_writer *w) {
  if (!w->indent) return;
  append(w, "\n", 1);
  for (int i = 0; i < w->indent * w->depth; i++) append(w, " ", 1);
}

/* What stands before a value or a key: nothing after a key, else the comma and the line. */
static void separate(kava_json_writer *w) {
  if (w->after_key) {
    w->after_key = false;
    return;
  }
  if (w->filled) append(w, ",", 1);
  if (w->depth) new_line(w);
  w->filled = true;
}

static void put_string(kava_json_writer *w, const char *text, size_t length) {
  const unsigned char *p = (const unsigned char *)text, *end = p + length, *plain = p;
  append(w, "\"", 1);
  while (p < end && w->status == KAVA_OK) {
    int n = kava_utf8_length(p, end);
    if (n == 0) {
      w->status =
          kava_fail(KAVA_MISUSE, "a string that is not UTF-8 (byte 0x%02x at offset %zu) cannot be written as JSON", *p,
                    (size_t)(p - (const unsigned char *)text));
      return;
    }
    if (*p >= 0x20 && *p != '"' && *p != '\\') {
      p += n;
      continue;
    }
    append(w, (const char *)plain, (size_t)(p - plain));
    char escape[8] = {'\\', (char)*p};
    size_t size = 2;
    switch (*p) {
    case '"':
    case '\\': break;
    case '\b': escape[1] = 'b'; break;
    case '\f': escape[1] = 'f'; break;
    case '\n': escape[1] = 'n'; break;
    case '\r': escape[1] = 'r'; break;
    case '\t': escape[1] = 't'; break;
    default: size = (size_t)snprintf(escape, sizeof escape, "\\u%04x", *p);
    }
    append(w, escape, size);
    plain = ++p;
  }
  append(w, (const char *)plain, (size_t)(p - plain));
  append(w, "\"", 1);
}

void kava_json_open(kava_json_writer *w, char bracket) {
  if (w->depth >= KAVA_JSON_DEPTH && w->status == KAVA_OK)
    w->status = kava_fail(KAVA_MISUSE, "nested deeper than %d: a table that contains itself?", KAVA_JSON_DEPTH);
  separate(w);
  append(w, &bracket, 1);
  w->depth++;
  w->filled = false;
}

void kava_json_close(kava_json_writer *w, char bracket) {
  w->depth--;
  if (w->filled) new_line(w);
  append(w, &bracket, 1);
  w->filled = true;
}

void kava_json_key(kava_json_writer *w, const char *key, size_t length) {
  separate(w);
  put_string(w, key, length);
  append(w, w->indent ? ": " : ":", w->indent ? 2 : 1);
  w->after_key = true;
}

void kava_json_string(kava_json_writer *w, const char *text, size_t length) {
  separate(w);
  put_string(w, text, length);
}

void kava_json_integer(kava_json_writer *w, int64_t value) {
  char text[24];
  separate(w);
  append(w, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)value));
}

void kava_json_natural(kava_json_writer *w, uint64_t value) {
  char text[24];
  separate(w);
  append(w, text, (size_t)snprintf(text, sizeof text, "%llu", (unsigned long long)value));
}

void kava_json_real(kava_json_writer *w, double value) {
  char text[40];
  size_t length = 0;
  if (!isfinite(value)) {
    if (w->status == KAVA_OK) w->status = kava_fail(KAVA_MISUSE, "%g cannot be written as JSON", value);
    return;
  }
  for (int digits = 15; digits <= 17; digits++) { /* the shortest of these that reads back */
    length = (size_t)snprintf(text, sizeof text, "%.*g", digits, value);
    for (size_t i = 0; i < length; i++)
      if (text[i] == ',') text[i] = '.';
    if (kava_json_double(text) == value) break;
  }
  if (!strpbrk(text, ".e")) {
    memcpy(text + length, ".0", 3);
    length += 2;
  }
  separate(w);
  append(w, text, length);
}

void kava_json_boolean(kava_json_writer *w, bool value) {
  separate(w);
  append(w, value ? "true" : "false", value ? 4 : 5);
}

void kava_json_null(kava_json_writer *w) {
  separate(w);
  append(w, "null", 4);
}

void kava_json_value(kava_json_writer *w, const kava_json *v) {
  switch ((kava_json_kind)v->kind) {
  case KAVA_JSON_NULL: kava_json_null(w); break;
  case KAVA_JSON_BOOLEAN: kava_json_boolean(w, v->boolean); break;
  case KAVA_JSON_INTEGER: kava_json_integer(w, v->integer); break;
  case KAVA_JSON_REAL: kava_json_real(w, v->real); break;
  case KAVA_JSON_STRING: kava_json_string(w, v->string, v->length); break;
  case KAVA_JSON_ARRAY:
    kava_json_open(w, '[');
    for (uint32_t i = 0; i < v->length; i++) kava_json_value(w, &v->items[i]);
    kava_json_close(w, ']');
    break;
  case KAVA_JSON_OBJECT:
    kava_json_open(w, '{');
    for (uint32_t i = 0; i < v->length; i++) {
      kava_json_key(w, v->members[i].key, v->members[i].key_length);
      kava_json_value(w, &v->members[i].value);
    }
    kava_json_close(w, '}');
    break;
  case KAVA_JSON_LEFT:
    if (w->status == KAVA_OK)
      w->status = kava_fail(KAVA_MISUSE, "a part of JSON that was left unread cannot be written");
  }
}

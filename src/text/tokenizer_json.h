/* text/tokenizer_json.h: small words for reading and writing tokenizer.json, for the files that do. */
#ifndef KAVA_TEXT_TOKENIZER_JSON_H
#define KAVA_TEXT_TOKENIZER_JSON_H
#include "base/json.h"
#include <string.h>

static inline bool is_absent(const kava_json *value) { return !value || value->kind == KAVA_JSON_NULL; }
static inline bool is_true(const kava_json *value) { return kava_json_is(value, KAVA_JSON_BOOLEAN) && value->boolean; }

/* An object's "type"; "" where there is none. */
static inline const char *type_of(const kava_json *value) {
  const kava_json *type = kava_json_get(value, "type");
  return kava_json_is(type, KAVA_JSON_STRING) ? type->string : "";
}

static inline kava_status wrong(const char *key, const char *expected, const kava_json *got) {
  return kava_fail(KAVA_FORMAT, "%s: %s expected, got %s", key, expected, kava_json_kind_name(got));
}

static inline void put_key(kava_json_writer *w, const char *key) { kava_json_key(w, key, strlen(key)); }
static inline void put_text(kava_json_writer *w, const char *key, const char *text) {
  put_key(w, key);
  kava_json_string(w, text, strlen(text));
}
static inline void put_flag(kava_json_writer *w, const char *key, bool value) {
  put_key(w, key);
  kava_json_boolean(w, value);
}
static inline void put_number(kava_json_writer *w, const char *key, int64_t value) {
  put_key(w, key);
  kava_json_integer(w, value);
}
#endif

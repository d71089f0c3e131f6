/* spec/fuzz/json: whatever is accepted, written and read again, must be the same text. */
#include "base/json.h"
#include "base/memory.h"
#include <stdlib.h>
#include <string.h>

static void put(kava_json_writer *w, const kava_json *v) {
  switch ((kava_json_kind)v->kind) {
  case KAVA_JSON_NULL: kava_json_null(w); break;
  case KAVA_JSON_BOOLEAN: kava_json_boolean(w, v->boolean); break;
  case KAVA_JSON_INTEGER: kava_json_integer(w, v->integer); break;
  case KAVA_JSON_REAL: kava_json_real(w, v->real); break;
  case KAVA_JSON_STRING: kava_json_string(w, v->string, v->length); break;
  case KAVA_JSON_ARRAY:
    kava_json_open(w, '[');
    for (uint32_t i = 0; i < v->length; i++) put(w, &v->items[i]);
    kava_json_close(w, ']');
    break;
  case KAVA_JSON_OBJECT:
    kava_json_open(w, '{');
    for (uint32_t i = 0; i < v->length; i++) {
      const kava_json_member *m = &v->members[i];
      if (kava_json_find(v, m->key, m->key_length) != &m->value) abort();
      kava_json_key(w, m->key, m->key_length);
      put(w, &m->value);
    }
    kava_json_close(w, '}');
    break;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  kava_json_doc *doc = NULL, *again = NULL;
  if (kava_json_parse((const char *)data, size, &doc) != KAVA_OK) return 0;
  kava_json_writer first = {0}, second = {0};
  put(&first, kava_json_root(doc));
  if (first.status != KAVA_OK || kava_json_parse(first.data, first.size, &again) != KAVA_OK) abort();
  put(&second, kava_json_root(again));
  if (first.size != second.size || memcmp(first.data, second.data, first.size) != 0) abort();
  kava_free(first.data);
  kava_free(second.data);
  kava_json_release(&doc);
  kava_json_release(&again);
  return 0;
}

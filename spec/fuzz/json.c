/* spec/fuzz/json: whatever is accepted, written and read again, must be the same text; every key is found; what an
 * outline leaves unread and a walk goes through are the same items. */
#include "base/json.h"
#include "base/memory.h"
#include <stdlib.h>
#include <string.h>

static void look_up(const kava_json *v) {
  for (uint32_t i = 0; kava_json_is(v, KAVA_JSON_ARRAY) && i < v->length; i++) look_up(&v->items[i]);
  for (uint32_t i = 0; kava_json_is(v, KAVA_JSON_OBJECT) && i < v->length; i++) {
    const kava_json_member *m = &v->members[i];
    if (kava_json_find(v, m->key, m->key_length) != &m->value) abort();
    look_up(&m->value);
  }
}

static bool same(const kava_json *a, const kava_json *b) {
  kava_json_writer x = {0}, y = {0};
  kava_json_value(&x, a);
  kava_json_value(&y, b);
  if (x.status != KAVA_OK || y.status != KAVA_OK) abort();
  bool is = x.size == y.size && memcmp(x.data, y.data, x.size) == 0;
  kava_free(x.data);
  kava_free(y.data);
  return is;
}

/* `whole`: the same part, read; NULL where the text was refused. */
static void walk(const kava_json_doc *doc, const kava_json *part, const kava_json *whole) {
  kava_json_walk *walk = NULL;
  const kava_json_member *item = NULL;
  uint32_t count = 0;
  if (!kava_json_is(part, KAVA_JSON_LEFT)) return;
  if (kava_json_walk_open(doc, part, &walk) != KAVA_OK) abort();
  kava_status st;
  while ((st = kava_json_walk_next(walk, &item)) == KAVA_OK && item) {
    if (count == part->length) abort();
    if (whole) {
      bool object = kava_json_is(whole, KAVA_JSON_OBJECT);
      const kava_json_member *m = object ? &whole->members[count] : NULL;
      if (m && (m->key_length != item->key_length || memcmp(m->key, item->key, m->key_length) != 0)) abort();
      if (!same(&item->value, m ? &m->value : &whole->items[count])) abort();
    }
    count++;
  }
  if (whole && (st != KAVA_OK || count != whole->length || count != part->length)) abort();
  kava_json_walk_close(&walk);
}

/* Told, a text is what its tree is, written down as it comes; only keys that come twice are not found. */
static kava_status write_down(void *to, kava_json_event event, const kava_json *value) {
  kava_json_writer *w = to;
  static bool object[KAVA_JSON_DEPTH + 1];
  switch (event) {
  case KAVA_JSON_OPEN:
    object[w->depth] = value->kind == KAVA_JSON_OBJECT;
    kava_json_open(w, object[w->depth] ? '{' : '[');
    break;
  case KAVA_JSON_KEY: kava_json_key(w, value->string, value->length); break;
  case KAVA_JSON_VALUE: kava_json_value(w, value); break;
  case KAVA_JSON_CLOSE: kava_json_close(w, object[w->depth - 1] ? '}' : ']');
  }
  return w->status;
}
static void hear(const uint8_t *data, size_t size, const kava_json *root) {
  kava_json_writer told = {0}, whole = {0};
  kava_json_doc *scratch = NULL;
  kava_status st = kava_json_tell((const char *)data, size, write_down, &told, &scratch);
  if (root) {
    kava_json_value(&whole, root);
    if (st != KAVA_OK || told.size != whole.size || memcmp(told.data, whole.data, whole.size) != 0) abort();
  } else if (st == KAVA_OK && !strstr(kava_message(), "' twice")) {
    abort();
  }
  kava_free(told.data);
  kava_free(whole.data);
  kava_json_release(&scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const left[] = {"a", "b.c", NULL};
  kava_json_doc *doc = NULL, *again = NULL, *outline = NULL;
  bool accepted = kava_json_again((const char *)data, size, &doc) == KAVA_OK;
  if (kava_json_outline((const char *)data, size, left, 0, &outline) == KAVA_OK) {
    const kava_json *whole = accepted ? kava_json_root(doc) : NULL, *root = kava_json_root(outline);
    walk(outline, kava_json_get(root, "a"), kava_json_get(whole, "a"));
    walk(outline, kava_json_get(kava_json_get(root, "b"), "c"), kava_json_get(kava_json_get(whole, "b"), "c"));
  } else if (accepted) {
    abort();
  }
  kava_json_release(&outline);
  hear(data, size, accepted ? kava_json_root(doc) : NULL);
  if (!accepted) {
    kava_json_release(&doc);
    return 0;
  }
  look_up(kava_json_root(doc));
  kava_json_writer first = {0}, second = {0};
  kava_json_value(&first, kava_json_root(doc));
  if (first.status != KAVA_OK || kava_json_again(first.data, first.size, &again) != KAVA_OK) abort();
  kava_json_value(&second, kava_json_root(again));
  if (first.size != second.size || memcmp(first.data, second.data, first.size) != 0) abort();
  kava_free(first.data);
  kava_free(second.data);
  kava_json_release(&doc);
  kava_json_release(&again);
  return 0;
}

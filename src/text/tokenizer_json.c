/* text/tokenizer_json: tokenizer.json and tokenizer_config.json of Hugging Face: models, added tokens, templates; the
 * other components are in text/tokenizer_steps.c. Whatever is not done here is refused by name. */
#include "text/tokenizer_json.h"
#include "text/tokenizer_parts.h"
#include <stdio.h>
#include <unistd.h>

/* Calls `one` on the members of a Sequence, or on the value itself. */
static kava_status each(kava_tokenizer *tok, const kava_json *value, const char *list,
                        kava_status (*one)(kava_tokenizer *, const kava_json *)) {
  if (is_absent(value)) return KAVA_OK;
  if (strcmp(type_of(value), "Sequence") != 0) return one(tok, value);
  const kava_json *items = kava_json_get(value, list);
  if (!kava_json_is(items, KAVA_JSON_ARRAY)) return wrong(list, "a list", items);
  kava_status st = KAVA_OK;
  for (uint32_t i = 0; i < items->length && st == KAVA_OK; i++) st = each(tok, &items->items[i], list, one);
  return st;
}

/* A template's ids in front of the sequence and behind it; nested templates wrap what the earlier made. */
static kava_status read_template(kava_tokenizer *tok, const kava_json *value) {
  const kava_json *single = kava_json_get(value, "single"), *specials = kava_json_get(value, "special_tokens");
  if (!kava_json_is(single, KAVA_JSON_ARRAY))
    return wrong("post_processor TemplateProcessing: single", "a list", single);
  kava_ids before = {0}, after = {0};
  kava_status st = KAVA_OK;
  bool passed = false;
  for (uint32_t i = 0; i < single->length; i++) {
    const kava_json *special = kava_json_get(&single->items[i], "SpecialToken");
    if (kava_json_get(&single->items[i], "Sequence")) {
      if (passed) KAVA_FAIL(KAVA_UNSUPPORTED, "post_processor TemplateProcessing: the sequence twice");
      passed = true;
      continue;
    }
    const kava_json *name = kava_json_get(special, "id");
    if (!kava_json_is(name, KAVA_JSON_STRING)) {
      st = wrong("post_processor TemplateProcessing: single", "SpecialToken or Sequence", &single->items[i]);
      goto out;
    }
    const kava_json *ids = kava_json_get(kava_json_find(specials, name->string, name->length), "ids");
    if (!kava_json_is(ids, KAVA_JSON_ARRAY))
      KAVA_FAIL(KAVA_FORMAT, "post_processor TemplateProcessing: special_tokens has no ids for '%.60s'", name->string);
    for (uint32_t n = 0; n < ids->length; n++) {
      if (!kava_json_is(&ids->items[n], KAVA_JSON_INTEGER) || !kava_bpe_has(&tok->bpe, ids->items[n].integer))
        KAVA_FAIL(KAVA_FORMAT, "post_processor TemplateProcessing: '%.60s' has an id that is no token's", name->string);
      KAVA_TRY(kava_ids_add(passed ? &after : &before, (int32_t)ids->items[n].integer));
    }
  }
  if (!passed) KAVA_FAIL(KAVA_UNSUPPORTED, "post_processor TemplateProcessing: no sequence in single");
  for (size_t i = 0; i < tok->before.size; i++) KAVA_TRY(kava_ids_add(&before, tok->before.data[i]));
  for (size_t i = 0; i < after.size; i++) KAVA_TRY(kava_ids_add(&tok->after, after.data[i]));
  kava_ids_free(&tok->before);
  tok->before = before;
  before = (kava_ids){0};
out:
  kava_ids_free(&before);
  kava_ids_free(&after);
  return st;
}

static kava_status read_post_processor(kava_tokenizer *tok, const kava_json *value) {
  if (!strcmp(type_of(value), "ByteLevel")) return KAVA_OK; /* only changes offsets */
  if (!strcmp(type_of(value), "TemplateProcessing")) return read_template(tok, value);
  return kava_fail(KAVA_UNSUPPORTED,
                   "post_processor '%.60s' is not supported (TemplateProcessing, ByteLevel and Sequence are)",
                   type_of(value));
}

static kava_status read_merge(kava_tokenizer *tok, const kava_json *merge) {
  if (kava_json_is(merge, KAVA_JSON_STRING)) { /* "left right"; a byte-level token has no space */
    const char *space = memchr(merge->string, ' ', merge->length);
    if (space)
      return kava_bpe_add_merge(&tok->bpe, merge->string, (size_t)(space - merge->string), space + 1,
                                merge->length - (size_t)(space - merge->string) - 1);
  } else if (kava_json_is(merge, KAVA_JSON_ARRAY) && merge->length == 2 &&
             kava_json_is(&merge->items[0], KAVA_JSON_STRING) && kava_json_is(&merge->items[1], KAVA_JSON_STRING)) {
    return kava_bpe_add_merge(&tok->bpe, merge->items[0].string, merge->items[0].length, merge->items[1].string,
                              merge->items[1].length);
  }
  return kava_fail(KAVA_FORMAT, "merge %u is neither \"left right\" nor [left, right]", tok->bpe.next_rank + 1);
}

static bool is_empty(const kava_json *value) {
  return is_absent(value) || (kava_json_is(value, KAVA_JSON_STRING) && value->length == 0);
}

/* Lists of a vocabulary's size are left unread in the outline and gone through here, one item at a time. `is`: their
 * first character. */
static kava_status open_list(const kava_json_doc *doc, const kava_json *list, char is, const char *key,
                             kava_json_walk **out) {
  const char *expected = is == '[' ? "a list" : "an object";
  if (!kava_json_is(list, KAVA_JSON_LEFT)) return wrong(key, expected, list);
  if (list->string[0] != is)
    return kava_fail(KAVA_FORMAT, "%s: %s expected, got %s", key, expected, is == '[' ? "an object" : "an array");
  return kava_json_walk_open(doc, list, out);
}

/* How many entries a table is made for at first: commas promise much in few bytes, so it grows where they are kept. */
static int64_t at_first(const kava_json *list, size_t bytes) {
  size_t most = bytes / 16 < INT32_MAX / 8 ? bytes / 16 : INT32_MAX / 8;
  return (int64_t)(list->length < most ? list->length : most);
}

static kava_status read_bpe(kava_tokenizer *tok, const kava_json_doc *doc, const kava_json *model) {
  const kava_json *vocab = kava_json_get(model, "vocab"), *merges = kava_json_get(model, "merges");
  static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
  for (int i = 0; i < 2; i++)
    if (!is_empty(kava_json_get(model, affixes[i])))
      return kava_fail(KAVA_UNSUPPORTED, "model: %s is not supported", affixes[i]);
  const kava_json *dropout = kava_json_get(model, "dropout");
  if (!is_absent(dropout) && !(kava_json_is(dropout, KAVA_JSON_INTEGER) && dropout->integer == 0) &&
      !(kava_json_is(dropout, KAVA_JSON_REAL) && dropout->real == 0))
    return kava_fail(KAVA_UNSUPPORTED, "model: dropout is not supported");
  kava_status st = KAVA_OK;
  kava_json_walk *walk = NULL;
  const kava_json_member *item;
  bool chars = tok->bpe.chars;
  KAVA_TRY(open_list(doc, merges, '[', "model: merges", &walk));
  kava_json_walk_close(&walk);
  KAVA_TRY(open_list(doc, vocab, '{', "model: vocab", &walk));
  KAVA_TRY(kava_bpe_init(&tok->bpe, at_first(vocab, tok->json_file->size), at_first(merges, tok->json_file->size)));
  tok->bpe.chars = chars;
  tok->bpe.unique = true; /* keys */
  tok->bpe.byte_fallback = is_true(kava_json_get(model, "byte_fallback"));
  if (tok->bpe.byte_fallback && !chars)
    KAVA_FAIL(KAVA_UNSUPPORTED, "model: byte_fallback beside a ByteLevel pre_tokenizer is not supported");
  tok->bpe.ignore_merges = is_true(kava_json_get(model, "ignore_merges"));
  tok->bpe.fuse_unknown = is_true(kava_json_get(model, "fuse_unk"));
  for (;;) {
    KAVA_TRY(kava_json_walk_next(walk, &item));
    if (!item) break;
    if (!kava_json_is(&item->value, KAVA_JSON_INTEGER)) {
      st = wrong("its id", "an integer", &item->value);
    } else if (item->value.integer < 0 || item->value.integer >= 4 * (int64_t)vocab->length + 65536) {
      st = kava_fail(KAVA_FORMAT, "its id %lld is out of range for a vocabulary of %u", (long long)item->value.integer,
                     vocab->length);
    } else {
      st = kava_bpe_add_token(&tok->bpe, item->key, item->key_length, item->value.integer);
    }
    if (st != KAVA_OK) {
      kava_fail_in(st, "model: vocab '%.60s'", item->key);
      goto out;
    }
  }
  tok->bpe.unique = false; /* added tokens may well be there */
  kava_bpe_finish_tokens(&tok->bpe);
  const kava_json *unknown = kava_json_get(model, "unk_token");
  if (kava_json_is(unknown, KAVA_JSON_STRING))
    tok->bpe.unknown = kava_bpe_find_text(&tok->bpe, unknown->string, unknown->length);
  kava_json_walk_close(&walk);
  KAVA_TRY(kava_json_walk_open(doc, merges, &walk));
  for (;;) {
    KAVA_TRY(kava_json_walk_next(walk, &item));
    if (!item) break;
    if ((st = read_merge(tok, &item->value)) != KAVA_OK) {
      kava_fail_in(st, "model");
      goto out;
    }
  }
out:
  kava_json_walk_close(&walk);
  return st;
}

static kava_status read_unigram(kava_tokenizer *tok, const kava_json_doc *doc, const kava_json *model) {
  const kava_json *vocab = kava_json_get(model, "vocab"), *unknown = kava_json_get(model, "unk_id");
  bool chars = tok->bpe.chars;
  kava_status st = KAVA_OK;
  kava_json_walk *walk = NULL;
  const kava_json_member *item;
  KAVA_TRY(open_list(doc, vocab, '[', "model: vocab", &walk));
  if (!chars) KAVA_FAIL(KAVA_UNSUPPORTED, "model: Unigram beside a ByteLevel pre_tokenizer is not supported");
  KAVA_TRY(kava_bpe_init(&tok->bpe, at_first(vocab, tok->json_file->size), 0));
  KAVA_TRY(kava_unigram_init(&tok->unigram, (int32_t)at_first(vocab, tok->json_file->size)));
  tok->is_unigram = tok->bpe.chars = true;
  tok->bpe.byte_fallback = is_true(kava_json_get(model, "byte_fallback"));
  for (uint32_t i = 0;; i++) {
    KAVA_TRY(kava_json_walk_next(walk, &item));
    if (!item) break;
    bool pair = kava_json_is(&item->value, KAVA_JSON_ARRAY) && item->value.length == 2;
    const kava_json *piece = pair ? &item->value.items[0] : NULL, *score = pair ? &item->value.items[1] : NULL;
    bool whole = kava_json_is(score, KAVA_JSON_INTEGER);
    if (!kava_json_is(piece, KAVA_JSON_STRING) || !(whole || kava_json_is(score, KAVA_JSON_REAL)))
      KAVA_FAIL(KAVA_FORMAT, "model: vocab: item %u: [piece, score] expected", i + 1);
    st = kava_bpe_add_token(&tok->bpe, piece->string, piece->length, i);
    if (st == KAVA_OK)
      st = kava_unigram_add(&tok->unigram, (const uint8_t *)piece->string, piece->length,
                            whole ? (double)score->integer : score->real);
    if (st != KAVA_OK) {
      kava_fail_in(st, "model: vocab '%.60s'", piece->string);
      goto out;
    }
  }
  kava_bpe_finish_tokens(&tok->bpe);
  if (!is_absent(unknown)) {
    if (!kava_json_is(unknown, KAVA_JSON_INTEGER) || !kava_bpe_has(&tok->bpe, unknown->integer))
      KAVA_FAIL(KAVA_FORMAT, "model: unk_id: a token's id expected");
    tok->bpe.unknown = (int32_t)unknown->integer;
  }
out:
  kava_json_walk_close(&walk);
  return st;
}

static kava_status read_model(kava_tokenizer *tok, const kava_json_doc *doc, const kava_json *model) {
  if (!kava_json_is(model, KAVA_JSON_OBJECT)) return wrong("model", "an object", model);
  const char *type = type_of(model);
  /* files of the first versions name no type */
  if (!strcmp(type, "BPE") || (type[0] == 0 && kava_json_get(model, "merges"))) return read_bpe(tok, doc, model);
  if (!strcmp(type, "Unigram")) return read_unigram(tok, doc, model);
  return kava_fail(KAVA_UNSUPPORTED, "model '%.60s' is not supported (BPE and Unigram are)", type);
}

static kava_status read_added(kava_tokenizer *tok, const kava_json *list) {
  if (is_absent(list)) return KAVA_OK;
  if (!kava_json_is(list, KAVA_JSON_ARRAY)) return wrong("added_tokens", "a list", list);
  for (uint32_t i = 0; i < list->length; i++) {
    const kava_json *item = &list->items[i], *content = kava_json_get(item, "content"), *id = kava_json_get(item, "id");
    if (!kava_json_is(content, KAVA_JSON_STRING)) return wrong("added_tokens: content", "a string", content);
    if (!kava_json_is(id, KAVA_JSON_INTEGER)) return wrong("added_tokens: id", "an integer", id);
    if (id->integer < 0 || id->integer > 4 * ((int64_t)tok->bpe.size + list->length) + 65536)
      return kava_fail(KAVA_FORMAT, "added token '%.60s': its id %lld is out of range", content->string,
                       (long long)id->integer);
    kava_added added = {.content = (char *)(uintptr_t)content->string,
                        .length = content->length,
                        .id = (int32_t)id->integer,
                        .special = is_true(kava_json_get(item, "special")),
                        .normalized = is_true(kava_json_get(item, "normalized")),
                        .lstrip = is_true(kava_json_get(item, "lstrip")),
                        .rstrip = is_true(kava_json_get(item, "rstrip")),
                        .single_word = is_true(kava_json_get(item, "single_word"))};
    kava_status st = kava_tokenizer_add(tok, &added);
    if (st != KAVA_OK) return st;
  }
  return KAVA_OK;
}

/* "eos_token" and its like are a string, or an object with "content". */
static int32_t named_token(const kava_tokenizer *tok, const kava_json *config, const char *key) {
  const kava_json *value = kava_json_get(config, key);
  if (kava_json_is(value, KAVA_JSON_OBJECT)) value = kava_json_get(value, "content");
  return kava_json_is(value, KAVA_JSON_STRING) ? kava_tokenizer_find(tok, value->string, value->length) : -1;
}

/* "chat_template" is a text, or a list of {"name", "template"} of which "default" counts. */
static kava_status read_chat_template(kava_tokenizer *tok, const kava_json *value) {
  for (uint32_t i = 0; kava_json_is(value, KAVA_JSON_ARRAY) && i < value->length; i++)
    if (kava_json_is_text(kava_json_get(&value->items[i], "name"), "default")) {
      value = kava_json_get(&value->items[i], "template");
      break;
    }
  if (!kava_json_is(value, KAVA_JSON_STRING) || tok->chat_template) return KAVA_OK;
  tok->chat_template = kava_strdup(value->string);
  return tok->chat_template ? KAVA_OK : KAVA_MEMORY;
}

/* Newer folders have it in a file of its own, which comes first. */
static kava_status read_template_file(const char *folder, int length, kava_tokenizer *tok) {
  kava_status st = KAVA_OK;
  kava_map *map = NULL;
  char *file = kava_format("%.*schat_template.jinja", length, folder);
  if (!file) return KAVA_MEMORY;
  if (access(file, F_OK) == 0) {
    KAVA_TRY(kava_map_open(file, &map));
    if (map->size > INT32_MAX) KAVA_FAIL(KAVA_FORMAT, "%s: too long", file);
    tok->chat_template = kava_format("%.*s", (int)map->size, map->size ? (const char *)map->data : "");
    if (!tok->chat_template) st = KAVA_MEMORY;
  }
out:
  kava_map_release(&map);
  kava_free(file);
  return st;
}

static kava_status read_config(const char *path, kava_tokenizer *tok) {
  static const char *const names[] = {"tokenizer_config.json", "special_tokens_map.json"};
  const char *slash = strrchr(path, '/');
  kava_status st = KAVA_OK;
  kava_json_doc *doc = NULL;
  char *file = NULL;
  KAVA_TRY(read_template_file(path, slash ? (int)(slash + 1 - path) : 0, tok));
  for (int i = 0; i < 2; i++) {
    file = kava_format("%.*s%s", slash ? (int)(slash + 1 - path) : 0, path, names[i]);
    if (!file) return KAVA_MEMORY;
    if (access(file, F_OK) == 0) {
      KAVA_TRY(kava_json_load(file, &doc));
      const kava_json *root = kava_json_root(doc);
      if (tok->eos < 0) tok->eos = named_token(tok, root, "eos_token");
      if (tok->bos < 0) tok->bos = named_token(tok, root, "bos_token");
      if (tok->pad < 0) tok->pad = named_token(tok, root, "pad_token");
      KAVA_TRY(read_chat_template(tok, kava_json_get(root, "chat_template")));
      kava_json_release(&doc);
      if (i == 0) KAVA_TRY(kava_map_open(file, &tok->config_file));
    }
    kava_free(file);
    file = NULL;
  }
out:
  kava_json_release(&doc);
  kava_free(file);
  return st;
}

kava_status kava_tokenizer_load_json(const char *path, kava_tokenizer *tok) {
  kava_status st = KAVA_OK;
  kava_json_doc *doc = NULL;
  KAVA_TRY(kava_map_open(path, &tok->json_file));
  static const char *const left[] = {"model.vocab", "model.merges", NULL};
  st = kava_json_outline((const char *)tok->json_file->data, tok->json_file->size, left,
                         kava_map_most(tok->json_file->size, KAVA_JSON_EACH), &doc);
  if (st == KAVA_OK) {
    const kava_json *root = kava_json_root(doc);
    bool byte_level = false;
    if (!kava_json_is(root, KAVA_JSON_OBJECT)) st = wrong("the file", "an object", root);
    if (st == KAVA_OK) st = kava_tokenizer_read_normalizer(tok, kava_json_get(root, "normalizer"));
    if (st == KAVA_OK) st = kava_tokenizer_read_pre_tokenizer(tok, kava_json_get(root, "pre_tokenizer"), &byte_level);
    tok->bpe.chars = !byte_level;
    if (st == KAVA_OK) st = read_model(tok, doc, kava_json_get(root, "model"));
    if (st == KAVA_OK) st = kava_tokenizer_read_decoder(tok, kava_json_get(root, "decoder"));
    if (st == KAVA_OK) st = read_added(tok, kava_json_get(root, "added_tokens"));
    if (st == KAVA_OK) st = each(tok, kava_json_get(root, "post_processor"), "processors", read_post_processor);
  }
  if (st != KAVA_OK) {
    st = kava_fail_in(st, "%s", path);
    goto out;
  }
  kava_map_forget(tok->json_file, tok->json_file->data, tok->json_file->size); /* save reads it again */
  st = read_config(path, tok);
out:
  kava_json_release(&doc);
  return st;
}

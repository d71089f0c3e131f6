/* text/tokenizer_save: a tokenizer as Hugging Face's tokenizer.json and tokenizer_config.json. */
#include "formats/writer.h"
#include "text/tokenizer_json.h"
#include "text/tokenizer_parts.h"
#include <errno.h>
#include <sys/stat.h>

static void put_null(kava_json_writer *w, const char *key) {
  put_key(w, key);
  kava_json_null(w);
}
static void put_open(kava_json_writer *w, const char *key, char bracket) {
  put_key(w, key);
  kava_json_open(w, bracket);
}

static kava_status put_spelling(kava_json_writer *w, const kava_tokenizer *tok, int32_t id, kava_buffer *text,
                                bool key) {
  text->size = 0;
  kava_status st = kava_tokenizer_spell(tok, id, text);
  if (st != KAVA_OK) return st;
  if (key)
    kava_json_key(w, (const char *)text->data, text->size);
  else
    kava_json_string(w, (const char *)text->data, text->size);
  return KAVA_OK;
}

static void put_template_item(kava_json_writer *w, const char *kind, const char *name, size_t length) {
  kava_json_open(w, '{');
  put_open(w, kind, '{');
  put_key(w, "id");
  kava_json_string(w, name, length);
  put_key(w, "type_id");
  kava_json_integer(w, 0);
  kava_json_close(w, '}');
  kava_json_close(w, '}');
}

static kava_status put_template(kava_json_writer *w, const kava_tokenizer *tok, kava_buffer *text) {
  kava_status st = KAVA_OK;
  const kava_ids *sides[2] = {&tok->before, &tok->after};
  put_open(w, "post_processor", '{');
  put_text(w, "type", "TemplateProcessing");
  for (int pair = 0; pair < 2; pair++) {
    put_open(w, pair ? "pair" : "single", '[');
    for (int part = 0; part <= pair; part++)
      for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < sides[side]->size; i++) {
          text->size = 0;
          KAVA_TRY(kava_tokenizer_spell(tok, sides[side]->data[i], text));
          put_template_item(w, "SpecialToken", (const char *)text->data, text->size);
        }
        if (side == 0) put_template_item(w, "Sequence", part ? "B" : "A", 1);
      }
    kava_json_close(w, ']');
  }
  put_open(w, "special_tokens", '{');
  for (int side = 0; side < 2; side++)
    for (size_t i = 0; i < sides[side]->size; i++) {
      int32_t id = sides[side]->data[i];
      bool again = false; /* keys are unique */
      for (size_t n = 0; side == 1 && n < tok->before.size; n++) again |= tok->before.data[n] == id;
      for (size_t n = 0; n < i; n++) again |= sides[side]->data[n] == id;
      if (again) continue;
      KAVA_TRY(put_spelling(w, tok, id, text, true));
      kava_json_open(w, '{');
      put_key(w, "id");
      kava_json_string(w, (const char *)text->data, text->size);
      put_open(w, "ids", '[');
      kava_json_integer(w, id);
      kava_json_close(w, ']');
      put_open(w, "tokens", '[');
      kava_json_string(w, (const char *)text->data, text->size);
      kava_json_close(w, ']');
      kava_json_close(w, '}');
    }
  kava_json_close(w, '}');
  kava_json_close(w, '}');
out:
  return st;
}

static kava_status put_model(kava_json_writer *w, const kava_tokenizer *tok, kava_buffer *text) {
  kava_status st = KAVA_OK;
  kava_merge *merges = NULL;
  put_open(w, "model", '{');
  put_text(w, "type", "BPE");
  put_null(w, "dropout");
  put_key(w, "unk_token");
  if (tok->bpe.unknown >= 0)
    KAVA_TRY(put_spelling(w, tok, tok->bpe.unknown, text, false));
  else
    kava_json_null(w);
  put_null(w, "continuing_subword_prefix");
  put_null(w, "end_of_word_suffix");
  put_flag(w, "fuse_unk", tok->bpe.fuse_unknown);
  put_flag(w, "byte_fallback", tok->bpe.byte_fallback);
  put_flag(w, "ignore_merges", tok->bpe.ignore_merges);
  put_open(w, "vocab", '{');
  for (int32_t id = 0; id < tok->bpe.size; id++) {
    if (!kava_bpe_has(&tok->bpe, id)) continue;
    KAVA_TRY(put_spelling(w, tok, id, text, true));
    kava_json_integer(w, id);
  }
  kava_json_close(w, '}');
  put_open(w, "merges", '[');
  KAVA_TRY(kava_bpe_sorted_merges(&tok->bpe, &merges));
  for (int64_t i = 0; i < tok->bpe.merge_count; i++) {
    text->size = 0;
    KAVA_TRY(kava_bpe_spell(&tok->bpe, (int32_t)(merges[i].pair >> 32), text));
    KAVA_TRY(kava_buffer_add(text, " ", 1));
    KAVA_TRY(kava_bpe_spell(&tok->bpe, (int32_t)(uint32_t)merges[i].pair, text));
    kava_json_string(w, (const char *)text->data, text->size);
  }
  kava_json_close(w, ']');
  kava_json_close(w, '}');
out:
  kava_free(merges);
  return st;
}

static kava_status write_tokenizer(const kava_tokenizer *tok, const char *path) {
  kava_status st = KAVA_OK;
  kava_buffer text = {0};
  kava_json_writer w = {.indent = 1};
  kava_json_open(&w, '{');
  put_text(&w, "version", "1.0");
  put_null(&w, "truncation");
  put_null(&w, "padding");
  put_open(&w, "added_tokens", '[');
  for (int32_t i = 0; i < tok->added_count; i++) {
    const kava_added *added = &tok->added[i];
    kava_json_open(&w, '{');
    put_key(&w, "id");
    kava_json_integer(&w, added->id);
    put_key(&w, "content");
    kava_json_string(&w, added->content, added->length);
    put_flag(&w, "single_word", added->single_word);
    put_flag(&w, "lstrip", added->lstrip);
    put_flag(&w, "rstrip", added->rstrip);
    put_flag(&w, "normalized", added->normalized);
    put_flag(&w, "special", added->special);
    kava_json_close(&w, '}');
  }
  kava_json_close(&w, ']');
  kava_tokenizer_write_steps(tok, &w);
  if (tok->before.size || tok->after.size) {
    KAVA_TRY(put_template(&w, tok, &text));
  } else {
    put_null(&w, "post_processor");
  }
  KAVA_TRY(put_model(&w, tok, &text));
  kava_json_close(&w, '}');
  KAVA_TRY(w.status);
  st = kava_writer_file(path, w.data, w.size);
out:
  kava_buffer_free(&text);
  kava_free(w.data);
  return st;
}

static kava_status write_config(const kava_tokenizer *tok, const char *path) {
  kava_status st = KAVA_OK;
  kava_buffer text = {0};
  kava_json_writer w = {.indent = 2};
  const struct {
    const char *key;
    int32_t id;
  } named[] = {{"bos_token", tok->bos}, {"eos_token", tok->eos}, {"pad_token", tok->pad}};
  kava_json_open(&w, '{');
  put_text(&w, "tokenizer_class", "PreTrainedTokenizerFast");
  put_flag(&w, "clean_up_tokenization_spaces", false);
  for (int i = 0; i < 3; i++) {
    put_key(&w, named[i].key);
    if (named[i].id >= 0)
      KAVA_TRY(put_spelling(&w, tok, named[i].id, &text, false));
    else
      kava_json_null(&w);
  }
  if (tok->context_length > 0) {
    put_key(&w, "model_max_length");
    kava_json_integer(&w, tok->context_length);
  }
  if (tok->chat_template) put_text(&w, "chat_template", tok->chat_template);
  kava_json_close(&w, '}');
  KAVA_TRY(w.status);
  st = kava_writer_file(path, w.data, w.size);
out:
  kava_buffer_free(&text);
  kava_free(w.data);
  return st;
}

static kava_status make_folder(const char *folder) { /* with its parents */
  char *path = kava_strdup(folder);
  if (!path) return KAVA_MEMORY;
  kava_status st = KAVA_OK;
  for (char *p = path + 1;; p++) {
    if (*p != '/' && *p != 0) continue;
    char was = *p;
    *p = 0;
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
      st = kava_fail(KAVA_IO, "%s: cannot be made: %s", path, strerror(errno));
    *p = was;
    if (was == 0 || st != KAVA_OK) break;
  }
  kava_free(path);
  return st;
}

/* special_tokens_map.json and chat_template.jinja lie beside some tokenizers; they go along when they are there. */
static kava_status copy_beside(const kava_tokenizer *tok, const char *folder, const char *name) {
  const char *slash = strrchr(tok->path, '/');
  kava_status st = KAVA_OK;
  kava_map *map = NULL;
  struct stat info;
  char *to = NULL, *from = kava_format("%.*s%s", slash ? (int)(slash + 1 - tok->path) : 0, tok->path, name);
  if (!from) return KAVA_MEMORY;
  if (stat(from, &info) == 0) {
    to = kava_format("%s/%s", folder, name);
    if (!to) KAVA_FAIL(KAVA_MEMORY, "out of memory");
    KAVA_TRY(kava_map_open(from, &map));
    st = kava_writer_file(to, map->data, map->size);
  }
out:
  kava_map_release(&map);
  kava_free(from);
  kava_free(to);
  return st;
}

kava_status kava_tokenizer_save(const kava_tokenizer *tok, const char *folder) {
  kava_status st = KAVA_OK;
  char *json = kava_format("%s/tokenizer.json", folder), *config = kava_format("%s/tokenizer_config.json", folder);
  if (!json || !config) KAVA_FAIL(KAVA_MEMORY, "out of memory");
  if (!folder[0]) KAVA_FAIL(KAVA_MISUSE, "save: a folder's name expected, got an empty string");
  KAVA_TRY(make_folder(folder));
  if (tok->json_file) {
    KAVA_TRY(kava_writer_file(json, tok->json_file->data, tok->json_file->size));
    if (tok->config_file) KAVA_TRY(kava_writer_file(config, tok->config_file->data, tok->config_file->size));
    KAVA_TRY(copy_beside(tok, folder, "special_tokens_map.json"));
    KAVA_TRY(copy_beside(tok, folder, "chat_template.jinja"));
  } else {
    KAVA_TRY(write_tokenizer(tok, json));
    KAVA_TRY(write_config(tok, config));
  }
out:
  kava_free(json);
  kava_free(config);
  return st;
}

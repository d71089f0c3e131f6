/* text/tokenizer_gguf: the tokenizer inside a GGUF file: tokens and their types; for model "gpt2" (byte-level BPE)
 * merges, and the pre-tokenizer by its name; for model "llama" (SentencePiece's BPE, Gemma's too) scores. */
#include "text/tokenizer_parts.h"
#include "formats/gguf.h"
#include <strings.h>

enum {
  TYPE_NORMAL = 1,
  TYPE_UNKNOWN = 2,
  TYPE_CONTROL = 3,
  TYPE_USER = 4,
  TYPE_UNUSED = 5
}; /* tokenizer.ggml.token_type; 6 is a byte */

/* Names of tokenizer.ggml.pre whose splitting is known here. */
static const struct {
  const char *name, *pattern;
  bool ignore_merges, bos;
} known[] = {{"smollm", "smollm", false, false},
             {"refact", "smollm", false, false},
             {"starcoder", "smollm", false, false},
             {"qwen2", "qwen2", false, false},
             {"deepseek-r1-qwen", "qwen2", false, false},
             {"llama-bpe", "llama3", true, true},
             {"llama3", "llama3", true, true},
             {"llama-v3", "llama3", true, true},
             {"dbrx", "llama3", false, false},
             {"smaug-bpe", "llama3", false, false},
             {"tekken", "tekken", true, true},
             {"gpt-4o", "o200k", false, false},
             {"phi-2", "gpt2", false, false},
             {"gpt-2", "gpt2", false, false}};

static kava_status text_of(const kava_gguf *gguf, const char *key, const char **data, size_t *length) {
  const kava_gguf_value *value = kava_gguf_find(gguf, key);
  if (!value) return kava_fail(KAVA_UNSUPPORTED, "%s is not there: the file has no tokenizer that can be read", key);
  if (value->array || !kava_gguf_string(value, data, length))
    return kava_fail(KAVA_FORMAT, "%s: a string expected", key);
  return KAVA_OK;
}

static kava_status list_of(const kava_gguf *gguf, const char *key, kava_gguf_type type, const kava_gguf_value **out) {
  const kava_gguf_value *value = kava_gguf_find(gguf, key);
  if (!value) return kava_fail(KAVA_FORMAT, "%s is not there", key);
  if (!value->array || value->type != type)
    return kava_fail(KAVA_FORMAT, "%s: an array of %s expected", key, kava_gguf_type_name(type));
  *out = value;
  return KAVA_OK;
}

static bool flag_of(const kava_gguf *gguf, const char *key, bool fallback) {
  int64_t value;
  return kava_gguf_integer(kava_gguf_find(gguf, key), 0, &value) ? value != 0 : fallback;
}

static kava_status special_id(const kava_gguf *gguf, const kava_tokenizer *tok, const char *key, int32_t *out) {
  const kava_gguf_value *value = kava_gguf_find(gguf, key);
  int64_t id;
  if (!value) return KAVA_OK;
  if (value->array || !kava_gguf_integer(value, 0, &id)) return kava_fail(KAVA_FORMAT, "%s: an integer expected", key);
  if (!kava_bpe_has(&tok->bpe, id))
    return kava_fail(KAVA_FORMAT, "%s: %lld is no token (the vocabulary has %d)", key, (long long)id, tok->bpe.size);
  *out = (int32_t)id;
  return KAVA_OK;
}

static bool is_text(const char *data, size_t length, const char *text) {
  return strlen(text) == length && memcmp(data, text, length) == 0;
}

/* Phi-3's special tokens take the white space behind them; GGUF has no key for that, so that its readers go by the
 * model's name. */
static bool is_phi3(const kava_gguf *gguf) {
  const char *name;
  size_t length;
  const kava_gguf_value *value = kava_gguf_find(gguf, "general.name");
  if (!value || value->array || !kava_gguf_string(value, &name, &length)) return false;
  for (size_t i = 0; i + 4 <= length; i++)
    if (!strncasecmp(name + i, "phi3", 4) || (i + 5 <= length && !strncasecmp(name + i, "phi-3", 5))) return true;
  return false;
}

static kava_status read_tokens(const kava_gguf *gguf, kava_tokenizer *tok, const kava_gguf_value *tokens,
                               const kava_gguf_value *types) {
  const char *text;
  size_t length, cursor = 0;
  for (uint64_t id = 0; kava_gguf_next_string(tokens, &cursor, &text, &length); id++) {
    int64_t type = 1;
    if (types) kava_gguf_integer(types, id, &type);
    if (type == TYPE_UNUSED) continue; /* rows that only pad the embedding */
    kava_status st = kava_bpe_add_token(&tok->bpe, text, length, (int64_t)id);
    if (st != KAVA_OK) return kava_fail_in(st, "tokenizer.ggml.tokens");
  }
  kava_bpe_finish_tokens(&tok->bpe);
  cursor = 0;
  bool strips = is_phi3(gguf);
  for (uint64_t id = 0; types && kava_gguf_next_string(tokens, &cursor, &text, &length); id++) {
    int64_t type = 1;
    kava_gguf_integer(types, id, &type);
    if (type != TYPE_CONTROL && type != TYPE_USER && type != TYPE_UNKNOWN) continue;
    kava_added added = {
        .content = (char *)(uintptr_t)text, .length = length, .id = (int32_t)id, .special = type != TYPE_USER};
    added.rstrip = strips && !is_text(text, length, "<unk>") && !is_text(text, length, "<s>") &&
                   !is_text(text, length, "<|endoftext|>");
    kava_status st = kava_tokenizer_add(tok, &added);
    if (st != KAVA_OK) return kava_fail_in(st, "tokenizer.ggml.tokens");
  }
  return KAVA_OK;
}

static kava_status read_merges(kava_tokenizer *tok, const kava_gguf_value *merges) {
  const char *text;
  size_t length, cursor = 0;
  while (kava_gguf_next_string(merges, &cursor, &text, &length)) {
    const char *space = memchr(text, ' ', length);
    kava_status st = space ? kava_bpe_add_merge(&tok->bpe, text, (size_t)(space - text), space + 1,
                                                length - (size_t)(space - text) - 1)
                           : kava_fail(KAVA_FORMAT, "merge %u is not \"left right\"", tok->bpe.next_rank + 1);
    if (st != KAVA_OK) return kava_fail_in(st, "tokenizer.ggml.merges");
  }
  return KAVA_OK;
}

static kava_status read_pre(const kava_gguf *gguf, kava_tokenizer *tok, bool *bos) {
  const char *name;
  size_t length;
  kava_status st = text_of(gguf, "tokenizer.ggml.pre", &name, &length);
  if (st != KAVA_OK) return st;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (is_text(name, length, known[i].name)) {
      tok->bpe.ignore_merges = known[i].ignore_merges;
      *bos = known[i].bos;
      return kava_tokenizer_pattern(tok, known[i].pattern);
    }
  return kava_fail(KAVA_UNSUPPORTED,
                   "tokenizer.ggml.pre '%.*s' is not supported (smollm, refact, starcoder, qwen2, llama-bpe, dbrx, "
                   "tekken, gpt-4o and gpt-2 are)",
                   (int)(length < 60 ? length : 60), name);
}

/* Byte-level BPE. */
static kava_status read_gpt2(const kava_gguf *gguf, kava_tokenizer *tok, const kava_gguf_value *tokens,
                             const kava_gguf_value *types, bool *bos) {
  kava_status st = KAVA_OK;
  const kava_gguf_value *merges = NULL;
  KAVA_TRY(list_of(gguf, "tokenizer.ggml.merges", KAVA_GGUF_STRING, &merges));
  if (merges->count > INT32_MAX / 2) KAVA_FAIL(KAVA_FORMAT, "tokenizer.ggml.merges: too many");
  KAVA_TRY(kava_bpe_init(&tok->bpe, (int64_t)tokens->count, (int64_t)merges->count));
  KAVA_TRY(read_tokens(gguf, tok, tokens, types));
  KAVA_TRY(read_merges(tok, merges));
  KAVA_TRY(read_pre(gguf, tok, bos));
out:
  return st;
}

/* SentencePiece's BPE. A space becomes its mark, one is put in front of each text between special tokens (unless the
 * file says otherwise); every token is made by joining two, the highest score first. */
static kava_status read_llama(const kava_gguf *gguf, kava_tokenizer *tok, const kava_gguf_value *tokens,
                              const kava_gguf_value *types) {
  kava_status st = KAVA_OK;
  const kava_gguf_value *list = NULL;
  float *scores = NULL;
  bool *joined = NULL;
  int32_t count = (int32_t)tokens->count;
  KAVA_TRY(list_of(gguf, "tokenizer.ggml.scores", KAVA_GGUF_F32, &list));
  if (list->count != tokens->count)
    KAVA_FAIL(KAVA_FORMAT, "tokenizer.ggml.scores: an array of %llu expected, one for each token",
              (unsigned long long)tokens->count);
  if (kava_gguf_find(gguf, "tokenizer.ggml.precompiled_charsmap"))
    KAVA_FAIL(KAVA_UNSUPPORTED, "tokenizer.ggml.precompiled_charsmap beside model 'llama' is not supported");
  if (flag_of(gguf, "tokenizer.ggml.remove_extra_whitespaces", false))
    KAVA_FAIL(KAVA_UNSUPPORTED, "tokenizer.ggml.remove_extra_whitespaces is not supported");
  scores = kava_alloc(((size_t)count + 1) * sizeof *scores);
  joined = kava_calloc((size_t)count + 1, sizeof *joined);
  if (!scores || !joined) {
    st = KAVA_MEMORY;
    goto out;
  }
  for (int32_t id = 0; id < count; id++) {
    double score = 0;
    int64_t type = TYPE_NORMAL;
    kava_gguf_number(list, (uint64_t)id, &score);
    if (types) kava_gguf_integer(types, (uint64_t)id, &type);
    scores[id] = (float)score;
    joined[id] = type == TYPE_NORMAL || type == TYPE_USER;
  }
  KAVA_TRY(kava_bpe_init(&tok->bpe, count, 2 * (int64_t)count));
  tok->bpe.chars = tok->bpe.byte_fallback = tok->bpe.fuse_unknown = true;
  bool prefix = flag_of(gguf, "tokenizer.ggml.add_space_prefix", true);
  kava_normal space = {.kind = KAVA_NORMAL_REPLACE, .match = " ", .literal = true, .length = 3};
  space.content = (const uint8_t *)KAVA_WORD_MARK;
  kava_normal front = {.kind = KAVA_NORMAL_PREPEND, .content = space.content, .length = 3};
  if (prefix) KAVA_TRY(kava_normalizer_add(&tok->normalizer, &front));
  KAVA_TRY(kava_normalizer_add(&tok->normalizer, &space));
  const kava_decode_step steps[] = {
      {.kind = KAVA_DECODER_REPLACE, .match = KAVA_WORD_MARK, .literal = true, .content = (char *)" "},
      {.kind = KAVA_DECODER_BYTE_FALLBACK},
      {.kind = KAVA_DECODER_FUSE},
      {.kind = KAVA_DECODER_STRIP, .content = (char *)" ", .start = 1}};
  for (int i = 0; i < (prefix ? 4 : 3); i++) KAVA_TRY(kava_text_decoder_add(&tok->decoder, &steps[i]));
  KAVA_TRY(read_tokens(gguf, tok, tokens, types));
  int64_t unknown;
  if (kava_gguf_integer(kava_gguf_find(gguf, "tokenizer.ggml.unknown_token_id"), 0, &unknown) &&
      kava_bpe_has(&tok->bpe, unknown))
    tok->bpe.unknown = (int32_t)unknown;
  st = kava_bpe_merge_by_score(&tok->bpe, scores, joined, count);
out:
  kava_free(scores);
  kava_free(joined);
  return st;
}

static kava_status read_all(const kava_gguf *gguf, kava_tokenizer *tok) {
  kava_status st = KAVA_OK;
  const char *text;
  size_t length;
  const kava_gguf_value *tokens = NULL, *types = kava_gguf_find(gguf, "tokenizer.ggml.token_type");
  KAVA_TRY(text_of(gguf, "tokenizer.ggml.model", &text, &length));
  bool gpt2 = is_text(text, length, "gpt2"), llama = is_text(text, length, "llama");
  if (!gpt2 && !llama)
    KAVA_FAIL(KAVA_UNSUPPORTED, "tokenizer.ggml.model '%.*s' is not supported (gpt2 and llama are)",
              (int)(length < 60 ? length : 60), text);
  KAVA_TRY(list_of(gguf, "tokenizer.ggml.tokens", KAVA_GGUF_STRING, &tokens));
  if (types && (!types->array || types->count != tokens->count))
    KAVA_FAIL(KAVA_FORMAT, "tokenizer.ggml.token_type: an array of %llu expected, one for each token",
              (unsigned long long)tokens->count);
  if (tokens->count > INT32_MAX / 4) KAVA_FAIL(KAVA_FORMAT, "tokenizer.ggml.tokens: too many");
  bool add_bos = llama;
  if (gpt2)
    KAVA_TRY(read_gpt2(gguf, tok, tokens, types, &add_bos));
  else
    KAVA_TRY(read_llama(gguf, tok, tokens, types));
  KAVA_TRY(special_id(gguf, tok, "tokenizer.ggml.eos_token_id", &tok->eos));
  KAVA_TRY(special_id(gguf, tok, "tokenizer.ggml.bos_token_id", &tok->bos));
  KAVA_TRY(special_id(gguf, tok, "tokenizer.ggml.padding_token_id", &tok->pad));
  if (flag_of(gguf, "tokenizer.ggml.add_bos_token", add_bos) && tok->bos >= 0)
    KAVA_TRY(kava_ids_add(&tok->before, tok->bos));
  if (flag_of(gguf, "tokenizer.ggml.add_eos_token", false) && tok->eos >= 0)
    KAVA_TRY(kava_ids_add(&tok->after, tok->eos));
  const kava_gguf_value *chat = kava_gguf_find(gguf, "tokenizer.chat_template");
  if (chat && !chat->array && kava_gguf_string(chat, &text, &length)) {
    tok->chat_template = kava_format("%.*s", (int)length, text);
    if (!tok->chat_template) st = KAVA_MEMORY;
  }
  if (st == KAVA_OK && text_of(gguf, "general.architecture", &text, &length) == KAVA_OK) {
    char *key = kava_format("%.*s.context_length", (int)(length < 60 ? length : 60), text);
    if (!key) return KAVA_MEMORY;
    kava_gguf_integer(kava_gguf_find(gguf, key), 0, &tok->context_length);
    kava_free(key);
  }
out:
  return st;
}

kava_status kava_tokenizer_load_gguf(const char *path, kava_tokenizer *tok) {
  kava_gguf *gguf = NULL;
  kava_status st = kava_gguf_open(path, &gguf); /* names the file itself */
  if (st != KAVA_OK) return st;
  st = read_all(gguf, tok);
  if (st != KAVA_OK) kava_fail_in(st, "%s", path);
  kava_gguf_release(&gguf);
  return st;
}

/* text/tokenizer_parts: the inside of a tokenizer, for the files that build one. */
#ifndef KAVA_TEXT_TOKENIZER_PARTS_H
#define KAVA_TEXT_TOKENIZER_PARTS_H
#include "base/json.h"
#include "base/map.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/split.h"
#include "text/tokenizer.h"
#include "text/unigram.h"

typedef struct kava_added {
  char *content;
  size_t length;
  char *sought; /* what is looked for in text: content, normalised where the token asks for it */
  size_t sought_length;
  int32_t id;
  bool special, normalized, lstrip, rstrip, single_word;
} kava_added;

/* A tree over added tokens' bytes: first child, next sibling. Node 0 is the root. */
typedef struct kava_trie {
  struct kava_trie_node {
    int32_t child, sibling; /* 0: none */
    int32_t added;          /* index of the token that ends here; -1 */
    uint8_t byte;
  } * nodes;
  int32_t count, capacity;
  bool first[256]; /* bytes a token begins with */
} kava_trie;

struct kava_tokenizer {
  int refs; /* atomic */
  char *path;
  kava_normalizer normalizer;
  kava_splitter splitter;
  kava_bpe bpe; /* the vocabulary, whichever the model */
  kava_unigram unigram;
  bool is_unigram;
  kava_text_decoder decoder;
  bool track;    /* what is done at the text's begin depends on origins: they are always kept */
  bool scanners; /* hand-written scanners allowed; a spec compares with and without */
  kava_added *added;
  int32_t added_count, added_capacity;
  bool sought_differ; /* some token of the vocabulary is looked for in another form */
  kava_trie raw, normalized;
  kava_ids before, after; /* the template */
  int32_t eos, bos, pad;
  char fingerprint[33];
  /* what save writes */
  kava_map *json_file, *config_file; /* where it was loaded from tokenizer.json */
  char *chat_template;
  int64_t context_length; /* 0: not known */
};

kava_status kava_tokenizer_new(const char *path, kava_tokenizer **out); /* empty */
/* Adds an added token. One whose content the vocabulary has takes that id; else `id` must be free. */
kava_status kava_tokenizer_add(kava_tokenizer *tok, const kava_added *model);
/* Builds the tries and the fingerprint; the last thing a loader does. */
kava_status kava_tokenizer_finish(kava_tokenizer *tok);
/* Normaliser, splitter and decoder of a byte-level pattern by name: "gpt2", "llama3", "qwen2", "smollm", "tekken",
 * "o200k". */
kava_status kava_tokenizer_pattern(kava_tokenizer *tok, const char *name);

kava_status kava_tokenizer_load_json(const char *path, kava_tokenizer *tok);
kava_status kava_tokenizer_load_gguf(const char *path, kava_tokenizer *tok);
/* tokenizer.json's "normalizer", "pre_tokenizer" and "decoder" (text/tokenizer_steps.c); NULL and null are none. */
kava_status kava_tokenizer_read_normalizer(kava_tokenizer *tok, const kava_json *value);
kava_status kava_tokenizer_read_pre_tokenizer(kava_tokenizer *tok, const kava_json *value, bool *byte_level);
kava_status kava_tokenizer_read_decoder(kava_tokenizer *tok, const kava_json *value);
void kava_tokenizer_write_steps(const kava_tokenizer *tok, kava_json_writer *w); /* the same three members */
#endif

/* text/tokenizer: text to token ids and back, exactly as Hugging Face's tokenizers do it for causal models: byte-level
 * BPE, BPE by characters with byte fallback (Llama 2, Gemma), Unigram.
 *
 * Encoding: added tokens that want raw text are cut out, the rest is normalised, the other added tokens are cut out,
 * the splitter cuts pieces, the model makes tokens of each; the template puts ids before and after.
 *
 * A tokenizer is immutable and shared by reference count, from any thread. Encoding needs an encoder, which holds the
 * scratch memory and a cache of words; an encoder serves one thread at a time. */
#ifndef KAVA_TEXT_TOKENIZER_H
#define KAVA_TEXT_TOKENIZER_H
#include "text/aligned.h"

typedef struct kava_tokenizer kava_tokenizer;
/* `path`: a folder with tokenizer.json, such a file, or a GGUF file. Fails with KAVA_UNSUPPORTED, naming file and
 * component, for what is not done here. */
kava_status kava_tokenizer_load(const char *path, kava_tokenizer **out);
kava_tokenizer *kava_tokenizer_retain(kava_tokenizer *tok);
void kava_tokenizer_release(kava_tokenizer **tok);

/* Writes tokenizer.json and tokenizer_config.json into `folder` (which is made): byte-for-byte copies of those it was
 * loaded from, or new ones. */
kava_status kava_tokenizer_save(const kava_tokenizer *tok, const char *folder);

typedef struct kava_train_options {
  int32_t vocab_size;
  const char *pattern;        /* "gpt2", "llama3", "qwen2", "smollm", "tekken" or "o200k" */
  const char *const *special; /* NULL-terminated; they get the first ids, the first of them ends texts */
} kava_train_options;
/* Learns merges from texts by plain BPE: the most frequent pair first, of equals the one of the lower ids.
 * Deterministic. */
kava_status kava_tokenizer_train(const char *const *texts, const size_t *lengths, size_t count,
                                 const kava_train_options *options, kava_tokenizer **out);

int32_t kava_tokenizer_size(const kava_tokenizer *tok); /* 1 + the highest id */
int32_t kava_tokenizer_eos(const kava_tokenizer *tok);  /* -1: none */
int32_t kava_tokenizer_bos(const kava_tokenizer *tok);
int32_t kava_tokenizer_pad(const kava_tokenizer *tok);
int32_t kava_tokenizer_unknown(const kava_tokenizer *tok);
const char *kava_tokenizer_chat_template(const kava_tokenizer *tok); /* NULL: none */
const char *kava_tokenizer_path(const kava_tokenizer *tok);
const char *kava_tokenizer_fingerprint(const kava_tokenizer *tok); /* 32 hex digits over everything that decides ids */
int32_t kava_tokenizer_find(const kava_tokenizer *tok, const char *text,
                            size_t length); /* as the vocabulary spells it; -1 */
bool kava_tokenizer_has(const kava_tokenizer *tok, int64_t id);
kava_status kava_tokenizer_spell(const kava_tokenizer *tok, int32_t id, kava_buffer *out);
enum { KAVA_DECODE_SKIP_SPECIAL = 1, KAVA_DECODE_REPLACE = 2 /* an id without a token becomes U+FFFD */ };
/* Appends the text of ids; bytes that are not valid UTF-8 become U+FFFD. KAVA_MISUSE names an id that has no token. */
kava_status kava_tokenizer_decode(const kava_tokenizer *tok, const int64_t *ids, size_t count, unsigned flags,
                                  kava_buffer *out);

typedef struct kava_encoder kava_encoder;
kava_status kava_encoder_new(kava_tokenizer *tok, kava_encoder **out); /* retains tok */
void kava_encoder_release(kava_encoder **encoder);
enum { KAVA_ENCODE_SPECIAL = 1 /* apply the template */, KAVA_ENCODE_REPLACE = 2 /* invalid UTF-8 becomes U+FFFD */ };
/* Appends the ids. KAVA_MISUSE with the byte's offset where text is not valid UTF-8. */
kava_status kava_encode(kava_encoder *encoder, const char *text, size_t length, unsigned flags, kava_ids *out);
/* The same, and to `spans` for each id the bytes of `text` it came from: for byte-level tokens within a character their
 * own bytes; for what normalisation rewrote the whole of what it rewrote; for what is not in the text (a prefix space,
 * the template's ids) an empty span. */
kava_status kava_encode_spans(kava_encoder *encoder, const char *text, size_t length, unsigned flags, kava_ids *out,
                              kava_spans *spans);
#endif

/* spec/fuzz/tokenizer: any bytes as a tokenizer.json, and any bytes as text: what is not UTF-8 is refused or replaced,
 * what is comes back as it was, the scanners written by hand cut as PCRE2 does, each id has a token, and each token a
 * span within the text; with spans the ids are the same as without. */
#include "spec/fuzz/file.h"
#include "text/tokenizer_parts.h"
#include "text/utf8.h"

static const char *const patterns[] = {"gpt2", "llama3", "smollm", "qwen2"};
static kava_encoder *by_hand[4], *by_pcre[4];
static kava_tokenizer *toks[4];

static void must(kava_status st) {
  if (st != KAVA_OK) abort();
}

static void prepare(void) {
  static const char text[] = "the cat's 12 hats, the dog's 345 hats and they'll say: THE END!!!\r\n\n  the cat  ";
  const char *texts[] = {text, text};
  const size_t lengths[] = {sizeof text - 1, sizeof text - 1};
  static const char *const special[] = {"<|a|>", "<|a|>b", NULL};
  for (int i = 0; i < 4; i++) {
    kava_train_options options = {.vocab_size = 300, .pattern = patterns[i], .special = special};
    must(kava_tokenizer_train(texts, lengths, 2, &options, &toks[i]));
    must(kava_encoder_new(toks[i], &by_hand[i]));
    kava_tokenizer *other;
    must(kava_tokenizer_train(texts, lengths, 2, &options, &other));
    for (int n = 0; n < other->splitter.count; n++) other->splitter.steps[n].scanner = KAVA_SCAN_NONE;
    must(kava_encoder_new(other, &by_pcre[i]));
    kava_tokenizer_release(&other);
  }
}

static void try_text(int at, const char *text, size_t length) {
  kava_ids a = {0}, b = {0};
  kava_buffer back = {0};
  bool valid = kava_utf8_valid((const uint8_t *)text, length, NULL) == length;
  if ((kava_encode(by_hand[at], text, length, 0, &a) == KAVA_OK) != valid) abort();
  if (!valid) must(kava_encode(by_hand[at], text, length, KAVA_ENCODE_REPLACE, &a));
  must(kava_encode(by_pcre[at], text, length, KAVA_ENCODE_REPLACE, &b));
  if (a.size != b.size || (a.size && memcmp(a.data, b.data, a.size * sizeof *a.data) != 0)) abort();
  int64_t *ids = malloc((a.size + 1) * sizeof *ids);
  for (size_t i = 0; i < a.size; i++) ids[i] = a.data[i];
  must(kava_tokenizer_decode(toks[at], ids, a.size, 0, &back));
  if (valid && at != 3 && (back.size != length || (length && memcmp(back.data, text, length) != 0))) abort();
  free(ids);
  kava_ids_free(&a);
  kava_ids_free(&b);
  kava_buffer_free(&back);
}

static const char sample[] =
    " the cat's 12\xc2\xa0hats, e\xcc\x81  \xef\xac\x81 \xe2\x96\x81x<0x41>\n\xf0\x9f\x98\x80 \xe4\xb8\xad";

/* Whatever tokenizer came out of a file: it may refuse (a pattern that finds no end), but not contradict itself. */
static void try_any(kava_tokenizer *tok, kava_encoder *encoder, const char *text, size_t length) {
  const unsigned flags = KAVA_ENCODE_SPECIAL | KAVA_ENCODE_REPLACE;
  kava_ids ids = {0}, again = {0};
  kava_spans spans = {0};
  kava_buffer back = {0};
  kava_status st = kava_encode(encoder, text, length, flags, &ids);
  if (kava_encode_spans(encoder, text, length, flags, &again, &spans) != st) abort();
  if (ids.size != again.size || ids.size != spans.size) abort();
  if (ids.size && memcmp(ids.data, again.data, ids.size * sizeof *ids.data) != 0) abort();
  int64_t *wide = malloc((ids.size + 1) * sizeof *wide);
  for (size_t i = 0; i < ids.size; i++) {
    if (!kava_tokenizer_has(tok, ids.data[i])) abort();
    if (spans.data[i].begin > spans.data[i].end || spans.data[i].end > length) abort();
    wide[i] = ids.data[i];
  }
  kava_tokenizer_decode(tok, wide, ids.size, 0, &back);
  if (back.size && kava_utf8_valid(back.data, back.size, NULL) != back.size) abort();
  free(wide);
  kava_ids_free(&ids);
  kava_ids_free(&again);
  kava_spans_free(&spans);
  kava_buffer_free(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (!toks[0]) prepare();
  for (int i = 0; i < 4; i++) try_text(i, (const char *)data, size);
  char path[64];
  int file = fuzz_file(data, size, path);
  kava_tokenizer *tok = NULL;
  if (kava_tokenizer_load(path, &tok) == KAVA_OK) {
    kava_encoder *encoder;
    must(kava_encoder_new(tok, &encoder));
    try_any(tok, encoder, (const char *)data, size < 4096 ? size : 4096);
    try_any(tok, encoder, sample, sizeof sample - 1);
    kava_encoder_release(&encoder);
    kava_tokenizer_release(&tok);
  }
  close(file);
  return 0;
}

/* spec/fuzz/text: any bytes as text: what is not UTF-8 is refused or replaced, what is comes back as it was, and the
 * scanners written by hand cut as PCRE2 does. */
#include "text/tokenizer_parts.h"
#include "text/utf8.h"
#include <stdlib.h>

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (!toks[0]) prepare();
  for (int i = 0; i < 4; i++) try_text(i, (const char *)data, size);
  return 0;
}

/* spec/fuzz/tokenizer: any bytes as a tokenizer.json. What is accepted reads a text: each id has a token, and each
 * token a span within the text; with spans the ids are the same as without; what they decode to is UTF-8. */
#include "spec/fuzz/file.h"
#include "text/tokenizer_parts.h"
#include "text/utf8.h"

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
  kava_tokenizer *tok = NULL;
  if (kava_tokenizer_load(fuzz_file(data, size), &tok) == KAVA_OK) {
    kava_encoder *encoder;
    if (kava_encoder_new(tok, &encoder) != KAVA_OK) abort();
    try_any(tok, encoder, (const char *)data, size < 64 ? size : 64);
    try_any(tok, encoder, sample, sizeof sample - 1);
    kava_encoder_release(&encoder);
    kava_tokenizer_release(&tok);
  }
  return 0;
}

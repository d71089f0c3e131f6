/* text/decoder: from tokens' spellings to text: tokenizer.json's decoders, in order.
 *
 * They work on a list of strings, one a token, as Hugging Face's do; what is left of the list is put end to end. */
#ifndef KAVA_TEXT_DECODER_H
#define KAVA_TEXT_DECODER_H
#include "text/pattern.h"

typedef enum kava_decode_kind {
  KAVA_DECODER_BYTE_LEVEL,    /* the byte-level alphabet is undone, all strings become one */
  KAVA_DECODER_REPLACE,       /* matches of `pattern` in each string become `content` */
  KAVA_DECODER_BYTE_FALLBACK, /* runs of "<0x41>" become their bytes' text, or one U+FFFD each where that is none */
  KAVA_DECODER_FUSE,          /* all strings become one */
  KAVA_DECODER_STRIP,         /* up to `start` and `stop` characters `content` go from each string's ends */
  KAVA_DECODER_METASPACE,     /* `content` becomes a space, or nothing in the first string where `prepended` */
} kava_decode_kind;

typedef struct kava_decode_step {
  kava_decode_kind kind;
  char *content;     /* owned once added */
  const char *match; /* of a model to be added: the pattern's text */
  bool literal, prepended;
  uint32_t start, stop;
  kava_pattern pattern;
} kava_decode_step;

#define KAVA_DECODE_STEPS 16
typedef struct kava_text_decoder {
  kava_decode_step steps[KAVA_DECODE_STEPS];
  int count;
  bool spaced; /* no decoder at all: strings are joined by spaces */
} kava_text_decoder;

kava_status kava_text_decoder_add(kava_text_decoder *decoder, const kava_decode_step *model);
void kava_text_decoder_free(kava_text_decoder *decoder);

/* Strings end to end: string i ends at ends[i]. */
typedef struct kava_strings {
  kava_buffer text;
  kava_ids ends;
} kava_strings;
void kava_strings_free(kava_strings *strings);
kava_status kava_strings_end(kava_strings *strings); /* what was added to `text` since the last is one */

/* Appends the text to `out`. `strings` is used up. */
kava_status kava_text_decoder_run(const kava_text_decoder *decoder, kava_strings *strings, kava_buffer *out);

/* Appends `text`, each maximal ill-formed part of it as one U+FFFD. */
kava_status kava_add_lossy(const uint8_t *text, size_t length, kava_buffer *out);
#endif

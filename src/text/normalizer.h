/* text/normalizer: what happens to text before it is cut: tokenizer.json's normalizers, in order.
 *
 * A normaliser is immutable once built and may be used from many threads, each with its own kava_normal_scratch. */
#ifndef KAVA_TEXT_NORMALIZER_H
#define KAVA_TEXT_NORMALIZER_H
#include "text/aligned.h"
#include "text/pattern.h"

typedef enum kava_normal_kind {
  KAVA_NORMAL_NFC,
  KAVA_NORMAL_NFD,
  KAVA_NORMAL_NFKC,
  KAVA_NORMAL_NFKD,
  KAVA_NORMAL_LOWERCASE,
  KAVA_NORMAL_STRIP,         /* White_Space at the ends; `left`, `right` */
  KAVA_NORMAL_STRIP_ACCENTS, /* combining marks go */
  KAVA_NORMAL_NMT,           /* control characters go, odd spaces become spaces */
  KAVA_NORMAL_PREPEND,       /* `content` in front of what is not empty */
  KAVA_NORMAL_REPLACE,       /* matches of `pattern` become `content` */
  KAVA_NORMAL_CHARSMAP,      /* SentencePiece's precompiled map of graphemes: `content` is its bytes */
} kava_normal_kind;

typedef struct kava_normal {
  kava_normal_kind kind;
  const uint8_t *content; /* owned once added */
  size_t length;
  const char *match; /* of a model to be added: the pattern's text */
  bool literal, left, right;
  kava_pattern pattern;
} kava_normal;

#define KAVA_NORMAL_STEPS 16
typedef struct kava_normalizer {
  kava_normal steps[KAVA_NORMAL_STEPS];
  int count;
} kava_normalizer;

/* Adds a step like `model`; content and pattern are copied. */
kava_status kava_normalizer_add(kava_normalizer *normalizer, const kava_normal *model);
void kava_normalizer_free(kava_normalizer *normalizer);

typedef struct kava_normal_scratch {
  kava_aligned sides[2];
  kava_pattern_scratch pattern;
  kava_buffer stand_ins, part;
} kava_normal_scratch;
void kava_normal_scratch_free(kava_normal_scratch *scratch);

/* *out lives in the scratch (or is *in, where nothing changed) until the next run. Valid UTF-8 gives valid UTF-8. */
kava_status kava_normalizer_run(const kava_normalizer *normalizer, kava_normal_scratch *scratch, const kava_view *in,
                                bool track, kava_view *out);
#endif

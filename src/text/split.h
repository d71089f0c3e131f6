/* text/split: pre-tokenization, the cutting of text into the pieces that BPE merges within.
 *
 * A splitter is a list of steps; each cuts every piece the step before made, as tokenizer.json's pre_tokenizer Sequence
 * does. Patterns run through PCRE2 (JIT, UTF and UCP); the three that nearly every model uses have scanners written by
 * hand, chosen by the pattern's text, which give the same pieces (a spec compares them).
 *
 * A splitter is immutable once built and may be used from many threads, each with its own kava_split_scratch. */
#ifndef KAVA_TEXT_SPLIT_H
#define KAVA_TEXT_SPLIT_H
#include "text/buffer.h"
#include <stdbool.h>

#define KAVA_PATTERN_GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define KAVA_PATTERN_LLAMA3                                                                                            \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"             \
  "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define KAVA_PATTERN_QWEN2                                                                                             \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"                  \
  "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

typedef enum kava_split_kind {
  KAVA_SPLIT_PATTERN,      /* a regular expression */
  KAVA_SPLIT_LITERAL,      /* a string to be found as it is */
  KAVA_SPLIT_DIGITS,       /* numbers apart from all else; each on its own where `individual` */
  KAVA_SPLIT_PREFIX_SPACE, /* a space before a piece that does not begin with one */
} kava_split_kind;

typedef enum kava_scanner { KAVA_SCAN_NONE, KAVA_SCAN_GPT2, KAVA_SCAN_LLAMA3, KAVA_SCAN_QWEN2 } kava_scanner;

typedef struct kava_split {
  kava_split_kind kind;
  char *pattern;
  bool byte_level; /* the step came from ByteLevel's use_regex: saved as such */
  bool removed;    /* what matches is dropped (what does not, where `invert`), else both are pieces */
  bool invert;
  bool individual;
  kava_scanner scanner;
  void *code; /* pcre2_code */
} kava_split;

#define KAVA_SPLIT_STEPS 8
typedef struct kava_splitter {
  kava_split steps[KAVA_SPLIT_STEPS];
  int count;
} kava_splitter;

/* Adds a step like `model` (its kind, pattern and flags); the pattern is copied and compiled. KAVA_UNSUPPORTED where
 * PCRE2 does not accept it. `scanners` allows the hand-written ones. */
kava_status kava_splitter_add(kava_splitter *splitter, const kava_split *model, bool scanners);
void kava_splitter_free(kava_splitter *splitter);

typedef struct kava_split_scratch {
  void *match, *stack, *context; /* pcre2 match data, JIT stack, match context */
  kava_buffer copies[KAVA_SPLIT_STEPS];
} kava_split_scratch;
void kava_split_scratch_free(kava_split_scratch *scratch);

/* Calls fn with each piece of valid UTF-8 in order; pieces live until it returns. A failure of fn ends the walk. */
typedef kava_status (*kava_piece_fn)(void *ctx, const uint8_t *piece, size_t length);
kava_status kava_splitter_run(const kava_splitter *splitter, kava_split_scratch *scratch, const uint8_t *text,
                              size_t length, kava_piece_fn fn, void *ctx);
#endif

/* text/split: pre-tokenization, the cutting of text into the pieces that a model's tokens lie within.
 *
 * A splitter is a list of steps; each cuts every piece the step before made, as tokenizer.json's pre_tokenizer Sequence
 * does. Patterns run through PCRE2 (text/pattern.h); the three that nearly every model uses have scanners written by
 * hand, chosen by the pattern's text, which give the same pieces (a spec compares them).
 *
 * A splitter is immutable once built and may be used from many threads, each with its own kava_split_scratch. */
#ifndef KAVA_TEXT_SPLIT_H
#define KAVA_TEXT_SPLIT_H
#include "text/aligned.h"
#include "text/pattern.h"

#define KAVA_PATTERN_GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define KAVA_PATTERN_LLAMA3                                                                                            \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"             \
  "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define KAVA_PATTERN_QWEN2                                                                                             \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"                  \
  "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* Mistral's Tekken and OpenAI's o200k: like Llama-3, but words end where capitals begin. By PCRE2. */
#define KAVA_UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define KAVA_LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define KAVA_PATTERN_TEKKEN                                                                                            \
  "[^\\r\\n\\p{L}\\p{N}]?" KAVA_UPPER "*" KAVA_LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" KAVA_UPPER "+" KAVA_LOWER              \
  "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define KAVA_CLITIC "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
#define KAVA_PATTERN_O200K                                                                                             \
  "[^\\r\\n\\p{L}\\p{N}]?" KAVA_UPPER "*" KAVA_LOWER "+" KAVA_CLITIC "|[^\\r\\n\\p{L}\\p{N}]?" KAVA_UPPER              \
  "+" KAVA_LOWER "*" KAVA_CLITIC "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

typedef enum kava_split_kind {
  KAVA_SPLIT_PATTERN,      /* a regular expression */
  KAVA_SPLIT_LITERAL,      /* a string to be found as it is */
  KAVA_SPLIT_DIGITS,       /* each number character */
  KAVA_SPLIT_PUNCTUATION,  /* each punctuation character */
  KAVA_SPLIT_SPACES,       /* each White_Space character */
  KAVA_SPLIT_WORDS,        /* runs of \w and runs of what is neither that nor a space; spaces go */
  KAVA_SPLIT_FIXED,        /* every `size` characters */
  KAVA_SPLIT_PREFIX_SPACE, /* no cut: a space before a piece that does not begin with one */
  KAVA_SPLIT_METASPACE,    /* spaces become `text`, which may also be put in front; cuts before each where `cut` */
} kava_split_kind;

typedef enum kava_scanner { KAVA_SCAN_NONE, KAVA_SCAN_GPT2, KAVA_SCAN_LLAMA3, KAVA_SCAN_QWEN2 } kava_scanner;

/* What becomes of a match (of the gaps between matches, where `invert`): dropped, a piece of its own, joined with what
 * is before or behind it, or with its neighbours of the same sort. */
typedef enum kava_behavior {
  KAVA_ISOLATED,
  KAVA_REMOVED,
  KAVA_MERGED_WITH_PREVIOUS,
  KAVA_MERGED_WITH_NEXT,
  KAVA_CONTIGUOUS,
} kava_behavior;
typedef enum kava_prepend { KAVA_PREPEND_ALWAYS, KAVA_PREPEND_FIRST, KAVA_PREPEND_NEVER } kava_prepend;

typedef struct kava_split {
  kava_split_kind kind;
  char *text;      /* the pattern; what METASPACE writes for a space */
  bool byte_level; /* the step came from ByteLevel's use_regex: saved as such */
  kava_behavior behavior;
  bool invert;
  bool cut;
  kava_prepend prepend;
  uint32_t size;
  kava_scanner scanner;
  kava_pattern pattern;
} kava_split;

#define KAVA_SPLIT_STEPS 8
typedef struct kava_splitter {
  kava_split steps[KAVA_SPLIT_STEPS];
  int count;
} kava_splitter;

/* Adds a step like `model` (its kind, text and flags); the text is copied, a pattern compiled. KAVA_UNSUPPORTED where
 * PCRE2 does not accept it. `scanners` allows the hand-written ones. */
kava_status kava_splitter_add(kava_splitter *splitter, const kava_split *model, bool scanners);
void kava_splitter_free(kava_splitter *splitter);

/* `source` is what the pieces given to a kava_piece_fn lie in: the text itself, or a step's copy of it. */
typedef struct kava_split_scratch {
  kava_pattern_scratch pattern;
  kava_buffer stand_ins[KAVA_SPLIT_STEPS];
  kava_aligned copies[KAVA_SPLIT_STEPS];
  kava_view source;
  bool track;
} kava_split_scratch;
void kava_split_scratch_free(kava_split_scratch *scratch);
/* The origin of a piece's bytes [from, to), while it is being handed out by a run that tracks. */
static inline kava_span kava_piece_span(const kava_split_scratch *s, const uint8_t *piece, size_t from, size_t to) {
  size_t at = (size_t)(piece - s->source.text);
  return kava_view_span(&s->source, at + from, at + to);
}

/* Calls fn with each piece of valid UTF-8 in order; pieces live until it returns. A failure of fn ends the walk. */
typedef kava_status (*kava_piece_fn)(void *ctx, const uint8_t *piece, size_t length);
kava_status kava_splitter_run(const kava_splitter *splitter, kava_split_scratch *scratch, const kava_view *text,
                              bool track, kava_piece_fn fn, void *ctx);
#endif

/* text/pattern: the regular expressions and plain strings of tokenizer.json, found in valid UTF-8 by PCRE2 (JIT, UTF,
 * UCP).
 *
 * Hugging Face runs Oniguruma with Ruby's syntax. What the two engines read differently is rewritten (\w, \h) or
 * refused by name (\b, {n,m}+): a pattern that compiles here cuts as it does there. Unicode's later letters and
 * numbers, which Debian's PCRE2 does not know, are shown to it as older ones (text/unicode.h).
 *
 * A pattern is immutable and may be used from many threads, each with its own kava_pattern_scratch. */
#ifndef KAVA_TEXT_PATTERN_H
#define KAVA_TEXT_PATTERN_H
#include "text/buffer.h"
#include <stdbool.h>

typedef struct kava_pattern {
  char *text; /* as given; NULL: none */
  void *code; /* pcre2_code */
  bool literal;
} kava_pattern;
/* KAVA_UNSUPPORTED where PCRE2 does not accept it or would read it otherwise, KAVA_FORMAT where it is not UTF-8. */
kava_status kava_pattern_compile(const char *text, bool literal, kava_pattern *out);
void kava_pattern_free(kava_pattern *pattern);

typedef struct kava_pattern_scratch {
  void *match, *stack, *context; /* pcre2 match data, JIT stack, match context */
  kava_buffer copy;
} kava_pattern_scratch;
void kava_pattern_scratch_free(kava_pattern_scratch *scratch);

/* A walk over the matches in a text. An empty match is given too, unless it is where the last one ended. */
typedef struct kava_matches {
  const kava_pattern *pattern;
  kava_pattern_scratch *scratch;
  const uint8_t *seen;         /* the text as PCRE2 is to see it */
  size_t length, search, last; /* last: the end of the match before */
  bool any;
} kava_matches;
/* `copy`: where stand-ins go when there are any; it lives as long as the walk. */
kava_status kava_matches_begin(kava_matches *walk, const kava_pattern *pattern, kava_pattern_scratch *scratch,
                               kava_buffer *copy, const uint8_t *text, size_t length);
/* *found: whether there is another, at [*begin, *end). */
kava_status kava_matches_next(kava_matches *walk, bool *found, size_t *begin, size_t *end);
#endif

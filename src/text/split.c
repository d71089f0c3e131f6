#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/split.h"
#include "text/unicode.h"
#include "text/utf8.h"
#include <pcre2.h>

kava_status kava_splitter_add(kava_splitter *splitter, const kava_split *model, bool scanners) {
  if (splitter->count == KAVA_SPLIT_STEPS) return kava_fail(KAVA_UNSUPPORTED, "more than %d steps", KAVA_SPLIT_STEPS);
  kava_unicode_init();
  kava_split step = *model;
  step.pattern = NULL;
  step.code = NULL;
  step.scanner = KAVA_SCAN_NONE;
  if (step.kind == KAVA_SPLIT_PATTERN || step.kind == KAVA_SPLIT_LITERAL) {
    if (!model->pattern[0]) return kava_fail(KAVA_UNSUPPORTED, "an empty pattern");
    if (!(step.pattern = kava_strdup(model->pattern))) return KAVA_MEMORY;
    int error;
    PCRE2_SIZE at;
    /* Hugging Face runs Oniguruma, where ^ and $ always match at lines */
    uint32_t options = PCRE2_UTF | PCRE2_NO_UTF_CHECK;
    options |= step.kind == KAVA_SPLIT_LITERAL ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE;
    size_t length = strlen(step.pattern);
    if (kava_utf8_valid((const uint8_t *)step.pattern, length, NULL) != length) {
      kava_free(step.pattern);
      return kava_fail(KAVA_FORMAT, "the pattern is not valid UTF-8");
    }
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)step.pattern, length, options, &error, &at, NULL);
    if (!code) {
      PCRE2_UCHAR why[128];
      pcre2_get_error_message(error, why, sizeof why);
      kava_free(step.pattern);
      return kava_fail(KAVA_UNSUPPORTED, "pattern '%.80s', byte %zu: %s", model->pattern, (size_t)at,
                       (const char *)why);
    }
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* where there is no JIT, pcre2_match interprets */
    step.code = code;
    if (step.kind == KAVA_SPLIT_PATTERN && scanners) {
      if (!strcmp(step.pattern, KAVA_PATTERN_GPT2)) step.scanner = KAVA_SCAN_GPT2;
      if (!strcmp(step.pattern, KAVA_PATTERN_LLAMA3)) step.scanner = KAVA_SCAN_LLAMA3;
      if (!strcmp(step.pattern, KAVA_PATTERN_QWEN2)) step.scanner = KAVA_SCAN_QWEN2;
    }
  }
  splitter->steps[splitter->count++] = step;
  return KAVA_OK;
}

void kava_splitter_free(kava_splitter *splitter) {
  for (int i = 0; i < splitter->count; i++) {
    kava_free(splitter->steps[i].pattern);
    pcre2_code_free(splitter->steps[i].code);
  }
  *splitter = (kava_splitter){0};
}

void kava_split_scratch_free(kava_split_scratch *s) {
  pcre2_match_data_free(s->match);
  pcre2_match_context_free(s->context);
  pcre2_jit_stack_free(s->stack);
  for (int i = 0; i < KAVA_SPLIT_STEPS; i++) kava_buffer_free(&s->copies[i]);
  *s = (kava_split_scratch){0};
}

/* ---- scanners: the length of the piece at p (p < end) */

static inline int class_at(const uint8_t *p, size_t *n) {
  if (*p < 0x80) {
    *n = 1;
    return kava_char_table[*p];
  }
  return kava_char_class(kava_utf8_read(p, n));
}

static inline const uint8_t *run_of(const uint8_t *p, const uint8_t *end, int class) {
  while (p < end) {
    size_t n;
    if (class_at(p, &n) != class) break;
    p += n;
  }
  return p;
}

/* \s+(?!\S)|\s+ : a run of spaces, without its last where something follows and it is not the only one. *newline gets
 * the place behind the run's last CR or LF. */
static inline const uint8_t *run_of_spaces(const uint8_t *p, const uint8_t *end, const uint8_t **newline) {
  const uint8_t *start = p, *last = p;
  *newline = NULL;
  while (p < end) {
    size_t n;
    int class = class_at(p, &n);
    if (class < KAVA_CHAR_SPACE) break;
    last = p;
    p += n;
    if (class == KAVA_CHAR_NEWLINE) *newline = p;
  }
  return p == end || last == start ? p : last;
}

static size_t scan_gpt2(const uint8_t *p, const uint8_t *end) {
  if (*p == '\'' && end - p >= 2) {
    uint8_t a = p[1], b = end - p >= 3 ? p[2] : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  }
  const uint8_t *q = p + (*p == ' ');
  size_t n;
  if (q < end) {
    int class = class_at(q, &n);
    if (class < KAVA_CHAR_SPACE) return (size_t)(run_of(q + n, end, class) - p);
  }
  const uint8_t *newline;
  return (size_t)(run_of_spaces(p, end, &newline) - p);
}

/* Llama-3's pattern, and Qwen2's, whose numbers have one digit instead of up to three. */
static inline size_t scan_llama3(const uint8_t *p, const uint8_t *end, int digits) {
  if (*p == '\'' && end - p >= 2) {
    uint8_t a = p[1] | 0x20, b = end - p >= 3 ? p[2] | 0x20 : 0;
    if (p[1] < 0x80 && (a == 's' || a == 't' || a == 'm' || a == 'd')) return 2;
    if (end - p >= 3 && p[1] < 0x80 && p[2] < 0x80 &&
        ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')))
      return 3;
    if (end - p >= 3 && p[1] == 0xc5 && p[2] == 0xbf) return 3; /* the long s, a case of s */
  }
  size_t n, m;
  int class = class_at(p, &n);
  if (class == KAVA_CHAR_LETTER) return (size_t)(run_of(p + n, end, KAVA_CHAR_LETTER) - p);
  if ((class == KAVA_CHAR_OTHER || class == KAVA_CHAR_SPACE) && p + n < end && class_at(p + n, &m) == KAVA_CHAR_LETTER)
    return (size_t)(run_of(p + n + m, end, KAVA_CHAR_LETTER) - p);
  if (class == KAVA_CHAR_NUMBER) {
    const uint8_t *q = p + n;
    for (int i = 1; i < digits && q < end && class_at(q, &m) == KAVA_CHAR_NUMBER; i++) q += m;
    return (size_t)(q - p);
  }
  const uint8_t *q = p + (*p == ' ');
  if (q < end && class_at(q, &m) == KAVA_CHAR_OTHER) {
    q = run_of(q + m, end, KAVA_CHAR_OTHER);
    while (q < end && (*q == '\r' || *q == '\n')) q++;
    return (size_t)(q - p);
  }
  const uint8_t *newline, *stop = run_of_spaces(p, end, &newline);
  return (size_t)((newline ? newline : stop) - p);
}

/* ---- the walk over steps */

typedef struct walk {
  const kava_splitter *splitter;
  kava_split_scratch *scratch;
  kava_piece_fn fn;
  void *ctx;
} walk;

static kava_status run_step(const walk *w, int at, const uint8_t *text, size_t length);

static inline kava_status pass_on(const walk *w, int at, const uint8_t *text, size_t length) {
  return at + 1 == w->splitter->count ? w->fn(w->ctx, text, length) : run_step(w, at + 1, text, length);
}

static kava_status run_scanner(const walk *w, int at, const uint8_t *text, size_t length) {
  const kava_split *step = &w->splitter->steps[at];
  const uint8_t *end = text + length;
  kava_status st = KAVA_OK;
  while (text < end && st == KAVA_OK) {
    size_t n = step->scanner == KAVA_SCAN_GPT2     ? scan_gpt2(text, end)
               : step->scanner == KAVA_SCAN_LLAMA3 ? scan_llama3(text, end, 3)
                                                   : scan_llama3(text, end, 1);
    st = pass_on(w, at, text, n);
    text += n;
  }
  return st;
}

/* Digits' notion of a number comes from Rust, whose Unicode is newer than Oniguruma's. */
static inline bool numeric_at(const uint8_t *p, size_t *n) {
  if (class_at(p, n) == KAVA_CHAR_NUMBER) return true;
  if (*n != 4) return false;
  uint32_t c = kava_utf8_read(p, n);
  return (c >= 0x11de0 && c <= 0x11de9) || (c >= 0x16ff4 && c <= 0x16ff6);
}

static kava_status run_digits(const walk *w, int at, const uint8_t *text, size_t length) {
  bool individual = w->splitter->steps[at].individual;
  const uint8_t *end = text + length, *p = text;
  kava_status st = KAVA_OK;
  while (p < end && st == KAVA_OK) {
    size_t n;
    bool number = numeric_at(p, &n);
    const uint8_t *q = p + n;
    if (!number || !individual)
      while (q < end && numeric_at(q, &n) == number) q += n;
    st = pass_on(w, at, p, (size_t)(q - p));
    p = q;
  }
  return st;
}

static kava_status run_prefix_space(const walk *w, int at, const uint8_t *text, size_t length) {
  if (length == 0 || text[0] == ' ') return pass_on(w, at, text, length);
  kava_buffer *copy = &w->scratch->copies[at];
  copy->size = 0;
  kava_status st = kava_buffer_add(copy, " ", 1);
  if (st == KAVA_OK) st = kava_buffer_add(copy, text, length);
  return st == KAVA_OK ? pass_on(w, at, copy->data, copy->size) : st;
}

/* The text as PCRE2 is to see it: the same, or a copy with stand-ins for the characters it would classify otherwise. */
static kava_status stand_ins(kava_buffer *copy, const uint8_t *text, size_t length, const uint8_t **out) {
  *out = text;
  for (size_t i = 0, n = 1; i < length; i += n) {
    n = 1;
    if (text[i] < 0xe1) { /* below U+1000 nothing differs */
      continue;
    }
    uint32_t c = kava_utf8_read(text + i, &n), other = kava_char_stand_in(c);
    if (c == other) continue;
    if (*out == text) {
      copy->size = 0;
      kava_status st = kava_buffer_add(copy, text, length);
      if (st != KAVA_OK) return st;
      *out = copy->data;
    }
    kava_utf8_write(other, copy->data + i);
  }
  return KAVA_OK;
}

static kava_status prepare_match(kava_split_scratch *s) {
  if (s->match) return KAVA_OK;
  s->stack = pcre2_jit_stack_create(32 * 1024, 4 * 1024 * 1024, NULL);
  s->context = pcre2_match_context_create(NULL);
  s->match = pcre2_match_data_create(1, NULL);
  if (!s->stack || !s->context || !s->match) {
    kava_split_scratch_free(s);
    return kava_fail(KAVA_MEMORY, "out of memory");
  }
  pcre2_jit_stack_assign(s->context, NULL, s->stack);
  return KAVA_OK;
}

static kava_status run_pattern(const walk *w, int at, const uint8_t *text, size_t length) {
  const kava_split *step = &w->splitter->steps[at];
  const uint8_t *seen = text;
  kava_status st = prepare_match(w->scratch);
  if (st == KAVA_OK && step->kind == KAVA_SPLIT_PATTERN) st = stand_ins(&w->scratch->copies[at], text, length, &seen);
  bool keep_match = !step->removed || step->invert, keep_gap = !step->removed || !step->invert;
  size_t from = 0, search = 0; /* the gap's begin; where to look on */
  while (st == KAVA_OK && search <= length) {
    int found =
        pcre2_match(step->code, seen, length, search, PCRE2_NO_UTF_CHECK, w->scratch->match, w->scratch->context);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      PCRE2_UCHAR why[128];
      pcre2_get_error_message(found, why, sizeof why);
      return kava_fail(KAVA_UNSUPPORTED, "pattern '%.60s' at byte %zu of %zu: %s", step->pattern, search, length,
                       (const char *)why);
    }
    const PCRE2_SIZE *pair = pcre2_get_ovector_pointer(w->scratch->match);
    size_t begin = pair[0], end = pair[1];
    if (end < begin) return kava_fail(KAVA_UNSUPPORTED, "pattern '%.60s': \\K is not supported", step->pattern);
    if (begin > from && keep_gap) st = pass_on(w, at, text + from, begin - from);
    if (st == KAVA_OK && end > begin && keep_match) st = pass_on(w, at, text + begin, end - begin);
    from = search = end;
    if (end == begin) { /* an empty match only cuts */
      size_t n = 1;
      if (end < length) kava_utf8_read(text + end, &n);
      search += n;
    }
  }
  if (st == KAVA_OK && from < length && keep_gap) st = pass_on(w, at, text + from, length - from);
  return st;
}

static kava_status run_step(const walk *w, int at, const uint8_t *text, size_t length) {
  const kava_split *step = &w->splitter->steps[at];
  switch (step->kind) {
  case KAVA_SPLIT_PATTERN:
  case KAVA_SPLIT_LITERAL:
    /* the scanners' patterns leave no gap, so that Removed with invert is the same as Isolated */
    if (step->scanner != KAVA_SCAN_NONE && (!step->removed || step->invert)) return run_scanner(w, at, text, length);
    return run_pattern(w, at, text, length);
  case KAVA_SPLIT_DIGITS: return run_digits(w, at, text, length);
  case KAVA_SPLIT_PREFIX_SPACE: return run_prefix_space(w, at, text, length);
  }
  return KAVA_OK;
}

kava_status kava_splitter_run(const kava_splitter *splitter, kava_split_scratch *scratch, const uint8_t *text,
                              size_t length, kava_piece_fn fn, void *ctx) {
  if (length == 0) return KAVA_OK;
  if (splitter->count == 0) return fn(ctx, text, length);
  walk w = {splitter, scratch, fn, ctx};
  return run_step(&w, 0, text, length);
}

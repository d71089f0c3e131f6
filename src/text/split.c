#include "text/split.h"
#include "text/unicode.h"
#include "text/utf8.h"

kava_status kava_splitter_add(kava_splitter *splitter, const kava_split *model, bool scanners) {
  if (splitter->count == KAVA_SPLIT_STEPS) return kava_fail(KAVA_UNSUPPORTED, "more than %d steps", KAVA_SPLIT_STEPS);
  kava_unicode_init();
  kava_split step = *model;
  step.text = NULL;
  step.pattern = (kava_pattern){0};
  step.scanner = KAVA_SCAN_NONE;
  if (model->text && !(step.text = kava_strdup(model->text))) return KAVA_MEMORY;
  if (step.kind == KAVA_SPLIT_PATTERN || step.kind == KAVA_SPLIT_LITERAL) {
    kava_status st = kava_pattern_compile(step.text, step.kind == KAVA_SPLIT_LITERAL, &step.pattern);
    if (st != KAVA_OK) {
      kava_free(step.text);
      return st;
    }
    /* their patterns leave no gap, so that Removed with invert is the same as Isolated */
    bool plain = step.behavior == KAVA_ISOLATED || (step.behavior == KAVA_REMOVED && step.invert);
    if (step.kind == KAVA_SPLIT_PATTERN && scanners && plain) {
      if (!strcmp(step.text, KAVA_PATTERN_GPT2)) step.scanner = KAVA_SCAN_GPT2;
      if (!strcmp(step.text, KAVA_PATTERN_LLAMA3)) step.scanner = KAVA_SCAN_LLAMA3;
      if (!strcmp(step.text, KAVA_PATTERN_QWEN2)) step.scanner = KAVA_SCAN_QWEN2;
    }
  }
  splitter->steps[splitter->count++] = step;
  return KAVA_OK;
}

void kava_splitter_free(kava_splitter *splitter) {
  for (int i = 0; i < splitter->count; i++) {
    kava_free(splitter->steps[i].text);
    kava_pattern_free(&splitter->steps[i].pattern);
  }
  *splitter = (kava_splitter){0};
}

void kava_split_scratch_free(kava_split_scratch *s) {
  kava_pattern_scratch_free(&s->pattern);
  for (int i = 0; i < KAVA_SPLIT_STEPS; i++) {
    kava_buffer_free(&s->stand_ins[i]);
    kava_aligned_free(&s->copies[i]);
  }
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

/* ---- matches and gaps, joined as the step's behaviour has it */

typedef struct joiner {
  const walk *w;
  int at;
  const uint8_t *text;
  size_t begin, end; /* the piece that may still grow */
  bool open, was_match;
} joiner;

static kava_status flush(joiner *j) {
  if (!j->open) return KAVA_OK;
  j->open = false;
  return pass_on(j->w, j->at, j->text + j->begin, j->end - j->begin);
}

/* The next stretch, a match or a gap; in order and without holes. */
static kava_status join(joiner *j, size_t begin, size_t end, bool match) {
  const kava_split *step = &j->w->splitter->steps[j->at];
  if (begin == end) return KAVA_OK;
  match ^= step->invert;
  bool grow = false, wait = false;
  switch (step->behavior) {
  case KAVA_ISOLATED: break;
  case KAVA_REMOVED:
    if (match) return KAVA_OK;
    break;
  case KAVA_CONTIGUOUS:
    grow = j->open && match == j->was_match;
    wait = true;
    break;
  case KAVA_MERGED_WITH_PREVIOUS:
    grow = j->open && match && !j->was_match;
    wait = true;
    break;
  case KAVA_MERGED_WITH_NEXT:
    grow = j->open && !match; /* only matches wait */
    wait = match;
    break;
  }
  j->was_match = match;
  if (!grow) {
    kava_status st = flush(j);
    if (st != KAVA_OK) return st;
    j->begin = begin;
  }
  j->end = end;
  j->open = true;
  return wait ? KAVA_OK : flush(j);
}

static kava_status run_pattern(const walk *w, int at, const uint8_t *text, size_t length) {
  const kava_split *step = &w->splitter->steps[at];
  joiner j = {.w = w, .at = at, .text = text};
  kava_matches matches;
  size_t from = 0, begin, end;
  bool found = true;
  kava_status st =
      kava_matches_begin(&matches, &step->pattern, &w->scratch->pattern, &w->scratch->stand_ins[at], text, length);
  while (st == KAVA_OK && (st = kava_matches_next(&matches, &found, &begin, &end)) == KAVA_OK && found) {
    st = join(&j, from, begin, false);
    if (st == KAVA_OK) st = join(&j, begin, end, true);
    from = end;
  }
  if (st == KAVA_OK) st = join(&j, from, length, false);
  return st == KAVA_OK ? flush(&j) : st;
}

/* Digits' notion of a number comes from Rust, whose Unicode is newer than Oniguruma's. */
static inline bool numeric_at(const uint8_t *p, size_t *n) {
  if (class_at(p, n) == KAVA_CHAR_NUMBER) return true;
  if (*n != 4) return false;
  uint32_t c = kava_utf8_read(p, n);
  return (c >= 0x11de0 && c <= 0x11de9) || (c >= 0x16ff4 && c <= 0x16ff6);
}

static inline bool matches_char(kava_split_kind kind, const uint8_t *p, size_t *n) {
  if (kind == KAVA_SPLIT_DIGITS) return numeric_at(p, n);
  uint32_t c = kava_utf8_read(p, n);
  return kind == KAVA_SPLIT_SPACES ? kava_char_is_space(c) : kava_char_is_punctuation(c);
}

static kava_status run_chars(const walk *w, int at, const uint8_t *text, size_t length) {
  const kava_split *step = &w->splitter->steps[at];
  joiner j = {.w = w, .at = at, .text = text};
  kava_status st = KAVA_OK;
  for (size_t i = 0, n; i < length && st == KAVA_OK;) {
    bool match = matches_char(step->kind, text + i, &n);
    size_t end = i + n;
    if (!match) /* a gap is one stretch, a match one character */
      while (end < length && !matches_char(step->kind, text + end, &n)) end += n;
    st = join(&j, i, end, match);
    i = end;
  }
  return st == KAVA_OK ? flush(&j) : st;
}

static int word_class(const uint8_t *p, size_t *n) {
  uint32_t c = kava_utf8_read(p, n);
  return kava_char_is_word(c) ? 1 : kava_char_is_space(c) ? 0 : 2;
}

static kava_status run_words(const walk *w, int at, const uint8_t *text, size_t length) {
  kava_status st = KAVA_OK;
  for (size_t i = 0, n; i < length && st == KAVA_OK;) {
    int class = word_class(text + i, &n);
    size_t end = i + n;
    while (end < length && word_class(text + end, &n) == class) end += n;
    if (class) st = pass_on(w, at, text + i, end - i);
    i = end;
  }
  return st;
}

static kava_status run_fixed(const walk *w, int at, const uint8_t *text, size_t length) {
  uint32_t size = w->splitter->steps[at].size;
  kava_status st = KAVA_OK;
  for (size_t i = 0, n; i < length && st == KAVA_OK;) {
    size_t end = i;
    for (uint32_t k = 0; k < size && end < length; k++) {
      kava_utf8_read(text + end, &n);
      end += n;
    }
    st = pass_on(w, at, text + i, end - i);
    i = end;
  }
  return st;
}

/* ---- steps that rewrite: what follows them walks over their copy */

static kava_status run_prefix_space(const walk *w, int at, const uint8_t *text, size_t length) {
  if (length == 0 || text[0] == ' ') return pass_on(w, at, text, length);
  kava_split_scratch *s = w->scratch;
  kava_aligned *copy = &s->copies[at];
  kava_view before = s->source,
            piece = kava_view_part(&before, (size_t)(text - before.text), (size_t)(text - before.text) + length);
  kava_aligned_clear(copy, s->track);
  kava_status st = kava_aligned_put(copy, " ", 1, kava_view_span(&piece, 0, 0));
  if (st == KAVA_OK) st = kava_aligned_copy(copy, &piece, 0, length);
  if (st != KAVA_OK) return st;
  s->source = kava_aligned_view(copy, kava_view_span(&piece, 0, 0).begin);
  st = pass_on(w, at, s->source.text, s->source.length);
  s->source = before;
  return st;
}

static kava_status run_metaspace(const walk *w, int at, const uint8_t *text, size_t length) {
  const kava_split *step = &w->splitter->steps[at];
  kava_split_scratch *s = w->scratch;
  kava_aligned *copy = &s->copies[at];
  kava_view before = s->source,
            piece = kava_view_part(&before, (size_t)(text - before.text), (size_t)(text - before.text) + length);
  size_t mark = strlen(step->text), from = 0;
  kava_status st = KAVA_OK;
  kava_aligned_clear(copy, s->track);
  bool begins = text[0] == ' ' || (length >= mark && !memcmp(text, step->text, mark));
  if (!begins && (step->prepend == KAVA_PREPEND_ALWAYS ||
                  (step->prepend == KAVA_PREPEND_FIRST && kava_view_span(&piece, 0, 0).begin == 0)))
    st = kava_aligned_put(copy, step->text, mark, kava_view_span(&piece, 0, 0));
  while (st == KAVA_OK && from < length) {
    const uint8_t *space = memchr(text + from, ' ', length - from);
    size_t to = space ? (size_t)(space - text) : length;
    st = kava_aligned_copy(copy, &piece, from, to);
    if (space && st == KAVA_OK) st = kava_aligned_put(copy, step->text, mark, kava_view_span(&piece, to, to + 1));
    from = to + 1;
  }
  if (st != KAVA_OK) return st;
  s->source = kava_aligned_view(copy, kava_view_span(&piece, 0, 0).begin);
  const uint8_t *p = s->source.text, *end = p + s->source.length;
  while (p < end && st == KAVA_OK) {
    const uint8_t *next = end;
    if (step->cut) {
      const uint8_t *search = p + ((size_t)(end - p) >= mark && !memcmp(p, step->text, mark) ? mark : 1);
      if (search < end) next = memmem(search, (size_t)(end - search), step->text, mark);
      if (!next) next = end;
    }
    st = pass_on(w, at, p, (size_t)(next - p));
    p = next;
  }
  s->source = before;
  return st;
}

static kava_status run_step(const walk *w, int at, const uint8_t *text, size_t length) {
  const kava_split *step = &w->splitter->steps[at];
  switch (step->kind) {
  case KAVA_SPLIT_PATTERN:
  case KAVA_SPLIT_LITERAL:
    return step->scanner != KAVA_SCAN_NONE ? run_scanner(w, at, text, length) : run_pattern(w, at, text, length);
  case KAVA_SPLIT_DIGITS:
  case KAVA_SPLIT_PUNCTUATION:
  case KAVA_SPLIT_SPACES: return run_chars(w, at, text, length);
  case KAVA_SPLIT_WORDS: return run_words(w, at, text, length);
  case KAVA_SPLIT_FIXED: return run_fixed(w, at, text, length);
  case KAVA_SPLIT_PREFIX_SPACE: return run_prefix_space(w, at, text, length);
  case KAVA_SPLIT_METASPACE: return run_metaspace(w, at, text, length);
  }
  return KAVA_OK;
}

kava_status kava_splitter_run(const kava_splitter *splitter, kava_split_scratch *scratch, const kava_view *text,
                              bool track, kava_piece_fn fn, void *ctx) {
  if (text->length == 0) return KAVA_OK;
  scratch->source = *text;
  scratch->track = track;
  walk w = {splitter, scratch, fn, ctx};
  return splitter->count == 0 ? fn(ctx, text->text, text->length) : run_step(&w, 0, text->text, text->length);
}

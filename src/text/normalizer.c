#include "text/normalizer.h"
#include "text/unicode.h"
#include "text/utf8.h"

/* ---- SentencePiece's map: a little-endian word (the trie's size in bytes), the trie, a double array in the layout of
 * Darts-clone, then the replacements, each ended by a NUL, to which the trie's values are offsets. */

typedef struct charsmap {
  const uint8_t *units;
  size_t count; /* units */
  const uint8_t *texts;
  size_t size;
} charsmap;

static uint32_t read_u32(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static charsmap parts_of(const uint8_t *data, size_t size) {
  uint32_t bytes = read_u32(data);
  return (charsmap){data + 4, bytes / 4, data + 4 + bytes, size - 4 - bytes};
}

static bool is_charsmap(const uint8_t *data, size_t size) {
  if (size < 8) return false;
  uint32_t bytes = read_u32(data);
  if (bytes % 4 != 0 || bytes < 4 || bytes > size - 4) return false;
  charsmap map = parts_of(data, size);
  return (map.size == 0 || map.texts[map.size - 1] == 0) && kava_utf8_valid(map.texts, map.size, NULL) == map.size;
}

/* What the shortest prefix of `key` that the map knows becomes; false where it knows none. (The shortest, and for the
 * whole key: so SentencePiece's users have it.) */
static bool look_up(const charsmap *map, const uint8_t *key, size_t length, const uint8_t **text, size_t *size) {
  size_t at = 0;
  uint32_t unit = read_u32(map->units);
  at ^= (unit >> 10) << ((unit & 0x200) >> 6);
  for (size_t i = 0; i < length && key[i]; i++) {
    at ^= key[i];
    if (at >= map->count) return false;
    unit = read_u32(map->units + 4 * at);
    if ((unit & 0x800000ffu) != key[i]) return false;
    at ^= (unit >> 10) << ((unit & 0x200) >> 6);
    if (!(unit >> 8 & 1)) continue;
    if (at >= map->count) return false;
    uint32_t value = read_u32(map->units + 4 * at) & 0x7fffffff;
    if (value >= map->size || (value > 0 && (map->texts[value] & 0xc0) == 0x80)) return false;
    *text = map->texts + value;
    *size = strlen((const char *)*text);
    return true;
  }
  return false;
}

/* ---- building */

kava_status kava_normalizer_add(kava_normalizer *normalizer, const kava_normal *model) {
  if (normalizer->count == KAVA_NORMAL_STEPS)
    return kava_fail(KAVA_UNSUPPORTED, "more than %d normalizers", KAVA_NORMAL_STEPS);
  kava_normal step = *model;
  step.match = NULL;
  step.content = NULL;
  step.pattern = (kava_pattern){0};
  if (step.kind == KAVA_NORMAL_CHARSMAP && !is_charsmap(model->content, model->length))
    return kava_fail(KAVA_FORMAT, "precompiled_charsmap: not a map of characters as SentencePiece writes it");
  if (model->match) {
    kava_status st = kava_pattern_compile(model->match, model->literal, &step.pattern);
    if (st != KAVA_OK) return st;
  }
  uint8_t *content = kava_alloc(model->length + 1);
  if (!content) {
    kava_pattern_free(&step.pattern);
    return KAVA_MEMORY;
  }
  if (model->length) memcpy(content, model->content, model->length);
  content[model->length] = 0;
  step.content = content;
  normalizer->steps[normalizer->count++] = step;
  return KAVA_OK;
}

void kava_normalizer_free(kava_normalizer *normalizer) {
  for (int i = 0; i < normalizer->count; i++) {
    kava_free((void *)(uintptr_t)normalizer->steps[i].content);
    kava_pattern_free(&normalizer->steps[i].pattern);
  }
  *normalizer = (kava_normalizer){0};
}

void kava_normal_scratch_free(kava_normal_scratch *s) {
  kava_aligned_free(&s->sides[0]);
  kava_aligned_free(&s->sides[1]);
  kava_pattern_scratch_free(&s->pattern);
  kava_buffer_free(&s->stand_ins);
  kava_buffer_free(&s->part);
}

/* ---- the steps; each writes the whole of `in` into `out`, rewritten */

/* Unicode's normal forms, by stretches from one character that cannot join what lies before it to the next. What a
 * stretch becomes has the whole stretch for its origin, unless it stays as it is. */
static kava_status normal_form(kava_normal_scratch *s, kava_normal_kind kind, const kava_view *in, kava_aligned *out) {
  static const kava_form forms[] = {KAVA_NFC, KAVA_NFD, KAVA_NFKC, KAVA_NFKD};
  kava_status st = KAVA_OK;
  for (size_t i = 0, n; i < in->length && st == KAVA_OK;) {
    size_t plain = i; /* ASCII is in every form, but its last character may be joined by what follows */
    while (plain < in->length && in->text[plain] < 0x80) plain++;
    if (plain == in->length) return kava_aligned_copy(out, in, i, plain);
    if (plain > i + 1) {
      st = kava_aligned_copy(out, in, i, plain - 1);
      i = plain - 1;
      continue;
    }
    if (kava_char_stands_alone(kava_utf8_read(in->text + i, &n))) {
      st = kava_aligned_copy(out, in, i, i + n);
      i += n;
      continue;
    }
    size_t end = i;
    do {
      kava_utf8_read(in->text + end, &n);
      end += n;
    } while (end < in->length && !kava_char_starts(kava_utf8_read(in->text + end, &n)));
    bool changed;
    s->part.size = 0;
    st = kava_normal_form(in->text + i, end - i, forms[kind - KAVA_NORMAL_NFC], &s->part, &changed);
    if (st == KAVA_OK)
      st = changed ? kava_aligned_put(out, s->part.data, s->part.size, kava_view_span(in, i, end))
                   : kava_aligned_copy(out, in, i, end);
    i = end;
  }
  return st;
}

static kava_status put_char(kava_aligned *out, uint32_t c, kava_span span) {
  uint8_t bytes[4];
  size_t n = kava_utf8_write(c, bytes);
  return kava_aligned_put(out, bytes, n, span);
}

static bool nmt_drops(uint32_t c) {
  return (c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f || c == 0x9f;
}

static uint32_t nmt_maps(uint32_t c) {
  bool space = c == 9 || c == 10 || c == 12 || c == 13 || c == 0x1680 || (c >= 0x200b && c <= 0x200f) || c == 0x2028 ||
               c == 0x2029 || c == 0x2581 || c == 0xfeff || c == 0xfffd;
  return space ? ' ' : c;
}

static kava_status by_char(kava_normal_kind kind, const kava_view *in, kava_aligned *out) {
  kava_status st = KAVA_OK;
  for (size_t i = 0, n; i < in->length && st == KAVA_OK; i += n) {
    uint32_t c = kava_utf8_read(in->text + i, &n), other = c;
    if (kind == KAVA_NORMAL_STRIP_ACCENTS && kava_char_is_mark(c)) continue;
    if (kind == KAVA_NORMAL_NMT) {
      if (nmt_drops(c)) continue;
      other = nmt_maps(c);
    }
    if (kind == KAVA_NORMAL_LOWERCASE) {
      other = kava_char_lower(c);
      if (c == 0x130) { /* the one character whose lower case has two */
        st = kava_aligned_put(out, "i\xcc\x87", 3, kava_view_span(in, i, i + n));
        continue;
      }
    }
    st = other == c ? kava_aligned_copy(out, in, i, i + n) : put_char(out, other, kava_view_span(in, i, i + n));
  }
  return st;
}

static kava_status strip(const kava_normal *step, const kava_view *in, kava_aligned *out) {
  size_t from = 0, to = in->length, n;
  while (step->left && from < to && kava_char_is_space(kava_utf8_read(in->text + from, &n))) from += n;
  while (step->right && to > from && kava_char_is_space(kava_utf8_read_before(in->text + to, &n))) to -= n;
  return kava_aligned_copy(out, in, from, to);
}

/* One byte by something else: SentencePiece's spaces, where most of the text's time would go. */
static kava_status replace_byte(const kava_normal *step, const kava_view *in, kava_aligned *out) {
  kava_status st = kava_buffer_grow(&out->text, in->length + in->length / 2 + 16);
  for (size_t from = 0; st == KAVA_OK;) {
    const uint8_t *at = memchr(in->text + from, step->pattern.text[0], in->length - from);
    size_t to = at ? (size_t)(at - in->text) : in->length;
    st = kava_aligned_copy(out, in, from, to);
    if (!at) break;
    if (st == KAVA_OK) st = kava_aligned_put(out, step->content, step->length, kava_view_span(in, to, to + 1));
    from = to + 1;
  }
  return st;
}

static kava_status replace(kava_normal_scratch *s, const kava_normal *step, const kava_view *in, kava_aligned *out) {
  if (step->literal && (uint8_t)step->pattern.text[0] < 0x80 && !step->pattern.text[1])
    return replace_byte(step, in, out);
  kava_matches matches;
  size_t from = 0, begin, end;
  bool found = true;
  kava_status st = kava_matches_begin(&matches, &step->pattern, &s->pattern, &s->stand_ins, in->text, in->length);
  while (st == KAVA_OK && (st = kava_matches_next(&matches, &found, &begin, &end)) == KAVA_OK && found) {
    size_t last = end, n = 0; /* what replaces a match comes from its last character, as Hugging Face counts */
    if (end > begin) kava_utf8_read_before(in->text + end, &n);
    last -= n;
    st = kava_aligned_copy(out, in, from, begin);
    if (st == KAVA_OK) st = kava_aligned_put(out, step->content, step->length, kava_view_span(in, last, end));
    from = end;
  }
  return st == KAVA_OK ? kava_aligned_copy(out, in, from, in->length) : st;
}

/* A short grapheme as a whole where the map knows it, else its characters one by one. */
static kava_status map_chars(const kava_normal *step, const kava_view *in, kava_aligned *out) {
  kava_status st = KAVA_OK;
  charsmap map = parts_of(step->content, step->length);
  const uint8_t *text;
  size_t size;
  for (size_t i = 0; i < in->length && st == KAVA_OK;) {
    size_t end = i + kava_grapheme(in->text + i, in->length - i);
    if (end - i < 6 && look_up(&map, in->text + i, end - i, &text, &size)) {
      st = kava_aligned_put(out, text, size, kava_view_span(in, i, end));
      i = end;
    }
    for (size_t n; i < end && st == KAVA_OK; i += n) {
      kava_utf8_read(in->text + i, &n);
      st = look_up(&map, in->text + i, n, &text, &size)
               ? kava_aligned_put(out, text, size, kava_view_span(in, i, i + n))
               : kava_aligned_copy(out, in, i, i + n);
    }
  }
  return st;
}

static kava_status run_step(const kava_normal *step, kava_normal_scratch *s, const kava_view *in, kava_aligned *out) {
  kava_status st = KAVA_OK;
  switch (step->kind) {
  case KAVA_NORMAL_NFC:
  case KAVA_NORMAL_NFD:
  case KAVA_NORMAL_NFKC:
  case KAVA_NORMAL_NFKD: return normal_form(s, step->kind, in, out);
  case KAVA_NORMAL_LOWERCASE:
  case KAVA_NORMAL_STRIP_ACCENTS:
  case KAVA_NORMAL_NMT: return by_char(step->kind, in, out);
  case KAVA_NORMAL_STRIP: return strip(step, in, out);
  case KAVA_NORMAL_PREPEND:
    if (in->length) st = kava_aligned_put(out, step->content, step->length, kava_view_span(in, 0, 0));
    return st == KAVA_OK ? kava_aligned_copy(out, in, 0, in->length) : st;
  case KAVA_NORMAL_REPLACE: return replace(s, step, in, out);
  case KAVA_NORMAL_CHARSMAP: return map_chars(step, in, out);
  }
  return st;
}

/* True where the step surely changes nothing: most text is in NFC already. */
static bool idle(const kava_normal *step, const kava_view *in) {
  return step->kind == KAVA_NORMAL_NFC && kava_is_plainly_nfc(in->text, in->length);
}

kava_status kava_normalizer_run(const kava_normalizer *normalizer, kava_normal_scratch *s, const kava_view *in,
                                bool track, kava_view *out) {
  kava_view now = *in;
  int side = 0;
  for (int i = 0; i < normalizer->count; i++) {
    if (idle(&normalizer->steps[i], &now)) continue;
    kava_aligned *to = &s->sides[side];
    kava_aligned_clear(to, track);
    kava_status st = run_step(&normalizer->steps[i], s, &now, to);
    if (st != KAVA_OK) return st;
    now = kava_aligned_view(to, in->origin);
    side = 1 - side;
  }
  *out = now;
  return KAVA_OK;
}

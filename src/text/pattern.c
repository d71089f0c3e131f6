#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pattern.h"
#include "text/unicode.h"
#include "text/utf8.h"
#include <pcre2.h>

/* Oniguruma's \w: alphabetic, marks, decimal digits, connectors, Latin-1's other numbers. */
#define WORD                                                                                                           \
  "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"                                                                               \
  "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{"      \
  "1f189}"

/* The pattern in PCRE2's words. Appends to `out`; KAVA_UNSUPPORTED where the meaning would change. */
static kava_status translate(const char *p, kava_buffer *out) {
  kava_status st = KAVA_OK;
  const char *start = p;
  int class_depth = 0;
  for (; *p && st == KAVA_OK; p++) {
    if (*p == '\\' && p[1]) {
      p++;
      const char *instead = NULL;
      switch (*p) {
      case 'w': instead = class_depth ? WORD : "[" WORD "]"; break;
      case 'W': instead = class_depth ? NULL : "[^" WORD "]"; break;
      case 'h': instead = class_depth ? "0-9a-fA-F" : "[0-9a-fA-F]"; break;
      case 'H': instead = class_depth ? NULL : "[^0-9a-fA-F]"; break;
      default: break;
      }
      bool differs = (*p == 'W' || *p == 'H') ? class_depth > 0 : strchr("bBGKXyYOM", *p) != NULL;
      if (differs)
        return kava_fail(KAVA_UNSUPPORTED, "pattern '%.80s': \\%c at byte %zu is not supported", start, *p,
                         (size_t)(p - start - 1));
      const char *brace = (*p == 'p' || *p == 'P') && p[1] == '{' ? strchr(p, '}') : NULL; /* a property's name */
      size_t length = 2 + (brace ? (size_t)(brace - p) : 0);
      if (brace && brace - p > 4) { /* a script: for PCRE2 its bare name means Script_Extensions */
        bool negated = p[2] == '^';
        const char *name = p + 2 + negated;
        if (strncmp(name, "Any}", 4) != 0 && brace - name > 2) {
          char head[8] = {'\\', *p, '{'};
          strcat(head, negated ? "^sc:" : "sc:");
          st = kava_buffer_text(out, head);
          if (st == KAVA_OK) st = kava_buffer_add(out, name, (size_t)(brace + 1 - name));
          p = brace;
          continue;
        }
      }
      st = instead ? kava_buffer_text(out, instead) : kava_buffer_add(out, p - 1, length);
      p += length - 2;
      continue;
    }
    if (*p == '[') {
      if (class_depth && p[1] != ':')
        return kava_fail(KAVA_UNSUPPORTED, "pattern '%.80s': a class within a class, byte %zu, is not supported", start,
                         (size_t)(p - start));
      class_depth++;
    } else if (*p == ']' && class_depth) {
      class_depth--;
    } else if (class_depth && *p == '&' && p[1] == '&') {
      return kava_fail(KAVA_UNSUPPORTED, "pattern '%.80s': && in a class, byte %zu, is not supported", start,
                       (size_t)(p - start));
    } else if (!class_depth && *p == '}' && p[1] == '+') {
      /* not possessive in Ruby's syntax, but a repetition of the repetition */
      return kava_fail(KAVA_UNSUPPORTED, "pattern '%.80s': {n,m}+ at byte %zu is not supported", start,
                       (size_t)(p - start));
    } else if (!class_depth && *p == '(' && p[1] == '?') {
      /* (?m) is Ruby's name for dot-all; options but i and m are not its own */
      const char *q = p + 2;
      while (*q == 'i' || *q == '-') q++;
      if (!strchr(":=!<>", *q) && !(*q == ')' && q > p + 2))
        return kava_fail(KAVA_UNSUPPORTED, "pattern '%.80s': the group at byte %zu is not supported", start,
                         (size_t)(p - start));
    }
    st = kava_buffer_add(out, p, 1);
  }
  return st;
}

kava_status kava_pattern_compile(const char *text, bool literal, kava_pattern *out) {
  *out = (kava_pattern){.literal = literal};
  kava_status st = KAVA_OK;
  kava_buffer spelt = {0};
  size_t length = strlen(text);
  kava_unicode_init();
  if (!length) return kava_fail(KAVA_UNSUPPORTED, "an empty pattern");
  if (kava_utf8_valid((const uint8_t *)text, length, NULL) != length)
    return kava_fail(KAVA_FORMAT, "the pattern is not valid UTF-8");
  if (literal)
    KAVA_TRY(kava_buffer_text(&spelt, text));
  else
    KAVA_TRY(translate(text, &spelt));
  int error;
  PCRE2_SIZE at;
  /* Hugging Face runs Oniguruma, where ^ and $ always match at lines */
  uint32_t options = PCRE2_UTF | PCRE2_NO_UTF_CHECK | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE);
  if (!(out->text = kava_strdup(text))) KAVA_FAIL(KAVA_MEMORY, "out of memory");
  out->code = pcre2_compile(spelt.data, spelt.size, options, &error, &at, NULL);
  if (!out->code) {
    PCRE2_UCHAR why[128];
    pcre2_get_error_message(error, why, sizeof why);
    KAVA_FAIL(KAVA_UNSUPPORTED, "pattern '%.80s', byte %zu: %s", text, (size_t)at, (const char *)why);
  }
  pcre2_jit_compile(out->code, PCRE2_JIT_COMPLETE); /* where there is no JIT, pcre2_match interprets */
out:
  if (st != KAVA_OK) kava_pattern_free(out);
  kava_buffer_free(&spelt);
  return st;
}

void kava_pattern_free(kava_pattern *pattern) {
  kava_free(pattern->text);
  pcre2_code_free(pattern->code);
  *pattern = (kava_pattern){0};
}

void kava_pattern_scratch_free(kava_pattern_scratch *s) {
  pcre2_match_data_free(s->match);
  pcre2_match_context_free(s->context);
  pcre2_jit_stack_free(s->stack);
  kava_buffer_free(&s->copy);
  *s = (kava_pattern_scratch){0};
}

static kava_status prepare(kava_pattern_scratch *s) {
  if (s->match) return KAVA_OK;
  s->stack = pcre2_jit_stack_create(32 * 1024, 4 * 1024 * 1024, NULL);
  s->context = pcre2_match_context_create(NULL);
  s->match = pcre2_match_data_create(1, NULL);
  if (!s->stack || !s->context || !s->match) {
    kava_pattern_scratch_free(s);
    return kava_fail(KAVA_MEMORY, "out of memory");
  }
  pcre2_jit_stack_assign(s->context, NULL, s->stack);
  return KAVA_OK;
}

/* The text itself, or a copy with stand-ins for the characters that PCRE2 would classify otherwise. */
static kava_status stand_ins(kava_buffer *copy, const uint8_t *text, size_t length, const uint8_t **out) {
  *out = text;
  for (size_t i = 0, n = 1; i < length; i += n) {
    n = 1;
    if (text[i] < 0xe0) continue; /* below U+0800 nothing differs */
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

kava_status kava_matches_begin(kava_matches *walk, const kava_pattern *pattern, kava_pattern_scratch *scratch,
                               kava_buffer *copy, const uint8_t *text, size_t length) {
  *walk = (kava_matches){.pattern = pattern, .scratch = scratch, .seen = text, .length = length};
  kava_status st = prepare(scratch);
  if (st == KAVA_OK && !pattern->literal) st = stand_ins(copy, text, length, &walk->seen);
  return st;
}

kava_status kava_matches_next(kava_matches *walk, bool *found, size_t *begin, size_t *end) {
  *found = false;
  while (walk->search <= walk->length) {
    int got = pcre2_match(walk->pattern->code, walk->seen, walk->length, walk->search, PCRE2_NO_UTF_CHECK,
                          walk->scratch->match, walk->scratch->context);
    if (got == PCRE2_ERROR_NOMATCH) return KAVA_OK;
    if (got < 0) {
      PCRE2_UCHAR why[128];
      pcre2_get_error_message(got, why, sizeof why);
      return kava_fail(KAVA_UNSUPPORTED, "pattern '%.60s' at byte %zu of %zu: %s", walk->pattern->text, walk->search,
                       walk->length, (const char *)why);
    }
    const PCRE2_SIZE *pair = pcre2_get_ovector_pointer(walk->scratch->match);
    *begin = pair[0];
    *end = pair[1];
    if (*end > *begin || !walk->any || *end != walk->last) {
      walk->any = *found = true;
      walk->search = walk->last = *end;
      return KAVA_OK;
    }
    size_t n = 1; /* an empty match where the last one ended is none: on behind the next character */
    if (walk->search < walk->length) kava_utf8_read(walk->seen + walk->search, &n);
    walk->search += n;
  }
  return KAVA_OK;
}

/* base/json: see json.h. The reader is one recursive descent. All strings of a document go into one buffer as large as
 * the text (a decoded string with its NUL is never longer than its source with the quotes). The children of a container
 * that is still open lie on a stack and move into the arena, side by side, when it closes. Objects of more than SMALL
 * members carry a hash index right behind their members. What an outline leaves unread is passed over by its brackets
 * and strings alone; walking it later reads one item after the other with the same descent, and so checks it. */
#include "base/json.h"
#include "base/hash.h"
#include "base/map.h"
#include "base/memory.h"
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SMALL 12 /* members searched one by one */
#define SLACK 8  /* strings are copied in words */

struct kava_json_doc {
  const char *text; /* an outline's, whose parts are in it */
  size_t size, most;
  kava_arena arena;
  char *strings;
  size_t strings_room;
  unsigned char *stack; /* kept for the next text by kava_json_again */
  size_t stack_room;
  kava_json root;
};

typedef struct reader {
  const unsigned char *start, *p, *end;
  char *strings; /* where the next string goes; where something is left unread, each has its own place in the arena */
  kava_arena *arena;
  unsigned char *stack;
  size_t top, room;
  int depth;
  size_t values, most;     /* read so far, and how many may be (0: any number) */
  const char *const *left; /* paths of what is left unread, up to a NULL; NULL: none */
  char path[64];           /* of the value that is being read; as far as it fits and is looked for */
  kava_json_tell_fn tell;  /* NULL: a tree is built */
  void *to;
  kava_json_doc *scratch; /* told strings lie in its buffer, one at a time; NULL: they stay as they are written */
} reader;

/* ---- numbers in the C locale, whatever the program's locale is ---- */

static locale_t c_locale;
static void make_locale(void) { c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); }
double kava_json_double(const char *text) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, make_locale);
  return c_locale ? strtod_l(text, NULL, c_locale) : strtod(text, NULL);
}

/* ---- reading ---- */

static kava_status fail_at(const reader *r, const unsigned char *at, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static kava_status fail_at(const reader *r, const unsigned char *at, const char *format, ...) {
  char what[256];
  va_list args;
  va_start(args, format);
  vsnprintf(what, sizeof what, format, args);
  va_end(args);
  return kava_fail(KAVA_FORMAT, "byte %zu: %s", (size_t)(at - r->start), what);
}

static kava_status unexpected(const reader *r, const char *expected) {
  if (r->p >= r->end) return fail_at(r, r->end, "%s expected, but the text ends", expected);
  if (*r->p > 32 && *r->p < 127) return fail_at(r, r->p, "%s expected, got '%c'", expected, *r->p);
  return fail_at(r, r->p, "%s expected, got byte 0x%02x", expected, *r->p);
}

static inline void skip_space(reader *r) {
  while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\r' || *r->p == '\t')) r->p++;
}

int kava_utf8_length(const unsigned char *p, const unsigned char *end) {
  if (p >= end) return 0;
  if (p[0] < 0x80) return 1;
  if (p[0] < 0xc2 || end - p < 2 || (p[1] & 0xc0) != 0x80) return 0;
  if (p[0] < 0xe0) return 2;
  if (end - p < 3 || (p[2] & 0xc0) != 0x80) return 0;
  if (p[0] < 0xf0) {
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f)) return 0;
    return 3;
  }
  if (end - p < 4 || (p[3] & 0xc0) != 0x80 || p[0] > 0xf4) return 0;
  if ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f)) return 0;
  return 4;
}

static bool hex4(const unsigned char *p, const unsigned char *end, uint32_t *out) {
  if (end - p < 4) return false;
  uint32_t value = 0;
  for (int i = 0; i < 4; i++) {
    unsigned c = p[i], low = c | 32;
    if (c >= '0' && c <= '9')
      value = value << 4 | (c - '0');
    else if (low >= 'a' && low <= 'f')
      value = value << 4 | (low - 'a' + 10);
    else
      return false;
  }
  *out = value;
  return true;
}

static char *put_utf8(char *to, uint32_t c) {
  if (c < 0x80) {
    *to++ = (char)c;
  } else if (c < 0x800) {
    *to++ = (char)(0xc0 | c >> 6);
    *to++ = (char)(0x80 | (c & 63));
  } else if (c < 0x10000) {
    *to++ = (char)(0xe0 | c >> 12);
    *to++ = (char)(0x80 | (c >> 6 & 63));
    *to++ = (char)(0x80 | (c & 63));
  } else {
    *to++ = (char)(0xf0 | c >> 18);
    *to++ = (char)(0x80 | (c >> 12 & 63));
    *to++ = (char)(0x80 | (c >> 6 & 63));
    *to++ = (char)(0x80 | (c & 63));
  }
  return to;
}

static kava_status read_escape(reader *r, char **to) { /* at the backslash */
  const unsigned char *at = r->p++;
  if (r->p >= r->end) return unexpected(r, "an escape");
  uint32_t c, low;
  switch (*r->p++) {
  case '"': *(*to)++ = '"'; return KAVA_OK;
  case '\\': *(*to)++ = '\\'; return KAVA_OK;
  case '/': *(*to)++ = '/'; return KAVA_OK;
  case 'b': *(*to)++ = '\b'; return KAVA_OK;
  case 'f': *(*to)++ = '\f'; return KAVA_OK;
  case 'n': *(*to)++ = '\n'; return KAVA_OK;
  case 'r': *(*to)++ = '\r'; return KAVA_OK;
  case 't': *(*to)++ = '\t'; return KAVA_OK;
  case 'u': break;
  default: return fail_at(r, at, "unknown escape");
  }
  if (!hex4(r->p, r->end, &c)) return fail_at(r, at, "four hexadecimal digits expected after \\u");
  r->p += 4;
  if (c >= 0xdc00 && c <= 0xdfff) return fail_at(r, at, "a lone low surrogate");
  if (c >= 0xd800 && c <= 0xdbff) {
    if (r->end - r->p < 6 || r->p[0] != '\\' || r->p[1] != 'u' || !hex4(r->p + 2, r->end, &low) || low < 0xdc00 ||
        low > 0xdfff)
      return fail_at(r, at, "a high surrogate without its low one");
    r->p += 6;
    c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
  }
  *to = put_utf8(*to, c);
  return KAVA_OK;
}

/* Which bytes of a word end a plain run: '"', '\\', below 0x20, above 0x7f (the high bit of each; may also mark bytes
 * after the first such one, never before it). */
static inline uint64_t special_bytes(uint64_t w) {
  const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
  uint64_t quote = w ^ (ones * '"'), slash = w ^ (ones * '\\');
  return (((quote - ones) & ~quote) | ((slash - ones) & ~slash) | (w - ones * 0x20) | w) & high;
}

/* The quote that ends the string whose inside begins at p; NULL: there is none. */
static const unsigned char *string_end(const unsigned char *p, const unsigned char *end) {
  for (const unsigned char *q = p; (q = memchr(q, '"', (size_t)(end - q))); q++) {
    size_t slashes = 0; /* an odd number of them makes it a part of the string */
    while (slashes < (size_t)(q - p) && q[-1 - (ptrdiff_t)slashes] == '\\') slashes++;
    if (slashes % 2 == 0) return q;
  }
  return NULL;
}

static char *scratch_room(kava_json_doc *doc, size_t room) {
  if (doc->strings_room < room) {
    kava_free(doc->strings);
    doc->strings_room = 0;
    if (!(doc->strings = kava_alloc(room < 256 ? 256 : room))) return NULL;
    doc->strings_room = room < 256 ? 256 : room;
  }
  return doc->strings;
}

static kava_status read_string(reader *r, const char **out, uint32_t *length) { /* at the opening quote */
  const unsigned char *open = r->p++;
  if (r->left || r->tell) { /* room for this one alone */
    const unsigned char *close = string_end(r->p, r->end);
    if (!close) return fail_at(r, open, "a string that does not end");
    size_t inside = (size_t)(close - r->p), room = inside + 1 + SLACK;
    if (r->tell && !r->scratch) {
      *out = (const char *)r->p;
      *length = inside < UINT32_MAX ? (uint32_t)inside : UINT32_MAX;
      r->p = close + 1;
      return KAVA_OK;
    }
    r->strings = r->tell ? scratch_room(r->scratch, room) : kava_arena_alloc(r->arena, room);
    if (!r->strings) return KAVA_MEMORY;
  }
  char *begin = r->strings, *to = begin;
  for (;;) {
    while (r->end - r->p >= 8) {
      uint64_t word;
      memcpy(&word, r->p, 8);
      memcpy(to, &word, 8);
      uint64_t special = special_bytes(word);
      int plain = special ? __builtin_ctzll(special) >> 3 : 8;
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
      for (plain = 0; plain < 8; plain++)
        if (r->p[plain] < 0x20 || r->p[plain] >= 0x80 || r->p[plain] == '"' || r->p[plain] == '\\') break;
#endif
      to += plain;
      r->p += plain;
      if (plain < 8) break;
    }
    if (r->p >= r->end) return fail_at(r, open, "a string that does not end");
    unsigned char c = *r->p;
    if (c == '"') break;
    if (c == '\\') {
      kava_status st = read_escape(r, &to);
      if (st != KAVA_OK) return st;
    } else if (c < 0x20) {
      return fail_at(r, r->p, "control character 0x%02x in a string", c);
    } else {
      int n = kava_utf8_length(r->p, r->end);
      if (n == 0) return fail_at(r, r->p, "not UTF-8 (0x%02x)", c);
      for (int i = 0; i < n; i++) *to++ = (char)*r->p++;
    }
  }
  r->p++;
  if ((size_t)(to - begin) > UINT32_MAX) return fail_at(r, open, "a string of 4 GiB or more");
  *to++ = 0;
  *out = begin;
  *length = (uint32_t)(to - begin - 1);
  r->strings = to;
  return KAVA_OK;
}

static kava_status read_number(reader *r, kava_json *out) {
  const unsigned char *at = r->p, *digits;
  bool negative = *r->p == '-', whole = true;
  uint64_t mantissa = 0;
  int significant = 0, scale = 0; /* mantissa holds the first 19 significant digits */
  if (negative) r->p++;
  digits = r->p;
  while (r->p < r->end && *r->p >= '0' && *r->p <= '9') {
    if (significant < 19) {
      mantissa = mantissa * 10 + (*r->p - '0');
      significant += mantissa != 0;
    } else {
      significant = 20;
    }
    r->p++;
  }
  if (r->p == digits) return unexpected(r, negative ? "a digit" : "a value");
  if (*digits == '0' && r->p - digits > 1) return fail_at(r, at, "a number with a leading zero");
  if (r->p < r->end && *r->p == '.') {
    const unsigned char *fraction = ++r->p;
    whole = false;
    while (r->p < r->end && *r->p >= '0' && *r->p <= '9') {
      if (significant < 19) {
        mantissa = mantissa * 10 + (*r->p - '0');
        significant += mantissa != 0;
        scale--;
      } else {
        significant = 20;
      }
      r->p++;
    }
    if (r->p == fraction) return unexpected(r, "a digit after the point");
  }
  if (r->p < r->end && (*r->p | 32) == 'e') {
    whole = false;
    r->p++;
    bool minus = r->p < r->end && *r->p == '-';
    if (r->p < r->end && (*r->p == '-' || *r->p == '+')) r->p++;
    const unsigned char *power = r->p;
    int exponent = 0;
    while (r->p < r->end && *r->p >= '0' && *r->p <= '9') {
      if (exponent < 100000) exponent = exponent * 10 + (*r->p - '0');
      r->p++;
    }
    if (r->p == power) return unexpected(r, "a digit of the exponent");
    scale += minus ? -exponent : exponent;
  }
  if (whole && significant < 20 && mantissa <= (uint64_t)INT64_MAX + negative) {
    *out = (kava_json){.kind = KAVA_JSON_INTEGER, .integer = negative ? (int64_t)(0 - mantissa) : (int64_t)mantissa};
    return KAVA_OK;
  }
  double value;
  static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                  1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  if (significant < 20 && mantissa <= (uint64_t)1 << 53 && scale >= -22 && scale <= 22) { /* both exact: one rounding */
    value = scale < 0 ? (double)mantissa / powers[-scale] : (double)mantissa * powers[scale];
    if (negative) value = -value;
  } else {
    size_t length = (size_t)(r->p - at);
    char small[64], *copy = length < sizeof small ? small : kava_alloc(length + 1);
    if (!copy) return KAVA_MEMORY;
    memcpy(copy, at, length);
    copy[length] = 0;
    value = kava_json_double(copy);
    if (copy != small) kava_free(copy);
    if (!isfinite(value)) return fail_at(r, at, "a number too large");
  }
  *out = (kava_json){.kind = KAVA_JSON_REAL, .real = value};
  return KAVA_OK;
}

static inline bool same_key(const kava_json_member *m, uint32_t hash, const char *key, size_t length) {
  return m->hash == hash && m->key_length == length && memcmp(m->key, key, length) == 0;
}

static inline uint32_t index_size(uint32_t count) { /* a power of two, at most half full */
  uint32_t size = 32;
  while (size < 2 * (uint64_t)count) size *= 2;
  return size;
}

static void *push(reader *r, size_t bytes) {
  if (r->room - r->top < bytes) {
    size_t room = r->room ? 2 * r->room : 4096;
    void *grown = kava_realloc(r->stack, room);
    if (!grown) return NULL;
    r->stack = grown;
    r->room = room;
  }
  void *at = r->stack + r->top;
  r->top += bytes;
  return at;
}

/* Moves the children above `base` into the arena, with `extra` zeroed bytes behind them. */
static void *settle(reader *r, size_t base, size_t extra) {
  size_t bytes = r->top - base;
  char *to = kava_arena_alloc(r->arena, bytes + extra);
  if (to && bytes) memcpy(to, r->stack + base, bytes);
  r->top = base;
  return to;
}

/* Fills the index of a large object; slots hold member number + 1. Keys must be unique, in small objects too. */
static kava_status index_members(const reader *r, const unsigned char *open, kava_json_member *members,
                                 uint32_t count) {
  const kava_json_member *twice = NULL;
  if (count > SMALL) {
    uint32_t *slots = (uint32_t *)(void *)(members + count), mask = index_size(count) - 1;
    for (uint32_t i = 0; i < count && !twice; i++) {
      uint32_t at = members[i].hash & mask;
      for (; slots[at] && !twice; at = (at + 1) & mask)
        if (same_key(&members[slots[at] - 1], members[i].hash, members[i].key, members[i].key_length))
          twice = &members[i];
      if (!twice) slots[at] = i + 1;
    }
  } else {
    for (uint32_t i = 1; i < count && !twice; i++)
      for (uint32_t j = 0; j < i && !twice; j++)
        if (same_key(&members[j], members[i].hash, members[i].key, members[i].key_length)) twice = &members[i];
  }
  if (twice) return fail_at(r, open, "an object has the key '%.100s' twice", twice->key);
  return KAVA_OK;
}

static kava_status read_value(reader *r, kava_json *out);

/* What a receiver refuses, it refuses of this place. */
static kava_status tell(const reader *r, const unsigned char *at, kava_json_event event, const kava_json *value) {
  kava_status st = r->tell(r->to, event, value);
  return st == KAVA_OK ? st : kava_fail_in(st, "byte %zu", (size_t)(at - r->start));
}

/* Past a container, by its brackets and strings; *items: one more than its commas, 0 where nothing is in it. */
static kava_status pass_over(reader *r, uint64_t *items) {
  static const bool counts[256] = {['"'] = true, ['['] = true, ['{'] = true, [']'] = true, ['}'] = true, [','] = true};
  const unsigned char *open = r->p++, *close;
  uint64_t commas = 0;
  size_t depth = 1;
  skip_space(r);
  const unsigned char *p = r->p, *end = r->end;
  bool filled = p < end && *p != ']' && *p != '}';
  for (; p < end; p++) {
    if (!counts[*p]) continue;
    switch (*p) {
    case '"':
      if (!(close = string_end(p + 1, end))) return fail_at(r, p, "a string that does not end");
      p = close;
      break;
    case ',': commas += depth == 1; break;
    case '[':
    case '{': depth++; break;
    default:
      if (--depth > 0) break;
      r->p = p + 1;
      *items = filled ? commas + 1 : 0;
      return KAVA_OK;
    }
  }
  return fail_at(r, open, "an array or an object that does not end");
}

static bool is_left(const reader *r) {
  for (const char *const *path = r->left; path && *path; path++)
    if (strcmp(*path, r->path) == 0) return true;
  return false;
}

/* A member's value. Of an outline, the path is kept beside it. */
static kava_status read_member(reader *r, const kava_json_member *member, kava_json *out) {
  if (!r->left) return read_value(r, out);
  size_t before = strlen(r->path), room = sizeof r->path - before;
  bool fits = member->key_length + 2u < room && strlen(member->key) == member->key_length;
  if (!fits || before + 2 > sizeof r->path) return read_value(r, out); /* no path that is looked for */
  snprintf(r->path + before, room, before ? ".%s" : "%s", member->key);
  kava_status st = KAVA_OK;
  if (r->p < r->end && (*r->p == '[' || *r->p == '{') && is_left(r)) {
    uint64_t items = 0;
    *out = (kava_json){.kind = KAVA_JSON_LEFT, .string = (const char *)r->p};
    st = pass_over(r, &items);
    if (items > UINT32_MAX / 4) st = kava_fail(KAVA_UNSUPPORTED, "%s: %llu items", r->path, (unsigned long long)items);
    out->length = (uint32_t)items;
  } else {
    st = read_value(r, out);
  }
  r->path[before] = 0;
  return st;
}

static kava_status read_array(reader *r, kava_json *out) {
  size_t base = r->top;
  r->p++;
  skip_space(r);
  if (r->p < r->end && *r->p == ']') {
    r->p++;
    *out = (kava_json){.kind = KAVA_JSON_ARRAY};
    return KAVA_OK;
  }
  for (;;) {
    kava_json value;
    kava_status st = read_value(r, &value);
    if (st != KAVA_OK) return st;
    if (!r->tell) {
      kava_json *slot = push(r, sizeof value);
      if (!slot) return KAVA_MEMORY;
      *slot = value;
    }
    skip_space(r);
    if (r->p < r->end && *r->p == ',') {
      r->p++;
      skip_space(r);
      continue;
    }
    if (r->p < r->end && *r->p == ']') break;
    return unexpected(r, "',' or ']'");
  }
  r->p++;
  if (r->tell) return KAVA_OK;
  size_t count = (r->top - base) / sizeof(kava_json);
  if (count > UINT32_MAX) return kava_fail(KAVA_UNSUPPORTED, "an array of %zu items", count);
  *out = (kava_json){.kind = KAVA_JSON_ARRAY, .length = (uint32_t)count, .items = settle(r, base, 0)};
  return out->items ? KAVA_OK : KAVA_MEMORY;
}

static kava_status read_object(reader *r, kava_json *out) {
  size_t base = r->top;
  const unsigned char *open = r->p++;
  skip_space(r);
  if (r->p < r->end && *r->p == '}') {
    r->p++;
    *out = (kava_json){.kind = KAVA_JSON_OBJECT};
    return KAVA_OK;
  }
  for (;;) {
    kava_json_member member;
    if (r->p >= r->end || *r->p != '"') return unexpected(r, "a key");
    kava_status st = read_string(r, &member.key, &member.key_length);
    if (st != KAVA_OK) return st;
    if (r->tell) {
      kava_json key = {.kind = KAVA_JSON_STRING, .length = member.key_length, .string = member.key};
      if ((st = tell(r, open, KAVA_JSON_KEY, &key)) != KAVA_OK) return st;
    } else {
      member.hash = (uint32_t)kava_hash(member.key, member.key_length);
    }
    skip_space(r);
    if (r->p >= r->end || *r->p != ':') return unexpected(r, "':'");
    r->p++;
    skip_space(r);
    if ((st = read_member(r, &member, &member.value)) != KAVA_OK) return st;
    if (!r->tell) {
      kava_json_member *slot = push(r, sizeof member);
      if (!slot) return KAVA_MEMORY;
      *slot = member;
    }
    skip_space(r);
    if (r->p < r->end && *r->p == ',') {
      r->p++;
      skip_space(r);
      continue;
    }
    if (r->p < r->end && *r->p == '}') break;
    return unexpected(r, "',' or '}'");
  }
  r->p++;
  if (r->tell) return KAVA_OK;
  size_t count = (r->top - base) / sizeof(kava_json_member);
  if (count > UINT32_MAX / 4) return kava_fail(KAVA_UNSUPPORTED, "an object of %zu members", count);
  size_t slots = count > SMALL ? index_size((uint32_t)count) * sizeof(uint32_t) : 0;
  kava_json_member *members = settle(r, base, slots);
  if (!members) return KAVA_MEMORY;
  *out = (kava_json){.kind = KAVA_JSON_OBJECT, .length = (uint32_t)count, .members = members};
  return index_members(r, open, members, (uint32_t)count);
}

static kava_status read_word(reader *r, const char *word, kava_json value, kava_json *out) {
  size_t length = strlen(word);
  if ((size_t)(r->end - r->p) < length || memcmp(r->p, word, length) != 0) return unexpected(r, "a value");
  r->p += length;
  *out = value;
  return KAVA_OK;
}

static kava_status read_value(reader *r, kava_json *out) {
  if (r->p >= r->end) return unexpected(r, "a value");
  if (r->most && ++r->values > r->most)
    return fail_at(r, r->p, "more values than such a file ought to have (%zu)", r->most);
  const unsigned char *at = r->p;
  kava_status st;
  switch (*at) {
  case '{':
  case '[': {
    bool object = *at == '{';
    if (++r->depth > KAVA_JSON_DEPTH) return fail_at(r, at, "nested deeper than %d", KAVA_JSON_DEPTH);
    if (r->tell) {
      *out = (kava_json){.kind = object ? KAVA_JSON_OBJECT : KAVA_JSON_ARRAY};
      if ((st = tell(r, at, KAVA_JSON_OPEN, out)) != KAVA_OK) return st;
    }
    st = object ? read_object(r, out) : read_array(r, out);
    r->depth--;
    return st == KAVA_OK && r->tell ? tell(r, at, KAVA_JSON_CLOSE, out) : st;
  }
  case '"':
    *out = (kava_json){.kind = KAVA_JSON_STRING};
    st = read_string(r, &out->string, &out->length);
    break;
  case 't': st = read_word(r, "true", (kava_json){.kind = KAVA_JSON_BOOLEAN, .boolean = true}, out); break;
  case 'f': st = read_word(r, "false", (kava_json){.kind = KAVA_JSON_BOOLEAN}, out); break;
  case 'n': st = read_word(r, "null", (kava_json){.kind = KAVA_JSON_NULL}, out); break;
  default: st = read_number(r, out);
  }
  return st == KAVA_OK && r->tell ? tell(r, at, KAVA_JSON_VALUE, out) : st;
}

/* All of the text, and nothing behind it. */
static kava_status read_text(reader *r, kava_json *root) {
  skip_space(r);
  kava_status st = read_value(r, root);
  if (st != KAVA_OK) return st;
  skip_space(r);
  return r->p < r->end ? unexpected(r, "the end of the text") : KAVA_OK;
}

static kava_status parse(const char *text, size_t size, const char *const *left, size_t most, kava_json_doc **at) {
  kava_status st;
  const unsigned char *start = (const unsigned char *)(text ? text : "");
  kava_json_doc *doc = *at ? *at : kava_calloc(1, sizeof *doc);
  if (!doc) return KAVA_MEMORY;
  *at = doc;
  doc->root = (kava_json){.kind = KAVA_JSON_NULL};
  kava_arena_reset(&doc->arena);
  if (left) {
    doc->text = text;
    doc->size = size;
    doc->most = most;
  } else if (!scratch_room(doc, size + SLACK)) {
    return KAVA_MEMORY;
  }
  reader r = {.start = start,
              .p = start,
              .end = start + size,
              .arena = &doc->arena,
              .strings = doc->strings,
              .stack = doc->stack,
              .room = doc->stack_room,
              .left = left,
              .most = most};
  kava_json root;
  if ((st = read_text(&r, &root)) == KAVA_OK) doc->root = root;
  doc->stack = r.stack;
  doc->stack_room = r.room;
  return st;
}

kava_status kava_json_again(const char *text, size_t size, kava_json_doc **doc) {
  return parse(text, size, NULL, 0, doc);
}

kava_status kava_json_outline(const char *text, size_t size, const char *const *left, size_t most,
                              kava_json_doc **out) {
  kava_json_doc *doc = NULL;
  kava_status st = parse(text, size, left, most, &doc);
  if (doc) {
    kava_free(doc->stack);
    doc->stack = NULL;
    doc->stack_room = 0;
  }
  if (st != KAVA_OK)
    kava_json_release(&doc);
  else
    *out = doc;
  return st;
}

kava_status kava_json_tell(const char *text, size_t size, kava_json_tell_fn receive, void *to,
                           kava_json_doc **scratch) {
  const unsigned char *start = (const unsigned char *)(text ? text : "");
  if (scratch && !*scratch && !(*scratch = kava_calloc(1, sizeof **scratch))) return KAVA_MEMORY;
  reader r = {.start = start, .p = start, .end = start + size, .tell = receive, .to = to};
  r.scratch = scratch ? *scratch : NULL;
  kava_json root;
  return read_text(&r, &root);
}

/* ---- walking ---- */

struct kava_json_walk {
  reader r;
  kava_arena arena;
  unsigned char close; /* the bracket at the end; 0: passed */
  bool begun, whole;   /* whole: nothing may follow but space */
  kava_json_member item;
};

static kava_status begin_walk(const char *text, size_t size, const char *at, size_t most, kava_json_walk **out) {
  static const char *const nothing[] = {NULL};
  kava_json_walk *w = kava_calloc(1, sizeof *w);
  if (!w) return KAVA_MEMORY;
  const unsigned char *start = (const unsigned char *)text;
  w->r = (reader){.start = start,
                  .p = (const unsigned char *)at + 1,
                  .end = start + size,
                  .arena = &w->arena,
                  .most = most,
                  .left = nothing};
  w->close = at[0] == '[' ? ']' : '}';
  *out = w;
  return KAVA_OK;
}

kava_status kava_json_walk_open(const kava_json_doc *doc, const kava_json *part, kava_json_walk **out) {
  if (!kava_json_is(part, KAVA_JSON_LEFT)) return kava_fail(KAVA_MISUSE, "only what was left unread can be walked");
  return begin_walk(doc->text, doc->size, part->string, doc->most, out);
}

kava_status kava_json_walk_text(const char *text, size_t size, size_t most, kava_json_walk **out) {
  reader r = {.start = (const unsigned char *)text, .p = (const unsigned char *)text};
  r.end = r.start + size;
  skip_space(&r);
  if (r.p == r.end || (*r.p != '[' && *r.p != '{')) return unexpected(&r, "an object or an array");
  kava_status st = begin_walk(text, size, (const char *)r.p, most, out);
  if (st == KAVA_OK) (*out)->whole = true;
  return st;
}

kava_status kava_json_walk_next(kava_json_walk *w, const kava_json_member **item) {
  reader *r = &w->r;
  kava_status st;
  *item = NULL;
  if (!w->close) return KAVA_OK;
  kava_arena_reset(&w->arena);
  skip_space(r);
  if (r->p < r->end && *r->p == w->close) {
    r->p++;
    w->close = 0;
    if (w->whole) skip_space(r);
    return w->whole && r->p < r->end ? unexpected(r, "the end of the text") : KAVA_OK;
  }
  if (w->begun) {
    if (r->p >= r->end || *r->p != ',') return unexpected(r, w->close == ']' ? "',' or ']'" : "',' or '}'");
    r->p++;
    skip_space(r);
  }
  w->begun = true;
  r->values = 0;
  w->item = (kava_json_member){0};
  if (w->close == '}') {
    if (r->p >= r->end || *r->p != '"') return unexpected(r, "a key");
    if ((st = read_string(r, &w->item.key, &w->item.key_length)) != KAVA_OK) return st;
    skip_space(r);
    if (r->p >= r->end || *r->p != ':') return unexpected(r, "':'");
    r->p++;
    skip_space(r);
  }
  if ((st = read_value(r, &w->item.value)) != KAVA_OK) return st;
  *item = &w->item;
  return KAVA_OK;
}

void kava_json_walk_close(kava_json_walk **at) {
  kava_json_walk *w = *at;
  *at = NULL;
  if (!w) return;
  kava_free(w->r.stack);
  kava_arena_free(&w->arena);
  kava_free(w);
}

kava_status kava_json_load(const char *path, kava_json_doc **out) {
  kava_map *map = NULL;
  kava_status st = kava_map_open(path, &map);
  if (st != KAVA_OK) return st;
  st = kava_json_outline((const char *)map->data, map->size, NULL, kava_map_most(map->size, KAVA_JSON_EACH), out);
  if (st != KAVA_OK) kava_fail_in(st, "%s", path);
  kava_map_release(&map);
  return st;
}

const kava_json *kava_json_root(const kava_json_doc *doc) { return &doc->root; }

void kava_json_release(kava_json_doc **at) {
  kava_json_doc *doc = *at;
  *at = NULL;
  if (!doc) return;
  kava_arena_free(&doc->arena);
  kava_free(doc->strings);
  kava_free(doc->stack);
  kava_free(doc);
}

const kava_json *kava_json_find(const kava_json *object, const char *key, size_t length) {
  if (!object || object->kind != KAVA_JSON_OBJECT) return NULL;
  const kava_json_member *members = object->members;
  uint32_t hash = (uint32_t)kava_hash(key, length);
  if (object->length <= SMALL) {
    for (uint32_t i = 0; i < object->length; i++)
      if (same_key(&members[i], hash, key, length)) return &members[i].value;
    return NULL;
  }
  const uint32_t *slots = (const uint32_t *)(const void *)(members + object->length),
                 mask = index_size(object->length) - 1;
  for (uint32_t at = hash & mask; slots[at]; at = (at + 1) & mask)
    if (same_key(&members[slots[at] - 1], hash, key, length)) return &members[slots[at] - 1].value;
  return NULL;
}

const kava_json *kava_json_get(const kava_json *object, const char *key) {
  return kava_json_find(object, key, strlen(key));
}

bool kava_json_is_text(const kava_json *value, const char *text) {
  return kava_json_is(value, KAVA_JSON_STRING) && value->length == strlen(text) &&
         memcmp(value->string, text, value->length) == 0;
}

const char *kava_json_kind_name(const kava_json *value) {
  static const char *const names[] = {"null",     "a boolean", "an integer", "a real number",
                                      "a string", "an array",  "an object",  "a part left unread"};
  return value ? names[value->kind] : "nothing";
}

#include "text/unicode.h"
#include "text/utf8.h"
#include <pthread.h>
#include <utf8proc.h>

uint8_t kava_char_table[KAVA_CHAR_LIMIT];

/* Letters and numbers of Unicode 15 to 16: Hugging Face's regular expressions know them, Debian's PCRE2 and utf8proc
 * not all. */
static const struct {
  uint32_t first, last;
} new_letters[] = {{0x1c89, 0x1c8a},   {0xa7cb, 0xa7cd},   {0xa7da, 0xa7dc},   {0x105c0, 0x105f3}, {0x10d4a, 0x10d65},
                   {0x10d6f, 0x10d85}, {0x10ec2, 0x10ec4}, {0x1123f, 0x11240}, {0x11380, 0x11389}, {0x1138b, 0x1138b},
                   {0x1138e, 0x1138e}, {0x11390, 0x113b5}, {0x113b7, 0x113b7}, {0x113d1, 0x113d1}, {0x113d3, 0x113d3},
                   {0x11bc0, 0x11be0}, {0x11f02, 0x11f02}, {0x11f04, 0x11f10}, {0x11f12, 0x11f33}, {0x1342f, 0x1342f},
                   {0x13441, 0x13446}, {0x13460, 0x143fa}, {0x16100, 0x1611d}, {0x16d40, 0x16d6c}, {0x18cff, 0x18cff},
                   {0x1b132, 0x1b132}, {0x1b155, 0x1b155}, {0x1df25, 0x1df2a}, {0x1e030, 0x1e06d}, {0x1e4d0, 0x1e4eb},
                   {0x1e5d0, 0x1e5ed}, {0x1e5f0, 0x1e5f0}, {0x2b739, 0x2b739}, {0x2ebf0, 0x2ee5d}, {0x31350, 0x323af}},
  new_numbers[] = {{0x10d40, 0x10d49}, {0x116d0, 0x116e3}, {0x11bf0, 0x11bf9}, {0x11f50, 0x11f59}, {0x16130, 0x16139},
                   {0x16d70, 0x16d79}, {0x1ccf0, 0x1ccf9}, {0x1d2c0, 0x1d2d3}, {0x1e4f0, 0x1e4f9}, {0x1e5f1, 0x1e5fa}};
#define COUNT(a) (sizeof(a) / sizeof(a)[0])

uint32_t kava_char_stand_in(uint32_t c) {
  if (c == 0x180e) return 0x200b; /* neither a space, nor a letter, nor a number */
  if (c < 0x1c89) return c;
  for (size_t i = 0; i < COUNT(new_letters); i++)
    if (c >= new_letters[i].first && c <= new_letters[i].last)
      return c < 0x10000 ? 0xa000 : c < 0x20000 ? 0x10000 : 0x20000;
  for (size_t i = 0; i < COUNT(new_numbers); i++)
    if (c >= new_numbers[i].first && c <= new_numbers[i].last) return 0x1d7ce;
  return c;
}

bool kava_char_is_space(uint32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool kava_char_is_word(uint32_t c) {
  if (c == 0x200c || c == 0x200d) return true;
  if (c != 0x180e && kava_char_stand_in(c) != c) return true; /* a new letter or digit */
  /* Other_Alphabetic beyond the marks: circled, squared and negative letters */
  if ((c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
      (c >= 0x1f170 && c <= 0x1f189))
    return true;
  switch (utf8proc_category((utf8proc_int32_t)c)) {
  case UTF8PROC_CATEGORY_LU:
  case UTF8PROC_CATEGORY_LL:
  case UTF8PROC_CATEGORY_LT:
  case UTF8PROC_CATEGORY_LM:
  case UTF8PROC_CATEGORY_LO:
  case UTF8PROC_CATEGORY_MN:
  case UTF8PROC_CATEGORY_MC:
  case UTF8PROC_CATEGORY_ME:
  case UTF8PROC_CATEGORY_ND:
  case UTF8PROC_CATEGORY_NL:
  case UTF8PROC_CATEGORY_PC: return true;
  default: return false;
  }
}

bool kava_char_is_punctuation(uint32_t c) {
  if (c < 0x80)
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
  switch (utf8proc_category((utf8proc_int32_t)c)) {
  case UTF8PROC_CATEGORY_PC:
  case UTF8PROC_CATEGORY_PD:
  case UTF8PROC_CATEGORY_PS:
  case UTF8PROC_CATEGORY_PE:
  case UTF8PROC_CATEGORY_PI:
  case UTF8PROC_CATEGORY_PF:
  case UTF8PROC_CATEGORY_PO: return true;
  default: return false;
  }
}

bool kava_char_is_mark(uint32_t c) {
  utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_ME;
}

static void fill_table(void) {
  for (uint32_t c = 0; c < KAVA_CHAR_LIMIT; c++) {
    int class = KAVA_CHAR_OTHER;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: class = KAVA_CHAR_LETTER; break;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: class = KAVA_CHAR_NUMBER; break;
    default: break;
    }
    if (kava_char_is_space(c)) class = c == '\r' || c == '\n' ? KAVA_CHAR_NEWLINE : KAVA_CHAR_SPACE;
    kava_char_table[c] = (uint8_t) class;
  }
  for (size_t i = 0; i < COUNT(new_letters); i++)
    for (uint32_t c = new_letters[i].first; c <= new_letters[i].last; c++) kava_char_table[c] = KAVA_CHAR_LETTER;
  for (size_t i = 0; i < COUNT(new_numbers); i++)
    for (uint32_t c = new_numbers[i].first; c <= new_numbers[i].last; c++) kava_char_table[c] = KAVA_CHAR_NUMBER;
}

void kava_unicode_init(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, fill_table);
}

size_t kava_utf8_valid(const uint8_t *text, size_t length, size_t *bad) {
  size_t i = 0;
  if (bad) *bad = 0;
  for (;;) {
    uint64_t word;
    while (length - i >= 8 && (memcpy(&word, text + i, 8), (word & 0x8080808080808080u) == 0)) i += 8;
    if (i >= length) return length;
    uint8_t c = text[i];
    if (c < 0x80) {
      i++;
      continue;
    }
    /* the second byte's range excludes what is overlong, surrogates, and what lies above U+10FFFF */
    size_t need = c >= 0xc2 && c <= 0xdf ? 1 : (c & 0xf0) == 0xe0 ? 2 : c >= 0xf0 && c <= 0xf4 ? 3 : 0;
    uint8_t low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80, high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    size_t got = 0;
    while (got < need && i + 1 + got < length && text[i + 1 + got] >= low && text[i + 1 + got] <= high) {
      got++;
      low = 0x80;
      high = 0xbf;
    }
    if (need == 0 || got < need) {
      if (bad) *bad = 1 + got;
      return i;
    }
    i += 1 + need;
  }
}

/* True where the character surely is NFC whatever stands around it that is so too: NFC_Quick_Check=Yes and combining
 * class 0. The frequent ranges only; all else goes through utf8proc. */
static bool surely_nfc(uint32_t c) {
  return c < 0x300 || (c >= 0x4e00 && c <= 0x9fff) || (c >= 0xac00 && c <= 0xd7a3) || (c >= 0x400 && c <= 0x482) ||
         (c >= 0x3001 && c <= 0x3029) || (c >= 0x3041 && c <= 0x3096) || (c >= 0x30a1 && c <= 0x30fa) ||
         (c >= 0x2010 && c <= 0x2027) || (c >= 0xff01 && c <= 0xff60) || (c >= 0x1f300 && c <= 0x1faff);
}

bool kava_is_plainly_nfc(const uint8_t *text, size_t length) {
  size_t i = 0;
  while (i < length) {
    size_t n = 1;
    if (text[i] >= 0x80 && !surely_nfc(kava_utf8_read(text + i, &n))) return false;
    i += n;
  }
  return true;
}

uint32_t kava_char_lower(uint32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

bool kava_char_starts(uint32_t c) {
  if (c < 0x300) return true;
  if ((c >= 0x1160 && c <= 0x11ff) || (c >= 0x3131 && c <= 0x318e) || (c >= 0xff9e && c <= 0xffdc))
    return false; /* Jamo */
  const utf8proc_property_t *property = utf8proc_get_property((utf8proc_int32_t)c);
  return property->combining_class == 0 && property->category != UTF8PROC_CATEGORY_MN &&
         property->category != UTF8PROC_CATEGORY_MC && property->category != UTF8PROC_CATEGORY_ME;
}

size_t kava_grapheme(const uint8_t *text, size_t length) {
  size_t at, n;
  utf8proc_int32_t state = 0;
  uint32_t c = kava_utf8_read(text, &at);
  while (at < length) {
    uint32_t next = kava_utf8_read(text + at, &n);
    if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)c, (utf8proc_int32_t)next, &state)) break;
    c = next;
    at += n;
  }
  return at;
}

kava_status kava_normal_form(const uint8_t *text, size_t length, kava_form form, kava_buffer *out, bool *changed) {
  static const int of_form[] = {UTF8PROC_COMPOSE, UTF8PROC_DECOMPOSE, UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
                                UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
  *changed = false;
  /* utf8proc decomposes to code points, puts them into canonical order and composes in place */
  const utf8proc_option_t options = (utf8proc_option_t)(UTF8PROC_STABLE | of_form[form]);
  kava_status st = KAVA_OK;
  utf8proc_int32_t few[64], *codes = few;
  utf8proc_ssize_t need = utf8proc_decompose(text, (utf8proc_ssize_t)length, few, 64 - 1, options);
  if (need >= 64) { /* reencoding wants one more */
    codes = kava_alloc(((size_t)need + 1) * sizeof *codes);
    if (!codes) return KAVA_MEMORY;
    need = utf8proc_decompose(text, (utf8proc_ssize_t)length, codes, need, options);
  }
  utf8proc_ssize_t size = need < 0 ? need : utf8proc_reencode(codes, need, options);
  if (size < 0) KAVA_FAIL(KAVA_MISUSE, "a normal form: %s", utf8proc_errmsg(size));
  if ((size_t)size != length || memcmp(codes, text, length) != 0) {
    KAVA_TRY(kava_buffer_add(out, codes, (size_t)size));
    *changed = true;
  }
out:
  if (codes != few) kava_free(codes);
  return st;
}

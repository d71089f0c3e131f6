#include "text/unicode.h"
#include "text/utf8.h"
#include <pthread.h>
#include <utf8proc.h>

uint8_t kava_char_table[KAVA_CHAR_LIMIT];

typedef struct range {
  uint32_t first, last;
} range;
#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static bool in_ranges(const range *list, size_t count, uint32_t c) {
  size_t low = 0, high = count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (c > list[middle].last)
      low = middle + 1;
    else
      high = middle;
  }
  return low < count && c >= list[low].first;
}

/* Hugging Face's normal forms and StripAccents are those of Unicode 9, its Punctuation that of Unicode 8: characters
 * that came later are none of theirs. Marks, then characters with a decomposition, then punctuation. */
static const range later_marks[] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xafa, 0xaff},
    {0xb55, 0xb55},     {0xc04, 0xc04},     {0xc3c, 0xc3c},     {0xcf3, 0xcf3},     {0xd00, 0xd00},
    {0xd3b, 0xd3c},     {0xd81, 0xd81},     {0xeba, 0xeba},     {0xece, 0xece},     {0x1715, 0x1715},
    {0x180f, 0x180f},   {0x1abf, 0x1ace},   {0x1cf7, 0x1cf7},   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},
    {0xa8ff, 0xa8ff},   {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50},
    {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x11073, 0x11074}, {0x110c2, 0x110c2}, {0x11145, 0x11146},
    {0x111c9, 0x111c9}, {0x111ce, 0x111cf}, {0x11241, 0x11241}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e},
    {0x1182c, 0x1183a}, {0x11930, 0x11935}, {0x11937, 0x11938}, {0x1193b, 0x1193e}, {0x11940, 0x11940},
    {0x11942, 0x11943}, {0x119d1, 0x119d7}, {0x119da, 0x119e0}, {0x119e4, 0x119e4}, {0x11a01, 0x11a0a},
    {0x11a33, 0x11a39}, {0x11a3b, 0x11a3e}, {0x11a47, 0x11a47}, {0x11a51, 0x11a5b}, {0x11a8a, 0x11a99},
    {0x11d31, 0x11d36}, {0x11d3a, 0x11d3a}, {0x11d3c, 0x11d3d}, {0x11d3f, 0x11d45}, {0x11d47, 0x11d47},
    {0x11d8a, 0x11d8e}, {0x11d90, 0x11d91}, {0x11d93, 0x11d97}, {0x11ef3, 0x11ef6}, {0x11f00, 0x11f01},
    {0x11f03, 0x11f03}, {0x11f34, 0x11f3a}, {0x11f3e, 0x11f42}, {0x13440, 0x13440}, {0x13447, 0x13455},
    {0x16f4f, 0x16f4f}, {0x16f7f, 0x16f87}, {0x16fe4, 0x16fe4}, {0x16ff0, 0x16ff1}, {0x1cf00, 0x1cf2d},
    {0x1cf30, 0x1cf46}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef},
    {0x1e4ec, 0x1e4ef}};
static const range later_forms[] = {{0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},   {0xab69, 0xab69},
                                    {0x10781, 0x10785}, {0x10787, 0x107b0}, {0x107b2, 0x107ba},
                                    {0x1e030, 0x1e06d}, {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9}};
static const range later_punctuation[] = {
    {0x61d, 0x61d},     {0x9fd, 0x9fd},     {0xa76, 0xa76},     {0xc77, 0xc77},     {0xc84, 0xc84},
    {0x1b7d, 0x1b7e},   {0x2e43, 0x2e4f},   {0x2e52, 0x2e5d},   {0x10ead, 0x10ead}, {0x10f55, 0x10f59},
    {0x10f86, 0x10f89}, {0x1144b, 0x1144f}, {0x1145a, 0x1145b}, {0x1145d, 0x1145d}, {0x11660, 0x1166c},
    {0x116b9, 0x116b9}, {0x1183b, 0x1183b}, {0x11944, 0x11946}, {0x119e2, 0x119e2}, {0x11a3f, 0x11a46},
    {0x11a9a, 0x11a9c}, {0x11a9e, 0x11aa2}, {0x11b00, 0x11b09}, {0x11c41, 0x11c45}, {0x11c70, 0x11c71},
    {0x11ef7, 0x11ef8}, {0x11f43, 0x11f4f}, {0x11fff, 0x11fff}, {0x12ff1, 0x12ff2}, {0x16e97, 0x16e9a},
    {0x16fe2, 0x16fe2}, {0x1e95e, 0x1e95f}};

bool kava_char_stands_alone(uint32_t c) {
  return c >= 0x7fd && (in_ranges(later_marks, COUNT(later_marks), c) || in_ranges(later_forms, COUNT(later_forms), c));
}

/* Letters and numbers of Unicode 15 to 16: Hugging Face's regular expressions know them, Debian's PCRE2 and utf8proc
 * not all. */
static const range new_letters[] = {{0x1c89, 0x1c8a},   {0xa7cb, 0xa7cd},   {0xa7da, 0xa7dc},   {0x105c0, 0x105f3},
                                    {0x10d4a, 0x10d65}, {0x10d6f, 0x10d85}, {0x10ec2, 0x10ec4}, {0x1123f, 0x11240},
                                    {0x11380, 0x11389}, {0x1138b, 0x1138b}, {0x1138e, 0x1138e}, {0x11390, 0x113b5},
                                    {0x113b7, 0x113b7}, {0x113d1, 0x113d1}, {0x113d3, 0x113d3}, {0x11bc0, 0x11be0},
                                    {0x11f02, 0x11f02}, {0x11f04, 0x11f10}, {0x11f12, 0x11f33}, {0x1342f, 0x1342f},
                                    {0x13441, 0x13446}, {0x13460, 0x143fa}, {0x16100, 0x1611d}, {0x16d40, 0x16d6c},
                                    {0x18cff, 0x18cff}, {0x1b132, 0x1b132}, {0x1b155, 0x1b155}, {0x1df25, 0x1df2a},
                                    {0x1e030, 0x1e06d}, {0x1e4d0, 0x1e4eb}, {0x1e5d0, 0x1e5ed}, {0x1e5f0, 0x1e5f0},
                                    {0x2b739, 0x2b739}, {0x2ebf0, 0x2ee5d}, {0x31350, 0x323af}},
                   new_numbers[] = {{0x10d40, 0x10d49}, {0x116d0, 0x116e3}, {0x11bf0, 0x11bf9}, {0x11f50, 0x11f59},
                                    {0x16130, 0x16139}, {0x16d70, 0x16d79}, {0x1ccf0, 0x1ccf9}, {0x1d2c0, 0x1d2d3},
                                    {0x1e4f0, 0x1e4f9}, {0x1e5f1, 0x1e5fa}};
/* Of those and of later marks, punctuation and symbols: a character of the same class that PCRE2 knows. */
static const struct {
  uint32_t first, last, known;
} later_classes[] = {
    {0x897, 0x897, 0x901},       {0xcf3, 0xcf3, 0x901},       {0xece, 0xece, 0x901},       {0x1b4e, 0x1b4f, 0x104a},
    {0x1b7f, 0x1b7f, 0x104a},    {0x1c89, 0x1c89, 0x1e00},    {0x1c8a, 0x1c8a, 0x1e01},    {0x2427, 0x2429, 0x2300},
    {0x2ffc, 0x2fff, 0x2300},    {0x31e4, 0x31e5, 0x2300},    {0x31ef, 0x31ef, 0x2300},    {0xa7cb, 0xa7cc, 0x1e00},
    {0xa7cd, 0xa7cd, 0x1e01},    {0xa7da, 0xa7da, 0x1e00},    {0xa7db, 0xa7db, 0x1e01},    {0xa7dc, 0xa7dc, 0x1e00},
    {0x10d4e, 0x10d4e, 0x16b40}, {0x10d50, 0x10d65, 0x10400}, {0x10d69, 0x10d6d, 0x10a01}, {0x10d6e, 0x10d6e, 0x10100},
    {0x10d6f, 0x10d6f, 0x16b40}, {0x10d70, 0x10d85, 0x10428}, {0x10d8e, 0x10d8f, 0x1f300}, {0x10efc, 0x10eff, 0x10a01},
    {0x11241, 0x11241, 0x10a01}, {0x113b8, 0x113c0, 0x10a01}, {0x113c2, 0x113c2, 0x10a01}, {0x113c5, 0x113c5, 0x10a01},
    {0x113c7, 0x113ca, 0x10a01}, {0x113cc, 0x113d0, 0x10a01}, {0x113d2, 0x113d2, 0x10a01}, {0x113d4, 0x113d5, 0x10100},
    {0x113d7, 0x113d8, 0x10100}, {0x113e1, 0x113e2, 0x10a01}, {0x11b00, 0x11b09, 0x10100}, {0x11be1, 0x11be1, 0x10100},
    {0x11f00, 0x11f01, 0x10a01}, {0x11f03, 0x11f03, 0x10a01}, {0x11f34, 0x11f3a, 0x10a01}, {0x11f3e, 0x11f42, 0x10a01},
    {0x11f43, 0x11f4f, 0x10100}, {0x11f5a, 0x11f5a, 0x10a01}, {0x13440, 0x13440, 0x10a01}, {0x13447, 0x13455, 0x10a01},
    {0x1611e, 0x1612f, 0x10a01}, {0x16d40, 0x16d42, 0x16b40}, {0x16d6b, 0x16d6c, 0x16b40}, {0x16d6d, 0x16d6f, 0x10100},
    {0x1cc00, 0x1ccef, 0x1f300}, {0x1cd00, 0x1ceb3, 0x1f300}, {0x1d2c0, 0x1d2d3, 0x1d360}, {0x1df25, 0x1df2a, 0x10428},
    {0x1e030, 0x1e06d, 0x16b40}, {0x1e08f, 0x1e08f, 0x10a01}, {0x1e4eb, 0x1e4eb, 0x16b40}, {0x1e4ec, 0x1e4ef, 0x10a01},
    {0x1e5ee, 0x1e5ef, 0x10a01}, {0x1e5ff, 0x1e5ff, 0x10100}, {0x1f6dc, 0x1f6dc, 0x1f300}, {0x1f774, 0x1f776, 0x1f300},
    {0x1f77b, 0x1f77f, 0x1f300}, {0x1f7d9, 0x1f7d9, 0x1f300}, {0x1f8b2, 0x1f8bb, 0x1f300}, {0x1f8c0, 0x1f8c1, 0x1f300},
    {0x1fa75, 0x1fa77, 0x1f300}, {0x1fa87, 0x1fa89, 0x1f300}, {0x1fa8f, 0x1fa8f, 0x1f300}, {0x1faad, 0x1faaf, 0x1f300},
    {0x1fabb, 0x1fabf, 0x1f300}, {0x1fac6, 0x1fac6, 0x1f300}, {0x1face, 0x1facf, 0x1f300}, {0x1fada, 0x1fadc, 0x1f300},
    {0x1fadf, 0x1fadf, 0x1f300}, {0x1fae8, 0x1fae9, 0x1f300}, {0x1faf7, 0x1faf8, 0x1f300}, {0x1fbcb, 0x1fbef, 0x1f300}};

static bool is_new_letter(uint32_t c) { return c >= 0x1c89 && in_ranges(new_letters, COUNT(new_letters), c); }
static bool is_new_number(uint32_t c) { return c >= 0x10d40 && in_ranges(new_numbers, COUNT(new_numbers), c); }

uint32_t kava_char_stand_in(uint32_t c) {
  if (c < 0x897) return c;
  if (c == 0x180e) return 0x200b; /* neither a space, nor a letter, nor a number */
  size_t low = 0, high = COUNT(later_classes);
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (c > later_classes[middle].last)
      low = middle + 1;
    else
      high = middle;
  }
  if (low < COUNT(later_classes) && c >= later_classes[low].first) return later_classes[low].known;
  if (is_new_letter(c)) return c < 0x10000 ? 0xa000 : c < 0x20000 ? 0x10000 : 0x20000;
  return is_new_number(c) ? 0x1d7ce : c;
}

bool kava_char_is_space(uint32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool kava_char_is_word(uint32_t c) {
  if (c == 0x200c || c == 0x200d) return true;
  if (is_new_letter(c)) return true;
  uint32_t known = kava_char_stand_in(c);
  if (known != c && c != 0x180e)
    return known == 0x1d7ce || known == 0x901 || known == 0x10a01; /* a new digit or mark */
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
  if (c == 0x166d || c == 0x111c9) return true; /* others since Unicode 12 and 11 */
  if (in_ranges(later_punctuation, COUNT(later_punctuation), c)) return false;
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
  if (c == 0x1cf2 || c == 0x1cf3) return true; /* letters since Unicode 12 */
  if (category != UTF8PROC_CATEGORY_MN && category != UTF8PROC_CATEGORY_MC && category != UTF8PROC_CATEGORY_ME)
    return false;
  return !in_ranges(later_marks, COUNT(later_marks), c);
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
  /* pairs of Unicode 16 and 17 */
  static const struct {
    uint32_t first, last, lower;
  } later[] = {{0x1c89, 0x1c89, 0x1c8a},   {0xa7cb, 0xa7cb, 0x264},  {0xa7cc, 0xa7cc, 0xa7cd},
               {0xa7ce, 0xa7ce, 0xa7cf},   {0xa7d2, 0xa7d2, 0xa7d3}, {0xa7d4, 0xa7d4, 0xa7d5},
               {0xa7da, 0xa7da, 0xa7db},   {0xa7dc, 0xa7dc, 0x19b},  {0x10d50, 0x10d65, 0x10d70},
               {0x16ea0, 0x16eb8, 0x16ebb}};
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  for (size_t i = 0; i < COUNT(later) && c >= 0x1c89; i++)
    if (c >= later[i].first && c <= later[i].last) return later[i].lower + (c - later[i].first);
  return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

bool kava_char_starts(uint32_t c) {
  if (c < 0x300 || kava_char_stands_alone(c)) return true;
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

/* Puts a run of combining marks into canonical order: by class, those of one class as they came. `spare`: room for as
 * many. */
static void order_marks(utf8proc_int32_t *run, size_t count, utf8proc_int32_t *spare) {
  size_t place[257] = {0};
  bool ordered = true;
  for (size_t i = 0; i < count; i++) {
    int class = utf8proc_get_property(run[i])->combining_class;
    ordered = ordered && (i == 0 || class >= utf8proc_get_property(run[i - 1])->combining_class);
    place[class + 1]++;
  }
  if (ordered) return;
  for (int k = 0; k < 256; k++) place[k + 1] += place[k];
  for (size_t i = 0; i < count; i++) spare[place[utf8proc_get_property(run[i])->combining_class]++] = run[i];
  memcpy(run, spare, count * sizeof *run);
}

/* As utf8proc_decompose, whose own order takes a time that grows with the square of a run of marks: returns how many
 * code points there are, of which `codes` gets at most `room`, all of them in order where they fit. Behind those it has
 * room for as many again. */
static utf8proc_ssize_t decompose(const uint8_t *text, size_t length, utf8proc_option_t options,
                                  utf8proc_int32_t *codes, size_t room) {
  size_t count = 0, n;
  int bound = 0;
  for (size_t i = 0; i < length; i += n) {
    utf8proc_int32_t c = (utf8proc_int32_t)kava_utf8_read(text + i, &n);
    size_t at = count < room ? count : room;
    utf8proc_ssize_t came = utf8proc_decompose_char(c, codes + at, (utf8proc_ssize_t)(room - at), options, &bound);
    if (came < 0) return came;
    count += (size_t)came;
  }
  for (size_t i = 0, end; i < count && count <= room; i = end + 1) {
    for (end = i; end < count && utf8proc_get_property(codes[end])->combining_class > 0;) end++;
    if (end > i + 1) order_marks(codes + i, end - i, codes + room);
  }
  return (utf8proc_ssize_t)count;
}

kava_status kava_normal_form(const uint8_t *text, size_t length, kava_form form, kava_buffer *out, bool *changed) {
  static const int of_form[] = {UTF8PROC_COMPOSE, UTF8PROC_DECOMPOSE, UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
                                UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
  enum { FEW = 64 };
  *changed = false;
  const utf8proc_option_t options = (utf8proc_option_t)(UTF8PROC_STABLE | of_form[form]);
  kava_status st = KAVA_OK;
  utf8proc_int32_t few[2 * FEW + 1], *codes = few; /* reencoding wants one more */
  utf8proc_ssize_t need = decompose(text, length, options, few, FEW);
  if (need > FEW) {
    codes = kava_alloc((2 * (size_t)need + 1) * sizeof *codes);
    if (!codes) return KAVA_MEMORY;
    need = decompose(text, length, options, codes, (size_t)need);
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

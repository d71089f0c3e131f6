/* text/unicode: what tokenizers need to know of characters: the classes their patterns name, case, normal
 * forms, graphemes. Each is as Hugging Face's libraries have it, whichever Unicode that is. */
#ifndef KAVA_TEXT_UNICODE_H
#define KAVA_TEXT_UNICODE_H
#include "text/buffer.h"
#include <stdbool.h>

/* Classes of the pre-tokenizer patterns. Spaces are the White_Space property (so not U+180E, which PCRE2 counts as \s).
 */
enum {
  KAVA_CHAR_OTHER,
  KAVA_CHAR_LETTER,
  KAVA_CHAR_NUMBER,
  KAVA_CHAR_SPACE,
  KAVA_CHAR_NEWLINE /* CR, LF: spaces too */
};

#define KAVA_CHAR_LIMIT 0x32400 /* above it there are neither letters nor numbers nor spaces */
extern uint8_t kava_char_table[KAVA_CHAR_LIMIT];
void kava_unicode_init(void); /* fills the table, once; thread-safe */
static inline int kava_char_class(uint32_t c) { return c < KAVA_CHAR_LIMIT ? kava_char_table[c] : KAVA_CHAR_OTHER; }

/* A character of the same class and the same length in UTF-8 that PCRE2 sees as the patterns' authors (Oniguruma, a
 * later Unicode) see c; c itself nearly always. */
uint32_t kava_char_stand_in(uint32_t c);

bool kava_char_is_word(uint32_t c);        /* \w as added tokens' single_word means it */
bool kava_char_is_space(uint32_t c);       /* White_Space, without the table */
bool kava_char_is_punctuation(uint32_t c); /* ASCII's and Unicode's (P) */
bool kava_char_is_mark(uint32_t c);        /* a combining mark (M) */

uint32_t kava_char_lower(uint32_t c);

/* True where c surely does not join the character before it in any normal form, so that text may be cut before it; nor
 * does the next join one for which kava_char_stands_alone. */
bool kava_char_starts(uint32_t c);
bool kava_char_stands_alone(uint32_t c); /* too new for the normal forms, which leave it as it is */

/* The length of the grapheme cluster at the start of valid UTF-8; length is above 0. */
size_t kava_grapheme(const uint8_t *text, size_t length);

/* A normal form of valid UTF-8 that has none of the characters that stand alone. *changed says whether it was needed:
 * if not, `out` is left as it was, else the result is appended. */
typedef enum kava_form { KAVA_NFC, KAVA_NFD, KAVA_NFKC, KAVA_NFKD } kava_form;
kava_status kava_normal_form(const uint8_t *text, size_t length, kava_form form, kava_buffer *out, bool *changed);
bool kava_is_plainly_nfc(const uint8_t *text, size_t length); /* a quick look; false says nothing */
#endif

/* text/unicode: what tokenizers need to know of characters: the classes their patterns name, and NFC. */
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

bool kava_char_is_word(uint32_t c);  /* \w as added tokens' single_word means it */
bool kava_char_is_space(uint32_t c); /* White_Space, without the table */

/* NFC of valid UTF-8. *changed says whether it was needed: if not, `out` is left as it was, else the result is
 * appended. */
kava_status kava_nfc(const uint8_t *text, size_t length, kava_buffer *out, bool *changed);
#endif

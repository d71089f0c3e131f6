/* text/bpe: a BPE vocabulary and its merges, and the merging itself.
 *
 * Two kinds. Byte-level: tokens are kept as the bytes they stand for: the byte-level alphabet (GPT-2's printable
 * stand-ins for the 256 bytes) is undone while loading. A token with a character outside that alphabet stands for its
 * own UTF-8 ("literal"); text never merges into one. By characters (`chars`, as SentencePiece has it): tokens are
 * their own UTF-8, merging starts from characters, and one that is no token becomes its bytes' tokens ("<0x41>", where
 * `byte_fallback`) or the unknown one.
 *
 * Merging: of all adjacent pairs the one of lowest rank, the leftmost of equals, until no pair has a rank. A merge is
 * (left id, right id) -> (rank, id) in an open-addressing table.
 *
 * A kava_bpe is immutable once built and may be used from many threads, each with its own kava_bpe_scratch. */
#ifndef KAVA_TEXT_BPE_H
#define KAVA_TEXT_BPE_H
#include "text/aligned.h"

typedef struct kava_token {
  uint32_t offset; /* into bytes */
  /* added: among the added tokens; special: one that decoding may skip; unlisted: text never becomes it */
  uint32_t length : 28, literal : 1, added : 1, special : 1, unlisted : 1;
} kava_token;
#define KAVA_TOKEN_ABSENT UINT32_MAX /* offset of an id that has no token */

typedef struct kava_merge {
  uint64_t pair; /* left << 32 | right; UINT64_MAX: free */
  uint32_t rank;
  int32_t id;
} kava_merge;

typedef struct kava_bpe {
  kava_token *tokens;     /* by id */
  int32_t size, capacity; /* 1 + the highest id */
  int32_t count;          /* ids that have a token */
  kava_buffer bytes;
  struct {
    uint32_t hash;
    int32_t id; /* -1: free */
  } * slots;
  uint32_t slot_mask, slots_used;
  kava_merge *merges;
  uint64_t merge_mask;
  int64_t merge_count;
  uint32_t next_rank;
  int32_t last_made;    /* by a merge, while they are added */
  int32_t byte_id[256]; /* -1: the vocabulary lacks the byte */
  int32_t char_id[128]; /* `chars`: ids of ASCII characters, -1: none */
  int32_t unknown;      /* stands for what is not there; -1: it is dropped */
  bool fuse_unknown, ignore_merges;
  bool chars, byte_fallback;
  bool unique; /* a token that comes twice is an error */
  /* `chars` without ignore_merges: where a text may be cut because no merge ever joins what lies there, so that short
   * stretches are merged one by one. words: before a word's mark that follows something else. joins, by the byte before
   * and the ASCII character behind: bits of those places that may not be cut. */
  bool cuts, words;
  uint32_t joins[256][4];
} kava_bpe;

/* Building: size the tables, set `chars` and `unique`, add tokens, finish_tokens, add merges, finish_merges. */
kava_status kava_bpe_init(kava_bpe *bpe, int64_t tokens, int64_t merges); /* expected counts: at most 2^31/2 */
void kava_bpe_free(kava_bpe *bpe);
kava_status kava_bpe_add_token(kava_bpe *bpe, const char *text, size_t length,
                               int64_t id); /* in the alphabet; KAVA_FORMAT */
kava_status kava_bpe_add_unlisted(kava_bpe *bpe, const char *text, size_t length,
                                  int64_t id); /* text never becomes it */
void kava_bpe_finish_tokens(kava_bpe *bpe);
/* The next merge in rank order, both sides in the alphabet; KAVA_FORMAT when a side or the result is no token. */
kava_status kava_bpe_add_merge(kava_bpe *bpe, const char *left, size_t left_size, const char *right, size_t right_size);
kava_status kava_bpe_add_merge_ids(kava_bpe *bpe, int32_t left, int32_t right, int32_t id);
/* For vocabularies that have scores instead of merges: every token of those given is made by joining any two tokens
 * that spell it, the highest score first. */
kava_status kava_bpe_merge_by_score(kava_bpe *bpe, const float *scores, const bool *joined, int32_t count);
void kava_bpe_finish_merges(kava_bpe *bpe);

/* Looking. */
int32_t kava_bpe_find(const kava_bpe *bpe, const uint8_t *bytes, size_t length); /* id of non-literal token, or -1 */
int32_t kava_bpe_find_text(const kava_bpe *bpe, const char *text,
                           size_t length); /* as the vocabulary spells it, or -1 */
static inline bool kava_bpe_has(const kava_bpe *bpe, int64_t id) {
  return id >= 0 && id < bpe->size && bpe->tokens[id].offset != KAVA_TOKEN_ABSENT;
}
kava_status kava_bpe_spell(const kava_bpe *bpe, int32_t id, kava_buffer *out); /* appends the vocabulary's spelling */
kava_status kava_bpe_sorted_merges(const kava_bpe *bpe, kava_merge **out); /* merge_count of them by rank; kava_free */

/* The byte-level alphabet. */
uint32_t kava_byte_char(uint8_t byte);
int kava_char_byte(uint32_t c); /* -1: not in the alphabet */
/* Appends the bytes that `text` spells, or `text` itself where it is not spelt in the alphabet. */
kava_status kava_unspell(const uint8_t *text, size_t length, kava_buffer *out);

#define KAVA_WORD_MARK "\xe2\x96\x81" /* U+2581, SentencePiece's space */

/* Encoding. */
typedef struct kava_bpe_scratch {
  struct cached_word *cache; /* short pieces seen before; made when enough of them have come */
  uint32_t words;            /* that came before it was made */
  int32_t *ids, *prev, *next;
  uint32_t *rank, *from, *to; /* from, to: a symbol's bytes in the piece */
  int32_t *merged;
  uint64_t *heap;
  size_t capacity; /* symbols the arrays hold */
  size_t heap_capacity;
} kava_bpe_scratch;
void kava_bpe_scratch_free(kava_bpe_scratch *scratch);
/* Appends the ids of one pre-token, and to `spans`, where not NULL, their bytes within it; length below 2^31. */
kava_status kava_bpe_encode(const kava_bpe *bpe, kava_bpe_scratch *scratch, const uint8_t *piece, size_t length,
                            kava_ids *out, kava_spans *spans);
#endif

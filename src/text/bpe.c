#include "text/bpe.h"
#include "base/hash.h"
#include "text/utf8.h"
#include <stdio.h>
#include <stdlib.h>

#define NO_RANK UINT32_MAX

/* ---- the byte-level alphabet: printable Latin-1 stands for itself, the other 68 bytes for U+0100 and up, in order */

static bool printable(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

uint32_t kava_byte_char(uint8_t byte) {
  if (printable(byte)) return byte;
  if (byte <= 0x20) return 0x100u + byte;
  if (byte <= 0xa0) return 0x121u + (byte - 0x7fu);
  return 0x143; /* 0xad */
}

int kava_char_byte(uint32_t c) {
  if (c < 0x100) return printable((int)c) ? (int)c : -1;
  if (c <= 0x120) return (int)(c - 0x100);
  if (c <= 0x142) return (int)(c - 0x121 + 0x7f);
  return c == 0x143 ? 0xad : -1;
}

/* ---- tables */

static uint64_t table_size(int64_t entries) { /* a power of two that leaves a quarter and more free */
  uint64_t size = 64;
  while (size < (uint64_t)entries + (uint64_t)entries / 3 + 16) size *= 2;
  return size;
}

kava_status kava_bpe_init(kava_bpe *bpe, int64_t tokens, int64_t merges) {
  *bpe = (kava_bpe){.unknown = -1};
  if (tokens < 0 || merges < 0 || tokens > INT32_MAX / 2 || merges > INT32_MAX / 2)
    return kava_fail(KAVA_FORMAT, "%lld tokens and %lld merges: too many", (long long)tokens, (long long)merges);
  for (int i = 0; i < 256; i++) bpe->byte_id[i] = -1;
  uint64_t slots = table_size(tokens), pairs = table_size(merges);
  bpe->slots = kava_alloc(slots * sizeof *bpe->slots);
  bpe->merges = kava_alloc(pairs * sizeof *bpe->merges);
  if (!bpe->slots || !bpe->merges || kava_buffer_grow(&bpe->bytes, 1) != KAVA_OK) { /* 1: an empty token has a place */
    kava_bpe_free(bpe);
    return KAVA_MEMORY;
  }
  for (uint64_t i = 0; i < slots; i++) bpe->slots[i].id = -1;
  for (uint64_t i = 0; i < pairs; i++) bpe->merges[i].pair = UINT64_MAX;
  bpe->slot_mask = (uint32_t)(slots - 1);
  bpe->merge_mask = pairs - 1;
  return KAVA_OK;
}

void kava_bpe_free(kava_bpe *bpe) {
  kava_free(bpe->tokens);
  kava_free(bpe->slots);
  kava_free(bpe->merges);
  kava_buffer_free(&bpe->bytes);
  *bpe = (kava_bpe){.unknown = -1};
}

static kava_status grow_slots(kava_bpe *bpe) {
  uint32_t mask = bpe->slot_mask * 2 + 1;
  void *fresh = kava_alloc(((size_t)mask + 1) * sizeof *bpe->slots);
  if (!fresh) return KAVA_MEMORY;
  void *old = bpe->slots;
  uint32_t old_mask = bpe->slot_mask;
  kava_bpe before = *bpe;
  bpe->slots = fresh;
  bpe->slot_mask = mask;
  for (uint64_t i = 0; i <= mask; i++) bpe->slots[i].id = -1;
  for (uint64_t i = 0; i <= old_mask; i++) {
    if (before.slots[i].id < 0) continue;
    uint32_t at = before.slots[i].hash & mask;
    while (bpe->slots[at].id >= 0) at = (at + 1) & mask;
    bpe->slots[at] = before.slots[i];
  }
  kava_free(old);
  return KAVA_OK;
}

static inline bool token_is(const kava_bpe *bpe, int32_t id, const uint8_t *bytes, size_t length) {
  kava_token token = bpe->tokens[id];
  return token.length == length && memcmp(bpe->bytes.data + token.offset, bytes, length) == 0;
}

static kava_status add(kava_bpe *bpe, const uint8_t *bytes, size_t length, bool literal, bool listed, int64_t id) {
  kava_status st;
  if (id < 0 || id > INT32_MAX / 2) return kava_fail(KAVA_FORMAT, "token id %lld is out of range", (long long)id);
  if (kava_bpe_has(bpe, id)) return kava_fail(KAVA_FORMAT, "two tokens have the id %lld", (long long)id);
  if (bpe->bytes.size + length > UINT32_MAX - 1) return kava_fail(KAVA_FORMAT, "the vocabulary is longer than 4 GB");
  if (id >= bpe->capacity) {
    int32_t capacity = (int32_t)id < bpe->capacity * 2 ? bpe->capacity * 2 : (int32_t)id + 1024;
    kava_token *tokens = kava_realloc(bpe->tokens, (size_t)capacity * sizeof *tokens);
    if (!tokens) return KAVA_MEMORY;
    bpe->tokens = tokens;
    bpe->capacity = capacity;
  }
  if ((uint64_t)bpe->slots_used + 1 > (uint64_t)bpe->slot_mask * 3 / 4 && (st = grow_slots(bpe)) != KAVA_OK) return st;
  uint32_t offset = (uint32_t)bpe->bytes.size, hash = (uint32_t)kava_hash(bytes, length), at = hash & bpe->slot_mask;
  for (; bpe->slots[at].id >= 0; at = (at + 1) & bpe->slot_mask) {
    int32_t other = bpe->slots[at].id;
    if (!bpe->unique || bpe->slots[at].hash != hash || bpe->tokens[other].literal != literal) continue;
    if (token_is(bpe, other, bytes, length)) return kava_fail(KAVA_FORMAT, "the token is there twice");
  }
  if ((st = kava_buffer_add(&bpe->bytes, bytes, length)) != KAVA_OK) return st;
  while (bpe->size <= id) bpe->tokens[bpe->size++] = (kava_token){.offset = KAVA_TOKEN_ABSENT};
  bpe->tokens[id] = (kava_token){.offset = offset, .length = (uint32_t)length, .literal = literal, .unlisted = !listed};
  bpe->count++;
  bpe->slots[at].hash = hash;
  bpe->slots[at].id = (int32_t)id;
  bpe->slots_used++;
  return KAVA_OK;
}

/* Undoes the alphabet into `out` (room for `length` bytes); false when a character is not of it. */
static bool unspell(const char *text, size_t length, uint8_t *out, size_t *size) {
  const uint8_t *p = (const uint8_t *)text, *end = p + length;
  *size = 0;
  while (p < end) {
    uint32_t c = *p;
    size_t n = 1;
    if (c >= 0x80) { /* the alphabet's other characters have two bytes, which this check needs no validation for */
      if ((c & 0xe0) != 0xc0 || end - p < 2 || (p[1] & 0xc0) != 0x80) return false;
      c = kava_utf8_read(p, &n);
    }
    int byte = kava_char_byte(c);
    if (byte < 0) return false;
    out[(*size)++] = (uint8_t)byte;
    p += n;
  }
  return true;
}

#define LONGEST_TOKEN (1u << 20)
#define LONGEST_MADE 1024u /* bytes of a token that a merge makes */

kava_status kava_unspell(const uint8_t *text, size_t length, kava_buffer *out) {
  size_t size;
  kava_status st = kava_buffer_grow(out, length);
  if (st != KAVA_OK) return st;
  if (!unspell((const char *)text, length, out->data + out->size, &size)) return kava_buffer_add(out, text, length);
  out->size += size;
  return KAVA_OK;
}

static kava_status add_spelt(kava_bpe *bpe, const char *text, size_t length, bool listed, int64_t id) {
  uint8_t small[512], *bytes = small;
  size_t size;
  if (length > LONGEST_TOKEN)
    return kava_fail(KAVA_FORMAT, "token %lld has %zu bytes: too long", (long long)id, length);
  if (bpe->chars) return add(bpe, (const uint8_t *)text, length, false, listed, id);
  if (length > sizeof small && !(bytes = kava_alloc(length))) return KAVA_MEMORY;
  kava_status st = unspell(text, length, bytes, &size) ? add(bpe, bytes, size, false, listed, id)
                                                       : add(bpe, (const uint8_t *)text, length, true, listed, id);
  if (bytes != small) kava_free(bytes);
  return st;
}

kava_status kava_bpe_add_token(kava_bpe *bpe, const char *text, size_t length, int64_t id) {
  return add_spelt(bpe, text, length, true, id);
}

kava_status kava_bpe_add_unlisted(kava_bpe *bpe, const char *text, size_t length, int64_t id) {
  return add_spelt(bpe, text, length, false, id);
}

void kava_bpe_finish_tokens(kava_bpe *bpe) {
  for (int i = 0; i < 256; i++) {
    char name[8];
    if (bpe->chars) snprintf(name, sizeof name, "<0x%02X>", i);
    bpe->byte_id[i] =
        bpe->chars ? kava_bpe_find(bpe, (const uint8_t *)name, 6) : kava_bpe_find(bpe, &(uint8_t){(uint8_t)i}, 1);
    if (i < 128) bpe->char_id[i] = kava_bpe_find(bpe, &(uint8_t){(uint8_t)i}, 1);
  }
}

static int32_t find(const kava_bpe *bpe, const uint8_t *bytes, size_t length, bool literal, bool unlisted) {
  uint32_t hash = (uint32_t)kava_hash(bytes, length);
  for (uint32_t at = hash & bpe->slot_mask; bpe->slots[at].id >= 0; at = (at + 1) & bpe->slot_mask) {
    int32_t id = bpe->slots[at].id;
    if (bpe->slots[at].hash != hash || !token_is(bpe, id, bytes, length)) continue;
    if (bpe->tokens[id].literal == literal && (unlisted || !bpe->tokens[id].unlisted)) return id;
  }
  return -1;
}

int32_t kava_bpe_find(const kava_bpe *bpe, const uint8_t *bytes, size_t length) {
  return find(bpe, bytes, length, false, false);
}

int32_t kava_bpe_find_text(const kava_bpe *bpe, const char *text, size_t length) {
  uint8_t small[512], *bytes = small;
  size_t size;
  if (bpe->chars) return find(bpe, (const uint8_t *)text, length, false, true);
  if (length > LONGEST_TOKEN || (length > sizeof small && !(bytes = kava_alloc(length)))) return -1;
  bool literal = !unspell(text, length, bytes, &size);
  int32_t id = literal ? find(bpe, (const uint8_t *)text, length, true, true) : find(bpe, bytes, size, false, true);
  if (bytes != small) kava_free(bytes);
  return id;
}

kava_status kava_bpe_spell(const kava_bpe *bpe, int32_t id, kava_buffer *out) {
  kava_token token = bpe->tokens[id];
  const uint8_t *bytes = bpe->bytes.data + token.offset;
  if (token.literal || bpe->chars) return kava_buffer_add(out, bytes, token.length);
  kava_status st = kava_buffer_grow(out, (size_t)token.length * 2);
  if (st != KAVA_OK) return st;
  for (uint32_t i = 0; i < token.length; i++)
    out->size += kava_utf8_write(kava_byte_char(bytes[i]), out->data + out->size);
  return KAVA_OK;
}

static kava_status grow_merges(kava_bpe *bpe) {
  uint64_t mask = bpe->merge_mask * 2 + 1;
  kava_merge *fresh = kava_alloc((mask + 1) * sizeof *fresh);
  if (!fresh) return KAVA_MEMORY;
  for (uint64_t i = 0; i <= mask; i++) fresh[i].pair = UINT64_MAX;
  for (uint64_t i = 0; i <= bpe->merge_mask; i++) {
    if (bpe->merges[i].pair == UINT64_MAX) continue;
    uint64_t at = kava_hash_words(bpe->merges[i].pair, 0) & mask;
    while (fresh[at].pair != UINT64_MAX) at = (at + 1) & mask;
    fresh[at] = bpe->merges[i];
  }
  kava_free(bpe->merges);
  bpe->merges = fresh;
  bpe->merge_mask = mask;
  return KAVA_OK;
}

static kava_status put_merge(kava_bpe *bpe, int32_t left, int32_t right, int32_t id, uint32_t rank) {
  kava_status st;
  if ((uint64_t)bpe->merge_count + 1 > bpe->merge_mask / 4 * 3 && (st = grow_merges(bpe)) != KAVA_OK) return st;
  uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right, at = kava_hash_words(pair, 0) & bpe->merge_mask;
  while (bpe->merges[at].pair != UINT64_MAX && bpe->merges[at].pair != pair) at = (at + 1) & bpe->merge_mask;
  if (bpe->merges[at].pair == UINT64_MAX) bpe->merge_count++; /* of a repeated pair the later rank counts */
  bpe->merges[at] = (kava_merge){.pair = pair, .rank = rank, .id = id};
  return KAVA_OK;
}

kava_status kava_bpe_add_merge_ids(kava_bpe *bpe, int32_t left, int32_t right, int32_t id) {
  return put_merge(bpe, left, right, id, bpe->next_rank++);
}

static int falling(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x < y) - (x > y);
}

kava_status kava_bpe_merge_by_score(kava_bpe *bpe, const float *scores, const bool *joined, int32_t count) {
  kava_status st = KAVA_OK;
  size_t different = 0;
  float *sorted = kava_alloc(((size_t)count + 1) * sizeof *sorted); /* distinct scores; a rank is a place in it */
  if (!sorted) return KAVA_MEMORY;
  for (int32_t id = 0; id < count; id++) {
    if (scores[id] != scores[id]) KAVA_FAIL(KAVA_FORMAT, "token %d has no number for a score", id);
    sorted[id] = scores[id];
  }
  qsort(sorted, (size_t)count, sizeof *sorted, falling);
  for (int32_t i = 0; i < count; i++)
    if (i == 0 || sorted[i] != sorted[different - 1]) sorted[different++] = sorted[i];
  for (int32_t id = 0; id < count; id++) {
    if (!joined[id] || !kava_bpe_has(bpe, id)) continue;
    kava_token token = bpe->tokens[id];
    const uint8_t *bytes = bpe->bytes.data + token.offset;
    if (token.length > LONGEST_MADE)
      KAVA_FAIL(KAVA_FORMAT, "token %d has %u bytes: too long to be made of others", id, token.length);
    const float *place = bsearch(&scores[id], sorted, different, sizeof *sorted, falling);
    for (uint32_t cut = 1; cut < token.length; cut++) {
      if ((bytes[cut] & 0xc0) == 0x80) continue;
      int32_t left = kava_bpe_find(bpe, bytes, cut);
      int32_t right = left < 0 ? -1 : kava_bpe_find(bpe, bytes + cut, token.length - cut);
      if (right < 0) continue;
      KAVA_TRY(put_merge(bpe, left, right, id, (uint32_t)(place - sorted)));
    }
  }
  bpe->next_rank = (uint32_t)different;
out:
  kava_free(sorted);
  return st;
}

static bool has_inner_mark(const uint8_t *bytes, size_t length) { /* a word's mark behind something else */
  bool begun = false;
  for (size_t at = 0; at < length; at++) {
    bool here = length - at >= 3 && !memcmp(bytes + at, KAVA_WORD_MARK, 3);
    if (here && begun) return true;
    begun |= !here;
    at += here ? 2 : 0;
  }
  return false;
}

void kava_bpe_finish_merges(kava_bpe *bpe) {
  /* what stands behind a cut must be a token: else unknown characters on both sides could be one */
  bpe->cuts = bpe->chars && !bpe->ignore_merges;
  bpe->words = bpe->cuts && kava_bpe_find(bpe, (const uint8_t *)KAVA_WORD_MARK, 3) >= 0;
  uint32_t unknown[4] = {0};
  for (int c = 0; c < 128; c++)
    if (bpe->char_id[c] < 0) unknown[c / 32] |= 1u << (c % 32);
  for (int before = 0; before < 256; before++) memcpy(bpe->joins[before], unknown, sizeof unknown);
  for (uint64_t i = 0; i <= bpe->merge_mask && bpe->cuts; i++) {
    const kava_merge *merge = &bpe->merges[i];
    if (merge->pair == UINT64_MAX) continue;
    kava_token left = bpe->tokens[merge->pair >> 32], right = bpe->tokens[(uint32_t)merge->pair];
    kava_token made = bpe->tokens[merge->id];
    if (left.length == 0 || right.length == 0) {
      bpe->cuts = false;
      break;
    }
    uint8_t before = bpe->bytes.data[left.offset + left.length - 1], c = bpe->bytes.data[right.offset];
    if (c < 128) bpe->joins[before][c / 32] |= 1u << (c % 32);
    if (bpe->words && has_inner_mark(bpe->bytes.data + made.offset, made.length)) bpe->words = false;
  }
}

/* The token that a merge makes: nearly always that of the merge before, or the next, so those are looked at first. */
static int32_t find_made(const kava_bpe *bpe, const uint8_t *bytes, size_t length) {
  for (int32_t id = bpe->last_made; id <= bpe->last_made + 1 && kava_bpe_has(bpe, id); id++)
    if (token_is(bpe, id, bytes, length) && !bpe->tokens[id].literal && !bpe->tokens[id].unlisted) return id;
  return kava_bpe_find(bpe, bytes, length);
}

kava_status kava_bpe_add_merge(kava_bpe *bpe, const char *left, size_t left_size, const char *right,
                               size_t right_size) {
  uint8_t bytes[LONGEST_MADE];
  size_t a = 0, b = 0;
  const char *why = "is longer than 1024 bytes";
  if (left_size <= LONGEST_MADE && right_size <= LONGEST_MADE - left_size) {
    why = "has a side that is not spelt in the byte-level alphabet";
    bool read = true;
    if (bpe->chars) {
      memcpy(bytes, left, left_size);
      memcpy(bytes + left_size, right, right_size);
      a = left_size;
      b = right_size;
    } else {
      read = unspell(left, left_size, bytes, &a) && unspell(right, right_size, bytes + a, &b);
    }
    if (read) {
      int32_t left_id = kava_bpe_find(bpe, bytes, a), right_id = kava_bpe_find(bpe, bytes + a, b);
      int32_t id = find_made(bpe, bytes, a + b);
      if (left_id >= 0 && right_id >= 0 && id >= 0) {
        bpe->last_made = id;
        return kava_bpe_add_merge_ids(bpe, left_id, right_id, id);
      }
      why = left_id < 0    ? "has a left side that is no token"
            : right_id < 0 ? "has a right side that is no token"
                           : "makes something that is no token";
    }
  }
  return kava_fail(KAVA_FORMAT, "merge %u ('%.*s' '%.*s') %s", bpe->next_rank + 1,
                   (int)(left_size < 40 ? left_size : 40), left, (int)(right_size < 40 ? right_size : 40), right, why);
}

static int by_rank(const void *a, const void *b) {
  const kava_merge *x = a, *y = b;
  if (x->rank != y->rank) return x->rank > y->rank ? 1 : -1;
  return (x->pair > y->pair) - (x->pair < y->pair); /* those by score share ranks */
}

kava_status kava_bpe_sorted_merges(const kava_bpe *bpe, kava_merge **out) {
  kava_merge *list = kava_alloc((size_t)(bpe->merge_count + 1) * sizeof *list);
  if (!list) return KAVA_MEMORY;
  size_t n = 0;
  for (uint64_t i = 0; i <= bpe->merge_mask; i++)
    if (bpe->merges[i].pair != UINT64_MAX) list[n++] = bpe->merges[i];
  qsort(list, n, sizeof *list, by_rank);
  *out = list;
  return KAVA_OK;
}

/* ---- encoding */

static inline uint32_t find_merge(const kava_bpe *bpe, int32_t left, int32_t right, int32_t *id) {
  uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
  for (uint64_t at = kava_hash_words(pair, 0) & bpe->merge_mask;; at = (at + 1) & bpe->merge_mask) {
    const kava_merge *merge = &bpe->merges[at];
    if (merge->pair == pair) {
      *id = merge->id;
      return merge->rank;
    }
    if (merge->pair == UINT64_MAX) return NO_RANK;
  }
}

/* Words come back: a direct-mapped table of short pieces and their ids. */
#define CACHED_BYTES 16
#define CACHED_IDS 5
#define CACHE_SIZE 32768
#define CACHE_AFTER 200
struct cached_word {
  uint64_t a, b;
  uint8_t length, count; /* length 0: free */
  int32_t ids[CACHED_IDS];
};

void kava_bpe_scratch_free(kava_bpe_scratch *s) {
  kava_free(s->cache);
  kava_free(s->ids);
  kava_free(s->prev);
  kava_free(s->next);
  kava_free(s->rank);
  kava_free(s->merged);
  kava_free(s->from);
  kava_free(s->to);
  kava_free(s->heap);
  *s = (kava_bpe_scratch){0};
}

static kava_status reserve(kava_bpe_scratch *s, size_t symbols) {
  if (s->capacity >= symbols) return KAVA_OK;
  size_t capacity = s->capacity * 2 > symbols ? s->capacity * 2 : symbols + 256;
  void **const arrays[] = {(void **)&s->ids,  (void **)&s->prev,   (void **)&s->next, (void **)&s->rank,
                           (void **)&s->from, (void **)&s->merged, (void **)&s->to};
  s->capacity = 0;
  for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
    kava_free(*arrays[i]);
    *arrays[i] = kava_alloc(capacity * sizeof(uint32_t));
  }
  for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
    if (!*arrays[i]) return KAVA_MEMORY;
  s->capacity = capacity;
  return KAVA_OK;
}

/* The bytes' symbols into s->ids; how many. */
static size_t first_bytes(const kava_bpe *bpe, kava_bpe_scratch *s, const uint8_t *piece, size_t length) {
  size_t n = 0;
  bool was_unknown = false;
  for (size_t i = 0; i < length; i++) {
    int32_t id = bpe->byte_id[piece[i]];
    bool unknown = id < 0;
    if (unknown) {
      id = bpe->unknown;
      if (id >= 0 && was_unknown && bpe->fuse_unknown) s->to[n - 1] = (uint32_t)i + 1;
      if (id < 0 || (was_unknown && bpe->fuse_unknown)) continue;
    }
    was_unknown = unknown;
    s->from[n] = (uint32_t)i;
    s->to[n] = (uint32_t)i + 1;
    s->ids[n++] = id;
  }
  return n;
}

/* The characters' symbols. An unknown one waits until a character that is a token comes, so that it can grow; bytes do
 * not end it, and overtake it (as Hugging Face has it; seen only where some byte is no token). */
static size_t first_chars(const kava_bpe *bpe, kava_bpe_scratch *s, const uint8_t *piece, size_t length) {
  size_t n = 0, size;
  bool waiting = false;
  uint32_t from = 0, to = 0;
#define ADD_SYMBOL(symbol, begin, end)                                                                                 \
  (s->from[n] = (uint32_t)(begin), s->to[n] = (uint32_t)(end), s->ids[n] = (symbol), n++)
  for (size_t i = 0; i < length; i += size) {
    size = 1;
    if (piece[i] >= 0x80) kava_utf8_read(piece + i, &size);
    int32_t id = piece[i] < 0x80 ? bpe->char_id[piece[i]] : kava_bpe_find(bpe, piece + i, size);
    if (id >= 0) {
      if (waiting) ADD_SYMBOL(bpe->unknown, from, to);
      waiting = false;
      ADD_SYMBOL(id, i, i + size);
      continue;
    }
    bool bytes = bpe->byte_fallback;
    for (size_t k = 0; k < size && bytes; k++) bytes = bpe->byte_id[piece[i + k]] >= 0;
    if (bytes) {
      for (size_t k = 0; k < size; k++) ADD_SYMBOL(bpe->byte_id[piece[i + k]], i + k, i + k + 1);
    } else if (bpe->unknown >= 0) {
      if (waiting && !bpe->fuse_unknown) ADD_SYMBOL(bpe->unknown, from, to);
      if (!waiting || !bpe->fuse_unknown) from = (uint32_t)i;
      to = (uint32_t)(i + size);
      waiting = true;
    }
  }
  if (waiting) ADD_SYMBOL(bpe->unknown, from, to);
#undef ADD_SYMBOL
  return n;
}

/* Short pieces: the lowest rank is found by looking at all of them, which for a dozen beats any structure. */
static size_t merge_short(const kava_bpe *bpe, kava_bpe_scratch *s, size_t n) {
  int32_t *ids = s->ids, *merged = s->merged;
  uint32_t *rank = s->rank;
  for (size_t i = 0; i + 1 < n; i++) rank[i] = find_merge(bpe, ids[i], ids[i + 1], &merged[i]);
  while (n > 1) {
    size_t best = 0;
    uint32_t lowest = rank[0];
    for (size_t i = 1; i + 1 < n; i++)
      if (rank[i] < lowest) {
        lowest = rank[i];
        best = i;
      }
    if (lowest == NO_RANK) break;
    ids[best] = merged[best];
    size_t tail = n - best - 2; /* symbols behind the pair */
    memmove(ids + best + 1, ids + best + 2, tail * sizeof *ids);
    memmove(rank + best + 1, rank + best + 2, tail * sizeof *rank);
    memmove(merged + best + 1, merged + best + 2, tail * sizeof *merged);
    n--;
    if (best + 1 < n) rank[best] = find_merge(bpe, ids[best], ids[best + 1], &merged[best]);
    if (best > 0) rank[best - 1] = find_merge(bpe, ids[best - 1], ids[best], &merged[best - 1]);
  }
  return n;
}

static inline void heap_push(uint64_t *heap, size_t *size, uint64_t key) {
  size_t i = (*size)++;
  while (i > 0 && heap[(i - 1) / 2] > key) {
    heap[i] = heap[(i - 1) / 2];
    i = (i - 1) / 2;
  }
  heap[i] = key;
}

static inline uint64_t heap_pop(uint64_t *heap, size_t *size) {
  uint64_t top = heap[0], key = heap[--*size];
  size_t i = 0;
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= *size) break;
    if (child + 1 < *size && heap[child + 1] < heap[child]) child++;
    if (heap[child] >= key) break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = key;
  return top;
}

/* Long pieces: a heap of rank << 32 | position over a linked list of symbols. An entry is stale, and skipped, when the
 * pair at its position has another rank by now. Each merge pushes at most two entries, so 3n hold them all. */
static kava_status merge_long(const kava_bpe *bpe, kava_bpe_scratch *s, size_t *count) {
  size_t n = *count, size = 0;
  if (s->heap_capacity < 3 * n) {
    kava_free(s->heap);
    s->heap_capacity = 0;
    if (!(s->heap = kava_alloc(3 * n * sizeof *s->heap))) return KAVA_MEMORY;
    s->heap_capacity = 3 * n;
  }
  for (size_t i = 0; i < n; i++) {
    s->prev[i] = (int32_t)i - 1;
    s->next[i] = i + 1 < n ? (int32_t)i + 1 : -1;
    s->rank[i] = i + 1 < n ? find_merge(bpe, s->ids[i], s->ids[i + 1], &s->merged[i]) : NO_RANK;
    if (s->rank[i] != NO_RANK) heap_push(s->heap, &size, (uint64_t)s->rank[i] << 32 | i);
  }
  while (size > 0) {
    uint64_t top = heap_pop(s->heap, &size);
    int32_t at = (int32_t)(uint32_t)top;
    if (s->rank[at] != (uint32_t)(top >> 32)) continue;
    int32_t right = s->next[at], after = s->next[right], before = s->prev[at];
    s->ids[at] = s->merged[at];
    s->to[at] = s->to[right];
    s->rank[right] = NO_RANK; /* gone: its entries are stale */
    s->next[at] = after;
    s->rank[at] = NO_RANK;
    if (after >= 0) {
      s->prev[after] = at;
      s->rank[at] = find_merge(bpe, s->ids[at], s->ids[after], &s->merged[at]);
      if (s->rank[at] != NO_RANK) heap_push(s->heap, &size, (uint64_t)s->rank[at] << 32 | (uint32_t)at);
    }
    if (before >= 0) {
      s->rank[before] = find_merge(bpe, s->ids[before], s->ids[at], &s->merged[before]);
      if (s->rank[before] != NO_RANK) heap_push(s->heap, &size, (uint64_t)s->rank[before] << 32 | (uint32_t)before);
    }
  }
  size_t left = 0;
  for (int32_t at = 0; at >= 0; at = s->next[at]) {
    s->ids[left] = s->ids[at];
    s->from[left] = s->from[at];
    s->to[left++] = s->to[at];
  }
  *count = left;
  return KAVA_OK;
}

#define SHORT_PIECE 48

/* One word; `shift` is where it begins in the piece that spans count from. */
static kava_status encode_word(const kava_bpe *bpe, kava_bpe_scratch *s, const uint8_t *piece, size_t length,
                               kava_ids *out, kava_spans *spans, size_t shift) {
  kava_status st;
  if (length == 0) return KAVA_OK;
  struct cached_word *word = NULL;
  uint64_t a = 0, b = 0;
  if (length <= CACHED_BYTES && !spans) {
    if (!s->cache && s->words++ > CACHE_AFTER && !(s->cache = kava_calloc(CACHE_SIZE, sizeof *s->cache)))
      return KAVA_MEMORY;
  }
  if (s->cache && length <= CACHED_BYTES && !spans) {
    kava_hash_read(piece, length, &a, &b);
    word = &s->cache[(kava_hash_words(a, b) + length) % CACHE_SIZE];
    if (word->length == length && word->a == a && word->b == b) {
      if (out->capacity - out->size < CACHED_IDS && (st = kava_ids_grow(out, CACHED_IDS)) != KAVA_OK) return st;
      memcpy(out->data + out->size, word->ids, sizeof word->ids);
      out->size += word->count;
      return KAVA_OK;
    }
  }
  if ((st = reserve(s, length)) != KAVA_OK) return st;
  size_t n = 0;
  if (bpe->ignore_merges) {
    int32_t id = kava_bpe_find(bpe, piece, length);
    if (id >= 0) {
      s->ids[n++] = id;
      s->from[0] = 0;
      s->to[0] = (uint32_t)length;
    }
  }
  if (n == 0) {
    n = bpe->chars ? first_chars(bpe, s, piece, length) : first_bytes(bpe, s, piece, length);
    if (n <= SHORT_PIECE && !spans) /* it does not keep from and to */
      n = merge_short(bpe, s, n);
    else if (n > 0 && (st = merge_long(bpe, s, &n)) != KAVA_OK)
      return st;
  }
  if (word && n <= CACHED_IDS) {
    *word = (struct cached_word){.a = a, .b = b, .length = (uint8_t)length, .count = (uint8_t)n};
    memcpy(word->ids, s->ids, n * sizeof *s->ids);
  }
  if ((st = kava_ids_grow(out, n)) != KAVA_OK) return st;
  if (n) memcpy(out->data + out->size, s->ids, n * sizeof *s->ids);
  out->size += n;
  for (size_t i = 0; i < n && spans && st == KAVA_OK; i++)
    st = kava_spans_add(spans, (kava_span){(uint32_t)shift + s->from[i], (uint32_t)shift + s->to[i]});
  return st;
}

static inline bool is_mark(const uint8_t *p) { return !memcmp(p, KAVA_WORD_MARK, 3); }

kava_status kava_bpe_encode(const kava_bpe *bpe, kava_bpe_scratch *s, const uint8_t *piece, size_t length,
                            kava_ids *out, kava_spans *spans) {
  if (!bpe->cuts) return encode_word(bpe, s, piece, length, out, spans, 0);
  const uint8_t *mark = (const uint8_t *)KAVA_WORD_MARK;
  kava_status st = KAVA_OK;
  size_t from = 0;
  for (size_t i = 1; i < length && st == KAVA_OK; i++) {
    uint8_t c = piece[i];
    bool cut = c < 128 ? !(bpe->joins[piece[i - 1]][c / 32] >> (c % 32) & 1)
                       : c == mark[0] && bpe->words && length - i >= 3 && is_mark(piece + i) &&
                             !(i >= 3 && is_mark(piece + i - 3));
    if (!cut) continue;
    st = encode_word(bpe, s, piece + from, i - from, out, spans, from);
    from = i;
  }
  return st == KAVA_OK ? encode_word(bpe, s, piece + from, length - from, out, spans, from) : st;
}

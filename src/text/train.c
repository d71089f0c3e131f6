/* text/train: learning a small byte-level BPE vocabulary: the most frequent pair of neighbours is merged, again and
 * again.
 *
 * Ids: special tokens first, then the 256 bytes in the order of their alphabet characters, then merges in the order
 * they were learnt. Of equally frequent pairs the one of the lower (left, right) ids is merged, so that the result
 * depends on nothing but the texts. Cost: merges x (distinct words + distinct pairs); meant for vocabularies of
 * thousands. */
#include "base/hash.h"
#include "text/tokenizer_parts.h"
#include "text/utf8.h"

typedef struct word {
  uint32_t offset, length; /* into symbols */
  int64_t count;
} word;

typedef struct pair_count {
  uint64_t pair; /* UINT64_MAX: free */
  int64_t count;
} pair_count;

typedef struct trainer {
  kava_buffer bytes; /* distinct words, end to end */
  word *words;
  size_t word_count, word_capacity;
  uint32_t *word_slots; /* 1 + index; 0: free */
  size_t slot_mask;
  int32_t *symbols;
  pair_count *pairs;
  size_t pair_mask, pair_used;
} trainer;

static kava_status grow_words(trainer *t) {
  size_t capacity = t->word_capacity ? t->word_capacity * 2 : 4096, mask = capacity * 2 - 1;
  word *words = kava_realloc(t->words, capacity * sizeof *words);
  if (!words) return KAVA_MEMORY;
  t->words = words;
  t->word_capacity = capacity;
  kava_free(t->word_slots);
  t->word_slots = kava_calloc(mask + 1, sizeof *t->word_slots);
  if (!t->word_slots) return KAVA_MEMORY;
  t->slot_mask = mask;
  for (size_t i = 0; i < t->word_count; i++) {
    size_t at = kava_hash(t->bytes.data + words[i].offset, words[i].length) & mask;
    while (t->word_slots[at]) at = (at + 1) & mask;
    t->word_slots[at] = (uint32_t)i + 1;
  }
  return KAVA_OK;
}

static kava_status count_word(void *ctx, const uint8_t *piece, size_t length) {
  trainer *t = ctx;
  kava_status st;
  if (t->word_count == t->word_capacity && (st = grow_words(t)) != KAVA_OK) return st;
  size_t at = kava_hash(piece, length) & t->slot_mask;
  for (; t->word_slots[at]; at = (at + 1) & t->slot_mask) {
    word *w = &t->words[t->word_slots[at] - 1];
    if (w->length == length && memcmp(t->bytes.data + w->offset, piece, length) == 0) {
      w->count++;
      return KAVA_OK;
    }
  }
  if (t->bytes.size + length > UINT32_MAX / 2 || t->word_count >= UINT32_MAX / 4)
    return kava_fail(KAVA_MISUSE, "train: the texts have more than 2 GB of distinct words");
  t->words[t->word_count] = (word){.offset = (uint32_t)t->bytes.size, .length = (uint32_t)length, .count = 1};
  if ((st = kava_buffer_add(&t->bytes, piece, length)) != KAVA_OK) return st;
  t->word_slots[at] = (uint32_t)++t->word_count;
  return KAVA_OK;
}

static kava_status add_count(trainer *t, uint64_t pair, int64_t count) {
  if (!t->pairs || t->pair_used * 2 >= t->pair_mask + 1) { /* rebuilt without the pairs that are gone */
    size_t live = 0, size = 1024;
    for (size_t i = 0; t->pairs && i <= t->pair_mask; i++)
      live += t->pairs[i].pair != UINT64_MAX && t->pairs[i].count != 0;
    while (size < live * 4) size *= 2;
    pair_count *fresh = kava_alloc(size * sizeof *fresh);
    if (!fresh) return KAVA_MEMORY;
    for (size_t i = 0; i < size; i++) fresh[i] = (pair_count){.pair = UINT64_MAX};
    for (size_t i = 0; t->pairs && i <= t->pair_mask; i++) {
      if (t->pairs[i].pair == UINT64_MAX || t->pairs[i].count == 0) continue;
      size_t at = kava_hash_words(t->pairs[i].pair, 0) & (size - 1);
      while (fresh[at].pair != UINT64_MAX) at = (at + 1) & (size - 1);
      fresh[at] = t->pairs[i];
    }
    kava_free(t->pairs);
    t->pairs = fresh;
    t->pair_mask = size - 1;
    t->pair_used = live;
  }
  size_t at = kava_hash_words(pair, 0) & t->pair_mask;
  while (t->pairs[at].pair != UINT64_MAX && t->pairs[at].pair != pair) at = (at + 1) & t->pair_mask;
  if (t->pairs[at].pair == UINT64_MAX) {
    t->pairs[at] = (pair_count){.pair = pair};
    t->pair_used++;
  }
  t->pairs[at].count += count;
  return KAVA_OK;
}

static kava_status add_pairs(trainer *t, const word *w, int64_t count) {
  kava_status st = KAVA_OK;
  const int32_t *s = t->symbols + w->offset;
  for (uint32_t i = 0; i + 1 < w->length && st == KAVA_OK; i++)
    st = add_count(t, (uint64_t)(uint32_t)s[i] << 32 | (uint32_t)s[i + 1], count);
  return st;
}

static kava_status merge_pair(trainer *t, uint64_t pair, int32_t id) {
  int32_t left = (int32_t)(pair >> 32), right = (int32_t)(uint32_t)pair;
  for (size_t n = 0; n < t->word_count; n++) {
    word *w = &t->words[n];
    int32_t *s = t->symbols + w->offset;
    uint32_t i = 0;
    while (i + 1 < w->length && !(s[i] == left && s[i + 1] == right)) i++;
    if (i + 1 >= w->length) continue;
    kava_status st = add_pairs(t, w, -w->count);
    if (st != KAVA_OK) return st;
    uint32_t to = i;
    while (i < w->length) {
      bool here = i + 1 < w->length && s[i] == left && s[i + 1] == right;
      s[to++] = here ? id : s[i];
      i += here ? 2 : 1;
    }
    w->length = to;
    if ((st = add_pairs(t, w, w->count)) != KAVA_OK) return st;
  }
  return KAVA_OK;
}

static kava_status learn(trainer *t, kava_tokenizer *tok, int32_t vocab_size) {
  kava_status st = KAVA_OK;
  kava_buffer spelling = {0};
  while (tok->bpe.size < vocab_size) {
    pair_count best = {UINT64_MAX, 1}; /* a pair seen once teaches nothing */
    for (size_t i = 0; t->pairs && i <= t->pair_mask; i++) {
      pair_count p = t->pairs[i];
      if (p.pair != UINT64_MAX &&
          (p.count > best.count || (p.count == best.count && p.count > 1 && p.pair < best.pair)))
        best = p;
    }
    if (best.pair == UINT64_MAX) break; /* the texts have no more to give */
    int32_t left = (int32_t)(best.pair >> 32), right = (int32_t)(uint32_t)best.pair;
    spelling.size = 0;
    KAVA_TRY(kava_bpe_spell(&tok->bpe, left, &spelling));
    KAVA_TRY(kava_bpe_spell(&tok->bpe, right, &spelling));
    /* two ways to the same string share its token */
    int32_t id = kava_bpe_find_text(&tok->bpe, (const char *)spelling.data, spelling.size);
    if (id < 0) {
      id = tok->bpe.size;
      KAVA_TRY(kava_bpe_add_token(&tok->bpe, (const char *)spelling.data, spelling.size, id));
    }
    KAVA_TRY(kava_bpe_add_merge_ids(&tok->bpe, left, right, id));
    KAVA_TRY(merge_pair(t, best.pair, id));
  }
out:
  kava_buffer_free(&spelling);
  return st;
}

static kava_status start_vocabulary(kava_tokenizer *tok, const kava_train_options *options) {
  int32_t specials = 0;
  while (options->special && options->special[specials]) specials++;
  if (options->vocab_size < 256 + specials || options->vocab_size > 1 << 20)
    return kava_fail(KAVA_MISUSE, "train: vocab_size: from %d (256 bytes and %d special tokens) to %d expected, got %d",
                     256 + specials, specials, 1 << 20, options->vocab_size);
  kava_status st = kava_bpe_init(&tok->bpe, options->vocab_size, options->vocab_size);
  for (int32_t id = 0; id < specials && st == KAVA_OK; id++) {
    const char *text = options->special[id];
    if (!text[0]) return kava_fail(KAVA_MISUSE, "train: special: an empty token");
    kava_added added = {.content = (char *)(uintptr_t)text, .length = strlen(text), .id = id, .special = true};
    st = kava_tokenizer_add(tok, &added);
    if (st == KAVA_OK && tok->added[id].id != id) return kava_fail(KAVA_MISUSE, "train: special: '%s' twice", text);
  }
  int32_t id = specials;
  for (uint32_t c = 0; c <= 0x143 && st == KAVA_OK; c++) {
    if (kava_char_byte(c) < 0) continue;
    uint8_t spelling[4];
    st = kava_bpe_add_token(&tok->bpe, (const char *)spelling, kava_utf8_write(c, spelling), id++);
  }
  if (st != KAVA_OK) return st;
  kava_bpe_finish_tokens(&tok->bpe);
  if (specials > 0) tok->eos = tok->pad = 0;
  return KAVA_OK;
}

kava_status kava_tokenizer_train(const char *const *texts, const size_t *lengths, size_t count,
                                 const kava_train_options *options, kava_tokenizer **out) {
  kava_status st = KAVA_OK;
  kava_tokenizer *tok = NULL;
  trainer t = {0};
  kava_split_scratch scratch = {0};
  kava_normal_scratch normal = {0};
  KAVA_TRY(kava_tokenizer_new("(trained)", &tok));
  KAVA_TRY(kava_tokenizer_pattern(tok, options->pattern));
  KAVA_TRY(start_vocabulary(tok, options));
  KAVA_TRY(grow_words(&t));
  for (size_t i = 0; i < count; i++) {
    const uint8_t *text = (const uint8_t *)texts[i];
    size_t length = lengths[i], good = kava_utf8_valid(text, length, NULL);
    if (good != length)
      KAVA_FAIL(KAVA_MISUSE, "train: text %zu is not valid UTF-8: byte 0x%02x at offset %zu", i + 1, text[good], good);
    kava_view view = {text, length, NULL, 0};
    KAVA_TRY(kava_normalizer_run(&tok->normalizer, &normal, &view, false, &view));
    KAVA_TRY(kava_splitter_run(&tok->splitter, &scratch, &view, false, count_word, &t));
  }
  if (t.word_count == 0) KAVA_FAIL(KAVA_MISUSE, "train: there is no text to learn from");
  t.symbols = kava_alloc(t.bytes.size * sizeof *t.symbols);
  if (!t.symbols) {
    st = KAVA_MEMORY;
    goto out;
  }
  for (size_t i = 0; i < t.bytes.size; i++) t.symbols[i] = tok->bpe.byte_id[t.bytes.data[i]];
  for (size_t i = 0; i < t.word_count; i++) KAVA_TRY(add_pairs(&t, &t.words[i], t.words[i].count));
  KAVA_TRY(learn(&t, tok, options->vocab_size));
  KAVA_TRY(kava_tokenizer_finish(tok));
  *out = tok;
  tok = NULL;
out:
  kava_tokenizer_release(&tok);
  kava_split_scratch_free(&scratch);
  kava_normal_scratch_free(&normal);
  kava_buffer_free(&t.bytes);
  kava_free(t.words);
  kava_free(t.word_slots);
  kava_free(t.symbols);
  kava_free(t.pairs);
  return st;
}

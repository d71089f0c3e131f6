#include "text/tokenizer_parts.h"
#include "text/unicode.h"
#include "text/utf8.h"
#include <stdio.h>
#include <sys/stat.h>

/* ---- building */

kava_status kava_tokenizer_new(const char *path, kava_tokenizer **out) {
  kava_tokenizer *tok = kava_calloc(1, sizeof *tok);
  if (!tok) return KAVA_MEMORY;
  tok->refs = 1;
  tok->eos = tok->bos = tok->pad = tok->bpe.unknown = -1;
  tok->scanners = true;
  kava_live_add(1);
  if (!(tok->path = kava_strdup(path))) {
    kava_tokenizer_release(&tok);
    return KAVA_MEMORY;
  }
  kava_unicode_init();
  *out = tok;
  return KAVA_OK;
}

kava_tokenizer *kava_tokenizer_retain(kava_tokenizer *tok) {
  __atomic_fetch_add(&tok->refs, 1, __ATOMIC_RELAXED);
  return tok;
}

void kava_tokenizer_release(kava_tokenizer **at) {
  kava_tokenizer *tok = *at;
  *at = NULL;
  if (!tok || __atomic_sub_fetch(&tok->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
  kava_bpe_free(&tok->bpe);
  kava_splitter_free(&tok->splitter);
  for (int32_t i = 0; i < tok->added_count; i++) kava_free(tok->added[i].content);
  kava_free(tok->added);
  kava_free(tok->raw.nodes);
  kava_free(tok->normalized.nodes);
  kava_ids_free(&tok->before);
  kava_ids_free(&tok->after);
  kava_map_release(&tok->json_file);
  kava_map_release(&tok->config_file);
  kava_free(tok->chat_template);
  kava_free(tok->path);
  kava_free(tok);
  kava_live_add(-1);
}

static kava_status append_added(kava_tokenizer *tok, const kava_added *model) {
  if (tok->added_count == tok->added_capacity) {
    int32_t capacity = tok->added_capacity * 2 + 16;
    kava_added *added = kava_realloc(tok->added, (size_t)capacity * sizeof *added);
    if (!added) return KAVA_MEMORY;
    tok->added = added;
    tok->added_capacity = capacity;
  }
  kava_added *added = &tok->added[tok->added_count];
  *added = *model;
  added->content = kava_alloc(model->length + 1);
  if (!added->content) return KAVA_MEMORY;
  memcpy(added->content, model->content, model->length);
  added->content[model->length] = 0;
  tok->added_count++;
  tok->bpe.tokens[model->id].special = model->special;
  return KAVA_OK;
}

kava_status kava_tokenizer_add(kava_tokenizer *tok, const kava_added *model) {
  kava_status st = KAVA_OK;
  kava_added added = *model;
  kava_buffer normal = {0};
  const uint8_t *text = (const uint8_t *)model->content;
  if (model->length == 0) return KAVA_OK; /* as Hugging Face does */
  if (kava_utf8_valid(text, model->length, NULL) != model->length)
    return kava_fail(KAVA_FORMAT, "added token %d is not valid UTF-8", model->id);
  if (model->normalized && tok->nfc) { /* it is looked for in normalised text */
    bool changed;
    KAVA_TRY(kava_nfc(text, model->length, &normal, &changed));
    if (changed) {
      added.content = (char *)normal.data;
      added.length = normal.size;
    }
  }
  int32_t there = kava_bpe_find_text(&tok->bpe, model->content, model->length);
  if (there >= 0) {
    added.id = there;
  } else {
    st = kava_bpe_add_unlisted(&tok->bpe, added.content, added.length, model->id);
    if (st != KAVA_OK) {
      st = kava_fail_in(st, "added token '%.60s'", model->content);
      goto out;
    }
  }
  st = append_added(tok, &added);
out:
  kava_buffer_free(&normal);
  return st;
}

static kava_status trie_insert(kava_trie *trie, const uint8_t *text, size_t length, int32_t added) {
  if ((size_t)trie->capacity < (size_t)trie->count + length + 1) {
    if (length > INT32_MAX / 4) return kava_fail(KAVA_FORMAT, "an added token of %zu bytes", length);
    int32_t capacity = trie->capacity * 2 + (int32_t)length + 64;
    void *nodes = kava_realloc(trie->nodes, (size_t)capacity * sizeof *trie->nodes);
    if (!nodes) return KAVA_MEMORY;
    trie->nodes = nodes;
    trie->capacity = capacity;
  }
  if (trie->count == 0) trie->nodes[trie->count++] = (struct kava_trie_node){.added = -1};
  int32_t at = 0;
  for (size_t i = 0; i < length; i++) {
    int32_t child = trie->nodes[at].child;
    while (child && trie->nodes[child].byte != text[i]) child = trie->nodes[child].sibling;
    if (!child) {
      child = trie->count++;
      trie->nodes[child] = (struct kava_trie_node){.sibling = trie->nodes[at].child, .added = -1, .byte = text[i]};
      trie->nodes[at].child = child;
    }
    at = child;
  }
  if (trie->nodes[at].added < 0) trie->nodes[at].added = added;
  trie->first[text[0]] = true;
  return KAVA_OK;
}

/* Two lanes of multiply and fold: stable over machines and versions, not cryptographic. */
typedef struct digest {
  uint64_t a, b;
} digest;

static void digest_add(digest *d, const void *data, size_t size) {
  const uint8_t *p = data;
  uint64_t words[2] = {size, 0x6b617661};
  for (;;) {
    d->a = (d->a ^ words[0]) * 0x9fb21c651e98df25u;
    d->a ^= d->a >> 32;
    d->b = (d->b ^ words[0] ^ d->a << 1) * 0xd6e8feb86659fd93u;
    d->b ^= d->b >> 29;
    if (size == 0) return;
    size_t n = size < 8 ? size : 8;
    words[0] = 0;
    for (size_t i = 0; i < n; i++) words[0] |= (uint64_t)p[i] << (8 * i);
    p += n;
    size -= n;
  }
}

static void digest_number(digest *d, int64_t number) {
  uint8_t bytes[8];
  for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)((uint64_t)number >> (8 * i));
  digest_add(d, bytes, 8);
}

static void fingerprint(kava_tokenizer *tok) {
  digest d = {1, 2};
  const kava_bpe *bpe = &tok->bpe;
  digest_number(&d, bpe->size);
  for (int32_t id = 0; id < bpe->size; id++) {
    if (!kava_bpe_has(bpe, id)) continue;
    digest_number(&d, id);
    digest_add(&d, bpe->bytes.data + bpe->tokens[id].offset, bpe->tokens[id].length);
  }
  /* merges carry their rank, so that a sum over the table serves and nothing need be sorted */
  uint64_t sum[2] = {0, 0};
  for (uint64_t i = 0; i <= bpe->merge_mask; i++) {
    const kava_merge *merge = &bpe->merges[i];
    if (merge->pair == UINT64_MAX) continue;
    uint64_t x = (merge->pair ^ (uint64_t)merge->rank << 40) * 0x9fb21c651e98df25u;
    x = (x ^ x >> 32 ^ (uint64_t)merge->rank << 32 ^ (uint32_t)merge->id) * 0xd6e8feb86659fd93u;
    sum[0] += x ^ x >> 29;
    sum[1] += (x ^ x >> 31) * 0x94d049bb133111ebu;
  }
  digest_number(&d, bpe->merge_count);
  digest_number(&d, (int64_t)sum[0]);
  digest_number(&d, (int64_t)sum[1]);
  digest_number(&d, bpe->unknown);
  digest_number(&d, (bpe->unknown >= 0 && bpe->fuse_unknown) | bpe->ignore_merges << 1 | tok->nfc << 2);
  /* added tokens in the order of ids, whichever the file has */
  int32_t last = -1;
  for (int32_t n = 0; n < tok->added_count; n++) {
    int32_t next = -1;
    for (int32_t i = 0; i < tok->added_count; i++)
      if (tok->added[i].id > last && (next < 0 || tok->added[i].id < tok->added[next].id)) next = i;
    if (next < 0) break;
    const kava_added *added = &tok->added[next];
    last = added->id;
    digest_number(&d, last);
    digest_add(&d, added->content, added->length);
    /* where nothing is normalised the flag changes nothing */
    digest_number(&d, (added->normalized && tok->nfc) | added->lstrip << 1 | added->rstrip << 2 |
                          added->single_word << 3 | added->special << 4);
  }
  for (int i = 0; i < tok->splitter.count; i++) {
    const kava_split *step = &tok->splitter.steps[i];
    digest_number(&d, step->kind | step->removed << 8 | step->invert << 9 | step->individual << 10);
    if (step->pattern) digest_add(&d, step->pattern, strlen(step->pattern));
  }
  for (size_t i = 0; i < tok->before.size; i++) digest_number(&d, tok->before.data[i]);
  digest_number(&d, -1);
  for (size_t i = 0; i < tok->after.size; i++) digest_number(&d, tok->after.data[i]);
  digest_number(&d, -2);
  snprintf(tok->fingerprint, sizeof tok->fingerprint, "%016llx%016llx", (unsigned long long)d.a,
           (unsigned long long)d.b);
}

kava_status kava_tokenizer_finish(kava_tokenizer *tok) {
  for (int32_t i = 0; i < tok->added_count; i++) {
    const kava_added *added = &tok->added[i];
    kava_status st = trie_insert(added->normalized ? &tok->normalized : &tok->raw, (const uint8_t *)added->content,
                                 added->length, i);
    if (st != KAVA_OK) return st;
  }
  fingerprint(tok);
  return KAVA_OK;
}

kava_status kava_tokenizer_pattern(kava_tokenizer *tok, const char *name) {
  kava_split step = {.kind = KAVA_SPLIT_PATTERN};
  if (!strcmp(name, "gpt2") || !strcmp(name, "smollm")) {
    if (name[0] == 's') {
      kava_status st = kava_splitter_add(&tok->splitter, &(kava_split){.kind = KAVA_SPLIT_DIGITS, .individual = true},
                                         tok->scanners);
      if (st != KAVA_OK) return st;
    }
    step.pattern = (char *)KAVA_PATTERN_GPT2;
    step.byte_level = true;
  } else if (!strcmp(name, "llama3")) {
    step.pattern = (char *)KAVA_PATTERN_LLAMA3;
  } else if (!strcmp(name, "qwen2")) {
    step.pattern = (char *)KAVA_PATTERN_QWEN2;
    tok->nfc = true;
  } else {
    return kava_fail(KAVA_MISUSE, "pattern '%s' is not known: gpt2, llama3, qwen2 or smollm expected", name);
  }
  return kava_splitter_add(&tok->splitter, &step, tok->scanners);
}

kava_status kava_tokenizer_load(const char *path, kava_tokenizer **out) {
  kava_status st = KAVA_OK;
  kava_tokenizer *tok = NULL;
  char *file = NULL;
  struct stat info;
  bool folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
  file = folder ? kava_format("%s/tokenizer.json", path) : kava_strdup(path);
  if (!file) return KAVA_MEMORY;
  if (folder && stat(file, &info) != 0) {
    static const char *const others[] = {"tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
      char *other = kava_format("%s/%s", path, others[i]);
      bool there = other && stat(other, &info) == 0;
      kava_free(other);
      if (there)
        KAVA_FAIL(KAVA_UNSUPPORTED, "%s: there is a %s but no tokenizer.json, which is what is read here", path,
                  others[i]);
    }
    KAVA_FAIL(KAVA_IO, "%s: no such file", file);
  }
  KAVA_TRY(kava_tokenizer_new(file, &tok));
  char magic[4] = "";
  FILE *stream = fopen(file, "rb");
  if (stream) {
    if (fread(magic, 1, 4, stream) != 4) magic[0] = 0;
    fclose(stream);
  }
  KAVA_TRY(memcmp(magic, "GGUF", 4) == 0 ? kava_tokenizer_load_gguf(file, tok) : kava_tokenizer_load_json(file, tok));
  st = kava_tokenizer_finish(tok);
  if (st != KAVA_OK) {
    st = kava_fail_in(st, "%s", file);
    goto out;
  }
  *out = tok;
  tok = NULL;
out:
  kava_tokenizer_release(&tok);
  kava_free(file);
  return st;
}

/* ---- asking */

int32_t kava_tokenizer_size(const kava_tokenizer *tok) { return tok->bpe.size; }
int32_t kava_tokenizer_eos(const kava_tokenizer *tok) { return tok->eos; }
int32_t kava_tokenizer_bos(const kava_tokenizer *tok) { return tok->bos; }
int32_t kava_tokenizer_pad(const kava_tokenizer *tok) { return tok->pad; }
const char *kava_tokenizer_path(const kava_tokenizer *tok) { return tok->path; }
const char *kava_tokenizer_fingerprint(const kava_tokenizer *tok) { return tok->fingerprint; }
bool kava_tokenizer_has(const kava_tokenizer *tok, int64_t id) { return kava_bpe_has(&tok->bpe, id); }

static const kava_added *find_added(const kava_tokenizer *tok, int32_t id) {
  for (int32_t i = 0; i < tok->added_count; i++)
    if (tok->added[i].id == id) return &tok->added[i];
  return NULL;
}

int32_t kava_tokenizer_find(const kava_tokenizer *tok, const char *text, size_t length) {
  for (int32_t i = 0; i < tok->added_count; i++)
    if (tok->added[i].length == length && memcmp(tok->added[i].content, text, length) == 0) return tok->added[i].id;
  return kava_bpe_find_text(&tok->bpe, text, length);
}

kava_status kava_tokenizer_spell(const kava_tokenizer *tok, int32_t id, kava_buffer *out) {
  const kava_added *added = find_added(tok, id);
  return added ? kava_buffer_add(out, added->content, added->length) : kava_bpe_spell(&tok->bpe, id, out);
}

/* Replaces what is not valid UTF-8, each maximal ill-formed part by one U+FFFD. */
static kava_status add_lossy(const uint8_t *text, size_t length, kava_buffer *out) {
  kava_status st = KAVA_OK;
  while (st == KAVA_OK) {
    size_t bad, good = kava_utf8_valid(text, length, &bad);
    st = kava_buffer_add(out, text, good);
    if (bad == 0) break;
    if (st == KAVA_OK) st = kava_buffer_add(out, "\xef\xbf\xbd", 3);
    text += good + bad;
    length -= good + bad;
  }
  return st;
}

kava_status kava_tokenizer_decode(const kava_tokenizer *tok, const int64_t *ids, size_t count, unsigned flags,
                                  kava_buffer *out) {
  kava_status st = KAVA_OK;
  kava_buffer bytes = {0};
  for (size_t i = 0; i < count; i++) {
    if (!kava_bpe_has(&tok->bpe, ids[i])) {
      if (!(flags & KAVA_DECODE_REPLACE))
        KAVA_FAIL(KAVA_MISUSE, "decode: id %lld at position %zu has no token (the vocabulary has %d)",
                  (long long)ids[i], i + 1, tok->bpe.size);
      KAVA_TRY(kava_buffer_add(&bytes, "\xef\xbf\xbd", 3));
      continue;
    }
    kava_token token = tok->bpe.tokens[ids[i]];
    if ((flags & KAVA_DECODE_SKIP_SPECIAL) && token.special) continue;
    KAVA_TRY(kava_buffer_add(&bytes, tok->bpe.bytes.data + token.offset, token.length));
  }
  st = add_lossy(bytes.data, bytes.size, out);
out:
  kava_buffer_free(&bytes);
  return st;
}

/* ---- encoding */

struct kava_encoder {
  kava_tokenizer *tok;
  kava_bpe_scratch bpe;
  kava_split_scratch split;
  kava_buffer normal, lossy;
  kava_ids *out;
};

kava_status kava_encoder_new(kava_tokenizer *tok, kava_encoder **out) {
  kava_encoder *encoder = kava_calloc(1, sizeof *encoder);
  if (!encoder) return KAVA_MEMORY;
  encoder->tok = kava_tokenizer_retain(tok);
  *out = encoder;
  return KAVA_OK;
}

void kava_encoder_release(kava_encoder **at) {
  kava_encoder *encoder = *at;
  *at = NULL;
  if (!encoder) return;
  kava_bpe_scratch_free(&encoder->bpe);
  kava_split_scratch_free(&encoder->split);
  kava_buffer_free(&encoder->normal);
  kava_buffer_free(&encoder->lossy);
  kava_tokenizer_release(&encoder->tok);
  kava_free(encoder);
}

static kava_status encode_piece(void *ctx, const uint8_t *piece, size_t length) {
  kava_encoder *encoder = ctx;
  return kava_bpe_encode(&encoder->tok->bpe, &encoder->bpe, piece, length, encoder->out);
}

static kava_status encode_plain(kava_encoder *encoder, const uint8_t *text, size_t length) {
  return kava_splitter_run(&encoder->tok->splitter, &encoder->split, text, length, encode_piece, encoder);
}

static bool word_before(const uint8_t *start, const uint8_t *at) {
  size_t n;
  return at > start && kava_char_is_word(kava_utf8_read_before(at, &n));
}

static bool word_at(const uint8_t *at, const uint8_t *end) {
  size_t n;
  return at < end && kava_char_is_word(kava_utf8_read(at, &n));
}

/* Calls `plain` on what lies between added tokens and appends theirs. Matches are the leftmost, of those the longest.
 */
static kava_status cut_added(kava_encoder *encoder, const kava_trie *trie, const uint8_t *text, size_t length,
                             kava_status (*plain)(kava_encoder *, const uint8_t *, size_t)) {
  if (trie->count == 0) return length ? plain(encoder, text, length) : KAVA_OK;
  const uint8_t *end = text + length, *done = text, *p = text;
  kava_status st = KAVA_OK;
  while (p < end) {
    if (!trie->first[*p]) {
      p++;
      continue;
    }
    int32_t node = 0, found = -1;
    const uint8_t *stop = p;
    for (const uint8_t *q = p; q < end; q++) {
      int32_t child = trie->nodes[node].child;
      while (child && trie->nodes[child].byte != *q) child = trie->nodes[child].sibling;
      if (!child) break;
      node = child;
      if (trie->nodes[node].added >= 0) {
        found = trie->nodes[node].added;
        stop = q + 1;
      }
    }
    if (found < 0) {
      p++;
      continue;
    }
    const kava_added *added = &encoder->tok->added[found];
    const uint8_t *start = p;
    p = stop; /* matches do not overlap, whatever is stripped */
    if (added->single_word && (word_before(text, start) || word_at(stop, end))) continue;
    size_t n;
    if (added->lstrip)
      while (start > done && kava_char_is_space(kava_utf8_read_before(start, &n))) start -= n;
    if (added->rstrip)
      while (stop < end && kava_char_is_space(kava_utf8_read(stop, &n))) stop += n;
    if (start > done && (st = plain(encoder, done, (size_t)(start - done))) != KAVA_OK) return st;
    if ((st = kava_ids_add(encoder->out, added->id)) != KAVA_OK) return st;
    done = stop;
  }
  return done < end ? plain(encoder, done, (size_t)(end - done)) : KAVA_OK;
}

static kava_status encode_normalised(kava_encoder *encoder, const uint8_t *text, size_t length) {
  if (encoder->tok->nfc) {
    bool changed;
    encoder->normal.size = 0;
    kava_status st = kava_nfc(text, length, &encoder->normal, &changed);
    if (st != KAVA_OK) return st;
    if (changed) {
      text = encoder->normal.data;
      length = encoder->normal.size;
    }
  }
  return cut_added(encoder, &encoder->tok->normalized, text, length, encode_plain);
}

kava_status kava_encode(kava_encoder *encoder, const char *string, size_t length, unsigned flags, kava_ids *out) {
  const uint8_t *text = (const uint8_t *)string;
  const kava_tokenizer *tok = encoder->tok;
  kava_status st = KAVA_OK;
  size_t before = out->size;
  if (length > INT32_MAX) return kava_fail(KAVA_MISUSE, "encode: a text of %zu bytes; at most 2 GB at once", length);
  size_t good = kava_utf8_valid(text, length, NULL);
  if (good != length) {
    if (!(flags & KAVA_ENCODE_REPLACE))
      return kava_fail(KAVA_MISUSE, "encode: the text is not valid UTF-8: byte 0x%02x at offset %zu", text[good], good);
    encoder->lossy.size = 0;
    KAVA_TRY(add_lossy(text, length, &encoder->lossy));
    text = encoder->lossy.data;
    length = encoder->lossy.size;
    if (length > INT32_MAX) KAVA_FAIL(KAVA_MISUSE, "encode: a text of %zu bytes; at most 2 GB at once", length);
  }
  encoder->out = out;
  if (flags & KAVA_ENCODE_SPECIAL)
    for (size_t i = 0; i < tok->before.size; i++) KAVA_TRY(kava_ids_add(out, tok->before.data[i]));
  KAVA_TRY(cut_added(encoder, &tok->raw, text, length, encode_normalised));
  if (flags & KAVA_ENCODE_SPECIAL)
    for (size_t i = 0; i < tok->after.size; i++) KAVA_TRY(kava_ids_add(out, tok->after.data[i]));
out:
  if (st != KAVA_OK) out->size = before;
  return st;
}

#include "text/tokenizer_parts.h"
#include "text/unicode.h"
#include "text/utf8.h"
#include <stdio.h>
#include <stdlib.h>
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
  kava_unigram_free(&tok->unigram);
  kava_normalizer_free(&tok->normalizer);
  kava_splitter_free(&tok->splitter);
  kava_text_decoder_free(&tok->decoder);
  for (int32_t i = 0; i < tok->added_count; i++) {
    kava_free(tok->added[i].content);
    kava_free(tok->added[i].sought);
  }
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

static char *copy_text(const char *text, size_t length) {
  char *copy = kava_alloc(length + 1);
  if (!copy) return NULL;
  memcpy(copy, text, length);
  copy[length] = 0;
  return copy;
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
  added->content = copy_text(model->content, model->length);
  added->sought = copy_text(model->sought, model->sought_length);
  if (!added->content || !added->sought) {
    kava_free(added->content);
    kava_free(added->sought);
    return KAVA_MEMORY;
  }
  tok->added_count++;
  tok->bpe.tokens[model->id].special = model->special;
  tok->bpe.tokens[model->id].added = true;
  return KAVA_OK;
}

kava_status kava_tokenizer_add(kava_tokenizer *tok, const kava_added *model) {
  kava_status st = KAVA_OK;
  kava_added added = *model;
  kava_normal_scratch scratch = {0};
  const uint8_t *text = (const uint8_t *)model->content;
  if (model->length == 0) return KAVA_OK; /* as Hugging Face does */
  if (kava_utf8_valid(text, model->length, NULL) != model->length)
    return kava_fail(KAVA_FORMAT, "added token %d is not valid UTF-8", model->id);
  added.sought = added.content;
  added.sought_length = added.length;
  if (model->normalized) { /* it is looked for in normalised text */
    kava_view in = {text, model->length, NULL, 0}, normal;
    KAVA_TRY(kava_normalizer_run(&tok->normalizer, &scratch, &in, false, &normal));
    added.sought = (char *)(uintptr_t)normal.text;
    added.sought_length = normal.length;
  }
  int32_t there = kava_bpe_find_text(&tok->bpe, model->content, model->length);
  if (there >= 0) {
    added.id = there;
    tok->sought_differ |= added.sought_length != added.length || memcmp(added.sought, added.content, added.length) != 0;
  } else {
    st = kava_bpe_add_unlisted(&tok->bpe, added.sought, added.sought_length, model->id);
    if (st != KAVA_OK) {
      st = kava_fail_in(st, "added token '%.*s'", (int)(model->length < 60 ? model->length : 60), model->content);
      goto out;
    }
  }
  st = append_added(tok, &added);
out:
  kava_normal_scratch_free(&scratch);
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

/* Added tokens in the order of ids, whichever the file has. */
typedef struct place {
  int32_t id, at;
} place;
static int by_id(const void *a, const void *b) {
  const place *x = a, *y = b;
  return x->id != y->id ? (x->id > y->id) - (x->id < y->id) : (x->at > y->at) - (x->at < y->at);
}

static kava_status fingerprint(kava_tokenizer *tok) {
  digest d = {1, 2};
  place *order = kava_alloc(((size_t)tok->added_count + 1) * sizeof *order);
  if (!order) return KAVA_MEMORY;
  for (int32_t i = 0; i < tok->added_count; i++) order[i] = (place){tok->added[i].id, i};
  qsort(order, (size_t)tok->added_count, sizeof *order, by_id);
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
  digest_number(&d, (bpe->unknown >= 0 && bpe->fuse_unknown) | bpe->ignore_merges << 1 | bpe->chars << 2 |
                        (bpe->chars && bpe->byte_fallback) << 3 | tok->is_unigram << 4);
  for (int32_t i = 0; i < tok->unigram.count; i++) digest_add(&d, &tok->unigram.scores[i], sizeof(double));
  for (int i = 0; i < tok->normalizer.count; i++) {
    const kava_normal *step = &tok->normalizer.steps[i];
    digest_number(&d, step->kind | step->left << 8 | step->right << 9 | step->pattern.literal << 10);
    digest_add(&d, step->content, step->length);
    if (step->pattern.text) digest_add(&d, step->pattern.text, strlen(step->pattern.text));
  }
  for (int32_t i = 0; i < tok->added_count; i++) {
    if (i > 0 && order[i].id == order[i - 1].id) continue;
    const kava_added *added = &tok->added[order[i].at];
    digest_number(&d, added->id);
    digest_add(&d, added->content, added->length);
    /* where nothing is normalised the flag changes nothing */
    digest_number(&d, (added->normalized && tok->normalizer.count > 0) | added->lstrip << 1 | added->rstrip << 2 |
                          added->single_word << 3 | added->special << 4);
  }
  for (int i = 0; i < tok->splitter.count; i++) {
    const kava_split *step = &tok->splitter.steps[i];
    digest_number(&d, step->kind | (int64_t)step->behavior << 8 | step->invert << 12 | step->cut << 13 |
                          (int64_t)step->prepend << 14 | (int64_t)step->size << 16);
    if (step->text) digest_add(&d, step->text, strlen(step->text));
  }
  for (size_t i = 0; i < tok->before.size; i++) digest_number(&d, tok->before.data[i]);
  digest_number(&d, -1);
  for (size_t i = 0; i < tok->after.size; i++) digest_number(&d, tok->after.data[i]);
  digest_number(&d, -2);
  snprintf(tok->fingerprint, sizeof tok->fingerprint, "%016llx%016llx", (unsigned long long)d.a,
           (unsigned long long)d.b);
  kava_free(order);
  return KAVA_OK;
}

kava_status kava_tokenizer_finish(kava_tokenizer *tok) {
  for (int32_t i = 0; i < tok->added_count; i++) {
    const kava_added *added = &tok->added[i];
    if (added->sought_length == 0) continue; /* normalised away */
    kava_status st = trie_insert(added->normalized ? &tok->normalized : &tok->raw, (const uint8_t *)added->sought,
                                 added->sought_length, i);
    if (st != KAVA_OK) return st;
  }
  kava_bpe_finish_merges(&tok->bpe);
  for (int i = 0; i < tok->splitter.count; i++)
    tok->track |= tok->splitter.steps[i].kind == KAVA_SPLIT_METASPACE &&
                  tok->splitter.steps[i].prepend == KAVA_PREPEND_FIRST && tok->normalizer.count > 0;
  return fingerprint(tok);
}

kava_status kava_tokenizer_pattern(kava_tokenizer *tok, const char *name) {
  kava_split step = {.kind = KAVA_SPLIT_PATTERN};
  if (!strcmp(name, "gpt2") || !strcmp(name, "smollm")) {
    if (name[0] == 's') {
      kava_status st = kava_splitter_add(&tok->splitter, &(kava_split){.kind = KAVA_SPLIT_DIGITS}, tok->scanners);
      if (st != KAVA_OK) return st;
    }
    step.text = (char *)KAVA_PATTERN_GPT2;
    step.byte_level = true;
  } else if (!strcmp(name, "llama3")) {
    step.text = (char *)KAVA_PATTERN_LLAMA3;
  } else if (!strcmp(name, "qwen2")) {
    step.text = (char *)KAVA_PATTERN_QWEN2;
    kava_status st = kava_normalizer_add(&tok->normalizer, &(kava_normal){.kind = KAVA_NORMAL_NFC});
    if (st != KAVA_OK) return st;
  } else if (!strcmp(name, "tekken")) {
    step.text = (char *)KAVA_PATTERN_TEKKEN;
  } else if (!strcmp(name, "o200k")) {
    step.text = (char *)KAVA_PATTERN_O200K;
  } else {
    return kava_fail(KAVA_MISUSE, "pattern '%s' is not known: gpt2, llama3, qwen2, smollm, tekken or o200k expected",
                     name);
  }
  kava_status st = kava_splitter_add(&tok->splitter, &step, tok->scanners);
  return st == KAVA_OK ? kava_text_decoder_add(&tok->decoder, &(kava_decode_step){.kind = KAVA_DECODER_BYTE_LEVEL})
                       : st;
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
int32_t kava_tokenizer_unknown(const kava_tokenizer *tok) { return tok->bpe.unknown; }
const char *kava_tokenizer_chat_template(const kava_tokenizer *tok) { return tok->chat_template; }
const char *kava_tokenizer_path(const kava_tokenizer *tok) { return tok->path; }
const char *kava_tokenizer_fingerprint(const kava_tokenizer *tok) { return tok->fingerprint; }
bool kava_tokenizer_has(const kava_tokenizer *tok, int64_t id) { return kava_bpe_has(&tok->bpe, id); }

static const kava_added *find_added(const kava_tokenizer *tok, int32_t id) {
  if (!kava_bpe_has(&tok->bpe, id) || !tok->bpe.tokens[id].added) return NULL;
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

/* A token's string for the decoders: added tokens as they are looked for. */
static kava_status add_string(const kava_tokenizer *tok, int32_t id, kava_strings *strings) {
  const kava_added *added = tok->bpe.tokens[id].unlisted || tok->sought_differ ? find_added(tok, id) : NULL;
  kava_status st = added ? kava_buffer_add(&strings->text, added->sought, added->sought_length)
                         : kava_bpe_spell(&tok->bpe, id, &strings->text);
  return st == KAVA_OK ? kava_strings_end(strings) : st;
}

kava_status kava_tokenizer_decode(const kava_tokenizer *tok, const int64_t *ids, size_t count, unsigned flags,
                                  kava_buffer *out) {
  kava_status st = KAVA_OK;
  kava_strings strings = {0};
  kava_buffer *bytes = &strings.text;
  /* byte-level alone, as most: tokens are kept as their bytes already */
  bool plain = !tok->bpe.chars && !tok->sought_differ && tok->decoder.count == 1 &&
               tok->decoder.steps[0].kind == KAVA_DECODER_BYTE_LEVEL;
  for (size_t i = 0; i < count; i++) {
    if (!kava_bpe_has(&tok->bpe, ids[i])) {
      if (!(flags & KAVA_DECODE_REPLACE))
        KAVA_FAIL(KAVA_MISUSE, "decode: id %lld at position %zu has no token (the vocabulary has %d)",
                  (long long)ids[i], i + 1, tok->bpe.size);
      KAVA_TRY(kava_buffer_add(bytes, "\xef\xbf\xbd", 3));
      if (!plain) KAVA_TRY(kava_strings_end(&strings));
      continue;
    }
    kava_token token = tok->bpe.tokens[ids[i]];
    if ((flags & KAVA_DECODE_SKIP_SPECIAL) && token.special) continue;
    if (plain)
      KAVA_TRY(kava_buffer_add(bytes, tok->bpe.bytes.data + token.offset, token.length));
    else
      KAVA_TRY(add_string(tok, (int32_t)ids[i], &strings));
  }
  st = plain ? kava_add_lossy(bytes->data, bytes->size, out) : kava_text_decoder_run(&tok->decoder, &strings, out);
out:
  kava_strings_free(&strings);
  return st;
}

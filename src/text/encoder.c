/* text/encoder: the road from text to ids (text/tokenizer.h says in which order), and the spans of the ids. */
#include "text/tokenizer_parts.h"
#include "text/unicode.h"
#include "text/utf8.h"

struct kava_encoder {
  kava_tokenizer *tok;
  kava_bpe_scratch bpe;
  kava_unigram_scratch unigram;
  kava_split_scratch split;
  kava_normal_scratch normal;
  kava_aligned lossy;
  kava_spans within; /* of a piece's tokens */
  kava_ids *out;
  kava_spans *spans; /* NULL: nobody asked */
  bool track;
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
  kava_unigram_scratch_free(&encoder->unigram);
  kava_split_scratch_free(&encoder->split);
  kava_normal_scratch_free(&encoder->normal);
  kava_aligned_free(&encoder->lossy);
  kava_spans_free(&encoder->within);
  kava_tokenizer_release(&encoder->tok);
  kava_free(encoder);
}

static kava_status encode_piece(void *ctx, const uint8_t *piece, size_t length) {
  kava_encoder *encoder = ctx;
  const kava_tokenizer *tok = encoder->tok;
  kava_spans *within = encoder->spans ? &encoder->within : NULL;
  encoder->within.size = 0;
  kava_status st = tok->is_unigram ? kava_unigram_encode(&tok->unigram, &tok->bpe, &encoder->unigram, piece, length,
                                                         encoder->out, within)
                                   : kava_bpe_encode(&tok->bpe, &encoder->bpe, piece, length, encoder->out, within);
  for (size_t i = 0; st == KAVA_OK && within && i < within->size; i++)
    st = kava_spans_add(encoder->spans,
                        kava_piece_span(&encoder->split, piece, within->data[i].begin, within->data[i].end));
  return st;
}

static kava_status encode_plain(kava_encoder *encoder, const kava_view *text) {
  return kava_splitter_run(&encoder->tok->splitter, &encoder->split, text, encoder->track, encode_piece, encoder);
}

static kava_status add_id(kava_encoder *encoder, int32_t id, kava_span span) {
  kava_status st = kava_ids_add(encoder->out, id);
  return st == KAVA_OK && encoder->spans ? kava_spans_add(encoder->spans, span) : st;
}

static bool word_before(const uint8_t *start, const uint8_t *at) {
  size_t n;
  return at > start && kava_char_is_word(kava_utf8_read_before(at, &n));
}

static bool word_at(const uint8_t *at, const uint8_t *end) {
  size_t n;
  return at < end && kava_char_is_word(kava_utf8_read(at, &n));
}

/* The longest token that begins at p: its index, its end into *stop; -1: none. */
static int32_t match_added(const kava_trie *trie, const uint8_t *p, const uint8_t *end, const uint8_t **stop) {
  int32_t node = 0, found = -1;
  for (const uint8_t *q = p; q < end; q++) {
    int32_t child = trie->nodes[node].child;
    while (child && trie->nodes[child].byte != *q) child = trie->nodes[child].sibling;
    if (!child) break;
    node = child;
    if (trie->nodes[node].added >= 0) {
      found = trie->nodes[node].added;
      *stop = q + 1;
    }
  }
  return found;
}

/* Calls `plain` on what lies between added tokens and appends theirs. Matches are the leftmost, of those the longest.
 */
static kava_status cut_added(kava_encoder *encoder, const kava_trie *trie, const kava_view *view,
                             kava_status (*plain)(kava_encoder *, const kava_view *)) {
  if (trie->count == 0) return view->length ? plain(encoder, view) : KAVA_OK;
  const uint8_t *text = view->text, *end = text + view->length, *done = text, *p = text, *stop = NULL;
  kava_status st = KAVA_OK;
  while (p < end) {
    int32_t found = trie->first[*p] ? match_added(trie, p, end, &stop) : -1;
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
    if (start > done) {
      kava_view part = kava_view_part(view, (size_t)(done - text), (size_t)(start - text));
      if ((st = plain(encoder, &part)) != KAVA_OK) return st;
    }
    kava_span span = kava_view_span(view, (size_t)(start - text), (size_t)(stop - text));
    if ((st = add_id(encoder, added->id, span)) != KAVA_OK) return st;
    done = stop;
  }
  if (done == end) return KAVA_OK;
  kava_view rest = kava_view_part(view, (size_t)(done - text), view->length);
  return plain(encoder, &rest);
}

static kava_status encode_normalised(kava_encoder *encoder, const kava_view *text) {
  kava_view normal;
  kava_status st = kava_normalizer_run(&encoder->tok->normalizer, &encoder->normal, text, encoder->track, &normal);
  return st == KAVA_OK ? cut_added(encoder, &encoder->tok->normalized, &normal, encode_plain) : st;
}

/* The text with each maximal ill-formed part as one U+FFFD. */
static kava_status make_valid(kava_encoder *encoder, kava_view *text) {
  kava_aligned *out = &encoder->lossy;
  kava_status st = KAVA_OK;
  kava_aligned_clear(out, encoder->track);
  for (size_t at = 0; st == KAVA_OK;) {
    size_t bad, good = kava_utf8_valid(text->text + at, text->length - at, &bad);
    st = kava_aligned_copy(out, text, at, at + good);
    at += good;
    if (bad == 0) break;
    if (st == KAVA_OK) st = kava_aligned_put(out, "\xef\xbf\xbd", 3, kava_view_span(text, at, at + bad));
    at += bad;
  }
  *text = kava_aligned_view(out, 0);
  return st;
}

kava_status kava_encode_spans(kava_encoder *encoder, const char *string, size_t length, unsigned flags, kava_ids *out,
                              kava_spans *spans) {
  const kava_tokenizer *tok = encoder->tok;
  kava_view text = {(const uint8_t *)string, length, NULL, 0};
  kava_status st = KAVA_OK;
  size_t before = out->size, spans_before = spans ? spans->size : 0;
  if (length > INT32_MAX) return kava_fail(KAVA_MISUSE, "encode: a text of %zu bytes; at most 2 GB at once", length);
  encoder->out = out;
  encoder->spans = spans;
  encoder->track = spans || tok->track;
  size_t good = kava_utf8_valid(text.text, length, NULL);
  if (good != length) {
    if (!(flags & KAVA_ENCODE_REPLACE))
      return kava_fail(KAVA_MISUSE, "encode: the text is not valid UTF-8: byte 0x%02x at offset %zu", text.text[good],
                       good);
    KAVA_TRY(make_valid(encoder, &text));
    if (text.length > INT32_MAX)
      KAVA_FAIL(KAVA_MISUSE, "encode: a text of %zu bytes; at most 2 GB at once", text.length);
  }
  if (flags & KAVA_ENCODE_SPECIAL)
    for (size_t i = 0; i < tok->before.size; i++) KAVA_TRY(add_id(encoder, tok->before.data[i], (kava_span){0, 0}));
  KAVA_TRY(cut_added(encoder, &tok->raw, &text, encode_normalised));
  kava_span end = {(uint32_t)length, (uint32_t)length};
  if (flags & KAVA_ENCODE_SPECIAL)
    for (size_t i = 0; i < tok->after.size; i++) KAVA_TRY(add_id(encoder, tok->after.data[i], end));
out:
  if (st != KAVA_OK) {
    out->size = before;
    if (spans) spans->size = spans_before;
  }
  return st;
}

kava_status kava_encode(kava_encoder *encoder, const char *text, size_t length, unsigned flags, kava_ids *out) {
  return kava_encode_spans(encoder, text, length, flags, out, NULL);
}

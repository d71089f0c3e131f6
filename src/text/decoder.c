#include "text/decoder.h"
#include "text/bpe.h"
#include "text/utf8.h"

kava_status kava_text_decoder_add(kava_text_decoder *decoder, const kava_decode_step *model) {
  if (decoder->count == KAVA_DECODE_STEPS)
    return kava_fail(KAVA_UNSUPPORTED, "more than %d decoders", KAVA_DECODE_STEPS);
  kava_decode_step step = *model;
  step.match = NULL;
  step.pattern = (kava_pattern){0};
  if (model->match) {
    kava_status st = kava_pattern_compile(model->match, model->literal, &step.pattern);
    if (st != KAVA_OK) return st;
  }
  step.content = kava_strdup(model->content ? model->content : "");
  if (!step.content) {
    kava_pattern_free(&step.pattern);
    return KAVA_MEMORY;
  }
  decoder->steps[decoder->count++] = step;
  return KAVA_OK;
}

void kava_text_decoder_free(kava_text_decoder *decoder) {
  for (int i = 0; i < decoder->count; i++) {
    kava_free(decoder->steps[i].content);
    kava_pattern_free(&decoder->steps[i].pattern);
  }
  *decoder = (kava_text_decoder){0};
}

void kava_strings_free(kava_strings *strings) {
  kava_buffer_free(&strings->text);
  kava_ids_free(&strings->ends);
}

kava_status kava_strings_end(kava_strings *strings) {
  if (strings->text.size > INT32_MAX) return kava_fail(KAVA_MISUSE, "decode: more than 2 GB of text");
  return kava_ids_add(&strings->ends, (int32_t)strings->text.size);
}

kava_status kava_add_lossy(const uint8_t *text, size_t length, kava_buffer *out) {
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

/* ---- the steps: each reads one string and appends to `to` */

static int hex(uint8_t c) {
  return c >= '0' && c <= '9'   ? c - '0'
         : c >= 'a' && c <= 'f' ? c - 'a' + 10
         : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                : -1;
}

static int byte_of(const uint8_t *text, size_t length) { /* of "<0x41>"; -1: another string */
  if (length != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
  if (text[3] == '+' && hex(text[4]) >= 0) return hex(text[4]); /* as Rust reads numbers */
  return hex(text[3]) < 0 || hex(text[4]) < 0 ? -1 : hex(text[3]) * 16 + hex(text[4]);
}

static kava_status end_bytes(kava_buffer *bytes, kava_strings *to) {
  kava_status st = KAVA_OK;
  if (bytes->size == 0) return st;
  if (kava_utf8_valid(bytes->data, bytes->size, NULL) == bytes->size) {
    st = kava_buffer_add(&to->text, bytes->data, bytes->size);
    if (st == KAVA_OK) st = kava_strings_end(to);
  } else {
    for (size_t i = 0; i < bytes->size && st == KAVA_OK; i++) {
      st = kava_buffer_text(&to->text, "\xef\xbf\xbd");
      if (st == KAVA_OK) st = kava_strings_end(to);
    }
  }
  bytes->size = 0;
  return st;
}

static kava_status byte_fallback(const kava_strings *from, kava_strings *to) {
  kava_buffer bytes = {0};
  kava_status st = KAVA_OK;
  size_t begin = 0;
  for (size_t i = 0; i < from->ends.size; begin = (size_t)from->ends.data[i++]) {
    size_t length = (size_t)from->ends.data[i] - begin;
    const uint8_t *text = length ? from->text.data + begin : NULL;
    int byte = byte_of(text, length);
    if (byte >= 0) {
      KAVA_TRY(kava_buffer_add(&bytes, &(uint8_t){(uint8_t)byte}, 1));
      continue;
    }
    KAVA_TRY(end_bytes(&bytes, to));
    KAVA_TRY(kava_buffer_add(&to->text, text, length));
    KAVA_TRY(kava_strings_end(to));
  }
  st = end_bytes(&bytes, to);
out:
  kava_buffer_free(&bytes);
  return st;
}

static kava_status byte_level(const kava_strings *from, kava_strings *to) {
  kava_buffer bytes = {0};
  kava_status st = KAVA_OK;
  size_t begin = 0;
  for (size_t i = 0; i < from->ends.size; begin = (size_t)from->ends.data[i++])
    KAVA_TRY(kava_unspell(from->text.data + begin, (size_t)from->ends.data[i] - begin, &bytes));
  KAVA_TRY(kava_add_lossy(bytes.data, bytes.size, &to->text));
  st = kava_strings_end(to);
out:
  kava_buffer_free(&bytes);
  return st;
}

static kava_status replace(const kava_decode_step *step, kava_pattern_scratch *scratch, const uint8_t *text,
                           size_t length, kava_buffer *out) {
  kava_matches matches;
  size_t from = 0, begin, end;
  bool found = true;
  kava_status st = kava_matches_begin(&matches, &step->pattern, scratch, &scratch->copy, text, length);
  while (st == KAVA_OK && (st = kava_matches_next(&matches, &found, &begin, &end)) == KAVA_OK && found) {
    st = kava_buffer_add(out, text + from, begin - from);
    if (st == KAVA_OK) st = kava_buffer_text(out, step->content);
    from = end;
  }
  return st == KAVA_OK ? kava_buffer_add(out, text + from, length - from) : st;
}

static kava_status strip(const kava_decode_step *step, const uint8_t *text, size_t length, kava_buffer *out) {
  size_t n = strlen(step->content), from = 0, to = length;
  for (uint32_t i = 0; i < step->start && to - from >= n && !memcmp(text + from, step->content, n); i++) from += n;
  for (uint32_t i = 0; i < step->stop && to - from >= n && !memcmp(text + to - n, step->content, n); i++) to -= n;
  return kava_buffer_add(out, text + from, to - from);
}

static kava_status metaspace(const kava_decode_step *step, bool first, const uint8_t *text, size_t length,
                             kava_buffer *out) {
  size_t n = strlen(step->content);
  kava_status st = KAVA_OK;
  while (length > 0 && st == KAVA_OK) {
    const uint8_t *at = memmem(text, length, step->content, n);
    size_t plain = at ? (size_t)(at - text) : length;
    st = kava_buffer_add(out, text, plain);
    if (at && st == KAVA_OK && !(first && step->prepended)) st = kava_buffer_add(out, " ", 1);
    text += plain + (at ? n : 0);
    length -= plain + (at ? n : 0);
  }
  return st;
}

static kava_status run_step(const kava_decode_step *step, kava_pattern_scratch *scratch, const kava_strings *from,
                            kava_strings *to) {
  kava_status st = KAVA_OK;
  size_t begin = 0;
  if (step->kind == KAVA_DECODER_BYTE_FALLBACK) return byte_fallback(from, to);
  if (step->kind == KAVA_DECODER_BYTE_LEVEL) return byte_level(from, to);
  if (step->kind == KAVA_DECODER_FUSE) {
    st = kava_buffer_add(&to->text, from->text.data, from->text.size);
    return st == KAVA_OK ? kava_strings_end(to) : st;
  }
  for (size_t i = 0; i < from->ends.size && st == KAVA_OK; begin = (size_t)from->ends.data[i++]) {
    size_t length = (size_t)from->ends.data[i] - begin;
    const uint8_t *text = length ? from->text.data + begin : NULL;
    if (length > 0 && step->kind == KAVA_DECODER_REPLACE) st = replace(step, scratch, text, length, &to->text);
    if (length > 0 && step->kind == KAVA_DECODER_STRIP) st = strip(step, text, length, &to->text);
    if (length > 0 && step->kind == KAVA_DECODER_METASPACE) st = metaspace(step, i == 0, text, length, &to->text);
    if (st == KAVA_OK) st = kava_strings_end(to);
  }
  return st;
}

kava_status kava_text_decoder_run(const kava_text_decoder *decoder, kava_strings *strings, kava_buffer *out) {
  kava_strings other = {0}, *from = strings, *to = &other;
  kava_pattern_scratch scratch = {0};
  kava_status st = KAVA_OK;
  for (int i = 0; i < decoder->count; i++) {
    to->text.size = to->ends.size = 0;
    KAVA_TRY(run_step(&decoder->steps[i], &scratch, from, to));
    kava_strings *swap = from;
    from = to;
    to = swap;
  }
  if (!decoder->spaced) {
    st = kava_buffer_add(out, from->text.data, from->text.size);
    goto out;
  }
  size_t begin = 0;
  for (size_t i = 0; i < from->ends.size; begin = (size_t)from->ends.data[i++]) {
    if (i > 0) KAVA_TRY(kava_buffer_add(out, " ", 1));
    size_t length = (size_t)from->ends.data[i] - begin;
    if (length) KAVA_TRY(kava_buffer_add(out, from->text.data + begin, length));
  }
out:
  kava_strings_free(&other);
  kava_pattern_scratch_free(&scratch);
  return st;
}

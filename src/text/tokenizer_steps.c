/* text/tokenizer_steps: tokenizer.json's normalizer, pre_tokenizer and decoder, read and written. What is not done here
 * is refused by name: a component that were passed over in silence would give wrong ids. */
#include "text/tokenizer_json.h"
#include "text/tokenizer_parts.h"

static kava_status unsupported(const char *component, const kava_json *value, const char *known) {
  return kava_fail(KAVA_UNSUPPORTED, "%s '%.60s' is not supported (%s are)", component, type_of(value), known);
}

/* A string member without NUL in it. */
static kava_status text_of(const kava_json *object, const char *component, const char *key, const kava_json **out) {
  const kava_json *value = kava_json_get(object, key);
  if (!kava_json_is(value, KAVA_JSON_STRING))
    return kava_fail(KAVA_FORMAT, "%s %s: %s: a string expected, got %s", component, type_of(object), key,
                     kava_json_kind_name(value));
  if (strlen(value->string) != value->length)
    return kava_fail(KAVA_UNSUPPORTED, "%s %s: %s: a NUL in it", component, type_of(object), key);
  *out = value;
  return KAVA_OK;
}

static kava_status pattern_of(const kava_json *object, const char *component, const char **text, bool *literal) {
  const kava_json *pattern = kava_json_get(object, "pattern"), *value = NULL;
  *literal = kava_json_get(pattern, "Regex") == NULL;
  kava_status st = text_of(pattern, component, *literal ? "String" : "Regex", &value);
  if (st != KAVA_OK) return kava_fail_in(st, "%s: pattern", type_of(object));
  *text = value->string;
  return KAVA_OK;
}

/* A count that is a whole number from 0 to `most`. */
static kava_status count_of(const kava_json *object, const char *component, const char *key, uint32_t most,
                            uint32_t fallback, uint32_t *out) {
  const kava_json *value = kava_json_get(object, key);
  *out = fallback;
  if (is_absent(value)) return KAVA_OK;
  if (!kava_json_is(value, KAVA_JSON_INTEGER) || value->integer < 0 || value->integer > most)
    return kava_fail(KAVA_FORMAT, "%s %s: %s: a number from 0 to %u expected", component, type_of(object), key, most);
  *out = (uint32_t)value->integer;
  return KAVA_OK;
}

/* ---- normalizer */

static kava_status decode_base64(const kava_json *text, kava_buffer *out) {
  kava_status st = kava_buffer_grow(out, text->length / 4 * 3 + 3);
  if (st != KAVA_OK) return st;
  uint32_t bits = 0;
  int have = 0;
  for (uint32_t i = 0; i < text->length; i++) {
    char c = text->string[i];
    int six = c >= 'A' && c <= 'Z'   ? c - 'A'
              : c >= 'a' && c <= 'z' ? c - 'a' + 26
              : c >= '0' && c <= '9' ? c - '0' + 52
              : c == '+'             ? 62
              : c == '/'             ? 63
                                     : -1;
    if (c == '=') break;
    if (six < 0) return kava_fail(KAVA_FORMAT, "normalizer Precompiled: byte %u is not base64", i);
    bits = bits << 6 | (uint32_t)six;
    have += 6;
    if (have < 8) continue;
    have -= 8;
    out->data[out->size++] = (uint8_t)(bits >> have);
  }
  return KAVA_OK;
}

static kava_status read_charsmap(kava_tokenizer *tok, const kava_json *value) {
  const kava_json *text = kava_json_get(value, "precompiled_charsmap");
  kava_buffer bytes = {0};
  if (is_absent(text)) return KAVA_OK;
  if (!kava_json_is(text, KAVA_JSON_STRING))
    return wrong("normalizer Precompiled: precompiled_charsmap", "a string", text);
  if (text->length == 0) return KAVA_OK; /* a map of nothing */
  kava_status st = decode_base64(text, &bytes);
  if (st == KAVA_OK)
    st = kava_normalizer_add(&tok->normalizer,
                             &(kava_normal){.kind = KAVA_NORMAL_CHARSMAP, .content = bytes.data, .length = bytes.size});
  kava_buffer_free(&bytes);
  return st;
}

static const char *const plain_normalizers[] = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", NULL, "StripAccents", "Nmt"};

kava_status kava_tokenizer_read_normalizer(kava_tokenizer *tok, const kava_json *value) {
  if (is_absent(value)) return KAVA_OK;
  const char *type = type_of(value);
  kava_normal step = {0};
  const kava_json *text;
  kava_status st = KAVA_OK;
  if (!strcmp(type, "Sequence")) {
    const kava_json *items = kava_json_get(value, "normalizers");
    if (!kava_json_is(items, KAVA_JSON_ARRAY)) return wrong("normalizer Sequence: normalizers", "a list", items);
    for (uint32_t i = 0; i < items->length && st == KAVA_OK; i++)
      st = kava_tokenizer_read_normalizer(tok, &items->items[i]);
    return st;
  }
  if (!strcmp(type, "Precompiled")) return read_charsmap(tok, value);
  for (int i = 0; i < 8; i++) {
    if (!plain_normalizers[i] || strcmp(type, plain_normalizers[i]) != 0) continue;
    step.kind = (kava_normal_kind)i;
    return kava_normalizer_add(&tok->normalizer, &step);
  }
  if (!strcmp(type, "Strip")) {
    step.kind = KAVA_NORMAL_STRIP;
    step.left = is_true(kava_json_get(value, "strip_left"));
    step.right = is_true(kava_json_get(value, "strip_right"));
    return kava_normalizer_add(&tok->normalizer, &step);
  }
  const char *content = NULL;
  if (!strcmp(type, "Prepend")) {
    step.kind = KAVA_NORMAL_PREPEND;
    content = "prepend";
  } else if (!strcmp(type, "Replace")) {
    step.kind = KAVA_NORMAL_REPLACE;
    content = "content";
    if ((st = pattern_of(value, "normalizer", &step.match, &step.literal)) != KAVA_OK) return st;
  } else {
    return unsupported(
        "normalizer", value,
        "NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Nmt, Prepend, Replace, Precompiled and Sequence");
  }
  if ((st = text_of(value, "normalizer", content, &text)) != KAVA_OK) return st;
  step.content = (const uint8_t *)text->string;
  step.length = text->length;
  return kava_normalizer_add(&tok->normalizer, &step);
}

/* ---- pre_tokenizer */

static const char *const behaviors[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
static const char *const schemes[] = {"always", "first", "never"};

static kava_status behavior_of(const kava_json *object, kava_behavior *out) {
  const kava_json *value = kava_json_get(object, "behavior");
  for (int i = 0; i < 5; i++)
    if (kava_json_is_text(value, behaviors[i])) {
      *out = (kava_behavior)i;
      return KAVA_OK;
    }
  return kava_fail(KAVA_UNSUPPORTED, "pre_tokenizer %s: behavior '%.60s' is not supported", type_of(object),
                   kava_json_is(value, KAVA_JSON_STRING) ? value->string : "?");
}

static kava_status read_metaspace(const kava_json *value, const char *component, const char **replacement,
                                  kava_prepend *prepend) {
  const kava_json *text, *scheme = kava_json_get(value, "prepend_scheme"),
                         *prefix = kava_json_get(value, "add_prefix_space");
  kava_status st = text_of(value, component, "replacement", &text);
  if (st != KAVA_OK) return st;
  if (text->length == 0) return kava_fail(KAVA_FORMAT, "%s Metaspace: replacement: one character expected", component);
  *replacement = text->string;
  *prepend = KAVA_PREPEND_ALWAYS;
  bool known = is_absent(scheme);
  for (int i = 0; i < 3; i++) {
    if (!kava_json_is_text(scheme, schemes[i])) continue;
    *prepend = (kava_prepend)i;
    known = true;
  }
  if (!known)
    return kava_fail(KAVA_UNSUPPORTED, "%s Metaspace: prepend_scheme: always, first or never expected", component);
  if (kava_json_is(prefix, KAVA_JSON_BOOLEAN) && !prefix->boolean) *prepend = KAVA_PREPEND_NEVER;
  return KAVA_OK;
}

static kava_status read_byte_level(kava_tokenizer *tok, const kava_json *value) {
  kava_status st = KAVA_OK;
  if (is_true(kava_json_get(value, "add_prefix_space")))
    st = kava_splitter_add(&tok->splitter, &(kava_split){.kind = KAVA_SPLIT_PREFIX_SPACE}, tok->scanners);
  const kava_json *regex = kava_json_get(value, "use_regex"); /* absent in older files: true */
  kava_split step = {.kind = KAVA_SPLIT_PATTERN, .text = (char *)KAVA_PATTERN_GPT2, .byte_level = true};
  if (st == KAVA_OK && (is_absent(regex) || is_true(regex)))
    st = kava_splitter_add(&tok->splitter, &step, tok->scanners);
  return st;
}

kava_status kava_tokenizer_read_pre_tokenizer(kava_tokenizer *tok, const kava_json *value, bool *byte_level) {
  if (is_absent(value)) return KAVA_OK;
  const char *type = type_of(value);
  kava_split step = {0};
  const kava_json *text;
  kava_status st = KAVA_OK;
  if (!strcmp(type, "Sequence")) {
    const kava_json *items = kava_json_get(value, "pretokenizers");
    if (!kava_json_is(items, KAVA_JSON_ARRAY)) return wrong("pre_tokenizer Sequence: pretokenizers", "a list", items);
    for (uint32_t i = 0; i < items->length && st == KAVA_OK; i++)
      st = kava_tokenizer_read_pre_tokenizer(tok, &items->items[i], byte_level);
    return st;
  }
  if (*byte_level) return kava_fail(KAVA_UNSUPPORTED, "pre_tokenizer '%.60s' behind ByteLevel is not supported", type);
  if (!strcmp(type, "ByteLevel")) {
    *byte_level = true;
    return read_byte_level(tok, value);
  }
  if (!strcmp(type, "Digits")) {
    step.kind = KAVA_SPLIT_DIGITS;
    step.behavior = is_true(kava_json_get(value, "individual_digits")) ? KAVA_ISOLATED : KAVA_CONTIGUOUS;
  } else if (!strcmp(type, "Punctuation")) {
    step.kind = KAVA_SPLIT_PUNCTUATION;
    if (!is_absent(kava_json_get(value, "behavior"))) st = behavior_of(value, &step.behavior);
  } else if (!strcmp(type, "Whitespace")) {
    step.kind = KAVA_SPLIT_WORDS;
  } else if (!strcmp(type, "WhitespaceSplit")) {
    step.kind = KAVA_SPLIT_SPACES;
    step.behavior = KAVA_REMOVED;
  } else if (!strcmp(type, "CharDelimiterSplit")) {
    step.kind = KAVA_SPLIT_LITERAL;
    step.behavior = KAVA_REMOVED;
    if ((st = text_of(value, "pre_tokenizer", "delimiter", &text)) == KAVA_OK)
      step.text = (char *)(uintptr_t)text->string;
  } else if (!strcmp(type, "FixedLength")) {
    step.kind = KAVA_SPLIT_FIXED;
    st = count_of(value, "pre_tokenizer", "length", UINT32_MAX / 2, 5, &step.size);
    if (st == KAVA_OK && step.size == 0) st = kava_fail(KAVA_FORMAT, "pre_tokenizer FixedLength: length: 0");
  } else if (!strcmp(type, "Metaspace")) {
    const char *replacement = NULL;
    const kava_json *cut = kava_json_get(value, "split");
    step.kind = KAVA_SPLIT_METASPACE;
    step.cut = is_absent(cut) || is_true(cut);
    st = read_metaspace(value, "pre_tokenizer", &replacement, &step.prepend);
    step.text = (char *)(uintptr_t)replacement;
  } else if (!strcmp(type, "Split")) {
    const char *pattern = NULL;
    bool literal = false;
    st = pattern_of(value, "pre_tokenizer", &pattern, &literal);
    step.kind = literal ? KAVA_SPLIT_LITERAL : KAVA_SPLIT_PATTERN;
    step.text = (char *)(uintptr_t)pattern;
    step.invert = is_true(kava_json_get(value, "invert"));
    if (st == KAVA_OK) st = behavior_of(value, &step.behavior);
  } else {
    return unsupported("pre_tokenizer", value,
                       "ByteLevel, Split, Digits, Metaspace, Punctuation, Whitespace, WhitespaceSplit, "
                       "CharDelimiterSplit, FixedLength and Sequence");
  }
  return st == KAVA_OK ? kava_splitter_add(&tok->splitter, &step, tok->scanners) : st;
}

/* ---- decoder */

static const char *const decoders[] = {"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"};

static kava_status read_decoder(kava_tokenizer *tok, const kava_json *value) {
  const char *type = type_of(value);
  kava_decode_step step = {0};
  const kava_json *text;
  kava_status st = KAVA_OK;
  if (!strcmp(type, "Sequence")) {
    const kava_json *items = kava_json_get(value, "decoders");
    if (!kava_json_is(items, KAVA_JSON_ARRAY)) return wrong("decoder Sequence: decoders", "a list", items);
    for (uint32_t i = 0; i < items->length && st == KAVA_OK; i++) st = read_decoder(tok, &items->items[i]);
    return st;
  }
  int kind = 0;
  while (kind < 6 && strcmp(type, decoders[kind]) != 0) kind++;
  if (kind == 6)
    return unsupported("decoder", value, "ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace and Sequence");
  step.kind = (kava_decode_kind)kind;
  if (step.kind == KAVA_DECODER_REPLACE) {
    st = pattern_of(value, "decoder", &step.match, &step.literal);
    if (st == KAVA_OK) st = text_of(value, "decoder", "content", &text);
    if (st == KAVA_OK) step.content = (char *)(uintptr_t)text->string;
  } else if (step.kind == KAVA_DECODER_STRIP) {
    st = text_of(value, "decoder", "content", &text);
    if (st == KAVA_OK && text->length == 0)
      st = kava_fail(KAVA_FORMAT, "decoder Strip: content: one character expected");
    if (st == KAVA_OK) step.content = (char *)(uintptr_t)text->string;
    if (st == KAVA_OK) st = count_of(value, "decoder", "start", UINT32_MAX / 2, 0, &step.start);
    if (st == KAVA_OK) st = count_of(value, "decoder", "stop", UINT32_MAX / 2, 0, &step.stop);
  } else if (step.kind == KAVA_DECODER_METASPACE) {
    const char *replacement = NULL;
    kava_prepend prepend;
    st = read_metaspace(value, "decoder", &replacement, &prepend);
    step.content = (char *)(uintptr_t)replacement;
    step.prepended = st == KAVA_OK && prepend != KAVA_PREPEND_NEVER;
  }
  return st == KAVA_OK ? kava_text_decoder_add(&tok->decoder, &step) : st;
}

kava_status kava_tokenizer_read_decoder(kava_tokenizer *tok, const kava_json *value) {
  tok->decoder.spaced = is_absent(value);
  return is_absent(value) ? KAVA_OK : read_decoder(tok, value);
}

/* ---- writing */

static void open_type(kava_json_writer *w, const char *type) {
  kava_json_open(w, '{');
  put_text(w, "type", type);
}
static void put_pattern(kava_json_writer *w, const char *text, bool literal) {
  put_key(w, "pattern");
  kava_json_open(w, '{');
  put_text(w, literal ? "String" : "Regex", text);
  kava_json_close(w, '}');
}

static void put_byte_level(kava_json_writer *w, bool prefix_space, bool regex) {
  open_type(w, "ByteLevel");
  put_flag(w, "add_prefix_space", prefix_space);
  put_flag(w, "trim_offsets", true);
  put_flag(w, "use_regex", regex);
  kava_json_close(w, '}');
}

static void put_base64(kava_json_writer *w, const uint8_t *data, size_t size) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  kava_buffer text = {0};
  if (kava_buffer_grow(&text, (size + 2) / 3 * 4) != KAVA_OK) {
    w->status = KAVA_MEMORY;
    return;
  }
  for (size_t i = 0; i < size; i += 3) {
    uint32_t bits =
        (uint32_t)data[i] << 16 | (i + 1 < size ? (uint32_t)data[i + 1] << 8 : 0) | (i + 2 < size ? data[i + 2] : 0);
    for (int k = 0; k < 4; k++)
      text.data[text.size++] = (uint8_t)(i + (size_t)k > size ? '=' : digits[bits >> (18 - 6 * k) & 63]);
  }
  kava_json_string(w, (const char *)text.data, text.size);
  kava_buffer_free(&text);
}

static void put_normal(kava_json_writer *w, const kava_normal *step) {
  const char *content = (const char *)step->content;
  switch (step->kind) {
  case KAVA_NORMAL_STRIP:
    open_type(w, "Strip");
    put_flag(w, "strip_left", step->left);
    put_flag(w, "strip_right", step->right);
    break;
  case KAVA_NORMAL_PREPEND:
    open_type(w, "Prepend");
    put_text(w, "prepend", content);
    break;
  case KAVA_NORMAL_REPLACE:
    open_type(w, "Replace");
    put_pattern(w, step->pattern.text, step->literal);
    put_text(w, "content", content);
    break;
  case KAVA_NORMAL_CHARSMAP:
    open_type(w, "Precompiled");
    put_key(w, "precompiled_charsmap");
    put_base64(w, step->content, step->length);
    break;
  default: open_type(w, plain_normalizers[step->kind]);
  }
  kava_json_close(w, '}');
}

static void put_split(kava_json_writer *w, const kava_split *step) {
  switch (step->kind) {
  case KAVA_SPLIT_DIGITS:
    open_type(w, "Digits");
    put_flag(w, "individual_digits", step->behavior == KAVA_ISOLATED);
    break;
  case KAVA_SPLIT_PUNCTUATION:
    open_type(w, "Punctuation");
    put_text(w, "behavior", behaviors[step->behavior]);
    break;
  case KAVA_SPLIT_SPACES: open_type(w, "WhitespaceSplit"); break;
  case KAVA_SPLIT_WORDS: open_type(w, "Whitespace"); break;
  case KAVA_SPLIT_FIXED:
    open_type(w, "FixedLength");
    put_number(w, "length", step->size);
    break;
  case KAVA_SPLIT_METASPACE:
    open_type(w, "Metaspace");
    put_text(w, "replacement", step->text);
    put_text(w, "prepend_scheme", schemes[step->prepend]);
    put_flag(w, "split", step->cut);
    break;
  default:
    open_type(w, "Split");
    put_pattern(w, step->text, step->kind == KAVA_SPLIT_LITERAL);
    put_text(w, "behavior", behaviors[step->behavior]);
    put_flag(w, "invert", step->invert);
  }
  kava_json_close(w, '}');
}

static void put_decode(kava_json_writer *w, const kava_decode_step *step) {
  if (step->kind == KAVA_DECODER_BYTE_LEVEL) {
    put_byte_level(w, false, true);
    return;
  }
  open_type(w, decoders[step->kind]);
  if (step->kind == KAVA_DECODER_REPLACE) put_pattern(w, step->pattern.text, step->literal);
  if (step->kind == KAVA_DECODER_REPLACE || step->kind == KAVA_DECODER_STRIP) put_text(w, "content", step->content);
  if (step->kind == KAVA_DECODER_STRIP) {
    put_number(w, "start", step->start);
    put_number(w, "stop", step->stop);
  }
  if (step->kind == KAVA_DECODER_METASPACE) {
    put_text(w, "replacement", step->content);
    put_text(w, "prepend_scheme", schemes[step->prepended ? KAVA_PREPEND_ALWAYS : KAVA_PREPEND_NEVER]);
    put_flag(w, "split", true);
  }
  kava_json_close(w, '}');
}

/* A component's member: null, the one step, or a Sequence of all. */
static void open_member(kava_json_writer *w, const char *key, const char *list, int count) {
  put_key(w, key);
  if (count == 0) kava_json_null(w);
  if (count < 2) return;
  open_type(w, "Sequence");
  put_key(w, list);
  kava_json_open(w, '[');
}

static void close_member(kava_json_writer *w, int count) {
  if (count < 2) return;
  kava_json_close(w, ']');
  kava_json_close(w, '}');
}

void kava_tokenizer_write_steps(const kava_tokenizer *tok, kava_json_writer *w) {
  open_member(w, "normalizer", "normalizers", tok->normalizer.count);
  for (int i = 0; i < tok->normalizer.count; i++) put_normal(w, &tok->normalizer.steps[i]);
  close_member(w, tok->normalizer.count);

  bool prefix = false, regex = false, byte_level = !tok->bpe.chars;
  int others = 0;
  for (int i = 0; i < tok->splitter.count; i++) { /* ByteLevel's own come last, as one */
    const kava_split *step = &tok->splitter.steps[i];
    prefix |= step->kind == KAVA_SPLIT_PREFIX_SPACE;
    regex |= step->byte_level;
    others += step->kind != KAVA_SPLIT_PREFIX_SPACE && !step->byte_level;
  }
  open_member(w, "pre_tokenizer", "pretokenizers", others + byte_level);
  for (int i = 0; i < tok->splitter.count; i++) {
    const kava_split *step = &tok->splitter.steps[i];
    if (step->kind != KAVA_SPLIT_PREFIX_SPACE && !step->byte_level) put_split(w, step);
  }
  if (byte_level) put_byte_level(w, prefix, regex);
  close_member(w, others + byte_level);

  open_member(w, "decoder", "decoders", tok->decoder.count);
  for (int i = 0; i < tok->decoder.count; i++) put_decode(w, &tok->decoder.steps[i]);
  close_member(w, tok->decoder.count);
}

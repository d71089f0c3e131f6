"""Tiny tokenizers for every component that src/text knows, and what Hugging Face's `tokenizers` (0.23) makes of texts with them.

usage: make_tokenizers.py OUT.jsonl [TEXTS [SEED]]      (the golden file: make_tokenizers.py spec/golden/tokenizers.jsonl)
       needs: pip install tokenizers sentencepiece

The first line is {"texts", "models"}; each of the others {"name", "tokenizer": tokenizer.json with the number of its model, "cases":
a list for the texts in order, or for texts of its own, of {"ids", "plain", "decoded", "skipped", "first", "last", "text"}}: ids with
the template, plain without (absent: the same), plain decoded with and without special tokens (absent: the text, and as decoded), and
the bytes of the text that each plain token comes from (first and last as Lua counts), where the two agree on what that is. Hugging
Face counts characters, so that a token within a character has the whole of it here; the reader widens its own spans in the same way.
With TEXTS above the default of 12 there are that many more, random ones.
"""
import json, random, sys, unicodedata
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

out, count, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 12, int(sys.argv[3]) if len(sys.argv) > 3 else 1
R = random.Random(seed)
CORPUS = ["the cat sat on the mat, and the dog's 12 hats were there; they'll say: THE END!", "  def f(x):\n\treturn x**2  # comment\n",
          "naïve café, Ångström; e\u0301te\u0301 ½ ﬁne", "Привет, мир! Ёлка", "中文分词测试，你好世界", "हिन्दी परीक्षण", "1234567 89 0", "https://a.b/c?d=e&f=%20#g",
          "the  cat   sat    again", "hello world hello there hello", "Tom has 5 apples and buys 7 more."] * 3
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = "|".join([r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                  r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                  r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
BYTES = [f"<0x{b:02X}>" for b in range(256)]
ADDED = [AddedToken("<l>", lstrip=True, normalized=False), AddedToken("<r>", rstrip=True, normalized=False),
         AddedToken("<lr>", lstrip=True, rstrip=True, normalized=False), AddedToken("dog", single_word=True, normalized=True),
         AddedToken("CAT", normalized=True), AddedToken("<l><r>", normalized=False), AddedToken("Ünder line", lstrip=True, normalized=True)]
SPECIAL = [AddedToken("<s>", special=True, normalized=False), AddedToken("</s>", special=True, normalized=False)]
made = []


def finish(name, t, added=True):
    """Adds the added tokens and a template."""
    if added:
        t.add_special_tokens(SPECIAL)
        t.add_tokens(ADDED)
        ids = {x: t.token_to_id(x) for x in ("<s>", "</s>")}
        t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=list(ids.items()))
    made.append((name, t))


def like(name, model, pre, normalizer=None, decoder=None, added=True):
    """Other steps around the model of an earlier tokenizer."""
    d = json.loads(next(t for n, t in made if n == model).to_str())
    d["added_tokens"], d["post_processor"] = [a for a in d["added_tokens"] if a["content"] == "<unk>"], None
    t = Tokenizer.from_str(json.dumps(d))
    t.normalizer, t.pre_tokenizer = normalizer, pre
    if decoder: t.decoder = decoder
    finish(name, t, added)


def bpe(name, pre, normalizer=None, decoder=None, vocab=300, byte_level=True, added=True, **model):
    t = Tokenizer(models.BPE(**model))
    if normalizer: t.normalizer = normalizer
    if pre: t.pre_tokenizer = pre
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    unk = [model["unk_token"]] if "unk_token" in model else []
    bytes_ = BYTES if model.get("byte_fallback") else []
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=vocab + len(bytes_), initial_alphabet=alphabet,
                                                      special_tokens=unk + bytes_, show_progress=False))
    if bytes_ or unk:  # they are plain entries of the vocabulary
        d = json.loads(t.to_str())
        d["added_tokens"] = [a for a in d["added_tokens"] if a["content"] in unk]
        t = Tokenizer.from_str(json.dumps(d))
    if decoder: t.decoder = decoder
    elif byte_level: t.decoder = decoders.ByteLevel()
    finish(name, t, added)


def split(pattern, behavior="isolated", invert=False): return pre_tokenizers.Split(pattern, behavior, invert)
def byte_level(*steps, prefix=False, regex=False):
    return pre_tokenizers.Sequence(list(steps) + [pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)])


SP = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
LLAMA2 = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
bpe("gpt2", byte_level(prefix=True, regex=True))
bpe("llama3", byte_level(split(Regex(LLAMA3))), ignore_merges=True)
bpe("qwen2", byte_level(split(Regex(LLAMA3.replace("{1,3}", "")))), normalizers.NFC())
like("smollm", "gpt2", byte_level(pre_tokenizers.Digits(True), regex=True))
like("o200k", "llama3", byte_level(split(Regex(O200K))))
like("deepseek", "llama3", byte_level(split(Regex(r"[\r\n]")), split(Regex(r"\s?\p{L}+")), split(Regex(r"\s?\p{P}+")), split(Regex("[一-龥ࠀ-一가-퟿]+")),
                           pre_tokenizers.Digits(True)))
like("words", "gpt2", byte_level(split(Regex(r"\w+|\W"), "removed", True), split(Regex(r"[\w\d']+"), "merged_with_next")))
bpe("llama2", None, LLAMA2, SP, byte_level=False, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
bpe("gemma", split(" ", "merged_with_previous"), normalizers.Replace(" ", "▁"), decoders.Sequence(SP_ := [decoders.Replace("▁", " "),
    decoders.ByteFallback(), decoders.Fuse()]), byte_level=False, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
bpe("metaspace", pre_tokenizers.Metaspace(prepend_scheme="never", split=False), None, decoders.Metaspace(prepend_scheme="never"),
    byte_level=False, vocab=130, unk_token="<unk>")
for scheme in ("first", "always", "never"):
    for cut in (False, True):
        like(f"metaspace {scheme} {cut}", "metaspace", pre_tokenizers.Metaspace(prepend_scheme=scheme, split=cut), None,
             decoders.Metaspace(prepend_scheme=scheme, split=cut))
like("metaspace behind a replacement", "metaspace", pre_tokenizers.Metaspace(prepend_scheme="first"),
     normalizers.Sequence([normalizers.NFKD(), normalizers.Replace("  ", "x"), normalizers.Lowercase()]), decoders.Metaspace(prepend_scheme="first"))
bpe("metaspace after strip", pre_tokenizers.Metaspace(prepend_scheme="first", split=False), normalizers.Sequence([normalizers.Strip(), normalizers.Nmt()]),
    decoders.Metaspace(prepend_scheme="first"), byte_level=False, byte_fallback=True, unk_token="<unk>")
bpe("no unknown", pre_tokenizers.Whitespace(), byte_level=False, vocab=90)
bpe("unknown apart", pre_tokenizers.WhitespaceSplit(), byte_level=False, vocab=60, unk_token="<unk>")
bpe("unknown bytes", byte_level(regex=True), vocab=280, fuse_unk=True, unk_token="<unk>")


def without(tokens):
    """The last tokenizer again, its vocabulary without tokens that have any of these in them."""
    name, t = made.pop()
    d = json.loads(t.to_str())
    m = d["model"]
    m["merges"] = [x for x in m["merges"] if not any(c in "".join(x) for c in tokens)]
    m["vocab"] = {x: i for i, x in enumerate(x for x in m["vocab"] if not any(c in x for c in tokens))}
    d["added_tokens"], d["post_processor"] = d["added_tokens"][:1], None
    finish(name, Tokenizer.from_str(json.dumps(d)))


without("ÃQĉ")  # a byte-level vocabulary that lacks bytes
bpe("some bytes", None, LLAMA2, SP, byte_level=False, vocab=80, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
without(["<0xF0>", "<0x80>"])  # byte fallback where a byte is missing: the unknown token waits
for name, n in {"NFD": normalizers.NFD(), "NFKC": normalizers.NFKC(), "NFKD": normalizers.NFKD(), "lower": normalizers.Lowercase(),
                "accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), "nmt": normalizers.Nmt(),
                "strip": normalizers.Strip(left=True, right=False),
                "replace": normalizers.Sequence([normalizers.Replace(Regex(r" {2,}|\t"), " "), normalizers.Replace("cat", "dog"),
                                                 normalizers.Replace(Regex("o+$"), "!")])}.items():
    like("normalizer " + name, "gpt2", byte_level(regex=True), n)
bpe("few", pre_tokenizers.Whitespace(), byte_level=False, vocab=70, unk_token="<unk>", added=False)
for i, behavior in enumerate(("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous")):
    for invert in (False, True):
        like(f"split {behavior} {invert}", "few", split(Regex(r"[aeiou ]+|t" if i % 2 else r"[aeiou ]|\d"), behavior, invert), added=False)
    like("punctuation " + behavior, "few", pre_tokenizers.Sequence([pre_tokenizers.Punctuation(behavior), pre_tokenizers.Digits(bool(i % 2))]),
         added=False)
like("delimiter", "few", pre_tokenizers.Sequence([pre_tokenizers.CharDelimiterSplit("t"), pre_tokenizers.FixedLength(3)]))
like("decoder strip", "metaspace", pre_tokenizers.Metaspace(), None, decoders.Sequence([decoders.Replace(Regex("▁+"), " "),
     decoders.Strip("s", 2, 0), decoders.Fuse()]))


def charsmap():
    """A small SentencePiece map, made by training with a table of rules."""
    import os, sentencepiece, tempfile
    with tempfile.TemporaryDirectory() as d:
        rules = {"ﬁ": "fi", "½": "1/2", "　": " ", "Ａ": "A", "…": "...", "e\u0301": "é", "Å": "A", "\u200b": "", "한": "han"}
        with open(d + "/rules.tsv", "w") as f:
            for a, b in rules.items(): f.write(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n")
        with open(d + "/text", "w") as f: f.write("\n".join(CORPUS))
        sentencepiece.SentencePieceTrainer.train(input=d + "/text", model_prefix=d + "/m", vocab_size=160, hard_vocab_limit=False,
                                                 normalization_rule_tsv=d + "/rules.tsv", minloglevel=2)
        data = open(d + "/m.model", "rb").read()
        # NormalizerSpec, field 3 of the model: {1: name, 2: precompiled_charsmap, ...}
        def fields(b):
            i = 0
            def varint():
                nonlocal i
                v = s = 0
                while True:
                    c = b[i]; i += 1; v |= (c & 127) << s; s += 7
                    if c < 128: return v
            while i < len(b):
                key = varint(); kind = key & 7
                if kind == 2: n = varint(); yield key >> 3, b[i:i + n]; i += n
                elif kind == 0: yield key >> 3, varint()
                else: i += 4 if kind == 5 else 8
        spec = next(v for k, v in fields(data) if k == 3)
        return next(v for k, v in fields(spec) if k == 2)


def unigram(name, normalizer, pre, decoder, byte_fallback=False):
    t = Tokenizer(models.Unigram())
    t.normalizer, t.pre_tokenizer = normalizer, pre
    t.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=150, special_tokens=["<unk>"] + (BYTES if byte_fallback else []),
                                                          unk_token="<unk>", show_progress=False))
    d = json.loads(t.to_str())
    d["added_tokens"] = d["added_tokens"][:1]
    d["model"]["byte_fallback"] = byte_fallback
    t = Tokenizer.from_str(json.dumps(d))
    t.decoder = decoder
    finish(name, t)


CHARSMAP = normalizers.Precompiled(charsmap())
unigram("unigram t5", CHARSMAP, pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]), decoders.Metaspace())
unigram("unigram albert", normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.NFKD(), normalizers.StripAccents(),
        normalizers.Lowercase(), CHARSMAP, normalizers.Replace(Regex(" {2,}"), " ")]), pre_tokenizers.Metaspace(), decoders.Metaspace())
unigram("unigram bytes", LLAMA2, None, SP, byte_fallback=True)

CHOSEN = ["", " ", "  \n\n \t x", "I'm you'RE  we'Ll, the cat's dog; hotdog dog_ CAT cat", "naïve café e\u0301 \u212b ﬁ Ａ … \u1e9b\u0323 ẞ İ",
          "中文分词测试，你好！ 한국어 हिन्दी", "👩‍👩‍👧‍👦 𝔘𝔫𝔦 ½ ⅷ ٣٤٥ 1234567", "<s>[INST] hi</s>  <l>x <r>  y <l><r> <lr> z", "a\u00a0b\u2003c\u200bd\u180ee\ufeff\u0000\u0001\u007f",
          "ünder line Ünder line  u\u0308nder line UNDER LINE", "x\r\ny\r\n\r\n ▁▁z ▁ <0x41><0x0A>", "``quoted''  ſtraße 'ſ the  end   "]
PIECES = [" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2028", "\u3000", "'s", "'LL", "the", " cat", "dog", "Hello", "12", "3456", "é", "e\u0301", "\u0301", "ö", "ﬁ", "Å", "ẞ",
          "中", "文", "한", "\u1112\u1161\u11ab", "हि", "न्दी", "ع", "👍🏽", "👩‍👧", "🇨🇳", "½", "Ⅷ", "٣", "...", "!", "--", "_", "▁", "<s>", "</s>", "<l>", "<r>", "<lr>", "<l><r>", "<unk>",
          "CAT", "Ünder line", "<0x41>", "<0xZZ>", "\u0000", "\u0007", "\u200d", "\u180e", "\ufeff", "\U00010348", "A", "z", "(", "{x}"]


def text():
    def any_char():
        while True:
            c = R.choice([R.randint(32, 126), R.randint(0xa0, 0x24f), R.randint(0x370, 0x1fff), R.randint(0x2000, 0xd7ff), R.randint(0xe000, 0x1ffff)])
            # neither surrogates nor what later versions of Unicode have given a meaning that libraries disagree on
            if unicodedata.category(chr(c)) not in ("Cs", "Cn"): return chr(c)
    return "".join(R.choice(PIECES) if R.random() < 0.7 else any_char() for _ in range(R.randint(1, 24)))


def case(t, x, spans, own):
    ids, plain = t.encode(x).ids, t.encode(x, add_special_tokens=False)
    at = [0]
    for c in x: at.append(at[-1] + len(c.encode()))
    decoded, skipped = t.decode(plain.ids, skip_special_tokens=False), t.decode(plain.ids)
    made = {"ids": ids}
    if own: made["text"] = x
    if plain.ids != ids: made["plain"] = plain.ids
    if decoded != x: made["decoded"] = decoded
    if skipped != decoded: made["skipped"] = skipped
    if spans: made |= {"first": [at[a] + 1 for a, b in plain.offsets], "last": [at[b] for a, b in plain.offsets]}
    return made


lines, distinct = [], []
for name, t in made:
    # what is rewritten has its whole origin in KAVA and parts of it there; what is dropped shifts what follows there
    spans = (t.normalizer is None or name in ("llama2", "gemma")) and name not in ("no unknown", "some bytes")
    spans = spans and (count > 12 or name in ("gpt2", "llama3", "llama2", "metaspace first False", "unknown bytes"))
    d = json.loads(t.to_str())
    m = d["model"]
    if m["type"] == "BPE": m["merges"] = [" ".join(x) for x in m["merges"]]
    model = json.dumps(m, ensure_ascii=False, separators=(",", ":"))
    if model not in distinct: distinct.append(model)
    d["model"] = distinct.index(model)
    own = [text() for _ in range(count - len(CHOSEN))]
    lines.append({"name": name, "tokenizer": d, "cases": [case(t, x, spans, False) for x in CHOSEN] + [case(t, x, spans, True) for x in own]})
with open(out, "w") as f:
    for line in [{"texts": CHOSEN, "models": distinct}] + lines:
        f.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
print(len(made), "tokenizers,", len(distinct), "models,", count, "texts each")

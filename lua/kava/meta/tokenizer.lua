---@meta
-- What src/bind/l_tokenizer.c registers in kava.tokenizer.

---@class kava.tokenizer
local tokenizer = {}

--- Reads a tokenizer: a folder with tokenizer.json (and tokenizer_config.json), such a file, or a GGUF file. Models: byte-level
--- BPE, BPE by characters with byte fallback (Llama 2, Gemma), Unigram. Ids equal those of Hugging Face's tokenizers. Failures
--- name the file and the component: "unsupported" for what is not done here (WordPiece, BertNormalizer, ...), "format", "io".
---@param path string
---@return kava.Tokenizer?
---@return string? message
---@return string? code
function tokenizer.load(path) end

--- Learns a small vocabulary by plain BPE (Sennrich et al. 2016): the special tokens get ids 0 .. n-1, then the 256 bytes,
--- then merges, the most frequent pair first; of equals that of the lower ids. The first special token is eos and pad.
--- Deterministic; equals Hugging Face's BpeTrainer. Stops early where no pair occurs twice.
---@param options { texts: string[]?, file: string?, vocab_size: integer?, pattern: string?, special: string[]? } one of texts and file; 512; "gpt2" "llama3" "qwen2" "tekken" "o200k" or "smollm" (default); {"<|endoftext|>"}
---@return kava.Tokenizer?
---@return string? message
---@return string? code
function tokenizer.train(options) end

--- Two tokenizers on the same texts (a list, or a function that gives one after another until nil), with the template's tokens.
--- same: equal ids; positions: tokens lie at the same places whatever their ids, so that keys and values can be matched one by one;
--- first: where they first differ (byte counts from 1); shared: the share of b's tokens that end at the byte where one of a's ends.
---@param a kava.Tokenizer
---@param b kava.Tokenizer
---@param texts string[]|fun(): string?
---@return { same: boolean, positions: boolean, texts: integer, tokens: { a: integer, b: integer }, shared: number, first: { text: integer, position: integer, byte: integer, a: string?, b: string? }? }
function tokenizer.compare(a, b, texts) end

--- The byte-span alignment of one text: ids of both, and for each token of b the number of the token of a that ends at the same byte
--- (0: none does): both have then read the same bytes and no more, which is what lets a teacher and a student with different
--- vocabularies share targets. last_a, last_b: the byte each token ends at.
---@param a kava.Tokenizer
---@param b kava.Tokenizer
---@param text string
---@param options { add_special_tokens: boolean?, errors: string? }? true, "strict"
---@return { a: integer[], b: integer[], map: integer[], last_a: integer[], last_b: integer[] }
function tokenizer.align(a, b, text, options) end

---@class kava.Tokenizer
---@field vocab_size integer 1 + the highest id; a model's embedding may have more rows
---@field eos_id integer? from tokenizer_config.json or the GGUF keys
---@field bos_id integer?
---@field pad_id integer?
---@field unk_id integer?
---@field chat_template string?
---@field path string the file it came from
local Tokenizer = {}

--- Raises, with the byte's offset, where the text is not valid UTF-8; errors = "replace" reads U+FFFD instead.
--- With offsets = true also where each token comes from: text:sub(first[i], last[i]). A byte-level token within a character
--- has its own bytes; what normalisation rewrote (a composed letter) has the whole of what it was; what is not in the text at all
--- (a prefix space, the template's tokens) has nothing, last[i] == first[i] - 1.
---@param text string
---@param options { add_special_tokens: boolean?, errors: string?, offsets: boolean? }? true, "strict", false
---@return integer[] ids from 0, as the model counts them
---@return integer[]? first
---@return integer[]? last
function Tokenizer:encode(text, options) end

--- Bytes that are not valid UTF-8 become U+FFFD. Raises for an id that has no token; errors = "replace" writes U+FFFD for it.
---@param ids integer[]
---@param options { skip_special_tokens: boolean?, errors: string? }? false, "strict"
---@return string
function Tokenizer:decode(ids, options) end

--- The conversation as text in the way of the model: its chat template (tokenizer_config.json, chat_template.jinja or the GGUF
--- key), rendered as transformers does. messages: { { role =, content = }, … }, or that as JSON, whose order of keys is kept where a
--- template prints objects (Lua tables come as type, role, id, function, name, description, parameters, …, then by the alphabet).
--- variables: what else the template is to see (enable_thinking = false). tokenize: ids instead of text. chat_template: another one.
--- continue_final_message: the text ends with the last message's content, to be gone on with. now: the time that strftime_now tells. What the template does wrong, or says with raise_exception, comes with its line. The
--- second result is where {% generation %} was: spans of bytes, for losses on the answers alone.
---@param messages table[]|string
---@param options { add_generation_prompt: boolean?, continue_final_message: boolean?, tools: table[]|string?, variables: table?, tokenize: boolean?, chat_template: string?, now: integer?, budget: integer? }?
---@return string|integer[]|nil
---@return integer[][]|string|nil spans or the message
---@return string? code "format" (the template), "unsupported" (there is none)
function Tokenizer:apply_chat_template(messages, options) end

--- The id of a token as the vocabulary spells it ("Ġthe"); nil where there is none.
---@param token string
---@return integer?
function Tokenizer:id(token) end

--- The token of an id as the vocabulary spells it; nil where there is none.
---@param id integer
---@return string?
function Tokenizer:token(id) end

--- 32 hex digits over all that decides ids: tokens, merges, added tokens, splitting, normalisation, template. Two tokenizers
--- with equal fingerprints give equal ids, whether they came from tokenizer.json or from GGUF.
---@return string
function Tokenizer:fingerprint() end

--- Writes tokenizer.json and tokenizer_config.json into a folder, which is made where absent: byte-for-byte copies when it was
--- loaded from such files, else new ones that Hugging Face's libraries read.
---@param folder string
---@return true?
---@return string? message
---@return string? code
function Tokenizer:save(folder) end

--- Frees it; also done by <close> and the garbage collector.
function Tokenizer:release() end

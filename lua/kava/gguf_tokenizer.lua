-- kava.gguf_tokenizer: a tokenizer as the metadata of a GGUF file: copied from another such file, or made of tokenizer.json.
local kava = require "kava"

local gguf_tokenizer = {}

local NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6 -- tokenizer.ggml.token_type

local LETTERS = [[(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+]]
local CASED = [[[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s|]]
  .. [[[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s|%s|]]
  .. [[ ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+]]
local ENDINGS = [[(?i:'s|'t|'re|'ve|'m|'ll|'d)?]]
local names_of_patterns = {
  [LETTERS:format [[\p{N}{1,3}]]] = "llama-bpe",
  [LETTERS:format [[\p{N}]]] = "qwen2",
  [CASED:format("", "", [[\p{N}]])] = "tekken",
  [CASED:format(ENDINGS, ENDINGS, [[\p{N}{1,3}]])] = "gpt-4o",
}

local function given(value)
  if value ~= kava.json.null then return value end
end

-- What llama.cpp calls a way to split text: tokenizer.ggml.pre. nil where it has no name here.
local function name_of_splitting(json)
  local pre = json.pre_tokenizer
  local list = pre.type == "Sequence" and pre.pretokenizers or { pre }
  local digits, pattern, own = false, nil, false
  for _, part in ipairs(list) do
    if part.type == "Digits" and part.individual_digits then digits = true
    elseif part.type == "Split" and part.behavior == "Isolated" and not part.invert and not pattern then pattern = part.pattern.Regex
    elseif part.type == "ByteLevel" and not part.add_prefix_space then own = part.use_regex ~= false
    else return nil end
  end
  if own and not pattern then return digits and "smollm" or "gpt-2" end
  if own or digits then return nil end
  local name = names_of_patterns[pattern]
  return name == "llama-bpe" and json.model.ignore_merges ~= true and "dbrx" or name
end

local function pair_of(merge)
  if type(merge) == "table" then return merge[1], merge[2] end
  local left, right = merge:match "^(.-) (.+)$"
  return left, right
end

-- Tokens by id with their types; ids without a token are there for llama.cpp to count.
local function tokens_of(json, rows)
  local tokens, types, last = {}, {}, rows - 1
  local bytes = json.model.byte_fallback == true
  for token, id in pairs(json.model.vocab) do
    tokens[id + 1], types[id + 1], last = token, NORMAL, math.max(last, id)
    if bytes and token:find "^<0x%x%x>$" then types[id + 1] = BYTE end
    if token == given(json.model.unk_token) then types[id + 1] = UNKNOWN end
  end
  for _, added in ipairs(given(json.added_tokens) or {}) do
    local at = added.id + 1
    tokens[at], last = added.content, math.max(last, added.id)
    if types[at] ~= UNKNOWN then types[at] = added.special and CONTROL or USER end
  end
  for at = 1, last + 1 do
    if not tokens[at] then tokens[at], types[at] = ("[PAD%d]"):format(at - 1), UNUSED end
  end
  return tokens, types
end

local function byte_level(json, put)
  local pre = name_of_splitting(json)
  if not pre then return nil, "how it splits text has no name in GGUF", "unsupported" end
  local merges = {}
  for i, merge in ipairs(json.model.merges) do merges[i] = table.concat({ pair_of(merge) }, " ") end
  put("model", "gpt2")
  put("pre", pre)
  put("merges", { type = "array", element = "string", value = merges })
  return true
end

-- SentencePiece's BPE joins the pair whose token has the highest score: scores fall with the rank of the merge.
local function by_score(json, tokens, put)
  local rank = {}
  for i, merge in ipairs(json.model.merges) do
    local left, right = pair_of(merge)
    rank[left .. right] = rank[left .. right] or i
  end
  local scores = {}
  for at, token in ipairs(tokens) do scores[at] = rank[token] and -(rank[token] - 1.0) or -1.0 * (#json.model.merges + at) end
  local prefix = kava.json.encode { json.normalizer, json.pre_tokenizer }
  put("model", "llama")
  put("pre", "default")
  put("scores", { type = "array", element = "f32", value = scores })
  put("add_space_prefix", prefix:find('"Prepend"', 1, true) ~= nil or prefix:find('"prepend_scheme":"[af]') ~= nil)
  return true
end

local function from_folder(dir, rows)
  local json, message, code = kava.json.load(dir .. "/tokenizer.json")
  if not json then return nil, message, code end
  local tok
  tok, message, code = kava.tokenizer.load(dir)
  if not tok then return nil, message, code end
  local out = {}
  local function put(key, value) out["tokenizer.ggml." .. key] = value end
  local model, pre = json.model, json.pre_tokenizer
  if model.type ~= "BPE" then
    return nil, ("%s/tokenizer.json: a tokenizer of type %s has no form in GGUF here"):format(dir, tostring(model.type)), "unsupported"
  end
  local tokens, types = tokens_of(json, rows)
  local ok
  if model.byte_fallback == true then ok, message, code = by_score(json, tokens, put)
  elseif type(pre) == "table" then ok, message, code = byte_level(json, put)
  else ok, message, code = nil, "neither byte-level nor with byte fallback", "unsupported" end
  if not ok then return nil, ("%s/tokenizer.json: %s"):format(dir, message), code end
  put("tokens", { type = "array", element = "string", value = tokens })
  put("token_type", { type = "array", element = "i32", value = types })
  put("bos_token_id", tok.bos_id)
  put("eos_token_id", tok.eos_id)
  put("padding_token_id", tok.pad_id)
  put("unknown_token_id", given(model.unk_token) and tok:id(model.unk_token))
  local plain, framed = tok:encode("a", { add_special_tokens = false }), tok:encode "a"
  put("add_bos_token", framed[1] ~= plain[1] and framed[1] == tok.bos_id)
  put("add_eos_token", framed[#framed] ~= plain[#plain] and framed[#framed] == tok.eos_id)
  local settings, file = kava.json.load(dir .. "/tokenizer_config.json"), io.open(dir .. "/chat_template.jinja", "rb")
  local template = settings and settings.chat_template
  if file then
    template = file:read "a"
    file:close()
  end
  if type(template) == "string" then out["tokenizer.chat_template"] = template end
  return out
end

local function from_gguf(path)
  local file, message, code = kava.gguf.open(path)
  if not file then return nil, message, code end
  local out = {}
  for _, field in ipairs(file:fields()) do
    if field.key:find "^tokenizer%." then out[field.key] = { type = field.type, element = field.element, value = field.value } end
  end
  file:release()
  return out
end

--- from: a folder with tokenizer.json, or a GGUF file; rows: of the model's embedding -> metadata for kava.gguf.save
--- | nil, message, code
function gguf_tokenizer.metadata(from, rows)
  if kava.fs.isdir(from) then return from_folder(from, rows) end
  return from_gguf(from)
end

return gguf_tokenizer

-- Makes a small byte-level BPE vocabulary from texts and writes it as tokenizer.json: what the demo's teacher is pretrained with.
-- Texts are cut as SmolLM2's tokenizer cuts them: every digit alone (sums are then done column by column), then GPT-2's pattern; the
-- trainer knows ASCII letters only, which is what our problems are written in. Merges go by count; of equals the pair that sorts
-- first, so that the same texts give the same file everywhere.
local vocabulary = {}

-- The pieces merges never cross.
local function pieces(text)
  local list, at = {}, 1
  while at <= #text do
    local segment = text:match("^%D+", at)
    if not segment then
      list[#list + 1] = text:sub(at, at)
      at = at + 1
    else
      local i = 1
      while i <= #segment do
        local piece = segment:match("^ ?%a+", i) or segment:match("^ ?[^%s%w]+", i)
        if not piece then
          piece = segment:match("^%s+", i)
          -- A space before a word belongs to the word.
          if i + #piece <= #segment and #piece > 1 then piece = piece:sub(1, -2) end
        end
        list[#list + 1] = piece
        i = i + #piece
      end
      at = at + #segment
    end
  end
  return list
end

-- GPT-2's stand-ins: printable bytes as they are, the others as code points from 256 on.
local function stand_ins()
  local map, extra = {}, 0
  for b = 0, 255 do
    local printable = b >= 33 and b <= 126 or b >= 161 and b <= 172 or b >= 174
    map[b] = utf8.char(printable and b or 256 + extra)
    if not printable then extra = extra + 1 end
  end
  return map
end

local function shown(token, map) return (token:gsub(".", function(c) return map[c:byte()] end)) end

-- Every word as a list of tokens; merges the pair (a, b) in it.
local function merge(word, a, b)
  local out, i = {}, 1
  while i <= #word do
    if word[i] == a and word[i + 1] == b then
      out[#out + 1] = a .. b
      i = i + 2
    else
      out[#out + 1] = word[i]
      i = i + 1
    end
  end
  return out
end

-- texts: list of strings; size: entries wanted, the end-of-text token and the 256 bytes included.
-- -> {tokens = list by id (from 0 at index 1), merges = {{a, b}, …}, special = {"<|endoftext|>"}}; fewer where nothing is left to merge
function vocabulary.train(texts, size)
  local counts, words = {}, {}
  for _, text in ipairs(texts) do
    for _, piece in ipairs(pieces(text)) do counts[piece] = (counts[piece] or 0) + 1 end
  end
  for piece, count in pairs(counts) do
    local symbols = {}
    for i = 1, #piece do symbols[i] = piece:sub(i, i) end
    words[#words + 1] = { symbols = symbols, count = count }
  end
  local special = { "<|endoftext|>" }
  local tokens, merges = { special[1] }, {}
  for b = 0, 255 do tokens[#tokens + 1] = string.char(b) end
  while #tokens < size do
    local pairs_seen, best, most = {}, nil, 0
    for _, word in ipairs(words) do
      local symbols = word.symbols
      for i = 1, #symbols - 1 do
        local key = symbols[i] .. "\0" .. symbols[i + 1]
        pairs_seen[key] = (pairs_seen[key] or 0) + word.count
      end
    end
    for key, count in pairs(pairs_seen) do
      if count > most or count == most and key < best then best, most = key, count end
    end
    if not best or most < 2 then break end
    local a, b = best:match "^(.-)%z(.*)$"
    for _, word in ipairs(words) do word.symbols = merge(word.symbols, a, b) end
    merges[#merges + 1] = { a, b }
    tokens[#tokens + 1] = a .. b
  end
  return { tokens = tokens, merges = merges, special = special }
end

-- What tokenizer.json holds, as a table.
function vocabulary.document(v)
  local map, vocab, merges = stand_ins(), {}, {}
  for i, token in ipairs(v.tokens) do vocab[i == 1 and token or shown(token, map)] = i - 1 end
  for i, pair in ipairs(v.merges) do merges[i] = shown(pair[1], map) .. " " .. shown(pair[2], map) end
  return {
    version = "1.0",
    added_tokens = { { id = 0, content = v.special[1], single_word = false, lstrip = false, rstrip = false, normalized = false,
      special = true } },
    pre_tokenizer = { type = "Sequence", pretokenizers = {
      { type = "Digits", individual_digits = true },
      { type = "ByteLevel", add_prefix_space = false, trim_offsets = true, use_regex = true },
    } },
    decoder = { type = "ByteLevel", add_prefix_space = true, trim_offsets = true, use_regex = true },
    model = { type = "BPE", fuse_unk = false, byte_fallback = false, ignore_merges = false, vocab = vocab,
      merges = merges },
  }
end

-- The same as a GGUF file's metadata: llama.cpp's "smollm" pre-tokenizer cuts as ours does.
function vocabulary.metadata(v)
  local map, tokens, kinds, merges = stand_ins(), {}, {}, {}
  for i, token in ipairs(v.tokens) do
    tokens[i] = i == 1 and token or shown(token, map)
    kinds[i] = i == 1 and 3 or 1 -- control, normal
  end
  for i, pair in ipairs(v.merges) do merges[i] = shown(pair[1], map) .. " " .. shown(pair[2], map) end
  return {
    ["tokenizer.ggml.model"] = "gpt2",
    ["tokenizer.ggml.pre"] = "smollm",
    ["tokenizer.ggml.tokens"] = tokens,
    ["tokenizer.ggml.token_type"] = kinds,
    ["tokenizer.ggml.merges"] = merges,
    ["tokenizer.ggml.bos_token_id"] = 0,
    ["tokenizer.ggml.eos_token_id"] = 0,
    ["tokenizer.ggml.padding_token_id"] = 0,
    ["tokenizer.ggml.add_bos_token"] = false,
  }
end

return vocabulary

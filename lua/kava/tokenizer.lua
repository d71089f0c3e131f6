-- kava.tokenizer, the Lua half: two tokenizers beside one another. Loading, encoding and decoding are src/text's.
--
-- Keys and values of a teacher and a student can be matched where both have read the same bytes and no more: where a token of the one
-- ends at the byte where a token of the other ends. Equal tokenizers share every position, unlike ones those that `align` gives.
local kava = require "kava"

local tokenizer = kava.tokenizer

-- Where each token ends: {[end] = token's number}. An end is a byte of the text, 0 for what stands before it (the template's tokens, a
-- prefix space), "end" for what stands behind it. Of several that end together (parts of a letter that was composed) the last counts;
-- tokens that stand for nothing within the text have no place of their own.
local function ends_of(first, last, length)
  local ends = {}
  for i = 1, #last do
    if last[i] >= first[i] then ends[last[i]] = i
    elseif last[i] == 0 then ends[0] = i
    elseif last[i] == length then ends["end"] = i end
  end
  return ends
end

--- The tokens of one text side by side: ids of both, and for each token of b the token of a that ends with it (0: none does).
function tokenizer.align(a, b, text, options)
  options = options or {}
  local how = { offsets = true, add_special_tokens = options.add_special_tokens ~= false, errors = options.errors }
  local ids_a, first_a, last_a = a:encode(text, how)
  local ids_b, first_b, last_b = b:encode(text, how)
  local ends_a, map = ends_of(first_a, last_a, #text), {}
  for i = 1, #ids_b do map[i] = 0 end
  for stop, i in pairs(ends_of(first_b, last_b, #text)) do map[i] = ends_a[stop] or 0 end
  return { a = ids_a, b = ids_b, map = map, last_a = last_a, last_b = last_b }
end

--- Whether a and b tokenise texts (a list, or a function that gives one after another) alike. same: the ids are; positions: the
--- places are, whatever the ids, so that keys and values can be matched one by one. first: where they first differ. shared: the share
--- of b's tokens that end where one of a's ends, which is what alignment="bytes" can match.
function tokenizer.compare(a, b, texts)
  local result = { same = true, positions = true, texts = 0, tokens = { a = 0, b = 0 }, first = nil, shared = 1 }
  local matched = 0
  local at = 0
  local function next_text()
    if type(texts) == "function" then return (texts()) end
    at = at + 1
    return texts[at]
  end
  for text in next_text do
    result.texts = result.texts + 1
    local both = tokenizer.align(a, b, text)
    result.tokens.a, result.tokens.b = result.tokens.a + #both.a, result.tokens.b + #both.b
    for _, i in ipairs(both.map) do matched = matched + (i > 0 and 1 or 0) end
    for i = 1, math.max(#both.a, #both.b) do
      local same_id, same_place = both.a[i] == both.b[i], both.last_a[i] == both.last_b[i] and both.a[i] ~= nil
      if not same_id then result.same = false end
      if not same_place then result.positions = false end
      if not (same_id and same_place) and not result.first then
        local byte = math.min(both.last_a[i - 1] or 0, both.last_b[i - 1] or 0) + 1
        result.first = { text = result.texts, position = i, byte = byte, a = both.a[i] and a:token(both.a[i]),
          b = both.b[i] and b:token(both.b[i]) }
      end
    end
  end
  if result.tokens.b > 0 then result.shared = matched / result.tokens.b end
  return result
end

return tokenizer

-- The fuzzers' corpora through the public names: what was once found stays found, under this suite's sanitizers too. A seed is read; what a
-- fuzzer left may be refused, with a message: "found-…" was a finding once, "seen-…" reaches what little else does. "lies-…" is refused:
-- counts, lengths, offsets and types that are not so, as in the files that were made to break other readers.
local kava = require "kava"
local helper = require "spec.helper"

local corpus = "spec/fuzz/corpus/"

local function drain(path)
  local rows, message = kava.data.rows(path, { json = true, skip = math.maxinteger })
  if not rows then return nil, message end
  local count = 0
  local ok, reason = pcall(function()
    for _ in rows do
      count = count + 1
      if count == 3000 then break end
    end
  end)
  rows:release()
  if not ok then return nil, reason end
  return count
end

local readers = {
  json = function(path)
    local text = helper.read(path)
    local value, message = kava.json.decode(text)
    if value ~= nil then assert.are.equal(kava.json.encode(value), kava.json.encode(kava.json.decode(kava.json.encode(value)))) end
    return value, message
  end,
  safetensors = kava.safetensors.load,
  gguf = function(path) return kava.gguf.load(path, { dequantize = true }) end,
  tokenizer = function(path)
    local tok, message = kava.tokenizer.load(path)
    if tok then tok:decode(tok:encode "a text, and more of it") end
    return tok, message
  end,
  checkpoint = kava.checkpoint.load,
  template = function(path)
    local made, message = kava.chat.render(helper.read(path), { messages = { { role = "user", content = "a text" } } }, { budget = 20000 })
    return made or message:match "^chat template, line %d+: ." -- some ask for what these messages have not
  end,
  text = function() return true end, -- for the fuzzer alone
  rows = drain, arrow = drain, parquet = drain,
  quantised = function() return true end, -- sizes and bytes, for the fuzzer alone
}

describe("the corpus of the fuzzer", function()
  for _, name in ipairs(kava.fs.list(corpus)) do
    local read = readers[name]
    it(name, function()
      assert.is_function(read, "this spec does not know how to replay " .. corpus .. name)
      assert.is_true(kava.fs.exists("spec/fuzz/" .. name .. ".c"))
      for _, file in ipairs(kava.fs.list(corpus .. name)) do
        local value, message = read(corpus .. name .. "/" .. file)
        if file:find "^lies%-" then assert.is_true(value == nil and message:find(file, 1, true) ~= nil, file .. " was read")
        elseif file:find "^found%-" or file:find "^seen%-" then assert.is_true(value ~= nil or type(message) == "string")
        elseif not file:find "^cut%." then assert.is_true(value ~= nil, ("%s: %s"):format(file, message)) end
      end
    end)
  end
end)

-- Every component of tokenizer.json that is known, against Hugging Face's tokenizers: spec/golden/tokenizers.jsonl holds tiny
-- tokenizers and what they make of odd texts; spec/golden/make_tokenizers.py made it. KAVA_TOKENIZER_CASES names another such file
-- (that script makes larger ones, with random texts).
local kava = require "kava"
local helper = require "spec.helper"

-- The bytes of a token widened to whole characters, as Hugging Face counts.
local function whole_characters(text, first, last)
  while first > 1 and first <= #text and text:byte(first) & 0xc0 == 0x80 do first = first - 1 end
  while last > 0 and last < #text and text:byte(last + 1) & 0xc0 == 0x80 do last = last + 1 end
  return first, last
end

local lines = io.lines(os.getenv "KAVA_TOKENIZER_CASES" or "spec/golden/tokenizers.jsonl")
local shared = assert(kava.json.decode(lines()))

describe("a tokenizer of tokenizer.json", function()
  for line in lines do
    local case = assert(kava.json.decode(line))
    it("does as Hugging Face's: " .. case.name, function()
      local dir = helper.tmp()
      case.tokenizer.model = assert(kava.json.decode(shared.models[case.tokenizer.model + 1]))
      helper.write(dir .. "/tokenizer.json", kava.json.encode(case.tokenizer))
      local tok = assert(kava.tokenizer.load(dir))
      for i, expected in ipairs(case.cases) do
        local text = expected.text or shared.texts[i]
        local ids = expected.plain or expected.ids
        local plain, first, last = tok:encode(text, { add_special_tokens = false, offsets = true })
        local decoded = expected.decoded or text
        assert.are.same({ text, table.concat(expected.ids, " ") }, { text, table.concat(tok:encode(text), " ") })
        assert.are.same({ text, table.concat(ids, " ") }, { text, table.concat(plain, " ") })
        assert.are.equal(table.concat(ids, " "), table.concat(tok:encode(text, { add_special_tokens = false }), " "))
        assert.are.equal(decoded, tok:decode(plain))
        assert.are.equal(expected.skipped or decoded, tok:decode(plain, { skip_special_tokens = true }))
        for n = 1, expected.first and #plain or 0 do
          local a, b = whole_characters(text, first[n], last[n])
          if last[n] >= first[n] then assert.are.same({ text, n, expected.first[n], expected.last[n] }, { text, n, a, b }) end
        end
        for n = 1, #plain do
          assert.is_true(first[n] >= 1 and last[n] <= #text and last[n] >= first[n] - 1)
        end
      end
    end)
  end
end)

describe("a tokenizer whose memory runs out", function()
  for line in io.lines "spec/golden/tokenizers.jsonl" do
    local case = kava.json.decode(line)
    local chosen = { llama2 = true, ["unigram albert"] = true, ["metaspace first True"] = true, ["normalizer replace"] = true }
    if chosen[case.name] then
      it("leaves nothing behind: " .. case.name, function()
        local dir = helper.tmp()
        case.tokenizer.model = assert(kava.json.decode(shared.models[case.tokenizer.model + 1]))
        helper.write(dir .. "/tokenizer.json", kava.json.encode(case.tokenizer))
        collectgarbage()
        local live, loaded, encoded = kava.live(), 0, 0
        for n = 0, 160 do
          kava.memory_fail_after(n)
          local tok, message, code = kava.tokenizer.load(dir)
          kava.memory_fail_after(-1)
          if tok then
            loaded = loaded + 1
            kava.memory_fail_after(n * 7 % 97)
            local ok, problem = pcall(tok.encode, tok, "the cat <s> e\u{301}  ½ \u{1f600}", { offsets = true })
            local fine, other = pcall(tok.decode, tok, { 5, 6, 7, 300 }, { errors = "replace" })
            kava.memory_fail_after(-1)
            if ok and fine then encoded = encoded + 1 end
            if not ok then assert.matches("memory", problem) end
            if not fine then assert.matches("memory", other) end
            tok:release()
          else
            assert.are.equal("memory", code)
            assert.is_string(message)
          end
          collectgarbage()
          assert.are.equal(live, kava.live())
        end
        assert.is_true(loaded > 0 and loaded < 160, loaded)
        assert.is_true(encoded > 0)
      end)
    end
  end
end)

describe("a tokenizer of GGUF's model llama", function()
  it("merges by score as the merges that were made of the scores do, and is saved as such", function()
    local model = assert(kava.json.decode(shared.models[1 + (function()
      for line in io.lines "spec/golden/tokenizers.jsonl" do
        local case = assert(kava.json.decode(line))
        if case.name == "llama2" then return case.tokenizer.model end
      end
    end)()]))
    local tokens, scores, types = {}, {}, {}
    for piece, id in pairs(model.vocab) do
      tokens[id + 1], scores[id + 1], types[id + 1] = piece, 0.0, piece:find "^<0x%x%x>$" and 6 or 1
    end
    types[model.vocab["<unk>"] + 1] = 2
    for rank, merge in ipairs(model.merges) do
      local id = model.vocab[(merge:gsub(" ", "", 1))]
      if scores[id + 1] == 0 then scores[id + 1] = -rank + 0.0 end
    end
    local metadata = { ["general.architecture"] = "llama", ["tokenizer.ggml.model"] = "llama", ["tokenizer.ggml.tokens"] = tokens,
      ["tokenizer.ggml.scores"] = scores, ["tokenizer.ggml.token_type"] = types, ["tokenizer.ggml.add_bos_token"] = false,
      ["tokenizer.ggml.unknown_token_id"] = model.vocab["<unk>"], ["tokenizer.chat_template"] = "{{ messages }}" }
    local dir = helper.tmp()
    assert(kava.gguf.save(dir .. "/model.gguf", {}, metadata))
    local tok = assert(kava.tokenizer.load(dir .. "/model.gguf"))
    assert(tok:save(dir .. "/saved"))
    local again = assert(kava.tokenizer.load(dir .. "/saved"))
    local compared = 0
    for line in io.lines "spec/golden/tokenizers.jsonl" do
      local case = assert(kava.json.decode(line))
      for i, expected in ipairs(case.name == "llama2" and case.cases or {}) do
        local text = shared.texts[i]
        if not text:find("[<CÜdu]") then -- those without its added tokens
          compared = compared + 1
          local ids = table.concat(expected.plain, " ")
          assert.are.same({ text, ids }, { text, table.concat(tok:encode(text), " ") })
          assert.are.same({ text, ids }, { text, table.concat(again:encode(text), " ") })
          assert.are.equal(expected.decoded or text, tok:decode(expected.plain))
        end
      end
    end
    assert.is_true(compared >= 4)
    local wrong = { ["tokenizer.ggml.scores"] = { 0.0 }, ["tokenizer.ggml.model"] = "t5", ["tokenizer.ggml.token_type"] = { 1 } }
    for key, value in pairs(wrong) do
      local kept = metadata[key]
      metadata[key] = value
      assert(kava.gguf.save(dir .. "/bad.gguf", {}, metadata))
      local bad, message = kava.tokenizer.load(dir .. "/bad.gguf")
      assert.is_nil(bad)
      assert.matches("bad.gguf: " .. key, message, 1, true)
      metadata[key] = kept
    end
  end)
end)

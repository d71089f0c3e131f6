local kava = require "kava"

-- A vocabulary of single bytes: enough to see what generation does with ids.
local letters = {}
function letters.encode(_, text)
  local ids = {}
  for i = 1, #text do ids[i] = text:byte(i) end
  return ids
end
function letters.decode(_, ids)
  local out = {}
  for i, id in ipairs(ids) do out[i] = string.char(id) end
  return table.concat(out)
end

local function tiny(extra)
  kava.seed(9)
  local config = { model_type = "llama", vocab_size = 128, hidden_size = 16, intermediate_size = 32, num_hidden_layers = 2,
    num_attention_heads = 2, num_key_value_heads = 1, rms_norm_eps = 1e-5, rope_theta = 1e4, tie_word_embeddings = false }
  for key, value in pairs(extra or {}) do config[key] = value end
  return kava.model.create(config, { std = 0.5 })
end

-- The id after a text, by whole logits of that text alone.
local function next_id(model, ids)
  local row = model:forward({ input_ids = { ids } }).logits:totable()[1][#ids]
  local best = 1
  for i = 2, #row do best = row[i] > row[best] and i or best end
  return best - 1
end

describe("kava.generate", function()
  it("takes the likeliest token at each step, for prompts of any lengths at once", function()
    local model, prompts = tiny(), { "abc", "a longer prompt", "x" }
    local texts = kava.generate.complete(model, letters, prompts, { max_tokens = 6, stop = {}, batch = 2 })
    for i, prompt in ipairs(prompts) do
      local ids, made = letters:encode(prompt), {}
      for n = 1, 6 do
        made[n] = next_id(model, ids)
        ids[#ids + 1] = made[n]
      end
      assert.equal(letters:decode(made), texts[i])
    end
  end)

  it("ends a text at the end-of-text id, at a stop pattern, at the limit", function()
    local model = tiny()
    local first = next_id(model, letters:encode "abc")
    local function complete(m, opts) return kava.generate.complete(m, letters, { "abc" }, opts)[1] end
    assert.equal(3, #complete(model, { max_tokens = 3, stop = {} }))
    assert.equal(1, #complete(model, { max_tokens = 9, stop = { "." } }))
    assert.equal("", complete(tiny { eos_token_id = first }, { max_tokens = 3, stop = {} }))
    assert.equal("", complete(tiny { eos_token_id = { 127, first } }, { max_tokens = 3, stop = {} }))
  end)

  it("reads final answers as GSM8K writes them", function()
    assert.equal("1234", kava.generate.final "a\n#### 1,234\n")
    assert.equal("-5", kava.generate.final "#### 3\n#### -5")
    assert.is_nil(kava.generate.final "no answer")
  end)

  it("leaves dropout and gradients as they were, and refuses what it does not know", function()
    kava.train(true)
    local model = tiny():requires_grad(true)
    kava.generate.complete(model, letters, { "abc" }, { max_tokens = 2 })
    assert.is_true(kava.train())
    for _, t in pairs(model:parameters()) do assert.is_nil(t.grad) end
    assert.has_error(function() kava.generate.complete(model, letters, { "abc" }, { temperature = 1 }) end)
    assert.has_error(function() kava.generate.complete(model, letters, { "" }) end)
    assert.is_true(kava.train())
  end)

  it("finds the demo's teacher right on problems it has not seen", function()
    local path = "assets/demo/teacher.gguf"
    if not kava.fs.exists(path) then return pending("skipped: " .. path .. " is not here") end
    local rows = dofile("recipes/problems.lua").rows { seed = 5, count = 20, split = "heldout" }
    local share, details = kava.generate.exact_match(assert(kava.model.load(path)), assert(kava.tokenizer.load(path)), rows)
    assert.is_true(share >= 0.9, ("%g"):format(share)) -- 99 of 100 when it was made
    local right = 0
    for i, row in ipairs(rows) do
      assert.equal(row.answer:match "#### (%d+)", details[i].expected)
      right = right + (details[i].got == details[i].expected and 1 or 0)
    end
    assert.near(right / 20, share, 1e-9)
  end)
end)

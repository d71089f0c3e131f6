-- Weights in host memory that the GPU reads: the same bits as from its own.
local missing = require "spec.cuda.gpu" ()
local kava = require "kava"

local function config(more)
  local c = { model_type = "qwen2", vocab_size = 300, hidden_size = 32, intermediate_size = 48, num_hidden_layers = 3,
    num_attention_heads = 4, num_key_value_heads = 2, rms_norm_eps = 1e-6, rope_theta = 1e4, tie_word_embeddings = true }
  for key, value in pairs(more or {}) do c[key] = value end
  return c
end

local KEYS = { logits = false, values = false }

local function run(m, ids)
  local keys = kava.kv.aggregate(m:forward({ input_ids = ids, logits = false, values = false }).kv, "concat")
  local out = m:forward { input_ids = ids }
  return keys:to({ device = "cpu" }), out.logits:to({ device = "cpu" }), out.kv:values(3):to({ device = "cpu" })
end

describe("an offloaded tensor", function()
  if missing then return it("is read by a GPU", function() pending(missing) end) end

  it("is computed with, copied, sliced and read like any of the GPU's", function()
    local x = kava.randn { 6, 8 }
    local far = x:to({ device = "cuda" }):offload()
    assert.truthy(far:offloaded() and far.device == "cuda")
    assert.same(x:totable(), far:totable())
    assert.same((x + 1):totable(), (far + 1):totable())
    assert.same(x:narrow(1, 3, 2):totable(), far:narrow(1, 3, 2):totable())
    assert.falsy(far:clone():offloaded())
    assert.same(x:totable(), far:clone():totable())
    assert.same(x:totable(), x:offload():totable()) -- from the CPU at once
    local y = kava.zeros({ 6, 8 }, { device = "cuda" })
    y:copy_(far)
    assert.same(x:totable(), y:totable())
    far:copy_(y * 2)
    assert.same((x * 2):totable(), kava.fetch(far):read():totable())
    assert.falsy(x:offloaded() or y:offloaded())
  end)

  it("takes none of the GPU's memory, and gives its own back", function()
    local x = kava.zeros({ 1024, 256 }, { device = "cuda" })
    local used = kava.memory().cuda.current
    local far = x:offload()
    assert.equal(used, kava.memory().cuda.current)
    far:release()
    assert.equal(used, kava.memory().cuda.current)
    x:release()
  end)
end)

describe("a model that is offloaded", function()
  if missing then return it("lies on a GPU", function() pending(missing) end) end

  local ids = kava.tensor({ 5, 299, 0, 17, 42, 42, 8, 1, 2, 3, 4, 5, 6, 7 }, { shape = { 2, 7 }, dtype = "i64", device = "cuda" })

  for name, case in pairs {
    ["tied"] = { config() }, ["with a head of its own"] = { config { tie_word_embeddings = false } },
    ["in bf16"] = { config(), "bf16" },
    ["of matrices stored [in, out], with learnt positions"] = { { model_type = "gpt2", vocab_size = 300, n_embd = 32, n_layer = 3,
      n_head = 4, n_positions = 16 } },
  } do
    it("gives the same keys, logits and values: " .. name, function()
      kava.seed(3)
      local m = kava.model.create(case[1], { device = "cuda", dtype = case[2] })
      local keys, logits, values = run(m, ids)
      assert.equal(0, m:offload(KEYS, 0.5), "no half of the GPU's memory")
      local moved = m:offload(KEYS)
      assert.truthy(m.weights.embed:offloaded() and m.weights.layer[3].o:offloaded() and not m.weights.layer[2].o:offloaded())
      assert.truthy(moved >= 300 * 32 * (case[2] and 2 or 4))
      local keys2, logits2, values2 = run(m, ids)
      assert.same(keys:totable(), keys2:totable())
      assert.truthy(kava.allclose(logits, logits2, { rtol = 1e-6, atol = case[2] and 1e-2 or 1e-6 })) -- q, k, v: products of their own
      assert.truthy(kava.allclose(values, values2, { rtol = 1e-6, atol = case[2] and 1e-2 or 1e-6 }))
      assert.falsy(m:head():offloaded())
      assert.equal(0, m:offload(KEYS), "nothing is left to move")
    end)
  end

  it("in codes", function()
    kava.seed(3)
    local m = kava.model.create(config { hidden_size = 64, intermediate_size = 64 }, { device = "cuda" })
    for _, layer in ipairs(m.weights.layer) do
      for key, t in pairs(layer) do
        if #t.shape == 2 then layer[key] = kava.quant.encode(t, "nf4") end
      end
    end
    m.decoder = kava.decoder(m.spec, m.weights)
    local keys, logits = run(m, ids)
    m:offload(KEYS)
    assert.truthy(m.weights.layer[3].down:offloaded())
    local keys2, logits2 = run(m, ids)
    assert.same(keys:totable(), keys2:totable())
    assert.truthy(kava.allclose(logits, logits2, { rtol = 1e-5, atol = 1e-5 }))
  end)

  it("keeps on the GPU what the pass reads, and refuses what is trained", function()
    local m = kava.model.create(config(), { device = "cuda" })
    m:offload { logits = false, hidden = true }
    assert.falsy(m.weights.embed:offloaded() or m.weights.layer[3].o:offloaded(), "the head is tied to it")
    m:offload { logits = false, values = true, queries = true }
    assert.truthy(m.weights.embed:offloaded() and m.weights.layer[3].o:offloaded())
    assert.falsy(m.weights.layer[3].v:offloaded() or m.weights.layer[3].q:offloaded())
    assert.has_error(function() kava.model.create(config(), { device = "cuda" }):requires_grad(true):offload(KEYS) end)
    assert.equal(0, kava.model.create(config()):offload(KEYS))
  end)

  it("runs within a recording, whatever ids come", function()
    kava.seed(3)
    local m = kava.model.create(config(), { device = "cuda" })
    local place = kava.zeros({ 2, 7 }, { dtype = "i64", device = "cuda" })
    local keys = run(m, ids)
    m:offload(KEYS)
    local function pass()
      return kava.no_grad(function()
        return kava.kv.aggregate(m:forward({ input_ids = place, logits = false, values = false }).kv, "concat")
      end)
    end
    pass()
    local replay, out = kava.record(pass)
    place:copy_(ids)
    replay:run()
    assert.same(keys:totable(), out:totable())
    replay:release()
  end)
end)

-- A GPU's keys lie side by side in one storage: put together they are a view, and the loss's gradient is added to where it lies.
-- Values and gradients against the CPU, where each layer's keys are a tensor of their own.
local missing = require "spec.cuda.gpu" ()
local agree = require "spec.cuda.agree"
local kava = require "kava"

local config = { model_type = "qwen2", vocab_size = 40, hidden_size = 32, intermediate_size = 48, num_hidden_layers = 3,
  num_attention_heads = 4, num_key_value_heads = 2, rms_norm_eps = 1e-6, rope_theta = 1e4, tie_word_embeddings = true }
local ids = { { 1, 5, 9, 3, 7, 2 }, { 3, 8, 3, 11, 30, 39 } }

local function like(changes)
  local out = {}
  for key, value in pairs(config) do out[key] = value end
  for key, value in pairs(changes) do out[key] = value end
  return out
end

local function run(device, case)
  kava.seed(7)
  local model = kava.model.create(case.of or config, { device = device }):requires_grad(true):recompute(case.recompute or "none")
  local tokens = kava.tensor(case.ids or ids, { dtype = "i64" })
  local targets = {}
  local function target(t)
    local key = table.concat(t.shape, " ")
    kava.seed(11)
    targets[key] = targets[key] or kava.randn(t.shape):to { device = device }
    return targets[key]
  end
  local loss
  for _ = 1, 2 do
    local out = model:forward { input_ids = tokens, logits = case.logits or false, values = false }
    loss = case.loss(out, target, tokens, model)
    loss:backward()
  end
  local found = { loss = loss }
  for name, t in pairs(model:parameters()) do found[name] = t.grad end
  return found
end

local function same(case)
  agree(run("cpu", case), run("cuda", case))
end

local function concat(out, layers) return kava.kv.aggregate(out.kv, "concat", { layers = layers }) end
local function of_concat(out, target)
  local keys = concat(out)
  return (kava.loss.mercator(keys, target(keys)))
end

describe("keys side by side", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end

  it("are put together without a copy", function()
    local model = kava.model.create(config, { device = "cuda" })
    local out = kava.no_grad(model.forward, model, { input_ids = kava.tensor(ids, { dtype = "i64" }), logits = false })
    local before = kava.memory().cuda.current
    local some, all = concat(out, { 2, 3 }), concat(out)
    assert.equal(before, kava.memory().cuda.current)
    assert.same({ 2, 6, 48 }, all.shape)
    assert.same({ 2, 6, 32 }, some.shape)
    for i = 1, 3 do
      local keys = out.kv:keys(i):permute(1, 3, 2, 4):reshape(2, 6, 16):to { device = "cpu" }
      assert.same(keys:totable(), all:narrow(3, 16 * i - 15, 16):to({ device = "cpu" }):totable())
    end
    assert.same(all:narrow(3, 17, 32):to({ device = "cpu" }):totable(), some:to({ device = "cpu" }):totable())
    local turned = concat(out, { 3, 1 })
    assert.is_true(kava.memory().cuda.current > before)
    assert.same(all:narrow(3, 1, 16):to({ device = "cpu" }):totable(), turned:narrow(3, 17, 16):to({ device = "cpu" }):totable())
  end)

  it("have the CPU's gradients: of all layers, of some, in another order", function()
    same { loss = of_concat }
    for _, layers in ipairs { { 1, 2 }, { 2, 3 }, { 3, 1 }, { 2 } } do
      same { loss = function(out, target)
        local keys = concat(out, layers)
        return (kava.loss.mercator(keys, target(keys)))
      end }
    end
  end)

  it("beside other uses of the same keys, and of their concatenation", function()
    same { logits = true, loss = function(out, target, tokens)
      return of_concat(out, target) + kava.loss.cross_entropy(out.logits, tokens)
    end }
    same { loss = function(out, target)
      local keys, two = concat(out), out.kv:keys(2)
      return (kava.loss.mercator(keys, target(keys))) + (two * two):sum() * 1e-2 + (keys * keys):mean()
    end }
    same { loss = function(out, target)
      local keys, again = concat(out), concat(out)
      return (kava.loss.mercator(keys + again, target(keys))) + (kava.loss.mercator(again, target(keys)))
    end }
    same { loss = function(out, target, _, model) -- a sum's two gradients are one: nothing may be added to it for either
      local keys, other = concat(out), kava.tensor({ { 2, 4, 6, 8, 1, 3 }, { 7, 5, 3, 1, 9, 2 } }, { dtype = "i64" })
      local more = concat(model:forward { input_ids = other, logits = false, values = false })
      return (kava.loss.mercator(keys + more, target(keys)))
    end }
    same { loss = function(out, target)
      local before, keys = kava.kv.aggregate(out.kv, "concat", { rope = "pre" }), concat(out)
      return (kava.loss.mercator(before, target(keys))) + (kava.loss.mercator(keys, target(keys)))
    end }
  end)

  it("with layers computed again, of one row, of one token", function()
    for _, recompute in ipairs { "mlp", "layer" } do same { loss = of_concat, recompute = recompute } end
    same { loss = of_concat, ids = { { 1, 5, 9, 3, 7, 2 } } }
    same { loss = of_concat, ids = { { 4 }, { 7 } } }
  end)

  it("with widths that lie at no multiple of 16 bytes, normalised heads, layers without rotation", function()
    same { loss = of_concat, of = like { num_key_value_heads = 1, num_attention_heads = 5, hidden_size = 30 } }
    same { loss = of_concat, of = like { model_type = "qwen3", head_dim = 8 } }
    same { loss = of_concat, of = like { model_type = "smollm3", no_rope_layers = { 1, 0, 1 } } }
  end)

  it("other permutations and reshapes of recorded tensors have the CPU's gradients", function()
    local function gradient(device)
      kava.seed(3)
      local x = kava.randn({ 2, 3, 4, 5 }):to({ device = device }):requires_grad(true)
      local y = (x * 2):permute(1, 3, 2, 4)
      local back, other = y:permute(1, 3, 2, 4), y:permute(4, 1, 2, 3)
      local flat = back:reshape(2, 3, 20)
      local leaf = x:permute(2, 1, 3, 4):permute(2, 1, 3, 4):reshape(2, 3, 20)
      local both = kava.cat({ flat, y:permute(1, 3, 2, 4):reshape(2, 3, 20), leaf }, 3)
      local weight = kava.randn(both.shape):to { device = device }
      ;((both * weight):sum() + (other * other):sum() + (back * flat:reshape(2, 3, 4, 5)):sum()):backward()
      return x.grad:to { device = "cpu" }
    end
    assert.is_true(kava.allclose(gradient "cuda", gradient "cpu", { rtol = 1e-5, atol = 1e-5 }))
  end)
end)

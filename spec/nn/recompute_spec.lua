-- Activations computed again in the backward pass: the same loss and gradients, from less memory.
local kava = require "kava"
local starve = require "spec.starve"

local function config(over)
  local c = { model_type = "qwen2", vocab_size = 40, hidden_size = 32, intermediate_size = 48, num_hidden_layers = 3,
    num_attention_heads = 4, num_key_value_heads = 2, rms_norm_eps = 1e-6, rope_theta = 1e4, tie_word_embeddings = true }
  for key, value in pairs(over or {}) do c[key] = value end
  return c
end

local ids = kava.tensor({ { 1, 5, 9, 3, 7, 2 }, { 3, 8, 3, 11, 30, 39 } }, { dtype = "i64" })
local start = kava.tensor({ { 0, 0, 0, 3, 3, 3 }, { 0, 0, 0, 0, 0, 0 } }, { dtype = "i32" })

-- A loss over keys, values and logits: each has a gradient of its own.
local function loss_of(model, request)
  local out = model:forward { input_ids = ids, start = start, queries = request and request.queries }
  local keys = kava.kv.aggregate(out.kv, "concat")
  local values = kava.kv.aggregate(out.kv, "concat", { part = "values" })
  return (keys * keys):mean() + (values * values * values):mean() + kava.loss.cross_entropy(out.logits, ids), out
end

local function gradients(model, how, request)
  model:recompute(how)
  local scope <close> = kava.scope() -- luacheck: ignore 211
  local loss, out = loss_of(model, request)
  loss:backward()
  local found = {}
  for name, t in pairs(model:parameters()) do
    found[name] = t.grad and t.grad:clone()
    t.grad = nil
  end
  return loss:item(), found, out
end

local families = {
  qwen2 = {}, qwen3 = { head_dim = 8 },
  gemma2 = { head_dim = 8, query_pre_attn_scalar = 8, hidden_activation = "gelu_pytorch_tanh", attn_logit_softcapping = 50,
    final_logit_softcapping = 30, sliding_window = 4 },
  gpt2 = { n_embd = 32, n_layer = 3, n_head = 4, n_inner = 48, n_positions = 16, layer_norm_epsilon = 1e-5 },
}

describe("recomputation", function()
  for family, over in pairs(families) do
    it("gives the same loss, and gradients that are the same bits or nearly so: " .. family, function()
      kava.seed(4)
      over.model_type = family
      local model = kava.model.create(config(over)):requires_grad(true)
      local loss, expected = gradients(model, "none")
      for _, how in ipairs { "mlp", "mlp:2", "layer", "layer:1" } do
        local other, found = gradients(model, how)
        assert.equal(loss, other, how)
        for name, g in pairs(expected) do
          -- a whole layer's input gets what queries and keys give it in another order
          local near = how:find "layer" and 2e-6 * math.max(1, g:abs():max():item()) or 0
          assert.is_true((kava.allclose(found[name], g, { rtol = 0, atol = near })), how .. ": " .. name)
        end
      end
    end)
  end

  it("leaves alone what is not trained, and computes nothing again where nothing is", function()
    kava.seed(5)
    local model = kava.model.create(config())
    local last = model:parameters()["model.layers.2.mlp.up_proj.weight"]
    last:requires_grad(true)
    local _, expected = gradients(model, "none")
    local _, found = gradients(model, "layer")
    assert.is_nil(found["model.layers.1.mlp.up_proj.weight"])
    assert.is_true((kava.allclose(found["model.layers.2.mlp.up_proj.weight"], expected["model.layers.2.mlp.up_proj.weight"],
      { rtol = 0, atol = 0 })))
    last:requires_grad(false)
    assert.is_false((loss_of(model)):requires_grad())
  end)

  it("gives queries where they are asked for", function()
    kava.seed(6)
    local model = kava.model.create(config()):requires_grad(true)
    local loss, expected = gradients(model, "none", { queries = true })
    local other, found = gradients(model, "layer", { queries = true })
    assert.equal(loss, other)
    for name, g in pairs(expected) do assert.is_true((kava.allclose(found[name], g, { rtol = 0, atol = 0 })), name) end
  end)

  it("keeps less: the MLP's inner width, and all but keys, values and the stream", function()
    kava.seed(7)
    local model = kava.model.create(config { intermediate_size = 512, num_hidden_layers = 8 }):requires_grad(true)
    local long = kava.zeros({ 4, 64 }, { dtype = "i64" })
    local function held(how) -- by the records of a forward pass
      model:recompute(how)
      collectgarbage()
      collectgarbage()
      local before = kava.memory().cpu.current
      local scope <close> = kava.scope() -- luacheck: ignore 211
      local out = model:forward { input_ids = long, logits = false }
      local after = kava.memory().cpu.current
      assert(out)
      return after - before
    end
    local all, mlp, layer = held "none", held "mlp", held "layer"
    local tokens, inner, hidden = 4 * 64, 512 * 4, 32 * 4 -- in bytes
    assert.is_true(all - mlp > 0.98 * 7 * tokens * 2 * inner, ("%d and %d"):format(all, mlp)) -- the last layer's is not computed
    assert.is_true(mlp - layer > 0.98 * 7 * tokens * 3 * hidden, ("%d and %d"):format(mlp, layer)) -- q, o and x between the halves
  end)

  it("refuses to go back over weights that were written to since", function()
    local model = kava.model.create(config()):requires_grad(true)
    model:recompute "mlp"
    local loss = loss_of(model)
    kava.no_grad(function() model:parameters()["model.layers.1.mlp.up_proj.weight"]:fill_(1) end)
    assert.error_matches(function() loss:backward() end, "a weight of layer 2 was written to after the forward pass")
  end)

  it("comes back from every failed allocation", function()
    kava.seed(8)
    local model = kava.model.create(config { num_hidden_layers = 2 }):requires_grad(true)
    model:recompute "layer"
    local function drop()
      for _, t in pairs(model:parameters()) do t.grad = nil end
    end
    assert.is_true(starve(function()
      local scope <close> = kava.scope() -- luacheck: ignore 211
      model:forward({ input_ids = ids, logits = false, values = false }).kv:keys(2):sum():backward()
    end, drop) > 100)
  end)

  it("names what it does not know", function()
    local model = kava.model.create(config())
    for _, how in ipairs { "all", "mlp:x", "layer:-1" } do
      assert.error_matches(function() model:recompute(how) end, "none, mlp, layer, mlp:N or layer:N")
    end
  end)
end)

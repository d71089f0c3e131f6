-- Products that a GPU does as one (queries, keys and values of a layer; gate and up): what they give, and the gradients of their parts
-- however few of them are trained or used, against the CPU, where each is a product of its own.
local missing = require "spec.cuda.gpu" ()
local agree = require "spec.cuda.agree"
local kava = require "kava"

local config = { model_type = "qwen2", vocab_size = 40, hidden_size = 32, intermediate_size = 48, num_hidden_layers = 3,
  num_attention_heads = 4, num_key_value_heads = 2, rms_norm_eps = 1e-6, rope_theta = 1e4, tie_word_embeddings = true }
local ids = kava.tensor({ { 1, 5, 9, 3, 7, 2 }, { 3, 8, 3, 11, 30, 39 } }, { dtype = "i64" })

local function like(changes)
  local out = {}
  for key, value in pairs(config) do out[key] = value end
  for key, value in pairs(changes) do out[key] = value end
  return out
end

-- loss(out) of a fresh model on each device, twice backward -> the parameters' gradients by name
local function gradients(device, of, trained, loss)
  kava.seed(5)
  local model = kava.model.create(of, { device = device })
  for name, t in pairs(model:parameters()) do t:requires_grad(trained(name)) end
  for _ = 1, 2 do
    local out = model:forward { input_ids = ids, logits = true, queries = true }
    loss(out):backward()
  end
  local found = {}
  for name, t in pairs(model:parameters()) do found[name] = t.grad end
  return found, model
end

local function same(of, trained, loss)
  local expected = gradients("cpu", of, trained, loss) -- the model itself comes second
  local got = gradients("cuda", of, trained, loss)
  agree(expected, got)
end

local function all() return true end
local function of_logits(out) return kava.loss.cross_entropy(out.logits, ids) end
local function of_everything(out)
  local total = of_logits(out)
  for i = 1, out.kv:layers() do
    for _, t in ipairs { out.kv:keys(i), out.kv:keys(i, { rope = "pre" }), out.kv:values(i), out.kv:queries(i) } do
      total = total + (t * t):sum() * 1e-2
    end
  end
  return total
end

describe("joined products", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end

  it("have the gradients that products of their own have", function()
    same(config, all, of_logits)
    same(config, all, of_everything)
    same(config, all, function(out) return (out.kv:keys(2) * out.kv:keys(2)):sum() end)
    same(config, all, function(out) return (out.kv:values(2) * out.kv:values(2)):sum() end)
  end)

  -- of all of a model, forward and backward
  local function profile_of_pass()
    kava.seed(5)
    local model = kava.model.create(config, { device = "cuda" })
    for _, t in pairs(model:parameters()) do t:requires_grad(true) end
    return kava.profile.run(function()
      of_logits(model:forward { input_ids = ids, logits = true }):backward()
    end)
  end

  it("of gate and up: the MLP's gradients in the pass that makes the input of its last product again", function()
    local report = profile_of_pass()
    local calls = {}
    for _, entry in ipairs(report.ops) do calls[entry.name] = (calls[entry.name] or 0) + 1 end
    assert.same({ 3, 3 }, { calls.gated, calls.gated_grad })
  end)

  it("add the residual stream themselves, backwards as well: there is no kernel for a sum", function()
    local report = profile_of_pass()
    local seen = {} -- on a GPU names go on: norm_grad_kernel<...>
    for _, entry in ipairs(report.kernels) do
      for _, name in ipairs { "norm_grad", "binary", "accumulate", "copy" } do
        seen[name] = seen[name] or entry.name:find("^" .. name) ~= nil
      end
    end
    assert.same({ norm_grad = true, binary = false, accumulate = false, copy = false }, seen)
  end)

  it("of gate and up in bf16: what is made of the two comes with them, recorded or not", function()
    -- as many tiles as the emulated GPU, of few multiprocessors, takes for enough
    local wide = like { hidden_size = 480, intermediate_size = 512, num_hidden_layers = 1 }
    local tokens = {}
    for i = 1, 256 do tokens[i] = (i * 7 + i // 9) % 40 end
    local many = kava.tensor(tokens, { shape = { 2, 128 }, dtype = "i64" })
    local function run(device, precision)
      kava.seed(5)
      kava.matmul_precision(precision)
      local model = kava.model.create(wide, { device = device, dtype = precision })
      local logits = model:forward({ input_ids = many, logits = true }).logits
      for _, t in pairs(model:parameters()) do t:requires_grad(true) end
      local function step()
        kava.loss.cross_entropy(model:forward({ input_ids = many, logits = true }).logits, many):backward()
      end
      local report = device == "cuda" and kava.profile.run(step) or step()
      kava.matmul_precision "f32"
      local calls, grads = {}, {}
      for _, entry in ipairs(report and report.ops or {}) do calls[entry.name] = true end
      for name, t in pairs(model:parameters()) do grads[name] = t.grad end
      return logits, grads, calls
    end
    local expected, gradients_expected = run("cpu", "f32")
    local got, gradients_got, calls = run("cuda", "bf16")
    if kava.device("cuda").name == "emulated" then
      assert.is_truthy(calls.linear_gate_up)
      assert.is_nil(calls.gated) -- the backward pass makes it again while it makes the gradients
    end
    local function near(a, b, what) -- bf16 has 8 bits, and the weights were rounded to it
      local wanted = b:abs():max():item()
      assert.is_true(kava.allclose(a:to { device = "cpu", dtype = "f32" }, b, { rtol = 0, atol = 0.03 * wanted }), what)
    end
    near(got, expected, "logits")
    for name, g in pairs(gradients_expected) do near(gradients_got[name], g, name) end
  end)

  it("of what a gate and an up make: back over it and the projection behind it", function()
    local held
    local function run(device, dtype, rows, width, out, made)
      kava.seed(9)
      local function leaf(...)
        local t = (kava.randn { ... } * 0.3):to { device = device, dtype = dtype }
        t:requires_grad(true)
        return t
      end
      local leaves = { x = leaf(rows, 16), gate = leaf(width, 16), up = leaf(width, 16), down = leaf(out, width) }
      local seen_by = kava.randn({ rows, out }):to { device = device, dtype = dtype }
      local function step()
        local loss = (made(kava.linear(leaves.x, leaves.gate), kava.linear(leaves.x, leaves.up), leaves.down) * seen_by):sum()
        collectgarbage() -- what Lua alone would still hold
        loss:backward()
      end
      local report, calls, grads = kava.profile.run(step), {}, {}
      for _, entry in ipairs(report.ops or {}) do calls[entry.name] = true end
      for name, t in pairs(leaves) do grads[name] = t.grad:to { device = "cpu", dtype = "f32" } end
      if held then assert.is_true(kava.allclose(held, kava.linear(leaves.x, leaves.gate), { rtol = 0, atol = 1e-5 })) end
      held = nil
      return calls, grads
    end
    local function check(dtype, tolerance, rows, width, out, made)
      local _, expected = run("cpu", "f32", rows, width, out, made)
      local calls, got = run("cuda", dtype, rows, width, out, made)
      for name, g in pairs(expected) do
        assert.is_true(kava.allclose(got[name], g, { rtol = 0, atol = tolerance * g:abs():max():item() }), name)
      end
      return calls
    end
    local function alone(gate, up, w) return kava.linear(kava.swiglu(gate, up), w) end
    local calls = check("bf16", 0.03, 128, 1024, 456, alone) -- as many tiles as the emulated GPU has multiprocessors
    if kava.device("cuda").name == "emulated" then
      assert.is_truthy(calls.linear_gated_back)
      assert.is_nil(calls.gated_grad)
    end
    assert.is_truthy(check("bf16", 0.03, 9, 24, 16, alone).gated_grad) -- too few: by two kernels, in place as well
    check("f32", 1e-4, 9, 24, 16, alone)
    check("f32", 1e-4, 9, 24, 16, function(gate, up, w) return kava.linear(kava.geglu(gate, up), w) end)
    check("f32", 1e-4, 9, 24, 16, function(gate, up, w)
      held = gate -- nothing may be written over it then
      return kava.linear(kava.swiglu(gate, up), w) + kava.linear(gate, w)
    end)
    check("f32", 1e-4, 9, 24, 16, function(gate, up, w)
      local act = kava.swiglu(gate, up) -- two that read it
      return kava.linear(act, w) + kava.linear(act, w * 2)
    end)
  end)

  it("also where some of the parts are trained", function()
    same(config, function(name) return name:find "k_proj" ~= nil end, of_logits)
    same(config, function(name) return not name:find "v_proj" and not name:find "gate_proj" end, of_everything)
    same(config, function(name) return name:find "bias$" ~= nil end, of_logits)
  end)

  it("also where all weights are trained but only some of their biases, and the other way round", function()
    same(config, function(name) return not name:find "k_proj%.bias" end, of_logits)
    same(config, function(name) return not name:find "k_proj%.weight" end, of_logits)
  end)

  it("also of families that keep them as one tensor, or normalise heads", function()
    same(like { model_type = "phi3", pad_token_id = 0 }, all, of_everything)
    same(like { model_type = "qwen3", head_dim = 8 }, all, of_everything)
    same(like { model_type = "gemma2", head_dim = 8, hidden_activation = "gelu_pytorch_tanh" }, all, of_logits)
  end)

  it("stay parameters of their own, whose gradients may be held", function()
    local _, model = gradients("cuda", config, all, of_logits)
    local held = model:parameters()["model.layers.0.self_attn.k_proj.weight"].grad
    local before = held:to { device = "cpu" }:clone()
    of_logits(model:forward { input_ids = ids }):backward()
    local after = model:parameters()["model.layers.0.self_attn.k_proj.weight"].grad:to { device = "cpu" }
    assert.is_true(kava.allclose(after, before * 1.5, { rtol = 0, atol = 1e-4 * before:abs():max():item() }))
    for name, t in pairs(model:parameters()) do
      if name:find "k_proj.weight" then assert.same({ 16, 32 }, t.shape) end
    end
  end)

  it("are taken where the weights lie behind one another alone", function()
    kava.seed(1)
    local whole = kava.randn({ 9, 5 }):to { device = "cuda" }
    local x = kava.randn({ 4, 5 }):to { device = "cuda" }
    local a, b = kava.linear_joined(x, { whole:narrow(1, 1, 4), whole:narrow(1, 5, 5) })
    assert.is_true(kava.allclose(a:to { device = "cpu" }, kava.linear(x, whole:narrow(1, 1, 4)):to { device = "cpu" }))
    assert.is_true(kava.allclose(b:to { device = "cpu" }, kava.linear(x, whole:narrow(1, 5, 5)):to { device = "cpu" }))
  end)
end)

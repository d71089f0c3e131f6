-- Training in few bits on a GPU: bf16 weights beside the rest of their f32, gradients in bf16, moments in 8 bits.
local missing = require "spec.cuda.gpu" ()
local kava = require "kava"

local config = { model_type = "qwen2", vocab_size = 160, hidden_size = 32, intermediate_size = 48, num_hidden_layers = 2,
  num_attention_heads = 4, num_key_value_heads = 2, rms_norm_eps = 1e-6, rope_theta = 1e4, tie_word_embeddings = true }

-- teacher's keys -> projector -> the student's keys, and cross entropy; two micro-batches a step
local function job(options)
  kava.seed(3)
  local self = { teacher = kava.model.create(config, { device = "cuda", dtype = "bf16" }) }
  self.student = kava.model.create(config, { device = "cuda", dtype = options.weights or "bf16" }):requires_grad(true)
  if options.recompute then self.student:recompute(options.recompute) end
  self.projector = kava.projector { in_dim = 32, out_dim = 32, device = "cuda", dropout = 0.1, dtype = options.projector }
  local groups = { { params = self.student:parameters(), lr = 1e-3 }, { params = self.projector:parameters(), lr = 1e-2 } }
  self.optimizer = kava.optim.adamw(groups, { state_dtype = options.moments })
  self.ids = kava.zeros({ 2, 6 }, { dtype = "i64", device = "cuda" })
  function self.gradients()
    local sum
    for half = 1, 2 do
      local ids = self.ids:narrow(1, half, 1)
      local target = kava.no_grad(function() return kava.kv.aggregate(self.teacher:forward({ input_ids = ids }).kv, "concat") end)
      local out = self.student:forward { input_ids = ids, logits = true }
      local loss = kava.loss.mse(kava.kv.aggregate(out.kv, "concat"), self.projector(target)) + kava.loss.cross_entropy(out.logits, ids)
      loss:backward()
      sum = sum and sum + loss:detach() or loss:detach()
    end
    return sum
  end
  function self.step()
    local scope <close> = kava.scope() -- luacheck: ignore 211
    local loss = self.gradients()
    self.optimizer:step()
    self.optimizer:zero_grad()
    return loss
  end
  return self
end

local function inputs(step)
  local list = {}
  for i = 1, 12 do list[i] = (i * step * 37 + step) % 160 end
  return kava.tensor(list, { shape = { 2, 6 }, dtype = "i64" })
end

local function trained(own)
  local out = {}
  for name, t in pairs(own.student:parameters()) do out["student " .. name] = t end
  for name, t in pairs(own.projector:parameters()) do out["projector " .. name] = t end
  return out
end

local function assert_same(a, b)
  for name, t in pairs(a) do assert.is_true((kava.allclose(b[name], t, { rtol = 0, atol = 0 })), name) end
end

describe("training in few bits on cuda", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end
  before_each(function() kava.matmul_precision "bf16" end)
  after_each(function()
    kava.matmul_precision "f32"
    kava.gradient_dtype "f32"
  end)

  it("keeps the gradients of matrices in bf16, those of vectors in f32, and they are the same but for rounding", function()
    local function gradients(dtype)
      kava.gradient_dtype(dtype)
      local own = job { projector = "bf16" }
      own.ids:copy_(inputs(1))
      local scope <close> = kava.scope() -- luacheck: ignore 211
      own.gradients()
      local out = {}
      for name, t in pairs(trained(own)) do
        if t.grad then
          assert.equal(#t.shape > 1 and dtype or "f32", t.grad.dtype, name)
          out[name] = t.grad:to { dtype = "f32", device = "cpu" }
        end
      end
      return out
    end
    local wide, half = gradients "f32", gradients "bf16"
    for name, g in pairs(wide) do -- rounded after each of two backward passes
      local most = g:abs():max():item()
      assert.is_true((kava.allclose(half[name], g, { rtol = 0, atol = most * 2 ^ -7 })), name)
    end
  end)

  it("computes activations again, to the same gradients", function()
    kava.gradient_dtype "bf16"
    local found = {}
    for _, how in ipairs { "none", "mlp" } do
      local own = job { recompute = how }
      own.ids:copy_(inputs(3))
      local scope <close> = kava.scope() -- luacheck: ignore 211
      own.gradients()
      found[how] = {}
      for name, t in pairs(trained(own)) do found[how][name] = t.grad end
    end
    assert_same(found.none, found.mlp)
  end)

  it("clips gradients of both types by their common norm", function()
    kava.gradient_dtype "bf16"
    local own = job {}
    own.ids:copy_(inputs(2))
    own.gradients()
    local squares = 0
    for _, t in pairs(trained(own)) do
      if t.grad then
        local g = t.grad:to { dtype = "f32", device = "cpu" }
        squares = squares + (g * g):sum():item()
      end
    end
    local norm = kava.optim.clip_grad_norm(trained(own), 0.25)
    assert.near(math.sqrt(squares), norm, 1e-4 * norm)
    assert.near(0.25, kava.optim.clip_grad_norm(trained(own), math.huge), 1e-3)
  end)

  for _, moments in ipairs { "f32", "bf16", "8bit" } do
    it("recorded gives bit for bit what called does, and goes on from a saved state: moments " .. moments, function()
      kava.gradient_dtype "bf16"
      local options = { projector = "bf16", moments = moments, recompute = moments == "8bit" and "layer" or "mlp" }
      local called, again = job(options), job(options)
      kava.seed(1)
      local expected = {}
      for step = 1, 4 do
        called.ids:copy_(inputs(step))
        expected[step] = called.step():item()
      end
      kava.seed(1)
      again.ids:copy_(inputs(1))
      assert.equal(expected[1], again.step():item())
      local replay <close>, loss = kava.record(again.step)
      local third
      for step = 2, 4 do
        if step == 3 then -- by way of the CPU, as a checkpoint goes
          local seed, position = kava.rng_state()
          third = job(options)
          kava.rng_state(seed, position)
          local held, weights = {}, trained(third)
          for name, t in pairs(again.optimizer:state()) do held[name] = t:to { device = "cpu" } end
          for name, t in pairs(trained(again)) do weights[name]:copy_(t:to { device = "cpu" }) end
          assert.is_true(third.optimizer:load_state(held))
        end
        again.ids:copy_(inputs(step))
        local seed, position = kava.rng_state()
        replay:run()
        assert.equal(expected[step], loss:item(), "step " .. step)
        if third then
          local after, later = kava.rng_state()
          kava.rng_state(seed, position)
          third.ids:copy_(inputs(step))
          assert.equal(expected[step], third.step():item())
          kava.rng_state(after, later)
        end
      end
      assert_same(trained(called), trained(again))
      assert_same(trained(called), trained(third))
    end)
  end

  it("a projector in bf16 learns what one in f32 does", function()
    local wide, half = job { projector = "f32" }, job { projector = "bf16" }
    for step = 1, 3 do
      for _, own in ipairs { wide, half } do own.ids:copy_(inputs(step)) end
      kava.seed(step)
      local expected = wide.step():item()
      kava.seed(step)
      assert.near(expected, half.step():item(), 2e-3 * expected, "step " .. step)
    end
    for name, t in pairs(half.projector:parameters()) do
      assert.equal("bf16", t.dtype)
      assert.is_true((kava.allclose(t, wide.projector:parameters()[name], { rtol = 2 ^ -7, atol = 2e-3 })), name)
    end
  end)
end)

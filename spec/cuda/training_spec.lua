-- Whole steps on a GPU against the CPU: the distillation step with projector, clipping and AdamW, its state saved and loaded.
local missing = require "spec.cuda.gpu" ()
local kava = require "kava"

local config = { model_type = "qwen2", vocab_size = 40, hidden_size = 32, intermediate_size = 48, num_hidden_layers = 2,
  num_attention_heads = 4, num_key_value_heads = 2, rms_norm_eps = 1e-6, rope_theta = 1e4, tie_word_embeddings = true }

local function job(device, state_dtype)
  kava.seed(3)
  local self = { teacher = kava.model.create(config, { device = device }), step = 0 }
  self.student = kava.model.create(config, { device = device }):requires_grad(true)
  self.projector = kava.projector { in_dim = 32, out_dim = 32, device = device, dropout = 0.1 }
  local groups = { { params = self.student:parameters(), lr = 1e-3 }, { params = self.projector:parameters(), lr = 1e-2 } }
  self.optimizer = kava.optim.adamw(groups, { state_dtype = state_dtype })
  local ids = kava.tensor({ { 1, 5, 9, 3, 7, 2 }, { 3, 8, 3, 11, 30, 39 } }, { dtype = "i64" })
  local start = kava.tensor({ { 0, 0, 0, 3, 3, 3 }, { 0, 0, 0, 0, 0, 0 } }, { dtype = "i32" })
  local function keys(model, logits)
    local out = model:forward { input_ids = ids, start = start, logits = logits, values = false }
    return kava.kv.aggregate(out.kv, "concat"), out.logits
  end
  function self.run()
    self.step = self.step + 1
    kava.seed(self.step)
    local scope <close> = kava.scope() -- luacheck: ignore 211
    local target = kava.no_grad(keys, self.teacher, false)
    local mine, logits = keys(self.student, true)
    local loss, metrics = kava.loss.mercator(mine, self.projector(target))
    local total = loss + kava.loss.cross_entropy(logits, ids)
    total:backward()
    local norm = kava.optim.clip_grad_norm({ self.student:parameters(), self.projector:parameters() }, 1.0)
    self.optimizer:step()
    self.optimizer:zero_grad()
    return { total:item(), norm, kava.loss.numbers(metrics).cos_sim }
  end
  return self
end

describe("a step of distillation on cuda", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end

  it("learns what it learns on the cpu", function()
    local here, there = job "cpu", job "cuda"
    for step = 1, 3 do
      local expected, got = here.run(), there.run()
      for i = 1, 3 do assert.near(expected[i], got[i], 1e-4, ("step %d, figure %d"):format(step, i)) end
    end
    for name, t in pairs(here.student:parameters()) do
      assert.is_true(kava.allclose(there.student:parameters()[name], t, { rtol = 0, atol = 2e-4 }), name)
    end
  end)

  it("matches layers of unlike widths through maps that lie where the student does", function()
    local narrow = {}
    for key, value in pairs(config) do narrow[key] = value end
    narrow.num_key_value_heads = 1
    local function total(device)
      kava.seed(3)
      local teacher = kava.model.create(config, { device = device })
      local student = kava.model.create(narrow, { device = device }):requires_grad(true)
      local loss = kava.loss.build("layer_matched", { teacher = teacher, student = student, kv = { part = "both" } })
      local value = loss:step({ input_ids = kava.tensor({ { 1, 5, 9, 3, 7, 2 } }, { dtype = "i64", device = device }) }, 1)
      value:backward()
      local map = loss:parameters()["keys.1.weight"]
      return value:item(), map.grad:to { device = "cpu" }, map.device
    end
    local expected, gradient = total "cpu"
    local got, there, device = total "cuda"
    assert.equal("cuda", device)
    assert.near(expected, got, 1e-4)
    assert.is_true(kava.allclose(there, gradient, { rtol = 1e-3, atol = 1e-6 }))
  end)

  for _, name in ipairs { "mercator", "hybrid", "structural", "mse", "smooth_l1", "layer_matched" } do
    it(("computes the loss %s of a batch on either side"):format(name), function()
      local function total(device, of_batch)
        kava.seed(3)
        local teacher = kava.model.create(config, { device = device })
        local student = kava.model.create(config, { device = device }):requires_grad(true)
        for _, model in ipairs { teacher, student } do
          for _, layer in ipairs(model.spec.layer) do layer.window = 3 end -- of attention maps
        end
        local loss = kava.loss.build(name, { teacher = teacher, student = student, kv = { dropout = 0 } })
        local ids = kava.tensor({ { 1, 5, 9, 3, 7, 2 }, { 4, 3, 8, 6, 0, 0 } }, { dtype = "i64" })
        local mask = kava.tensor({ { 1, 1, 1, 1, 1, 1 }, { 1, 1, 1, 1, 0, 0 } }, { dtype = "u8" })
        local batch = { input_ids = ids, mask = mask, targets = kava.loss.targets(ids, mask), tokens = 10,
          start = kava.tensor({ { 0, 0, 0, 2, 2, 2 }, { 0, 0, 0, 0, 0, 0 } }, { dtype = "i32" }) }
        for key, t in pairs(batch) do batch[key] = type(t) == "userdata" and t:to { device = of_batch } or t end
        local value = loss:step(batch, 1)
        value:backward()
        return value:item(), student:parameters()["model.layers.0.self_attn.k_proj.weight"].grad:to { device = "cpu" }
      end
      local expected, gradient = total("cpu", "cpu")
      for _, of_batch in ipairs { "cpu", "cuda" } do
        local got, there = total("cuda", of_batch)
        assert.near(expected, got, 1e-4)
        assert.is_true((kava.allclose(there, gradient, { rtol = 1e-3, atol = 1e-5 })))
      end
    end)
  end

  it("gives the same bits twice, and goes on from its saved state as if never interrupted", function()
    local first, second = job("cuda", "bf16"), job("cuda", "bf16")
    assert.same(first.run(), second.run())
    local state = first.optimizer:state()
    local third = job("cuda", "bf16")
    for name, t in pairs(first.student:parameters()) do third.student:parameters()[name]:copy_(t) end
    for name, t in pairs(first.projector:parameters()) do third.projector:parameters()[name]:copy_(t) end
    local held = {}
    for name, t in pairs(state) do held[name] = t:to { device = "cpu" } end
    third.optimizer:load_state(held)
    third.step = first.step
    assert.same(first.run(), third.run())
  end)

  it("keeps each parameter in 16 bits with a master copy", function()
    local figures = {}
    for _, device in ipairs { "cpu", "cuda" } do
      kava.seed(2)
      local w = kava.randn({ 4, 6 }):to({ dtype = "bf16", device = device }):requires_grad(true)
      local x = kava.randn({ 3, 6 }):to { device = device }
      local optimizer = kava.optim.adamw({ { params = { w = w }, lr = 0.05 } })
      for _ = 1, 3 do
        kava.linear(x, w):sum():backward()
        optimizer:step()
        optimizer:zero_grad()
      end
      figures[device] = w:to { dtype = "f32", device = "cpu" }
      assert.equal("bf16", w.dtype)
    end
    assert.is_true(kava.allclose(figures.cuda, figures.cpu, { rtol = 0, atol = 1e-2 })) -- one rounding to bf16 of values near 1
  end)

  it("in bf16 learns what it learns in f32, but for bf16's rounding, and keeps parameters' gradients in f32", function()
    local figures = {}
    for _, precision in ipairs { "f32", "bf16" } do
      kava.matmul_precision(precision)
      local own = job "cuda"
      local out = own.student:forward { input_ids = kava.tensor({ { 1, 2, 3 } }, { dtype = "i64" }) }
      assert.equal(precision, out.logits.dtype)
      assert.equal(precision, out.kv:keys(1).dtype)
      out.logits:sum():backward()
      for _, t in pairs(own.student:parameters()) do assert.equal("f32", t.grad and t.grad.dtype or "f32") end
      own.optimizer:zero_grad()
      figures[precision] = { own.run(), own.run() }
    end
    kava.matmul_precision "f32"
    for step = 1, 2 do -- bf16 has 8 bits: 0.4 % a rounding
      for i = 1, 3 do assert.near(figures.f32[step][i], figures.bf16[step][i], 0.02 * math.max(1, figures.f32[step][i])) end
    end
  end)
end)

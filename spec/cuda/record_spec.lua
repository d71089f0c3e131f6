-- A step recorded once and run again: the same figures as a step that is called, bit for bit, with new inputs, rates and random numbers.
local missing = require "spec.cuda.gpu" ()
local kava = require "kava"

local config = { model_type = "llama", vocab_size = 20, hidden_size = 16, intermediate_size = 24, num_hidden_layers = 2,
  num_attention_heads = 2, num_key_value_heads = 1, rms_norm_eps = 1e-6, rope_theta = 1e4 }

local function job()
  kava.seed(7)
  local student = kava.model.create(config, { device = "cuda" }):requires_grad(true)
  local projector = kava.projector { in_dim = 16, out_dim = 16, device = "cuda", dropout = 0.3 }
  local groups = { { params = student:parameters(), lr = 1e-3 }, { params = projector:parameters(), lr = 1e-2 } }
  local self = { optimizer = kava.optim.adamw(groups) }
  self.ids = kava.zeros({ 2, 5 }, { dtype = "i64", device = "cuda" })
  self.student = student
  function self.step()
    local scope <close> = kava.scope() -- luacheck: ignore 211
    local loss
    for half = 1, 2 do -- two micro-batches, whose gradients add up
      local out = student:forward { input_ids = self.ids:narrow(1, half, 1) }
      local keys = kava.kv.aggregate(out.kv, "concat")
      local part = kava.loss.mse(projector(keys:detach()), keys) + kava.loss.cross_entropy(out.logits, self.ids:narrow(1, half, 1))
      part:backward()
      loss = loss and loss + part:detach() or part:detach()
    end
    self.optimizer:step()
    self.optimizer:zero_grad()
    return loss
  end
  return self
end

local function inputs(step)
  local list = {}
  for i = 1, 10 do list[i] = (i * step * 7 + step) % 20 end
  return kava.tensor(list, { shape = { 2, 5 }, dtype = "i64" })
end

describe("a recorded step", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end

  it("gives bit for bit what calling it gives, whatever changes between runs", function()
    local called, again = job(), job()
    kava.seed(1)
    local expected = {}
    for step = 1, 4 do
      called.optimizer:set_lr(1, 1e-3 / step)
      called.ids:copy_(inputs(step))
      expected[step] = called.step():item()
    end
    kava.seed(1)
    again.ids:copy_(inputs(1))
    assert.equal(expected[1], again.step():item()) -- the first makes the optimizer's state
    local replay <close>, loss = kava.record(again.step)
    for step = 2, 4 do
      again.optimizer:set_lr(1, 1e-3 / step)
      again.ids:copy_(inputs(step))
      replay:run()
      assert.equal(expected[step], loss:item(), "step " .. step)
    end
    for name, t in pairs(called.student:parameters()) do
      assert.is_true(kava.allclose(again.student:parameters()[name], t, { rtol = 0, atol = 0 }), name)
    end
  end)

  it("says so when a value is read, a rate is set, or state is made on the way, and nothing is left behind", function()
    local x = kava.ones({ 3 }, { device = "cuda" })
    local function reading() return (x:sum():item()) end -- no tail call: the line is told
    local ok, message = pcall(kava.record, reading)
    assert.is_false(ok)
    assert.truthy(message:find "record_spec.lua:%d+: a value on device cuda is read while a step is being recorded", message)
    local it_is = job()
    assert.error_matches(function() kava.record(it_is.step) end, "the first step of '.*' cannot be recorded")
    assert.error_matches(function() kava.record(function() it_is.optimizer:set_lr(1, 0.1) end) end, "a rate is set while")
    assert.error_matches(function() kava.record(function() kava.record(function() end) end) end, "a step is being recorded already")
    assert.equal(3, x:sum():item())
  end)

  it("keeps its memory to itself until nothing lives there", function()
    local x = kava.ones({ 1000 }, { device = "cuda" })
    collectgarbage()
    local before = kava.memory().cuda.current
    local replay, y = kava.record(function() return (x * 2):exp() end)
    replay:run()
    local other = kava.full({ 1000 }, 5, { device = "cuda" })
    replay:run()
    assert.near(math.exp(2), y:max():item(), 1e-4)
    assert.equal(5, other:min():item())
    local memory = kava.memory().cuda -- what recordings took is counted in both
    assert.is_true(memory.reserved >= memory.current, ("%d of %d"):format(memory.current, memory.reserved))
    replay:release()
    assert.near(math.exp(2), y:min():item(), 1e-4)
    assert.has_error(function() replay:run() end)
    y:release()
    other:release()
    collectgarbage()
    assert.equal(before, kava.memory().cuda.current)
  end)

  it("keeps what was freed while it was recorded, since it reads that again", function()
    collectgarbage()
    local before = kava.memory().cuda.reserved
    local x = kava.full({ 1000 }, 3, { device = "cuda" })
    local replay, y = kava.record(function()
      local z = x * 2
      x:release()
      return z
    end)
    local other = kava.full({ 1000 }, 9, { device = "cuda" })
    replay:run()
    assert.equal(6, y:max():item())
    for _, t in ipairs { replay, y, other } do t:release() end
    collectgarbage()
    assert.equal(before, kava.memory().cuda.reserved)
  end)

  it("goes on from a state that the optimizer was given since", function()
    local function fresh()
      local p = kava.zeros({ 4 }, { device = "cuda" }):requires_grad(true)
      local optimizer = kava.optim.adamw({ { params = { p } } }, { lr = 0.25 })
      return p, optimizer, function()
        ((p - 3) * (p - 3)):sum():backward()
        optimizer:step()
        optimizer:zero_grad()
      end
    end
    local p, optimizer, step = fresh()
    step()
    local state, at = {}, p:detach():clone()
    for name, t in pairs(optimizer:state()) do state[name] = t:clone() end
    local replay <close> = kava.record(step)
    replay:run()
    optimizer:load_state(state)
    p:copy_(at)
    collectgarbage()
    replay:run()
    local q, other, called = fresh()
    called()
    other:load_state(state)
    q:copy_(at)
    called()
    assert.is_true((kava.allclose(p, q, { rtol = 0, atol = 0 })))
    assert.equal(2, optimizer:state()["1.1.step"]:item())
  end)

  it("finds the optimizer's rates where they were, after a step that had no gradient", function()
    local p, ones = kava.zeros({ 4 }, { device = "cuda" }):requires_grad(true), kava.ones({ 4 }, { device = "cuda" })
    local optimizer = kava.optim.adamw({ { params = { p } } }, { lr = 0.25, weight_decay = 0 })
    local function step()
      (p * ones):sum():backward()
      optimizer:step()
      optimizer:zero_grad()
    end
    step()
    local replay <close> = kava.record(step)
    assert.is_true(optimizer:step())
    local other = kava.full({ 8 }, 7, { dtype = "f64", device = "cuda" })
    optimizer:set_lr(1, 0.5)
    replay:run()
    assert.near(-0.75, p:max():item(), 1e-5)
    assert.equal(7, other:min():item())
  end)

  it("draws no random numbers on the host, which would be the same at every run", function()
    for _, draw in ipairs { "rand", "randn" } do
      assert.error_matches(function() kava.record(function() return kava[draw]({ 4 }, { device = "cuda" }) end) end,
        draw .. ": drawn while a step is being recorded, it would be the same at every run; draw it before")
    end
  end)

  it("refuses to run under another seed", function()
    local x = kava.ones({ 10 }, { device = "cuda" })
    kava.seed(2)
    local replay <close> = kava.record(function() return kava.dropout(x, 0.5) end) -- luacheck: ignore 211
    kava.seed(3)
    assert.error_matches(function() replay:run() end, "the seed was changed")
  end)
end)

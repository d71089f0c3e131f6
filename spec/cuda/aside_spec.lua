-- Work beside other work on the GPU: the same figures as one after the other, called and recorded.
local missing = require "spec.cuda.gpu" ()
local helper = require "spec.helper"
local kava = require "kava"

local config = { model_type = "llama", vocab_size = 20, hidden_size = 16, intermediate_size = 24, num_hidden_layers = 2,
  num_attention_heads = 2, num_key_value_heads = 1, rms_norm_eps = 1e-6, rope_theta = 1e4 }

local function job(aside)
  kava.seed(7)
  local teacher = kava.model.create(config, { device = "cuda" })
  local student = kava.model.create(config, { device = "cuda" }):requires_grad(true)
  local optimizer = kava.optim.adamw({ { params = student:parameters(), lr = 1e-2 } })
  local ids = kava.zeros({ 2, 5 }, { dtype = "i64", device = "cuda" })
  local function keys(m, half)
    return kava.kv.aggregate(m:forward({ input_ids = ids:narrow(1, half, 1), logits = false }).kv, "concat")
  end
  local function teach(half) return kava.no_grad(keys, teacher, half) end
  local self = { ids = ids }
  -- The second teacher's pass beside the first student's backward and the second student's forward.
  function self.step()
    local scope <close> = kava.scope() -- luacheck: ignore 211
    local sum
    local later = aside and kava.aside(teach, 1)
    for half = 1, 2 do
      local mine = keys(student, half)
      local target = later and later() or teach(half)
      if later and half == 1 then later = kava.aside(teach, 2) end
      local part = kava.loss.mse(mine, target)
      part:backward()
      sum = sum and sum + part:detach() or part:detach()
    end
    optimizer:step()
    optimizer:zero_grad()
    return sum
  end
  return self
end

local function inputs(step)
  local list = {}
  for i = 1, 10 do list[i] = (i * step * 7 + step) % 20 end
  return kava.tensor(list, { shape = { 2, 5 }, dtype = "i64" })
end

describe("aside", function()
  it("calls the function and hands its results on, nil and none among them", function()
    local results = table.pack(kava.aside(function(a, b) return b, nil, a end, 1, 2)())
    assert.same({ 2, nil, 1, n = 3 }, results)
    assert.equal(0, select("#", kava.aside(function() end)()))
    local later = kava.aside(function() return 5 end)
    assert.equal(5, later())
    assert.equal(5, later())
    assert.has_error(function() kava.aside(1) end)
    assert.has_error(function() kava.aside(function() error("no", 0) end) end, "no")
  end)

  if missing then return it("needs a GPU", function() pending(missing) end) end

  it("gives bit for bit what one after the other gives, called and recorded", function()
    local plain, beside = job(false), job(true)
    local expected = {}
    for step = 1, 5 do
      plain.ids:copy_(inputs(step))
      expected[step] = plain.step():item()
    end
    for step = 1, 2 do
      beside.ids:copy_(inputs(step))
      assert.equal(expected[step], beside.step():item())
    end
    local replay <close>, loss = kava.record(beside.step)
    for step = 3, 5 do
      beside.ids:copy_(inputs(step))
      replay:run()
      assert.equal(expected[step], loss:item(), "step " .. step)
    end
  end)

  it("is not begun within itself, and an error in it leaves everything as it was", function()
    local function nothing() end
    assert.error_matches(function() kava.aside(kava.aside, nothing) end, "work aside, begun by work that is done aside")
    assert.error_matches(function() kava.aside(kava.record, nothing) end, "while work is done aside")
    local replay <close> = kava.record(nothing)
    assert.error_matches(function() kava.aside(function() replay:run() end) end, "run by work that is done aside")
    local x = kava.ones({ 3 }, { device = "cuda" })
    assert.equal(6, (kava.aside(function() return x + x end)()):sum():item())
  end)

  it("keeps what it reads until it has been waited for", function()
    local x = kava.ones({ 1000 }, { device = "cuda" })
    local before = kava.memory().cuda.current
    local later = kava.aside(function() return x * 2 end)
    x = nil -- luacheck: ignore 311
    collectgarbage()
    local other = kava.zeros({ 1000 }, { device = "cuda" }) -- not in x's place, which may still be read
    assert.equal(2000, later():sum():item())
    assert.equal(0, other:sum():item())
    later, other = nil, nil -- luacheck: ignore 311
    collectgarbage()
    assert.is_true(kava.memory().cuda.current < before)
  end)

  it("begun before a recording is waited for before it, and its results are read there", function()
    local x = kava.ones({ 4 }, { device = "cuda" })
    local y = kava.zeros({ 4 }, { device = "cuda" })
    local later = kava.aside(function() return x + x end)
    local replay <close> = kava.record(function() y:copy_(later() * 3) end)
    replay:run()
    assert.equal(24, y:sum():item())
  end)

  it("recorded, has to be waited for before the recording ends, which does that itself", function()
    local x = kava.ones({ 4 }, { device = "cuda" })
    local y = kava.zeros({ 4 }, { device = "cuda" })
    local replay <close> = kava.record(function() kava.aside(function() y:copy_(x + x) end) end)
    replay:run()
    assert.equal(8, y:sum():item())
  end)

  it("fetches a value that whoever reads it has waited for, however many were fetched since", function()
    if os.getenv "KAVA_CUDA" ~= "emulated" then return end -- which dies of work that nobody waited for
    local text = helper.run(("exec 2>&1; ulimit -c 0; %s -e '%s'"):format(helper.program(), [[
      local kava = require "kava"
      local x, y, fetch = kava.ones({ 100 }, { device = "cuda" }), kava.zeros({ 1 }, { device = "cuda" }), nil
      local later = kava.aside(function() fetch = kava.fetch(x) end)
      for _ = 1, 200 do kava.fetch(y):release() end
      local t = fetch:read()
      x:fill_(2)
      print(t:sum():item())
      later()]]))
    assert.equal("100.0\n", text)
  end)
end)

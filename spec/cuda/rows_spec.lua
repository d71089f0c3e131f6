-- The embedding's gradient without the rows that have none: whoever looks sees all of them, and steps are the same bits.
local missing = require "spec.cuda.gpu" ()
local kava = require "kava"

local VOCAB, WIDTH = 300, 24

local function table_of(dtype)
  kava.seed(5)
  return kava.randn({ VOCAB, WIDTH }):to({ dtype = dtype or "f32", device = "cuda" }):requires_grad(true)
end
local function ids_of(list) return kava.tensor(list, { dtype = "i64", shape = { 1, #list }, device = "cuda" }) end
local BATCHES = not missing and { ids_of { 7, 3, 7, 299, 0, 7 }, ids_of { 3, 250, 250, 11 }, ids_of { 1, 2, 3, 4, 5, 6, 7, 8 } }
local function weights(n) -- of the sum that is the loss: another for each element
  local list = {}
  for i = 1, n * WIDTH do list[i] = ((i * 37) % 101 - 50) / 64 end
  return kava.tensor(list, { shape = { 1, n, WIDTH }, device = "cuda" })
end
local function pass(w, ids) (kava.embedding(ids, w) * weights(ids.shape[2])):sum():backward() end

describe("a gradient of few rows on cuda", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end
  after_each(function() kava.gradient_dtype "f32" end)

  it("is what the CPU has, over several passes, repeated rows and a growing number of them", function()
    local w = table_of()
    local here = w:to({ device = "cpu" }):detach():requires_grad(true)
    for _, ids in ipairs(BATCHES) do
      pass(w, ids)
      ;(kava.embedding(ids:to { device = "cpu" }, here) * weights(ids.shape[2]):to { device = "cpu" }):sum():backward()
    end
    assert.is_true((kava.allclose(w.grad, here.grad, { rtol = 0, atol = 1e-6 })))
    pass(w, BATCHES[1]) -- onto what has all rows now
    ;(kava.embedding(BATCHES[1]:to { device = "cpu" }, here) * weights(6):to { device = "cpu" }):sum():backward()
    assert.is_true((kava.allclose(w.grad, here.grad, { rtol = 0, atol = 1e-6 })))
  end)

  it("stays whole where memory runs out as it grows", function()
    local list, w = {}, kava.randn({ 1100, 1 }):to { device = "cuda" }:requires_grad(true)
    for i = 1, 512 do list[i] = i end -- ids fill a page: one that is too short would end at its guard
    local ids = ids_of(list)
    local function looked_up() return kava.embedding(ids, w):sum() end
    looked_up():backward()
    for n = 0, 16 do
      local loss = looked_up()
      kava.memory_fail_after(n)
      local ok = pcall(loss.backward, loss)
      kava.memory_fail_after(-1)
      if ok then
        assert.equal(1024, w.grad:sum():item())
        w.grad = nil
        looked_up():backward()
      end
    end
    assert.equal(512, w.grad:sum():item())
  end)

  it("takes the room of what was looked up", function()
    local w = table_of()
    collectgarbage()
    collectgarbage()
    local before = kava.memory().cuda.current
    local scope = kava.scope()
    pass(w, BATCHES[1])
    scope:release()
    collectgarbage()
    collectgarbage()
    local took = kava.memory().cuda.current - before
    assert.is_true(took < VOCAB * WIDTH * 4 / 2, tostring(took))
    assert.same({ VOCAB, WIDTH }, w.grad.shape)
    w.grad = nil
    collectgarbage()
    assert.equal(before, kava.memory().cuda.current)
  end)

  for _, case in ipairs { { "f32", "f32", "f32" }, { "bf16", "f32", "bf16" }, { "bf16", "bf16", "8bit" } } do
    local dtype, grads, moments = table.unpack(case)
    it(("makes the same steps as one of all rows: %s, gradients %s, moments %s"):format(dtype, grads, moments), function()
      kava.gradient_dtype(grads)
      if grads == "bf16" then kava.matmul_precision "bf16" end
      local function trained(looks)
        local w = table_of(dtype)
        local opt = kava.optim.adamw({ { params = { w = w }, lr = 0.01 } }, { state_dtype = moments, weight_decay = 0.1 })
        local norms = {}
        for _ = 1, 3 do
          for _, ids in ipairs(BATCHES) do pass(w, ids) end
          if looks then assert.equal(grads, w.grad.dtype) end
          norms[#norms + 1] = kava.optim.clip_grad_norm({ w }, 1.5)
          opt:step()
          opt:zero_grad()
        end
        return w, norms
      end
      local rows, norms = trained(false)
      local all, others = trained(true)
      kava.matmul_precision "f32"
      for i = 1, 3 do assert.near(norms[i], others[i], 1e-9 * norms[i]) end
      assert.is_true((kava.allclose(rows, all, { rtol = 0, atol = 1e-7 })))
    end)
  end

  it("becomes one of all rows where something else has a gradient for each", function()
    local w = table_of()
    pass(w, BATCHES[1])
    local few = w.grad:to { device = "cpu" }
    w.grad = nil
    pass(w, BATCHES[1])
    w:sum():backward()
    assert.is_true((kava.allclose(w.grad, few + 1, { rtol = 0, atol = 1e-6 })))
  end)

  it("is recorded, and replays", function()
    local w, v = table_of(), table_of()
    local ids = BATCHES[1]:clone()
    local function stepper(p)
      local opt = kava.optim.adamw({ { params = { p }, lr = 0.01 } })
      return function()
        local scope <close> = kava.scope() -- luacheck: ignore 211
        pass(p, ids)
        pass(p, BATCHES[2])
        opt:step()
        opt:zero_grad()
      end
    end
    local step, called = stepper(w), stepper(v)
    step()
    called()
    local replay <close> = kava.record(step)
    for _, list in ipairs { { 9, 9, 1, 298, 3, 3 }, { 250, 251, 252, 253, 254, 255 } } do
      ids:copy_(ids_of(list))
      replay:run()
      called()
      assert.is_true((kava.allclose(w, v, { rtol = 0, atol = 0 })))
    end
  end)
end)

-- kava.optim: AdamW against the same written in Lua, its state, and gradient clipping.
local kava = require "kava"
local starve = require "spec.starve"

local function leaf(t) return t:detach():clone():requires_grad(true) end
-- Gives p the gradient g.
local function put(p, g)
  p.grad = nil
  ;(p * g:to { dtype = p.dtype == "f64" and "f64" or "f32" }):sum():backward()
end

-- One parameter's AdamW as torch.optim.AdamW does it, on Lua numbers.
local function reference(values, lr, decay, b1, b2, eps)
  local m, v, t = {}, {}, 0
  for i = 1, #values do m[i], v[i] = 0, 0 end
  return function(grads)
    t = t + 1
    for i = 1, #values do
      values[i] = values[i] * (1 - lr * decay)
      m[i] = b1 * m[i] + (1 - b1) * grads[i]
      v[i] = b2 * v[i] + (1 - b2) * grads[i] ^ 2
      values[i] = values[i] - lr * (m[i] / (1 - b1 ^ t)) / (math.sqrt(v[i] / (1 - b2 ^ t)) + eps)
    end
  end
end

local function same(a, b) return kava.allclose(a, b, { rtol = 0, atol = 0 }) end

describe("adamw", function()
  before_each(function() kava.seed(19) end)

  for dtype, tolerance in pairs { f64 = 1e-13, f32 = 2e-6 } do
    it("takes the steps of a plain AdamW: " .. dtype, function()
      local p = leaf(kava.randn({ 21 }, { dtype = dtype }))
      local values = p:totable()
      local step = reference(values, 0.1, 0.05, 0.8, 0.95, 1e-6)
      local opt = kava.optim.adamw({ { params = { p }, lr = 0.1 } }, { betas = { 0.8, 0.95 }, eps = 1e-6, weight_decay = 0.05 })
      for _ = 1, 5 do
        local g = kava.randn({ 21 }, { dtype = dtype })
        put(p, g)
        assert.is_true(opt:step())
        step(g:totable())
        for i, value in ipairs(p:totable()) do assert.near(value, values[i], tolerance) end
      end
    end)
  end

  it("has a rate and a decay for each group, and takes new rates", function()
    local a, b = leaf(kava.ones { 3 }), leaf(kava.ones { 3 })
    local opt = kava.optim.adamw { { params = { a }, lr = 0.1, weight_decay = 0 }, { params = { w = b }, lr = 0.2, weight_decay = 0.5 } }
    for _, p in ipairs { a, b } do put(p, kava.ones { 3 }) end
    opt:step() -- the first step moves by the rate, whatever the gradient's size
    assert.near(1 - 0.1, a:totable()[1], 1e-6)
    assert.near(1 - 0.2 * 0.5 - 0.2, b:totable()[1], 1e-6)
    assert.equal(0.1, opt:lr(1))
    opt:set_lr(1, 0)
    local before = a:clone()
    opt:step()
    assert.is_true(same(before, a))
  end)

  it("leaves a parameter without gradient alone, decay and step count too", function()
    local a, b = leaf(kava.ones { 3 }), leaf(kava.ones { 3 })
    local opt = kava.optim.adamw({ { params = { a = a, b = b }, lr = 0.1 } }, { weight_decay = 0.5 })
    put(a, kava.ones { 3 })
    opt:step()
    opt:step()
    assert.same({ 1, 1, 1 }, b:totable())
    put(b, kava.ones { 3 })
    opt:step()
    local state = opt:state()
    assert.equal(3, state["1.a.step"]:item())
    assert.equal(1, state["1.b.step"]:item())
  end)

  it("drops gradients, so that the next backward pass starts afresh", function()
    local p = leaf(kava.ones { 3 })
    local opt = kava.optim.adamw { { params = { p }, lr = 0.1 } }
    p:sum():backward()
    opt:zero_grad()
    assert.is_nil(p.grad)
    p:sum():backward()
    assert.same({ 1, 1, 1 }, p.grad:totable())
  end)

  it("is the same for any number of threads, over many parameters", function()
    local function run(threads, state_dtype)
      kava.seed(5)
      local before, list = kava.threads(), {}
      kava.threads(threads)
      for i, count in ipairs { 1, 8191, 8192, 8193, 50000, 17 } do list[i] = leaf(kava.randn { count }) end
      local opt = kava.optim.adamw({ { params = list, lr = 0.01 } }, { state_dtype = state_dtype })
      for _ = 1, 2 do
        for _, p in ipairs(list) do put(p, kava.randn(p.shape)) end
        opt:step()
      end
      kava.threads(before)
      return list
    end
    for _, state_dtype in ipairs { "bf16", "8bit" } do
      local one, three = run(1, state_dtype), run(3, state_dtype)
      for i = 1, #one do assert.is_true(same(one[i], three[i])) end
    end
  end)

  for _, state_dtype in ipairs { "f32", "bf16", "8bit" } do
    for _, dtype in ipairs { "f32", "bf16", "f16" } do
      it(("goes on bit by bit from a saved state: %s parameters, %s moments"):format(dtype, state_dtype), function()
        local function make() return leaf(kava.randn({ 5000 }):to { dtype = dtype }) end
        local function optimizer(p) return kava.optim.adamw({ { params = { layer = p }, lr = 0.01 } }, { state_dtype = state_dtype }) end
        local p = make()
        local opt = optimizer(p)
        for _ = 1, 3 do
          put(p, kava.randn { 5000 })
          opt:step()
        end
        local q = leaf(p)
        local other = optimizer(q)
        assert.is_true(other:load_state(opt:state()))
        for _ = 1, 3 do
          local g = kava.randn { 5000 }
          put(p, g)
          put(q, g)
          opt:step()
          other:step()
          assert.is_true(same(p, q))
        end
        local kept = opt:state()
        assert.equal(dtype == "f16", kept["1.layer.master"] ~= nil)
        assert.equal(dtype == "bf16", kept["1.layer.low"] ~= nil)
        assert.equal(state_dtype == "8bit", kept["1.layer.most"] ~= nil)
        for name, t in pairs(other:state()) do assert.is_true(same(kept[name], t), name) end
      end)
    end
  end

  it("gives a bf16 parameter and its 16 more bits the steps of an f32 one, bit by bit", function()
    local start = kava.randn({ 700 }):to { dtype = "bf16" }
    local p, q = leaf(start), leaf(start:to { dtype = "f32" })
    local opt = kava.optim.adamw({ { params = { p = p }, lr = 1e-3 } })
    local wide = kava.optim.adamw({ { params = { q = q }, lr = 1e-3 } })
    for _ = 1, 8 do
      local g = kava.randn { 700 }
      put(p, g)
      put(q, g)
      opt:step()
      wide:step()
      local low, high, exact = opt:state()["1.p.low"]:totable(), p:to({ dtype = "f32" }):totable(), q:totable()
      for i = 1, #exact do
        local bits = (string.unpack("<I4", string.pack("<f", high[i])) + low[i]) & 0xffffffff
        assert.equal(exact[i], (string.unpack("<f", string.pack("<I4", bits))))
      end
    end
  end)

  it("goes on from a state that had f32 masters beside bf16 parameters", function()
    local exact = kava.randn({ 900 }) * 3
    local p, q = leaf(exact:to { dtype = "bf16" }), leaf(exact)
    local opt = kava.optim.adamw({ { params = { p = p }, lr = 1e-3 } })
    local wide = kava.optim.adamw({ { params = { p = q }, lr = 1e-3 } })
    put(q, kava.randn { 900 })
    wide:step()
    local state = wide:state()
    state["1.p.master"] = q:detach():clone()
    assert.is_true(opt:load_state(state))
    local g = kava.randn { 900 }
    put(p, g)
    put(q, g)
    opt:step()
    wide:step()
    local low, high, whole = opt:state()["1.p.low"]:totable(), p:to({ dtype = "f32" }):totable(), q:totable()
    for i = 1, #whole do
      local bits = (string.unpack("<I4", string.pack("<f", high[i])) + low[i]) & 0xffffffff
      assert.equal(whole[i], (string.unpack("<f", string.pack("<I4", bits))))
    end
    state["1.p.low"] = opt:state()["1.p.low"]
    assert.error_matches(function() assert(opt:load_state(state)) end, "twice")
    state["1.p.low"], state["1.p.master"] = nil, q:to { dtype = "bf16" }
    assert.error_matches(function() assert(opt:load_state(state)) end, "f32 %[900%] expected")
  end)

  it("knows what its codes stand for, and never divides by a v that vanished before m", function()
    local function number(code) return code < 8 and code or (8 + code % 8) * 2 ^ (code // 8 - 1) end
    local p = leaf(kava.zeros { 4096 })
    local opt = kava.optim.adamw({ { params = { p = p }, lr = 1e-3, weight_decay = 0 } }, { state_dtype = "8bit", betas = { 0.9, 0.99 } })
    local values = {}
    for i = 1, 4096 do values[i] = (i % 2 == 0 and 1 or -1) * 2 ^ (-(i % 256) / 4) end -- 64 binades within a block
    put(p, kava.tensor(values))
    opt:step()
    local state = opt:state()
    local m, v, most = state["1.p.m"]:totable(), state["1.p.v"]:totable(), state["1.p.most"]:totable()
    assert.near(0.1, most[1][1], 1e-6)
    assert.near(0.01, most[2][1], 1e-7)
    for i = 1, 4096 do
      local got_m = number(m[i] & 127) / number(127) * 0.1 * (m[i] > 127 and -1 or 1)
      local got_v = number(v[i]) / number(255) * 0.01
      -- rounded up or down: within a code's step, which is an eighth of the number, or the smallest code
      assert.near(0.1 * values[i], got_m, math.max(0.1 * math.abs(values[i]) / 8, 0.1 / number(127)) * 1.0001)
      assert.near(0.01 * values[i] ^ 2, got_v, math.max(0.01 * values[i] ^ 2 / 8, 0.01 / number(255)) * 1.0001)
      assert.is_true(v[i] > 0)
    end
    put(p, kava.zeros { 4096 })
    for _ = 1, 50 do opt:step() end -- Adam's own bound for a gradient that came once: lr / (1 - 0.9) and a rounding's way
    assert.is_true((p:abs():max():item()) < 1e-3 * 50)
  end)

  it("keeps codes right on average: m and v fall as they should when gradients vanish", function()
    local p = leaf(kava.zeros { 8192 })
    local opt = kava.optim.adamw({ { params = { p }, lr = 0 } }, { state_dtype = "8bit" })
    put(p, kava.rand({ 8192 }) + 0.5)
    opt:step()
    local gradient = p.grad:clone()
    put(p, kava.zeros { 8192 })
    local function mean(part, top, signed) -- of the numbers that the codes stand for
      local state, sum = opt:state(), 0
      local codes, most = state["1.1." .. part]:totable(), state["1.1.most"]:totable()[signed and 1 or 2]
      for i, code in ipairs(codes) do
        local c = signed and code & 127 or code
        sum = sum + (c < 8 and c or (8 + c % 8) * 2 ^ (c // 8 - 1)) / top * most[(i - 1) // 256 + 1]
      end
      return sum / #codes
    end
    for step = 1, 300 do
      opt:step()
      if step == 5 then assert.near(1, mean("m", 15 * 2 ^ 14, true) / (0.1 * 0.9 ^ 5 * gradient:mean():item()), 0.01) end
    end
    assert.near(1, mean("v", 15 * 2 ^ 30) / (0.001 * 0.999 ^ 300 * (gradient * gradient):mean():item()), 0.02)
  end)

  it("keeps small parameters' moments in f32 beside codes", function()
    local bias = leaf(kava.ones { 4095 })
    local opt = kava.optim.adamw({ { params = { bias = bias }, lr = 1 } }, { state_dtype = "8bit" })
    put(bias, kava.ones { 4095 })
    opt:step()
    assert.equal("f32", opt:state()["1.bias.v"].dtype)
    assert.is_nil(opt:state()["1.bias.most"])
  end)

  it("follows tiny updates in bf16 parameters by way of the master copy", function()
    local p = leaf(kava.ones({ 8 }):to { dtype = "bf16" })
    local opt = kava.optim.adamw({ { params = { p }, lr = 1e-4, weight_decay = 0 } })
    for _ = 1, 100 do -- each step is far below bf16's half step of 0.002 at 1
      put(p, kava.ones { 8 })
      opt:step()
    end
    assert.near(0.99, p:to({ dtype = "f32" }):totable()[1], 0.002)
  end)

  it("keeps v right on average in bf16: it falls as it should when gradients shrink", function()
    local p = leaf(kava.zeros { 4096 })
    local opt = kava.optim.adamw({ { params = { p }, lr = 0 } }, { state_dtype = "bf16" })
    put(p, kava.ones { 4096 })
    opt:step()
    put(p, kava.zeros { 4096 })
    for _ = 1, 300 do opt:step() end
    -- rounded to nearest, 0.999 v would stay what it is
    local v = opt:state()["1.1.v"]:to { dtype = "f32" }
    assert.near(1, v:mean():item() / (0.001 * 0.999 ^ 300), 0.02)
  end)

  it("names what is wrong", function()
    local p = leaf(kava.ones { 2 })
    local function make(groups, options) return function() kava.optim.adamw(groups, options) end end
    assert.error_matches(make { { params = { p, p }, lr = 1 } }, "'1' of group 1 and '2' of group 1 are the same tensor")
    assert.error_matches(make { { params = { p } } }, "group 1 has no lr")
    assert.error_matches(make { { params = { p }, lr = -1 } }, "lr is %-1")
    assert.error_matches(make { { params = { 3 }, lr = 1 } }, "'1' of group 1 is a number")
    assert.error_matches(make({ { params = { p }, lr = 1 } }, { beta = 1 }), "did you mean 'betas'")
    assert.error_matches(make({ { params = { p }, lr = 1 } }, { betas = { 0.9, 1 } }), "beta2 is 1")
    assert.error_matches(make({ { params = { p }, lr = 1 } }, { state_dtype = "f16" }), "f32, bf16 or 8bit expected")
    assert.error_matches(make { { params = { kava.arange(3) }, lr = 1 } }, "i64")
    assert.error_matches(make { { params = { p * 2 }, lr = 1 } }, "a leaf expected")
    assert.error_matches(make { { params = { kava.ones({ 2, 3 }):permute(2, 1) }, lr = 1 } }, "not contiguous")
    local opt = kava.optim.adamw { { params = { p }, lr = 1 } }
    assert.error_matches(function() opt:set_lr(2, 1) end, "group 2 of 1")
    opt:release()
    assert.error_matches(function() opt:step() end, "released")
  end)

  it("refuses a state that is not its own, and keeps what it had", function()
    local p = leaf(kava.ones { 2 })
    local opt = kava.optim.adamw { { params = { w = p }, lr = 1 } }
    put(p, kava.ones { 2 })
    opt:step()
    local m = opt:state()["1.w.m"]:clone()
    local function load(change)
      local state = opt:state()
      for key, value in pairs(change) do state[key] = value or nil end
      return function() opt:load_state(state) end
    end
    assert.error_matches(load { ["2.w.m"] = kava.ones { 2 } }, "'2.w.m', which belongs to no parameter")
    assert.error_matches(load { ["1.w.z"] = kava.ones { 2 } }, "'1.w.z', which belongs to no parameter")
    assert.error_matches(load { ["1.w.m"] = kava.ones { 3 } }, "'1.w.m' is f32 %[3%]; f32 %[2%] expected")
    assert.error_matches(load { ["1.w.v"] = false }, "lacks '1.w.v'")
    assert.is_true(same(m, opt:state()["1.w.m"]))
    assert.is_true(opt:load_state {})
    assert.is_nil(next(opt:state()))
  end)

  it("comes back from every failed allocation with nothing changed", function()
    local p, q = leaf(kava.ones { 2 }), leaf(kava.ones { 2 })
    put(p, kava.ones { 2 })
    put(q, kava.ones { 2 })
    assert.is_true(starve(function()
      local opt <close> = kava.optim.adamw({ { params = { p = p, q = q }, lr = 0.5 } }, { weight_decay = 0 })
      local before = p:totable()[1]
      local ok, message, code = opt:step()
      if not ok then
        assert(code == "memory" and p:totable()[1] == before and q:totable()[1] == before)
        error(message)
      end
    end) > 10)
  end)
end)

describe("clip_grad_norm", function()
  local function grads(list)
    local params = {}
    for name, values in pairs(list) do
      params[name] = leaf(kava.zeros { #values })
      put(params[name], kava.tensor(values))
    end
    return params
  end

  it("scales by max / (norm + 1e-6) where the norm is larger, and returns the norm", function()
    local params = grads { a = { 3, 0 }, b = { 0, 4 } }
    params.c = leaf(kava.ones { 2 }) -- no gradient
    assert.near(5, kava.optim.clip_grad_norm(params, 10), 1e-12)
    assert.same({ 3, 0 }, params.a.grad:totable())
    assert.near(5, kava.optim.clip_grad_norm({ params }, 1), 1e-12)
    assert.near(0.6, params.a.grad:totable()[1], 1e-6)
    assert.near(0.8, params.b.grad:totable()[2], 1e-6)
    assert.is_nil(params.c.grad)
  end)

  it("counts a tensor once, takes lists, and only measures with math.huge", function()
    local p = grads({ a = { 3, 4 } }).a
    assert.near(5, kava.optim.clip_grad_norm({ p, p }, math.huge), 1e-12)
    assert.near(5, kava.optim.clip_grad_norm({ { p }, { x = p } }, 1), 1e-12)
    assert.near(0.6, p.grad:totable()[1], 1e-6)
  end)

  it("reports what is not finite and scales nothing then; large numbers are finite", function()
    for _, bad in ipairs { 1 / 0, 0 / 0 } do
      local params = grads { a = { 3, bad }, b = { 4 } }
      local norm = kava.optim.clip_grad_norm(params, 1)
      assert.is_true(norm ~= norm or norm == 1 / 0)
      assert.same({ 4 }, params.b.grad:totable())
    end
    assert.near(5e30, kava.optim.clip_grad_norm(grads { a = { 3e30, 4e30 } }, 1), 1e25)
  end)

  it("is the same for any number of threads", function()
    kava.seed(4)
    local p = leaf(kava.zeros { 300001 })
    put(p, kava.randn { 300001 })
    local before = kava.threads()
    kava.threads(1)
    local one = kava.optim.clip_grad_norm({ p }, math.huge)
    kava.threads(3)
    assert.equal(one, kava.optim.clip_grad_norm({ p }, math.huge))
    kava.threads(before)
    assert.near(one ^ 2, (p.grad * p.grad):sum():item(), 1e-5 * one ^ 2)
  end)

  it("names what is wrong", function()
    assert.error_matches(function() kava.optim.clip_grad_norm({ 3 }, 1) end, "'1' is a number")
    assert.error_matches(function() kava.optim.clip_grad_norm({}, 0) end, "max_norm is 0")
  end)
end)

-- The tape: whose storage a gradient is, what a scope ends and when, what is refused.
local kava = require "kava"

local function leaf(values) return kava.tensor(values, { requires_grad = true }) end

describe("the tape", function()
  it("gives every leaf a gradient of its own", function()
    local a, b = leaf { 0, 0, 0 }, leaf { 0, 0, 0 };
    ((a + b) * 10):sum():backward() -- one gradient for both, by way of the sum
    a.grad:fill_(7)
    assert.same({ 10, 10, 10 }, b.grad:totable())
    a.grad, b.grad = nil, nil;
    ((a + b) * 10):sum():backward()
    local norm = kava.optim.clip_grad_norm({ a, b }, 1)
    assert.near(math.sqrt(600), norm, 1e-4)
    assert.near(10 / norm, a.grad:totable()[1], 1e-5)
    assert.near(10 / norm, b.grad:totable()[1], 1e-5)
  end)

  it("adds up what an input gives that comes twice", function()
    local x = leaf { 1, 2, 3 }
    local y = kava.cat { x, x, x:narrow(1, 2, 2) };
    (y * y):sum():backward()
    assert.same({ 4, 12, 18 }, x.grad:totable())
  end)

  it("ends a scope where it is closed, not where the collector finds it", function()
    local x = leaf { 2 }
    do
      local forgotten = kava.scope()
      assert.is_userdata(forgotten)
    end
    local y = x * x
    collectgarbage()
    collectgarbage()
    y:backward()
    assert.same({ 4 }, x.grad:totable())
    local z
    do
      local step <close> = kava.scope()
      assert.is_userdata(step)
      z = x * x
    end
    assert.error_matches(function() z:backward() end, "already consumed")
  end)

  it("refuses a second walk over the same records", function()
    local x = leaf { 1, 2 }
    local y = x * x
    local z = y:sum()
    z:backward()
    assert.error_matches(function() z:backward() end, "already consumed by an earlier backward")
    assert.error_matches(function() (y * 2):sum():backward() end, "a part of the graph %(mul%) was already consumed")
    assert.same({ 2, 4 }, x.grad:totable())
    assert.error_matches(function() x:backward() end, "needs a tensor of one element, not %[2%]")
    assert.error_matches(function() leaf { 1 }:backward() end, "nothing was recorded")
  end)

  it("refuses gradients of what was written to after the forward pass", function()
    local ops = {
      mul = function(x) return x * x end,
      div = function(x) return 1 / x end,
      pow = function(x) return x ^ 3 end,
      norm = function(x) return x:norm() end,
      max = function(x) return x:max() end,
      matmul = function(x) return x:reshape(2, 2):matmul(x:reshape(2, 2)) end,
      linear = function(x) return kava.linear(x, x:reshape(1, 4)) end,
      silu = function(x) return x:silu() end,
      softmax = function(x) return x:softmax() end,
    }
    for name, op in pairs(ops) do
      local x = leaf { 1, 2, 3, 4 }
      local y = op(x):sum()
      if name == "softmax" then -- which keeps its output
        y:backward()
      else
        x:fill_(5)
        assert.error_matches(function() y:backward() end, "needs was written to after the forward pass", name)
        assert.is_nil(x.grad)
      end
    end
    local x, b = leaf { 1, 2 }, leaf { 3, 4 }
    local y = ((x + b) * 2):sum() -- a sum needs neither
    x:fill_(0)
    y:backward()
    assert.same({ 2, 2 }, x.grad:totable())
  end)

  it("leaves the graph as it was where memory runs out before the walk", function()
    for n = 0, 8 do -- the n-th allocation of a first backward() fails
      local x = leaf { 1, 2 }
      local y = (x * 2):sum()
      kava.memory_fail_after(n)
      local ok = pcall(y.backward, y)
      kava.memory_fail_after(-1)
      local again, message = pcall(function() (y * 3):backward() end) -- over the same record
      if not ok and again then assert.same({ 6, 6 }, x.grad and x.grad:totable(), ("allocation %d"):format(n)) end
      if not again then assert.matches("consumed", message) end
    end
  end)

  it("goes on recording after an error under no_grad", function()
    assert.error_matches(function() kava.no_grad(function() error "inside" end) end, "inside")
    local x = leaf { 3 }
    assert.same({ 5, 6 }, { kava.no_grad(function(...) return ... end, 5, 6) });
    (x * x):backward()
    assert.same({ 6 }, x.grad:totable())
  end)

  -- a product needs its input for its weight's gradient: what can be made again is, by the pass that also goes back over it
  describe("makes a product's input again on the way back", function()
    local gradcheck = require "spec.gradcheck"
    local function random(...) return kava.randn({ ... }, { dtype = "f64" }) end

    local held
    local uses = {
      ["once"] = function(gate, up, w) return kava.linear(kava.swiglu(gate, up), w) end,
      ["twice"] = function(gate, up, w)
        local y = kava.swiglu(gate, up)
        return kava.linear(y, w) + kava.linear(y, w * 2)
      end,
      ["beside another use"] = function(gate, up, w)
        local y = kava.swiglu(gate, up)
        return kava.linear(y, w) + y
      end,
      ["while somebody holds it"] = function(gate, up, w)
        held = kava.swiglu(gate, up)
        return kava.linear(held, w)
      end,
      ["while somebody holds what it is made of"] = function(gate, up, w)
        held = gate
        return kava.linear(kava.swiglu(gate, up), w)
      end,
      ["of what others read"] = function(gate, up, w) return kava.linear(kava.swiglu(gate, up), w) + gate * up + up end,
      ["of itself"] = function(gate, _, w) return kava.linear(kava.swiglu(gate, gate), w) end,
      ["of what has no record"] = function(_, up, w)
        return kava.linear(kava.swiglu(kava.full({ 5, 6 }, 0.3, { dtype = "f64" }), up), w)
      end,
    }
    for name, use in pairs(uses) do
      it(name, function()
        kava.seed(3)
        local function made(x, v, w) return use(kava.linear(x, v), kava.linear(x * 1.5, v), w) end
        gradcheck(function(...)
          local y = made(...)
          collectgarbage() -- what Lua alone would still hold
          return y
        end, { random(5, 6), random(6, 6), random(6, 6) })
        held = nil
      end)
    end

    it("in one pass, over what it reads where nobody else does", function()
      local x, w = kava.randn { 512, 64 }, kava.randn { 64, 64 }
      x:requires_grad(true)
      w:requires_grad(true)
      local function run(f)
        local function made() return f(kava.linear(x, w), kava.linear(x, w)):sum() end
        local report = kava.profile.run(function()
          local loss = made()
          collectgarbage() -- what Lua alone would still hold
          loss:backward()
        end)
        local calls = {}
        for _, entry in ipairs(report.kernels) do calls[entry.name] = entry.calls end
        return calls
      end
      local calls = run(function(gate, up) return kava.linear(kava.swiglu(gate, up), w) end)
      assert.same({ 1, 1 }, { calls.gated, calls.gated_grad })
      calls = run(function(gate, up)
        held = gate
        return kava.linear(kava.swiglu(gate, up), w)
      end)
      assert.same({ 2, 1 }, { calls.gated, calls.gated_grad })
      held = nil
    end)
  end)
end)

local kava = require "kava"
local gradcheck = require "spec.gradcheck"

local f64 = { dtype = "f64" }
local function close(a, b, options)
  local ok, most, index = kava.allclose(a, b, options)
  assert.is_true(ok, ("%g apart at {%s}"):format(most, table.concat(index, ", ")))
end

describe("reductions", function()
  before_each(function() kava.seed(3) end)

  it("give what is computed by hand", function()
    local x = kava.tensor { { 1, 5, 3 }, { 4, 2, 6 } }
    assert.equal(21, x:sum():item())
    assert.same({}, x:sum().shape)
    assert.same({ 5, 7, 9 }, x:sum(1):totable())
    assert.same({ 9, 12 }, x:sum(-1):totable())
    assert.same({ { 9 }, { 12 } }, x:sum(2, true):totable())
    assert.same({ { 21 } }, x:sum({ 1, 2 }, { keepdim = true }):totable())
    assert.same({ 3, 4 }, x:mean(2):totable())
    assert.equal(3.5, x:mean():item())
    assert.same({ 5, 6 }, x:max(2):totable())
    assert.same({ 1, 2, 3 }, x:min(1):totable())
    assert.equal(6, x:max():item())
    assert.equal(1, x:min():item())
    assert.same({ 2, 3 }, x:argmax(2):totable())
    assert.same({ { 2, 1, 2 } }, x:argmax(1, true):totable())
    assert.near(math.sqrt(91), x:norm():item(), 1e-6)
    assert.near(5, kava.tensor({ 3, 4 }):norm():item(), 1e-6)
    assert.equal(7, kava.tensor(7):sum():item())
  end)

  it("count booleans, keep integers, and want floats for means", function()
    local x = kava.tensor({ { 1, 5, 3 }, { 4, 2, 6 } }, { dtype = "i32" })
    assert.equal("i64", x:sum().dtype)
    assert.equal("i32", x:max(1).dtype)
    assert.equal(300, kava.ones(300, { dtype = "u8" }):sum():item()) -- more than a u8 holds
    assert.equal(21, x:sum():item())
    assert.equal("integer", math.type(x:max():item()))
    assert.equal(4, x:gt(2):sum():item())
    assert.equal(2 ^ 62, kava.tensor({ 1 << 61, 1 << 61 }, { dtype = "i64" }):sum():item())
    assert.error_matches(function() x:mean() end, "mean: the tensor is i32, a float tensor is expected")
    assert.error_matches(function() x:norm() end, "norm: the tensor is i32")
    assert.error_matches(function() x:softmax() end, "softmax: the tensor is i32")
  end)

  it("have the gradients that finite differences say, over any dimensions", function()
    local x = kava.randn({ 2, 3, 4, 2 }, f64)
    for _, dims in ipairs { false, 1, 2, -1, { 1, 3 }, { 2, 3 }, { 1, 4 }, { 1, 2, 3, 4 } } do
      for _, keep in ipairs { false, true } do
        local function over(name) return function(t) return t[name](t, dims or nil, dims and keep) end end
        for _, name in ipairs { "sum", "mean", "norm", "max", "min" } do gradcheck(over(name), { x }) end
      end
    end
    gradcheck(function(t) return t:permute(3, 1, 4, 2):sum(2) end, { x })
    gradcheck(function(t) return t:permute(3, 1, 4, 2):max { 2, 4 } end, { x })
  end)

  it("softmax and log_softmax have them over any dimension", function()
    local x = kava.randn({ 2, 5, 3 }, f64)
    for dim = 1, 3 do
      gradcheck(function(t) return t:softmax(dim) end, { x })
      gradcheck(function(t) return t:log_softmax(dim) end, { x })
    end
    gradcheck(function(t) return t:transpose(1, 2):softmax() end, { x })
  end)

  it("agree between f32 and f64 at odd sizes, long rows and strides", function()
    local shapes = {
      { 1 }, { 7 }, { 17 }, { 3, 33 }, { 33, 3 }, { 130, 129 }, { 2, 9000 }, { 9000, 2 }, { 100003 }, { 3, 70001 }, { 5, 4, 6 },
    }
    for _, shape in ipairs(shapes) do
      local x = kava.randn(shape)
      local wide = x:to { dtype = "f64" }
      for dim = 1, #shape do
        for _, name in ipairs { "sum", "mean", "max", "min", "norm", "softmax", "log_softmax" } do
          close(x[name](x, dim):to { dtype = "f64" }, wide[name](wide, dim), { rtol = 2e-6, atol = 4e-6 * math.sqrt(shape[dim]) })
        end
        close(x:argmax(dim), wide:argmax(dim))
      end
      local g, h = x:clone():requires_grad(true), wide:clone():requires_grad(true)
      local weight = kava.randn(shape)
      for _, name in ipairs { "softmax", "log_softmax" } do
        local narrow, exact = g[name](g) * weight, h[name](h) * weight:to { dtype = "f64" }
        narrow:sum():backward()
        exact:sum():backward()
      end
      close(g.grad:to { dtype = "f64" }, h.grad, { rtol = 1e-5, atol = 1e-5 * math.sqrt(shape[#shape]) })
    end
    local x = kava.randn(9, 40, 11)
    close(x:permute(3, 1, 2):sum(3), x:permute(3, 1, 2):contiguous():sum(3), { rtol = 0, atol = 0 })
  end)

  it("sum a long row of f32 without losing it", function() -- naive f32 sums of 0.1 stop near 2^20
    assert.near(2 ^ 24 * 0.1, kava.full({ 1 << 24 }, 0.1):sum():item(), 2)
  end)

  it("do not depend on the number of threads", function()
    local threads = kava.threads()
    local x = kava.randn(300001)
    local rows = x:narrow(1, 1, 300000):reshape(3, 100000)
    local function all()
      local list = { x:sum(), x:max(), x:norm(), rows:softmax(), rows:sum(1), rows:mean(2), rows:log_softmax() }
      return list
    end
    kava.threads(1)
    local alone = all()
    kava.threads(3)
    local shared = all()
    kava.threads(threads)
    for i = 1, #alone do close(alone[i], shared[i], { rtol = 0, atol = 0 }) end
  end)

  it("hand NaN on, wherever it lies; a masked score weighs exactly nothing", function()
    local nan, inf = 0 / 0, math.huge
    for _, n in ipairs { 1, 16, 37, 20000 } do
      for _, at in ipairs { 1, (n + 1) // 2, n } do
        local x = kava.randn(n)
        x:narrow(1, at, 1):fill_(nan)
        for _, name in ipairs { "sum", "max", "min", "norm" } do
          local value = x[name](x):item()
          assert.is_true(value ~= value, name)
        end
        assert.equal(at, x:argmax(1):item())
        local p = x:softmax():narrow(1, 1, 1):item()
        assert.is_true(p ~= p)
      end
    end
    local p = kava.tensor({ 1, -inf, 1, -inf }):softmax():totable()
    assert.same({ 0.5, 0, 0.5, 0 }, p)
    assert.equal(-inf, kava.tensor({ 1, -inf }):log_softmax():totable()[2])
    local empty = kava.tensor({ -inf, -inf }):softmax():totable()
    assert.is_true(empty[1] ~= empty[1])
    assert.equal(inf, kava.tensor({ 1, inf }):max():item())
  end)

  it("a norm's gradient at 0 is 0, and the first of equal maxima gets it all", function()
    local zero = kava.zeros(3, { requires_grad = true })
    zero:norm():backward()
    assert.same({ 0, 0, 0 }, zero.grad:totable())
    local tied = kava.tensor({ 1, 4, 4, 2 }, { requires_grad = true })
    tied:max():backward()
    assert.same({ 0, 1, 0, 0 }, tied.grad:totable())
  end)

  it("handle empty tensors", function()
    assert.equal(0, kava.zeros(0, 3):sum():item())
    assert.same({ 0, 0, 0 }, kava.zeros(0, 3):sum(1):totable())
    assert.same({ 0, 3 }, kava.zeros(0, 3):softmax().shape)
    assert.error_matches(function() kava.zeros(0):max() end, "max: there is no element to choose from")
    assert.error_matches(function() kava.zeros(2, 0):argmax(2) end, "argmax: dimension 2 is empty")
  end)

  it("say what is wrong", function()
    local x = kava.zeros(2, 3)
    assert.error_matches(function() x:sum(3) end, "sum: dimension 3 is not one of a tensor of shape %[2, 3%]")
    assert.error_matches(function() x:sum(0) end, "dimensions count from 1")
    assert.error_matches(function() x:sum { 1, -2 } end, "sum: dimension 1 is named twice")
    assert.error_matches(function() x:sum(1, { keepdims = true }) end, "did you mean 'keepdim'")
    assert.error_matches(function() x:sum "1x" end, "number expected")
  end)
end)

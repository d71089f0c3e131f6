local kava = require "kava"
local gradcheck = require "spec.gradcheck"

local f64 = { dtype = "f64" }
local function close(a, b, options)
  local ok, most, index = kava.allclose(a, b, options)
  assert.is_true(ok, ("%g apart at {%s}"):format(most, table.concat(index, ", ")))
end
-- Away from 0, where division, logarithm and powers are steep.
local function positive(...) return kava.rand({ ... }, f64) + 0.5 end

describe("elementwise ops", function()
  before_each(function() kava.seed(11) end)

  it("have the gradients that finite differences say, broadcast or not", function()
    local shapes = { { { 2, 3 }, { 2, 3 } }, { { 2, 3 }, { 3 } }, { { 1, 3 }, { 4, 1 } }, { { 2, 1, 3 }, { 4, 3 } }, { {}, { 2, 2 } } }
    for _, pair in ipairs(shapes) do
      local a, b = positive(table.unpack(pair[1])), positive(table.unpack(pair[2]))
      local functions = {
        add = function(x, y) return x + y end,
        sub = function(x, y) return x - y end,
        mul = function(x, y) return x * y end,
        div = function(x, y) return x / y end,
        power = function(x, y) return x ^ y end,
        where = function(x, y) return kava.where(x:gt(1), x * 2, y) end,
      }
      for name, fn in pairs(functions) do
        local ok, message = pcall(gradcheck, fn, { a, b })
        assert.is_true(ok, name .. ": " .. tostring(message))
      end
    end
  end)

  it("have them for functions of one tensor", function()
    local x = positive(3, 4)
    local functions = {
      affine = function(t) return 3 - t * 2 end,
      scale = function(t) return t * -1.5 end,
      neg = function(t) return -t end,
      abs = function(t) return (t - 1):abs() end,
      clamp = function(t) return t:clamp(0.7, 1.2) end,
      pow = function(t) return t ^ 3 + t ^ 2 + t ^ 1 + t ^ 0 + t ^ -0.5 end,
      exponential = function(t) return 2 ^ t end,
      exp = function(t) return t:exp() end,
      log = function(t) return t:log() end,
      sqrt = function(t) return t:sqrt() end,
      tanh = function(t) return t:tanh() end,
      sigmoid = function(t) return t:sigmoid() end,
      reciprocal = function(t) return 2 / t end,
      strided = function(t) return t:transpose(1, 2):exp() * t:narrow(2, 2, 3):transpose(1, 2):expand(4, 3, 3):select(1, 1):sum() end,
    }
    for name, fn in pairs(functions) do
      local ok, message = pcall(gradcheck, fn, { x })
      assert.is_true(ok, name .. ": " .. tostring(message))
    end
  end)

  it("send a gradient to the same tensor twice, and none to constants", function()
    local x, constant = positive(3), positive(3)
    x:requires_grad(true)
    local y = (x * x + constant):sum()
    y:backward()
    close(x.grad, x:detach() * 2)
    assert.is_nil(constant.grad)
  end)

  it("give what is computed by hand", function()
    local a = kava.tensor({ { 1, -2, 3 }, { 4, 5, -6 } })
    assert.same({ { 2, -1, 4 }, { 5, 6, -5 } }, (a + 1):totable())
    assert.same({ { 1, 2, 3 }, { 4, 5, 6 } }, a:abs():totable())
    assert.same({ { 1, 0, 3 }, { 3, 3, 0 } }, a:clamp(0, 3):totable())
    assert.same({ { 11, 18, 33 }, { 14, 25, 24 } }, (a + kava.tensor { 10, 20, 30 }):totable())
    assert.same({ { true, false, true }, { true, true, false } }, a:gt(0):totable())
    assert.same({ { false, true, false }, { false, false, true } }, a:lt(0):totable())
    assert.same({ { true, false, false }, { false, false, false } }, a:eq(1):totable()) -- compare
    assert.same({ { 1, 0, 3 }, { 4, 5, 0 } }, kava.where(a:ge(0), a, 0):totable())
    assert.same({ 2, 4, 8 }, (2 ^ kava.tensor { 1, 2, 3 }):totable())
    assert.same({ 0.5, 0.25 }, (1 / kava.tensor { 2, 4 }):totable())
  end)

  it("agree between f32 and f64, at lengths around every vector width, and for strided operands", function()
    for _, n in ipairs { 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 100, 40000 } do
      local a, b = kava.rand(n) + 0.5, kava.rand(n) - 2
      local wide_a, wide_b = a:to { dtype = "f64" }, b:to { dtype = "f64" }
      for _, fn in ipairs {
        function(x, y) return x + y end, function(x, y) return x - y end, function(x, y) return x * y end,
        function(x, y) return x / y end, function(x) return x * 3 - 1 end, function(_, y) return y:abs() end,
        function(x) return x:sqrt() end, function(x) return 3 / x end, function(_, y) return y:clamp(-1.7, -1.2) end,
        function(x) return x:exp() end, function(x) return x:tanh() end, function(x) return x:sigmoid() end,
        function(x) return x:log() end, function(x) return x ^ 1.5 end,
      } do
        close(fn(a, b):to { dtype = "f64" }, fn(wide_a, wide_b), { rtol = 4e-6, atol = 1e-6 })
      end
    end
    local a, b = kava.randn(37, 5, 19), kava.randn(19, 37)
    local function fn(x, y) return x:permute(3, 1, 2):narrow(1, 3, 15) * y:narrow(1, 2, 15):reshape(15, 37, 1) end
    close(fn(a, b):to { dtype = "f64" }, fn(a:to { dtype = "f64" }, b:to { dtype = "f64" }), { rtol = 1e-6 })
    close(fn(a, b), fn(a:clone(), b:clone()), { rtol = 0, atol = 0 })
  end)

  it("do not depend on the number of threads", function()
    local threads = kava.threads()
    local a, b = kava.randn(123457), kava.randn(123457)
    local function all() return { a + b, a * b, a * 0.3 + 1, a:exp(), a:to { dtype = "bf16" } } end
    kava.threads(1)
    local alone = all()
    kava.threads(3)
    local shared = all()
    kava.threads(threads)
    for i = 1, #alone do close(alone[i], shared[i], { rtol = 0, atol = 0 }) end
  end)

  it("hand NaN and infinities on", function()
    local nan, inf = 0 / 0, math.huge
    for _, dtype in ipairs { "f32", "f64" } do
      local x = kava.tensor({ nan, inf, -inf, 1000, -1000 }, { dtype = dtype })
      local function shown(t)
        local list = {}
        for i, v in ipairs(t:totable()) do list[i] = v ~= v and "nan" or v end
        return list
      end
      assert.same({ "nan", inf, inf, 1000, 1000 }, shown(x:abs()))
      assert.same({ "nan", 2, -2, 2, -2 }, shown(x:clamp(-2, 2)))
      assert.same({ "nan", inf, 0, dtype == "f32" and inf or math.exp(1000), 0 }, shown(x:exp()))
      assert.same({ "nan", 1, 0, 1, 0 }, shown(x:sigmoid()))
      assert.same({ "nan", 1, -1, 1, -1 }, shown(x:tanh()))
      assert.same({ false, false, false, false, false }, x:eq(nan):totable())
    end
  end)

  it("keep integers integers, and say where they want floats", function()
    local i = kava.tensor({ 7, -8, 9 }, { dtype = "i64" })
    assert.equal("i64", (i + 1).dtype)
    assert.same({ 9007199254740993, -8, 9 }, (kava.tensor({ 9007199254740993, -8, 9 }, { dtype = "i64" }) * 1):totable())
    assert.equal("i32", (i:to { dtype = "i32" } * 2).dtype)
    assert.equal("i64", (i:to { dtype = "i32" } + i).dtype)
    assert.equal("f32", (i * 0.5).dtype)
    assert.equal("f32", (i + kava.zeros(3)).dtype)
    assert.equal("f64", (kava.zeros(3) + kava.zeros(3, f64)).dtype)
    assert.equal("f32", (kava.zeros(3, { dtype = "bf16" }) + kava.zeros(3, { dtype = "f16" })).dtype)
    assert.same({ 49, 64, 81 }, (i ^ 2):totable())
    assert.same({ true, false, true }, i:gt(0):totable())
    assert.same({ true, true, true }, i:to { dtype = "i8" }:lt(1000):totable())
    assert.has_error(function() return i / i end, "div: i64 and i64, a float tensor is expected")
    assert.has_error(function() return i:exp() end, "exp: the tensor is i64, a float tensor is expected")
    assert.has_error(function() return i:sqrt() end, "sqrt: the tensor is i64, a float tensor is expected")
  end)

  it("give bf16 and f16 leaves gradients in f32", function()
    for _, dtype in ipairs { "bf16", "f16" } do
      local x = kava.tensor({ 1, 2, 3 }, { dtype = dtype, requires_grad = true })
      local y = (x * x):sum()
      assert.equal("f32", y.dtype)
      y:backward()
      assert.equal("f32", x.grad.dtype)
      assert.same({ 2, 4, 6 }, x.grad:totable())
    end
  end)

  it("have a derivative of 0 where the exponent is 0", function()
    local x = kava.tensor({ 0, 0, 2 }, { dtype = "f64", requires_grad = true })
    local y = kava.tensor({ 0, 2, 3 }, { dtype = "f64", requires_grad = true });
    (x ^ y):sum():backward()
    assert.same({ 0, 0, 12 }, x.grad:totable())
    assert.near(8 * math.log(2), y.grad:totable()[3], 1e-12)
  end)

  it("say what is wrong", function()
    local a = kava.zeros(2, 3)
    assert.error_matches(function() return a + kava.zeros(4) end, "add: shapes %[2, 3%] and %[4%] do not broadcast")
    assert.error_matches(function() return a + "x" end, "tensor or number expected, got string")
    assert.error_matches(function() return a + {} end, "tensor or number expected, got table")
    assert.error_matches(function() return a:clamp(2, 1) end, "clamp: the lower bound 2 is above the upper bound 1")
    assert.error_matches(function() return kava.where(a, a, a) end, "where: the condition is f32, bool is expected")
    assert.error_matches(function() return kava.where(a:gt(0), 1, 2) end, "a tensor expected")
  end)
end)

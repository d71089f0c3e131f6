-- dropout: a mask that is a function of the seed, made again in the backward pass.
local kava = require "kava"
local agree = require "spec.agree"
local gradcheck = require "spec.gradcheck"

describe("dropout", function()
  before_each(function()
    kava.seed(15)
    kava.train(true)
  end)
  after_each(function() kava.train(true) end)

  it("drops about p of the elements and divides the rest by 1-p", function()
    local n = 100000
    local y = kava.dropout(kava.ones { n }, 0.3)
    local kept = y:sum():item() * 0.7
    assert.near(0.7, kept / n, 4 * math.sqrt(0.21 / n)) -- four standard deviations
    assert.near(1 / 0.7, y:max():item(), 1e-6)
  end)

  it("in place gives the same values and gradients, and is found out where x was needed", function()
    local w = kava.randn { 6, 9 }
    local function run(in_place)
      kava.rng_state(3, 5)
      local x = w:clone():requires_grad(true)
      local a = (x * 1):silu()
      local y = kava.dropout(a, 0.4, in_place)
      kava.linear(y, w:narrow(1, 1, 4)):sum():backward()
      return y:totable(), x.grad:totable(), a:totable()
    end
    local y, grad = run(false)
    local over, same_grad, x = run(true)
    assert.same(y, over)
    assert.same(y, x)
    assert.same(grad, same_grad)
    local x2 = kava.randn({ 8 }):requires_grad(true)
    local s = x2:exp() -- its record keeps what it gave
    local loss = kava.dropout(s, 0.4, true):sum()
    assert.error_matches(function() loss:backward() end, "was written to")
    kava.train(false)
    assert.same(s:totable(), kava.dropout(s, 0.4, true):totable())
  end)

  it("draws a fresh mask at each call, and the same ones after the same seed", function()
    local x = kava.ones { 1000 }
    local function two()
      kava.seed(3)
      return kava.dropout(x, 0.5):totable(), kava.dropout(x, 0.5):totable()
    end
    local a, b = two()
    local c, d = two()
    assert.same(a, c)
    assert.same(b, d)
    assert.not_same(a, b)
  end)

  it("has the gradients that finite differences have: the backward pass makes the same mask", function()
    gradcheck(function(x)
      kava.rng_state(3, 5)
      return kava.dropout(x, 0.4)
    end, { kava.randn({ 7, 5 }, { dtype = "f64" }) })
  end)

  for _, count in ipairs { 1, 63, 64, 65, 20001 } do
    it("is the same in f32 and f64, for any number of threads: " .. count, function()
      agree(function(x)
        kava.rng_state(9, 1)
        return kava.dropout(x, 0.1)
      end, { kava.randn({ count }, { dtype = "f64" }) })
    end)
  end

  it("is the identity outside training, and for p = 0: no number is drawn", function()
    local x = kava.randn { 10 }
    local _, before = kava.rng_state()
    assert.same(x:totable(), kava.dropout(x, 0):totable())
    kava.train(false)
    assert.same(x:totable(), kava.dropout(x, 0.5):totable())
    assert.equal(before, select(2, kava.rng_state()))
  end)

  it("names what is wrong", function()
    local x = kava.randn { 3 }
    for _, p in ipairs { -0.1, 1, 2, 0 / 0 } do assert.has_error(function() kava.dropout(x, p) end) end
    assert.has_error(function() kava.dropout(kava.arange(3), 0.5) end)
  end)
end)

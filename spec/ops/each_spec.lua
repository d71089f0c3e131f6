-- linear_each and cosine_each: the same op on many tensors. On the CPU they are its calls one after another, to the bit.
local kava = require "kava"
local gradcheck = require "spec.gradcheck"

local function random(shape, dtype) return kava.randn(shape, { dtype = dtype or "f32" }) end
local function list(count, make)
  local out = {}
  for i = 1, count do out[i] = make(i) end
  return out
end

local function leaves_of(tensors)
  return list(#tensors, function(i) return tensors[i]:clone():requires_grad(true) end)
end

describe("linear_each", function()
  it("gives what linear gives of each, and their gradients", function()
    kava.seed(1)
    local xs, ws = list(3, function() return random { 2, 5, 6 } end), list(3, function() return random { 4, 6 } end)
    local weight = random { 2, 5, 4 }
    local function gradients(f)
      local leaves = { leaves_of(xs), leaves_of(ws) }
      local total
      for i, y in ipairs(f(leaves[1], leaves[2])) do
        assert.same({ 2, 5, 4 }, y.shape)
        local part = (y * weight):sum() * i
        total = total and total + part or part
      end
      total:backward()
      return leaves, total:item()
    end
    local got, sum = gradients(kava.linear_each)
    local expected, one_by_one = gradients(function(a, b) return list(3, function(i) return kava.linear(a[i], b[i]) end) end)
    assert.equal(one_by_one, sum)
    for which = 1, 2 do
      for i = 1, 3 do assert.same(expected[which][i].grad:totable(), got[which][i].grad:totable()) end
    end
  end)

  it("takes what is not alike, and refuses what does not fit", function()
    local ys = kava.linear_each({ random { 3, 4 }, random { 5, 2 } }, { random { 2, 4 }, random { 1, 2 } })
    assert.same({ { 3, 2 }, { 5, 1 } }, { ys[1].shape, ys[2].shape })
    assert.error_matches(function() kava.linear_each({ random { 3, 4 } }, { random { 2, 5 } }) end, "linear")
    assert.error_matches(function() kava.linear_each({ random { 3, 4 } }, {}) end, "one or more")
    local w = random { 2, 4 }
    assert.error_matches(function() kava.linear_each({ random { 3, 4 } }, { w, w }) end, "1 weights expected, got 2")
  end)
end)

describe("cosine_each (kava.loss.cosine of lists)", function()
  it("is the mean of the pairs' losses, with their gradients", function()
    kava.seed(2)
    local mask = kava.tensor({ { 1, 1, 0 }, { 0, 1, 1 } }, { dtype = "i64" })
    local s, t = list(3, function() return random { 2, 3, 7 } end), list(3, function() return random { 2, 3, 7 } end)
    for _, options in ipairs { {}, { mask = mask } } do
      local mine, other = leaves_of(s), leaves_of(s)
      local got, sum = kava.loss.cosine(mine, t, options), nil
      for i = 1, 3 do
        local value = kava.loss.cosine(other[i], t[i], options)
        sum = sum and sum + value or value
      end
      sum = sum / 3
      assert.equal(sum:item(), got:item())
      got:backward()
      sum:backward()
      for i = 1, 3 do assert.same(other[i].grad:totable(), mine[i].grad:totable()) end
    end
  end)

  it("has the gradients of finite differences, of both sides", function()
    kava.seed(3)
    local fixed = random({ 2, 3, 4 }, "f64")
    local inputs = { random({ 2, 3, 4 }, "f64"), random({ 2, 3, 4 }, "f64") }
    gradcheck(function(a, b) return kava.loss.cosine({ a, fixed }, { fixed, b }) end, inputs)
  end)

  it("refuses lists that do not fit", function()
    local x = random { 2, 3 }
    assert.error_matches(function() kava.loss.cosine({ x, x }, { x }) end, "2 tensors expected, got 1")
    assert.error_matches(function() kava.loss.cosine({ x }, { random { 2, 4 } }) end, "expected")
    assert.error_matches(function() kava.loss.cosine({ x }, { x }, { wrong = 1 }) end, "wrong")
  end)
end)

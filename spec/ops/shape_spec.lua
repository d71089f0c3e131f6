local kava = require "kava"
local gradcheck = require "spec.gradcheck"

local f64 = { dtype = "f64" }
local function numbers(...) return kava.arange(1, 1 + select(1, ...)):to { dtype = "f32" }:reshape(table.unpack({ select(2, ...) })) end

describe("views", function()
  before_each(function() kava.seed(5) end)

  it("show the right elements and share storage", function()
    local x = numbers(6, 2, 3)
    assert.same({ { 1, 4 }, { 2, 5 }, { 3, 6 } }, x:transpose(1, 2):totable())
    assert.same({ { 1, 4 }, { 2, 5 }, { 3, 6 } }, x:permute(2, 1):totable())
    assert.same({ { 1, 4 }, { 2, 5 }, { 3, 6 } }, x:permute { -1, -2 }:totable())
    assert.same({ { 2, 3 }, { 5, 6 } }, x:narrow(2, 2, 2):totable())
    assert.same({ 4, 5, 6 }, x:select(1, 2):totable())
    assert.same({ 3, 6 }, x:select(-1, -1):totable())
    assert.same({ { 1, 2 }, { 3, 4 }, { 5, 6 } }, x:reshape(3, -1):totable())
    assert.same({ 3, 1, 2 }, x:reshape { 3, 1, 2 }.shape)
    assert.same({ { 1, 2, 3 }, { 1, 2, 3 } }, x:narrow(1, 1, 1):expand(2, 3):totable())
    x:narrow(2, 1, 1):fill_(9)
    x:reshape(-1):narrow(1, 6, 1):fill_(7)
    x:transpose(1, 2):select(1, 2):zero_()
    assert.same({ { 9, 0, 3 }, { 9, 0, 7 } }, x:totable())
  end)

  it("are restrided where they can be and copied where they must", function()
    local x = numbers(24, 2, 3, 4)
    local y = x:narrow(3, 1, 2):reshape(6, 2) -- [2,3] is one run of rows
    x:fill_(0)
    assert.equal(0, y:abs():sum():item())
    x = numbers(24, 2, 3, 4)
    local z = x:permute(2, 1, 3):reshape(6, 4)
    x:fill_(0)
    assert.same({ 13, 14, 15, 16 }, z:select(1, 2):totable())
  end)

  it("join: cat and stack", function()
    local a, b = numbers(6, 2, 3), numbers(2, 2, 1)
    assert.same({ { 1, 2, 3, 1 }, { 4, 5, 6, 2 } }, kava.cat({ a, b }, 2):totable())
    assert.same({ { 1, 2, 3 }, { 4, 5, 6 }, { 1, 2, 3 }, { 4, 5, 6 } }, kava.cat({ a, a }):totable())
    assert.same({ { { 1, 2, 3 }, { 4, 5, 6 } }, { { 1, 2, 3 }, { 4, 5, 6 } } }, kava.stack({ a, a }):totable())
    assert.same({ 2, 3, 2 }, kava.stack({ a, a }, -1).shape)
    assert.same({ 2, 0 }, kava.cat({ kava.zeros(2, 0), kava.zeros(2, 0) }, 2).shape)
    local left, right = kava.tensor({ { 1 }, { 4 } }, { dtype = "u8" }), kava.tensor({ { 2 }, { 3 } }, { dtype = "u8" })
    assert.same({ { 1, 2 }, { 4, 3 } }, kava.cat({ left, right }, 2):totable())
  end)

  it("join the keys of many layers as torch would", function() -- [B,H,T,D] views, side by side along the last dimension
    local pieces, B, H, T, D = {}, 2, 3, 5, 4
    for i = 1, 7 do pieces[i] = kava.randn(B, H, T, D) end
    local rows = {}
    for i, piece in ipairs(pieces) do rows[i] = piece:permute(1, 3, 2, 4):reshape(B, T, H * D) end
    local joined = kava.cat(rows, 3)
    assert.same({ B, T, 7 * H * D }, joined.shape)
    local flat = joined:totable()
    for i, piece in ipairs(pieces) do
      local t = piece:totable()
      for b = 1, B do for h = 1, H do for s = 1, T do for d = 1, D do
        assert.equal(t[b][h][s][d], flat[b][s][(i - 1) * H * D + (h - 1) * D + d])
      end end end end
    end
  end)

  it("carry gradients back to what they show", function()
    local x, y = kava.randn({ 2, 3, 4 }, f64), kava.randn({ 2, 2, 4 }, f64)
    local functions = {
      reshape = function(t) return t:reshape(4, 6) * 2 end,
      copied = function(t) return t:permute(3, 1, 2):reshape(8, 3) end,
      permute = function(t) return t:permute(3, 1, 2) end,
      transpose = function(t) return t:transpose(1, -1) * t:transpose(-1, 1) end,
      narrow = function(t) return t:narrow(2, 2, 2) end,
      whole = function(t) return t:narrow(2, 1, 3) end,
      overlapping = function(t) return t:narrow(2, 1, 2) * t:narrow(2, 2, 2) end,
      select = function(t) return t:select(2, 3) end,
      expand = function(t) return t:narrow(2, 1, 1):expand(5, 2, 3, 4) end,
      contiguous = function(t) return t:permute(2, 3, 1):contiguous() end,
      clone = function(t) return t:transpose(1, 2):clone() end,
      all = function(t) return t:permute(2, 1, 3):narrow(3, 2, 2):select(1, 2):reshape(-1) end,
    }
    for name, fn in pairs(functions) do
      local ok, message = pcall(gradcheck, fn, { x })
      assert.is_true(ok, name .. ": " .. tostring(message))
    end
    gradcheck(function(a, b) return kava.cat({ a, b, a }, 2) end, { x, y })
    gradcheck(function(a, b) return kava.cat({ a:transpose(2, 3), b:transpose(2, 3) }, -1) end, { x, y })
    gradcheck(function(a, b) return kava.stack({ a, b }, 2) end, { y, kava.randn({ 2, 2, 4 }, f64) })
  end)

  it("carry gradients through as many pieces as there are", function()
    local parts, sum = {}, 0
    for i = 1, 30 do parts[i] = kava.full({ 2, 3 }, i):requires_grad(true) end
    local joined = kava.cat(parts, 2)
    local weight = kava.arange(180):to { dtype = "f32" }:reshape(2, 90)
    local loss = (joined * weight):sum()
    loss:backward()
    for i, part in ipairs(parts) do
      assert.same(weight:narrow(2, (i - 1) * 3 + 1, 3):totable(), part.grad:totable())
      sum = sum + i * weight:narrow(2, (i - 1) * 3 + 1, 3):sum():item()
    end
    assert.near(sum, loss:item(), 1)
  end)

  it("of views of views give what copies give, and the same gradients", function()
    local state = 7
    local function random(n) -- 1..n; a generator of its own, so that a failure can be repeated
      state = (state * 6364136223846793005 + 1442695040888963407)
      return (state >> 33) % n + 1
    end
    local steps = {
      function(t)
        local order, left = {}, {}
        for d = 1, #t.shape do left[d] = d end
        while #left > 0 do order[#order + 1] = table.remove(left, random(#left)) end
        return function(x) return x:permute(order) end
      end,
      function(t)
        local d = random(#t.shape)
        local start = random(t.shape[d])
        local length = random(t.shape[d] - start + 1)
        return function(x) return x:narrow(d, start, length) end
      end,
      function(t)
        local d = random(#t.shape)
        local at = random(t.shape[d])
        return function(x) return #t.shape > 1 and x:select(d, at) or x end
      end,
      function(t)
        local shape, d = t.shape, random(#t.shape)
        table.insert(shape, d, 1)
        if #shape > 5 then shape = { t:numel() } end
        return function(x) return x:reshape(shape) end
      end,
      function(t)
        local shape, grown = t.shape, false
        for d = 1, #shape do
          if shape[d] == 1 and not grown then shape[d], grown = random(3), true end
        end
        return function(x) return x:expand(shape) end
      end,
      function(t)
        local d = random(#t.shape)
        return function(x) return kava.cat({ x, x }, d) end
      end,
      function(t)
        local d = random(#t.shape)
        return function(x) return x * x:sum(d, true) end
      end,
      function(t)
        local d = random(#t.shape)
        return function(x) return x:softmax(d) + x:max(d, true) end
      end,
    }
    for round = 1, 300 do
      local viewed = kava.randn({ random(4), random(5), random(3) }, { dtype = "f64", requires_grad = true })
      local copied = viewed:detach():clone():requires_grad(true)
      local x, y = viewed, copied
      for _ = 1, 5 do
        local step = steps[random(#steps)](x)
        x, y = step(x), step(y:clone())
        if x:numel() > 4000 then break end
      end
      assert.is_true(kava.allclose(x, y, { rtol = 1e-12, atol = 1e-12 }), "round " .. round)
      local weight = kava.randn(x.shape, { dtype = "f64" })
      local left, right = (x * weight):sum(), (y * weight):sum()
      if x:requires_grad() then
        left:backward()
        right:backward()
        assert.is_true(kava.allclose(viewed.grad, copied.grad, { rtol = 1e-9, atol = 1e-9 }), "round " .. round)
      end
      local narrow = viewed:detach():to { dtype = "f32" }
      assert.is_true(kava.allclose(narrow:transpose(1, 3):to { dtype = "f64" }, narrow:to({ dtype = "f64" }):transpose(1, 3)))
    end
  end)

  it("say what is wrong", function()
    local x = kava.zeros(2, 3)
    assert.error_matches(function() x:reshape(4, 2) end, "reshape: %[2, 3%] has not as many elements as %[4, 2%]")
    assert.error_matches(function() x:reshape(-1, -1) end, "%[%-1, %-1%] is not a shape")
    assert.error_matches(function() x:reshape(-1, 4) end, "do not fill")
    assert.error_matches(function() x:narrow(2, 3, 2) end, "narrow: elements 3 to 4 of dimension 2, which has 3")
    assert.error_matches(function() x:narrow(3, 1, 1) end, "narrow: dimension 3 is not one of a tensor of shape %[2, 3%]")
    assert.error_matches(function() x:narrow(0, 1, 1) end, "dimensions count from 1")
    assert.error_matches(function() x:narrow(1, 0, 1) end, "positions count from 1")
    assert.error_matches(function() x:narrow(1, 1, math.maxinteger) end, "narrow: elements")
    assert.error_matches(function() x:narrow(1, 2, math.maxinteger) end, "narrow: elements 2 to 9223372036854775807")
    assert.error_matches(function() x:select(1, -3) end, "select: elements 0 to 0")
    assert.error_matches(function() x:select(9 - 4, math.mininteger) end, "select: dimension 5")
    assert.error_matches(function() x:select(1, 3) end, "select: elements 3 to 3 of dimension 1, which has 2")
    assert.error_matches(function() x:permute(1, 1) end, "each of the 2 dimensions once")
    assert.error_matches(function() x:permute(1) end, "1 dimensions named, the tensor has 2")
    assert.error_matches(function() x:expand(4, 3) end, "only dimensions of size 1 grow")
    for _, grow in ipairs { -- more elements, or larger strides, than an int64 counts; also where there are none
      function() return kava.zeros(0, 1 << 40, 1 << 40) end,
      function() return kava.zeros(1):expand(1 << 40, 1 << 40) end,
      function() return kava.zeros(0):reshape(0, 1 << 40, 1 << 40) end,
    } do
      assert.error_matches(grow, "the shape's size overflows")
    end
    assert.error_matches(function() kava.zeros(1):expand(4):copy_(kava.arange(4)) end, "copy_: the tensor is an expanded view")
    assert.error_matches(function() kava.cat({ x, kava.zeros(3, 3) }, 2) end, "cat: tensor 2 is f32 %[3, 3%]")
    assert.error_matches(function() kava.cat({ x, kava.zeros(2, 3, { dtype = "f64" }) }) end, "cat: tensor 2 is f64")
    assert.error_matches(function() kava.cat {} end, "one or more tensors")
    assert.error_matches(function() kava.cat { x, 3 } end, "element 2 of the list is number")
    assert.error_matches(function() kava.stack { x, kava.zeros(3) } end, "stack: tensor 2 has shape %[3%], the first %[2, 3%]")
  end)
end)

local kava = require "kava"
local gradcheck = require "spec.gradcheck"

local plain = { "f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool" }
local nan, inf = 0 / 0, math.huge

local function cast(values, from, to) return kava.tensor(values, { dtype = from }):to({ dtype = to }):totable() end

describe("conversions", function()
  it("carry small numbers between any two types", function()
    for _, from in ipairs(plain) do
      for _, to in ipairs(plain) do
        for _, n in ipairs { 1, 5, 33, 300 } do
          local values, expected = {}, {}
          for i = 1, n do
            values[i] = (from == "bool" or to == "bool") and i % 2 or i % 100
            expected[i] = values[i]
            if to == "bool" then expected[i] = values[i] == 1 end
          end
          if from == "bool" then for i = 1, n do values[i] = values[i] == 1 end end
          assert.same(expected, cast(values, from, to), from .. " to " .. to)
        end
      end
    end
  end)

  it("round to nearest even, with subnormals, overflow and NaN", function()
    local halves = { 1 + 2 ^ -11, 1 + 3 * 2 ^ -11, 65504, 65519.99, 65520, 2 ^ -24, 2 ^ -25, 1.5 * 2 ^ -24, 3 * 2 ^ -25, -2 ^ -14, 1e-9 }
    local rounded = { 1, 1 + 2 ^ -9, 65504, 65504, inf, 2 ^ -24, 0, 2 ^ -23, 2 ^ -23, -2 ^ -14, 0 }
    assert.same(rounded, cast(cast(halves, "f32", "f16"), "f16", "f32"))
    local brains = { 1 + 2 ^ -8, 1 + 3 * 2 ^ -8, 3.4e38, 1e-40, -1.00390625 }
    assert.same({ 1, 1 + 2 ^ -6, inf, cast({ 1e-40 }, "f32", "bf16")[1], -1 }, cast(brains, "f32", "bf16"))
    for _, to in ipairs { "f64", "f32", "f16", "bf16" } do
      local t = cast({ nan, inf, -inf }, "f64", to)
      assert.is_true(t[1] ~= t[1])
      assert.same({ inf, -inf }, { t[2], t[3] })
    end
  end)

  it("of every f16 and bf16 to f32 and back are the identity, in vectors as one by one", function()
    for _, dtype in ipairs { "f16", "bf16" } do
      -- all finite values (of bf16 every fifth mantissa), made from their parts
      local exponents, mantissas = dtype == "f16" and 30 or 254, dtype == "f16" and 1024 or 128
      local low = dtype == "f16" and -24 or -133
      local values = {}
      for e = 0, exponents do
        for m = 0, mantissas - 1, dtype == "f16" and 1 or 5 do
          values[#values + 1] = (e == 0 and m or mantissas + m) * 2.0 ^ (low + math.max(e, 1) - 1)
        end
      end
      local exact = kava.tensor(values, { dtype = "f64" })
      local there = exact:to { dtype = "f32" }:to { dtype = dtype }
      assert.is_true(kava.allclose(there:to { dtype = "f32" }:to { dtype = "f64" }, exact, { rtol = 0, atol = 0 }))
      local n = there:numel() -- the same at lengths that end within a vector
      for _, cut in ipairs { 1, 3, 13, 1023 } do
        local part = there:narrow(1, n - cut + 1, cut):to { dtype = "f32" }
        assert.is_true(kava.allclose(part:to { dtype = "f64" }, exact:narrow(1, n - cut + 1, cut), { rtol = 0, atol = 0 }))
      end
      local noisy = kava.randn(1027)
      local vector, single = noisy:to { dtype = dtype }:totable(), {}
      for i = 1, 1027 do single[i] = noisy:narrow(1, i, 1):to({ dtype = dtype }):item() end
      assert.same(single, vector)
    end
  end)

  it("write their own elements and no others", function()
    for _, pair in ipairs { { "f32", "f16" }, { "f32", "bf16" }, { "f16", "f32" }, { "bf16", "f32" }, { "i64", "u8" }, { "f32", "f32" } } do
      for n = 1, 35 do
        local x = kava.full({ 3, 40 }, 7, { dtype = pair[2] })
        x:narrow(1, 2, 1):narrow(2, 3, n):copy_(kava.full({ 1, n }, 5, { dtype = pair[1] }))
        assert.equal(120 * 7 - 2 * n, x:sum():item())
        assert.equal(5 * n, x:narrow(1, 2, 1):narrow(2, 3, n):sum():item())
      end
    end
  end)

  it("to integers truncate and saturate; NaN is 0", function()
    assert.same({ 1, -1, 127, -128, 0, 127, -128 }, cast({ 1.9, -1.9, 300, -300, nan, inf, -inf }, "f32", "i8"))
    assert.same({ 0, 255, 0 }, cast({ -5, 1e9, nan }, "f64", "u8"))
    assert.same({ math.maxinteger, math.mininteger, 0 }, cast({ 1e300, -1e300, nan }, "f64", "i64"))
    assert.same({ 2147483647, -2147483648 }, cast({ 3e9, -3e9 }, "f32", "i32"))
    assert.same({ true, true, false, true }, cast({ 0.25, -1, 0, nan }, "f32", "bool"))
    assert.same({ math.maxinteger, math.mininteger }, cast({ math.maxinteger, math.mininteger }, "i64", "i64"))
  end)

  it("carry gradients between float types", function()
    local x = kava.randn({ 3, 2 }, { dtype = "f64" })
    gradcheck(function(t) return t:to { dtype = "f64" } * 2 end, { x }) -- cast to its own type is the tensor itself
    local leaf = kava.tensor({ 1, 2, 3 }, { dtype = "bf16", requires_grad = true })
    local y = (leaf:to { dtype = "f64" } * kava.tensor({ 3, 4, 5 }, { dtype = "f64" })):sum()
    y:backward()
    assert.same({ 3, 4, 5 }, leaf.grad:totable())
    assert.equal("f32", leaf.grad.dtype)
    assert.is_false(leaf:to({ dtype = "i32" }):requires_grad())
  end)

  it("are the tensor itself when there is nothing to do: contiguous and cast; clone is not", function()
    local x = kava.randn(2, 3)
    assert.is_true(x:to { dtype = "f32", device = "cpu" } == x) -- neither cast nor move
    assert.is_true(x:contiguous() == x)
    assert.is_false(x:clone() == x)
    local turned = x:transpose(1, 2)
    assert.is_false(turned:is_contiguous())
    assert.is_true(turned:contiguous():is_contiguous())
    assert.same(turned:totable(), turned:contiguous():totable())
  end)
end)

describe("copy_", function()
  it("writes any type and strides into any, broadcasting", function()
    local x = kava.zeros(2, 3)
    x:copy_(kava.tensor({ 1, 2, 3 }, { dtype = "i16" }))
    assert.same({ { 1, 2, 3 }, { 1, 2, 3 } }, x:totable())
    x:transpose(1, 2):copy_(kava.tensor({ { 1, 2 }, { 3, 4 }, { 5, 6 } }, { dtype = "f16" }):contiguous())
    assert.same({ { 1, 3, 5 }, { 2, 4, 6 } }, x:totable())
    x:narrow(2, 2, 2):copy_(kava.tensor { { 7, 8 }, { 9, 10 } })
    assert.same({ { 1, 7, 8 }, { 2, 9, 10 } }, x:totable())
    assert.same({ 5, 5, 5 }, kava.zeros(3):copy_(kava.tensor(5)):totable())
  end)

  it("is right for turned matrices of every size", function()
    for _, size in ipairs { { 1, 5 }, { 15, 17 }, { 16, 16 }, { 40, 33 }, { 100, 3 } } do
      local x = kava.arange(size[1] * size[2]):to({ dtype = "f32" }):reshape(size)
      local y = x:transpose(1, 2):contiguous()
      for i = 1, size[1], 7 do
        for j = 1, size[2] do assert.equal((i - 1) * size[2] + j - 1, y:narrow(1, j, 1):narrow(2, i, 1):item()) end
      end
      local deep = kava.randn(3, size[1], 2, size[2])
      assert.is_true(kava.allclose(deep:permute(4, 2, 1, 3):contiguous():permute(3, 2, 4, 1), deep, { rtol = 0, atol = 0 }))
    end
  end)

  it("copies overlapping parts of one tensor as if the source were apart", function()
    local x = kava.arange(6)
    x:narrow(1, 2, 5):copy_(x:narrow(1, 1, 5))
    assert.same({ 0, 0, 1, 2, 3, 4 }, x:totable())
  end)

  it("is allowed on a leaf that requires gradients, is never recorded, and not on recorded results", function()
    local x = kava.zeros(2, { requires_grad = true })
    x:copy_(kava.tensor { 1, 2 })
    assert.same({ 1, 2 }, x:totable())
    assert.is_true(x:requires_grad())
    local y = x * 2
    assert.error_matches(function() y:copy_(x) end, "copy_: the tensor is part of a recorded computation")
    assert.error_matches(function() y:fill_(1) end, "fill_: the tensor is part of a recorded computation")
    y:detach():fill_(1)
    assert.same({ 1, 1 }, y:totable())
  end)

  it("says what does not fit", function()
    assert.error_matches(function() kava.zeros(2, 3):copy_(kava.zeros(2)) end,
      "a source of shape %[2%] does not fit a destination of shape %[2, 3%]")
    assert.error_matches(function() kava.zeros(3):copy_(kava.zeros(1, 3)) end, "does not fit")
    assert.error_matches(function() kava.zeros(3):copy_(3) end, "kava.Tensor expected, got number")
  end)
end)

describe("a quantised tensor", function()
  local x = kava.randn(6, 4096)
  local q = kava.gguf.quantize(x, "q8_0")

  it("widens to any float type, in rows, slices and other shapes as it does whole", function()
    local wide = q:to { dtype = "f32" }
    local ok, most = kava.allclose(wide, x, { rtol = 0, atol = 0.03 }) -- half a step of 1/127 of the largest in a block
    assert.is_true(ok, most)
    assert.is_false(kava.allclose(wide, x, { rtol = 0, atol = 0 }))
    assert.is_true(kava.allclose(q:narrow(1, 3, 2):to { dtype = "f32" }, wide:narrow(1, 3, 2), { rtol = 0, atol = 0 }))
    assert.is_true(kava.allclose(q:select(1, 6):to { dtype = "f32" }, wide:select(1, 6), { rtol = 0, atol = 0 }))
    assert.is_true(kava.allclose(q:reshape(2, 3, 4096):to { dtype = "f32" }, wide:reshape(2, 3, 4096), { rtol = 0, atol = 0 }))
    assert.is_true(kava.allclose(q:to { dtype = "bf16" }, wide:to { dtype = "bf16" }, { rtol = 0, atol = 0 }))
    assert.is_true(kava.allclose(kava.zeros(6, 4096, { dtype = "f64" }):copy_(q), wide:to { dtype = "f64" }, { rtol = 0, atol = 0 }))
    local copy = q:clone()
    assert.equal("q8_0", copy.dtype)
    assert.is_true(kava.allclose(copy:to { dtype = "f32" }, wide, { rtol = 0, atol = 0 }))
  end)

  it("can be used for nothing else, and says so", function()
    assert.equal("kava.Tensor q8_0 [6, 4096] cpu", tostring(q))
    assert.error_matches(function() return q + 1 end, "q8_0; a quantised tensor must be converted first")
    assert.error_matches(function() return q:to({ dtype = "f32" }):to { dtype = "q4_0" } end, "kava.gguf.quantize makes")
    assert.error_matches(function() return q:sum() end, "q8_0; a quantised tensor must be converted first")
    assert.error_matches(function() return q:totable() end, "the tensor is q8_0; convert it first")
    assert.error_matches(function() return q:narrow(2, 1, 32) end, "only be cut along the first")
    assert.error_matches(function() return q:reshape(-1) end, "keeps its innermost dimension")
    assert.error_matches(function() return q:transpose(1, 2) end, "has a fixed order")
    assert.error_matches(function() return q:requires_grad(true) end, "a float tensor is expected")
    assert.error_matches(function() return q:zero_() end, "the tensor is q8_0")
    assert.error_matches(function() return kava.allclose(q, x) end, "plain types are expected")
    assert.error_matches(function() return kava.cat { q, q } end, "q8_0")
    assert.error_matches(function() return x:to { dtype = "q8_0" } end, "q8_0")
  end)
end)

local kava = require "kava"
local gradcheck = require "spec.gradcheck"

local f64 = { dtype = "f64" }
local function close(a, b, options)
  local ok, most, index = kava.allclose(a, b, options)
  assert.is_true(ok, ("%g apart at {%s}"):format(most, table.concat(index, ", ")))
end

-- The definition: products summed by broadcasting, in f64.
local function by_hand(a, b)
  a, b = a:to { dtype = "f64" }, b:to { dtype = "f64" }
  local m, k, n = a.shape[#a.shape - 1], a.shape[#a.shape], b.shape[#b.shape]
  local lead_a, lead_b = a.shape, b.shape
  local shape_a = { table.unpack(lead_a, 1, #lead_a - 2) }
  local shape_b = { table.unpack(lead_b, 1, #lead_b - 2) }
  for _, size in ipairs { m, k, 1 } do shape_a[#shape_a + 1] = size end
  for _, size in ipairs { 1, k, n } do shape_b[#shape_b + 1] = size end
  return (a:reshape(shape_a) * b:reshape(shape_b)):sum(-2)
end

local shapes = {
  { { 2, 3 }, { 3, 4 } }, { { 1, 1 }, { 1, 1 } }, { { 5, 2, 3 }, { 3, 4 } }, { { 5, 2, 3 }, { 5, 3, 4 } },
  { { 2, 1, 2, 3 }, { 4, 3, 2 } }, { { 3, 4 }, { 2, 2, 4, 3 } }, { { 2, 3, 1, 4 }, { 2, 1, 4, 2 } },
}

describe("matmul", function()
  before_each(function() kava.seed(2) end)

  it("is the sum of products, batched and broadcast", function()
    assert.same({ { 19, 22 }, { 43, 50 } }, kava.tensor({ { 1, 2 }, { 3, 4 } }):matmul(kava.tensor { { 5, 6 }, { 7, 8 } }):totable())
    for _, pair in ipairs(shapes) do
      local a, b = kava.randn(pair[1]), kava.randn(pair[2])
      close(a:matmul(b):to { dtype = "f64" }, by_hand(a, b), { rtol = 1e-5, atol = 1e-6 })
    end
    for _, size in ipairs { 17, 33, 65 } do
      local a, b = kava.randn(size, size + 3), kava.randn(size + 3, size - 1)
      close(a:matmul(b):to { dtype = "f64" }, by_hand(a, b), { rtol = 1e-4, atol = 1e-5 })
    end
  end)

  it("takes vectors", function()
    local v, m = kava.tensor { 1, 2, 3 }, kava.tensor { { 1, 0 }, { 0, 1 }, { 1, 1 } }
    assert.equal(14, v:matmul(v):item())
    assert.same({ 4, 5 }, v:matmul(m):totable())
    assert.same({ 4, 5 }, m:transpose(1, 2):matmul(v):totable())
    assert.same({ 4, 2 }, kava.randn(4, 2, 3):matmul(v).shape)
    assert.same({ 4, 2 }, v:matmul(kava.randn(4, 3, 2)).shape)
  end)

  it("reads transposed, narrowed and expanded operands as they are", function()
    local a, b = kava.randn(4, 6, 5), kava.randn(4, 7, 5)
    close(a:matmul(b:transpose(2, 3)), a:matmul(b:transpose(2, 3):contiguous()), { rtol = 1e-5, atol = 1e-5 })
    close(a:transpose(2, 3):matmul(a), a:transpose(2, 3):contiguous():matmul(a), { rtol = 1e-5, atol = 1e-5 })
    local n = a:narrow(3, 2, 3)
    close(n:matmul(n:transpose(2, 3)), n:contiguous():matmul(n:contiguous():transpose(2, 3)), { rtol = 1e-5, atol = 1e-5 })
    local p = kava.randn(2, 5, 3, 4):permute(1, 3, 2, 4) -- [2,3,5,4], heads taken out of rows
    close(p:matmul(p:transpose(3, 4)), p:contiguous():matmul(p:contiguous():transpose(3, 4)), { rtol = 1e-5, atol = 1e-5 })
    local e = kava.randn(1, 3, 4):expand(5, 3, 4)
    close(e:matmul(kava.ones(4, 2)), e:contiguous():matmul(kava.ones(4, 2)), { rtol = 1e-5, atol = 1e-6 })
    local square = kava.randn(3, 4, 4)
    for _, right in ipairs { kava.randn(4, 2), kava.randn(2, 4):transpose(1, 2), kava.randn(3, 4, 2) } do
      for _, left in ipairs { square, square:transpose(2, 3), square:permute(2, 1, 3):contiguous():permute(2, 1, 3) } do
        close(left:matmul(right):to { dtype = "f64" }, by_hand(left, right), { rtol = 1e-5, atol = 1e-5 })
      end
    end
    local s = kava.randn(6, 8):narrow(2, 1, 1):matmul(kava.ones(1, 3)) -- one column of many
    assert.same({ 6, 3 }, s.shape)
  end)

  it("has the gradients that finite differences say", function()
    for _, pair in ipairs(shapes) do
      gradcheck(function(a, b) return a:matmul(b) end, { kava.randn(pair[1], f64), kava.randn(pair[2], f64) })
    end
    gradcheck(function(a, b) return a:matmul(b) end, { kava.randn({ 3 }, f64), kava.randn({ 2, 3, 2 }, f64) })
    gradcheck(function(a, b) return a:matmul(b) end, { kava.randn({ 2, 2, 3 }, f64), kava.randn({ 3 }, f64) })
    gradcheck(function(a, b) return a:transpose(1, 2):matmul(b:transpose(2, 3)) end,
      { kava.randn({ 3, 2 }, f64), kava.randn({ 2, 4, 3 }, f64) })
  end)

  it("sums nothing to 0, and says what is wrong", function()
    assert.same({ { 0, 0 } }, kava.zeros(1, 0):matmul(kava.zeros(0, 2)):totable())
    assert.same({ 0, 4 }, kava.zeros(0, 3):matmul(kava.zeros(3, 4)).shape)
    assert.error_matches(function() kava.zeros(2, 3):matmul(kava.zeros(2, 3)) end, "matmul: %[2, 3%] times %[2, 3%]")
    assert.error_matches(function() kava.zeros(2, 2, 3):matmul(kava.zeros(4, 3, 2)) end, "do not broadcast")
    assert.error_matches(function() kava.tensor(1):matmul(kava.zeros(2)) end, "a scalar has no matrix product")
    assert.error_matches(function() kava.arange(3):matmul(kava.arange(3)) end, "the left operand is i64, a float tensor is expected")
  end)
end)

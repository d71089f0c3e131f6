local kava = require "kava"

local nan, inf = 0 / 0, math.huge

describe("allclose", function()
  it("says how far apart, and where", function()
    local a = kava.tensor { { 1, 2, 3 }, { 4, 5, 6 } }
    local b = a:clone()
    assert.is_true(kava.allclose(a, b))
    b:narrow(1, 2, 1):narrow(2, 3, 1):fill_(6.5)
    local ok, most, index = kava.allclose(a, b)
    assert.is_false(ok)
    assert.equal(0.5, most)
    assert.same({ 2, 3 }, index)
    assert.is_true(kava.allclose(a, b, { atol = 0.5, rtol = 0 }))
    assert.is_false(kava.allclose(a, b, { atol = 0.49, rtol = 0 }))
    assert.is_true(kava.allclose(a, b, { atol = 0, rtol = 0.08 })) -- 0.5 <= 0.08 * 6.5
    assert.is_false(kava.allclose(b, a, { atol = 0, rtol = 0.08 })) -- 0.5 > 0.08 * 6
    local _, _, scalar = kava.allclose(kava.tensor(1), kava.tensor(1))
    assert.same({}, scalar)
  end)

  it("finds one element among many, wherever it lies, with any number of threads", function()
    local threads = kava.threads()
    local n = 200003
    local a = kava.randn(n)
    for _, dtype in ipairs { "f32", "f64", "bf16" } do
      for _, count in ipairs { 1, 3 } do
        kava.threads(count)
        for _, at in ipairs { 1, 65536, 65537, 131071, n } do
          local x = a:to { dtype = dtype }
          local y = x:clone()
          y:narrow(1, at, 1):fill_(20)
          local ok, most, index = kava.allclose(x, y)
          assert.is_false(ok)
          assert.same({ at }, index)
          assert.near(math.abs(20 - x:narrow(1, at, 1):item()), most, 1e-9)
        end
      end
    end
    kava.threads(threads)
  end)

  it("a NaN equals nothing; equal infinities are equal", function()
    for _, n in ipairs { 1, 20, 70000 } do
      local a = kava.zeros(n)
      local b = a:clone()
      b:narrow(1, n, 1):fill_(nan)
      for _, pair in ipairs { { a, b }, { b, a }, { b, b } } do
        local ok, most, index = kava.allclose(pair[1], pair[2], { atol = inf })
        assert.is_false(ok)
        assert.equal(inf, most)
        assert.same({ n }, index)
      end
      b:narrow(1, n, 1):fill_(inf)
      assert.is_true(kava.allclose(b, b))
      local ok, most = kava.allclose(a, b)
      assert.is_false(ok)
      assert.equal(inf, most)
    end
    assert.is_false(kava.allclose(kava.tensor { inf }, kava.tensor { -inf }))
  end)

  it("compares any plain types and strides", function()
    for _, x in ipairs { "f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8" } do
      for _, y in ipairs { "f32", "u8", "i64" } do
        local a, b = kava.tensor({ { 1, 2 }, { 3, 4 } }, { dtype = x }), kava.tensor({ { 1, 3 }, { 2, 4 } }, { dtype = y })
        assert.is_true(kava.allclose(a, b:transpose(1, 2)))
        local ok, most, index = kava.allclose(a, b)
        assert.is_false(ok)
        assert.equal(1, most)
        assert.same({ 1, 2 }, index)
      end
    end
    assert.is_true(kava.allclose(kava.zeros(0, 2), kava.zeros(0, 2)))
  end)

  it("raises where shapes differ or arguments are none", function()
    assert.error_matches(function() kava.allclose(kava.zeros(2), kava.zeros(3)) end, "allclose: shapes %[2%] and %[3%] differ")
    assert.error_matches(function() kava.allclose(kava.zeros(2), 3) end, "kava.Tensor expected, got number")
    assert.error_matches(function() kava.allclose(kava.zeros(2), kava.zeros(2), { tol = 1 }) end, "unknown key 'tol'")
  end)
end)

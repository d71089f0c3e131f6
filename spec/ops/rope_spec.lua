-- rope: the rotation, its gradient, positions, partial rotation.
local kava = require "kava"
local agree = require "spec.agree"
local gradcheck = require "spec.gradcheck"
local starve = require "spec.starve"

local function f64(...) return kava.randn({ ... }, { dtype = "f64" }) end
local function frequencies(half, base)
  local list = {}
  for j = 0, half - 1 do list[j + 1] = base ^ (-j / half) end
  return kava.tensor(list, { dtype = "f64" })
end

describe("rope", function()
  before_each(function() kava.seed(12) end)

  it("rotates the pair (j, j + R/2) by position * inv_freq[j] and keeps what lies beyond R", function()
    local x = kava.tensor({ 1, 2, 3, 4, 5, 1, 2, 3, 4, 5 }, { shape = { 1, 2, 1, 5 }, dtype = "f64" })
    local y = kava.rope(x, kava.tensor({ 0.5, 0.25 }, { dtype = "f64" }), kava.tensor({ { 0, 3 } }, { dtype = "i32" }), 2):totable()[1]
    assert.same({ 2, 4, 6, 8, 5 }, y[1][1])
    local c, s = 2 * math.cos(1.5), 2 * math.sin(1.5)
    assert.near(1 * c - 3 * s, y[2][1][1], 1e-12)
    assert.near(3 * c + 1 * s, y[2][1][3], 1e-12)
    c, s = 2 * math.cos(0.75), 2 * math.sin(0.75)
    assert.near(2 * c - 4 * s, y[2][1][2], 1e-12)
    assert.near(4 * c + 2 * s, y[2][1][4], 1e-12)
    assert.equal(5, y[2][1][5])
  end)

  it("counts from 0 without positions, in every row", function()
    local x, freq = kava.randn { 2, 5, 3, 8 }, frequencies(4, 1e4)
    local positions = kava.tensor({ { 0, 1, 2, 3, 4 }, { 0, 1, 2, 3, 4 } }, { dtype = "i64" })
    assert.is_true(kava.allclose(kava.rope(x, freq), kava.rope(x, freq, positions), { rtol = 0, atol = 0 }))
  end)

  it("rotates (rotate) under the decoder, with angles made once for all layers, as kava.rope does", function()
    local m = kava.model.create({ model_type = "llama", vocab_size = 11, hidden_size = 8, intermediate_size = 8, num_hidden_layers = 2,
      num_attention_heads = 2, num_key_value_heads = 1, rms_norm_eps = 1e-6, rope_theta = 100 })
    local out = m:forward { input_ids = kava.tensor({ { 1, 2, 3 }, { 4, 5, 6 } }, { dtype = "i64" }) }
    local freq = frequencies(2, 100):to { dtype = "f32" }
    for i = 1, 2 do
      local before = out.kv:keys(i, { rope = "pre" }):permute(1, 3, 2, 4)
      assert.is_true(kava.allclose(kava.rope(before, freq):permute(1, 3, 2, 4), out.kv:keys(i), { rtol = 0, atol = 1e-6 }))
    end
  end)

  it("makes products depend on the distance alone", function()
    local freq, q, k = frequencies(4, 1e4), f64(1, 1, 1, 8), f64(1, 1, 1, 8)
    local function product(i, j)
      local function at(p) return kava.tensor({ { p } }, { dtype = "i32" }) end
      return (kava.rope(q, freq, at(i)) * kava.rope(k, freq, at(j))):sum():item()
    end
    assert.near(product(3, 1), product(1003, 1001), 1e-10)
  end)

  it("has the gradients that finite differences have", function()
    local positions = kava.tensor({ { 0, 7, 2 }, { 5, 5, 9 } }, { dtype = "i32" })
    gradcheck(function(x) return kava.rope(x, frequencies(2, 100), positions, 1.25) end, { f64(2, 3, 2, 7) })
    gradcheck(function(x) return kava.rope(x:permute(1, 3, 2, 4), frequencies(3, 100)) end, { f64(2, 3, 2, 6) })
  end)

  for _, case in ipairs { { 2, 1 }, { 8, 4 }, { 64, 32 }, { 66, 33 }, { 128, 20 } } do
    it(("is the same in f32 and f64, for any number of threads: D=%d, R=%d"):format(case[1], 2 * case[2]), function()
      agree(function(x) return kava.rope(x, frequencies(case[2], 1e6)) end, { f64(2, 33, 3, case[1]) })
    end)
  end

  it("names what is wrong", function()
    local x = kava.randn { 2, 3, 2, 8 }
    assert.has_error(function() kava.rope(kava.randn { 3, 8 }, frequencies(4, 10)) end, "rope: x is [3, 8]; [B, T, H, D] expected")
    assert.has_error(function() kava.rope(x, frequencies(5, 10)) end)
    assert.has_error(function() kava.rope(x, frequencies(4, 10), kava.zeros({ 2, 4 }, { dtype = "i32" })) end,
      "rope: positions is [2, 4]; [2, 3] expected")
    assert.has_error(function() kava.rope(x, frequencies(4, 10), kava.zeros { 2, 3 }) end)
  end)

  it("comes back from every failed allocation", function()
    local x, freq = kava.randn({ 2, 3, 2, 8 }):requires_grad(true), frequencies(4, 10)
    kava.rope(x, freq) -- the last table is kept: its allocation may fail in silence
    assert.is_true(starve(function()
      kava.rope(x, freq):sum():backward()
    end, function() x.grad = nil end) > 5)
  end)
end)

local kava = require "kava"
local helper = require "spec.helper"
local quantize = kava.gguf.quantize

-- The bytes of a quantised tensor, by way of a file whose last 32-aligned section they are.
local function bytes_of(t, count)
  local path = helper.tmp() .. "/q.gguf"
  assert(kava.gguf.save(path, { t = t }))
  local text = helper.read(path)
  return text:sub(-(count + -count % 32), -(-count % 32) - 1)
end

local function hex(bytes) return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

describe("quantise", function()
  it("gives the blocks that gguf-py 0.10's own quantisers give", function()
    local values = {}
    for i = 0, 63 do values[i + 1] = (i * 7919 % 1000 - 500) / 137 end
    local x = kava.tensor { values }
    for dtype, want in pairs {
      q4_0 = "4d37b0af9d7c6b5a382716f4e3d2c0af9e8d41372705f4e3d1b0af9d7c6b5a482716f4e3",
      q4_1 = "97374dc3b0ae8d7c6a59382715f4e3d2b0af9d8c973741c32605f4d2c1b0ae8d7c6a59382715f4e3",
      q8_0 = "5b27816a56412d1804efdac6b19d88725d48341f0bf6e2cdb8a48f7964503b26"
        .. "12fd5027e8d4bfaa96816c57422e1904f0dbc6b29d88735e4a35200bf7e2cdb9a48f7a65",
    } do
      assert.equal(want, hex(bytes_of(quantize(x, dtype), #want // 2)))
    end
  end)

  it("is exact where the values are the type's own", function()
    local four, eight = {}, {}
    for i = 1, 32 do
      four[i] = (i * 7) % 16 - 8
      eight[i] = (i * 37) % 255 - 127
    end
    eight[5] = 127
    for dtype, values in pairs { q4_0 = four, q4_1 = four, q8_0 = eight } do
      local x = kava.tensor { values }
      assert.same(x:totable(), quantize(x, dtype):to({ dtype = "f32" }):totable())
    end
    for _, dtype in ipairs { "q4_0", "q4_1", "q8_0" } do
      assert.same(kava.zeros({ 2, 32 }):totable(), quantize(kava.zeros { 2, 32 }, dtype):to({ dtype = "f32" }):totable())
      assert.same({ 0, 32 }, quantize(kava.zeros { 0, 32 }, dtype).shape)
    end
  end)

  it("errs by half a step and the rounding of the scales", function()
    kava.seed(5)
    local x = kava.randn { 64, 256 }
    -- Largest step a block of N(0,1) values has here: 2 * 4.5 / 15 and 4.5 / 8, 4.5 / 127; q4_0's far end may be off by a whole step.
    for dtype, most in pairs { q4_0 = 0.58, q4_1 = 0.32, q8_0 = 0.019 } do
      local error = (quantize(x, dtype):to { dtype = "f32" } - x):abs()
      assert.truthy(error:max():item() < most, dtype .. " " .. error:max():item())
      assert.truthy(error:mean():item() > most / 40)
    end
  end)

  it("takes any float type and any strides, on any number of threads", function()
    local x = kava.randn { 64, 48 }
    local turned = x:permute(2, 1)
    local want = quantize(turned:contiguous(), "q8_0"):to { dtype = "f32" }
    assert.is_true(kava.allclose(quantize(turned, "q8_0"):to { dtype = "f32" }, want, { rtol = 0, atol = 0 }))
    assert.is_true(kava.allclose(quantize(turned:to { dtype = "f64" }, "q8_0"):to { dtype = "f32" }, want, { rtol = 0, atol = 0 }))
    local big, threads = kava.randn { 1024, 256 }, kava.threads()
    local many = quantize(big, "q4_1")
    kava.threads(1)
    local one = quantize(big, "q4_1")
    kava.threads(threads)
    assert.is_true(kava.allclose(one:to { dtype = "f32" }, many:to { dtype = "f32" }, { rtol = 0, atol = 0 }))
  end)

  it("refuses what it cannot do", function()
    assert.has_error(function() quantize(kava.ones { 33 }, "q4_0") end)
    assert.has_error(function() quantize(kava.ones { 256 }, "q4_k") end)
    assert.has_error(function() quantize(kava.ones { 32 }, "f16") end)
    assert.has_error(function() quantize(kava.zeros({ 32 }, { dtype = "i32" }), "q8_0") end)
    assert.has_error(function() quantize(kava.full({ 32 }, math.huge), "q8_0") end)
    assert.has_error(function() quantize(kava.full({ 32 }, 0 / 0), "q8_0") end)
  end)
end)

describe("encode", function()
  local encode, parts = kava.quant.encode, kava.quant.parts

  it("errs as much as its steps", function()
    kava.seed(5)
    for _, shape in ipairs { { 64, 256 }, { 130, 200 } } do
      local x = kava.randn(shape)
      local size = (x * x):mean():item() ^ 0.5
      -- relative RMS of N(0, 1), as measured elsewhere: nf4 9.2 %, int8 a row 0.8 %, fp8 2.6 %
      for method, want in pairs { nf4 = 0.092, ["nf4-dq"] = 0.092, int8 = 0.0075, fp8 = 0.0265, ["fp8-rows"] = 0.0265 } do
        local error = encode(x, method):to { dtype = "f32" } - x
        local rms = (error * error):mean():item() ^ 0.5 / size
        assert.is_true(math.abs(rms / want - 1) < 0.12, ("%s: %g"):format(method, rms))
      end
    end
  end)

  it("is exact for a code's own values, and keeps zeros", function()
    local row = { 0.0, 448, -448, 2.0 ^ -9, 2.0 ^ -6, 1.75, -0.0703125, 240 }
    assert.same({ row }, encode(kava.tensor { row }, "fp8"):to({ dtype = "f32" }):totable())
    local whole = {}
    for i = 1, 64 do whole[i] = i * 4 - 129 - (i == 64 and 0 or 0) end
    whole[64], whole[1] = 127, -127
    assert.same({ whole }, encode(kava.tensor { whole }, "int8"):to({ dtype = "f32" }):totable())
    for _, method in ipairs { "nf4", "nf4-dq", "int8", "fp8", "fp8-rows" } do
      assert.equal(0, encode(kava.zeros { 3, 70 }, method):to({ dtype = "f32" }):abs():max():item())
    end
  end)

  it("makes nothing of what is next to nothing", function()
    local x = kava.tensor { { 0, 1e-40, -1e-42, 0 }, { 2.0 ^ -120, 0, 0, 0 } }
    for _, method in ipairs { "nf4", "nf4-dq", "int8", "fp8", "fp8-rows" } do
      local y = encode(x, method):to { dtype = "f32" }
      assert.is_true((y - x):abs():max():item() <= 2.0 ^ -120, method) -- and is not NaN
    end
  end)

  it("rounds halves to the even code", function()
    local x = kava.tensor { { 448, 17, 19, -17, 2.0 ^ -10, 3 * 2.0 ^ -10 } } -- 16 18 20 are neighbours, as are 0 2^-9 2^-8
    assert.same({ { 448, 16, 20, -16, 0, 2.0 ^ -8 } }, encode(x, "fp8"):to({ dtype = "f32" }):totable())
  end)

  it("gives the same codes on any number of threads", function()
    local x, threads = kava.randn { 300, 512 }, kava.threads()
    for _, method in ipairs { "nf4", "nf4-dq", "int8", "fp8", "fp8-rows" } do
      local many = encode(x, method)
      kava.threads(1)
      local one = encode(x, method)
      kava.threads(threads)
      assert.same(parts(one).codes:totable(), parts(many).codes:totable())
    end
  end)

  it("refuses what it cannot do", function()
    assert.error_matches(function() encode(kava.ones { 2, 3 }, "nf4") end, "an even number expected")
    assert.error_matches(function() encode(kava.ones { 4 }, "int8") end, "a float matrix expected")
    assert.error_matches(function() encode(kava.zeros({ 2, 2 }, { dtype = "i64" }), "fp8") end, "a float matrix expected")
    assert.error_matches(function() encode(kava.full({ 2, 2 }, math.huge), "fp8") end, "is inf")
    assert.error_matches(function() encode(kava.ones { 2, 2 }, "int4") end, "nf4, nf4%-dq, int8, fp8 or fp8%-rows expected")
  end)
end)

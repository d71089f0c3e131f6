-- rms_norm and layer_norm.
local kava = require "kava"
local agree = require "spec.agree"
local gradcheck = require "spec.gradcheck"
local starve = require "spec.starve"

local function f64(...) return kava.randn({ ... }, { dtype = "f64" }) end

describe("norm", function()
  before_each(function() kava.seed(11) end)

  it("computes rms_norm and layer_norm as written", function()
    local x = kava.tensor { { 3, 4 }, { 0, 0 } }
    local y = kava.rms_norm(x, kava.tensor { 1, 2 }, 0.5):totable()
    local s = 1 / math.sqrt(12.5 + 0.5)
    assert.near(3 * s, y[1][1], 1e-6)
    assert.near(8 * s, y[1][2], 1e-6)
    assert.same({ 0, 0 }, y[2])
    y = kava.layer_norm(x, kava.tensor { 1, 2 }, kava.tensor { 10, 20 }, 0):narrow(1, 1, 1):totable()[1]
    assert.near(10 - 1, y[1], 1e-6)
    assert.near(20 + 2, y[2], 1e-6)
  end)

  it("has the gradients that finite differences have", function()
    gradcheck(function(x, w) return kava.rms_norm(x, w, 1e-5) end, { f64(2, 3, 7), f64(7) })
    gradcheck(function(x, w, b) return kava.layer_norm(x, w, b, 1e-5) end, { f64(2, 3, 7), f64(7), f64(7) })
    gradcheck(function(x) return kava.rms_norm(x, x, 1e-5) end, { f64(5) })
    gradcheck(function(x) return kava.layer_norm(x, x, x, 1e-5) end, { f64(5) })
    gradcheck(function(x) return kava.rms_norm(x, nil, 1e-5) end, { f64(4, 5) })
    gradcheck(function(x) return kava.layer_norm(x, nil, nil, 1e-5) end, { f64(4, 5) })
    gradcheck(function(x) return kava.rms_norm(x:permute(2, 1), nil, 1e-5) end, { f64(4, 5) })
  end)

  for _, width in ipairs { 1, 7, 16, 65, 576, 1023 } do
    it("is the same in f32 and f64, for any number of threads: width " .. width, function()
      local rows = width == 576 and 1100 or 37 -- more rows than 1024 make larger blocks
      agree(function(x, w) return kava.rms_norm(x, w, 1e-6) end, { f64(rows, width), f64(width) }, 5e-6)
      -- a row of one element is its own mean: layer norm gives 0 there, and only its bias has a gradient worth a comparison
      if width > 1 then
        agree(function(x, w, b) return kava.layer_norm(x, w, b, 1e-5) end, { f64(rows, width), f64(width), f64(width) }, 5e-6)
      end
    end)
  end

  it("takes bf16 weights, with gradients in f32", function()
    local x, w = kava.randn { 3, 8 }, kava.randn({ 8 }):to({ dtype = "bf16" }):detach():requires_grad(true)
    local y = kava.rms_norm(x, w)
    assert.is_true(kava.allclose(y, kava.rms_norm(x, w:to { dtype = "f32" }), { rtol = 0, atol = 0 }))
    y:sum():backward()
    assert.equal("f32", w.grad.dtype)
  end)

  it("hands NaN on", function()
    local x = kava.ones { 2, 20 }
    x:narrow(1, 1, 1):narrow(2, 3, 1):fill_(0 / 0)
    local y = kava.rms_norm(x):totable()
    assert.is_true(y[1][1] ~= y[1][1] and y[2][1] == y[2][1])
  end)

  it("names what is wrong", function()
    local x = kava.randn { 2, 4 }
    assert.has_error(function() kava.rms_norm(x, kava.randn { 5 }) end, "rms_norm: weight is [5]; [4] expected")
    assert.has_error(function() kava.layer_norm(x, kava.randn { 4 }, kava.randn { 2, 4 }) end, "layer_norm: bias is [2, 4]; [4] expected")
    assert.has_error(function() kava.rms_norm(x, kava.randn({ 4 }, { dtype = "f64" })) end)
    assert.has_error(function() kava.rms_norm(kava.arange(4)) end)
    assert.has_error(function() kava.rms_norm(x, nil, -1) end)
  end)

  it("comes back from every failed allocation", function()
    local x, w = kava.randn { 40, 8 }, kava.randn({ 8 }):requires_grad(true)
    x:requires_grad(true)
    assert.is_true(starve(function()
      kava.layer_norm(x:permute(2, 1):permute(2, 1), w, w):sum():backward()
    end, function() x.grad, w.grad = nil, nil end) > 5)
  end)
end)

local kava = require "kava"
require "spec.helper"

local function parameters(dtype, inputs, outputs)
  local function p(shape, shift) return (kava.randn(shape, { dtype = dtype }) * 0.3 + (shift or 0)):detach():requires_grad(true) end
  return { p({ inputs }, 1), p { inputs }, p { outputs, inputs }, p { outputs } }
end

local function gradients(list)
  local out = {}
  for i, t in ipairs(list) do
    out[i] = t.grad:clone()
    t.grad = nil
  end
  return out
end

describe("norm_linear", function()
  after_each(function() kava.matmul_precision "f32" end)

  for _, case in ipairs { { "f64", 7, 5, 3, 1e-11 }, { "f64", 40, 33, 600, 1e-10 }, { "f32", 64, 130, 300, 2e-5 },
    { "f32", 10, 17, 2100, 2e-5 }, { "f32", 10, 17, 2100, 1e-2, "bf16" } } do -- gradients of 1024 rows of w at a time
    local dtype, rows, inputs, outputs, tolerance, precision = table.unpack(case)
    it(("equals linear(layer_norm(x)) and its gradients: %s %d x %d -> %d"):format(precision or dtype, rows, inputs, outputs), function()
      kava.matmul_precision(precision or "f32")
      kava.seed(3)
      local x = kava.randn({ 2, rows // 2, inputs }, { dtype = dtype })
      local p = parameters(dtype, inputs, outputs)
      local weight = kava.randn({ 2, rows // 2, outputs }, { dtype = dtype })
      local plain = kava.linear(kava.layer_norm(x, p[1], p[2], 1e-5), p[3], p[4])
      ;(plain * weight):sum():backward()
      local expected = gradients(p)
      for pass = 1, 2 do -- the second pass adds to the first one's gradients
        local fused = kava.norm_linear(x, p[1], p[2], p[3], p[4], 1e-5)
        assert.is_true(kava.allclose(fused, plain, { rtol = tolerance, atol = tolerance }))
        ;(fused * weight):sum():backward()
        for i, t in ipairs(p) do
          local scale = expected[i]:abs():max():item() * pass
          local _, d = kava.allclose(t.grad, expected[i] * pass, { rtol = 0, atol = 0 })
          assert.is_true(d <= tolerance * 10 * scale, ("parameter %d differs by %g of %g"):format(i, d, scale))
        end
      end
    end)
  end

  it("goes back in the precision in which it went forward", function()
    kava.seed(3)
    local x, p = kava.randn { 2, 10, 17 }, parameters("f32", 17, 300)
    local function taught(later)
      kava.matmul_precision "bf16"
      local y = kava.norm_linear(x, p[1], p[2], p[3], p[4], 1e-5)
      kava.matmul_precision(later)
      ;(y * y):sum():backward()
      return gradients(p)
    end
    local expected, other = taught "bf16", taught "f32"
    for i = 1, 4 do assert.is_true((kava.allclose(other[i], expected[i], { rtol = 0, atol = 0 })), "parameter " .. i) end
  end)

  it("takes parameters that are results themselves, and refuses to go back over those written to", function()
    kava.seed(5)
    local x, p, doubled = kava.randn({ 4, 6 }, { dtype = "f64" }), parameters("f64", 6, 3), {}
    for i, t in ipairs(p) do doubled[i] = t * 2 end
    kava.linear(kava.layer_norm(x, doubled[1], doubled[2], 1e-5), doubled[3], doubled[4]):sum():backward()
    local expected = gradients(p)
    for i, t in ipairs(p) do
      t.grad = nil
      doubled[i] = t * 2
    end
    local y = kava.norm_linear(x, doubled[1], doubled[2], doubled[3], doubled[4], 1e-5):sum()
    doubled = nil -- luacheck: ignore 311
    collectgarbage()
    y:backward()
    for i, t in ipairs(p) do assert.is_true((kava.allclose(t.grad, expected[i], { rtol = 1e-11, atol = 1e-11 }))) end

    local late = kava.norm_linear(x, p[1], p[2], p[3], p[4], 1e-5):sum()
    kava.no_grad(function() p[3]:fill_(1) end)
    assert.has_error(function() late:backward() end, "backward(): a tensor that norm_linear needs was written to after the forward pass")
  end)

  it("gives x a gradient where x wants one", function()
    kava.seed(4)
    local x = kava.randn({ 4, 6 }, { dtype = "f64" }):requires_grad(true)
    local p = parameters("f64", 6, 3)
    kava.norm_linear(x, p[1], p[2], p[3], p[4]):sum():backward()
    assert.same({ 4, 6 }, x.grad.shape)
  end)
end)

-- linear: values, gradients, weights of every type, odd sizes, bf16 products, instruction sets.
local kava = require "kava"
local agree = require "spec.agree"
local gradcheck = require "spec.gradcheck"
local program = require "spec.program"
local starve = require "spec.starve"

local function f64(...) return kava.randn({ ... }, { dtype = "f64" }) end
local function rounded(t) return t:to({ dtype = "bf16" }):to { dtype = "f64" } end
local function off(a, b)
  local _, most = kava.allclose(a:to { dtype = "f64" }, b:to { dtype = "f64" }, { rtol = 0, atol = 0 })
  return most
end

describe("linear", function()
  before_each(function() kava.seed(21) end)
  after_each(function() kava.matmul_precision "f32" end)

  it("is x w^T + bias", function()
    local x, w = kava.tensor { { 1, 2, 3 }, { 4, 5, 6 } }, kava.tensor { { 1, 0, -1 }, { 2, 2, 2 } }
    assert.same({ { -2, 12 }, { -2, 30 } }, kava.linear(x, w):totable())
    assert.same({ { -1.5, 13 }, { -1.5, 31 } }, kava.linear(x, w, kava.tensor { 0.5, 1 }):totable())
    local residual = kava.tensor { { 1, 2 }, { 3, 4 } }
    assert.same({ { -1, 14 }, { 1, 34 } }, kava.linear(x, w, nil, residual):totable())
    assert.same({ { -0.5, 15 }, { 1.5, 35 } }, kava.linear(x, w, kava.tensor { 0.5, 1 }, residual):totable())
  end)

  it("has the gradients that finite differences have, of strided operands too", function()
    gradcheck(kava.linear, { f64(2, 3, 5), f64(4, 5), f64(4) })
    gradcheck(kava.linear, { f64(2, 3, 5), f64(4, 5), f64(4), f64(2, 3, 4) }) -- linear_added
    gradcheck(function(x, w) return kava.linear(x, w, nil, x) end, { f64(3, 5), f64(5, 5) })
    gradcheck(function(x, w, b) return kava.linear(x:permute(2, 1), w:permute(2, 1), b) end, { f64(5, 3), f64(5, 2), f64(2) })
  end)

  -- leaves that lie behind one another
  local function cut(whole, ...)
    local list, first = {}, 1
    for i, rows in ipairs { ... } do
      list[i] = whole:detach():narrow(1, first, rows)
      first = first + rows
    end
    return list
  end

  -- the gradients of x, the weights and the biases, where `trained` says so, of a loss that does not use every y alike
  local function gradients(joined, trained, used, twice)
    kava.seed(4)
    local x, w, b = f64(2, 3, 5):requires_grad(true), f64(9, 5), f64(9)
    local ws, bs = cut(w, 4, 2, 3), cut(b, 4, 2, 3)
    for i = 1, 3 do
      ws[i]:requires_grad(trained[i])
      bs[i]:requires_grad(trained[i])
    end
    for _ = 1, twice and 2 or 1 do
      local ys = joined and { kava.linear_joined(x, ws, bs) } or {}
      local loss
      for i, factor in pairs(used) do
        local y = ys[i] or kava.linear(x, ws[i], bs[i])
        local term = (y * y):sum() * factor + y:sum()
        loss = loss and loss + term or term
      end
      loss:backward()
    end
    return { x.grad, ws[1].grad or false, ws[2].grad or false, ws[3].grad or false, bs[1].grad or false, bs[2].grad or false,
      bs[3].grad or false }
  end

  it("gives several layers of one x at once: linear_joined", function()
    for _, trained in ipairs { { true, true, true }, { false, true, false }, { false, false, false } } do
      for _, used in ipairs { { 1, 2, 3 }, { 1, nil, 3 }, { nil, 2 } } do
        for _, twice in ipairs { false, true } do
          local expected, got = gradients(false, trained, used, twice), gradients(true, trained, used, twice)
          for i = 1, 7 do
            if expected[i] then assert.is_true(off(expected[i], got[i]) < 1e-12, "gradient " .. i)
            else assert.is_true(not got[i] or got[i]:abs():max():item() == 0, "gradient " .. i) end
          end
        end
      end
    end
    local w = f64(4, 5)
    assert.error_matches(function() kava.linear_joined(f64(2, 5), { w, f64(3, 5) }) end, "do not lie behind one another")
    assert.error_matches(function() kava.linear_joined(f64(2, 5), cut(w, 1, 1, 1, 1), cut(f64(4), 2, 2)) end, "as many biases")
  end)

  it("agrees with f64 at odd sizes, whatever the threads", function()
    for _, rows in ipairs { 1, 3, 9, 17, 65 } do
      for _, size in ipairs { { 1, 1 }, { 17, 5 }, { 33, 40 }, { 450, 129 } } do
        agree(kava.linear, { f64(rows, size[1]), f64(size[2], size[1]), f64(size[2]) }, 1e-5)
      end
    end
    agree(kava.linear, { f64(3, 100, 64), f64(600, 64), f64(600) }, 1e-5)
  end)

  it("agrees with f64 over a long sum, which BLAS does", function()
    -- 2100 products of order 1: 2100 roundings of a sum of order sqrt(2100)
    agree(kava.linear, { f64(270, 2100), f64(35, 2100), f64(35) }, 2e-4)
    agree(kava.linear, { f64(270, 35), f64(2100, 35), f64(2100) }, 2e-4)
  end)

  it("gives what the widened weight gives, for every type of weight", function()
    for _, dtype in ipairs { "f16", "bf16", "q8_0", "q4_0", "q4_1" } do
      for _, rows in ipairs { 1, 7, 40 } do
        local plain = kava.randn { 37, 96 }
        local w = dtype:sub(1, 1) == "q" and kava.gguf.quantize(plain, dtype) or plain:to { dtype = dtype }
        local wide = w:to { dtype = "f64" }
        local x = kava.randn({ rows, 96 }):requires_grad(true)
        for _, precision in ipairs { "f32", "bf16" } do
          kava.matmul_precision(precision)
          local bf16 = precision == "bf16"
          local y = kava.linear(x, w)
          local x64, w64 = x:detach():to { dtype = "f64" }, bf16 and rounded(wide) or wide
          local expected = (bf16 and rounded(x64) or x64):matmul(w64:permute(2, 1))
          -- 96 products of order 1 summed in f32: 96 * 2^-24 and a little
          assert.is_true(off(y, expected) < 2e-5, dtype .. " forward: " .. off(y, expected))
          local dy = f64(rows, 37)
          x.grad = nil
          ;(y * dy:to { dtype = "f32" }):sum():backward()
          assert.is_true(off(x.grad, (bf16 and rounded(dy) or dy):matmul(w64)) < 2e-5, dtype .. " backward")
        end
      end
    end
  end)

  it("rounds operands of products to bf16 and nothing else", function()
    for _, size in ipairs { { 1, 8, 3 }, { 3, 17, 5 }, { 17, 33, 40 }, { 65, 130, 70 }, { 70, 600, 33 } } do
      local rows, inputs, outputs = table.unpack(size)
      local x, w, b = kava.randn { rows, inputs }, kava.randn { outputs, inputs }, kava.randn { outputs }
      for _, t in ipairs { x, w, b } do t:requires_grad(true) end
      kava.matmul_precision "bf16"
      local y = kava.linear(x, w, b)
      kava.matmul_precision "f32" -- the backward pass does as its forward pass did
      local dy = kava.randn { rows, outputs }
      ;(y * dy):sum():backward()
      local X, W, G = rounded(x:detach()), rounded(w:detach()), rounded(dy)
      local limit = 3e-6 * math.sqrt(inputs + rows + outputs) -- f32 sums of products of order 1, in any order
      assert.is_true(off(y, X:matmul(W:permute(2, 1)) + b:detach():to { dtype = "f64" }) < limit)
      assert.is_true(off(x.grad, G:matmul(W)) < limit)
      assert.is_true(off(w.grad, G:permute(2, 1):matmul(X)) < limit)
      assert.is_true(off(b.grad, dy:to({ dtype = "f64" }):sum(1)) < limit)
    end
  end)

  it("keeps NaN and infinity in bf16 products", function()
    kava.matmul_precision "bf16"
    local x = kava.ones { 20, 40 }
    x:narrow(1, 3, 1):narrow(2, 5, 1):fill_(0 / 0)
    x:narrow(1, 4, 1):narrow(2, 5, 1):fill_(math.huge)
    local y = kava.linear(x, kava.ones { 2, 40 }):totable()
    assert.is_true(y[3][1] ~= y[3][1])
    assert.equal(math.huge, y[4][2])
    assert.equal(40, y[5][1])
  end)

  it("adds to a gradient that is there", function()
    local w = kava.randn({ 9, 20 }):requires_grad(true)
    local x = kava.randn { 30, 20 }
    kava.linear(x, w):sum():backward()
    local once = w.grad:clone()
    kava.linear(x, w):sum():backward()
    assert.is_true(off(w.grad, once * 2) < 1e-4)
  end)

  it("sees a weight that was written in place", function()
    for _, precision in ipairs { "f32", "bf16" } do
      kava.matmul_precision(precision)
      local x, w = kava.ones { 40, 64 }, kava.ones { 32, 64 }
      assert.equal(64, kava.linear(x, w):max():item())
      w:fill_(2)
      assert.equal(128, kava.linear(x, w):max():item())
    end
  end)

  it("passes on empty batches", function()
    local w = kava.randn({ 3, 4 }):requires_grad(true)
    local y = kava.linear(kava.zeros { 0, 4 }, w)
    assert.same({ 0, 3 }, y.shape)
    y:sum():backward()
    assert.equal(0, w.grad:abs():max():item())
  end)

  it("does the same on lesser instruction sets", function()
    local code = [[
      local kava = require "kava"
      kava.seed(1)
      for _, precision in ipairs { "f32", "bf16" } do
        kava.matmul_precision(precision)
        for _, s in ipairs { { 1, 17, 5 }, { 35, 100, 70 }, { 130, 33, 64 } } do
          local x, w = kava.randn({ s[1], s[2] }):requires_grad(true), kava.randn({ s[3], s[2] }):requires_grad(true)
          local y = kava.linear(x, w)
          ;(y * y):sum():backward()
          print(("%.5g %.5g %.5g"):format(y:norm():item(), x.grad:norm():item(), w.grad:norm():item()))
        end
      end]]
    local outputs = {}
    for i, setting in ipairs { "KAVA_ISA=reference", "KAVA_ISA=avx2", "KAVA_ISA=avx512", "KAVA_BF16=dot", "KAVA_BLAS_CORE=none" } do
      local status, out, err = program.shell(("%s %s -e '%s'"):format(setting, program.path, code))
      assert(status == 0, err)
      outputs[i] = {}
      for number in out:gmatch "%S+" do table.insert(outputs[i], tonumber(number)) end
      assert.equal(18, #outputs[i])
      -- gradients go through y, whose rounding to bf16 may fall either way: 2^-9 of few elements, far less of a norm
      for j, number in ipairs(outputs[i]) do assert.near(1, number / outputs[1][j], 1e-4, setting) end
    end
  end)

  it("has gradients where a size is 0", function()
    for _, size in ipairs { { 2, 0, 3 }, { 2, 3, 0 }, { 0, 3, 2 } } do -- rows, in, out
      local rows, n, m = table.unpack(size)
      local x, w, b = kava.ones(rows, n), kava.ones(m, n), kava.ones(m)
      for _, leaf in ipairs { x, w, b } do leaf:requires_grad(true) end
      kava.linear(x, w, b):sum():backward()
      local function all(t, value) assert.is_true(kava.allclose(t.grad, kava.full(t.shape, value))) end
      all(x, m)
      all(w, rows)
      all(b, rows)
    end
  end)

  it("says what does not fit", function()
    local x, w = kava.zeros { 2, 3 }, kava.zeros { 4, 5 }
    assert.error_matches(function() kava.linear(x, w) end, "x is %[2, 3%] and w %[4, 5%]; x's last dimension must be w's second")
    assert.error_matches(function() kava.linear(x, kava.zeros { 3 }) end, "w is %[3%]; %[out, in%] expected")
    assert.error_matches(function() kava.linear(x, kava.zeros { 4, 3 }, kava.zeros { 3 }) end, "bias is %[3%]; %[4%] expected")
    assert.error_matches(function() kava.linear(x, kava.zeros({ 4, 3 }, { dtype = "i32" })) end, "w is i32; a float or quantised type")
    assert.error_matches(function() kava.linear(x:to { dtype = "f64" }, kava.zeros { 4, 3 }) end, "x is f64 but w is f32")
    assert.error_matches(function() kava.matmul_precision "f64" end, "f64; f32, bf16 or f16 expected")
  end)

  it("names what products run on", function()
    local blas = kava.blas()
    assert.is_true(blas.bf16 == "amx" or blas.bf16 == "dot" or blas.bf16 == "f32")
    assert.is_true(blas.library == nil or #blas.library > 0)
  end)

  it("survives running out of memory", function()
    local x, w = kava.randn({ 20, 64 }):requires_grad(true), kava.randn({ 9, 64 }):requires_grad(true)
    local q = kava.gguf.quantize(kava.randn { 9, 64 }, "q4_1")
    for _, precision in ipairs { "f32", "bf16" } do
      kava.matmul_precision(precision)
      assert.is_true(starve(function()
        (kava.linear(x, w):sum() + kava.linear(x, q):sum()):backward()
      end, function()
        x.grad, w.grad = nil, nil
      end) > 8)
    end
  end)
end)

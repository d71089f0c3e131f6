-- silu, gelu, gelu_tanh, relu, alone and with a dropout; swiglu, geglu, geglu_tanh.
local kava = require "kava"
local agree = require "spec.agree"
local gradcheck = require "spec.gradcheck"

local function f64(...) return kava.randn({ ... }, { dtype = "f64" }) end

describe("activation", function()
  before_each(function()
    kava.seed(13)
    kava.train(true)
  end)
  after_each(function() kava.train(true) end)

  it("computes the functions as written", function()
    -- gelu(1) = Phi(1), gelu_tanh(1): tabulated values
    local expected = { silu = 1 / (1 + math.exp(-1)), gelu = 0.8413447460685429, gelu_tanh = 0.8411919906082768, relu = 1 }
    for name, value in pairs(expected) do
      assert.near(value, kava[name](kava.tensor({ 1 }, { dtype = "f64" })):item(), 1e-12)
      assert.near(value, kava[name](kava.tensor { 1 }):item(), 2e-7)
      assert.equal(0, kava[name](kava.tensor { 0 }):item())
    end
    local gate, up = kava.tensor { 1, -2 }, kava.tensor { 3, 5 }
    for pair, single in pairs { swiglu = "silu", geglu = "gelu", geglu_tanh = "gelu_tanh" } do
      assert.is_true(kava.allclose(kava[pair](gate, up), kava[single](gate) * up, { rtol = 1e-6, atol = 0 }))
    end
  end)

  it("keeps the negative tail of gelu", function()
    local x = kava.tensor { -3, -4, -5 }
    local y, exact = kava.gelu(x):totable(), kava.gelu(x:to { dtype = "f64" }):totable()
    for i = 1, 3 do assert.near(1, y[i] / exact[i], 5e-3) end -- the polynomial's error shrinks with the tail
  end)

  for _, name in ipairs { "silu", "gelu", "gelu_tanh", "relu" } do
    it(name .. " has the gradients that finite differences have, and is the same in f32", function()
      gradcheck(kava[name], { f64(3, 5) + 0.01 })
      for _, count in ipairs { 1, 15, 16, 17, 40000 } do agree(kava[name], { f64(count) * 3 }) end
    end)
    it(name .. " hands NaN on", function()
      local y = kava[name](kava.full({ 20 }, 0 / 0)):totable()
      for i = 1, 20 do assert.is_true(y[i] ~= y[i]) end
    end)
    it(name .. " and its gradient of what is huge are those of the reference", function()
      local function of(dtype)
        local x = kava.tensor({ math.huge, -math.huge, 1e4, -1e4, 87, -87, 100, -100 }, { dtype = dtype }):requires_grad(true)
        local y = kava[name](x)
        y:sum():backward()
        return y:totable(), x.grad:totable()
      end
      local values, slopes = of "f32"
      local exact, exact_slopes = of "f64"
      local function same(got, expected)
        return got == expected or got ~= got and expected ~= expected or math.abs(got - expected) < 1e-30
      end
      for i = 1, #values do
        assert(same(values[i], exact[i]), ("value %d is %g, not %g"):format(i, values[i], exact[i]))
        assert(same(slopes[i], exact_slopes[i]), ("slope %d is %g, not %g"):format(i, slopes[i], exact_slopes[i]))
      end
    end)
  end

  for _, name in ipairs { "silu", "gelu", "gelu_tanh", "relu" } do
    local function dropped(x)
      kava.rng_state(9, 4)
      return kava[name](x, { dropout = 0.3 })
    end
    it(name .. " with a dropout is one after the other, bit for bit", function()
      for _, dtype in ipairs { "f32", "f64" } do
        for _, count in ipairs { 1, 33, 5000 } do
          local from = kava.randn({ 2, count }, { dtype = dtype }) * 3
          local weight = kava.randn({ 3, count }, { dtype = dtype })
          -- made again for a product, its gradient in the place of z or elsewhere; or gone back over alone
          for _, how in ipairs { "in place", "z is held", "no product" } do
            local function run(f)
              kava.rng_state(9, 4)
              local x, w = from:clone():requires_grad(true), weight:clone():requires_grad(true)
              local z = how == "in place" and x * 1 or x
              local y = f(z)
              local values, position = y:totable(), select(2, kava.rng_state())
              if how == "in place" then z:release() end
              local loss = how == "no product" and y or kava.linear(y, w)
              y = nil -- luacheck: ignore 311
              loss:sum():backward()
              return { values, x.grad:totable(), w.grad and w.grad:totable() or "none", position }
            end
            assert.same(run(function(z) return kava.dropout(kava[name](z), 0.3) end),
              run(function(z) return kava[name](z, { dropout = 0.3 }) end))
          end
        end
      end
    end)
    it(name .. " with a dropout has the gradients that finite differences have, and is the same in f32", function()
      gradcheck(dropped, { f64(5, 7) + 0.01 })
      gradcheck(function(x, w) return kava.linear(dropped(x), w) end, { f64(5, 7) + 0.01, f64(2, 7) })
      for _, count in ipairs { 31, 1025, 40000 } do agree(dropped, { f64(count) * 3 }) end
    end)
  end

  it("drops nothing outside training, and for p = 0: no number is drawn", function()
    local x = kava.randn { 100 }
    local _, before = kava.rng_state()
    assert.same(kava.silu(x):totable(), kava.silu(x, { dropout = 0 }):totable())
    kava.train(false)
    assert.same(kava.silu(x):totable(), kava.silu(x, { dropout = 0.5 }):totable())
    assert.equal(before, select(2, kava.rng_state()))
  end)

  it("softcap is c tanh(x/c), with the gradients that finite differences have, and the same in f32", function()
    local x = kava.tensor({ -100, -2, -1e-3, 0, 1e-3, 0.1, 0.4, 3, 100 }, { dtype = "f64" })
    local y, f32 = kava.softcap(x, 5):totable(), kava.softcap(x:to { dtype = "f32" }, 5):totable()
    for i, value in ipairs(x:totable()) do
      local e = math.exp(2 * value / 5)
      local exact = value == 0 and 0 or 5 * (e - 1) / (e + 1)
      assert.near(exact, y[i], 1e-12)
      assert.near(exact, f32[i], 4e-7 * math.abs(exact)) -- nothing cancels near 0
    end
    gradcheck(function(t) return kava.softcap(t, 1.5) end, { f64(3, 5) })
    for _, count in ipairs { 1, 15, 16, 17, 40000 } do
      agree(function(t) return kava.softcap(t, 2) end, { f64(count) * 3 })
    end
    assert.has_error(function() kava.softcap(x, 0) end, "softcap: c is 0; more than 0 expected")
  end)

  for _, name in ipairs { "swiglu", "geglu", "geglu_tanh" } do
    it(name .. " has the gradients that finite differences have, and is the same in f32", function()
      gradcheck(kava[name], { f64(3, 5), f64(3, 5) })
      gradcheck(function(x) return kava[name](x, x) end, { f64(3, 5) })
      gradcheck(function(x, y) return kava[name](x:permute(2, 1), y) end, { f64(3, 5), f64(5, 3) })
      for _, count in ipairs { 1, 17, 40000 } do agree(kava[name], { f64(count) * 3, f64(count) }) end
    end)
  end

  it("gives a gradient to one side alone", function()
    local gate, up = kava.randn { 9 }, kava.randn({ 9 }):requires_grad(true)
    kava.swiglu(gate, up):sum():backward()
    assert.is_nil(gate.grad)
    assert.is_true(kava.allclose(up.grad, kava.silu(gate), { rtol = 1e-6, atol = 1e-7 }))
  end)

  it("names what is wrong", function()
    assert.has_error(function() kava.swiglu(kava.randn { 2, 3 }, kava.randn { 3, 2 }) end, "swiglu: up is [3, 2]; [2, 3] expected")
    assert.has_error(function() kava.silu(kava.arange(3)) end)
    assert.has_error(function() kava.silu(3) end)
    local x = kava.randn { 3 }
    for _, p in ipairs { -0.1, 1, 2 } do
      assert.error_matches(function() kava.gelu(x, { dropout = p }) end, ("gelu: dropout is %g; 0 <= dropout < 1 expected"):format(p), 1,
        true)
    end
    assert.has_error(function() kava.silu(x, { dropout = 0 / 0 }) end)
    assert.error_matches(function() kava.silu(x, { dropuot = 0.1 }) end, "silu: unknown key 'dropuot' (did you mean 'dropout'?)", 1, true)
    assert.error_matches(function() kava.silu(x, { dropout = "0.1" }) end, "dropout: number expected")
    assert.error_matches(function() kava.silu(x, 0.1) end, "table expected")
  end)
end)

-- attention, attention_map: against a plain softmax, gradients, masks, odd sizes, memory.
local kava = require "kava"
local agree = require "spec.agree"
local gradcheck = require "spec.gradcheck"
local starve = require "spec.starve"

local function f64(...) return kava.randn({ ... }, { dtype = "f64" }) end
local function integers(rows) return kava.tensor(rows, { dtype = "i32" }) end
local function off(a, b)
  local _, most = kava.allclose(a:to { dtype = "f64" }, b:to { dtype = "f64" }, { rtol = 0, atol = 0 })
  return most
end

-- P[t][j] of one head by the definition, from Lua tables q[t], k[j]
local function softmax(q, k, start, scale)
  local p = {}
  for t = 1, #q do
    local sum = 0
    p[t] = {}
    for j = 1, #k do
      local s = 0
      for d = 1, #q[t] do s = s + q[t][d] * k[j][d] end
      p[t][j] = (j > (start and start[t] or 0) and j <= t) and math.exp(scale * s) or 0
      sum = sum + p[t][j]
    end
    for j = 1, #k do p[t][j] = sum > 0 and p[t][j] / sum or 0 end
  end
  return p
end

local start = { { 0, 0, 0, 3, 3, 3, 3 }, { 1, 1, 0, 1, 2, 5, 6 } } -- two documents; queries 1, 2 see nothing or not everything

describe("attention", function()
  before_each(function() kava.seed(31) end)

  it("shows a NaN of v to those alone that see it", function()
    local T, at = 150, 41 -- within a tile of queries, whose products are made together
    local q, k, v = kava.randn { 1, T, 4, 8 }, kava.randn { 1, T, 2, 8 }, kava.randn { 1, T, 2, 8 }
    local begins = {}
    for t = 1, T do begins[t] = t > 100 and 100 or 0 end -- a second document, from 101 on
    local plain = kava.attention({ q = q, k = k, v = v, start = integers { begins } }):totable()[1]
    for _, value in ipairs { 0 / 0, math.huge } do
      local other = v:clone()
      other:narrow(2, at, 1):narrow(3, 2, 1):copy_(kava.full({ 1, 1, 1, 8 }, value))
      local got = kava.attention({ q = q, k = k, v = other, start = integers { begins } }):totable()[1]
      for t = 1, T do
        for h = 1, 4 do
          local sees = h > 2 and t >= at and t <= 100
          if sees then assert.is_true(got[t][h][1] ~= got[t][h][1] or got[t][h][1] == math.huge)
          else assert.near(plain[t][h][1], got[t][h][1], 1e-6) end
        end
      end
    end
  end)

  it("is the softmax of scaled scores times v, head by head", function()
    local B, T, H, G, D = 2, 7, 4, 2, 3
    local q, k, v = f64(B, T, H, D), f64(B, T, G, D), f64(B, T, G, D)
    local o = kava.attention({ q = q, k = k, v = v, start = integers(start), scale = 0.7 }):totable()
    local map = kava.attention_map({ q = q, k = k, start = integers(start), scale = 0.7 }):totable()
    local Q, K, V = q:permute(1, 3, 2, 4):totable(), k:permute(1, 3, 2, 4):totable(), v:permute(1, 3, 2, 4):totable()
    for b = 1, B do
      local mean = {}
      for h = 1, H do
        local g = (h - 1) // (H // G) + 1
        local p = softmax(Q[b][h], K[b][g], start[b], 0.7)
        for t = 1, T do
          mean[t] = mean[t] or {}
          for j = 1, T do mean[t][j] = (mean[t][j] or 0) + p[t][j] / H end
          for d = 1, D do
            local sum = 0
            for j = 1, T do sum = sum + p[t][j] * V[b][g][j][d] end
            assert.near(sum, o[b][t][h][d], 1e-12)
          end
        end
      end
      for t = 1, T do
        for j = 1, T do assert.near(mean[t][j], map[b][t][j], 1e-12) end
      end
    end
  end)

  it("has the gradients that finite differences have", function()
    local function with(options)
      return function(q, k, v) return kava.attention { q = q, k = k, v = v, start = options.start, scale = options.scale } end
    end
    gradcheck(with {}, { f64(2, 4, 2, 3), f64(2, 4, 1, 3), f64(2, 4, 1, 3) })
    gradcheck(with { start = integers(start), scale = 0.3 }, { f64(2, 7, 2, 2), f64(2, 7, 2, 2), f64(2, 7, 2, 2) })
    gradcheck(function(q, k, v)
      return kava.attention { q = q:permute(1, 3, 2, 4), k = k:permute(1, 3, 2, 4), v = v:permute(1, 3, 2, 4) }
    end, { f64(1, 2, 3, 4), f64(1, 1, 3, 4), f64(1, 1, 3, 4) })
    gradcheck(function(q, k)
      return kava.attention_map { q = q, k = k, start = integers(start), scale = 0.9 }
    end, { f64(2, 7, 4, 2), f64(2, 7, 2, 2) })
  end)

  it("bends scores to c tanh(s/c) with a softcap", function()
    local T, D, c = 4, 3, 0.8
    local q, k, v = f64(1, T, 1, D), f64(1, T, 1, D), f64(1, T, 1, D)
    local o, Q, K, V = kava.attention({ q = q, k = k, v = v, scale = 1.3, softcap = c }):totable()[1], q:totable()[1], k:totable()[1],
      v:totable()[1]
    local map = kava.attention_map({ q = q, k = k, scale = 1.3, softcap = c }):totable()[1]
    for t = 1, T do
      local e, sum = {}, 0
      for j = 1, t do
        local s = 0
        for d = 1, D do s = s + Q[t][1][d] * K[j][1][d] end
        local x = math.exp(2 * 1.3 * s / c)
        e[j] = math.exp(c * (x - 1) / (x + 1))
        sum = sum + e[j]
      end
      for j = 1, t do assert.near(e[j] / sum, map[t][j], 1e-12) end
      for d = 1, D do
        local mean = 0
        for j = 1, t do mean = mean + e[j] / sum * V[j][1][d] end
        assert.near(mean, o[t][1][d], 1e-12)
      end
    end
    gradcheck(function(x, y, z) return kava.attention { q = x, k = y, v = z, start = integers(start), scale = 0.9, softcap = 0.7 } end,
      { f64(2, 7, 4, 2), f64(2, 7, 2, 2), f64(2, 7, 2, 2) })
    gradcheck(function(x, y) return kava.attention_map { q = x, k = y, scale = 0.9, softcap = 0.7 } end,
      { f64(1, 5, 2, 3), f64(1, 5, 1, 3) })
    for _, s in ipairs { { 2, 7, 4, 2, 20 }, { 1, 150, 3, 1, 64 }, { 2, 129, 3, 1, 33 } } do
      local B, N, H, G, E = table.unpack(s)
      local first = {}
      for b = 1, B do
        first[b] = {}
        for t = 1, N do first[b][t] = b == 1 and (t - 1) // 13 * 13 or math.max(0, t - 40) end
      end
      agree(function(x, y, z) return kava.attention { q = x, k = y, v = z, start = integers(first), scale = 1, softcap = 2 } end,
        { f64(B, N, H, E), f64(B, N, G, E), f64(B, N, G, E) }, 6e-6)
    end
    assert.has_error(function() kava.attention { q = q, k = k, v = v, softcap = -1 } end,
      "attention: softcap is -1; 0 (none) or more expected")
  end)

  it("agrees with f64 at odd sizes and head dimensions, whatever the threads", function()
    local sizes = { { 2, 7, 4, 2, 20 }, { 1, 65, 6, 2, 64 }, { 1, 150, 3, 3, 128 }, { 1, 130, 2, 1, 256 }, { 2, 129, 3, 1, 33 } }
    for _, s in ipairs(sizes) do
      local B, T, H, G, D = table.unpack(s)
      local first = {}
      for b = 1, B do
        first[b] = {}
        for t = 1, T do first[b][t] = b == 1 and (t - 1) // 13 * 13 or math.max(0, t - 40) end
      end
      for _, mask in ipairs { false, integers(first) } do
        agree(function(q, k, v)
          return kava.attention { q = q, k = k, v = v, start = mask or nil }
        end, { f64(B, T, H, D), f64(B, T, G, D), f64(B, T, G, D) }, 4e-6)
      end
    end
    for _, s in ipairs { { 2, 70, 6, 2, 20 }, { 1, 1, 2, 1, 3 }, { 2, 131, 3, 3, 33 }, { 1, 200, 4, 2, 64 } } do
      local B, T, H, G, D = table.unpack(s)
      local operands = { f64(B, T, H, D), f64(B, T, G, D) }
      agree(function(q, k) return kava.attention_map { q = q, k = k } end, operands, 4e-6)
      local first = {}
      for b = 1, B do
        first[b] = {} -- documents of 50, padding on the left, a query that sees nothing
        for t = 1, T do first[b][t] = b == 1 and (t - 1) // 50 * 50 or t == 60 and 60 or math.min(t - 1, 7) end
      end
      agree(function(q, k) return kava.attention_map { q = q, k = k, start = integers(first), scale = 1, softcap = 2 } end, operands, 4e-6)
    end
  end)

  it("keeps documents packed in a row apart: each gives what it gives alone", function()
    local lengths, H, G, D = { 70, 1, 33, 150 }, 4, 2, 24
    local total, first = 0, { {} }
    for _, n in ipairs(lengths) do
      for t = total + 1, total + n do first[1][t] = total end
      total = total + n
    end
    local q, w = kava.randn { 1, total, H, D }, kava.randn { 1, total, H, D }
    local k, v = kava.randn { 1, total, G, D }, kava.randn { 1, total, G, D }
    for _, t in ipairs { q, k, v } do t:requires_grad(true) end
    local o = kava.attention { q = q, k = k, v = v, start = integers(first) }
    ;(o * w):sum():backward()
    local at = 1
    for _, n in ipairs(lengths) do
      local alone = {}
      for i, t in ipairs { q, k, v } do alone[i] = t:detach():narrow(2, at, n):clone():requires_grad(true) end
      local p = kava.attention { q = alone[1], k = alone[2], v = alone[3] }
      ;(p * w:narrow(2, at, n)):sum():backward()
      local limit = 3e-6 -- a document's place moves sums into other lanes and tiles
      assert.is_true(off(p, o:narrow(2, at, n)) < limit)
      for i, t in ipairs { q, k, v } do assert.is_true(off(alone[i].grad, t.grad:narrow(2, at, n)) < limit) end
      at = at + n
    end
  end)

  it("gives nothing to, and takes nothing from, a query that sees no key", function()
    local T = 40
    local first = { {} }
    for t = 1, T do first[1][t] = t <= 20 and T or 20 end -- left padding
    local q, k, v = kava.randn { 1, T, 2, 16 }, kava.randn { 1, T, 2, 16 }, kava.randn { 1, T, 2, 16 }
    for _, t in ipairs { q, k, v } do t:requires_grad(true) end
    local o = kava.attention { q = q, k = k, v = v, start = integers(first) }
    o:sum():backward()
    assert.equal(0, o:narrow(2, 1, 20):abs():max():item())
    for _, t in ipairs { q, k, v } do
      assert.equal(0, t.grad:narrow(2, 1, 20):abs():max():item())
      assert.is_true(kava.allclose(t.grad, t.grad)) -- no NaN
    end
  end)

  it("stays finite for scores far beyond exp", function()
    local q, k, v = kava.randn { 1, 80, 1, 16 } * 300, kava.randn { 1, 80, 1, 16 }, kava.randn { 1, 80, 1, 16 }
    for _, t in ipairs { k, v } do t:requires_grad(true) end
    local o = kava.attention { q = q, k = k, v = v, scale = 1 }
    o:sum():backward()
    for _, t in ipairs { o, k.grad, v.grad } do assert.is_true(kava.allclose(t, t)) end
  end)

  it("needs no T x T memory", function()
    local T = 3000
    local q, k, v = kava.randn { 1, T, 1, 32 }, kava.randn { 1, T, 1, 32 }, kava.randn { 1, T, 1, 32 }
    for _, t in ipairs { q, k, v } do t:requires_grad(true) end
    collectgarbage()
    kava.memory_reset_peak()
    local before = kava.memory().cpu.current
    kava.attention({ q = q, k = k, v = v }):sum():backward()
    -- T*T floats are 36 MB; vectors of T, packed copies of q, k, v, their gradients, and tiles: 32 * 3000 * 4 = 384 KB each
    assert.is_true(kava.memory().cpu.peak - before < 8e6)
  end)

  it("hides nothing that is not finite", function()
    for _, bad in ipairs { 0 / 0, math.huge, -math.huge } do
      for _, name in ipairs { "q", "k", "v" } do
        local operands = { q = kava.randn(1, 40, 2, 8), k = kava.randn(1, 40, 2, 8), v = kava.randn(1, 40, 2, 8) }
        operands[name]:narrow(2, 20, 1):narrow(3, 1, 1):narrow(4, 1, 1):fill_(bad)
        local rows = kava.attention(operands):select(3, 1):sum(3):totable()
        operands.softcap = 20
        local capped = kava.attention(operands):select(3, 1):sum(3):totable()[1][20]
        assert.is_true(bad == bad or capped ~= capped, name) -- a cap makes infinities finite
        operands.softcap = nil
        local shows = rows[1][20] ~= rows[1][20] or math.abs(rows[1][20]) == math.huge
        assert.is_true(shows or name == "k" and bad == bad, name) -- a key at infinity may be one that nobody looks at
        local other = kava.attention(operands):select(3, 2):sum():item()
        assert.is_true(other == other, "the other head")
      end
    end
  end)

  it("says what does not fit", function()
    local q, k = kava.zeros { 1, 4, 6, 8 }, kava.zeros { 1, 4, 4, 8 }
    local function refused(arguments, message) assert.error_matches(function() kava.attention(arguments) end, message) end
    refused({ q = q, k = k, v = k }, "q has 6 heads and k 4; the first must be a multiple of the second")
    refused({ q = q, k = kava.zeros { 1, 5, 2, 8 }, v = k }, "q is %[1, 4, 6, 8%] but k %[1, 5, 2, 8%]")
    refused({ q = q, k = q, v = k }, "v is %[1, 4, 4, 8%]; %[1, 4, 6, 8%] expected")
    refused({ q = q, k = q, v = q, start = integers { 1, 2 } }, "start is %[2%]; %[1, 4%] expected")
    refused({ q = q, k = q, v = q, start = kava.zeros { 1, 4 } }, "start is f32; an integer type expected")
    refused({ q = q, k = q }, "v: a tensor is required")
    local none = kava.zeros { 1, 4, 6, 0 }
    refused({ q = none, k = none, v = none }, "at least one head of one element expected")
    local made = setmetatable({ q = q, k = k }, { __index = function() return kava.zeros { 1, 4, 4, 8 } end })
    refused(made, "v: a tensor is required") -- nobody would keep alive what the function makes
    refused({ q = q, k = q, v = q, starts = 1 }, "unknown key 'starts' %(did you mean 'start'")
    assert.error_matches(function() kava.attention_map { q = kava.zeros { 2, 2 }, k = q } end, "attention_map: q is %[2, 2%]")
  end)

  it("survives running out of memory", function()
    local q, k = kava.randn({ 1, 9, 2, 8 }):requires_grad(true), kava.randn({ 1, 9, 1, 8 }):requires_grad(true)
    local count = starve(function()
      local o = kava.attention { q = q, k = k, v = k, start = integers { { 0, 0, 0, 0, 4, 4, 4, 4, 4 } } }
      ;(o:sum() + kava.attention_map({ q = q, k = k }):sum()):backward()
    end, function()
      q.grad, k.grad = nil, nil
    end)
    assert.is_true(count > 20)
  end)
end)

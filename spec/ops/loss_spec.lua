-- mercator, cosine_loss, mse_loss, smooth_l1_loss, cross_entropy, kl_divergence, as kava.loss has them.
local kava = require "kava"
local agree = require "spec.agree"
local gradcheck = require "spec.gradcheck"
local helper = require "spec.helper"
local starve = require "spec.starve"

local loss = kava.loss
local function f64(...) return kava.randn({ ... }, { dtype = "f64" }) end
local function i64(list) return kava.tensor(list, { dtype = "i64" }) end
local mask = i64 { { 1, 1, 0 }, { 1, 0, 1 } }

-- Every loss over pairs of rows, and what it is for one pair of Lua lists.
local function dot(a, b)
  local sum = 0
  for i = 1, #a do sum = sum + a[i] * b[i] end
  return sum
end
local function mean_of(a, b, h)
  local sum = 0
  for i = 1, #a do sum = sum + h(a[i] - b[i]) end
  return sum / #a
end
local function softmax(x, T)
  local sum, p = 0, {}
  for i = 1, #x do sum = sum + math.exp(x[i] / T) end
  for i = 1, #x do p[i] = math.exp(x[i] / T) / sum end
  return p
end
local pairs_of_rows = {
  mercator = {
    function(s, t, m) return (loss.mercator(s, t, { mask = m, alpha = 0.9, beta = 0.3, eps = 1e-4 })) end,
    function(s, t)
      local ns, nt = math.sqrt(dot(s, s)), math.sqrt(dot(t, t))
      return 0.9 * (1 - dot(s, t) / ns / nt) + 0.3 * (math.log(ns + 1e-4) - math.log(nt + 1e-4)) ^ 2
    end,
  },
  cosine_loss = {
    function(s, t, m) return loss.cosine(s, t, { mask = m }) end,
    function(s, t) return 1 - dot(s, t) / math.sqrt(dot(s, s) * dot(t, t)) end,
  },
  mse_loss = {
    function(s, t, m) return loss.mse(s, t, { mask = m }) end,
    function(s, t) return mean_of(s, t, function(d) return d * d end) end,
  },
  ["mse_loss, relative"] = {
    function(s, t, m) return loss.mse(s, t, { mask = m, relative = true }) end,
    function(s, t) return #s * mean_of(s, t, function(d) return d * d end) / dot(t, t) end,
  },
  smooth_l1_loss = {
    function(s, t, m) return loss.smooth_l1(s, t, { mask = m, beta = 0.7 }) end,
    function(s, t)
      return mean_of(s, t, function(d) return math.abs(d) < 0.7 and d * d / 1.4 or math.abs(d) - 0.35 end)
    end,
  },
  ["smooth_l1_loss, beta 0"] = {
    function(s, t, m) return loss.smooth_l1(s, t, { mask = m, beta = 0 }) end,
    function(s, t) return mean_of(s, t, math.abs) end,
  },
  kl_divergence = {
    function(s, t, m) return loss.kl(s, t, { mask = m, temperature = 1.6 }) end,
    function(s, t)
      local p, q, sum = softmax(s, 1.6), softmax(t, 1.6), 0
      for i = 1, #p do sum = sum + q[i] * math.log(q[i] / p[i]) end
      return 1.6 * 1.6 * sum
    end,
  },
}

describe("loss", function()
  before_each(function() kava.seed(16) end)

  for name, pair in pairs(pairs_of_rows) do
    local fn, formula = pair[1], pair[2]

    it(name .. " is the mean of its formula over the rows that count", function()
      local s, t = f64(2, 3, 5), f64(2, 3, 5)
      local rows_s, rows_t, keep, sum, count = s:totable(), t:totable(), mask:totable(), 0, 0
      for b = 1, 2 do
        for i = 1, 3 do
          if keep[b][i] ~= 0 then
            sum = sum + formula(rows_s[b][i], rows_t[b][i])
            count = count + 1
          end
        end
      end
      assert.near(sum / count, fn(s, t, mask):item(), 1e-10)
      assert.near(sum / count, fn(s:to { dtype = "f32" }, t:to { dtype = "f32" }, mask:to { dtype = "bool" }):item(), 2e-6)
      assert.same({}, fn(s, t, mask).shape)
    end)

    it(name .. " has the gradients that finite differences have, on both sides", function()
      gradcheck(function(s, t) return fn(s, t, mask) end, { f64(2, 3, 5), f64(2, 3, 5) }, { eps = 1e-4 })
      gradcheck(function(s, t) return fn(s:permute(2, 1), t) end, { f64(4, 3), f64(3, 4) }, { eps = 1e-4 })
    end)

    it(name .. " is the same in f32 and f64, for any number of threads", function()
      for _, width in ipairs { 2, 17, 64, 2500 } do
        agree(function(s, t) return fn(s, t) end, { f64(40, width), f64(40, width) }, 2e-5)
      end
    end)

    it(name .. " never looks at padding: NaN there changes nothing, and its gradient is 0", function()
      local s, t = kava.randn { 2, 3, 20 }, kava.randn { 2, 3, 20 }
      local before = fn(s, t, mask):item()
      s:narrow(1, 1, 1):narrow(2, 3, 1):fill_(0 / 0)
      t:narrow(1, 2, 1):narrow(2, 2, 1):fill_(1 / 0)
      s:requires_grad(true)
      t:requires_grad(true)
      local y = fn(s, t, mask)
      assert.equal(before, y:item())
      y:backward()
      for _, x in ipairs { s, t } do
        local grad = x.grad:totable()
        for i = 1, 20 do
          assert.equal(0, grad[1][3][i])
          assert.equal(0, grad[2][2][i])
        end
        assert.is_true(x.grad:abs():sum():item() > 0)
      end
    end)

    it(name .. " hands NaN in a row that counts on", function()
      local s, t = kava.randn { 3, 40 }, kava.randn { 3, 40 }
      s:narrow(1, 2, 1):narrow(2, 33, 1):fill_(0 / 0)
      local value = fn(s, t):item()
      assert.is_true(value ~= value)
    end)

    it(name .. " names what is wrong", function()
      local s = kava.randn { 2, 3, 5 }
      assert.error_matches(function() fn(s, kava.randn { 2, 3, 4 }) end, "teacher is %[2, 3, 4%]; %[2, 3, 5%] expected")
      assert.error_matches(function() fn(s, s, kava.ones { 5 }) end, "mask is %[5%]; one element for each of the 6 rows expected")
      assert.error_matches(function() fn(s, s, kava.zeros { 2, 3 }) end, "no row counts")
      assert.error_matches(function() fn(s, kava.randn({ 2, 3, 5 }, { dtype = "f64" })) end, "f64")
    end)

    it(name .. " comes back from every failed allocation", function()
      local s, t = kava.randn({ 2, 3, 5 }):requires_grad(true), kava.randn({ 2, 3, 5 }):requires_grad(true)
      assert.is_true(starve(function() fn(s, t, mask):backward() end, function() s.grad, t.grad = nil, nil end) > 6)
    end)
  end

  it("mercator reports its parts", function()
    local s, t = f64(4, 6), f64(4, 6)
    local value, metrics = loss.mercator(s, t, { alpha = 2, beta = 0.5 })
    assert.near(value:item(), 2 * (1 - metrics.cos_sim) + 0.5 * metrics.mag_loss, 1e-12)
    assert.near(1 - loss.cosine(s, t):item(), metrics.cos_sim, 1e-12)
    assert.error_matches(function() loss.mercator(s, t, { alfa = 1 }) end, "did you mean 'alpha'")
  end)

  it("mercator survives rows of zeros", function()
    local s, t = kava.zeros({ 2, 4 }):requires_grad(true), kava.randn { 2, 4 }
    local value, metrics = loss.mercator(s, t)
    assert.equal(0, metrics.cos_sim)
    assert.is_true(value:item() == value:item())
  end)

  it("cross_entropy shifts, and counts a target when its own mask is nonzero", function()
    local logits, ids = f64(2, 4, 5), i64 { { 3, 1, 4, 0 }, { 2, 2, 0, 1 } }
    local keep = i64 { { 0, 1, 1, 0 }, { 1, 1, 0, 0 } }
    local x, sum = logits:totable(), 0
    for _, place in ipairs { { 1, 1, 1 }, { 1, 2, 4 }, { 2, 1, 2 } } do -- row, position, the id at the position after
      sum = sum - math.log(softmax(x[place[1]][place[2]], 1)[place[3] + 1])
    end
    assert.near(sum / 3, loss.cross_entropy(logits, ids, keep):item(), 1e-12)
    assert.same({ { 1, 4, -1, -1 }, { 2, -1, -1, -1 } }, loss.targets(ids, keep):totable())
    assert.same({ { 1, 4, 0, -1 }, { 2, 0, 1, -1 } }, loss.targets(ids):totable())
  end)

  it("cross_entropy has the gradients that finite differences have, and is the same in f32", function()
    local ids = i64 { { 3, 1, 4, 0 }, { 2, 2, 0, 1 } }
    gradcheck(function(x) return loss.cross_entropy(x, ids, i64 { { 0, 1, 1, 0 }, { 1, 1, 0, 0 } }) end, { f64(2, 4, 5) })
    for _, width in ipairs { 5, 33, 5000 } do
      agree(function(x) return loss.cross_entropy(x, ids) end, { f64(2, 4, width) * 4 }, 1e-5)
    end
  end)

  it("cross_entropy names what is wrong", function()
    local logits = kava.randn { 1, 3, 5 }
    assert.error_matches(function() loss.cross_entropy(logits, i64 { { 0, 5, 1 } }) end,
      "target 5 at position 1 is outside the vocabulary of 5")
    assert.error_matches(function() loss.cross_entropy(logits, i64 { { 0, 1 } }) end, "targets is %[1, 2%]; %[1, 3%] expected")
    assert.error_matches(function() loss.cross_entropy(logits, i64 { { 0, 1, 2 } }, kava.zeros { 1, 3 }) end, "no target counts")
    assert.error_matches(function() loss.cross_entropy(logits, kava.zeros { 1, 3 }) end, "integer")
  end)

  it("kl_divergence takes tokens that a teacher rules out", function()
    local s, t = kava.zeros { 1, 3 }, kava.tensor { { 0, 0, -1 / 0 } }
    s:requires_grad(true)
    local y = loss.kl(s, t)
    assert.near(math.log(3 / 2), y:item(), 1e-6)
    y:backward()
    for i, expected in ipairs { -1 / 6, -1 / 6, 1 / 3 } do assert.near(expected, s.grad:totable()[1][i], 1e-6) end
  end)

  it("mercator gives PyTorch's numbers on the golden run", function()
    local path = helper.shared "golden/distill/ref.safetensors"
    if not path then return pending "skipped: ../shared is not here" end
    local ref = assert(kava.safetensors.load(path))
    for _, how in ipairs { "concat", "mean", "weighted" } do
      local value, metrics = loss.mercator(ref[how .. ".student_agg"], ref[how .. ".projected"], { mask = ref["batch.0.attention_mask"] })
      assert.near(ref[how .. ".loss.0"]:item(), value:item(), 2e-6)
      assert.near(ref[how .. ".cos_sim.0"]:item(), metrics.cos_sim, 2e-6)
      assert.near(ref[how .. ".mag_loss.0"]:item(), metrics.mag_loss, 2e-6)
    end
  end)
end)

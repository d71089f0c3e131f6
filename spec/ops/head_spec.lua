-- head_loss: equal to linear, cross entropy and divergence taken one after the other, without their logits.
local kava = require "kava"
local gradcheck = require "spec.gradcheck"
local starve = require "spec.starve"

local function f64(...) return kava.randn({ ... }, { dtype = "f64" }) end
local function i64(list) return kava.tensor(list, { dtype = "i64" }) end

describe("head_loss", function()
  before_each(function() kava.seed(17) end)

  it("is ce_weight * CE + kl_weight * KL of the two models' logits", function()
    local hs, ws, ht, wt = f64(2, 4, 6), f64(11, 6), f64(2, 4, 5), f64(11, 5)
    local ids, keep = i64 { { 3, 1, 10, 0 }, { 2, 2, 0, 1 } }, i64 { { 0, 1, 1, 0 }, { 1, 1, 0, 0 } }
    local targets = kava.loss.targets(ids, keep)
    local s, t = kava.linear(hs, ws), kava.linear(ht, wt)
    local counted = i64 { { 1, 1, 0, 0 }, { 1, 0, 0, 0 } } -- the positions whose targets count
    local ce = kava.loss.cross_entropy(s, ids, keep):item()
    local kl = kava.loss.kl(s, t, { mask = counted, temperature = 2 }):item()
    local loss, metrics = kava.loss.head {
      hidden = hs, weight = ws, teacher_hidden = ht, teacher_weight = wt, targets = targets,
      ce_weight = 0.7, kl_weight = 0.4, temperature = 2,
    }
    assert.near(0.7 * ce + 0.4 * kl, loss:item(), 1e-12)
    assert.near(ce, metrics.ce, 1e-12)
    assert.near(kl, metrics.kl, 1e-12)
    assert.equal(3, metrics.count)
    local same, a, b = 0, s:argmax(3):totable(), t:argmax(3):totable()
    for _, place in ipairs { { 1, 1 }, { 1, 2 }, { 2, 1 } } do
      if a[place[1]][place[2]] == b[place[1]][place[2]] then same = same + 1 end
    end
    assert.near(same / 3, metrics.agreement, 1e-12)
  end)

  it("caps the logits of either side", function()
    local hs, ws, ht, wt = f64(6, 5), f64(9, 5), f64(6, 4), f64(9, 4)
    local targets = i64 { 3, -1, 8, 0, 0, 2 }
    local function both(h, w)
      return kava.loss.head { hidden = h, weight = w, teacher_hidden = ht, teacher_weight = wt, targets = targets,
        ce_weight = 0.7, kl_weight = 0.4, softcap = 1.2, teacher_softcap = 0.9 }
    end
    local counted = i64 { 1, 0, 1, 1, 1, 1 }
    local s, t = kava.softcap(kava.linear(hs, ws), 1.2), kava.softcap(kava.linear(ht, wt), 0.9)
    local ce = kava.loss.cross_entropy(kava.cat({ s, s:narrow(1, 1, 1) }, 1):reshape(1, 7, 9), i64 { { 0, 3, 0, 8, 0, 0, 2 } },
      i64 { { 0, 1, 0, 1, 1, 1, 1 } }):item()
    local kl = kava.loss.kl(s:reshape(1, 6, 9), t:reshape(1, 6, 9), { mask = counted:reshape(1, 6) }):item()
    local loss, metrics = both(hs, ws)
    assert.near(kl, metrics.kl, 1e-12)
    assert.near(ce, metrics.ce, 1e-12)
    assert.near(0.7 * ce + 0.4 * kl, loss:item(), 1e-12)
    gradcheck(function(h, w) return (both(h, w)) end, { hs, ws })
  end)

  it("has the gradients that finite differences have, and gives the teacher none", function()
    local targets, ht, wt = i64 { { 3, -1, 8 }, { 0, 0, -100 } }, f64(2, 3, 4), f64(9, 4)
    wt:requires_grad(true)
    gradcheck(function(hs, ws)
      return (kava.loss.head {
        hidden = hs, weight = ws, teacher_hidden = ht, teacher_weight = wt, targets = targets,
        ce_weight = 0.7, kl_weight = 0.4, temperature = 1.5,
      })
    end, { f64(2, 3, 5), f64(9, 5) })
    gradcheck(function(hs, ws) return (kava.loss.head { hidden = hs, weight = ws, targets = targets }) end, { f64(2, 3, 5), f64(9, 5) })
    assert.is_nil(wt.grad)
  end)

  it("equals the ops it is made of over several pieces of rows, with gradients scaled from above", function()
    local rows, vocabulary, list = 500, 70001, {} -- 64 MiB of logits are 239 rows: two pieces of the 400 that count
    for i = 1, rows do list[i] = i % 5 == 0 and -1 or (i * 7919) % vocabulary end
    local hs, ws = kava.randn { rows, 8 }, kava.randn { vocabulary, 8 }
    local function grads(fn)
      local h, w = hs:clone():requires_grad(true), ws:clone():requires_grad(true)
      local loss = fn(h, w)
      ;(loss * 3):backward()
      return { loss:detach(), h.grad, w.grad }
    end
    local fused = grads(function(h, w) return (kava.loss.head { hidden = h, weight = w, targets = i64(list) }) end)
    -- cross_entropy shifts: the ids are the targets, one position later
    local ids, keep = { 0 }, { 0 }
    for i = 1, rows do
      ids[i + 1] = math.max(list[i], 0)
      keep[i + 1] = list[i] >= 0 and 1 or 0
    end
    local plain = grads(function(h, w)
      local logits = kava.cat({ kava.linear(h, w), kava.zeros { 1, vocabulary } }, 1):reshape(1, rows + 1, vocabulary)
      return kava.loss.cross_entropy(logits, i64 { ids }, i64 { keep })
    end)
    for i = 1, 3 do
      local _, off = kava.allclose(fused[i], plain[i], { rtol = 0, atol = 0 })
      assert.is_true(off <= 1e-5 * plain[i]:abs():max():item(), ("%d is off by %g"):format(i, off))
    end
  end)

  it("takes weights that are tensors of its own precision", function()
    for _, dtype in ipairs { "f32", "f64" } do
      local function taught(ce, kl)
        kava.seed(4)
        local h, w = kava.randn({ 2, 3, 5 }, { dtype = dtype }), kava.randn({ 9, 5 }, { dtype = dtype })
        h:requires_grad(true)
        w:requires_grad(true)
        local loss, metrics = kava.loss.head { hidden = h, weight = w, teacher_hidden = h:detach() * 2, teacher_weight = w:detach() + 1,
          targets = i64 { { 1, 2, 8 }, { 0, -1, 4 } }, temperature = 1.5, ce_weight = ce, kl_weight = kl }
        loss:backward()
        return { loss:detach(), h.grad, w.grad, metrics }
      end
      local function one(x) return kava.tensor(x, { dtype = dtype }) end
      local ways = { { one(0.25), one(3) }, { 0.25, one(3) }, { one(0.25), 3 }, { one(0), one(3) }, { one(0.25), one(0) } }
      for _, way in ipairs(ways) do
        local function number(x) return type(x) == "number" and x or x:item() end
        local plain, held = taught(number(way[1]), number(way[2])), taught(way[1], way[2])
        for i = 1, 3 do assert.is_true((kava.allclose(held[i], plain[i], { rtol = 0, atol = 0 })), dtype) end
        assert.same(plain[4], held[4])
      end
      local other = dtype == "f32" and "f64" or "f32"
      assert.error_matches(function() taught(1, kava.tensor(0.25, { dtype = other })) end,
        ("kl_weight has 1 elements, %s on cpu; a number, or one %s on cpu"):format(other, dtype))
      assert.error_matches(function() taught(kava.zeros({ 2 }, { dtype = dtype })) end, "ce_weight has 2 elements")
      assert.error_matches(function() taught(one(1):requires_grad(true)) end, "ce_weight wants a gradient, and gets none")
    end
  end)

  it("takes a quantised teacher's head as it is", function()
    local hs, ws, ht = kava.randn { 5, 4 }, kava.randn { 6, 4 }, kava.randn { 5, 64 }
    local quantised = kava.gguf.quantize(kava.randn { 6, 64 }, "q4_1")
    local function call(wt)
      return kava.loss.head { hidden = hs, weight = ws, teacher_hidden = ht, teacher_weight = wt, targets = i64 { 1, 2, 5, 0, 3 } }
    end
    local loss, metrics = call(quantised)
    local expected, plain = call(quantised:to { dtype = "f32" })
    assert.near(expected:item(), loss:item(), 1e-5)
    assert.equal(plain.agreement, metrics.agreement)
  end)

  it("adds to a gradient that is there, and the next one adds to its own", function()
    local hs, ws = kava.randn { 3, 4 }, kava.randn({ 6, 4 }):requires_grad(true)
    local function step() kava.loss.head({ hidden = hs, weight = ws, targets = i64 { 1, -1, 5 } }):backward() end
    step()
    local once = ws.grad:clone()
    step()
    step()
    assert.is_true(kava.allclose(ws.grad, once * 3, { rtol = 1e-6, atol = 1e-7 }))
  end)

  it("is not disturbed by rows that do not count", function()
    local hs, ws = kava.randn { 3, 4 }, kava.randn { 6, 4 }
    local before = kava.loss.head({ hidden = hs, weight = ws, targets = i64 { 1, -1, 5 } }):item()
    hs:narrow(1, 2, 1):fill_(0 / 0)
    hs:requires_grad(true)
    local loss = kava.loss.head { hidden = hs, weight = ws, targets = i64 { 1, -1, 5 } }
    assert.equal(before, loss:item())
    loss:backward()
    assert.same({ 0, 0, 0, 0 }, hs.grad:totable()[2])
  end)

  it("computes its figures when nothing is recorded", function()
    local hs, ws = kava.randn({ 3, 4 }):requires_grad(true), kava.randn { 6, 4 }
    local loss, metrics = kava.no_grad(function()
      return kava.loss.head { hidden = hs, weight = ws, teacher_hidden = hs, teacher_weight = ws, targets = i64 { 1, 2, 5 } }
    end)
    assert.has_error(function() loss:backward() end)
    assert.near(0, metrics.kl, 1e-6)
    assert.equal(1, metrics.agreement)
    assert.near(metrics.ce + metrics.kl, loss:item(), 1e-6)
  end)

  it("names what is wrong", function()
    local hs, ws = kava.randn { 3, 4 }, kava.randn { 6, 4 }
    local function call(t) return function() kava.loss.head(t) end end
    local ids = i64 { 1, 2, 5 }
    assert.error_matches(call { hidden = hs, weight = ws, targets = i64 { 1, 6, 0 } },
      "target 6 at position 2 is outside the vocabulary of 6")
    assert.error_matches(call { hidden = hs, weight = ws, targets = i64 { 1, 2 } }, "targets are %[2%]")
    assert.error_matches(call { hidden = hs, weight = ws, targets = i64 { -1, -1, -1 } }, "no target counts")
    assert.error_matches(call { hidden = hs, weight = kava.randn { 6, 5 }, targets = ids }, "hidden is %[3, 4%] and its weight %[6, 5%]")
    assert.error_matches(call { hidden = hs, weight = ws, teacher_hidden = hs, targets = ids }, "come together")
    assert.error_matches(call { hidden = hs, weight = ws, teacher_hidden = hs, teacher_weight = kava.randn { 7, 4 }, targets = ids },
      "vocabulary is 6, the teacher's 7")
    assert.error_matches(call { hidden = hs, weight = ws, targets = ids, kl_weight = 1 }, "no teacher_hidden")
    local one = kava.tensor(1, { dtype = "f32" })
    assert.error_matches(call { hidden = hs, weight = ws, targets = ids, kl_weight = one }, "no teacher_hidden")
    assert.error_matches(call { hidden = hs, weight = ws, targets = ids, ce_weight = "a" }, "ce_weight")
    assert.error_matches(call { hidden = hs, weight = ws, targets = ids, temprature = 1 }, "did you mean 'temperature'")
  end)

  it("comes back from every failed allocation", function()
    local hs, ws = kava.randn({ 3, 4 }):requires_grad(true), kava.randn({ 6, 4 }):requires_grad(true)
    local ht, wt, ids = kava.randn { 3, 5 }, kava.randn { 6, 5 }, i64 { 1, 2, -1 }
    assert.is_true(starve(function()
      kava.loss.head({ hidden = hs, weight = ws, teacher_hidden = ht, teacher_weight = wt, targets = ids }):backward()
    end, function() hs.grad, ws.grad = nil, nil end) > 15)
  end)
end)

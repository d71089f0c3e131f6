local kava = require "kava"
local helper = require "spec.helper"

local function tiny(layers, hidden, extra)
  local config = { model_type = "llama", vocab_size = 40, hidden_size = hidden, intermediate_size = 2 * hidden,
    num_hidden_layers = layers, num_attention_heads = 2, num_key_value_heads = 2, rms_norm_eps = 1e-5, rope_theta = 1e4,
    tie_word_embeddings = true }
  for key, value in pairs(extra or {}) do config[key] = value end
  return kava.model.create(config, { std = 0.3 })
end

-- Two rows, the second shorter: its padding must not count.
local function batch_of(fill)
  fill = fill or 0
  return {
    input_ids = kava.tensor({ { 1, 2, 3, 4, 5, 6 }, { 7, 8, 9, 10, fill, fill } }, { dtype = "i64" }),
    attention_mask = kava.tensor({ { 1, 1, 1, 1, 1, 1 }, { 1, 1, 1, 1, 0, 0 } }, { dtype = "i64" }),
  }
end

local names = { "mercator", "hybrid", "structural", "mse", "smooth_l1", "layer_matched" }

describe("kava.loss.build", function()
  local teacher, student
  before_each(function()
    kava.seed(11)
    kava.train(false)
    teacher, student = tiny(4, 16), tiny(2, 8):requires_grad(true)
  end)
  after_each(function()
    kava.train(true)
    teacher, student = nil, nil
  end)

  local function build(name, loss, kv, more)
    local context = { teacher = teacher, student = student, loss = loss, kv = kv, seed = 5 }
    for key, value in pairs(more or {}) do context[key] = value end
    return kava.loss.build(name, context)
  end

  -- Forward passes as the loss asks for them.
  local function outputs(loss, batch)
    local needs = loss:needs()
    return teacher:forward(kava.loss.request(batch, needs.teacher)), student:forward(kava.loss.request(batch, needs.student))
  end

  -- Rows [T][D] of real tokens of a [B,T,D] tensor, as Lua numbers.
  local function real_rows(t)
    local out, all = {}, t:totable()
    for i = 1, 6 do out[#out + 1] = all[1][i] end
    for i = 1, 4 do out[#out + 1] = all[2][i] end
    return out
  end

  local function dot(a, b)
    local sum = 0
    for i = 1, #a do sum = sum + a[i] * b[i] end
    return sum
  end

  local function mean_over_rows(pair, f)
    local mine, target = real_rows(pair.student), real_rows(pair.target)
    local sum = 0
    for i = 1, #mine do sum = sum + f(mine[i], target[i]) end
    return sum / #mine
  end

  local by_hand = {}
  function by_hand.cosine(s, t) return dot(s, t) / math.sqrt(dot(s, s) * dot(t, t)) end
  function by_hand.magnitude(s, t) return (math.log(math.sqrt(dot(s, s))) - math.log(math.sqrt(dot(t, t)))) ^ 2 end
  function by_hand.mse(s, t)
    local sum = 0
    for i = 1, #s do sum = sum + (s[i] - t[i]) ^ 2 end
    return sum / #s
  end
  function by_hand.huber(s, t)
    local sum = 0
    for i = 1, #s do
      local d = math.abs(s[i] - t[i])
      sum = sum + (d < 1 and d * d / 2 or d - 0.5)
    end
    return sum / #s
  end
  local function mercator_of(pair)
    return 1 - mean_over_rows(pair, by_hand.cosine) + 0.01 * mean_over_rows(pair, by_hand.magnitude)
  end
  local function mean(list, f)
    local sum = 0
    for _, item in ipairs(list) do sum = sum + f(item) end
    return sum / #list
  end

  it("computes each KV term as written down by hand, over real tokens only", function()
    local formula = {
      mercator = function(list) return mercator_of(list[1]) end,
      hybrid = function(list) return mean(list, mercator_of) end,
      mse = function(list) return mean(list, function(p) return mean_over_rows(p, by_hand.mse) end) end,
      smooth_l1 = function(list) return mean(list, function(p) return mean_over_rows(p, by_hand.huber) end) end,
      layer_matched = function(list) return mean(list, function(p) return 1 - mean_over_rows(p, by_hand.cosine) end) end,
    }
    for name, f in pairs(formula) do
      local loss, batch = build(name, { ce = 0 }), batch_of()
      local teacher_out, student_out = outputs(loss, batch)
      local total = loss:compute(batch, teacher_out, student_out)
      assert.near(f(loss.term.pairs(teacher_out, student_out)), total:item(), 2e-5, name)
    end
  end)

  it("gives the same whatever stands in the padding", function()
    for _, name in ipairs(names) do
      local loss = build(name, { ce = 1, kl = 0.5 })
      local a, b = loss:step(batch_of(0)):item(), loss:step(batch_of(39)):item()
      assert.near(a, b, 1e-5, name)
    end
  end)

  it("structural compares attention maps that teacher and student make from their own queries and keys", function()
    local loss, batch = build("structural", { ce = 0, attention = 1 }), batch_of()
    local teacher_out, student_out = outputs(loss, batch)
    local _, metrics = loss:compute(batch, teacher_out, student_out)
    -- By hand: softmax over the keys a query may see, averaged over heads; KL, mean over real queries and layers.
    local function maps(out, layer, scale)
      local q, k = out.kv:queries(layer):totable(), out.kv:keys(layer):totable()
      return function(b, i)
        local p = {}
        for h = 1, 2 do
          local weight, sum = {}, 0
          for j = 1, i do
            weight[j] = math.exp(scale * dot(q[b][h][i], k[b][h][j]))
            sum = sum + weight[j]
          end
          for j = 1, i do p[j] = (p[j] or 0) + weight[j] / sum / 2 end
        end
        return p
      end
    end
    local sum = 0
    for i, from in ipairs { 2, 4 } do
      local target, mine = maps(teacher_out, from, 8 ^ -0.5), maps(student_out, i, 4 ^ -0.5)
      for b, length in ipairs { 6, 4 } do
        for t = 1, length do
          local p, q = target(b, t), mine(b, t)
          for j = 1, t do sum = sum + p[j] * math.log(p[j] / q[j]) end
        end
      end
    end
    assert.near(sum / 20, metrics.attention:item(), 1e-5)
  end)

  it("structural sees padding on the left as it sees it on the right", function()
    local right = batch_of()
    local left = {
      input_ids = kava.tensor({ { 1, 2, 3, 4, 5, 6 }, { 0, 0, 7, 8, 9, 10 } }, { dtype = "i64" }),
      attention_mask = kava.tensor({ { 1, 1, 1, 1, 1, 1 }, { 0, 0, 1, 1, 1, 1 } }, { dtype = "i64" }),
    }
    local loss, found = build("structural", { ce = 0 }), {}
    for i, batch in ipairs { right, left } do
      local _, metrics = loss:step(batch)
      found[i] = metrics.attention:item() -- which turns with the positions as little as the scores do
    end
    assert.near(found[1], found[2], 1e-5)
  end)

  it("learns nothing, and fails on nothing, where no token is to be predicted", function()
    local one = { input_ids = kava.tensor({ { 3 }, { 4 } }, { dtype = "i64" }), attention_mask = kava.ones(2, 1, { dtype = "i64" }) }
    local total, metrics = build("none", { ce = 1, kl = 1 }):step(one)
    assert.equal(0, total:item())
    assert.is_false(total:requires_grad())
    assert.is_nil(metrics.ce)
    total, metrics = build("layer_matched", { ce = 1 }):step(one)
    assert.is_true(total:requires_grad())
    assert.near(metrics.kv:item(), total:item(), 1e-6)
    total = build("layer_matched", { weight = { from = 1, to = 0, steps = 2 }, ce = 0 }):step(batch_of(), 3)
    assert.equal(0, total:item())
    local figures = kava.evaluate(build("layer_matched"), { one, batch_of() }, {})
    assert.near(figures.ce, kava.evaluate(build("layer_matched"), { batch_of() }, {}).ce, 1e-6)
    assert.error_matches(function() kava.evaluate(build("layer_matched"), { one }, {}) end, "no held%-out row has a second token")
  end)

  it("equals PyTorch's losses on the golden run, through projector and aggregation", function()
    local dir = helper.shared "golden/distill/ref.safetensors"
    if not dir then return pending "skipped: ../shared is not here" end
    dir = dir:match "^(.*)/"
    local ref = assert(kava.safetensors.load(dir .. "/ref.safetensors"))
    local t, s = assert(kava.model.load(dir .. "/teacher")), assert(kava.model.load(dir .. "/student"))
    for _, how in ipairs { "concat", "mean", "weighted" } do
      local loss = kava.loss.build("mercator", { teacher = t, student = s, loss = { ce = 0 }, kv = { method = how, project = "teacher" } })
      for name, p in pairs(loss:parameters()) do p:copy_(ref[how .. ".projector." .. name:match "^keys%.(.*)$"]) end
      local batch = { input_ids = ref["batch.0.input_ids"], attention_mask = ref["batch.0.attention_mask"] }
      assert.near(ref[how .. ".loss.0"]:item(), loss:step(batch):item(), 2e-5)
    end
  end)

  it("has gradients that finite differences confirm, for the student and for what is trained beside it", function()
    for _, name in ipairs(names) do
      local loss, batch = build(name, { ce = 0.5, kl = 0.25 }), batch_of()
      loss:step(batch):backward()
      local trained = { ["model.layers.0.self_attn.k_proj.weight"] = student:parameters()["model.layers.0.self_attn.k_proj.weight"],
        ["model.layers.1.self_attn.v_proj.weight"] = student:parameters()["model.layers.1.self_attn.v_proj.weight"] }
      for key, t in pairs(loss:parameters()) do
        assert.truthy(t.grad, name .. ": no gradient for " .. key)
        if key:find "1.weight$" then trained[key] = t end
      end
      for key, t in pairs(trained) do
        -- Along the gradient's own direction the slope is its norm: one difference tests every element at once. f32 forward
        -- passes leave a few 1e-3 of noise at this step.
        local grad = t.grad:clone()
        local norm, h = grad:norm():item(), 2e-2
        local saved = t:detach():clone()
        local function at(distance)
          t:copy_(saved + grad * (distance / norm))
          return kava.no_grad(function() return loss:step(batch):item() end)
        end
        local slope = (at(h) - at(-h)) / (2 * h)
        t:copy_(saved)
        assert.near(1, slope / norm, 2e-2, ("%s: %s"):format(name, key))
      end
      student:requires_grad(true)
      for _, t in pairs(student:parameters()) do t.grad = nil end
    end
  end)

  it("asks the forward passes for no more than it needs", function()
    local needs = build("mercator", { ce = 0 }, { method = "concat" }):needs()
    assert.is_false(needs.student.values)
    assert.is_false(needs.student.logits)
    assert.falsy(needs.student.hidden)
    assert.falsy(needs.teacher.hidden)
    needs = build("layer_matched", { ce = 1, layer_map = { 1, 3 } }):needs()
    assert.is_true(needs.student.hidden)
    assert.equal(3, needs.teacher.up_to)
    assert.is_true(needs.teacher.values)
    assert.is_nil(build("none", { ce = 1 }):needs().teacher)
    assert.is_nil(build("layer_matched", { ce = 1, weight = 0 }):needs().teacher)
    assert.is_true(build("none", { ce = 0, kl = 1 }):needs().teacher.hidden)
    assert.is_true(build("structural", { ce = 0 }):needs().student.queries)
  end)

  it("maps layers as derive recorded, by depth, by a list or by a function", function()
    local derived = kava.model.derive(teacher, { layers = { 1, 2, 4 } })
    local function map(how, of) return kava.loss.layer_map(how, of or derived, teacher) end
    assert.same({ 1, 2, 4 }, map "recorded")
    assert.same({ 2, 3, 4 }, map "depth")
    assert.same({ 2, 4 }, map("recorded", student))
    assert.same({ 4, 4, 4 }, map { 4, 4, 4 })
    assert.same({ 4, 3, 2 }, map(function(i, students, teachers) return teachers - i + students - 2 end))
    assert.has_error(function() map { 1, 2 } end, "loss.layer_map: 2 entries for the student's 3 layers")
    assert.has_error(function() map { 1, 2, 5 } end, "loss.layer_map: entry 3: a teacher layer from 1 to 4 expected, got 5")
    assert.has_error(function() map "near" end)
  end)

  it("joins unlike widths by a map on the student's side, and like ones by none", function()
    local loss = build("layer_matched", { ce = 0 })
    local count = 0
    for name, t in pairs(loss:parameters()) do
      count = count + 1
      assert.same({ 16, 8 }, t.shape, name)
    end
    assert.equal(4, count)
    student = kava.model.derive(teacher, { layers = 2 })
    assert.same({}, build("layer_matched", { ce = 0 }):parameters())
  end)

  it("projects towards the other side, as kv.project says", function()
    local function dims(side) return build("mercator", { ce = 0 }, { project = side }).term.pieces[1].projector.dims end
    assert.same({ input = 64, hidden = 64, output = 16 }, dims "teacher")
    assert.same({ input = 16, hidden = 16, output = 64 }, dims "student")
    assert.same({ input = 64, hidden = 128, output = 16 },
      build("mercator", { ce = 0 }, { hidden_ratio = 2.0 }).term.pieces[1].projector.dims)
    assert.has_error(function() build("mercator", { ce = 0 }, { project = "none" }) end)
  end)

  it("draws projectors from its own seed and leaves the generator alone", function()
    local function weight(seed) return build("mercator", nil, nil, { seed = seed }):parameters()["keys.1.weight"] end
    assert.is_true(kava.allclose(weight(1), weight(1), { rtol = 0, atol = 0 }))
    assert.is_false(kava.allclose(weight(1), weight(2), { rtol = 0, atol = 0 }))
    kava.seed(77)
    local before = { kava.rng_state() }
    weight(3)
    assert.same(before, { kava.rng_state() })
  end)

  it("weighs its parts by numbers or by schedules over steps", function()
    local batch = batch_of()
    local parts = {}
    for name, weights in pairs { kv = { weight = 1, ce = 0 }, ce = { weight = 0, ce = 1 }, kl = { weight = 0, ce = 0, kl = 1 } } do
      parts[name] = build("layer_matched", weights):step(batch):item()
    end
    local loss = build("layer_matched", { weight = 2, ce = 0.5, kl = 0.25 })
    local total, metrics = loss:step(batch)
    local numbers = kava.loss.numbers(metrics)
    assert.near(2 * parts.kv + 0.5 * parts.ce + 0.25 * parts.kl, total:item(), 1e-4)
    assert.near(parts.kv, numbers.kv, 1e-5)
    assert.near(parts.ce, numbers.ce, 1e-5)
    assert.near(parts.kl, numbers.kl, 1e-5)
    loss = build("layer_matched", { weight = { from = 4, to = 1, schedule = "linear", steps = 10 }, ce = 1 })
    for step, weight in pairs { [1] = 4, [6] = 2.5, [11] = 1, [50] = 1 } do
      assert.near(weight * parts.kv + parts.ce, loss:step(batch, step):item(), 1e-4)
    end
  end)

  it("fails before training, naming what is wrong", function()
    assert.has_error(function() build("layer_matched", { weight = 0, ce = 0 }) end)
    assert.has_error(function() build("no_such_loss") end)
    assert.has_error(function() build("mercator", { ce = -1 }) end)
    assert.has_error(function() build("mercator", { ce = "much" }) end)
    assert.has_error(function() build("mercator", nil, { rope = "later" }) end)
    assert.has_error(function() build(function() return {} end) end)
    local ok, message = pcall(build, "none", { kl = 1 }, nil, { student = tiny(2, 8, { vocab_size = 41 }) })
    assert.is_false(ok)
    assert.matches("vocabulary has 40 entries, the student's 41", message)
    ok, message = pcall(build, function()
      return { pairs = function(a, b) return { { name = "odd", student = b.kv:keys(1), target = a.kv:keys(1) } } end,
        loss = function(list) return list[1].student:mean() end }
    end)
    assert.is_false(ok)
    assert.matches("odd: student %[2, 2, 8, 4%]", message)
  end)
end)

-- Many tensors of one shape at once on a GPU (ops/each): what they give and their gradients, against the CPU, where they go one by one;
-- and the layer-matched loss that stands on them.
local missing = require "spec.cuda.gpu" ()
local agree = require "spec.cuda.agree"
local kava = require "kava"

-- f(leaf, device) -> loss: leaf(shape) is a leaf with random values, the same ones on both devices; after backward() twice their gradients
local function same(f)
  local found = {}
  for _, device in ipairs { "cpu", "cuda" } do
    kava.seed(5)
    local leaves = {}
    local function leaf(...)
      local t = kava.randn({ ... }):to({ device = device }):requires_grad(true)
      leaves[#leaves + 1] = t
      return t
    end
    local step, results = f(leaf, device), {}
    for _ = 1, 2 do
      results.loss = step()
      results.loss:backward()
    end
    for i, t in ipairs(leaves) do results["leaf " .. i] = t.grad end
    found[device] = results
  end
  agree(found.cpu, found.cuda)
end

local function list(count, make)
  local out = {}
  for i = 1, count do out[i] = make(i) end
  return out
end
local function weighed(ys, device)
  local total
  kava.seed(9)
  for _, y in ipairs(ys) do
    local part = (y * kava.randn(y.shape):to { device = device }):sum()
    total = total and total + part or part
  end
  return total
end

describe("linear_each on a GPU", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end

  it("has the CPU's values and gradients, of a few and of more than one product takes", function()
    for _, count in ipairs { 1, 3, 33 } do
      same(function(leaf, device)
        local xs, ws = list(count, function() return leaf(2, 3, 4) end), list(count, function() return leaf(5, 4) end)
        return function() return weighed(kava.linear_each(xs, ws), device) end
      end)
    end
  end)

  it("also of columns of one tensor, side by side and not", function()
    for _, first in ipairs { { 1, 5, 9 }, { 9, 1, 5 }, { 1, 6, 9 } } do
      same(function(leaf, device)
        local x, ws = leaf(2, 3, 12), list(3, function() return leaf(5, 4) end)
        return function()
          local y = x * 2
          return weighed(kava.linear_each(list(3, function(i) return y:narrow(3, first[i], 4) end), ws), device)
        end
      end)
    end
  end)

  it("also where some are not used, not trained, or the same", function()
    same(function(leaf, device)
      local xs, ws = list(3, function() return leaf(3, 4) end), list(3, function() return leaf(5, 4) end)
      return function()
        local ys = kava.linear_each(xs, ws)
        return weighed({ ys[3], ys[1] }, device)
      end
    end)
    same(function(leaf, device)
      local xs, ws = list(3, function() return leaf(3, 4) end), list(3, function() return leaf(5, 4) end)
      xs[2]:requires_grad(false)
      ws[3]:requires_grad(false)
      return function() return weighed(kava.linear_each(xs, ws), device) end
    end)
    same(function(leaf, device)
      local x, w, v = leaf(3, 4), leaf(5, 4), leaf(5, 4)
      return function() return weighed(kava.linear_each({ x, x, x }, { w, v, w }), device) end
    end)
    same(function(leaf, device)
      local x, z, w, v = leaf(3, 4), leaf(2, 3), leaf(5, 4), leaf(2, 3)
      return function() return weighed(kava.linear_each({ x, z }, { w, v }), device) end
    end)
  end)
end)

describe("kava.loss.cosine of lists on a GPU", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end
  local function case(count, change)
    same(function(leaf, device)
      local students, teachers = list(count, function() return leaf(2, 3, 8) end), list(count, function() return leaf(2, 3, 8) end)
      for _, t in ipairs(teachers) do t:requires_grad(false) end
      local options = {}
      if change then change(students, teachers, options, device) end
      return function() return kava.loss.cosine(students, teachers, options) end
    end)
  end

  it("has the CPU's values and gradients, of a few and of more than one launch takes", function()
    for _, count in ipairs { 1, 4, 70 } do case(count) end
    case(3, function(_, _, options, device)
      options.mask = kava.tensor({ { 1, 0, 1 }, { 0, 1, 1 } }, { dtype = "i64" }):to { device = device }
    end)
  end)

  it("also where teachers are trained, students are not, or the same twice", function()
    case(3, function(_, teachers) teachers[2]:requires_grad(true) end)
    case(3, function(students) students[2]:requires_grad(false) end)
    case(3, function(students) students[3] = students[1] end)
  end)

  it("refuses to go back over what was written to", function()
    local s, t = kava.randn({ 2, 4 }):to({ device = "cuda" }):requires_grad(true), kava.randn({ 2, 4 }):to { device = "cuda" }
    local loss = kava.loss.cosine({ s * 2 }, { t })
    t:copy_(t * 3)
    assert.error_matches(function() loss:backward() end, "written to")
  end)
end)

describe("the layer-matched loss on a GPU", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end
  local function create(device, heads, kv_heads, dim, layers)
    return kava.model.create({ model_type = "qwen2", vocab_size = 40, hidden_size = 32, intermediate_size = 48, num_hidden_layers = layers,
      num_attention_heads = heads, num_key_value_heads = kv_heads, head_dim = dim, rms_norm_eps = 1e-6, rope_theta = 1e4,
      tie_word_embeddings = true }, { device = device })
  end
  local function gradients(device, case)
    kava.seed(3)
    local teacher = create(device, 4, 2, case.teacher_dim or 16, 5)
    local student = create(device, 4, 2, 8, 3):requires_grad(true):recompute(case.recompute or "none")
    local loss = kava.loss.build("layer_matched", { teacher = teacher, student = student, loss = { ce = case.ce or 0 }, kv = case.kv })
    local batch = { input_ids = kava.tensor({ { 1, 5, 9, 3, 7, 2 }, { 3, 8, 3, 11, 30, 39 } }, { dtype = "i64" }) }
    batch.attention_mask = case.mask and kava.tensor({ { 1, 1, 1, 1, 1, 1 }, { 0, 0, 1, 1, 1, 0 } }, { dtype = "i64" })
    local needs, found = loss:needs(), {}
    for _ = 1, 2 do
      local teacher_out = kava.no_grad(loss.teach, loss, batch, needs.teacher)
      local student_out = student:forward(kava.loss.request(batch, needs.student))
      found.loss = loss:compute(batch, teacher_out, student_out, 1)
      found.loss:backward()
    end
    for name, t in pairs(student:parameters()) do found[name] = t.grad end
    for name, t in pairs(loss:parameters()) do found["map " .. name] = t.grad end
    return found
  end
  local function check(case) agree(gradients("cpu", case), gradients("cuda", case)) end

  it("has the CPU's gradients, with maps between unlike widths and without", function()
    check { kv = { part = "both" } }
    check { kv = { part = "both" }, teacher_dim = 8 }
    check { kv = { part = "keys", rope = "pre" } }
    check { kv = { part = "values", layers = { 1, 3 } } }
  end)

  it("beside cross entropy, with padding, with layers computed again", function()
    check { kv = { part = "both" }, ce = 1, mask = true }
    check { kv = { part = "both" }, teacher_dim = 8, recompute = "layer", ce = 1 }
    check { kv = { part = "both" }, recompute = "layer" }
  end)

  it("takes few launches, however many layers are matched", function()
    local function launches(layers)
      kava.seed(3)
      local teacher, student = create("cuda", 4, 2, 16, 5), create("cuda", 4, 2, 8, 5):requires_grad(true)
      local loss = kava.loss.build("layer_matched", { teacher = teacher, student = student, loss = { ce = 0 }, kv = { layers = layers } })
      local batch = { input_ids = kava.tensor({ { 1, 5, 9, 3 } }, { dtype = "i64" }) }
      local out = kava.no_grad(loss.teach, loss, batch, { values = true })
      local mine = student:forward(kava.loss.request(batch, { values = true, logits = false }))
      local report = kava.profile.run(function() loss:compute(batch, out, mine, 1) end)
      return #report.spans
    end
    assert.equal(launches { 1, 2 }, launches { 1, 2, 3, 4, 5 })
  end)
end)

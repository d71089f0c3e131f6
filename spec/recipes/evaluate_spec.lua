local kava = require "kava"
local helper = require "spec.helper"

local function tiny(layers, hidden)
  return kava.model.create({ model_type = "llama", vocab_size = 40, hidden_size = hidden, intermediate_size = 2 * hidden,
    num_hidden_layers = layers, num_attention_heads = 2, num_key_value_heads = 2, rms_norm_eps = 1e-5, rope_theta = 1e4,
    tie_word_embeddings = true, eos_token_id = 0 }, { std = 0.3 })
end

local function ids(rows) return kava.tensor(rows, { dtype = "i64" }) end

describe("kava.evaluate", function()
  local teacher, student, batches
  before_each(function()
    kava.seed(4)
    teacher = tiny(4, 16)
    student = kava.model.derive(teacher, { layers = 2 })
    batches = {
      { input_ids = ids { { 1, 2, 3, 4, 5, 6 }, { 7, 8, 9, 10, 0, 0 } },
        attention_mask = ids { { 1, 1, 1, 1, 1, 1 }, { 1, 1, 1, 1, 0, 0 } } },
      { input_ids = ids { { 11, 12, 13 }, { 14, 15, 16 } }, attention_mask = ids { { 1, 1, 1 }, { 1, 1, 1 } } },
    }
  end)
  after_each(function() teacher, student, batches = nil, nil, nil end)

  local function build(name, settings, kv)
    return kava.loss.build(name, { teacher = teacher, student = student, loss = settings, kv = kv, seed = 2 })
  end

  it("gives means over all tokens: CE, KL, agreement as computed from whole logits", function()
    local figures = kava.evaluate(build("layer_matched", { ce = 1 }), batches)
    local ce, kl, same, own, count = 0, 0, 0, 0, 0
    local function log_softmax(row)
      local most, sum = math.max(table.unpack(row)), 0
      for _, x in ipairs(row) do sum = sum + math.exp(x - most) end
      local out = {}
      for i, x in ipairs(row) do out[i] = x - most - math.log(sum) end
      return out
    end
    local function best(row)
      local at = 1
      for i = 2, #row do at = row[i] > row[at] and i or at end
      return at
    end
    for _, batch in ipairs(batches) do
      local t = teacher:forward { input_ids = batch.input_ids }.logits:totable()
      local s = student:forward { input_ids = batch.input_ids }.logits:totable()
      local tokens, mask = batch.input_ids:totable(), batch.attention_mask:totable()
      for b = 1, #tokens do
        for i = 1, #tokens[b] - 1 do
          if mask[b][i + 1] == 1 then
            local p, q = log_softmax(t[b][i]), log_softmax(s[b][i])
            local target = math.tointeger(tokens[b][i + 1]) + 1
            ce, own, count = ce - q[target], own - p[target], count + 1
            same = same + (best(p) == best(q) and 1 or 0)
            for v = 1, 40 do kl = kl + math.exp(p[v]) * (p[v] - q[v]) end
          end
        end
      end
    end
    assert.near(ce / count, figures.ce, 1e-4)
    assert.near(own / count, figures.teacher_ce, 1e-4)
    assert.near(kl / count, figures.kl, 1e-4)
    assert.near(same / count, figures.agreement, 1e-6)
    assert.equal(16, figures.tokens)
  end)

  it("takes as many rows as asked, a part of a batch too", function()
    local loss = build("layer_matched", { ce = 1 })
    for rows, tokens in ipairs { 6, 10, 13, 16, 16 } do assert.equal(tokens, kava.evaluate(loss, batches, { rows = rows }).tokens) end
    local cut = { batches[1], { input_ids = ids { { 11, 12, 13 } }, attention_mask = ids { { 1, 1, 1 } } } }
    local expected, got = kava.evaluate(loss, cut), kava.evaluate(loss, batches, { rows = 3 })
    for _, name in ipairs { "ce", "kl", "loss", "cosine" } do assert.near(expected[name], got[name], 1e-6) end
  end)

  it("weighs batches by tokens, as one batch would", function()
    local loss = build("layer_matched", { ce = 0 })
    local both = kava.evaluate(loss, batches)
    local one, two = kava.evaluate(loss, { batches[1] }), kava.evaluate(loss, { batches[2] })
    assert.near((10 * one.kv + 6 * two.kv) / 16, both.kv, 1e-6)
    assert.near((10 * one.cosine + 6 * two.cosine) / 16, both.cosine, 1e-6)
    assert.near(one.kv, kava.no_grad(function() return loss:step(batches[1]):item() end), 1e-6)
  end)

  it("compares keys layer by layer; of unlike widths it does not", function()
    local figures = kava.evaluate(build("layer_matched", { ce = 1 }), batches)
    assert.equal(2, #figures.cosine_by_layer)
    student = teacher
    figures = kava.evaluate(build("layer_matched", { ce = 1 }), batches)
    for _, cosine in ipairs(figures.cosine_by_layer) do assert.near(1, cosine, 1e-5) end
    assert.near(0, figures.kl, 1e-5)
    assert.near(1, figures.agreement, 1e-9)
    student = tiny(2, 8)
    figures = kava.evaluate(build("layer_matched", { ce = 1 }), batches)
    assert.same({ false, false }, figures.cosine_by_layer)
    assert.is_nil(figures.cosine)
  end)

  it("records nothing, leaves dropout as it was, and needs no teacher", function()
    student:requires_grad(true)
    kava.train(true)
    local loss = build("mercator", { ce = 1 }, { dropout = 0.5 })
    local a, b = kava.evaluate(loss, batches), kava.evaluate(loss, batches)
    assert.equal(a.kv, b.kv)
    assert.is_true(kava.train())
    for _, t in pairs(student:parameters()) do assert.is_nil(t.grad) end
    local alone = kava.loss.build("none", { student = student, loss = { ce = 1 } })
    local figures = kava.evaluate(alone, batches)
    assert.near(a.ce, figures.ce, 1e-5)
    assert.is_nil(figures.kl)
    assert.is_nil(figures.collapse)
  end)

  it("refuses empty data, and puts dropout back when it fails", function()
    kava.train(true)
    assert.has_error(function() kava.evaluate(build("none", { ce = 1 }), {}) end)
    assert.is_true(kava.train())
  end)

  it("shuffles documents within a batch; one row alone is not judged", function()
    local loss = build("layer_matched", { ce = 0 })
    local collapse = kava.evaluate(loss, { batches[2] }).collapse
    -- By hand: each row's student against the other row's teacher.
    local turned = { input_ids = ids { { 14, 15, 16 }, { 11, 12, 13 } }, attention_mask = batches[2].attention_mask }
    local needs = loss:needs()
    local total = kava.no_grad(function()
      return loss:compute(batches[2], teacher:forward(kava.loss.request(turned, needs.teacher)),
        student:forward(kava.loss.request(batches[2], needs.student)))
    end)
    assert.near(total:item(), collapse.shuffled, 1e-6)
    collapse = kava.evaluate(loss, { { input_ids = ids { { 1, 2, 3 } } } }).collapse
    assert.is_nil(collapse.shuffled)
    assert.matches("not judged", collapse.verdict)
  end)
end)

describe("the verdict on collapse", function()
  local function judge(agreement, shuffled, direction, rank)
    return kava.evaluate.verdict { agreement = agreement, shuffled_agreement = shuffled, mean_direction = direction, effective_rank = rank,
      most = 256, dim = 2880 }
  end

  it("names what was measured on a real model, in words", function()
    local collapsed, words = judge(0.9975, 0.995, 0.983, 12.6)
    assert.is_true(collapsed)
    assert.matches("COLLAPSED", words)
    assert.matches("layer_matched", words)
  end)

  it("does not name an honest target, a student that has not learnt, or a near miss", function()
    assert.is_false((judge(0.86, 0.60, 0.7, 80)))
    assert.is_false((judge(0.99, 0.60, 0.7, 80))) -- learnt
    assert.is_false((judge(0.02, 0.01, 0.4, 30))) -- not begun
    assert.is_false((judge(0.97, 0.96, 0.94, 120))) -- keys lean one way in many models: many directions are left
    local collapsed, words = judge(0.93, 0.90, 0.95, 10)
    assert.is_false(collapsed)
    assert.matches("near collapse", words)
  end)
end)

describe("collapse on the demo", function()
  local function train(name, settings, kv, steps)
    local problems = dofile "recipes/problems.lua"
    kava.seed(1)
    local teacher, tokenizer = assert(kava.model.load "assets/demo/teacher.gguf"), assert(kava.tokenizer.load "assets/demo/teacher.gguf")
    local student = kava.model.derive(teacher, { layers = { 2, 4, 6 } }):requires_grad(true)
    local loss = kava.loss.build(name, { teacher = teacher, student = student, loss = settings, kv = kv, seed = 1 })
    local groups = { { params = student:parameters(), lr = 1e-3 } }
    if next(loss:parameters()) then groups[2] = { params = loss:parameters(), lr = 3e-3 } end
    local optimizer = kava.optim.adamw(groups, { weight_decay = 0.01 })
    local at = problems.batches(problems.rows { seed = 1, count = 1000 }, tokenizer, { batch = 16 })
    for step = 1, steps do
      local scope <close> = kava.scope() -- luacheck: ignore 211
      loss:step(at(step), step):backward()
      optimizer:step()
      optimizer:zero_grad()
    end
    local held = problems.batches(problems.rows { seed = 1, count = 32, split = "heldout" }, tokenizer, { batch = 32, shuffle = false })
    return kava.evaluate(loss, { held(1) })
  end

  it("judges packed documents as it does padded ones, whatever the loss", function()
    if not kava.fs.exists "assets/demo/teacher.gguf" then return pending "skipped: assets/demo/teacher.gguf is not here" end
    local path = helper.tmp() .. "/rows.jsonl"
    local problems = dofile "recipes/problems.lua"
    assert(problems.write(path, problems.rows { seed = 1, count = 12, split = "heldout" }))
    local teacher, tokenizer = assert(kava.model.load "assets/demo/teacher.gguf"), assert(kava.tokenizer.load "assets/demo/teacher.gguf")
    local rows = assert(kava.data.tokens(path, tokenizer, { eos = false }))
    local student = kava.model.derive(teacher, { layers = { 1, 3, 6 } })
    for _, name in ipairs { "layer_matched", "mercator", "structural" } do
      local loss = kava.loss.build(name, { teacher = teacher, student = student, loss = { ce = 1, kl = 1 }, seed = 1 })
      local figures = {}
      for _, mode in ipairs { "bucket", "pack" } do
        local list = {}
        for batch in rows:batches { batch = 4, mode = mode, length = 200 } do list[#list + 1] = batch end
        figures[mode] = kava.evaluate(loss, list, { collapse = false })
      end
      assert.equal(figures.bucket.tokens, figures.pack.tokens)
      for _, key in ipairs { "ce", "kl", "kv", "cosine", "agreement", "teacher_ce" } do
        assert.near(figures.bucket[key], figures.pack[key], 1e-5, name .. ": " .. key)
      end
    end
  end)

  it("is what preset=original does, and layer_matched does not", function()
    if not kava.fs.exists "assets/demo/teacher.gguf" then return pending "skipped: assets/demo/teacher.gguf is not here" end
    local original = dofile "configs/presets/original.lua"
    local bad, good = train("mercator", original.loss, original.kv, 30), train("layer_matched", nil, nil, 30)
    assert.is_true(bad.collapse.collapsed, bad.collapse.verdict)
    assert.is_true(bad.kv < 0.1)
    -- The loss is near its floor, and the student has learnt nothing from it.
    assert.is_true(bad.ce > good.ce + 1)
    assert.is_false(good.collapse.collapsed, good.collapse.verdict)
  end)
end)

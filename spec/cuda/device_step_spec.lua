-- The recipe's optimizer step on a GPU: recorded and replayed it gives, bit for bit, what calling it gives, whatever changes between steps.
local missing = require "spec.cuda.gpu" ()
local helper = require "spec.helper"
local kava = require "kava"
local device_step = require "recipes.device_step"
local fit = require "recipes.fit"

local function config(layers, settings)
  return { model_type = "llama", vocab_size = 24, hidden_size = 16, intermediate_size = 24, num_hidden_layers = layers,
    num_attention_heads = 2, num_key_value_heads = settings.kv_heads or 1, rms_norm_eps = 1e-6, rope_theta = 1e4,
    max_position_embeddings = settings.stretched and 2 or 64, rope_scaling = settings.stretched }
end

-- Micro-batch `number` of `rows` rows of `length` tokens, the last of a row padding.
local function batch(number, rows, length)
  local ids, targets, positions, start, mask = {}, {}, {}, {}, {}
  for r = 1, rows do
    for t = 1, length do
      local i, real = #ids + 1, t < length
      ids[i] = real and (number * 7 + r * 3 + t * t) % 24 or 0
      positions[i], start[i], mask[i] = real and t - 1 or 0, real and 0 or t - 1, real and 1 or 0
      targets[i] = t < length - 1 and (number * 7 + r * 3 + (t + 1) * (t + 1)) % 24 or -100
    end
  end
  local function tensor(list, dtype) return kava.tensor(list, { shape = { rows, length }, dtype = dtype }) end
  return { input_ids = tensor(ids, "i64"), targets = tensor(targets, "i64"), positions = tensor(positions, "i32"),
    start = tensor(start, "i32"), mask = tensor(mask, "u8"), tokens = rows * (length - 1) }
end

local LOSSES = {
  mercator = { loss = { name = "mercator", ce = 0 }, kv = { part = "keys", project = "teacher", dropout = 0.3 } },
  layer_matched = { loss = { name = "layer_matched", ce = 1 } },
  ["layer_matched of unlike widths"] = { loss = { name = "layer_matched", ce = 0 }, kv_heads = 2 },
  ["KL and CE"] = { loss = { name = "none", ce = 1, kl = 1 } },
  ["layer_matched, rotated by the rows' length"] = { loss = { name = "layer_matched", ce = 1 },
    stretched = { rope_type = "dynamic", factor = 2.0 } },
  hybrid = { loss = { name = "hybrid", ce = 0.5, weight = { from = 1, to = 0.5, steps = 9 } },
    kv = { project = "student", dropout = 0.3 } },
  ["CE and KL by schedules"] = { loss = { name = "layer_matched", weight = { from = 1, to = 0.5, steps = 9 },
    ce = { from = 1, to = 0.25, steps = 7 }, kl = { from = 2, to = 0.5, steps = 5, schedule = "cosine" } } },
}

local function job(settings, options)
  kava.seed(5)
  local teacher = kava.model.create(config(2, settings), { device = "cuda" })
  local student = kava.model.create(config(1, { stretched = settings.stretched }), { device = "cuda" })
  student:requires_grad(true)
  local objective = kava.loss.build(settings.loss.name, { teacher = teacher, student = student, loss = settings.loss, kv = settings.kv,
    seed = 3 })
  local extra = objective:parameters()
  local groups = { { params = student:parameters(), lr = 1e-2 } }
  if next(extra) then groups[2] = { params = extra, lr = 1e-2 } end
  local self = { student = student, optimizer = kava.optim.adamw(groups), lines = {}, objective = objective, figures = {} }
  self.step = device_step.new { objective = objective, optimizer = self.optimizer, parameters = { student:parameters(), extra }, clip = 0.5,
    device = "cuda", lengths = 8, record = options.record, scaling = options.scaling,
    say = function(line) self.lines[#self.lines + 1] = line end }
  function self.batches(step) return { batch(step, 2, 5), batch(step + 50, step == 4 and 1 or 2, 5) } end
  -- Steps first … last; each is read when the next one is under way.
  function self.run(first, last, rows)
    kava.train(true)
    local before
    for step = first, last do
      self.optimizer:set_lr(1, 1e-2 / step)
      local figures = self.step:run(self.batches(step), rows or 2, step)
      if before then self.figures[#self.figures + 1] = before:read() end
      before = figures
    end
    self.figures[#self.figures + 1] = before:read()
    kava.train(false)
  end
  return self
end

local function same_weights(a, b)
  for name, t in pairs(a.student:parameters()) do
    assert.is_true(kava.allclose(b.student:parameters()[name], t, { rtol = 0, atol = 0 }), name)
  end
end

local function recordings(self)
  local count = 0
  for _, entry in pairs(self.step.entries) do count = count + (entry.replay and 1 or 0) end
  return count
end

describe("an optimizer step on a GPU", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end
  after_each(function() kava.matmul_precision "f32" end)

  for name, settings in pairs(LOSSES) do
    it("is the same recorded as called: " .. name, function()
      local called, recorded = job(settings, {}), job(settings, { record = true })
      for _, one in ipairs { called, recorded } do
        kava.seed(9)
        one.run(1, 5) -- the fourth has other shapes than the rest
      end
      assert.equal(0, recordings(called))
      assert.is_true(recordings(recorded) == 1)
      assert.same(called.figures, recorded.figures)
      assert.is_true(called.figures[1].loss ~= called.figures[2].loss)
      same_weights(called, recorded)
    end)
  end

  -- Steps first … last as a loop of ops with weights that are numbers, for objective and optimizer of a job that runs nothing else.
  local function plainly(one, first, last)
    local parameters = { one.student:parameters(), one.objective:parameters() }
    kava.train(true)
    for step = first, last do
      one.optimizer:set_lr(1, 1e-2 / step)
      local list, sums, taught = one.batches(step), {}, false
      for i, share in ipairs(kava.loss.shares(list)) do
        local total, metrics = one.objective:step(list[i], step, share)
        if total:requires_grad() then
          total:backward()
          taught = true
        end
        kava.loss.gather(sums, metrics, share)
      end
      sums.grad_norm = taught and kava.optim.clip_gradients(parameters, 0.5):narrow(1, 1, 1):item() or 0
      if taught then assert(one.optimizer:step()) end
      one.optimizer:zero_grad()
      one.figures[#one.figures + 1] = sums
    end
    kava.train(false)
  end

  -- From 0 to more in steps 3 and 4, less in 5 and 6, 0 from 7 on.
  local function rises(step) return math.max(0, 1 - math.abs(step - 4.5) / 2) end
  local RISING = { from = 0.7, to = 0, steps = 20, schedule = rises }
  local SETS = {
    ["CE beside the KV term"] = { loss = { name = "layer_matched", ce = RISING }, recordings = 2, asked = 14 },
    ["KL beside CE"] = { loss = { name = "none", ce = { from = 1, to = 0.5, steps = 8 }, kl = RISING }, recordings = 2, asked = 8 },
    ["the KV term beside CE"] = { loss = { name = "layer_matched", weight = RISING, ce = 1 }, kv_heads = 2, recordings = 2, asked = 8 },
    ["KL and nothing beside it"] = { loss = { name = "none", ce = 0, kl = RISING }, recordings = 2, asked = 8, idle = true },
  }
  for name, settings in pairs(SETS) do
    it("is recorded once for each set of terms, where a weight leaves 0 and comes back: " .. name, function()
      local called, recorded, plain = job(settings, {}), job(settings, { record = true }), job(settings, {})
      local asked, teach = 0, called.objective.teach
      function called.objective:teach(...)
        asked = asked + 1
        return teach(self, ...)
      end
      called.run(1, 7)
      recorded.run(1, 7)
      plainly(plain, 1, 7)
      assert.equal(settings.asked, asked) -- two parts a step: not where no term reads it
      assert.equal(settings.recordings, recordings(recorded))
      assert.same({}, recorded.lines)
      assert.same(called.figures, recorded.figures)
      same_weights(called, recorded)
      for step = 1, 7 do
        local there, want = recorded.figures[step], plain.figures[step]
        want.loss = want.loss or there.loss
        for key, value in pairs(want) do
          assert.near(value, there[key], 1e-5 * math.max(1, math.abs(value)), ("%s of step %d"):format(key, step))
        end
        if settings.idle then assert.equal(rises(step) > 0, there.grad_norm > 0) end
      end
      for key, t in pairs(plain.student:parameters()) do
        assert.is_true(kava.allclose(recorded.student:parameters()[key], t, { rtol = 1e-4, atol = 1e-4 }), key)
      end
    end)
  end

  it("gives the gradient of the mean over all tokens, however it is cut", function()
    local whole, cut = job(LOSSES.layer_matched, { record = true }), job(LOSSES.layer_matched, { record = true })
    whole.run(1, 1, 2)
    cut.run(1, 1, 1)
    for _, name in ipairs { "loss", "ce", "cos_sim", "grad_norm", "tokens" } do
      assert.near(whole.figures[1][name], cut.figures[1][name], 1e-5, name)
    end
  end)

  it("skips a step whose gradient is not finite, and goes on", function()
    local called, recorded = job(LOSSES.layer_matched, {}), job(LOSSES.layer_matched, { record = true })
    for _, one in ipairs { called, recorded } do
      one.run(1, 3)
      local norm = one.student:parameters()["model.norm.weight"]
      local good, state = norm:clone(), one.optimizer:state()
      norm:fill_(math.huge)
      local before = state["1.model.norm.weight.step"]:item()
      one.run(5, 5)
      assert.is_true(one.figures[4].skipped)
      assert.equal(before, state["1.model.norm.weight.step"]:item())
      norm:copy_(good)
      one.run(6, 6)
      assert.is_nil(one.figures[5].skipped)
      one.figures[4] = nil -- NaN equals nothing
    end
    assert.same(called.figures, recorded.figures)
    same_weights(called, recorded)
  end)

  it("scales f16's losses: halved where a gradient overflows, recorded as called", function()
    kava.matmul_precision "f16"
    local called, recorded = job(LOSSES.layer_matched, { scaling = true }), job(LOSSES.layer_matched, { scaling = true, record = true })
    local f32
    for _, one in ipairs { called, recorded } do
      one.step.scale:fill_(2.0 ^ 20) -- too much for f16
      one.run(1, 8)
      local skipped, good, scale = 0, 0, 2.0 ^ 20
      for i, figures in ipairs(one.figures) do
        assert.equal(scale, figures.scale, i)
        good = good + 1
        if figures.skipped then skipped, good, scale = skipped + 1, 0, scale / 2 end
        figures.grad_norm = not figures.skipped and figures.grad_norm or nil -- NaN equals nothing
      end
      assert.is_true(one.figures[1].skipped and skipped < 8)
      assert.equal(scale, one.step.scale:item())
      assert.equal(good, one.step.good:item())
      one.step.scale:fill_(2)
      one.step.good:fill_(1999)
      one.run(9, 9)
      assert.equal(4, one.step.scale:item())
      assert.equal(0, one.step.good:item())
    end
    assert.same(called.figures, recorded.figures)
    same_weights(called, recorded)
    kava.matmul_precision "f32"
    f32 = job(LOSSES.layer_matched, {})
    f32.run(1, 1)
    assert.near(f32.figures[1].loss, called.figures[1].loss, 0.02)
  end)

  it("calls its steps where memory does not hold a recording, and says so once", function()
    local one = job(LOSSES.layer_matched, { record = true })
    one.run(1, 1)
    collectgarbage()
    kava.memory_limit(kava.memory().cuda.current + 20000, "cuda")
    local ok, message = pcall(one.run, 2, 2)
    kava.memory_limit(0, "cuda")
    assert.is_false(ok)
    assert.truthy(message:find("out of memory", 1, true), message)
    assert.equal(1, #one.lines)
    assert.truthy(one.lines[1]:find("recording: out of memory", 1, true), one.lines[1])
    assert.equal(0, recordings(one))
    one.optimizer:zero_grad()
    one.run(3, 5)
    assert.equal(0, recordings(one))
    assert.is_true(one.figures[#one.figures].loss > 0)
  end)

  it("calls its steps where a loss cannot be recorded, and says so once", function()
    local function reads(context)
      local term = require "recipes.loss.layer_matched" (context)
      local own = term.loss
      function term.loss(...)
        local value, more = own(...)
        assert(value:item() >= 0)
        return value, more
      end
      return term
    end
    local settings = { loss = { name = reads } }
    local called, auto = job(settings, {}), job(settings, { record = "auto" })
    called.run(1, 4)
    auto.run(1, 4)
    assert.same(called.figures, auto.figures)
    same_weights(called, auto)
    assert.equal(1, #auto.lines)
    assert.truthy(auto.lines[1]:find "is read while a step is being recorded.*: steps are called from here on", auto.lines[1])
    assert.error_matches(function() job(settings, { record = true }).run(1, 2) end, "is read while a step is being recorded")
    kava.train(false)
  end)

  it("lets other recordings go for one that finds no room beside them", function()
    local one = job(LOSSES.layer_matched, { record = true })
    one.run(1, 2)
    assert.equal(1, recordings(one))
    one.run(4, 4) -- another shape
    local real, tried = one.step.recorder, 0
    one.step.recorder = { release = function() real:release() end, record = function()
      tried = tried + 1
      error("out of memory: as if", 0)
    end }
    one.run(4, 4)
    assert.equal(1, tried)
    assert.equal(1, recordings(one))
    assert.same({}, one.lines)
    one.run(4, 4)
    for _, figures in ipairs(one.figures) do assert.is_nil(figures.skipped) end
  end)

  it("takes fewer rows at once where memory runs out: the step stays the same", function()
    local function step(one, rows) return one.step:run({ batch(1, 4, 16) }, rows, 1):read() end
    local peaks, whole = {}, nil
    for _, rows in ipairs { 4, 2 } do
      local one = job(LOSSES.layer_matched, {})
      kava.train(true)
      collectgarbage()
      collectgarbage()
      kava.memory_reset_peak()
      local before = kava.memory().cuda.current
      local figures = step(one, rows)
      whole = whole or figures
      peaks[rows] = kava.memory().cuda.peak - before
    end
    local one, said = job(LOSSES.layer_matched, { record = true }), {}
    collectgarbage()
    collectgarbage()
    kava.memory_limit(kava.memory().cuda.current + (peaks[4] + peaks[2]) // 2, "cuda")
    local rows, figures = fit.within(4, function(rows) return step(one, rows) end, function()
      one.optimizer:zero_grad()
      return one.step:forget()
    end, function(rows, message) said[#said + 1] = rows .. message end)
    kava.memory_limit(0, "cuda")
    kava.train(false)
    assert.equal(2, rows)
    assert.equal(1, #said)
    assert.truthy(said[1]:find "^2out of memory: %d+ bytes asked for, %d+ in use", said[1])
    for name, value in pairs(whole) do assert.near(value, figures[name], 1e-5, name) end
  end)

  -- 12 rows, 4 a step as two batches; in the second epoch those of a step are batched otherwise. Rows 2, 6 and 10 are shorter.
  local function epochs(one, first, last)
    kava.train(true)
    local before
    for step = first, last do
      local list = {}
      for half = 1, 2 do
        local base = (step - 1) % 3 * 4
        local rows = step <= 3 and { base + half, base + half + 2 } or { base + 5 - half, base + 3 - half }
        local made, pieces = {}, {}
        for at, row in ipairs(rows) do
          made[at] = batch(row, 1, row % 4 == 2 and 4 or 5)
          pieces[at] = { row = row, first = 1, length = made[at].tokens, column = 1, at = at }
          for name, t in pairs(made[at]) do
            if type(t) == "userdata" and t.shape[2] == 4 then
              local fill = { targets = -100, start = 4 }
              made[at][name] = kava.cat({ t, kava.full({ 1, 1 }, fill[name] or 0, { dtype = t.dtype }) }, 2)
            end
          end
        end
        local joined = { tokens = made[1].tokens + made[2].tokens, pieces = pieces }
        for name, t in pairs(made[1]) do
          if type(t) == "userdata" then joined[name] = kava.cat({ t, made[2][name] }, 1) end
        end
        list[half] = joined
      end
      local figures = one.step:run(list, 2, step)
      if before then one.figures[#one.figures + 1] = before:read() end
      before = figures
    end
    one.figures[#one.figures + 1] = before:read()
    kava.train(false)
  end

  for _, name in ipairs { "mercator", "layer_matched", "KL and CE" } do
    it("learns the same bits from a teacher's cache, which knows all rows after an epoch: " .. name, function()
      local plain = job(LOSSES[name], { record = true })
      kava.seed(9)
      epochs(plain, 1, 6)
      local folder = helper.tmp()
      local ways = { { record = true }, {}, { record = true, folder = folder }, { record = true, folder = folder } }
      for i, how in ipairs(ways) do
        if i > 1 and name ~= "layer_matched" then break end
        local one = job(LOSSES[name], how)
        local cache = assert(kava.teacher_cache.open(one.objective, { folder = how.folder }))
        one.objective.cache = cache
        assert.equal(i == 4 and 12 or 0, cache.count)
        local asked, teach = 0, one.objective.teach
        function one.objective:teach(...)
          asked = asked + 1
          return teach(self, ...)
        end
        kava.seed(9)
        epochs(one, 1, 6)
        assert.equal(({ 4, 6, 4, 0 })[i], asked) -- replays ask nobody
        assert.equal(12, cache.count)
        assert.same(plain.figures, one.figures)
        same_weights(plain, one)
        cache:flush()
      end
    end)
  end

  it("is not begun again where its figures find no pinned memory", function()
    local called, short = job(LOSSES.layer_matched, {}), job(LOSSES.layer_matched, { record = true })
    called.run(1, 3)
    local fetch = kava.fetch
    finally(function() kava.fetch = fetch end)
    kava.fetch = function() error("out of memory: 64 bytes of pinned host memory asked for", 0) end -- luacheck: ignore 122
    short.run(1, 3)
    assert.same(called.figures, short.figures)
    same_weights(called, short)
  end)

  it("names a token that a model does not know", function()
    local one = job(LOSSES.layer_matched, {})
    local bad = batch(1, 2, 5)
    bad.input_ids:fill_(24)
    assert.error_matches(function() one.step:run({ bad }, 2, 1) end, "token 24: the student's vocabulary has 24 entries")
  end)
end)

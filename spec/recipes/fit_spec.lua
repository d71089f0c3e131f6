-- What fits into memory, on a model of a few thousand weights: the probes find the largest micro-batch under an artificial limit, and a
-- step whose memory runs out anywhere goes on with half the rows and gives the same gradient.
local helper = require "spec.helper"
local kava = require "kava"
local fit = require "recipes.fit"
local tune = require "recipes.tune"
local tiny = require "spec.tiny"

local MIB = 1 << 20

describe("fit", function()
  local dir, teacher, student, objective, optimizer, data

  local threads = kava.threads()

  setup(function()
    kava.threads(1)
    dir = helper.tmp()
    tiny.model(dir .. "/teacher", { layers = 3, hidden = 64 })
    teacher = assert(kava.model.load(dir .. "/teacher"))
    student = kava.model.derive(teacher, { layers = 2, dtype = "f32" })
    student:requires_grad(true)
    objective = kava.loss.build("layer_matched", { teacher = teacher, student = student, loss = { name = "layer_matched", ce = 1 },
      kv = { part = "both" }, seed = 1 })
    optimizer = kava.optim.adamw({ { params = student:parameters(), lr = 1e-3 } }, {})
    local lines = {}
    for i = 1, 12 do lines[i] = ('{"question": "%s", "answer": "ok"}'):format(("word "):rep(2 + i * 7 % 12)) end
    data = assert(kava.data.tokens(helper.write(dir .. "/rows.jsonl", table.concat(lines, "\n")),
      assert(kava.tokenizer.load(dir .. "/teacher")), { max_length = 64, eos = false }))
  end)

  teardown(function()
    kava.memory_limit(0)
    kava.threads(threads)
    teacher, student, objective, optimizer, data = nil, nil, nil, nil, nil
  end)

  local function gradients()
    local list = {}
    for name, t in pairs(student:parameters()) do list[name] = t.grad and t.grad:clone() end
    optimizer:zero_grad()
    return list
  end

  local function batches()
    local list = {}
    for batch in data:batches({ batch = 6, seed = 3, mode = "bucket" }) do list[#list + 1] = batch end
    return list
  end

  local function close(expected, got)
    local count = 0
    for name, t in pairs(expected) do
      -- Sums over some 500 tokens in another order: a few of f32's last places, of gradients up to 1.
      local same, most, where = kava.allclose(t, got[name], { rtol = 2e-5, atol = 2e-6 })
      assert(same, ("%s: %g at %s"):format(name, most, tostring(where)))
      count = count + 1
    end
    assert.truthy(count > 10)
  end

  it("cuts a batch into its rows, each token once", function()
    for _, batch in ipairs(batches()) do
      for rows = 1, 7 do
        local parts = fit.cut(batch, rows)
        assert.equal(math.ceil(6 / rows), #parts)
        local tokens, ids, seen = 0, {}, {}
        for i, part in ipairs(parts) do
          tokens, ids[i] = tokens + part.tokens, part.input_ids
          for _, piece in ipairs(part.pieces) do -- which tokens of which row of the data lie where
            local row = data:row(piece.row)
            assert.is_nil(seen[piece.row])
            seen[piece.row] = true
            for n = 1, piece.length do assert.equal(row[piece.first + n - 1], part.input_ids:totable()[piece.at][piece.column + n - 1]) end
          end
        end
        assert.equal(batch.tokens, tokens)
        for _, row in ipairs(batch.rows) do assert.is_true(seen[row]) end
        assert.truthy(kava.allclose(batch.input_ids, kava.cat(ids, 1)))
      end
    end
  end)

  it("gives the same gradient and the same figures, however a step is cut", function()
    local whole = fit.gradients(objective, batches(), 6, 1)
    local expected = gradients()
    for _, rows in ipairs { 1, 2, 4 } do
      local sums = fit.gradients(objective, batches(), rows, 1)
      close(expected, gradients())
      for name, value in pairs(whole) do assert.near(value, sums[name], 2e-5 * math.max(1, math.abs(value)), name) end
    end
  end)

  it("finds the largest micro-batch that fits under a limit, in at most 5 probes", function()
    local ids = fit.longest_row(data, "bucket", 64)
    assert.equal(data.longest, #ids)
    local run = { objective = objective, optimizer = optimizer, target = 32, device = "cpu" }
    local models = { row_tokens = #ids, typical_tokens = 1, fixed_bytes = kava.memory().cpu.current,
      student = { layers = 2, hidden = 64, intermediate = 128, kv_dim = 32 } }
    local facts = { cpus = 1, device = "cpu", precision = "f32", why = {} }
    local function config(bytes)
      return { batch_size = "auto", target_batch = 32, device = "cpu", precision = "f32", threads = 0, memory_limit = bytes / 2 ^ 30,
        hardware = { gpu_detection = {}, precision = {} },
        training = { auto_tune = true, batch_size = { auto_detect = true, strategy = "max_fit" },
          gradient_accumulation = { auto_compute = true } } }
    end

    -- What it really takes, from runs without a limit.
    local takes = {}
    for _, probe in ipairs(fit.probes(run, tune.plan(facts, config(1 << 40), models), ids)) do
      takes[probe.rows] = probe.bytes
      assert.truthy(probe.seconds > 0 and probe.seconds < 60)
    end
    assert.truthy(takes[32] > 4 * MIB)
    local function really_fits(rows, bytes) -- a step as training takes it
      kava.memory_limit(bytes)
      local ok, problem = pcall(function()
        local batch = fit.batch(ids, rows)
        fit.gradients(objective, rows < 32 and { batch, batch } or { batch }, rows, 1)
        assert(optimizer:reserve())
      end)
      kava.memory_limit(0)
      optimizer:zero_grad()
      assert(ok or fit.out_of_memory(problem), problem)
      collectgarbage()
      collectgarbage()
      return ok
    end
    local fixed = kava.memory().cpu.current
    local seen = {}
    for _, share in ipairs { 1.01, 0.7, 0.4, 0.2, 0.1, 0.05 } do
      local bytes = fixed + math.floor(share * (takes[32] - fixed))
      local plan = tune.plan(facts, config(bytes), models)
      local seed, position = kava.rng_state()
      local probes = fit.probes(run, plan, ids)
      local after_seed, after_position = kava.rng_state()
      assert.same({ seed, position }, { after_seed, after_position })
      assert.truthy(#probes <= 5)
      local chosen = tune.decide(facts, config(bytes), models, probes).batch_size or 0
      seen[chosen] = true
      local best = 0
      for _, rows in ipairs(plan.rows) do
        if really_fits(rows, bytes) then best = rows end
      end
      -- one step of the divisors of 32 is a factor of two
      assert.truthy(chosen <= best and 2 * chosen >= best, ("%d chosen, %d fit into %d bytes"):format(chosen, best, bytes))
    end
    assert.truthy(seen[32] and (seen[16] or seen[8]) and (seen[4] or seen[2]), "limits that tell nothing apart")
    assert.equal(0, kava.memory().cpu.limit)
    assert.truthy(next(gradients()) == nil)
  end)

  it("finds it on a GPU, whose garbage is collected before it is full", function()
    local there = kava.device "cuda"
    if not there then return pending "skipped: no GPU, and none is emulated" end
    local on = { teacher = assert(kava.model.load(dir .. "/teacher", { device = "cuda" })) }
    on.student = kava.model.derive(on.teacher, { layers = 2, dtype = "f32" })
    on.student:requires_grad(true)
    on.objective = kava.loss.build("layer_matched", { teacher = on.teacher, student = on.student, loss = { name = "layer_matched", ce = 1 },
      kv = { part = "both" }, seed = 1 })
    on.optimizer = kava.optim.adamw({ { params = on.student:parameters(), lr = 1e-3 } }, {})
    local ids = fit.longest_row(data, "bucket", 16)
    local run = { objective = on.objective, optimizer = on.optimizer, target = 8, device = "cuda" }
    local function plan(budget)
      return { rows = { 1, 2, 4 }, budget = budget, fixed = 0, per_row = 1, tokens = #ids, why_top = "" }
    end
    local takes = {}
    for _, rows in ipairs { 1, 2, 4 } do
      local one = plan(1 << 40)
      one.rows = { rows }
      takes[rows] = fit.probes(run, one, ids)[1].bytes
    end
    assert.truthy(takes[4] > takes[2] and takes[2] > takes[1], ("%d %d %d"):format(takes[1], takes[2], takes[4]))
    local probes = fit.probes(run, plan((takes[2] + takes[4]) // 2), ids)
    for _, probe in ipairs(probes) do assert.equal(probe.rows <= 2, probe.fits) end
    assert.equal(0, kava.memory().cuda.limit)
    local before = kava.memory().cuda.current
    kava.memory_limit(before + (1 << 20), "cuda")
    for _ = 1, 64 do kava.zeros({ 1 << 14 }, { device = "cuda" }) end -- 4 MiB in all, of which nothing is held
    assert.error_matches(function() kava.zeros({ 1 << 20 }, { device = "cuda" }) end, "device cuda: out of memory: 4194304 bytes asked for")
    kava.memory_limit(0, "cuda")
  end)

  it("computes activations again where nothing else lets one row fit", function()
    local ids = fit.longest_row(data, "pack", 64)
    local run = { objective = objective, optimizer = optimizer, target = 32, device = "cpu" }
    local function plan(budget)
      return { rows = { 32 }, budget = budget, fixed = 0, per_row = 1, tokens = #ids, why_top = "" }
    end
    local takes, how = {}, "none"
    for _, what in ipairs { "none", "layer" } do
      student:recompute(what)
      takes[what] = fit.probes(run, plan(1 << 40), ids)[1].bytes
    end
    student:recompute "none"
    assert.truthy(takes.none - takes.layer > 100000, ("%d %d"):format(takes.none, takes.layer))
    function run.relieve()
      how = fit.less[how]
      if how then student:recompute(how) end
      return how
    end
    local probes = fit.probes(run, plan(takes.layer + 1000), ids)
    student:recompute "none"
    assert.is_true(probes[#probes].fits)
    assert.equal("layer", how)
  end)

  it("says when not even one row fits", function()
    local ids = fit.longest_row(data, "pack", 64)
    assert.equal(64, #ids)
    local plan = { rows = { 1, 2, 4 }, budget = kava.memory().cpu.current + 1000, fixed = 0, per_row = 1, tokens = #ids, why_top = "" }
    local probes = fit.probes({ objective = objective, optimizer = optimizer, target = 4, device = "cpu" }, plan, ids)
    for _, probe in ipairs(probes) do assert.is_false(probe.fits) end
    assert.equal(1, probes[#probes].rows)
  end)

  it("goes on with half the rows wherever an allocation fails, leaks nothing, and gives the same gradient", function()
    local list = batches()
    local expected
    local function step(fail) -- one step in which that allocation fails -> rows in the end
      local lowered = {}
      kava.memory_fail_after(fail)
      local rows, sums = fit.within(6, function(rows)
        local sums = fit.gradients(objective, list, rows, 1)
        sums.grad_norm = kava.optim.clip_grad_norm(student:parameters(), math.huge)
        local made, message = optimizer:reserve()
        if not made then error(message, 0) end
        return sums
      end, function() optimizer:zero_grad() end, function(n, message)
        lowered[#lowered + 1] = n
        assert.matches("out of memory %(provoked by a test%): %d+ bytes asked for", message)
      end)
      local passed = #lowered == 0
      kava.memory_fail_after(-1)
      assert.same(passed and {} or { 3 }, lowered)
      assert.equal(passed and 6 or 3, rows)
      assert.truthy(sums.grad_norm > 0)
      return passed
    end
    step(-1)
    expected = gradients()
    collectgarbage()
    collectgarbage()
    local live, blocks = kava.live(), kava.memory().cpu.blocks
    local failed, at, stride = 0, 0, 1
    while not step(32 * stride) do stride = 2 * stride end -- 16 to 32 places, spread over all of the step's allocations
    gradients()
    while true do
      optimizer = kava.optim.adamw({ { params = student:parameters(), lr = 1e-3 } }, {}) -- its state is made within the step, too
      if step(at) then break end
      failed, at = failed + 1, at + stride + 1
      close(expected, gradients())
      optimizer = nil
      collectgarbage()
      collectgarbage()
      assert(kava.live() <= live, ("%d objects left behind by allocation %d"):format(kava.live() - live, at))
      assert(kava.memory().cpu.blocks <= blocks, ("%d blocks left behind by allocation %d"):format(kava.memory().cpu.blocks - blocks, at))
    end
    assert.truthy(failed >= 12, failed .. " failures in a step")
    gradients()
  end)

  it("ends where one row is too many, and passes on what is no lack of memory", function()
    local tries = {}
    local rows, message = fit.within(5, function(n)
      tries[#tries + 1] = n
      error("here: out of memory: 7 bytes asked for, 3 in use", 0)
    end, function() end, function() end)
    assert.is_nil(rows)
    assert.equal("out of memory: 7 bytes asked for, 3 in use", message)
    assert.same({ 5, 2, 1 }, tries)
    local undone
    local ok, problem = pcall(fit.within, 5, function() error("another fault", 0) end, function() undone = true end)
    assert.is_false(ok)
    assert.is_true(undone)
    assert.matches("another fault.*traceback", tostring(problem))
    assert.matches("^free: .*%d+ bytes in the machine", fit.free "cpu")
    if not require "spec.cuda.gpu" () then assert.matches("^free: %d+ bytes on the GPU$", fit.free "cuda") end
  end)
end)

local tune = require "recipes.tune"

local facts = { cpus = 16, memory = 8 << 30, device = "cpu", precision = "bf16", why = { cpus = "c", device = "d", precision = "p" } }
local shape = { layers = 2, hidden = 64, intermediate = 128, kv_dim = 64 }
local small = { fixed_bytes = 1 << 20, row_tokens = 512, typical_tokens = 64, student = shape }

-- The defaults, and what a spec wants otherwise.
local function complete(config)
  local full = { batch_size = "auto", target_batch = 32, device = "auto", precision = "auto", threads = 0, memory_limit = "auto",
    hardware = { gpu_detection = { auto_detect = true, fallback_to_cpu = true }, precision = { auto_detect = true, fallback = "f32" } },
    training = { auto_tune = true, batch_size = { auto_detect = true, strategy = "max_fit" },
      gradient_accumulation = { auto_compute = true, steps = 1 } } }
  for key, value in pairs(config) do full[key] = value end
  return full
end

local function decide(config, models, other)
  return tune.decide(other or facts, complete(config), models or small)
end

describe("tune", function()
  it("reaches the target batch exactly, whatever is given", function()
    for target = 1, 40 do
      for given = 1, 50 do
        local d = decide { batch_size = given, target_batch = target }
        assert.equal(target, d.batch_size * d.accumulate)
        assert.truthy(d.batch_size <= given)
      end
    end
    local d = decide { batch_size = 5 }
    assert.equal(4, d.batch_size)
    assert.equal("the largest divisor of target_batch 32 up to batch_size 5", d.why.batch_size)
  end)

  it("gives a CPU enough tokens and no more", function()
    local d = decide {}
    assert.equal(32, d.batch_size)
    local long = { fixed_bytes = 0, row_tokens = 512, typical_tokens = 400, student = small.student }
    assert.equal(4, decide({}, long).batch_size)
  end)

  it("stays within the memory of the job", function()
    local large = { layers = 24, hidden = 896, intermediate = 4864, kv_dim = 256 }
    local big = { fixed_bytes = 1 << 30, row_tokens = 512, typical_tokens = 100, student = large }
    local tight = { cpus = 2, memory = 4 << 30, device = "cpu", precision = "f32", why = facts.why }
    local d = decide({}, big, tight)
    assert.truthy(big.fixed_bytes + d.batch_size * tune.row_bytes(big.student, 512) <= tight.memory)
    assert.truthy(d.why.batch_size:find("fit into", 1, true))
    d = decide({}, big, { cpus = 2, memory = 1 << 29, device = "cpu", precision = "f32", why = facts.why })
    assert.equal(1, d.batch_size)
    assert.truthy(d.why.batch_size:find("more than", 1, true))
  end)

  it("limits the workers and gives every decision a reason", function()
    local d = decide {}
    assert.equal(8, d.workers)
    assert.equal(16, d.threads)
    assert.equal("bf16", d.precision)
    for name in pairs(d) do assert.truthy(name == "why" or d.why[name], name) end
    d = decide { threads = 3, precision = "f32" }
    assert.equal(3, d.workers)
    assert.equal(3, d.threads)
    assert.equal("f32", d.precision)
    d = decide { threads = 500 }
    assert.equal(16, d.threads)
    assert.matches("threads=500, lowered to the CPUs", d.why.threads)
  end)

  it("obeys what is given, and says where nothing may be decided", function()
    local function training(more)
      local all = complete({}).training
      for key, value in pairs(more) do all[key] = value end
      return { training = all }
    end
    local d = decide { batch_size = 4, training = training({ auto_tune = false }).training }
    assert.same({ 4, 8, 32 }, { d.batch_size, d.accumulate, d.target_batch })
    d = decide(training { auto_tune = false })
    assert.equal(2, d.batch_size)
    assert.matches("8.00 GiB here; training.auto_tune=false$", d.why.batch_size)
    local by_table = training { batch_size = { auto_detect = true, strategy = "table" } }
    assert.equal(2, decide(by_table).batch_size)
    assert.falsy(tune.probing(complete(by_table)))
    d = decide(training { batch_size = { auto_detect = false, strategy = "max_fit" } })
    assert.is_nil(d.batch_size)
    assert.equal("batch_size=auto, but training.batch_size.auto_detect=false: give batch_size a number", d.why.batch_size)
    local fixed = training { gradient_accumulation = { auto_compute = false, steps = 3 } }
    d = decide(fixed)
    assert.same({ 32, 3, 96 }, { d.batch_size, d.accumulate, d.target_batch })
    fixed.batch_size = 5
    d = decide(fixed)
    assert.same({ 5, 3, 15 }, { d.batch_size, d.accumulate, d.target_batch })
    assert.truthy(tune.probing(complete {}))
    assert.falsy(tune.probing(complete { batch_size = 4 }))
  end)

  it("takes the table of memory where nothing can be tried", function()
    local function by_table(gib, target)
      return tune.decide({ cpus = 2, memory = gib << 30, device = "cpu", precision = "f32", why = {} }, complete {
        target_batch = target })
    end
    assert.same({ 1, 2, 4, 8, 8 }, { by_table(4).batch_size, by_table(8).batch_size, by_table(16).batch_size, by_table(40).batch_size,
      by_table(80).batch_size })
    assert.equal(3, by_table(40, 9).batch_size) -- a divisor of the target
    assert.matches("by the table of memory", by_table(16).why.batch_size)
    local gpu = { cpus = 2, memory = 256 << 30, device = "cuda", precision = "bf16", gpu = 1, gpus = { { memory = 16 << 30 } }, why = {} }
    assert.equal(4, tune.decide(gpu, complete {}).batch_size)
  end)

  describe("finds what fits", function()
    -- Probes as recipes/fit.lua makes them, of a machine on which n rows take take(n) bytes. -> rows | nil, probes
    local function search(plan, take)
      local probes = {}
      while true do
        local n = tune.next_probe(plan, probes)
        if not n then break end
        for _, before in ipairs(probes) do assert.are_not.equal(before.rows, n) end
        local fits = take(n) <= plan.budget
        probes[#probes + 1] = { rows = n, fits = fits, bytes = fits and take(n) or nil }
      end
      return probes
    end

    local function chosen(target, budget, guess, take)
      local models = { fixed_bytes = guess[1], row_tokens = 1, typical_tokens = 1,
        student = { layers = 1, hidden = guess[2] // 64, intermediate = 0, kv_dim = 0 } }
      local here = { cpus = 1, memory = 1 << 40, device = "cuda", precision = "bf16", why = {} }
      local config = complete { target_batch = target, memory_limit = budget / (1 << 30) }
      local plan = tune.plan(here, config, models)
      local probes = search(plan, take)
      return tune.decide(here, config, models, probes), probes, plan
    end

    it("exactly, in at most 5 probes, whatever memory does and however wrong the prediction is", function()
      math.randomseed(5)
      local most = 0
      for _ = 1, 3000 do
        local target = ({ 1, 2, 12, 32, 48, 96, 360, 720 })[math.random(8)] -- 720 has 30 divisors
        local base, slope, bend = math.random(0, 1000000), math.random(1, 100000), math.random() * math.random(0, 1)
        local function take(n) return base + math.floor(slope * n ^ (1 + bend)) end
        local budget = take(1) + math.random(0, take(target))
        if math.random(10) == 1 then budget = take(1) - 1 end
        local guess = { math.floor(base * 10 ^ (math.random() * 4 - 2)), math.max(64, math.floor(slope * 10 ^ (math.random() * 6 - 3))) }
        local best
        for n = 1, target do
          if target % n == 0 and take(n) <= budget then best = n end
        end
        local decided, probes = chosen(target, budget, guess, take)
        most = math.max(most, #probes)
        assert.equal(best, decided.batch_size, ("%d of %d, %d probes"):format(best or 0, target, #probes))
        assert.equal(best and target // best, decided.accumulate)
      end
      assert.equal(5, most)
    end)

    it("with two probes where the prediction is right", function()
      local function take(n) return 1000 + 6400 * n end
      local decided, probes = chosen(32, take(11), { 1000, 6400 }, take)
      assert.equal(8, decided.batch_size)
      assert.equal(2, #probes)
      assert.equal("the most that fits into memory", decided.why.batch_size)
      assert.equal("rows of 1 tokens in 0.1 MiB: 8 took 0.0 MiB, 16 did not fit", decided.tried)
      decided, probes = chosen(32, take(40), { 1000, 6400 }, take)
      assert.equal(32, decided.batch_size)
      assert.equal(1, #probes)
    end)

    it("within one step where a target has more divisors than 5 probes can tell apart", function()
      for _, n in ipairs { 1, 7, 60, 840, 5040 } do
        local function take(rows) return 77 + 6400 * rows end
        local decided, probes, plan = chosen(5040, take(n), { 5000, 640 }, take)
        local index = {}
        for i, rows in ipairs(plan.rows) do index[rows] = i end
        assert.equal(60, #plan.rows)
        assert.truthy(#probes <= 5)
        assert.truthy(index[n] - index[decided.batch_size] <= 1, ("%d of %d"):format(decided.batch_size, n))
      end
    end)
  end)

  it("keeps below a limit that kills, and takes a given one at its word", function()
    local config = complete {}
    assert.equal(0, (tune.limit({ memory = 1 << 30, device = "cpu", why = {} }, config)))
    local bytes, why = tune.limit({ memory_cap = 1 << 30, device = "cpu", why = { memory_cap = "memory.max" } }, config)
    assert.equal((1 << 30) - math.floor(0.05 * (1 << 30)), bytes)
    assert.equal("51.2 MiB less than memory.max", why)
    assert.equal(76 << 20, (tune.limit({ memory_cap = 100 << 20, device = "cpu", why = { memory_cap = "" } }, config)))
    assert.equal(10 << 20, (tune.limit({ memory_cap = 20 << 20, device = "cpu", why = { memory_cap = "" } }, config)))
    -- what the probes may take is below it, too
    local facts_of_job = { memory = 100 << 20, memory_cap = 50 << 20, device = "cpu", why = { memory_cap = "", memory = "" } }
    assert.equal(26 << 20, (tune.budget(facts_of_job, complete {}, {})))
    local gpu = { device = "cuda", gpu = 1, gpus = { { memory = 1 << 34, memory_free = 10 << 30 } }, memory = 1 << 40, why = {} }
    assert.equal(math.floor(0.7 * (10 << 30)), (tune.budget(gpu, complete {}, {})))
    assert.equal(math.floor(0.7 * (9 << 30)), (tune.budget(gpu, complete {}, { device_bytes = 9 << 30, mapped_bytes = 1 << 40 })))
    gpu.memory_cap = 1 << 30 -- the host's: not what a limit of the GPU's is compared with
    assert.equal(4 << 30, (tune.limit(gpu, complete { memory_limit = 4 })))
    bytes, why = tune.limit({ memory_cap = 1 << 30, device = "cpu", why = {} }, complete { memory_limit = 0.5 })
    assert.equal(1 << 29, bytes)
    assert.equal("memory_limit=0.5", why)
    bytes, why = tune.limit({ memory_cap = 100 << 20, device = "cpu", why = { memory_cap = "memory.max" } }, complete {
      memory_limit = 0.5 })
    assert.equal(76 << 20, bytes)
    assert.equal("memory_limit=0.5, lowered to 24.0 MiB less than memory.max", why)
  end)

  it("says when the time that is left is too short for a step", function()
    local probes = { { rows = 8, fits = true, bytes = 1, seconds = 10 }, { rows = 16, fits = false } }
    local models, config = { typical_tokens = 50, row_tokens = 100 }, complete {}
    local function left(seconds)
      return tune.short_of_time({ time_left_s = seconds, why = { time_left_s = "squeue" } }, config, models, probes)
    end
    assert.is_nil(left(20))
    assert.is_nil(left(nil))
    assert.equal("a step takes about 20 s here, and 19 s are left (squeue): ask the scheduler for a longer limit, or make less of a step "
      .. "(target_batch, data.max_length)", left(19))
  end)
end)

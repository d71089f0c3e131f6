-- How to run here: pure functions from facts, config and the measured models to decisions, each with its reason. What cannot be
-- known without trying is tried by recipes/fit.lua; what to try next, and what follows from it, is decided here.
local hardware = require "recipes.hardware"

local tune = {}

-- Tokens a micro-batch on a CPU. At SmolLM2's shapes in bf16 (scripts/bench/step.lua, 2 cores) the same work took 17 % less processor
-- time at 1,500 tokens than at 370, and 8 % less again at 3,000, with 15 % more memory: about here more stops being worth its memory.
local CPU_TOKENS = 2048
-- Share of the job's memory that weights, optimizer and activations may take together. The rest is what base/memory does not count:
-- Lua's own, pages of files, blocks in pieces, evaluation.
local SHARE = 0.7
-- What is kept free below a limit that kills, for what base/memory does not count: a share of it, and at least so many bytes (the
-- demo's process took 13 MiB beside what was counted), but no more than half.
local SPARE, SPARE_BYTES = 0.05, 24 << 20
tune.PROBES = 5 -- at most

--- Bytes as a message shows them.
function tune.size(bytes)
  return bytes < 1 << 28 and ("%.1f MiB"):format(bytes / (1 << 20)) or ("%.2f GiB"):format(bytes / (1 << 30))
end

-- The micro-batches up to `limit` to choose from, ascending: the divisors of target_batch, with which accumulation reaches it exactly;
-- powers of two where a fixed number of them makes a step (gradient_accumulation.auto_compute=false).
local function candidates(config, limit)
  local list, whole = {}, config.target_batch
  local divides = config.training.gradient_accumulation.auto_compute
  for n = 1, math.min(whole, math.max(1, limit)) do
    if divides and whole % n == 0 or not divides and n & (n - 1) == 0 then list[#list + 1] = n end
  end
  return list
end

--- Bytes one row of a micro-batch keeps for the backward pass, estimated from the student's shape: per layer and token about
--- 16 vectors of the hidden width, 4 of the MLP's, K and V; the head's logits are chunked and do not count.
function tune.row_bytes(shape, tokens)
  return tokens * 4 * shape.layers * (16 * shape.hidden + 4 * shape.intermediate + 4 * shape.kv_dim)
end

--- The micro-batch by memory alone, where no model is there to be tried: 8 GiB 2, 16 GiB 4, 40 GiB 8 rows.
function tune.table(memory)
  for _, line in ipairs { { 40, 8 }, { 16, 4 }, { 8, 2 } } do
    if memory >= line[1] << 30 then return line[2] end
  end
  return 1
end

--- What a run may be handed out at most, 0: no limit. Where a job's own limit kills (a cgroup's, a scheduler's), memory must run out
--- before it is reached, in a way that a run survives. memory_limit is of the device that computes. -> bytes, why
function tune.limit(facts, config)
  local given = config.memory_limit ~= "auto" and math.floor(config.memory_limit * (1 << 30))
  local said, cap = ("memory_limit=%s"):format(config.memory_limit), facts.memory_cap
  if not cap or given and hardware.device(facts, config) ~= "cpu" then return given or 0, given and said end
  local spare = math.min(cap // 2, math.max(math.floor(SPARE * cap), SPARE_BYTES))
  local below = ("%s less than %s"):format(tune.size(spare), facts.why.memory_cap)
  if given and given <= cap - spare then return given, said end
  return cap - spare, given and ("%s, lowered to %s"):format(said, below) or below
end

--- What a step may take together, in bytes -> budget, why. models: mapped_bytes, of files that stay mapped; device_bytes, what a GPU has
--- for this process; or nil. memory_limit as given is taken at its word.
function tune.budget(facts, config, models)
  local limit, why = tune.limit(facts, config)
  if config.memory_limit ~= "auto" then return limit, why end
  local gpu = hardware.device(facts, config) ~= "cpu" and facts.gpu and facts.gpus[facts.gpu]
  local room = models.device_bytes or gpu and (gpu.memory_free or gpu.memory)
  if room then return math.floor(SHARE * room), ("%d %% of the GPU's memory"):format(SHARE * 100) end
  local memory = facts.memory or 4 << 30
  why = facts.memory and facts.why.memory or "the memory is unknown: 4 GiB taken for granted"
  local budget = math.floor(SHARE * math.max(0, memory - (models.mapped_bytes or 0)))
  return limit > 0 and math.min(limit, budget) or budget, ("%d %% of the memory, %s"):format(SHARE * 100, why)
end

--- Whether the micro-batch is to be found by trying.
function tune.probing(config)
  local training = config.training
  return config.batch_size == "auto" and training.auto_tune and training.batch_size.auto_detect
    and training.batch_size.strategy == "max_fit"
end

--- Where a step takes longer than the time that is left, by what the probes took -> a warning
function tune.short_of_time(facts, config, models, probes)
  local last
  for _, probe in ipairs(probes) do
    if probe.seconds and (not last or probe.rows > last.rows) then last = probe end
  end
  if not last or not facts.time_left_s then return nil end
  -- rows of mean length cost their share of the longest ones that were tried, at the least
  local rule = config.training.gradient_accumulation
  local pieces = rule.auto_compute and config.target_batch / last.rows or rule.steps
  local step = last.seconds * pieces * math.min(1, models.typical_tokens / models.row_tokens)
  if step <= facts.time_left_s then return nil end
  return ("a step takes about %.0f s here, and %.0f s are left (%s): ask the scheduler for a longer limit, or make less of a step "
    .. "(target_batch, data.max_length)"):format(step, facts.time_left_s, facts.why.time_left_s)
end

--- What there is to choose from: rows (the micro-batches that reach the target exactly and are not above what helps, ascending), top
--- and why_top (what "helps" is), budget in bytes with why_budget, predict(rows) -> bytes.
function tune.plan(facts, config, models)
  local budget, why_budget = tune.budget(facts, config, models)
  local top, why_top = config.target_batch, "target_batch"
  if hardware.device(facts, config) == "cpu" then
    top = math.max(1, CPU_TOKENS // math.max(1, models.typical_tokens))
    why_top = ("about %d rows of %d tokens fill a CPU's matrix products"):format(top, models.typical_tokens)
  end
  local per_row = tune.row_bytes(models.student, models.row_tokens)
  return { rows = candidates(config, top), top = top, why_top = why_top, budget = budget, why_budget = why_budget,
    fixed = models.fixed_bytes, per_row = per_row, tokens = models.row_tokens }
end

-- Bytes that n rows would take: as the shape says, until probes have measured it.
local function predict(plan, probes, n)
  local less, more -- the two largest that were measured
  for _, probe in ipairs(probes) do
    if probe.bytes and (not more or probe.rows > more.rows) then less, more = more, probe
    elseif probe.bytes and (not less or probe.rows > less.rows) then less = probe end
  end
  if not more then return plan.fixed + n * plan.per_row end
  local base = less and less.bytes - less.rows * (more.bytes - less.bytes) / (more.rows - less.rows) or plan.fixed
  return base + n * math.max(0, more.bytes - base) / more.rows
end

-- The largest of plan.rows that fit and the smallest that did not, as indexes.
local function bounds(plan, probes)
  local low, high = 0, #plan.rows + 1
  for _, probe in ipairs(probes) do
    for i, n in ipairs(plan.rows) do
      if n == probe.rows and probe.fits then low = math.max(low, i) elseif n == probe.rows then high = math.min(high, i) end
    end
  end
  return low, high
end

--- The micro-batch to try next, or nil when it is found. probes: { { rows =, fits =, bytes = measured or nil }, … } so far. The prediction
--- says where to look, halving sees to it that the probes that are left suffice, however wrong it is.
function tune.next_probe(plan, probes)
  local low, high = bounds(plan, probes)
  local left = tune.PROBES - #probes
  if high - low <= 1 or left <= 0 then return nil end
  local guess = low
  for i = low + 1, high - 1 do
    if predict(plan, probes, plan.rows[i]) <= plan.budget then guess = i end
  end
  local reach = 1 << (left - 1) -- what is between two bounds that far apart, the other probes can still find
  if high - low > 2 * reach then guess = (low + high) // 2 else guess = math.max(math.min(guess, low + reach), high - reach) end
  return plan.rows[math.max(low + 1, math.min(high - 1, guess))]
end

-- The micro-batch that probes have found -> rows | nil: not even one row fits, why, what was tried in words
local function found(plan, probes)
  local low, high = bounds(plan, probes)
  local n, tried = plan.rows[low], {}
  for i, probe in ipairs(probes) do
    tried[i] = ("%d %s"):format(probe.rows, probe.fits and "took " .. tune.size(probe.bytes) or "did not fit")
  end
  return n, not n and "not even one row fits" or high > #plan.rows and plan.why_top or "the most that fits into memory",
    ("rows of %d tokens in %s: %s"):format(plan.tokens, tune.size(plan.budget), table.concat(tried, ", "))
end

-- As found, without probes.
local function predicted(plan)
  local n = 0
  for _, rows in ipairs(plan.rows) do
    if predict(plan, {}, rows) <= plan.budget then n = rows end
  end
  if n == 0 then
    return 1, ("one row: %s a row of %d tokens is more than the %s left of memory"):format(tune.size(plan.per_row), plan.tokens,
      tune.size(math.max(0, plan.budget - plan.fixed)))
  end
  if n < plan.rows[#plan.rows] then
    return n, ("%d rows of %d tokens fit into %s at %s each"):format(n, plan.tokens, tune.size(plan.budget - plan.fixed),
      tune.size(plan.per_row))
  end
  return n, ("%s; memory would hold %d"):format(plan.why_top, (plan.budget - plan.fixed) // plan.per_row)
end

-- The micro-batch and its reason.
local function micro_batch(facts, config, models, probes)
  local given, training = config.batch_size, config.training
  if given ~= "auto" then
    if not training.gradient_accumulation.auto_compute then return given, "batch_size as given" end
    local list = candidates(config, given)
    local n = list[#list]
    if n == given then return n, "batch_size as given" end
    return n, ("the largest divisor of target_batch %d up to batch_size %d"):format(config.target_batch, given)
  end
  if not training.batch_size.auto_detect then
    return nil, "batch_size=auto, but training.batch_size.auto_detect=false: give batch_size a number"
  end
  local by_table = not training.auto_tune and "training.auto_tune=false" or training.batch_size.strategy == "table"
    and "training.batch_size.strategy=table" or not models and "nothing to be tried"
  if by_table then
    local memory = facts.gpu and facts.gpus[facts.gpu].memory or facts.memory or 0
    local list = candidates(config, tune.table(memory))
    return list[#list], ("by the table of memory (8 GiB 2, 16 GiB 4, 40 GiB 8 rows): %s here; %s"):format(tune.size(memory), by_table)
  end
  local plan = tune.plan(facts, config, models)
  if probes and #probes > 0 then return found(plan, probes) end
  return predicted(plan)
end

--- Threads that tokenise: as many as there are to compute with, at most 8.
function tune.workers(facts, config)
  return math.min(config.threads > 0 and config.threads or facts.cpus, 8)
end

--- facts, config, models, probes -> decisions with decisions.why; batch_size is nil where probes say that not even one row fits, or the
--- config that it is not to be decided. tried: what the probes were, in words.
--- models (nil: there is none to be tried): fixed_bytes (weights, optimizer), row_tokens (the longest row), typical_tokens (a mean row),
--- student = { layers, hidden, intermediate, kv_dim }, mapped_bytes and device_bytes (see tune.budget). probes: as tune.next_probe.
function tune.decide(facts, config, models, probes)
  local decisions = { why = {} }
  local function decide(name, value, why)
    decisions[name], decisions.why[name] = value, why
  end
  decide("device", hardware.device(facts, config))
  decide("precision", hardware.precision(facts, config, decisions.device))
  if config.threads > facts.cpus then -- more would wait for one another
    decide("threads", facts.cpus, ("threads=%d, lowered to the CPUs this process may run on"):format(config.threads))
  else
    decide("threads", config.threads > 0 and config.threads or facts.cpus, config.threads > 0 and "threads as given" or facts.why.cpus)
  end
  decide("workers", tune.workers(facts, config), "tokenising threads: as many as CPUs, at most 8")
  local n, why, tried = micro_batch(facts, config, models, probes)
  decide("batch_size", n, why)
  decisions.tried = tried
  if not n then return decisions end
  local rule = config.training.gradient_accumulation
  if rule.auto_compute then
    decide("target_batch", config.target_batch, "target_batch")
    decide("accumulate", config.target_batch // n, ("%d rows an optimizer step in micro-batches of %d"):format(config.target_batch, n))
  else
    decide("target_batch", n * rule.steps, ("%d micro-batches of %d rows"):format(rule.steps, n))
    decide("accumulate", rule.steps, "training.gradient_accumulation.steps")
  end
  return decisions
end

--- What was decided here, for the run's config file: as comments, since another machine decides anew.
function tune.text(decisions)
  local lines = { "-- Decided here:" }
  for _, name in ipairs { "device", "precision", "threads", "workers", "batch_size", "accumulate", "target_batch" } do
    lines[#lines + 1] = ("--   %-40s -- %s"):format(("%s = %s"):format(name, decisions[name]), decisions.why[name] or "")
  end
  if decisions.tried then lines[#lines + 1] = "--   tried with " .. decisions.tried end
  return table.concat(lines, "\n") .. "\n"
end

return tune

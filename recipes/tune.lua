-- How to run here: a pure function from facts, config and the measured models to decisions, each with its reason.
local hardware = require "recipes.hardware"

local tune = {}

-- Tokens a micro-batch on a CPU. At SmolLM2's shapes in bf16 (scripts/bench/step.lua, 2 cores) the same work took 17 % less processor
-- time at 1,500 tokens than at 370, and 8 % less again at 3,000, with 15 % more memory: about here more stops being worth its memory.
local CPU_TOKENS = 2048
-- Share of the job's memory that weights, optimizer and activations may take together.
local SHARE = 0.7

local function gib(bytes)
  return ("%.2f GiB"):format(bytes / (1 << 30))
end

-- The largest divisor of `whole` that is at most `limit`: accumulation then reaches the target exactly.
local function divisor(whole, limit)
  for n = math.min(whole, math.max(1, limit)), 1, -1 do
    if whole % n == 0 then return n end
  end
end

--- Bytes one row of a micro-batch keeps for the backward pass, estimated from the student's shape: per layer and token about
--- 16 vectors of the hidden width, 4 of the MLP's, K and V; the head's logits are chunked and do not count.
function tune.row_bytes(shape, tokens)
  return tokens * 4 * shape.layers * (16 * shape.hidden + 4 * shape.intermediate + 4 * shape.kv_dim)
end

-- The micro-batch and its reason.
local function micro_batch(facts, config, models)
  local target = config.target_batch
  if config.batch_size ~= "auto" then
    local n = divisor(target, config.batch_size)
    if n == config.batch_size then return n, "batch_size as given" end
    return n, ("the largest divisor of target_batch %d up to batch_size %d"):format(target, config.batch_size)
  end
  local budget = math.floor(SHARE * (facts.memory or 4 << 30)) - models.fixed_bytes
  local per_row = tune.row_bytes(models.student, models.row_tokens)
  local by_memory = budget // per_row
  local by_speed = math.max(1, CPU_TOKENS // math.max(1, models.typical_tokens))
  local n = divisor(target, math.min(by_memory, by_speed))
  if by_memory < 1 then
    local left = gib(math.max(0, budget))
    return 1, ("one row: %s a row of %d tokens is more than the %s left of memory"):format(gib(per_row), models.row_tokens, left)
  end
  if by_memory <= by_speed then
    return n, ("%d rows of %d tokens fit into %s at %s each"):format(by_memory, models.row_tokens, gib(budget), gib(per_row))
  end
  local why = "about %d rows of %d tokens fill a CPU's matrix products; memory would hold %d"
  return n, why:format(by_speed, models.typical_tokens, by_memory)
end

--- Threads that tokenise: as many as there are to compute with, at most 8.
function tune.workers(facts, config)
  return math.min(config.threads > 0 and config.threads or facts.cpus, 8)
end

--- facts, config, models -> decisions with decisions.why. models: fixed_bytes (weights, optimizer), row_tokens (the longest row),
--- typical_tokens (a mean row), student = { layers, hidden, intermediate, kv_dim }.
function tune.decide(facts, config, models)
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
  decide("batch_size", micro_batch(facts, config, models))
  local n = decisions.batch_size
  decide("accumulate", config.target_batch // n, ("%d rows an optimizer step in micro-batches of %d"):format(config.target_batch, n))
  return decisions
end

return tune

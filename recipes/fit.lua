-- What fits into memory, found out by doing it: the gradients of a step, in as many pieces as memory wants, and the probing that finds the
-- largest micro-batch. tune.lua, which is pure, says what to try and what follows from it; here it is tried.
--
-- A step's rows are drawn in batches, whose size stays what it was for as long as a run lives: it decides which rows make a step. How many
-- of a batch's rows are computed at once may become less at any time; rows, weights and mean of the gradient stay the same. What may
-- change is the order of f32's sums, and which elements dropout drops, where there is any.
local kava = require "kava"
local cli = require "kava.cli"
local tune = require "recipes.tune"

local fit = {}

--- What an error says of memory that ran out: what was asked for and what is in use; nil for any other error.
function fit.out_of_memory(err)
  local text = tostring(err)
  return text:match "out of memory[^\n]*" or text:match "not enough memory" and "out of memory: Lua's own" or nil
end

-- What comes as nil, message is raised like what raises.
local function try(value, message)
  if not value then error(message, 0) end
  return value
end

local TENSORS = { "input_ids", "start", "positions", "mask", "targets" } -- of a batch, [rows, length]

--- A batch as batches of at most `rows` rows: views of it.
function fit.cut(batch, rows)
  local count = batch.input_ids.shape[1]
  if count <= rows then return { batch } end
  local list = {}
  for from = 1, count, rows do
    local part = { pieces = batch.pieces and {} }
    for _, name in ipairs(TENSORS) do
      part[name] = batch[name] and batch[name]:narrow(1, from, math.min(rows, count - from + 1))
    end
    part.tokens = math.tointeger(part.mask:to({ dtype = "f32" }):sum():item())
    list[#list + 1] = part
  end
  for _, piece in ipairs(batch.pieces or {}) do -- a teacher's cache knows a row's tokens by them
    local moved = list[(piece.at - 1) // rows + 1].pieces
    moved[#moved + 1] = { row = piece.row, first = piece.first, length = piece.length, column = piece.column,
      at = (piece.at - 1) % rows + 1 }
  end
  return list
end

--- Adds the gradients of a step's batches, at most `rows` rows at once -> the step's metrics. The gradient is that of the mean over all
--- tokens of the step, however it was cut. each(): called after each part, may raise.
function fit.gradients(objective, batches, rows, step, each)
  local parts, sums = {}, { tokens = 0 }
  for _, batch in ipairs(batches) do
    sums.tokens = sums.tokens + batch.tokens
    for _, part in ipairs(fit.cut(batch, rows)) do parts[#parts + 1] = part end
  end
  for i, share in ipairs(kava.loss.shares(parts)) do
    local scope <close> = kava.scope() -- luacheck: ignore 211
    local loss, metrics = objective:step(parts[i], step, share)
    if loss:requires_grad() then loss:backward() end
    kava.loss.gather(sums, metrics, share)
    if each then each() end
  end
  return sums
end

-- An error on its way out: what says that memory ran out stays bare, a program's fault gets its traceback.
local function passing(err)
  if type(err) ~= "string" or fit.out_of_memory(err) then return err end
  return debug.traceback(err, 2)
end

--- f(rows), and with half of them again as often as memory runs out -> rows, f's result; nil, message when not even one row fits.
--- undo(message) drops what f has begun; message: memory ran out, and where undo says true it has made room, and f is tried with as many
--- rows again. lowered(rows, message) is told of each halving.
function fit.within(rows, f, undo, lowered)
  while true do
    local ok, result = xpcall(f, passing, rows)
    if ok then return rows, result end
    local message = fit.out_of_memory(result)
    local room = undo(message)
    if not message then
      if type(result) == "string" then cli.fail(result) end
      error(result, 0)
    end
    collectgarbage()
    collectgarbage() -- what the finalizers of the first have let go
    if not room then
      if rows == 1 then return nil, message end
      rows = rows // 2
      lowered(rows, message)
    end
  end
end

--- What is free now where `device` computes, for a message: below the limit, and on the GPU or in the machine.
function fit.free(device)
  local stats, parts = kava.memory()[device], {}
  if stats.limit > 0 then parts[1] = ("%d bytes below the limit"):format(math.max(0, stats.limit - stats.current)) end
  if device ~= "cpu" then
    parts[#parts + 1] = ("%d bytes on the GPU"):format(stats.free + stats.reserved - stats.current)
    return "free: " .. table.concat(parts, ", ")
  end
  local file = io.open "/proc/meminfo"
  local kib = file and file:read("a"):match "MemAvailable:%s*(%d+)"
  if file then file:close() end
  if kib then parts[#parts + 1] = ("%d bytes in the machine"):format(kib * 1024) end
  return "free: " .. (#parts > 0 and table.concat(parts, ", ") or "unknown")
end

--- The ids of the longest row that training will see: the data's longest, or a full row of packed documents.
function fit.longest_row(data, mode, length)
  local at = 1
  for i = 1, data:count() do
    if data:length(i) == data.longest then at = i break end
  end
  local row, ids = data:row(at), {}
  for i = 1, mode == "pack" and length or math.min(length, #row) do ids[i] = row[(i - 1) % #row + 1] end
  return ids
end

--- A batch of `rows` times the same ids.
function fit.batch(ids, rows)
  local length, flat, targets, positions = #ids, {}, {}, {}
  for _ = 1, rows do
    for i = 1, length do
      flat[#flat + 1], targets[#targets + 1], positions[#positions + 1] = ids[i], ids[i + 1] or -100, i - 1
    end
  end
  local function tensor(list, dtype) return kava.tensor(list, { shape = { rows, length }, dtype = dtype }) end
  return { input_ids = tensor(flat, "i64"), targets = tensor(targets, "i64"), positions = tensor(positions, "i32"),
    start = kava.zeros({ rows, length }, { dtype = "i32" }), mask = kava.ones({ rows, length }, { dtype = "u8" }),
    tokens = rows * length }
end

-- Two micro-batches in a row, as a step computes them: what the first leaves to the garbage collector stands beside the second.
local function probe(run, ids, rows, budget, each)
  kava.memory_limit(budget, run.device)
  kava.memory_reset_peak()
  local before, after = nil, kava.clock() -- of the last one: the first has pages to touch
  local ok, problem = xpcall(function()
    local batch = fit.batch(ids, rows)
    return fit.gradients(run.objective, rows < run.target and { batch, batch } or { batch }, rows, 1, function()
      before, after = after, kava.clock()
      if each then each() end
    end)
  end, passing)
  local bytes = kava.memory()[run.device].peak
  run.optimizer:zero_grad()
  collectgarbage()
  collectgarbage()
  if not ok and not fit.out_of_memory(problem) then error(problem, 0) end
  return { rows = rows, fits = ok, bytes = ok and bytes or nil, seconds = ok and after - before or nil }
end

--- What may be computed again in the backward pass where that is not enough: less memory for more time.
fit.less = { none = "mlp", mlp = "layer" }

local function any_fits(probes)
  for _, one in ipairs(probes) do
    if one.fits then return true end
  end
  return false
end

--- Tries what plan (tune.plan) leaves open, with the longest row (ids): forward, backward, the optimizer's state in its place. run:
--- objective, optimizer, target (rows a step), device, relieve() (nil, or what is computed again from now on: tried where nothing fits,
--- until it gives nil). each(): called after each micro-batch, may raise. Weights, random numbers and
--- gradients are afterwards as they were. -> probes for tune.decide, each with the seconds a micro-batch took
function fit.probes(run, plan, ids, each)
  local seed, position = kava.rng_state()
  local training, limit = kava.train(), kava.memory()[run.device].limit
  kava.train(true)
  local probes = {}
  local ok, problem = xpcall(function()
    fit.gradients(run.objective, { fit.batch({ table.unpack(ids, 1, 8) }, 1) }, 1, 1) -- says which weights are trained
    try(run.optimizer:reserve())
    run.optimizer:zero_grad()
    collectgarbage()
    collectgarbage()
    repeat
      probes = {}
      while true do
        local rows = tune.next_probe(plan, probes)
        if not rows then break end
        probes[#probes + 1] = probe(run, ids, rows, plan.budget, each)
      end
    until any_fits(probes) or not (run.relieve and run.relieve())
  end, passing)
  run.optimizer:zero_grad()
  kava.memory_limit(limit, run.device)
  kava.train(training)
  kava.rng_state(seed, position)
  if not ok and not fit.out_of_memory(problem) then error(problem, 0) end
  return ok and probes or { { rows = 1, fits = false } }
end

return fit

-- train_adaptive: distils a teacher into a student by matching their KV caches.
--
--   kava recipes/train_adaptive.lua                                        the demo that is shipped
--   kava recipes/train_adaptive.lua --config FILE [--cluster=NAME] [key=value …]
--
-- Read from the bottom: `train` is the whole run, one line a stage. Facts come from env.lua, decisions from paths.lua and tune.lua; what
-- is taught from recipes/loss, aggregations from recipes/aggregate, rates from recipes/schedule. This file has the effects, and fit.lua,
-- which tries what fits into memory.
local kava = require "kava"
local cli = require "kava.cli"
local config = require "kava.config"
local checkpoints = require "kava.checkpoints"
local claim = require "kava.claim"
local log = require "kava.log"
local progress = require "kava.progress"
local deadline = require "recipes.deadline"
local device_step = require "recipes.device_step"
local env = require "recipes.env"
local fit = require "recipes.fit"
local hardware = require "recipes.hardware"
local folders = require "recipes.env.folders"
local paths = require "recipes.paths"
local profiled = require "recipes.profiled"
local tune = require "recipes.tune"

local stage, try = progress.stage, cli.try

local function is_finite(x) return x == x and x ~= math.huge and x ~= -math.huge end

-- What a config says wrong, or asks for in vain.
local function settled(value, message, ...)
  if not value then cli.fail(message, cli.exit.usage) end
  return value, message, ...
end

local function bytes(n) return n and tune.size(n) or "unknown" end

-- ------------------------------------------------------------------------------------------------- models, data, decisions

-- Calls f(…), whose errors are the config's: shown without a traceback, exit code 2.
local function configured(f, ...)
  local results = table.pack(pcall(f, ...))
  if not results[1] then
    local message = tostring(results[2]):gsub("^[^\n:]*train_adaptive%.lua:%d+: ", ""):gsub("^[^\n:]*lua/kava/[%w_]+%.lua:%d+: ", "")
    cli.fail(message, cli.exit.usage)
  end
  return table.unpack(results, 2, results.n)
end

-- The first of the places where `name` may be that is there.
local function locate(key, name, folder)
  if not name then cli.fail(key .. ": nothing given; --help says what it may be", cli.exit.usage) end
  local candidates = paths.candidates(name, folder, cli.root())
  for _, path in ipairs(candidates) do
    if kava.data.exists(path) then return path end
  end
  cli.fail(("%s = %s: not found; looked for %s"):format(key, name, table.concat(candidates, ", ")), cli.exit.usage)
end

-- The teacher as its file has it (quantised weights stay quantised) or quantised here, the student: read, or derived from the teacher's
-- layers.
local function load_models(c, places, device)
  local started = kava.clock()
  local path = locate("teacher.path", c.teacher.path, places.models)
  local quantize = c.teacher.quantize ~= "none" and c.teacher.quantize or nil
  local parts = c.teacher.quantize_parts ~= "auto" and c.teacher.quantize_parts or nil
  local teacher = try(kava.model.load(path, { quantize = quantize, quantize_parts = parts, device = device }))
  local student, origin
  if c.student.path then
    if c.student.layers then cli.fail("student.path and student.layers: one of them expected, both given", cli.exit.usage) end
    local from = locate("student.path", c.student.path, places.models)
    student, origin = try(kava.model.load(from, { dtype = c.student.dtype, device = device })), from
  else
    local from = quantize and try(kava.model.load(path, { device = device })) or teacher -- what the codes lost is not lost to the student
    student = configured(kava.model.derive, from, { layers = c.student.layers, dtype = c.student.dtype })
    origin = "the teacher's layers " .. table.concat(student.layer_map, " ")
  end
  student:requires_grad(true)
  local tokenizer = try(kava.tokenizer.load(path)) -- both read it; settle_tokenizers may find otherwise
  stage("load", ("teacher %s: %s"):format(path, tostring(teacher)), ("%.2f s"):format(kava.clock() - started))
  stage("", ("student %s: %s"):format(origin, tostring(student)))
  return { teacher = teacher, student = student, tokenizer = tokenizer, teacher_tokenizer = tokenizer,
    path = path, student_path = c.student.path and origin }
end

-- Positions match only when both models read a text as the same tokens: compared on rows. Where they differ the run is refused, or the
-- data is made of the student's tokens and the teacher aligned to them.
local function settle_tokenizers(c, models, file, options)
  if not models.student_path then return end
  local other, problem, code = kava.tokenizer.load(models.student_path)
  if not other and code ~= "io" then cli.fail(problem) end
  if not other then return end -- the student brings none: it is fed the teacher's ids, as every model of one family may be
  local numbers, texts = {}, {}
  for text, number in try(kava.data.rows(file, { template = options.template, skip = options.skip })) do
    texts[#texts + 1], numbers[#texts + 1] = text, number
    if #texts == 100 then break end
  end
  local found = kava.tokenizer.compare(models.tokenizer, other, texts)
  if found.same then return end
  local first = found.first
  local where = ("teacher and student tokenise row %d of %s differently (byte %d: %s against %s)"):format(numbers[first.text], file,
    first.byte, first.a or "nothing", first.b or "nothing")
  if c.alignment ~= "bytes" then
    cli.fail(("%s: their positions do not match. alignment=bytes matches keys and values where tokens of both end at the same byte: "
      .. "here at %.0f %% of the student's"):format(where, 100 * found.shared))
  end
  if c.data.mode == "pack" then cli.fail("data.mode=pack: packed documents cannot be aligned; bucket or pad", cli.exit.usage) end
  models.align = kava.align.new { teacher = models.tokenizer, student = other }
  models.tokenizer = other
  stage("align", where, ("%.0f %% of the student's tokens have a target"):format(100 * found.shared))
end

-- A file of rows: as given, or made by a Lua file that has rows{ seed =, count =, split = } and kept in the cache.
local function rows_file(c, places, key, split, count)
  local path = locate("data." .. key, c.data[key], places.data)
  if not path:find "%.lua$" then return path end
  local file <close> = try(io.open(path, "rb"))
  local made = ("%s/%s-%s-%s-%d-%d.jsonl"):format(places.cache, path:match "([^/]+)%.lua$", config.hash(file:read "a"):sub(1, 8), split,
    count, c.data.seed)
  if kava.fs.exists(made) then return made end
  local lines, maker = {}, dofile(path)
  if type(maker) ~= "table" or type(maker.rows) ~= "function" then
    local message = "data.%s = %s: a file that returns { rows = function{ seed =, count =, split = } } expected"
    cli.fail(message:format(key, path), cli.exit.usage)
  end
  for i, row in ipairs(maker.rows { seed = c.data.seed, count = count, split = split }) do lines[i] = try(kava.json.encode(row)) end
  try(kava.fs.write(made, table.concat(lines, "\n") .. "\n"))
  return made
end

-- Rows as tokens, in a cache keyed by content; the held-out rows are a file of their own.
local function load_data(c, places, models, workers)
  local started = kava.clock()
  local made, reason = kava.fs.mkdir(places.cache)
  if not made then cli.fail(("paths.cache: the folder cannot be made: %s"):format(reason)) end
  local options = { template = c.data.template, max_length = c.data.max_length, long = c.data.long, eos = c.data.eos,
    skip = c.data.skip, workers = workers, cache = places.cache }
  local train_file = rows_file(c, places, "train", "train", c.data.count)
  local eval_file = rows_file(c, places, "eval", "heldout", c.data.eval_count)
  settle_tokenizers(c, models, train_file, options)
  local train = try(configured(kava.data.tokens, train_file, models.tokenizer, options))
  local eval = try(configured(kava.data.tokens, eval_file, models.tokenizer, options))
  for _, set in ipairs { train, eval } do
    if set.longest < 2 then cli.fail((set == train and train_file or eval_file) .. ": no row has a second token to predict") end
  end
  local text, stats = "%d rows, %.1f tokens a row, at most %d", train:stats()
  stage("data", ("%s: "):format(train_file) .. text:format(train.rows, train.tokens / train.rows, train.longest),
    ("%d cut, %d too long, %d broken; %s, %.2f s"):format(stats.truncated, stats.too_long, stats.broken,
      stats.cached and "from the cache" or "tokenised", kava.clock() - started))
  stage("", ("held out %s: "):format(eval_file) .. text:format(eval.rows, eval.tokens / eval.rows, eval.longest))
  return { train = train, eval = eval, eval_file = eval_file }
end

local function layout(p)
  return ("%d layers x %d heads x %d = %d, in all %d"):format(p.layers, p.kv_heads, p.head_dim, p.layer_dim, p.total_dim)
end

-- Bytes of a model's files, which stay mapped: a GGUF file, or a folder's safetensors.
local function bytes_on_disk(path)
  if not path or not kava.fs.isdir(path) then return path and kava.fs.size(path) or 0 end
  local sum = 0
  for _, name in ipairs(kava.fs.list(path) or {}) do
    if name:find "%.safetensors$" then sum = sum + (kava.fs.size(path .. "/" .. name) or 0) end
  end
  return sum
end

-- AdamW's two moments, in bytes by those of f32 weights.
local MOMENTS = { f32 = 2, bf16 = 1, ["8bit"] = 0.51 }

-- What tune decides from: the bytes that stay (student, gradients, two moments; the other half of bf16's f32), the rows, the student's
-- shape.
local function measure(c, models, data, probe)
  local weights = 0
  for _, t in pairs(models.student:parameters()) do weights = weights + t:numel() * 4 end
  local spec, place = models.student.config, kava.memory()[models.student:device()]
  return {
    weights_bytes = weights,
    device_bytes = place.total and place.free + place.reserved, -- a GPU's
    fixed_bytes = math.ceil(place.current + weights * (MOMENTS[c.moments] + (c.student.dtype == "bf16" and 0.5 or 0)
      + (c.gradients == "bf16" and models.student:device() ~= "cpu" and 0.5 or 1))),
    mapped_bytes = (c.teacher.quantize == "none" and bytes_on_disk(models.path) or 0) + bytes_on_disk(models.student_path),
    row_tokens = c.data.mode == "pack" and c.data.max_length or data.train.longest,
    typical_tokens = c.data.mode == "pack" and c.data.max_length or math.ceil(data.train.tokens / data.train.rows),
    student = { layers = probe.layers, hidden = spec.hidden_size, intermediate = spec.intermediate_size, kv_dim = probe.layer_dim },
  }
end

-- A file, or the files of a folder, as a text that changes when they do.
local function fingerprint(path)
  local files = {}
  for _, name in ipairs(kava.fs.isdir(path) and try(kava.fs.list(path)) or { "" }) do
    local file = name == "" and path or path .. "/" .. name
    if not kava.fs.isdir(file) then files[#files + 1] = ("%s %d %.6f"):format(name, try(kava.fs.size(file)), try(kava.fs.mtime(file))) end
  end
  return path .. "\n" .. table.concat(files, "\n")
end

-- teacher.cache: where it is asked for and there is room for all rows.
local function remember(c, places, models, data, objective, facts, precision)
  local where = c.teacher.cache
  if where == "none" then return end
  if not objective:needs().teacher then cli.fail("teacher.cache: this loss needs no teacher; teacher.cache=none", cli.exit.usage) end
  local identity = { fingerprint(try(kava.fs.realpath(models.path))), c.teacher.quantize, c.teacher.quantize_parts, precision,
    fingerprint(data.train:stats().cache), models.align and fingerprint(models.student_path) or "" }
  local folder = where ~= "memory" and (where == "disk" and places.cache or where) or nil
  local exact = models.teacher:device() ~= "cpu" and precision == "bf16" and "bf16" -- what a GPU computes in: nothing is rounded
  local cache = try(kava.teacher_cache.open(objective, { folder = folder, dtype = exact or c.teacher.cache_dtype,
    identity = table.concat(identity, "\n"), warn = function(message) stage("", "warning: " .. message) end }))
  local needed = data.train.tokens * cache:token_bytes()
  local room = folder and try(kava.fs.free(folder)) or facts.memory and facts.memory - kava.memory().cpu.current
  if room and needed - cache.bytes > room then
    cli.fail(("teacher.cache=%s: %s more are needed (%d tokens of %d bytes, %s are there), but %s are free%s"):format(where,
      bytes(needed - cache.bytes), data.train.tokens, cache:token_bytes(), bytes(cache.bytes), bytes(room),
      cache.dtype == "f32" and "; teacher.cache_dtype=bf16 takes half" or ""), cli.exit.usage)
  end
  objective.cache = cache
  stage("cache", ("the teacher's keys and values in %s: %s for %d rows"):format(cache.folder or "memory", bytes(needed), data.train.rows),
    cache.count > 0 and ("%d are there"):format(cache.count) or nil)
end

-- ---------------------------------------------------------------------------------------------------------- state and resume

-- All that a resumed run must find again: weights, optimizer, random numbers, data order, schedule (the step), best figure.
local function snapshot(run)
  local tensors = {}
  for name, t in pairs(run.student:parameters()) do tensors["student." .. name] = t end
  for name, t in pairs(run.objective:parameters()) do tensors["objective." .. name] = t end
  for name, t in pairs(run.optimizer:state()) do tensors["optimizer." .. name] = t end
  for name, t in pairs(run.device_step and run.device_step:state() or {}) do tensors["scaling." .. name] = t end
  local meta = { step = run.step, identity = run.identity, mark = run.mark, decided = run.decided, bad = run.bad, skipped = run.skipped,
    best = run.best, evaluated = run.evaluated or 0, before = run.before, after = run.after, finished = run.finished }
  return tensors, meta
end

local settle -- what the last step gave, read: below

-- behind: the steps that follow need not wait, where the state lies on a GPU.
local function save(run, best, behind)
  settle(run)
  local tensors, meta = snapshot(run)
  local how = behind and run.device ~= "cpu" and run.store.behind or run.store.save
  local path = try(how(run.store, run.step, tensors, meta, best))
  if run.objective.cache then run.objective.cache:flush() end
  return path
end

-- Where a signal, or the clock, asks the run to stop: it saves the state of its last mark and ends with 85. Where nothing was gained since
-- it began there is nothing to save, and it ends with 75: whoever starts it again should not do so forever. Between steps (`step`) the
-- clock looks for room for one more, within them for a checkpoint.
local function leave_if_asked(run, step)
  try(run.claim:held(true))
  local signal = kava.signals.pending()
  local late = not signal and run.deadline:reached(step, run.store.writing ~= nil)
  if not signal and not late then return end
  local reason = signal and "SIG" .. signal or late
  if run.bar then run.bar:done() end
  if run.step == run.began then
    try(run.claim:held())
    cli.fail(("%s: stopped before a step was done, nothing to save; the same command begins where this one did%s"):format(reason,
      run.deadline:advice()), cli.exit.again)
  end
  local path = save(run)
  cli.fail(("%s: saved %s after step %d; the same command goes on from there"):format(reason, path, run.step), cli.exit.checkpointed)
end

local function restore(run, checkpoint)
  local meta, optimizer, scaling = checkpoint.meta, {}, {}
  for name, t in pairs(checkpoint.tensors) do
    local part, rest = name:match "^(%a+)%.(.+)$"
    if part == "optimizer" then
      optimizer[rest] = t
    elseif part == "scaling" then
      scaling[rest] = t
    else
      local target = (part == "student" and run.student or run.objective):parameters()[rest]
      if not target then cli.fail(("%s: %s is not a parameter of this run"):format(checkpoint.path, name)) end
      target:copy_(t)
    end
  end
  if next(optimizer) then try(run.optimizer:load_state(optimizer)) end
  if run.device_step then run.device_step:load_state(scaling) end
  run.step, run.bad, run.skipped, run.best, run.before = meta.step, meta.bad, meta.skipped, meta.best, meta.before
  run.evaluated, run.finished, run.after = meta.evaluated or meta.step, meta.finished, meta.after
  run.began = run.step
  run.epoch = meta.mark.epoch
  run.sampler = run.batches(run.epoch)
  run.sampler:seek(meta.mark.sampler)
  kava.rng_state(meta.mark.rng[1], meta.mark.rng[2])
end

-- The checkpoint to go on from, or nil. One of another config is refused, naming the keys. What "auto" leaves open is taken from it, so
-- that a run may move to another machine and still give the same bits.
local function find_checkpoint(c, run, resolved)
  local checkpoint
  if c.resume == "auto" then
    checkpoint = run.store:latest(function(message) stage("resume", message) end)
  elseif c.resume ~= "none" then
    local tensors, meta = kava.checkpoint.load(c.resume)
    if not tensors then cli.fail(("resume = %s: %s"):format(c.resume, meta)) end
    checkpoint = { tensors = tensors, meta = meta, path = c.resume }
  end
  run.identity = resolved:identity()
  if not checkpoint then return nil end
  local there = checkpoint.meta.identity
  if type(there) ~= "table" then cli.fail(checkpoint.path .. ": not a checkpoint of this recipe", cli.exit.usage) end
  local different = config.differences(there, run.identity)
  if #different > 0 then
    cli.fail(("%s is of another config:\n  %s\nGive the same keys, another output=, or resume=none to start anew"):format(checkpoint.path,
      table.concat(different, "\n  ")), cli.exit.usage)
  end
  return checkpoint
end

-- -------------------------------------------------------------------------------------------------------------- evaluation

-- The held-out batches: always the same rows in the same order. Nobody waits for an evaluation to end: a resumed run makes it.
local function held_out(run)
  local sampler = run.data.eval:batches { batch = run.rows, seed = 0, epoch = 1, mode = "bucket" }
  return function()
    leave_if_asked(run)
    return sampler:next()
  end
end

local function answers(run, model, tokenizer)
  local count, rows = run.config.eval.generate, {}
  if count == 0 then return nil end
  for text in try(kava.data.rows(run.data.eval_file, { json = true, skip = run.config.data.skip })) do
    local row = kava.json.decode(text)
    if type(row) ~= "table" or type(row.question) ~= "string" or type(row.answer) ~= "string" then
      cli.fail(("eval.generate = %d: row %d of %s has no question and answer (texts of these names); 0 generates none"):format(count,
        #rows + 1, run.data.eval_file), cli.exit.usage)
    end
    rows[#rows + 1] = row
    if #rows == count then break end
  end
  return (kava.generate.exact_match(model, tokenizer or run.tokenizer, rows, { each = function() leave_if_asked(run) end }))
end

-- Without what is not finite: neither JSON nor a table can show it.
local function finite_only(figures)
  local kept = {}
  for name, value in pairs(figures) do
    if type(value) == "table" then kept[name] = finite_only(value)
    elseif type(value) ~= "number" or is_finite(value) then kept[name] = value end
  end
  return kept
end

-- The last resort, where not even one row fits: the backward pass computes activations again. -> what, or nil
local function relieve(run)
  local what = run.config.recompute == "auto" and fit.less[run.decided.recompute]
  if not what then return nil end
  run.student:recompute(what)
  run.decided.recompute = what
  return what
end

-- f(), and again with half the rows at once where memory runs out: the same rows, in smaller micro-batches. Where one row is too many the
-- run ends, and its state is saved.
local function with_room(run, bar, f)
  local say = bar and function(line) bar:line(line) end or print
  local rows, result, again
  repeat
    rows, result = fit.within(run.rows, f, function(message)
      run.optimizer:zero_grad()
      if message and run.store:yield() then
        return true, say(("step %d: %s: the room for a checkpoint's copy is given back"):format(run.step + 1, message))
      end
      return run.device_step and run.device_step:forget()
    end, function(fewer, message)
      run.rows, run.decided.rows = fewer, fewer
      say(("step %d: %s: %d row%s at once from here on, %d times a step"):format(run.step + 1, message, fewer, fewer == 1 and "" or "s",
        math.ceil(run.target / fewer)))
      try(run.log:record { step = run.step, kind = "memory", rows = fewer, message = message })
    end)
    again = not rows and relieve(run)
    if again then
      say(("step %d: %s, with one row: activations are computed again from here on (recompute=%s)"):format(run.step + 1, result, again))
      try(run.log:record { step = run.step, kind = "memory", recompute = again, message = result })
    end
  until not again
  if rows then return result end
  local saved, path = false, nil
  if run.mark then saved, path = pcall(save, run) end
  local newest = not saved and run.store:steps()[1]
  cli.fail(("step %d: %s, with one row at a time; %s. %s. Give the job more memory, or the run less to hold: data.max_length, "
    .. "moments=8bit, fewer or smaller student layers"):format(run.step + 1, result, fit.free(run.device),
    saved and ("Saved %s: the same command goes on from there"):format(path)
      or newest and ("The checkpoint of step %d is good"):format(newest) or "No step was taken yet"))
end

-- Figures on the held-out rows, with a line on the console, a record in the log, and a collapse named in words.
local function evaluate(run, bar)
  settle(run)
  local rows = run.config.eval.rows
  local figures = with_room(run, bar, function()
    return kava.evaluate(run.objective, held_out(run), { step = math.max(1, run.step), rows = rows > 0 and rows or nil })
  end)
  collectgarbage() -- what it leaves must not stand beside the next step
  local collapse = figures.collapse
  local text = ("eval  step %d: CE %.3f"):format(run.step, figures.ce)
  if run.objective.align then -- the teacher's logits are of another vocabulary
    text = text .. (", KV loss %s"):format(figures.kv and ("%.4f"):format(figures.kv) or "-")
  else
    text = text .. (" (teacher %.3f), KL %.3f, same top token %.3f, KV cosine %s"):format(figures.teacher_ce, figures.kl,
      figures.agreement, figures.cosine and ("%.4f"):format(figures.cosine) or "of unlike widths")
  end
  local say = bar and function(line) bar:line(line) end or print
  say(text)
  if collapse then say("      " .. collapse.verdict) end
  try(run.log:record { step = run.step, kind = "eval", loss = figures.loss, kv = figures.kv, ce = figures.ce, kl = figures.kl,
    agreement = figures.agreement, cosine = figures.cosine, cosine_by_layer = figures.cosine_by_layer, teacher_ce = figures.teacher_ce,
    effective_rank = collapse and collapse.effective_rank, mean_direction = collapse and collapse.mean_direction,
    shuffled = collapse and collapse.shuffled, collapsed = collapse and collapse.collapsed, verdict = collapse and collapse.verdict })
  if collapse and collapse.collapsed and run.config.collapse == "stop" then
    save(run)
    cli.fail(("stopped at step %d, as collapse=stop asks"):format(run.step))
  end
  return finite_only(figures)
end

local function final_table(run)
  local before, after = run.before, run.after
  local function number(value, format) return value and (format or "%.3f"):format(value) or "-" end
  local function collapse(figures, name, format) return number(figures.collapse and figures.collapse[name], format) end
  print()
  progress.table {
    { "held-out rows", "student before", "student after", "teacher" },
    { "CE, nats a token", number(before.ce), number(after.ce), number(after.teacher_ce) },
    { "KL from the teacher", number(before.kl), number(after.kl), "0" },
    { "same top token", number(before.agreement), number(after.agreement), "1" },
    { "KV cosine", number(before.cosine, "%.4f"), number(after.cosine, "%.4f"), "1" },
    { "exact match of answers", number(before.exact), number(after.exact), number(before.teacher_exact) },
    { "KV loss", number(before.kv, "%.4f"), number(after.kv, "%.4f"), "" },
    { "  against a shuffled teacher", collapse(before, "shuffled", "%.4f"), collapse(after, "shuffled", "%.4f"), "" },
    { "target's effective rank", collapse(before, "effective_rank", "%.1f"), collapse(after, "effective_rank", "%.1f"), "" },
    { "target's mean direction", collapse(before, "mean_direction"), collapse(after, "mean_direction"), "" },
  }
  if after.collapse then print(after.collapse.verdict) end
end

-- ---------------------------------------------------------------------------------------------------------------- training

-- The state a checkpoint holds is that between two optimizer steps: the data order and the random numbers as they are now.
local function set_mark(run)
  local seed, position = kava.rng_state()
  run.mark = { epoch = run.epoch, sampler = run.sampler:state(), rng = { seed, position } }
end

-- The micro-batches of one optimizer step; fewer rows than the target at the end of an epoch: the tail is a step of its own.
local function next_batches(run)
  local list = {}
  while #list < run.accumulate do
    local batch = run.sampler:next()
    if not batch then
      if #list > 0 then break end
      run.epoch = run.epoch + 1
      run.sampler = run.batches(run.epoch)
      batch = run.sampler:next() or cli.fail "the training data gives no batches"
    end
    list[#list + 1] = batch
  end
  return list
end

-- One optimizer step -> function that gives its metrics. Where memory runs out nothing has changed yet, and it begins again.
local function optimizer_step(run, bar)
  local batches, step = next_batches(run), run.step + 1
  local seed, position = kava.rng_state()
  local factor = run.schedule(step, { steps = run.steps, warmup = run.config.schedule.warmup })
  local lr = run.config.learning_rate.student * factor
  run.optimizer:set_lr(1, lr)
  if run.has_projector then run.optimizer:set_lr(2, run.config.learning_rate.projector * factor) end
  local sums = with_room(run, bar, function(rows)
    kava.rng_state(seed, position)
    if run.device_step then return run.device_step:run(batches, rows, step, function() leave_if_asked(run) end) end
    local sums = fit.gradients(run.objective, batches, rows, step, function() leave_if_asked(run) end)
    sums.grad_norm = kava.optim.clip_grad_norm(run.parameters, run.config.clip > 0 and run.config.clip or math.huge)
    sums.skipped = not (is_finite(sums.loss) and is_finite(sums.grad_norm)) or nil
    if not sums.skipped then try(run.optimizer:step()) end
    return sums
  end)
  run.step = step
  if not run.device_step then run.optimizer:zero_grad() end
  return { step = step, lr = lr, read = function() return run.device_step and sums:read() or sums end }
end

-- What a step gave, once somebody wants to know: on a GPU that is when the next one is under way, or before the state is looked at.
function settle(run)
  local c, bar, done = run.config, run.bar, run.unsettled
  if not done then return end
  run.unsettled = nil
  local metrics = done.read()
  metrics.lr = done.lr
  if metrics.skipped then
    run.skipped = run.skipped + 1
    if (metrics.scale or 1) <= 1 then run.bad = run.bad + 1 end -- a scale that is too large is halved, and no bad sign
  else
    run.bad = 0
  end
  bar:step(done.step, metrics)
  if metrics.skipped then
    bar:line(("step %d: loss %s, gradient norm %s: skipped (%d in all)"):format(done.step, metrics.loss, metrics.grad_norm, run.skipped))
    if run.bad >= c.max_bad_steps then
      cli.fail(("stopped after %d steps in a row without a finite loss and gradient (max_bad_steps)"):format(run.bad))
    end
  end
  if done.step % c.log.every == 0 or done.step == run.steps then
    metrics.step, metrics.kind, metrics.tokens_per_s = done.step, "train", bar:rate()
    try(run.log:record(metrics))
  end
end

-- A checkpoint every so many steps, or at the first step behind them that need not wait for it: a slow disk holds nothing up.
local function save_if_due(run, bar)
  local due = run.step > run.began and run.store:due(run.step, run.config.checkpoint.every)
  if not due then return end
  save(run, nil, true)
  if due == run.step then return end
  bar:line(("checkpoint: step %d's was taken after step %d, the first that it kept nothing waiting"):format(due, run.step))
end

-- Steps until the end.
local function train_steps(run)
  local c = run.config
  local bar = progress.new { total = run.steps, from = run.step }
  run.bar = bar
  local profile = c.profile and profiled.new(run.began, run.steps, run.output)
  while run.step < run.steps do
    set_mark(run)
    if run.step > 0 and c.eval.every > 0 and run.step % c.eval.every == 0 and run.evaluated ~= run.step then
      local figures = evaluate(run, bar)
      run.evaluated = run.step
      if figures.ce and (not run.best or figures.ce < run.best) then
        run.best = figures.ce
        save(run, "best", true)
      end
    end
    try(run.store:advance())
    save_if_due(run, bar)
    leave_if_asked(run, "step")
    local started = kava.clock()
    if profile then profile:before(run.step + 1) end
    local done = optimizer_step(run, bar)
    if run.device ~= "cpu" and c.checkpoint.every > 0 then run.store:prepare(function() return (snapshot(run)) end) end
    settle(run) -- the step before
    run.unsettled = done
    if not run.device_step then settle(run) end
    local profile_said = profile and profile:after(run.step)
    if profile_said then bar:line(profile_said) end
    if run.step == run.began + 1 then -- what the first step measured, the next run need not
      local kept, why = kava.plans(run.device, run.plans, true)
      if not kept then bar:line("warning: " .. why) end
    end
    run.deadline:took("step", kava.clock() - started)
  end
  settle(run)
  kava.plans(run.device, run.plans, true) -- of the shapes that came later; the first step has told where it cannot be
  bar:done()
  run.bar = nil
end

-- ----------------------------------------------------------------------------------------------------------------- the run

-- A student is read or derived. Where a config file says one and the command line the other, the command line has the word.
local function choose_student(c, resolved)
  local from = { path = resolved.from["student.path"], layers = resolved.from["student.layers"] }
  if not (c.student.path and c.student.layers) or from.path == from.layers then return end
  if from.path == "command line" then resolved:set("student.layers", nil) end
  if from.layers == "command line" then resolved:set("student.path", nil) end
end

-- How to run here, by what fits: decided, tried, said. A resumed run stays with what its checkpoint says.
local function tuned(run, facts, models, checkpoint)
  local c = run.config
  local decisions = tune.decide(facts, c, models)
  for key, value in pairs(checkpoint and checkpoint.meta.decided or {}) do
    decisions[key], decisions.why[key] = value, "as in the checkpoint"
  end
  if decisions.precision == "f16" and run.device == "cpu" then
    cli.fail(("precision=f16 (%s) is computed on GPUs alone: f32 or bf16 expected"):format(decisions.why.precision), cli.exit.usage)
  end
  kava.threads(decisions.threads)
  kava.matmul_precision(decisions.precision)
  kava.gradient_dtype(c.gradients)
  run.decided = { recompute = c.recompute ~= "auto" and c.recompute or decisions.recompute or "none" }
  configured(run.student.recompute, run.student, run.decided.recompute)
  local limit, why_limit = tune.limit(facts, c)
  kava.memory_limit(limit, c.memory_limit ~= "auto" and run.student:device() or "cpu")
  local took, short -- seconds; a warning
  if tune.probing(c) and not checkpoint then
    local started, plan = kava.clock(), tune.plan(facts, c, models)
    local probes = fit.probes({ objective = run.objective, optimizer = run.optimizer, target = c.target_batch,
      device = run.student:device(), relieve = function() return relieve(run) end }, plan,
      fit.longest_row(run.data.train, c.data.mode, c.data.max_length), function() leave_if_asked(run) end)
    decisions = tune.decide(facts, c, models, probes)
    if not decisions.batch_size then
      cli.fail(("%s: tried with %s (%s). Give the job more memory, or the run less to hold: data.max_length, moments=8bit, fewer or "
        .. "smaller student layers"):format(decisions.why.batch_size, decisions.tried, plan.why_budget))
    end
    took = kava.clock() - started
    short = tune.short_of_time(facts, c, models, probes)
  elseif not decisions.batch_size then
    cli.fail(decisions.why.batch_size, cli.exit.usage)
  end
  run.batch_size, run.rows = decisions.batch_size, decisions.rows or decisions.batch_size
  run.accumulate, run.target = decisions.accumulate, decisions.target_batch
  run.decided = { batch_size = run.batch_size, accumulate = run.accumulate, target_batch = run.target, rows = run.rows,
    precision = decisions.precision, recompute = run.decided.recompute }
  stage("tune", ("micro-batch %d, %d of them a step"):format(run.rows, math.ceil(run.target / run.rows)), decisions.why.batch_size)
  if took then stage("", ("tried with %s"):format(decisions.tried), ("%.1f s"):format(took)) end
  stage("", ("%s on %d threads"):format(decisions.precision, decisions.threads), decisions.why.precision)
  if limit > 0 then stage("", ("at most %s of memory"):format(bytes(limit)), why_limit) end
  if run.decided.recompute ~= "none" then stage("", ("the backward pass computes again: %s"):format(run.decided.recompute)) end
  if short then stage("", "warning: " .. short) end
  return decisions
end

-- An emulated GPU is for tests: nothing lists it, and only device=cuda takes it.
local function emulated(c) return c.device == "cuda" and os.getenv "KAVA_CUDA" == "emulated" and kava.device "cuda" end

-- Where this runs -> facts, device; what was asked for and is not there ends it.
local function detect(c)
  local facts = env.facts(nil, { variables = settled(paths.variables(c)), gpus = hardware.looks(c) })
  if facts.launch.world_size > 1 then
    cli.fail(("%d ranks were started (%s), and training runs in one process: start one, as srun --ntasks=1 does"):format(
      facts.launch.world_size, facts.launch.source), cli.exit.usage)
  end
  local job = facts.scheduler ~= "none" and (", %s %s"):format(facts.scheduler, facts.job or "") or ""
  stage("detect", ("%s%s, %d CPUs, %s of memory, %s"):format(facts.kind, job, facts.cpus, bytes(facts.memory), facts.isa),
    facts.time_left_s and progress.duration(facts.time_left_s) .. " left")
  if emulated(c) then facts.device, facts.why.device = "cuda", "KAVA_CUDA=emulated" end
  local device, why, replaced = settled(hardware.device(facts, c))
  if device ~= "cpu" then
    local gpu = try(kava.device(device))
    stage("", ("%s: %s, %s"):format(device, gpu.name, bytes(gpu.memory)), why)
  end
  for _, warning in ipairs(facts.warnings) do stage("", "warning: " .. warning) end
  if replaced then stage("", "warning: " .. replaced) end
  return facts, device
end

-- Folders that a run can work with, before it has read or made anything.
local function choose_folders(c, facts, resolved)
  local places = settled(paths.resolve(facts, resolved, folders.look(kava.fs)))
  for _, warning in ipairs(places.warnings) do stage("", "warning: " .. warning) end
  for _, kind in ipairs(c.output == "auto" and { "output", "cache" } or { "cache" }) do
    local complaint = paths.complaint(places, kind, c)
    if complaint then cli.fail(kind .. ": " .. complaint) end
  end
  return places
end

-- A disk that will be full before the run is done is named at its start: weights and moments of every checkpoint that is kept at a time.
local function warn_of_room(run, weights)
  local c, where = run.config, run.config.checkpoint.dir or run.output
  local count = c.checkpoint.keep + 3 -- and the last, the best, the one being written
  local needed, free = count * weights * (1 + MOMENTS[c.moments]), kava.fs.free(where)
  if free and free < needed then
    stage("", ("warning: %d checkpoints at a time take up to %s, and %s are free in %s: make room, or lower checkpoint.keep"):format(
      count, bytes(needed), bytes(free), where))
  end
end

local function train(c, _, resolved)
  choose_student(c, resolved)
  kava.signals.watch { "INT", "TERM", "USR1", "USR2" } -- USR2: Grid Engine's and LSF's
  local run = { config = c, step = 0, began = 0, bad = 0, skipped = 0, epoch = 1 }

  local facts, device = detect(c)
  run.deadline = deadline.new { left = facts.time_left_s, clock = kava.clock, ask = function() return env.time_left(facts) end }
  local places = choose_folders(c, facts, resolved)
  local name = ("%s-%s"):format(c.name, config.hash(table.concat(config.differences({}, resolved:identity()), "\n")):sub(1, 8))
  run.output = c.output ~= "auto" and c.output or places.output .. "/" .. name
  stage("paths", "output " .. run.output, c.output ~= "auto" and resolved.from.output or places.why.output)
  for _, kind in ipairs { "models", "data", "cache" } do stage("", ("%s %s"):format(kind, places[kind]), places.why[kind]) end
  local made, reason = kava.fs.mkdir(run.output)
  if not made then cli.fail(("output: the folder cannot be made: %s"):format(reason)) end
  local job_name, start = env.job(facts)
  local own, problem, code = claim.take(run.output, { job = job_name, start = start })
  if not own then cli.fail(problem, code == "busy" and cli.exit.again or cli.exit.failed) end
  run.claim = own
  run.store = try(checkpoints.open(c.checkpoint.dir or run.output .. "/checkpoints", { keep = c.checkpoint.keep, claim = own,
    took = function(seconds) run.deadline:took("save", seconds) end }))
  local checkpoint = find_checkpoint(c, run, resolved)
  kava.seed(c.seed)

  run.device, run.plans = device, places.cache .. "/products.txt"
  try(kava.plans(device, run.plans))
  local models = load_models(c, places, device)
  run.student = models.student
  run.data = load_data(c, places, models, tune.workers(facts, c))
  run.tokenizer = models.tokenizer
  local precision, why_precision = hardware.precision(facts, c, device)
  if models.align and precision == "f16" then -- steps that are not device_step's have no loss scale
    cli.fail(("precision=f16 (%s) is not for unlike tokenizers: f32 or bf16 expected"):format(why_precision), cli.exit.usage)
  end
  leave_if_asked(run)

  local measure_them = { measure = c.model_dimensions.auto_detect }
  local teacher_probe, student_probe = models.teacher:probe(measure_them), models.student:probe(measure_them)
  stage("probe", ("teacher's KV %s"):format(layout(teacher_probe)), measure_them.measure
    and ("config.json's hidden_size: %d"):format(teacher_probe.config_dim) or "not measured: model_dimensions.auto_detect=false")
  stage("", ("student's KV %s"):format(layout(student_probe)), ("hidden_size: %d"):format(student_probe.config_dim))

  local objective = configured(kava.loss.build, c.loss.name, { teacher = models.teacher, student = models.student, loss = c.loss,
    kv = c.kv, teacher_probe = teacher_probe, student_probe = student_probe, seed = c.seed, align = models.align })
  run.objective = objective
  stage("aggregate", objective:describe())
  local taught, least = objective:needs().teacher, c.teacher.offload == "auto" and 1 / 64 or 0
  local moved = taught and c.teacher.offload ~= false and models.teacher:offload(taught, least) or 0
  if moved > 0 then stage("", ("%s of the teacher in host memory"):format(bytes(moved)), "teacher.offload") end
  local extra, count = objective:parameters(), 0
  for _, t in pairs(extra) do count = count + t:numel() end
  run.has_projector = next(extra) ~= nil
  stage("project", run.has_projector and ("%d weights beside the student's, tried on a test batch"):format(count) or "nothing to project")

  run.parameters = { run.student:parameters(), extra }
  local groups = { { params = run.student:parameters(), lr = c.learning_rate.student } }
  if run.has_projector then groups[2] = { params = extra, lr = c.learning_rate.projector } end
  run.optimizer = kava.optim.adamw(groups, { weight_decay = c.weight_decay, state_dtype = c.moments })
  local measured = measure(c, models, run.data, student_probe)
  run.deadline:expect(measured.fixed_bytes)
  local decisions = tuned(run, facts, measured, checkpoint)
  warn_of_room(run, measured.weights_bytes)
  remember(c, places, models, run.data, objective, facts, decisions.precision)

  if device ~= "cpu" and not models.align then
    run.device_step = device_step.new { objective = objective, optimizer = run.optimizer, parameters = run.parameters, clip = c.clip,
      device = device, record = c.record, scaling = decisions.precision == "f16",
      say = function(line) run.bar:line(line) end,
      relieve = function() return run.store:yield() end }
  end

  function run.batches(epoch)
    return run.data.train:batches {
      batch = run.batch_size, seed = c.seed, epoch = epoch, mode = c.data.mode, length = c.data.max_length }
  end
  run.sampler = run.batches(1)
  local an_epoch = math.ceil(run.sampler:count() / run.accumulate)
  run.steps = c.training.steps ~= "auto" and c.training.steps or math.max(1, math.floor(c.training.epochs * an_epoch + 0.5))
  run.schedule = configured(kava.loss.schedule, c.schedule.name)
  if checkpoint then restore(run, checkpoint) end
  run.log = try(log.open(run.output, checkpoint and run.step))
  try(kava.fs.write(run.output .. "/config.lua", resolved:text() .. tune.text(decisions)))

  if run.finished then
    stage("resume", ("%s: this run is finished; resume=none starts it anew"):format(checkpoint.path))
    final_table(run)
    return cli.exit.done
  elseif checkpoint then
    run.store:clear(run.step) -- later ones are of another road, or broken
    stage("resume", ("%s, after step %d of %d"):format(checkpoint.path, run.step, run.steps))
  else
    run.store:clear(0)
    run.before = {}
    if c.eval.before then
      run.before = evaluate(run)
      run.before.exact, run.before.teacher_exact = answers(run, run.student), answers(run, models.teacher, models.teacher_tokenizer)
    end
  end

  stage("train", ("%d steps of %d rows; rates %g and %g, %s after %d steps of warm-up"):format(run.steps, run.target,
    c.learning_rate.student, c.learning_rate.projector, c.schedule.name, c.schedule.warmup))
  local started = kava.clock()
  kava.train(true)
  -- However it ends, what is being written is finished.
  local finishing <close> = setmetatable({}, { __close = function() -- luacheck: ignore 211
    local ok, written, why = pcall(run.store.advance, run.store, true)
    if not ok then written, why = nil, written end -- a GPU that has failed
    if not written then io.stderr:write(("checkpoint: %s\n"):format(why)) end
  end })
  train_steps(run)
  kava.train(false)
  stage("trained", ("%s"):format(progress.duration(kava.clock() - started)), ("%d steps skipped"):format(run.skipped))

  set_mark(run)
  try(pcall(run.store.yield, run.store)) -- what follows may need the memory, and the last state is saved in its place
  run.after = evaluate(run)
  run.after.exact = answers(run, run.student)
  try(run.claim:held())
  try(run.student:save(run.output .. "/student"))
  run.finished = true -- said last: a run that is killed before goes on from its last checkpoint and comes here again
  stage("save", save(run))
  stage("", run.output .. "/student", "a Hugging Face folder")
  final_table(run)
  return cli.exit.done
end

return cli.recipe({
  name = "train_adaptive",
  about = "Distils a teacher into a student by matching their KV caches; without a config, the demo that is shipped.",
  keys = require "recipes.keys",
  defaults = "configs/environment.lua",
  default_config = "configs/experiments/demo.lua",
  environment = true,
  run = train,
}, ...)

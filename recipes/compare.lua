-- Which loss teaches? The same student by cross-entropy, logit KL, KL + CE, the original's loss, layer-matched KV + CE, and all together:
-- at equal steps, and at equal compute (as many steps as take the processor time of the cross-entropy runs), with several seeds.
--
--   kava recipes/compare.lua                                       on the demo's teacher; prints the tables
--   kava recipes/compare.lua steps=300 seeds=5 out=table.md        and writes them as Markdown
--
-- A seed decides the order of the data, and what projectors start from; the student starts from the teacher's layers. Held-out problems
-- are the same for all. Every run has its own warm-up and cosine down to 0 over its own number of steps.
local kava = require "kava"
local cli = require "kava.cli"
local problems = require "recipes.problems"

local function compare(opts)
  local cosine = kava.loss.schedule "cosine"
  local original = dofile(cli.find "configs/presets/original.lua")

  local methods = {
    { name = "CE", loss = { name = "none", ce = 1, kl = 0 } },
    { name = "logit KL", loss = { name = "none", ce = 0, kl = 1 } },
    { name = "logit KL + CE", loss = { name = "none", ce = 1, kl = 1 } },
    { name = "the original", loss = original.loss, kv = original.kv },
    { name = "layer-matched KV + CE", loss = { name = "layer_matched", weight = opts.kv, ce = 1, kl = 0 } },
    { name = "layer-matched KV + logit KL + CE", loss = { name = "layer_matched", weight = opts.kv, ce = 1, kl = 1 } },
  }

  local function say(...)
    print((...):format(select(2, ...)))
    io.stdout:flush()
  end

  -- ---------------------------------------------------------------------------------------------------- what all share

  kava.threads(opts.threads)
  local path = cli.find(opts.teacher) or opts.teacher
  local teacher = cli.try(kava.model.load(path))
  local tokenizer = cli.try(kava.tokenizer.load(path))
  local layers = opts.layers
  local rows = problems.rows { seed = 1, count = opts.rows, split = "train" }
  local heldout = problems.rows { seed = 1, count = opts.heldout, split = "heldout" }
  local held_at, held_count = problems.batches(heldout, tokenizer, { batch = 50, shuffle = false })
  local held = {}
  for i = 1, held_count do held[i] = held_at(i) end
  local asked = table.move(heldout, 1, math.min(opts.answers, #heldout), 1, {})

  -- Held-out figures of a student under a loss.
  local function judge(student, loss)
    local figures = kava.evaluate(loss, held)
    local exact = #asked > 0 and kava.generate.exact_match(student, tokenizer, asked, { max_tokens = 40, batch = 50 }) or 0 / 0
    return { ce = figures.ce, kl = figures.kl, agreement = figures.agreement, cosine = figures.cosine or 0 / 0, exact = exact,
      teacher_ce = figures.teacher_ce, collapse = figures.collapse }
  end

  -- One run: the student after `steps` steps -> its figures, processor seconds a step.
  local function run(method, steps, seed)
    kava.seed(seed)
    local student = kava.model.derive(teacher, { layers = layers }):requires_grad(true)
    local loss = kava.loss.build(method.loss.name, { teacher = teacher, student = student, loss = method.loss, kv = method.kv,
      seed = seed })
    local extra = loss:parameters()
    local groups = { { params = student:parameters(), lr = opts.lr } }
    if next(extra) then groups[2] = { params = extra, lr = opts.projector } end
    local optimizer = kava.optim.adamw(groups, { weight_decay = 0.01 })
    local batch_at = problems.batches(rows, tokenizer, { batch = opts.batch, seed = seed })
    local warmup = math.max(1, steps // 10)
    local spent = 0
    for step = 1, steps do
      local scope <close> = kava.scope() -- luacheck: ignore 211
      local batch = batch_at(step)
      -- Processor time, all threads': what a step costs whatever else the machine is doing.
      local started = os.clock()
      loss:step(batch, step):backward()
      kava.optim.clip_grad_norm({ student:parameters(), extra }, 1.0)
      local factor = cosine(step, { steps = steps, warmup = warmup })
      optimizer:set_lr(1, opts.lr * factor)
      if groups[2] then optimizer:set_lr(2, opts.projector * factor) end
      assert(optimizer:step())
      optimizer:zero_grad()
      spent = spent + os.clock() - started
    end
    local figures = judge(student, loss)
    return figures, spent / steps
  end

  -- ------------------------------------------------------------------------------------------------------------ the tables

  local columns = { { "ce", "CE", "%.3f" }, { "kl", "KL", "%.3f" }, { "agreement", "same top token", "%.3f" },
    { "cosine", "cosine of K", "%.3f" }, { "exact", "exact match", "%.2f" } }

  local function spread(list, key, format)
    local sum, low, high = 0, math.huge, -math.huge
    for _, figures in ipairs(list) do
      sum, low, high = sum + figures[key], math.min(low, figures[key]), math.max(high, figures[key])
    end
    if #list == 1 then return format:format(sum) end
    return (format .. " (" .. format .. "–" .. format .. ")"):format(sum / #list, low, high)
  end

  local function table_of(results, title)
    local lines = { "", title, "" }
    local head, rule = { "loss", "steps" }, { "---", "---" }
    for _, column in ipairs(columns) do head[#head + 1], rule[#rule + 1] = column[2], "---" end
    lines[#lines + 1] = "| " .. table.concat(head, " | ") .. " |"
    lines[#lines + 1] = "|" .. table.concat(rule, "|") .. "|"
    for _, result in ipairs(results) do
      local cells = { result.name, tostring(result.steps) }
      for _, column in ipairs(columns) do cells[#cells + 1] = spread(result.runs, column[1], column[3]) end
      lines[#lines + 1] = "| " .. table.concat(cells, " | ") .. " |"
    end
    return lines
  end

  local function series(method, steps, what)
    local result, cost = { name = method.name, steps = steps, runs = {} }, 0
    for seed = 1, opts.seeds do
      local figures, each = run(method, steps, seed)
      result.runs[seed], cost = figures, cost + each / opts.seeds
      say("%s  %-34s seed %d  %d steps  %.3f s a step  CE %.3f  KL %.3f  exact match %.2f", what, method.name, seed, steps, each,
        figures.ce, figures.kl, figures.exact)
      if figures.collapse and figures.collapse.collapsed then say("      %s", figures.collapse.verdict) end
    end
    return result, cost
  end

  local started = kava.clock()
  local before = judge(kava.model.derive(teacher, { layers = layers }),
    kava.loss.build("none", { teacher = teacher, student = kava.model.derive(teacher, { layers = layers }), loss = { ce = 1, kl = 1 } }))
  local own = #asked > 0 and kava.generate.exact_match(teacher, tokenizer, asked, { max_tokens = 40, batch = 50 }) or 0 / 0
  say("teacher: CE %.3f, exact match %.2f.  student before: CE %.3f, KL %.3f, same top token %.3f, cosine of K %.3f, exact match %.2f",
    before.teacher_ce, own, before.ce, before.kl, before.agreement, before.cosine, before.exact)

  local equal_steps, costs = {}, {}
  for i, method in ipairs(methods) do equal_steps[i], costs[i] = series(method, opts.steps, "equal steps  ") end
  local equal_compute = { equal_steps[1] }
  for i = 2, #methods do
    equal_compute[i] = series(methods[i], math.max(1, math.floor(opts.steps * costs[1] / costs[i] + 0.5)), "equal compute")
  end

  local lines = {
    ("Teacher: CE %.3f, exact match %.2f. Student before (layers %s): CE %.3f, KL %.3f, cosine of K %.3f, exact match %.2f."):format(
      before.teacher_ce, own, table.concat(layers, ","), before.ce, before.kl, before.cosine, before.exact),
    ("%d seeds: mean (least–most). %d problems a step, rate %g, KV weight %g; %d held-out problems, %d answers; nats a token."):format(
      opts.seeds, opts.batch, opts.lr, opts.kv, #heldout, #asked),
  }
  for _, line in ipairs(table_of(equal_steps, "At equal steps:")) do lines[#lines + 1] = line end
  for _, line in ipairs(table_of(equal_compute, "At equal compute (the processor time of the CE runs, the teacher's passes included):")) do
    lines[#lines + 1] = line
  end
  lines[#lines + 1] = ""
  local relative = {}
  for i, method in ipairs(methods) do relative[i] = ("%s %.2f"):format(method.name, costs[i] / costs[1]) end
  lines[#lines + 1] = "A step costs, in steps of CE: " .. table.concat(relative, ", ") .. "."
  for _, result in ipairs(equal_steps) do
    local last = result.runs[#result.runs].collapse
    if last then lines[#lines + 1] = ("%s: %s."):format(result.name, last.verdict) end
  end
  print(table.concat(lines, "\n"))
  say("\n%.0f s in all, %d threads", kava.clock() - started, kava.threads())
  if opts.out then cli.try(kava.fs.write(opts.out, table.concat(lines, "\n") .. "\n")) end
  return cli.exit.done
end

return cli.recipe({
  name = "compare",
  about = "Runs one student by six losses, at equal steps and at equal compute, with several seeds, and prints the tables.",
  keys = {
    { "teacher", "string", "a GGUF file or a Hugging Face folder with a tokenizer" },
    { "layers", "list", "of the teacher, for the student" },
    { "steps", "integer", "optimizer steps at equal steps", min = 1 },
    { "batch", "integer", "problems a step", min = 1 },
    { "seeds", "integer", "runs of each", min = 1 },
    { "rows", "integer", "training problems", min = 1 },
    { "heldout", "integer", "held-out problems for CE, KL, agreement and cosine", min = 1 },
    { "answers", "integer", "of these, how many answers are generated", min = 0 },
    { "lr", "number", "of the student", above = 0 },
    { "projector", "number", "rate of projectors", above = 0 },
    { "kv", "number", "weight of the layer-matched KV term", min = 0 },
    { "threads", "integer", "CPU threads, 0: as many as this process may use", min = 0 },
    { "out", "string", "a Markdown file to write" },
  },
  defaults = { teacher = "assets/demo/teacher.gguf", layers = { 1, 3, 6 }, steps = 120, batch = 32, seeds = 3, rows = 8000, heldout = 200,
    answers = 100, lr = 3e-3, projector = 1e-3, kv = 10, threads = 0 },
  run = compare,
}, ...)

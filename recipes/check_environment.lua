-- What this machine is, and what KAVA will do on it: `kava recipes/check_environment.lua [--json]`. Ends with 0 only when training could
-- start here: the folders can be written to, and nothing contradicts itself.
local cli = require "kava.cli"

local function gib(n) return n and ("%.2f GiB"):format(n / (1 << 30)) end

-- What would compute, and how: { device =, precision =, why = { … } }; device nil: what was asked for is not here.
local function choose(facts, config)
  local hardware = require "recipes.hardware"
  local device, why, replaced = hardware.device(facts, config)
  facts.warnings[#facts.warnings + 1] = replaced
  local precision, reason = hardware.precision(facts, config, device or "cpu")
  return { device = device, precision = precision, why = { device = why, precision = reason } }
end

-- What has to hold before training can start, each with what to do where it does not.
local function checks(facts, config, places, chosen)
  local paths, list = require "recipes.paths", {}
  local function check(name, ok, message) list[#list + 1] = { name = name, ok = ok and true or false, message = message } end
  local one = facts.launch
  check("launch", one.world_size == 1, one.world_size == 1 and ("rank %d of %d, by %s"):format(one.rank, one.world_size, one.source)
    or ("%d ranks were started (%s), and training runs in one process: start one, as srun --ntasks=1 does"):format(
      one.world_size, one.source))
  check("on the job's nodes", facts.mode ~= "login", facts.mode == "login"
    and "this shell holds an allocation but is not on its nodes: start with srun" or facts.mode and "mode: " .. facts.mode or "no job")
  for _, kind in ipairs { "output", "cache" } do
    local complaint, free = paths.complaint(places, kind, config), places.seen[kind].free_bytes
    check(kind .. " can be written", not complaint, complaint or free and ("%s, %s free"):format(places[kind], gib(free)) or places[kind])
  end
  if facts.time_left_s then
    check("time is left", facts.time_left_s > 60, ("%d s%s"):format(facts.time_left_s,
      facts.time_left_s > 60 and "" or ": too little to train in; ask for a longer limit"))
  end
  check("device", chosen.device, chosen.device and ("%s: %s"):format(chosen.device, chosen.why.device) or chosen.why.device)
  return list
end

local DEMO = "assets/demo/teacher.gguf"

-- The first of the places where `name` may be that is there, and where it was looked for.
local function find(kava, name, folder)
  local candidates = require("recipes.paths").candidates(name, folder, cli.root())
  for _, path in ipairs(candidates) do
    if kava.data.exists(path) then return path, candidates end
  end
  return nil, candidates
end

-- What the config names has to be there.
local function named(kava, config, places, list)
  for _, one in ipairs { { "student.path", config.student.path, "models" }, { "data.train", config.data.train, "data" },
    { "data.eval", config.data.eval, "data" } } do
    local key, name, kind = table.unpack(one)
    if name then
      local path, candidates = find(kava, name, places[kind])
      list[#list + 1] = { name = key, ok = path ~= nil, message = path or ("%s: not found; looked for %s; give %s=, or set %s"):format(name,
        table.concat(candidates, ", "), key, config.paths.env_vars[kind]) }
    end
  end
end

-- The teacher that is named, else the demo's: loaded, probed, its keys aggregated and projected, and the batch that a student of its
-- shape would get here. Adds checks to list. -> batch { micro_batch, accumulate, target_batch, model, reason } | nil
local function try_model(kava, facts, config, places, list)
  local name = config.teacher.path
  local path = find(kava, name or DEMO, places.models)
  local check = { name = "keys are extracted and projected", ok = false }
  list[#list + 1] = check
  if not path then
    check.message = ("%s: not found; give teacher=, or set %s"):format(name or DEMO, config.paths.env_vars.models)
    return nil
  end
  local done, measured = pcall(function()
    local model = assert(kava.model.load(path))
    local probe = model:probe()
    local ids = kava.zeros({ 1, 32 }, { dtype = "i64" })
    local kv = name and config.kv or { method = "concat" } -- layers and weights are of the teacher that is named
    local function teachers(value) return type(value) == "table" and value.teacher or value end
    local keys = kava.kv.aggregate(model:forward({ input_ids = ids, logits = false }).kv, kv.method,
      { part = "keys", layers = teachers(kv.layers), weights = teachers(kv.weights) })
    local width = keys.shape[3]
    local projector = kava.projector { in_dim = width, out_dim = probe.layer_dim, hidden_ratio = 1 / 4 }
    local shape = projector(keys).shape
    assert(shape[1] == 1 and shape[2] == 32 and shape[3] == probe.layer_dim, "the projector gave another shape")
    check.message = ("%s: %d layers x %d heads x %d, %d numbers a token to %d"):format(path, probe.layers, probe.kv_heads, probe.head_dim,
      width, probe.layer_dim)
    local weights, spec = 0, model.config
    for _, t in pairs(model:parameters()) do weights = weights + 4 * t:numel() end
    local tokens = config.data.max_length
    return { fixed_bytes = 4 * weights, row_tokens = tokens, typical_tokens = tokens, student = { layers = probe.layers,
      hidden = spec.hidden_size, intermediate = spec.intermediate_size, kv_dim = probe.layer_dim } }
  end)
  check.ok = done
  if not done then check.message = tostring(measured) end
  local decisions = require("recipes.tune").decide(facts, config, done and measured or nil)
  local rows, why = decisions.batch_size, decisions.why.batch_size
  list[#list + 1] = { name = "a batch is decided", ok = rows ~= nil, message = rows and ("%d rows: %s"):format(rows, why) or why }
  if not rows then return nil end
  return { micro_batch = rows, accumulate = decisions.accumulate, target_batch = decisions.target_batch, model = path, reason = why }
end

-- What the program stands on, with versions; where BLAS is missing, what that means.
local function dependencies(kava, facts)
  local blas = kava.blas()
  if not blas.library then
    facts.warnings[#facts.warnings + 1] = "no BLAS library is found, and KAVA's own loops are slower: install libopenblas0"
  end
  local list = { { name = "blas", version = blas.config and blas.config:match "^%S+ [%d.]+" or blas.library or "none",
    detail = blas.library and ("%s, kernels for %s, bf16 multiplied as %s"):format(
    blas.library, blas.core or "an unnamed processor", blas.bf16) or "KAVA's own loops" } }
  for name, version in pairs(kava.libraries()) do list[#list + 1] = { name = name, version = version } end
  if facts.driver then list[#list + 1] = { name = "driver", version = facts.driver, detail = facts.why.driver } end
  table.sort(list, function(x, y) return x.name < y.name end)
  return list
end

-- The report as programs read it: absent values are null. sources: the same facts, each with where it was read.
local function as_json(kava, it)
  local facts, places, chosen, null = it.facts, it.places, it.chosen, kava.json.null
  local function pick(from, names)
    local part = {}
    for _, name in ipairs(names) do part[name] = from[name] == nil and null or from[name] end
    return part
  end
  local environment = pick(facts, { "kind", "scheduler", "also", "mode", "array_job", "cluster", "nodes", "time_left_s", "limit_s",
    "scratch", "restarts", "host", "user" })
  if facts.scheduler == "none" then environment.scheduler = null end
  environment.cluster_file = it.cluster and it.cluster.path or null
  environment.job_id = facts.job or null
  environment.array_task_id = facts.array_task or null
  environment.hosts = facts.hosts and kava.json.array(facts.hosts) or null
  local gpu = chosen.device == facts.device and facts.gpu and facts.gpus[facts.gpu] or nil
  local gpus = {}
  for i, one in ipairs(facts.gpus) do
    gpus[i] = { kind = one.kind, name = one.name or null, uuid = one.uuid or null, memory_bytes = one.memory or null,
      free_bytes = one.memory_free or null }
  end
  local paths = {}
  for from, to in pairs { project_root = "project_root", models = "models", data = "data", cache = "cache", output = "outputs" } do
    local seen = places.seen[from]
    paths[to] = { path = places[from], source = places.why[from], exists = seen.exists, writable = seen.writable,
      free_bytes = seen.free_bytes or null }
  end
  local report = {
    version = kava.version,
    environment = environment,
    launch = pick(facts.launch, { "rank", "world_size", "local_rank", "local_size", "source" }),
    device = { kind = chosen.device or null, index = gpu and facts.gpu - 1 or null, name = gpu and gpu.name or facts.isa,
      memory_bytes = gpu and gpu.memory or facts.memory or null, free_bytes = gpu and gpu.memory_free or null,
      driver = facts.driver or null, source = chosen.why.device, seen = kava.json.array(gpus),
      visible = facts.visible_devices and kava.json.array(facts.visible_devices) or null },
    precision = chosen.precision,
    cpus = facts.cpus,
    workers = it.workers,
    memory_bytes = facts.memory or null,
    paths = paths,
    batch = it.batch or null,
    dependencies = kava.json.array(it.dependencies),
    checks = kava.json.array(it.checks),
    warnings = kava.json.array(facts.warnings),
    sources = facts.why,
  }
  print(assert(kava.json.encode(report, { indent = 2 })))
end

local function as_text(kava, it)
  local facts, places, chosen, batch = it.facts, it.places, it.chosen, it.batch
  local function line(name, value, why)
    if value ~= nil then print((("  %-18s %-26s %s"):format(name, tostring(value), why or ""):gsub("%s+$", ""))) end
  end
  local function fact(name, title, text) line(title or name, text or facts[name], facts.why[name]) end
  print(("KAVA %s on %s"):format(kava.version, facts.host))
  print "environment"
  fact "kind"
  for _, name in ipairs { "scheduler", "also", "cluster", "job", "array_job", "array_task", "mode", "nodes" } do fact(name) end
  fact("hosts", nil, facts.hosts and (#facts.hosts == 1 and facts.hosts[1] or ("%s and %d more"):format(facts.hosts[1], #facts.hosts - 1)))
  fact("limit_s", "limit", facts.limit_s and facts.limit_s .. " s")
  fact("time_left_s", "time left", facts.time_left_s and facts.time_left_s .. " s")
  for _, name in ipairs { "restarts", "scratch", "user" } do fact(name) end
  if it.cluster then line("cluster's file", it.cluster.path, it.cluster.why) end
  local rank = facts.launch
  line("rank", ("%d of %d, local %d%s"):format(rank.rank, rank.world_size, rank.local_rank,
    rank.local_size and (" of %d"):format(rank.local_size) or ""), rank.source)
  print "resources"
  fact "cpus"
  line("workers", it.workers, "tokenising threads: as many as CPUs, at most 8")
  fact("memory", nil, gib(facts.memory) or "unknown")
  line("device", chosen.device or "none", chosen.why.device)
  for i, gpu in ipairs(facts.gpus) do
    line("gpu " .. i - 1, gpu.name or gpu.uuid or gpu.kind, (gib(gpu.memory) or "") .. (gpu.memory_free and (", %s free"):format(
      gib(gpu.memory_free)) or ""))
  end
  fact "driver"
  if facts.visible_devices then fact("visible_devices", "visible devices", #facts.visible_devices == 0 and "none"
    or table.concat(facts.visible_devices, ",")) end
  fact "isa"
  line("precision", chosen.precision, chosen.why.precision)
  if batch then
    line("batch", ("%d x %d = %d rows"):format(batch.micro_batch, batch.accumulate, batch.target_batch), batch.reason)
    line("", "for a student of the shape of", batch.model)
  end
  print "dependencies"
  for _, part in ipairs(it.dependencies) do line(part.name, part.version, part.detail) end
  print "paths"
  for _, kind in ipairs { "project_root", "models", "data", "output", "cache" } do
    local seen = places.seen[kind]
    local free = seen.free_bytes and gib(seen.free_bytes) .. " free" or "free space unknown"
    line(kind == "project_root" and "project" or kind, places[kind], ("%s; %s"):format(places.why[kind],
      seen.exists and free or "not there yet, " .. free))
  end
  print "checks"
  for _, check in ipairs(it.checks) do print(("  %-6s %s: %s"):format(check.ok and "ok" or "FAILED", check.name, check.message)) end
  for _, warning in ipairs(facts.warnings) do print("warning: " .. warning) end
end

local function report(config, options, resolved)
  local kava = require "kava"
  local paths = require "recipes.paths"
  local function settled(value, message) -- what a config says wrong is no fact about the machine
    if not value then cli.fail(message, cli.exit.usage) end
    return value
  end
  local facts = require("recipes.env").facts(nil,
    { variables = settled(paths.variables(config)), gpus = require("recipes.hardware").looks(config) })
  local places = settled(paths.resolve(facts, resolved, require("recipes.env.folders").look(kava.fs)))
  table.move(places.warnings, 1, #places.warnings, #facts.warnings + 1, facts.warnings)
  local chosen = choose(facts, config)
  local it = { facts = facts, places = places, chosen = chosen, cluster = resolved.cluster, checks = checks(facts, config, places, chosen),
    workers = require("recipes.tune").workers(facts, config), dependencies = dependencies(kava, facts) }
  named(kava, config, places, it.checks)
  it.batch = try_model(kava, facts, config, places, it.checks)
  local show = options.json and as_json or as_text
  show(kava, it)
  for _, check in ipairs(it.checks) do
    if not check.ok then return cli.exit.failed end
  end
  return cli.exit.done
end

return cli.recipe({
  name = "check_environment",
  about = "Shows what this machine is, where each fact was read, and what KAVA will do on it.",
  keys = require "recipes.keys",
  defaults = "configs/environment.lua",
  json = true,
  environment = true,
  run = report,
}, ...)

-- Where things are, on machines described by tables.
local config = require "kava.config"
local paths = require "recipes.paths"

local schema = config.schema(require "recipes.keys")
local DEFAULTS = "configs/environment.lua"

-- A disk: { ["/scratch/ada"] = true (a writable folder), = "read-only" (a problem), = a number (bytes free) }
local function disk(tree)
  return function(path)
    local at = path
    while tree[at] == nil and at ~= "/" and at ~= "." do at = at:match "^(.+)/[^/]+$" or at:sub(1, 1) == "/" and "/" or "." end
    local what = tree[at]
    if what == nil then what = true end
    local free = type(what) == "number" and what or 10 << 30
    return { at = at, exists = at == path, writable = type(what) ~= "string", free_bytes = free,
      problem = type(what) == "string" and at .. ": " .. what or nil }
  end
end

-- The config as the recipes resolve it: defaults, then layers { from, values }.
local function resolve(...)
  local layers = { assert(config.layer(schema, assert(config.read(DEFAULTS)), DEFAULTS)) }
  for _, layer in ipairs { ... } do layers[#layers + 1] = assert(config.layer(schema, layer[2], layer[1])) end
  return config.resolve(schema, layers)
end

local function facts(more)
  local all = { kind = "hpc", user = "ada", home = "/home/ada", job = "5", variables = {} }
  for key, value in pairs(more or {}) do all[key] = value end
  return all
end

local function place(resolved, tree, more)
  return assert(paths.resolve(facts(more), resolved, disk(tree or {})))
end

describe("paths", function()
  it("put variables over the config, the config over patterns, patterns over defaults", function()
    local tree = { ["/scratch/ada/kava"] = true, ["/scratch/ada/kava/local_models"] = true }
    local found = place(resolve { "exp.lua", { paths = { data = "/big/{username}/{job}/data", cache = "c" } } }, tree)
    assert.equal("/scratch/ada/kava/local_models", found.models)
    assert.equal("paths.hpc_patterns, /scratch/{username}/kava", found.why.models)
    assert.equal("/big/ada/5/data", found.data)
    assert.equal("exp.lua", found.why.data)
    assert.equal("/scratch/ada/kava/outputs", found.output)
    assert.equal("c", found.cache)
    local below = resolve({ "exp.lua", { paths = { data = "/big" } } })
    local layer = assert(config.environment(schema, below, function(name) return name == "KAVA_DATA_PATH" and "/mine" or nil end, {}, {}))
    local over = config.resolve(schema, { { from = "x", values = {} }, layer })
    assert.equal("/mine", over.values.paths.data)
    assert.equal("KAVA_DATA_PATH", over.from["paths.data"])
  end)

  it("take the first pattern that can be used", function()
    local resolved = resolve()
    assert.equal("/work/ada/kava/outputs", place(resolved, { ["/work/ada"] = true }).output) -- to be made
    assert.equal("./outputs", place(resolved, { ["/work"] = true }).output) -- nobody's folder there
    assert.equal("/data/ada/kava/outputs",
      place(resolved, { ["/scratch/ada"] = "read-only", ["/work/ada"] = 1 << 20, ["/data/ada"] = true }).output)
    assert.equal("/home/ada/projects/kava/cache", place(resolved, { ["/home/ada/projects"] = true }).cache)
    assert.equal("./local_models", place(resolved, { ["/scratch/ada"] = true }).models) -- nothing to read there
  end)

  it("keep results out of what is gone when the job ends", function()
    local found = place(resolve(), { ["/tmp/job5"] = true }, { scratch = "/tmp/job5" })
    assert.equal("/tmp/job5/kava/cache", found.cache)
    assert.equal("./outputs", found.output)
    assert.equal("./cache", place(resolve(), { ["/tmp"] = true }, { scratch = "/tmp" }).cache) -- everybody's
    local only = resolve { "c.lua", { paths = { hpc_patterns = { "{scratch}/kava" } } } }
    found = place(only, { ["/tmp/job5"] = true }, { scratch = "/tmp/job5" })
    assert.equal("./outputs", found.output)
  end)

  it("use patterns in a scheduler's jobs and where a cluster's file holds, not elsewhere", function()
    local tree, resolved = { ["/data/ada"] = true }, resolve()
    assert.equal("./outputs", place(resolved, tree, { kind = "local" }).output)
    assert.equal("./outputs", place(resolved, tree, { kind = "cloud" }).output)
    resolved.cluster = { name = "alps" } -- its login nodes
    assert.equal("/data/ada/kava/outputs", place(resolved, tree, { kind = "local" }).output)
  end)

  it("are relative to the project's root", function()
    local given = { paths = { project_root = "/project/{username}/", models = "m", cache = "/abs" } }
    local found = place(resolve { "KAVA_PROJECT_ROOT", given }, { ["/project/ada"] = true })
    assert.same({ "/project/ada", "/project/ada/m", "/project/ada/local_data", "/project/ada/outputs", "/abs" },
      { found.project_root, found.models, found.data, found.output, found.cache })
    assert.equal("KAVA_PROJECT_ROOT", found.why.project_root)
    assert.equal("KAVA_PROJECT_ROOT, below the project's root", found.why.models)
    assert.equal("KAVA_PROJECT_ROOT", found.why.cache)
    assert.equal("paths.defaults, configs/environment.lua, below the project's root", found.why.output)
    assert.equal("the current folder", place(resolve()).why.project_root)
  end)

  it("warn of what will be missed", function()
    local function warnings(values, tree, more)
      return table.concat(place(resolve { "x.lua", { paths = values } }, tree, more).warnings, "\n")
    end
    assert.equal("", warnings({}, {}))
    assert.equal("models are looked for in /nowhere (x.lua), which is not there", warnings({ models = "/nowhere" }))
    assert.equal("", warnings({ models = "/here" }, { ["/here"] = true }))
    local text = warnings({ output = "/tmp/job5/out" }, {}, { scratch = "/tmp/job5" })
    assert.truthy(text:find("the output /tmp/job5/out (x.lua) lies in the job's scratch (/tmp/job5), gone", 1, true), text)
    assert.equal("", warnings({ output = "/tmp/job55/out" }, {}, { scratch = "/tmp/job5" }))
    local nothing, message = paths.resolve(facts(), resolve { "x.lua", { paths = { project_root = "/typo" } } }, disk {})
    assert.is_nil(nothing)
    assert.equal('paths.project_root = "/typo" (x.lua): not there; correct it, or make the folder', message)
  end)

  it("read variables they mention, but no secret's", function()
    local resolved = resolve { "alps.lua", { paths = { output = "{$SCRATCH}/kava", hpc_patterns = { "/flash/{$PROJECT}/kava" } } } }
    local wanted = assert(paths.variables(resolved.values))
    table.sort(wanted)
    assert.same({ "PROJECT", "SCRATCH" }, wanted)
    local found = place(resolved, { ["/flash/p1"] = true }, { variables = { SCRATCH = "/s/ada", PROJECT = "p1" } })
    assert.equal("/s/ada/kava", found.output)
    assert.equal("/flash/p1/kava/cache", found.cache)
    local nothing, message = paths.resolve(facts(), resolved, disk {})
    assert.is_nil(nothing)
    assert.equal('paths.output = "{$SCRATCH}/kava" (alps.lua): SCRATCH is not set', message)
    nothing, message = paths.variables(resolve { "x.lua", { paths = { cache = "/c/{$HF_TOKEN}" } } }.values)
    assert.is_nil(nothing)
    assert.equal('paths.cache = "/c/{$HF_TOKEN}": a variable of such a name is never read', message)
    nothing, message = paths.variables(resolve { "x.lua", { paths = { hpc_patterns = { "/ok", 5 } } } }.values)
    assert.is_nil(nothing)
    assert.equal("paths.hpc_patterns[2] = 5: a folder expected", message)
  end)

  it("refuse a placeholder that is not known, naming the nearest", function()
    local nothing, message = paths.resolve(facts(), resolve { "x.lua", { paths = { data = "/d/{usrname}" } } }, disk {})
    assert.is_nil(nothing)
    assert.truthy(message:find('paths.data = "/d/{usrname}" (x.lua): {usrname} is not known', 1, true), message)
    assert.truthy(message:find("did you mean {username}?", 1, true), message)
  end)

  it("say what is wrong with a folder, and what to do", function()
    local resolved = resolve { "x.lua", { paths = { output = "/o", cache = "/c" } } }
    local found = place(resolved, { ["/o"] = "Permission denied", ["/c"] = 1 << 20 })
    assert.equal("/o (x.lua): /o: Permission denied; set KAVA_OUTPUT_PATH or paths.output to a folder of yours",
      paths.complaint(found, "output", resolved.values))
    assert.equal("/c (x.lua): only 0.00 GiB free, at least 0.25 GiB needed: make room; set KAVA_CACHE_PATH or paths.cache to a folder of "
      .. "yours", paths.complaint(found, "cache", resolved.values))
    assert.is_nil(paths.complaint(place(resolved), "output", resolved.values))
  end)

  it("list where a name may be", function()
    assert.same({ "/abs" }, paths.candidates("/abs", "m", "h"))
    assert.same({ "x", "m/x", "h/x" }, paths.candidates("x", "m", "h"))
  end)
end)

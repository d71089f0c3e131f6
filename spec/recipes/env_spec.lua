local helper = require "spec.helper"
local devices = require "recipes.env.devices"
local env = require "recipes.env"
local program = require "spec.program"

local MEMINFO = "MemTotal:       16384000 kB\nMemFree:         100 kB\nMemAvailable:    8192000 kB\n"

-- A machine as a table (env_fixtures.lua says which keys).
local function machine(m)
  local set = { USER = "ada", HOME = "/home/ada" }
  for name, value in pairs(m.set or {}) do set[name] = value or nil end
  return env.facts {
    getenv = function(name) return set[name] end,
    read = function(path) return (m.files or {})[path] or path == "/proc/meminfo" and MEMINFO or nil end,
    run = function(command) return (m.commands or {})[command] end,
    now = function() return 1000000 end,
    cpus = function() return m.cpus or 4 end,
    isa = function() return m.isa or "avx2", m.bf16 or "f32" end,
    host = function() return { name = m.host or "n0", system = m.darwin and "Darwin" or "Linux", release = m.darwin } end,
    user = function() return "daemon" end,
    cuda = m.gpus and function() return devices.select(m.gpus, devices.mask(set.CUDA_VISIBLE_DEVICES, #m.gpus)), m.about end,
    metal = function() return { { name = "Apple M3" } }, {} end,
    backends = m.backends,
  }
end

-- facts, "gpus.1.name" -> the value
local function reach(facts, path)
  local value = facts
  for part in path:gmatch "[^.]+" do value = value and value[tonumber(part) or part] end
  return value
end

-- Every text within a value, one a line.
local function texts(value)
  if type(value) ~= "table" then return tostring(value) .. "\n" end
  local list = {}
  for key, part in pairs(value) do list[#list + 1] = tostring(key) .. "\n" .. texts(part) end
  return table.concat(list)
end

describe("env", function()
  local fixtures = require "spec.recipes.env_fixtures"

  for _, fixture in ipairs(fixtures) do
    it("sees " .. fixture[1], function()
      local ok, facts = pcall(machine, fixture)
      if fixture.fails then
        assert.falsy(ok)
        assert.equal(2, facts.code, tostring(facts))
        assert.truthy(tostring(facts):find(fixture.fails, 1, true), tostring(facts))
        return
      end
      assert(ok, tostring(facts))
      for path, expected in pairs(fixture.expect) do
        local value = reach(facts, path)
        if expected == false then expected = nil end
        assert.same(expected, value, path)
      end
      assert.falsy(texts(facts):find("canary", 1, true)) -- what a job's advert says of its environment
      local warnings = table.concat(facts.warnings, "\n")
      if fixture.warns then assert.truthy(warnings:find(fixture.warns, 1, true), warnings)
      else assert.equal("", warnings) end
      for name in pairs(facts) do -- every fact has its source
        if name ~= "why" and name ~= "variables" and name ~= "warnings" then assert.truthy(facts.why[name], name) end
      end
    end)
  end

  it("has at least 60 of them, each of a name of its own", function()
    local seen = {}
    for _, fixture in ipairs(fixtures) do
      assert.falsy(seen[fixture[1]], fixture[1])
      seen[fixture[1]] = true
    end
    assert.truthy(#fixtures >= 60)
  end)

  it("reads the date in PBS's answer", function()
    local start = os.date("%a %b %d %H:%M:%S %Y", 999000)
    local facts = machine { set = { PBS_JOBID = "3.s" },
      commands = { ["qstat -f '3.s'"] = "    Resource_List.walltime = 00:30:00\n    stime = " .. start .. "\n" } }
    assert.equal(800, facts.time_left_s)
    assert.equal("qstat -f '3.s'", facts.why.time_left_s)
  end)

  it("asks for the time left anew, and only the scheduler", function()
    local from = { now = function() return 1000000 end }
    local facts = { scheduler = "slurm", job = "7", launch = { rank = 0 }, mode = "step", time_left_s = 60, ends_at = 1000060,
      limit_s = 600, why = {} }
    function from.run(command) return command == "squeue -h -j '7' -o %L" and "30:00\n" or nil end
    assert.equal(1800, env.time_left(facts, from))
    assert.equal(60, facts.time_left_s)
    function from.run() end
    assert.is_nil(env.time_left(facts, from))
    facts.scheduler = "cobalt"
    assert.is_nil(env.time_left(facts, from))
  end)

  it("names a job alike whenever it is started", function()
    assert.is_nil(env.job { scheduler = "none" })
    assert.same({ "slurm job 7", "n0, restart 2" }, { env.job { scheduler = "slurm", job = "7", host = "n0", restarts = 2 } })
    assert.equal("slurm job 5 task 3", (env.job { scheduler = "slurm", job = "8", array_job = "5", array_task = 3, host = "n0" }))
  end)

  it("chooses the precision by what the hardware multiplies", function()
    for _, case in ipairs {
      { "bf16", { kind = "cuda", major = 9, minor = 0 } }, { "bf16", { kind = "cuda", major = 8, minor = 6 } },
      { "f16", { kind = "cuda", major = 7, minor = 5 } }, { "f32", { kind = "cuda", major = 6, minor = 1 } },
      { "bf16", { kind = "rocm", gfx = "gfx90a" } }, { "bf16", { kind = "rocm", gfx = "gfx942" } },
      { "bf16", { kind = "rocm", gfx = "gfx1100" } }, { "f16", { kind = "rocm", gfx = "gfx906" } },
      { "f32", { kind = "rocm", gfx = "gfx803" } }, { "bf16", { kind = "mps", macos = 14 } }, { "f16", { kind = "mps", macos = 13 } },
      { "bf16", { kind = "cpu", isa = "avx512bf16", bf16 = "amx" } }, { "bf16", { kind = "cpu", isa = "avx512bf16", bf16 = "dot" } },
      { "f32", { kind = "cpu", isa = "avx512bf16", bf16 = "f32" } }, { "f32", { kind = "cpu", isa = "neon", bf16 = "f32" } },
    } do
      local precision, why = devices.precision(case[2])
      assert.equal(case[1], precision, why)
      assert.truthy(#why > 0)
    end
  end)

  it("reads durations as schedulers write them", function()
    local seconds = require("recipes.env.clock").seconds
    assert.equal(93784, seconds "1-02:03:04")
    assert.equal(7384, seconds "2:03:04\n")
    assert.equal(184, seconds "3:04")
    for _, text in ipairs { "UNLIMITED", "", "7", "1:2:3:4", "-1:00", "1-", "a:b", "99999999999999999999-01:00:00" } do
      assert.equal(nil, seconds(text), text)
    end
  end)

  it("cannot read a variable of a secret's name", function()
    local v = require("recipes.env.variables").new(function() return "canary" end)
    for _, name in ipairs { "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "wandb_api_key", "DB_PASSWORD", "SLURM_JWT_token" } do
      assert.error(function() v:text(name) end)
      assert.error(function() v:raw(name) end)
    end
  end)

  it("survives any text in any of its variables", function()
    local names, seen = {}, {}
    for _, fixture in ipairs(fixtures) do
      for name in pairs(fixture.set or {}) do
        if not seen[name] then names[#names + 1], seen[name] = name, true end
      end
    end
    table.sort(names)
    for _, text in ipairs { "", "-1", "99999999999999999999", "[", "n[0-9999999]", "[0-1][", ("[0-99]"):rep(12),
      "\27[2J\n", ",,,", "0x10", "1e3",
      ("9"):rep(4000), "GPU-", "\xff\xfe" } do
      for i = 1, #names do
        local fixture = fixtures[i % #fixtures + 1]
        local set = {}
        for name, value in pairs(fixture.set or {}) do set[name] = value end
        set[names[i]] = text
        local ok, err = pcall(machine, { set = set, files = fixture.files, gpus = fixture.gpus, host = fixture.host })
        assert(ok or type(err) == "table" and err.code == 2, names[i] .. ": " .. tostring(err))
        if not ok then assert.falsy(tostring(err):find "%c", tostring(err)) end
      end
    end
  end)

  it("survives any text in any file and any answer", function()
    for _, fixture in ipairs(fixtures) do
      for _, kind in ipairs { "files", "commands" } do
        for name, sound in pairs(fixture[kind] or {}) do
          for _, text in ipairs { "", "\n", "\0", "x", sound:sub(1, #sound // 2), (sound:gsub("%d+", ("9"):rep(30))),
            (sound:gsub("%d+", "-1")), (sound:gsub("%d+", "4611686018427387905")), (sound:gsub("%s", "")) } do
            local other = {}
            for path, content in pairs(fixture[kind]) do other[path] = content end
            other[name] = text
            local changed = setmetatable({ [kind] = other }, { __index = fixture })
            local ok, facts = pcall(machine, changed)
            assert(ok or type(facts) == "table" and facts.code == 2, fixture[1] .. ", " .. name .. ": " .. tostring(facts))
            if ok then
              assert.truthy(facts.cpus >= 1, name)
              assert.truthy(facts.memory > 0, name)
              assert.truthy((facts.time_left_s or 0) >= 0, name)
            end
          end
        end
      end
    end
  end)

  it("reads this machine", function()
    local facts = env.facts()
    assert.truthy(facts.cpus >= 1)
    assert.truthy(facts.memory > 1 << 20)
  end)
end)

describe("check_environment", function()
  it("reports, and in JSON", function()
    local code, out = program.run "recipes/check_environment.lua"
    assert.equal(0, code)
    assert.truthy(out:find("memory", 1, true))
    code, out = program.shell('env -i PATH="$PATH" ' .. program.path .. " recipes/check_environment.lua --json")
    assert.equal(0, code)
    local report = require("cjson").decode(out)
    assert.truthy(report.cpus >= 1)
    assert.equal(0, report.launch.rank)
    assert.equal(require("cjson").null, report.device.index)
    assert.equal("paths.defaults, configs/environment.lua", report.paths.models.source)
    assert.truthy(report.paths.outputs.free_bytes > 0)
    local versions = {}
    for _, part in ipairs(report.dependencies) do versions[part.name] = part.version end
    assert.truthy(versions.lua:find "^5%.4%.%d+$", versions.lua)
    for _, name in ipairs { "pcre2", "utf8proc", "zlib", "zstd" } do assert.truthy(versions[name]:find "^%d+%.%d+", name) end
    assert.truthy(versions.blas)
    assert.equal(32, report.batch.micro_batch * report.batch.accumulate)
    for _, one in ipairs(report.checks) do assert.truthy(one.ok, one.name) end
    local null = require("cjson").null -- what is absent is null, and there
    for part, names in pairs { environment = "scheduler job_id array_task_id cluster time_left_s", device = "index" } do
      for name in names:gmatch "%S+" do assert.equal(null, report[part][name], name) end
    end
    assert.truthy(report.environment.kind == "local" or report.environment.kind == "cloud") -- the suite's own machine may be one
    for name, kind in pairs { rank = "number", world_size = "number", local_rank = "number", source = "string" } do
      assert.equal(kind, type(report.launch[name]), name)
    end
    assert.same({ "string", "string", "number" }, { type(report.device.kind), type(report.device.name), type(report.device.memory_bytes) })
    assert.same({ "string", "number", "number" }, { type(report.precision), type(report.workers), type(report.memory_bytes) })
    assert.equal("string", type(report.batch.reason))
    for _, name in ipairs { "project_root", "models", "data", "cache", "outputs" } do
      local place = report.paths[name]
      assert.same({ "string", "string", "boolean", "number" },
        { type(place.path), type(place.source), type(place.writable), type(place.free_bytes) }, name)
    end
  end)

  it("ends with 2 where ranks contradict, with 1 where nothing can be written", function()
    local code, _, err = program.shell("RANK=4 WORLD_SIZE=4 LOCAL_RANK=0 " .. program.path .. " recipes/check_environment.lua")
    assert.equal(2, code)
    assert.truthy(err:find("RANK=4 is not below WORLD_SIZE=4", 1, true), err)
    local out
    code, out = program.shell("RANK=3 WORLD_SIZE=4 LOCAL_RANK=0 " .. program.path .. " recipes/check_environment.lua")
    assert.equal(1, code)
    assert.truthy(out:find("FAILED launch: 4 ranks were started (RANK, WORLD_SIZE, LOCAL_RANK)", 1, true), out)
    code, out = program.run "recipes/check_environment.lua paths.output=README.md/x"
    assert.equal(1, code)
    assert.truthy(out:find "FAILED output can be written: [^\n]*KAVA_OUTPUT_PATH", out)
    code, out = program.run "recipes/check_environment.lua paths.cache=/proc/kava" -- a disk without room
    assert.equal(1, code)
    local why = require("kava").fs.writable "/proc" and "only 0.00 GiB free" or "Permission denied" -- for root and for others
    assert.truthy(out:find("FAILED cache can be written: [^\n]*" .. why .. "[^\n]*KAVA_CACHE_PATH"), out)
    code, _, err = program.run "recipes/check_environment.lua 'paths.data={$NOT_SET_ANYWHERE}/x'"
    assert.equal(2, code)
    assert.truthy(err:find("NOT_SET_ANYWHERE is not set", 1, true), err)
    code, out = program.run "recipes/check_environment.lua device=cuda hardware.gpu_detection.fallback_to_cpu=false"
    assert.equal(1, code)
    assert.truthy(out:find("FAILED device: device=cuda, but", 1, true), out)
  end)

  it("tries the teacher that is named", function()
    local code, out = program.run "recipes/check_environment.lua teacher=assets/demo/teacher.gguf kv.method=mean"
    assert.equal(0, code, out)
    assert.truthy(out:find("64 numbers a token to 64", 1, true), out)
    code, out = program.run "recipes/check_environment.lua teacher=assets/demo/teacher.gguf use_all_layers=false"
    assert.equal(0, code, out)
    assert.truthy(out:find("64 numbers a token to 64", 1, true), out)
    code, out = program.run "recipes/check_environment.lua training.batch_size.auto_detect=false"
    assert.equal(1, code)
    assert.truthy(out:find("FAILED a batch is decided: batch_size=auto, but training.batch_size.auto_detect=false", 1, true), out)
    code, out = program.run "recipes/check_environment.lua teacher=nowhere"
    assert.equal(1, code)
    assert.truthy(out:find("FAILED keys are extracted and projected: nowhere: not found", 1, true), out)
    code, out = program.run "recipes/check_environment.lua --config configs/experiments/demo.lua"
    assert.equal(0, code, out)
    assert.truthy(out:find("ok     data.train: recipes/problems.lua", 1, true), out)
    code, out = program.run "recipes/check_environment.lua --config configs/experiments/demo.lua data.eval=no.jsonl paths.data=/d"
    assert.equal(1, code)
    assert.truthy(out:find("FAILED data.eval: no.jsonl: not found; looked for no.jsonl, /d/no.jsonl", 1, true), out)
  end)

  it("takes at most 300 ms", function()
    if helper.sanitized then return pending "skipped: a sanitizer's build is slow" end
    local clock, best = require("kava").clock, math.huge
    for _ = 1, 5 do
      local before = clock()
      program.run "recipes/check_environment.lua --json"
      best = math.min(best, (clock() - before) * 1000)
    end
    assert(best <= 300, ("%.0f ms"):format(best))
  end)

  it("takes a cluster's file", function()
    local dir = helper.tmp()
    os.execute("mkdir -p " .. dir .. "/configs/clusters")
    helper.write(dir .. "/configs/clusters/toy.lua", "return { paths = { models = '/scratch/{username}/kava' } }")
    local root = io.popen("pwd"):read "l"
    local code, out = program.shell(("cd %s && USER=ada %s/%s %s/recipes/check_environment.lua --cluster=toy"):format(
      dir, root, program.path, root))
    assert.equal(0, code)
    assert.truthy(out:find("/scratch/ada/kava", 1, true), out)
  end)
end)

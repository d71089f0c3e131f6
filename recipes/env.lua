-- What this machine and this job are. Facts only, each with the place it was read from (facts.why); what follows from them is
-- decided in paths.lua and tune.lua, which are pure.
local env = {}

-- Where facts come from; a spec passes its own.
local function system()
  local kava = require "kava"
  return {
    getenv = os.getenv,
    read = function(path)
      local file = io.open(path, "rb")
      if not file then return nil end
      local text = file:read "a"
      file:close()
      return text
    end,
    threads = kava.threads,
    isa = kava.isa,
  }
end

local function fact(facts, name, value, why)
  facts[name], facts.why[name] = value, why
end

-- The smallest limit on the way from this process's cgroup to the root: v2 has memory.max, v1 memory.limit_in_bytes.
local function cgroup_limit(from)
  local smallest, where
  local function consider(path)
    local limit = math.tointeger(tonumber((from.read(path) or ""):match("^(%d+)%s*$")))
    if limit and limit < 1 << 60 and (not smallest or limit < smallest) then smallest, where = limit, path end
  end
  for line in (from.read("/proc/self/cgroup") or ""):gmatch("[^\n]+") do
    local controllers, group = line:match("^%d+:([^:]*):(.*)$")
    local base = controllers == "" and "/sys/fs/cgroup" or (controllers or ""):find("memory", 1, true) and "/sys/fs/cgroup/memory"
    local leaf = controllers == "" and "/memory.max" or "/memory.limit_in_bytes"
    while base do
      consider(base .. (group == "/" and "" or group) .. leaf)
      if group == "/" or group == "" then break end
      group = group:match("^(.*)/[^/]*$")
    end
  end
  return smallest, where
end

local function scheduler(facts, from)
  local job = from.getenv "SLURM_JOB_ID"
  if job then
    fact(facts, "scheduler", "slurm", "SLURM_JOB_ID is set")
    fact(facts, "job", job, "SLURM_JOB_ID")
    fact(facts, "place", "hpc", "a scheduler runs this job")
    return
  end
  fact(facts, "scheduler", "none", "no scheduler's variables are set")
  if from.getenv "KUBERNETES_SERVICE_HOST" then
    fact(facts, "place", "cloud", "KUBERNETES_SERVICE_HOST is set")
  else
    fact(facts, "place", "local", "neither a scheduler's nor a cloud's variables are set")
  end
end

local function memory(facts, from)
  local meminfo = from.read "/proc/meminfo" or ""
  local function kib(name)
    local n = meminfo:match(name .. ":%s*(%d+) kB")
    return n and math.tointeger(tonumber(n)) * 1024
  end
  local total, available = kib "MemTotal", kib "MemAvailable"
  local limit, where = cgroup_limit(from)
  fact(facts, "memory_available", available, "/proc/meminfo, MemAvailable")
  if limit and (not total or limit < total) then
    fact(facts, "memory", limit, where)
  else
    fact(facts, "memory", total, "/proc/meminfo, MemTotal")
  end
end

--- Gathers the facts: scheduler, job, place, user, home, cpus, memory (bytes this job may use), memory_available, device, isa,
--- precision, variables (the KAVA_* ones); facts.why[name] says where each came from.
function env.facts(from)
  from = from or system()
  local facts = { why = {}, variables = {} }
  scheduler(facts, from)
  fact(facts, "user", from.getenv "USER" or from.getenv "LOGNAME" or "user", "USER")
  fact(facts, "home", from.getenv "HOME" or ".", "HOME")
  fact(facts, "cpus", from.threads(), "the CPUs this process may run on")
  memory(facts, from)
  fact(facts, "device", "cpu", "this build computes on the CPU")
  local isa = from.isa()
  fact(facts, "isa", isa, "the processor's features (KAVA_ISA lowers it)")
  if isa:find("bf16", 1, true) or isa:find("amx", 1, true) then
    fact(facts, "precision", "bf16", isa .. " multiplies bf16")
  else
    fact(facts, "precision", "f32", isa .. " has no bf16 products")
  end
  for _, name in ipairs { "KAVA_MODELS_PATH", "KAVA_DATA_PATH", "KAVA_OUTPUT_PATH", "KAVA_CACHE_PATH" } do
    facts.variables[name] = from.getenv(name)
  end
  return facts
end

return env

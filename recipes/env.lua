-- What this machine and this job are. Facts only, each with the place it was read from (facts.why); what follows from them is
-- decided in paths.lua and tune.lua, which are pure. Everything is read through one table of functions, so that a spec describes any
-- machine by a table; the concerns have a file each in recipes/env/.
local clock = require "recipes.env.clock"
local devices = require "recipes.env.devices"
local launch = require "recipes.env.launch"
local limits = require "recipes.env.limits"
local schedulers = require "recipes.env.schedulers"
local variables = require "recipes.env.variables"

local env = {}

local SECONDS_TO_ANSWER = 5 -- for a scheduler that is asked

local SECONDS_OF_A_DRIVER = 10

-- Where facts come from. cuda and metal (functions that list the GPUs a driver shows, and say what is wrong with it) may be absent;
-- backends are the kinds of device this build computes on, beside the CPU: true, or why one that it knows will not open.
local function system()
  local kava = require "kava"
  return {
    getenv = os.getenv,
    read = function(path)
      local file = io.open(path, "rb")
      if not file then return nil end
      local text = file:read "a" -- nil for a folder
      file:close()
      return text
    end,
    run = function(command) -- its output; nil where it fails or does not answer in time
      local pipe = io.popen(("timeout %d %s 2>/dev/null"):format(SECONDS_TO_ANSWER, command))
      local text = pipe and pipe:read "a"
      return pipe and pipe:close() and text or nil
    end,
    now = os.time,
    cpus = kava.cpus,
    isa = kava.isa,
    host = kava.host,
    user = kava.user,
    cuda = function() return kava.gpus.cuda(SECONDS_OF_A_DRIVER) end,
    -- looked up only for a kind of GPU that is here: opening a device takes its time
    backends = setmetatable({}, { __index = function(_, kind)
      if kind ~= "cuda" then return nil end
      local there, why = kava.device "cuda"
      return there and true or why
    end }),
    metal = kava.gpus.metal,
  }
end

local function without_gpus(from)
  local function read(path) return not path:find("/sys/class/kfd/", 1, true) and from.read(path) or nil end
  return setmetatable({ cuda = false, metal = false, read = read }, { __index = from })
end

local At = {}
At.__index = At

-- A fact and where it was read; nil: not known.
function At:put(name, value, why)
  self.facts[name] = value
  self.facts.why[name] = value ~= nil and why or nil
end

--- Gathers the facts (nil: not known): kind (local, hpc, cloud), scheduler and what it says of the job (env/schedulers.lua), launch
--- (env/launch.lua), time_left_s, cpus and memory in bytes of this rank (env/limits.lua), device, gpus, precision
--- (env/devices.lua), host, user, home; why[name] says where each came from. wanted.variables: names that the config's folders mention;
--- variables holds them. wanted.gpus = false: no GPU is looked for, and no driver asked. warnings: what was malformed or looks wrong,
--- with what to do. Ends the program (exit code 2) where ranks are malformed or contradict one another.
function env.facts(from, wanted)
  from, wanted = from or system(), wanted or {}
  if wanted.gpus == false then from = without_gpus(from) end
  local v = variables.new(from.getenv)
  local facts = { why = {}, variables = {}, warnings = v.warnings }
  local at = setmetatable({ facts = facts, from = from, v = v }, At)
  at:put("host", from.host().name or "localhost", "uname")
  at:put("user", v:first("text", { "USER", "LOGNAME" }))
  if not facts.user then at:put("user", from.user() or "user", "the user database") end
  at:put("home", v:text "HOME" or ".", v:has "HOME" and "HOME" or "HOME is not set: the current folder")
  schedulers.read(at)
  launch.read(at)
  clock.read(at)
  limits.read(at)
  devices.read(at)
  for _, name in ipairs(wanted.variables or {}) do facts.variables[name] = v:text(name) end
  return facts
end

--- A name of the job, the same whenever its scheduler starts it again, and one of this start of it; nil outside of one.
function env.job(facts)
  local job = facts.array_task and facts.array_job or facts.job
  if facts.scheduler == "none" or not job then return nil end
  return ("%s job %s%s"):format(facts.scheduler, job, facts.array_task and " task " .. facts.array_task or ""),
    ("%s, restart %s"):format(facts.host, facts.restarts or "unknown")
end

--- The seconds left of the job that facts describe, asked anew: limits are prolonged, and suspended jobs wait. nil: no answer
function env.time_left(facts, from)
  local again = setmetatable({ time_left_s = false, limit_s = false, ends_at = false, why = {} }, { __index = facts })
  clock.read(setmetatable({ facts = again, from = from or system() }, At))
  return again.time_left_s or nil
end

return env

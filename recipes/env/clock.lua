-- How long this job may still run, in seconds: from variables where the scheduler sets them, else by asking it. Asking costs its daemon
-- something, so that of a job's ranks only the first does.
local clock = {}

--- "1-02:03:04", "02:03:04", "03:04" -> seconds | nil
function clock.seconds(text)
  local days, rest = (text or ""):match "^%s*(%d%d?%d?%d?)%-(%S+)%s*$"
  local total, parts = 0, 0
  for part in ((rest or text or "") .. ":"):gmatch "%s*([^:]*):" do
    local n = math.tointeger(tonumber(part:match "^%d+%s*$"))
    if not n or n > 1 << 32 then return nil end
    total, parts = total * 60 + n, parts + 1
  end
  if parts < 2 or parts > 3 then return nil end
  return (tonumber(days) and math.tointeger(tonumber(days)) * 86400 or 0) + total
end

local MONTHS = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11, Dec = 12 }

-- "Mon Nov 23 14:00:00 2026", local time -> since 1970
local function date(text)
  local month, day, hour, min, sec, year = (text or ""):match "(%a%a%a)%s+(%d%d?)%s+(%d%d?):(%d%d):(%d%d)%s+(%d%d%d%d)%f[%D]"
  if not MONTHS[month] then return nil end
  return os.time { year = tonumber(year), month = MONTHS[month], day = tonumber(day), hour = tonumber(hour), min = tonumber(min),
    sec = tonumber(sec) }
end

-- One a scheduler: how to ask -> command, and reader(at, output) -> seconds left | nil
local ASK = {
  slurm = {
    command = "squeue -h -j '%s' -o %%L",
    read = function(_, text) return clock.seconds(text:match "[^\n]*") end,
  },
  pbs = {
    command = "qstat -f '%s'",
    read = function(at, text)
      local limit = clock.seconds(text:match "Resource_List%.walltime = (%S+)")
      local start = date(text:match "stime = ([^\n]+)" or text:match "start_time = ([^\n]+)") -- PBS Pro's name, Torque's
      local runs = math.tointeger(tonumber(text:match "run_count = (%d+)"))
      if runs and runs > 0 then at:put("restarts", runs - 1, "qstat -f, run_count") end
      if limit then at:put("limit_s", limit, "qstat -f, Resource_List.walltime") end
      return limit and start and start + limit - at.from.now()
    end,
  },
  sge = {
    command = "qstat -xml -j '%s'",
    read = function(at, text)
      local task = ("<JAT_task_number>%d</JAT_task_number>(.*)"):format(at.facts.array_task or 1) -- an array's tasks are all listed
      local start = math.tointeger(tonumber((text:match(task) or ""):match "<JAT_start_time>(%d+)<"))
      if start and start > 1 << 40 then start = start // 1000 end -- milliseconds in some versions
      local after = text:match "<CE_name>h_rt</CE_name>(.*)"
      local value = after and after:match "<CE_stringval>([%d:]+)<"
      local limit = value and (clock.seconds(value) or math.tointeger(tonumber(value)))
      if limit then at:put("limit_s", limit, "qstat -xml -j, h_rt") end
      return limit and start and start + limit - at.from.now()
    end,
  },
  lsf = {
    command = "bjobs -noheader -o time_left '%s'",
    read = function(_, text) -- hours:minutes, and a letter
      local hours, minutes = text:match "^%s*(%d%d?%d?%d?%d?):(%d%d)"
      return hours and math.tointeger(tonumber(hours)) * 3600 + math.tointeger(tonumber(minutes)) * 60
    end,
  },
  flux = {
    command = "flux job timeleft '%s'",
    enclosing = "flux job timeleft", -- a batch script is not told its job
    read = function(_, text) return math.tointeger(tonumber((text:match "^%s*(%d+)"))) end,
  },
}
ASK.torque = ASK.pbs

-- The command that asks for this job's time; nil where there is none, or a name that no job has.
local function command_of(ask, job)
  if not ask then return nil end
  if not job then return ask.enclosing end
  return not job:find "[^%w._%-%[%]\x80-\xff]" and ask.command:format(job) or nil
end

--- Puts time_left_s.
function clock.read(at)
  local facts = at.facts
  if facts.ends_at then
    at:put("time_left_s", math.max(0, facts.ends_at - at.from.now()), facts.why.ends_at)
    return
  end
  local ask = ASK[facts.scheduler]
  local command = command_of(ask, facts.job)
  if facts.launch.rank ~= 0 then return end
  local limit, why = facts.limit_s, facts.why.limit_s
  local text = command and at.from.run(command)
  local left = text and ask.read(at, text)
  if left then
    at:put("time_left_s", math.max(0, math.floor(left)), command)
  elseif limit and facts.mode == "batch" then
    at:put("time_left_s", limit, why .. ", as if the job had begun just now")
  end
end

return clock

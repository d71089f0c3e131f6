-- CPUs and memory as this rank really has them: the least of what the kernel, every cgroup from here to the root (v1, v2, or both at
-- once) and the scheduler allow, shared among the ranks of this node.
local limits = {}

local function integer(text)
  return math.tointeger(tonumber((text or ""):match "^%s*(%-?%d+)%s*$"))
end

-- "0-3,8" -> 5
local function count_list(text)
  local count = 0
  for first, last in (text or ""):gmatch "(%d+)%-?(%d*)" do
    count = count + (last == "" and 1 or math.max(0, tonumber(last) - tonumber(first) + 1))
  end
  return count > 0 and math.tointeger(count) or nil
end

-- Where cgroup file systems are mounted: list of { root, at, controllers } (controllers nil: v2).
local function mounts(from)
  local list = {}
  for line in (from.read "/proc/self/mountinfo" or ""):gmatch "[^\n]+" do
    local root, place, kind, options = line:match "^%d+ %d+ %S+ (%S+) (%S+) .- %- (%S+) %S+ (%S+)"
    if kind == "cgroup" or kind == "cgroup2" then
      place = place:gsub("\\(%d%d%d)", function(octal) return string.char(tonumber(octal, 8)) end)
      list[#list + 1] = { root = root, at = place, controllers = kind == "cgroup" and "," .. options .. "," or nil }
    end
  end
  return list
end

-- The folders of this process's cgroup and of all above it, nearest first, of the hierarchy with `controller`, of v1 and of v2.
-- -> list of { folder, v2 }
local function groups(from, mounted, controller)
  local list = {}
  for line in (from.read "/proc/self/cgroup" or ""):gmatch "[^\n]+" do
    local controllers, group = line:match "^%d+:([^:]*):(.*)$"
    local v2 = controllers == ""
    if v2 or ("," .. (controllers or "") .. ","):find("," .. controller .. ",", 1, true) then
      for _, mount in ipairs(mounted) do
        if v2 and not mount.controllers or mount.controllers and not v2 and mount.controllers:find("," .. controller .. ",", 1, true) then
          local root = mount.root == "/" and "" or mount.root
          -- Within a container the mount may begin at the container's own group; what lies above cannot be seen from here.
          local below = group:sub(1, #root) == root and group:sub(#root + 1) or ""
          if below == "/" or below:find("..", 1, true) then below = "" end
          while true do
            list[#list + 1] = { folder = mount.at .. below, v2 = v2 }
            if below == "" then break end
            below = below:match "^(.*)/[^/]*$" or ""
          end
        end
      end
    end
  end
  return list
end

-- Keeps the least: least(value, why) with nil passed over; -> value, why
local function minimum()
  local value, why
  return function(n, reason)
    if n and (not value or n < value) then value, why = n, reason end
    return value, why
  end
end

-- ceil(quota / period) of every group above: 0.5 CPUs are one thread.
local function cpu_quota(from, mounted, least)
  for _, group in ipairs(groups(from, mounted, "cpu")) do
    local quota, period, file
    if group.v2 then
      file = group.folder .. "/cpu.max"
      quota, period = (from.read(file) or ""):match "^(%d+)%s+(%d+)"
    else
      file = group.folder .. "/cpu.cfs_quota_us"
      quota, period = integer(from.read(file)), integer(from.read(group.folder .. "/cpu.cfs_period_us"))
    end
    quota, period = tonumber(quota), tonumber(period)
    if quota and period and quota > 0 and period > 0 then
      least(math.max(1, math.ceil(quota / period)), ("%s: %.4g CPUs"):format(file, quota / period))
    end
  end
end

-- CPUs the cgroup's cpuset has, which all ranks of the node share.
local function cpuset(from, mounted)
  for _, group in ipairs(groups(from, mounted, "cpuset")) do
    for _, name in ipairs { "/cpuset.cpus.effective", "/cpuset.effective_cpus", "/cpuset.cpus" } do
      local count = count_list(from.read(group.folder .. name))
      if count then return count end
    end
  end
end

local function shared(n, ranks, why)
  if not n or ranks <= 1 then return n, why end
  return math.max(1, n // ranks), ("%s; shared by the %d ranks of this node"):format(why, ranks)
end

-- An affinity narrower than what the node's ranks have together was set by the launcher for this rank alone; else they share it.
local function cpus(at, mounted, ranks)
  local from, facts = at.from, at.facts
  local least = minimum()
  local affinity = from.cpus()
  local together = minimum()
  together(facts.cpus_on_node)
  together(cpuset(from, mounted))
  local whole = together(count_list(from.read "/sys/devices/system/cpu/online"))
  local why = "the CPUs this process may run on"
  if whole and affinity < whole then least(affinity, why) else least(shared(affinity, ranks, why)) end
  local quota = minimum()
  cpu_quota(from, mounted, quota)
  local n, reason = quota()
  least(shared(n, ranks, reason))
  least(shared(facts.cpus_on_node, ranks, facts.why.cpus_on_node))
  least(facts.cpus_per_task, facts.why.cpus_per_task)
  at:put("cpus", least())
end

local function memory(at, mounted, ranks)
  local from, facts = at.from, at.facts
  local meminfo = from.read "/proc/meminfo" or ""
  local function kib(name)
    local n = integer(meminfo:match(name .. ":%s*(%d+) kB"))
    return n and n * 1024
  end
  at:put("memory_total", kib "MemTotal", "/proc/meminfo, MemTotal")
  at:put("memory_available", kib "MemAvailable", "/proc/meminfo, MemAvailable")
  local least, cap = minimum(), minimum()
  least(facts.memory_available or facts.memory_total, facts.why.memory_available or facts.why.memory_total)
  for _, group in ipairs(groups(from, mounted, "memory")) do
    for _, name in ipairs(group.v2 and { "memory.max", "memory.high" } or { "memory.limit_in_bytes" }) do
      local file = group.folder .. "/" .. name
      local n = integer(from.read(file))
      if n and n > 0 and n < 1 << 60 then -- v1 says "none" as nearly 2^63
        least(n, file)
        cap(n, file)
      end
    end
  end
  least(facts.job_memory, facts.why.job_memory)
  cap(facts.job_memory, facts.why.job_memory)
  local own, own_cap = minimum(), minimum()
  local space = integer((from.read "/proc/self/limits" or ""):match "Max address space%s+(%d+)")
  own(shared(least(), ranks, select(2, least())))
  own(space, "the limit of address space (ulimit -v)")
  own_cap(shared(cap(), ranks, select(2, cap())))
  own_cap(space, "the limit of address space (ulimit -v)")
  at:put("memory", own())
  at:put("memory_cap", own_cap())
end

--- Puts cpus, memory (bytes), memory_total, memory_available, memory_cap (the limit beyond which the job is killed, or nothing more is
--- given; nil: there is none); cpus, memory and memory_cap are this rank's share of what the node's ranks have.
function limits.read(at)
  local mounted = mounts(at.from)
  local ranks = at.facts.launch.local_size or 1
  cpus(at, mounted, ranks)
  memory(at, mounted, ranks)
end

return limits

-- The hosts of a job, from the forms schedulers give them in.
local hosts = {}

local MOST = 100000 -- names in one list: more is a damaged one

local function split(text) -- at commas outside brackets
  local parts, depth, from = {}, 0, 1
  for at = 1, #text do
    local c = text:sub(at, at)
    if c == "[" then depth = depth + 1 elseif c == "]" then depth = depth - 1 end
    if depth < 0 or depth > 1 then return nil end
    if c == "," and depth == 0 then
      parts[#parts + 1] = text:sub(from, at - 1)
      from = at + 1
    end
  end
  parts[#parts + 1] = text:sub(from)
  return depth == 0 and parts or nil
end

-- Every name of one part, whose brackets may be several: r[1-2]n[01-16].
local function expand(part, into)
  local head, list, tail = part:match "^([^%[%]]*)%[([%d,%-]+)%](.*)$"
  if not head then
    if part == "" or part:find "[%[%]%s]" or #into >= MOST then return false end
    into[#into + 1] = part
    return true
  end
  for range in (list .. ","):gmatch "([^,]*)," do
    local first, last = range:match "^(%d+)%-(%d+)$"
    if not first then first, last = range:match "^%d+$", range end
    local from, to = tonumber(first), tonumber(last)
    if not from or not to or to < from or to - from > MOST then return false end
    for n = from, to do
      if not expand(("%s%0" .. math.min(#first, 20) .. "d%s"):format(head, n, tail), into) then return false end
    end
  end
  return true
end

--- Slurm's `n[0-3,7],gpu[01-02]` -> list of names | nil
function hosts.slurm(text)
  local list = {}
  for _, part in ipairs(split(text) or { "" }) do
    if not expand(part, list) then return nil end
  end
  return list
end

--- One host a line, its first word, a host as often as it has slots -> list of names, { [name] = slots }
function hosts.lines(text)
  local list, slots = {}, {}
  for line in text:gmatch "[^\n]+" do
    local name = line:match "^%s*(%S+)"
    if name then
      if not slots[name] then list[#list + 1] = name end
      slots[name] = (slots[name] or 0) + 1
    end
  end
  return list, slots
end

--- `h1 4 h2 8` on one line (LSF) or on several with more behind (Grid Engine: per_line) -> list of names, { [name] = slots } | nil
function hosts.pairs(text, per_line)
  local list, slots = {}, {}
  local rest = text:gsub(per_line and "(%S+)[ \t]+(%d+)[^\n]*" or "(%S+)%s+(%d+)", function(name, count)
    if not slots[name] then list[#list + 1] = name end
    slots[name] = (slots[name] or 0) + (math.tointeger(tonumber(count)) or 0)
    return ""
  end)
  if #list == 0 or rest:find "%S" then return nil end
  return list, slots
end

--- slots[host], where one of the two may be written with its domain.
function hosts.of(slots, host)
  if slots[host] then return slots[host] end
  local short = host:match "^[^.]+"
  for name, count in pairs(slots) do
    if name:match "^[^.]+" == short then return count end
  end
end

return hosts

-- kava.cluster: which file of configs/clusters holds for this machine. Such a file is a config file with one more key, `match`: what
-- the machine's own names look like. --cluster=NAME decides, then KAVA_CLUSTER, then the file whose `match` does:
--
--   match = { host = { "login*", "n[0-9]*" }, SLURM_CLUSTER_NAME = "alps" }      any one of them is enough
--
-- `host` is the machine's name, with or without its domain, everything else a variable of the environment; each is a pattern or a list
-- of patterns, in which * stands for any characters, ? for one, [0-9] for one of these.
local config = require "kava.config"

local cluster = {}

local FOLDER = "configs/clusters"

-- A pattern of a shell as one of Lua's, anchored.
local function anchored(pattern)
  local out, at = {}, 1
  while at <= #pattern do
    local set = pattern:match("^%[[%w_.%-]+%]", at)
    local c = pattern:sub(at, at)
    out[#out + 1] = set or c == "*" and ".*" or c == "?" and "." or c:gsub("%W", "%%%0")
    at = at + #(set or c)
  end
  return "^" .. table.concat(out) .. "$"
end

--- Whether a name is one that a pattern, or one of a list of patterns, describes.
function cluster.like(name, patterns)
  for _, pattern in ipairs(type(patterns) == "table" and patterns or { patterns }) do
    if name:find(anchored(pattern)) then return true end
  end
  return false
end

-- What is wrong with a match table, or nil.
local function malformed(match)
  if type(match) ~= "table" then return ("match = %s: a table { host = …, VARIABLE = … } expected"):format(config.literal(match)) end
  for key, patterns in pairs(match) do
    if type(key) ~= "string" or key ~= "host" and not key:find "^[%u_][%u%d_]*$" then
      return ("match.%s: host, or the name of a variable, expected"):format(tostring(key))
    end
    if config.secret(key) then return ("match.%s: a variable of such a name is never read"):format(key) end
    local list = type(patterns) == "table" and patterns or { patterns }
    for _, pattern in ipairs(list) do
      if type(pattern) ~= "string" or pattern == "" then
        return ("match.%s = %s: a text, or a list of texts, expected"):format(key, config.literal(patterns))
      end
    end
    if #list == 0 then return ("match.%s = %s: a text, or a list of texts, expected"):format(key, config.literal(patterns)) end
  end
end

--- A cluster's file -> { values =, match =, path = } | nil, message
function cluster.read(path)
  local values, message = config.read(path)
  if not values then return nil, message end
  local match = values.match
  values.match = nil
  local problem = match ~= nil and malformed(match)
  if problem then return nil, path .. ": " .. problem end
  return { values = values, match = match or {}, path = path }
end

--- Why a file's `match` holds, or nil. machine: { host = name, getenv = function }
function cluster.matches(match, machine)
  local names = {}
  for key in pairs(match) do names[#names + 1] = key end
  table.sort(names)
  for _, key in ipairs(names) do
    local value = key == "host" and machine.host or key ~= "host" and machine.getenv(key)
    if value and value ~= "" then
      local short = key == "host" and value:match "^[^.]+" or value
      if cluster.like(value, match[key]) or cluster.like(short, match[key]) then
        return key == "host" and "host " .. value or ("%s=%s"):format(key, value)
      end
    end
  end
end

--- The clusters there are, by the folders that are looked through, first found first. -> { name = path }, sorted names
function cluster.list(roots)
  local fs, paths, names = require("kava.core").fs, {}, {}
  for _, root in ipairs(roots) do
    for _, file in ipairs(fs.list(root .. "/" .. FOLDER) or {}) do
      local name = file:match "^([%w_.%-]+)%.lua$"
      if name and not paths[name] then
        paths[name] = (root == "." and "" or root .. "/") .. FOLDER .. "/" .. file
        names[#names + 1] = name
      end
    end
  end
  table.sort(names)
  return paths, names
end

local function named(name, said, paths, names)
  if name == "none" then return nil end
  if not paths[name] then
    local near = config.nearest(name, paths)
    return nil, ("%s: %s/%s.lua is not there%s; there is %s"):format(said, FOLDER, name,
      near and (", did you mean '%s'?"):format(near) or "", #names > 0 and table.concat(names, ", ") or "none")
  end
  local found, message = cluster.read(paths[name])
  if not found then return nil, message end
  found.name, found.why = name, said
  return found
end

--- The cluster that holds -> { name =, path =, values =, why = } | nil (none) | nil, message
--- given: --cluster's value or nil; machine: { host =, getenv = }; roots: folders that have configs/clusters
function cluster.choose(given, machine, roots)
  local paths, names = cluster.list(roots)
  if given then return named(given, "--cluster=" .. given, paths, names) end
  local variable = machine.getenv "KAVA_CLUSTER"
  if variable and variable:find "%S" then return named(variable, "KAVA_CLUSTER=" .. variable, paths, names) end
  local found
  for _, name in ipairs(names) do
    local one, message = cluster.read(paths[name])
    if not one then return nil, message .. "\nmend it, or choose with --cluster=NAME; --cluster=none takes no cluster's file" end
    local why = cluster.matches(one.match, machine)
    if why and found then
      return nil, ("%s (%s) and %s (%s) both match this machine: choose with --cluster=NAME"):format(found.path, found.why, one.path, why)
    end
    if why then one.name, one.why, found = name, why, one end
  end
  return found
end

return cluster

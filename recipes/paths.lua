-- Where things are: a pure function from facts, config and a look at folders to paths, with reasons. What config says of a folder wins, and
-- in it the layers have their order: the command line, KAVA_MODEL_PATH and its like, an experiment, the cluster. A folder that is "auto"
-- lies below the first of paths.hpc_patterns that can be used, where a scheduler runs this, and else where paths.defaults says.
-- Relative folders are relative to paths.project_root. The look is recipes/env/folders.lua's, or a spec's.
local config = require "kava.config"

local paths = {}

paths.kinds = { "models", "data", "cache", "output" }

-- What is only read has to be there already; what is written has to be of use: writable, and not full.
local BELOW = { models = "local_models", data = "local_data", cache = "cache", output = "outputs" }
local WRITTEN = { cache = true, output = true }
local ROOM = { cache = 256 << 20, output = 256 << 20 } -- bytes; the demo's checkpoints and logs need a small part of it

local EVERYBODYS = { ["/tmp"] = true, ["/var/tmp"] = true, ["/dev/shm"] = true } -- a TMPDIR that is no folder of this job's own

local function gib(n) return ("%.2f GiB"):format(n / (1 << 30)) end

-- ----------------------------------------------------------------------------------------------------------------- patterns

--- The names of the variables that the config's folders mention as {$NAME}, for env.facts to read. -> list | nil, message
function paths.variables(settings)
  local list, all = {}, { ["paths.project_root"] = settings.paths.project_root }
  for _, kind in ipairs(paths.kinds) do
    all["paths." .. kind], all["paths.defaults." .. kind] = settings.paths[kind], settings.paths.defaults[kind]
  end
  for i, pattern in ipairs(settings.paths.hpc_patterns) do all[("paths.hpc_patterns[%d]"):format(i)] = pattern end
  for key, text in pairs(all) do
    if type(text) ~= "string" then return nil, ("%s = %s: a folder expected"):format(key, config.literal(text)) end
    for name in text:gmatch "{%$([%w_]+)}" do
      if config.secret(name) then return nil, ("%s = %q: a variable of such a name is never read"):format(key, text) end
      list[#list + 1] = name
    end
  end
  return list
end

--- A pattern with {username}, {home}, {job}, {scratch} and {$VARIABLE} replaced -> path | nil, what is not known
function paths.expand(pattern, facts)
  local own = facts.scratch and not EVERYBODYS[facts.scratch] and facts.scratch
  local known = { username = facts.user, home = facts.home, job = facts.job or "0", scratch = own or false }
  local problem
  local path = pattern:gsub("{([^{}]*)}", function(name)
    local variable = name:match "^%$([%w_]+)$"
    local value
    if variable then
      value = facts.variables[variable]
      if not value or value == "" then problem = problem or variable .. " is not set" end
    elseif known[name] == nil then
      local near = config.nearest(name, known)
      problem = problem or ("{%s} is not known; there are {username}, {home}, {job}, {scratch}, {$VARIABLE}%s"):format(name,
        near and ", did you mean {" .. near .. "}?" or "")
    else
      value = known[name]
      if not value then problem = problem or "the job has no " .. name .. " folder of its own" end
    end
    return value or ""
  end)
  if problem then return nil, problem end
  return (path:gsub("(.)/+$", "%1"))
end

-- ----------------------------------------------------------------------------------------------------------------- decisions

local function below(root, path)
  if path:sub(1, 1) == "/" or root == "." then return path end
  return root .. "/" .. path:gsub("^%./", "")
end

-- Why a folder of this kind cannot be here, or nil. seen: what the look gave.
local function unusable(kind, seen)
  if not WRITTEN[kind] then return not seen.exists and "not there" or nil end
  if seen.problem then return seen.problem end
  if seen.free_bytes and seen.free_bytes < ROOM[kind] then return ("only %s free"):format(gib(seen.free_bytes)) end
end

-- Below the first pattern that can be used -> path, why, seen | nil
local function by_pattern(kind, facts, patterns, look)
  for _, pattern in ipairs(patterns) do
    -- What a scheduler's scratch holds is gone when the job ends: a cache may be, results may not.
    local base = (kind == "cache" or not pattern:find("{scratch}", 1, true)) and paths.expand(pattern, facts)
    if base then
      -- Only where the folder, or the one right above it, is there: nobody wants /work/ada made where there is no /work.
      local at = look(base).at
      if at == base or at == base:match "^(.+)/[^/]+$" then
        local path = base .. "/" .. BELOW[kind]
        local seen = look(path)
        if not unusable(kind, seen) then return path, "paths.hpc_patterns, " .. pattern, seen end
      end
    end
  end
end

local function project_root(facts, given, from)
  if given == "auto" then return ".", "the current folder" end
  local path, problem = paths.expand(given, facts)
  if not path then return nil, ("paths.project_root = %q (%s): %s"):format(given, from, problem) end
  return path, from
end

--- facts; resolved: the config, with its provenance and cluster; look(path): recipes/env/folders.lua
--- -> { models =, data =, output =, cache =, project_root =, why = { … }, seen = { … as looked at }, warnings = list } | nil, message
function paths.resolve(facts, resolved, look)
  local settings, from = resolved.values.paths, resolved.from
  local root, reason = project_root(facts, settings.project_root, from["paths.project_root"])
  if not root then return nil, reason end
  local places = { project_root = root, why = { project_root = reason }, seen = { project_root = look(root) }, warnings = {} }
  if not places.seen.project_root.exists then
    return nil, ("paths.project_root = %q (%s): not there; correct it, or make the folder"):format(root, reason)
  end
  -- A cluster's login nodes run no job, and have its folders.
  local patterns = (facts.kind == "hpc" or resolved.cluster) and settings.hpc_patterns or {}
  for _, kind in ipairs(paths.kinds) do
    local given, source = settings[kind], from["paths." .. kind]
    local auto, path, why, seen = given == "auto", nil, nil, nil
    if auto then path, why, seen = by_pattern(kind, facts, patterns, look) end
    if not path then
      if auto then given, source = settings.defaults[kind], "paths.defaults, " .. from["paths.defaults." .. kind] end
      local expanded, problem = paths.expand(given, facts)
      if not expanded then return nil, ("paths.%s = %q (%s): %s"):format(kind, given, source, problem) end
      path, why = below(root, expanded), source
      if path ~= expanded then why = why .. ", below the project's root" end
    end
    places[kind], places.why[kind], places.seen[kind] = path, why, seen or look(path)
    if not auto and not WRITTEN[kind] and not places.seen[kind].exists then
      places.warnings[#places.warnings + 1] = ("%s are looked for in %s (%s), which is not there"):format(kind, path, source)
    end
  end
  local scratch = facts.scratch and not EVERYBODYS[facts.scratch] and facts.scratch .. "/"
  if scratch and (places.output .. "/"):sub(1, #scratch) == scratch then
    places.warnings[#places.warnings + 1] = ("the output %s (%s) lies in the job's scratch (%s), gone when the job ends: copy it out, "
      .. "or set paths.output"):format(places.output, places.why.output, facts.scratch)
  end
  return places
end

--- What is wrong with a folder that a run has to write, with what to do, or nil. kind: "output" or "cache"
function paths.complaint(places, kind, settings)
  local problem = unusable(kind, places.seen[kind])
  if not problem then return nil end
  if problem:find "^only" then problem = ("%s, at least %s needed: make room"):format(problem, gib(ROOM[kind])) end
  return ("%s (%s): %s; set %s or paths.%s to a folder of yours"):format(places[kind], places.why[kind], problem,
    settings.paths.env_vars[kind], kind)
end

--- The places a name may mean, best first: as it is, below the folder, below the program's folder.
function paths.candidates(name, folder, home)
  if name:sub(1, 1) == "/" then return { name } end
  local list = { name, folder .. "/" .. name }
  if home then list[#list + 1] = home .. "/" .. name end
  return list
end

return paths

-- Where things are: a pure function from facts and config to folders, with reasons. KAVA_*_PATH win over the config (a cluster's
-- file sets patterns such as /scratch/{username}/kava), the config over ./local_models and its like. What the config says relative to
-- the current folder is relative to KAVA_PROJECT_ROOT where that is set.
local paths = {}

local VARIABLES = { models = "KAVA_MODEL_PATH", data = "KAVA_DATA_PATH", output = "KAVA_OUTPUT_PATH", cache = "KAVA_CACHE_PATH" }

local function expand(pattern, facts)
  local known = { username = facts.user, home = facts.home, job = facts.job or "0" }
  return (pattern:gsub("{(%w+)}", known))
end

--- facts, config -> { models =, data =, output =, cache =, why = { … } }. An unknown {placeholder} is left as it is.
function paths.resolve(facts, config, from)
  local resolved = { why = {} }
  local root = facts.variables.KAVA_PROJECT_ROOT
  for kind, variable in pairs(VARIABLES) do
    local value = facts.variables[variable]
    if value and value ~= "" then
      resolved[kind], resolved.why[kind] = value, variable
    else
      local name = "paths." .. kind
      local path, why = expand(config.paths[kind], facts), from and name .. ", " .. from[name] or name
      if root and root ~= "" and path:sub(1, 1) ~= "/" then
        path, why = root .. "/" .. path:gsub("^%./", ""), why .. ", below KAVA_PROJECT_ROOT"
      end
      resolved[kind], resolved.why[kind] = path, why
    end
  end
  return resolved
end

--- The places a name may mean, best first: as it is, below the folder, below the program's folder.
function paths.candidates(name, folder, home)
  if name:sub(1, 1) == "/" then return { name } end
  local list = { name, folder .. "/" .. name }
  if home then list[#list + 1] = home .. "/" .. name end
  return list
end

return paths

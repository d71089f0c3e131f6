-- Where things are: a pure function from facts and config to folders, with reasons. KAVA_*_PATH win over the config (a cluster's
-- file sets patterns such as /scratch/{username}/kava), the config over ./local_models and its like.
local paths = {}

local KINDS = { "models", "data", "output", "cache" }

local function expand(pattern, facts)
  local known = { username = facts.user, home = facts.home, job = facts.job or "0" }
  return (pattern:gsub("{(%w+)}", known))
end

--- facts, config -> { models =, data =, output =, cache =, why = { … } }. An unknown {placeholder} is left as it is.
function paths.resolve(facts, config, from)
  local resolved = { why = {} }
  for _, kind in ipairs(KINDS) do
    local variable = ("KAVA_%s_PATH"):format(kind:upper())
    local value = facts.variables[variable]
    if value and value ~= "" then
      resolved[kind], resolved.why[kind] = value, variable
    else
      local name = "paths." .. kind
      resolved[kind], resolved.why[kind] = expand(config.paths[kind], facts), from and name .. ", " .. from[name] or name
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

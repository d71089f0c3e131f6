-- kava.find: finds what is named: recipes/<kind>/<name>.lua in the user's folder, then in KAVA's own.
local find = {}

local function readable(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

-- The folder that holds lua/, recipes/ and configs/.
function find.home()
  local here = debug.getinfo(1, "S").source:match "^@(.*)lua/kava/find%.lua$"
  return here == "" and "." or here and here:gsub("/$", "") or "."
end

local function names_in(folder)
  local names = {}
  local kava = require "kava"
  for _, file in ipairs(kava.fs and kava.fs.list(folder) or {}) do
    local name = file:match "^([%w_]+)%.lua$"
    if name then names[#names + 1] = name end
  end
  return names
end

-- Every name of a kind ("aggregate", "loss", "schedule"), sorted.
function find.names(kind)
  local seen, names = {}, {}
  for _, root in ipairs { ".", find.home() } do
    for _, name in ipairs(names_in(("%s/recipes/%s"):format(root, kind))) do
      if not seen[name] then
        seen[name] = true
        names[#names + 1] = name
      end
    end
  end
  table.sort(names)
  return names
end

-- Loads recipes/<kind>/<name>.lua -> what it returns, its path. A name may also be a path ending in .lua.
function find.recipe(kind, name)
  if type(name) ~= "string" then error(("%s: a name or a function expected, got %s"):format(kind, type(name)), 0) end
  local tried = name:find "%.lua$" and { name }
    or { ("./recipes/%s/%s.lua"):format(kind, name), ("%s/recipes/%s/%s.lua"):format(find.home(), kind, name) }
  for _, path in ipairs(tried) do
    if readable(path) then
      local chunk, message = loadfile(path, "t")
      if not chunk then error(message, 0) end
      return chunk(), path
    end
  end
  error(("unknown %s '%s'; known: %s"):format(kind, name, table.concat(find.names(kind), ", ")), 0)
end

return find

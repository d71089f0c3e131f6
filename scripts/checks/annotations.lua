-- What the C module registers and what the LuaCATS annotations under lua/kava/meta declare are the same names: functions
-- (kava.seed, kava.gguf.load), methods of classes (kava.Tensor:numel) and plain values (kava.version).
local files = require "scripts.checks.files"

-- A fresh core table: the loaded one may have been extended by the library's Lua parts.
local function open_core()
  local build = os.getenv "KAVA_BUILD" or "build/release"
  local open = package.preload["kava.core"] or assert(package.loadlib(build .. "/kava_c/kava/core.so", "luaopen_kava_core"))
  return open("kava.core")
end

-- The table of methods behind a metatable's __index, which may be a C function that keeps it as an upvalue.
local function methods_of(metatable)
  local index = metatable.__index
  for i = 1, 8 do
    if type(index) ~= "function" then break end
    local _, value = debug.getupvalue(metatable.__index, i)
    if type(value) == "table" then index = value end
  end
  return type(index) == "table" and index or {}
end

local function registered()
  local core, names = open_core(), {}
  local function walk(prefix, t)
    for key, value in pairs(t) do
      if type(value) == "table" then walk(prefix .. key .. ".", value)
      else names[prefix .. key] = type(value) end
    end
  end
  walk("kava.", core)
  for key, metatable in pairs(debug.getregistry()) do
    if type(key) == "string" and key:match "^kava%.%u" and type(metatable) == "table" and metatable.__name == key then
      local methods = methods_of(metatable)
      -- A class that can only be released is a box in which C keeps its state across calls: nobody else sees it.
      local internal = next(methods) == "release" and next(methods, "release") == nil
      for name, value in pairs(internal and {} or methods) do names[key .. ":" .. name] = type(value) end
    end
  end
  return names
end

-- Boxes are left out where C registers them; Lua may still name the ones it hands out (kava.Scope).
local function is_box_method(name) return name:match "^kava%.%u%w*:release$" ~= nil end

local function declared()
  local names = {}
  for _, path in ipairs(files.list("%.lua$", { "lua/kava/meta" })) do
    local class_of, class = { kava = "kava" }, nil
    for number, line in files.lines(files.read(path)) do
      local place = path .. ":" .. number
      local opened = line:match "^%-%-%-@class%s+([%w_.]+)"
      local field = line:match "^%-%-%-@field%s+([%w_]+)"
      if opened then class = opened end
      if field and class and not class:match "^kava%.%u" then names[class .. "." .. field] = place end
      local variable = line:match "^local%s+([%w_]+)%s*=%s*{%s*}" or line:match "^([%w_.]+)%s*=%s*{%s*}"
      if variable then
        if class then class_of[variable] = class end
        class = nil
      end
      local owner, separator, name = line:match "^function%s+([%w_.]-)([.:])([%w_]+)%s*%("
      if owner then
        local first, rest = owner:match "^([%w_]+)(.*)$"
        local base = class_of[owner] or class_of[first] and class_of[first] .. rest or owner
        names[base .. (base:match "^kava%.%u" and ":" or separator) .. name] = place
      end
    end
  end
  return names
end

-- Classes written in Lua: tables with a __name that a module of the library holds, or one of its functions.
local function lua_classes()
  local classes, seen = {}, {}
  local function look(value, depth)
    if type(value) == "table" and not seen[value] then
      seen[value] = true
      local name = rawget(value, "__name")
      if type(name) == "string" and name:match "^kava%.%u" then classes[name] = value end
      if depth < 3 then
        for _, inner in next, value do look(inner, depth + 1) end
      end
    elseif type(value) == "function" and not seen[value] then
      seen[value] = true
      for i = 1, math.huge do
        local name, inner = debug.getupvalue(value, i)
        if not name then break end
        if type(inner) == "table" then look(inner, depth + 1) end
      end
    end
  end
  for _, part in ipairs { "model", "kv", "loss", "optim", "projector", "tokenizer", "data", "align", "teacher_cache" } do
    local found, module = pcall(require, "kava." .. part)
    seen = {} -- what another part met at its last depth is still to be looked into
    if found then look(module, 0) end
  end
  return classes
end

return function()
  local complaints = {}
  local in_c, in_meta = registered(), declared()
  local kava, classes = require "kava", lua_classes()
  for name, kind in pairs(in_c) do
    if not in_meta[name] then
      complaints[#complaints + 1] = ("%s (%s) is registered but not declared in lua/kava/meta"):format(name, kind)
    end
  end
  for name, place in pairs(in_meta) do
    if not in_c[name] then -- then it has to be one that the library's Lua parts add
      local class, method = name:match "^(.*):(.*)$"
      local value = class and classes[class] and classes[class][method]
      if not class then
        value = kava
        for key in name:gsub("^kava%.", ""):gmatch "[^.:]+" do
          value = type(value) == "table" and value[key] or nil
        end
      end
      if value == nil and not is_box_method(name) then
        complaints[#complaints + 1] = ("%s: %s is declared but not there"):format(place, name)
      end
    end
  end
  table.sort(complaints)
  return complaints
end

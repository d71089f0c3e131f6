-- kava.config: configuration as Lua data.
-- A schema lists the keys: name, type, range, meaning. Layers of values (defaults, a cluster's file, an experiment's file, the
-- command line) are checked against it one by one, later ones over earlier ones, and every value remembers where it came from.
-- Nested tables and dotted names are the same thing: { kv = { method = "mean" } } is kv.method=mean.
-- Config files are data: text only, an environment with nothing but a few pure functions, a bound on what they may execute.
local config = {}

local FILE_LIMIT = 1 << 20 -- bytes a config file may have
local HELP_WIDTH = 118
local STEP_LIMIT = 1000000 -- virtual-machine instructions it may execute

-- ---------------------------------------------------------------------------------------------------------------- schema

--- Makes a schema of a list of { name, type, meaning, … }. Types: string number integer boolean list table function, joined by "|".
--- choices: the strings allowed; min, max, above: the range of numbers; alias: another name, or several;
--- free: the key may change between a checkpoint and the run that resumes it; heading entries { heading = "…" } structure --help.
function config.schema(list)
  local schema = { list = list, by = {}, alias = {}, groups = {} }
  for _, spec in ipairs(list) do
    if not spec.heading then
      local name = spec[1]
      assert(not schema.by[name], name .. " is in the schema twice")
      local types = {}
      for kind in spec[2]:gmatch("[^|]+") do types[kind] = true end
      schema.by[name] = {
        name = name,
        types = types,
        kind = spec[2],
        about = spec[3],
        choices = spec.choices,
        min = spec.min,
        max = spec.max,
        above = spec.above,
        free = spec.free,
        alias = spec.alias,
      }
      local aliases = type(spec.alias) == "table" and spec.alias or { spec.alias }
      for _, alias in ipairs(aliases) do schema.alias[alias] = name end
      for at in name:gmatch("()%.") do schema.groups[name:sub(1, at - 1)] = true end
    end
  end
  return schema
end

--- A new schema: the entries of `schema`, then those of `list`.
function config.extend(schema, list)
  local all = table.move(schema.list, 1, #schema.list, 1, {})
  return config.schema(table.move(list, 1, #list, #all + 1, all))
end

--- The Levenshtein distance of two names.
function config.distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local corner = row[0]
    row[0] = i
    for j = 1, #b do
      local best = math.min(corner + (a:byte(i) == b:byte(j) and 0 or 1), row[j] + 1, row[j - 1] + 1)
      corner, row[j] = row[j], best
    end
  end
  return row[#b]
end

--- The nearest of the names: by edits, where a name's last part counts as the name (`method` is near `kv.method`).
function config.nearest(name, names)
  local best, found = math.huge, nil
  for candidate in pairs(names) do
    local d = config.distance(name, candidate)
    local tail = candidate:match("([^.]+)$")
    if tail ~= candidate then d = math.min(d, config.distance(name:match("([^.]+)$"), tail) + 0.5) end
    if d < best or (d == best and candidate < found) then best, found = d, candidate end
  end
  return best <= math.max(2, #name // 2) and found or nil
end

local function unknown(schema, name, from)
  local names = {}
  for known in pairs(schema.by) do names[known] = true end
  for alias in pairs(schema.alias) do names[alias] = true end
  local near = config.nearest(name, names)
  local hint = near and ("; did you mean '%s'?"):format(near) or "; --help lists the known ones"
  return ("unknown key '%s' (%s)%s"):format(name, from, hint)
end

-- ---------------------------------------------------------------------------------------------------------------- values

--- A value as it is written in a config file. Functions, which cannot be written, become their place.
function config.literal(value)
  if type(value) == "string" then return (("%q"):format(value):gsub("\\\n", "\\n")) end
  if type(value) == "function" then
    local info = debug.getinfo(value, "S")
    return ("function (%s:%d)"):format(info.short_src, info.linedefined)
  end
  if type(value) ~= "table" then
    if math.type(value) == "float" then
      local short = ("%.15g"):format(value)
      return tonumber(short) == value and short or ("%.17g"):format(value)
    end
    return tostring(value)
  end
  local parts, names = {}, {}
  for _, item in ipairs(value) do parts[#parts + 1] = config.literal(item) end
  for key in pairs(value) do
    if math.type(key) ~= "integer" or key < 1 or key > #value then names[#names + 1] = key end
  end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, key in ipairs(names) do
    local name = type(key) == "string" and key:match("^[%a_][%w_]*$") or "[" .. config.literal(key) .. "]"
    parts[#parts + 1] = name .. " = " .. config.literal(value[key])
  end
  return #parts == 0 and "{}" or "{ " .. table.concat(parts, ", ") .. " }"
end

local function expected(spec)
  local parts = {}
  for kind in spec.kind:gmatch("[^|]+") do
    if not (kind == "string" and spec.choices) then parts[#parts + 1] = kind end
  end
  if spec.choices then
    local quoted = {}
    for i, choice in ipairs(spec.choices) do quoted[i] = '"' .. choice .. '"' end
    parts[#parts + 1] = table.concat(quoted, " or ")
  end
  local text = table.concat(parts, " or ")
  if spec.min and spec.max then return ("%s from %s to %s"):format(text, spec.min, spec.max) end
  if spec.above then text = ("%s above %s"):format(text, spec.above) end
  if spec.min then text = ("%s, at least %s"):format(text, spec.min) end
  if spec.max then text = ("%s, at most %s"):format(text, spec.max) end
  return text
end
config.expected = expected

local function wrong(spec, shown, from)
  return nil, ("%s = %s (%s): %s expected"):format(spec.name, shown, from, expected(spec))
end

local function is_list(value)
  local count = 0
  for _ in pairs(value) do count = count + 1 end
  return count == #value
end

-- The value as the schema wants it, or nil and a message.
local function check(spec, value, from)
  local kind, types = type(value), spec.types
  if kind == "number" then
    if types.integer and not types.number then
      local whole = math.tointeger(value)
      if not whole then return wrong(spec, config.literal(value), from) end
      value = whole
    elseif not types.number then
      return wrong(spec, config.literal(value), from)
    end
    if value ~= value or (spec.min and value < spec.min) or (spec.max and value > spec.max) or (spec.above and value <= spec.above) then
      return wrong(spec, config.literal(value), from)
    end
    return value
  end
  if value == "" then return nil, ("%s (%s): nothing given; %s expected"):format(spec.name, from, expected(spec)) end
  if kind == "string" and spec.choices then
    for _, choice in ipairs(spec.choices) do
      if choice == value then return value end
    end
    local names = {}
    for _, choice in ipairs(spec.choices) do names[choice] = true end
    local near = config.nearest(value, names)
    local _, message = wrong(spec, config.literal(value), from)
    return nil, message .. (near and ("; did you mean '%s'?"):format(near) or "")
  end
  if kind == "table" and types.list and is_list(value) then return value end
  if not types[kind] then return wrong(spec, kind == "function" and "a function" or config.literal(value), from) end
  return value
end

-- A command line's text as a value of the key's type; the text itself where no type fits, so that the message can show it.
local function parse(spec, text)
  local types = spec.types
  if text:match("^%s*{") and (types.table or types.list) then
    local chunk = load("return " .. text, "=" .. spec.name, "t", {})
    local ok, value = pcall(chunk or error)
    return ok and value or text
  end
  if types.list and text:match("^[%d,%s]+$") and text:find(",", 1, true) then
    local list = {}
    for item in text:gmatch("[^,%s]+") do list[#list + 1] = math.tointeger(tonumber(item)) or item end
    return list
  end
  if (types.number or types.integer) and tonumber(text) then return tonumber(text) end
  if types.boolean and (text == "true" or text == "false") then return text == "true" end
  return text
end

-- ---------------------------------------------------------------------------------------------------------------- layers

-- Walks a nested table into flat[name] = checked value.
local function flatten(schema, values, prefix, from, flat)
  local names = {}
  for key in pairs(values) do
    if type(key) ~= "string" then
      return nil, ("%s%s (%s): keys are names, got %s"):format(prefix, prefix == "" and "the config" or "", from, config.literal(key))
    end
    names[#names + 1] = key
  end
  table.sort(names)
  for _, key in ipairs(names) do
    local value = values[key]
    local full = prefix == "" and key or prefix .. "." .. key
    local name = schema.alias[full] or full
    local spec = schema.by[name]
    if spec and not (schema.groups[full] and type(value) == "table") then -- `data` is a group of keys and an alias of data.train
      local checked, message = check(spec, value, from)
      if checked == nil then return nil, message end
      if flat[name] ~= nil then return nil, ("%s is given twice (%s), once under another name"):format(name, from) end
      flat[name] = checked
    elseif schema.groups[full] then
      if type(value) ~= "table" then
        return nil, ("%s = %s (%s): a table of keys expected"):format(full, config.literal(value), from)
      end
      local ok, message = flatten(schema, value, full, from, flat)
      if not ok then return nil, message end
    else
      return nil, unknown(schema, full, from)
    end
  end
  return flat
end

--- A layer from a table of values. -> { from =, values = { name = value } } | nil, message
function config.layer(schema, values, from)
  local flat, message = flatten(schema, values, "", from, {})
  if not flat then return nil, message end
  return { from = from, values = flat }
end

--- A layer from "key=value" texts of the command line; the last of two assignments to one key wins, but a list may be given only
--- once: a shell makes three texts of student.layers={2,4,6}.
function config.assignments(schema, texts, from)
  from = from or "command line"
  local values = {}
  for _, text in ipairs(texts) do
    local key, value = text:match("^([^=]+)=(.*)$")
    if not key then return nil, ("'%s' (%s): key=value expected"):format(text, from) end
    local name = schema.alias[key] or key
    local spec = schema.by[name]
    if not spec then return nil, unknown(schema, key, from) end
    local checked, message = check(spec, parse(spec, value), from)
    if checked == nil then return nil, message end
    if values[name] ~= nil and spec.types.list then
      return nil, ("%s (%s): given more than once; a list is written %s=2,4,6 (a shell splits {2,4,6})"):format(key, from, key)
    end
    values[name] = checked
  end
  return { from = from, values = values }
end

local function pure(source, without)
  local copy = {}
  for name, value in pairs(source) do
    if not without[name] then copy[name] = value end
  end
  return copy
end

local function environment()
  local env = { ipairs = ipairs, pairs = pairs, select = select, type = type, tonumber = tonumber, tostring = tostring }
  env.error, env.assert, env.math = error, assert, pure(math, { random = true, randomseed = true })
  return env
end

--- Evaluates a config file: text only, nothing in reach but a few pure functions, a bound on the instructions.
--- -> the table it returns | nil, message
function config.read(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  local text = file:read(FILE_LIMIT + 1)
  file:close()
  if not text then return nil, path .. ": cannot be read (a folder?)" end
  if #text > FILE_LIMIT then return nil, ("%s: more than %d bytes: this is no config file"):format(path, FILE_LIMIT) end
  local chunk, problem = load(text, "@" .. path, "t", environment())
  if not chunk then return nil, problem:find(path, 1, true) and problem or path .. ": " .. problem end
  -- In a coroutine of its own, so that the bound does not displace a hook that is already set. String methods are out of reach
  -- meanwhile: ("x"):rep(1e9) would be one instruction.
  local thread, strings = coroutine.create(chunk), debug.getmetatable("")
  local methods = strings.__index
  local too_many = ("%s: executed %d instructions: config files are data"):format(path, STEP_LIMIT)
  debug.sethook(thread, function() error(too_many, 0) end, "", STEP_LIMIT)
  strings.__index = nil
  local ok, value = coroutine.resume(thread)
  strings.__index = methods
  if not ok then return nil, tostring(value) end
  if type(value) ~= "table" then return nil, ("%s: a config file returns a table, this one returns %s"):format(path, type(value)) end
  return value
end

-- -------------------------------------------------------------------------------------------------------------- resolved

---@class kava.config.Resolved
---@field values table nested: values.kv.method
---@field from table<string, string> name -> where the value came from
---@field schema table
local Resolved = {}
Resolved.__index = Resolved

function Resolved:get(name)
  local at = self.values
  for part in name:gmatch("[^.]+") do at = at[part] end
  return at
end

function Resolved:set(name, value, from)
  local at, last = self.values, nil
  for part in name:gmatch("[^.]+") do
    if last then at = at[last] end
    last = part
  end
  at[last], self.from[name] = value, from
end

--- Each key that has a value, in the schema's order: name, value, from.
function Resolved:each()
  local i, list = 0, self.schema.list
  return function()
    while i < #list do
      i = i + 1
      local name = list[i][1]
      local value = name and self:get(name)
      if name and value ~= nil then return name, value, self.from[name] end
    end
  end
end

--- The resolved config as a config file that says where each value came from.
function Resolved:text()
  local lines = { "-- The resolved config: each value and where it came from.", "return {" }
  for name, value, from in self:each() do
    local line = ("  [%q] = %s,"):format(name, config.literal(value))
    if type(value) == "function" then line = "  -- " .. line:sub(3) end
    lines[#lines + 1] = ("%-72s -- %s"):format(line, from)
  end
  lines[#lines + 1] = "}\n"
  return table.concat(lines, "\n")
end

-- A function's identity is its text, wherever it stands.
local function code_of(f)
  local info = debug.getinfo(f, "S")
  local file = info.source:sub(1, 1) == "@" and io.open(info.source:sub(2), "rb")
  if not file then return string.dump(f, true) end
  local lines, number = {}, 0
  for line in file:lines() do
    number = number + 1
    if number >= info.linedefined and number <= info.lastlinedefined then lines[#lines + 1] = line:match("^%s*(.-)%s*$") end
  end
  file:close()
  return table.concat(lines, "\n")
end

--- name -> text for every key that a resumed run must share; functions by their text.
function Resolved:identity()
  local identity = {}
  for name, value in self:each() do
    if not self.schema.by[name].free then
      identity[name] = type(value) == "function" and "function " .. config.hash(code_of(value)) or config.literal(value)
    end
  end
  return identity
end

--- Sixteen hexadecimal digits of a text (FNV-1a, 64 bits): for names of folders and for comparing, not for security.
function config.hash(text)
  local h = 0xcbf29ce484222325
  for i = 1, #text do h = (h ~ text:byte(i)) * 0x100000001b3 end
  return ("%016x"):format(h)
end

--- The keys in which two identities differ, as lines "key: there, here".
function config.differences(there, here)
  local names, lines = {}, {}
  for name in pairs(there) do names[name] = true end
  for name in pairs(here) do names[name] = true end
  for name in pairs(names) do
    if there[name] ~= here[name] then
      lines[#lines + 1] = ("%s: %s there, %s here"):format(name, there[name] or "not set", here[name] or "not set")
    end
  end
  table.sort(lines)
  return lines
end

--- Puts layers over one another, the last on top.
function config.resolve(schema, layers)
  local resolved = setmetatable({ values = {}, from = {}, schema = schema }, Resolved)
  for group in pairs(schema.groups) do
    local at = resolved.values
    for part in group:gmatch("[^.]+") do
      at[part] = at[part] or {}
      at = at[part]
    end
  end
  for _, layer in ipairs(layers) do
    for name, value in pairs(layer.values) do resolved:set(name, value, layer.from) end
  end
  return resolved
end

--- The lines of --help: every key, its default, what it may be, what it means.
function config.help(schema, defaults)
  local lines = {}
  for _, entry in ipairs(schema.list) do
    if entry.heading then
      lines[#lines + 1] = "\n" .. entry.heading
    else
      local spec = schema.by[entry[1]]
      local default = defaults:get(spec.name)
      local shown = default ~= nil and "=" .. (type(default) == "string" and default:gsub("\n", "\\n") or config.literal(default)) or ""
      local also = spec.alias and "; also " .. (type(spec.alias) == "table" and table.concat(spec.alias, ", ") or spec.alias) or ""
      local line = ("  %-30s %s"):format(spec.name .. shown, spec.about)
      local kinds = ("(%s%s)"):format(expected(spec), also)
      lines[#lines + 1] = #line + #kinds < HELP_WIDTH and line .. " " .. kinds or ("%s\n%33s%s"):format(line, "", kinds)
    end
  end
  return table.concat(lines, "\n")
end

return config

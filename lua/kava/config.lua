-- kava.config: configuration as Lua data.
-- A schema lists the keys: name, type, range, meaning. Layers of values (defaults, a cluster's file, an experiment's file, variables of
-- the environment, the command line) are checked against it one by one, later ones over earlier ones, and every value remembers where
-- it came from. Nested tables and dotted names are the same thing: { kv = { method = "mean" } } is kv.method=mean, and KAVA_KV_METHOD=mean.
-- Config files are data: text only, an environment with nothing but a few pure functions, bounds on what they may execute and hold.
local config = {}

local FILE_LIMIT = 1 << 20 -- bytes a config file may have
local HELP_WIDTH, HELP_INDENT = 118, 33
local BOUNDS = { instructions = 1000000, memory = 32 << 20, seconds = 1 } -- what evaluating it may take
local NAME_LENGTH = 80 -- of a key that anybody means
local TABLE_DEPTH, TABLE_ITEMS = 8, 10000 -- of a value
-- Variables of such names are nobody's business here. Tokens in the plural are counted.
local SECRET = { "TOKEN", "KEYS?", "SECRETS?", "PASSWORDS?", "PASSWDS?", "CREDENTIALS?" }

-- ---------------------------------------------------------------------------------------------------------------- schema

--- Makes a schema of a list of { name, type, meaning, … }. Types: string number integer boolean list table function, joined by "|".
--- choices: the strings allowed; synonyms: other spellings of them; min, max, above: the range of numbers; alias: another name, or
--- several; old: other names whose values mean others: old = { use_all_layers = { [true] = "all", [false] = "last" } };
--- sets: the value is the name of an environment variable that sets this key; free: the key may change between a checkpoint and the run
--- that resumes it; heading entries { heading = "…" } structure --help.
function config.schema(list)
  local schema = { list = list, by = {}, alias = {}, old = {}, groups = {}, within = {}, variables = {} }
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
        synonyms = spec.synonyms or {},
        sets = spec.sets,
        also = type(spec.alias) == "table" and table.move(spec.alias, 1, #spec.alias, 1, {}) or { spec.alias },
      }
      local also = schema.by[name].also
      for _, alias in ipairs(also) do schema.alias[alias] = name end
      for old, values in pairs(spec.old or {}) do
        schema.alias[old], schema.old[old] = name, values
        also[#also + 1] = old
      end
      for at in name:gmatch("()%.") do schema.groups[name:sub(1, at - 1)] = true end
    end
  end
  for _, names in ipairs { schema.by, schema.alias } do
    for name in pairs(names) do
      for at in name:gmatch("()%.") do schema.within[name:sub(1, at - 1)] = true end
    end
  end
  for name in pairs(schema.by) do
    local variable = config.variable(name)
    assert(not schema.variables[variable], variable .. " could be two keys")
    assert(not config.secret(variable), variable .. ": the name of a secret's variable")
    schema.variables[variable] = name
  end
  for alias in pairs(schema.alias) do
    local variable = config.variable(alias)
    schema.variables[variable] = schema.variables[variable] or alias
  end
  return schema
end

--- The environment variable that sets a key: batch_size is KAVA_BATCH_SIZE, kv.method is KAVA_KV_METHOD.
function config.variable(name) return "KAVA_" .. name:upper():gsub("%.", "_") end

--- Whether a variable's name looks like a secret's, which is one that has a part ending in such a word (KAVA_TOKENIZER is none): such are
--- never read, printed or kept. More than one of them is as secret, but for KAVA's own: KAVA_TOKENS sets a recipe's tokens, a number.
function config.secret(name)
  local ending = name:find "^KAVA_" and "%d*$" or "S?%d*$"
  for part in name:upper():gmatch "[^_]+" do
    for _, word in ipairs(SECRET) do
      if part:find(word .. ending) then return true end
    end
  end
  return false
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
  if #name > NAME_LENGTH then return nil end -- no typo, and the distance to every name would take its time
  local best, found = math.huge, nil
  for candidate in pairs(names) do
    local d = config.distance(name, candidate)
    local tail = candidate:match("([^.]+)$")
    if tail ~= candidate then d = math.min(d, config.distance(name:match("([^.]+)$"), tail) + 0.5) end
    if d < best or (d == best and candidate < found) then best, found = d, candidate end
  end
  return best <= math.max(2, #name // 2) and found or nil
end

-- As a message shows it: not longer than a line or two.
local function shortened(text, length)
  if #text <= length then return text end
  return text:sub(1, (utf8.offset(text, 0, length) or length) - 1) .. "…"
end

local function unknown(schema, name, from)
  local names = {}
  for known in pairs(schema.by) do names[known] = true end
  for alias in pairs(schema.alias) do names[alias] = true end
  local near = config.nearest(name, names)
  local hint = near and ("; did you mean '%s'?"):format(near) or "; --help lists the known ones"
  return ("unknown key '%s' (%s)%s"):format(shortened(name, NAME_LENGTH), from, hint)
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
  return nil, ("%s = %s (%s): %s expected"):format(spec.name, shortened(shown, 200), from, expected(spec))
end

local function is_list(value)
  local count = 0
  for _ in pairs(value) do count = count + 1 end
  return count == #value
end

-- What a table is not, where it is more than data of a bounded size: a table within itself, a function in it.
local function excess(value, depth, count)
  count = count or { 0 }
  for key, item in next, value do
    count[1] = count[1] + 1
    if count[1] > TABLE_ITEMS then return ("more than %d items"):format(TABLE_ITEMS) end
    local kind = type(item)
    if type(key) == "table" or type(key) == "function" or kind == "function" then return "a function within a table" end
    if kind == "table" then
      if depth >= TABLE_DEPTH then return ("tables nested deeper than %d"):format(TABLE_DEPTH) end
      local what = excess(item, depth + 1, count)
      if what then return what end
    end
  end
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
    local finite = value == value and value ~= math.huge and value ~= -math.huge
    if not finite or (spec.min and value < spec.min) or (spec.max and value > spec.max) or (spec.above and value <= spec.above) then
      return wrong(spec, config.literal(value), from)
    end
    return value
  end
  if kind == "table" then
    local what = excess(value, 1)
    if what then return nil, ("%s (%s): %s; %s expected"):format(spec.name, from, what, expected(spec)) end
  end
  value = spec.synonyms[value] or value
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

-- What the value of another name for a key means. -> value | nil, message
local function meant(schema, given, value, from)
  local values = schema.old[given]
  if not values then return value end
  if values[value] ~= nil then return values[value] end
  local names = {}
  for name in pairs(values) do names[#names + 1] = tostring(name) end
  table.sort(names)
  return nil, ("%s = %s (%s): %s expected"):format(given, config.literal(value), from, table.concat(names, " or "))
end

-- A command line's text as a value of the key's type; the text itself where no type fits, so that the message can show it.
local function parse(schema, given, text)
  local spec = schema.by[schema.alias[given] or given]
  local types = schema.old[given] and { boolean = true } or spec.types
  if text:match("^%s*{") and (types.table or types.list) then
    local value = config.evaluate("return " .. text, "=" .. spec.name, {})
    return type(value) == "table" and value or text
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
    if spec and not (schema.within[full] and type(value) == "table") then -- `data` is a group of keys and an alias of data.train
      local checked, message = meant(schema, full, value, from)
      if checked ~= nil then checked, message = check(spec, checked, from) end
      if checked == nil then return nil, message end
      if flat[name] ~= nil and config.literal(flat[name]) ~= config.literal(checked) then
        return nil, ("%s is given twice (%s), once under another name"):format(name, from)
      end
      flat[name] = checked
    elseif schema.within[full] then
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
    local checked, message = meant(schema, key, parse(schema, key, value), from)
    if checked ~= nil then checked, message = check(spec, checked, from) end
    if checked == nil then return nil, message end
    if values[name] ~= nil and spec.types.list then
      return nil, ("%s (%s): given more than once; a list is written %s=2,4,6 (a shell splits {2,4,6})"):format(key, from, key)
    end
    values[name] = checked
  end
  return { from = from, values = values }
end

--- The layer of the environment: a variable for every key (config.variable), and those that keys marked `sets` name: their values are
--- taken from `below`, what the layers below resolve to. An empty variable is one that is not set. names: all variables that begin with
--- KAVA_; others: those of them that are no keys'. -> layer | nil, message; a list of the variables that mean nothing
function config.environment(schema, below, getenv, names, others)
  local layer, first = { from = "environment", values = {}, sources = {} }, {}
  local known, strange = {}, {}
  for variable, name in pairs(schema.variables) do known[variable] = name end
  for name, spec in pairs(schema.by) do
    local variable = spec.sets and below:get(name)
    if variable then
      if config.secret(variable) then
        return nil, ("%s = %q (%s): a variable of such a name is never read"):format(name, variable, below.from[name])
      end
      known[variable] = spec.sets
    end
  end
  for variable, given in pairs(known) do
    local text = getenv(variable)
    if text and text:find "%S" then first[#first + 1] = { variable, given, text } end
  end
  table.sort(first, function(a, b) return a[1] < b[1] end)
  for _, one in ipairs(first) do
    local variable, given, text = table.unpack(one)
    local part, message = config.assignments(schema, { given .. "=" .. text }, variable)
    if not part then return nil, message end
    local name, value = next(part.values)
    if layer.values[name] ~= nil and config.literal(layer.values[name]) ~= config.literal(value) then
      return nil, ("%s and %s both set %s, and disagree: unset one"):format(layer.sources[name], variable, name)
    end
    layer.values[name], layer.sources[name] = value, variable
  end
  for _, variable in ipairs(names) do
    if not known[variable] and not others[variable] and not config.secret(variable) then
      local near, best = nil, math.max(2, #variable // 6) + 1
      for candidate in pairs(known) do
        local d = math.abs(#variable - #candidate) < best and config.distance(variable, candidate) or math.huge
        if d < best or d == best and near and candidate < near then near, best = candidate, d end
      end
      if near then return nil, ("unknown variable %s; did you mean %s, which sets %s?"):format(variable, near, known[near]) end
      strange[#strange + 1] = variable
    end
  end
  return layer, strange
end

local function pure(source, without)
  local copy = {}
  for name, value in pairs(source) do
    if not without[name] then copy[name] = value end
  end
  return copy
end

local function pure_functions()
  local env = { ipairs = ipairs, pairs = pairs, select = select, type = type, tonumber = tonumber, tostring = tostring }
  env.error, env.assert, env.math = error, assert, pure(math, { random = true, randomseed = true })
  return env
end

--- Evaluates a text of Lua as data: no bytecode, nothing in reach but `env`, bounds on instructions, memory and time.
--- -> what it returns | nil, message
function config.evaluate(text, name, env)
  local bounded = require("kava.core").bounded
  -- String methods are out of reach meanwhile: ("x"):rep(1e9) would be one instruction.
  local strings = debug.getmetatable("")
  local methods = strings.__index
  strings.__index = nil
  local called, ok, value = pcall(bounded, function()
    local chunk, problem = load(text, name, "t", env)
    if not chunk then error(problem, 0) end
    return (chunk())
  end, BOUNDS)
  strings.__index = methods
  if not called then return nil, tostring(ok) end
  if not ok then return nil, tostring(value) end
  return value
end

--- Evaluates a config file. -> the table it returns | nil, message
function config.read(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  local text = file:read(FILE_LIMIT + 1)
  file:close()
  if not text then return nil, path .. ": cannot be read (a folder?)" end
  if #text > FILE_LIMIT then return nil, ("%s: more than %d bytes: this is no config file"):format(path, FILE_LIMIT) end
  local value, problem = config.evaluate(text, "@" .. path, pure_functions())
  if problem then
    local hint = problem:find("global '", 1, true) and " (config files are data: no functions but Lua's arithmetic are in reach)" or ""
    return nil, (problem:find(path, 1, true) and problem or path .. ": " .. problem) .. hint
  end
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
  if self.cluster then table.insert(lines, 2, ("-- %s holds here: %s"):format(self.cluster.path, self.cluster.why)) end
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
    for name, value in pairs(layer.values) do resolved:set(name, value, layer.sources and layer.sources[name] or layer.from) end
  end
  return resolved
end

-- A text of words in lines of at most HELP_WIDTH, the first one behind `head`, all indented alike.
local function wrapped(head, text)
  local indent = (" "):rep(HELP_INDENT)
  local lines, line = {}, head
  if head:sub(-1) ~= " " then lines[1], line = head, indent end
  for word in text:gmatch "%S+" do
    if utf8.len(line) + utf8.len(word) >= HELP_WIDTH and line:find "%S" then
      lines[#lines + 1], line = line:gsub("%s+$", ""), indent
    end
    line = line .. (#line > HELP_INDENT and " " or "") .. word
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\n")
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
      local also = #spec.also > 0 and "; also " .. table.concat(spec.also, ", ") or ""
      if #shown > HELP_WIDTH - #spec.name - 2 then -- a long list goes where there is room
        shown, also = "", also .. "; default: " .. shown:sub(2)
      end
      local head = ("  %-" .. HELP_INDENT - 3 .. "s "):format(spec.name .. shown)
      if #head > HELP_INDENT then head = head:gsub("%s+$", "") end
      lines[#lines + 1] = wrapped(head, ("%s (%s%s)"):format(spec.about, expected(spec), also))
    end
  end
  return table.concat(lines, "\n")
end

return config

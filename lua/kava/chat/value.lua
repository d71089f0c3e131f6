-- The values of chat templates, which are Python's: None, undefined, lists, tuples, dicts in their order, and strings, numbers and
-- booleans as Lua has them; how they compare, print and become JSON. All that takes time or memory is charged to one budget.
local value = {}

-- ------------------------------------------------------------------------------------------------------- errors and the budget

-- What a template raises: { message =, line = }; the line is filled in by whoever knows it.
local Error = { __name = "kava.chat.Error" }
Error.__tostring = function(e) return e.line and ("line %d: %s"):format(e.line, e.message) or e.message end
value.Error = Error

function value.fail(format, ...) error(setmetatable({ message = select("#", ...) > 0 and format:format(...) or format }, Error), 0) end
function value.fail_at(line, message) error(setmetatable({ message = message, line = line }, Error), 0) end

-- Steps and bytes that the rendering under way may still spend. Every byte that is given allows for some more.
local budget, allowed = 0, 0
function value.set_budget(n) budget, allowed = n, n end
local function allow(n) budget, allowed = budget + n, allowed + n end
function value.charge(n)
  budget = budget - n
  if budget < 0 then value.fail("the template needs more than %d steps and bytes: it is stopped", allowed) end
end
local charge, fail = value.charge, value.fail
-- For going over a string once.
function value.charge_text(v) if type(v) == "string" then charge(#v // 16) end end
-- For looking for one string in another, which at the worst takes the product of their lengths.
function value.charge_search(s, wanted) charge((#s // 64) * (#wanted // 64) + #s // 16) end

-- ------------------------------------------------------------------------------------------------------------------ constructors

local List, Dict, Undefined = { __name = "list" }, { __name = "dict" }, { __name = "undefined" }
value.none = setmetatable({}, { __name = "none", __tostring = function() return "None" end })
local none = value.none

function value.undefined(message) return setmetatable({ message = message }, Undefined) end
function value.list(items, tuple) -- takes the table
  charge(#items)
  return setmetatable({ items = items, tuple = tuple }, List)
end
function value.dict() return setmetatable({ keys = {}, map = {} }, Dict) end
function value.set(dict, key, item)
  if value.kind(key) == "list" or value.kind(key) == "dict" then fail("unhashable type: '%s'", value.type_name(key)) end
  if key ~= key then fail "nan cannot be a key" end
  if dict.map[key] == nil then dict.keys[#dict.keys + 1] = key end
  charge(1)
  dict.map[key] = item
end

local kinds = { [List] = "list", [Dict] = "dict", [Undefined] = "undefined" }
-- "string", "number", "boolean", "function", "none", "undefined", "list", "dict", or the kind of an object (loop, namespace, macro).
function value.kind(v)
  if v == none then return "none" end
  if type(v) ~= "table" then return type(v) end
  return kinds[getmetatable(v)] or v.kind
end
local kind = value.kind

local type_names = { string = "str", boolean = "bool", none = "NoneType", ["function"] = "function", undefined = "Undefined", list = "list",
  dict = "dict" }
function value.type_name(v)
  local k = kind(v)
  if k == "number" then return math.type(v) == "integer" and "int" or "float" end
  if k == "list" and v.tuple then return "tuple" end
  return type_names[k] or k
end
local type_name = value.type_name

-- Order of keys for Lua tables, which have none: these first, the rest by the alphabet.
local rank = {}
local first_keys = { "type", "role", "id", "function", "name", "description", "parameters", "arguments", "content", "properties",
  "required" }
for i, key in ipairs(first_keys) do
  rank[key] = i
end
local function by_rank(a, b)
  local x, y = rank[a] or 100, rank[b] or 100
  return x < y or x == y and tostring(a) < tostring(b)
end

-- A Lua value as a template sees it. Tables with items 1..n are lists, and empty ones that kava.json marks as arrays; keys come in the
-- order that kava.json.decode(text, { ordered = true }) keeps in the metatable, else by_rank.
local function from_lua(v, path, depth, open)
  charge(1)
  local t = type(v)
  if t == "string" then
    allow(64 * #v)
    if not utf8.len(v) then fail("%s is not valid UTF-8", path) end
    return v
  elseif t == "number" or t == "boolean" or v == none then return v
  elseif v == nil or t == "userdata" then return none -- JSON's null
  elseif t ~= "table" then fail("%s: a %s cannot be given to a template", path, t) end
  if depth > 100 or open[v] then fail("%s is nested too deeply, or in itself", path) end
  open[v] = true
  local meta = getmetatable(v)
  local result
  local order = type(meta) == "table" and meta.__keys
  if #v > 0 or (type(meta) == "table" and meta.__name == "kava.JsonArray") then
    local items = {}
    for i = 1, #v do items[i] = from_lua(v[i], ("%s[%d]"):format(path, i), depth + 1, open) end
    result = value.list(items)
  else
    result = value.dict()
    local keys = {}
    for key in pairs(v) do
      if type(key) ~= "string" then fail("%s: a key that is no string: %s", path, tostring(key)) end
      keys[#keys + 1] = key
    end
    table.sort(keys, by_rank)
    for _, key in ipairs(order or keys) do
      if v[key] ~= nil then
        local name = from_lua(key, path, depth + 1, open)
        value.set(result, name, from_lua(v[key], ("%s.%s"):format(path, key), depth + 1, open))
      end
    end
    for _, key in ipairs(order and keys or {}) do -- what was put in since
      if result.map[key] == nil then value.set(result, key, from_lua(v[key], ("%s.%s"):format(path, key), depth + 1, open)) end
    end
  end
  open[v] = nil
  return result
end
function value.from_lua(v, name) return from_lua(v, name, 0, {}) end

-- ------------------------------------------------------------------------------------------------------------------------ strings

-- Python's white space, which is more than Lua's.
local spaces = {}
for _, c in ipairs { 9, 10, 11, 12, 13, 28, 29, 30, 31, 32, 0x85, 0xa0, 0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000 } do
  spaces[utf8.char(c)] = true
end
for c = 0x2000, 0x200a do spaces[utf8.char(c)] = true end
value.spaces = spaces

function value.characters(s)
  charge(#s)
  local list = {}
  for c in s:gmatch(utf8.charpattern) do list[#list + 1] = c end
  return list
end

local function set_of(chars)
  if chars == nil or chars == none then return spaces end
  local set = {}
  for c in chars:gmatch(utf8.charpattern) do set[c] = true end
  return set
end

-- Where the first character from `at` on lies that is not in the set.
function value.skip(s, at, chars)
  local set = set_of(chars)
  while at <= #s do
    local c = s:match("^" .. utf8.charpattern, at)
    if not set[c] then break end
    at = at + #c
  end
  return at
end

function value.lstrip(s, chars) return s:sub(value.skip(s, 1, chars)) end

function value.rstrip(s, chars)
  local set, stop = set_of(chars), #s
  while stop > 0 do
    local from = utf8.offset(s, -1, stop + 1)
    if not set[s:sub(from, stop)] then break end
    stop = from - 1
  end
  return s:sub(1, stop)
end

function value.strip(s, chars) return value.lstrip(value.rstrip(s, chars), chars) end

-- --------------------------------------------------------------------------------------------------------------------- as text

-- The shortest digits that read back as the same number, laid out as Python does.
local function float_text(x)
  if x ~= x then return "nan" end
  if x == math.huge or x == -math.huge then return x > 0 and "inf" or "-inf" end
  if x == 0 then return 1 / x < 0 and "-0.0" or "0.0" end
  local text
  for digits = 0, 16 do
    text = ("%." .. digits .. "e"):format(x)
    if tonumber(text) == x then break end
  end
  local sign, first, rest, exponent = text:match "^(-?)(%d)%.?(%d*)e([+-]%d+)$"
  local digits, point = first .. rest, tonumber(exponent) + 1
  if point > 16 or point < -3 then
    return ("%s%s%se%s%02d"):format(sign, first, rest ~= "" and "." .. rest or "", exponent:sub(1, 1), math.abs(tonumber(exponent)))
  elseif point <= 0 then
    return sign .. "0." .. ("0"):rep(-point) .. digits
  elseif #digits <= point then
    return sign .. digits .. ("0"):rep(point - #digits) .. ".0"
  end
  return sign .. digits:sub(1, point) .. "." .. digits:sub(point + 1)
end

local function number_text(x) return math.type(x) == "integer" and ("%d"):format(x) or float_text(x) end

local named = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\" }
local function quoted(s)
  local quote = (s:find("'", 1, true) and not s:find('"', 1, true)) and '"' or "'"
  local body = s:gsub("[%c\\\127" .. quote .. "]", function(c)
    return named[c] or c == quote and "\\" .. c or ("\\x%02x"):format(c:byte())
  end):gsub("\xc2([\x80-\xa0\xad])", function(c) return ("\\x%02x"):format(c:byte()) end)
  return quote .. body .. quote
end

local function repr(v, depth)
  local k = kind(v)
  charge(1)
  if depth > 100 then fail "a value that is nested too deeply to be printed" end
  if k == "string" then
    charge(#v)
    return quoted(v)
  elseif k == "list" then
    local parts = {}
    for i, item in ipairs(v.items) do parts[i] = repr(item, depth + 1) end
    local inside = table.concat(parts, ", ")
    charge(#inside)
    if v.view then return v.view .. "([" .. inside .. "])" end
    if v.tuple then return "(" .. inside .. (#parts == 1 and ",)" or ")") end
    return "[" .. inside .. "]"
  elseif k == "dict" then
    local parts = {}
    for i, key in ipairs(v.keys) do parts[i] = repr(key, depth + 1) .. ": " .. repr(v.map[key], depth + 1) end
    local inside = table.concat(parts, ", ")
    charge(#inside)
    return "{" .. inside .. "}"
  elseif k == "undefined" then return "Undefined" end
  return value.text(v)
end
function value.repr(v) return repr(v, 0) end

-- What a template prints for a value.
function value.text(v)
  local k = kind(v)
  if k == "string" then return v
  elseif k == "number" then return number_text(v)
  elseif k == "boolean" then return v and "True" or "False"
  elseif k == "none" then return "None"
  elseif k == "undefined" then return ""
  elseif k == "list" or k == "dict" then return repr(v, 0) end
  fail("a %s cannot be printed", type_name(v))
end

-- ------------------------------------------------------------------------------------------------------------------------- JSON

local json_named = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\", ['"'] = '\\"', ["\b"] = "\\b", ["\f"] = "\\f" }
local function json_string(s, ascii)
  charge(#s)
  local text = s:gsub('[%z\1-\31"\\]', function(c) return json_named[c] or ("\\u%04x"):format(c:byte()) end)
  if ascii then
    text = text:gsub("[\xc2-\xf4][\x80-\xbf]*", function(c)
      local code = utf8.codepoint(c)
      if code < 0x10000 then return ("\\u%04x"):format(code) end
      code = code - 0x10000
      return ("\\u%04x\\u%04x"):format(0xd800 + (code >> 10), 0xdc00 + (code & 0x3ff))
    end)
  end
  return '"' .. text .. '"'
end

local function json_plain(v)
  if v == none then return "null" end
  if type(v) == "boolean" then return tostring(v) end
  local text = number_text(v)
  return ({ nan = "NaN", inf = "Infinity", ["-inf"] = "-Infinity" })[text] or text
end

-- Python's json.dumps. options: indent (a string), item and key (separators), sort, ascii.
local function to_json(v, options, depth)
  charge(1)
  if depth > 100 then fail "a value that is nested too deeply for JSON" end
  local k = kind(v)
  if k == "string" then return json_string(v, options.ascii) end
  if k == "number" or k == "boolean" or k == "none" then return json_plain(v) end
  if k ~= "list" and k ~= "dict" then fail("Object of type %s is not JSON serializable", type_name(v)) end
  local parts = {}
  if k == "list" then
    for i, item in ipairs(v.items) do parts[i] = to_json(item, options, depth + 1) end
  else
    local keys = table.move(v.keys, 1, #v.keys, 1, {})
    if options.sort then table.sort(keys, function(a, b) return value.less(a, b) end) end
    for i, key in ipairs(keys) do
      local name = kind(key) == "string" and key or json_plain(key)
      parts[i] = json_string(name, options.ascii) .. options.key .. to_json(v.map[key], options, depth + 1)
    end
  end
  local open, close = "[", "]"
  if k == "dict" then open, close = "{", "}" end
  if #parts == 0 then return open .. close end
  local text
  if options.indent then
    charge(#options.indent * (depth + 1) * (#parts + 1))
    local inner, outer = "\n" .. options.indent:rep(depth + 1), "\n" .. options.indent:rep(depth)
    text = open .. inner .. table.concat(parts, options.item .. inner) .. outer .. close
  else
    text = open .. table.concat(parts, options.item) .. close
  end
  charge(#text)
  return text
end
function value.to_json(v, options) return to_json(v, options, 0) end

-- ------------------------------------------------------------------------------------------------------------------- comparison

function value.truth(v)
  local k = kind(v)
  if k == "boolean" then return v
  elseif k == "none" or k == "undefined" then return false
  elseif k == "number" then return v ~= 0
  elseif k == "string" then return v ~= ""
  elseif k == "list" then return #v.items > 0
  elseif k == "dict" then return #v.keys > 0 end
  return true
end

local function as_number(v)
  if type(v) == "boolean" then return v and 1 or 0 end
  return type(v) == "number" and v or nil
end
value.as_number = as_number

function value.equal(a, b)
  charge(1)
  local x, y = as_number(a), as_number(b)
  if x and y then return x == y end
  local k = kind(a)
  if k ~= kind(b) then return false end
  if k == "undefined" then return true
  elseif k == "list" then
    if a.tuple ~= b.tuple or #a.items ~= #b.items then return false end
    for i, item in ipairs(a.items) do
      if not value.equal(item, b.items[i]) then return false end
    end
    return true
  elseif k == "dict" then
    if #a.keys ~= #b.keys then return false end
    for key, item in pairs(a.map) do
      if b.map[key] == nil or not value.equal(item, b.map[key]) then return false end
    end
    return true
  end
  if k == "string" then charge(math.min(#a, #b) // 64) end
  return a == b
end

function value.less(a, b)
  charge(1)
  local x, y = as_number(a), as_number(b)
  if x and y then return x < y end
  if type(a) == "string" and type(b) == "string" then
    charge(math.min(#a, #b) // 16)
    return a < b
  end
  if kind(a) == "list" and kind(b) == "list" then
    for i, item in ipairs(a.items) do
      if b.items[i] == nil then return false end
      if not value.equal(item, b.items[i]) then return value.less(item, b.items[i]) end
    end
    return #a.items < #b.items
  end
  if kind(a) == "undefined" then fail(a.message) end
  if kind(b) == "undefined" then fail(b.message) end
  fail("'<' not supported between instances of '%s' and '%s'", type_name(a), type_name(b))
end

function value.contains(container, item)
  local k = kind(container)
  if k == "string" then
    if type(item) ~= "string" then fail("'in <string>' requires string as left operand, not %s", type_name(item)) end
    value.charge_search(container, item)
    return container:find(item, 1, true) ~= nil
  elseif k == "dict" then return kind(item) ~= "undefined" and container.map[item] ~= nil
  elseif k == "list" then
    for _, other in ipairs(container.items) do
      if value.equal(other, item) then return true end
    end
    return false
  elseif k == "undefined" then return false end
  fail("argument of type '%s' is not iterable", type_name(container))
end

function value.length(v)
  local k = kind(v)
  if k == "string" then return utf8.len(v)
  elseif k == "list" then return #v.items
  elseif k == "dict" then return #v.keys
  elseif k == "undefined" then return 0 end
  fail("object of type '%s' has no len()", type_name(v))
end

-- The items of what can be iterated, as a Lua table that may be kept but not changed.
function value.items(v)
  local k = kind(v)
  if k == "list" then return v.items
  elseif k == "dict" then return v.keys
  elseif k == "string" then return value.characters(v)
  elseif k == "undefined" then return {} end
  fail("'%s' object is not iterable", type_name(v))
end

-- Argument `i` of a call, or the one of that name; `default` where it is not given, an error where there is no default.
function value.argument(args, named_args, i, name, default)
  local given = args[i]
  if given == nil and named_args then given = named_args[name] end
  if given == nil then
    if default == nil then fail("the argument '%s' is missing", name) end
    return default
  end
  return given
end

return value

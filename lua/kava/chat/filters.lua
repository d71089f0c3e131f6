-- Filters and tests of chat templates: Jinja's, and tojson as transformers has it. A filter is function(v, args, named, context) ->
-- value, a test function(v, args) -> boolean. `context` has member(v, name), item(v, key), call(f, args, named), filter(name) and
-- test(name), which fail where there is none.
local value = require "kava.chat.value"
local strings = require "kava.chat.strings"
local argument, charge, fail, none, kind = value.argument, value.charge, value.fail, value.none, value.kind
local whole_argument = strings.whole_argument

local filters, tests = {}, {}

local function as_text(v)
  if kind(v) == "undefined" then return "" end
  return value.text(v)
end
local function copy(v) return table.move(value.items(v), 1, #value.items(v), 1, {}) end

-- ------------------------------------------------------------------------------------------------------------------------ text

for _, name in ipairs { "upper", "lower", "capitalize" } do
  filters[name] = function(v, args, named) return strings[name](as_text(v), args, named) end
end
function filters.title(v) -- words are what stands between white space and - ( { [ <
  local text = as_text(v)
  charge(#text)
  return (text:gsub("([%s%-%(%{%[<]*)([^%s%-%(%{%[<]*)", function(between, word) return between .. strings.capitalize(word) end))
end
function filters.trim(v, args, named)
  local chars = argument(args, named, 1, "chars", none)
  return value.strip(as_text(v), chars)
end
function filters.replace(v, args, named)
  local count = argument(args, named, 3, "count", none)
  local old, new = argument(args, named, 1, "old"), argument(args, named, 2, "new")
  return strings.replace(as_text(v), { as_text(old), as_text(new), count == none and -1 or count })
end
function filters.center(v, args, named) return strings.center(as_text(v), { whole_argument(args, named, 1, "width", 80) }) end
filters.string = as_text
filters.safe = as_text
function filters.e(v)
  return (as_text(v):gsub("[&<>'\"]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ["'"] = "&#39;", ['"'] = "&#34;" }))
end
filters.escape, filters.forceescape = filters.e, filters.e
function filters.format(v, args)
  return strings.percent(as_text(v), value.list(table.move(args, 1, #args, 1, {}), true))
end
function filters.wordcount(v)
  charge(#as_text(v))
  return select(2, as_text(v):gsub("[%w_\x80-\xff]+", ""))
end

function filters.indent(v, args, named)
  local width = argument(args, named, 1, "width", 4)
  local first, blank = value.truth(argument(args, named, 2, "first", false)), value.truth(argument(args, named, 3, "blank", false))
  if type(width) == "number" then
    charge(math.max(0, width))
    width = (" "):rep(width)
  end
  local lines = strings.splitlines(as_text(v) .. "\n", {}).items
  for i = 2, #lines do
    charge(#width)
    if blank or lines[i] ~= "" then lines[i] = width .. lines[i] end
  end
  return (first and width or "") .. table.concat(lines, "\n")
end

function filters.truncate(v, args, named)
  local text, length = as_text(v), whole_argument(args, named, 1, "length", 255)
  local kill, ending = value.truth(argument(args, named, 2, "killwords", false)), argument(args, named, 3, "end", "...")
  local leeway = argument(args, named, 4, "leeway", 5)
  if utf8.len(text) <= length + (leeway == none and 5 or leeway) then return text end
  local cut = text:sub(1, (utf8.offset(text, math.max(0, length - utf8.len(ending)) + 1) or #text + 1) - 1)
  return (kill and cut or cut:match "^(.*) " or cut) .. ending
end

function filters.tojson(v, args, named)
  local indent, separators = argument(args, named, 2, "indent", none), argument(args, named, 3, "separators", none)
  local options = { ascii = value.truth(argument(args, named, 1, "ensure_ascii", false)),
    sort = value.truth(argument(args, named, 4, "sort_keys", false)), item = indent == none and ", " or ",", key = ": " }
  if type(indent) == "number" then
    charge(math.max(0, indent))
    options.indent = (" "):rep(indent)
  elseif type(indent) == "string" then options.indent = indent end
  if separators ~= none then options.item, options.key = separators.items[1], separators.items[2] end
  return value.to_json(v, options)
end

-- --------------------------------------------------------------------------------------------------------------------- numbers

local function to_number(text)
  local plain = value.strip(text):gsub("(%d)_(%d)", "%1%2")
  return plain:find "^[+-]?[%d.]" and not plain:find "[xXpP]" and tonumber((plain:gsub("^%+", ""))) or nil
end

function filters.int(v, args, named)
  local default, base = argument(args, named, 1, "default", 0), whole_argument(args, named, 2, "base", 10)
  if type(v) == "string" and base ~= 10 then
    local digits = value.strip(v):gsub("^0[xXbBoO]", "")
    return math.tointeger(tonumber(digits, base)) or default
  end
  local number = value.as_number(v) or type(v) == "string" and to_number(v)
  if not number or number ~= number then return default end
  return math.tointeger(number < 0 and math.ceil(number) or math.floor(number)) or default
end
function filters.float(v, args, named)
  local number = value.as_number(v) or type(v) == "string" and to_number(v)
  return number and number + 0.0 or argument(args, named, 1, "default", 0.0)
end
function filters.abs(v)
  local number = value.as_number(v)
  if not number then fail("bad operand type for abs(): '%s'", value.type_name(v)) end
  return math.abs(number)
end
local function half_even(x)
  local low = math.floor(x)
  local rest = x - low
  if rest > 0.5 or (rest == 0.5 and low % 2 == 1) then low = low + 1 end
  return low + 0.0
end
function filters.round(v, args, named)
  local number, precision = value.as_number(v), whole_argument(args, named, 1, "precision", 0)
  local method = argument(args, named, 2, "method", "common")
  if not number then fail("type %s cannot be rounded", value.type_name(v)) end
  if method ~= "common" and method ~= "ceil" and method ~= "floor" then fail "method must be common, ceil or floor" end
  if method == "common" then
    if math.type(number) == "integer" and precision >= 0 then return number end
    if precision > 0 and precision <= 15 then return tonumber(("%." .. precision .. "f"):format(number)) + 0.0 end
    local scale = 10.0 ^ precision
    return half_even(number * scale) / scale
  end
  local scale = 10.0 ^ precision
  return math[method](number * scale) / scale
end

-- ------------------------------------------------------------------------------------------------------------------- sequences

filters.length, filters.count = value.length, value.length
function filters.list(v) return value.list(copy(v)) end
function filters.first(v)
  local items = value.items(v)
  if #items == 0 then return value.undefined "No first item, sequence was empty." end
  return items[1]
end
function filters.last(v)
  local items = value.items(v)
  if #items == 0 then return value.undefined "No last item, sequence was empty." end
  return items[#items]
end
function filters.reverse(v)
  local items, out = value.items(v), {}
  for i = #items, 1, -1 do out[#out + 1] = items[i] end
  charge(#out)
  return type(v) == "string" and table.concat(out) or value.list(out)
end

-- A function that reads "a.b.0" of an item, or the item itself where there is no name.
local function reader(name, context)
  if name == none then return function(item) return item end end
  local path = {}
  if type(name) == "string" then
    for part in (name .. "."):gmatch "([^.]*)%." do path[#path + 1] = part:find "^%d+$" and math.tointeger(tonumber(part)) or part end
  else
    path[1] = name
  end
  return function(item)
    for _, part in ipairs(path) do item = context.item(item, part) end
    return item
  end
end

function filters.join(v, args, named, context)
  local between, read = as_text(argument(args, named, 1, "d", "")), reader(argument(args, named, 2, "attribute", none), context)
  local parts = {}
  for i, item in ipairs(value.items(v)) do
    parts[i] = as_text(read(item))
    charge(#parts[i] + #between)
  end
  return table.concat(parts, between)
end

local function folded(v, sensitive) return type(v) == "string" and not sensitive and strings.lower(v) or v end

-- Stable, by the keys that `key` gives.
local function sorted(items, key, reverse)
  local order, keys = {}, {}
  for i, item in ipairs(items) do order[i], keys[i] = i, key(item) end
  charge(#items * 8)
  table.sort(order, function(a, b)
    if value.less(keys[a], keys[b]) then return not reverse end
    if value.less(keys[b], keys[a]) then return reverse end
    return a < b
  end)
  for i, n in ipairs(order) do order[i] = items[n] end
  return order
end

function filters.sort(v, args, named, context)
  local reverse = value.truth(argument(args, named, 1, "reverse", false))
  local sensitive = value.truth(argument(args, named, 2, "case_sensitive", false))
  local readers = {}
  local names = argument(args, named, 3, "attribute", none)
  for name in (type(names) == "string" and names or ""):gmatch "[^,]+" do readers[#readers + 1] = reader(name, context) end
  if #readers == 0 then readers[1] = reader(names, context) end
  return value.list(sorted(value.items(v), function(item)
    local keys = {}
    for i, read in ipairs(readers) do keys[i] = folded(read(item), sensitive) end
    return #keys == 1 and keys[1] or value.list(keys, true)
  end, reverse))
end

function filters.unique(v, args, named, context)
  local sensitive = value.truth(argument(args, named, 1, "case_sensitive", false))
  local read = reader(argument(args, named, 2, "attribute", none), context)
  local seen, out = {}, {}
  for _, item in ipairs(value.items(v)) do
    local key, known = folded(read(item), sensitive), false
    for _, other in ipairs(seen) do
      known = value.equal(key, other)
      if known then break end
    end
    if not known then seen[#seen + 1], out[#out + 1] = key, item end
  end
  return value.list(out)
end

local function extreme(wants_more)
  return function(v, args, named, context)
    local sensitive = value.truth(argument(args, named, 1, "case_sensitive", false))
    local read = reader(argument(args, named, 2, "attribute", none), context)
    local best
    for _, item in ipairs(value.items(v)) do
      local key = folded(read(item), sensitive)
      if best == nil or (wants_more and value.less(best.key, key)) or (not wants_more and value.less(key, best.key)) then
        best = { item = item, key = key }
      end
    end
    return best and best.item or value.undefined "No aggregated item, sequence was empty."
  end
end
filters.min, filters.max = extreme(false), extreme(true)

function filters.sum(v, args, named, context)
  local read, total = reader(argument(args, named, 1, "attribute", none), context), argument(args, named, 2, "start", 0)
  for _, item in ipairs(value.items(v)) do total = context.add(total, read(item)) end
  return total
end

function filters.map(v, args, named, context)
  local out = {}
  local name = args[1] == nil and named and named.attribute
  local read
  if name then
    read = reader(name, context)
  else
    local filter = context.filter(argument(args, named, 1, "name"))
    local rest = table.move(args, 2, #args, 1, {})
    read = function(item) return filter(item, rest, named, context) end
  end
  for i, item in ipairs(value.items(v)) do
    out[i] = read(item)
    if name and named.default ~= nil and kind(out[i]) == "undefined" then out[i] = named.default end
  end
  return value.list(out)
end

-- select, reject, selectattr, rejectattr: items for which a test (truth where none is named) has the wanted result.
local function chosen(wanted, by_attribute)
  return function(v, args, named, context)
    local first = by_attribute and 2 or 1
    local read = reader(by_attribute and argument(args, named, 1, "attribute") or none, context)
    local test = args[first] ~= nil and context.test(args[first]) or value.truth
    local rest, out = table.move(args, first + 1, #args, 1, {}), {}
    for _, item in ipairs(value.items(v)) do
      if test(read(item), rest) == wanted then out[#out + 1] = item end
    end
    return value.list(out)
  end
end
filters.select, filters.reject = chosen(true, false), chosen(false, false)
filters.selectattr, filters.rejectattr = chosen(true, true), chosen(false, true)

function filters.batch(v, args, named)
  local count, fill, out, row = whole_argument(args, named, 1, "linecount"), argument(args, named, 2, "fill_with", none), {}, {}
  for _, item in ipairs(value.items(v)) do
    if #row == count then
      out[#out + 1] = value.list(row)
      row = {}
    end
    row[#row + 1] = item
  end
  if #row > 0 then
    for _ = #row + 1, fill ~= none and count or 0 do
      charge(1)
      row[#row + 1] = fill
    end
    out[#out + 1] = value.list(row)
  end
  return value.list(out)
end

function filters.slice(v, args, named)
  local count, fill = whole_argument(args, named, 1, "slices"), argument(args, named, 2, "fill_with", none)
  local out, items = {}, value.items(v)
  if count < 1 then fail "integer division or modulo by zero" end
  charge(count)
  local size, more, at = #items // count, #items % count, 1
  for i = 1, count do
    local n = size + (i <= more and 1 or 0)
    local row = table.move(items, at, at + n - 1, 1, {})
    at = at + n
    if fill ~= none and i > more and more > 0 then row[#row + 1] = fill end
    out[i] = value.list(row)
  end
  return value.list(out)
end

function filters.groupby(v, args, named, context)
  local read = reader(argument(args, named, 1, "attribute"), context)
  local default, sensitive = argument(args, named, 2, "default", none), value.truth(argument(args, named, 3, "case_sensitive", false))
  local function key_of(item)
    local key = read(item)
    if kind(key) == "undefined" and default ~= none then key = default end
    return folded(key, sensitive)
  end
  local groups, last = {}, nil
  for _, item in ipairs(sorted(value.items(v), key_of, false)) do
    local key = key_of(item)
    if not last or not value.equal(key, last.key) then
      local shown = read(item)
      last = { key = key, items = {} }
      groups[#groups + 1] = value.list({ kind(shown) == "undefined" and default or shown, value.list(last.items) }, true)
      groups[#groups].fields = { grouper = 1, list = 2 }
    end
    last.items[#last.items + 1] = item
  end
  return value.list(groups)
end

-- ----------------------------------------------------------------------------------------------------------------------- dicts

function filters.items(v)
  if kind(v) == "undefined" then return value.list {} end
  if kind(v) ~= "dict" then fail "Can only get item pairs from a mapping." end
  local out = {}
  for i, key in ipairs(v.keys) do out[i] = value.list({ key, v.map[key] }, true) end
  return value.list(out)
end

function filters.dictsort(v, args, named)
  local sensitive = value.truth(argument(args, named, 1, "case_sensitive", false))
  local by = argument(args, named, 2, "by", "key")
  local reverse = value.truth(argument(args, named, 3, "reverse", false))
  if by ~= "key" and by ~= "value" then fail 'You can only sort by either "key" or "value"' end
  local which = by == "key" and 1 or 2
  return value.list(sorted(filters.items(v).items, function(pair) return folded(pair.items[which], sensitive) end, reverse))
end

function filters.attr(v, args, named, context) return context.member(v, argument(args, named, 1, "name")) end

function filters.default(v, args, named)
  if kind(v) == "undefined" or (value.truth(argument(args, named, 2, "boolean", false)) and not value.truth(v)) then
    return argument(args, named, 1, "default_value", "")
  end
  return v
end
filters.d = filters.default

-- ----------------------------------------------------------------------------------------------------------------------- tests

function tests.defined(v) return kind(v) ~= "undefined" end
function tests.undefined(v) return kind(v) == "undefined" end
function tests.none(v) return v == none end
function tests.boolean(v) return type(v) == "boolean" end
tests["true"] = function(v) return v == true end
tests["false"] = function(v) return v == false end
function tests.string(v) return type(v) == "string" end
function tests.number(v) return value.as_number(v) ~= nil end
function tests.integer(v) return math.type(v) == "integer" end
function tests.float(v) return math.type(v) == "float" end
function tests.mapping(v) return kind(v) == "dict" end
function tests.sequence(v) return ({ list = true, dict = true, string = true, undefined = true })[kind(v)] == true end
tests.iterable = tests.sequence
function tests.callable(v) return ({ ["function"] = true, macro = true, loop = true })[kind(v)] == true end
function tests.lower(v) return strings.islower(as_text(v)) end
function tests.upper(v) return strings.isupper(as_text(v)) end
local function number_of(v)
  local number = value.as_number(v)
  if not number then fail("a number expected, got %s", value.type_name(v)) end
  return number
end
function tests.even(v) return number_of(v) % 2 == 0 end
function tests.odd(v) return number_of(v) % 2 == 1 end
function tests.divisibleby(v, args)
  local by = number_of(argument(args, nil, 1, "num"))
  if by == 0 then fail "integer division or modulo by zero" end
  return number_of(v) % by == 0
end
function tests.sameas(v, args) return rawequal(v, argument(args, nil, 1, "other")) end
tests["in"] = function(v, args) return value.contains(argument(args, nil, 1, "seq"), v) end
function tests.filter(v) return filters[v] ~= nil end
function tests.test(v) return tests[v] ~= nil end

local function comparing(names, compare)
  for _, name in ipairs(names) do
    tests[name] = function(v, args) return compare(v, argument(args, nil, 1, "other")) end
  end
end
comparing({ "eq", "equalto", "==" }, value.equal)
comparing({ "ne", "!=" }, function(a, b) return not value.equal(a, b) end)
comparing({ "lt", "lessthan", "<" }, value.less)
comparing({ "gt", "greaterthan", ">" }, function(a, b) return value.less(b, a) end)
comparing({ "le", "<=" }, function(a, b) return not value.less(b, a) end)
comparing({ "ge", ">=" }, function(a, b) return not value.less(a, b) end)

local unary = {}
for name in ("defined undefined none boolean true false string number integer float mapping sequence iterable callable lower upper "
  .. "even odd"):gmatch "%a+" do unary[name] = true end

return { filters = filters, tests = tests, unary = unary }

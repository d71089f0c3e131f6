-- Methods of strings in chat templates: Python's. Each is function(s, args, named) -> value.
local value = require "kava.chat.value"
local argument, charge, fail, none = value.argument, value.charge, value.fail, value.none

local strings = {}

-- Upper and lower case of Latin, Greek and Cyrillic letters; others stay as they are.
local lower, upper = {}, {}
local function pair(big, small) lower[utf8.char(big)], upper[utf8.char(small)] = utf8.char(small), utf8.char(big) end
for c = 0x41, 0x5a do pair(c, c + 32) end
for c = 0xc0, 0xde do if c ~= 0xd7 then pair(c, c + 32) end end
for c = 0x100, 0x17e do
  if (c < 0x138 and c % 2 == 0 and c ~= 0x130) or (c > 0x138 and c < 0x149 and c % 2 == 1) or (c > 0x149 and c < 0x178 and c % 2 == 0) or
    (c > 0x178 and c % 2 == 1) then pair(c, c + 1) end
end
for c = 0x391, 0x3a9 do if c ~= 0x3a2 then pair(c, c + 32) end end
for c = 0x410, 0x42f do pair(c, c + 32) end
for c = 0x400, 0x40f do pair(c, c + 80) end
upper["ß"] = "SS"

local one_character = "^" .. utf8.charpattern

local function mapped(s, map) return (s:gsub(utf8.charpattern, map)) end
function strings.lower(s) charge(#s) return mapped(s, lower) end
function strings.upper(s) charge(#s) return mapped(s, upper) end
function strings.swapcase(s) charge(#s) return (s:gsub(utf8.charpattern, function(c) return lower[c] or upper[c] end)) end
local function is_letter(c) return lower[c] ~= nil or upper[c] ~= nil or (#c > 1 and not value.spaces[c]) end

function strings.capitalize(s)
  local first = s:match(one_character) or ""
  return (upper[first] or first) .. strings.lower(s:sub(#first + 1))
end

function strings.title(s)
  local inside = false
  charge(#s)
  return (s:gsub(utf8.charpattern, function(c)
    local letter = is_letter(c)
    local new = letter and (inside and lower[c] or not inside and upper[c]) or c
    inside = letter
    return new
  end))
end

local function text_argument(args, named, i, name, default)
  local given = argument(args, named, i, name, default)
  if type(given) ~= "string" and given ~= none then fail("%s: a string expected, got %s", name, value.type_name(given)) end
  return given
end
local function whole_argument(args, named, i, name, default)
  local given = argument(args, named, i, name, default)
  if math.type(given) ~= "integer" then fail("%s: an integer expected, got %s", name, value.type_name(given)) end
  return given
end
strings.whole_argument = whole_argument

function strings.strip(s, args, named) return value.strip(s, text_argument(args, named, 1, "chars", none)) end
function strings.lstrip(s, args, named) return value.lstrip(s, text_argument(args, named, 1, "chars", none)) end
function strings.rstrip(s, args, named) return value.rstrip(s, text_argument(args, named, 1, "chars", none)) end

-- The words of a string, and where each begins; behind `limit` words the rest is one, as it is.
local function split_words(s, limit)
  local parts, starts, at = {}, {}, value.skip(s, 1)
  while at <= #s do
    starts[#starts + 1] = at
    if limit >= 0 and #parts == limit then
      parts[#parts + 1] = s:sub(at)
      break
    end
    local stop = at
    while stop <= #s do
      local c = s:match(one_character, stop)
      if value.spaces[c] then break end
      stop = stop + #c
    end
    parts[#parts + 1] = s:sub(at, stop - 1)
    at = value.skip(s, stop)
  end
  return parts, starts
end

function strings.split(s, args, named)
  charge(#s)
  local separator = text_argument(args, named, 1, "sep", none)
  local limit = whole_argument(args, named, 2, "maxsplit", -1)
  if separator == none then return value.list((split_words(s, limit))) end
  if separator == "" then fail "empty separator" end
  value.charge_search(s, separator)
  local parts, at = {}, 1
  while limit < 0 or #parts < limit do
    local from, to = s:find(separator, at, true)
    if not from then break end
    parts[#parts + 1] = s:sub(at, from - 1)
    at = to + 1
  end
  parts[#parts + 1] = s:sub(at)
  return value.list(parts)
end

function strings.rsplit(s, args, named)
  local separator = text_argument(args, named, 1, "sep", none)
  local limit = whole_argument(args, named, 2, "maxsplit", -1)
  if separator == none then
    charge(#s)
    local parts, starts = split_words(s, -1)
    if limit < 0 or #parts < limit then return value.list(parts) end
    -- the left part keeps its own white space, also where there is nothing to its right
    local first = #parts - limit + 1
    local rest = value.rstrip(s:sub(1, (starts[first] or #s + 1) - 1))
    if rest == "" then return value.list(parts) end
    return value.list(table.move(parts, first, #parts, 2, { rest }))
  end
  local parts = strings.split(s, { separator }).items
  if limit < 0 or #parts - 1 <= limit then return value.list(parts) end
  local first = table.concat(parts, separator, 1, #parts - limit)
  return value.list(table.move(parts, #parts - limit + 1, #parts, 2, { first }))
end

local breaks = { ["\n"] = true, ["\r"] = true, ["\v"] = true, ["\f"] = true, ["\x1c"] = true, ["\x1d"] = true, ["\x1e"] = true,
  ["\u{85}"] = true, ["\u{2028}"] = true, ["\u{2029}"] = true }

function strings.splitlines(s, args, named)
  charge(#s)
  local keep = value.truth(argument(args, named, 1, "keepends", false))
  local lines, from, at = {}, 1, 1
  while at <= #s do
    local c = s:match(one_character, at)
    local stop = at + #c
    if breaks[c] then
      if c == "\r" and s:sub(stop, stop) == "\n" then stop = stop + 1 end
      lines[#lines + 1] = s:sub(from, keep and stop - 1 or at - 1)
      from = stop
    end
    at = stop
  end
  if from <= #s then lines[#lines + 1] = s:sub(from) end
  return value.list(lines)
end

local function any_of(wanted, test)
  if value.kind(wanted) == "list" then
    for _, one in ipairs(wanted.items) do
      if type(one) ~= "string" then fail "a string or a tuple of strings expected" end
      if test(one) then return true end
    end
    return false
  end
  if type(wanted) ~= "string" then fail("a string or a tuple of strings expected, got %s", value.type_name(wanted)) end
  return test(wanted)
end

function strings.startswith(s, args, named)
  return any_of(argument(args, named, 1, "prefix"), function(one) return s:sub(1, #one) == one end)
end
function strings.endswith(s, args, named)
  return any_of(argument(args, named, 1, "suffix"), function(one) return one == "" or s:sub(-#one) == one end)
end
function strings.removeprefix(s, args, named)
  local prefix = text_argument(args, named, 1, "prefix")
  return s:sub(1, #prefix) == prefix and s:sub(#prefix + 1) or s
end
function strings.removesuffix(s, args, named)
  local suffix = text_argument(args, named, 1, "suffix")
  return suffix ~= "" and s:sub(-#suffix) == suffix and s:sub(1, -#suffix - 1) or s
end

function strings.replace(s, args, named)
  local old, new = text_argument(args, named, 1, "old"), text_argument(args, named, 2, "new")
  local limit, out, at = whole_argument(args, named, 3, "count", -1), {}, 1
  charge(#s)
  if old == "" then -- before every character and at the end
    for _, c in ipairs(value.characters(s)) do
      if limit ~= 0 then
        out[#out + 1] = new
        limit = limit - 1
      end
      out[#out + 1] = c
    end
    if limit ~= 0 then out[#out + 1] = new end
    charge(#new * #out)
    return table.concat(out)
  end
  value.charge_search(s, old)
  while limit ~= 0 do
    local from, to = s:find(old, at, true)
    if not from then break end
    out[#out + 1] = s:sub(at, from - 1)
    out[#out + 1] = new
    charge(#new)
    at, limit = to + 1, limit - 1
  end
  out[#out + 1] = s:sub(at)
  return table.concat(out)
end

-- The character's number, from 0, of byte `at`.
local function character_number(s, at) return utf8.len(s, 1, at - 1) or 0 end

function strings.find(s, args, named)
  local wanted = text_argument(args, named, 1, "sub")
  value.charge_search(s, wanted)
  local from = s:find(wanted, 1, true)
  return from and (from == 1 and 0 or character_number(s, from)) or -1
end
function strings.rfind(s, args, named)
  local wanted = text_argument(args, named, 1, "sub")
  value.charge_search(s, wanted)
  local back = s:reverse():find(wanted:reverse(), 1, true)
  local from = back and #s - (back - 1) - #wanted + 1
  return from and (from == 1 and 0 or character_number(s, from)) or -1
end
function strings.index(s, args, named)
  local at = strings.find(s, args, named)
  if at < 0 then fail "substring not found" end
  return at
end
function strings.count(s, args, named)
  local wanted, n, at = text_argument(args, named, 1, "sub"), 0, 1
  if wanted == "" then return utf8.len(s) + 1 end
  value.charge_search(s, wanted)
  while true do
    local from, to = s:find(wanted, at, true)
    if not from then return n end
    n, at = n + 1, to + 1
  end
end

function strings.join(s, args, named)
  local parts = {}
  for i, item in ipairs(value.items(argument(args, named, 1, "iterable"))) do
    if type(item) ~= "string" then fail("sequence item %d: expected str instance, %s found", i - 1, value.type_name(item)) end
    parts[i] = item
    charge(#item + #s)
  end
  return table.concat(parts, s)
end

local function padded(left, right)
  return function(s, args, named)
    local width, fill = whole_argument(args, named, 1, "width"), text_argument(args, named, 2, "fillchar", " ")
    local missing = width - utf8.len(s)
    if fill == none or utf8.len(fill) ~= 1 then fail "the fill character must be exactly one character long" end
    if missing <= 0 then return s end
    charge(missing)
    local before = left and right and missing // 2 + (missing & width & 1) or left and missing or 0
    return fill:rep(before) .. s .. fill:rep(missing - before)
  end
end
strings.rjust, strings.ljust, strings.center = padded(true, false), padded(false, true), padded(true, true)

function strings.zfill(s, args, named)
  local missing = whole_argument(args, named, 1, "width") - utf8.len(s)
  if missing <= 0 then return s end
  charge(missing)
  local sign = s:match "^[+-]" or ""
  return sign .. ("0"):rep(missing) .. s:sub(#sign + 1)
end

function strings.partition(s, args, named)
  local separator = text_argument(args, named, 1, "sep")
  if separator == "" then fail "empty separator" end
  value.charge_search(s, separator)
  local from, to = s:find(separator, 1, true)
  return value.list(from and { s:sub(1, from - 1), separator, s:sub(to + 1) } or { s, "", "" }, true)
end
function strings.rpartition(s, args, named)
  local separator = text_argument(args, named, 1, "sep")
  local parts = strings.rsplit(s, { separator, 1 }).items
  return value.list(#parts == 2 and { parts[1], separator, parts[2] } or { "", "", s }, true)
end

local function all(s, test)
  if s == "" then return false end
  charge(#s)
  for c in s:gmatch(utf8.charpattern) do
    if not test(c) then return false end
  end
  return true
end
function strings.isdigit(s) return all(s, function(c) return c:find "^%d$" ~= nil end) end
strings.isdecimal, strings.isnumeric = strings.isdigit, strings.isdigit
function strings.isalpha(s) return all(s, is_letter) end
function strings.isalnum(s) return all(s, function(c) return c:find "^%d$" ~= nil or is_letter(c) end) end
function strings.isspace(s) return all(s, function(c) return value.spaces[c] ~= nil end) end
function strings.islower(s) return strings.lower(s) == s and strings.upper(s) ~= s end
function strings.isupper(s) return strings.upper(s) == s and strings.lower(s) ~= s end

-- "%s and %d" % arguments, and the filter `format`.
function strings.percent(s, given)
  local items = value.kind(given) == "list" and given.tuple and given.items or { given }
  local at = 0
  local text = s:gsub("%%([-+ #0]*)(%d*)%.?(%d*)(.)", function(flags, width, digits, conversion)
    if conversion == "%" then return "%" end
    at = at + 1
    local item = items[at]
    if item == nil then fail "not enough arguments for format string" end
    if #width > 4 or #digits > 2 then fail "a format that is too wide" end
    local spec = "%" .. flags .. width .. (digits ~= "" and "." .. digits or "")
    if conversion == "s" or conversion == "r" then
      local plain = conversion == "r" and value.repr(item) or value.text(item)
      if digits ~= "" then plain = plain:sub(1, (utf8.offset(plain, tonumber(digits) + 1) or #plain + 1) - 1) end
      local missing = (tonumber(width) or 0) - utf8.len(plain)
      if missing <= 0 then return plain end
      return flags:find("-", 1, true) and plain .. (" "):rep(missing) or (" "):rep(missing) .. plain
    end
    local number = value.as_number(item)
    if not number then fail("%%%s format: a number is required, not %s", conversion, value.type_name(item)) end
    if conversion == "d" or conversion == "i" then
      return (spec .. "d"):format(math.tointeger(number < 0 and math.ceil(number) or math.floor(number)))
    elseif conversion:find "^[xXo]$" and math.type(number) == "integer" then return (spec .. conversion):format(number)
    elseif conversion:find "^[eEfgG]$" then return (spec .. conversion):format(number) end
    fail("unsupported format character '%s'", conversion)
  end)
  if at < #items and value.kind(given) == "list" and given.tuple then fail "not all arguments converted during string formatting" end
  charge(#text)
  return text
end

-- "{} and {name}".format(…), without format specifications.
function strings.format(s, args, named)
  local at = 0
  return (s:gsub("{({?)([^{}]*)}?(}?)", function(open, name, close)
    if open ~= "" then return "{" .. name .. (close ~= "" and "}" or "") end
    local item
    if name == "" then
      at = at + 1
      item = args[at]
    elseif name:find "^%d+$" then item = args[tonumber(name) + 1]
    elseif name:find "^[%a_][%w_]*$" then item = named and named[name]
    else fail("the replacement field {%s} is not supported", name) end
    if item == nil then fail("there is no argument for the replacement field {%s}", name) end
    local text = value.text(item)
    charge(#text)
    return text
  end))
end

return strings

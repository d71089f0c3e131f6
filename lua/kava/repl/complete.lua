-- kava.repl.complete: what may follow before the cursor. Names of the session and Lua's keywords; fields and methods of what a
-- path of names leads to (its own keys, and what is documented of its class); commands after a colon; files inside of a string.
-- Nothing is called: a path is only looked up.
local doc = require "kava.repl.doc"
local complete = {}

local KEYWORDS = "and break do else elseif end false for function goto if in local nil not or repeat return then true until while"

-- value[key], where looking may fail (a tensor's unknown field raises)
local function look(value, key)
  local ok, found = pcall(function() return value[key] end)
  if ok then return found end
end

local function metatable_of(value)
  local meta = debug.getmetatable(value)
  return type(meta) == "table" and meta or nil
end

-- The class of a value as the annotations name it.
local function class_of(value)
  if value == package.loaded.kava then return "kava" end
  local meta = metatable_of(value)
  return meta and type(rawget(meta, "__name")) == "string" and rawget(meta, "__name") or nil
end

-- Walks "out.kv.raw", "layers[2]" from the globals. -> value, its class | nil, class of what an undone call would return
local function resolve(path, globals)
  local value, class = nil, nil
  local rest, first = path, true
  while rest ~= "" do
    local dot, name, after = rest:match "^([.:]?)([%a_][%w_]*)(.*)$"
    local number, beyond = rest:match "^%[(%d+)%](.*)$"
    local arguments, past = rest:match "^(%b())(.*)$"
    if name and (first or dot ~= "") then
      if first then
        value = globals[name]
        class = value ~= nil and class_of(value) or nil
      else
        local member = class and doc.members(class)[name]
        value = value ~= nil and look(value, name) or nil
        class = value ~= nil and class_of(value) or nil
        if type(value) == "function" or value == nil then class = member and member.name or nil end
        if not class and type(value) == "table" then class = member and member.name or nil end
      end
      rest = after
    elseif number and value ~= nil then
      value = look(value, math.tointeger(number))
      class = value ~= nil and class_of(value) or nil
      rest = beyond
    elseif arguments and class then
      value, class = nil, doc.returns(class)
      rest = past
    else
      return nil
    end
    if value == nil and class == nil then return nil end
    first = false
  end
  return value, class
end

local function add_keys(list, value, methods_only)
  if type(value) ~= "table" then return end
  for key, item in next, value do
    if type(key) == "string" and key:match "^[%a_][%w_]*$" and (not methods_only or type(item) == "function") then list[key] = true end
  end
end

local function members_of(value, class, methods_only)
  local list = {}
  add_keys(list, value, methods_only)
  local meta = value ~= nil and metatable_of(value)
  if meta then add_keys(list, rawget(meta, "__index"), true) end
  for name, entry in pairs(class and doc.members(class) or {}) do
    if not methods_only or entry.name:find(":", 1, true) then list[name] = true end
  end
  for name in pairs(list) do
    if name:match "^__" then list[name] = nil end
  end
  return list
end

local function names_of(globals)
  local list = {}
  for word in KEYWORDS:gmatch "%a+" do list[word] = true end
  add_keys(list, globals)
  return list
end

local function files_of(prefix)
  local fs, list = require("kava").fs, {}
  local folder, start = prefix:match "^(.*/)([^/]*)$"
  for _, name in ipairs(fs.list(folder or ".") or {}) do
    if name:sub(1, 1) ~= "." or (start or prefix):sub(1, 1) == "." then
      list[fs.isdir((folder or "") .. name) and name .. "/" or name] = true
    end
  end
  return list, start or prefix
end

-- The string that is open at the end of the text, or nil.
local function open_string(text)
  local quote, start, i = nil, nil, 1
  while i <= #text do
    local c = text:sub(i, i)
    if quote and c == "\\" then i = i + 1
    elseif quote then
      if c == quote then quote = nil end
    elseif c == '"' or c == "'" then quote, start = c, i + 1
    elseif text:find("^%-%-", i) then return nil end
    i = i + 1
  end
  return quote and text:sub(start)
end

-- The path of names, indices and calls that ends the text: "x = m:forward(a).kv" -> "m:forward(a).kv"
local function trailing(text)
  local stop = #text
  while stop > 0 do
    local head = text:sub(1, stop)
    local shorter = head:match "^(.*)%b()$" or head:match "^(.*)%[%d+%]$" or head:match "^(.-)[%w_]+$" or head:match "^(.*)[.:]$"
    if not shorter then break end
    stop = #shorter
  end
  return text:sub(stop + 1)
end

-- "2..": the end of a concatenation is no path
local function split(text)
  local owner, separator, start = text:match "^(.*)([.:])([%w_]*)$"
  if owner and owner:sub(-1) ~= "." then return trailing(owner), separator, start end
end

--- The candidates at the end of a text: a sorted list of what the word before the cursor may become, and that word.
function complete.candidates(text, globals, commands)
  local list, start
  local command = text:match "^:(%a*)$"
  local asked = text:match "^:doc%s+(.*)$" or text:match "^:time%s+(.*)$"
  local inside = not command and open_string(text)
  if command then
    list, start = commands, command
  elseif inside then
    list, start = files_of(inside)
  else
    text = asked or text
    local path, separator
    path, separator, start = split(text)
    if path and path ~= "" then
      local value, class = resolve(path, globals)
      list = members_of(value, class, separator == ":")
    else
      start = text:match "[%a_][%w_]*$" or ""
      list = names_of(globals)
      if asked then add_keys(list, package.loaded.kava) end
    end
  end
  local found = {}
  for name in pairs(list) do
    if name:sub(1, #start) == start then found[#found + 1] = name end
  end
  table.sort(found)
  return found, start
end

local function common(list)
  local prefix = list[1] or ""
  for _, name in ipairs(list) do
    while name:sub(1, #prefix) ~= prefix do prefix = prefix:sub(1, -2) end
  end
  return prefix
end

local function columns(list, width)
  local widest = 0
  for _, name in ipairs(list) do widest = math.max(widest, #name + 2) end
  local per_row, lines = math.max(1, width // widest), {}
  for i = 1, #list, per_row do
    local row = {}
    for j = i, math.min(i + per_row - 1, #list) do row[#row + 1] = list[j] .. (" "):rep(widest - #list[j]) end
    lines[#lines + 1] = (table.concat(row):gsub("%s+$", ""))
  end
  return table.concat(lines, "\n")
end

--- What a tab does: -> text to insert or nil, lines to show or nil
function complete.tab(text, globals, commands)
  if text:match "^%s*$" then return "  " end -- indents
  local found, start = complete.candidates(text, globals, commands)
  if #found == 0 then return nil end
  local more = common(found):sub(#start + 1)
  if more ~= "" then return more end
  if #found > 1 then return nil, columns(found, 80) end
end

return complete

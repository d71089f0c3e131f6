-- kava.repl: a prompt. Expressions show their values, statements run, unfinished input goes on in the next line; an error leaves
-- the session as it is. Locals live as long as their line, globals as long as the session; `kava` is loaded.
local repl = {}

local DEPTH, ITEMS = 3, 40 -- how much of a table is shown

--- A value as the prompt shows it.
function repl.show(value, depth, seen)
  depth, seen = depth or 0, seen or {}
  if type(value) == "string" then return depth == 0 and value or ("%q"):format(value) end
  if type(value) ~= "table" or (getmetatable(value) or {}).__tostring then return tostring(value) end
  if seen[value] or depth >= DEPTH then return "{…}" end
  seen[value] = true
  local parts, names = {}, {}
  for i, item in ipairs(value) do
    if i > ITEMS then break end
    parts[i] = repl.show(item, depth + 1, seen)
  end
  for key in pairs(value) do
    if math.type(key) ~= "integer" or key < 1 or key > #value then names[#names + 1] = key end
  end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, key in ipairs(names) do
    if #parts > ITEMS then break end
    local name = type(key) == "string" and key or "[" .. tostring(key) .. "]"
    parts[#parts + 1] = name .. " = " .. repl.show(value[key], depth + 1, seen)
  end
  if #names + #value > ITEMS then parts[#parts + 1] = ("… %d in all"):format(#names + #value) end
  seen[value] = nil
  return #parts == 0 and "{}" or "{ " .. table.concat(parts, ", ") .. " }"
end

-- Compiles as an expression, else as a statement. -> chunk | nil, message, unfinished
local function compile(text)
  local chunk = load("return " .. text, "=prompt", "t")
  if chunk then return chunk end
  local statement, message = load(text, "=prompt", "t")
  if statement then return statement end
  return nil, message, message:find("<eof>", 1, true) ~= nil
end

local function traced(err)
  return (debug.traceback(tostring(err), 2):gsub("\n%s*%[C%]: in function 'xpcall'.*", ""))
end

local function evaluate(chunk)
  local results = table.pack(xpcall(chunk, traced))
  if not results[1] then
    io.stderr:write(results[2], "\n")
    return
  end
  local shown = {}
  for i = 2, results.n do shown[#shown + 1] = repl.show(results[i]) end
  if #shown > 0 then print(table.concat(shown, "\t")) end
end

--- Reads and runs lines of `input` (standard input) until it ends. -> exit code
function repl.run(input)
  input = input or io.stdin
  local kava = require "kava"
  _G.kava = _G.kava or kava
  local prompting = input == io.stdin and kava.isatty(0)
  if prompting then print(("KAVA %s. Ctrl-D leaves."):format(kava.version)) end
  local pending
  while true do
    if prompting then
      io.write(pending and ">> " or "> ")
      io.flush()
    end
    local line = input:read "l"
    if not line then break end
    local text = pending and pending .. "\n" .. line or line
    local chunk, message, unfinished = compile(text)
    pending = nil
    if chunk then
      evaluate(chunk)
    elseif unfinished and text:match("%S") then
      pending = text
    elseif text:match("%S") then
      io.stderr:write(message, "\n")
    end
  end
  if pending then
    local _, message = compile(pending)
    io.stderr:write(message, "\n")
  end
  if prompting then print() end
  return 0
end

return repl

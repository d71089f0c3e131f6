-- kava.repl: a prompt. Expressions show their values, statements run, unfinished input goes on in the next line; an error leaves
-- the session as it is, and so does Ctrl-C. Locals live as long as their line, globals as long as the session; `kava` is loaded.
-- On a terminal lines are edited by libedit (kava.line) and remembered; without it, and from a pipe, they are read as they come.
local kava = require "kava"
local repl = {}

local REMEMBERED = 2000 -- lines of the history file that are kept
local UNFINISHED = "<eof>$" -- how Lua's messages about unfinished input end

-- Compiles as an expression, else as a statement. -> chunk | nil, message, unfinished
local function compile(text)
  local expression = text:match "^%s*=(.*)$" or text -- `=x` as Lua 5.1 had it
  -- with a variable to close, what is returned is no tail call: errors and tracebacks name the prompt's line
  local chunk, first = load("local _PROMPT <close> = nil return " .. expression, "=prompt", "t")
  if chunk then return chunk end
  local statement, message = load(text, "=prompt", "t")
  if statement then return statement end
  return nil, message, first:find(UNFINISHED) ~= nil or message:find(UNFINISHED) ~= nil
end

-- A message; with a traceback, less the prompt's own part of it, where it comes from elsewhere than the prompt's lines.
local function traced(err)
  local text = type(err) == "string" and err or require("kava.repl.show").value(err)
  if text:find "^prompt:%d+:" or text:find "interrupted$" then return text end
  return (debug.traceback(text, 2):gsub("\n[^\n]*/kava/repl%.lua:%d+: in.*", ""):gsub("in upvalue 'chunk'", "in main chunk"))
end

local function complain(message)
  io.stdout:flush()
  io.stderr:write(message, "\n")
end

-- A session: runs chunks. `call` is xpcall, or what lets Ctrl-C stop them. -> whether it went well
local function evaluate(session, chunk)
  local results = table.pack(session.call(function() return table.pack(chunk()) end, traced))
  if not results[1] then
    complain(results[2])
    return false
  end
  local values = results[2]
  if values.n == 0 then return true end
  local ok, text = session.call(function()
    local shown, show = {}, require("kava.repl.show").value
    for i = 1, values.n do shown[i] = show(values[i]) end
    return table.concat(shown, table.concat(shown):find "\n" and "\n" or "\t")
  end, traced)
  if ok then print(text) else complain(text) end
  return ok
end

-- -------------------------------------------------------------------------------------------------------------- commands

local HELP = [[
  An expression shows its value; statements run; an unfinished line goes on in the next. Globals stay, locals end with their
  line. Tab completes names, fields, methods and, in strings, files. Ctrl-C stops what runs or drops the line; Ctrl-D leaves.

  :doc NAME       what NAME does: kava.model.load, Tensor:narrow, or a variable's method such as m:probe
  :time CODE      runs CODE and says how long it took
  :help           this

  m = assert(kava.model.load "assets/demo/teacher.gguf")    a model, from a folder or a GGUF file
  m:probe()                                                 its KV layout, as a forward pass really gives it
]]

local commands = {}

function commands.help() print((HELP:gsub("\n$", ""))) end

function commands.doc(_, name)
  if name == "" then return complain ":doc: a name is missing: :doc kava.model.load" end
  local doc = require "kava.repl.doc"
  -- a variable stands for its class: m:probe -> kava.Model:probe
  local variable, rest = name:match "^([%a_][%w_]*)(.*)$"
  local meta = variable and variable ~= "kava" and debug.getmetatable(_G[variable])
  local class = type(meta) == "table" and rawget(meta, "__name")
  local text, message
  if type(class) == "string" then text = doc.find(class .. rest) end
  if not text then text, message = doc.find(name) end
  if not text and rest and rest ~= "" then text = doc.find(rest:match "[%w_]*$") end -- a variable that is not there yet
  if text then print(text) else complain(message) end
end

local function seconds(s)
  if s < 1e-3 then return ("%.3g us"):format(s * 1e6) end
  return s < 1 and ("%.3g ms"):format(s * 1e3) or ("%.3g s"):format(s)
end

function commands.time(session, code)
  local chunk, message = compile(code)
  if not chunk then return complain(message) end
  local spent
  evaluate(session, function()
    kava.memory_reset_peak()
    local before, started = kava.memory().cpu.current, kava.clock()
    local results = table.pack(chunk())
    spent = { kava.clock() - started, kava.memory().cpu.peak - before }
    return table.unpack(results, 1, results.n)
  end)
  if spent then print(("%s, at most %.4g MiB more"):format(seconds(spent[1]), spent[2] / 2 ^ 20)) end
end

local function command(session, name, argument)
  if commands[name] then return commands[name](session, argument) end
  local near = require("kava.config").nearest(name, commands)
  complain((":%s: no such command%s"):format(name, near and ("; did you mean :%s?"):format(near) or "; :help lists them"))
end

-- --------------------------------------------------------------------------------------------------------------- history

-- $XDG_STATE_HOME/kava/history, or ~/.local/state/kava/history; nil where neither can be
local function history_path()
  local state, home = os.getenv "XDG_STATE_HOME", os.getenv "HOME"
  if not state or state:sub(1, 1) ~= "/" then state = home and home:sub(1, 1) == "/" and home .. "/.local/state" end
  return state and state .. "/kava/history"
end

-- The lines of the history file, shortened where it has grown long. What fails here fails in silence: it is not worth a word at
-- each start, and the session has its history all the same.
local function recall(path)
  local file, lines = io.open(path, "rb"), {}
  if not file then return lines end
  pcall(function()
    for line in file:lines() do lines[#lines + 1] = line end
  end)
  file:close()
  if #lines <= 2 * REMEMBERED then return lines end
  lines = table.move(lines, #lines - REMEMBERED + 1, #lines, 1, {})
  local new = path .. ".new"
  kava.fs.remove(new)
  if kava.line.append(new, table.concat(lines, "\n") .. "\n") then kava.fs.rename(new, path) end
  return lines
end

-- ---------------------------------------------------------------------------------------------------------------- reading

-- Lines of a terminal, edited where that can be. -> function(prompt) -> line | nil | nil, "interrupted"
local function terminal()
  local editor = kava.line.open()
  if not editor then
    return function(prompt)
      io.write(prompt)
      io.flush()
      local ok, line = kava.signals.interruptible(function() return io.read "l" end, traced)
      if ok then return line end
      return nil, "interrupted"
    end
  end
  local path, last = history_path(), nil
  for _, line in ipairs(path and recall(path) or {}) do editor:remember(line) end
  if path and not kava.fs.mkdir((path:gsub("/[^/]*$", ""))) then path = nil end
  local function tab(before) return require("kava.repl.complete").tab(before, _G, commands) end
  return function(prompt)
    io.flush()
    local line, why = editor:read(prompt, tab)
    if line and line:find "%S" and line ~= last then
      last = line
      editor:remember(line)
      if path and not kava.line.append(path, line .. "\n") then path = nil end
    end
    return line, why
  end
end

--- Reads and runs lines of `input` (standard input) until it ends. -> exit code
function repl.run(input)
  _G.kava = _G.kava or kava
  local prompting = not input and kava.isatty(0)
  local session = { call = prompting and kava.signals.interruptible or xpcall }
  local read
  if prompting then
    read = terminal()
    print(("KAVA %s. :help says what can be done here; Ctrl-D leaves."):format(kava.version))
  else
    input = input or io.stdin
    read = function() return input:read "l" end
  end
  local pending
  while true do
    local line, why = read(pending and ">> " or "> ")
    if why then -- what was typed is dropped
      print()
      pending = nil
    elseif not line then
      break
    else
      local text = pending and pending .. "\n" .. line or line
      local name, argument = line:match "^%s*:(%a+)%s*(.-)%s*$"
      if not pending and name then
        command(session, name, argument)
      else
        local chunk, message, unfinished = compile(text)
        pending = nil
        if chunk then evaluate(session, chunk)
        elseif unfinished and text:match "%S" then pending = text
        elseif text:match "%S" then complain(message) end
      end
    end
  end
  if pending then complain((select(2, compile(pending)))) end
  if prompting then print() end
  return 0
end

return repl

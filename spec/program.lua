-- The kava program as a user runs it, for specs: program.run "arguments" -> exit code, output, errors.
local program = { path = require("spec.helper").program() }

local function slurp(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  os.remove(path)
  return text
end

--- Runs `kava ARGUMENTS` (shell syntax). before: a shell prefix such as "VAR=x" or "ulimit -f 10;"; input: its standard input.
function program.run(arguments, options)
  options = options or {}
  local out, err, input = os.tmpname(), os.tmpname(), nil
  if options.input then
    input = os.tmpname()
    local file = assert(io.open(input, "wb"))
    file:write(options.input)
    file:close()
  end
  local _, how, code = os.execute(("%s %s %s >%s 2>%s <%s"):format(options.before or "", program.path, arguments, out, err, input or "/dev/null"))
  if input then os.remove(input) end
  if how == "signal" then code = 128 + code end
  return code, slurp(out), slurp(err)
end

return program

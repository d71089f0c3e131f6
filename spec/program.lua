-- The kava program as a user runs it, for specs: program.run "arguments" -> exit code, output, errors.
local program = { path = require("spec.helper").program() }

local function slurp(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  os.remove(path)
  return text
end

--- Runs a shell command. input: its standard input. -> exit code (128 + number for a signal), output, errors
function program.shell(command, input)
  local out, err, from = os.tmpname(), os.tmpname(), nil
  if input then
    from = os.tmpname()
    local file = assert(io.open(from, "wb"))
    file:write(input)
    file:close()
  end
  local _, how, code = os.execute(("exec 2>/dev/null; ( %s\n) >%s 2>%s <%s"):format(command, out, err, from or "/dev/null"))
  if from then os.remove(from) end
  if how == "signal" then code = 128 + code end
  return code, slurp(out), slurp(err)
end

--- Runs `kava ARGUMENTS`. -> exit code, output, errors
function program.run(arguments, options)
  return program.shell(program.path .. " " .. arguments, options and options.input)
end

return program

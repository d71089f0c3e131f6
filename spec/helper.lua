-- Runs before every busted run: counts live native objects around each spec, and gives the specs their common tools.
local helper = {}

-- A path below ../shared when that folder is there, else nil: such specs call helper.skip.
function helper.shared(path)
  local full = "../shared/" .. path
  local file = io.open(full)
  if not file then return nil end
  file:close()
  return full
end

-- A fresh folder, removed at the end of the run.
local folders = {}
function helper.tmp()
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute("mkdir -p '" .. path .. "'"))
  folders[#folders + 1] = path
  return path
end

function helper.write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  return path
end

function helper.read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

local ok, busted = pcall(require, "busted")
if ok and busted.subscribe then
  local core = require "kava.core"
  local function settle()
    collectgarbage()
    collectgarbage()
    return core.live()
  end
  local before
  busted.subscribe({ "file", "start" }, function()
    before = settle()
    return nil, true
  end)
  busted.subscribe({ "file", "end" }, function(file)
    local leaked = settle() - before
    if leaked > 0 then
      helper.leaks = (helper.leaks or 0) + leaked
      io.stderr:write(("\n%s: %d live native objects left behind\n"):format(file.name, leaked))
    end
    return nil, true
  end)
  busted.subscribe({ "suite", "end" }, function()
    for _, path in ipairs(folders) do os.execute("rm -rf '" .. path .. "'") end
    if helper.leaks then os.exit(1) end
    return nil, true
  end)
end

return helper

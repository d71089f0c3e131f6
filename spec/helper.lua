-- Runs before every busted run: counts live native objects around each spec, and gives the specs their common tools.
local required = ... -- nil when busted loads this file as its helper; "spec.helper" when a spec requires it
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

-- The build under test, and its program. A sanitizer's build is slow: specs that measure time ask helper.sanitized.
helper.build = os.getenv "KAVA_BUILD" or "build/release"
function helper.program() return helper.build .. "/kava" end
helper.sanitized = helper.build:match "/[at]san$" ~= nil

-- The output of a shell command (stderr included) and its exit status; a signal's status is 128 + its number, as in the shell.
function helper.run(command)
  local pipe = assert(io.popen("{ " .. command .. "\n} 2>&1"))
  local text = pipe:read "a"
  local _, kind, code = pipe:close()
  return text, kind == "signal" and 128 + code or code
end

if not required then
  package.loaded["spec.helper"] = helper -- the one that specs get
  local busted = require "busted"
  local core = require "kava.core"
  package.loaded["kava.core"] = nil -- each spec file opens its own: what the Lua parts put into it ends with the file
  -- The second collection frees what the finalizers of the first let go.
  local function settle(expected)
    collectgarbage()
    if core.live() > (expected or -1) then collectgarbage() end
    return core.live()
  end

  -- busted keeps a file's functions until the end of the run, and with them whatever their upvalues hold.
  local function forget(element)
    for _, child in ipairs(busted.children(element)) do
      forget(child)
      child.run = nil
      child.env = nil
      if child.trace then child.trace = { short_src = child.trace.short_src, currentline = child.trace.currentline } end
    end
  end

  local before_file, before_test, growth, loaded
  busted.subscribe({ "file", "start" }, function()
    before_file = settle()
    before_test, growth, loaded = before_file, {}, {}
    for name in pairs(package.loaded) do loaded[name] = true end
    return nil, true
  end)
  busted.subscribe({ "test", "end" }, function(element)
    local live = settle(before_test)
    if live > before_test then growth[#growth + 1] = ("%d after '%s'"):format(live - before_test, element.name) end
    before_test = live
    return nil, true
  end)
  busted.subscribe({ "file", "end" }, function(file)
    forget(file)
    for name in pairs(package.loaded) do
      if not loaded[name] then package.loaded[name] = nil end
    end
    local leaked = settle(before_file) - before_file
    if leaked > 0 then
      error(("%d live native objects left behind: %s"):format(leaked, table.concat(growth, ", ")), 0)
    end
    return nil, true
  end)
  busted.subscribe({ "suite", "end" }, function()
    for _, path in ipairs(folders) do os.execute("rm -rf '" .. path .. "'") end
    return nil, true
  end)
end

return helper

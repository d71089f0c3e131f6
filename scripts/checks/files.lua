-- What the checks share: the project's own files. A check is a module scripts/checks/<name>.lua that returns a function,
-- which returns a list of complaints ("file:line: what is wrong"), or nil and the reason why it cannot look.
local lfs = require "lfs"
local files = {}

files.folders = { "src", "kernels", "lua", "recipes", "configs", "scripts", "spec", ".ci" }

local function walk(folder, pattern, found)
  for name in lfs.dir(folder) do
    local path = folder .. "/" .. name
    local mode = lfs.symlinkattributes(path, "mode")
    if mode == "directory" and name ~= "." and name ~= ".." then walk(path, pattern, found) end
    if mode == "file" and path:match(pattern) then found[#found + 1] = path end
  end
end

-- Paths below the given folders (all of the project's when none are given) that match the Lua pattern, sorted.
function files.list(pattern, folders)
  local found = {}
  for _, folder in ipairs(folders or files.folders) do
    if lfs.attributes(folder, "mode") == "directory" then walk(folder, pattern, found) end
  end
  table.sort(found)
  return found
end

function files.exists(path) return lfs.attributes(path, "mode") ~= nil end

function files.read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

-- An iterator over (line number, line) of a text.
function files.lines(text)
  local number, next_line = 0, (text:sub(-1) == "\n" and text or text .. "\n"):gmatch "(.-)\r?\n"
  return function()
    local line = next_line()
    number = number + 1
    if line then return number, line end
  end
end

-- Runs a command: its lines when it fails, an empty list when it succeeds.
function files.complaints_of(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local text = pipe:read "a"
  local complaints = {}
  if pipe:close() then return complaints end
  for line in text:gmatch "[^\n]+" do complaints[#complaints + 1] = line end
  if #complaints == 0 then complaints[1] = command .. " failed without a word" end
  return complaints
end

function files.have(program)
  return (os.execute("command -v " .. program .. " >/dev/null 2>&1"))
end

return files

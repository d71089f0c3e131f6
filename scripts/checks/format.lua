-- clang-format would change nothing in our C. Its versions disagree, so only the one the project uses is asked.
local files = require "scripts.checks.files"
local version = "14"

return function()
  if not files.have "clang-format" then return nil, "clang-format is not installed" end
  local pipe = assert(io.popen "clang-format --version")
  local found = pipe:read("a"):match "version (%d+)"
  pipe:close()
  if found ~= version then return nil, ("clang-format %s is here, %s is what the project uses"):format(found, version) end
  local sources = files.list "%.[ch][up]?[ph]?$" -- .c .h .cu .cuh .cpp
  local complaints, seen = {}, {}
  for _, line in ipairs(files.complaints_of("clang-format --dry-run -Werror " .. table.concat(sources, " "))) do
    local path, number = line:match "^(.-):(%d+):%d+: error:"
    if path and not seen[path] then
      seen[path] = true
      complaints[#complaints + 1] = ("%s:%s: run clang-format -i on it"):format(path, number)
    end
  end
  return complaints
end

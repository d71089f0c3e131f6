-- luacheck finds nothing in our Lua.
local files = require "scripts.checks.files"

return function()
  if not files.have "luacheck" then return nil, "luacheck is not installed" end
  return files.complaints_of("luacheck --quiet --no-color --codes " .. table.concat(files.list "%.lua$", " "))
end

-- Nothing is left to be done in a comment, and no path of one machine is written down.
local files = require "scripts.checks.files"

local forbidden = {
  { "%f[%w]TODO%f[%W]", "a TODO: do it or file it" },
  { "%f[%w]FIXME%f[%W]", "a FIXME: do it or file it" },
  { "%f[%w]XXX%f[%W]", "an XXX: do it or file it" },
  { "%f[%w/]/work/[ms]%a+", "a path of one machine" }, -- clusters have a /work of their own
  { "%f[%w/]/tmp/w/", "a path of one machine" },
  { "%f[%w/]/root/", "a path of one machine" },
}

return function()
  local complaints = {}
  local list = files.list "."
  for _, name in ipairs { "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "CMakeLists.txt", "CMakePresets.json" } do
    if files.exists(name) then list[#list + 1] = name end
  end
  for _, path in ipairs(list) do
    local text = files.read(path)
    if path ~= "scripts/checks/words.lua" and not text:find "\0" then
      for number, line in files.lines(text) do
        for _, rule in ipairs(forbidden) do
          if line:find(rule[1]) then complaints[#complaints + 1] = ("%s:%d: %s: %s"):format(path, number, rule[2], line) end
        end
      end
    end
  end
  return complaints
end

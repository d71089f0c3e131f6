-- No file over 800 lines: split by family before that.
local files = require "scripts.checks.files"
local limit = 800
local text = { c = true, h = true, cpp = true, cu = true, cuh = true, def = true, lua = true, sh = true, py = true, [""] = true }

return function()
  local complaints = {}
  for _, path in ipairs(files.list ".") do
    if text[path:match "%.(%w+)$" or ""] then
      local count = 0
      for _ in files.lines(files.read(path)) do count = count + 1 end
      if count > limit then complaints[#complaints + 1] = ("%s: %d lines, %d at most"):format(path, count, limit) end
    end
  end
  return complaints
end

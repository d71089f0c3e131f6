-- Nothing global outside kava_* and luaopen_*; libkava exports what src/kava.h declares, the Lua module its opener alone.
local files = require "scripts.checks.files"

local function symbols(command)
  local pipe = assert(io.popen(command))
  local found = {}
  for line in pipe:lines() do
    local name = line:match "^%x+ [A-Z] (%S+)$"
    if name then found[#found + 1] = name end
  end
  pipe:close()
  return found
end

return function()
  if not files.have "nm" then return nil, "nm is not installed" end
  local build = os.getenv "KAVA_BUILD" or "build/release"
  if build:match "[/\\][at]san$" then return nil, "a sanitizer adds symbols of its own" end
  local complaints, public = {}, {}
  local header = files.read "src/kava.h":gsub("/%*.-%*/", "")
  for name in header:gmatch "%f[%w_](kava_[%w_]+)%s*%(" do public[name] = true end

  local core = symbols("nm -g --defined-only " .. build .. "/libkava_core.a")
  if #core == 0 then complaints[1] = "nm found no symbols in libkava_core.a" end
  for _, name in ipairs(core) do
    if not name:match "^kava_" then complaints[#complaints + 1] = "libkava_core.a: global symbol " .. name end
  end
  local exported = {}
  for _, name in ipairs(symbols("nm -D --defined-only " .. build .. "/libkava.so")) do
    exported[name] = true
    if not public[name] then complaints[#complaints + 1] = "libkava.so exports " .. name .. ", which kava.h does not declare" end
  end
  for name in pairs(public) do
    if not exported[name] then complaints[#complaints + 1] = "libkava.so lacks " .. name .. ", which kava.h declares" end
  end
  local module = symbols("nm -D --defined-only " .. build .. "/kava_c/kava/core.so")
  if #module ~= 1 or module[1] ~= "luaopen_kava_core" then
    complaints[#complaints + 1] = "kava/core.so exports more than luaopen_kava_core: " .. table.concat(module, " ")
  end
  return complaints
end

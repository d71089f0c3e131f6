-- The SIMD sources compile for aarch64 (NEON), where its cross compiler is installed (gcc-aarch64-linux-gnu).
local files = require "scripts.checks.files"
local compiler = "aarch64-linux-gnu-gcc"

return function()
  if not files.have(compiler) then return nil, compiler .. " is not installed" end
  local complaints = {}
  for _, path in ipairs(files.list("%.c$", { "kernels/cpu" })) do
    local simd = path:match "/simd/"
    local flags = "-std=c11 -D_GNU_SOURCE -O1 -Wall -Wextra -Wshadow -Wno-unused-parameter -Werror -Isrc -I. -c -o /dev/null "
    local isa = simd and "-DKAVA_ISA_NAME=neon " or ""
    for _, line in ipairs(files.complaints_of(compiler .. " " .. flags .. isa .. path)) do complaints[#complaints + 1] = line end
  end
  return complaints
end

-- The SIMD sources compile for aarch64 (NEON), where its cross compiler is installed (gcc-aarch64-linux-gnu).
local files = require "scripts.checks.files"
local compiler = "aarch64-linux-gnu-gcc"

return function()
  if not files.have(compiler) then return nil, compiler .. " is not installed" end
  local complaints, object = {}, os.tmpname()
  local launcher = files.have "ccache" and "ccache " or ""
  for _, path in ipairs(files.list("%.c$", { "kernels/cpu" })) do
    local simd = path:match "/simd/"
    local flags = "-std=c11 -D_GNU_SOURCE -O1 -Wall -Wextra -Wshadow -Wno-unused-parameter -Werror -Isrc -I. -c -o " .. object .. " "
    local isa = simd and "-DKAVA_ISA_NAME=neon " or ""
    local found = files.complaints_of(launcher .. compiler .. " " .. flags .. isa .. path)
    table.move(found, 1, #found, #complaints + 1, complaints)
  end
  os.remove(object)
  return complaints
end

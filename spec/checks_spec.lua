-- The checks of the source itself: scripts/checks/<name>.lua, each a list of complaints that has to be empty.
local function check(name, title)
  it(title, function()
    local complaints, reason = require("scripts.checks." .. name)()
    if not complaints then return pending("skipped: " .. reason) end
    assert(#complaints == 0, "\n" .. table.concat(complaints, "\n"))
  end)
end

describe("the source", function()
  check("includes", "includes downwards only")
  check("size", "has no file over 800 lines")
  check("words", "leaves nothing to do, and names no machine")
  check("lists", "has a file, a spec, a reference for each line of its lists")
  check("lint", "is clean for luacheck")
  check("format", "is formatted by clang-format")
end)

describe("the build", function()
  check("symbols", "exports kava_* and luaopen_* only")
  check("annotations", "registers in C what lua/kava/meta declares")
  check("neon", "compiles its kernels for NEON")
end)

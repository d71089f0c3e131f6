-- starve(fn, clean): fails fn's first allocation, then its second, and so on until fn gets through; each failure must come back as
-- an error and leave nothing behind once clean() has dropped what fn keeps (gradients of leaves). Returns how many allocations were failed.
local kava = require "kava"

local function starve(fn, clean)
  for n = 1, 500 do
    collectgarbage()
    local live = kava.live()
    kava.memory_fail_after(n)
    local ok, message = pcall(fn)
    kava.memory_fail_after(-1)
    if clean then clean() end
    collectgarbage()
    collectgarbage()
    if ok then return n - 1 end
    assert(tostring(message):find "memory", "failed, but not for memory: " .. tostring(message))
    assert(kava.live() <= live, ("allocation %d failed and left %d objects behind"):format(n, kava.live() - live))
  end
  error "still failing after 500 allocations"
end

return starve

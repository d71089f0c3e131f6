-- The memory-bound tensor ops at sizes of the main job: the best of `reps` runs, in milliseconds and GB/s of what the op
-- has to read and write. A result's fresh pages count: the same is true in a training step.
-- usage: [KAVA_ISA=reference|avx2|…] kava scripts/bench/tensor.lua [threads=1] [reps=9] [million=28]
local kava = require "kava"
local o = { threads = 1, reps = 9, million = 28 }
for _, a in ipairs(arg) do
  local k, v = a:match "^([%w_]+)=(%d+)$"
  assert(k and o[k], "unknown argument " .. a)
  o[k] = math.tointeger(v)
end
kava.threads(o.threads)
kava.seed(0)
print(("%s, %d threads, %dM elements"):format(kava.isa(), kava.threads(), o.million))

local function measure(name, bytes, f)
  f()
  local best = math.huge
  for _ = 1, o.reps do
    local start = kava.clock()
    f()
    best = math.min(best, kava.clock() - start)
  end
  print(("  %-34s %8.2f ms %7.1f GB/s"):format(name, best * 1e3, bytes / best / 1e9))
end

local n = o.million << 20
local a, b = kava.randn(n), kava.randn(n)
measure("allclose", 8 * n, function() kava.allclose(a, b) end)
measure("sum", 4 * n, function() a:sum() end)
measure("max", 4 * n, function() a:max() end)
measure("add", 12 * n, function() return a + b end)
measure("scale", 8 * n, function() return a * 2 end)
local into = a:clone()
measure("copy_", 8 * n, function() into:copy_(a) end)
for _, dtype in ipairs { "f16", "bf16" } do
  local narrow = a:to { dtype = dtype }
  measure("f32 to " .. dtype, 6 * n, function() return a:to { dtype = dtype } end)
  measure(dtype .. " to f32", 6 * n, function() return narrow:to { dtype = "f32" } end)
end
into = nil -- luacheck: ignore

local s = kava.randn(4096, 4096)
measure("softmax [4096, 4096]", 8 << 24, function() return s:softmax() end)
measure("log_softmax [4096, 4096]", 8 << 24, function() return s:log_softmax() end)
measure("sum over the rows [4096, 4096]", 4 << 24, function() return s:sum(1) end)
measure("sum over the columns [4096, 4096]", 4 << 24, function() return s:sum(2) end)
measure("turned [4096, 4096]", 8 << 24, function() return s:transpose(1, 2):contiguous() end)
measure("[4096, 4096] + [4096]", 8 << 24, function() return s + s:select(1, 1) end)

local keys = {}
for i = 1, 30 do keys[i] = kava.randn(4, 256, 3, 64) end -- SmolLM2-135M's keys as the decoder keeps them: [B, T, Hkv, D]
measure("30 layers' keys side by side", 8 * 30 * 4 * 3 * 256 * 64, function()
  local rows = {}
  for i = 1, 30 do rows[i] = keys[i]:permute(1, 3, 2, 4):permute(1, 3, 2, 4):reshape(4, 256, 192) end
  return kava.cat(rows, 3)
end)

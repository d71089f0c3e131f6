-- Linear layers at SmolLM2-135M's and the projector's shapes: GFLOP/s of the forward pass, and of forward and backward together
-- (sum, product and accumulation of the loss included), in f32 and bf16, beside the same product by kava.matmul (OpenBLAS in slices);
-- then one row (generating a token): GB/s of weight read. Cases alternate within a round; the best of the rounds counts.
-- usage: kava scripts/bench/linear.lua [rows=1024] [threads=0] [rounds=7]
local kava = require "kava"
local o = { rows = 1024, threads = 0, rounds = 7 }
for _, a in ipairs(arg) do
  local k, v = a:match "^(%w+)=(%d+)$"
  assert(k and o[k], "unknown argument " .. a)
  o[k] = math.tointeger(v)
end
kava.threads(o.threads)

local function best(cases)
  local least = {}
  for round = 0, o.rounds do
    for i, case in ipairs(cases) do
      local step <close> = kava.scope() -- luacheck: ignore
      kava.matmul_precision(case.precision or "f32")
      local t = kava.clock()
      case.run()
      t = kava.clock() - t
      if round > 0 then least[i] = math.min(least[i] or math.huge, t) end -- round 0 warms up
      collectgarbage "step"
    end
  end
  return least
end

local blas = kava.blas()
print(("isa %s, blas %s %s, bf16 by %s, %d threads, %d rows"):format(
  kava.isa(), blas.library or "none", blas.core or "", blas.bf16, kava.threads(), o.rows))
print(("%6s %6s %9s | %8s %8s | %8s %8s | %8s"):format("in", "out", "matmul", "f32", "/matmul", "bf16", "/matmul", "q4_1"))
local layers = { { 576, 576 }, { 576, 192 }, { 576, 1536 }, { 1536, 576 }, { 5760, 5760 }, { 5760, 2880 } }
for _, layer in ipairs(layers) do
  local inputs, outputs = table.unpack(layer)
  local x, w = kava.randn { o.rows, inputs }, kava.randn { outputs, inputs } * 0.02
  local q, wt, g = kava.gguf.quantize(w, "q4_1"), w:permute(2, 1), kava.randn { o.rows, outputs }
  local tw, tx = w:clone():requires_grad(true), x:clone():requires_grad(true)
  local function forward() kava.linear(x, w) end
  local function both() (kava.linear(tx, tw) * g):sum():backward() end
  local t = best {
    { run = function() x:matmul(wt) end },
    { run = forward },
    { run = forward, precision = "bf16" },
    { run = function() kava.linear(x, q) end },
    { run = both },
    { run = both, precision = "bf16" },
  }
  local work = 2e-9 * o.rows * inputs * outputs
  local base = work / t[1]
  print(("%6d %6d %9.0f | %8.0f %8.2f | %8.0f %8.2f | %8.0f"):format(
    inputs, outputs, base, work / t[2], work / t[2] / base, work / t[3], work / t[3] / base, work / t[4]))
  print(("%23s | %8.0f %8.2f | %8.0f %8.2f |"):format(
    "forward and backward", 3 * work / t[5], 3 * work / t[5] / base, 3 * work / t[6], 3 * work / t[6] / base))
end

print "one row: GB/s of weight"
for _, dtype in ipairs { "f32", "bf16", "q8_0", "q4_1" } do
  local w = kava.randn { 6144, 4096 }
  local bytes = { f32 = 4, bf16 = 2, q8_0 = 34 / 32, q4_1 = 20 / 32 }
  w = dtype:sub(1, 1) == "q" and kava.gguf.quantize(w, dtype) or w:to { dtype = dtype }
  local x = kava.randn { 1, 4096 }
  local t = best { { run = function() kava.linear(x, w) end } }
  print(("%6s %8.1f"):format(dtype, 1e-9 * 6144 * 4096 * bytes[dtype] / t[1]))
end

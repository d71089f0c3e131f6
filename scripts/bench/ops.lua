-- Memory-bound ops beside a plain copy of as many bytes, alternating in one run, so that a machine's drift cancels.
-- A byte counts once for each time an op must read or write it; GB/s is that over the median time, "of copy" the median over
-- the rounds of (op's GB/s) / (copy's GB/s). Forward and backward are timed together with the sum that makes a scalar of the
-- output: its read of the output and the write of the output's gradient are counted.
-- On a machine that others use too, threads=1 cpu=1 takes the processor's time in place of the clock's.
-- usage: kava scripts/bench/ops.lua [rounds=9] [threads=0] [cpu=0] [rows=16384] [only=TEXT]
local kava = require "kava"
local o = { rounds = 9, threads = 0, cpu = 0, rows = 16384, only = "" }
for _, a in ipairs(arg) do
  local k, v = a:match "^([%w_]+)=(.*)$"
  assert(k and o[k] ~= nil, "unknown argument " .. a)
  o[k] = type(o[k]) == "number" and math.tointeger(v) or v
end
kava.threads(o.threads)
kava.seed(1)

local rows = o.rows
local function leaf(...) return kava.randn({ ... }):requires_grad(true) end
local function bytes(t) return 4 * t:numel() end

-- Each case: name, bytes that a call must move, the call. A call frees what it made.
local cases = {}
local function case(name, moved, call) cases[#cases + 1] = { name = name, moved = moved, call = call } end
local function forward(name, moved, fn)
  case(name, moved, function() kava.no_grad(fn):release() end)
end
local function both(name, moved, fn, leaves)
  case(name, moved, function()
    local _ <close> = kava.scope()
    local y = fn()
    local s = #y.shape == 0 and y or y:sum()
    s:backward()
    for _, t in ipairs(leaves) do t.grad = nil end
    if s ~= y then y:release() end
    s:release()
  end)
end

local function define()
  local x, w, b = leaf(rows, 576), leaf(576), leaf(576)
  local n = bytes(x)
  forward("rms_norm 576", 2 * n, function() return kava.rms_norm(x, w) end)
  both("rms_norm 576, and back", (2 + 2 + 3) * n, function() return kava.rms_norm(x, w) end, { x, w })
  forward("layer_norm 576", 2 * n, function() return kava.layer_norm(x, w, b) end)
  both("layer_norm 576, and back", (2 + 2 + 3) * n, function() return kava.layer_norm(x, w, b) end, { x, w, b })

  local q, list = leaf(rows // 256, 256, 9, 64), {}
  for j = 0, 31 do list[j + 1] = 1e6 ^ (-j / 32) end
  local freq = kava.tensor(list, { dtype = "f64" })
  forward("rope 9 x 64", 2 * bytes(q), function() return kava.rope(q, freq) end)
  both("rope 9 x 64, and back", (2 + 2 + 2) * bytes(q), function() return kava.rope(q, freq) end, { q })

  local gate, up = leaf(rows, 1536), leaf(rows, 1536)
  local m = bytes(gate)
  forward("silu 1536", 2 * m, function() return kava.silu(gate) end)
  forward("gelu 1536", 2 * m, function() return kava.gelu(gate) end)
  forward("swiglu 1536", 3 * m, function() return kava.swiglu(gate, up) end)
  both("swiglu 1536, and back", (3 + 2 + 5) * m, function() return kava.swiglu(gate, up) end, { gate, up })
  forward("dropout 1536", 2 * m, function() return kava.dropout(gate, 0.1) end)

  local s, t = leaf(rows // 8, 3072), leaf(rows // 8, 3072)
  local k = bytes(s)
  forward("mercator 3072", 2 * k, function() return (kava.loss.mercator(s, t)) end)
  both("mercator 3072, and back", (2 + 6) * k, function() return (kava.loss.mercator(s, t)) end, { s, t })
  both("mse 3072, and back", (2 + 6) * k, function() return kava.loss.mse(s, t) end, { s, t })

  local logits = leaf(1, 513, 49152)
  local ids = (kava.rand { 1, 513 } * 49151):to { dtype = "i64" }
  forward("cross_entropy 49152", bytes(logits), function() return kava.loss.cross_entropy(logits, ids) end)
  both("cross_entropy 49152, and back", 3 * bytes(logits), function() return kava.loss.cross_entropy(logits, ids) end, { logits })

  local function optimizer(state_dtype)
    local p = leaf(32 << 20)
    local opt = kava.optim.adamw({ { params = { p }, lr = 1e-4 } }, { state_dtype = state_dtype })
    p:sum():backward()
    case("adamw, moments " .. state_dtype, (state_dtype == "f32" and 28 or 20) * p:numel(), function() opt:step() end)
    if state_dtype == "f32" then
      case("clip_grad_norm, measuring", bytes(p), function() kava.optim.clip_grad_norm({ p }, math.huge) end)
    end
  end
  optimizer "f32"
  optimizer "bf16"
end
define()

local from, to = kava.randn { 32 << 20 }, kava.zeros { 32 << 20 }
local function copy() to:copy_(from) end

local clock = o.cpu == 1 and os.clock or kava.clock
local function time(call)
  local start = clock()
  call()
  return clock() - start
end
local function median(list)
  table.sort(list)
  return list[#list // 2 + 1]
end

print(("isa %s, %d threads, %d rounds, %s"):format(kava.isa(), kava.threads(), o.rounds, o.cpu == 1 and "processor time" or "wall clock"))
print(("%-32s %9s %8s %8s"):format("", "ms", "GB/s", "of copy"))
copy()
for _, c in ipairs(cases) do
  if c.name:find(o.only, 1, true) then
    c.call()
    local times, ratios = {}, {}
    for i = 1, o.rounds do
      local plain = time(copy)
      times[i] = time(c.call)
      ratios[i] = (c.moved / times[i]) / (2 * bytes(from) / plain)
    end
    local t = median(times)
    print(("%-32s %9.2f %8.1f %8.2f"):format(c.name, t * 1e3, c.moved / t / 1e9, median(ratios)))
  end
end

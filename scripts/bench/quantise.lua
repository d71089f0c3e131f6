-- Quantising a teacher while it is loaded onto a GPU: the matrices of Qwen2.5-1.5B's 28 layers, random, in bf16 in the host's memory, are
-- copied to the device one by one and encoded there; and encoded alone, when they are there already. A layer's seven matrices serve for
-- all layers. Seconds for the whole model, and how far the values are from what they were.
-- usage: kava scripts/bench/quantise.lua [device=cuda] [layers=28] [hidden=1536] [mlp=8960] [kv=256] [methods=nf4,nf4-dq,int8,fp8,fp8-rows]
local kava = require "kava"
local o = { device = "cuda", layers = 28, hidden = 1536, mlp = 8960, kv = 256, methods = "nf4,nf4-dq,int8,fp8,fp8-rows" }
for _, a in ipairs(arg) do
  local k, v = a:match "^(%w+)=(.*)$"
  assert(k and o[k] ~= nil, "unknown argument " .. a)
  o[k] = type(o[k]) == "number" and math.tointeger(v) or v
end
assert(kava.device(o.device))
kava.seed(1)
local shapes = { { o.hidden, o.hidden }, { o.kv, o.hidden }, { o.kv, o.hidden }, { o.hidden, o.hidden }, { o.mlp, o.hidden },
  { o.mlp, o.hidden }, { o.hidden, o.mlp } }
local host, count = {}, 0
for i, shape in ipairs(shapes) do
  host[i] = (kava.randn(shape) * 0.02):to { dtype = "bf16" }
  count = count + shape[1] * shape[2]
end
local there = {}
for i, t in ipairs(host) do there[i] = t:to { device = o.device } end

-- Seconds for all layers of what make(i) gives for each matrix; the codes stay, as a model's do.
local function seconds(make)
  local kept = {}
  for i = 1, #host do make(i) end -- the memory's and the library's first time
  kava.wait(o.device)
  local began = kava.clock()
  for _ = 1, o.layers do
    for i = 1, #host do kept[#kept + 1] = make(i) end
  end
  kava.wait(o.device)
  return kava.clock() - began
end

print(("%.2f G parameters in %d layers, %s"):format(count * o.layers / 1e9, o.layers, kava.device(o.device).name))
local copied = seconds(function(i) return host[i]:to { device = o.device } end)
print(("%-9s %7.3f s, %.1f GB/s"):format("copied", copied, 2 * count * o.layers / copied / 1e9))
collectgarbage()
for method in o.methods:gmatch "[^,]+" do
  local whole = seconds(function(i) return kava.quant.encode(host[i]:to { device = o.device }, method) end)
  collectgarbage()
  local alone = seconds(function(i) return kava.quant.encode(there[i], method) end)
  collectgarbage()
  local original = there[1]:to { dtype = "f32" }
  local difference = kava.quant.encode(there[1], method):to { dtype = "f32" } - original
  local error = ((difference * difference):mean():item() / (original * original):mean():item()) ^ 0.5
  print(("%-9s %7.3f s copied and encoded, %7.3f s encoded alone, off by %.2f %%"):format(method, whole, alone, 100 * error))
end

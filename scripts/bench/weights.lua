-- Linear layers whose weights are held in fewer bits: GFLOP/s of the forward pass for every type of weight, and its share of f32's.
-- Values are arbitrary; types alternate with f32 within a round, the best of the rounds counts.
-- usage: kava scripts/bench/weights.lua [rows=512] [threads=0] [rounds=9] [in=1536] [out=1536] [only=TYPE]
local kava = require "kava"
local o = { rows = 512, threads = 0, rounds = 9, ["in"] = 1536, out = 1536 }
for _, a in ipairs(arg) do
  local k, v = a:match "^(%w+)=([%w_-]+)$"
  assert(k == "only" or o[k], "unknown argument " .. a)
  o[k] = k == "only" and v or math.tointeger(v)
end
kava.threads(o.threads)
local inputs, outputs = o["in"], o.out

-- A matrix in blocks of one of GGUF's types, by way of a file: bytes below 64, so that scales are finite.
local ids = { -- number in files, elements and bytes of a block
  q4_0 = { 2, 32, 18 }, q4_1 = { 3, 32, 20 }, q5_0 = { 6, 32, 22 }, q5_1 = { 7, 32, 24 }, q8_0 = { 8, 32, 34 },
  q2_k = { 10, 256, 84 }, q3_k = { 11, 256, 110 }, q4_k = { 12, 256, 144 }, q5_k = { 13, 256, 176 }, q6_k = { 14, 256, 210 },
  iq4_nl = { 20, 32, 18 }, iq4_xs = { 23, 256, 136 },
}
local function blocks(name)
  local id, block, bytes = table.unpack(ids[name])
  local row = {}
  for i = 1, inputs // block * bytes do row[i] = string.char(math.random(0, 63)) end
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(string.pack("<c4I4I8I8s8I4I8I8I4I8", "GGUF", 3, 1, 0, "w", 2, inputs, outputs, id, 0))
  file:write(("\0"):rep(-file:seek() % 32), table.concat(row):rep(outputs))
  file:write(("\0"):rep(-file:seek() % 32))
  file:close()
  local w = assert(kava.gguf.load(path, { dequantize = false })).w:clone()
  os.remove(path)
  return w
end

local function codes(bits) return (kava.rand { outputs, inputs * bits // 8 } * 255):to { dtype = "u8" } end
local function coded(dtype, bits, more)
  local parts = { dtype = dtype, rows = outputs, columns = inputs, codes = codes(bits), group = 128 }
  parts.scales = kava.rand { outputs, inputs // 128 }
  for key, value in pairs(more or {}) do parts[key] = value end
  return assert(kava.quant.coded(parts))
end

-- As checkpoints have them: GPTQ and AWQ scales and values are f16; zero points one a group, or columns grouped out of order.
local function grouped(bits, order)
  local groups = inputs // 128
  local more = { scales = kava.rand({ outputs, groups }):to { dtype = "f16" }, round = "f16",
    zeros = (kava.rand { outputs, groups } * 7):to { dtype = "u8" } }
  if order then more.group_of = (kava.rand { inputs } * groups):to { dtype = "i32" } end
  return coded(bits == 8 and "uint8" or "int" .. bits, bits, more)
end

local plain = kava.randn { outputs, inputs } * 0.02
local makers = {}
for name in pairs(ids) do makers[name] = function() return blocks(name) end end
for _, dtype in ipairs { "f16", "bf16" } do makers[dtype] = function() return plain:to { dtype = dtype } end end
makers.nf4 = function() return kava.quant.encode(plain:to { dtype = "bf16" }, "nf4") end
makers["nf4-dq"] = function() return kava.quant.encode(plain:to { dtype = "bf16" }, "nf4-dq") end
makers.fp4 = function()
  return coded("fp4", 4, { flat = true, group = 64, scales = kava.rand { outputs * inputs // 64 }, round = "bf16" })
end
makers.int8 = function() return kava.quant.encode(plain, "int8") end
makers.fp8 = function() return kava.quant.encode(plain, "fp8") end
for _, bits in ipairs { 2, 3, 4, 8 } do
  makers["gptq" .. bits] = function() return grouped(bits) end
  makers["gptq" .. bits .. "-order"] = function() return grouped(bits, true) end
end

local names = {}
for name in pairs(makers) do
  if not o.only or o.only == name then names[#names + 1] = name end
end
table.sort(names)

local x = kava.randn { o.rows, inputs }
local work = 2e-9 * o.rows * inputs * outputs
local function time(w)
  local t = kava.clock()
  kava.linear(x, w)
  return kava.clock() - t
end
print(("isa %s, %d threads, %d rows, %d -> %d"):format(kava.isa(), kava.threads(), o.rows, inputs, outputs))
print(("%-14s %8s %8s %7s"):format("weight", "GFLOP/s", "f32's", "share"))
for _, name in ipairs(names) do
  local w, best, base = makers[name](), math.huge, math.huge
  kava.no_grad(function()
    for round = 0, o.rounds do
      local a, b = time(plain), time(w)
      if round > 0 then base, best = math.min(base, a), math.min(best, b) end
      collectgarbage "step"
    end
  end)
  print(("%-14s %8.1f %8.1f %7.2f"):format(name, work / best, work / base, base / best))
end

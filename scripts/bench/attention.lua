-- Causal attention: milliseconds and GFLOP/s of the forward pass and of forward and backward (counted as 1 + 2.5 forward passes over the
-- visible half of T x T); and milliseconds of the attention maps (kava.attention_map). Cases alternate within a round; the best counts.
-- "capped" is the same with a soft-cap of 50 on the scores, as Gemma 2 has it.
-- usage: kava scripts/bench/attention.lua [threads=0] [rounds=7]
local kava = require "kava"
local o = { threads = 0, rounds = 7 }
for _, a in ipairs(arg) do
  local k, v = a:match "^(%w+)=(%d+)$"
  assert(k and o[k], "unknown argument " .. a)
  o[k] = math.tointeger(v)
end
kava.threads(o.threads)

print(("isa %s, %d threads"):format(kava.isa(), kava.threads()))
print(("%3s %5s %3s %4s %4s | %9s %9s | %9s %9s | %9s %9s | %9s %9s"):format("B", "T", "H", "Hkv", "D", "fwd ms", "GFLOP/s", "both ms",
  "GFLOP/s", "capped", "both", "map fwd", "map both"))
for _, s in ipairs { { 4, 256, 9, 3, 64 }, { 1, 1024, 9, 3, 64 }, { 8, 512, 14, 2, 64 }, { 1, 4096, 4, 2, 128 } } do
  local B, T, H, G, D = table.unpack(s)
  local q, k, v = kava.randn { B, T, H, D }, kava.randn { B, T, G, D }, kava.randn { B, T, G, D }
  local gq, gk, gv = q:clone():requires_grad(true), k:clone():requires_grad(true), v:clone():requires_grad(true)
  local forward, both, capped, capped_both, map, map_both = math.huge, math.huge, math.huge, math.huge, math.huge, math.huge
  for round = 0, o.rounds do
    local step <close> = kava.scope() -- luacheck: ignore
    local t0 = kava.clock()
    kava.attention { q = q, k = k, v = v }
    local t1 = kava.clock()
    kava.attention({ q = gq, k = gk, v = gv }):sum():backward()
    local t2 = kava.clock()
    kava.attention { q = q, k = k, v = v, softcap = 50 }
    local t3 = kava.clock()
    kava.attention({ q = gq, k = gk, v = gv, softcap = 50 }):sum():backward()
    local t4 = kava.clock()
    kava.attention_map { q = q, k = k }
    local t5 = kava.clock()
    kava.attention_map({ q = gq, k = gk }):sum():backward()
    local t6 = kava.clock()
    if round > 0 then -- round 0 warms up
      forward, both = math.min(forward, t1 - t0), math.min(both, t2 - t1)
      capped, capped_both = math.min(capped, t3 - t2), math.min(capped_both, t4 - t3)
      map, map_both = math.min(map, t5 - t4), math.min(map_both, t6 - t5)
    end
    collectgarbage "step"
  end
  local work = 4e-9 * B * H * D * T * (T + 1) / 2
  print(("%3d %5d %3d %4d %4d | %9.2f %9.0f | %9.2f %9.0f | %9.2f %9.2f | %9.2f %9.2f"):format(
    B, T, H, G, D, forward * 1e3, work / forward, both * 1e3, 3.5 * work / both, capped * 1e3, capped_both * 1e3, map * 1e3,
    map_both * 1e3))
end

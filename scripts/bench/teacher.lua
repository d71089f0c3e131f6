-- A teacher's forward pass alone, without gradients: tokens/s for the keys and values of all layers, and for every position's logits too.
-- usage: kava scripts/bench/teacher.lua model=PATH [tokens=512] [rounds=5] [threads=0] [precision=f32|bf16]
-- beside=COMMAND: run between the rounds (another program's benchmark of the same file), its output shown.
local kava = require "kava"
local o = { model = "", tokens = 512, rounds = 5, threads = 0, precision = "f32", beside = "" }
for _, a in ipairs(arg) do
  local k, v = a:match "^(%w+)=(.*)$"
  assert(k and o[k] ~= nil, "unknown argument " .. a)
  o[k] = type(o[k]) == "number" and assert(math.tointeger(v), a) or v
end
kava.threads(o.threads)
kava.matmul_precision(o.precision)
local started = kava.clock()
local m = assert(kava.model.load(o.model))
local loaded = kava.clock() - started
local ids = (kava.rand { 1, o.tokens } * (m.spec.vocab - 1)):to { dtype = "i64" }

local function seconds(logits)
  local from = kava.clock()
  kava.no_grad(function() m:forward { input_ids = ids, logits = logits } end)
  from = kava.clock() - from
  collectgarbage()
  return from
end

seconds(true)
local best = { math.huge, math.huge }
for round = 1, o.rounds do
  local keys, logits = seconds(false), seconds(true)
  best[1], best[2] = math.min(best[1], keys), math.min(best[2], logits)
  print(("round %d: %.0f tokens/s for keys and values, %.0f with logits"):format(round, o.tokens / keys, o.tokens / logits))
  if o.beside ~= "" then os.execute(o.beside) end
end
print(("%s, %d threads, %s: loaded in %.2f s; best of %d, %d tokens: %.0f tokens/s, %.0f with logits"):format(m.spec.name or o.model,
  kava.threads(), o.precision, loaded, o.rounds, o.tokens, o.tokens / best[1], o.tokens / best[2]))

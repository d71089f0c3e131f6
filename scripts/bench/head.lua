-- The head and its losses at SmolLM2's shapes: kava.loss.head, which never holds all logits, beside the ops it is made of
-- (linear, cross entropy, divergence and their backward passes), alternating in one run; seconds and the peak of memory above
-- what the inputs take.
-- usage: kava scripts/bench/head.lua [rounds=3] [threads=0] [cpu=0] [rows=1024] [teacher=1] [precision=f32]
--   cpu=1: processor time, which with threads=1 means something on a machine that others use too
local kava = require "kava"
local o = { rounds = 3, threads = 0, cpu = 0, rows = 1024, teacher = 1, precision = "f32" }
for _, a in ipairs(arg) do
  local k, v = a:match "^([%w_]+)=(.*)$"
  assert(k and o[k] ~= nil, "unknown argument " .. a)
  o[k] = type(o[k]) == "number" and math.tointeger(v) or v
end
kava.threads(o.threads)
kava.matmul_precision(o.precision)
kava.seed(1)
local clock = o.cpu == 1 and os.clock or kava.clock

local width, vocabulary = 576, 49152
local hidden = kava.randn({ 1, o.rows, width }):requires_grad(true)
local weight = (kava.randn { vocabulary, width } * 0.05):detach():requires_grad(true)
local teacher_hidden, teacher_weight = kava.randn { 1, o.rows, width }, (kava.randn { vocabulary, width } * 0.05):detach()
local ids = (kava.rand { 1, o.rows } * (vocabulary - 1)):to { dtype = "i64" }
local targets = kava.loss.targets(ids)

local function fused()
  local t = o.teacher == 1
  return (kava.loss.head {
    hidden = hidden, weight = weight, targets = targets,
    teacher_hidden = t and teacher_hidden or nil, teacher_weight = t and teacher_weight or nil,
  })
end
local counted = targets:ge(0)
local function plain()
  local logits = kava.linear(hidden, weight)
  local loss = kava.loss.cross_entropy(logits, ids)
  if o.teacher == 0 then return loss end
  local teacher_logits = kava.no_grad(function() return kava.linear(teacher_hidden, teacher_weight) end)
  return loss + kava.loss.kl(logits, teacher_logits, { mask = counted })
end

local function run(fn)
  collectgarbage()
  collectgarbage()
  kava.memory_reset_peak()
  local before, start = kava.memory().cpu.current, clock()
  local value
  do
    local _ <close> = kava.scope()
    local loss = fn()
    value = loss:item()
    loss:backward()
  end
  local seconds, peak = clock() - start, kava.memory().cpu.peak - before
  hidden.grad, weight.grad = nil, nil
  return seconds, peak / 2 ^ 20, value
end

print(("isa %s, %d threads, %d rows x %d -> %d, teacher %d, products in %s, %s"):format(kava.isa(), kava.threads(), o.rows, width,
  vocabulary, o.teacher, o.precision, o.cpu == 1 and "processor time" or "wall clock"))
run(fused)
for _ = 1, o.rounds do
  local a, am, av = run(fused)
  local b, bm, bv = run(plain)
  print(("head %.2f s, %.0f MiB, loss %.5f   ops %.2f s, %.0f MiB, loss %.5f   ratio %.2f"):format(a, am, av, b, bm, bv, a / b))
end

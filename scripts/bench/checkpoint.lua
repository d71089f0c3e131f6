-- What a checkpoint written behind the steps that follow costs those: a student learns keys that are given (no teacher), an optimizer
-- step of `accum` micro-batches recorded, and every `every` steps its weights and the optimizer's state are saved as the recipe does it.
-- Says how long a step took from one's end to the next one's: the median, the longest without a checkpoint, and with one (stall_ms: more
-- than the median); how long the call took (asking_ms), and how many steps late one was, since the one before was still being written,
-- or host memory pinned. By the host's clock: what lengthens a step by less than another one, the GPU need not notice.
-- usage: kava scripts/bench/checkpoint.lua [shape=tiny|qwen] [device=cuda] [batch=8] [seq=512] [accum=4] [steps=40] [every=20]
--   [moments=f32|bf16|8bit] [grads=f32|bf16] [room=gpu|host] [prepare=1] [dir=FOLDER]
-- room=host: as where the GPU has no room for a copy of the state. prepare=0: the first checkpoint takes the room when it asks for it.
-- dir: where checkpoints go; else a folder that is removed.
local kava = require "kava"
local checkpoints = require "kava.checkpoints"

local o = { shape = "tiny", device = "cuda", batch = 8, seq = 512, accum = 4, steps = 40, every = 20, moments = "8bit", grads = "bf16",
  room = "gpu", prepare = 1, dir = "" }
for _, a in ipairs(arg) do
  local k, v = a:match "^([%w_]+)=(.*)$"
  assert(k and o[k] ~= nil, "unknown argument " .. a)
  o[k] = type(o[k]) == "number" and assert(math.tointeger(v), a) or v
end
assert(kava.device(o.device))
kava.matmul_precision "bf16"
kava.gradient_dtype(o.grads)
kava.seed(0)

local SHAPES = { -- hidden, layers, heads, KV heads, MLP, vocabulary
  tiny = { 64, 2, 2, 1, 128, 512 },
  qwen = { 896, 24, 14, 2, 4864, 151936 },
}
local s = assert(SHAPES[o.shape], "shape=tiny or qwen expected")
local student = kava.model.create({
  model_type = "qwen2", hidden_size = s[1], num_hidden_layers = s[2], num_attention_heads = s[3], num_key_value_heads = s[4],
  intermediate_size = s[5], vocab_size = s[6], rms_norm_eps = 1e-6, rope_theta = 1e6, tie_word_embeddings = true,
}, { dtype = "bf16", device = o.device }):requires_grad(true)
local optimizer = kava.optim.adamw({ { params = student:parameters(), lr = 5e-5 } }, { state_dtype = o.moments })
local ids = (kava.rand({ o.batch, o.seq }, { dtype = "f32" }) * (s[6] - 1)):to { dtype = "i64", device = o.device }
local target = kava.randn({ o.batch, o.seq, student:probe().total_dim }):to { dtype = "bf16", device = o.device }

local function loss_of()
  local out = student:forward { input_ids = ids, logits = false, values = false }
  return (kava.loss.mercator(kava.kv.aggregate(out.kv, "concat"), target))
end
local function step()
  local sum
  for _ = 1, o.accum do
    local scope <close> = kava.scope() -- luacheck: ignore 211
    local loss = loss_of() / o.accum
    sum = sum and sum + loss:detach() or loss:detach()
    loss:backward()
  end
  optimizer:step()
  optimizer:zero_grad()
  return sum
end
local function state()
  local tensors = {}
  for name, t in pairs(student:parameters()) do tensors["student." .. name] = t end
  for name, t in pairs(optimizer:state()) do tensors["optimizer." .. name] = t end
  return tensors
end

step()
local replay, loss = kava.record(step)
local dir = o.dir ~= "" and o.dir or os.tmpname()
if o.dir == "" then os.remove(dir) end
local store = assert(checkpoints.open(dir, { keep = 0, claim = { holder = "bench", held = function() return true end } }))

store.crowded = o.room == "host"

local times, longest, asking = {}, { without = 0, with = 0 }, 0
local before, last -- the loss of the step before, on its way; when that one had come
local late = 0
for i = 1, o.steps do
  assert(store:advance())
  local saved = i > 1 and store:due(i, o.every)
  if saved then
    local began = kava.clock()
    assert(store:behind(i, state(), {}))
    asking = math.max(asking, kava.clock() - began)
    late = math.max(late, i - saved)
  end
  replay:run()
  local now = kava.fetch(loss)
  if o.prepare == 1 then store:prepare(state) end
  if before then before:read() end
  before = now
  local at = kava.clock()
  if i > 3 then -- of the step before, the first of which wait for nothing
    times[#times + 1] = at - last.at
    local which = (last.saved or saved) and "with" or "without"
    longest[which] = math.max(longest[which], at - last.at)
  end
  last = { at = at, saved = saved }
end
before:read()
local bytes = 0
local began = kava.clock()
assert(store:advance(true))
local rest = kava.clock() - began
for _, n in ipairs(store:steps()) do bytes = bytes + kava.fs.size(("%s/step-%08d.kava"):format(dir, n)) end
table.sort(times)
local median = times[(#times + 1) // 2]
local stall = math.max(0, longest.with - median)
local line = '{"shape": "%s", "steps": %d, "every": %d, "moments": "%s", "room": "%s", "prepare": %d, "step_ms": %.2f, '
  .. '"longest_without_ms": %.2f, "longest_with_ms": %.2f, "stall_ms": %.2f, "steps_stalled": %.2f, "asking_ms": %.2f, "steps_late": %d, '
  .. '"checkpoint_GB": %.3f, "writing_left_s": %.2f}\n'
io.write(line:format(o.shape, o.steps, o.every, o.moments, o.room, o.prepare, median * 1e3, longest.without * 1e3, longest.with * 1e3,
  stall * 1e3, stall / median, asking * 1e3, late, bytes / 1e9, rest))
if o.dir == "" then
  for _, name in ipairs(assert(kava.fs.list(dir))) do os.remove(dir .. "/" .. name) end
  os.remove(dir)
end

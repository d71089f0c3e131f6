-- The main job's step at SmolLM2-135M's shapes: 30-layer teacher (no gradients), 15-layer student, keys of all layers concatenated,
-- projector on the teacher's side, Mercator loss, AdamW every `accum` micro-steps. Random weights and tokens, as the PyTorch peer has them.
-- usage: kava scripts/bench/step.lua [batch=4] [seq=256] [accum=2] [reps=3] [precision=f32|bf16] [threads=0]
--   [teacher=f32|bf16|q4_1|…] [moments=f32|bf16] [wait=1]
-- wait=1: one measurement for every line on standard input (scripts/bench/side_by_side.py alternates it with the peer).
local kava = require "kava"
local o = { batch = 4, seq = 256, accum = 2, reps = 3, precision = "f32", threads = 0, wait = 0, teacher = "f32", layers = 30,
  moments = "f32" }
for _, a in ipairs(arg) do
  local k, v = a:match "^([%w_]+)=(.*)$"
  assert(k and o[k] ~= nil, "unknown argument " .. a)
  o[k] = type(o[k]) == "number" and (math.tointeger(v) or tonumber(v)) or v
end
kava.threads(o.threads)
kava.matmul_precision(o.precision)
kava.seed(0)

local function smol(layers, dtype)
  return kava.model.create({
    model_type = "qwen2", vocab_size = 49152, hidden_size = 576, intermediate_size = 1536, num_hidden_layers = layers,
    num_attention_heads = 9, num_key_value_heads = 3, rms_norm_eps = 1e-6, rope_theta = 1e6, tie_word_embeddings = true,
  }, { dtype = dtype })
end

-- A teacher in fewer bits: its matrices quantised one by one, as a GGUF file would hold them.
local function quantised(m)
  if o.teacher == "f32" then return m end
  local function convert(weights)
    for key, t in pairs(weights) do
      if type(t) == "table" then convert(t)
      elseif #t.shape == 2 then weights[key] = o.teacher == "bf16" and t:to { dtype = "bf16" } or kava.gguf.quantize(t, o.teacher) end
    end
  end
  convert(m.weights)
  m.decoder = kava.decoder(m.spec, m.weights)
  return m
end

local teacher = quantised(smol(o.layers, "f32"))
collectgarbage()
local student = smol(o.layers // 2, "f32"):requires_grad(true)
local td, sd = teacher:probe().total_dim, student:probe().total_dim
local projector = kava.projector { in_dim = td, out_dim = sd }
local groups = { { params = student:parameters(), lr = 5e-5 }, { params = projector:parameters(), lr = 1e-3 } }
local opt = kava.optim.adamw(groups, { weight_decay = 0.01, state_dtype = o.moments })
local batches = {}
for i = 1, 4 do
  batches[i] = (kava.rand({ o.batch, o.seq }, { dtype = "f32" }) * 49151):to { dtype = "i64" }
end
local concat = kava.kv.aggregation "concat"

local function micro(i, last)
  local step <close> = kava.scope()
  local ids = batches[i % 4 + 1]
  local tk = kava.no_grad(function()
    return kava.kv.aggregate(teacher:forward({ input_ids = ids, logits = false, values = false }).kv, concat)
  end)
  local sk = kava.kv.aggregate(student:forward({ input_ids = ids, logits = false, values = false }).kv, concat)
  local loss = kava.loss.mercator(sk, projector(tk))
  ;(loss / o.accum):backward()
  if last then
    opt:step()
    opt:zero_grad()
  end
  return loss
end

local function peak_rss()
  for line in io.lines "/proc/self/status" do
    local kb = line:match "^VmHWM:%s+(%d+)"
    if kb then return kb / 1048576 end
  end
  return 0
end

local function measure()
  local times = {}
  for r = 1, o.reps do
    local t = kava.clock()
    for i = 1, o.accum do micro(i, i == o.accum) end
    times[r] = (kava.clock() - t) / o.accum
  end
  table.sort(times)
  local median = times[(#times + 1) // 2]
  local line = '{"variant": "kava", "precision": "%s", "teacher": "%s", "threads": %d, "ms_per_microstep": %.1f, '
    .. '"min": %.1f, "max": %.1f, "tok_s": %d, "peak_GiB": %.2f}\n'
  io.write(line:format(o.precision, o.teacher, kava.threads(), median * 1e3, times[1] * 1e3, times[#times] * 1e3,
    math.floor(o.batch * o.seq / median), peak_rss()))
  io.flush()
end

for i = 1, o.accum do micro(i, i == o.accum) end -- warm-up
if o.wait == 0 then
  measure()
else
  io.write('{"ready": true}\n')
  io.flush()
  for _ in io.lines() do measure() end
end

-- The main job's step: a teacher (no gradients), a student, keys of all layers concatenated, a projector on the teacher's side, Mercator
-- loss, AdamW every `accum` micro-steps. Random weights and tokens, as the PyTorch peer has them. shape=smol: SmolLM2-135M's 30 layers
-- teach 15 of its kind; shape=qwen: Qwen2.5-1.5B teaches 0.5B.
-- usage: kava scripts/bench/step.lua [shape=smol] [device=cpu] [batch=4] [seq=256] [accum=2] [reps=3] [precision=f32|bf16] [threads=0]
--   [teacher=f32|bf16|q4_1|…|nf4|nf4-dq|int8|fp8|cached] [moments=f32|bf16|8bit] [grads=f32|bf16] [projector=f32|bf16]
--   [recompute=none|mlp|layer|mlp:N] [layers=OF THE TEACHER] [vocab=SIZE] [record=1] [wait=1] [models=FOLDER] [plans=FILE]
--   [loss=concat|bare|layer_matched] [grid=BATCHxSEQ,…] [overlap=0] [profile=FILE.json] [peak=1] [offload=1]
-- teacher=cached: its keys come from pinned memory, as from the second epoch on; overlap=1: while the micro-step before computes.
-- profile: afterwards one step more is profiled: tables here, a trace for ui.perfetto.dev in the file.
-- offload=1: the teacher's embedding, and what of it comes after its last keys, in host memory.
-- peak=1: what lies in the GPU's memory when most does. Without a GPU, in seconds: KAVA_CUDA=emulated KAVA_CUDA_TROUBLE="idle=1
-- memory=80000000000" kava scripts/bench/step.lua shape=qwen device=cuda batch=8 seq=512 accum=4 peak=1 … (times mean nothing then).
-- loss: concat: the one above; bare: the same without a projector, on as many of the teacher's elements as the student has;
-- layer_matched: keys and values, layer by layer. grid: these shapes after one another, and a line t = a + b tokens through them.
-- overlap=1: teacher and student on two streams. models: what is there is loaded, else made and saved there first: the time to the
-- first step as users have it; plans: of the matrix products, kept from run to run as the recipe does. grads, projector: what a GPU
-- keeps gradients of matrices and the projector's weights in. On a GPU weights and activations are bf16 (AdamW keeps their f32 beside
-- them), and a whole optimizer step is one recording; record=0: calls. wait=1: one measurement for every line on standard input
-- (side_by_side.py and gpu_side_by_side.py alternate it with the peer).
local kava = require "kava"
local began = kava.clock()
local o = { batch = 4, seq = 256, accum = 2, reps = 3, precision = "f32", threads = 0, wait = 0, teacher = "f32", layers = 0, vocab = 0,
  moments = "f32", grads = "f32", projector = "f32", recompute = "none", shape = "smol", device = "cpu", record = 1,
  models = "", plans = "", loss = "concat", grid = "", overlap = 0, profile = "", peak = 0, offload = 0 }
for _, a in ipairs(arg) do
  local k, v = a:match "^([%w_]+)=(.*)$"
  assert(k and o[k] ~= nil, "unknown argument " .. a)
  o[k] = type(o[k]) == "number" and (math.tointeger(v) or tonumber(v)) or v
end
if o.grid ~= "" then o.batch, o.seq = o.grid:match "(%d+)x(%d+)" end
local gpu = o.device ~= "cpu"
if gpu then
  assert(kava.device(o.device))
  o.precision = "bf16"
end
kava.threads(o.threads)
kava.matmul_precision(o.precision)
kava.gradient_dtype(o.grads)
kava.seed(0)

local SHAPES = { -- teacher, student: hidden, layers, heads, KV heads, MLP, vocabulary
  smol = { { 576, 30, 9, 3, 1536, 49152 }, { 576, 15, 9, 3, 1536, 49152 } },
  qwen = { { 1536, 28, 12, 2, 8960, 151936 }, { 896, 24, 14, 2, 4864, 151936 } },
}
local shapes = SHAPES[o.shape] or error("shape=smol or qwen expected, got " .. o.shape)
if o.layers > 0 then shapes[1][2], shapes[2][2] = o.layers, o.layers // 2 end
if o.vocab > 0 then shapes[1][6], shapes[2][6] = o.vocab, o.vocab end
local dtype = gpu and "bf16" or "f32"
local emulated = gpu and os.getenv "KAVA_CUDA" == "emulated" -- nobody looks at numbers there

local phases, phase_began = {}, began
local function phase(name)
  local now = kava.clock()
  table.insert(phases, ('"%s_s": %.2f'):format(name, now - phase_began))
  phase_began = now
end
if gpu then phase "device" end
if o.plans ~= "" then assert(kava.plans(o.device, o.plans)) end

local function create(shape, device)
  return kava.model.create({
    model_type = "qwen2", vocab_size = shape[6], hidden_size = shape[1], intermediate_size = shape[5], num_hidden_layers = shape[2],
    num_attention_heads = shape[3], num_key_value_heads = shape[4], rms_norm_eps = 1e-6, rope_theta = 1e6, tie_word_embeddings = true,
  }, { dtype = dtype, device = device, std = emulated and 0 or nil })
end
local function build(shape, name)
  local device = gpu and o.device or nil
  if o.models == "" then return create(shape, device) end
  local folder = o.models .. "/" .. name
  if not kava.fs.exists(folder .. "/config.json") then
    create(shape):save(folder)
    phase("made_" .. name)
  end
  local m = assert(kava.model.load(folder, { device = device }))
  phase("load_" .. name)
  return m
end

-- A teacher in fewer bits: its matrices quantised one by one where they are. In GGUF's types all of them, as its files hold them; in
-- codes the layers', of which fp8 takes the MLP's, a scale a row.
local codes = { nf4 = "nf4", ["nf4-dq"] = "nf4-dq", int8 = "int8", fp8 = "fp8-rows" }
local function quantised(m)
  if o.teacher == "f32" or o.teacher == dtype or o.teacher == "cached" then return m end
  local method = codes[o.teacher]
  local function narrow(key, t, in_layer)
    if o.teacher == "bf16" then return t:to { dtype = "bf16" } end
    if not method then return kava.gguf.quantize(t, o.teacher) end
    local taken = in_layer and (o.teacher ~= "fp8" or key == "gate" or key == "up" or key == "down")
    return taken and kava.quant.encode(t, method) or t
  end
  local function convert(weights, in_layer)
    for key, t in pairs(weights) do
      if type(t) == "table" then convert(t, true)
      elseif #t.shape == 2 then weights[key] = kava.lasting(narrow, key, t, in_layer) end
    end
  end
  convert(m.weights)
  if gpu then kava.wait(o.device) end
  phase "quantise"
  m.decoder = kava.decoder(m.spec, m.weights)
  return m
end

local teacher = quantised(build(shapes[1], "teacher"))
collectgarbage()
local student = build(shapes[2], "student"):requires_grad(true):recompute(o.recompute)
local td, sd = teacher:probe().total_dim, student:probe().total_dim
local projector = kava.projector { in_dim = td, out_dim = sd, device = o.device, dtype = o.projector }
local matched = o.loss == "layer_matched"
  and kava.loss.build("layer_matched", { teacher = teacher, student = student, loss = { ce = 0 }, kv = { part = "both" } })
local trained = matched and matched:parameters() or o.loss == "concat" and projector:parameters() or {}
local groups = { { params = student:parameters(), lr = 5e-5 }, { params = trained, lr = 1e-3 } }
local opt = kava.optim.adamw(groups, { weight_decay = 0.01, state_dtype = o.moments })
local batches = {}
local function draw()
  for i = 1, 4 do
    batches[i] = (kava.rand({ o.batch, o.seq }, { dtype = "f32" }) * (shapes[1][6] - 1)):to { dtype = "i64", device = o.device }
  end
end
local concat = kava.kv.aggregation "concat"

if o.offload == 1 then
  local needs = matched and matched:needs().teacher or { logits = false, values = false }
  io.write(('{"offloaded_MB": %.1f}\n'):format(teacher:offload(needs) / 1e6))
end

local function keys(m, ids) return kava.kv.aggregate(m:forward({ input_ids = ids, logits = false, values = false }).kv, concat) end
-- The teacher's part of a loss, the student's, and the two compared.
local losses = {
  concat = {
    function(ids) return keys(teacher, ids) end, function(ids) return keys(student, ids) end,
    function(sk, tk) return kava.loss.mercator(sk, projector(tk)) end,
  },
  bare = {
    function(ids) return keys(teacher, ids) end, function(ids) return keys(student, ids) end,
    function(sk, tk) return kava.loss.mercator(sk, tk:narrow(3, 1, sd)) end,
  },
}
if matched then
  local needs = matched:needs()
  losses.layer_matched = {
    function(ids) return matched:teach({ input_ids = ids }, needs.teacher) end,
    function(ids) return student:forward(kava.loss.request({ input_ids = ids }, needs.student)) end,
    function(student_out, teacher_out) return (matched:compute({}, teacher_out, student_out, 1)) end,
  }
end
local how = losses[o.loss] or error("loss=concat, bare or layer_matched expected, got " .. o.loss)
local held = {} -- what a teacher's cache has on the host
local function teach(i)
  local kept = held[i % 4 + 1]
  return kept and kept:to { device = o.device } or kava.no_grad(how[1], batches[i % 4 + 1])
end
local function keep()
  assert(gpu and o.loss ~= "layer_matched" and o.grid == "", "teacher=cached: a GPU, loss=concat or bare, and no grid expected")
  for i = 1, 4 do held[i % 4 + 1] = kava.fetch(teach(i)):read() end
  teacher = nil -- nothing else reads it
  collectgarbage()
  collectgarbage()
  kava.memory_reset_peak()
end

-- A micro-batch's loss. What it is made of is not referred to from here on, but by the tape.
local function loss_of(i, later)
  local target = not later and teach(i)
  local mine = how[2](batches[i % 4 + 1])
  return how[3](mine, later and later() or target) / o.accum
end

-- With overlap the teacher's pass over the next micro-batch runs beside the student's backward over this one.
local function step()
  local later = o.overlap == 1 and kava.aside(teach, 1)
  for i = 1, o.accum do
    local scope <close> = kava.scope() -- luacheck: ignore 211
    local loss = loss_of(i, later)
    later = later and i < o.accum and kava.aside(teach, i + 1)
    loss:backward()
  end
  opt:step()
  opt:zero_grad()
end

local function peak_rss()
  for line in io.lines "/proc/self/status" do
    local kb = line:match "^VmHWM:%s+(%d+)"
    if kb then return kb / 1048576 end
  end
  return 0
end

local run = step

local function wait()
  if gpu then kava.wait(o.device) end
end

-- On the CPU the median of `reps` steps; on a GPU their mean, since waiting after each would leave it idle between them.
local function measure()
  local times = {}
  for r = 1, gpu and 1 or o.reps do
    local t, count = kava.clock(), gpu and o.reps or 1
    for _ = 1, count do run() end
    wait()
    times[r] = (kava.clock() - t) / count / o.accum
  end
  table.sort(times)
  local median = times[(#times + 1) // 2]
  local line = '{"variant": "kava", "batch": %d, "seq": %d, "precision": "%s", "teacher": "%s", "threads": %d, "ms_per_microstep": %.2f, '
    .. '"min": %.2f, "max": %.2f, "tok_s": %d, "peak_GiB": %.2f, "taken_GiB": %.2f, "offload": %d, "recompute": "%s"}\n'
  io.write(line:format(o.batch, o.seq, o.precision, o.teacher, kava.threads(), median * 1e3, times[1] * 1e3, times[#times] * 1e3,
    math.floor(o.batch * o.seq / median), gpu and kava.memory().cuda.peak / (1 << 30) or peak_rss(),
    gpu and (kava.memory().cuda.total - kava.memory().cuda.free) / (1 << 30) or peak_rss(), -- by the device's own account
    o.offload, o.recompute))
  io.flush()
  return median * 1e3
end

local function show_peak(rows)
  local sum = 0
  for _, row in ipairs(rows) do sum = sum + row.bytes * row.count end
  io.write(("at the peak: %.1f MB\n"):format(sum / 1e6))
  for _, row in ipairs(rows) do
    local bytes = row.bytes * row.count
    if bytes >= sum / 2000 then
      io.write(("  %8.1f MB  %5d x %10d  %s\n"):format(bytes / 1e6, row.count, row.bytes, row.name or "(was there before)"))
    end
  end
end

local replay
local function record()
  if not (gpu and o.record == 1) then return end
  replay = nil
  collectgarbage()
  if o.peak == 1 then
    local rows
    rows, replay = kava.memory_peak(kava.record, step)
    show_peak(rows)
  else
    replay = kava.record(step)
  end
  function run() replay:run() end
end

draw()
if o.teacher == "cached" then keep() end
phase "rest"
step() -- warm-up: makes the optimizer's state
wait()
phase "first_step"
if o.plans ~= "" then assert(kava.plans(o.device, o.plans, true)) end
record()
phase "record"
if gpu then io.write(('{"until_first_step": {%s}}\n'):format(table.concat(phases, ", "))) end

-- Least squares of t = a + b tokens.
local function grid()
  local n, sx, sy, sxx, sxy = 0, 0, 0, 0, 0
  local points = {}
  for batch, seq in o.grid:gmatch "(%d+)x(%d+)" do
    o.batch, o.seq = math.tointeger(batch), math.tointeger(seq)
    draw()
    step()
    record()
    local ms, tokens = measure(), o.batch * o.seq / 1000
    points[#points + 1] = { tokens, ms }
    n, sx, sy, sxx, sxy = n + 1, sx + tokens, sy + ms, sxx + tokens * tokens, sxy + tokens * ms
  end
  local slope = (n * sxy - sx * sy) / (n * sxx - sx * sx)
  local start = (sy - slope * sx) / n
  for i, point in ipairs(points) do points[i] = ("%+.1f%%"):format((point[2] / (start + slope * point[1]) - 1) * 100) end
  io.write(('{"fit": "%.2f ms + %.3f ms a thousand tokens", "off": "%s"}\n'):format(start, slope, table.concat(points, " ")))
end

if o.grid ~= "" then
  grid()
elseif o.wait == 0 then
  measure()
  if o.profile ~= "" then
    local report = kava.profile.run(run)
    io.write(report:text())
    assert(report:save(o.profile))
  end
else
  io.write('{"ready": true}\n')
  io.flush()
  for _ in io.lines() do measure() end
end

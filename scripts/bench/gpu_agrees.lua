-- Whether a GPU teaches what the CPU teaches: the demo's job for 50 steps on both, f32, the losses step by step; then in bf16 with three
-- seeds, whose differences from f32 with the same seed stand beside the differences between seeds.
-- usage: kava scripts/bench/gpu_agrees.lua [out=outputs/agrees] [steps=50] [key=value …]   other keys go to the recipe
local kava = require "kava"
local o, others = { out = "outputs/agrees", steps = "50" }, {}
for _, a in ipairs(arg) do
  local key, value = a:match "^([%w_.]+)=(.*)$"
  assert(key, "key=value expected, got " .. a)
  if o[key] then o[key] = value else others[#others + 1] = "'" .. a:gsub("'", "'\\''") .. "'" end
end
local program = assert(kava.fs.realpath "/proc/self/exe")

local function losses(device, precision, seed)
  local folder = ("%s/%s-%s-%d"):format(o.out, device, precision, seed)
  local ok = os.execute(("'%s' recipes/train_adaptive.lua device=%s precision=%s seed=%d training.steps=%s output='%s' "
    .. "resume=none eval.before=false eval.every=0 eval.generate=0 eval.rows=2 checkpoint.every=0 log.every=1 %s >'%s.log' 2>&1"):format(
    program, device, precision, seed, o.steps, folder, table.concat(others, " "), folder))
  assert(ok, folder .. ".log tells why it failed")
  local list = {}
  for line in io.lines(folder .. "/metrics.jsonl") do
    local record = assert(kava.json.decode(line))
    if record.kind == "train" then list[record.step] = record.loss end
  end
  return list
end

local function apart(a, b)
  assert(#a == #b and #a > 0, "runs of other lengths")
  local most, sum = 0, 0
  for i = 1, #a do
    local d = math.abs(a[i] - b[i]) / math.abs(a[i])
    most, sum = math.max(most, d), sum + d
  end
  return most, sum / #a
end

assert(kava.fs.mkdir(o.out))
local cpu, gpu = losses("cpu", "f32", 1), losses("cuda", "f32", 1)
print(("f32, %d steps: the GPU's loss is at most %.2g of the CPU's away, %.2g on average (%.6f, %.6f at the last)"):format(#cpu,
  apart(cpu, gpu), select(2, apart(cpu, gpu)), cpu[#cpu], gpu[#gpu]))
local f32, bf16 = { gpu }, {}
for seed = 1, 3 do
  f32[seed] = f32[seed] or losses("cuda", "f32", seed)
  bf16[seed] = losses("cuda", "bf16", seed)
  print(("seed %d: bf16's loss is %.2g of f32's away on average, %.2g at most; the last %.4f, %.4f"):format(seed,
    select(2, apart(f32[seed], bf16[seed])), apart(f32[seed], bf16[seed]), bf16[seed][#cpu], f32[seed][#cpu]))
end
for seed = 2, 3 do print(("seeds 1 and %d, f32: %.2g of the loss apart on average"):format(seed, select(2, apart(f32[1], f32[seed])))) end

-- What each loss teaches a real student, again: SmolLM2-135M's layers 2, 4 … 30 on GSM8K, 466 steps of 32 rows, by the main job itself
-- (configs/experiments/smollm2_gsm8k.lua), one run after another; then the figures on 640 held-out rows beside those that PyTorch gave.
-- usage: kava scripts/bench/science.lua teacher=FILE data=FOLDER [out=FOLDER] [rows=ce,original,matched,kl] [key=value …]
-- data: a folder with GSM8K's train.jsonl and test.jsonl; every other key goes to the recipe: device=cuda, training.steps=5, seed=2.
local kava = require "kava"
local progress = require "kava.progress"

-- measured: PyTorch on one H100, bf16 on f32 weights, held-out CE over as many seeds as are given; kl and cosine of the mean.
local ROWS = {
  ce = { name = "CE", keys = "loss.name=none loss.ce=1", low = 2.565, high = 2.582, kl = 2.463, cosine = 0.733, seeds = 3 },
  original = { name = "the original", keys = "preset=original loss.name=mercator loss.ce=0 kv.project=teacher", low = 15.29, high = 15.29,
    kl = 12.94, cosine = 0.711, seeds = 1 },
  matched = { name = "layer-matched K+V, CE", keys = "loss.name=layer_matched loss.ce=1", low = 2.487, high = 2.504, kl = 2.310,
    cosine = 0.856, seeds = 3 },
  kl = { name = "KL + CE", keys = "loss.name=none loss.ce=1 loss.kl=1", low = 2.610, high = 2.610, kl = 1.383, cosine = 0.742, seeds = 2 },
}

local o, others = { out = "outputs/science", rows = "ce,original,matched,kl" }, {}
for _, a in ipairs(arg) do
  local key, value = a:match "^([%w_.]+)=(.*)$"
  assert(key, "key=value expected, got " .. a)
  if key == "teacher" or key == "data" or o[key] then o[key] = value else others[#others + 1] = a end
end
assert(o.teacher and o.data, "teacher=FILE and data=FOLDER expected")

local function quoted(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- A run's last evaluation, its last step, and the tokens of all its steps.
local function read(folder)
  local last, tokens = {}, 0
  for line in io.lines(folder .. "/metrics.jsonl") do
    local record = assert(kava.json.decode(line))
    last[record.kind], tokens = record, tokens + (record.kind == "train" and record.tokens or 0)
  end
  return last.eval, last.train, tokens
end

local function number(value, format) return type(value) == "number" and (format or "%.3f"):format(value) or "-" end

local program = assert(kava.fs.realpath "/proc/self/exe")
local began = kava.clock()
local shown = { { "loss", "CE", "PyTorch's CE", "KL", "PyTorch's", "K cosine", "PyTorch's", "same token", "train s", "all s",
  "tokens/s" } }
for name in o.rows:gmatch "[^,]+" do
  local row = assert(ROWS[name], "rows: ce, original, matched or kl expected, got " .. name)
  local folder = ("%s/%s"):format(o.out, name)
  local command = { quoted(program), "recipes/train_adaptive.lua", "--config=configs/experiments/smollm2_gsm8k.lua", row.keys,
    quoted("teacher.path=" .. o.teacher), quoted("data.train=" .. o.data .. "/train.jsonl"),
    quoted("data.eval=" .. o.data .. "/test.jsonl"),
    -- rows shuffled and ended as there: with rows of like length together each CE is 0.02 to 0.04 higher, without an end of text 0.014
    "data.mode=pad data.eos=true",
    "batch_size=32 precision=bf16 resume=none eval.before=false eval.every=0 eval.rows=640 checkpoint.every=0",
    quoted("output=" .. folder) }
  for _, key in ipairs(others) do command[#command + 1] = quoted(key) end
  print("\n== " .. row.name)
  io.stdout:flush()
  local started = kava.clock()
  local ok = os.execute(table.concat(command, " "))
  local took = kava.clock() - started
  if not ok then
    shown[#shown + 1] = { row.name, "failed", "", "", "", "", "", "", "", number(took, "%.1f"), "" }
  else
    local figures, step, tokens = read(folder)
    local range = row.low == row.high and number(row.low) or number(row.low) .. " to " .. number(row.high)
    shown[#shown + 1] = { row.name, number(figures.ce), ("%s (%d)"):format(range, row.seeds), number(figures.kl), number(row.kl),
      number(figures.cosine), number(row.cosine), number(figures.agreement), number(tokens / step.tokens_per_s, "%.1f"),
      number(took, "%.1f"), number(step.tokens_per_s, "%.0f") }
  end
end
print()
progress.table(shown)
print(("in all %.1f s; in brackets: seeds"):format(kava.clock() - began))

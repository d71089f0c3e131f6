-- Encoding speed in MB/s of UTF-8 a core, text to a Lua table of ids, beside Hugging Face's tokenizers (Rust, through Python's list of
-- ids) when a Python that has it is named. CPU time, not the clock, so that other load counts little; rounds alternate, so that the
-- machine's drift hits both.
-- usage: kava scripts/bench/tokenizer.lua file=ROWS.jsonl tokenizer=FOLDER|FILE [template="{question}\n{answer}"] [rounds=7]
--        [python=PROGRAM]
local kava = require "kava"
local o = { file = "", tokenizer = "", template = "{question}\n{answer}", rounds = "7", python = "" }
for _, a in ipairs(arg) do
  local k, v = a:match "^([%w_]+)=(.*)$"
  assert(k and o[k], "unknown argument " .. a)
  o[k] = v
end
assert(o.file ~= "" and o.tokenizer ~= "", "file= and tokenizer= are needed")

local function median(list)
  table.sort(list)
  return (list[(#list + 1) // 2] + list[#list // 2 + 1]) / 2
end

local started = os.clock()
local tok = assert(kava.tokenizer.load(o.tokenizer))
local load_ms = (os.clock() - started) * 1e3

local texts, bytes = {}, 0
for text in assert(kava.data.rows(o.file, { template = o.template })) do
  texts[#texts + 1] = text
  bytes = bytes + #text
end

-- Cold: a fresh tokenizer, whose table of words seen before is empty.
local function encode_all(with)
  local start, ids = os.clock(), 0
  for i = 1, #texts do ids = ids + #with:encode(texts[i]) end
  return bytes / 1e6 / (os.clock() - start), ids
end

-- A Python of one thread: loads, encodes once to warm up, then prints the speed of a second pass and the ids it made.
local script = [[
import sys, json, time, os
os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer
t = Tokenizer.from_file(sys.argv[1])
texts = json.load(open(sys.argv[2]))
for _ in range(2):
    n, s = 0, time.process_time()
    for x in texts: n += len(t.encode(x).ids)
    d = time.process_time() - s
print(sum(len(x.encode()) for x in texts) / 1e6 / d, n)
]]
local texts_path, script_path
if o.python ~= "" then
  texts_path, script_path = os.tmpname(), os.tmpname()
  assert(kava.fs.write(texts_path, kava.json.encode(texts)))
  assert(kava.fs.write(script_path, script))
end

local ours, cold, theirs, our_ids, their_ids = {}, {}, {}, nil, nil
for round = 1, math.tointeger(o.rounds) do
  local fresh <close> = assert(kava.tokenizer.load(o.tokenizer))
  cold[round] = encode_all(fresh)
  ours[round], our_ids = encode_all(fresh)
  if script_path then
    local json = kava.fs.isdir(o.tokenizer) and o.tokenizer .. "/tokenizer.json" or o.tokenizer
    local pipe = assert(io.popen(("'%s' '%s' '%s' '%s'"):format(o.python, script_path, json, texts_path)))
    theirs[round], their_ids = pipe:read("n", "n")
    assert(pipe:close(), "the Python side failed")
  end
end

local name = o.tokenizer:match "([^/]+)/*$"
local summary = "%s: %d texts, %.1f MB, %d ids, %.2f bytes an id; loaded in %.0f ms"
print(summary:format(name, #texts, bytes / 1e6, our_ids, bytes / our_ids, load_ms))
print(("kava        %6.1f MB/s (first pass %.1f)"):format(median(ours), median(cold)))
if script_path then
  assert(their_ids == our_ids, "ids differ")
  print(("tokenizers  %6.1f MB/s   kava is %.1f times as fast"):format(median(theirs), median(ours) / median(theirs)))
  os.remove(texts_path)
  os.remove(script_path)
end

-- All threads by the clock, from the file to token ids in memory.
local speeds = {}
for round = 1, math.tointeger(o.rounds) do
  local start = kava.clock()
  local data <close> = assert(kava.data.tokens(o.file, tok, { template = o.template, max_length = 1 << 20, eos = tok.eos_id ~= nil }))
  speeds[round] = bytes / 1e6 / (kava.clock() - start)
  assert(data.rows == #texts)
end
print(("kava.data.tokens on %d threads: %.1f MB/s, JSON included"):format(kava.threads(), median(speeds)))

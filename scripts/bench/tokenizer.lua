-- Encoding speed in MB/s of UTF-8 a core, text to a Lua table of ids, beside Hugging Face's tokenizers (Rust, through Python's list of
-- ids) and tiktoken when a Python that has them is named. CPU time, not the clock, so that other load counts little; rounds alternate,
-- so that the machine's drift hits all. generic=1 takes the scanners written by hand away, so that PCRE2 cuts.
-- usage: kava scripts/bench/tokenizer.lua file=ROWS.jsonl|text='FILES' tokenizer=FOLDER|FILE [template="{question}\n{answer}"]
--        [rounds=7] [generic=1] [python=PROGRAM]
-- text: names of files as the shell reads them ('src/*/*.c'), each a text of its own.
local kava = require "kava"
local o = { file = "", text = "", tokenizer = "", template = "{question}\n{answer}", rounds = "7", generic = "0", python = "" }
for _, a in ipairs(arg) do
  local k, v = a:match "^([%w_]+)=(.*)$"
  assert(k and o[k], "unknown argument " .. a)
  o[k] = v
end
assert((o.file ~= "") ~= (o.text ~= "") and o.tokenizer ~= "", "tokenizer= and one of file= and text= are needed")

local function median(list)
  table.sort(list)
  return (list[(#list + 1) // 2] + list[#list // 2 + 1]) / 2
end

local json = kava.fs.isdir(o.tokenizer) and o.tokenizer .. "/tokenizer.json" or o.tokenizer
if o.generic == "1" then -- a group around a pattern keeps its meaning but is not recognised
  local file = assert(io.open(json))
  local changed, n = file:read("a"):gsub('("Regex":%s*")([^\n]-[^\\])(")', "%1(?:%2)%3")
  file:close()
  assert(n > 0, "the tokenizer has no pattern")
  local folder = os.tmpname()
  os.remove(folder)
  assert(kava.fs.mkdir(folder))
  json = folder .. "/tokenizer.json"
  assert(kava.fs.write(json, changed))
  o.tokenizer = json
end

local held, started = kava.memory().cpu.current, os.clock()
local tok = assert(kava.tokenizer.load(o.tokenizer))
local load_ms = (os.clock() - started) * 1e3
held = kava.memory().cpu.current - held

local texts, bytes = {}, 0
local function add(text)
  texts[#texts + 1] = text
  bytes = bytes + #text
end
if o.file ~= "" then
  for text in assert(kava.data.rows(o.file, { template = o.template })) do add(text) end
else
  for path in assert(io.popen("ls " .. o.text)):lines() do
    local file = assert(io.open(path, "rb"))
    add(file:read "a")
    file:close()
  end
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
def speed(encode):
    for _ in range(2):
        n, s = 0, time.process_time()
        for x in texts: n += len(encode(x))
        d = time.process_time() - s
    print(sum(len(x.encode()) for x in texts) / 1e6 / d, n)
speed(lambda x: t.encode(x).ids)
# tiktoken, where the tokenizer is of its kind: ids are ranks, one pattern
try:
    import tiktoken
    d = json.load(open(sys.argv[1]))
    steps = [p for p in d["pre_tokenizer"]["pretokenizers"] if p["type"] == "Split"]
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b]
    others = [b for b in range(256) if b not in printable]
    byte = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    ranks = {bytes(byte[c] for c in k): v for k, v in d["model"]["vocab"].items()}
    e = tiktoken.Encoding("t", pat_str=steps[0]["pattern"]["Regex"], mergeable_ranks=ranks, special_tokens={})
    before = len(t.encode("").ids)
    speed(lambda x: [0] * before + e.encode_ordinary(x))
except Exception: print(0, 0)
]]
local texts_path, script_path
if o.python ~= "" then
  texts_path, script_path = os.tmpname(), os.tmpname()
  assert(kava.fs.write(texts_path, kava.json.encode(texts)))
  assert(kava.fs.write(script_path, script))
end

local ours, cold, theirs, tiktoken, our_ids, their_ids, tiktoken_ids = {}, {}, {}, {}, nil, nil, nil
for round = 1, math.tointeger(o.rounds) do
  local fresh <close> = assert(kava.tokenizer.load(o.tokenizer))
  cold[round] = encode_all(fresh)
  ours[round], our_ids = encode_all(fresh)
  if script_path then
    local pipe = assert(io.popen(("'%s' '%s' '%s' '%s'"):format(o.python, script_path, json, texts_path)))
    theirs[round], their_ids, tiktoken[round], tiktoken_ids = pipe:read("n", "n", "n", "n")
    assert(pipe:close(), "the Python side failed")
  end
end

local name = o.tokenizer:match "([^/]+)/*$"
local summary = "%s: %d texts, %.1f MB, %d ids, %.2f bytes an id; loaded in %.0f ms, %.1f MB held"
print(summary:format(name, #texts, bytes / 1e6, our_ids, bytes / our_ids, load_ms, held / 1e6))
print(("kava        %6.1f MB/s (first pass %.1f)"):format(median(ours), median(cold)))
if script_path then
  assert(their_ids == our_ids, "ids differ")
  print(("tokenizers  %6.1f MB/s   kava is %.1f times as fast"):format(median(theirs), median(ours) / median(theirs)))
  if tiktoken_ids == our_ids then -- else it is of another kind
    print(("tiktoken    %6.1f MB/s   kava is %.1f times as fast"):format(median(tiktoken), median(ours) / median(tiktoken)))
  end
  os.remove(texts_path)
  os.remove(script_path)
end

-- All threads by the clock, from the file to token ids in memory.
local speeds = {}
for round = 1, o.file ~= "" and math.tointeger(o.rounds) or 0 do
  local start = kava.clock()
  local data <close> = assert(kava.data.tokens(o.file, tok, { template = o.template, max_length = 1 << 20, eos = tok.eos_id ~= nil }))
  speeds[round] = bytes / 1e6 / (kava.clock() - start)
  assert(data.rows == #texts)
end
if #speeds > 0 then print(("kava.data.tokens on %d threads: %.1f MB/s, JSON included"):format(kava.threads(), median(speeds))) end

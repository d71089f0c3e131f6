-- Reading speed in MB/s a core, file to rows (the text of a template, as a Lua string each), beside pyarrow: to Python rows with the same
-- text made of them (to_pylist and an f-string), and to columns alone, which are not rows yet. CPU time, not the clock, so that other load
-- counts little; rounds alternate, so that the machine's drift hits both. MB of the text of the rows, whatever the file's size is.
-- usage: kava scripts/bench/data.lua file=ROWS.jsonl python=PROGRAM [copies=20] [rounds=5]       rows with the fields question and answer
local kava = require "kava"
local o = { file = "", python = "", copies = "20", rounds = "5" }
for _, a in ipairs(arg) do
  local k, v = a:match "^([%w_]+)=(.*)$"
  assert(k and o[k], "unknown argument " .. a)
  o[k] = v
end
assert(o.file ~= "" and o.python ~= "", "file= and python= (with pyarrow) are needed")

local folder = os.tmpname()
os.remove(folder)
assert(kava.fs.mkdir(folder))

-- Makes the files, then measures what is asked for: one line of MB/s for each word on its standard input.
local script = [[
import json, sys, time
import pyarrow as pa, pyarrow.parquet as pq, pyarrow.json as pj
pa.set_cpu_count(1); pa.set_io_thread_count(1)
source, folder, copies = sys.argv[1], sys.argv[2], int(sys.argv[3])
lines = open(source, encoding="utf-8").read().splitlines() * copies
rows = [json.loads(x) for x in lines]
text = sum(len(f"{r['question']}\n{r['answer']}".encode()) for r in rows)
open(f"{folder}/rows.jsonl", "w", encoding="utf-8").write("\n".join(lines) + "\n")
for suffix, codec in (("gz", "gzip"), ("zst", "zstd")):
    with pa.CompressedOutputStream(f"{folder}/rows.jsonl.{suffix}", codec) as f: f.write(open(f"{folder}/rows.jsonl", "rb").read())
table = pa.table({k: [str(r[k]) for r in rows] for k in ("question", "answer")})
with pa.ipc.new_stream(f"{folder}/stream.arrow", table.schema) as w:
    for b in table.to_batches(max_chunksize=1000): w.write_batch(b)
for c in ("snappy", "zstd", "gzip", "none"): pq.write_table(table, f"{folder}/{c}.parquet", compression=c)
pq.write_table(table, f"{folder}/plain.parquet", compression="snappy", use_dictionary=False)
pq.write_table(table, f"{folder}/delta.parquet", compression="snappy", use_dictionary=False,
               column_encoding={"question": "DELTA_LENGTH_BYTE_ARRAY", "answer": "DELTA_LENGTH_BYTE_ARRAY"})
del rows, lines, table
print(text, flush=True)
def batches(name):
    path = f"{folder}/{name}"
    if name.endswith(".arrow"): return pa.ipc.open_stream(open(path, "rb"))
    if name.endswith(".parquet"): return pq.ParquetFile(path).iter_batches(use_threads=False)
    codec = {"gz": "gzip", "zst": "zstd"}.get(name.rsplit(".", 1)[1])
    return pj.open_json(pa.CompressedInputStream(path, codec) if codec else path, read_options=pj.ReadOptions(use_threads=False))
for word in sys.stdin:
    name = word.strip()
    for b in batches(name): pass
    s = time.process_time()
    for b in batches(name): pass
    columns = time.process_time() - s
    s, n = time.process_time(), 0
    for b in batches(name):
        for r in b.to_pylist(): n += len(f"{r['question']}\n{r['answer']}")
    print(text / 1e6 / columns, text / 1e6 / (time.process_time() - s), flush=True)
]]
assert(kava.fs.write(folder .. "/bench.py", script))
local names = { "rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst", "stream.arrow", "none.parquet", "snappy.parquet", "plain.parquet",
  "delta.parquet", "zstd.parquet", "gzip.parquet" }

-- A pipe both ways: what is asked goes through a FIFO.
local ask_path = folder .. "/ask"
assert(os.execute("mkfifo " .. ask_path))
local answers = assert(io.popen(("%s %s/bench.py '%s' %s %s < %s"):format(o.python, folder, o.file, folder, o.copies, ask_path)))
local ask = assert(io.open(ask_path, "w"))
local bytes = assert(tonumber(answers:read "l"), "the Python program failed")

local function ours(name)
  local start, total = os.clock(), 0
  for text in assert(kava.data.rows(folder .. "/" .. name)) do total = total + #text end
  return total / 1e6 / (os.clock() - start)
end

local function median(list)
  table.sort(list)
  return (list[(#list + 1) // 2] + list[#list // 2 + 1]) / 2
end

kava.threads(1)
local speed = {}
for _, name in ipairs(names) do speed[name] = { {}, {}, {} } end
for _ = 1, math.tointeger(o.rounds) do
  for _, name in ipairs(names) do
    local s = speed[name]
    table.insert(s[1], ours(name))
    ask:write(name, "\n")
    ask:flush()
    local columns, rows = answers:read("n", "n")
    table.insert(s[2], rows)
    table.insert(s[3], columns)
  end
end
ask:close()
answers:close()
print(("%.1f MB of text; MB/s of it a core, median of %s rounds"):format(bytes / 1e6, o.rounds))
print(("%-16s %9s %10s %10s %15s"):format("file", "MB", "kava rows", "its rows", "its columns"))
for _, name in ipairs(names) do
  local s = speed[name]
  local size = kava.fs.size(folder .. "/" .. name) / 1e6
  print(("%-16s %9.1f %10.0f %10.0f %15.0f"):format(name, size, median(s[1]), median(s[2]), median(s[3])))
end
kava.fs.remove_tree(folder)

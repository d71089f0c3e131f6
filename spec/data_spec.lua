local kava = require "kava"
local helper = require "spec.helper"

local function sentence(i) return ("Row %d has%s apples."):format(i, (" many"):rep(i * 7 % 23)) end

local tokenizer
local function tok()
  if not tokenizer then
    local texts = {}
    for i = 1, 100 do texts[i] = sentence(i) end
    tokenizer = assert(kava.tokenizer.train { texts = texts, vocab_size = 280 })
  end
  return tokenizer
end

local function rows_file(count, dir)
  local lines = {}
  for i = 1, count do lines[i] = ('{"question": "%s", "answer": "%d", "n": {"x": %d, "y": [1.5]}}'):format(sentence(i), i * i, i) end
  return helper.write((dir or helper.tmp()) .. "/rows.jsonl", table.concat(lines, "\n") .. "\n")
end

local function dataset(count, options) return assert(kava.data.tokens(rows_file(count), tok(), options)) end

-- A batch's tensors as nested tables, with what the specs compare.
local function plain(batch)
  if not batch then return nil end
  local out = { tokens = batch.tokens, rows = batch.rows }
  for _, name in ipairs { "input_ids", "start", "positions", "mask", "targets" } do out[name] = batch[name]:totable() end
  return out
end

local function all(sampler)
  local list = {}
  for batch in sampler do list[#list + 1] = plain(batch) end
  return list
end

describe("rows of JSON Lines", function()
  it("become text by a template", function()
    local path = helper.write(helper.tmp() .. "/a.jsonl",
      '\u{feff}{"q": "Ünï \\u00e9", "n": 3, "r": 0.5, "b": true, "o": {"x": {"y": "deep"}}, "o.z": "dotted"}\r\n\n  \n{"q": "", "n": -1}\n')
    local rows = assert(kava.data.rows(path, { template = "{q}|{n}" }))
    assert.are.same({ "Ünï é|3", 1 }, { rows:next() })
    assert.are.same({ "|-1", 4 }, { rows:next() })
    assert.is_nil(rows:next())
    assert.are.equal("3 0.5 true deep dotted {q}", kava.data.rows(path, { template = "{n} {r} {b} {o.x.y} {o.z} {{q}}" }):next())
    local lines = {}
    for text, line in assert(kava.data.rows(path, { template = "{n}" })) do lines[line] = text end
    assert.are.same({ [1] = "3", [4] = "-1" }, lines)
  end)

  it("that are broken are skipped, up to a limit, and named", function()
    local good = '{"question": "a", "answer": "b"}'
    local path = helper.write(helper.tmp() .. "/b.jsonl",
      table.concat({ good, "{oops", good, "[1]", '{"question": null, "answer": 1}', good }, "\n"))
    local rows, count = assert(kava.data.rows(path)), 0
    for _ in rows do count = count + 1 end
    assert.are.equal(3, count)
    assert.are.equal(3, rows:broken())
    local strict = assert(kava.data.rows(path, { skip = 0 }))
    strict:next()
    assert.error_matches(function() strict:next() end, "b.jsonl:2: ")
    local two = assert(kava.data.rows(path, { skip = 2 }))
    two:next()
    two:next()
    assert.error_matches(function() two:next() end, "b.jsonl:5: field 'question'.*null")

    local data = assert(kava.data.tokens(path, tok()))
    assert.are.equal(3, data.rows)
    assert.are.equal(3, data:stats().broken)
    for skip, pattern in pairs { [0] = "b.jsonl:2: ", [2] = "b.jsonl:2: .*more than 2 broken rows" } do
      local none, message, code = kava.data.tokens(path, tok(), { skip = skip })
      assert.is_nil(none)
      assert.are.equal("format", code)
      assert.matches(pattern, message)
    end
  end)

  it("that lack a field are an error naming the fields there are", function()
    local path = helper.write(helper.tmp() .. "/c.jsonl", '{"question": "a", "answer": "b"}\n{"question": "a", "reply": "b"}\n')
    local none, message, code = kava.data.tokens(path, tok(), { skip = 100 })
    assert.is_nil(none)
    assert.are.equal("format", code)
    assert.matches("c.jsonl:2: there is no field 'answer'; fields: question string, reply string", message)
    local rows = assert(kava.data.rows(path))
    rows:next()
    assert.error_matches(function() rows:next() end, "c.jsonl:2: there is no field 'answer'")
  end)

  it("refuse templates that say nothing, and files that are not there", function()
    local path = rows_file(1)
    for template, pattern in pairs {
      ["{question"] = "byte 0", ["a{}"] = "byte 1", ["}"] = "byte 0", plain = "names no", ["{a{b}"] = "byte 0",
    } do
      assert.error_matches(function() kava.data.rows(path, { template = template }) end, pattern)
      assert.error_matches(function() kava.data.tokens(path, tok(), { template = template }) end, pattern)
    end
    local none, message, code = kava.data.rows(path .. ".not")
    assert.is_nil(none)
    assert.are.equal("io", code)
    assert.matches("rows.jsonl.not", message)
    assert.error_matches(function() kava.data.rows(path, { templat = "x" }) end, "did you mean 'template'")
  end)
end)

describe("a dataset", function()
  it("holds each row's ids, with an end-of-text token", function()
    local data = dataset(50)
    assert.are.equal(50, data.rows)
    assert.are.equal(50, data:count())
    local total, longest = 0, 0
    for i = 1, 50 do
      local ids = tok():encode(sentence(i) .. "\n" .. i * i)
      ids[#ids + 1] = tok().eos_id
      assert.are.same(ids, data:row(i))
      assert.are.equal(#ids, data:length(i))
      total, longest = total + #ids, math.max(longest, #ids)
    end
    assert.are.equal(total, data.tokens)
    assert.are.equal(longest, data.longest)
    assert.error_matches(function() data:row(51) end, "1 to 50")
    assert.error_matches(function() data:row(0) end, "1 to 50")
    local bare = dataset(3, { eos = false, template = "{n.x}<|endoftext|>" })
    assert.are.same({ tok():id "2", tok().eos_id }, bare:row(2))
    assert.are.same({ tok():id "2", tok().eos_id }, dataset(3, { template = "{n.x}<|endoftext|>" }):row(2))
  end)

  it("is the same whatever kind of file its rows come from", function()
    local golden = "spec/golden/data/"
    local options = { template = "{question} {x} {counts}", cache = helper.tmp() }
    local lines = assert(kava.data.tokens(golden .. "rows.jsonl", tok(), options))
    assert.are.equal(20, lines.rows)
    for _, name in ipairs { "rows.jsonl.gz", "rows.jsonl.zst", "batches.arrow", "file.arrow", "pages.parquet", "v2.parquet" } do
      for pass = 1, 2 do
        local data = assert(kava.data.tokens(golden .. name, tok(), options))
        assert.are.equal(pass == 2, data:stats().cached)
        for i = 1, 20 do assert.are.same(lines:row(i), data:row(i)) end
      end
    end
    local split = assert(kava.data.tokens(golden .. "hf/train", tok(), { cache = options.cache }))
    assert.are.equal(4, split.rows)
    assert.is_true(assert(kava.data.tokens(golden .. "hf/train/*.arrow", tok(), { cache = options.cache })):stats().rows == 4)
    assert.matches("/train%-%x+%.tokens$", split:stats().cache)
    local none, message = kava.data.tokens(golden .. "v2.parquet", tok(), { template = "{answer}", skip = 0 })
    assert.is_nil(none)
    assert.matches("v2.parquet: row 11: field 'answer': .*null", message)
  end)

  it("does not depend on the number of threads", function()
    local path, before = rows_file(3000), kava.threads()
    local one = assert(kava.data.tokens(path, tok(), { workers = 1 }))
    kava.threads(3)
    local many = assert(kava.data.tokens(path, tok()))
    kava.threads(before)
    assert.are.same(one:stats(), many:stats())
    for i = 1, 3000, 7 do assert.are.same(one:row(i), many:row(i)) end
  end)

  it("cuts, leaves out or refuses rows that are too long", function()
    local whole = dataset(40)
    local limit = whole.longest - 10
    local over = 0
    for i = 1, 40 do over = over + (whole:length(i) > limit and 1 or 0) end
    assert.is_true(over > 0 and over < 40)
    local cut = dataset(40, { max_length = limit })
    assert.are.equal(over, cut:stats().truncated)
    assert.are.equal(limit, cut.longest)
    for i = 1, 40 do assert.are.same(table.move(whole:row(i), 1, math.min(limit, whole:length(i)), 1, {}), cut:row(i)) end
    local left = dataset(40, { max_length = limit, long = "skip" })
    assert.are.equal(over, left:stats().too_long)
    assert.are.equal(40 - over, left.rows)
    local none, message, code = kava.data.tokens(rows_file(40), tok(), { max_length = limit, long = "error" })
    assert.is_nil(none)
    assert.are.equal("format", code)
    assert.matches("rows.jsonl:%d+: the row has %d+ tokens; max_length is " .. limit, message)
  end)

  it("refuses what has no rows, no end token, and wrong options", function()
    local dir = helper.tmp()
    for _, text in ipairs { "", "\n \n" } do
      local none, message, code = kava.data.tokens(helper.write(dir .. "/empty.jsonl", text), tok())
      assert.is_nil(none)
      assert.are.equal("format", code)
      assert.matches("empty.jsonl: no rows", message)
    end
    local without = assert(kava.tokenizer.train { texts = { "a a a" }, vocab_size = 256, special = {} })
    assert.error_matches(function() kava.data.tokens(rows_file(1), without) end, "end%-of%-text")
    assert.are.equal(1, assert(kava.data.tokens(rows_file(1), without, { eos = false })).rows)
    local two = helper.write(dir .. "/e.jsonl", '{"a": ""}\n{"a": "x"}\n')
    local empty = assert(kava.data.tokens(two, tok(), { eos = false, template = "{a}" }))
    assert.are.same({ 1, 1 }, { empty.rows, empty:stats().empty })
    assert.error_matches(function() dataset(1, { max_length = 0 }) end, "max_length")
    assert.error_matches(function() dataset(1, { long = "cut" }) end, "'truncate', 'skip' or 'error'")
    assert.error_matches(function() dataset(1, { skip = -1 }) end, "skip")
    assert.error_matches(function() dataset(1, { maxlength = 3 }) end, "max_length")
    assert.error_matches(function() kava.data.tokens(rows_file(1), {}) end, "kava.Tokenizer")
  end)

  it("comes from its cache the second time, and is made anew when anything changed", function()
    local dir = helper.tmp()
    local path = rows_file(60, dir)
    local function open(options)
      options = options or {}
      options.cache = dir
      return assert(kava.data.tokens(path, tok(), options))
    end
    local first, second = open(), open()
    assert.is_false(first:stats().cached)
    assert.is_true(second:stats().cached)
    for i = 1, 60 do assert.are.same(first:row(i), second:row(i)) end
    local a, b = first:stats(), second:stats()
    a.cached = true
    assert.are.same(a, b)
    assert.is_false(open({ max_length = 20 }):stats().cached)
    assert.is_false(open({ template = "{answer}" }):stats().cached)
    assert.is_false(open({ eos = false }):stats().cached)
    local other = assert(kava.tokenizer.train { texts = { sentence(1) }, vocab_size = 258 })
    assert.is_false(assert(kava.data.tokens(path, other, { cache = dir })):stats().cached)
    local text = helper.read(path)
    helper.write(path, (text:gsub("Row 1 ", "Row 2 ", 1))) -- same size
    assert.is_false(open():stats().cached)
  end)

  it("makes a damaged or shortened cache again", function()
    local dir = helper.tmp()
    local path = rows_file(30, dir)
    local good = assert(kava.data.tokens(path, tok(), { cache = dir }))
    local cache = good:stats().cache
    local bytes = helper.read(cache)
    local rows = {}
    for i = 1, 30 do rows[i] = good:row(i) end
    good:release()
    local function flipped(at) return bytes:sub(1, at - 1) .. string.char(bytes:byte(at) ~ 0x40) .. bytes:sub(at + 1) end
    local damaged = { "", bytes:sub(1, 100), bytes:sub(1, 256), bytes:sub(1, -2), bytes .. "x", flipped(3), flipped(10), flipped(30),
      flipped(80), flipped(300), flipped(#bytes - 3), ("\0"):rep(#bytes) }
    for _, content in ipairs(damaged) do
      helper.write(cache, content)
      local again = assert(kava.data.tokens(path, tok(), { cache = dir }))
      assert.is_false(again:stats().cached)
      for i = 1, 30 do assert.are.same(rows[i], again:row(i)) end
      assert.are.equal(bytes, helper.read(cache))
      again:release()
    end
  end)

  it("removes what a process that died left of an earlier attempt", function()
    local dir = helper.tmp()
    local path = rows_file(5, dir)
    local cache = assert(kava.data.tokens(path, tok(), { cache = dir })):stats().cache
    os.remove(cache)
    helper.write(cache .. ".tmp999999", "half of it")
    assert(kava.data.tokens(path, tok(), { cache = dir }))
    assert.are.same({ "rows.jsonl", (cache:match "[^/]+$") }, kava.fs.list(dir))
  end)

  it("says when the cache cannot be written, and leaves nothing behind", function()
    local path = rows_file(5)
    local none, message, code = kava.data.tokens(path, tok(), { cache = "/dev/null/here" })
    assert.is_nil(none)
    assert.are.equal("io", code)
    assert.matches("/dev/null/here", message)
    local dir = helper.tmp()
    local bad = helper.write(dir .. "/bad.jsonl", "{oops\n")
    assert.is_nil((kava.data.tokens(bad, tok(), { cache = dir, skip = 0 })))
    assert.are.same({ "bad.jsonl" }, kava.fs.list(dir))
  end)

  it("loses nothing when memory runs out", function()
    local dir = helper.tmp()
    local path = rows_file(20, dir)
    tok()
    for n = 0, 60 do
      collectgarbage()
      local live = kava.live()
      kava.memory_fail_after(n)
      local data, message, code = kava.data.tokens(path, tok(), { workers = 1, cache = n % 2 == 0 and dir or nil })
      kava.memory_fail_after(-1)
      if data then data:release()
      else assert.are.same({ "memory", "string" }, { code, type(message) }) end
      for _, name in ipairs(kava.fs.list(dir)) do
        if name ~= "rows.jsonl" then os.remove(dir .. "/" .. name) end
      end
      collectgarbage()
      assert.are.equal(live, kava.live())
    end
  end)
end)

describe("batches", function()
  local modes = { "pad", "bucket", "pack" }

  -- luassert takes its time, and these are compared by the hundred thousand.
  local function same(expected, got, what, t)
    if expected ~= got then error(("%s at column %d: expected %s, got %s"):format(what, t, expected, got), 2) end
  end

  -- What a batch's own tensors say must fit together; returns the documents in it.
  local function check(batch, pad, length)
    local documents, real = {}, 0
    for b, ids in ipairs(batch.input_ids) do
      assert.is_true(#ids <= length)
      local begin -- of the current document, from 0
      for t = 1, #ids do
        local mask, start, position, target = batch.mask[b][t], batch.start[b][t], batch.positions[b][t], batch.targets[b][t]
        if mask == 1 then
          real = real + 1
          if position == 0 then
            begin = t - 1
            documents[#documents + 1] = {}
          end
          local document = documents[#documents]
          document[#document + 1] = ids[t]
          same(begin, start, "start", t) -- attention begins with the document
          same(t - 1 - begin, position, "position", t)
          local goes_on = t < #ids and batch.mask[b][t + 1] == 1 and batch.positions[b][t + 1] > 0
          same(goes_on and ids[t + 1] or -100, target, "target", t)
        else
          for rest = t, #ids do
            same(pad, ids[rest], "padding", rest)
            same(0, batch.mask[b][rest], "mask", rest)
            same(rest - 1, batch.start[b][rest], "start", rest)
            same(0, batch.positions[b][rest], "position", rest)
            same(-100, batch.targets[b][rest], "target", rest)
          end
          break
        end
      end
    end
    assert.are.equal(real, batch.tokens)
    return documents
  end

  for _, mode in ipairs(modes) do
    it("give each row once an epoch, documents apart: " .. mode, function()
      local data = dataset(1100)
      for _, case in ipairs { { 8, 64 }, { 16, 40 } } do
        local batch, length = table.unpack(case)
        local sampler = data:batches { batch = batch, length = length, seed = 5, mode = mode }
        local seen, count, order = {}, 0, {}
        for item in sampler do
          count = count + 1
          assert.are.equal(mode == "pack" and length or item.input_ids.shape[2], item.input_ids.shape[2])
          local b = plain(item)
          local documents = check(b, tok().pad_id, length)
          assert.are.equal(#b.rows, #documents)
          for i, row in ipairs(b.rows) do
            assert.is_nil(seen[row])
            seen[row] = true
            order[#order + 1] = row
            assert.are.same(table.move(data:row(row), 1, math.min(length, data:length(row)), 1, {}), documents[i])
          end
          if count < sampler:count() then assert.are.equal(batch, #b.input_ids) end
        end
        assert.are.equal(1100, #order)
        assert.are.equal(sampler:count(), count)
        local sorted = true
        for i = 2, #order do sorted = sorted and order[i] > order[i - 1] end
        assert.is_false(sorted)
      end
    end)

    it("go on from any place exactly as an unbroken run: " .. mode, function()
      local data = dataset(1300)
      local options = { batch = 6, length = 64, seed = 9, epoch = 2, mode = mode }
      local whole = all(data:batches(options))
      assert.is_true(#whole > 70)
      for _, place in ipairs { 0, 1, 2, 63, 64, 65, #whole - 1, #whole } do
        local first = data:batches(options)
        for i = 1, place do assert.are.same(whole[i].rows, first:next().rows) end
        local state = first:state()
        assert.are.equal(place, state.position)
        local resumed = data:batches { batch = 6, length = 64, seed = 9, epoch = 7, mode = mode }
        resumed:next()
        resumed:seek(kava.json.decode(kava.json.encode(state)))
        local started = data:batches { batch = 6, length = 64, seed = 9, epoch = 2, mode = mode, start = place }
        for i = place + 1, #whole do
          if i < place + 4 or i > #whole - 2 then
            local a, b = plain(resumed:next()), plain(started:next())
            assert.are.same(whole[i], a)
            assert.are.same(whole[i], b)
          else
            assert.are.same(whole[i].rows, resumed:next().rows)
            assert.are.same(whole[i].rows, started:next().rows)
          end
        end
        assert.is_nil(resumed:next())
        assert.is_nil(started:next())
        assert.is_nil(started:next())
      end
      assert.error_matches(function() data:batches(options):seek { position = #whole + 1 } end, "beyond")
    end)

    it("are others in another epoch and of another seed: " .. mode, function()
      local data = dataset(300)
      local function order(seed, epoch)
        local rows = {}
        for b in data:batches { batch = 4, seed = seed, epoch = epoch, mode = mode } do table.move(b.rows, 1, #b.rows, #rows + 1, rows) end
        return table.concat(rows, " ")
      end
      assert.are.equal(order(1, 1), order(1, 1))
      assert.is_not.equal(order(1, 1), order(1, 2))
      assert.is_not.equal(order(1, 1), order(50, 1))
    end)
  end

  it("waste less when rows of like length come together, and least when packed", function()
    local data = dataset(2000)
    local function real(mode)
      local tokens, cells = 0, 0
      for b in data:batches { batch = 8, mode = mode, length = 128 } do
        tokens, cells = tokens + b.tokens, cells + b.input_ids:numel()
      end
      assert.are.equal(data.tokens, tokens)
      return tokens / cells
    end
    assert.is_true(real "bucket" > 0.95)
    assert.is_true(real "pack" > 0.9)
    assert.is_true(real "pad" < 0.9)
  end)

  it("are packed first fit, in shuffled order", function()
    local data, length, sizes = dataset(1000), 24, {}
    for b in data:batches { batch = 1, seed = 5, mode = "pad" } do sizes[#sizes + 1] = b.tokens end
    local space, documents = {}, {} -- of each row: tokens that still fit, documents that begin in it
    for _, size in ipairs(sizes) do
      for begin = 0, size - 1, length do
        local part, row = math.min(length, size - begin), 1
        while space[row] and space[row] < part do row = row + 1 end
        space[row] = (space[row] or length) - part
        documents[row] = (documents[row] or 0) + (begin == 0 and 1 or 0)
      end
    end
    local expected, got = {}, {}
    for row = 1, #space do expected[row] = { length - space[row], documents[row] } end
    for b in data:batches { batch = 1, length = length, seed = 5, mode = "pack" } do got[#got + 1] = { b.tokens, #b.rows } end
    assert.are.same(expected, got)
    assert.is_true(math.max(table.unpack(sizes)) > length and math.min(table.unpack(sizes)) < length) -- some are split
  end)

  it("split a document only where it is longer than a row", function()
    local path = helper.write(helper.tmp() .. "/long.jsonl", ('{"a": "%s"}\n{"a": "xy"}\n'):format(("ab"):rep(50)))
    local data = assert(kava.data.tokens(path, assert(kava.tokenizer.train { texts = { "q" }, vocab_size = 257 }), { template = "{a}" }))
    assert.are.same({ 101, 3 }, { data:length(1), data:length(2) })
    local batches = all(data:batches { batch = 10, length = 40, mode = "pack" })
    assert.are.equal(1, #batches)
    assert.are.equal(104, batches[1].tokens)
    assert.are.equal(3, #batches[1].input_ids)
    assert.are.equal(2, #batches[1].rows)
    check(batches[1], 0, 40)
  end)

  it("refuse states of another sampler, and wrong options", function()
    local data = dataset(20)
    local state = data:batches({ batch = 4, seed = 1 }):state()
    for key, options in pairs {
      batch = { batch = 5, seed = 1 }, seed = { batch = 4, seed = 2 }, length = { batch = 4, seed = 1, length = 9 },
      mode = { batch = 4, seed = 1, mode = "pack" },
    } do
      assert.error_matches(function() data:batches(options):seek(state) end, "seek: the state is of " .. key)
    end
    assert.error_matches(function() dataset(21):batches({ batch = 4, seed = 1 }):seek(state) end, "seek: the state is of rows 20")
    assert.error_matches(function() data:batches { batch = 0 } end, "batch")
    assert.error_matches(function() data:batches { length = 0 } end, "length")
    assert.error_matches(function() data:batches { mode = "heap" } end, "'pad', 'bucket' or 'pack'")
    assert.error_matches(function() data:batches { start = -1 } end, "position")
    assert.error_matches(function() data:batches { bach = 3 } end, "did you mean 'batch'")
    local sampler = data:batches { batch = 3 }
    data:release()
    assert.is_table(sampler:next()) -- a sampler keeps its dataset
    sampler:release()
    assert.error_matches(function() sampler:next() end, "released")
    assert.error_matches(function() return data.rows end, "released")
  end)
end)

local kava = require "kava"
local helper = require "spec.helper"

local golden = "spec/golden/data/"

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  for key, value in pairs(a) do
    if not same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

local function objects(path, options)
  local list = {}
  for text, number in assert(kava.data.rows(path, options or { json = true, skip = 0 })) do
    list[#list + 1] = kava.json.decode(text)
    assert.are.equal(#list, number)
  end
  return list
end

local expected = objects(golden .. "rows.jsonl")

-- Every column that a row has is that of the row expected; returns how many there were.
local function check(number, row)
  local count = 0
  for key, value in pairs(row) do
    count = count + 1
    if not same(expected[number][key], value) then
      error(("row %d, %s: expected %s, got %s"):format(number, key, kava.json.encode(expected[number][key]), kava.json.encode(value)))
    end
  end
  return count
end

-- The columns that each file has.
local files = {
  ["rows.jsonl.gz"] = 16, ["rows.jsonl.zst"] = 16,
  ["one.arrow"] = 16, ["batches.arrow"] = 16, ["file.arrow"] = 16, ["zstd.arrow"] = 16,
  ["snappy.parquet"] = 15, ["plain.parquet"] = 15, ["v2.parquet"] = 15, ["gzip.parquet"] = 15, ["pages.parquet"] = 15,
  ["delta.parquet"] = 7,
}

describe("rows of columns", function()
  for name, columns in pairs(files) do
    it("are those that were written: " .. name, function()
      local list = objects(golden .. name)
      assert.are.equal(#expected, #list)
      for i, row in ipairs(list) do assert.are.equal(columns, check(i, row)) end
    end)

    it("are found by their number: " .. name, function()
      local rows = assert(kava.data.rows(golden .. name, { json = true }))
      for _, i in ipairs { 20, 1, 9, 8, 17, 2, 2 } do
        rows:seek(i)
        for at = i, math.min(i + 2, #expected) do
          local text, number = rows:next()
          assert.are.equal(at, number)
          check(at, kava.json.decode(text))
        end
      end
      assert.error_matches(function() rows:seek(21) end, "row 21 of 20")
      assert.error_matches(function() rows:seek(0) end, "from 1")
    end)
  end

  it("become text by the template that makes the same of JSON Lines", function()
    local template = "{question}|{n}|{x}|{y}|{flag}|{counts}|{inner.b}|{turns.1.content}|{turns}|{kind}|{{}}"
    local function all(name, options)
      local list = {}
      for text, number in assert(kava.data.rows(golden .. name, options)) do list[number] = text end
      return list
    end
    local want = all("rows.jsonl", { template = template, skip = 100 })
    assert.is_truthy(next(want))
    for name, columns in pairs(files) do
      if columns > 7 then assert.are.same(want, all(name, { template = template, skip = 100 })) end
    end
  end)

  it("break where a field is null, and are named", function()
    for name in pairs(files) do
      local rows = assert(kava.data.rows(golden .. name, { template = "{answer}", skip = 0 }))
      for _ = 1, 10 do rows:next() end
      assert.error_matches(function() rows:next() end, name:gsub("%p", "%%%0") .. ":[row ]*11: field 'answer': .*null")
    end
    for name, columns in pairs(files) do
      if columns > 7 then
        local tolerant = assert(kava.data.rows(golden .. name, { template = "{turns.1.role}" }))
        local count = 0
        for _ in tolerant do count = count + 1 end
        assert.are.equal(#expected - tolerant:broken(), count)
        assert.are.equal(7, tolerant:broken())
      end
    end
  end)

  it("step over columns that no text is made of, and refuse those", function()
    local odd = { ["odd.arrow"] = { "either", "price", "both", "runs" }, ["odd.parquet"] = { "price", "deep" } }
    for name, fields in pairs(odd) do
      local texts = {}
      for text in assert(kava.data.rows(golden .. name, { template = "{question}{n}" })) do texts[#texts + 1] = text end
      assert.are.same({ "a1", "b2", "c3" }, texts)
      for _, field in ipairs(fields) do
        for _, options in ipairs { { template = ("{%s}"):format(field) }, { json = true } } do
          local none, message, code = kava.data.rows(golden .. name, options)
          assert.is_nil(none)
          assert.are.equal("unsupported", code)
          assert.matches(name .. ": field '" .. (options.json and fields[1] or field) .. "'.* no text is made of", message)
        end
      end
    end
  end)

  it("read strings that are views", function()
    local views = assert(kava.data.rows(golden .. "odd.arrow", { template = "{view}" }))
    assert.are.same({ "short", 1 }, { views:next() })
    assert.are.same({ "a string of more than twelve bytes", 2 }, { views:next() })
    assert.is_nil(views:next())
    assert.are.equal(1, views:broken())
  end)

  it("show dates and times as ISO 8601 has them", function()
    local want = objects(golden .. "times.jsonl")
    assert.are.equal(4, #want)
    for _, name in ipairs { "times.arrow", "times.parquet" } do
      assert.are.same(want, objects(golden .. name))
      assert.are.equal("1970-01-01|1970-01-01T00:00:00", kava.data.rows(golden .. name, { template = "{day}|{local}" }):next())
    end
  end)

  it("show the schema, and show it where a field is missing", function()
    local fields = "question string, answer string, long "
    for _, name in ipairs { "one.arrow", "file.arrow", "v2.parquet" } do
      assert.are.equal(1, (assert(kava.data.rows(golden .. name)):fields():find(fields, 1, true)))
      for _, template in ipairs { "{frage}", "{question.x}", "{inner.c}", "{tags.x}", "{tags.0}", "{question} {answer}{}" } do
        if template:find "{}" then
          assert.has_error(function() kava.data.rows(golden .. name, { template = template }) end)
        else
          local none, message, code = kava.data.rows(golden .. name, { template = template })
          assert.is_nil(none)
          assert.are.equal("format", code)
          local want = ("%s: there is no field '%s'; fields: %s"):format(name, template:match "{(.-)}", fields)
          assert.is_truthy(message:find(want, 1, true), message)
        end
      end
    end
    assert.is_nil(assert(kava.data.rows(golden .. "rows.jsonl")):fields())
  end)
end)

describe("a folder of save_to_disk", function()
  it("is one split, its files in the order of state.json", function()
    local list = {}
    for text, number in assert(kava.data.rows(golden .. "hf/train")) do list[number] = text end
    assert.are.same({ "q5\n25", "q0\n0", "q3\n9", "q1\n1" }, list)
    local rows = assert(kava.data.rows(golden .. "hf/train/"))
    rows:seek(4)
    assert.are.same({ "q1\n1", 4 }, { rows:next() })
    rows:seek(2)
    assert.are.same({ "q0\n0", 2 }, { rows:next() })
    assert.are.equal("q2\n4", (assert(kava.data.rows(golden .. "hf/test/*.arrow")):next()))
    local none, message = kava.data.rows(golden .. "hf")
    assert.is_nil(none)
    assert.matches("splits train, test", message)
  end)

  it("names no file outside itself", function()
    local dir = helper.tmp()
    for _, name in ipairs { '"../x.arrow"', '"/etc/passwd"', '".."', '""', '1', '"a/b"' } do
      helper.write(dir .. "/state.json", ('{"_data_files": [{"filename": %s}]}'):format(name))
      local none, message, code = kava.data.rows(dir)
      assert.is_nil(none)
      assert.are.equal("format", code)
      assert.matches("state.json: _data_files: entry 1", message)
    end
    helper.write(dir .. "/state.json", '{"_data_files": [{"filename": "a"}], "_indices_data_files": [{"filename": "b"}]}')
    assert.matches("flatten_indices", select(2, kava.data.rows(dir)))
    helper.write(dir .. "/state.json", '{}')
    assert.matches("_data_files: a list", select(2, kava.data.rows(dir)))
    assert.matches("no state.json", select(2, kava.data.rows "spec"))
  end)
end)

describe("compressed JSON Lines", function()
  local lines = {}
  for i = 1, 3000 do lines[i] = ('{"question": "%s", "answer": %d}'):format(("row %d "):format(i):rep(i % 50), i) end
  local dir, plain
  setup(function()
    dir = helper.tmp()
    plain = helper.write(dir .. "/a.jsonl", table.concat(lines, "\n"))
    for _, command in ipairs { "gzip -k", "zstd -q -k" } do os.execute(("%s '%s'"):format(command, plain)) end
    -- two members, one after the other
    os.execute(("{ head -n 1000 '%s' | gzip; tail -n +1001 '%s' | gzip; } > '%s/two.gz'"):format(plain, plain, dir))
  end)

  for _, name in ipairs { "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "two.gz" } do
    it("are read and found: " .. name, function()
      local path = dir .. "/" .. name
      if not kava.fs.exists(path) then return pending "skipped: no program to compress with" end
      local rows, count = assert(kava.data.rows(path, { template = "{answer}" })), 0
      for text, number in rows do
        count = count + 1
        assert(text == tostring(count) and number == count)
      end
      assert.are.equal(3000, count)
      for _, i in ipairs { 2999, 1, 1500, 1501, 3000 } do
        rows:seek(i)
        assert.are.same({ tostring(i), i }, { rows:next() })
      end
      assert.error_matches(function() rows:seek(3001) end, "row 3001 of 3000")
      rows:seek(7)
      assert.are.equal("7", (rows:next()))
    end)
  end

  it("are an error where they are cut off or damaged", function()
    for _, name in ipairs { "a.jsonl.gz", "a.jsonl.zst" } do
      local path = dir .. "/" .. name
      if kava.fs.exists(path) then
        local bytes = helper.read(path)
        for _, damaged in ipairs { bytes:sub(1, -3), bytes:sub(1, #bytes // 2), bytes:sub(1, 200) .. "????" .. bytes:sub(205) } do
          local bad = helper.write(dir .. "/bad", damaged)
          local rows = assert(kava.data.rows(bad))
          assert.error_matches(function() for _ in rows do end end, "bad: near byte %d+: ")
        end
      end
    end
  end)
end)

describe("a JSON array of rows", function()
  local function write(text) return helper.write(helper.tmp() .. "/rows.json", text) end

  it("gives its items, however they are laid out", function()
    for _, text in ipairs {
      '[{"question":"a","answer":1},{"question":"b ]}\\"{,","answer":[2,{"x":"\\\\"}]}]',
      '\u{feff}\n [\n  {\n    "question": "a",\n    "answer": 1\n  }\n ,\n {"question": "b ]}\\"{,", "answer": [2, {"x": "\\\\"}]}\n]\n\n',
    } do
      local rows = assert(kava.data.rows(write(text)))
      assert.are.same({ "a\n1", 1 }, { rows:next() })
      assert.are.same({ 'b ]}"{,\n[2,{"x":"\\\\"}]', 2 }, { rows:next() })
      assert.is_nil(rows:next())
      rows:seek(2)
      assert.are.equal(2, select(2, rows:next()))
      rows:seek(1)
      assert.are.equal(1, select(2, rows:next()))
      assert.error_matches(function() rows:seek(3) end, "row 3 of 2")
    end
    assert.is_nil(assert(kava.data.rows(write "[ ]")):next())
  end)

  it("of more than a block is read and found like lines", function()
    local list = {}
    for i = 1, 12000 do list[i] = ('{"question": "%s",\n "answer": %d}'):format(("x"):rep(i % 1500), i) end
    local path = write("[" .. table.concat(list, ",\n") .. "]")
    local rows, count = assert(kava.data.rows(path, { template = "{answer}" })), 0
    for text, number in rows do
      count = count + 1
      assert(text == tostring(count) and number == count)
    end
    assert.are.equal(12000, count)
    for _, i in ipairs { 1, 11999, 6000, 6001, 12000 } do
      rows:seek(i)
      assert.are.same({ tostring(i), i }, { rows:next() })
    end
  end)

  it("has broken items, and is broken where it does not go on", function()
    local rows = assert(kava.data.rows(write '[1, "a", {"question": null}, {"question": "q", "answer": "r"}, {"a" 1}, [ ] ]'))
    assert.are.same({ "q\nr", 4 }, { rows:next() })
    assert.is_nil(rows:next())
    assert.are.equal(5, rows:broken())
    assert.error_matches(function() assert(kava.data.rows(write "[1]", { skip = 0 })):next() end, "rows.json: row 1: an object")
    local good = '{"question": "q", "answer": "r"}'
    for text, pattern in pairs {
      ["[" .. good] = "behind row 1 '%]' expected", ["[" .. good .. ",]"] = "behind row 1 a row",
      ["[," .. good .. "]"] = "behind row 0 a row",
      ["[" .. good .. good .. "]"] = "behind row 1 ',' or '%]'", ["[" .. good .. ", {"] = "behind row 1 the end of a row",
      ["[" .. good .. "] x"] = "behind row 1 nothing more", ["[" .. good .. ", \""] = "behind row 1 the end", ["["] = "behind row 0 '%]'",
      ["[" .. good .. ", }"] = "behind row 1 a row",
    } do
      local bad = assert(kava.data.rows(write(text)))
      assert.error_matches(function() for _ in bad do end end, "rows.json: a JSON array: " .. pattern)
    end
  end)
end)

describe("files that change while they are read", function()
  it("end the reading with an error", function()
    local dir = helper.tmp()
    local row = '{"question": "' .. ("x"):rep(1000) .. '", "answer": 1}\n'
    local path = helper.write(dir .. "/shrinks.jsonl", row:rep(20000))
    local rows = assert(kava.data.rows(path))
    rows:next()
    helper.write(path, row:rep(10))
    assert.error_matches(function() for _ in rows do end end, "shrinks.jsonl: has .*while it was read")

    local bytes = helper.read(golden .. "batches.arrow")
    path = helper.write(dir .. "/table.arrow", bytes)
    rows = assert(kava.data.rows(path, { json = true }))
    rows:next()
    helper.write(path, bytes:sub(1, 4000))
    assert.error_matches(function() for _ in rows do end end, "table.arrow: has .*while it was read")

    path = helper.write(dir .. "/grows.jsonl", row)
    rows = assert(kava.data.rows(path))
    rows:next()
    helper.write(path, row .. row)
    assert.error_matches(function() rows:next() end, "grows.jsonl: has changed")
  end)
end)

describe("damaged files", function()
  -- Opens and reads all; true, or the message. Anything else but an error that names the file is a failure of this spec.
  local function drain(path)
    local rows, message, code = kava.data.rows(path, { json = true, skip = 1000 })
    if not rows then
      assert(message:find(path, 1, true) and (code == "format" or code == "unsupported"), message)
      return message
    end
    local ok, reason = pcall(function() for _ in rows do end end)
    rows:release()
    assert(ok or reason:find(path, 1, true), reason)
    return ok or reason
  end

  for _, name in ipairs { "batches.arrow", "file.arrow", "zstd.arrow", "snappy.parquet", "plain.parquet", "v2.parquet", "gzip.parquet",
    "pages.parquet", "delta.parquet", "rows.jsonl.gz", "rows.jsonl.zst" } do
    it("are errors that name them, or other rows: " .. name, function()
      local bytes = helper.read(golden .. name)
      local dir, count = helper.tmp(), 0
      local function write(text) -- a fresh file each: writing over one makes some file systems wait for the disk
        count = count + 1
        return helper.write(("%s/damaged%d"):format(dir, count), text)
      end
      local random = 12345
      local function next_random(n)
        random = random * 1103515245 + 12345 & 0x7fffffff
        return random // 65536 % n + 1
      end
      local failed = 0
      for _ = 1, 80 do
        local at = next_random(#bytes)
        local byte = string.char(bytes:byte(at) ~ (1 << next_random(8) - 1))
        if drain(write(bytes:sub(1, at - 1) .. byte .. bytes:sub(at + 1))) ~= true then failed = failed + 1 end
      end
      assert.is_true(failed > 0) -- most flips in a table's values only make other values
      for _ = 1, 20 do
        local cut = next_random(#bytes - 1)
        local result = drain(write(bytes:sub(1, cut)))
        if not name:find "arrow" then assert.are_not.equal(true, result) end -- a stream may end between two messages
      end
    end)
  end

  it("do not make memory grow with what they claim", function()
    -- a page header that says it holds 2 GiB, a list's offsets, a batch's rows: found by trying each byte of a small file
    local bytes = helper.read(golden .. "hf/test/data-00000-of-00001.arrow")
    local dir = helper.tmp()
    collectgarbage()
    kava.memory_reset_peak()
    local before = kava.memory().cpu.current
    for at = 1, #bytes, 3 do drain(helper.write(("%s/claims%d"):format(dir, at), bytes:sub(1, at - 1) .. "\x7f" .. bytes:sub(at + 1))) end
    assert.is_true(kava.memory().cpu.peak - before < 1 << 20, kava.memory().cpu.peak - before)
  end)
end)

describe("memory", function()
  it("does not grow with the file", function()
    local path = helper.tmp() .. "/large.jsonl"
    helper.write(path, ('{"question": "' .. ("x"):rep(1000) .. '", "answer": 1}\n'):rep(40000))
    collectgarbage()
    kava.memory_reset_peak()
    local before = kava.memory().cpu.current
    local count = 0
    for _ in assert(kava.data.rows(path)) do count = count + 1 end
    assert.are.equal(40000, count)
    assert.is_true(kava.memory().cpu.peak - before < 6 << 20, kava.memory().cpu.peak - before)
  end)

  it("that runs out is an error, and nothing is lost", function()
    for _, name in ipairs { "batches.arrow", "zstd.arrow", "gzip.parquet", "delta.parquet", "rows.jsonl.gz" } do
      for n = 0, 60, 2 do
        collectgarbage()
        local live, blocks = kava.live(), kava.memory().cpu.blocks
        kava.memory_fail_after(n)
        local ok, reason = pcall(function()
          local rows <close> = assert(kava.data.rows(golden .. name, { json = true }))
          for _ in rows do end
        end)
        kava.memory_fail_after(-1)
        if not ok then assert.matches("memory", reason) end
        collectgarbage()
        assert.are.equal(live, kava.live())
        assert.are.equal(blocks, kava.memory().cpu.blocks)
      end
    end
  end)
end)

local helper = require "spec.helper"
local kava = require "kava"
local gguf = kava.gguf

-- Files put together by hand, so that what the writer would never write can be written.
local function str(text) return string.pack("<s8", text) end
local ids = { u8 = 0, i8 = 1, u16 = 2, i16 = 3, u32 = 4, i32 = 5, f32 = 6, bool = 7, string = 8, array = 9, u64 = 10, i64 = 11, f64 = 12 }
local function kv(key, kind, bytes) return str(key) .. string.pack("<I4", ids[kind] or kind) .. bytes end
local function info(name, dims, kind, offset)
  local parts = { str(name), string.pack("<I4", #dims) }
  for _, d in ipairs(dims) do parts[#parts + 1] = string.pack("<i8", d) end
  return table.concat(parts) .. string.pack("<I4I8", kind, offset)
end
local function build(values, infos, data, options)
  options = options or {}
  local head = "GGUF" .. string.pack("<I4I8I8", options.version or 3, options.tensors or #infos, options.values or #values)
  head = head .. table.concat(values) .. table.concat(infos)
  return head .. ("\0"):rep(-#head % (options.alignment or 32)) .. (data or "")
end

local dir
-- A file that takes another's place: some file systems wait for the disk when one is cut to nothing and written again.
local function rewrite(path, text)
  os.remove(path)
  return helper.write(path, text)
end

local function reject(expected, bytes, expected_code)
  local path = helper.write(dir .. "/x.gguf", bytes)
  local file, message, code = gguf.open(path)
  assert.is_nil(file, expected)
  assert.equal(expected_code or "format", code)
  assert.truthy(message:find(path, 1, true) and message:find(expected, 1, true), message)
end

describe("kava.gguf", function()
  setup(function() dir = helper.tmp() end)

  it("is no file of very many small things", function()
    local path = dir .. "/many.gguf"
    local function taken(values, infos, data)
      local bytes = build(values, infos, data)
      rewrite(path, bytes)
      collectgarbage()
      collectgarbage "stop"
      kava.memory_reset_peak()
      local ours, lua = kava.memory().cpu.current, collectgarbage "count"
      local tensors, message = gguf.load(path)
      local took = kava.memory().cpu.peak - ours + (collectgarbage "count" - lua) * 1024
      collectgarbage "restart"
      assert.is_true(took < 2 * #bytes + (64 << 20), ("%d bytes for %d"):format(took, #bytes))
      return tensors, message
    end
    local function many(count, make)
      local list = {}
      for i = 1, count do list[i] = make(i) end
      return list
    end
    local function value(i) return kv(("%x"):format(i), "bool", "\1") end
    local function tensor(i) return info(("%x"):format(i), { 0 }, 24, 0) end
    local _, metadata = taken(many(80000, value), {})
    assert.is_true(metadata["13880"])
    assert.is_table(taken({}, many(18000, tensor)))
    _, metadata = taken({ kv("a", "array", string.pack("<I4I8", ids.u8, 500000) .. ("\7"):rep(500000)) }, {})
    assert.equal(500000, #metadata.a)
    reject("0 tensors and 120000 metadata values: more than a file of", build(many(120000, value), {}))
    reject("25000 tensors and 0 metadata values: more than a file of", build({}, many(25000, tensor)))
    local function bytes(key) return kv(key, "array", string.pack("<I4I8", ids.u8, 3000000) .. ("\7"):rep(3000000)) end
    reject("b: more elements of arrays than a file of", build({ bytes "a", bytes "b" }, {}))
  end)

  it("reads every type of value", function()
    local path = helper.write(dir .. "/values.gguf", build({
      kv("u8", "u8", "\255"), kv("i8", "i8", "\255"), kv("u16", "u16", "\255\255"), kv("i16", "i16", "\255\255"),
      kv("u32", "u32", ("\255"):rep(4)), kv("i32", "i32", ("\255"):rep(4)), kv("u64", "u64", ("\255"):rep(8)),
        kv("i64", "i64", ("\255"):rep(8)),
      kv("f32", "f32", string.pack("<f", 0.5)), kv("f64", "f64", string.pack("<d", 0.1)), kv("yes", "bool", "\1"), kv("no", "bool", "\0"),
      kv("text", "string", str "é\0"), kv("none", "string", str ""),
      kv("words", "array", string.pack("<I4I8", 8, 3) .. str "a" .. str "" .. str "b"),
      kv("numbers", "array", string.pack("<I4I8i2i2", 3, 2, -5, 7)), kv("flags", "array", string.pack("<I4I8", 7, 2) .. "\1\0"),
      kv("empty", "array", string.pack("<I4I8", 8, 0)),
    }, {}))
    local file = assert(gguf.open(path))
    assert.same({ u8 = 255, i8 = -1, u16 = 65535, i16 = -1, u32 = 4294967295, i32 = -1, u64 = 0x1p64, i64 = -1,
      f32 = 0.5, f64 = 0.1, yes = true,
      no = false, text = "é\0", none = "", words = { "a", "", "b" }, numbers = { -5, 7 }, flags = { true, false },
        empty = {} }, file:metadata())
    assert.equal(65535, file:metadata "u16")
    assert.is_nil(file:metadata "absent")
    assert.same({ key = "numbers", type = "array", element = "i16", value = { -5, 7 } }, file:fields()[16])
    assert.same({}, file:names())
    file:release()
    assert.has_error(function() file:names() end, nil)
  end)

  it("reads version 2, other alignments, and shapes outermost first", function()
    local path = helper.write(dir .. "/two.gguf", build({ kv("general.alignment", "u32", string.pack("<I4", 8)) },
      { info("m", { 3, 2 }, 0, 0), info("v", { 1 }, 1, 24) }, string.pack("<ffffffI2", 1, 2, 3, 4, 5, 6, 0x3c00),
        { version = 2, alignment = 8 }))
    local tensors = assert(gguf.load(path))
    assert.same({ { 1, 2, 3 }, { 4, 5, 6 } }, tensors.m:totable())
    assert.equal("f32", tensors.v.dtype)
    assert.equal(1, tensors.v:item())
    assert.equal("f16", gguf.load(path, { dequantize = false }).v.dtype)
    local file = gguf.open(path)
    assert.same({ "m", "v" }, file:names())
    assert.equal("f16", file:tensor("v").dtype)
    assert.equal("f32", file:tensor("v", { dequantize = true }).dtype)
    local none, message, code = file:tensor "w"
    assert.is_nil(none)
    assert.equal("format", code)
    assert.truthy(message:find("no tensor 'w'", 1, true))
  end)

  it("holds files to the rules", function()
    local u32, data = string.pack("<I4", 1), ("\0"):rep(64)
    reject("does not begin with GGUF", "")
    reject("does not begin with GGUF", "GGML" .. ("\0"):rep(64))
    reject("version 1", build({}, {}, "", { version = 1 }), "unsupported")
    reject("version 4", build({}, {}, "", { version = 4 }))
    reject("big-endian", build({}, {}, "", { version = 0x03000000 }), "unsupported")
    reject("do not fit", build({}, {}, "", { tensors = 1 << 40 }))
    reject("do not fit", build({}, {}, "", { values = -1 }))
    reject("do not fit", build({}, {}, "", { tensors = math.mininteger, values = math.mininteger }))
    reject("the name 'a' comes twice", build({ kv("a", "u32", u32), kv("a", "u32", u32) }, {}))
    reject("a: unknown type 13", build({ kv("a", 13, u32) }, {}))
    reject("a: an array of arrays", build({ kv("a", "array", string.pack("<I4I8", 9, 1) .. data) }, {}))
    reject("do not fit the", build({ kv("a", "array", string.pack("<I4I8", 4, 1 << 29) .. data) }, {}))
    reject("do not fit the", build({ kv("a", "array", string.pack("<I4I8", 4, -1) .. data) }, {}))
    reject("a: a boolean of value 2", build({ kv("a", "bool", "\2") }, {}))
    reject("bytes, where", build({ kv("a", "string", string.pack("<I8", 1 << 62) .. data) }, {}))
    reject("a metadata key of 0 bytes", build({ kv("", "u32", u32) }, {}))
    reject("a metadata key of 3 bytes", build({ kv("a\0b", "u32", u32) }, {}))
    for _, bad in ipairs { kv("general.alignment", "u32", string.pack("<I4", 24)), kv("general.alignment", "u32", string.pack("<I4", 0)),
      kv("general.alignment", "i32", string.pack("<I4", 32)), kv("general.alignment", "u64", string.pack("<I8", 32)) } do
      reject("general.alignment must be a power of two", build({ bad }, {}))
    end
    reject("the name 't' comes twice", build({}, { info("t", { 1 }, 0, 0), info("t", { 1 }, 0, 32) }, data))
    reject("a tensor's name of 64 bytes", build({}, { info(("n"):rep(64), { 1 }, 0, 0) }, data))
    reject("5 dimensions", build({}, { info("t", { 1, 1, 1, 1, 1 }, 0, 0) }, data))
    reject("a negative dimension", build({}, { info("t", { -1 }, 0, 0) }, data))
    reject("overflows", build({}, { info("t", { 1 << 40, 1 << 40 }, 0, 0) }, data))
    reject("overflows", build({}, { info("t", { math.maxinteger - 31, 2 }, 2, 0) }, data))
    reject("unknown type 4", build({}, { info("t", { 32 }, 4, 0) }, data))
    reject("are not whole blocks of Q4_0", build({}, { info("t", { 33 }, 2, 0) }, data))
    reject("are not whole blocks of Q6_K", build({}, { info("t", { 128 }, 14, 0) }, data))
    reject("offset 64 where the one before ends at 32", build({}, { info("t", { 1 }, 0, 0), info("u", { 1 }, 0, 64) }, data .. data))
    reject("offset 0 where the one before ends at 32", build({}, { info("t", { 1 }, 0, 0), info("u", { 1 }, 0, 0) }, data))
    reject("offset 32 where the one before ends at 0", build({}, { info("t", { 1 }, 0, 32) }, data))
    reject("do not lie within the 64 bytes", build({}, { info("t", { 17 }, 0, 0) }, data))
    reject("do not lie within the 0 bytes", build({}, { info("t", { 1 }, 0, 0) }, ""))
    local _, message, code = gguf.open(dir .. "/none.gguf")
    assert.equal("io", code)
    assert.truthy(message:find("none.gguf", 1, true))
  end)

  it("leaves out types it lacks, and names them when they are asked for", function()
    local path = helper.write(dir .. "/iq1.gguf", build({}, { info("t", { 256 }, 19, 0), info("u", { 1 }, 0, 64) }, ("\0"):rep(96)))
    local tensors = assert(gguf.load(path))
    assert.equal(0, tensors.u:item())
    local ok, message = pcall(function() return tensors.t end)
    assert.is_false(ok)
    assert.truthy(message:find("tensor 't': its type IQ1_S is not supported", 1, true))
    local t, why, code = gguf.open(path):tensor "t"
    assert.is_nil(t)
    assert.equal("unsupported", code)
    assert.truthy(why:find("tensor 't': type IQ1_S", 1, true))
  end)

  it("writes what it reads: types inferred, or given", function()
    local path = dir .. "/saved.gguf"
    local tensors = { b = kava.arange(6):reshape(2, 3), a = kava.tensor({ 1, 2 }, { dtype = "bf16" }),
      q = gguf.quantize(kava.randn { 2, 64 }, "q4_1") }
    assert(gguf.save(path, tensors, {
      ["general.architecture"] = "llama", n = 7, neg = -7, big = 1 << 40, x = 0.5, yes = true, words = { "a", "b" },
        ints = { 1, -2 }, mixed = { 1, 0.5 },
      u8 = { type = "u8", value = 200 }, f64s = { type = "array", element = "f64", value = { 0.1 } },
        none = { type = "array", element = "string", value = {} },
    }))
    local file = assert(gguf.open(path))
    local fields = {}
    for _, field in ipairs(file:fields()) do fields[field.key] = { field.element or field.type, field.value } end
    assert.same({ ["general.architecture"] = { "string", "llama" }, n = { "u32", 7 }, neg = { "i32", -7 },
      big = { "i64", 1 << 40 }, x = { "f32", 0.5 },
      yes = { "bool", true }, words = { "string", { "a", "b" } }, ints = { "i32", { 1, -2 } }, mixed = { "f32", { 1.0,
        0.5 } }, u8 = { "u8", 200 },
      f64s = { "f64", { 0.1 } }, none = { "string", {} } }, fields)
    assert.same({ "a", "b", "q" }, file:names())
    assert.equal("q4_1", file:tensor("q").dtype)
    for name, t in pairs(gguf.load(path)) do assert.is_true(kava.allclose(t, tensors[name]:to { dtype = "f32" },
      { rtol = 0, atol = 0 })) end
    local list = {}
    for i, name in ipairs(file:names()) do list[i] = { name = name, tensor = file:tensor(name) } end
    assert(gguf.save(dir .. "/again.gguf", list, file:fields()))
    assert.equal(helper.read(path), helper.read(dir .. "/again.gguf"))
  end)

  it("refuses what GGUF has not", function()
    local path, one = dir .. "/refused.gguf", kava.ones { 1 }
    for what, arguments in pairs {
      bool = { { a = kava.tensor({ true }, { dtype = "bool" }) } }, scalar = { { a = one:reshape {} } },
        rank = { { a = one:reshape { 1, 1, 1, 1, 1 } } },
      name = { { [("n"):rep(64)] = one } }, twice = { { { name = "a", tensor = one }, { name = "a",
        tensor = one } } }, tensor = { { a = 1 } },
      unnamed = { { { tensor = one } } }, value = { {}, { a = print } }, range = { {}, { a = { type = "u8", value = 256 } } },
      type = { {}, { a = { type = "u7", value = 1 } } }, mixed = { {}, { a = { 1, "x" } } }, alignment = { {},
        { ["general.alignment"] = 3 } },
      untyped = { {}, { { key = "a", value = 1 } } }, kind = { {}, { a = { type = "string", value = 1 } } },
    } do
      assert.has_error(function() gguf.save(path, table.unpack(arguments)) end, nil, what)
      assert.is_false(kava.fs.exists(path), what)
    end
  end)

  it("is unharmed by files cut off or changed anywhere", function()
    local path = dir .. "/whole.gguf"
    assert(gguf.save(path, { a = kava.arange(6):reshape(2, 3), q = gguf.quantize(kava.ones { 32 }, "q8_0") },
      { ["general.alignment"] = 32, words = { "one", "two" }, flag = true, numbers = { 1, 2 } }))
    local whole = helper.read(path)
    local last = #whole - #whole % 32 - 32 + 34 % 32 -- the writer pads behind the last tensor; a file without that padding is whole
    for cut = 0, #whole - 1 do
      rewrite(path, whole:sub(1, cut))
      local tensors, message, code = gguf.load(path)
      if tensors then assert.truthy(cut >= last, cut)
      else assert.truthy(code == "format" and message:find(path, 1, true)) end
    end
    math.randomseed(9)
    local accepted = 0
    for _ = 1, 2000 do
      local at = math.random(#whole - 128)
      rewrite(path, whole:sub(1, at - 1) .. string.char(math.random(0, 255)) .. whole:sub(at + 1))
      local tensors, message, code = gguf.load(path)
      if tensors then
        accepted = accepted + 1
        for _, t in pairs(tensors) do t:totable() end
      else
        assert.truthy((code == "format" or code == "unsupported") and message:find(path, 1, true), message)
      end
    end
    assert.truthy(accepted > 50 and accepted < 1750, accepted)
  end)

  it("fails cleanly when memory does", function()
    local path, failures = dir .. "/memory.gguf", 0
    local tensors = { a = kava.ones { 3 }, q = gguf.quantize(kava.ones { 32 }, "q8_0") }
    assert(gguf.save(path, tensors, { a = 1 }))
    for _, action in ipairs { function() return gguf.load(path) end, function() return gguf.save(path, tensors, { a = 1 }) end } do
      for n = 0, 100 do
        collectgarbage()
        local live = kava.live()
        kava.memory_fail_after(n)
        local result, _, code = action()
        kava.memory_fail_after(-1)
        if result then break end
        failures = failures + 1
        assert.equal("memory", code)
        collectgarbage()
        assert.equal(live, kava.live())
      end
    end
    assert.truthy(failures > 8 and failures < 100, failures)
  end)

  it("widens every type bit for bit as gguf-py does, on every instruction set", function()
    local path, want = helper.shared "golden/gguf/types.gguf", helper.shared "golden/gguf/types.safetensors"
    if not path then return pending "skipped: ../shared is not here" end
    local script = helper.write(dir .. "/types.lua", ([[
      local kava = require "kava"
      local count = 0
      local got, want = assert(kava.gguf.load(%q)), assert(kava.safetensors.load(%q))
      for name, w in pairs(want) do
        local ok, most = kava.allclose(got[name], w, { rtol = 0, atol = 0 })
        assert(ok and got[name].dtype == "f32", name .. " differs by " .. most)
        count = count + 1
      end
      print(kava.isa(), count)
    ]]):format(path, want))
    for _, isa in ipairs { "reference", "avx2", "avx512", "avx512bf16" } do
      local text, status = helper.run(("KAVA_ISA=%s %s %s"):format(isa, helper.program(), script))
      assert.equal(0, status, text)
      assert.truthy(text:find "\t15\n", text)
    end
  end)

  it("opens a real model without touching its tensors", function()
    local path = "local_models/SmolLM2-135M-Instruct.Q4_1.gguf"
    if not kava.fs.exists(path) then return pending("skipped: " .. path .. " is not here (scripts/get_model)") end
    local start = kava.clock()
    local file = assert(gguf.open(path))
    local took = kava.clock() - start
    if not helper.sanitized then assert.truthy(took < 0.1, took) end
    assert.equal("llama", file:metadata "general.architecture")
    assert.equal(49152, #file:metadata "tokenizer.ggml.tokens")
    assert.same({ 49152, 576 }, file:tensor("token_embd.weight").shape)
    local list = {}
    for i, name in ipairs(file:names()) do list[i] = { name = name, tensor = file:tensor(name) } end
    local copy = dir .. "/copy.gguf"
    assert(gguf.save(copy, list, file:fields()))
    assert.equal("", (helper.run(("cmp %s %s"):format(path, copy))))
    assert(kava.fs.remove(copy))
  end)
end)

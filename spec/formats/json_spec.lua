local helper = require "spec.helper"
local kava = require "kava"
local json = kava.json

local function reject(text, expected)
  local value, message, code = json.decode(text)
  assert.is_nil(value, text)
  assert.equal("format", code)
  assert.truthy(message:find(expected, 1, true), ("%q: %s"):format(text, message))
end

describe("kava.json reads", function()
  it("every kind of value", function()
    assert.equal(json.null, json.decode "null")
    assert.is_true(json.decode " true\n")
    assert.is_false(json.decode "\tfalse\r\n")
    assert.equal("", json.decode '""')
    assert.same({}, json.decode "[]")
    assert.same({ a = { 1, { b = "c" }, {} }, d = json.null }, json.decode '{"a": [1, {"b": "c"}, {}], "d": null}')
  end)

  it("integers exactly, and what does not fit as a float", function()
    for text, value in pairs {
      ["0"] = 0, ["-0"] = 0, ["9007199254740993"] = 9007199254740993, ["9223372036854775807"] = math.maxinteger,
      ["-9223372036854775808"] = math.mininteger,
    } do
      assert.equal(value, json.decode(text))
      assert.equal("integer", math.type(json.decode(text)))
    end
    for text, value in pairs {
      ["9223372036854775808"] = 0x1p63, ["-9223372036854775809"] = -0x1p63, ["1000000000000000019884624838656"] = 1e30,
      ["1.0"] = 1.0, ["1e2"] = 100.0, ["1E+2"] = 100.0, ["25e-1"] = 2.5, ["-0.0"] = -0.0, ["0.1"] = 0.1, ["4.35"] = 4.35,
      ["2.2250738585072011e-308"] = 2.2250738585072011e-308, ["5e-324"] = 5e-324, ["1e-400"] = 0.0,
        ["1.7976931348623157e308"] = 1.7976931348623157e308,
      ["123456789012345678901234567890e-20"] = 1234567890.1234567, ["0.000000000000000000000000000001"] = 1e-30,
    } do
      assert.equal(value, json.decode(text), text)
      assert.equal("float", math.type(json.decode(text)))
    end
    assert.equal(-math.huge, 1 / json.decode "-0.0")
  end)

  it("as many digits as there are", function()
    assert.equal(1.0, json.decode("1." .. ("0"):rep(500)))
    assert.equal(1 / 3, json.decode("0." .. ("3"):rep(300)))
    assert.equal(1.0, json.decode(("0."):rep(1) .. ("0"):rep(300) .. "1e301"))
  end)

  it("the same numbers as Lua, whatever they are", function()
    math.randomseed(7)
    for _ = 1, 5000 do
      local x = string.unpack("<d", string.pack("<i8", math.random(0)))
      if x == x and math.abs(x) ~= math.huge then
        for _, digits in ipairs { "%.17g", "%.6g" } do
          local text = digits:format(x)
          assert.equal(tonumber(text) + 0.0, json.decode(text) + 0.0, text)
        end
      end
    end
  end)

  it("escapes, surrogate pairs and every length of UTF-8", function()
    assert.equal('"\\/\b\f\n\r\t', json.decode [["\"\\\/\b\f\n\r\t"]])
    assert.equal("\0é€😀", json.decode [["\u0000\u00e9\u20AC\uD83D\ude00"]])
    assert.equal("aé€😀\u{10ffff}\u{7f}", json.decode('"aé€😀\u{10ffff}\u{7f}"'))
    for length = 0, 40 do -- around the words that strings are copied in
      local text = ("x"):rep(length)
      assert.equal(text .. "\nÿ" .. text, json.decode('"' .. text .. "\\nÿ" .. text .. '"'))
    end
  end)

  it("large objects by name, in any order", function()
    local parts, want = {}, {}
    for i = 1, 5000 do
      parts[i] = ('"key %d": %d'):format(i, i)
      want["key " .. i] = i
    end
    assert.same(want, json.decode("{" .. table.concat(parts, ",") .. "}"))
    parts[#parts + 1] = '"key 2500": 0'
    reject("{" .. table.concat(parts, ",") .. "}", "the key 'key 2500' twice")
  end)

  it("nothing else", function()
    reject("", "byte 0: a value expected, but the text ends")
    reject("  ", "byte 2")
    reject("\239\187\191{}", "byte 0: a value expected, got byte 0xef")
    reject("{} {}", "byte 3: the end of the text expected, got '{'")
    reject("[1,]", "byte 3: a value expected, got ']'")
    reject("[1 2]", "byte 3: ',' or ']' expected")
    reject("[", "ends")
    reject('{"a" 1}', "':' expected")
    reject('{"a":1,}', "a key expected")
    reject("{a:1}", "a key expected, got 'a'")
    reject('{"a":1 "b":2}', "',' or '}' expected")
    reject('{"a":1,"b":2,"a":3}', "the key 'a' twice")
    reject("01", "leading zero")
    reject("-", "a digit expected")
    reject("1.", "after the point")
    reject(".5", "a value expected")
    reject("1e", "of the exponent")
    reject("+1", "a value expected")
    reject("1e999", "too large")
    reject("NaN", "a value expected")
    reject("Infinity", "a value expected")
    reject("nul", "a value expected")
    reject("truex", "the end of the text")
    reject("'a'", "a value expected")
    reject('"a', "does not end")
    reject('"a\n"', "control character 0x0a")
    reject('"\\x"', "unknown escape")
    reject('"\\u12g4"', "four hexadecimal digits")
    reject('"\\ud800"', "a high surrogate without")
    reject('"\\ud800\\u0041"', "a high surrogate without")
    reject('"\\udc00"', "a lone low surrogate")
    reject("// comment\n1", "a value expected")
  end)

  it("no text that is not UTF-8", function()
    for _, bytes in ipairs { "\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
      "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
      "\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xff" } do
      reject('"' .. bytes .. '"', "byte 1: not UTF-8")
    end
  end)

  it("200 levels and no more", function()
    assert.is_table(json.decode(("["):rep(200) .. ("]"):rep(200)))
    reject(("["):rep(201) .. ("]"):rep(201), "nested deeper than 200")
    reject(("["):rep(1000000), "nested deeper than 200")
  end)

  it("files, naming them in its failures", function()
    local path = helper.write(helper.tmp() .. "/a.json", '{"a": 1,}')
    local value, message = json.load(path)
    assert.is_nil(value)
    assert.equal(path .. ": byte 8: a key expected, got '}'", message)
    local _, missing, code = json.load(path .. "x")
    assert.equal("io", code)
    assert.truthy(missing:find(path .. "x", 1, true))
  end)

  it("damaged texts without harm", function()
    local text = [[{"a": [1, -2.5e3, "x\u00e9\ud83d\ude00", {"b": null, "c": [true, false]}], "é": "😀\n"}]]
    for cut = 0, #text - 1 do assert.is_nil(json.decode(text:sub(1, cut))) end
    math.randomseed(11)
    local accepted = 0
    for _ = 1, 5000 do
      local at = math.random(#text)
      local value, message, code = json.decode(text:sub(1, at - 1) .. string.char(math.random(0, 255)) .. text:sub(at + 1))
      if value then accepted = accepted + 1
      else assert.truthy(code == "format" and message:find "^byte %d+: ") end
    end
    assert.truthy(accepted > 100 and accepted < 4000)
  end)

  it("no more values than twice the text and 64 MiB hold, unless asked to; and nothing beside them", function()
    local path, text = helper.tmp() .. "/zeros.json", "[" .. ("0,"):rep(6000000) .. "0]" -- 16 bytes each
    local limit = 2 * #text + (64 << 20)
    helper.write(path, text)
    local _, message, code = json.load(path)
    assert.equal("format", code)
    assert.equal(("%s: byte %d: more values than fit %d bytes of memory (the option `memory` allows more)"):format(path,
      1 + 2 * ((limit - 64) // 16), limit), message)
    text = text:sub(-1200001):gsub("^,", "[")
    kava.memory_reset_peak()
    collectgarbage()
    local before, lua = kava.memory().cpu.current, collectgarbage "count"
    assert.equal(600000, #assert(json.decode(text, { memory = 1 << 30 })))
    assert.truthy(collectgarbage "count" - lua < 600000 * 16 / 1024 + 100)
    assert.truthy(kava.memory().cpu.peak - before < 1000)
    -- each kind of value is reckoned as what it takes; equal keys once
    for part, each in pairs { ["[],"] = 80, ["{},"] = 80, ['{"a":1},'] = 120, ['"' .. ("x"):rep(41) .. '",'] = 96 } do
      local many = "[" .. part:rep(1000) .. "0]"
      assert.is_nil(json.decode(many, { memory = 1000 * each }))
      collectgarbage()
      collectgarbage "stop"
      lua = collectgarbage "count"
      local kept = assert(json.decode(many, { memory = 1001 * each + 200 }))
      lua = (collectgarbage "count" - lua) * 1024
      collectgarbage "restart"
      assert.equal(1001, #kept)
      assert.truthy(lua < 1001 * each + 5000, ("%s: %d bytes"):format(part, lua))
    end
    assert.has_error(function() json.decode("1", { memory = "1" }) end)
  end)

  it("until memory fails, and leaks nothing then", function()
    local text = "[" .. ("{},"):rep(200) .. '"' .. ("x"):rep(300) .. '","' .. ("y"):rep(1000) .. '"]' .. (" "):rep(1 << 20)
    local failures = 0
    for n = 0, 100 do
      kava.memory_fail_after(n)
      local value, message, code = json.decode(text)
      kava.memory_fail_after(-1)
      if value then break end
      failures = failures + 1
      assert.equal("memory", code)
      assert.truthy(message:find "out of memory")
    end
    assert.equal(6, failures) -- counts that grow twice, what is read into, strings that grow
  end)
end)

describe("kava.json writes", function()
  it("what it reads, with sorted keys", function()
    assert.equal('{"a":[1,2.5,{}],"b":[],"c":null,"d":"é\\n\\"\\\\\\u0001","e":true}',
      json.encode { e = true, c = json.null, b = json.array {}, a = { 1, 2.5, {} }, d = 'é\n"\\\1' })
    assert.equal('{\n  "a": [\n    1\n  ],\n  "b": {},\n  "c": []\n}', json.encode({ a = { 1 }, b = {},
      c = json.array {} }, { indent = 2 }))
    assert.equal("[]", json.encode(json.decode "[]"))
    assert.equal("{}", json.encode(json.decode "{}"))
  end)

  it("numbers that read back as they were", function()
    assert.equal("[1,1.0,1e+30,0.1,-0.0,9223372036854775807]", json.encode { 1, 1.0, 1e30, 0.1, -0.0, math.maxinteger })
    math.randomseed(3)
    for _ = 1, 5000 do
      local x = string.unpack("<d", string.pack("<i8", math.random(0)))
      if x == x and math.abs(x) ~= math.huge then
        local back = json.decode(json.encode(x))
        assert.equal(x, back)
        assert.equal("float", math.type(back))
      end
    end
  end)

  it("nothing that JSON has not", function()
    for what, value in pairs { function_ = print, nan = 0 / 0, huge = math.huge, bytes = "\xff", key = { [2] = 1,
      a = 1 }, number = { [1.5] = 1 } } do
      assert.has_error(function() json.encode(value) end, nil, what)
    end
    local loop = {}
    loop.loop = loop
    assert.has_error(function() json.encode(loop) end)
    assert.has_error(function() json.encode({}, { indnt = 2 }) end)
  end)
end)

describe("kava.json", function()
  it("reads real tokenizer files as written", function()
    local path = helper.shared "tokenizers/qwen3/tokenizer.json"
    if not path then return pending "skipped: ../shared is not here" end
    local value = assert(json.load(path))
    assert.equal("BPE", value.model.type)
    local count = 0
    for _ in pairs(value.model.vocab) do count = count + 1 end
    assert.equal(151643, count)
    local again = json.decode(json.encode(value))
    assert.same(value.added_tokens, again.added_tokens)
    assert.equal(#value.model.merges, #again.model.merges)
  end)

  it("keys that were made to share one place in a table cost no more than others", function()
    local function seconds(one, other) -- to read 2^14 keys, the last of them again
      local keys = { "7yzl" }
      for _ = 1, 14 do
        for i = 1, #keys do
          keys[i], keys[#keys + 1] = keys[i] .. one, keys[i] .. other
        end
      end
      local text = '{"' .. table.concat(keys, '":1,"') .. '":1,"' .. keys[#keys] .. '":1}'
      local begun = os.clock()
      reject(text, "twice")
      return os.clock() - begun
    end
    local others = seconds("5uzl", "5uzm")
    local made = seconds("5uzl", "g2ap") -- which lead FNV-1a from one state to one other
    assert.is_true(made < 10 * others + 0.1, ("%g s against %g s"):format(made, others))
  end)
end)

local helper = require "spec.helper"
local config = require "kava.config"

local schema = config.schema {
  { "name", "string", "a name", free = true },
  { "kv.method", "string|function", "an aggregation" },
  { "kv.weights", "list", "weights" },
  { "rate", "number", "a rate", above = 0, max = 1, alias = { "lr", "learning_rate" } },
  { "steps", "integer", "steps", min = 1, choices = { "auto" } },
  { "deep.er.flag", "boolean", "a flag" },
  { "weight", "number|table", "a weight or a schedule of it" },
  { "precision", "string", "of products", choices = { "f32", "bf16" }, synonyms = { fp32 = "f32" } },
  { "layers", "string|list", "which", choices = { "all", "last" }, old = { use_all = { [true] = "all", [false] = "last" } } },
  { "paths.models", "string", "a folder" },
  { "paths.env_vars.models", "string", "the variable that sets it", sets = "paths.models" },
}

describe("config", function()
  local dir
  setup(function() dir = helper.tmp() end)

  local function read(text)
    return config.read(helper.write(dir .. "/c.lua", text))
  end

  it("merges layers, the last on top, and knows where each value came from", function()
    local low = config.layer(schema, { kv = { method = "concat" }, rate = 0.5, ["deep.er.flag"] = true }, "defaults")
    local high = config.layer(schema, { kv = { method = "mean" } }, "c.lua")
    local top = config.assignments(schema, { "lr=0.25", "steps=auto", "weight={from=1,to=0}", "rate=0.125" })
    local resolved = config.resolve(schema, { low, high, top })
    assert.equal("mean", resolved.values.kv.method)
    assert.equal("c.lua", resolved.from["kv.method"])
    assert.equal(0.125, resolved.values.rate)
    assert.equal("command line", resolved.from.rate)
    assert.equal("auto", resolved.values.steps)
    assert.equal(true, resolved.values.deep.er.flag)
    assert.same({ from = 1, to = 0 }, resolved.values.weight)
    assert.is_nil(resolved.values.kv.weights)
  end)

  it("writes itself as a config file that reads back the same", function()
    local layer = config.layer(schema, { name = 'a "quoted"\nname', kv = { method = "mean", weights = { 0.1, 1 / 3 } }, rate = 5e-5,
      steps = 7, weight = { from = 1.0, to = 0 } }, "here")
    local resolved = config.resolve(schema, { layer })
    local text = resolved:text()
    assert.truthy(text:find('["rate"] = 5e-05', 1, true))
    assert.truthy(text:find("-- here", 1, true))
    local again = config.layer(schema, assert(read(text)), "again")
    assert.same(layer.values, again.values)
  end)

  local function refused(values, ...)
    local layer, message = config.layer(schema, values, "c.lua")
    assert.is_nil(layer)
    for _, part in ipairs { "(c.lua)", ... } do assert.truthy(message:find(part, 1, true), part .. " in: " .. message) end
  end

  it("names key, value, source and expectation in its errors", function()
    refused({ kv = { mehtod = "mean" } }, "unknown key 'kv.mehtod'", "did you mean 'kv.method'?")
    refused({ method = "mean" }, "did you mean 'kv.method'?")
    refused({ zzzzzzzzzzzz = 1 }, "unknown key 'zzzzzzzzzzzz'", "--help")
    refused({ rate = 0 }, "rate = 0", "number above 0, at most 1 expected")
    refused({ rate = 2.5 }, "rate = 2.5")
    refused({ rate = 0 / 0 }, "rate = ")
    refused({ rate = "fast" }, 'rate = "fast"', "number")
    refused({ rate = 0.1, lr = 0.2 }, "rate is given twice")
    refused({ steps = 1.5 }, "steps = 1.5", 'integer or "auto", at least 1 expected')
    refused({ steps = "atuo" }, "did you mean 'auto'?")
    refused({ kv = "mean" }, 'kv = "mean"', "a table of keys expected")
    refused({ kv = { weights = 1 } }, "kv.weights = 1", "list")
    refused({ kv = { weights = { a = 1 } } }, "kv.weights = { a = 1 }", "list")
    refused({ deep = { er = { flag = "yes" } } }, 'deep.er.flag = "yes"', "boolean")
    refused({ name = function() end }, "name = a function", "string")
    refused({ "mean" }, "keys are names")
    refused({ name = "" }, "name", "nothing given; string expected")
    refused({ [("x"):rep(1 << 20)] = 1 }, "unknown key 'xxx", "xxx…'", "--help")
    refused({ rate = ("ü"):rep(1 << 18) }, 'rate = "üü', "ü… (c.lua): number")
    refused({ rate = math.huge }, "rate = inf", "at most 1")
    refused({ use_all = "some" }, 'use_all = "some"', "false or true expected")
    refused({ use_all = true, layers = "last" }, "layers is given twice")
  end)

  it("understands other spellings, of names and of values", function()
    local layer = assert(config.layer(schema, { use_all = false, precision = "fp32", lr = 0.5, rate = 0.5 }, "old.lua"))
    assert.same({ layers = "last", precision = "f32", rate = 0.5 }, layer.values)
    layer = assert(config.assignments(schema, { "use_all=true", "precision=fp32" }))
    assert.same({ layers = "all", precision = "f32" }, layer.values)
    local none, message = config.assignments(schema, { "use_all=yes" })
    assert.is_nil(none)
    assert.equal('use_all = "yes" (command line): false or true expected', message)
    assert.truthy(config.help(schema, config.resolve(schema, {})):find('"all" or "last"; also use_all', 1, true))
  end)

  it("takes tables that are data of a bounded size", function()
    local ring, deep, wide, shared = {}, {}, {}, {}
    ring.from = ring
    local at = deep
    for _ = 1, 9 do
      at.from = {}
      at = at.from
    end
    for i = 1, 10001 do wide[i] = i end
    for i = 1, 60 do shared = { shared, shared, i } end
    refused({ weight = ring }, "weight (c.lua): tables nested deeper than 8")
    refused({ weight = deep }, "nested deeper")
    refused({ weight = wide }, "more than 10000 items")
    refused({ weight = shared }, "nested deeper")
    refused({ weight = { from = function() end } }, "a function within a table; number or table expected")
  end)

  describe("files", function()
    it("are data with a few pure functions", function()
      local values = assert(read "return { rate = 1 / math.max(2, 4), kv = { method = function(layers) return layers[#layers] end } }")
      assert.equal(0.25, values.rate)
      assert.equal("last", values.kv.method { "first", "last" })
      local first = config.resolve(schema, { assert(config.layer(schema, values, "c.lua")) })
      assert.truthy(first:text():find('-- ["kv.method"] = function (', 1, true))
    end)

    it("reach nothing else and end", function()
      for text, part in pairs {
        ["os.exit(3)"] = "global 'os'",
        ["return require 'kava'"] = "global 'require'",
        ["io.open('x', 'w')"] = "global 'io'",
        ["while true do end"] = "too many instructions",
        ["local function f() return f() end f()"] = "too many instructions",
        ["local s = 'x' for i = 1, 60 do s = s .. s end return {}"] = "32 MiB of memory",
        ["local s = 'x' for i = 1, 60 do s = s" .. (" .. s"):rep(150) .. " end return {}"] = "32 MiB of memory",
        -- instructions or, with a harsh garbage collector, time
        ["local t = {} for i = 1, 1e9 do t[i] = i end"] = "this is data, not a program",
        ["local t = {} while true do t = { t } end"] = "this is data, not a program",
        ["return setmetatable({}, {})"] = "global 'setmetatable'",
        ["return getmetatable('').__index"] = "global 'getmetatable'",
        ["return rawset({}, 1, 1)"] = "global 'rawset'",
        ["return { pcall(error) }"] = "global 'pcall'",
        ["load('return 1')()"] = "global 'load'",
        ["dofile 'configs/environment.lua'"] = "global 'dofile'",
        ["return { coroutine.create(print) }"] = "global 'coroutine'",
        ["debug.getinfo(1)"] = "global 'debug'",
        ["package.loadlib('libc.so.6', 'system')"] = "global 'package'",
        ["return { string.rep('x', 1e9) }"] = "global 'string'",
        ["return { table.concat({ 'x' }, ('y')) }"] = "global 'table'",
        ["return { ('%s'):format(1) }"] = "attempt to index a string",
        ["return { ('x').gsub }"] = "attempt to index a string",
        ["collectgarbage()"] = "global 'collectgarbage'",
        ["_G.os = 1"] = "global '_G'",
        ["kava.seed(1)"] = "global 'kava'",
        ["arg[0] = 1"] = "global 'arg'",
        ["utf8.char(1)"] = "global 'utf8'",
        ["print 'hello'"] = "global 'print'",
        ["math.randomseed(1)"] = "random",
        ["error({})"] = "table:",
        ["error 'no'"] = "no",
        ["goto out"] = "out",
        ["return require"] = "returns nil",
        ["\xff\xfe"] = "unexpected symbol",
        ["local s = 'x' s = s:rep(1e9)"] = "attempt to index a string",
        ["math.random()"] = "random",
        ["return 5"] = "returns a table, this one returns number",
        ["return {"] = "c.lua:1:",
        ["\27Lua"] = "attempt to load a binary chunk",
      } do
        local values, message = read(text)
        assert.is_nil(values, text)
        assert.truthy(message:find(part, 1, true), part .. " in: " .. message)
        assert.truthy(message:find("c.lua", 1, true), message)
      end
      assert.equal("aa", ("a"):rep(2)) -- string methods are back
      local _, message = config.read(dir .. "/absent.lua")
      assert.truthy(message:find("absent.lua", 1, true))
      local file = assert(io.open(dir .. "/b.lua", "wb"))
      file:write(string.dump(function() return {} end))
      file:close()
      _, message = config.read(dir .. "/b.lua")
      assert.truthy(message:find("attempt to load a binary chunk", 1, true), message)
      _, message = read("return {" .. ("{"):rep(100000))
      assert.truthy(message:find("c.lua: C stack overflow", 1, true), message)
      _, message = read("os.exit()")
      assert.truthy(message:find("config files are data", 1, true), message)
      _, message = config.read(dir)
      assert.truthy(message:find("cannot be read", 1, true))
      _, message = read(("-"):rep(1 << 20 | 1))
      assert.truthy(message:find("no config file", 1, true))
    end)

    it("may be damaged anywhere", function()
      local full = config.schema(require "recipes.keys")
      local sound = helper.read "configs/environment.lua":gsub("%-%-[^\n]*", "")
      local state = 12345
      local function random(n)
        state = (state * 1103515245 + 12345) & 0x7fffffff
        return (state >> 8) % n + 1
      end
      local pieces = { "", "\0", "{", "}", '"', "[[", "nil", "-", "1e999", "function() end", ",", "goto x", "\xff", "0x7fffffffffffffff",
        "..", "paths", "(" }
      for _ = 1, 400 do
        local text = sound
        for _ = 1, random(3) do
          local at, width = random(#text), random(6) - 1
          text = text:sub(1, at) .. pieces[random(#pieces)] .. text:sub(at + width + 1)
        end
        local values, message = read(text)
        if values then
          local layer
          layer, message = config.layer(full, values, "c.lua")
          if layer then config.resolve(full, { layer }):text() end
          values = layer
        end
        assert.truthy(values or type(message) == "string" and message:find("c.lua", 1, true), message)
      end
    end)

    it("do not change the library's tables", function()
      assert(read "math.max = nil return {}")
      assert.equal(2, math.max(1, 2))
    end)
  end)

  it("shows its keys in lines that fit a terminal", function()
    local wide = config.schema { { heading = "H" }, { "a", "string", ("word "):rep(60) }, { "b.c", "list", "a list" },
      { "a_name_of_thirty_one_characters", "integer", "x", min = 1 } }
    local defaults = config.resolve(wide, { assert(config.layer(wide, { a = "x", b = { c = { ("y"):rep(200) } } }, "d")) })
    local lines = {}
    for line in (config.help(wide, defaults) .. "\n"):gmatch "(.-)\n" do lines[#lines + 1] = line end
    assert.equal("  a=x" .. (" "):rep(28) .. "word word", lines[3]:sub(1, 42))
    assert.equal((" "):rep(33) .. "word", lines[4]:sub(1, 37))
    for i, line in ipairs(lines) do assert.truthy(#line <= 118 or line:find(("y"):rep(200), 1, true), i .. ": " .. line) end
    assert.equal("  a_name_of_thirty_one_characters", lines[#lines - 1])
    assert.equal((" "):rep(33) .. "x (integer, at least 1)", lines[#lines])
  end)

  describe("variables", function()
    -- The layer of an environment given as a table. -> its values, their sources | nil, message
    local function environment(set, values)
      local names = {}
      for name in pairs(set) do names[#names + 1] = name end
      values = values or { ["paths.env_vars.models"] = "KAVA_MODEL_PATH" }
      local below = config.resolve(schema, { assert(config.layer(schema, values, "d")) })
      local layer, strange = config.environment(schema, below, function(name) return set[name] end, names, { KAVA_HOME = true })
      if not layer then return nil, strange end
      return layer.values, layer.sources, strange
    end

    it("set keys by their names", function()
      local values, sources, strange = environment { KAVA_KV_METHOD = "mean", KAVA_STEPS = "7", KAVA_DEEP_ER_FLAG = "true",
        KAVA_LR = "0.5", KAVA_MODEL_PATH = "/m", KAVA_KV_WEIGHTS = "{1,2}", KAVA_USE_ALL = "false", KAVA_RATE = " ", KAVA_HOME = "/h",
        KAVA_MY_OWN_THING = "x" }
      assert.same({ ["kv.method"] = "mean", steps = 7, ["deep.er.flag"] = true, rate = 0.5, ["paths.models"] = "/m",
        ["kv.weights"] = { 1, 2 }, layers = "last" }, values)
      assert.equal("KAVA_LR", sources.rate)
      assert.equal("KAVA_MODEL_PATH", sources["paths.models"])
      assert.same({ "KAVA_MY_OWN_THING" }, strange)
      values = environment({ KAVA_MODEL_PATH = "/m", LLM_MODELS = "/llm" }, { ["paths.env_vars.models"] = "LLM_MODELS" })
      assert.same({ ["paths.models"] = "/llm" }, values)
    end)

    local function refuses(set, part, values)
      local none, message = environment(set, values)
      assert.is_nil(none)
      assert.truthy(message:find(part, 1, true), message)
    end

    it("are refused where they are malformed, near to a key's, or contradict each other", function()
      refuses({ KAVA_STEPS = "many" }, 'steps = "many" (KAVA_STEPS): integer or "auto", at least 1 expected')
      refuses({ KAVA_RATE = "2" }, "rate = 2 (KAVA_RATE): number above 0, at most 1 expected")
      refuses({ KAVA_KV_METHD = "mean" }, "unknown variable KAVA_KV_METHD; did you mean KAVA_KV_METHOD, which sets kv.method?")
      refuses({ KAVA_MODEL_PAHT = "/m" }, "did you mean KAVA_MODEL_PATH, which sets paths.models?")
      refuses({ KAVA_LR = "0.5", KAVA_RATE = "0.25" }, "KAVA_LR and KAVA_RATE both set rate, and disagree: unset one")
    end)

    it("of a secret's name are neither read nor mentioned", function()
      for name, secret in pairs { KAVA_TOKENIZER = false, KAVA_MONKEYS = true, HF_TOKEN = true, API_KEY2 = true, MY_PASSWORD_FILE = true,
        AWS_CREDENTIALS = true, KEYBOARD = false, KAVA_TOKENS = false, HF_TOKENS = true, KEYSTONE = false } do
        assert.equal(secret, config.secret(name), name)
      end
      for _, name in ipairs { "KAVA_TOKEN", "KAVA_API_KEY", "KAVA_SECRET", "KAVA_PASSWORD", "KAVA_NAME_TOKEN" } do
        local values, _, strange = environment { [name] = "canary" }
        assert.same({}, values)
        assert.same({}, strange)
      end
      refuses({}, 'paths.env_vars.models = "HF_TOKEN" (d): a variable of such a name is never read',
        { ["paths.env_vars.models"] = "HF_TOKEN" })
      assert.error(function() config.schema { { "api_key", "string", "no" } } end)
      assert.error(function() config.schema { { "a.b", "string", "x" }, { "a_b", "string", "y" } } end)
    end)
  end)

  it("finds the nearest name", function()
    assert.equal(3, config.distance("kitten", "sitting"))
    assert.equal(0, config.distance("", ""))
    assert.equal(4, config.distance("", "four"))
    assert.equal("target_batch", config.nearest("target_bach", { target_batch = true, batch_size = true }))
  end)

  it("tells two configs apart by what matters", function()
    local function identity(values)
      return config.resolve(schema, { assert(config.layer(schema, values, "x")) }):identity()
    end
    local count = 0
    local function choose(index, above) -- the same text may stand in another file, on another line
      count = count + 1
      local path = helper.write(("%s/f%d.lua"):format(dir, count), above .. "return { f = function(l)\n  return l[" .. index .. "]\n end }")
      return assert(config.read(path)).f
    end
    local first, moved, second = choose(1, ""), choose(1, "\n\n"), choose(2, "")
    local a = identity { name = "one", rate = 0.5, kv = { method = first } }
    local b = identity { name = "two", rate = 0.5, kv = { method = moved } }
    local c = identity { name = "two", rate = 0.25, kv = { method = second }, steps = 3 }
    assert.same({}, config.differences(a, b))
    local lines = config.differences(a, c)
    assert.equal(3, #lines)
    assert.equal("rate: 0.5 there, 0.25 here", lines[2])
    assert.equal("steps: not set there, 3 here", lines[3])
  end)
end)

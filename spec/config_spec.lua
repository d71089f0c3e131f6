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
        ["while true do end"] = "instructions",
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
      _, message = config.read(dir)
      assert.truthy(message:find("cannot be read", 1, true))
      _, message = read(("-"):rep(1 << 20 | 1))
      assert.truthy(message:find("no config file", 1, true))
    end)

    it("do not change the library's tables", function()
      assert(read "math.max = nil return {}")
      assert.equal(2, math.max(1, 2))
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

-- kava.bounded: what a file of data may take.
local kava = require "kava"

describe("kava.bounded", function()
  local function bounded(f, limits) return kava.bounded(f, limits or {}) end

  it("gives a function's results", function()
    assert.same({ true, 1, nil, "x", n = 4 }, table.pack(bounded(function() return 1, nil, "x" end)))
    assert.same({ true, n = 1 }, table.pack(bounded(function() end)))
    local ok, one = bounded(function() return table.unpack({}, 1, 200) end)
    assert.is_true(ok)
    assert.is_nil(one)
  end)

  it("gives an error as it is", function()
    local what = {}
    assert.same({ false, what }, { bounded(function() error(what) end) })
    local ok, message = bounded(function() local x = nil; return x.y end)
    assert.is_false(ok)
    assert.truthy(message:find("spec/bounded_spec.lua:%d+: attempt to index"), message)
    assert.same({ false, "yields: this is data, not a program" }, { bounded(coroutine.yield) })
  end)

  local function refused(part, f, limits)
    local ok, message = bounded(f, limits)
    assert.is_false(ok)
    assert.truthy(message:find(part, 1, true), message)
  end

  it("ends what executes too much, also where errors are caught", function()
    refused("spec/bounded_spec.lua:", function() while true do end end, { instructions = 10000 })
    refused("executed too many instructions", function()
      while true do pcall(function() while true do end end) end
    end, { instructions = 10000 })
    assert.is_true((bounded(function() for _ = 1, 1000 do end end, { instructions = 10000 })))
  end)

  it("ends what holds too much, in one instruction or in many", function()
    refused("took more than 1 MiB of memory", function() return ("x"):rep(2 << 20) end, { memory = 1 << 20 })
    refused("took more than 1 MiB of memory", function()
      local t = {}
      for i = 1, 1e6 do t[i] = { i } end
      return t
    end, { memory = 1 << 20, instructions = 1e8 // 1 })
    local base = ("x"):rep(100000)
    local ok, text = bounded(function() -- what is garbage does not count
      local text
      for i = 1, 200 do text = base .. i end
      return text
    end, { memory = 1 << 20 })
    assert.is_true(ok, text)
    assert.equal(100003, #text)
    assert.equal(1 << 22, #("x"):rep(1 << 22)) -- outside there is no bound again
  end)

  it("ends what takes too long without taking anything", function()
    local long = (" "):rep(1 << 20)
    local before = os.clock()
    refused("took too long", function()
      local n = 0
      while true do n = n + (tonumber(long) or 1) end
    end, { seconds = 0.05, instructions = 1e9 // 1 })
    assert.truthy(os.clock() - before < 2, os.clock() - before)
  end)

  it("may be within another, and leaves a hook where it was", function()
    local calls = 0
    local function count() calls = calls + 1 end
    debug.sethook(count, "", 100)
    refused("too many", function()
      local ok, message = bounded(function() while true do end end, { instructions = 1000 })
      assert(not ok and message:find "too many")
      while true do end
    end, { instructions = 5000 })
    assert.equal(count, (debug.gethook()))
    for _ = 1, 1000 do end
    debug.sethook()
    assert.truthy(calls > 0)
  end)

  it("refuses what are no bounds", function()
    assert.error_matches(function() kava.bounded(1, {}) end, "function expected")
    assert.error_matches(function() kava.bounded(function() end) end, "table expected")
    assert.error_matches(function() bounded(function() end, { bytes = 1 }) end, "bytes")
    assert.error_matches(function() bounded(function() end, { memory = -1 }) end, "at least 0")
    assert.error_matches(function() bounded(function() end, { seconds = 0 / 0 }) end, "at least 0")
  end)
end)

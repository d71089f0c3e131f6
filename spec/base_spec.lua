local helper = require "spec.helper"
local program = require "spec.program"
local kava = require "kava"

describe("the runtime's base", function()
  it("draws a permutation: each index once", function()
    for _, count in ipairs { 1, 2, 3, 10, 257, 1000 } do
      local seen = {}
      for i = 1, count do
        local j = kava.permute(7, count, i)
        assert.is_true(j >= 1 and j <= count and not seen[j])
        seen[j] = true
      end
    end
  end)

  it("says which argument is wrong", function()
    assert.has_error(function() kava.permute(1, 0, 1) end)
    assert.has_error(function() kava.permute(1, 5, 6) end)
    local before = kava.threads()
    for _, count in ipairs { -1, 1 << 32 } do
      assert.error_matches(function() kava.threads(count) end, "0 %(all CPUs%) or more expected")
    end
    assert.equal(before, kava.threads())
  end)

  it("ends the program with a message where a mapped file has become shorter", function()
    local path = helper.tmp() .. "/weights.safetensors"
    assert(kava.safetensors.save(path, { a = kava.zeros(300000) }))
    local code, out, errors = require("spec.program").run(([[-e '
      local kava = require "kava"
      local t = kava.safetensors.load("%s").a
      io.open("%s", "w"):close()
      print(t:sum():item())']]):format(path, path))
    assert.same({ 1, "" }, { code, out })
    assert.equal(("kava: %s: has become shorter while it was in use\n"):format(path), errors)
  end)

  it("cuts large blocks that never overlap, and puts freed neighbours together again", function()
    math.randomseed(11)
    local held = {}
    local function check(i)
      local t = held[i]
      assert.is_true(t:min():item() == i and t:max():item() == i, "block " .. i .. " was written to by another")
    end
    for _ = 1, 600 do -- 64 KiB to 2 MiB, taken and given back in no order
      local i = math.random(40)
      if held[i] then
        check(i)
        held[i]:release()
        held[i] = nil
      else
        held[i] = kava.full({ math.random(1 << 14, 1 << 19) }, i)
      end
    end
    for i in pairs(held) do check(i) end
    for i, t in pairs(held) do
      t:release()
      held[i] = nil
    end
    collectgarbage()
    if helper.sanitized then return end -- every allocation is the system's own there
    local free = kava.memory().cpu.cached
    assert.is_true(free >= 8 << 20, "nothing is kept")
    -- pieces of at most 2 MiB are one block again: one of 4 MiB fits there, and what is kept shrinks by it
    local large <close> = kava.zeros { 1 << 20 }
    assert.is_true(kava.memory().cpu.cached <= free - large:numel() * 4)
  end)

  it("gives zeros, whether blocks were used before, joined, cut or given back to the system", function()
    math.randomseed(13)
    local held = {}
    for n = 1, 1500 do
      local i = math.random(12)
      if held[i] then
        held[i]:release()
        held[i] = nil
      else
        local count = math.random(1 << 14, 1 << (n % 100 == 0 and 25 or 18)) -- a large one finds no room: what is free is given back
        if n % 3 == 0 then
          held[i] = kava.zeros { count }
          local most, least = held[i]:max():item(), held[i]:min():item()
          assert.is_true(most == 0 and least == 0, ("%d of %d elements: from %g to %g"):format(n, count, least, most))
        else
          held[i] = n % 100 == 0 and kava.zeros { count } or kava.full({ count }, 7)
        end
      end
    end
    for _, t in pairs(held) do t:release() end
  end)

  it("refuses more memory than there is, before it is used", function()
    if program.path:find "[at]san" then return pending "skipped: a sanitizer ends the program" end
    if io.open("/proc/sys/vm/overcommit_memory"):read "n" == 1 then return pending "skipped: this machine promises any memory" end
    assert.error_matches(function() kava.zeros(1 << 40) end, "out of memory: 4398046511104 bytes asked for")
  end)

  it("waits for no pipe where a file is asked for", function()
    local path = helper.tmp() .. "/pipe"
    assert(os.execute("mkfifo " .. path))
    for _, open in ipairs { kava.json.load, kava.data.rows } do
      local ok, message, code = open(path)
      assert.is_nil(ok)
      assert.equal("io", code)
      assert.truthy(message:find("pipe: not a regular file", 1, true))
    end
  end)
end)

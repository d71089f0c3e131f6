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

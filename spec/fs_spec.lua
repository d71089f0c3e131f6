local helper = require "spec.helper"
local kava = require "kava"

describe("kava.fs", function()
  local dir
  setup(function() dir = helper.tmp() end)

  it("makes, lists and removes folders", function()
    assert.is_true(kava.fs.mkdir(dir .. "/a/b/c"))
    assert.is_true(kava.fs.mkdir(dir .. "/a/b/c"))
    assert.is_true(kava.fs.isdir(dir .. "/a/b/c/"))
    helper.write(dir .. "/a/z", "")
    helper.write(dir .. "/a/.hidden", "")
    assert.same({ ".hidden", "b", "z" }, kava.fs.list(dir .. "/a"))
    assert.is_true(kava.fs.remove(dir .. "/a/z"))
    assert.is_false(kava.fs.exists(dir .. "/a/z"))
    local ok, message, code = kava.fs.remove(dir .. "/a/b")
    assert.is_nil(ok)
    assert.equal("io", code)
    assert.truthy(message:find(dir .. "/a/b: ", 1, true))
  end)

  it("names the path in its failures", function()
    for name, arguments in pairs { list = {}, size = {}, free = {}, remove = {}, write = { "text" } } do
      local ok, message, code = kava.fs[name](dir .. "/none/x", table.unpack(arguments))
      assert.is_nil(ok, name)
      assert.truthy(message:find("/none/x", 1, true), name)
      assert.equal("io", code)
    end
    helper.write(dir .. "/file", "")
    local ok, message = kava.fs.mkdir(dir .. "/file/below")
    assert.is_nil(ok)
    assert.truthy(message:find(dir .. "/file: ", 1, true), message)
    assert.has_error(function() kava.fs.mkdir "" end)
  end)

  it("writes a file whole and leaves nothing beside it", function()
    local path = dir .. "/w/text"
    kava.fs.mkdir(dir .. "/w")
    assert.is_true(kava.fs.write(path, "one\0two"))
    assert.equal("one\0two", helper.read(path))
    assert.equal(7, kava.fs.size(path))
    assert.is_true(kava.fs.write(path, ""))
    assert.same({ "text" }, kava.fs.list(dir .. "/w"))
    assert.truthy(kava.fs.free(dir) > 0)
  end)
end)

-- The suite tells failures, errors and leaks from success: each spec below is run by a suite of its own.
local helper = require "spec.helper"

local function suite(source)
  local path = helper.write(helper.tmp() .. "/one_spec.lua", source)
  local interpreter = helper.sanitized and helper.program() or "lua5.4"
  local text, code = helper.run(("%s scripts/checks/suite.lua %s"):format(interpreter, path))
  return text, code, text:match "([^\n]*)\n$"
end

describe("the suite", function()
  it("succeeds when all passes", function()
    local text, code, last = suite [[it("passes", function() assert.equal(1, 1) end)]]
    assert.equal("1 passed, 0 failed", last, text)
    assert.equal(0, code)
  end)

  it("counts failures, errors and what was skipped, and goes on after them", function()
    local text, code, last = suite [[
      it("fails", function() assert.equal(1, 2) end)
      it("errs", function() error "boo" end)
      it("skips", function() return pending "skipped: no GPU" end)
      it("passes", function() end)
    ]]
    assert.equal("1 passed, 2 failed, 1 skipped", last, text)
    assert.equal(1, code)
    assert.truthy(text:find("skipped: skips: no GPU", 1, true), text)
  end)

  it("fails on a file that does not load, and on no test at all", function()
    local text, code, last = suite "it('"
    assert.equal("0 passed, 1 failed", last, text)
    assert.equal(1, code)
    text, code, last = suite ""
    assert.equal("0 passed, 1 failed", last, text)
    assert.equal(1, code)
  end)

  it("fails on a native object left behind, and names the test", function()
    local text, code, last = suite [[
      local kava = require "kava"
      local here
      it("gives back what it holds", function() here = kava.zeros { 3 } end)
      it("keeps a tensor", function() debug.getregistry().kept = kava.zeros { 3 } end)
    ]]
    assert.equal("2 passed, 1 failed", last, text)
    assert.equal(1, code)
    assert.truthy(text:find("1 live native objects left behind", 1, true), text)
    assert.truthy(text:find("1 after 'keeps a tensor'", 1, true), text)
  end)
end)

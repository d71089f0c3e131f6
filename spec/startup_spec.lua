-- What starting costs: nobody pays for BLAS, a GPU or a model before it is needed.
local helper = require "spec.helper"
local kava = require "kava"

-- The shortest of several runs, in milliseconds: what the machine does besides only ever adds.
local function fastest(command)
  local best = math.huge
  for _ = 1, 10 do
    local before = kava.clock()
    assert(os.execute(command .. " >/dev/null"))
    best = math.min(best, (kava.clock() - before) * 1000)
  end
  return best
end

local stock = ("lua5.4 -e 'package.path = \"lua/?.lua;lua/?/init.lua;\" .. package.path; package.cpath = \"%s/kava_c/?.so\" %s'"):format(
  helper.build,
  "%s"
)

local function loaded_libraries(run)
  local text, code = helper.run(run:format [[require "kava"; for line in io.lines "/proc/self/maps" do print(line:match "%S+$") end]])
  assert.equal(0, code, text)
  return text
end

describe("starting", function()
  it("kava --help takes at most 20 ms", function()
    if helper.sanitized then return pending "skipped: a sanitizer's build is slow" end
    local spent = fastest(helper.program() .. " --help")
    assert(spent <= 20, ("%.1f ms"):format(spent))
  end)

  it("require 'kava' takes a stock lua5.4 at most 50 ms", function()
    if helper.sanitized then return pending "skipped: a sanitizer's module needs its own program" end
    local spent = fastest(stock:format [[ require "kava"]])
    assert(spent <= 50, ("%.1f ms"):format(spent))
  end)

  it("touches no BLAS and no GPU", function()
    local maps = loaded_libraries(helper.program() .. " -e '%s'")
    assert.truthy(maps:find("liblua", 1, true), maps)
    for _, library in ipairs { "blas", "libcuda", "libcudart", "libgomp" } do
      assert.falsy(maps:find(library, 1, true), maps)
    end
  end)
end)

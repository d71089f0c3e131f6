-- The CUDA kernels (kernels/cuda) against the plain CPU reference in f64, by the program spec/cuda/check.cu, here under the
-- emulator: threads forwards and backwards, which must not matter. With KAVA_CUDA_CHECK=program another build of that
-- program, such as one for a GPU, is asked instead.
local helper = require "spec.helper"
local files = require "scripts.checks.files"
local given = os.getenv "KAVA_CUDA_CHECK"
local check = given or helper.build .. "/kernels_check"

local families, deaths = {}, {}
for kind, name in files.read("spec/cuda/families.def"):gmatch "\n(%u+)%(([%w_]+)%)" do
  table.insert(kind == "FAMILY" and families or deaths, name)
end

local function run(arguments, order)
  return helper.run(("exec 2>&1; ulimit -c 0; KAVA_CUDA_ORDER=%s %s %s"):format(order or "forward", check, arguments))
end

describe("the CUDA kernels", function()
  if not files.exists(check) then
    return it("run emulated", function() pending "skipped: this build has no kernels_check (no C++ compiler)" end)
  end
  it("of attention to 256 dimensions fit a GPU of 8.9 and its 99 KiB of shared memory", function()
    if given then return pending "skipped: the emulator acts one" end
    local text, code = helper.run("exec 2>&1; ulimit -c 0; KAVA_CUDA_TROUBLE='capability=89 shared=101376' " .. check .. " attention ,256]")
    assert.equal(0, code, text)
    assert.truthy(text:find "^ok ")
  end)
  it("of fp8 widen codes on a GPU of 8.0, which has no products of them, and scale sums on 8.9 and 12.0, which have but those", function()
    if given then return pending "skipped: the emulator acts them" end
    for _, capability in ipairs { 80, 89, 120 } do
      local text, code = helper.run(("exec 2>&1; ulimit -c 0; KAVA_CUDA_TROUBLE=capability=%d %s fp8"):format(capability, check))
      assert.equal(0, code, text)
      assert.truthy(text:find "^ok ")
    end
  end)
  for _, family in ipairs(families) do
    it(("of %s agree with the reference%s"):format(family, given and "" or ", threads run forward and backward"), function()
      local orders = given and { "forward" } or { "forward", "backward" }
      local out, parts = helper.tmp(), {}
      for i, order in ipairs(orders) do -- side by side
        parts[i] = ("(KAVA_CUDA_ORDER=%s %s %s > %s/%s 2>&1; echo $? > %s/%s.code) &"):format(order, check, family, out, order, out, order)
      end
      helper.run("ulimit -c 0; " .. table.concat(parts, " ") .. " wait")
      for _, order in ipairs(orders) do
        local text, bad = files.read(("%s/%s"):format(out, order)), {}
        for line in text:gmatch "[^\n]+" do
          if not line:find "^ok " then bad[#bad + 1] = line end
        end
        assert.equal("", table.concat(bad, "\n"))
        assert.equal("0\n", files.read(("%s/%s.code"):format(out, order)))
        assert.truthy(text:find "^ok ")
      end
    end)
  end
end)

describe("the emulator", function()
  if given or not files.exists(check) then return end
  local said = {
    host_reads = "the host touched device memory, byte 12 of an allocation of 32",
    host_pointer = "read is given the host's address",
    reads_behind = "thread %(28,0,0%): a kernel touched %S+, 0 bytes behind the end of an allocation of 112",
    writes_behind = "something wrote behind the end of an allocation of 127 bytes",
    barrier = "of 64 threads 40 wait at a barrier",
    shuffle = "7 for their warp, 25 have ended",
    unwaited = "never waited for",
    streams = "stream 2 reads an allocation of 128 bytes that stream 1 may still be writing",
  }
  for _, death in ipairs(deaths) do
    it("ends a program for " .. death, function()
      local text, code = run("die-" .. death)
      assert.truthy(text:find("emulated CUDA: .*" .. said[death]), text)
      assert.equal(134, code)
    end)
  end
end)

-- Profiles of a GPU: as many kernels as were launched, inside a recorded step as well; without the GPU's own records by events.
local missing = require "spec.cuda.gpu" ()
local helper = require "spec.helper"
local kava = require "kava"

local function calls(report, pattern)
  local count = 0
  for _, entry in ipairs(report.kernels) do
    if entry.name:find(pattern) then count = count + entry.calls end
  end
  return count
end

describe("a GPU's profile", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end
  local x

  setup(function() x = kava.ones({ 300 }, { device = "cuda" }) end)
  teardown(function() x:release() end)

  it("counts what was launched and copied, and has the enqueueing beside it", function()
    local report, y = kava.profile.run(function()
      local y
      for _ = 1, 5 do y = x:exp() end
      return y:totable()
    end)
    assert.near(math.exp(1), y[300], 1e-4)
    assert.equal(5, calls(report, "^unary"))
    assert.equal(1, calls(report, "^memcpy, device to host"))
    assert.equal(kava.device("cuda").name, report.device)
    assert.not_equal("host", report.source)
    local enqueued = 0
    for _, op in ipairs(report.ops) do enqueued = enqueued + (op.name == "unary" and 1 or 0) end
    assert.equal(5, enqueued)
    local trace = kava.json.decode(report:trace()).traceEvents
    local kernels = 0
    for _, event in ipairs(trace) do kernels = kernels + (event.cat == "kernel" and 1 or 0) end
    assert.equal(#report.spans, kernels)
    for i = 2, #report.spans do assert.is_true(report.spans[i].start >= report.spans[i - 1].start) end
  end)

  -- the library clears a counter before most products, which costs a gap each
  it("sees no memset for each product of a recorded step, whose counters are cleared together", function()
    local a <close> = kava.randn({ 32, 32 }, { device = "cuda" })
    local b <close> = kava.randn({ 32, 32 }, { device = "cuda" })
    local expected = a:matmul(b):totable()
    local function memsets(products)
      local replay <close>, y = kava.record(function()
        local y
        for _ = 1, products do y = a:matmul(b) end
        return y
      end)
      local report = kava.profile.run(function()
        for _ = 1, 3 do replay:run() end
      end)
      assert.same(expected, y:totable())
      return calls(report, "^memset")
    end
    assert.equal(memsets(1), memsets(9))
  end)

  it("sees into a recorded step, once for each run", function()
    local replay <close>, y = kava.record(function() return x:exp():exp() end)
    local report = kava.profile.run(function()
      for _ = 1, 3 do replay:run() end
    end)
    if report.source == "events" then return assert.equal(3, calls(report, "^a recorded step")) end
    assert.equal(6, calls(report, "^unary"))
    y:release()
  end)

  it("is taken by events where there are no records: more launches than are under way at a time, a recorded step as one", function()
    local text, code = helper.run(("KAVA_CUDA_PROFILE=events %s -e '%s'"):format(helper.program(), [[
      local kava = require "kava"
      local x = kava.ones({ 300 }, { device = "cuda" })
      local replay = kava.record(function() return x:exp() end)
      local report = kava.profile.run(function()
        for i = 1, 2100 do
          x:exp()
          if i == 1000 then collectgarbage() end
        end
        replay:run()
        kava.record(function() return x:exp() end)
      end)
      local count, ends = {}, 0
      for _, entry in ipairs(report.kernels) do count[entry.name] = entry.calls end
      for _, span in ipairs(report.spans) do
        assert(span.length >= 0 and span.start >= ends - 3, span.name) -- events are told to half a microsecond
        ends = span.start + span.length
      end
      print(report.source, count.unary, count["a recorded step"])]]))
    assert.equal(0, code, text)
    assert.equal("events\t2100\t1\n", text)
  end)
end)

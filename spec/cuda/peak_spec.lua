-- What lies in a GPU's memory when most does, by what made it; and the emulator that counts memory without computing.
local kava = require "kava"
local helper = require "spec.helper"
local files = require "scripts.checks.files"

local gone = require "spec.cuda.gpu"()

describe("kava.memory_peak", function()
  if gone then return it("runs on a GPU", function() pending(gone) end) end

  it("names what was there at the fullest moment, and what was not is not in it", function()
    local x = kava.ones({ 1024 }, { device = "cuda" })
    local rows, y = kava.memory_peak(function()
      local early = x:exp()
      early:release()
      local a, b = x:exp(), x:exp()
      local large = kava.cat({ a, b }, 1)
      a:release()
      b:release()
      return large:sum()
    end)
    assert.near(2048 * math.exp(1), y:item(), 1e-2)
    local sum, by_name = 0, {}
    for _, row in ipairs(rows) do
      sum = sum + row.bytes * row.count
      if row.name and row.bytes >= 4096 then by_name[row.name] = row.count * row.bytes end
    end
    local before
    for _, row in ipairs(rows) do before = before or not row.name and row.bytes end
    assert.truthy(before >= 4096)
    assert.same({ unary = 8192, join = 8192 }, by_name)
    assert.truthy(sum >= before + 16384 and sum < before + 16384 + 4096)
    assert.truthy(rows[1].bytes * rows[1].count >= rows[#rows].bytes * rows[#rows].count)
  end)

  it("raises what f raises, and can be taken again", function()
    assert.has_error(function() kava.memory_peak(error, "broken") end, "broken")
    assert.has_error(function() kava.memory_peak(kava.memory_peak, function() end) end)
    assert.same({}, (kava.memory_peak(function() end)))
  end)
end)

describe("a backward pass on a GPU", function()
  if gone then return it("runs on a GPU", function() pending(gone) end) end

  it("holds at most one tensor beside what its records keep, of a row of elementwise ops", function()
    local function most(count)
      local x = kava.randn({ 64, 256 }, { device = "cuda" }):requires_grad(true)
      local y = x
      for _ = 1, count do y = kava.dropout(y, 0.5):silu() end
      local loss = y:sum()
      y = nil -- luacheck: ignore 311
      collectgarbage()
      local kept = kava.memory().cuda.current
      kava.memory_reset_peak()
      loss:backward()
      return (kava.memory().cuda.peak - kept) / (64 * 256 * 4), x
    end
    assert.truthy(most(1) < 2.2, "gradient of the output, and the input's")
    assert.truthy(most(4) < 2.2)
  end)

  it("goes back over an activation, its dropout and a product's reading of them in place", function()
    local x = kava.randn({ 64, 256 }, { device = "cuda" }):requires_grad(true)
    local w = kava.randn({ 8, 256 }, { device = "cuda" }):requires_grad(true)
    local loss = kava.linear(kava.silu(x * 1, { dropout = 0.5 }), w):sum()
    collectgarbage()
    local kept = kava.memory().cuda.current
    kava.memory_reset_peak()
    loss:backward()
    assert.truthy((kava.memory().cuda.peak - kept) / (64 * 256 * 4) < 1.3, "the gradient of what the product read, and small ones")
  end)
end)

describe("an emulated GPU that does not compute", function()
  if not files.exists(helper.build .. "/libkava_cuda_emulated.so") then
    return it("counts", function() pending "skipped: this build has no emulator" end)
  end

  it("counts memory as one that does, beyond its usual size too", function()
    local code = [[
      local kava = require "kava"
      local x = kava.zeros({ 3000, 1000000 }, { device = "cuda" })
      local replay = kava.record(function() return x + x end)
      print(kava.memory().cuda.peak, (x + x):sum():item())]]
    local text = helper.run(("exec 2>&1; env KAVA_CUDA=emulated KAVA_CUDA_TROUBLE='idle=1 memory=40000000000' %s -e '%s'"):format(
      helper.program(), code))
    assert.equal("24000000512\t0.0\n", text)
  end)

  it("shows that what lasts lies apart: a recording gives back all that steps before it took", function()
    local code = [[
      local kava = require "kava"
      local function step(lasting)
        local held, kept = {}, {}
        for i = 1, 40 do
          held[i] = kava.zeros({ 65536 }, { device = "cuda" })
          kept[i] = lasting(kava.zeros, { 16384 }, { device = "cuda" })
        end
        return kept
      end
      local function reserved(lasting)
        local kept = step(lasting)
        collectgarbage()
        kava.record(function() end)
        return kava.memory().cuda.reserved / (#kept * 65536)
      end
      local apart = reserved(kava.lasting)
      collectgarbage()
      print(apart < 2, reserved(function(f, ...) return f(...) end) > 4)]]
    local text = helper.run(("exec 2>&1; env KAVA_CUDA=emulated KAVA_CUDA_TROUBLE='idle=1 chunk=1048576' %s -e '%s'"):format(
      helper.program(), code))
    assert.equal("true\ttrue\n", text)
  end)
end)

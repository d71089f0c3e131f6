local helper = require "spec.helper"
local kava = require "kava"
local claim = require "kava.claim"
local checkpoints = require "kava.checkpoints"

describe("kava.claim", function()
  local dir
  before_each(function() dir = helper.tmp() end)

  it("refuses a second start beside a living one, and says who that is", function()
    local first = assert(claim.take(dir, { job = "slurm job 7", start = "n0, restart 0" }))
    assert.is_true(first:held())
    for _, job in ipairs { "slurm job 8", "slurm job 7", false } do -- 7 once more: two shells of one allocation
      local none, message, code = claim.take(dir, { job = job or nil, start = "n0, restart 0" })
      assert.is_nil(none)
      assert.equal("busy", code)
      assert.truthy(message:find(dir .. "/lock: held by another process (slurm job 7 on " .. kava.host().name .. ", since 2", 1, true),
        message)
    end
    assert.is_true(first:held())
    first.lock:release()
  end)

  it("gives the folder to the same job when its scheduler starts it again, while the first copy lives", function()
    local first = assert(claim.take(dir, { job = "slurm job 7" }))
    local second = assert(claim.take(dir, { job = "slurm job 7", start = "n0, restart 1" }))
    assert.equal(2, second.generation)
    assert.is_true(second:held())
    assert.is_true(first:held(true)) -- it looked less than a second ago
    local held, message = first:held()
    assert.is_nil(held)
    assert.truthy(message:find("taken over by slurm job 7 on", 1, true), message)
    assert.truthy(message:find("this copy stops and writes nothing more", 1, true), message)
    -- the lock comes to the second once the first has ended
    assert.is_nil(second.lock)
    first.lock:release()
    assert.is_true(second:held())
    assert.is_nil((claim.take(dir, {})))
    second.lock:release()
  end)

  it("does without locks where there are none: the newest owns the folder", function()
    local lock = kava.fs.lock
    finally(function() kava.fs.lock = lock end)
    kava.fs.lock = function(path) return nil, path .. ": Function not implemented", "io" end
    local first = assert(claim.take(dir, {}))
    local second = assert(claim.take(dir, {}))
    assert.is_nil((first:held()))
    assert.is_true(second:held())
  end)

  it("begins where a run has ended, whatever its file says", function()
    for _, text in ipairs { "", "{", "[1]", '{"generation":"x","holder":3,"host":{}}', '{"generation":4}' } do
      helper.write(dir .. "/owner", text)
      local one = assert(claim.take(dir, {}))
      assert.is_true(one:held())
      one.lock:release()
    end
    assert.equal(5, kava.json.load(dir .. "/owner").generation)
  end)

  it("says where the folder cannot be written", function()
    local none, message = claim.take(dir .. "/nowhere", {})
    assert.is_nil(none)
    assert.truthy(message:find(dir .. "/nowhere/owner", 1, true), message)
  end)

  it("keeps a copy that lost the folder from committing what it was writing", function()
    local first = assert(claim.take(dir, { job = "slurm job 7" }))
    local store = assert(checkpoints.open(dir .. "/c", { keep = 1, claim = first }))
    assert(store:save(1, { w = kava.zeros { 2 } }, { step = 1 }))
    local second = assert(claim.take(dir, { job = "slurm job 7", start = "n1, restart 0" }))
    for _, best in ipairs { false, true } do
      local path, message = store:save(2, { w = kava.zeros { 2 } }, { step = 2 }, best)
      assert.is_nil(path)
      assert.truthy(message:find("taken over", 1, true), message)
    end
    assert.same({ "step-00000001.kava" }, kava.fs.list(dir .. "/c"))
    -- what it left unfinished when it was killed in the middle is removed by the next
    helper.write(dir .. "/c/step-00000002.kava." .. first.holder, "half")
    helper.write(dir .. "/c/best.kava." .. first.holder .. ".tmp77", "less")
    local after = assert(checkpoints.open(dir .. "/c", { keep = 1, claim = second }))
    assert.same({ "step-00000001.kava" }, kava.fs.list(dir .. "/c"))
    assert(after:save(2, { w = kava.zeros { 2 } }, { step = 2 }, true))
    assert.same({ "best.kava", "step-00000001.kava" }, kava.fs.list(dir .. "/c"))
    first.lock:release()
  end)
end)

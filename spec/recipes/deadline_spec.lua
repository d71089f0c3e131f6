local deadline = require "recipes.deadline"

describe("the deadline", function()
  local now
  local function new(left, options)
    now = 1000
    options = options or {}
    options.left, options.clock = left, function() return now end
    return deadline.new(options)
  end

  it("is none where no limit is known", function()
    local d = new(nil)
    now = 1e9
    assert.is_nil(d:reached(true))
  end)

  it("leaves room for a step, a checkpoint and a margin, as they were measured", function()
    local d = new(600)
    d:took("step", 4)
    d:took("step", 20)
    d:took("step", 6)
    d:took("save", 10)
    assert.equal(1.5 * (20 + 10) + 10, (d:needs(true)))
    assert.equal(1.5 * 10 + 10, (d:needs()))
    now = 1000 + 600 - 55
    assert.is_nil(d:reached(true))
    now = now + 0.5
    assert.equal("54.5 s are left of the job's time, and a step takes 20 s, a checkpoint takes 10 s", d:reached(true))
    assert.is_nil(d:reached()) -- in the middle of a step it goes on: what is needed now is a checkpoint
    now = 1000 + 600 - 24
    assert.equal("24 s are left of the job's time, and a checkpoint takes 10 s", d:reached())
  end)

  it("leaves room for two checkpoints while one is being written", function()
    local d = new(100)
    d:took("step", 4)
    d:took("save", 10)
    assert.equal(1.5 * (4 + 20) + 10, (d:needs(true, true)))
    now = 1000 + 100 - 35
    assert.is_nil(d:reached(false, false))
    assert.equal("35 s are left of the job's time, and two checkpoints take 20 s", d:reached(false, true))
  end)

  it("forgets a slow step after a while", function()
    local d = new(600)
    d:took("step", 200)
    for _ = 1, 15 do d:took("step", 2) end
    assert.equal(310, (d:needs(true)))
    d:took("step", 2)
    assert.equal(13, (d:needs(true)))
  end)

  it("estimates a checkpoint by its size until one was written", function()
    local d = new(600)
    d:expect(20 * (100 << 20))
    assert.equal(1.5 * 20 + 10, (d:needs()))
    d:took("save", 2)
    assert.equal(1.5 * 2 + 10, (d:needs()))
  end)

  it("asks the scheduler before it says so, and believes it", function()
    local answers, asked = { 3600, 5 }, 0
    local d = new(60, { ask = function()
      asked = asked + 1
      return answers[asked]
    end })
    assert.is_nil(d:reached(true))
    assert.equal(0, asked)
    now = 1000 + 55
    assert.is_nil(d:reached(true)) -- the limit was prolonged
    assert.equal(1, asked)
    now = 1000 + 55 + 3595
    assert.truthy(d:reached(true))
    assert.equal(2, asked)
  end)

  it("goes by its own clock where the scheduler does not answer", function()
    local d = new(60, { ask = function() end })
    now = 1000 + 55
    assert.truthy(d:reached(true))
  end)

  it("says what to do where the limit is too short", function()
    local d = new(30)
    now = 1025
    assert.truthy(d:reached(true))
    local text = d:advice()
    assert.truthy(text:find("The job had 30 s when this began, and 25 s of them went by without a step", 1, true))
    assert.truthy(text:find("ask the scheduler for more time", 1, true))
    assert.equal("", new(nil):advice())
  end)
end)

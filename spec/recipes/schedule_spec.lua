local constant = dofile "recipes/schedule/constant.lua"
local linear = dofile "recipes/schedule/linear.lua"
local cosine = dofile "recipes/schedule/cosine.lua"

describe("schedules", function()
  it("warm up in equal steps, the first not wasted", function()
    for _, schedule in ipairs { constant, linear, cosine } do
      assert.near(0.25, schedule(1, { steps = 100, warmup = 4 }), 1e-12)
      assert.near(0.75, schedule(3, { steps = 100, warmup = 4 }), 1e-12)
      assert.near(1.0, schedule(4, { steps = 100, warmup = 4 }), 1e-12)
      assert.near(1.0, schedule(5, { steps = 100, warmup = 4 }), 1e-12)
      assert.near(1.0, schedule(1, { steps = 10 }), 1e-12)
    end
  end)

  it("constant stays, linear and cosine reach 0 one step after the last", function()
    assert.equal(1.0, constant(99, { steps = 100, warmup = 4 }))
    assert.near(0.5, linear(53, { steps = 100, warmup = 4 }), 1e-12)
    assert.near(0.5, cosine(53, { steps = 100, warmup = 4 }), 1e-12)
    for _, schedule in ipairs { linear, cosine } do
      assert.near(0.0, schedule(101, { steps = 100, warmup = 4 }), 1e-12)
      assert.is_true(schedule(100, { steps = 100, warmup = 4 }) > 0)
      assert.near(0.0, schedule(150, { steps = 100, warmup = 4 }), 1e-12)
    end
  end)

  it("never rises after the warm-up", function()
    for _, schedule in ipairs { linear, cosine } do
      local before = math.huge
      for step = 10, 60 do
        local now = schedule(step, { steps = 60, warmup = 10 })
        assert.is_true(now <= before)
        before = now
      end
    end
  end)

  it("bears a run that is shorter than its warm-up", function()
    for _, schedule in ipairs { linear, cosine } do assert.near(0.3, schedule(3, { steps = 5, warmup = 10 }), 1e-12) end
  end)
end)

local kava = require "kava"

describe("kava.tensor", function()
  it("takes nested tables, flat ones with a shape, and numbers", function()
    local x = kava.tensor { { { 1, 2 }, { 3, 4 } } }
    assert.same({ 1, 2, 2 }, x.shape)
    assert.equal("f32", x.dtype)
    assert.equal("cpu", x.device)
    assert.equal(4, x:numel())
    assert.equal(1, #x)
    assert.same({ { 1, 2, 3 }, { 4, 5, 6 } }, kava.tensor({ 1, 2, 3, 4, 5, 6 }, { shape = { 2, 3 } }):totable())
    assert.same({ { 1 }, { 2 } }, kava.tensor({ { 1 }, { 2 } }, { shape = { 2, 1 } }):totable())
    assert.same({}, kava.tensor(3).shape)
    assert.equal(3, kava.tensor(3):item())
    assert.equal(4, kava.tensor({ 4 }, { shape = {} }):item())
    assert.same({ 0 }, kava.tensor({}).shape)
    assert.same({ 2, 0 }, kava.tensor({ {}, {} }).shape)
    assert.same({ true, false }, kava.tensor({ true, false }, { dtype = "bool" }):totable())
    assert.same({ 1, 0 }, kava.tensor({ true, false }):totable())
  end)

  it("keeps integers exact and of Lua's integer type", function()
    local values = { math.maxinteger, math.mininteger, 2 ^ 53 | 1 }
    local back = kava.tensor(values, { dtype = "i64" }):totable()
    assert.same(values, back)
    assert.equal("integer", math.type(back[1]))
    assert.equal("float", math.type(kava.tensor({ 1 }):totable()[1]))
    assert.equal("integer", math.type(kava.tensor({ 7 }, { dtype = "u8" }):item()))
  end)

  it("gives every call of shape a table of its own", function()
    local x = kava.zeros(2, 3)
    x.shape[1] = 7
    assert.same({ 2, 3 }, x.shape)
  end)

  it("says what is wrong with values", function()
    local cases = {
      { function() kava.tensor { { 1, 2 }, { 3 } } end, "a table of 1 values at depth 2, where others have 2" },
      { function() kava.tensor { { 1, 2 }, 3 } end, "a number at depth 2, where a table of 2 is expected" },
      { function() kava.tensor { { 1, 2 }, { 3, "4" } } end, "element 4 is a string, a number is expected" },
      { function() kava.tensor { 1, {} } end, "element 2 is a table, a number is expected" },
      { function() kava.tensor({ 1, 2, 3 }, { shape = { 2, 2 } }) end, "a table of 3 values" },
      { function() kava.tensor({ 1.5 }, { dtype = "i32" }) end, "element 1 is 1.5, i32 takes whole numbers" },
      { function() kava.tensor({ 300 }, { dtype = "u8" }) end, "element 1 is 300, which u8 cannot hold" },
      { function() kava.tensor({ -1 }, { dtype = "u8" }) end, "element 1 is %-1, which u8 cannot hold" },
      { function() kava.tensor({ 1 }, { dtype = "f31" }) end, "unknown dtype 'f31'" },
      { function() kava.tensor({ 1 }, { dtype = "q4_0" }) end, "q4_0 is quantised" },
      { function() kava.tensor({ 1 }, { type = "f32" }) end, "unknown key 'type'" },
      { function() kava.tensor({ 1 }, { device = "mps" }) end, "device: cpu or cuda expected, got 'mps'" },
      { function() kava.tensor({ 1 }, { dtype = "i64", requires_grad = true }) end, "requires_grad needs a float dtype, not i64" },
      { function() kava.tensor() end, "value expected" },
      { function() kava.tensor { { { { { { { 1 } } } } } } } end, "nested deeper than 6" },
      { function() kava.zeros(-1) end, "dimension 1 is %-1" },
      { function() kava.zeros(1 << 40, 1 << 40) end, "overflows" },
      { function() kava.zeros { 2, "a" } end, "size 2 is a string" },
      { function() kava.zeros(1, 1, 1, 1, 1, 1, 1) end, "at most 6 dimensions" },
      { function() kava.zeros "2" end, "sizes as integers or as a table" },
    }
    for _, case in ipairs(cases) do assert.error_matches(case[1], case[2]) end
  end)
end)

describe("its relatives", function()
  it("zeros, ones, full, arange", function()
    assert.same({ { 0, 0 } }, kava.zeros(1, 2):totable())
    assert.same({ 1, 1 }, kava.ones({ 2 }, { dtype = "i8" }):totable())
    assert.same({ { 2.5 } }, kava.full({ 1, 1 }, 2.5, { dtype = "f16" }):totable())
    assert.same({ 0, 1, 2 }, kava.arange(3):totable())
    assert.equal("i64", kava.arange(3).dtype)
    assert.same({ 2, 3, 4 }, kava.arange(2, 5):totable())
    assert.same({ 5, 3, 1 }, kava.arange(5, 0, -2):totable())
    assert.same({ 0, 0.5, 1 }, kava.arange(0, 1.25, 0.5):totable())
    assert.same({ 0 }, kava.arange(0).shape)
    assert.equal("f64", kava.arange(3, { dtype = "f64" }).dtype)
    assert.error_matches(function() kava.arange(1, 2, 0) end, "a step other than 0")
    local large = 2 ^ 53 | 1 -- integers are exact, also those that no double holds
    assert.same({ large, large + 1 }, kava.arange(large, large + 2):totable())
    local least, step = math.mininteger, 1 << 62 -- the steps' sum alone is beyond an integer
    assert.same({ least, least + step, 0, step }, kava.arange(least, math.maxinteger, step):totable())
    assert.equal("f32", kava.zeros(1, setmetatable({}, { __index = { dtype = "f64" } })).dtype) -- options are what a table itself holds
    assert.same({ large }, kava.arange(large, large + 1):totable())
    assert.same({ math.maxinteger - 1 }, kava.arange(math.maxinteger - 1, math.mininteger, math.mininteger):narrow(1, 1, 1):totable())
    assert.equal(large, kava.full({ 1 }, large, { dtype = "i64" }):item())
  end)

  it("random ones follow the seed and their distribution", function()
    kava.seed(42)
    local a = kava.randn(100000)
    kava.seed(42)
    local b = kava.randn(100000)
    assert.is_true(kava.allclose(a, b, { rtol = 0, atol = 0 }))
    assert.is_false(kava.allclose(a, kava.randn(100000)))
    assert.near(0, a:mean():item(), 0.015) -- some 5 standard deviations of the mean
    assert.near(1, (a * a):mean():item(), 0.03)
    local u = kava.rand(100000)
    assert.near(0.5, u:mean():item(), 0.005)
    assert.is_true(u:min():item() >= 0 and u:max():item() < 1)
    assert.error_matches(function() kava.randn({ 2 }, { dtype = "i64" }) end, "dtype i64, a float type is expected")
  end)
end)

describe("a tensor", function()
  it("describes itself", function()
    assert.equal("kava.Tensor f32 [2, 2] cpu {1, 2, 3, 4}", tostring(kava.tensor { { 1, 2 }, { 3, 4 } }))
    assert.equal("kava.Tensor f32 [2, 2] cpu {1, 3, 2, 4}", tostring(kava.tensor({ { 1, 2 }, { 3, 4 } }):transpose(1, 2)))
    assert.equal("kava.Tensor i64 [100] cpu {0, 1, 2, 3, …, 96, 97, 98, 99}", tostring(kava.arange(100)))
    assert.equal("kava.Tensor bool [1] cpu {true}", tostring(kava.tensor({ true }, { dtype = "bool" })))
    assert.equal("kava.Tensor f32 [] cpu {0.5} requires_grad", tostring(kava.tensor(0.5, { requires_grad = true })))
    assert.equal("kava.Tensor f32 [0] cpu {}", tostring(kava.zeros(0)))
  end)

  it("knows its fields and no others", function()
    local x = kava.zeros(2)
    assert.error_matches(function() return x.shap end, "a tensor has no field or method 'shap'")
    assert.error_matches(function() x.dtype = "f64" end, "a tensor's field 'dtype' cannot be set")
    assert.error_matches(function() return #kava.tensor(1) end, "a scalar tensor has no length")
    assert.error_matches(function() return x:item() end, "item: a tensor of one element is expected, this one has shape %[2%]")
    assert.error_matches(function() kava.zeros(2).numel(3) end, "kava.Tensor expected, got number")
    assert.error_matches(function() x:to { device = "mps" } end, "device: cpu or cuda expected, got 'mps'")
    assert.error_matches(function() x:to "f64" end, "table expected, got string")
  end)

  it("can be released early, twice, and then says so", function()
    local before = kava.live()
    local x = kava.zeros(2)
    local view = x:narrow(1, 1, 1)
    x:release()
    x:release()
    assert.equal(0, view:item()) -- the storage lives as long as a view of it
    assert.error_matches(function() x:numel() end, "the tensor was released")
    assert.equal("kava.Tensor (released)", tostring(x))
    do
      local closed <close> = kava.zeros(2)
      assert.equal(2, closed:numel())
    end
    view:release()
    collectgarbage()
    collectgarbage()
    assert.is_true(kava.live() <= before)
  end)

  it("has gradients: asked for, summed, read, set and removed", function()
    local x = kava.tensor { 1, 2, 3 }
    assert.is_false(x:requires_grad())
    assert.is_nil(x.grad)
    assert.is_true(x:requires_grad(true) == x)
    assert.is_true(x:requires_grad())
    local function loss() return (x * x):sum() end
    loss():backward()
    assert.same({ 2, 4, 6 }, x.grad:totable())
    local kept = x.grad
    loss():backward()
    assert.same({ 4, 8, 12 }, x.grad:totable())
    assert.same({ 2, 4, 6 }, kept:totable()) -- what was read does not change behind one's back
    loss():backward(0.5)
    assert.same({ 5, 10, 15 }, x.grad:totable())
    x.grad = nil
    assert.is_nil(x.grad)
    x.grad = kava.ones(3, { dtype = "f64" })
    loss():backward()
    assert.same({ 3, 5, 7 }, x.grad:totable())
    assert.error_matches(function() x.grad = kava.ones(4) end, "the gradient's shape must be the tensor's")
    assert.error_matches(function() x.grad = 3 end, "kava.Tensor expected, got number")
    assert.error_matches(function() loss():requires_grad(true) end, "only leaves can be told")
    assert.error_matches(function() kava.arange(3):requires_grad(true) end, "the tensor is i64, a float tensor is expected")
    assert.error_matches(function() (x * 1):backward() end, "needs a tensor of one element, not %[3%]")
    assert.error_matches(function() kava.tensor(1):backward() end, "nothing was recorded")
  end)

  it("is not recorded under no_grad, nor when detached", function()
    local x = kava.ones(2, { requires_grad = true })
    assert.is_false(kava.no_grad(function() return x * 2 end):requires_grad())
    assert.is_false(x:detach():requires_grad())
    assert.is_false((x:detach() * 2):requires_grad())
    assert.is_true((x * 2):requires_grad())
  end)

  it("is collected though Lua cannot see how much memory it holds", function()
    collectgarbage()
    kava.memory_reset_peak()
    local start = kava.memory().cpu.current
    local x = kava.zeros(1 << 20) -- 4 MiB
    for _ = 1, 200 do x = x + 1 end
    assert.equal(200, x:max():item())
    assert.is_true(kava.memory().cpu.peak - start < 400 << 20, "800 MiB of dead tensors are not kept")
  end)
end)

describe("when memory runs out", function()
  local function settle()
    collectgarbage()
    collectgarbage()
    return kava.live(), kava.memory().cpu.blocks
  end

  -- Fails the first, second, … allocation of `f` until it gets through; every failure must raise and leave nothing behind.
  local function exhaust(name, f)
    f() -- what is made once and kept (thread pools, tables) is there now
    local objects, blocks = settle()
    local function same(place)
      local now, blocks_now = settle()
      assert.equal(objects, now, place)
      assert.equal(blocks, blocks_now, place)
    end
    local failures, limit = 0, 500
    for n = 1, limit do
      kava.memory_fail_after(n)
      local ok, message = pcall(f)
      kava.memory_fail_after(-1)
      if ok then break end
      failures = failures + 1
      assert.matches("memory", message, nil, true)
      same(("%s: allocation %d"):format(name, n))
    end
    assert.is_true(failures > 0 and failures < limit, name)
    same(name)
  end

  it("ops raise and leave nothing behind, forwards and backwards", function()
    local x = kava.rand({ 2, 3 }, { dtype = "f64" }) + 1
    local half = kava.tensor({ { 1, 2, 3 }, { 4, 5, 6 } }, { dtype = "bf16" })
    local functions = {
      mul = function() return x * x:narrow(1, 1, 1) end,
      mixed = function() return half / x end,
      where = function() return kava.where(x:gt(1), half, 0) end,
      cat = function() return kava.cat({ x, x:transpose(1, 2):reshape(2, 3) }, 2) end,
      stack = function() return kava.stack { x, x } end,
      reduce = function() return half:sum(1):max() + half:norm() end,
      softmax = function() return half:softmax(1) end,
      matmul = function() return half:matmul(x:transpose(1, 2)) end,
      index = function() return half:index_select(2, { 1, 3 }) end,
      tensor = function() return kava.tensor({ { 1, 2 } }, { dtype = "i8" }) end,
      randn = function() return kava.randn({ 3 }, { dtype = "f64" }) end,
      allclose = function() return kava.allclose(half, x:transpose(1, 2):reshape(2, 3)) end,
      copy = function() return x:clone():copy_(x:clone()) end,
      backward = function()
        local leaf = x:to({ dtype = "f32" }):requires_grad(true)
        local wide = leaf:to { dtype = "f64" }
        local bent = (leaf * leaf:narrow(1, 1, 1) / half):softmax(1):matmul(wide:transpose(1, 2)):to { dtype = "f32" }
        local joined = kava.cat({ bent, leaf:max(2, true), leaf:index_select(2, { 2 }) ^ leaf:narrow(2, 1, 1) }, 2)
        joined:norm():backward()
      end,
    }
    for name, f in pairs(functions) do exhaust(name, f) end
  end)
end)

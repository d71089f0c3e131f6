-- Checkpoints of a state on a GPU are written behind the steps that follow: they hold what was there when they were asked for.
local missing = require "spec.cuda.gpu" ()
local checkpoints = require "kava.checkpoints"
local helper = require "spec.helper"
local kava = require "kava"

describe("a checkpoint written behind", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end

  local claim = { holder = "me", held = function() return true end }
  local function open(dir, keep) return assert(checkpoints.open(dir, { keep = keep or 0, claim = claim })) end
  local function finish(store)
    while store.writing do assert(store:advance()) end
  end

  it("holds the state as it was, whatever comes after", function()
    local dir = helper.tmp()
    local store = open(dir)
    local x, n = kava.arange(1000):to { dtype = "f32", device = "cuda" }, kava.full({ 1 }, 7, { dtype = "i64", device = "cuda" })
    local path = assert(store:behind(3, { x = x, n = n }, { step = 3 }))
    x:fill_(0)
    n:fill_(8)
    assert.is_false(kava.fs.exists(path))
    finish(store)
    local tensors, meta = kava.checkpoint.load(path)
    assert.equal(999, tensors.x:max():item())
    assert.equal(7, tensors.n:item())
    assert.equal(3, meta.step)
    assert.same({ "step-00000003.kava" }, kava.fs.list(dir))
  end)

  -- A step that is recorded, with its optimizer, as training does it; and what a checkpoint holds.
  local function training()
    kava.seed(3)
    local x = kava.randn({ 600, 40 }):to { device = "cuda" }
    local w = { a = kava.randn({ 40, 120 }):to({ device = "cuda", dtype = "bf16" }):requires_grad(true),
      b = kava.randn({ 120, 7 }):to({ device = "cuda", dtype = "bf16" }):requires_grad(true) }
    local optimizer = kava.optim.adamw({ { params = w, lr = 1e-2 } }, { state_dtype = "8bit" })
    local function step()
      local scope <close> = kava.scope() -- luacheck: ignore 211
      x:matmul(w.a:to { dtype = "f32" }):silu():matmul(w.b:to { dtype = "f32" }):mean():backward()
      optimizer:step()
      optimizer:zero_grad()
    end
    step()
    return kava.record(step), function()
      local all = { a = w.a, b = w.b, turned = w.a:permute(2, 1) }
      for name, t in pairs(optimizer:state()) do all["optimizer." .. name] = t end
      return all
    end
  end

  it("is to the bit one that was saved at its step while nothing else ran, whatever steps follow", function()
    local function run(prepared, crowded)
      local dir, replay, state = helper.tmp(), training()
      local store, all = open(dir, 9), 0
      store.crowded = crowded
      if prepared then
        while not store:prepare(state) do all = all + 1 end
      end
      for i = 1, 6 do
        replay:run()
        if i % 2 == 0 then assert(store:behind(i, state(), { step = i })) end
        assert(store:advance())
      end
      finish(store)
      return dir
    end
    local dir, replay, state = helper.tmp(), training()
    local alone = open(dir, 9)
    for i = 1, 6 do
      replay:run()
      if i % 2 == 0 then assert(alone:save(i, state(), { step = i })) end
    end
    local others = { run(false), run(true), run(false, true), run(true, true) }
    for i = 2, 6, 2 do
      local name = ("/step-%08d.kava"):format(i)
      local expected = assert(kava.checkpoint.load(dir .. name))
      assert.truthy(expected["optimizer.1.a.most"] and expected.turned)
      for _, other in ipairs(others) do
        local tensors = assert(kava.checkpoint.load(other .. name))
        for key, t in pairs(expected) do
          assert.same({ key, t.dtype, t:totable() }, { key, tensors[key].dtype, tensors[key]:totable() })
        end
      end
    end
  end)

  it("is copied on the GPU by as few copies as there are chunks of memory", function()
    if os.getenv "KAVA_CUDA" ~= "emulated" then return end -- there every tensor is one, unless told otherwise
    local text = helper.run(("exec 2>&1; env KAVA_CUDA_TROUBLE=chunk=16384 %s -e '%s'"):format(helper.program(), [[
      local kava = require "kava"
      local state, wide = {}, kava.lasting(kava.randn, { 9, 400 }):to { device = "cuda" }
      for i = 1, 60 do
        local dtype = ({ "f32", "i64", "bf16", "u8" })[i % 4 + 1]
        state[i] = kava.lasting(kava.full, { i * 37 % 200 + 1 }, i, { device = "cuda", dtype = dtype })
      end
      for i = 1, 9 do state[60 + i] = wide:narrow(1, i, 1):reshape(400):narrow(1, i, 300) end
      local expected, copies = {}, nil
      for i, t in ipairs(state) do expected[i] = t:to({ device = "cpu" }):totable() end
      kava.profile_begin()
      copies = kava.snapshot(state)
      local count = 0
      for _, kernel in ipairs(kava.profile_end().kernels) do
        assert(kernel.name == "memcpy, device to device")
        count = count + 1
      end
      for _, t in ipairs(state) do t:fill_(0) end
      for i, t in ipairs(copies) do
        local came = t:to({ device = "cpu" }):totable()
        assert(#came == #expected[i] and t.dtype == state[i].dtype)
        for j, x in ipairs(came) do assert(x == expected[i][j]) end
      end
      print(#copies, count)]]))
    local tensors, copies = text:match "^(%d+)\t(%d+)\n$"
    assert.equal("69", tensors, text)
    assert.is_true(tonumber(copies) <= 6, text)
  end)

  it("is read by a stream that waits for what it holds: the emulator would not have it otherwise", function()
    if os.getenv "KAVA_CUDA" ~= "emulated" then return end
    for trouble, said in pairs {
      ["nowait=1"] = "stream 2 reads an allocation of %d+ bytes that stream 1 may still be writing: nobody waited for that",
      ["nowait=0"] = "^true\n$",
    } do
      local text = helper.run(("exec 2>&1; ulimit -c 0; env KAVA_CUDA_TROUBLE=%s %s -e '%s'"):format(trouble, helper.program(), [[
        local kava = require "kava"
        local path, x = os.tmpname(), kava.ones({ 1000 }, { device = "cuda" })
        print((kava.checkpoint.save_behind(path, kava.snapshot { x = x }, {}):wait()))
        os.remove(path)]]))
      assert.matches(said, text)
    end
  end)

  it("has its room on the GPU from the first to the last, and a larger one for a larger state", function()
    local dir = helper.tmp()
    local store, state = open(dir), {}
    for i = 1, 5 do state["t" .. i] = kava.full({ 1024 }, i, { device = "cuda" }) end
    local before = kava.memory().cuda.current
    assert.is_true(store:prepare(function() return state end))
    assert.is_true(store:prepare(function() error "is asked for once" end))
    local taken = kava.memory().cuda.current - before
    assert.is_true(taken >= 5 * 4096 and taken < 6 * 4096)
    for step = 1, 3 do
      for i = 1, 5 do state["t" .. i]:fill_(10 * step + i) end
      assert(store:behind(step, state, {}))
      for i = 1, 5 do state["t" .. i]:fill_(0) end
      finish(store)
      assert.equal(taken, kava.memory().cuda.current - before)
      local tensors = kava.checkpoint.load(("%s/step-%08d.kava"):format(dir, step))
      for i = 1, 5 do assert.equal(10 * step + i, tensors["t" .. i]:min():item()) end
    end
    state.more = kava.full({ 8192 }, 7, { device = "cuda" })
    assert(store:behind(4, state, {}))
    finish(store)
    assert.equal(7, kava.checkpoint.load(dir .. "/step-00000004.kava").more:max():item())
  end)

  it("goes by way of the host where the GPU has no room, which is prepared a little at a time", function()
    local store, state = open(helper.tmp()), {}
    for i = 1, 5 do state["t" .. i] = kava.full({ 1024 }, i, { device = "cuda" }) end
    local function all() return state end
    collectgarbage()
    collectgarbage()
    kava.memory_limit(kava.memory().cuda.current + 4096, "cuda")
    finally(function() kava.memory_limit(0, "cuda") end)
    store.share = 0
    for _ = 1, 4 do -- one at a call
      assert.is_false(store:prepare(all))
      assert.is_false(store:free(1))
    end
    assert.is_true(store:prepare(function() error "is asked for once" end))
    assert.is_true(store:free(1))
    local real, fetches = kava.fetch, {}
    kava.fetch = function(t)
      fetches[#fetches + 1] = real(t)
      return fetches[#fetches]
    end
    local ok, message = pcall(function() assert(store:behind(1, state, {})) end)
    kava.fetch = real
    assert(ok, message)
    for i = 1, 5 do state["t" .. i]:fill_(0) end
    finish(store)
    local tensors = kava.checkpoint.load(store.folder .. "/step-00000001.kava")
    for i = 1, 5 do assert.equal(i, tensors["t" .. i]:min():item()) end
    assert.equal(5, #fetches)
    for _, fetch in ipairs(fetches) do -- for the next one, whenever Lua collects
      local held, reason = pcall(fetch.read, fetch)
      assert.is_false(held)
      assert.matches("the fetched value was released", reason)
    end
    store = open(helper.tmp())
    store.share = 0
    assert.is_false(store:prepare(all))
    assert(store:behind(2, state, {})) -- not all of it is there when it is asked for
    assert.is_true(store:prepare(all))
    finish(store)
    assert.equal(0, kava.checkpoint.load(store.folder .. "/step-00000002.kava").t3:max():item())
  end)

  it("takes no more than half of what the GPU has free, and gives that back", function()
    local dir = helper.tmp()
    local store, x = open(dir, 9), kava.full({ 8192 }, 7, { device = "cuda" })
    local function state() return { x = x } end
    collectgarbage()
    collectgarbage()
    finally(function() kava.memory_limit(0, "cuda") end)
    kava.memory_limit(kava.memory().cuda.current + 2 * 32768 - 512, "cuda")
    assert.is_true(store:prepare(state))
    assert.is_true(store.crowded)
    assert.is_false(store:yield())
    store = open(dir, 9)
    local before = kava.memory().cuda.current
    kava.memory_limit(before + 2 * 32768, "cuda")
    assert.is_true(store:prepare(state))
    assert.is_nil(store.crowded or nil)
    assert.equal(32768, kava.memory().cuda.current - before)
    assert(store:behind(1, state(), {}))
    assert.is_true(store:yield()) -- written first
    assert.equal(before, kava.memory().cuda.current)
    x:fill_(8)
    assert.is_true(store:prepare(state)) -- the host's
    assert(store:behind(2, state(), {}))
    x:fill_(9)
    finish(store)
    assert.equal(before, kava.memory().cuda.current)
    for step = 1, 2 do
      assert.equal(6 + step, kava.checkpoint.load(("%s/step-%08d.kava"):format(dir, step)).x:min():item())
    end
    assert.is_false(store:yield())
  end)

  it("is asked for without waiting only where none is being written, or this very one", function()
    local store, x = open(helper.tmp()), kava.ones({ 4 }, { device = "cuda" })
    assert.is_true(store:free(1))
    store:behind(1, { x = x }, {})
    assert.is_true(store:free(1))
    assert.is_false(store:free(2))
    finish(store)
    assert.is_true(store:free(2))
  end)

  it("says how long it took to write, not how long the run waited for it", function()
    local dir, took = helper.tmp(), {}
    local store = open(dir)
    function store.took(seconds) took[#took + 1] = seconds end
    local save, x = kava.checkpoint.save_behind, kava.ones({ 4 }, { device = "cuda" })
    finally(function() kava.checkpoint.save_behind = save end)
    function kava.checkpoint.save_behind(...) -- luacheck: ignore 122
      local writing = save(...)
      return { done = function() return writing:done() end, wait = function() return writing:wait() and true, 50 end }
    end
    store:behind(1, { x = x }, { step = 1 })
    assert.same({}, took)
    finish(store)
    assert.same({ 50 }, took)
    local started = kava.clock()
    assert(store:save(2, { x = x }, { step = 2 }))
    assert.equal(2, #took)
    assert.is_true(took[2] > 0 and took[2] <= kava.clock() - started)
    local writing = assert(save(dir .. "/own", { x = x:to { device = "cpu" } }, {}))
    local ok, seconds = writing:wait()
    assert.is_true(ok and seconds > 0 and seconds < kava.clock() - started)
  end)

  it("is one state under two names, and comes before a later one", function()
    local dir = helper.tmp()
    local store = open(dir)
    local x = kava.ones({ 4 }, { device = "cuda" })
    store:behind(1, { x = x }, { step = 1 }, "best")
    store:behind(1, { x = x }, { step = 1, more = true })
    x:fill_(2)
    store:behind(2, { x = x }, { step = 2 })
    assert.same({ 1 }, store:steps())
    assert.equal(1, kava.checkpoint.load(dir .. "/best.kava").x:max():item())
    assert(store:save(3, { x = x }, { step = 3 }))
    assert.same({ 3 }, store:steps()) -- keep = 0: older ones went, in their turn
    assert.is_nil(store.writing)
  end)

  it("leaves the last good one, and says what went wrong", function()
    local dir = helper.tmp() .. "/kept"
    local store = open(dir)
    local x = kava.ones({ 4 }, { device = "cuda" })
    assert(store:save(1, { x = x }, { step = 1 }))
    local lost = { holder = "other", held = function() return nil, "the folder is another's" end }
    store.claim = lost
    store:behind(2, { x = x }, { step = 2 })
    assert.same({ nil, "the folder is another's" }, { store:advance(true) })
    assert.same({ "step-00000001.kava" }, kava.fs.list(dir))
    store.claim, store.folder = claim, dir .. "/gone"
    store:behind(3, { x = x }, { step = 3 })
    local ok, message
    repeat ok, message = store:advance() until not ok or not store.writing
    assert.is_nil(ok)
    assert.truthy(message:find("gone", 1, true), message)
    assert.is_true(kava.checkpoint.valid(dir .. "/step-00000001.kava"))
    assert.is_true(store:advance(true))
  end)

  it("takes contiguous tensors of a GPU", function()
    local x = kava.ones({ 4, 3 }, { device = "cuda" }):permute(2, 1)
    assert.error_matches(function() kava.checkpoint.save_behind(helper.tmp() .. "/a", { x = x }, {}) end, "'x' is on a GPU and not")
    assert.error_matches(function() kava.snapshot { x = x } end, "contiguous ones on cuda")
    assert.error_matches(function() kava.snapshot { x = kava.ones { 4 } } end, "a f32 tensor on cpu")
  end)
end)

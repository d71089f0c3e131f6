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

  it("finds its room prepared, a little at a time, and is the same then", function()
    local dir = helper.tmp()
    local store, state = open(dir), {}
    store.share = 16384
    for i = 1, 5 do state["t" .. i] = kava.full({ 1024 }, i, { device = "cuda" }) end
    local function all() return state end
    assert.is_false(store:prepare(all)) -- four of them are more than a call's share
    assert.is_true(store:prepare(function() error "is asked for once" end))
    assert.is_true(store:prepare(all))
    assert(store:behind(1, state, {}))
    for i = 1, 5 do state["t" .. i]:fill_(0) end
    finish(store)
    local tensors = kava.checkpoint.load(dir .. "/step-00000001.kava")
    for i = 1, 5 do assert.equal(i, tensors["t" .. i]:min():item()) end
    store = open(dir)
    store.share = 8192 -- not all of it is there when it is asked for
    assert.is_false(store:prepare(all))
    assert(store:behind(2, state, {}))
    assert.is_true(store:prepare(all))
    finish(store)
    assert.equal(0, kava.checkpoint.load(dir .. "/step-00000002.kava").t3:max():item())
  end)

  it("gives its room on the host to the next one, whenever Lua collects", function()
    local store, state, real, fetches = open(helper.tmp()), {}, kava.fetch, {}
    for i = 1, 5 do state["t" .. i] = kava.full({ 1024 }, i, { device = "cuda" }) end
    kava.fetch = function(t)
      fetches[#fetches + 1] = real(t)
      return fetches[#fetches]
    end
    local ok, message = pcall(function() assert(store:behind(1, state, {})) end)
    kava.fetch = real
    assert(ok, message)
    assert.equal(5, #fetches)
    finish(store)
    for _, fetch in ipairs(fetches) do
      local held, reason = pcall(fetch.read, fetch)
      assert.is_false(held)
      assert.matches("the fetched value was released", reason)
    end
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

  it("takes tensors of the CPU only where nobody fetches them", function()
    local x = kava.ones({ 4 }, { device = "cuda" })
    assert.error_matches(function() kava.checkpoint.save_behind(helper.tmp() .. "/a", { x = x }, {}) end, "'x' is on a GPU")
  end)
end)

-- What a teacher gave, kept for later epochs: the same bits as the teacher would give again, from memory and from files.
local kava = require "kava"
local helper = require "spec.helper"
local program = require "spec.program"

describe("a teacher's cache", function()
  local dir, teacher, tokenizer

  setup(function()
    dir = helper.tmp()
    require("spec.tiny").model(dir .. "/teacher", { layers = 4, hidden = 16 })
    teacher, tokenizer = assert(kava.model.load(dir .. "/teacher")), assert(kava.tokenizer.load(dir .. "/teacher"))
    local lines = {}
    for i = 1, 40 do
      lines[i] = ('{"question": "Row %d has%s apples.", "answer": "%d"}'):format(i, (" many"):rep(i * 7 % 11), i * i)
    end
    helper.write(dir .. "/rows.jsonl", table.concat(lines, "\n") .. "\n")
  end)

  local function rows(max_length)
    return assert(kava.data.tokens(dir .. "/rows.jsonl", tokenizer, { max_length = max_length or 48, eos = false }))
  end

  local function loss(settings, kv)
    return kava.loss.build(nil, { teacher = teacher, student = kava.model.derive(teacher, { layers = { 2, 4 }, dtype = "f32" }),
      loss = settings, kv = kv, seed = 1 })
  end

  -- {"keys 2" = tensor, …, hidden = tensor} of an output, real tokens only.
  local function content(out, batch, fields)
    local list, mask = {}, batch.mask:to { dtype = "f32" }
    for _, field in ipairs(fields) do
      local t = field.part == "hidden" and out.hidden or out.kv.raw[field.part][field.layer]
      local shape = t.shape
      t = t:reshape(shape[1], shape[2], -1)
      list[field.part .. (field.layer or "")] = t * mask:reshape(shape[1], shape[2], 1):expand(table.unpack(t.shape))
    end
    return list
  end

  -- Two epochs with a cache, the second in other batches: each recalled batch beside the teacher's own pass. -> batches recalled
  local function two_epochs(built, cache, data, options)
    local recalled = 0
    for epoch = 1, 2 do
      for batch in data:batches { batch = options.batch or 6, seed = 3, epoch = epoch, mode = options.mode, length = options.length } do
        local there = kava.no_grad(function() return cache:recall(batch) end)
        local out = there or kava.no_grad(function() return cache:teach(batch) end)
        if there then recalled = recalled + 1 end
        local live = kava.no_grad(function() return built:teach(batch, cache.needs) end)
        local expected = content(live, batch, cache.fields)
        for name, t in pairs(content(out, batch, cache.fields)) do
          assert.is_true((kava.allclose(t, expected[name], { rtol = 0, atol = options.atol or 0 })), name)
        end
      end
    end
    return recalled
  end

  for _, case in ipairs {
    { name = "matched layers", fields = 4 },
    { name = "keys before rotation, logits", settings = { kl = 1 }, kv = { rope = "pre", part = "keys" }, fields = 3 },
    { name = "attention maps", settings = { name = "structural" }, fields = 12 },
    { name = "an aggregate of all layers", settings = { name = "mercator" }, kv = { part = "keys", project = "teacher" }, fields = 4 },
    { name = "an aggregate of some", settings = { name = "mercator" }, kv = { part = "values", layers = { teacher = { 1, 3 } } },
      fields = 2 },
  } do
    for _, mode in ipairs { "bucket", "pack", "pad" } do
      it(("gives the teacher's bits: %s, %s"):format(case.name, mode), function()
        local built, data = loss(case.settings, case.kv), rows()
        local cache = assert(kava.teacher_cache.open(built, {}))
        assert.equal(case.fields, #cache.fields)
        local recalled = two_epochs(built, cache, data, { mode = mode, length = 48 })
        assert.is_true(recalled >= 4, recalled)
        assert.equal(data.tokens * cache:token_bytes(), cache.bytes)
      end)
    end
  end

  it("keeps pieces of rows that are cut, each by itself", function()
    local built, data = loss(), rows(64)
    local cache = assert(kava.teacher_cache.open(built, {}))
    assert.is_true(two_epochs(built, cache, data, { mode = "pack", length = 24 }) >= 4)
    assert.is_true(cache.count > 40)
  end)

  it("rounds to bf16 where asked, from the first epoch on", function()
    local built, data = loss(), rows()
    local cache = assert(kava.teacher_cache.open(built, { dtype = "bf16" }))
    for batch in data:batches { batch = 40, mode = "pad" } do
      local first, again = kava.no_grad(function() return cache:teach(batch) end), kava.no_grad(function() return cache:teach(batch) end)
      local live = kava.no_grad(function() return built:teach(batch, cache.needs) end)
      assert.is_true((kava.allclose(first.kv:keys(2), again.kv:keys(2), { rtol = 0, atol = 0 })))
      local mask = batch.mask:to({ dtype = "f32" }):reshape(40, 1, -1, 1)
      local mine, theirs = first.kv:keys(2), live.kv:keys(2)
      mask = mask:expand(table.unpack(mine.shape))
      assert.is_true((kava.allclose(mine, theirs * mask, { rtol = 0x1p-8, atol = 0 })))
      assert.is_false((kava.allclose(mine, theirs * mask, { rtol = 0, atol = 0 })))
    end
    assert.equal(data.tokens * cache.width * 2, cache.bytes)
  end)

  describe("in a folder", function()
    local function filled(folder, identity, data)
      local built = loss()
      local cache = assert(kava.teacher_cache.open(built, { folder = folder, identity = identity or "one" }))
      for batch in data:batches { batch = 8 } do kava.no_grad(function() return cache:teach(batch) end) end
      return cache, built
    end

    it("holds what two runs write at the same time", function()
      local data, folder = rows(), dir .. "/shared"
      local function beside_row_1(seed) -- a batch of two rows, one of them the first
        for batch in data:batches { batch = 2, seed = seed, mode = "pad" } do
          if batch.rows[1] == 1 then return batch, batch.rows[2] end
          if batch.rows[2] == 1 then return batch, batch.rows[1] end
        end
      end
      local first, with = beside_row_1(1)
      local second, other = beside_row_1(2)
      assert.not_equal(with, other)
      local caches = {}
      for i = 1, 2 do caches[i] = assert(kava.teacher_cache.open(loss(), { folder = folder, identity = "one" })) end
      for i, batch in ipairs { first, second } do
        kava.no_grad(function() caches[i]:teach(batch) end)
        caches[i]:flush()
      end
      assert.equal(3, assert(kava.teacher_cache.open(loss(), { folder = folder, identity = "one" })).count)
    end)

    it("is there again, for the same teacher and data alone", function()
      local folder, data = dir .. "/again", rows()
      local cache, built = filled(folder, "one", data)
      cache:flush()
      assert.equal(40, cache.count)
      local again = assert(kava.teacher_cache.open(built, { folder = folder, identity = "one" }))
      assert.equal(40, again.count)
      assert.is_true(two_epochs(built, again, data, { mode = "pack", length = 48 }) >= 8)
      assert.equal(0, assert(kava.teacher_cache.open(built, { folder = folder, identity = "two" })).count)
      assert.equal(0, assert(kava.teacher_cache.open(built, { folder = folder, identity = "one", dtype = "bf16" })).count)
    end)

    it("passes over damaged files and makes their pieces again", function()
      local folder, data = dir .. "/damaged", rows()
      local cache, built = filled(folder, "one", data)
      cache:flush()
      local path = cache.folder .. "/" .. kava.fs.list(cache.folder)[1]
      cache, path = nil, path -- luacheck: ignore 311 (the mapped file is about to be cut)
      collectgarbage()
      local text = helper.read(path)
      helper.write(path, text:sub(1, #text // 2))
      local again = assert(kava.teacher_cache.open(built, { folder = folder, identity = "one" }))
      assert.equal(0, again.count)
      two_epochs(built, again, data, { mode = "bucket" })
      assert.equal(40, again.count)
    end)

    it("goes on in memory where it cannot write", function()
      local said = {}
      local data = rows()
      local cache = filled(dir .. "/unwritable", "one", data)
      cache.warn = function(message) said[#said + 1] = message end
      cache.folder = "/proc/none"
      cache:flush()
      assert.equal(1, #said)
      assert.truthy(said[1]:find("/proc/none", 1, true), said[1])
      for batch in data:batches { batch = 8, mode = "pad" } do assert.is_table(cache:recall(batch)) end
      cache:flush()
      assert.equal(1, #said)
    end)
  end)

  it("is refused on a GPU where tokenizers are unlike", function()
    local built = loss()
    built.teacher = setmetatable({ device = function() return "cuda" end }, { __index = teacher })
    built.align = {}
    assert.same({ nil, "teacher.cache: not for unlike tokenizers on device cuda; teacher.cache=none, or device=cpu", "unsupported" },
      { kava.teacher_cache.open(built, {}) })
  end)

  it("is refused where no teacher is needed", function()
    local built = loss { name = "none" }
    assert.has_error(function() kava.teacher_cache.open(built, {}) end, "teacher_cache: this loss needs no teacher")
  end)

  describe("in a run", function()
    local function train(arguments)
      return program.shell((("%s recipes/train_adaptive.lua teacher.path=DIR/teacher student.layers=2 data.train=DIR/rows.jsonl "
        .. "data.eval=DIR/rows.jsonl data.max_length=48 training.steps=6 target_batch=16 batch_size=4 eval.before=false eval.every=0 "
        .. "eval.rows=8 eval.generate=0 checkpoint.every=2 learning_rate.student=1e-2 warmup=1 paths.cache=DIR/cache %s"):gsub("DIR", dir)
      ):format(program.path, arguments))
    end

    it("changes no bit of what is learnt, through a resume too", function()
      assert.equal(0, (train("output=" .. dir .. "/live")))
      local weights = helper.read(dir .. "/live/student/model.safetensors")
      for _, where in ipairs { "memory", "disk" } do
        local folder = dir .. "/" .. where
        local code, out, err = train(("teacher.cache=%s output=%s"):format(where, folder))
        assert.equal(0, code, err)
        assert.truthy(out:find("cache      the teacher's keys and values in", 1, true), out)
        assert.equal(weights, helper.read(folder .. "/student/model.safetensors"))
      end
      assert(kava.fs.remove(dir .. "/disk/checkpoints/step-00000006.kava"))
      local code, out, err = train("teacher.cache=disk output=" .. dir .. "/disk")
      assert.equal(0, code, err)
      assert.truthy(out:find("(40 are there)", 1, true), out)
      assert.truthy(out:find("resume", 1, true), out)
      assert.equal(weights, helper.read(dir .. "/disk/student/model.safetensors"))
    end)

    it("says what does not fit, and what a cache is not for", function()
      local code, _, err = train("teacher.cache=memory loss.name=none output=" .. dir .. "/none")
      assert.equal(2, code)
      assert.truthy(err:find("teacher.cache: this loss needs no teacher; teacher.cache=none", 1, true), err)
      code, _, err = train("teacher.cache=/proc/none output=" .. dir .. "/proc")
      assert.equal(1, code)
      assert.truthy(err:find("/proc/none", 1, true), err)
    end)
  end)
end)

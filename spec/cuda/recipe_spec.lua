-- The main job on a GPU: the recipe that runs on the CPU, told device=cuda, and what it leaves behind.
local missing = require "spec.cuda.gpu" ()
local helper = require "spec.helper"
local cjson = require "cjson"

local function read(path)
  local file <close> = assert(io.open(path))
  return file:read "a"
end

describe("train_adaptive with device=cuda", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end

  it("learns what it learns on the cpu, and leaves the same things behind", function()
    local dir = helper.tmp()
    require("spec.tiny").model(dir .. "/teacher", { layers = 4, hidden = 16 })
    for name, count in pairs { train = 12, eval = 4 } do
      local lines = {}
      local rows = dofile("recipes/problems.lua").rows { seed = 1, count = count, split = "train" }
      for i, row in ipairs(rows) do lines[i] = cjson.encode(row) end
      helper.write(dir .. "/" .. name .. ".jsonl", table.concat(lines, "\n") .. "\n")
    end
    local experiment = helper.write(dir .. "/toy.lua", ([[return {
      name = "toy", seed = 3, teacher = { path = "DIR/teacher" }, student = { layers = 2 },
      data = { train = "DIR/train.jsonl", eval = "DIR/eval.jsonl", max_length = 16 }, precision = "f32",
      training = { steps = 3 }, target_batch = 4, batch_size = 2, schedule = { name = "cosine", warmup = 1 },
      learning_rate = { student = 1e-2 }, eval = { every = 0, rows = 4, before = false, generate = 1 },
      -- no dropout: a GPU's rows are filled up, so that it would take other elements there
      checkpoint = { every = 2, keep = 1 }, loss = { name = "mercator", kl = 0.5 }, kv = { project = "student", dropout = 0 },
      paths = { output = "DIR/runs", cache = "DIR/cache" } }]]):gsub("DIR", dir))
    local found = {}
    for _, device in ipairs { "cpu", "cuda" } do
      local text, code = helper.run(("%s recipes/train_adaptive.lua --config=%s device=%s profile=true record=false output=%s/%s"):format(
        helper.program(), experiment, device, dir, device))
      assert.equal(0, code, text)
      if device == "cuda" then assert.truthy(text:find "cuda: ", 1, true) end
      local tables = read(("%s/%s/profile.txt"):format(dir, device))
      local trace = read(("%s/%s/profile.json"):format(dir, device))
      local product = device == "cpu" and "\nlinear_forward +%d" or "\na product +%d"
      -- CUPTI has the library's own names
      assert.truthy(tables:find(product) or device == "cuda" and tables:find("timed by CUPTI", 1, true), tables)
      assert.truthy(device == "cuda" or tables:find "\nteacher +%d", tables) -- a recorded step's parts were named when it was recorded
      assert.is_true(#cjson.decode(trace).traceEvents > 100)
      found[device] = { losses = {} }
      for line in io.lines(("%s/%s/metrics.jsonl"):format(dir, device)) do
        local record = cjson.decode(line)
        table.insert(found[device].losses, record.loss or record.ce)
      end
      found[device].student = assert(require("kava").model.load(("%s/%s/student"):format(dir, device))):parameters()
    end
    assert.equal(#found.cpu.losses, #found.cuda.losses)
    for i, loss in ipairs(found.cpu.losses) do assert.near(loss, found.cuda.losses[i], 2e-4, "record " .. i) end
    for name, t in pairs(found.cpu.student) do
      -- AdamW's first steps are of the rate's size whatever the gradient's: where a gradient is nearly 0 its sign decides
      assert.is_true((t - found.cuda.student[name]):abs():mean():item() < 2e-4, name)
    end
  end)

  it("learns the same bits recorded, called, and resumed in the middle, with f16's scale too", function()
    local dir = helper.tmp()
    require("spec.tiny").model(dir .. "/teacher", { layers = 2, hidden = 16 })
    local lines = {}
    for i, row in ipairs(dofile("recipes/problems.lua").rows { seed = 1, count = 8, split = "train" }) do lines[i] = cjson.encode(row) end
    helper.write(dir .. "/rows.jsonl", table.concat(lines, "\n") .. "\n")
    local experiment = helper.write(dir .. "/toy.lua", ([[return {
      name = "toy", teacher = { path = "DIR/teacher", offload = true }, student = { layers = 1 },
      precision = "f16", batch_size = 2, target_batch = 4, loss = { ce = { from = 1, to = 0.5, steps = 8 } },
      data = { train = "DIR/rows.jsonl", eval = "DIR/rows.jsonl", max_length = 12 }, training = { steps = 6 }, schedule = { warmup = 1 },
      eval = { every = 0, before = false, rows = 2 }, checkpoint = { every = 2, keep = 5 }, paths = { cache = "DIR/cache" } }]])
      :gsub("DIR", dir))
    local function train(name, arguments, program)
      local text, code = helper.run(("%s --config=%s device=cuda output=%s/%s %s"):format(program or helper.program()
        .. " recipes/train_adaptive.lua", experiment, dir, name, arguments))
      assert.equal(0, code, text)
      assert.truthy(text:find("of the teacher in host memory", 1, true), text)
      local figures = {}
      for line in io.lines(("%s/%s/metrics.jsonl"):format(dir, name)) do
        local record = cjson.decode(line)
        figures[("%d%s"):format(record.step, record.kind)] = { record.loss, record.ce, record.grad_norm, record.scale, record.tokens }
      end
      return figures, helper.read(("%s/%s/student/model.safetensors"):format(dir, name)), text
    end
    -- The recipe with another Checkpoints:prepare.
    local function prepared(name, code)
      return helper.program() .. " " .. helper.write(("%s/%s.lua"):format(dir, name), ([[
        local kava, checkpoints = require "kava", require "kava.checkpoints"
        local open = checkpoints.open
        function checkpoints.open(...)
          local store = assert(open(...))
          local prepare = store.prepare
          function store:prepare(...)
            %s
          end
          return store
        end
        return dofile "recipes/train_adaptive.lua"]]):format(code))
    end
    -- Without room on the GPU: what steps alone take at most.
    local function crowded(name)
      return prepared(name .. "-crowded", ([[
        self.crowded = true
        assert(kava.fs.write("%s/peak-%s", tostring(kava.memory().cuda.peak)))
        return prepare(self, ...)]]):format(dir, name))
    end
    local figures, weights = train("recorded", "", crowded "recorded")
    assert.is_true(figures["1train"][1] ~= figures["6train"][1] and figures["6train"][4] > 1)
    local called, called_weights = train("called", "record=false", crowded "called")
    assert.same(figures, called)
    assert.equal(weights, called_weights)
    -- A disk that takes two steps and more to write a checkpoint: the next one is taken when it is done.
    local slow = helper.write(dir .. "/slow.lua", [[
      local kava = require "kava"
      local save = kava.checkpoint.save_behind
      function kava.checkpoint.save_behind(...)
        local writing, asked = assert(save(...)), 0
        return {
          wait = function() return writing:wait() end,
          done = function()
            asked = asked + 1
            return asked > 2 and (writing:wait())
          end,
        }
      end
      return dofile "recipes/train_adaptive.lua"
    ]])
    local late, late_weights, text = train("slow", "", helper.program() .. " " .. slow)
    assert.same(figures, late)
    assert.equal(weights, late_weights)
    assert.truthy(text:find("checkpoint: step 4's was taken after step 5, the first that it kept nothing waiting", 1, true), text)
    assert.same({ "step-00000002.kava", "step-00000005.kava", "step-00000006.kava" }, require("kava").fs.list(dir .. "/slow/checkpoints"))
    -- A step that lacks memory has the room for checkpoints first, called or recorded.
    for name, arguments in pairs { called = "record=false", recorded = "" } do
      local short, short_weights, told = train("narrow-" .. name, arguments, prepared("narrow-" .. name, ([[
        local before = kava.memory().cuda.current
        local all = prepare(self, ...)
        if self.room then kava.memory_limit(%s + (kava.memory().cuda.current - before) // 2, "cuda") end
        return all]]):format(helper.read(("%s/peak-%s"):format(dir, name)))))
      local where = name == "called" and "step %d" or "recording"
      assert.truthy(told:find(where .. ": out of memory: [^\n]*: the room for a checkpoint's copy is given back"), told)
      assert.falsy(told:find("at once from here on", 1, true) or told:find("called from here on", 1, true), told)
      assert.same(figures, short)
      assert.equal(weights, short_weights)
    end
    local resumed, resumed_weights = train("resumed", ("resume=%s/slow/checkpoints/step-00000005.kava"):format(dir))
    for step, row in pairs(resumed) do assert.same(figures[step], row, step) end
    assert.is_nil(resumed["5train"])
    assert.is_truthy(resumed["6train"])
    assert.equal(weights, resumed_weights)
  end)
end)

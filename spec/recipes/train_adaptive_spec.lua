-- The main job on a model of a few thousand weights: what a run leaves behind, that it goes on bit by bit after any end, and that bad
-- input is named. The runs are programs of their own, as a user starts them.
local cjson = require "cjson"
local helper = require "spec.helper"
local program = require "spec.program"
local config = require "kava.config"

local RECIPE = "recipes/train_adaptive.lua"

describe("train_adaptive", function()
  local dir, experiment

  -- kava recipes/train_adaptive.lua with the toy experiment. -> exit code, output, errors
  local function train(arguments, before)
    return program.shell(("KAVA_CUDA=off %s %s %s --config=%s %s"):format(before or "", program.path, RECIPE, experiment, arguments or ""))
  end

  local function rows(path, first, count)
    local lines = {}
    for i, row in ipairs(dofile("recipes/problems.lua").rows { seed = first, count = count, split = "train" }) do
      lines[i] = cjson.encode(row)
    end
    return helper.write(path, table.concat(lines, "\n") .. "\n")
  end

  setup(function()
    dir = helper.tmp()
    require("spec.tiny").model(dir .. "/teacher", { layers = 4, hidden = 16 })
    rows(dir .. "/train.jsonl", 1, 44)
    rows(dir .. "/eval.jsonl", 2, 8)
    experiment = helper.write(dir .. "/toy.lua", ([[return {
      name = "toy", seed = 3, teacher = { path = "DIR/teacher" }, student = { layers = 2 },
      data = { train = "DIR/train.jsonl", eval = "DIR/eval.jsonl", max_length = 32 },
      training = { steps = 8 }, target_batch = 16, batch_size = 4, schedule = { name = "cosine", warmup = 2 },
      learning_rate = { student = 1e-2 }, eval = { every = 3, rows = 8 }, checkpoint = { every = 2, keep = 1 },
      paths = { output = "DIR/runs", cache = "DIR/cache" } }]]):gsub("DIR", dir))
  end)

  local function records(folder, kind)
    local list = {}
    for line in io.lines(folder .. "/metrics.jsonl") do
      local record = cjson.decode(line)
      record.tokens_per_s = nil
      if not kind or record.kind == kind then list[#list + 1] = record end
    end
    return list
  end

  local function weights(folder) return helper.read(folder .. "/student/model.safetensors") end

  it("quantises the teacher, not what the student starts from", function()
    local code, out, err = train("teacher.quantize=fp8 training.steps=1 learning_rate.student=1e-7 resume=none output="
      .. dir .. "/quantised")
    assert.equal(0, code, err)
    -- the derived student is the teacher's own layers: after a small step it is nearer to them than the codes are
    local kava = require "kava"
    local name = "model.layers.1.mlp.up_proj.weight"
    local teacher = assert(kava.model.load(dir .. "/teacher"))
    local own = teacher:weight "model.layers.3.mlp.up_proj.weight"
    local codes = kava.quant.encode(own, "fp8"):to { dtype = "f32" }
    local student = assert(kava.model.load(dir .. "/quantised/student")):weight(name)
    assert.is_true((student - own):norm():item() < 0.5 * (codes - own):norm():item(), out)
  end)

  local whole, seconds -- the folder of the unbroken run, and how long it took
  local function unbroken()
    if not whole then
      local clock = require("kava").clock
      local started = clock()
      assert.equal(0, (train("resume=none output=" .. dir .. "/whole")))
      whole, seconds = dir .. "/whole", clock() - started
    end
    return whole
  end

  it("shows every stage and leaves logs, checkpoints, config and a student that loads", function()
    local code, out, err = train("output=" .. dir .. "/whole")
    assert.equal("", err)
    assert.equal(0, code)
    unbroken()
    local at = 0
    for _, name in ipairs { "detect", "paths", "load", "data", "probe", "aggregate", "project", "tune", "eval  step 0", "train",
      "trained", "save", "student after" } do
      local found = out:find("\n" .. name, at, true) or out:find(name, at + 1, true)
      assert.truthy(found and found >= at, name .. " in its place in: " .. out)
      at = found
    end
    assert.truthy(out:find("micro-batch 4, 4 of them a step", 1, true))
    local steps = records(whole, "train")
    assert.equal(8, #steps)
    assert.truthy(steps[8].loss < steps[1].loss)
    assert.equal(3, #records(whole, "eval") - 1) -- before, 3, 6, after
    local kava = require "kava"
    assert.same({ "best.kava", "step-00000006.kava", "step-00000008.kava" }, kava.fs.list(whole .. "/checkpoints"))
    local resolved = assert(config.read(whole .. "/config.lua"))
    assert.equal(4, resolved.batch_size)
    assert.truthy(helper.read(whole .. "/config.lua"):find("-- " .. experiment, 1, true))
    local student = assert(kava.model.load(whole .. "/student"))
    assert.equal(2, #student.spec.layer)
    local _, rows_of_csv = helper.read(whole .. "/metrics.csv"):gsub("\n", "")
    assert.equal(1 + 8 + 4, rows_of_csv)
  end)

  it("reads the tail of an epoch as a smaller step", function()
    local steps = records(unbroken(), "train")
    -- 44 rows: 16, 16, 12, then the next epoch
    assert.truthy(steps[3].tokens < steps[1].tokens * 0.9)
    assert.truthy(steps[4].tokens > steps[3].tokens)
  end)

  it("gives the same bits again, on any number of threads", function()
    assert.equal(0, (train("threads=1 output=" .. dir .. "/again")))
    assert.equal(weights(unbroken()), weights(dir .. "/again"))
    assert.same(records(whole), records(dir .. "/again"))
  end)

  it("gives the same gradients however a step is cut into micro-batches", function()
    assert.equal(0, (train("data.mode=pad precision=f32 steps=2 output=" .. dir .. "/small")))
    assert.equal(0, (train("data.mode=pad precision=f32 steps=2 batch_size=16 output=" .. dir .. "/large")))
    local small, large = records(dir .. "/small", "train"), records(dir .. "/large", "train")
    -- Sums over 512 tokens in another order: a few units of f32's last place.
    for _, name in ipairs { "loss", "ce", "kv", "grad_norm" } do
      assert.near(large[1][name], small[1][name], 1e-5 * large[1][name], name)
    end
  end)

  describe("where memory runs out", function()
    -- LACK_CODE (Lua code) is run within that call of the training loss, LACK_AT.
    local function lacking(at, code, arguments)
      local loss = helper.write(dir .. "/lack.lua", [[
        local kava = require "kava"
        local build = dofile "recipes/loss/layer_matched.lua"
        local calls = 0
        return function(context)
          local term = build(context)
          local whole = term.loss
          term.loss = function(...)
            if kava.train() then calls = calls + 1 end
            if calls >= tonumber(os.getenv "LACK_AT") then
              load(os.getenv "LACK_CODE", "lack", "t", { kava = kava, calls = calls })()
            end
            return whole(...)
          end
          return term
        end]])
      return train(("loss.name=%s eval.every=0 %s"):format(loss, arguments), ("LACK_AT=%d LACK_CODE='%s'"):format(at, code))
    end

    it("goes on with half the rows at once, the same rows a step, also when it is resumed", function()
      local folder = dir .. "/halved"
      assert.equal(0, (lacking(99, "", "output=" .. dir .. "/enough")))
      -- 4 micro-batches a step: the 10th is within the third
      local code, out, err = lacking(10, "if calls == 10 then kava.memory_fail_after(5) end", "output=" .. folder)
      assert.equal(0, code, err)
      assert.truthy(out:find("step 3: out of memory (provoked by a test): ", 1, true), out)
      assert.truthy(out:find(": 2 rows at once from here on, 8 times a step", 1, true), out)
      local memory, expected, got = records(folder, "memory"), records(dir .. "/enough", "train"), records(folder, "train")
      assert.equal(1, #memory)
      assert.equal(2, memory[1].rows)
      assert.equal(8, #got)
      for i = 1, 8 do
        assert.equal(expected[i].tokens, got[i].tokens) -- the same rows
        assert.near(expected[i].loss, got[i].loss, 1e-3 * expected[i].loss, "step " .. i)
      end
      assert.near(expected[3].grad_norm, got[3].grad_norm, 1e-5 * expected[3].grad_norm)
      local half = dir .. "/halved_again" -- two steps more from its checkpoint of step 6, with memory enough
      os.execute(("mkdir -p %s/checkpoints && cp %s/checkpoints/step-00000006.kava %s/checkpoints/"):format(half, folder, half))
      code, out, err = lacking(99, "", "output=" .. half)
      assert.equal(0, code, err)
      assert.truthy(out:find("micro-batch 2, 8 of them a step  (as in the checkpoint)", 1, true), out)
      assert.equal(weights(folder), weights(half))
    end)

    it("ends with a clear message where one row is too many, the last checkpoint good", function()
      local folder = dir .. "/starved"
      local code, _, err = lacking(15, "kava.memory_limit(1000)", "output=" .. folder)
      assert.equal(1, code)
      assert.matches("step 4: out of memory: %d+ bytes asked for, %d+ in use, 1000 may be %(the limit that was set%), with one row at "
        .. "a time; free: 0 bytes below the limit, %d+ bytes in the machine%. The checkpoint of step 2 is good%. Give the job", err)
      assert.falsy(err:find "traceback", err)
      assert.equal(0, (lacking(99, "", "output=" .. folder)))
      assert.equal(weights(dir .. "/enough"), weights(folder))
    end)

    it("finds the micro-batch that a limit allows, and says why", function()
      -- From what a step takes with all 16 rows, a limit between that of 4 rows and that of 8.
      local function tuned(arguments)
        local code, out, err = train("batch_size=auto steps=2 schedule.name=constant eval.every=0 resume=none " .. arguments)
        return code, out, err, out:match "tried with rows of 32 tokens in [%d.]+ %a+: ([^\n]*)  %("
      end
      local _, out, err, tried = tuned("output=" .. dir .. "/free")
      assert.truthy(out:find("micro-batch 16, 1 of them a step", 1, true), out .. err)
      local most = tonumber(tried:match "^16 took ([%d.]+) MiB$")
      assert.truthy(most, tried)
      for _, share in ipairs { 0.7, 0.45 } do
        local limit = ("memory_limit=%.6f"):format(share * most / 1024)
        local code
        code, out, err = tuned(limit .. " output=" .. dir .. "/tuned")
        assert.equal(0, code, err)
        local chosen = tonumber(out:match "micro%-batch (%d+),")
        assert.truthy(chosen < 16, out)
        assert.truthy(out:find("the most that fits into memory", 1, true), out)
        assert.falsy(out:find("out of memory", 1, true), out)
        assert.truthy(helper.read(dir .. "/tuned/config.lua"):find(("--   batch_size = %d "):format(chosen), 1, true))
        -- what was chosen is within one step of the most: with four times as many rows memory runs out
        _, out = train(("batch_size=%d steps=2 schedule.name=constant eval.every=0 resume=none %s output=%s/more"):format(
          math.min(16, 4 * chosen), limit, dir))
        assert.truthy(4 * chosen > 16 and chosen == 8 or out:find("out of memory", 1, true), out)
      end
      local code
      code, _, err = tuned("memory_limit=0.0001 output=" .. dir .. "/tight")
      assert.equal(1, code)
      assert.matches("not even one row fits: tried with rows of 32 tokens in 0.1 MiB: .*1 did not fit %(memory_limit=0.0001%)", err)
      assert.truthy(require("kava").fs.list(dir .. "/tight/checkpoints")[1] == nil)
    end)
  end)

  it("goes on bit by bit after kill -9 at any moment", function()
    local folder, kills = dir .. "/killed", 0
    unbroken()
    for i = 1, 8 do -- at moments spread over the run, whatever the machine's speed
      local code = train("output=" .. folder, ("timeout -s KILL %.3f"):format(seconds * (0.25 + 0.09 * i)))
      -- 75: timeout does not wait for the one it killed, which may hold the folder's lock a moment longer
      if code == 137 then kills = kills + 1 else assert.truthy(code == 0 or code == 75, code) end
    end
    assert.truthy(kills >= 1, "it was killed " .. kills .. " times")
    local code
    repeat code = train("output=" .. folder) until code ~= 75
    assert.equal(0, code)
    assert.equal(weights(unbroken()), weights(folder))
    assert.same(records(whole), records(folder))
  end)

  it("is not finished before its student is saved", function()
    local folder = dir .. "/unsaved"
    os.execute(("mkdir -p %s && touch %s/student"):format(folder, folder)) -- a file in its way
    local code, _, err = train("output=" .. folder)
    assert.equal(1, code)
    assert.truthy(err:find("/student", 1, true), err)
    os.remove(folder .. "/student")
    assert.equal(0, (train("output=" .. folder)))
    assert.equal(weights(unbroken()), weights(folder))
  end)

  it("learns the same bits when the MLPs' activations are computed again", function()
    local folder = dir .. "/recompute"
    local code, out, err = train("recompute=mlp resume=none output=" .. folder)
    assert.equal(0, code, err)
    assert.truthy(out:find "the backward pass computes again: mlp")
    assert.equal(weights(unbroken()), weights(folder))
    code, out, err = train("recompute=none output=" .. folder) -- what is said now counts, not the checkpoint's
    assert.equal(0, code, err)
    assert.falsy(out:find "computes again")
    code, out, err = train("output=" .. folder)
    assert.equal(0, code, err)
    assert.truthy(out:find "the backward pass computes again: mlp")
    local wrong, _, message = train("recompute=all resume=none output=" .. folder)
    assert.equal(2, wrong)
    assert.truthy(message:find("none, mlp, layer, mlp:N or layer:N", 1, true), message)
  end)

  it("keeps AdamW's moments in 8 bits where asked, through a resume too", function()
    local whole8, half8 = dir .. "/moments", dir .. "/moments_half"
    assert.equal(0, (train("moments=8bit resume=none output=" .. whole8)))
    -- a checkpoint of step 6 of the same run, and two steps more
    os.execute(("mkdir -p %s/checkpoints && cp %s/checkpoints/step-00000006.kava %s/checkpoints/"):format(half8, whole8, half8))
    local code, out, err = train("moments=8bit output=" .. half8)
    assert.equal(0, code, err)
    assert.truthy(out:find "resume")
    assert.equal(weights(whole8), weights(half8))
    assert.is_false(weights(unbroken()) == weights(whole8))
    local kava = require "kava"
    local held = assert(kava.checkpoint.load(whole8 .. "/checkpoints/step-00000008.kava"))
    local narrow = 0
    for name, t in pairs(held) do
      if name:find "^optimizer" and t.dtype == "u8" then narrow = narrow + 1 end
    end
    assert.truthy(narrow > 0)
  end)

  it("saves and ends with 85 on a signal, in the middle of a step, and goes on from there", function()
    local folder = dir .. "/signalled"
    -- The loss sends the signal to its own program, in the middle of a step.
    local loss = helper.write(dir .. "/signal.lua", [[
      local kava = require "kava"
      local build = dofile "recipes/loss/layer_matched.lua"
      local calls = 0
      return function(context)
        local term = build(context)
        local whole = term.loss
        term.loss = function(...)
          if kava.train() then calls = calls + 1 end
          if calls == 6 then os.execute("kill -" .. os.getenv "KAVA_SIGNAL" .. " $PPID") end
          return whole(...)
        end
        return term
      end]])
    for _, signal in ipairs { "TERM", "USR1", "USR2" } do
      local code, _, err = train(("loss.name=%s output=%s"):format(loss, folder), "KAVA_SIGNAL=" .. signal)
      assert.equal(85, code)
      assert.truthy(err:find("SIG" .. signal .. ": saved " .. folder .. "/checkpoints/step-", 1, true), err)
    end
    assert.equal(0, (train(("loss.name=%s output=%s"):format(loss, folder), "KAVA_SIGNAL=CONT")))
    assert.equal(weights(unbroken()), weights(folder))
    assert.same(records(whole), records(folder))
  end)

  -- A loss as it is by default, but that before(calls, training) runs before each call; calls: of this kind in this process.
  local function hooked(name, before)
    return helper.write(dir .. "/" .. name, ([[
      local kava = require "kava"
      local build = dofile "recipes/loss/layer_matched.lua"
      local calls = { [true] = 0, [false] = 0 }
      local function before(calls, training) %s end
      return function(context)
        local term = build(context)
        local whole = term.loss
        term.loss = function(...)
          local training = kava.train()
          calls[training] = calls[training] + 1
          before(calls, training)
          return whole(...)
        end
        return term
      end]]):format(before))
  end

  it("leaves in the middle of an evaluation, and makes it when it goes on", function()
    local loss = hooked("evaluated.lua", [[if calls[true] > 0 and not training then os.execute "kill -USR1 $PPID" end]])
    local folder = dir .. "/evaluated"
    local code, out, err = train(("loss.name=%s output=%s"):format(loss, folder))
    assert.equal(85, code)
    assert.truthy(err:find("SIGUSR1: saved " .. folder .. "/checkpoints/step-00000003.kava after step 3", 1, true), err)
    assert.falsy(out:find("eval  step 3", 1, true))
    -- nothing is gained where the same evaluation is left once more
    code, out, err = train(("loss.name=%s output=%s"):format(hooked("evaluated.lua", [[os.execute "kill -USR1 $PPID"]]), folder))
    assert.equal(75, code, out)
    local text = "stopped before a step was done, nothing to save; the same command begins where this one did"
    assert.truthy(err:find(text, 1, true), err)
    assert.equal(0, (train(("loss.name=%s output=%s"):format(hooked("evaluated.lua", ""), folder))))
    assert.equal(weights(unbroken()), weights(folder))
    assert.same(records(whole), records(folder))
  end)

  it("saves before the job's limit by its own clock, having asked the scheduler once more", function()
    local bin, folder = dir .. "/bin", dir .. "/limited"
    os.execute("mkdir " .. bin)
    -- 13 s are left whenever it is asked, until the loss has slept long enough to ask again: then it is 1 s
    helper.write(bin .. "/squeue", ("#!/bin/sh\nif mv '%s/late' '%s/was_late' 2>/dev/null; then echo 0:01; else echo 0:13; fi\n"):format(
      dir, dir))
    os.execute(("chmod +x %s/squeue"):format(bin))
    local loss = hooked("limited.lua", ([[
      if calls[true] == 6 and training and not kava.fs.exists "DIR/was_late" then
        kava.fs.write("DIR/late", "")
        os.execute "sleep 3.5"
      end]]):gsub("DIR", dir))
    local environment = ("PATH='%s':\"$PATH\" SLURM_JOB_ID=7 SLURMD_NODENAME=n0 SLURM_JOB_NODELIST=n0"):format(bin)
    local saved, code = false, nil
    for _ = 1, 10 do -- on a machine so loaded that a step takes seconds it leaves more often
      local ended, _, err = train(("loss.name=%s output=%s"):format(loss, folder), environment)
      code = ended
      if code == 0 then break end
      assert.truthy(code == 85 or code == 75, err)
      saved = saved or code == 85 and err:find("^kava: [%d.]+ s are left of the job's time, and a .- takes [%d.e-]+ s.-: saved") ~= nil
    end
    assert.equal(0, code)
    assert.is_true(saved)
    assert.equal(weights(unbroken()), weights(folder))
    assert.same(records(whole), records(folder))
  end)

  it("says what to do where the limit leaves no time for a step", function()
    local bin = dir .. "/bin_short"
    os.execute("mkdir " .. bin)
    helper.write(bin .. "/squeue", "#!/bin/sh\necho 0:09\n")
    os.execute(("chmod +x %s/squeue"):format(bin))
    local code, _, err = train("output=" .. dir .. "/short", ("PATH='%s':\"$PATH\" SLURM_JOB_ID=7 SLURMD_NODENAME=n0"):format(bin))
    assert.equal(75, code)
    assert.truthy(err:find("9 s are left of the job's time", 1, true), err)
    assert.truthy(err:find("The job had 9 s when this began", 1, true), err)
    assert.truthy(err:find("ask the scheduler for more time", 1, true), err)
  end)

  it("stops where the scheduler has started the same job again elsewhere, and leaves the folder to that one", function()
    local folder = dir .. "/stale"
    -- the first copy starts the second in the middle of a step, waits until that has ended, and would go on
    local environment = "SLURM_JOB_ID=7 SLURMD_NODENAME=n0 SLURM_JOB_NODELIST=n0 PATH=/usr/bin:/bin"
    local second = ("STALE= SLURM_RESTART_COUNT=1 %s %s %s --config=%s loss.name=%s output=%s >%s/second.log 2>&1"):format(environment,
      program.path, RECIPE, experiment, dir .. "/stale.lua", folder, dir)
    local loss = hooked("stale.lua", ([[
      if training and calls[true] == 14 and os.getenv "STALE" == "1" then
        assert(os.execute %q)
        os.execute("cp -r FOLDER FOLDER.after")
      end]]):format(second):gsub("FOLDER", folder))
    local code, out, err = train(("loss.name=%s output=%s"):format(loss, folder), "STALE=1 " .. environment)
    assert.equal(1, code, out)
    assert.truthy(err:find(folder .. ": taken over by slurm job 7 on", 1, true), err)
    assert.equal(weights(unbroken()), weights(folder))
    assert.equal("", (helper.run(("diff -r %s %s.after"):format(folder, folder))))
    assert.same(records(whole), records(folder))
  end)

  it("refuses several ranks, which would train beside one another", function()
    local code, _, err = train("output=" .. dir .. "/ranks", "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0")
    assert.equal(2, code)
    assert.truthy(err:find("2 ranks were started (RANK, WORLD_SIZE, LOCAL_RANK), and training runs in one process", 1, true), err)
  end)

  it("leaves at once on a signal before the first step", function()
    local loss = helper.write(dir .. "/early.lua", [[
      os.execute "kill -TERM $PPID"
      return dofile "recipes/loss/layer_matched.lua"]])
    local code, out, err = train(("loss.name=%s output=%s/early"):format(loss, dir))
    assert.equal(75, code)
    assert.truthy(err:find("SIGTERM: stopped before a step was done, nothing to save; the same command begins", 1, true), err)
    assert.falsy(out:find("eval  step", 1, true))
    assert.same({}, require("kava").fs.list(dir .. "/early/checkpoints"))
  end)

  it("warns of what will go wrong later", function()
    local code, out, err = train("device=rocm paths.models=" .. dir .. "/none checkpoint.keep=1000000000 steps=1 resume=none output="
      .. dir .. "/warned")
    assert.equal(0, code, err)
    for _, part in ipairs { "warning: device=rocm, but ", "computing on the CPU",
      "models are looked for in " .. dir .. "/none (command line)", "1000000003 checkpoints at a time take up to",
      "lower checkpoint.keep" } do
      assert.truthy(out:find(part, 1, true), part .. " in: " .. out)
    end
  end)

  it("keeps the previous checkpoint when the disk is full", function()
    local folder = dir .. "/full"
    assert.equal(0, (train("steps=2 schedule.name=constant output=" .. folder .. "/probe")))
    local kava = require "kava"
    local size = kava.fs.size(folder .. "/probe/checkpoints/step-00000002.kava") -- more than any other file
    -- ulimit counts KiB, in some shells half of them: logs and the student fit, a checkpoint does not. The first run makes one; the
    -- second may not make another.
    local code = train("output=" .. folder, "timeout -s TERM 100")
    assert.equal(0, code)
    kava.fs.remove_tree(folder .. "/student")
    local kept = helper.read(folder .. "/checkpoints/step-00000006.kava")
    kava.fs.remove(folder .. "/checkpoints/step-00000008.kava")
    local out, err
    code, out, err = train("output=" .. folder, ("trap '' XFSZ; ulimit -f %d;"):format(size // 1024 - 1))
    assert.equal(1, code)
    assert.truthy(err:find("step-00000008.kava", 1, true), err .. out)
    assert.equal(kept, helper.read(folder .. "/checkpoints/step-00000006.kava"))
    assert.same({ "best.kava", "step-00000006.kava" }, kava.fs.list(folder .. "/checkpoints"))
    assert.equal(0, (train("output=" .. folder)))
    assert.equal(weights(unbroken()), weights(folder))
  end)

  it("tries an older checkpoint where the last is damaged, and says so", function()
    local folder = dir .. "/damaged"
    assert.equal(0, (train("output=" .. folder)))
    local path = folder .. "/checkpoints/step-00000008.kava"
    local text = helper.read(path)
    helper.write(path, text:sub(1, #text // 2) .. "x" .. text:sub(#text // 2 + 2))
    local code, out = train("output=" .. folder)
    assert.equal(0, code)
    assert.truthy(out:find("step-00000008.kava cannot be used", 1, true))
    assert.truthy(out:find("step-00000006.kava, after step 6 of 8", 1, true))
    assert.equal(weights(unbroken()), weights(folder))
  end)

  it("asks to try again where another run has the folder", function()
    local kava = require "kava"
    local lock <close> = assert(kava.fs.lock(unbroken() .. "/lock"))
    assert.truthy(lock)
    local code, _, err = train("output=" .. unbroken())
    assert.equal(75, code)
    assert.truthy(err:find("held by another process", 1, true), err)
  end)

  it("refuses a checkpoint of another config, naming the keys", function()
    local code, _, err = train("lr=1e-3 kv.part=keys output=" .. unbroken())
    assert.equal(2, code)
    assert.truthy(err:find("kv.part: \"both\" there, \"keys\" here", 1, true), err)
    assert.truthy(err:find("learning_rate.student: 0.01 there, 0.001 here", 1, true), err)
    assert.equal(0, (train("threads=1 checkpoint.every=5 output=" .. unbroken()))) -- free keys may differ
  end)

  it("skips steps whose loss is not finite, and stops after a limit", function()
    local bad = helper.write(dir .. "/bad.lua", [[
      local kava = require "kava"
      local build = dofile "recipes/loss/layer_matched.lua"
      local calls = 0
      return function(context)
        local term = build(context)
        local whole = term.loss
        term.loss = function(...)
          if kava.train() then calls = calls + 1 end
          local value, metrics = whole(...)
          if calls > 4 and calls <= tonumber(os.getenv "KAVA_BAD_UNTIL") then value = value * (0 / 0) end
          return value, metrics
        end
        return term
      end]])
    local code, out = train(("loss.name=%s resume=none output=%s/skipped"):format(bad, dir), "KAVA_BAD_UNTIL=11")
    assert.equal(0, code)
    assert.truthy(out:find("step 3: loss ", 1, true) and out:find("skipped (2 in all)", 1, true), out)
    local steps = records(dir .. "/skipped", "train")
    assert.is_true(steps[2].skipped)
    assert.is_nil(steps[4].skipped)
    local stopped, _, err = train(("loss.name=%s max_bad_steps=3 resume=none output=%s/stopped"):format(bad, dir), "KAVA_BAD_UNTIL=1000")
    assert.equal(1, stopped)
    assert.truthy(err:find("stopped after 3 steps in a row", 1, true), err)
  end)

  it("names a collapse, and stops when asked to", function()
    local constant = helper.write(dir .. "/constant.lua", [[
      -- Both sides are one direction, whatever was read.
      local kava = require "kava"
      return function()
        local function same(out)
          local k = out.kv:keys(1)
          return kava.ones { k.shape[1], k.shape[3], 8 }
        end
        return {
          pairs = function(teacher_out, student_out)
            return { { name = "keys", student = same(student_out), target = same(teacher_out) } }
          end,
          loss = function(list, mask)
            return kava.loss.cosine(list[1].student, list[1].target, { mask = mask })
          end,
        }
      end]])
    local run = "loss.name=" .. constant .. " resume=none output=" .. dir .. "/collapsed"
    local code, out = train(run)
    assert.equal(0, code)
    assert.truthy(out:find("COLLAPSED", 1, true), out)
    assert.is_true(records(dir .. "/collapsed", "eval")[1].collapsed)
    local err
    code, out, err = train(run .. " collapse=stop")
    assert.equal(1, code)
    assert.truthy(out:find("COLLAPSED", 1, true), out)
    assert.truthy(err:find("collapse=stop", 1, true), err)
  end)

  it("reads a student where the command line names one, whatever layers the config derives one from", function()
    local code, out, err = train(("student.path=%s/teacher steps=1 output=%s/named"):format(dir, dir))
    assert.equal(0, code, err)
    assert.truthy(out:find("student " .. dir .. "/teacher", 1, true), out)
    assert.falsy(helper.read(dir .. "/named/config.lua"):find("student.layers", 1, true))
  end)

  it("names bad input and where it stands", function()
    local function refused(arguments, code, ...)
      local got, _, err = train("resume=none output=" .. dir .. "/refused " .. arguments)
      assert.equal(code, got, arguments .. ": " .. err)
      for _, part in ipairs { ... } do assert.truthy(err:find(part, 1, true), part .. " in: " .. err) end
      assert.falsy(err:find("traceback", 1, true), err)
    end
    refused("data.train=" .. dir .. "/none.jsonl", 2, "data.train", "none.jsonl", "not found")
    refused("data.train=" .. dir .. "/none-*.parquet", 2, "data.train", "none-*.parquet", "not found")
    refused("data.train=spec/golden/data/hf", 1, "splits train, test")
    refused("data.train=spec/golden/data/v2.parquet data.template={frage}", 1, "no field 'frage'; fields: question string, answer string")
    refused("paths.cache=/proc/kava", 1, "cache: /proc/kava (command line): "
      .. (require("kava").fs.writable "/proc" and "only 0.00 GiB free" or "/proc: Permission denied"), "KAVA_CACHE_PATH")
    refused("paths.project_root=/no/where", 2, 'paths.project_root = "/no/where" (command line): not there')
    refused("device=cuda hardware.gpu_detection.fallback_to_cpu=false", 2, "device=cuda, but", "device=cpu")
    refused("teacher.path=" .. dir .. "/none", 2, "teacher.path", "not found")
    refused("student.path=" .. dir .. "/teacher student.layers=2", 2, "student.path and student.layers")
    refused("loss.name=layers_matched", 2, "unknown loss 'layers_matched'", "layer_matched")
    refused("schedule.name=cosin", 2, "cosin", "cosine")
    refused("loss.name=hybrid kv.method=means", 2, "unknown aggregate 'means'", "mean")
    refused("student.layers={9}", 2, "layer from 1 to 4")
    refused("loss.weight=0 loss.ce=0", 2, "every weight is 0")
    refused("output=/proc/none", 1, "output: the folder cannot be made: /proc/none")
    refused("output=", 2, "output (command line): nothing given")
    refused("loss.name=mercator kv.layers=8,9", 2, "kava: keys: a layer from 1 to 4 expected, got 8")
    require("kava").checkpoint.save(dir .. "/foreign.kava", {}, { step = 1 })
    refused("resume=" .. dir .. "/foreign.kava", 2, "foreign.kava: not a checkpoint of this recipe")
    helper.write(dir .. "/maker.lua", "return { row = print }")
    refused("data.train=" .. dir .. "/maker.lua", 2, "data.train", "maker.lua", "{ rows = function")
    helper.write(dir .. "/text.jsonl", '{"text": "some words"}\n{"text": "and more"}\n')
    refused(("data.train=%s/text.jsonl data.eval=%s/text.jsonl data.template={text} eval.generate=2"):format(dir, dir), 2,
      "eval.generate = 2: row 1 of", "text.jsonl has no question and answer")
    helper.write(dir .. "/short.jsonl", '{"text": "a"}\n')
    refused(("data.train=%s/short.jsonl data.eval=%s/text.jsonl data.template={text}"):format(dir, dir), 1,
      "short.jsonl: no row has a second token to predict")
    helper.write(dir .. "/empty.jsonl", "")
    refused("data.train=" .. dir .. "/empty.jsonl", 1, "empty.jsonl")
    helper.write(dir .. "/broken.jsonl", '{"question": "a", "answer": "b"}\n{"question": \n')
    refused("data.train=" .. dir .. "/broken.jsonl", 1, "broken.jsonl", "2")
  end)

  describe("aggregations", function()
    local function with(body, arguments)
      local path = helper.write(dir .. "/inline.lua", "return {\n loss = { name = 'hybrid' },\n kv = { method = " .. body .. " } }")
      return train(("--config=%s steps=2 output=%s/inline resume=none %s"):format(path, dir, arguments or ""))
    end

    it("may be a function given inline", function()
      local code, out = with "function(layers)\n local l = layers[1]\n return l:permute(1, 3, 2, 4):reshape(l.shape[1], l.shape[3], -1) end"
      assert.equal(0, code)
      assert.truthy(out:find("own aggregation", 1, true), out)
    end)

    it("are named with file and line when they fail or return a wrong shape", function()
      local code, _, err = with "function(layers)\n return layers.none.more end"
      assert.equal(2, code)
      assert.truthy(err:find("inline.lua:4:", 1, true), err)
      code, _, err = with "function(layers)\n return layers[1] end"
      assert.equal(2, code)
      assert.truthy(err:find("inline.lua:3", 1, true) and err:find("expected a tensor [1, 4, D]", 1, true), err)
    end)

    it("in a new file of the user's are found by their name and train", function()
      os.execute("mkdir -p " .. dir .. "/mine/recipes/aggregate")
      helper.write(dir .. "/mine/recipes/aggregate/first.lua", [[
        -- first: the first layer alone
        return function(layers)
          local l = layers[1]
          return l:permute(1, 3, 2, 4):reshape(l.shape[1], l.shape[3], l.shape[2] * l.shape[4])
        end]])
      local root = io.popen("pwd"):read "l"
      local command = "cd %s/mine && %s/%s %s/%s --config=%s kv.method=first loss.name=hybrid steps=3 output=%s/first"
      local code, out, err = program.shell(command:format(dir, root, program.path, root, RECIPE, experiment, dir))
      assert.equal(0, code, err)
      assert.truthy(out:find("first, projector on the student's side", 1, true), out)
      assert.equal(3, #records(dir .. "/first", "train"))
    end)
  end)
end)

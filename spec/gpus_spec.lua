-- GPUs as drivers show them, with libraries in the drivers' place (spec/fake): what is there, what is wrong, and that no driver, however
-- broken, takes the program with it.
local cjson = require "cjson"
local helper = require "spec.helper"
local program = require "spec.program"

describe("gpus", function()
  local dir

  setup(function()
    dir = helper.tmp()
    for _, built in ipairs { { "cuda", "new/libcuda.so.1" }, { "nvml", "new/libnvidia-ml.so.1" }, { "cuda", "old/libcuda.so.1", "-DOLD" },
      { "nvml", "empty/libcuda.so.1" }, { "metal", "libmetal.so", "-D_GNU_SOURCE" } } do
      os.execute(("mkdir -p '%s/%s'"):format(dir, built[2]:match "^(.*)/" or "."))
      local out, code = helper.run(("cc -shared -fPIC -Wall -Wextra -Werror %s -o '%s/%s' spec/fake/%s.c"):format(built[3] or "", dir,
        built[2], built[1]))
      assert(code == 0, out)
    end
  end)

  -- What kava.gpus.cuda says under these libraries. -> list, about, milliseconds, whatever else was printed
  local function ask(libraries, set, seconds)
    local code, out, err = program.shell(([[%s LD_LIBRARY_PATH='%s/%s' %s -e '
      local kava = require "kava"
      local started = kava.clock()
      local list, about = kava.gpus.cuda(%g)
      print(kava.json.encode { list = kava.json.array(list), about = about, ms = (kava.clock() - started) * 1000 })']]):format(set, dir,
      libraries, program.path, seconds or 10))
    assert.equal(0, code, err)
    assert.falsy((out .. err):find "talks") -- what a driver prints is not the program's
    local all = cjson.decode(out)
    return all.list, all.about, all.ms
  end

  it("has none where no driver is", function()
    local list, about = ask("none", "")
    assert.same({}, list)
    assert.same({ library = false }, about)
  end)

  it("lists those that CUDA shows, with what NVML knows of each", function()
    local list, about = ask("new", "FAKE_CUDA='v100 a100 h100 mig'")
    assert.same({ library = true, cuda = "12.4", driver = "550.54.15", seen = 4 }, about)
    assert.same({ "Tesla V100-SXM2-16GB", "NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB MIG 1g.5gb" },
      { list[1].name, list[2].name, list[3].name, list[4].name })
    assert.same({ kind = "cuda", name = "NVIDIA A100-SXM4-40GB", uuid = "GPU-01102030-4050-6070-8090-a0b0c0d0e0f0", major = 8, minor = 0,
      memory = 40 << 30, memory_free = 2 << 30 }, list[2])
    assert.equal("MIG-03102030-4050-6070-8090-a0b0c0d0e0f0", list[4].uuid)
    assert.is_true(list[4].mig)
    -- NVML is matched by UUID: behind a mask CUDA's first GPU is another one
    list, about = ask("new", "FAKE_CUDA='v100 a100 h100 mig' CUDA_VISIBLE_DEVICES=2,0")
    assert.same({ 9, 3 << 30, 7, 1 << 30 }, { list[1].major, list[1].memory_free, list[2].major, list[2].memory_free })
    assert.equal(4, about.seen)
  end)

  it("reads a driver of before UUIDs and error texts", function()
    local list, about = ask("old", "FAKE_CUDA='v100'")
    assert.same({ { kind = "cuda", name = "Tesla V100-SXM2-16GB", major = 7, minor = 0, memory = 16 << 30 } }, list)
    assert.same({ library = true, cuda = "7.5" }, about)
    list, about = ask("old", "FAKE_CUDA=35")
    assert.same({}, list)
    assert.equal("cuInit: error 35, no further word", about.problem)
  end)

  it("says what is wrong", function()
    for _, case in ipairs {
      { "new", "100", "cuInit: error 100, no CUDA-capable device is detected", 100 },
      { "new", "803", "cuInit: error 803, system has unsupported display driver / cuda driver combination", 803 },
      { "new", "a100 broken h100", "a GPU that is there does not answer: error 46, a status of CUDA's", 46 },
      { "new", "crash", "NVIDIA's driver ended the process that asked it, by signal 6" },
      { "new", "exit", "NVIDIA's driver ended the process that asked it" },
      { "empty", "", "libcuda.so.1 has no cuInit: it is no driver's library, or a very old one" },
    } do
      local list, about = ask(case[1], ("FAKE_CUDA='%s'"):format(case[2]))
      assert.equal(case[3], about.problem)
      assert.equal(case[4], about.code)
      assert.is_true(about.library)
      assert.equal(case[2] == "a100 broken h100" and 1 or 0, #list) -- the others can be used
    end
  end)

  it("waits no longer than it is told for a driver that hangs", function()
    local list, about, ms = ask("new", "FAKE_CUDA=hang", 0.3)
    assert.same({}, list)
    assert.equal("NVIDIA's driver does not answer within 0.3 s", about.problem)
    assert(ms >= 300 and ms < 5000, ms)
  end)

  it("lists Apple's by Metal", function()
    if helper.sanitized then return pending "skipped: a sanitizer has its own dlopen" end
    local command = [[LD_PRELOAD='%s/libmetal.so' %s %s -e '
      local kava = require "kava"
      local list, about = kava.gpus.metal()
      print(kava.json.encode { list = kava.json.array(list), about = about })']]
    local code, out, err = program.shell(command:format(dir, "", program.path))
    assert.equal(0, code, err)
    assert.same({ list = { { kind = "mps", name = "Apple M3 Max", memory = 96 << 30 } }, about = { library = true } }, cjson.decode(out))
    code, out = program.shell(command:format(dir, "FAKE_METAL=none", program.path))
    assert.equal(0, code)
    assert.matches("Metal gives no device", cjson.decode(out).about.problem)
    assert.same({ {}, { library = false } }, { require("kava").gpus.metal() })
  end)

  describe("in the report", function()
    local function report(set, arguments)
      local code, out, err = program.shell(("%s %s recipes/check_environment.lua %s --json"):format(set, program.path, arguments or ""))
      assert(#out > 0, err)
      return cjson.decode(out), code
    end
    local function new(how) return ("KAVA_CUDA=off LD_LIBRARY_PATH='%s/new' FAKE_CUDA='%s'"):format(dir, how) end

    it("are seen, with the driver, and precision follows the device that computes", function()
      local it = report(new "a100 h100")
      assert.equal(2, #it.device.seen)
      assert.same({ kind = "cuda", name = "NVIDIA A100-SXM4-40GB", uuid = "GPU-00102030-4050-6070-8090-a0b0c0d0e0f0",
        memory_bytes = 40 << 30, free_bytes = 1 << 30 }, it.device.seen[1])
      assert.equal("550.54.15, CUDA 12.4", it.device.driver)
    end)

    it("follow the mask, and the driver is not asked where there is none to use", function()
      assert.equal(0, #report(new "hang" .. " CUDA_VISIBLE_DEVICES=").device.seen)
      assert.equal("NVIDIA H100 80GB HBM3", report(new "a100 h100" .. " CUDA_VISIBLE_DEVICES=1").device.seen[1].name)
      assert.equal("NVIDIA H100 80GB HBM3", report(new "a100 h100" .. " CUDA_VISIBLE_DEVICES=GPU-01").device.seen[1].name)
      local it = report(new "a100 h100" .. " CUDA_VISIBLE_DEVICES=0,5")
      assert.equal(1, #it.device.seen)
      assert.matches("names 2 GPUs, the driver shows 1", table.concat(it.warnings, "\n"))
      it = report(new "a100 h100" .. " CUDA_VISIBLE_DEVICES=0,0")
      assert.matches("the list ends before '0'", table.concat(it.warnings, "\n"))
      it = report(new "hang" .. " SLURM_JOB_ID=7 CUDA_VISIBLE_DEVICES=0") -- a job that was given none
      assert.equal(0, #it.device.seen)
    end)

    it("say what to do where the driver is broken", function()
      for how, words in pairs { ["803"] = "has to be restarted", ["34"] = "stub", ["802"] = "fabricmanager", ["35"] = "newer driver",
        ["2"] = "address space", ["999"] = "nvidia%-smi", ["100"] = "NVML counts 4 GPUs, of which CUDA shows none" } do
        local it = report(new(how))
        assert.matches(words, table.concat(it.warnings, "\n"))
        assert.equal("cpu", it.device.kind)
      end
      assert.same({}, report(new "100" .. " CUDA_VISIBLE_DEVICES=9").device.seen)
    end)

    it("end the program with 2 where one is asked for, and falling back is not wanted", function()
      local strict = "device=cuda hardware.gpu_detection.fallback_to_cpu=false"
      local it, code = report(new "803", strict)
      assert.equal(1, code)
      assert.matches("803", cjson.encode(it.checks))
      local status, _, err = program.shell(("%s %s recipes/train_adaptive.lua %s output=%s/strict"):format(new "803", program.path,
        strict, dir))
      assert.equal(2, status)
      assert.matches("device=cuda, but .*803.*ask the scheduler for a GPU, or give device=cpu", err)
    end)
  end)
end)

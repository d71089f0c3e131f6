-- What may be wrong with a GPU, acted by the emulator (KAVA_CUDA_TROUBLE), and with the module: each is an error that says what it is, and
-- nothing goes on with a GPU that is lost.
local helper = require "spec.helper"
local files = require "scripts.checks.files"
local cjson = require "cjson"

local emulated = files.exists(helper.build .. "/libkava_cuda_emulated.so")

-- Runs Lua with the emulated GPU in trouble -> what it printed, exit status.
local function run(trouble, code)
  return helper.run(("exec 2>&1; env KAVA_CUDA=emulated %s %s -e '%s'"):format(trouble, helper.program(), code))
end

local OPEN = [[print((select(2, require("kava").device "cuda")))]]

describe("a GPU", function()
  if not emulated then return it("is emulated", function() pending "skipped: this build has no emulator" end) end

  it("that is not there, masked, too old, taken, or without code for it is an error with its reason", function()
    for trouble, said in pairs {
      ["KAVA_CUDA_TROUBLE=driver=0"] = "there is no NVIDIA driver",
      ["KAVA_CUDA_TROUBLE=driver=11040"] = "the driver is for CUDA 11.4, this build needs 13.0: bring the driver up to date",
      ["KAVA_CUDA_TROUBLE=devices=0"] = "there is no GPU",
      ["CUDA_VISIBLE_DEVICES="] = "CUDA_VISIBLE_DEVICES hides every GPU: it is empty",
      ["CUDA_VISIBLE_DEVICES=7"] = "CUDA_VISIBLE_DEVICES hides every GPU: it is '7', and none that is here comes first in it",
      ["CUDA_VISIBLE_DEVICES=GPU-9f"] = "CUDA_VISIBLE_DEVICES hides every GPU: it is 'GPU-9f', and none that is here comes first in it",
      ["KAVA_CUDA_TROUBLE=capability=61"] = "emulated has compute capability 6.1; 8.0 or more expected",
      ["KAVA_CUDA_TROUBLE=capability=75"] = "emulated has compute capability 7.5; 8.0 or more expected",
      ["KAVA_CUDA_TROUBLE=busy=1"] = "emulated cannot be used: CUDA-capable device(s) is/are busy or unavailable "
        .. "(cudaErrorDevicesUnavailable); another process may hold it: nvidia-smi shows which",
      ['KAVA_CUDA_TROUBLE="busy=1 exclusive=1"'] = "emulated cannot be used: CUDA-capable device(s) is/are busy or unavailable "
        .. "(cudaErrorDevicesUnavailable); it is for one process at a time (its compute mode), and another has it",
      ["KAVA_CUDA_TROUBLE=image=0"] = "emulated cannot be used: no kernel image is available for execution on the device "
        .. "(cudaErrorNoKernelImageForDevice); this build has no code for it: see KAVA_CUDA_TARGETS in kernels/cuda/native.cmake",
    } do assert.equal("device cuda: " .. said .. "\n", (run(trouble, OPEN)), trouble) end
    assert.equal("nil\n", (run("CUDA_VISIBLE_DEVICES=0", OPEN)))
  end)

  it("whose memory others have says so, with what was asked and what is free", function()
    local text, code = run("KAVA_CUDA_TROUBLE=taken=8500000000", [[
      local kava = require "kava"
      print(pcall(kava.zeros, { 100000000 }, { device = "cuda" }))
      print(kava.ones({ 3 }, { device = "cuda" }):sum():item())]])
    assert.equal(0, code, text)
    assert.truthy(text:find("out of memory: 381.5 MiB asked; of 8192.0 MiB 8%d.%d are free, 0.0 are KAVA's, 0.0 of them in tensors; "
      .. "81%d%d.%d are the driver's and other processes'\n3.0\n"), text)
  end)

  it("without room for a product's workspace says that, and what needs none goes on", function()
    local text, code = run("KAVA_CUDA_TROUBLE=taken=8580000000", [[
      local x = require("kava").ones({ 4, 4 }, { device = "cuda" })
      print(pcall(x.matmul, x, x))
      print((x + x):sum():item())]])
    assert.equal("false\tgemm: device cuda: cuBLASLt" .. "'" .. "s workspace: out of memory (cudaErrorMemoryAllocation)\n32.0\n", text)
    assert.equal(0, code)
  end)

  it("that loses a kernel says which ran last, is not used again, and never says that memory ran out", function()
    local code = [[
      local kava = require "kava"
      local x = kava.ones({ 10 }, { device = "cuda" })
      local y = x:exp():softmax(1)
      for _, f in ipairs { function() y:sum():item() end, function() return x:exp() end,
          function() return kava.zeros({ 9 }, { device = "cuda" }) end, function() return x:totable() end,
          function() kava.wait "cuda" end } do
        local ok, why = pcall(f)
        print(ok, why)
      end]]
    local text, status = run("KAVA_CUDA_TROUBLE=fail=softmax:1", code)
    assert.equal(0, status, text)
    local lines = {}
    for line in text:gmatch "[^\n]+" do lines[#lines + 1] = line end
    assert.equal(5, #lines)
    assert.truthy(lines[1]:find("a kernel failed: an illegal memory access was encountered (cudaErrorIllegalAddress); the last ones begun "
      .. "were: ", 1, true), lines[1])
    assert.truthy(lines[1]:find "softmax, unary", lines[1])
    assert.truthy(lines[1]:find("CUDA_LAUNCH_BLOCKING=1 in the environment tells which. The GPU is lost to this process", 1, true))
    for _, line in ipairs(lines) do
      assert.truthy(line:find "^false\t.*cudaErrorIllegalAddress", line)
      assert.falsy(line:find "out of memory", line)
    end
    text, status = run("CUDA_LAUNCH_BLOCKING=1 KAVA_CUDA_TROUBLE=fail=softmax:1", code)
    assert.equal(1, status)
    assert.truthy(text:find "softmax: device cuda: softmax: an illegal memory access was encountered %(cudaErrorIllegalAddress%)", text)
  end)

  it("that loses a kernel ends a run; its last checkpoint is good, and the next start goes on from there", function()
    local dir = helper.tmp()
    require("spec.tiny").model(dir .. "/teacher", { layers = 2, hidden = 16 })
    local rows = {}
    for i, row in ipairs(dofile("recipes/problems.lua").rows { seed = 1, count = 8, split = "train" }) do rows[i] = cjson.encode(row) end
    helper.write(dir .. "/rows.jsonl", table.concat(rows, "\n") .. "\n")
    local experiment = helper.write(dir .. "/toy.lua", ([[return {
      name = "toy", teacher = { path = "DIR/teacher" }, student = { layers = 1 }, device = "cuda", precision = "f32",
      data = { train = "DIR/rows.jsonl", eval = "DIR/rows.jsonl", max_length = 16 }, training = { steps = 3 }, target_batch = 2,
      batch_size = 2, eval = { every = 0, rows = 2, before = false, generate = 0 }, checkpoint = { every = 1, keep = 2 },
      output = "DIR/run", paths = { output = "DIR/runs", cache = "DIR/cache" } }]]):gsub("DIR", dir))
    local function train(trouble)
      return helper.run(("exec 2>&1; env KAVA_CUDA=emulated %s %s recipes/train_adaptive.lua --config=%s"):format(trouble,
        helper.program(), experiment))
    end
    local text, code = train "KAVA_CUDA_TROUBLE=fail=adamw:3"
    assert.equal(1, code, text)
    assert.truthy(text:find("a kernel failed: an illegal memory access", 1, true), text)
    assert.truthy(text:find("CUDA_LAUNCH_BLOCKING=1", 1, true))
    local last
    for _, name in ipairs(require("kava").fs.list(dir .. "/run/checkpoints")) do
      if name:find "^step" then
        assert.is_true(require("kava").checkpoint.valid(dir .. "/run/checkpoints/" .. name), name)
        last = name
      end
    end
    assert.truthy(last, text)
    text, code = train ""
    assert.equal(0, code, text)
    assert.truthy(text:find "resume +%S+, after step [12] of 3", text)
  end)

  it("takes plans from no damaged file", function()
    local path = helper.tmp() .. "/plans.txt"
    local work = ([[
      local kava = require "kava"
      print(kava.plans("cuda", "%s"))
      local x = kava.ones({ 64, 1000 }, { device = "cuda" })
      print(x:matmul(x:permute(2, 1)):max():item())
      print(kava.plans("cuda", "%s", true))]]):format(path, path)
    -- a sound one: the heading of this GPU, and a plan, which was measured since the product is large enough
    run("A=1", (work:gsub("64, 1000", "100, 5000")))
    local heading, plan = assert(files.read(path)):match "^(kava plans [^\n]+\n)([^\n]+)\n$"
    assert.truthy(heading)
    local words = {}
    for word in plan:gmatch "%S+" do words[#words + 1] = word end
    words[#words - 1] = ("f"):rep(40) -- the last of the algorithm's
    for _, text in ipairs { "", "\0\0\0", heading, heading .. "1 2 3", heading .. ("9"):rep(5000) .. "\n",
      heading .. ("-1 "):rep(40) .. "\n", heading .. ("ffffffffffffffffffffff "):rep(30), heading .. plan:sub(1, #plan // 2),
      heading .. table.concat(words, " ") .. "\n", heading .. plan:gsub("%d+", "99999999999999999999") .. "\n", ("x"):rep(2000) } do
      helper.write(path, text)
      assert.equal("true\n1000.0\ntrue\n", (run("A=1", work)), ("%q"):format(text:sub(1, 60)))
    end
  end)
end)

describe("the module", function()
  local dir = helper.tmp()

  local function build(options, source, to)
    local path = helper.write(dir .. "/module.c", source)
    local out, code = helper.run(("cc -shared -fPIC %s -o '%s/%s' '%s'"):format(options, dir, to, path))
    assert.equal(0, code, out)
  end
  local function open()
    return (helper.run(("exec 2>&1; env -u KAVA_CUDA KAVA_HOME=\"$PWD\" '%s/kava' -e '%s'"):format(dir, OPEN)))
  end

  it("that is missing, of other sources, or without its library is an error that says what to do", function()
    assert(os.execute(("cp '%s' '%s/kava'"):format(helper.program(), dir)))
    assert.equal("device cuda: this build has no libkava_cuda.so (cmake --preset cuda makes it, with nvcc)\n", open())
    build("", "const void *kava_cuda_open(const char **why) { static long table[400] = {1}; *why = 0; return table; }", "libkava_cuda.so")
    assert.truthy(open():find "^device cuda: the module was built from other sources %(its interface is 1, not %d+%)\n$")
    build("", "int unrelated;", "libkava_cuda.so")
    assert.equal("device cuda: the module has no kava_cuda_open\n", open())
    helper.write(dir .. "/libkava_cuda.so", "no library")
    assert.truthy(open():find "^device cuda: .*libkava_cuda.so: .+\n$")
    build("", "int cublasLtCreate;", "libcublasLt.so.99")
    build(("-Wl,--no-as-needed -L'%s' -l:libcublasLt.so.99"):format(dir), "int there;", "libkava_cuda.so")
    os.remove(dir .. "/libcublasLt.so.99")
    assert.truthy(open():find "^device cuda: libcublasLt.so.99: .* %(cuBLAS, of the CUDA toolkit or of pip's nvidia%-cublas: "
      .. "LD_LIBRARY_PATH tells where it is%)\n$")
  end)
end)

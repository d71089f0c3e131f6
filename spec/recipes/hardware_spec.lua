-- Which device and which precision, on machines described by tables.
local hardware = require "recipes.hardware"

local CPU = { device = "cpu", precision = "bf16", isa = "avx512bf16", isa_bf16 = "amx", gpus = {},
  why = { device = "no GPU is seen", precision = "AMX multiplies bf16" } }
local CUDA = { device = "cuda", precision = "f16", isa = "avx2", isa_bf16 = "f32", gpus = { {} }, visible_devices = { 0 },
  why = { device = "CUDA_VISIBLE_DEVICES", precision = "compute capability 7.0 multiplies f16", visible_devices = "CUDA_VISIBLE_DEVICES" } }
local GIVEN = { device = "cpu", precision = "f32", isa = "avx2", isa_bf16 = "f32", gpus = {}, visible_devices = { 0, 1 },
  why = { device = "this build computes on the CPU", precision = "p", visible_devices = "CUDA_VISIBLE_DEVICES" } }

local function config(more, detection, precision)
  local c = { device = "auto", precision = "auto", hardware = { gpu_detection = { auto_detect = true, fallback_to_cpu = true },
    precision = { auto_detect = true, fallback = "f32" } } }
  for key, value in pairs(more or {}) do c[key] = value end
  for key, value in pairs(detection or {}) do c.hardware.gpu_detection[key] = value end
  for key, value in pairs(precision or {}) do c.hardware.precision[key] = value end
  return c
end

describe("the device", function()
  local function device(facts, ...) return hardware.device(facts, config(...)) end

  it("is the best there is", function()
    assert.same({ "cpu", "no GPU is seen" }, { device(CPU) })
    assert.same({ "cuda", "CUDA_VISIBLE_DEVICES" }, { device(CUDA) })
    assert.equal("cuda", (device(CUDA, { device = "gpu" })))
    assert.equal("cuda", (device(CUDA, { device = "cuda" })))
    assert.same({ "cpu", "device=cpu as given" }, { device(CUDA, { device = "cpu" }) })
  end)

  it("is the CPU where nobody looks for a GPU", function()
    assert.same({ "cpu", "hardware.gpu_detection.auto_detect=false: no GPU is looked for" }, { device(CUDA, {}, { auto_detect = false }) })
    assert.equal("cuda", (device(CUDA, { device = "cuda" }, { auto_detect = false })))
  end)

  it("is not looked for where none is wanted", function()
    for _, case in ipairs { { "auto", true, true }, { "auto", false, false }, { "cpu", true, false }, { "cuda", false, true } } do
      assert.equal(case[3], hardware.looks(config({ device = case[1] }, { auto_detect = case[2] })), case[1])
    end
    local asked = 0
    local function facts(gpus)
      return require("recipes.env").facts({ getenv = function() end, read = function(path)
        if path:find "kfd" then asked = asked + 1 end
      end, run = function() end, now = os.time, cpus = function() return 1 end, isa = function() return "avx2", "f32" end,
      host = function() return { system = "Darwin", release = "23" } end, user = function() return "ada" end,
      cuda = function() asked = asked + 1 return {}, {} end, metal = function() asked = asked + 1 return {}, {} end }, { gpus = gpus })
    end
    assert.equal("cpu", facts(false).device)
    assert.equal(0, asked)
    assert.equal("cpu", facts(true).device)
    assert.truthy(asked >= 3)
  end)

  it("that was asked for and is not there is replaced with a warning, or refused", function()
    for _, case in ipairs { { CPU, "cuda", "device=cuda, but no GPU is seen" }, { CPU, "gpu", "device=gpu, but no GPU" },
      { CUDA, "rocm", "device=rocm, but here is cuda (CUDA_VISIBLE_DEVICES)" },
      { GIVEN, "auto", "CUDA_VISIBLE_DEVICES gives this job 2 GPUs, but this build computes on the CPU" } } do
      local facts, wanted, part = table.unpack(case)
      local found, why, warning = device(facts, { device = wanted })
      assert.equal("cpu", found)
      assert.truthy(why:find(part, 1, true), why)
      if wanted == "auto" then assert.is_nil(warning)
      else assert.truthy(warning:find(part, 1, true) and warning:find("fallback_to_cpu=false makes this an error", 1, true), warning) end
      found, why = device(facts, { device = wanted }, { fallback_to_cpu = false })
      assert.is_nil(found)
      assert.truthy(why:find(part, 1, true) and why:find("ask the scheduler for a GPU, or give device=cpu", 1, true), why)
    end
    assert.equal("cpu", (device(CPU, {}, { fallback_to_cpu = false }))) -- nobody asked for one
  end)
end)

describe("the precision", function()
  local function precision(facts, device, ...) return hardware.precision(facts, config(...), device) end

  it("is what the hardware does best", function()
    assert.same({ "bf16", "AMX multiplies bf16" }, { precision(CPU, "cpu") })
    assert.equal("f16", (precision(CUDA, "cuda")))
    assert.same({ "f32", "avx2 has no bf16 products faster than f32's" }, { precision(CUDA, "cpu") }) -- not the GPU's
  end)

  it("is the fallback where the hardware is not asked, or its best is not computed here", function()
    assert.same({ "f32", "hardware.precision.auto_detect=false: hardware.precision.fallback" },
      { precision(CPU, "cpu", {}, {}, { auto_detect = false }) })
    assert.equal("bf16", (precision(GIVEN, "cpu", {}, {}, { auto_detect = false, fallback = "bf16" })))
    local odd = { device = "cpu", precision = "f16", why = { precision = "w" } }
    assert.same({ "bf16", "f16 would be best (w), which is not computed on the cpu: hardware.precision.fallback" },
      { precision(odd, "cpu", {}, {}, { fallback = "bf16" }) })
  end)

  it("is what was given, before all else", function()
    local found, why = precision(CPU, "cpu", { precision = "f32" }, {}, { auto_detect = false, fallback = "bf16" })
    assert.same({ "f32", "precision as given" }, { found, why })
  end)
end)

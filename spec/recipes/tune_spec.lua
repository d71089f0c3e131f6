local tune = require "recipes.tune"

local facts = { cpus = 16, memory = 8 << 30, device = "cpu", precision = "bf16", why = { cpus = "c", device = "d", precision = "p" } }
local shape = { layers = 2, hidden = 64, intermediate = 128, kv_dim = 64 }
local small = { fixed_bytes = 1 << 20, row_tokens = 512, typical_tokens = 64, student = shape }

local function decide(config, models, other)
  local full = { batch_size = "auto", target_batch = 32, device = "auto", precision = "auto", threads = 0,
    hardware = { gpu_detection = { auto_detect = true, fallback_to_cpu = true }, precision = { auto_detect = true, fallback = "f32" } } }
  for key, value in pairs(config) do full[key] = value end
  return tune.decide(other or facts, full, models or small)
end

describe("tune", function()
  it("reaches the target batch exactly, whatever is given", function()
    for target = 1, 40 do
      for given = 1, 50 do
        local d = decide { batch_size = given, target_batch = target }
        assert.equal(target, d.batch_size * d.accumulate)
        assert.truthy(d.batch_size <= given)
      end
    end
    local d = decide { batch_size = 5 }
    assert.equal(4, d.batch_size)
    assert.equal("the largest divisor of target_batch 32 up to batch_size 5", d.why.batch_size)
  end)

  it("gives a CPU enough tokens and no more", function()
    local d = decide {}
    assert.equal(32, d.batch_size)
    local long = { fixed_bytes = 0, row_tokens = 512, typical_tokens = 400, student = small.student }
    assert.equal(4, decide({}, long).batch_size)
  end)

  it("stays within the memory of the job", function()
    local large = { layers = 24, hidden = 896, intermediate = 4864, kv_dim = 256 }
    local big = { fixed_bytes = 1 << 30, row_tokens = 512, typical_tokens = 100, student = large }
    local tight = { cpus = 2, memory = 4 << 30, device = "cpu", precision = "f32", why = facts.why }
    local d = decide({}, big, tight)
    assert.truthy(big.fixed_bytes + d.batch_size * tune.row_bytes(big.student, 512) <= tight.memory)
    assert.truthy(d.why.batch_size:find("fit into", 1, true))
    d = decide({}, big, { cpus = 2, memory = 1 << 29, device = "cpu", precision = "f32", why = facts.why })
    assert.equal(1, d.batch_size)
    assert.truthy(d.why.batch_size:find("more than", 1, true))
  end)

  it("limits the workers and gives every decision a reason", function()
    local d = decide {}
    assert.equal(8, d.workers)
    assert.equal(16, d.threads)
    assert.equal("bf16", d.precision)
    for name in pairs(d) do assert.truthy(name == "why" or d.why[name], name) end
    d = decide { threads = 3, precision = "f32" }
    assert.equal(3, d.workers)
    assert.equal(3, d.threads)
    assert.equal("f32", d.precision)
    d = decide { threads = 500 }
    assert.equal(16, d.threads)
    assert.matches("threads=500, lowered to the CPUs", d.why.threads)
  end)
end)

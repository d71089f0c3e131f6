local helper = require "spec.helper"
local env = require "recipes.env"
local paths = require "recipes.paths"
local program = require "spec.program"

-- A machine as a table literal.
local function machine(m)
  return env.facts {
    getenv = function(name) return (m.variables or {})[name] end,
    read = function(path) return (m.files or {})[path] end,
    threads = function() return m.cpus or 4 end,
    isa = function() return m.isa or "avx2" end,
  }
end

local MEMINFO = "MemTotal:       16384000 kB\nMemFree:         100 kB\nMemAvailable:    8192000 kB\n"

describe("env", function()
  it("gives every fact its source", function()
    local facts = machine { files = { ["/proc/meminfo"] = MEMINFO } }
    for name in pairs(facts) do
      if name ~= "why" and name ~= "variables" then assert.truthy(facts.why[name], name) end
    end
    assert.equal("local", facts.place)
    assert.equal("none", facts.scheduler)
    assert.equal(16384000 * 1024, facts.memory)
    assert.equal("/proc/meminfo, MemTotal", facts.why.memory)
    assert.equal("f32", facts.precision)
  end)

  it("sees the smallest cgroup limit on the way to the root", function()
    local facts = machine { files = {
      ["/proc/meminfo"] = MEMINFO,
      ["/proc/self/cgroup"] = "0::/slice/job/step\n",
      ["/sys/fs/cgroup/slice/job/step/memory.max"] = "max\n",
      ["/sys/fs/cgroup/slice/job/memory.max"] = "2147483648\n",
      ["/sys/fs/cgroup/slice/memory.max"] = "4294967296\n",
    } }
    assert.equal(2147483648, facts.memory)
    assert.equal("/sys/fs/cgroup/slice/job/memory.max", facts.why.memory)
    facts = machine { files = {
      ["/proc/meminfo"] = MEMINFO,
      ["/proc/self/cgroup"] = "5:cpu:/x\n4:memory:/lxc/7\n",
      ["/sys/fs/cgroup/memory/lxc/7/memory.limit_in_bytes"] = "1073741824\n",
      ["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = "9223372036854771712\n",
    } }
    assert.equal(1073741824, facts.memory)
  end)

  it("knows a job from a cloud from a desk", function()
    local facts = machine { variables = { SLURM_JOB_ID = "77", KUBERNETES_SERVICE_HOST = "10.0.0.1" } }
    assert.equal("hpc", facts.place)
    assert.equal("77", facts.job)
    assert.equal("cloud", machine({ variables = { KUBERNETES_SERVICE_HOST = "10.0.0.1" } }).place)
  end)

  it("takes bf16 where the processor multiplies it", function()
    assert.equal("bf16", machine({ isa = "avx512bf16" }).precision)
    assert.equal("f32", machine({ isa = "avx512" }).precision)
  end)

  it("reads this machine", function()
    local facts = env.facts()
    assert.truthy(facts.cpus >= 1)
    assert.truthy(facts.memory > 1 << 20)
  end)
end)

describe("paths", function()
  local config = { paths = { models = "/scratch/{username}/kava/{job}/{other}", data = "./d", output = "./o", cache = "{home}/c" } }

  it("put variables over patterns", function()
    local variables = { USER = "ada", HOME = "/home/ada", SLURM_JOB_ID = "5", KAVA_DATA_PATH = "/data", KAVA_OUTPUT_PATH = "" }
    local facts = machine { variables = variables }
    local resolved = paths.resolve(facts, config)
    assert.equal("/scratch/ada/kava/5/{other}", resolved.models)
    assert.equal("/data", resolved.data)
    assert.equal("KAVA_DATA_PATH", resolved.why.data)
    assert.equal("./o", resolved.output)
    assert.equal("/home/ada/c", resolved.cache)
  end)

  it("list where a name may be", function()
    assert.same({ "/abs" }, paths.candidates("/abs", "m", "h"))
    assert.same({ "x", "m/x", "h/x" }, paths.candidates("x", "m", "h"))
  end)
end)

describe("check_environment", function()
  it("reports, and in JSON", function()
    local code, out = program.run "recipes/check_environment.lua"
    assert.equal(0, code)
    assert.truthy(out:find("memory", 1, true))
    code, out = program.run "recipes/check_environment.lua --json"
    assert.equal(0, code)
    local report = require("cjson").decode(out)
    assert.truthy(report.facts.cpus >= 1)
    assert.equal("paths.models, configs/environment.lua", report.paths.why.models)
  end)

  it("takes a cluster's file", function()
    local dir = helper.tmp()
    os.execute("mkdir -p " .. dir .. "/configs/clusters")
    helper.write(dir .. "/configs/clusters/toy.lua", "return { paths = { models = '/scratch/{username}/kava' } }")
    local root = io.popen("pwd"):read "l"
    local code, out = program.shell(("cd %s && USER=ada %s/%s %s/recipes/check_environment.lua --cluster=toy"):format(
      dir, root, program.path, root))
    assert.equal(0, code)
    assert.truthy(out:find("/scratch/ada/kava", 1, true), out)
  end)
end)

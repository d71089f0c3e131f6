-- The image recipes and the Kubernetes manifest: what they name is there, and agrees with the program.
local helper = require "spec.helper"
local files = require "scripts.checks.files"
local cli = require "kava.cli"

local FILES = { "scripts/Containerfile", "scripts/kava.def" }

local function packages(path)
  local list = {}
  for line in helper.read(path):gmatch "apt%-get install [^\n\\&]+" do
    for name in line:gsub("apt%-get install", ""):gmatch "%f[^%s]%l[%w.+-]+" do list[name] = true end
  end
  return list
end

describe("the images", function()
  it("are built of folders that are there, and hold what the other holds", function()
    local copied = { {}, {} }
    for name in helper.read(FILES[1]):gmatch "\nCOPY ([^%-\n][^\n]*)" do
      for word in name:gmatch "%S+" do copied[1][word] = true end
    end
    for name in helper.read(FILES[2]):gmatch "\n    (%S+) /src/" do copied[2][name] = true end
    copied[1]["./"] = nil
    assert.same(copied[1], copied[2])
    for name in pairs(copied[1]) do assert.is_true(files.exists(name), name) end
    for _, folder in ipairs { "src", "kernels", "lua", "recipes", "configs", "assets" } do assert.is_true(copied[1][folder], folder) end
    assert.same(packages(FILES[1]), packages(FILES[2]))
  end)

  it("hold every library the program is linked with", function()
    if not (helper.run "cat /etc/os-release"):find 'VERSION_ID="12"' or not files.have "dpkg-query" then
      return pending "skipped: this is no Debian 12"
    end
    if helper.sanitized then return pending "skipped: a sanitizer needs libraries of its own" end
    local there = packages(FILES[1])
    there.libc6 = true -- every image has it
    local patterns = {}
    for library in helper.run("ldd " .. helper.program()):gmatch "=> (%S+)" do
      patterns[#patterns + 1] = "'*" .. library:match "/[^/]+/[^/]+$" .. "'"
    end
    assert.truthy(#patterns >= 5)
    for owner, path in helper.run("dpkg-query -S " .. table.concat(patterns, " ")):gmatch "([%w.+-]+)[^\n]*: (%S+)" do
      assert.is_true(there[owner], ("%s, of %s"):format(path, owner))
    end
    assert.is_true(there["libopenblas0-pthread"] and there.libedit2) -- opened at run time
  end)
end)

describe("the Kubernetes job", function()
  it("goes on after the exit codes that ask for it, and no others", function()
    local text = helper.read "scripts/kubernetes_job.yaml"
    local codes = {}
    for action, values in text:gmatch "action: (%a+)[^\n]*\n%s+onExitCodes: {[^}]-values: %[([%d, ]+)%]" do
      for code in values:gmatch "%d+" do codes[tonumber(code)] = action end
    end
    assert.same({ [cli.exit.checkpointed] = "Ignore", [cli.exit.failed] = "FailJob", [cli.exit.usage] = "FailJob" }, codes)
    assert.truthy(text:find("backoffLimit: 3", 1, true)) -- the rest, 75 among it
    assert.truthy(text:find("restartPolicy: Never", 1, true)) -- a failure policy demands it
    local recipe = text:match 'args: %["([^"]+)"'
    assert.is_true(files.exists(recipe))
  end)

  it("is seen as a job, the same in every pod", function()
    local env = require "recipes.env"
    local set = { KUBERNETES_SERVICE_HOST = "10.0.0.1", JOB_COMPLETION_INDEX = "0", KAVA_JOB_ID = "0f-1a" }
    local facts = env.facts { getenv = function(name) return set[name] end, read = function() end, run = function() end,
      now = os.time,
      cpus = function() return 1 end, isa = function() return "scalar", "f32" end, host = function() return { name = "pod" } end,
      user = function() return "kava" end }
    assert.equal("kubernetes", facts.scheduler)
    assert.same({ "kubernetes job 0f-1a task 0", "pod, restart unknown" }, { env.job(facts) })
    assert.equal(1, facts.launch.world_size)
  end)
end)

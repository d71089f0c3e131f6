-- Which cluster's file holds: by --cluster, by KAVA_CLUSTER, by what the machine is called.
local cluster = require "kava.cluster"
local helper = require "spec.helper"
local program = require "spec.program"

describe("a cluster's file", function()
  local dir
  setup(function()
    dir = helper.tmp()
    os.execute("mkdir -p " .. dir .. "/configs/clusters")
    helper.write(dir .. "/configs/clusters/alps.lua", [[return {
      match = { host = { "alps-*", "n[0-3].alps.org" }, SLURM_CLUSTER_NAME = "alps" },
      batch_size = 8, target_batch = 8, checkpoint = { every = 7 } }]])
    helper.write(dir .. "/configs/clusters/jura.lua", "return { match = { SLURM_CLUSTER_NAME = { 'jura', 'alps2' } }, batch_size = 2 }")
    helper.write(dir .. "/configs/clusters/plain.lua", "return { batch_size = 1 }")
  end)

  local function machine(host, set)
    return { host = host, getenv = function(name) return (set or {})[name] end }
  end

  local function choose(given, host, set)
    local found, message = cluster.choose(given, machine(host, set), { dir })
    return found and found.name, found and found.why or message
  end

  it("matches names as a shell does", function()
    for _, case in ipairs {
      { "login3", "login*", true }, { "login3.x.org", "login?", false }, { "n7", "n[0-9]", true }, { "na", "n[0-9]", false },
      { "a.b", "a.b", true }, { "axb", "a.b", false }, { "a-b", "a-b", true }, { "aab", "a-b", false }, { "x%d", "x%d", true },
      { "", "*", true }, { "[x", "[x", true }, { "n1", "n[]", false },
    } do
      assert.equal(case[3], cluster.like(case[1], case[2]), case[1] .. " " .. case[2])
    end
  end)

  it("is the one that is named, then the one KAVA_CLUSTER names, then the one that matches", function()
    local name, why = choose("jura", "alps-1", { KAVA_CLUSTER = "plain", SLURM_CLUSTER_NAME = "alps" })
    assert.same({ "jura", "--cluster=jura" }, { name, why })
    name, why = choose(nil, "alps-1", { KAVA_CLUSTER = "plain", SLURM_CLUSTER_NAME = "alps" })
    assert.same({ "plain", "KAVA_CLUSTER=plain" }, { name, why })
    name, why = choose(nil, "x", { KAVA_CLUSTER = " ", SLURM_CLUSTER_NAME = "alps" })
    assert.same({ "alps", "SLURM_CLUSTER_NAME=alps" }, { name, why })
    name, why = choose(nil, "alps-7.cluster.org")
    assert.same({ "alps", "host alps-7.cluster.org" }, { name, why })
    name, why = choose(nil, "n2.alps.org")
    assert.same({ "alps", "host n2.alps.org" }, { name, why })
    assert.is_nil((choose(nil, "n4.alps.org")))
    assert.equal("jura", (choose(nil, "x", { SLURM_CLUSTER_NAME = "alps2" })))
    assert.is_nil((choose("none", "alps-1")))
    assert.is_nil((choose(nil, "alps-1", { KAVA_CLUSTER = "none" })))
  end)

  it("is refused where it is not there, or two match", function()
    local _, why = choose("alp", "x")
    assert.equal("--cluster=alp: configs/clusters/alp.lua is not there, did you mean 'alps'?; there is alps, jura, plain", why)
    _, why = choose(nil, "x", { KAVA_CLUSTER = "nowhere" })
    assert.truthy(why:find("KAVA_CLUSTER=nowhere: configs/clusters/nowhere.lua is not there", 1, true), why)
    _, why = choose(nil, "alps-1", { SLURM_CLUSTER_NAME = "jura" })
    assert.truthy(why:find("alps.lua (host alps-1) and ", 1, true) and why:find("choose with --cluster=NAME", 1, true), why)
  end)

  it("has a match table of names and patterns, nothing else", function()
    for text, part in pairs {
      ["'login*'"] = 'match = "login*": a table { host = …, VARIABLE = … } expected',
      ["{ 'login*' }"] = "match.1: host, or the name of a variable, expected",
      ["{ hots = 'x' }"] = "match.hots: host, or the name of a variable, expected",
      ["{ host = 5 }"] = "match.host = 5: a text, or a list of texts, expected",
      ["{ host = {} }"] = "match.host = {}: a text",
      ["{ host = '' }"] = 'match.host = "": a text',
      ["{ SITE_API_KEY = '*' }"] = "match.SITE_API_KEY: a variable of such a name is never read",
    } do
      local found, message = cluster.read(helper.write(dir .. "/bad.lua", "return { match = " .. text .. " }"))
      assert.is_nil(found)
      assert.truthy(message:find(part, 1, true) and message:find("bad.lua", 1, true), message)
    end
  end)

  -- --print-config in `dir` with a cluster, an experiment, variables and a command line. -> exit code, the config, errors
  local root = io.popen("pwd"):read "l"
  local function resolved(set, arguments)
    helper.write(dir .. "/exp.lua", "return { target_batch = 16, eval = { every = 9 } }")
    return program.shell(("cd %s && %s %s/%s recipes/train_adaptive.lua --config=exp.lua --print-config %s"):format(dir, set, root,
      program.path, arguments))
  end

  local function source(text, key)
    return text:match('%["' .. key:gsub("%.", "%%.") .. '"%] = (.-),%s+%-%- ([^\n]*)')
  end

  it("lies over the defaults, below experiment, variables and command line", function()
    local code, text, err = resolved("SLURM_CLUSTER_NAME=alps KAVA_EVAL_EVERY=5 KAVA_KV_METHOD=mean", "kv.method=last")
    assert.equal(0, code, err)
    assert.truthy(text:find("-- configs/clusters/alps.lua holds here: SLURM_CLUSTER_NAME=alps\n", 1, true), text)
    assert.same({ "7", "configs/clusters/alps.lua" }, { source(text, "checkpoint.every") })
    assert.same({ "8", "configs/clusters/alps.lua" }, { source(text, "batch_size") })
    assert.same({ "16", "exp.lua" }, { source(text, "target_batch") })
    assert.same({ "5", "KAVA_EVAL_EVERY" }, { source(text, "eval.every") })
    assert.same({ '"last"', "command line" }, { source(text, "kv.method") })
    assert.truthy(select(2, source(text, "seed")):find("configs/environment.lua", 1, true))
    code, text = resolved("", "--cluster=none --json")
    assert.equal(0, code)
    assert.same({ value = "auto", source = root .. "/configs/environment.lua" }, require("cjson").decode(text).batch_size)
  end)

  local function refused(name, text, ...)
    helper.write(dir .. "/configs/clusters/" .. name .. ".lua", text)
    local code, out, err = resolved("", "--cluster=" .. name)
    os.remove(dir .. "/configs/clusters/" .. name .. ".lua")
    assert.equal(2, code, out)
    for _, part in ipairs { name .. ".lua", ... } do assert.truthy(err:find(part, 1, true), err) end
    assert.falsy(err:find("traceback", 1, true), err)
  end

  it("is refused with a typo, a wrong type, or code in it", function()
    refused("typo", "return { batch_sise = 4 }", "unknown key 'batch_sise'", "did you mean 'batch_size'?")
    refused("kind", "return { batch_size = {} }", "batch_size = {}")
    refused("syntax", "return { batch_size = 4", ":1:", "expected")
    refused("code", ("os.execute 'touch %s/touched' return {}"):format(dir), "global 'os'", "config files are data")
    refused("bomb", "local s = 'x' while true do s = s .. s end", "this is data, not a program")
    assert.falsy(require("kava").fs.exists(dir .. "/touched"))
    helper.write(dir .. "/configs/clusters/broken.lua", "return {")
    local code, _, err = resolved("", "")
    os.remove(dir .. "/configs/clusters/broken.lua")
    assert.equal(2, code)
    assert.truthy(err:find("broken.lua", 1, true) and err:find("--cluster=none", 1, true), err)
  end)

  it("of the examples matches the machines they are for, and no other", function()
    for host, name in pairs { ["uan01.lumi.csc.fi"] = "lumi", nid001234 = false, ["login3.example-slurm.org"] = "slurm_gpu",
      ["gpu17.example-slurm.org"] = "slurm_gpu", ["r1i2n3.example-pbs.org"] = "pbs", ["q4.example-sge.org"] = "sge", laptop = false,
      login3 = false, localhost = false } do
      local found, message = cluster.choose(nil, machine(host), { "." })
      assert.is_nil(message)
      assert.equal(name or nil, found and found.name, host)
    end
    for variable, name in pairs { ["SLURM_CLUSTER_NAME=lumi"] = "lumi", ["SLURM_CLUSTER_NAME=example-slurm"] = "slurm_gpu",
      ["SGE_CLUSTER_NAME=example-sge"] = "sge", ["PBS_O_HOST=a.example-pbs.org"] = "pbs" } do
      local key, value = variable:match "^([^=]+)=(.*)$"
      assert.equal(name, assert(cluster.choose(nil, machine("x", { [key] = value }), { "." })).name)
    end
  end)
end)

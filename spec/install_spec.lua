-- cmake --install: the program, the module for a stock lua5.4, and libkava, each used from where it was put. The C
-- program scripts/examples/embed.c is built against the installed header and library, and run.
local kava = require "kava"
local helper = require "spec.helper"

local function succeed(command)
  local text, code = helper.run(command)
  assert.equal(0, code, command .. "\n" .. text)
  return text
end

describe("an installed KAVA", function()
  local prefix, library

  setup(function()
    prefix = helper.tmp()
    local log = succeed(("cmake --install %s --prefix %s"):format(helper.build, prefix))
    library = assert(log:match "(%S+)/libkava%.so\n", log)
  end)

  it("has a program that finds its Lua side", function()
    assert.equal("0.1.0\n", succeed("cd / && " .. prefix .. [[/bin/kava -e 'print(require("kava").version)']]))
  end)

  it("has scripts that submit jobs, from any folder", function()
    local home, folder = prefix .. "/share/kava", helper.tmp()
    local set = ("env -u SLURM_JOB_ID -u PBS_JOBID -u LSB_JOBID KAVA_HOME=%s PATH=%s/bin:$PATH"):format(home, prefix)
    local text = succeed(("cd %s && %s bash %s/scripts/submit_slurm.sh --help"):format(folder, set, home))
    assert.truthy(text:find("kava " .. home .. "/recipes/train_adaptive.lua [key=value", 1, true), text)
  end)

  it("has a module for a stock lua5.4", function()
    if helper.sanitized then return pending "skipped: a sanitizer's module needs its own program" end
    local code = ([[package.path = "%s/share/lua/5.4/?.lua;%s/share/lua/5.4/?/init.lua"
      package.cpath = "%s/lua/5.4/?.so" print(require("kava").version)]]):format(prefix, prefix, library)
    assert.equal("0.1.0\n", succeed("cd / && lua5.4 -e '" .. code .. "'"))
  end)

  it("has a library for C programs: scripts/examples/embed.c", function()
    local sanitizer = helper.build:match "asan$" and "-fsanitize=address,undefined"
      or helper.build:match "tsan$" and "-fsanitize=thread" or ""
    succeed(("cc -std=c11 -Wall -Wextra -Werror %s -I%s/include -o %s/embed scripts/examples/embed.c -L%s -lkava -lm -Wl,-rpath,%s")
      :format(sanitizer, prefix, prefix, library, library))
    local m = kava.model.create({
      model_type = "llama", vocab_size = 61, hidden_size = 32, intermediate_size = 48, num_hidden_layers = 3,
      num_attention_heads = 4, num_key_value_heads = 2, rms_norm_eps = 1e-5, rope_theta = 5000.0, tie_word_embeddings = true,
    }, { std = 0.2 })
    assert(m:save(prefix .. "/model"))
    local out = m:forward { input_ids = kava.arange(0, 32):to({ dtype = "i64" }):reshape(1, 32) }
    local run = prefix .. "/embed " .. prefix .. "/model/model.safetensors "
    local told, layers = succeed(run .. "4 2 5000 1e-5"), 0
    for i, keys, values in told:gmatch "layer (%d): 2 kv heads x 8, rms of K (%d%.%d%d%d%d%d), of V (%d%.%d%d%d%d%d)\n" do
      local function rms(t) return math.sqrt((t * t):mean():item()) end
      assert.near(rms(out.kv:keys(math.tointeger(i) + 1)), tonumber(keys), 1.1e-5) -- printed to 5 digits; the mean here is summed in f32
      assert.near(rms(out.kv:values(math.tointeger(i) + 1)), tonumber(values), 1.1e-5)
      layers = layers + 1
    end
    assert.equal(3, layers, told)
    assert.truthy(told:find("3 layers: a token's keys are 48 numbers\n", 1, true), told)

    local text, code = helper.run(run .. "5 1 5000 1e-5")
    assert.equal(1, code)
    assert.equal("embed: layer 1: weight q is [32, 32], expected [30, 32]\n", text)
  end)
end)

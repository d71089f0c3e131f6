-- A canary in every variable whose name looks like a secret's: it may be in nothing that KAVA prints, writes or keeps.
local helper = require "spec.helper"
local kava = require "kava"
local program = require "spec.program"

local CANARY = "canary-5d1e9a"
local NAMES = { "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "WANDB_API_KEY", "PGPASSWORD", "SECRET",
  "KAVA_TOKEN", "KAVA_API_KEY", "KAVA_BATCH_SIZE_KEY", "KAVA_PASSWORD", "SLURM_JWT_TOKEN", "DB_PASSWD", "GOOGLE_CREDENTIALS" }

describe("secrets", function()
  local dir, before
  setup(function()
    dir = helper.tmp()
    local set = {}
    for i, name in ipairs(NAMES) do set[i] = ("%s=%s"):format(name, CANARY) end
    before = table.concat(set, " ") .. " SLURM_JOB_ID=7 SLURMD_NODENAME=n0 SLURM_JOB_NUM_NODES=1 "
    require("spec.tiny").model(dir .. "/teacher", { layers = 2, hidden = 16 })
    local lines = {}
    for i = 1, 8 do lines[i] = kava.json.encode { question = "q " .. i, answer = "a " .. i } end
    helper.write(dir .. "/rows.jsonl", table.concat(lines, "\n") .. "\n")
  end)

  local function run(arguments, code)
    local found, out, err = program.shell(before .. program.path .. " " .. arguments)
    assert.equal(code or 0, found, err)
    for _, name in ipairs { CANARY, table.unpack(NAMES) } do
      if name ~= "SECRET" then assert.falsy((out .. err):find(name, 1, true), name .. " in: " .. out .. err) end
    end
    return out .. err
  end

  it("are in no report, no config and no message", function()
    for _, flag in ipairs { "", "--json", "--print-config", "--print-config --json", "--help" } do
      run("recipes/check_environment.lua " .. flag)
    end
    run("recipes/check_environment.lua batch_sise=4", 2)
    run("recipes/check_environment.lua paths.output=README.md/x", 1)
    local said = program.shell(before .. program.path .. " recipes/check_environment.lua 'paths.cache=/c/{$HF_TOKEN}'")
    assert.equal(2, said) -- and the value is not what is shown
  end)

  it("are in nothing that a run leaves behind", function()
    local out = run(("recipes/train_adaptive.lua --config=%s"):format(helper.write(dir .. "/e.lua", ([[return {
      teacher = "DIR/teacher", student = { layers = 1 }, data = { train = "DIR/rows.jsonl", eval = "DIR/rows.jsonl", max_length = 16 },
      training = { steps = 2 }, target_batch = 4, batch_size = 2, checkpoint = { every = 1 },
      output = "DIR/run", paths = { cache = "DIR/cache" } }]]):gsub("DIR", dir))))
    assert.truthy(out:find("slurm", 1, true), out)
    local text, code = helper.run(("grep -rlaF %s %s; find %s/run -type f | wc -l"):format(CANARY, dir, dir))
    assert.equal(0, code)
    local files = tonumber(text)
    assert.truthy(files and files >= 6, text) -- nothing but the count: no file holds it; config, logs, checkpoints and student were there
  end)
end)

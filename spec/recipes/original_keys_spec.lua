-- Every key of the original's environment_config.yaml, under its old name: where it has its home, and that it changes what happens there.
local config = require "kava.config"
local helper = require "spec.helper"
local kava = require "kava"
local program = require "spec.program"

local schema = config.schema(require "recipes.keys")
local DEFAULTS = "configs/environment.lua"

local ORIGINAL = {
  hardware = { gpu_detection = { auto_detect = true, fallback_to_cpu = true }, precision = { auto_detect = true, fallback = "fp32" } },
  model_dimensions = { auto_detect = true, kv_extraction = { method = "past_key_values", detect_at_runtime = true },
    projector = { initialization = "xavier_uniform", validate_shapes = true } },
  training = { auto_tune = true, batch_size = { auto_detect = true, strategy = "max_fit" },
    gradient_accumulation = { auto_compute = true, target_batch_size = 32 } },
  paths = {
    env_vars = { project_root = "KAVA_PROJECT_ROOT", models = "KAVA_MODEL_PATH", data = "KAVA_DATA_PATH", cache = "KAVA_CACHE_PATH",
      outputs = "KAVA_OUTPUT_PATH" },
    defaults = { models = "./local_models", data = "./local_data", cache = "./cache", outputs = "./outputs" },
    hpc_patterns = { "/scratch/{username}/kava", "/work/{username}/kava", "/data/{username}/kava", "/home/{username}/projects/kava",
      "{scratch}/kava" } },
  kv_aggregation_method = "concat",
  use_all_layers = true,
}

-- The values of the defaults with one more layer, given as a table or as texts of a command line.
local function resolve(layer)
  local make = layer[1] and config.assignments or config.layer
  local layers = { assert(config.layer(schema, assert(config.read(DEFAULTS)), DEFAULTS)), assert(make(schema, layer, "x")) }
  return config.resolve(schema, layers)
end

describe("the original's keys", function()
  it("are all understood, and mean the defaults", function()
    local values = resolve(ORIGINAL).values
    assert.same(resolve({}).values, values)
  end)

  local teacher, student
  before_each(function()
    kava.seed(11)
    local function tiny(layers, hidden)
      return kava.model.create({ model_type = "llama", vocab_size = 40, hidden_size = hidden, intermediate_size = 2 * hidden,
        num_hidden_layers = layers, num_attention_heads = 2, num_key_value_heads = 2, rms_norm_eps = 1e-5, rope_theta = 1e4,
        tie_word_embeddings = true }, { std = 0.3 })
    end
    teacher, student = tiny(4, 16), tiny(2, 8):requires_grad(true)
  end)
  after_each(function() teacher, student = nil, nil end)

  local function build(...)
    local c = resolve { "kv.part=keys", ... }.values
    return kava.loss.build("mercator", { teacher = teacher, student = student, loss = { name = "mercator" }, kv = c.kv, seed = 5 })
  end

  it("kv_aggregation_method and use_all_layers say what is aggregated", function()
    assert.same({ teacher = 64, student = 16 }, build("kv_aggregation_method=concat").term.pieces[1].dims)
    assert.same({ teacher = 16, student = 8 }, build("kv_aggregation_method=mean").term.pieces[1].dims)
    assert.same({ teacher = 16, student = 8 }, build("use_all_layers=false").term.pieces[1].dims)
    local batch = { input_ids = kava.tensor({ { 1, 2, 3, 4 } }, { dtype = "i64" }) }
    local function target(text)
      return kava.no_grad(function() return build(text).term.pieces[1].source(teacher:forward(batch)) end)
    end
    local keys = kava.no_grad(function() return teacher:forward(batch).kv:keys(4) end)
    local _, difference = kava.allclose(target("use_all_layers=false"), keys:permute(1, 3, 2, 4):reshape(1, 4, 16))
    assert.equal(0, difference)
    assert.same({ "keys.2" }, (function()
      local loss, names = kava.loss.build("layer_matched", { teacher = teacher, student = student, loss = { name = "layer_matched" },
        kv = resolve({ "kv.part=keys", "use_all_layers=false" }).values.kv, seed = 5 }), {}
      for name in pairs(loss:parameters()) do names[#names + 1] = name:match "^%a+%.%d+" end
      return names
    end)())
  end)

  it("model_dimensions.kv_extraction.method takes keys from the cache or from the projection", function()
    local function rope(method) return resolve({ "model_dimensions.kv_extraction.method=" .. method }).values.kv.rope end
    assert.same({ "post", "post", "pre", "pre" }, { rope "past_key_values", rope "cache", rope "hook", rope "projection" })
    local batch = { input_ids = kava.tensor({ { 1, 2, 3, 4 } }, { dtype = "i64" }) }
    local function target(method)
      local loss = build("model_dimensions.kv_extraction.method=" .. method, "use_all_layers=false")
      return kava.no_grad(function() return loss.term.pieces[1].source(teacher:forward(batch)) end)
    end
    assert.is_false((kava.allclose(target "hook", target "past_key_values")))
  end)

  it("model_dimensions.projector.initialization chooses the matrices' distribution", function()
    local function largest(method)
      local p = kava.projector { in_dim = 64, out_dim = 16, initialization = resolve({
        "model_dimensions.projector.initialization=" .. method }).values.kv.initialization }
      return p:parameters()["4.weight"]:abs():max():item()
    end
    kava.seed(3)
    assert.near(math.sqrt(6 / 80), largest "xavier_uniform", 0.01) -- 1024 draws come near to the bound
    assert.near(1 / 8, largest "kaiming_uniform", 0.01)
    assert.truthy(largest "xavier_normal" > math.sqrt(6 / 80)) -- 1.7 standard deviations
    local built = build("model_dimensions.projector.initialization=kaiming_uniform"):parameters()["keys.4.weight"]
    assert.truthy(built:abs():max():item() <= 1 / math.sqrt(built.shape[2]))
    assert.error(function() kava.projector { in_dim = 4, out_dim = 4, initialization = "zeros" } end)
  end)

  it("model_dimensions.projector.validate_shapes tries the loss before training", function()
    local function failing() return { pairs = function() error("tried", 0) end, loss = function() end } end
    local function try(text)
      return pcall(kava.loss.build, failing, { teacher = teacher, student = student, loss = { name = failing },
        kv = resolve({ "model_dimensions.projector.validate_shapes=" .. text }).values.kv, seed = 5 })
    end
    local ok, message = try "true"
    assert.is_false(ok)
    assert.truthy(tostring(message):find("tried", 1, true), message)
    assert.is_true((try "false"))
  end)

  it("model_dimensions.auto_detect measures, or believes the configuration", function()
    assert.is_false(resolve({ "model_dimensions.auto_detect=false" }).values.model_dimensions.auto_detect)
    assert.is_false(resolve({ "model_dimensions.kv_extraction.detect_at_runtime=false" }).values.model_dimensions.auto_detect)
    local measured, forward, passes = teacher:probe(), teacher.forward, 0
    teacher.forward = function(...)
      passes = passes + 1
      return forward(...)
    end
    local believed = teacher:probe { measure = false }
    assert.equal(0, passes)
    measured.dtype = nil
    assert.same(measured, believed)
    teacher:probe { measure = true }
    assert.equal(1, passes)
  end)

  it("hardware.* and paths.* decide in recipes/hardware.lua and recipes/paths.lua", function()
    local c = resolve({ "hardware.gpu_detection.auto_detect=false", "hardware.precision.fallback=bfloat16",
      "hardware.precision.auto_detect=false", "paths.defaults.outputs=./o" }).values
    local facts = { device = "cuda", precision = "f16", kind = "local", variables = {}, why = { device = "d", precision = "p" } }
    assert.equal("cpu", (require("recipes.hardware").device(facts, c)))
    assert.equal("bf16", (require("recipes.hardware").precision(facts, c, "cpu")))
    assert.equal("./o", c.paths.defaults.output) -- paths_spec.lua and hardware_spec.lua have the rest
  end)

  describe("in a run", function()
    local dir, experiment
    setup(function()
      dir = helper.tmp()
      require("spec.tiny").model(dir .. "/teacher", { layers = 4, hidden = 16 })
      local lines = {}
      for i = 1, 16 do lines[i] = kava.json.encode { question = "q " .. i, answer = "a " .. i } end
      helper.write(dir .. "/rows.jsonl", table.concat(lines, "\n") .. "\n")
      experiment = helper.write(dir .. "/e.lua", ([[return { teacher = "DIR/teacher", student = { layers = 2 }, preset = "original",
        data = { train = "DIR/rows.jsonl", eval = "DIR/rows.jsonl", max_length = 16 }, eval = { every = 0, before = false },
        training = { steps = 1, gradient_accumulation = { target_batch_size = 8 } },
        kv_aggregation_method = "mean", use_all_layers = false, model_dimensions = { auto_detect = false },
        paths = { env_vars = { outputs = "LLM_OUT" } } }]]):gsub("DIR", dir))
    end)

    local function train(arguments)
      return program.shell(("LLM_OUT=%s/runs KAVA_CACHE_PATH=%s/cache %s recipes/train_adaptive.lua --config=%s resume=none %s"):format(
        dir, dir, program.path, experiment, arguments))
    end

    local function shows(arguments, ...)
      local code, out, err = train(arguments)
      assert.equal(0, code, err)
      for _, part in ipairs { ... } do assert.truthy(out:find(part, 1, true), part .. " in: " .. out) end
    end

    it("those of models and paths are obeyed", function()
      shows("", dir .. "/runs/run-", "not measured: model_dimensions.auto_detect=false", "1 steps of 8 rows")
    end)

    it("training.auto_tune=false is obeyed, and so is the table", function()
      shows("training.auto_tune=false batch_size=4", "micro-batch 4, 2 of them a step", "batch_size as given")
      shows("training.batch_size.strategy=table", "by the table of memory", "training.batch_size.strategy=table")
    end)

    it("training.batch_size.auto_detect=false wants a number", function()
      local code, _, err = train "training.batch_size.auto_detect=false"
      assert.equal(2, code, err)
      assert.truthy(err:find("batch_size=auto, but training.batch_size.auto_detect=false: give batch_size a number", 1, true), err)
      shows("training.batch_size.auto_detect=false training.batch_size=2", "micro-batch 2, 4 of them a step")
    end)

    it("training.gradient_accumulation.auto_compute=false takes the number of micro-batches as given", function()
      shows("training.gradient_accumulation.auto_compute=false training.gradient_accumulation.steps=3 batch_size=2",
        "micro-batch 2, 3 of them a step", "1 steps of 6 rows")
    end)
  end)
end)

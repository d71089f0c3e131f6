-- Defaults of every training run: the settings of the guide that KAVA replaces, but for the loss, where the default is what was
-- measured to teach. A cluster's file (configs/clusters), an experiment's file, variables such as KAVA_BATCH_SIZE and the command line
-- override them, in this order; `kava recipes/train_adaptive.lua --help` says what each key means and may be (recipes/keys.lua),
-- `--print-config` what holds and why. Keys without a default (student.path, kv.weights, …) are not here.
-- The keys of the guide's environment_config.yaml are all understood, under their old names too: kv_aggregation_method is kv.method,
-- use_all_layers=false is kv.layers=last, training.gradient_accumulation.target_batch_size is target_batch, training.batch_size is
-- batch_size, model_dimensions.kv_extraction.method is kv.rope, .detect_at_runtime is model_dimensions.auto_detect,
-- model_dimensions.projector.initialization and .validate_shapes are kv.initialization and kv.validate_shapes.
return {
  name = "run",
  preset = "none",
  seed = 42,
  device = "auto",
  precision = "auto",
  record = "auto",
  threads = 0,
  memory_limit = "auto",
  output = "auto",
  resume = "auto",
  profile = false,
  collapse = "warn",

  hardware = {
    gpu_detection = {
      auto_detect = true, -- device=auto looks for a GPU
      fallback_to_cpu = true, -- false: a GPU that is asked for and cannot be used is an error
    },
    precision = {
      auto_detect = true, -- precision=auto asks the hardware
      fallback = "f32",
    },
  },

  -- Each folder: its variable, else what is set here or in another file, else below the first pattern that can be used (in a cluster's
  -- jobs only), else the default.
  paths = {
    project_root = "auto",
    models = "auto",
    data = "auto",
    output = "auto",
    cache = "auto",
    env_vars = {
      project_root = "KAVA_PROJECT_ROOT",
      models = "KAVA_MODEL_PATH",
      data = "KAVA_DATA_PATH",
      output = "KAVA_OUTPUT_PATH",
      cache = "KAVA_CACHE_PATH",
    },
    hpc_patterns = {
      "/scratch/{username}/kava",
      "/work/{username}/kava",
      "/data/{username}/kava",
      "/home/{username}/projects/kava",
      "{scratch}/kava", -- the job's own, gone when it ends: only the cache goes there
    },
    defaults = {
      models = "./local_models",
      data = "./local_data",
      output = "./outputs",
      cache = "./cache",
    },
  },

  teacher = { quantize = "none", quantize_parts = "auto", offload = "auto", cache = "none", cache_dtype = "f32" },
  student = { dtype = "f32" },
  alignment = "none",

  data = {
    template = "{question}\n{answer}",
    count = 4000,
    eval_count = 256,
    seed = 1,
    max_length = 512,
    long = "truncate",
    eos = false,
    mode = "bucket",
    skip = 0,
  },

  kv = {
    part = "both",
    rope = "post",
    method = "concat",
    layers = "all",
    project = "student", -- a trained projector on the teacher's side can move the target, and collapses
    hidden_ratio = 1.0,
    dropout = 0.1,
    initialization = "xavier_uniform",
    dtype = "f32",
    validate_shapes = true,
  },
  model_dimensions = { auto_detect = true }, -- by a forward pass, whatever config.json says

  -- Matching layer to layer, K and V, beside the cross entropy.
  loss = {
    name = "layer_matched",
    weight = 1.0,
    ce = 1.0,
    kl = 0.0,
    temperature = 1.0,
    layer_map = "recorded", -- by derive; else by depth
    alpha = 1.0,
    beta = 0.01,
    eps = 1e-8,
    delta = 1.0,
    relative = false,
    attention = 1.0,
  },

  training = {
    steps = 1000,
    epochs = 1,
    auto_tune = true,
    batch_size = { auto_detect = true, strategy = "max_fit" },
    gradient_accumulation = { auto_compute = true, steps = 1 },
  },
  batch_size = "auto",
  target_batch = 32,
  learning_rate = { student = 5e-5, projector = 1e-3 },
  schedule = { name = "constant", warmup = 100 },
  clip = 1.0,
  weight_decay = 0.01,
  gradients = "f32",
  recompute = "auto",
  moments = "f32",
  max_bad_steps = 10,

  eval = { every = 100, before = true, rows = 128, generate = 0 },
  checkpoint = { every = 200, keep = 2 },
  log = { every = 1 },
}

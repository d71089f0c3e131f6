-- Defaults of every training run: the settings of the guide that KAVA replaces, but for the loss, where the default is what was
-- measured to teach. An experiment's file, a cluster's file and the command line override them; `kava recipes/train_adaptive.lua
-- --help` says what each key means and may be (recipes/keys.lua). Keys without a default (student.path, kv.layers, …) are not here.
return {
  name = "run",
  preset = "none",
  seed = 42,
  device = "auto",
  precision = "auto",
  threads = 0,
  output = "auto",
  resume = "auto",
  collapse = "warn",

  paths = {
    models = "./local_models",
    data = "./local_data",
    output = "./outputs",
    cache = "./cache",
  },

  teacher = { quantize = "none" },
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
    project = "student", -- a trained projector on the teacher's side can move the target, and collapses
    hidden_ratio = 1.0,
    dropout = 0.1,
  },

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

  training = { steps = 1000, epochs = 1 },
  batch_size = "auto",
  target_batch = 32,
  learning_rate = { student = 5e-5, projector = 1e-3 },
  schedule = { name = "constant", warmup = 100 },
  clip = 1.0,
  weight_decay = 0.01,
  moments = "f32",
  max_bad_steps = 10,

  eval = { every = 100, before = true, rows = 128, generate = 0 },
  checkpoint = { every = 200, keep = 2 },
  log = { every = 1 },
}

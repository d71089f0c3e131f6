-- The embedded default: a 4-bit teacher that ships with KAVA (recipes/pretrain.lua made it) teaches three of its six layers the
-- arithmetic word problems of recipes/problems.lua. Nothing is downloaded.
return {
  name = "demo",
  teacher = { path = "assets/demo/teacher.gguf" },
  student = { layers = { 1, 3, 6 } }, -- the first and the last kept
  data = { train = "recipes/problems.lua", eval = "recipes/problems.lua", count = 8000, eval_count = 256, max_length = 128,
    eos = false }, -- a problem ends with its line: the teacher has seen nothing after it
  loss = { name = "layer_matched", weight = 10.0, ce = 1.0 },
  training = { steps = 200 },
  learning_rate = { student = 3e-3, projector = 1e-3 },
  schedule = { name = "cosine", warmup = 20 },
  eval = { every = 50, rows = 128, generate = 64 },
  checkpoint = { every = 50, keep = 1 },
}

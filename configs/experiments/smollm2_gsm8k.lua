-- SmolLM2-135M-Instruct in 4 bits teaches every second of its own layers on GSM8K: the setting whose PyTorch figures ARCHITECTURE.md
-- section 6 rests on. scripts/get_model fetches the teacher; data.train=FILE data.eval=FILE name GSM8K's train and test rows.
return {
  name = "smollm2_gsm8k",
  teacher = { path = "SmolLM2-135M-Instruct.Q4_1.gguf" },
  student = { layers = { 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30 } },
  data = { train = "gsm8k/train.jsonl", eval = "gsm8k/test.jsonl", max_length = 512 },
  kv = { part = "both", rope = "post" },
  loss = { name = "layer_matched", weight = 1.0, ce = 1.0 },
  training = { steps = 466 }, -- two epochs
  learning_rate = { student = 3e-4, projector = 1e-3 },
  schedule = { name = "cosine", warmup = 20 },
  clip = 1.0,
  eval = { every = 50, rows = 64 },
  checkpoint = { every = 50, keep = 2 },
}

-- Qwen3: llama with an RMSNorm over each head's queries and keys, before rotation; windows as Qwen2 has them; GGUF keeps its rows in
-- HF's order.
local families = require "kava.families"
local llama = require "kava.family.llama"
local qwen2 = require "kava.family.qwen2"

return families.like(llama, {
  name = "qwen3",
  model_types = { "qwen3" },
  architecture = "Qwen3ForCausalLM",
  gguf = "qwen3",
  gguf_permuted = false,
  defaults = { head_dim = 128 },
  complete = qwen2.complete,
  layer = {
    q_norm = { "model.layers.%d.self_attn.q_norm.weight", "blk.%d.attn_q_norm.weight" },
    k_norm = { "model.layers.%d.self_attn.k_norm.weight", "blk.%d.attn_k_norm.weight" },
    gate_bias = false, up_bias = false, down_bias = false,
  },
})

-- OLMo 2: llama that normalises what attention and MLP give, not what they read, and its queries and keys over all heads at once.
local families = require "kava.families"
local llama = require "kava.family.llama"

return families.like(llama, {
  name = "olmo2",
  model_types = { "olmo2" },
  architecture = "Olmo2ForCausalLM",
  gguf = "olmo2",
  gguf_permuted = false,
  norm_of_all_heads = true,
  layer = {
    attn_norm = false,
    mlp_norm = false,
    post_attn_norm = { "model.layers.%d.post_attention_layernorm.weight", "blk.%d.post_attention_norm.weight" },
    post_mlp_norm = { "model.layers.%d.post_feedforward_layernorm.weight", "blk.%d.post_ffw_norm.weight" },
    q_norm = { "model.layers.%d.self_attn.q_norm.weight", "blk.%d.attn_q_norm.weight" },
    k_norm = { "model.layers.%d.self_attn.k_norm.weight", "blk.%d.attn_k_norm.weight" },
    gate_bias = false, up_bias = false, down_bias = false,
  },
})

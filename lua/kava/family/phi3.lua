-- Phi-3 and Phi-4-mini: llama whose q, k, v are one matrix and gate, up another; a part of each head is rotated; a window on every
-- layer where sliding_window is a number.
local families = require "kava.families"
local llama = require "kava.family.llama"

return families.like(llama, {
  name = "phi3",
  model_types = { "phi3" },
  architecture = "Phi3ForCausalLM",
  gguf = "phi3",
  gguf_permuted = false,
  layer = {
    q = false, k = false, v = false, q_bias = false, k_bias = false, v_bias = false, o_bias = false,
    gate = false, up = false, gate_bias = false, up_bias = false, down_bias = false,
    qkv = { "model.layers.%d.self_attn.qkv_proj.weight", "blk.%d.attn_qkv.weight", parts = { "q", "k", "v" } },
    gate_up = { "model.layers.%d.mlp.gate_up_proj.weight", "blk.%d.ffn_up.weight", parts = { "gate", "up" } },
  },

  -- Older files call longrope "su"; those that say "yarn" mean it as well.
  complete = function(config)
    local given = config.rope_parameters or config.rope_scaling
    if not given then return end
    local own = {}
    for key, value in pairs(given) do own[key] = value end
    local kind = own.rope_type or own.type
    if kind == "su" or kind == "yarn" then own.rope_type, own.type = "longrope", nil end
    config[config.rope_parameters and "rope_parameters" or "rope_scaling"] = own
    config.original_max_position_embeddings = config.original_max_position_embeddings or own.original_max_position_embeddings
  end,

  spec = function(config, need)
    local spec = llama.spec(config, need)
    for _, layer in ipairs(spec.layer) do layer.window = config.sliding_window and need "sliding_window" end
    return spec
  end,

  gguf_keys = { sliding_window = "attention.sliding_window", original_max_position_embeddings = "rope.scaling.original_context_length",
    head_dim = false },

  from_gguf = function(config, get)
    llama.from_gguf(config, get)
    local head_dim = config.hidden_size // config.num_attention_heads
    config.head_dim = nil
    config.partial_rotary_factor = (get "rope.dimension_count" or head_dim) / head_dim
    if config.sliding_window == 0 then config.sliding_window = nil end
  end,

  -- llama.cpp tells Phi-4, which has no window, by a 0.
  to_gguf = function(config, put)
    put("attention.sliding_window", config.sliding_window or 0)
    put("rope.scaling.original_context_length", config.original_max_position_embeddings or config.max_position_embeddings)
  end,
})

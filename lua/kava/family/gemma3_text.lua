-- Gemma 3, text: Gemma 2 without soft-caps, with a norm of each head's queries and keys; windows on five layers of six, which
-- are rotated by another base than the sixth.
local families = require "kava.families"
local gemma2 = require "kava.family.gemma2"
local rope = require "kava.rope"

return families.like(gemma2, {
  name = "gemma3_text",
  model_types = { "gemma3_text" },
  architecture = "Gemma3ForCausalLM",
  gguf = "gemma3",
  defaults = { attn_logit_softcapping = false, final_logit_softcapping = false },
  layer = {
    q_norm = { "model.layers.%d.self_attn.q_norm.weight", "blk.%d.attn_q_norm.weight" },
    k_norm = { "model.layers.%d.self_attn.k_norm.weight", "blk.%d.attn_k_norm.weight" },
  },

  -- Version 4 of transformers keeps the two bases as rope_theta (with rope_scaling) and rope_local_base_freq.
  complete = function(config)
    if not config.layer_types then
      config.layer_types = {}
      for i = 1, config.num_hidden_layers or 0 do
        config.layer_types[i] = i % (config.sliding_window_pattern or 6) ~= 0 and "sliding_attention" or "full_attention"
      end
    end
    local given = config.rope_parameters or {}
    local whole, near = { rope_theta = config.rope_theta or 1000000.0, rope_type = "default" }, {
      rope_theta = config.rope_local_base_freq or 10000.0, rope_type = "default" }
    for key, value in pairs(given.full_attention or config.rope_scaling or {}) do whole[key == "type" and "rope_type" or key] = value end
    for key, value in pairs(given.sliding_attention or {}) do near[key == "type" and "rope_type" or key] = value end
    config.rope_parameters, config.rope_scaling = { full_attention = whole, sliding_attention = near }, nil
  end,

  spec = function(config, need)
    local spec = gemma2.spec(config, need)
    local turning = {}
    for i, layer in ipairs(spec.layer) do
      local kind = config.layer_types[i]
      turning[kind] = turning[kind] or rope.parameters(config, layer.head_dim, kind)
      layer.rope = turning[kind]
    end
    return spec
  end,

  gguf_keys = { attn_logit_softcapping = false, rope_local_base_freq = "rope.freq_base_swa" },

  from_gguf = function(config, get)
    gemma2.from_gguf(config, get)
    config.query_pre_attn_scalar = config.num_hidden_layers == 62 and config.hidden_size // config.num_attention_heads or config.head_dim
  end,

  to_gguf = function(config, put)
    gemma2.to_gguf(config, put)
    put("rope.freq_base", config.rope_parameters.full_attention.rope_theta)
    put("rope.freq_base_swa", config.rope_parameters.sliding_attention.rope_theta)
    for key, value in pairs(rope.to_gguf(rope.parameters(config, config.head_dim, "full_attention"))) do put(key, value) end
  end,
})

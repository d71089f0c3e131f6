-- Granite: llama with multipliers: of the embeddings, of what each block adds to the stream, of attention's scores; logits are divided.
local families = require "kava.families"
local llama = require "kava.family.llama"

return families.like(llama, {
  name = "granite",
  model_types = { "granite" },
  architecture = "GraniteForCausalLM",
  gguf = "granite",
  defaults = { embedding_multiplier = 1.0, residual_multiplier = 1.0, attention_multiplier = 1.0, logits_scaling = 1.0 },

  spec = function(config, need)
    local spec = llama.spec(config, need)
    spec.embed_scale, spec.residual_scale = need "embedding_multiplier", need "residual_multiplier"
    spec.head_scale = 1 / need "logits_scaling"
    for _, layer in ipairs(spec.layer) do layer.attention_scale = need "attention_multiplier" end
    return spec
  end,

  from_gguf = function(get, need)
    local config = llama.from_gguf(get, need)
    config.embedding_multiplier, config.residual_multiplier = get "embedding_scale" or 1.0, get "residual_scale" or 1.0
    config.attention_multiplier = get "attention.scale" or config.head_dim ^ -0.5
    config.logits_scaling = get "logit_scale" or 1.0
    return config
  end,
})

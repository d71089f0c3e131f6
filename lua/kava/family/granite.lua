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

  gguf_keys = { embedding_multiplier = "embedding_scale", residual_multiplier = "residual_scale", attention_multiplier = "attention.scale",
    logits_scaling = "logit_scale" },

  from_gguf = function(config, get)
    llama.from_gguf(config, get)
    config.attention_multiplier = config.attention_multiplier or config.head_dim ^ -0.5
  end,
})

-- SmolLM3: llama without rotation on every fourth layer.
local families = require "kava.families"
local llama = require "kava.family.llama"

return families.like(llama, {
  name = "smollm3",
  model_types = { "smollm3" },
  architecture = "SmolLM3ForCausalLM",
  gguf = "smollm3",
  defaults = { tie_word_embeddings = true, rope_theta = 2000000.0 },

  -- no_rope_layers holds 1 where a layer is rotated. Windows belong to layers that are not.
  complete = function(config)
    local rotated, types = config.no_rope_layers or {}, {}
    for i = 1, config.num_hidden_layers or 0 do
      rotated[i] = rotated[i] or (i % (config.no_rope_layer_interval or 4) ~= 0 and 1 or 0)
      local slides = config.use_sliding_window == true and config.sliding_window and rotated[i] == 0
      types[i] = slides and "sliding_attention" or "full_attention"
    end
    config.no_rope_layers, config.layer_types = rotated, config.layer_types or types
  end,

  spec = function(config, need)
    local spec = llama.spec(config, need)
    for i, layer in ipairs(spec.layer) do
      if config.no_rope_layers[i] == 0 then layer.rope = nil end
      if config.use_sliding_window ~= true then layer.window = nil end
    end
    return spec
  end,
})

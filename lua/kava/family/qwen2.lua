-- Qwen2 and Qwen2.5: llama with biases on q, k and v, whatever the configuration says; GGUF keeps its rows in HF's order.
local families = require "kava.families"
local llama = require "kava.family.llama"

local function always(name)
  local entry = {}
  for key, value in pairs(llama.layer[name]) do entry[key] = value end
  entry.optional = nil
  return entry
end

return families.like(llama, {
  name = "qwen2",
  model_types = { "qwen2" },
  architecture = "Qwen2ForCausalLM",
  gguf = "qwen2",
  gguf_permuted = false,
  layer = { q_bias = always "q_bias", k_bias = always "k_bias", v_bias = always "v_bias", o_bias = false,
    gate_bias = false, up_bias = false, down_bias = false },

  -- Qwen ships sliding_window beside use_sliding_window = false: only layer_types or the switch turn it on.
  complete = function(config)
    if config.layer_types then return end
    config.layer_types = {}
    for i = 1, config.num_hidden_layers or 0 do
      local slides = config.use_sliding_window == true and config.sliding_window and i - 1 >= (config.max_window_layers or 28)
      config.layer_types[i] = slides and "sliding_attention" or "full_attention"
    end
  end,
})

-- Mistral: llama with a sliding window on every layer, where sliding_window is a number (later releases have null). In GGUF it is a
-- llama, without a window.
local families = require "kava.families"
local llama = require "kava.family.llama"

return families.like(llama, {
  name = "mistral",
  model_types = { "mistral" },
  architecture = "MistralForCausalLM",
  defaults = { sliding_window = 4096 },
  layer = { q_bias = false, k_bias = false, v_bias = false, o_bias = false, gate_bias = false, up_bias = false, down_bias = false },

  spec = function(config, need)
    local spec = llama.spec(config, need)
    for _, layer in ipairs(spec.layer) do layer.window = config.sliding_window and need "sliding_window" end
    return spec
  end,
})

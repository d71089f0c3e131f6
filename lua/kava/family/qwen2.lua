-- Qwen2 and Qwen2.5: llama with biases on q, k and v, whatever the configuration says; GGUF keeps its rows in HF's order.
local llama = require "kava.family.llama"

local family = {}
for key, value in pairs(llama) do family[key] = value end
family.name = "qwen2"
family.model_types = { "qwen2" }
family.architecture = "Qwen2ForCausalLM"
family.gguf = "qwen2"
family.gguf_permuted = false

function family.spec(config, need)
  local spec = llama.spec(config, need)
  -- Qwen ships sliding_window beside use_sliding_window = false: only layer_types or the switch turn it on.
  for i, layer in ipairs(spec.layer) do
    local kind = config.layer_types and config.layer_types[i]
    local slides = kind == "sliding_attention"
      or not kind and config.use_sliding_window == true and i - 1 >= (config.max_window_layers or 0)
    if slides then layer.window = need "sliding_window" end
  end
  return spec
end

return family

-- Gemma 2: norms before and after attention and MLP, to whose weights 1 is added; embeddings times sqrt(hidden); scores and logits
-- bent by soft-caps; every other layer sees a window.
local families = require "kava.families"
local llama = require "kava.family.llama"

return families.like(llama, {
  name = "gemma2",
  model_types = { "gemma2" },
  architecture = "Gemma2ForCausalLM",
  gguf = "gemma2",
  gguf_permuted = false,
  gguf_norm_shift = 1,
  defaults = { tie_word_embeddings = true, head_dim = 256, query_pre_attn_scalar = 256, sliding_window = 4096,
    attn_logit_softcapping = 50.0, final_logit_softcapping = 30.0, hidden_activation = "gelu_pytorch_tanh" },
  layer = {
    post_attn_norm = { "model.layers.%d.post_attention_layernorm.weight", "blk.%d.post_attention_norm.weight" },
    mlp_norm = { "model.layers.%d.pre_feedforward_layernorm.weight", "blk.%d.ffn_norm.weight" },
    post_mlp_norm = { "model.layers.%d.post_feedforward_layernorm.weight", "blk.%d.post_ffw_norm.weight" },
    gate_bias = false, up_bias = false, down_bias = false,
  },

  complete = function(config)
    if config.layer_types then return end
    config.layer_types = {}
    for i = 1, config.num_hidden_layers or 0 do
      config.layer_types[i] = i % 2 == 1 and "sliding_attention" or "full_attention"
    end
  end,

  spec = function(config, need)
    if config.use_bidirectional_attention then
      error("config: use_bidirectional_attention: attention to later tokens is not supported", 0)
    end
    local spec = llama.spec(config, need)
    spec.norm_shift = 1
    spec.embed_scale = spec.hidden ^ 0.5
    spec.activation = config.hidden_activation or config.hidden_act
    spec.logit_softcap = config.final_logit_softcapping
    for _, layer in ipairs(spec.layer) do
      layer.attention_scale = need "query_pre_attn_scalar" ^ -0.5
      layer.softcap = config.attn_logit_softcapping
    end
    return spec
  end,

  gguf_keys = { sliding_window = "attention.sliding_window", attn_logit_softcapping = "attn_logit_softcapping",
    final_logit_softcapping = "final_logit_softcapping" },

  -- GGUF has no query_pre_attn_scalar: it is head_dim, but in the 27B model, of 46 layers, hidden / heads.
  from_gguf = function(config, get)
    llama.from_gguf(config, get)
    config.hidden_act = nil
    config.query_pre_attn_scalar = config.num_hidden_layers == 46 and config.hidden_size // config.num_attention_heads or config.head_dim
    local pattern = get "attention.sliding_window_pattern" -- a period, or a list of which layers slide
    if not pattern then return end
    config.layer_types = {}
    for i = 1, config.num_hidden_layers do
      local slides = type(pattern) == "table" and pattern[i] or type(pattern) == "number" and i % pattern ~= 0
      config.layer_types[i] = slides and "sliding_attention" or "full_attention"
    end
  end,

  to_gguf = function(config, put)
    local pattern = {}
    for i, kind in ipairs(config.layer_types) do pattern[i] = kind == "sliding_attention" end
    put("attention.sliding_window_pattern", pattern)
  end,
})

-- The llama family: Llama 2/3.x, TinyLlama, SmolLM2. RMSNorm, rotary positions, grouped queries, gated MLP with SiLU.
local rope = require "kava.rope"

local family = {
  name = "llama",
  model_types = { "llama" },
  architecture = "LlamaForCausalLM",
  gguf = "llama",
  gguf_permuted = true, -- GGUF orders Q and K rows for interleaved rotation
}

-- Canonical weight -> HF name and GGUF name; %d is the layer, from 0. optional: may be absent from a file; where it names a key of
-- the configuration, a fresh model has it when that key is true.
family.model = {
  embed = { "model.embed_tokens.weight", "token_embd.weight" },
  norm = { "model.norm.weight", "output_norm.weight" },
  head = { "lm_head.weight", "output.weight" },
}
family.layer = {
  attn_norm = { "model.layers.%d.input_layernorm.weight", "blk.%d.attn_norm.weight" },
  q = { "model.layers.%d.self_attn.q_proj.weight", "blk.%d.attn_q.weight", rotary = "heads" },
  k = { "model.layers.%d.self_attn.k_proj.weight", "blk.%d.attn_k.weight", rotary = "kv_heads" },
  v = { "model.layers.%d.self_attn.v_proj.weight", "blk.%d.attn_v.weight" },
  o = { "model.layers.%d.self_attn.o_proj.weight", "blk.%d.attn_output.weight" },
  q_bias = { "model.layers.%d.self_attn.q_proj.bias", "blk.%d.attn_q.bias", optional = "attention_bias", rotary = "heads" },
  k_bias = { "model.layers.%d.self_attn.k_proj.bias", "blk.%d.attn_k.bias", optional = "attention_bias", rotary = "kv_heads" },
  v_bias = { "model.layers.%d.self_attn.v_proj.bias", "blk.%d.attn_v.bias", optional = "attention_bias" },
  o_bias = { "model.layers.%d.self_attn.o_proj.bias", "blk.%d.attn_output.bias", optional = "attention_bias" },
  mlp_norm = { "model.layers.%d.post_attention_layernorm.weight", "blk.%d.ffn_norm.weight" },
  gate = { "model.layers.%d.mlp.gate_proj.weight", "blk.%d.ffn_gate.weight" },
  up = { "model.layers.%d.mlp.up_proj.weight", "blk.%d.ffn_up.weight" },
  down = { "model.layers.%d.mlp.down_proj.weight", "blk.%d.ffn_down.weight" },
  gate_bias = { "model.layers.%d.mlp.gate_proj.bias", "blk.%d.ffn_gate.bias", optional = "mlp_bias" },
  up_bias = { "model.layers.%d.mlp.up_proj.bias", "blk.%d.ffn_up.bias", optional = "mlp_bias" },
  down_bias = { "model.layers.%d.mlp.down_proj.bias", "blk.%d.ffn_down.bias", optional = "mlp_bias" },
}

-- A complete HF configuration -> the decoder's spec. `need(key)` gives a number or fails naming the key.
-- Layers that config.layer_types calls sliding_attention see a window.
function family.spec(config, need)
  local hidden, heads = need "hidden_size", need "num_attention_heads"
  local head_dim = config.head_dim or hidden // heads
  local turning = rope.parameters(config, head_dim)
  local spec = {
    hidden = hidden,
    vocab = need "vocab_size",
    ffn = need "intermediate_size",
    norm = "rms",
    norm_eps = need "rms_norm_eps",
    activation = config.hidden_act or "silu",
    layer = {},
  }
  for i = 1, need "num_hidden_layers" do
    local slides = config.layer_types and config.layer_types[i] == "sliding_attention"
    spec.layer[i] = {
      heads = heads,
      kv_heads = config.num_key_value_heads or heads,
      head_dim = head_dim,
      attention_scale = head_dim ^ -0.5,
      rope = turning,
      window = slides and need "sliding_window" or nil,
    }
  end
  return spec
end

-- Keys of the configuration and of GGUF's metadata, after the architecture's name; and what does not follow from them.
family.gguf_keys = {
  hidden_size = "embedding_length",
  intermediate_size = "feed_forward_length",
  num_hidden_layers = "block_count",
  num_attention_heads = "attention.head_count",
  num_key_value_heads = "attention.head_count_kv",
  head_dim = "attention.key_length",
  rms_norm_eps = "attention.layer_norm_rms_epsilon",
  rope_theta = "rope.freq_base",
  max_position_embeddings = "context_length",
}

function family.from_gguf(config, get)
  config.num_key_value_heads = config.num_key_value_heads or config.num_attention_heads
  config.head_dim = config.head_dim or get "rope.dimension_count" or config.hidden_size // config.num_attention_heads
  config.rope_theta = config.rope_theta or 10000.0
  config.rope_scaling = rope.from_gguf(get)
  config.hidden_act = "silu"
end

return family

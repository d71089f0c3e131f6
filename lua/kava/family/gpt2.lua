-- GPT-2: learned positions, LayerNorm with biases, an ungated MLP; q, k and v are one matrix, and matrices are stored [in, out].
local family = {
  name = "gpt2",
  model_types = { "gpt2" },
  architecture = "GPT2LMHeadModel",
  gguf = "gpt2",
  trains_padding = true,
  defaults = { tie_word_embeddings = true, hidden_act = "gelu_new", rms_norm_eps = 1e-5 },
}

family.model = {
  embed = { "transformer.wte.weight", "token_embd.weight" },
  positions = { "transformer.wpe.weight", "position_embd.weight" },
  norm = { "transformer.ln_f.weight", "output_norm.weight" },
  norm_bias = { "transformer.ln_f.bias", "output_norm.bias" },
  head = { "lm_head.weight", "output.weight" },
}

local function block(hf, gguf, more)
  local entry = { "transformer.h.%d." .. hf, "blk.%d." .. gguf }
  for key, value in pairs(more or {}) do entry[key] = value end
  return entry
end
family.layer = {
  attn_norm = block("ln_1.weight", "attn_norm.weight"),
  attn_norm_bias = block("ln_1.bias", "attn_norm.bias"),
  qkv = block("attn.c_attn.weight", "attn_qkv.weight", { parts = { "q", "k", "v" }, transposed = true }),
  qkv_bias = block("attn.c_attn.bias", "attn_qkv.bias", { parts = { "q_bias", "k_bias", "v_bias" } }),
  o = block("attn.c_proj.weight", "attn_output.weight", { transposed = true }),
  o_bias = block("attn.c_proj.bias", "attn_output.bias"),
  mlp_norm = block("ln_2.weight", "ffn_norm.weight"),
  mlp_norm_bias = block("ln_2.bias", "ffn_norm.bias"),
  up = block("mlp.c_fc.weight", "ffn_up.weight", { transposed = true }),
  up_bias = block("mlp.c_fc.bias", "ffn_up.bias"),
  down = block("mlp.c_proj.weight", "ffn_down.weight", { transposed = true }),
  down_bias = block("mlp.c_proj.bias", "ffn_down.bias"),
}

-- The common names of configuration keys -> its own. (Its norm is no RMSNorm; the key stands for the norms' epsilon everywhere.)
family.renamed = { hidden_size = "n_embd", num_hidden_layers = "n_layer", num_attention_heads = "n_head", intermediate_size = "n_inner",
  max_position_embeddings = "n_positions", rms_norm_eps = "layer_norm_epsilon", hidden_act = "activation_function" }

-- The file on the hub has no prefix, and masks among the weights: nil where a name is none of a weight.
function family.hf_name(name)
  if name:find "%.attn%.bias$" or name:find "%.attn%.masked_bias$" then return nil end
  if name:find "^transformer%." or name:find "^lm_head%." then return name end
  return "transformer." .. name
end

function family.complete(config) config.intermediate_size = config.intermediate_size or config.hidden_size and 4 * config.hidden_size end

function family.spec(config, need)
  local hidden, heads = need "hidden_size", need "num_attention_heads"
  local spec = {
    hidden = hidden,
    vocab = need "vocab_size",
    ffn = need "intermediate_size",
    positions = need "max_position_embeddings",
    norm = "layer",
    norm_eps = need "rms_norm_eps",
    activation = config.hidden_act,
    layer = {},
  }
  for i = 1, need "num_hidden_layers" do
    local scale = config.scale_attn_weights == false and 1 or (hidden // heads) ^ -0.5
    if config.scale_attn_by_inverse_layer_idx then scale = scale / i end
    spec.layer[i] = { heads = heads, kv_heads = heads, head_dim = hidden // heads, attention_scale = scale }
  end
  return spec
end

family.gguf_keys = {
  hidden_size = "embedding_length",
  intermediate_size = "feed_forward_length",
  num_hidden_layers = "block_count",
  num_attention_heads = "attention.head_count",
  max_position_embeddings = "context_length",
  rms_norm_eps = "attention.layer_norm_epsilon",
}

return family

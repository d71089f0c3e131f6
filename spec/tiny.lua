-- A model small enough for the suite: random weights, a byte-level tokenizer without merges, saved as a Hugging Face folder.
local kava = require "kava"
local tiny = {}

-- GPT-2's printable stand-ins for the 256 bytes.
local function byte_vocabulary()
  local vocabulary, extra = {}, 256
  for byte = 0, 255 do
    local printable = byte >= 33 and byte <= 126 or byte >= 161 and byte <= 172 or byte >= 174
    vocabulary[utf8.char(printable and byte or extra)] = byte
    if not printable then extra = extra + 1 end
  end
  return vocabulary
end

--- Makes the folder. options: layers, hidden, kv_heads, seed.
function tiny.model(folder, options)
  options = options or {}
  kava.seed(options.seed or 7)
  local hidden = options.hidden or 32
  local model = kava.model.create {
    model_type = "llama",
    vocab_size = 256,
    hidden_size = hidden,
    intermediate_size = 2 * hidden,
    num_hidden_layers = options.layers or 4,
    num_attention_heads = 4,
    num_key_value_heads = options.kv_heads or 2,
    max_position_embeddings = 256,
    rms_norm_eps = 1e-5,
    rope_theta = 10000.0,
    tie_word_embeddings = true,
    initializer_range = 0.2,
  }
  assert(model:save(folder))
  local tokenizer = {
    version = "1.0",
    added_tokens = kava.json.array {},
    pre_tokenizer = { type = "ByteLevel", add_prefix_space = false, trim_offsets = true, use_regex = true },
    decoder = { type = "ByteLevel", add_prefix_space = false, trim_offsets = true, use_regex = true },
    model = { type = "BPE", vocab = byte_vocabulary(), merges = kava.json.array {} },
  }
  assert(kava.fs.write(folder .. "/tokenizer.json", kava.json.encode(tokenizer)))
  return folder
end

return tiny

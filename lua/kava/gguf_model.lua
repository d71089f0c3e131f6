-- kava.gguf_model: a model as GGUF files hold it: a configuration from metadata and back, tensors by their names there, in the order
-- of rows that llama.cpp computes with. What a family's file says of it: gguf, gguf_keys, gguf_permuted, gguf_norm_shift.
local kava = require "kava"
local families = require "kava.families"
local rope = require "kava.rope"

local gguf_model = {}

--- Metadata -> the configuration, not yet complete. get(key) reads "<architecture>.<key>", list(name) a tensor's numbers, either nil
--- where there is none; fail(key) is called where a key is needed.
function gguf_model.config(family, get, list, fail)
  local config = { model_type = family.model_types[1] }
  for key, name in pairs(family.gguf_keys) do config[key] = get(name) end
  for _, key in ipairs { "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "rms_norm_eps" } do
    if type(config[key]) ~= "number" then fail(family.gguf_keys[key]) end
  end
  if family.from_gguf then family.from_gguf(config, get) end
  local long, short, divisors = list "rope_factors_long.weight", list "rope_factors_short.weight", list "rope_freqs.weight"
  if long and short then config.rope_scaling = { rope_type = "longrope", long_factor = long, short_factor = short } end
  if divisors then
    config.rope_parameters = rope.llama3_of_divisors(divisors, config)
      or error("rope_freqs.weight does not follow llama3's scaling, which is the only one known here", 0)
  end
  return config
end

-- These are floats there, however Lua has them.
local floats = { "epsilon$", "freq_base", "softcapping$", "scale$", "factor$", "beta_%a+$" }

local function typed(key, value)
  if type(value) ~= "number" then return value end
  for _, pattern in ipairs(floats) do
    if key:find(pattern) then return value + 0.0 end
  end
  return math.tointeger(value) or value
end

-- What a reader of the metadata would take the model for, where that is something else: "layer 1: window".
local function lost(m, metadata, tensors)
  local family = families.of_gguf(m.family.gguf)
  local ok, spec = pcall(function()
    local config = gguf_model.config(family, function(key) return metadata[family.gguf .. "." .. key] end,
      function(name) return tensors[name] end, error)
    config.vocab_size = m.spec.vocab
    return families.spec(family, families.complete(family, config))
  end)
  if not ok then return { spec } end
  local out = {}
  for i in ipairs(m.spec.layer) do
    local difference = families.difference(spec, i, m.spec, i)
    if difference then out[#out + 1] = ("layer %d: %s"):format(i, difference) end
  end
  return out
end

--- The metadata of a model's architecture (not of its tokenizer), as kava.gguf.save takes them; and a list of what GGUF, or llama.cpp
--- behind it, cannot be told of this model: empty for nearly all.
function gguf_model.metadata(m)
  local family, config, spec = m.family, m.config, m.spec
  local out = {}
  local function put(key, value) out[family.gguf .. "." .. key] = typed(key, value) end
  for key, name in pairs(family.gguf_keys) do put(name, config[key]) end
  put("vocab_size", spec.vocab)
  put("attention.head_count_kv", spec.layer[1].kv_heads)
  local turning = spec.rope[1] and spec.rope[1].parameters
  if turning then
    put("attention.key_length", spec.layer[1].head_dim)
    put("attention.value_length", spec.layer[1].head_dim)
    put("rope.dimension_count", turning.dims)
    put("rope.freq_base", turning.rope_theta)
    for key, value in pairs(rope.to_gguf(turning)) do put(key, value) end
  end
  if family.to_gguf then family.to_gguf(config, put) end
  out["general.architecture"] = family.gguf
  return out, lost(m, out, turning and rope.gguf_tensors(turning) or {})
end

local stored_there = { f32 = true, f16 = true, bf16 = true }

--- {GGUF name = tensor}. each(t, key) -> the tensor to be stored in place of a matrix; key: its canonical name.
function gguf_model.tensors(m, each)
  local family, out = m.family, {}
  families.each(family, m.spec, m.weights, function(from, key, _, name, entry, layer)
    local t = from[key]
    if not t then return end
    t = t:detach():to { device = "cpu" } -- where rows are turned
    if kava.quant.parts(t) then t = t:to { dtype = "f32" } end
    if families.is_turned(entry, t) then t = t:permute(2, 1):contiguous() end
    if family.gguf_permuted and entry.rotary then t = kava.rope_rows(t, layer[entry.rotary], true) end
    if family.gguf_norm_shift and key:find "norm$" then t = t + family.gguf_norm_shift end
    if #t.shape < 2 then t = t:to { dtype = "f32" }
    elseif not stored_there[t.dtype] and not t.dtype:find "^i?q%d" then t = t:to { dtype = "f32" } end
    out[name] = #t.shape == 2 and each and each(t, key) or t
  end)
  for name, list in pairs(m.spec.rope[1] and rope.gguf_tensors(m.spec.rope[1].parameters) or {}) do
    out[name] = kava.tensor(list, { dtype = "f32" })
  end
  return out
end

return gguf_model

-- kava.rope: rotary position embeddings of a model's configuration: which frequencies, how they are stretched.
-- Su et al. 2021 (default); linear and dynamic scaling; YaRN, Peng et al. 2023; LongRoPE, Ding et al. 2024; Llama 3.1's bands:
-- as transformers' modeling_rope_utils computes them.
local rope = {}

local function number(given, key, fallback)
  local value = given[key]
  if value == nil then value = fallback end
  if type(value) ~= "number" then
    error(("config: rope type %s needs the number %s, got %s"):format(given.rope_type, key, tostring(value)), 0)
  end
  return value
end

local function numbers(given, key, count)
  local list = given[key]
  if type(list) ~= "table" or #list ~= count then
    error(("config: rope type %s needs %s, a list of %d numbers, got %s"):format(given.rope_type, key, count,
      type(list) == "table" and #list or tostring(list)), 0)
  end
  return list
end

-- kinds[name](given, length): inverse frequencies of a sequence of `length` tokens (nil: one that nothing depends on), and the factor
-- on cos and sin. given: what rope.parameters made.
local kinds = {}
-- length_kinds[name](given): the length beyond which the frequencies depend on it
local length_kinds = {}

local function plain(given, theta)
  local freq, dims = {}, given.dims
  theta = theta or given.rope_theta
  for i = 1, dims // 2 do freq[i] = theta ^ (-(2 * (i - 1)) / dims) end
  return freq
end

function kinds.default(given) return plain(given), 1.0 end

function kinds.linear(given)
  local freq, factor = plain(given), number(given, "factor")
  for i = 1, #freq do freq[i] = freq[i] / factor end
  return freq, 1.0
end

-- A larger base, once the sequence is longer than the model was trained for.
function length_kinds.dynamic(given) return number(given, "max_position_embeddings") end
function kinds.dynamic(given, length)
  local factor, most, dims = number(given, "factor"), number(given, "max_position_embeddings"), given.dims
  length = math.max(length or most, most)
  return plain(given, given.rope_theta * (factor * length / most - (factor - 1)) ^ (dims / (dims - 2))), 1.0
end

-- Frequencies that turn often within the original length are kept, those that never turn once are divided, a ramp lies between.
function kinds.yarn(given)
  local original = number(given, "original_max_position_embeddings", given.max_position_embeddings)
  local factor = number(given, "factor", given.max_position_embeddings and given.max_position_embeddings / original)
  local dims, theta = given.dims, given.rope_theta
  local function stretch(mscale) return factor <= 1 and 1.0 or 0.1 * mscale * math.log(factor) + 1 end
  local scale = given.attention_factor
  if not scale then
    local up, down = given.mscale or 0, given.mscale_all_dim or 0
    scale = up ~= 0 and down ~= 0 and stretch(up) / stretch(down) or stretch(1)
  end
  local function dimension(turns) return dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta)) end
  local low, high = dimension(given.beta_fast or 32), dimension(given.beta_slow or 1)
  if given.truncate ~= false then low, high = math.floor(low), math.ceil(high) end
  low, high = math.max(low, 0), math.min(high, dims - 1)
  if low == high then high = high + 0.001 end
  local freq = plain(given)
  for i = 1, #freq do
    local ramp = math.min(math.max((i - 1 - low) / (high - low), 0), 1)
    freq[i] = freq[i] / factor * ramp + freq[i] * (1 - ramp)
  end
  return freq, scale
end

-- A divisor for each frequency: one list within the original length, another beyond it.
function length_kinds.longrope(given) return number(given, "original_max_position_embeddings", given.max_position_embeddings) end
function kinds.longrope(given, length)
  local original = length_kinds.longrope(given)
  local factor = number(given, "factor", number(given, "max_position_embeddings") / original)
  local scale = given.attention_factor or factor <= 1 and 1.0 or math.sqrt(1 + math.log(factor) / math.log(original))
  local freq = plain(given)
  local divisors = numbers(given, length and length > original and "long_factor" or "short_factor", #freq)
  for i = 1, #freq do freq[i] = freq[i] / divisors[i] end
  return freq, scale
end

-- Llama 3.1: low frequencies are divided by `factor`, high ones kept, those between blended smoothly.
function kinds.llama3(given)
  local factor = number(given, "factor")
  local low, high = number(given, "low_freq_factor"), number(given, "high_freq_factor")
  local original = number(given, "original_max_position_embeddings", given.max_position_embeddings)
  local freq = plain(given)
  for i = 1, #freq do
    local wavelength = 2 * math.pi / freq[i]
    if wavelength > original / low then
      freq[i] = freq[i] / factor
    elseif wavelength >= original / high then
      local smooth = (original / wavelength - low) / (high - low)
      freq[i] = (1 - smooth) * freq[i] / factor + smooth * freq[i]
    end
  end
  return freq, 1.0
end

--- The parameters of one rotation of head_dim dimensions: v5 configurations hold rope_parameters (in some families one for each
--- type of layer: `layer_type`), v4 rope_theta and rope_scaling {rope_type | type}.
function rope.parameters(config, head_dim, layer_type)
  local given = config.rope_parameters or config.rope_scaling or {}
  if type(given) ~= "table" then error(("config: rope_parameters must be a table, got %s"):format(tostring(given)), 0) end
  if layer_type and type(given[layer_type]) == "table" then given = given[layer_type] end
  local out = { max_position_embeddings = config.max_position_embeddings,
    original_max_position_embeddings = config.original_max_position_embeddings }
  for key, value in pairs(given) do
    if type(out[key]) == "nil" then out[key] = value end
  end
  out.rope_type = given.rope_type or given.type or "default"
  out.type = nil
  out.rope_theta = given.rope_theta or config.rope_theta or 10000.0
  local part = given.partial_rotary_factor or config.partial_rotary_factor or 1
  for key, value in pairs { rope_theta = out.rope_theta, partial_rotary_factor = part } do
    if type(value) ~= "number" or not (value > 0) then
      error(("config: %s must be a number above 0, got %s"):format(key, tostring(value)), 0)
    end
  end
  out.dims = math.tointeger(part * head_dim // 1)
  if not out.dims or out.dims % 2 ~= 0 or out.dims > head_dim then
    error(("config: %s of %d dimensions of a head are to be rotated: an even number of them expected"):format(
      tostring(out.dims), head_dim), 0)
  end
  if not kinds[out.rope_type] then
    local known = {}
    for name in pairs(kinds) do known[#known + 1] = name end
    table.sort(known)
    error(("config: unknown rope type '%s'; known: %s"):format(tostring(out.rope_type), table.concat(known, ", ")), 0)
  end
  return out
end

--- List of parameters.dims/2 inverse frequencies, and the factor on cos and sin, for a sequence of `length` tokens.
function rope.frequencies(parameters, length) return kinds[parameters.rope_type](parameters, length) end

--- The length beyond which rope.frequencies depends on it; nil: never.
function rope.length_limit(parameters)
  local kind = length_kinds[parameters.rope_type]
  return kind and kind(parameters)
end

-- GGUF keeps llama3's scaling only as divisors of the frequencies. Llama 3.x differ in nothing but the factor, which is the
-- largest divisor: gives the parameters when they explain every divisor, else nil.
function rope.llama3_of_divisors(divisors, config)
  local given = { rope_type = "llama3", rope_theta = config.rope_theta, low_freq_factor = 1.0, high_freq_factor = 4.0,
    original_max_position_embeddings = 8192, factor = math.max(table.unpack(divisors)) }
  local dims = 2 * #divisors
  local unscaled = rope.frequencies(rope.parameters({ rope_theta = config.rope_theta }, dims))
  local scaled = rope.frequencies(rope.parameters({ rope_parameters = given }, dims))
  for i, divisor in ipairs(divisors) do
    if math.abs(unscaled[i] / scaled[i] - divisor) > 1e-3 * divisor then return nil end
  end
  return given
end

-- llama.cpp multiplies attn_factor with yarn's own factor on cos and sin, which transformers' attention_factor stands instead of.
local function own_factor(factor) return factor > 1 and 0.1 * math.log(factor) + 1 or 1.0 end
local gguf_keys = { factor = "rope.scaling.factor", original_max_position_embeddings = "rope.scaling.original_context_length",
  beta_fast = "rope.scaling.yarn_beta_fast", beta_slow = "rope.scaling.yarn_beta_slow" }

--- What GGUF metadata say of scaling, as rope_scaling; nil: nothing is scaled. get: see a family's from_gguf.
function rope.from_gguf(get)
  local kind = get "rope.scaling.type"
  if not kind or kind == "none" or kind == "longrope" then return nil end
  if kind ~= "linear" and kind ~= "yarn" then -- longrope has its divisors in tensors: kava.store
    error(("metadata rope.scaling.type: unknown '%s'; known: linear, longrope, none, yarn"):format(tostring(kind)), 0)
  end
  local out = { rope_type = kind }
  for key, name in pairs(gguf_keys) do out[key] = get(name) end
  local more = get "rope.scaling.attn_factor"
  if kind == "yarn" and more and more ~= 1 then out.attention_factor = more * own_factor(number(out, "factor")) end
  return out
end

--- The same the other way: what of a rotation's scaling stands in metadata.
function rope.to_gguf(parameters)
  local kind, out = parameters.rope_type, {}
  if kind == "dynamic" then error("GGUF has no name for the rope type dynamic", 0) end
  if kind == "linear" or kind == "yarn" then
    out["rope.scaling.type"] = kind
    for key, name in pairs(gguf_keys) do out[name] = parameters[key] end
    local _, scale = rope.frequencies(parameters)
    local more = scale / own_factor(parameters.factor)
    if kind == "yarn" and math.abs(more - 1) > 1e-9 then out["rope.scaling.attn_factor"] = more end
  elseif kind == "longrope" then
    out["rope.scaling.attn_factor"] = select(2, rope.frequencies(parameters))
  end
  return out
end

--- And what stands in tensors: {name = list}.
function rope.gguf_tensors(parameters)
  if parameters.rope_type == "longrope" then
    return { ["rope_factors_long.weight"] = parameters.long_factor, ["rope_factors_short.weight"] = parameters.short_factor }
  elseif parameters.rope_type == "llama3" then
    local divisors, unscaled = {}, plain(parameters)
    for i, freq in ipairs((rope.frequencies(parameters))) do divisors[i] = unscaled[i] / freq end
    return { ["rope_freqs.weight"] = divisors }
  end
  return {}
end

-- What transformers 4 calls rope_scaling: nil where nothing is scaled.
local function version4(given)
  local kind = given.rope_type or given.type or "default"
  if kind == "default" then return nil end
  if kind == "longrope" then return { type = kind, short_factor = given.short_factor, long_factor = given.long_factor } end
  local out = {}
  for key, value in pairs(given) do out[key] = value end
  out.rope_type, out.type, out.rope_theta, out.partial_rotary_factor = kind, nil, nil, nil
  return out
end

-- What transformers 5 calls rope_parameters.
local function version5(given, theta)
  local out = { rope_theta = theta, rope_type = "default" }
  for key, value in pairs(given) do out[key == "type" and "rope_type" or key] = value end
  return out
end

--- Puts both spellings into a configuration that is to be saved.
function rope.spell(config)
  local given = config.rope_parameters or config.rope_scaling or {}
  if type(given.full_attention) == "table" then
    local whole, near = given.full_attention, given.sliding_attention or {}
    config.rope_theta, config.rope_local_base_freq = whole.rope_theta or config.rope_theta, near.rope_theta or config.rope_local_base_freq
    config.rope_scaling = version4(whole)
    config.rope_parameters = { full_attention = version5(whole, config.rope_theta),
      sliding_attention = version5(near, config.rope_local_base_freq) }
    return
  end
  config.rope_theta = given.rope_theta or config.rope_theta or 10000.0
  config.partial_rotary_factor = given.partial_rotary_factor or config.partial_rotary_factor
  config.rope_scaling, config.rope_parameters = version4(given), version5(given, config.rope_theta)
end

return rope

-- kava.rope: inverse frequencies of rotary position embeddings from a model's configuration.
-- Formulas: Su et al. 2021 (default); transformers' modeling_rope_utils for the scaled kinds.
local rope = {}

-- v5 configurations hold rope_parameters, v4 rope_theta and rope_scaling {rope_type | type}.
local function parameters(config)
  local given = config.rope_parameters or config.rope_scaling or {}
  local theta = given.rope_theta or config.rope_theta or 10000.0
  return given.rope_type or given.type or "default", theta, given
end

local function number(given, key, kind)
  local value = given[key]
  if type(value) ~= "number" then
    error(("config: rope type %s needs the number %s, got %s"):format(kind, key, tostring(value)), 0)
  end
  return value
end

local kinds = {}

function kinds.default(freq) return freq, 1.0 end

function kinds.linear(freq, given)
  local factor = number(given, "factor", "linear")
  for i = 1, #freq do freq[i] = freq[i] / factor end
  return freq, 1.0
end

-- Llama 3.1: low frequencies are divided by `factor`, high ones kept, those between blended smoothly.
function kinds.llama3(freq, given, config)
  local factor = number(given, "factor", "llama3")
  local low, high = number(given, "low_freq_factor", "llama3"), number(given, "high_freq_factor", "llama3")
  local original = given.original_max_position_embeddings or config.original_max_position_embeddings
  if type(original) ~= "number" then error("config: rope type llama3 needs original_max_position_embeddings", 0) end
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

-- Returns a list of `dims/2` inverse frequencies and the factor on cos and sin.
function rope.inverse_frequencies(config, dims)
  local kind, theta, given = parameters(config)
  local scale = kinds[kind]
  if not scale then
    local known = {}
    for name in pairs(kinds) do known[#known + 1] = name end
    table.sort(known)
    error(("config: unknown rope type '%s'; known: %s"):format(tostring(kind), table.concat(known, ", ")), 0)
  end
  local freq = {}
  for i = 1, dims // 2 do freq[i] = theta ^ (-(2 * (i - 1)) / dims) end
  return scale(freq, given, config)
end

-- GGUF keeps llama3's scaling only as divisors of the frequencies. Llama 3.x differ in nothing but the factor, which is the
-- largest divisor: gives the parameters when they explain every divisor, else nil.
function rope.llama3_of_divisors(divisors, config)
  local given = { rope_type = "llama3", rope_theta = config.rope_theta, low_freq_factor = 1.0, high_freq_factor = 4.0,
    original_max_position_embeddings = 8192, factor = math.max(table.unpack(divisors)) }
  local plain = rope.inverse_frequencies({ rope_theta = config.rope_theta }, 2 * #divisors)
  local scaled = rope.inverse_frequencies({ rope_parameters = given }, 2 * #divisors)
  for i, divisor in ipairs(divisors) do
    if math.abs(plain[i] / scaled[i] - divisor) > 1e-3 * divisor then return nil end
  end
  return given
end

return rope

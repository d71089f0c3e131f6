-- kava.families: the model families, one file each under lua/kava/family: how a configuration becomes the decoder's spec, and which
-- tensors there are under which names. CONTRIBUTING.md says how one is written.
local kava = require "kava"
local find = require "kava.find"
local rope = require "kava.rope"

local families = {}

--- Keys of configurations that hold one thing for each layer.
families.lists_of_layers = { "layer_types", "no_rope_layers" }

local known -- model_type -> family, read once

local function all()
  if known then return known end
  local found = {}
  for _, file in ipairs(kava.fs.list(find.home() .. "/lua/kava/family")) do
    local name = file:match "^([%w_]+)%.lua$"
    if name then
      local family = require("kava.family." .. name)
      for _, kind in ipairs(family.model_types) do found[kind] = family end
    end
  end
  known = found
  return known
end

local function names(by_gguf)
  local list, seen = {}, {}
  for kind, family in pairs(all()) do
    local name = by_gguf and family.gguf or kind
    if name and not seen[name] then
      seen[name] = true
      list[#list + 1] = name
    end
  end
  table.sort(list)
  return table.concat(list, ", ")
end

function families.of(model_type)
  local family = all()[model_type]
  if family then return family end
  error(("unknown model_type '%s'; known: %s"):format(tostring(model_type), names()), 0)
end

-- Several families may share an architecture in GGUF (mistral is llama there): the one of that name reads it.
function families.of_gguf(architecture)
  local family = all()[architecture]
  if family and family.gguf == architecture then return family end
  for _, other in pairs(all()) do
    if other.gguf == architecture then return other end
  end
  error(("unknown GGUF architecture '%s'; known: %s"):format(tostring(architecture), names(true)), 0)
end

--- A family that is `parent` but for `changes`; in its tables (model, layer, defaults) entry by entry, `false` takes one away.
function families.like(parent, changes)
  local family = {}
  for key, value in pairs(parent) do family[key] = value end
  for key, value in pairs(changes) do
    if type(value) == "table" and key ~= "model_types" then
      local merged = {}
      for name, entry in pairs(parent[key] or {}) do merged[name] = entry end
      for name, entry in pairs(value) do merged[name] = entry or nil end
      family[key] = merged
    else
      family[key] = value
    end
  end
  return family
end

--- nulls of JSON are absences
local function without_nulls(value)
  if type(value) ~= "table" then return value end
  local out = {}
  for key, item in pairs(value) do
    if item ~= kava.json.null then out[key] = without_nulls(item) end
  end
  return out
end

local counts = { "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
  "num_hidden_layers", "max_position_embeddings" }
local layers_most = 10000

-- Before anything is computed from it: a configuration's counts are counts, and its lists have an entry for each layer.
local function check(family, config)
  for _, key in ipairs(counts) do
    local value = config[key]
    local most = key == "num_hidden_layers" and layers_most or 2 ^ 31
    if math.type(value) and not (math.tointeger(value) and value > 0 and value < most) then
      error(("config: %s must be a whole number from 1, got %s"):format(family.renamed and family.renamed[key] or key, tostring(value)), 0)
    end
    config[key] = math.tointeger(value) or value
  end
  for _, key in ipairs(families.lists_of_layers) do
    local list = config[key]
    if list ~= nil and (type(list) ~= "table" or #list < (config.num_hidden_layers or 0)) then
      error(("config: %s must be a list with an entry for each of %s layers"):format(key, tostring(config.num_hidden_layers)), 0)
    end
  end
end

families.without_nulls = without_nulls

--- A configuration as a file has it -> a copy with what transformers takes for granted where a key is absent. (A null is not an
--- absence: it says that there is none.)
function families.complete(family, config)
  local out = {}
  for key, value in pairs(config) do out[key] = value end
  for key, own in pairs(family.renamed or {}) do
    if out[own] ~= nil then out[key], out[own] = out[own], nil end
  end
  for key, value in pairs(family.defaults or {}) do
    if out[key] == nil then out[key] = value end
  end
  out = without_nulls(out)
  out.tie_word_embeddings = out.tie_word_embeddings == true
  check(family, out)
  if family.complete then family.complete(out) end
  return out
end

--- A complete configuration in the family's own words, for a file: what it takes for granted but does not have is null.
function families.spelled(family, config)
  local out = {}
  for key, value in pairs(config) do out[key] = value end
  for key in pairs(family.defaults or {}) do
    if out[key] == nil then out[key] = kava.json.null end
  end
  for key, own in pairs(family.renamed or {}) do out[own], out[key] = out[key], nil end
  return out
end

local activations = { silu = "silu", swish = "silu", gelu = "gelu", gelu_new = "gelu_tanh", gelu_pytorch_tanh = "gelu_tanh",
  gelu_fast = "gelu_tanh", relu = "relu" }

local function activation(name)
  if activations[name] then return activations[name] end
  local list = {}
  for key in pairs(activations) do list[#list + 1] = key end
  table.sort(list)
  error(("config: unknown activation '%s'; known: %s"):format(tostring(name), table.concat(list, ", ")), 0)
end

-- Layers that rotate alike share a table of parameters: spec.rope lists what they come to, layer.rope becomes the index.
local function rotations(spec)
  local index, list, limit = {}, {}, math.huge
  for _, layer in ipairs(spec.layer) do
    local given = layer.rope
    if given and not index[given] then
      local freq, scale = rope.frequencies(given)
      list[#list + 1] = { inv_freq = kava.tensor(freq, { dtype = "f32" }), scale = scale, parameters = given }
      index[given] = #list
      limit = math.min(limit, rope.length_limit(given) or math.huge)
    end
    layer.rope = given and index[given]
  end
  spec.rope = list
  if limit < math.huge then spec.rope_limit = limit end -- rotations of longer sequences: families.rope_at
end

--- The rotations of a sequence of `length` tokens, where they depend on it.
function families.rope_at(spec, length)
  local list = {}
  for i, own in ipairs(spec.rope) do
    local freq, scale = rope.frequencies(own.parameters, length)
    list[i] = { inv_freq = kava.tensor(freq, { dtype = "f32" }), scale = scale }
  end
  return list
end

--- The decoder's spec from a complete configuration; errors name the key.
function families.spec(family, config)
  local function need(key)
    local value = config[key]
    if math.type(value) == nil then
      key = family.renamed and family.renamed[key] or key
      error(("config: %s must be a number, got %s"):format(key, value == nil and "nothing" or tostring(value)), 0)
    end
    return math.tointeger(value) or value
  end
  local spec = family.spec(config, need)
  spec.activation = activation(spec.activation)
  spec.tied = config.tie_word_embeddings
  spec.pad_id = family.trains_padding and -1 or config.pad_token_id
  rotations(spec)
  return spec
end

-- Shapes of canonical weights: matrices [out, in].
local function shape_of(family, spec, key, layer)
  local hidden, ffn = spec.hidden, spec.ffn
  if not layer then
    local own = { embed = { spec.vocab, hidden }, head = { spec.vocab, hidden }, positions = { spec.positions, hidden } }
    return own[key] or { hidden }
  end
  local q, kv, dim = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim, layer.head_dim
  local shapes = {
    q = { q, hidden }, k = { kv, hidden }, v = { kv, hidden }, o = { hidden, q },
    gate = { ffn, hidden }, up = { ffn, hidden }, down = { hidden, ffn },
    q_bias = { q }, k_bias = { kv }, v_bias = { kv }, gate_bias = { ffn }, up_bias = { ffn },
    q_norm = { family.norm_of_all_heads and q or dim }, k_norm = { family.norm_of_all_heads and kv or dim },
  }
  return shapes[key] or { hidden }
end

--- The shape of an entry's tensor as a Hugging Face file has it.
function families.shape(family, spec, key, entry, layer)
  local shape
  for _, name in ipairs(entry.parts or { key }) do
    local own = shape_of(family, spec, name, layer)
    if shape then shape[1] = shape[1] + own[1] else shape = own end
  end
  if entry.transposed and #shape == 2 then shape = { shape[2], shape[1] } end
  return shape
end

--- Calls visit(into, key, HF name, GGUF name, entry, layer spec) for every weight of a model of this family; `into` is the table in
--- `weights` that has it.
function families.each(family, spec, weights, visit)
  for key, entry in pairs(family.model) do visit(weights, key, entry[1], entry[2], entry) end
  weights.layer = weights.layer or {}
  for i, layer in ipairs(spec.layer) do
    weights.layer[i] = weights.layer[i] or {}
    for key, entry in pairs(family.layer) do
      visit(weights.layer[i], key, entry[1]:format(i - 1), entry[2] and entry[2]:format(i - 1), entry, layer)
    end
  end
end

--- The first thing in which layer i of spec a differs from layer j of spec b; nil: none.
function families.difference(a, i, b, j)
  local one, other = a.layer[i], b.layer[j]
  for _, key in ipairs { "heads", "kv_heads", "head_dim", "window", "attention_scale", "softcap" } do
    if one[key] ~= other[key] then return key end
  end
  one, other = a.rope[one.rope], b.rope[other.rope]
  if (one == nil) ~= (other == nil) then return "rotation" end
  local alike = not one or one.scale == other.scale and kava.allclose(one.inv_freq, other.inv_freq, { rtol = 0, atol = 0 })
  return not alike and "rotation" or nil
end

--- Quantised tensors cannot be turned: one of a transposed entry (they come from GGUF) stays [out, in] as it is stored.
function families.is_turned(entry, t)
  return entry.transposed and #t.shape == 2 and (t.dtype:find "^[bf]*f%d+$" ~= nil)
end

--- A weight in the shape that Hugging Face has it in: one that cannot be turned is dequantised for it, others are themselves.
function families.stored(entry, t)
  if not entry.transposed or #t.shape < 2 or families.is_turned(entry, t) then return t end
  return t:to({ dtype = "f32" }):permute(2, 1):contiguous()
end

--- The same weights as the decoder takes them: by canonical names, fused ones as rows of what is stored.
function families.decoder_weights(family, spec, weights)
  local out = { layer = {} }
  local places = { [weights] = out }
  for i, own in ipairs(weights.layer) do
    out.layer[i] = {}
    places[own] = out.layer[i]
  end
  families.each(family, spec, weights, function(from, key, _, _, entry, layer)
    local t, into, first = from[key], places[from], 1
    if not t then return end
    local turned = families.is_turned(entry, t)
    for _, name in ipairs(entry.parts or { key }) do
      local rows = entry.parts and shape_of(family, spec, name, layer)[1]
      into[name] = (rows or turned) and { t, first = first, rows = rows, transposed = turned or nil } or t
      first = first + (rows or 0)
    end
  end)
  return out
end

return families
